//! glob(3): path names that match a pattern.
//!
//! A pattern is expanded (braces, tilde), cut at its slashes and walked: a part with magic characters
//! lists its directory, another one is taken as it stands, and the last is looked for.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::dir_read;
use crate::errno;
use crate::fnmatch;
use crate::malloc;
use crate::string::{copy, strlen};
use crate::text_env::getenv;
use crate::types::*;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

const ERR: c_int = 1;
const MARK: c_int = 2;
const NOSORT: c_int = 4;
const DOOFFS: c_int = 8;
const NOCHECK: c_int = 16;
const APPEND: c_int = 32;
const NOESCAPE: c_int = 64;
const PERIOD: c_int = 128;
const MAGCHAR: c_int = 256;
const ALTDIRFUNC: c_int = 512;
const BRACE: c_int = 1024;
const NOMAGIC: c_int = 2048;
const TILDE: c_int = 4096;
const ONLYDIR: c_int = 8192;
const TILDE_CHECK: c_int = 16384;

const NOSPACE: c_int = 1;
const ABORTED: c_int = 2;
const NOMATCH: c_int = 3;

type OnError = unsafe extern "C" fn(*const c_char, c_int) -> c_int;
type StatWith = unsafe extern "C" fn(*const c_char, *mut dir_read::Stat) -> c_int;

/// `glob_t`
#[repr(C)]
pub struct Glob {
    count: usize,
    paths: *mut *mut c_char,
    offset: usize,
    flags: c_int,
    closedir: Option<unsafe extern "C" fn(*mut c_void)>,
    readdir: Option<unsafe extern "C" fn(*mut c_void) -> *mut u8>,
    opendir: Option<unsafe extern "C" fn(*const c_char) -> *mut c_void>,
    lstat: Option<StatWith>,
    stat: Option<StatWith>,
}

struct Walk {
    flags: c_int,
    on_error: Option<OnError>,
    target: *mut Glob,
    found: Vec<Vec<u8>>,
}

fn has_magic(part: &[u8], escapes: bool) -> bool {
    let mut open = false;
    let mut at = 0;
    while at < part.len() {
        match part[at] {
            b'*' | b'?' => return true,
            b'\\' if escapes => at += 1,
            b'[' => open = true,
            b']' if open => return true,
            _ => {}
        }
        at += 1;
    }
    false
}

fn unescaped(part: &[u8], escapes: bool) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut at = 0;
    while at < part.len() {
        if escapes && part[at] == b'\\' && at + 1 < part.len() {
            at += 1;
        }
        plain.push(part[at]);
        at += 1;
    }
    plain
}

fn c_string(bytes: &[u8]) -> Vec<u8> {
    let mut text = bytes.to_vec();
    text.push(0);
    text
}

impl Walk {
    fn has(&self, flag: c_int) -> bool {
        self.flags & flag != 0
    }
    fn escapes(&self) -> bool {
        !self.has(NOESCAPE)
    }

    unsafe fn stat(&self, path: &[u8], follow: bool) -> Result<dir_read::Stat, Errno> {
        let alternative = if follow { (*self.target).stat } else { (*self.target).lstat };
        if let (true, Some(call)) = (self.has(ALTDIRFUNC), alternative) {
            let mut stat = dir_read::Stat::ZERO;
            return match call(c_string(path).as_ptr().cast(), &mut stat) {
                0 => Ok(stat),
                _ => Err(errno::get()),
            };
        }
        dir_read::stat(path, follow)
    }

    /// Names and kinds in a directory.
    unsafe fn list(&self, directory: &[u8]) -> Result<Vec<(Vec<u8>, u8)>, Errno> {
        let target = &*self.target;
        if let (true, Some(open), Some(next), Some(close)) =
            (self.has(ALTDIRFUNC), target.opendir, target.readdir, target.closedir)
        {
            let stream = open(c_string(if directory.is_empty() { b"." } else { directory }).as_ptr().cast());
            if stream.is_null() {
                return Err(errno::get());
            }
            let mut names = Vec::new();
            loop {
                let entry = next(stream);
                if entry.is_null() {
                    break;
                }
                // struct dirent: d_type at 18, d_name at 19.
                names.push((CStr::from_ptr(entry.add(19).cast()).to_bytes().to_vec(), *entry.add(18)));
            }
            close(stream);
            return Ok(names);
        }
        Ok(dir_read::read(directory)?.into_iter().map(|entry| (entry.name, entry.kind)).collect())
    }

