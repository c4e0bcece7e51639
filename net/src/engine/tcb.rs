//! The control block of a connection: its fields in the order in which segments touch them, its timers, and
//! what others may ask of it. What happens on a segment is in `receive.rs`, what is sent in `send.rs`.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::congestion::Congestion;
use super::demux::FlowKey;
use super::fast_open::{Cookie, EarlyFailure, Lesson};
use super::probing::Search;
use super::queue::{Pool, Queue};
use super::reassembly::Reassembly;
use super::recovery::FIRST_ACK_DELAY_MS;
use super::rtt::Rtt;
use super::scoreboard::Board;
use super::seq::Seq;
use super::timer::Wheel;
use crate::config::Limits;
use crate::error::Error;
use crate::shard::Ready;
use crate::socket::tcp::TcpState;

bitflags::bitflags! {
    /// Facts about a connection.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Flags: u64 {
        /// In the list of connections that want to send.
        const DIRTY = 1;
        /// In the list of events.
        const EVENTED = 1 << 1;
        /// A segment with the present acknowledgement must go out.
        const ACK_NOW = 1 << 2;
        /// SYN or SYN-ACK must go out.
        const SEND_SYN = 1 << 3;
        /// The first unacknowledged segment must go out again.
        const RESEND_HEAD = 1 << 4;
        /// A probe (keep-alive or zero window) must go out.
        const SEND_PROBE = 1 << 5;
        /// Send what is there, however little.
        const FORCE = 1 << 6;
        /// FIN comes after the queue.
        const FIN_QUEUED = 1 << 7;
        /// The peer's FIN was taken.
        const FIN_RECEIVED = 1 << 8;
        /// `Tcb::fin_at` holds the place of a FIN that arrived early.
        const FIN_EARLY = 1 << 9;
        /// Timestamps are in use.
        const TIMESTAMPS = 1 << 10;
        /// The peer takes SACK blocks.
        const SACK = 1 << 11;
        /// Window scaling is in use.
        const SCALING = 1 << 12;
        /// A loss is being repaired (`recovery.rs`).
        const RECOVERY = 1 << 13;
        /// Recovery after a timeout is under way.
        const LOSS = 1 << 14;
        /// `rtt_seq` is being timed.
        const TIMING = 1 << 15;
        /// The congestion window was what stopped us last.
        const CWND_LIMITED = 1 << 16;
        /// T_RESEND is a persist timer.
        const PERSIST = 1 << 17;
        /// Data goes both ways: acknowledgements may wait for it.
        const INTERACTIVE = 1 << 18;
        /// The owner has closed the socket.
        const ORPHAN = 1 << 19;
        /// Not yet handed out by `accept`.
        const CHILD = 1 << 20;
        /// Waits for data before it may be accepted.
        const DEFERRED = 1 << 21;
        /// An incoming connection that the owner has not yet admitted.
        const HELD = 1 << 22;
        /// Reading was shut down.
        const READ_SHUT = 1 << 23;
        /// The owner was refused room and waits for it.
        const WANTS_ROOM = 1 << 24;
        /// The owner said that more data follows.
        const MORE = 1 << 25;
        const NO_DELAY = 1 << 26;
        const CORK = 1 << 27;
        const KEEP_ALIVE = 1 << 28;
        const FIXED_SNDBUF = 1 << 29;
        const FIXED_RCVBUF = 1 << 30;
        const REUSE_ADDR = 1 << 31;
        const REUSE_PORT = 1 << 32;
        const TRANSPARENT = 1 << 33;
        /// Owns an entry in the port table as a bound socket.
        const BOUND = 1 << 34;
        /// Counted in the port table as a user of a port somebody else bound, or chosen by `connect`.
        const PORT_CHILD = 1 << 35;
        /// In the flow table.
        const IN_TABLE = 1 << 36;
        /// Opened by us (a RST in SYN-RECEIVED means "refused").
        const ACTIVE = 1 << 37;
        /// Both ends are here.
        const LOOPBACK = 1 << 38;
        /// Waits for a hardware address.
        const UNRESOLVED = 1 << 39;
        /// The connection was established at some time.
        const WAS_ESTABLISHED = 1 << 40;
        /// T_RESEND is the tail probe's timer.
        const TAIL_TIMER = 1 << 41;
        /// T_RESEND is the end of a hole's reordering window.
        const REORDER_TIMER = 1 << 42;
        /// A tail probe must go out.
        const SEND_TAIL = 1 << 43;
        /// A tail probe is out, up to `tail_end`, and what it meant is not known yet.
        const TAIL_OUT = 1 << 44;
        /// That probe was a retransmission.
        const TAIL_AGAIN = 1 << 45;
        /// The path was seen to reorder.
        const REORDERED = 1 << 46;
        /// The window was reduced without a loss to repair; not again before `recover` is acknowledged.
        const REDUCED = 1 << 47;
        /// ECN is in use (RFC 3168).
        const ECN = 1 << 48;
        /// The peer must be told of congestion (ECE) until it says CWR.
        const ECHO_CONGESTION = 1 << 49;
        /// The peer must be told that the window was reduced (CWR), with the next new data.
        const TELL_REDUCED = 1 << 50;
        /// The place of an urgent byte is known and was not read past.
        const URGENT = 1 << 51;
        /// The byte itself is in `Extra::urgent_byte` and was not read.
        const URGENT_BYTE = 1 << 52;
        /// Urgent data stays in the stream (SO_OOBINLINE).
        const OOB_INLINE = 1 << 53;
        /// Urgent data was sent up to `urgent_end`, and not all of it is acknowledged.
        const SENDING_URGENT = 1 << 54;
        /// Congestion notification is asked for in our SYN.
        const ASK_ECN = 1 << 55;
        /// The urgent byte was read by itself.
        const URGENT_READ = 1 << 56;
        /// Sending waits for its pace.
        const PACED = 1 << 57;
        /// `congestion` has the state of a bulk sender. (Here, so that a dialogue need not look there.)
        const BULK = 1 << 58;
        /// The owner bounds the window or the rate of sending.
        const BOUNDED = 1 << 59;
        /// In SYN-SENT: the SYN carries what is queued. In SYN-RECEIVED: handed out before the handshake is over
        /// (`fast_open.rs`).
        const FAST_OPEN = 1 << 60;
        /// The SYN's data were taken, by the peer or by us.
        const SYN_DATA = 1 << 61;
        /// The path's MTU is being looked for (`probing.rs`).
        const PROBING = 1 << 62;
    }
}

