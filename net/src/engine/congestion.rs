//! Congestion control: how the window grows and how far it falls. What happens when (recovery, timeouts) is in
//! `recovery.rs`; all windows here are bytes.
//!
//! CUBIC (RFC 9438) with HyStart++ (RFC 9406) is the default, as on Linux; NewReno (RFC 5681, RFC 6582) can
//! be chosen by TCP_CONGESTION. Decisions that the RFCs leave open:
//!
//! - Bytes are counted, not acknowledgements (RFC 3465) and without its limit L: on our links
//!   acknowledgements come merged, and a limit would punish that. Pacing softens what a merged one lets out.
//! - The reduction starts from `cwnd`, not from what is in flight (RFC 9438 section 4.6 allows it with
//!   section 5.8's care): the window grows only while it is what limits us, and decays in pauses
//!   (RFC 7661, RFC 2861), so it never is a number that was not tried.
//! - HyStart++ wants eight round-trip samples in each round. One segment is timed at a time, which gives
//!   one. A bulk sender therefore keeps up to [`MARKS`] times of sending, spread over its window.
//!
//! A connection whose flight never exceeds the initial window (requests and replies) has none of this state:
//! `bulk` is made when the window is outgrown or a first loss is met. BBR is left out, by measurement: with
//! recovery as in `recovery.rs`, CUBIC is ahead of Linux's CUBIC at each rate of loss of our bench, and what BBR
//! would add, speed under loss that is not congestion, it takes from other flows on a shared queue.

use alloc::boxed::Box;

use super::seq::Seq;

/// Which algorithm a connection uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 9438 with RFC 9406.
    #[default]
    Cubic,
    /// RFC 5681 with RFC 6582.
    NewReno,
}

/// Times of sending that are remembered at once.
const MARKS: usize = 16;
/// Multiplicative decrease of CUBIC, in tenths (section 4.6).
const BETA_TENTHS: u64 = 7;
/// HyStart++ (RFC 9406 section 4.3): bounds of the threshold, samples in a round, rounds and divisor of its
/// conservative phase.
const MIN_RTT_THRESH_US: u32 = 4_000;
const MAX_RTT_THRESH_US: u32 = 16_000;
const RTT_SAMPLES: u8 = 8;
const CSS_ROUNDS: u8 = 5;
const CSS_DIVISOR: u32 = 4;
/// Fraction bits of `w_est` and of the remainders.
const FRACTION: u32 = 10;

/// What a connection always has.
#[derive(Debug, Default)]
pub(crate) struct Congestion {
    pub(crate) algorithm: Algorithm,
    bulk: Option<Box<Bulk>>,
}

