//! The façade: one shard of the network stack, driven by its owner.
//!
//! The owner's loop: [`Shard::poll`] when the device has frames or [`Shard::deadline`] has come,
//! [`Shard::next_event`] until it is empty, socket operations, [`Shard::flush`] after a run of them.
//! Socket operations are in `socket/{tcp,udp,raw}.rs`.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use platform::sync::Lock;
use platform::time::{Instant, MILLISECOND};
use smoltcp::wire::{EthernetFrame, EthernetProtocol};

use crate::config::{Cidr, Config, Ipv6Mode};
use crate::counters::{Counters, IpCounters, Usage};
use crate::device::loopback::Loopback;
use crate::device::{Device, RxFrame};
use crate::engine::demux::FlowKey;
use crate::engine::isn::Secrets;
use crate::engine::segment::Segment;
use crate::engine::tcb::{Flags, Now, Tcb};
use crate::engine::{LocalFacts, SharedPorts, Tcp};
use crate::error::Error;
use crate::group::Membership;
use crate::ip::addr::{Addr, Addresses};
use crate::ip::dhcp::Dhcp;
use crate::ip::fragments::{Fragments, Whole};
use crate::ip::link::{Blocked, ETHERNET, Link};
use crate::ip::multicast::{self, Groups};
use crate::ip::neighbor::{Neighbors, News, Outcome};
use crate::ip::node::{self, Node};
use crate::ip::packet::{Packet, Parsed};
use crate::ip::path_mtu::PathMtus;
use crate::ip::report::{Report, Trouble, Unreachable};
use crate::ip::route::Routes;
use crate::ip::{arp, icmp, icmp6, ipv4, ipv6, ndp};
use crate::ports::Ports;
use crate::socket::raw::Raw;
use crate::socket::udp::Udp;
use crate::socket::{Endpoint, INDEX_BITS, Kind, SocketId};

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
        /// An urgent byte is there (EPOLLPRI).
        const URGENT = 32;
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

/// A socket as `/proc/net/tcp` and its kin show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// TCP or UDP.
    pub kind: Kind,
    /// It takes IPv6.
    pub v6: bool,
    /// Its own endpoint.
    pub local: Endpoint,
    /// The peer's.
    pub remote: Endpoint,
    /// TCP: where it stands.
    pub state: crate::TcpState,
    /// Bytes to send, and to be read.
    pub queued: [usize; 2],
    /// What the owner set.
    pub cookie: u64,
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

/// Rounds of sending and taking from the loopback in one poll: two ends in one shard could go on for ever.
const MAX_ROUNDS: usize = 64;
/// Packets taken from the loopback in one round.
const LOOPBACK_BURST: usize = 64;
/// Packets of our own (ICMP, raw) that may wait to be sent.
const MAX_PACKETS: usize = 256;
/// Frames of a batch that are looked up ahead.
const LOOKAHEAD: usize = 32;

/// IPv6 packets with the hardware address that each goes to.
type Direct = VecDeque<([u8; 6], Vec<u8>)>;

/// One shard: sockets, flow table, timers, addresses. Shares nothing with other shards.
pub struct Shard {
    pub(crate) config: Config,
    pub(crate) now: Now,
    pub(crate) mtu: usize,
    pub(crate) routes: Routes,
    pub(crate) tcp: Tcp,
    pub(crate) udp: Udp,
    pub(crate) raw: Raw,
    pub(crate) addresses: Addresses,
    pub(crate) path_mtus: PathMtus,
    pub(crate) node: Node,
    pub(crate) groups: Groups,
    pub(crate) dhcp: Option<Dhcp>,
    pub(crate) neighbors: Neighbors,
    fragments: Fragments,
    /// Packets that were counted, and usual segments (`input_known`) that count for all layers at once.
    pub(crate) ip: IpCounters,
    known_v4: u64,
    /// Other packets that came.
    seen: u64,
    pub(crate) loopback: Loopback,
    /// Packets of nobody's: ICMP, raw sockets.
    packets: VecDeque<Vec<u8>>,
    /// The same for a hardware address that is in no table, and where the present frame came from.
    direct: Direct,
    frame_from: [u8; 6],
    /// ARP replies, and announcements of our own.
    arp_out: VecDeque<([u8; 6], core::net::Ipv4Addr, core::net::Ipv4Addr, bool)>,
    icmp_second: (u64, u32),
    idents: u32,
    full: bool,
    /// The hardware address before the present one: neighbours may still use it.
    old_mac: [u8; 6],
    /// What the shards of a guest share (`group.rs`).
    pub(crate) group: Membership,
}

impl Shard {
    /// A shard without sockets.
    pub fn new(config: Config) -> Shard {
        let secrets = Secrets::new(&config.seed);
        let ports = Arc::new(Lock::new(Ports::new(secrets.ports, config.ephemeral)));
        Shard::of_group(config, ports)
    }

    /// One of those that share a table of ports.
    pub(crate) fn of_group(mut config: Config, ports: SharedPorts) -> Shard {
        let secrets = Secrets::new(&config.seed);
        config.limits.tcp_sockets = config.limits.tcp_sockets.min(1 << INDEX_BITS);
        let mut shard = Shard {
            now: Now::default(),
            mtu: config.mtu,
            routes: Routes::new(&config),
            tcp: Tcp::new(&config, secrets, ports),
            udp: Udp::new(Ports::new(secrets.ports, config.ephemeral)),
            raw: Raw::default(),
            addresses: Addresses::new(secrets.addresses),
            path_mtus: PathMtus::default(),
            node: Node::new(node::key(&config, secrets.addresses)),
            groups: Groups::default(),
            dhcp: (config.dhcp && config.shard == 0).then(|| Dhcp::new(secrets.isn(0, &FlowKey::NONE, 0))),
            neighbors: Neighbors::default(),
            fragments: Fragments::default(),
            ip: IpCounters::default(),
            known_v4: 0,
            seen: 0,
            loopback: Loopback::default(),
            packets: VecDeque::new(),
            direct: VecDeque::new(),
            frame_from: [0; 6],
            arp_out: VecDeque::new(),
            icmp_second: (0, 0),
            idents: u32::from_le_bytes([config.seed[28], config.seed[29], config.seed[30], config.seed[31]]),
            full: false,
            old_mac: config.mac,
            group: Membership::new(&config),
            config,
        };
        if shard.is_home() {
            shard.node_start();
        }
        shard
    }

