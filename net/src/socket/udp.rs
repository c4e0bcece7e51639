//! UDP sockets (RFC 768).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{IpAddress, UdpPacket};

use super::{Bind, Endpoint, Kind, SocketId};
use crate::counters::UdpCounters;
use crate::engine::slab::Slab;
use crate::error::{Error, Result};
use crate::ip::multicast::Joined;
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
    /// It came over the loopback interface.
    pub loopback: bool,
    /// Not 0: several datagrams of so many bytes, the last perhaps shorter (UDP_GRO).
    pub segment: u16,
    /// When it came, in microseconds of the shard's clock.
    pub at_us: u64,
}

/// How to send, besides what the socket says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// The destination, if not the connected peer.
    pub to: Option<Endpoint>,
    /// The source, if not the bound one (IP_PKTINFO; with `any_ip` any endpoint). Port 0 keeps the bound one.
    pub from: Option<Endpoint>,
    /// Not 0: cut the data into datagrams of so many bytes (UDP_SEGMENT).
    pub segment: u16,
    /// IP_TTL and IPV6_HOPLIMIT.
    pub hop_limit: Option<u8>,
    /// IP_TOS and IPV6_TCLASS.
    pub traffic_class: Option<u8>,
    /// Groups: over the loopback interface only.
    pub lo: Option<bool>,
    /// IPV6_DONTFRAG.
    pub dont_fragment: bool,
    /// MSG_DONTROUTE: only to neighbours.
    pub dont_route: bool,
}

/// IP_MTU_DISCOVER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuDiscover {
    /// Routers may cut our packets.
    Dont,
    /// We cut what the path does not carry; routers may not.
    #[default]
    Want,
    /// What the path does not carry is an error.
    Do,
    /// What the link does not carry is an error; what is known of the path does not count.
    Probe,
}

/// An entry of the error queue (IP_RECVERR).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedError {
    /// What happened.
    pub error: Error,
    /// Type and code of the ICMP message; `None` for an error of our own.
    pub icmp: Option<(u8, u8)>,
    /// For [`Error::MessageTooLong`] the path's MTU.
    pub info: u32,
    /// Who sent the ICMP message.
    pub offender: Option<IpAddr>,
    /// Where the datagram was to go.
    pub to: Endpoint,
    /// As much of its data as came back.
    pub data: Vec<u8>,
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
    /// An IPv6 socket: unbound, it gets `::` when it sends; `true`: for IPv6 alone.
    V6Only(bool),
    /// IP_MTU_DISCOVER.
    MtuDiscover(MtuDiscover),
    /// IP_RECVERR: errors are queued, those of unconnected sockets as well.
    ReceiveErrors(bool),
    /// UDP_GRO: datagrams of one sender may be handed out together.
    Gro(bool),
    /// UDP_SEGMENT: 0 is off.
    Segment(u16),
    /// SO_NO_CHECK: IPv4 datagrams without a checksum.
    NoChecksum(bool),
    /// SO_DONTROUTE.
    DontRoute(bool),
    /// IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS.
    MulticastHops(u8),
    /// IP_MULTICAST_LOOP.
    MulticastLoop(bool),
    /// IP_MULTICAST_IF: the loopback interface.
    MulticastLo(bool),
    /// IP_MULTICAST_ALL: also groups that others joined.
    MulticastAll(bool),
    /// Joins a group on a link (`lo`: on the loopback interface).
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
    /// IP_ADD_SOURCE_MEMBERSHIP and its kin: `include` false blocks a source of a joined group. `add` false
    /// takes that back.
    Source {
        /// The group.
        group: IpAddr,
        /// The sender.
        source: IpAddr,
        /// Only this one, or all but this one.
        include: bool,
        /// Add or drop.
        add: bool,
        /// On the loopback interface.
        lo: bool,
    },
    /// Take datagrams for every address and port that no other socket has (`any_ip` only): one such socket
    /// in a shard.
    CatchAll(bool),
}

