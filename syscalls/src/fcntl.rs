//! Descriptors themselves: dup, close, fcntl, flock.
//!
//! Locks of open file descriptions (flock(2), F_OFD_SETLK) are the host's, so they hold against other
//! programs too; those of processes are in [`crate::record_lock`].

use crate::args::{FcntlCommand, Fd, OpenFlags};
use crate::context::Ctx;
use crate::fd;
use crate::file::{O_APPEND, O_NONBLOCK, OpenFile};
use crate::host_file::HostFile;
use crate::hub::Events;
use crate::process::{RLIMIT_NOFILE, root};
use crate::record_lock::{self, Flock};
use crate::tree_file::InnerFile;
use crate::user::{UserPtr, in_user_space};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use fs::HostFd;
use platform::host;

const O_CLOEXEC: u32 = 0o2000000;
const O_ASYNC: u32 = 0o20000;
const O_DIRECT: u32 = 0o40000;
const O_NOATIME: u32 = 0o1000000;
const O_PATH: u32 = 0o10000000;
/// What F_SETFL can change (fcntl(2)).
const CHANGEABLE: u32 = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME;

const F_DUPFD: i32 = 0;
const F_GETFD: i32 = 1;
const F_SETFD: i32 = 2;
const F_GETFL: i32 = 3;
const F_SETFL: i32 = 4;
const F_GETLK: i32 = 5;
const F_SETLK: i32 = 6;
const F_SETLKW: i32 = 7;
const F_SETOWN: i32 = 8;
const F_GETOWN: i32 = 9;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_OFD_GETLK: i32 = 36;
const F_OFD_SETLK: i32 = 37;
const F_OFD_SETLKW: i32 = 38;
const F_DUPFD_CLOEXEC: i32 = 1030;
const F_SETPIPE_SZ: i32 = 1031;
const F_GETPIPE_SZ: i32 = 1032;
const F_ADD_SEALS: i32 = 1033;
const F_GET_SEALS: i32 = 1034;

/// dup(2).
pub fn dup(ctx: &Ctx, fd: Fd) -> Result {
    ctx.install(ctx.process.fds.get(fd.0)?, false)
}

/// dup2(2).
pub fn dup2(ctx: &Ctx, old: Fd, new: Fd) -> Result {
    if old == new {
        return ctx.file(old).map(|_| new.0 as usize);
    }
    dup3(ctx, old, new, OpenFlags(0))
}

/// dup3(2).
pub fn dup3(ctx: &Ctx, old: Fd, new: Fd, flags: OpenFlags) -> Result {
    if old == new || flags.0 & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let open = ctx.process.fds.get(old.0)?;
    if new.0 < 0 || new.0 as usize >= ctx.process.limit(RLIMIT_NOFILE) {
        return Err(Errno::EBADF);
    }
    if let Some(closed) = ctx.process.fds.replace(new.0, open, flags.0 & O_CLOEXEC != 0)? {
        let_go(closed);
    }
    Ok(new.0 as usize)
}

/// close(2).
pub fn close(ctx: &Ctx, fd: Fd) -> Result {
    let_go(ctx.process.fds.remove(fd.0)?);
    Ok(0)
}

/// A descriptor was closed: its process's POSIX locks on the file go (fcntl(2)), then perhaps the
/// description.
pub fn let_go(open: Arc<OpenFile>) {
    if let Some(ctx) = Ctx::try_current() {
        root().record_locks.closed(ctx.process.pid, &open);
        crate::mqueue::flushed(&open, ctx.process.pid);
    }
    fd::release(open);
}

/// close_range(2).
pub fn close_range(ctx: &Ctx, first: u32, last: u32, flags: u32) -> Result {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    // A table belongs to one process, so there is nothing to unshare.
    let fds = &ctx.process.fds;
    for fd in fds.numbers().into_iter().filter(|&fd| (first..=last).contains(&(fd as u32))) {
        if flags & CLOEXEC != 0 {
            // Another thread may have closed it meanwhile.
            let _ = fds.set_cloexec(fd, true);
        } else if let Ok(open) = fds.remove(fd) {
            let_go(open);
        }
    }
    Ok(0)
}

/// fcntl(2).
pub fn fcntl(ctx: &Ctx, fd: Fd, command: FcntlCommand, argument: usize) -> Result {
    let open = ctx.file(fd)?;
    let path_only = open.flags.load(Ordering::Relaxed) & O_PATH != 0;
    match command.0 {
        F_DUPFD => duplicate(ctx, open.clone(), argument, false),
        F_DUPFD_CLOEXEC => duplicate(ctx, open.clone(), argument, true),
        F_GETFD => ctx.process.fds.cloexec(fd.0).map(usize::from),
        F_SETFD => ctx.process.fds.set_cloexec(fd.0, argument & 1 != 0).map(|()| 0),
        F_GETFL => Ok(open.flags.load(Ordering::Relaxed) as usize),
        // open(2): the rest gives EBADF with O_PATH.
        _ if path_only => Err(Errno::EBADF),
        F_SETFL => set_flags(&open, argument as u32),
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            lock(ctx, &open, command.0, argument)
        }
        F_SETOWN => {
            open.owner.store(argument as i32, Ordering::Relaxed);
            Ok(0)
        }
        F_GETOWN => Ok(open.owner.load(Ordering::Relaxed) as isize as usize),
        F_SETOWN_EX => set_owner(&open, UserPtr::new(argument)),
        F_GETOWN_EX => get_owner(&open, UserPtr::new(argument)),
        // Signals on readiness are not sent (O_ASYNC), so only the default is taken.
        F_GETSIG => Ok(0),
        F_SETSIG if argument == 0 => Ok(0),
        F_SETPIPE_SZ => pipe(&open)?.set_capacity(argument),
        F_GETPIPE_SZ => Ok(pipe(&open)?.capacity()),
        F_ADD_SEALS | F_GET_SEALS => match open.downcast::<HostFile>() {
            // SAFETY: plain numbers.
            Some(host) => unsafe { host!(fcntl, host.fd.raw(), command.0, argument) },
            None => Err(Errno::EINVAL),
        },
        _ => Err(Errno::EINVAL),
    }
}

