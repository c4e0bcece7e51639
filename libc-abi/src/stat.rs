//! <sys/stat.h>, <sys/statfs.h>, <sys/statvfs.h>, <utime.h>: what files are. C's `struct stat` is the
//! kernel's on x86-64. The `__xstat` family is what programs built before 2.33 call (trap 13).

use crate::errno;
use crate::kcall;
use crate::types::*;
use crate::wrappers;
use platform::Errno;
use platform::time::Timespec;

const AT_FDCWD: c_int = -100;
const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
/// `_STAT_VER` of x86-64; the kernel's (0) has the same layout.
const STAT_VERSIONS: core::ops::RangeInclusive<c_int> = 0..=1;

/// `struct stat`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Stat {
    pub device: u64,
    pub inode: u64,
    pub links: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pad: u32,
    pub special: u64,
    pub size: i64,
    pub block_size: i64,
    pub blocks: i64,
    pub accessed: Timespec,
    pub modified: Timespec,
    pub changed: Timespec,
    reserved: [i64; 3],
}

const _: () = assert!(size_of::<Stat>() == 144 && core::mem::offset_of!(Stat, changed) == 104);

/// `struct statvfs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct StatVfs {
    block_size: u64,
    fragment_size: u64,
    blocks: u64,
    free: u64,
    available: u64,
    files: u64,
    files_free: u64,
    files_available: u64,
    id: u64,
    flags: u64,
    name_max: u64,
    spare: [i32; 6],
}

const _: () = assert!(size_of::<StatVfs>() == 112);

/// The kernel's `struct statfs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct StatFs {
    kind: i64,
    block_size: i64,
    blocks: u64,
    free: u64,
    available: u64,
    files: u64,
    files_free: u64,
    id: [i32; 2],
    name_max: i64,
    fragment_size: i64,
    flags: i64,
    spare: [i64; 4],
}

const _: () = assert!(size_of::<StatFs>() == 120);

/// Whether two names lead to one file.
pub(crate) unsafe fn same_file(a: *const c_char, b: *const c_char) -> bool {
    let (mut first, mut second) = (Stat::default(), Stat::default());
    // SAFETY: the caller's names, our own structs.
    let both = unsafe { kcall!(stat, a, &raw mut first).is_ok() && kcall!(stat, b, &raw mut second).is_ok() };
    both && (first.device, first.inode) == (second.device, second.inode)
}

