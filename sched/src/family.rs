//! What the processes of a guest share: one epoll for all host descriptors, the list of processes,
//! numbers, the allocator's caches, timers without a process.
//!
//! Every process of a guest is a host process with the same descriptor table (CLONE_FILES) and the same
//! arena. [`fork`](crate::fork) makes one, and buries one whose host process is gone.

use crate::host_fd::Watches;
use crate::slots::Slots;
use crate::timer::Timers;
use crate::vcpu::Process;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use platform::errno::Result;
use platform::host;
use platform::sync::Lock;

/// Host threads that can have a cache of the arena's allocator for themselves (`guest/src/memory.rs`).
const CACHES: usize = 128;
/// A set of such numbers.
#[derive(Default)]
pub struct CacheSet([AtomicU64; CACHES / 64]);

impl CacheSet {
    pub(crate) fn add(&self, number: u32) {
        // NO_CACHE falls out here.
        if let Some(word) = self.0.get(number as usize / 64) {
            word.fetch_or(1 << (number % 64), Ordering::SeqCst);
        }
    }

    /// The numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let bits = |word: &AtomicU64| word.load(Ordering::SeqCst);
        (0..CACHES as u32).filter(move |n| bits(&self.0[*n as usize / 64]) >> (n % 64) & 1 != 0)
    }
}

/// The number of those that have none.
pub(crate) const NO_CACHE: u32 = u32::MAX;

/// See the module.
pub(crate) struct Family {
    /// Holds every watched descriptor; every vCPU of every process sleeps on it.
    pub(crate) epoll: i32,
    pub(crate) watches: Lock<Watches>,
    /// vCPUs that sleep.
    pub(crate) sleepers: AtomicU32,
    /// Timers of processes that are gone.
    pub(crate) orphans: Timers,
    pub(crate) next_serial: AtomicU32,
    pub(crate) next_thread: AtomicU32,
    pub(crate) next_timer: AtomicU64,
    /// By serial.
    processes: Lock<Slots<Arc<Process>>>,
    /// Which caches are taken.
    caches: Lock<[u64; CACHES / 64]>,
}

/// Locks are owned by host threads of the family.
pub(crate) static OWNERS: platform::sync::Owners =
    platform::sync::Owners { own: crate::arch::owner, is_dead: is_gone };

/// Whether the host thread with this id is gone. A thread that was killed is reaped at once (SIGCHLD is
/// ignored); only the main thread of a guest's first process may wait as a zombie for the host's shell, and
/// is told by its process's descriptor.
fn is_gone(tid: u32) -> bool {
    use crate::vcpu;
    // SAFETY: signal 0 only asks.
    if unsafe { host!(tkill, tid, 0) } == Err(platform::Errno::ESRCH) {
        return true;
    }
    let family = vcpu::process().family;
    let Some(processes) = family.processes.try_lock() else { return false };
    let main = processes.iter().find(|process| process.host_pid() == tid as i32);
    if main.is_some_and(|process| process.reaper.load(Ordering::SeqCst) != 0) {
        return true;
    }
    let Some(watch) = main.and_then(|process| *process.watch.try_lock()?) else { return false };
    // struct pollfd: descriptor, POLLIN.
    let mut ask = [watch.fd as u32, 1];
    // SAFETY: one pollfd of ours; it does not wait.
    let answer = unsafe { host!(poll, ask.as_mut_ptr(), 1, 0) };
    answer == Ok(1)
}

impl Family {
    /// The family of a guest that begins. It lives as long as any of its processes.
    pub(crate) fn new() -> Result<&'static Family> {
        const EPOLL_CLOEXEC: usize = 0o2000000;
        // SAFETY: touches no memory.
        let epoll = unsafe { host!(epoll_create1, EPOLL_CLOEXEC) }? as i32;
        Ok(Box::leak(Box::new(Family {
            epoll,
            watches: Watches::new(),
            sleepers: AtomicU32::new(0),
            orphans: Timers::new(),
            next_serial: AtomicU32::new(1),
            next_thread: AtomicU32::new(1),
            next_timer: AtomicU64::new(1),
            processes: Lock::new(Slots::new()),
            caches: Lock::new([0; CACHES / 64]),
        })))
    }

    pub(crate) fn add(&self, process: Arc<Process>) {
        self.processes.lock().insert(process.serial, process);
    }

    pub(crate) fn by_serial(&self, serial: u32) -> Option<Arc<Process>> {
        self.processes.lock().get(serial).cloned()
    }

    /// All of them now.
    pub(crate) fn all(&self) -> Vec<Arc<Process>> {
        self.processes.lock().iter().cloned().collect()
    }

    /// Takes a process out of the list.
    pub(crate) fn forget(&self, process: &Arc<Process>) {
        let gone = self.processes.lock().remove(process.serial);
        drop(gone);
    }

    /// The host process is gone: what the scheduler kept for it goes too. Can be done again.
    pub(crate) fn retire(&self, gone: &Process) {
        for block in &gone.vcpus {
            block.queue.close();
            self.orphans.adopt(&block.timers);
            if block.counted.swap(false, Ordering::Relaxed) {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            self.give_cache(block.cache.replace(NO_CACHE));
        }
        gone.helper_blocks.lock().iter().for_each(|block| self.give_cache(block.cache.replace(NO_CACHE)));
    }

    /// A number in the arena's allocator that no other living host thread has.
    pub(crate) fn take_cache(&self) -> u32 {
        let mut words = self.caches.lock();
        for (at, word) in words.iter_mut().enumerate() {
            if *word != u64::MAX {
                let bit = word.trailing_ones();
                *word |= 1 << bit;
                return at as u32 * 64 + bit;
            }
        }
        NO_CACHE
    }

    /// Gives a number back. Its objects stay in the cache for the next owner. One that was killed in the
    /// middle of a change has at worst a count that is off by one (`guest/src/memory.rs`).
    pub(crate) fn give_cache(&self, number: u32) {
        // NO_CACHE falls out here.
        if let Some(word) = self.caches.lock().get_mut(number as usize / 64) {
            *word &= !(1 << (number % 64));
        }
    }
}
