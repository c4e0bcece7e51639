//! The page heap: spans of 8 KiB pages, cut from large reservations, found again by address.
//!
//! A reservation is address space without rights (it costs nothing and counts for nothing under
//! strict overcommit); it is made usable from below in steps. Its first part is the page map, one
//! word for each heap page, made usable in step with the heap: address -> span needs one load.
//!
//! Spans tile the used part of a reservation. A free span is *dirty* (its pages are there, with old
//! contents) or *clean* (never touched or given back: reads as zero, costs a page fault). Dirty ones
//! are used first, as page faults are the most expensive thing that an allocator does; neighbours of
//! the same kind are merged. Free lists are binned by length with a bitmap (good fit in O(1), as in
//! TLSF: Masmano et al., ECRTS 2004).

use super::class::{self, PAGE};
use crate::futex::{Lock, RawLock};
use crate::kcall;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// The two words of a free block.
#[repr(C)]
pub(super) struct Block {
    /// The next free block of a chain.
    pub next: *mut Block,
    /// The mark of free blocks.
    pub key: usize,
}

/// What a span is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum State {
    /// Its descriptor is unused.
    Gone,
    /// Free; old contents.
    Dirty,
    /// Free; reads as zero.
    Clean,
    /// Blocks of one class.
    Small,
    /// One block.
    Large,
}

/// A run of heap pages.
#[repr(C)]
pub(super) struct Span {
    /// First address.
    pub(super) start: usize,
    /// Heap pages.
    pub(super) pages: u32,
    pub(super) state: State,
    /// Small: its class. Large: whether its block grew ([`Span::grew`]).
    class: u8,
    arena: u16,
    /// Small: blocks handed out. Large: 0 while a thread keeps it (`cache.rs`).
    pub(super) used: u32,
    /// Small: blocks in all.
    pub(super) capacity: u32,
    /// Small: blocks never handed out start here. Large: heap pages that were asked for last; a span that a thread had
    /// kept may have more.
    bump: u32,
    /// Small: blocks that came back.
    free: *mut Block,
    pub(super) prev: *mut Span,
    pub(super) next: *mut Span,
}

impl Span {
    /// Bytes.
    pub(super) fn bytes(&self) -> usize {
        self.pages as usize * PAGE
    }

    /// Large: how many pages were asked for, and whether by `realloc`, to grow.
    #[inline]
    pub(super) fn asked(&mut self, pages: usize, to_grow: bool) {
        self.bump = pages as u32;
        self.class = u8::from(to_grow);
    }

    /// Large: the pages that were asked for last.
    #[inline]
    pub(super) fn pages_asked(&self) -> usize {
        self.bump as usize
    }

    /// Large: whether the block that is or was here came to grow.
    #[inline]
    pub(super) fn grew(&self) -> bool {
        self.class != 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.used == self.capacity
    }

    /// A free block of a small span that is not full.
    pub(super) fn take_block(&mut self, size: usize) -> *mut Block {
        self.used += 1;
        let block = self.free;
        if block.is_null() {
            let fresh = self.start + self.bump as usize * size;
            self.bump += 1;
            return fresh as *mut Block;
        }
        // SAFETY: blocks in `free` are free blocks of this span.
        self.free = unsafe { (*block).next };
        block
    }

    /// Takes a block of this span back.
    pub(super) unsafe fn put_block(&mut self, block: *mut Block) {
        // SAFETY: the caller's free block.
        unsafe { (*block).next = self.free };
        self.free = block;
        self.used -= 1;
    }

    fn end_page(&self) -> usize {
        self.start / PAGE + self.pages as usize
    }
}

// ---- address -> span ---------------------------------------------------------------------------

/// A page map word: the span's address below, class + 1 of a small span in the upper 16 bits.
const CLASS_SHIFT: u32 = 48;
const ADDRESS_MASK: u64 = (1 << CLASS_SHIFT) - 1;
const MAX_ARENAS: usize = 32;

/// One reservation. Readers use it without a lock: `usable` only grows, and is stored last.
struct Arena {
    base: AtomicUsize,
    /// Bytes from `base` that may be touched and have a page map.
    usable: AtomicUsize,
    map: AtomicPtr<AtomicU64>,
}

