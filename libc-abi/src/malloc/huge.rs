//! Blocks above 32 MiB, and large ones that grow: a mapping each, resized by mremap(2), remembered in a
//! hash table by address.

use super::pages;
use crate::futex::{Lock, RawLock};
use crate::kcall;
use core::ptr::null_mut;

#[derive(Clone, Copy)]
struct Entry {
    /// Address of the block; 0 empty, 1 deleted.
    block: usize,
    bytes: usize,
}

struct Table {
    entries: *mut Entry,
    /// A power of two, or 0.
    capacity: usize,
    /// Entries that are not empty (deleted ones too).
    filled: usize,
    bytes: usize,
    blocks: usize,
}

// SAFETY: the table belongs to the lock's holder.
unsafe impl Send for Table {}

static TABLE: Lock<Table> =
    Lock::new(Table { entries: null_mut(), capacity: 0, filled: 0, bytes: 0, blocks: 0 });

const HOST_PAGE: usize = 4096;
const DELETED: usize = 1;
const MREMAP_MAYMOVE: usize = 1;

/// A zeroed block of at least `bytes`, aligned to `align` (a power of two); null when memory is out.
pub(super) fn allocate(bytes: usize, align: usize) -> *mut u8 {
    let Some(len) = bytes.checked_next_multiple_of(HOST_PAGE) else { return null_mut() };
    let slack = if align > HOST_PAGE { align } else { 0 };
    let Some(total) = len.checked_add(slack).filter(|&t| t <= isize::MAX as usize) else { return null_mut() };
    let start = pages::map_memory(total) as usize;
    if start == 0 {
        return null_mut();
    }
    let block = start.next_multiple_of(align.max(HOST_PAGE));
    unmap(start, block - start);
    unmap(block + len, start + total - (block + len));
    if !TABLE.lock().insert(block, len) {
        unmap(block, len);
        return null_mut();
    }
    block as *mut u8
}

/// Bytes of a block, if it is one.
pub(super) fn size_of(block: usize) -> Option<usize> {
    let table = TABLE.lock();
    table.find(block).map(|at| table.entry(at).bytes)
}

/// Frees a block; false if it is none.
pub(super) fn release(block: usize) -> bool {
    let Some(bytes) = TABLE.lock().remove(block) else { return false };
    unmap(block, bytes);
    true
}

/// Resizes a block by remapping; null (and the block unchanged) when that fails.
pub(super) fn resize(block: usize, bytes: usize) -> *mut u8 {
    let Some(len) = bytes.checked_next_multiple_of(HOST_PAGE) else { return null_mut() };
    let mut table = TABLE.lock();
    let Some(old) = table.find(block).map(|at| table.entry(at).bytes) else { return null_mut() };
    if old == len {
        return block as *mut u8;
    }
    // SAFETY: the mapping is the caller's block, which it gives up for the new one.
    let Ok(new) = (unsafe { kcall!(mremap, block, old, len, MREMAP_MAYMOVE) }) else { return null_mut() };
    table.remove(block);
    // Cannot fail: the removal left a free entry.
    table.insert(new, len);
    new as *mut u8
}

/// Bytes and blocks.
pub(super) fn stats() -> (usize, usize) {
    let table = TABLE.lock();
    (table.bytes, table.blocks)
}

/// The lock, for fork(2).
pub(super) fn lock() -> &'static RawLock {
    TABLE.raw()
}

fn unmap(start: usize, len: usize) {
    if len > 0 {
        // SAFETY: our mapping, used no more.
        let _ = unsafe { kcall!(munmap, start, len) };
    }
}

impl Table {
    fn entry(&self, at: usize) -> &Entry {
        // SAFETY: `at` is below the capacity.
        unsafe { &*self.entries.add(at) }
    }

    fn set(&mut self, at: usize, entry: Entry) {
        // SAFETY: as above.
        unsafe { self.entries.add(at).write(entry) }
    }

    fn find(&self, block: usize) -> Option<usize> {
        if self.capacity == 0 || block <= DELETED {
            return None;
        }
        let mut at = self.home(block);
        loop {
            match self.entry(at).block {
                0 => return None,
                found if found == block => return Some(at),
                _ => at = (at + 1) & (self.capacity - 1),
            }
        }
    }

    fn insert(&mut self, block: usize, bytes: usize) -> bool {
        if (self.filled + 1) * 2 > self.capacity && !self.rebuild() {
            return false;
        }
        let mut at = self.home(block);
        while self.entry(at).block > DELETED {
            at = (at + 1) & (self.capacity - 1);
        }
        self.filled += usize::from(self.entry(at).block == 0);
        self.set(at, Entry { block, bytes });
        self.bytes += bytes;
        self.blocks += 1;
        true
    }

    fn remove(&mut self, block: usize) -> Option<usize> {
        let at = self.find(block)?;
        let bytes = self.entry(at).bytes;
        self.set(at, Entry { block: DELETED, bytes: 0 });
        self.bytes -= bytes;
        self.blocks -= 1;
        Some(bytes)
    }

    /// Room for twice the living entries at least; deleted ones go.
    fn rebuild(&mut self) -> bool {
        let capacity = (self.blocks * 4 + 256).next_power_of_two();
        let fresh: *mut Entry = pages::map_memory(capacity * size_of_entry()).cast();
        if fresh.is_null() {
            return false;
        }
        let (old, old_capacity) = (self.entries, self.capacity);
        (self.entries, self.capacity, self.filled, self.bytes, self.blocks) = (fresh, capacity, 0, 0, 0);
        for at in 0..old_capacity {
            // SAFETY: the old table, still whole.
            let entry = unsafe { old.add(at).read() };
            if entry.block > DELETED {
                self.insert(entry.block, entry.bytes);
            }
        }
        unmap(old as usize, old_capacity * size_of_entry());
        true
    }

    fn home(&self, block: usize) -> usize {
        (block / HOST_PAGE).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (self.capacity - 1)
    }
}

const fn size_of_entry() -> usize {
    core::mem::size_of::<Entry>()
}
