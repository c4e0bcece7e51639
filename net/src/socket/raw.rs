//! Raw and ping sockets: what `ping` and `traceroute` need (raw(7), icmp(7)).

use super::{Endpoint, Kind, SocketId};
use crate::engine::slab::Slab;
use crate::error::{Error, Result};
use crate::ip::multicast::Joined;
use crate::ip::packet::{Outline, Packet};
use crate::ip::{icmp, icmp6};
use crate::shard::{Ready, Shard};
use crate::socket::udp::Datagram;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::IpAddr;

/// What a raw socket sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawProtocol {
    /// SOCK_RAW: every packet of that IP protocol that reaches us, IP header included.
    Ip(u8),
    /// SOCK_DGRAM with IPPROTO_ICMP: echo replies to our own requests; the identifier is our port.
    Ping,
    /// The same for ICMPv6.
    Ping6,
}

/// Bytes queued before packets are dropped.
const BUFFER: usize = 212_992;

pub(crate) struct Socket {
    pub(crate) generation: u32,
    pub(crate) open: bool,
    protocol: RawProtocol,
    ident: u16,
    queue: VecDeque<(Datagram, Vec<u8>)>,
    queued: usize,
    joined: Vec<Joined>,
    pub(crate) cookie: u64,
    pub(crate) news: Ready,
    pub(crate) evented: bool,
}

impl Default for Socket {
    fn default() -> Socket {
        Socket {
            generation: 0,
            open: false,
            protocol: RawProtocol::Ping,
            ident: 0,
            queue: VecDeque::new(),
            queued: 0,
            joined: Vec::new(),
            cookie: 0,
            news: Ready::empty(),
            evented: false,
        }
    }
}

impl Socket {
    pub(crate) fn ready(&self) -> Ready {
        if self.queue.is_empty() { Ready::WRITABLE } else { Ready::WRITABLE | Ready::READABLE }
    }
}

/// All raw sockets of a shard: few, so they are searched.
#[derive(Default)]
pub(crate) struct Raw {
    pub(crate) sockets: Slab<Socket>,
    pub(crate) events: VecDeque<u32>,
    open: Vec<u32>,
    next_ident: u16,
}

impl<T: Default> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab::new()
    }
}

impl Raw {
    /// Memberships of a group.
    pub(crate) fn memberships(&self, group: IpAddr) -> Vec<Joined> {
        let open = self.open.iter().map(|index| &self.sockets[*index]);
        open.flat_map(|socket| socket.joined.iter().filter(|j| j.group == group).cloned()).collect()
    }

    /// Gives a copy of a packet to every socket that wants it.
    #[inline]
    pub(crate) fn input(&mut self, packet: &Packet<'_>, loopback: bool, at_us: u64) {
        for i in 0..self.open.len() {
            let index = self.open[i];
            let socket = &mut self.sockets[index];
            let data = match socket.protocol {
                RawProtocol::Ip(protocol) if protocol == packet.protocol => packet.bytes,
                RawProtocol::Ping | RawProtocol::Ping6 if is_reply_to(packet, socket) => packet.payload,
                _ => continue,
            };
            if socket.queued + data.len() > BUFFER {
                continue;
            }
            socket.queued += data.len();
            let about = Datagram {
                len: data.len(),
                from: Endpoint::new(packet.src, 0),
                to: Endpoint::new(packet.dst, 0),
                hop_limit: packet.hop_limit,
                traffic_class: packet.traffic_class,
                loopback,
                segment: 0,
                at_us,
            };
            socket.queue.push_back((about, data.to_vec()));
            socket.news |= Ready::READABLE;
            if !socket.evented {
                socket.evented = true;
                self.events.push_back(index);
            }
        }
    }
}

fn is_reply_to(packet: &Packet<'_>, socket: &Socket) -> bool {
    let (protocol, reply) = match socket.protocol {
        RawProtocol::Ping6 => (icmp6::PROTOCOL, icmp6::ECHO_REPLY),
        _ => (icmp::PROTOCOL, icmp::ECHO_REPLY),
    };
    packet.protocol == protocol
        && packet.payload.first() == Some(&reply)
        && packet.payload.get(4..6) == Some(&socket.ident.to_be_bytes()[..])
}