static ARENAS: [Arena; MAX_ARENAS] = [const {
    Arena { base: AtomicUsize::new(0), usable: AtomicUsize::new(0), map: AtomicPtr::new(null_mut()) }
}; MAX_ARENAS];

/// What the page map says about an address: 0 for memory that is not ours.
#[inline(always)]
pub(super) fn lookup(address: usize) -> u64 {
    let arena = &ARENAS[0];
    let offset = address.wrapping_sub(arena.base.load(Ordering::Relaxed));
    if offset < arena.usable.load(Ordering::Acquire) {
        // SAFETY: the map covers all of `usable`.
        return unsafe { (*arena.map.load(Ordering::Relaxed).add(offset / PAGE)).load(Ordering::Relaxed) };
    }
    lookup_others(address)
}

#[cold]
fn lookup_others(address: usize) -> u64 {
    for arena in &ARENAS[1..] {
        let usable = arena.usable.load(Ordering::Acquire);
        if usable == 0 {
            break;
        }
        let offset = address.wrapping_sub(arena.base.load(Ordering::Relaxed));
        if offset < usable {
            // SAFETY: as in `lookup`.
            return unsafe {
                (*arena.map.load(Ordering::Relaxed).add(offset / PAGE)).load(Ordering::Relaxed)
            };
        }
    }
    0
}

/// Class of a small block, or `None`.
#[inline(always)]
pub(super) fn class_in(word: u64) -> Option<usize> {
    ((word >> CLASS_SHIFT) as usize).checked_sub(1)
}

/// The span in a page map word; null if none.
#[inline(always)]
pub(super) fn span_in(word: u64) -> *mut Span {
    (word & ADDRESS_MASK) as *mut Span
}

/// The span of an address; null if none.
pub(super) fn span_of(address: usize) -> *mut Span {
    span_in(lookup(address))
}

// ---- allocation --------------------------------------------------------------------------------

const BINS: usize = 224;

struct Bins {
    heads: [*mut Span; BINS],
    /// Bit set: the list is not empty.
    map: [u64; BINS.div_ceil(64)],
}

struct Reserve {
    /// Address space kept, in bytes from the arena's base.
    reserved: usize,
    /// Heap pages that spans tile, from the base.
    tiled: usize,
}

struct Heap {
    dirty: Bins,
    clean: Bins,
    arenas: usize,
    reserves: [Reserve; MAX_ARENAS],
    /// Unused span descriptors, linked by `next`.
    descriptors: *mut Span,
    /// Fresh memory for descriptors.
    descriptor_room: (usize, usize),
    stats: Stats,
    /// Free dirty pages above which some are given back (M_TRIM_THRESHOLD), in bytes.
    trim_threshold: usize,
}

// SAFETY: spans belong to whoever holds the lock.
unsafe impl Send for Heap {}

/// Figures of the page heap, in heap pages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    /// In small and large spans.
    pub(super) in_use: usize,
    /// Of them in large spans.
    pub(super) large: usize,
    /// Free with contents.
    pub(super) dirty: usize,
    /// Free and clean.
    pub(super) clean: usize,
    /// Free spans.
    pub(super) free_spans: usize,
    /// Most pages that were ever in use.
    pub(super) peak: usize,
}

static HEAP: Lock<Heap> = Lock::new(Heap {
    dirty: Bins { heads: [null_mut(); BINS], map: [0; BINS.div_ceil(64)] },
    clean: Bins { heads: [null_mut(); BINS], map: [0; BINS.div_ceil(64)] },
    arenas: 0,
    reserves: [const { Reserve { reserved: 0, tiled: 0 } }; MAX_ARENAS],
    descriptors: null_mut(),
    descriptor_room: (0, 0),
    stats: Stats { in_use: 0, large: 0, dirty: 0, clean: 0, free_spans: 0, peak: 0 },
    trim_threshold: 16 << 20,
});

