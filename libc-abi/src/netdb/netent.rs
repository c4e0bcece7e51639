//! `/etc/networks`: getnetbyname(3) and its kin. Network numbers are in host order.

use super::files::{Line, Position, find, words};
use super::inet::{bytes, inet_network};
use super::pack::{Packer, Record, Slot, reentrant};
use super::{AF_INET, HostError, set_h_errno};
use crate::types::{c_char, c_int};
use alloc::vec::Vec;
use core::ffi::CStr;
use platform::Errno;

/// A line of `/etc/networks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Official name.
    pub name: Vec<u8>,
    /// Other names.
    pub aliases: Vec<Vec<u8>>,
    /// Network number.
    pub number: u32,
}

/// `struct netent`
#[repr(C)]
pub struct netent {
    n_name: *mut c_char,
    n_aliases: *mut *mut c_char,
    n_addrtype: c_int,
    n_net: u32,
}

impl Record for Network {
    type C = netent;
    fn pack(&self, to: &mut Packer) -> Option<netent> {
        Some(netent {
            n_aliases: to.strings(&self.aliases)?,
            n_name: to.string(&self.name)?,
            n_addrtype: AF_INET,
            n_net: self.number,
        })
    }
}

impl Line for Network {
    const PATH: &'static CStr = c"/etc/networks";
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = words(line);
        let name = words.next()?.to_vec();
        // Left-out bytes at the end are zero: "127" is 127.0.0.0 (nss_files/files-network.c).
        let mut text = words.next()?.to_vec();
        for _ in text.iter().filter(|&&b| b == b'.').count()..3 {
            text.extend_from_slice(b".0");
        }
        text.push(0);
        // SAFETY: a C string of ours.
        let number = unsafe { inet_network(text.as_ptr().cast()) };
        Some(Network { name, aliases: words.map(<[u8]>::to_vec).collect(), number })
    }
}

fn by_name(name: &[u8]) -> Result<Option<Network>, Errno> {
    told(find(|n: &Network| {
        n.name.eq_ignore_ascii_case(name) || n.aliases.iter().any(|a| a.eq_ignore_ascii_case(name))
    }))
}

fn by_number(number: u32, family: c_int) -> Result<Option<Network>, Errno> {
    told(find(|n: &Network| matches!(family, 0 | AF_INET) && n.number == number))
}

fn told(found: Result<Option<Network>, Errno>) -> Result<Option<Network>, Errno> {
    let found = match found {
        Err(Errno::ENOENT) => Ok(None),
        other => other,
    };
    if let Ok(None) = found {
        set_h_errno(HostError::NotFound as c_int);
    }
    found
}

static NETWORKS: Position = Position::new();
static NETWORK: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// getnetbyname(3).
    "GLIBC_2.2.5" fn getnetbyname(name: *const c_char) -> *mut netent {
        // SAFETY: the caller's string.
        NETWORK.fill(by_name(unsafe { bytes(name) }))
    }
    /// getnetbyname_r(3).
    "GLIBC_2.2.5" fn getnetbyname_r(
        name: *const c_char, out: *mut netent, buffer: *mut c_char, len: usize, result: *mut *mut netent,
        h_error: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { with_h_errno(h_error, || reentrant(by_name(bytes(name)), out, buffer, len, result)) }
    }
    /// getnetbyaddr(3).
    "GLIBC_2.2.5" fn getnetbyaddr(number: u32, family: c_int) -> *mut netent {
        NETWORK.fill(by_number(number, family))
    }
    /// getnetbyaddr_r(3).
    "GLIBC_2.2.5" fn getnetbyaddr_r(
        number: u32, family: c_int, out: *mut netent, buffer: *mut c_char, len: usize,
        result: *mut *mut netent, h_error: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { with_h_errno(h_error, || reentrant(by_number(number, family), out, buffer, len, result)) }
    }
    /// getnetent(3).
    "GLIBC_2.2.5" fn getnetent() -> *mut netent { NETWORK.fill(NETWORKS.next::<Network>()) }
    /// getnetent_r(3).
    "GLIBC_2.2.5" fn getnetent_r(
        out: *mut netent, buffer: *mut c_char, len: usize, result: *mut *mut netent, h_error: *mut c_int,
    ) -> c_int {
        let step = || NETWORKS.next_if::<Network>(|found| {
            let at_end = found.is_none();
            // SAFETY: the caller's buffers.
            let answer = unsafe { reentrant(Ok(found), out, buffer, len, result) };
            (if at_end { Errno::ENOENT.0 } else { answer }, answer != Errno::ERANGE.0)
        });
        // SAFETY: the caller's variable.
        unsafe { with_h_errno(h_error, step) }
    }
    /// setnetent(3).
    "GLIBC_2.2.5" fn setnetent(_stay_open: c_int) { NETWORKS.rewind() }
    /// endnetent(3).
    "GLIBC_2.2.5" fn endnetent() { NETWORKS.rewind() }
}

/// Runs a lookup and stores what it says about itself: h_errno, NETDB_INTERNAL for errors.
unsafe fn with_h_errno(h_error: *mut c_int, work: impl FnOnce() -> c_int) -> c_int {
    set_h_errno(0);
    let answer = work();
    if answer != 0 {
        set_h_errno(HostError::Internal as c_int);
    }
    // SAFETY: the caller's variable, and the thread's own.
    unsafe { h_error.write(super::h_errno_cell().read()) };
    answer
}
