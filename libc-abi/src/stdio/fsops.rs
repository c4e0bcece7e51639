//! The file operations of `<stdio.h>`: remove, rename; and the looks at a descriptor that buffering
//! needs.

use crate::errno;
use crate::kcall;
use crate::types::*;
use platform::Errno;

const AT_FDCWD: c_int = -100;
const AT_REMOVEDIR: c_int = 0x200;
const TCGETS: usize = 0x5401;

/// The kernel's `struct stat` (asm/stat.h), as far as stdio looks.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Stat {
    before: [u64; 3],
    mode: u32,
    ids: [u32; 3],
    rdev: u64,
    size: i64,
    pub(crate) block_size: i64,
    rest: [u64; 10],
}

impl Stat {
    pub(crate) fn is_char_device(&self) -> bool {
        self.mode & 0o170000 == 0o020000
    }
}

/// fstat(2).
pub(crate) fn fstat(fd: c_int) -> Option<Stat> {
    let mut stat = Stat::default();
    // SAFETY: the structure has the kernel's 144 bytes.
    unsafe { kcall!(fstat, fd, &raw mut stat) }.ok().map(|_| stat)
}

/// isatty(3), without touching `errno`.
pub(crate) fn is_terminal(fd: c_int) -> bool {
    let mut termios = [0u8; 64];
    // SAFETY: the kernel's struct termios has 36 bytes.
    unsafe { kcall!(ioctl, fd, TCGETS, &raw mut termios) }.is_ok()
}

/// open(2).
pub(crate) fn open(path: *const c_char, flags: c_int, mode: mode_t) -> Result<c_int, Errno> {
    // SAFETY: a C string; the personality checks it.
    unsafe { kcall!(openat, AT_FDCWD, path, flags, mode).map(|fd| fd as c_int) }
}

/// close(2), the result being of no use.
pub(crate) fn close(fd: c_int) {
    // SAFETY: the caller owns the descriptor.
    let _ = unsafe { kcall!(close, fd) };
}

abi! { EXPORTS "libc.so.6":
    /// remove(3): unlink, or rmdir for a directory.
    "GLIBC_2.2.5" fn remove(path: *const c_char) -> c_int {
        // SAFETY: a C string; the personality checks it.
        unsafe {
            let result = match kcall!(unlinkat, AT_FDCWD, path, 0) {
                Err(Errno::EISDIR | Errno::EPERM) => match kcall!(unlinkat, AT_FDCWD, path, AT_REMOVEDIR) {
                    Err(Errno::ENOTDIR) => Err(Errno::EPERM),
                    other => other,
                },
                other => other,
            };
            errno::int(result)
        }
    }
    /// rename(2).
    "GLIBC_2.2.5" fn rename(old: *const c_char, new: *const c_char) -> c_int {
        // SAFETY: C strings; the personality checks them.
        errno::int(unsafe { kcall!(renameat2, AT_FDCWD, old, AT_FDCWD, new, 0) })
    }
    /// renameat(2).
    "GLIBC_2.4" fn renameat(olddir: c_int, old: *const c_char, newdir: c_int, new: *const c_char) -> c_int {
        // SAFETY: as above.
        errno::int(unsafe { kcall!(renameat2, olddir, old, newdir, new, 0) })
    }
    /// renameat2(2).
    "GLIBC_2.28" fn renameat2(
        olddir: c_int, old: *const c_char, newdir: c_int, new: *const c_char, flags: c_uint,
    ) -> c_int {
        // SAFETY: as above.
        errno::int(unsafe { kcall!(renameat2, olddir, old, newdir, new, flags) })
    }
}

const _: () = assert!(core::mem::size_of::<Stat>() == 144 && core::mem::offset_of!(Stat, block_size) == 56);
