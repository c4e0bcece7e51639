//! Strings and memory 32 bytes at a time, on processors that have AVX2 and BMI.
//!
//! [`crate::string`]'s functions come here if [`there`] says so; else they take the baseline bodies of
//! [`crate::string_scan`]. The rules are the same: a block of unknown validity is read only where it lies in the
//! page of a byte that must be valid. Here a first block is read unaligned if it ends within its page, so that short
//! strings, which most are, cost one load. What is longer goes on by aligned blocks, four in a step.
//!
//! A test of a block is an expression whose lanes are zero where it hits: then four blocks are tested together by
//! the least of their lanes.

// Pointer primitives: every function is one unsafe operation after another on the caller's claim.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::types::*;
use core::arch::x86_64::*;
use core::sync::atomic::{AtomicU8, Ordering};

const BLOCK: usize = 32;
const PAGE: usize = 4096;

/// Undecided, absent, there, there with [`crate::string_evex`]. Racing first callers write the same value. `string_mem`'s
/// assembly reads it, too.
pub(crate) static STATE: AtomicU8 = AtomicU8::new(0);
const ABSENT: u8 = 1;
pub(crate) const THERE: u8 = 2;
const EVEX: u8 = 3;

/// Whether this file's functions may be called.
#[inline(always)]
pub fn there() -> bool {
    match STATE.load(Ordering::Relaxed) {
        THERE.. => true,
        ABSENT => false,
        0 => decide(),
    }
}

/// Asks the processor, and whether the host's kernel saves the wide registers.
#[cold]
pub fn decide() -> bool {
    // Intel SDM vol. 1, 14.3: OSXSAVE and AVX in leaf 1, XCR0's SSE and AVX bits, then AVX2, BMI1, BMI2 in leaf 7.
    let leaf1 = __cpuid(1).ecx;
    let saved = || {
        let low: u32;
        // SAFETY: asked for only if OSXSAVE says that XGETBV exists.
        unsafe {
            core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack));
        }
        low & 6 == 6
    };
    const LEAF1: u32 = 1 << 27 | 1 << 28;
    const LEAF7: u32 = 1 << 5 | 1 << 3 | 1 << 8;
    let has =
        leaf1 & LEAF1 == LEAF1 && saved() && __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & LEAF7 == LEAF7;
    let state = match has {
        true if crate::string_evex::there() => EVEX,
        true => THERE,
        false => ABSENT,
    };
    STATE.store(state, Ordering::Relaxed);
    has
}

/// For tests: takes the wide bodies away, or gives them back.
#[cfg(test)]
pub(crate) fn forbid(forbidden: bool) {
    if forbidden {
        STATE.store(ABSENT, Ordering::Relaxed);
    } else {
        decide();
    }
}

/// Bits of the lanes that are zero.
macro_rules! zeros {
    ($v:expr) => {
        _mm256_movemask_epi8(_mm256_cmpeq_epi8($v, _mm256_setzero_si256())) as u32
    };
}

/// The first byte from `$from` on where the test hits; there must be one.
macro_rules! find {
    ($from:expr, $test:expr) => {{
        let (from, test): (*const u8, _) = ($from, $test);
        'found: {
            let skip = from as usize % BLOCK;
            let hit = if from as usize % PAGE <= PAGE - BLOCK {
                zeros!(test(_mm256_loadu_si256(from.cast())))
            } else {
                zeros!(test(_mm256_load_si256(from.sub(skip).cast()))) >> skip
            };
            if hit != 0 {
                break 'found from.add(hit.trailing_zeros() as usize);
            }
            let mut at = from.add(BLOCK - skip);
            for _ in 0..4 {
                let hit = zeros!(test(_mm256_load_si256(at.cast())));
                if hit != 0 {
                    break 'found at.add(hit.trailing_zeros() as usize);
                }
                at = at.add(BLOCK);
            }
            // Back to a multiple of four blocks: at least `from`, and again without a hit up to here.
            at = at.sub(at as usize % (4 * BLOCK));
            loop {
                let a = test(_mm256_load_si256(at.cast()));
                let b = test(_mm256_load_si256(at.add(32).cast()));
                let c = test(_mm256_load_si256(at.add(64).cast()));
                let d = test(_mm256_load_si256(at.add(96).cast()));
                if zeros!(_mm256_min_epu8(_mm256_min_epu8(a, b), _mm256_min_epu8(c, d))) != 0 {
                    let low = zeros!(a) as u64 | (zeros!(b) as u64) << 32;
                    let high = zeros!(c) as u64 | (zeros!(d) as u64) << 32;
                    let offset = if low != 0 { low.trailing_zeros() } else { 64 + high.trailing_zeros() };
                    break 'found at.add(offset as usize);
                }
                at = at.add(4 * BLOCK);
            }
        }
    }};
}

