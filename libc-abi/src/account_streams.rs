//! Account databases on a stream of the caller's: fgetpwent(3), putpwent(3) and their kin for groups and
//! shadow passwords. A line reads as in the system's own files (`pwd`, `grp`, `shadow`).

use crate::errno;
use crate::grp::{Group, group};
use crate::malloc::free;
use crate::netdb::files::Line;
use crate::netdb::inet::bytes;
use crate::netdb::pack::{Slot, reentrant};
use crate::pwd::{Account, passwd};
use crate::shadow::{Secret, spwd};
use crate::stdio::FILE;
use crate::stdio::bytes::{fputs, getline};
use crate::types::{c_char, c_int, size_t};
use alloc::format;
use alloc::vec::Vec;
use core::ptr::null_mut;
use platform::Errno;

static ACCOUNT: Slot = Slot::new();
static SECRET: Slot = Slot::new();
static GROUP: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// fgetpwent(3).
    "GLIBC_2.2.5" fn fgetpwent(file: *mut FILE) -> *mut passwd {
        // SAFETY: the program's stream, here and below.
        ACCOUNT.fill(Ok(unsafe { read_next::<Account>(file) }))
    }
    /// fgetpwent_r(3).
    "GLIBC_2.2.5" fn fgetpwent_r(
        file: *mut FILE, out: *mut passwd, buffer: *mut c_char, len: size_t, result: *mut *mut passwd,
    ) -> c_int {
        // SAFETY: the program's stream and buffers.
        unsafe { read_reentrant::<Account>(file, out, buffer, len, result) }
    }
    /// putpwent(3).
    "GLIBC_2.2.5" fn putpwent(account: *const passwd, file: *mut FILE) -> c_int {
        // SAFETY: the program's structure and stream.
        unsafe { if account.is_null() || file.is_null() { invalid() } else { write(account_line(&*account), file) } }
    }
    /// fgetspent(3).
    "GLIBC_2.2.5" fn fgetspent(file: *mut FILE) -> *mut spwd {
        // SAFETY: the program's stream.
        SECRET.fill(Ok(unsafe { read_next::<Secret>(file) }))
    }
    /// fgetspent_r(3).
    "GLIBC_2.2.5" fn fgetspent_r(
        file: *mut FILE, out: *mut spwd, buffer: *mut c_char, len: size_t, result: *mut *mut spwd,
    ) -> c_int {
        // SAFETY: the program's stream and buffers.
        unsafe { read_reentrant::<Secret>(file, out, buffer, len, result) }
    }
    /// sgetspent(3): from a string.
    "GLIBC_2.2.5" fn sgetspent(line: *const c_char) -> *mut spwd {
        // SAFETY: the program's string.
        SECRET.fill(Ok(Secret::parse(unsafe { bytes(line) })))
    }
    /// putspent(3).
    "GLIBC_2.2.5" fn putspent(secret: *const spwd, file: *mut FILE) -> c_int {
        // SAFETY: the program's structure and stream.
        unsafe { if secret.is_null() || file.is_null() { invalid() } else { write(secret_line(&*secret), file) } }
    }
    /// fgetgrent(3).
    "GLIBC_2.2.5" fn fgetgrent(file: *mut FILE) -> *mut group {
        // SAFETY: the program's stream.
        GROUP.fill(Ok(unsafe { read_next::<Group>(file) }))
    }
    /// fgetgrent_r(3).
    "GLIBC_2.2.5" fn fgetgrent_r(
        file: *mut FILE, out: *mut group, buffer: *mut c_char, len: size_t, result: *mut *mut group,
    ) -> c_int {
        // SAFETY: the program's stream and buffers.
        unsafe { read_reentrant::<Group>(file, out, buffer, len, result) }
    }
    /// putgrent(3).
    "GLIBC_2.2.5" fn putgrent(entry: *const group, file: *mut FILE) -> c_int {
        // SAFETY: the program's structure and stream.
        unsafe { if entry.is_null() || file.is_null() { invalid() } else { write(group_line(&*entry), file) } }
    }
}

pub(crate) fn invalid() -> c_int {
    errno::set(Errno::EINVAL);
    -1
}

