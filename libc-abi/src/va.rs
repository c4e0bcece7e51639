//! Variadic C functions on x86-64 System V: `va_list`, and the shell that makes one.
//!
//! `extern "C" fn(..., ...)` definitions are not stable Rust, so a variadic function is a naked
//! function made by [`variadic!`](crate::variadic): it spills the argument registers into a register
//! save area (psABI 3.5.7), builds a [`VaList`] and calls the `v...` form with a pointer to it as the
//! argument after the fixed ones. It is exported as an `alias` row:
//!
//! ```ignore
//! variadic! { /// printf(3).
//!     fn printf(1 fixed) = vprintf; }              // vprintf(fmt, *mut VaList) -> c_int
//! exports! { ROWS "libc.so.6": alias "GLIBC_2.2.5" "printf" = printf; }
//! ```
//!
//! A function whose optional arguments are a bounded number of integers or pointers (`open`,
//! `fcntl`, `ioctl`, `prctl`, `semctl`) does not need this: declared with its largest arity as an
//! ordinary `extern "C" fn`, it finds them in the same registers. It must then ignore what it was
//! not given, as the register holds garbage. Lists of unknown length (`execl`, `printf`) and
//! floating-point arguments need the shell.

/// The x87 80-bit `long double` as it lies in memory: 10 bytes of value in 16.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C, align(16))]
pub struct LongDouble {
    /// The significand with its explicit integer bit at 63.
    pub mantissa: u64,
    /// Sign at bit 15, exponent biased by 16383 below.
    pub sign_exponent: u16,
}

impl LongDouble {
    /// Whether the sign bit is set.
    #[inline]
    pub fn negative(self) -> bool {
        self.sign_exponent & 0x8000 != 0
    }
    /// The biased exponent.
    #[inline]
    pub fn exponent(self) -> u32 {
        u32::from(self.sign_exponent & 0x7fff)
    }
    /// The exact extension of a double.
    pub fn from_f64(value: f64) -> LongDouble {
        let bits = value.to_bits();
        let sign = ((bits >> 48) & 0x8000) as u16;
        let (exponent, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
        let (mantissa, biased) = match exponent {
            0 if fraction == 0 => (0, 0),
            0 => {
                let shift = fraction.leading_zeros();
                (fraction << shift, (16383 - 1022 + 11 - shift as i32) as u16)
            }
            0x7ff => ((fraction << 11) | 1 << 63, 0x7fff),
            _ => ((fraction << 11) | 1 << 63, (exponent as i32 - 1023 + 16383) as u16),
        };
        LongDouble { mantissa, sign_exponent: sign | biased }
    }
}

/// `__va_list_tag`, the element of C's `va_list` array. A `va_list` parameter is a pointer to it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VaList {
    gp_offset: u32,
    fp_offset: u32,
    overflow_arg_area: *const u8,
    reg_save_area: *const u8,
}

/// Bytes of the six general registers in the save area.
const GP_BYTES: u32 = 48;
/// Bytes of the whole save area: six general and eight vector registers.
const ALL_BYTES: u32 = 176;

impl VaList {
    /// A list whose arguments all lie in memory, as behind a caller's sixth one.
    #[cfg(test)]
    pub(crate) fn in_memory(overflow_arg_area: *const u8) -> VaList {
        VaList {
            gp_offset: GP_BYTES,
            fp_offset: ALL_BYTES,
            overflow_arg_area,
            reg_save_area: core::ptr::null(),
        }
    }

    /// The next argument of class INTEGER: any integer or pointer.
    ///
    /// # Safety
    /// The caller of the variadic function passed an integer or pointer here; so for all fetchers.
    #[inline(always)]
    pub unsafe fn long(&mut self) -> u64 {
        // SAFETY: below 48 the offset names a spilled register, above it the caller's stack.
        unsafe {
            if self.gp_offset < GP_BYTES {
                let at = self.reg_save_area.add(self.gp_offset as usize);
                self.gp_offset += 8;
                at.cast::<u64>().read()
            } else {
                self.overflow()
            }
        }
    }

    /// The next `int`.
    ///
    /// # Safety
    /// As [`VaList::long`].
    #[inline(always)]
    pub unsafe fn int(&mut self) -> i32 {
        // SAFETY: forwarded.
        unsafe { self.long() as i32 }
    }

    /// The next pointer.
    ///
    /// # Safety
    /// As [`VaList::long`].
    #[inline(always)]
    pub unsafe fn ptr<T>(&mut self) -> *mut T {
        // SAFETY: forwarded.
        unsafe { self.long() as usize as *mut T }
    }

    /// The next `double`.
    ///
    /// # Safety
    /// As [`VaList::long`], for a double.
    #[inline(always)]
    pub unsafe fn double(&mut self) -> f64 {
        // SAFETY: as in `long`; vector registers lie 16 bytes apart from 48 to 176.
        unsafe {
            if self.fp_offset < ALL_BYTES {
                let at = self.reg_save_area.add(self.fp_offset as usize);
                self.fp_offset += 16;
                at.cast::<f64>().read()
            } else {
                f64::from_bits(self.overflow())
            }
        }
    }

