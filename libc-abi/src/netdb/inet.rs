//! Addresses as text and back: inet_pton(3), inet_ntop(3), inet_aton(3) and the older ones of
//! arpa/inet.h; byte order.

use super::pack::Slot;
use super::{AF_INET, AF_INET6};
use crate::errno;
use crate::types::{c_char, c_int, c_void, size_t, socklen_t};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt::Write;
use platform::Errno;

/// Dotted quad, each part one to three decimal digits up to 255, without leading zeros: inet_pton's
/// strict form.
pub fn parse_v4(text: &[u8]) -> Option<[u8; 4]> {
    let mut address = [0u8; 4];
    let mut parts = text.split(|&b| b == b'.');
    for byte in &mut address {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 3 || (part.len() > 1 && part[0] == b'0') {
            return None;
        }
        *byte = super::files::number(part).filter(|&n| n <= 255)? as u8;
    }
    parts.next().is_none().then_some(address)
}

/// RFC 4291 section 2.2: groups of hex, one `::`, a dotted quad at the end.
pub fn parse_v6(text: &[u8]) -> Option<[u8; 16]> {
    let mut groups: Vec<u16> = Vec::with_capacity(8);
    let mut gap = None;
    let mut rest = text;
    if let Some(after) = rest.strip_prefix(b"::") {
        gap = Some(0);
        rest = after;
    } else if rest.first() == Some(&b':') {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == b':').unwrap_or(rest.len());
        let part = &rest[..end];
        if part.contains(&b'.') {
            let quad = parse_v4(part).filter(|_| end == rest.len() && groups.len() <= 6)?;
            groups.extend([u16::from_be_bytes([quad[0], quad[1]]), u16::from_be_bytes([quad[2], quad[3]])]);
            break;
        }
        groups.push(hex_group(part).filter(|_| groups.len() < 8)?);
        rest = &rest[end..];
        if let Some(after) = rest.strip_prefix(b"::") {
            if gap.replace(groups.len()).is_some() {
                return None;
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b":") {
            if after.is_empty() {
                return None;
            }
            rest = after;
        }
    }
    let mut all = [0u16; 8];
    match gap {
        None if groups.len() == 8 => all.copy_from_slice(&groups),
        Some(gap) if groups.len() < 8 => {
            let tail = groups.len() - gap;
            all[..gap].copy_from_slice(&groups[..gap]);
            all[8 - tail..].copy_from_slice(&groups[gap..]);
        }
        _ => return None,
    }
    let mut address = [0u8; 16];
    for (i, group) in all.iter().enumerate() {
        address[i * 2..i * 2 + 2].copy_from_slice(&group.to_be_bytes());
    }
    Some(address)
}

fn hex_group(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 4 {
        return None;
    }
    text.iter().try_fold(0u16, |n, &b| Some(n << 4 | (b as char).to_digit(16)? as u16))
}

/// inet_aton(3)'s forms: one to four parts, each decimal, octal (0) or hex (0x), the last filling the
/// rest of the address. Answers the address and what follows it.
pub fn parse_aton(text: &[u8]) -> Option<([u8; 4], &[u8])> {
    let mut parts = [0u32; 4];
    let mut count = 0;
    let mut rest = text;
    loop {
        let (value, after) = c_number(rest)?;
        parts[count] = value;
        count += 1;
        rest = after;
        match rest.first() {
            Some(b'.') if count < 4 && value <= 255 => rest = &rest[1..],
            _ => break,
        }
    }
    let (last, before) = (parts[count - 1], &parts[..count - 1]);
    if last as u64 > 0xffff_ffff_u64 >> (8 * before.len()) {
        return None;
    }
    let high = before.iter().enumerate().fold(0u32, |n, (i, part)| n | part << (24 - 8 * i));
    Some(((high | last).to_be_bytes(), rest))
}

