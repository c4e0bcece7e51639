//! The global allocator: the shared arena for what is allocated inside the kernel, the runtime's
//! private heap for all else. Release goes by address.
//!
//! Kernel state must mean the same in every process of a guest, process state must be copied by
//! `fork`: the same `Box::new` does either, by where it runs (see `sched::in_kernel`).

use crate::memory::{Heap, LARGEST_REGION};
use crate::message::die;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicBool, Ordering};
use platform::host;
use platform::layout::{ARENA_BASE, PRIVATE_BASE, in_arena};
use platform::mem::{Prot, map_private, map_shared};

/// Address space of the private heap; only what is touched counts.
const PRIVATE_SIZE: usize = 16 << 30;
const SMALLEST_ARENA: usize = 8 << 20;

struct Domains;

#[global_allocator]
static ALLOCATOR: Domains = Domains;

/// The arena is there: a process constant.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Maps both regions. Once, before the first allocation.
pub(crate) fn start(memory: usize) {
    let size = memory.clamp(SMALLEST_ARENA, LARGEST_REGION) & !0xffff;
    if memory > LARGEST_REGION {
        die(format_args!("--memory: at most {} GiB of kernel memory", LARGEST_REGION >> 30));
    }
    if let Err(error) = map(size) {
        die(format_args!("the guest's memory ({} MiB) cannot be mapped: {error}", size >> 20));
    }
    STARTED.store(true, Ordering::Relaxed);
}

fn map(size: usize) -> platform::errno::Result<()> {
    const MFD_CLOEXEC: usize = 1;
    let rights = Prot::READ | Prot::WRITE;
    // SAFETY: fresh memory at addresses that belong to the runtime; the memfd stays mapped when its
    // descriptor is closed.
    unsafe {
        let fd = host!(memfd_create, c"attacca-arena".as_ptr(), MFD_CLOEXEC)? as i32;
        host!(ftruncate, fd, size)?;
        map_shared(ARENA_BASE, size, rights, fd, 0)?;
        host!(close, fd)?;
        map_private(PRIVATE_BASE, PRIVATE_SIZE, rights)?;
        Heap::set_up(ARENA_BASE, size, true);
        Heap::set_up(PRIVATE_BASE, PRIVATE_SIZE, false);
    }
    Ok(())
}

fn arena() -> &'static Heap {
    // SAFETY: set up by `start`, which runs before any allocation.
    unsafe { &*(ARENA_BASE as *const Heap) }
}

fn private() -> &'static Heap {
    // SAFETY: as above.
    unsafe { &*(PRIVATE_BASE as *const Heap) }
}

/// Whether the arena has refused an allocation.
pub(crate) fn exhausted() -> bool {
    STARTED.load(Ordering::Relaxed) && arena().exhausted()
}

/// The private heap is empty again: another program begins (execve). Nothing in it is used any more.
#[cfg(feature = "program")]
pub(crate) fn begin_anew() {
    const MADV_DONTNEED: usize = 4;
    // SAFETY: the caller's promise; the pages read as zero afterwards, as fresh ones.
    unsafe {
        let _ = host!(madvise, PRIVATE_BASE, PRIVATE_SIZE, MADV_DONTNEED);
        Heap::set_up(PRIVATE_BASE, PRIVATE_SIZE, false);
    }
}

/// The host process is about to be copied: the private heap must be whole.
pub(crate) fn before_fork() {
    private().lock_all();
}

/// A host thread of this process ends in order: the cache of that number was its.
pub(crate) fn ending(cache: u32, owner: u32) {
    arena().release_left(cache, owner, sched::vcpu::cache_index());
}

/// It was copied. `Some` in the child: which caches the parent used.
pub(crate) fn after_fork(child_of: Option<&sched::fork::Caches<'_>>) {
    // SAFETY: locked by `before_fork`; the child's copy of the locks is its own.
    unsafe { private().unlock_all() };
    if let Some(caches) = child_of {
        private().keep_cache(caches.parents, sched::vcpu::cache_index(), caches.all.numbers());
    }
}

/// What of the arena is in use, by size: kernel memory, for /proc/slabinfo.
#[cfg(feature = "program")]
pub(crate) fn slabs() -> alloc::vec::Vec<fs::procfs::Slab> {
    let usage = arena().usage();
    let class = |(active, total, size)| fs::procfs::Slab { active, total, size };
    usage.classes().chain([usage.blocks()]).map(class).collect()
}

/// The arena's size in bytes.
pub(crate) fn arena_size() -> usize {
    arena().size()
}

/// Runs `f` with the caller's cache number, pinned to its vCPU: a preempted thread must not hold a
/// heap's lock, nor find its cache in another's hands.
#[inline]
fn pinned<R>(f: impl FnOnce(u32) -> R) -> R {
    sched::enter();
    let value = f(sched::vcpu::cache_index());
    sched::leave();
    value
}

// SAFETY: blocks are aligned (size classes of 16, powers of two above), apart, and stay until released.
unsafe impl GlobalAlloc for Domains {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match sched::in_kernel() {
            true => arena().allocate(layout, sched::vcpu::cache_index()),
            false => pinned(|cache| private().allocate(layout, cache)),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let heap = if in_arena(at as usize) { arena() } else { private() };
        // SAFETY: the caller's block, of this heap.
        pinned(|cache| unsafe { heap.release(at, layout, cache) })
    }

    #[inline]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if Heap::fits_in_place(layout, new_size) {
            return at;
        }
        // SAFETY: the caller's layout and size (GlobalAlloc::realloc); the block stays in its domain.
        unsafe {
            let new = Layout::from_size_align_unchecked(new_size, layout.align());
            let heap = if in_arena(at as usize) { arena() } else { private() };
            let to = pinned(|cache| heap.allocate(new, cache));
            if !to.is_null() {
                core::ptr::copy_nonoverlapping(at, to, layout.size().min(new_size));
                match in_arena(at as usize) {
                    true => pinned(|cache| heap.release_later(at, layout, cache, sched::owner())),
                    false => self.dealloc(at, layout),
                }
            }
            to
        }
    }
}
