//! A heap in one region of address space: size classes with caches, over a buddy allocator.
//!
//! * up to 32 KiB: 40 size classes. Each host thread (vCPU, helper) has a cache of free objects for
//!   each class, touched by nobody else and so without a lock; caches fill from and spill to the
//!   class's list, which has a lock. Objects are carved from chunks of at least 64 KiB.
//! * above: blocks of a power of two pages from the buddy allocator, from 64 KiB on.
//!
//! All state lies at the start of the region, so that every process which maps it shares it. A block's
//! class follows from its `Layout`, which Rust hands back on release: no headers, no page table.
//! The first touch of a page costs 12 us here and a batch of them hardly more: memory never touched
//! before is populated 256 KiB at a time, and free objects are reused last in, first out, hot.
//!
//! A host process that shares a heap may be killed between any two instructions, and others go on with what it left:
//! its cache as it is, its lock ([`platform::sync`]) in the middle of a change. So stores are ordered ([`in_order`])
//! such that what a change has done so far loses memory at worst, and never lists what somebody has: an object is out
//! of the list before it is given out, a block's map entry is cleared first and set last. A block that `realloc` has
//! left is given back only with the next one ([`Heap::release_later`]): a `Vec` that grows names it until then.
//!
//! Left out: classes do not give chunks back. Large blocks (1 MiB and up) give their pages back to the
//! host when they are freed.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};
use platform::host;
use platform::sync::Lock;

const CLASSES: usize = 40;
/// Largest object of a class.
const LARGEST_OBJECT: usize = 32 * 1024;
/// Host threads with a cache of their own; further ones use the locked lists.
const CACHES: usize = 128;
/// Smallest buddy block, and the unit of its map.
const UNIT_SHIFT: u32 = 16;
const UNIT: usize = 1 << UNIT_SHIFT;
/// Orders 0 (64 KiB) to 20 (64 GiB).
const ORDERS: usize = 21;
/// A class's first chunk.
const FIRST_CHUNK: usize = 4096;
/// Untouched memory is populated in pieces that end at multiples of this.
const POPULATE: usize = 128 * 1024;
/// The lists take in untouched memory in pieces that end at multiples of this.
const GROW: usize = 1 << 20;
/// Freed blocks from this size on give their pages back.
const GIVE_BACK: usize = 1 << 20;
/// Largest region: what 21 orders cover.
pub(crate) const LARGEST_REGION: usize = UNIT << (ORDERS - 1);

/// A free object or block: links in its own memory.
struct Free {
    next: *mut Free,
    /// Blocks only: the link back, so that a buddy can be taken out of its list.
    previous: *mut Free,
}

/// The state at the start of a region.
#[repr(C)]
pub(crate) struct Heap {
    /// Set when an allocation failed: the panic that follows says so.
    exhausted: AtomicBool,
    size: AtomicUsize,
    blocks: Lock<Blocks>,
    classes: [Lock<Class>; CLASSES],
    caches: [[Cache; CLASSES]; CACHES],
    left: [Left; CACHES],
}

// SAFETY: caches are used by their owning host thread alone; the rest is locked or atomic.
unsafe impl Sync for Heap {}

/// What of a heap is in use: what /proc/slabinfo tells.
pub(crate) struct Usage {
    /// By class: objects in use, caches' left out, and how many its chunks have room for.
    classes: [(usize, usize); CLASSES],
    /// Bytes in use that are no chunk of a class: larger blocks, and the heap's own header.
    blocks: usize,
    /// Bytes that the heap has taken from its region so far.
    region: usize,
}

impl Usage {
    /// Objects in use, room for objects and their size, class by class.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let rows = self.classes.iter().enumerate();
        rows.map(|(at, &(active, total))| (active, total, class_size(at)))
    }

    /// The same for all that is larger, in units of the buddy allocator.
    pub(crate) fn blocks(&self) -> (usize, usize, usize) {
        (self.blocks.div_ceil(UNIT), self.region >> UNIT_SHIFT, UNIT)
    }
}

