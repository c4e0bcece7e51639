//! pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2): a process as a file.
//!
//! The file keeps the process's record, so it never means another process that got the same id later. It is
//! readable once the process has ended, and hung up once its parent has asked for its status. waitid(2) takes it
//! as `P_PIDFD` ([`crate::reap`]), clone(2) makes one with `CLONE_PIDFD` ([`crate::fork`]).
//!
//! Left out: threads (`PIDFD_THREAD`), a folder of /proc in place of the descriptor, and namespaces' ioctls.

use crate::args::{Fd, Signal};
use crate::context::Ctx;
use crate::file::{File, O_NONBLOCK, OpenFile, Stat};
use crate::hub::{Events, Hub};
use crate::process::{Process, root};
use crate::signal::{self, RawInfo};
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::sync::Arc;

const O_RDWR: u32 = 2;

/// pidfd_open(2).
pub fn pidfd_open(ctx: &Ctx, pid: i32, flags: u32) -> Result {
    // PIDFD_NONBLOCK is the same bit.
    if flags & !O_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let process = match root().process(pid as u32) {
        Some(process) => process,
        // A thread that does not lead its process (EINVAL up to Linux 6.14).
        None if root().task(pid as u32).is_some() => return Err(Errno::EINVAL),
        None => return Err(Errno::ESRCH),
    };
    install(ctx, process, flags)
}

/// A descriptor for a process: closed by execve(2), as all of them begin.
pub(crate) fn install(ctx: &Ctx, process: Arc<Process>, flags: u32) -> Result {
    ctx.install(Arc::new(OpenFile::new(PidFd(process), O_RDWR | flags)), true)
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(ctx: &Ctx, fd: Fd, signal: Signal, info: UserPtr<RawInfo>, flags: u32) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let process = of(ctx, fd)?.0;
    signal::send_through(ctx, &process, signal, info)
}

/// pidfd_getfd(2): a descriptor of the process, as one of the caller's.
pub fn pidfd_getfd(ctx: &Ctx, fd: Fd, wanted: Fd, flags: u32) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let process = of(ctx, fd)?.0;
    if process.has_ended() {
        return Err(Errno::ESRCH);
    }
    // ptrace(2), "Ptrace access mode checking": the caller's ids are all of the other's.
    if !Arc::ptr_eq(&process, ctx.process) {
        let (own, other) = (ctx.process.credentials.lock().clone(), process.credentials.lock().clone());
        let same = [other.uid, other.euid, other.suid].iter().all(|&id| id == own.uid)
            && [other.gid, other.egid, other.sgid].iter().all(|&id| id == own.gid);
        if !same && !own.privileged() {
            return Err(Errno::EPERM);
        }
    }
    ctx.install(process.fds.get(wanted.0)?, true)
}

/// The process behind a descriptor, and whether waiting for it must not sleep.
pub(crate) fn of(ctx: &Ctx, fd: Fd) -> Result<(Arc<Process>, bool)> {
    let open = ctx.file(fd)?;
    let file = open.downcast::<PidFd>().ok_or(Errno::EBADF)?;
    Ok((file.0.clone(), open.nonblocking()))
}

/// The file. A process that holds itself open lets go when it ends and closes its descriptors.
struct PidFd(Arc<Process>);

impl File for PidFd {
    fn poll(&self) -> Events {
        match self.0.life.lock().letter() {
            Some('X') => Events::READABLE | Events::HUP,
            Some('Z') => Events::READABLE,
            _ => Events::empty(),
        }
    }

    /// The hub is told at the process's end; a program that it executes before is a false alarm.
    fn hub(&self) -> Option<&Hub> {
        Some(&self.0.released)
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = Stat { mode: 0o600, nlink: 1, blksize: 4096, ..Stat::default() };
        Ok(())
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        f.write_str("anon_inode:[pidfd]")
    }
}