/// A number as strtoul with base 0 reads it, but without sign or blanks before it.
fn c_number(text: &[u8]) -> Option<(u32, &[u8])> {
    let hex = text.len() > 2 && text[0] == b'0' && text[1] | 0x20 == b'x' && text[2].is_ascii_hexdigit();
    let (base, digits) = match text {
        _ if hex => (16, &text[2..]),
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    let len = digits.iter().take_while(|&&b| (b as char).is_digit(base)).count();
    if len == 0 {
        return None;
    }
    let value = digits[..len]
        .iter()
        .try_fold(0u32, |n, &b| n.checked_mul(base)?.checked_add((b as char).to_digit(base)?))?;
    Some((value, &digits[len..]))
}

/// An address as text, at most 46 bytes with its NUL.
pub struct AddressText {
    bytes: [u8; 46],
    len: usize,
}

impl AddressText {
    /// The text without NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new() -> Self {
        Self { bytes: [0; 46], len: 0 }
    }
}

impl Write for AddressText {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let end = self.len + s.len();
        // One byte stays for the NUL; no address is longer.
        self.bytes[..45].get_mut(self.len..end).ok_or(core::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Dotted quad.
pub fn format_v4(a: &[u8; 4]) -> AddressText {
    let mut text = AddressText::new();
    let _ = write!(text, "{}.{}.{}.{}", a[0], a[1], a[2], a[3]);
    text
}

/// RFC 5952 as glibc has it: the first longest run of two or more zero groups becomes `::`; addresses
/// that embed an IPv4 address (`::a.b.c.d`, `::ffff:a.b.c.d`) end with a dotted quad.
pub fn format_v6(address: &[u8; 16]) -> AddressText {
    let group = |i: usize| u16::from_be_bytes([address[2 * i], address[2 * i + 1]]);
    let (mut best, mut best_len) = (8, 1);
    let mut i = 0;
    while i < 8 {
        let len = (i..8).take_while(|&j| group(j) == 0).count();
        if len > best_len {
            (best, best_len) = (i, len);
        }
        i += len.max(1);
    }
    let embedded = best == 0 && (best_len == 6 || best_len == 5 && group(5) == 0xffff);
    let mut text = AddressText::new();
    let mut i = 0;
    while i < 8 {
        if i == best {
            let _ = text.write_str("::");
            i += best_len;
            continue;
        }
        if i != 0 && i != best + best_len {
            let _ = text.write_str(":");
        }
        if i == 6 && embedded {
            let _ = write!(text, "{}.{}.{}.{}", address[12], address[13], address[14], address[15]);
            break;
        }
        let _ = write!(text, "{:x}", group(i));
        i += 1;
    }
    text
}

/// A C string's bytes.
///
/// # Safety
/// A valid C string.
pub unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: forwarded.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// A C string of at most `size` bytes with its NUL; ENOSPC if it does not fit.
unsafe fn store(text: &[u8], to: *mut c_char, size: usize) -> *const c_char {
    if text.len() >= size {
        errno::set(Errno::ENOSPC);
        return core::ptr::null();
    }
    // SAFETY: the caller's buffer of `size` bytes.
    unsafe {
        core::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len());
        to.add(text.len()).write(0);
    }
    to
}

struct Text(Vec<u8>);
impl super::pack::Record for Text {
    type C = *mut c_char;
    fn pack(&self, to: &mut super::pack::Packer) -> Option<*mut c_char> {
        to.string(&self.0)
    }
}

/// A string in static memory.
pub(crate) fn static_text(slot: &Slot, text: &[u8]) -> *mut c_char {
    let place = slot.fill(Ok(Some(Text(text.to_vec()))));
    // SAFETY: null, or the record just written.
    if place.is_null() { core::ptr::null_mut() } else { unsafe { place.read() } }
}

static NTOA: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// inet_pton(3).
    "GLIBC_2.2.5" fn inet_pton(family: c_int, text: *const c_char, to: *mut c_void) -> c_int {
        // SAFETY: the caller's string, and room for an address of the family.
        unsafe {
            let text = bytes(text);
            let found = match family {
                AF_INET => parse_v4(text).map(|a| to.cast::<[u8; 4]>().write(a)),
                AF_INET6 => parse_v6(text).map(|a| to.cast::<[u8; 16]>().write(a)),
                _ => {
                    errno::set(Errno::EAFNOSUPPORT);
                    return -1;
                }
            };
            found.is_some().into()
        }
    }
    /// inet_ntop(3).
    "GLIBC_2.2.5" fn inet_ntop(family: c_int, address: *const c_void, to: *mut c_char, size: socklen_t) -> *const c_char {
        // SAFETY: the caller's address of the family and its buffer.
        unsafe {
            match family {
                AF_INET => store(format_v4(&address.cast::<[u8; 4]>().read()).as_bytes(), to, size as usize),
                AF_INET6 => store(format_v6(&address.cast::<[u8; 16]>().read()).as_bytes(), to, size as usize),
                _ => {
                    errno::set(Errno::EAFNOSUPPORT);
                    core::ptr::null()
                }
            }
        }
    }
    /// inet_aton(3): blanks may follow the address, with anything behind them.
    "GLIBC_2.2.5" fn inet_aton(text: *const c_char, to: *mut u32) -> c_int {
        // SAFETY: the caller's string and, unless null, its address.
        match unsafe { parse_aton(bytes(text)) } {
            Some((address, rest)) if rest.first().is_none_or(|b| b.is_ascii_whitespace() || *b == 0x0b) => {
                if !to.is_null() {
                    // SAFETY: as above.
                    unsafe { to.write(u32::from_ne_bytes(address)) };
                }
                1
            }
            _ => 0,
        }
    }
    /// inet_addr(3): INADDR_NONE on error.
    "GLIBC_2.2.5" fn inet_addr(text: *const c_char) -> u32 {
        let mut address = 0;
        // SAFETY: the caller's string; our variable.
        if unsafe { inet_aton(text, &mut address) } != 0 { address } else { u32::MAX }
    }
    /// inet_ntoa(3), in static memory.
    "GLIBC_2.2.5" fn inet_ntoa(address: u32) -> *mut c_char {
        static_text(&NTOA, format_v4(&address.to_ne_bytes()).as_bytes())
    }
    /// inet_network(3): the address in host order.
    "GLIBC_2.2.5" fn inet_network(text: *const c_char) -> u32 {
        // SAFETY: the caller's string.
        network(unsafe { bytes(text) }).unwrap_or(u32::MAX)
    }
    /// inet_makeaddr(3).
    "GLIBC_2.2.5" fn inet_makeaddr(net: u32, host: u32) -> u32 {
        let address = match net {
            0..0x80 => net << 24 | host & 0x00ff_ffff,
            0x80..0x1_0000 => net << 16 | host & 0xffff,
            0x1_0000..0x100_0000 => net << 8 | host & 0xff,
            _ => net | host,
        };
        address.to_be()
    }
    /// inet_lnaof(3): the host part by class.
    "GLIBC_2.2.5" fn inet_lnaof(address: u32) -> u32 {
        let address = u32::from_be(address);
        address & match address >> 30 { 0 | 1 => 0x00ff_ffff, 2 => 0xffff, _ => 0xff }
    }
    /// inet_netof(3): the network part by class.
    "GLIBC_2.2.5" fn inet_netof(address: u32) -> u32 {
        let address = u32::from_be(address);
        address >> match address >> 30 { 0 | 1 => 24, 2 => 16, _ => 8 }
    }
    /// byteorder(3).
    "GLIBC_2.2.5" fn htonl(value: u32) -> u32 { value.to_be() }
    /// byteorder(3).
    "GLIBC_2.2.5" fn ntohl(value: u32) -> u32 { u32::from_be(value) }
    /// byteorder(3).
    "GLIBC_2.2.5" fn htons(value: u16) -> u16 { value.to_be() }
    /// byteorder(3).
    "GLIBC_2.2.5" fn ntohs(value: u16) -> u16 { u16::from_be(value) }
    /// ether_aton_r(3).
    "GLIBC_2.2.5" fn ether_aton_r(text: *const c_char, to: *mut [u8; 6]) -> *mut [u8; 6] {
        // SAFETY: the caller's string and address.
        match unsafe { parse_ether(bytes(text)) } {
            Some(address) => {
                // SAFETY: as above.
                unsafe { to.write(address) };
                to
            }
            None => core::ptr::null_mut(),
        }
    }
    /// ether_aton(3), in static memory.
    "GLIBC_2.2.5" fn ether_aton(text: *const c_char) -> *mut [u8; 6] {
        static ETHER: Slot = Slot::new();
        // SAFETY: the caller's string.
        let address = unsafe { parse_ether(bytes(text)) };
        ETHER.fill(Ok(address.map(Ether)))
    }
    /// ether_ntoa_r(3).
    "GLIBC_2.2.5" fn ether_ntoa_r(address: *const [u8; 6], to: *mut c_char) -> *mut c_char {
        // SAFETY: the caller's address, and a buffer of 18 bytes.
        unsafe { store(ether_text(&address.read()).as_bytes(), to, 18).cast_mut() }
    }
    /// ether_ntoa(3), in static memory.
    "GLIBC_2.2.5" fn ether_ntoa(address: *const [u8; 6]) -> *mut c_char {
        static ETHER: Slot = Slot::new();
        // SAFETY: the caller's address.
        let text = ether_text(&unsafe { address.read() });
        static_text(&ETHER, text.as_bytes())
    }
}

