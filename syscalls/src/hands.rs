//! The account of host descriptors: which of them a call has in its hands, and those of the killed closed.
//!
//! A guest's processes share one host descriptor table. A call that the host kills with its process (SIGKILL) leaves
//! open what it had opened and not yet given to anybody, or was about to close: a directory on a path's way, a file
//! that was being executed, a memory file. Nobody else has their numbers. So each descriptor of a file has a word here:
//! the call that made it, until it is kept ([`platform::hands`]). Calls are told apart by their thread's serial number
//! and how many calls it has made, so that the end of a call need not look at any word.
//!
//! **Before there is a number.** The host installs a descriptor and then kills: its number stands nowhere. Hence a
//! thread says that it opens ([`Hand::opening`]) before it does. After each death whatever is open and not accounted for
//! is the dead one's, once no living thread is opening. New openers wait meanwhile
//! ([`Accounts::gate`]); the time is bounded on both sides, and who comes to no end leaves the rest to the next death,
//! or to the search a second later (`lost.rs`).
//!
//! **Who closes twice?** The sweep comes after the process's tables were released: what they owned is accounted for as
//! closed then. What a call gives to something that outlives its process is kept first ([`fs::HostFd::keep`]): bytes of
//! a tmpfs file, shared memory, the lock descriptor of a description.
//!
//! Left out: descriptors that are no files (see [`is_file`]), and numbers beyond [`CHUNKS`] times [`CHUNK`].

use crate::context::Ctx;
use crate::process::root;
use crate::task::Task;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
use platform::hands::Account;
use platform::host;
use platform::time::{self, MILLISECOND};

/// What one thread's calls have in their hands.
pub struct Hand {
    /// Which thread: no two of a guest's life have the same.
    serial: u32,
    /// Calls that it has made.
    calls: AtomicU32,
    /// How deep it is in host calls that open something.
    opening: AtomicU32,
}

impl Hand {
    /// Of a new thread.
    pub(crate) fn new() -> Hand {
        Hand {
            serial: root().hands.serials.fetch_add(1, Ordering::Relaxed),
            calls: AtomicU32::new(0),
            opening: AtomicU32::new(0),
        }
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
    /// Until when nobody opens anything, in nanoseconds; 0: open.
    gate: AtomicU64,
    /// A process was killed, and what nobody accounts for has not been looked for since.
    unfinished: AtomicBool,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts {
            chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS],
            // 0 would make the first word UNKNOWN.
            serials: AtomicU32::new(1),
            gate: AtomicU64::new(0),
            unfinished: AtomicBool::new(false),
        }
    }
}

/// The account that host calls tell.
static ACCOUNT: Account = Account {
    opens: || {
        if let Some(ctx) = Ctx::try_current() {
            root().hands.opens(&ctx.task.hand);
        }
    },
    opened: || {
        if let Some(ctx) = Ctx::try_current() {
            Accounts::opened(&ctx.task.hand);
        }
    },
    takes: |fd| root().hands.set(fd, Ctx::try_current().map_or(KEPT, |ctx| ctx.task.hand.word())),
    keeps: |fd| root().hands.set(fd, KEPT),
    closes: |fd| root().hands.set(fd, UNKNOWN),
};

/// Begins the account: whatever is open now is kept. Once, in the first process.
pub(crate) fn start() {
    each_open(&mut |fd| root().hands.set(fd, KEPT));
    platform::hands::set_account(&ACCOUNT);
}

/// Closes what these threads had in their hands. Their host process is gone, and the tables of their process are
/// released.
pub(crate) fn sweep(dead: &[Arc<Task>]) {
    let accounts = &root().hands;
    // Always: whoever was killed between an account and a host call left something open that nobody accounts for, be it
    // a call that opened or closed, or one that swept as we do.
    accounts.unfinished.store(true, Ordering::SeqCst);
    for hand in dead.iter().map(|task| &task.hand) {
        accounts.close_all_of(hand.word());
    }
    finish();
}

