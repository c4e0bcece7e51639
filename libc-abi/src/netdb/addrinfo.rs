//! getaddrinfo(3): a host and a service to socket addresses, as glibc 2.36 answers.

use super::hosts::{self, Address, Host};
use super::inet::{bytes, format_v4, format_v6, parse_aton, parse_v6};
use super::{AF_INET, AF_INET6, AF_UNSPEC, HostError, files, interfaces, servent, sort};
use crate::malloc::{free, malloc};
use crate::types::{c_char, c_int, c_void, socklen_t};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;

/// `struct addrinfo`
#[repr(C)]
pub struct addrinfo {
    ai_flags: c_int,
    pub(crate) ai_family: c_int,
    pub(crate) ai_socktype: c_int,
    ai_protocol: c_int,
    ai_addrlen: socklen_t,
    pub(crate) ai_addr: *mut c_void,
    ai_canonname: *mut c_char,
    pub(crate) ai_next: *mut addrinfo,
}

impl addrinfo {
    /// Hints that ask for nothing in particular.
    pub(crate) const fn empty() -> addrinfo {
        addrinfo {
            ai_flags: 0,
            ai_family: 0,
            ai_socktype: 0,
            ai_protocol: 0,
            ai_addrlen: 0,
            ai_addr: core::ptr::null_mut(),
            ai_canonname: core::ptr::null_mut(),
            ai_next: core::ptr::null_mut(),
        }
    }
}

/// getaddrinfo's flags (netdb.h).
pub mod flag {
    #![allow(missing_docs)]
    use crate::types::c_int;
    pub const PASSIVE: c_int = 1;
    pub const CANONNAME: c_int = 2;
    pub const NUMERICHOST: c_int = 4;
    pub const V4MAPPED: c_int = 8;
    pub const ALL: c_int = 0x10;
    pub const ADDRCONFIG: c_int = 0x20;
    pub const IDN: c_int = 0x40;
    pub const CANONIDN: c_int = 0x80;
    pub const NUMERICSERV: c_int = 0x400;
    /// Obsolete, accepted.
    pub const IDN_ALLOW: c_int = 0x300;
    pub const KNOWN: c_int = PASSIVE
        | CANONNAME
        | NUMERICHOST
        | V4MAPPED
        | ALL
        | ADDRCONFIG
        | IDN
        | CANONIDN
        | NUMERICSERV
        | IDN_ALLOW;
}

/// getaddrinfo's errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Eai {
    BadFlags = -1,
    NoName = -2,
    Again = -3,
    Fail = -4,
    NoData = -5,
    Family = -6,
    SockType = -7,
    Service = -8,
    AddrFamily = -9,
    Memory = -10,
    System = -11,
    Overflow = -12,
    InProgress = -100,
    Canceled = -101,
    NotCanceled = -102,
    AllDone = -103,
    Intr = -104,
    IdnEncode = -105,
}

const SOCK_STREAM: c_int = 1;
const SOCK_DGRAM: c_int = 2;
const SOCK_RAW: c_int = 3;
const SOCK_SEQPACKET: c_int = 5;
const SOCK_DCCP: c_int = 6;

/// A socket type with its protocol.
struct Kind {
    socktype: c_int,
    protocol: c_int,
    /// Any protocol goes with the type (raw sockets).
    any_protocol: bool,
    /// Answered when the caller asks for nothing in particular.
    by_default: bool,
    /// The protocol's name in the services database.
    name: &'static [u8],
}

const fn kind(socktype: c_int, protocol: c_int, by_default: bool, name: &'static [u8]) -> Kind {
    Kind { socktype, protocol, any_protocol: socktype == SOCK_RAW, by_default, name }
}

static KINDS: [Kind; 7] = [
    kind(SOCK_STREAM, 6, true, b"tcp"),
    kind(SOCK_DGRAM, 17, true, b"udp"),
    kind(SOCK_DCCP, 33, false, b"dccp"),
    kind(SOCK_DGRAM, 136, false, b"udplite"),
    kind(SOCK_STREAM, 132, false, b"sctp"),
    kind(SOCK_SEQPACKET, 132, false, b"sctp"),
    kind(SOCK_RAW, 0, true, b"raw"),
];

/// What the caller gives, in Rust's terms.
#[derive(Clone, Copy, Debug)]
pub struct Hints {
    /// `ai_flags`
    pub flags: c_int,
    /// `ai_family`
    pub family: c_int,
    /// `ai_socktype`
    pub socktype: c_int,
    /// `ai_protocol`
    pub protocol: c_int,
}

/// One socket address of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Address; IPv6 with its scope.
    pub address: Address,
    /// `sin6_scope_id`
    pub scope: u32,
    /// In host order.
    pub port: u16,
    /// `ai_socktype`
    pub socktype: c_int,
    /// `ai_protocol`
    pub protocol: c_int,
}

