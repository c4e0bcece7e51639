//! `/etc/services` and `/etc/protocols`: getservbyname(3), getprotobyname(3) and their kin.

use super::files::{Line, Position, find, number, numbered, words};
use super::inet::bytes;
use super::pack::{Packer, Record, Slot, reentrant};
use crate::types::{c_char, c_int};
use alloc::vec::Vec;
use core::ffi::CStr;
use platform::Errno;

/// A line of `/etc/services`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Official name.
    pub name: Vec<u8>,
    /// Other names.
    pub aliases: Vec<Vec<u8>>,
    /// Port, in host order.
    pub port: u16,
    /// `tcp`, `udp`, ...
    pub protocol: Vec<u8>,
}

/// `struct servent`
#[repr(C)]
pub struct servent {
    s_name: *mut c_char,
    s_aliases: *mut *mut c_char,
    s_port: c_int,
    s_proto: *mut c_char,
}

impl Record for Service {
    type C = servent;
    fn pack(&self, to: &mut Packer) -> Option<servent> {
        Some(servent {
            s_aliases: to.strings(&self.aliases)?,
            s_name: to.string(&self.name)?,
            s_port: self.port.to_be() as c_int,
            s_proto: to.string(&self.protocol)?,
        })
    }
}

impl Line for Service {
    const PATH: &'static CStr = c"/etc/services";
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = words(line);
        let name = words.next()?.to_vec();
        let place = words.next()?;
        let slash = place.iter().position(|&b| b == b'/')?;
        let port = number(&place[..slash]).filter(|&n| n <= 0xffff)? as u16;
        let protocol = place[slash + 1..].to_vec();
        Some(Service { name, aliases: words.map(<[u8]>::to_vec).collect(), port, protocol })
    }
}

/// A service by name or alias; any protocol for `None`.
pub fn service_by_name(name: &[u8], protocol: Option<&[u8]>) -> Result<Option<Service>, Errno> {
    find(|s: &Service| {
        protocol.is_none_or(|p| p == s.protocol) && (s.name == name || s.aliases.iter().any(|a| a == name))
    })
}

/// A service by port (host order).
pub fn service_by_port(port: u16, protocol: Option<&[u8]>) -> Result<Option<Service>, Errno> {
    find(|s: &Service| s.port == port && protocol.is_none_or(|p| p == s.protocol))
}

/// A line of `/etc/protocols`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Official name.
    pub name: Vec<u8>,
    /// Other names.
    pub aliases: Vec<Vec<u8>>,
    /// Number.
    pub number: c_int,
}

/// `struct protoent`
#[repr(C)]
pub struct protoent {
    p_name: *mut c_char,
    p_aliases: *mut *mut c_char,
    p_proto: c_int,
}

impl Record for Protocol {
    type C = protoent;
    fn pack(&self, to: &mut Packer) -> Option<protoent> {
        Some(protoent {
            p_aliases: to.strings(&self.aliases)?,
            p_name: to.string(&self.name)?,
            p_proto: self.number,
        })
    }
}

impl Line for Protocol {
    const PATH: &'static CStr = c"/etc/protocols";
    fn parse(line: &[u8]) -> Option<Self> {
        let (name, number, aliases) = numbered(line)?;
        Some(Protocol { name, aliases, number })
    }
}

fn protocol_by_name(name: &[u8]) -> Result<Option<Protocol>, Errno> {
    find(|p: &Protocol| p.name == name || p.aliases.iter().any(|a| a == name))
}

/// A missing file holds nothing: these functions have no word for its absence.
fn absent_is_empty<T>(found: Result<Option<T>, Errno>) -> Result<Option<T>, Errno> {
    match found {
        Err(Errno::ENOENT) => Ok(None),
        other => other,
    }
}

unsafe fn optional<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: null or the caller's C string.
    (!text.is_null()).then(|| unsafe { bytes(text) })
}

/// The next record for a reentrant function; the end of the file is ENOENT.
unsafe fn next<L: Line>(
    position: &Position,
    out: *mut L::C,
    buffer: *mut c_char,
    len: usize,
    result: *mut *mut L::C,
) -> c_int {
    position.next_if::<L>(|found| {
        let at_end = found.is_none();
        // SAFETY: the caller's buffers.
        let answer = unsafe { reentrant(Ok(found), out, buffer, len, result) };
        (if at_end { Errno::ENOENT.0 } else { answer }, answer != Errno::ERANGE.0)
    })
}

