//! Netgroups, named sets of (host, user, domain): `/etc/netgroup`, setnetgrent(3) and its kin.
//!
//! A group may name other groups; each is opened once, the latest that was named first, as by glibc. A field that is left
//! out stands for all and is told as a null pointer.

use super::files;
use super::inet::bytes;
use super::nss;
use super::pack::{Packer, Record, Slot};
use crate::errno;
use crate::types::{c_char, c_int};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use platform::Errno;

/// Host, user, domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triple(pub [Option<Vec<u8>>; 3]);

impl Record for Triple {
    type C = [*mut c_char; 3];
    fn pack(&self, to: &mut Packer) -> Option<[*mut c_char; 3]> {
        let mut packed = [null_mut(); 3];
        for (place, field) in packed.iter_mut().zip(&self.0) {
            if let Some(text) = field {
                *place = to.string(text)?;
            }
        }
        Some(packed)
    }
}

/// What stands behind a group's name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    Triple(Triple),
    Group(Vec<u8>),
}

/// The members of a group; a line goes on behind a backslash at its end.
fn members(text: &[u8], group: &[u8]) -> Option<VecDeque<Member>> {
    let mut lines = files::lines(text);
    while let Some(first) = lines.next() {
        let mut line = first.to_vec();
        while line.last() == Some(&b'\\') {
            line.pop();
            line.push(b' ');
            line.extend_from_slice(lines.next().unwrap_or_default());
        }
        let rest = line.strip_prefix(group).filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace));
        if let Some(rest) = rest {
            return Some(parse(rest));
        }
    }
    None
}

/// Up to what is neither a name nor a whole triple.
fn parse(line: &[u8]) -> VecDeque<Member> {
    let mut found = VecDeque::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let end = if rest[0] == b'(' {
            let Some(end) = rest.iter().position(|&b| b == b')') else { break };
            let mut fields = rest[1..end].splitn(3, |&b| b == b',').map(<[u8]>::trim_ascii);
            let (Some(host), Some(user), Some(domain)) = (fields.next(), fields.next(), fields.next()) else {
                break;
            };
            let field = |text: &[u8]| (!text.is_empty()).then(|| text.to_vec());
            found.push_back(Member::Triple(Triple([host, user, domain].map(field))));
            end + 1
        } else {
            let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
            found.push_back(Member::Group(rest[..end].to_vec()));
            end
        };
        rest = rest[end..].trim_ascii_start();
    }
    found
}

/// A way through a group and those that it names.
struct Walk {
    text: Vec<u8>,
    known: Vec<Vec<u8>>,
    wanted: Vec<Vec<u8>>,
    members: VecDeque<Member>,
}

impl Walk {
    /// `None`: there is no such group.
    fn begin(group: &[u8]) -> Option<Walk> {
        if group.is_empty() || !nss::has_netgroups() {
            return None;
        }
        let text = files::read(c"/etc/netgroup").ok()?;
        let members = members(&text, group)?;
        Some(Walk { text, known: alloc::vec![group.to_vec()], wanted: Vec::new(), members })
    }

    fn next(&mut self) -> Option<Triple> {
        loop {
            match self.members.pop_front() {
                Some(Member::Triple(triple)) => return Some(triple),
                Some(Member::Group(name)) => {
                    if !self.known.contains(&name) {
                        self.known.push(name.clone());
                        self.wanted.push(name);
                    }
                }
                None => self.members = members(&self.text, &self.wanted.pop()?).unwrap_or_default(),
            }
        }
    }
}

impl Walk {
    fn meets(&mut self, wish: [Option<&[u8]>; 3]) -> bool {
        core::iter::from_fn(|| self.next()).any(|triple| fits(&triple, &wish))
    }
}

/// Where getnetgrent(3) stands; taken out while it is used, as [`files::Position`].
static WALK: AtomicPtr<Walk> = AtomicPtr::new(null_mut());
static TRIPLE: Slot = Slot::new();

fn put(walk: Option<Walk>) {
    let new = walk.map_or(null_mut(), |walk| Box::into_raw(Box::new(walk)));
    let old = WALK.swap(new, Ordering::AcqRel);
    if !old.is_null() {
        // SAFETY: from Box::into_raw, and nobody else has it now.
        drop(unsafe { Box::from_raw(old) });
    }
}

fn take() -> Option<Walk> {
    let walk = WALK.swap(null_mut(), Ordering::AcqRel);
    // SAFETY: as in `put`.
    (!walk.is_null()).then(|| *unsafe { Box::from_raw(walk) })
}

/// A wish of innetgr(3) is met by what is left out on either side; hosts and domains have no case.
fn fits(triple: &Triple, wish: &[Option<&[u8]>; 3]) -> bool {
    const USER: usize = 1;
    triple.0.iter().zip(wish).enumerate().all(|(at, pair)| match pair {
        (Some(given), Some(wanted)) if at == USER => given == wanted,
        (Some(given), Some(wanted)) => given.eq_ignore_ascii_case(wanted),
        _ => true,
    })
}

