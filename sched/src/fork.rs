//! One process becomes two: the host's copy-on-write clone with a shared descriptor table.
//!
//! The caller is a guest thread inside the kernel. The parent prepares everything of the child that lies
//! in the arena ([`Child::new`]); after the clone ([`Child::start`]) the child has a host thread of its
//! own on a copy of the caller's stack, sets `%gs` to its own block before anything else, and never
//! returns through the parent's frames: what they hold (counts of Arcs, guards) belongs to the parent.
//! Other guest threads, vCPUs and helpers exist in the parent alone.
//!
//! Host signals are blocked over it: a handler would find the parent's block in `%gs`. The runtime's
//! private heap is copied too, so its locks are held over the clone (`hooks.before_fork`).

use crate::family::CacheSet;
use crate::host_fd::{self, HostReady, WatchId};
use crate::signal;
use crate::thread::{self, Thread};
use crate::vcpu::{self, Process};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::errno::Result;
use platform::host;
use platform::thread::{Birth, UNTOLD};

/// What a forked child is told of its parent's caches of the private heap (`hooks.after_fork`).
pub struct Caches<'a> {
    /// The number of the host thread that forked.
    pub parents: u32,
    /// Those of all its host threads.
    pub all: &'a CacheSet,
}

/// A process that is not there yet.
pub struct Child {
    process: Arc<Process>,
    thread: Arc<Thread>,
}

impl Child {
    /// Makes the scheduler of a child of the calling process, with one thread that will go on where the
    /// caller is. `local`: the personality's record of that thread.
    pub fn new(local: *mut ()) -> Child {
        let alternate = thread::current().alternate_stack();
        Child::at(local, vcpu::block().depth.get(), alternate)
    }

    /// As [`Child::new`], for [`Child::start_on`] and by anybody in the kernel, a vCPU's loop too: the child
    /// begins at depth 1.
    pub fn fresh(local: *mut ()) -> Child {
        Child::at(local, 1, (0, 0))
    }

    fn at(local: *mut (), depth: u32, alternate: (usize, usize)) -> Child {
        let parent = vcpu::process();
        let process = Process::new(parent.family, parent.config, parent.hooks, parent.serial);
        let thread = Thread::forked(&process, local, alternate);
        process.vcpus[0].take_cache(&process);
        process.forked_from.set(Some(vcpu::own()));
        // From here on it is found if this process is killed before it has made it.
        parent.family.add(process.clone());
        process.vcpus[0].prepare_fork(&*process, &*thread, depth);
        Child { process, thread }
    }

    /// The child's thread.
    pub fn thread(&self) -> &Arc<Thread> {
        &self.thread
    }

    /// The child's process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Forks. The parent comes back; the child calls `go_on(argument)` inside the kernel, at the depth
    /// that the caller has.
    pub fn start(&self, go_on: extern "C" fn(*mut ()) -> !, argument: *mut ()) -> Result<()> {
        watch_self();
        let mask = signal::block_all();
        (vcpu::process().hooks.before_fork)();
        let parents_cache = vcpu::block().cache.get();
        // SAFETY: the child has a copy of all private memory, this stack too; it does not return.
        let made = unsafe { platform::thread::fork(self.birth()) };
        if made == Ok(0) {
            begin(&self.process, parents_cache, go_on, argument)
        }
        self.made(mask, made)
    }

    /// As [`Child::start`], but the child begins on the stack that ends at `stack_top`, a copy of the
    /// parent's there, and nothing of the caller's stack is needed in it: `argument` is arena memory.
    ///
    /// # Safety
    /// Nobody else uses that stack.
    pub unsafe fn start_on(
        &self,
        stack_top: usize,
        go_on: extern "C" fn(*mut ()) -> !,
        argument: *mut (),
    ) -> Result<()> {
        watch_self();
        let parents_cache = vcpu::block().cache.get();
        let launch = Box::new(Launch { process: self.process.clone(), parents_cache, go_on, argument });
        let mask = signal::block_all();
        (vcpu::process().hooks.before_fork)();
        // SAFETY: the caller gives the stack; what the child touches before it has its own block is in the
        // arena, and private memory is whole (`before_fork`).
        let made = unsafe {
            platform::thread::fork_on(stack_top, launched, &raw const *launch as usize, 0, self.birth())
        };
        if made.is_ok() {
            // The child frees it.
            core::mem::forget(launch);
        }
        self.made(mask, made)
    }

