//! What every socket has: an identifier, endpoints, readiness.

pub(crate) mod raw;
pub(crate) mod tcp;
pub(crate) mod udp;

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address; unspecified for "any".
    pub addr: IpAddr,
    /// The port; 0 for "any".
    pub port: u16,
}

impl Endpoint {
    /// 0.0.0.0:0.
    pub const UNSPECIFIED: Endpoint = Endpoint { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

    /// An endpoint of these parts.
    pub fn new(addr: impl Into<IpAddr>, port: u16) -> Endpoint {
        Endpoint { addr: addr.into(), port }
    }

    /// The address as packets carry it: mapped IPv4 (RFC 4291 section 2.5.5.2) is IPv4.
    pub(crate) fn real(self) -> IpAddr {
        self.addr.to_canonical()
    }

    /// As a destination: "any" is this host, as on Linux.
    pub(crate) fn destination(self) -> IpAddr {
        match self.real() {
            IpAddr::V4(addr) if addr.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(addr) if addr.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            addr => addr,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.addr, self.port).fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(from: SocketAddr) -> Endpoint {
        Endpoint { addr: from.ip(), port: from.port() }
    }
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection, a listener, or a socket that may become either.
    Tcp,
    /// A UDP socket.
    Udp,
    /// A raw or ping socket.
    Raw,
}

/// Names a socket, and the shard that it lives in. Never reused within 2^30 sockets of the same slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(u64);

/// Sockets of one shard are fewer than 2^24, shards at most 2^8.
pub(crate) const INDEX_BITS: u32 = 24;

impl SocketId {
    pub(crate) fn new(kind: Kind, index: u32, generation: u32) -> SocketId {
        SocketId((kind as u64) << 62 | u64::from(generation & 0x3fff_ffff) << 32 | u64::from(index))
    }

    /// The same slot of another shard.
    pub(crate) fn on(self, shard: u8) -> SocketId {
        SocketId(self.0 & !(0xff << INDEX_BITS) | u64::from(shard) << INDEX_BITS)
    }

    /// The shard that the socket lives in.
    #[inline]
    pub fn shard(self) -> usize {
        (self.0 >> INDEX_BITS) as usize & 0xff
    }

    /// The name as a number.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// A name from its number.
    pub fn from_bits(bits: u64) -> SocketId {
        SocketId(bits)
    }

    /// What kind of socket it names.
    pub fn kind(self) -> Kind {
        match self.0 >> 62 {
            0 => Kind::Tcp,
            1 => Kind::Udp,
            _ => Kind::Raw,
        }
    }

    pub(crate) fn index(self) -> u32 {
        self.0 as u32 & ((1 << INDEX_BITS) - 1)
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & 0x3fff_ffff
    }
}

impl fmt::Debug for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}.{}", self.kind(), self.index(), self.generation())
    }
}

/// How an address is claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// SO_REUSEADDR: share with others that say the same, as long as nobody listens; ignore TIME-WAIT.
    pub reuse_addr: bool,
    /// SO_REUSEPORT: share with others that say the same; incoming connections and datagrams are spread.
    pub reuse_port: bool,
    /// IP_TRANSPARENT: the address need not be ours. Refused unless the shard has `any_ip`.
    pub transparent: bool,
    /// IPV6_V6ONLY: `::` leaves IPv4 to others.
    pub v6_only: bool,
    /// IP_FREEBIND: the address need not be ours yet.
    pub free: bool,
}
