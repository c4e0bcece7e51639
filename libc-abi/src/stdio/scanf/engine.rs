//! The scanner: reads a format, matches input, stores what was converted.
//!
//! What counts as a number is decided character by character with one step back, as C11 7.21.6.2
//! asks, and in the doubtful cases ("0x" without digits, "1e" without an exponent) as glibc does.

use super::source::Source;
use super::text::{Set, Sink};
use crate::errno;
use crate::stdio::mb::is_wide_space;
use crate::stdio::printf::out::Unit;
use crate::stdio::printf::spec::{Format, Length};
use crate::strtod::{parse_f32, parse_f64, parse_f80};
use crate::types::*;
use crate::va::VaList;
use alloc::vec::Vec;
use platform::Errno;

/// Why a scan ends early.
pub(crate) enum Stop {
    /// The input ended (or failed): EOF if nothing was converted.
    Input,
    /// The input does not match.
    Mismatch,
}

/// A specification: `%[n$][*][width][m][length]conversion`.
struct Spec {
    position: usize,
    suppress: bool,
    /// None: no limit.
    width: Option<usize>,
    allocate: bool,
    length: Length,
    conversion: u8,
}

/// Scans `source`; answers what scanf answers.
///
/// # Safety
/// `format` is a C string of `U`, `args` holds pointers as it asks for. `gnu_a` says that `%as`
/// allocates (programs built without C99's scanf).
pub(crate) unsafe fn scan<U: Unit>(
    source: &mut impl Source<U>,
    format: *const U,
    args: *mut VaList,
    gnu_a: bool,
) -> c_int {
    // SAFETY: the caller's list.
    let args = unsafe { *args };
    let input = Input { source, taken: 0, ended: false };
    let mut scanner = Scanner { input, args, first_args: args, done: 0, gnu_a };
    // SAFETY: forwarded.
    match unsafe { scanner.run(Format(format)) } {
        Err(Stop::Input) if scanner.done == 0 => -1,
        _ => scanner.done,
    }
}

/// The source with a count, and an end that is asked for once only.
struct Input<'a, S> {
    source: &'a mut S,
    taken: usize,
    ended: bool,
}

impl<S> Input<'_, S> {
    #[inline(always)]
    fn get<U: Unit>(&mut self) -> Option<U>
    where
        S: Source<U>,
    {
        if self.ended {
            return None;
        }
        let unit = self.source.get();
        self.ended = unit.is_none();
        self.taken += usize::from(unit.is_some());
        unit
    }

    #[inline(always)]
    fn unget<U: Unit>(&mut self, unit: Option<U>)
    where
        S: Source<U>,
    {
        if let Some(unit) = unit {
            self.source.unget(unit);
            self.taken -= 1;
        }
    }

    /// Skips white space.
    fn skip<U: Unit>(&mut self)
    where
        S: Source<U>,
    {
        loop {
            let unit = self.get();
            if !unit.is_some_and(is_space::<U>) {
                return self.unget(unit);
            }
        }
    }
}

fn is_space<U: Unit>(unit: U) -> bool {
    let value = unit.value();
    if U::WIDE { is_wide_space(value) } else { matches!(value, 0x20 | 9..=13) }
}

/// The character if it is ASCII.
fn ascii<U: Unit>(unit: Option<U>) -> u8 {
    unit.map_or(0, |unit| if unit.value() < 0x80 { unit.value() as u8 } else { 0 })
}

/// How many characters a conversion may still take.
#[derive(Clone, Copy)]
struct Limit(usize);