    /// Where the host says that the child is there: in the child's record, where others find it if this process is
    /// killed in the middle ([`adopt`]).
    fn birth(&self) -> Birth<'_> {
        Birth { pid: &self.process.pid, pidfd: &self.process.pidfd }
    }

    /// The parent's part after the clone.
    fn made(&self, mask: u64, made: Result<i32>) -> Result<()> {
        (vcpu::process().hooks.after_fork)(None);
        signal::restore_mask(mask);
        match made {
            Ok(pid) => {
                self.process.pid.store(pid, Ordering::Relaxed);
                watch(&self.process, self.process.pidfd.load(Ordering::SeqCst));
                Ok(())
            }
            Err(error) => {
                // The host may have written one and taken it back.
                self.process.pidfd.store(-1, Ordering::SeqCst);
                self.process.forked_from.set(None);
                vcpu::process().family.retire(&self.process);
                vcpu::process().family.forget(&self.process);
                self.thread.abandon();
                Err(error)
            }
        }
    }
}

/// The end of a stack for [`Child::start_on`] that lies in the window and is no vCPU's. One fork at a time may
/// use it.
pub fn stack() -> Result<usize> {
    vcpu::map_stack(vcpu::FORK_SLOT).map(|at| at + vcpu::LOOP_STACK)
}

/// What a child on a fresh stack needs.
struct Launch {
    process: Arc<Process>,
    parents_cache: u32,
    go_on: extern "C" fn(*mut ()) -> !,
    argument: *mut (),
}

extern "C" fn launched(launch: usize, _: usize) -> ! {
    // SAFETY: `start_on` passes it; it is freed once `%gs` is the child's own.
    let launch = unsafe { &*(launch as *const Launch) };
    begin(&launch.process, launch.parents_cache, go_on_launched, (&raw const *launch).cast_mut().cast())
}

extern "C" fn go_on_launched(launch: *mut ()) -> ! {
    // SAFETY: the parent gave it up.
    let launch = unsafe { Box::from_raw(launch.cast::<Launch>()) };
    let (go_on, argument) = (launch.go_on, launch.argument);
    drop(launch);
    go_on(argument)
}

/// The child's first code. Until its own block is adopted, `%gs` is the parent's, which may have ended since (a
/// daemon's parent does so at once): what is needed of that block was read before the clone.
fn begin(
    process: &Arc<Process>,
    parents_cache: u32,
    go_on: extern "C" fn(*mut ()) -> !,
    argument: *mut (),
) -> ! {
    let process = &**process;
    process.pid.store(platform::thread::getpid(), Ordering::Relaxed);
    process.vcpus[0].adopt_forked();
    // Kept, as the parent may have ended: what its host threads had in their caches is told by its record. Where it is
    // named, or who is killed here would keep it for ever.
    {
        let parent = process.forked_from.lock();
        let Some(parent) = &*parent else { unreachable!("set by `at`") };
        (process.hooks.after_fork)(Some(Caches { parents: parents_cache, all: &parent.caches }));
    }
    process.forked_from.set(None);
    if process.config.signals
        && let Err(error) = signal::prepare_host_thread(0)
    {
        panic!("a forked process cannot be set up: {error}");
    }
    go_on(argument)
}

/// Whoever of the family sees the end of the host process cleans up behind it.
fn watch(process: &Arc<Process>, pidfd: i32) {
    if let Err(error) = try_watch(process, pidfd) {
        panic!("a process cannot be watched: {error}");
    }
}

