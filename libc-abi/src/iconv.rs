//! iconv(3): the Unicode encodings, ASCII and the eight-bit sets of [`crate::charset_tables`].
//!
//! `//TRANSLIT` uses the replacements of glibc's C locale, then `?`; `//IGNORE` leaves out what cannot
//! be converted and says so with EILSEQ at the end of the buffer, as glibc 2.36. Other sets (CJK, UTF-7,
//! EBCDIC) do not exist here: EINVAL.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::charset_tables::{CHARSETS, TRANSLIT};
use crate::errno;
use crate::locale::is_utf8;
use crate::multibyte::{self, MbState, Step};
use crate::types::*;
use alloc::boxed::Box;
use alloc::string::String;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

const E2BIG: i32 = 7;
const EINVAL: i32 = 22;
const EILSEQ: i32 = 84;

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Little,
    Big,
    /// By a byte order mark, which is also written; little if there is none.
    Marked,
}

#[derive(Clone, Copy)]
enum Charset {
    Ascii,
    Utf8,
    Utf16(Order),
    Utf32(Order),
    /// 16-bit units without surrogates.
    Ucs2(Order),
    /// 31-bit units.
    Ucs4(Order),
    Table(&'static [u16; 128]),
}

/// Names besides the tables' own, upper case without separators at the end.
const ALIASES: &[(&str, &str)] = &[
    ("LATIN1", "ISO-8859-1"),
    ("L1", "ISO-8859-1"),
    ("CP819", "ISO-8859-1"),
    ("IBM819", "ISO-8859-1"),
    ("ISO_8859-1", "ISO-8859-1"),
    ("ISO8859-1", "ISO-8859-1"),
    ("ISO88591", "ISO-8859-1"),
    ("8859_1", "ISO-8859-1"),
    ("ISO_8859-1:1987", "ISO-8859-1"),
    ("ISO-IR-100", "ISO-8859-1"),
    ("CSISOLATIN1", "ISO-8859-1"),
    ("LATIN2", "ISO-8859-2"),
    ("L2", "ISO-8859-2"),
    ("ISO8859-2", "ISO-8859-2"),
    ("ISO_8859-2", "ISO-8859-2"),
    ("LATIN3", "ISO-8859-3"),
    ("L3", "ISO-8859-3"),
    ("ISO8859-3", "ISO-8859-3"),
    ("ISO_8859-3", "ISO-8859-3"),
    ("LATIN4", "ISO-8859-4"),
    ("L4", "ISO-8859-4"),
    ("ISO8859-4", "ISO-8859-4"),
    ("ISO_8859-4", "ISO-8859-4"),
    ("CYRILLIC", "ISO-8859-5"),
    ("ISO8859-5", "ISO-8859-5"),
    ("ISO_8859-5", "ISO-8859-5"),
    ("ARABIC", "ISO-8859-6"),
    ("ISO8859-6", "ISO-8859-6"),
    ("ISO_8859-6", "ISO-8859-6"),
    ("GREEK", "ISO-8859-7"),
    ("ISO8859-7", "ISO-8859-7"),
    ("ISO_8859-7", "ISO-8859-7"),
    ("HEBREW", "ISO-8859-8"),
    ("ISO8859-8", "ISO-8859-8"),
    ("ISO_8859-8", "ISO-8859-8"),
    ("LATIN5", "ISO-8859-9"),
    ("L5", "ISO-8859-9"),
    ("ISO8859-9", "ISO-8859-9"),
    ("ISO_8859-9", "ISO-8859-9"),
    ("LATIN6", "ISO-8859-10"),
    ("L6", "ISO-8859-10"),
    ("ISO8859-10", "ISO-8859-10"),
    ("ISO8859-11", "ISO-8859-11"),
    ("LATIN7", "ISO-8859-13"),
    ("L7", "ISO-8859-13"),
    ("ISO8859-13", "ISO-8859-13"),
    ("ISO_8859-13", "ISO-8859-13"),
    ("LATIN8", "ISO-8859-14"),
    ("L8", "ISO-8859-14"),
    ("ISO8859-14", "ISO-8859-14"),
    ("ISO_8859-14", "ISO-8859-14"),
    ("LATIN-9", "ISO-8859-15"),
    ("LATIN9", "ISO-8859-15"),
    ("ISO8859-15", "ISO-8859-15"),
    ("ISO_8859-15", "ISO-8859-15"),
    ("LATIN10", "ISO-8859-16"),
    ("L10", "ISO-8859-16"),
    ("ISO8859-16", "ISO-8859-16"),
    ("ISO_8859-16", "ISO-8859-16"),
    ("WINDOWS-1250", "CP1250"),
    ("WINDOWS-1251", "CP1251"),
    ("WINDOWS-1252", "CP1252"),
    ("WINDOWS-1253", "CP1253"),
    ("WINDOWS-1254", "CP1254"),
    ("WINDOWS-1255", "CP1255"),
    ("WINDOWS-1256", "CP1256"),
    ("WINDOWS-1257", "CP1257"),
    ("WINDOWS-1258", "CP1258"),
    ("MS-ANSI", "CP1252"),
    ("MS-EE", "CP1250"),
    ("MS-CYRL", "CP1251"),
    ("MS-GREEK", "CP1253"),
    ("KOI8R", "KOI8-R"),
    ("KOI8U", "KOI8-U"),
    ("IBM437", "CP437"),
    ("437", "CP437"),
    ("IBM850", "CP850"),
    ("850", "CP850"),
    ("IBM852", "CP852"),
    ("852", "CP852"),
    ("IBM866", "CP866"),
    ("866", "CP866"),
    ("MAC", "MACINTOSH"),
    ("TIS620", "TIS-620"),
];

impl Charset {
    fn by_name(name: &str) -> Option<Charset> {
        use Order::*;
        Some(match name {
            // The locale's own.
            "" if is_utf8() => Charset::Utf8,
            "" => Charset::Ascii,
            "ASCII" | "US-ASCII" | "ANSI_X3.4-1968" | "ANSI_X3.4-1986" | "ANSI_X3.4" | "ISO646-US"
            | "ISO_646.IRV:1991" | "ISO-IR-6" | "US" | "646" | "CP367" | "IBM367" | "CSASCII" => {
                Charset::Ascii
            }
            "UTF-8" | "UTF8" | "ISO-IR-193" => Charset::Utf8,
            "UTF-16" | "UTF16" | "UNICODE" | "CSUNICODE" => Charset::Utf16(Marked),
            "UTF-16LE" | "UTF16LE" => Charset::Utf16(Little),
            "UTF-16BE" | "UTF16BE" => Charset::Utf16(Big),
            "UTF-32" | "UTF32" => Charset::Utf32(Marked),
            "UTF-32LE" | "UTF32LE" => Charset::Utf32(Little),
            "UTF-32BE" | "UTF32BE" => Charset::Utf32(Big),
            "UCS-2" | "UCS2" | "ISO-10646-UCS-2" | "OSF00010100" | "UCS-2LE" | "UNICODELITTLE" => {
                Charset::Ucs2(Little)
            }
            "UCS-2BE" | "UNICODEBIG" => Charset::Ucs2(Big),
            "UCS-4" | "UCS4" | "ISO-10646" | "10646-1:1993" | "10646-1:1993/UCS4" | "UCS-4BE" | "CSUCS4" => {
                Charset::Ucs4(Big)
            }
            "UCS-4LE" | "WCHAR_T" | "INTERNAL" => Charset::Ucs4(Little),
            _ => {
                let name = ALIASES.iter().find(|alias| alias.0 == name).map_or(name, |alias| alias.1);
                Charset::Table(&CHARSETS.iter().find(|set| set.0 == name)?.1)
            }
        })
    }

