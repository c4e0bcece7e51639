//! Several shards of one guest: what they share, what the home shard tells the others, how sockets are spread.
//!
//! A shard has its connections, their timers and buffers for itself. What there is once for all:
//!
//! * the table of ports, behind a leaf lock: asked when a connection comes or goes, not for its segments;
//! * addresses, routes, the link's parameters: the home shard's, of which the others have copies ([`Control`]);
//! * a listener: it has a *place* in each shard, with queues of its own that count together ([`Backlog`]).
//!
//! Each shard has a table of neighbours' hardware addresses and of the sizes of paths for itself: what comes in answer to
//! one's question is shown to all ([`Shard::take_inbox`]), so that no other asks again. What reaches a shard that is not its
//! flow's (fragments, put together by the home shard; segments that a raw socket sends over the loopback interface)
//! is passed on as a [`Stray`].
//!
//! Nothing here knows threads: the owner moves strays and copies, and has the locks.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use platform::sync::Lock;
use platform::time::Instant;
use smoltcp::wire::{EthernetFrame, EthernetProtocol};

use crate::config::{Config, FastOpen};
use crate::device::{Device, RxFrame};
use crate::engine::isn::Secrets;
use crate::engine::listen::Listening;
use crate::engine::tcb::{Backlog, Extra, Flags, Listener, NEVER, Options, Tcb};
use crate::error::{Error, Result};
use crate::ip::link::ETHERNET;
use crate::ip::ndp::{self, Message};
use crate::ip::neighbor::News;
use crate::ip::packet::{Packet, Parsed};
use crate::ip::route::Routes;
use crate::ip::{arp, icmp, icmp6, ipv4, ipv6};
use crate::ports::{Families, Ports};
use crate::ring::{Inbox, Record, RecordKind};
use crate::shard::Shard;
use crate::socket::tcp::TcpState;
use crate::socket::{Endpoint, Kind, SocketId};
use crate::steer::{HOME, Steering};

/// Strays that wait for their owner to move them.
const MAX_STRAYS: usize = 256;
/// Records of an inbox that are looked at together.
const BATCH: usize = 32;

/// A shard's part in its group.
pub(crate) struct Membership {
    pub(crate) steering: Steering,
    strays: VecDeque<Stray>,
    /// The home shard has raw sockets that want to see segments.
    pub(crate) copies: bool,
    /// Counts changes of what [`Control`] tells, besides the routes'.
    pub(crate) version: u64,
}

impl Membership {
    pub(crate) fn new(config: &Config) -> Membership {
        Membership {
            steering: Steering::new(&config.seed, usize::from(config.shards)),
            strays: VecDeque::new(),
            copies: false,
            version: 0,
        }
    }
}

/// Something for another shard.
#[derive(Debug)]
pub struct Stray {
    /// Which one.
    pub to: usize,
    /// What it is.
    pub kind: RecordKind,
    /// An IP packet.
    pub bytes: Vec<u8>,
}

/// What the home shard tells the others.
#[derive(Clone)]
pub struct Control {
    routes: Routes,
    fast_open: FastOpen,
    hop_limit: u8,
    link_mtu: Option<usize>,
    reachable_ms: u64,
    retry_ms: u64,
    copies: bool,
}

/// A socket on its way from one shard to another.
pub struct Detached {
    tcb: Box<Tcb>,
    local: IpAddr,
    old: SocketId,
}

/// A listener as its place in another shard needs to know it.
pub struct ListenerCopy {
    local: IpAddr,
    port: u16,
    families: Families,
    flags: Flags,
    options: Option<Options>,
    backlog: usize,
    shared: Arc<Backlog>,
    sizes: [u32; 4],
    ip: (u8, u8),
    congestion: crate::Algorithm,
}

impl Shard {
    /// The shards of one guest: number 0 is the home of all that is not a TCP connection.
    pub fn group(config: &Config, shards: usize) -> Vec<Shard> {
        let count = shards.clamp(1, 256);
        let secrets = Secrets::new(&config.seed);
        let ports = Arc::new(Lock::new(Ports::new(secrets.ports, config.ephemeral)));
        let member = |number: usize| {
            let mut config = Config { shards: count as u8, shard: number as u8, ..config.clone() };
            // Bounds are the guest's, not the shard's.
            config.limits.time_wait = config.limits.time_wait.div_ceil(count);
            config.limits.buffer_bytes = config.limits.buffer_bytes.div_ceil(count);
            Shard::of_group(config, ports.clone())
        };
        (0..count).map(member).collect()
    }