fn try_watch(process: &Arc<Process>, pidfd: i32) -> Result<()> {
    let end = Arc::new(End { process: Arc::downgrade(process) });
    // Locked over the call: the end may be seen before it is over.
    let mut watch = process.watch.lock();
    // EEXIST: its parent had come so far. The end is told to that watch then, which does as well.
    match host_fd::watch(pidfd, host_fd::IN | host_fd::EDGE, end) {
        Ok(id) => *watch = Some(id),
        // A token that is nobody's: the watch ends with its descriptor.
        Err(platform::Errno::EEXIST) => *watch = Some(WatchId { fd: pidfd, token: u64::MAX }),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The first process is made by nobody: once it has a child, that one watches it. All others are watched by their
/// makers, if not yet then soon: a second descriptor would be nobody's to close.
fn watch_self() {
    let own = vcpu::own();
    if own.maker != 0 || own.watch.lock().is_some() {
        return;
    }
    // SAFETY: touches no memory.
    if let Ok(pidfd) = unsafe { host!(pidfd_open, own.host_pid(), 0) } {
        own.pidfd.store(pidfd as i32, Ordering::SeqCst);
        watch(&own, pidfd as i32);
    }
}

/// Hears that a host process has ended, by itself or killed.
struct End {
    process: Weak<Process>,
}

impl HostReady for End {
    fn ready(&self, _events: u32) {
        let Some(process) = self.process.upgrade() else { return };
        bury(&process);
        while let Some(process) = unheard() {
            bury(&process);
        }
        host_fd::look_again();
    }

    fn is_end(&self) -> bool {
        true
    }
}

/// A host process whose end was told to one that has ended itself before it could act: the host tells each end once,
/// to a single vCPU. So whoever buries one looks whether others lie there.
fn unheard() -> Option<Arc<Process>> {
    let mut waiting = vcpu::process().family.all();
    waiting.retain(|process| process.reaper.load(Ordering::SeqCst) == 0);
    let watched = waiting.into_iter().filter_map(|process| {
        let fd = process.watch.lock().as_ref().map(|watch| watch.fd)?;
        Some((process, fd))
    });
    let watched: Vec<(Arc<Process>, i32)> = watched.collect();
    // struct pollfd: descriptor, then POLLIN as what is asked for, and the answer in the upper half.
    let mut asks: Vec<[u32; 2]> = watched.iter().map(|(_, fd)| [*fd as u32, 1]).collect();
    // SAFETY: as many pollfds of ours as said; it does not wait.
    unsafe { host!(poll, asks.as_mut_ptr(), asks.len(), 0) }.ok().filter(|&ready| ready > 0)?;
    let at = asks.iter().position(|ask| ask[1] >> 16 & 1 != 0)?;
    watched.into_iter().nth(at).map(|(process, _)| process)
}

/// A host process is gone: once, by one process of the family, everything that it left is seen to. That one may be
/// killed on the way, so the steps can be done again, and the process stays in the family's list until all are
/// done: who buries the first burier finds it there ([`adopt`]).
fn bury(process: &Arc<Process>) {
    let own = vcpu::process().serial;
    if process.reaper.compare_exchange(0, own, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return;
    }
    bury_again(process);
}

fn bury_again(process: &Arc<Process>) {
    let family = vcpu::process().family;
    let watch = *process.watch.lock();
    if let Some(watch) = watch {
        host_fd::unwatch(watch);
    }
    // Not again, if we are killed just then: the number may be another's soon.
    let pidfd = process.pidfd.swap(-1, Ordering::SeqCst);
    if pidfd >= 0 {
        // SAFETY: the process's own, which nobody else closes.
        let _ = unsafe { host!(close, pidfd) };
    }
    *process.watch.lock() = None;
    family.retire(process);
    (vcpu::process().hooks.process_gone)(process);
    adopt(process.serial);
    family.forget(process);
}

/// Goes on with what a process had begun when it was killed: forks of which nobody watches the child, and burials.
fn adopt(gone: u32) {
    let family = vcpu::process().family;
    for process in family.all() {
        if process.reaper.load(Ordering::SeqCst) == gone {
            process.reaper.store(vcpu::process().serial, Ordering::SeqCst);
            bury_again(&process);
        } else if process.maker == gone
            && process.reaper.load(Ordering::SeqCst) == 0
            && process.watch.lock().is_none()
        {
            // The host has made the child and told its id, or it never will: who would have it made is gone. Where
            // it cannot tell ids, a number that a clone wrote and then failed is another's, or nobody's.
            let pidfd = process.pidfd.load(Ordering::SeqCst);
            let is_others = || family.all().iter().any(|p| p.watch.lock().is_some_and(|w| w.fd == pidfd));
            let is_there = match process.pid.load(Ordering::SeqCst) {
                0 => false,
                UNTOLD => pidfd >= 0 && !is_others(),
                _ => true,
            };
            if !is_there {
                process.pidfd.store(-1, Ordering::SeqCst);
            }
            let watched = is_there && try_watch(&process, pidfd).is_ok();
            if !watched {
                bury(&process);
            }
        }
    }
}

/// Ends the host process as [`exit`] does, but by the default action of a signal, which its parent sees.
pub fn die(signal: i32) -> ! {
    let _ = thread::current();
    vcpu::halt_others();
    vcpu::tell_ending();
    platform::thread::die_by_signal(signal)
}

/// Ends the host process of the calling guest thread, the last one of its process. The other vCPUs are
/// brought to rest first, so that none of them is killed with a lock in its hands.
pub fn exit(status: i32) -> ! {
    let _ = thread::current();
    vcpu::halt_others();
    vcpu::tell_ending();
    platform::thread::exit_group(status)
}