    /// One character from `bytes` and its length. Errors are errno values; EINVAL is "more needed".
    fn decode(self, bytes: &[u8], order: Order) -> Result<(u32, usize), i32> {
        let unit = |size: usize| -> Result<u32, i32> {
            let unit = bytes.get(..size).ok_or(EINVAL)?;
            let value = unit.iter().fold(0u32, |value, &byte| value << 8 | byte as u32);
            Ok(match order {
                Order::Big => value,
                _ => value.swap_bytes() >> (32 - 8 * size),
            })
        };
        match self {
            Charset::Ascii if bytes[0] < 0x80 => Ok((bytes[0] as u32, 1)),
            Charset::Ascii => Err(EILSEQ),
            Charset::Table(table) => match bytes[0] {
                c @ 0..0x80 => Ok((c as u32, 1)),
                c => match table[c as usize - 0x80] {
                    0 => Err(EILSEQ),
                    wide => Ok((wide as u32, 1)),
                },
            },
            Charset::Utf8 => {
                match multibyte::decode(&mut MbState::default(), &bytes[..bytes.len().min(6)], true) {
                    Step::Char(c, used) => Ok((c, used)),
                    Step::Partial => Err(EINVAL),
                    Step::Bad => Err(EILSEQ),
                }
            }
            Charset::Utf16(_) => match unit(2)? {
                high @ 0xd800..0xdc00 => {
                    let low = Charset::Ucs2(order).raw_16(bytes.get(2..4).ok_or(EINVAL)?, order);
                    match low {
                        0xdc00..0xe000 => Ok((0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), 4)),
                        _ => Err(EILSEQ),
                    }
                }
                0xdc00..0xe000 => Err(EILSEQ),
                c => Ok((c, 2)),
            },
            Charset::Ucs2(_) => match unit(2)? {
                0xd800..0xe000 => Err(EILSEQ),
                c => Ok((c, 2)),
            },
            Charset::Utf32(_) => match unit(4)? {
                0xd800..0xe000 | 0x110000.. => Err(EILSEQ),
                c => Ok((c, 4)),
            },
            Charset::Ucs4(_) => match unit(4)? {
                0xd800..0xe000 | 0x8000_0000.. => Err(EILSEQ),
                c => Ok((c, 4)),
            },
        }
    }

