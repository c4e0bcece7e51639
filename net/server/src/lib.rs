//! The network of a machine's guests: supervisor, network server, uplinks.
//!
//! The *supervisor* ([`supervisor`]) is a tiny process for each network. It holds what must outlive a
//! server: link memory, port map, NIC descriptors, published host listeners. The *server*
//! ([`server`]) forwards frames between guests and the uplink and may die at any time. `attacca run`
//! talks to the supervisor over its control socket ([`client`]).

pub mod bpf;
pub mod client;
mod control;
pub mod direct;
pub mod nic;
pub mod policy;
mod port_map;
pub mod queues;
mod server;
mod supervisor;
mod sys;
#[cfg(test)]
mod tests;
mod uplink;

pub use control::fuzz_control;

use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
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
    /// The guest's name, for status and messages.
    pub name: String,
    /// Host ports to publish.
    pub publish: Vec<Publish>,
    /// Its address, or the network chooses.
    pub address: Option<IpAddr>,
    /// Queue pairs (one for each engine shard).
    pub queues: u32,
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
    /// The guest's address and prefix length.
    pub address: (IpAddr, u8),
    /// The way out, and to the host itself.
    pub gateway: IpAddr,
    /// Where names are resolved.
    pub dns: IpAddr,
    /// Largest IP packet.
    pub mtu: u32,
    /// The published ports, with those filled in that the host chose.
    pub publish: Vec<Publish>,
}

/// Why a network said no; one line for the user.
pub type Error = io::Error;
