//! fts(3) and nftw(3): walks over file trees.
//!
//! Both work by path names: fts does not change the directory (FTS_NOCHDIR is always in force, which
//! the interface allows since `fts_accpath` tells what to use), nftw does under FTW_CHDIR.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::dir_read::{self, Entry, Stat};
use crate::errno;
use crate::kcall;
use crate::malloc;
use crate::string::copy;
use crate::types::*;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

const FTS_COMFOLLOW: c_int = 0x1;
const FTS_LOGICAL: c_int = 0x2;
const FTS_NOSTAT: c_int = 0x8;
const FTS_PHYSICAL: c_int = 0x10;
const FTS_SEEDOT: c_int = 0x20;
const FTS_XDEV: c_int = 0x40;
const FTS_NAMEONLY: c_int = 0x100;

const FTS_D: u16 = 1;
const FTS_DC: u16 = 2;
const FTS_DEFAULT: u16 = 3;
const FTS_DNR: u16 = 4;
const FTS_DOT: u16 = 5;
const FTS_DP: u16 = 6;
const FTS_ERR: u16 = 7;
const FTS_F: u16 = 8;
const FTS_INIT: u16 = 9;
const FTS_NS: u16 = 10;
const FTS_NSOK: u16 = 11;
const FTS_SL: u16 = 12;
const FTS_SLNONE: u16 = 13;

const FTS_AGAIN: u16 = 1;
const FTS_FOLLOW: u16 = 2;
const FTS_NOINSTR: u16 = 3;
const FTS_SKIP: u16 = 4;

const ROOT_LEVEL: i16 = 0;

/// `FTSENT`: 120 bytes, the name from 112 on, then ours.
#[repr(C)]
pub struct Ftsent {
    cycle: *mut Ftsent,
    parent: *mut Ftsent,
    link: *mut Ftsent,
    number: c_long,
    pointer: *mut c_void,
    accpath: *mut c_char,
    path: *mut c_char,
    error: c_int,
    symfd: c_int,
    path_length: u16,
    name_length: u16,
    inode: u64,
    device: u64,
    links: u64,
    level: i16,
    info: u16,
    flags: u16,
    instr: u16,
    statp: *mut Stat,
    name: [c_char; 4],
}

/// An order of entries.
pub type Compare = unsafe extern "C" fn(*const *const Ftsent, *const *const Ftsent) -> c_int;

/// What an `FTS *` points at. Programs see glibc's fields at the front: none that they use.
pub struct Fts {
    /// The entry that fts_read gave last.
    current: *mut Ftsent,
    /// Entries still to come on the current level, and those of the levels above, as linked lists.
    pending: Vec<*mut Ftsent>,
    child: *mut Ftsent,
    options: c_int,
    compare: Option<Compare>,
    root_device: u64,
    finished: bool,
}

const NAME: usize = core::mem::offset_of!(Ftsent, name);
const _: () =
    assert!(NAME == 112 && core::mem::offset_of!(Ftsent, level) == 96 && size_of::<Ftsent>() == 120);

/// A fresh entry for `name` in `parent`, its path and status behind it in one block.
unsafe fn entry(parent: *mut Ftsent, path: &[u8], name: &[u8]) -> *mut Ftsent {
    let stat_at = (NAME + name.len() + 1).next_multiple_of(8);
    let path_at = stat_at + size_of::<Stat>();
    let block: *mut u8 = malloc::calloc(1, path_at + path.len() + 1).cast();
    if block.is_null() {
        return null_mut();
    }
    let new: *mut Ftsent = block.cast();
    copy(block.add(NAME).cast(), name.as_ptr().cast(), name.len());
    copy(block.add(path_at).cast(), path.as_ptr().cast(), path.len());
    (*new).parent = parent;
    (*new).statp = block.add(stat_at).cast();
    (*new).path = block.add(path_at).cast();
    (*new).accpath = (*new).path;
    (*new).path_length = path.len() as u16;
    (*new).name_length = name.len() as u16;
    (*new).instr = FTS_NOINSTR;
    (*new).symfd = -1;
    new
}

unsafe fn path_of<'a>(entry: *const Ftsent) -> &'a [u8] {
    CStr::from_ptr((*entry).path).to_bytes()
}

