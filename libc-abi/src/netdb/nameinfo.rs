//! getnameinfo(3): a socket address to host and service names.

use super::addrinfo::Eai;
use super::hosts::{self, Address};
use super::{AF_INET, AF_INET6, HostError, addrinfo, conf, interfaces, servent};
use crate::types::{c_char, c_int, c_uint, c_void, socklen_t};
use alloc::vec::Vec;

const NI_NUMERICHOST: c_int = 1;
const NI_NUMERICSERV: c_int = 2;
const NI_NOFQDN: c_int = 4;
const NI_NAMEREQD: c_int = 8;
const NI_DGRAM: c_int = 16;
const NI_IDN: c_int = 32;
const NI_KNOWN: c_int =
    NI_NUMERICHOST | NI_NUMERICSERV | NI_NOFQDN | NI_NAMEREQD | NI_DGRAM | NI_IDN | 64 | 128;
const AF_UNIX: u16 = 1;

abi! { EXPORTS "libc.so.6":
    /// getnameinfo(3).
    "GLIBC_2.2.5" fn getnameinfo(
        address: *const c_void, len: socklen_t, host: *mut c_char, host_len: socklen_t,
        service: *mut c_char, service_len: socklen_t, flags: c_int,
    ) -> c_int {
        // SAFETY: the caller's address of `len` bytes and its buffers.
        let result = unsafe {
            let address = core::slice::from_raw_parts(address.cast::<u8>(), len as usize);
            name(address, host, host_len as usize, service, service_len as usize, flags)
        };
        match result {
            Ok(()) => 0,
            Err(error) => error as c_int,
        }
    }
}

unsafe fn name(
    address: &[u8],
    host: *mut c_char,
    host_len: usize,
    service: *mut c_char,
    service_len: usize,
    flags: c_int,
) -> Result<(), Eai> {
    if flags & !NI_KNOWN != 0 {
        return Err(Eai::BadFlags);
    }
    let family = address.get(..2).map(|f| u16::from_ne_bytes([f[0], f[1]])).ok_or(Eai::Family)?;
    let wants_host = !host.is_null() && host_len > 0;
    let wants_service = !service.is_null() && service_len > 0;
    if flags & NI_NAMEREQD != 0 && host.is_null() && service.is_null() {
        return Err(Eai::NoName);
    }
    // SAFETY: the caller's buffers.
    let store = |text: &[u8], to: *mut c_char, len: usize| unsafe { store(text, to, len) };
    if family == AF_UNIX {
        if wants_host {
            store(&unix_host(flags)?, host, host_len)?;
        }
        if wants_service {
            let path = &address[2..];
            let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
            store(&path[..end], service, service_len)?;
        }
        return Ok(());
    }
    let (address, port, scope) = internet(address, family as c_int)?;
    if wants_host {
        store(&host_text(address, scope, flags)?, host, host_len)?;
    }
    if wants_service {
        store(&service_text(port, flags), service, service_len)?;
    }
    Ok(())
}

fn unix_host(flags: c_int) -> Result<Vec<u8>, Eai> {
    if flags & NI_NUMERICHOST != 0 {
        return if flags & NI_NAMEREQD != 0 { Err(Eai::NoName) } else { Ok(b"localhost".to_vec()) };
    }
    Ok(conf::host_name())
}

fn internet(address: &[u8], family: c_int) -> Result<(Address, u16, u32), Eai> {
    let port = |a: &[u8]| u16::from_be_bytes([a[2], a[3]]);
    match family {
        AF_INET if address.len() >= 16 => {
            Ok((Address::V4([address[4], address[5], address[6], address[7]]), port(address), 0))
        }
        AF_INET6 if address.len() >= 24 => {
            let mut v6 = [0; 16];
            v6.copy_from_slice(&address[8..24]);
            let scope = address.get(24..28).map_or(0, |s| c_uint::from_ne_bytes([s[0], s[1], s[2], s[3]]));
            Ok((Address::V6(v6), port(address), scope))
        }
        _ => Err(Eai::Family),
    }
}

fn host_text(address: Address, scope: u32, flags: c_int) -> Result<Vec<u8>, Eai> {
    if flags & NI_NUMERICHOST == 0 {
        match hosts::by_address(address) {
            Ok(host) => return Ok(short(host.name, flags)),
            Err(HostError::TryAgain) if flags & NI_NAMEREQD != 0 => return Err(Eai::Again),
            Err(HostError::Internal) => return Err(Eai::System),
            Err(_) => {}
        }
    }
    if flags & NI_NAMEREQD != 0 {
        return Err(Eai::NoName);
    }
    let mut text = addrinfo::text(&address).as_bytes().to_vec();
    if scope != 0 {
        text.push(b'%');
        text.extend_from_slice(&scope_text(address, scope));
    }
    Ok(text)
}

/// Link-local addresses name their interface; others have a plain number (getnameinfo.c).
fn scope_text(address: Address, scope: u32) -> Vec<u8> {
    let link_local = match address {
        Address::V6([0xfe, second, ..]) => second & 0xc0 == 0x80,
        Address::V6([0xff, second, ..]) => second & 15 == 2,
        _ => false,
    };
    let name = if link_local { interfaces::name_of(scope).ok() } else { None };
    name.unwrap_or_else(|| alloc::format!("{scope}").into_bytes())
}

/// NI_NOFQDN: without this host's own domain.
fn short(name: Vec<u8>, flags: c_int) -> Vec<u8> {
    if flags & NI_NOFQDN == 0 {
        return name;
    }
    let own = conf::host_name();
    let domain = own.iter().position(|&b| b == b'.').map(|at| &own[at..]);
    match domain.and_then(|domain| name.strip_suffix(domain)) {
        Some(short) if !short.is_empty() => short.to_vec(),
        _ => name,
    }
}

fn service_text(port: u16, flags: c_int) -> Vec<u8> {
    if flags & NI_NUMERICSERV == 0 {
        let protocol: &[u8] = if flags & NI_DGRAM != 0 { b"udp" } else { b"tcp" };
        if let Ok(Some(service)) = servent::service_by_port(port, Some(protocol)) {
            return service.name;
        }
    }
    alloc::format!("{port}").into_bytes()
}

unsafe fn store(text: &[u8], to: *mut c_char, len: usize) -> Result<(), Eai> {
    if text.len() >= len {
        return Err(Eai::Overflow);
    }
    // SAFETY: the caller's buffer of `len` bytes.
    unsafe {
        core::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}
