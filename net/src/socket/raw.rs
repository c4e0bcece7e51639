//! Raw and ping sockets for ICMP: what `ping` needs.

use super::{Endpoint, SocketId};
use crate::error::Result;
use crate::shard::Shard;
use crate::socket::udp::Datagram;

/// What a raw socket sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawProtocol {
    /// SOCK_RAW: every packet of that IP protocol that reaches us, IP header included.
    Ip(u8),
    /// SOCK_DGRAM with IPPROTO_ICMP: echo replies to our own requests; the identifier is our port.
    Ping,
}

impl Shard {
    /// Makes a raw or ping socket.
    pub fn raw_open(&mut self, _protocol: RawProtocol) -> Result<SocketId> {
        todo!()
    }

    /// Sends `data` (without IP header) to `to`.
    pub fn raw_send(&mut self, _id: SocketId, _data: &[u8], _to: Endpoint) -> Result<usize> {
        todo!()
    }

    /// Copies the next packet out.
    pub fn raw_recv(&mut self, _id: SocketId, _data: &mut [u8], _peek: bool) -> Result<Datagram> {
        todo!()
    }
}
