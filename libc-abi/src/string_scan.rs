//! Searching and comparing memory 16 bytes at a time (SSE2, the x86-64 baseline).
//!
//! A scan of unknown length reads aligned blocks only: a block that holds one byte of the string
//! lies in that byte's page, so nothing beyond the string can fault. A comparison of two strings
//! reads unaligned blocks unless one of them would cross into the next page.
//!
//! Reading past an object's end is outside Rust's model of references, so everything here works on
//! raw pointers and loads through intrinsics.

// Pointer primitives: every function is one unsafe operation after another on the caller's claim.
#![allow(unsafe_op_in_unsafe_fn)]

use core::arch::x86_64::*;

const BLOCK: usize = 16;
const PAGE: usize = 4096;

#[inline(always)]
unsafe fn load(at: *const u8) -> __m128i {
    _mm_load_si128(at.cast())
}
#[inline(always)]
unsafe fn loadu(at: *const u8) -> __m128i {
    _mm_loadu_si128(at.cast())
}
#[inline(always)]
unsafe fn mask(v: __m128i) -> u32 {
    _mm_movemask_epi8(v) as u32
}

/// First byte at or after `from` whose lane of `test` is set; there must be one.
#[inline(always)]
pub unsafe fn find(from: *const u8, test: impl Fn(__m128i) -> __m128i) -> *const u8 {
    let skip = from as usize % BLOCK;
    let mut at = from.sub(skip);
    let hit = mask(test(load(at))) >> skip;
    if hit != 0 {
        return from.add(hit.trailing_zeros() as usize);
    }
    at = at.add(BLOCK);
    while !(at as usize).is_multiple_of(4 * BLOCK) {
        let hit = mask(test(load(at)));
        if hit != 0 {
            return at.add(hit.trailing_zeros() as usize);
        }
        at = at.add(BLOCK);
    }
    loop {
        let (a, b) = (test(load(at)), test(load(at.add(16))));
        let (c, d) = (test(load(at.add(32))), test(load(at.add(48))));
        if mask(_mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d))) != 0 {
            let low = mask(a) as u64 | (mask(b) as u64) << 16;
            let high = mask(c) as u64 | (mask(d) as u64) << 16;
            return at.add((low | high << 32).trailing_zeros() as usize);
        }
        at = at.add(4 * BLOCK);
    }
}

/// As [`find`] within `size` bytes (which may be more than the memory there is, if a hit comes
/// before its end); `None` if there is none.
#[inline(always)]
pub unsafe fn find_within(
    from: *const u8,
    size: usize,
    test: impl Fn(__m128i) -> __m128i,
) -> Option<*const u8> {
    if size == 0 {
        return None;
    }
    let end = (from as usize).saturating_add(size);
    let skip = from as usize % BLOCK;
    let mut at = from.sub(skip);
    let mut hit = mask(test(load(at))) >> skip << skip;
    loop {
        if hit != 0 {
            let found = at.add(hit.trailing_zeros() as usize);
            return ((found as usize) < end).then_some(found);
        }
        at = at.add(BLOCK);
        if at as usize >= end {
            return None;
        }
        while (at as usize).is_multiple_of(4 * BLOCK) && end - at as usize >= 4 * BLOCK {
            let (a, b) = (test(load(at)), test(load(at.add(16))));
            let (c, d) = (test(load(at.add(32))), test(load(at.add(48))));
            if mask(_mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d))) != 0 {
                break;
            }
            at = at.add(4 * BLOCK);
            if at as usize >= end {
                return None;
            }
        }
        hit = mask(test(load(at)));
    }
}

/// A test for one byte value.
#[inline(always)]
pub fn is(byte: u8) -> impl Fn(__m128i) -> __m128i + Copy {
    // SAFETY: SSE2 is part of x86-64.
    let wanted = unsafe { _mm_set1_epi8(byte as i8) };
    // SAFETY: as above.
    move |v| unsafe { _mm_cmpeq_epi8(v, wanted) }
}

