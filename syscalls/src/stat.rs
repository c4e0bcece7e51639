//! stat(2) and statfs(2) in all their spellings.

use crate::args::{AtFlags, DirFd, Fd};
use crate::context::Ctx;
use crate::file::{OpenFile, Stat};
use crate::path::{self, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, Object};
use crate::tree_file;
use crate::user::{UserPtr, UserStr};
use crate::{Errno, Result};
use fs::{Node, Place, StatFs};
use platform::host;

const AT_FDCWD: i32 = -100;
const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_STATX_SYNC: u32 = 0x6000;

/// stat(2).
pub fn stat(ctx: &Ctx, at: UserStr, out: UserPtr<Stat>) -> Result {
    newfstatat(ctx, DirFd(AT_FDCWD), at, out, AtFlags(0))
}

/// lstat(2).
pub fn lstat(ctx: &Ctx, at: UserStr, out: UserPtr<Stat>) -> Result {
    newfstatat(ctx, DirFd(AT_FDCWD), at, out, AtFlags(AT_SYMLINK_NOFOLLOW))
}

/// fstat(2).
pub fn fstat(ctx: &Ctx, fd: Fd, out: UserPtr<Stat>) -> Result {
    let stat = of_file(&*ctx.file(fd)?)?;
    out.write(stat).map(|()| 0)
}

/// fstatat(2).
pub fn newfstatat(ctx: &Ctx, dir: DirFd, at: UserStr, out: UserPtr<Stat>, flags: AtFlags) -> Result {
    if flags.0 & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_SYNC) != 0 {
        return Err(Errno::EINVAL);
    }
    let view = path::view(ctx)?;
    let stat = match path::find(ctx, &view, dir, at, flags.0)? {
        Object::Place(place) => of_place(&place)?,
        Object::Open(open) => of_file(&open)?,
    };
    out.write(stat).map(|()| 0)
}

fn of_file(open: &OpenFile) -> Result<Stat> {
    let mut stat = Stat::default();
    open.file.stat(&mut stat)?;
    Ok(stat)
}

/// stat(2) of a place.
pub fn of_place(place: &Place) -> Result<Stat> {
    match &place.node {
        Node::Object(object) => of_file(&*object.clone().downcast::<OpenFile>().map_err(|_| Errno::EBADF)?),
        _ => place.stat(),
    }
}

/// The kernel's `struct statx`: 256 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Statx {
    pub mask: u32,
    pub blksize: u32,
    pub attributes: u64,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub mode: u16,
    pub pad0: u16,
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub attributes_mask: u64,
    /// Access, birth, change, modification: seconds, then nanoseconds in the low half.
    pub times: [[i64; 2]; 4],
    pub rdev_major: u32,
    pub rdev_minor: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    pub rest: [u64; 14],
}
const _: () = assert!(core::mem::size_of::<Statx>() == 256);

/// `STATX_BASIC_STATS`
const BASIC: u32 = 0x7ff;
const STATX_RESERVED: u32 = 0x8000_0000;

/// statx(2).
pub fn statx(ctx: &Ctx, dir: DirFd, at: UserStr, flags: AtFlags, mask: u32, out: UserPtr<Statx>) -> Result {
    let known = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_SYNC;
    if flags.0 & !known != 0 || mask & STATX_RESERVED != 0 || flags.0 & AT_STATX_SYNC == AT_STATX_SYNC {
        return Err(Errno::EINVAL);
    }
    let view = path::view(ctx)?;
    let object = path::find(ctx, &view, dir, at, flags.0)?;
    if let Some(Place { node: Node::Host(fd), .. }) = object.place() {
        let mut answer = core::mem::MaybeUninit::<Statx>::zeroed();
        let flags = AT_EMPTY_PATH | flags.0 & AT_STATX_SYNC;
        // SAFETY: the name is a C string, and the kernel fills a struct statx of ours.
        unsafe { host!(statx, fd.raw(), c"".as_ptr(), flags, mask, answer.as_mut_ptr()) }?;
        // SAFETY: all bit patterns are valid, and it was zeroed.
        return out.write(unsafe { answer.assume_init() }).map(|()| 0);
    }
    let stat = match object {
        Object::Place(place) => of_place(&place)?,
        Object::Open(open) => of_file(&open)?,
    };
    out.write(convert(&stat)).map(|()| 0)
}

fn convert(stat: &Stat) -> Statx {
    let major = |dev: u64| ((dev >> 8) & 0xfff) as u32;
    let minor = |dev: u64| ((dev & 0xff) | ((dev >> 12) & 0xf_ff00)) as u32;
    Statx {
        mask: BASIC,
        blksize: stat.blksize as u32,
        attributes: 0,
        nlink: stat.nlink as u32,
        uid: stat.uid,
        gid: stat.gid,
        mode: stat.mode as u16,
        pad0: 0,
        ino: stat.ino,
        size: stat.size as u64,
        blocks: stat.blocks as u64,
        attributes_mask: 0,
        times: [
            [stat.atime, stat.atime_nsec as i64],
            [0, 0],
            [stat.ctime, stat.ctime_nsec as i64],
            [stat.mtime, stat.mtime_nsec as i64],
        ],
        rdev_major: major(stat.rdev),
        rdev_minor: minor(stat.rdev),
        dev_major: major(stat.dev),
        dev_minor: minor(stat.dev),
        rest: [0; 14],
    }
}

/// statfs(2).
pub fn statfs(ctx: &Ctx, at: UserStr, out: UserPtr<StatFs>) -> Result {
    let view = path::view(ctx)?;
    let path = path::path(at)?;
    let place = view.locate(&view.cwd, &path, true)?;
    out.write(view.statfs(&place)?).map(|()| 0)
}

/// fstatfs(2).
pub fn fstatfs(ctx: &Ctx, fd: Fd, out: UserPtr<StatFs>) -> Result {
    const PIPEFS_MAGIC: i64 = 0x5049_5045;
    const ANON_INODE_FS_MAGIC: i64 = 0x0904_1934;
    const SOCKFS_MAGIC: i64 = 0x534f_434b;
    let open = ctx.file(fd)?;
    let view = path::view(ctx)?;
    if let Some(place) = tree_file::place_of(&open) {
        return out.write(view.statfs(&place)?).map(|()| 0);
    }
    if let Some(host) = open.file.host_fd() {
        let mut answer = StatFs::default();
        // SAFETY: the buffer is ours and of the kernel's layout.
        unsafe { host!(fstatfs, host, &raw mut answer) }?;
        return out.write(answer).map(|()| 0);
    }
    let kind = if open.file.as_socket().is_some() {
        SOCKFS_MAGIC
    } else if open.downcast::<crate::pipe::End>().is_some() {
        PIPEFS_MAGIC
    } else {
        ANON_INODE_FS_MAGIC
    };
    let answer = StatFs { kind, bsize: 4096, frsize: 4096, namelen: 255, ..StatFs::default() };
    out.write(answer).map(|()| 0)
}