fn duplicate(ctx: &Ctx, open: Arc<OpenFile>, from: usize, cloexec: bool) -> Result {
    let limit = ctx.process.limit(RLIMIT_NOFILE);
    let from = i32::try_from(from).ok().filter(|&from| (from as usize) < limit).ok_or(Errno::EINVAL)?;
    ctx.process.fds.insert_from(open, from, cloexec, limit).map(|fd| fd as usize)
}

fn set_flags(open: &OpenFile, flags: u32) -> Result {
    let flags = flags & CHANGEABLE;
    if let Some(host) = open.downcast::<HostFile>()
        && host.is_regular()
    {
        // Appending and direct access are done by the host, which may refuse them (EINVAL, EPERM).
        let flags = flags & !(O_NONBLOCK | O_ASYNC);
        // SAFETY: plain numbers.
        unsafe { host!(fcntl, host.fd.raw(), F_SETFL, flags) }?;
    }
    let old = open.flags.load(Ordering::Relaxed);
    open.flags.store(old & !CHANGEABLE | flags, Ordering::Relaxed);
    Ok(0)
}

/// `struct f_owner_ex`: kind, id.
fn set_owner(open: &OpenFile, from: UserPtr<[i32; 2]>) -> Result {
    const F_OWNER_TID: i32 = 0;
    const F_OWNER_PID: i32 = 1;
    const F_OWNER_PGRP: i32 = 2;
    let [kind, id] = from.read()?;
    let owner = match kind {
        F_OWNER_TID | F_OWNER_PID => id,
        F_OWNER_PGRP => -id,
        _ => return Err(Errno::EINVAL),
    };
    open.owner.store(owner, Ordering::Relaxed);
    Ok(0)
}

fn get_owner(open: &OpenFile, to: UserPtr<[i32; 2]>) -> Result {
    let owner = open.owner.load(Ordering::Relaxed);
    to.write(if owner < 0 { [2, -owner] } else { [1, owner] }).map(|()| 0)
}

fn pipe(open: &OpenFile) -> Result<&crate::pipe::End> {
    open.downcast().ok_or(Errno::EBADF)
}

/// The host descriptor that carries a description's locks.
fn lock_fd(ctx: &Ctx, open: &OpenFile) -> Result<Arc<HostFd>> {
    if let Some(host) = open.downcast::<HostFile>() {
        return Ok(host.fd.clone());
    }
    open.downcast::<InnerFile>().ok_or(Errno::EBADF)?.lock_fd(&ctx.task.stay)
}

fn lock(ctx: &Ctx, open: &OpenFile, command: i32, argument: usize) -> Result {
    let fd = lock_fd(ctx, open)?;
    ctx.task.stay.holding_count(&fd, || match command {
        F_GETLK | F_SETLK | F_SETLKW => record_lock::fcntl(ctx, open, &fd, command, UserPtr::new(argument)),
        _ => lock_description(ctx, &fd, command, argument),
    })
}

/// F_OFD_GETLK and its like.
fn lock_description(ctx: &Ctx, fd: &HostFd, command: i32, argument: usize) -> Result {
    if !in_user_space(argument, core::mem::size_of::<Flock>()) {
        return Err(Errno::EFAULT);
    }
    let fd = fd.raw();
    // SAFETY: the host checks the structure, which lies outside kernel state.
    let call = |command| unsafe { host!(fcntl, fd, command, argument) };
    if command != F_OFD_SETLKW {
        let done = call(command);
        lock_hub().notify(Events::READABLE);
        return done;
    }
    wait_for_lock(ctx, || call(F_OFD_SETLK))
}

/// Told when a lock of a description may have become free inside the guest.
fn lock_hub() -> &'static crate::hub::Hub {
    &crate::process::root().record_locks.hub
}

/// Locks that the host has may be given up anywhere.
fn wait_for_lock(ctx: &Ctx, mut attempt: impl FnMut() -> Result) -> Result {
    const LONGEST: u64 = 4 * platform::time::MILLISECOND;
    crate::wait::ask_again(ctx, lock_hub(), LONGEST, || match attempt() {
        Err(Errno::EACCES) => Err(Errno::EAGAIN),
        done => done,
    })
}

/// flock(2).
pub fn flock(ctx: &Ctx, fd: Fd, operation: i32) -> Result {
    const LOCK_NB: i32 = 4;
    let open = ctx.file(fd)?;
    if let Some(dir) = open.downcast::<crate::tree_file::Dir>() {
        let fs::Node::Host(host) = &dir.place.node else { return Err(Errno::EOPNOTSUPP) };
        return flock_host(ctx, host.raw(), operation, LOCK_NB);
    }
    let fd = lock_fd(ctx, &open)?;
    ctx.task.stay.holding_count(&fd, || flock_host(ctx, fd.raw(), operation, LOCK_NB))
}

fn flock_host(ctx: &Ctx, fd: i32, operation: i32, no_wait: i32) -> Result {
    // SAFETY: plain numbers.
    let call = |operation| unsafe { host!(flock, fd, operation) };
    let done = match call(operation | no_wait) {
        Err(Errno::EAGAIN) if operation & no_wait == 0 => wait_for_lock(ctx, || call(operation | no_wait)),
        done => done,
    };
    if done.is_ok() {
        // An unlock, or a change to a shared lock.
        lock_hub().notify(Events::READABLE);
    }
    done
}
