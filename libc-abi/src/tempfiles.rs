//! Temporary names and files: mkstemp(3) and its family, tmpnam(3), tempnam(3).

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::kcall;
use crate::malloc;
use crate::types::*;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

const AT_FDCWD: isize = -100;
const O_RDWR_CREAT_EXCL: c_int = 0o2 | 0o100 | 0o200;
const O_ACCMODE: c_int = 3;
const MARK: &[u8] = b"XXXXXX";
/// As many tries as glibc makes: 62 to the third.
const ATTEMPTS: usize = 238_328;
/// L_tmpnam.
const TMPNAM_BYTES: usize = 20;

/// Fills the six X before the last `suffix` characters with letters until `make` does not say EEXIST.
/// `template` ends with a zero byte. Without success the X are gone, as in glibc.
pub(crate) unsafe fn create_unique(
    template: &mut [u8],
    suffix: usize,
    make: impl Fn(*const u8) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let Some(end) = (template.len() - 1).checked_sub(suffix) else { return Err(Errno::EINVAL) };
    let Some(start) = end.checked_sub(MARK.len()) else { return Err(Errno::EINVAL) };
    if &template[start..end] != MARK {
        return Err(Errno::EINVAL);
    }
    for _ in 0..ATTEMPTS {
        let mut value = random_bits();
        for letter in &mut template[start..end] {
            *letter = LETTERS[(value % 62) as usize];
            value /= 62;
        }
        match make(template.as_ptr()) {
            Err(Errno::EEXIST) => {}
            other => return other,
        }
    }
    Err(Errno::EEXIST)
}