impl Limit {
    fn open(self) -> bool {
        self.0 > 0
    }
    fn used(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

struct Scanner<'a, S> {
    input: Input<'a, S>,
    args: VaList,
    first_args: VaList,
    done: c_int,
    gnu_a: bool,
}

impl<S> Scanner<'_, S> {
    unsafe fn run<U: Unit>(&mut self, mut format: Format<U>) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        let mut skip = false;
        while format.peek() != 0 {
            let wanted = U::from_value(format.peek());
            format.advance();
            if wanted.value() != 0x25 {
                if is_space(wanted) {
                    skip = true;
                } else {
                    self.literal(wanted, &mut skip)?;
                }
                continue;
            }
            let spec = self.spec(&mut format);
            if skip || !matches!(spec.conversion, b'[' | b'c' | b'C' | b'n') {
                self.input.skip();
                skip = false;
            }
            // SAFETY: the arguments are what the format says.
            unsafe { self.convert(&spec, &mut format)? };
        }
        if skip {
            self.input.skip();
        }
        Ok(())
    }

    fn literal<U: Unit>(&mut self, wanted: U, skip: &mut bool) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        if core::mem::take(skip) {
            self.input.skip();
        }
        match self.input.get() {
            None => Err(Stop::Input),
            Some(unit) if unit == wanted => Ok(()),
            other => {
                self.input.unget(other);
                Err(Stop::Mismatch)
            }
        }
    }

    /// Reads a specification; `format` stands behind the `%`.
    fn spec<U: Unit>(&mut self, format: &mut Format<U>) -> Spec {
        let mut spec = Spec {
            position: 0,
            suppress: false,
            width: None,
            allocate: false,
            length: Length::None,
            conversion: 0,
        };
        let number = digits(format);
        if number.is_some() && format.peek() == u32::from(b'$') {
            format.advance();
            spec.position = number.unwrap_or(0);
        } else {
            spec.width = number;
        }
        if spec.width.is_none() {
            loop {
                match format.peek() {
                    0x2a => spec.suppress = true,
                    0x27 | 0x49 => {}
                    _ => break,
                }
                format.advance();
            }
            spec.width = digits(format);
        }
        spec.width = spec.width.filter(|width| *width != 0);
        self.modifiers(format, &mut spec);
        spec.conversion = u8::try_from(format.peek()).unwrap_or(0);
        if format.peek() != 0 {
            format.advance();
        }
        spec
    }

    fn modifiers<U: Unit>(&self, format: &mut Format<U>, spec: &mut Spec) {
        loop {
            spec.length = match u8::try_from(format.peek()).unwrap_or(0) {
                b'h' if spec.length == Length::Short => Length::Char,
                b'h' => Length::Short,
                b'l' if spec.length == Length::Long => Length::LongLong,
                b'l' | b'j' | b'z' | b'Z' | b't' => Length::Long,
                b'L' | b'q' => Length::LongLong,
                b'm' => {
                    spec.allocate = true;
                    spec.length
                }
                b'a' if self.gnu_a && allocates(*format) => {
                    spec.allocate = true;
                    spec.length
                }
                _ => return,
            };
            format.advance();
        }
    }

    /// The pointer argument of a conversion.
    unsafe fn place<T>(&mut self, spec: &Spec) -> *mut T {
        // SAFETY: all arguments of scanf are pointers, one after the other.
        unsafe {
            if spec.position == 0 {
                return self.args.ptr();
            }
            let mut args = self.first_args;
            for _ in 1..spec.position {
                args.long();
            }
            args.ptr()
        }
    }

    unsafe fn convert<U: Unit>(&mut self, spec: &Spec, format: &mut Format<U>) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        // SAFETY: the arguments are what the format says.
        unsafe {
            match spec.conversion {
                b'%' => self.literal(U::ascii(b'%'), &mut false),
                b'n' => {
                    if !spec.suppress {
                        let place = self.place(spec);
                        store(place, self.input.taken as u64, spec.length);
                    }
                    Ok(())
                }
                b'c' | b'C' => self.characters(spec),
                b's' | b'S' => self.text(spec, None),
                b'[' => {
                    let set = Set::parse(format).ok_or(Stop::Mismatch)?;
                    self.text(spec, Some(&set))
                }
                b'd' | b'u' => self.integer(spec, 10),
                b'i' => self.integer(spec, 0),
                b'o' => self.integer(spec, 8),
                b'x' | b'X' | b'p' => self.integer(spec, 16),
                b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A' => self.float(spec),
                _ => Err(Stop::Mismatch),
            }
        }
    }

    unsafe fn sink(&mut self, spec: &Spec) -> Sink {
        let wide = matches!(spec.conversion, b'C' | b'S') || matches!(spec.length, Length::Long);
        if spec.suppress {
            return Sink::nowhere(wide);
        }
        // SAFETY: forwarded.
        let place = unsafe { self.place::<u8>(spec) };
        if spec.allocate { Sink::allocating(place.cast(), wide) } else { Sink::at(place, wide) }
    }

    /// `%c`: exactly `width` characters (one by default), fewer only at the end of the input.
    unsafe fn characters<U: Unit>(&mut self, spec: &Spec) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        // SAFETY: the argument has room for `width` characters.
        unsafe {
            let mut sink = self.sink(spec);
            let mut limit = Limit(spec.width.unwrap_or(1));
            let Some(first) = self.input.get::<U>() else { return Err(Stop::Input) };
            let mut next = Some(first);
            while let Some(unit) = next {
                // A multibyte character counts as one, whatever its bytes.
                if sink.put(unit).map_err(|()| no_sink())? {
                    limit.used();
                }
                next = if limit.open() { self.input.get() } else { None };
            }
            self.finish(spec, sink, false)
        }
    }

    /// `%s` and `%[`.
    unsafe fn text<U: Unit>(&mut self, spec: &Spec, set: Option<&Set>) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        // SAFETY: the argument has room, as the format says.
        unsafe {
            let mut limit = Limit(spec.width.unwrap_or(usize::MAX));
            let mut next = self.input.get::<U>();
            let matches = |unit: U| match set {
                Some(set) => set.contains(unit.value()),
                None => !is_space(unit),
            };
            match next {
                None => return Err(Stop::Input),
                Some(unit) if !matches(unit) => {
                    self.input.unget(next);
                    return Err(Stop::Mismatch);
                }
                _ => {}
            }
            let mut sink = self.sink(spec);
            while let Some(unit) = next {
                if !matches(unit) {
                    self.input.unget(next);
                    break;
                }
                if sink.put(unit).map_err(|()| no_sink())? {
                    limit.used();
                }
                next = if limit.open() { self.input.get() } else { None };
            }
            self.finish(spec, sink, true)
        }
    }

    unsafe fn finish(&mut self, spec: &Spec, sink: Sink, terminate: bool) -> Result<(), Stop> {
        // SAFETY: as in the callers.
        unsafe { sink.finish(terminate) }.map_err(|()| no_sink())?;
        self.done += c_int::from(!spec.suppress);
        Ok(())
    }

    /// Integers; `%p` also takes "(nil)".
    unsafe fn integer<U: Unit>(&mut self, spec: &Spec, base: u32) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        let mut limit = Limit(spec.width.unwrap_or(usize::MAX));
        let mut next = self.input.get::<U>();
        if next.is_none() {
            return Err(Stop::Input);
        }
        let mut base = base;
        let negative = ascii(next) == b'-';
        if negative || ascii(next) == b'+' {
            limit.used();
            next = if limit.open() { self.input.get() } else { None };
        }
        let mut any = false;
        if limit.open() && ascii(next) == b'0' {
            any = true;
            limit.used();
            next = if limit.open() { self.input.get() } else { None };
            if limit.open() && ascii(next) | 0x20 == b'x' {
                if base == 0 {
                    base = 16;
                }
                if base == 16 {
                    limit.used();
                    next = if limit.open() { self.input.get() } else { None };
                }
            } else if base == 0 {
                base = 8;
            }
        }
        if base == 0 {
            base = 10;
        }
        let (mut value, mut overflow) = (0u64, false);
        while limit.open()
            && let Some(digit) = (ascii(next) as char).to_digit(base)
        {
            any = true;
            match value.checked_mul(u64::from(base)).and_then(|value| value.checked_add(u64::from(digit))) {
                Some(sum) => value = sum,
                None => overflow = true,
            }
            limit.used();
            next = if limit.open() { self.input.get() } else { None };
        }
        if !any && spec.conversion == b'p' && ascii(next) == b'(' && !negative {
            self.nil()?;
            any = true;
            next = None;
        }
        self.input.unget(next);
        if !any {
            return Err(Stop::Mismatch);
        }
        if !spec.suppress {
            let signed = matches!(spec.conversion, b'd' | b'i');
            let value = as_strtol(value, negative, overflow, signed);
            let length = if spec.conversion == b'p' { Length::Long } else { spec.length };
            // SAFETY: the argument points to an integer of this length.
            unsafe { store(self.place(spec), value, length) };
            self.done += 1;
        }
        Ok(())
    }

    /// The rest of "(nil)".
    fn nil<U: Unit>(&mut self) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        for wanted in b"nil)" {
            let next = self.input.get::<U>();
            if ascii(next) | 0x20 != wanted | 0x20 {
                self.input.unget(next);
                return Err(Stop::Mismatch);
            }
        }
        Ok(())
    }

    unsafe fn float<U: Unit>(&mut self, spec: &Spec) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        let mut text = Collected::new();
        self.collect_float(spec, &mut text)?;
        text.push(0);
        let text = text.bytes().as_ptr();
        // SAFETY: the text ends with a NUL; the argument points to a float of this length.
        unsafe {
            let used = match spec.length {
                Length::LongLong => {
                    let parsed = parse_f80(text);
                    if parsed.used > 0 && !spec.suppress {
                        let place = self.place::<u8>(spec);
                        place.cast::<u64>().write_unaligned(parsed.value.mantissa);
                        place.add(8).cast::<u16>().write_unaligned(parsed.value.sign_exponent);
                    }
                    (parsed.used, parsed.range)
                }
                Length::Long => {
                    let parsed = parse_f64(text);
                    if parsed.used > 0 && !spec.suppress {
                        *self.place::<f64>(spec) = parsed.value;
                    }
                    (parsed.used, parsed.range)
                }
                _ => {
                    let parsed = parse_f32(text);
                    if parsed.used > 0 && !spec.suppress {
                        *self.place::<f32>(spec) = parsed.value;
                    }
                    (parsed.used, parsed.range)
                }
            };
            if used.1 {
                errno::set(Errno::ERANGE);
            }
            if used.0 == 0 {
                return Err(Stop::Mismatch);
            }
        }
        self.done += c_int::from(!spec.suppress);
        Ok(())
    }

    fn collect_float<U: Unit>(&mut self, spec: &Spec, text: &mut Collected) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        let mut limit = Limit(spec.width.unwrap_or(usize::MAX));
        let mut next = self.input.get::<U>();
        limit.used();
        if next.is_none() {
            return Err(Stop::Input);
        }
        let mut signs = 0;
        if matches!(ascii(next), b'-' | b'+') {
            signs = 1;
            text.push(ascii(next));
            if !limit.open() {
                return Err(Stop::Mismatch);
            }
            next = self.input.get();
            limit.used();
            if next.is_none() {
                return Err(Stop::Mismatch);
            }
        }
        match ascii(next) | 0x20 {
            b'n' => {
                text.push(b'n');
                return self.word(b"an", &mut limit, text);
            }
            b'i' => {
                text.push(b'i');
                self.word(b"nf", &mut limit, text)?;
                return self.infinity(&mut limit, text);
            }
            _ => {}
        }
        let (mut digit, mut dot, mut exponent, mut hex) = (false, false, false, false);
        let mut letter = b'e';
        if limit.open() && ascii(next) == b'0' {
            text.push(b'0');
            next = self.input.get();
            limit.used();
            if limit.open() && ascii(next) | 0x20 == b'x' {
                text.push(b'x');
                (hex, letter) = (true, b'p');
                next = self.input.get();
                limit.used();
            } else {
                digit = true;
            }
        }
        loop {
            let byte = ascii(next);
            if byte.is_ascii_digit() || (!exponent && hex && byte.is_ascii_hexdigit()) {
                digit = true;
                text.push(byte);
            } else if exponent && text.last() == letter && matches!(byte, b'-' | b'+') {
                text.push(byte);
            } else if digit && !exponent && byte | 0x20 == letter {
                (exponent, dot) = (true, true);
                text.push(letter);
            } else if byte == b'.' && !dot {
                dot = true;
                text.push(byte);
            } else {
                self.input.unget(next);
                break;
            }
            if !limit.open() {
                break;
            }
            next = self.input.get();
            limit.used();
            if next.is_none() {
                break;
            }
        }
        check_collected(text, signs, hex)
    }

    /// The rest of a word, in any case of letters.
    fn word<U: Unit>(&mut self, rest: &[u8], limit: &mut Limit, text: &mut Collected) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        for wanted in rest {
            if !limit.open() {
                return Err(Stop::Mismatch);
            }
            let next = self.input.get::<U>();
            limit.used();
            if ascii(next) | 0x20 != *wanted {
                self.input.unget(next);
                return Err(Stop::Mismatch);
            }
            text.push(*wanted);
        }
        Ok(())
    }

    /// "inf" may go on to "infinity", and then must.
    fn infinity<U: Unit>(&mut self, limit: &mut Limit, text: &mut Collected) -> Result<(), Stop>
    where
        S: Source<U>,
    {
        if !limit.open() {
            return Ok(());
        }
        let next = self.input.get::<U>();
        if ascii(next) | 0x20 != b'i' {
            self.input.unget(next);
            return Ok(());
        }
        limit.used();
        text.push(b'i');
        self.word(b"nity", limit, text)
    }
}