unsafe fn name_is(entry: *const Ftsent, name: &[u8]) -> bool {
    CStr::from_ptr(entry.byte_add(NAME).cast()).to_bytes() == name
}

/// Fills in the status of an entry and says what it is.
unsafe fn status(fts: &Fts, entry: *mut Ftsent, follow: bool) -> u16 {
    let root = (*entry).level == ROOT_LEVEL;
    let follow = follow || fts.options & FTS_LOGICAL != 0 || root && fts.options & FTS_COMFOLLOW != 0;
    let path = path_of(entry);
    let stat = match dir_read::stat(path, follow) {
        Ok(stat) => stat,
        // A link to nothing is itself.
        Err(errno) => match dir_read::stat(path, false) {
            Ok(stat) if follow => {
                *(*entry).statp = stat;
                return FTS_SLNONE;
            }
            _ => {
                (*entry).error = errno.0;
                return FTS_NS;
            }
        },
    };
    *(*entry).statp = stat;
    (*entry).inode = stat.inode;
    (*entry).device = stat.device;
    (*entry).links = stat.links;
    match stat.kind() {
        0o040000 => {
            if !root && (name_is(entry, b".") || name_is(entry, b"..")) {
                return FTS_DOT;
            }
            let mut above = (*entry).parent;
            while !above.is_null() && (*above).level >= ROOT_LEVEL {
                if (*above).inode == stat.inode && (*above).device == stat.device {
                    (*entry).cycle = above;
                    return FTS_DC;
                }
                above = (*above).parent;
            }
            FTS_D
        }
        0o120000 => FTS_SL,
        0o100000 => FTS_F,
        _ => FTS_DEFAULT,
    }
}

/// Orders a list of siblings by the program's comparison.
unsafe fn ordered(fts: &Fts, mut list: Vec<*mut Ftsent>) -> Vec<*mut Ftsent> {
    if let Some(compare) = fts.compare {
        list.sort_by(|a, b| {
            let (a, b) = (a.cast_const(), b.cast_const());
            // SAFETY: the program's function on two entries.
            unsafe { compare(&a, &b).cmp(&0) }
        });
    }
    list
}

unsafe fn chain(list: &[*mut Ftsent]) -> *mut Ftsent {
    for pair in list.windows(2) {
        (*pair[0]).link = pair[1];
    }
    if let Some(&last) = list.last() {
        (*last).link = null_mut();
    }
    list.first().copied().unwrap_or(null_mut())
}

/// The entries of a directory, linked; null with the directory's error if it cannot be read.
unsafe fn children(fts: &Fts, directory: *mut Ftsent, names_only: bool) -> *mut Ftsent {
    let base = path_of(directory);
    let entries = match dir_read::read(base) {
        Ok(entries) => entries,
        Err(errno) => {
            (*directory).error = errno.0;
            return null_mut();
        }
    };
    let mut list = Vec::new();
    for Entry { name, inode, kind } in entries {
        let dot = name == b"." || name == b"..";
        if dot && fts.options & FTS_SEEDOT == 0 {
            continue;
        }
        let slash: &[u8] = if base.ends_with(b"/") { b"" } else { b"/" };
        let path = [base, slash, &name].concat();
        let new = entry(directory, &path, &name);
        if new.is_null() {
            break;
        }
        (*new).level = (*directory).level + 1;
        (*new).inode = inode;
        // DT_DIR 4, DT_UNKNOWN 0: these need a status even if the caller does not.
        let lazy = fts.options & FTS_NOSTAT != 0 && !matches!(kind, 0 | 4);
        (*new).info = if names_only || lazy { FTS_NSOK } else { status(fts, new, false) };
        list.push(new);
    }
    chain(&ordered(fts, list))
}

unsafe fn free_list(mut entry: *mut Ftsent) {
    while !entry.is_null() {
        let next = (*entry).link;
        malloc::free(entry.cast());
        entry = next;
    }
}

