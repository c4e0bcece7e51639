//! The C heap's doors for this crate: every allocation that C code may free goes through here, so
//! that a program's own `malloc` (interposition, jemalloc) also serves our `strdup` and `getline`.

use crate::types::*;

#[cfg(test)]
mod host {
    use crate::types::*;
    unsafe extern "C" {
        pub(super) fn malloc(size: usize) -> *mut c_void;
        pub(super) fn calloc(count: usize, size: usize) -> *mut c_void;
        pub(super) fn realloc(old: *mut c_void, size: usize) -> *mut c_void;
        pub(super) fn free(block: *mut c_void);
    }
}

/// malloc(3) as the program sees it.
#[cfg(test)]
pub unsafe fn malloc(size: usize) -> *mut c_void {
    // SAFETY: the host's allocator.
    unsafe { host::malloc(size) }
}
/// calloc(3) as the program sees it.
#[cfg(test)]
pub unsafe fn calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: the host's allocator.
    unsafe { host::calloc(count, size) }
}
/// realloc(3) as the program sees it.
#[cfg(test)]
pub unsafe fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the host's allocator.
    unsafe { host::realloc(old, size) }
}
/// free(3) as the program sees it.
#[cfg(test)]
pub unsafe fn free(block: *mut c_void) {
    // SAFETY: the host's allocator.
    unsafe { host::free(block) }
}

#[cfg(not(test))]
mod plain {
    use crate::types::*;
    use alloc::alloc::{Layout, alloc, dealloc};
    const HEADER: usize = 16;
    pub unsafe fn malloc(size: usize) -> *mut c_void {
        let Some(Ok(layout)) = size.checked_add(HEADER).map(|s| Layout::from_size_align(s, 16)) else {
            return core::ptr::null_mut();
        };
        // SAFETY: the layout is not empty; the header holds the size for `free`.
        unsafe {
            let block = alloc(layout);
            if block.is_null() {
                return core::ptr::null_mut();
            }
            block.cast::<usize>().write(layout.size());
            block.add(HEADER).cast()
        }
    }
    pub unsafe fn calloc(count: usize, size: usize) -> *mut c_void {
        let Some(total) = count.checked_mul(size) else { return core::ptr::null_mut() };
        // SAFETY: fresh memory of that size.
        unsafe {
            let block = malloc(total);
            if !block.is_null() {
                block.cast::<u8>().write_bytes(0, total);
            }
            block
        }
    }
    pub unsafe fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
        // SAFETY: `old` came from `malloc` above, so its header holds its size.
        unsafe {
            let new = malloc(size);
            if !old.is_null() && !new.is_null() {
                let had = old.cast::<u8>().sub(HEADER).cast::<usize>().read() - HEADER;
                core::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast::<u8>(), had.min(size));
                free(old);
            }
            new
        }
    }
    pub unsafe fn free(block: *mut c_void) {
        if block.is_null() {
            return;
        }
        // SAFETY: as in `realloc`.
        unsafe {
            let start = block.cast::<u8>().sub(HEADER);
            let size = start.cast::<usize>().read();
            dealloc(start, Layout::from_size_align_unchecked(size, 16));
        }
    }
}
#[cfg(not(test))]
pub use plain::{calloc, free, malloc, realloc};
