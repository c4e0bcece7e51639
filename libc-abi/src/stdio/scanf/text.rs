//! Where scanned characters go, and the sets of `%[`.

use crate::errno;
use crate::malloc;
use crate::stdio::mb::{MbState, Step, decode, encode};
use crate::stdio::printf::out::Unit;
use crate::stdio::printf::spec::Format;
use alloc::vec::Vec;
use core::ptr::null_mut;
use platform::Errno;

/// The scanset of `%[...]`.
pub(crate) struct Set {
    negated: bool,
    small: [u64; 4],
    large: Vec<(u32, u32)>,
}

impl Set {
    /// Reads the set behind `[`; `None` if the format ends in it. A `]` right at the start is a member;
    /// a `-` between two others makes a range.
    pub(crate) fn parse<U: Unit>(format: &mut Format<U>) -> Option<Set> {
        let mut set = Set { negated: false, small: [0; 4], large: Vec::new() };
        if format.peek() == u32::from(b'^') {
            set.negated = true;
            format.advance();
        }
        let mut first = true;
        loop {
            let low = format.peek();
            if low == 0 {
                return None;
            }
            format.advance();
            if low == u32::from(b']') && !first {
                return Some(set);
            }
            first = false;
            let mut behind = *format;
            let mut high = low;
            if behind.peek() == u32::from(b'-') {
                behind.advance();
                let end = behind.peek();
                if end != 0 && end != u32::from(b']') && end >= low {
                    behind.advance();
                    (*format, high) = (behind, end);
                }
            }
            set.add(low, high);
        }
    }

    fn add(&mut self, low: u32, high: u32) {
        for value in low..=high.min(255) {
            self.small[value as usize / 64] |= 1 << (value % 64);
        }
        if high > 255 {
            self.large.push((low, high));
        }
    }

    #[inline]
    pub(crate) fn contains(&self, value: u32) -> bool {
        let listed = match value {
            0..256 => self.small[value as usize / 64] >> (value % 64) & 1 == 1,
            _ => self.large.iter().any(|(low, high)| (*low..=*high).contains(&value)),
        };
        listed != self.negated
    }
}

/// Characters on their way to memory: bytes or wide characters, whatever the input was.
pub(crate) struct Sink {
    wide: bool,
    nowhere: bool,
    /// Where the address of allocated memory goes.
    announce: *mut *mut u8,
    base: *mut u8,
    room: usize,
    used: usize,
    state: MbState,
    utf8: bool,
}

impl Sink {
    fn new(wide: bool) -> Sink {
        Sink {
            wide,
            nowhere: false,
            announce: null_mut(),
            base: null_mut(),
            room: 0,
            used: 0,
            state: MbState::default(),
            utf8: crate::locale::is_utf8(),
        }
    }
    /// `*`: nothing is kept.
    pub(crate) fn nowhere(wide: bool) -> Sink {
        Sink { nowhere: true, ..Sink::new(wide) }
    }
    /// The program's memory.
    pub(crate) fn at(base: *mut u8, wide: bool) -> Sink {
        Sink { base, room: usize::MAX, ..Sink::new(wide) }
    }
    /// Memory from malloc, its address stored at `place` at the end.
    pub(crate) fn allocating(place: *mut *mut u8, wide: bool) -> Sink {
        Sink { announce: place, ..Sink::new(wide) }
    }

    /// Takes a character of the input; answers whether one character is complete. `Err`: not a
    /// character, or no memory; `errno` says which.
    ///
    /// # Safety
    /// The program's memory has room.
    #[inline]
    pub(crate) unsafe fn put<U: Unit>(&mut self, unit: U) -> Result<bool, ()> {
        // SAFETY: forwarded.
        unsafe {
            if U::WIDE == self.wide {
                let value = unit.value().to_ne_bytes();
                self.push(&value[..size_of::<U>()])?;
                return Ok(true);
            }
            if U::WIDE {
                let mut bytes = [0; 6];
                let Some(len) = encode(unit.value(), &mut bytes, self.utf8) else { return illegal() };
                self.push(&bytes[..len])?;
                return Ok(true);
            }
            match decode(&mut self.state, &[unit.value() as u8], self.utf8) {
                Step::Char(value, _) => self.push(&value.to_ne_bytes()).map(|()| true),
                Step::Partial => Ok(false),
                Step::Bad => illegal(),
            }
        }
    }

    #[inline]
    unsafe fn push(&mut self, bytes: &[u8]) -> Result<(), ()> {
        if self.nowhere {
            return Ok(());
        }
        if bytes.len() > self.room - self.used {
            self.grow()?;
        }
        // SAFETY: there is room.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(self.used), bytes.len()) };
        self.used += bytes.len();
        Ok(())
    }

    fn grow(&mut self) -> Result<(), ()> {
        let room = (self.room * 2).max(100);
        // SAFETY: null or a block of ours.
        let block = unsafe { malloc::realloc(self.base.cast(), room) }.cast::<u8>();
        if block.is_null() {
            errno::set(Errno::ENOMEM);
            return Err(());
        }
        (self.base, self.room) = (block, room);
        Ok(())
    }

    /// Ends the text.
    ///
    /// # Safety
    /// As for [`Sink::put`].
    pub(crate) unsafe fn finish(mut self, terminate: bool) -> Result<(), ()> {
        if self.state.count != 0 {
            return illegal();
        }
        let zero = [0u8; 4];
        // SAFETY: forwarded; the place is the program's.
        unsafe {
            if terminate {
                self.push(&zero[..if self.wide { 4 } else { 1 }])?;
            }
            if !self.announce.is_null() {
                // What grew in steps is cut to size; a failure to shrink leaves the block as it is.
                let exact = malloc::realloc(self.base.cast(), self.used.max(1)).cast::<u8>();
                *self.announce = if exact.is_null() { self.base } else { exact };
                self.base = null_mut();
                self.announce = null_mut();
            }
        }
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.announce.is_null() {
            // SAFETY: allocated here, not handed out: the conversion failed.
            unsafe { malloc::free(self.base.cast()) };
        }
    }
}

fn illegal<T>() -> Result<T, ()> {
    errno::set(Errno::EILSEQ);
    Err(())
}
