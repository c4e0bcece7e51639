//! The account of host descriptors: which of them a call has in its hands, and those of the killed closed.
//!
//! A guest's processes share one host descriptor table. A call that the host kills with its process (SIGKILL) leaves
//! open what it had opened and not yet given to anybody, or was about to close: a directory on a path's way, a file
//! that was being executed, a memory file. Nobody else has their numbers. So each descriptor of a file has a word here:
//! the call that made it, until it is kept ([`platform::hands`]). Calls are told apart by their thread's serial number
//! and how many calls it has made, so that the end of a call need not look at any word.
//!
//! **Who closes twice?** The sweep comes after the process's tables were released: what they owned is accounted for as
//! closed then. What a call gives to something that outlives its process is kept first ([`fs::HostFd::keep`]): bytes of
//! a tmpfs file, shared memory, the lock descriptor of a description.
//!
//! Left out: a descriptor whose opener is killed inside the host call, or before it can note the number: it stays open. To
//! close what nobody accounts for is no way as long as closing is not accounted for, too: a number between the two steps
//! of a living process's close looks the same, and may be another's a moment later. And numbers beyond [`CHUNKS`] times
//! [`CHUNK`].

use crate::context::Ctx;
use crate::process::root;
use crate::task::Task;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use platform::hands::Account;
use platform::host;

/// What one thread's calls have in their hands.
pub struct Hand {
    /// Which thread: no two of a guest's life have the same.
    serial: u32,
    /// Calls that it has made.
    calls: AtomicU32,
}

impl Hand {
    /// Of a new thread.
    pub(crate) fn new() -> Hand {
        Hand { serial: root().hands.serials.fetch_add(1, Ordering::Relaxed), calls: AtomicU32::new(0) }
    }

    /// A call has ended: what it made and did not close is somebody's.
    #[inline]
    pub(crate) fn empty(&self) {
        // Nobody else writes it.
        self.calls.store(self.calls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn word(&self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.calls.load(Ordering::Relaxed))
    }
}

/// Not accounted for: closed, or just opened, or none of ours.
const UNKNOWN: u64 = 0;
/// Somebody's who will close it. No thread has this serial number.
const KEPT: u64 = u64::MAX;

const CHUNK: usize = 1024;
const CHUNKS: usize = 64;

type Chunk = [AtomicU64; CHUNK];

/// The account of a guest's host descriptors.
pub(crate) struct Accounts {
    chunks: [AtomicPtr<Chunk>; CHUNKS],
    serials: AtomicU32,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts {
            chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS],
            // 0 would make the first word UNKNOWN.
            serials: AtomicU32::new(1),
        }
    }
}

/// The account that host calls tell.
static ACCOUNT: Account = Account {
    takes: |fd| root().hands.set(fd, Ctx::try_current().map_or(KEPT, |ctx| ctx.task.hand.word())),
    keeps: |fd| root().hands.set(fd, KEPT),
    closes: |fd| root().hands.set(fd, UNKNOWN),
};

/// Begins the account. Once, in the first process.
pub(crate) fn start() {
    platform::hands::set_account(&ACCOUNT);
}

/// Closes what these threads had in their hands. Their host process is gone, and the tables of their process are
/// released.
pub(crate) fn sweep(dead: &[Arc<Task>]) {
    dead.iter().for_each(|task| root().hands.close_all_of(task.hand.word()));
}

impl Accounts {
    fn word(&self, fd: i32) -> Option<&AtomicU64> {
        let fd = usize::try_from(fd).ok()?;
        let place = self.chunks.get(fd / CHUNK)?;
        let mut chunk = place.load(Ordering::Acquire);
        if chunk.is_null() {
            let fresh = Box::into_raw(Box::new([const { AtomicU64::new(UNKNOWN) }; CHUNK]));
            chunk = match place.compare_exchange(chunk, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => fresh,
                Err(theirs) => {
                    // SAFETY: made above; another thread was first, so nobody has seen it.
                    drop(unsafe { Box::from_raw(fresh) });
                    theirs
                }
            };
        }
        // SAFETY: published once, complete, and never freed.
        Some(unsafe { &(*chunk)[fd % CHUNK] })
    }

    fn set(&self, fd: i32, word: u64) {
        if let Some(place) = self.word(fd) {
            // Who has the number from us by way of the host, or through memory, sees this too: both synchronize.
            place.store(word, Ordering::Release);
        }
    }

    fn close_all_of(&self, word: u64) {
        for (at, chunk) in self.chunks.iter().enumerate() {
            // SAFETY: as in `word`.
            let Some(chunk) = (unsafe { chunk.load(Ordering::Acquire).as_ref() }) else { continue };
            for (offset, place) in chunk.iter().enumerate() {
                // One who sweeps for the same dead takes it.
                if place.compare_exchange(word, UNKNOWN, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    // SAFETY: the dead call's alone.
                    let _ = unsafe { host!(close, at * CHUNK + offset) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::os::fd::IntoRawFd;

    const F_GETFD: i32 = 1;
    const F_DUPFD_CLOEXEC: i32 = 1030;

    /// A descriptor of a file, with a number that no other test gets by chance.
    fn file(at_least: i32) -> i32 {
        let file = std::fs::File::open("/proc/self/exe").unwrap().into_raw_fd();
        // SAFETY: plain numbers, and a descriptor of ours.
        unsafe {
            let high = host!(fcntl, file, F_DUPFD_CLOEXEC, at_least).unwrap();
            host!(close, file).unwrap();
            high as i32
        }
    }

    fn is_open(fd: i32) -> bool {
        // SAFETY: plain numbers.
        unsafe { host!(fcntl, fd, F_GETFD) }.is_ok()
    }

    #[test]
    fn what_a_dead_call_had_is_closed_and_nothing_else() {
        let hand = &testing::ctx().task.hand;
        let accounts = Accounts::default();
        let [earlier, now, kept, closed] = [700, 710, 720, 730].map(file);
        accounts.set(earlier, hand.word());
        hand.empty();
        accounts.set(now, hand.word());
        accounts.set(kept, hand.word());
        accounts.set(kept, KEPT);
        accounts.set(closed, hand.word());
        accounts.set(closed, UNKNOWN);
        accounts.close_all_of(hand.word());
        assert_eq!([earlier, now, kept, closed].map(is_open), [true, false, true, true]);
        // Who sweeps again closes nothing that has the number since.
        let again = file(now);
        assert_eq!(again, now);
        accounts.close_all_of(hand.word());
        assert!(is_open(again));
    }
}
