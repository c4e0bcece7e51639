//! Signals: who gets which, and when (signal(7)). Sending, pending sets, dispositions, the choice
//! of the next one to deliver, and the calls of the family.
//!
//! A signal is sent to a process or to a thread; it waits in that one's [`Pending`] until a thread
//! that does not block it comes out of the kernel. There [`next`] takes signals one by one, carries
//! out default actions, and hands those with a handler to [`crate::signal_frame`].
//!
//! Left out: core files (the "core" action ends the process as "terminate" does).

use crate::args::{MaskHow, Signal};
use crate::context::Ctx;
use crate::errno::RESTART_NO_HANDLER;
use crate::hub::Events;
use crate::process::{Process, RLIMIT_SIGPENDING, root};
use crate::task::Task;
use crate::user::UserPtr;
use crate::wait::{self, Woken};
use crate::{Errno, Result, rt};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use platform::host;
use platform::sync::Lock;
use platform::time::Timespec;

/// Highest signal number.
pub const SIGNALS: i32 = 64;
/// First real-time signal: from here on they queue.
pub const SIGRTMIN: i32 = 32;
#[allow(missing_docs)]
pub mod number {
    pub const SIGHUP: i32 = 1;
    pub const SIGILL: i32 = 4;
    pub const SIGTRAP: i32 = 5;
    pub const SIGBUS: i32 = 7;
    pub const SIGFPE: i32 = 8;
    pub const SIGKILL: i32 = 9;
    pub const SIGSEGV: i32 = 11;
    pub const SIGPIPE: i32 = 13;
    pub const SIGALRM: i32 = 14;
    pub const SIGCHLD: i32 = 17;
    pub const SIGCONT: i32 = 18;
    pub const SIGSTOP: i32 = 19;
    pub const SIGTSTP: i32 = 20;
    pub const SIGTTIN: i32 = 21;
    pub const SIGTTOU: i32 = 22;
    pub const SIGURG: i32 = 23;
    pub const SIGVTALRM: i32 = 26;
    pub const SIGPROF: i32 = 27;
    pub const SIGWINCH: i32 = 28;
    pub const SIGSYS: i32 = 31;
}
use number::*;

/// Default disposition.
pub const SIG_DFL: usize = 0;
/// Ignored.
pub const SIG_IGN: usize = 1;
/// Do not block the signal in its own handler.
pub const SA_NODEFER: u64 = 0x4000_0000;
/// Back to the default before the handler runs.
pub const SA_RESETHAND: u64 = 0x8000_0000;
/// Make interrupted calls again.
pub const SA_RESTART: u64 = 0x1000_0000;
/// SIGCHLD only for children that end.
pub const SA_NOCLDSTOP: u64 = 1;
/// Children leave no zombies.
pub const SA_NOCLDWAIT: u64 = 2;
/// Use the alternate stack.
pub const SA_ONSTACK: u64 = 0x0800_0000;
/// `restorer` is set.
pub const SA_RESTORER: u64 = 0x0400_0000;

/// `si_code`: kill(2).
pub const SI_USER: i32 = 0;
/// `si_code`: sigqueue(3).
pub const SI_QUEUE: i32 = -1;
/// `si_code`: a POSIX timer.
pub const SI_TIMER: i32 = -2;
/// `si_code`: tgkill(2).
pub const SI_TKILL: i32 = -6;
const SIGABRT: i32 = 6;
/// `si_code`: the kernel.
pub const SI_KERNEL: i32 = 0x80;

/// A signal's bit in a mask.
#[inline]
pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What cannot be blocked, caught or ignored.
const UNBLOCKABLE: u64 = bit(SIGKILL) | bit(SIGSTOP);
/// Taken first: caused by the thread's own instruction (kernel's SYNCHRONOUS_MASK).
const SYNCHRONOUS: u64 = bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE) | bit(SIGSYS);
const DEFAULT_IGNORED: u64 = bit(SIGCHLD) | bit(SIGURG) | bit(SIGWINCH) | bit(SIGCONT);
const DEFAULT_STOP: u64 = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);

/// What came with a signal: the used part of `siginfo_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// `si_signo`.
    pub signo: i32,
    /// `si_errno`.
    pub errno: i32,
    /// `si_code`.
    pub code: i32,
    /// The union from offset 16 on.
    pub fields: [u64; 6],
}

/// The kernel's `siginfo_t`: 128 bytes.
pub type RawInfo = [u64; 16];

impl Info {
    /// From a process: kill(2), tgkill(2).
    pub fn from_user(signo: i32, code: i32, ctx: &Ctx) -> Info {
        let uid = ctx.process.credentials.lock().uid;
        let sender = u64::from(ctx.process.pid) | u64::from(uid) << 32;
        Info { signo, errno: 0, code, fields: [sender, 0, 0, 0, 0, 0] }
    }

    /// From the kernel, without more to say.
    pub const fn from_kernel(signo: i32) -> Info {
        Info { signo, errno: 0, code: SI_KERNEL, fields: [0; 6] }
    }

