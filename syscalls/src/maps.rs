//! Which of a process's memory is shared with others, and what stands behind it.
//!
//! A futex in shared memory is one for all who map it, at whatever address: it is known by the object
//! and the offset in it ([`Maps::find`]). An object is a host file (device and inode), or anonymous
//! shared memory, which gets a number of its own when it is mapped and keeps it through `fork`. Attached
//! System V segments are entries too: the count that shmctl(2) tells is the number of entries.
//!
//! Private memory has no entries, so most processes have few. An entry is cut *before* the host unmaps
//! and added *after* it has mapped: in between a shared word is taken for a private one, by a thread
//! that uses memory while another one maps or unmaps it, which is a program's own race.

use crate::sysv::shm::Attachment;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use platform::layout::PAGE_SIZE;
use platform::sync::Lock;

/// What is mapped: device and inode of a host file, or [`ANONYMOUS`] and a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object(pub u64, pub u64);

/// The "device" of anonymous shared memory: no host device has this number.
const ANONYMOUS: u64 = u64::MAX;

/// Numbers for anonymous shared memory, in the guest's root.
#[derive(Default)]
pub struct Numbers(AtomicU64);

impl Numbers {
    /// A fresh object.
    pub fn anonymous(&self) -> Object {
        Object(ANONYMOUS, self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// One stretch of shared memory.
#[derive(Clone)]
pub struct Entry {
    /// Bytes, whole pages.
    pub len: usize,
    /// What is mapped.
    pub object: Object,
    /// From where in it.
    pub offset: u64,
    /// A System V segment, attached.
    pub attachment: Option<Attachment>,
}

/// The shared mappings of a process, by address.
#[derive(Default)]
pub struct Maps {
    /// Mirror of the number of entries: most processes have none.
    count: AtomicUsize,
    entries: Lock<BTreeMap<usize, Entry>>,
}

impl Maps {
    /// Adds a mapping; what was there before goes.
    pub fn add(&self, at: usize, entry: Entry) {
        let gone = self.cut(at, entry.len);
        let mut entries = self.entries.lock();
        entries.insert(at, entry);
        self.count.store(entries.len(), Ordering::Release);
        drop(entries);
        drop(gone);
    }

    /// Takes out what lies in a range; pieces outside of it stay. Answers what was taken.
    pub fn cut(&self, at: usize, len: usize) -> Vec<(usize, Entry)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let end = at.saturating_add(len.next_multiple_of(PAGE_SIZE));
        let mut entries = self.entries.lock();
        // Entries do not overlap: of those that begin before the range only the last can reach into it.
        let before = entries.range(..at).next_back().filter(|(start, entry)| *start + entry.len > at);
        let starts: Vec<usize> =
            before.into_iter().chain(entries.range(at..end.max(at))).map(|(&start, _)| start).collect();
        let mut taken = Vec::with_capacity(starts.len());
        for start in starts {
            let Some(entry) = entries.remove(&start) else { continue };
            if start < at {
                entries.insert(start, Entry { len: at - start, ..entry.clone() });
            }
            if start + entry.len > end {
                let skipped = end - start;
                let rest = Entry {
                    len: entry.len - skipped,
                    offset: entry.offset + skipped as u64,
                    ..entry.clone()
                };
                entries.insert(end, rest);
            }
            let (from, to) = (start.max(at), (start + entry.len).min(end));
            let offset = entry.offset + (from - start) as u64;
            taken.push((from, Entry { len: to - from, offset, ..entry }));
        }
        self.count.store(entries.len(), Ordering::Release);
        taken
    }

    /// Puts back what [`Maps::cut`] took: the host refused.
    pub fn restore(&self, taken: Vec<(usize, Entry)>) {
        let mut entries = self.entries.lock();
        entries.extend(taken);
        self.count.store(entries.len(), Ordering::Release);
    }

    /// mremap(2): what was at `at` is now at `to`, `new_len` bytes of it.
    pub fn moved(&self, taken: Vec<(usize, Entry)>, at: usize, len: usize, to: usize, new_len: usize) {
        for (start, entry) in taken {
            let into = start - at;
            // The last page's mapping grows or shrinks with the range (mremap(2)).
            let reaches_end = start + entry.len == at + len.next_multiple_of(PAGE_SIZE);
            let size = if reaches_end {
                new_len.next_multiple_of(PAGE_SIZE).saturating_sub(into)
            } else {
                entry.len
            };
            if size > 0 {
                self.add(to + into, Entry { len: size, ..entry });
            }
        }
    }

    /// The object and offset behind an address, if it is shared memory.
    #[inline]
    pub fn find(&self, at: usize) -> Option<(Object, u64)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let entries = self.entries.lock();
        let (start, entry) = entries.range(..=at).next_back()?;
        (at - start < entry.len).then(|| (entry.object, entry.offset + (at - start) as u64))
    }

    /// What is left of the attachment that began at `at`: its ranges, for shmdt(2).
    pub fn attached_at(&self, at: usize) -> Vec<(usize, usize)> {
        let entries = self.entries.lock();
        let belongs = |start: usize, entry: &Entry| entry.offset == (start - at) as u64;
        let first =
            entries.range(at..).find(|&(&start, entry)| entry.attachment.is_some() && belongs(start, entry));
        let Some((_, Entry { object, attachment: Some(attachment), .. })) = first else { return Vec::new() };
        let end = at.saturating_add(attachment.size());
        let same = |(&start, entry): (&usize, &Entry)| {
            (entry.object == *object && belongs(start, entry)).then_some((start, entry.len))
        };
        entries.range(at..end.max(at)).filter_map(same).collect()
    }

    /// A copy for a child (fork(2)).
    pub fn fork(&self) -> Maps {
        let entries = self.entries.lock().clone();
        Maps { count: AtomicUsize::new(entries.len()), entries: Lock::new(entries) }
    }

    /// Forgets everything: exit, execve.
    pub fn clear(&self) {
        let gone = core::mem::take(&mut *self.entries.lock());
        self.count.store(0, Ordering::Release);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pages: usize, offset: u64) -> Entry {
        Entry { len: pages * PAGE_SIZE, object: Object(1, 2), offset, attachment: None }
    }

    #[test]
    fn pieces_keep_their_offsets() {
        let maps = Maps::default();
        let base = 0x10_0000;
        maps.add(base, entry(10, 0x5000));
        assert_eq!(maps.find(base + 3 * PAGE_SIZE + 8), Some((Object(1, 2), 0x5000 + 3 * 4096 + 8)));
        let taken = maps.cut(base + 2 * PAGE_SIZE, PAGE_SIZE + 1);
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].0, taken[0].1.len, taken[0].1.offset), (base + 0x2000, 0x2000, 0x7000));
        assert_eq!(maps.find(base + 0x1fff), Some((Object(1, 2), 0x6fff)));
        assert_eq!((maps.find(base + 0x2000), maps.find(base + 0x3fff)), (None, None));
        assert_eq!(maps.find(base + 0x4000), Some((Object(1, 2), 0x9000)));
        assert_eq!(maps.find(base + 10 * PAGE_SIZE), None);
        maps.restore(taken);
        assert_eq!(maps.find(base + 0x2000), Some((Object(1, 2), 0x7000)));
        let copy = maps.fork();
        maps.clear();
        assert_eq!(maps.find(base), None);
        assert_eq!(copy.find(base), Some((Object(1, 2), 0x5000)));
    }

    #[test]
    fn moved_memory_keeps_its_object() {
        let maps = Maps::default();
        maps.add(0x1000, entry(2, 0));
        let taken = maps.cut(0x1000, 0x2000);
        maps.moved(taken, 0x1000, 0x2000, 0x9000, 0x4000);
        assert_eq!(maps.find(0x1000), None);
        assert_eq!(maps.find(0x9000 + 0x3abc), Some((Object(1, 2), 0x3abc)));
        // Something else over the middle of it.
        maps.add(0xa000, Entry { object: Object(3, 4), ..entry(1, 0) });
        assert_eq!(maps.find(0xa000), Some((Object(3, 4), 0)));
        assert_eq!(maps.find(0xb000), Some((Object(1, 2), 0x2000)));
    }
}
