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
//! **Before there is a number, and after.** The host installs a descriptor and then kills: its number stands nowhere. So
//! after a death `lost.rs` also looks for what is open and not accounted for ([`Accounts::unaccounted`]), twice. A number
//! between the two steps of a living call's open or close looks the same, hence:
//! - each freeing of a number leaves a fresh stamp in its word, once before the descriptor is closed and once after;
//! - between the looks each process has been outside such steps ([`rt::Moment`]).
//!
//! Let a word be the same at both looks, and its number open at the first. Was it in a living call's hands then? That call
//! has come to its end since, and would have changed the word: an opener by its note, a closer by its second stamp. So it
//! was a dead one's; its number has come to nobody since, as it was never free, and nobody else will close it.
//!
//! Left out: descriptors that are no files (see [`is_file`]), and numbers beyond [`CHUNKS`] times [`CHUNK`].

use crate::context::Ctx;
use crate::process::root;
use crate::rt;
use crate::task::Task;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use fs::HostFd;
use fs::host::{AT_FDCWD, CPath, O_DIRECTORY};
use platform::hands::{Account, passing};
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

/// Words of descriptors that are not accounted for (closed, or just opened, or none of ours): a stamp below this.
const FREE: u64 = 1 << 32;
/// Never opened.
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
    stamps: AtomicU32,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts {
            chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS],
            // 0 would make words of stamps.
            serials: AtomicU32::new(1),
            stamps: AtomicU32::new(1),
        }
    }
}

/// The account that host calls tell.
static ACCOUNT: Account = Account {
    begins: rt::begin_passage,
    ends: rt::end_passage,
    takes: |fd| root().hands.set(fd, Ctx::try_current().map_or(KEPT, |ctx| ctx.task.hand.word())),
    keeps: |fd| root().hands.set(fd, KEPT),
    closes: |fd| root().hands.closes(fd),
    closed: |fd, word| root().hands.closed(fd, word),
};

