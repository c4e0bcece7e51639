//! Raw and ping sockets: what `ping`, `traceroute` and routing daemons need (raw(7), icmp(7), RFC 3542).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::udp::{QueuedError, SendOptions, join};
use super::{Endpoint, Kind, SocketId};
use crate::engine::slab::Slab;
use crate::error::{Error, Result};
use crate::ip::multicast::Joined;
use crate::ip::packet::{Outline, Packet};
use crate::ip::report::{Report, Trouble};
use crate::ip::{icmp, icmp6, ipv4};
use crate::shard::{Ready, Shard};
use crate::socket::udp::Datagram;

/// What a raw socket sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawProtocol {
    /// SOCK_RAW: every IPv4 packet of that IP protocol that reaches us, IP header included. 255 only sends.
    Ip(u8),
    /// The same for IPv6: what is behind the headers.
    Ip6(u8),
    /// SOCK_DGRAM with IPPROTO_ICMP: echo replies to our own requests; the identifier is our port.
    Ping,
    /// The same for ICMPv6.
    Ping6,
}

/// One option to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawOption {
    /// IP_HDRINCL: what is sent begins with the IPv4 header.
    HeaderIncluded(bool),
    /// ICMP_FILTER: types whose bit is set are not wanted.
    IcmpFilter(u32),
    /// ICMP6_FILTER: the same for 256 types.
    Icmp6Filter([u32; 8]),
    /// IPV6_CHECKSUM: where the checksum stands that we fill in and test; `None` for nowhere.
    Checksum(Option<u16>),
    /// SO_BROADCAST.
    Broadcast(bool),
    /// IP_RECVERR.
    ReceiveErrors(bool),
    /// SO_RCVBUF.
    ReceiveBuffer(usize),
    /// IP_TTL.
    HopLimit(u8),
    /// IP_TOS.
    TrafficClass(u8),
    /// IP_MULTICAST_TTL.
    MulticastHops(u8),
    /// Joins a group.
    Join {
        /// The group.
        group: IpAddr,
        /// On the loopback interface.
        lo: bool,
    },
    /// Leaves it.
    Leave {
        /// The group.
        group: IpAddr,
    },
}

/// Bytes queued before packets are dropped.
const BUFFER: usize = 212_992;
/// A protocol that only sends (IPPROTO_RAW).
const SEND_ONLY: u8 = 255;

pub(crate) struct Socket {
    pub(crate) generation: u32,
    pub(crate) open: bool,
    protocol: RawProtocol,
    pub(crate) ident: u16,
    pub(crate) local: IpAddr,
    pub(crate) peer: Option<IpAddr>,
    queue: VecDeque<(Datagram, Vec<u8>)>,
    queued: usize,
    rcvbuf: usize,
    header_included: bool,
    broadcast: bool,
    filter: [u32; 8],
    checksum_at: Option<u16>,
    hop_limit: u8,
    group_hops: u8,
    traffic_class: u8,
    joined: Vec<Joined>,
    receive_errors: bool,
    errors: VecDeque<QueuedError>,
    pub(crate) error: Option<Error>,
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
            local: Ipv4Addr::UNSPECIFIED.into(),
            peer: None,
            queue: VecDeque::new(),
            queued: 0,
            rcvbuf: BUFFER,
            header_included: false,
            broadcast: false,
            filter: [0; 8],
            checksum_at: None,
            hop_limit: 64,
            group_hops: 1,
            traffic_class: 0,
            joined: Vec::new(),
            receive_errors: false,
            errors: VecDeque::new(),
            error: None,
            cookie: 0,
            news: Ready::empty(),
            evented: false,
        }
    }
}

impl Socket {
    pub(crate) fn ready(&self) -> Ready {
        let mut ready = Ready::WRITABLE;
        ready.set(Ready::READABLE, !self.queue.is_empty() || self.error.is_some());
        ready.set(Ready::ERROR, self.error.is_some() || !self.errors.is_empty());
        ready
    }

