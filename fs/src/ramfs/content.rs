//! The bytes of a regular file: in the kernel's heap, in a host memfd, or still those of the folder below.

use super::{Common, MAX_SIZE, PAGE, SMALL};
use crate::host::HostFd;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::errno::{Errno, Result};
use platform::host;

pub(super) struct Content {
    pub(super) bytes: Bytes,
    /// Pages counted in `Common::used`.
    pub(super) charged: u64,
}

pub(super) enum Bytes {
    Heap(Vec<u8>),
    Host(Arc<HostFd>),
    /// Unchanged: the file at this path of the folder below, and its size and blocks.
    Lower {
        path: Box<[u8]>,
        size: u64,
        blocks: u64,
    },
}

/// Bytes copied at a time when a file is taken over from the folder below.
const COPY: usize = 128 * 1024;

impl Content {
    pub(super) fn size(&self) -> u64 {
        match &self.bytes {
            Bytes::Heap(bytes) => bytes.len() as u64,
            Bytes::Host(fd) => fd.stat().map_or(0, |stat| stat.size as u64),
            Bytes::Lower { size, .. } => *size,
        }
    }

    pub(super) fn pages(&self) -> u64 {
        match &self.bytes {
            Bytes::Heap(bytes) => (bytes.len() as u64).div_ceil(PAGE),
            Bytes::Host(fd) => fd.stat().map_or(0, |stat| stat.blocks as u64 * 512 / PAGE),
            Bytes::Lower { .. } => 0,
        }
    }

    /// 512-byte blocks, as stat(2) tells.
    pub(super) fn blocks(&self) -> u64 {
        match &self.bytes {
            Bytes::Lower { blocks, .. } => *blocks,
            _ => self.pages() * (PAGE / 512),
        }
    }

    /// Takes the bytes over from the folder below, if they are still there: from here on they are ours to
    /// change. Who has the file open from before goes on reading the old ones, as with overlayfs.
    pub(super) fn take_over(&mut self, common: &Common) -> Result<()> {
        let Bytes::Lower { path, size, .. } = &self.bytes else { return Ok(()) };
        let from = common.open_lower(path, 0)?;
        let mut fresh = Content { bytes: Bytes::Heap(Vec::new()), charged: 0 };
        if *size > SMALL {
            fresh.move_to_host()?;
        }
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(COPY.min(*size as usize + 1)).map_err(|_| Errno::ENOSPC)?;
        buffer.resize(COPY.min(*size as usize + 1), 0);
        let mut at = 0;
        loop {
            let got = from.pread(at, &mut buffer)?;
            if got == 0 {
                break;
            }
            let mut done = 0;
            while done < got {
                done += fresh.write(common, at + done as u64, &buffer[done..got])?;
            }
            at += got as u64;
        }
        *self = fresh;
        Ok(())
    }

    /// Counts again what the file takes.
    pub(super) fn recount(&mut self, common: &Common) {
        let pages = self.pages();
        // What is there is there: the limit was asked before.
        common.used.fetch_add(pages, Ordering::Relaxed);
        common.used.fetch_sub(self.charged, Ordering::Relaxed);
        self.charged = pages;
    }

    /// Moves the bytes to a memfd.
    pub(super) fn move_to_host(&mut self) -> Result<Arc<HostFd>> {
        if let Bytes::Host(fd) = &self.bytes {
            return Ok(fd.clone());
        }
        const MFD_CLOEXEC: usize = 1;
        // SAFETY: the name is a C string.
        let fd = HostFd::opened(|| unsafe { host!(memfd_create, c"attacca-tmpfs".as_ptr(), MFD_CLOEXEC) })?;
        let fd = Arc::new(fd);
        if let Bytes::Heap(bytes) = &self.bytes {
            let mut done = 0;
            while done < bytes.len() {
                done += fd.pwrite(done as u64, &bytes[done..])?;
            }
        }
        fd.keep();
        self.bytes = Bytes::Host(fd.clone());
        Ok(fd)
    }

    pub(super) fn write(&mut self, common: &Common, at: u64, from: &[u8]) -> Result<usize> {
        if at >= MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        if from.is_empty() {
            return Ok(0);
        }
        self.take_over(common)?;
        let end = at.saturating_add(from.len() as u64).min(MAX_SIZE);
        if end > SMALL {
            self.move_to_host()?;
        }
        // At most the pages of the range come anew. Where that may pass the limit, holes are counted.
        let span = end.div_ceil(PAGE) - at / PAGE;
        let spare = common.limit.saturating_sub(common.used.load(Ordering::Relaxed));
        let mut from = &from[..(end - at) as usize];
        if span > spare {
            let old_end = self.size().div_ceil(PAGE);
            let inside = old_end.min(end.div_ceil(PAGE)).saturating_sub(at / PAGE);
            let fresh_pages_allowed = (at / PAGE + inside + spare) * PAGE;
            let room = fresh_pages_allowed.saturating_sub(at);
            if room == 0 {
                return Err(Errno::ENOSPC);
            }
            from = &from[..from.len().min(room as usize)];
        }
        let count = match &mut self.bytes {
            Bytes::Lower { .. } => return Err(Errno::EIO),
            Bytes::Host(fd) => fd.pwrite(at, from)?,
            Bytes::Heap(bytes) => {
                let (at, end) = (at as usize, at as usize + from.len());
                if bytes.len() < end {
                    bytes.try_reserve(end - bytes.len()).map_err(|_| Errno::ENOSPC)?;
                    bytes.resize(end, 0);
                }
                bytes[at..end].copy_from_slice(from);
                from.len()
            }
        };
        self.recount(common);
        Ok(count)
    }

    pub(super) fn truncate(&mut self, common: &Common, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        match size {
            // Nothing of the old bytes is wanted.
            0 if matches!(self.bytes, Bytes::Lower { .. }) => self.bytes = Bytes::Heap(Vec::new()),
            _ => self.take_over(common)?,
        }
        if size > SMALL {
            self.move_to_host()?;
        }
        match &mut self.bytes {
            Bytes::Lower { .. } => {}
            // SAFETY: plain numbers.
            Bytes::Host(fd) => drop(unsafe { host!(ftruncate, fd.raw(), size) }?),
            Bytes::Heap(bytes) => {
                let pages = (size.div_ceil(PAGE), (bytes.len() as u64).div_ceil(PAGE));
                if pages.0 > pages.1 {
                    common.charge(pages.1, pages.0)?;
                    self.charged = pages.0;
                }
                bytes.resize(size as usize, 0);
            }
        }
        self.recount(common);
        Ok(())
    }
}
