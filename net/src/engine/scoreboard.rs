//! What is known of each byte in flight: a run-length list of what arrived, what is lost, and what was sent
//! again and when (RFC 2018, RFC 6675, RFC 8985 section 5).
//!
//! Exists only while something is wrong: made at the first selective acknowledgement, tail probe or timeout,
//! dropped when the hole is filled. A connection without losses has none, so no time of sending is kept
//! for its segments. That costs RACK nothing that it needs. Segments sent before the board existed
//! were sent in the order of their numbers, so their numbers say which was sent first; and the
//! moment at which a hole was overtaken, that is when something sent later arrived, is seen here: the hole
//! is stamped as sent one round trip before (no later than the board's birth, so that it never seems younger
//! than a retransmission). RACK's rule "lost when `sent + rtt + reordering window` has passed" then reads "lost
//! when it was overtaken a reordering window ago", which is what it means. Everything sent later is
//! stamped with its true time.

use alloc::vec::Vec;

use super::seq::Seq;
use super::tcb::NEVER;

/// Runs that a peer's blocks may make; what would make more is not noted (RFC 2018 section 4: advisory).
const MAX_RUNS: usize = 4096;

/// What is believed of a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// On its way.
    Flying,
    /// Lost, and not sent again since.
    Lost,
    /// Selectively acknowledged.
    Sacked,
}

/// Bytes that share a fate, up to the next run's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) start: Seq,
    /// The low half of the clock at the last transmission, if `stamped`.
    pub(crate) sent_us: u32,
    pub(crate) state: State,
    /// `sent_us` is known or estimated.
    pub(crate) stamped: bool,
    /// Sent more than once.
    pub(crate) again: bool,
}

/// What an acknowledgement newly told of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    /// Bytes that arrived.
    pub(crate) delivered: u32,
    /// Some of them were sent only once.
    pub(crate) original: bool,
    /// Some of them were sent again.
    pub(crate) repeated: bool,
    /// Something below the highest arrived number came late, though sent only once: reordering.
    pub(crate) reordered: bool,
    /// The round trip of the most recently sent of what arrived, if its time of sending is known.
    pub(crate) rtt_us: Option<u32>,
}

/// What to return to if a recovery turns out to have been needless.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    pub(crate) cwnd: u32,
    pub(crate) ssthresh: u32,
    /// Our timestamp when the first segment was sent again (RFC 3522).
    pub(crate) stamp: u32,
    /// Bytes sent again that the peer has not reported as duplicates.
    pub(crate) repeated: u32,
    /// Something was sent again.
    pub(crate) any: bool,
}

/// The board.
#[derive(Debug)]
pub(crate) struct Board {
    runs: Vec<Run>,
    /// The number after the last byte sent.
    pub(crate) end: Seq,
    /// Bytes in `State::Sacked` and in `State::Lost`.
    pub(crate) sacked: u32,
    pub(crate) lost: u32,
    /// Segments that a peer without SACK acknowledged by duplicates.
    pub(crate) duplicates: u32,
    /// The highest number that arrived.
    pub(crate) fack: Seq,
    /// RACK: the most recently sent segment that arrived, and its round trip.
    rack_us: u32,
    rack_end: Seq,
    pub(crate) rack_rtt: u32,
    born_us: u32,
    /// When the reordering window of some hole ends.
    pub(crate) reorder_at: u64,
    /// RFC 6937: bytes delivered and sent in this recovery, and in flight when it began.
    pub(crate) prr_delivered: u32,
    pub(crate) prr_out: u32,
    pub(crate) prr_flight: u32,
    pub(crate) undo: Option<Undo>,
    /// The board is kept until this number is acknowledged, for late reports of duplicates.
    pub(crate) keep_until: Seq,
    /// The last reduction answered reports of duplicates in this round already.
    pub(crate) dsack_round: Seq,
}

impl Board {
    /// Everything from `una` to `end` flies, sent at times unknown.
    pub(crate) fn new(una: Seq, end: Seq, now_us: u64, rtt_us: u32) -> Board {
        let now = now_us as u32;
        let run = Run { start: una, sent_us: 0, state: State::Flying, stamped: false, again: false };
        Board {
            runs: alloc::vec![run],
            end,
            sacked: 0,
            lost: 0,
            duplicates: 0,
            fack: una,
            rack_us: now.wrapping_sub(1 << 30),
            rack_end: una,
            rack_rtt: rtt_us,
            born_us: now,
            reorder_at: NEVER,
            prr_delivered: 0,
            prr_out: 0,
            prr_flight: 0,
            undo: None,
            keep_until: una,
            dsack_round: una,
        }
    }

