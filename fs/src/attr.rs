//! What is known about a file without its bytes: type, rights, owner, size, times.

use platform::time::{CLOCK_REALTIME, Timespec, clock_gettime};

/// The kernel's `struct stat` of x86-64 (asm/stat.h): what `fstat` gives, glibc's too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub nlink: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub pad0: u32,
    pub rdev: u64,
    pub size: i64,
    pub blksize: i64,
    pub blocks: i64,
    pub atime: i64,
    pub atime_nsec: u64,
    pub mtime: i64,
    pub mtime_nsec: u64,
    pub ctime: i64,
    pub ctime_nsec: u64,
    pub unused: [i64; 3],
}
const _: () = assert!(core::mem::size_of::<Stat>() == 144);

/// The kernel's `struct statfs` of x86-64 (asm-generic/statfs.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StatFs {
    pub kind: i64,
    pub bsize: i64,
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub fsid: [i32; 2],
    pub namelen: i64,
    pub frsize: i64,
    pub flags: i64,
    pub spare: [i64; 4],
}
const _: () = assert!(core::mem::size_of::<StatFs>() == 120);

/// `S_IFMT`: the type bits of a mode (inode(7)).
pub const S_IFMT: u32 = 0o170000;
/// A socket.
pub const S_IFSOCK: u32 = 0o140000;
/// A symbolic link.
pub const S_IFLNK: u32 = 0o120000;
/// A regular file.
pub const S_IFREG: u32 = 0o100000;
/// A block device.
pub const S_IFBLK: u32 = 0o060000;
/// A directory.
pub const S_IFDIR: u32 = 0o040000;
/// A character device.
pub const S_IFCHR: u32 = 0o020000;
/// A FIFO.
pub const S_IFIFO: u32 = 0o010000;

impl Stat {
    /// Whether the type bits are `kind`.
    pub const fn is(&self, kind: u32) -> bool {
        self.mode & S_IFMT == kind
    }

    /// Sets all three times.
    pub fn set_times(&mut self, now: Timespec) {
        self.set_atime(now);
        self.set_mtime(now);
        self.set_ctime(now);
    }

    /// Sets the time of the last read.
    pub fn set_atime(&mut self, at: Timespec) {
        (self.atime, self.atime_nsec) = (at.sec, at.nsec as u64);
    }

    /// Sets the time of the last change of content.
    pub fn set_mtime(&mut self, at: Timespec) {
        (self.mtime, self.mtime_nsec) = (at.sec, at.nsec as u64);
    }

    /// Sets the time of the last change of anything.
    pub fn set_ctime(&mut self, at: Timespec) {
        (self.ctime, self.ctime_nsec) = (at.sec, at.nsec as u64);
    }
}

/// The `d_type` of getdents64(2) for a mode.
pub const fn dirent_type(mode: u32) -> u8 {
    ((mode & S_IFMT) >> 12) as u8
}

/// A device number, as `makedev` and the kernel's `huge_encode_dev` for small numbers.
pub const fn device(major: u32, minor: u32) -> u64 {
    ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)) as u64
}

/// The wall clock, for time stamps.
pub fn wall_clock() -> Timespec {
    clock_gettime(CLOCK_REALTIME).unwrap_or_default()
}

/// Who acts: the file system identity of a process (credentials(7)), for what the host does not judge.
#[derive(Clone, Debug, Default)]
pub struct Cred {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: alloc::sync::Arc<[u32]>,
}

impl Cred {
    /// Whether these rights (4 read, 2 write, 1 execute or search) are given on such a file
    /// (path_resolution(7): owner, then group, then others; root passes but for executing).
    pub fn permits(&self, stat: &Stat, want: u32) -> bool {
        if self.uid == 0 {
            return want & 1 == 0 || stat.is(S_IFDIR) || stat.mode & 0o111 != 0;
        }
        let shift = if self.uid == stat.uid {
            6
        } else if self.gid == stat.gid || self.groups.contains(&stat.gid) {
            3
        } else {
            0
        };
        (stat.mode >> shift) & want == want
    }

    /// Whether this identity may change rights and times of such a file.
    pub fn owns(&self, stat: &Stat) -> bool {
        self.uid == 0 || self.uid == stat.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_owner_then_group_then_others() {
        let cred = |uid, gid| Cred { uid, gid, groups: [7].into() };
        let stat = Stat { mode: S_IFREG | 0o640, uid: 1, gid: 2, ..Stat::default() };
        assert!(cred(1, 9).permits(&stat, 6));
        assert!(cred(3, 2).permits(&stat, 4));
        assert!(!cred(3, 2).permits(&stat, 2));
        assert!(!cred(3, 3).permits(&stat, 4));
        assert!(cred(0, 0).permits(&stat, 6));
        assert!(!cred(0, 0).permits(&stat, 1));
        // An owner without rights is not helped by the rights of others.
        let odd = Stat { mode: S_IFREG | 0o007, uid: 1, gid: 7, ..Stat::default() };
        assert!(!cred(1, 1).permits(&odd, 4));
        assert!(!cred(3, 3).permits(&odd, 4));
        assert_eq!(device(1, 3), 0x103);
        assert_eq!(dirent_type(S_IFDIR), 4);
    }
}
