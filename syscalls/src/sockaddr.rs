//! Socket addresses as the program writes them, and as the engine does. The only file with both.

use crate::user::{self, UserPtr};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use net::Endpoint;

/// `AF_UNSPEC`
pub const AF_UNSPEC: u16 = 0;
/// `AF_UNIX`
pub const AF_UNIX: u16 = 1;
/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;

/// `sizeof(struct sockaddr_storage)`: the longest address.
pub const ADDRESS_MAX: usize = 128;

/// An address of any family: the bytes of its `struct sockaddr_*`, and how many there are.
#[derive(Clone, Copy)]
pub struct SockAddr {
    bytes: [u8; ADDRESS_MAX],
    len: usize,
}

impl SockAddr {
    /// No address at all (a datagram socket's nameless peer).
    pub const EMPTY: SockAddr = SockAddr { bytes: [0; ADDRESS_MAX], len: 0 };

    /// Copies an address of the program in; EINVAL if it is too long to be one.
    pub fn read(from: UserPtr<u8>, len: u32) -> Result<SockAddr> {
        let len = len as usize;
        if len > ADDRESS_MAX {
            return Err(Errno::EINVAL);
        }
        let mut address = SockAddr { len, ..SockAddr::EMPTY };
        user::read_bytes(from.address(), &mut address.bytes[..len])?;
        Ok(address)
    }

    /// Copies the address out as accept(2) and others do: cut to the program's room, with its true
    /// length in `len`. Nothing for a NULL pointer.
    pub fn write(&self, to: UserPtr<u8>, len: UserPtr<u32>) -> Result<()> {
        if to.is_null() {
            return Ok(());
        }
        let room = len.read()? as i32;
        if room < 0 {
            return Err(Errno::EINVAL);
        }
        user::write_bytes(to.address(), &self.bytes[..self.len.min(room as usize)])?;
        len.write(self.len as u32)
    }

    /// From bytes of the kernel's own making.
    pub fn from_bytes(bytes: &[u8]) -> SockAddr {
        let mut address = SockAddr { len: bytes.len().min(ADDRESS_MAX), ..SockAddr::EMPTY };
        address.bytes[..address.len].copy_from_slice(&bytes[..address.len]);
        address
    }

    /// The bytes, family first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The family; `AF_UNSPEC` if the address is too short to have one.
    pub fn family(&self) -> u16 {
        if self.len < 2 { AF_UNSPEC } else { u16::from_ne_bytes([self.bytes[0], self.bytes[1]]) }
    }

    /// An internet endpoint as `struct sockaddr_in`, or in an IPv6 socket `sockaddr_in6` (IPv4 ones
    /// mapped, RFC 4291 section 2.5.5.2).
    pub fn from_endpoint(endpoint: Endpoint, v6: bool) -> SockAddr {
        let mut bytes = [0; 28];
        bytes[2..4].copy_from_slice(&endpoint.port.to_be_bytes());
        if v6 {
            let address = match endpoint.addr {
                IpAddr::V6(v6) => v6,
                IpAddr::V4(v4) if v4.is_unspecified() => Ipv6Addr::UNSPECIFIED,
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            };
            bytes[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
            bytes[8..24].copy_from_slice(&address.octets());
            if address.is_unicast_link_local() {
                bytes[24..28].copy_from_slice(&crate::net_interface::ETH.to_ne_bytes());
            }
            return SockAddr::from_bytes(&bytes);
        }
        let address = match endpoint.addr {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(v6) => v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED),
        };
        bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
        bytes[4..8].copy_from_slice(&address.octets());
        SockAddr::from_bytes(&bytes[..16])
    }

    /// `sin6_scope_id`: the interface of a link-local address; 0 for none.
    pub fn scope(&self) -> u32 {
        if self.family() != AF_INET6 || self.len < 28 {
            return 0;
        }
        u32::from_ne_bytes([self.bytes[24], self.bytes[25], self.bytes[26], self.bytes[27]])
    }

    /// The internet endpoint that the program means for a socket of family `v6` or not.
    /// EINVAL if it is too short, EAFNOSUPPORT for another family.
    pub fn endpoint(&self, v6: bool) -> Result<Endpoint> {
        let port = || u16::from_be_bytes([self.bytes[2], self.bytes[3]]);
        match (self.family(), v6) {
            (AF_INET, _) if self.len < 16 => Err(Errno::EINVAL),
            // An IPv6 socket takes IPv4 addresses only as mapped ones.
            (AF_INET, false) => {
                let octets: [u8; 4] = [self.bytes[4], self.bytes[5], self.bytes[6], self.bytes[7]];
                Ok(Endpoint::new(Ipv4Addr::from(octets), port()))
            }
            (AF_INET6, true) if self.len < 24 => Err(Errno::EINVAL),
            (AF_INET6, true) => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&self.bytes[8..24]);
                Ok(Endpoint::new(Ipv6Addr::from(octets), port()))
            }
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// The path of a `struct sockaddr_un` (unix(7)): empty for unnamed, first byte 0 for abstract.
    pub fn unix_path(&self) -> Result<Vec<u8>> {
        if self.family() != AF_UNIX {
            return Err(Errno::EINVAL);
        }
        let path = &self.bytes[2..self.len.max(2)];
        match path.first() {
            None => Ok(Vec::new()),
            Some(0) => Ok(path.to_vec()),
            Some(_) => Ok(path.split(|&b| b == 0).next().unwrap_or_default().to_vec()),
        }
    }
}