/// A span for blocks of one class.
pub(super) fn allocate_small(class: usize) -> Option<*mut Span> {
    let mut heap = HEAP.lock();
    let (span, _) = heap.take(class::span_pages(class), true)?;
    // SAFETY: the span is ours alone until its map words are set.
    let span_ref = unsafe { &mut *span };
    span_ref.state = State::Small;
    span_ref.class = class as u8;
    (span_ref.used, span_ref.bump, span_ref.free) = (0, 0, null_mut());
    span_ref.capacity = (span_ref.bytes() / class::size(class)) as u32;
    let word = span as u64 | ((class as u64 + 1) << CLASS_SHIFT);
    for page in 0..span_ref.pages as usize {
        set_word(span_ref.start + page * PAGE, word);
    }
    Some(span)
}

/// A block of its own of at least `bytes`, aligned to `align` (a power of two): its span, and whether
/// it reads as zero.
pub(super) fn allocate_large(bytes: usize, align: usize) -> Option<(*mut Span, bool)> {
    let pages = bytes.div_ceil(PAGE).max(1);
    let slack = if align > PAGE { align / PAGE } else { 0 };
    let mut heap = HEAP.lock();
    let (mut span, clean) = heap.take(pages + slack, false)?;
    if slack > 0 {
        span = heap.align_span(span, align, pages, clean);
    }
    // SAFETY: the span is ours.
    unsafe {
        (*span).state = State::Large;
        (*span).used = 1;
        (*span).asked(pages, false);
        heap.stats.large += (*span).pages as usize;
        mark_ends(span);
    }
    Some((span, clean))
}

/// Gives a used span back.
///
/// # Safety
/// No block of it is in use.
pub(super) unsafe fn release(span: *mut Span) {
    let mut heap = HEAP.lock();
    // SAFETY: a used span, the caller's.
    unsafe {
        let span_ref = &mut *span;
        heap.stats.in_use -= span_ref.pages as usize;
        if span_ref.state == State::Large {
            heap.stats.large -= span_ref.pages as usize;
        } else {
            for page in 0..span_ref.pages as usize {
                set_word(span_ref.start + page * PAGE, 0);
            }
        }
    }
    heap.insert(span, State::Dirty);
    heap.give_back_surplus();
}

/// Whether `start` is the block of a large span in use. (Two threads that free one block at the same time may both
/// be told so: that is undefined, and mostly noticed.)
#[inline]
pub(super) fn is_block(span: *mut Span, start: usize) -> bool {
    // SAFETY: descriptors are never unmapped; the state of a live block's span does not change.
    unsafe { !span.is_null() && (*span).state == State::Large && (*span).start == start && (*span).used == 1 }
}

/// Gives a large span back if `start` is its block; false if it is none (an invalid or double free).
pub(super) fn release_large(span: *mut Span, start: usize) -> bool {
    let valid = is_block(span, start);
    // SAFETY: a large span in use.
    unsafe {
        if valid {
            release(span);
        }
        valid
    }
}

/// Makes a large span longer or shorter in place; false if what follows it is in use.
///
/// # Safety
/// `span` is a large span in use by the caller.
pub(super) unsafe fn resize(span: *mut Span, bytes: usize) -> bool {
    let wanted = bytes.div_ceil(PAGE).max(1);
    // SAFETY: the caller's span.
    unsafe {
        // Growing within what it has already.
        if (*span).bump as usize <= wanted && wanted <= (*span).pages as usize {
            (*span).bump = wanted as u32;
            return true;
        }
    }
    let mut heap = HEAP.lock();
    // SAFETY: the caller's span; its neighbour belongs to the lock's holder.
    unsafe {
        let have = (*span).pages as usize;
        if wanted < have {
            (*span).bump = wanted as u32;
            let Some(tail) = heap.split(span, wanted) else { return true };
            heap.stats.in_use -= have - wanted;
            heap.stats.large -= have - wanted;
            mark_ends(span);
            heap.insert(tail, State::Dirty);
            heap.give_back_surplus();
            return true;
        }
        if wanted > have {
            let Some(next) = heap.neighbour_after(span) else { return false };
            let more = wanted - have;
            if !matches!((*next).state, State::Dirty | State::Clean) || ((*next).pages as usize) < more {
                return false;
            }
            let state = (*next).state;
            heap.remove(next);
            if let Some(rest) = heap.split(next, more) {
                heap.insert(rest, state);
            }
            (*span).pages += (*next).pages;
            (*span).asked(wanted, true);
            heap.stats.in_use += (*next).pages as usize;
            heap.stats.large += (*next).pages as usize;
            heap.stats.peak = heap.stats.peak.max(heap.stats.in_use);
            heap.drop_descriptor(next);
            mark_ends(span);
        }
        true
    }
}