abi! { EXPORTS "libc.so.6":
    /// setnetgrent(3): 1 if there is such a group.
    "GLIBC_2.2.5" fn setnetgrent(group: *const c_char) -> c_int {
        // SAFETY: the caller's string.
        let walk = Walk::begin(unsafe { bytes(group) });
        let found = walk.is_some();
        put(walk);
        c_int::from(found)
    }
    /// endnetgrent(3).
    "GLIBC_2.2.5" fn endnetgrent() { put(None) }
    /// getnetgrent(3): 1 for each triple, 0 at the end.
    "GLIBC_2.2.5" fn getnetgrent(
        host: *mut *mut c_char, user: *mut *mut c_char, domain: *mut *mut c_char,
    ) -> c_int {
        let Some(mut walk) = take() else { return 0 };
        let next = walk.next();
        put(Some(walk));
        let place = TRIPLE.fill(Ok(next));
        if place.is_null() {
            return 0;
        }
        // SAFETY: the record just written; the caller's variables.
        unsafe { give(place.read(), [host, user, domain]) }
    }
    /// getnetgrent_r(3): with ERANGE the same triple comes again.
    "GLIBC_2.2.5" fn getnetgrent_r(
        host: *mut *mut c_char, user: *mut *mut c_char, domain: *mut *mut c_char, buffer: *mut c_char, len: usize,
    ) -> c_int {
        let Some(mut walk) = take() else { return 0 };
        let next = walk.next();
        // SAFETY: the caller's buffer.
        let packed = next.as_ref().map(|next| next.pack(&mut unsafe { Packer::new(buffer.cast(), len) }));
        if let (Some(next), Some(None)) = (next, &packed) {
            walk.members.push_front(Member::Triple(next));
            errno::set(Errno::ERANGE);
        }
        put(Some(walk));
        match packed.flatten() {
            // SAFETY: the caller's variables.
            Some(packed) => unsafe { give(packed, [host, user, domain]) },
            None => 0,
        }
    }
    /// innetgr(3).
    "GLIBC_2.2.5" fn innetgr(
        group: *const c_char, host: *const c_char, user: *const c_char, domain: *const c_char,
    ) -> c_int {
        // SAFETY: the caller's strings; null where anything will do.
        let wish = [host, user, domain].map(|text| (!text.is_null()).then(|| unsafe { bytes(text) }));
        // SAFETY: the caller's string.
        c_int::from(!group.is_null() && in_netgroup(unsafe { bytes(group) }, wish))
    }
}

/// Whether a group or one that it names has such a triple; `None` stands for any.
pub fn in_netgroup(group: &[u8], wish: [Option<&[u8]>; 3]) -> bool {
    Walk::begin(group).is_some_and(|mut walk| walk.meets(wish))
}

unsafe fn give(from: [*mut c_char; 3], to: [*mut *mut c_char; 3]) -> c_int {
    for (to, from) in to.into_iter().zip(from) {
        // SAFETY: the caller's variables.
        unsafe { to.write(from) };
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(text: &str, group: &str) -> Walk {
        let members = members(text.as_bytes(), group.as_bytes()).unwrap_or_default();
        Walk { text: text.into(), known: alloc::vec![group.into()], wanted: Vec::new(), members }
    }

    fn walk(text: &str, group: &str) -> Vec<std::string::String> {
        let mut walk = begin(text, group);
        let name =
            |field: Option<Vec<u8>>| field.map_or("-".into(), |t| std::string::String::from_utf8(t).unwrap());
        core::iter::from_fn(|| walk.next()).map(|triple| triple.0.map(name).join(" ")).collect()
    }

    #[test]
    fn groups_name_groups() {
        let text = "# a comment\nall one two (last,,)\none (h1,u1,d1)( h2 , , d2 )\\\n  three\ntwo (,u3,) one all none\n\
                    three (h4,u4)\nonesuch (x,y,z)\nbroken (a,b,c) (d,e\n";
        assert_eq!(walk(text, "one"), ["h1 u1 d1", "h2 - d2"]);
        assert_eq!(walk(text, "all"), ["last - -", "- u3 -", "h1 u1 d1", "h2 - d2"]);
        assert_eq!(walk(text, "three"), Vec::<&str>::new());
        assert_eq!(walk(text, "broken"), ["a b c"]);
        assert_eq!(members(text.as_bytes(), b"on"), None);
    }

    #[test]
    fn netgroups_contain_triples_and_each_other() {
        const TABLE: &str = "# comment\nstaff (alpha,ann,) (beta,bob,here) \\\n  (,carol,)\nall staff more\nmore all (gamma,-,)\n";
        let is = |group: &str, host: Option<&str>, user: Option<&str>, domain: Option<&str>| {
            begin(TABLE, group).meets([host, user, domain].map(|o| o.map(str::as_bytes)))
        };
        assert!(is("staff", Some("ALPHA"), Some("ann"), None));
        assert!(is("all", Some("beta"), Some("bob"), Some("here")));
        assert!(is("all", Some("anywhere"), Some("carol"), None) && is("more", Some("gamma"), None, None));
        assert!(!is("staff", Some("alpha"), Some("ANN"), None));
        assert!(!is("staff", Some("beta"), Some("bob"), Some("there")));
        assert!(!is("more", Some("gamma"), Some("dora"), None) && !is("none", None, None, None));
    }

    #[test]
    fn a_wish_is_met_by_what_is_left_out() {
        let triple = Triple([Some(b"Host".to_vec()), Some(b"ann".to_vec()), None]);
        assert!(fits(&triple, &[Some(b"hOST"), None, Some(b"any")]));
        assert!(!fits(&triple, &[None, Some(b"Ann"), None]) && !fits(&triple, &[Some(b"h"), None, None]));
    }
}
