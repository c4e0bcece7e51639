//! What an acknowledgement does while something is lost or seems to be, and the timeouts: RACK-TLP (RFC 8985)
//! over the selective acknowledgements of RFC 2018, proportional rate reduction (RFC 9937), timeouts (RFC
//! 6298) and the undoing of all that when it was a mistake (RFC 3522, RFC 2883, RFC 5682).
//!
//! The argument in short. Every segment in flight is in one of three states (`scoreboard.rs`); what is believed to
//! be in the network is `pipe = flight - sacked - lost`. Sending is allowed while `pipe < cwnd`, lost bytes
//! first. That single rule gives limited transmit (RFC 3042: a block reported lowers `pipe`), recovery and
//! the slow start after a timeout; only `cwnd` differs:
//!
//! - **Open**: it grows (`congestion.rs`).
//! - **RECOVERY**, entered when RACK says that something is lost: proportional rate reduction sets it at each
//!   acknowledgement, so that sending goes on evenly down to `ssthresh`, and not below by more than was lost.
//! - **LOSS**, entered by a timeout: one segment, then slow start.
//!
//! Both end when `recover`, the highest number sent before, is acknowledged. RACK also finds lost
//! retransmissions, so a timeout is the last resort: when nothing comes back at all. Before it, the tail
//! probe (TLP) sends one segment to draw out an acknowledgement that tells of the loss.
//!
//! The probe's patience with a lone segment is where we differ from RFC 8985 section 7.2, which adds the
//! longest time for which the peer may hold its acknowledgement back (Linux: 200 ms, and then the
//! timeout comes first, so that no probe is sent at all). We begin with [`FIRST_ACK_DELAY_MS`], a little more
//! than what Linux's and our own receivers take in a dialogue. When a peer's D-SACK says that the probe was
//! needless, the patience grows by as much again for this connection, up to 200 ms. A needless probe costs one segment and
//! never the window. Answers in time bring the patience down again, for it may have been the acknowledgement
//! that was lost.
//!
//! A peer without SACK gets NewReno (RFC 6582): duplicates are counted, the third means that the head is lost,
//! and each partial acknowledgement that the next one is.

use alloc::boxed::Box;

use super::congestion::Growth;
use super::receive::Act;
use super::rtt::MAX_RTO_US;
use super::scoreboard::{Board, News, Undo};
use super::segment::Segment;
use super::seq::Seq;
use super::tcb::{Ctx, Flags, Now, T_RESEND, Tcb, ago};
use crate::error::Error;

/// How long a lone segment's acknowledgement may be held back, as long as nothing else is known.
pub(crate) const FIRST_ACK_DELAY_MS: u8 = 48;
/// The most (RFC 8985 section 7.2; Linux's TCP_DELACK_MAX).
const MOST_ACK_DELAY_MS: u8 = 200;
/// Duplicate acknowledgements, or segments arrived above a hole, that mean a loss.
const DUP_THRESHOLD: u32 = 3;
/// Recoveries for which a wider reordering window is kept (RFC 8985 section 6.2 step 4).
const REORDER_PERSIST: u8 = 16;
/// The largest congestion window: what sequence numbers allow (RFC 7323 section 2.3).
const MOST_WINDOW: u32 = 1 << 30;

impl Tcb {
    /// Bytes believed to be in the network (RFC 6675 section 4).
    #[inline]
    pub(crate) fn pipe(&self) -> u32 {
        let flight = self.in_flight();
        match &self.board {
            None => flight,
            Some(board) => {
                let gone = board.sacked + board.lost + board.duplicates * u32::from(self.mss);
                flight.saturating_sub(gone)
            }
        }
    }

    /// The board, made if there is none.
    pub(super) fn need_board(&mut self, una: Seq, now: Now) -> &mut Board {
        let (end, rtt) = (self.snd_nxt, self.rtt.smoothed.max(1));
        self.board.get_or_insert_with(|| Box::new(Board::new(una, end, now.us, rtt)))
    }

