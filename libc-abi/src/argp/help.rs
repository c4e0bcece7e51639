//! What argp prints: usage, the list of options, and the words around it, laid out as the manual's examples and
//! glibc's programs have it (columns: short options 2, long ones 6, their description 29, headers 1; width 79).

use super::{
    ALIAS, Argp, ArgpOption, ArgpState, BUG_ADDRESS, DOC, ERROR_STATUS, NO_ERRS, NO_EXIT, NO_USAGE, OPTIONAL,
    children_of, options_of,
};
use crate::start::{PROGRAM_SHORT_NAME, exit};
use crate::stdio::bytes::fwrite;
use crate::stdio::file::FILE;
use crate::types::*;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ffi::CStr;

// ARGP_HELP_*
pub(super) const USAGE: c_uint = 1;
const SHORT_USAGE: c_uint = 2;
const SEE: c_uint = 4;
const LONG: c_uint = 8;
const PRE_DOC: c_uint = 0x10;
const POST_DOC: c_uint = 0x20;
const BUG_ADDR: c_uint = 0x40;
const EXIT_ERR: c_uint = 0x100;
pub(super) const EXIT_OK: c_uint = 0x200;
pub(super) const STD_ERR: c_uint = SEE | EXIT_ERR;
pub(super) const STD_USAGE: c_uint = SHORT_USAGE | SEE | EXIT_ERR;
pub(super) const STD_HELP: c_uint = SHORT_USAGE | LONG | EXIT_OK | PRE_DOC | POST_DOC | BUG_ADDR;

/// Keys of a help filter (ARGP_KEY_HELP_*).
const PRE_KEY: c_int = 0x200_0001;
const POST_KEY: c_int = 0x200_0002;
const HEADER_KEY: c_int = 0x200_0003;
const EXTRA_KEY: c_int = 0x200_0004;
const NOTE_KEY: c_int = 0x200_0005;
const ARGS_DOC_KEY: c_int = 0x200_0006;

const WIDTH: usize = 79;
const SHORT_COLUMN: usize = 2;
const LONG_COLUMN: usize = 6;
const DOC_COLUMN: usize = 29;
const HEADER_COLUMN: usize = 1;
const USAGE_INDENT: usize = 12;

/// The program's name for messages.
pub(super) unsafe fn name_of(state: *const ArgpState) -> *const c_char {
    if state.is_null() { PROGRAM_SHORT_NAME.load() } else { (*state).name }
}

/// argp_state_help's body.
pub(super) unsafe fn state_help(state: *mut ArgpState, stream: *mut FILE, flags: c_uint) {
    if !state.is_null() && (*state).flags & NO_ERRS != 0 || stream.is_null() {
        return;
    }
    let root = if state.is_null() { core::ptr::null() } else { (*state).root };
    print(root, state, stream, flags, name_of(state));
    if state.is_null() || (*state).flags & NO_EXIT == 0 {
        if flags & EXIT_ERR != 0 {
            exit(*ERROR_STATUS.get());
        }
        if flags & EXIT_OK != 0 {
            exit(0);
        }
    }
}

unsafe fn text<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() { b"" } else { CStr::from_ptr(text).to_bytes() }
}

/// Text that is filled to the width, with an indent for lines that go on.
struct Page {
    done: Vec<u8>,
    line: Vec<u8>,
    /// Of a line that begins.
    left: usize,
    /// Of one that is wrapped.
    wrap: usize,
}

impl Page {
    fn margins(&mut self, left: usize, wrap: usize) {
        self.fill();
        (self.left, self.wrap) = (left, wrap);
    }

    fn put(&mut self, text: &[u8]) {
        for &byte in text {
            if byte == b'\n' {
                self.fill();
                self.done.append(&mut self.line);
                self.done.push(b'\n');
            } else {
                if self.line.is_empty() {
                    self.line.resize(self.left, b' ');
                }
                self.line.push(byte);
            }
        }
    }