/// (socket type, protocol, port)
type Endpoint = (c_int, c_int, u16);

/// The answer: entries in the order to try them, and the canonical name if it was asked for.
pub type Answer = (Vec<Entry>, Option<Vec<u8>>);

/// getaddrinfo, without C.
pub fn look_up(node: Option<&[u8]>, service: Option<&[u8]>, hints: &Hints) -> Result<Answer, Eai> {
    let node = node.filter(|n| *n != b"*");
    let service = service.filter(|s| *s != b"*");
    if node.is_none() && service.is_none() {
        return Err(Eai::NoName);
    }
    if hints.flags & !flag::KNOWN != 0 || hints.flags & flag::CANONNAME != 0 && node.is_none() {
        return Err(Eai::BadFlags);
    }
    if !matches!(hints.family, AF_UNSPEC | AF_INET | AF_INET6) {
        return Err(Eai::Family);
    }
    let hints = &configured(hints)?;
    // An empty service is none.
    let service = service.filter(|s| !s.is_empty());
    if hints.flags & flag::NUMERICSERV != 0 && service.is_some_and(|s| port_number(s).is_none()) {
        return Err(Eai::NoName);
    }
    let endpoints = endpoints(service, hints)?;
    let (addresses, canonical) = match node {
        None => (own_addresses(hints), None),
        Some(node) => node_addresses(node, hints)?,
    };
    let order: Vec<usize> = if addresses.len() > 1 {
        sort::order(&addresses.iter().map(|&(a, _)| a).collect::<Vec<_>>())
    } else {
        (0..addresses.len()).collect()
    };
    let entries = order
        .into_iter()
        .map(|i| addresses[i])
        .flat_map(|(address, scope)| {
            endpoints.iter().map(move |&(socktype, protocol, port)| Entry {
                address,
                scope,
                port,
                socktype,
                protocol,
            })
        })
        .collect();
    Ok((entries, canonical.filter(|_| hints.flags & flag::CANONNAME != 0)))
}

/// AI_ADDRCONFIG: only families that this host has an address of, beside loopback.
fn configured(hints: &Hints) -> Result<Hints, Eai> {
    if hints.flags & flag::ADDRCONFIG == 0 {
        return Ok(*hints);
    }
    let (v4, v6) = interfaces::families();
    match hints.family {
        AF_UNSPEC if v4 != v6 => Ok(Hints { family: if v4 { AF_INET } else { AF_INET6 }, ..*hints }),
        AF_INET if !v4 => Err(Eai::NoName),
        AF_INET6 if !v6 => Err(Eai::NoName),
        _ => Ok(*hints),
    }
}

/// The socket types that the hints ask for, with the service's port.
fn endpoints(service: Option<&[u8]>, hints: &Hints) -> Result<Vec<Endpoint>, Eai> {
    let asked = hints.socktype != 0 || hints.protocol != 0;
    let fits = |k: &&Kind| {
        (hints.socktype == 0 || hints.socktype == k.socktype)
            && (hints.protocol == 0 || k.any_protocol || hints.protocol == k.protocol)
    };
    let chosen = KINDS.iter().find(fits);
    let chosen = match chosen {
        None if asked => return Err(if hints.socktype != 0 { Eai::SockType } else { Eai::Service }),
        chosen => chosen.filter(|_| asked),
    };
    let protocol_of = |k: &Kind| if k.any_protocol { hints.protocol } else { k.protocol };
    let port = match service {
        None => 0,
        // Raw sockets have no ports.
        Some(_) if chosen.is_some_and(|k| k.any_protocol) => return Err(Eai::Service),
        Some(text) => match port_number(text) {
            Some(port) => port,
            None => return named_endpoints(text, chosen, hints),
        },
    };
    Ok(match chosen {
        Some(k) => alloc::vec![(k.socktype, protocol_of(k), port)],
        None => KINDS.iter().filter(|k| k.by_default).map(|k| (k.socktype, k.protocol, port)).collect(),
    })
}

fn named_endpoints(name: &[u8], chosen: Option<&Kind>, hints: &Hints) -> Result<Vec<Endpoint>, Eai> {
    let port = |k: &Kind| servent::port_of(name, k.name).map(|port| (k.socktype, k.protocol, port));
    let found: Vec<Endpoint> = match chosen {
        Some(k) => port(k).into_iter().collect(),
        None => KINDS
            .iter()
            .filter(|k| !k.any_protocol && (hints.protocol == 0 || hints.protocol == k.protocol))
            .filter_map(port)
            .collect(),
    };
    if found.is_empty() { Err(Eai::Service) } else { Ok(found) }
}

/// strtoul with base 10, whole: blanks and a sign before it are allowed, and the value is cut to 16
/// bits, as glibc does.
fn port_number(text: &[u8]) -> Option<u16> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    files::number(text).map(|n| n as u16)
}

