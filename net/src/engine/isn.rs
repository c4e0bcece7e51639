//! What must be unpredictable: initial sequence numbers (RFC 6528), timestamp offsets (RFC 7323 section
//! 5.4) and ports (RFC 6056). All are SipHash (Aumasson and Bernstein, 2012) under keys cut from the shard's
//! seed, from which the flow table's hash has its key too.

use super::demux::FlowKey;

/// A SipHash key.
#[derive(Clone, Copy)]
pub(crate) struct Key(u64, u64);

impl Key {
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Key {
        let word = u128::from_le_bytes(bytes);
        Key((word >> 64) as u64, word as u64)
    }

    #[inline]
    pub(crate) fn words(&self) -> [u64; 2] {
        [self.0, self.1]
    }
}

/// The shard's keys.
#[derive(Clone, Copy)]
pub(crate) struct Secrets {
    pub(crate) table: Key,
    isn: Key,
    timestamp: Key,
    pub(crate) ports: Key,
    cookie: Key,
    fast_open: Key,
    /// Of IPv6 addresses in tables, and of interface identifiers.
    pub(crate) addresses: Key,
    /// Which shard a flow belongs to.
    pub(crate) steering: [Key; 2],
}

impl Secrets {
    pub(crate) fn new(seed: &[u8; 32]) -> Secrets {
        let word = |i: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&seed[8 * i..8 * i + 8]);
            u64::from_le_bytes(bytes)
        };
        let (low, high) = (Key(word(0), word(1)), Key(word(2), word(3)));
        // Separate keys for separate uses, so that a value shown to one peer says nothing of another's.
        let derive = |n: u64| Key(sip::<2, 4>(low, [n, 0]), sip::<2, 4>(high, [n, 1]));
        Secrets {
            table: derive(1),
            isn: derive(2),
            timestamp: derive(3),
            ports: derive(4),
            cookie: derive(5),
            addresses: derive(6),
            fast_open: derive(7),
            steering: [derive(8), derive(9)],
        }
    }

    /// The initial sequence number of a flow at `now_us`: a clock of 4 µs ticks plus a keyed hash.
    /// `pair`: the addresses, by `Addresses::pair`.
    pub(crate) fn isn(&self, pair: u64, key: &FlowKey, now_us: u64) -> u32 {
        let [_, ports] = key.words();
        (sip::<2, 4>(self.isn, [pair, ports]) as u32).wrapping_add((now_us / 4) as u32)
    }

    /// The keyed hash in a SYN cookie.
    pub(crate) fn cookie(&self, pair: u64, key: &FlowKey, extra: u64) -> u64 {
        let [_, ports] = key.words();
        sip::<2, 4>(self.cookie, [sip::<2, 4>(self.cookie, [pair, ports]), extra])
    }

    /// The cookie of RFC 7413 for a client's address and ours.
    pub(crate) fn fast_open(&self, pair: u64) -> u64 {
        sip::<2, 4>(self.fast_open, [pair, 0])
    }

    /// What is added to the clock in timestamps towards a peer. The same for all flows between two
    /// addresses, so that timestamps stay monotonic over TIME-WAIT (RFC 6191).
    pub(crate) fn timestamp_offset(&self, pair: u64) -> u32 {
        sip::<2, 4>(self.timestamp, [pair, 0]) as u32
    }
}

/// SipHash-C-D of two words. The length is fixed, so no length block is needed to tell messages apart.
#[inline]
pub(crate) fn sip<const C: usize, const D: usize>(key: Key, words: [u64; 2]) -> u64 {
    let mut v = [
        key.0 ^ 0x736f_6d65_7073_6575,
        key.1 ^ 0x646f_7261_6e64_6f6d,
        key.0 ^ 0x6c79_6765_6e65_7261,
        key.1 ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        v[3] ^= word;
        (0..C).for_each(|_| round(&mut v));
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..D).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;

    /// The standard library's deprecated hasher is SipHash-2-4: with the length block added by hand the
    /// rounds must agree.
    #[test]
    #[allow(deprecated)]
    fn rounds_are_siphash() {
        let (k0, k1, word) = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908, 0x1122_3344_5566_7788u64);
        let mut reference = std::hash::SipHasher::new_with_keys(k0, k1);
        reference.write(&word.to_le_bytes());
        assert_eq!(sip::<2, 4>(Key(k0, k1), [word, 8 << 56]), reference.finish());
    }
}
