//! Data that arrived ahead of its turn. Exists only while something is missing.

use alloc::vec::Vec;

use super::queue::{Pool, Queue};
use super::segment::MAX_SACK;
use super::seq::Seq;

/// Separate ranges kept; what would make another one is dropped and has to be sent again.
const MAX_RANGES: usize = 256;

struct Range {
    start: Seq,
    bytes: Queue,
}

impl Range {
    fn end(&self) -> Seq {
        self.start + self.bytes.len()
    }
}

/// Ranges in order, disjoint and not touching.
#[derive(Default)]
pub(crate) struct Reassembly {
    ranges: Vec<Range>,
    /// A number in the range that grew last: its block is reported first (RFC 2018 section 4).
    latest: Seq,
}

impl Reassembly {
    /// Keeps what of `payload` is not there yet.
    pub(crate) fn insert(&mut self, pool: &mut Pool, seq: Seq, payload: &[u8]) {
        let end = seq + payload.len() as u32;
        let mut at = seq;
        let i = self.ranges.partition_point(|range| range.end().before(seq));
        self.latest = seq;
        while at.before(end) {
            let next_start = self.ranges.get(i).map(|range| range.start);
            if next_start.is_some_and(|start| start.at_most(at)) {
                at = at.latest(self.ranges[i].end());
                if !at.before(end) {
                    return;
                }
                let following = self.ranges.get(i + 1).map(|range| range.start);
                let limit = following.filter(|start| start.before(end)).unwrap_or(end);
                let piece = &payload[at.since(seq) as usize..limit.since(seq) as usize];
                if self.ranges[i].bytes.push(pool, piece) < piece.len() {
                    return;
                }
                at = limit;
                self.join(pool, i);
            } else {
                let limit = next_start.filter(|start| start.before(end)).unwrap_or(end);
                let piece = &payload[at.since(seq) as usize..limit.since(seq) as usize];
                let mut bytes = Queue::default();
                if self.ranges.len() >= MAX_RANGES || bytes.push(pool, piece) < piece.len() {
                    bytes.clear(pool);
                    return;
                }
                self.ranges.insert(i, Range { start: at, bytes });
                at = limit;
                self.join(pool, i);
            }
        }
    }

    /// Joins range `i` with the next one if they touch.
    fn join(&mut self, pool: &mut Pool, i: usize) {
        if self.ranges.get(i + 1).is_some_and(|next| next.start == self.ranges[i].end()) {
            let next = self.ranges.remove(i + 1);
            self.ranges[i].bytes.append(pool, next.bytes);
        }
    }

    /// The range that continues at `next`, if it is there, without what lies before.
    pub(crate) fn take(&mut self, pool: &mut Pool, next: Seq) -> Option<Queue> {
        while self.ranges.first().is_some_and(|range| range.start.at_most(next)) {
            let mut range = self.ranges.remove(0);
            if range.end().after(next) {
                range.bytes.consume(pool, next.since(range.start));
                return Some(range.bytes);
            }
            range.bytes.clear(pool);
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Blocks to report, the latest first.
    pub(crate) fn blocks(&self) -> ([(Seq, Seq); MAX_SACK], usize) {
        let mut blocks = [(Seq(0), Seq(0)); MAX_SACK];
        let is_latest = |range: &&Range| range.start.at_most(self.latest) && self.latest.before(range.end());
        let first = self.ranges.iter().find(is_latest);
        let others = self.ranges.iter().filter(|range| !is_latest(range));
        let mut count = 0;
        for (slot, range) in blocks.iter_mut().zip(first.into_iter().chain(others)) {
            *slot = (range.start, range.end());
            count += 1;
        }
        (blocks, count)
    }

    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        self.ranges.drain(..).for_each(|mut range| range.bytes.clear(pool));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// Pieces of a known stream in any order, with overlaps, near the wrap of sequence numbers.
        #[test]
        fn puts_a_stream_together(mut pieces in prop::collection::vec((0usize..8000, 1usize..3000), 1..40)) {
            let stream: Vec<u8> = (0..12_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let base = Seq(u32::MAX - 4000);
            let mut pool = Pool::new(1 << 22);
            let mut reassembly = Reassembly::default();
            for &(at, len) in &pieces {
                reassembly.insert(&mut pool, base + at as u32, &stream[at..at + len]);
                for pair in reassembly.ranges.windows(2) {
                    prop_assert!(pair[0].end().before(pair[1].start));
                }
            }
            pieces.sort();
            let first = pieces[0].0;
            let end = pieces.iter().fold(first, |end, &(at, len)| if at <= end { end.max(at + len) } else { end });
            let mut queue = reassembly.take(&mut pool, base + first as u32).unwrap();
            let mut out = alloc::vec![0; queue.len() as usize];
            queue.copy_out(&pool, 0, &mut out);
            prop_assert_eq!(&out[..], &stream[first..end]);
            queue.clear(&mut pool);
            reassembly.clear(&mut pool);
            prop_assert_eq!(pool.used(), 0);
        }
    }
}
