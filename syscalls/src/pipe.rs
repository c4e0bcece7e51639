//! Pipes (pipe(7)) inside the guest.
//!
//! A write of at most PIPE_BUF bytes is one piece: it waits until all of it fits. A larger one may be
//! split. Readers and writers wait at a hub each.
//!
//! A FIFO by name ([`crate::fifo`]) is a pipe whose ends come and go, and may be both ends at once.
//!
//! Left out: packet mode (O_DIRECT, EINVAL).

use crate::args::OpenFlags;
use crate::context::Ctx;
use crate::file::{File, O_NONBLOCK, OpenFile, Sink, Source, Stat};
use crate::hub::{Events, Hub};
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use fs::attr::{S_IFIFO, wall_clock};
use platform::sync::Lock;

/// Bytes that are written as one piece.
pub const PIPE_BUF: usize = 4096;
/// A fresh pipe's capacity.
const CAPACITY: usize = 65536;
/// `/proc/sys/fs/pipe-max-size`
const MAX_CAPACITY: usize = 1 << 20;
const FIONREAD: u32 = 0x541b;
const O_CLOEXEC: u32 = 0o2000000;
const O_DIRECT: u32 = 0o40000;

/// A pipe.
pub struct Pipe {
    ring: Lock<Ring>,
    readers: AtomicUsize,
    writers: AtomicUsize,
    /// Who waits for bytes, and who for room.
    readable: Hub,
    writable: Hub,
    stat: Stat,
    /// FIFO: how often it was opened for reading and for writing. One hub, `readable`, serves both.
    openings: Option<[AtomicUsize; 2]>,
}

/// One end.
pub struct End {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    fifo: Option<Fifo>,
}

/// A FIFO's node and its path.
pub type Named = (Arc<dyn fs::Vnode>, Arc<[u8]>);

/// The name side of a FIFO's end.
struct Fifo {
    node: Arc<dyn fs::Vnode>,
    path: Arc<[u8]>,
    /// Openings for writing when this end was opened: a reader sees no hang-up before the first.
    writers_before: usize,
}

/// pipe(2).
pub fn pipe(ctx: &Ctx, out: UserPtr<[i32; 2]>) -> Result {
    pipe2(ctx, out, OpenFlags(0))
}

/// pipe2(2).
pub fn pipe2(ctx: &Ctx, out: UserPtr<[i32; 2]>, flags: OpenFlags) -> Result {
    if flags.0 & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(if flags.0 == O_DIRECT { Errno::ENOSYS } else { Errno::EINVAL });
    }
    let (reader, writer) = new(flags.0 & O_NONBLOCK);
    let cloexec = flags.0 & O_CLOEXEC != 0;
    let first = ctx.install(reader, cloexec)? as i32;
    let undo = |fd: i32| ctx.process.fds.remove(fd).into_iter().for_each(crate::fd::release);
    let second = ctx.install(writer, cloexec).inspect_err(|_| undo(first))? as i32;
    out.write([first, second]).inspect_err(|_| {
        undo(first);
        undo(second);
    })?;
    Ok(0)
}

/// A fresh pipe: its reading and its writing end, with these status flags.
pub fn new(flags: u32) -> (Arc<OpenFile>, Arc<OpenFile>) {
    let mut stat = Stat { dev: 0xd, nlink: 1, mode: S_IFIFO | 0o600, blksize: 4096, ..Stat::default() };
    stat.set_times(wall_clock());
    let pipe = Arc::new(Pipe {
        ring: Lock::new(Ring::new()),
        readers: AtomicUsize::new(1),
        writers: AtomicUsize::new(1),
        readable: Hub::new(),
        writable: Hub::new(),
        stat,
        openings: None,
    });
    let end = |writes: bool, mode| {
        let end = End { pipe: pipe.clone(), reads: !writes, writes, fifo: None };
        Arc::new(OpenFile::new(end, mode | flags))
    };
    (end(false, 0), end(true, 1))
}

impl End {
    /// A fresh end of a FIFO.
    pub(crate) fn of_fifo(
        pipe: &Arc<Pipe>,
        reads: bool,
        writes: bool,
        node: Arc<dyn fs::Vnode>,
        path: Arc<[u8]>,
    ) -> End {
        let writers_before = pipe.openings().1;
        if reads {
            pipe.readers.fetch_add(1, Ordering::AcqRel);
        }
        if writes {
            pipe.writers.fetch_add(1, Ordering::AcqRel);
        }
        if let Some([of_readers, of_writers]) = &pipe.openings {
            of_readers.fetch_add(usize::from(reads), Ordering::AcqRel);
            of_writers.fetch_add(usize::from(writes), Ordering::AcqRel);
        }
        End { pipe: pipe.clone(), reads, writes, fifo: Some(Fifo { node, path, writers_before }) }
    }

