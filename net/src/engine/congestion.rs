//! Congestion control: how the window grows and how far it falls. What happens when (fast recovery,
//! timeouts) is in `receive.rs` and `send.rs`; all windows here are bytes.

/// Which algorithm a connection uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 5681 with RFC 6582.
    NewReno,
}

/// State of the algorithm beyond `cwnd` and `ssthresh`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Congestion {
    pub(crate) algorithm: Algorithm,
    /// CUBIC: the window before the last reduction.
    w_max: u32,
    /// CUBIC: what Reno's window would be (section 4.3).
    w_est: u32,
    /// CUBIC: milliseconds from the epoch's start until the curve reaches `w_max`.
    k_ms: u32,
    /// CUBIC: when the present congestion avoidance began; 0 for "not begun".
    epoch_ms: u64,
    /// Bytes acknowledged that have not yet made up an increase.
    credit: u32,
}

/// Multiplicative decrease of CUBIC, in tenths (section 4.6).
const BETA_TENTHS: u64 = 7;

impl Congestion {
    /// The algorithm before its first segment.
    pub(crate) fn new(algorithm: Algorithm) -> Congestion {
        Congestion { algorithm, ..Congestion::default() }
    }

    /// The initial window (RFC 6928).
    pub(crate) fn initial_window(mss: u32) -> u32 {
        (10 * mss).min((2 * mss).max(14_600))
    }

    /// New data was acknowledged while the window was what limited us: the grown window.
    pub(crate) fn grow(
        &mut self,
        acked: u32,
        cwnd: u32,
        ssthresh: u32,
        mss: u32,
        rtt_us: u32,
        now_ms: u64,
    ) -> u32 {
        if cwnd < ssthresh {
            // RFC 3465 with L = 2 would punish coalesced ACKs; Linux counts all bytes, and so do we.
            return cwnd.saturating_add(acked).min(ssthresh.max(cwnd + mss));
        }
        match self.algorithm {
            Algorithm::NewReno => self.grow_linearly(acked, cwnd, mss),
            Algorithm::Cubic => self.grow_cubic(acked, cwnd, mss, rtt_us, now_ms),
        }
    }

    /// A loss: the new slow start threshold (RFC 5681 equation 4; RFC 9438 section 4.6).
    pub(crate) fn reduce(&mut self, cwnd: u32, in_flight: u32, mss: u32) -> u32 {
        let floor = 2 * mss;
        match self.algorithm {
            Algorithm::NewReno => (in_flight / 2).max(floor),
            Algorithm::Cubic => {
                self.epoch_ms = 0;
                // Fast convergence (section 4.7): leave room to a newcomer.
                self.w_max = if cwnd < self.w_max { (u64::from(cwnd) * 17 / 20) as u32 } else { cwnd };
                ((u64::from(in_flight.min(cwnd)) * BETA_TENTHS / 10) as u32).max(floor)
            }
        }
    }

    fn grow_linearly(&mut self, acked: u32, cwnd: u32, mss: u32) -> u32 {
        self.credit = self.credit.saturating_add(acked);
        if self.credit < cwnd {
            return cwnd;
        }
        self.credit -= cwnd;
        cwnd.saturating_add(mss)
    }

    fn grow_cubic(&mut self, acked: u32, cwnd: u32, mss: u32, rtt_us: u32, now_ms: u64) -> u32 {
        if self.epoch_ms == 0 {
            self.epoch_ms = now_ms.max(1);
            self.w_est = cwnd;
            self.credit = 0;
            self.w_max = self.w_max.max(cwnd);
            // K = cbrt((W_max - cwnd) / C), C = 0.4 segments/s^3 (figure 2); in ms: times 1000.
            let segments_e9 = u64::from(self.w_max - cwnd) * 2_500_000_000 / u64::from(mss);
            self.k_ms = cube_root(segments_e9) as u32;
        }
        let t = (now_ms - self.epoch_ms.min(now_ms)) as i64 + i64::from(rtt_us / 1000);
        let d = (t - i64::from(self.k_ms)).clamp(-100_000, 100_000);
        let curve = i64::from(self.w_max)
            + d * d * d / 1_000_000_000 * i64::from(mss) * 4 / 10
            + d * d * d % 1_000_000_000 * i64::from(mss) * 4 / 10 / 1_000_000_000;
        // At most half more in a round trip (section 4.4).
        let target = curve.clamp(i64::from(cwnd), i64::from(cwnd) * 3 / 2) as u32;
        // alpha = 3 (1 - beta) / (1 + beta) = 0.53 segments for each window (section 4.3).
        self.w_est = self
            .w_est
            .saturating_add((u64::from(acked) * 53 / 100 * u64::from(mss) / u64::from(cwnd)) as u32);
        if self.w_est > target {
            return self.w_est.max(cwnd);
        }
        let step = u64::from(target - cwnd) * u64::from(acked) / u64::from(cwnd);
        cwnd.saturating_add(step as u32)
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

    #[test]
    fn cube_roots() {
        for n in [0u64, 1, 7, 8, 26, 27, 1_000_000_000, u64::MAX] {
            let root = cube_root(n);
            assert!(root.pow(3) <= n && (root + 1).checked_pow(3).is_none_or(|cube| cube > n));
        }
    }

    /// After a loss at 100 segments the curve is back at 100 after K = cbrt(100 * 0.3 / 0.4) = 4.2 s.
    #[test]
    fn cubic_returns_after_k() {
        let mss = 1000;
        let mut c = Congestion::default();
        let mut cwnd = c.reduce(100 * mss, 100 * mss, mss);
        assert_eq!(cwnd, 70 * mss);
        let mut now = 1;
        while now < 4_200 {
            cwnd = c.grow(cwnd, cwnd, cwnd, mss, 100_000, now);
            now += 100;
        }
        assert!((97 * mss..=103 * mss).contains(&cwnd), "{cwnd}");
    }
}