/// Gives all dirty free pages back to the system; answers whether there were any.
pub(super) fn trim() -> bool {
    HEAP.lock().give_back(0)
}

/// The figures.
pub(super) fn stats() -> Stats {
    HEAP.lock().stats
}

/// mallopt(M_TRIM_THRESHOLD).
pub(super) fn set_trim_threshold(bytes: usize) {
    HEAP.lock().trim_threshold = bytes;
}

/// Memory for bookkeeping elsewhere in this allocator (never given back); null when memory is out.
pub(super) fn map_memory(bytes: usize) -> *mut u8 {
    // SAFETY: fresh memory.
    unsafe { kcall!(mmap, 0, bytes, READ_WRITE, PRIVATE_ANONYMOUS, -1isize, 0) }
        .map_or(null_mut(), |address| address as *mut u8)
}

/// The lock, for fork(2).
pub(super) fn lock() -> &'static RawLock {
    HEAP.raw()
}

const READ_WRITE: usize = 3;
const PRIVATE_ANONYMOUS: usize = 0x22;
const NORESERVE: usize = 0x4000;
const MADV_DONTNEED: usize = 4;
const MADV_POPULATE_WRITE: usize = 23;
/// Heap bytes that a 4 KiB page of the page map describes; the step in which memory is made usable.
const STEP: usize = 4096 / 8 * PAGE;
/// The first reservation tried, and the last.
const RESERVE_MOST: usize = 256 << 30;
const RESERVE_LEAST: usize = 64 << 20;
/// In use before pages are brought in ahead of need.
const WARM: usize = (2 << 20) / PAGE;

impl Heap {
    /// A free span of exactly `pages`, off the lists, and whether it is clean. Small spans are
    /// surely touched: pages for them may be brought in ahead.
    fn take(&mut self, pages: usize, small: bool) -> Option<(*mut Span, bool)> {
        let (span, clean) = loop {
            if let Some(span) = self.dirty.find(pages) {
                self.remove(span);
                break (span, false);
            }
            if let Some(span) = self.clean.find(pages) {
                self.remove(span);
                if small && self.populate(span, pages) {
                    continue;
                }
                break (span, true);
            }
            self.grow(pages)?;
        };
        if let Some(rest) = self.split(span, pages) {
            self.insert(rest, if clean { State::Clean } else { State::Dirty });
        }
        self.stats.in_use += pages;
        self.stats.peak = self.stats.peak.max(self.stats.in_use);
        Some((span, clean))
    }

    /// Brings the first part of a clean span in with one call instead of a fault for each page, an
    /// eighth of what is in use (64 KiB to 1 MiB), and lists it as dirty. False: not worth it, or
    /// the host cannot (Linux before 5.14); the span is then untouched.
    fn populate(&mut self, span: *mut Span, wanted: usize) -> bool {
        if self.stats.in_use < WARM {
            return false;
        }
        let step = (self.stats.in_use / 8).clamp((64 << 10) / PAGE, (1 << 20) / PAGE).max(wanted);
        // SAFETY: the span is off the lists, its memory nobody's.
        unsafe {
            let step = step.min((*span).pages as usize);
            if kcall!(madvise, (*span).start, step * PAGE, MADV_POPULATE_WRITE).is_err() {
                return false;
            }
            if let Some(rest) = self.split(span, step) {
                self.insert(rest, State::Clean);
            }
        }
        self.insert(span, State::Dirty);
        true
    }

