//! Mail aliases, `/etc/aliases`: getaliasbyname(3) and its kin.
//!
//! A record is a name, a colon and members between commas; lines that begin with a blank go on with it.
//! `:include:FILE` stands for the members in a file, one or more a line.

use crate::netdb::files::{self, without_comment};
use crate::netdb::inet::bytes;
use crate::netdb::nss;
use crate::netdb::pack::{Packer, Record, Slot, reentrant};
use crate::types::{c_char, c_int};
use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::Errno;

/// A record of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Name.
    pub name: Vec<u8>,
    /// Addressees.
    pub members: Vec<Vec<u8>>,
}

/// `struct aliasent`
#[repr(C)]
pub struct aliasent {
    alias_name: *mut c_char,
    alias_members_len: usize,
    alias_members: *mut *mut c_char,
    alias_local: c_int,
}

impl Record for Alias {
    type C = aliasent;
    fn pack(&self, to: &mut Packer) -> Option<aliasent> {
        Some(aliasent {
            alias_members: to.strings(&self.members)?,
            alias_members_len: self.members.len(),
            alias_name: to.string(&self.name)?,
            alias_local: 1,
        })
    }
}

const PATH: &CStr = c"/etc/aliases";

/// All records, and what files they include.
fn all() -> Result<Vec<Alias>, Errno> {
    if !nss::is_asked(PATH.to_bytes()) {
        return Ok(Vec::new());
    }
    Ok(parse(&files::read(PATH)?, &|path| files::read(path).ok()))
}

fn parse(text: &[u8], include: &dyn Fn(&CStr) -> Option<Vec<u8>>) -> Vec<Alias> {
    let mut found: Vec<Alias> = Vec::new();
    // Whether the line before began a record, or went on with one.
    let mut open = false;
    for line in files::lines(text).map(without_comment) {
        let goes_on = line.first().is_some_and(u8::is_ascii_whitespace);
        if goes_on && open {
            if let Some(last) = found.last_mut() {
                add(&mut last.members, line, include);
            }
            continue;
        }
        let line = line.trim_ascii_start();
        let colon = line.iter().position(|&b| b == b':').filter(|&at| at > 0);
        open = colon.is_some();
        if let Some(colon) = colon {
            let mut alias = Alias { name: line[..colon].to_vec(), members: Vec::new() };
            add(&mut alias.members, &line[colon + 1..], include);
            found.push(alias);
        }
    }
    found
}

fn add(members: &mut Vec<Vec<u8>>, line: &[u8], include: &dyn Fn(&CStr) -> Option<Vec<u8>>) {
    for member in split(line) {
        match member.strip_prefix(b":include:") {
            None => members.push(member.to_vec()),
            Some(path) => {
                let text = CString::new(path).ok().and_then(|path| include(&path)).unwrap_or_default();
                members.extend(files::lines(&text).map(without_comment).flat_map(split).map(<[u8]>::to_vec));
            }
        }
    }
}

/// Blanks before a member are passed over, those behind it are its own.
fn split(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&b| b == b',').map(<[u8]>::trim_ascii_start).filter(|member| !member.is_empty())
}

fn by_name(name: &[u8]) -> Result<Option<Alias>, Errno> {
    Ok(all()?.into_iter().find(|alias| alias.name.eq_ignore_ascii_case(name)))
}

/// How many records getaliasent(3) has told.
static TOLD: AtomicUsize = AtomicUsize::new(0);
static ALIAS: Slot = Slot::new();

fn nth(at: usize) -> Result<Option<Alias>, Errno> {
    Ok(all()?.into_iter().nth(at))
}

abi! { EXPORTS "libc.so.6":
    /// getaliasbyname(3).
    "GLIBC_2.2.5" fn getaliasbyname(name: *const c_char) -> *mut aliasent {
        // SAFETY: the caller's string.
        ALIAS.fill(by_name(unsafe { bytes(name) }))
    }
    /// getaliasbyname_r(3).
    "GLIBC_2.2.5" fn getaliasbyname_r(
        name: *const c_char, out: *mut aliasent, buffer: *mut c_char, len: usize, result: *mut *mut aliasent,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { reentrant(by_name(bytes(name)), out, buffer, len, result) }
    }
    /// getaliasent(3).
    "GLIBC_2.2.5" fn getaliasent() -> *mut aliasent {
        ALIAS.fill(nth(TOLD.fetch_add(1, Ordering::Relaxed)))
    }
    /// getaliasent_r(3).
    "GLIBC_2.2.5" fn getaliasent_r(
        out: *mut aliasent, buffer: *mut c_char, len: usize, result: *mut *mut aliasent,
    ) -> c_int {
        let found = nth(TOLD.load(Ordering::Relaxed));
        let at_end = found == Ok(None);
        // SAFETY: the caller's buffers.
        let answer = unsafe { reentrant(found, out, buffer, len, result) };
        if answer != Errno::ERANGE.0 {
            TOLD.fetch_add(1, Ordering::Relaxed);
        }
        if at_end { Errno::ENOENT.0 } else { answer }
    }
    /// setaliasent(3).
    "GLIBC_2.2.5" fn setaliasent() { TOLD.store(0, Ordering::Relaxed) }
    /// endaliasent(3).
    "GLIBC_2.2.5" fn endaliasent() { TOLD.store(0, Ordering::Relaxed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_on_and_include() {
        let text = b"# comment: no\nroot: ann, bob\n\tcarl\n\npostmaster:root\n  lost\nlist: x,:include:/l ,y\nbad\n nor: this\n:no";
        let include = |path: &CStr| (path == c"/l ").then(|| b"one, two\n three # 3\n# four\n\n".to_vec());
        let told: Vec<_> = parse(text, &include)
            .into_iter()
            .map(|alias| {
                std::string::String::from_utf8([alias.name, alias.members.join(&b'|')].join(&b'=')).unwrap()
            })
            .collect();
        assert_eq!(
            told,
            ["root=ann|bob|carl", "postmaster=root|lost", "list=x|one|two|three |y", "nor=this"]
        );
    }
}
