//! <mntent.h>: tables of mounts, /etc/fstab and /proc/self/mounts.

use crate::malloc::imp;
use crate::stdio::{FILE, fclose, fgets, fopen, fputs};
use crate::types::*;
use core::ffi::CStr;
use core::ptr::null_mut;

/// `struct mntent`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Mount {
    source: *mut c_char,
    folder: *mut c_char,
    kind: *mut c_char,
    options: *mut c_char,
    frequency: c_int,
    pass: c_int,
}

abi! { EXPORTS "libc.so.6":
    /// setmntent(3).
    "GLIBC_2.2.5" fn setmntent(path: *const c_char, mode: *const c_char) -> *mut FILE {
        // SAFETY: the program's strings; so below.
        unsafe { fopen(path, mode) }
    }
    /// endmntent(3): always 1.
    "GLIBC_2.2.5" fn endmntent(file: *mut FILE) -> c_int {
        if !file.is_null() {
            // SAFETY: the program's stream, given up.
            unsafe { fclose(file) };
        }
        1
    }
    /// getmntent_r(3).
    "GLIBC_2.2.5" fn getmntent_r(file: *mut FILE, to: *mut Mount, line: *mut c_char, len: c_int) -> *mut Mount {
        // SAFETY: the program's stream, struct and buffer of `len` bytes.
        unsafe {
            loop {
                if fgets(line, len, file).is_null() {
                    return null_mut();
                }
                let text = core::slice::from_raw_parts_mut(line.cast::<u8>(), CStr::from_ptr(line).count_bytes());
                if !text.ends_with(b"\n") {
                    skip_line(file);
                }
                let blank = text.iter().find(|b| !matches!(b, b' ' | b'\t' | b'\n'));
                if blank.is_none_or(|&b| b == b'#') {
                    continue;
                }
                to.write(parse(line));
                return to;
            }
        }
    }
    /// getmntent(3).
    "GLIBC_2.2.5" fn getmntent(file: *mut FILE) -> *mut Mount {
        const LINE: usize = 4096;
        static BLOCK: crate::data::DataCell<*mut c_void> = crate::data::DataCell::new(null_mut());
        // SAFETY: our own block; the function is not thread-safe (getmntent(3)).
        unsafe {
            if BLOCK.load().is_null() {
                BLOCK.store(imp::malloc(size_of::<Mount>() + LINE));
            }
            let mount: *mut Mount = BLOCK.load().cast();
            if mount.is_null() { null_mut() } else { getmntent_r(file, mount, mount.add(1).cast(), LINE as c_int) }
        }
    }
    /// addmntent(3): 1 on failure.
    "GLIBC_2.2.5" fn addmntent(file: *mut FILE, mount: *const Mount) -> c_int {
        // SAFETY: the program's stream and struct.
        unsafe {
            let mut line = alloc::vec::Vec::new();
            for field in [(*mount).source, (*mount).folder, (*mount).kind, (*mount).options] {
                encode(CStr::from_ptr(field).to_bytes(), &mut line);
                line.push(b' ');
            }
            line.extend_from_slice(alloc::format!("{} {}\n\0", (*mount).frequency, (*mount).pass).as_bytes());
            let at_end = crate::stdio::control::fseek(file, 0, 2) == 0;
            c_int::from(!at_end || fputs(line.as_ptr().cast(), file) < 0)
        }
    }
    /// hasmntopt(3).
    "GLIBC_2.2.5" fn hasmntopt(mount: *const Mount, option: *const c_char) -> *mut c_char {
        // SAFETY: the program's struct and string.
        unsafe {
            let wanted = CStr::from_ptr(option).to_bytes();
            let options = CStr::from_ptr((*mount).options).to_bytes();
            let mut at = 0;
            for part in options.split(|&b| b == b',') {
                if part.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest[0] == b'=') {
                    return (*mount).options.add(at);
                }
                at += part.len() + 1;
            }
            null_mut()
        }
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__setmntent" = setmntent;
    alias "GLIBC_2.2.5" "__endmntent" = endmntent;
    alias "GLIBC_2.2.5" "__getmntent_r" = getmntent_r;
}

