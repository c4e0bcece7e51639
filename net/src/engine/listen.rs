//! Passive opens: what a SYN meets, the queues of a listener, TIME-WAIT (RFC 9293 sections 3.10.7.2 and
//! 3.10.7.4, RFC 6191).

use alloc::vec::Vec;

use super::cookies;
use super::demux::FlowKey;
use super::segment::{Control, Header, Segment, SynOptions};
use super::seq::Seq;
use super::tcb::{Flags, NONE, Now, Options, T_KEEP, Tcb};
use super::{LocalFacts, NO_PARENT, Tcp};
use crate::config::{Config, Ecn};
use crate::ip::addr::Addr;
use crate::ports::Families;
use crate::shard::Ready;
use crate::socket::tcp::TcpState;

/// Half-open connections of a listener, at least, whatever its backlog.
const MIN_HALF_OPEN: usize = 256;
/// How long an owner may think about an incoming connection: a SYN's own patience.
const HELD_MS: u64 = 75_000;
/// Window shift that we offer: 65,535 << 7 covers the largest buffer.
pub(crate) const WINDOW_SHIFT: u8 = 7;

/// A listening socket, as SYNs find it.
#[derive(Clone, Copy)]
pub(crate) struct Listening {
    pub(crate) socket: u32,
    pub(crate) addr: Addr,
    pub(crate) families: Families,
}

impl Tcp {
    /// A segment for which there is no connection. False if it belongs to another shard.
    #[cold]
    pub(super) fn no_connection(
        &mut self,
        key: &FlowKey,
        segment: &Segment<'_>,
        now: Now,
        config: &Config,
        local: LocalFacts,
    ) -> bool {
        if local.elsewhere {
            return false;
        }
        match self.time_wait.find(key) {
            Some(record) => self.in_time_wait(record, segment, now, config, local),
            None => self.open_or_refuse(key, segment, None, now, config, local),
        }
        true
    }

    /// A listening socket of this shard, on `port`.
    pub(crate) fn start_listening(&mut self, port: u16, listening: Listening) {
        self.listeners.entry(port).or_default().push(listening);
    }

    /// It listens no more.
    pub(crate) fn end_listening(&mut self, port: u16, socket: u32) {
        if let Some(all) = self.listeners.get_mut(&port) {
            all.retain(|listening| listening.socket != socket);
            if all.is_empty() {
                self.listeners.remove(&port);
            }
        }
    }

    fn open_or_refuse(
        &mut self,
        key: &FlowKey,
        segment: &Segment<'_>,
        least_isn: Option<Seq>,
        now: Now,
        config: &Config,
        local: LocalFacts,
    ) {
        if segment.has(Control::RST) {
            return;
        }
        let wants_in = segment.has(Control::SYN) && !segment.has(Control::ACK);
        match self.listener_for(key) {
            // RFC 9293 leaves a SYN with FIN open; Linux drops it.
            Some(_) if wants_in && segment.has(Control::FIN) => {}
            Some(listener) if wants_in => {
                self.passive_open(Some(listener), key, segment, least_isn, now, config, local);
            }
            Some(listener) if self.expects_cookies(listener, segment, now) => {
                self.open_from_cookie(listener, key, segment, now, config, local);
            }
            Some(_) => self.replies.reset_for(key, segment),
            None if wants_in && config.ask_incoming && !local.loopback => {
                self.passive_open(None, key, segment, least_isn, now, config, local);
            }
            None if config.answer_closed || local.loopback => self.replies.reset_for(key, segment),
            None => {}
        }
    }

    /// The listener for a destination: one bound to the very address before one bound to all, and among
    /// equals (SO_REUSEPORT) by the flow's hash.
    fn listener_for(&self, key: &FlowKey) -> Option<u32> {
        let owners: &[Listening] = self.listeners.get(&key.local_port).map_or(&[], Vec::as_slice);
        let exact = |o: &&Listening| o.addr == key.local;
        let any = |o: &&Listening| o.addr.is_unspecified() && o.families.covers(key.remote.is_v6());
        let pick = |count: usize| (self.flows.hash(key) >> 32) as usize % count;
        let count = owners.iter().filter(exact).count();
        if count > 0 {
            return owners.iter().filter(exact).nth(pick(count)).map(|o| o.socket);
        }
        let count = owners.iter().filter(any).count();
        if count == 0 { None } else { owners.iter().filter(any).nth(pick(count)).map(|o| o.socket) }
    }