    fn run_end(&self, i: usize) -> Seq {
        self.runs.get(i + 1).map_or(self.end, |next| next.start)
    }

    fn run_len(&self, i: usize) -> u32 {
        self.run_end(i).since(self.runs[i].start)
    }

    /// Makes a run begin at `at` and returns its index; `runs.len()` for the end.
    fn split(&mut self, at: Seq) -> usize {
        let i = self.runs.partition_point(|run| run.start.before(at));
        if !at.before(self.end) || self.runs.get(i).is_some_and(|run| run.start == at) {
            return i;
        }
        if i == 0 {
            return 0; // Before the first: nothing to cut.
        }
        let run = Run { start: at, ..self.runs[i - 1] };
        self.runs.insert(i, run);
        i
    }

    /// New bytes up to `end` were sent.
    pub(crate) fn extend(&mut self, end: Seq, now_us: u64) {
        let sent_us = now_us as u32;
        let start = self.end;
        self.end = end;
        let mergeable =
            |run: &&Run| run.state == State::Flying && run.stamped && !run.again && run.sent_us == sent_us;
        if start != end && self.runs.last().filter(mergeable).is_none() {
            self.runs.push(Run { start, sent_us, state: State::Flying, stamped: true, again: false });
        }
    }

    /// Everything before `ack` arrived. `spurious(sent_us)`: an acknowledgement of something sent again at that
    /// time is for an earlier transmission (RFC 8985 section 6.2 step 2).
    pub(crate) fn acknowledged(&mut self, ack: Seq, now_us: u64, spurious: &dyn Fn(u32) -> bool) -> News {
        let mut news = News::default();
        let upto = self.split(ack);
        let late = ack.before(self.fack);
        for i in 0..upto {
            let (run, len, end) = (self.runs[i], self.run_len(i), self.run_end(i));
            match run.state {
                State::Sacked => self.sacked -= len,
                State::Lost => self.lost -= len,
                State::Flying => {}
            }
            if run.state != State::Sacked {
                news.delivered += len;
                news.original |= !run.again;
                news.repeated |= run.again;
                news.reordered |= !run.again && (late || end.before(self.fack));
                self.arrived(run, end, now_us, &mut news, spurious);
            }
        }
        self.runs.drain(..upto);
        self.fack = self.fack.latest(ack);
        news
    }

    /// A block was reported.
    pub(crate) fn selected(
        &mut self,
        (left, right): (Seq, Seq),
        now_us: u64,
        news: &mut News,
        spurious: &dyn Fn(u32) -> bool,
    ) {
        if self.runs.len() >= MAX_RUNS {
            return;
        }
        let (from, to) = (self.split(left), self.split(right));
        // The insertion of `right` does not move `from`: it is farther back.
        let fack = self.fack;
        for i in from..to {
            let (run, len, end) = (self.runs[i], self.run_len(i), self.run_end(i));
            if run.state == State::Sacked {
                continue;
            }
            if run.state == State::Lost {
                self.lost -= len;
            }
            self.sacked += len;
            self.runs[i].state = State::Sacked;
            news.delivered += len;
            news.original |= !run.again;
            news.repeated |= run.again;
            news.reordered |= !run.again && end.at_most(fack);
            self.arrived(run, end, now_us, news, spurious);
        }
        self.fack = self.fack.latest(right);
        self.merge(from.saturating_sub(1), to);
    }

    /// Joins neighbouring arrived runs from `from` to one behind `to`.
    fn merge(&mut self, from: usize, to: usize) {
        let last = to.min(self.runs.len().saturating_sub(1));
        let mut i = last;
        while i > from {
            if self.runs[i].state == State::Sacked && self.runs[i - 1].state == State::Sacked {
                self.runs.remove(i);
            }
            i -= 1;
        }
    }

    /// RACK step 2 (RFC 8985 section 6.2): the most recently sent of what arrived.
    fn arrived(&mut self, run: Run, end: Seq, now_us: u64, news: &mut News, spurious: &dyn Fn(u32) -> bool) {
        let now = now_us as u32;
        if run.again && spurious(run.sent_us) {
            return;
        }
        let sent = if run.stamped {
            // Sent before the board was made, and so with an estimated time: no sample.
            if run.again || after(run.sent_us, self.born_us) {
                self.rack_rtt = now.wrapping_sub(run.sent_us).max(1);
                news.rtt_us = Some(news.rtt_us.unwrap_or(u32::MAX).min(self.rack_rtt));
            }
            run.sent_us
        } else {
            self.estimate(now)
        };
        if after(sent, self.rack_us) || (sent == self.rack_us && end.after(self.rack_end)) {
            (self.rack_us, self.rack_end) = (sent, end);
        }
    }

