//! inotify(7): changes of files. The host watches its own files for us; its descriptor is the program's, so
//! reading, polling and the format of events are the host's.
//!
//! A watched file is named to the host by our own descriptor of it (/proc/self/fd/N), which leads to the
//! inode wherever its name has gone. Left out: files of the guest's own file systems (tmpfs, /dev, /proc,
//! /sys: EOPNOTSUPP), and events about a mount.

use crate::args::{Fd, OpenFlags};
use crate::context::Ctx;
use crate::file::{O_CLOEXEC, O_NONBLOCK, OpenFile};
use crate::host_file::HostFile;
use crate::path;
use crate::user::UserStr;
use crate::{Errno, Result};
use alloc::format;
use alloc::sync::Arc;
use fs::host::CPath;
use fs::{HostFd, Node};
use platform::host;

const IN_ONLYDIR: u32 = 0x0100_0000;
const IN_DONT_FOLLOW: u32 = 0x0200_0000;
const NAME: &[u8] = b"anon_inode:inotify";

/// inotify_init(2).
pub fn inotify_init(ctx: &Ctx) -> Result {
    inotify_init1(ctx, OpenFlags(0))
}

/// inotify_init1(2).
pub fn inotify_init1(ctx: &Ctx, flags: OpenFlags) -> Result {
    if flags.0 & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: plain numbers. O_NONBLOCK on the host: the layer above waits by readiness.
    let fd = unsafe { host!(inotify_init1, O_CLOEXEC | O_NONBLOCK) }?;
    let fd = HostFd::new(fd as i32);
    let stat = fd.stat()?;
    let file = HostFile::new(fd, NAME.into(), None, &stat);
    ctx.install(Arc::new(OpenFile::new(file, flags.0 & O_NONBLOCK)), flags.0 & O_CLOEXEC != 0)
}

/// The host's descriptor behind a descriptor of inotify_init.
fn watcher(open: &OpenFile) -> Result<&HostFile> {
    open.downcast::<HostFile>().filter(|host| *host.path == *NAME).ok_or(Errno::EINVAL)
}

/// inotify_add_watch(2).
pub fn inotify_add_watch(ctx: &Ctx, fd: Fd, at: UserStr, mask: u32) -> Result {
    let open = ctx.file(fd)?;
    let host = watcher(&open)?;
    let view = path::view(ctx)?;
    let path = path::path(at)?;
    let place = view.locate(&view.cwd, &path, mask & IN_DONT_FOLLOW == 0)?;
    if mask & IN_ONLYDIR != 0 && !place.stat()?.is(fs::attr::S_IFDIR) {
        return Err(Errno::ENOTDIR);
    }
    view.access(&place, 4, true)?;
    let Node::Host(node) = &place.node else { return Err(Errno::EOPNOTSUPP) };
    let name = CPath::new(format!("/proc/self/fd/{}", node.raw()).as_bytes())?;
    // The link in /proc must be followed; whether the program's own was, is decided above.
    let mask = mask & !(IN_DONT_FOLLOW | IN_ONLYDIR);
    // SAFETY: the name is a C string.
    unsafe { host!(inotify_add_watch, host.fd.raw(), name.ptr(), mask) }
}

/// inotify_rm_watch(2).
pub fn inotify_rm_watch(ctx: &Ctx, fd: Fd, watch: i32) -> Result {
    let open = ctx.file(fd)?;
    let host = watcher(&open)?;
    // SAFETY: plain numbers.
    unsafe { host!(inotify_rm_watch, host.fd.raw(), watch) }
}
