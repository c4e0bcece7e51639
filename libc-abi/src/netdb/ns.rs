//! arpa/nameser.h: reading and writing DNS messages by hand (ns_initparse, ns_parserr, dn_expand, ...).

use super::inet::bytes;
use super::wire;
use crate::errno;
use crate::types::{c_char, c_int, c_uint, c_ulong};
use alloc::vec::Vec;
use core::ptr::null;
use platform::Errno;

const SECTIONS: usize = 4;
const MAX_DNAME: usize = 1025;

/// `ns_msg`: 80 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ns_msg {
    msg: *const u8,
    eom: *const u8,
    id: u16,
    flags: u16,
    counts: [u16; SECTIONS],
    sections: [*const u8; SECTIONS],
    sect: c_int,
    rrnum: c_int,
    msg_ptr: *const u8,
}

/// `ns_rr`: 1048 bytes.
#[repr(C)]
pub struct ns_rr {
    name: [u8; MAX_DNAME],
    kind: u16,
    rr_class: u16,
    ttl: u32,
    rdlength: u16,
    rdata: *const u8,
}

const _: () = assert!(size_of::<ns_msg>() == 80 && size_of::<ns_rr>() == 1048);

/// No section is current (ns_s_max).
const NO_SECTION: c_int = SECTIONS as c_int;

fn too_short() -> c_int {
    errno::set(Errno::EMSGSIZE);
    -1
}

/// Bytes between two pointers of one message; `None` if they are the wrong way round.
unsafe fn between<'a>(start: *const u8, end: *const u8) -> Option<&'a [u8]> {
    let len = (end as usize).checked_sub(start as usize)?;
    // SAFETY: the caller's message from `start` to `end`.
    Some(unsafe { core::slice::from_raw_parts(start, len) })
}

/// Bytes that `count` records (or questions, in section 0) take.
fn skip_records(message: &[u8], at: usize, question: bool, count: usize) -> Option<usize> {
    (0..count).try_fold(at, |at, _| {
        let at = wire::skip_name(message, at)?;
        let end = if question { at + 4 } else { at + 10 + wire::u16_at(message, at + 8)? as usize };
        (end <= message.len()).then_some(end)
    })
}

abi! { EXPORTS "libresolv.so.2":
    /// ns_initparse(3): finds the sections of a message.
    "GLIBC_2.9" fn ns_initparse(start: *const u8, len: c_int, handle: *mut ns_msg) -> c_int {
        // SAFETY: the caller's message of `len` bytes, and its handle.
        unsafe {
            let message = core::slice::from_raw_parts(start, len.max(0) as usize);
            if message.len() < wire::HEADER {
                return too_short();
            }
            let word = |at| wire::u16_at(message, at).unwrap_or(0);
            let counts = [word(4), word(6), word(8), word(10)];
            let mut sections = [null(); SECTIONS];
            let mut at = wire::HEADER;
            for (i, &count) in counts.iter().enumerate().filter(|(_, count)| **count != 0) {
                sections[i] = start.add(at);
                match skip_records(message, at, i == 0, count as usize) {
                    Some(next) => at = next,
                    None => return too_short(),
                }
            }
            if at != message.len() {
                return too_short();
            }
            handle.write(ns_msg {
                msg: start, eom: start.add(message.len()), id: word(0), flags: word(2), counts, sections,
                sect: NO_SECTION, rrnum: -1, msg_ptr: null(),
            });
            0
        }
    }
    /// ns_parserr(3): a record of a section; -1 for the one behind the last.
    "GLIBC_2.9" fn ns_parserr(handle: *mut ns_msg, section: c_int, number: c_int, out: *mut ns_rr) -> c_int {
        // SAFETY: a handle that ns_initparse filled, and the caller's record.
        unsafe { parse_record(&mut *handle, section, number, &mut *out) }
    }
    /// ns_skiprr(3): bytes that `count` records take.
    "GLIBC_2.9" fn ns_skiprr(start: *const u8, eom: *const u8, section: c_int, count: c_int) -> c_int {
        // SAFETY: the caller's message.
        let message = unsafe { between(start, eom) };
        match message.and_then(|m| skip_records(m, 0, section == 0, count.max(0) as usize)) {
            Some(len) => len as c_int,
            None => too_short(),
        }
    }
    /// ns_msg_getflag(3): the struct comes by value. Flags as masks and shifts of the second word.
    "GLIBC_2.9" fn ns_msg_getflag(handle: ns_msg, flag: c_int) -> c_int {
        const FLAGS: [(u16, u16); 10] = [
            (0x8000, 15), (0x7800, 11), (0x0400, 10), (0x0200, 9), (0x0100, 8), (0x0080, 7), (0x0040, 6),
            (0x0020, 5), (0x0010, 4), (0x000f, 0),
        ];
        FLAGS.get(flag as usize).map_or(0, |&(mask, shift)| ((handle.flags & mask) >> shift) as c_int)
    }
    /// Two bytes in network order.
    "GLIBC_2.9" fn ns_get16(from: *const u8) -> c_uint {
        // SAFETY: the caller's two bytes.
        unsafe { u16::from_be_bytes(from.cast::<[u8; 2]>().read()) as c_uint }
    }
    /// Four bytes in network order.
    "GLIBC_2.9" fn ns_get32(from: *const u8) -> c_ulong {
        // SAFETY: the caller's four bytes.
        unsafe { u32::from_be_bytes(from.cast::<[u8; 4]>().read()) as c_ulong }
    }
    /// Two bytes in network order.
    "GLIBC_2.9" fn ns_put16(value: c_uint, to: *mut u8) {
        // SAFETY: the caller's two bytes.
        unsafe { to.cast::<[u8; 2]>().write((value as u16).to_be_bytes()) }
    }
    /// Four bytes in network order.
    "GLIBC_2.9" fn ns_put32(value: c_ulong, to: *mut u8) {
        // SAFETY: the caller's four bytes.
        unsafe { to.cast::<[u8; 4]>().write((value as u32).to_be_bytes()) }
    }
    /// Whether two names are the same, in any case and with or without a dot at the end: 1, 0, -1.
    "GLIBC_2.9" fn ns_samename(a: *const c_char, b: *const c_char) -> c_int {
        // SAFETY: the caller's strings.
        match unsafe { (wire::from_text(bytes(a)), wire::from_text(bytes(b))) } {
            (Some((a, _)), Some((b, _))) => wire::same_name(&a, &b).into(),
            _ => too_short(),
        }
    }
}