    /// Whether it writes.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// Whether it reads.
    pub fn reads(&self) -> bool {
        self.reads
    }

    /// A FIFO's node and path: opening it again goes by them.
    pub fn fifo(&self) -> Option<Named> {
        self.fifo.as_ref().map(|fifo| (fifo.node.clone(), fifo.path.clone()))
    }

    /// A writer has gone, or has been there at all.
    fn hung_up(&self) -> bool {
        let came = |fifo: &Fifo| self.pipe.openings().1 != fifo.writers_before;
        self.pipe.writers.load(Ordering::Acquire) == 0 && self.fifo.as_ref().is_none_or(came)
    }

    fn tell_writers(&self) {
        self.pipe.hub_of(true).notify(Events::WRITABLE);
    }

    fn tell_readers(&self) {
        self.pipe.hub_of(false).notify(Events::READABLE);
    }

    /// Another end of the same pipe (open of /proc/self/fd/N).
    pub fn open_again(&self, flags: u32) -> Result<End> {
        let writes = match flags & 3 {
            0 => false,
            1 => true,
            _ => return Err(Errno::EACCES),
        };
        let count = if writes { &self.pipe.writers } else { &self.pipe.readers };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(End { pipe: self.pipe.clone(), reads: !writes, writes, fifo: None })
    }

    /// F_GETPIPE_SZ.
    pub fn capacity(&self) -> usize {
        self.pipe.ring.lock().capacity
    }

    /// F_SETPIPE_SZ: a power of two of pages; EBUSY if more is in it.
    pub fn set_capacity(&self, wanted: usize) -> Result {
        let capacity = wanted.max(PIPE_BUF).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
        if capacity > MAX_CAPACITY {
            return Err(Errno::EPERM);
        }
        let mut ring = self.pipe.ring.lock();
        if ring.len > capacity {
            return Err(Errno::EBUSY);
        }
        ring.resize(capacity);
        drop(ring);
        self.tell_writers();
        Ok(capacity)
    }

    /// Copies up to `count` bytes to another pipe without taking them (tee(2)).
    pub fn tee(&self, to: &End, count: usize) -> Result {
        if Arc::ptr_eq(&self.pipe, &to.pipe) || !self.reads || !to.writes {
            return Err(Errno::EINVAL);
        }
        let bytes = self.pipe.ring.lock().peek(count);
        if bytes.is_empty() {
            return if self.pipe.writers.load(Ordering::Acquire) == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let mut ring = to.pipe.writing_ring()?;
        let room = ring.room();
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let count = bytes.len().min(room);
        let put = ring.put(&mut crate::buffer::Slice::new(&bytes[..count]), count)?;
        drop(ring);
        to.tell_readers();
        Ok(put)
    }

    /// Copies what waits without taking it; EAGAIN for nothing yet, 0 at the end.
    pub fn peek(&self, into: &mut [u8]) -> Result {
        let bytes = self.pipe.ring.lock().peek(into.len());
        if bytes.is_empty() && self.pipe.writers.load(Ordering::Acquire) > 0 {
            return Err(Errno::EAGAIN);
        }
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Whether the other end is gone for a writer.
    pub fn poll_error(&self) -> bool {
        self.writes && self.pipe.readers.load(Ordering::Acquire) == 0
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.pipe.ring.lock().len
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Pipe {
    /// A FIFO's pipe that nobody has open yet.
    pub(crate) fn fifo() -> Pipe {
        Pipe {
            ring: Lock::new(Ring::new()),
            readers: AtomicUsize::new(0),
            writers: AtomicUsize::new(0),
            readable: Hub::new(),
            writable: Hub::new(),
            stat: Stat::default(),
            openings: Some(Default::default()),
        }
    }

    /// How often a FIFO was opened for reading and for writing.
    pub(crate) fn openings(&self) -> (usize, usize) {
        let count = |at: usize| self.openings.as_ref().map_or(0, |o| o[at].load(Ordering::Acquire));
        (count(0), count(1))
    }

    pub(crate) fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Acquire) > 0
    }

    pub(crate) fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    /// A FIFO's hub.
    pub(crate) fn hub(&self) -> &Hub {
        &self.readable
    }

    fn hub_of(&self, writers: bool) -> &Hub {
        if writers && self.openings.is_none() { &self.writable } else { &self.readable }
    }

    /// Its number: from its address, which is its own while it lives.
    fn id(self: &Arc<Pipe>) -> u64 {
        Arc::as_ptr(self) as u64 >> 4 & 0xffff_ffff
    }

    /// The ring, for a writer: EPIPE without readers. The count is read under the ring's lock, which
    /// the last reader takes on its way out, so nothing is written that nobody could read.
    fn writing_ring(&self) -> Result<platform::sync::Guard<'_, Ring>> {
        let ring = self.ring.lock();
        if self.readers.load(Ordering::Acquire) == 0 { Err(Errno::EPIPE) } else { Ok(ring) }
    }
}

impl File for End {
    fn poll(&self) -> Events {
        let pipe = &self.pipe;
        let ring = pipe.ring.lock();
        let mut events = Events::empty();
        if self.writes {
            events.set(Events::WRITABLE, ring.room() >= PIPE_BUF || ring.len == 0);
            events.set(Events::ERR, pipe.readers.load(Ordering::Acquire) == 0);
        }
        if self.reads {
            events.set(Events::READABLE, ring.len > 0);
            events.set(Events::HUP, self.hung_up());
        }
        events
    }
    fn hub(&self) -> Option<&Hub> {
        Some(self.pipe.hub_of(self.writes))
    }
    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        if !self.reads {
            return Err(Errno::EBADF);
        }
        if into.remaining() == 0 {
            return Ok(0);
        }
        let mut ring = self.pipe.ring.lock();
        if ring.len == 0 {
            let ended = self.pipe.writers.load(Ordering::Acquire) == 0;
            return if ended { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let count = ring.get(into)?;
        drop(ring);
        self.tell_writers();
        Ok(count)
    }
    fn write(&self, _open: &OpenFile, _at: &mut u64, from: &mut dyn Source) -> Result {
        if !self.writes {
            return Err(Errno::EBADF);
        }
        let wanted = from.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let mut ring = self.pipe.writing_ring()?;
        let room = ring.room();
        if room == 0 || (wanted <= PIPE_BUF && room < wanted) {
            return Err(Errno::EAGAIN);
        }
        let count = ring.put(from, wanted.min(room))?;
        drop(ring);
        self.tell_readers();
        Ok(count)
    }
    fn ioctl(&self, _open: &OpenFile, command: u32, argument: usize) -> Result {
        match command {
            FIONREAD => UserPtr::<i32>::new(argument).write(self.len() as i32).map(|()| 0),
            _ => Err(Errno::ENOTTY),
        }
    }
    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = match &self.fifo {
            Some(fifo) => fifo.node.stat(),
            None => Stat { ino: self.pipe.id(), ..self.pipe.stat },
        };
        Ok(())
    }
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        match &self.fifo {
            Some(fifo) => f.write_str(&alloc::string::String::from_utf8_lossy(&fifo.path)),
            None => write!(f, "pipe:[{}]", self.pipe.id()),
        }
    }
}