/// Index into `Tcb::timer_at`: retransmission of data, SYN or FIN, and persist.
pub(crate) const T_RESEND: usize = 0;
/// Delayed acknowledgement.
pub(crate) const T_ACK: usize = 1;
/// Keep-alive; FIN-WAIT-2 of orphans; deferred accept; patience with a held connection.
pub(crate) const T_KEEP: usize = 2;
/// A timer that is not set.
pub(crate) const NEVER: u64 = u64::MAX;
/// The shortest round trip on which bulk senders are paced: below it a tick of the timers is too coarse.
const PACED_RTT_US: u64 = 4_000;
/// The smallest window that is paced: short answers leave as fast as the window lets them.
const PACED_WINDOW: u32 = 64 << 10;
/// No index.
pub(crate) const NONE: u32 = u32::MAX;

/// A connection, a listener, or a socket that is neither yet.
///
/// The first five cache lines are all that an ordinary segment touches; `Shard::look_ahead` fetches them
/// for a whole batch at once. A test watches over the layout.
#[repr(C, align(64))]
pub(crate) struct Tcb {
    // Line 0: which connection, and where it stands.
    pub(crate) key: FlowKey,
    pub(crate) generation: u32,
    pub(crate) flags: Flags,
    pub(crate) rcv_nxt: Seq,
    /// Right edge of the window that we advertised.
    pub(crate) rcv_adv: Seq,
    /// Acknowledgement number of the last segment that we sent.
    pub(crate) last_ack: Seq,
    pub(crate) ts_recent: u32,
    pub(crate) snd_una: Seq,
    pub(crate) snd_nxt: Seq,
    pub(crate) snd_wnd: u32,
    pub(crate) snd_wl1: Seq,
    pub(crate) snd_wl2: Seq,
    /// The shortest round trip since the last timeout, microseconds; 0 before the first.
    pub(crate) min_rtt: u32,
    // Line 1: windows and queues.
    pub(crate) state: TcpState,
    pub(crate) news: Ready,
    /// How long the peer may hold a lone segment's acknowledgement back, as far as we know.
    pub(crate) ack_delay_ms: u8,
    /// Pure acknowledgements owed for segments out of order, each one a signal to the sender.
    pub(crate) acks_owed: u8,
    pub(crate) cwnd: u32,
    pub(crate) ssthresh: u32,
    pub(crate) mss: u16,
    pub(crate) rcv_mss: u16,
    pub(crate) snd_shift: u8,
    pub(crate) rcv_shift: u8,
    pub(crate) retries: u8,
    pub(crate) probes: u8,
    pub(crate) tx: Queue,
    pub(crate) rx: Queue,
    pub(crate) error: Option<Error>,
    pub(crate) soft_error: Option<Error>,
    // Line 2: time.
    pub(crate) timer_at: [u64; 3],
    pub(crate) filed_at: u64,
    pub(crate) cookie: u64,
    pub(crate) rtt_sent_us: u64,
    pub(crate) rtt: Rtt,
    pub(crate) rtt_seq: Seq,
    // Line 3: limits, and when what was seen.
    pub(crate) ts_offset: u32,
    pub(crate) max_wnd: u32,
    /// End of the last segment smaller than the MSS (Minshall's form of Nagle's test).
    pub(crate) small_end: Seq,
    pub(crate) recover: Seq,
    /// When the last segment with data came, when anything came, when data was sent: the clock's low half (see
    /// [`ago`]).
    pub(crate) last_data_ms: u32,
    pub(crate) last_heard_ms: u32,
    pub(crate) last_sent_ms: u32,
    /// Segments still acknowledged at once.
    pub(crate) quick_acks: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) neighbor: u16,
    pub(crate) path_mtu: u16,
    pub(crate) sndbuf: u32,
    pub(crate) rcvbuf: u32,
    pub(crate) low_at: u32,
    pub(crate) not_sent_low_at: u32,
    /// Segments that came and went, in all and with data (TCP_INFO).
    pub(crate) segments_in: u32,
    pub(crate) segments_out: u32,
    pub(crate) data_segments_in: u32,
    // Line 4: counters and growth.
    /// When `ts_recent` was taken, in 1024 ms.
    pub(crate) ts_recent_at: u32,
    pub(crate) grow: ReceiveGrowth,
    pub(crate) stalled_ms: u32,
    pub(crate) data_segments_out: u32,
    pub(crate) bytes_acked: u64,
    pub(crate) bytes_received: u64,
    pub(crate) reassembly: Option<Box<Reassembly>>,
    pub(crate) board: Option<Box<Board>>,
    // Losses, handshakes, options.
    pub(crate) congestion: Congestion,
    pub(crate) listener: Option<Box<Listener>>,
    pub(crate) extra: Option<Box<Extra>>,
    /// The listener's index and generation.
    pub(crate) parent: (u32, u32),
    pub(crate) fin_at: Seq,
    pub(crate) iss: Seq,
    pub(crate) peer_mss: u16,
    /// Where the tail probe ended.
    pub(crate) tail_end: Seq,
    /// Quarters of the round trip in the reordering window, and recoveries for which they stay.
    pub(crate) reorder_steps: u8,
    pub(crate) reorder_persist: u8,
}

