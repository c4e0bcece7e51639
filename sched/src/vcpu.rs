//! vCPUs: host threads that run guest threads, poll when there are none, and then sleep.
//!
//! `%gs` points at a vCPU's [`Block`]. Its first fields are touched by single instructions from any
//! place (`arch`); the rest only from inside the kernel, where the calling thread stays put.
//!
//! Placement: a woken thread joins the queue of the vCPU that wakes it, because waking another
//! core costs about 50 us and a switch here 20 ns. Sleeping vCPUs are rung only for a backlog: when
//! two or more wait, or when a tick finds one that waited for a whole time slice.

use crate::arch;
use crate::blocking::Helpers;
use crate::hooks::Hooks;
use crate::host_fd::{self, Event, Watches};
use crate::run_queue::RunQueue;
use crate::signal;
use crate::thread::Thread;
use crate::timer::Timers;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use platform::errno::Result;
use platform::host;
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
/// Shortest spin, so that a spin can ever be found to pay.
const LEAST_SPIN_NS: u64 = 1_000;
/// A busy vCPU polls at every so many switches.
const SWITCHES_PER_POLL: u32 = 64;
/// A thread that waited this long is taken by an idle vCPU.
const PATIENCE_NS: u64 = 20_000;
/// Stack of a vCPU's host thread (its loop, hooks.poll).
const LOOP_STACK: usize = 256 * 1024;

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
    pub(crate) epoll: i32,
    pub(crate) doorbell: i32,
    sleeping: AtomicBool,
    pub(crate) queue: RunQueue,
    pub(crate) timers: Timers,
    pub(crate) watches: Lock<Watches>,
}
const _: () = assert!(core::mem::offset_of!(Block, depth) == arch::DEPTH);
const _: () = assert!(core::mem::offset_of!(Block, work) == arch::WORK);
const _: () = assert!(core::mem::offset_of!(Block, cache) == arch::CACHE);

// SAFETY: the cells belong to the host thread whose `%gs` points here; what others touch is atomic
// or locked.
unsafe impl Sync for Block {}

