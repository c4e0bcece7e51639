//! UDP sockets (RFC 768).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{IpAddress, UdpPacket};

use super::{Bind, Endpoint, Kind, SocketId};
use crate::engine::slab::Slab;
use crate::error::{Error, Result};
use crate::ip::packet::{Outline, Packet};
use crate::ip::report::{Report, Trouble, Unreachable};
use crate::ports::{Families, Owner, Ports};
use crate::shard::{Ready, Shard};

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

/// Bytes that a queued datagram counts besides its data, so that empty ones are not free.
const OVERHEAD: usize = 256;
const HEADER: usize = 8;
const PROTOCOL: u8 = 17;
/// Linux's net.core.rmem_default.
const BUFFER: usize = 212_992;

/// A datagram that waits to be read.
struct Stored {
    about: Datagram,
    data: Vec<u8>,
}

/// A UDP socket.
pub(crate) struct Socket {
    pub(crate) generation: u32,
    pub(crate) open: bool,
    pub(crate) local: (IpAddr, u16),
    bound: bool,
    transparent: bool,
    peer: Option<(IpAddr, u16)>,
    queue: VecDeque<Stored>,
    queued: usize,
    rcvbuf: usize,
    sndbuf: usize,
    sending: usize,
    wants_room: bool,
    broadcast: bool,
    hop_limit: u8,
    traffic_class: u8,
    pub(crate) cookie: u64,
    pub(crate) error: Option<Error>,
    pub(crate) news: Ready,
    pub(crate) evented: bool,
}

impl Default for Socket {
    fn default() -> Socket {
        Socket {
            generation: 0,
            open: false,
            local: (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            bound: false,
            transparent: false,
            peer: None,
            queue: VecDeque::new(),
            queued: 0,
            rcvbuf: BUFFER,
            sndbuf: BUFFER,
            sending: 0,
            wants_room: false,
            broadcast: false,
            hop_limit: 64,
            traffic_class: 0,
            cookie: 0,
            error: None,
            news: Ready::empty(),
            evented: false,
        }
    }
}

impl Socket {
    pub(crate) fn ready(&self) -> Ready {
        let mut ready = Ready::empty();
        ready.set(Ready::READABLE, !self.queue.is_empty() || self.error.is_some());
        ready.set(Ready::WRITABLE, self.sending < self.sndbuf);
        ready.set(Ready::ERROR, self.error.is_some());
        ready
    }

    pub(crate) fn peer(&self) -> Option<Endpoint> {
        self.peer.map(|(addr, port)| Endpoint::new(addr, port))
    }
}

/// All UDP sockets of a shard.
pub(crate) struct Udp {
    pub(crate) sockets: Slab<Socket>,
    pub(crate) ports: Ports<IpAddr>,
    pub(crate) events: VecDeque<u32>,
    /// Packets to send, and the socket each comes from.
    pub(crate) out: VecDeque<(u32, u32, Vec<u8>)>,
    catch_all: Option<u32>,
}

impl Udp {
    pub(crate) fn new(ports: Ports<IpAddr>) -> Udp {
        Udp { sockets: Slab::new(), ports, events: VecDeque::new(), out: VecDeque::new(), catch_all: None }
    }

    /// A datagram arrived. `false` if there is no socket for it (port unreachable).
    pub(crate) fn input(&mut self, packet: &Packet<'_>, checksum_ok: bool, to_all: bool) -> bool {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload) else { return true };
        let (src, dst) = (IpAddress::from(packet.src), IpAddress::from(packet.dst));
        // A zero checksum means that the sender made none; wire's test knows it. RFC 8200 section 8.1: over IPv6
        // there must be one.
        if packet.is_v6() && !checksum_ok && datagram.checksum() == 0 {
            return true;
        }
        if !checksum_ok && !datagram.verify_checksum(&src, &dst) {
            return true;
        }
        let from = (packet.src, datagram.src_port());
        let to = (packet.dst, datagram.dst_port());
        let about = Datagram {
            len: datagram.payload().len(),
            from: Endpoint::new(from.0, from.1),
            to: Endpoint::new(to.0, to.1),
            hop_limit: packet.hop_limit,
            traffic_class: packet.traffic_class,
        };
        if to_all {
            // Broadcast and multicast: a copy for each (RFC 1122 section 4.1.3.1).
            let all: Vec<u32> = self.ports.owners(to.1).iter().map(|owner| owner.socket).collect();
            for socket in all {
                if self.score(socket, from, to, true).is_some() {
                    self.store(socket, about, datagram.payload());
                }
            }
            return true;
        }
        let best =
            self.ports.owners(to.1).iter().filter_map(|owner| {
                self.score(owner.socket, from, to, false).map(|score| (score, owner.socket))
            });
        let best = best.max_by_key(|(score, _)| *score).map(|(_, socket)| socket).or(self.catch_all);
        match best {
            Some(socket) => {
                self.store(socket, about, datagram.payload());
                true
            }
            None => false,
        }
    }