/// What only a bulk sender has.
#[derive(Debug, Default)]
struct Bulk {
    cubic: Cubic,
    hystart: HyStart,
    /// Growth that has not yet made up a byte.
    credit: u64,
    /// Sent segments' numbers, when they were sent and what was acknowledged then, oldest first.
    marks: [(Seq, u32, Seq); MARKS],
    mark_count: u8,
    paced_at_us: u64,
    /// Bytes in a second, over the last window.
    rate: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cubic {
    /// The window before the last reduction, and before the one before.
    w_max: u32,
    w_max_before: u32,
    /// The window just before the last reduction (section 4.1).
    cwnd_prior: u32,
    /// What Reno's window would be (section 4.3), with `FRACTION` bits.
    w_est: u64,
    /// Milliseconds from the epoch's start until the curve reaches `w_max`.
    k_ms: u32,
    /// When the present congestion avoidance began; 0 for "not begun".
    epoch_ms: u64,
    /// Since when the window is not what limits us; 0 if it is.
    idle_since_ms: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct HyStart {
    /// The round ends when this number is acknowledged.
    round_end: Option<Seq>,
    last_min: u32,
    current_min: u32,
    samples: u8,
    /// Rounds in the conservative phase, counted from 1; 0 outside.
    css_round: u8,
    css_baseline: u32,
}

/// What growth depends on.
pub(crate) struct Growth {
    pub(crate) acked: u32,
    pub(crate) cwnd: u32,
    pub(crate) ssthresh: u32,
    pub(crate) mss: u32,
    pub(crate) rtt_us: u32,
    pub(crate) una: Seq,
    pub(crate) next: Seq,
    pub(crate) now_ms: u64,
}

impl Congestion {
    /// The algorithm before its first segment.
    pub(crate) fn new(algorithm: Algorithm) -> Congestion {
        Congestion { algorithm, bulk: None }
    }

    /// The initial window (RFC 6928). Segments of a size that no wire has stay within a machine: ten of them, as
    /// Linux has it everywhere.
    pub(crate) fn initial_window(mss: u32) -> u32 {
        if mss > 16 << 10 {
            return 10 * mss;
        }
        (10 * mss).min((2 * mss).max(14_600))
    }

    /// The connection is more than a dialogue.
    #[inline]
    pub(crate) fn is_bulk(&self) -> bool {
        self.bulk.is_some()
    }

    #[cold]
    fn make_bulk(&mut self) -> &mut Bulk {
        self.bulk.get_or_insert_default()
    }

    /// New data was acknowledged while the window was what limited us: the new window and threshold.
    pub(crate) fn grow(&mut self, g: &Growth) -> (u32, u32) {
        let algorithm = self.algorithm;
        if g.cwnd < g.ssthresh {
            let beyond_start = g.cwnd > Congestion::initial_window(g.mss);
            if self.bulk.is_none() && !beyond_start {
                return (g.cwnd.saturating_add(g.acked).min(g.ssthresh), g.ssthresh);
            }
            return self.bulk.get_or_insert_default().hystart.grow(g);
        }
        let bulk = self.bulk.get_or_insert_default();
        let cwnd = match algorithm {
            Algorithm::NewReno => grow_linearly(&mut bulk.credit, g),
            Algorithm::Cubic => bulk.cubic.grow(&mut bulk.credit, g),
        };
        (cwnd, g.ssthresh)
    }

    /// Data was acknowledged, but the window was not what limited us: time stands still for the curve (RFC 9438
    /// section 5.8).
    pub(crate) fn not_limited(&mut self, now_ms: u64) {
        if let Some(bulk) = &mut self.bulk
            && bulk.cubic.epoch_ms != 0
            && bulk.cubic.idle_since_ms == 0
        {
            bulk.cubic.idle_since_ms = now_ms;
        }
    }

    /// Congestion: the new slow start threshold (RFC 5681 equation 4; RFC 9438 section 4.6).
    pub(crate) fn reduce(&mut self, cwnd: u32, in_flight: u32, mss: u32) -> u32 {
        let floor = 2 * mss;
        match self.algorithm {
            Algorithm::NewReno => (in_flight.min(cwnd) / 2).max(floor),
            Algorithm::Cubic => {
                let cubic = &mut self.make_bulk().cubic;
                cubic.epoch_ms = 0;
                cubic.w_max_before = cubic.w_max;
                cubic.cwnd_prior = cwnd;
                // Fast convergence (section 4.7): leave room to a newcomer.
                cubic.w_max = if cwnd < cubic.w_max { (u64::from(cwnd) * 17 / 20) as u32 } else { cwnd };
                ((u64::from(cwnd) * BETA_TENTHS / 10) as u32).max(floor)
            }
        }
    }

    /// The reduction was a mistake (section 4.9).
    pub(crate) fn undo(&mut self) {
        if let Some(bulk) = &mut self.bulk {
            bulk.cubic.w_max = bulk.cubic.w_max_before;
            bulk.cubic.epoch_ms = 0;
        }
    }

    /// A round trip was measured.
    #[inline]
    pub(crate) fn sample(&mut self, us: u32) {
        if let Some(bulk) = &mut self.bulk {
            let hystart = &mut bulk.hystart;
            hystart.current_min = if hystart.samples == 0 { us } else { hystart.current_min.min(us) };
            hystart.samples = hystart.samples.saturating_add(1);
        }
    }

    /// A segment at `seq` is sent for the first time: remembers when, if its turn has come.
    #[inline]
    pub(crate) fn mark(&mut self, seq: Seq, una: Seq, cwnd: u32, now_us: u64) {
        let Some(bulk) = &mut self.bulk else { return };
        let count = usize::from(bulk.mark_count);
        let spacing = cwnd / (MARKS as u32 * 3 / 4);
        if count < MARKS && (count == 0 || seq.since(bulk.marks[count - 1].0) >= spacing) {
            bulk.marks[count] = (seq, now_us as u32, una);
            bulk.mark_count += 1;
        }
    }

    /// Forgets all marks: what they mark is sent again, and an answer would say nothing (Karn).
    pub(crate) fn forget_marks(&mut self) {
        if let Some(bulk) = &mut self.bulk {
            bulk.mark_count = 0;
        }
    }

    /// The time since the latest marked segment before `ack` was sent.
    #[inline]
    pub(crate) fn marked(&mut self, ack: Seq, now_us: u64) -> Option<u32> {
        let bulk = self.bulk.as_mut()?;
        let count = usize::from(bulk.mark_count);
        let passed = bulk.marks[..count].iter().take_while(|mark| mark.0.before(ack)).count();
        if passed == 0 {
            return None;
        }
        let (_, sent, una) = bulk.marks[passed - 1];
        bulk.marks.copy_within(passed..count, 0);
        bulk.mark_count -= passed as u8;
        let us = (now_us as u32).wrapping_sub(sent);
        // What arrived from the sending of the mark to its acknowledgement.
        bulk.rate = u64::from(ack.since(una)) * 1_000_000 / u64::from(us.max(1));
        Some(us)
    }

    /// Bytes in a second that the peer acknowledged over the last window; 0 if it was not measured.
    pub(crate) fn delivery_rate(&self) -> u64 {
        self.bulk.as_ref().map_or(0, |bulk| bulk.rate)
    }

    /// When the next segment may leave, for a paced sender.
    #[inline]
    pub(crate) fn paced_at_us(&self) -> u64 {
        self.bulk.as_ref().map_or(0, |bulk| bulk.paced_at_us)
    }

    /// `bytes` leave at `rate` bytes in a second. What was not used in the past `burst_us` is lost.
    pub(crate) fn pace(&mut self, bytes: u32, rate: u64, now_us: u64, burst_us: u64) {
        let bulk = self.bulk.get_or_insert_default();
        let from = bulk.paced_at_us.max(now_us.saturating_sub(burst_us));
        bulk.paced_at_us = from + u64::from(bytes) * 1_000_000 / rate.max(1);
    }

    /// After a long pause: what was learned of the path is old.
    pub(crate) fn forget(&mut self) {
        self.bulk = None;
    }
}

impl HyStart {
    fn grow(&mut self, g: &Growth) -> (u32, u32) {
        if self.round_end.is_none_or(|end| g.una.after(end)) && !self.next_round(g) {
            // The conservative phase has lasted: here is the threshold.
            return (g.cwnd, g.cwnd);
        }
        self.judge();
        let step = if self.css_round > 0 { g.acked / CSS_DIVISOR } else { g.acked };
        (g.cwnd.saturating_add(step).min(g.ssthresh), g.ssthresh)
    }

    /// `false` if slow start is over.
    fn next_round(&mut self, g: &Growth) -> bool {
        self.round_end = Some(g.next);
        self.last_min = if self.samples > 0 { self.current_min } else { self.last_min };
        (self.current_min, self.samples) = (0, 0);
        if self.css_round > 0 {
            self.css_round += 1;
        }
        if self.css_round > CSS_ROUNDS {
            *self = HyStart::default();
            return false;
        }
        true
    }

    /// Section 4.2: into the conservative phase when the round trip grows, out of it when that was noise.
    fn judge(&mut self) {
        if self.samples < RTT_SAMPLES || self.last_min == 0 {
            return;
        }
        let threshold = (self.last_min / 8).clamp(MIN_RTT_THRESH_US, MAX_RTT_THRESH_US);
        if self.css_round > 0 {
            if self.current_min < self.css_baseline {
                self.css_round = 0;
            }
        } else if self.current_min >= self.last_min + threshold {
            self.css_baseline = self.current_min;
            self.css_round = 1;
        }
    }
}

fn grow_linearly(credit: &mut u64, g: &Growth) -> u32 {
    *credit += u64::from(g.acked);
    if *credit < u64::from(g.cwnd) {
        return g.cwnd;
    }
    *credit -= u64::from(g.cwnd);
    g.cwnd.saturating_add(g.mss)
}

impl Cubic {
    fn grow(&mut self, credit: &mut u64, g: &Growth) -> u32 {
        if self.epoch_ms == 0 {
            self.begin(credit, g);
        }
        if self.idle_since_ms != 0 {
            self.epoch_ms += g.now_ms - self.idle_since_ms.min(g.now_ms);
            self.idle_since_ms = 0;
        }
        let (cwnd, acked) = (u64::from(g.cwnd.max(1)), u64::from(g.acked));
        let t = (g.now_ms - self.epoch_ms.min(g.now_ms)) as i64;
        // Section 4.3: alpha = 3 (1 - beta) / (1 + beta) = 0.53 until the old window is reached, then 1.
        let alpha = if self.w_est >> FRACTION < u64::from(self.cwnd_prior) { 542 } else { 1 << FRACTION };
        self.w_est += alpha * acked * u64::from(g.mss) / cwnd;
        let reno = (self.w_est >> FRACTION).min(u64::from(u32::MAX)) as u32;
        if self.curve(t, g.mss) < i64::from(reno) {
            return g.cwnd.max(reno);
        }
        // Where the curve will be in a round trip, at most half more than now (section 4.2).
        let target = self.curve(t + i64::from(g.rtt_us / 1000), g.mss);
        let target = target.clamp(i64::from(g.cwnd), i64::from(g.cwnd) * 3 / 2) as u64;
        *credit += (((target - cwnd) * acked) << FRACTION) / cwnd;
        let step = (*credit >> FRACTION) as u32;
        *credit &= (1 << FRACTION) - 1;
        g.cwnd.saturating_add(step)
    }

    fn begin(&mut self, credit: &mut u64, g: &Growth) {
        self.epoch_ms = g.now_ms.max(1);
        self.idle_since_ms = 0;
        self.w_est = u64::from(g.cwnd) << FRACTION;
        *credit = 0;
        self.w_max = self.w_max.max(g.cwnd);
        // K = cbrt((W_max - cwnd) / C), C = 0.4 segments/s^3 (figure 2); in ms: times 1000.
        let segments_e9 = u64::from(self.w_max - g.cwnd) * 2_500_000_000 / u64::from(g.mss.max(1));
        self.k_ms = cube_root(segments_e9) as u32;
    }

    /// W_cubic (figure 1), bytes.
    fn curve(&self, t_ms: i64, mss: u32) -> i64 {
        let d = i128::from((t_ms - i64::from(self.k_ms)).clamp(-100_000, 100_000));
        self.w_max as i64 + (d * d * d * i128::from(mss) * 4 / 10_000_000_000) as i64
    }
}

/// Integer cube root, rounded down.
fn cube_root(n: u64) -> u64 {
    let mut root = 0u64;
    for bit in (0..=21).rev() {
        let next = root | 1 << bit;
        if next.checked_pow(3).is_some_and(|cube| cube <= n) {
            root = next;
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    fn growth(cwnd: u32, ssthresh: u32, now_ms: u64) -> Growth {
        Growth {
            acked: cwnd,
            cwnd,
            ssthresh,
            mss: MSS,
            rtt_us: 100_000,
            una: Seq(now_ms as u32 + 1),
            next: Seq(now_ms as u32 + 50),
            now_ms,
        }
    }

    #[test]
    fn cube_roots() {
        for n in [0u64, 1, 7, 8, 26, 27, 1_000_000_000, u64::MAX] {
            let root = cube_root(n);
            assert!(root.pow(3) <= n && (root + 1).checked_pow(3).is_none_or(|cube| cube > n));
        }
    }

    /// RFC 9438 section 4.2: after a loss at 1000 segments the curve is back there after
    /// K = cbrt(1000 * 0.3 / 0.4) = 9.1 s, flat in the middle, steeper behind.
    #[test]
    fn rfc9438_4_2_growth_is_cubic() {
        let mut c = Congestion::default();
        let mut cwnd = c.reduce(1000 * MSS, 1000 * MSS, MSS);
        assert_eq!(cwnd, 700 * MSS);
        let mut at = alloc::vec::Vec::new();
        for now in (1..18_200).step_by(100) {
            cwnd = c.grow(&growth(cwnd, cwnd, now)).0;
            at.push(cwnd / MSS);
        }
        assert!((985..=1005).contains(&at[90]), "at K: {}", at[90]);
        let (first, plateau, last) = (at[20] - at[0], at[95] - at[85], at[181] - at[160]);
        assert!(first > 5 * plateau && last > 5 * plateau, "{first} {plateau} {last}");
    }

    /// Section 4.3: with a small window and a short round trip, as fast as Reno.
    #[test]
    fn rfc9438_4_3_is_reno_friendly() {
        let mut c = Congestion::default();
        let mut cwnd = c.reduce(20 * MSS, 20 * MSS, MSS);
        for now in 0..40 {
            cwnd = c.grow(&Growth { rtt_us: 10_000, ..growth(cwnd, cwnd, 1 + now * 10) }).0;
        }
        // 14 segments and 0.53 in each of some 11 round trips to 20, then one in each.
        assert!((40 * MSS..50 * MSS).contains(&cwnd), "{cwnd}");
    }

    /// Section 4.7: a second loss below the first remembers less.
    #[test]
    fn rfc9438_4_7_fast_convergence() {
        let mut c = Congestion::default();
        c.reduce(100 * MSS, 0, MSS);
        c.reduce(80 * MSS, 0, MSS);
        assert_eq!(c.bulk.as_ref().unwrap().cubic.w_max, 68 * MSS);
    }

    /// Section 5.8: a pause is no time for the curve.
    #[test]
    fn rfc9438_5_8_pauses_do_not_count() {
        let mut c = Congestion::default();
        let mut cwnd = c.reduce(1000 * MSS, 0, MSS);
        for now in (1..2_000).step_by(100) {
            cwnd = c.grow(&growth(cwnd, cwnd, now)).0;
        }
        c.not_limited(2_000);
        let after = c.grow(&growth(cwnd, cwnd, 60_000)).0;
        assert!(after - cwnd < 40 * MSS, "{cwnd} {after}");
    }

    #[test]
    fn rfc5681_3_1_one_segment_a_round_trip() {
        let mut c = Congestion::new(Algorithm::NewReno);
        let mut cwnd = c.reduce(40 * MSS, 40 * MSS, MSS);
        assert_eq!(cwnd, 20 * MSS);
        for now in 1..=10 {
            cwnd = c.grow(&growth(cwnd, cwnd, now * 100)).0;
        }
        assert!((29 * MSS..=31 * MSS).contains(&cwnd), "{cwnd}");
    }

    /// RFC 9406: a queue that builds up ends slow start without a loss; noise does not.
    #[test]
    fn rfc9406_4_2_delay_ends_slow_start() {
        let run = |rtt: &dyn Fn(u64) -> u32| {
            let mut c = Congestion::default();
            let (mut cwnd, mut ssthresh) = (20 * MSS, u32::MAX);
            for round in 1..=12u64 {
                for part in 0..10u64 {
                    c.sample(rtt(round));
                    let now = round * 100 + part;
                    let g = Growth {
                        acked: cwnd / 10,
                        una: Seq((round * 100) as u32 + 1),
                        next: Seq((round * 100) as u32 + 100),
                        ..growth(cwnd, ssthresh, now)
                    };
                    (cwnd, ssthresh) = c.grow(&g);
                    if cwnd >= ssthresh {
                        return Some(round);
                    }
                }
            }
            None
        };
        assert_eq!(run(&|_| 50_000), None);
        // One slow round in between, then fast again: back into slow start.
        assert_eq!(run(&|round| if round == 4 { 60_000 } else { 50_000 }), None);
        let ended = run(&|round| 50_000 + round.saturating_sub(3) as u32 * 10_000).unwrap();
        assert!((8..=10).contains(&ended), "{ended}");
    }

    #[test]
    fn marks_time_many_segments() {
        let mut c = Congestion::default();
        assert_eq!(c.marked(Seq(5), 9), None);
        c.reduce(1, 1, 1);
        for i in 0..100u32 {
            c.mark(Seq(i * 1000), Seq(0), 100_000, u64::from(i));
        }
        assert_eq!(c.marked(Seq(50_000), 1_049), Some(1_004), "the latest mark lies at 45,000");
        assert_eq!(c.marked(Seq(50_000), 1_050), None);
    }
}
