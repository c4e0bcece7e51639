//! The memory functions that compiled code calls by name (`memcpy`, `memset`, ...).
//!
//! With the C surface linked in, copying and filling are its own bodies: the kernel's copies are as fast as the
//! program's. Without it (the runtime and its self-tests alone) there is something plain: up to 64 bytes by words
//! and vectors; above, the microcode's string instructions, which cannot be compiled into a call of themselves.

#[cfg(feature = "program")]
mod shared {
    use core::ffi::c_void;
    use libc_abi::string_mem;

    /// memcpy(3).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
        // SAFETY: the caller's ranges.
        unsafe { string_mem::memmove(to, from, len) }
    }

    /// memmove(3).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
        // SAFETY: the caller's ranges.
        unsafe { string_mem::memmove(to, from, len) }
    }

    /// memset(3).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut c_void, byte: i32, len: usize) -> *mut c_void {
        // SAFETY: the caller's range.
        unsafe { string_mem::memset(to, byte, len) }
    }
}

#[cfg(not(feature = "program"))]
mod alone {
    use core::arch::asm;

    /// memcpy(3).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if len <= 64 {
            // SAFETY: the caller's ranges.
            unsafe { move_short(to, from, len) };
            return to;
        }
        // SAFETY: the caller's ranges; the direction flag is clear at calls (psABI 3.2.1).
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                 options(nostack, preserves_flags));
        }
        to
    }

    /// memmove(3).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if len <= 64 || (to as usize).wrapping_sub(from as usize) >= len {
            // SAFETY: short moves load all before they store; otherwise `to` is not inside the source, so
            // ascending order reads before it writes.
            return unsafe { memcpy(to, from, len) };
        }
        // SAFETY: descending from the last byte; the flag is clear again before anything else runs. A
        // signal in between is no harm: the host's kernel clears it for handlers.
        unsafe {
            asm!("std", "rep movsb", "cld",
                 inout("rcx") len => _, inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
                 inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _, options(nostack));
        }
        to
    }

    /// Moves up to 64 bytes: loads from both ends, which may overlap in the middle, then stores.
    #[inline(always)]
    unsafe fn move_short(to: *mut u8, from: *const u8, len: usize) {
        use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};
        // SAFETY: every access lies within `len` bytes of the caller's ranges: n bytes at 0 and n bytes
        // that end at `len`, with n <= len.
        unsafe {
            let load = |at: usize| _mm_loadu_si128(from.add(at).cast::<__m128i>());
            let store = |at: usize, value| _mm_storeu_si128(to.add(at).cast::<__m128i>(), value);
            macro_rules! ends {
                ($word:ty) => {{
                    let width = size_of::<$word>();
                    let first = from.cast::<$word>().read_unaligned();
                    let last = from.add(len - width).cast::<$word>().read_unaligned();
                    to.cast::<$word>().write_unaligned(first);
                    to.add(len - width).cast::<$word>().write_unaligned(last);
                }};
            }
            match len {
                33.. => {
                    let (a, b, c, d) = (load(0), load(16), load(len - 32), load(len - 16));
                    store(0, a);
                    store(16, b);
                    store(len - 32, c);
                    store(len - 16, d);
                }
                16..=32 => {
                    let (a, b) = (load(0), load(len - 16));
                    store(0, a);
                    store(len - 16, b);
                }
                8..=15 => ends!(u64),
                4..=7 => ends!(u32),
                2..=3 => ends!(u16),
                1 => to.write(from.read()),
                0 => (),
            }
        }
    }

    /// memset(3).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: as in `memcpy`.
        unsafe {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
                 options(nostack, preserves_flags));
        }
        to
    }
}

/// memcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    let mut at = 0;
    // SAFETY: within the caller's ranges. Volatile, so that the loop is not made a memcmp.
    unsafe {
        while at + 8 <= len {
            let x = a.add(at).cast::<u64>().read_unaligned();
            let y = b.add(at).cast::<u64>().read_unaligned();
            if x != y {
                return if x.swap_bytes() < y.swap_bytes() { -1 } else { 1 };
            }
            at += 8;
        }
        while at < len {
            let (x, y) = (a.add(at).read_volatile(), b.add(at).read_volatile());
            if x != y {
                return i32::from(x) - i32::from(y);
            }
            at += 1;
        }
    }
    0
}

/// bcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, len) }
}

/// strlen(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: up to the NUL. Volatile: as in `memcmp`.
    unsafe {
        while text.add(len).read_volatile() != 0 {
            len += 1;
        }
    }
    len
}