/// strlen(3).
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn strlen(s: *const u8) -> usize {
    find!(s, |v: __m256i| v) as usize - s as usize
}

/// rawmemchr(3).
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn rawmemchr(s: *const u8, byte: u8) -> *const u8 {
    let wanted = _mm256_set1_epi8(byte as i8);
    find!(s, |v: __m256i| _mm256_xor_si256(v, wanted))
}

/// strchrnul(3).
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn strchrnul(s: *const u8, byte: u8) -> *const u8 {
    let wanted = _mm256_set1_epi8(byte as i8);
    find!(s, |v: __m256i| _mm256_min_epu8(_mm256_xor_si256(v, wanted), v))
}

/// strchr(3).
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn strchr(s: *const u8, byte: u8) -> *const u8 {
    let wanted = _mm256_set1_epi8(byte as i8);
    let found = find!(s, |v: __m256i| _mm256_min_epu8(_mm256_xor_si256(v, wanted), v));
    if *found == byte { found } else { core::ptr::null() }
}

/// memchr(3): null if there is none. `size` may be more than the memory there is, if a hit comes before its end.
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn memchr(s: *const u8, byte: u8, size: usize) -> *const u8 {
    if size == 0 {
        return core::ptr::null();
    }
    let wanted = _mm256_set1_epi8(byte as i8);
    let test = |at: *const u8| _mm256_xor_si256(_mm256_load_si256(at.cast()), wanted);
    let skip = s as usize % BLOCK;
    let hit = if s as usize % PAGE <= PAGE - BLOCK {
        zeros!(_mm256_xor_si256(_mm256_loadu_si256(s.cast()), wanted))
    } else {
        zeros!(test(s.sub(skip))) >> skip
    };
    if hit != 0 {
        let offset = hit.trailing_zeros() as usize;
        return if offset < size { s.add(offset) } else { core::ptr::null() };
    }
    let end = (s as usize).saturating_add(size);
    let mut at = s.wrapping_add(BLOCK - skip);
    for _ in 0..4 {
        if at as usize >= end {
            return core::ptr::null();
        }
        let hit = zeros!(test(at));
        if hit != 0 {
            let found = at.add(hit.trailing_zeros() as usize);
            return if (found as usize) < end { found } else { core::ptr::null() };
        }
        at = at.wrapping_add(BLOCK);
    }
    at = at.wrapping_sub(at as usize % (4 * BLOCK));
    // Blocks of which one byte is asked for, so that all of it is readable.
    while end.saturating_sub(at as usize) > 3 * BLOCK {
        let (a, b, c, d) = (test(at), test(at.add(32)), test(at.add(64)), test(at.add(96)));
        if zeros!(_mm256_min_epu8(_mm256_min_epu8(a, b), _mm256_min_epu8(c, d))) != 0 {
            let low = zeros!(a) as u64 | (zeros!(b) as u64) << 32;
            let high = zeros!(c) as u64 | (zeros!(d) as u64) << 32;
            let offset = if low != 0 { low.trailing_zeros() } else { 64 + high.trailing_zeros() };
            let found = at.add(offset as usize);
            return if (found as usize) < end { found } else { core::ptr::null() };
        }
        at = at.wrapping_add(4 * BLOCK);
    }
    while (at as usize) < end {
        let hit = zeros!(test(at));
        if hit != 0 {
            let found = at.add(hit.trailing_zeros() as usize);
            return if (found as usize) < end { found } else { core::ptr::null() };
        }
        at = at.wrapping_add(BLOCK);
    }
    core::ptr::null()
}

