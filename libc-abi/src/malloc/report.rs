//! A corrupted heap ends the program, in glibc's words: scripts and people look for them.

use crate::kcall;

#[cold]
pub(super) fn double_free() -> ! {
    die("free(): double free detected in tcache 2\n")
}

#[cold]
pub(super) fn invalid_free() -> ! {
    die("free(): invalid pointer\n")
}

#[cold]
pub(super) fn invalid_realloc() -> ! {
    die("realloc(): invalid pointer\n")
}

fn die(text: &str) -> ! {
    // SAFETY: writes our own text.
    let _ = unsafe { kcall!(write, 2, text.as_ptr(), text.len()) };
    // SAFETY: ends the process.
    unsafe { crate::start::abort() }
}
