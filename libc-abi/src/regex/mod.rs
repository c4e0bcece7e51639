//! <regex.h>: regcomp(3) and its family, and GNU's `re_search` interface.
//!
//! `parse` makes a tree, `matcher` runs it; here are the C structures. `regex_t` has glibc's 64
//! bytes; its `buffer` points at our compiled pattern, which programs do not look into.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

mod matcher;
mod parse;

use crate::data::DataCell;
use crate::locale::is_utf8;
use crate::malloc;
use crate::multibyte::{self, MbState, Step};
use crate::strerror::fill;
use crate::types::*;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use matcher::{Groups, Options, Program, Search, Text};
use parse::{Error, Rules};

const REG_EXTENDED: c_int = 1;
const REG_ICASE: c_int = 2;
const REG_NEWLINE: c_int = 4;
const REG_NOSUB: c_int = 8;
const REG_NOTBOL: c_int = 1;
const REG_NOTEOL: c_int = 2;
const REG_STARTEND: c_int = 4;

/// `regex_t`, `struct re_pattern_buffer`
#[repr(C)]
pub struct Regex {
    buffer: *mut Program,
    allocated: usize,
    used: usize,
    syntax: c_ulong,
    fastmap: *mut c_char,
    translate: *const u8,
    groups: usize,
    /// can_be_null 0-1, regs_allocated 2-3, fastmap_accurate 4, no_sub 5, not_bol 6, not_eol 7,
    /// newline_anchor 8.
    bits: c_uint,
}

const REGS: c_uint = 3 << 2;
const REGS_REALLOCATE: c_uint = 1 << 2;
const REGS_FIXED: c_uint = 2 << 2;
const NO_SUB: c_uint = 1 << 5;
const NOT_BOL: c_uint = 1 << 6;
const NOT_EOL: c_uint = 1 << 7;
const NEWLINE_ANCHOR: c_uint = 1 << 8;

/// `regmatch_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Match {
    start: c_int,
    end: c_int,
}

/// `struct re_registers`
#[repr(C)]
pub struct Registers {
    count: c_uint,
    start: *mut c_int,
    end: *mut c_int,
}

/// `re_syntax_options`
pub static SYNTAX: DataCell<c_ulong> = DataCell::new(0);

static MESSAGES: [&CStr; 17] = [
    c"Success",
    c"No match",
    c"Invalid regular expression",
    c"Invalid collation character",
    c"Invalid character class name",
    c"Trailing backslash",
    c"Invalid back reference",
    c"Unmatched [, [^, [:, [., or [=",
    c"Unmatched ( or \\(",
    c"Unmatched \\{",
    c"Invalid content of \\{\\}",
    c"Invalid range end",
    c"Memory exhausted",
    c"Invalid preceding regular expression",
    c"Premature end of regular expression",
    c"Regular expression too big",
    c"Unmatched ) or \\)",
];

fn compile(pattern: &[u8], syntax: u64) -> Result<Program, Error> {
    let tree = parse::parse(pattern, syntax)?;
    let rules = Rules {
        utf8: is_utf8(),
        icase: syntax & parse::ICASE != 0,
        dot_newline: syntax & parse::DOT_NEWLINE != 0,
        dot_null: syntax & parse::DOT_NOT_NULL == 0,
    };
    Program::new(tree, rules).ok_or(Error::Space)
}

fn characters(bytes: &[u8]) -> Text {
    let utf8 = is_utf8();
    let mut text =
        Text { chars: Vec::with_capacity(bytes.len()), offsets: Vec::with_capacity(bytes.len() + 1) };
    let mut at = 0;
    while at < bytes.len() {
        text.offsets.push(at);
        match multibyte::decode(&mut MbState::default(), &bytes[at..], utf8) {
            Step::Char(c, used) => {
                text.chars.push(c);
                at += used;
            }
            _ => {
                text.chars.push(0x4000_0000 | bytes[at] as u32);
                at += 1;
            }
        }
    }
    text.offsets.push(bytes.len());
    text
}

/// The first match that starts in `from..=last` (character indexes), groups if they are wanted.
fn search(
    program: &Program,
    text: &Text,
    options: Options,
    from: usize,
    last: usize,
    groups: bool,
) -> Option<Groups> {
    let search = Search { program, text, options };
    if program.needs_trying() {
        return (from..=last).find_map(|at| search.try_at(at));
    }
    let (start, end) = search.find(from, last)?;
    Some(if groups { search.dissect(start, end) } else { alloc::vec![Some((start, end))] })
}

/// Bytes as the pattern's translate table has them.
unsafe fn translated(regex: *const Regex, bytes: &[u8]) -> Vec<u8> {
    let table = (*regex).translate;
    bytes.iter().map(|&byte| if table.is_null() { byte } else { *table.add(byte as usize) }).collect()
}

