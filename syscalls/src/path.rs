//! Calls on paths: open, rename, link, unlink, symlink, readlink, access, chmod, chown, times, truncate.
//!
//! A process's sight of the tree is an [`fs::View`]; relative paths start from its working directory
//! or from a directory's descriptor ([`start`]). Stat stands in [`crate::stat`], directories in
//! [`crate::dir`], extended attributes in [`crate::xattr`].

use crate::args::{AtFlags, DirFd, Fd, Mode, OpenFlags};
use crate::context::Ctx;
use crate::file::OpenFile;
use crate::host_file::HostFile;
use crate::tree_file::{self, PathFile};
use crate::user::{PATH_MAX, UserPtr, UserStr};
use crate::{Errno, Result};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use fs::attr::S_IFIFO;
use fs::vnode::NewTime;
use fs::{Cred, Node, Place, Tree, View};
use platform::sync::Lock;
use platform::time::Timespec;

const AT_FDCWD: i32 = -100;
pub(crate) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_REMOVEDIR: u32 = 0x200;
const AT_EACCESS: u32 = 0x200;
const AT_SYMLINK_FOLLOW: u32 = 0x400;
pub(crate) const AT_EMPTY_PATH: u32 = 0x1000;

const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const O_DIRECTORY: u32 = 0o200000;
const O_CLOEXEC: u32 = 0o2000000;
const O_TMPFILE: u32 = 0o20200000;
/// All flags that open(2) knows (VALID_OPEN_FLAGS); others are ignored by it, and EINVAL in openat2(2).
const O_ALL: u32 = 0o37777703;

/// A process's sight of the tree, changed as a whole: a call keeps the one it began with.
#[derive(Default)]
pub struct ViewCell(Lock<Option<Arc<View>>>);

impl ViewCell {
    /// None yet: paths are ENOENT.
    pub const fn new() -> ViewCell {
        ViewCell(Lock::new(None))
    }

    /// Begins with a tree, at its root, with umask and identity of `process` at each call.
    pub fn set_tree(&self, tree: Arc<Tree>) {
        self.set(View::new(tree, Cred::default(), 0));
    }

    /// The present view.
    pub fn get(&self) -> Option<Arc<View>> {
        self.0.lock().clone()
    }

    /// Replaces it.
    pub fn set(&self, view: View) {
        let old = self.0.lock().replace(Arc::new(view));
        drop(old);
    }

    /// The process has ended: it has no directories.
    pub(crate) fn clear(&self) {
        let old = self.0.lock().take();
        drop(old);
    }

    /// A copy for a child (fork(2)).
    pub fn fork(&self) -> ViewCell {
        ViewCell(Lock::new(self.get()))
    }
}

/// The caller's view, with its umask and identity as they are now.
pub fn view(ctx: &Ctx) -> Result<Arc<View>> {
    let view = ctx.process.view.get().ok_or(Errno::ENOENT)?;
    let umask = ctx.process.umask.load(Ordering::Relaxed);
    let cred = {
        let now = ctx.process.credentials.lock();
        let same =
            (view.cred.uid, view.cred.gid) == (now.fsuid, now.fsgid) && *view.cred.groups == now.groups[..];
        (!same).then(|| Cred { uid: now.fsuid, gid: now.fsgid, groups: now.groups[..].into() })
    };
    if cred.is_none() && view.umask == umask {
        return Ok(view);
    }
    let mut fresh = View::clone(&view);
    fresh.umask = umask;
    if let Some(cred) = cred {
        fresh.cred = cred;
    }
    ctx.process.view.set(fresh);
    ctx.process.view.get().ok_or(Errno::ENOENT)
}

/// Copies a path in. ENOENT if it is empty (`AT_EMPTY_PATH` is for the caller to see).
pub fn path(from: UserStr) -> Result<Vec<u8>> {
    from.to_vec(PATH_MAX - 1).map_err(|e| if e == Errno::E2BIG { Errno::ENAMETOOLONG } else { e })
}

/// Where a path starts: the directory of a descriptor, or the working directory. The descriptor is
/// not looked at for an absolute path (openat(2)).
pub fn start<'v>(ctx: &Ctx, view: &'v View, dir: DirFd, path: &[u8]) -> Result<Cow<'v, Place>> {
    if dir.0 == AT_FDCWD || path.starts_with(b"/") {
        return Ok(Cow::Borrowed(&view.cwd));
    }
    let open = ctx.file(Fd(dir.0))?;
    let place = tree_file::place_of(&open).ok_or(Errno::ENOTDIR)?;
    if let Node::Inner(node) = &place.node
        && !node.stat().is(fs::attr::S_IFDIR)
    {
        return Err(Errno::ENOTDIR);
    }
    Ok(Cow::Owned(place))
}