/// Compares two words by their bytes in memory's order.
macro_rules! compare_words {
    ($word:ty, $a:expr, $b:expr) => {{
        let (x, y) = ($a.cast::<$word>().read_unaligned(), $b.cast::<$word>().read_unaligned());
        if x != y {
            return if x.swap_bytes() < y.swap_bytes() { -1 } else { 1 };
        }
    }};
}

/// memcmp(3).
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn memcmp(a: *const u8, b: *const u8, size: usize) -> c_int {
    if size < BLOCK {
        return memcmp_short(a, b, size);
    }
    let unequal = |at: usize| {
        let (x, y) = (_mm256_loadu_si256(a.add(at).cast()), _mm256_loadu_si256(b.add(at).cast()));
        _mm256_xor_si256(x, y)
    };
    let mut at = 0;
    if size > 8 * BLOCK && zeros!(unequal(0)) == u32::MAX {
        // From here on `a` is aligned, so that half the loads stay within a cache line.
        at = BLOCK - a as usize % BLOCK;
    }
    while size - at >= 4 * BLOCK {
        let both = |x, y| _mm256_or_si256(x, y);
        let all = both(both(unequal(at), unequal(at + 32)), both(unequal(at + 64), unequal(at + 96)));
        if _mm256_testz_si256(all, all) == 0 {
            break;
        }
        at += 4 * BLOCK;
    }
    loop {
        if at == size {
            return 0;
        }
        // The last block overlaps what is known to be equal.
        at = at.min(size - BLOCK);
        let equal = zeros!(unequal(at));
        if equal != u32::MAX {
            let first = at + (!equal).trailing_zeros() as usize;
            return *a.add(first) as c_int - *b.add(first) as c_int;
        }
        at += BLOCK;
    }
}

/// Fewer bytes than a block: words from both ends.
#[inline]
unsafe fn memcmp_short(a: *const u8, b: *const u8, size: usize) -> c_int {
    match size {
        16.. => {
            for at in [0, 8, size - 16, size - 8] {
                compare_words!(u64, a.add(at), b.add(at));
            }
            0
        }
        8..=15 => {
            compare_words!(u64, a, b);
            compare_words!(u64, a.add(size - 8), b.add(size - 8));
            0
        }
        4..=7 => {
            compare_words!(u32, a, b);
            compare_words!(u32, a.add(size - 4), b.add(size - 4));
            0
        }
        1..=3 => {
            // First, middle, last: all there is.
            for at in [0, size / 2, size - 1] {
                let difference = *a.add(at) as c_int - *b.add(at) as c_int;
                if difference != 0 {
                    return difference;
                }
            }
            0
        }
        0 => 0,
    }
}

/// strcmp(3).
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn strcmp(a: *const u8, b: *const u8) -> c_int {
    if (a as usize % PAGE).max(b as usize % PAGE) <= PAGE - 4 * BLOCK {
        for at in [0, 32, 64, 96] {
            let (x, y) = (_mm256_loadu_si256(a.add(at).cast()), _mm256_loadu_si256(b.add(at).cast()));
            let stop = zeros!(_mm256_min_epu8(_mm256_cmpeq_epi8(x, y), x));
            if stop != 0 {
                let at = at + stop.trailing_zeros() as usize;
                return *a.add(at) as c_int - *b.add(at) as c_int;
            }
        }
        // From here on `a` is aligned, so that half the loads stay within a cache line.
        return strcmp_long(a, b, 4 * BLOCK - a as usize % BLOCK);
    }
    strcmp_long(a, b, 0)
}

#[inline(never)]
#[target_feature(enable = "avx2,bmi1,bmi2")]
unsafe fn strcmp_long(a: *const u8, b: *const u8, from: usize) -> c_int {
    let at = mismatch_from(a, b, from, usize::MAX);
    *a.add(at) as c_int - *b.add(at) as c_int
}

/// Offset of the first difference or common end of two strings, or `limit`.
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn string_mismatch(a: *const u8, b: *const u8, limit: usize) -> usize {
    mismatch_from(a, b, 0, limit)
}