    /// Goes on from `prefix` with the rest of a pattern.
    unsafe fn walk(&mut self, prefix: &[u8], rest: &[u8]) -> Result<(), c_int> {
        let slashes = rest.iter().take_while(|&&c| c == b'/').count();
        let mut prefix = prefix.to_vec();
        prefix.extend_from_slice(&rest[..slashes]);
        let rest = &rest[slashes..];
        if rest.is_empty() {
            if self.stat(&prefix, true).is_ok_and(|stat| slashes == 0 || stat.is_directory()) {
                self.found.push(prefix);
            }
            return Ok(());
        }
        let end = self.part_end(rest);
        let (part, after) = rest.split_at(end);
        if !has_magic(part, self.escapes()) {
            prefix.extend_from_slice(&unescaped(part, self.escapes()));
            if !after.is_empty() {
                return self.walk(&prefix, after);
            }
            if self.stat(&prefix, false).is_ok() {
                self.found.push(prefix);
            }
            return Ok(());
        }
        let names = match self.list(&prefix) {
            Ok(names) => names,
            Err(Errno(20)) => return Ok(()),
            Err(errno) => return self.failed(&prefix, errno),
        };
        let last = after.iter().all(|&c| c == b'/');
        if last {
            (*self.target).flags |= MAGCHAR;
        }
        // GLOB_PERIOD counts for the last part only, as in glibc.
        let mut flags = if self.has(PERIOD) && last { 0 } else { fnmatch::PERIOD };
        flags |= fnmatch::PATHNAME | if self.escapes() { 0 } else { fnmatch::NOESCAPE };
        let pattern = c_string(part);
        for (name, kind) in names {
            // DT_UNKNOWN, DT_DIR, DT_LNK may be directories.
            if (!after.is_empty() || self.has(ONLYDIR)) && !matches!(kind, 0 | 4 | 10) {
                continue;
            }
            let name = c_string(&name);
            if fnmatch::fnmatch(pattern.as_ptr().cast(), name.as_ptr().cast(), flags) != 0 {
                continue;
            }
            let mut path = prefix.clone();
            path.extend_from_slice(&name[..name.len() - 1]);
            if !after.is_empty() {
                self.walk(&path, after)?;
            } else if !self.has(ONLYDIR) || self.stat(&path, true).is_ok_and(|stat| stat.is_directory()) {
                self.found.push(path);
            }
        }
        Ok(())
    }

    /// Where the part of the pattern up to a slash ends; a slash in brackets ends it as well.
    fn part_end(&self, rest: &[u8]) -> usize {
        rest.iter().position(|&c| c == b'/').unwrap_or(rest.len())
    }

    unsafe fn failed(&self, directory: &[u8], errno: Errno) -> Result<(), c_int> {
        errno::set(errno);
        let stop = self.on_error.is_some_and(|call| {
            // SAFETY: the caller's function, called as glob(3) says.
            unsafe { call(c_string(directory).as_ptr().cast(), errno.0) != 0 }
        });
        if stop || self.has(ERR) { Err(ABORTED) } else { Ok(()) }
    }

    /// One pattern without braces: what it found, or itself.
    unsafe fn pattern(&mut self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, c_int> {
        let expanded = match self.tilde(pattern) {
            Some(expanded) => expanded,
            None if self.has(TILDE_CHECK) => return Err(NOMATCH),
            None => pattern.to_vec(),
        };
        // A bracket that is not closed matches itself, but counts (as in glibc).
        let magic = has_magic(&expanded, self.escapes()) || expanded.contains(&b'[');
        self.walk(b"", &expanded)?;
        let mut found = core::mem::take(&mut self.found);
        if found.is_empty() {
            if self.has(NOCHECK) || self.has(NOMAGIC) && !magic {
                return Ok(alloc::vec![pattern.to_vec()]);
            }
            return Ok(found);
        }
        if self.has(MARK) {
            for path in &mut found {
                if path.last() != Some(&b'/') && self.stat(path, true).is_ok_and(|stat| stat.is_directory()) {
                    path.push(b'/');
                }
            }
        }
        if !self.has(NOSORT) {
            found.sort_unstable();
        }
        Ok(found)
    }

    /// The pattern with `~` or `~user` replaced; `None` if there is no such directory.
    unsafe fn tilde(&self, pattern: &[u8]) -> Option<Vec<u8>> {
        if pattern.first() != Some(&b'~') || !self.has(TILDE | TILDE_CHECK) {
            return Some(pattern.to_vec());
        }
        let end = self.part_end(pattern);
        let home = if end == 1 {
            let home = getenv(c"HOME".as_ptr());
            if home.is_null() { home_of(None)? } else { CStr::from_ptr(home).to_bytes().to_vec() }
        } else {
            home_of(Some(&pattern[1..end]))?
        };
        Some([&home, &pattern[end..]].concat())
    }
}

/// The home directory in /etc/passwd of a user, or of ourselves.
fn home_of(user: Option<&[u8]>) -> Option<Vec<u8>> {
    let file = crate::tz::read_file(b"/etc/passwd").ok()?;
    // SAFETY: a system call without arguments.
    let uid = unsafe { crate::kcall!(getuid).ok()? };
    file.split(|&c| c == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&c| c == b':').collect();
        let own = || core::str::from_utf8(fields.get(2)?).ok()?.parse::<usize>().ok();
        let is = match user {
            Some(user) => fields[0] == user,
            None => own() == Some(uid),
        };
        (is && fields.len() >= 6).then(|| fields[5].to_vec())
    })
}

