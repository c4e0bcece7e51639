//! vCPUs: host threads that run guest threads, poll when there are none, and then sleep.
//!
//! `%gs` points at a vCPU's [`Block`]. Its first fields are touched by single instructions from any
//! place (`arch`); the rest only from inside the kernel, where the calling thread stays put.
//!
//! Placement: a woken thread joins the queue of the vCPU that wakes it, because waking another
//! core costs about 50 us and a switch here 20 ns. Sleeping vCPUs are rung only for a backlog: when
//! two or more wait, or when a tick finds one that waited for a whole time slice. A thread of another
//! process goes to a vCPU of that one, which is rung if it sleeps.
//!
//! Sleep and wake: all vCPUs of a family sleep on its one epoll, whose waiters the host wakes one at a
//! time, so an event finds any idle vCPU and only one. A vCPU is rung by the signal `KICK`; signals are
//! blocked from its last look at its work until epoll_pwait2 opens them, so none is lost.

use crate::arch;
use crate::blocking::Helpers;
use crate::family::{CacheSet, Family, NO_CACHE};
use crate::hooks::Hooks;
use crate::host_fd::{Event, WatchId};
use crate::passage::Passages;
use crate::run_queue::RunQueue;
use crate::signal;
use crate::thread::Thread;
use crate::timer::Timers;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use platform::errno::Result;
use platform::host;
use platform::layout;
use platform::sync::Lock;
use platform::time::{MILLISECOND, Timespec};

/// How the scheduler of a process is set up.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Number of vCPUs, at least 1.
    pub cpus: u32,
    /// Never sleep (`--poll busy`).
    pub busy: bool,
    /// CPU time after which a thread is preempted, in nanoseconds; 0: never.
    pub slice_ns: u64,
    /// Catch the host's signals, faults and `syscall` instructions. Off in host tests.
    pub signals: bool,
}

impl Config {
    /// What a guest gets when nothing else is said.
    pub const fn new(cpus: u32) -> Config {
        Config { cpus, busy: false, slice_ns: 4 * MILLISECOND, signals: true }
    }
}

/// Longest spin before a sleep, in nanoseconds: about what a sleep and a wake cost.
const MOST_SPIN_NS: u64 = 50_000;
/// A sleep that was over so soon would have been better spent spinning: the longest spin, and twice that for the wake
/// itself, which is part of what was slept. (With a wake left out, a receiver of a full stream that waits 10 µs at a time
/// halved its spin each time, and its sender rang 4,000 bells a second at 47 µs each.)
const SHORT_SLEEP_NS: u64 = 3 * MOST_SPIN_NS;
/// How much of a spin keeps the core from everybody else.
const ALONE_NS: u64 = 2_000;
/// Between two times that a spin offers its core to others. Not all the time: while two tasks that yield share a core, a
/// third can wait there for ten seconds and more where sched_yield(2) takes the rest of the caller's slice off its account
/// (seen with Linux 6.18 and its autogroups: hundreds of thousands of yields a second run away from the clock that
/// decides who may run).
const OFFER_NS: u64 = 8_000;
/// A round of a spin that took so long gave the core to somebody who computes: then a sleep is better, from which a
/// frame wakes us with precedence.
const LONG_YIELD_NS: u64 = 200_000;
/// Shortest spin, so that a spin can ever be found to pay.
const LEAST_SPIN_NS: u64 = 1_000;
/// A busy vCPU polls at every so many switches.
const SWITCHES_PER_POLL: u32 = 64;
/// A thread that waited this long is taken by an idle vCPU.
const PATIENCE_NS: u64 = 20_000;
/// Stack of a vCPU's host thread (its loop, hooks.poll), of a helper's.
pub(crate) const LOOP_STACK: usize = 256 * 1024;
/// The stacks of host threads lie in the runtime's window, so that execve can drop everything outside
/// it: from this slot on those of helpers, before it those of vCPUs, by index.
const HELPER_SLOTS: usize = 4096;
/// The slot before them: where a process begins that is forked by no guest thread.
pub(crate) const FORK_SLOT: usize = HELPER_SLOTS - 1;

/// [`Block::quiet`]: it runs.
const BUSY: u8 = 0;
/// It is inside its sleep's host call, and holds nothing.
const QUIET: u8 = 1;
/// It will do nothing any more.
const HALTED: u8 = 2;

/// The index of a block that is no vCPU: a helper, or the time before [`init`].
pub(crate) const NONE: u32 = u32::MAX;

/// Work bit: a host signal was recorded.
pub(crate) const WORK_SIGNAL: u8 = 1;
/// Work bit: a tick came while the kernel was busy.
pub(crate) const WORK_TICK: u8 = 2;
/// Work bit: the current thread's attention is wanted.
pub(crate) const WORK_ATTENTION: u8 = 4;