static SERVICES: Position = Position::new();
static PROTOCOLS: Position = Position::new();
static SERVICE: Slot = Slot::new();
static PROTOCOL: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// getservbyname(3).
    "GLIBC_2.2.5" fn getservbyname(name: *const c_char, protocol: *const c_char) -> *mut servent {
        // SAFETY: the caller's strings.
        SERVICE.fill(absent_is_empty(unsafe { service_by_name(bytes(name), optional(protocol)) }))
    }
    /// getservbyname_r(3).
    "GLIBC_2.2.5" fn getservbyname_r(
        name: *const c_char, protocol: *const c_char, out: *mut servent, buffer: *mut c_char, len: usize,
        result: *mut *mut servent,
    ) -> c_int {
        // SAFETY: the caller's strings and buffers.
        unsafe {
            let found = absent_is_empty(service_by_name(bytes(name), optional(protocol)));
            reentrant(found, out, buffer, len, result)
        }
    }
    /// getservbyport(3): the port is in network order.
    "GLIBC_2.2.5" fn getservbyport(port: c_int, protocol: *const c_char) -> *mut servent {
        // SAFETY: the caller's string.
        let protocol = unsafe { optional(protocol) };
        SERVICE.fill(absent_is_empty(service_by_port(u16::from_be(port as u16), protocol)))
    }
    /// getservbyport_r(3).
    "GLIBC_2.2.5" fn getservbyport_r(
        port: c_int, protocol: *const c_char, out: *mut servent, buffer: *mut c_char, len: usize,
        result: *mut *mut servent,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe {
            let found = absent_is_empty(service_by_port(u16::from_be(port as u16), optional(protocol)));
            reentrant(found, out, buffer, len, result)
        }
    }
    /// getservent(3).
    "GLIBC_2.2.5" fn getservent() -> *mut servent { SERVICE.fill(SERVICES.next::<Service>()) }
    /// getservent_r(3).
    "GLIBC_2.2.5" fn getservent_r(
        out: *mut servent, buffer: *mut c_char, len: usize, result: *mut *mut servent,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { next::<Service>(&SERVICES, out, buffer, len, result) }
    }
    /// setservent(3).
    "GLIBC_2.2.5" fn setservent(_stay_open: c_int) { SERVICES.rewind() }
    /// endservent(3).
    "GLIBC_2.2.5" fn endservent() { SERVICES.rewind() }
    /// getprotobyname(3).
    "GLIBC_2.2.5" fn getprotobyname(name: *const c_char) -> *mut protoent {
        // SAFETY: the caller's string.
        PROTOCOL.fill(absent_is_empty(protocol_by_name(unsafe { bytes(name) })))
    }
    /// getprotobyname_r(3).
    "GLIBC_2.2.5" fn getprotobyname_r(
        name: *const c_char, out: *mut protoent, buffer: *mut c_char, len: usize, result: *mut *mut protoent,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { reentrant(absent_is_empty(protocol_by_name(bytes(name))), out, buffer, len, result) }
    }
    /// getprotobynumber(3).
    "GLIBC_2.2.5" fn getprotobynumber(number: c_int) -> *mut protoent {
        PROTOCOL.fill(absent_is_empty(find(|p: &Protocol| p.number == number)))
    }
    /// getprotobynumber_r(3).
    "GLIBC_2.2.5" fn getprotobynumber_r(
        number: c_int, out: *mut protoent, buffer: *mut c_char, len: usize, result: *mut *mut protoent,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { reentrant(absent_is_empty(find(|p: &Protocol| p.number == number)), out, buffer, len, result) }
    }
    /// getprotoent(3).
    "GLIBC_2.2.5" fn getprotoent() -> *mut protoent { PROTOCOL.fill(PROTOCOLS.next::<Protocol>()) }
    /// getprotoent_r(3).
    "GLIBC_2.2.5" fn getprotoent_r(
        out: *mut protoent, buffer: *mut c_char, len: usize, result: *mut *mut protoent,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { next::<Protocol>(&PROTOCOLS, out, buffer, len, result) }
    }
    /// setprotoent(3).
    "GLIBC_2.2.5" fn setprotoent(_stay_open: c_int) { PROTOCOLS.rewind() }
    /// endprotoent(3).
    "GLIBC_2.2.5" fn endprotoent() { PROTOCOLS.rewind() }
}

/// The port of a service by name, for getaddrinfo.
pub(crate) fn port_of(name: &[u8], protocol: &[u8]) -> Option<u16> {
    service_by_name(name, Some(protocol)).ok().flatten().map(|s| s.port)
}