    /// Takes what the device received, runs the timers that are due, sends what may be sent. Returns the
    /// number of frames received (0: nothing was waiting; as large as the burst: there may be more).
    pub fn poll(&mut self, now: Instant, dev: &mut dyn Device) -> usize {
        let count = self.receive(now, dev);
        self.advance(now, dev);
        count
    }

    /// The first half of [`Self::poll`]: takes what the device received.
    pub fn receive(&mut self, now: Instant, dev: &mut dyn Device) -> usize {
        self.set_now(now);
        let capabilities = dev.capabilities();
        self.mtu = self.link_mtu(capabilities.mtu);
        dev.receive(capabilities.burst, &mut |batch| self.input_batch(batch))
    }

    /// The second half: runs the timers that are due, sends what may be sent.
    pub fn advance(&mut self, now: Instant, dev: &mut dyn Device) {
        self.set_now(now);
        // A switch turns when it receives: from here on it may be another device.
        self.take_mac(dev);
        self.mtu = self.link_mtu(dev.capabilities().mtu);
        self.run_timers();
        self.transmit(dev);
        if self.addresses.wants_collection() {
            self.collect_addresses();
        }
    }

    /// Sends what may be sent, without receiving. Call it after socket operations; also delivers packets
    /// on the loopback, so that events may follow.
    pub fn flush(&mut self, now: Instant, dev: &mut dyn Device) {
        self.set_now(now);
        if self.wants_flush() {
            self.mtu = self.link_mtu(dev.capabilities().mtu);
            self.transmit(dev);
        }
    }

    /// When [`Self::poll`] must be called at the latest; may be early, never late. `None`: never.
    pub fn deadline(&self) -> Option<Instant> {
        if self.wants_flush() && !self.full {
            return Some(Instant(self.now.us * 1000));
        }
        let others =
            [self.neighbors.next_ms(), self.node.next_ms(), self.routes.next_ms(), self.groups.next_ms()];
        let dhcp = self.dhcp.as_ref().map(Dhcp::next_ms).filter(|at| *at != u64::MAX);
        let next = others.into_iter().flatten().chain(self.tcp.next_ms()).chain(dhcp).min();
        // A full device may have room a moment later; nobody tells us when.
        let next =
            if self.full { Some(next.map_or(self.now.ms + 1, |at| at.min(self.now.ms + 1))) } else { next };
        next.map(|ms| Instant(ms.saturating_mul(MILLISECOND)))
    }

    /// Something waits to be sent: call [`Self::flush`] or [`Self::poll`] soon.
    #[inline]
    pub fn wants_flush(&self) -> bool {
        !(self.tcp.idle()
            && self.loopback.is_empty()
            && self.packets.is_empty()
            && self.direct.is_empty()
            && self.arp_out.is_empty()
            && self.udp.out.is_empty()
            && self.neighbors.questions.is_empty())
    }

    /// The next socket whose readiness changed. A socket is reported once for all that happened since its
    /// last event.
    pub fn next_event(&mut self) -> Option<Event> {
        while let Some(index) = self.tcp.events.pop_front() {
            let tcb = &mut self.tcp.sockets[index];
            if !tcb.has(Flags::EVENTED) {
                continue;
            }
            tcb.flags -= Flags::EVENTED;
            if tcb.has(Flags::ORPHAN) {
                continue;
            }
            let news = core::mem::take(&mut tcb.news);
            let ready = tcb.ready_for_owner(&self.config.limits);
            let id = SocketId::new(Kind::Tcp, index, tcb.generation).on(self.config.shard);
            return Some(Event { id, cookie: tcb.cookie, ready, news });
        }
        while let Some(index) = self.udp.events.pop_front() {
            let socket = &mut self.udp.sockets[index];
            if core::mem::take(&mut socket.evented) && socket.open {
                let news = core::mem::take(&mut socket.news);
                let id = SocketId::new(Kind::Udp, index, socket.generation);
                return Some(Event { id, cookie: socket.cookie, ready: socket.ready(), news });
            }
        }
        while let Some(index) = self.raw.events.pop_front() {
            let socket = &mut self.raw.sockets[index];
            if core::mem::take(&mut socket.evented) && socket.open {
                let news = core::mem::take(&mut socket.news);
                let id = SocketId::new(Kind::Raw, index, socket.generation);
                return Some(Event { id, cookie: socket.cookie, ready: socket.ready(), news });
            }
        }
        None
    }

    /// The next question about an incoming connection.
    pub fn next_incoming(&mut self) -> Option<Incoming> {
        while let Some((index, generation)) = self.tcp.incoming.pop_front() {
            let tcb = &self.tcp.sockets[index];
            if tcb.generation == generation && tcb.has(Flags::HELD) {
                return Some(Incoming {
                    id: SocketId::new(Kind::Tcp, index, generation),
                    from: Endpoint::new(self.addresses.get(tcb.key.remote), tcb.key.remote_port),
                    to: Endpoint::new(self.addresses.get(tcb.key.local), tcb.key.local_port),
                });
            }
        }
        None
    }

    /// Sets what comes with this socket's events.
    pub fn set_cookie(&mut self, id: SocketId, cookie: u64) {
        if let Ok(index) = self.tcp_index(id) {
            self.tcp.sockets[index].cookie = cookie;
        } else if let Ok(index) = self.udp_index(id) {
            self.udp.sockets[index].cookie = cookie;
        } else if let Ok(index) = self.raw_index(id) {
            self.raw.sockets[index].cookie = cookie;
        }
    }

    /// What the socket is ready for. A closed identifier is ready for nothing.
    pub fn ready(&mut self, id: SocketId) -> Ready {
        if let Ok(index) = self.tcp_index(id) {
            self.tcp.sockets[index].ready_for_owner(&self.config.limits)
        } else if let Ok(index) = self.udp_index(id) {
            self.udp.sockets[index].ready()
        } else if let Ok(index) = self.raw_index(id) {
            self.raw.sockets[index].ready()
        } else {
            Ready::empty()
        }
    }