/// What is to be done with a thread once it is off its stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Nothing,
    Park,
    Yield,
    /// As Yield, but first of its priority next time: a higher one takes the vCPU.
    Preempt,
    Exit,
}

/// What `%gs` points at. The offsets of the first fields are known to `arch`.
#[repr(C, align(128))]
pub(crate) struct Block {
    /// gs:0, its own address.
    this: Cell<*const Block>,
    /// gs:8, the kernel depth.
    pub(crate) depth: Cell<u32>,
    /// gs:12, work pending: `WORK_*`. Set by anyone.
    pub(crate) work: AtomicU8,
    /// gs:16
    pub(crate) current: Cell<*const Thread>,
    /// gs:24, which of the arena allocator's caches is this host thread's.
    pub(crate) cache: Cell<u32>,
    /// gs:28, what locks hold while this host thread has them: its host id, 1 before it has one.
    owner: Cell<u32>,
    pub(crate) index: u32,
    process: Cell<*const Process>,
    idle_stack_pointer: Cell<usize>,
    previous: Cell<*const Thread>,
    after: Cell<After>,
    switches: AtomicU32,
    /// What `is_stuck` saw last, and since when: (vCPU, its switches).
    watched: Cell<(u32, u32)>,
    watched_since: Cell<platform::time::Instant>,
    spin_ns: Cell<u64>,
    polls: Cell<u32>,
    pub(crate) tid: AtomicI32,
    sleeping: AtomicBool,
    /// The priority of the thread that runs here; 0 for an ordinary one or none. A hint to others.
    priority: AtomicU8,
    /// Counted among the family's sleepers.
    pub(crate) counted: AtomicBool,
    quiet: AtomicU8,
    pub(crate) queue: RunQueue,
    pub(crate) timers: Timers,
}
const _: () = assert!(core::mem::offset_of!(Block, depth) == arch::DEPTH);
const _: () = assert!(core::mem::offset_of!(Block, work) == arch::WORK);
const _: () = assert!(core::mem::offset_of!(Block, cache) == arch::CACHE);
const _: () = assert!(core::mem::offset_of!(Block, owner) == arch::OWNER);

// SAFETY: the cells belong to the host thread whose `%gs` points here; what others touch is atomic
// or locked.
unsafe impl Sync for Block {}

/// The scheduler of one host process.
pub struct Process {
    /// Complete before the first is adopted, and never grown: addresses stay.
    pub(crate) vcpus: Vec<Block>,
    /// How many of them have a host thread.
    started: AtomicU32,
    pub(crate) family: &'static Family,
    /// A number unique in the family.
    pub(crate) serial: u32,
    pub(crate) hooks: Hooks,
    pub(crate) config: Config,
    /// The host's process id.
    pub(crate) pid: AtomicI32,
    /// How the family hears of its end; `None` for the first one, before it has a child.
    pub(crate) watch: Lock<Option<WatchId>>,
    /// The host's descriptor of a forked process, written by the host itself before the process can run: what its
    /// parent has not come to do with it, others do (`fork::adopt`). -1: not made yet.
    pub(crate) pidfd: AtomicI32,
    /// The serial of the process that forked this one; 0 for the first.
    pub(crate) maker: u32,
    /// The serial of the process that cleans up behind this one, whose host process is gone; 0: it lives.
    pub(crate) reaper: AtomicU32,
    /// Threads that have not exited.
    pub(crate) threads: AtomicU32,
    sleepers: AtomicU32,
    pub(crate) stopping: AtomicBool,
    pub(crate) helpers: Helpers,
    /// Which of the allocator's caches its host threads have been given: set before they run.
    pub(crate) caches: CacheSet,
    /// The process it was forked from, until it has begun.
    pub(crate) forked_from: Lock<Option<Arc<Process>>>,
    /// What `%gs` points at in helpers: boxed, since they stay where they are while the list grows.
    #[allow(clippy::vec_box)]
    pub(crate) helper_blocks: Lock<Vec<Box<Block>>>,
    /// Signals that were ignored when the process was started.
    pub(crate) ignored: AtomicU64,
    /// See [`passage`](crate::passage).
    pub(crate) passages: Passages,
    /// The personality's record of the process.
    pub(crate) local: AtomicPtr<()>,
}

// SAFETY: blocks are Sync; the rest is atomic or locked. `vcpus` is never changed.
unsafe impl Sync for Process {}
// SAFETY: as above.
unsafe impl Send for Process {}

impl Process {
    pub(crate) fn new(family: &'static Family, config: Config, hooks: Hooks, maker: u32) -> Arc<Process> {
        let vcpus = (0..config.cpus.max(1)).map(Block::new).collect();
        Arc::new(Process {
            vcpus,
            started: AtomicU32::new(1),
            family,
            serial: family.next_serial.fetch_add(1, Ordering::Relaxed),
            hooks,
            config,
            pid: AtomicI32::new(0),
            watch: Lock::new(None),
            pidfd: AtomicI32::new(-1),
            maker,
            reaper: AtomicU32::new(0),
            threads: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            helpers: Helpers::new(),
            caches: CacheSet::default(),
            forked_from: Lock::new(None),
            helper_blocks: Lock::new(Vec::new()),
            ignored: AtomicU64::new(0),
            passages: Passages::default(),
            local: AtomicPtr::new(ptr::null_mut()),
        })
    }

