//! A process of the guest: what its threads share. And the root of all kernel state.
//!
//! Everything here lies in the shared arena, so that the processes of a guest see each other. A
//! process holds plain owned parts ([`FdTable`], [`Credentials`], limits, actions), each of which
//! `fork` can copy by itself. The root is the only way in: one pointer, constant after start-up,
//! and the same in every process of the family because the arena is at one address.
//!
//! Left out: threads ([`crate::task`]), signals' meaning ([`crate::signal`]), descriptors
//! ([`crate::fd`]), how processes are made ([`crate::fork`]) and how they end ([`crate::reap`]).

use crate::fd::FdTable;
use crate::hub::Hub;
use crate::signal::{Actions, Pending};
use crate::task::Task;
use crate::{Result, futex, posix_timer, rt};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use platform::host;
use platform::sync::Lock;
use platform::time::Instant;
use sched::slots::Slots;

/// `RLIMIT_CPU`.
pub const RLIMIT_CPU: usize = 0;
/// `RLIMIT_FSIZE`.
pub const RLIMIT_FSIZE: usize = 1;
/// `RLIMIT_STACK`.
pub const RLIMIT_STACK: usize = 3;
/// `RLIMIT_NPROC`.
pub const RLIMIT_NPROC: usize = 6;
/// `RLIMIT_AS`.
pub const RLIMIT_AS: usize = 9;
/// `RLIMIT_NOFILE`.
pub const RLIMIT_NOFILE: usize = 7;
/// `RLIMIT_SIGPENDING`.
pub const RLIMIT_SIGPENDING: usize = 11;
/// `RLIM_NLIMITS`.
pub const LIMITS: usize = 16;
/// Highest thread id, as `/proc/sys/kernel/pid_max` of a 64-bit Linux.
const ID_MAX: u32 = 4_194_304;

/// What the guest's main gives the personality.
pub struct Config<'a> {
    /// Host name that uname(2) answers.
    pub hostname: &'a str,
    /// The first process's id, which is its first thread's too.
    pub pid: u32,
    /// The first process's user and groups; `None`: the host's own.
    pub credentials: Option<Credentials>,
}

/// All kernel state of a guest.
pub struct Root {
    processes: Lock<Slots<Arc<Process>>>,
    next_id: AtomicU32,
    /// The guest's first process.
    pub first: u32,
    /// The process group that the host's terminal means (Ctrl-C) if no standard stream is that terminal: the
    /// first one's. Else [`crate::tty`] knows.
    pub foreground: AtomicU32,
    /// Processes that have not ended.
    living: AtomicU32,
    /// Threads that wait on user addresses.
    pub futexes: futex::Table,
    /// Names of AF_UNIX sockets.
    pub unix: crate::unix_socket::Names,
    /// AF_UNIX sockets that are under way in messages.
    pub in_flight: crate::unix_garbage::InFlight,
    /// Whose the host's descriptors are.
    pub(crate) hands: crate::hands::Accounts,
    /// Looks for sockets of the killed.
    pub(crate) lost: Arc<crate::lost::Search>,
    /// Message queues, System V objects, terminals and the like.
    pub ipc: crate::ipc::Ipc,
    /// What uname(2) calls `nodename` (sethostname(2) changes it).
    pub hostname: Lock<String>,
    /// Held while an epoll is put into an epoll.
    pub epoll_nesting: Lock<()>,
    /// Record locks (fcntl(2)).
    pub record_locks: crate::record_lock::Table,
    missed: [AtomicU64; MISSED_WORDS],
}

const MISSED_WORDS: usize = crate::table::NUMBERS.div_ceil(64) + 1;

/// The root's address: a constant once the guest has started.
static ROOT: AtomicPtr<Root> = AtomicPtr::new(core::ptr::null_mut());

/// This host process's own process of the guest: a constant but for `fork`'s child, which sets its own.
static OWN: AtomicPtr<Process> = AtomicPtr::new(core::ptr::null_mut());

