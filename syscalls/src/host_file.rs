//! Files of the host: regular files, and what the guest inherited or opened as a stream (terminals,
//! pipes, devices, sockets of the host).
//!
//! **Regular files** are read and written by the host directly in the program's buffers, at the
//! host's own offset: a description that was inherited is shared with other processes, and O_APPEND
//! is exact. Reads ask the host not to wait for the disk first; what is not in its cache is read by a
//! helper thread while the guest thread is parked.
//!
//! **Streams** must never block a vCPU. Descriptions that we opened ourselves are O_NONBLOCK; an
//! inherited one is shared with processes that do not expect that, so it is asked by poll(2) before
//! each step, and written in pieces of PIPE_BUF, which a writable pipe takes whole (pipe(7)).
//! Between the poll and the read another process may take the bytes; the vCPU then waits with it.

use crate::file::{File, O_ACCMODE, O_APPEND, O_NONBLOCK, OpenFile, Sink, Source, Stat};
use crate::hub::{Events, Hub};
use crate::signal::number::{SIGTTIN, SIGTTOU};
use crate::user::Iovec;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use fs::HostFd;
use fs::mount::Mount;
use platform::host;

const RWF_NOWAIT: u32 = 8;
const PIPE_BUF: usize = 4096;
/// preadv2(2): "use and move the file offset".
pub const AT_OFFSET: i64 = -1;

/// A file of the host.
pub struct HostFile {
    /// The descriptor.
    pub fd: Arc<HostFd>,
    /// Canonical path in the guest, or a text such as `/memfd:x`.
    pub path: Arc<[u8]>,
    /// The mount it was opened in.
    pub mount: Option<Arc<Mount>>,
    kind: Kind,
    /// A terminal: its sessions and groups are the guest's ([`crate::tty`]).
    terminal: bool,
    /// The host has refused RWF_NOWAIT here.
    notes: AtomicU32,
    ready: Arc<Ready>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    /// Opened by us, O_NONBLOCK on the host.
    Stream,
    /// Inherited: its flags are not ours to change.
    Shared,
}

const NO_NOWAIT: u32 = 1;

impl HostFile {
    /// Takes a descriptor that was opened for the guest; a stream must be O_NONBLOCK on the host.
    pub fn new(fd: HostFd, path: Arc<[u8]>, mount: Option<Arc<Mount>>, stat: &Stat) -> HostFile {
        let kind = if stat.is(fs::attr::S_IFREG) || stat.is(fs::attr::S_IFBLK) {
            Kind::Regular
        } else {
            Kind::Stream
        };
        HostFile::of(fd, path, mount, kind)
    }

    /// The host's terminal, opened again.
    pub fn terminal(fd: HostFd, path: Arc<[u8]>, stat: &Stat) -> HostFile {
        let mut file = HostFile::new(fd, path, None, stat);
        file.terminal = true;
        file
    }

    /// Whether it is a FIFO by name.
    pub fn is_fifo(&self) -> bool {
        self.kind == Kind::Stream && self.fd.stat().is_ok_and(|stat| stat.is(fs::attr::S_IFIFO))
    }

    /// Whether it is the host's terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A descriptor that the guest inherited, as an open file with its flags.
    pub fn inherited(fd: HostFd) -> Result<OpenFile> {
        let stat = fd.stat()?;
        const F_GETFL: usize = 3;
        // SAFETY: plain numbers.
        let flags = unsafe { host!(fcntl, fd.raw(), F_GETFL) }? as u32;
        let kind = if stat.is(fs::attr::S_IFREG) { Kind::Regular } else { Kind::Shared };
        // What the host calls it, for /proc/self/fd.
        let link = HostFd::open_host(b"/proc/self/fd", 0, 0)
            .and_then(|dir| dir.readlink(alloc::format!("{}", fd.raw()).as_bytes()))
            .unwrap_or_else(|_| b"host".to_vec());
        let flags = flags & (O_ACCMODE | O_APPEND | O_NONBLOCK);
        let mut file = HostFile::of(fd, link.into(), None, kind);
        file.terminal = stat.is(fs::attr::S_IFCHR) && crate::tty::is_host_terminal(file.fd.raw());
        Ok(OpenFile::new(file, flags))
    }

    fn of(fd: HostFd, path: Arc<[u8]>, mount: Option<Arc<Mount>>, kind: Kind) -> HostFile {
        HostFile {
            fd: Arc::new(fd),
            path,
            mount,
            kind,
            terminal: false,
            notes: AtomicU32::new(0),
            ready: Arc::default(),
        }
    }

    /// Whether the host keeps an offset, and reads and writes end.
    pub fn is_regular(&self) -> bool {
        self.kind == Kind::Regular
    }

