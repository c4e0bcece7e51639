//! The host's files: descriptors that close themselves, and the host calls on paths below them.
//!
//! Paths here are relative and resolved beneath a directory descriptor without following symbolic
//! links (openat2(2): `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), so nothing below can leave a
//! directory that was handed out. Links are followed by [`crate::walk`], which knows the mounts.

use crate::attr::{Stat, StatFs};
use alloc::vec::Vec;
use platform::errno::{Errno, Result};
use platform::{hands, host};

/// `O_ACCMODE`
pub const O_ACCMODE: u32 = 3;
/// `O_WRONLY`
pub const O_WRONLY: u32 = 1;
/// `O_RDWR`
pub const O_RDWR: u32 = 2;
/// `O_CREAT`
pub const O_CREAT: u32 = 0o100;
/// `O_EXCL`
pub const O_EXCL: u32 = 0o200;
/// `O_NOCTTY`
pub const O_NOCTTY: u32 = 0o400;
/// `O_TRUNC`
pub const O_TRUNC: u32 = 0o1000;
/// `O_APPEND`
pub const O_APPEND: u32 = 0o2000;
/// `O_NONBLOCK`
pub const O_NONBLOCK: u32 = 0o4000;
/// `O_DIRECTORY`
pub const O_DIRECTORY: u32 = 0o200000;
/// `O_NOFOLLOW`
pub const O_NOFOLLOW: u32 = 0o400000;
/// `O_CLOEXEC`
pub const O_CLOEXEC: u32 = 0o2000000;
/// `O_PATH`
pub const O_PATH: u32 = 0o10000000;
/// The bit that makes `O_TMPFILE` more than `O_DIRECTORY`.
pub const O_TMPFILE_BIT: u32 = 0o20000000;

/// `AT_FDCWD`
pub const AT_FDCWD: i32 = -100;
/// `AT_SYMLINK_NOFOLLOW`
pub const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
/// `AT_EMPTY_PATH`
pub const AT_EMPTY_PATH: u32 = 0x1000;

const RESOLVE_NO_MAGICLINKS: u64 = 2;
const RESOLVE_NO_SYMLINKS: u64 = 4;
const RESOLVE_BENEATH: u64 = 8;

/// A host descriptor that is closed when it is dropped. Valid in every process of a guest, which
/// share one host descriptor table.
#[derive(Debug)]
pub struct HostFd(i32);

impl HostFd {
    /// Takes over a descriptor that nobody else closes.
    pub fn new(fd: i32) -> HostFd {
        hands::keep(fd);
        HostFd(fd)
    }

    /// What the host call `open` makes. Until the running call ends, or [`HostFd::keep`], it is known to be in
    /// that call's hands: if the process is killed, others close it.
    pub fn opened(open: impl FnOnce() -> Result<usize>) -> Result<HostFd> {
        hands::open(open).map(HostFd)
    }

    /// It is going to something that outlives this process. Before it does.
    pub fn keep(&self) {
        hands::keep(self.0);
    }

    /// The host's number.
    pub const fn raw(&self) -> i32 {
        self.0
    }

    /// Opens a host path outside any mount: for start-up and for the runtime's own reading.
    pub fn open_host(path: &[u8], flags: u32, mode: u32) -> Result<HostFd> {
        let path = CPath::new(path)?;
        // SAFETY: the path is a C string that lives during the call.
        HostFd::opened(|| unsafe { host!(openat, AT_FDCWD, path.ptr(), flags | O_CLOEXEC, mode) })
    }

