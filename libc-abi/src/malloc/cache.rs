//! The thread's own stock of free blocks: malloc's and free's fast path.
//!
//! No atomics and no locks: the cache hangs on `%fs`, which changes with the thread. A thread can be
//! preempted between any two instructions here; it then simply goes on later, with its own cache as
//! it left it, as no other thread ever looks at it. The one thing that could interfere is a signal
//! handler on the same thread, and malloc is not async-signal-safe (signal-safety(7)).
//!
//! Of larger blocks a thread keeps the few that it freed last: who frees one and asks for the next of about that size
//! (a buffer for each request) does without the page heap's lock, its lists and merging.

use super::central;
use super::class;
use super::pages::{self, Block, Span};
use super::report;
use crate::thread;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Free blocks of one class.
#[repr(C)]
pub struct Bin {
    head: *mut Block,
    /// Blocks that may come back before somebody counts what is here: with what is here, twice a batch at most. There
    /// is no count: it would be read, changed and written by each `malloc` and each `free`, and the next would wait for it.
    room: u32,
    /// Blocks that the next refill asks for: grows from refill to refill, so that a thread that
    /// needs one block of a class does not touch a page full of them.
    want: u32,
}

/// One [`Bin`] for each class. All-zero is an empty cache.
#[repr(C)]
pub struct ThreadCache {
    bins: [Bin; class::COUNT],
    /// Large spans that were freed here; null for none.
    spans: [*mut Span; SPANS],
    /// Which of them gives way next.
    oldest: usize,
}

/// Large spans that a thread keeps, and the pages of the longest: 512 KiB at most.
const SPANS: usize = 4;
const SPAN_PAGES: usize = (128 << 10) / class::PAGE;

/// Stands in every free block's second word; found there in [`push`], it says that the block is free
/// already. Made random at start-up: no program can hold it by accident.
static FREE_KEY: AtomicUsize = AtomicUsize::new(0x5ca1_ab1e_0ddb_a115);

/// Makes the mark of free blocks this process's own. Before the first `free`.
pub fn set_key(random: usize) {
    FREE_KEY.store(random | 1, Ordering::Relaxed);
}

/// A block of the class, or null.
#[inline(always)]
pub fn pop(class: usize) -> *mut u8 {
    // SAFETY: the calling thread's own bin (see the head of this file); `head` is a free block.
    unsafe {
        let bin = &mut (*thread::current()).cache.bins[class];
        let head = bin.head;
        if head.is_null() {
            return refill(bin, class);
        }
        bin.head = (*head).next;
        (*head).key = 0;
        head.cast()
    }
}

/// A block for `size` bytes if one of a small class is at hand; else null, and [`pop`] or others may have one.
#[inline(always)]
pub fn pop_fine(size: usize) -> *mut u8 {
    if size > class::FINE_MOST {
        return core::ptr::null_mut();
    }
    // SAFETY: as in `pop`; the class of such a size is one of the bins.
    unsafe {
        let bin = (&raw mut (*thread::current()).cache.bins).cast::<Bin>().add(class::of_fine(size));
        let head = (*bin).head;
        if !head.is_null() {
            (*bin).head = (*head).next;
            (*head).key = 0;
        }
        head.cast()
    }
}

/// Takes a block back.
///
/// # Safety
/// The block is of this class and the caller gives it up.
#[inline(always)]
pub unsafe fn push(class: usize, block: *mut u8) {
    let block: *mut Block = block.cast();
    let key = FREE_KEY.load(Ordering::Relaxed);
    // SAFETY: as in `pop`; the block is the caller's.
    unsafe {
        if (*block).key == key {
            report::double_free();
        }
        let bin = &mut (*thread::current()).cache.bins[class];
        (*block).next = bin.head;
        (*block).key = key;
        bin.head = block;
        if bin.room == 0 {
            return count_again(bin, class);
        }
        bin.room -= 1;
    }
}

/// Finds out how many blocks there are, and gives a batch back if there are more than one. Either way there is room for a
/// batch then, so that a block is counted twice at most for each that comes back.
#[cold]
#[inline(never)]
fn count_again(bin: &mut Bin, class: usize) {
    let batch = class::batch(class);
    let mut count = length(bin);
    if count > batch {
        flush(bin, class, batch);
        count -= batch;
    }
    bin.room = 2 * batch - count;
}

/// Blocks of a bin.
fn length(bin: &Bin) -> u32 {
    let (mut count, mut block) = (0, bin.head);
    while !block.is_null() {
        count += 1;
        // SAFETY: a chain of free blocks, the calling thread's own.
        block = unsafe { (*block).next };
    }
    count
}

