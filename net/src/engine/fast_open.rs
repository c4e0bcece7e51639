//! TCP Fast Open (RFC 7413): data in a SYN, for peers that have met before.
//!
//! The server's side keeps nothing for a peer: its cookie is a keyed hash of both addresses. A SYN with the right one
//! makes a connection that the listener hands out at once, in SYN-RECEIVED: it may be read and written, and its first
//! number counts as acknowledged (`snd_una` is behind it from the start), so that data in flight are
//! counted as everywhere else; only the timer knows that the SYN-ACK is not answered yet. How many such connections a
//! listener bears is its owner's to say (TCP_FASTOPEN); those that a RST ended count for a minute longer, since
//! that RST is what the victim of a forged SYN sends (section 5.1).
//!
//! The client's side remembers cookies, a peer's MSS, and that SYNs with data got lost: then it does without for a
//! while, longer each time. What a server does not take of the data goes out after the handshake like any other.
//!
//! Both are off unless the owner turns them on ([`FastOpen`]). Left out: the experimental form of the option (RFC 6994),
//! keys set by programs (TCP_FASTOPEN_KEY).

use hashbrown::HashMap;

use super::congestion::Congestion;
use super::segment::{Header, Segment, SynOptions};
use super::seq::Seq;
use super::tcb::{Ctx, Flags, Listener, NONE, Now, T_ACK, Tcb};
use super::{NO_PARENT, Tcp};
use crate::config::{Config, FastOpen};
use crate::error::Error;
use crate::ip::addr::Addr;

/// The option's number (RFC 7413 section 4.1.1).
pub(crate) const KIND: u8 = 34;
/// The MSS of a peer that has not told one yet (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// The most that options take in a header.
const OPTION_SPACE: u16 = 40;
/// Peers remembered; the table begins anew when it is full.
const MAX_PEERS: usize = 4096;
/// How long a connection that a RST ended counts against its listener (section 5.1).
const RESET_MS: u64 = 60_000;
/// After so many SYNs with data were lost in a row none is sent for a minute, two, four, ...
const LOSSES: u8 = 2;

/// A cookie; of length 0 the request for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cookie {
    bytes: [u8; 16],
    len: u8,
}

impl Cookie {
    /// What follows the option's first two bytes; `None` for a length that section 4.1.1 does not allow.
    pub(crate) fn read(body: &[u8]) -> Option<Cookie> {
        let valid = body.is_empty() || (4..=16).contains(&body.len()) && body.len().is_multiple_of(2);
        let mut cookie = Cookie { bytes: [0; 16], len: body.len() as u8 };
        valid.then(|| cookie.bytes[..body.len()].copy_from_slice(body))?;
        Some(cookie)
    }

    pub(crate) fn from_hash(hash: u64) -> Cookie {
        let mut cookie = Cookie { bytes: [0; 16], len: 8 };
        cookie.bytes[..8].copy_from_slice(&hash.to_be_bytes());
        cookie
    }

    pub(crate) fn is_request(&self) -> bool {
        self.len == 0
    }

    /// Appends the option, padded in front.
    pub(crate) fn write(&self, header: &mut Header) {
        let len = usize::from(self.len);
        for _ in 0..(2 + len).next_multiple_of(4) - (2 + len) {
            header.option(&[1]);
        }
        header.option(&[KIND, 2 + self.len]);
        header.option(&self.bytes[..len]);
    }
}

/// What a handshake told of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lesson {
    cookie: Option<Cookie>,
    mss: u16,
    /// A SYN with data got lost, as far as can be told.
    lost: bool,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) cookie: Cookie,
    mss: u16,
    losses: u8,
    lost_at_ms: u64,
}

impl Known {
    const NOTHING: Known =
        Known { cookie: Cookie { bytes: [0; 16], len: 0 }, mss: DEFAULT_MSS, losses: 0, lost_at_ms: 0 };

    /// Something on the way seems to swallow SYNs with data or with the option.
    fn is_barred(&self, now_ms: u64) -> bool {
        self.losses >= LOSSES && now_ms < self.lost_at_ms + (60_000 << self.losses.min(16))
    }
}

/// Servers by our address and theirs.
#[derive(Default)]
pub(crate) struct Peers {
    known: HashMap<(Addr, Addr), Known>,
}