/// What few connections have: options that were set, traces of losses, urgent data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) options: Options,
    /// Segments and bytes sent again, timeouts, reports of duplicates, acknowledgements that told of congestion,
    /// segments that came out of order, and reordering that was seen (TCP_INFO).
    pub(crate) total_retransmits: u32,
    pub(crate) bytes_retransmitted: u64,
    pub(crate) timeouts: u32,
    pub(crate) dsacks: u32,
    pub(crate) delivered_marked: u32,
    pub(crate) out_of_order: u32,
    pub(crate) reordered: u32,
    /// The number after the urgent data that we sent; that of the urgent byte that we received, and it.
    pub(crate) urgent_end: Seq,
    pub(crate) urgent_at: Seq,
    pub(crate) urgent_byte: u8,
    /// When the path's MTU was last found to be smaller than the link's, seconds; 0 if never.
    pub(crate) pmtu_at_s: u32,
    pub(crate) challenge_ms: u64,
    /// The cookie for our SYN or SYN-ACK, or the request for one; what the answer told; what went wrong.
    pub(crate) fast_open: Option<Cookie>,
    pub(crate) lesson: Option<Lesson>,
    pub(crate) early_failure: EarlyFailure,
    /// What is known of the path's MTU while `PROBING`.
    pub(crate) search: Search,
}

/// What holds for a connection that has no `Extra`.
static NOTHING: Extra = Extra {
    options: Options::NEW,
    total_retransmits: 0,
    bytes_retransmitted: 0,
    timeouts: 0,
    dsacks: 0,
    delivered_marked: 0,
    out_of_order: 0,
    reordered: 0,
    urgent_end: Seq(0),
    urgent_at: Seq(0),
    urgent_byte: 0,
    pmtu_at_s: 0,
    challenge_ms: 0,
    fast_open: None,
    lesson: None,
    early_failure: EarlyFailure::None,
    search: Search::NONE,
};

