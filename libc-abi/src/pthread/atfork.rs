//! fork(2)'s handlers (pthread_atfork(3)), and this crate's own locks around a fork.
//!
//! Handlers run first (prepare in reverse order), then the locks are taken in one fixed order (loader,
//! list of streams, lists of this crate, malloc), so that the child's copy of what they guard is whole.
//! The child lets go of them and keeps only its own thread.

use super::{once, stack, thread};
use crate::futex::{Lock, RawLock};
use crate::malloc::{self, imp};
use crate::stdio;
use crate::types::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

type Handler = unsafe extern "C" fn();

#[derive(Clone, Copy)]
struct Entry {
    prepare: Option<Handler>,
    parent: Option<Handler>,
    child: Option<Handler>,
    dso: *mut c_void,
}

struct List {
    entries: *mut Entry,
    len: usize,
    capacity: usize,
}
// SAFETY: reached under the lock.
unsafe impl Send for List {}
static LIST: Lock<List> = Lock::new(List { entries: null_mut(), len: 0, capacity: 0 });

impl List {
    fn get(&self, at: usize) -> Option<Entry> {
        // SAFETY: below `len` entries are written.
        (at < self.len).then(|| unsafe { self.entries.add(at).read() })
    }

    fn push(&mut self, entry: Entry) -> bool {
        if self.len == self.capacity {
            let capacity = (self.capacity * 2).max(16);
            // SAFETY: our own list.
            let grown = unsafe { imp::realloc(self.entries.cast(), capacity * size_of::<Entry>()) };
            if grown.is_null() {
                return false;
            }
            (self.entries, self.capacity) = (grown.cast(), capacity);
        }
        // SAFETY: below the capacity.
        unsafe { self.entries.add(self.len).write(entry) };
        self.len += 1;
        true
    }
}

/// Locks of the loader, to hold over a fork.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Takes the locks.
    pub prepare: fn(),
    /// Lets go of them, in the parent.
    pub parent: fn(),
    /// In the child.
    pub child: fn(),
}

static LOADER: AtomicPtr<Hook> = AtomicPtr::new(null_mut());

/// Installs the loader's part in a fork. Its lock is the outermost: it is held while constructors use
/// streams.
pub fn set_loader_hook(hook: &'static Hook) {
    LOADER.store((&raw const *hook).cast_mut(), Ordering::Release);
}

fn loader() -> Option<&'static Hook> {
    // SAFETY: null or from `set_loader_hook`.
    unsafe { LOADER.load(Ordering::Acquire).as_ref() }
}

/// Our own locks, outermost first: those of modules that make threads while they hold theirs, then the rest.
fn locks() -> [&'static RawLock; 19] {
    let [handlers, quick] = crate::start::fork_locks();
    let [domains, domain] = crate::gettext::fork_locks();
    let [setting, locale_names, wide_names] = crate::locale::fork_locks();
    [
        crate::syslog::fork_lock(),
        crate::utmp::fork_lock(),
        domains,
        domain,
        setting,
        crate::time::fork_lock(),
        crate::aio::fork_lock(),
        crate::posix_timers::fork_lock(),
        crate::sem::fork_lock(),
        crate::env::fork_lock(),
        crate::tz::fork_lock(),
        locale_names,
        wide_names,
        crate::random::fork_lock(),
        handlers,
        quick,
        thread::fork_lock(),
        crate::tls::fork_lock(),
        stack::fork_lock(),
    ]
}

/// What [`prepare`] has done, for [`parent`] and [`child`].
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    /// How many handlers take part (none for vfork(2)).
    handlers: usize,
    /// The locks were taken.
    locks: bool,
}

/// Whether the process never had a second thread.
fn alone() -> bool {
    // SAFETY: the cell's place is settled before the program runs; its one byte is always readable.
    unsafe { crate::start::SINGLE_THREADED.load() != 0 }
}