/// Closes what nobody accounts for, if a process was killed since that was done.
pub(crate) fn finish() {
    let accounts = &root().hands;
    // Before: another death may come meanwhile.
    if accounts.unfinished.swap(false, Ordering::SeqCst) && !accounts.close_unknown(each_open, somebody_opens)
    {
        accounts.unfinished.store(true, Ordering::SeqCst);
    }
}

impl Accounts {
    /// How long nobody opens at most.
    const GATE_NS: u64 = 20 * MILLISECOND;
    /// How much longer an opener waits for a gate that nobody opens: who shut it may have been killed. Far more than a
    /// sweep needs between its last look at the clock and its last close.
    const GRACE_NS: u64 = 100 * MILLISECOND;

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

    /// A thread opens. Either it sees the gate shut, or who shut it sees the thread opening (both fences are SeqCst).
    fn opens(&self, hand: &Hand) {
        let depth = hand.opening.load(Ordering::Relaxed);
        hand.opening.store(depth + 1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let shut = self.gate.load(Ordering::SeqCst);
        if shut != 0 && depth == 0 {
            self.wait_to_open(hand);
        }
    }

    #[cold]
    fn wait_to_open(&self, hand: &Hand) {
        loop {
            hand.opening.store(0, Ordering::SeqCst);
            loop {
                let shut = self.gate.load(Ordering::SeqCst);
                if shut == 0 {
                    break;
                }
                if time::now().0 > shut + Self::GRACE_NS {
                    let _ = self.gate.compare_exchange(shut, 0, Ordering::SeqCst, Ordering::SeqCst);
                }
                // Not a place of the scheduler: the caller may have locks.
                // SAFETY: gives the processor up for a moment.
                let _ = unsafe { host!(sched_yield) };
            }
            hand.opening.store(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if self.gate.load(Ordering::SeqCst) == 0 {
                return;
            }
        }
    }

    fn opened(hand: &Hand) {
        // What was opened is accounted for before it ends.
        hand.opening.store(hand.opening.load(Ordering::Relaxed) - 1, Ordering::SeqCst);
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

    /// Closes files among `open` that nobody accounts for. False if living threads were opening some all the time.
    fn close_unknown(&self, open: fn(&mut dyn FnMut(i32)), somebody_opens: fn() -> bool) -> bool {
        let until = time::now().0 + Self::GATE_NS;
        if self.gate.compare_exchange(0, until, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        fence(Ordering::SeqCst);
        let quiet = loop {
            if !somebody_opens() {
                break true;
            }
            if time::now().0 + Self::GATE_NS / 2 > until {
                break false;
            }
            // SAFETY: gives the processor up for a moment.
            let _ = unsafe { host!(sched_yield) };
        };
        let mut done = quiet;
        if quiet {
            open(&mut |fd| {
                let unknown = self.word(fd).is_some_and(|word| word.load(Ordering::SeqCst) == UNKNOWN);
                if unknown && is_file(fd) {
                    done &= time::now().0 < until;
                    if done {
                        // SAFETY: nobody accounts for it, and nobody is about to.
                        let _ = unsafe { host!(close, fd) };
                    }
                }
            });
        }
        let _ = self.gate.compare_exchange(until, 0, Ordering::SeqCst, Ordering::SeqCst);
        done
    }
}

/// Whether a thread of a living process opens something. Of one that is dead and not buried it is said as well.
fn somebody_opens() -> bool {
    root().processes().iter().any(|process| {
        let opens = |task: &Arc<Task>| task.hand.opening.load(Ordering::SeqCst) != 0;
        !process.has_ended() && process.tasks().iter().any(opens)
    })
}

/// Calls `each` with every open host descriptor, but for the one that tells of them.
fn each_open(each: &mut dyn FnMut(i32)) {
    const AT_FDCWD: isize = -100;
    const O_DIRECTORY_CLOEXEC: usize = 0o2_200_000;
    // struct linux_dirent64: d_reclen at 16, d_name at 19.
    const RECORD: usize = 16;
    const NAME: usize = 19;
    let mut records = [0u64; 256];
    // SAFETY: a C string; the descriptor is closed below. Not by `HostFd`: it must not be accounted for.
    let Ok(directory) = (unsafe { host!(openat, AT_FDCWD, c"/proc/self/fd".as_ptr(), O_DIRECTORY_CLOEXEC) })
    else {
        return;
    };
    loop {
        // SAFETY: the kernel writes to the buffer alone.
        let got = unsafe { host!(getdents64, directory, records.as_mut_ptr(), size_of_val(&records)) };
        let Ok(len @ 1..) = got else { break };
        // SAFETY: that much of the buffer was written.
        let mut rest = unsafe { core::slice::from_raw_parts(records.as_ptr().cast::<u8>(), len) };
        while rest.len() > NAME {
            let size = usize::from(u16::from_le_bytes([rest[RECORD], rest[RECORD + 1]]));
            let Some((record, next)) = rest.split_at_checked(size.max(NAME)) else { break };
            let digits = record[NAME..].split(|&byte| byte == 0).next().unwrap_or(b"");
            let number = core::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            if let Some(fd) = number.filter(|&fd| fd != directory as i32) {
                each(fd);
            }
            rest = next;
        }
    }
    // SAFETY: opened above.
    let _ = unsafe { host!(close, directory) };
}

/// Whether it is a file of a file system or a memory file of ours: what calls open through [`fs::HostFd`]. Devices,
/// sockets and what the kernel makes up are the runtime's.
fn is_file(fd: i32) -> bool {
    let mut text = [0u8; 24];
    let Ok(path) = fs::host::CPath::new(alloc::format!("/proc/self/fd/{fd}").as_bytes()) else {
        return false;
    };
    const AT_FDCWD: isize = -100;
    // SAFETY: a C string, and a buffer of ours.
    let got = unsafe { host!(readlinkat, AT_FDCWD, path.ptr(), text.as_mut_ptr(), text.len()) };
    let text = &text[..got.unwrap_or(0)];
    match text.strip_prefix(b"/memfd:") {
        Some(name) => name.starts_with(b"attacca-tmpfs") || name.starts_with(b"attacca-sysv"),
        None => text.starts_with(b"/") && !text.starts_with(b"/dev/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::os::fd::{AsRawFd, IntoRawFd};

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

    #[test]
    fn what_nobody_accounts_for_is_closed_when_nobody_opens() {
        let accounts = Accounts::default();
        let all = |each: &mut dyn FnMut(i32)| (800..900).filter(|&fd| is_open(fd)).for_each(each);
        let [kept, unknown] = [800, 810].map(file);
        // SAFETY: plain numbers. A device is no file of ours.
        let device = unsafe {
            let null = std::fs::File::open("/dev/null").unwrap();
            host!(fcntl, null.as_raw_fd(), F_DUPFD_CLOEXEC, 820).unwrap() as i32
        };
        accounts.set(kept, KEPT);
        assert!(!accounts.close_unknown(all, || true));
        assert!(is_open(unknown));
        assert!(accounts.close_unknown(all, || false));
        assert_eq!([kept, unknown, device].map(is_open), [true, false, true]);
        assert_eq!(accounts.gate.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn an_opener_waits_for_the_gate_and_not_for_ever() {
        let accounts = Accounts::default();
        let hand = &testing::ctx().task.hand;
        let shut = time::now().0;
        accounts.gate.store(shut, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let opener = scope.spawn(|| accounts.opens(hand));
            while hand.opening.load(Ordering::SeqCst) != 0 {
                std::thread::yield_now();
            }
            assert!(!opener.is_finished() || time::now().0 > shut + Accounts::GRACE_NS);
            accounts.gate.store(0, Ordering::SeqCst);
            opener.join().unwrap();
        });
        assert_eq!(hand.opening.load(Ordering::SeqCst), 1);
        // Deeper down nobody waits: whoever shut the gate sees this thread opening.
        accounts.gate.store(shut, Ordering::SeqCst);
        accounts.opens(hand);
        assert_eq!(hand.opening.load(Ordering::SeqCst), 2);
        Accounts::opened(hand);
        Accounts::opened(hand);
        // Who shut this one is gone.
        accounts.gate.store(1, Ordering::SeqCst);
        accounts.opens(hand);
        assert_eq!(accounts.gate.load(Ordering::SeqCst), 0);
        Accounts::opened(hand);
    }
}