    /// How well a socket fits; `None` if not at all. A connected one beats a bound one.
    fn score(&self, index: u32, from: (IpAddr, u16), to: (IpAddr, u16), to_all: bool) -> Option<u8> {
        let socket = &self.sockets[index];
        let mut score = 0;
        if !socket.local.0.is_unspecified() {
            if socket.local.0 != to.0 && !to_all {
                return None;
            }
            score += 1;
        }
        if let Some(peer) = socket.peer {
            if peer != from {
                return None;
            }
            score += 2;
        }
        Some(score)
    }

    fn store(&mut self, index: u32, about: Datagram, data: &[u8]) {
        let socket = &mut self.sockets[index];
        if socket.queued + data.len() + OVERHEAD > socket.rcvbuf.max(data.len() + OVERHEAD) {
            return;
        }
        socket.queued += data.len() + OVERHEAD;
        socket.queue.push_back(Stored { about, data: data.to_vec() });
        socket.news |= Ready::READABLE;
        self.raise(index);
    }

    fn raise(&mut self, index: u32) {
        let socket = &mut self.sockets[index];
        if !socket.evented {
            socket.evented = true;
            self.events.push_back(index);
        }
    }

    /// An ICMP error about a datagram of ours: told to a socket connected to that destination (RFC 1122
    /// section 4.1.3.3).
    pub(crate) fn icmp(&mut self, report: &Report) {
        let Trouble::Error { error, hard } = report.what else { return };
        let peer = Some((report.dst, report.dst_port));
        let owners = self.ports.owners(report.src_port);
        let hit = owners.iter().map(|owner| owner.socket).find(|&index| self.sockets[index].peer == peer);
        if let (Some(index), true) = (hit, hard) {
            self.sockets[index].error = Some(error);
            self.sockets[index].news |= Ready::ERROR | Ready::READABLE;
            self.raise(index);
        }
    }

    /// A packet left the queue.
    pub(crate) fn left(&mut self, index: u32, generation: u32, bytes: usize) {
        let socket = &mut self.sockets[index];
        if socket.generation != generation {
            return;
        }
        socket.sending = socket.sending.saturating_sub(bytes);
        if socket.wants_room && socket.sending < socket.sndbuf {
            socket.wants_room = false;
            socket.news |= Ready::WRITABLE;
            self.raise(index);
        }
    }
}

impl Shard {
    /// Makes a UDP socket.
    pub fn udp_open(&mut self) -> Result<SocketId> {
        if self.udp.sockets.len() >= self.config.limits.udp_sockets {
            return Err(Error::NoBuffers);
        }
        let index = self.udp.sockets.take();
        let socket = &mut self.udp.sockets[index];
        socket.open = true;
        Ok(SocketId::new(Kind::Udp, index, socket.generation))
    }

    pub(crate) fn udp_index(&self, id: SocketId) -> Result<u32> {
        if id.kind() != Kind::Udp {
            return Err(Error::NotSupported);
        }
        let socket = self.udp.sockets.get(id.index()).ok_or(Error::BadSocket)?;
        let valid = socket.open && socket.generation == id.generation();
        if valid { Ok(id.index()) } else { Err(Error::BadSocket) }
    }

    /// Claims a local endpoint. Port 0: a free one.
    pub fn udp_bind(&mut self, id: SocketId, local: Endpoint, bind: Bind) -> Result<()> {
        let index = self.udp_index(id)?;
        let addr = local.real();
        if self.udp.sockets[index].bound {
            return Err(Error::Invalid);
        }
        if !self.routes.is_broadcast(addr) && !addr.is_multicast() {
            self.check_local(addr, bind)?;
        }
        let owner = Owner {
            socket: index,
            addr,
            families: Families::of(local.addr, bind.v6_only),
            reuse_addr: bind.reuse_addr,
            reuse_port: bind.reuse_port,
            listening: false,
        };
        let port = match local.port {
            0 => self.udp.ports.ephemeral(&owner).ok_or(Error::AddressInUse)?,
            port if self.udp.ports.is_free(port, &owner) => port,
            _ => return Err(Error::AddressInUse),
        };
        self.udp.ports.bind(port, owner);
        let socket = &mut self.udp.sockets[index];
        socket.local = (addr, port);
        socket.bound = true;
        socket.transparent = bind.transparent;
        Ok(())
    }

