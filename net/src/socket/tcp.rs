//! TCP sockets: what a program can do with one.

use alloc::boxed::Box;
use core::net::IpAddr;

use platform::time::Instant;

use super::{Bind, Endpoint, Kind, SocketId};
use crate::config::FastOpen;
use crate::engine::LocalFacts;
use crate::engine::congestion::{Algorithm, Congestion};
use crate::engine::demux::FlowKey;
use crate::engine::fast_open::{Cookie, EarlyFailure, Known};
use crate::engine::listen::Listening;
use crate::engine::receive::Act;
use crate::engine::receive::DELAYED_ACK_MS;
use crate::engine::segment::{Control, Header};
use crate::engine::seq::Seq;
use crate::engine::tcb::{Extra, Flags, Listener, T_ACK, T_KEEP, Tcb, Waiting, ago};
use crate::error::{Error, Result};
use crate::ip::report::Unreachable;
use crate::ports::{Families, Owner};
use crate::shard::{Ready, Refusal, Shard};

bitflags::bitflags! {
    /// How to send or receive.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TcpFlags: u8 {
        /// Receive: leave the data in the queue (MSG_PEEK).
        const PEEK = 1;
        /// Send: more will follow at once, hold back a partial segment (MSG_MORE).
        const MORE = 2;
        /// Send: the last byte is urgent (MSG_OOB).
        const URGENT = 4;
    }
}

/// Which direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// No more reading: `recv` says end of data once the queue is empty (as on Linux, what is queued or
    /// arrives later can still be read).
    Read,
    /// No more writing: FIN after what is queued.
    Write,
    /// Both.
    Both,
}

/// State of a connection (RFC 9293 section 3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the RFC's names
#[repr(u8)]
pub enum TcpState {
    Closed,
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// One option to set. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption {
    /// TCP_NODELAY: do not hold back small segments (Nagle, RFC 1122 section 4.2.3.4). Setting it sends.
    NoDelay(bool),
    /// TCP_CORK: send only full segments, 200 ms at most. Clearing it sends.
    Cork(bool),
    /// SO_KEEPALIVE.
    KeepAlive(bool),
    /// TCP_KEEPIDLE.
    KeepIdle(u32),
    /// TCP_KEEPINTVL.
    KeepInterval(u32),
    /// TCP_KEEPCNT.
    KeepCount(u8),
    /// TCP_USER_TIMEOUT; 0 for the default.
    UserTimeout(u32),
    /// SO_LINGER as far as the engine is concerned: `Some(0)` makes `close` reset. Waiting is the owner's.
    Linger(Option<u32>),
    /// SO_SNDBUF: fixes the size and ends automatic growth.
    SendBuffer(usize),
    /// SO_RCVBUF: fixes the size and ends automatic growth.
    ReceiveBuffer(usize),
    /// TCP_MAXSEG.
    MaxSegment(u16),
    /// TCP_QUICKACK: acknowledge at once, until the connection turns interactive again.
    QuickAck(bool),
    /// SO_RCVLOWAT: readable only with so many bytes.
    ReceiveLowAt(u32),
    /// TCP_DEFER_ACCEPT: hand out a connection only when data came, or after so long; 0 for off.
    DeferAccept(u32),
    /// TCP_SYNCNT: retransmissions of a SYN.
    SynCount(u8),
    /// TCP_LINGER2: how long an orphan stays in FIN-WAIT-2.
    Linger2(u32),
    /// TCP_CONGESTION.
    Congestion(Algorithm),
    /// TCP_NOTSENT_LOWAT: writable only while fewer unsent bytes are queued; `u32::MAX` for off.
    NotSentLowAt(u32),
    /// TCP_WINDOW_CLAMP: most that is advertised; 0 for no bound.
    WindowClamp(u32),
    /// SO_OOBINLINE: an urgent byte stays in the stream.
    UrgentInline(bool),
    /// SO_MAX_PACING_RATE: bytes in a second; `u64::MAX` for no bound.
    PacingRate(u64),
    /// TCP_FASTOPEN: connections that a listener hands out before their handshakes are over; 0 for none.
    FastOpen(u32),
    /// TCP_FASTOPEN_NO_COOKIE: data goes in the SYN without a cookie.
    NoCookie(bool),
    /// IP_TTL.
    HopLimit(u8),
    /// IP_TOS.
    TrafficClass(u8),
}

