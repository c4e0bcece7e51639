//! <locale.h> and <langinfo.h>: the locales C (POSIX) and C.UTF-8. Others do not exist: ENOENT.
//!
//! `locale_t` points at glibc's `struct __locale_struct` (232 bytes): libstdc++ reads the ctype
//! tables in it at 0x68, 0x70 and 0x78. What glibc keeps in the thirteen category pointers is private;
//! here each holds 0 for C or 1 for UTF-8, and only LC_CTYPE's matters: the two locales differ in the
//! character encoding alone. The names at 128 are what was asked for, as in glibc.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::ctype;
use crate::futex::Lock;
use crate::langinfo_table::{MESSAGES, MONETARY, NUMERIC, TIME};
use crate::malloc;
use crate::strerror::fail;
use crate::string::memmove;
use crate::thread;
use crate::types::*;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::{null_mut, read, write};

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;

/// Categories in the order of their numbers; 6 is LC_ALL.
const CATEGORIES: [&str; 13] = [
    "LC_CTYPE",
    "LC_NUMERIC",
    "LC_TIME",
    "LC_COLLATE",
    "LC_MONETARY",
    "LC_MESSAGES",
    "LC_ALL",
    "LC_PAPER",
    "LC_NAME",
    "LC_ADDRESS",
    "LC_TELEPHONE",
    "LC_MEASUREMENT",
    "LC_IDENTIFICATION",
];
const LC_CTYPE: usize = 0;
const LC_ALL: usize = 6;
const LC_ALL_MASK: c_int = 0x1fbf;

/// glibc's `struct __locale_struct`.
#[repr(C)]
pub struct Locale {
    /// 1 where the category is C.UTF-8, else 0. Private to libc.
    encoding: [usize; 13],
    ctype_b: *const u16,
    ctype_tolower: *const i32,
    ctype_toupper: *const i32,
    names: [*const c_char; 13],
}

const fn plain(utf8: bool) -> Locale {
    let name = if utf8 { c"C.UTF-8" } else { c"C" }.as_ptr();
    Locale {
        encoding: [utf8 as usize; 13],
        ctype_b: ctype::B.0,
        ctype_tolower: ctype::LOWER_AT_0.0,
        ctype_toupper: ctype::UPPER_AT_0.0,
        names: [name; 13],
    }
}

/// A static locale that C code only reads.
pub struct Shared(Locale);
// SAFETY: immutable; its pointers lead to immutable statics.
unsafe impl Sync for Shared {}

static C: Shared = Shared(plain(false));

/// The process's locale: what setlocale(3) sets. One word per category, so that readers on other
/// threads see a whole old or new value.
static mut GLOBAL: Locale = plain(false);
static SETTING: Lock<()> = Lock::new(());

/// `(locale_t)-1`, the global locale.
const LC_GLOBAL_LOCALE: usize = usize::MAX;

/// What a locale name means: `Some(utf8)`, or `None` for a locale that we do not have.
fn encoding_of(name: &[u8]) -> Option<bool> {
    match name {
        b"C" | b"POSIX" => return Some(false),
        _ => {}
    }
    let codeset = name.strip_prefix(b"C.")?;
    // glibc normalises the codeset: letters and digits, lower case.
    let normal: Vec<u8> =
        codeset.iter().filter(|c| c.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
    (normal == b"utf8").then_some(true)
}

/// Held over a fork.
pub(crate) fn fork_locks() -> [&'static crate::futex::RawLock; 3] {
    [SETTING.raw(), NAMES.raw(), WIDE.raw()]
}

static NAMES: Lock<Vec<&'static [u8]>> = Lock::new(Vec::new());
static WIDE: Lock<Vec<&'static [wchar_t]>> = Lock::new(Vec::new());

/// Names live for ever, once each: setlocale's answers stay valid.
fn interned(name: &[u8]) -> *const c_char {
    match name {
        b"C" | b"POSIX" => return c"C".as_ptr(),
        b"C.UTF-8" => return c"C.UTF-8".as_ptr(),
        _ => {}
    }
    let mut names = NAMES.lock();
    if let Some(known) = names.iter().find(|known| &known[..known.len() - 1] == name) {
        return known.as_ptr().cast();
    }
    let mut owned = name.to_vec();
    owned.push(0);
    let kept: &'static [u8] = owned.leak();
    names.push(kept);
    kept.as_ptr().cast()
}

/// The name that the environment gives for a category (locale(7)): LC_ALL, its own, LANG.
fn from_environment(category: usize) -> Vec<u8> {
    for variable in ["LC_ALL", CATEGORIES[category], "LANG"] {
        if let Some(value) = environment(variable.as_bytes())
            && !value.is_empty()
        {
            return value;
        }
    }
    b"C".to_vec()
}

fn environment(name: &[u8]) -> Option<Vec<u8>> {
    let mut key = name.to_vec();
    key.push(0);
    // SAFETY: a C string in, a C string or null out.
    unsafe {
        let value = crate::text_env::getenv(key.as_ptr().cast());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes().to_vec())
    }
}