    fn is_v6(&self) -> bool {
        matches!(self.protocol, RawProtocol::Ip6(_) | RawProtocol::Ping6)
    }

    /// What the socket gets of a packet; `None` if it does not want it.
    fn wants<'a>(&self, packet: &Packet<'a>) -> Option<&'a [u8]> {
        let foreign = self.peer.is_some_and(|peer| peer != packet.src);
        if foreign || (!self.local.is_unspecified() && self.local != packet.dst && !packet.dst.is_multicast())
        {
            return None;
        }
        let kind = usize::from(packet.payload.first().copied().unwrap_or(0));
        let unwanted = self.filter[kind / 32] >> (kind % 32) & 1 != 0;
        let family = packet.is_v6() == self.is_v6();
        match self.protocol {
            _ if !family => None,
            RawProtocol::Ip(icmp::PROTOCOL) | RawProtocol::Ip6(icmp6::PROTOCOL) if unwanted => None,
            RawProtocol::Ip(protocol) if protocol == packet.protocol => Some(packet.bytes),
            RawProtocol::Ip6(protocol) if protocol == packet.protocol => {
                self.checksum_fits(packet).then_some(packet.payload)
            }
            RawProtocol::Ping | RawProtocol::Ping6 if self.is_reply(packet) => Some(packet.payload),
            _ => None,
        }
    }

    fn checksum_fits(&self, packet: &Packet<'_>) -> bool {
        self.checksum_at.is_none()
            || Outline::new(packet.src, packet.dst, packet.protocol).checksum(packet.payload) == 0
    }

    fn is_reply(&self, packet: &Packet<'_>) -> bool {
        let (protocol, reply) = if self.is_v6() {
            (icmp6::PROTOCOL, icmp6::ECHO_REPLY)
        } else {
            (icmp::PROTOCOL, icmp::ECHO_REPLY)
        };
        packet.protocol == protocol
            && packet.payload.first() == Some(&reply)
            && packet.payload.get(4..6) == Some(&self.ident.to_be_bytes()[..])
    }

    /// Writes what the kernel writes for such a socket into the data.
    fn complete(&self, outline: &mut Outline, data: &mut [u8]) -> Result<()> {
        let ping = |data: &mut [u8], request: u8| {
            if data.len() < 8 || data[0] != request || data[1] != 0 {
                return Err(Error::Invalid);
            }
            data[4..6].copy_from_slice(&self.ident.to_be_bytes());
            Ok(())
        };
        let at = match self.protocol {
            RawProtocol::Ip(protocol) => {
                outline.protocol = protocol;
                None
            }
            RawProtocol::Ip6(protocol) => {
                outline.protocol = protocol;
                // RFC 3542 section 3.1: for ICMPv6 always.
                if protocol == icmp6::PROTOCOL { Some(2) } else { self.checksum_at.map(usize::from) }
            }
            RawProtocol::Ping => {
                outline.protocol = icmp::PROTOCOL;
                ping(data, icmp::ECHO_REQUEST)?;
                icmp::fill_checksum(data);
                None
            }
            RawProtocol::Ping6 => {
                outline.protocol = icmp6::PROTOCOL;
                ping(data, icmp6::ECHO_REQUEST)?;
                Some(2)
            }
        };
        if let Some(at) = at {
            data.get_mut(at..at + 2).ok_or(Error::Invalid)?.fill(0);
            let sum = match outline.checksum(data) {
                0 => 0xffff,
                sum => sum,
            };
            data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Ok(())
    }
}

/// All raw sockets of a shard: few, so they are searched.
#[derive(Default)]
pub(crate) struct Raw {
    pub(crate) sockets: Slab<Socket>,
    pub(crate) events: VecDeque<u32>,
    pub(crate) open: Vec<u32>,
    next_ident: u16,
}

impl<T: Default> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab::new()
    }
}