    /// The host's id of the process.
    pub fn host_pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Gives its vCPUs a nice value at the host; those that start later have that of who starts them.
    pub fn renice(&self, nice: i32) -> Result<()> {
        const PRIO_PROCESS: usize = 0;
        for block in self.vcpus.iter() {
            let tid = block.tid.load(Ordering::Relaxed);
            if tid != 0 {
                // SAFETY: touches no memory.
                unsafe { host!(setpriority, PRIO_PROCESS, tid, nice) }?;
            }
        }
        Ok(())
    }

    /// The personality's record of the process.
    pub fn local(&self) -> &AtomicPtr<()> {
        &self.local
    }
}

/// The block behind `%gs`. The borrow must not be held over a switch: the thread may come back on
/// another vCPU.
#[inline(always)]
pub(crate) fn block<'a>() -> &'a Block {
    // SAFETY: `boot` or `adopt` has set `%gs` to a block that lives as long as its host thread.
    unsafe { &*arch::block() }
}

/// This process's scheduler.
#[inline]
pub(crate) fn process<'a>() -> &'a Process {
    // SAFETY: set by `init` or a fork; the family holds it until its host process is gone.
    unsafe { &*block().process.get() }
}

/// This process's scheduler, to keep.
pub fn own() -> Arc<Process> {
    let process = block().process.get();
    // SAFETY: made in an Arc, which the family holds.
    unsafe {
        Arc::increment_strong_count(process);
        Arc::from_raw(process)
    }
}

/// Guest threads of this process that are not off their stacks yet.
pub fn threads() -> u32 {
    process().threads.load(Ordering::Acquire)
}

/// The number of vCPUs of this process.
pub fn count() -> u32 {
    process().vcpus.len() as u32
}

/// The vCPU that runs the caller; kernel only. Panics on a helper.
pub fn current() -> u32 {
    let index = block().index;
    assert!(index != NONE, "not on a vCPU");
    index
}

/// A number that tells vCPUs apart, in a row within a process and for processes that were made one after the other:
/// for who wants each to have its own of something. Kernel only.
#[inline]
pub fn lane() -> usize {
    let index = match block().index {
        NONE => 0,
        index => index as usize,
    };
    (process().host_pid() as usize).wrapping_add(index)
}

/// Ends the sleep of vCPU `vcpu`, if it sleeps. Kernel only.
pub fn kick(vcpu: u32) {
    if let Some(block) = by_index(vcpu) {
        block.ring();
    }
}

/// Which of the allocator's per-host-thread caches is the caller's. For the arena allocator.
#[inline(always)]
pub fn cache_index() -> u32 {
    arch::cache()
}

/// vCPUs of the family that sleep now.
pub fn sleepers() -> u32 {
    process().family.sleepers.load(Ordering::SeqCst)
}

/// Before anything else on a host thread: gives it a block, so that [`crate::enter`] and the global
/// allocator work. The caller is inside the kernel from here on.
pub fn boot() {
    // A process constant in effect: only the initial host thread ever uses it, until `init`.
    static BOOT: Block = Block::new(NONE);
    BOOT.adopt(ptr::null());
}

/// Makes the scheduler of the first process of a family on the initial host thread, which becomes
/// vCPU 0 (see [`run`]). After [`boot`]. Once.
pub fn init(config: Config, hooks: Hooks) -> Result<()> {
    arch::check_machine()?;
    let family = Family::new()?;
    let process = Process::new(family, config, hooks, 0);
    process.pid.store(platform::thread::getpid(), Ordering::Relaxed);
    process.vcpus[0].take_cache(&process);
    process.vcpus[0].adopt(&*process);
    family.add(process.clone());
    if config.signals {
        platform::sync::set_owners(&crate::family::OWNERS);
        signal::install()?;
        signal::prepare_host_thread(0)?;
    }
    Ok(())
}

/// Runs guest threads on this vCPU, number 0, for good.
pub fn run() -> ! {
    let stack = map_stack(0).unwrap_or_else(|error| panic!("vCPU 0 has no stack: {error}"));
    // SAFETY: the stack is fresh; nothing of the initial one is used again.
    unsafe { arch::run_on(stack + LOOP_STACK, loop_for_good, 0) }
}

/// The loop of vCPU 0, on its own stack.
pub(crate) extern "C" fn loop_for_good(_: usize) -> ! {
    finish_switch();
    run_loop();
    // The process ends, and somebody else ends it.
    block().quiet.store(HALTED, Ordering::Release);
    platform::thread::exit_host_thread()
}