wrappers! { EXPORTS "libc.so.6":
    /// stat(2).
    "GLIBC_2.33" plain stat(path: *const c_char, to: *mut Stat) -> c_int = newfstatat(AT_FDCWD, path, to, 0);
    /// lstat(2).
    "GLIBC_2.33" plain lstat(path: *const c_char, to: *mut Stat) -> c_int
        = newfstatat(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW);
    /// fstat(2).
    "GLIBC_2.33" plain fstat(fd: c_int, to: *mut Stat) -> c_int = fstat(fd, to);
    /// fstatat(2).
    "GLIBC_2.33" plain fstatat(dir: c_int, path: *const c_char, to: *mut Stat, flags: c_int) -> c_int
        = newfstatat(dir, path, to, flags);
    /// statx(2).
    "GLIBC_2.28" plain statx(dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut c_void) -> c_int
        = statx(dir, path, flags, mask, to);
    /// chmod(2).
    "GLIBC_2.2.5" plain chmod(path: *const c_char, mode: mode_t) -> c_int = chmod(path, mode);
    /// fchmod(2).
    "GLIBC_2.2.5" plain fchmod(fd: c_int, mode: mode_t) -> c_int = fchmod(fd, mode);
    /// umask(2).
    "GLIBC_2.2.5" plain umask(mask: mode_t) -> mode_t = umask(mask);
    /// mkdir(2).
    "GLIBC_2.2.5" plain mkdir(path: *const c_char, mode: mode_t) -> c_int = mkdir(path, mode);
    /// mkdirat(2).
    "GLIBC_2.4" plain mkdirat(dir: c_int, path: *const c_char, mode: mode_t) -> c_int = mkdirat(dir, path, mode);
    /// mknod(2).
    "GLIBC_2.33" plain mknod(path: *const c_char, mode: mode_t, device: u64) -> c_int
        = mknodat(AT_FDCWD, path, mode, device);
    /// mknodat(2).
    "GLIBC_2.33" plain mknodat(dir: c_int, path: *const c_char, mode: mode_t, device: u64) -> c_int
        = mknodat(dir, path, mode, device);
    /// mkfifo(3).
    "GLIBC_2.2.5" plain mkfifo(path: *const c_char, mode: mode_t) -> c_int = mknodat(AT_FDCWD, path, mode | S_IFIFO, 0);
    /// mkfifoat(3).
    "GLIBC_2.4" plain mkfifoat(dir: c_int, path: *const c_char, mode: mode_t) -> c_int
        = mknodat(dir, path, mode | S_IFIFO, 0);
    /// utimensat(2).
    "GLIBC_2.6" plain utimensat(dir: c_int, path: *const c_char, times: *const Timespec, flags: c_int) -> c_int
        = utimensat(dir, path, times, flags);
    /// futimens(3).
    "GLIBC_2.6" plain futimens(fd: c_int, times: *const Timespec) -> c_int = utimensat(fd, 0, times, 0);
    /// statfs(2).
    "GLIBC_2.2.5" plain statfs(path: *const c_char, to: *mut c_void) -> c_int = statfs(path, to);
    /// fstatfs(2).
    "GLIBC_2.2.5" plain fstatfs(fd: c_int, to: *mut c_void) -> c_int = fstatfs(fd, to);
}

const S_IFIFO: mode_t = 0o010000;