/// The process that this host process is, once it has been started.
pub fn own() -> Option<&'static Process> {
    // SAFETY: null, or a process that lives as long as its host process (`set_own`).
    unsafe { OWN.load(Ordering::Acquire).as_ref() }
}

/// Tells which process of the guest this host process is.
pub fn set_own(process: &Arc<Process>) {
    // Without a count, which nobody would give back: `set_host` has left one with the scheduler.
    OWN.store(Arc::as_ptr(process).cast_mut(), Ordering::Release);
}

/// The root of the kernel state.
///
/// # Panics
/// Before [`start`].
#[inline]
pub fn root() -> &'static Root {
    // SAFETY: set once by `start`, to a leaked box.
    unsafe { ROOT.load(Ordering::Acquire).as_ref() }.expect("the personality was started")
}

/// Makes the root and the first process, with one thread, which is the running one.
pub fn start(config: &Config) -> Arc<Process> {
    let root = Box::new(Root {
        processes: Lock::new(Slots::new()),
        next_id: AtomicU32::new(config.pid),
        first: config.pid,
        foreground: AtomicU32::new(config.pid),
        living: AtomicU32::new(0),
        futexes: futex::Table::new(),
        unix: crate::unix_socket::Names::new(),
        in_flight: crate::unix_garbage::InFlight::new(),
        hands: crate::hands::Accounts::default(),
        lost: Arc::default(),
        ipc: crate::ipc::Ipc::default(),
        hostname: Lock::new(String::from(config.hostname)),
        epoll_nesting: Lock::new(()),
        record_locks: crate::record_lock::Table::default(),
        missed: [const { AtomicU64::new(0) }; MISSED_WORDS],
    });
    let fresh = Box::into_raw(root);
    let null = core::ptr::null_mut();
    if ROOT.compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: somebody else's root stands; this one was never seen.
        drop(unsafe { Box::from_raw(fresh) });
    }
    let credentials = config.credentials.clone().unwrap_or_else(Credentials::of_host);
    let process = self::root().add_process(credentials, 0);
    process.set_host(rt::own_host());
    set_own(&process);
    process
}

impl Root {
    /// A fresh process without threads.
    pub fn add_process(&self, credentials: Credentials, parent: u32) -> Arc<Process> {
        let pid = self.new_id();
        let process = Arc::new(Process::new(pid, parent, credentials));
        self.processes.lock().insert(pid, process.clone());
        self.living.fetch_add(1, Ordering::SeqCst);
        process
    }

    /// Puts a process into the table: it can be found from here on.
    pub fn insert_process(&self, process: &Arc<Process>) {
        self.processes.lock().insert(process.pid, process.clone());
        self.living.fetch_add(1, Ordering::SeqCst);
        // Last: who is killed in here has it counted once too often at worst, and the guest does not end early.
        process.counted_out.store(false, Ordering::SeqCst);
    }

    /// The processes for which `pick` holds, by id.
    pub fn processes_that(&self, mut pick: impl FnMut(&Process) -> bool) -> Vec<Arc<Process>> {
        let mut found: Vec<Arc<Process>> =
            self.processes.lock().iter().filter(|process| pick(process)).cloned().collect();
        found.sort_unstable_by_key(|process| process.pid);
        found
    }

    /// The process with this id.
    pub fn process(&self, pid: u32) -> Option<Arc<Process>> {
        self.processes.lock().get(pid).cloned()
    }

