//! ioctl(2): what holds for every descriptor; the rest is for the file.

use crate::args::{Fd, IoctlCommand};
use crate::context::Ctx;
use crate::file::{O_NONBLOCK, OpenFile};
use crate::rw;
use crate::user::UserPtr;
use crate::{Errno, Result};
use core::sync::atomic::Ordering;

const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const O_ASYNC: u32 = 0o20000;
const O_PATH: u32 = 0o10000000;

/// ioctl(2).
pub fn ioctl(ctx: &Ctx, fd: Fd, command: IoctlCommand, argument: usize) -> Result {
    let open = ctx.file(fd)?;
    if open.flags.load(Ordering::Relaxed) & O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    match command.0 {
        FIOCLEX => ctx.process.fds.set_cloexec(fd.0, true).map(|()| 0),
        FIONCLEX => ctx.process.fds.set_cloexec(fd.0, false).map(|()| 0),
        FIONBIO => set_flag(&open, O_NONBLOCK, UserPtr::new(argument)),
        FIOASYNC => set_flag(&open, O_ASYNC, UserPtr::new(argument)),
        FIONREAD if open.file.seekable() => unread(&open, UserPtr::new(argument)),
        command => open.file.ioctl(&open, command, argument),
    }
}

fn set_flag(open: &OpenFile, flag: u32, on: UserPtr<i32>) -> Result {
    if on.read()? != 0 {
        open.flags.fetch_or(flag, Ordering::Relaxed);
    } else {
        open.flags.fetch_and(!flag, Ordering::Relaxed);
    }
    Ok(0)
}

/// Bytes to the end of a file with a position.
fn unread(open: &OpenFile, out: UserPtr<i32>) -> Result {
    let size = open.file.size().map_err(|_| Errno::ENOTTY)? as i64;
    let left = size - rw::position(open)? as i64;
    out.write(i32::try_from(left).unwrap_or(i32::MAX)).map(|()| 0)
}

/// The commands that may go to the host: terminals' settings and sizes, and sizes of devices. All
/// take a number or write at most 64 bytes.
pub fn host_may(command: u32) -> bool {
    matches!(
        command,
        // TCGETS ... TCFLSH, TIOCEXCL, TIOCNXCL
        0x5401..=0x540d
        // TIOCOUTQ, TIOCGWINSZ, TIOCSWINSZ, FIONREAD, TIOCGETD
        | 0x5411 | 0x5413 | 0x5414 | 0x541b | 0x5424
        // TCGETS2 and its setters, TIOCGPTN, TIOCSPTLCK, TIOCGPTLCK
        | 0x802c_542a | 0x402c_542b..=0x402c_542d | 0x8004_5430 | 0x4004_5431 | 0x8004_5439
        // BLKGETSIZE64, BLKSSZGET, FS_IOC_GETFLAGS
        | 0x8008_1272 | 0x1268 | 0x8008_6601
    )
}
