//! Round-trip time and retransmission timeout (RFC 6298), in microseconds.

/// Least timeout. RFC 6298 asks for a second; Linux and everybody else on it use 200 ms.
pub(crate) const MIN_RTO_US: u32 = 200_000;
/// Greatest timeout.
pub(crate) const MAX_RTO_US: u32 = 120_000_000;
/// Timeout before the first sample (section 2.1).
pub(crate) const INITIAL_RTO_US: u32 = 1_000_000;

/// The estimator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtt {
    /// Smoothed round trip; 0 before the first sample.
    pub(crate) smoothed: u32,
    /// Its variation.
    pub(crate) variation: u32,
    /// The timeout without back-off.
    pub(crate) rto: u32,
}

impl Rtt {
    pub(crate) const NEW: Rtt = Rtt { smoothed: 0, variation: 0, rto: INITIAL_RTO_US };

    /// Takes a sample (sections 2.2 and 2.3).
    pub(crate) fn sample(&mut self, us: u32) {
        let us = us.clamp(1, MAX_RTO_US);
        if self.smoothed == 0 {
            self.smoothed = us;
            self.variation = us / 2;
        } else {
            let deviation = self.smoothed.abs_diff(us);
            self.variation = self.variation - self.variation / 4 + deviation / 4;
            self.smoothed = (self.smoothed - self.smoothed / 8 + us / 8).max(1);
        }
        self.rto = (self.smoothed + (4 * self.variation).max(1000)).clamp(MIN_RTO_US, MAX_RTO_US);
    }

    /// The timeout in milliseconds after `retries` unanswered transmissions (section 5.5).
    pub(crate) fn backed_off_ms(&self, retries: u8) -> u64 {
        let us = u64::from(self.rto) << retries.min(16);
        us.min(u64::from(MAX_RTO_US)).div_ceil(1000)
    }
}
