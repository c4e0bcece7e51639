//! read(2), write(2) and their families, and lseek(2).
//!
//! Files with a position are read and written at once; the position is the host's for host files, else
//! the description's, locked while it moves. All others wait for readiness ([`crate::wait`]), and a
//! blocking write goes on until everything is written, as pipe(7) and POSIX ask.

use crate::args::{BytesIn, Fd, Whence};
use crate::context::Ctx;
use crate::file::{Buffer, O_ACCMODE, O_APPEND, OpenFile, Sink, Source};
use crate::host_file::{AT_OFFSET, HostFile};
use crate::hub::Events;
use crate::process::RLIMIT_FSIZE;
use crate::signal::{self, Info, number::SIGPIPE};
use crate::stay::InUse;
use crate::tree_file::Dir;
use crate::user::{Iovec, UserBuffer, UserPtr, UserVec};
use crate::wait::{self, Waiting};
use crate::{Errno, Result, socket};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

const O_PATH: u32 = 0o10000000;
const RWF_HIPRI: u32 = 1;
const RWF_DSYNC: u32 = 2;
const RWF_SYNC: u32 = 4;
const RWF_NOWAIT: u32 = 8;
const RWF_APPEND: u32 = 16;

/// read(2).
pub fn read(ctx: &Ctx, fd: Fd, buffer: UserPtr<u8>, len: usize) -> Result {
    let open = readable(ctx, fd)?;
    let mut into = UserBuffer::new(buffer.address(), len)?;
    if let Some(host) = regular(&open) {
        return host.read_regular(&[whole(&mut into)], AT_OFFSET);
    }
    read_open(ctx, &open, &mut into)
}

/// readv(2).
pub fn readv(ctx: &Ctx, fd: Fd, vector: UserPtr<Iovec>, count: usize) -> Result {
    let open = readable(ctx, fd)?;
    let mut into = UserVec::new(vector, count)?;
    match regular(&open) {
        Some(host) => host.read_regular(into.iovecs(), AT_OFFSET),
        None => read_open(ctx, &open, &mut into),
    }
}

/// write(2).
pub fn write(ctx: &Ctx, fd: Fd, buffer: BytesIn, len: usize) -> Result {
    let open = writable(ctx, fd)?;
    let len = below_limit(ctx, &open, AT_OFFSET, len)?;
    let mut from = UserBuffer::new(buffer.0, len)?;
    if let Some(host) = regular(&open) {
        let (base, len) = Source::chunk(&mut from);
        return host.write_regular(&[Iovec { base, len }], AT_OFFSET, 0);
    }
    write_open(ctx, &open, &mut from)
}

/// writev(2).
pub fn writev(ctx: &Ctx, fd: Fd, vector: UserPtr<Iovec>, count: usize) -> Result {
    let open = writable(ctx, fd)?;
    let mut from = UserVec::new(vector, count)?;
    let most = below_limit(ctx, &open, AT_OFFSET, from.remaining())?;
    if most < from.remaining() {
        from = UserVec::of(first_bytes(from.iovecs(), most));
    }
    match regular(&open) {
        Some(host) => host.write_regular(from.iovecs(), AT_OFFSET, 0),
        None => write_open(ctx, &open, &mut from),
    }
}

/// pread(2).
pub fn pread64(ctx: &Ctx, fd: Fd, buffer: UserPtr<u8>, len: usize, at: i64) -> Result {
    let open = positioned(ctx, fd, at, readable)?;
    let mut into = UserBuffer::new(buffer.address(), len)?;
    if let Some(host) = regular(&open) {
        return host.read_regular(&[whole(&mut into)], at);
    }
    open.file.read(&open, &mut (at as u64), &mut into)
}

/// pwrite(2).
pub fn pwrite64(ctx: &Ctx, fd: Fd, buffer: BytesIn, len: usize, at: i64) -> Result {
    let open = positioned(ctx, fd, at, writable)?;
    let len = below_limit(ctx, &open, at, len)?;
    let mut from = UserBuffer::new(buffer.0, len)?;
    if let Some(host) = regular(&open) {
        let (base, len) = Source::chunk(&mut from);
        return host.write_regular(&[Iovec { base, len }], at, 0);
    }
    open.file.write(&open, &mut (at as u64), &mut from)
}

/// preadv(2). On x86-64 the position is all in its first word.
pub fn preadv(ctx: &Ctx, fd: Fd, vector: UserPtr<Iovec>, count: usize, at: usize, _high: usize) -> Result {
    preadv_at(ctx, fd, vector, count, at as i64)
}

fn preadv_at(ctx: &Ctx, fd: Fd, vector: UserPtr<Iovec>, count: usize, at: i64) -> Result {
    let open = positioned(ctx, fd, at, readable)?;
    let mut into = UserVec::new(vector, count)?;
    match regular(&open) {
        Some(host) => host.read_regular(into.iovecs(), at),
        None => open.file.read(&open, &mut (at as u64), &mut into),
    }
}