abi! { NAMES "libc.so.6":
    /// A compressed name as text.
    "GLIBC_2.34" fn ns_name_uncompress(
        start: *const u8, eom: *const u8, from: *const u8, to: *mut c_char, size: usize,
    ) -> c_int {
        // SAFETY: the caller's message and buffer.
        unsafe { uncompress(start, eom, from, to, size, false) }
    }
    /// A compressed name in wire form.
    "GLIBC_2.34" fn ns_name_unpack(
        start: *const u8, eom: *const u8, from: *const u8, to: *mut u8, size: usize,
    ) -> c_int {
        // SAFETY: the caller's message and buffer.
        unsafe {
            let Some((name, used)) = unpacked(start, eom, from) else { return too_short() };
            if name.len() > size {
                return too_short();
            }
            core::ptr::copy_nonoverlapping(name.as_ptr(), to, name.len());
            used
        }
    }
    /// A name in wire form as text.
    "GLIBC_2.34" fn ns_name_ntop(from: *const u8, to: *mut c_char, size: usize) -> c_int {
        // SAFETY: a whole name of the caller's, and its buffer.
        unsafe {
            let mut len = 0;
            while *from.add(len) != 0 && len <= wire::MAX_NAME {
                len += 1 + *from.add(len) as usize;
            }
            let text = wire::to_text(core::slice::from_raw_parts(from, len + 1));
            match text {
                Some(text) if text.len() < size => {
                    store(&text, to);
                    text.len() as c_int + 1
                }
                _ => too_short(),
            }
        }
    }
    /// Text as a name in wire form: 1 if it ended with a dot.
    "GLIBC_2.34" fn ns_name_pton(from: *const c_char, to: *mut u8, size: usize) -> c_int {
        // SAFETY: the caller's string and buffer.
        unsafe {
            match wire::from_text(bytes(from)) {
                Some((name, dotted)) if name.len() <= size => {
                    core::ptr::copy_nonoverlapping(name.as_ptr(), to, name.len());
                    dotted.into()
                }
                _ => too_short(),
            }
        }
    }
    /// A wire name into a message, compressed against the names that the list knows.
    "GLIBC_2.34" fn ns_name_pack(
        from: *const u8, to: *mut u8, size: c_int, known: *mut *const u8, last: *mut *const u8,
    ) -> c_int {
        // SAFETY: a whole name of the caller's; its buffer and list.
        unsafe {
            let mut len = 0;
            while *from.add(len) != 0 && len <= wire::MAX_NAME {
                len += 1 + *from.add(len) as usize;
            }
            pack(core::slice::from_raw_parts(from, len + 1), to, size, known, last)
        }
    }
    /// Text into a message as a compressed name.
    "GLIBC_2.34" fn ns_name_compress(
        from: *const c_char, to: *mut u8, size: usize, known: *mut *const u8, last: *mut *const u8,
    ) -> c_int {
        // SAFETY: the caller's string, buffer and list.
        unsafe {
            match wire::from_text(bytes(from)) {
                Some((name, _)) => pack(&name, to, size.min(c_int::MAX as usize) as c_int, known, last),
                None => too_short(),
            }
        }
    }
    /// Moves a pointer behind a compressed name.
    "GLIBC_2.34" fn ns_name_skip(at: *mut *const u8, eom: *const u8) -> c_int {
        // SAFETY: the caller's pointer into its message.
        unsafe {
            match between(*at, eom).and_then(|rest| wire::skip_name(rest, 0)) {
                Some(len) => {
                    *at = (*at).add(len);
                    0
                }
                None => too_short(),
            }
        }
    }
    /// dn_expand(3): the root is the empty string.
    "GLIBC_2.34" fn dn_expand(
        start: *const u8, eom: *const u8, from: *const u8, to: *mut c_char, size: c_int,
    ) -> c_int {
        // SAFETY: the caller's message and buffer.
        unsafe { uncompress(start, eom, from, to, size.max(0) as usize, true) }
    }
    /// dn_comp(3).
    "GLIBC_2.34" fn dn_comp(
        from: *const c_char, to: *mut u8, size: c_int, known: *mut *const u8, last: *mut *const u8,
    ) -> c_int {
        // SAFETY: the caller's string, buffer and list.
        unsafe { ns_name_compress(from, to, size.max(0) as usize, known, last) }
    }
    /// dn_skipname(3).
    "GLIBC_2.34" fn dn_skipname(at: *const u8, eom: *const u8) -> c_int {
        // SAFETY: the caller's message.
        match unsafe { between(at, eom) }.and_then(|rest| wire::skip_name(rest, 0)) {
            Some(len) => len as c_int,
            None => too_short(),
        }
    }
}

