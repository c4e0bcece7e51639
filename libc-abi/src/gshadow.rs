//! The shadow group database `/etc/gshadow`: getsgnam(3) and its kin, from the file, a string or a stream.

use crate::account_streams::{field, invalid, list, read_next, read_reentrant, write};
use crate::netdb::files::{Line, Position, find, names};
use crate::netdb::inet::bytes;
use crate::netdb::pack::{Packer, Record, Slot, reentrant};
use crate::pwd::{fields, next};
use crate::stdio::FILE;
use crate::types::{c_char, c_int, size_t};
use alloc::vec::Vec;
use core::ffi::CStr;
use platform::Errno;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretGroup {
    /// Name.
    pub name: Vec<u8>,
    /// Hashed password.
    pub password: Vec<u8>,
    /// Who may change it.
    pub administrators: Vec<Vec<u8>>,
    /// Who is in it.
    pub members: Vec<Vec<u8>>,
}

/// `struct sgrp`
#[repr(C)]
pub struct sgrp {
    sg_namp: *mut c_char,
    sg_passwd: *mut c_char,
    sg_adm: *mut *mut c_char,
    sg_mem: *mut *mut c_char,
}

impl Record for SecretGroup {
    type C = sgrp;
    fn pack(&self, to: &mut Packer) -> Option<sgrp> {
        Some(sgrp {
            sg_adm: to.strings(&self.administrators)?,
            sg_mem: to.strings(&self.members)?,
            sg_namp: to.string(&self.name)?,
            sg_passwd: to.string(&self.password)?,
        })
    }
}

impl Line for SecretGroup {
    const PATH: &'static CStr = c"/etc/gshadow";
    fn parse(line: &[u8]) -> Option<Self> {
        let [name, password, administrators, members] = fields::<4>(line)?;
        let (administrators, members) = (names(administrators), names(members));
        Some(SecretGroup { name: name.to_vec(), password: password.to_vec(), administrators, members })
    }
}

fn by_name(name: &[u8]) -> Result<Option<SecretGroup>, Errno> {
    find(|g: &SecretGroup| g.name == name)
}

static GROUPS: Position = Position::new();
static GROUP: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// getsgnam(3).
    "GLIBC_2.10" fn getsgnam(name: *const c_char) -> *mut sgrp {
        // SAFETY: the caller's string.
        GROUP.fill(by_name(unsafe { bytes(name) }))
    }
    /// getsgnam_r(3).
    "GLIBC_2.10" fn getsgnam_r(
        name: *const c_char, out: *mut sgrp, buffer: *mut c_char, len: size_t, result: *mut *mut sgrp,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { reentrant(by_name(bytes(name)), out, buffer, len, result) }
    }
    /// getsgent(3).
    "GLIBC_2.10" fn getsgent() -> *mut sgrp { GROUP.fill(GROUPS.next::<SecretGroup>()) }
    /// getsgent_r(3).
    "GLIBC_2.10" fn getsgent_r(
        out: *mut sgrp, buffer: *mut c_char, len: size_t, result: *mut *mut sgrp,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { next::<SecretGroup>(&GROUPS, out, buffer, len, result) }
    }
    /// setsgent(3).
    "GLIBC_2.10" fn setsgent() { GROUPS.rewind() }
    /// endsgent(3).
    "GLIBC_2.10" fn endsgent() { GROUPS.rewind() }
    /// sgetsgent(3): from a string.
    "GLIBC_2.10" fn sgetsgent(line: *const c_char) -> *mut sgrp {
        // SAFETY: the program's string.
        GROUP.fill(Ok(SecretGroup::parse(unsafe { bytes(line) })))
    }
    /// sgetsgent_r(3).
    "GLIBC_2.10" fn sgetsgent_r(
        line: *const c_char, out: *mut sgrp, buffer: *mut c_char, len: size_t, result: *mut *mut sgrp,
    ) -> c_int {
        // SAFETY: the program's string and buffers.
        unsafe {
            let found = SecretGroup::parse(bytes(line)).ok_or(Errno::ENOENT);
            reentrant(found.map(Some), out, buffer, len, result)
        }
    }
    /// fgetsgent(3).
    "GLIBC_2.10" fn fgetsgent(file: *mut FILE) -> *mut sgrp {
        // SAFETY: the program's stream.
        GROUP.fill(Ok(unsafe { read_next::<SecretGroup>(file) }))
    }
    /// fgetsgent_r(3).
    "GLIBC_2.10" fn fgetsgent_r(
        file: *mut FILE, out: *mut sgrp, buffer: *mut c_char, len: size_t, result: *mut *mut sgrp,
    ) -> c_int {
        // SAFETY: the program's stream and buffers.
        unsafe { read_reentrant::<SecretGroup>(file, out, buffer, len, result) }
    }
    /// putsgent(3).
    "GLIBC_2.10" fn putsgent(group: *const sgrp, file: *mut FILE) -> c_int {
        // SAFETY: the program's structure and stream.
        unsafe { if group.is_null() || file.is_null() { invalid() } else { write(line_of(&*group), file) } }
    }
}

unsafe fn line_of(g: &sgrp) -> Option<Vec<u8>> {
    // SAFETY: the structure's strings and its null-terminated lists.
    unsafe {
        let (name, password) = (field(g.sg_namp)?, field(g.sg_passwd)?);
        let line = [name, password, &list(g.sg_adm)?, &list(g.sg_mem)?].join(&b':');
        (!name.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::bytes::{fgets, fputs};
    use crate::stdio::control::rewind;
    use crate::stdio::open::tmpfile;

    #[test]
    fn lines_go_out_and_come_back() {
        // SAFETY: our own streams and structures.
        unsafe {
            let (file, out) = (tmpfile(), tmpfile());
            fputs(c"# none\nwheel:!:ann, bob:carl\nnone:*::\n".as_ptr(), file);
            rewind(file);
            for _ in 0..2 {
                assert_eq!(putsgent(fgetsgent(file), out), 0);
            }
            assert!(fgetsgent(file).is_null());
            assert_eq!(putsgent(sgetsgent(c"a:b:c:d,e".as_ptr()), out), 0);
            rewind(out);
            for want in [c"wheel:!:ann,bob:carl\n", c"none:*::\n", c"a:b:c:d,e\n"] {
                let mut line = [0 as c_char; 64];
                assert!(!fgets(line.as_mut_ptr(), 64, out).is_null());
                assert_eq!(CStr::from_ptr(line.as_ptr()), want);
            }
            let group = sgetsgent(c"a:b:c:d".as_ptr());
            (*group).sg_namp = c"a:b".as_ptr().cast_mut();
            assert_eq!(putsgent(group, out), -1);
        }
    }
}