/// The names that `text` asks for, for the categories of `mask`; `None` if one does not exist.
fn choose(mask: c_int, text: &[u8]) -> Option<[Option<Vec<u8>>; 13]> {
    let mut chosen: [Option<Vec<u8>>; 13] = Default::default();
    let wanted = |category: usize| category != LC_ALL && mask & (1 << category) != 0;
    if text.contains(&b';') {
        for part in text.split(|&c| c == b';') {
            let equals = part.iter().position(|&c| c == b'=')?;
            let category = CATEGORIES.iter().position(|name| name.as_bytes() == &part[..equals])?;
            if wanted(category) {
                chosen[category] = Some(part[equals + 1..].to_vec());
            }
        }
        // All must be named, as glibc requires.
        if (0..13).any(|category| wanted(category) && chosen[category].is_none()) {
            return None;
        }
    } else {
        for category in (0..13).filter(|&category| wanted(category)) {
            chosen[category] = Some(if text.is_empty() { from_environment(category) } else { text.to_vec() });
        }
    }
    chosen.iter().flatten().all(|name| encoding_of(name).is_some()).then_some(chosen)
}

unsafe fn apply(locale: *mut Locale, chosen: &[Option<Vec<u8>>; 13]) {
    for (category, name) in chosen.iter().enumerate() {
        if let Some(name) = name {
            (*locale).names[category] = interned(name);
            (*locale).encoding[category] = (encoding_of(name) == Some(true)) as usize;
        }
    }
}

/// One name if all categories agree, else `LC_CTYPE=...;LC_NUMERIC=...`.
unsafe fn composite(locale: *const Locale) -> *const c_char {
    let name = |category: usize| CStr::from_ptr((&(*locale).names)[category]).to_bytes();
    let mut others = (0..13).filter(|&category| category != LC_ALL);
    if others.all(|category| name(category) == name(LC_CTYPE)) {
        return (&(*locale).names)[LC_CTYPE];
    }
    let mut text = Vec::new();
    for category in (0..13).filter(|&category| category != LC_ALL) {
        if !text.is_empty() {
            text.push(b';');
        }
        text.extend_from_slice(CATEGORIES[category].as_bytes());
        text.push(b'=');
        text.extend_from_slice(name(category));
    }
    interned(&text)
}

/// The calling thread's locale.
#[inline]
pub fn current() -> *const Locale {
    // SAFETY: the TCB is the calling thread's.
    let own = unsafe { (*thread::current()).locale };
    if own.is_null() { &raw const GLOBAL } else { own.cast() }
}

/// Whether the calling thread's characters are UTF-8 (LC_CTYPE).
#[inline]
pub fn is_utf8() -> bool {
    // SAFETY: a locale lives at least as long as a thread uses it.
    unsafe { (&raw const (*current()).encoding[LC_CTYPE]).read_volatile() != 0 }
}

