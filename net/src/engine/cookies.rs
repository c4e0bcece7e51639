//! SYN cookies (Bernstein, 1996; RFC 4987 section 3.6): when a listener's queue of half-open connections is full, the
//! answer to a SYN carries in its own number all that must be remembered, and nothing is kept.
//!
//! ```text
//! sequence number of the SYN-ACK:  minute (5 bits) | MSS (3) | keyed hash of flow, minute, MSS, peer's number (24)
//! low bits of its timestamp:       1 | ECN (1) | SACK (1) | peer's window shift (4)
//! ```
//!
//! Whoever completes such a handshake has seen our SYN-ACK, or has guessed 24 bits within two minutes. Without
//! timestamps there is no place for scaling, SACK and ECN, and the connection does without. Cookies are believed
//! only shortly after a listener had to send some, so that at all other times a stray ACK gets its RST.
//! What is lost: a SYN-ACK that gets lost is not sent again (the peer's SYN is).

use super::demux::FlowKey;
use super::isn::Secrets;
use super::segment::SynOptions;
use super::seq::Seq;

/// What is offered by steps: the greatest that does not exceed the peer's.
const SIZES: [u16; 8] = [88, 536, 1200, 1220, 1300, 1440, 1460, 8960];
/// Minutes for which a cookie is good.
const GOOD_MINUTES: u64 = 2;
/// How long after the last cookie answers to cookies are expected.
pub(crate) const EXPECTED_MS: u64 = 120_000;

const SCALE: u32 = 0xf;
const NO_SCALE: u32 = 0xf;
const SACK: u32 = 0x10;
const ECN: u32 = 0x20;
const BITS: u32 = 0x3f;

/// What a connection made from a cookie is told of its SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) mss: u16,
    pub(crate) scale: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) ecn: bool,
}

/// The number for a SYN-ACK. `pair`: the addresses, by `Addresses::pair` (their short names may change before
/// the answer comes).
pub(crate) fn make(secrets: &Secrets, pair: u64, key: &FlowKey, peer: Seq, mss: u16, now_ms: u64) -> Seq {
    let size = SIZES.iter().rposition(|&size| size <= mss).unwrap_or(0);
    number(secrets, pair, key, peer, size, now_ms / 60_000)
}

/// The MSS in a cookie of ours; `None` if it is none, or too old.
pub(crate) fn check(
    secrets: &Secrets,
    pair: u64,
    key: &FlowKey,
    peer: Seq,
    cookie: Seq,
    now_ms: u64,
) -> Option<u16> {
    let minute = now_ms / 60_000;
    let age = (minute as u32).wrapping_sub(cookie.0 >> 27) & 31;
    let size = (cookie.0 >> 24 & 7) as usize;
    let made = minute.checked_sub(u64::from(age))?;
    let good = u64::from(age) <= GOOD_MINUTES && number(secrets, pair, key, peer, size, made) == cookie;
    good.then(|| SIZES[size])
}

fn number(secrets: &Secrets, pair: u64, key: &FlowKey, peer: Seq, size: usize, minute: u64) -> Seq {
    let extra = u64::from(peer.0) << 32 | (size as u64) << 29 | minute & 0x1fff_ffff;
    let hash = secrets.cookie(pair, key, extra) as u32 & 0x00ff_ffff;
    Seq((minute as u32 & 31) << 27 | (size as u32) << 24 | hash)
}

/// The timestamp to send: the latest one not above `now` whose low bits tell the options.
pub(crate) fn stamp(now: u32, options: &SynOptions, ecn: bool) -> u32 {
    let bits = u32::from(options.scale.map_or(NO_SCALE as u8, |scale| scale.min(14)))
        | if options.sack { SACK } else { 0 }
        | if ecn { ECN } else { 0 };
    let stamp = now & !BITS | bits;
    if stamp.wrapping_sub(now) as i32 > 0 { stamp.wrapping_sub(BITS + 1) } else { stamp }
}

/// What the echo of such a timestamp tells.
pub(crate) fn read(mss: u16, echo: Option<u32>) -> Remembered {
    let Some(echo) = echo else { return Remembered { mss, scale: None, sack: false, ecn: false } };
    let scale = echo & SCALE;
    Remembered {
        mss,
        scale: (scale != NO_SCALE).then_some(scale as u8),
        sack: echo & SACK != 0,
        ecn: echo & ECN != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_and_only_for_a_while() {
        let secrets = Secrets::new(&[9; 32]);
        let (key, peer, now) = (FlowKey::NONE, Seq(77), 10_000_000);
        let cookie = make(&secrets, 7, &key, peer, 1460, now);
        assert_eq!(check(&secrets, 7, &key, peer, cookie, now), Some(1460));
        assert_eq!(check(&secrets, 7, &key, peer, cookie, now + 119_000), Some(1460));
        assert_eq!(check(&secrets, 7, &key, peer, cookie, now + 240_000), None);
        assert_eq!(check(&secrets, 7, &key, peer + 1, cookie, now), None);
        let forged = (0..2000).filter(|&i| check(&secrets, 7, &key, peer, cookie + i, now).is_some());
        assert_eq!(forged.count(), 1);
        assert_eq!(check(&secrets, 7, &key, peer, make(&secrets, 7, &key, peer, 1400, now), now), Some(1300));
    }

    #[test]
    fn timestamps_carry_the_options_and_do_not_run_ahead() {
        for now in [0u32, 1, 63, 64, 1000, u32::MAX] {
            for scale in [None, Some(0), Some(7), Some(14)] {
                let options = SynOptions { mss: None, scale, sack: true, ..SynOptions::default() };
                let stamp = stamp(now, &options, false);
                assert!((0..=127).contains(&now.wrapping_sub(stamp)), "{now} {stamp}");
                let read = read(536, Some(stamp));
                assert_eq!((read.scale, read.sack, read.ecn), (scale, true, false));
            }
        }
    }
}