    /// Makes a connection in SYN-RECEIVED. Without a listener it is held until the owner decides.
    fn passive_open(
        &mut self,
        listener: Option<u32>,
        key: &FlowKey,
        segment: &Segment<'_>,
        least_isn: Option<Seq>,
        now: Now,
        config: &Config,
        local: LocalFacts,
    ) {
        let too_many_held = listener.is_none() && self.held >= config.limits.incoming;
        let full = self.sockets.len() >= config.limits.tcp_sockets || too_many_held;
        if full || !self.listener_has_room(listener) {
            return self.answer_with_cookie(listener, key, segment, now, config, local);
        }
        let Some(index) = self.make_passive(listener, key, least_isn, now, config, local) else { return };
        let tcb = &mut self.sockets[index];
        let ctx =
            super::Ctx { now, pool: &mut self.pool, limits: &config.limits, replies: &mut self.replies };
        let options = segment.syn_options();
        tcb.take_syn(segment, &options, &ctx);
        if let Some(parent) = listener {
            self.sockets[index].flags |= Flags::SEND_SYN;
            self.consider_early(parent, index, segment, &options, local.pair, now, config);
            self.mark_dirty(index);
        } else {
            self.held += 1;
            let generation = self.sockets[index].generation;
            self.incoming.push_back((index, generation));
        }
        self.file_timer(index);
    }

    /// A connection in SYN-RECEIVED that knows nothing of its SYN yet.
    fn make_passive(
        &mut self,
        listener: Option<u32>,
        key: &FlowKey,
        least_isn: Option<Seq>,
        now: Now,
        config: &Config,
        local: LocalFacts,
    ) -> Option<u32> {
        let index = self.sockets.take();
        let mut tcb = Tcb { generation: self.sockets[index].generation, ..Tcb::default() };
        match listener {
            Some(parent) => self.inherit(&mut tcb, parent),
            None => {
                tcb.flags |= Flags::HELD | Flags::CHILD | Flags::NO_DELAY;
                (tcb.sndbuf, tcb.rcvbuf) = (config.limits.sndbuf.0 as u32, config.limits.rcvbuf.0 as u32);
                tcb.congestion.algorithm = config.congestion;
                tcb.arm(T_KEEP, now.ms + HELD_MS);
            }
        }
        self.set_flow(&mut tcb, *key, least_isn, now, local);
        tcb.state = TcpState::SynReceived;
        tcb.flags.set(Flags::ASK_ECN, config.ecn != Ecn::Off);
        self.sockets[index] = tcb;
        self.enter_table(index);
        Some(index)
    }

