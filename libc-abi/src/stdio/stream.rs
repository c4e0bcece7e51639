//! What stands behind a stream: a descriptor, a program's callbacks, or memory.

use super::file::FILE;
use crate::kcall;
use crate::types::*;
use platform::Errno;

/// The four operations of a stream's other end, and a look after a flush.
pub(crate) struct Ops {
    /// Reads up to `len` bytes; 0 is the end of the file.
    pub(crate) read: unsafe fn(&mut FILE, *mut u8, usize) -> Result<usize, Errno>,
    /// Writes some of `len` bytes; 0 is an error without a number (glibc's cookies).
    pub(crate) write: unsafe fn(&mut FILE, *const u8, usize) -> Result<usize, Errno>,
    /// Moves and answers the position.
    pub(crate) seek: unsafe fn(&mut FILE, i64, c_int) -> Result<i64, Errno>,
    /// Ends; the answer of `fclose`.
    pub(crate) close: unsafe fn(&mut FILE) -> Result<usize, Errno>,
    /// Called when a flush is complete.
    pub(crate) synced: unsafe fn(&mut FILE),
}

pub(crate) unsafe fn nothing(_: &mut FILE) {}

/// A descriptor.
pub(crate) static FD_OPS: Ops =
    Ops { read: fd_read, write: fd_write, seek: fd_seek, close: fd_close, synced: nothing };

unsafe fn fd_read(file: &mut FILE, into: *mut u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: the memory is the stream's buffer or the caller's.
    unsafe { kcall!(read, file.fileno, into, len) }
}

unsafe fn fd_write(file: &mut FILE, from: *const u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: as above.
    unsafe { kcall!(write, file.fileno, from, len) }
}

unsafe fn fd_seek(file: &mut FILE, offset: i64, whence: c_int) -> Result<i64, Errno> {
    // SAFETY: no memory is involved.
    unsafe { kcall!(lseek, file.fileno, offset, whence).map(|at| at as i64) }
}

unsafe fn fd_close(file: &mut FILE) -> Result<usize, Errno> {
    // SAFETY: the stream owns the descriptor.
    unsafe { kcall!(close, file.fileno) }
}
