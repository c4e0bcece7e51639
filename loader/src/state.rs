//! The process's one namespace, behind the loader's lock.
//!
//! The lock is recursive, as glibc's: a constructor that dlopen runs may call dlopen. The namespace
//! itself is only borrowed for loader work, never while program code runs, so a nested call finds it
//! free. (An IFUNC resolver runs inside loader work; from there every call is refused.)

use crate::object::Namespace;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

struct State {
    /// 0 free, 1 held, 2 held and somebody waits.
    word: AtomicU32,
    owner: AtomicUsize,
    depth: UnsafeCell<usize>,
    borrowed: AtomicBool,
    namespace: UnsafeCell<Option<Namespace>>,
}

// SAFETY: `depth` and `namespace` are only touched by the thread that holds the lock, the latter
// only through `try_with`, which lets nobody in twice.
unsafe impl Sync for State {}

static STATE: State = State {
    word: AtomicU32::new(0),
    owner: AtomicUsize::new(0),
    depth: UnsafeCell::new(0),
    borrowed: AtomicBool::new(false),
    namespace: UnsafeCell::new(None),
};

/// Holds the loader's lock.
pub struct Guard(());

/// Takes the lock; the same thread may take it again.
pub fn lock() -> Guard {
    let me = libc_abi::thread::current() as usize;
    if STATE.owner.load(Ordering::Relaxed) != me {
        acquire();
        STATE.owner.store(me, Ordering::Relaxed);
    }
    // SAFETY: this thread holds the lock.
    unsafe { *STATE.depth.get() += 1 };
    Guard(())
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: this thread holds the lock until it is released below.
        let depth = unsafe { &mut *STATE.depth.get() };
        *depth -= 1;
        if *depth == 0 {
            STATE.owner.store(0, Ordering::Relaxed);
            release();
        }
    }
}

const FUTEX_WAIT_PRIVATE: usize = 128;
const FUTEX_WAKE_PRIVATE: usize = 129;

fn acquire() {
    if STATE.word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return;
    }
    while STATE.word.swap(2, Ordering::Acquire) != 0 {
        // SAFETY: a word of ours; spurious returns only make the loop look again.
        let _ = unsafe { libc_abi::kcall!(futex, &raw const STATE.word, FUTEX_WAIT_PRIVATE, 2, 0) };
    }
}

fn release() {
    if STATE.word.swap(0, Ordering::Release) == 2 {
        // SAFETY: as above.
        let _ = unsafe { libc_abi::kcall!(futex, &raw const STATE.word, FUTEX_WAKE_PRIVATE, 1) };
    }
}

/// The lock is held over a fork, so the child's copy of the namespace is whole. The child's one
/// thread has the same TCB, hence the same name here, and lets go as the parent does.
pub(crate) static FORK: libc_abi::pthread::atfork::Hook =
    libc_abi::pthread::atfork::Hook { prepare: || core::mem::forget(lock()), parent: unlock, child: unlock };

fn unlock() {
    drop(Guard(()));
}

/// Makes a namespace the process's own. Before any thread but the first runs.
pub fn install(namespace: Namespace) {
    // SAFETY: start-up; nobody else looks yet.
    unsafe { *STATE.namespace.get() = Some(namespace) };
}

/// Works on the namespace under the lock; `None` before start-up is over or from within other
/// loader work.
pub fn try_with<R>(work: impl FnOnce(&mut Namespace) -> R) -> Option<R> {
    let _guard = lock();
    if STATE.borrowed.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the lock keeps other threads out, `borrowed` this one.
    let namespace = unsafe { &mut *STATE.namespace.get() };
    let result = namespace.as_mut().map(work);
    STATE.borrowed.store(false, Ordering::Relaxed);
    result
}

/// As [`try_with`] where the namespace is known to exist.
pub fn with<R>(work: impl FnOnce(&mut Namespace) -> R) -> R {
    try_with(work).expect("the loader was entered from an IFUNC resolver")
}
