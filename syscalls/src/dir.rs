//! Directories: where a process is, making and reading them.

use crate::args::{DirFd, Fd, Mode};
use crate::context::Ctx;
use crate::path;
use crate::tree_file::{self, Dir};
use crate::user::{UserPtr, UserStr};
use crate::{Errno, Result};
use fs::View;

/// The most that one getdents call brings through the kernel's memory.
const ROOM: usize = 32 * 1024;

/// chdir(2).
pub fn chdir(ctx: &Ctx, at: UserStr) -> Result {
    let view = path::view(ctx)?;
    let cwd = view.directory(&view.cwd, &path::path(at)?)?;
    ctx.process.view.set(View { cwd, ..View::clone(&view) });
    Ok(0)
}

/// fchdir(2).
pub fn fchdir(ctx: &Ctx, fd: Fd) -> Result {
    let view = path::view(ctx)?;
    let cwd = tree_file::place_of(&*ctx.file(fd)?).ok_or(Errno::ENOTDIR)?;
    view.enterable(&cwd)?;
    ctx.process.view.set(View { cwd, ..View::clone(&view) });
    Ok(0)
}

/// chroot(2).
pub fn chroot(ctx: &Ctx, at: UserStr) -> Result {
    let view = path::view(ctx)?;
    let root = view.directory(&view.cwd, &path::path(at)?)?;
    if !ctx.process.credentials.lock().privileged() {
        return Err(Errno::EPERM);
    }
    ctx.process.view.set(View { root, ..View::clone(&view) });
    Ok(0)
}

/// getcwd(2): the path with its NUL; answers how many bytes.
pub fn getcwd(ctx: &Ctx, buffer: UserPtr<u8>, len: usize) -> Result {
    let view = path::view(ctx)?;
    let mut text = match view.name_of(&view.cwd.path) {
        Some(path) => path.to_vec(),
        None => [b"(unreachable)", &*view.cwd.path].concat(),
    };
    // getcwd(2), ENOENT: the directory was unlinked.
    if view.cwd.stat().is_ok_and(|stat| stat.nlink == 0) {
        return Err(Errno::ENOENT);
    }
    text.push(0);
    if text.len() > len {
        return Err(Errno::ERANGE);
    }
    buffer.write_all(&text)?;
    Ok(text.len())
}

/// mkdir(2).
pub fn mkdir(ctx: &Ctx, at: UserStr, mode: Mode) -> Result {
    mkdirat(ctx, DirFd(-100), at, mode)
}

/// mkdirat(2).
pub fn mkdirat(ctx: &Ctx, dir: DirFd, at: UserStr, mode: Mode) -> Result {
    let view = path::view(ctx)?;
    let path = path::path(at)?;
    let base = path::start(ctx, &view, dir, &path)?;
    view.mkdir(&base, &path, mode.0).map(|()| 0)
}

/// getdents64(2).
pub fn getdents64(ctx: &Ctx, fd: Fd, buffer: UserPtr<u8>, len: usize) -> Result {
    let bytes = entries(ctx, fd, len)?;
    buffer.write_all(&bytes)?;
    Ok(bytes.len())
}

/// getdents(2): the same lengths, but the type stands in the last byte, and the name one byte earlier.
pub fn getdents(ctx: &Ctx, fd: Fd, buffer: UserPtr<u8>, len: usize) -> Result {
    let mut bytes = entries(ctx, fd, len)?;
    let mut at = 0;
    while at + 19 <= bytes.len() {
        let len = usize::from(u16::from_ne_bytes([bytes[at + 16], bytes[at + 17]]));
        let kind = bytes[at + 18];
        bytes.copy_within(at + 19..at + len, at + 18);
        bytes[at + len - 1] = kind;
        at += len;
    }
    buffer.write_all(&bytes)?;
    Ok(bytes.len())
}

fn entries(ctx: &Ctx, fd: Fd, len: usize) -> Result<alloc::vec::Vec<u8>> {
    let open = ctx.file(fd)?;
    let dir = open.downcast::<Dir>().ok_or(Errno::ENOTDIR)?;
    let view = path::view(ctx)?;
    dir.entries(len.min(ROOM), |path| view.tree.names_in(path))
}
