//! signalfd(2): a process's signals as a file. What is read is what waits for the *reading* thread.

use crate::args::{Fd, OpenFlags};
use crate::context::Ctx;
use crate::file::{File, O_CLOEXEC, O_NONBLOCK, OpenFile, Sink, Stat};
use crate::hub::{Events, Hub};
use crate::signal::{self, Info, bit, number::*};
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

/// Size of `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// signalfd(2) without flags.
pub fn signalfd(ctx: &Ctx, fd: Fd, mask: UserPtr<u64>, size: usize) -> Result {
    signalfd4(ctx, fd, mask, size, OpenFlags(0))
}

/// signalfd4(2).
pub fn signalfd4(ctx: &Ctx, fd: Fd, mask: UserPtr<u64>, size: usize, flags: OpenFlags) -> Result {
    const O_RDWR: u32 = 2;
    if flags.0 & !(O_CLOEXEC | O_NONBLOCK) != 0 || size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask = mask.read()? & !(bit(SIGKILL) | bit(SIGSTOP));
    if fd.0 != -1 {
        let open = ctx.file(fd)?;
        let file = open.downcast::<SignalFd>().ok_or(Errno::EINVAL)?;
        file.mask.store(mask, Ordering::SeqCst);
        file.hub.notify(Events::READABLE);
        return Ok(fd.0 as usize);
    }
    let hub = Arc::new(Hub::new());
    ctx.process.signal_hubs.lock().push(Arc::downgrade(&hub));
    let open = OpenFile::new(SignalFd { mask: AtomicU64::new(mask), hub }, O_RDWR | flags.0 & O_NONBLOCK);
    ctx.install(Arc::new(open), flags.0 & O_CLOEXEC != 0)
}

/// The file.
pub struct SignalFd {
    mask: AtomicU64,
    hub: Arc<Hub>,
}

impl File for SignalFd {
    fn poll(&self) -> Events {
        let Some(ctx) = Ctx::try_current() else { return Events::empty() };
        let waiting = ctx.task.pending.bits() | ctx.process.pending.bits();
        let ready = waiting & self.mask.load(Ordering::Relaxed) != 0;
        if ready { Events::READABLE } else { Events::empty() }
    }

    fn hub(&self) -> Option<&Hub> {
        Some(&self.hub)
    }

    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        if into.remaining() < RECORD {
            return Err(Errno::EINVAL);
        }
        let ctx = Ctx::current();
        let mask = self.mask.load(Ordering::Relaxed);
        let mut done = 0;
        while into.remaining() >= RECORD {
            let Some(info) = signal::take(ctx.task, mask) else { break };
            done += into.put(&record(&info))?;
        }
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = Stat { mode: 0o600, nlink: 1, blksize: 4096, ..Stat::default() };
        Ok(())
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        f.write_str("anon_inode:[signalfd]")
    }
}

/// `struct signalfd_siginfo` (linux/signalfd.h): which part of siginfo's union holds, is told by the
/// signal and its code, as in the kernel's signalfd_copyinfo.
fn record(info: &Info) -> [u8; RECORD] {
    let mut out = [0u8; RECORD];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let low = (info.fields[0] as u32).to_ne_bytes();
    let high = ((info.fields[0] >> 32) as u32).to_ne_bytes();
    put(0, &info.signo.to_ne_bytes());
    put(4, &info.errno.to_ne_bytes());
    put(8, &info.code.to_ne_bytes());
    let value = info.fields[1];
    match (info.signo, info.code) {
        (_, signal::SI_TIMER) => {
            put(24, &low); // ssi_tid: the timer
            put(32, &high); // ssi_overrun
            put(44, &(value as u32).to_ne_bytes()); // ssi_int
            put(48, &value.to_ne_bytes()); // ssi_ptr
        }
        (SIGSEGV | SIGBUS | SIGILL | SIGFPE | SIGTRAP, 1..) => put(72, &info.fields[0].to_ne_bytes()),
        (SIGCHLD, 1..) => {
            put(12, &low); // ssi_pid
            put(16, &high); // ssi_uid
            put(40, &(value as u32).to_ne_bytes()); // ssi_status
            put(56, &info.fields[2].to_ne_bytes()); // ssi_utime
            put(64, &info.fields[3].to_ne_bytes()); // ssi_stime
        }
        _ => {
            put(12, &low);
            put(16, &high);
            put(44, &(value as u32).to_ne_bytes());
            put(48, &value.to_ne_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ctx, read, user};

    #[test]
    fn reads_what_waits() {
        let ctx = ctx();
        let mask = bit(10) | bit(40);
        signal::set_mask(ctx.task, mask);
        let fd = signalfd4(&ctx, Fd(-1), user(&mask), 8, OpenFlags(O_NONBLOCK)).unwrap() as i32;
        let open = ctx.file(Fd(fd)).unwrap();
        let mut out = [0u8; 300];
        assert_eq!(read(&open, &mut out), Err(Errno::EAGAIN));
        assert_eq!(open.file.poll(), Events::empty());
        let queued = Info { signo: 40, errno: 0, code: signal::SI_QUEUE, fields: [5, 0x1234, 0, 0, 0, 0] };
        signal::send_process(ctx.process, queued).unwrap();
        signal::send_task(ctx.task, Info::from_user(10, signal::SI_TKILL, &ctx)).unwrap();
        assert_eq!(open.file.poll(), Events::READABLE);
        assert_eq!(read(&open, &mut out), Ok(256));
        assert_eq!((out[0], out[128]), (10, 40));
        assert_eq!(u64::from_ne_bytes(out[128 + 48..128 + 56].try_into().unwrap()), 0x1234);
        assert_eq!(ctx.process.pending.bits() | ctx.task.pending.bits(), 0);
    }
}