    /// Cuts a span with slack down to `pages` at an aligned start; the ends go back to the lists.
    fn align_span(&mut self, span: *mut Span, align: usize, pages: usize, clean: bool) -> *mut Span {
        let state = if clean { State::Clean } else { State::Dirty };
        // SAFETY: the span is the caller's, off the lists.
        unsafe {
            let total = (*span).pages as usize;
            let lead = ((*span).start.next_multiple_of(align) - (*span).start) / PAGE;
            let mut kept = span;
            if lead > 0
                && let Some(rest) = self.split(span, lead)
            {
                self.insert(span, state);
                kept = rest;
            }
            if let Some(tail) = self.split(kept, pages) {
                self.insert(tail, state);
            }
            self.stats.in_use -= total - (*kept).pages as usize;
            kept
        }
    }

    /// Cuts `span` to `pages`; the rest is a span of its own on no list. `None` if nothing is left
    /// or no descriptor can be had (the span then stays whole).
    fn split(&mut self, span: *mut Span, pages: usize) -> Option<*mut Span> {
        // SAFETY: the caller's span.
        unsafe {
            let rest_pages = (*span).pages as usize - pages;
            if rest_pages == 0 {
                return None;
            }
            let rest = self.new_descriptor()?;
            rest.write(Span {
                start: (*span).start + pages * PAGE,
                pages: rest_pages as u32,
                arena: (*span).arena,
                ..EMPTY
            });
            (*span).pages = pages as u32;
            // At once: whoever inserts one of them looks at its neighbours' map words.
            mark_ends(span);
            mark_ends(rest);
            Some(rest)
        }
    }

    /// Puts a span on the list of its kind, merged with neighbours of that kind.
    fn insert(&mut self, mut span: *mut Span, state: State) {
        // SAFETY: `span` is the caller's, its neighbours belong to the lock's holder.
        unsafe {
            if let Some(before) = self.neighbour_before(span)
                && (*before).state == state
            {
                self.remove(before);
                (*before).pages += (*span).pages;
                self.drop_descriptor(span);
                span = before;
            }
            if let Some(after) = self.neighbour_after(span)
                && (*after).state == state
            {
                self.remove(after);
                (*span).pages += (*after).pages;
                self.drop_descriptor(after);
            }
            (*span).state = state;
            mark_ends(span);
            let pages = (*span).pages as usize;
            self.stats.free_spans += 1;
            if state == State::Dirty {
                self.stats.dirty += pages;
                self.dirty.push(span);
            } else {
                self.stats.clean += pages;
                self.clean.push(span);
            }
        }
    }

    /// Takes a free span off its list.
    fn remove(&mut self, span: *mut Span) {
        // SAFETY: a free span belongs to the lock's holder.
        unsafe {
            let pages = (*span).pages as usize;
            self.stats.free_spans -= 1;
            if (*span).state == State::Dirty {
                self.stats.dirty -= pages;
                self.dirty.unlink(span);
            } else {
                self.stats.clean -= pages;
                self.clean.unlink(span);
            }
            (*span).state = State::Gone;
        }
    }

    unsafe fn neighbour_before(&self, span: *mut Span) -> Option<*mut Span> {
        // SAFETY: the caller's span; the page before it, if any, ends a span (spans tile).
        unsafe {
            let base = ARENAS[(*span).arena as usize].base.load(Ordering::Relaxed);
            ((*span).start > base).then(|| span_of((*span).start - PAGE)).filter(|s| !s.is_null())
        }
    }

    unsafe fn neighbour_after(&self, span: *mut Span) -> Option<*mut Span> {
        // SAFETY: as above, for the page behind it.
        unsafe {
            let arena = (*span).arena as usize;
            let end = (*span).end_page() * PAGE;
            let limit = ARENAS[arena].base.load(Ordering::Relaxed) + self.reserves[arena].tiled * PAGE;
            (end < limit).then(|| span_of(end)).filter(|s| !s.is_null())
        }
    }

    // ---- from and to the system ----