/// Begins the account: whatever is open is kept. Once, in the first process.
pub(crate) fn start() {
    platform::hands::set_account(&ACCOUNT);
    each_open(&mut |fd| {
        root().hands.change(fd, UNKNOWN, KEPT);
    });
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

    /// If the word is still `from`.
    fn change(&self, fd: i32, from: u64, to: u64) -> bool {
        self.word(fd).is_some_and(|place| {
            place.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// A word that no number has had for 4 billion closes.
    fn stamp(&self) -> u64 {
        u64::from(self.stamps.fetch_add(1, Ordering::Relaxed))
    }

    fn closes(&self, fd: i32) -> u64 {
        let stamp = self.stamp();
        self.set(fd, stamp);
        stamp
    }

    fn closed(&self, fd: i32, stamp: u64) {
        // Unless it is another's already.
        self.change(fd, stamp, self.stamp());
    }

    /// Closes a descriptor, if it is still what `word` says: a dead call's, or one that was among
    /// [`Accounts::unaccounted`] twice, with a whole [`rt::Moment`] between.
    pub(crate) fn close_if(&self, fd: i32, word: u64) {
        passing(|| {
            let stamp = self.stamp();
            // One who sweeps for the same dead may have been first.
            if self.change(fd, word, stamp) {
                // SAFETY: a dead call's alone.
                let _ = unsafe { host!(close, fd) };
                self.closed(fd, stamp);
            }
        });
    }

    fn close_all_of(&self, word: u64) {
        for (at, chunk) in self.chunks.iter().enumerate() {
            // SAFETY: as in `word`.
            let Some(chunk) = (unsafe { chunk.load(Ordering::Acquire).as_ref() }) else { continue };
            let its = chunk.iter().enumerate().filter(|(_, place)| place.load(Ordering::Acquire) == word);
            its.for_each(|(offset, _)| self.close_if((at * CHUNK + offset) as i32, word));
        }
    }

    /// Files that are open and not accounted for, with what their words say. Most are in the hands of living calls.
    pub(crate) fn unaccounted(&self) -> Vec<(i32, u64)> {
        let mut found = Vec::new();
        each_open(&mut |fd| {
            let word = self.word(fd).map_or(KEPT, |place| place.load(Ordering::SeqCst));
            if word < FREE && is_file(fd) {
                found.push((fd, word));
            }
        });
        found
    }
}

/// Calls `each` with every open host descriptor, but for the one that tells of them.
fn each_open(each: &mut dyn FnMut(i32)) {
    // struct linux_dirent64: d_reclen at 16, d_name at 19.
    const RECORD: usize = 16;
    const NAME: usize = 19;
    let Ok(directory) = HostFd::open_host(b"/proc/self/fd", O_DIRECTORY, 0) else { return };
    let mut records = [0u64; 256];
    loop {
        // SAFETY: the kernel writes to the buffer alone.
        let got = unsafe { host!(getdents64, directory.raw(), records.as_mut_ptr(), size_of_val(&records)) };
        let Ok(len @ 1..) = got else { return };
        // SAFETY: that much of the buffer was written.
        let mut rest = unsafe { core::slice::from_raw_parts(records.as_ptr().cast::<u8>(), len) };
        while rest.len() > NAME {
            let size = usize::from(u16::from_le_bytes([rest[RECORD], rest[RECORD + 1]]));
            let Some((record, next)) = rest.split_at_checked(size.max(NAME)) else { break };
            let digits = record[NAME..].split(|&byte| byte == 0).next().unwrap_or(b"");
            let number = core::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            if let Some(fd) = number.filter(|&fd| fd != directory.raw()) {
                each(fd);
            }
            rest = next;
        }
    }
}

/// Whether it is a file of a file system or a memory file of ours: what calls open through [`HostFd`]. Devices, sockets
/// and what the kernel makes up are the runtime's.
fn is_file(fd: i32) -> bool {
    let mut text = [0u8; 24];
    let Ok(path) = CPath::new(alloc::format!("/proc/self/fd/{fd}").as_bytes()) else { return false };
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
        accounts.closes(closed);
        accounts.close_all_of(hand.word());
        assert_eq!([earlier, now, kept, closed].map(is_open), [true, false, true, true]);
        // Who sweeps again closes nothing that has the number since.
        let again = file(now);
        assert_eq!(again, now);
        accounts.close_all_of(hand.word());
        assert!(is_open(again));
    }

    #[test]
    fn what_is_open_and_unaccounted_for_is_found_and_closed_unless_its_word_has_changed() {
        let accounts = Accounts::default();
        let [kept, opened, being_closed] = [800, 810, 820].map(file);
        // SAFETY: plain numbers. A device is no file of ours.
        let device = unsafe {
            let null = std::fs::File::open("/dev/null").unwrap();
            host!(fcntl, null.as_raw_fd(), F_DUPFD_CLOEXEC, 830).unwrap() as i32
        };
        accounts.set(kept, KEPT);
        accounts.closes(being_closed);
        let found = accounts.unaccounted();
        let word = |fd| found.iter().find(|(other, _)| *other == fd).map(|(_, word)| *word);
        let words = [kept, opened, being_closed, device].map(word);
        assert_eq!((words[0], words[3]), (None, None));
        let (Some(opened_word), Some(closing_word)) = (words[1], words[2]) else { panic!("{words:?}") };
        // Noted meanwhile, and noted and freed again.
        accounts.set(opened, KEPT);
        accounts.close_if(opened, opened_word);
        accounts.closes(opened);
        accounts.close_if(opened, opened_word);
        assert!(is_open(opened));
        accounts.close_if(being_closed, closing_word);
        assert!(!is_open(being_closed));
    }

    #[test]
    fn a_number_that_was_freed_and_opened_again_has_another_word() {
        let accounts = Accounts::default();
        let fd = file(840);
        let first = accounts.closes(fd);
        accounts.closed(fd, first);
        // Opened again, and not noted yet.
        let now = accounts.unaccounted().into_iter().find(|(other, _)| *other == fd).unwrap().1;
        assert_ne!(now, first);
        accounts.close_if(fd, first);
        assert!(is_open(fd));
        // A closer that was slow leaves the next owner's note alone.
        accounts.set(fd, KEPT);
        accounts.closed(fd, now);
        assert!(!accounts.unaccounted().iter().any(|(other, _)| *other == fd));
    }
}
