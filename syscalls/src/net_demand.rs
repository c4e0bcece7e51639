//! To whom many frames go: what a guest asks its supervisor for a shortcut by.
//!
//! Counted in spans of time, for a few addresses at once; a small one gives way to a new one (Misra and Gries: whoever has
//! more than a fifth of all frames is among four). Nothing is asked twice within a while: most addresses are not a
//! guest's, and the supervisor does not say so.

use core::net::IpAddr;
use platform::time::{Instant, MILLISECOND, SECOND};

/// Addresses that are counted at once.
const PLACES: usize = 4;
/// A span of time.
const SPAN_NS: u64 = 100 * MILLISECOND;
/// Frames in a span that make a shortcut worth its memory and descriptors.
const MANY: u32 = 400;
/// Who was asked for is not asked for again within this time.
const AGAIN_NS: u64 = 5 * SECOND;
/// Requests that are remembered.
const ASKED: usize = 16;

/// See the module.
pub(crate) struct Demand {
    places: [Option<(IpAddr, u32)>; PLACES],
    ends: Instant,
    /// Who was asked for, and until when not again.
    asked: [Option<(IpAddr, Instant)>; ASKED],
    oldest: usize,
    wanted: Option<IpAddr>,
}

impl Demand {
    pub(crate) const fn none() -> Demand {
        Demand { places: [None; PLACES], ends: Instant(0), asked: [None; ASKED], oldest: 0, wanted: None }
    }

    /// A frame goes to this address.
    #[inline]
    pub(crate) fn note(&mut self, to: IpAddr) {
        for place in self.places.iter_mut().flatten() {
            if place.0 == to {
                place.1 += 1;
                if place.1 == MANY {
                    self.wanted = Some(to);
                }
                return;
            }
        }
        self.begin(to);
    }

    fn begin(&mut self, to: IpAddr) {
        if let Some(place) = self.places.iter_mut().find(|place| place.is_none()) {
            *place = Some((to, 1));
            return;
        }
        for place in &mut self.places {
            *place = place.filter(|(_, count)| *count > 1).map(|(address, count)| (address, count - 1));
        }
    }

    /// It is `now`.
    #[inline]
    pub(crate) fn passes(&mut self, now: Instant) {
        if now >= self.ends {
            self.ends = now.after(SPAN_NS);
            self.places = [None; PLACES];
        }
    }

    /// Who is to be asked for.
    pub(crate) fn take(&mut self) -> Option<IpAddr> {
        let wanted = self.wanted.take()?;
        let now = self.ends;
        let is_it = |asked: &(IpAddr, Instant)| asked.0 == wanted && asked.1 > now;
        if self.asked.iter().flatten().any(is_it) {
            return None;
        }
        self.asked[self.oldest] = Some((wanted, now.after(AGAIN_NS)));
        self.oldest = (self.oldest + 1) % ASKED;
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn many_frames_in_a_short_time_are_a_demand_once_in_a_while() {
        let mut demand = Demand::none();
        demand.passes(Instant(SECOND));
        // Others in between: more than there are places.
        for round in 0..MANY * 2 {
            demand.note(address(1));
            demand.note(address(1));
            demand.note(address(10 + (round % 9) as u8));
        }
        assert_eq!(demand.take(), Some(address(1)));
        assert_eq!(demand.take(), None);
        demand.passes(Instant(2 * SECOND));
        (0..MANY).for_each(|_| demand.note(address(1)));
        assert_eq!(demand.take(), None, "asked for already");
        demand.passes(Instant(20 * SECOND));
        (0..MANY).for_each(|_| demand.note(address(1)));
        assert_eq!(demand.take(), Some(address(1)));
    }

    #[test]
    fn the_same_frames_over_a_long_time_are_none() {
        let mut demand = Demand::none();
        for frame in 0..10 * u64::from(MANY) {
            demand.passes(Instant(SECOND + frame * MILLISECOND));
            demand.note(address(1));
        }
        assert_eq!(demand.take(), None);
    }
}
