//! The shadow password database `/etc/shadow`: getspnam(3) and its kin.

use crate::netdb::files::{Line, Position, find, number};
use crate::netdb::inet::bytes;
use crate::netdb::pack::{Packer, Record, Slot, reentrant};
use crate::pwd::{fields, next};
use crate::types::{c_char, c_int, c_long, c_ulong, size_t};
use alloc::vec::Vec;
use core::ffi::CStr;
use platform::Errno;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Name.
    pub name: Vec<u8>,
    /// Hashed password.
    pub password: Vec<u8>,
    /// Last change, minimum, maximum, warning, inactivity, expiry: days, -1 where empty.
    pub days: [c_long; 6],
    /// All bits set where empty.
    pub flag: c_ulong,
}

/// `struct spwd`
#[repr(C)]
pub struct spwd {
    pub(crate) sp_namp: *mut c_char,
    pub(crate) sp_pwdp: *mut c_char,
    pub(crate) days: [c_long; 6],
    pub(crate) sp_flag: c_ulong,
}

impl Record for Secret {
    type C = spwd;
    fn pack(&self, to: &mut Packer) -> Option<spwd> {
        Some(spwd {
            sp_namp: to.string(&self.name)?,
            sp_pwdp: to.string(&self.password)?,
            days: self.days,
            sp_flag: self.flag,
        })
    }
}

impl Line for Secret {
    const PATH: &'static CStr = c"/etc/shadow";
    fn parse(line: &[u8]) -> Option<Self> {
        let fields = fields::<9>(line)?;
        let mut days = [-1; 6];
        for (day, text) in days.iter_mut().zip(&fields[2..8]) {
            if !text.is_empty() {
                *day = number(text)? as c_long;
            }
        }
        let flag = if fields[8].is_empty() { c_ulong::MAX } else { number(fields[8])? as c_ulong };
        Some(Secret { name: fields[0].to_vec(), password: fields[1].to_vec(), days, flag })
    }
}

fn by_name(name: &[u8]) -> Result<Option<Secret>, Errno> {
    find(|s: &Secret| s.name == name)
}

static SECRETS: Position = Position::new();
static SECRET: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// getspnam(3).
    "GLIBC_2.2.5" fn getspnam(name: *const c_char) -> *mut spwd {
        // SAFETY: the caller's string.
        SECRET.fill(by_name(unsafe { bytes(name) }))
    }
    /// getspnam_r(3).
    "GLIBC_2.2.5" fn getspnam_r(
        name: *const c_char, out: *mut spwd, buffer: *mut c_char, len: size_t, result: *mut *mut spwd,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { reentrant(by_name(bytes(name)), out, buffer, len, result) }
    }
    /// getspent(3).
    "GLIBC_2.2.5" fn getspent() -> *mut spwd { SECRET.fill(SECRETS.next::<Secret>()) }
    /// getspent_r(3).
    "GLIBC_2.2.5" fn getspent_r(
        out: *mut spwd, buffer: *mut c_char, len: size_t, result: *mut *mut spwd,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { next::<Secret>(&SECRETS, out, buffer, len, result) }
    }
    /// setspent(3).
    "GLIBC_2.2.5" fn setspent() { SECRETS.rewind() }
    /// endspent(3).
    "GLIBC_2.2.5" fn endspent() { SECRETS.rewind() }
}
