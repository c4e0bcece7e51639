//! Messages of library functions (getopt, err) to the standard error stream.

use crate::stdio;

/// Writes a whole message to `stderr`, whatever the program has made of that.
pub(crate) fn to_stderr(message: &[u8]) {
    // SAFETY: `stderr` names an open stream; the message is a live buffer.
    unsafe {
        stdio::bytes::fwrite(message.as_ptr().cast(), 1, message.len(), stdio::file::STDERR.load());
    }
}