    /// Adds a clean span of at least `pages`.
    fn grow(&mut self, pages: usize) -> Option<()> {
        if self.arenas == 0 || self.room() < pages * PAGE {
            self.reserve(pages * PAGE)?;
        }
        let index = self.arenas - 1;
        let (base, old) = (ARENAS[index].base.load(Ordering::Relaxed), self.reserves[index].tiled * PAGE);
        // An eighth more each time: few calls for large heaps, little waste for small ones.
        let step = (pages * PAGE).max(old / 8).next_multiple_of(STEP).min(self.room());
        let map = ARENAS[index].map.load(Ordering::Relaxed);
        // SAFETY: both ranges lie in our reservation and nobody uses them yet.
        unsafe {
            let map_start = map.add(old / PAGE) as usize;
            kcall!(mprotect, map_start, step / PAGE * 8, READ_WRITE).ok()?;
            kcall!(mprotect, base + old, step, READ_WRITE).ok()?;
        }
        let span = self.new_descriptor()?;
        // SAFETY: a fresh descriptor.
        unsafe {
            span.write(Span { start: base + old, pages: (step / PAGE) as u32, arena: index as u16, ..EMPTY })
        };
        self.reserves[index].tiled += step / PAGE;
        ARENAS[index].usable.store(old + step, Ordering::Release);
        self.insert(span, State::Clean);
        Some(())
    }

    /// Bytes left in the newest reservation.
    fn room(&self) -> usize {
        let reserve = &self.reserves[self.arenas - 1];
        reserve.reserved - reserve.tiled * PAGE
    }

    /// Opens a new reservation for at least `bytes`: as large as the system lets us, but under a
    /// limit (RLIMIT_AS) not more than half of what is left, so that other mappings have room.
    fn reserve(&mut self, bytes: usize) -> Option<()> {
        if self.arenas == MAX_ARENAS {
            return None;
        }
        let mut size = RESERVE_MOST;
        while size >= RESERVE_LEAST && size >= bytes {
            let probe = if size == RESERVE_MOST { size } else { size * 2 };
            if let Some(start) = reserve_space(probe) {
                if probe != size {
                    // SAFETY: fresh address space that nobody uses.
                    let _ = unsafe { kcall!(munmap, start, total_bytes(probe) + STEP) };
                }
                if let Some(start) = if probe == size { Some(start) } else { reserve_space(size) } {
                    let base = (start + size / PAGE * 8).next_multiple_of(STEP);
                    let arena = &ARENAS[self.arenas];
                    arena.base.store(base, Ordering::Relaxed);
                    arena.map.store(start as *mut AtomicU64, Ordering::Relaxed);
                    self.reserves[self.arenas] = Reserve { reserved: size, tiled: 0 };
                    self.arenas += 1;
                    return Some(());
                }
            }
            size /= 2;
        }
        None
    }

    /// Keeps dirty free memory under a quarter of what is in use, or the threshold.
    fn give_back_surplus(&mut self) {
        let limit = (self.trim_threshold / PAGE).max(self.stats.in_use / 4);
        if self.stats.dirty > limit {
            self.give_back(limit / 2);
        }
    }

    /// Gives dirty spans back, longest first, until at most `keep` pages are left.
    fn give_back(&mut self, keep: usize) -> bool {
        let mut any = false;
        while self.stats.dirty > keep {
            let Some(span) = self.dirty.longest() else { break };
            self.remove(span);
            // SAFETY: a free span's memory is nobody's.
            let gone = unsafe { kcall!(madvise, (*span).start, (*span).bytes(), MADV_DONTNEED) }.is_ok();
            self.insert(span, if gone { State::Clean } else { State::Dirty });
            if !gone {
                break;
            }
            any = true;
        }
        any
    }

    fn new_descriptor(&mut self) -> Option<*mut Span> {
        if !self.descriptors.is_null() {
            let span = self.descriptors;
            // SAFETY: an unused descriptor.
            self.descriptors = unsafe { (*span).next };
            return Some(span);
        }
        let size = size_of::<Span>();
        if self.descriptor_room.1 < size {
            const CHUNK: usize = 256 << 10;
            let chunk = map_memory(CHUNK);
            if chunk.is_null() {
                return None;
            }
            self.descriptor_room = (chunk as usize, CHUNK);
        }
        let span = self.descriptor_room.0 as *mut Span;
        self.descriptor_room = (self.descriptor_room.0 + size, self.descriptor_room.1 - size);
        Some(span)
    }

    fn drop_descriptor(&mut self, span: *mut Span) {
        // SAFETY: the caller's descriptor, used no more.
        unsafe {
            (*span).state = State::Gone;
            (*span).next = self.descriptors;
        }
        self.descriptors = span;
    }
}