/// glibc's answers when a character could not be stored: EOF without memory, what was converted so far
/// for an illegal sequence.
fn no_sink() -> Stop {
    if errno::get() == Errno::ENOMEM { Stop::Input } else { Stop::Mismatch }
}

/// Nothing at all, or "0x" alone, is no number.
fn check_collected(text: &Collected, signs: usize, hex: bool) -> Result<(), Stop> {
    let len = text.bytes().len();
    if len == signs || (hex && len == signs + 2) { Err(Stop::Mismatch) } else { Ok(()) }
}

/// The text of a number: on the stack as long as it is short.
struct Collected {
    short: [u8; 64],
    len: usize,
    long: Vec<u8>,
}

impl Collected {
    fn new() -> Collected {
        Collected { short: [0; 64], len: 0, long: Vec::new() }
    }
    fn push(&mut self, byte: u8) {
        if self.len < self.short.len() {
            self.short[self.len] = byte;
        } else {
            if self.long.is_empty() {
                self.long.extend_from_slice(&self.short);
            }
            self.long.push(byte);
        }
        self.len += 1;
    }
    fn bytes(&self) -> &[u8] {
        if self.long.is_empty() { &self.short[..self.len] } else { &self.long }
    }
    fn last(&self) -> u8 {
        self.bytes().last().copied().unwrap_or(0)
    }
}

