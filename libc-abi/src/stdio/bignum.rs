//! Unsigned integers of any size, for exact conversion between binary and decimal.
//!
//! Only what `strtod` and `printf` need: multiply and divide by one limb, shift, multiply by powers
//! of five, and a quotient of two numbers. Little-endian limbs of 64 bits, without leading zeros.

use alloc::vec::Vec;
use core::arch::asm;

/// The largest power of ten in a limb, and how many digits it has after the one.
pub(crate) const TEN_19: u64 = 10_000_000_000_000_000_000;

/// A natural number.
#[derive(Clone, Default)]
pub(crate) struct Big(pub(crate) Vec<u64>);

/// `(high, low) / divisor` with `high < divisor`: one `div`, where `u128 / u128` is a library call.
#[inline]
pub(crate) fn div_wide(high: u64, low: u64, divisor: u64) -> (u64, u64) {
    debug_assert!(high < divisor);
    let (quotient, remainder);
    // SAFETY: the quotient fits because high < divisor, so `div` does not fault.
    unsafe {
        asm!("div {}", in(reg) divisor, inlateout("rax") low => quotient,
             inlateout("rdx") high => remainder, options(pure, nomem, nostack));
    }
    (quotient, remainder)
}

impl Big {
    pub(crate) fn from_u64(value: u64) -> Big {
        let mut big = Big(Vec::new());
        if value != 0 {
            big.0.push(value);
        }
        big
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// Bits up to and including the highest one.
    pub(crate) fn bit_len(&self) -> usize {
        match self.0.last() {
            Some(top) => self.0.len() * 64 - top.leading_zeros() as usize,
            None => 0,
        }
    }

    /// `self = self * factor + addend`.
    pub(crate) fn mul_add(&mut self, factor: u64, addend: u64) {
        let mut carry = addend;
        for limb in &mut self.0 {
            let wide = u128::from(*limb) * u128::from(factor) + u128::from(carry);
            *limb = wide as u64;
            carry = (wide >> 64) as u64;
        }
        if carry != 0 {
            self.0.push(carry);
        }
    }

    /// `self = self * 5^power`.
    pub(crate) fn mul_pow5(&mut self, mut power: usize) {
        const FIVE_27: u64 = 7_450_580_596_923_828_125;
        while power >= 27 {
            self.mul_add(FIVE_27, 0);
            power -= 27;
        }
        self.mul_add(5u64.pow(power as u32), 0);
    }

    /// `self = self * 2^bits`.
    pub(crate) fn shl(&mut self, bits: usize) {
        if self.is_zero() {
            return;
        }
        let (limbs, bits) = (bits / 64, bits % 64);
        if bits != 0 {
            self.mul_add(1 << bits, 0);
        }
        if limbs != 0 {
            self.0.splice(0..0, core::iter::repeat_n(0, limbs));
        }
    }

    /// `self = self / divisor`; answers the remainder.
    pub(crate) fn div_small(&mut self, divisor: u64) -> u64 {
        let mut remainder = 0;
        for limb in self.0.iter_mut().rev() {
            (*limb, remainder) = div_wide(remainder, *limb, divisor);
        }
        self.trim();
        remainder
    }

    /// The 128 bits from the highest one on, a one in the last place for what lies below; and the
    /// weight (power of two) of the lowest of the 128.
    pub(crate) fn top(&self) -> (u128, i64) {
        let length = self.bit_len();
        let weight = length as i64 - 128;
        let limb = |index: i64| -> u128 {
            if index < 0 { 0 } else { self.0.get(index as usize).copied().map_or(0, u128::from) }
        };
        let top = self.0.len() as i64 - 1;
        let shift = self.0.last().map_or(0, |limb| limb.leading_zeros());
        let high = (limb(top) << 64) | limb(top - 1);
        let mut bits = high << shift;
        if shift != 0 {
            bits |= limb(top - 2) >> (64 - shift);
        }
        let lost = if shift != 0 { (limb(top - 2) as u64) << shift } else { limb(top - 2) as u64 };
        let below = (0..(top - 2).max(0)).any(|index| self.0[index as usize] != 0);
        (bits | u128::from(lost != 0 || below), weight)
    }

    /// Divides by `divisor` (Knuth, TAOCP 4.3.1 D): the quotient, and whether something remains.
    pub(crate) fn div(mut self, mut divisor: Big) -> (Big, bool) {
        if divisor.0.len() == 1 {
            let remainder = self.div_small(divisor.0[0]);
            return (self, remainder != 0);
        }
        let shift = divisor.0.last().map_or(0, |limb| limb.leading_zeros()) as usize;
        divisor.shl(shift);
        self.shl(shift);
        let n = divisor.0.len();
        let (v1, v2) = (divisor.0[n - 1], divisor.0[n - 2]);
        if self.0.len() < n {
            let rest = !self.is_zero();
            return (Big::default(), rest);
        }
        self.0.push(0);
        let mut quotient = Big(core::iter::repeat_n(0, self.0.len() - n).collect());
        for j in (0..self.0.len() - n).rev() {
            let u = &mut self.0[j..=j + n];
            let (mut digit, mut rest) = if u[n] >= v1 {
                (u64::MAX, u128::from(u[n - 1]) + u128::from(v1))
            } else {
                let (q, r) = div_wide(u[n], u[n - 1], v1);
                (q, u128::from(r))
            };
            while rest >> 64 == 0 && u128::from(digit) * u128::from(v2) > (rest << 64 | u128::from(u[n - 2]))
            {
                digit -= 1;
                rest += u128::from(v1);
            }
            if subtract_product(u, &divisor.0, digit) {
                digit -= 1;
                add_back(u, &divisor.0);
            }
            quotient.0[j] = digit;
        }
        self.trim();
        quotient.trim();
        (quotient, !self.is_zero())
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}

/// `u -= v * digit`; answers whether it went below zero.
fn subtract_product(u: &mut [u64], v: &[u64], digit: u64) -> bool {
    let (mut carry, mut borrow) = (0u64, false);
    for (index, limb) in v.iter().enumerate() {
        let product = u128::from(*limb) * u128::from(digit) + u128::from(carry);
        carry = (product >> 64) as u64;
        let (value, b1) = u[index].overflowing_sub(product as u64);
        let (value, b2) = value.overflowing_sub(u64::from(borrow));
        u[index] = value;
        borrow = b1 | b2;
    }
    let (value, b1) = u[v.len()].overflowing_sub(carry);
    let (value, b2) = value.overflowing_sub(u64::from(borrow));
    u[v.len()] = value;
    b1 | b2
}

/// `u += v`, the carry out cancels the borrow of [`subtract_product`].
fn add_back(u: &mut [u64], v: &[u64]) {
    let mut carry = false;
    for (index, limb) in v.iter().enumerate() {
        let (value, c1) = u[index].overflowing_add(*limb);
        let (value, c2) = value.overflowing_add(u64::from(carry));
        u[index] = value;
        carry = c1 | c2;
    }
    u[v.len()] = u[v.len()].wrapping_add(u64::from(carry));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divides_what_it_multiplied() {
        let mut a = Big::from_u64(0xfedc_ba98_7654_3211);
        a.mul_pow5(300);
        let mut b = Big::from_u64(12345);
        b.mul_pow5(297);
        let (quotient, rest) = a.clone().div(b.clone());
        // 0xfedc... * 125 / 12345
        let expected = u128::from(0xfedc_ba98_7654_3211u64) * 125 / 12345;
        let rem = u128::from(0xfedc_ba98_7654_3211u64) * 125 % 12345;
        assert_eq!(quotient.0.len(), 1);
        assert_eq!(u128::from(quotient.0[0]), expected);
        assert_eq!(rest, rem != 0);
    }
}
