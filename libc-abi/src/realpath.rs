//! realpath(3): a path without links, `.` and `..`.
//!
//! Each component is asked by readlink(2): a link is put in front of what is left, EINVAL says that it
//! is there and no link, anything else is the answer's error. So there is no state but the two strings.

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
const PATH_MAX: usize = 4096;
/// Linux's own limit (namei.h: MAXSYMLINKS).
const LINKS_MAX: usize = 40;

/// The real name, or the error and the name that it is about.
fn resolve(path: &[u8]) -> Result<Vec<u8>, (Errno, Vec<u8>)> {
    if path.is_empty() {
        return Err((Errno::ENOENT, Vec::new()));
    }
    let mut real = Vec::new();
    if path[0] != b'/' {
        real = working_directory().map_err(|errno| (errno, Vec::new()))?;
    }
    // What is still to walk, last component first in reading order: a plain string with a cursor.
    let mut rest = path.to_vec();
    let mut links = 0;
    loop {
        let start = rest.iter().position(|&c| c != b'/').unwrap_or(rest.len());
        let end = rest[start..].iter().position(|&c| c == b'/').map_or(rest.len(), |length| start + length);
        let (component, tail) = (rest[start..end].to_vec(), rest[end..].to_vec());
        match &component[..] {
            b"" => break,
            b"." => {}
            b".." => real.truncate(real.iter().rposition(|&c| c == b'/').unwrap_or(0)),
            name => {
                let before = real.len();
                real.push(b'/');
                real.extend_from_slice(name);
                match read_link(&real) {
                    Ok(target) => {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err((Errno::ELOOP, real));
                        }
                        real.truncate(if target.first() == Some(&b'/') { 0 } else { before });
                        rest = [&target[..], &tail].concat();
                        continue;
                    }
                    Err(Errno::EINVAL) if !wants_directory(&tail) => {}
                    Err(Errno::EINVAL) => check_directory(&real).map_err(|errno| (errno, real.clone()))?,
                    Err(errno) => return Err((errno, real)),
                }
            }
        }
        rest = tail;
    }
    if real.is_empty() {
        real.push(b'/');
    }
    if real.len() >= PATH_MAX {
        return Err((Errno::ENAMETOOLONG, real));
    }
    Ok(real)
}

/// Whether the walk would otherwise not notice that the component is no directory: only slashes, dots
/// or a `..` follow.
fn wants_directory(mut tail: &[u8]) -> bool {
    while tail.first() == Some(&b'/') {
        let start = tail.iter().position(|&c| c != b'/').unwrap_or(tail.len());
        tail = &tail[start..];
        match tail {
            [] | [b'.'] | [b'.', b'.'] | [b'.', b'.', b'/', ..] => return true,
            [b'.', b'/', ..] => tail = &tail[1..],
            _ => return false,
        }
    }
    false
}

fn check_directory(path: &[u8]) -> Result<(), Errno> {
    let name = [path, b"/\0"].concat();
    // SAFETY: a C string.
    unsafe { kcall!(faccessat, AT_FDCWD, name.as_ptr(), 0) }.map(drop)
}

fn read_link(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let name = [path, b"\0"].concat();
    let mut target = alloc::vec![0u8; PATH_MAX];
    // SAFETY: a C string in, our buffer out.
    let length = unsafe { kcall!(readlinkat, AT_FDCWD, name.as_ptr(), target.as_mut_ptr(), PATH_MAX) }?;
    target.truncate(length);
    Ok(target)
}

fn working_directory() -> Result<Vec<u8>, Errno> {
    let mut buffer = alloc::vec![0u8; PATH_MAX];
    // SAFETY: our buffer.
    let length = unsafe { kcall!(getcwd, buffer.as_mut_ptr(), PATH_MAX) }?;
    buffer.truncate(length - 1);
    match &buffer[..] {
        b"/" => Ok(Vec::new()),
        // "(unreachable)": the directory is outside of the root.
        [b'/', ..] => Ok(buffer),
        _ => Err(Errno::ENOENT),
    }
}

unsafe fn store(name: &[u8], into: *mut c_char) {
    core::ptr::copy_nonoverlapping(name.as_ptr(), into.cast(), name.len());
    into.add(name.len()).write(0);
}

