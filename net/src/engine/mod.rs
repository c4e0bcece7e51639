//! TCP (RFC 9293): the table of connections and everything that concerns more than one of them.
//!
//! A segment goes `Tcp::input` → [`receive`] → `Tcp::after`; what is to be sent is found on the list of dirty
//! connections by `Tcp::output` → [`send`]. Both cost the same however many connections there are.

mod audit;
pub(crate) mod congestion;
mod cookies;
pub(crate) mod demux;
pub(crate) mod fast_open;
pub(crate) mod isn;
pub(crate) mod listen;
mod probing;
pub(crate) mod queue;
pub(crate) mod reassembly;
pub(crate) mod receive;
mod recovery;
pub(crate) mod rtt;
pub(crate) mod scoreboard;
pub(crate) mod segment;
mod send;
pub(crate) mod seq;
pub(crate) mod slab;
pub(crate) mod tcb;
pub(crate) mod time_wait;
pub(crate) mod timer;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use platform::sync::Lock;

use demux::{Demux, FlowKey};
use isn::Secrets;
use listen::Listening;
use queue::Pool;
use receive::Act;
use segment::{Control, Header, Segment};
use seq::Seq;
use slab::Slab;
use tcb::{Ctx, Flags, NEVER, NONE, Now, Tcb};
use time_wait::{Record, TimeWait};
use timer::{Entry, Wheel};

use crate::config::Config;
use crate::error::Error;
use crate::ip::addr::Addr;
use crate::ip::link::{Blocked, Link};
use crate::ip::report::{Report, Trouble};
use crate::ports::Ports;
use crate::shard::Ready;
use crate::socket::tcp::TcpState;
use crate::socket::{Kind, SocketId};

/// Segments without a connection that wait to be sent: what is beyond is dropped.
const MAX_REPLIES: usize = 1024;
/// Challenge ACKs of a shard in a second (RFC 5961 section 7; the number is Linux's).
const CHALLENGES_PER_SECOND: u32 = 1000;

/// Segments to send for which there is no connection, or no longer.
#[derive(Default)]
pub(crate) struct Replies {
    pub(crate) list: VecDeque<Header>,
    second: u64,
    challenges: u32,
    /// All that were sent, and those that are resets.
    pub(crate) sent: [u64; 2],
}

impl Replies {
    /// RST for a segment that met nothing (RFC 9293 section 3.10.7.1).
    pub(crate) fn reset_for(&mut self, key: &FlowKey, segment: &Segment<'_>) {
        if segment.has(Control::RST) {
        } else if segment.has(Control::ACK) {
            self.reset(key, segment.ack, None);
        } else {
            self.reset(key, Seq(0), Some(segment.end()));
        }
    }

    pub(crate) fn reset(&mut self, key: &FlowKey, seq: Seq, ack: Option<Seq>) {
        let mut control = Control::RST;
        control.set(Control::ACK, ack.is_some());
        self.push(Header::new(*key, seq, ack.unwrap_or(Seq(0)), control));
    }

    fn push(&mut self, header: Header) {
        if self.list.len() < MAX_REPLIES {
            self.sent[0] += 1;
            self.sent[1] += u64::from(header.control.contains(Control::RST));
            self.list.push_back(header);
        }
    }

    /// Counts a challenge ACK against the limit.
    pub(crate) fn may_challenge(&mut self, now_ms: u64) -> bool {
        if self.second != now_ms / 1000 {
            (self.second, self.challenges) = (now_ms / 1000, 0);
        }
        self.challenges += 1;
        self.challenges <= CHALLENGES_PER_SECOND
    }
}

/// The table of ports that the shards of a guest share: a leaf among locks, held for a look-up in it.
pub(crate) type SharedPorts = Arc<Lock<Ports<SocketId>>>;

/// All TCP sockets of a shard.
pub(crate) struct Tcp {
    pub(crate) sockets: Slab<Tcb>,
    pub(crate) flows: Demux,
    pub(crate) time_wait: TimeWait,
    /// Ports of all the guest's shards: asked when connections come and go.
    pub(crate) ports: SharedPorts,
    /// This shard's listening sockets by port.
    pub(crate) listeners: HashMap<u16, Vec<Listening>>,
    /// Which shard this is.
    pub(crate) shard: u8,
    pub(crate) pool: Pool,
    pub(crate) secrets: Secrets,
    pub(crate) replies: Replies,
    /// Servers that data in a SYN can be sent to.
    pub(crate) peers: fast_open::Peers,
    pub(crate) events: VecDeque<u32>,
    pub(crate) incoming: VecDeque<(u32, u32)>,
    pub(crate) held: usize,
    pub(crate) dirty: VecDeque<u32>,
    wheel: Wheel,
    due: Vec<Entry>,
}