/// pwritev(2).
pub fn pwritev(ctx: &Ctx, fd: Fd, vector: UserPtr<Iovec>, count: usize, at: usize, _high: usize) -> Result {
    pwritev_at(ctx, fd, vector, count, at as i64, 0)
}

fn pwritev_at(ctx: &Ctx, fd: Fd, vector: UserPtr<Iovec>, count: usize, at: i64, flags: u32) -> Result {
    let open = positioned(ctx, fd, at, writable)?;
    let mut from = UserVec::new(vector, count)?;
    let most = below_limit(ctx, &open, at, from.remaining())?;
    if most < from.remaining() {
        from = UserVec::of(first_bytes(from.iovecs(), most));
    }
    match regular(&open) {
        Some(host) => host.write_regular(from.iovecs(), at, flags),
        None => open.file.write(&open, &mut (at as u64), &mut from),
    }
}

/// preadv2(2). RWF_NOWAIT reads what is there, or EAGAIN.
pub fn preadv2(
    ctx: &Ctx,
    fd: Fd,
    vector: UserPtr<Iovec>,
    count: usize,
    at: usize,
    _high: usize,
    flags: u32,
) -> Result {
    if flags & !(RWF_HIPRI | RWF_NOWAIT) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags & RWF_NOWAIT != 0 {
        let open = readable(ctx, fd)?;
        let mut into = UserVec::new(vector, count)?;
        let Some(host) = regular(&open) else {
            return if at as i64 == AT_OFFSET && !open.file.seekable() && open.file.as_socket().is_none() {
                open.file.read(&open, &mut 0, &mut into)
            } else {
                Err(Errno::EOPNOTSUPP)
            };
        };
        return host.read_cached(into.iovecs(), at as i64);
    }
    match at as i64 {
        AT_OFFSET => readv(ctx, fd, vector, count),
        at => preadv_at(ctx, fd, vector, count, at),
    }
}

