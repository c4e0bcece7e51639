//! A hierarchical timer wheel of 1 ms ticks (Varghese and Lauck, 1987): filing and firing in O(1).
//!
//! Entries are never searched and never taken out: an owner whose deadline moved later lets the old entry
//! fire and files again, one whose deadline moved earlier files another. What fires is therefore a hint,
//! and the owner looks at its own deadlines. (TCP moves its timers later with each segment; this way
//! that costs nothing.)

use alloc::vec::Vec;

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 5;
/// Farthest deadline that is filed exactly: 2^30 ms, 12 days. Later ones fire there and are filed again.
const REACH: u64 = 1 << (BITS * LEVELS as u32);

/// A hint for an owner, and the tick for which it was filed.
pub(crate) type Entry = (u32, u64);

/// The wheel.
pub(crate) struct Wheel {
    now: u64,
    levels: [[Vec<Entry>; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    /// The earliest tick at which something is fired or moved to a finer level; [`NEVER`] if nothing is filed.
    next: u64,
}

const NEVER: u64 = u64::MAX;

impl Wheel {
    pub(crate) fn new(now: u64) -> Wheel {
        Wheel {
            now,
            levels: core::array::from_fn(|_| core::array::from_fn(|_| Vec::new())),
            occupied: [0; LEVELS],
            next: NEVER,
        }
    }

    /// Files `owner` for tick `at`, or for the next one if that has passed.
    pub(crate) fn insert(&mut self, owner: u32, at: u64) {
        self.place((owner, at));
    }

    fn place(&mut self, entry: Entry) {
        let at = entry.1.clamp(self.now + 1, self.now + REACH - 1);
        // The level at whose granularity `at` and `now` lie in different slots of the same turn.
        let differing = (at ^ self.now) | 1;
        let level = ((63 - differing.leading_zeros()) / BITS).min(LEVELS as u32 - 1);
        let turn = at >> (level * BITS);
        let slot = turn as usize % SLOTS;
        self.levels[level as usize][slot].push(entry);
        self.occupied[level as usize] |= 1 << slot;
        self.next = self.next.min(turn << (level * BITS));
    }

    /// Turns the wheel to `now`; calls `fire` for each entry that became due.
    pub(crate) fn advance(&mut self, now: u64, due: &mut Vec<Entry>) {
        while self.next <= now {
            let next = self.next;
            self.now = next;
            for level in (0..LEVELS).rev() {
                let shift = level as u32 * BITS;
                let slot = (next >> shift) as usize % SLOTS;
                if next.trailing_zeros() < shift || self.occupied[level] & 1 << slot == 0 {
                    continue;
                }
                self.occupied[level] &= !(1 << slot);
                let mut entries = core::mem::take(&mut self.levels[level][slot]);
                for entry in entries.drain(..) {
                    if entry.1 <= next { due.push(entry) } else { self.place(entry) }
                }
                // Keep a small vector's memory for the slot's next turn.
                if self.levels[level][slot].is_empty() && entries.capacity() <= 64 {
                    self.levels[level][slot] = entries;
                }
            }
            self.next = (0..LEVELS).filter_map(|level| self.next_in(level)).min().unwrap_or(NEVER);
        }
        self.now = self.now.max(now);
    }

    /// The earliest tick at which something is fired or moved to a finer level.
    #[inline]
    pub(crate) fn next_turn(&self) -> Option<u64> {
        (self.next != NEVER).then_some(self.next)
    }

    fn next_in(&self, level: usize) -> Option<u64> {
        if self.occupied[level] == 0 {
            return None;
        }
        let shift = level as u32 * BITS;
        let here = self.now >> shift;
        let turned = self.occupied[level].rotate_right((here as u32 + 1) % SLOTS as u32);
        Some((here + 1 + u64::from(turned.trailing_zeros())) << shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Nothing fires early; everything has fired when its tick has passed.
        #[test]
        fn fires_in_time(entries in prop::collection::vec((0u64..5_000_000, 0u64..400_000), 1..60)) {
            let mut wheel = Wheel::new(1000);
            let (mut now, mut due, mut expected, mut fired) = (1000, Vec::new(), Vec::new(), Vec::new());
            for (owner, (delay, step)) in entries.into_iter().enumerate() {
                wheel.insert(owner as u32, now + delay);
                expected.push((owner as u32, now + delay));
                now += step;
                prop_assert!(wheel.next_turn().is_some());
                wheel.advance(now, &mut due);
                for entry in due.drain(..) {
                    prop_assert!(entry.1 <= now);
                    fired.push(entry);
                }
                for entry in &expected {
                    prop_assert!(entry.1 > now || entry.1 + step >= now && fired.contains(entry) || fired.contains(entry)
                        || entry.1 == now);
                }
            }
            wheel.advance(now + 6_000_000, &mut due);
            fired.extend(due);
            fired.sort();
            prop_assert_eq!(fired, expected);
            prop_assert_eq!(wheel.next_turn(), None);
        }
    }
}