    /// An acknowledgement that needs more than a look at its number: there is a board, it reports blocks, it
    /// answers a tail probe, or it is a duplicate. `before`: `snd_una` as it was.
    #[cold]
    pub(super) fn troubled_ack(
        &mut self,
        segment: &Segment<'_>,
        before: Seq,
        duplicate: bool,
        ctx: &mut Ctx<'_>,
    ) {
        let (una, now) = (self.snd_una, ctx.now);
        let acked = una.since(before);
        let (blocks, count) = if self.has(Flags::SACK) { segment.sack_blocks() } else { Default::default() };
        let blocks = &blocks[..count];
        let dsack = self.duplicate_report(blocks, segment.ack);
        ctx.pool.counters.dsacks_received += u64::from(dsack.is_some());
        let end = self.snd_nxt;
        let is_new =
            |&&(left, right): &&(Seq, Seq)| left.before(right) && left.after(una) && right.at_most(end);
        self.tail_probe_answered(segment.ack, dsack.is_some(), duplicate);
        let counts = duplicate && !self.has(Flags::SACK);
        if self.board.is_none() && !counts && !blocks.iter().any(|block| is_new(&block)) {
            self.note_duplicate_report(dsack, None);
            if acked > 0 {
                self.grow_window(acked, now);
            }
            return;
        }
        self.need_board(before, now);
        let Some(mut board) = self.board.take() else { return };
        let news = self.read_news(&mut board, segment, acked, blocks.iter().filter(is_new), now);
        self.note_duplicate_report(dsack, Some(&mut board));
        let newly_lost = if self.has(Flags::SACK) {
            board.detect(now.us, self.reorder_window(&board))
        } else {
            self.count_duplicates(&mut board, acked, counts)
        };
        self.board = Some(board);
        self.take_sample(&news, segment, now);
        if acked > 0 && self.was_needless(segment, &news) {
            self.undo_reduction();
            ctx.pool.counters.undone += 1;
        }
        let before = self.has(Flags::RECOVERY);
        self.next_state(acked, &news, newly_lost, counts, now);
        ctx.pool.counters.recoveries += u64::from(self.has(Flags::RECOVERY) && !before);
        self.drop_board_if_done();
    }

