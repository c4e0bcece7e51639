//! Sockets to packets: a TCP/UDP/IP engine with no I/O and no clock inside.
//!
//! The owner of a [`Shard`] makes sockets in it, gives it the time and a [`device::Device`], and is told
//! which sockets changed. Nothing here blocks, sleeps, reads a clock or knows an errno; that is the
//! personality's work (`syscalls`) or the network server's.
//!
//! ```text
//! socket/   what a program can do with a TCP, UDP or raw socket
//! engine/   TCP (RFC 9293): one control block for each connection, one table, one timer wheel
//! ip/       IPv4, IPv6, ICMP, neighbours, groups, fragments, routes, DHCP
//! ring/     frames over shared memory to the network server
//! control.rs  messages between a guest and its network's supervisor
//! device/   the trait a NIC or ring implements; switch, fault injection, in-memory pair
//! ports.rs  who owns which local port
//! shard.rs  the façade over all of it
//! group.rs  several shards of one guest; steer.rs: which of them a flow belongs to
//! ```
//!
//! `smoltcp::wire` gives the packet formats and checksums; smoltcp's own sockets are a peer in the tests.
//!
//! Left out of TCP, by name: AccECN, BBR, F-RTO for peers without both SACK and
//! timestamps, MSG_ZEROCOPY, TCP-MD5 and TCP-AO, MPTCP.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod config;
pub mod control;
mod counters;
pub mod device;
mod engine;
mod error;
mod fuzz;
mod fuzz_segments;
mod group;
mod ip;
mod ports;
pub mod ring;
mod shard;
mod socket;
mod steer;

pub use config::{Cidr, Config, Ecn, FastOpen, Ipv6Mode, Limits};
pub use counters::{Counters, IpCounters, TcpCounters, UdpCounters, Usage};
pub use error::{Error, Result};
pub use fuzz::fuzz_frames;
pub use fuzz_segments::fuzz_segments;
pub use group::{Control, Detached, ListenerCopy, Stray};
pub use ip::dhcp::Lease;
pub use ip::route::{Own6, RouteEntry};
pub use shard::{Event, Incoming, Ready, Refusal, Row, Shard};
pub use socket::raw::{RawOption, RawProtocol};
pub use socket::tcp::{CongestionState, Shutdown, TcpFlags, TcpInfo, TcpOption, TcpOptions, TcpState};
pub use socket::udp::{Datagram, MtuDiscover, QueuedError, SendOptions, UdpOption};
pub use socket::{Bind, Endpoint, Kind, SocketId};
pub use steer::{HOME, Place, Steering};

pub use engine::congestion::Algorithm;
pub use engine::fast_open::EarlyFailure;
pub use engine::tcb::Backlog;