/// Gives the next vCPU its host thread, if one is left.
fn start_vcpu() {
    let process = process();
    let index = process.started.fetch_add(1, Ordering::Relaxed);
    let Some(block) = process.vcpus.get(index as usize) else {
        process.started.fetch_sub(1, Ordering::Relaxed);
        return;
    };
    block.take_cache(process);
    if let Err(error) = start_host_thread(index as usize, vcpu_main, index as usize) {
        panic!("vCPU {index} cannot be started: {error}");
    }
}

/// A process begins with one vCPU; the others come with threads to run, or with a network to serve
/// ([`start_for_network`]). A second one that has nothing to run would look for work now and then, and each page that
/// this one changes would cost the host an interrupt of the other's processor (TLB shootdown): a third of what a fork
/// costs.
pub(crate) fn start_vcpu_for_thread() {
    let process = process();
    let started = process.started.load(Ordering::Relaxed);
    if started < process.vcpus.len() as u32 && process.threads.load(Ordering::Relaxed) > started {
        start_vcpu();
    }
}

/// The program opens a socket: while its threads compute, vCPUs that have none take frames for them. Only in a guest's
/// first process: those that it forks are many, as the workers of a server are, and each takes its own.
pub fn start_for_network() {
    let process = process();
    while process.maker == 0 && process.started.load(Ordering::Relaxed) < count() {
        start_vcpu();
    }
}

extern "C" fn vcpu_main(argument: usize, process: usize) -> ! {
    // SAFETY: `start_host_thread` passes this process's address.
    let process = unsafe { &*(process as *const Process) };
    process.vcpus[argument].adopt(process);
    if process.config.signals
        && let Err(error) = signal::prepare_host_thread(argument)
    {
        panic!("vCPU {argument}: {error}");
    }
    run_loop();
    block().quiet.store(HALTED, Ordering::Release);
    platform::thread::exit_host_thread()
}

/// Starts a helper host thread, number `number` of its process, with a block of its own (no vCPU, in the
/// kernel for good).
pub(crate) fn start_helper(number: u32) -> Result<()> {
    extern "C" fn helper_main(argument: usize, process: usize) -> ! {
        // SAFETY: `start_helper` passes a block that the process keeps, `start_host_thread` its address.
        let (process, block) = unsafe { (&*(process as *const Process), &*(argument as *const Block)) };
        block.adopt(process);
        if process.config.signals {
            signal::prepare_helper();
        }
        crate::blocking::serve()
    }
    let block = Box::new(Block::new(NONE));
    block.take_cache(process());
    let address = &raw const *block as usize;
    process().helper_blocks.lock().push(block);
    start_host_thread(HELPER_SLOTS + number as usize, helper_main, address)
}

/// A stack for the host thread in `slot`. In a forked process the slot may hold a copy of the parent's.
pub(crate) fn map_stack(slot: usize) -> Result<usize> {
    let rights = platform::mem::Prot::READ | platform::mem::Prot::WRITE;
    if !process().config.signals {
        return platform::mem::map_private(0, LOOP_STACK, rights);
    }
    let at = layout::stack_slot(slot);
    // SAFETY: the slot is this host thread's alone.
    unsafe { platform::mem::replace_private(at, LOOP_STACK, rights) }.map(|()| at)
}

fn start_host_thread(slot: usize, main: extern "C" fn(usize, usize) -> !, argument: usize) -> Result<()> {
    let process: *const Process = process();
    let stack = map_stack(slot)?;
    // Signals stay blocked until the new thread has its own block: it starts with ours in `%gs`.
    let mask = signal::block_all();
    // SAFETY: the stack is fresh and stays mapped; the entry never returns.
    let made =
        unsafe { platform::thread::start_host_thread(stack + LOOP_STACK, main, argument, process as usize) };
    signal::restore_mask(mask);
    made.map(drop)
}

pub(crate) fn by_index<'a>(vcpu: u32) -> Option<&'a Block> {
    process().vcpus.get(vcpu as usize)
}

impl Block {
    pub(crate) const fn new(index: u32) -> Block {
        Block {
            this: Cell::new(ptr::null()),
            depth: Cell::new(1),
            work: AtomicU8::new(0),
            current: Cell::new(ptr::null()),
            cache: Cell::new(NO_CACHE),
            owner: Cell::new(1),
            index,
            process: Cell::new(ptr::null()),
            idle_stack_pointer: Cell::new(0),
            previous: Cell::new(ptr::null()),
            after: Cell::new(After::Nothing),
            switches: AtomicU32::new(0),
            watched: Cell::new((NONE, 0)),
            watched_since: Cell::new(platform::time::Instant(0)),
            spin_ns: Cell::new(MOST_SPIN_NS),
            polls: Cell::new(0),
            tid: AtomicI32::new(0),
            sleeping: AtomicBool::new(false),
            priority: AtomicU8::new(0),
            counted: AtomicBool::new(false),
            quiet: AtomicU8::new(BUSY),
            queue: RunQueue::new(),
            timers: Timers::new(),
        }
    }