/// The options as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in TcpOption
pub struct TcpOptions {
    pub no_delay: bool,
    pub cork: bool,
    pub keep_alive: bool,
    pub keep_idle: u32,
    pub keep_interval: u32,
    pub keep_count: u8,
    pub user_timeout: u32,
    pub linger: Option<u32>,
    pub send_buffer: usize,
    pub receive_buffer: usize,
    pub max_segment: u16,
    pub quick_ack: bool,
    pub receive_low_at: u32,
    pub defer_accept: u32,
    pub syn_count: u8,
    pub linger2: u32,
    pub congestion: Algorithm,
    pub not_sent_low_at: u32,
    pub window_clamp: u32,
    pub urgent_inline: bool,
    pub pacing_rate: u64,
    pub fast_open: u32,
    pub no_cookie: bool,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

/// The state of a connection in numbers (TCP_INFO, SIOCINQ, SIOCOUTQ).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Its state.
    pub state: TcpState,
    /// Unacknowledged retransmissions in a row.
    pub retransmits: u8,
    /// Unanswered probes (keep-alive, zero window).
    pub probes: u8,
    /// Timestamps are in use (RFC 7323).
    pub timestamps: bool,
    /// Selective acknowledgements are permitted (RFC 2018).
    pub sack: bool,
    /// Window shift of the peer's advertisements and of ours, if scaling is in use.
    pub window_scale: Option<(u8, u8)>,
    /// Retransmission timeout, microseconds.
    pub rto_us: u32,
    /// Smoothed round trip and its variation, microseconds; 0 before the first sample.
    pub rtt_us: u32,
    /// Variation of the round trip.
    pub rtt_var_us: u32,
    /// Largest payload that we send in a segment.
    pub send_mss: u16,
    /// Largest payload seen in a segment from the peer.
    pub receive_mss: u16,
    /// Congestion window, bytes.
    pub cwnd: u32,
    /// Slow start threshold, bytes.
    pub ssthresh: u32,
    /// Bytes sent and not acknowledged.
    pub in_flight: u32,
    /// Bytes queued and not yet sent.
    pub not_sent: u32,
    /// Bytes to read.
    pub receive_queue: u32,
    /// The peer's window.
    pub send_window: u32,
    /// The window that we advertise.
    pub receive_window: u32,
    /// Path MTU.
    pub path_mtu: u16,
    /// Segments retransmitted since the start.
    pub total_retransmits: u32,
    /// Where the sender stands.
    pub congestion_state: CongestionState,
    /// Bytes selectively acknowledged, lost and not sent again.
    pub sacked: u32,
    /// Bytes lost and not sent again.
    pub lost: u32,
    /// Bytes sent again and not acknowledged.
    pub repeated: u32,
    /// The delay of acknowledgements, microseconds.
    pub ack_timeout_us: u32,
    /// Milliseconds since data was sent, data came, anything came.
    pub last_data_sent_ms: u32,
    /// Milliseconds since data came.
    pub last_data_received_ms: u32,
    /// Milliseconds since anything came.
    pub last_ack_received_ms: u32,
    /// The MSS that we announce.
    pub advertised_mss: u16,
    /// The receiver's estimate of the round trip, microseconds; 0 before the first.
    pub receive_rtt_us: u32,
    /// What the reader took in the last round trip.
    pub receive_space: u32,
    /// The shortest round trip lately, microseconds; 0 before the first.
    pub min_rtt_us: u32,
    /// Segments that came and went, with data too.
    pub segments_in: u32,
    /// Segments sent.
    pub segments_out: u32,
    /// Segments with data that came.
    pub data_segments_in: u32,
    /// Segments with data that were sent.
    pub data_segments_out: u32,
    /// Segments with data that arrived at the peer, and acknowledgements that told of congestion.
    pub delivered: u32,
    /// Acknowledgements that told of congestion.
    pub delivered_marked: u32,
    /// Payload bytes sent, repetitions included.
    pub bytes_sent: u64,
    /// Payload bytes sent again.
    pub bytes_retransmitted: u64,
    /// Reports of duplicates (RFC 2883), reordering seen, segments that came out of order.
    pub duplicate_reports: u32,
    /// Times that reordering was seen.
    pub reordering_seen: u32,
    /// Segments that came out of order.
    pub out_of_order: u32,
    /// Bytes in a second: as measured over the last window, and the bounds of pacing.
    pub delivery_rate: u64,
    /// What pacing allows now; `u64::MAX` if it does not bound.
    pub pacing_rate: u64,
    /// What the owner allows.
    pub max_pacing_rate: u64,
    /// Explicit congestion notification was agreed on.
    pub ecn: bool,
    /// Data in a SYN was taken, by the peer or by us (RFC 7413), and why ours was not.
    pub syn_data: bool,
    /// What went wrong with data in our SYN.
    pub early_failure: EarlyFailure,
    /// Payload bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
}

/// Where the sender stands, as Linux tells it (tcpi_ca_state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Linux's names
#[repr(u8)]
pub enum CongestionState {
    Open,
    Disorder,
    Reduced,
    Recovery,
    Loss,
}

impl Shard {
    /// Makes a TCP socket.
    pub fn tcp_open(&mut self) -> Result<SocketId> {
        if self.tcp.sockets.len() >= self.config.limits.tcp_sockets {
            return Err(Error::NoBuffers);
        }
        let index = self.tcp.sockets.take();
        let limits = &self.config.limits;
        let (sndbuf, rcvbuf) = (limits.sndbuf.0 as u32, limits.rcvbuf.0 as u32);
        let tcb = &mut self.tcp.sockets[index];
        (tcb.sndbuf, tcb.rcvbuf) = (sndbuf, rcvbuf);
        tcb.congestion.algorithm = self.config.congestion;
        Ok(SocketId::new(Kind::Tcp, index, tcb.generation).on(self.config.shard))
    }

    /// Claims a local endpoint. Port 0: a free one is chosen ([`Shard::local`] tells which).
    pub fn tcp_bind(&mut self, id: SocketId, local: Endpoint, bind: Bind) -> Result<()> {
        let index = self.tcp_index(id)?;
        let tcb = &self.tcp.sockets[index];
        if tcb.state != TcpState::Closed || tcb.has(Flags::BOUND | Flags::WAS_ESTABLISHED) {
            return Err(Error::Invalid);
        }
        self.check_local(local.real(), bind)?;
        let addr = self.addresses.intern(local.real()).ok_or(Error::AddressUnavailable)?;
        let owner = Owner {
            socket: id,
            addr: local.real(),
            families: Families::of(local.addr, bind.v6_only),
            reuse_addr: bind.reuse_addr,
            reuse_port: bind.reuse_port,
            listening: false,
        };
        let mut ports = self.tcp.ports.lock();
        let port = match local.port {
            0 => ports.ephemeral(&owner).ok_or(Error::AddressInUse)?,
            port if ports.is_free(port, &owner) => port,
            _ => return Err(Error::AddressInUse),
        };
        ports.bind(port, owner);
        drop(ports);
        let tcb = &mut self.tcp.sockets[index];
        (tcb.key.local, tcb.key.local_port) = (addr, port);
        tcb.flags |= Flags::BOUND;
        tcb.flags.set(Flags::REUSE_ADDR, bind.reuse_addr);
        tcb.flags.set(Flags::REUSE_PORT, bind.reuse_port);
        tcb.flags.set(Flags::TRANSPARENT, bind.transparent);
        Ok(())
    }

    /// The address may be bound: it is ours, or means all of them, or foreign ones are allowed.
    pub(crate) fn check_local(&self, addr: IpAddr, bind: Bind) -> Result<()> {
        let foreign = bind.free || bind.transparent && self.config.any_ip;
        if addr.is_unspecified() || self.routes.is_local(addr) || foreign {
            return Ok(());
        }
        Err(Error::AddressUnavailable)
    }

    /// Becomes a listener, or changes the backlog of one. Unbound sockets get an ephemeral port.
    pub fn tcp_listen(&mut self, id: SocketId, backlog: usize) -> Result<()> {
        let index = self.tcp_index(id)?;
        if let Some(listener) = &mut self.tcp.sockets[index].listener {
            listener.backlog = backlog;
            return Ok(());
        }
        let tcb = &self.tcp.sockets[index];
        if tcb.state != TcpState::Closed || tcb.has(Flags::WAS_ESTABLISHED) {
            return Err(Error::Invalid);
        }
        if !tcb.has(Flags::BOUND) {
            self.tcp_bind(id, Endpoint::UNSPECIFIED, Bind::default())?;
        }
        let key = self.tcp.sockets[index].key;
        let Some(families) = self.tcp.ports.lock().listen(key.local_port, id) else {
            return Err(Error::AddressInUse);
        };
        self.tcp.start_listening(key.local_port, Listening { socket: index, addr: key.local, families });
        let tcb = &mut self.tcp.sockets[index];
        tcb.state = TcpState::Listen;
        tcb.listener = Some(alloc::boxed::Box::new(Listener { backlog, ..Listener::default() }));
        Ok(())
    }

