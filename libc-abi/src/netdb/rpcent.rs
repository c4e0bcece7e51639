//! `/etc/rpc`: getrpcbyname(3) and its kin.

use super::files::{Line, Position, find, numbered};
use super::inet::bytes;
use super::pack::{Packer, Record, Slot, reentrant};
use crate::pwd::next;
use crate::types::{c_char, c_int};
use alloc::vec::Vec;
use core::ffi::CStr;
use platform::Errno;

/// A line of `/etc/rpc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Official name.
    pub name: Vec<u8>,
    /// Other names.
    pub aliases: Vec<Vec<u8>>,
    /// Program number.
    pub number: c_int,
}

/// `struct rpcent`
#[repr(C)]
pub struct rpcent {
    r_name: *mut c_char,
    r_aliases: *mut *mut c_char,
    r_number: c_int,
}

impl Record for Program {
    type C = rpcent;
    fn pack(&self, to: &mut Packer) -> Option<rpcent> {
        Some(rpcent {
            r_aliases: to.strings(&self.aliases)?,
            r_name: to.string(&self.name)?,
            r_number: self.number,
        })
    }
}

impl Line for Program {
    const PATH: &'static CStr = c"/etc/rpc";
    fn parse(line: &[u8]) -> Option<Self> {
        let (name, number, aliases) = numbered(line)?;
        Some(Program { name, aliases, number })
    }
}

fn by_name(name: &[u8]) -> Result<Option<Program>, Errno> {
    find(|p: &Program| p.name == name || p.aliases.iter().any(|a| a == name))
}

fn by_number(number: c_int) -> Result<Option<Program>, Errno> {
    find(|p: &Program| p.number == number)
}

static PROGRAMS: Position = Position::new();
static PROGRAM: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// getrpcbyname(3).
    "GLIBC_2.2.5" fn getrpcbyname(name: *const c_char) -> *mut rpcent {
        // SAFETY: the caller's string.
        PROGRAM.fill(by_name(unsafe { bytes(name) }))
    }
    /// getrpcbynumber(3).
    "GLIBC_2.2.5" fn getrpcbynumber(number: c_int) -> *mut rpcent { PROGRAM.fill(by_number(number)) }
    /// getrpcbyname_r(3).
    "GLIBC_2.2.5" fn getrpcbyname_r(
        name: *const c_char, out: *mut rpcent, buffer: *mut c_char, len: usize, result: *mut *mut rpcent,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { reentrant(by_name(bytes(name)), out, buffer, len, result) }
    }
    /// getrpcbynumber_r(3).
    "GLIBC_2.2.5" fn getrpcbynumber_r(
        number: c_int, out: *mut rpcent, buffer: *mut c_char, len: usize, result: *mut *mut rpcent,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { reentrant(by_number(number), out, buffer, len, result) }
    }
    /// getrpcent(3).
    "GLIBC_2.2.5" fn getrpcent() -> *mut rpcent { PROGRAM.fill(PROGRAMS.next::<Program>()) }
    /// getrpcent_r(3).
    "GLIBC_2.2.5" fn getrpcent_r(
        out: *mut rpcent, buffer: *mut c_char, len: usize, result: *mut *mut rpcent,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { next::<Program>(&PROGRAMS, out, buffer, len, result) }
    }
    /// setrpcent(3).
    "GLIBC_2.2.5" fn setrpcent(_stay_open: c_int) { PROGRAMS.rewind() }
    /// endrpcent(3).
    "GLIBC_2.2.5" fn endrpcent() { PROGRAMS.rewind() }
}