/// A host thread's free objects of one class.
#[repr(C)]
struct Cache {
    head: Cell<*mut Free>,
    /// Written by the owner alone; others read it to account for memory ([`Heap::usage`]).
    count: AtomicUsize,
}

impl Cache {
    #[inline(always)]
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn set_count(&self, count: usize) {
        self.count.store(count, Ordering::Relaxed);
    }
}

/// What a cache's owner has moved away from by `realloc`, last.
#[repr(C)]
struct Left {
    at: Cell<*mut u8>,
    size: Cell<usize>,
    /// The owner's word ([`platform::sync`]): what another owner of the cache has left may still be named by what it
    /// was changing when it was killed, and is given up.
    owner: Cell<u32>,
}

/// Keeps stores before it from stores after it, for whoever goes on after a kill. The processor keeps them in order,
/// and a killed thread's stores are all done.
#[inline(always)]
fn in_order() {
    compiler_fence(Ordering::SeqCst);
}

/// The free objects of one class that no cache holds, and the rest of its last chunk.
#[repr(C)]
struct Class {
    head: *mut Free,
    fresh: usize,
    fresh_end: usize,
    /// Bytes of all its chunks.
    chunks: usize,
}
// SAFETY: pointers into the region, reached under the lock.
unsafe impl Send for Class {}