/// What a path call with `AT_*` flags means.
pub enum Object {
    /// A file in the tree.
    Place(Place),
    /// The file of a descriptor (an empty path, or /proc/self/fd/N).
    Open(Arc<OpenFile>),
}

/// Finds the object of a call with `AT_*` flags.
pub fn find(ctx: &Ctx, view: &View, dir: DirFd, at: UserStr, flags: u32) -> Result<Object> {
    // Linux takes a NULL path with AT_EMPTY_PATH since 6.11.
    let path = if at.is_null() && flags & AT_EMPTY_PATH != 0 { Vec::new() } else { path(at)? };
    if path.is_empty() {
        if flags & AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        if dir.0 == AT_FDCWD {
            return Ok(Object::Place(view.cwd.clone()));
        }
        let open = ctx.process.fds.get(dir.0)?;
        return Ok(match open.downcast::<PathFile>() {
            Some(path) => object(path.place.clone()),
            None => Object::Open(open),
        });
    }
    let base = start(ctx, view, dir, &path)?;
    Ok(object(view.locate(&base, &path, flags & AT_SYMLINK_NOFOLLOW == 0)?))
}

/// What a place stands for.
pub(crate) fn object(place: Place) -> Object {
    match &place.node {
        Node::Object(object) => match object.clone().downcast() {
            Ok(open) => Object::Open(open),
            Err(_) => Object::Place(place),
        },
        _ => Object::Place(place),
    }
}

impl Object {
    /// The file as a place, where it has one.
    pub fn place(&self) -> Option<Place> {
        match self {
            Object::Place(place) => Some(place.clone()),
            Object::Open(open) => tree_file::place_of(open),
        }
    }
}

// ---- open ----

/// open(2).
pub fn open(ctx: &Ctx, path: UserStr, flags: OpenFlags, mode: Mode) -> Result {
    openat(ctx, DirFd(AT_FDCWD), path, flags, mode)
}

/// creat(2).
pub fn creat(ctx: &Ctx, path: UserStr, mode: Mode) -> Result {
    openat(ctx, DirFd(AT_FDCWD), path, OpenFlags(O_CREAT | O_TRUNC | 1), mode)
}

/// openat(2).
pub fn openat(ctx: &Ctx, dir: DirFd, at: UserStr, flags: OpenFlags, mode: Mode) -> Result {
    let path = path(at)?;
    open_path(ctx, dir, &path, flags.0 & O_ALL, mode.0)
}

fn open_path(ctx: &Ctx, dir: DirFd, path: &[u8], flags: u32, mode: u32) -> Result {
    if flags & O_TMPFILE == O_TMPFILE && flags & 3 == 0 {
        return Err(Errno::EINVAL);
    }
    if flags & (O_CREAT | O_DIRECTORY) == O_CREAT | O_DIRECTORY && flags & O_TMPFILE != O_TMPFILE {
        return Err(Errno::EINVAL);
    }
    let view = view(ctx)?;
    let base = start(ctx, &view, dir, path)?;
    // The host must not make a vCPU wait for the other end of a FIFO or for a device's carrier. For
    // regular files and directories the flag means nothing (open(2)).
    let open_once = || {
        let opened = view.open(&base, path, (flags | 0o4000) & !O_CLOEXEC, mode & 0o7777)?;
        tree_file::open_file(ctx, opened, flags)
    };
    let first = open_once();
    let is_fifo =
        |place: Place| matches!(place.node, Node::Host(_)) && place.stat().is_ok_and(|s| s.is(S_IFIFO));
    let host_fifo = match &first {
        Ok(open) => open.downcast::<HostFile>().is_some_and(HostFile::is_fifo),
        // The answer to a writer without a reader; other files say it too.
        Err(Errno::ENXIO) => view.locate(&base, path, true).is_ok_and(is_fifo),
        Err(_) => false,
    };
    let open = if host_fifo { crate::fifo::open_host(ctx, flags, first, open_once)? } else { first? };
    ctx.install(open, flags & O_CLOEXEC != 0)
}

