//! Strings and memory 64 bytes at a time, on processors with AVX-512 (F, BW, VL) and BMI: the bodies that programs
//! are bound to there ([`bound`]), so that no call asks the processor what it is.
//!
//! Assembly, for one reason: these functions use the registers 16 to 31 alone, which only EVEX encodings name.
//! Whoever does not touch the upper halves of 0 to 15 needs no `vzeroupper` (Intel SDM vol. 1, 14.10.2), and that
//! costs one to two nanoseconds of every short string. A compiler takes the low registers first.
//!
//! The rules of [`crate::string_scan`] hold: memory of which it is not known that it is there is read only in the page
//! of a byte that must be there. A first block is read where the string begins if it ends in that page (one load for
//! most strings, although half of them cross a cache line); what is longer goes on by aligned blocks, singly at first, then
//! four in a step. Copies load all of up to 512 bytes before they store any, and longer ones walk in the direction that
//! overlap allows.
//!
//! Without the processor's AVX-512 the exported functions are those of [`crate::string`]. Rust code of this crate calls
//! those, too, by name.

mod compare;
mod copy;
mod scan;

pub use compare::{memcmp, strcmp, strncmp};
pub(crate) use copy::{LONG_COPY, LONG_FILL};
pub use copy::{memmove, memset, stpcpy, strcpy};
pub use scan::{memchr, strchr, strchrnul, strlen, strnlen};

use crate::string;
use crate::types::{c_char, c_void};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU8, Ordering};

/// What a program's reference to the exported `name`, whose plain body is at `address`, is bound to: glibc's IFUNC,
/// decided by the loader. By name, since a function's address is not one: each part of the crate may have a copy of its own.
pub fn bound(name: &str, address: *const ()) -> *const () {
    let body = match name {
        "memmove" | "memcpy" => memmove as *const (),
        "memset" => memset as *const (),
        "memcmp" | "bcmp" | "__memcmpeq" => memcmp as *const (),
        "memchr" => memchr as *const (),
        "strlen" => strlen as *const (),
        "strnlen" => strnlen as *const (),
        "strchr" | "index" => strchr as *const (),
        "strchrnul" => strchrnul as *const (),
        "strcmp" | "strcoll" => strcmp as *const (),
        "strncmp" => strncmp as *const (),
        "strcpy" => strcpy as *const (),
        "stpcpy" | "__stpcpy" => stpcpy as *const (),
        _ => return address,
    };
    if there() { body } else { address }
}

/// memchr(3) for this crate's own short searches: the best there is.
///
/// # Safety
/// As for memchr.
#[inline]
pub unsafe fn find_byte(from: *const c_void, byte: u8, size: usize) -> *mut c_void {
    // SAFETY: the caller's.
    unsafe { if there() { memchr(from, byte.into(), size) } else { string::memchr(from, byte.into(), size) } }
}

/// strchr(3) for this crate's own searches.
///
/// # Safety
/// As for strchr.
#[inline]
pub unsafe fn find_char(s: *const c_char, byte: u8) -> *mut c_char {
    // SAFETY: the caller's.
    unsafe { if there() { strchr(s, byte.into()) } else { string::strchr(s, byte.into()) } }
}

/// Whether this module's functions may be called.
#[inline]
pub fn there() -> bool {
    match STATE.load(Ordering::Relaxed) {
        THERE => true,
        ABSENT => false,
        _ => decide(),
    }
}

/// Undecided, absent, there. Racing first callers write the same value.
static STATE: AtomicU8 = AtomicU8::new(0);
const ABSENT: u8 = 1;
const THERE: u8 = 2;

#[cold]
fn decide() -> bool {
    let there = supported();
    STATE.store(if there { THERE } else { ABSENT }, Ordering::Relaxed);
    there
}

/// Asks the processor, and whether the host's kernel saves the registers.
fn supported() -> bool {
    // Intel SDM vol. 1, 15.2: OSXSAVE; XCR0's SSE, AVX, mask, upper halves and registers 16 to 31; then BMI1, AVX2, BMI2,
    // AVX512F, AVX512BW, AVX512VL in leaf 7. MOVBE (leaf 1) came before them.
    const LEAF1: u32 = 1 << 27 | 1 << 28 | 1 << 22;
    const LEAF7: u32 = 1 << 3 | 1 << 5 | 1 << 8 | 1 << 16 | 1 << 30 | 1 << 31;
    const SAVED: u32 = 0b1110_0110;
    if __cpuid(1).ecx & LEAF1 != LEAF1 || __cpuid(0).eax < 7 || __cpuid_count(7, 0).ebx & LEAF7 != LEAF7 {
        return false;
    }
    let low: u32;
    // SAFETY: OSXSAVE says that XGETBV exists.
    unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack)) };
    low & SAVED == SAVED
}

#[cfg(test)]
mod tests;