impl Heap {
    /// Sets up the heap of the zeroed region `[base, base + size)`.
    ///
    /// # Safety
    /// The region is mapped, zero, and nobody else's.
    pub(crate) unsafe fn set_up(base: usize, size: usize, shared: bool) -> &'static Heap {
        // All-zero is valid for every part: unlocked locks, null lists, zero counters.
        // SAFETY: the region is ours; the header is its first part.
        let heap = unsafe { &*(base as *const Heap) };
        heap.size.store(size, Ordering::Relaxed);
        let units = size >> UNIT_SHIFT;
        let map = base + size_of::<Heap>().next_multiple_of(4096);
        let first = (map + units).next_multiple_of(UNIT);
        // The header's locks and lists, the map's beginning, and room for the first blocks; the caches of
        // host threads that are not there, and the rest of the map, stay untouched.
        populate(base, core::mem::offset_of!(Heap, caches) + 2 * size_of::<[Cache; CLASSES]>());
        populate(map, 4096);
        populate(first, POPULATE);
        let mut blocks = heap.blocks.lock();
        blocks.map = map as *mut u8;
        blocks.base = base;
        blocks.touched = first + POPULATE;
        blocks.shared = shared;
        blocks.grown = first;
        blocks.end = base + (units << UNIT_SHIFT);
        drop(blocks);
        heap
    }

    /// Takes all locks, in the order in which allocations nest them.
    pub(crate) fn lock_all(&self) {
        self.classes.iter().for_each(|class| core::mem::forget(class.lock()));
        core::mem::forget(self.blocks.lock());
    }

    /// Lets go of them.
    ///
    /// # Safety
    /// After [`Heap::lock_all`], by the same host thread or its copy in a forked process.
    pub(crate) unsafe fn unlock_all(&self) {
        // SAFETY: the caller holds them.
        unsafe {
            self.blocks.unlock();
            self.classes.iter().for_each(|class| class.unlock());
        }
    }

    /// In a forked process: cache `from` was whole when it was copied (its owner forked) and goes to `to`;
    /// others may have been in the middle of a change, and what they hold is given up. `used`: those that the
    /// parent's host threads have had; all others are empty, and a look at them would touch 20 pages.
    pub(crate) fn keep_cache(&self, from: u32, to: u32, used: impl Iterator<Item = u32>) {
        let kept = self.caches.get(from as usize).map(|all| {
            core::array::from_fn::<_, CLASSES, _>(|class| (all[class].head.get(), all[class].count()))
        });
        for cache in used.filter_map(|number| self.caches.get(number as usize)).flatten() {
            // Only what was used: a store would copy an untouched page.
            if !cache.head.get().is_null() {
                cache.head.set(ptr::null_mut());
                cache.set_count(0);
            }
        }
        if let (Some(kept), Some(own)) = (kept, self.caches.get(to as usize)) {
            for (cache, (head, count)) in own.iter().zip(kept) {
                cache.head.set(head);
                cache.set_count(count);
            }
        }
    }

    /// Whether an allocation has failed.
    pub(crate) fn exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// The region's size.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// What is in use now, for [`Usage`]. Exact while no other host thread allocates; of a host thread that was killed
    /// in the middle of a change an object may be counted wrongly.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage { classes: [(0, 0); CLASSES], blocks: 0, region: 0 };
        let mut chunks = 0;
        for (at, class) in self.classes.iter().enumerate() {
            let class = class.lock();
            let mut free = (class.fresh_end - class.fresh) / class_size(at);
            let mut object = class.head;
            while !object.is_null() {
                free += 1;
                // SAFETY: listed objects are free, and the lock is held.
                object = unsafe { (*object).next };
            }
            chunks += class.chunks;
            let total = class.chunks / class_size(at);
            usage.classes[at] = (total.saturating_sub(free), total);
        }
        for (at, counts) in usage.classes.iter_mut().enumerate() {
            let cached: usize = self.caches.iter().map(|all| all[at].count()).sum();
            counts.0 = counts.0.saturating_sub(cached);
        }
        let blocks = self.blocks.lock();
        usage.region = blocks.grown - blocks.base;
        let unused = blocks.free() + (blocks.page_end - blocks.page);
        usage.blocks = usage.region.saturating_sub(unused + chunks);
        usage
    }

    /// Allocates; null when the region is used up. `cache`: the caller's, pinned while this runs.
    #[inline]
    pub(crate) fn allocate(&self, layout: Layout, cache: u32) -> *mut u8 {
        let size = rounded(layout);
        if size > LARGEST_OBJECT {
            return self.allocate_block(size);
        }
        let class = class_of(size);
        if let Some(caches) = self.caches.get(cache as usize) {
            let cache = &caches[class];
            let head = cache.head.get();
            if !head.is_null() {
                // SAFETY: a cached object is free and ours.
                cache.head.set(unsafe { (*head).next });
                // An owner that was killed may have counted one too few.
                cache.set_count(cache.count().saturating_sub(1));
                return head.cast();
            }
        }
        self.allocate_slow(class, cache)
    }

    /// Gives back what [`Heap::allocate`] gave for the same layout.
    ///
    /// # Safety
    /// As `GlobalAlloc::dealloc`.
    #[inline]
    pub(crate) unsafe fn release(&self, at: *mut u8, layout: Layout, cache: u32) {
        let size = rounded(layout);
        if size > LARGEST_OBJECT {
            return self.release_block(at as usize, size);
        }
        let class = class_of(size);
        let object = at.cast::<Free>();
        let Some(caches) = self.caches.get(cache as usize) else {
            let mut shared = self.classes[class].lock();
            // SAFETY: the object is the caller's to give; objects are 16 bytes at least.
            unsafe { (*object).next = shared.head };
            in_order();
            shared.head = object;
            return;
        };
        let cache = &caches[class];
        // SAFETY: as above.
        unsafe { (*object).next = cache.head.get() };
        in_order();
        cache.head.set(object);
        cache.set_count(cache.count() + 1);
        if cache.count() > cache_limit(class) {
            self.spill(class, cache);
        }
    }

    /// Gives back what `realloc` has moved away from, at the caller's next call of this: until then whoever has it
    /// moved may name it, and may be killed before it names the new place. `owner`: the caller's word.
    ///
    /// # Safety
    /// As [`Heap::release`].
    pub(crate) unsafe fn release_later(&self, at: *mut u8, layout: Layout, cache: u32, owner: u32) {
        let Some(left) = self.left.get(cache as usize) else {
            // SAFETY: the caller's promise.
            return unsafe { self.release(at, layout, cache) };
        };
        self.release_left(cache, owner, cache);
        // Another owner's is given up.
        left.at.set(ptr::null_mut());
        in_order();
        left.size.set(rounded(layout));
        left.owner.set(owner);
        in_order();
        left.at.set(at);
    }

    /// Gives back what the owner of a cache has left by `realloc`, and names no more. `own`: the caller's cache.
    pub(crate) fn release_left(&self, cache: u32, owner: u32, own: u32) {
        let Some(left) = self.left.get(cache as usize).filter(|left| left.owner.get() == owner) else {
            return;
        };
        let (at, size) = (left.at.replace(ptr::null_mut()), left.size.get());
        in_order();
        if !at.is_null() {
            // SAFETY: left by this owner, with the size that is rounded already; by now it is named nowhere.
            unsafe { self.release(at, Layout::from_size_align_unchecked(size, 1), own) };
        }
    }

    /// Whether a block of layout `old` can hold `new_size` bytes as it is.
    pub(crate) fn fits_in_place(old: Layout, new_size: usize) -> bool {
        match Layout::from_size_align(new_size, old.align()) {
            Ok(new) => allocated(rounded(old)) == allocated(rounded(new)),
            Err(_) => false,
        }
    }

    /// Fills the cache with a batch from the class's list or its chunk.
    #[cold]
    fn allocate_slow(&self, class: usize, cache: u32) -> *mut u8 {
        let size = class_size(class);
        let mut shared = self.classes[class].lock();
        let first = match shared.take(size) {
            Some(object) => object,
            None => {
                // A class begins with one page: most never need more, and each process of a guest has a
                // private heap of its own, whose pages cost at every exec and fork.
                let small = shared.fresh_end == 0 && size <= FIRST_CHUNK / 2;
                let chunk = if small { FIRST_CHUNK } else { UNIT.max(size * 8).next_power_of_two() };
                let at = match small {
                    true => self.blocks.lock().allocate_page(),
                    false => self.blocks.lock().allocate(order_of(chunk)),
                };
                let Some(at) = at else {
                    self.exhausted.store(true, Ordering::Relaxed);
                    return ptr::null_mut();
                };
                // Nothing is left for whoever goes on in the middle.
                shared.fresh_end = 0;
                in_order();
                shared.fresh = at;
                in_order();
                shared.fresh_end = at + chunk;
                shared.chunks += chunk;
                shared.take(size).expect("a fresh chunk")
            }
        };
        if let Some(caches) = self.caches.get(cache as usize) {
            let cache = &caches[class];
            // The cache is empty: that is why we are here. Half a cache, so that a release soon
            // after does not spill. Owners that were killed may have left a wrong count.
            cache.set_count(0);
            for _ in 1..cache_limit(class) / 2 {
                let Some(object) = shared.take(size) else { break };
                // SAFETY: a free object, ours now.
                unsafe { (*object).next = cache.head.get() };
                in_order();
                cache.head.set(object);
                cache.set_count(cache.count() + 1);
            }
        }
        first.cast()
    }

    /// Moves half of a full cache to the class's list.
    #[cold]
    fn spill(&self, class: usize, cache: &Cache) {
        let count = cache.count() / 2;
        let first = cache.head.get();
        let mut last = first;
        // SAFETY: the cache holds objects, linked; their number may be wrong if an owner was killed.
        let rest = unsafe {
            for _ in 1..count {
                let next = (*last).next;
                if next.is_null() {
                    break;
                }
                last = next;
            }
            (*last).next
        };
        cache.head.set(rest);
        cache.set_count(cache.count() - count);
        in_order();
        let mut shared = self.classes[class].lock();
        // SAFETY: as above.
        unsafe { (*last).next = shared.head };
        in_order();
        shared.head = first;
    }

    fn allocate_block(&self, size: usize) -> *mut u8 {
        let order = order_of(size);
        let got = if order < ORDERS { self.blocks.lock().allocate(order) } else { None };
        match got {
            Some(at) => at as *mut u8,
            None => {
                self.exhausted.store(true, Ordering::Relaxed);
                ptr::null_mut()
            }
        }
    }

    fn release_block(&self, at: usize, size: usize) {
        let order = order_of(size);
        let shared = self.blocks.lock().shared;
        if UNIT << order >= GIVE_BACK {
            give_back(at, UNIT << order, shared);
        }
        self.blocks.lock().release(at, order);
    }
}