exports! { OLD "libc.so.6":
    compat "GLIBC_2.9" "ns_name_uncompress" = ns_name_uncompress;
    compat "GLIBC_2.9" "ns_name_unpack" = ns_name_unpack;
    compat "GLIBC_2.9" "ns_name_ntop" = ns_name_ntop;
    compat "GLIBC_2.9" "ns_name_pton" = ns_name_pton;
    compat "GLIBC_2.9" "ns_name_pack" = ns_name_pack;
    compat "GLIBC_2.9" "ns_name_compress" = ns_name_compress;
    compat "GLIBC_2.9" "ns_name_skip" = ns_name_skip;
    compat "GLIBC_2.2.5" "__dn_expand" = dn_expand;
    compat "GLIBC_2.2.5" "__dn_comp" = dn_comp;
    compat "GLIBC_2.2.5" "__dn_skipname" = dn_skipname;
}

fn parse_record(handle: &mut ns_msg, section: c_int, number: c_int, out: &mut ns_rr) -> c_int {
    let Some(&count) = usize::try_from(section).ok().and_then(|s| handle.counts.get(s)) else {
        errno::set(Errno::ENODEV);
        return -1;
    };
    // -1 asks for the next one.
    let number = if number == -1 { if handle.sect == section { handle.rrnum } else { 0 } } else { number };
    if number < 0 || number >= count as c_int {
        errno::set(Errno::ENODEV);
        return -1;
    }
    // SAFETY: the message that ns_initparse was given.
    let Some(message) = (unsafe { between(handle.msg, handle.eom) }) else { return too_short() };
    let start = handle.sections[section as usize] as usize - handle.msg as usize;
    let here = handle.sect == section && handle.rrnum <= number && !handle.msg_ptr.is_null();
    let (from, first) =
        if here { (handle.msg_ptr as usize - handle.msg as usize, handle.rrnum) } else { (start, 0) };
    let question = section == 0;
    let read = || {
        let at = skip_records(message, from, question, (number - first) as usize)?;
        let (name, at) = wire::unpack(message, at)?;
        let text = wire::to_text(&name)?;
        let fixed = (text, wire::u16_at(message, at)?, wire::u16_at(message, at + 2)?);
        if question {
            return Some((fixed, 0, at + 4, 0));
        }
        let len = wire::u16_at(message, at + 8)? as usize;
        message.get(at + 10..at + 10 + len)?;
        Some((fixed, wire::u32_at(message, at + 4)?, at + 10, len))
    };
    let Some(((text, kind, class), ttl, data, len)) = read() else { return too_short() };
    // The root is ".", everything else has no dot at its end; "" never occurs.
    let shown = text.len().min(MAX_DNAME - 1);
    out.name[..shown].copy_from_slice(&text[..shown]);
    out.name[shown] = 0;
    (out.kind, out.rr_class, out.ttl, out.rdlength) = (kind, class, ttl, len as u16);
    out.rdata = if question { null() } else { handle.msg.wrapping_add(data) };
    handle.sect = section;
    handle.rrnum = number + 1;
    handle.msg_ptr = handle.msg.wrapping_add(data + len);
    0
}