/// `in6addr_any`
pub static IN6ADDR_ANY: [u8; 16] = [0; 16];
/// `in6addr_loopback`
pub static IN6ADDR_LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

exports! { DATA "libc.so.6":
    object "GLIBC_2.2.5" "in6addr_any" 16 = IN6ADDR_ANY;
    object "GLIBC_2.2.5" "in6addr_loopback" 16 = IN6ADDR_LOOPBACK;
}

struct Ether([u8; 6]);
impl super::pack::Record for Ether {
    type C = [u8; 6];
    fn pack(&self, _: &mut super::pack::Packer) -> Option<[u8; 6]> {
        Some(self.0)
    }
}

fn ether_text(a: &[u8; 6]) -> AddressText {
    let mut text = AddressText::new();
    let _ = write!(text, "{:x}:{:x}:{:x}:{:x}:{:x}:{:x}", a[0], a[1], a[2], a[3], a[4], a[5]);
    text
}

/// Six groups of one or two hex digits between colons. Behind a last group of one digit the text or
/// the word must end; behind two digits anything may follow (inet/ether_aton_r.c).
fn parse_ether(text: &[u8]) -> Option<[u8; 6]> {
    let mut address = [0u8; 6];
    let mut rest = text;
    for (i, byte) in address.iter_mut().enumerate() {
        let len = rest.iter().take(2).take_while(|b| b.is_ascii_hexdigit()).count();
        if len == 0 {
            return None;
        }
        *byte = hex_group(&rest[..len])? as u8;
        rest = &rest[len..];
        if i < 5 {
            rest = rest.strip_prefix(b":")?;
        } else if len == 1 && rest.first().is_some_and(|b| !b.is_ascii_whitespace() && *b != 0x0b) {
            return None;
        }
    }
    Some(address)
}

