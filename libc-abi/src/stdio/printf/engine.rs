//! The formatter: reads a format, fetches arguments, prints conversions.
//!
//! Formats without `n$` fetch each argument when it is needed. At the first `n$` the rest of the
//! format is read twice: once for the types of all arguments, once to print (as glibc does it).

use super::digits::{decimal, radix};
use super::float::{self, Float};
use super::out::{Out, Unit};
use super::spec::{Amount, Format, Length, Spec, bits};
use crate::errno;
use crate::stdio::bytes::error_text;
use crate::stdio::c_bytes;
use crate::stdio::fortify;
use crate::stdio::mb::{MbState, Step, decode, encode};
use crate::types::*;
use crate::va::{LongDouble, VaList};
use alloc::vec::Vec;
use platform::Errno;

/// A specification with its amounts known.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) flags: u8,
    pub(crate) width: usize,
    pub(crate) precision: Option<usize>,
    pub(crate) length: Length,
}

/// How an argument is passed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    None,
    Integer,
    Double,
    LongDouble,
}

/// A fetched argument.
#[derive(Clone, Copy)]
enum Arg {
    Integer(u64),
    Double(f64),
    Long(LongDouble),
}

impl Spec {
    /// How the conversion's argument is passed.
    pub(crate) fn class(&self) -> Class {
        match self.conversion {
            b'd' | b'i' | b'o' | b'u' | b'x' | b'X' | b'c' | b'C' | b's' | b'S' | b'p' | b'n' => {
                Class::Integer
            }
            b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => match self.length {
                Length::LongLong => Class::LongDouble,
                _ => Class::Double,
            },
            _ => Class::None,
        }
    }
}

/// What stops a format: `errno` has been set.
pub(crate) struct Failed;

fn fail(error: Errno) -> Failed {
    errno::set(error);
    Failed
}

/// Formats into `out`. `checked` is the `_chk` forms' demand: no `%n` in a writable format.
///
/// Answers what printf answers: the number of characters, or -1.
///
/// # Safety
/// `format` is a C string (of `U`), `args` holds what it asks for.
pub(crate) unsafe fn format<U: Unit>(
    out: &mut Out<U>,
    format: *const U,
    args: *mut VaList,
    checked: bool,
) -> c_int {
    // SAFETY: the caller's list.
    let args = unsafe { *args };
    let mut printer = Printer { out, saved_errno: errno::get(), checked, start: format, args };
    // SAFETY: forwarded.
    let result = unsafe { printer.run(Format(format)) };
    match result {
        Ok(()) if !out.failed => match c_int::try_from(out.total()) {
            Ok(total) => total,
            Err(_) => {
                errno::set(Errno::EOVERFLOW);
                -1
            }
        },
        _ => -1,
    }
}

struct Printer<'a, U> {
    out: &'a mut Out<U>,
    /// For `%m`.
    saved_errno: Errno,
    checked: bool,
    start: *const U,
    args: VaList,
}

