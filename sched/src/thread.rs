//! Guest threads: create, park, unpark, yield, end.

use crate::arch;
use crate::state::Word;
use crate::timer;
use crate::vcpu::{self, After, Process};
use alloc::sync::Arc;
use core::cell::{Cell, UnsafeCell};
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use platform::Errno;
use platform::errno::Result;
use platform::time::Instant;

pub use crate::state::Wake;

/// Where a new thread begins.
#[derive(Clone, Copy)]
pub struct Start {
    /// Called with `argument` on the new stack, outside the kernel. Must not return.
    pub entry: unsafe extern "C" fn(*mut c_void),
    /// Its argument.
    pub argument: *mut c_void,
    /// End (highest address) of the stack.
    pub stack_top: usize,
    /// Value of `%fs` (the TCB); 0 keeps what the vCPU has.
    pub fs_base: usize,
}

/// A guest thread. Lives until it has exited and nobody holds it.
pub struct Thread {
    id: u32,
    /// Whose thread it is.
    pub(crate) process: Arc<Process>,
    pub(crate) word: Word,
    /// Link of the run queue it is in; owned by that queue's lock.
    pub(crate) next: UnsafeCell<*const Thread>,
    /// Its stack pointer while it is off its stack.
    pub(crate) stack_pointer: Cell<usize>,
    pub(crate) fs_base: Cell<usize>,
    /// Kernel depth while it is off its stack.
    pub(crate) depth: Cell<u32>,
    /// The vCPU it runs on, or ran on last.
    pub(crate) vcpu: AtomicU32,
    pub(crate) attention: AtomicBool,
    /// Its place among the ready threads ([`Rank`]).
    rank: AtomicU32,
    /// The reference that keeps a thread alive until it has exited, and what `current` lends out.
    me: UnsafeCell<Option<Arc<Thread>>>,
    local: AtomicPtr<()>,
    alternate: [AtomicUsize; 2],
}

// SAFETY: the cells are touched only by the vCPU that runs, resumes or finishes the switch of the
// thread, and the park protocol (`state`) makes that one vCPU at a time; `next` is the run queue's.
unsafe impl Sync for Thread {}
// SAFETY: as above; `local` is the personality's, which promises a type that is Send + Sync.
unsafe impl Send for Thread {}

/// Which of two ready threads runs first (sched(7)), among the threads of one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rank {
    /// 0: an ordinary thread; 1 to 99: before all with a smaller one.
    pub priority: u8,
    /// It runs until it waits or gives way, also beside others of its priority (SCHED_FIFO).
    pub fifo: bool,
}

/// The current thread. Kernel only; the reference is good while the thread runs.
///
/// Panics on a context that is no guest thread (an idle vCPU, a helper).
#[inline]
pub fn current() -> &'static Arc<Thread> {
    try_current().expect("a guest thread")
}

/// As [`current`]; `None` on an idle vCPU or a helper.
#[inline]
pub fn try_current() -> Option<&'static Arc<Thread>> {
    let thread = vcpu::block().current.get();
    if thread.is_null() {
        return None;
    }
    // SAFETY: a vCPU's current thread has not exited, so `me` is set and stays until it has.
    unsafe { (*(*thread).me.get()).as_ref() }
}

/// Waits until a permit comes ([`Thread::unpark`]) or the deadline passes. May also end for no
/// reason (attention): callers look at their condition again. Kernel only, no lock held.
pub fn park(deadline: Option<Instant>) -> Wake {
    let thread = &**current();
    if thread.word.take_permit() {
        return Wake::Unparked;
    }
    let Some(deadline) = deadline else {
        vcpu::switch_away(After::Park);
        return thread.word.end(false);
    };
    let sequence = thread.word.begin_timed();
    let timer = timer::add_park(deadline, current().clone(), sequence);
    vcpu::switch_away(After::Park);
    let wake = thread.word.end(true);
    if wake == Wake::Unparked {
        timer::cancel(timer);
    }
    wake
}

/// Lets the other ready threads of this vCPU run first; those of a lower rank wait on. Kernel only.
pub fn yield_now() {
    vcpu::poll_sometimes();
    let queue = &vcpu::block().queue;
    if queue.len() != 0 && queue.first_priority() >= current().rank().priority {
        vcpu::switch_away(After::Yield);
    }
}

/// Makes a thread and lets it run. Kernel only.
pub fn spawn(start: Start, local: *mut ()) -> Result<Arc<Thread>> {
    let thread = Thread::new(start, local)?;
    thread.start();
    Ok(thread)
}

/// Ends the current thread; `hooks.exited` follows when it is off its stack. Kernel only.
pub fn exit() -> ! {
    vcpu::switch_away(After::Exit);
    unreachable!("an exited thread was resumed")
}

/// Sets the current thread's FS base: `arch_prctl(ARCH_SET_FS)`. Kernel only.
pub fn set_fs_base(value: usize) {
    arch::write_fs_base(value);
}

/// The current thread's FS base.
pub fn fs_base() -> usize {
    arch::read_fs_base()
}