/// How long the queues of a listener are in each shard that it has a place in: read by all, written by each for
/// itself. Written anew at each change rather than counted up and down, so that a shard whose process was killed
/// in between is wrong until its next change only.
#[derive(Debug)]
pub struct Backlog {
    queues: Box<[Waiters]>,
    /// Numbers connections as they come, so that they are accepted in that order, whatever shards they are in:
    /// programs that open several to one listener rely on it.
    arrivals: AtomicU64,
}

#[derive(Debug)]
struct Waiters {
    ready: AtomicU32,
    opening: AtomicU32,
    /// The number of the one that waits longest, `NOBODY` if none does.
    first: AtomicU64,
}

const NOBODY: u64 = u64::MAX;

impl Backlog {
    pub(crate) fn new(shards: usize) -> Backlog {
        let queue = |_| Waiters { ready: 0.into(), opening: 0.into(), first: NOBODY.into() };
        Backlog { queues: (0..shards).map(queue).collect(), arrivals: 0.into() }
    }

    /// Connections that wait to be accepted in a shard.
    pub fn ready(&self, shard: usize) -> usize {
        self.queues[shard].ready.load(Ordering::Acquire) as usize
    }

    /// The same in all shards.
    pub fn all_ready(&self) -> usize {
        self.queues.iter().map(|queue| queue.ready.load(Ordering::Acquire) as usize).sum()
    }

    /// The shard with the connection that waits longest.
    pub fn next(&self) -> Option<usize> {
        let firsts = self.queues.iter().map(|queue| queue.first.load(Ordering::Acquire)).enumerate();
        let (shard, first) = firsts.min_by_key(|(_, first)| *first)?;
        (first != NOBODY).then_some(shard)
    }

    fn others(&self, own: u8, length: impl Fn(&Waiters) -> &AtomicU32) -> usize {
        let others = self.queues.iter().enumerate().filter(|(shard, _)| *shard != usize::from(own));
        others.map(|(_, queue)| length(queue).load(Ordering::Relaxed) as usize).sum()
    }
}

impl Listener {
    /// Connections that wait to be accepted, in other shards as well.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len() + self.shared.as_ref().map_or(0, |(shared, own)| shared.others(*own, |q| &q.ready))
    }

    /// Half-open connections, in other shards as well.
    #[inline]
    pub(crate) fn opening(&self) -> usize {
        self.half_open + self.shared.as_ref().map_or(0, |(shared, own)| shared.others(*own, |q| &q.opening))
    }

    /// Tells the other shards how long the queues are. After each change of them.
    #[inline]
    pub(crate) fn note(&self) {
        if let Some((shared, own)) = &self.shared {
            let queue = &shared.queues[usize::from(*own)];
            let first = self.ready.front().map_or(NOBODY, |waiting| waiting.arrival);
            queue.first.store(first, Ordering::Release);
            queue.ready.store(self.ready.len() as u32, Ordering::Release);
            queue.opening.store(self.half_open as u32, Ordering::Relaxed);
        }
    }

    /// A connection waits to be accepted.
    pub(crate) fn offer(&mut self, child: u32) {
        let arrival = self.shared.as_ref().map_or(0, |(all, _)| all.arrivals.fetch_add(1, Ordering::Relaxed));
        self.ready.push_back(Waiting { child, arrival });
        self.note();
    }
}

/// A connection in an accept queue.
pub(crate) struct Waiting {
    pub(crate) child: u32,
    /// Its number among those of all shards.
    pub(crate) arrival: u64,
}

/// A listener's queue.
#[derive(Default)]
pub(crate) struct Listener {
    pub(crate) backlog: usize,
    /// Established and not yet accepted.
    pub(crate) ready: VecDeque<Waiting>,
    /// In SYN-RECEIVED.
    pub(crate) half_open: usize,
    /// Until when answers to SYN cookies may come.
    pub(crate) cookies_until_ms: u64,
    /// Handed out before their handshakes are over, and until when others count that were reset (`fast_open.rs`).
    pub(crate) early: usize,
    pub(crate) early_resets: VecDeque<u64>,
    /// What the listener's places in several shards have in common, and which one this is.
    pub(crate) shared: Option<(Arc<Backlog>, u8)>,
    /// A place of a socket that lives in another shard: it owns no port.
    pub(crate) is_replica: bool,
}

