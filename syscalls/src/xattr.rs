//! Extended attributes (xattr(7)): the host's on host files, minimal ones on inner files.

use crate::args::{BytesIn, DirFd, Fd};
use crate::context::Ctx;
use crate::path::{self, AT_SYMLINK_NOFOLLOW};
use crate::tree_file;
use crate::user::{self, UserPtr, UserStr};
use crate::{Errno, Result};
use alloc::vec::Vec;
use fs::host::CPath;
use fs::view::proc_path;
use fs::{Node, Place};
use platform::host;

/// `XATTR_SIZE_MAX`, and `XATTR_LIST_MAX`.
const SIZE_MAX: usize = 65536;
/// `XATTR_NAME_MAX`
const NAME_MAX: usize = 255;

/// setxattr(2).
pub fn setxattr(ctx: &Ctx, at: UserStr, name: UserStr, value: BytesIn, size: usize, flags: i32) -> Result {
    set(&by_path(ctx, at, 0)?, name, value, size, flags)
}

/// lsetxattr(2).
pub fn lsetxattr(ctx: &Ctx, at: UserStr, name: UserStr, value: BytesIn, size: usize, flags: i32) -> Result {
    set(&by_path(ctx, at, AT_SYMLINK_NOFOLLOW)?, name, value, size, flags)
}

/// fsetxattr(2).
pub fn fsetxattr(ctx: &Ctx, fd: Fd, name: UserStr, value: BytesIn, size: usize, flags: i32) -> Result {
    set(&by_fd(ctx, fd)?, name, value, size, flags)
}

/// getxattr(2).
pub fn getxattr(ctx: &Ctx, at: UserStr, name: UserStr, value: UserPtr<u8>, size: usize) -> Result {
    get(&by_path(ctx, at, 0)?, name, value, size)
}

/// lgetxattr(2).
pub fn lgetxattr(ctx: &Ctx, at: UserStr, name: UserStr, value: UserPtr<u8>, size: usize) -> Result {
    get(&by_path(ctx, at, AT_SYMLINK_NOFOLLOW)?, name, value, size)
}

/// fgetxattr(2).
pub fn fgetxattr(ctx: &Ctx, fd: Fd, name: UserStr, value: UserPtr<u8>, size: usize) -> Result {
    get(&by_fd(ctx, fd)?, name, value, size)
}

/// listxattr(2).
pub fn listxattr(ctx: &Ctx, at: UserStr, list: UserPtr<u8>, size: usize) -> Result {
    names(&by_path(ctx, at, 0)?, list, size)
}

/// llistxattr(2).
pub fn llistxattr(ctx: &Ctx, at: UserStr, list: UserPtr<u8>, size: usize) -> Result {
    names(&by_path(ctx, at, AT_SYMLINK_NOFOLLOW)?, list, size)
}

/// flistxattr(2).
pub fn flistxattr(ctx: &Ctx, fd: Fd, list: UserPtr<u8>, size: usize) -> Result {
    names(&by_fd(ctx, fd)?, list, size)
}

/// removexattr(2).
pub fn removexattr(ctx: &Ctx, at: UserStr, name: UserStr) -> Result {
    remove(&by_path(ctx, at, 0)?, name)
}

/// lremovexattr(2).
pub fn lremovexattr(ctx: &Ctx, at: UserStr, name: UserStr) -> Result {
    remove(&by_path(ctx, at, AT_SYMLINK_NOFOLLOW)?, name)
}

/// fremovexattr(2).
pub fn fremovexattr(ctx: &Ctx, fd: Fd, name: UserStr) -> Result {
    remove(&by_fd(ctx, fd)?, name)
}

fn by_path(ctx: &Ctx, at: UserStr, flags: u32) -> Result<Place> {
    let view = path::view(ctx)?;
    path::find(ctx, &view, DirFd(-100), at, flags)?.place().ok_or(Errno::EOPNOTSUPP)
}