    fn column(&self) -> usize {
        if self.line.is_empty() { self.left } else { self.line.len() }
    }

    fn indent_to(&mut self, column: usize) {
        let missing = column.saturating_sub(self.column());
        self.put(&vec![b' '; missing]);
    }

    /// A blank, or a new line if what comes next has no room.
    fn space(&mut self, room: usize) {
        self.put(if self.column() + room >= WIDTH { b"\n" } else { b" " });
    }

    /// Breaks the line at blanks; a word that is longer than a line stays whole.
    fn fill(&mut self) {
        while self.line.len() >= WIDTH {
            let blank = |at: &usize| matches!(self.line[*at], b' ' | b'\t');
            let indent = self.line.iter().take_while(|byte| **byte == b' ').count();
            let most = WIDTH.min(self.line.len() - 1);
            let back = (indent..=most).rev().find(blank);
            let Some(at) = back.or_else(|| (most..self.line.len()).find(blank)) else { return };
            let rest = self.line[at..].iter().skip_while(|byte| matches!(byte, b' ' | b'\t')).copied();
            let rest: Vec<u8> = vec![b' '; self.wrap].into_iter().chain(rest).collect();
            self.line.truncate(at);
            while matches!(self.line.last(), Some(b' ' | b'\t')) {
                self.line.pop();
            }
            self.done.append(&mut self.line);
            self.done.push(b'\n');
            self.line = rest;
        }
    }
}

/// A child that has a header or a group of its own: its options stay together.
#[derive(Clone)]
struct Cluster {
    header: *const c_char,
    argp: *const Argp,
    /// Its group and number, and those that it stands in, outermost first.
    path: Vec<(c_int, usize)>,
}

/// An option with its aliases.
struct Entry {
    options: Vec<*const ArgpOption>,
    argp: *const Argp,
    group: c_int,
    cluster: Option<Cluster>,
}

impl Entry {
    unsafe fn real(&self) -> &ArgpOption {
        &*self.options[0]
    }
    unsafe fn visible(&self) -> impl Iterator<Item = &ArgpOption> {
        // SAFETY: the caller vouches for the program's parsers, whose options these are, as long as help is written.
        self.options.iter().map(|&option| unsafe { &*option }).filter(|option| option.is_visible())
    }
    unsafe fn letters(&self) -> Vec<u8> {
        self.visible().filter(|option| option.is_short()).map(|option| option.key as u8).collect()
    }
    unsafe fn names(&self) -> Vec<&[u8]> {
        self.visible().filter(|option| !option.name.is_null()).map(|option| text(option.name)).collect()
    }
    unsafe fn is_doc(&self) -> bool {
        self.real().flags & DOC != 0
    }
    /// Its argument behind an option's name.
    unsafe fn argument(&self, required: &[u8], optional: [&[u8]; 2]) -> Vec<u8> {
        let real = self.real();
        match (real.arg.is_null(), real.flags & OPTIONAL != 0) {
            (true, _) => Vec::new(),
            (_, true) => [optional[0], text(real.arg), optional[1]].concat(),
            (_, false) => [required, text(real.arg)].concat(),
        }
    }
}

/// Groups: 0 and above in their order, then those below 0.
fn by_group(a: c_int, b: c_int) -> Ordering {
    (a < 0, a).cmp(&(b < 0, b))
}

