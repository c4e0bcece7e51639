//! The allocator itself, as Rust functions: what the exported names run, and what this crate uses
//! for memory that no C code frees.

use super::{cache, class, huge, pages, report};
use crate::errno;
use crate::types::c_void;
use core::ptr::null_mut;
use platform::Errno;

/// Largest block of the page heap; longer ones are mappings.
const MAX_LARGE: usize = 32 << 20;
/// From here on a block that realloc moves becomes a mapping: the next growth then moves page tables and
/// not bytes. Below, a copy is cheaper than the page faults of fresh memory.
const REMAP: usize = 1 << 20;

/// From here on a block that realloc moves to grow gets pages of its own, which can become more where they are.
const GROW: usize = class::PAGE;

/// malloc(3).
#[inline]
pub fn malloc(size: usize) -> *mut c_void {
    let block = cache::pop_fine(size);
    if block.is_null() { malloc_slow(size) } else { block.cast() }
}

#[inline(never)]
fn malloc_slow(size: usize) -> *mut c_void {
    if size <= class::MAX_SMALL {
        let block = cache::pop(class::of(size));
        if block.is_null() {
            errno::set(Errno::ENOMEM);
        }
        return block.cast();
    }
    allocate_large(size, 1).0
}

/// calloc(3).
pub fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else { return out_of_memory() };
    let (block, zero) =
        if bytes <= class::MAX_SMALL { (malloc(bytes), false) } else { allocate_large(bytes, 1) };
    if !block.is_null() && !zero {
        // SAFETY: a fresh block of at least that size.
        unsafe { block.cast::<u8>().write_bytes(0, bytes) };
    }
    block
}

/// free(3). Keeps `errno`.
///
/// # Safety
/// `block` is null or a live block of this allocator, given up by the caller. Other pointers end the
/// program if they are seen to be none.
#[inline]
pub unsafe fn free(block: *mut c_void) {
    let address = block as usize;
    let word = pages::lookup(address);
    if let Some(class) = pages::class_in(word)
        && address & 15 == 0
    {
        // SAFETY: the page map says that this is a block of that class.
        unsafe { cache::push(class, block.cast()) };
    } else if address != 0 {
        let span = pages::span_in(word);
        // SAFETY: a large block in use, which the caller gives up.
        if !pages::is_block(span, address) || !unsafe { cache::push_span(span) } {
            free_slow(address, word);
        }
    }
}

#[cold]
#[inline(never)]
fn free_slow(address: usize, word: u64) {
    let errno = errno::get();
    if !pages::release_large(pages::span_in(word), address) && !huge::release(address) {
        report::invalid_free();
    }
    errno::set(errno);
}

/// realloc(3).
///
/// # Safety
/// As [`free`] for `old`.
pub unsafe fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    if old.is_null() {
        return malloc(size);
    }
    // SAFETY: the caller's block.
    if let Some(block) = unsafe { realloc_small(old, size) } {
        return block;
    }
    if size == 0 {
        // SAFETY: forwarded. glibc frees and answers null.
        unsafe { free(old) };
        return null_mut();
    }
    let Some(have) = usable(old as usize) else { report::invalid_realloc() };
    if fits_in_place(old as usize, have, size) {
        return old;
    }
    if size > class::MAX_SMALL && have > class::MAX_SMALL && huge::size_of(old as usize).is_some() {
        let moved = huge::resize(old as usize, size);
        return if moved.is_null() { out_of_memory() } else { moved.cast() };
    }
    let new = match size {
        REMAP.. if size > have => huge::allocate(size, 1).cast(),
        GROW..REMAP if size > have => allocate_to_grow(size),
        _ => malloc(size),
    };
    if !new.is_null() {
        // SAFETY: two live blocks; the shorter length is copied.
        unsafe {
            core::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast::<u8>(), have.min(size));
            free(old);
        }
    }
    new
}

