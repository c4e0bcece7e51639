//! How much a guest may send: a token bucket for frames and one for bytes.
//!
//! A guest over its limit is not robbed of frames: they stay in its own ring until there are tokens, and
//! its engine sees a full device, as with a slow NIC. Nobody else's ring is touched by that.

use crate::Limits;
use platform::time::{Instant, SECOND};

/// A bucket holds what its rate gives in so many nanoseconds: bursts of that length pass.
const DEPTH_NS: u64 = 50_000_000;

/// One rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Units in a second; 0 for no limit.
    rate: u64,
    /// Units times nanoseconds in a second, so that nothing is rounded away. May be below zero by one
    /// frame: a frame longer than the bucket passes when the bucket is full.
    level: i128,
}

impl Bucket {
    fn new(rate: u64) -> Bucket {
        Bucket { rate, level: Bucket { rate, level: 0 }.depth() }
    }

    fn depth(&self) -> i128 {
        i128::from(self.rate) * i128::from(DEPTH_NS)
    }

    fn fill(&mut self, ns: u64) {
        self.level = (self.level + i128::from(self.rate) * i128::from(ns)).min(self.depth());
    }

    /// Nanoseconds until something may pass; 0 for now.
    fn wait(&self) -> u64 {
        if self.rate == 0 || self.level > 0 {
            return 0;
        }
        u64::try_from(-self.level / i128::from(self.rate)).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn take(&mut self, units: u64) {
        if self.rate != 0 {
            self.level -= i128::from(units) * i128::from(SECOND);
        }
    }
}

/// A guest's two rates.
#[derive(Debug)]
pub(crate) struct Meter {
    frames: Bucket,
    bytes: Bucket,
    filled: Instant,
}

impl Meter {
    /// Full buckets.
    pub(crate) fn new(limits: &Limits, now: Instant) -> Meter {
        Meter { frames: Bucket::new(limits.frames), bytes: Bucket::new(limits.bytes), filled: now }
    }

    /// Whether there is a limit at all.
    pub(crate) fn is_open(&self) -> bool {
        self.frames.rate == 0 && self.bytes.rate == 0
    }

    /// When the next frame may pass; `None` for now.
    pub(crate) fn closed_until(&mut self, now: Instant) -> Option<Instant> {
        if self.is_open() {
            return None;
        }
        let ns = now.since(self.filled);
        self.filled = now;
        self.frames.fill(ns);
        self.bytes.fill(ns);
        match self.frames.wait().max(self.bytes.wait()) {
            0 => None,
            ns => Some(now.after(ns)),
        }
    }

    /// Whether the next frame may pass, at the time last told.
    pub(crate) fn is_closed(&self) -> bool {
        self.frames.wait() != 0 || self.bytes.wait() != 0
    }

    /// A frame has passed.
    pub(crate) fn took(&mut self, bytes: usize) {
        self.frames.take(1);
        self.bytes.take(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(limits: Limits, frame: usize, ns: u64) -> u64 {
        let mut now = Instant(1);
        let mut meter = Meter::new(&limits, now);
        let (end, mut count) = (now.after(ns), 0);
        while now < end {
            match meter.closed_until(now) {
                Some(at) => now = at,
                None => {
                    meter.took(frame);
                    count += 1;
                    now = now.after(100);
                }
            }
        }
        count
    }

    #[test]
    fn a_rate_is_kept_after_the_first_burst() {
        let frames = Limits { frames: 1000, ..Limits::default() };
        // One second: the rate and the burst that the bucket held.
        assert!((1045..=1055).contains(&passed(frames, 64, SECOND)));
        let bytes = Limits { bytes: 1_000_000, ..Limits::default() };
        assert!((1045..=1056).contains(&passed(bytes, 1000, SECOND)));
        // Frames longer than the bucket pass one at a time.
        assert!((9..=12).contains(&passed(bytes, 100_000, SECOND)));
    }

    #[test]
    fn no_limit_is_none() {
        assert!(Meter::new(&Limits::default(), Instant(1)).closed_until(Instant(2)).is_none());
    }
}
