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
    /// When it grew last, in insertions.
    turn: u32,
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
    turns: u32,
    /// What arrived twice and was not reported yet (RFC 2883).
    pub(crate) duplicate: Option<(Seq, Seq)>,
}

impl Reassembly {
    /// Keeps what of `payload` is not there yet.
    pub(crate) fn insert(&mut self, pool: &mut Pool, seq: Seq, payload: &[u8]) {
        let end = seq + payload.len() as u32;
        let mut at = seq;
        let i = self.ranges.partition_point(|range| range.end().before(seq));
        self.turns = self.turns.wrapping_add(1);
        let known = self.ranges.get(i).filter(|range| range.start.at_most(seq) && end.at_most(range.end()));
        if known.is_some() {
            self.duplicate = Some((seq, end));
        }
        while at.before(end) {
            let next_start = self.ranges.get(i).map(|range| range.start);
            if next_start.is_some_and(|start| start.at_most(at)) {
                self.ranges[i].turn = self.turns;
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
                self.ranges.insert(i, Range { start: at, bytes, turn: self.turns });
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
            self.ranges[i].turn = self.turns;
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
        self.ranges.is_empty() && self.duplicate.is_none()
    }

    /// Blocks to report: what arrived twice (once, RFC 2883 section 4), then the ranges that grew last (RFC
    /// 2018 section 4).
    pub(crate) fn blocks(&mut self, most: usize) -> ([(Seq, Seq); MAX_SACK], usize) {
        let (mut blocks, mut count) = ([(Seq(0), Seq(0)); MAX_SACK], 0);
        if let Some(duplicate) = self.duplicate.take() {
            blocks[0] = duplicate;
            count = 1;
        }
        let ranges_from = count;
        while count < most.min(MAX_SACK) {
            let age = |range: &&Range| self.turns.wrapping_sub(range.turn);
            // By age; ranges of the same age (one insertion made both) by place.
            let shown = &blocks[ranges_from..count];
            let is_new = |range: &&Range| !shown.iter().any(|block| block.0 == range.start);
            let Some(next) = self.ranges.iter().filter(is_new).min_by_key(age) else { break };
            blocks[count] = (next.start, next.end());
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
