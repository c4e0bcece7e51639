//! The descriptor table: small numbers to open file descriptions, lowest free number first.
//!
//! One table for each process, shared by its threads, copied by `fork`. A lookup is on the path of
//! every call, so it takes no lock of the table: descriptors live in [`Slot`]s that are found through
//! a two-level array, and a slot locks itself with one bit for the few instructions in which a
//! reference is taken. Threads that use different descriptors never meet. Numbers are handed out
//! from a bitmap under the table's lock; that lock and a slot's bit are never held together.
//!
//! Left out: what descriptors refer to ([`crate::file`]), and the calls themselves ([`crate::fcntl`]).

use crate::context::Ctx;
use crate::file::OpenFile;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use platform::sync::Lock;

/// Slots in one chunk: a 4 KiB page of pointers.
const CHUNK: usize = 512;
/// Chunks that a table can have.
const CHUNKS: usize = 2048;
/// Descriptors that a table can hold: Linux's default `fs.nr_open`.
pub const MAX_DESCRIPTORS: usize = CHUNK * CHUNKS;

/// A process's descriptors.
pub struct FdTable {
    chunks: Box<[AtomicPtr<Chunk>]>,
    numbers: Lock<Numbers>,
}

type Chunk = [Slot; CHUNK];

impl FdTable {
    /// An empty table.
    pub fn new() -> FdTable {
        let chunks = (0..CHUNKS).map(|_| AtomicPtr::new(core::ptr::null_mut())).collect();
        FdTable { chunks, numbers: Lock::new(Numbers::default()) }
    }

    /// The description behind `fd`, or EBADF.
    #[inline]
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>> {
        self.slot(fd).and_then(Slot::get).ok_or(Errno::EBADF)
    }

    /// Puts a description under the lowest free number from `from`, below `limit` (RLIMIT_NOFILE).
    pub fn insert_from(&self, open: Arc<OpenFile>, from: i32, cloexec: bool, limit: usize) -> Result<i32> {
        let limit = limit.min(MAX_DESCRIPTORS);
        let fd = self.numbers.lock().take(from as usize, limit, cloexec).ok_or(Errno::EMFILE)?;
        self.install(fd, open);
        Ok(fd as i32)
    }

    /// Puts a description under the lowest free number.
    pub fn insert(&self, open: Arc<OpenFile>, cloexec: bool, limit: usize) -> Result<i32> {
        self.insert_from(open, 0, cloexec, limit)
    }

    /// Puts a description under exactly `fd` (dup2), and answers what was there.
    /// EBUSY if another thread is just about to fill that number (dup2(2)).
    pub fn replace(&self, fd: i32, open: Arc<OpenFile>, cloexec: bool) -> Result<Option<Arc<OpenFile>>> {
        let at = usize::try_from(fd).ok().filter(|&fd| fd < MAX_DESCRIPTORS).ok_or(Errno::EBADF)?;
        {
            let mut numbers = self.numbers.lock();
            if numbers.is_taken(at) && !self.slot(fd).is_some_and(Slot::is_filled) {
                return Err(Errno::EBUSY);
            }
            numbers.take_exactly(at, cloexec);
        }
        Ok(self.install(at, open))
    }

    /// Takes `fd` out of the table. The caller drops it through [`release`], outside any lock.
    pub fn remove(&self, fd: i32) -> Result<Arc<OpenFile>> {
        let open = self.slot(fd).and_then(|slot| slot.swap(None)).ok_or(Errno::EBADF)?;
        self.numbers.lock().free(fd as usize);
        Ok(open)
    }

    /// Whether `fd` is closed by execve(2).
    pub fn cloexec(&self, fd: i32) -> Result<bool> {
        self.slot(fd).filter(|slot| slot.is_filled()).ok_or(Errno::EBADF)?;
        Ok(self.numbers.lock().is_cloexec(fd as usize))
    }

    /// Sets or clears `FD_CLOEXEC`.
    pub fn set_cloexec(&self, fd: i32, on: bool) -> Result<()> {
        self.slot(fd).filter(|slot| slot.is_filled()).ok_or(Errno::EBADF)?;
        self.numbers.lock().set_cloexec(fd as usize, on);
        Ok(())
    }

