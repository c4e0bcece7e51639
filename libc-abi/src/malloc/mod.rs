//! malloc(3) and its family, and this crate's own doors to the C heap.
//!
//! [`cache`] is the thread's stock (no atomics), [`central`] the exchange between threads, `pages` the
//! heap of pages, `huge` the mappings; [`imp`] puts them together and `names` exports them.
//!
//! Memory that C code may free is allocated through the functions *here*: they go to the program's
//! own `malloc` if it brings one (redis and jemalloc), so that `free` of what our `strdup` made works.

pub mod cache;
mod central;
mod class;
mod huge;
pub mod imp;
pub mod names;
mod pages;
mod report;

pub use names::{ALIASES, EXPORTS};

use crate::types::c_void;
use core::sync::atomic::{AtomicBool, Ordering};

/// The program's allocator, as the loader found it in the global scope.
#[derive(Clone, Copy)]
pub struct Interposed {
    /// malloc(3).
    pub malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    /// calloc(3).
    pub calloc: unsafe extern "C" fn(usize, usize) -> *mut c_void,
    /// realloc(3).
    pub realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    /// free(3).
    pub free: unsafe extern "C" fn(*mut c_void),
    /// memalign(3).
    pub memalign: unsafe extern "C" fn(usize, usize) -> *mut c_void,
}

struct Slot(core::cell::UnsafeCell<Interposed>);
// SAFETY: written once by the loader before program code runs, read afterwards.
unsafe impl Sync for Slot {}

static IS_INTERPOSED: AtomicBool = AtomicBool::new(false);
static INTERPOSED: Slot = Slot(core::cell::UnsafeCell::new(Interposed {
    malloc: names::malloc,
    calloc: names::calloc,
    realloc: names::realloc,
    free: names::free,
    memalign: names::memalign,
}));

/// Makes the program's own allocator the one that C library functions use. What it leaves out stays
/// ours (as with symbol interposition; a program that replaces some must replace all: malloc(3)).
///
/// # Safety
/// Before the program's first instruction; the functions have C's meaning.
pub unsafe fn interpose(with: impl FnOnce(&mut Interposed)) {
    // SAFETY: nobody reads yet.
    unsafe { with(&mut *INTERPOSED.0.get()) };
    IS_INTERPOSED.store(true, Ordering::Release);
}

#[cfg(not(test))]
#[inline]
fn interposed() -> Option<&'static Interposed> {
    // SAFETY: constant since `interpose`.
    IS_INTERPOSED.load(Ordering::Relaxed).then(|| unsafe { &*INTERPOSED.0.get() })
}

#[cfg(not(test))]
mod doors {
    use super::{imp, interposed};
    use crate::types::c_void;

    /// malloc(3) as the program sees it.
    #[inline]
    pub unsafe fn malloc(size: usize) -> *mut c_void {
        match interposed() {
            // SAFETY: C's malloc.
            Some(own) => unsafe { (own.malloc)(size) },
            None => imp::malloc(size),
        }
    }
    /// calloc(3) as the program sees it.
    #[inline]
    pub unsafe fn calloc(count: usize, size: usize) -> *mut c_void {
        match interposed() {
            // SAFETY: C's calloc.
            Some(own) => unsafe { (own.calloc)(count, size) },
            None => imp::calloc(count, size),
        }
    }
    /// realloc(3) as the program sees it.
    #[inline]
    pub unsafe fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
        match interposed() {
            // SAFETY: C's realloc; the caller gives `old` up.
            Some(own) => unsafe { (own.realloc)(old, size) },
            // SAFETY: as above.
            None => unsafe { imp::realloc(old, size) },
        }
    }
    /// free(3) as the program sees it.
    #[inline]
    pub unsafe fn free(block: *mut c_void) {
        match interposed() {
            // SAFETY: C's free; the caller gives the block up.
            Some(own) => unsafe { (own.free)(block) },
            // SAFETY: as above.
            None => unsafe { imp::free(block) },
        }
    }
    /// memalign(3) as the program sees it.
    #[inline]
    pub unsafe fn memalign(align: usize, size: usize) -> *mut c_void {
        match interposed() {
            // SAFETY: C's memalign.
            Some(own) => unsafe { (own.memalign)(align, size) },
            None => imp::memalign(align, size),
        }
    }
}

/// Under `cargo test` the host's allocator serves the crate: the tests of other modules hand blocks
/// to the host's libc and back.
#[cfg(test)]
#[allow(missing_docs)]
mod doors {
    use crate::types::c_void;
    mod host {
        use crate::types::c_void;
        unsafe extern "C" {
            pub(super) fn malloc(size: usize) -> *mut c_void;
            pub(super) fn calloc(count: usize, size: usize) -> *mut c_void;
            pub(super) fn realloc(old: *mut c_void, size: usize) -> *mut c_void;
            pub(super) fn free(block: *mut c_void);
            pub(super) fn memalign(align: usize, size: usize) -> *mut c_void;
        }
    }
    pub unsafe fn malloc(size: usize) -> *mut c_void {
        // SAFETY: the host's allocator.
        unsafe { host::malloc(size) }
    }
    pub unsafe fn calloc(count: usize, size: usize) -> *mut c_void {
        // SAFETY: the host's allocator.
        unsafe { host::calloc(count, size) }
    }
    pub unsafe fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
        // SAFETY: the host's allocator.
        unsafe { host::realloc(old, size) }
    }
    pub unsafe fn free(block: *mut c_void) {
        // SAFETY: the host's allocator.
        unsafe { host::free(block) }
    }
    #[allow(dead_code)]
    pub unsafe fn memalign(align: usize, size: usize) -> *mut c_void {
        // SAFETY: the host's allocator.
        unsafe { host::memalign(align, size) }
    }
}

pub use doors::{calloc, free, malloc, memalign, realloc};

/// Takes every lock of the allocator: before fork(2), so that the child's heap is whole.
pub fn fork_prepare() {
    central::locks().for_each(|lock| lock.lock());
    pages::lock().lock();
    huge::lock().lock();
}

/// Lets go again, in parent and child.
///
/// # Safety
/// After [`fork_prepare`], by the same thread.
pub unsafe fn fork_done() {
    // SAFETY: held since `fork_prepare`.
    unsafe {
        huge::lock().unlock();
        pages::lock().unlock();
        central::locks().rev().for_each(|lock| lock.unlock());
    }
}

#[cfg(test)]
mod tests;
