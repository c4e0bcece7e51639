//! From a pattern to a tree, under GNU's syntax bits (regex.h), of which POSIX's two grammars are
//! settings.

use crate::multibyte::characters_of;
use crate::types::*;
use crate::wctype;
use alloc::boxed::Box;
use alloc::vec::Vec;

pub(crate) const BACKSLASH_ESCAPE_IN_LISTS: u64 = 1;
pub(crate) const BK_PLUS_QM: u64 = 1 << 1;
pub(crate) const CONTEXT_INDEP_ANCHORS: u64 = 1 << 3;
pub(crate) const CONTEXT_INDEP_OPS: u64 = 1 << 4;
pub(crate) const CONTEXT_INVALID_OPS: u64 = 1 << 5;
pub(crate) const DOT_NEWLINE: u64 = 1 << 6;
pub(crate) const DOT_NOT_NULL: u64 = 1 << 7;
pub(crate) const HAT_LISTS_NOT_NEWLINE: u64 = 1 << 8;
pub(crate) const INTERVALS: u64 = 1 << 9;
pub(crate) const LIMITED_OPS: u64 = 1 << 10;
pub(crate) const NEWLINE_ALT: u64 = 1 << 11;
pub(crate) const NO_BK_BRACES: u64 = 1 << 12;
pub(crate) const NO_BK_PARENS: u64 = 1 << 13;
pub(crate) const NO_BK_REFS: u64 = 1 << 14;
pub(crate) const NO_BK_VBAR: u64 = 1 << 15;
pub(crate) const NO_EMPTY_RANGES: u64 = 1 << 16;
pub(crate) const UNMATCHED_RIGHT_PAREN_ORD: u64 = 1 << 17;
pub(crate) const NO_GNU_OPS: u64 = 1 << 19;
pub(crate) const INVALID_INTERVAL_ORD: u64 = 1 << 21;
pub(crate) const ICASE: u64 = 1 << 22;
pub(crate) const CARET_ANCHORS_HERE: u64 = 1 << 23;
pub(crate) const CONTEXT_INVALID_DUP: u64 = 1 << 24;
pub(crate) const NO_SUB: u64 = 1 << 25;
const CHAR_CLASSES: u64 = 1 << 2;

const COMMON: u64 = CHAR_CLASSES | DOT_NEWLINE | DOT_NOT_NULL | INTERVALS | NO_EMPTY_RANGES;
/// RE_SYNTAX_POSIX_BASIC
pub(crate) const POSIX_BASIC: u64 = COMMON | BK_PLUS_QM | CONTEXT_INVALID_DUP;
/// RE_SYNTAX_POSIX_EXTENDED
pub(crate) const POSIX_EXTENDED: u64 = COMMON
    | CONTEXT_INDEP_ANCHORS
    | CONTEXT_INDEP_OPS
    | NO_BK_BRACES
    | NO_BK_PARENS
    | NO_BK_VBAR
    | CONTEXT_INVALID_OPS
    | UNMATCHED_RIGHT_PAREN_ORD;

/// `reg_errcode_t`
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(i32)]
pub(crate) enum Error {
    NoMatch = 1,
    BadPattern = 2,
    Collate = 3,
    Class = 4,
    Escape = 5,
    SubReference = 6,
    Bracket = 7,
    Paren = 8,
    Brace = 9,
    BadBrace = 10,
    Range = 11,
    Space = 12,
    BadRepeat = 13,
    Size = 15,
    RightParen = 16,
}

/// A test of a position.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Anchor {
    LineStart,
    LineEnd,
    BufferStart,
    BufferEnd,
    WordStart,
    WordEnd,
    Boundary,
    NotBoundary,
}

/// A bracket expression.
#[derive(Clone, Default, Debug)]
pub(crate) struct Set {
    pub(crate) negated: bool,
    /// Inclusive ranges.
    pub(crate) ranges: Vec<(u32, u32)>,
    /// `wctype` class numbers; negative ones are complements.
    pub(crate) classes: Vec<i32>,
    pub(crate) underscore: bool,
}

pub(crate) type NodeId = usize;

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Empty,
    Char(u32),
    Any,
    Set(Box<Set>),
    Anchor(Anchor),
    Group(usize, NodeId),
    Concat(Vec<NodeId>),
    Alternate(Vec<NodeId>),
    Repeat { inner: NodeId, min: u32, max: Option<u32> },
    BackReference(usize),
}

