//! gethostbyname(3), gethostbyaddr(3) and their kin: the old lookups, over [`super::hosts`].

use super::files::{self, Line, Position};
use super::hosts::{self, Address, Host};
use super::inet::{bytes, parse_aton, parse_v6};
use super::pack::{Packer, Record, Slot, reentrant};
use super::{AF_INET, AF_INET6, AF_UNSPEC, HostError, set_h_errno};
use crate::errno;
use crate::types::{c_char, c_int, c_void, socklen_t};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

/// `struct hostent`
#[repr(C)]
pub struct hostent {
    h_name: *mut c_char,
    h_aliases: *mut *mut c_char,
    h_addrtype: c_int,
    h_length: c_int,
    h_addr_list: *mut *mut c_char,
}

impl Record for Host {
    type C = hostent;
    fn pack(&self, to: &mut Packer) -> Option<hostent> {
        let family = self.addresses.first().map_or(AF_INET, Address::family);
        Some(hostent {
            h_addr_list: to.blocks(&self.addresses)?,
            h_aliases: to.strings(&self.aliases)?,
            h_name: to.string(&self.name)?,
            h_addrtype: family,
            h_length: if family == AF_INET6 { 16 } else { 4 },
        })
    }
}

impl Line for Host {
    const PATH: &'static CStr = c"/etc/hosts";
    fn parse(line: &[u8]) -> Option<Self> {
        let line = hosts::parse_line(line, AF_UNSPEC)?;
        let mut names = line.names.iter().map(|n| n.to_vec());
        Some(Host { name: names.next()?, aliases: names.collect(), addresses: alloc::vec![line.address] })
    }
}

type Lookup = Result<Host, HostError>;

/// A name of a family; an address in text form is its own host.
fn by_name(name: &[u8], family: c_int) -> Lookup {
    let literal = match family {
        AF_INET => parse_aton(name).filter(|(_, rest)| rest.is_empty()).map(|(a, _)| Address::V4(a)),
        AF_INET6 => parse_v6(name).map(Address::V6),
        _ => {
            errno::set(Errno::EAFNOSUPPORT);
            return Err(HostError::Internal);
        }
    };
    match literal {
        Some(address) => {
            Ok(Host { name: name.to_vec(), aliases: Vec::new(), addresses: alloc::vec![address] })
        }
        // What looks like an address of the wrong kind is no name.
        None if family == AF_INET && name.contains(&b':') => Err(HostError::NotFound),
        None => hosts::by_name(name, family),
    }
}

unsafe fn by_address(address: *const c_void, len: socklen_t, family: c_int) -> Lookup {
    // SAFETY: the caller's address of `len` bytes.
    let address = unsafe {
        match (family, len) {
            (AF_INET, 4) => Address::V4(address.cast::<[u8; 4]>().read()),
            (AF_INET6, 16) => Address::V6(address.cast::<[u8; 16]>().read()),
            _ => {
                errno::set(Errno::EINVAL);
                return Err(HostError::Internal);
            }
        }
    };
    if address == Address::V6([0; 16]) {
        return Err(HostError::NotFound);
    }
    hosts::by_address(address)
}

static HOST: Slot = Slot::new();
static HOSTS: Position = Position::new();

fn fixed(found: Lookup) -> *mut hostent {
    match found {
        Ok(host) => {
            let place = HOST.fill(Ok(Some(host)));
            if place.is_null() {
                set_h_errno(HostError::Internal as c_int);
            }
            place
        }
        Err(error) => {
            set_h_errno(error as c_int);
            null_mut()
        }
    }
}

/// glibc's convention: 0 with null for "not found", a positive errno for the rest; `*h_error` says
/// which.
unsafe fn in_buffer(
    found: Lookup,
    out: *mut hostent,
    buffer: *mut c_char,
    len: usize,
    result: *mut *mut hostent,
    h_error: *mut c_int,
) -> c_int {
    // SAFETY: the caller's buffers.
    unsafe {
        result.write(null_mut());
        match found {
            Ok(host) => {
                let answer = reentrant(Ok(Some(host)), out, buffer, len, result);
                if answer != 0 {
                    h_error.write(HostError::Internal as c_int);
                }
                answer
            }
            Err(error) => {
                h_error.write(error as c_int);
                match error {
                    HostError::Internal => errno::get().0,
                    HostError::TryAgain => Errno::EAGAIN.0,
                    _ => 0,
                }
            }
        }
    }
}