/// Decimal digits of the format.
fn digits<U: Unit>(format: &mut Format<U>) -> Option<usize> {
    let mut value = None;
    while let Some(digit) = format.peek().checked_sub(48).filter(|digit| *digit < 10) {
        value = Some(value.unwrap_or(0usize).saturating_mul(10).saturating_add(digit as usize));
        format.advance();
    }
    value
}

/// Whether `a` stands before `s`, `S` or `[`: the old GNU way to ask for memory.
fn allocates<U: Unit>(mut format: Format<U>) -> bool {
    format.advance();
    matches!(u8::try_from(format.peek()), Ok(b's' | b'S' | b'['))
}

/// What strtol or strtoul make of the digits.
fn as_strtol(value: u64, negative: bool, overflow: bool, signed: bool) -> u64 {
    let limit = if negative { 1 << 63 } else { i64::MAX as u64 };
    if overflow || (signed && value > limit) {
        errno::set(Errno::ERANGE);
        return if signed { limit } else { u64::MAX };
    }
    if negative { value.wrapping_neg() } else { value }
}

unsafe fn store(place: *mut u8, value: u64, length: Length) {
    // SAFETY: the argument points to an integer of this length.
    unsafe {
        match length {
            Length::Char => *place = value as u8,
            Length::Short => *place.cast::<u16>() = value as u16,
            Length::None => *place.cast::<u32>() = value as u32,
            _ => *place.cast::<u64>() = value,
        }
    }
}