    /// A fault at `address`.
    pub const fn fault(signo: i32, code: i32, address: usize) -> Info {
        Info { signo, errno: 0, code, fields: [address as u64, 0, 0, 0, 0, 0] }
    }

    /// The kernel's layout.
    pub fn to_raw(self) -> RawInfo {
        let mut raw = [0; 16];
        raw[0] = u64::from(self.signo as u32) | u64::from(self.errno as u32) << 32;
        raw[1] = u64::from(self.code as u32);
        raw[2..8].copy_from_slice(&self.fields);
        raw
    }

    /// From the kernel's layout.
    pub fn from_raw(raw: &RawInfo) -> Info {
        let mut fields = [0; 6];
        fields.copy_from_slice(&raw[2..8]);
        Info { signo: raw[0] as i32, errno: (raw[0] >> 32) as i32, code: raw[1] as i32, fields }
    }
}

/// Signals that wait.
pub struct Pending {
    /// Mirror of which ones: looked at on every way out of the kernel.
    bits: AtomicU64,
    /// The process ends: SIGKILL waits for ever, without being queued.
    doomed: AtomicBool,
    queue: Lock<VecDeque<Info>>,
}

impl Pending {
    /// None.
    pub const fn new() -> Pending {
        Pending { bits: AtomicU64::new(0), doomed: AtomicBool::new(false), queue: Lock::new(VecDeque::new()) }
    }

    /// Every wait of the process is interrupted from here on, and every way out of the kernel finds
    /// something to do.
    pub fn doom(&self) {
        let queue = self.queue.lock();
        self.doomed.store(true, Ordering::Relaxed);
        self.update(&queue);
    }

    /// Which signals wait.
    #[inline]
    pub fn bits(&self) -> u64 {
        self.bits.load(Ordering::SeqCst)
    }

    /// Adds one. A standard signal that waits already is not queued again; EAGAIN if `limit`
    /// real-time signals wait.
    pub fn push(&self, info: Info, limit: usize) -> Result<()> {
        let mut queue = self.queue.lock();
        let bits = self.bits.load(Ordering::Relaxed);
        if info.signo < SIGRTMIN && bits & bit(info.signo) != 0 {
            return Ok(());
        }
        if info.signo >= SIGRTMIN && queue.len() >= limit {
            return Err(Errno::EAGAIN);
        }
        queue.push_back(info);
        self.bits.store(bits | bit(info.signo), Ordering::SeqCst);
        Ok(())
    }

    /// Takes the first of `allowed`: synchronous ones, then by number, then by age.
    pub fn take(&self, allowed: u64) -> Option<Info> {
        if self.bits() & allowed == 0 {
            return None;
        }
        let mut queue = self.queue.lock();
        let ready = self.bits.load(Ordering::Relaxed) & allowed;
        let first = if ready & SYNCHRONOUS != 0 { ready & SYNCHRONOUS } else { ready };
        if first == 0 {
            return None;
        }
        let signo = first.trailing_zeros() as i32 + 1;
        let at = queue.iter().position(|info| info.signo == signo)?;
        let info = queue.remove(at);
        self.update(&queue);
        info
    }

    /// Takes what waits in `other`, which is empty then.
    pub fn take_over(&self, other: &Pending) {
        let waiting = core::mem::take(&mut *other.queue.lock());
        let mut queue = self.queue.lock();
        queue.extend(waiting);
        self.update(&queue);
    }

    /// Drops all of `signals`.
    pub fn discard(&self, signals: u64) {
        if self.bits() & signals != 0 {
            let mut queue = self.queue.lock();
            queue.retain(|info| bit(info.signo) & signals == 0);
            self.update(&queue);
        }
    }

    fn update(&self, queue: &VecDeque<Info>) {
        let doom = if self.doomed.load(Ordering::Relaxed) { bit(SIGKILL) } else { 0 };
        let bits = queue.iter().fold(doom, |bits, info| bits | bit(info.signo));
        self.bits.store(bits, Ordering::SeqCst);
    }
}

impl Default for Pending {
    fn default() -> Self {
        Pending::new()
    }
}

/// What a signal does: the kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Action {
    /// Handler, SIG_DFL or SIG_IGN.
    pub handler: usize,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: usize,
    /// Blocked while it runs.
    pub mask: u64,
}

/// The dispositions of a process.
pub struct Actions {
    /// Signals that are ignored, by SIG_IGN or by default.
    ignored: AtomicU64,
    table: Lock<[Action; SIGNALS as usize]>,
}

impl Actions {
    /// All default.
    pub fn new() -> Actions {
        let table = [Action::default(); SIGNALS as usize];
        Actions { ignored: AtomicU64::new(DEFAULT_IGNORED), table: Lock::new(table) }
    }

    /// A copy for a child.
    pub fn fork(&self) -> Actions {
        let table = self.table.lock();
        let ignored = AtomicU64::new(self.ignored.load(Ordering::Relaxed));
        Actions { ignored, table: Lock::new(*table) }
    }