impl Shard {
    /// Makes a raw or ping socket.
    pub fn raw_open(&mut self, protocol: RawProtocol) -> Result<SocketId> {
        if self.raw.sockets.len() >= self.config.limits.udp_sockets.min(1024) {
            return Err(Error::NoBuffers);
        }
        let index = self.raw.sockets.take();
        self.raw.next_ident = self.raw.next_ident.wrapping_add(1);
        let ident = self.raw.next_ident;
        let socket = &mut self.raw.sockets[index];
        (socket.open, socket.protocol, socket.ident) = (true, protocol, ident);
        let id = SocketId::new(Kind::Raw, index, socket.generation);
        self.raw.open.push(index);
        Ok(id)
    }

    pub(crate) fn raw_index(&self, id: SocketId) -> Result<u32> {
        if id.kind() != Kind::Raw {
            return Err(Error::NotSupported);
        }
        let socket = self.raw.sockets.get(id.index()).ok_or(Error::BadSocket)?;
        let valid = socket.open && socket.generation == id.generation();
        if valid { Ok(id.index()) } else { Err(Error::BadSocket) }
    }

    /// The identifier that a ping socket's requests carry.
    pub fn raw_ident(&self, id: SocketId) -> Result<u16> {
        Ok(self.raw.sockets[self.raw_index(id)?].ident)
    }

    /// Sends `data` (without IP header) to `to`. A ping socket's data is an echo request, whose identifier
    /// and checksum are filled in.
    pub fn raw_send(&mut self, id: SocketId, data: &[u8], to: Endpoint) -> Result<usize> {
        let index = self.raw_index(id)?;
        let dst = to.destination();
        if data.len() > 65_515 {
            return Err(Error::MessageTooLong);
        }
        self.routes.route(dst).ok_or(Error::NetworkUnreachable)?;
        let src = self.routes.source_for(dst, self.now.ms).ok_or(Error::NetworkUnreachable)?;
        let socket = &self.raw.sockets[index];
        let mut data = data.to_vec();
        let protocol = match socket.protocol {
            RawProtocol::Ip(protocol) => protocol,
            RawProtocol::Ping6 if data.len() < 8 || data[0] != icmp6::ECHO_REQUEST => {
                return Err(Error::Invalid);
            }
            RawProtocol::Ping6 => {
                data[4..6].copy_from_slice(&socket.ident.to_be_bytes());
                data[2..4].fill(0);
                let sum = Outline::new(src, dst, icmp6::PROTOCOL).checksum(&data);
                data[2..4].copy_from_slice(&sum.to_be_bytes());
                icmp6::PROTOCOL
            }
            RawProtocol::Ping if data.len() < 8 || data[0] != icmp::ECHO_REQUEST => {
                return Err(Error::Invalid);
            }
            RawProtocol::Ping => {
                data[4..6].copy_from_slice(&socket.ident.to_be_bytes());
                icmp::fill_checksum(&mut data);
                icmp::PROTOCOL
            }
        };
        let mut packet = Outline::new(src, dst, protocol).begin(data.len());
        packet.extend_from_slice(&data);
        self.push_packet(packet);
        Ok(data.len())
    }

    /// Copies the next packet out.
    pub fn raw_recv(&mut self, id: SocketId, data: &mut [u8], peek: bool) -> Result<Datagram> {
        let index = self.raw_index(id)?;
        let socket = &mut self.raw.sockets[index];
        let (about, bytes) = socket.queue.front().ok_or(Error::WouldBlock)?;
        let (about, count) = (*about, bytes.len().min(data.len()));
        data[..count].copy_from_slice(&bytes[..count]);
        if !peek {
            socket.queued -= about.len;
            socket.queue.pop_front();
        }
        Ok(about)
    }

    pub(crate) fn raw_close(&mut self, id: SocketId) {
        let Ok(index) = self.raw_index(id) else { return };
        let socket = &mut self.raw.sockets[index];
        *socket = Socket { generation: socket.generation.wrapping_add(1) & 0x3fff_ffff, ..Socket::default() };
        self.raw.open.retain(|other| *other != index);
        self.raw.sockets.release(index);
    }
}
