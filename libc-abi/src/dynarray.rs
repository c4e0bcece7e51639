//! `__libc_dynarray_resize`: glibc's growing array, which its own tools (getent) take from the library.

use crate::errno;
use crate::malloc::{malloc, realloc};
use crate::types::c_void;
use core::ptr::copy_nonoverlapping;
use platform::Errno;

/// What every such array begins with.
#[repr(C)]
pub struct Header {
    used: usize,
    allocated: usize,
    array: *mut c_void,
}

abi! { EXPORTS "libc.so.6":
    /// Makes room for `size` elements and counts them as used. The first ones lie in the array's own `scratch`.
    "GLIBC_PRIVATE" fn __libc_dynarray_resize(
        list: *mut Header, size: usize, scratch: *mut c_void, element: usize,
    ) -> bool {
        // SAFETY: the caller's array; its elements lie in `scratch` or in a block of ours.
        unsafe {
            let list = &mut *list;
            if size > list.allocated {
                let Some(bytes) = size.checked_mul(element) else {
                    errno::set(Errno::ENOMEM);
                    return false;
                };
                let own = list.array == scratch;
                let block = if own { malloc(bytes) } else { realloc(list.array, bytes) };
                if block.is_null() {
                    return false;
                }
                if own && !list.array.is_null() {
                    copy_nonoverlapping(list.array.cast::<u8>(), block.cast::<u8>(), list.used * element);
                }
                list.array = block;
                list.allocated = size;
            }
            list.used = size;
            true
        }
    }
}
