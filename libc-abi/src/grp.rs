//! The group database `/etc/group`: getgrnam(3), getgrouplist(3), initgroups(3) and their kin.

use crate::errno;
use crate::kcall;
use crate::netdb::files::{self, Line, Position, find};
use crate::netdb::inet::bytes;
use crate::netdb::pack::{Packer, Record, Slot, reentrant};
use crate::pwd::{fields, id, next};
use crate::types::{c_char, c_int, gid_t, size_t};
use alloc::vec::Vec;
use core::ffi::CStr;
use platform::Errno;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: Vec<u8>,
    /// Password.
    pub password: Vec<u8>,
    /// Group id.
    pub gid: gid_t,
    /// Names of users in it.
    pub members: Vec<Vec<u8>>,
}

/// `struct group`
#[repr(C)]
pub struct group {
    pub(crate) gr_name: *mut c_char,
    pub(crate) gr_passwd: *mut c_char,
    pub(crate) gr_gid: gid_t,
    pub(crate) gr_mem: *mut *mut c_char,
}

impl Record for Group {
    type C = group;
    fn pack(&self, to: &mut Packer) -> Option<group> {
        Some(group {
            gr_mem: to.strings(&self.members)?,
            gr_name: to.string(&self.name)?,
            gr_passwd: to.string(&self.password)?,
            gr_gid: self.gid,
        })
    }
}

impl Line for Group {
    const PATH: &'static CStr = c"/etc/group";
    fn parse(line: &[u8]) -> Option<Self> {
        let [name, password, gid, members] = fields::<4>(line)?;
        Some(Group {
            name: name.to_vec(),
            password: password.to_vec(),
            gid: id(gid)?,
            members: files::names(members),
        })
    }
}

fn by_name(name: &[u8]) -> Result<Option<Group>, Errno> {
    find(|g: &Group| g.name == name)
}

fn by_gid(gid: gid_t) -> Result<Option<Group>, Errno> {
    find(|g: &Group| g.gid == gid)
}

/// The groups of a user: `first`, then those that name it, each once.
pub fn groups_of(user: &[u8], first: gid_t) -> Vec<gid_t> {
    let mut list = alloc::vec![first];
    let bytes = files::read(Group::PATH).unwrap_or_default();
    for group in files::lines(&bytes).filter_map(Group::parse) {
        if group.members.iter().any(|m| m == user) && !list.contains(&group.gid) {
            list.push(group.gid);
        }
    }
    list
}

static GROUPS: Position = Position::new();
static GROUP: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// getgrnam(3).
    "GLIBC_2.2.5" fn getgrnam(name: *const c_char) -> *mut group {
        // SAFETY: the caller's string.
        GROUP.fill(by_name(unsafe { bytes(name) }))
    }
    /// getgrgid(3).
    "GLIBC_2.2.5" fn getgrgid(gid: gid_t) -> *mut group { GROUP.fill(by_gid(gid)) }
    /// getgrnam_r(3).
    "GLIBC_2.2.5" fn getgrnam_r(
        name: *const c_char, out: *mut group, buffer: *mut c_char, len: size_t, result: *mut *mut group,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { reentrant(by_name(bytes(name)), out, buffer, len, result) }
    }
    /// getgrgid_r(3).
    "GLIBC_2.2.5" fn getgrgid_r(
        gid: gid_t, out: *mut group, buffer: *mut c_char, len: size_t, result: *mut *mut group,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { reentrant(by_gid(gid), out, buffer, len, result) }
    }
    /// getgrent(3).
    "GLIBC_2.2.5" fn getgrent() -> *mut group { GROUP.fill(GROUPS.next::<Group>()) }
    /// getgrent_r(3).
    "GLIBC_2.2.5" fn getgrent_r(
        out: *mut group, buffer: *mut c_char, len: size_t, result: *mut *mut group,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { next::<Group>(&GROUPS, out, buffer, len, result) }
    }
    /// setgrent(3).
    "GLIBC_2.2.5" fn setgrent() { GROUPS.rewind() }
    /// endgrent(3).
    "GLIBC_2.2.5" fn endgrent() { GROUPS.rewind() }
    /// getgrouplist(3): the count, or -1 with the count that is needed.
    "GLIBC_2.2.5" fn getgrouplist(
        user: *const c_char, first: gid_t, to: *mut gid_t, count: *mut c_int,
    ) -> c_int {
        // SAFETY: the caller's string, list and count.
        unsafe {
            let list = groups_of(bytes(user), first);
            let room = (*count).max(0) as usize;
            core::ptr::copy_nonoverlapping(list.as_ptr(), to, list.len().min(room));
            count.write(list.len() as c_int);
            if list.len() > room { -1 } else { list.len() as c_int }
        }
    }
    /// initgroups(3).
    "GLIBC_2.2.5" fn initgroups(user: *const c_char, first: gid_t) -> c_int {
        const NGROUPS_MAX: usize = 65536;
        // SAFETY: the caller's string; a list of ours.
        unsafe {
            let list = groups_of(bytes(user), first);
            errno::int(kcall!(setgroups, list.len().min(NGROUPS_MAX), list.as_ptr()))
        }
    }
}
