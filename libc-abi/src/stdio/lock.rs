//! The recursive lock of a stream, and running code under it.
//!
//! One atomic exchange when nobody else wants the stream; a futex otherwise (states as in Drepper,
//! "Futexes Are Tricky": 0 free, 1 held, 2 held and waited for). While the process is known to have
//! one thread, the functions of this family do not lock at all; `flockfile` always does.

use super::file::{FILE, LIST_LOCK, flag, for_each};
use crate::kcall;
use crate::types::*;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::*};

const FUTEX_WAIT_PRIVATE: usize = 128;
const FUTEX_WAKE_PRIVATE: usize = 129;

/// glibc's `_IO_lock_t`: lock word, depth, owner.
#[repr(C)]
pub(crate) struct FileLock {
    word: AtomicI32,
    depth: UnsafeCell<i32>,
    owner: AtomicUsize,
}

// SAFETY: `depth` is reached by the owner only; the rest is atomic.
unsafe impl Sync for FileLock {}

impl FileLock {
    pub(crate) const fn new() -> FileLock {
        FileLock { word: AtomicI32::new(0), depth: UnsafeCell::new(0), owner: AtomicUsize::new(0) }
    }

    /// Takes the lock, again if the calling thread holds it.
    pub(crate) fn acquire(&self) {
        let me = crate::thread::current() as usize;
        if self.owner.load(Relaxed) != me {
            if self.word.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
                self.wait();
            }
            self.owner.store(me, Relaxed);
        }
        // SAFETY: we are the owner.
        unsafe { *self.depth.get() += 1 };
    }

    /// As [`FileLock::acquire`], but answers false instead of waiting.
    pub(crate) fn try_acquire(&self) -> bool {
        let me = crate::thread::current() as usize;
        if self.owner.load(Relaxed) != me {
            if self.word.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
                return false;
            }
            self.owner.store(me, Relaxed);
        }
        // SAFETY: we are the owner.
        unsafe { *self.depth.get() += 1 };
        true
    }

    /// Gives back one [`FileLock::acquire`]. Does nothing if the calling thread is not the owner.
    pub(crate) fn release(&self) {
        if self.owner.load(Relaxed) != crate::thread::current() as usize {
            return;
        }
        // SAFETY: we are the owner.
        let depth = unsafe {
            *self.depth.get() -= 1;
            *self.depth.get()
        };
        if depth == 0 {
            self.owner.store(0, Relaxed);
            if self.word.swap(0, Release) == 2 {
                // SAFETY: a futex call on our own word.
                let _ = unsafe { kcall!(futex, self.word.as_ptr(), FUTEX_WAKE_PRIVATE, 1) };
            }
        }
    }

    #[cold]
    fn wait(&self) {
        let saved = crate::errno::get();
        while self.word.swap(2, Acquire) != 0 {
            // SAFETY: a futex call on our own word; any failure means "look again".
            let _ = unsafe { kcall!(futex, self.word.as_ptr(), FUTEX_WAIT_PRIVATE, 2, 0) };
        }
        crate::errno::set(saved);
    }

    /// Frees the lock whoever held it: in a forked child the other threads are gone.
    fn reset(&self) {
        // SAFETY: the child has one thread, this one.
        unsafe { *self.depth.get() = 0 };
        self.owner.store(0, Relaxed);
        self.word.store(0, Release);
    }
}

/// Whether the process is known to have one thread.
static ALONE: AtomicBool = AtomicBool::new(false);

/// Tells stdio whether the process has one thread: start-up may say true, `pthread_create` says false
/// before its first thread runs. Unsaid, every call locks.
pub fn set_single_threaded(alone: bool) {
    ALONE.store(alone, Relaxed);
}

/// Holds a stream for one call.
pub(crate) struct Guard(*mut FILE);

impl Guard {
    /// # Safety
    /// `file` is an open stream.
    #[inline(always)]
    pub(crate) unsafe fn new(file: *mut FILE) -> Guard {
        // SAFETY: the caller vouches for the stream.
        unsafe {
            if ALONE.load(Relaxed) || (*file).has(flag::USER_LOCK) {
                return Guard(core::ptr::null_mut());
            }
            (*file).lock.acquire();
        }
        Guard(file)
    }
}

impl Drop for Guard {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the stream is open while it is held.
            unsafe { (*self.0).lock.release() };
        }
    }
}

/// `locked!(file, |f| body)`: runs `body` with `f: &mut FILE` while the stream is held.
macro_rules! locked {
    ($file:expr, |$f:ident| $body:expr) => {{
        let file: *mut $crate::stdio::file::FILE = $file;
        // SAFETY: the program passes an open stream (C11 7.21.3); the lock makes it ours meanwhile.
        let _guard = unsafe { $crate::stdio::lock::Guard::new(file) };
        // SAFETY: as above.
        let $f = unsafe { &mut *file };
        $body
    }};
}

/// `unlocked!(file, |f| body)`: the same for the `_unlocked` forms.
macro_rules! unlocked {
    ($file:expr, |$f:ident| $body:expr) => {{
        // SAFETY: the program passes an open stream that it holds itself.
        let $f = unsafe { &mut *$file };
        $body
    }};
}

/// Holds the list of streams, for `fork`: no stream is half in it then. The streams themselves are not
/// taken: one of them may be held by a thread that waits for input, perhaps for ever (glibc does the
/// same).
pub fn lock_all() {
    LIST_LOCK.acquire();
}

/// Undoes [`lock_all`] in the parent.
pub fn unlock_all() {
    LIST_LOCK.release();
}

/// Undoes [`lock_all`] in the child, and frees all streams: the threads that held them are gone.
pub fn reset_all() {
    LIST_LOCK.reset();
    for_each(|file| {
        // SAFETY: streams of the list are open.
        unsafe { (*file).lock.reset() }
    });
}

abi! { EXPORTS "libc.so.6":
    /// flockfile(3).
    "GLIBC_2.2.5" fn flockfile(file: *mut FILE) {
        // SAFETY: an open stream.
        unsafe { (*file).lock.acquire() }
    }
    /// ftrylockfile(3).
    "GLIBC_2.2.5" fn ftrylockfile(file: *mut FILE) -> c_int {
        // SAFETY: an open stream.
        if unsafe { (*file).lock.try_acquire() } { 0 } else { platform::Errno::EBUSY.0 }
    }
    /// funlockfile(3).
    "GLIBC_2.2.5" fn funlockfile(file: *mut FILE) {
        // SAFETY: an open stream.
        unsafe { (*file).lock.release() }
    }
    /// __fsetlocking(3): 0 asks, 1 the library locks, 2 the caller does; answers the former one.
    "GLIBC_2.2.5" fn __fsetlocking(file: *mut FILE, kind: c_int) -> c_int {
        unlocked!(file, |f| {
            let before = if f.has(flag::USER_LOCK) { 2 } else { 1 };
            match kind {
                1 => f.flags &= !flag::USER_LOCK,
                2 => f.flags |= flag::USER_LOCK,
                _ => {}
            }
            before
        })
    }
}