unsafe fn store(registers: *mut Registers, regex: *mut Regex, groups: &Groups, text: &Text) -> bool {
    let needed = (*regex).groups + 2;
    let state = (*regex).bits & REGS;
    if state != REGS_FIXED && (state != REGS_REALLOCATE || ((*registers).count as usize) < needed) {
        let (old_start, old_end) = match state {
            REGS_REALLOCATE => ((*registers).start, (*registers).end),
            _ => (null_mut(), null_mut()),
        };
        (*registers).start = malloc::realloc(old_start.cast(), needed * 4).cast();
        (*registers).end = malloc::realloc(old_end.cast(), needed * 4).cast();
        if (*registers).start.is_null() || (*registers).end.is_null() {
            return false;
        }
        (*registers).count = needed as c_uint;
        (*regex).bits = (*regex).bits & !REGS | REGS_REALLOCATE;
    }
    for at in 0..(*registers).count as usize {
        let bounds = groups.get(at).copied().flatten();
        let (start, end) =
            bounds.map_or((-1, -1), |(s, e)| (text.offsets[s] as c_int, text.offsets[e] as c_int));
        *(*registers).start.add(at) = start;
        *(*registers).end.add(at) = end;
    }
    true
}

/// re_search(3) and re_match(3): the byte offset of the match and its length, -1 or -2.
unsafe fn gnu_search(
    regex: *mut Regex,
    string: *const c_char,
    length: c_int,
    start: c_int,
    range: c_int,
    stop: c_int,
    registers: *mut Registers,
) -> Result<(c_int, c_int), c_int> {
    if start < 0 || start > length || (*regex).buffer.is_null() {
        return Err(-1);
    }
    let stop = stop.clamp(0, length) as usize;
    let bytes = translated(regex, core::slice::from_raw_parts(string.cast(), length as usize));
    let text = characters(&bytes[..stop]);
    let bits = (*regex).bits;
    let options = Options {
        not_bol: bits & NOT_BOL != 0,
        not_eol: bits & NOT_EOL != 0,
        newline_anchor: bits & NEWLINE_ANCHOR != 0,
    };
    let index = |byte: c_int| text.offsets.partition_point(|&at| at < byte as usize);
    let end = (start as i64 + range as i64).clamp(0, length as i64) as c_int;
    let want = !registers.is_null() && bits & NO_SUB == 0;
    let program = &*(*regex).buffer;
    let found = if range >= 0 {
        let last = index(end).min(text.chars.len());
        let from = index(start);
        if from > text.chars.len() { None } else { search(program, &text, options, from, last, want) }
    } else {
        (index(end)..=index(start).min(text.chars.len()))
            .rev()
            .find_map(|at| search(program, &text, options, at, at, want))
    };
    let Some(groups) = found else { return Err(-1) };
    if want && !store(registers, regex, &groups, &text) {
        return Err(-2);
    }
    let (from, to) = groups[0].unwrap_or((0, 0));
    Ok((text.offsets[from] as c_int, (text.offsets[to] - text.offsets[from]) as c_int))
}

