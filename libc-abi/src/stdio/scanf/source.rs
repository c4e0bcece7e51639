//! Where scanf reads: a string or a stream, of bytes or of wide characters.

use crate::stdio::file::FILE;
use crate::stdio::printf::out::Unit;
use crate::stdio::wide::WEOF;

/// Characters one after the other, with one step back.
pub(crate) trait Source<U: Unit> {
    /// The next character, or `None` at the end.
    fn get(&mut self) -> Option<U>;
    /// Puts the character back that `get` just gave.
    fn unget(&mut self, unit: U);
}

/// A string that ends with a NUL. It is not measured first: reading one number from a long text takes
/// no longer than from a short one.
pub(crate) struct Text<U>(pub(crate) *const U);

impl<U: Unit> Source<U> for Text<U> {
    #[inline(always)]
    fn get(&mut self) -> Option<U> {
        // SAFETY: the pointer never moves past the NUL.
        let unit = unsafe { *self.0 };
        if unit.value() == 0 {
            return None;
        }
        self.0 = self.0.wrapping_add(1);
        Some(unit)
    }
    #[inline(always)]
    fn unget(&mut self, _: U) {
        self.0 = self.0.wrapping_sub(1);
    }
}

/// A stream of bytes.
pub(crate) struct Bytes<'a>(pub(crate) &'a mut FILE);

impl Source<u8> for Bytes<'_> {
    fn get(&mut self) -> Option<u8> {
        u8::try_from(self.0.getc()).ok()
    }
    fn unget(&mut self, byte: u8) {
        let _ = self.0.unget(byte);
    }
}

/// A wide stream.
pub(crate) struct Wides<'a>(pub(crate) &'a mut FILE);

impl Source<u32> for Wides<'_> {
    fn get(&mut self) -> Option<u32> {
        Some(self.0.get_wide()).filter(|wide| *wide != WEOF)
    }
    fn unget(&mut self, wide: u32) {
        self.0.unget_wide(wide);
    }
}