impl<U: Unit> Printer<'_, U> {
    #[inline(always)]
    unsafe fn run(&mut self, mut format: Format<U>) -> Result<(), Failed> {
        let first_args = self.args;
        loop {
            format = self.literal(format);
            if format.peek() == 0 {
                return Ok(());
            }
            let percent = format;
            format.advance();
            // SAFETY: the arguments are what the format says, as the caller vouches.
            unsafe {
                if self.plain(format.peek()) {
                    format.advance();
                    continue;
                }
                let spec = format.spec();
                let positional = spec.position != 0
                    || matches!(spec.width, Amount::Position(_))
                    || matches!(spec.precision, Amount::Position(_));
                if positional {
                    return self.positional(percent, first_args);
                }
                let field = self.field(&spec)?;
                let arg = self.fetch(spec.class());
                self.convert(&spec, field, arg)?;
            }
        }
    }

    /// Copies up to the next `%`.
    #[inline(always)]
    fn literal(&mut self, mut format: Format<U>) -> Format<U> {
        let start = format.0;
        while format.peek() != 0 && format.peek() != 0x25 {
            format.advance();
        }
        let len = (format.0 as usize - start as usize) / size_of::<U>();
        if len != 0 {
            // SAFETY: those characters have just been read.
            self.out.units(unsafe { core::slice::from_raw_parts(start, len) });
        }
        format
    }

    /// The commonest conversions without anything between `%` and the letter.
    #[inline(always)]
    unsafe fn plain(&mut self, conversion: u32) -> bool {
        // SAFETY: the arguments are what the format says.
        unsafe {
            match conversion {
                0x73 if !U::WIDE => {
                    let text = self.args.ptr::<c_char>();
                    if text.is_null() {
                        self.out.bytes(b"(null)");
                    } else {
                        self.out.bytes(c_bytes(text));
                    }
                }
                0x64 => {
                    let value = self.args.int();
                    let mut buffer = [0; 24];
                    let mut at = decimal(u64::from(value.unsigned_abs()), &mut buffer);
                    if value < 0 {
                        at -= 1;
                        buffer[at] = b'-';
                    }
                    self.out.bytes(&buffer[at..]);
                }
                0x75 => {
                    let mut buffer = [0; 24];
                    let at = decimal(u64::from(self.args.int() as u32), &mut buffer);
                    self.out.bytes(&buffer[at..]);
                }
                _ => return false,
            }
        }
        true
    }

    unsafe fn fetch(&mut self, class: Class) -> Arg {
        // SAFETY: the argument has this class, as the format says.
        unsafe {
            match class {
                Class::None => Arg::Integer(0),
                Class::Integer => Arg::Integer(self.args.long()),
                Class::Double => Arg::Double(self.args.double()),
                Class::LongDouble => Arg::Long(self.args.long_double()),
            }
        }
    }

    unsafe fn field(&mut self, spec: &Spec) -> Result<Field, Failed> {
        let mut amount = |amount| match amount {
            Amount::None => None,
            Amount::Number(value) => Some(value),
            // SAFETY: `*` takes an int.
            _ => Some(unsafe { self.args.int() }),
        };
        let (width, precision) = (amount(spec.width), amount(spec.precision));
        settle(spec, width, precision)
    }

    /// The second way: all arguments are fetched first, in order, by the types that the format gives.
    unsafe fn positional(&mut self, format: Format<U>, args: VaList) -> Result<(), Failed> {
        let mut types: Vec<Class> = Vec::new();
        let mut note = |position: usize, class: Class| {
            if types.len() < position {
                types.resize(position, Class::None);
            }
            if class != Class::None {
                types[position - 1] = class;
            }
        };
        let mut next = 0;
        each_spec(format, |spec| {
            if spec.too_large || spec.position > 1 << 20 {
                return Err(fail(Errno::EOVERFLOW));
            }
            let (width, precision, value) = places(spec, &mut next);
            for amount in [width, precision].into_iter().flatten() {
                note(amount, Class::Integer);
            }
            if let Some(value) = value {
                note(value, spec.class());
            }
            Ok(())
        })?;
        if self.checked && types.contains(&Class::None) {
            fortify::invalid_positional();
        }
        self.args = args;
        // SAFETY: as the format says; an argument that it does not name counts as an int (glibc).
        let values: Vec<Arg> = types
            .iter()
            .map(|class| unsafe { self.fetch(if *class == Class::None { Class::Integer } else { *class }) })
            .collect();
        // SAFETY: forwarded.
        unsafe { self.print_positional(format, &values) }
    }

    unsafe fn print_positional(&mut self, mut format: Format<U>, values: &[Arg]) -> Result<(), Failed> {
        let mut next = 0;
        loop {
            format = self.literal(format);
            if format.peek() == 0 {
                return Ok(());
            }
            format.advance();
            let spec = format.spec();
            let (width, precision, value) = places(&spec, &mut next);
            let number = |place: usize| match values[place - 1] {
                Arg::Integer(value) => value as i32,
                _ => 0,
            };
            let plain = |amount| match amount {
                Amount::Number(value) => Some(value),
                _ => None,
            };
            let width = width.map(number).or(plain(spec.width));
            let precision = precision.map(number).or(plain(spec.precision));
            let field = settle(&spec, width, precision)?;
            let arg = value.map_or(Arg::Integer(0), |place| values[place - 1]);
            // SAFETY: the arguments are what the format says.
            unsafe { self.convert(&spec, field, arg)? };
        }
    }

    unsafe fn convert(&mut self, spec: &Spec, field: Field, arg: Arg) -> Result<(), Failed> {
        let integer = match arg {
            Arg::Integer(value) => value,
            _ => 0,
        };
        // SAFETY: pointers are what the format says.
        unsafe {
            match spec.conversion {
                b'd' | b'i' => {
                    let value = signed(integer, field.length);
                    self.number(&field, value.unsigned_abs(), sign(&field, value < 0), b'd');
                }
                b'u' | b'o' | b'x' | b'X' => {
                    self.number(&field, unsigned(integer, field.length), b"", spec.conversion);
                }
                b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => {
                    let value = match arg {
                        Arg::Long(value) => Float::Long(value),
                        Arg::Double(value) => Float::Double(value),
                        Arg::Integer(bits) => Float::Double(f64::from_bits(bits)),
                    };
                    float::print(self.out, &field, spec.conversion, value);
                }
                b'c' if field.length != Length::Long => self.character(&field, integer as u8),
                b'c' | b'C' => self.wide_character(&field, integer as u32)?,
                b's' if field.length != Length::Long => self.string(&field, integer as usize as *const u8)?,
                b's' | b'S' => self.wide_string(&field, integer as usize as *const wchar_t)?,
                b'p' => self.pointer(field, integer),
                b'n' => self.count(&field, integer as usize),
                b'm' => {
                    let mut buffer = [0; 40];
                    let text = error_text(self.saved_errno.0, &mut buffer);
                    let keep = field.precision.unwrap_or(usize::MAX).min(text.len());
                    self.padded_ascii(&field, &text[..keep]);
                }
                b'%' => self.out.put(U::ascii(b'%')),
                0 => return Err(fail(Errno::EINVAL)),
                other => self.unknown(&field, other),
            }
        }
        Ok(())
    }

    /// An integer: precision is the least number of digits; `0` pads only without one (C11 7.21.6.1).
    fn number(&mut self, field: &Field, value: u64, sign: &[u8], conversion: u8) {
        let mut buffer = [0; 24];
        let at = match conversion {
            b'o' => radix(value, 3, false, &mut buffer),
            b'x' | b'X' => radix(value, 4, conversion == b'X', &mut buffer),
            _ => decimal(value, &mut buffer),
        };
        let mut digits = &buffer[at..];
        if value == 0 && field.precision == Some(0) {
            digits = b"";
        }
        let alt = field.flags & bits::ALT != 0;
        let prefix: &[u8] = match conversion {
            b'x' if alt && value != 0 => b"0x",
            b'X' if alt && value != 0 => b"0X",
            _ => b"",
        };
        let mut zeros = field.precision.unwrap_or(0).saturating_sub(digits.len());
        if conversion == b'o' && alt && zeros == 0 && digits.first() != Some(&b'0') {
            zeros = 1;
        }
        let pad = field.width.saturating_sub(sign.len() + prefix.len() + zeros + digits.len());
        let left = field.flags & bits::LEFT != 0;
        let zero = field.flags & bits::ZERO != 0 && !left && field.precision.is_none();
        self.out.pad(b' ', if left || zero { 0 } else { pad });
        self.out.bytes(sign);
        self.out.bytes(prefix);
        self.out.pad(b'0', zeros + if zero { pad } else { 0 });
        self.out.bytes(digits);
        self.out.pad(b' ', if left { pad } else { 0 });
    }

    /// `%p`: as `%#lx` with a sign if asked for, and "(nil)" for null (glibc).
    fn pointer(&mut self, mut field: Field, value: u64) {
        if value == 0 {
            return self.padded_ascii(&field, b"(nil)");
        }
        field.flags |= bits::ALT;
        self.number(&field, value, sign(&field, false), b'x');
    }

    fn before(&mut self, field: &Field, len: usize) {
        if field.flags & bits::LEFT == 0 {
            self.out.pad(b' ', field.width.saturating_sub(len));
        }
    }

    fn behind(&mut self, field: &Field, len: usize) {
        if field.flags & bits::LEFT != 0 {
            self.out.pad(b' ', field.width.saturating_sub(len));
        }
    }

    fn padded_ascii(&mut self, field: &Field, text: &[u8]) {
        self.before(field, text.len());
        self.out.bytes(text);
        self.behind(field, text.len());
    }

    fn character(&mut self, field: &Field, byte: u8) {
        self.before(field, 1);
        let value = match U::WIDE && byte >= 0x80 {
            // btowc: no byte from 0x80 on is a character in C or C.UTF-8.
            true => u32::MAX,
            false => u32::from(byte),
        };
        self.out.put(U::from_value(value));
        self.behind(field, 1);
    }

    fn wide_character(&mut self, field: &Field, wide: u32) -> Result<(), Failed> {
        if U::WIDE {
            self.before(field, 1);
            self.out.put(U::from_value(wide));
            self.behind(field, 1);
            return Ok(());
        }
        let mut bytes = [0; 6];
        let utf8 = crate::locale::is_utf8();
        let len = encode(wide, &mut bytes, utf8).ok_or_else(|| fail(Errno::EILSEQ))?;
        self.padded_ascii(field, &bytes[..len]);
        Ok(())
    }

    /// What stands for a null string: nothing at all if the precision has no room for it (glibc).
    fn null_string(&mut self, field: &Field) {
        let text: &[u8] = if field.precision.is_none_or(|room| room >= 6) { b"(null)" } else { b"" };
        self.padded_ascii(field, text);
    }

    unsafe fn string(&mut self, field: &Field, text: *const u8) -> Result<(), Failed> {
        if text.is_null() {
            self.null_string(field);
            return Ok(());
        }
        // SAFETY: a C string, or `precision` bytes without a NUL.
        unsafe {
            if U::WIDE {
                return self.string_to_wide(field, text);
            }
            let bytes = match field.precision {
                None => c_bytes(text.cast()),
                Some(room) => core::slice::from_raw_parts(text, bounded_length(text, room)),
            };
            self.padded_ascii(field, bytes);
        }
        Ok(())
    }

    /// `%s` of wprintf: the precision counts wide characters.
    unsafe fn string_to_wide(&mut self, field: &Field, text: *const u8) -> Result<(), Failed> {
        let room = field.precision.unwrap_or(usize::MAX);
        let utf8 = crate::locale::is_utf8();
        let (mut wide, mut at) = (Vec::<U>::new(), 0);
        let mut state = MbState::default();
        while wide.len() < room {
            // SAFETY: bytes before `at` are not NUL.
            let byte = unsafe { *text.add(at) };
            if byte == 0 {
                break;
            }
            at += 1;
            match decode(&mut state, &[byte], utf8) {
                Step::Char(value, _) => wide.push(U::from_value(value)),
                Step::Partial => {}
                Step::Bad => return Err(fail(Errno::EILSEQ)),
            }
        }
        self.before(field, wide.len());
        self.out.units(&wide);
        self.behind(field, wide.len());
        Ok(())
    }

    /// `%ls`: in printf the precision counts bytes, and no character is cut.
    unsafe fn wide_string(&mut self, field: &Field, text: *const wchar_t) -> Result<(), Failed> {
        if text.is_null() {
            self.null_string(field);
            return Ok(());
        }
        let room = field.precision.unwrap_or(usize::MAX);
        let utf8 = crate::locale::is_utf8();
        let (mut len, mut count) = (0, 0);
        let mut bytes = [0; 6];
        // SAFETY: a wide C string; nothing behind its NUL or the precision is read.
        unsafe {
            while len < room && *text.add(count) != 0 {
                let size = match U::WIDE {
                    true => 1,
                    false => encode(*text.add(count) as u32, &mut bytes, utf8)
                        .ok_or_else(|| fail(Errno::EILSEQ))?,
                };
                if len + size > room {
                    break;
                }
                len += size;
                count += 1;
            }
            self.before(field, len);
            for index in 0..count {
                let wide = *text.add(index) as u32;
                if U::WIDE {
                    self.out.put(U::from_value(wide));
                } else if let Some(size) = encode(wide, &mut bytes, utf8) {
                    self.out.bytes(&bytes[..size]);
                }
            }
        }
        self.behind(field, len);
        Ok(())
    }

    /// `%n`.
    unsafe fn count(&mut self, field: &Field, place: usize) {
        if self.checked {
            let mut end = Format(self.start);
            while end.peek() != 0 {
                end.advance();
            }
            let from = self.start as usize;
            if !fortify::is_read_only(from, end.0 as usize - from + size_of::<U>()) {
                fortify::writable_format();
            }
        }
        let total = self.out.total();
        // SAFETY: the argument points to an integer of the size that the format says.
        unsafe {
            match field.length {
                Length::Char => *(place as *mut u8) = total as u8,
                Length::Short => *(place as *mut u16) = total as u16,
                Length::None => *(place as *mut u32) = total as u32,
                _ => *(place as *mut u64) = total,
            }
        }
    }

    /// An unknown conversion is printed as it was understood (glibc).
    fn unknown(&mut self, field: &Field, conversion: u8) {
        self.out.bytes(b"%");
        let marks = [(bits::ALT, b'#'), (bits::GROUP, b'\'')];
        for (_, mark) in marks.iter().filter(|(bit, _)| field.flags & bit != 0) {
            self.out.put(U::ascii(*mark));
        }
        if field.flags & bits::PLUS != 0 {
            self.out.bytes(b"+");
        } else if field.flags & bits::SPACE != 0 {
            self.out.bytes(b" ");
        }
        for (bit, mark) in [(bits::LEFT, b'-'), (bits::ZERO, b'0'), (bits::I18N, b'I')] {
            if field.flags & bit != 0 && !(bit == bits::ZERO && field.flags & bits::LEFT != 0) {
                self.out.put(U::ascii(mark));
            }
        }
        let mut buffer = [0; 24];
        if field.width != 0 {
            let at = decimal(field.width as u64, &mut buffer);
            self.out.bytes(&buffer[at..]);
        }
        if let Some(precision) = field.precision {
            self.out.bytes(b".");
            let at = decimal(precision as u64, &mut buffer);
            self.out.bytes(&buffer[at..]);
        }
        self.out.put(U::ascii(conversion));
    }
}