    /// The numbers in use, ascending.
    pub fn numbers(&self) -> Vec<i32> {
        let numbers = self.numbers.lock();
        numbers.taken().filter(|&fd| self.slot(fd).is_some_and(Slot::is_filled)).collect()
    }

    /// The numbers with `FD_CLOEXEC`, ascending: what execve(2) closes.
    pub fn cloexec_numbers(&self) -> Vec<i32> {
        let numbers = self.numbers.lock();
        numbers.taken().filter(|&fd| numbers.is_cloexec(fd as usize)).collect()
    }

    /// A copy that shares every description (fork(2)).
    pub fn fork(&self) -> FdTable {
        let copy = FdTable::new();
        let numbers = self.numbers.lock();
        for fd in numbers.taken() {
            let Some(open) = self.slot(fd).and_then(Slot::get) else { continue };
            copy.numbers.lock().take_exactly(fd as usize, numbers.is_cloexec(fd as usize));
            copy.install(fd as usize, open);
        }
        copy
    }

    /// The process was killed from outside: a thread of it may have been inside a slot.
    pub(crate) fn break_locks(&self) {
        for chunk in &self.chunks {
            // SAFETY: as in `slot`.
            let slots = unsafe { chunk.load(Ordering::Acquire).as_ref() };
            slots.into_iter().flatten().for_each(|slot| {
                slot.0.fetch_and(!LOCKED, Ordering::AcqRel);
            });
        }
    }

    /// Closes everything (exit).
    pub fn close_all(&self) {
        for fd in self.numbers() {
            if let Ok(open) = self.remove(fd) {
                release(open);
            }
        }
    }

    fn install(&self, fd: usize, open: Arc<OpenFile>) -> Option<Arc<OpenFile>> {
        open.descriptors.fetch_add(1, Ordering::Relaxed);
        self.slot_or_grow(fd).swap(Some(open))
    }

    #[inline]
    fn slot(&self, fd: i32) -> Option<&Slot> {
        let fd = fd as u32 as usize;
        let chunk = self.chunks.get(fd / CHUNK)?.load(Ordering::Acquire);
        // SAFETY: a chunk is published once, complete, and lives until the table is dropped.
        unsafe { chunk.as_ref() }.map(|chunk| &chunk[fd % CHUNK])
    }

    fn slot_or_grow(&self, fd: usize) -> &Slot {
        if let Some(slot) = self.slot(fd as i32) {
            return slot;
        }
        let fresh: Box<Chunk> = Box::new([const { Slot::new() }; CHUNK]);
        let fresh = Box::into_raw(fresh);
        let place = &self.chunks[fd / CHUNK];
        let null = core::ptr::null_mut();
        if place.compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: another thread published first; `fresh` was never seen by anybody.
            drop(unsafe { Box::from_raw(fresh) });
        }
        self.slot(fd as i32).expect("the chunk was published")
    }
}

/// Drops a description that was taken out of a table: tells the file when that was its last
/// descriptor. Must be called without locks, since files tell their watchers.
pub fn release(open: Arc<OpenFile>) {
    let is_unix = open.downcast::<crate::unix_socket::UnixSocket>().is_some();
    match Ctx::try_current() {
        Some(ctx) => taken_out(&ctx.task.stay.uses(open)),
        None => taken_out(&open),
    }
    if is_unix {
        crate::unix_garbage::collect();
    }
}

fn taken_out(open: &Arc<OpenFile>) {
    if open.descriptors.fetch_sub(1, Ordering::AcqRel) == 1 {
        crate::epoll::forget(open);
        open.file.closed(open);
    }
}

impl Default for FdTable {
    fn default() -> Self {
        FdTable::new()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_all();
        for chunk in &mut self.chunks {
            if !chunk.get_mut().is_null() {
                // SAFETY: chunks come from Box::into_raw, and nobody else has the table any more.
                drop(unsafe { Box::from_raw(*chunk.get_mut()) });
            }
        }
    }
}

/// One descriptor: an `Arc<OpenFile>` as a pointer, whose lowest bit is the slot's lock.
struct Slot(AtomicUsize);

const LOCKED: usize = 1;

impl Slot {
    const fn new() -> Slot {
        Slot(AtomicUsize::new(0))
    }

    fn is_filled(&self) -> bool {
        self.0.load(Ordering::Relaxed) & !LOCKED != 0
    }