abi! { MORE "libc.so.6":
    /// fchmodat(2): without a flag that the kernel's call lacks.
    "GLIBC_2.4" fn fchmodat(dir: c_int, path: *const c_char, mode: mode_t, flags: c_int) -> c_int {
        errno::int(match flags {
            // SAFETY: the program's path.
            0 => unsafe { kcall!(fchmodat, dir, path, mode) },
            // SAFETY: as above.
            AT_SYMLINK_NOFOLLOW => unsafe { chmod_unless_link(dir, path, mode) },
            _ => Err(Errno::EINVAL),
        })
    }
    /// lchmod(3).
    "GLIBC_2.3.2" fn lchmod(path: *const c_char, mode: mode_t) -> c_int {
        // SAFETY: the program's path.
        unsafe { fchmodat(AT_FDCWD, path, mode, AT_SYMLINK_NOFOLLOW) }
    }
    /// utime(2).
    "GLIBC_2.2.5" fn utime(path: *const c_char, times: *const [time_t; 2]) -> c_int {
        // SAFETY: the program's path and times.
        unsafe {
            let given = times.as_ref().map(|t| t.map(|sec| Timespec { sec, nsec: 0 }));
            set_times(AT_FDCWD, path, given, 0)
        }
    }
    /// utimes(2).
    "GLIBC_2.2.5" fn utimes(path: *const c_char, times: *const [[i64; 2]; 2]) -> c_int {
        // SAFETY: the program's path and times; so below.
        unsafe { set_timevals(AT_FDCWD, path, times, 0) }
    }
    /// lutimes(3).
    "GLIBC_2.3" fn lutimes(path: *const c_char, times: *const [[i64; 2]; 2]) -> c_int {
        // SAFETY: as above.
        unsafe { set_timevals(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) }
    }
    /// futimesat(2).
    "GLIBC_2.4" fn futimesat(dir: c_int, path: *const c_char, times: *const [[i64; 2]; 2]) -> c_int {
        // SAFETY: as above.
        unsafe { set_timevals(dir, path, times, 0) }
    }
    /// futimes(3).
    "GLIBC_2.3" fn futimes(fd: c_int, times: *const [[i64; 2]; 2]) -> c_int {
        // SAFETY: as above.
        unsafe { set_timevals(fd, core::ptr::null(), times, 0) }
    }
    /// statvfs(3).
    "GLIBC_2.2.5" fn statvfs(path: *const c_char, to: *mut StatVfs) -> c_int {
        let mut from = StatFs::default();
        // SAFETY: the program's path, our own struct.
        unsafe { convert(kcall!(statfs, path, &raw mut from), &from, to) }
    }
    /// fstatvfs(3).
    "GLIBC_2.2.5" fn fstatvfs(fd: c_int, to: *mut StatVfs) -> c_int {
        let mut from = StatFs::default();
        // SAFETY: our own struct.
        unsafe { convert(kcall!(fstatfs, fd, &raw mut from), &from, to) }
    }
    /// `stat` of programs built before 2.33.
    "GLIBC_2.2.5" fn __xstat(version: c_int, path: *const c_char, to: *mut Stat) -> c_int {
        // SAFETY: the program's path and struct; so below.
        versioned(version, || unsafe { stat(path, to) })
    }
    /// `lstat` of programs built before 2.33.
    "GLIBC_2.2.5" fn __lxstat(version: c_int, path: *const c_char, to: *mut Stat) -> c_int {
        // SAFETY: as above.
        versioned(version, || unsafe { lstat(path, to) })
    }
    /// `fstat` of programs built before 2.33.
    "GLIBC_2.2.5" fn __fxstat(version: c_int, fd: c_int, to: *mut Stat) -> c_int {
        // SAFETY: as above.
        versioned(version, || unsafe { fstat(fd, to) })
    }
    /// `fstatat` of programs built before 2.33.
    "GLIBC_2.4" fn __fxstatat(version: c_int, dir: c_int, path: *const c_char, to: *mut Stat, flags: c_int) -> c_int {
        // SAFETY: as above.
        versioned(version, || unsafe { fstatat(dir, path, to, flags) })
    }
    /// `mknod` of programs built before 2.33.
    "GLIBC_2.2.5" fn __xmknod(version: c_int, path: *const c_char, mode: mode_t, device: *const u64) -> c_int {
        // SAFETY: as above.
        versioned(version, || unsafe { mknod(path, mode, *device) })
    }
    /// `mknodat` of programs built before 2.33.
    "GLIBC_2.4" fn __xmknodat(version: c_int, dir: c_int, path: *const c_char, mode: mode_t, device: *const u64) -> c_int {
        // SAFETY: as above.
        versioned(version, || unsafe { mknodat(dir, path, mode, *device) })
    }
    /// makedev(3).
    "GLIBC_2.3.3" fn gnu_dev_makedev(major: c_uint, minor: c_uint) -> u64 {
        let (major, minor) = (u64::from(major), u64::from(minor));
        (major & 0xfff) << 8 | (major & 0xffff_f000) << 32 | minor & 0xff | (minor & 0xffff_ff00) << 12
    }
    /// major(3).
    "GLIBC_2.3.3" fn gnu_dev_major(device: u64) -> c_uint {
        (device >> 8 & 0xfff | device >> 32 & 0xffff_f000) as c_uint
    }
    /// minor(3).
    "GLIBC_2.3.3" fn gnu_dev_minor(device: u64) -> c_uint {
        (device & 0xff | device >> 12 & 0xffff_ff00) as c_uint
    }
    /// ftok(3).
    "GLIBC_2.2.5" fn ftok(path: *const c_char, project: c_int) -> c_int {
        let mut state = Stat::default();
        // SAFETY: the program's path, our own struct.
        match unsafe { kcall!(stat, path, &raw mut state) } {
            Ok(_) => (state.inode as u32 & 0xffff | (state.device as u32 & 0xff) << 16 | (project as u32 & 0xff) << 24) as c_int,
            Err(errno) => errno::int(Err(errno)),
        }
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.33" "stat64" = stat;
    alias "GLIBC_2.33" "lstat64" = lstat;
    alias "GLIBC_2.33" "fstat64" = fstat;
    alias "GLIBC_2.33" "fstatat64" = fstatat;
    alias "GLIBC_2.2.5" "__xstat64" = __xstat;
    alias "GLIBC_2.2.5" "__lxstat64" = __lxstat;
    alias "GLIBC_2.2.5" "__fxstat64" = __fxstat;
    alias "GLIBC_2.4" "__fxstatat64" = __fxstatat;
    alias "GLIBC_2.2.5" "statfs64" = statfs;
    alias "GLIBC_2.2.5" "__statfs" = statfs;
    alias "GLIBC_2.2.5" "fstatfs64" = fstatfs;
    alias "GLIBC_2.2.5" "statvfs64" = statvfs;
    alias "GLIBC_2.2.5" "fstatvfs64" = fstatvfs;
}

fn versioned(version: c_int, call: impl FnOnce() -> c_int) -> c_int {
    if STAT_VERSIONS.contains(&version) { call() } else { errno::int(Err(Errno::EINVAL)) }
}

/// fchmodat with AT_SYMLINK_NOFOLLOW, as glibc does it before fchmodat2(2): through /proc, links refused.
unsafe fn chmod_unless_link(dir: c_int, path: *const c_char, mode: mode_t) -> Result<usize, Errno> {
    const O_PATH: c_int = 0o10000000;
    const O_NOFOLLOW: c_int = 0o400000;
    const S_IFMT: u32 = 0o170000;
    const S_IFLNK: u32 = 0o120000;
    let mut state = Stat::default();
    // SAFETY: the caller's path, our own struct and path.
    unsafe {
        let fd = kcall!(openat, dir, path, O_PATH | O_NOFOLLOW | crate::fcntl::O_CLOEXEC, 0)?;
        let result = kcall!(fstat, fd, &raw mut state).and_then(|_| {
            if state.mode & S_IFMT == S_IFLNK {
                return Err(Errno::EOPNOTSUPP);
            }
            let through = alloc::format!("/proc/self/fd/{fd}\0");
            kcall!(chmod, through.as_ptr(), mode)
        });
        let _ = kcall!(close, fd);
        result
    }
}

unsafe fn set_times(dir: c_int, path: *const c_char, times: Option<[Timespec; 2]>, flags: c_int) -> c_int {
    let times = times.as_ref().map_or(core::ptr::null(), |t| t.as_ptr());
    // SAFETY: the caller's path, our own times.
    errno::int(unsafe { kcall!(utimensat, dir, path, times, flags) })
}

unsafe fn set_timevals(dir: c_int, path: *const c_char, times: *const [[i64; 2]; 2], flags: c_int) -> c_int {
    // SAFETY: the caller's path and times.
    unsafe {
        let Some(given) = times.as_ref() else { return set_times(dir, path, None, flags) };
        if given.iter().any(|t| !(0..1_000_000).contains(&t[1])) {
            return errno::int(Err(Errno::EINVAL));
        }
        set_times(dir, path, Some(given.map(|[sec, usec]| Timespec { sec, nsec: usec * 1000 })), flags)
    }
}

unsafe fn convert(result: Result<usize, Errno>, from: &StatFs, to: *mut StatVfs) -> c_int {
    /// The kernel says that `f_flags` is valid.
    const ST_VALID: i64 = 0x20;
    if result.is_ok() {
        let fragment = if from.fragment_size == 0 { from.block_size } else { from.fragment_size };
        let full = StatVfs {
            block_size: from.block_size as u64,
            fragment_size: fragment as u64,
            blocks: from.blocks,
            free: from.free,
            available: from.available,
            files: from.files,
            files_free: from.files_free,
            files_available: from.files_free,
            id: u64::from(from.id[0] as u32) | u64::from(from.id[1] as u32) << 32,
            flags: (from.flags & !ST_VALID) as u64,
            name_max: from.name_max as u64,
            spare: [0; 6],
        };
        // SAFETY: the program's struct.
        unsafe { to.write(full) };
    }
    errno::int(result.map(|_| 0))
}
