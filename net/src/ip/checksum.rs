//! The Internet checksum (RFC 1071), for the way of every packet. Rarer packets use `smoltcp::wire`'s.
//!
//! Eight bytes are added at a time, in the order of the machine: a sum in ones' complement does not depend on it
//! (RFC 1071 section 2 B), the result is swapped once. Small sums come from registers, and a payload of a
//! hundred bytes takes a dozen additions; a vectorised loop needs more than that to begin.

/// Adds with the carry brought round.
#[inline]
fn add(sum: u64, word: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(word);
    sum + u64::from(carry)
}

/// The sum of `bytes` as 16-bit words in network order, a last odd byte taken with a zero behind it. To be folded.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    // Four chains of additions that do not wait for each other.
    let mut sums = [0; 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = add(*sum, u64::from_ne_bytes(*word));
        }
    }
    let mut sum = add(add(sums[0], sums[1]), add(sums[2], sums[3]));
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        sum = add(sum, u64::from_ne_bytes(*word));
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        sum = add(sum, u64::from_ne_bytes(last));
    }
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) as u32 + (sum as u32 >> 16) + (sum as u32 & 0xffff);
    u32::from(u16::from_be(fold(sum)))
}

/// The two words of a 32-bit field.
#[inline]
pub(crate) fn long(field: u32) -> u32 {
    (field >> 16) + (field & 0xffff)
}

/// Brings a sum of words down to one.
#[inline]
pub(crate) fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_as_the_wire_library(bytes in prop::collection::vec(any::<u8>(), 0..200), big in any::<bool>()) {
            let bytes = if big { bytes.repeat(300) } else { bytes };
            let (ours, theirs) = (fold(sum(&bytes)), smoltcp::wire::checksum::data(&bytes));
            // 0 and 0xffff are the same number.
            prop_assert!(ours == theirs || ours % 0xffff == theirs % 0xffff);
            prop_assert_eq!(ours == 0, bytes.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn carries_go_round() {
        for len in [1, 2, 7, 8, 9, 31, 32, 40, 65_536] {
            let bytes = std::vec![0xff; len];
            assert_eq!(fold(sum(&bytes)), if len % 2 == 0 { 0xffff } else { 0xff00 });
        }
    }
}