/// Before a fork.
///
/// A process that never had a second thread takes no locks: nobody else can hold one, and if this thread does (a
/// fork in a signal handler), it goes on inside in both processes. Each page of locks that is not written is a
/// copy less, on both sides.
pub(crate) fn prepare(handlers: bool) -> Taken {
    let count = match (handlers, alone()) {
        (false, _) => 0,
        // SAFETY: no other thread changes it.
        (true, true) => unsafe { (*LIST.as_ptr()).len },
        (true, false) => LIST.lock().len,
    };
    for at in (0..count).rev() {
        // Not under the lock: a handler may register others.
        if let Some(run) = entry(at).and_then(|e| e.prepare) {
            // SAFETY: the program's handler.
            unsafe { run() };
        }
    }
    if let Some(loader) = loader() {
        (loader.prepare)();
    }
    // Asked again: a handler may have made a thread.
    let locks_too = !alone();
    if locks_too {
        stdio::lock::lock_all();
        locks().iter().for_each(|lock| lock.lock());
        malloc::fork_prepare();
    }
    Taken { handlers: count, locks: locks_too }
}

/// After a fork, in the parent (or when it failed).
pub(crate) fn parent(taken: Taken) {
    if taken.locks {
        // SAFETY: taken by `prepare`, by this thread.
        unsafe {
            malloc::fork_done();
            locks().iter().rev().for_each(|lock| lock.unlock());
        }
        stdio::lock::unlock_all();
    }
    if let Some(loader) = loader() {
        (loader.parent)();
    }
    for at in 0..taken.handlers {
        if let Some(run) = entry(at).and_then(|e| e.parent) {
            // SAFETY: the program's handler.
            unsafe { run() };
        }
    }
}

/// After a fork, in the child.
pub(crate) fn child(taken: Taken) {
    if taken.locks {
        once::forked();
        // SAFETY: taken by `prepare`, by this thread, which is the only one here.
        unsafe {
            malloc::fork_done();
            locks().iter().rev().for_each(|lock| lock.reset());
            LIST.raw().reset();
        }
        stack::forked();
        thread::forked();
        stdio::lock::reset_all();
    } else {
        // Nothing of other threads is there to be put right.
        thread::forked_alone();
    }
    if let Some(loader) = loader() {
        (loader.child)();
    }
    for at in 0..taken.handlers {
        if let Some(run) = entry(at).and_then(|e| e.child) {
            // SAFETY: the program's handler.
            unsafe { run() };
        }
    }
}

/// After `_Fork`: no lock was taken, and what other threads held stays held (the child may only call
/// async-signal-safe functions). Its own thread is the only one.
pub(crate) fn child_of_signal_handler() {
    once::forked();
    thread::forked();
}

fn entry(at: usize) -> Option<Entry> {
    LIST.lock().get(at)
}

/// An object goes: its handlers do too.
pub(crate) fn forget(dso: *mut c_void) {
    if dso.is_null() {
        return;
    }
    let mut list = LIST.lock();
    let mut kept = 0;
    for at in 0..list.len {
        // SAFETY: both below `len`.
        unsafe {
            let entry = list.entries.add(at).read();
            if entry.dso != dso {
                list.entries.add(kept).write(entry);
                kept += 1;
            }
        }
    }
    list.len = kept;
}

abi! { EXPORTS "libc.so.6":
    /// pthread_atfork(3), as its static part calls it.
    "GLIBC_2.3.2" fn __register_atfork(
        prepare: Option<Handler>, parent: Option<Handler>, child: Option<Handler>, dso: *mut c_void,
    ) -> c_int {
        if LIST.lock().push(Entry { prepare, parent, child, dso }) { 0 } else { platform::Errno::ENOMEM.0 }
    }
}

/// pthread_atfork(3) of old binaries.
pub unsafe extern "C" fn pthread_atfork(
    prepare: Option<Handler>,
    parent: Option<Handler>,
    child: Option<Handler>,
) -> c_int {
    // SAFETY: forwarded.
    unsafe { __register_atfork(prepare, parent, child, null_mut()) }
}

exports! { ROWS "libc.so.6":
    compat "GLIBC_2.2.5" "pthread_atfork" = pthread_atfork;
}