    /// Fixes the peer: only its datagrams arrive, and ICMP errors are reported. `None` dissolves it.
    pub fn udp_connect(&mut self, id: SocketId, peer: Option<Endpoint>) -> Result<()> {
        let index = self.udp_index(id)?;
        let Some(peer) = peer else {
            self.udp.sockets[index].peer = None;
            return Ok(());
        };
        let addr = peer.destination();
        if self.routes.is_broadcast(addr) && !self.udp.sockets[index].broadcast {
            return Err(Error::Prohibited);
        }
        if self.routes.route(addr).is_none() {
            return Err(Error::NetworkUnreachable);
        }
        self.udp_autobind(id, index)?;
        let source = self.routes.source_for(addr, self.now.ms).ok_or(Error::NetworkUnreachable)?;
        let socket = &mut self.udp.sockets[index];
        socket.peer = Some((addr, peer.port));
        if socket.local.0.is_unspecified() {
            socket.local.0 = source;
        }
        Ok(())
    }

    fn udp_autobind(&mut self, id: SocketId, index: u32) -> Result<()> {
        if self.udp.sockets[index].bound {
            return Ok(());
        }
        self.udp_bind(id, Endpoint::UNSPECIFIED, Bind::default()).map_err(|error| match error {
            Error::AddressInUse => Error::WouldBlock,
            other => other,
        })
    }

    /// Queues a datagram made of `pieces`. `to`: the destination, if not the connected peer. `from`: the
    /// source, if not the bound one (IP_PKTINFO; with `any_ip` any endpoint). Port 0 in `from` keeps the
    /// bound port.
    pub fn udp_send(
        &mut self,
        id: SocketId,
        pieces: &[&[u8]],
        to: Option<Endpoint>,
        from: Option<Endpoint>,
    ) -> Result<usize> {
        let index = self.udp_index(id)?;
        if let Some(error) = self.udp.sockets[index].error.take() {
            return Err(error);
        }
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let (dst, dst_port) = self.udp_destination(index, to)?;
        // IPv6's length field does not count the header (RFC 8200 section 3).
        if len > 65_535 - HEADER - if dst.is_ipv4() { 20 } else { 0 } {
            return Err(Error::MessageTooLong);
        }
        self.udp_autobind(id, index)?;
        let (src, src_port) = self.udp_source(index, dst, from)?;
        let socket = &mut self.udp.sockets[index];
        if socket.sending >= socket.sndbuf {
            socket.wants_room = true;
            return Err(Error::WouldBlock);
        }
        if src.is_ipv6() != dst.is_ipv6() {
            return Err(Error::NetworkUnreachable);
        }
        let outline = Outline {
            hop_limit: socket.hop_limit,
            traffic_class: socket.traffic_class,
            ..Outline::new(src, dst, PROTOCOL)
        };
        let loopback = self.routes.is_local(dst);
        let packet = build(&outline, src_port, dst_port, pieces, !loopback);
        socket.sending += packet.len() + OVERHEAD;
        self.udp.out.push_back((index, socket.generation, packet));
        Ok(len)
    }

    fn udp_destination(&self, index: u32, to: Option<Endpoint>) -> Result<(IpAddr, u16)> {
        let socket = &self.udp.sockets[index];
        let (dst, port) = match (to, socket.peer) {
            (Some(to), _) => (to.destination(), to.port),
            (None, Some(peer)) => peer,
            (None, None) => return Err(Error::DestinationRequired),
        };
        if port == 0 {
            return Err(Error::Invalid);
        }
        if self.routes.is_broadcast(dst) && !socket.broadcast {
            return Err(Error::Prohibited);
        }
        if self.routes.route(dst).is_none() {
            return Err(Error::NetworkUnreachable);
        }
        Ok((dst, port))
    }