    /// Makes this the calling host thread's block.
    pub(crate) fn adopt(&self, process: *const Process) {
        self.this.set(self);
        self.process.set(process);
        let tid = platform::thread::gettid();
        self.tid.store(tid, Ordering::Relaxed);
        self.owner.set(tid as u32);
        arch::write_gs_base(&raw const *self as usize);
    }

    /// Takes one of the arena allocator's caches for its own.
    pub(crate) fn take_cache(&self, process: &Process) {
        let number = process.family.take_cache();
        process.caches.add(number);
        self.cache.set(number);
    }

    /// Makes this block, which no host thread has yet, that of a forked child's one: it goes on inside the
    /// kernel as `thread`.
    pub(crate) fn prepare_fork(&self, process: *const Process, thread: *const Thread, depth: u32) {
        self.process.set(process);
        self.current.set(thread);
        self.depth.set(depth);
    }

    /// The child's first act: makes this the calling host thread's block, with its loop ready to run.
    pub(crate) fn adopt_forked(&self) {
        self.adopt(self.process.get());
        let top = layout::stack_slot(0) + LOOP_STACK;
        // SAFETY: slot 0 is mapped in every process (`run`); the copy of the parent's frames there is dead.
        self.idle_stack_pointer.set(unsafe { arch::prepare_loop(top, loop_for_good) });
    }

    /// The vCPU to whose queue threads made here belong.
    pub(crate) fn home(&self) -> u32 {
        if self.index == NONE { 0 } else { self.index }
    }

    /// Leaves a note for the next way out of the kernel, or the loop.
    pub(crate) fn mark(&self, work: u8) {
        self.work.fetch_or(work, Ordering::SeqCst);
    }

    /// Ends its sleep, if it sleeps. Safe in a signal handler.
    pub(crate) fn ring(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            self.kick();
        }
    }

    /// Has it see whether another thread should run.
    fn look_around(&self) {
        self.mark(WORK_TICK);
        let sleeps = self.sleeping.swap(false, Ordering::SeqCst);
        // SAFETY: as in `kick`.
        let signals = unsafe { self.process.get().as_ref() }.is_some_and(|process| process.config.signals);
        if sleeps || signals && !ptr::eq(self, block()) {
            self.kick();
        }
    }

    /// Sends the host thread the signal that interrupts what it does.
    fn kick(&self) {
        // SAFETY: set when the block was made or adopted; the process outlives its blocks.
        let Some(process) = (unsafe { self.process.get().as_ref() }) else { return };
        let tid = self.tid.load(Ordering::Relaxed);
        platform::thread::tgkill(process.host_pid(), tid, signal::KICK);
    }
}

/// Puts a READY thread into a queue: the caller's own; from a helper or another process the thread's
/// last one.
pub(crate) fn enqueue(thread: &Thread) {
    let here = block();
    let owner = &*thread.process;
    if !ptr::eq(here.process.get(), owner) {
        return enqueue_foreign(thread, owner);
    }
    if thread.rank().priority != 0 {
        return enqueue_real_time(thread);
    }
    if here.index != NONE {
        if here.queue.push(thread) >= 2 {
            wake_another();
        }
        return;
    }
    enqueue_foreign(thread, owner);
}

/// A thread with a real-time priority goes where it can run: here, if it comes before who runs here; else to a
/// vCPU where it does. Whoever runs there is interrupted. Beside an equal it waits here, as any woken thread does.
fn enqueue_real_time(thread: &Thread) {
    let here = block();
    let priority = thread.rank().priority;
    let gives_way = |block: &&Block| block.priority.load(Ordering::Relaxed) < priority;
    let started = process().started.load(Ordering::Relaxed) as usize;
    let vcpus = &process().vcpus[..started.min(process().vcpus.len())];
    let own = (here.index != NONE).then_some(here);
    let own = own.filter(|block| block.priority.load(Ordering::Relaxed) <= priority);
    let target = own.or_else(|| vcpus.iter().find(gives_way));
    let target = target.unwrap_or(&vcpus[thread.vcpu.load(Ordering::Relaxed) as usize % vcpus.len()]);
    target.queue.push(thread);
    if gives_way(&target) {
        target.look_around();
    }
}

/// A thread's rank was changed: whoever should run now runs.
pub(crate) fn rank_changed(thread: &Thread) {
    let owner = &*thread.process;
    if let Some(block) = owner.vcpus.get(thread.vcpu.load(Ordering::Relaxed) as usize)
        && thread.word.is_running()
    {
        // A hint: the thread may have left that vCPU a moment ago, which its next switch mends.
        block.priority.store(thread.rank().priority, Ordering::Relaxed);
        return block.look_around();
    }
    if let Some(block) = owner.vcpus.iter().find(|block| block.queue.reposition(thread)) {
        block.look_around();
    }
}