    /// The next `long double`: class X87 is always on the stack, 16-byte aligned (psABI 3.2.3).
    ///
    /// # Safety
    /// As [`VaList::long`], for a long double.
    #[inline]
    pub unsafe fn long_double(&mut self) -> LongDouble {
        // SAFETY: the overflow area holds a 16-byte slot at the next multiple of 16.
        unsafe {
            let pad = self.overflow_arg_area.align_offset(16);
            let at = self.overflow_arg_area.add(pad);
            self.overflow_arg_area = at.add(16);
            LongDouble { mantissa: at.cast::<u64>().read(), sign_exponent: at.add(8).cast::<u16>().read() }
        }
    }

    #[inline]
    unsafe fn overflow(&mut self) -> u64 {
        // SAFETY: the caller's stack holds one more eightbyte.
        unsafe {
            let at = self.overflow_arg_area;
            self.overflow_arg_area = at.add(8);
            at.cast::<u64>().read()
        }
    }
}

/// Makes variadic C functions out of their `v...` forms. See the [module](crate::va).
///
/// The frame: `va_list` at 0, save area at 32 (16-byte aligned for `movaps`), 216 bytes in all, so
/// that the call happens at a 16-byte aligned stack. `al` holds an upper bound of the vector
/// registers used; zero means that they need not be saved (psABI 3.5.7). rustc emits no unwind
/// information for a naked function, so the directives here make the whole of it.
#[macro_export]
macro_rules! variadic {
    ($( $(#[$meta:meta])* fn $name:ident ( $fixed:tt fixed ) = $target:path; )*) => {$(
        $(#[$meta])*
        #[unsafe(naked)]
        #[allow(unreachable_pub)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "sub rsp, 216",
                ".cfi_adjust_cfa_offset 216",
                "mov [rsp + 32], rdi",
                "mov [rsp + 40], rsi",
                "mov [rsp + 48], rdx",
                "mov [rsp + 56], rcx",
                "mov [rsp + 64], r8",
                "mov [rsp + 72], r9",
                "test al, al",
                "je 2f",
                "movaps [rsp + 80], xmm0",
                "movaps [rsp + 96], xmm1",
                "movaps [rsp + 112], xmm2",
                "movaps [rsp + 128], xmm3",
                "movaps [rsp + 144], xmm4",
                "movaps [rsp + 160], xmm5",
                "movaps [rsp + 176], xmm6",
                "movaps [rsp + 192], xmm7",
                "2:",
                "mov dword ptr [rsp], {gp}",
                "mov dword ptr [rsp + 4], 48",
                "lea rax, [rsp + 224]",
                "mov [rsp + 8], rax",
                "lea rax, [rsp + 32]",
                "mov [rsp + 16], rax",
                concat!("mov ", $crate::variadic!(@register $fixed), ", rsp"),
                "call {target}",
                "add rsp, 216",
                ".cfi_adjust_cfa_offset -216",
                "ret",
                ".cfi_endproc",
                gp = const $fixed * 8,
                target = sym $target,
            )
        }
    )*};
    (@register 1) => { "rsi" };
    (@register 2) => { "rdx" };
    (@register 3) => { "rcx" };
    (@register 4) => { "r8" };
    (@register 5) => { "r9" };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds what `kinds` announces: i (int), l (long), d (double), D (long double as its mantissa).
    unsafe extern "C" fn vsum(kinds: *const u8, list: *mut VaList) -> f64 {
        let mut sum = 0.0;
        // SAFETY: the test passes arguments of the kinds that it names.
        unsafe {
            let list = &mut *list;
            for kind in core::ffi::CStr::from_ptr(kinds.cast()).to_bytes() {
                sum += match kind {
                    b'i' => f64::from(list.int()),
                    b'l' => list.long() as i64 as f64,
                    b'd' => list.double(),
                    _ => list.long_double().mantissa as f64,
                };
            }
        }
        sum
    }

    variadic! { fn sum(1 fixed) = vsum; }

    #[test]
    fn fetches_registers_and_overflow() {
        // SAFETY: `sum` follows the variadic convention of this type.
        let sum: unsafe extern "C" fn(*const u8, ...) -> f64 =
            unsafe { core::mem::transmute(sum as *const ()) };
        // SAFETY: the kinds match the arguments.
        unsafe {
            assert_eq!(sum(c"".as_ptr().cast()), 0.0);
            assert_eq!(sum(c"ili".as_ptr().cast(), -1i32, 1i64 << 40, 3i32), (1i64 << 40) as f64 + 2.0);
            assert_eq!(
                sum(c"iiiiiiiiid".as_ptr().cast(), 1, 2, 3, 4, 5, 6, 7, 8, 9, 0.5f64),
                45.5,
                "general registers run out, vector registers do not"
            );
            assert_eq!(
                sum(
                    c"dddddddddddi".as_ptr().cast(),
                    1.0,
                    2.0,
                    3.0,
                    4.0,
                    5.0,
                    6.0,
                    7.0,
                    8.0,
                    9.0,
                    10.0,
                    11.0,
                    7
                ),
                73.0
            );
        }
    }

    #[test]
    fn widens_doubles_exactly() {
        let one = LongDouble::from_f64(-1.0);
        assert_eq!((one.mantissa, one.sign_exponent), (1 << 63, 0xbfff));
        let tiny = LongDouble::from_f64(f64::from_bits(1));
        assert_eq!((tiny.mantissa, tiny.sign_exponent), (1 << 63, 16383 - 1074));
    }
}