    /// Another reference to the description.
    #[inline]
    fn get(&self) -> Option<Arc<OpenFile>> {
        if !self.is_filled() {
            return None;
        }
        let pointer = self.lock() as *const OpenFile;
        if pointer.is_null() {
            self.0.store(0, Ordering::Release);
            return None;
        }
        // SAFETY: the slot owns one count of this Arc, and cannot give it up while it is locked.
        let open = unsafe {
            Arc::increment_strong_count(pointer);
            Arc::from_raw(pointer)
        };
        self.0.store(pointer as usize, Ordering::Release);
        Some(open)
    }

    /// Changes the content; the old one goes to the caller.
    fn swap(&self, new: Option<Arc<OpenFile>>) -> Option<Arc<OpenFile>> {
        let new = new.map_or(0, |open| Arc::into_raw(open) as usize);
        let old = self.lock() as *const OpenFile;
        self.0.store(new, Ordering::Release);
        // SAFETY: the slot's count of the old Arc passes to us.
        (!old.is_null()).then(|| unsafe { Arc::from_raw(old) })
    }

    /// Sets the lock bit and answers the pointer. The bit is held for a few instructions, inside
    /// the kernel, so spinning is right.
    #[inline]
    fn lock(&self) -> usize {
        loop {
            let word = self.0.fetch_or(LOCKED, Ordering::Acquire);
            if word & LOCKED == 0 {
                return word;
            }
            while self.0.load(Ordering::Relaxed) & LOCKED != 0 {
                core::hint::spin_loop();
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.swap(None));
    }
}

/// Which numbers are taken, and which of them are closed by execve. `full` has a bit for each full
/// word of `used`, so that the lowest free number is found by looking at 1/4096 of the numbers.
#[derive(Default)]
struct Numbers {
    used: Vec<u64>,
    full: Vec<u64>,
    cloexec: Vec<u64>,
}

impl Numbers {
    fn take(&mut self, from: usize, limit: usize, cloexec: bool) -> Option<usize> {
        let fd = self.lowest_free(from);
        (fd < limit).then(|| {
            self.take_exactly(fd, cloexec);
            fd
        })
    }

    fn lowest_free(&self, from: usize) -> usize {
        let first = from / 64;
        let Some(&word) = self.used.get(first) else { return from };
        let free = !word & (u64::MAX << (from % 64));
        if free != 0 {
            return first * 64 + free.trailing_zeros() as usize;
        }
        let next = first + 1;
        for (at, &full) in self.full.iter().enumerate().skip(next / 64) {
            let mask = if at == next / 64 { u64::MAX << (next % 64) } else { u64::MAX };
            let open = !full & mask;
            if open != 0 {
                let word = at * 64 + open.trailing_zeros() as usize;
                let used = self.used.get(word).copied().unwrap_or(0);
                return word * 64 + (!used).trailing_zeros() as usize;
            }
        }
        (self.full.len() * 64).max(next) * 64
    }

    fn take_exactly(&mut self, fd: usize, cloexec: bool) {
        let word = fd / 64;
        if word >= self.used.len() {
            self.used.resize(word + 1, 0);
            self.cloexec.resize(word + 1, 0);
            self.full.resize(word / 64 + 1, 0);
        }
        self.used[word] |= 1 << (fd % 64);
        if self.used[word] == u64::MAX {
            self.full[word / 64] |= 1 << (word % 64);
        }
        self.set_cloexec(fd, cloexec);
    }

    fn free(&mut self, fd: usize) {
        let word = fd / 64;
        self.used[word] &= !(1 << (fd % 64));
        self.full[word / 64] &= !(1 << (word % 64));
        self.set_cloexec(fd, false);
    }

    fn is_taken(&self, fd: usize) -> bool {
        self.used.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0)
    }

