//! Address -> object without a lock: what the unwinder asks for every frame (`_dl_find_object`).
//!
//! Readers walk a sorted snapshot. A change publishes a new snapshot; the old one is freed when no
//! reader is inside, or at a later change. Async-signal-safe: no lock, no allocation in readers.

use crate::debug::LinkMap;
use crate::object::Namespace;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// One object's memory.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First address.
    pub start: usize,
    /// Address behind the last.
    pub end: usize,
    /// Its handle.
    pub link: *const LinkMap,
    /// PT_GNU_EH_FRAME, 0 without.
    pub eh_frame: usize,
}

type Snapshot = Vec<Range>;

static CURRENT: AtomicPtr<Snapshot> = AtomicPtr::new(null_mut());
static READERS: AtomicUsize = AtomicUsize::new(0);

/// The object that holds an address.
pub fn object(address: usize) -> Option<Range> {
    // SeqCst on both sides: either the publisher sees this reader, or the reader sees the new
    // snapshot.
    READERS.fetch_add(1, Ordering::SeqCst);
    let snapshot = CURRENT.load(Ordering::SeqCst);
    let found = if snapshot.is_null() {
        None
    } else {
        // SAFETY: a snapshot is freed only when there was no reader after it was replaced.
        let ranges = unsafe { &*snapshot };
        let at = ranges.partition_point(|r| r.start <= address);
        at.checked_sub(1).map(|i| ranges[i]).filter(|r| address < r.end)
    };
    READERS.fetch_sub(1, Ordering::SeqCst);
    found
}

/// Snapshots that a reader may still look at. Used under the loader's lock.
#[derive(Default)]
pub struct Retired(Vec<*mut Snapshot>);

/// Publishes what is loaded now.
pub fn publish(ns: &mut Namespace) {
    let mut ranges: Snapshot = ns
        .ids()
        .filter_map(|id| {
            let object = ns.get(id)?;
            let elf = object.elf()?;
            Some(Range {
                start: elf.elf.start.wrapping_add(elf.bias),
                end: elf.elf.end.wrapping_add(elf.bias),
                link: object.life.link.as_deref().map_or(core::ptr::null(), |l| l),
                eh_frame: elf.elf.eh_frame.map_or(0, |e| e.vaddr.wrapping_add(elf.bias)),
            })
        })
        .collect();
    ranges.sort_by_key(|r| r.start);
    let old = CURRENT.swap(Box::into_raw(Box::new(ranges)), Ordering::SeqCst);
    if !old.is_null() {
        ns.retired.0.push(old);
    }
    if READERS.load(Ordering::SeqCst) == 0 {
        for old in ns.retired.0.drain(..) {
            // SAFETY: from Box::into_raw above, replaced, and no reader is inside.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}