impl Peers {
    /// What is known of a server. `None` if a SYN to it should be an ordinary one.
    pub(crate) fn get(&self, local: Addr, remote: Addr, now_ms: u64) -> Option<Known> {
        let known = self.known.get(&(local, remote)).copied().unwrap_or(Known::NOTHING);
        (!known.is_barred(now_ms)).then_some(known)
    }

    fn learn(&mut self, local: Addr, remote: Addr, lesson: Lesson, now_ms: u64) {
        if self.known.len() >= MAX_PEERS && !self.known.contains_key(&(local, remote)) {
            self.known.clear();
        }
        let known = self.known.entry((local, remote)).or_insert(Known::NOTHING);
        known.mss = lesson.mss;
        known.cookie = lesson.cookie.filter(|cookie| !cookie.is_request()).unwrap_or(known.cookie);
        if lesson.lost {
            known.losses = known.losses.saturating_add(1);
            known.lost_at_ms = now_ms;
        } else {
            known.losses = 0;
        }
    }

    /// Every address that is kept here by its short name.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Addr> + '_ {
        self.known.keys().flat_map(|&(local, remote)| [local, remote])
    }
}

impl Listener {
    /// Another connection may be handed out before its handshake is over.
    fn takes_early(&mut self, most: usize, now_ms: u64) -> bool {
        while self.early_resets.front().is_some_and(|&until| until <= now_ms) {
            self.early_resets.pop_front();
        }
        self.early + self.early_resets.len() < most
    }
}

impl Tcb {
    /// Handed out before its handshake is over.
    #[inline]
    pub(crate) fn is_early(&self) -> bool {
        self.has(Flags::FAST_OPEN) && self.state == crate::socket::tcp::TcpState::SynReceived
    }

    /// How many bytes of data the SYN may bring to that server.
    pub(crate) fn early_room(&self, known: &Known) -> usize {
        let path = self.path_mtu.saturating_sub(self.key.headers() as u16);
        usize::from(known.mss.min(path).saturating_sub(OPTION_SPACE))
    }

    /// The SYN's data are taken, and the first number counts as acknowledged.
    fn open_early(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) {
        let next = self.iss + 1;
        (self.snd_una, self.snd_nxt) = (next, next);
        self.flags |= Flags::FAST_OPEN | Flags::WAS_ESTABLISHED;
        self.cwnd = Congestion::initial_window(u32::from(self.mss));
        self.last_heard_ms = ctx.now.ms as u32;
        if !segment.payload.is_empty() {
            self.flags |= Flags::SYN_DATA;
            self.take_payload(segment.seq + 1, segment.payload, ctx);
        }
        // The SYN-ACK acknowledges it.
        self.flags -= Flags::ACK_NOW;
        self.acks_owed = 0;
        self.disarm(T_ACK);
    }

    /// A SYN-ACK came. What it acknowledges of the SYN's data leaves the queue, and what it says of the server goes to
    /// `Tcp::learn`. True if there is something to learn.
    pub(super) fn early_answered(
        &mut self,
        segment: &Segment<'_>,
        options: &SynOptions,
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let carried = self.has(Flags::FAST_OPEN);
        let taken = segment.ack.since(self.snd_nxt);
        self.flags -= Flags::FAST_OPEN;
        if taken > 0 {
            self.flags |= Flags::SYN_DATA;
            self.tx.consume(ctx.pool, taken);
            self.bytes_acked += u64::from(taken);
            self.snd_nxt = segment.ack;
        }
        ctx.pool.counters.fast_open_active += u64::from(taken > 0);
        ctx.pool.counters.fast_open_active_fail += u64::from(carried && taken == 0);
        let again = self.retries > 0;
        let Some(extra) = self.extra.as_deref_mut().filter(|extra| extra.fast_open.is_some()) else {
            return false;
        };
        let lost = carried && taken == 0 && again && options.fast_open.is_none();
        let mss = options.mss.unwrap_or(DEFAULT_MSS);
        extra.early_failure = match (carried, taken) {
            (true, 1..) => EarlyFailure::None,
            _ if again => EarlyFailure::Repeated,
            (true, _) => EarlyFailure::NotTaken,
            (false, _) => EarlyFailure::NoCookie,
        };
        extra.lesson = Some(Lesson { cookie: options.fast_open, mss, lost });
        true
    }
}