/// Bytes that a queued datagram counts besides its data, so that empty ones are not free.
const OVERHEAD: usize = 256;
/// Errors queued before more are dropped.
const MAX_ERRORS: usize = 64;
/// Datagrams of one UDP_SEGMENT call and of one UDP_GRO hand-out (Linux's UDP_MAX_SEGMENTS).
const MAX_SEGMENTS: usize = 64;
/// Groups of one socket (igmp_max_memberships), and sources of each (igmp_max_msf).
const MAX_GROUPS: usize = 20;
const MAX_SOURCES: usize = 10;
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
    v6: bool,
    v6_only: bool,
    mtu_discover: MtuDiscover,
    gro: bool,
    segment: u16,
    no_checksum: bool,
    dont_route: bool,
    group_hops: u8,
    group_loop: bool,
    group_lo: bool,
    group_all: bool,
    joined: Vec<Joined>,
    receive_errors: bool,
    errors: VecDeque<QueuedError>,
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
            v6: false,
            v6_only: false,
            mtu_discover: MtuDiscover::Want,
            gro: false,
            segment: 0,
            no_checksum: false,
            dont_route: false,
            group_hops: 1,
            group_loop: true,
            group_lo: false,
            group_all: true,
            joined: Vec::new(),
            receive_errors: false,
            errors: VecDeque::new(),
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
        ready.set(Ready::ERROR, self.error.is_some() || !self.errors.is_empty());
        ready
    }

    /// Bytes that wait to be sent, and to be read.
    pub(crate) fn queued_bytes(&self) -> [usize; 2] {
        [self.sending, self.queued]
    }

    /// A datagram to a group is wanted here.
    fn wants_group(&self, group: IpAddr, source: IpAddr) -> bool {
        match self.joined.iter().find(|joined| joined.group == group) {
            Some(joined) => joined.wants(source),
            None => self.group_all,
        }
    }

    fn queue_error(&mut self, queued: QueuedError) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push_back(queued);
        }
    }

    pub(crate) fn peer(&self) -> Option<Endpoint> {
        self.peer.map(|(addr, port)| Endpoint::new(addr, port))
    }
}

/// All UDP sockets of a shard.
pub(crate) struct Udp {
    pub(crate) sockets: Slab<Socket>,
    pub(crate) ports: Ports<u32>,
    pub(crate) events: VecDeque<u32>,
    /// Packets to send, and the socket each comes from.
    pub(crate) out: VecDeque<(u32, u32, Vec<u8>)>,
    catch_all: Option<u32>,
    pub(crate) counters: UdpCounters,
}

impl Udp {
    pub(crate) fn new(ports: Ports<u32>) -> Udp {
        Udp {
            sockets: Slab::new(),
            ports,
            events: VecDeque::new(),
            out: VecDeque::new(),
            catch_all: None,
            counters: UdpCounters::default(),
        }
    }

    /// A datagram arrived. `false` if there is no socket for it (port unreachable).
    pub(crate) fn input(
        &mut self,
        packet: &Packet<'_>,
        checksum_ok: bool,
        to_all: bool,
        loopback: bool,
        at_us: u64,
    ) -> bool {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload) else {
            self.counters.in_errors += 1;
            return true;
        };
        let (src, dst) = (IpAddress::from(packet.src), IpAddress::from(packet.dst));
        // A zero checksum means that the sender made none; wire's test knows it. RFC 8200 section 8.1: over IPv6
        // there must be one.
        let none = packet.is_v6() && !checksum_ok && datagram.checksum() == 0;
        if none || !checksum_ok && !datagram.verify_checksum(&src, &dst) {
            self.counters.in_errors += 1;
            self.counters.in_csum_errors += 1;
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
            loopback,
            segment: 0,
            at_us,
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
        let best = self.best(from, to).or(self.catch_all);
        match best {
            Some(socket) => {
                self.store(socket, about, datagram.payload());
                true
            }
            None => {
                self.counters.no_ports += 1;
                false
            }
        }
    }

