//! <ctype.h>: classes and case of bytes, and the tables that its macros index.
//!
//! Both of our locales class only ASCII bytes (in C.UTF-8 a byte from 0x80 on is never a character),
//! so there is one set of tables for the whole process. A table has 384 entries, for -128..=255: the
//! macros index it with any `char`, signed or not, and with EOF. The bits are glibc's `_ISbit` on a
//! little-endian machine; libstdc++ and programs test them in place.

use crate::types::*;

/// Bits of a class table entry.
pub const UPPER: u16 = 0x100;
/// Lower case.
pub const LOWER: u16 = 0x200;
/// Letter.
pub const ALPHA: u16 = 0x400;
/// Decimal digit.
pub const DIGIT: u16 = 0x800;
/// Hexadecimal digit.
pub const XDIGIT: u16 = 0x1000;
/// White space.
pub const SPACE: u16 = 0x2000;
/// Printing.
pub const PRINT: u16 = 0x4000;
/// Printing, but not space.
pub const GRAPH: u16 = 0x8000;
/// Space or tab.
pub const BLANK: u16 = 0x1;
/// Control character.
pub const CNTRL: u16 = 0x2;
/// Punctuation.
pub const PUNCT: u16 = 0x4;
/// Letter or digit.
pub const ALNUM: u16 = 0x8;

const SPAN: usize = 384;
const FIRST: usize = 128;

const fn class(c: u8) -> u16 {
    let mut bits = 0;
    if c.is_ascii_uppercase() {
        bits |= UPPER | ALPHA | ALNUM;
    }
    if c.is_ascii_lowercase() {
        bits |= LOWER | ALPHA | ALNUM;
    }
    if c.is_ascii_digit() {
        bits |= DIGIT | ALNUM;
    }
    if c.is_ascii_hexdigit() {
        bits |= XDIGIT;
    }
    if matches!(c, b' ' | 9..=13) {
        bits |= SPACE;
    }
    if matches!(c, b' ' | 9) {
        bits |= BLANK;
    }
    if c.is_ascii_graphic() {
        bits |= GRAPH | PRINT;
    }
    if c == b' ' {
        bits |= PRINT;
    }
    if c.is_ascii_control() {
        bits |= CNTRL;
    }
    if c.is_ascii_punctuation() {
        bits |= PUNCT;
    }
    bits
}

const fn classes() -> [u16; SPAN] {
    let mut table = [0; SPAN];
    let mut c = 0;
    while c < 128 {
        table[FIRST + c] = class(c as u8);
        c += 1;
    }
    table
}

const fn cases(upper: bool) -> [i32; SPAN] {
    let mut table = [0; SPAN];
    let mut i = 0;
    while i < SPAN {
        let c = i as i32 - FIRST as i32;
        // Entries below zero repeat the bytes 0x80..=0xff, but for EOF, which maps to itself.
        table[i] = if c < -1 {
            c + 256
        } else if c >= 0 && c < 128 {
            (if upper { (c as u8).to_ascii_uppercase() } else { (c as u8).to_ascii_lowercase() }) as i32
        } else {
            c
        };
        i += 1;
    }
    table
}

static CLASS: [u16; SPAN] = classes();
static TO_LOWER: [i32; SPAN] = cases(false);
static TO_UPPER: [i32; SPAN] = cases(true);

/// A pointer into a table, at the entry of character 0; what `__ctype_b_loc` points at.
#[repr(transparent)]
pub struct Table<T>(pub *const T);
// SAFETY: it points into an immutable static.
unsafe impl<T> Sync for Table<T> {}

/// The class table at character 0.
pub static B: Table<u16> = Table((&raw const CLASS).cast::<u16>().wrapping_add(FIRST));
/// The lower case table at character 0.
pub static LOWER_AT_0: Table<i32> = Table((&raw const TO_LOWER).cast::<i32>().wrapping_add(FIRST));
/// The upper case table at character 0.
pub static UPPER_AT_0: Table<i32> = Table((&raw const TO_UPPER).cast::<i32>().wrapping_add(FIRST));

