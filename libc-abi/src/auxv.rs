//! getauxval(3): the vector that the loader put on the first stack.

use crate::errno;
use crate::types::c_ulong;
use core::sync::atomic::{AtomicPtr, Ordering};
use platform::Errno;

/// One entry of the auxiliary vector.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// AT_*.
    pub kind: usize,
    /// Its value.
    pub value: usize,
}

/// End of the vector.
pub const AT_NULL: usize = 0;
/// Page size.
pub const AT_PAGESZ: usize = 6;
/// Clock ticks of times(2) in a second.
pub const AT_CLKTCK: usize = 17;
/// Set-user-ID or the like: the environment is not to be trusted.
pub const AT_SECURE: usize = 23;
/// Address of 16 random bytes.
pub const AT_RANDOM: usize = 25;
/// Least signal stack that the CPU's state needs.
pub const AT_MINSIGSTKSZ: usize = 51;

static VECTOR: AtomicPtr<Entry> = AtomicPtr::new(core::ptr::null_mut());

/// Tells where the vector is.
///
/// # Safety
/// It ends with AT_NULL and lives as long as the process.
pub unsafe fn set_vector(vector: *const Entry) {
    VECTOR.store(vector.cast_mut(), Ordering::Release);
}

/// The value of an entry.
pub fn find(kind: usize) -> Option<usize> {
    let mut at = VECTOR.load(Ordering::Acquire);
    if at.is_null() {
        return None;
    }
    // SAFETY: promised to `set_vector`.
    unsafe {
        while (*at).kind != AT_NULL {
            if (*at).kind == kind {
                return Some((*at).value);
            }
            at = at.add(1);
        }
    }
    None
}

abi! { EXPORTS "libc.so.6":
    /// getauxval(3): 0 and ENOENT for what is not there.
    "GLIBC_2.16" fn getauxval(kind: c_ulong) -> c_ulong {
        find(kind as usize).unwrap_or_else(|| {
            errno::set(Errno::ENOENT);
            0
        }) as c_ulong
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.16" "__getauxval" = getauxval;
}