    /// Opens `path` beneath this directory; no symbolic link is followed (ELOOP).
    /// An empty path is this directory itself.
    pub fn open_beneath(&self, path: &[u8], flags: u32, mode: u32) -> Result<HostFd> {
        let path = CPath::new(if path.is_empty() { b"." } else { path })?;
        let creates = flags & (O_CREAT | O_TMPFILE_BIT) != 0;
        // openat2 refuses what openat ignores: a mode without O_CREAT, flags beside O_PATH.
        let flags = if flags & O_PATH != 0 { flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW) } else { flags };
        let how = OpenHow {
            flags: u64::from(flags | O_CLOEXEC),
            mode: if creates { u64::from(mode & 0o7777) } else { 0 },
            resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
        };
        loop {
            // SAFETY: the path is a C string and `how` the kernel's struct open_how; both live on.
            let opened = HostFd::opened(|| unsafe {
                host!(openat2, self.0, path.ptr(), &raw const how, core::mem::size_of::<OpenHow>())
            });
            match opened {
                // openat2(2): EAGAIN when a rename raced with the beneath check; try again.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                opened => return opened,
            }
        }
    }

    /// The text of the symbolic link `name` in this directory; EINVAL if it is not one. With an
    /// empty name, of this descriptor (opened with `O_PATH | O_NOFOLLOW`).
    pub fn readlink(&self, name: &[u8]) -> Result<Vec<u8>> {
        let name = CPath::new(name)?;
        let mut text = alloc::vec![0u8; 256];
        loop {
            // SAFETY: the name is a C string, the buffer ours.
            let len = unsafe { host!(readlinkat, self.0, name.ptr(), text.as_mut_ptr(), text.len()) }?;
            if len < text.len() {
                text.truncate(len);
                return Ok(text);
            }
            text.resize(text.len() * 4, 0);
        }
    }

    /// fstat(2), also for `O_PATH` descriptors.
    pub fn stat(&self) -> Result<Stat> {
        let mut stat = Stat::default();
        // SAFETY: the buffer is ours and of the kernel's layout.
        unsafe { host!(fstat, self.0, &raw mut stat) }?;
        Ok(stat)
    }

    /// lstat(2) of `name` in this directory.
    pub fn stat_at(&self, name: &[u8]) -> Result<Stat> {
        let name = CPath::new(name)?;
        let mut stat = Stat::default();
        // SAFETY: as in `stat`.
        unsafe { host!(newfstatat, self.0, name.ptr(), &raw mut stat, AT_SYMLINK_NOFOLLOW) }?;
        Ok(stat)
    }

    /// fstatfs(2).
    pub fn statfs(&self) -> Result<StatFs> {
        let mut stat = StatFs::default();
        // SAFETY: the buffer is ours and of the kernel's layout.
        unsafe { host!(fstatfs, self.0, &raw mut stat) }?;
        Ok(stat)
    }

    /// pread(2) into kernel memory.
    pub fn pread(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        // SAFETY: the buffer is ours.
        unsafe { host!(pread64, self.0, into.as_mut_ptr(), into.len(), at) }
    }

    /// pwrite(2) from kernel memory.
    pub fn pwrite(&self, at: u64, from: &[u8]) -> Result<usize> {
        // SAFETY: the buffer is ours.
        unsafe { host!(pwrite64, self.0, from.as_ptr(), from.len(), at) }
    }

    /// Everything from the start on.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let len = all.len();
            all.resize(len + 4096, 0);
            let got = self.pread(len as u64, &mut all[len..])?;
            all.truncate(len + got);
            if got == 0 {
                return Ok(all);
            }
        }
    }
}

impl Drop for HostFd {
    fn drop(&mut self) {
        hands::close(self.0);
    }
}

/// The kernel's `struct open_how` (linux/openat2.h).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// A path as the host wants it: NUL-terminated. Short ones stay on the stack; guest threads' stacks
/// may be too small for the longest.
pub struct CPath {
    short: [u8; 128],
    long: Vec<u8>,
}

impl CPath {
    /// Copies the path. ENOENT if it holds a NUL, which no file's name does.
    pub fn new(path: &[u8]) -> Result<CPath> {
        if path.contains(&0) {
            return Err(Errno::ENOENT);
        }
        let mut copy = CPath { short: [0; 128], long: Vec::new() };
        if path.len() < copy.short.len() {
            copy.short[..path.len()].copy_from_slice(path);
        } else {
            copy.long.reserve_exact(path.len() + 1);
            copy.long.extend_from_slice(path);
            copy.long.push(0);
        }
        Ok(copy)
    }

    /// The C string; valid as long as `self` is neither moved nor dropped.
    pub fn ptr(&self) -> *const u8 {
        if self.long.is_empty() { self.short.as_ptr() } else { self.long.as_ptr() }
    }
}