#[inline(always)]
fn has(c: c_int, bits: u16) -> c_int {
    let entry = (c as isize + FIRST as isize) as usize;
    // Out of the table's range is undefined in C; here it is no class.
    CLASS.get(entry).map_or(0, |class| (class & bits) as c_int)
}

#[inline(always)]
fn case(table: &[i32; SPAN], c: c_int) -> c_int {
    // glibc: an argument outside -128..256 comes back unchanged.
    *table.get((c as isize + FIRST as isize) as usize).unwrap_or(&c)
}

macro_rules! classes {
    ($($name:ident $name_l:ident $bits:ident $doc:literal;)*) => {
        abi! { EXPORTS "libc.so.6":
            $(
                #[doc = $doc]
                "GLIBC_2.2.5" fn $name(c: c_int) -> c_int { has(c, $bits) }
            )*
        }
        abi! { EXPORTS_L "libc.so.6":
            $(
                #[doc = $doc]
                "GLIBC_2.3" fn $name_l(c: c_int, _locale: *mut c_void) -> c_int { has(c, $bits) }
            )*
        }
    };
}

classes! {
    isalnum isalnum_l ALNUM "isalnum(3).";
    isalpha isalpha_l ALPHA "isalpha(3).";
    isblank isblank_l BLANK "isblank(3).";
    iscntrl iscntrl_l CNTRL "iscntrl(3).";
    isdigit isdigit_l DIGIT "isdigit(3).";
    isgraph isgraph_l GRAPH "isgraph(3).";
    islower islower_l LOWER "islower(3).";
    isprint isprint_l PRINT "isprint(3).";
    ispunct ispunct_l PUNCT "ispunct(3).";
    isspace isspace_l SPACE "isspace(3).";
    isupper isupper_l UPPER "isupper(3).";
    isxdigit isxdigit_l XDIGIT "isxdigit(3).";
}

abi! { MORE "libc.so.6":
    /// tolower(3).
    "GLIBC_2.2.5" fn tolower(c: c_int) -> c_int {
        case(&TO_LOWER, c)
    }
    /// toupper(3).
    "GLIBC_2.2.5" fn toupper(c: c_int) -> c_int {
        case(&TO_UPPER, c)
    }
    /// tolower_l(3).
    "GLIBC_2.3" fn tolower_l(c: c_int, _locale: *mut c_void) -> c_int {
        case(&TO_LOWER, c)
    }
    /// toupper_l(3).
    "GLIBC_2.3" fn toupper_l(c: c_int, _locale: *mut c_void) -> c_int {
        case(&TO_UPPER, c)
    }
    /// isascii(3).
    "GLIBC_2.2.5" fn isascii(c: c_int) -> c_int {
        (c & !0x7f == 0) as c_int
    }
    /// toascii(3).
    "GLIBC_2.2.5" fn toascii(c: c_int) -> c_int {
        c & 0x7f
    }
    /// Where the thread's class table pointer is (LSB: __ctype_b_loc).
    "GLIBC_2.3" fn __ctype_b_loc() -> *const *const u16 {
        &raw const B.0
    }
    /// Where the thread's lower case table pointer is.
    "GLIBC_2.3" fn __ctype_tolower_loc() -> *const *const i32 {
        &raw const LOWER_AT_0.0
    }
    /// Where the thread's upper case table pointer is.
    "GLIBC_2.3" fn __ctype_toupper_loc() -> *const *const i32 {
        &raw const UPPER_AT_0.0
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "_tolower" = tolower;
    alias "GLIBC_2.2.5" "_toupper" = toupper;
    alias "GLIBC_2.2.5" "__tolower_l" = tolower_l;
    alias "GLIBC_2.2.5" "__toupper_l" = toupper_l;
}
