//! What a shard is told when it is made.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use crate::engine::congestion::Algorithm;
use crate::ip::route::RouteEntry;

/// An address of ours and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Our address.
    pub address: IpAddr,
    /// Bits that the neighbours on the link share with it.
    pub prefix: u8,
}

/// Where IPv6 addresses come from. Listed ones are ours in each case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6Mode {
    /// Only from the list; a link-local address goes with any of them.
    #[default]
    Static,
    /// A link-local address, and those that routers' prefixes make (SLAAC, RFC 4862), with interface
    /// identifiers that tell nothing (RFC 7217).
    Auto,
    /// None at all, not even ::1.
    Off,
}

/// Everything a [`crate::Shard`] needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our hardware address.
    pub mac: [u8; 6],
    /// Our addresses; 127/8 and ::1 are ours without being listed.
    pub addresses: Vec<Cidr>,
    /// The next hop for IPv4 destinations on no network of ours.
    pub gateway: Option<IpAddr>,
    /// The same for IPv6, besides those that routers tell of themselves.
    pub gateway6: Option<Ipv6Addr>,
    /// More routes.
    pub routes: Vec<RouteEntry>,
    /// Ask a DHCP server for an IPv4 address, a router and name servers (RFC 2131).
    pub dhcp: bool,
    /// The name by which that server may enter us into the names of the network (RFC 2132 section 3.14); empty: none.
    pub dhcp_name: Vec<u8>,
    /// How IPv6 addresses come about, besides those that are listed.
    pub ipv6: Ipv6Mode,
    /// Secret of interface identifiers (RFC 7217): with the same one, addresses made from routers' prefixes
    /// are the same at each start. Without it they are new each time.
    pub stable_secret: Option<[u8; 16]>,
    /// The hardware address of the only neighbour, on a point-to-point link such as a ring to the network
    /// server: then nothing is resolved by ARP (requests for our addresses are still answered).
    pub peer_mac: Option<[u8; 6]>,
    /// Largest IP packet on the link. The device's own limit applies as well.
    pub mtu: usize,
    /// Secret for initial sequence numbers, ports, timestamp offsets and hash tables. Must be random and
    /// differ at each start: whoever knows it can forge segments.
    pub seed: [u8; 32],
    /// Take packets for any destination as ours (the host uplink ends TCP for arbitrary addresses).
    /// Also lets sockets be bound to foreign addresses ([`crate::Bind::transparent`]).
    pub any_ip: bool,
    /// With `any_ip`: a SYN that meets no listener becomes a [`crate::Incoming`] question to the owner
    /// instead of a RST.
    pub ask_incoming: bool,
    /// Answer a SYN or datagram without a socket (RST, port unreachable). Off where another party owns the
    /// same address (guests that share one; the port map filters then).
    pub answer_closed: bool,
    /// First and last port given to sockets that did not choose one.
    pub ephemeral: (u16, u16),
    /// Congestion control of new connections.
    pub congestion: Algorithm,
    /// Explicit congestion notification (RFC 3168).
    pub ecn: Ecn,
    /// Answer with SYN cookies when a listener's queue of half-open connections is full (RFC 4987), instead of
    /// dropping the SYN.
    pub syn_cookies: bool,
    /// TCP Fast Open (RFC 7413).
    pub fast_open: FastOpen,
    /// Bounds.
    pub limits: Limits,
    /// Of how many shards this is one, and which ([`crate::Shard::group`]). One alone is number 0 of 1.
    pub shards: u8,
    /// Its number.
    pub shard: u8,
}

/// Explicit congestion notification, as Linux's tcp_ecn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Neither asked for nor accepted.
    Off,
    /// Accepted when the peer asks.
    #[default]
    Accept,
    /// Also asked for, once for each connection: a SYN that is sent again does without.
    Ask,
}

bitflags::bitflags! {
    /// Where data may go in a SYN (RFC 7413), by the bits of Linux's net.ipv4.tcp_fastopen. Nowhere unless told.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct FastOpen: u32 {
        /// Connections that ask for it ([`crate::Shard::tcp_connect_early`]).
        const CLIENT = 1;
        /// Listeners that ask for it ([`crate::TcpOption::FastOpen`]).
        const SERVER = 2;
        /// Clients send data without a cookie.
        const CLIENT_WITHOUT_COOKIE = 4;
        /// Listeners take data without a cookie.
        const SERVER_WITHOUT_COOKIE = 0x200;
        /// Listeners take data without having asked for it.
        const ALL_LISTENERS = 0x400;
    }
}

/// Bounds on what a shard keeps.
#[derive(Clone, Debug)]
pub struct Limits {
    /// TCP sockets, half-open ones included.
    pub tcp_sockets: usize,
    /// UDP and raw sockets each.
    pub udp_sockets: usize,
    /// Records of connections in TIME-WAIT; beyond it they end at once (as tcp_max_tw_buckets does).
    pub time_wait: usize,
    /// Bytes of buffers over all sockets.
    pub buffer_bytes: usize,
    /// Receive buffer: at first, and as far as it grows by itself (tcp_rmem).
    pub rcvbuf: (usize, usize),
    /// Send buffer: at first, and as far as it grows by itself (tcp_wmem).
    pub sndbuf: (usize, usize),
    /// Questions to the owner ([`crate::Incoming`]) that may be open.
    pub incoming: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            tcp_sockets: 1 << 20,
            udp_sockets: 1 << 16,
            time_wait: 1 << 16,
            buffer_bytes: 1 << 30,
            rcvbuf: (128 << 10, 6 << 20),
            sndbuf: (128 << 10, 4 << 20),
            incoming: 1024,
        }
    }
}

impl Config {
    /// A configuration with the defaults: MTU 1500, no address, no gateway.
    pub fn new(mac: [u8; 6], seed: [u8; 32]) -> Config {
        Config {
            mac,
            addresses: Vec::new(),
            gateway: None,
            gateway6: None,
            routes: Vec::new(),
            dhcp: false,
            dhcp_name: Vec::new(),
            ipv6: Ipv6Mode::Static,
            stable_secret: None,
            peer_mac: None,
            mtu: 1500,
            seed,
            any_ip: false,
            ask_incoming: false,
            answer_closed: true,
            ephemeral: (32768, 60999),
            congestion: Algorithm::Cubic,
            ecn: Ecn::Accept,
            syn_cookies: true,
            fast_open: FastOpen::empty(),
            limits: Limits::default(),
            shards: 1,
            shard: 0,
        }
    }

    /// Adds an address.
    pub fn address(mut self, address: IpAddr, prefix: u8) -> Config {
        self.addresses.push(Cidr { address, prefix });
        self
    }

    /// Sets the gateway.
    pub fn gateway(mut self, gateway: IpAddr) -> Config {
        match gateway {
            IpAddr::V4(_) => self.gateway = Some(gateway),
            IpAddr::V6(v6) => self.gateway6 = Some(v6),
        }
        self
    }
}
