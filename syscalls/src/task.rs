//! A thread of a process, as the personality sees it: ids, signal state, what it waits for.
//!
//! The scheduler's thread record points here ([`crate::context`]). A field that only its own thread
//! writes is an atomic with relaxed order: others may look, and act on what they saw only through
//! the thread's own check at its next kernel leave.

use crate::process::{Process, root};
use crate::signal::{AltStack, Pending};
use crate::wait::Waiter;
use crate::{futex, rt};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use platform::sync::Lock;

/// A thread.
pub struct Task {
    /// gettid(2).
    pub tid: u32,
    /// Whose thread it is.
    pub process: Arc<Process>,
    /// How events wake it.
    pub waiter: Arc<Waiter>,
    /// Blocked signals.
    pub blocked: AtomicU64,
    /// Signals that sigtimedwait(2) waits for: taken although blocked.
    pub awaited: AtomicU64,
    /// The mask to go back to after a call that changed it for its length (sigsuspend, ppoll).
    pub saved_mask: SavedMask,
    /// Signals sent to this very thread.
    pub pending: Pending,
    /// sigaltstack(2).
    pub altstack: Lock<AltStack>,
    /// What to clear, and wake, when the thread has ended (set_tid_address(2)).
    pub clear_tid: AtomicUsize,
    /// Head of the robust futex list (set_robust_list(2)).
    pub robust_list: AtomicUsize,
    /// prctl(PR_SET_NAME), NUL-padded.
    pub name: Lock<[u8; 16]>,
    /// Its place in a futex queue.
    pub futex: futex::Place,
    /// prctl(PR_SET_PDEATHSIG).
    pub death_signal: AtomicU64,
    /// prctl(PR_SET_TIMERSLACK).
    pub timer_slack: AtomicU64,
    /// sched_setscheduler(2), setpriority(2).
    pub schedule: Lock<crate::priority::Schedule>,
    /// sched_setaffinity(2); `None`: all CPUs.
    pub affinity: Lock<Option<crate::thread::CpuSet>>,
    /// What its call holds.
    pub stay: crate::stay::Stay,
    /// What its call has open at the host.
    pub hand: crate::hands::Hand,
    /// A vforked child: whose thread it runs on.
    pub(crate) lender: Lock<Option<Arc<Task>>>,
    /// A lender: the registers that it goes on with.
    pub(crate) going_back: Lock<Option<crate::fork::GoingBack>>,
}

impl Task {
    /// A new thread of `process`, not yet running, known by its id.
    pub fn new(process: &Arc<Process>, tid: u32, blocked: u64) -> Arc<Task> {
        let task = Task::unlisted(process, tid, blocked);
        process.add_task(task.clone());
        task
    }

    /// A thread that its process does not list yet.
    pub(crate) fn unlisted(process: &Arc<Process>, tid: u32, blocked: u64) -> Arc<Task> {
        Arc::new(Task {
            tid,
            process: process.clone(),
            waiter: Arc::new(Waiter::new()),
            blocked: AtomicU64::new(blocked),
            awaited: AtomicU64::new(0),
            saved_mask: SavedMask::default(),
            pending: Pending::new(),
            altstack: Lock::new(AltStack::disabled()),
            clear_tid: AtomicUsize::new(0),
            robust_list: AtomicUsize::new(0),
            name: Lock::new([0; 16]),
            futex: futex::Place::new(),
            death_signal: AtomicU64::new(0),
            timer_slack: AtomicU64::new(crate::info::DEFAULT_SLACK),
            schedule: Lock::new(crate::priority::Schedule::default()),
            affinity: Lock::new(None),
            stay: crate::stay::Stay::default(),
            hand: crate::hands::Hand::new(),
            lender: Lock::new(None),
            going_back: Lock::new(None),
        })
    }

    /// Whether it is a vforked child, which runs on another's thread and in its memory.
    pub fn borrows(&self) -> bool {
        self.lender.lock().is_some()
    }

    /// The first thread of a process: its id is the process's.
    pub fn first(process: &Arc<Process>) -> Arc<Task> {
        Task::new(process, process.pid, 0)
    }

    /// A further thread with a fresh id.
    pub fn further(process: &Arc<Process>, blocked: u64) -> Arc<Task> {
        Task::new(process, root().new_id(), blocked)
    }

    /// The only thread of a forked process: the caller's copy.
    pub fn forked(process: &Arc<Process>, of: &Task) -> Arc<Task> {
        let task = Task::new(process, process.pid, of.blocked.load(Ordering::Relaxed));
        *task.altstack.lock() = *of.altstack.lock();
        *task.name.lock() = *of.name.lock();
        *task.schedule.lock() = of.schedule.lock().inherited();
        *task.affinity.lock() = *of.affinity.lock();
        task.timer_slack.store(of.timer_slack.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Some(mask) = of.saved_mask.peek() {
            task.saved_mask.keep(mask);
        }
        task
    }

    /// Makes this the task of the running scheduler thread.
    pub fn attach(self: Arc<Task>) {
        self.waiter.bind(rt::current());
        rt::set_local(Arc::into_raw(self) as *mut ());
    }

    /// Whether a call has replaced the mask for its length.
    #[inline]
    pub fn mask_is_saved(&self) -> bool {
        self.saved_mask.is_set()
    }

    /// Another reference.
    pub fn arc(&self) -> Arc<Task> {
        // SAFETY: tasks are only made inside an Arc (`Task::new`), and `&self` keeps one count.
        unsafe {
            Arc::increment_strong_count(self);
            Arc::from_raw(self)
        }
    }

    /// Whether a signal waits that this thread may take now.
    #[inline]
    pub fn has_signal(&self) -> bool {
        let pending = self.pending.bits() | self.process.pending.bits();
        pending & !self.blocked.load(Ordering::Relaxed) != 0
    }

    /// As [`Task::has_signal`], with those that sigtimedwait(2) waits for.
    pub fn interrupted(&self) -> bool {
        let blocked = self.blocked.load(Ordering::Relaxed) & !self.awaited.load(Ordering::Relaxed);
        let pending = self.pending.bits() | self.process.pending.bits();
        pending & !blocked != 0
    }

    /// Gets the thread to look at its signals: out of a wait, or out of the program's code.
    pub fn nudge(&self) {
        if let Some(thread) = self.waiter.thread() {
            rt::request_attention(thread);
            rt::unpark(thread);
        }
    }
}

/// A mask to go back to. Only the thread itself uses it.
#[derive(Default)]
pub struct SavedMask {
    set: AtomicBool,
    mask: AtomicU64,
}

impl SavedMask {
    /// Whether there is one.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    /// Keeps `mask`, unless one is kept already.
    pub fn keep(&self, mask: u64) {
        if !self.is_set() {
            self.mask.store(mask, Ordering::Relaxed);
            self.set.store(true, Ordering::Relaxed);
        }
    }

    /// Looks at it.
    pub fn peek(&self) -> Option<u64> {
        self.is_set().then(|| self.mask.load(Ordering::Relaxed))
    }

    /// Takes it out.
    pub fn take(&self) -> Option<u64> {
        let set = self.is_set();
        self.set.store(false, Ordering::Relaxed);
        set.then(|| self.mask.load(Ordering::Relaxed))
    }
}