    /// Takes the pending error (SO_ERROR).
    pub fn take_error(&mut self, id: SocketId) -> Option<Error> {
        if let Ok(index) = self.tcp_index(id) {
            let tcb = &mut self.tcp.sockets[index];
            return tcb.error.take().or(tcb.soft_error.take());
        }
        if let Ok(index) = self.raw_index(id) {
            return self.raw.sockets[index].error.take();
        }
        self.udp_index(id).ok().and_then(|index| self.udp.sockets[index].error.take())
    }

    /// The local endpoint; unspecified before `bind` or `connect`.
    pub fn local(&self, id: SocketId) -> Endpoint {
        if let Ok(index) = self.tcp_index(id) {
            let key = &self.tcp.sockets[index].key;
            return Endpoint::new(self.addresses.get(key.local), key.local_port);
        }
        if let Ok(index) = self.raw_index(id) {
            let socket = &self.raw.sockets[index];
            return Endpoint::new(socket.local, socket.ident);
        }
        match self.udp_index(id) {
            Ok(index) => {
                let (addr, port) = self.udp.sockets[index].local;
                Endpoint::new(addr, port)
            }
            Err(_) => Endpoint::UNSPECIFIED,
        }
    }

    /// The peer's endpoint, while connected.
    pub fn peer(&self, id: SocketId) -> Option<Endpoint> {
        if let Ok(index) = self.tcp_index(id) {
            let tcb = &self.tcp.sockets[index];
            let connected = tcb.is_synchronized() || tcb.state == crate::TcpState::SynReceived;
            return connected.then(|| Endpoint::new(self.addresses.get(tcb.key.remote), tcb.key.remote_port));
        }
        if let Ok(index) = self.raw_index(id) {
            return self.raw.sockets[index].peer.map(|peer| Endpoint::new(peer, 0));
        }
        self.udp_index(id).ok().and_then(|index| self.udp.sockets[index].peer())
    }

    /// The owner forgets the socket. A connection goes on by itself until the peer has everything
    /// (or is reset, if data was left unread or lingering is 0); a listener resets what it had not handed out.
    pub fn close(&mut self, id: SocketId) {
        match id.kind() {
            Kind::Tcp => self.tcp_close(id),
            Kind::Udp => self.udp_close(id),
            Kind::Raw => self.raw_close(id),
        }
    }

    /// Adds an address of ours while running, and announces it.
    pub fn add_address(&mut self, cidr: Cidr) {
        self.routes.add(cidr);
        match cidr.address {
            IpAddr::V6(addr) if self.config.peer_mac.is_none() => self.test_address(addr),
            _ => self.announce(),
        }
    }

    /// Takes an address away. Connections from it go on as far as they can.
    pub fn remove_address(&mut self, address: IpAddr) {
        self.routes.remove(address);
    }

    /// Changes the IPv4 gateway.
    pub fn set_gateway(&mut self, gateway: Option<IpAddr>) {
        self.routes.set_gateway(false, gateway);
    }

    /// Our IPv4 addresses with their prefix lengths, and our IPv6 addresses.
    pub fn addresses(&self) -> (&[(core::net::Ipv4Addr, u8)], &[crate::Own6]) {
        (self.routes.v4(), self.routes.v6())
    }

    /// Counts changes of our addresses.
    pub fn address_changes(&self) -> u64 {
        self.routes.changes
    }

    /// The routes, best first.
    pub fn routes(&self) -> impl Iterator<Item = &crate::RouteEntry> {
        self.routes.entries()
    }

    /// Where names are resolved, as routers told (RFC 8106).
    pub fn name_servers(&self) -> &[core::net::Ipv6Addr] {
        &self.node.dns
    }

    /// Tells a neighbour's hardware address, as if ARP had.
    pub fn set_neighbor(&mut self, addr: IpAddr, mac: [u8; 6]) {
        let news = News { create: true, solicited: true, replace: true, router: None };
        let outcome = self.neighbors.learn(addr, Some(mac), news, self.now.ms);
        self.resolved(outcome, None);
    }

    /// Announces our addresses to the link (gratuitous ARP, RFC 5227 section 3) and makes every peer speak:
    /// each connection with data in flight resends its first segment, each other one sends an ACK. For
    /// the moment after a device was switched or a network server was replaced.
    pub fn kick(&mut self) {
        self.announce();
        self.tcp.kick();
    }

    /// TCP segments that were sent again since the start.
    pub fn retransmissions(&self) -> u64 {
        self.tcp.pool.counters.retrans_segs
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters { ip: self.ip, tcp: self.tcp.pool.counters, udp: self.udp.counters };
        let tcp = &mut counters.tcp;
        counters.ip.reasm_fails = self.fragments.failed;
        counters.ip.in_receives += self.known_v4;
        counters.ip.in_delivers += self.known_v4;
        tcp.in_segs += self.known_v4;
        tcp.out_segs += self.tcp.replies.sent[0];
        // RFC 4022: not those that bring only what was sent before.
        tcp.out_segs = tcp.out_segs.saturating_sub(tcp.retrans_segs);
        tcp.out_rsts = self.tcp.replies.sent[1];
        let open = |state| matches!(state, crate::TcpState::Established | crate::TcpState::CloseWait);
        tcp.curr_estab = self.tcp.sockets.iter().filter(|(_, tcb)| open(tcb.state)).count() as u64;
        counters
    }

    /// IP packets that came, of both families, over the loopback interface as well.
    pub fn packets(&self) -> u64 {
        self.known_v4 + self.seen
    }

