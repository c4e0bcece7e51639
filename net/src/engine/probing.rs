//! The path's MTU where nobody tells it (RFC 4821, RFC 8899): down when large segments vanish without a word, and up
//! again step by step.
//!
//! After some timeouts in a row with a full segment at the head, the segments shrink (a *black hole*). What was lost may
//! have been an outage and not their size; and between the small size and the link's there may be one that passes. So a
//! segment of a larger size, a *probe*, is sent now and then in the midst of a bulk transfer: first of the link's size,
//! then by halves. If it is acknowledged the path takes it. If it was lost that is no congestion and the
//! window stays (RFC 4821 section 7.6.2), provided that the peer's SACK blocks show it to be the only loss. A size that was
//! lost twice is given up; ten minutes after the search is over it begins anew.
//!
//! Left out: probes of connections that never meet a black hole (there is nothing above the link's size), of those
//! that send little at a time, and what other connections to the same destination have learnt.

use super::queue::Pool;
use super::seq::Seq;
use super::tcb::{Flags, Now, Tcb};
use crate::ip::link::{Blocked, Link};

/// Timeouts in a row after which the path is suspected to swallow large packets (RFC 4821 section 7.7).
const BLACK_HOLE_TIMEOUTS: u8 = 3;
/// The size to which a black hole makes us fall (RFC 8899's BASE_PLPMTU), then half of it.
const BASE_MTU: u16 = 1200;
const LEAST_MTU: u16 = 576;
/// RFC 8899's PMTU_RAISE_TIMER.
const RAISE_MS: u64 = 600_000;
/// Between the fall and the first probe, and between one that was lost and the next.
const PAUSE_MS: u64 = 100;
/// Losses of one size that are believed (RFC 8899's MAX_PROBES has three, of probes without data).
const MAX_PROBES: u8 = 2;
/// A difference that is not worth looking for.
const WORTHWHILE: u16 = 16;
/// Segments that follow a probe, so that its loss is seen by what arrives behind it.
const FOLLOWING: u32 = 4;

/// Where the search stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Search {
    /// The largest packet that may pass, as far as is known.
    high: u16,
    /// The size of the probe that is out; 0 if none is.
    size: u16,
    /// Its numbers.
    start: Seq,
    end: Seq,
    /// How often the present size was lost.
    failures: u8,
    /// The present size was chosen by halves.
    halving: bool,
    /// No probe before that.
    next_ms: u64,
}

impl Search {
    pub(crate) const NONE: Search =
        Search { high: 0, size: 0, start: Seq(0), end: Seq(0), failures: 0, halving: false, next_ms: 0 };
}

impl Tcb {
    /// A path that drops large packets without a word (RFC 4821 section 7.7, RFC 8899 section 4.3): after some
    /// timeouts in a row with a full-size segment at the head, smaller ones are tried.
    pub(super) fn suspect_black_hole(&mut self, now: Now) {
        let full = self.tx.len().min(self.in_flight()) >= u32::from(self.mss);
        let again =
            self.retries >= BLACK_HOLE_TIMEOUTS && (self.retries - BLACK_HOLE_TIMEOUTS).is_multiple_of(2);
        if !full || !again || self.has(Flags::LOOPBACK) || self.snd_wnd == 0 {
            return;
        }
        let smaller = if self.path_mtu > BASE_MTU { BASE_MTU } else { LEAST_MTU };
        if smaller < self.path_mtu {
            let high = if self.has(Flags::PROBING) { self.extra().search.high } else { self.path_mtu };
            self.extra_mut().search =
                Search { high: high.max(self.path_mtu), next_ms: now.ms + PAUSE_MS, ..Search::NONE };
            self.flags |= Flags::PROBING;
            self.path_mtu = smaller;
            self.update_mss();
        }
    }

    /// A router has told the size, or there is nothing left to find.
    pub(super) fn end_search(&mut self) {
        self.flags -= Flags::PROBING;
    }