impl Class {
    fn take(&mut self, size: usize) -> Option<*mut Free> {
        if !self.head.is_null() {
            let object = self.head;
            // SAFETY: listed objects are free.
            self.head = unsafe { (*object).next };
            return Some(object);
        }
        if self.fresh + size > self.fresh_end {
            return None;
        }
        let object = self.fresh as *mut Free;
        self.fresh += size;
        Some(object)
    }
}

/// Free blocks by order. A block of order n has 64 KiB << n and lies at a multiple of that, counted
/// from address 0 (regions begin at far larger powers of two).
#[repr(C)]
struct Blocks {
    lists: [*mut Free; ORDERS],
    /// For each unit: 0, or 1 + order if a free block begins there.
    map: *mut u8,
    base: usize,
    /// Memory from here to `end` is not in the lists yet: links in free blocks would touch it.
    grown: usize,
    end: usize,
    /// Memory from here on was never touched.
    touched: usize,
    /// The rest of the unit that first chunks come from.
    page: usize,
    page_end: usize,
    shared: bool,
}
// SAFETY: pointers into the region, reached under the lock.
unsafe impl Send for Blocks {}

impl Blocks {
    /// Bytes in the lists.
    fn free(&self) -> usize {
        let mut sum = 0;
        for (order, &head) in self.lists.iter().enumerate() {
            let mut at = head;
            while !at.is_null() {
                sum += UNIT << order;
                // SAFETY: a listed block is free, and the lock is held.
                at = unsafe { (*at).next };
            }
        }
        sum
    }