/// All patterns that the first brace of a pattern stands for, recursively; itself if there is none.
fn braces(pattern: &[u8], escapes: bool, all: &mut Vec<Vec<u8>>) {
    let Some((open, parts, close)) = brace(pattern, escapes) else {
        all.push(pattern.to_vec());
        return;
    };
    for (from, to) in parts {
        braces(&[&pattern[..open], &pattern[from..to], &pattern[close + 1..]].concat(), escapes, all);
    }
}

/// Where a brace opens, the bounds of its parts, where it closes.
type Brace = (usize, Vec<(usize, usize)>, usize);

/// The first brace that closes, `{}` aside.
fn brace(pattern: &[u8], escapes: bool) -> Option<Brace> {
    let open = (0..pattern.len()).find(|&at| {
        pattern[at] == b'{'
            && !pattern[at..].starts_with(b"{}")
            && !(escapes && at > 0 && pattern[at - 1] == b'\\')
    })?;
    let (mut parts, mut start, mut depth, mut at) = (Vec::new(), open + 1, 0, open + 1);
    while at < pattern.len() {
        match pattern[at] {
            b'\\' if escapes => at += 1,
            b'{' => depth += 1,
            b'}' if depth == 0 => {
                parts.push((start, at));
                return Some((open, parts, at));
            }
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push((start, at));
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Adds paths to the result in the caller's memory.
unsafe fn deliver(target: *mut Glob, flags: c_int, found: &[Vec<u8>]) -> Result<(), c_int> {
    let skip = if flags & DOOFFS != 0 { (*target).offset } else { 0 };
    let had = if flags & APPEND != 0 { (*target).count } else { 0 };
    let old = if flags & APPEND != 0 { (*target).paths } else { null_mut() };
    let size = (skip + had + found.len() + 1) * 8;
    let paths: *mut *mut c_char = malloc::realloc(old.cast(), size).cast();
    if paths.is_null() {
        return Err(NOSPACE);
    }
    if old.is_null() {
        (0..skip).for_each(|at| *paths.add(at) = null_mut());
    }
    (*target).paths = paths;
    (*target).count = had;
    for path in found {
        let text: *mut c_char = malloc::malloc(path.len() + 1).cast();
        let end = paths.add(skip + (*target).count);
        *end = text;
        if text.is_null() {
            return Err(NOSPACE);
        }
        copy(text, path.as_ptr().cast(), path.len());
        *text.add(path.len()) = 0;
        (*target).count += 1;
    }
    *paths.add(skip + (*target).count) = null_mut();
    Ok(())
}

abi! { EXPORTS "libc.so.6":
    /// glob(3).
    "GLIBC_2.27" fn glob(
        pattern: *const c_char, flags: c_int, on_error: Option<OnError>, target: *mut Glob,
    ) -> c_int {
        const KNOWN: c_int = 0x7fff;
        if pattern.is_null() || target.is_null() || flags & !KNOWN != 0 {
            errno::set(Errno(22));
            return -1;
        }
        if flags & DOOFFS == 0 {
            (*target).offset = 0;
        }
        if flags & APPEND == 0 {
            (*target).count = 0;
            (*target).paths = null_mut();
        }
        let text = CStr::from_ptr(pattern).to_bytes();
        let escapes = flags & NOESCAPE == 0;
        let mut patterns = Vec::new();
        if flags & BRACE != 0 {
            braces(text, escapes, &mut patterns);
        } else {
            patterns.push(text.to_vec());
        }
        (*target).flags = flags & !MAGCHAR;
        // With several patterns a missing one is no error as long as another is there.
        let fallback = flags & (NOCHECK | NOMAGIC);
        let several = patterns.len() > 1;
        let flags_each = if several { flags & !(NOCHECK | NOMAGIC) } else { flags };
        let mut walk = Walk { flags: flags_each, on_error, target, found: Vec::new() };
        let mut all = Vec::new();
        for pattern in &patterns {
            match walk.pattern(pattern) {
                Ok(found) => all.extend(found),
                Err(NOMATCH) => {}
                Err(code) => return code,
            }
        }
        if all.is_empty() {
            if !several || fallback == 0 {
                return NOMATCH;
            }
            all.push(text.to_vec());
        }
        deliver(target, flags, &all).err().unwrap_or(0)
    }
    /// globfree(3).
    "GLIBC_2.2.5" fn globfree(target: *mut Glob) {
        if (*target).paths.is_null() {
            return;
        }
        for at in 0..(*target).count {
            malloc::free((*(*target).paths.add((*target).offset + at)).cast());
        }
        malloc::free((*target).paths.cast());
        (*target).paths = null_mut();
    }
    /// Whether a pattern has magic characters (GNU).
    "GLIBC_2.2.5" fn glob_pattern_p(pattern: *const c_char, quote: c_int) -> c_int {
        let text = core::slice::from_raw_parts(pattern.cast::<u8>(), strlen(pattern));
        has_magic(text, quote != 0) as c_int
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.27" "glob64" = glob;
    compat "GLIBC_2.2.5" "glob" = glob;
    compat "GLIBC_2.2.5" "glob64" = glob;
    alias "GLIBC_2.2.5" "globfree64" = globfree;
}