#[cold]
#[inline(never)]
fn refill(bin: &mut Bin, class: usize) -> *mut u8 {
    let first = (1024 / class::size(class)).clamp(1, 8) as u32;
    bin.want = (bin.want * 2).clamp(first, class::batch(class));
    let (head, count) = central::fetch(class, bin.want);
    if head.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: `fetch` hands over a chain of `count` free blocks.
    unsafe {
        bin.head = (*head).next;
        (*head).key = 0;
    }
    bin.room = 2 * class::batch(class) - count;
    head.cast()
}

/// Gives `count` blocks back to the central list: the ones freed longest ago would be better for the
/// cache, but the newest are at the head, and walking to the tail touches them all.
#[cold]
#[inline(never)]
fn flush(bin: &mut Bin, class: usize, count: u32) {
    let head = bin.head;
    let mut last = head;
    for _ in 1..count {
        // SAFETY: the bin holds at least `count` blocks.
        last = unsafe { (*last).next };
    }
    // SAFETY: as above.
    unsafe {
        bin.head = (*last).next;
        (*last).next = core::ptr::null_mut();
    }
    central::give(class, head, count);
}

/// A kept span of `pages` or a little more, or null. Its contents are old.
#[inline]
pub(super) fn pop_span(pages: usize) -> *mut Span {
    // SAFETY: the calling thread's own cache; the spans in it are large ones that nobody else has.
    let cache = unsafe { &mut (*thread::current()).cache };
    for slot in &mut cache.spans {
        // SAFETY: as above.
        if let Some(span) = unsafe { slot.as_mut() }
            && (pages..=pages + pages / 8).contains(&(span.pages as usize))
        {
            *slot = core::ptr::null_mut();
            span.used = 1;
            span.asked(pages, false);
            return span;
        }
    }
    core::ptr::null_mut()
}

/// A kept span in which a block grew before, or null: who grows a buffer step by step does so again with the next one, and
/// grows it in the same place then. The longest, of at most eight times `pages`: it may stay as short as it is now.
#[inline]
pub(super) fn pop_grown(pages: usize) -> *mut Span {
    // SAFETY: as in `pop_span`.
    let cache = unsafe { &mut (*thread::current()).cache };
    let fits = |span: &Span| span.grew() && (pages..=8 * pages).contains(&(span.pages as usize));
    let length = |slot: &*mut Span| {
        // SAFETY: as above.
        unsafe { slot.as_ref() }.filter(|span| fits(span)).map_or(0, |span| span.pages)
    };
    let Some(slot) = cache.spans.iter_mut().max_by_key(|slot| length(slot)).filter(|slot| length(slot) > 0)
    else {
        return core::ptr::null_mut();
    };
    let span = core::mem::replace(slot, core::ptr::null_mut());
    // SAFETY: as above; it was not null.
    unsafe {
        (*span).used = 1;
        (*span).asked(pages, true);
    }
    span
}

/// Keeps a span that is given up, in the place of the one that was kept longest. False if it is too long.
///
/// # Safety
/// A large span in use, of which the caller gives the block up.
#[inline]
pub(super) unsafe fn push_span(span: *mut Span) -> bool {
    // SAFETY: the caller's span, and the calling thread's own cache.
    unsafe {
        if (*span).pages as usize > SPAN_PAGES {
            return false;
        }
        let cache = &mut (*thread::current()).cache;
        let free = cache.spans.iter().position(|slot| slot.is_null());
        let place = free.unwrap_or(cache.oldest % SPANS);
        cache.oldest = place + 1;
        // From here on it is no block: `pages::is_block` says so to whoever frees it again.
        (*span).used = 0;
        let before = core::mem::replace(&mut cache.spans[place], span);
        if !before.is_null() {
            pages::release(before);
        }
    }
    true
}

/// Gives everything back: the thread ends, or malloc_trim(3) is called.
pub fn flush_all() {
    // SAFETY: the calling thread's own cache; what it keeps is in nobody's use.
    unsafe {
        for slot in &mut (*thread::current()).cache.spans {
            let span = core::mem::replace(slot, core::ptr::null_mut());
            if !span.is_null() {
                pages::release(span);
            }
        }
    }
    for class in 0..class::COUNT {
        // SAFETY: the calling thread's own cache.
        let bin = unsafe { &mut (*thread::current()).cache.bins[class] };
        let mut left = length(bin);
        while left > 0 {
            let some = left.min(class::batch(class));
            flush(bin, class, some);
            left -= some;
        }
        bin.want = 0;
    }
}

/// Bytes that wait in the calling thread's cache.
pub fn cached_bytes() -> usize {
    // SAFETY: the calling thread's own cache.
    let cache = unsafe { &(*thread::current()).cache };
    // SAFETY: spans that are kept stay.
    let spans = cache.spans.iter().filter_map(|span| unsafe { span.as_ref() }).map(Span::bytes);
    let blocks = cache.bins.iter().enumerate().map(|(class, bin)| length(bin) as usize * class::size(class));
    blocks.chain(spans).sum()
}