    /// Adds a range as the largest aligned blocks that fit, lower ones to be used first.
    fn add_range(&mut self, start: usize, end: usize) {
        let mut at = end;
        while at > start {
            let fit = (at - start).ilog2().min(at.trailing_zeros()) - UNIT_SHIFT;
            let order = (fit as usize).min(ORDERS - 1);
            at -= UNIT << order;
            self.insert(at, order);
        }
    }

    fn allocate(&mut self, order: usize) -> Option<usize> {
        let free = |blocks: &Blocks| (order..ORDERS).find(|&o| !blocks.lists[o].is_null());
        let mut from = match free(self) {
            Some(from) => from,
            None => self.grow(order).and_then(|()| free(self))?,
        };
        let at = self.lists[from] as usize;
        self.remove(at, from);
        // Gives the upper halves back: addresses grow upwards, close together.
        while from > order {
            from -= 1;
            self.insert(at + (UNIT << from), from);
        }
        self.touch(at, UNIT << order);
        Some(at)
    }

    /// A page for a class's first chunk; pages are never given back, as chunks are not.
    fn allocate_page(&mut self) -> Option<usize> {
        if self.page + FIRST_CHUNK > self.page_end {
            let fresh = self.allocate(0)?;
            self.page_end = 0;
            in_order();
            self.page = fresh;
            in_order();
            self.page_end = fresh + UNIT;
        }
        self.page += FIRST_CHUNK;
        Some(self.page - FIRST_CHUNK)
    }

    /// Takes in enough of the untouched rest for a block of this order.
    fn grow(&mut self, order: usize) -> Option<()> {
        let size = UNIT << order;
        let needed = self.grown.next_multiple_of(size) + size;
        if needed > self.end {
            return None;
        }
        let until = needed.next_multiple_of(GROW).min(self.end);
        let from = core::mem::replace(&mut self.grown, until);
        self.add_range(from, until);
        Some(())
    }

    fn release(&mut self, mut at: usize, mut order: usize) {
        while order + 1 < ORDERS {
            let buddy = at ^ (UNIT << order);
            if !self.is_free(buddy, order) {
                break;
            }
            self.remove(buddy, order);
            at = at.min(buddy);
            order += 1;
        }
        self.insert(at, order);
    }

    fn is_free(&self, at: usize, order: usize) -> bool {
        // SAFETY: inside the region the map has an entry.
        (self.base..self.grown).contains(&at) && unsafe { *self.entry(at) } == 1 + order as u8
    }