    /// Enters what the segment says into the board.
    fn read_news<'a>(
        &mut self,
        board: &mut Board,
        segment: &Segment<'_>,
        acked: u32,
        blocks: impl Iterator<Item = &'a (Seq, Seq)>,
        now: Now,
    ) -> News {
        let (min_rtt, offset) = (self.min_rtt, self.ts_offset);
        let echo = segment.timestamp.filter(|_| self.has(Flags::TIMESTAMPS)).map(|(_, echo)| echo);
        // RFC 8985 section 6.2 step 2: too soon, or the echo of an earlier transmission.
        let earlier = |sent_us: u32| {
            let age = (now.us as u32).wrapping_sub(sent_us);
            let sent_ms = (now.us - u64::from(age).min(now.us)) / 1000;
            let stamp = (sent_ms as u32).wrapping_add(offset);
            age < min_rtt || echo.is_some_and(|echo| (echo.wrapping_sub(stamp) as i32) < 0)
        };
        let mut news = News::default();
        if acked > 0 {
            news = board.acknowledged(self.snd_una, now.us, &earlier);
        }
        for &block in blocks {
            board.selected(block, now.us, &mut news, &earlier);
        }
        if news.reordered {
            self.flags |= Flags::REORDERED;
            self.extra_mut().reordered += 1;
        }
        news
    }

    /// A round trip from what was sent at a known time, else from the echo.
    fn take_sample(&mut self, news: &News, segment: &Segment<'_>, now: Now) {
        if let Some(us) = news.rtt_us {
            self.sample(us);
        } else if news.delivered > 0 && !news.repeated {
            self.sample_echo(segment, now);
        }
    }

    /// RFC 2883 section 4: the first block reports what arrived twice if it lies below the acknowledgement or
    /// inside the second block.
    fn duplicate_report(&self, blocks: &[(Seq, Seq)], ack: Seq) -> Option<(Seq, Seq)> {
        let &(left, right) = blocks.first()?;
        let below = right.at_most(ack);
        let inside = blocks.get(1).is_some_and(|outer| outer.0.at_most(left) && right.at_most(outer.1));
        let sane = left.before(right)
            && right.at_most(self.snd_nxt)
            && !left.before(self.snd_una - self.max_wnd.max(1 << 16));
        (sane && (below || inside)).then_some((left, right))
    }

    /// RFC 8985 section 6.2 step 4: what was sent twice in vain asks for a wider window, once in a round.
    fn note_duplicate_report(&mut self, report: Option<(Seq, Seq)>, board: Option<&mut Board>) {
        let Some((left, right)) = report else { return };
        self.extra_mut().dsacks += 1;
        let Some(board) = board else { return };
        if !self.snd_una.before(board.dsack_round) {
            board.dsack_round = self.snd_nxt;
            self.reorder_steps = self.reorder_steps.saturating_add(1).min(64);
            self.reorder_persist = REORDER_PERSIST;
            self.flags |= Flags::REORDERED;
        }
        if let Some(undo) = &mut board.undo {
            undo.repeated = undo.repeated.saturating_sub(right.since(left));
        }
    }

    /// How long to wait for a hole that was overtaken, microseconds.
    fn reorder_window(&self, board: &Board) -> u32 {
        if !self.has(Flags::REORDERED) {
            let many = board.sacked >= DUP_THRESHOLD * u32::from(self.mss);
            if many || self.has(Flags::RECOVERY | Flags::LOSS) {
                return 0;
            }
        }
        let step = self.min_rtt.max(1) / 4;
        step.saturating_mul(u32::from(self.reorder_steps.max(1))).min(self.rtt.smoothed)
    }

    /// RFC 6582 for a peer without SACK.
    fn count_duplicates(&mut self, board: &mut Board, acked: u32, duplicate: bool) -> u32 {
        let (mss, before) = (u32::from(self.mss), board.lost);
        if acked > 0 {
            board.duplicates = board.duplicates.saturating_sub((acked / mss).saturating_sub(1));
            if self.has(Flags::RECOVERY) && self.snd_una.before(self.recover) {
                // A partial acknowledgement: the next hole begins here.
                board.lose_head(mss);
            } else {
                board.duplicates = 0;
            }
        } else if duplicate {
            board.duplicates += 1;
            // Section 3.2 step 2: not again for a loss that was already repaired.
            let new_loss = !self.has(Flags::RECOVERY | Flags::LOSS) && self.snd_una.after(self.recover);
            if board.duplicates == DUP_THRESHOLD && new_loss {
                board.lose_head(mss);
            }
        }
        board.lost.saturating_sub(before)
    }

    /// The reduction was needless: an acknowledgement of what was sent first came after it was sent again
    /// (RFC 3522; without timestamps RFC 5682), or all that was sent again is reported as duplicate.
    fn was_needless(&self, segment: &Segment<'_>, news: &News) -> bool {
        let Some(undo) = self.board.as_ref().and_then(|board| board.undo) else { return false };
        if !undo.any {
            return false;
        }
        if undo.repeated == 0 {
            return true;
        }
        match segment.timestamp {
            Some((_, echo)) if self.has(Flags::TIMESTAMPS) => {
                (echo.wrapping_sub(undo.stamp) as i32) < 0 && (news.repeated || news.original)
            }
            _ => self.has(Flags::LOSS) && self.has(Flags::SACK) && news.original,
        }
    }

    fn undo_reduction(&mut self) {
        let Some(board) = &mut self.board else { return };
        let Some(undo) = board.undo.take() else { return };
        board.nothing_lost();
        self.cwnd = self.cwnd.max(undo.cwnd);
        self.ssthresh = self.ssthresh.max(undo.ssthresh);
        self.congestion.undo();
        self.flags -= Flags::RECOVERY | Flags::LOSS;
        self.recover = self.snd_una - 1;
    }

    /// The transitions between open, recovery and loss.
    fn next_state(&mut self, acked: u32, news: &News, newly_lost: u32, duplicate: bool, now: Now) {
        if self.has(Flags::RECOVERY | Flags::LOSS) && !self.snd_una.before(self.recover) {
            self.end_recovery();
        }
        if newly_lost > 0 && !self.has(Flags::RECOVERY | Flags::LOSS) && !self.only_probe_lost() {
            self.enter_recovery(news.delivered);
        }
        if self.has(Flags::RECOVERY) {
            let delivered = news.delivered + if duplicate { u32::from(self.mss) } else { 0 };
            self.reduce_proportionally(delivered, acked > 0 && newly_lost == 0);
        } else if acked > 0 {
            self.grow_window(acked, now);
        }
    }

    fn end_recovery(&mut self) {
        if self.has(Flags::RECOVERY) {
            self.cwnd = self.ssthresh;
        }
        self.flags -= Flags::RECOVERY | Flags::LOSS;
        if self.reorder_persist > 0 {
            self.reorder_persist -= 1;
            if self.reorder_persist == 0 {
                self.reorder_steps = 1;
            }
        }
        if let Some(board) = &mut self.board {
            board.keep_until = self.snd_nxt;
        }
    }

    fn enter_recovery(&mut self, delivered: u32) {
        let flight = self.in_flight();
        let undo = Undo { cwnd: self.cwnd, ssthresh: self.ssthresh, stamp: 0, repeated: 0, any: false };
        self.ssthresh = self.congestion.reduce(self.cwnd, flight, u32::from(self.mss));
        self.note_bulk();
        self.recover = self.snd_nxt;
        self.flags |= Flags::RECOVERY | Flags::TELL_REDUCED;
        self.flags -= Flags::TIMING | Flags::TAIL_OUT | Flags::REDUCED;
        self.congestion.forget_marks();
        if let Some(board) = &mut self.board {
            board.undo = Some(undo);
            (board.prr_delivered, board.prr_out) = (0, 0);
            board.prr_flight = (flight.saturating_sub(board.sacked) + delivered).max(1);
        }
    }

    /// RFC 9937 section 6.
    fn reduce_proportionally(&mut self, delivered: u32, safe: bool) {
        let (pipe, mss, ssthresh) = (self.pipe(), u32::from(self.mss), self.ssthresh);
        let Some(board) = &mut self.board else { return };
        if delivered == 0 && board.prr_out > 0 {
            return;
        }
        board.prr_delivered = board.prr_delivered.saturating_add(delivered);
        let count = if pipe > ssthresh {
            let share = u64::from(board.prr_delivered) * u64::from(ssthresh);
            let share = share.div_ceil(u64::from(board.prr_flight)) as u32;
            share.saturating_sub(board.prr_out)
        } else {
            let debt = board.prr_delivered.saturating_sub(board.prr_out).max(delivered);
            (debt + if safe { mss } else { 0 }).min(ssthresh - pipe)
        };
        // The fast retransmission is never held back.
        let count = if board.prr_out == 0 { count.max(mss) } else { count };
        self.cwnd = (pipe + count).max(mss);
    }

    /// Grows the window for `acked` bytes, if it is what limits us (RFC 7661, and Linux's
    /// tcp_is_cwnd_limited).
    pub(super) fn grow_window(&mut self, acked: u32, now: Now) {
        if self.has(Flags::REDUCED) {
            if self.snd_una.before(self.recover) {
                return;
            }
            self.flags -= Flags::REDUCED;
        }
        let flight = self.in_flight() + acked;
        let slow_start = self.cwnd < self.ssthresh;
        let limited = self.has(Flags::CWND_LIMITED) || (slow_start && flight.saturating_mul(2) > self.cwnd);
        if !limited {
            if self.has(Flags::BULK) {
                self.congestion.not_limited(now.ms);
            }
            return;
        }
        let growth = Growth {
            acked,
            cwnd: self.cwnd,
            ssthresh: self.ssthresh,
            mss: u32::from(self.mss),
            rtt_us: self.rtt.smoothed,
            una: self.snd_una,
            next: self.snd_nxt,
            now_ms: now.ms,
        };
        (self.cwnd, self.ssthresh) = self.congestion.grow(&growth);
        self.note_bulk();
        self.cwnd = self.cwnd.min(MOST_WINDOW);
    }

    /// Congestion without a loss to repair: an explicit notification (RFC 3168 section 6.1.2), or a loss that a
    /// tail probe has repaired (RFC 8985 section 7.4). At most once in a round trip.
    pub(super) fn reduce_once(&mut self) {
        if self.has(Flags::RECOVERY | Flags::LOSS | Flags::REDUCED) {
            return;
        }
        self.ssthresh = self.congestion.reduce(self.cwnd, self.in_flight(), u32::from(self.mss));
        self.note_bulk();
        self.cwnd = self.cwnd.min(self.ssthresh);
        self.recover = self.snd_nxt;
        self.flags |= Flags::REDUCED | Flags::TELL_REDUCED;
    }

    fn drop_board_if_done(&mut self) {
        let Some(board) = &self.board else { return };
        let late_reports = board.undo.is_some() && self.snd_una.before(board.keep_until);
        let busy = self.has(Flags::RECOVERY | Flags::LOSS) || late_reports || board.duplicates > 0;
        if self.snd_una == self.snd_nxt || (!busy && !board.is_needed()) {
            self.board = None;
        }
    }

    /// RFC 8985 section 7.4.2: what became of the tail probe.
    fn tail_probe_answered(&mut self, ack: Seq, dsack: bool, duplicate: bool) {
        if !self.has(Flags::TAIL_OUT) || ack.before(self.tail_end) {
            return;
        }
        if !self.has(Flags::TAIL_AGAIN) {
            self.flags -= Flags::TAIL_OUT;
        } else if dsack {
            // Both arrived: it was needless. The peer is slower than we thought, or its acknowledgement was lost:
            // one cannot tell, so each answer in time takes back a little (`sample`).
            self.ack_delay_ms = self.ack_delay_ms.saturating_add(FIRST_ACK_DELAY_MS).min(MOST_ACK_DELAY_MS);
            self.flags -= Flags::TAIL_OUT;
        } else if ack.after(self.tail_end) {
            self.flags -= Flags::TAIL_OUT;
            self.reduce_once();
        } else if duplicate {
            self.flags -= Flags::TAIL_OUT;
        }
    }

    /// Arms T_RESEND for what is in flight: the end of a hole's reordering window, the tail probe or the
    /// timeout, whichever comes first.
    #[inline]
    pub(super) fn arm_resend(&mut self, now: Now) {
        self.flags -= Flags::TAIL_TIMER | Flags::REORDER_TIMER;
        if self.snd_una == self.snd_nxt {
            return self.disarm(T_RESEND);
        }
        let mut at = now.ms + self.rtt.backed_off_ms(self.retries);
        if let Some(board) = &self.board {
            if board.reorder_at < at {
                at = board.reorder_at.max(now.ms + 1);
                self.flags |= Flags::REORDER_TIMER;
            }
        } else if self.has(Flags::SACK) && self.retries == 0 && !self.has(Flags::TAIL_OUT) {
            // RFC 8985 section 7.2.
            let lone = self.in_flight() <= u32::from(self.mss);
            let patience = if lone { u64::from(self.ack_delay_ms) } else { 2 };
            let probe = now.ms + u64::from(self.rtt.smoothed * 2).div_ceil(1000) + patience;
            if probe < at && self.rtt.smoothed > 0 {
                at = probe;
                self.flags |= Flags::TAIL_TIMER;
            }
        }
        self.arm(T_RESEND, at);
    }

    /// The reordering window of a hole is over.
    pub(super) fn reorder_timeout(&mut self, ctx: &mut Ctx<'_>) -> Act {
        let Some(mut board) = self.board.take() else {
            // Nothing is missing any more; what is in flight still needs its timer.
            self.arm_resend(ctx.now);
            return Act::empty();
        };
        let newly_lost = board.detect(ctx.now.us, self.reorder_window(&board));
        self.board = Some(board);
        if newly_lost > 0 && !self.has(Flags::RECOVERY | Flags::LOSS) && !self.only_probe_lost() {
            self.enter_recovery(0);
            ctx.pool.counters.recoveries += 1;
            self.reduce_proportionally(0, false);
        }
        self.arm_resend(ctx.now);
        Act::SEND
    }

    /// RFC 8985 section 7.3: nothing came back for two round trips.
    pub(super) fn tail_timeout(&mut self, ctx: &mut Ctx<'_>) -> Act {
        ctx.pool.counters.loss_probes += 1;
        self.flags |= Flags::SEND_TAIL | Flags::TAIL_OUT;
        self.tail_end = self.snd_nxt;
        self.arm_resend(ctx.now);
        Act::SEND
    }

    /// RFC 6298 section 5.4 to 5.7.
    pub(super) fn data_timeout(&mut self, ctx: &mut Ctx<'_>) -> Act {
        if self.snd_una == self.snd_nxt {
            return Act::empty();
        }
        // A peer that shut its window over data in flight but answers is alive (as in `persist_timeout`).
        let answers = self.snd_wnd == 0
            && !self.has(Flags::ORPHAN)
            && ago(ctx.now.ms, self.last_heard_ms) < u64::from(MAX_RTO_US / 1000);
        if !answers && self.given_up(self.retries, ctx) {
            self.fail_counted(self.soft_error.unwrap_or(Error::TimedOut), ctx.pool);
            return Act::CLOSED;
        }
        let (una, mss) = (self.snd_una, u32::from(self.mss));
        let undo = Undo { cwnd: self.cwnd, ssthresh: self.ssthresh, stamp: 0, repeated: 0, any: false };
        self.need_board(una, ctx.now);
        if self.retries == 0 && !self.has(Flags::RECOVERY | Flags::LOSS) {
            self.ssthresh = self.congestion.reduce(self.cwnd, self.in_flight(), mss);
            self.note_bulk();
            if let Some(board) = &mut self.board {
                board.undo = Some(undo);
            }
        }
        if let Some(board) = &mut self.board {
            board.lose_all();
        }
        self.retries = self.retries.saturating_add(1);
        self.extra_mut().timeouts += 1;
        ctx.pool.counters.timeouts += 1;
        self.suspect_black_hole(ctx.now);
        // What is still in the network is behind the hole and arrives; the window lets one segment out.
        self.cwnd = self.pipe() + u32::from(self.mss);
        self.recover = self.snd_nxt;
        self.min_rtt = 0;
        self.flags -= Flags::RECOVERY | Flags::TIMING | Flags::TAIL_OUT | Flags::REDUCED;
        self.flags |= Flags::LOSS | Flags::TELL_REDUCED;
        self.congestion.forget_marks();
        if self.snd_wnd == 0 {
            // The window closed over data in flight: resend one segment anyway, it is also the probe.
            self.flags |= Flags::RESEND_HEAD;
        }
        self.arm_resend(ctx.now);
        Act::SEND
    }

    /// The path takes only smaller packets (RFC 1191 section 6.4): what is in flight is sent again at once, and
    /// the window stays, for it was no congestion.
    pub(super) fn path_shrank(&mut self, now: Now) {
        if !self.is_synchronized() || self.snd_una == self.snd_nxt {
            return;
        }
        let una = self.snd_una;
        self.need_board(una, now).lose_all();
        self.recover = self.snd_nxt;
        self.flags -= Flags::TIMING | Flags::RECOVERY | Flags::TAIL_OUT;
        self.flags |= Flags::LOSS;
        self.congestion.forget_marks();
        self.arm_resend(now);
    }
}
