//! What this crate's text half asks of the environment: the value of a variable.

#[cfg(not(test))]
pub(crate) use crate::env::getenv;

/// getenv(3): in tests the host's, so that both libraries see one environment.
///
/// # Safety
/// `name` is a C string.
#[cfg(test)]
pub(crate) unsafe fn getenv(name: *const crate::types::c_char) -> *mut crate::types::c_char {
    use crate::types::c_char;
    unsafe extern "C" {
        fn getenv(name: *const c_char) -> *mut c_char;
    }
    // SAFETY: the host's, with the caller's string.
    unsafe { getenv(name) }
}