    /// Handlers become defaults; what is ignored stays so (execve(2), CLONE_CLEAR_SIGHAND).
    pub fn reset(&self) {
        for signal in 1..=SIGNALS {
            if self.get(signal).handler != SIG_IGN {
                self.set(signal, Action::default());
            }
        }
    }

    /// What `signal` does.
    pub fn get(&self, signal: i32) -> Action {
        self.table.lock()[signal as usize - 1]
    }

    /// Changes what `signal` does; answers what it did.
    pub fn set(&self, signal: i32, action: Action) -> Action {
        let mut table = self.table.lock();
        let ignored = match action.handler {
            SIG_IGN => true,
            SIG_DFL => DEFAULT_IGNORED & bit(signal) != 0,
            _ => false,
        };
        if ignored {
            self.ignored.fetch_or(bit(signal), Ordering::SeqCst);
        } else {
            self.ignored.fetch_and(!bit(signal), Ordering::SeqCst);
        }
        core::mem::replace(&mut table[signal as usize - 1], action)
    }

    /// Whether `signal` is thrown away.
    pub fn ignores(&self, signal: i32) -> bool {
        self.ignored.load(Ordering::Relaxed) & bit(signal) != 0
    }
}

impl Default for Actions {
    fn default() -> Self {
        Actions::new()
    }
}

/// The kernel's `stack_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub base: usize,
    /// `SS_*`.
    pub flags: i32,
    pad: i32,
    /// Bytes.
    pub len: usize,
}

/// No alternate stack.
pub const SS_DISABLE: i32 = 2;
/// The thread runs on it.
pub const SS_ONSTACK: i32 = 1;
/// Forget it when a handler starts.
pub const SS_AUTODISARM: i32 = 1 << 31;

impl AltStack {
    /// None.
    pub const fn disabled() -> AltStack {
        AltStack { base: 0, flags: SS_DISABLE, pad: 0, len: 0 }
    }

    /// A stack.
    pub const fn new(base: usize, flags: i32, len: usize) -> AltStack {
        AltStack { base, flags, pad: 0, len }
    }

    /// Whether a stack pointer lies on it.
    pub fn holds(&self, stack_pointer: usize) -> bool {
        stack_pointer > self.base && stack_pointer - self.base <= self.len
    }
}

// ---- sending ----

/// Sends to a process: some thread that does not block it will take it.
pub fn send_process(process: &Process, info: Info) -> Result<()> {
    if leave_with(process, info)? {
        tell(process, info.signo);
    }
    Ok(())
}

/// Sends to several processes. All of them have it before the first is told: if that ends by it, others may see its pipes
/// closed, and must find their signal on their way out of the call then. (Linux has the processes' list locked
/// meanwhile: kernel/signal.c, __kill_pgrp_info.)
pub fn send_processes(processes: &[Arc<Process>], info: Info) -> Result<()> {
    let mut answer = Ok(());
    let mut told = Vec::new();
    for process in processes {
        match leave_with(process, info) {
            Ok(true) => told.push(process),
            Ok(false) => {}
            Err(errno) => answer = Err(errno),
        }
    }
    told.into_iter().for_each(|process| tell(process, info.signo));
    answer
}

/// Puts a signal before a process, which is told later ([`tell`]). `false`: it ignores it.
fn leave_with(process: &Process, info: Info) -> Result<bool> {
    let first = process.find_task(|_| true);
    let blocked = first.is_some_and(|task| task.blocked.load(Ordering::Relaxed) & bit(info.signo) != 0);
    note_continue(process, info.signo);
    if process.actions.ignores(info.signo) && !blocked {
        return Ok(false);
    }
    process.pending.push(info, process.limit(RLIMIT_SIGPENDING)).map(|_| true)
}

fn tell(process: &Process, signal: i32) {
    if let Some(task) = process.find_task(|task| wants(task, signal)) {
        task.nudge();
    }
    tell_signalfds(process);
}

/// Sends to one thread.
pub fn send_task(task: &Task, info: Info) -> Result<()> {
    let blocked = task.blocked.load(Ordering::Relaxed) & bit(info.signo) != 0;
    note_continue(&task.process, info.signo);
    if task.process.actions.ignores(info.signo) && !blocked {
        return Ok(());
    }
    task.pending.push(info, task.process.limit(RLIMIT_SIGPENDING))?;
    if wants(task, info.signo) {
        task.nudge();
    }
    tell_signalfds(&task.process);
    Ok(())
}

/// A fault of the running thread: as [`send_task`], but it cannot be blocked or ignored (Linux's
/// force_sig_info). Answers `false` if the default action applies.
pub fn force(task: &Task, info: Info) -> bool {
    let signal = info.signo;
    let action = task.process.actions.get(signal);
    let blocked = task.blocked.load(Ordering::Relaxed) & bit(signal) != 0;
    if blocked || action.handler <= SIG_IGN {
        return false;
    }
    let _ = task.pending.push(info, usize::MAX);
    true
}

fn wants(task: &Task, signal: i32) -> bool {
    let blocked = task.blocked.load(Ordering::SeqCst) & !task.awaited.load(Ordering::SeqCst);
    blocked & bit(signal) == 0
}