/// Small blocks that stay where they are or get a little larger: one look at the page map, nobody else asked.
///
/// # Safety
/// As [`free`] for `old`, if the answer is a block.
#[inline(always)]
unsafe fn realloc_small(old: *mut c_void, size: usize) -> Option<*mut c_void> {
    let class = pages::class_in(pages::lookup(old as usize)).filter(|_| old as usize & 15 == 0)?;
    let have = class::size(class);
    if size <= have {
        return (size > 0 && stays(have, size)).then_some(old);
    }
    let new = cache::pop_fine(size);
    if new.is_null() {
        return None;
    }
    // SAFETY: two live blocks, of which the new one is longer; the page map says of which class the old one is.
    unsafe {
        core::ptr::copy_nonoverlapping(old.cast::<u8>(), new, have);
        cache::push(class, old.cast());
    }
    Some(new.cast())
}

/// Whether a small block that becomes shorter keeps its place: not half empty.
fn stays(have: usize, size: usize) -> bool {
    size > have / 2 || have <= 64
}

/// A large block that is likely to grow.
fn allocate_to_grow(size: usize) -> *mut c_void {
    let kept = cache::pop_grown(size.div_ceil(class::PAGE));
    if !kept.is_null() {
        // SAFETY: the span is ours.
        return unsafe { (*kept).start } as *mut c_void;
    }
    match pages::allocate_large(size, 1) {
        // SAFETY: the span is fresh.
        Some((span, _)) => unsafe {
            (*span).asked(size.div_ceil(class::PAGE), true);
            (*span).start as *mut c_void
        },
        None => malloc(size),
    }
}

/// Whether the block may stay where it is: its class is right (or, shrinking, not half empty), or its
/// span could be made longer or shorter.
fn fits_in_place(old: usize, have: usize, size: usize) -> bool {
    let word = pages::lookup(old);
    if pages::class_in(word).is_some() {
        return size <= have && stays(have, size);
    }
    let span = pages::span_in(word);
    if span.is_null() || size > MAX_LARGE {
        return false;
    }
    // SAFETY: `usable` found it to be a large block in use.
    unsafe {
        let becomes_small = size <= class::MAX_SMALL && size.div_ceil(class::PAGE) < (*span).pages_asked();
        !becomes_small && pages::resize(span, size)
    }
}

/// memalign(3); `align` is a power of two.
pub fn memalign(align: usize, size: usize) -> *mut c_void {
    debug_assert!(align.is_power_of_two());
    if align <= 16 {
        return malloc(size);
    }
    // Spans start at a heap page, so every block of a class that is a multiple of `align` is aligned.
    if align <= class::PAGE && size <= class::MAX_SMALL {
        let mut class = class::of(size.max(align));
        while class < class::COUNT && !class::size(class).is_multiple_of(align) {
            class += 1;
        }
        if class < class::COUNT {
            let block = cache::pop(class);
            return if block.is_null() { out_of_memory() } else { block.cast() };
        }
    }
    allocate_large(size, align).0
}

/// malloc_usable_size(3) of a live block; `None` if it is none.
pub fn usable(address: usize) -> Option<usize> {
    let word = pages::lookup(address);
    if let Some(class) = pages::class_in(word) {
        return (address & 15 == 0).then(|| class::size(class));
    }
    let span = pages::span_in(word);
    // SAFETY: descriptors are never unmapped.
    unsafe {
        if pages::is_block(span, address) {
            return Some((*span).bytes());
        }
    }
    huge::size_of(address)
}

fn allocate_large(size: usize, align: usize) -> (*mut c_void, bool) {
    if align <= class::PAGE {
        let kept = cache::pop_span(size.div_ceil(class::PAGE));
        if !kept.is_null() {
            // SAFETY: the span is ours.
            return (unsafe { (*kept).start } as *mut c_void, false);
        }
    }
    let heap = size <= MAX_LARGE && align <= MAX_LARGE;
    let span = if heap { pages::allocate_large(size, align) } else { None };
    // SAFETY: the span is fresh.
    let found = span.map(|(span, zero)| (unsafe { (*span).start }, zero));
    match found {
        Some((start, zero)) => (start as *mut c_void, zero),
        None => {
            let block = if size > isize::MAX as usize { null_mut() } else { huge::allocate(size, align) };
            (if block.is_null() { out_of_memory() } else { block.cast() }, true)
        }
    }
}

#[cold]
fn out_of_memory() -> *mut c_void {
    errno::set(Errno::ENOMEM);
    null_mut()
}