/// Enough for six letters. Not a secret: the file is made with O_EXCL.
fn random_bits() -> u64 {
    const GRND_NONBLOCK: usize = 1;
    let mut bits = 0u64;
    // SAFETY: eight bytes of our own.
    if unsafe { kcall!(getrandom, &raw mut bits, 8, GRND_NONBLOCK) } != Ok(8) {
        let now = platform::time::clock_gettime(1).unwrap_or_default();
        bits = (now.to_ns() ^ (&raw const bits as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }
    bits
}

unsafe fn with_nul<'a>(template: *mut c_char) -> &'a mut [u8] {
    core::slice::from_raw_parts_mut(template.cast(), CStr::from_ptr(template).count_bytes() + 1)
}

unsafe fn make_file(template: *mut c_char, suffix: c_int, flags: c_int) -> c_int {
    let Ok(suffix) = usize::try_from(suffix) else { return errno::int(Err(Errno::EINVAL)) };
    let flags = flags & !O_ACCMODE | O_RDWR_CREAT_EXCL;
    errno::int(create_unique(with_nul(template), suffix, |path| kcall!(openat, AT_FDCWD, path, flags, 0o600)))
}

/// What a name must be to be free.
unsafe fn is_free(path: *const u8) -> Result<usize, Errno> {
    const AT_SYMLINK_NOFOLLOW: usize = 0x100;
    let mut stat = crate::dir_read::Stat::ZERO;
    match kcall!(newfstatat, AT_FDCWD, path, &raw mut stat, AT_SYMLINK_NOFOLLOW) {
        Ok(_) | Err(Errno::EOVERFLOW) => Err(Errno::EEXIST),
        Err(Errno::ENOENT) => Ok(0),
        Err(errno) => Err(errno),
    }
}

abi! { EXPORTS "libc.so.6":
    /// mkstemp(3).
    "GLIBC_2.2.5" fn mkstemp(template: *mut c_char) -> c_int {
        make_file(template, 0, 0)
    }
    /// mkostemp(3).
    "GLIBC_2.7" fn mkostemp(template: *mut c_char, flags: c_int) -> c_int {
        make_file(template, 0, flags)
    }
    /// mkstemps(3).
    "GLIBC_2.11" fn mkstemps(template: *mut c_char, suffix: c_int) -> c_int {
        make_file(template, suffix, 0)
    }
    /// mkostemps(3).
    "GLIBC_2.11" fn mkostemps(template: *mut c_char, suffix: c_int, flags: c_int) -> c_int {
        make_file(template, suffix, flags)
    }
    /// mkdtemp(3).
    "GLIBC_2.2.5" fn mkdtemp(template: *mut c_char) -> *mut c_char {
        errno::or_null(
            create_unique(with_nul(template), 0, |path| kcall!(mkdirat, AT_FDCWD, path, 0o700)).map(|_| template),
        )
    }
    /// mktemp(3): an empty string if there is none.
    "GLIBC_2.2.5" fn mktemp(template: *mut c_char) -> *mut c_char {
        if let Err(errno) = create_unique(with_nul(template), 0, |path| is_free(path)) {
            errno::set(errno);
            template.write(0);
        }
        template
    }
    /// tmpnam(3).
    "GLIBC_2.2.5" fn tmpnam(into: *mut c_char) -> *mut c_char {
        static BUFFER: crate::data::DataCell<[u8; TMPNAM_BYTES]> = crate::data::DataCell::new([0; TMPNAM_BYTES]);
        let mut name = *b"/tmp/fileXXXXXX\0";
        if create_unique(&mut name, 0, |path| is_free(path)).is_err() {
            return null_mut();
        }
        let into = if into.is_null() { BUFFER.get().cast() } else { into };
        core::ptr::copy_nonoverlapping(name.as_ptr(), into.cast(), name.len());
        into
    }
    /// tmpnam_r(3): as tmpnam, but null stays null.
    "GLIBC_2.2.5" fn tmpnam_r(into: *mut c_char) -> *mut c_char {
        if into.is_null() { null_mut() } else { tmpnam(into) }
    }
    /// tempnam(3): in $TMPDIR, `directory` or /tmp, whichever exists first.
    "GLIBC_2.2.5" fn tempnam(directory: *const c_char, prefix: *const c_char) -> *mut c_char {
        let given = |text: *const c_char| if text.is_null() { &[][..] } else { CStr::from_ptr(text).to_bytes() };
        let variable = crate::env::secure_getenv(c"TMPDIR".as_ptr());
        let candidates = [given(variable), given(directory), b"/tmp"];
        let Some(found) = candidates.into_iter().find(|path| is_directory(path)) else {
            errno::set(Errno::ENOENT);
            return null_mut();
        };
        let end = found.iter().rposition(|&c| c != b'/').map_or(0, |last| last + 1);
        let prefix = match given(prefix) {
            [] => b"file",
            long => &long[..long.len().min(5)],
        };
        let mut name: Vec<u8> = [&found[..end], b"/", prefix, MARK, b"\0"].concat();
        if let Err(errno) = create_unique(&mut name, 0, |path| is_free(path)) {
            errno::set(errno);
            return null_mut();
        }
        let copy = malloc::malloc(name.len()).cast::<u8>();
        if !copy.is_null() {
            core::ptr::copy_nonoverlapping(name.as_ptr(), copy, name.len());
        }
        copy.cast()
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "mkstemp64" = mkstemp;
    alias "GLIBC_2.7" "mkostemp64" = mkostemp;
    alias "GLIBC_2.11" "mkstemps64" = mkstemps;
    alias "GLIBC_2.11" "mkostemps64" = mkostemps;
}

fn is_directory(path: &[u8]) -> bool {
    !path.is_empty() && crate::dir_read::stat(path, true).is_ok_and(|stat| stat.is_directory())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_files_and_directories() {
        let mut name = *b"/tmp/attacca-XXXXXX.txt\0";
        let mut bad = *b"/tmp/attacca-XXXXX\0";
        let mut directory = *b"/tmp/attacca-dXXXXXX\0";
        // SAFETY: our own templates.
        unsafe {
            let fd = mkostemps(name.as_mut_ptr().cast(), 4, 0o2_000_000);
            assert!(fd >= 0);
            assert_eq!(kcall!(fcntl, fd, 1), Ok(1), "O_CLOEXEC");
            assert!(name.ends_with(b".txt\0") && &name[13..19] != MARK);
            assert_eq!(kcall!(unlink, name.as_ptr()), Ok(0));
            assert_eq!(kcall!(close, fd), Ok(0));
            assert_eq!(mkstemp(bad.as_mut_ptr().cast()), -1);
            assert_eq!(errno::get(), Errno::EINVAL);
            assert!(!mkdtemp(directory.as_mut_ptr().cast()).is_null());
            assert_eq!(kcall!(rmdir, directory.as_ptr()), Ok(0));
            let free = tempnam(c"/var/tmp".as_ptr(), c"abcdefgh".as_ptr());
            assert!(CStr::from_ptr(free).to_bytes().starts_with(b"/var/tmp/abcde"));
            malloc::free(free.cast());
            assert!(!tmpnam(null_mut()).is_null());
        }
    }
}