/// SIGCONT and the stop signals cancel each other's waiting instances (signal(7)).
fn note_continue(process: &Process, signal: i32) {
    let cancel = if signal == SIGCONT {
        DEFAULT_STOP
    } else if DEFAULT_STOP & bit(signal) != 0 {
        bit(SIGCONT)
    } else {
        return;
    };
    process.pending.discard(cancel);
    process.tasks().iter().for_each(|task| task.pending.discard(cancel));
    if signal == SIGCONT {
        crate::reap::go_on(process);
    }
}

fn tell_signalfds(process: &Process) {
    let hubs: Vec<_> = {
        let mut hubs = process.signal_hubs.lock();
        if hubs.is_empty() {
            return;
        }
        hubs.retain(|hub| hub.strong_count() != 0);
        hubs.iter().filter_map(|hub| hub.upgrade()).collect()
    };
    for hub in hubs {
        hub.notify(Events::READABLE);
    }
}

// ---- taking ----

/// The next signal that calls a handler in `task`, the running thread. Default actions are carried
/// out on the way, so this may not return. The mask is changed as for the handler's run; the mask
/// to go back to is in the answer.
pub fn next(task: &Task) -> Option<Delivery> {
    loop {
        if task.process.ending().is_some() || task.process.claimed_from(task.tid) {
            crate::thread::end();
        }
        crate::reap::wait_stopped(task);
        let allowed = !task.blocked.load(Ordering::Relaxed);
        let info = take(task, allowed)?;
        let action = task.process.actions.get(info.signo);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => default_action(task, &info),
            _ => return Some(begin(task, action, info)),
        }
    }
}

/// Takes the first of `allowed` that waits for the running thread or its process.
pub fn take(task: &Task, allowed: u64) -> Option<Info> {
    let mut info = task.pending.take(allowed).or_else(|| task.process.pending.take(allowed))?;
    if info.code == SI_TIMER {
        task.process.timers.delivered(&mut info);
    }
    Some(info)
}

/// A signal on its way to its handler.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// What to call.
    pub action: Action,
    /// With what.
    pub info: Info,
    /// The mask that rt_sigreturn brings back.
    pub old_mask: u64,
}

fn begin(task: &Task, action: Action, info: Info) -> Delivery {
    if action.flags & SA_RESETHAND != 0 {
        let default = Action { handler: SIG_DFL, ..action };
        task.process.actions.set(info.signo, default);
    }
    let now = task.blocked.load(Ordering::Relaxed);
    let old_mask = task.saved_mask.take().unwrap_or(now);
    let own = if action.flags & SA_NODEFER != 0 { 0 } else { bit(info.signo) };
    set_mask(task, now | action.mask | own);
    Delivery { action, info, old_mask }
}

fn default_action(task: &Task, info: &Info) {
    let signal = info.signo;
    let bit = bit(signal);
    if bit & DEFAULT_IGNORED != 0 {
        return;
    }
    if bit & DEFAULT_STOP != 0 {
        // signal(7): the terminal's stop signals do nothing to a group that nobody would continue.
        let group = task.process.group.load(Ordering::Relaxed);
        if signal != SIGSTOP && crate::reap::is_orphaned(group, 0) {
            return;
        }
        return match task.process.parent.load(Ordering::Relaxed) {
            // Its parent is on the host.
            0 if signal == SIGSTOP || host_would_continue() => stop(),
            0 => (),
            _ => crate::reap::stop(&task.process, signal),
        };
    }
    // abort(3) comes this way. Natively a core file would tell where from.
    if signal == SIGABRT && info.code == SI_TKILL {
        rt::report_abort(signal);
    }
    task.process.exit(signal as u32)
}

/// Whether the first process's parent could continue it: it is in another group of the same session of the
/// host (POSIX 3.264).
fn host_would_continue() -> bool {
    // SAFETY: no memory is involved.
    unsafe {
        let Ok(parent) = host!(getppid) else { return false };
        host!(getsid, parent) == host!(getsid, 0) && host!(getpgid, parent) != host!(getpgid, 0)
    }
}

/// Stops the guest as the signal would stop a native process: the host's shell sees it stopped and
/// continues it.
fn stop() {
    // SAFETY: signals to the own host process; no memory is involved.
    unsafe {
        if let Ok(pid) = host!(getpid) {
            let _ = host!(kill, pid, SIGSTOP);
        }
    }
}

/// Sets the running thread's mask.
pub fn set_mask(task: &Task, mask: u64) {
    task.blocked.store(mask & !UNBLOCKABLE, Ordering::SeqCst);
}

/// Replaces the mask for the length of a call (ppoll, sigsuspend): signals that it lets through are
/// handled under it, and after their handlers, or at the end of the call, the old one comes back.
pub fn set_mask_for_call(task: &Task, mask: u64) {
    let now = task.blocked.load(Ordering::Relaxed);
    task.saved_mask.keep(now);
    set_mask(task, mask);
}

/// Brings back the mask of before [`set_mask_for_call`].
pub fn restore_mask(task: &Task) {
    if let Some(mask) = task.saved_mask.take() {
        set_mask(task, mask);
    }
}