    /// How many sockets there are.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            time_wait: self.tcp.time_wait.len(),
            allocated: self.tcp.sockets.len(),
            buffers: self.tcp.pool.used(),
            raw: self.raw.sockets.len(),
            fragments: self.fragments.held(),
            ..Usage::default()
        };
        for row in self.rows() {
            let closed = matches!(row.state, crate::TcpState::Closed | crate::TcpState::TimeWait);
            match row.kind {
                Kind::Tcp if !closed => usage.tcp[usize::from(row.v6)] += 1,
                Kind::Udp => {
                    usage.udp[usize::from(row.v6)] += 1;
                    usage.udp_buffers += row.queued[0] + row.queued[1];
                }
                _ => {}
            }
        }
        let orphans = self.tcp.sockets.iter().filter(|(_, tcb)| tcb.has(Flags::ORPHAN));
        usage.orphans = orphans.count();
        usage
    }

    /// TCP and UDP sockets as a table shows them.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let ports = self.tcp.ports.lock();
        for (index, tcb) in self.tcp.sockets.iter() {
            let (key, none) = (&tcb.key, tcb.key.local_port == 0);
            // A listener is one row, whatever number of shards it has places in.
            if none || tcb.listener.as_ref().is_some_and(|listener| listener.is_replica) {
                continue;
            }
            let name = SocketId::new(Kind::Tcp, index, tcb.generation).on(self.config.shard);
            let owner = ports.owners(key.local_port).iter().find(|owner| owner.socket == name);
            let v6 = key.local.is_v6() || owner.is_some_and(|owner| owner.families.covers(true));
            rows.push(Row {
                kind: Kind::Tcp,
                v6,
                local: Endpoint::new(self.addresses.get(key.local), key.local_port),
                remote: Endpoint::new(self.addresses.get(key.remote), key.remote_port),
                state: tcb.state,
                queued: [tcb.tx.len() as usize, tcb.rx.len() as usize],
                cookie: tcb.cookie,
            });
        }
        for (_, socket) in self.udp.sockets.iter().filter(|(_, socket)| socket.open && socket.local.1 != 0) {
            let (addr, port) = socket.local;
            rows.push(Row {
                kind: Kind::Udp,
                v6: addr.is_ipv6(),
                local: Endpoint::new(addr, port),
                remote: socket.peer().unwrap_or(Endpoint::UNSPECIFIED),
                state: crate::TcpState::Closed,
                queued: socket.queued_bytes(),
                cookie: socket.cookie,
            });
        }
        rows
    }

    /// The sockets that somebody is to close: without those that are closed already, and without connections that wait
    /// to be accepted or admitted, which their listener closes.
    pub fn owned(&self) -> impl Iterator<Item = SocketId> {
        const OTHERS: Flags = Flags::ORPHAN.union(Flags::CHILD).union(Flags::HELD);
        let shard = self.config.shard;
        let tcp = self.tcp.sockets.in_use().filter(|(_, tcb)| !tcb.flags.intersects(OTHERS));
        let tcp = tcp.map(move |(index, tcb)| SocketId::new(Kind::Tcp, index, tcb.generation).on(shard));
        let udp = self.udp.sockets.iter().filter(|(_, socket)| socket.open);
        let udp = udp.map(|(index, socket)| SocketId::new(Kind::Udp, index, socket.generation));
        let raw = self.raw.sockets.iter().filter(|(_, socket)| socket.open);
        tcp.chain(udp).chain(raw.map(|(index, socket)| SocketId::new(Kind::Raw, index, socket.generation)))
    }

    /// Somebody may have been killed while it changed this shard: makes good what it left half done
    /// (`engine/audit.rs`). Takes a look at every connection.
    pub fn audit(&mut self, now: Instant) {
        self.set_now(now);
        self.tcp.audit(self.now, &self.config.limits);
    }

    /// Whether a socket is bound to the port, or a connection uses it (its TIME-WAIT included).
    pub fn is_port_used(&self, udp: bool, port: u16) -> bool {
        if udp { self.udp.ports.is_used(port) } else { self.tcp.ports.lock().is_used(port) }
    }

    /// Sockets of each kind, and records in TIME-WAIT: TCP, UDP, raw, TIME-WAIT.
    pub fn counts(&self) -> [usize; 4] {
        [self.tcp.sockets.len(), self.udp.sockets.len(), self.raw.sockets.len(), self.tcp.time_wait.len()]
    }

    /// Whether a closed connection still has data or its FIN to bring to the peer.
    pub fn has_unfinished(&self) -> bool {
        use crate::socket::tcp::TcpState;
        let unfinished = |state| matches!(state, TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck);
        let early = |tcb: &Tcb| tcb.is_early() && tcb.has(Flags::FIN_QUEUED);
        self.tcp.sockets.iter().any(|(_, tcb)| unfinished(tcb.state) || early(tcb))
    }

    /// The device may have a hardware address of its own, which is ours as long as we use it.
    pub(crate) fn take_mac(&mut self, dev: &dyn Device) {
        let Some(mac) = dev.mac().filter(|mac| *mac != self.config.mac) else { return };
        self.old_mac = core::mem::replace(&mut self.config.mac, mac);
        self.announce();
    }

    fn announce(&mut self) {
        if !self.is_home() {
            return;
        }
        self.arp_out.extend(self.routes.v4().iter().map(|&(own, _)| ([0; 6], own, own, true)));
        if self.config.peer_mac.is_none() {
            let own6: Vec<_> =
                self.routes.v6().iter().filter(|own| !own.tentative).map(|own| own.addr).collect();
            for addr in own6 {
                // RFC 4861 section 7.2.6: unsolicited, to override.
                let message = ndp::advertise(addr, ndp::OVERRIDE, self.config.mac);
                self.push_packet(icmp6::packet(addr, ipv6::ALL_NODES, ndp::HOP_LIMIT, &message));
            }
        }
    }

    fn link_mtu(&self, device: usize) -> usize {
        self.config.mtu.min(device).min(self.node.mtu.unwrap_or(usize::MAX))
    }

    /// Frees the short names of IPv6 addresses that nobody uses. Everything that keeps one over a poll is named
    /// here; queued replies do not outlive the condition.
    #[cold]
    fn collect_addresses(&mut self) {
        if self.tcp.replies.list.is_empty() {
            let Shard { tcp, addresses, .. } = self;
            addresses.keep_only(tcp.addresses());
        }
    }

    #[inline]
    pub(crate) fn set_now(&mut self, now: Instant) {
        let us = now.0 / 1000;
        // Time never goes back, whatever the owner says.
        if us > self.now.us {
            self.now = Now { us, ms: us / 1000 };
        }
    }

    /// Takes a batch of frames: first all lookups, so that their cache misses overlap, then the work.
    pub(crate) fn input_batch(&mut self, batch: &[RxFrame<'_>]) {
        for frames in batch.chunks(LOOKAHEAD) {
            let mut hints = [None; LOOKAHEAD];
            self.look_ahead(frames, &mut hints);
            for (frame, hint) in frames.iter().zip(hints) {
                match hint {
                    Some((key, index)) if self.input_known(frame, &key, index) => {}
                    hint if frame.in_place.is_empty() => {
                        self.input_frame(frame, hint.map(|(_, index)| index));
                    }
                    // Copied before anything is believed.
                    hint => {
                        let (copy, checksum_ok) = (frame.in_place.to_vec(), frame.checksum_ok);
                        let frame = RxFrame { bytes: &copy, in_place: &[], checksum_ok };
                        self.input_frame(&frame, hint.map(|(_, index)| index));
                    }
                }
            }
        }
    }

    /// Finds the connections of what look like TCP segments. In three rounds, each with loops so short that
    /// the processor has the misses of many frames under way at once: which hash, which connection,
    /// its lines. Nothing is checked here: a wrong guess is found out by `Tcp::input`.
    fn look_ahead(&self, frames: &[RxFrame<'_>], hints: &mut [Option<(FlowKey, u32)>; LOOKAHEAD]) {
        let mut hashes = [0; LOOKAHEAD];
        for ((hint, hash), frame) in hints.iter_mut().zip(&mut hashes).zip(frames) {
            if let Some(key) = self.flow_of(frame.bytes) {
                *hash = self.tcp.flows.hash(&key);
                *hint = Some((key, 0));
            }
        }
        for (hint, hash) in hints[..frames.len()].iter_mut().zip(hashes) {
            let found = hint.and_then(|(key, _)| Some((key, self.tcp.flows.find(hash, |_| true)?)));
            *hint = found;
        }
        if frames.len() > 1 {
            let lines = hints.iter().flatten().map(|(_, index)| self.tcp.sockets[*index].touch());
            core::hint::black_box(lines.fold(0, |all, line| all ^ line));
        }
    }

    /// The usual frame: a whole IPv4 segment without IP options for us alone, of a connection that the look-ahead
    /// found. False if it is anything else, or not sound: then nothing was done. What `input_frame` asks further
    /// is answered by the connection's existence: its addresses were fit to be its addresses.
    #[inline]
    fn input_known(&mut self, frame: &RxFrame<'_>, key: &FlowKey, index: u32) -> bool {
        let Some(head) = frame.bytes.first_chunk::<{ ETHERNET + 20 }>() else { return false };
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        // Version and header length; fragments; protocol.
        let usual = word(12) == 0x0800 && head[14] == 0x45 && word(20) & 0x3fff == 0 && head[23] == 6;
        let tcb = &self.tcp.sockets[index];
        let known = tcb.key == *key && tcb.has(Flags::IN_TABLE) && !tcb.has(Flags::LOOPBACK);
        if !usual || !known || head[..6] != self.config.mac || !self.raw.open.is_empty() || self.group.copies
        {
            return false;
        }
        let end = ETHERNET + usize::from(word(16));
        let Some(ip) = head[ETHERNET..].first_chunk::<20>() else { return false };
        if !ipv4::is_sound(ip, &[]) {
            return false;
        }
        let segment = if frame.in_place.is_empty() {
            let bytes = frame.bytes.get(ETHERNET + 20..end);
            bytes.and_then(|bytes| Segment::parse_v4(bytes, key, frame.checksum_ok))
        } else {
            // Headers from the copy, payload where it lies.
            let bytes = frame.in_place.get(ETHERNET + 20..end).filter(|_| frame.checksum_ok);
            bytes.and_then(|bytes| Segment::parse_in_place(&frame.bytes[ETHERNET + 20..], bytes))
        };
        let Some(mut segment) = segment else { return false };
        segment.marked = head[15] & 3 == 3;
        self.known_v4 += 1;
        self.tcp.deliver(index, &segment, self.now, &self.config);
        true
    }

    fn input_frame(&mut self, frame: &RxFrame<'_>, hint: Option<u32>) {
        let Ok(ethernet) = EthernetFrame::new_checked(frame.bytes) else { return };
        let to = ethernet.dst_addr();
        let for_all = to.is_broadcast() || to.is_multicast();
        if to.0 != self.config.mac && to.0 != self.old_mac && !for_all {
            return;
        }
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = ipv4::parse(&frame.bytes[ETHERNET..], false);
                self.ip.in_receives += u64::from(packet.is_none());
                self.ip.in_hdr_errors += u64::from(packet.is_none());
                if let Some(packet) = packet {
                    // RFC 1122 section 3.2.1.3: 127/8 never comes from outside.
                    if !packet.src.is_loopback() && !packet.dst.is_loopback() {
                        self.input_packet(&packet, frame.checksum_ok, hint, false, for_all);
                    }
                }
            }
            EthernetProtocol::Ipv6 if self.config.ipv6 != Ipv6Mode::Off => {
                self.frame_from = ethernet.src_addr().0;
                self.input_v6(&frame.bytes[ETHERNET..], frame.checksum_ok, hint, for_all);
            }
            EthernetProtocol::Arp => self.input_arp(&frame.bytes[ETHERNET..]),
            _ => {}
        }
    }

    #[inline]
    fn input_v6(&mut self, bytes: &[u8], sum_ok: bool, hint: Option<u32>, for_all: bool) {
        match ipv6::parse(bytes) {
            // RFC 4291 section 2.5.3: ::1 never comes from outside; mapped addresses never are on a wire.
            Parsed::Packet(packet) if packet.src.is_loopback() || packet.dst.is_loopback() => {}
            Parsed::Packet(packet) if packet.src.to_canonical().is_ipv4() => {}
            Parsed::Packet(packet) => self.input_packet(&packet, sum_ok, hint, false, for_all),
            Parsed::Problem { packet, code, at, always } if self.is_for_us(packet.dst) => {
                self.send_problem(&packet, code, at, always);
            }
            _ => {}
        }
    }

    fn is_for_us(&self, dst: IpAddr) -> bool {
        self.routes.is_local(dst) || self.is_group_of_ours(dst)
    }

    /// We listen to that group: everybody's, or one that goes with an address of ours, or that a socket joined.
    fn is_group_of_ours(&self, dst: IpAddr) -> bool {
        match dst {
            IpAddr::V4(v4) => {
                v4 == core::net::Ipv4Addr::new(224, 0, 0, 1) || v4.is_multicast() && self.groups.has(dst)
            }
            IpAddr::V6(v6) => {
                v6 == ipv6::ALL_NODES
                    || v6.is_multicast() && self.groups.has(dst)
                    || v6.is_multicast()
                        && self.routes.v6().iter().any(|own| ipv6::solicited_node(own.addr) == v6)
            }
        }
    }

    /// An IP packet from the device or the loopback.
    #[inline]
    pub(crate) fn input_packet(
        &mut self,
        packet: &Packet<'_>,
        sum_ok: bool,
        hint: Option<u32>,
        loopback: bool,
        for_all: bool,
    ) {
        let v4 = u64::from(!packet.is_v6());
        self.seen += 1;
        self.ip.in_receives += v4;
        let own = self.routes.is_local(packet.dst);
        let to_all = !own && (self.is_group_of_ours(packet.dst) || self.routes.is_broadcast(packet.dst));
        if !own && !to_all && !self.config.any_ip {
            self.ip.in_addr_errors += v4;
            return;
        }
        if packet.is_fragment() {
            let whole = self.fragments.insert(packet, self.now.ms);
            self.ip.reasm_reqds += v4;
            self.ip.reasm_oks += if whole.is_some() { v4 } else { 0 };
            if let Some(whole) = whole {
                // It counts as one packet that came in pieces.
                self.ip.in_receives -= v4;
                self.input_whole(&whole, loopback);
            }
            return;
        }
        self.ip.in_delivers += v4;
        if self.group.copies {
            self.copy_home(packet, loopback);
        }
        let taken = self.raw.input(packet, loopback, self.now.us);
        match packet.protocol {
            6 if !to_all && !for_all => self.input_tcp(packet, sum_ok, hint, loopback),
            17 if self.dhcp.is_some() && !packet.is_v6() && self.input_dhcp(packet.payload) => {}
            17 => {
                let known = self.udp.input(packet, sum_ok, to_all, loopback, self.now.us);
                if !known && !for_all {
                    self.udp_unreachable(packet);
                }
            }
            icmp::PROTOCOL if !packet.is_v6() => self.input_icmp(packet, sum_ok, to_all),
            icmp6::PROTOCOL if packet.is_v6() => self.input_icmp6(packet, loopback, to_all),
            multicast::IGMP if !packet.is_v6() && !loopback => self.input_igmp(packet.payload),
            _ if taken => {}
            _ if !packet.is_v6() => {
                self.ip.in_delivers -= 1;
                self.ip.in_unknown_protos += 1;
                if !to_all {
                    self.send_unreachable(packet, Unreachable::Protocol);
                }
            }
            _ if packet.protocol != ipv6::NO_NEXT => {
                let at = u32::from(packet.protocol_at);
                self.send_problem(packet, ipv6::UNKNOWN_NEXT_HEADER, at, false);
            }
            _ => {}
        }
    }

    /// A datagram put together from fragments: as if it had come in one packet.
    #[cold]
    fn input_whole(&mut self, whole: &Whole, loopback: bool) {
        let bytes = match (whole.src, whole.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut bytes = alloc::vec![0; 20];
                let header = ipv4::Header {
                    src,
                    dst,
                    protocol: whole.protocol,
                    payload_len: whole.payload.len(),
                    hop_limit: whole.hop_limit,
                    traffic_class: whole.traffic_class,
                    ident: 0,
                    dont_fragment: false,
                };
                ipv4::write_header(&mut bytes, &header);
                bytes
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut bytes = alloc::vec![0; ipv6::HEADER];
                let header = ipv6::Header {
                    src,
                    dst,
                    protocol: whole.protocol,
                    payload_len: whole.payload.len(),
                    hop_limit: whole.hop_limit,
                    traffic_class: whole.traffic_class,
                    flow_label: 0,
                };
                ipv6::write_header(&mut bytes, &header);
                bytes
            }
            _ => return,
        };
        let bytes = [&bytes[..], &whole.payload].concat();
        if let Some(packet) = Packet::parse(&bytes) {
            // A fragment within a fragment is an attack.
            if !packet.is_fragment() {
                self.input_packet(&packet, false, None, loopback, false);
            }
        }
    }

    #[inline]
    fn input_tcp(&mut self, packet: &Packet<'_>, sum_ok: bool, hint: Option<u32>, loopback: bool) {
        let Some((mut segment, src_port, dst_port)) =
            Segment::parse(packet.payload, packet.src, packet.dst, sum_ok)
        else {
            return self.bad_segment(packet);
        };
        // RFC 3168 section 5: congestion experienced.
        segment.marked = packet.traffic_class & 3 == 3;
        let names = (self.addresses.intern(packet.dst), self.addresses.intern(packet.src));
        let (Some(local), Some(remote)) = names else { return };
        let key = FlowKey { local, remote, local_port: dst_port, remote_port: src_port };
        // Asked for only if there is no connection.
        let facts = || {
            let known = || self.path_mtus.get(packet.src, self.mtu);
            let mtu = if loopback { crate::device::loopback::MTU } else { known() };
            let elsewhere = self.group.steering.shards() > 1
                && self.group.steering.flow((packet.src, src_port), (packet.dst, dst_port))
                    != usize::from(self.config.shard);
            let pair = self.addresses.pair(local, remote);
            LocalFacts { mtu: mtu.min(65_535) as u16, pair, loopback, elsewhere }
        };
        if !self.tcp.input(&key, &segment, hint, self.now, &self.config, facts) {
            let shard = self.group.steering.flow((packet.src, src_port), (packet.dst, dst_port));
            self.hand_on(shard, packet, loopback);
        }
    }

    /// What is no segment: too short, or its checksum is wrong.
    #[cold]
    fn bad_segment(&mut self, packet: &Packet<'_>) {
        let counters = &mut self.tcp.pool.counters;
        counters.in_segs += 1;
        counters.in_errs += 1;
        if Segment::parse(packet.payload, packet.src, packet.dst, true).is_some() {
            counters.in_csum_errors += 1;
        }
    }

    #[cold]
    fn input_icmp(&mut self, packet: &Packet<'_>, sum_ok: bool, to_all: bool) {
        self.ip.icmp_came(packet.payload);
        if !sum_ok && !icmp::verify(packet.payload) {
            self.ip.icmp_in_csum_errors += 1;
            return;
        }
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (packet.src, packet.dst) else { return };
        if packet.payload.first() == Some(&icmp::ECHO_REQUEST) {
            // Not to everybody's request (RFC 1122 section 3.2.2.6 allows it; Linux does the same). With
            // `any_ip` the owner's uplink answers for the world as far as it can: its own addresses.
            if !to_all && self.routes.is_local(packet.dst) {
                let reply = icmp::echo_reply(packet.payload);
                self.push_packet(icmp::packet(dst, src, &reply));
            }
        } else if let Some(report) = icmp::read_error(packet.src, packet.payload) {
            self.reported(&report, packet.payload);
        }
    }

    #[cold]
    fn input_icmp6(&mut self, packet: &Packet<'_>, loopback: bool, to_all: bool) {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (packet.src, packet.dst) else { return };
        if !loopback && !icmp6::verify(packet) {
            return;
        }
        match packet.payload.first() {
            Some(&icmp6::ECHO_REQUEST) if packet.payload.len() >= 8 => {
                // RFC 4443 section 4.2: a request to a group is answered too, from an address of ours.
                let own = if to_all { self.routes.source_v6(src, self.now.ms) } else { Some(dst) };
                if let (Some(own), true) = (own, self.is_for_us(packet.dst)) {
                    let mut reply = packet.payload.to_vec();
                    reply[0] = icmp6::ECHO_REPLY;
                    self.push_packet(icmp6::packet(own, src, self.node.hop_limit, &reply));
                }
            }
            Some(&(ndp::ROUTER_SOLICIT..=ndp::REDIRECT)) if !loopback => self.input_ndp(packet),
            Some(&multicast::MLD_QUERY) if !loopback => self.input_mld_query(packet.payload),
            Some(0..128) => {
                if let Some(report) = icmp6::read_error(packet.src, packet.payload) {
                    self.reported(&report, packet.payload);
                }
            }
            _ => {}
        }
    }

    /// The largest packet for a destination, as far as is known (IP_MTU).
    pub fn path_mtu(&self, to: IpAddr) -> usize {
        let to = to.to_canonical();
        if self.routes.is_local(to) { 65_536 } else { self.path_mtus.get(to, self.mtu) }
    }

    /// An error about a packet that we may have sent.
    pub(crate) fn reported(&mut self, report: &Report, message: &[u8]) {
        if !self.config.any_ip && !self.routes.is_local(report.src) {
            return;
        }
        if let Trouble::TooBig(mtu) = report.what {
            self.path_mtus.shrink(report.dst, mtu, self.mtu, self.now.ms);
        }
        self.raw.icmp(report, message);
        match report.protocol {
            6 => {
                let names = (self.addresses.find(report.src), self.addresses.find(report.dst));
                let (Some(local), Some(remote)) = names else { return };
                let (local_port, remote_port) = (report.src_port, report.dst_port);
                self.tcp.icmp(&FlowKey { local, remote, local_port, remote_port }, report, self.now);
            }
            17 => self.udp.icmp(report, message),
            _ => {}
        }
    }

    /// Whether an ICMP error may be sent now (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
    fn may_complain(&mut self) -> bool {
        let second = self.now.ms / 1000;
        if self.icmp_second.0 != second {
            self.icmp_second = (second, 0);
        }
        self.icmp_second.1 += 1;
        self.icmp_second.1 <= 1000
    }

    /// Tells a packet's sender that it cannot be delivered.
    #[cold]
    pub(crate) fn send_unreachable(&mut self, about: &Packet<'_>, why: Unreachable) {
        if !self.may_complain() {
            return;
        }
        match (about.src, about.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                if let Some(message) = icmp::error_about(about, why.code_v4()) {
                    self.push_packet(icmp::packet(dst, src, &message));
                }
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let message = icmp6::error_about(about, icmp6::UNREACHABLE, why.code_v6(), 0, false);
                if let Some(message) = message {
                    self.push_packet(icmp6::packet(dst, src, self.node.hop_limit, &message));
                }
            }
            _ => {}
        }
    }

    /// ICMPv6 "parameter problem" about the byte at `at`.
    #[cold]
    fn send_problem(&mut self, about: &Packet<'_>, code: u8, at: u32, always: bool) {
        let IpAddr::V6(src) = about.src else { return };
        let Some(own) = self.routes.source_v6(src, self.now.ms).filter(|_| self.may_complain()) else {
            return;
        };
        if let Some(message) = icmp6::error_about(about, icmp6::PARAMETER_PROBLEM, code, at, always) {
            self.push_packet(icmp6::packet(own, src, self.node.hop_limit, &message));
        }
    }

    pub(crate) fn push_packet(&mut self, packet: Vec<u8>) {
        if self.packets.len() < MAX_PACKETS {
            self.packets.push_back(packet);
        } else {
            self.ip.out_discards += 1;
        }
    }

    /// Sends a packet back to where the present frame came from.
    pub(crate) fn push_direct(&mut self, packet: Vec<u8>) {
        if self.direct.len() < MAX_PACKETS {
            self.direct.push_back((self.frame_from, packet));
        }
    }

    /// RFC 826, with the sender merged if it is known or asks for us.
    #[cold]
    fn input_arp(&mut self, bytes: &[u8]) {
        let Some(arp) = arp::parse(bytes) else { return };
        if self.routes.is_local(arp.sender.into()) {
            return; // Our own announcement, or a conflict that we cannot mend.
        }
        let for_us = self.routes.is_local(arp.target.into()) && !arp.target.is_loopback();
        let answer = arp.request && (for_us || (self.config.any_ip && arp.target != arp.sender));
        // RFC 826 merges whoever speaks; a reply to us also shows that it hears us.
        let news = News { create: for_us, solicited: for_us && !arp.request, replace: true, router: None };
        let outcome = self.neighbors.learn(arp.sender.into(), Some(arp.mac), news, self.now.ms);
        self.resolved(outcome, None);
        if answer && self.arp_out.len() < MAX_PACKETS {
            self.arp_out.push_back((arp.mac, arp.sender, arp.target, false));
        }
    }

    /// What waited for a hardware address goes on, or is told that there is none.
    pub(crate) fn resolved(&mut self, outcome: Outcome, error: Option<Error>) {
        self.tcp.resolved(outcome.connections, error, self.now);
        if error.is_none() {
            self.packets.extend(outcome.packets);
        }
    }

    fn run_timers(&mut self) {
        self.tcp.timers(self.now, &self.config);
        if let Some(mut failed) = self.neighbors.timers(self.now.ms) {
            self.neighbors_gone(&core::mem::take(&mut failed.gone));
            self.resolved(failed, Some(Error::HostUnreachable));
        }
        self.path_mtus.expire(self.now.ms);
        self.node_timers();
        self.group_timers();
        self.dhcp_timers();
    }

    /// Sends, and delivers what we send to ourselves, until nothing is left.
    fn transmit(&mut self, dev: &mut dyn Device) {
        let mut sent = false;
        for _ in 0..MAX_ROUNDS {
            sent |= self.send_all(dev);
            if self.loopback.is_empty() {
                break;
            }
            for _ in 0..LOOPBACK_BURST {
                let Some(bytes) = self.loopback.pop() else { break };
                if let Some(packet) = Packet::parse(&bytes) {
                    self.input_packet(&packet, true, None, true, false);
                }
                self.loopback.recycle(bytes);
            }
        }
        if sent {
            dev.flush();
        }
    }

    fn send_all(&mut self, dev: &mut dyn Device) -> bool {
        let capabilities = dev.capabilities();
        self.ask_neighbors();
        let Shard {
            tcp,
            udp,
            loopback,
            neighbors,
            routes,
            config,
            now,
            mtu,
            idents,
            addresses,
            path_mtus,
            ip,
            ..
        } = self;
        let mut link = Link {
            device: dev,
            capabilities,
            loopback,
            neighbors,
            routes,
            addresses,
            path_mtus,
            mac: config.mac,
            peer_mac: config.peer_mac,
            mtu: *mtu,
            now_ms: now.ms,
            idents,
            counters: ip,
            sent: false,
        };
        let result = send_rest(&mut link, &mut self.arp_out, (&mut self.direct, &mut self.packets), udp)
            .and_then(|()| tcp.output(*now, &mut link))
            .and_then(|()| send_questions(&mut link));
        self.full = result == Err(Blocked::Full);
        link.sent
    }

    /// The connection to which a frame belongs, if it is a TCP segment.
    #[inline]
    fn flow_of(&self, frame: &[u8]) -> Option<FlowKey> {
        let packet = frame.get(ETHERNET..)?;
        let word = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
        let (local, remote, ports) = if packet.first()? >> 4 == 6 {
            if *packet.get(6)? != 6 {
                return None;
            }
            let addr = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
            (self.addresses.find_v6(addr(24)?)?, self.addresses.find_v6(addr(8)?)?, ipv6::HEADER)
        } else {
            if *packet.get(9)? != 6 {
                return None;
            }
            let ports = usize::from(packet[0] & 0xf) * 4;
            (Addr::from_v4(word(16)?.into())?, Addr::from_v4(word(12)?.into())?, ports)
        };
        let [a, b, c, d] = word(ports)?;
        Some(FlowKey {
            local,
            remote,
            local_port: u16::from_be_bytes([c, d]),
            remote_port: u16::from_be_bytes([a, b]),
        })
    }

    /// IPv6 questions become packets here; ARP's are sent by `send_questions`.
    fn ask_neighbors(&mut self) {
        for at in (0..self.neighbors.questions.len()).rev() {
            if let (IpAddr::V6(target), mac) = self.neighbors.questions[at] {
                self.neighbors.questions.swap_remove(at);
                if let Some(packet) = self.solicit_neighbor(target, mac) {
                    self.push_packet(packet);
                }
            }
        }
    }
}

