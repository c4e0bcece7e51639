//! The façade: one shard of the network stack, driven by its owner.
//!
//! The owner's loop: [`Shard::poll`] when the device has frames or [`Shard::deadline`] has come,
//! [`Shard::next_event`] until it is empty, socket operations, [`Shard::flush`] after a run of them.
//! Socket operations are in `socket/{tcp,udp,raw}.rs`.

use platform::time::Instant;

use crate::config::Config;
use crate::device::Device;
use crate::socket::{Endpoint, SocketId};

bitflags::bitflags! {
    /// What a socket is ready for, level-triggered: true as long as the cause lasts.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Ready: u8 {
        /// `recv` or `accept` would return something, if only "end of data" or an error.
        const READABLE = 1;
        /// `send` would take a fair number of bytes, or fail at once.
        const WRITABLE = 2;
        /// The peer will send no more (EPOLLRDHUP).
        const PEER_CLOSED = 4;
        /// Both directions are over (EPOLLHUP).
        const HANGUP = 8;
        /// [`Shard::take_error`] has something (EPOLLERR).
        const ERROR = 16;
    }
}

/// A socket whose readiness may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The socket.
    pub id: SocketId,
    /// What the owner set with [`Shard::set_cookie`].
    pub cookie: u64,
    /// What it is ready for now.
    pub ready: Ready,
    /// What happened since the last event: news that an edge-triggered waiter must hear of, also if
    /// `ready` had the bit before (more data arrived, more room was made).
    pub news: Ready,
}

/// A connection that somebody wants to open through us and that no listener of ours covers
/// ([`Config::ask_incoming`]). Nothing has been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Names the half-open connection; becomes the socket's identifier if it is admitted.
    pub id: SocketId,
    /// Who asks.
    pub from: Endpoint,
    /// Whom it wants to reach.
    pub to: Endpoint,
}

/// How an [`Incoming`] is turned down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// With RST: nobody listens there.
    Reset,
    /// With ICMP "network unreachable".
    NetworkUnreachable,
    /// With ICMP "host unreachable".
    HostUnreachable,
    /// With ICMP "administratively prohibited".
    Prohibited,
    /// Not at all: the peer tries again and gives up by itself.
    Silence,
}

/// One shard: sockets, flow table, timers, addresses. Shares nothing with other shards.
pub struct Shard {
    _config: Config,
}

impl Shard {
    /// A shard without sockets.
    pub fn new(config: Config) -> Shard {
        Shard { _config: config }
    }

    /// Takes what the device received, runs the timers that are due, sends what may be sent. Returns the
    /// number of frames received (0: nothing was waiting; as large as the burst: there may be more).
    pub fn poll(&mut self, _now: Instant, _dev: &mut dyn Device) -> usize {
        todo!()
    }

    /// Sends what may be sent, without receiving. Call it after socket operations; also delivers packets
    /// on the loopback, so that events may follow.
    pub fn flush(&mut self, _now: Instant, _dev: &mut dyn Device) {
        todo!()
    }

    /// When [`Self::poll`] must be called at the latest; may be early, never late. `None`: never.
    pub fn deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// Something waits to be sent: call [`Self::flush`] or [`Self::poll`] soon.
    pub fn wants_flush(&self) -> bool {
        todo!()
    }

    /// The next socket whose readiness changed. A socket is reported once for all that happened since its
    /// last event.
    pub fn next_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// The next question about an incoming connection.
    pub fn next_incoming(&mut self) -> Option<Incoming> {
        todo!()
    }

    /// Sets what comes with this socket's events.
    pub fn set_cookie(&mut self, _id: SocketId, _cookie: u64) {
        todo!()
    }

    /// What the socket is ready for. A closed identifier is ready for nothing.
    pub fn ready(&self, _id: SocketId) -> Ready {
        todo!()
    }

    /// Takes the pending error (SO_ERROR).
    pub fn take_error(&mut self, _id: SocketId) -> Option<crate::Error> {
        todo!()
    }

    /// The local endpoint; unspecified before `bind` or `connect`.
    pub fn local(&self, _id: SocketId) -> Endpoint {
        todo!()
    }

    /// The peer's endpoint, while connected.
    pub fn peer(&self, _id: SocketId) -> Option<Endpoint> {
        todo!()
    }

    /// The owner forgets the socket. A connection goes on by itself until the peer has everything
    /// (or is reset, if data was left unread or lingering is 0); a listener resets what it had not handed out.
    pub fn close(&mut self, _id: SocketId) {
        todo!()
    }

    /// Adds an address of ours while running.
    pub fn add_address(&mut self, _cidr: crate::Cidr) {
        todo!()
    }

    /// Changes the gateway.
    pub fn set_gateway(&mut self, _gateway: Option<core::net::IpAddr>) {
        todo!()
    }

    /// Tells a neighbour's hardware address, as if ARP had.
    pub fn set_neighbor(&mut self, _addr: core::net::IpAddr, _mac: [u8; 6]) {
        todo!()
    }

    /// Announces our addresses to the link (gratuitous ARP, RFC 5227 section 3) and makes every peer speak:
    /// each connection with data in flight resends its first segment, each other one sends an ACK. For
    /// the moment after a device was switched or a network server was replaced.
    pub fn kick(&mut self) {
        todo!()
    }
}