    /// Begins the handshake. `Err(InProgress)` is the ordinary outcome: an event with `WRITABLE` or `ERROR`
    /// follows. The source is what `tcp_bind` claimed (with [`Bind::transparent`] any address), else ours.
    pub fn tcp_connect(&mut self, id: SocketId, remote: Endpoint, now: Instant) -> Result<()> {
        self.set_now(now);
        let index = self.tcp_index(id)?;
        let tcb = &self.tcp.sockets[index];
        match tcb.state {
            TcpState::Closed => {}
            TcpState::Listen => return Err(Error::Connected),
            TcpState::SynSent | TcpState::SynReceived => return Err(Error::Already),
            _ => return Err(Error::Connected),
        }
        if let Some(error) = self.tcp.sockets[index].error.take() {
            return Err(error);
        }
        let key = self.flow_to(index, remote)?;
        let least_isn = self.replace_time_wait(&key)?;
        let local = self.local_facts(&key);
        // A socket that failed before begins anew, with its options.
        let mut tcb = core::mem::take(&mut self.tcp.sockets[index]);
        tcb.clear_buffers(&mut self.tcp.pool);
        let kept = Flags::BOUND
            | Flags::NO_DELAY
            | Flags::CORK
            | Flags::KEEP_ALIVE
            | Flags::FIXED_SNDBUF
            | Flags::FIXED_RCVBUF
            | Flags::REUSE_ADDR
            | Flags::REUSE_PORT
            | Flags::TRANSPARENT
            | Flags::OOB_INLINE
            | Flags::BOUNDED
            | Flags::EVENTED
            | Flags::DIRTY;
        let mut fresh = Tcb {
            generation: tcb.generation,
            flags: (tcb.flags & kept) | Flags::ACTIVE | Flags::SEND_SYN,
            cookie: tcb.cookie,
            extra: tcb
                .extra
                .take()
                .map(|extra| Box::new(Extra { options: extra.options, ..Extra::default() })),
            low_at: tcb.low_at,
            not_sent_low_at: tcb.not_sent_low_at,
            sndbuf: tcb.sndbuf,
            rcvbuf: tcb.rcvbuf,
            hop_limit: tcb.hop_limit,
            traffic_class: tcb.traffic_class,
            congestion: Congestion::new(tcb.congestion.algorithm),
            ..Tcb::default()
        };
        let now = self.now;
        self.tcp.set_flow(&mut fresh, key, least_isn, now, local);
        fresh.state = TcpState::SynSent;
        fresh.flags.set(Flags::ASK_ECN, self.config.ecn == crate::config::Ecn::Ask);
        self.tcp.sockets[index] = fresh;
        self.tcp.enter_table(index);
        self.tcp.mark_dirty(index);
        self.tcp.file_timer(index);
        self.tcp.pool.counters.active_opens += 1;
        Err(Error::InProgress)
    }

