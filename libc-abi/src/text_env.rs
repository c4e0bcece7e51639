//! What this crate's text half asks of the environment: the value of a variable.

use crate::types::c_char;

/// getenv(3).
///
/// # Safety
/// `name` is a C string.
#[cfg(test)]
pub(crate) unsafe fn getenv(name: *const c_char) -> *mut c_char {
    unsafe extern "C" {
        fn getenv(name: *const c_char) -> *mut c_char;
    }
    // SAFETY: the host's, with the caller's string.
    unsafe { getenv(name) }
}

/// getenv(3): the environment's owner sets it; before that no variable is set.
#[cfg(not(test))]
pub(crate) unsafe fn getenv(name: *const c_char) -> *mut c_char {
    let hook = HOOK.load(core::sync::atomic::Ordering::Acquire);
    if hook.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: only a function of this type is stored.
    unsafe { core::mem::transmute::<*mut (), unsafe extern "C" fn(*const c_char) -> *mut c_char>(hook)(name) }
}

/// `getenv` of the module that holds `environ`.
#[cfg(not(test))]
pub static HOOK: core::sync::atomic::AtomicPtr<()> =
    core::sync::atomic::AtomicPtr::new(core::ptr::null_mut());
