//! Where formatted characters go: a window of memory and a function for when it is full.
//!
//! The formatter writes through one pointer and knows nothing of streams and strings. `U` is a byte
//! for `printf` and a `wchar_t` for `wprintf`.

use crate::types::*;

/// A character of the output and of the format.
pub(crate) trait Unit: Copy + Eq + Default + 'static {
    /// Whether this is `wchar_t`.
    const WIDE: bool;
    fn ascii(byte: u8) -> Self;
    /// The character's number.
    fn value(self) -> u32;
    fn from_value(value: u32) -> Self;
}

impl Unit for u8 {
    const WIDE: bool = false;
    #[inline(always)]
    fn ascii(byte: u8) -> u8 {
        byte
    }
    #[inline(always)]
    fn value(self) -> u32 {
        u32::from(self)
    }
    fn from_value(value: u32) -> u8 {
        value as u8
    }
}

impl Unit for u32 {
    const WIDE: bool = true;
    fn ascii(byte: u8) -> u32 {
        u32::from(byte)
    }
    fn value(self) -> u32 {
        self
    }
    fn from_value(value: u32) -> u32 {
        value
    }
}

/// The window.
pub(crate) struct Out<U> {
    start: *mut U,
    ptr: *mut U,
    end: *mut U,
    /// Characters that went out before `start`.
    before: u64,
    /// Takes `start..ptr` away and makes room.
    full: unsafe fn(&mut Out<U>),
    /// What `full` works on.
    pub(crate) target: *mut c_void,
    /// Output was lost, the reason is in `errno`.
    pub(crate) failed: bool,
    /// Nothing is kept any more, characters are only counted.
    pub(crate) counting: bool,
}

impl<U: Unit> Out<U> {
    /// A window of `len` characters at `start`.
    pub(crate) fn new(
        start: *mut U,
        len: usize,
        full: unsafe fn(&mut Out<U>),
        target: *mut c_void,
    ) -> Out<U> {
        let end = start.wrapping_add(len);
        Out { start, ptr: start, end, before: 0, full, target, failed: false, counting: false }
    }

    /// All characters so far.
    pub(crate) fn total(&self) -> u64 {
        self.before + self.used() as u64
    }

    /// Characters in the window.
    #[inline]
    pub(crate) fn used(&self) -> usize {
        (self.ptr as usize - self.start as usize) / size_of::<U>()
    }

    #[inline]
    fn room(&self) -> usize {
        (self.end as usize - self.ptr as usize) / size_of::<U>()
    }

    /// What is in the window.
    pub(crate) fn window(&self) -> &[U] {
        // SAFETY: `start..ptr` has been written.
        unsafe { core::slice::from_raw_parts(self.start, self.used()) }
    }

    /// Goes on in another window; what was in this one counts as gone out.
    pub(crate) fn renew(&mut self, start: *mut U, len: usize) {
        self.before += self.used() as u64;
        self.start = start;
        self.ptr = start;
        self.end = start.wrapping_add(len);
    }

    /// Empties the window.
    pub(crate) fn restart(&mut self) {
        self.before += self.used() as u64;
        self.ptr = self.start;
    }

    /// Goes on behind what is already there, in a larger window that holds a copy of it.
    pub(crate) fn enlarge(&mut self, start: *mut U, len: usize) {
        let used = self.used();
        self.start = start;
        self.ptr = start.wrapping_add(used);
        self.end = start.wrapping_add(len);
    }

    pub(crate) fn flush(&mut self) {
        let full = self.full;
        // SAFETY: the function belongs to this target.
        unsafe { full(self) };
    }

    #[inline(always)]
    pub(crate) fn put(&mut self, unit: U) {
        if self.ptr == self.end {
            self.flush();
        }
        // SAFETY: `full` leaves room for one character at least.
        unsafe {
            *self.ptr = unit;
            self.ptr = self.ptr.add(1);
        }
    }

    /// Puts `count` copies of an ASCII character.
    #[inline]
    pub(crate) fn pad(&mut self, byte: u8, mut count: usize) {
        while count > 0 {
            if self.counting {
                self.before += count as u64;
                return;
            }
            let now = count.min(self.room());
            for _ in 0..now {
                // SAFETY: there is room for `now` characters.
                unsafe {
                    *self.ptr = U::ascii(byte);
                    self.ptr = self.ptr.add(1);
                }
            }
            count -= now;
            if count > 0 {
                self.flush();
            }
        }
    }

    /// Puts characters.
    #[inline]
    pub(crate) fn units(&mut self, mut units: &[U]) {
        loop {
            let now = units.len().min(self.room());
            if now > 0 {
                // SAFETY: there is room for `now` characters.
                unsafe {
                    core::ptr::copy_nonoverlapping(units.as_ptr(), self.ptr, now);
                    self.ptr = self.ptr.add(now);
                }
            }
            units = &units[now..];
            if units.is_empty() {
                return;
            }
            if self.counting {
                self.before += units.len() as u64;
                return;
            }
            self.flush();
        }
    }

    /// Puts ASCII characters.
    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        if U::WIDE {
            for byte in bytes {
                self.put(U::ascii(*byte));
            }
        } else {
            // SAFETY: without WIDE, `U` is `u8`.
            self.units(unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast::<U>(), bytes.len()) });
        }
    }
}
