//! Guest threads on a test's host thread: parking, timers, descriptors, blocking work, bad pointers.

use platform::time::{MILLISECOND, now};
use sched::thread::{self, Wake};
use sched::{Hooks, testing, timer, user_copy};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

#[test]
fn runs_and_ends() {
    let mut ran = false;
    testing::run(Hooks::none(), || {
        assert!(!sched::in_kernel());
        ran = true;
    });
    assert!(ran);
}

#[test]
fn ping_pong() {
    testing::run(Hooks::none(), || {
        sched::enter();
        let main = thread::current().clone();
        let count = Rc::new(AtomicU32::new(0));
        let other = {
            let (main, count) = (main.clone(), count.clone());
            testing::spawn(move || {
                sched::enter();
                while count.load(Ordering::Relaxed) < 1000 {
                    thread::park(None);
                    count.fetch_add(1, Ordering::Relaxed);
                    main.unpark();
                }
                sched::leave();
            })
        };
        while count.load(Ordering::Relaxed) < 1000 {
            other.unpark();
            thread::park(None);
        }
        sched::leave();
    });
}

#[test]
fn permits_and_deadlines() {
    testing::run(Hooks::none(), || {
        sched::enter();
        thread::current().unpark();
        assert_eq!(thread::park(None), Wake::Unparked);
        let start = now();
        assert_eq!(thread::park(Some(start.after(5 * MILLISECOND))), Wake::TimedOut);
        assert!(now().since(start) >= 5 * MILLISECOND);
        thread::current().unpark();
        assert_eq!(thread::park(Some(now().after(1000 * MILLISECOND))), Wake::Unparked);
        // A deadline in the past ends the park at once.
        assert_eq!(thread::park(Some(now())), Wake::TimedOut);
        sched::leave();
    });
}

#[test]
fn yield_is_first_in_first_out() {
    testing::run(Hooks::none(), || {
        sched::enter();
        let order = Rc::new(RefCell::new(Vec::new()));
        for id in 0..3 {
            let order = order.clone();
            testing::spawn(move || {
                for round in 0..3 {
                    order.borrow_mut().push((round, id));
                    sched::enter();
                    thread::yield_now();
                    sched::leave();
                }
            });
        }
        while order.borrow().len() < 9 {
            thread::yield_now();
        }
        let expected: Vec<_> = (0..3).flat_map(|r| (0..3).map(move |id| (r, id))).collect();
        assert_eq!(*order.borrow(), expected);
        sched::leave();
    });
}

struct Count(AtomicU32);
impl timer::Expire for Count {
    fn expire(&self, _: sched::Instant) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn timers_fire_or_are_cancelled() {
    testing::run(Hooks::none(), || {
        sched::enter();
        let (fires, never) = (Arc::new(Count(0.into())), Arc::new(Count(0.into())));
        let first = timer::add(now().after(MILLISECOND), fires.clone());
        let second = timer::add(now().after(MILLISECOND), never.clone());
        assert!(timer::cancel(second));
        assert!(!timer::cancel(second));
        thread::park(Some(now().after(10 * MILLISECOND)));
        assert_eq!(fires.0.load(Ordering::Relaxed), 1);
        assert_eq!(never.0.load(Ordering::Relaxed), 0);
        assert!(!timer::cancel(first));
        sched::leave();
    });
}

struct Ready(Arc<sched::Thread>, AtomicU32);
impl sched::host_fd::HostReady for Ready {
    fn ready(&self, events: u32) {
        self.1.fetch_or(events, Ordering::Relaxed);
        self.0.unpark();
    }
}

#[test]
fn host_descriptors_wake() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let fd = reader.as_raw_fd();
    let sender = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        writer.write_all(b"x").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    });
    testing::run(Hooks::none(), || {
        sched::enter();
        let ready = Arc::new(Ready(thread::current().clone(), 0.into()));
        let events = sched::host_fd::IN | sched::host_fd::EDGE;
        let id = sched::host_fd::watch(fd, events, ready.clone()).unwrap();
        let start = now();
        while ready.1.load(Ordering::Relaxed) == 0 {
            assert_eq!(thread::park(Some(now().after(2000 * MILLISECOND))), Wake::Unparked);
        }
        assert!(now().since(start) >= 10 * MILLISECOND, "before anything was written");
        assert_eq!(ready.1.load(Ordering::Relaxed) & sched::host_fd::IN, sched::host_fd::IN);
        sched::host_fd::unwatch(id);
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let refused = sched::host_fd::watch(file.as_raw_fd(), events, ready.clone());
        assert_eq!(refused, Err(platform::Errno::EPERM));
        sched::leave();
    });
    sender.join().unwrap();
}