abi! { EXPORTS "libc.so.6":
    /// realpath(3). On EACCES and ENOENT a caller's buffer gets the name that could not be resolved.
    "GLIBC_2.3" fn realpath(path: *const c_char, into: *mut c_char) -> *mut c_char {
        if path.is_null() {
            errno::set(Errno::EINVAL);
            return null_mut();
        }
        match resolve(CStr::from_ptr(path).to_bytes()) {
            Ok(real) => {
                let into = if into.is_null() { malloc::malloc(real.len() + 1).cast() } else { into };
                if into.is_null() {
                    errno::set(Errno::ENOMEM);
                } else {
                    store(&real, into);
                }
                into
            }
            Err((errno, about)) => {
                if !into.is_null() && matches!(errno, Errno::EACCES | Errno::ENOENT) && about.len() < PATH_MAX {
                    store(&about, into);
                }
                errno::set(errno);
                null_mut()
            }
        }
    }
    /// canonicalize_file_name(3).
    "GLIBC_2.2.5" fn canonicalize_file_name(path: *const c_char) -> *mut c_char {
        realpath(path, null_mut())
    }
    /// Checked realpath(3).
    "GLIBC_2.4" fn __realpath_chk(path: *const c_char, into: *mut c_char, room: usize) -> *mut c_char {
        if room < PATH_MAX {
            crate::fortify::__chk_fail();
        }
        realpath(path, into)
    }
}

/// realpath before 2.3: a buffer has to be given.
pub unsafe extern "C" fn old_realpath(path: *const c_char, into: *mut c_char) -> *mut c_char {
    if into.is_null() {
        errno::set(Errno::EINVAL);
        return null_mut();
    }
    realpath(path, into)
}

exports! { MORE "libc.so.6":
    compat "GLIBC_2.2.5" "realpath" = old_realpath;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn agrees_with_the_host() {
        let base = std::env::temp_dir().join(std::format!("attacca-realpath-{}", std::process::id()));
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::write(base.join("a/file"), "").unwrap();
        symlink("a/b", base.join("ab")).unwrap();
        symlink("ab/../file", base.join("link")).unwrap();
        symlink("/", base.join("root")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        symlink("gone", base.join("dangling")).unwrap();
        let names = [
            "",
            "a",
            "a/b",
            "a/b/",
            "ab",
            "ab/..",
            "ab/.",
            "link",
            "link/",
            "link/.",
            "link/..",
            "link/x",
            "root",
            "root/usr/",
            "root/..",
            "loop",
            "loop/x",
            "dangling",
            "dangling/..",
            "gone",
            "gone/x",
            "a/file/",
            "a/file/.",
            "a/file/./",
            "a/file/./x",
            "a/file/..",
            "a//b///../file",
            "a/./b/./..",
        ];
        let mut all: std::vec::Vec<_> =
            names.iter().map(|n| std::format!("{}/{n}", base.to_str().unwrap())).collect();
        all.extend(
            ["", "/", "//", "/..", ".", "..", "./src", "/proc/self/cwd", "/proc/self/exe/"].map(Into::into),
        );
        all.push(std::format!("/{}", "x".repeat(300)));
        for name in all {
            let c = std::ffi::CString::new(name.clone()).unwrap();
            let (mut ours, mut theirs) = ([0u8; 4096], [0u8; 4096]);
            // SAFETY: buffers of PATH_MAX.
            unsafe {
                let mine = realpath(c.as_ptr(), ours.as_mut_ptr().cast());
                let my_errno = errno::get();
                let host = libc::realpath(c.as_ptr(), theirs.as_mut_ptr().cast());
                let host_errno = *libc::__errno_location();
                assert_eq!(mine.is_null(), host.is_null(), "{name}");
                if mine.is_null() {
                    assert_eq!(my_errno.0, host_errno, "{name}");
                } else {
                    assert_eq!(
                        CStr::from_bytes_until_nul(&ours).unwrap(),
                        CStr::from_bytes_until_nul(&theirs).unwrap(),
                        "{name}"
                    );
                }
            }
        }
        std::fs::remove_dir_all(base).unwrap();
    }
}