const EMPTY: Span = Span {
    start: 0,
    pages: 0,
    state: State::Gone,
    class: 0,
    arena: 0,
    used: 0,
    capacity: 0,
    bump: 0,
    free: null_mut(),
    prev: null_mut(),
    next: null_mut(),
};

/// Map and heap of a reservation of `size` heap bytes.
const fn total_bytes(size: usize) -> usize {
    size / PAGE * 8 + size
}

/// Address space without rights for `size` heap bytes, their map and alignment.
fn reserve_space(size: usize) -> Option<usize> {
    // SAFETY: fresh address space.
    unsafe { kcall!(mmap, 0, total_bytes(size) + STEP, 0, PRIVATE_ANONYMOUS | NORESERVE, -1isize, 0) }.ok()
}

fn set_word(address: usize, word: u64) {
    for arena in &ARENAS {
        let offset = address.wrapping_sub(arena.base.load(Ordering::Relaxed));
        if offset < arena.usable.load(Ordering::Relaxed) {
            // SAFETY: the map covers `usable`.
            unsafe { (*arena.map.load(Ordering::Relaxed).add(offset / PAGE)).store(word, Ordering::Relaxed) };
            return;
        }
    }
}

/// First and last page of a span that is not small name it: enough for `free` and for neighbours.
unsafe fn mark_ends(span: *mut Span) {
    // SAFETY: the caller's span.
    unsafe {
        set_word((*span).start, span as u64);
        set_word((*span).start + ((*span).pages as usize - 1) * PAGE, span as u64);
    }
}

// ---- bins --------------------------------------------------------------------------------------

/// Bin of a span of `pages`: exact below 32, then eight for each doubling.
fn bin_of(pages: usize) -> usize {
    if pages < 32 {
        return pages;
    }
    let log = pages.ilog2() as usize;
    (32 + (log - 5) * 8 + ((pages >> (log - 3)) & 7)).min(BINS - 1)
}

impl Bins {
    fn push(&mut self, span: *mut Span) {
        // SAFETY: spans on the list belong to the lock's holder.
        unsafe {
            let bin = bin_of((*span).pages as usize);
            let head = self.heads[bin];
            (*span).prev = null_mut();
            (*span).next = head;
            if !head.is_null() {
                (*head).prev = span;
            }
            self.heads[bin] = span;
            self.map[bin / 64] |= 1 << (bin % 64);
        }
    }

    fn unlink(&mut self, span: *mut Span) {
        // SAFETY: as in `push`.
        unsafe {
            let (prev, next) = ((*span).prev, (*span).next);
            if !next.is_null() {
                (*next).prev = prev;
            }
            if prev.is_null() {
                let bin = bin_of((*span).pages as usize);
                self.heads[bin] = next;
                if next.is_null() {
                    self.map[bin / 64] &= !(1 << (bin % 64));
                }
            } else {
                (*prev).next = next;
            }
        }
    }

    /// A span of at least `pages`. In the bin of that length a fitting one may hide behind shorter
    /// ones: a few are looked at; every span of a higher bin fits.
    fn find(&self, pages: usize) -> Option<*mut Span> {
        let bin = bin_of(pages);
        let mut span = self.heads[bin];
        let mut looked = 0;
        while !span.is_null() && looked < 16 {
            // SAFETY: spans on the list belong to the lock's holder.
            unsafe {
                if (*span).pages as usize >= pages {
                    return Some(span);
                }
                span = (*span).next;
            }
            looked += 1;
        }
        self.first_from(bin + 1).map(|bin| self.heads[bin])
    }

    fn first_from(&self, bin: usize) -> Option<usize> {
        let mut word = bin / 64;
        let mut bits = self.map.get(word)? & (u64::MAX << (bin % 64));
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = *self.map.get(word)?;
        }
    }

    fn longest(&self) -> Option<*mut Span> {
        let word = (0..self.map.len()).rev().find(|&w| self.map[w] != 0)?;
        Some(self.heads[word * 64 + 63 - self.map[word].leading_zeros() as usize])
    }
}