/// A test for one byte value or the end of a string.
#[inline(always)]
pub fn is_or_nul(byte: u8) -> impl Fn(__m128i) -> __m128i + Copy {
    // SAFETY: SSE2 is part of x86-64.
    let (wanted, nul) = unsafe { (_mm_set1_epi8(byte as i8), _mm_setzero_si128()) };
    // SAFETY: as above.
    move |v| unsafe { _mm_or_si128(_mm_cmpeq_epi8(v, wanted), _mm_cmpeq_epi8(v, nul)) }
}

/// Length of the string at `s`.
#[inline(always)]
pub unsafe fn length(s: *const u8) -> usize {
    find(s, is(0)) as usize - s as usize
}

/// Last `byte` within `size` bytes.
pub unsafe fn find_last(from: *const u8, size: usize, byte: u8) -> Option<*const u8> {
    let test = is(byte);
    let mut left = size;
    while left >= BLOCK {
        let hit = mask(test(loadu(from.add(left - BLOCK))));
        if hit != 0 {
            return Some(from.add(left - BLOCK + 31 - hit.leading_zeros() as usize));
        }
        left -= BLOCK;
    }
    while left > 0 {
        left -= 1;
        if *from.add(left) == byte {
            return Some(from.add(left));
        }
    }
    None
}

/// Last `byte` of the string at `s`, its end included.
pub unsafe fn find_last_in_string(s: *const u8, byte: u8) -> Option<*const u8> {
    let (wanted, end) = (is(byte), is(0));
    let skip = s as usize % BLOCK;
    let mut at = s.sub(skip);
    let mut valid = u32::MAX << skip;
    let mut last = None;
    loop {
        let block = load(at);
        let nul = mask(end(block)) & valid;
        let mut hit = mask(wanted(block)) & valid;
        if nul != 0 {
            // Up to and including the first NUL.
            hit &= nul ^ (nul - 1);
        }
        if hit != 0 {
            last = Some(at.add(31 - hit.leading_zeros() as usize));
        }
        if nul != 0 {
            return last;
        }
        valid = u32::MAX;
        at = at.add(BLOCK);
    }
}

/// Offset of the first difference of two memories, or `size`.
#[inline(always)]
pub unsafe fn mismatch(a: *const u8, b: *const u8, size: usize) -> usize {
    let mut at = 0;
    while size - at >= BLOCK {
        let equal = mask(_mm_cmpeq_epi8(loadu(a.add(at)), loadu(b.add(at))));
        if equal != 0xffff {
            return at + (!equal).trailing_zeros() as usize;
        }
        at += BLOCK;
    }
    if at == size {
        return size;
    }
    if size >= BLOCK {
        // The last block again, overlapping what is known to be equal.
        at = size - BLOCK;
        let equal = mask(_mm_cmpeq_epi8(loadu(a.add(at)), loadu(b.add(at))));
        return if equal != 0xffff { at + (!equal).trailing_zeros() as usize } else { size };
    }
    while at < size && *a.add(at) == *b.add(at) {
        at += 1;
    }
    at
}

/// Offset of the first difference or common end of two strings, or `limit`.
#[inline(always)]
pub unsafe fn string_mismatch(a: *const u8, b: *const u8, limit: usize) -> usize {
    let nul = _mm_setzero_si128();
    let mut at = 0;
    while at < limit {
        let (p, q) = (a.wrapping_add(at), b.wrapping_add(at));
        let room = PAGE - (p as usize % PAGE).max(q as usize % PAGE);
        if room >= BLOCK {
            let (x, y) = (loadu(p), loadu(q));
            // A lane goes on if equal and not NUL.
            let stop = mask(_mm_cmpeq_epi8(_mm_min_epu8(_mm_cmpeq_epi8(x, y), x), nul));
            if stop != 0 {
                return (at + stop.trailing_zeros() as usize).min(limit);
            }
            at += BLOCK;
        } else {
            // `room` bytes are readable in both pages' remainders.
            for _ in 0..room.min(limit - at) {
                let (x, y) = (*a.add(at), *b.add(at));
                if x != y || x == 0 {
                    return at;
                }
                at += 1;
            }
        }
    }
    limit
}