    fn raw_16(self, unit: &[u8], order: Order) -> u32 {
        let unit = [unit[0], unit[1]];
        (if order == Order::Big { u16::from_be_bytes(unit) } else { u16::from_le_bytes(unit) }) as u32
    }

    /// The bytes of `c`; `None` if the set lacks it.
    fn encode(self, c: u32) -> Option<Bytes> {
        let mut out = Bytes { bytes: [0; 6], length: 0 };
        let units = |order: Order, size: usize, values: &[u32], mut out: Bytes| {
            for value in values {
                let big = value.to_be_bytes();
                for i in 0..size {
                    out.bytes[out.length] = if order == Order::Big { big[4 - size + i] } else { big[3 - i] };
                    out.length += 1;
                }
            }
            Some(out)
        };
        match self {
            Charset::Ascii => {
                out.bytes[0] = u8::try_from(c).ok().filter(u8::is_ascii)?;
                out.length = 1;
                Some(out)
            }
            Charset::Table(table) => {
                out.bytes[0] = match c {
                    0..0x80 => c as u8,
                    _ => table.iter().position(|&wide| wide as u32 == c)? as u8 + 0x80,
                };
                out.length = 1;
                Some(out)
            }
            Charset::Utf8 => {
                out.length = multibyte::encode(c, &mut out.bytes, true)?;
                Some(out)
            }
            Charset::Utf16(order) => match c {
                0xd800..0xe000 | 0x110000.. => None,
                0..0x10000 => units(order, 2, &[c], out),
                _ => units(order, 2, &[0xd800 + ((c - 0x10000) >> 10), 0xdc00 + (c & 0x3ff)], out),
            },
            Charset::Ucs2(order) => (c < 0x10000).then(|| units(order, 2, &[c], out))?,
            Charset::Utf32(order) => (c < 0x110000).then(|| units(order, 4, &[c], out))?,
            Charset::Ucs4(order) => units(order, 4, &[c], out),
        }
    }
}