/// A parsed pattern.
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: NodeId,
    pub(crate) groups: usize,
    pub(crate) back_references: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Token {
    End,
    Char(u32),
    Any,
    Bracket,
    Open,
    Close,
    Or,
    Star,
    Plus,
    Question,
    OpenBrace,
    Anchor(Anchor),
    /// `^` and `$` before it is known whether they are anchors.
    Caret,
    Dollar,
    /// `\w`, `\W`, `\s`, `\S`
    Word(bool),
    Space(bool),
    Reference(usize),
}

/// A number in an interval.
#[derive(Clone, Copy, PartialEq)]
enum Count {
    None,
    Number(i64),
    Bad,
}

#[derive(Clone, Copy, PartialEq)]
enum Stop {
    End,
    Comma,
    Close(usize),
    Other,
}

struct Parser {
    text: Vec<u32>,
    at: usize,
    syntax: u64,
    nodes: Vec<Node>,
    groups: usize,
    /// Groups that are closed: what a back reference may name.
    closed: u64,
    depth: usize,
    back_references: bool,
}

/// Parses a pattern in the current locale's characters.
pub(crate) fn parse(pattern: &[u8], syntax: u64) -> Result<Tree, Error> {
    let text = characters_of(pattern).into_iter().map(|c| c as u32).collect();
    let mut parser = Parser {
        text,
        at: 0,
        syntax,
        nodes: Vec::new(),
        groups: 0,
        closed: 0,
        depth: 0,
        back_references: false,
    };
    let root = parser.alternation()?;
    match parser.token()?.0 {
        Token::End => {}
        _ => return Err(Error::RightParen),
    }
    let Parser { nodes, groups, back_references, .. } = parser;
    Ok(Tree { nodes, root, groups, back_references })
}