    /// As [`Self::tcp_connect`], with data in the SYN if the server is known to take them (RFC 7413); `fill` writes
    /// them, `max` bytes at most. Tells how many bytes go with the SYN: they are sent again should
    /// the server not take them. `NotSupported`: clients may not ([`crate::FastOpen::CLIENT`]).
    pub fn tcp_connect_early(
        &mut self,
        id: SocketId,
        remote: Endpoint,
        now: Instant,
        max: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<usize> {
        if !self.config.fast_open.contains(FastOpen::CLIENT) {
            return Err(Error::NotSupported);
        }
        match self.tcp_connect(id, remote, now) {
            Ok(()) | Err(Error::InProgress) => {}
            Err(other) => return Err(other),
        }
        let index = self.tcp_index(id)?;
        let Some((known, cookie)) = self.early_means(index) else { return Ok(0) };
        let tcb = &mut self.tcp.sockets[index];
        tcb.extra_mut().fast_open = cookie;
        if cookie.is_some_and(|cookie| cookie.is_request()) {
            return Ok(0);
        }
        let (room, mut count) = (max.min(tcb.early_room(&known)), 0);
        while count < room {
            let mut asked = 0;
            let mut watched = |piece: &mut [u8]| {
                asked = piece.len();
                fill(piece).min(asked)
            };
            let filled = tcb.tx.fill_tail(&mut self.tcp.pool, room - count, &mut watched);
            count += filled.unwrap_or(0);
            if filled.is_none_or(|filled| filled < asked) {
                break;
            }
        }
        tcb.flags.set(Flags::FAST_OPEN, count > 0);
        Ok(count)
    }

    /// Data could go in a SYN to `remote`, without asking for a cookie first.
    pub fn tcp_early_possible(&self, id: SocketId, remote: Endpoint) -> bool {
        let Ok(index) = self.tcp_index(id) else { return false };
        let tcb = &self.tcp.sockets[index];
        let to = remote.destination();
        let from = match tcb.key.local {
            addr if !addr.is_unspecified() => Some(addr),
            _ => self.routes.source_for(to, self.now.ms).and_then(|source| self.addresses.find(source)),
        };
        let (Some(local), Some(remote)) = (from, self.addresses.find(to)) else { return false };
        let known = self.tcp.peers.get(local, remote, self.now.ms);
        let free = tcb.options().no_cookie || self.config.fast_open.contains(FastOpen::CLIENT_WITHOUT_COOKIE);
        self.config.fast_open.contains(FastOpen::CLIENT)
            && known.is_some_and(|known| free || !known.cookie.is_request())
    }

    /// What the SYN of connection `index` says: a cookie, the request for one, or nothing and yet data. `None`: it
    /// should be an ordinary one.
    fn early_means(&self, index: u32) -> Option<(Known, Option<Cookie>)> {
        let tcb = &self.tcp.sockets[index];
        let known = self.tcp.peers.get(tcb.key.local, tcb.key.remote, self.now.ms)?;
        let free = tcb.options().no_cookie || self.config.fast_open.contains(FastOpen::CLIENT_WITHOUT_COOKIE);
        let cookie = Some(known.cookie).filter(|cookie| !(free && cookie.is_request()));
        Some((known, cookie))
    }

    /// Where data may go in a SYN from now on.
    pub fn set_fast_open(&mut self, fast_open: FastOpen) {
        self.config.fast_open = fast_open;
        self.group.version += 1;
    }

    /// Where data may go in a SYN.
    pub fn fast_open(&self) -> FastOpen {
        self.config.fast_open
    }

    /// The four-tuple for a connection to `remote`: source address by route, port by RFC 6056.
    fn flow_to(&mut self, index: u32, remote: Endpoint) -> Result<FlowKey> {
        let to = remote.destination();
        if remote.port == 0 {
            return Err(Error::Refused);
        }
        if self.routes.is_broadcast(to) || to.is_multicast() || self.routes.route(to).is_none() {
            return Err(Error::NetworkUnreachable);
        }
        let tcb = &self.tcp.sockets[index];
        let (bound, reuse) = (tcb.has(Flags::BOUND), tcb.has(Flags::REUSE_ADDR));
        let _ = reuse;
        let local = match tcb.key.local {
            addr if bound && !addr.is_unspecified() => addr,
            _ => {
                let source = self.routes.source_for(to, self.now.ms).ok_or(Error::NetworkUnreachable)?;
                self.addresses.intern(source).ok_or(Error::AddressUnavailable)?
            }
        };
        let remote_addr = self.addresses.intern(to).ok_or(Error::NetworkUnreachable)?;
        if remote_addr.is_v6() != local.is_v6() {
            // Bound to an address of the other family.
            return Err(Error::NetworkUnreachable);
        }
        let mut key =
            FlowKey { local, remote: remote_addr, local_port: tcb.key.local_port, remote_port: remote.port };
        if bound {
            return if self.tcp.find(&key).is_none() { Ok(key) } else { Err(Error::AddressUnavailable) };
        }
        key.local_port = 0;
        let [_, ports] = key.words();
        let flow = self.addresses.pair(key.local, key.remote) ^ ports.rotate_left(48);
        let crate::engine::Tcp { ports, flows, sockets, time_wait, .. } = &mut self.tcp;
        let (now_ms, steering, own) = (self.now.ms, &self.group.steering, usize::from(self.config.shard));
        let (source, to_end) = (self.addresses.get(key.local), (to, remote.port));
        key.local_port = ports
            .lock()
            .for_flow(flow, |port| {
                // The answers must come to this very shard.
                if steering.shards() > 1 && steering.flow((source, port), to_end) != own {
                    return false;
                }
                let key = FlowKey { local_port: port, ..key };
                let used = flows.find(flows.hash(&key), |i| sockets[i].key == key).is_some();
                !used && time_wait.find(&key).is_none_or(|i| reusable(time_wait, i, now_ms))
            })
            .ok_or(Error::AddressUnavailable)?;
        Ok(key)
    }

    /// A four-tuple in TIME-WAIT may be used again by us if timestamps tell old segments from new ones (RFC
    /// 6191; Linux's tcp_tw_reuse).
    fn replace_time_wait(&mut self, key: &FlowKey) -> Result<Option<Seq>> {
        let Some(record) = self.tcp.time_wait.find(key) else { return Ok(None) };
        if !reusable(&mut self.tcp.time_wait, record, self.now.ms) {
            return Err(Error::AddressUnavailable);
        }
        let least = self.tcp.time_wait.record(record).snd_nxt + 65_537;
        self.tcp.end_time_wait(record);
        Ok(Some(least))
    }

    /// What a new connection needs to know of its addresses.
    pub(crate) fn local_facts(&self, key: &FlowKey) -> LocalFacts {
        let remote = self.addresses.get(key.remote);
        let loopback = self.routes.is_local(remote);
        let mtu = if loopback { crate::device::loopback::MTU } else { self.path_mtus.get(remote, self.mtu) };
        let pair = self.addresses.pair(key.local, key.remote);
        LocalFacts { mtu: mtu.min(65_535) as u16, pair, loopback, elsewhere: false }
    }

    /// Takes an established connection from a listener's queue. The new socket inherits the options; its
    /// cookie is 0 until the owner sets one, and it may already be readable: ask [`Shard::ready`].
    pub fn tcp_accept(&mut self, id: SocketId) -> Result<(SocketId, Endpoint)> {
        let index = self.tcp_index(id)?;
        let Some(listener) = &mut self.tcp.sockets[index].listener else { return Err(Error::Invalid) };
        let child = listener.ready.pop_front();
        listener.note();
        let child = child.ok_or(Error::WouldBlock)?.child;
        let tcb = &mut self.tcp.sockets[child];
        tcb.flags -= Flags::CHILD | Flags::MORE;
        if !tcb.has(Flags::FAST_OPEN) {
            tcb.parent = crate::engine::NO_PARENT;
        }
        tcb.news = Ready::empty();
        tcb.start_keep_alive(self.now.ms);
        let peer = Endpoint::new(self.addresses.get(tcb.key.remote), tcb.key.remote_port);
        let id = SocketId::new(Kind::Tcp, child, tcb.generation).on(self.config.shard);
        self.tcp.file_timer(child);
        Ok((id, peer))
    }

    /// Admits an [`crate::Incoming`]: the SYN is answered now. An event with `WRITABLE` follows when the
    /// handshake is complete.
    pub fn tcp_admit(&mut self, id: SocketId, cookie: u64) -> Result<()> {
        let index = self.held_index(id)?;
        self.tcp.held -= 1;
        let tcb = &mut self.tcp.sockets[index];
        tcb.flags -= Flags::HELD | Flags::CHILD;
        tcb.flags |= Flags::SEND_SYN;
        tcb.cookie = cookie;
        tcb.disarm(T_KEEP);
        self.tcp.mark_dirty(index);
        Ok(())
    }

    /// Turns an [`crate::Incoming`] down.
    pub fn tcp_refuse(&mut self, id: SocketId, why: Refusal) {
        let Ok(index) = self.held_index(id) else { return };
        let tcb = &self.tcp.sockets[index];
        let (key, rcv_nxt) = (tcb.key, tcb.rcv_nxt);
        match why {
            Refusal::Reset => self.tcp.replies.reset(&key, Seq(0), Some(rcv_nxt)),
            Refusal::NetworkUnreachable => self.refuse_by_icmp(&key, rcv_nxt, Unreachable::Network),
            Refusal::HostUnreachable => self.refuse_by_icmp(&key, rcv_nxt, Unreachable::Host),
            Refusal::Prohibited => self.refuse_by_icmp(&key, rcv_nxt, Unreachable::Prohibited),
            Refusal::Silence => {}
        }
        self.tcp.free(index);
    }

    /// ICMP with the head of the SYN as its receiver needs it: addresses, ports, sequence number.
    fn refuse_by_icmp(&mut self, key: &FlowKey, rcv_nxt: Seq, why: Unreachable) {
        let back = FlowKey {
            local: key.remote,
            remote: key.local,
            local_port: key.remote_port,
            remote_port: key.local_port,
        };
        let header = Header::new(back, rcv_nxt - 1, Seq(0), Control::SYN);
        let mut syn = alloc::vec![0; header.packet_len(0)];
        header.write(&mut syn, true, &self.addresses, |_| ());
        if let Some(packet) = crate::ip::packet::Packet::parse(&syn) {
            self.send_unreachable(&packet, why);
        }
    }

    fn held_index(&self, id: SocketId) -> Result<u32> {
        let tcb = self.tcp.sockets.get(id.index()).ok_or(Error::BadSocket)?;
        let valid = tcb.generation == id.generation() && tcb.has(Flags::HELD);
        if valid { Ok(id.index()) } else { Err(Error::BadSocket) }
    }

    /// The slot of a socket that its owner may use.
    pub(crate) fn tcp_index(&self, id: SocketId) -> Result<u32> {
        if id.kind() != Kind::Tcp {
            return Err(Error::NotSupported);
        }
        let tcb = self.tcp.sockets.get(id.index()).ok_or(Error::BadSocket)?;
        let foreign = tcb.generation != id.generation()
            || id.shard() != usize::from(self.config.shard)
            || tcb.has(Flags::ORPHAN | Flags::CHILD);
        if foreign { Err(Error::BadSocket) } else { Ok(id.index()) }
    }

    /// Queues bytes; returns how many were taken (at least one, unless `data` is empty).
    pub fn tcp_send(&mut self, id: SocketId, data: &[u8], flags: TcpFlags) -> Result<usize> {
        let (index, room) = self.room_to_send(id)?;
        let data = &data[..data.len().min(room)];
        let count = self.tcp.sockets[index].tx.push(&mut self.tcp.pool, data);
        self.sent(index, count, data.len(), flags)
    }

    /// As [`Self::tcp_send`] from several pieces: what fits.
    pub fn tcp_send_vectored<'a>(
        &mut self,
        id: SocketId,
        pieces: impl Iterator<Item = &'a [u8]>,
        flags: TcpFlags,
    ) -> Result<usize> {
        let (index, room) = self.room_to_send(id)?;
        let (mut count, mut wanted) = (0, 0);
        for piece in pieces {
            let piece = &piece[..piece.len().min(room - wanted)];
            wanted += piece.len();
            count += self.tcp.sockets[index].tx.push(&mut self.tcp.pool, piece);
            if wanted == room || count < wanted {
                break;
            }
        }
        self.sent(index, count, wanted, flags)
    }