fn enqueue_foreign(thread: &Thread, owner: &Process) {
    let target = &owner.vcpus[thread.vcpu.load(Ordering::Relaxed) as usize % owner.vcpus.len()];
    target.queue.push(thread);
    if !target.sleeping.load(Ordering::SeqCst) {
        owner.wake_one();
    }
    target.ring();
}

impl Process {
    /// Rings one sleeping vCPU, if there is one: it will steal.
    fn wake_one(&self) {
        if self.sleepers.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(block) = self.vcpus.iter().find(|b| b.sleeping.load(Ordering::SeqCst)) {
            block.ring();
        }
    }
}

/// Rings one sleeping vCPU of this process.
fn wake_another() {
    process().wake_one();
}

/// Makes the vCPU that runs `thread` look at its work: interrupts program code there, or ends its sleep.
pub(crate) fn interrupt(thread: &Thread) {
    let owner = &*thread.process;
    let Some(target) = owner.vcpus.get(thread.vcpu.load(Ordering::Relaxed) as usize) else { return };
    target.mark(WORK_ATTENTION);
    if !ptr::eq(target, block()) && owner.config.signals {
        target.kick();
    }
}

/// Brings all other vCPUs of this process to rest, where they hold no lock: before its host process
/// ends or changes its memory. No guest thread but the caller is left.
pub(crate) fn halt_others() {
    let process = process();
    process.stopping.store(true, Ordering::SeqCst);
    let started = process.started.load(Ordering::Relaxed) as usize;
    for other in process.vcpus.iter().take(started).filter(|other| !ptr::eq(*other, block())) {
        let mut looks = 0u32;
        // One that sleeps is taken where it is; any other sees `stopping` at the end of its round.
        while other.quiet.compare_exchange(QUIET, HALTED, Ordering::SeqCst, Ordering::SeqCst) != Err(HALTED) {
            if other.quiet.load(Ordering::SeqCst) == HALTED {
                break;
            }
            looks += 1;
            if looks.is_multiple_of(64) {
                // SAFETY: touches no memory.
                let _ = unsafe { host!(sched_yield) };
            }
        }
    }
}

/// Tells `hooks.ending` of all vCPUs. After [`halt_others`].
pub(crate) fn tell_ending() {
    let process = process();
    process.vcpus.iter().for_each(|block| (process.hooks.ending)(block.cache.get(), block.owner.get()));
}

/// Leaves the current thread's stack for the next ready thread or the loop; comes back when the
/// thread runs again, perhaps on another vCPU.
pub(crate) fn switch_away(after: After) {
    poll_sometimes();
    let here = block();
    let thread = here.current.get();
    // SAFETY: only a guest thread's code calls this, and it is alive.
    let me = unsafe { &*thread };
    me.depth.set(here.depth.get());
    me.fs_base.set(arch::read_fs_base());
    here.previous.set(thread);
    here.after.set(after);
    let to = match here.queue.pop() {
        Some(next) => here.take_up(next),
        None => {
            here.current.set(ptr::null());
            here.priority.store(0, Ordering::Relaxed);
            here.depth.set(1);
            here.idle_stack_pointer.get()
        }
    };
    // SAFETY: `to` is the saved stack pointer of a context that nobody else can resume: taken out of
    // the queue, or this vCPU's own loop.
    unsafe { arch::switch(me.stack_pointer.as_ptr(), to) };
    finish_switch();
}

impl Block {
    /// Makes `next` current and answers its stack pointer.
    #[inline]
    fn take_up(&self, next: *const Thread) -> usize {
        // SAFETY: a thread out of the queue is alive and ours alone.
        let next = unsafe { &*next };
        next.vcpu.store(self.index, Ordering::Relaxed);
        next.word.dispatch();
        if next.attention.load(Ordering::SeqCst) {
            self.mark(WORK_ATTENTION);
        }
        self.current.set(next);
        self.priority.store(next.rank().priority, Ordering::Relaxed);
        self.depth.set(next.depth.get());
        let fs_base = next.fs_base.get();
        if fs_base != 0 && fs_base != arch::read_fs_base() {
            arch::write_fs_base(fs_base);
        }
        next.stack_pointer.get()
    }
}

/// Completes the switch of the thread that ran here before: its stack is free now.
pub(crate) fn finish_switch() {
    let here = block();
    // SAFETY: `previous` was this vCPU's current thread a moment ago; unless it exits, whoever made
    // it ready keeps it alive.
    let Some(previous) = (unsafe { here.previous.get().as_ref() }) else { return };
    here.previous.set(ptr::null());
    match here.after.replace(After::Nothing) {
        After::Nothing => (),
        After::Park => {
            if previous.word.finish_park() {
                enqueue(previous);
            }
        }
        After::Yield => {
            previous.word.finish_yield();
            enqueue(previous);
        }
        After::Preempt => {
            previous.word.finish_yield();
            here.queue.push_front(previous);
        }
        After::Exit => {
            let thread = previous.bury().expect("a thread exits once");
            (process().hooks.exited)(&thread);
            process().threads.fetch_sub(1, Ordering::Release);
        }
    }
}