/// The kernel's `struct open_how`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2). The RESOLVE flags are not there: they give ENOSYS, as an older kernel does, and callers
/// fall back.
pub fn openat2(ctx: &Ctx, dir: DirFd, at: UserStr, how: UserPtr<OpenHow>, size: usize) -> Result {
    if size < core::mem::size_of::<OpenHow>() {
        return Err(Errno::EINVAL);
    }
    if size > core::mem::size_of::<OpenHow>() {
        return Err(Errno::E2BIG);
    }
    let how = how.read()?;
    let creates = how.flags & u64::from(O_CREAT | (O_TMPFILE & !O_DIRECTORY)) != 0;
    if how.flags & !u64::from(O_ALL) != 0 || how.mode & !0o7777 != 0 || (how.mode != 0 && !creates) {
        return Err(Errno::EINVAL);
    }
    if how.resolve != 0 {
        return Err(Errno::ENOSYS);
    }
    let path = path(at)?;
    open_path(ctx, dir, &path, how.flags as u32, how.mode as u32)
}

// ---- names ----

/// rename(2).
pub fn rename(ctx: &Ctx, old: UserStr, new: UserStr) -> Result {
    renameat2(ctx, DirFd(AT_FDCWD), old, DirFd(AT_FDCWD), new, 0)
}

/// renameat(2).
pub fn renameat(ctx: &Ctx, old_dir: DirFd, old: UserStr, new_dir: DirFd, new: UserStr) -> Result {
    renameat2(ctx, old_dir, old, new_dir, new, 0)
}

/// renameat2(2).
pub fn renameat2(
    ctx: &Ctx,
    old_dir: DirFd,
    old: UserStr,
    new_dir: DirFd,
    new: UserStr,
    flags: u32,
) -> Result {
    let view = view(ctx)?;
    let (old, new) = (path(old)?, path(new)?);
    let (from, to) = (start(ctx, &view, old_dir, &old)?, start(ctx, &view, new_dir, &new)?);
    view.rename((&from, &old), (&to, &new), flags).map(|()| 0)
}

/// link(2).
pub fn link(ctx: &Ctx, old: UserStr, new: UserStr) -> Result {
    linkat(ctx, DirFd(AT_FDCWD), old, DirFd(AT_FDCWD), new, AtFlags(0))
}

/// linkat(2).
pub fn linkat(
    ctx: &Ctx,
    old_dir: DirFd,
    old: UserStr,
    new_dir: DirFd,
    new: UserStr,
    flags: AtFlags,
) -> Result {
    if flags.0 & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let view = view(ctx)?;
    let (old, new) = (path(old)?, path(new)?);
    let to = start(ctx, &view, new_dir, &new)?;
    if old.is_empty() && flags.0 & AT_EMPTY_PATH != 0 {
        let open = ctx.file(Fd(old_dir.0))?;
        let place = tree_file::place_of(&open).ok_or(Errno::EXDEV)?;
        return view.link_place(&place, None, (&to, &new)).map(|()| 0);
    }
    let from = start(ctx, &view, old_dir, &old)?;
    view.link((&from, &old), (&to, &new), flags.0 & AT_SYMLINK_FOLLOW != 0).map(|()| 0)
}

/// symlink(2).
pub fn symlink(ctx: &Ctx, target: UserStr, at: UserStr) -> Result {
    symlinkat(ctx, target, DirFd(AT_FDCWD), at)
}

/// symlinkat(2).
pub fn symlinkat(ctx: &Ctx, target: UserStr, dir: DirFd, at: UserStr) -> Result {
    let view = view(ctx)?;
    let (target, path) = (path(target)?, path(at)?);
    let base = start(ctx, &view, dir, &path)?;
    view.symlink(&base, &path, &target).map(|()| 0)
}

/// unlink(2).
pub fn unlink(ctx: &Ctx, at: UserStr) -> Result {
    unlinkat(ctx, DirFd(AT_FDCWD), at, AtFlags(0))
}

/// rmdir(2).
pub fn rmdir(ctx: &Ctx, at: UserStr) -> Result {
    unlinkat(ctx, DirFd(AT_FDCWD), at, AtFlags(AT_REMOVEDIR))
}

/// unlinkat(2).
pub fn unlinkat(ctx: &Ctx, dir: DirFd, at: UserStr, flags: AtFlags) -> Result {
    if flags.0 & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let view = view(ctx)?;
    let path = path(at)?;
    let base = start(ctx, &view, dir, &path)?;
    view.remove(&base, &path, flags.0 & AT_REMOVEDIR != 0).map(|()| 0)
}