    /// Sends a probe if it is time for one and enough is there to be sent.
    #[cold]
    pub(super) fn probe_path(
        &mut self,
        now: Now,
        pool: &mut Pool,
        link: &mut Link<'_>,
    ) -> Result<(), Blocked> {
        let search = self.extra().search;
        let troubled = self.board.is_some() || self.retries > 0 || self.has(Flags::TAIL_OUT | Flags::PERSIST);
        if search.size != 0 || now.ms < search.next_ms || troubled || !self.can_send() {
            return Ok(());
        }
        let Some(size) = self.next_size(now, link.mtu) else { return Ok(()) };
        let payload = size - self.overhead();
        let need = u32::from(payload) + FOLLOWING * u32::from(self.mss);
        let open = self.cwnd.saturating_sub(self.pipe()).min(self.snd_wnd.saturating_sub(self.in_flight()));
        if self.unsent() < need || open < need {
            return Ok(());
        }
        let start = self.snd_nxt;
        // For the time of this segment it is the size of a segment.
        let mss = core::mem::replace(&mut self.mss, payload);
        let sent = self.send_next(payload.into(), false, now, pool, link);
        self.mss = mss;
        sent?;
        let search = &mut self.extra_mut().search;
        (search.size, search.start, search.end) = (size, start, start + u32::from(payload));
        Ok(())
    }

    /// The size to try. `None` if the search is over for now.
    fn next_size(&mut self, now: Now, link_mtu: usize) -> Option<u16> {
        let most = link_mtu.min(65_535) as u16;
        let most = most.min(self.peer_mss.saturating_add(self.key.headers() as u16));
        let low = self.path_mtu;
        let search = &mut self.extra_mut().search;
        let high = search.high.min(most);
        if high <= low || (search.halving && high - low < WORTHWHILE) {
            let done = low >= most;
            *search = Search { high: most, next_ms: now.ms + RAISE_MS, ..Search::NONE };
            if done {
                self.end_search();
            }
            return None;
        }
        // By halves from above: what was lost is not tried again, and the last step ends at `high`.
        Some(if search.halving { low + (high - low).div_ceil(2) } else { high })
    }

    /// Bytes of a packet that are not data.
    fn overhead(&self) -> u16 {
        let options = if self.has(Flags::TIMESTAMPS) { super::segment::TIMESTAMP_LEN } else { 0 };
        self.key.headers() as u16 + options as u16
    }

    /// `snd_una` moved on.
    #[cold]
    pub(super) fn probe_acknowledged(&mut self, now: Now, pool: &mut Pool) {
        let una = self.snd_una;
        let search = &mut self.extra_mut().search;
        if search.size == 0 || una.before(search.end) {
            return;
        }
        let size = search.size;
        (search.size, search.failures, search.halving) = (0, 0, true);
        search.next_ms = now.ms;
        self.path_mtu = size;
        self.update_mss();
        pool.counters.mtup_success += 1;
    }

    /// Something was sent again: if it was the probe, its size did not pass.
    #[cold]
    pub(super) fn probe_repeated(&mut self, seq: Seq, now: Now, pool: &mut Pool) {
        let search = &mut self.extra_mut().search;
        if search.size == 0 || seq.before(search.start) || !seq.before(search.end) {
            return;
        }
        pool.counters.mtup_fail += 1;
        search.failures += 1;
        if search.failures >= MAX_PROBES {
            (search.high, search.failures, search.halving) = (search.size - 1, 0, true);
        }
        search.size = 0;
        search.next_ms = now.ms + PAUSE_MS;
    }

    /// The loss that was just found is the probe and nothing else: it is sent again, and the window stays.
    #[inline]
    pub(super) fn only_probe_lost(&self) -> bool {
        self.has(Flags::PROBING) && self.probe_is_the_loss()
    }

    #[cold]
    fn probe_is_the_loss(&self) -> bool {
        let search = self.extra().search;
        let len = search.end.since(search.start);
        let lost = self.board.as_ref().map(|board| (board.lost, board.next_lost(u32::MAX)));
        self.has(Flags::SACK) && search.size != 0 && lost == Some((len, Some((search.start, len))))
    }
}