fn by_fd(ctx: &Ctx, fd: Fd) -> Result<Place> {
    tree_file::place_of(&*ctx.file(fd)?).ok_or(Errno::EOPNOTSUPP)
}

fn attribute(name: UserStr) -> Result<Vec<u8>> {
    let name = name.to_vec(NAME_MAX).map_err(|e| if e == Errno::E2BIG { Errno::ERANGE } else { e })?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

fn get(place: &Place, name: UserStr, value: UserPtr<u8>, size: usize) -> Result {
    let name = attribute(name)?;
    match &place.node {
        Node::Host(fd) => {
            let (path, name) = (proc_path(fd)?, CPath::new(&name)?);
            let mut bytes = alloc::vec![0u8; size.min(SIZE_MAX)];
            // The path leads to the very file of the descriptor, which may be O_PATH (EBADF for fgetxattr).
            // SAFETY: C strings, and a buffer of ours.
            let len = unsafe { host!(getxattr, path.ptr(), name.ptr(), bytes.as_mut_ptr(), bytes.len()) }?;
            value.write_all(&bytes[..len.min(bytes.len())])?;
            Ok(len)
        }
        Node::Inner(node) => give(&node.xattr(&name)?, value, size),
        Node::Object(_) => Err(Errno::EOPNOTSUPP),
    }
}

/// Size 0 asks for the size.
fn give(bytes: &[u8], to: UserPtr<u8>, size: usize) -> Result {
    if size > 0 {
        if bytes.len() > size {
            return Err(Errno::ERANGE);
        }
        to.write_all(bytes)?;
    }
    Ok(bytes.len())
}

fn set(place: &Place, name: UserStr, value: BytesIn, size: usize, flags: i32) -> Result {
    let name = attribute(name)?;
    if flags & !3 != 0 {
        return Err(Errno::EINVAL);
    }
    if size > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let mut bytes = alloc::vec![0u8; size];
    user::read_bytes(value.0, &mut bytes)?;
    place.writable()?;
    match &place.node {
        Node::Host(fd) => {
            let (path, name) = (proc_path(fd)?, CPath::new(&name)?);
            // SAFETY: C strings, and a buffer of ours.
            unsafe { host!(setxattr, path.ptr(), name.ptr(), bytes.as_ptr(), bytes.len(), flags) }
        }
        Node::Inner(node) => node.set_xattr(&name, &bytes, flags as u32).map(|()| 0),
        Node::Object(_) => Err(Errno::EOPNOTSUPP),
    }
}

fn names(place: &Place, list: UserPtr<u8>, size: usize) -> Result {
    match &place.node {
        Node::Host(fd) => {
            let path = proc_path(fd)?;
            let mut bytes = alloc::vec![0u8; size.min(SIZE_MAX)];
            // SAFETY: a C string, and a buffer of ours.
            let len = unsafe { host!(listxattr, path.ptr(), bytes.as_mut_ptr(), bytes.len()) }?;
            list.write_all(&bytes[..len.min(bytes.len())])?;
            Ok(len)
        }
        Node::Inner(node) => {
            let mut bytes = Vec::new();
            for name in node.xattrs()? {
                bytes.extend_from_slice(&name);
                bytes.push(0);
            }
            give(&bytes, list, size)
        }
        Node::Object(_) => Err(Errno::EOPNOTSUPP),
    }
}

fn remove(place: &Place, name: UserStr) -> Result {
    let name = attribute(name)?;
    place.writable()?;
    match &place.node {
        Node::Host(fd) => {
            let (path, name) = (proc_path(fd)?, CPath::new(&name)?);
            // SAFETY: C strings.
            unsafe { host!(removexattr, path.ptr(), name.ptr()) }
        }
        Node::Inner(node) => node.remove_xattr(&name).map(|()| 0),
        Node::Object(_) => Err(Errno::EOPNOTSUPP),
    }
}