struct Bytes {
    bytes: [u8; 6],
    length: usize,
}

/// What an `iconv_t` points at.
struct Conversion {
    from: Charset,
    to: Charset,
    transliterate: bool,
    ignore: bool,
    /// Byte order of the input; settled by a mark.
    order: Order,
    /// Whether a mark may still come first.
    fresh_in: bool,
    /// Whether a mark is still to be written.
    mark_out: bool,
}

impl Conversion {
    fn reset(&mut self) {
        self.fresh_in = true;
        self.mark_out = matches!(self.to, Charset::Utf16(Order::Marked) | Charset::Utf32(Order::Marked));
        self.order = match self.from {
            Charset::Utf16(order) | Charset::Utf32(order) | Charset::Ucs2(order) | Charset::Ucs4(order) => {
                order
            }
            _ => Order::Little,
        };
    }

    /// Skips a byte order mark at the start of UTF-16 and UTF-32; answers its length.
    fn mark(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.fresh_in || self.order != Order::Marked {
            return Some(0);
        }
        let (size, little, big): (usize, &[u8], &[u8]) = match self.from {
            Charset::Utf16(_) => (2, &[0xff, 0xfe], &[0xfe, 0xff]),
            _ => (4, &[0xff, 0xfe, 0, 0], &[0, 0, 0xfe, 0xff]),
        };
        let start = bytes.get(..size)?;
        self.fresh_in = false;
        self.order = if start == big { Order::Big } else { Order::Little };
        Some(if start == big || start == little { size } else { 0 })
    }

    /// What stands for `c` in the target: itself or its transliteration.
    fn encoded(&self, c: u32, room: &mut Out) -> Result<bool, i32> {
        if let Some(bytes) = self.to.encode(c) {
            room.write(&bytes.bytes[..bytes.length])?;
            return Ok(false);
        }
        if !self.transliterate {
            return Err(EILSEQ);
        }
        let text = TRANSLIT.binary_search_by_key(&c, |row| row.0).map_or("?", |at| TRANSLIT[at].1);
        let mark = room.used;
        for c in text.bytes() {
            let written =
                self.to.encode(c as u32).ok_or(EILSEQ).and_then(|b| room.write(&b.bytes[..b.length]));
            if let Err(errno) = written {
                room.used = mark;
                return Err(errno);
            }
        }
        Ok(true)
    }
}

struct Out {
    to: *mut u8,
    room: usize,
    used: usize,
}

impl Out {
    fn write(&mut self, bytes: &[u8]) -> Result<(), i32> {
        if self.room - self.used < bytes.len() {
            return Err(E2BIG);
        }
        for (at, &byte) in bytes.iter().enumerate() {
            // SAFETY: inside the caller's buffer, as just checked.
            unsafe { *self.to.add(self.used + at) = byte };
        }
        self.used += bytes.len();
        Ok(())
    }
}

/// A name as iconv_open takes it: the set, and what follows its slashes.
fn split(name: &CStr) -> (String, String) {
    let text: String = name.to_bytes().iter().map(|c| c.to_ascii_uppercase() as char).collect();
    match text.split_once("//") {
        Some((set, rest)) => (set.into(), rest.into()),
        None => (text.trim_end_matches('/').into(), String::new()),
    }
}