/// The next record of the stream; lines that are none are passed over.
pub(crate) unsafe fn read_next<L: Line>(file: *mut FILE) -> Option<L> {
    let (mut line, mut size) = (null_mut::<c_char>(), 0usize);
    let mut found = None;
    // SAFETY: the program's stream; the line is getline's block, ours to free.
    unsafe {
        while found.is_none() {
            let got = getline(&raw mut line, &raw mut size, file);
            if got < 0 {
                errno::set(Errno::ENOENT);
                break;
            }
            let text = core::slice::from_raw_parts(line.cast::<u8>(), got as usize);
            found = L::parse(text.strip_suffix(b"\n").unwrap_or(text));
        }
        free(line.cast());
    }
    found
}

/// ENOENT at the end. A record that does not fit is lost, as in glibc 2.36 only where the stream cannot
/// be positioned; here the line is read again there, too, by a seek back.
pub(crate) unsafe fn read_reentrant<L: Line>(
    file: *mut FILE,
    out: *mut L::C,
    buffer: *mut c_char,
    len: size_t,
    result: *mut *mut L::C,
) -> c_int {
    use crate::stdio::control::{fseek, ftell};
    const SEEK_SET: c_int = 0;
    // SAFETY: the program's stream and buffers.
    unsafe {
        let before = ftell(file);
        let found = read_next::<L>(file);
        let at_end = found.is_none();
        let answer = reentrant(Ok(found), out, buffer, len, result);
        if answer == Errno::ERANGE.0 && before >= 0 {
            fseek(file, before, SEEK_SET);
        }
        let answer = if at_end { Errno::ENOENT.0 } else { answer };
        if answer != 0 {
            errno::set(Errno(answer));
        }
        answer
    }
}

/// A line, or `None` if a field would break it.
pub(crate) unsafe fn write(line: Option<Vec<u8>>, file: *mut FILE) -> c_int {
    let Some(mut line) = line else { return invalid() };
    line.extend_from_slice(b"\n\0");
    // SAFETY: a C string of ours, the program's stream.
    if unsafe { fputs(line.as_ptr().cast(), file) } < 0 { -1 } else { 0 }
}

/// A field's text; null is empty. `None` if it holds what ends a field.
pub(crate) unsafe fn field<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: null, or the program's string.
    let text = if text.is_null() { &b""[..] } else { unsafe { bytes(text) } };
    (!text.iter().any(|b| matches!(b, b':' | b'\n'))).then_some(text)
}

/// A list's names between commas; null is empty. `None` if one holds what ends it.
pub(crate) unsafe fn list(mut at: *mut *mut c_char) -> Option<Vec<u8>> {
    let mut names = Vec::new();
    // SAFETY: null, or the program's null-terminated list of strings.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            names.push(field(*at).filter(|name| !name.contains(&b','))?);
            at = at.add(1);
        }
    }
    Some(names.join(&b','))
}

/// A NIS entry has no numbers.
fn is_nis(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'+' | b'-'))
}

unsafe fn account_line(a: &passwd) -> Option<Vec<u8>> {
    // SAFETY: the structure's strings.
    unsafe {
        let (name, password) = (field(a.pw_name)?, field(a.pw_passwd)?);
        let (home, shell) = (field(a.pw_dir)?, field(a.pw_shell)?);
        // In the comment field, glibc replaces what would break the line.
        let comment = if a.pw_gecos.is_null() { &b""[..] } else { bytes(a.pw_gecos) };
        let comment: Vec<u8> =
            comment.iter().map(|&b| if matches!(b, b':' | b'\n') { b' ' } else { b }).collect();
        let ids = if is_nis(name) { ":".into() } else { format!("{}:{}", a.pw_uid, a.pw_gid) };
        (!name.is_empty()).then(|| [name, password, ids.as_bytes(), &comment, home, shell].join(&b':'))
    }
}