    fn entry(&self, at: usize) -> *mut u8 {
        self.map.wrapping_add((at - self.base) >> UNIT_SHIFT)
    }

    fn insert(&mut self, at: usize, order: usize) {
        let block = at as *mut Free;
        let head = self.lists[order];
        // SAFETY: a free block, ours; its links lie in its first page. The map has its entry.
        unsafe {
            block.write(Free { next: head, previous: ptr::null_mut() });
            in_order();
            self.lists[order] = block;
            in_order();
            if !head.is_null() {
                (*head).previous = block;
            }
            in_order();
            *self.entry(at) = 1 + order as u8;
        }
    }

    fn remove(&mut self, at: usize, order: usize) {
        let block = at as *mut Free;
        // SAFETY: the block is in this list: its links are valid.
        unsafe {
            let Free { next, previous } = block.read();
            *self.entry(at) = 0;
            in_order();
            if !next.is_null() {
                (*next).previous = previous;
            }
            in_order();
            match previous.is_null() {
                true => self.lists[order] = next,
                false => (*previous).next = next,
            }
        }
    }

    /// Populates what a new block has of untouched memory, if it is not large: who takes a large
    /// block may never use all of it.
    fn touch(&mut self, at: usize, len: usize) {
        let end = at + len;
        if end <= self.touched || len > GIVE_BACK {
            return;
        }
        let end = end.next_multiple_of(POPULATE);
        let start = at.max(self.touched);
        populate(start, end - start);
        self.touched = end;
    }
}

fn populate(at: usize, len: usize) {
    const MADV_POPULATE_WRITE: usize = 23;
    // SAFETY: it changes no contents. Older kernels (before 5.14) refuse it: pages then come one by
    // one; beyond the region's end it stops by itself.
    let _ = unsafe { host!(madvise, at & !4095, len.next_multiple_of(4096), MADV_POPULATE_WRITE) };
}

fn give_back(at: usize, len: usize, shared: bool) {
    const MADV_DONTNEED: usize = 4;
    const MADV_REMOVE: usize = 9;
    let advice = if shared { MADV_REMOVE } else { MADV_DONTNEED };
    // SAFETY: the block is free; what it holds is dead.
    let _ = unsafe { host!(madvise, at, len, advice) };
}

/// Bytes to find a class for: sizes with an alignment above 16 become powers of two, whose objects
/// lie at multiples of their size.
#[inline(always)]
fn rounded(layout: Layout) -> usize {
    match layout.align() > 16 {
        true => layout.size().max(layout.align()).next_power_of_two(),
        false => layout.size().max(1),
    }
}

/// Bytes that an allocation of `size` really has.
fn allocated(size: usize) -> usize {
    if size > LARGEST_OBJECT { UNIT << order_of(size) } else { class_size(class_of(size)) }
}

/// Classes: 16, 32, ... 128, then four for each doubling.
#[inline(always)]
fn class_of(size: usize) -> usize {
    if size <= 128 {
        return (size - 1) / 16;
    }
    let power = (size - 1).ilog2();
    8 + (power as usize - 7) * 4 + ((size - 1 - (1 << power)) >> (power - 2))
}

const fn class_size(class: usize) -> usize {
    if class < 8 {
        return (class + 1) * 16;
    }
    let power = 7 + (class - 8) / 4;
    (1 << power) + ((class - 8) % 4 + 1) * (1 << (power - 2))
}

/// Objects that a cache holds at most: some 32 KiB of them.
#[inline(always)]
fn cache_limit(class: usize) -> usize {
    const LIMITS: [u8; CLASSES] = {
        let mut limits = [0; CLASSES];
        let mut class = 0;
        while class < CLASSES {
            let count = 32 * 1024 / class_size(class);
            limits[class] = if count < 4 {
                4
            } else if count > 128 {
                128
            } else {
                count as u8
            };
            class += 1;
        }
        limits
    };
    usize::from(LIMITS[class])
}

fn order_of(size: usize) -> usize {
    size.next_power_of_two().ilog2().saturating_sub(UNIT_SHIFT) as usize
}
