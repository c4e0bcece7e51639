//! Where threads live: one mapping with guard, headroom, stack and static TLS with the TCB.
//!
//! Headroom: system calls of a guest run on the caller's own stack, so below what the program asked
//! for lies room for the runtime's frames. A program cannot see it: the bounds it is told leave it out.
//!
//! Stacks of ended threads are kept for new ones (up to 40 MiB, as glibc), since a fresh stack costs
//! page faults. A thread puts its own stack on the list while it still runs on it; it may be used again
//! only when the personality has zeroed the thread id in its TCB, which it does last, on a stack of
//! its own.

use crate::futex::{self, Clock, Deadline, Lock, Scope};
use crate::kcall;
use crate::thread::Tcb;
use crate::tls;
use alloc::vec::Vec;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};
use platform::Errno;
use platform::time::{Timespec, now};

/// A thread's memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    /// The mapping; 0 for the main thread.
    map: usize,
    map_len: usize,
    /// What the program is told: lowest address, bytes, guard below.
    pub(crate) low: usize,
    pub(crate) size: usize,
    pub(crate) guard: usize,
    /// The stack is the program's own (pthread_attr_setstack); the mapping holds only TLS and TCB.
    pub(crate) foreign: bool,
}

impl Stack {
    /// First address above the stack.
    pub(crate) fn top(&self) -> usize {
        self.low + self.size
    }
}

/// Bytes below a thread's stack for the runtime's frames.
pub const HEADROOM: usize = 64 << 10;
/// A stack that the program brings (pthread_attr_setstack) must hold the runtime's frames as well; this is what
/// `sysconf(_SC_THREAD_STACK_MIN)` tells. Smaller ones (older programs have PTHREAD_STACK_MIN compiled in, as
/// 16 KiB) are not used: a signal's frames would run over into what lies below.
pub(crate) const FOREIGN_MIN: usize = HEADROOM + (16 << 10);
const PAGE: usize = 4096;
const CACHE_LIMIT: usize = 40 << 20;
/// Of a cached stack, this much stays resident.
const KEEP: usize = 128 << 10;

struct Cache {
    /// TCBs of ended threads (some may still be ending), linked by `pthread.next`.
    first: *mut Tcb,
    bytes: usize,
}
// SAFETY: reached under the lock.
unsafe impl Send for Cache {}
static CACHE: Lock<Cache> = Lock::new(Cache { first: null_mut(), bytes: 0 });

const PROT_NONE: usize = 0;
const READ_WRITE: usize = 3;
const STACK_FLAGS: usize = 0x2_0022; // MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK
const MADV_DONTNEED: usize = 4;

/// Memory for a thread with `size` bytes of stack and a guard, its TCB installed.
pub(crate) fn allocate(size: usize, guard: usize) -> Result<*mut Tcb, Errno> {
    let (block, align) = tls::block_layout();
    let guard = guard.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
    let size = size.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
    let above = block + align;
    let len = [guard, HEADROOM, size, above].iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
    let len = len.and_then(|len| len.checked_next_multiple_of(PAGE)).ok_or(Errno::EINVAL)?;
    if let Some(tcb) = reuse(len, guard, block, align) {
        return Ok(tcb);
    }
    // SAFETY: fresh memory of our own.
    unsafe {
        let map = kcall!(mmap, 0, len, READ_WRITE, STACK_FLAGS, -1isize, 0).map_err(|_| Errno::EAGAIN)?;
        if guard > 0 && kcall!(mprotect, map, guard, PROT_NONE).is_err() {
            let _ = kcall!(munmap, map, len);
            return Err(Errno::EAGAIN);
        }
        Ok(place(map, len, guard, block, align))
    }
}

/// Stacks of the program's own that threads run on, for [`wait_for_leaving`].
static FOREIGN: Lock<Foreign> = Lock::new(Foreign(Vec::new()));
struct Foreign(Vec<(usize, usize, *mut Tcb)>);
// SAFETY: the TCBs are reached under the lock, and taken off the list before their memory is used again.
unsafe impl Send for Foreign {}

/// How long a thread is waited for that should have left a stack.
const LEAVING_NS: u64 = 500_000_000;

/// A program cannot see when a detached thread has left its stack; many take its last word for it and give the
/// stack to the next thread. A thread has more to do here after that word than in glibc, so whoever is still on
/// the stack is waited for; not for ever, since the program may mean two threads to share it.
fn wait_for_leaving(low: usize, size: usize) {
    let until = Deadline { clock: Clock::Monotonic, at: Timespec::from_ns(now().after(LEAVING_NS).0) };
    loop {
        let mut list = FOREIGN.lock();
        // SAFETY: TCBs on the list are mapped.
        list.0.retain(|&(.., tcb)| unsafe { (*tcb).tid_word() }.load(Ordering::Acquire) != 0);
        let on_it = list.0.iter().find(|&&(other, len, _)| other < low + size && low < other + len);
        let Some(&(.., tcb)) = on_it else { return };
        // SAFETY: as above. Once the thread is gone the word may be unmapped, which the wait reports.
        let word = unsafe { &*(*tcb).tid_word().as_ptr().cast::<AtomicU32>() };
        let seen = word.load(Ordering::Acquire);
        drop(list);
        // The personality wakes with a shared FUTEX_WAKE, as Linux does.
        if seen != 0 && futex::wait(word, seen, Scope::Shared, Some(until)) == Err(Errno::ETIMEDOUT) {
            return;
        }
    }
}

/// The memory of a gone thread's TCB is used anew.
fn forget_foreign(tcb: *mut Tcb) {
    FOREIGN.lock().0.retain(|&(.., other)| other != tcb);
}