/// Width and precision as they count: a negative width is `-` and a width, a negative precision none.
fn settle(spec: &Spec, width: Option<i32>, precision: Option<i32>) -> Result<Field, Failed> {
    if spec.too_large || width == Some(i32::MIN) {
        return Err(fail(Errno::EOVERFLOW));
    }
    let width = width.unwrap_or(0);
    let mut flags = spec.flags;
    if width < 0 {
        flags |= bits::LEFT;
    }
    let width = width.unsigned_abs() as usize;
    let precision = precision.and_then(|precision| usize::try_from(precision).ok());
    Ok(Field { flags, width, precision, length: spec.length })
}

/// The places (from 1) of width, precision and value; those without `n$` take the next ones.
pub(crate) fn places(spec: &Spec, next: &mut usize) -> (Option<usize>, Option<usize>, Option<usize>) {
    let mut take = || {
        *next += 1;
        *next
    };
    let mut place = |amount| match amount {
        Amount::Next => Some(take()),
        Amount::Position(place) => Some(place),
        _ => None,
    };
    let (width, precision) = (place(spec.width), place(spec.precision));
    let value = match spec.class() {
        Class::None => None,
        _ if spec.position != 0 => Some(spec.position),
        _ => Some(take()),
    };
    (width, precision, value)
}