impl Tcp {
    pub(crate) fn new(config: &Config, secrets: Secrets, ports: SharedPorts) -> Tcp {
        Tcp {
            sockets: Slab::new(),
            flows: Demux::new(secrets.table),
            time_wait: TimeWait::new(secrets.table, config.limits.time_wait),
            ports,
            listeners: HashMap::new(),
            shard: config.shard,
            pool: Pool::new(config.limits.buffer_bytes),
            secrets,
            replies: Replies::default(),
            peers: fast_open::Peers::default(),
            events: VecDeque::new(),
            incoming: VecDeque::new(),
            held: 0,
            dirty: VecDeque::new(),
            wheel: Wheel::new(0),
            due: Vec::new(),
        }
    }

    /// The connection with that key.
    #[inline]
    pub(crate) fn find(&self, key: &FlowKey) -> Option<u32> {
        self.flows.find(self.flows.hash(key), |index| self.sockets[index].key == *key)
    }

    /// A segment arrived. `hint`: where its connection was found a moment ago. False if it is another shard's.
    #[inline]
    pub(crate) fn input(
        &mut self,
        key: &FlowKey,
        segment: &Segment<'_>,
        hint: Option<u32>,
        now: Now,
        config: &Config,
        local: impl FnOnce() -> LocalFacts,
    ) -> bool {
        let valid = |index: &u32| {
            let tcb = &self.sockets[*index];
            tcb.key == *key && tcb.has(Flags::IN_TABLE)
        };
        self.pool.counters.in_segs += 1;
        match hint.filter(valid).or_else(|| self.find(key)) {
            Some(index) => {
                self.deliver(index, segment, now, config);
                true
            }
            None => self.no_connection(key, segment, now, config, local()),
        }
    }

    #[inline]
    pub(crate) fn deliver(&mut self, index: u32, segment: &Segment<'_>, now: Now, config: &Config) {
        if self.sockets[index].state == TcpState::SynReceived && self.must_wait(index, segment) {
            return;
        }
        let tcb = &mut self.sockets[index];
        let mut ctx = Ctx { now, pool: &mut self.pool, limits: &config.limits, replies: &mut self.replies };
        let act = tcb.segment(segment, &mut ctx);
        if act.intersects(Act::CHANGED) || tcb.has(Flags::DEFERRED) {
            return self.after_change(index, act, now);
        }
        if act.contains(Act::SEND) {
            tcb.mark_dirty(index, &mut self.dirty);
        }
        tcb.file_timer(index, &mut self.wheel);
        tcb.raise(index, &mut self.events);
    }

    /// Does what a connection's change asks of the tables around it.
    #[inline]
    pub(crate) fn after(&mut self, index: u32, act: Act, now: Now) {
        let tcb = &mut self.sockets[index];
        if act.intersects(Act::CHANGED) || tcb.has(Flags::DEFERRED) {
            return self.after_change(index, act, now);
        }
        if act.contains(Act::SEND) {
            tcb.mark_dirty(index, &mut self.dirty);
        }
        tcb.file_timer(index, &mut self.wheel);
        tcb.raise(index, &mut self.events);
    }

    #[cold]
    fn after_change(&mut self, index: u32, act: Act, now: Now) {
        if act.contains(Act::SEND) {
            self.mark_dirty(index);
        }
        if act.contains(Act::LEARNED) {
            self.learn(index, now);
        }
        if act.contains(Act::ESTABLISHED) {
            self.established(index, now);
        }
        if act.contains(Act::CLOSED) {
            if self.sockets[index].has(Flags::FAST_OPEN) {
                self.early_closed(index, now);
            }
            self.closed(index);
        } else if act.contains(Act::TIME_WAIT) {
            self.enter_time_wait(index, now);
        }
        if self.sockets[index].has(Flags::DEFERRED) && !self.sockets[index].rx.is_empty() {
            self.deferred_data(index);
        }
        self.file_timer(index);
        self.raise(index);
    }

