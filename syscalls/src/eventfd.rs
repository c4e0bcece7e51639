//! eventfd(2): a counter as a file.

use crate::args::OpenFlags;
use crate::context::Ctx;
use crate::file::{File, O_CLOEXEC, O_NONBLOCK, OpenFile, Sink, Source, Stat};
use crate::hub::{Events, Hub};
use crate::{Errno, Result, rt};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

const EFD_SEMAPHORE: u32 = 1;
/// The counter never reaches this.
const FULL: u64 = u64::MAX;

/// eventfd(2) without flags.
pub fn eventfd(ctx: &Ctx, count: u32) -> Result {
    eventfd2(ctx, count, OpenFlags(0))
}

/// eventfd2(2).
pub fn eventfd2(ctx: &Ctx, count: u32, flags: OpenFlags) -> Result {
    const O_RDWR: u32 = 2;
    if flags.0 & !(EFD_SEMAPHORE | O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = EventFd {
        count: AtomicU64::new(u64::from(count)),
        semaphore: flags.0 & EFD_SEMAPHORE != 0,
        hub: Hub::new(),
    };
    let open = OpenFile::new(file, O_RDWR | flags.0 & O_NONBLOCK);
    ctx.install(Arc::new(open), flags.0 & O_CLOEXEC != 0)
}

/// The file.
pub struct EventFd {
    count: AtomicU64,
    semaphore: bool,
    hub: Hub,
}

impl EventFd {
    /// Adds to the counter, as far as it goes: for the kernel's own use (aio).
    pub fn signal(&self, add: u64) {
        let step = |count: u64| Some(count.saturating_add(add).min(FULL - 1));
        let _ = self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step);
        self.hub.notify(Events::READABLE);
    }

    fn take(&self) -> Result<u64> {
        let step = |count: u64| match (count, self.semaphore) {
            (0, _) => None,
            (count, true) => Some(count - 1),
            (_, false) => Some(0),
        };
        let before = self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step);
        let before = before.map_err(|_| Errno::EAGAIN)?;
        self.hub.notify(Events::WRITABLE);
        Ok(if self.semaphore { 1 } else { before })
    }

    fn add(&self, value: u64) -> Result<()> {
        let step = |count: u64| count.checked_add(value).filter(|&sum| sum < FULL);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step).map_err(|_| Errno::EAGAIN)?;
        // A zero changes nothing that a reader could wait for, but Linux wakes edge-triggered
        // watchers by every write.
        self.hub.notify(Events::READABLE);
        Ok(())
    }
}

impl File for EventFd {
    fn poll(&self) -> Events {
        let count = self.count.load(Ordering::Acquire);
        let mut events = Events::empty();
        events.set(Events::READABLE, count > 0);
        events.set(Events::WRITABLE, count < FULL - 1);
        events
    }

    fn hub(&self) -> Option<&Hub> {
        Some(&self.hub)
    }

    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        if into.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        into.put(&self.take()?.to_ne_bytes())
    }

    fn write(&self, _open: &OpenFile, _at: &mut u64, from: &mut dyn Source) -> Result {
        if from.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut value = [0; 8];
        let (at, len) = from.chunk();
        if len < 8 {
            // In pieces: taken for good, so that a full counter cannot be waited for (EAGAIN).
            from.take(&mut value)?;
        } else {
            // SAFETY: `value` has 8 bytes. The source has checked its own piece's range.
            unsafe { rt::copy_from_user(value.as_mut_ptr(), at, 8)? };
        }
        let value = u64::from_ne_bytes(value);
        if value == FULL {
            return Err(Errno::EINVAL);
        }
        self.add(value)?;
        if len >= 8 {
            from.advance(8);
        }
        Ok(8)
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = Stat { mode: 0o600, nlink: 1, blksize: 4096, ..Stat::default() };
        Ok(())
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        f.write_str("anon_inode:[eventfd]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Fd;
    use crate::testing::{ctx, read, write};

    #[test]
    fn counts_and_blocks_as_eventfd_2_says() {
        let ctx = ctx();
        let fd = eventfd2(&ctx, 3, OpenFlags(O_NONBLOCK)).unwrap();
        let open = ctx.file(Fd(fd as i32)).unwrap();
        let mut value = [0; 8];
        assert_eq!(read(&open, &mut value), Ok(8));
        assert_eq!(u64::from_ne_bytes(value), 3);
        assert_eq!(read(&open, &mut value), Err(Errno::EAGAIN));
        assert_eq!(read(&open, &mut value[..7]), Err(Errno::EINVAL));
        assert_eq!(write(&open, &(FULL - 1).to_ne_bytes()), Ok(8));
        assert_eq!(open.file.poll(), Events::READABLE);
        assert_eq!(write(&open, &1u64.to_ne_bytes()), Err(Errno::EAGAIN));
        assert_eq!(write(&open, &FULL.to_ne_bytes()), Err(Errno::EINVAL));
    }

    #[test]
    fn semaphores_give_one_at_a_time() {
        let ctx = ctx();
        let fd = eventfd2(&ctx, 2, OpenFlags(EFD_SEMAPHORE | O_NONBLOCK)).unwrap();
        let open = ctx.file(Fd(fd as i32)).unwrap();
        let mut value = [0; 8];
        assert_eq!((read(&open, &mut value), u64::from_ne_bytes(value)), (Ok(8), 1));
        assert_eq!(read(&open, &mut value), Ok(8));
        assert_eq!(read(&open, &mut value), Err(Errno::EAGAIN));
        assert_eq!(eventfd2(&ctx, 0, OpenFlags(8)), Err(Errno::EINVAL));
    }
}
