//! What a descriptor refers to: the open file description, and the behaviour behind it.
//!
//! [`File`] is implemented by host files, directories, pipes, sockets, eventfds, epolls and so on.
//! Its methods never sleep: they answer EAGAIN, and [`crate::wait`] turns that into waiting. Default
//! methods answer the errno that Linux gives where the operation does not apply.

use crate::hub::{Events, Hub};
use crate::{Errno, Result};
use alloc::boxed::Box;
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use platform::sync::Lock;

/// `O_APPEND`
pub const O_APPEND: u32 = 0o2000;
/// `O_NONBLOCK`
pub const O_NONBLOCK: u32 = 0o4000;
/// `O_CLOEXEC`
pub const O_CLOEXEC: u32 = 0o2000000;
/// `O_ACCMODE`
pub const O_ACCMODE: u32 = 3;

/// An open file description (POSIX 3.258): shared by `dup`, `fork` and SCM_RIGHTS.
pub struct OpenFile {
    /// The behaviour.
    pub file: Box<dyn File>,
    /// Access mode and status flags (`O_RDWR | O_NONBLOCK | O_APPEND ...`).
    pub flags: AtomicU32,
    /// The file offset; held while a read or write moves it (POSIX: atomic to each other).
    pub offset: Lock<u64>,
    /// Descriptors that refer to it, in all tables and in messages under way (SCM_RIGHTS).
    pub descriptors: AtomicUsize,
    /// Who F_SETOWN named: a process, or a negative process group.
    pub owner: AtomicI32,
    /// Registrations of the description in epolls.
    pub watched: crate::epoll::Links,
}

impl OpenFile {
    /// A description with these status flags, at offset 0.
    pub fn new(file: impl File + 'static, flags: u32) -> OpenFile {
        OpenFile::from_box(Box::new(file), flags)
    }

    /// As [`OpenFile::new`], for a behaviour that is boxed already.
    pub fn from_box(file: Box<dyn File>, flags: u32) -> OpenFile {
        OpenFile {
            file,
            flags: AtomicU32::new(flags),
            offset: Lock::new(0),
            descriptors: AtomicUsize::new(0),
            owner: AtomicI32::new(0),
            watched: crate::epoll::Links::new(),
        }
    }

    /// Whether calls on it must not wait.
    pub fn nonblocking(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & O_NONBLOCK != 0
    }

    /// The behaviour as a concrete type, such as a socket.
    pub fn downcast<T: File + 'static>(&self) -> Option<&T> {
        (&*self.file as &dyn Any).downcast_ref()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // A registration made by a call that raced with the last close.
        crate::epoll::forget(self);
    }
}

/// Bytes that a call brings or takes: the program's buffers, checked on every copy.
/// (`crate::user` implements it for iovecs; kernel-internal callers use slices.)
pub trait Buffer {
    /// Bytes left.
    fn remaining(&self) -> usize;
}

/// Where a read puts bytes.
pub trait Sink: Buffer {
    /// Appends bytes; EFAULT if the program's memory is not there. Answers how many were taken
    /// (fewer only when the buffer is full).
    fn put(&mut self, bytes: &[u8]) -> Result;
    /// The next contiguous piece as raw (address, length) for a host call that fills it directly.
    fn chunk(&mut self) -> (usize, usize);
    /// `count` bytes of the piece from [`Sink::chunk`] were filled.
    fn advance(&mut self, count: usize);
}

/// Where a write takes bytes from.
pub trait Source: Buffer {
    /// Copies the next bytes out, at most `into.len()`; EFAULT if the program's memory is not there.
    fn take(&mut self, into: &mut [u8]) -> Result;
    /// The next contiguous piece as raw (address, length) for a host call that reads it directly.
    fn chunk(&mut self) -> (usize, usize);
    /// `count` bytes of the piece from [`Source::chunk`] were used.
    fn advance(&mut self, count: usize);
}

/// The behaviour of an open file. `at` is the position for files that have one.
#[allow(unused_variables)]
pub trait File: Any + Send + Sync {
    /// Present readiness. Regular files and directories are always ready.
    fn poll(&self) -> Events {
        Events::READABLE | Events::WRITABLE
    }
    /// Where watchers register; `None` means that readiness never changes (epoll_ctl gives EPERM).
    fn hub(&self) -> Option<&Hub> {
        None
    }
    /// read(2) family: reads at `*at` and moves it. EAGAIN if nothing is there yet.
    fn read(&self, open: &OpenFile, at: &mut u64, into: &mut dyn Sink) -> Result {
        Err(Errno::EINVAL)
    }
    /// write(2) family: writes at `*at` and moves it. EAGAIN if no room is there yet.
    fn write(&self, open: &OpenFile, at: &mut u64, from: &mut dyn Source) -> Result {
        Err(Errno::EINVAL)
    }
    /// Whether there is a position: pread, pwrite and lseek give ESPIPE where not.
    fn seekable(&self) -> bool {
        false
    }
    /// lseek(2)'s SEEK_END base: the file's size.
    fn size(&self) -> Result<u64> {
        Err(Errno::ESPIPE)
    }
    /// ioctl(2).
    fn ioctl(&self, open: &OpenFile, command: u32, argument: usize) -> Result {
        Err(Errno::ENOTTY)
    }
    /// fstat(2): writes the kernel's `struct stat` (144 bytes, x86-64) to a kernel buffer.
    fn stat(&self, out: &mut Stat) -> Result<()>;
    /// The file as a socket (`crate::socket`), if it is one. read(2) and write(2) on it go through
    /// `socket::read` and `socket::write`, which know timeouts and SIGPIPE.
    fn as_socket(&self) -> Option<&dyn crate::socket::Socket> {
        None
    }
    /// The host descriptor behind a file that has one, for mmap, fsync, sendfile and the like.
    fn host_fd(&self) -> Option<i32> {
        None
    }
    /// Short text for `--trace` and /proc/self/fd: a path, `socket:[7]`, `anon_inode:[eventfd]`.
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result;
    /// The last descriptor of the description was closed, in every process. Called without locks,
    /// before the description itself is dropped (calls under way may still hold it).
    fn closed(&self, open: &OpenFile) {}
}

pub use fs::Stat;