/// Sends ARP replies, ICMP and raw packets, datagrams.
fn send_rest(
    link: &mut Link<'_>,
    arp_out: &mut VecDeque<([u8; 6], core::net::Ipv4Addr, core::net::Ipv4Addr, bool)>,
    (direct, packets): (&mut Direct, &mut VecDeque<Vec<u8>>),
    udp: &mut Udp,
) -> Result<(), Blocked> {
    while let Some(&(mac, to, from, request)) = arp_out.front() {
        link.send_arp(request, from, (mac, to))?;
        arp_out.pop_front();
    }
    while let Some((mac, packet)) = direct.front() {
        link.send_to(*mac, packet)?;
        direct.pop_front();
    }
    while let Some(packet) = packets.pop_front() {
        if let Err((Blocked::Full, packet)) = link.send_packet(packet) {
            packets.push_front(packet);
            return Err(Blocked::Full);
        }
    }
    while let Some((index, generation, packet)) = udp.out.pop_front() {
        let len = packet.len();
        if let Err((Blocked::Full, packet)) = link.send_packet(packet) {
            udp.out.push_front((index, generation, packet));
            return Err(Blocked::Full);
        }
        udp.left(index, generation, len + 256);
    }
    Ok(())
}

/// Asks for hardware addresses.
fn send_questions(link: &mut Link<'_>) -> Result<(), Blocked> {
    let mut at = 0;
    while let Some(&(target, mac)) = link.neighbors.questions.get(at) {
        // Those of IPv6 become packets in the next round.
        let IpAddr::V4(target) = target else {
            at += 1;
            continue;
        };
        if let Some(own) = link.routes.source_v4(target) {
            link.send_arp(true, own, (mac.unwrap_or([0; 6]), target))?;
        }
        link.neighbors.questions.swap_remove(at);
    }
    Ok(())
}