    #[inline]
    pub(crate) fn mark_dirty(&mut self, index: u32) {
        self.sockets[index].mark_dirty(index, &mut self.dirty);
    }

    #[inline]
    pub(crate) fn file_timer(&mut self, index: u32) {
        self.sockets[index].file_timer(index, &mut self.wheel);
    }

    /// Puts the socket on the list of events if there is news for an owner.
    #[inline]
    pub(crate) fn raise(&mut self, index: u32) {
        self.sockets[index].raise(index, &mut self.events);
    }

    /// The connection is over: it leaves the flow table, and the slab if nobody holds it.
    pub(crate) fn closed(&mut self, index: u32) {
        self.leave_table(index);
        let tcb = &mut self.sockets[index];
        tcb.tx.clear(&mut self.pool);
        if let Some(mut reassembly) = tcb.reassembly.take() {
            reassembly.clear(&mut self.pool);
        }
        tcb.flags -= Flags::SEND_SYN | Flags::ACK_NOW;
        if !tcb.has(Flags::WAS_ESTABLISHED | Flags::HELD) {
            self.pool.counters.attempt_fails += 1;
        }
        let never_seen = tcb.has(Flags::CHILD) && !tcb.has(Flags::WAS_ESTABLISHED);
        let deferred = tcb.has(Flags::DEFERRED);
        let (held, orphan) = (tcb.has(Flags::HELD), tcb.has(Flags::ORPHAN));
        self.release_user(index);
        if never_seen && !held {
            self.half_open_ended(index);
        }
        if never_seen || orphan || deferred {
            self.free(index);
        }
    }

    fn leave_table(&mut self, index: u32) {
        let tcb = &mut self.sockets[index];
        if tcb.has(Flags::IN_TABLE) {
            tcb.flags -= Flags::IN_TABLE;
            let key = tcb.key;
            self.flows.remove(&key, index);
        }
    }

    fn release_user(&mut self, index: u32) {
        let tcb = &mut self.sockets[index];
        if tcb.has(Flags::PORT_CHILD) {
            tcb.flags -= Flags::PORT_CHILD;
            self.ports.lock().remove_user(tcb.key.local_port, tcb.has(Flags::REUSE_ADDR));
        }
    }

    /// Gives the slot back. Entries in lists and in the wheel become stale and are skipped there.
    pub(crate) fn free(&mut self, index: u32) {
        self.leave_table(index);
        self.release_user(index);
        if self.sockets[index].has(Flags::FAST_OPEN) {
            self.early_ended(index, false, Now::default());
        }
        let tcb = &mut self.sockets[index];
        if tcb.has(Flags::HELD) {
            self.held -= 1;
        }
        if tcb.has(Flags::BOUND) {
            let name = SocketId::new(Kind::Tcp, index, tcb.generation).on(self.shard);
            self.ports.lock().unbind(tcb.key.local_port, name);
        }
        tcb.clear_buffers(&mut self.pool);
        *tcb = Tcb { generation: tcb.generation.wrapping_add(1) & 0x3fff_ffff, ..Tcb::default() };
        self.sockets.release(index);
    }

    /// Leaves a compact record in the connection's place (RFC 9293 section 3.3.2).
    fn enter_time_wait(&mut self, index: u32, now: Now) {
        let tcb = &mut self.sockets[index];
        tcb.news |= Ready::HANGUP;
        let reuse = tcb.has(Flags::REUSE_ADDR);
        let record = Record {
            key: tcb.key,
            snd_nxt: tcb.snd_nxt,
            rcv_nxt: tcb.rcv_nxt,
            ts_recent: tcb.ts_recent,
            ts_offset: tcb.ts_offset,
            timestamps: tcb.has(Flags::TIMESTAMPS),
            window: (tcb.rcv_adv.since(tcb.rcv_nxt) >> tcb.rcv_shift).min(65_535) as u16,
            reuse,
            ..Record::default()
        };
        tcb.timer_at = [NEVER; 3];
        tcb.flags -= Flags::ACK_NOW;
        tcb.acks_owed = 0;
        self.pool.counters.time_waits += 1;
        if self.time_wait.insert(record, now.ms) {
            self.ports.lock().add_user(record.key.local_port, reuse);
        }
        self.acknowledge_from_record(&record, now);
        self.closed(index);
    }