    /// All processes, by id.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.processes_that(|_| true)
    }

    /// The thread with this id, in whatever process.
    pub fn task(&self, tid: u32) -> Option<Arc<Task>> {
        // In place: whoever is killed with counts of all processes in its hands keeps all of them for ever.
        self.processes.lock().iter().find_map(|process| process.task(tid))
    }

    /// Forgets a process that has ended.
    pub fn remove_process(&self, pid: u32) {
        let gone = self.processes.lock().remove(pid);
        drop(gone);
    }

    /// As [`Root::remove_process`], if it is still this one that the id names: to do it again does no harm.
    pub fn forget_process(&self, process: &Process) {
        let is_this = |there: &Arc<Process>| core::ptr::eq(&raw const **there, process);
        let gone = self.processes.lock().remove_if(process.pid, is_this);
        drop(gone);
    }

    /// One process has ended; answers whether it was the guest's last one.
    pub fn one_less(&self) -> bool {
        self.living.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Whether a missing call is made for the first time. All unknown numbers count as one.
    pub fn first_miss(&self, number: usize) -> bool {
        let number = number.min(MISSED_WORDS * 64 - 1);
        let bit = 1 << (number % 64);
        self.missed[number / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// An id for a new process or thread: ascending, past those in use after a wrap.
    pub fn new_id(&self) -> u32 {
        loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            if id >= ID_MAX {
                // Low ids are kept for what lives longest, as Linux does (RESERVED_PIDS).
                let _ = self.next_id.compare_exchange(id + 1, 300, Ordering::Relaxed, Ordering::Relaxed);
                continue;
            }
            if id != 0 && self.process(id).is_none() && self.task(id).is_none() {
                return id;
            }
        }
    }
}

/// A process.
pub struct Process {
    /// Its id; gettid(2) of its first thread.
    pub pid: u32,
    /// Who made it; 0 for the guest's first process.
    pub parent: AtomicU32,
    /// Process group.
    pub group: AtomicU32,
    /// Session.
    pub session: AtomicU32,
    /// Descriptors.
    pub fds: FdTable,
    /// User and group ids.
    pub credentials: Lock<Credentials>,
    /// The tree as it sees it: root and working directory.
    pub view: crate::path::ViewCell,
    /// Shared mappings and semaphore undo.
    pub ipc: crate::ipc::Own,
    /// brk(2).
    pub heap: crate::memory::Heap,
    /// mlockall(2): what becomes of new memory (`MCL_FUTURE`, `MCL_ONFAULT`).
    pub future_locks: AtomicU32,
    /// What it runs, for /proc.
    pub image: Lock<crate::proc::Image>,
    /// umask(2).
    pub umask: AtomicU32,
    /// What each signal does.
    pub actions: Actions,
    /// Signals sent to the process that no thread has taken.
    pub pending: Pending,
    /// Told when a signal becomes pending: signalfds.
    pub signal_hubs: Lock<Vec<Weak<Hub>>>,
    /// POSIX and interval timers.
    pub timers: posix_timer::Timers,
    /// When it began.
    pub started: Instant,
    /// prctl(PR_SET_DUMPABLE).
    pub dumpable: AtomicI32,
    /// prctl(PR_SET_KEEPCAPS).
    pub keep_caps: AtomicBool,
    /// prctl(PR_SET_CHILD_SUBREAPER).
    pub subreaper: AtomicBool,
    /// What its parent gets when it ends: 0, or a signal (clone(2)).
    pub exit_signal: AtomicI32,
    /// It has executed a program since the fork (setpgid(2)).
    pub executed: AtomicBool,
    /// Running, stopped, or a zombie.
    pub life: Lock<crate::reap::Life>,
    /// Told when something happens to a child.
    pub child_hub: Hub,
    /// Told when a vforked child no longer needs its parent's memory.
    pub released: Hub,
    /// Resources that reaped children used.
    pub children_usage: Lock<crate::reap::Usage>,
    /// How it ends: 0, or [`ENDING`] and the wait status.
    ending: AtomicU32,
    /// The thread that executes a program and ends all others, or 0.
    claimed: AtomicU32,
    host: Lock<Option<rt::HostRef>>,
    /// Who outside the guest wants to know how it ends (`attacca exec`).
    pub(crate) ended: Lock<Option<Arc<dyn crate::enter::Ended>>>,
    /// What its end means for others has been done (`reap::leave`).
    pub(crate) left: AtomicBool,
    /// It is no longer counted among the living.
    pub(crate) counted_out: AtomicBool,
    /// The host process of a vforked child's lender, in which it runs until it has one of its own.
    pub(crate) lent_by: Lock<Option<rt::HostRef>>,
    /// The thread that ended it, until its host process is gone.
    pub(crate) last: Lock<Option<Arc<Task>>>,
    /// That thread's name: a zombie's.
    pub(crate) last_name: Lock<[u8; 16]>,
    limits: Lock<[Limit; LIMITS]>,
    tasks: Lock<Slots<Arc<Task>>>,
}

/// Set in [`Process::ending`] with the status.
const ENDING: u32 = 1 << 31;

impl Process {
    fn new(pid: u32, parent: u32, credentials: Credentials) -> Process {
        Process {
            pid,
            parent: AtomicU32::new(parent),
            group: AtomicU32::new(pid),
            session: AtomicU32::new(pid),
            fds: FdTable::new(),
            credentials: Lock::new(credentials),
            view: crate::path::ViewCell::new(),
            ipc: crate::ipc::Own::default(),
            heap: crate::memory::Heap::new(),
            future_locks: AtomicU32::new(0),
            image: Lock::default(),
            umask: AtomicU32::new(host_umask()),
            actions: Actions::new(),
            pending: Pending::new(),
            signal_hubs: Lock::new(Vec::new()),
            timers: posix_timer::Timers::new(),
            started: platform::time::now(),
            dumpable: AtomicI32::new(1),
            keep_caps: AtomicBool::new(false),
            subreaper: AtomicBool::new(false),
            exit_signal: AtomicI32::new(crate::signal::number::SIGCHLD),
            executed: AtomicBool::new(false),
            life: Lock::default(),
            child_hub: Hub::new(),
            released: Hub::new(),
            children_usage: Lock::default(),
            ending: AtomicU32::new(0),
            claimed: AtomicU32::new(0),
            host: Lock::new(None),
            ended: Lock::new(None),
            left: AtomicBool::new(false),
            counted_out: AtomicBool::new(false),
            lent_by: Lock::new(None),
            last: Lock::new(None),
            last_name: Lock::default(),
            limits: Lock::new(host_limits()),
            tasks: Lock::new(Slots::new()),
        }
    }

    /// The child of a fork (fork(2)): it has copies of what POSIX says is copied, no threads, no timers,
    /// and no pending signals. It is in no table yet. `share_files`: CLONE_FILES without a thread is not
    /// there, so descriptors are always copied.
    pub(crate) fn forked(&self, parent: u32, exit_signal: i32) -> Arc<Process> {
        Arc::new(Process {
            pid: root().new_id(),
            parent: AtomicU32::new(parent),
            group: AtomicU32::new(self.group.load(Ordering::Relaxed)),
            session: AtomicU32::new(self.session.load(Ordering::Relaxed)),
            fds: self.fds.fork(),
            credentials: Lock::new(self.credentials.lock().clone()),
            view: self.view.fork(),
            ipc: self.ipc.fork(),
            heap: self.heap.fork(),
            future_locks: AtomicU32::new(0),
            image: Lock::new(self.image.lock().clone()),
            umask: AtomicU32::new(self.umask.load(Ordering::Relaxed)),
            actions: self.actions.fork(),
            pending: Pending::new(),
            signal_hubs: Lock::new(Vec::new()),
            timers: posix_timer::Timers::new(),
            started: platform::time::now(),
            dumpable: AtomicI32::new(self.dumpable.load(Ordering::Relaxed)),
            keep_caps: AtomicBool::new(self.keep_caps.load(Ordering::Relaxed)),
            subreaper: AtomicBool::new(false),
            exit_signal: AtomicI32::new(exit_signal),
            executed: AtomicBool::new(false),
            life: Lock::default(),
            child_hub: Hub::new(),
            released: Hub::new(),
            children_usage: Lock::default(),
            ending: AtomicU32::new(0),
            claimed: AtomicU32::new(0),
            host: Lock::new(None),
            ended: Lock::new(None),
            left: AtomicBool::new(false),
            // Until it is in the table (`Root::insert_process`).
            counted_out: AtomicBool::new(true),
            lent_by: Lock::new(None),
            last: Lock::new(None),
            last_name: Lock::default(),
            limits: Lock::new(*self.limits.lock()),
            tasks: Lock::new(Slots::new()),
        })
    }

    /// The host process it runs in.
    pub fn host(&self) -> Option<rt::HostRef> {
        self.host.lock().clone()
    }

    /// Tells in which host process it runs.
    pub(crate) fn set_host(self: &Arc<Self>, host: rt::HostRef) {
        let before = rt::swap_host_local(&host, Arc::into_raw(self.clone()).cast_mut().cast());
        // SAFETY: null, or the count that an earlier call left there.
        drop(unsafe { before.cast::<Process>().as_ref().map(|before| Arc::from_raw(before)) });
        self.host.set(Some(host));
    }

    /// The process that ran in a host process which is gone.
    pub(crate) fn behind_host(host: &rt::HostRef) -> Option<Arc<Process>> {
        let local = rt::host_local(host).cast_const().cast::<Process>();
        // SAFETY: null, or with the count that `set_host` left there, and we take one more.
        unsafe {
            let process = local.as_ref()?;
            Arc::increment_strong_count(process);
            Some(Arc::from_raw(local))
        }
    }

    /// The same, once: it goes with the count that the host process had.
    pub(crate) fn of_host(host: &rt::HostRef) -> Option<Arc<Process>> {
        let local = rt::swap_host_local(host, core::ptr::null_mut());
        // SAFETY: null, or the count that `set_host` left there.
        unsafe { local.cast::<Process>().as_ref().map(|process| Arc::from_raw(process)) }
    }

    /// Its host process is gone.
    pub(crate) fn forget_host(&self) {
        let gone = self.host.lock().take();
        drop(gone);
    }

    /// Thread `tid` wants to be the only one (execve(2)); 0: it is. `false`: another was faster.
    pub(crate) fn claim(&self, tid: u32) -> bool {
        match tid {
            0 => self.claimed.store(0, Ordering::SeqCst),
            _ => return self.claimed.compare_exchange(0, tid, Ordering::SeqCst, Ordering::SeqCst).is_ok(),
        }
        true
    }

    /// Whether thread `tid` must leave for another one's execve(2).
    pub(crate) fn claimed_from(&self, tid: u32) -> bool {
        let by = self.claimed.load(Ordering::SeqCst);
        by != 0 && by != tid
    }

    /// Whether it is a zombie or less.
    pub fn has_ended(&self) -> bool {
        self.life.lock().has_ended()
    }

    /// The wait status that it ends with, once that is decided: its threads leave as they notice.
    #[inline]
    pub fn ending(&self) -> Option<u32> {
        match self.ending.load(Ordering::SeqCst) {
            0 => None,
            ending => Some(ending & !ENDING),
        }
    }

    /// The soft limit of a resource (`RLIMIT_*`).
    pub fn limit(&self, resource: usize) -> usize {
        self.limits.lock()[resource].soft as usize
    }

    /// EAGAIN if its user has as many threads as it may have (getrlimit(2), RLIMIT_NPROC; clone(2)).
    pub fn check_threads(&self) -> crate::Result<()> {
        let limit = self.limit(RLIMIT_NPROC);
        let uid = {
            let own = self.credentials.lock();
            if limit == usize::MAX || own.uid == 0 || own.privileged() {
                return Ok(());
            }
            own.uid
        };
        let of_user = root().processes_that(|process| process.credentials.lock().uid == uid);
        let count: usize = of_user.iter().map(|process| process.task_count()).sum();
        if count >= limit { Err(crate::Errno::EAGAIN) } else { Ok(()) }
    }

    /// Both limits of a resource.
    pub fn limits(&self, resource: usize) -> Limit {
        self.limits.lock()[resource]
    }

    /// Changes both limits of a resource.
    pub fn set_limits(&self, resource: usize, limit: Limit) {
        self.limits.lock()[resource] = limit;
    }

    /// Its threads now.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().iter().cloned().collect()
    }

    /// How many threads it has.
    pub fn task_count(&self) -> usize {
        self.tasks.lock().len()
    }

    /// Its thread with this id.
    pub fn task(&self, tid: u32) -> Option<Arc<Task>> {
        self.tasks.lock().get(tid).cloned()
    }

    /// The first thread for which `pick` holds.
    pub fn find_task(&self, pick: impl FnMut(&&Arc<Task>) -> bool) -> Option<Arc<Task>> {
        self.tasks.lock().iter().find(pick).cloned()
    }

    pub(crate) fn add_task(&self, task: Arc<Task>) {
        self.tasks.lock().insert(task.tid, task);
    }

    /// Takes a thread out; answers how many are left.
    pub(crate) fn remove_task(&self, tid: u32) -> usize {
        let mut tasks = self.tasks.lock();
        let gone = tasks.remove(tid);
        let left = tasks.len();
        drop(tasks);
        if let Some(last) = gone.filter(|_| left == 0) {
            *self.last_name.lock() = *last.name.lock();
        }
        left
    }

    /// Decides how the process ends, if that is not decided yet, and has its threads leave: each by itself,
    /// so that what it holds in a call is given back. `status` is what wait(2) shows.
    pub fn begin_exit(&self, status: u32) {
        if self.ending.compare_exchange(0, ENDING | status, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.pending.doom();
            self.tasks().iter().for_each(|task| task.nudge());
        }
    }

    /// Ends the process, called by one of its threads, which is gone at once. The others follow.
    pub fn exit(&self, status: u32) -> ! {
        self.begin_exit(status);
        crate::thread::end()
    }
}