/// What the owner set, in milliseconds and bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) keep_idle: u32,
    pub(crate) keep_interval: u32,
    pub(crate) user_timeout: u32,
    pub(crate) defer_accept: u32,
    pub(crate) linger2: u32,
    pub(crate) linger: Option<u32>,
    pub(crate) max_segment: u16,
    pub(crate) keep_count: u8,
    pub(crate) syn_count: u8,
    /// Most that is advertised (TCP_WINDOW_CLAMP); 0 for no bound.
    pub(crate) window_clamp: u32,
    /// Bytes in a second (SO_MAX_PACING_RATE); `u64::MAX` for no bound.
    pub(crate) pacing_rate: u64,
    /// Connections that a listener hands out before their handshakes are over (TCP_FASTOPEN).
    pub(crate) fast_open: u32,
    /// The option travels without a cookie (TCP_FASTOPEN_NO_COOKIE).
    pub(crate) no_cookie: bool,
}

/// A peer that has answered within this many microseconds is near: it needs no large buffers, in which bytes only wait
/// until they have left the cache.
const NEAR_US: u32 = 200;
/// A near peer that takes so long to answer waits for its processor, and a larger buffer fills that time. (4 MiB that
/// wait at 5 GB/s are 0.8 ms: buffers that have grown for that reason shrink when it has gone.)
const BUSY_US: u32 = 1000;
/// How far the send buffer of a connection to a near peer grows by itself: 40 Gbit/s at 100 µs, and with the ring and
/// the owner's own buffer a part of a core's second-level cache.
pub(super) const NEAR_SNDBUF: u32 = 512 << 10;

/// Dynamic right-sizing of the receive buffer: bytes that the reader took in the last round trip.
#[derive(Clone, Copy, Default)]
pub(crate) struct ReceiveGrowth {
    /// The clock's low half when the present round began.
    pub(crate) since_ms: u32,
    pub(crate) copied: u32,
    pub(crate) rtt_seq: Seq,
    /// The clock's low half when the measurement began; 0 if none has.
    pub(crate) rtt_since_us: u32,
    pub(crate) rtt_us: u32,
}

impl Options {
    const NEW: Options = Options {
        keep_idle: 7_200_000,
        keep_interval: 75_000,
        user_timeout: 0,
        defer_accept: 0,
        linger2: 60_000,
        linger: None,
        max_segment: 0,
        keep_count: 9,
        syn_count: 6,
        window_clamp: 0,
        pacing_rate: u64::MAX,
        fast_open: 0,
        no_cookie: false,
    };
}

impl Default for Options {
    fn default() -> Options {
        Options::NEW
    }
}

impl Default for Tcb {
    fn default() -> Tcb {
        Tcb {
            key: FlowKey::NONE,
            generation: 0,
            flags: Flags::empty(),
            rcv_nxt: Seq(0),
            rcv_adv: Seq(0),
            last_ack: Seq(0),
            ts_recent: 0,
            snd_una: Seq(0),
            snd_nxt: Seq(0),
            snd_wnd: 0,
            snd_wl1: Seq(0),
            snd_wl2: Seq(0),
            state: TcpState::Closed,
            news: Ready::empty(),
            ack_delay_ms: FIRST_ACK_DELAY_MS,
            acks_owed: 0,
            cwnd: 0,
            ssthresh: u32::MAX,
            mss: 536,
            rcv_mss: 536,
            snd_shift: 0,
            rcv_shift: 0,
            retries: 0,
            probes: 0,
            tx: Queue::default(),
            rx: Queue::default(),
            timer_at: [NEVER; 3],
            filed_at: NEVER,
            cookie: 0,
            rtt: Rtt::NEW,
            rtt_seq: Seq(0),
            rtt_sent_us: 0,
            ts_offset: 0,
            last_data_ms: 0,
            last_heard_ms: 0,
            last_sent_ms: 0,
            quick_acks: 16,
            hop_limit: 64,
            traffic_class: 0,
            neighbor: u16::MAX,
            max_wnd: 0,
            small_end: Seq(0),
            recover: Seq(0),
            fin_at: Seq(0),
            iss: Seq(0),
            ts_recent_at: 0,
            stalled_ms: 0,
            congestion: Congestion::default(),
            reassembly: None,
            board: None,
            min_rtt: 0,
            tail_end: Seq(0),
            reorder_steps: 1,
            reorder_persist: 0,
            segments_in: 0,
            segments_out: 0,
            data_segments_in: 0,
            data_segments_out: 0,
            extra: None,
            listener: None,
            parent: (NONE, 0),
            error: None,
            soft_error: None,
            sndbuf: 0,
            rcvbuf: 0,
            low_at: 1,
            not_sent_low_at: u32::MAX,
            grow: ReceiveGrowth::default(),
            path_mtu: 1500,
            peer_mss: 536,
            bytes_acked: 0,
            bytes_received: 0,
        }
    }
}