/// Why the data of a SYN had to be sent again, or were not in it (tcpi_fastopen_client_fail).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum EarlyFailure {
    /// They were taken, or there was no attempt.
    #[default]
    None,
    /// The server was not known yet.
    NoCookie,
    /// The server did not take them.
    NotTaken,
    /// The SYN had to be sent again.
    Repeated,
}

impl Tcp {
    /// A SYN for `parent` made connection `index`: whether its data may be taken now, and whether the SYN-ACK should
    /// bring a cookie (RFC 7413 section 4.2.2).
    pub(super) fn consider_early(
        &mut self,
        parent: u32,
        index: u32,
        segment: &Segment<'_>,
        options: &SynOptions,
        pair: u64,
        now: Now,
        config: &Config,
    ) {
        if !config.fast_open.contains(FastOpen::SERVER) {
            return;
        }
        let most = self.sockets[parent].options().fast_open as usize;
        let Some(queue) = self.sockets[parent].listener.as_deref_mut() else { return };
        let most = if most == 0 && config.fast_open.contains(FastOpen::ALL_LISTENERS) {
            queue.backlog
        } else {
            most
        };
        // Each shard sees its own alone.
        let most = most.div_ceil(usize::from(config.shards.max(1)));
        let free = config.fast_open.contains(FastOpen::SERVER_WITHOUT_COOKIE) && !segment.payload.is_empty();
        if most == 0 || !(free || options.fast_open.is_some()) {
            return;
        }
        if !queue.takes_early(most, now.ms) {
            self.pool.counters.fast_open_overflow += 1;
            return;
        }
        let cookie = Cookie::from_hash(self.secrets.fast_open(pair));
        if !free && options.fast_open != Some(cookie) {
            let asks = options.fast_open.is_some_and(|cookie| cookie.is_request());
            self.pool.counters.fast_open_cookies += u64::from(asks);
            self.pool.counters.fast_open_passive_fail += u64::from(!asks);
            self.sockets[index].extra_mut().fast_open = Some(cookie);
            return;
        }
        self.pool.counters.fast_open_passive += 1;
        queue.early += 1;
        self.half_open_ended(index);
        let mut ctx = Ctx { now, pool: &mut self.pool, limits: &config.limits, replies: &mut self.replies };
        self.sockets[index].open_early(segment, &mut ctx);
        self.offer(index);
    }

    /// The handshake of an early connection is over, one way or the other.
    pub(super) fn early_ended(&mut self, index: u32, reset: bool, now: Now) {
        let tcb = &mut self.sockets[index];
        tcb.flags -= Flags::FAST_OPEN;
        let (parent, generation) = tcb.parent;
        if !tcb.has(Flags::CHILD) {
            tcb.parent = NO_PARENT;
        }
        if parent == NONE || self.sockets[parent].generation != generation {
            return;
        }
        if let Some(queue) = &mut self.sockets[parent].listener {
            queue.early = queue.early.saturating_sub(1);
            if reset {
                queue.early_resets.push_back(now.ms + RESET_MS);
            }
        }
    }

    /// Early connection `index` was closed by what a segment or a timer did.
    pub(super) fn early_closed(&mut self, index: u32, now: Now) {
        let reset = self.sockets[index].error == Some(Error::Reset);
        self.early_ended(index, reset, now);
    }

    /// Remembers what a handshake told.
    #[cold]
    pub(super) fn learn(&mut self, index: u32, now: Now) {
        let tcb = &mut self.sockets[index];
        let (local, remote) = (tcb.key.local, tcb.key.remote);
        if let Some(lesson) = tcb.extra.as_deref_mut().and_then(|extra| extra.lesson.take()) {
            self.peers.learn(local, remote, lesson, now.ms);
        }
    }
}

/// The number that a repeated SYN of an early connection has.
pub(super) fn is_its_syn(tcb: &Tcb, seq: Seq) -> bool {
    tcb.is_early() && seq + 1 + tcb.bytes_received as u32 == tcb.rcv_nxt
}
