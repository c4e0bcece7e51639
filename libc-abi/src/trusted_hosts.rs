//! Trusted hosts: ruserok(3) from /etc/hosts.equiv and `~/.rhosts`. Programs link them (sshd) and hardly ever ask.

use crate::ids::seteuid;
use crate::netdb::addrinfo::{addrinfo, freeaddrinfo, getaddrinfo};
use crate::netdb::files;
use crate::netdb::inet::bytes;
use crate::netdb::netgroup::in_netgroup;
use crate::types::*;
use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ptr::{null, null_mut};

/// `sa_family_t` of sys/socket.h.
#[allow(non_camel_case_types)]
type sa_family_t = u16;

/// `__check_rhosts_file`: whether `~/.rhosts` is asked at all.
pub static CHECK_RHOSTS_FILE: crate::data::DataCell<c_int> = crate::data::DataCell::new(1);

abi! { EXPORTS "libc.so.6":
    /// ruserok(3): 0 if the remote user may be the local one, else -1.
    "GLIBC_2.2.5" fn ruserok(
        host: *const c_char, superuser: c_int, remote: *const c_char, local: *const c_char,
    ) -> c_int {
        const AF_INET: sa_family_t = 2;
        // SAFETY: the program's strings.
        unsafe { ruserok_af(host, superuser, remote, local, AF_INET) }
    }
    /// ruserok_af(3).
    "GLIBC_2.2.5" fn ruserok_af(
        host: *const c_char, superuser: c_int, remote: *const c_char, local: *const c_char, family: sa_family_t,
    ) -> c_int {
        // SAFETY: the program's strings.
        let (remote, local) = unsafe { (bytes(remote), bytes(local)) };
        // SAFETY: as above.
        let peer = Peer { name: unsafe { bytes(host) }, addresses: addresses(unsafe { bytes(host) }, family), family };
        if peer.addresses.is_empty() {
            return -1;
        }
        let system = superuser == 0
            && trusted_file(c"/etc/hosts.equiv", 0).is_some_and(|list| allows(&list, &peer, remote, local));
        if system || own_list(local).is_some_and(|list| allows(&list, &peer, remote, local)) { 0 } else { -1 }
    }
}

exports! { DATA "libc.so.6":
    cell "GLIBC_2.2.5" "__check_rhosts_file" 4 = CHECK_RHOSTS_FILE;
}

/// Who asks.
struct Peer<'a> {
    name: &'a [u8],
    addresses: Vec<Vec<u8>>,
    family: sa_family_t,
}

/// The addresses of a name, as raw socket addresses' address bytes.
fn addresses(name: &[u8], family: sa_family_t) -> Vec<Vec<u8>> {
    const SOCK_STREAM: c_int = 1;
    let Ok(name) = CString::new(name) else { return Vec::new() };
    let mut hints = addrinfo::empty();
    hints.ai_family = c_int::from(family);
    hints.ai_socktype = SOCK_STREAM;
    let mut list: *mut addrinfo = null_mut();
    let mut found = Vec::new();
    // SAFETY: strings and structures of ours; the list is the callee's until it is freed.
    unsafe {
        if getaddrinfo(name.as_ptr(), null(), &raw const hints, &raw mut list) != 0 {
            return found;
        }
        let mut at = list;
        while !at.is_null() {
            // sockaddr_in: address at 4, four bytes; sockaddr_in6: at 8, sixteen.
            let (offset, len) = if (*at).ai_family == 2 { (4, 4) } else { (8, 16) };
            found.push(core::slice::from_raw_parts((*at).ai_addr.cast::<u8>().add(offset), len).to_vec());
            at = (*at).ai_next;
        }
        freeaddrinfo(list);
    }
    found
}