/// mknod(2).
pub fn mknod(ctx: &Ctx, at: UserStr, mode: Mode, device: u64) -> Result {
    mknodat(ctx, DirFd(AT_FDCWD), at, mode, device)
}

/// mknodat(2).
pub fn mknodat(ctx: &Ctx, dir: DirFd, at: UserStr, mode: Mode, device: u64) -> Result {
    let view = view(ctx)?;
    let path = path(at)?;
    let base = start(ctx, &view, dir, &path)?;
    view.mknod(&base, &path, mode.0, device).map(|()| 0)
}

/// readlink(2).
pub fn readlink(ctx: &Ctx, at: UserStr, buffer: UserPtr<u8>, len: usize) -> Result {
    readlinkat(ctx, DirFd(AT_FDCWD), at, buffer, len)
}

/// readlinkat(2).
pub fn readlinkat(ctx: &Ctx, dir: DirFd, at: UserStr, buffer: UserPtr<u8>, len: usize) -> Result {
    if len as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    let view = view(ctx)?;
    // An empty path names the link that `dir` was opened as (O_PATH | O_NOFOLLOW).
    let Object::Place(place) = find(ctx, &view, dir, at, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)? else {
        return Err(Errno::EINVAL);
    };
    let text = view.readlink(&place)?;
    let count = text.len().min(len);
    buffer.write_all(&text[..count])?;
    Ok(count)
}

// ---- rights and times ----

/// access(2).
pub fn access(ctx: &Ctx, at: UserStr, want: i32) -> Result {
    faccessat2(ctx, DirFd(AT_FDCWD), at, want, AtFlags(0))
}

/// faccessat(2), the system call: without flags.
pub fn faccessat(ctx: &Ctx, dir: DirFd, at: UserStr, want: i32) -> Result {
    faccessat2(ctx, dir, at, want, AtFlags(0))
}

/// faccessat2(2).
pub fn faccessat2(ctx: &Ctx, dir: DirFd, at: UserStr, want: i32, flags: AtFlags) -> Result {
    if want & !7 != 0 || flags.0 & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let view = view(ctx)?;
    match find(ctx, &view, dir, at, flags.0)?.place() {
        Some(place) => view.access(&place, want as u32, flags.0 & AT_EACCESS != 0).map(|()| 0),
        None => Ok(0),
    }
}

/// chmod(2).
pub fn chmod(ctx: &Ctx, at: UserStr, mode: Mode) -> Result {
    fchmodat2(ctx, DirFd(AT_FDCWD), at, mode, AtFlags(0))
}

/// fchmodat(2), the system call: without flags.
pub fn fchmodat(ctx: &Ctx, dir: DirFd, at: UserStr, mode: Mode) -> Result {
    fchmodat2(ctx, dir, at, mode, AtFlags(0))
}

/// fchmodat2(2).
pub fn fchmodat2(ctx: &Ctx, dir: DirFd, at: UserStr, mode: Mode, flags: AtFlags) -> Result {
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let view = view(ctx)?;
    let place = find(ctx, &view, dir, at, flags.0)?.place().ok_or(Errno::EOPNOTSUPP)?;
    // Linux: a symbolic link has no rights of its own.
    if flags.0 & AT_SYMLINK_NOFOLLOW != 0 && place.stat()?.is(fs::attr::S_IFLNK) {
        return Err(Errno::EOPNOTSUPP);
    }
    view.chmod(&place, mode.0).map(|()| 0)
}

/// fchmod(2).
pub fn fchmod(ctx: &Ctx, fd: Fd, mode: Mode) -> Result {
    let view = view(ctx)?;
    let open = ctx.file(fd)?;
    if open.downcast::<PathFile>().is_some() {
        return Err(Errno::EBADF);
    }
    view.chmod(&of_file(&open)?, mode.0).map(|()| 0)
}

fn of_file(open: &OpenFile) -> Result<Place> {
    tree_file::place_of(open).ok_or(Errno::EINVAL)
}

/// chown(2).
pub fn chown(ctx: &Ctx, at: UserStr, uid: u32, gid: u32) -> Result {
    fchownat(ctx, DirFd(AT_FDCWD), at, uid, gid, AtFlags(0))
}

/// lchown(2).
pub fn lchown(ctx: &Ctx, at: UserStr, uid: u32, gid: u32) -> Result {
    fchownat(ctx, DirFd(AT_FDCWD), at, uid, gid, AtFlags(AT_SYMLINK_NOFOLLOW))
}