    fn acknowledge_from_record(&mut self, record: &Record, now: Now) {
        let mut header = Header::new(record.key, record.snd_nxt, record.rcv_nxt, Control::ACK);
        header.window = record.window;
        if record.timestamps {
            header.timestamp((now.ms as u32).wrapping_add(record.ts_offset), record.ts_recent);
        }
        self.replies.push(header);
    }

    /// Runs timers.
    pub(crate) fn timers(&mut self, now: Now, config: &Config) {
        let mut due = core::mem::take(&mut self.due);
        self.wheel.advance(now.ms, &mut due);
        // Most connections moved their deadlines since: that is seen on one line of each, and they are filed again. The
        // lines of the others are fetched together.
        let Tcp { sockets, wheel, .. } = self;
        let mut touched = due.iter().fold(0, |sum, (index, _)| sum ^ sockets[*index].filed_at as u32);
        due.retain(|&(index, at)| {
            let tcb = &mut sockets[index];
            let now_due = tcb.timer_at.iter().any(|at| *at <= now.ms);
            if tcb.filed_at == at && !now_due && !tcb.has(Flags::PACED) {
                tcb.filed_at = NEVER;
                tcb.file_timer(index, wheel);
                return false;
            }
            if tcb.filed_at == at {
                touched ^= tcb.touch();
            }
            tcb.filed_at == at
        });
        core::hint::black_box(touched);
        for (index, at) in due.drain(..) {
            let tcb = &mut self.sockets[index];
            if tcb.filed_at != at {
                continue;
            }
            tcb.filed_at = NEVER;
            let mut ctx =
                Ctx { now, pool: &mut self.pool, limits: &config.limits, replies: &mut self.replies };
            let act = tcb.timers(&mut ctx);
            self.after(index, act, now);
        }
        self.due = due;
        while let Some(record) = self.time_wait.expire(now.ms) {
            self.ports.lock().remove_user(record.key.local_port, record.reuse);
        }
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        match (self.wheel.next_turn(), self.time_wait.next_ms()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Sends for the dirty connections until none is left or the device is full.
    pub(crate) fn output(&mut self, now: Now, link: &mut Link<'_>) -> Result<(), Blocked> {
        self.send_replies(link)?;
        let mut turns = self.dirty.len();
        while turns > 0 {
            turns -= 1;
            let Some(index) = self.dirty.pop_front() else { break };
            let tcb = &mut self.sockets[index];
            if !tcb.has(Flags::DIRTY) {
                continue;
            }
            tcb.flags -= Flags::DIRTY;
            match tcb.output(now, &mut self.pool, link) {
                Ok(()) => {}
                Err(Blocked::Full) => {
                    // Behind all others: the next room is theirs.
                    tcb.flags |= Flags::DIRTY;
                    self.dirty.push_back(index);
                    self.file_timer(index);
                    return Err(Blocked::Full);
                }
                Err(Blocked::LoopbackFull) => self.mark_dirty(index),
                Err(Blocked::Unresolved(slot)) => {
                    if !tcb.has(Flags::UNRESOLVED) {
                        tcb.flags |= Flags::UNRESOLVED;
                        link.neighbors.wait(slot, index);
                    }
                }
                Err(Blocked::NoRoute) => self.trouble(index, Error::NetworkUnreachable, false, now),
            }
            self.file_timer(index);
        }
        Ok(())
    }

    fn send_replies(&mut self, link: &mut Link<'_>) -> Result<(), Blocked> {
        while let Some(header) = self.replies.list.front() {
            let mut packet = alloc::vec![0; header.packet_len(0)];
            header.write(&mut packet, true, link.addresses, |_| ());
            match link.send_packet(packet) {
                Err((Blocked::Full, _)) => return Err(Blocked::Full),
                _ => drop(self.replies.list.pop_front()),
            }
        }
        Ok(())
    }

    /// A hardware address was found, or (`error`) was not.
    pub(crate) fn resolved(&mut self, connections: Vec<u32>, error: Option<Error>, now: Now) {
        for index in connections {
            let tcb = &mut self.sockets[index];
            if !tcb.has(Flags::UNRESOLVED) {
                continue;
            }
            tcb.flags -= Flags::UNRESOLVED;
            match error {
                None => self.mark_dirty(index),
                Some(error) => self.trouble(index, error, true, now),
            }
        }
    }

    /// The network cannot deliver: ends a handshake if `hard`, else is remembered in case of a timeout
    /// (RFC 1122 section 4.2.3.9).
    fn trouble(&mut self, index: u32, error: Error, hard: bool, now: Now) {
        let tcb = &mut self.sockets[index];
        if hard && matches!(tcb.state, TcpState::SynSent | TcpState::SynReceived) {
            tcb.fail(error);
            self.after(index, Act::CLOSED, now);
        } else {
            tcb.soft_error = Some(error);
        }
    }

    /// An ICMP error about a segment of ours. Believed only if it quotes a number in flight (RFC 5927).
    pub(crate) fn icmp(&mut self, key: &FlowKey, report: &Report, now: Now) {
        let Some(index) = self.find(key) else { return };
        let tcb = &mut self.sockets[index];
        let seq = Seq(report.seq);
        if seq.before(tcb.snd_una) || !seq.before(tcb.snd_nxt.latest(tcb.snd_una + 1)) {
            return;
        }
        match report.what {
            Trouble::TooBig(mtu) => self.path_shrank(index, mtu, now),
            Trouble::Error { error, hard } => self.trouble(index, error, hard, now),
        }
    }

    /// RFC 1191 section 6.4: smaller segments from now on, and the lost ones again at once.
    fn path_shrank(&mut self, index: u32, mtu: u16, now: Now) {
        let tcb = &mut self.sockets[index];
        // Linux's ip_rt_min_pmtu; a router that names no size gets the next common one. RFC 8200 section 5:
        // every IPv6 link carries 1280.
        let least = if tcb.key.remote.is_v6() { 1280 } else { 552 };
        let mtu = if mtu == 0 { 1280 } else { mtu.max(least) };
        if mtu >= tcb.path_mtu {
            return;
        }
        tcb.path_mtu = mtu;
        tcb.update_mss();
        tcb.extra_mut().pmtu_at_s = (now.ms / 1000) as u32;
        tcb.end_search();
        tcb.path_shrank(now);
        self.mark_dirty(index);
        self.file_timer(index);
    }

    /// Makes every connection speak, so that peers that wait for an answer lost with the old network path
    /// do not wait for a timeout.
    pub(crate) fn kick(&mut self) {
        let alive: Vec<u32> =
            self.sockets.iter().filter(|(_, tcb)| tcb.has(Flags::IN_TABLE)).map(|(index, _)| index).collect();
        for index in alive {
            let tcb = &mut self.sockets[index];
            match tcb.state {
                TcpState::SynSent | TcpState::SynReceived if !tcb.has(Flags::HELD) => {
                    tcb.flags |= Flags::SEND_SYN;
                }
                _ if tcb.snd_una != tcb.snd_nxt => tcb.flags |= Flags::RESEND_HEAD,
                _ => {}
            }
            if tcb.is_synchronized() {
                tcb.flags |= Flags::ACK_NOW;
            }
            self.mark_dirty(index);
        }
    }

    /// Every address that is kept here by its short name (see `ip/addr.rs`). Queued replies are not: the
    /// caller looks that there are none.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Addr> + '_ {
        let keys = self.sockets.iter().map(|(_, tcb)| tcb.key).chain(self.time_wait.keys());
        keys.flat_map(|key| [key.local, key.remote])
            .chain(self.listeners.values().flatten().map(|listening| listening.addr))
            .chain(self.peers.addresses())
    }

    pub(crate) fn idle(&self) -> bool {
        self.dirty.is_empty() && self.replies.list.is_empty()
    }
}

/// What the IP layer knows of a segment's addresses.
#[derive(Clone, Copy)]
pub(crate) struct LocalFacts {
    /// Largest IP packet on the path, as far as is known.
    pub(crate) mtu: u16,
    /// Both addresses, by `Addresses::pair`.
    pub(crate) pair: u64,
    /// The peer is this shard.
    pub(crate) loopback: bool,
    /// The flow is another shard's.
    pub(crate) elsewhere: bool,
}

/// No parent.
pub(crate) const NO_PARENT: (u32, u32) = (NONE, 0);
