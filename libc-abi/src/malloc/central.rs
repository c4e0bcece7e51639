//! Between the threads: for each class the spans with free blocks, and a few ready-made batches.
//!
//! A batch that one thread gives up is what another asks for; it moves as one chain, untouched. The
//! lock of a class parks its waiters; it may be held while the page heap's lock is taken, never the
//! other way round.

use super::class;
use super::pages::{self, Block, Span, State};
use crate::futex::{Lock, RawLock};
use core::ptr::null_mut;

/// Batches kept whole for each class.
const READY: usize = 16;

struct Central {
    ready: [*mut Block; READY],
    ready_count: usize,
    /// Spans of this class with at least one free block, linked by `next`/`prev`.
    open: *mut Span,
    /// Free blocks in `ready` and `open`, for mallinfo(3).
    free_blocks: usize,
}

// SAFETY: blocks and spans belong to whoever holds the lock around them.
unsafe impl Send for Central {}

static CENTRAL: [Lock<Central>; class::COUNT] = [const {
    Lock::new(Central { ready: [null_mut(); READY], ready_count: 0, open: null_mut(), free_blocks: 0 })
}; class::COUNT];

/// Up to `count` free blocks as a chain: its head and its length (0 when memory is out).
pub(super) fn fetch(class: usize, count: u32) -> (*mut Block, u32) {
    let mut central = CENTRAL[class].lock();
    if count == class::batch(class) && central.ready_count > 0 {
        central.ready_count -= 1;
        central.free_blocks -= count as usize;
        return (central.ready[central.ready_count], count);
    }
    let (mut head, mut got) = (null_mut::<Block>(), 0);
    while got < count {
        let span = match central.open_span(class) {
            Some(span) => span,
            // Ready batches are memory too: break one up before giving in.
            None if central.ready_count > 0 && got == 0 => {
                central.ready_count -= 1;
                central.free_blocks -= class::batch(class) as usize;
                return (central.ready[central.ready_count], class::batch(class));
            }
            None => break,
        };
        // SAFETY: an open span of this class belongs to the lock's holder.
        unsafe {
            let block = (*span).take_block(class::size(class));
            (*block).next = head;
            head = block;
            if (*span).is_full() {
                central.unlink(span);
            }
        }
        central.free_blocks -= 1;
        got += 1;
    }
    (head, got)
}

/// Takes back a chain of `count` free blocks of the class.
pub(super) fn give(class: usize, head: *mut Block, count: u32) {
    let mut central = CENTRAL[class].lock();
    if count == class::batch(class) && central.ready_count < READY {
        let slot = central.ready_count;
        central.ready[slot] = head;
        central.ready_count += 1;
        central.free_blocks += count as usize;
        return;
    }
    central.scatter(head);
}

/// Puts the ready batches back into their spans, so that empty spans can go: malloc_trim(3).
pub(super) fn trim() {
    for lock in &CENTRAL {
        let mut central = lock.lock();
        while central.ready_count > 0 {
            central.ready_count -= 1;
            let head = central.ready[central.ready_count];
            let mut counted = head;
            while !counted.is_null() {
                central.free_blocks -= 1;
                // SAFETY: a chain of free blocks.
                counted = unsafe { (*counted).next };
            }
            central.scatter(head);
        }
    }
}

/// Bytes and blocks that are free in the central lists.
pub(super) fn free_memory() -> (usize, usize) {
    let (mut bytes, mut blocks) = (0, 0);
    for (class, lock) in CENTRAL.iter().enumerate() {
        let count = lock.lock().free_blocks;
        bytes += count * class::size(class);
        blocks += count;
    }
    (bytes, blocks)
}

/// The locks in their order, for fork(2).
pub(super) fn locks() -> impl DoubleEndedIterator<Item = &'static RawLock> {
    CENTRAL.iter().map(Lock::raw)
}

impl Central {
    /// A span with a free block: one at hand, or a fresh one.
    fn open_span(&mut self, class: usize) -> Option<*mut Span> {
        if self.open.is_null() {
            let span = pages::allocate_small(class)?;
            // SAFETY: a fresh span is ours alone.
            self.free_blocks += unsafe { (*span).capacity } as usize;
            self.link(span);
        }
        Some(self.open)
    }

    /// Returns each block of a chain to its span; empty spans go back to the page heap, but for the
    /// last open one, which would be asked for again at once.
    fn scatter(&mut self, mut block: *mut Block) {
        while !block.is_null() {
            // SAFETY: a free block of this class; its span is found by address and is ours.
            unsafe {
                let next = (*block).next;
                let span = pages::span_of(block as usize);
                debug_assert!(!span.is_null() && (*span).state == State::Small);
                let was_full = (*span).is_full();
                (*span).put_block(block);
                self.free_blocks += 1;
                if was_full {
                    self.link(span);
                }
                let only_one = self.open == span && (*span).next.is_null();
                if (*span).used == 0 && !only_one {
                    self.unlink(span);
                    self.free_blocks -= (*span).capacity as usize;
                    pages::release(span);
                }
                block = next;
            }
        }
    }

    fn link(&mut self, span: *mut Span) {
        // SAFETY: spans in the list and `span` belong to the lock's holder.
        unsafe {
            (*span).prev = null_mut();
            (*span).next = self.open;
            if !self.open.is_null() {
                (*self.open).prev = span;
            }
        }
        self.open = span;
    }

    fn unlink(&mut self, span: *mut Span) {
        // SAFETY: as in `link`.
        unsafe {
            let (prev, next) = ((*span).prev, (*span).next);
            if prev.is_null() {
                self.open = next;
            } else {
                (*prev).next = next;
            }
            if !next.is_null() {
                (*next).prev = prev;
            }
            (*span).prev = null_mut();
            (*span).next = null_mut();
        }
    }
}