    /// The socket that fits best; among equals (SO_REUSEPORT) the sender chooses, always the same.
    fn best(&self, from: (IpAddr, u16), to: (IpAddr, u16)) -> Option<u32> {
        let owners = self.ports.owners(to.1);
        let fits = || {
            let covers = |owner: &&Owner<u32>| owner.families.covers(to.0.is_ipv6());
            owners
                .iter()
                .filter(covers)
                .filter_map(|owner| self.score(owner.socket, from, to, false).map(|score| (score, owner)))
        };
        let most = fits().map(|(score, _)| score).max()?;
        let equal = || fits().filter(move |(score, _)| *score == most).map(|(_, owner)| owner);
        let count = equal().filter(|owner| owner.reuse_port).count();
        if count < 2 {
            return equal().next_back().map(|owner| owner.socket);
        }
        let pick = self.ports.spread(from.0, from.1) as usize % count;
        equal().filter(|owner| owner.reuse_port).nth(pick).map(|owner| owner.socket)
    }

    /// Memberships of a group.
    pub(crate) fn memberships(&self, group: IpAddr) -> Vec<Joined> {
        let open = self.sockets.iter().filter(|(_, socket)| socket.open);
        open.flat_map(|(_, socket)| socket.joined.iter().filter(|j| j.group == group).cloned()).collect()
    }