impl Fts {
    /// The next entry of a list, what is left of it kept.
    unsafe fn visit(&mut self, entry: *mut Ftsent) -> *mut Ftsent {
        self.current = entry;
        if (*entry).instr == FTS_FOLLOW {
            (*entry).info = status(self, entry, true);
            (*entry).instr = FTS_NOINSTR;
        }
        entry
    }

    /// After an entry is done: its sibling, or its directory for the second time.
    unsafe fn advance(&mut self, done: *mut Ftsent) -> *mut Ftsent {
        let (next, parent) = ((*done).link, (*done).parent);
        malloc::free(done.cast());
        if !next.is_null() {
            if (*next).instr == FTS_SKIP {
                return self.advance(next);
            }
            if (*next).level == ROOT_LEVEL {
                self.root_device = (*next).device;
            }
            return self.visit(next);
        }
        if (*parent).level < ROOT_LEVEL {
            malloc::free(parent.cast());
            self.current = null_mut();
            self.finished = true;
            errno::set(Errno(0));
            return null_mut();
        }
        (*parent).info = if (*parent).error != 0 { FTS_ERR } else { FTS_DP };
        self.current = parent;
        parent
    }
}

abi! { EXPORTS "libc.so.6":
    /// fts_open(3).
    "GLIBC_2.2.5" fn fts_open(
        paths: *const *const c_char, options: c_int, compare: Option<Compare>,
    ) -> *mut Fts {
        if options & !0xff != 0 || options & (FTS_LOGICAL | FTS_PHYSICAL) == 0 {
            errno::set(Errno(22));
            return null_mut();
        }
        let mut fts = Box::new(Fts {
            current: null_mut(),
            pending: Vec::new(),
            child: null_mut(),
            options,
            compare,
            root_device: 0,
            finished: false,
        });
        let above = entry(null_mut(), b"", b"");
        if above.is_null() {
            return null_mut();
        }
        (*above).level = ROOT_LEVEL - 1;
        let mut list = Vec::new();
        let mut at = 0;
        while !(*paths.add(at)).is_null() {
            let path = CStr::from_ptr(*paths.add(at)).to_bytes();
            at += 1;
            if path.is_empty() {
                errno::set(Errno(2));
                return null_mut();
            }
            let new = entry(above, path, path);
            (*new).level = ROOT_LEVEL;
            (*new).info = status(&fts, new, false);
            if (*new).info == FTS_DOT {
                (*new).info = FTS_D;
            }
            list.push(new);
        }
        fts.pending = ordered(&fts, list);
        let first = chain(&fts.pending);
        fts.pending.clear();
        // A place before the first: fts_read goes on from it.
        let start = entry(above, b"", b"");
        (*start).link = first;
        (*start).info = FTS_INIT;
        (*start).level = ROOT_LEVEL;
        fts.current = start;
        Box::into_raw(fts)
    }
    /// fts_read(3).
    "GLIBC_2.2.5" fn fts_read(fts: *mut Fts) -> *mut Ftsent {
        let fts = &mut *fts;
        if fts.current.is_null() || fts.finished {
            return null_mut();
        }
        let entry = fts.current;
        let instr = core::mem::replace(&mut (*entry).instr, FTS_NOINSTR);
        match (instr, (*entry).info) {
            (FTS_AGAIN, _) => {
                (*entry).info = status(fts, entry, false);
                return entry;
            }
            (FTS_FOLLOW, FTS_SL | FTS_SLNONE) => {
                (*entry).info = status(fts, entry, true);
                return entry;
            }
            _ => {}
        }
        if (*entry).info == FTS_D {
            let other_device = fts.options & FTS_XDEV != 0 && (*entry).device != fts.root_device;
            if instr == FTS_SKIP || other_device && (*entry).level > ROOT_LEVEL {
                free_list(core::mem::replace(&mut fts.child, null_mut()));
                (*entry).info = FTS_DP;
                return entry;
            }
            let mut first = core::mem::replace(&mut fts.child, null_mut());
            if !first.is_null() && (*first).info == FTS_NSOK && fts.options & FTS_NOSTAT == 0 {
                // fts_children with names only: now with their states.
                free_list(first);
                first = null_mut();
            }
            if first.is_null() {
                first = children(fts, entry, false);
            }
            if first.is_null() {
                (*entry).info = if (*entry).error != 0 { FTS_DNR } else { FTS_DP };
                return entry;
            }
            if (*first).instr == FTS_SKIP {
                return fts.advance(first);
            }
            return fts.visit(first);
        }
        if (*entry).info == FTS_INIT && !(*entry).link.is_null() {
            fts.root_device = (*(*entry).link).device;
        }
        fts.advance(entry)
    }
    /// fts_children(3).
    "GLIBC_2.2.5" fn fts_children(fts: *mut Fts, instr: c_int) -> *mut Ftsent {
        let fts = &mut *fts;
        if instr != 0 && instr != FTS_NAMEONLY {
            errno::set(Errno(22));
            return null_mut();
        }
        errno::set(Errno(0));
        let entry = fts.current;
        if entry.is_null() {
            return null_mut();
        }
        match (*entry).info {
            FTS_INIT => return (*entry).link,
            FTS_D => {}
            _ => return null_mut(),
        }
        free_list(fts.child);
        fts.child = children(fts, entry, instr == FTS_NAMEONLY);
        fts.child
    }
    /// fts_set(3).
    "GLIBC_2.2.5" fn fts_set(_fts: *mut Fts, entry: *mut Ftsent, instr: c_int) -> c_int {
        if !(0..=4).contains(&instr) {
            errno::set(Errno(22));
            return 1;
        }
        (*entry).instr = instr as u16;
        0
    }
    /// fts_close(3).
    "GLIBC_2.2.5" fn fts_close(fts: *mut Fts) -> c_int {
        let fts = Box::from_raw(fts);
        free_list(fts.child);
        let mut entry = fts.current;
        while !entry.is_null() {
            let parent = (*entry).parent;
            free_list(entry);
            entry = parent;
        }
        0
    }
}