impl Thread {
    /// Makes a thread that does not run yet; [`Thread::start`] lets it. Kernel only. A thread that is
    /// never started is never freed.
    pub fn new(start: Start, local: *mut ()) -> Result<Arc<Thread>> {
        let top = start.stack_top & !15;
        // SAFETY: the stack belongs to the new thread; a bad address is caught as a fault in copying.
        let stack_pointer =
            unsafe { arch::prepare_stack(top, start.entry, start.argument) }.ok_or(Errno::EFAULT)?;
        Ok(Thread::make(vcpu::own(), Word::new(), stack_pointer, start.fs_base, local))
    }

    /// A thread of `process` that runs already: a forked child's only one.
    pub(crate) fn forked(process: &Arc<Process>, local: *mut (), alternate: (usize, usize)) -> Arc<Thread> {
        let thread = Thread::make(process.clone(), Word::running(), 0, 0, local);
        thread.vcpu.store(0, Ordering::Relaxed);
        if let Some(here) = try_current() {
            thread.rank.store(here.rank.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        thread.set_alternate_stack(alternate.0, alternate.1);
        thread
    }

    fn make(
        process: Arc<Process>,
        word: Word,
        stack_pointer: usize,
        fs_base: usize,
        local: *mut (),
    ) -> Arc<Thread> {
        let thread = Arc::new(Thread {
            id: process.family.next_thread.fetch_add(1, Ordering::Relaxed),
            process,
            word,
            next: UnsafeCell::new(ptr::null()),
            stack_pointer: Cell::new(stack_pointer),
            fs_base: Cell::new(fs_base),
            depth: Cell::new(1),
            vcpu: AtomicU32::new(vcpu::block().home()),
            attention: AtomicBool::new(false),
            rank: AtomicU32::new(0),
            me: UnsafeCell::new(None),
            local: AtomicPtr::new(local),
            alternate: [AtomicUsize::new(0), AtomicUsize::new(0)],
        });
        // SAFETY: nobody else knows the thread yet.
        unsafe { *thread.me.get() = Some(thread.clone()) };
        thread.process.threads.fetch_add(1, Ordering::Relaxed);
        thread
    }

    /// Lets a thread from [`Thread::new`] run. Once only.
    pub fn start(&self) {
        vcpu::enqueue(self);
        vcpu::start_vcpu_for_thread();
    }

    /// Its rank among the ready threads.
    #[inline]
    pub fn rank(&self) -> Rank {
        let bits = self.rank.load(Ordering::Relaxed);
        Rank { priority: bits as u8, fifo: bits >> 8 != 0 }
    }

    /// Gives it another rank, which counts at once. Kernel only.
    pub fn set_rank(&self, rank: Rank) {
        let bits = u32::from(rank.priority) | u32::from(rank.fifo) << 8;
        if self.rank.swap(bits, Ordering::Relaxed) != bits {
            vcpu::rank_changed(self);
        }
    }

    /// The scheduler of its process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Gives up a thread whose host process is gone: it will never run again, and nothing keeps it.
    pub fn abandon(&self) {
        drop(self.bury());
    }

    /// Gives the thread a permit: its present or next [`park`] ends. Kernel only.
    #[inline]
    pub fn unpark(&self) {
        if self.word.unpark() {
            vcpu::enqueue(self);
        }
    }

    /// A number unique in the guest.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The personality's record of the thread.
    #[inline]
    pub fn local(&self) -> &AtomicPtr<()> {
        &self.local
    }

    /// Has `hooks.attention` called in the thread soon: at its next way out of the kernel, or, if it
    /// runs program code on another vCPU, by interrupting it. Ends a park. Kernel only.
    pub fn request_attention(&self) {
        self.attention.store(true, Ordering::SeqCst);
        if ptr::eq(self, vcpu::block().current.get()) {
            vcpu::block().mark(vcpu::WORK_ATTENTION);
            // Its next park must end: it may be on the way there.
            self.word.unpark();
            return;
        }
        if self.word.is_running() {
            vcpu::interrupt(self);
        }
        self.unpark();
    }

    /// Whether attention has been asked for and not been given yet.
    pub fn attention_pending(&self) -> bool {
        self.attention.load(Ordering::SeqCst)
    }

    /// The program's alternate signal stack, where the state of a fault goes when the thread's own
    /// stack cannot hold it (stack overflow). Length 0: none.
    pub fn set_alternate_stack(&self, base: usize, len: usize) {
        self.alternate[0].store(base, Ordering::Relaxed);
        self.alternate[1].store(len, Ordering::Relaxed);
    }

    pub(crate) fn alternate_stack(&self) -> (usize, usize) {
        (self.alternate[0].load(Ordering::Relaxed), self.alternate[1].load(Ordering::Relaxed))
    }

    /// The thread has exited and is off its stack: gives up the reference that kept it alive.
    pub(crate) fn bury(&self) -> Option<Arc<Thread>> {
        // SAFETY: called once, by the vCPU that finished the thread's last switch.
        unsafe { (*self.me.get()).take() }
    }
}

impl core::fmt::Debug for Thread {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Thread({})", self.id)
    }
}