    /// When something unstamped that arrives now must have been sent.
    fn estimate(&self, now: u32) -> u32 {
        let sent = now.wrapping_sub(self.rack_rtt);
        if after(sent, self.born_us) { self.born_us } else { sent }
    }

    /// RACK step 5: marks what is lost by now. Returns the bytes newly lost; `reorder_at` says when to look
    /// again.
    pub(crate) fn detect(&mut self, now_us: u64, window_us: u32) -> u32 {
        let (now, before) = (now_us as u32, self.lost);
        let overtaken = self.estimate(now);
        let fresh = after(self.rack_us, self.born_us);
        self.reorder_at = NEVER;
        let mut wait = 0;
        for i in 0..self.runs.len() {
            let (run, end) = (self.runs[i], self.run_end(i));
            if run.state != State::Flying {
                continue;
            }
            if !run.stamped {
                if !(fresh || end.at_most(self.rack_end)) {
                    continue;
                }
                (self.runs[i].stamped, self.runs[i].sent_us) = (true, overtaken);
            }
            let sent = self.runs[i].sent_us;
            let sent_before = after(self.rack_us, sent) || (self.rack_us == sent && self.rack_end.after(end));
            if !sent_before {
                continue;
            }
            let age = now.wrapping_sub(sent);
            let patience = self.rack_rtt.saturating_add(window_us);
            if age >= patience {
                self.runs[i].state = State::Lost;
                self.lost += end.since(run.start);
            } else {
                wait = wait.max(patience - age);
            }
        }
        if wait > 0 {
            self.reorder_at = (now_us + u64::from(wait)).div_ceil(1000);
        }
        self.lost - before
    }

    /// A timeout (RFC 6675 section 5.1, RFC 8985 section 6.3): all that did not arrive is lost. A peer that
    /// has thrown away what it reported (its window's start is "arrived") is not believed any more.
    pub(crate) fn lose_all(&mut self) {
        let reneged = self.runs.first().is_some_and(|run| run.state == State::Sacked);
        for i in 0..self.runs.len() {
            let len = self.run_len(i);
            let state = self.runs[i].state;
            if state == State::Flying || (reneged && state == State::Sacked) {
                self.runs[i].state = State::Lost;
                self.lost += len;
            }
        }
        if reneged {
            self.sacked = 0;
        }
        self.duplicates = 0;
        self.reorder_at = NEVER;
    }

    /// The first `len` bytes are lost, if they fly.
    pub(crate) fn lose_head(&mut self, len: u32) {
        let Some(first) = self.runs.first() else { return };
        if first.state != State::Flying {
            return;
        }
        let end = first.start + len;
        self.split(end);
        self.runs[0].state = State::Lost;
        self.lost += self.run_len(0);
    }

    /// The next lost bytes to send again: start and length, `most` at most.
    pub(crate) fn next_lost(&self, most: u32) -> Option<(Seq, u32)> {
        if self.lost == 0 {
            return None;
        }
        let i = self.runs.iter().position(|run| run.state == State::Lost)?;
        Some((self.runs[i].start, self.run_len(i).min(most)))
    }

    /// `len` bytes from `start` were sent again.
    pub(crate) fn repeated(&mut self, start: Seq, len: u32, now_us: u64) {
        let (from, to) = (self.split(start), self.split(start + len));
        for i in from..to {
            let len = self.run_len(i);
            let run = &mut self.runs[i];
            match run.state {
                State::Lost => self.lost -= len,
                State::Sacked => self.sacked -= len,
                State::Flying => {}
            }
            *run = Run {
                start: run.start,
                sent_us: now_us as u32,
                state: State::Flying,
                stamped: true,
                again: true,
            };
        }
        if let Some(undo) = &mut self.undo {
            undo.repeated += len;
            undo.any = true;
        }
    }

    /// Bytes sent again and still on their way.
    pub(crate) fn repeated_bytes(&self) -> u32 {
        let flying = |&i: &usize| self.runs[i].again && self.runs[i].state == State::Flying;
        (0..self.runs.len()).filter(flying).map(|i| self.run_len(i)).sum()
    }

    /// A spurious recovery was found out: nothing is lost.
    pub(crate) fn nothing_lost(&mut self) {
        for run in self.runs.iter_mut().filter(|run| run.state == State::Lost) {
            run.state = State::Flying;
        }
        self.lost = 0;
    }