/// The content of a list that nobody but `owner` (or root) could have written; without a file, `None`.
fn trusted_file(path: &core::ffi::CStr, owner: uid_t) -> Option<Vec<u8>> {
    const AT_FDCWD: isize = -100;
    const AT_SYMLINK_NOFOLLOW: usize = 0x100;
    // struct stat: mode at 24, uid at 28.
    let mut stat = [0u32; 36];
    // SAFETY: a C string and a structure of 144 bytes.
    unsafe { crate::kcall!(newfstatat, AT_FDCWD, path.as_ptr(), stat.as_mut_ptr(), AT_SYMLINK_NOFOLLOW) }
        .ok()?;
    let (mode, uid) = (stat[6], stat[7]);
    let regular = mode & 0o170_000 == 0o100_000;
    (regular && mode & 0o022 == 0 && (uid == 0 || uid == owner)).then(|| files::read(path).ok()).flatten()
}

/// The local user's own list, read with that user's rights.
fn own_list(local: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: a C int of ours, perhaps moved into the program.
    if unsafe { *CHECK_RHOSTS_FILE.get() } == 0 {
        return None;
    }
    let account = crate::pwd::by_name(local).ok()??;
    let mut path = account.home;
    path.extend_from_slice(b"/.rhosts");
    let path = CString::new(path).ok()?;
    // SAFETY: these take no pointers.
    let before = unsafe { crate::ids::geteuid() };
    // SAFETY: as above.
    let changed = unsafe { seteuid(account.uid) } == 0;
    let list = trusted_file(&path, account.uid);
    if changed {
        // SAFETY: as above.
        unsafe { seteuid(before) };
    }
    list
}

/// hosts.equiv(5): `host [user]`, with "+" for any, "-" for a refusal, "@" for netgroups. The first line
/// that decides, decides; without a user the names must be the same.
fn allows(list: &[u8], peer: &Peer<'_>, remote: &[u8], local: &[u8]) -> bool {
    for line in files::lines(list) {
        let mut words = files::words(line);
        let Some(host) = words.next() else { continue };
        let hit = matches_entry(host, |name| peer.is(name), |group| netgroup(group, Some(peer.name), None));
        if hit == 0 {
            continue;
        }
        let user = match words.next() {
            None => i32::from(remote == local),
            Some(user) => {
                matches_entry(user, |name| name == remote, |group| netgroup(group, None, Some(remote)))
            }
        };
        match (hit, user) {
            (-1, _) | (_, -1) => return false,
            (_, 1) => return true,
            _ => (),
        }
    }
    false
}

impl Peer<'_> {
    fn is(&self, name: &[u8]) -> bool {
        addresses(name, self.family).iter().any(|a| self.addresses.contains(a))
    }
}

fn netgroup(group: &[u8], host: Option<&[u8]>, user: Option<&[u8]>) -> bool {
    in_netgroup(group, [host, user, None])
}

/// 1: it is meant, -1: it is refused, 0: another one is meant.
fn matches_entry(word: &[u8], same: impl Fn(&[u8]) -> bool, group: impl Fn(&[u8]) -> bool) -> i32 {
    match word {
        b"+" => 1,
        [b'+', b'@', name @ ..] => i32::from(group(name)),
        [b'-', b'@', name @ ..] => -i32::from(group(name)),
        [b'-', name @ ..] => -i32::from(same(name)),
        [b'+', name @ ..] | name => i32::from(same(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn the_first_line_that_decides() {
        let peer =
            super::Peer { name: b"127.0.0.1", addresses: std::vec![std::vec![127, 0, 0, 1]], family: 2 };
        let ok = |list: &str, remote: &str, local: &str| {
            allows(list.as_bytes(), &peer, remote.as_bytes(), local.as_bytes())
        };
        assert!(ok("127.0.0.1\n", "ann", "ann") && !ok("127.0.0.1\n", "ann", "bob"));
        assert!(ok("127.0.0.2 bob\n127.0.0.1 ann\n", "ann", "bob") && !ok("127.0.0.2\n", "ann", "ann"));
        assert!(
            !ok("-127.0.0.1\n+\n", "ann", "ann")
                && ok("+ +\n", "ann", "bob")
                && !ok("+ -ann\n+ +", "ann", "x")
        );
        assert!(!ok("# all\n\n", "ann", "ann"));
    }
}