impl Raw {
    /// Somebody wants to see TCP segments.
    pub(crate) fn wants_tcp(&self) -> bool {
        let wants = |protocol| matches!(protocol, RawProtocol::Ip(6) | RawProtocol::Ip6(6));
        self.open.iter().any(|index| wants(self.sockets[*index].protocol))
    }

    /// Memberships of a group.
    pub(crate) fn memberships(&self, group: IpAddr) -> Vec<Joined> {
        let open = self.open.iter().map(|index| &self.sockets[*index]);
        open.flat_map(|socket| socket.joined.iter().filter(|j| j.group == group).cloned()).collect()
    }

    /// Gives a copy of a packet to every socket that wants it. Whether there was one.
    #[inline]
    pub(crate) fn input(&mut self, packet: &Packet<'_>, loopback: bool, at_us: u64) -> bool {
        if self.open.is_empty() { false } else { self.offer(packet, loopback, at_us) }
    }

    #[cold]
    fn offer(&mut self, packet: &Packet<'_>, loopback: bool, at_us: u64) -> bool {
        let mut taken = false;
        for i in 0..self.open.len() {
            let index = self.open[i];
            let socket = &mut self.sockets[index];
            let Some(data) = socket.wants(packet) else { continue };
            taken = true;
            if socket.queued + data.len() > socket.rcvbuf {
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
            self.raise(index);
        }
        taken
    }

    fn raise(&mut self, index: u32) {
        let socket = &mut self.sockets[index];
        if !socket.evented {
            socket.evented = true;
            self.events.push_back(index);
        }
    }

    /// An ICMP error about a packet that no port owns: for ping sockets by identifier, for raw ones by
    /// protocol and peer.
    pub(crate) fn icmp(&mut self, report: &Report, message: &[u8]) {
        let ident = (report.seq >> 16) as u16;
        for i in 0..self.open.len() {
            let index = self.open[i];
            let socket = &mut self.sockets[index];
            let echo = report.protocol == if socket.is_v6() { icmp6::PROTOCOL } else { icmp::PROTOCOL };
            let mine = match socket.protocol {
                RawProtocol::Ping | RawProtocol::Ping6 => echo && ident == socket.ident,
                RawProtocol::Ip(protocol) => protocol == report.protocol && report.dst.is_ipv4(),
                RawProtocol::Ip6(protocol) => protocol == report.protocol && report.dst.is_ipv6(),
            };
            if !mine || socket.peer.is_some_and(|peer| peer != report.dst) {
                continue;
            }
            let (error, hard, info) = match report.what {
                Trouble::Error { error, hard } => (error, hard, 0),
                Trouble::TooBig(mtu) => (Error::MessageTooLong, true, u32::from(mtu)),
            };
            if socket.receive_errors && socket.errors.len() < 64 {
                socket.errors.push_back(QueuedError {
                    error,
                    icmp: Some(report.kind),
                    info,
                    offender: Some(report.from),
                    to: Endpoint::new(report.dst, 0),
                    data: message.get(report.data_at..).unwrap_or_default().to_vec(),
                });
            } else if !hard || socket.peer.is_none() {
                continue;
            }
            socket.error = Some(error);
            socket.news |= Ready::ERROR | Ready::READABLE;
            self.raise(index);
        }
    }
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
        // raw(7): IPPROTO_RAW implies IP_HDRINCL.
        socket.header_included = protocol == RawProtocol::Ip(SEND_ONLY);
        if socket.is_v6() {
            socket.local = Ipv6Addr::UNSPECIFIED.into();
        }
        let id = SocketId::new(Kind::Raw, index, socket.generation);
        self.raw.open.push(index);
        self.group.version += 1;
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

    /// Fixes the local address; a ping socket's port is its identifier.
    pub fn raw_bind(&mut self, id: SocketId, local: Endpoint) -> Result<()> {
        let index = self.raw_index(id)?;
        let addr = local.addr;
        if addr.is_ipv6() != self.raw.sockets[index].is_v6() {
            return Err(Error::AddressFamily);
        }
        if !addr.is_unspecified() && !addr.is_multicast() && !self.routes.is_local(addr) {
            return Err(Error::AddressUnavailable);
        }
        let ping = matches!(self.raw.sockets[index].protocol, RawProtocol::Ping | RawProtocol::Ping6);
        let taken = |other: &u32| *other != index && self.raw.sockets[*other].ident == local.port;
        if ping && local.port != 0 && self.raw.open.iter().any(taken) {
            return Err(Error::AddressInUse);
        }
        let socket = &mut self.raw.sockets[index];
        socket.local = addr;
        if ping && local.port != 0 {
            socket.ident = local.port;
        }
        Ok(())
    }

    /// Fixes the peer, or dissolves that.
    pub fn raw_connect(&mut self, id: SocketId, peer: Option<IpAddr>) -> Result<()> {
        let index = self.raw_index(id)?;
        if let Some(peer) = peer {
            if peer.is_ipv6() != self.raw.sockets[index].is_v6() {
                return Err(Error::AddressFamily);
            }
            let source = self.raw_source(index, peer, None)?;
            self.raw.sockets[index].local = source;
        }
        self.raw.sockets[index].peer = peer;
        Ok(())
    }

    fn raw_source(&self, index: u32, dst: IpAddr, from: Option<IpAddr>) -> Result<IpAddr> {
        let bound = self.raw.sockets[index].local;
        match from.filter(|from| !from.is_unspecified()) {
            Some(from) if self.routes.is_local(from) => return Ok(from),
            Some(_) => return Err(Error::Invalid),
            None if !bound.is_unspecified() && !bound.is_multicast() => return Ok(bound),
            None => {}
        }
        self.routes.route(dst).ok_or(Error::NetworkUnreachable)?;
        self.routes.source_for(dst, self.now.ms).ok_or(Error::NetworkUnreachable)
    }

    /// Sends `data` (without IP header) to `to`. A ping socket's data is an echo request, whose identifier
    /// and checksum are filled in.
    pub fn raw_send(&mut self, id: SocketId, data: &[u8], to: Endpoint) -> Result<usize> {
        self.raw_send_with(id, data, &SendOptions { to: Some(to), ..SendOptions::default() })
    }

    /// The same with more to say.
    pub fn raw_send_with(&mut self, id: SocketId, data: &[u8], how: &SendOptions) -> Result<usize> {
        let index = self.raw_index(id)?;
        let socket = &self.raw.sockets[index];
        if let Some(error) = self.raw.sockets[index].error {
            self.raw.sockets[index].error = None;
            return Err(error);
        }
        let dst = match (how.to, socket.peer) {
            (Some(to), _) => to.destination(),
            (None, Some(peer)) => peer,
            (None, None) => return Err(Error::DestinationRequired),
        };
        if dst.is_ipv6() != socket.is_v6() {
            return Err(Error::AddressFamily);
        }
        if data.len() > 65_535 - 20 {
            return Err(Error::MessageTooLong);
        }
        if self.routes.is_broadcast(dst) && !socket.broadcast {
            return Err(Error::Prohibited);
        }
        let src = self.raw_source(index, dst, how.from.map(|from| from.real()))?;
        if socket.header_included && !socket.is_v6() {
            let packet = ipv4::complete(data, src).ok_or(Error::Invalid)?;
            self.push_packet(packet);
            return Ok(data.len());
        }
        let hops = if dst.is_multicast() { socket.group_hops } else { socket.hop_limit };
        let mut outline = Outline {
            hop_limit: how.hop_limit.unwrap_or(hops),
            traffic_class: how.traffic_class.unwrap_or(socket.traffic_class),
            ..Outline::new(src, dst, 0)
        };
        let mut data = data.to_vec();
        socket.complete(&mut outline, &mut data)?;
        let mut packet = outline.begin(data.len());
        packet.extend_from_slice(&data);
        self.push_packet(packet);
        Ok(data.len())
    }

    /// Copies the next packet out.
    pub fn raw_recv(&mut self, id: SocketId, data: &mut [u8], peek: bool) -> Result<Datagram> {
        self.raw_recv_with(id, peek, |bytes, about| {
            let count = bytes.len().min(data.len());
            data[..count].copy_from_slice(&bytes[..count]);
            about
        })
    }

    /// Shows the next packet in place and drops it (unless `peek`).
    pub fn raw_recv_with<R>(
        &mut self,
        id: SocketId,
        peek: bool,
        take: impl FnOnce(&[u8], Datagram) -> R,
    ) -> Result<R> {
        let index = self.raw_index(id)?;
        let socket = &mut self.raw.sockets[index];
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let (about, bytes) = socket.queue.front().ok_or(Error::WouldBlock)?;
        let (result, len) = (take(bytes, *about), about.len);
        if !peek {
            socket.queued -= len;
            socket.queue.pop_front();
        }
        Ok(result)
    }

    /// Bytes in the next packet; 0 if there is none.
    pub fn raw_next_len(&self, id: SocketId) -> usize {
        let index = self.raw_index(id).ok();
        index.and_then(|index| self.raw.sockets[index].queue.front()).map_or(0, |(about, _)| about.len)
    }

    /// Takes the oldest entry of the error queue (MSG_ERRQUEUE).
    pub fn raw_take_queued_error(&mut self, id: SocketId) -> Option<QueuedError> {
        let index = self.raw_index(id).ok()?;
        let socket = &mut self.raw.sockets[index];
        let queued = socket.errors.pop_front();
        if queued.is_some() {
            socket.error = socket.errors.front().map(|next| next.error);
        }
        queued
    }

    /// Sets an option.
    pub fn raw_set(&mut self, id: SocketId, option: RawOption) -> Result<()> {
        let index = self.raw_index(id)?;
        let socket = &mut self.raw.sockets[index];
        match option {
            RawOption::HeaderIncluded(on) => socket.header_included = on,
            RawOption::IcmpFilter(types) => socket.filter = [types, 0, 0, 0, 0, 0, 0, 0],
            RawOption::Icmp6Filter(types) => socket.filter = types,
            RawOption::Checksum(_) if socket.protocol == RawProtocol::Ip6(icmp6::PROTOCOL) => {
                return Err(Error::Invalid);
            }
            // RFC 3542 section 3.1: a checksum lies on an even byte.
            RawOption::Checksum(Some(at)) if at % 2 != 0 => return Err(Error::Invalid),
            RawOption::Checksum(at) => socket.checksum_at = at,
            RawOption::Broadcast(on) => socket.broadcast = on,
            RawOption::ReceiveErrors(on) => socket.receive_errors = on,
            RawOption::ReceiveBuffer(bytes) => socket.rcvbuf = bytes.max(2048),
            RawOption::HopLimit(hops) => socket.hop_limit = hops,
            RawOption::TrafficClass(class) => socket.traffic_class = class,
            RawOption::MulticastHops(hops) => socket.group_hops = hops,
            RawOption::Join { group, lo } => {
                join(&mut socket.joined, group, lo)?;
                self.groups_changed(group);
            }
            RawOption::Leave { group } => {
                let before = socket.joined.len();
                socket.joined.retain(|joined| joined.group != group);
                if socket.joined.len() == before {
                    return Err(Error::AddressUnavailable);
                }
                self.groups_changed(group);
            }
        }
        Ok(())
    }

    pub(crate) fn raw_close(&mut self, id: SocketId) {
        let Ok(index) = self.raw_index(id) else { return };
        let socket = &mut self.raw.sockets[index];
        let joined = core::mem::take(&mut socket.joined);
        *socket = Socket { generation: socket.generation.wrapping_add(1) & 0x3fff_ffff, ..Socket::default() };
        self.raw.open.retain(|other| *other != index);
        self.group.version += 1;
        self.raw.sockets.release(index);
        for joined in joined {
            self.groups_changed(joined.group);
        }
    }
}