/// nftw(3)'s function.
pub type Visit = unsafe extern "C" fn(*const c_char, *const Stat, c_int, *mut FtwPlace) -> c_int;
type PlainVisit = unsafe extern "C" fn(*const c_char, *const Stat, c_int) -> c_int;

/// `struct FTW`
#[repr(C)]
pub struct FtwPlace {
    base: c_int,
    level: c_int,
}

const FTW_PHYS: c_int = 1;
const FTW_MOUNT: c_int = 2;
const FTW_CHDIR: c_int = 4;
const FTW_DEPTH: c_int = 8;
const FTW_ACTIONRETVAL: c_int = 16;

const FTW_F: c_int = 0;
const FTW_D: c_int = 1;
const FTW_DNR: c_int = 2;
const FTW_NS: c_int = 3;
const FTW_SL: c_int = 4;
const FTW_DP: c_int = 5;
const FTW_SLN: c_int = 6;

const CONTINUE: c_int = 0;
const SKIP_SUBTREE: c_int = 2;
const SKIP_SIBLINGS: c_int = 3;

enum Call {
    Nftw(Visit),
    Ftw(PlainVisit),
}

struct Tree {
    call: Call,
    flags: c_int,
    device: u64,
    seen: Vec<(u64, u64)>,
}

impl Tree {
    unsafe fn visit(&self, path: &[u8], stat: &Stat, kind: c_int, base: usize, level: c_int) -> c_int {
        let mut text = path.to_vec();
        text.push(0);
        let mut place = FtwPlace { base: base as c_int, level };
        if self.flags & FTW_CHDIR != 0 && base > 0 && level >= 0 {
            // The visit happens in the directory of the entry.
            let mut directory = path[..base].to_vec();
            directory.push(0);
            if path.starts_with(b"/") {
                let _ = kcall!(chdir, directory.as_ptr());
            }
        }
        match self.call {
            Call::Nftw(call) => call(text.as_ptr().cast(), stat, kind, &mut place),
            Call::Ftw(call) => call(text.as_ptr().cast(), stat, if kind == FTW_SLN { FTW_NS } else { kind }),
        }
    }