    /// Which shard of its guest this is.
    pub fn number(&self) -> usize {
        usize::from(self.config.shard)
    }

    #[inline]
    pub(crate) fn is_home(&self) -> bool {
        self.number() == HOME
    }

    /// The rule that spreads flows.
    pub fn steering(&self) -> Steering {
        self.group.steering
    }

    /// Counts changes of [`Self::control`].
    pub fn control_version(&self) -> u64 {
        self.routes.version + self.group.version
    }

    /// What the other shards are to know.
    pub fn control(&self) -> Control {
        Control {
            routes: self.routes.clone(),
            fast_open: self.config.fast_open,
            hop_limit: self.node.hop_limit,
            link_mtu: self.node.mtu,
            reachable_ms: self.neighbors.reachable_ms,
            retry_ms: self.neighbors.retry_ms,
            copies: self.raw.wants_tcp(),
        }
    }

    /// Takes what the home shard says.
    pub fn adopt(&mut self, control: &Control) {
        self.routes = control.routes.clone();
        self.config.fast_open = control.fast_open;
        (self.node.hop_limit, self.node.mtu) = (control.hop_limit, control.link_mtu);
        (self.neighbors.reachable_ms, self.neighbors.retry_ms) = (control.reachable_ms, control.retry_ms);
        self.group.copies = control.copies;
    }

    /// What the device's hardware address is now, for a shard that does not receive itself. [`Shard::poll`] does this, too.
    pub fn meet(&mut self, dev: &dyn Device) {
        self.take_mac(dev);
    }

    /// The next thing for another shard.
    pub fn next_stray(&mut self) -> Option<Stray> {
        self.group.strays.pop_front()
    }

    fn push_stray(&mut self, to: usize, kind: RecordKind, packet: &Packet<'_>) {
        if self.group.strays.len() < MAX_STRAYS {
            self.group.strays.push_back(Stray { to, kind, bytes: packet.bytes.to_vec() });
        }
    }

    /// A segment that another shard's connection or listener has to see.
    #[cold]
    pub(crate) fn hand_on(&mut self, to: usize, packet: &Packet<'_>, loopback: bool) {
        let kind = if loopback { RecordKind::Loopback } else { RecordKind::Packet };
        self.push_stray(to, kind, packet);
    }

    /// A copy for raw sockets.
    #[cold]
    pub(crate) fn copy_home(&mut self, packet: &Packet<'_>, loopback: bool) {
        let kind = if loopback { RecordKind::SeenLoopback } else { RecordKind::Seen };
        self.push_stray(HOME, kind, packet);
    }

    /// Takes everything from the inbox; how many records.
    pub fn take_inbox(&mut self, now: Instant, inbox: &mut Inbox) -> usize {
        let mut count = 0;
        while let Some(taken) = inbox.take::<BATCH>(|records| self.input_records(now, records)) {
            count += taken;
        }
        count
    }