    /// The queue of half-open connections is full: the answer to the SYN must remember it (`cookies.rs`). With a full
    /// accept queue nothing is answered, as on Linux: the peer tries again.
    fn answer_with_cookie(
        &mut self,
        listener: Option<u32>,
        key: &FlowKey,
        segment: &Segment<'_>,
        now: Now,
        config: &Config,
        local: LocalFacts,
    ) {
        let Some(index) = listener else { return };
        let parent = &mut self.sockets[index];
        let (rcvbuf, max_segment) = (parent.rcvbuf, parent.options().max_segment);
        let Some(queue) = parent.listener.as_deref_mut() else { return };
        if queue.waiting() > queue.backlog || !config.syn_cookies {
            self.pool.counters.listen_overflows += u64::from(queue.waiting() > queue.backlog);
            self.pool.counters.listen_drops += 1;
            return;
        }
        self.pool.counters.syncookies_sent += 1;
        queue.cookies_until_ms = now.ms + cookies::EXPECTED_MS;
        let options = segment.syn_options();
        let cookie =
            cookies::make(&self.secrets, local.pair, key, segment.seq, options.mss.unwrap_or(536), now.ms);
        let ecn =
            config.ecn != Ecn::Off && segment.has(Control::ECE | Control::CWR) && segment.timestamp.is_some();
        let mut control = Control::SYN | Control::ACK;
        control.set(Control::ECE, ecn);
        let mut header = Header::new(*key, cookie, segment.seq + 1, control);
        header.window = rcvbuf.min(65_535) as u16;
        let mss = local.mtu.saturating_sub(key.headers() as u16);
        let mss = if max_segment > 0 { mss.min(max_segment) } else { mss };
        header.option(&[2, 4, (mss >> 8) as u8, mss as u8]);
        if let Some((value, _)) = segment.timestamp {
            let stamp = cookies::stamp(now.ms as u32, &options, ecn);
            let stamp = stamp.wrapping_add(self.secrets.timestamp_offset(local.pair));
            header.option(if options.sack { &[4, 2, 8, 10] } else { &[1, 1, 8, 10] });
            header.option(&stamp.to_be_bytes());
            header.option(&value.to_be_bytes());
            if options.scale.is_some() {
                header.option(&[1, 3, 3, WINDOW_SHIFT]);
            }
        }
        self.replies.push(header);
    }

    fn expects_cookies(&self, listener: u32, segment: &Segment<'_>, now: Now) -> bool {
        let queue = self.sockets[listener].listener.as_deref();
        segment.has(Control::ACK)
            && !segment.has(Control::SYN)
            && queue.is_some_and(|queue| now.ms < queue.cookies_until_ms)
    }

    /// An ACK that meets no connection while cookies are out: perhaps it completes a handshake.
    fn open_from_cookie(
        &mut self,
        listener: u32,
        key: &FlowKey,
        segment: &Segment<'_>,
        now: Now,
        config: &Config,
        local: LocalFacts,
    ) {
        let cookie = segment.ack - 1;
        let Some(mss) = cookies::check(&self.secrets, local.pair, key, segment.seq - 1, cookie, now.ms)
        else {
            self.pool.counters.syncookies_failed += 1;
            return self.replies.reset_for(key, segment);
        };
        self.pool.counters.syncookies_recv += 1;
        let queue = self.sockets[listener].listener.as_deref();
        let full = queue.is_none_or(|queue| queue.waiting() > queue.backlog);
        if full || self.sockets.len() >= config.limits.tcp_sockets {
            return; // The peer's data will try again.
        }
        let Some(index) = self.make_passive(Some(listener), key, None, now, config, local) else { return };
        let told = cookies::read(
            mss,
            segment.timestamp.map(|(_, echo)| echo.wrapping_sub(self.sockets[index].ts_offset)),
        );
        let mut control = Control::SYN;
        control.set(Control::ECE | Control::CWR, told.ecn);
        let syn = Segment { seq: segment.seq - 1, control, payload: &[], urgent: 0, ..*segment };
        let options = SynOptions { mss: Some(told.mss), scale: told.scale, sack: told.sack, fast_open: None };
        let tcb = &mut self.sockets[index];
        (tcb.iss, tcb.snd_una, tcb.snd_nxt) = (cookie, cookie, cookie + 1);
        (tcb.recover, tcb.small_end) = (cookie, cookie);
        let ctx =
            super::Ctx { now, pool: &mut self.pool, limits: &config.limits, replies: &mut self.replies };
        tcb.take_syn(&syn, &options, &ctx);
        self.deliver(index, segment, now, config);
    }

    fn listener_has_room(&self, listener: Option<u32>) -> bool {
        let Some(queue) = listener.and_then(|index| self.sockets[index].listener.as_deref()) else {
            return listener.is_none();
        };
        // Linux: the accept queue holds backlog + 1; SYNs beyond it are dropped, the peer tries again.
        queue.waiting() <= queue.backlog && queue.opening() < queue.backlog.max(MIN_HALF_OPEN)
    }