    /// How well a socket fits; `None` if not at all. A connected one beats a bound one.
    fn score(&self, index: u32, from: (IpAddr, u16), to: (IpAddr, u16), to_all: bool) -> Option<u8> {
        let socket = &self.sockets[index];
        let mut score = 0;
        if to_all && to.0.is_multicast() && !socket.wants_group(to.0, from.0) {
            return None;
        }
        if !socket.local.0.is_unspecified() {
            if socket.local.0 != to.0
                && (!to_all || socket.local.0.is_multicast() || to.0.is_ipv6() != socket.local.0.is_ipv6())
            {
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
        self.counters.in_datagrams += 1;
        let socket = &mut self.sockets[index];
        if socket.gro && merge(socket.queue.back_mut(), &about, data) {
            socket.queued += data.len();
            return;
        }
        if socket.queued + data.len() + OVERHEAD > socket.rcvbuf.max(data.len() + OVERHEAD) {
            self.counters.in_datagrams -= 1;
            self.counters.in_errors += 1;
            self.counters.rcvbuf_errors += 1;
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
    /// section 4.1.3.3), or that asked for errors (ip(7), IP_RECVERR).
    pub(crate) fn icmp(&mut self, report: &Report, message: &[u8]) {
        let peer = (report.dst, report.dst_port);
        let owners = self.ports.owners(report.src_port);
        let mine = |socket: &Socket| socket.local.0.is_unspecified() || socket.local.0 == report.src;
        let fits = |socket: &Socket| match socket.peer {
            Some(other) => other == peer,
            None => socket.receive_errors && mine(socket),
        };
        let hits = owners.iter().map(|owner| owner.socket).filter(|&index| fits(&self.sockets[index]));
        let Some(index) = hits.max_by_key(|&index| self.sockets[index].peer.is_some()) else { return };
        let socket = &mut self.sockets[index];
        let (error, hard, info) = match report.what {
            Trouble::Error { error, hard } => (error, hard, 0),
            Trouble::TooBig(mtu) => {
                (Error::MessageTooLong, socket.mtu_discover != MtuDiscover::Dont, u32::from(mtu))
            }
        };
        if !hard && !socket.receive_errors {
            return;
        }
        if socket.receive_errors {
            socket.queue_error(QueuedError {
                error,
                icmp: Some(report.kind),
                info,
                offender: Some(report.from),
                to: Endpoint::new(report.dst, report.dst_port),
                data: message.get(report.data_at + HEADER..).unwrap_or_default().to_vec(),
            });
        }
        // RFC 1191: an unconnected or content sender is not bothered with sizes.
        if error != Error::MessageTooLong || socket.receive_errors {
            socket.error = Some(error);
        }
        socket.news |= Ready::ERROR | Ready::READABLE;
        self.raise(index);
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
        self.udp_autobind(id, index, addr)?;
        let source = self.routes.source_for(addr, self.now.ms).ok_or(Error::NetworkUnreachable)?;
        let socket = &mut self.udp.sockets[index];
        socket.peer = Some((addr, peer.port));
        if socket.local.0.is_unspecified() {
            socket.local.0 = source;
        }
        Ok(())
    }

    fn udp_autobind(&mut self, id: SocketId, index: u32, to: IpAddr) -> Result<()> {
        if self.udp.sockets[index].bound {
            return Ok(());
        }
        let socket = &self.udp.sockets[index];
        let bind = Bind { v6_only: socket.v6_only, ..Bind::default() };
        let any: IpAddr = if socket.v6 || to.is_ipv6() {
            core::net::Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        self.udp_bind(id, Endpoint::new(any, 0), bind).map_err(|error| match error {
            Error::AddressInUse => Error::WouldBlock,
            other => other,
        })
    }

    /// Queues a datagram made of `pieces`; see [`SendOptions`] for `to` and `from`.
    pub fn udp_send(
        &mut self,
        id: SocketId,
        pieces: &[&[u8]],
        to: Option<Endpoint>,
        from: Option<Endpoint>,
    ) -> Result<usize> {
        self.udp_send_with(id, pieces, &SendOptions { to, from, ..SendOptions::default() })
    }

    /// Queues a datagram, or several.
    pub fn udp_send_with(&mut self, id: SocketId, pieces: &[&[u8]], how: &SendOptions) -> Result<usize> {
        let index = self.udp_index(id)?;
        if let Some(error) = self.udp.sockets[index].error.take() {
            return Err(error);
        }
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let (dst, dst_port) = self.udp_destination(index, how.to)?;
        // IPv6's length field does not count the header (RFC 8200 section 3).
        if len > 65_535 - HEADER - if dst.is_ipv4() { 20 } else { 0 } {
            return Err(Error::MessageTooLong);
        }
        self.udp_autobind(id, index, dst)?;
        let (src, src_port) = self.udp_source(index, dst, how)?;
        if src.is_ipv6() != dst.is_ipv6() {
            return Err(Error::NetworkUnreachable);
        }
        let socket = &mut self.udp.sockets[index];
        if socket.sending >= socket.sndbuf {
            socket.wants_room = true;
            return Err(Error::WouldBlock);
        }
        let hops = if dst.is_multicast() { socket.group_hops } else { socket.hop_limit };
        let mut outline = Outline {
            hop_limit: how.hop_limit.unwrap_or(hops),
            traffic_class: how.traffic_class.unwrap_or(socket.traffic_class),
            ..Outline::new(src, dst, PROTOCOL)
        };
        let segment = match if how.segment != 0 { how.segment } else { socket.segment } {
            0 => len,
            segment if usize::from(segment) * MAX_SEGMENTS < len => return Err(Error::Invalid),
            segment => usize::from(segment),
        };
        let largest = outline.header_len() + HEADER + segment.min(len);
        outline.dont_fragment =
            self.udp_may_be_cut(index, &outline, largest, how, (dst_port, segment < len))?;
        let socket = &self.udp.sockets[index];
        let ports = (src_port, dst_port);
        if segment >= len {
            let packet = self.udp_build(socket, &outline, ports, pieces);
            self.udp_queue(index, dst, how, packet);
        } else {
            let whole = pieces.concat();
            for part in whole.chunks(segment) {
                let packet = self.udp_build(&self.udp.sockets[index], &outline, ports, &[part]);
                self.udp_queue(index, dst, how, packet);
            }
        }
        Ok(len)
    }

    fn udp_build(&self, socket: &Socket, outline: &Outline, ports: (u16, u16), pieces: &[&[u8]]) -> Vec<u8> {
        let sum = !(self.routes.is_local(outline.dst) || socket.no_checksum && outline.dst.is_ipv4());
        build(outline, ports.0, ports.1, pieces, sum)
    }

    /// Whether routers must not cut a packet of `len` bytes; an error if we must not either (ip(7),
    /// IP_MTU_DISCOVER).
    fn udp_may_be_cut(
        &mut self,
        index: u32,
        outline: &Outline,
        len: usize,
        how: &SendOptions,
        (dst_port, segmented): (u16, bool),
    ) -> Result<bool> {
        let dst = outline.dst;
        if self.routes.is_local(dst) {
            return Ok(false);
        }
        let socket = &mut self.udp.sockets[index];
        let path = self.path_mtus.get(dst, self.mtu);
        let most = if socket.mtu_discover == MtuDiscover::Probe { self.mtu } else { path };
        let strict = matches!(socket.mtu_discover, MtuDiscover::Do | MtuDiscover::Probe) || how.dont_fragment;
        if len > most && segmented {
            return Err(Error::Invalid);
        }
        if len > most && strict {
            if socket.receive_errors {
                let to = Endpoint::new(dst, dst_port);
                let (error, info) = (Error::MessageTooLong, most as u32);
                socket.queue_error(QueuedError {
                    error,
                    icmp: None,
                    info,
                    offender: None,
                    to,
                    data: Vec::new(),
                });
            }
            return Err(Error::MessageTooLong);
        }
        Ok(strict || socket.mtu_discover == MtuDiscover::Want && len <= most)
    }

    fn udp_queue(&mut self, index: u32, dst: IpAddr, how: &SendOptions, packet: Vec<u8>) {
        let socket = &mut self.udp.sockets[index];
        let to_all = dst.is_multicast() || self.routes.is_broadcast(dst);
        let lo = dst.is_multicast() && how.lo.unwrap_or(socket.group_lo);
        if to_all && (socket.group_loop || lo || !dst.is_multicast()) {
            // RFC 1112 section 6.1: members on this host get it too.
            self.loopback.push(packet.clone());
        }
        if !lo {
            socket.sending += packet.len() + OVERHEAD;
            self.udp.counters.out_datagrams += 1;
            self.udp.out.push_back((index, socket.generation, packet));
        }
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
        match self.routes.route(dst) {
            None if !dst.is_multicast() => return Err(Error::NetworkUnreachable),
            Some(crate::ip::route::Route::Via(hop)) if socket.dont_route && hop != dst => {
                return Err(Error::NetworkUnreachable);
            }
            _ => {}
        }
        Ok((dst, port))
    }

    fn udp_source(&self, index: u32, dst: IpAddr, how: &SendOptions) -> Result<(IpAddr, u16)> {
        let socket = &self.udp.sockets[index];
        let (mut src, mut port) = socket.local;
        if let Some(from) = how.from {
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
        let lo = dst.is_multicast() && how.lo.unwrap_or(socket.group_lo);
        if lo && src.is_unspecified() {
            src = if dst.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                core::net::Ipv6Addr::LOCALHOST.into()
            };
        } else if src.is_unspecified() || src.is_multicast() || self.routes.is_broadcast(src) {
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
            UdpOption::V6Only(only) => (socket.v6, socket.v6_only) = (true, only),
            UdpOption::MtuDiscover(how) => socket.mtu_discover = how,
            UdpOption::ReceiveErrors(on) => {
                socket.receive_errors = on;
                if !on {
                    socket.errors.clear();
                }
            }
            UdpOption::Gro(on) => socket.gro = on,
            UdpOption::Segment(bytes) => socket.segment = bytes,
            UdpOption::NoChecksum(on) => socket.no_checksum = on,
            UdpOption::DontRoute(on) => socket.dont_route = on,
            UdpOption::MulticastHops(hops) => socket.group_hops = hops,
            UdpOption::MulticastLoop(on) => socket.group_loop = on,
            UdpOption::MulticastLo(on) => socket.group_lo = on,
            UdpOption::MulticastAll(on) => socket.group_all = on,
            UdpOption::Join { group, lo } => {
                join(&mut socket.joined, group, lo)?;
                self.groups_changed(group);
            }
            UdpOption::Leave { group } => {
                let before = socket.joined.len();
                socket.joined.retain(|joined| joined.group != group);
                if socket.joined.len() == before {
                    return Err(Error::AddressUnavailable);
                }
                self.groups_changed(group);
            }
            UdpOption::Source { group, source, include, add, lo } => {
                filter(&mut socket.joined, group, source, include, add, lo)?;
                self.groups_changed(group);
            }
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

    /// Takes the oldest entry of the error queue (MSG_ERRQUEUE).
    pub fn udp_take_queued_error(&mut self, id: SocketId) -> Option<QueuedError> {
        let index = self.udp_index(id).ok()?;
        let socket = &mut self.udp.sockets[index];
        let queued = socket.errors.pop_front();
        // ip(7): reading the queue clears SO_ERROR to what is next.
        if queued.is_some() {
            socket.error = socket.errors.front().map(|next| next.error);
        }
        queued
    }

    pub(crate) fn udp_close(&mut self, id: SocketId) {
        let Ok(index) = self.udp_index(id) else { return };
        if self.udp.catch_all == Some(index) {
            self.udp.catch_all = None;
        }
        let socket = &mut self.udp.sockets[index];
        let (bound, port) = (socket.bound, socket.local.1);
        let joined = core::mem::take(&mut socket.joined);
        *socket = Socket { generation: socket.generation.wrapping_add(1) & 0x3fff_ffff, ..Socket::default() };
        if bound {
            self.udp.ports.unbind(port, index);
        }
        self.udp.sockets.release(index);
        for joined in joined {
            self.groups_changed(joined.group);
        }
    }

    /// Tells the sender that nobody has the port.
    pub(crate) fn udp_unreachable(&mut self, packet: &Packet<'_>) {
        if self.config.answer_closed || self.routes.is_local(packet.src) {
            self.send_unreachable(packet, Unreachable::Port);
        }
    }
}

/// Adds a datagram to the one before it, if they came from one sender and are of one size.
fn merge(last: Option<&mut Stored>, about: &Datagram, data: &[u8]) -> bool {
    let Some(last) = last else { return false };
    let size = match last.about.segment {
        0 => last.data.len(),
        segment => usize::from(segment),
    };
    let same = (last.about.from, last.about.to, last.about.traffic_class)
        == (about.from, about.to, about.traffic_class);
    // A shorter one is the last of its train.
    let open = size != 0 && last.data.len().is_multiple_of(size) && last.data.len() / size < MAX_SEGMENTS;
    let fits = !data.is_empty() && data.len() <= size && last.data.len() + data.len() <= 65_507;
    if !(same && open && fits) {
        return false;
    }
    last.data.extend_from_slice(data);
    (last.about.segment, last.about.len) = (size as u16, last.data.len());
    true
}

/// IP_ADD_MEMBERSHIP.
pub(crate) fn join(joined: &mut Vec<Joined>, group: IpAddr, lo: bool) -> Result<()> {
    if !group.is_multicast() {
        return Err(Error::Invalid);
    }
    if joined.iter().any(|joined| joined.group == group) {
        return Err(Error::AddressInUse);
    }
    if joined.len() >= MAX_GROUPS {
        return Err(Error::NoBuffers);
    }
    joined.push(Joined { group, lo, include: false, sources: Vec::new() });
    Ok(())
}

/// The source filters of ip(7); errors as Linux's ip_mc_source gives them.
fn filter(
    all: &mut Vec<Joined>,
    group: IpAddr,
    source: IpAddr,
    include: bool,
    add: bool,
    lo: bool,
) -> Result<()> {
    if !group.is_multicast() {
        return Err(Error::Invalid);
    }
    let at = match all.iter().position(|joined| joined.group == group) {
        Some(at) => at,
        None if include && add && all.len() < MAX_GROUPS => {
            all.push(Joined { group, lo, include: true, sources: Vec::new() });
            all.len() - 1
        }
        None if include && add => return Err(Error::NoBuffers),
        None => return Err(Error::Invalid),
    };
    let joined = &mut all[at];
    if joined.include != include {
        return Err(Error::Invalid);
    }
    match (joined.sources.iter().position(|known| *known == source), add) {
        (Some(_), true) | (None, false) => return Err(Error::AddressUnavailable),
        (None, true) if joined.sources.len() >= MAX_SOURCES => return Err(Error::NoBuffers),
        (None, true) => joined.sources.push(source),
        (Some(known), false) => drop(joined.sources.remove(known)),
    }
    if joined.include && joined.sources.is_empty() {
        all.remove(at);
    }
    Ok(())
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
