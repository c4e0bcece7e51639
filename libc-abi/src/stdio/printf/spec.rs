//! A conversion specification: `%[n$][flags][width][.precision][length]conversion`.

use super::out::Unit;

/// `'` and `I` change nothing in the locales C and C.UTF-8, but are part of what is echoed for an
/// unknown conversion.
pub(crate) mod bits {
    pub(crate) const LEFT: u8 = 1;
    pub(crate) const PLUS: u8 = 2;
    pub(crate) const SPACE: u8 = 4;
    pub(crate) const ALT: u8 = 8;
    pub(crate) const ZERO: u8 = 16;
    pub(crate) const GROUP: u8 = 32;
    pub(crate) const I18N: u8 = 64;
}

/// The length modifier; what an integer is truncated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Length {
    None,
    Char,
    Short,
    /// `l`, `j`, `z`, `t`: 64 bits; also wide characters.
    Long,
    /// `ll`, `q`, `L`: 64 bits; also `long double`.
    LongLong,
}

/// A width or precision as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Amount {
    None,
    Number(i32),
    /// `*`, the next argument.
    Next,
    /// `*m$`.
    Position(usize),
}

/// A parsed specification.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// `n$`; 0 if the next argument is meant.
    pub(crate) position: usize,
    pub(crate) flags: u8,
    pub(crate) width: Amount,
    pub(crate) precision: Amount,
    pub(crate) length: Length,
    /// The conversion character; 0 at the end of the format or for what is not ASCII.
    pub(crate) conversion: u8,
    /// A number was larger than an `int`.
    pub(crate) too_large: bool,
}

/// A format being read. Never reads behind its NUL.
#[derive(Clone, Copy)]
pub(crate) struct Format<U>(pub(crate) *const U);

impl<U: Unit> Format<U> {
    /// The character here.
    #[inline(always)]
    pub(crate) fn peek(self) -> u32 {
        // SAFETY: the reader never goes past the NUL: `advance` follows a look at what is there.
        unsafe { (*self.0).value() }
    }

    #[inline(always)]
    pub(crate) fn advance(&mut self) {
        self.0 = self.0.wrapping_add(1);
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == u32::from(byte);
        if found {
            self.advance();
        }
        found
    }

    /// A decimal number; `Err` if an `int` cannot hold it. `None` if there is none.
    fn number(&mut self) -> Option<Result<i32, ()>> {
        let mut value: Option<Result<i32, ()>> = None;
        while let Some(digit) = (self.peek()).checked_sub(48).filter(|digit| *digit < 10) {
            let next = value.unwrap_or(Ok(0)).and_then(|value| {
                value.checked_mul(10).and_then(|value| value.checked_add(digit as i32)).ok_or(())
            });
            value = Some(next);
            self.advance();
        }
        value
    }

    /// `m$` behind a `*`, or a plain `*`.
    fn star(&mut self) -> Amount {
        let before = *self;
        if let Some(Ok(position)) = self.number()
            && position > 0
            && self.take(b'$')
        {
            return Amount::Position(position as usize);
        }
        *self = before;
        Amount::Next
    }

    /// Reads a specification; `self` stands behind the `%`.
    pub(crate) fn spec(&mut self) -> Spec {
        let mut spec = Spec {
            position: 0,
            flags: 0,
            width: Amount::None,
            precision: Amount::None,
            length: Length::None,
            conversion: 0,
            too_large: false,
        };
        let before = *self;
        match self.number() {
            Some(Ok(position)) if position > 0 && self.take(b'$') => spec.position = position as usize,
            _ => *self = before,
        }
        spec.flags = self.flags();
        if self.take(b'*') {
            spec.width = self.star();
        } else {
            spec.width = self.amount(&mut spec.too_large, Amount::None);
        }
        if self.take(b'.') {
            spec.precision = if self.take(b'*') {
                self.star()
            } else {
                self.amount(&mut spec.too_large, Amount::Number(0))
            };
        }
        spec.length = self.length();
        spec.conversion = u8::try_from(self.peek()).unwrap_or(0);
        if self.peek() != 0 {
            self.advance();
        }
        spec
    }

    fn amount(&mut self, too_large: &mut bool, absent: Amount) -> Amount {
        match self.number() {
            Some(Ok(value)) => Amount::Number(value),
            Some(Err(())) => {
                *too_large = true;
                absent
            }
            None => absent,
        }
    }

    fn flags(&mut self) -> u8 {
        let mut flags = 0;
        loop {
            flags |= match self.peek() {
                0x2d => bits::LEFT,
                0x2b => bits::PLUS,
                0x20 => bits::SPACE,
                0x23 => bits::ALT,
                0x30 => bits::ZERO,
                0x27 => bits::GROUP,
                0x49 => bits::I18N,
                _ => return flags,
            };
            self.advance();
        }
    }

    fn length(&mut self) -> Length {
        let mut length = Length::None;
        loop {
            length = match u8::try_from(self.peek()).unwrap_or(0) {
                b'h' if length == Length::Short => Length::Char,
                b'h' => Length::Short,
                b'l' if length == Length::Long => Length::LongLong,
                b'l' | b'j' | b'z' | b'Z' | b't' => Length::Long,
                b'L' | b'q' => Length::LongLong,
                _ => return length,
            };
            self.advance();
        }
    }
}