/// A new thread's first Rust code, on its own stack.
pub(crate) extern "C" fn thread_started() {
    finish_switch();
    // A signal may be pending for it already.
    do_work(None);
}

/// The loop of a vCPU: run threads; when there are none, poll, steal, spin, sleep.
pub(crate) fn run_loop() {
    let here = block();
    while !process().stopping.load(Ordering::Relaxed) {
        match here.queue.pop() {
            Some(next) => here.run_thread(next),
            None => here.idle(),
        }
    }
}

impl Block {
    fn run_thread(&self, next: *const Thread) {
        let to = self.take_up(next);
        // SAFETY: as in `switch_away`.
        unsafe { arch::switch(self.idle_stack_pointer.as_ptr(), to) };
        finish_switch();
    }

    /// Nothing is ready here: finds something, or sleeps once.
    fn idle(&self) {
        let process = process();
        if self.poll_all(true) || self.steal() {
            return;
        }
        let start = platform::time::now();
        let mut last = start;
        let mut offer = start.after(ALONE_NS);
        loop {
            for _ in 0..16 {
                core::hint::spin_loop();
            }
            if self.poll_all(false) || self.steal() || process.stopping.load(Ordering::Relaxed) {
                let longer = (self.spin_ns.get() * 2).min(MOST_SPIN_NS);
                self.spin_ns.set(longer);
                return;
            }
            if process.config.busy {
                continue;
            }
            let now = platform::time::now();
            if now.since(start) >= self.spin_ns.get() || now.since(last) >= LONG_YIELD_NS {
                return self.sleep();
            }
            last = now;
            if now >= offer {
                offer = now.after(OFFER_NS);
                // Where more spin than there are cores (a server and its guests on two), whoever has the answer may be
                // waiting for this core: it gets it for a microsecond instead of a sleep and a wake.
                // SAFETY: no arguments.
                let _ = unsafe { host!(sched_yield) };
            }
        }
    }

    /// Looks at everything that can make work for this vCPU. Answers whether its queue has any.
    fn poll_all(&self, descriptors: bool) -> bool {
        let process = process();
        // On a thread the other bits are for its way out of the kernel; the loop has no such way.
        let taken = if self.current.get().is_null() { !0 } else { WORK_SIGNAL };
        if self.work.fetch_and(!taken, Ordering::SeqCst) & WORK_SIGNAL != 0 {
            (process.hooks.host_signals)();
        }
        (process.hooks.poll)(self.index);
        self.timers.run();
        process.family.orphans.run();
        let polls = self.polls.get().wrapping_add(1);
        self.polls.set(polls);
        if descriptors || polls.is_multiple_of(16) {
            self.wait(Some(0), None);
        }
        self.queue.len() != 0
    }

    /// Takes from a vCPU with a backlog: where two wait, or where one has waited [`PATIENCE_NS`]
    /// without a switch. A single thread that was just woken is left to its waker, whose caches it
    /// shares and who will park soon.
    fn steal(&self) -> bool {
        let all = &process().vcpus;
        let others = (1..all.len()).map(|i| &all[(self.index as usize + i) % all.len()]);
        for other in others {
            let backlog = match other.queue.len() {
                0 => false,
                1 => self.is_stuck(other),
                _ => true,
            };
            if !backlog {
                continue;
            }
            if let Some(thread) = other.queue.steal(&self.queue) {
                self.queue.push(thread);
                return true;
            }
        }
        false
    }

    /// Whether `other`, which has a thread waiting, has not switched for a while.
    fn is_stuck(&self, other: &Block) -> bool {
        let seen = (other.index, other.switches.load(Ordering::Relaxed));
        let now = platform::time::now();
        if self.watched.get() != seen {
            self.watched.set(seen);
            self.watched_since.set(now);
        }
        now.since(self.watched_since.get()) >= PATIENCE_NS
    }