/// inet_network's text: one to four parts of at most 255, each decimal, octal (0) or hex (0x, or x
/// alone); blanks may follow. Too large numbers wrap before they are compared, as in glibc.
fn network(text: &[u8]) -> Option<u32> {
    let mut value = 0u32;
    let mut rest = text;
    for _ in 0..4 {
        let (part, after) = network_part(rest).filter(|&(n, _)| n <= 255)?;
        value = value << 8 | part;
        match after.strip_prefix(b".") {
            Some(next) => rest = next,
            None => {
                let blank = |b: &u8| b.is_ascii_whitespace() || *b == 0x0b;
                return after.iter().all(blank).then_some(value);
            }
        }
    }
    None
}

fn network_part(text: &[u8]) -> Option<(u32, &[u8])> {
    let octal = text.strip_prefix(b"0");
    let text = octal.unwrap_or(text);
    let hex = text.strip_prefix(b"x").or(text.strip_prefix(b"X"));
    let (base, digits) = match hex {
        Some(digits) => (16, digits),
        None => (if octal.is_some() { 8 } else { 10 }, text),
    };
    let len = digits.iter().take_while(|b| b.is_ascii_digit() || base == 16 && b.is_ascii_hexdigit()).count();
    if len == 0 && (octal.is_none() || hex.is_some()) {
        return None;
    }
    let value = digits[..len]
        .iter()
        .try_fold(0u32, |n, &b| Some(n.wrapping_mul(base).wrapping_add((b as char).to_digit(base)?)))?;
    Some((value, &digits[len..]))
}

/// Length of a buffer for any address.
pub const INET6_ADDRSTRLEN: size_t = 46;