abi! { EXPORTS "libc.so.6":
    /// gethostbyname(3): IPv4.
    "GLIBC_2.2.5" fn gethostbyname(name: *const c_char) -> *mut hostent {
        // SAFETY: the caller's string.
        fixed(by_name(unsafe { bytes(name) }, AF_INET))
    }
    /// gethostbyname2(3).
    "GLIBC_2.2.5" fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent {
        // SAFETY: the caller's string.
        fixed(by_name(unsafe { bytes(name) }, family))
    }
    /// gethostbyname_r(3).
    "GLIBC_2.2.5" fn gethostbyname_r(
        name: *const c_char, out: *mut hostent, buffer: *mut c_char, len: usize, result: *mut *mut hostent,
        h_error: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { in_buffer(by_name(bytes(name), AF_INET), out, buffer, len, result, h_error) }
    }
    /// gethostbyname2_r(3).
    "GLIBC_2.2.5" fn gethostbyname2_r(
        name: *const c_char, family: c_int, out: *mut hostent, buffer: *mut c_char, len: usize,
        result: *mut *mut hostent, h_error: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { in_buffer(by_name(bytes(name), family), out, buffer, len, result, h_error) }
    }
    /// gethostbyaddr(3).
    "GLIBC_2.2.5" fn gethostbyaddr(address: *const c_void, len: socklen_t, family: c_int) -> *mut hostent {
        // SAFETY: the caller's address.
        fixed(unsafe { by_address(address, len, family) })
    }
    /// gethostbyaddr_r(3).
    "GLIBC_2.2.5" fn gethostbyaddr_r(
        address: *const c_void, size: socklen_t, family: c_int, out: *mut hostent, buffer: *mut c_char,
        len: usize, result: *mut *mut hostent, h_error: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller's address and buffers.
        unsafe { in_buffer(by_address(address, size, family), out, buffer, len, result, h_error) }
    }
    /// gethostent(3): the lines of /etc/hosts.
    "GLIBC_2.2.5" fn gethostent() -> *mut hostent { HOST.fill(HOSTS.next::<Host>()) }
    /// gethostent_r(3).
    "GLIBC_2.2.5" fn gethostent_r(
        out: *mut hostent, buffer: *mut c_char, len: usize, result: *mut *mut hostent, h_error: *mut c_int,
    ) -> c_int {
        let answer = HOSTS.next_if::<Host>(|found| {
            let at_end = found.is_none();
            // SAFETY: the caller's buffers.
            let answer = unsafe { reentrant(Ok(found), out, buffer, len, result) };
            (if at_end { Errno::ENOENT.0 } else { answer }, answer != Errno::ERANGE.0)
        });
        if answer != 0 {
            let error = if answer == Errno::ENOENT.0 { HostError::NotFound } else { HostError::Internal };
            // SAFETY: the caller's variable.
            unsafe { h_error.write(error as c_int) };
        }
        answer
    }
    /// sethostent(3).
    "GLIBC_2.2.5" fn sethostent(_stay_open: c_int) { HOSTS.rewind() }
    /// endhostent(3).
    "GLIBC_2.2.5" fn endhostent() { HOSTS.rewind() }
    /// h_errno.
    "GLIBC_2.2.5" fn __h_errno_location() -> *mut c_int { super::h_errno_cell() }
    /// hstrerror(3).
    "GLIBC_2.2.5" fn hstrerror(error: c_int) -> *const c_char { error_text(error).as_ptr() }
    /// herror(3): the message on stderr.
    "GLIBC_2.2.5" fn herror(prefix: *const c_char) {
        let mut line = Vec::new();
        // SAFETY: null or the caller's string; the thread's own h_errno.
        unsafe {
            if !prefix.is_null() && *prefix != 0 {
                line.extend_from_slice(bytes(prefix));
                line.extend_from_slice(b": ");
            }
            line.extend_from_slice(error_text(super::h_errno_cell().read()).to_bytes());
            line.push(b'\n');
            let _ = crate::kcall!(write, 2, line.as_ptr(), line.len());
        }
    }
    /// ether_hostton(3): /etc/ethers.
    "GLIBC_2.2.5" fn ether_hostton(host: *const c_char, to: *mut [u8; 6]) -> c_int {
        // SAFETY: the caller's string and address.
        unsafe {
            let host = bytes(host);
            match ethers().into_iter().find(|(_, name)| name.eq_ignore_ascii_case(host)) {
                Some((address, _)) => {
                    to.write(address);
                    0
                }
                None => -1,
            }
        }
    }
    /// ether_line(3): a line of the file. What stands behind `#` is none of it.
    "GLIBC_2.2.5" fn ether_line(line: *const c_char, address: *mut [u8; 6], host: *mut c_char) -> c_int {
        // SAFETY: the caller's string and address, and a buffer that is long enough (the man page's word).
        unsafe {
            let Some((found, name)) = ether(bytes(line)) else { return -1 };
            address.write(found);
            core::ptr::copy_nonoverlapping(name.as_ptr(), host.cast(), name.len());
            host.add(name.len()).write(0);
            0
        }
    }
    /// ether_ntohost(3).
    "GLIBC_2.2.5" fn ether_ntohost(host: *mut c_char, address: *const [u8; 6]) -> c_int {
        // SAFETY: the caller's address, and a buffer that is long enough (the man page's word).
        unsafe {
            let wanted = address.read();
            match ethers().into_iter().find(|(address, _)| *address == wanted) {
                Some((_, name)) => {
                    core::ptr::copy_nonoverlapping(name.as_ptr(), host.cast(), name.len());
                    host.add(name.len()).write(0);
                    0
                }
                None => -1,
            }
        }
    }
}

fn error_text(error: c_int) -> &'static CStr {
    match error {
        0 => c"Resolver Error 0 (no error)",
        1 => c"Unknown host",
        2 => c"Host name lookup failure",
        3 => c"Unknown server error",
        4 => c"No address associated with name",
        error if error < 0 => c"Resolver internal error",
        _ => c"Unknown resolver error",
    }
}

/// `/etc/ethers`: address and name on a line.
fn ethers() -> Vec<([u8; 6], Vec<u8>)> {
    if !super::nss::is_asked(b"/etc/ethers") {
        return Vec::new();
    }
    let bytes = files::read(c"/etc/ethers").unwrap_or_default();
    files::lines(&bytes).filter_map(ether).collect()
}

fn ether(line: &[u8]) -> Option<([u8; 6], Vec<u8>)> {
    let mut words = files::words(line);
    let mut text = words.next()?.to_vec();
    text.push(0);
    let mut address = [0u8; 6];
    // SAFETY: a C string and an address of ours.
    let ok = unsafe { !super::inet::ether_aton_r(text.as_ptr().cast(), &mut address).is_null() };
    Some((address, words.next()?.to_vec())).filter(|_| ok)
}
