//! A file of a file system inside the guest: what ramfs, devfs, procfs and sysfs implement.
//!
//! Defaults answer what Linux answers where an operation does not apply. Names are single path
//! components. Rights are judged by the caller ([`crate::view`]), not here.

use crate::attr::{Stat, StatFs};
use crate::host::HostFd;
use crate::mount::Place;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use platform::errno::{Errno, Result};
use platform::time::Timespec;

/// What `create` shall make.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Type and rights (`S_IFREG | 0o644`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Text of a symbolic link.
    pub target: &'a [u8],
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// Type, as getdents64(2)'s `d_type`.
    pub kind: u8,
}

/// A new value for one of the times of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// `UTIME_OMIT`
    Keep,
    /// `UTIME_NOW`
    Now,
    /// A given time.
    At(Timespec),
}

/// What open(2) leads to.
pub enum Opening {
    /// Bytes of the node itself.
    Node(Arc<dyn Vnode>),
    /// A host file instead (`/dev/tty`).
    Host(HostFd),
    /// A host file that must stay as it is: its bytes may be read and mapped, nothing of it changed.
    Unchanged(HostFd),
}

/// A file, directory or link of an inner file system.
#[allow(unused_variables)]
pub trait Vnode: Any + Send + Sync {
    /// stat(2).
    fn stat(&self) -> Stat;

    /// The entry `name` of a directory.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        Err(Errno::ENOTDIR)
    }
    /// All entries but `.` and `..`, in a stable order.
    fn list(&self) -> Result<Vec<Entry>> {
        Err(Errno::ENOTDIR)
    }
    /// Makes the entry `name`: EEXIST if it is there.
    fn create(&self, name: &[u8], new: New<'_>) -> Result<Arc<dyn Vnode>> {
        Err(Errno::EPERM)
    }
    /// Removes the entry `name`: rmdir(2) if `directory`, else unlink(2).
    fn remove(&self, name: &[u8], directory: bool) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// Gives `node` (of the same file system) the further name `name`.
    fn link(&self, name: &[u8], node: &Arc<dyn Vnode>) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// renameat2(2) within the file system; `to` is another directory of it, or this one.
    fn rename(&self, name: &[u8], to: &Arc<dyn Vnode>, new: &[u8], flags: u32) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// The text of a symbolic link.
    fn readlink(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }
    /// Where a link leads that is more than its text (`/proc/self/exe`, proc(5)); `None` for all others.
    fn follow(&self) -> Option<Result<Place>> {
        None
    }

    /// open(2) of something that is not a directory or link.
    fn open(self: Arc<Self>, flags: u32) -> Result<Opening>;
    /// Reads at a position; 0 at the end.
    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// Writes at a position.
    fn write_at(&self, at: u64, from: &[u8]) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// Writes at the end, as one step; answers the bytes and the position after them.
    fn append(&self, from: &[u8]) -> Result<(usize, u64)> {
        let at = self.stat().size as u64;
        self.write_at(at, from).map(|count| (count, at + count as u64))
    }
    /// Sets the size.
    fn truncate(&self, size: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }
    /// Whether the position of reads and writes means something.
    fn seekable(&self) -> bool {
        true
    }
    /// A host descriptor with the same bytes, for mmap, SEEK_HOLE, fallocate: made when first asked for.
    /// Whoever writes through it says so by [`Vnode::touched`].
    fn host(&self) -> Result<Arc<HostFd>> {
        Err(Errno::ENODEV)
    }
    /// The bytes were changed through [`Vnode::host`].
    fn touched(&self) {}

    /// chmod(2): the rights bits.
    fn set_mode(&self, mode: u32) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// chown(2); `None` keeps.
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// utimensat(2): access and modification times.
    fn set_times(&self, atime: NewTime, mtime: NewTime) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// getxattr(2).
    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }
    /// setxattr(2); flag 1 is XATTR_CREATE, 2 XATTR_REPLACE.
    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// removexattr(2).
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// listxattr(2): the names.
    fn xattrs(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    /// statfs(2) of the file system.
    fn statfs(&self) -> StatFs;
}