    /// Lets `fill` write into the send queue in place, piece by piece (file to socket without a copy
    /// between), `max` bytes at most. `fill` returns how many bytes of the piece it wrote; fewer than all
    /// ends it.
    pub fn tcp_send_with(
        &mut self,
        id: SocketId,
        max: usize,
        flags: TcpFlags,
        fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<usize> {
        let (index, room) = self.room_to_send(id)?;
        let max = max.min(room);
        let (mut count, mut starved) = (0, false);
        while count < max {
            let mut asked = 0;
            let mut watched = |piece: &mut [u8]| {
                asked = piece.len();
                fill(piece).min(asked)
            };
            let filled = self.tcp.sockets[index].tx.fill_tail(&mut self.tcp.pool, max - count, &mut watched);
            starved = filled.is_none();
            count += filled.unwrap_or(0);
            if filled.is_none_or(|filled| filled < asked) {
                break;
            }
        }
        self.sent(index, count, count + usize::from(starved), flags)
    }

    /// The slot, and how many bytes it takes now.
    #[inline]
    fn room_to_send(&mut self, id: SocketId) -> Result<(u32, usize)> {
        // Who sends without having received finds the connection cold: fetch its lines all at once.
        core::hint::black_box(self.tcp.sockets.get(id.index()).map_or(0, Tcb::touch));
        let index = self.tcp_index(id)?;
        let tcb = &mut self.tcp.sockets[index];
        if !tcb.can_send() {
            return Err(match tcb.state {
                _ if tcb.error.is_some() => tcb.error.take().unwrap_or(Error::Closed),
                TcpState::SynSent | TcpState::SynReceived if !tcb.has(Flags::FIN_QUEUED) => {
                    tcb.flags |= Flags::WANTS_ROOM;
                    Error::WouldBlock
                }
                TcpState::Closed | TcpState::Listen if !tcb.has(Flags::WAS_ESTABLISHED) => {
                    Error::NotConnected
                }
                _ => Error::Closed,
            });
        }
        let room = tcb.send_limit(&self.config.limits).saturating_sub(tcb.tx.len());
        if room == 0 {
            tcb.flags |= Flags::WANTS_ROOM;
            return Err(Error::WouldBlock);
        }
        Ok((index, room as usize))
    }

    #[inline]
    fn sent(&mut self, index: u32, count: usize, wanted: usize, flags: TcpFlags) -> Result<usize> {
        let tcb = &mut self.tcp.sockets[index];
        tcb.flags.set(Flags::MORE, flags.contains(TcpFlags::MORE));
        if flags.contains(TcpFlags::URGENT) && count == wanted && count > 0 {
            let end = tcb.snd_una + tcb.tx.len();
            tcb.extra_mut().urgent_end = end;
            tcb.flags |= Flags::SENDING_URGENT;
        }
        if !tcb.has_room(&self.config.limits) || count < wanted {
            tcb.flags |= Flags::WANTS_ROOM;
        }
        if count == 0 && wanted > 0 {
            // The shard's buffers are used up.
            return Err(Error::WouldBlock);
        }
        if tcb.stays_corked(self.now) {
            self.tcp.file_timer(index);
        } else {
            self.tcp.mark_dirty(index);
        }
        Ok(count)
    }

    /// Copies received bytes out. `Ok(0)` for a non-empty `data` is the end of the stream.
    pub fn tcp_recv(&mut self, id: SocketId, data: &mut [u8], flags: TcpFlags) -> Result<usize> {
        let (index, from, most) = self.received(id, flags)?;
        let tcb = &mut self.tcp.sockets[index];
        let count = data.len().min((tcb.rx.len() - from) as usize).min(most as usize);
        tcb.rx.copy_out(&self.tcp.pool, from, &mut data[..count]);
        if !flags.contains(TcpFlags::PEEK) {
            self.took(index, count as u32);
        }
        Ok(count)
    }

    /// Shows received bytes in place, piece by piece, `max` at most. `take` returns how many bytes of the
    /// piece it used; fewer than all ends it. With `PEEK` nothing leaves the queue.
    pub fn tcp_recv_with(
        &mut self,
        id: SocketId,
        max: usize,
        flags: TcpFlags,
        take: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Result<usize> {
        let (index, from, most) = self.received(id, flags)?;
        let tcb = &mut self.tcp.sockets[index];
        let mut count = 0;
        let max = max.min(most as usize);
        if max > 0 {
            tcb.rx.read(&self.tcp.pool, from, max as u32, |piece| {
                let used = take(piece).min(piece.len());
                count += used;
                used == piece.len()
            });
        }
        if !flags.contains(TcpFlags::PEEK) {
            self.took(index, count as u32);
        }
        Ok(count)
    }

    /// Bytes that `recv` would give at once; 0 for a socket that is none.
    pub fn tcp_unread(&self, id: SocketId) -> usize {
        self.tcp_index(id).map_or(0, |index| self.tcp.sockets[index].readable() as usize)
    }

    /// The slot, if `recv` has something to say: data, or the end. Where reading begins in the queue, and how
    /// many bytes lie before the urgent mark.
    #[inline]
    fn received(&mut self, id: SocketId, flags: TcpFlags) -> Result<(u32, u32, u32)> {
        let index = self.tcp_index(id)?;
        let (from, most) = match self.tcp.sockets[index].has(Flags::URGENT) {
            false => (0, u32::MAX),
            true => self.around_urgent(index, flags),
        };
        self.has_received(index, from).map(|()| (index, from, most))
    }

    /// Reading stops before the urgent byte, and the next reading steps over it, unless it is wanted inline
    /// (tcp_recvmsg of Linux).
    #[cold]
    fn around_urgent(&mut self, index: u32, flags: TcpFlags) -> (u32, u32) {
        let tcb = &mut self.tcp.sockets[index];
        let ahead = tcb.extra().urgent_at.since(tcb.read_seq());
        if ahead > 0 {
            return (0, ahead);
        }
        if tcb.has(Flags::OOB_INLINE) || tcb.rx.is_empty() {
            return (0, u32::MAX);
        }
        if flags.contains(TcpFlags::PEEK) {
            return (1, u32::MAX);
        }
        self.took(index, 1);
        (0, u32::MAX)
    }

    /// The urgent byte by itself (MSG_OOB). `Ok(None)`: the peer will send none. `Invalid`: there is none, it was read,
    /// or it is in the stream.
    pub fn tcp_recv_urgent(&mut self, id: SocketId, peek: bool) -> Result<Option<u8>> {
        let index = self.tcp_index(id)?;
        let tcb = &mut self.tcp.sockets[index];
        if tcb.has(Flags::OOB_INLINE | Flags::URGENT_READ) || !tcb.has(Flags::URGENT) {
            return Err(Error::Invalid);
        }
        if tcb.has(Flags::URGENT_BYTE) {
            if !peek {
                tcb.flags -= Flags::URGENT_BYTE;
                tcb.flags |= Flags::URGENT_READ;
            }
            return Ok(Some(tcb.extra().urgent_byte));
        }
        let over = tcb.has(Flags::READ_SHUT | Flags::FIN_RECEIVED) || tcb.state == TcpState::Closed;
        if over { Ok(None) } else { Err(Error::WouldBlock) }
    }

    /// The next byte to read is the urgent one (SIOCATMARK).
    pub fn tcp_at_mark(&self, id: SocketId) -> Result<bool> {
        let tcb = &self.tcp.sockets[self.tcp_index(id)?];
        Ok(tcb.has(Flags::URGENT) && tcb.extra().urgent_at == tcb.read_seq())
    }

    #[inline]
    fn has_received(&mut self, index: u32, from: u32) -> Result<()> {
        let tcb = &mut self.tcp.sockets[index];
        if tcb.rx.len() > from {
            return Ok(());
        }
        if let Some(error) = tcb.error.take() {
            // Linux reports a write-side "broken pipe" by its readiness alone; the reader sees the end.
            return if error == Error::Closed { Ok(()) } else { Err(error) };
        }
        match tcb.state {
            _ if tcb.has(Flags::FIN_RECEIVED | Flags::READ_SHUT) => Ok(()),
            TcpState::Closed | TcpState::TimeWait if tcb.has(Flags::WAS_ESTABLISHED) => Ok(()),
            TcpState::Closed | TcpState::Listen => Err(Error::NotConnected),
            _ => Err(Error::WouldBlock),
        }
    }

    #[inline]
    fn took(&mut self, index: u32, count: u32) {
        if count == 0 {
            return;
        }
        let tcb = &mut self.tcp.sockets[index];
        tcb.rx.consume(&mut self.tcp.pool, count);
        if tcb.has(Flags::URGENT) && tcb.read_seq().after(tcb.extra().urgent_at) {
            tcb.flags -= Flags::URGENT | Flags::URGENT_BYTE | Flags::URGENT_READ;
        }
        tcb.reader_took(count, self.now.ms, self.config.limits.rcvbuf.1 as u32);
        if tcb.window_opened() {
            tcb.flags |= Flags::ACK_NOW;
            self.tcp.mark_dirty(index);
        }
    }

    /// Ends a direction. A listener shut down for reading stops listening, as on Linux.
    pub fn tcp_shutdown(&mut self, id: SocketId, how: Shutdown) -> Result<()> {
        let index = self.tcp_index(id)?;
        let tcb = &mut self.tcp.sockets[index];
        match tcb.state {
            TcpState::Listen if how != Shutdown::Write => {
                self.stop_listening(index);
                return Ok(());
            }
            TcpState::Listen => return Ok(()),
            TcpState::Closed | TcpState::TimeWait => return Err(Error::NotConnected),
            TcpState::SynSent => {
                tcb.fail(Error::Aborted);
                let now = self.now;
                self.tcp.after(index, Act::CLOSED, now);
                return Ok(());
            }
            _ => {}
        }
        if how != Shutdown::Write {
            tcb.flags |= Flags::READ_SHUT;
            tcb.news |= Ready::READABLE | Ready::PEER_CLOSED;
        }
        if how != Shutdown::Read {
            self.queue_fin(index);
        }
        self.tcp.raise(index);
        Ok(())
    }

    /// FIN after what is queued.
    fn queue_fin(&mut self, index: u32) {
        let tcb = &mut self.tcp.sockets[index];
        if tcb.has(Flags::FIN_QUEUED) {
            return;
        }
        tcb.flags |= Flags::FIN_QUEUED;
        tcb.flags -= Flags::MORE;
        tcb.news |= Ready::WRITABLE;
        match tcb.state {
            TcpState::Established => tcb.state = TcpState::FinWait1,
            TcpState::CloseWait => {
                tcb.state = TcpState::LastAck;
                tcb.news |= Ready::HANGUP;
            }
            _ => {}
        }
        self.tcp.mark_dirty(index);
    }

    fn stop_listening(&mut self, index: u32) {
        let tcb = &mut self.tcp.sockets[index];
        tcb.state = TcpState::Closed;
        tcb.flags -= Flags::BOUND;
        tcb.news |= Ready::all() - (Ready::ERROR | Ready::URGENT);
        let port = tcb.key.local_port;
        let name = SocketId::new(Kind::Tcp, index, tcb.generation).on(self.config.shard);
        let (mut waiting, mut is_replica) = (alloc::collections::VecDeque::new(), false);
        if let Some(mut listener) = tcb.listener.take() {
            (waiting, is_replica) = (core::mem::take(&mut listener.ready), listener.is_replica);
            listener.half_open = 0;
            listener.note();
        }
        self.tcp.end_listening(port, index);
        if !is_replica {
            self.tcp.ports.lock().unbind(port, name);
        }
        for Waiting { child, .. } in waiting {
            self.tcp.sockets[child].flags -= Flags::CHILD;
            self.reset_now(child);
        }
        self.tcp.raise(index);
    }

    /// What [`Shard::close`] does for TCP: orphan rules of RFC 1122 section 4.2.2.13 and RFC 2525 section
    /// 2.17.
    pub(crate) fn tcp_close(&mut self, id: SocketId) {
        let Ok(index) = self.tcp_index(id) else { return };
        let tcb = &mut self.tcp.sockets[index];
        if tcb.listener.is_some() {
            self.stop_listening(index);
            return self.tcp.free(index);
        }
        if !tcb.is_synchronized() && !tcb.is_early() {
            if tcb.state == TcpState::SynReceived {
                return self.reset_now(index);
            }
            return self.tcp.free(index);
        }
        // Data that nobody will read: the peer must learn that it did not arrive.
        if !tcb.rx.is_empty() || tcb.options().linger == Some(0) {
            self.tcp.pool.counters.abort_on_close += u64::from(!tcb.rx.is_empty());
            return self.reset_now(index);
        }
        tcb.flags |= Flags::ORPHAN;
        tcb.disarm(T_KEEP);
        if tcb.state == TcpState::FinWait2 {
            tcb.arm(T_KEEP, self.now.ms + u64::from(tcb.options().linger2));
        }
        self.queue_fin(index);
        self.tcp.file_timer(index);
    }

    /// Resets the connection now and forgets the socket.
    pub fn tcp_abort(&mut self, id: SocketId) {
        let Ok(index) = self.tcp_index(id) else { return };
        let tcb = &self.tcp.sockets[index];
        if tcb.is_synchronized() || tcb.state == TcpState::SynReceived {
            self.reset_now(index);
        } else {
            self.tcp_close(id);
        }
    }

    fn reset_now(&mut self, index: u32) {
        let tcb = &self.tcp.sockets[index];
        if matches!(tcb.state, TcpState::Established | TcpState::CloseWait) {
            self.tcp.pool.counters.estab_resets += 1;
        }
        if tcb.is_synchronized() || tcb.state == TcpState::SynReceived {
            // At the highest number sent: where the peer is if nothing was lost. If something was, it
            // answers with a challenge ACK (RFC 5961), and that gets a RST at the right place.
            self.tcp.replies.reset(&tcb.key, tcb.snd_nxt, Some(tcb.rcv_nxt));
        }
        self.tcp.free(index);
    }

    /// Sets an option.
    pub fn tcp_set(&mut self, id: SocketId, option: TcpOption) -> Result<()> {
        let index = self.tcp_index(id)?;
        let now_ms = self.now.ms;
        let limits = &self.config.limits;
        let tcb = &mut self.tcp.sockets[index];
        let (flag, on) = match option {
            TcpOption::NoDelay(on) => (Flags::NO_DELAY, on),
            TcpOption::Cork(on) => (Flags::CORK, on),
            TcpOption::KeepAlive(on) => (Flags::KEEP_ALIVE, on),
            TcpOption::UrgentInline(on) => (Flags::OOB_INLINE, on),
            TcpOption::QuickAck(on) => {
                tcb.quick_acks = if on { 16 } else { 0 };
                tcb.flags.set(Flags::INTERACTIVE, !on);
                let due = on && tcb.timer_at[T_ACK] != crate::engine::tcb::NEVER;
                (Flags::ACK_NOW, due || tcb.has(Flags::ACK_NOW))
            }
            _ => (Flags::empty(), false),
        };
        tcb.flags.set(flag, on);
        match option {
            TcpOption::NoDelay(true) | TcpOption::Cork(false) if tcb.unsent() > 0 => {
                tcb.flags |= Flags::FORCE
            }
            TcpOption::KeepIdle(ms) => tcb.extra_mut().options.keep_idle = ms.max(1000),
            TcpOption::KeepInterval(ms) => tcb.extra_mut().options.keep_interval = ms.max(1000),
            TcpOption::KeepCount(count) => tcb.extra_mut().options.keep_count = count.max(1),
            TcpOption::UserTimeout(ms) => tcb.extra_mut().options.user_timeout = ms,
            TcpOption::Linger(ms) => tcb.extra_mut().options.linger = ms,
            TcpOption::SendBuffer(bytes) => {
                tcb.sndbuf = bytes.clamp(4096, limits.sndbuf.1.max(4096)) as u32;
                tcb.flags |= Flags::FIXED_SNDBUF;
            }
            TcpOption::ReceiveBuffer(bytes) => {
                tcb.rcvbuf = bytes.clamp(2048, limits.rcvbuf.1.max(2048)) as u32;
                tcb.flags |= Flags::FIXED_RCVBUF;
            }
            TcpOption::MaxSegment(mss) if mss == 0 || mss >= 88 => {
                tcb.extra_mut().options.max_segment = mss;
                tcb.update_mss();
            }
            TcpOption::MaxSegment(_) => return Err(Error::Invalid),
            TcpOption::ReceiveLowAt(bytes) => tcb.low_at = bytes.max(1),
            TcpOption::DeferAccept(ms) => tcb.extra_mut().options.defer_accept = ms,
            TcpOption::SynCount(count) => tcb.extra_mut().options.syn_count = count.max(1),
            TcpOption::Linger2(ms) => tcb.extra_mut().options.linger2 = ms.min(120_000),
            TcpOption::Congestion(algorithm) => {
                tcb.congestion = Congestion::new(algorithm);
                tcb.note_bulk();
            }
            TcpOption::NotSentLowAt(bytes) => tcb.not_sent_low_at = bytes,
            TcpOption::WindowClamp(bytes) => {
                tcb.extra_mut().options.window_clamp = bytes;
                tcb.flags |= Flags::BOUNDED;
            }
            TcpOption::PacingRate(rate) => {
                tcb.extra_mut().options.pacing_rate = rate;
                tcb.flags |= Flags::BOUNDED;
            }
            TcpOption::FastOpen(_) if !matches!(tcb.state, TcpState::Closed | TcpState::Listen) => {
                return Err(Error::Invalid);
            }
            TcpOption::FastOpen(most) => tcb.extra_mut().options.fast_open = most,
            TcpOption::NoCookie(on) => tcb.extra_mut().options.no_cookie = on,
            TcpOption::HopLimit(hops) => tcb.hop_limit = hops,
            // The two ECN bits are the engine's (ip(7), INET_ECN_MASK).
            TcpOption::TrafficClass(class) => tcb.traffic_class = class & !3,
            _ => {}
        }
        if matches!(option, TcpOption::KeepAlive(_) | TcpOption::KeepIdle(_)) {
            tcb.disarm(T_KEEP);
            tcb.start_keep_alive(now_ms);
        }
        self.tcp.file_timer(index);
        // Closing the cork lets nothing out.
        if option != TcpOption::Cork(true) {
            self.tcp.mark_dirty(index);
        }
        Ok(())
    }

    /// The options.
    pub fn tcp_options(&self, id: SocketId) -> Result<TcpOptions> {
        let tcb = &self.tcp.sockets[self.tcp_index(id)?];
        Ok(TcpOptions {
            no_delay: tcb.has(Flags::NO_DELAY),
            cork: tcb.has(Flags::CORK),
            keep_alive: tcb.has(Flags::KEEP_ALIVE),
            keep_idle: tcb.options().keep_idle,
            keep_interval: tcb.options().keep_interval,
            keep_count: tcb.options().keep_count,
            user_timeout: tcb.options().user_timeout,
            linger: tcb.options().linger,
            send_buffer: tcb.send_limit(&self.config.limits) as usize,
            receive_buffer: tcb.rcvbuf as usize,
            max_segment: if tcb.is_synchronized() { tcb.mss } else { tcb.options().max_segment },
            quick_ack: !tcb.has(Flags::INTERACTIVE),
            receive_low_at: tcb.low_at,
            defer_accept: tcb.options().defer_accept,
            syn_count: tcb.options().syn_count,
            linger2: tcb.options().linger2,
            congestion: tcb.congestion.algorithm,
            not_sent_low_at: tcb.not_sent_low_at,
            window_clamp: tcb.options().window_clamp,
            urgent_inline: tcb.has(Flags::OOB_INLINE),
            pacing_rate: tcb.options().pacing_rate,
            fast_open: tcb.options().fast_open,
            no_cookie: tcb.options().no_cookie,
            hop_limit: tcb.hop_limit,
            traffic_class: tcb.traffic_class,
        })
    }

    /// The clock of timestamps, milliseconds (TCP_TIMESTAMP), without the offsets that peers see.
    pub fn tcp_timestamp(&self) -> u32 {
        self.now.ms as u32
    }

    /// The connection in numbers.
    pub fn tcp_info(&self, id: SocketId) -> Result<TcpInfo> {
        let tcb = &self.tcp.sockets[self.tcp_index(id)?];
        let (now, extra) = (self.now.ms, tcb.extra());
        let (sacked, lost, repeated) =
            tcb.board.as_ref().map_or((0, 0, 0), |board| (board.sacked, board.lost, board.repeated_bytes()));
        let since = |then: u32| if tcb.is_synchronized() { ago(now, then) as u32 } else { 0 };
        let mss = u32::from(tcb.mss).max(1);
        let flight = tcb.snd_nxt.since(tcb.snd_una);
        let first_time = tcb.data_segments_out.wrapping_sub(extra.total_retransmits);
        let missing = flight.saturating_sub(sacked).div_ceil(mss);
        Ok(TcpInfo {
            state: tcb.state,
            retransmits: tcb.retries,
            probes: tcb.probes,
            timestamps: tcb.has(Flags::TIMESTAMPS),
            sack: tcb.has(Flags::SACK),
            window_scale: tcb.has(Flags::SCALING).then_some((tcb.snd_shift, tcb.rcv_shift)),
            rto_us: (tcb.rtt.backed_off_ms(tcb.retries) * 1000) as u32,
            rtt_us: tcb.rtt.smoothed,
            rtt_var_us: tcb.rtt.variation,
            send_mss: tcb.mss,
            receive_mss: tcb.rcv_mss,
            cwnd: tcb.cwnd,
            ssthresh: tcb.ssthresh,
            in_flight: tcb.snd_nxt.since(tcb.snd_una),
            not_sent: tcb.unsent(),
            receive_queue: tcb.readable(),
            send_window: tcb.snd_wnd,
            receive_window: tcb.rcv_adv.since(tcb.rcv_nxt),
            path_mtu: tcb.path_mtu,
            total_retransmits: extra.total_retransmits,
            congestion_state: match () {
                () if tcb.has(Flags::LOSS) => CongestionState::Loss,
                () if tcb.has(Flags::RECOVERY) => CongestionState::Recovery,
                () if tcb.has(Flags::REDUCED) => CongestionState::Reduced,
                () if tcb.board.is_some() => CongestionState::Disorder,
                () => CongestionState::Open,
            },
            sacked,
            lost,
            repeated,
            ack_timeout_us: (DELAYED_ACK_MS * 1000) as u32,
            last_data_sent_ms: since(tcb.last_sent_ms),
            last_data_received_ms: since(tcb.last_data_ms),
            last_ack_received_ms: since(tcb.last_heard_ms),
            advertised_mss: tcb.advertised_mss(),
            receive_rtt_us: tcb.grow.rtt_us,
            receive_space: tcb.grow.copied.max(tcb.rcvbuf / 2),
            min_rtt_us: tcb.min_rtt,
            segments_in: tcb.segments_in,
            segments_out: tcb.segments_out,
            data_segments_in: tcb.data_segments_in,
            data_segments_out: tcb.data_segments_out,
            delivered: first_time.saturating_sub(missing),
            delivered_marked: extra.delivered_marked,
            bytes_sent: tcb.bytes_acked + u64::from(flight.min(tcb.tx.len())) + extra.bytes_retransmitted,
            bytes_retransmitted: extra.bytes_retransmitted,
            duplicate_reports: extra.dsacks,
            reordering_seen: extra.reordered,
            out_of_order: extra.out_of_order,
            delivery_rate: tcb.congestion.delivery_rate(),
            pacing_rate: tcb.pacing_rate().unwrap_or(u64::MAX),
            max_pacing_rate: tcb.options().pacing_rate,
            ecn: tcb.has(Flags::ECN),
            syn_data: tcb.has(Flags::SYN_DATA),
            early_failure: extra.early_failure,
            bytes_acked: tcb.bytes_acked,
            bytes_received: tcb.bytes_received,
        })
    }
}

/// A record in TIME-WAIT gives way to a new connection of ours after a second.
fn reusable(time_wait: &mut crate::engine::time_wait::TimeWait, record: u32, now_ms: u64) -> bool {
    time_wait.record(record).timestamps && time_wait.age_ms(record, now_ms) > 1000
}