/// An end is closed when no descriptor and no call refers to it any more.
impl Drop for End {
    fn drop(&mut self) {
        let pipe = &self.pipe;
        // Under the ring's lock: see `writing_ring`.
        let (last_reader, last_writer) = {
            let _ring = pipe.ring.lock();
            let last = |does: bool, count: &AtomicUsize| does && count.fetch_sub(1, Ordering::AcqRel) == 1;
            (last(self.reads, &pipe.readers), last(self.writes, &pipe.writers))
        };
        if last_writer {
            pipe.hub_of(false).notify(Events::HUP | Events::READABLE);
        }
        if last_reader {
            pipe.hub_of(true).notify(Events::ERR | Events::WRITABLE);
        }
    }
}

/// Bytes in a circle. The memory grows with what is in it, up to the capacity.
struct Ring {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
    capacity: usize,
}

impl Ring {
    fn new() -> Ring {
        Ring { bytes: Box::default(), start: 0, len: 0, capacity: CAPACITY }
    }

    fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Puts `count` bytes in, which fit. A bad page of the program's ends it: what came before counts.
    fn put(&mut self, from: &mut dyn Source, count: usize) -> Result {
        if self.len + count > self.bytes.len() {
            let size = (self.len + count).next_power_of_two().clamp(PIPE_BUF, self.capacity);
            self.reallocate(size);
        }
        let mut done = 0;
        while done < count {
            let size = self.bytes.len();
            let end = (self.start + self.len) % size;
            let piece = (count - done).min(size - end);
            match from.take(&mut self.bytes[end..end + piece]) {
                Ok(0) => break,
                Ok(taken) => {
                    self.len += taken;
                    done += taken;
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn get(&mut self, into: &mut dyn Sink) -> Result {
        let mut done = 0;
        while self.len > 0 && into.remaining() > 0 {
            let size = self.bytes.len();
            let piece = self.len.min(size - self.start);
            match into.put(&self.bytes[self.start..self.start + piece]) {
                Ok(0) => break,
                Ok(put) => {
                    self.start = (self.start + put) % size;
                    self.len -= put;
                    done += put;
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        if self.len == 0 {
            self.start = 0;
        }
        Ok(done)
    }

    fn peek(&self, count: usize) -> alloc::vec::Vec<u8> {
        let count = count.min(self.len);
        (0..count).map(|at| self.bytes[(self.start + at) % self.bytes.len()]).collect()
    }

    fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        if self.bytes.len() > capacity {
            self.reallocate(capacity);
        }
    }

    fn reallocate(&mut self, size: usize) {
        let mut fresh = alloc::vec![0u8; size].into_boxed_slice();
        let first = self.len.min(self.bytes.len() - self.start);
        fresh[..first].copy_from_slice(&self.bytes[self.start..self.start + first]);
        fresh[first..self.len].copy_from_slice(&self.bytes[..self.len - first]);
        // Replaced first: see `platform::sync`.
        let before = core::mem::replace(&mut self.bytes, fresh);
        self.start = 0;
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{Slice, SliceMut};
    use alloc::vec::Vec;

    fn write(end: &OpenFile, bytes: &[u8]) -> Result {
        end.file.write(end, &mut 0, &mut Slice::new(bytes))
    }

    fn read(end: &OpenFile, len: usize) -> Result<Vec<u8>> {
        let mut bytes = alloc::vec![0; len];
        let got = end.file.read(end, &mut 0, &mut SliceMut::new(&mut bytes))?;
        bytes.truncate(got);
        Ok(bytes)
    }

    #[test]
    fn small_writes_are_whole() {
        let (reader, writer) = new(0);
        assert_eq!(read(&reader, 1), Err(Errno::EAGAIN));
        assert_eq!(write(&writer, &[1; CAPACITY - 100]), Ok(CAPACITY - 100));
        assert_eq!(write(&writer, &[2; PIPE_BUF]), Err(Errno::EAGAIN), "as a whole or not at all");
        assert!(!writer.file.poll().contains(Events::OUT));
        assert_eq!(write(&writer, &[2; PIPE_BUF + 1]), Ok(100), "a larger one may be split");
        assert_eq!(write(&writer, &[2]), Err(Errno::EAGAIN));
        assert_eq!(read(&reader, CAPACITY).unwrap().len(), CAPACITY);
        assert!(writer.file.poll().contains(Events::OUT));
    }

    #[test]
    fn ends_know_of_each_other() {
        let (reader, writer) = new(0);
        write(&writer, b"abc").unwrap();
        assert_eq!(reader.file.poll(), Events::READABLE);
        drop(writer);
        assert_eq!(reader.file.poll(), Events::READABLE | Events::HUP);
        assert_eq!(read(&reader, 2).unwrap(), b"ab");
        assert_eq!(read(&reader, 2).unwrap(), b"c");
        assert_eq!(read(&reader, 2).unwrap(), b"", "the end");
        let (reader, writer) = new(0);
        drop(reader);
        assert!(writer.file.poll().contains(Events::ERR));
        assert_eq!(write(&writer, b"x"), Err(Errno::EPIPE));
        assert_eq!(write(&writer, b""), Ok(0), "nothing is lost with nothing");
    }

    #[test]
    fn capacity_changes() {
        let (reader, writer) = new(0);
        let end = writer.downcast::<End>().unwrap();
        assert_eq!(end.set_capacity(5000), Ok(8192));
        assert_eq!(write(&writer, &[7; 9000]), Ok(8192));
        assert_eq!(end.set_capacity(4096), Err(Errno::EBUSY));
        assert_eq!(end.set_capacity(1 << 21), Err(Errno::EPERM));
        assert_eq!(read(&reader, 6000).unwrap().len(), 6000);
        assert_eq!(end.set_capacity(1), Ok(4096));
        assert_eq!(read(&reader, 6000).unwrap().len(), 2192);
    }

    /// Random pieces, in lockstep with a queue.
    #[test]
    fn keeps_the_order() {
        let (reader, writer) = new(0);
        let mut model: std::collections::VecDeque<u8> = Default::default();
        let mut random = 88172645463325252u64;
        for step in 0..4000u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let len = (random >> 8) as usize % if random & 7 == 0 { 40_000 } else { 5000 } + 1;
            if random & 16 != 0 {
                let bytes: Vec<u8> = (0..len).map(|at| (at as u64 ^ step) as u8).collect();
                let room = CAPACITY - model.len();
                let want = if room == 0 || (len <= PIPE_BUF && room < len) {
                    Err(Errno::EAGAIN)
                } else {
                    Ok(len.min(room))
                };
                assert_eq!(write(&writer, &bytes), want);
                model.extend(&bytes[..want.unwrap_or(0)]);
            } else if model.is_empty() {
                assert_eq!(read(&reader, len), Err(Errno::EAGAIN));
            } else {
                let want: Vec<u8> = model.drain(..len.min(model.len())).collect();
                assert_eq!(read(&reader, len).unwrap(), want);
            }
        }
    }
}