abi! { EXPORTS "libc.so.6":
    /// iconv_open(3).
    "GLIBC_2.2.5" fn iconv_open(to: *const c_char, from: *const c_char) -> *mut c_void {
        let (to, options) = split(CStr::from_ptr(to));
        let (from, _) = split(CStr::from_ptr(from));
        let (Some(to), Some(from)) = (Charset::by_name(&to), Charset::by_name(&from)) else {
            errno::set(Errno(EINVAL));
            return core::ptr::without_provenance_mut(usize::MAX);
        };
        let option = |name: &str| options.split(['/', ',']).any(|given| given == name);
        let mut conversion = Box::new(Conversion {
            from,
            to,
            transliterate: option("TRANSLIT"),
            ignore: option("IGNORE"),
            order: Order::Little,
            fresh_in: true,
            mark_out: false,
        });
        conversion.reset();
        Box::into_raw(conversion).cast()
    }
    /// iconv_close(3).
    "GLIBC_2.2.5" fn iconv_close(handle: *mut c_void) -> c_int {
        if handle as usize == usize::MAX {
            errno::set(Errno(9));
            return -1;
        }
        drop(Box::from_raw(handle.cast::<Conversion>()));
        0
    }
    /// iconv(3).
    "GLIBC_2.2.5" fn iconv(
        handle: *mut c_void, from: *mut *mut c_char, from_left: *mut usize, to: *mut *mut c_char,
        to_left: *mut usize,
    ) -> usize {
        if handle as usize == usize::MAX {
            errno::set(Errno(9));
            return usize::MAX;
        }
        let conversion = &mut *handle.cast::<Conversion>();
        if from.is_null() || (*from).is_null() {
            // None of our encodings ends in a shift sequence.
            conversion.reset();
            return 0;
        }
        let no_room = to.is_null() || (*to).is_null();
        let mut out = Out {
            to: if no_room { null_mut() } else { (*to).cast() },
            room: if no_room { 0 } else { *to_left },
            used: 0,
        };
        let bytes = core::slice::from_raw_parts((*from).cast::<u8>().cast_const(), *from_left);
        let (mut at, mut replaced, mut skipped) = (0, 0, false);
        let mut failure = None;
        while failure.is_none() && at < bytes.len() {
            match conversion.mark(&bytes[at..]) {
                Some(0) => {}
                Some(size) => {
                    at += size;
                    continue;
                }
                None => {
                    failure = Some(EINVAL);
                    break;
                }
            }
            let (c, used) = match conversion.from.decode(&bytes[at..], conversion.order) {
                Ok(decoded) => decoded,
                Err(EILSEQ) if conversion.ignore => {
                    let width = match conversion.from {
                        Charset::Utf16(_) | Charset::Ucs2(_) => 2,
                        Charset::Utf32(_) | Charset::Ucs4(_) => 4,
                        _ => 1,
                    };
                    skipped = true;
                    at += width;
                    continue;
                }
                Err(errno) => {
                    failure = Some(errno);
                    break;
                }
            };
            if conversion.mark_out {
                let mark: &[u8] =
                    if matches!(conversion.to, Charset::Utf16(_)) { &[0xff, 0xfe] } else { &[0xff, 0xfe, 0, 0] };
                if let Err(errno) = out.write(mark) {
                    failure = Some(errno);
                    break;
                }
                conversion.mark_out = false;
            }
            match conversion.encoded(c, &mut out) {
                Ok(transliterated) => replaced += transliterated as usize,
                Err(EILSEQ) if conversion.ignore => skipped = true,
                Err(errno) => {
                    failure = Some(errno);
                    break;
                }
            }
            at += used;
        }
        *from = (*from).add(at);
        *from_left -= at;
        if !no_room {
            *to = (*to).add(out.used);
            *to_left -= out.used;
        }
        if skipped && !conversion.transliterate && failure.is_none() {
            failure = Some(EILSEQ);
        }
        match failure {
            Some(errno) => {
                errno::set(Errno(errno));
                usize::MAX
            }
            None => replaced,
        }
    }
}