type Found = Vec<(Address, u32)>;

/// Without a node: all addresses of this host (passive), or its loopback.
fn own_addresses(hints: &Hints) -> Found {
    let passive = hints.flags & flag::PASSIVE != 0;
    let v6 = if passive { [0; 16] } else { super::inet::IN6ADDR_LOOPBACK };
    let v4 = if passive { [0; 4] } else { [127, 0, 0, 1] };
    let mut list = Vec::new();
    if hints.family != AF_INET {
        list.push((Address::V6(v6), 0));
    }
    if hints.family != AF_INET6 {
        list.push((Address::V4(v4), 0));
    }
    list
}

fn node_addresses(node: &[u8], hints: &Hints) -> Result<(Found, Option<Vec<u8>>), Eai> {
    if let Some(literal) = literal(node, hints) {
        return Ok((alloc::vec![literal?], Some(node.to_vec())));
    }
    if hints.flags & flag::NUMERICHOST != 0 {
        return Err(Eai::NoName);
    }
    // AI_IDN: a name in the locale's letters would have to be encoded; ASCII names are as they are.
    if hints.flags & flag::IDN != 0 && !node.is_ascii() {
        return Err(Eai::IdnEncode);
    }
    let host = by_name(node, hints).map_err(|error| match error {
        HostError::NotFound => Eai::NoName,
        HostError::NoData => Eai::NoData,
        HostError::TryAgain => Eai::Again,
        HostError::NoRecovery => Eai::Fail,
        HostError::Internal => Eai::System,
    })?;
    let addresses = host.addresses.iter().map(|&a| (a, 0)).collect();
    Ok((addresses, Some(host.name)))
}

/// Addresses of the family; with AI_V4MAPPED IPv4 ones in IPv6 form, where there are no others or all
/// are wanted.
fn by_name(node: &[u8], hints: &Hints) -> Result<Host, HostError> {
    if hints.family != AF_INET6 || hints.flags & flag::V4MAPPED == 0 {
        return hosts::by_name(node, hints.family);
    }
    let v6 = hosts::by_name(node, AF_INET6);
    if v6.is_ok() && hints.flags & flag::ALL == 0 {
        return v6;
    }
    let v4 = hosts::by_name(node, AF_INET).map(|mut host| {
        host.addresses.iter_mut().for_each(|a| *a = mapped(*a));
        host
    });
    match (v6, v4) {
        (Ok(mut v6), Ok(v4)) => {
            v6.addresses.extend(v4.addresses);
            Ok(v6)
        }
        (Ok(host), Err(_)) | (Err(_), Ok(host)) => Ok(host),
        (Err(error), Err(_)) => Err(error),
    }
}

fn mapped(address: Address) -> Address {
    match address {
        Address::V6(_) => address,
        Address::V4(v4) => {
            let mut v6 = [0; 16];
            v6[10..12].copy_from_slice(&[0xff, 0xff]);
            v6[12..].copy_from_slice(&v4);
            Address::V6(v6)
        }
    }
}