unsafe fn secret_line(s: &spwd) -> Option<Vec<u8>> {
    // SAFETY: the structure's strings.
    let (name, password) = unsafe { (field(s.sp_namp)?, field(s.sp_pwdp)?) };
    if name.is_empty() {
        return None;
    }
    let mut line = [name, password].join(&b':');
    for day in s.days {
        line.push(b':');
        if day != -1 {
            line.extend_from_slice(format!("{day}").as_bytes());
        }
    }
    line.push(b':');
    if s.sp_flag != !0 {
        line.extend_from_slice(format!("{}", s.sp_flag as i64).as_bytes());
    }
    Some(line)
}

unsafe fn group_line(g: &group) -> Option<Vec<u8>> {
    // SAFETY: the structure's strings and its null-terminated list.
    unsafe {
        let (name, password) = (field(g.gr_name)?, field(g.gr_passwd)?);
        let id = if is_nis(name) { "".into() } else { format!("{}", g.gr_gid) };
        let members = list(g.gr_mem)?;
        (!name.is_empty()).then(|| [name, password, id.as_bytes(), &members].join(&b':'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::bytes::fgets;
    use crate::stdio::control::rewind;
    use crate::stdio::open::tmpfile;
    use core::ffi::CStr;
    use std::string::String;

    fn text(p: *const c_char) -> String {
        // SAFETY: a C string of the records below.
        unsafe { CStr::from_ptr(p) }.to_str().unwrap().into()
    }

    /// All of a stream.
    unsafe fn content(file: *mut FILE) -> String {
        let mut all = String::new();
        let mut line = [0 as c_char; 256];
        // SAFETY: our stream and buffer.
        unsafe {
            rewind(file);
            while !fgets(line.as_mut_ptr(), 256, file).is_null() {
                all += &text(line.as_ptr());
            }
        }
        all
    }

    #[test]
    fn accounts_go_out_and_come_back() {
        // SAFETY: our own streams and structures.
        unsafe {
            let file = tmpfile();
            fputs(c"# comment\nann:x:7:8:Ann:/home/ann:/bin/sh\n\nbob::1:2:::\n".as_ptr(), file);
            rewind(file);
            let out = tmpfile();
            let ann = fgetpwent(file);
            assert_eq!(((*ann).pw_uid, (*ann).pw_gid, text((*ann).pw_name)), (7, 8, "ann".into()));
            assert_eq!(putpwent(ann, out), 0);
            let mut small = [0 as c_char; 4];
            let (mut entry, mut result) = (core::mem::zeroed(), null_mut());
            assert_eq!(
                fgetpwent_r(file, &raw mut entry, small.as_mut_ptr(), 4, &raw mut result),
                Errno::ERANGE.0
            );
            let bob = fgetpwent(file);
            assert_eq!(putpwent(bob, out), 0);
            assert!(fgetpwent(file).is_null());
            (*bob).pw_gecos = c"a:b\nc".as_ptr().cast_mut();
            assert_eq!(putpwent(bob, out), 0);
            (*bob).pw_name = c"b:b".as_ptr().cast_mut();
            assert_eq!(putpwent(bob, out), -1);
            assert_eq!(putpwent(null_mut(), out), -1);
            assert_eq!(content(out), "ann:x:7:8:Ann:/home/ann:/bin/sh\nbob::1:2:::\nbob::1:2:a b c::\n");
        }
    }

    #[test]
    fn secrets_and_groups_too() {
        // SAFETY: as above.
        unsafe {
            let (file, out) = (tmpfile(), tmpfile());
            fputs(c"ann:*:19000:0:99999:7:::\nbob:!::::::5:9\n".as_ptr(), file);
            rewind(file);
            for _ in 0..2 {
                assert_eq!(putspent(fgetspent(file), out), 0);
            }
            assert_eq!(putspent(sgetspent(c"c:x:1::::::".as_ptr()), out), 0);
            assert_eq!(content(out), "ann:*:19000:0:99999:7:::\nbob:!::::::5:9\nc:x:1::::::\n");
            let (file, out) = (tmpfile(), tmpfile());
            fputs(c"wheel:x:10:ann,bob\nnone:x:11:\n".as_ptr(), file);
            rewind(file);
            for _ in 0..2 {
                assert_eq!(putgrent(fgetgrent(file), out), 0);
            }
            assert_eq!(content(out), "wheel:x:10:ann,bob\nnone:x:11:\n");
        }
    }
}