    /// What a new connection takes over from its listener (socket(7), tcp(7)).
    fn inherit(&mut self, tcb: &mut Tcb, parent: u32) {
        let from = &mut self.sockets[parent];
        if let Some(queue) = &mut from.listener {
            queue.half_open += 1;
            queue.note();
        }
        let kept = Flags::NO_DELAY
            | Flags::CORK
            | Flags::KEEP_ALIVE
            | Flags::FIXED_SNDBUF
            | Flags::FIXED_RCVBUF
            | Flags::REUSE_ADDR
            | Flags::REUSE_PORT
            | Flags::TRANSPARENT
            | Flags::OOB_INLINE
            | Flags::BOUNDED;
        tcb.flags |= (from.flags & kept) | Flags::CHILD;
        tcb.parent = (parent, from.generation);
        if let Some(extra) = &from.extra {
            tcb.extra_mut().options = Options { fast_open: 0, ..extra.options };
        }
        (tcb.low_at, tcb.not_sent_low_at) = (from.low_at, from.not_sent_low_at);
        (tcb.sndbuf, tcb.rcvbuf) = (from.sndbuf, from.rcvbuf);
        (tcb.hop_limit, tcb.traffic_class) = (from.hop_limit, from.traffic_class);
        tcb.congestion.algorithm = from.congestion.algorithm;
    }

    /// Addresses, sequence number and timestamps of a new flow.
    pub(crate) fn set_flow(
        &mut self,
        tcb: &mut Tcb,
        key: FlowKey,
        least_isn: Option<Seq>,
        now: Now,
        local: LocalFacts,
    ) {
        tcb.key = key;
        let isn = Seq(self.secrets.isn(local.pair, &key, now.us));
        tcb.iss = least_isn.map_or(isn, |least| isn.latest(least));
        tcb.snd_una = tcb.iss;
        tcb.snd_nxt = tcb.iss;
        tcb.recover = tcb.iss;
        tcb.small_end = tcb.iss;
        tcb.ts_offset = self.secrets.timestamp_offset(local.pair);
        tcb.rcv_shift = WINDOW_SHIFT;
        tcb.flags.set(Flags::LOOPBACK, local.loopback);
        tcb.path_mtu = local.mtu;
        tcb.stalled_ms = now.ms as u32;
        tcb.grow.since_ms = now.ms as u32;
    }

    /// The flow can be found from now on, and uses its port.
    pub(crate) fn enter_table(&mut self, index: u32) {
        let tcb = &mut self.sockets[index];
        tcb.flags |= Flags::IN_TABLE;
        let key = tcb.key;
        if !tcb.has(Flags::BOUND) {
            tcb.flags |= Flags::PORT_CHILD;
            self.ports.lock().add_user(key.local_port, tcb.has(Flags::REUSE_ADDR));
        }
        self.flows.insert(&key, index);
    }

    /// A segment that would complete a handshake while the accept queue is full is dropped: the peer
    /// believes itself connected, sends data, and the SYN-ACK timer or that data tries again (as Linux).
    #[cold]
    pub(super) fn must_wait(&self, index: u32, segment: &Segment<'_>) -> bool {
        let tcb = &self.sockets[index];
        if tcb.has(Flags::HELD) {
            // Nothing was answered yet; only a RST (the peer gave up) is of interest.
            return !segment.has(Control::RST);
        }
        if tcb.parent.0 == NONE || tcb.is_early() || segment.has(Control::RST | Control::SYN) {
            return false;
        }
        let parent = &self.sockets[tcb.parent.0];
        parent.generation == tcb.parent.1
            && parent.listener.as_ref().is_some_and(|queue| queue.waiting() > queue.backlog)
    }