/// A node that is an address; the error is for one of a family that is not wanted.
fn literal(node: &[u8], hints: &Hints) -> Option<Result<(Address, u32), Eai>> {
    if let Some((v4, b"")) = parse_aton(node) {
        let v4 = Address::V4(v4);
        return Some(match hints.family {
            AF_INET6 if hints.flags & flag::V4MAPPED != 0 => Ok((mapped(v4), 0)),
            AF_INET6 => Err(Eai::AddrFamily),
            _ => Ok((v4, 0)),
        });
    }
    let (text, scope) = match node.iter().position(|&b| b == b'%') {
        Some(at) => (&node[..at], Some(&node[at + 1..])),
        None => (node, None),
    };
    let v6 = parse_v6(text)?;
    if hints.family == AF_INET {
        let is_mapped = v6[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let v4 = Address::V4([v6[12], v6[13], v6[14], v6[15]]);
        return Some(if is_mapped { Ok((v4, 0)) } else { Err(Eai::AddrFamily) });
    }
    let scope = scope.map_or(Some(0), interfaces::scope);
    Some(scope.map(|scope| (Address::V6(v6), scope)).ok_or(Eai::NoName))
}

abi! { EXPORTS "libc.so.6":
    /// getaddrinfo(3).
    "GLIBC_2.2.5" fn getaddrinfo(
        node: *const c_char, service: *const c_char, hints: *const addrinfo, result: *mut *mut addrinfo,
    ) -> c_int {
        // SAFETY: the caller's strings, hints and variable.
        unsafe {
            let optional = |text: *const c_char| (!text.is_null()).then(|| bytes(text));
            let given = hints.as_ref().map(|h| Hints {
                flags: h.ai_flags, family: h.ai_family, socktype: h.ai_socktype, protocol: h.ai_protocol,
            });
            let default = Hints { flags: flag::V4MAPPED | flag::ADDRCONFIG, family: AF_UNSPEC, socktype: 0, protocol: 0 };
            let hints = given.unwrap_or(default);
            match look_up(optional(node), optional(service), &hints).and_then(|answer| list(&answer, hints.flags)) {
                Ok(first) => {
                    result.write(first);
                    0
                }
                Err(error) => error as c_int,
            }
        }
    }
    /// freeaddrinfo(3).
    "GLIBC_2.2.5" fn freeaddrinfo(list: *mut addrinfo) {
        let mut at = list;
        while !at.is_null() {
            // SAFETY: entries that `list` made; each holds its address in its own block.
            unsafe {
                let next = (*at).ai_next;
                free((*at).ai_canonname.cast());
                free(at.cast());
                at = next;
            }
        }
    }
    /// gai_strerror(3).
    "GLIBC_2.2.5" fn gai_strerror(error: c_int) -> *const c_char { error_text(error).as_ptr() }
}

fn error_text(error: c_int) -> &'static CStr {
    match error {
        -9 => c"Address family for hostname not supported",
        -3 => c"Temporary failure in name resolution",
        -1 => c"Bad value for ai_flags",
        -4 => c"Non-recoverable failure in name resolution",
        -6 => c"ai_family not supported",
        -10 => c"Memory allocation failure",
        -5 => c"No address associated with hostname",
        -2 => c"Name or service not known",
        -8 => c"Servname not supported for ai_socktype",
        -7 => c"ai_socktype not supported",
        -11 => c"System error",
        -100 => c"Processing request in progress",
        -101 => c"Request canceled",
        -102 => c"Request not canceled",
        -103 => c"All requests done",
        -104 => c"Interrupted by a signal",
        -105 => c"Parameter string not correctly encoded",
        _ => c"Unknown error",
    }
}

/// The answer as C's list: each entry one block with its address behind it, as freeaddrinfo and
/// programs that copy entries expect.
fn list(answer: &Answer, flags: c_int) -> Result<*mut addrinfo, Eai> {
    let (entries, canonical) = answer;
    let mut first: *mut addrinfo = null_mut();
    for (i, entry) in entries.iter().enumerate().rev() {
        let name = if i == 0 { canonical.as_deref() } else { None };
        // SAFETY: `first` is a list made here.
        unsafe {
            match c_entry(entry, name, flags, first) {
                Some(made) => first = made,
                None => {
                    freeaddrinfo(first);
                    return Err(Eai::Memory);
                }
            }
        }
    }
    Ok(first)
}

unsafe fn c_entry(
    entry: &Entry,
    name: Option<&[u8]>,
    flags: c_int,
    next: *mut addrinfo,
) -> Option<*mut addrinfo> {
    let (socket_address, len) = socket_address(entry);
    // SAFETY: fresh blocks, long enough for what is written.
    unsafe {
        let canonname = match name {
            None => null_mut(),
            Some(name) => {
                let copy: *mut u8 = malloc(name.len() + 1).cast();
                if copy.is_null() {
                    return None;
                }
                core::ptr::copy_nonoverlapping(name.as_ptr(), copy, name.len());
                copy.add(name.len()).write(0);
                copy
            }
        };
        let block: *mut addrinfo = malloc(size_of::<addrinfo>() + len).cast();
        if block.is_null() {
            free(canonname.cast());
            return None;
        }
        let address: *mut u8 = block.add(1).cast();
        core::ptr::copy_nonoverlapping(socket_address.as_ptr(), address, len);
        block.write(addrinfo {
            ai_flags: flags,
            ai_family: entry.address.family(),
            ai_socktype: entry.socktype,
            ai_protocol: entry.protocol,
            ai_addrlen: len as socklen_t,
            ai_addr: address.cast(),
            ai_canonname: canonname.cast(),
            ai_next: next,
        });
        Some(block)
    }
}

/// sockaddr_in or sockaddr_in6, and its length.
pub fn socket_address(entry: &Entry) -> ([u8; 28], usize) {
    let mut bytes = [0u8; 28];
    bytes[..2].copy_from_slice(&(entry.address.family() as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&entry.port.to_be_bytes());
    match entry.address {
        Address::V4(a) => {
            bytes[4..8].copy_from_slice(&a);
            (bytes, 16)
        }
        Address::V6(a) => {
            bytes[8..24].copy_from_slice(&a);
            bytes[24..].copy_from_slice(&entry.scope.to_ne_bytes());
            (bytes, 28)
        }
    }
}

/// An address as text.
pub fn text(address: &Address) -> super::inet::AddressText {
    match address {
        Address::V4(a) => format_v4(a),
        Address::V6(a) => format_v6(a),
    }
}