    fn is_cloexec(&self, fd: usize) -> bool {
        self.cloexec.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0)
    }

    fn set_cloexec(&mut self, fd: usize, on: bool) {
        // A number that was freed meanwhile by another thread has no word to mark.
        if let Some(word) = self.cloexec.get_mut(fd / 64) {
            let bit = 1 << (fd % 64);
            *word = if on { *word | bit } else { *word & !bit };
        }
    }

    fn taken(&self) -> impl Iterator<Item = i32> + '_ {
        let bits = |(at, &word): (usize, &u64)| {
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| (at * 64 + bit) as i32)
        };
        self.used.iter().enumerate().flat_map(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{File, Stat};
    use core::any::Any;
    use std::collections::BTreeMap;

    struct Nothing(u64);
    impl File for Nothing {
        fn stat(&self, _out: &mut Stat) -> Result<()> {
            Ok(())
        }
        fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
            write!(f, "nothing:[{}]", self.0)
        }
    }

    fn open(id: u64) -> Arc<OpenFile> {
        Arc::new(OpenFile::new(Nothing(id), 0))
    }

    fn id(open: &Arc<OpenFile>) -> u64 {
        (&*open.file as &dyn Any).downcast_ref::<Nothing>().unwrap().0
    }

    /// Random operations, in lockstep with an ordered map.
    #[test]
    fn follows_the_model() {
        let table = FdTable::new();
        let mut model: BTreeMap<i32, (u64, bool)> = BTreeMap::new();
        let mut random = 0x2545_f491_4f6c_dd1du64;
        let limit = 1500usize;
        for step in 0..20_000u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let fd = (random >> 8) as i32 % 1600;
            let fd = fd.abs();
            let cloexec = random & 128 != 0;
            match random % 8 {
                0..=3 => {
                    let from = if random & 64 != 0 { fd } else { 0 };
                    let lowest = (from..).find(|n| !model.contains_key(n)).unwrap();
                    let want = if (lowest as usize) < limit { Ok(lowest) } else { Err(Errno::EMFILE) };
                    assert_eq!(table.insert_from(open(step), from, cloexec, limit), want);
                    if want.is_ok() {
                        model.insert(lowest, (step, cloexec));
                    }
                }
                4 | 5 => {
                    let want = model.remove(&fd).map(|(id, _)| id).ok_or(Errno::EBADF);
                    assert_eq!(table.remove(fd).map(|open| id(&open)), want);
                }
                6 => {
                    let old = table.replace(fd, open(step), cloexec).unwrap();
                    let want = model.insert(fd, (step, cloexec));
                    assert_eq!(old.map(|open| id(&open)), want.map(|(id, _)| id));
                }
                _ => {
                    let want = model.get(&fd).ok_or(Errno::EBADF);
                    assert_eq!(table.get(fd).map(|open| id(&open)), want.map(|&(id, _)| id));
                    assert_eq!(table.cloexec(fd), want.map(|&(_, cloexec)| cloexec));
                }
            }
        }
        assert_eq!(table.numbers(), model.keys().copied().collect::<Vec<_>>());
        let copy = table.fork();
        assert_eq!(copy.numbers(), table.numbers());
        assert_eq!(copy.cloexec_numbers(), table.cloexec_numbers());
    }

    #[test]
    fn drops_every_description_once() {
        let one = open(1);
        let table = FdTable::new();
        table.insert(one.clone(), false, 10).unwrap();
        table.replace(700, one.clone(), true).unwrap();
        let copy = table.fork();
        assert_eq!(Arc::strong_count(&one), 5);
        drop(table);
        assert_eq!((Arc::strong_count(&one), one.descriptors.load(Ordering::Relaxed)), (3, 2));
        drop(copy);
        assert_eq!((Arc::strong_count(&one), one.descriptors.load(Ordering::Relaxed)), (1, 0));
    }

    #[test]
    fn refuses_numbers_out_of_range() {
        let table = FdTable::new();
        assert_eq!(table.get(-1).err(), Some(Errno::EBADF));
        assert_eq!(table.get(i32::MAX).err(), Some(Errno::EBADF));
        assert!(table.replace(MAX_DESCRIPTORS as i32, open(0), false).is_err());
        assert!(table.replace(-3, open(0), false).is_err());
    }

    #[test]
    fn lookups_race_with_closes() {
        let table = Arc::new(FdTable::new());
        let threads: Vec<_> = (0..4u64)
            .map(|n| {
                let table = table.clone();
                std::thread::spawn(move || {
                    for step in 0..5_000 {
                        match (step + n) % 3 {
                            0 => drop(table.insert(open(step), false, 8)),
                            1 => drop((0..8).find_map(|fd| table.remove(fd).ok()).map(release)),
                            _ => drop((0..8).filter_map(|fd| table.get(fd).ok()).count()),
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        table.close_all();
        assert!(table.numbers().is_empty());
    }
}
