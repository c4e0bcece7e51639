//! The park protocol (`src/state.rs`) under loom: every interleaving of a parking thread, those who
//! unpark or expire it, and the vCPU that completes its switch.
//!
//! Loom has no stacks to switch, so the model keeps the two facts that matter: a token that says who
//! may touch the thread's stack, and the run queue as a counter that must never exceed one.

mod atomics {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[allow(dead_code, unreachable_pub)]
#[path = "../src/state.rs"]
mod state;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use state::Word;

struct Model {
    word: Word,
    /// The thread's stack is in use by the vCPU that ran it.
    on_stack: AtomicBool,
    /// In how many run queues the thread is.
    queued: AtomicUsize,
    /// The condition that the thread waits for.
    condition: AtomicBool,
}

impl Model {
    fn running() -> Arc<Model> {
        let word = Word::new();
        word.dispatch();
        Arc::new(Model {
            word,
            on_stack: AtomicBool::new(true),
            queued: AtomicUsize::new(0),
            condition: AtomicBool::new(false),
        })
    }

    fn enqueue(&self) {
        assert!(!self.on_stack.load(Ordering::Relaxed), "made ready while its stack was in use");
        assert_eq!(self.queued.fetch_add(1, Ordering::Relaxed), 0, "in two run queues");
    }

    fn unpark(&self) {
        if self.word.unpark() {
            self.enqueue();
        }
    }

    /// The thread parks: its vCPU leaves the stack and completes the switch.
    fn switch_out(&self) {
        self.on_stack.store(false, Ordering::Relaxed);
        if self.word.finish_park() {
            self.enqueue();
        }
    }

    /// The vCPU's loop: runs the thread if it is queued.
    fn resume(&self) -> bool {
        if self.queued.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.word.dispatch();
        assert!(!self.on_stack.swap(true, Ordering::Relaxed));
        true
    }
}

#[test]
fn an_unpark_is_never_lost() {
    loom::model(|| {
        let model = Model::running();
        let waker = {
            let model = model.clone();
            loom::thread::spawn(move || {
                model.condition.store(true, Ordering::Release);
                model.unpark();
            })
        };
        if !model.condition.load(Ordering::Acquire) && !model.word.take_permit() {
            model.switch_out();
            waker.join().unwrap();
            assert!(model.resume(), "slept over an unpark");
            model.word.end(false);
        } else {
            waker.join().unwrap();
        }
        assert!(model.condition.load(Ordering::Acquire));
    });
}

#[test]
fn two_wakers_enqueue_once() {
    loom::model(|| {
        let model = Model::running();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let model = model.clone();
                loom::thread::spawn(move || model.unpark())
            })
            .collect();
        model.switch_out();
        wakers.into_iter().for_each(|w| w.join().unwrap());
        assert!(model.resume());
        assert!(!model.resume());
        assert_eq!(model.word.end(false), state::Wake::Unparked);
    });
}

#[test]
fn a_timer_and_a_waker_enqueue_once() {
    loom::model(|| {
        let model = Model::running();
        let sequence = model.word.begin_timed();
        let timer = {
            let model = model.clone();
            loom::thread::spawn(move || {
                if model.word.expire(sequence) {
                    model.enqueue();
                }
            })
        };
        let waker = {
            let model = model.clone();
            loom::thread::spawn(move || model.unpark())
        };
        model.switch_out();
        timer.join().unwrap();
        waker.join().unwrap();
        assert!(model.resume());
        assert!(!model.resume());
        assert_eq!(model.word.end(true), state::Wake::Unparked);
    });
}

#[test]
fn a_late_timer_wakes_nobody() {
    loom::model(|| {
        let model = Model::running();
        let sequence = model.word.begin_timed();
        model.unpark();
        // The park ends by the permit; its timer is already on the way.
        model.switch_out();
        assert!(model.resume());
        let timer = {
            let model = model.clone();
            loom::thread::spawn(move || model.word.expire(sequence))
        };
        assert_eq!(model.word.end(true), state::Wake::Unparked);
        model.switch_out();
        let woken = timer.join().unwrap();
        // Either the timer came before `end` and changed nothing, or it was stale.
        assert!(!woken && !model.resume());
    });
}