    fn udp_source(&self, index: u32, dst: IpAddr, from: Option<Endpoint>) -> Result<(IpAddr, u16)> {
        let socket = &self.udp.sockets[index];
        let (mut src, mut port) = socket.local;
        if let Some(from) = from {
            let addr = from.real();
            if !addr.is_unspecified() {
                if !self.routes.is_local(addr) && !self.config.any_ip {
                    return Err(Error::Invalid);
                }
                src = addr;
            }
            if from.port != 0 && self.config.any_ip {
                port = from.port;
            }
        }
        if src.is_unspecified() || src.is_multicast() || self.routes.is_broadcast(src) {
            src = self.routes.source_for(dst, self.now.ms).ok_or(Error::NetworkUnreachable)?;
        }
        Ok((src, port))
    }

    /// Copies the next datagram out, as much as fits; the rest of it is lost. `peek` leaves it queued.
    pub fn udp_recv(&mut self, id: SocketId, data: &mut [u8], peek: bool) -> Result<Datagram> {
        self.udp_recv_with(id, peek, |bytes, about| {
            let count = bytes.len().min(data.len());
            data[..count].copy_from_slice(&bytes[..count]);
            about
        })
    }

    /// Shows the next datagram in place and drops it (unless `peek`).
    pub fn udp_recv_with<R>(
        &mut self,
        id: SocketId,
        peek: bool,
        take: impl FnOnce(&[u8], Datagram) -> R,
    ) -> Result<R> {
        let index = self.udp_index(id)?;
        let socket = &mut self.udp.sockets[index];
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let stored = socket.queue.front().ok_or(Error::WouldBlock)?;
        let result = take(&stored.data, stored.about);
        if !peek {
            socket.queued -= stored.data.len() + OVERHEAD;
            socket.queue.pop_front();
        }
        Ok(result)
    }

    /// Bytes in the next datagram (SIOCINQ); 0 if there is none.
    pub fn udp_next_len(&self, id: SocketId) -> usize {
        let index = self.udp_index(id).ok();
        index.and_then(|index| self.udp.sockets[index].queue.front()).map_or(0, |stored| stored.data.len())
    }

    /// Sets an option.
    pub fn udp_set(&mut self, id: SocketId, option: UdpOption) -> Result<()> {
        let index = self.udp_index(id)?;
        let socket = &mut self.udp.sockets[index];
        match option {
            UdpOption::Broadcast(on) => socket.broadcast = on,
            UdpOption::ReceiveBuffer(bytes) => socket.rcvbuf = bytes.max(2048),
            UdpOption::SendBuffer(bytes) => socket.sndbuf = bytes.max(2048),
            UdpOption::HopLimit(hops) => socket.hop_limit = hops,
            UdpOption::TrafficClass(class) => socket.traffic_class = class,
            UdpOption::CatchAll(_) if !self.config.any_ip => return Err(Error::Invalid),
            UdpOption::CatchAll(true) => match self.udp.catch_all {
                Some(other) if other != index => return Err(Error::AddressInUse),
                _ => self.udp.catch_all = Some(index),
            },
            UdpOption::CatchAll(false) if self.udp.catch_all == Some(index) => self.udp.catch_all = None,
            UdpOption::CatchAll(false) => {}
        }
        Ok(())
    }

    pub(crate) fn udp_close(&mut self, id: SocketId) {
        let Ok(index) = self.udp_index(id) else { return };
        if self.udp.catch_all == Some(index) {
            self.udp.catch_all = None;
        }
        let socket = &mut self.udp.sockets[index];
        let (bound, port) = (socket.bound, socket.local.1);
        *socket = Socket { generation: socket.generation.wrapping_add(1) & 0x3fff_ffff, ..Socket::default() };
        if bound {
            self.udp.ports.unbind(port, index);
        }
        self.udp.sockets.release(index);
    }

    /// Tells the sender that nobody has the port.
    pub(crate) fn udp_unreachable(&mut self, packet: &Packet<'_>) {
        if self.config.answer_closed || self.routes.is_local(packet.src) {
            self.send_unreachable(packet, Unreachable::Port);
        }
    }
}

/// Builds a whole IP packet.
fn build(outline: &Outline, src_port: u16, dst_port: u16, pieces: &[&[u8]], sum: bool) -> Vec<u8> {
    let len = HEADER + pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let mut packet = outline.begin(len);
    let at = packet.len();
    packet.extend_from_slice(&src_port.to_be_bytes());
    packet.extend_from_slice(&dst_port.to_be_bytes());
    packet.extend_from_slice(&(len as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    pieces.iter().for_each(|piece| packet.extend_from_slice(piece));
    if sum {
        // Zero would mean "no checksum".
        let value = match outline.checksum(&packet[at..]) {
            0 => 0xffff,
            value => value,
        };
        packet[at + 6..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    packet
}