impl Parser {
    fn has(&self, bit: u64) -> bool {
        self.syntax & bit != 0
    }
    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }
    fn peek(&self, ahead: usize) -> Option<u32> {
        self.text.get(self.at + ahead).copied()
    }
    fn byte(&self, ahead: usize) -> u8 {
        self.peek(ahead).and_then(|c| u8::try_from(c).ok()).unwrap_or(0)
    }

    /// The token at the current place and its length.
    fn token(&self) -> Result<(Token, usize), Error> {
        let Some(c) = self.peek(0) else { return Ok((Token::End, 0)) };
        let no_backslash = |bit: u64| self.has(bit);
        let plain = Token::Char(c);
        if c == b'\\' as u32 {
            let Some(next) = self.peek(1) else { return Err(Error::Escape) };
            return Ok((self.escaped(next), 2));
        }
        let token = match u8::try_from(c).unwrap_or(0) {
            b'[' => Token::Bracket,
            b'.' => Token::Any,
            b'*' => Token::Star,
            b'(' if no_backslash(NO_BK_PARENS) => Token::Open,
            b')' if no_backslash(NO_BK_PARENS) => Token::Close,
            b'|' if no_backslash(NO_BK_VBAR) && !self.has(LIMITED_OPS) => Token::Or,
            b'\n' if self.has(NEWLINE_ALT) => Token::Or,
            b'+' if !self.has(LIMITED_OPS) && !self.has(BK_PLUS_QM) => Token::Plus,
            b'?' if !self.has(LIMITED_OPS) && !self.has(BK_PLUS_QM) => Token::Question,
            b'{' if self.has(INTERVALS) && self.has(NO_BK_BRACES) => Token::OpenBrace,
            b'^' => Token::Caret,
            b'$' => Token::Dollar,
            _ => plain,
        };
        Ok((token, 1))
    }

    fn escaped(&self, c: u32) -> Token {
        let gnu = !self.has(NO_GNU_OPS);
        match u8::try_from(c).unwrap_or(0) {
            b'|' if !self.has(LIMITED_OPS) && !self.has(NO_BK_VBAR) => Token::Or,
            digit @ b'1'..=b'9' if !self.has(NO_BK_REFS) => Token::Reference((digit - b'0') as usize),
            b'<' if gnu => Token::Anchor(Anchor::WordStart),
            b'>' if gnu => Token::Anchor(Anchor::WordEnd),
            b'b' if gnu => Token::Anchor(Anchor::Boundary),
            b'B' if gnu => Token::Anchor(Anchor::NotBoundary),
            b'`' if gnu => Token::Anchor(Anchor::BufferStart),
            b'\'' if gnu => Token::Anchor(Anchor::BufferEnd),
            b'w' if gnu => Token::Word(true),
            b'W' if gnu => Token::Word(false),
            b's' if gnu => Token::Space(true),
            b'S' if gnu => Token::Space(false),
            b'(' if !self.has(NO_BK_PARENS) => Token::Open,
            b')' if !self.has(NO_BK_PARENS) => Token::Close,
            b'+' if !self.has(LIMITED_OPS) && self.has(BK_PLUS_QM) => Token::Plus,
            b'?' if !self.has(LIMITED_OPS) && self.has(BK_PLUS_QM) => Token::Question,
            b'{' if self.has(INTERVALS) && !self.has(NO_BK_BRACES) => Token::OpenBrace,
            _ => Token::Char(c),
        }
    }

    fn alternation(&mut self) -> Result<NodeId, Error> {
        let mut branches = alloc::vec![self.concatenation()?];
        while let (Token::Or, length) = self.token()? {
            self.at += length;
            branches.push(self.concatenation()?);
        }
        Ok(if branches.len() == 1 { branches[0] } else { self.add(Node::Alternate(branches)) })
    }

    fn concatenation(&mut self) -> Result<NodeId, Error> {
        let mut parts = Vec::new();
        loop {
            let (token, length) = self.token()?;
            match token {
                Token::End | Token::Or => break,
                Token::Close if self.depth > 0 => break,
                Token::Close if !self.has(UNMATCHED_RIGHT_PAREN_ORD) => return Err(Error::RightParen),
                _ => {
                    let first = parts.is_empty();
                    let part = self.expression(token, length, first)?;
                    parts.push(part);
                }
            }
        }
        Ok(match parts.len() {
            0 => self.add(Node::Empty),
            1 => parts[0],
            _ => self.add(Node::Concat(parts)),
        })
    }

    /// One atom with its repetitions.
    fn expression(&mut self, token: Token, length: usize, first: bool) -> Result<NodeId, Error> {
        let start = self.at;
        self.at += length;
        let here = self.text[start + length - 1];
        let mut anchor = false;
        let node = match token {
            Token::Char(c) => Node::Char(c),
            Token::Close => Node::Char(b')' as u32),
            Token::Any => Node::Any,
            Token::Bracket => self.bracket()?,
            Token::Open => self.group()?,
            Token::Caret if self.caret_is_anchor(start, first) => {
                anchor = true;
                Node::Anchor(Anchor::LineStart)
            }
            Token::Dollar if self.dollar_is_anchor()? => {
                anchor = true;
                Node::Anchor(Anchor::LineEnd)
            }
            Token::Caret | Token::Dollar => Node::Char(here),
            Token::Anchor(kind) => {
                anchor = true;
                Node::Anchor(kind)
            }
            Token::Word(positive) => Node::Set(Box::new(Set {
                negated: !positive,
                classes: alloc::vec![wctype::class_number(b"alnum") as i32],
                underscore: true,
                ..Set::default()
            })),
            Token::Space(positive) => Node::Set(Box::new(Set {
                negated: !positive,
                classes: alloc::vec![wctype::class_number(b"space") as i32],
                ..Set::default()
            })),
            Token::Reference(number) => {
                if self.closed >> number & 1 == 0 {
                    return Err(Error::SubReference);
                }
                self.back_references = true;
                Node::BackReference(number)
            }
            // An operator with nothing to repeat.
            Token::OpenBrace if self.has(CONTEXT_INVALID_DUP) => return Err(Error::BadRepeat),
            Token::Star | Token::Plus | Token::Question | Token::OpenBrace => {
                if self.has(CONTEXT_INVALID_OPS) {
                    return Err(Error::BadRepeat);
                }
                if self.has(CONTEXT_INDEP_OPS) {
                    let (token, length) = self.token()?;
                    if matches!(token, Token::End | Token::Or) || token == Token::Close && self.depth > 0 {
                        return Ok(self.add(Node::Empty));
                    }
                    return self.expression(token, length, first);
                }
                Node::Char(here)
            }
            Token::End | Token::Or => Node::Empty,
        };
        let atom = self.add(node);
        // An anchor is never repeated: what follows it starts an expression of its own ("^*").
        if anchor { Ok(atom) } else { self.repetitions(atom) }
    }

    fn caret_is_anchor(&self, start: usize, first: bool) -> bool {
        self.has(CONTEXT_INDEP_ANCHORS)
            || self.has(CARET_ANCHORS_HERE)
            || first
            || start > 0 && self.has(NEWLINE_ALT) && self.text[start - 1] == b'\n' as u32
    }

    /// In POSIX's basic grammar `$` is an anchor at the end of a pattern, a group or a branch.
    fn dollar_is_anchor(&self) -> Result<bool, Error> {
        if self.has(CONTEXT_INDEP_ANCHORS) || self.at == self.text.len() {
            return Ok(true);
        }
        let next = self.token().unwrap_or((Token::Any, 1)).0;
        Ok(matches!(next, Token::Or | Token::Close))
    }

    fn repetitions(&mut self, mut atom: NodeId) -> Result<NodeId, Error> {
        loop {
            let (token, length) = self.token()?;
            let start = self.at;
            let (min, max) = match token {
                Token::Star => (0, None),
                Token::Plus => (1, None),
                Token::Question => (0, Some(1)),
                Token::OpenBrace => (0, None),
                _ => return Ok(atom),
            };
            self.at += length;
            let (min, max) = if token == Token::OpenBrace {
                match self.interval() {
                    Ok(bounds) => bounds,
                    Err(_) if self.has(INVALID_INTERVAL_ORD) => {
                        self.at = start + length;
                        let brace = self.add(Node::Char(b'{' as u32));
                        let rest = self.repetitions(brace)?;
                        return Ok(self.add(Node::Concat(alloc::vec![atom, rest])));
                    }
                    Err(error) => return Err(error),
                }
            } else {
                (min, max)
            };
            atom = self.add(Node::Repeat { inner: atom, min, max });
            // As glibc: in the basic grammar a second operator has nothing to repeat.
            if self.has(CONTEXT_INVALID_DUP) && matches!(self.token()?.0, Token::Star | Token::OpenBrace) {
                return Err(Error::BadRepeat);
            }
        }
    }

    /// `n}`, `n,}`, `,m}` or `n,m}` after the brace.
    fn interval(&mut self) -> Result<(u32, Option<u32>), Error> {
        const LIMIT: i64 = 0x7fff;
        let start = self.count();
        let low = match start {
            Count::None if self.stop() == Stop::Comma => 0,
            Count::None => return Err(Error::BadBrace),
            Count::Number(low) => low,
            Count::Bad => return Err(self.broken_interval()),
        };
        let mut high = Some(low);
        if self.stop() == Stop::Comma {
            self.at += 1;
            high = match self.count() {
                Count::None => None,
                Count::Number(high) => Some(high),
                Count::Bad => return Err(self.broken_interval()),
            };
        }
        match self.stop() {
            Stop::Close(length) => self.at += length,
            _ => return Err(Error::BadBrace),
        }
        if high.is_some_and(|high| high < low) {
            return Err(Error::BadBrace);
        }
        if high.unwrap_or(low) > LIMIT {
            return Err(Error::Size);
        }
        Ok((low as u32, high.map(|high| high as u32)))
    }

    fn broken_interval(&self) -> Error {
        if self.stop() == Stop::End { Error::Brace } else { Error::BadBrace }
    }

    /// What stands here, as far as an interval is concerned.
    fn stop(&self) -> Stop {
        let bare = self.has(NO_BK_BRACES);
        match (self.byte(0), self.byte(1)) {
            _ if self.at >= self.text.len() => Stop::End,
            (b',', _) => Stop::Comma,
            (b'}', _) if bare => Stop::Close(1),
            (b'\\', b'}') if !bare => Stop::Close(2),
            _ => Stop::Other,
        }
    }

    /// The number up to a comma or the closing brace; anything else in between makes it bad.
    fn count(&mut self) -> Count {
        let mut count = Count::None;
        loop {
            match self.stop() {
                Stop::End => return Count::Bad,
                Stop::Comma | Stop::Close(_) => return count,
                Stop::Other => {}
            }
            count = match (count, self.byte(0)) {
                (Count::None, digit @ b'0'..=b'9') => Count::Number((digit - b'0') as i64),
                (Count::Number(n), digit @ b'0'..=b'9') => {
                    Count::Number((n * 10 + (digit - b'0') as i64).min(1 << 20))
                }
                _ => Count::Bad,
            };
            self.at += 1;
        }
    }

    fn group(&mut self) -> Result<Node, Error> {
        self.groups += 1;
        let number = self.groups;
        if self.depth > 200 {
            return Err(Error::Space);
        }
        self.depth += 1;
        let inner = self.alternation()?;
        self.depth -= 1;
        let (token, length) = self.token()?;
        if token != Token::Close {
            return Err(Error::Paren);
        }
        self.at += length;
        if number < 64 {
            self.closed |= 1 << number;
        }
        Ok(Node::Group(number, inner))
    }

    fn bracket(&mut self) -> Result<Node, Error> {
        let mut set = Set::default();
        if self.byte(0) == b'^' {
            set.negated = true;
            self.at += 1;
            if self.has(HAT_LISTS_NOT_NEWLINE) {
                set.ranges.push((b'\n' as u32, b'\n' as u32));
            }
        }
        let mut first = true;
        loop {
            let Some(_) = self.peek(0) else { return Err(Error::Bracket) };
            if self.byte(0) == b']' && !first {
                self.at += 1;
                return Ok(Node::Set(Box::new(set)));
            }
            first = false;
            if self.byte(0) == b'[' && self.byte(1) == b':' && self.has(CHAR_CLASSES) {
                let class = self.class()?;
                set.classes.push(class);
                continue;
            }
            let low = self.element()?;
            if self.byte(0) == b'-' && self.peek(1).is_some() && self.byte(1) != b']' {
                self.at += 1;
                let high = self.element()?;
                if high < low {
                    if self.has(NO_EMPTY_RANGES) {
                        return Err(Error::Range);
                    }
                } else {
                    set.ranges.push((low, high));
                }
            } else {
                set.ranges.push((low, low));
            }
        }
    }

    /// `[:name:]`
    fn class(&mut self) -> Result<i32, Error> {
        let start = self.at + 2;
        let mut end = start;
        while end + 1 < self.text.len()
            && !(self.text[end] == b':' as u32 && self.text[end + 1] == b']' as u32)
        {
            end += 1;
        }
        if end + 1 >= self.text.len() {
            return Err(Error::Bracket);
        }
        let name: Vec<u8> = self.text[start..end].iter().map(|&c| c as u8).collect();
        self.at = end + 2;
        let mut class = wctype::class_number(&name);
        // Without regard to case upper and lower are all letters.
        if self.has(ICASE) && class > 0 && class <= 2 {
            class = wctype::class_number(b"alpha");
        }
        if class == 0 { Err(Error::Class) } else { Ok(class as i32) }
    }

    /// One element of a list: a character, `[.x.]` or `[=x=]`.
    fn element(&mut self) -> Result<u32, Error> {
        let Some(c) = self.peek(0) else { return Err(Error::Bracket) };
        let kind = self.byte(1);
        if c == b'[' as u32 && (kind == b'.' || kind == b'=') {
            let start = self.at + 2;
            let mut end = start;
            while end + 1 < self.text.len()
                && !(self.text[end] == kind as u32 && self.text[end + 1] == b']' as u32)
            {
                end += 1;
            }
            if end + 1 >= self.text.len() {
                return Err(Error::Bracket);
            }
            self.at = end + 2;
            return if end - start == 1 { Ok(self.text[start]) } else { Err(Error::Collate) };
        }
        if c == b'\\' as u32 && self.has(BACKSLASH_ESCAPE_IN_LISTS) {
            let Some(next) = self.peek(1) else { return Err(Error::Bracket) };
            self.at += 2;
            return Ok(next);
        }
        self.at += 1;
        Ok(c)
    }
}