    /// Something is known that must not be forgotten.
    pub(crate) fn is_needed(&self) -> bool {
        self.sacked > 0 || self.lost > 0 || self.runs.iter().any(|run| run.again)
    }
}

/// Later on the wrapping clock.
fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEW: &dyn Fn(u32) -> bool = &|_| false;

    fn board(bytes: u32) -> Board {
        Board::new(Seq(0), Seq(bytes), 50_000, 10_000)
    }

    fn lost(board: &Board) -> Vec<(u32, u32)> {
        let is_lost = |&i: &usize| board.runs[i].state == State::Lost;
        (0..board.runs.len()).filter(is_lost).map(|i| (board.runs[i].start.0, board.run_end(i).0)).collect()
    }

    /// RFC 8985 section 6.2: without a reordering window a hole is lost when something later arrives.
    #[test]
    fn a_hole_is_lost_when_overtaken() {
        let mut b = board(10_000);
        let mut news = News::default();
        b.selected((Seq(3000), Seq(4000)), 50_000, &mut news, NEW);
        assert_eq!((news.delivered, b.detect(50_000, 0)), (1000, 3000));
        assert_eq!((lost(&b), b.sacked), (alloc::vec![(0, 3000)], 1000));
    }

    /// With a window it is waited for, and not forgotten.
    #[test]
    fn a_window_delays_the_verdict() {
        let mut b = board(10_000);
        b.selected((Seq(3000), Seq(4000)), 50_000, &mut News::default(), NEW);
        assert_eq!(b.detect(50_000, 2_500), 0);
        assert_eq!(b.reorder_at, 53);
        assert_eq!(b.detect(52_000, 2_500), 0);
        assert_eq!(b.detect(53_000, 2_500), 3000);
    }

    /// A retransmission is not lost because of originals that arrive after it was sent, but is when something
    /// sent after it arrives.
    #[test]
    fn a_lost_retransmission_is_found() {
        let mut b = board(10_000);
        b.selected((Seq(1000), Seq(2000)), 50_000, &mut News::default(), NEW);
        b.detect(50_000, 0);
        b.repeated(Seq(0), 1000, 50_000);
        b.extend(Seq(11_000), 50_100);
        b.selected((Seq(2000), Seq(10_000)), 59_000, &mut News::default(), NEW);
        assert_eq!(b.detect(61_000, 0), 0);
        b.selected((Seq(10_000), Seq(11_000)), 62_000, &mut News::default(), NEW);
        assert_eq!((b.detect(62_200, 0), lost(&b)), (1000, alloc::vec![(0, 1000)]));
    }

    #[test]
    fn reneging_is_survived() {
        let mut b = board(4000);
        b.selected((Seq(1000), Seq(2000)), 50_000, &mut News::default(), NEW);
        b.acknowledged(Seq(1000), 50_001, NEW);
        b.lose_all();
        assert_eq!((b.sacked, b.lost), (0, 3000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Counters agree with the runs, runs stay in order, whatever is reported.
        #[test]
        fn stays_consistent(steps in prop::collection::vec((0u8..7, 0u32..20_000, 1u32..3000), 1..60)) {
            let base = Seq(u32::MAX - 9000);
            let (mut b, mut una, mut now) = (Board::new(base, base + 20_000, 1_000, 100), 0u32, 1_000u64);
            for (what, at, len) in steps {
                now += u64::from(len);
                let end = b.end.since(base);
                let (left, right) = (at.max(una).min(end), (at.max(una) + len).min(end));
                match what {
                    0 | 1 if left < right && left > una => {
                        b.selected((base + left, base + right), now, &mut News::default(), NEW);
                    }
                    2 => { b.acknowledged(base + left, now, NEW); una = left; }
                    3 => { b.detect(now, len / 4); }
                    4 => if let Some((start, len)) = b.next_lost(1460) { b.repeated(start, len, now) },
                    5 => b.lose_all(),
                    _ => b.extend(base + end + len, now),
                }
                let (mut sacked, mut lost) = (0, 0);
                for i in 0..b.runs.len() {
                    prop_assert!(b.run_len(i) > 0 && b.run_len(i) < 1 << 30);
                    match b.runs[i].state {
                        State::Sacked => sacked += b.run_len(i),
                        State::Lost => lost += b.run_len(i),
                        State::Flying => {}
                    }
                }
                prop_assert_eq!((sacked, lost), (b.sacked, b.lost));
                prop_assert!(b.runs.is_empty() || b.runs[0].start == base + una);
            }
        }
    }
}