/// Visits each specification of a format.
pub(crate) fn each_spec<U: Unit>(
    mut format: Format<U>,
    mut visit: impl FnMut(&Spec) -> Result<(), Failed>,
) -> Result<(), Failed> {
    loop {
        while format.peek() != 0 && format.peek() != 0x25 {
            format.advance();
        }
        if format.peek() == 0 {
            return Ok(());
        }
        format.advance();
        visit(&format.spec())?;
    }
}

fn sign(field: &Field, negative: bool) -> &'static [u8] {
    match negative {
        true => b"-",
        false if field.flags & bits::PLUS != 0 => b"+",
        false if field.flags & bits::SPACE != 0 => b" ",
        false => b"",
    }
}

fn signed(value: u64, length: Length) -> i64 {
    match length {
        Length::Char => i64::from(value as i8),
        Length::Short => i64::from(value as i16),
        Length::None => i64::from(value as i32),
        _ => value as i64,
    }
}

fn unsigned(value: u64, length: Length) -> u64 {
    match length {
        Length::Char => u64::from(value as u8),
        Length::Short => u64::from(value as u16),
        Length::None => u64::from(value as u32),
        _ => value,
    }
}

/// `strnlen`, which never looks behind a NUL: the array may end there.
unsafe fn bounded_length(text: *const u8, room: usize) -> usize {
    let mut len = 0;
    // SAFETY: a NUL or `room` bytes.
    while len < room && unsafe { *text.add(len) } != 0 {
        len += 1;
    }
    len
}