unsafe fn skip_line(file: *mut FILE) {
    let mut rest = [0 as c_char; 256];
    // SAFETY: our own buffer.
    unsafe {
        while !fgets(rest.as_mut_ptr(), 256, file).is_null() {
            if CStr::from_ptr(rest.as_ptr()).to_bytes().ends_with(b"\n") {
                break;
            }
        }
    }
}

/// Cuts a line in place; missing fields are empty strings and zeros.
unsafe fn parse(line: *mut c_char) -> Mount {
    let mut rest = line.cast::<u8>();
    // SAFETY: a C string that is ours to cut; every step stops at its end.
    unsafe {
        let mut field = || {
            while matches!(*rest, b' ' | b'\t') {
                rest = rest.add(1);
            }
            let start = rest;
            while !matches!(*rest, 0 | b' ' | b'\t' | b'\n') {
                rest = rest.add(1);
            }
            if *rest != 0 {
                *rest = 0;
                rest = rest.add(1);
            }
            decode(start);
            start.cast::<c_char>()
        };
        let (source, folder, kind, options) = (field(), field(), field(), field());
        let number = |text: *mut c_char| {
            let digits = CStr::from_ptr(text).to_str().unwrap_or("");
            digits.parse().unwrap_or(0)
        };
        Mount { source, folder, kind, options, frequency: number(field()), pass: number(field()) }
    }
}

/// `\040`, `\011`, `\012`, `\134` and `\\` become what they mean.
unsafe fn decode(text: *mut u8) {
    let (mut from, mut to) = (text, text);
    // SAFETY: a C string; what is written is not longer than what was read.
    unsafe {
        while *from != 0 {
            let (byte, used) =
                match core::slice::from_raw_parts(from, CStr::from_ptr(from.cast()).count_bytes().min(4)) {
                    b"\\040" => (b' ', 4),
                    b"\\011" => (b'\t', 4),
                    b"\\012" => (b'\n', 4),
                    b"\\134" => (b'\\', 4),
                    [b'\\', b'\\', ..] => (b'\\', 2),
                    _ => (*from, 1),
                };
            *to = byte;
            to = to.add(1);
            from = from.add(used);
        }
        *to = 0;
    }
}

fn encode(text: &[u8], to: &mut alloc::vec::Vec<u8>) {
    for &byte in text {
        match byte {
            b' ' => to.extend_from_slice(b"\\040"),
            b'\t' => to.extend_from_slice(b"\\011"),
            b'\n' => to.extend_from_slice(b"\\012"),
            b'\\' => to.extend_from_slice(b"\\134"),
            _ => to.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_as_the_host() {
        let path =
            std::ffi::CString::new(std::format!("/tmp/attacca-mntent-{}", std::process::id())).unwrap();
        let text = "# comment\n\n  \t\nproc /proc proc rw,nosuid 0 1\n/dev/a\\040b /mnt\\011x ext4 ro,size=10 1\nonly\n";
        std::fs::write(path.to_str().unwrap(), text).unwrap();
        // SAFETY: one layout; our own file.
        unsafe {
            let ours = setmntent(path.as_ptr(), c"r".as_ptr());
            let theirs = libc::setmntent(path.as_ptr(), c"r".as_ptr());
            loop {
                let (a, b) = (getmntent(ours), libc::getmntent(theirs));
                assert_eq!(a.is_null(), b.is_null());
                if a.is_null() {
                    break;
                }
                for (x, y) in [
                    ((*a).source, (*b).mnt_fsname),
                    ((*a).folder, (*b).mnt_dir),
                    ((*a).kind, (*b).mnt_type),
                    ((*a).options, (*b).mnt_opts),
                ] {
                    assert_eq!(CStr::from_ptr(x), CStr::from_ptr(y));
                }
                assert_eq!(((*a).frequency, (*a).pass), ((*b).mnt_freq, (*b).mnt_passno));
                for option in [c"rw", c"ro", c"size", c"siz", c"nosuid"] {
                    let x = hasmntopt(a, option.as_ptr());
                    let y = libc::hasmntopt(b, option.as_ptr());
                    assert_eq!(x.is_null(), y.is_null(), "{option:?}");
                }
            }
            assert_eq!(endmntent(ours), 1);
            libc::endmntent(theirs);
        }
        std::fs::remove_file(path.to_str().unwrap()).unwrap();
    }
}