/// As [`string_mismatch`], of strings that are equal and go on up to `at`.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
unsafe fn mismatch_from(a: *const u8, b: *const u8, mut at: usize, limit: usize) -> usize {
    // A lane goes on (is not zero) if equal and not NUL.
    let test = |at: usize| {
        let x = _mm256_loadu_si256(a.wrapping_add(at).cast());
        let y = _mm256_loadu_si256(b.wrapping_add(at).cast());
        _mm256_min_epu8(_mm256_cmpeq_epi8(x, y), x)
    };
    while at < limit {
        let (p, q) = (a.wrapping_add(at) as usize, b.wrapping_add(at) as usize);
        // Bytes that are certainly readable in both, since the first of them is.
        let mut room = PAGE - (p % PAGE).max(q % PAGE);
        while room >= 4 * BLOCK {
            let (w, x, y, z) = (test(at), test(at + 32), test(at + 64), test(at + 96));
            if zeros!(_mm256_min_epu8(_mm256_min_epu8(w, x), _mm256_min_epu8(y, z))) != 0 {
                let low = zeros!(w) as u64 | (zeros!(x) as u64) << 32;
                let high = zeros!(y) as u64 | (zeros!(z) as u64) << 32;
                let offset = if low != 0 { low.trailing_zeros() } else { 64 + high.trailing_zeros() };
                return (at + offset as usize).min(limit);
            }
            at += 4 * BLOCK;
            room -= 4 * BLOCK;
            if at >= limit {
                return limit;
            }
        }
        if room == 0 {
            continue;
        }
        // Near the end of a page: back over what is known to be equal, to end with the page.
        let from = if room >= BLOCK { at } else { (at + room).wrapping_sub(BLOCK) };
        if from <= at {
            let stop = zeros!(test(from));
            if stop != 0 {
                return (from + stop.trailing_zeros() as usize).min(limit);
            }
            at = from + BLOCK;
            continue;
        }
        for _ in 0..room.min(limit - at) {
            let (x, y) = (*a.add(at), *b.add(at));
            if x != y || x == 0 {
                return at;
            }
            at += 1;
        }
    }
    limit
}

/// stpcpy(3): the copy's end, where its NUL is.
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn stpcpy(to: *mut u8, from: *const u8) -> *mut u8 {
    if from as usize % PAGE > PAGE - BLOCK {
        let length = strlen(from);
        crate::string::memmove(to.cast(), from.cast(), length + 1);
        return to.add(length);
    }
    let first = _mm256_loadu_si256(from.cast());
    let end = zeros!(first);
    if end != 0 {
        let size = end.trailing_zeros() as usize + 1;
        copy_short(to, from, size);
        return to.add(size - 1);
    }
    _mm256_storeu_si256(to.cast(), first);
    // Aligned blocks of the source; what they have in common with the first one is stored twice.
    let mut at = BLOCK - from as usize % BLOCK;
    loop {
        let block = _mm256_load_si256(from.add(at).cast());
        let end = zeros!(block);
        if end != 0 {
            // The last 32 bytes, up to the NUL: there are so many, since the first block had none.
            let last = at + end.trailing_zeros() as usize + 1 - BLOCK;
            _mm256_storeu_si256(to.add(last).cast(), _mm256_loadu_si256(from.add(last).cast()));
            return to.add(last + BLOCK - 1);
        }
        _mm256_storeu_si256(to.add(at).cast(), block);
        at += BLOCK;
    }
}

/// strcpy(3).
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub unsafe fn strcpy(to: *mut u8, from: *const u8) -> *mut u8 {
    stpcpy(to, from);
    to
}

/// 1 to 32 bytes, loaded from both ends before anything is stored.
#[inline]
unsafe fn copy_short(to: *mut u8, from: *const u8, size: usize) {
    macro_rules! ends {
        ($word:ty) => {{
            let last = size - size_of::<$word>();
            let (x, y) =
                (from.cast::<$word>().read_unaligned(), from.add(last).cast::<$word>().read_unaligned());
            to.cast::<$word>().write_unaligned(x);
            to.add(last).cast::<$word>().write_unaligned(y);
        }};
    }
    match size {
        16.. => {
            let (x, y) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(size - 16).cast()));
            _mm_storeu_si128(to.cast(), x);
            _mm_storeu_si128(to.add(size - 16).cast(), y);
        }
        8..=15 => ends!(u64),
        4..=7 => ends!(u32),
        2..=3 => ends!(u16),
        _ => *to = *from,
    }
}
