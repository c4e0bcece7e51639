//! The park protocol of one thread, as a word that every vCPU may change.
//!
//! | where | meaning | who may take it further |
//! |---|---|---|
//! | RUNNING | on a vCPU, or still on its stack on the way out | the thread; then who finishes its switch |
//! | PARKED | off its stack, waits | whoever unparks or expires it: the CAS to READY is the right to enqueue |
//! | READY | in exactly one run queue, or on the way there | the vCPU that takes it out |
//!
//! PERMIT is std's park token. EXPIRED says that the deadline of the present park has passed; it
//! names the park by its sequence number, so that a timer which fires late wakes nobody else.
//!
//! The race that matters: an unpark while the thread is on its way out but still on its stack. It
//! finds RUNNING and only leaves the permit. The switch is completed by whoever runs next on that
//! vCPU ([`Word::finish_park`]), when the stack is free: a CAS that fails if a permit arrived, and
//! then the thread is made ready there and then. So no second vCPU can ever resume a stack in use,
//! and no permit is slept over. `tests/park_model.rs` runs this file under loom.

use super::atomics::{AtomicU64, Ordering};

const PLACE: u64 = 3;
const RUNNING: u64 = 0;
const PARKED: u64 = 1;
const READY: u64 = 2;
const PERMIT: u64 = 4;
const EXPIRED: u64 = 8;
/// The sequence number of parks with a deadline stands in the upper half.
const SEQUENCE: u32 = 32;

/// Why a park ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// A permit was there or came.
    Unparked,
    /// The deadline passed first.
    TimedOut,
}

/// The word.
pub(crate) struct Word(AtomicU64);

impl Word {
    /// A thread that is ready but in no queue yet.
    pub(crate) fn new() -> Word {
        Word(AtomicU64::new(READY))
    }

    /// A thread that is on its stack: a forked child.
    #[allow(dead_code)] // The model has no processes.
    pub(crate) fn running() -> Word {
        Word(AtomicU64::new(RUNNING))
    }

    /// The thread, before it parks: takes a permit that is there already.
    pub(crate) fn take_permit(&self) -> bool {
        if self.0.load(Ordering::Relaxed) & PERMIT == 0 {
            return false;
        }
        // Acquire: what was done before the unpark is seen after the park.
        self.0.fetch_and(!PERMIT, Ordering::Acquire) & PERMIT != 0
    }

    /// The thread, before a park with a deadline: names the park. The number is for [`Word::expire`].
    pub(crate) fn begin_timed(&self) -> u32 {
        // The carry out of bit 63 is lost, which is what wrapping means here.
        let before = self.0.fetch_add(1 << SEQUENCE, Ordering::Relaxed);
        ((before >> SEQUENCE) as u32).wrapping_add(1)
    }

    /// The thread, running again after a park: why it ended. Also makes the park's number stale.
    pub(crate) fn end(&self, timed: bool) -> Wake {
        if timed {
            self.0.fetch_add(1 << SEQUENCE, Ordering::Relaxed);
        }
        let before = self.0.fetch_and(!(PERMIT | EXPIRED), Ordering::Acquire);
        if before & PERMIT != 0 { Wake::Unparked } else { Wake::TimedOut }
    }

    /// Anyone: leaves a permit. `true`: the thread was parked and the caller must enqueue it.
    pub(crate) fn unpark(&self) -> bool {
        self.change(|word| {
            Some(match word & PLACE {
                PARKED => (word & !PLACE) | READY | PERMIT,
                _ => word | PERMIT,
            })
        })
        .is_some_and(|before| before & PLACE == PARKED)
    }

    /// The timer of the park `sequence`: as [`Word::unpark`], but without a permit and only if that
    /// park is still on.
    pub(crate) fn expire(&self, sequence: u32) -> bool {
        self.change(|word| {
            if (word >> SEQUENCE) as u32 != sequence {
                return None;
            }
            Some(match word & PLACE {
                PARKED => (word & !PLACE) | READY | EXPIRED,
                _ => word | EXPIRED,
            })
        })
        .is_some_and(|before| before & PLACE == PARKED)
    }

    /// Who runs after the thread left its stack to park. `true`: it must be enqueued at once.
    pub(crate) fn finish_park(&self) -> bool {
        let before = self.change(|word| {
            Some(match word & (PERMIT | EXPIRED) {
                0 => (word & !PLACE) | PARKED,
                _ => (word & !PLACE) | READY,
            })
        });
        before.is_some_and(|word| word & (PERMIT | EXPIRED) != 0)
    }

    /// Who runs after the thread left its stack to yield: it is ready, and to be enqueued.
    pub(crate) fn finish_yield(&self) {
        self.change(|word| Some((word & !PLACE) | READY));
    }

    /// The vCPU that took it out of a queue runs it.
    pub(crate) fn dispatch(&self) {
        // SeqCst: `Thread::request_attention` writes its flag and then looks here; the dispatcher
        // writes here and then looks at the flag. One of them sees the other.
        self.0.fetch_and(!PLACE, Ordering::SeqCst);
    }

    /// Whether the thread is on a vCPU (or just leaving it).
    pub(crate) fn is_running(&self) -> bool {
        self.0.load(Ordering::SeqCst) & PLACE == RUNNING
    }

    /// Applies `step` atomically; answers the word before, or `None` if `step` declined.
    fn change(&self, step: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let next = step(word)?;
            // AcqRel: release what the waker or the leaving thread did; acquire what the other side did.
            match self.0.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(word),
                Err(seen) => word = seen,
            }
        }
    }
}