/// The time, in the units that are needed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) ms: u64,
    pub(crate) us: u64,
}

/// Milliseconds since `then`, the low half of the clock at some time in the past 49 days.
#[inline]
pub(crate) fn ago(now_ms: u64, then: u32) -> u64 {
    u64::from((now_ms as u32).wrapping_sub(then))
}

/// What a connection works with besides itself.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Now,
    pub(crate) pool: &'a mut Pool,
    pub(crate) limits: &'a Limits,
    pub(crate) replies: &'a mut super::Replies,
}

impl Tcb {
    /// What few connections have.
    pub(crate) fn extra(&self) -> &Extra {
        self.extra.as_deref().unwrap_or(&NOTHING)
    }

    /// The same to change.
    pub(crate) fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// What the owner set.
    pub(crate) fn options(&self) -> &Options {
        &self.extra().options
    }

    #[inline]
    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.flags.intersects(flags)
    }

    /// Reads something of each line that a segment will need, so that the loads of a batch overlap. (A
    /// prefetch instruction would need `unsafe`; the processor runs ahead over plain loads just as well.)
    #[inline]
    pub(crate) fn touch(&self) -> u32 {
        self.rcv_nxt.0 ^ self.cwnd ^ self.filed_at as u32 ^ self.max_wnd ^ self.stalled_ms
    }

    /// Puts the connection, `index`, on the list of those that want to send.
    #[inline]
    pub(super) fn mark_dirty(&mut self, index: u32, dirty: &mut VecDeque<u32>) {
        if !self.has(Flags::DIRTY) {
            self.flags |= Flags::DIRTY;
            dirty.push_back(index);
        }
    }

    /// Files the next deadline if the wheel would call too late.
    #[inline]
    pub(super) fn file_timer(&mut self, index: u32, wheel: &mut Wheel) {
        debug_assert!(self.is_looked_after(), "data in flight, and no timer");
        let at = self.earliest();
        if at < self.filed_at {
            self.filed_at = at;
            wheel.insert(index, at);
        }
    }

    /// What was sent and not acknowledged has a timer, or is about to be sent again: else a lost segment would be
    /// lost for ever (RFC 6298 section 5).
    fn is_looked_after(&self) -> bool {
        let waits = self.is_synchronized() && self.snd_una != self.snd_nxt;
        let over = matches!(self.state, TcpState::Closed | TcpState::TimeWait);
        !waits || over || self.has(Flags::DIRTY) || self.timer_at[T_RESEND] != NEVER
    }

    /// Puts the socket on the list of events if there is news for an owner.
    #[inline]
    pub(super) fn raise(&mut self, index: u32, events: &mut VecDeque<u32>) {
        if self.news.is_empty() || self.has(Flags::EVENTED | Flags::CHILD | Flags::ORPHAN | Flags::HELD) {
            return;
        }
        self.flags |= Flags::EVENTED;
        events.push_back(index);
    }

    #[inline]
    pub(crate) fn arm(&mut self, timer: usize, at_ms: u64) {
        self.timer_at[timer] = at_ms;
    }

    #[inline]
    pub(crate) fn disarm(&mut self, timer: usize) {
        self.timer_at[timer] = NEVER;
    }

    #[inline]
    pub(crate) fn earliest(&self) -> u64 {
        let at = self.timer_at[0].min(self.timer_at[1]).min(self.timer_at[2]);
        if self.has(Flags::PACED) { at.min(self.congestion.paced_at_us().div_ceil(1000)) } else { at }
    }

    /// Sequence numbers sent and not acknowledged.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.snd_nxt.since(self.snd_una)
    }

    /// The number of the next byte that the owner reads.
    pub(crate) fn read_seq(&self) -> Seq {
        self.rcv_nxt - self.rx.len() - u32::from(self.has(Flags::FIN_RECEIVED))
    }

    /// Bytes that can be read before the urgent mark (SIOCINQ).
    pub(crate) fn readable(&self) -> u32 {
        if !self.has(Flags::URGENT) || self.has(Flags::OOB_INLINE) {
            return self.rx.len();
        }
        self.extra().urgent_at.since(self.read_seq()).min(self.rx.len())
    }

    /// Bytes queued and not sent.
    #[inline]
    pub(crate) fn unsent(&self) -> u32 {
        self.tx.len().saturating_sub(self.in_flight())
    }

    /// FIN has been sent at least once.
    pub(crate) fn fin_sent(&self) -> bool {
        self.has(Flags::FIN_QUEUED) && self.snd_nxt.since(self.snd_una) > self.tx.len()
    }

    pub(crate) fn is_synchronized(&self) -> bool {
        !matches!(
            self.state,
            TcpState::Closed
                | TcpState::Listen
                | TcpState::SynSent
                | TcpState::SynReceived
                | TcpState::TimeWait
        )
    }

    pub(crate) fn can_send(&self) -> bool {
        let open = matches!(self.state, TcpState::Established | TcpState::CloseWait) || self.is_early();
        open && !self.has(Flags::FIN_QUEUED)
    }

    pub(crate) fn can_receive(&self) -> bool {
        matches!(self.state, TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2)
    }

    /// Bytes that may be queued to send.
    pub(crate) fn send_limit(&self, limits: &Limits) -> u32 {
        if self.has(Flags::FIXED_SNDBUF) {
            return self.sndbuf;
        }
        // Twice the congestion window keeps the path full while the owner refills.
        let grown = self.cwnd.saturating_mul(2).min(if self.is_near() { NEAR_SNDBUF } else { u32::MAX });
        self.sndbuf.max(grown).min(limits.sndbuf.1.max(limits.sndbuf.0) as u32)
    }

    /// The peer is a memory or a cable away, and has a processor to answer soon.
    fn is_near(&self) -> bool {
        let near = self.has(Flags::LOOPBACK) || (1..NEAR_US).contains(&self.min_rtt);
        near && self.rtt.smoothed < BUSY_US
    }

    /// A fair number of bytes can be queued: a third of the buffer (sk_stream_is_writeable).
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        u64::from(self.tx.len()) * 3 <= u64::from(self.send_limit(limits)) * 2
            && self.unsent() < self.not_sent_low_at
    }

    /// Level-triggered readiness, as Linux's tcp_poll computes it.
    pub(crate) fn ready(&self, limits: &Limits) -> Ready {
        let mut ready = Ready::empty();
        if self.state == TcpState::Listen {
            let waiting = self.listener.as_ref().is_some_and(|listener| !listener.ready.is_empty());
            ready.set(Ready::READABLE, waiting);
            return ready;
        }
        let peer_closed = self.has(Flags::FIN_RECEIVED | Flags::READ_SHUT);
        let over = matches!(self.state, TcpState::Closed | TcpState::TimeWait);
        ready.set(Ready::ERROR, self.error.is_some());
        ready.set(Ready::PEER_CLOSED, peer_closed || (over && self.has(Flags::WAS_ESTABLISHED)));
        ready.set(Ready::HANGUP, over || (peer_closed && self.has(Flags::FIN_QUEUED)));
        if matches!(self.state, TcpState::SynSent | TcpState::SynReceived) && !self.is_early() {
            return ready;
        }
        ready.set(Ready::URGENT, self.has(Flags::URGENT_BYTE));
        let low = self.low_at.min(self.rcvbuf / 2).max(1);
        ready.set(Ready::READABLE, self.rx.len() >= low || peer_closed || over || self.error.is_some());
        // Writing that would fail at once counts as possible.
        let over_or_shut = over || self.has(Flags::FIN_QUEUED);
        ready.set(Ready::WRITABLE, over_or_shut || self.has_room(limits));
        ready
    }

    /// The same for who acts on it: if it waits for room now, it is told when there is some. Not only a send can have
    /// taken the room: with the congestion window the buffer shrinks under what is queued.
    pub(crate) fn ready_for_owner(&mut self, limits: &Limits) -> Ready {
        let ready = self.ready(limits);
        if !ready.contains(Ready::WRITABLE) {
            self.flags |= Flags::WANTS_ROOM;
        }
        ready
    }

    /// As [`Self::fail`], for what a segment or a timer did.
    pub(super) fn fail_counted(&mut self, error: Error, pool: &mut Pool) {
        if matches!(self.state, TcpState::Established | TcpState::CloseWait) {
            pool.counters.estab_resets += 1;
        }
        if error == Error::TimedOut && !self.has(Flags::HELD) {
            pool.counters.abort_on_timeout += 1;
        }
        self.fail(error);
    }

    /// Notes an error and ends the connection without a word to the peer.
    pub(crate) fn fail(&mut self, error: Error) {
        self.error = Some(error);
        self.state = TcpState::Closed;
        self.timer_at = [NEVER; 3];
        self.news |= Ready::all() - Ready::URGENT;
    }

    /// The window to advertise, and the place where it ends. Never shrinks (RFC 9293 section 3.8.6), and
    /// grows only by worthwhile steps (section 3.8.6.2.2).
    #[inline]
    pub(crate) fn window_edge(&self) -> Seq {
        let space = self.rcvbuf.saturating_sub(self.rx.len()).min(self.window_clamp());
        let edge = self.rcv_nxt + (space >> self.rcv_shift << self.rcv_shift);
        if !edge.after(self.rcv_adv) {
            return self.rcv_adv;
        }
        let step = edge.since(self.rcv_adv);
        let worthwhile = u32::from(self.rcv_mss).min(self.rcvbuf / 2);
        if step >= worthwhile || self.rcv_adv.since(self.rcv_nxt) >= worthwhile { edge } else { self.rcv_adv }
    }

    #[inline]
    fn window_clamp(&self) -> u32 {
        if !self.has(Flags::BOUNDED) {
            return u32::MAX;
        }
        match self.options().window_clamp {
            0 => u32::MAX,
            clamp => clamp,
        }
    }

    /// After the reader took bytes: the peer should hear of the larger window.
    pub(crate) fn window_opened(&self) -> bool {
        let edge = self.window_edge();
        let step = edge.since(self.rcv_adv);
        let left = self.rcv_adv.since(self.rcv_nxt);
        // As Linux (tcp_cleanup_rbuf): when the window at least doubles. Otherwise ACKs carry it.
        step > 0 && step >= left && self.can_receive()
    }

    /// The MSS that we announce (RFC 9293 section 3.7.1).
    pub(crate) fn advertised_mss(&self) -> u16 {
        let mss = self.path_mtu.saturating_sub(self.key.headers() as u16);
        let user = self.options().max_segment;
        if user > 0 { mss.min(user) } else { mss }
    }

    /// Bytes in a second at which the connection may send, if that is bounded: twice a window in each round trip
    /// in slow start, 1.2 windows later (as Linux does), and no more than the owner allows. Only bulk
    /// senders on paths longer than a few ticks of the timer wheel are paced by themselves.
    #[inline]
    pub(crate) fn pacing_rate(&self) -> Option<u64> {
        if self.has(Flags::BULK | Flags::BOUNDED) { self.bounded_rate() } else { None }
    }

    #[cold]
    fn bounded_rate(&self) -> Option<u64> {
        let most = self.options().pacing_rate;
        let srtt = u64::from(self.rtt.smoothed);
        let long = srtt >= PACED_RTT_US && self.cwnd >= PACED_WINDOW && !self.has(Flags::LOOPBACK);
        let own = if self.has(Flags::BULK) && long {
            let factor = if self.cwnd < self.ssthresh / 2 { 200 } else { 120 };
            u64::from(self.cwnd) * factor * 10_000 / srtt
        } else {
            u64::MAX
        };
        let rate = own.min(most);
        (rate != u64::MAX).then_some(rate.max(1))
    }

    /// Largest payload for the path and the peer.
    pub(crate) fn update_mss(&mut self) {
        let user = if self.options().max_segment == 0 { u16::MAX } else { self.options().max_segment };
        let path = self.path_mtu.saturating_sub(self.key.headers() as u16);
        let options = if self.has(Flags::TIMESTAMPS) { super::segment::TIMESTAMP_LEN as u16 } else { 0 };
        // Linux's TCP_MIN_MSS: a peer must not make us send single bytes.
        self.mss = self.peer_mss.min(user).min(path).max(88) - options;
    }

    /// After `congestion` was asked to decide something.
    #[inline]
    pub(crate) fn note_bulk(&mut self) {
        self.flags.set(Flags::BULK, self.congestion.is_bulk());
    }

    pub(crate) fn timestamp_now(&self, now: Now) -> u32 {
        (now.ms as u32).wrapping_add(self.ts_offset)
    }

    /// Gives all buffers back.
    pub(crate) fn clear_buffers(&mut self, pool: &mut Pool) {
        self.tx.clear(pool);
        self.rx.clear(pool);
        if let Some(mut reassembly) = self.reassembly.take() {
            reassembly.clear(pool);
        }
        self.board = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn hot_fields_lie_in_five_lines() {
        assert_eq!(offset_of!(Tcb, state), 64);
        assert_eq!(offset_of!(Tcb, timer_at), 128);
        assert_eq!(offset_of!(Tcb, ts_offset), 192);
        assert_eq!(offset_of!(Tcb, ts_recent_at), 256);
        assert_eq!(offset_of!(Tcb, congestion), 320);
        // With the 8 to 16 bytes of its table entry an idle connection stays below 512 bytes.
        assert!(size_of::<Tcb>() <= 448, "{}", size_of::<Tcb>());
    }
}
