//! The network of a machine's guests: supervisor, network server, uplinks.
//!
//! The *supervisor* ([`supervisor`]) is a tiny process for each network. It holds what must outlive a
//! server: link memory, port map, NIC descriptors, published host listeners. The *server*
//! ([`server`]) forwards frames between guests and the uplink and may die at any time. `attacca run`
//! talks to the supervisor over its control socket ([`client`]).

mod board;
pub mod bpf;
pub mod client;
mod control;
pub mod direct;
mod dns;
mod forward;
mod limits;
pub mod nic;
mod ntuple;
mod orders;
mod plan;
pub mod policy;
mod port;
mod port_map;
pub mod queues;
mod server;
mod supervisor;
mod sys;
#[cfg(test)]
mod tests;
mod uplink;
pub mod xdp_queues;

pub use control::{Fault, fuzz_control};
pub use forward::fuzz_forward;
pub use orders::serve_as_program;

use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// `-p [ADDR:]HOST:GUEST[/udp]`: a host port that leads to a guest's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// What a guest asks of a network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GuestRequest {
    /// The guest's name, for status and messages, and for the network's name service.
    pub name: String,
    /// Host ports to publish.
    pub publish: Vec<Publish>,
    /// Its address, or the network chooses. One that another guest has is shared with it.
    pub address: Option<IpAddr>,
    /// No IPv4 address of the network's, but one that a DHCP server behind its NIC leases.
    #[serde(default)]
    pub dhcp: bool,
    /// Its IPv6 address.
    #[serde(default)]
    pub address6: Want6,
    /// Another way out than the network's.
    pub gateway: Option<IpAddr>,
    /// A direct queue from the start, if one can be had.
    #[serde(default)]
    pub direct: bool,
    /// Queue pairs (one for each engine shard).
    pub queues: u32,
    /// What it may use at most.
    pub limits: Limits,
}

/// Which IPv6 addresses a guest wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Want6 {
    /// What its network has for it: one of the network's prefix, or what the link's routers say.
    #[default]
    Default,
    /// This one, with the length of its network's prefix if that is not the network's.
    Address(Ipv6Addr, Option<u8>),
    /// What the link's routers say (SLAAC).
    Auto,
    /// None.
    Off,
}

/// What one guest may use of its network; 0: no limit of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Frames that it sends in a second (a super-segment is one).
    pub frames: u64,
    /// Bytes that it sends in a second.
    pub bytes: u64,
    /// Bytes of each of its rings.
    pub ring: u32,
    /// Ports that it claims at once.
    pub ports: u32,
}

/// What a network uses as its NIC.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum UplinkSpec {
    /// Ordinary host sockets: no privileges, no address of the host's network.
    #[default]
    Host,
    /// A TAP device or an AF_XDP socket: guests are neighbours on that link.
    Nic(direct::NicSpec),
}

/// What `attacca server start` is told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// The network's name.
    pub name: String,
    /// Its NIC.
    pub uplink: UplinkSpec,
    /// First address for guests (or, without host bits, the whole network), and the prefix length.
    pub address: Option<(Ipv4Addr, u8)>,
    /// The way out.
    pub gateway: Option<Ipv4Addr>,
    /// The network's IPv6 prefix and its length.
    #[serde(default)]
    pub address6: Option<(Ipv6Addr, u8)>,
    /// Queues of the NIC for guests in direct mode.
    pub direct_queues: u32,
    /// They are given to guests by measure ([`policy`]).
    #[serde(default)]
    pub auto: bool,
    /// Limits of guests that bring none of their own.
    pub limits: Limits,
    /// All frames between guests go over the server.
    #[serde(default)]
    pub no_shortcuts: bool,
}

/// A guest's place in a network.
#[derive(Debug)]
pub struct Attached {
    /// The link's memory (see `net::ring`), to be mapped by the guest.
    pub link: OwnedFd,
    /// eventfd that wakes the server.
    pub to_server: OwnedFd,
    /// eventfd that wakes the guest.
    pub to_guest: OwnedFd,
    /// Stays open in the guest as long as it lives: the supervisor cleans up when it closes.
    pub control: OwnedFd,
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
    /// The only neighbour, if the link to the server is all that the guest has to know; else it asks by
    /// ARP who is who.
    pub peer_mac: Option<[u8; 6]>,
    /// The guest's address and prefix length.
    pub address: (IpAddr, u8),
    /// It asks a DHCP server for the address, which is the unspecified one until then.
    pub dhcp: bool,
    /// The way out, and to the host itself.
    pub gateway: Option<IpAddr>,
    /// The same for IPv6; without an address there may still be those that routers tell of.
    pub address6: Option<(Ipv6Addr, u8)>,
    /// See above.
    pub gateway6: Option<Ipv6Addr>,
    /// Addresses are made from what routers tell (SLAAC).
    pub auto6: bool,
    /// Where names are resolved.
    pub dns: Option<IpAddr>,
    /// Largest IP packet.
    pub mtu: u32,
    /// Ports for sockets that choose none.
    pub ephemeral: (u16, u16),
    /// Whether the guest asks before it binds: its address may be shared.
    pub claims: bool,
    /// The published ports, with those filled in that the host chose.
    pub publish: Vec<Publish>,
}

/// Why a network said no; one line for the user.
pub type Error = io::Error;