#[test]
fn bad_pointers_are_answers() {
    testing::run(Hooks::none(), || {
        let mut buffer = [7u8; 1000];
        // SAFETY: what is tried is that the bad side does not matter.
        unsafe {
            for len in [1, 8, 9, 255, 256, 1000] {
                assert_eq!(user_copy::copy(buffer.as_mut_ptr(), 16 as *const u8, len), len);
                assert_eq!(user_copy::copy(16 as *mut u8, buffer.as_ptr(), len), len);
                assert_eq!(user_copy::set(16 as *mut u8, 1, len), len);
            }
            // Non-canonical addresses give #GP instead of #PF.
            assert_eq!(user_copy::copy(buffer.as_mut_ptr(), (1usize << 63) as *const u8, 8), 8);
            assert_eq!(user_copy::strnlen(16 as *const u8, 10), None);
            assert_eq!(user_copy::strnlen(c"four".as_ptr().cast(), 10), Some(4));
            assert_eq!(user_copy::strnlen(c"four".as_ptr().cast(), 2), Some(2));
            assert_eq!(user_copy::load(16 as *const u32), None);
            let mut word = 5;
            assert_eq!(user_copy::load(&word), Some(5));
            assert_eq!(user_copy::compare_exchange(&mut word, 5, 6), Some(5));
            assert_eq!(user_copy::compare_exchange(&mut word, 5, 7), Some(6));
            assert_eq!(word, 6);
            assert_eq!(user_copy::compare_exchange(16 as *mut u32, 5, 7), None);
        }
    });
}

#[test]
fn copies_up_to_the_edge_of_memory() {
    let page = platform::layout::PAGE_SIZE;
    let prot = platform::mem::Prot::READ | platform::mem::Prot::WRITE;
    let two = platform::mem::map_private(0, 2 * page, prot).unwrap();
    // SAFETY: the second page is ours and unused.
    unsafe { platform::mem::unmap(two + page, page).unwrap() };
    testing::run(Hooks::none(), || {
        let mut to = vec![0u8; 600];
        for (have, want) in [(600, 600), (599, 600), (16, 24), (3, 24), (100, 300)] {
            let from = (two + page - have) as *const u8;
            // SAFETY: `to` is long enough; what is missing of `from` is what is tried.
            let left = unsafe { user_copy::copy(to.as_mut_ptr(), from, want) };
            // By words: up to seven bytes before the edge may stay behind.
            assert!(left >= want - have && left < want - have + 8, "{have} {want} {left}");
        }
    });
}

#[test]
fn blocking_work_lets_others_run() {
    testing::run(Hooks::none(), || {
        sched::enter();
        let beats = Rc::new(AtomicU32::new(0));
        let seen = beats.clone();
        testing::spawn(move || {
            for _ in 0..5 {
                sched::enter();
                thread::park(Some(now().after(2 * MILLISECOND)));
                sched::leave();
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        let answer = sched::blocking::run(|| {
            let time = platform::time::Timespec::from_ns(50 * MILLISECOND);
            // SAFETY: the timespec is ours. (No std here: a helper has no thread-local storage.)
            unsafe { platform::host!(nanosleep, &raw const time, 0) }.map_or(-1, |_| 42)
        });
        assert_eq!(answer, 42);
        assert_eq!(beats.load(Ordering::Relaxed), 5);
        sched::leave();
    });
}

static ATTENTION: AtomicU32 = AtomicU32::new(0);

#[test]
fn attention_comes_when_leaving() {
    let mut hooks = Hooks::none();
    hooks.attention = |frame| {
        assert!(frame.is_none() && sched::in_kernel());
        sched::in_program(|| assert!(!sched::in_kernel()));
        ATTENTION.fetch_add(1, Ordering::Relaxed);
    };
    testing::run(hooks, || {
        sched::enter();
        let main = thread::current().clone();
        main.request_attention();
        assert_eq!(ATTENTION.load(Ordering::Relaxed), 0);
        sched::leave();
        assert_eq!(ATTENTION.load(Ordering::Relaxed), 1);
        sched::enter();
        testing::spawn(move || sched::kernel(|| main.request_attention()));
        // It ends this park, as any unpark would (the first request left a permit: one idle turn).
        while !thread::current().attention_pending() {
            assert_eq!(thread::park(Some(now().after(1000 * MILLISECOND))), Wake::Unparked);
        }
        assert_eq!(ATTENTION.load(Ordering::Relaxed), 1);
        sched::leave();
        assert_eq!(ATTENTION.load(Ordering::Relaxed), 2);
        sched::enter();
        sched::leave();
        assert_eq!(ATTENTION.load(Ordering::Relaxed), 2);
    });
}