/// The scheduler of one process: the root of this crate's state.
pub(crate) struct Process {
    /// Complete before the first is adopted, and never grown: addresses stay.
    vcpus: Vec<Block>,
    pub(crate) hooks: Hooks,
    pub(crate) config: Config,
    pub(crate) pid: i32,
    pub(crate) next_thread: AtomicU32,
    pub(crate) next_timer: AtomicU64,
    /// Threads that have not exited.
    pub(crate) threads: AtomicU32,
    sleepers: AtomicU32,
    pub(crate) stopping: AtomicBool,
    pub(crate) helpers: Helpers,
    next_cache: AtomicU32,
    /// Signals that were ignored when the process was started.
    pub(crate) ignored: AtomicU64,
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
    // SAFETY: set by `init`, never freed.
    unsafe { &*block().process.get() }
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

/// The eventfd that ends vCPU `vcpu`'s sleep when 8 bytes are written to it.
pub fn doorbell_fd(vcpu: u32) -> i32 {
    by_index(vcpu).expect("a vCPU").doorbell
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

/// Before anything else on a host thread: gives it a block, so that [`crate::enter`] and the global
/// allocator work. The caller is inside the kernel from here on.
pub fn boot() {
    // A process constant in effect: only the initial host thread ever uses it, until `init`.
    static BOOT: Block = Block::new(NONE, -1, -1);
    BOOT.adopt(ptr::null());
}

/// Makes the scheduler of this process on the initial host thread, which becomes vCPU 0 (see
/// [`run`]). After [`boot`]. Once.
pub fn init(config: Config, hooks: Hooks) -> Result<()> {
    arch::check_machine()?;
    let mut vcpus = Vec::new();
    for index in 0..config.cpus.max(1) {
        // SAFETY: neither call touches our memory.
        let (epoll, doorbell) =
            unsafe { (host!(epoll_create1, EPOLL_CLOEXEC)? as i32, host!(eventfd2, 0, EFD_FLAGS)? as i32) };
        host_fd::add_doorbell(epoll, doorbell)?;
        vcpus.push(Block::new(index, epoll, doorbell));
    }
    let process = Box::leak(Box::new(Process {
        vcpus,
        hooks,
        config,
        pid: platform::thread::getpid(),
        next_thread: AtomicU32::new(1),
        next_timer: AtomicU64::new(1),
        threads: AtomicU32::new(0),
        sleepers: AtomicU32::new(0),
        stopping: AtomicBool::new(false),
        helpers: Helpers::new(),
        next_cache: AtomicU32::new(config.cpus.max(1)),
        ignored: AtomicU64::new(0),
    }));
    process.vcpus[0].adopt(process);
    if config.signals {
        signal::install()?;
        signal::prepare_host_thread()?;
    }
    Ok(())
}

const EPOLL_CLOEXEC: usize = 0o2000000;
/// `EFD_CLOEXEC | EFD_NONBLOCK`
const EFD_FLAGS: usize = 0o2000000 | 0o4000;

/// Starts the other vCPUs and runs guest threads on this one (vCPU 0) for good.
pub fn run() -> ! {
    for index in 1..count() {
        if let Err(error) = start_host_thread(vcpu_main, index) {
            panic!("vCPU {index} cannot be started: {error}");
        }
    }
    run_loop();
    unreachable!("only tests stop a vCPU")
}

extern "C" fn vcpu_main(argument: usize, process: usize) -> ! {
    // SAFETY: `start_host_thread` passes this process's address.
    let process = unsafe { &*(process as *const Process) };
    process.vcpus[argument].adopt(process);
    if process.config.signals
        && let Err(error) = signal::prepare_host_thread()
    {
        panic!("vCPU {argument}: {error}");
    }
    run_loop();
    platform::thread::exit_host_thread()
}

/// Starts a helper host thread with a block of its own (no vCPU, in the kernel for good).
pub(crate) fn start_helper(body: fn() -> !) -> Result<()> {
    extern "C" fn helper_main(argument: usize, process: usize) -> ! {
        // SAFETY: `start_host_thread` passes this process's address and `body`'s.
        let (process, body) =
            unsafe { (&*(process as *const Process), core::mem::transmute::<usize, fn() -> !>(argument)) };
        let block = Block::new(NONE, -1, -1);
        block.cache.set(process.next_cache.fetch_add(1, Ordering::Relaxed));
        block.adopt(process);
        if process.config.signals {
            signal::prepare_helper();
        }
        body()
    }
    start_host_thread(helper_main, body as usize)
}

fn start_host_thread(main: extern "C" fn(usize, usize) -> !, argument: impl Argument) -> Result<()> {
    let process: *const Process = process();
    let stack =
        platform::mem::map_private(0, LOOP_STACK, platform::mem::Prot::READ | platform::mem::Prot::WRITE)?;
    // Signals stay blocked until the new thread has its own block: it starts with ours in `%gs`.
    let mask = signal::block_all();
    // SAFETY: the stack is fresh and stays mapped; the entry never returns.
    let made = unsafe {
        platform::thread::start_host_thread(stack + LOOP_STACK, main, argument.word(), process as usize)
    };
    signal::restore_mask(mask);
    made.map(drop)
}

/// A word for a new host thread.
trait Argument {
    fn word(self) -> usize;
}
impl Argument for usize {
    fn word(self) -> usize {
        self
    }
}
impl Argument for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

pub(crate) fn by_index<'a>(vcpu: u32) -> Option<&'a Block> {
    process().vcpus.get(vcpu as usize)
}

/// This vCPU; on a helper the first.
pub(crate) fn current_or_first<'a>() -> &'a Block {
    match block().index {
        NONE => by_index(0).expect("vCPU 0"),
        _ => block(),
    }
}

impl Block {
    pub(crate) const fn new(index: u32, epoll: i32, doorbell: i32) -> Block {
        Block {
            this: Cell::new(ptr::null()),
            depth: Cell::new(1),
            work: AtomicU8::new(0),
            current: Cell::new(ptr::null()),
            cache: Cell::new(if index == NONE { 0 } else { index }),
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
            epoll,
            doorbell,
            sleeping: AtomicBool::new(false),
            queue: RunQueue::new(),
            timers: Timers::new(),
            watches: Watches::new(),
        }
    }

    /// Makes this the calling host thread's block.
    pub(crate) fn adopt(&self, process: *const Process) {
        self.this.set(self);
        self.process.set(process);
        self.tid.store(platform::thread::gettid(), Ordering::Relaxed);
        arch::write_gs_base(&raw const *self as usize);
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
            let one = 1u64;
            // SAFETY: eight bytes of ours. EAGAIN (a full counter) has rung it already.
            let _ = unsafe { host!(write, self.doorbell, &raw const one, 8) };
        }
    }
}

/// Puts a READY thread into a queue: the caller's own, or from a helper the thread's last one.
pub(crate) fn enqueue(thread: &Thread) {
    let here = block();
    if here.index != NONE {
        if here.queue.push(thread) >= 2 {
            wake_another();
        }
        return;
    }
    let target = by_index(thread.vcpu.load(Ordering::Relaxed)).expect("a vCPU");
    target.queue.push(thread);
    if !target.sleeping.load(Ordering::SeqCst) {
        wake_another();
    }
    target.ring();
}

/// Rings one sleeping vCPU, if there is one: it will steal.
fn wake_another() {
    let process = process();
    if process.sleepers.load(Ordering::SeqCst) == 0 {
        return;
    }
    if let Some(block) = process.vcpus.iter().find(|b| b.sleeping.load(Ordering::SeqCst)) {
        block.ring();
    }
}

/// Makes vCPU `vcpu` look at its work: interrupts program code there, or ends its sleep.
pub(crate) fn interrupt(vcpu: u32) {
    let Some(target) = by_index(vcpu) else { return };
    target.mark(WORK_ATTENTION);
    if target.index != block().index && process().config.signals {
        platform::thread::tgkill(process().pid, target.tid.load(Ordering::Relaxed), signal::KICK);
    }
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
        loop {
            for _ in 0..16 {
                core::hint::spin_loop();
            }
            if self.poll_all(false) || self.steal() || process.stopping.load(Ordering::Relaxed) {
                let longer = (self.spin_ns.get() * 2).min(MOST_SPIN_NS);
                self.spin_ns.set(longer);
                return;
            }
            if !process.config.busy && platform::time::now().since(start) >= self.spin_ns.get() {
                return self.sleep();
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
        let polls = self.polls.get().wrapping_add(1);
        self.polls.set(polls);
        if descriptors || polls.is_multiple_of(16) {
            self.wait(Some(0));
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

    /// Sleeps until a doorbell, a descriptor, a signal or the next deadline.
    fn sleep(&self) {
        let process = process();
        let start = platform::time::now();
        // Dekker's pattern with `enqueue`: announce, then look; push, then look for sleepers.
        self.sleeping.store(true, Ordering::SeqCst);
        process.sleepers.fetch_add(1, Ordering::SeqCst);
        let idle = process.vcpus.iter().all(|other| other.queue.len() < 2)
            && self.queue.len() == 0
            && self.work.load(Ordering::SeqCst) == 0
            && !process.stopping.load(Ordering::SeqCst);
        if idle && (process.hooks.before_sleep)(self.index) {
            self.wait(self.time_to_deadline());
        }
        process.sleepers.fetch_sub(1, Ordering::SeqCst);
        self.sleeping.store(false, Ordering::SeqCst);
        (process.hooks.after_sleep)(self.index);
        let slept = platform::time::now().since(start);
        let spin = match slept < MOST_SPIN_NS {
            true => MOST_SPIN_NS,
            false => (self.spin_ns.get() / 2).max(LEAST_SPIN_NS),
        };
        self.spin_ns.set(spin);
    }

    /// Nanoseconds to the next timer or network deadline; `None`: none.
    fn time_to_deadline(&self) -> Option<u64> {
        let network = (process().hooks.deadline)(self.index);
        let next = [self.timers.next(), network].into_iter().flatten().min()?;
        Some(next.since(platform::time::now()))
    }

    /// epoll_pwait2: tells watches; `timeout` in nanoseconds, `None` without end.
    fn wait(&self, timeout: Option<u64>) {
        let mut events = [Event::default(); 64];
        let limit = timeout.map(Timespec::from_ns);
        let limit = limit.as_ref().map_or(ptr::null(), |t| t as *const Timespec);
        // SAFETY: the buffers are ours and as long as said. A host signal's handler may run; the mask
        // stays as it is.
        let got = unsafe { host!(epoll_pwait2, self.epoll, events.as_mut_ptr(), events.len(), limit, 0, 0) };
        // EINTR: a signal; the loop looks at `work` next.
        for event in &events[..got.unwrap_or(0)] {
            let Event { events, data } = *event;
            if data == host_fd::DOORBELL {
                continue;
            }
            let callback = self.watches.lock().get(data);
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
    if here.queue.len() != 0 && !here.current.get().is_null() {
        wake_another();
        switch_away(After::Yield);
    }
}