    fn input_records(&mut self, now: Instant, records: &[Record<'_>]) {
        self.set_now(now);
        let mut frames = [RxFrame { bytes: &[], in_place: &[], checksum_ok: false }; BATCH];
        let mut count = 0;
        for record in records {
            let Record { kind: RecordKind::Frame, bytes, checksum_ok } = *record else {
                // In order with the frames around it.
                self.input_batch(&frames[..core::mem::take(&mut count)]);
                self.input_record(record);
                continue;
            };
            frames[count] = RxFrame { bytes, in_place: &[], checksum_ok };
            count += 1;
        }
        self.input_batch(&frames[..count]);
    }

    fn input_record(&mut self, record: &Record<'_>) {
        if record.kind == RecordKind::News {
            return self.hear(record.bytes);
        }
        let Some(packet) = Packet::parse(record.bytes) else { return };
        match record.kind {
            RecordKind::Packet => self.input_packet(&packet, record.checksum_ok, None, false, false),
            RecordKind::Loopback => self.input_packet(&packet, true, None, true, false),
            RecordKind::Seen | RecordKind::SeenLoopback => {
                let loopback = record.kind == RecordKind::SeenLoopback;
                self.raw.input(&packet, loopback, self.now.us);
            }
            RecordKind::Frame | RecordKind::News => {}
        }
    }

    /// A frame that the home shard answers: what it tells of neighbours and of paths.
    #[cold]
    fn hear(&mut self, frame: &[u8]) {
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return };
        match ethernet.ethertype() {
            EthernetProtocol::Arp => self.hear_arp(&frame[ETHERNET..]),
            EthernetProtocol::Ipv4 => {
                let Some(packet) = ipv4::parse(&frame[ETHERNET..], false) else { return };
                if packet.protocol == icmp::PROTOCOL
                    && icmp::verify(packet.payload)
                    && let Some(report) = icmp::read_error(packet.src, packet.payload)
                {
                    self.reported(&report, packet.payload);
                }
            }
            EthernetProtocol::Ipv6 => {
                let Parsed::Packet(packet) = ipv6::parse(&frame[ETHERNET..]) else { return };
                if packet.protocol != icmp6::PROTOCOL || !icmp6::verify(&packet) {
                    return;
                }
                match packet.payload.first() {
                    Some(&(ndp::ROUTER_SOLICIT..=ndp::REDIRECT)) => self.hear_ndp(&packet),
                    _ => {
                        if let Some(report) = icmp6::read_error(packet.src, packet.payload) {
                            self.reported(&report, packet.payload);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn hear_arp(&mut self, bytes: &[u8]) {
        let Some(arp) = arp::parse(bytes) else { return };
        if self.routes.is_local(arp.sender.into()) {
            return;
        }
        // As `input_arp` does: what one has found out, no other asks again.
        let for_us = self.routes.is_local(arp.target.into()) && !arp.target.is_loopback();
        let news = News { create: for_us, solicited: for_us && !arp.request, replace: true, router: None };
        let outcome = self.neighbors.learn(arp.sender.into(), Some(arp.mac), news, self.now.ms);
        self.resolved(outcome, None);
    }

    fn hear_ndp(&mut self, packet: &Packet<'_>) {
        let IpAddr::V6(src) = packet.src else { return };
        if packet.hop_limit != ndp::HOP_LIMIT {
            return;
        }
        let (addr, mac, news) = match ndp::parse(packet.payload) {
            Some(Message::NeighborAdvert { flags, target, options }) => {
                let router = Some(flags & ndp::ROUTER != 0);
                let (solicited, replace) = (flags & ndp::SOLICITED != 0, flags & ndp::OVERRIDE != 0);
                (target, options.target_link, News { create: solicited, solicited, replace, router })
            }
            Some(Message::NeighborSolicit { options, .. }) if options.source_link.is_some() => {
                (src, options.source_link, News { create: true, replace: true, ..News::default() })
            }
            Some(Message::RouterAdvert { options, .. }) if options.source_link.is_some() => {
                (src, options.source_link, News { replace: true, router: Some(true), ..News::default() })
            }
            _ => return,
        };
        if addr.is_multicast() || self.routes.is_local(addr.into()) {
            return;
        }
        let outcome = self.neighbors.learn(addr.into(), mac, news, self.now.ms);
        self.resolved(outcome, None);
    }

    /// The shard of the flow that a bound socket would open to `remote`; `None` if it may choose its port.
    pub fn tcp_belongs(&self, id: SocketId, remote: Endpoint) -> Option<usize> {
        let tcb = &self.tcp.sockets[self.tcp_index(id).ok()?];
        if !tcb.has(Flags::BOUND) {
            return None;
        }
        let to = remote.destination();
        let from = match tcb.key.local {
            addr if !addr.is_unspecified() => self.addresses.get(addr),
            _ => self.routes.source_for(to, self.now.ms)?,
        };
        Some(self.group.steering.flow((from, tcb.key.local_port), (to, remote.port)))
    }

    /// Takes a socket that has no connection out of this shard, with its options and its port.
    pub fn tcp_detach(&mut self, id: SocketId) -> Result<Detached> {
        let index = self.tcp_index(id)?;
        let tcb = &mut self.tcp.sockets[index];
        if tcb.state != TcpState::Closed || tcb.has(Flags::IN_TABLE | Flags::PORT_CHILD) {
            return Err(Error::Connected);
        }
        tcb.clear_buffers(&mut self.tcp.pool);
        let local = self.addresses.get(tcb.key.local);
        let generation = tcb.generation.wrapping_add(1) & 0x3fff_ffff;
        let mut tcb = core::mem::replace(tcb, Tcb { generation, ..Tcb::default() });
        self.tcp.sockets.release(index);
        tcb.flags -= Flags::DIRTY | Flags::EVENTED;
        (tcb.timer_at, tcb.filed_at) = ([NEVER; 3], NEVER);
        Ok(Detached { tcb: Box::new(tcb), local, old: id })
    }

    /// Gives it a place here, and a new name.
    pub fn tcp_attach(&mut self, detached: Detached) -> SocketId {
        let Detached { tcb, local, old } = detached;
        let index = self.tcp.sockets.take();
        let generation = self.tcp.sockets[index].generation;
        let mut tcb = Tcb { generation, ..*tcb };
        // Was interned in another shard's table, so it can be in ours; if that is full it is as unbound as an
        // address that went.
        tcb.key.local = self.addresses.intern(local).unwrap_or(crate::ip::addr::Addr::UNSPECIFIED);
        let id = SocketId::new(Kind::Tcp, index, generation).on(self.config.shard);
        if tcb.has(Flags::BOUND) {
            self.tcp.ports.lock().rename(tcb.key.local_port, old, id);
        }
        self.tcp.sockets[index] = tcb;
        id
    }

    /// Lets a listener's queues count together with those of its places in other shards; what those need to know.
    pub fn tcp_share_listener(&mut self, id: SocketId) -> Result<(ListenerCopy, Arc<Backlog>)> {
        let index = self.tcp_index(id)?;
        let (shards, shard) = (self.group.steering.shards(), self.config.shard);
        let tcb = &mut self.tcp.sockets[index];
        let (key, flags) = (tcb.key, tcb.flags);
        let listener = tcb.listener.as_deref_mut().ok_or(Error::Invalid)?;
        let shared = listener.shared.get_or_insert_with(|| (Arc::new(Backlog::new(shards)), shard)).0.clone();
        listener.note();
        let backlog = listener.backlog;
        let places = self.tcp.listeners.get(&key.local_port).map_or(&[][..], Vec::as_slice);
        let own = places.iter().find(|place| place.socket == index).ok_or(Error::Invalid)?;
        let copy = ListenerCopy {
            local: self.addresses.get(key.local),
            port: key.local_port,
            families: own.families,
            flags,
            options: tcb.extra.as_ref().map(|extra| extra.options),
            backlog,
            shared: shared.clone(),
            sizes: [tcb.sndbuf, tcb.rcvbuf, tcb.low_at, tcb.not_sent_low_at],
            ip: (tcb.hop_limit, tcb.traffic_class),
            congestion: tcb.congestion.algorithm,
        };
        Ok((copy, shared))
    }

    /// A place of a listener of another shard. SYNs that come here find it; it owns no port.
    pub fn tcp_place_listener(&mut self, copy: &ListenerCopy) -> Result<SocketId> {
        let id = self.tcp_open()?;
        let index = self.tcp_index(id)?;
        let addr = self.addresses.intern(copy.local).ok_or(Error::AddressUnavailable)?;
        let tcb = &mut self.tcp.sockets[index];
        let not_ours = Flags::BOUND | Flags::DIRTY | Flags::EVENTED | Flags::IN_TABLE | Flags::PORT_CHILD;
        tcb.flags = copy.flags - not_ours;
        (tcb.key.local, tcb.key.local_port) = (addr, copy.port);
        tcb.extra = copy.options.map(|options| Box::new(Extra { options, ..Extra::default() }));
        [tcb.sndbuf, tcb.rcvbuf, tcb.low_at, tcb.not_sent_low_at] = copy.sizes;
        (tcb.hop_limit, tcb.traffic_class) = copy.ip;
        tcb.congestion.algorithm = copy.congestion;
        tcb.state = TcpState::Listen;
        tcb.listener = Some(Box::new(Listener {
            backlog: copy.backlog,
            shared: Some((copy.shared.clone(), self.config.shard)),
            is_replica: true,
            ..Listener::default()
        }));
        self.tcp.start_listening(copy.port, Listening { socket: index, addr, families: copy.families });
        Ok(id)
    }
}
