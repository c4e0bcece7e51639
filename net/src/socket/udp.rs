//! UDP sockets.

use super::{Bind, Endpoint, SocketId};
use crate::error::Result;
use crate::shard::Shard;

/// What came with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes in the datagram; more than were copied if the buffer was too small.
    pub len: usize,
    /// Who sent it.
    pub from: Endpoint,
    /// Where it was sent to (IP_PKTINFO, and what a catch-all socket needs).
    pub to: Endpoint,
    /// IP_RECVTTL.
    pub hop_limit: u8,
    /// IP_RECVTOS.
    pub traffic_class: u8,
}

/// One option to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpOption {
    /// SO_BROADCAST.
    Broadcast(bool),
    /// SO_RCVBUF: bytes queued before datagrams are dropped.
    ReceiveBuffer(usize),
    /// SO_SNDBUF: bytes queued before `send` says `WouldBlock`.
    SendBuffer(usize),
    /// IP_TTL.
    HopLimit(u8),
    /// IP_TOS.
    TrafficClass(u8),
    /// Take datagrams for every address and port that no other socket has (`any_ip` only): one such socket
    /// in a shard.
    CatchAll(bool),
}

impl Shard {
    /// Makes a UDP socket.
    pub fn udp_open(&mut self) -> Result<SocketId> {
        todo!()
    }

    /// Claims a local endpoint. Port 0: a free one.
    pub fn udp_bind(&mut self, _id: SocketId, _local: Endpoint, _bind: Bind) -> Result<()> {
        todo!()
    }

    /// Fixes the peer: only its datagrams arrive, and ICMP errors are reported. `None` dissolves it.
    pub fn udp_connect(&mut self, _id: SocketId, _peer: Option<Endpoint>) -> Result<()> {
        todo!()
    }

    /// Queues a datagram made of `pieces`. `to`: the destination, if not the connected peer. `from`: the
    /// source, if not the bound one (IP_PKTINFO; with `any_ip` any endpoint).
    pub fn udp_send(
        &mut self,
        _id: SocketId,
        _pieces: &[&[u8]],
        _to: Option<Endpoint>,
        _from: Option<Endpoint>,
    ) -> Result<usize> {
        todo!()
    }

    /// Copies the next datagram out, as much as fits; the rest of it is lost. `peek` leaves it queued.
    pub fn udp_recv(&mut self, _id: SocketId, _data: &mut [u8], _peek: bool) -> Result<Datagram> {
        todo!()
    }

    /// Shows the next datagram in place and drops it (unless `peek`).
    pub fn udp_recv_with<R>(
        &mut self,
        _id: SocketId,
        _peek: bool,
        _take: impl FnOnce(&[u8], Datagram) -> R,
    ) -> Result<R> {
        todo!()
    }

    /// Bytes in the next datagram (SIOCINQ); 0 if there is none.
    pub fn udp_next_len(&self, _id: SocketId) -> usize {
        todo!()
    }

    /// Sets an option.
    pub fn udp_set(&mut self, _id: SocketId, _option: UdpOption) -> Result<()> {
        todo!()
    }
}
