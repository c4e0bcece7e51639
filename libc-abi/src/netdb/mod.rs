//! Names of hosts, services, protocols, networks, interfaces: netdb.h, resolv.h, arpa/inet.h, net/if.h.
//!
//! [`files`] reads the text databases of `/etc`, [`dns`] asks name servers, [`hosts`] puts both together
//! as nsswitch.conf says. Above them stand C's doors: [`addrinfo`] and [`nameinfo`] (the modern pair),
//! [`hostent`] (the old ones), [`res`] and [`ns`] (the resolver's own). [`pack`] lays results out in
//! C's buffers, for the `_r` functions and for those with static memory alike.
//!
//! Left out: NSS modules other than `files` and `dns` (they are libraries for glibc's insides), NIS,
//! gai.conf, `RES_OPTIONS`, DNSSEC, IDNA (AI_IDN names must be ASCII already).

pub mod addrinfo;
pub mod asynchronous;
pub mod conf;
pub mod dns;
pub mod files;
pub mod hostent;
pub mod hosts;
pub mod inet;
pub mod interfaces;
pub mod nameinfo;
pub mod netent;
pub mod netgroup;
pub mod ns;
pub mod nss;
pub mod pack;
pub mod res;
pub mod rpcent;
pub mod servent;
pub mod sort;
#[cfg(test)]
mod tests;
pub mod wire;

use crate::types::c_int;

/// `AF_UNSPEC`
pub const AF_UNSPEC: c_int = 0;
/// `AF_INET`
pub const AF_INET: c_int = 2;
/// `AF_INET6`
pub const AF_INET6: c_int = 10;

/// Why a host was not found, as h_errno has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum HostError {
    /// NETDB_INTERNAL: errno says why.
    Internal = -1,
    /// HOST_NOT_FOUND: no such name.
    NotFound = 1,
    /// TRY_AGAIN: no server answered.
    TryAgain = 2,
    /// NO_RECOVERY: a server refused or answered nonsense.
    NoRecovery = 3,
    /// NO_DATA: the name exists without an address.
    NoData = 4,
}

/// Sets the thread's h_errno.
pub fn set_h_errno(value: c_int) {
    // SAFETY: the cell is the thread's own.
    unsafe { *h_errno_cell() = value };
}

/// Where the thread's h_errno is.
pub fn h_errno_cell() -> *mut c_int {
    // SAFETY: the TCB lives as long as its thread.
    unsafe { &raw mut (*crate::thread::current()).h_errno }
}