/// Whether the characters of `locale` are UTF-8.
///
/// # Safety
/// A `locale_t` that newlocale(3) or duplocale(3) gave, or LC_GLOBAL_LOCALE.
#[inline]
pub unsafe fn is_utf8_in(locale: *mut c_void) -> bool {
    resolve(locale).read().encoding[LC_CTYPE] != 0
}

unsafe fn resolve(locale: *mut c_void) -> *const Locale {
    if locale as usize == LC_GLOBAL_LOCALE { &raw const GLOBAL } else { locale.cast() }
}

/// `struct lconv` of both locales.
#[repr(C)]
pub struct Lconv {
    strings: [*const c_char; 10],
    small: [c_char; 14],
}
// SAFETY: immutable, and so is what it points at.
unsafe impl Sync for Lconv {}

static LCONV: Lconv = {
    let empty = c"".as_ptr();
    let mut strings = [empty; 10];
    strings[0] = c".".as_ptr();
    // CHAR_MAX: not available in this locale.
    Lconv { strings, small: [127; 14] }
};

/// The wide forms of LC_TIME's strings, made once: `_NL_WABDAY_1` and what follows.
unsafe fn wide_time(index: usize) -> *const c_char {
    let mut wide = WIDE.lock();
    if wide.is_empty() {
        for text in TIME.iter() {
            let mut letters: Vec<wchar_t> = text.to_bytes().iter().map(|&c| c as wchar_t).collect();
            letters.push(0);
            wide.push(letters.leak());
        }
    }
    wide[index].as_ptr().cast()
}

unsafe fn langinfo(item: c_int, utf8: bool) -> *const c_char {
    let (category, index) = ((item >> 16) as usize, (item & 0xffff) as usize);
    let text = |s: &CStr| s.as_ptr();
    let codeset = if utf8 { c"UTF-8" } else { c"ANSI_X3.4-1968" };
    match (category, index) {
        // CODESET
        (0, 14) => text(codeset),
        (1, 0..2) => text(NUMERIC[index]),
        // GROUPING: none.
        (1, 2) => text(c""),
        // _NL_NUMERIC_DECIMAL_POINT_WC and _NL_NUMERIC_THOUSANDS_SEP_WC, which are words; _NL_NUMERIC_CODESET.
        (1, 3) => core::ptr::without_provenance('.' as usize),
        (1, 4) => core::ptr::null(),
        (1, 5) => text(codeset),
        (2, 0..50) => text(TIME[index]),
        // _NL_WABDAY_1 (52) and on: the wide copies of items 0 to 49, without ERA (44).
        (2, 52..96) => wide_time(index - 52),
        (2, 96..101) => wide_time(index - 51),
        // _NL_TIME_WEEK_NDAYS 7, _1STDAY 19971130 (a word, not a pointer), _1STWEEK 4, then the first
        // week day and work day, direction of the calendar, time zone.
        (2, 101) => text(c"\x07"),
        (2, 102) => core::ptr::without_provenance(19971130),
        (2, 103) => text(c"\x04"),
        (2, 104) => text(c"\x01"),
        (2, 105) => text(c"\x02"),
        (2, 106) => text(c"\x01"),
        // _DATE_FMT
        (2, 108) => text(c"%a %b %e %H:%M:%S %Z %Y"),
        // ALTMON_1 to ALTMON_12
        (2, 111..123) => text(TIME[26 + index - 111]),
        (4, 0..16) => text(MONETARY[index]),
        (5, 0..4) => text(MESSAGES[index]),
        // NL_LOCALE_NAME(category)
        (0..13, 0xffff) => null_mut(),
        _ => text(c""),
    }
}

