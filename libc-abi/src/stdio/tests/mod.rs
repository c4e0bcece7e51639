//! What the tests of the family share: the host's functions, argument lists in memory, random input.

pub(crate) mod files;

use crate::types::*;
use crate::va::{LongDouble, VaList};
use std::vec::Vec;

/// An argument.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    Int(u64),
    Double(f64),
    Long(LongDouble),
}

/// Arguments as they would lie on a caller's stack: all in the overflow area.
pub(crate) struct Stack(Vec<LongDouble>);

impl Stack {
    pub(crate) fn new(args: &[Arg]) -> Stack {
        let mut words: Vec<u64> = Vec::new();
        for arg in args {
            match arg {
                Arg::Int(value) => words.push(*value),
                Arg::Double(value) => words.push(value.to_bits()),
                Arg::Long(value) => {
                    if words.len() % 2 == 1 {
                        words.push(0);
                    }
                    words.extend([value.mantissa, u64::from(value.sign_exponent)]);
                }
            }
        }
        words.extend([0; 4]);
        let mut slots = std::vec![LongDouble::default(); words.len().div_ceil(2)];
        for (index, word) in words.iter().enumerate() {
            // SAFETY: the slots have 16 bytes each.
            unsafe { slots.as_mut_ptr().cast::<u64>().add(index).write(*word) };
        }
        Stack(slots)
    }

    /// Doubles would come from the vector registers: those are used up as well.
    pub(crate) fn list(&self) -> VaList {
        VaList::in_memory(self.0.as_ptr().cast())
    }
}

/// The host's functions.
pub(crate) mod host {
    use super::*;
    unsafe extern "C" {
        pub(crate) fn vsnprintf(
            text: *mut c_char,
            room: usize,
            fmt: *const c_char,
            args: *mut VaList,
        ) -> c_int;
        pub(crate) fn vswprintf(
            text: *mut wchar_t,
            room: usize,
            fmt: *const wchar_t,
            args: *mut VaList,
        ) -> c_int;
        pub(crate) fn __isoc99_vsscanf(text: *const c_char, fmt: *const c_char, args: *mut VaList) -> c_int;
        pub(crate) fn __isoc99_vswscanf(
            text: *const wchar_t,
            fmt: *const wchar_t,
            args: *mut VaList,
        ) -> c_int;
        pub(crate) fn strtod(text: *const c_char, end: *mut *mut c_char) -> f64;
        pub(crate) fn strtof(text: *const c_char, end: *mut *mut c_char) -> f32;
        pub(crate) fn wcstod(text: *const wchar_t, end: *mut *mut wchar_t) -> f64;
        pub(crate) fn strtold();
        pub(crate) fn fcvt(value: f64, digits: c_int, point: *mut c_int, sign: *mut c_int) -> *mut c_char;
        pub(crate) fn ecvt(value: f64, digits: c_int, point: *mut c_int, sign: *mut c_int) -> *mut c_char;
        pub(crate) fn parse_printf_format(fmt: *const c_char, room: usize, types: *mut c_int) -> usize;
        pub(crate) fn strfromd(into: *mut c_char, room: usize, format: *const c_char, value: f64) -> c_int;
    }
    pub(crate) fn errno() -> i32 {
        // SAFETY: the host's errno.
        unsafe { *libc::__errno_location() }
    }
    pub(crate) fn clear_errno() {
        // SAFETY: the host's errno.
        unsafe { *libc::__errno_location() = 0 };
    }
}

/// A xorshift generator: the same inputs in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    /// Doubles of every size, with short and long fractions.
    pub(crate) fn double(&mut self) -> f64 {
        match self.below(6) {
            0 => f64::from_bits(self.next()),
            1 => self.below(1_000_000) as f64 / 1000.0,
            2 => self.below(2000) as f64 / 16.0 - 50.0,
            3 => self.pick(&[0.0, -0.0, 0.5, 1.5, 2.5, 9.5, 99.5, 999999.5, 1e22, 1e23, 5e-324, f64::MAX]),
            4 => f64::from_bits(self.next() & 0x000f_ffff_ffff_ffff | (1000 + self.below(60)) << 52),
            _ => self.next() as f64 * self.pick(&[1.0, 1e-5, 1e-20, 1e10]),
        }
    }
    pub(crate) fn long_double(&mut self) -> LongDouble {
        match self.below(3) {
            0 => LongDouble::from_f64(self.double()),
            1 => LongDouble {
                mantissa: self.next() | 1 << 63,
                sign_exponent: (16383 - 80 + self.below(160)) as u16,
            },
            _ => {
                let exponent = self.below(0x7fff) as u16;
                let top = if exponent == 0 { 0 } else { 1 << 63 };
                LongDouble { mantissa: self.next() >> 1 | top, sign_exponent: exponent }
            }
        }
    }
}

/// Calls a function of two pointers that answers in st(0).
pub(crate) fn call_x87(function: *const (), text: *const c_char, end: *mut *mut c_char) -> LongDouble {
    let mut out = LongDouble::default();
    // SAFETY: an ordinary C call; st(0) is taken off at once.
    unsafe {
        core::arch::asm!(
            "call r12",
            "fstp tbyte ptr [r13]",
            in("r12") function,
            in("r13") &raw mut out,
            in("rdi") text, in("rsi") end,
            clobber_abi("C"),
        );
    }
    out
}