/// fchown(2).
pub fn fchown(ctx: &Ctx, fd: Fd, uid: u32, gid: u32) -> Result {
    let view = view(ctx)?;
    let open = ctx.file(fd)?;
    if open.downcast::<PathFile>().is_some() {
        return Err(Errno::EBADF);
    }
    view.chown(&of_file(&open)?, id(uid), id(gid)).map(|()| 0)
}

/// fchownat(2).
pub fn fchownat(ctx: &Ctx, dir: DirFd, at: UserStr, uid: u32, gid: u32, flags: AtFlags) -> Result {
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let view = view(ctx)?;
    let place = find(ctx, &view, dir, at, flags.0)?.place().ok_or(Errno::EOPNOTSUPP)?;
    view.chown(&place, id(uid), id(gid)).map(|()| 0)
}

/// -1 keeps (chown(2)).
fn id(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

/// utimensat(2).
pub fn utimensat(
    ctx: &Ctx,
    dir: DirFd,
    at: UserStr,
    times: UserPtr<[Timespec; 2]>,
    flags: AtFlags,
) -> Result {
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let (atime, mtime) = match times.read_optional()? {
        None => (NewTime::Now, NewTime::Now),
        Some([atime, mtime]) => (new_time(atime)?, new_time(mtime)?),
    };
    set_times(ctx, dir, at, atime, mtime, flags.0)
}

fn new_time(at: Timespec) -> Result<NewTime> {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    match at.nsec {
        UTIME_NOW => Ok(NewTime::Now),
        UTIME_OMIT => Ok(NewTime::Keep),
        0..1_000_000_000 => Ok(NewTime::At(at)),
        _ => Err(Errno::EINVAL),
    }
}

fn set_times(ctx: &Ctx, dir: DirFd, at: UserStr, atime: NewTime, mtime: NewTime, flags: u32) -> Result {
    if (atime, mtime) == (NewTime::Keep, NewTime::Keep) {
        return Ok(0);
    }
    let view = view(ctx)?;
    // utimensat(2), C library/kernel differences: a NULL path means the descriptor itself (futimens).
    let object = if at.is_null() {
        Object::Open(ctx.process.fds.get(dir.0)?)
    } else {
        find(ctx, &view, dir, at, flags)?
    };
    let place = object.place().ok_or(Errno::EINVAL)?;
    view.set_times(&place, atime, mtime).map(|()| 0)
}

/// utime(2): seconds.
pub fn utime(ctx: &Ctx, at: UserStr, times: UserPtr<[i64; 2]>) -> Result {
    let at_second = |sec| NewTime::At(Timespec { sec, nsec: 0 });
    let (atime, mtime) = match times.read_optional()? {
        None => (NewTime::Now, NewTime::Now),
        Some([atime, mtime]) => (at_second(atime), at_second(mtime)),
    };
    set_times(ctx, DirFd(AT_FDCWD), at, atime, mtime, 0)
}

/// utimes(2): seconds and microseconds.
pub fn utimes(ctx: &Ctx, at: UserStr, times: UserPtr<[i64; 4]>) -> Result {
    futimesat(ctx, DirFd(AT_FDCWD), at, times)
}

/// futimesat(2).
pub fn futimesat(ctx: &Ctx, dir: DirFd, at: UserStr, times: UserPtr<[i64; 4]>) -> Result {
    let time = |sec, usec: i64| match usec {
        0..1_000_000 => Ok(NewTime::At(Timespec { sec, nsec: usec * 1000 })),
        _ => Err(Errno::EINVAL),
    };
    let (atime, mtime) = match times.read_optional()? {
        None => (NewTime::Now, NewTime::Now),
        Some([a, b, c, d]) => (time(a, b)?, time(c, d)?),
    };
    set_times(ctx, dir, at, atime, mtime, 0)
}

/// truncate(2).
pub fn truncate(ctx: &Ctx, at: UserStr, size: i64) -> Result {
    if size < 0 {
        return Err(Errno::EINVAL);
    }
    let view = view(ctx)?;
    let path = path(at)?;
    let opened = view.open(&view.cwd, &path, 1 | 0o4000, 0)?;
    let open = tree_file::open_file(ctx, opened, 1)?;
    crate::extent::truncate(&open, size as u64).map(|()| 0)
}

/// mount(2), umount2(2): the mounts of a guest are fixed when it starts.
pub fn not_permitted(_ctx: &Ctx) -> Result {
    Err(Errno::EPERM)
}