/// A resource limit; `u64::MAX` is RLIM_INFINITY. The kernel's `struct rlimit64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What applies.
    pub soft: u64,
    /// How far the soft limit may be raised.
    pub hard: u64,
}

/// User and group ids (credentials(7)).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
}

impl Credentials {
    /// One user and group in every role.
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Credentials {
        Credentials { uid, euid: uid, suid: uid, fsuid: uid, gid, egid: gid, sgid: gid, fsgid: gid, groups }
    }

    /// What the host process has.
    pub fn of_host() -> Credentials {
        // SAFETY: these calls take no memory.
        let (uid, gid) = unsafe { (host!(getuid), host!(getgid)) };
        let mut groups = alloc::vec![0u32; 64];
        // SAFETY: the kernel writes at most `groups.len()` ids there.
        let count = unsafe { host!(getgroups, groups.len(), groups.as_mut_ptr()) }.unwrap_or(0);
        groups.truncate(count);
        Credentials::new(uid.unwrap_or(65534) as u32, gid.unwrap_or(65534) as u32, groups)
    }

    /// Whether the process may change ids at will (root inside the guest).
    pub fn privileged(&self) -> bool {
        self.euid == 0
    }
}

/// The host's limits are the first process's.
fn host_limits() -> [Limit; LIMITS] {
    let mut limits = [Limit { soft: u64::MAX, hard: u64::MAX }; LIMITS];
    for (resource, limit) in limits.iter_mut().enumerate() {
        // SAFETY: the kernel writes one struct rlimit64 there; a failure leaves it as it is.
        let _: Result = unsafe { host!(prlimit64, 0, resource, 0, &raw mut *limit) };
    }
    limits
}

/// The host process's umask. Only umask(2) tells it, and only by changing it: set back at once.
fn host_umask() -> u32 {
    // SAFETY: no memory is involved.
    unsafe {
        let mask = host!(umask, 0o22).unwrap_or(0o22);
        let _ = host!(umask, mask);
        mask as u32
    }
}
