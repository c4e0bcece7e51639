//! A bounded form of the ring fuzzer (`fuzz/`): a peer that writes anything anywhere into the shared
//! memory harms nobody but itself.

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hostile_memory_stays_its_writers_problem(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        net::ring::fuzz_rings(&bytes);
    }
}

/// Positions that are off the records' alignment, found by a server that takes over.
#[test]
fn odd_positions_are_found_at_the_start() {
    for position in (0..64).chain(4000..4200) {
        // Write `position` at each word of a ring's header, open the link again, push and pop.
        for word in 0..=255 {
            let mut steps = Vec::new();
            for ring in [0, 12] {
                steps.extend([ring, word, 0, 0]);
                steps.extend((position as u32).to_le_bytes());
            }
            for what in [6, 7, 8, 9, 10] {
                steps.extend([what, 1, 100, 0, 0, 0, 0, 0]);
            }
            net::ring::fuzz_rings(&steps);
        }
    }
}