    /// A handshake is complete (or a deferred connection's patience is over): into the accept queue.
    pub(super) fn established(&mut self, index: u32, now: Now) {
        let tcb = &mut self.sockets[index];
        if tcb.has(Flags::FAST_OPEN) {
            return self.early_ended(index, false, now);
        }
        if !tcb.has(Flags::CHILD) || tcb.has(Flags::HELD) {
            return;
        }
        let (parent, generation) = tcb.parent;
        let alive = self.sockets[parent].generation == generation && self.sockets[parent].listener.is_some();
        if !alive {
            // The listener was closed meanwhile.
            let tcb = &mut self.sockets[index];
            self.replies.reset(&tcb.key, tcb.snd_nxt, Some(tcb.rcv_nxt));
            tcb.state = TcpState::Closed;
            tcb.flags |= Flags::ORPHAN;
            return self.closed(index);
        }
        // MORE is free on a socket without an owner: it marks that waiting for data has begun once.
        if self.sockets[index].parent != NO_PARENT && !self.sockets[index].has(Flags::MORE) {
            self.half_open_ended(index);
        }
        let wait = u64::from(self.sockets[index].options().defer_accept);
        let tcb = &mut self.sockets[index];
        if wait > 0 && tcb.rx.is_empty() && tcb.state == TcpState::Established && !tcb.has(Flags::MORE) {
            tcb.flags |= Flags::DEFERRED | Flags::MORE;
            tcb.arm(T_KEEP, now.ms + wait);
            return;
        }
        tcb.flags -= Flags::MORE;
        self.offer(index);
    }

    /// Data came for a connection that was waiting for it (TCP_DEFER_ACCEPT).
    #[cold]
    pub(super) fn deferred_data(&mut self, index: u32) {
        let tcb = &mut self.sockets[index];
        tcb.flags -= Flags::DEFERRED;
        tcb.disarm(T_KEEP);
        self.established(index, Now::default());
    }

    /// Puts a connection into its listener's accept queue.
    pub(super) fn offer(&mut self, index: u32) {
        self.pool.counters.passive_opens += 1;
        let parent = self.sockets[index].parent.0;
        let listener = &mut self.sockets[parent];
        if let Some(queue) = &mut listener.listener {
            queue.offer(index);
            listener.news |= Ready::READABLE;
        }
        self.raise(parent);
    }

    /// One half-open connection less for the listener.
    pub(super) fn half_open_ended(&mut self, index: u32) {
        let (parent, generation) = self.sockets[index].parent;
        if parent == NONE || self.sockets[parent].generation != generation {
            return;
        }
        if let Some(queue) = &mut self.sockets[parent].listener {
            queue.half_open = queue.half_open.saturating_sub(1);
            queue.note();
        }
    }

    /// A segment for a connection in TIME-WAIT.
    fn in_time_wait(
        &mut self,
        index: u32,
        segment: &Segment<'_>,
        now: Now,
        config: &Config,
        local: LocalFacts,
    ) {
        let record = *self.time_wait.record(index);
        let newer_clock = record.timestamps
            && segment.timestamp.is_some_and(|(value, _)| (value.wrapping_sub(record.ts_recent) as i32) > 0);
        if segment.has(Control::RST) {
            if segment.seq == record.rcv_nxt {
                self.end_time_wait(index);
            }
            return;
        }
        if segment.has(Control::SYN) && !segment.has(Control::ACK) {
            if newer_clock || segment.seq.after(record.rcv_nxt) {
                self.end_time_wait(index);
                // Above everything the old connection may have in the network.
                let least = record.snd_nxt + 65_537;
                return self.open_or_refuse(&record.key, segment, Some(least), now, config, local);
            }
        } else if segment.len() == 0 && segment.seq == record.rcv_nxt {
            return;
        }
        if segment.has(Control::FIN) {
            self.time_wait.restart(index, now.ms);
        }
        if self.replies.may_challenge(now.ms) {
            self.acknowledge_from_record(&record, now);
        }
    }

    /// Ends a TIME-WAIT early and frees its port.
    pub(crate) fn end_time_wait(&mut self, index: u32) {
        let record = self.time_wait.remove(index);
        self.ports.lock().remove_user(record.key.local_port, record.reuse);
    }
}
