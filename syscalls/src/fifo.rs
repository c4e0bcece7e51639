//! FIFOs by name (fifo(7)), in inner file systems and on the host.
//!
//! **Inner ones** are pipes of the guest, found by inode while somebody has them open. An open waits
//! until the other direction has been opened since: counted, not looked at, so that a short-lived peer
//! is not missed (Linux's `r_counter` and `w_counter`).
//!
//! **Host ones** are the host's pipes, so that programs outside take part. An open that has to wait must
//! not block a vCPU, and the host tells nobody when a peer opens a FIFO; so it is asked again and again:
//! a writer opens with O_NONBLOCK until that is not ENXIO, a reader asks tee(2) whether there is a
//! writer (which takes nothing out). Opens inside the guest are told of each other at once.

use crate::context::Ctx;
use crate::file::{O_NONBLOCK, OpenFile};
use crate::hub::{Events, Hub};
use crate::ipc;
use crate::pipe::{End, Pipe};
use crate::wait::{self, Waiting};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use fs::HostFd;
use platform::host;
use platform::sync::Lock;
use platform::time::MILLISECOND;

/// FIFOs that are open, by device and inode.
#[derive(Default)]
pub struct Table {
    pipes: Lock<BTreeMap<(u64, u64), Weak<Pipe>>>,
    /// Told when a host FIFO was opened in the guest.
    opened: Hub,
}

impl Table {
    /// The pipe of an inode, made if nobody has it open.
    fn pipe(&self, inode: (u64, u64)) -> Arc<Pipe> {
        let mut pipes = self.pipes.lock();
        if let Some(pipe) = pipes.get(&inode).and_then(Weak::upgrade) {
            return pipe;
        }
        pipes.retain(|_, pipe| pipe.strong_count() > 0);
        let pipe = Arc::new(Pipe::fifo());
        pipes.insert(inode, Arc::downgrade(&pipe));
        pipe
    }
}

/// Opens a FIFO of an inner file system.
pub fn open_inner(ctx: &Ctx, node: Arc<dyn fs::Vnode>, path: Arc<[u8]>, flags: u32) -> Result<End> {
    let stat = node.stat();
    let pipe = ipc::all().fifos.pipe((stat.dev, stat.ino));
    let nonblocking = flags & O_NONBLOCK != 0;
    let (reads, writes) = match flags & 3 {
        0 => (true, false),
        1 => (false, true),
        _ => (true, true),
    };
    if writes && !reads && nonblocking && !pipe.has_readers() {
        return Err(Errno::ENXIO);
    }
    let seen = pipe.openings();
    // Counts at once: the other side's wait ends by it. An interrupted open takes it back by its drop.
    let end = End::of_fifo(&pipe, reads, writes, node, path);
    pipe.hub().notify(Events::READABLE | Events::WRITABLE);
    if nonblocking || (reads && writes) {
        return Ok(end);
    }
    let met = || {
        let (readers, writers) = pipe.openings();
        let there = if reads {
            pipe.has_writers() || writers != seen.1
        } else {
            pipe.has_readers() || readers != seen.0
        };
        if there { Ok(()) } else { Err(Errno::EAGAIN) }
    };
    if met().is_err() {
        let how = Waiting::for_events(Events::READABLE | Events::WRITABLE);
        wait::block_on_hub(ctx, pipe.hub(), how, met)?;
    }
    Ok(end)
}

/// Ends the opening of a FIFO of the host: `first` is what its open with O_NONBLOCK said, `open` does that
/// again.
pub fn open_host(
    ctx: &Ctx,
    flags: u32,
    first: Result<Arc<OpenFile>>,
    mut open: impl FnMut() -> Result<Arc<OpenFile>>,
) -> Result<Arc<OpenFile>> {
    let opened = &ipc::all().fifos.opened;
    if first.is_ok() {
        opened.notify(Events::READABLE);
    }
    match first {
        done if flags & O_NONBLOCK != 0 || flags & 3 == 2 => done,
        Ok(file) if flags & 3 == 0 => {
            let fd = file.file.host_fd().ok_or(Errno::ENXIO)?;
            until(ctx, || has_writer(fd))?;
            Ok(file)
        }
        Err(Errno::ENXIO) => until(ctx, || match open() {
            Ok(file) => {
                opened.notify(Events::READABLE);
                Ok(file)
            }
            Err(Errno::ENXIO) => Err(Errno::EAGAIN),
            Err(error) => Err(error),
        }),
        done => done,
    }
}

/// Asks until the answer is not EAGAIN: at each open in the guest, and every few milliseconds.
fn until<T>(ctx: &Ctx, ask: impl FnMut() -> Result<T>) -> Result<T> {
    const LONGEST: u64 = 16 * MILLISECOND;
    wait::ask_again(ctx, &ipc::all().fifos.opened, LONGEST, ask)
}

/// Whether a host pipe has or had a writer: tee(2) says EAGAIN for "nothing yet" and 0 for "nobody writes",
/// poll(2) POLLHUP if somebody did.
fn has_writer(fd: i32) -> Result<()> {
    const POLLHUP: u64 = 0x10;
    // struct pollfd: the descriptor, then events and revents.
    let mut asked = u64::from(fd as u32);
    // SAFETY: one pollfd of ours; timeout 0 never waits.
    let _ = unsafe { host!(poll, &raw mut asked, 1, 0) };
    if asked >> 48 & POLLHUP != 0 {
        return Ok(());
    }
    const SPLICE_F_NONBLOCK: usize = 2;
    let mut ends = [0i32; 2];
    // SAFETY: the kernel writes two numbers to ours.
    unsafe { host!(pipe2, ends.as_mut_ptr(), 0o2000000) }?;
    let (reader, writer) = (HostFd::new(ends[0]), HostFd::new(ends[1]));
    // SAFETY: plain numbers.
    let answer = unsafe { host!(tee, fd, writer.raw(), 1, SPLICE_F_NONBLOCK) };
    drop((reader, writer));
    match answer {
        Ok(0) => Err(Errno::EAGAIN),
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error),
    }
}
