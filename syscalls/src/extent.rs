//! Size, holes and stable storage: ftruncate, fallocate, fsync, fadvise and the like.
//!
//! What may take long on a disk runs on a helper thread while the guest thread is parked.

use crate::args::Fd;
use crate::context::Ctx;
use crate::file::OpenFile;
use crate::host_file::{HostFile, blocking};
use crate::rw;
use crate::tree_file::{Dir, InnerFile};
use crate::{Errno, Result};
use platform::host;

/// ftruncate(2).
pub fn ftruncate(ctx: &Ctx, fd: Fd, size: i64) -> Result {
    let open = rw::writable(ctx, fd).map_err(|_| match ctx.file(fd) {
        // ftruncate(2): EINVAL for a descriptor that is not open for writing.
        Ok(_) => Errno::EINVAL,
        Err(error) => error,
    })?;
    let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
    if size > ctx.process.limits(crate::process::RLIMIT_FSIZE).soft {
        return rw::too_large(ctx);
    }
    truncate(&open, size).map(|()| 0)
}

/// Sets the size of an open file.
pub fn truncate(open: &OpenFile, size: u64) -> Result<()> {
    if let Some(host) = open.downcast::<HostFile>() {
        // SAFETY: plain numbers.
        return unsafe { host!(ftruncate, host.fd.raw(), size) }.map(drop);
    }
    match open.downcast::<InnerFile>() {
        Some(inner) => inner.node.truncate(size),
        None if open.downcast::<Dir>().is_some() => Err(Errno::EISDIR),
        None => Err(Errno::EINVAL),
    }
}

/// fallocate(2).
pub fn fallocate(ctx: &Ctx, fd: Fd, mode: i32, offset: i64, len: i64) -> Result {
    // The order of the checks is the kernel's (vfs_fallocate).
    ctx.file(fd)?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    const KEEP_SIZE: i32 = 1;
    const PUNCH_HOLE: i32 = 2;
    const KNOWN: i32 = KEEP_SIZE | PUNCH_HOLE | 0x8 | 0x10 | 0x20 | 0x40;
    if mode & !KNOWN != 0 || mode & (PUNCH_HOLE | KEEP_SIZE) == PUNCH_HOLE {
        return Err(Errno::EOPNOTSUPP);
    }
    let open = rw::writable(ctx, fd)?;
    let (host, inner) = backing(&open)?;
    let host = host.raw();
    let done = blocking(|| {
        // SAFETY: plain numbers.
        unsafe { host!(fallocate, host, mode, offset, len) }
    });
    if let Some(inner) = inner {
        inner.node.touched();
    }
    done
}

/// The host descriptor with a file's bytes.
fn backing(open: &OpenFile) -> Result<(alloc::sync::Arc<fs::HostFd>, Option<&InnerFile>)> {
    if let Some(host) = open.downcast::<HostFile>() {
        return if host.is_regular() { Ok((host.fd.clone(), None)) } else { Err(Errno::ESPIPE) };
    }
    match open.downcast::<InnerFile>() {
        Some(inner) => inner.node.host().map(|fd| (fd, Some(inner))),
        None if open.downcast::<crate::pipe::End>().is_some() => Err(Errno::ESPIPE),
        None => Err(Errno::ENODEV),
    }
}

/// lseek(2) with SEEK_DATA or SEEK_HOLE on an inner file.
pub fn seek_extent(open: &OpenFile, offset: i64, whence: i32) -> Result {
    let (host, _) = backing(open).map_err(|_| Errno::EINVAL)?;
    // SAFETY: plain numbers. The memfd's own offset means nothing to anybody.
    unsafe { host!(lseek, host.raw(), offset, whence) }
}

/// fsync(2).
pub fn fsync(ctx: &Ctx, fd: Fd) -> Result {
    sync_by(ctx, fd, |host| {
        // SAFETY: a plain number.
        unsafe { host!(fsync, host) }
    })
}

/// fdatasync(2).
pub fn fdatasync(ctx: &Ctx, fd: Fd) -> Result {
    sync_by(ctx, fd, |host| {
        // SAFETY: a plain number.
        unsafe { host!(fdatasync, host) }
    })
}

/// sync_file_range(2).
pub fn sync_file_range(ctx: &Ctx, fd: Fd, offset: i64, len: i64, flags: u32) -> Result {
    sync_by(ctx, fd, |host| {
        // SAFETY: plain numbers.
        unsafe { host!(sync_file_range, host, offset, len, flags) }
    })
}

/// syncfs(2).
pub fn syncfs(ctx: &Ctx, fd: Fd) -> Result {
    sync_by(ctx, fd, |host| {
        // SAFETY: a plain number.
        unsafe { host!(syncfs, host) }
    })
}

fn sync_by(ctx: &Ctx, fd: Fd, call: impl FnOnce(i32) -> Result + Send) -> Result {
    let open = ctx.file(fd)?;
    if let Some(host) = open.file.host_fd() {
        return blocking(move || call(host));
    }
    // Memory is as stable as it gets; pipes and sockets: fsync(2), EINVAL.
    if open.downcast::<InnerFile>().is_some() || open.downcast::<Dir>().is_some() {
        return Ok(0);
    }
    Err(Errno::EINVAL)
}

/// sync(2).
pub fn sync(_ctx: &Ctx) -> Result {
    blocking(|| {
        // SAFETY: no arguments.
        unsafe { host!(sync) }
    })
}

/// posix_fadvise(2).
pub fn fadvise64(ctx: &Ctx, fd: Fd, offset: i64, len: i64, advice: i32) -> Result {
    let open = ctx.file(fd)?;
    if !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    if !(0..=5).contains(&advice) || len < 0 {
        return Err(Errno::EINVAL);
    }
    match rw::regular(&open) {
        // SAFETY: plain numbers.
        Some(host) => unsafe { host!(fadvise64, host.fd.raw(), offset, len, advice) },
        None => Ok(0),
    }
}

/// readahead(2).
pub fn readahead(ctx: &Ctx, fd: Fd, offset: i64, count: usize) -> Result {
    let open = rw::readable(ctx, fd)?;
    match rw::regular(&open) {
        // SAFETY: plain numbers.
        Some(host) => unsafe { host!(readahead, host.fd.raw(), offset, count) },
        None if open.downcast::<InnerFile>().is_some() => Ok(0),
        None => Err(Errno::EINVAL),
    }
}