/// pwritev2(2).
pub fn pwritev2(
    ctx: &Ctx,
    fd: Fd,
    vector: UserPtr<Iovec>,
    count: usize,
    at: usize,
    _high: usize,
    flags: u32,
) -> Result {
    if flags & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let open = writable(ctx, fd)?;
    if let Some(host) = regular(&open) {
        return host.write_regular(UserVec::new(vector, count)?.iovecs(), at as i64, flags);
    }
    if flags & (RWF_DSYNC | RWF_SYNC | RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    match at as i64 {
        AT_OFFSET => writev(ctx, fd, vector, count),
        at => pwritev_at(ctx, fd, vector, count, at, 0),
    }
}

/// lseek(2).
pub fn lseek(ctx: &Ctx, fd: Fd, offset: i64, whence: Whence) -> Result {
    let open = ctx.file(fd)?;
    if let Some(host) = regular(&open) {
        return host.seek(offset, whence.0);
    }
    if let Some(dir) = open.downcast::<Dir>() {
        return dir.seek(offset, whence.0);
    }
    if open.flags.load(Ordering::Relaxed) & O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    if !(0..=4).contains(&whence.0) {
        return Err(Errno::EINVAL);
    }
    if !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    const SEEK_DATA: i32 = 3;
    const SEEK_HOLE: i32 = 4;
    let mut position = open.offset.lock();
    let base = match whence.0 {
        0 => 0,
        1 => *position as i64,
        2 => open.file.size()? as i64,
        SEEK_DATA | SEEK_HOLE => {
            let at = crate::extent::seek_extent(&open, offset, whence.0)?;
            *position = at as u64;
            return Ok(at);
        }
        _ => return Err(Errno::EINVAL),
    };
    let to = base.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
    *position = u64::try_from(to).map_err(|_| Errno::EINVAL)?;
    Ok(to as usize)
}

/// Reads from an open file that is not a regular one of the host, waiting if need be.
pub fn read_open(ctx: &Ctx, open: &OpenFile, into: &mut dyn Sink) -> Result {
    if let Some(socket) = open.file.as_socket() {
        // As System V: nothing asked is nothing given, even of a datagram (sock_read_iter).
        if into.remaining() == 0 {
            return Ok(0);
        }
        return socket::read(ctx, open, socket, into);
    }
    if let Some(slave) = open.downcast::<crate::tty::pty::Slave>() {
        return crate::tty::pty::read(ctx, open, slave, into);
    }
    if open.file.seekable() {
        let mut position = open.offset.lock();
        return open.file.read(open, &mut position, into);
    }
    let how = Waiting::for_events(Events::READABLE | Events::RDHUP);
    wait::block_on(ctx, open, how, || open.file.read(open, &mut 0, into))
}

/// Writes to an open file that is not a regular one of the host, waiting if need be.
pub fn write_open(ctx: &Ctx, open: &OpenFile, from: &mut dyn Source) -> Result {
    if let Some(socket) = open.file.as_socket() {
        return socket::write(ctx, open, socket, from);
    }
    if open.file.seekable() {
        let mut position = open.offset.lock();
        return open.file.write(open, &mut position, from);
    }
    let how = Waiting::for_events(Events::WRITABLE);
    let mut done = 0;
    loop {
        match wait::block_on(ctx, open, how, || open.file.write(open, &mut 0, from)) {
            Ok(count) => done += count,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => {
                if error == Errno::EPIPE {
                    raise_sigpipe(ctx);
                }
                return Err(error);
            }
        }
        if from.remaining() == 0 || open.nonblocking() {
            return Ok(done);
        }
    }
}

/// A write to a pipe or socket without a reader (pipe(7)).
pub fn raise_sigpipe(ctx: &Ctx) {
    const SI_USER: i32 = 0;
    // A full signal queue cannot refuse it: SIGPIPE is not queued twice.
    let _ = signal::send_task(ctx.task, Info::from_user(SIGPIPE, SI_USER, ctx));
}

/// How many of `len` bytes may be written at `at` (or at the position) under RLIMIT_FSIZE: SIGXFSZ and
/// EFBIG for none (setrlimit(2), generic_write_checks of the kernel).
pub fn below_limit(ctx: &Ctx, open: &OpenFile, at: i64, len: usize) -> Result {
    let limit = ctx.process.limits(RLIMIT_FSIZE).soft;
    if limit == u64::MAX || len == 0 || !open.file.seekable() {
        return Ok(len);
    }
    let at = match at {
        AT_OFFSET if appends(open) => open.file.size()?,
        AT_OFFSET => position(open)?,
        at => at as u64,
    };
    if at < limit {
        return Ok(len.min(usize::try_from(limit - at).unwrap_or(usize::MAX)));
    }
    too_large(ctx)
}

/// A file would pass RLIMIT_FSIZE.
pub fn too_large(ctx: &Ctx) -> Result {
    const SIGXFSZ: i32 = 25;
    let _ = signal::send_task(ctx.task, Info::from_kernel(SIGXFSZ));
    Err(Errno::EFBIG)
}

/// The first `most` bytes of the buffers.
fn first_bytes(buffers: &[Iovec], mut most: usize) -> Vec<Iovec> {
    let cut = |buffer: &Iovec| {
        let len = buffer.len.min(most);
        most -= len;
        Iovec { base: buffer.base, len }
    };
    buffers.iter().map(cut).collect()
}

/// The host file behind a description, if its position is the host's.
pub fn regular(open: &OpenFile) -> Option<&HostFile> {
    open.downcast::<HostFile>().filter(|host| host.is_regular())
}

/// An open file that was opened for reading.
pub fn readable<'a>(ctx: &Ctx<'a>, fd: Fd) -> Result<InUse<'a>> {
    let open = ctx.file(fd)?;
    let flags = open.flags.load(Ordering::Relaxed);
    if flags & O_ACCMODE == 1 || flags & O_PATH != 0 { Err(Errno::EBADF) } else { Ok(open) }
}

/// An open file that was opened for writing.
pub fn writable<'a>(ctx: &Ctx<'a>, fd: Fd) -> Result<InUse<'a>> {
    let open = ctx.file(fd)?;
    let flags = open.flags.load(Ordering::Relaxed);
    if flags & O_ACCMODE == 0 || flags & O_PATH != 0 { Err(Errno::EBADF) } else { Ok(open) }
}

/// For reads and writes at a position: ESPIPE goes before a wrong mode, as in Linux (ksys_pread64).
fn positioned<'a>(
    ctx: &Ctx<'a>,
    fd: Fd,
    at: i64,
    check: fn(&Ctx<'a>, Fd) -> Result<InUse<'a>>,
) -> Result<InUse<'a>> {
    if at < 0 {
        return Err(Errno::EINVAL);
    }
    let open = ctx.file(fd)?;
    let path_only = open.flags.load(Ordering::Relaxed) & O_PATH != 0;
    if !path_only && !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    drop(open);
    check(ctx, fd)
}

fn whole(buffer: &mut UserBuffer) -> Iovec {
    let (base, len) = Sink::chunk(buffer);
    Iovec { base, len }
}

/// The position of a description, wherever it is kept.
pub fn position(open: &OpenFile) -> Result<u64> {
    match regular(open) {
        Some(host) => host.seek(0, 1).map(|at| at as u64),
        None => Ok(*open.offset.lock()),
    }
}

/// Sets the position of a description.
pub fn set_position(open: &OpenFile, at: u64) -> Result<()> {
    match regular(open) {
        Some(host) => host.seek(at as i64, 0).map(drop),
        None => {
            *open.offset.lock() = at;
            Ok(())
        }
    }
}

/// Whether writes go to the end.
pub fn appends(open: &OpenFile) -> bool {
    open.flags.load(Ordering::Relaxed) & O_APPEND != 0
}