abi! { EXPORTS "libc.so.6":
    /// regcomp(3).
    "GLIBC_2.2.5" fn regcomp(regex: *mut Regex, pattern: *const c_char, flags: c_int) -> c_int {
        let mut syntax =
            if flags & REG_EXTENDED != 0 { parse::POSIX_EXTENDED } else { parse::POSIX_BASIC };
        if flags & REG_ICASE != 0 {
            syntax |= parse::ICASE;
        }
        if flags & REG_NEWLINE != 0 {
            syntax = syntax & !parse::DOT_NEWLINE | parse::HAT_LISTS_NOT_NEWLINE;
        }
        let mut bits = 0;
        if flags & REG_NEWLINE != 0 {
            bits |= NEWLINE_ANCHOR;
        }
        if flags & REG_NOSUB != 0 {
            bits |= NO_SUB;
        }
        let empty = Regex {
            buffer: null_mut(),
            allocated: 0,
            used: 0,
            syntax,
            fastmap: null_mut(),
            translate: core::ptr::null(),
            groups: 0,
            bits,
        };
        regex.write(empty);
        match compile(CStr::from_ptr(pattern).to_bytes(), syntax) {
            Ok(program) => {
                (*regex).groups = program.groups();
                (*regex).allocated = size_of::<Program>();
                (*regex).used = size_of::<Program>();
                (*regex).buffer = Box::into_raw(Box::new(program));
                0
            }
            // Both report as the one that POSIX has.
            Err(Error::RightParen) => Error::Paren as c_int,
            Err(error) => error as c_int,
        }
    }
    /// regexec(3).
    "GLIBC_2.3.4" fn regexec(
        regex: *const Regex, string: *const c_char, count: usize, matches: *mut Match, flags: c_int,
    ) -> c_int {
        if flags & !(REG_NOTBOL | REG_NOTEOL | REG_STARTEND) != 0 {
            return Error::BadPattern as c_int;
        }
        let (start, end) = if flags & REG_STARTEND != 0 {
            ((*matches).start as usize, (*matches).end as usize)
        } else {
            (0, crate::string::strlen(string))
        };
        // glibc counts the start of the string, not of the part, for anchors.
        let bytes = core::slice::from_raw_parts(string.cast::<u8>(), end);
        let text = characters(bytes);
        let options = Options {
            not_bol: flags & REG_NOTBOL != 0,
            not_eol: flags & REG_NOTEOL != 0,
            newline_anchor: (*regex).bits & NEWLINE_ANCHOR != 0,
        };
        let wanted = if (*regex).bits & NO_SUB != 0 { 0 } else { count };
        let from = text.offsets.partition_point(|&at| at < start);
        let Some(groups) =
            search(&*(*regex).buffer, &text, options, from, text.chars.len(), wanted > 1)
        else {
            return Error::NoMatch as c_int;
        };
        for at in 0..wanted {
            let bounds = groups.get(at).copied().flatten();
            let offset = |index: usize| text.offsets[index] as c_int;
            *matches.add(at) = bounds
                .map_or(Match { start: -1, end: -1 }, |(s, e)| Match { start: offset(s), end: offset(e) });
        }
        0
    }
    /// regerror(3).
    "GLIBC_2.2.5" fn regerror(
        code: c_int, _regex: *const Regex, buffer: *mut c_char, size: usize,
    ) -> usize {
        match usize::try_from(code).ok().and_then(|code| MESSAGES.get(code)) {
            Some(message) => fill(buffer, size, message.as_ptr()) + 1,
            // The program is broken; so says glibc.
            None => crate::fortify::die("regerror: no such error code\n"),
        }
    }
    /// regfree(3).
    "GLIBC_2.2.5" fn regfree(regex: *mut Regex) {
        if !(*regex).buffer.is_null() {
            drop(Box::from_raw((*regex).buffer));
        }
        (*regex).buffer = null_mut();
        (*regex).allocated = 0;
        malloc::free((*regex).fastmap.cast());
        (*regex).fastmap = null_mut();
        malloc::free((*regex).translate.cast_mut().cast());
        (*regex).translate = core::ptr::null();
    }
    /// re_set_syntax (GNU): the syntax of the next re_compile_pattern; answers the old one.
    "GLIBC_2.2.5" fn re_set_syntax(syntax: c_ulong) -> c_ulong {
        core::mem::replace(&mut *SYNTAX.get(), syntax)
    }
    /// re_compile_pattern (GNU): null, or a message.
    "GLIBC_2.2.5" fn re_compile_pattern(
        pattern: *const c_char, length: usize, regex: *mut Regex,
    ) -> *const c_char {
        let syntax = *SYNTAX.get();
        let bytes = translated(regex, core::slice::from_raw_parts(pattern.cast(), length));
        match compile(&bytes, syntax) {
            Ok(program) => {
                if !(*regex).buffer.is_null() && (*regex).used == size_of::<Program>() {
                    drop(Box::from_raw((*regex).buffer));
                }
                (*regex).syntax = syntax;
                (*regex).groups = program.groups();
                (*regex).allocated = size_of::<Program>();
                (*regex).used = size_of::<Program>();
                (*regex).buffer = Box::into_raw(Box::new(program));
                // As glibc: newlines are anchors in this interface.
                (*regex).bits = (*regex).bits & !NO_SUB | NEWLINE_ANCHOR;
                if syntax & parse::NO_SUB != 0 {
                    (*regex).bits |= NO_SUB;
                }
                core::ptr::null()
            }
            Err(error) => MESSAGES[error as usize].as_ptr(),
        }
    }
    /// re_compile_fastmap (GNU): our programs need none; the map is filled so that it never lies.
    "GLIBC_2.2.5" fn re_compile_fastmap(regex: *mut Regex) -> c_int {
        if !(*regex).fastmap.is_null() {
            crate::string::memset((*regex).fastmap.cast(), 1, 256);
        }
        0
    }
    /// re_search (GNU).
    "GLIBC_2.2.5" fn re_search(
        regex: *mut Regex, string: *const c_char, length: c_int, start: c_int, range: c_int,
        registers: *mut Registers,
    ) -> c_int {
        gnu_search(regex, string, length, start, range, length, registers).map_or_else(|e| e, |found| found.0)
    }
    /// re_match (GNU): the length of the match at `start`.
    "GLIBC_2.2.5" fn re_match(
        regex: *mut Regex, string: *const c_char, length: c_int, start: c_int, registers: *mut Registers,
    ) -> c_int {
        gnu_search(regex, string, length, start, 0, length, registers).map_or_else(|e| e, |found| found.1)
    }
    /// re_set_registers (GNU).
    "GLIBC_2.2.5" fn re_set_registers(
        regex: *mut Regex, registers: *mut Registers, count: c_uint, start: *mut c_int, end: *mut c_int,
    ) {
        (*regex).bits &= !REGS;
        if count > 0 {
            (*regex).bits |= REGS_REALLOCATE;
            registers.write(Registers { count, start, end });
        } else {
            registers.write(Registers { count: 0, start: null_mut(), end: null_mut() });
        }
    }
}

exports! { MORE "libc.so.6":
    compat "GLIBC_2.2.5" "regexec" = regexec;
    cell "GLIBC_2.2.5" "re_syntax_options" 8 = SYNTAX;
}