    /// Reads a regular file into the program's buffers, at `at` or at the file offset.
    pub fn read_regular(&self, buffers: &[Iovec], at: i64) -> Result {
        let asked: usize = buffers.iter().map(|buffer| buffer.len).sum();
        if self.notes.load(Ordering::Relaxed) & NO_NOWAIT != 0 {
            return self.preadv(buffers, at, 0);
        }
        match self.preadv(buffers, at, RWF_NOWAIT) {
            Ok(got) if got == asked => Ok(got),
            // Short at a page's edge: the end of the file, or of what the host has in its cache.
            Ok(got) if self.at_page_edge(at, got) => {
                let rest = skip(buffers, got);
                let at = if at < 0 { at } else { at + got as i64 };
                match self.read_slowly(&rest, at) {
                    Ok(more) => Ok(got + more),
                    Err(_) if got > 0 => Ok(got),
                    Err(error) => Err(error),
                }
            }
            Ok(got) => Ok(got),
            Err(Errno::EAGAIN) => self.read_slowly(buffers, at),
            Err(Errno::EOPNOTSUPP) => {
                self.notes.fetch_or(NO_NOWAIT, Ordering::Relaxed);
                self.preadv(buffers, at, 0)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads only what the host has in its cache: EAGAIN for the rest (RWF_NOWAIT).
    pub fn read_cached(&self, buffers: &[Iovec], at: i64) -> Result {
        self.preadv(buffers, at, RWF_NOWAIT)
    }

    /// Whether a read of `got` bytes at `at` (or at the file offset) ended at the edge of a page.
    fn at_page_edge(&self, at: i64, got: usize) -> bool {
        let end = if at < 0 { self.seek(0, 1).unwrap_or(0) } else { at as usize + got };
        end % platform::layout::PAGE_SIZE == 0
    }

    fn read_slowly(&self, buffers: &[Iovec], at: i64) -> Result {
        blocking(|| self.preadv(buffers, at, 0))
    }

    /// Writes the program's buffers to a regular file, at `at` or at the file offset.
    pub fn write_regular(&self, buffers: &[Iovec], at: i64, flags: u32) -> Result {
        // SAFETY: the host checks the buffers, which `crate::user` has found outside kernel state.
        unsafe { host!(pwritev2, self.fd.raw(), buffers.as_ptr(), buffers.len(), at, 0, flags) }
    }

    fn preadv(&self, buffers: &[Iovec], at: i64, flags: u32) -> Result {
        // SAFETY: as in `write_regular`.
        unsafe { host!(preadv2, self.fd.raw(), buffers.as_ptr(), buffers.len(), at, 0, flags) }
    }

    /// lseek(2), by the host.
    pub fn seek(&self, offset: i64, whence: i32) -> Result {
        // SAFETY: plain numbers.
        unsafe { host!(lseek, self.fd.raw(), offset, whence) }
    }

    /// Asks the host now. `events` and the answer are poll(2)'s bits.
    fn host_poll(&self, events: u32) -> u32 {
        #[repr(C)]
        struct PollFd {
            fd: i32,
            events: i16,
            revents: i16,
        }
        let mut fds = PollFd { fd: self.fd.raw(), events: events as i16, revents: 0 };
        // SAFETY: one pollfd of ours; timeout 0 never waits.
        let _ = unsafe { host!(poll, &raw mut fds, 1, 0) };
        fds.revents as u16 as u32
    }

    /// Reads from a stream what is there.
    pub fn read_now(&self, into: &mut dyn Sink) -> Result {
        self.read_stream(into)
    }

    /// Writes to a stream what fits.
    pub fn write_now(&self, from: &mut dyn Source) -> Result {
        self.write_stream(from)
    }

    fn read_stream(&self, into: &mut dyn Sink) -> Result {
        let (base, len) = into.chunk();
        if len == 0 {
            return Ok(0);
        }
        let ready = Events::READABLE | Events::ALWAYS | Events::RDHUP;
        if self.kind == Kind::Shared && self.host_poll(ready.bits()) == 0 {
            return Err(Errno::EAGAIN);
        }
        // SAFETY: the host checks the buffer, which lies outside kernel state.
        let got = unsafe { host!(read, self.fd.raw(), base, len) }?;
        into.advance(got);
        Ok(got)
    }

    fn write_stream(&self, from: &mut dyn Source) -> Result {
        let mut done = 0;
        loop {
            let (base, len) = from.chunk();
            if len == 0 {
                return Ok(done);
            }
            let len = if self.kind == Kind::Shared { len.min(PIPE_BUF) } else { len };
            let step = if self.kind == Kind::Shared && self.host_poll(0x4) == 0 {
                Err(Errno::EAGAIN)
            } else {
                // SAFETY: as in `read_stream`.
                unsafe { host!(write, self.fd.raw(), base, len) }
            };
            match step {
                Ok(count) => {
                    from.advance(count);
                    done += count;
                }
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What of the buffers is left after `count` bytes.
fn skip(buffers: &[Iovec], mut count: usize) -> Vec<Iovec> {
    let mut rest = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let used = count.min(buffer.len);
        count -= used;
        if used < buffer.len {
            rest.push(Iovec { base: buffer.base + used, len: buffer.len - used });
        }
    }
    rest
}

/// Runs a host call that may take long on a helper thread, with this thread parked.
#[cfg(not(test))]
pub fn blocking(call: impl FnOnce() -> Result + Send) -> Result {
    let raw = sched::blocking::run(|| call().map_or_else(Errno::to_raw, |value| value as isize));
    Errno::from_raw(raw)
}

/// Runs a host call.
#[cfg(test)]
pub fn blocking(call: impl FnOnce() -> Result + Send) -> Result {
    call()
}

impl File for HostFile {
    fn poll(&self) -> Events {
        if self.is_regular() {
            return Events::READABLE | Events::WRITABLE;
        }
        let all = Events::READABLE | Events::WRITABLE | Events::ALWAYS | Events::RDHUP | Events::PRI;
        Events::from_bits_truncate(self.host_poll(all.bits()))
    }
    fn hub(&self) -> Option<&Hub> {
        if self.is_regular() || !self.ready.watch(self.fd.raw()) {
            return None;
        }
        Some(&self.ready.hub)
    }
    fn read(&self, _open: &OpenFile, at: &mut u64, into: &mut dyn Sink) -> Result {
        if !self.is_regular() {
            if self.terminal {
                crate::tty::check_host(SIGTTIN)?;
            }
            return self.read_stream(into);
        }
        let (base, len) = into.chunk();
        let got = self.read_regular(&[Iovec { base, len }], *at as i64)?;
        into.advance(got);
        *at += got as u64;
        Ok(got)
    }
    fn write(&self, _open: &OpenFile, at: &mut u64, from: &mut dyn Source) -> Result {
        if !self.is_regular() {
            if self.terminal && crate::tty::host_stops_output(self.fd.raw()) {
                crate::tty::check_host(SIGTTOU)?;
            }
            return self.write_stream(from);
        }
        let (base, len) = from.chunk();
        let count = self.write_regular(&[Iovec { base, len }], *at as i64, 0)?;
        from.advance(count);
        *at += count as u64;
        Ok(count)
    }
    fn seekable(&self) -> bool {
        self.is_regular()
    }
    fn size(&self) -> Result<u64> {
        self.fd.stat().map(|stat| stat.size as u64)
    }
    fn ioctl(&self, open: &OpenFile, command: u32, argument: usize) -> Result {
        if self.terminal
            && let Some(done) = crate::tty::host_ioctl(open, command, argument)
        {
            return done;
        }
        if !crate::ioctl::host_may(command) {
            return Err(Errno::ENOTTY);
        }
        if !crate::user::in_user_space(argument, 256) {
            return Err(Errno::EFAULT);
        }
        // SAFETY: the commands let through take a number or a short structure, and the host checks
        // the address, which lies outside kernel state.
        unsafe { host!(ioctl, self.fd.raw(), command, argument) }
    }
    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = self.fd.stat()?;
        Ok(())
    }
    fn host_fd(&self) -> Option<i32> {
        Some(self.fd.raw())
    }
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        f.write_str(&alloc::string::String::from_utf8_lossy(&self.path))
    }
}

/// Before the descriptor is closed.
impl Drop for HostFile {
    fn drop(&mut self) {
        self.ready.unwatch();
    }
}

/// The hub of a host stream. The host's readiness reaches it edge-triggered: each change counts,
/// and what is ready is asked from the host itself.
#[derive(Default)]
struct Ready {
    hub: Hub,
    #[cfg(not(test))]
    watch: platform::sync::Lock<Watch>,
}

#[cfg(not(test))]
#[derive(Default)]
enum Watch {
    #[default]
    None,
    On(sched::host_fd::WatchId),
    /// The host says that this kind is always ready (EPERM of epoll_ctl(2)).
    AlwaysReady,
}

#[cfg(not(test))]
impl Ready {
    /// Begins to listen, once. `false`: there is nothing to wait for.
    fn watch(self: &Arc<Self>, fd: i32) -> bool {
        use sched::host_fd::{EDGE, ERR, HUP, IN, OUT, RDHUP};
        let mut watch = self.watch.lock();
        if matches!(*watch, Watch::None) {
            *watch = match sched::host_fd::watch(fd, IN | OUT | RDHUP | ERR | HUP | EDGE, self.clone()) {
                Ok(id) => Watch::On(id),
                Err(_) => Watch::AlwaysReady,
            };
        }
        matches!(*watch, Watch::On(_))
    }

    fn unwatch(&self) {
        if let Watch::On(id) = core::mem::take(&mut *self.watch.lock()) {
            sched::host_fd::unwatch(id);
        }
    }
}

#[cfg(not(test))]
impl sched::host_fd::HostReady for Ready {
    fn ready(&self, events: u32) {
        let mut events = Events::from_bits_truncate(events);
        if events.contains(Events::IN) {
            events |= Events::READABLE;
        }
        if events.contains(Events::OUT) {
            events |= Events::WRITABLE;
        }
        self.hub.notify(events);
    }
}

#[cfg(test)]
impl Ready {
    fn watch(self: &Arc<Self>, _fd: i32) -> bool {
        true
    }
    fn unwatch(&self) {}
}
