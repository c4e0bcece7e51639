//! DNS messages (RFC 1035): names, questions, records. Input is hostile: every length is checked, and
//! a chain of compression pointers can only lead backwards.

use alloc::vec::Vec;

/// `T_A`
pub const TYPE_A: u16 = 1;
/// `T_CNAME`
pub const TYPE_CNAME: u16 = 5;
/// `T_PTR`
pub const TYPE_PTR: u16 = 12;
/// `T_AAAA`
pub const TYPE_AAAA: u16 = 28;
/// `C_IN`
pub const CLASS_IN: u16 = 1;
/// Bytes of a message's header.
pub const HEADER: usize = 12;
/// Longest name in wire form.
pub const MAX_NAME: usize = 255;
/// Longest label.
pub const MAX_LABEL: usize = 63;

/// `u16` in network order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// `u32` in network order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A name in wire form without compression, from `at` of a message; and where the next field starts.
pub fn unpack(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let mut at = at;
    let mut next = None;
    loop {
        let len = *message.get(at)?;
        match len & 0xc0 {
            0 => {
                let label = message.get(at..at + 1 + len as usize)?;
                if name.len() + label.len() > MAX_NAME {
                    return None;
                }
                name.extend_from_slice(label);
                at += label.len();
                if len == 0 {
                    return Some((name, next.unwrap_or(at)));
                }
            }
            0xc0 => {
                let target = (u16_at(message, at)? & 0x3fff) as usize;
                next.get_or_insert(at + 2);
                // Backwards only: a loop is impossible.
                if target >= at {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
    }
}

/// Where the field behind a name starts, without following pointers.
pub fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = *message.get(at)?;
        match len & 0xc0 {
            0 if len == 0 => return Some(at + 1),
            0 => at += 1 + len as usize,
            0xc0 => return message.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}

/// A wire name as text, without a dot at the end ("." for the root); odd bytes are escaped.
pub fn to_text(name: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut at = 0;
    loop {
        let len = *name.get(at)? as usize;
        if len == 0 {
            if text.is_empty() {
                text.push(b'.');
            }
            return Some(text);
        }
        if len > MAX_LABEL {
            return None;
        }
        if !text.is_empty() {
            text.push(b'.');
        }
        for &b in name.get(at + 1..at + 1 + len)? {
            match b {
                b'"' | b'.' | b';' | b'\\' | b'(' | b')' | b'@' | b'$' => text.extend_from_slice(&[b'\\', b]),
                0x21..=0x7e => text.push(b),
                _ => text.extend_from_slice(&[b'\\', b'0' + b / 100, b'0' + b / 10 % 10, b'0' + b % 10]),
            }
        }
        at += 1 + len;
    }
}

/// Text as a wire name; the flag tells whether it ended with a dot. `None`: not a name.
pub fn from_text(text: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut name = Vec::with_capacity(text.len() + 2);
    let mut label: Vec<u8> = Vec::new();
    let mut dotted = false;
    let mut bytes = text.iter().copied().peekable();
    if text == b"." {
        return Some((alloc::vec![0], true));
    }
    while let Some(b) = bytes.next() {
        dotted = false;
        let b = match b {
            b'.' => {
                push_label(&mut name, &label)?;
                label.clear();
                dotted = true;
                continue;
            }
            b'\\' => escaped(&mut bytes)?,
            b => b,
        };
        label.push(b);
    }
    if !label.is_empty() {
        push_label(&mut name, &label)?;
    }
    name.push(0);
    (name.len() <= MAX_NAME).then_some((name, dotted))
}

fn push_label(name: &mut Vec<u8>, label: &[u8]) -> Option<()> {
    if label.is_empty() || label.len() > MAX_LABEL {
        return None;
    }
    name.push(label.len() as u8);
    name.extend_from_slice(label);
    Some(())
}

/// `\DDD` or `\X`.
fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = bytes.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let mut value = (first - b'0') as u32;
    for _ in 0..2 {
        value = value * 10 + (bytes.next()? as char).to_digit(10)?;
    }
    u8::try_from(value).ok()
}

/// Whether two wire names are the same, in any letters' case.
pub fn same_name(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// A standard query with recursion wanted: (RFC 1035 4.1.1).
pub fn query(id: u16, name: &[u8], class: u16, kind: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + name.len() + 4);
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(name);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&class.to_be_bytes());
    message
}

/// A record of an answer.
pub struct Answer<'a> {
    /// Owner, in wire form.
    pub name: Vec<u8>,
    /// Type.
    pub kind: u16,
    /// Class.
    pub class: u16,
    /// Seconds it may be kept.
    pub ttl: u32,
    /// Data.
    pub data: &'a [u8],
    /// Where the data starts in the message: names in it may be compressed.
    pub data_at: usize,
}

/// A message's response code.
pub fn rcode(message: &[u8]) -> u8 {
    message.get(3).map_or(2, |b| b & 15)
}

/// Whether a message was cut (TC).
pub fn truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|b| b & 2 != 0)
}

/// Whether `answer` is a response to `query`: the id and the question, in any letters' case.
pub fn answers(answer: &[u8], query: &[u8]) -> bool {
    let check = || {
        let is_response = answer.get(2)? & 0x80 != 0;
        let (ours, ours_end) = unpack(query, HEADER)?;
        let (theirs, theirs_end) = unpack(answer, HEADER)?;
        let same = is_response
            && answer.get(..2)? == query.get(..2)?
            && u16_at(answer, 4)? == 1
            && same_name(&ours, &theirs)
            && query.get(ours_end..ours_end + 4)? == answer.get(theirs_end..theirs_end + 4)?;
        Some(same)
    };
    check().unwrap_or(false)
}

/// The records of the answer section, as far as they are well formed.
pub fn records(message: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    let questions = u16_at(message, 4).unwrap_or(0);
    let mut at = (0..questions).try_fold(HEADER, |at, _| Some(skip_name(message, at)? + 4));
    let mut left = u16_at(message, 6).unwrap_or(0);
    core::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let (answer, next) = record(message, at?)?;
        at = Some(next);
        Some(answer)
    })
}

fn record(message: &[u8], at: usize) -> Option<(Answer<'_>, usize)> {
    let (name, at) = unpack(message, at)?;
    let len = u16_at(message, at + 8)? as usize;
    let data_at = at + 10;
    let data = message.get(data_at..data_at + len)?;
    let answer = Answer {
        name,
        kind: u16_at(message, at)?,
        class: u16_at(message, at + 2)?,
        ttl: u32_at(message, at + 4)?,
        data,
        data_at,
    };
    Some((answer, data_at + len))
}