    /// Sleeps until it is rung, a descriptor, a signal or the next deadline.
    fn sleep(&self) {
        let process = process();
        let family = process.family;
        let start = platform::time::now();
        // From here on a signal waits until the host call opens the mask: a ring is not lost.
        let mask = signal::block_for_sleep();
        // Dekker's pattern with `enqueue`: announce, then look; push, then look for sleepers.
        self.sleeping.store(true, Ordering::SeqCst);
        process.sleepers.fetch_add(1, Ordering::SeqCst);
        self.counted.store(true, Ordering::Relaxed);
        family.sleepers.fetch_add(1, Ordering::SeqCst);
        let idle = process.vcpus.iter().all(|other| other.queue.len() < 2)
            && self.queue.len() == 0
            && self.work.load(Ordering::SeqCst) == 0
            && !process.stopping.load(Ordering::SeqCst);
        if idle && (process.hooks.before_sleep)(self.index) {
            self.wait(self.time_to_deadline(), Some(mask));
        }
        let last = family.sleepers.fetch_sub(1, Ordering::SeqCst) == 1;
        self.counted.store(false, Ordering::Relaxed);
        process.sleepers.fetch_sub(1, Ordering::SeqCst);
        self.sleeping.store(false, Ordering::SeqCst);
        signal::restore_mask(mask);
        if last {
            (process.hooks.after_sleep)(self.index);
        }
        let slept = platform::time::now().since(start);
        let spin = match slept < SHORT_SLEEP_NS {
            true => MOST_SPIN_NS,
            false => (self.spin_ns.get() / 2).max(LEAST_SPIN_NS),
        };
        self.spin_ns.set(spin);
    }

    /// Nanoseconds to the next timer or network deadline; `None`: none.
    fn time_to_deadline(&self) -> Option<u64> {
        let process = process();
        let network = (process.hooks.deadline)(self.index);
        let orphans = process.family.orphans.next();
        let next = [self.timers.next(), network, orphans].into_iter().flatten().min()?;
        Some(next.since(platform::time::now()))
    }

    /// epoll_pwait2 on the family's descriptors: tells watches. `timeout` in nanoseconds, `None` without
    /// end; `mask`: this is a sleep, under this signal mask.
    fn wait(&self, timeout: Option<u64>, mask: Option<u64>) {
        let family = process().family;
        let mut events = [Event::default(); 32];
        let limit = timeout.map(Timespec::from_ns);
        let limit = limit.as_ref().map_or(ptr::null(), |t| t as *const Timespec);
        let opened = mask.map(|mask| mask & !signal::bit(signal::KICK));
        let set = opened.as_ref().map_or(ptr::null(), |m| m as *const u64);
        if mask.is_some() {
            self.quiet.store(QUIET, Ordering::SeqCst);
        }
        // SAFETY: the buffers are ours and as long as said. A host signal's handler may run.
        let got =
            unsafe { host!(epoll_pwait2, family.epoll, events.as_mut_ptr(), events.len(), limit, set, 8) };
        if mask.is_some()
            && self.quiet.compare_exchange(QUIET, BUSY, Ordering::SeqCst, Ordering::SeqCst).is_err()
        {
            // The process ends (`halt_others`): nothing may be touched any more.
            platform::thread::exit_host_thread();
        }
        // EINTR: a signal; the loop looks at `work` next.
        for event in &events[..got.unwrap_or(0)] {
            let Event { events, data } = *event;
            let callback = family.watches.lock().get(data);
            if let Some(callback) = callback {
                callback.ready(events);
            }
        }
    }
}

/// In a switch: every so often a busy vCPU polls, so that threads that keep each other busy do not
/// starve the network and the timers.
pub(crate) fn poll_sometimes() {
    let here = block();
    let switches = here.switches.load(Ordering::Relaxed).wrapping_add(1);
    here.switches.store(switches, Ordering::Relaxed);
    if switches.is_multiple_of(SWITCHES_PER_POLL) {
        here.poll_all(false);
    }
}

/// Pending work at the end of a stay in the kernel (depth is 0).
#[cold]
pub(crate) fn leave_slow() {
    loop {
        arch::depth_up();
        do_work(None);
        if arch::depth_down() == 0 {
            return;
        }
    }
}

/// Does what is pending for this vCPU and the current thread. `frame`: the interrupted program.
pub(crate) fn do_work(frame: Option<&mut arch::Frame>) {
    let process = process();
    let work = block().work.swap(0, Ordering::SeqCst);
    if work & WORK_SIGNAL != 0 {
        (process.hooks.host_signals)();
    }
    if work & WORK_TICK != 0 {
        tick();
    }
    // The thread may be on another vCPU now. Attention last: it may never come back.
    if let Some(thread) = crate::thread::try_current()
        && thread.attention.swap(false, Ordering::SeqCst)
    {
        (process.hooks.attention)(frame);
    }
}

/// A time slice is over: look at the network and the clock, and let others run.
fn tick() {
    let here = block();
    (process().hooks.tick)(here.index);
    here.poll_all(true);
    // SAFETY: the vCPU's current thread is alive.
    let Some(thread) = (unsafe { here.current.get().as_ref() }) else { return };
    if here.queue.len() == 0 {
        return;
    }
    wake_another();
    let (rank, first) = (thread.rank(), here.queue.first_priority());
    if first > rank.priority {
        switch_away(After::Preempt);
    } else if first == rank.priority && !rank.fifo {
        switch_away(After::Yield);
    }
}