    /// Walks from `path`; an answer other than 0 ends it all (but for the actions of GNU).
    unsafe fn walk(&mut self, path: &[u8], base: usize, level: c_int) -> c_int {
        let physical = self.flags & FTW_PHYS != 0;
        let (stat, kind) = match dir_read::stat(path, !physical) {
            Ok(stat) => {
                let kind = match stat.kind() {
                    0o040000 => FTW_D,
                    0o120000 => FTW_SL,
                    _ => FTW_F,
                };
                (stat, kind)
            }
            Err(errno) => match dir_read::stat(path, false) {
                Ok(stat) if !physical => (stat, FTW_SLN),
                _ if level == 0 => {
                    errno::set(errno);
                    return -1;
                }
                _ => (Stat::ZERO, FTW_NS),
            },
        };
        if level == 0 {
            self.device = stat.device;
        }
        if self.flags & FTW_MOUNT != 0 && kind != FTW_NS && stat.device != self.device {
            return 0;
        }
        if kind != FTW_D {
            return self.visit(path, &stat, kind, base, level);
        }
        if !physical {
            // Links may lead back up.
            if self.seen.contains(&(stat.device, stat.inode)) {
                return 0;
            }
            self.seen.push((stat.device, stat.inode));
        }
        let entries = match dir_read::read(path) {
            Ok(entries) => entries,
            Err(Errno(13)) => return self.visit(path, &stat, FTW_DNR, base, level),
            Err(errno) => {
                errno::set(errno);
                return -1;
            }
        };
        if self.flags & FTW_DEPTH == 0 {
            match self.visit(path, &stat, FTW_D, base, level) {
                CONTINUE => {}
                SKIP_SUBTREE if self.flags & FTW_ACTIONRETVAL != 0 => return 0,
                other => return other,
            }
        }
        for Entry { name, .. } in entries {
            if name == b"." || name == b".." {
                continue;
            }
            let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
            let child = [path, slash, &name].concat();
            match self.walk(&child, child.len() - name.len(), level + 1) {
                CONTINUE => {}
                SKIP_SIBLINGS if self.flags & FTW_ACTIONRETVAL != 0 => break,
                SKIP_SUBTREE if self.flags & FTW_ACTIONRETVAL != 0 => {}
                other => return other,
            }
        }
        if self.flags & FTW_DEPTH != 0 { self.visit(path, &stat, FTW_DP, base, level) } else { 0 }
    }
}

unsafe fn walk_tree(path: *const c_char, call: Call, flags: c_int) -> c_int {
    let mut path = CStr::from_ptr(path).to_bytes().to_vec();
    if path.is_empty() {
        errno::set(Errno(2));
        return -1;
    }
    while path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    let here =
        if flags & FTW_CHDIR != 0 { kcall!(openat, -100isize, c".".as_ptr(), 0o200000).ok() } else { None };
    let base = path.iter().rposition(|&c| c == b'/').map_or(0, |at| at + 1);
    let mut tree = Tree { call, flags, device: 0, seen: Vec::new() };
    let result = tree.walk(&path, base, 0);
    if let Some(here) = here {
        let _ = kcall!(fchdir, here);
        let _ = kcall!(close, here);
    }
    match result {
        SKIP_SUBTREE | SKIP_SIBLINGS if flags & FTW_ACTIONRETVAL != 0 => 0,
        other => other,
    }
}

abi! { FTW "libc.so.6":
    /// nftw(3).
    "GLIBC_2.3.3" fn nftw(path: *const c_char, call: Visit, _descriptors: c_int, flags: c_int) -> c_int {
        if flags & !0x1f != 0 {
            errno::set(Errno(22));
            return -1;
        }
        walk_tree(path, Call::Nftw(call), flags)
    }
    /// ftw(3).
    "GLIBC_2.2.5" fn ftw(path: *const c_char, call: PlainVisit, _descriptors: c_int) -> c_int {
        walk_tree(path, Call::Ftw(call), 0)
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.23" "fts64_open" = fts_open;
    alias "GLIBC_2.23" "fts64_read" = fts_read;
    alias "GLIBC_2.23" "fts64_children" = fts_children;
    alias "GLIBC_2.23" "fts64_set" = fts_set;
    alias "GLIBC_2.23" "fts64_close" = fts_close;
    alias "GLIBC_2.3.3" "nftw64" = nftw;
    alias "GLIBC_2.2.5" "ftw64" = ftw;
}
