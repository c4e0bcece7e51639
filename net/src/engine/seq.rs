//! Sequence numbers: arithmetic modulo 2^32 that cannot be compared with `<` by accident (RFC 9293
//! section 3.4).

use core::ops::{Add, AddAssign, Sub};

/// A TCP sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// Strictly before `other`.
    #[inline]
    pub(crate) fn before(self, other: Seq) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Strictly after `other`.
    #[inline]
    pub(crate) fn after(self, other: Seq) -> bool {
        other.before(self)
    }

    /// Before or equal.
    #[inline]
    pub(crate) fn at_most(self, other: Seq) -> bool {
        !self.after(other)
    }

    /// Bytes from `earlier` to this number, modulo 2^32.
    #[inline]
    pub(crate) fn since(self, earlier: Seq) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The later of the two.
    #[inline]
    pub(crate) fn latest(self, other: Seq) -> Seq {
        if self.after(other) { self } else { other }
    }
}

impl Add<u32> for Seq {
    type Output = Seq;
    #[inline]
    fn add(self, bytes: u32) -> Seq {
        Seq(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u32> for Seq {
    #[inline]
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;
    #[inline]
    fn sub(self, bytes: u32) -> Seq {
        Seq(self.0.wrapping_sub(bytes))
    }
}