/// What characters match is the same for all matchers.
pub(crate) struct Rules {
    pub(crate) utf8: bool,
    pub(crate) icase: bool,
    pub(crate) dot_newline: bool,
    pub(crate) dot_null: bool,
}

impl Rules {
    fn lower(&self, c: u32) -> u32 {
        wctype::lower(c, self.utf8)
    }
    pub(crate) fn same(&self, a: u32, b: u32) -> bool {
        a == b
            || self.icase
                && (self.lower(a) == self.lower(b)
                    || wctype::upper(a, self.utf8) == wctype::upper(b, self.utf8))
    }
    pub(crate) fn any(&self, c: u32) -> bool {
        // A byte that is no character is matched by nothing but itself.
        !(c == b'\n' as u32 && !self.dot_newline || c == 0 && !self.dot_null || c & 0x4000_0000 != 0)
    }
    pub(crate) fn set(&self, set: &Set, c: u32) -> bool {
        let one = |c: u32| {
            set.ranges.iter().any(|&(low, high)| (low..=high).contains(&c))
                || set.classes.iter().any(|&class| wctype::is(c, class as usize, self.utf8))
                || set.underscore && c == b'_' as u32
        };
        let mut hit = one(c);
        if !hit && self.icase {
            hit = one(self.lower(c)) || one(wctype::upper(c, self.utf8));
        }
        hit != set.negated && (!set.negated || c & 0x4000_0000 == 0)
    }
    pub(crate) fn word(&self, c: u32) -> bool {
        c == b'_' as u32 || wctype::is(c, 12, self.utf8)
    }
}

/// Silences nothing: `wchar_t` is what [`characters_of`] gives.
const _: fn(&[u8]) -> Vec<wchar_t> = characters_of;