abi! { EXPORTS "libc.so.6":
    /// setlocale(3).
    "GLIBC_2.2.5" fn setlocale(category: c_int, name: *const c_char) -> *mut c_char {
        let Some(category) = usize::try_from(category).ok().filter(|&number| number < 13) else {
            return fail(EINVAL);
        };
        let _setting = SETTING.lock();
        let global = &raw mut GLOBAL;
        if !name.is_null() {
            let mask = if category == LC_ALL { LC_ALL_MASK } else { 1 << category };
            let text = CStr::from_ptr(name).to_bytes();
            if category != LC_ALL && text.contains(&b';') {
                return fail(ENOENT);
            }
            let Some(chosen) = choose(mask, text) else { return fail(ENOENT) };
            apply(global, &chosen);
        }
        if category == LC_ALL { composite(global).cast_mut() } else { (&(*global).names)[category].cast_mut() }
    }
    /// newlocale(3).
    "GLIBC_2.3" fn newlocale(mask: c_int, name: *const c_char, base: *mut c_void) -> *mut c_void {
        // LC_ALL itself may stand in the mask, for all of them.
        let mask = if mask == 1 << LC_ALL { LC_ALL_MASK } else { mask };
        if mask & !LC_ALL_MASK != 0 || name.is_null() {
            return fail(EINVAL);
        }
        let Some(chosen) = choose(mask, CStr::from_ptr(name).to_bytes()) else { return fail(ENOENT) };
        let on_static = base.cast_const() == (&raw const C.0).cast();
        let locale: *mut Locale = if base.is_null() || on_static {
            malloc::malloc(size_of::<Locale>()).cast()
        } else {
            base.cast()
        };
        if locale.is_null() {
            return null_mut();
        }
        if base.is_null() || on_static {
            write(locale, read(&raw const C.0));
        }
        apply(locale, &chosen);
        locale.cast()
    }
    /// duplocale(3).
    "GLIBC_2.3" fn duplocale(locale: *mut c_void) -> *mut c_void {
        let new = malloc::malloc(size_of::<Locale>());
        if !new.is_null() {
            memmove(new, resolve(locale).cast(), size_of::<Locale>());
        }
        new
    }
    /// freelocale(3).
    "GLIBC_2.3" fn freelocale(locale: *mut c_void) {
        if locale.cast_const() != (&raw const C.0).cast() {
            malloc::free(locale);
        }
    }
    /// uselocale(3).
    "GLIBC_2.3" fn uselocale(locale: *mut c_void) -> *mut c_void {
        let own = &raw mut (*thread::current()).locale;
        let old = *own;
        if !locale.is_null() {
            *own = if locale as usize == LC_GLOBAL_LOCALE { null_mut() } else { locale };
        }
        if old.is_null() { core::ptr::without_provenance_mut(LC_GLOBAL_LOCALE) } else { old }
    }
    /// localeconv(3).
    "GLIBC_2.2.5" fn localeconv() -> *mut Lconv {
        (&raw const LCONV).cast_mut()
    }
    /// nl_langinfo(3).
    "GLIBC_2.2.5" fn nl_langinfo(item: c_int) -> *mut c_char {
        nl_langinfo_l(item, current().cast_mut().cast())
    }
    /// nl_langinfo_l(3).
    "GLIBC_2.3" fn nl_langinfo_l(item: c_int, locale: *mut c_void) -> *mut c_char {
        let locale = resolve(locale);
        let category = (item >> 16) as usize;
        if item & 0xffff == 0xffff && category < 13 && category != LC_ALL {
            return (&(*locale).names)[category].cast_mut();
        }
        langinfo(item, (*locale).encoding[LC_CTYPE] != 0).cast_mut()
    }
    /// MB_CUR_MAX.
    "GLIBC_2.2.5" fn __ctype_get_mb_cur_max() -> usize {
        if is_utf8() { 6 } else { 1 }
    }
    /// rpmatch(3): does an answer match YESEXPR or NOEXPR?
    "GLIBC_2.2.5" fn rpmatch(response: *const c_char) -> c_int {
        match *response as u8 {
            b'y' | b'Y' => 1,
            b'n' | b'N' => 0,
            _ => -1,
        }
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "__newlocale" = newlocale;
    alias "GLIBC_2.2.5" "__duplocale" = duplocale;
    alias "GLIBC_2.2.5" "__freelocale" = freelocale;
    alias "GLIBC_2.3" "__uselocale" = uselocale;
    alias "GLIBC_2.2.5" "__nl_langinfo_l" = nl_langinfo_l;
}