/// TLS and TCB alone, for a stack that the program brings.
pub(crate) fn adopt(low: usize, size: usize) -> Result<*mut Tcb, Errno> {
    wait_for_leaving(low, size);
    let (block, align) = tls::block_layout();
    let len = (block + align).next_multiple_of(PAGE);
    let kept = take_kept(|stack| stack.foreign && stack.map_len == len);
    // SAFETY: fresh memory of our own.
    unsafe {
        let map = match kept {
            Some(map) => {
                (map as *mut u8).write_bytes(0, len);
                map
            }
            None => kcall!(mmap, 0, len, READ_WRITE, STACK_FLAGS, -1isize, 0).map_err(|_| Errno::EAGAIN)?,
        };
        let tcb = tls::install(((map + len - block) & !(align - 1)) as *mut u8);
        (*tcb).pthread.stack = Stack { map, map_len: len, low, size, guard: 0, foreign: true };
        // Until it has its real id, it is on its stack already.
        (*tcb).tid_word().store(u32::MAX >> 2, Ordering::Release);
        FOREIGN.lock().0.push((low, size, tcb));
        Ok(tcb)
    }
}

/// Installs a TCB at the top of a mapping.
unsafe fn place(map: usize, len: usize, guard: usize, block: usize, align: usize) -> *mut Tcb {
    let start = (map + len - block) & !(align - 1);
    let low = map + guard + HEADROOM;
    // SAFETY: the caller's mapping, with room for the block at its end.
    unsafe {
        let tcb = tls::install(start as *mut u8);
        let size = (start & !(PAGE - 1)) - low;
        (*tcb).pthread.stack = Stack { map, map_len: len, low, size, guard, foreign: false };
        tcb
    }
}

/// Gives a thread's memory up; it may still run on it, for as long as its TCB's id is not zero.
///
/// # Safety
/// Nobody uses the TCB any more but the ending thread itself.
pub(crate) unsafe fn retire(tcb: *mut Tcb) {
    let mut cache = CACHE.lock();
    // SAFETY: the caller's TCB.
    unsafe {
        (*tcb).pthread.next = cache.first;
        cache.first = tcb;
        cache.bytes += (*tcb).pthread.stack.map_len;
    }
    cache.shrink();
}

/// Drops the pages of the calling thread's stack that lie well below what a new thread will use.
pub(crate) fn drop_pages(stack: &Stack, here: usize) {
    let end = here.saturating_sub(KEEP) & !(PAGE - 1);
    if !stack.foreign && stack.map != 0 && end > stack.low {
        let start = stack.low - HEADROOM;
        // SAFETY: below the stack pointer of a thread that is about to end.
        let _ = unsafe { kcall!(madvise, start, end - start, MADV_DONTNEED) };
    }
}

/// In a forked child: the other threads' memory stays theirs (it may hold data that is still used).
pub(crate) fn forked() {
    // SAFETY: one thread, no one holds the lock.
    unsafe { CACHE.raw().reset() };
    // SAFETY: as above.
    unsafe { FOREIGN.raw().reset() };
    // Threads of the parent: their ids will never be cleared here.
    // (Forgotten, not freed: the list may have been under change.)
    core::mem::forget(core::mem::take(&mut FOREIGN.lock().0));
}

pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    CACHE.raw()
}

/// A kept stack of the same mapping size and guard whose thread is gone.
fn reuse(len: usize, guard: usize, block: usize, align: usize) -> Option<*mut Tcb> {
    let map = take_kept(|stack| !stack.foreign && stack.map_len == len && stack.guard == guard)?;
    // SAFETY: a mapping of ours that nobody uses any more.
    unsafe {
        let start = (map + len - block) & !(align - 1);
        (start as *mut u8).write_bytes(0, map + len - start);
        Some(place(map, len, guard, block, align))
    }
}

/// The mapping of a kept stack whose thread is gone and that is wanted.
fn take_kept(wanted: impl Fn(&Stack) -> bool) -> Option<usize> {
    // SAFETY: TCBs on the list are ours.
    unsafe {
        let tcb = CACHE.lock().take(|tcb| wanted(&(*tcb).pthread.stack))?;
        if (*tcb).pthread.stack.foreign {
            forget_foreign(tcb);
        }
        Some((*tcb).pthread.stack.map)
    }
}

impl Cache {
    /// Takes out the first TCB whose thread is gone and that is wanted.
    unsafe fn take(&mut self, wanted: impl Fn(*mut Tcb) -> bool) -> Option<*mut Tcb> {
        // SAFETY: TCBs on the list are ours.
        unsafe {
            let mut link = &raw mut self.first;
            while !(*link).is_null() {
                let tcb = *link;
                if (*tcb).tid_word().load(Ordering::Acquire) == 0 && wanted(tcb) {
                    *link = (*tcb).pthread.next;
                    self.bytes -= (*tcb).pthread.stack.map_len;
                    return Some(tcb);
                }
                link = &raw mut (*tcb).pthread.next;
            }
        }
        None
    }

    /// Unmaps stacks of gone threads above the limit. (Foreign ones' blocks are kept like others: pthread_join
    /// of a thread that is gone for good finds an answer there, not a fault.)
    fn shrink(&mut self) {
        // SAFETY: TCBs of gone threads; nobody uses their memory.
        unsafe {
            while self.bytes > CACHE_LIMIT
                && let Some(tcb) = self.take(|_| true)
            {
                let stack = (*tcb).pthread.stack;
                if stack.foreign {
                    forget_foreign(tcb);
                }
                let _ = kcall!(munmap, stack.map, stack.map_len);
            }
        }
    }
}
