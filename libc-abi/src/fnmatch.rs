//! fnmatch(3): shell patterns, with brackets, classes and ksh's `?(a|b)` groups.
//!
//! Pattern and string are taken apart into characters of the current locale first; a byte that is no
//! character matches itself alone.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::locale::is_utf8;
use crate::multibyte::characters;
use crate::types::*;
use crate::wctype;
use alloc::vec::Vec;

/// A slash is matched only by a slash.
pub(crate) const PATHNAME: c_int = 1;
/// A backslash is itself.
pub(crate) const NOESCAPE: c_int = 2;
/// A leading period is matched only by a period.
pub(crate) const PERIOD: c_int = 4;
const LEADING_DIR: c_int = 8;
const CASEFOLD: c_int = 16;
const EXTMATCH: c_int = 32;

struct Matcher<'a> {
    text: &'a [wchar_t],
    flags: c_int,
    utf8: bool,
}

fn is(c: wchar_t, ascii: u8) -> bool {
    c == ascii as wchar_t
}

impl Matcher<'_> {
    fn has(&self, flag: c_int) -> bool {
        self.flags & flag != 0
    }
    fn fold(&self, c: wchar_t) -> wchar_t {
        if self.has(CASEFOLD) { wctype::lower(c as u32, self.utf8) as wchar_t } else { c }
    }
    /// Whether `at` holds a period that only a period matches.
    fn hidden(&self, at: usize) -> bool {
        self.has(PERIOD)
            && self.text.get(at).is_some_and(|&c| is(c, b'.'))
            && (at == 0 || self.has(PATHNAME) && is(self.text[at - 1], b'/'))
    }
    fn slash(&self, at: usize) -> bool {
        self.has(PATHNAME) && is(self.text[at], b'/')
    }

    /// Whether all of `pattern` matches the text from `at` on. The last star alone is retried: a text
    /// between two stars that matches once need not be moved (and stars do not cross slashes).
    fn matches(&self, pattern: &[wchar_t], at: usize) -> bool {
        let (mut p, mut t) = (0, at);
        let mut star: Option<(usize, usize)> = None;
        loop {
            if let Some(group) = self.group_at(pattern, p) {
                // Groups need every way tried; the rest of the pattern goes with them.
                let tried = self.group(pattern, p, &group, t);
                if tried {
                    return true;
                }
            } else if p == pattern.len() {
                if t == self.text.len() || self.has(LEADING_DIR) && is(self.text[t], b'/') {
                    return true;
                }
            } else if is(pattern[p], b'*') {
                if self.hidden(t) {
                    // No way on: a star takes no leading period.
                } else {
                    p += 1;
                    star = Some((p, t));
                    continue;
                }
            } else if t < self.text.len()
                && let Some(next) = self.single(pattern, p, t)
            {
                (p, t) = (next, t + 1);
                continue;
            }
            match star {
                Some((after, from)) if from < self.text.len() && !self.slash(from) => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                _ => return false,
            }
        }
    }

    /// Matches one character; answers where the pattern goes on.
    fn single(&self, pattern: &[wchar_t], p: usize, t: usize) -> Option<usize> {
        let c = self.text[t];
        if is(pattern[p], b'?') {
            return (!self.slash(t) && !self.hidden(t)).then_some(p + 1);
        }
        if is(pattern[p], b'[')
            && let Some((hit, next)) = self.bracket(pattern, p + 1, c)
        {
            return (hit && !self.slash(t) && !self.hidden(t)).then_some(next);
        }
        let mut p = p;
        if is(pattern[p], b'\\') && !self.has(NOESCAPE) {
            // At the end of a pattern it matches nothing.
            p += 1;
            if p == pattern.len() {
                return None;
            }
        }
        (self.fold(pattern[p]) == self.fold(c)).then_some(p + 1)
    }

    /// A bracket expression that starts at `p`: whether it holds `c`, and where it ends. `None` if it
    /// does not end: then `[` is itself.
    fn bracket(&self, pattern: &[wchar_t], mut p: usize, c: wchar_t) -> Option<(bool, usize)> {
        let folded = self.fold(c);
        let negated = pattern.get(p).is_some_and(|&c| is(c, b'!') || is(c, b'^'));
        p += negated as usize;
        let (mut hit, mut first) = (false, true);
        loop {
            let here = *pattern.get(p)?;
            if is(here, b']') && !first {
                return Some((hit != negated, p + 1));
            }
            first = false;
            if is(here, b'[')
                && pattern.get(p + 1).is_some_and(|&c| is(c, b':'))
                && let Some((name, next)) = named(pattern, p)
            {
                let class = wctype::class_number(&name);
                if class == 0 {
                    return None;
                }
                let either = |c: wchar_t| wctype::is(c as u32, class, self.utf8);
                hit |= either(c) || self.has(CASEFOLD) && class <= 2 && (is_letter_case(c, self.utf8));
                p = next;
                continue;
            }
            let (low, next) = self.element(pattern, p)?;
            p = next;
            let range = pattern.get(p).is_some_and(|&c| is(c, b'-'))
                && pattern.get(p + 1).is_some_and(|&c| !is(c, b']'));
            if range {
                let (high, next) = self.element(pattern, p + 1)?;
                p = next;
                hit |= (low..=high).contains(&c) || (self.fold(low)..=self.fold(high)).contains(&folded);
            } else {
                hit |= self.fold(low) == folded;
            }
        }
    }

    /// One character of a bracket expression: plain, escaped, `[.x.]` or `[=x=]`.
    fn element(&self, pattern: &[wchar_t], p: usize) -> Option<(wchar_t, usize)> {
        let here = *pattern.get(p)?;
        if is(here, b'[') && pattern.get(p + 1).is_some_and(|&c| is(c, b'.') || is(c, b'=')) {
            let (kind, symbol) = (pattern[p + 1], *pattern.get(p + 2)?);
            let ends = pattern.get(p + 3) == Some(&kind) && pattern.get(p + 4).is_some_and(|&c| is(c, b']'));
            return ends.then_some((symbol, p + 5));
        }
        if is(here, b'\\') && !self.has(NOESCAPE) {
            return Some((*pattern.get(p + 1)?, p + 2));
        }
        Some((here, p + 1))
    }

    /// The alternatives of a group `?(...)` at `p` and where it ends.
    fn group_at(&self, pattern: &[wchar_t], p: usize) -> Option<Group> {
        if !self.has(EXTMATCH) || p + 1 >= pattern.len() || !is(pattern[p + 1], b'(') {
            return None;
        }
        let kind = u8::try_from(pattern[p]).ok().filter(|c| b"?*+@!".contains(c))?;
        let (mut at, mut depth, mut start) = (p + 2, 1, p + 2);
        let mut alternatives = Vec::new();
        while at < pattern.len() {
            match u8::try_from(pattern[at]).unwrap_or(0) {
                b'\\' if !self.has(NOESCAPE) => at += 1,
                b'(' => depth += 1,
                b')' if depth == 1 => {
                    alternatives.push((start, at));
                    return Some(Group { kind, alternatives, end: at + 1 });
                }
                b')' => depth -= 1,
                b'|' if depth == 1 => {
                    alternatives.push((start, at));
                    start = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        None
    }

    fn group(&self, pattern: &[wchar_t], p: usize, group: &Group, t: usize) -> bool {
        let rest = &pattern[group.end..];
        let ends = |from: usize| from..=self.text.len();
        // Whether an alternative matches exactly text[t..end].
        let alternative = |end: usize| {
            let part = Matcher { text: &self.text[..end], flags: self.flags & !LEADING_DIR, utf8: self.utf8 };
            group.alternatives.iter().any(|&(from, to)| part.matches(&pattern[from..to], t))
        };
        match group.kind {
            b'?' => self.matches(rest, t) || ends(t).any(|end| alternative(end) && self.matches(rest, end)),
            b'@' => ends(t).any(|end| alternative(end) && self.matches(rest, end)),
            b'!' => !self.hidden(t) && ends(t).any(|end| !alternative(end) && self.matches(rest, end)),
            // One and then more of the same, each at least one character long.
            _ => {
                group.kind == b'*' && self.matches(rest, t)
                    || ends(t).any(|end| {
                        alternative(end)
                            && (self.matches(rest, end) || end > t && self.again(pattern, p, group, end))
                    })
            }
        }
    }

    fn again(&self, pattern: &[wchar_t], p: usize, group: &Group, t: usize) -> bool {
        self.group(pattern, p, &Group { kind: b'+', ..group.clone() }, t)
    }
}

#[derive(Clone)]
struct Group {
    kind: u8,
    alternatives: Vec<(usize, usize)>,
    end: usize,
}

fn is_letter_case(c: wchar_t, utf8: bool) -> bool {
    wctype::is(c as u32, 1, utf8) || wctype::is(c as u32, 2, utf8)
}

/// The name of `[:name:]` at `p`.
fn named(pattern: &[wchar_t], p: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let mut at = p + 2;
    loop {
        let c = u8::try_from(*pattern.get(at)?).ok()?;
        if c == b':' && pattern.get(at + 1).is_some_and(|&c| is(c, b']')) {
            return Some((name, at + 2));
        }
        if !c.is_ascii_lowercase() {
            return None;
        }
        name.push(c);
        at += 1;
    }
}

abi! { EXPORTS "libc.so.6":
    /// fnmatch(3): 0, or FNM_NOMATCH (1).
    "GLIBC_2.2.5" fn fnmatch(pattern: *const c_char, string: *const c_char, flags: c_int) -> c_int {
        let (pattern, text) = (characters(pattern), characters(string));
        let matcher = Matcher { text: &text, flags, utf8: is_utf8() };
        !matcher.matches(&pattern, 0) as c_int
    }
}
