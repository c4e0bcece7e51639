//! A device around a device that loses, repeats, delays, reorders and damages what is received, by a
//! seeded generator: the same seed gives the same run.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use platform::time::Instant;

use super::{Capabilities, Device, Full, RxFrame, TxMeta};

/// How often each fault strikes, in parts of a million received frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    /// Frames that vanish.
    pub loss: u32,
    /// Frames that arrive twice.
    pub duplicate: u32,
    /// Frames with one bit turned over.
    pub corrupt: u32,
    /// Frames held back until up to eight later ones have passed.
    pub reorder: u32,
    /// Nanoseconds that every frame takes.
    pub delay: u64,
    /// Nanoseconds, up to which a random addition to the delay is made.
    pub jitter: u64,
    /// Bits in a second that the wire carries; 0 for no bound.
    pub rate: u64,
    /// Nanoseconds that a frame may wait for a wire with a `rate`, before it is dropped; 0 for no bound.
    pub queue: u64,
    /// Frames longer than this vanish without a word: a black hole. 0 for no bound.
    pub largest: usize,
    /// Nanoseconds of waiting from which a frame that allows it is marked (RFC 3168); 0 for never.
    pub mark: u64,
}

/// The wrapped device with its faults.
pub struct Fault<D> {
    inner: D,
    plan: FaultPlan,
    random: u64,
    now: Instant,
    waiting: VecDeque<(Instant, Vec<u8>, bool)>,
    /// Until when the wire is taken.
    busy: Instant,
}

impl<D: Device> Fault<D> {
    /// Wraps `inner`; `seed` chooses the run.
    pub fn new(inner: D, plan: FaultPlan, seed: u64) -> Fault<D> {
        Fault { inner, plan, random: seed | 1, now: Instant(0), waiting: VecDeque::new(), busy: Instant(0) }
    }

    /// Tells the time: delayed frames become due. The engine's trait has no clock, so the test sets it.
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// When the next delayed frame is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(at, ..)| *at).min()
    }

    /// Changes the faults from now on.
    pub fn set_plan(&mut self, plan: FaultPlan) {
        self.plan = plan;
    }

    /// The wrapped device.
    pub fn inner(&mut self) -> &mut D {
        &mut self.inner
    }

    /// Moves everything the wire holds into the delay queue. Done before each receive; a test calls it
    /// when it needs [`Self::deadline`] to be exact.
    pub fn pump(&mut self) {
        let mut arrived: Vec<(Vec<u8>, bool)> = Vec::new();
        self.inner.receive(usize::MAX, &mut |batch| {
            arrived.extend(batch.iter().map(|frame| (frame.all().to_vec(), frame.checksum_ok)));
        });
        for (frame, trusted) in arrived {
            self.admit(frame, trusted);
        }
    }

    fn admit(&mut self, mut frame: Vec<u8>, trusted: bool) {
        let swallowed = self.plan.largest > 0 && frame.len() > self.plan.largest;
        if swallowed || self.strikes(self.plan.loss) {
            return;
        }
        if self.strikes(self.plan.corrupt) && !frame.is_empty() {
            let bit = self.next() as usize % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let Some(waited) = self.wait_for_the_wire(&mut frame) else { return };
        let copies = if self.strikes(self.plan.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = if self.plan.jitter > 0 { self.next() % self.plan.jitter } else { 0 };
            let due = self.now.after(waited + self.plan.delay + jitter);
            let entry = (due, frame.clone(), trusted);
            if self.strikes(self.plan.reorder) {
                let back = (self.next() % 8) as usize + 1;
                let at = self.waiting.len().saturating_sub(back);
                self.waiting.insert(at, entry);
            } else {
                self.waiting.push_back(entry);
            }
        }
    }

    /// How long it takes until the frame is on the wire; `None` if the queue is full.
    fn wait_for_the_wire(&mut self, frame: &mut [u8]) -> Option<u64> {
        if self.plan.rate == 0 {
            return Some(0);
        }
        let begin = self.busy.max(self.now);
        let waits = begin.0 - self.now.0;
        if self.plan.queue > 0 && waits > self.plan.queue {
            return None;
        }
        if self.plan.mark > 0 && waits > self.plan.mark {
            mark_congestion(frame);
        }
        // Preamble, check sequence and gap are 24 bytes (IEEE 802.3).
        self.busy = begin.after((frame.len() as u64 + 24) * 8 * 1_000_000_000 / self.plan.rate);
        Some(self.busy.0 - self.now.0)
    }

    fn strikes(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.next() % 1_000_000 < u64::from(per_million)
    }

    /// xorshift64*: Marsaglia, "Xorshift RNGs", J. Stat. Soft. 8(14), 2003.
    fn next(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

/// "Congestion experienced" in an IPv4 packet that says ECT, with its header's checksum (RFC 1624).
fn mark_congestion(frame: &mut [u8]) {
    match frame.get(14) {
        Some(0x45) => mark_ipv4(&mut frame[14..]),
        Some(byte) if byte >> 4 == 6 => mark_ipv6(&mut frame[14..]),
        _ => {}
    }
}

fn mark_ipv4(packet: &mut [u8]) {
    let Some(header) = packet.get_mut(..20).filter(|header| may_be_marked(header[1])) else { return };
    header[1] |= 3;
    header[10..12].fill(0);
    let sum = !smoltcp::wire::checksum::data(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The traffic class lies across the first two bytes (RFC 8200 §3), and no checksum covers it.
fn mark_ipv6(packet: &mut [u8]) {
    let Some(header) = packet.get_mut(..40).filter(|header| may_be_marked(header[1] >> 4)) else { return };
    header[1] |= 3 << 4;
}

/// ECT(0) or ECT(1) in the last two bits of a traffic class, not yet CE (RFC 3168 §5).
fn may_be_marked(traffic_class: u8) -> bool {
    matches!(traffic_class & 3, 1 | 2)
}

impl<D: Device> Device for Fault<D> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        self.pump();
        let mut count = 0;
        let mut index = 0;
        while count < budget && index < self.waiting.len() {
            if self.waiting[index].0 > self.now {
                index += 1;
            } else if let Some((_, frame, trusted)) = self.waiting.remove(index) {
                sink(&[RxFrame { bytes: &frame, in_place: &[], checksum_ok: trusted }]);
                count += 1;
            }
        }
        count
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.inner.transmit(len, meta, fill)
    }

    fn flush(&mut self) {
        self.inner.flush();
    }
}