/// Reads the mask of a ppoll-like call and sets it. `size` must be 8 (EINVAL).
pub fn take_call_mask(ctx: &Ctx, mask: UserPtr<u64>, size: usize) -> Result<()> {
    if mask.is_null() {
        return Ok(());
    }
    check_size(size)?;
    set_mask_for_call(ctx.task, mask.read()?);
    Ok(())
}

// ---- calls ----

fn check_size(size: usize) -> Result<()> {
    if size == 8 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn check_signal(signal: i32) -> Result<()> {
    if (1..=SIGNALS).contains(&signal) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// rt_sigaction(2).
pub fn rt_sigaction(
    ctx: &Ctx,
    signal: Signal,
    new: UserPtr<Action>,
    old: UserPtr<Action>,
    size: usize,
) -> Result {
    check_size(size)?;
    check_signal(signal.0)?;
    let new = new.read_optional()?;
    let actions = &ctx.process.actions;
    let before = match new {
        Some(_) if UNBLOCKABLE & bit(signal.0) != 0 => return Err(Errno::EINVAL),
        Some(action) => actions.set(signal.0, Action { mask: action.mask & !UNBLOCKABLE, ..action }),
        None => actions.get(signal.0),
    };
    if new.is_some() && actions.ignores(signal.0) {
        // POSIX: what waits is discarded when the action becomes "ignore".
        ctx.process.pending.discard(bit(signal.0));
        ctx.process.tasks().iter().for_each(|task| task.pending.discard(bit(signal.0)));
    }
    old.write_optional(before)?;
    Ok(0)
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask(ctx: &Ctx, how: MaskHow, new: UserPtr<u64>, old: UserPtr<u64>, size: usize) -> Result {
    check_size(size)?;
    let before = ctx.task.blocked.load(Ordering::Relaxed);
    if let Some(set) = new.read_optional()? {
        let mask = match how.0 {
            0 => before | set,
            1 => before & !set,
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        set_mask(ctx.task, mask);
        pass_on(ctx.task, mask & !before);
    }
    old.write_optional(before)?;
    Ok(0)
}

/// The running thread has just blocked `blocked`: process signals among them that wait for it go to
/// another thread, if one takes them (Linux's retarget_shared_pending).
fn pass_on(task: &Task, blocked: u64) {
    let waiting = task.process.pending.bits() & blocked;
    if waiting == 0 {
        return;
    }
    let takes = |other: &&Arc<Task>| other.blocked.load(Ordering::SeqCst) & waiting != waiting;
    if let Some(other) = task.process.find_task(takes) {
        other.nudge();
    }
}

/// rt_sigpending(2).
pub fn rt_sigpending(ctx: &Ctx, set: UserPtr<u64>, size: usize) -> Result {
    if size > 8 {
        return Err(Errno::EINVAL);
    }
    let waiting = ctx.task.pending.bits() | ctx.process.pending.bits();
    set.write(waiting & ctx.task.blocked.load(Ordering::Relaxed))?;
    Ok(0)
}

/// rt_sigsuspend(2).
pub fn rt_sigsuspend(ctx: &Ctx, mask: UserPtr<u64>, size: usize) -> Result {
    check_size(size)?;
    set_mask_for_call(ctx.task, mask.read()?);
    pause(ctx)
}

/// pause(2).
pub fn pause(ctx: &Ctx) -> Result {
    wait::sleep_until(ctx, None, RESTART_NO_HANDLER)?;
    Err(RESTART_NO_HANDLER)
}

/// rt_sigtimedwait(2).
pub fn rt_sigtimedwait(
    ctx: &Ctx,
    set: UserPtr<u64>,
    info: UserPtr<RawInfo>,
    timeout: UserPtr<Timespec>,
    size: usize,
) -> Result {
    check_size(size)?;
    let set = set.read()? & !UNBLOCKABLE;
    let deadline = match timeout.read_optional()? {
        Some(time) => Some(platform::time::now().after(crate::time::valid(time)?)),
        None => None,
    };
    let taken = wait_for(ctx, set, deadline)?;
    info.write_optional(taken.to_raw())?;
    Ok(taken.signo as usize)
}

fn wait_for(ctx: &Ctx, set: u64, deadline: Option<platform::time::Instant>) -> Result<Info> {
    let take = || take(ctx.task, set);
    loop {
        if let Some(info) = take() {
            return Ok(info);
        }
        ctx.task.awaited.store(set, Ordering::SeqCst);
        ctx.task.waiter.reset();
        let woken = wait::sleep(ctx.task, deadline);
        ctx.task.awaited.store(0, Ordering::SeqCst);
        if let Some(info) = take() {
            return Ok(info);
        }
        match woken {
            Woken::Event => {}
            Woken::Deadline => return Err(Errno::EAGAIN),
            // Another thread may have taken the signal that woke us: then it is not for us.
            Woken::Signal if ctx.task.has_signal() => return Err(Errno::EINTR),
            Woken::Signal => {}
        }
    }
}

/// kill(2).
pub fn kill(ctx: &Ctx, pid: i32, signal: Signal) -> Result {
    let targets: Vec<_> = match pid {
        1.. => root().process(pid as u32).into_iter().collect(),
        0 => in_group(ctx.process.group.load(Ordering::Relaxed)),
        // kill(2): all but the caller and the guest's first process.
        -1 => root().processes().into_iter().filter(|p| p.pid != ctx.process.pid && p.pid != 1).collect(),
        i32::MIN => return Err(Errno::ESRCH),
        group => in_group(group.unsigned_abs()),
    };
    if targets.is_empty() {
        return Err(absent(pid));
    }
    check_signal_or_zero(signal)?;
    let info = Info::from_user(signal.0, SI_USER, ctx);
    let allowed = |process: &Arc<Process>| {
        // kill(2): SIGCONT may go to any process of the session.
        let session = |p: &Process| p.session.load(Ordering::Relaxed);
        may_signal(ctx, process) || signal.0 == SIGCONT && session(process) == session(ctx.process)
    };
    let targets: Vec<_> = targets.into_iter().filter(allowed).collect();
    if targets.is_empty() {
        return Err(Errno::EPERM);
    }
    if signal.0 != 0 {
        send_processes(&targets, info)?;
    }
    Ok(0)
}

/// A process that is not in the guest. Init is there, as the parent of orphans (getppid(2)), but outside: nobody
/// inside may signal it.
pub(crate) fn absent(pid: i32) -> Errno {
    const INIT: i32 = 1;
    if pid == INIT { Errno::EPERM } else { Errno::ESRCH }
}

fn in_group(group: u32) -> Vec<Arc<Process>> {
    root().processes().into_iter().filter(|p| p.group.load(Ordering::Relaxed) == group).collect()
}

fn check_signal_or_zero(signal: Signal) -> Result<()> {
    if signal.0 == 0 { Ok(()) } else { check_signal(signal.0) }
}

/// kill(2): root, or the sender's real or effective uid is the receiver's real or saved one.
fn may_signal(ctx: &Ctx, process: &Arc<Process>) -> bool {
    if Arc::ptr_eq(ctx.process, process) {
        return true;
    }
    let (own, other) = (ctx.process.credentials.lock().clone(), process.credentials.lock().clone());
    own.privileged() || [own.uid, own.euid].iter().any(|id| *id == other.uid || *id == other.suid)
}

/// tgkill(2).
pub fn tgkill(ctx: &Ctx, group: i32, tid: i32, signal: Signal) -> Result {
    if group <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let task = find(Some(group as u32), tid as u32)?;
    send_checked(ctx, &task, signal, Info::from_user(signal.0, SI_TKILL, ctx))
}

/// tkill(2).
pub fn tkill(ctx: &Ctx, tid: i32, signal: Signal) -> Result {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let task = find(None, tid as u32)?;
    send_checked(ctx, &task, signal, Info::from_user(signal.0, SI_TKILL, ctx))
}

fn find(group: Option<u32>, tid: u32) -> Result<Arc<Task>> {
    let task = match group {
        Some(group) => root().process(group).and_then(|process| process.task(tid)),
        None => root().task(tid),
    };
    task.ok_or(Errno::ESRCH)
}

fn send_checked(ctx: &Ctx, task: &Task, signal: Signal, info: Info) -> Result {
    check_signal_or_zero(signal)?;
    if !may_signal(ctx, &task.process) {
        return Err(Errno::EPERM);
    }
    if signal.0 != 0 {
        send_task(task, info)?;
    }
    Ok(0)
}

/// rt_sigqueueinfo(2).
pub fn rt_sigqueueinfo(ctx: &Ctx, pid: i32, signal: Signal, info: UserPtr<RawInfo>) -> Result {
    let info = queued_info(ctx, pid, signal, info)?;
    let process = root().process(pid as u32).ok_or(absent(pid))?;
    check_signal_or_zero(signal)?;
    if !may_signal(ctx, &process) {
        return Err(Errno::EPERM);
    }
    if signal.0 != 0 {
        send_process(&process, info)?;
    }
    Ok(0)
}

/// A signal to the process of a pidfd (pidfd_send_signal(2)): as kill(2), or with the caller's words.
pub(crate) fn send_through(
    ctx: &Ctx,
    process: &Arc<Process>,
    signal: Signal,
    info: UserPtr<RawInfo>,
) -> Result {
    let info = match info.read_optional()? {
        None => Info::from_user(signal.0, SI_USER, ctx),
        Some(raw) => {
            let info = Info::from_raw(&raw);
            if info.signo != signal.0 {
                return Err(Errno::EINVAL);
            }
            not_forged(ctx, process.pid as i32, info)?
        }
    };
    check_signal_or_zero(signal)?;
    if process.life.lock().letter() == Some('X') {
        return Err(Errno::ESRCH);
    }
    if !may_signal(ctx, process) {
        return Err(Errno::EPERM);
    }
    if signal.0 != 0 {
        send_process(process, info)?;
    }
    Ok(0)
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo(ctx: &Ctx, group: i32, tid: i32, signal: Signal, info: UserPtr<RawInfo>) -> Result {
    if group <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let info = queued_info(ctx, group, signal, info)?;
    let task = find(Some(group as u32), tid as u32)?;
    send_checked(ctx, &task, signal, info)
}

/// Only the kernel may say that a signal came from the kernel, or from kill(2), to someone else.
fn queued_info(ctx: &Ctx, pid: i32, signal: Signal, info: UserPtr<RawInfo>) -> Result<Info> {
    not_forged(ctx, pid, Info { signo: signal.0, ..Info::from_raw(&info.read()?) })
}

fn not_forged(ctx: &Ctx, pid: i32, info: Info) -> Result<Info> {
    let forged = info.code >= 0 || info.code == SI_TKILL;
    if forged && pid as u32 != ctx.process.pid { Err(Errno::EPERM) } else { Ok(info) }
}

/// sigaltstack(2). Where the thread runs is told by the address of our own stack frame: the call
/// came on the thread's stack.
pub fn sigaltstack(ctx: &Ctx, new: UserPtr<AltStack>, old: UserPtr<AltStack>) -> Result {
    let here = 0u8;
    let here = &raw const here as usize;
    let mut stack = ctx.task.altstack.lock();
    let before = *stack;
    let on_it = before.flags & SS_AUTODISARM == 0 && before.holds(here);
    if let Some(wish) = new.read_optional()? {
        if on_it {
            return Err(Errno::EPERM);
        }
        let mode = wish.flags & !SS_AUTODISARM;
        *stack = match mode {
            SS_DISABLE => AltStack::disabled(),
            0 | SS_ONSTACK if wish.len < MINSIGSTKSZ => return Err(Errno::ENOMEM),
            0 | SS_ONSTACK => AltStack { flags: wish.flags & SS_AUTODISARM, pad: 0, ..wish },
            _ => return Err(Errno::EINVAL),
        };
        rt::set_alternate_stack(stack.base, stack.len);
    }
    drop(stack);
    let state = match (before.len, on_it) {
        (0, _) => SS_DISABLE,
        (_, true) => SS_ONSTACK,
        _ => 0,
    };
    old.write_optional(AltStack { flags: state | before.flags & SS_AUTODISARM, ..before })?;
    Ok(0)
}

const MINSIGSTKSZ: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ctx, spawn, user};
    use platform::time::MILLISECOND;
    use std::time::Duration;

    const HANDLER: usize = 0x1000;
    const SIGUSR1: i32 = 10;

    fn info(signo: i32, value: u64) -> Info {
        Info { signo, errno: 0, code: SI_QUEUE, fields: [0, value, 0, 0, 0, 0] }
    }

    fn handle(ctx: &Ctx, signal: i32, flags: u64, mask: u64) {
        let action = Action { handler: HANDLER, flags, restorer: 0, mask };
        rt_sigaction(ctx, Signal(signal), user(&action), UserPtr::new(0), 8).unwrap();
    }

    #[test]
    fn standard_signals_merge_and_real_time_ones_queue() {
        let pending = Pending::new();
        for value in 0..3 {
            pending.push(info(SIGUSR1, value), 4).unwrap();
            pending.push(info(40, value), 9).unwrap();
            pending.push(info(35, value), 9).unwrap();
        }
        assert_eq!(pending.push(info(40, 9), 4), Err(Errno::EAGAIN));
        pending.push(info(SIGSEGV, 0), 4).unwrap();
        let order: Vec<_> =
            core::iter::from_fn(|| pending.take(u64::MAX)).map(|i| (i.signo, i.fields[1])).collect();
        let want = [(SIGSEGV, 0), (SIGUSR1, 0), (35, 0), (35, 1), (35, 2), (40, 0), (40, 1), (40, 2)];
        assert_eq!(order, want);
        assert_eq!(pending.bits(), 0);
    }

    #[test]
    fn handlers_run_under_their_mask() {
        let ctx = ctx();
        handle(&ctx, SIGUSR1, 0, bit(12));
        kill(&ctx, ctx.process.pid as i32, Signal(SIGUSR1)).unwrap();
        assert!(ctx.task.has_signal());
        let delivery = next(ctx.task).unwrap();
        assert_eq!((delivery.info.signo, delivery.info.code, delivery.old_mask), (SIGUSR1, SI_USER, 0));
        assert_eq!(delivery.info.fields[0] as u32, ctx.process.pid);
        assert_eq!(ctx.task.blocked.load(Ordering::Relaxed), bit(SIGUSR1) | bit(12));
        tgkill(&ctx, ctx.process.pid as i32, ctx.task.tid as i32, Signal(SIGUSR1)).unwrap();
        assert!(!ctx.task.has_signal());
        let set = 0u64;
        rt_sigpending(&ctx, user(&set), 8).unwrap();
        assert_eq!(std::hint::black_box(set), bit(SIGUSR1));
        set_mask(ctx.task, 0);
        assert_eq!(next(ctx.task).unwrap().info.code, SI_TKILL);
    }

    #[test]
    fn resethand_nodefer_and_saved_masks() {
        let ctx = ctx();
        handle(&ctx, SIGUSR1, SA_RESETHAND | SA_NODEFER, 0);
        set_mask(ctx.task, bit(3));
        set_mask_for_call(ctx.task, 0);
        send_task(ctx.task, info(SIGUSR1, 0)).unwrap();
        assert_eq!(next(ctx.task).unwrap().old_mask, bit(3));
        assert_eq!(ctx.task.blocked.load(Ordering::Relaxed), 0);
        assert_eq!(ctx.process.actions.get(SIGUSR1).handler, SIG_DFL);
        assert!(!ctx.task.mask_is_saved());
    }

    #[test]
    fn ignored_signals_vanish_and_blocked_ones_wait() {
        let ctx = ctx();
        kill(&ctx, ctx.process.pid as i32, Signal(SIGCHLD)).unwrap();
        assert_eq!(ctx.process.pending.bits(), 0);
        set_mask(ctx.task, bit(SIGCHLD));
        kill(&ctx, ctx.process.pid as i32, Signal(SIGCHLD)).unwrap();
        assert_eq!(ctx.process.pending.bits(), bit(SIGCHLD));
        let ignore = Action { handler: SIG_IGN, ..Action::default() };
        rt_sigaction(&ctx, Signal(SIGCHLD), user(&ignore), UserPtr::new(0), 8).unwrap();
        assert_eq!(ctx.process.pending.bits(), 0);
        assert_eq!(kill(&ctx, 4_000_000, Signal(0)), Err(Errno::ESRCH));
        assert_eq!(kill(&ctx, ctx.process.pid as i32, Signal(65)), Err(Errno::EINVAL));
        let kill_action = rt_sigaction(&ctx, Signal(SIGKILL), user(&ignore), UserPtr::new(0), 8);
        assert_eq!(kill_action, Err(Errno::EINVAL));
    }

    #[test]
    fn sigwait_takes_and_times_out() {
        let ctx = ctx();
        let set = bit(SIGUSR1) | bit(36);
        set_mask(ctx.task, set);
        let time = Timespec::from_ns(20 * MILLISECOND);
        let raw: RawInfo = [0; 16];
        let timed = rt_sigtimedwait(&ctx, user(&set), user(&raw), user(&time), 8);
        assert_eq!(timed, Err(Errno::EAGAIN));
        let pid = ctx.process.pid as i32;
        let sender = spawn(ctx.process, move |ctx| {
            std::thread::sleep(Duration::from_millis(20));
            let raw = info(36, 0xabcd).to_raw();
            rt_sigqueueinfo(&ctx, pid, Signal(36), user(&raw))
        });
        let taken = rt_sigtimedwait(&ctx, user(&set), user(&raw), UserPtr::new(0), 8);
        assert_eq!(taken, Ok(36));
        let raw = std::hint::black_box(raw);
        assert_eq!((raw[0] as u32, raw[3]), (36, 0xabcd));
        assert_eq!(sender.join().unwrap(), Ok(0));
    }

    #[test]
    fn a_signal_ends_a_wait() {
        let ctx = ctx();
        handle(&ctx, SIGUSR1, 0, 0);
        let (pid, tid) = (ctx.process.pid as i32, ctx.task.tid as i32);
        let sender = spawn(ctx.process, move |ctx| {
            std::thread::sleep(Duration::from_millis(20));
            tgkill(&ctx, pid, tid, Signal(SIGUSR1))
        });
        assert_eq!(pause(&ctx), Err(RESTART_NO_HANDLER));
        assert_eq!(next(ctx.task).map(|d| d.info.signo), Some(SIGUSR1));
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn process_signals_go_to_a_thread_that_takes_them() {
        let ctx = ctx();
        set_mask(ctx.task, bit(SIGUSR1));
        handle(&ctx, SIGUSR1, 0, 0);
        let sleeper = spawn(ctx.process, |ctx| (pause(&ctx), next(ctx.task).map(|d| d.info.signo)));
        std::thread::sleep(Duration::from_millis(30));
        kill(&ctx, ctx.process.pid as i32, Signal(SIGUSR1)).unwrap();
        assert_eq!(sleeper.join().unwrap(), (Err(RESTART_NO_HANDLER), Some(SIGUSR1)));
    }

    #[test]
    fn alternate_stacks_are_checked() {
        let ctx = ctx();
        let stack = AltStack::new(0x10000, 0, 100);
        let none = UserPtr::new(0);
        assert_eq!(sigaltstack(&ctx, user(&stack), none), Err(Errno::ENOMEM));
        let stack = AltStack::new(0x10000, 0, 8192);
        assert_eq!(sigaltstack(&ctx, user(&stack), none), Ok(0));
        let old = AltStack::disabled();
        assert_eq!(sigaltstack(&ctx, none, user(&old)), Ok(0));
        assert_eq!(std::hint::black_box(old), stack);
        let bad = AltStack::new(0x10000, 77, 8192);
        assert_eq!(sigaltstack(&ctx, user(&bad), none), Err(Errno::EINVAL));
    }
}