unsafe fn by_name(a: &Entry, b: &Entry) -> Ordering {
    // Clusters first by where they stand, against the groups of what stands beside them.
    let path = |entry: &Entry| {
        let mut path = entry.cluster.as_ref().map_or(Vec::new(), |cluster| cluster.path.clone());
        path.push((entry.group, 0));
        path
    };
    let (left, right) = (path(a), path(b));
    for (x, y) in left.iter().zip(&right) {
        let order = by_group(x.0, y.0).then(x.1.cmp(&y.1));
        if order != Ordering::Equal {
            return order;
        }
    }
    let order = a.is_doc().cmp(&b.is_doc());
    let first = |entry: &Entry| {
        entry
            .letters()
            .first()
            .copied()
            .or(entry.names().first().map(|name| name.first().copied().unwrap_or(0)))
    };
    let (x, y) = (first(a).unwrap_or(0), first(b).unwrap_or(0));
    let long_only = a.letters().is_empty() && b.letters().is_empty();
    let whole = match (long_only, a.names().first(), b.names().first()) {
        (true, Some(x), Some(y)) => x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase()),
        _ => x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase()).then(y.cmp(&x)),
    };
    order.then(whole)
}

unsafe fn collect(argp: *const Argp, cluster: Option<&Cluster>, entries: &mut Vec<Entry>) {
    let mut group = 0;
    for option in options_of(argp) {
        if option.flags & ALIAS != 0 {
            if let Some(entry) = entries.last_mut() {
                entry.options.push(option);
            }
            continue;
        }
        group = match (option.group, option.name.is_null() && option.key == 0) {
            (0, true) => group + 1,
            (0, false) => group,
            (given, _) => given,
        };
        entries.push(Entry { options: vec![option], argp, group, cluster: cluster.cloned() });
    }
    for (index, child) in children_of(argp).iter().enumerate() {
        let own = (child.group != 0 || !child.header.is_null()).then(|| {
            let mut path = cluster.map_or(Vec::new(), |outer| outer.path.clone());
            path.push((child.group, index + 1));
            Cluster { header: child.header, argp, path }
        });
        collect(child.argp, own.as_ref().or(cluster), entries);
    }
}

/// Prints what `flags` ask for.
pub(super) unsafe fn print(
    argp: *const Argp,
    state: *mut ArgpState,
    stream: *mut FILE,
    flags: c_uint,
    name: *const c_char,
) {
    let mut entries = Vec::new();
    if !argp.is_null() {
        collect(argp, None, &mut entries);
    }
    entries.sort_by(|a, b| by_name(a, b));
    let page = Page { done: Vec::new(), line: Vec::new(), left: 0, wrap: 0 };
    let mut help = Help { page, state, name: text(name), separate: false, note: false };
    let mut anything = false;
    if flags & (USAGE | SHORT_USAGE) != 0 && !argp.is_null() {
        help.usage(argp, &entries, flags & SHORT_USAGE != 0);
        anything = true;
    }
    if flags & PRE_DOC != 0 && !argp.is_null() {
        anything |= help.document(argp, false, false, true);
    }
    if flags & SEE != 0 {
        let name = help.name;
        help.page
            .put(&[b"Try `", name, b" --help' or `", name, b" --usage' for more information.\n"].concat());
        anything = true;
    }
    if flags & LONG != 0 && !entries.is_empty() {
        if anything {
            help.page.put(b"\n");
        }
        help.list(argp, &entries);
        anything = true;
    }
    if flags & POST_DOC != 0 && !argp.is_null() {
        anything |= help.document(argp, true, anything, false);
    }
    if flags & BUG_ADDR != 0 && !BUG_ADDRESS.load().is_null() {
        if anything {
            help.page.put(b"\n");
        }
        help.page.put(&[b"Report bugs to ", text(BUG_ADDRESS.load()), b".\n"].concat());
    }
    help.page.fill();
    let Page { mut done, mut line, .. } = help.page;
    done.append(&mut line);
    fwrite(done.as_ptr().cast(), 1, done.len(), stream);
}

struct Help<'a> {
    page: Page,
    state: *mut ArgpState,
    name: &'a [u8],
    /// Groups are set apart: one has a header.
    separate: bool,
    /// A short option's argument was left out, because the long one shows it.
    note: bool,
}