/// A name at `from` of a message, and how many bytes it takes there.
unsafe fn unpacked(start: *const u8, eom: *const u8, from: *const u8) -> Option<(Vec<u8>, c_int)> {
    // SAFETY: the caller's message.
    let message = unsafe { between(start, eom) }?;
    let at = (from as usize).checked_sub(start as usize)?;
    let (name, next) = wire::unpack(message, at)?;
    Some((name, (next - at) as c_int))
}

unsafe fn uncompress(
    start: *const u8,
    eom: *const u8,
    from: *const u8,
    to: *mut c_char,
    size: usize,
    empty_root: bool,
) -> c_int {
    // SAFETY: the caller's message and buffer.
    unsafe {
        let Some((name, used)) = unpacked(start, eom, from) else { return too_short() };
        let Some(mut text) = wire::to_text(&name) else { return too_short() };
        if empty_root && text == b"." {
            text.clear();
        }
        if text.len() >= size {
            return too_short();
        }
        store(&text, to);
        used
    }
}

unsafe fn store(text: &[u8], to: *mut c_char) {
    // SAFETY: callers checked the room.
    unsafe {
        core::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len());
        to.add(text.len()).write(0);
    }
}

/// Writes a wire name at `to`. `known`: null, or a list that starts with the message and then has the
/// places of names in it, null-terminated; it ends before `last`. New names join the list.
unsafe fn pack(name: &[u8], to: *mut u8, size: c_int, known: *mut *const u8, last: *mut *const u8) -> c_int {
    let mut out: Vec<u8> = Vec::with_capacity(name.len());
    let mut at = 0;
    // SAFETY: the caller's list of pointers into the message that ends at `to`.
    let (message, mut places) = unsafe {
        if known.is_null() || (*known).is_null() {
            (null(), Vec::new())
        } else {
            (*known, list(known.add(1)))
        }
    };
    while name[at] != 0 {
        let target = places.iter().find(|&&place| {
            // SAFETY: the message from its start to where this name goes.
            let written = unsafe { between(message, to) }.unwrap_or(&[]);
            let offset = place as usize - message as usize;
            wire::unpack(written, offset).is_some_and(|(known, _)| wire::same_name(&known, &name[at..]))
        });
        if let Some(&place) = target {
            let offset = place as usize - message as usize;
            out.extend_from_slice(&(0xc000 | offset as u16).to_be_bytes());
            return finish(&out, to, size);
        }
        let place = to.wrapping_add(out.len()).cast_const();
        // A pointer has 14 bits.
        if !message.is_null() && (place as usize - message as usize) < 0x4000 && !last.is_null() {
            // SAFETY: the list has room before `last`.
            unsafe { append(known, last, place) };
        }
        let len = 1 + name[at] as usize;
        out.extend_from_slice(&name[at..at + len]);
        at += len;
    }
    places.clear();
    out.push(0);
    finish(&out, to, size)
}

fn finish(out: &[u8], to: *mut u8, size: c_int) -> c_int {
    if out.len() > size.max(0) as usize {
        return too_short();
    }
    // SAFETY: the caller's buffer of `size` bytes.
    unsafe { core::ptr::copy_nonoverlapping(out.as_ptr(), to, out.len()) };
    out.len() as c_int
}

unsafe fn list(mut at: *mut *const u8) -> Vec<*const u8> {
    let mut places = Vec::new();
    // SAFETY: null-terminated.
    unsafe {
        while !(*at).is_null() {
            places.push(*at);
            at = at.add(1);
        }
    }
    places
}

unsafe fn append(known: *mut *const u8, last: *mut *const u8, place: *const u8) {
    // SAFETY: as the caller of `pack` promised.
    unsafe {
        let mut at = known;
        while !(*at).is_null() {
            at = at.add(1);
        }
        if at.add(1) < last {
            *at = place;
            *at.add(1) = null();
        }
    }
}
