//! Messages of library functions (getopt, err) to the standard error stream.

use crate::kcall;

/// Writes a whole message to descriptor 2; `stderr` is unbuffered, so the order with the program's
/// own messages is kept.
pub(crate) fn to_stderr(mut message: &[u8]) {
    while !message.is_empty() {
        // SAFETY: a live buffer of that length.
        match unsafe { kcall!(write, 2, message.as_ptr(), message.len()) } {
            Ok(written) => message = &message[written..],
            Err(platform::Errno(4)) => {}
            Err(_) => return,
        }
    }
}