impl Help<'_> {
    /// Lets a parser's filter change a text.
    unsafe fn filtered(&self, given: &[u8], key: c_int, argp: *const Argp) -> Option<Vec<u8>> {
        let filter = (!argp.is_null()).then(|| (*argp).help_filter).flatten();
        let Some(filter) = filter else { return (!given.is_empty()).then(|| given.to_vec()) };
        let own = [given, b"\0"].concat();
        let input = if self.state.is_null() { core::ptr::null_mut() } else { (*self.state).input };
        let pointer = if given.is_empty() { core::ptr::null() } else { own.as_ptr().cast() };
        let answer = filter(key, pointer, input);
        let changed = (!answer.is_null()).then(|| text(answer).to_vec());
        if !answer.is_null() && answer.cast_const() != pointer {
            crate::malloc::free(answer.cast());
        }
        changed
    }

    unsafe fn usage(&mut self, argp: *const Argp, entries: &[Entry], short: bool) {
        let mut patterns = Vec::new();
        self.patterns(argp, &mut patterns);
        let count = patterns.iter().map(|pattern| pattern.len()).product::<usize>().max(1);
        for nth in 0..count {
            self.page.margins(0, USAGE_INDENT);
            let lead: &[u8] = if nth == 0 { b"Usage: " } else { b"  or:  " };
            self.page.put(&[lead, self.name].concat());
            self.page.margins(USAGE_INDENT, USAGE_INDENT);
            if nth > 0 || short {
                if !entries.is_empty() {
                    self.page.put(b" [OPTION...]");
                }
            } else {
                self.every_option(entries);
            }
            // The last parser's alternatives change fastest.
            let mut rest = nth;
            let mut chosen: Vec<&[u8]> = Vec::new();
            for pattern in patterns.iter().rev() {
                chosen.push(&pattern[rest % pattern.len()]);
                rest /= pattern.len();
            }
            for words in chosen.iter().rev().filter(|words| !words.is_empty()) {
                self.page.space(1 + words.len());
                self.page.put(words);
            }
            self.page.margins(0, 0);
            self.page.put(b"\n");
        }
    }

    /// Alternatives of the operands, for each parser that has any.
    unsafe fn patterns(&self, argp: *const Argp, out: &mut Vec<Vec<Vec<u8>>>) {
        if let Some(doc) = self.filtered(text((*argp).args_doc), ARGS_DOC_KEY, argp) {
            out.push(doc.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect());
        }
        for child in children_of(argp) {
            self.patterns(child.argp, out);
        }
    }

    unsafe fn every_option(&mut self, entries: &[Entry]) {
        let real = |entry: &&Entry| entry.real().flags & (DOC | NO_USAGE) == 0;
        let plain: Vec<u8> = entries
            .iter()
            .filter(real)
            .filter(|entry| entry.real().arg.is_null())
            .flat_map(|entry| entry.letters())
            .collect();
        if !plain.is_empty() {
            self.page.put(&[b" [-", &plain[..], b"]"].concat());
        }
        for entry in entries.iter().filter(real).filter(|entry| !entry.real().arg.is_null()) {
            for letter in entry.letters() {
                let word = [b"[-", &[letter][..], &entry.argument(b" ", [b"[", b"]"]), b"]"].concat();
                self.page.space(1 + word.len());
                self.page.put(&word);
            }
        }
        for entry in entries.iter().filter(real) {
            for name in entry.names() {
                let word = [b"[--", name, &entry.argument(b"=", [b"[=", b"]"]), b"]"].concat();
                self.page.space(1 + word.len());
                self.page.put(&word);
            }
        }
    }

    /// The words before (or after) the options; in `doc` a vertical tab stands between.
    unsafe fn document(&mut self, argp: *const Argp, after: bool, blank: bool, first_only: bool) -> bool {
        let doc = text((*argp).doc);
        let mut parts = doc.splitn(2, |&byte| byte == 0x0b);
        let (before, behind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (part, key) = if after { (behind, POST_KEY) } else { (before, PRE_KEY) };
        let mut anything = false;
        if let Some(words) = self.filtered(part, key, argp) {
            self.paragraph(&words, blank);
            anything = true;
        }
        if after && let Some(words) = self.filtered(b"", EXTRA_KEY, argp) {
            self.paragraph(&words, anything || blank);
            anything = true;
        }
        for child in children_of(argp) {
            if first_only && anything {
                break;
            }
            anything |= self.document(child.argp, after, anything || blank, first_only);
        }
        anything
    }

    fn paragraph(&mut self, words: &[u8], blank: bool) {
        if blank {
            self.page.put(b"\n");
        }
        self.page.put(words);
        if !self.page.line.is_empty() {
            self.page.put(b"\n");
        }
    }

    unsafe fn list(&mut self, argp: *const Argp, entries: &[Entry]) {
        let mut before: Option<&Entry> = None;
        for entry in entries {
            if self.entry(entry, before) {
                before = Some(entry);
            }
        }
        if self.note {
            let note =
                b"Mandatory or optional arguments to long options are also mandatory or optional for any \
                         corresponding short options.";
            if let Some(note) = self.filtered(note, NOTE_KEY, argp) {
                self.page.put(b"\n");
                self.page.put(&note);
                self.page.put(b"\n");
            }
        }
    }

    unsafe fn header(&mut self, header: &[u8], argp: *const Argp, first: bool) {
        if let Some(words) = self.filtered(header, HEADER_KEY, argp) {
            if !first {
                self.page.put(b"\n");
            }
            self.page.margins(HEADER_COLUMN, HEADER_COLUMN);
            self.page.put(&words);
            self.page.margins(0, 0);
            self.page.put(b"\n");
        }
        self.separate = true;
    }

    /// One option; whether anything was printed.
    unsafe fn entry(&mut self, entry: &Entry, before: Option<&Entry>) -> bool {
        let (letters, names) = (entry.letters(), entry.names());
        let real = entry.real();
        if letters.is_empty() && names.is_empty() {
            if real.name.is_null() && !real.is_short() && !real.doc.is_null() {
                self.header(text(real.doc), entry.argp, before.is_none());
                return true;
            }
            return false;
        }
        if self.separate && before.is_some_and(|before| before.group != entry.group) {
            self.page.put(b"\n");
        }
        if let Some(cluster) = &entry.cluster
            && !text(cluster.header).is_empty()
            && before.is_none_or(|before| {
                !before.cluster.as_ref().is_some_and(|other| other.path.starts_with(&cluster.path))
            })
        {
            self.header(text(cluster.header), cluster.argp, before.is_none());
        }
        self.page.margins(0, SHORT_COLUMN);
        let mut first = true;
        let mut part = |page: &mut Page, column: usize| {
            if !core::mem::take(&mut first) {
                page.put(b", ");
            }
            page.indent_to(column);
        };
        for &letter in &letters {
            part(&mut self.page, SHORT_COLUMN);
            self.page.put(&[b'-', letter]);
            match names.is_empty() {
                true => self.page.put(&entry.argument(b" ", [b"[", b"]"])),
                false => self.note |= !real.arg.is_null(),
            }
        }
        for name in &names {
            if entry.is_doc() {
                part(&mut self.page, SHORT_COLUMN);
                self.page.put(name);
            } else {
                part(&mut self.page, LONG_COLUMN);
                self.page.put(b"--");
                self.page.put(name);
                self.page.put(&entry.argument(b"=", [b"[=", b"]"]));
            }
        }
        if let Some(words) = self.filtered(text(real.doc), real.key, entry.argp) {
            let column = self.page.column();
            self.page.margins(DOC_COLUMN, DOC_COLUMN);
            match column {
                _ if column > DOC_COLUMN + 3 => self.page.put(b"\n"),
                _ if column >= DOC_COLUMN => self.page.put(b"   "),
                _ => self.page.indent_to(DOC_COLUMN),
            }
            self.page.put(&words);
        }
        self.page.margins(0, 0);
        self.page.put(b"\n");
        true
    }
}
