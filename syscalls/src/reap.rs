//! The end of processes: zombies, their parents, wait4(2) and waitid(2).
//!
//! A process ends by its last thread ([`finish`]): what it has open is closed, its children get another
//! parent, and what is left is a zombie in the table until its parent has asked for its status. A
//! process whose host process was killed ends the same way, carried out by whoever of the family sees it
//! first ([`host_gone`]).

use crate::args::{Fd, WaitFlags};
use crate::context::Ctx;
use crate::hub::Events;
use crate::process::{Process, root};
use crate::signal::{self, Info, SA_NOCLDSTOP, SA_NOCLDWAIT, SIG_IGN, number::*};
use crate::task::Task;
use crate::user::UserPtr;
use crate::wait::{self, Waiting};
use crate::{Errno, Result, futex, rt, thread};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::host;

/// Where a process is in its life.
#[derive(Default)]
pub struct Life {
    state: State,
    /// What wait(2) has not told the parent yet: a stop, a continue.
    news: News,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Running,
    /// By this signal.
    Stopped(i32),
    /// With this wait status, and what it used.
    Zombie(u32, Usage),
    /// Its parent knows, or nobody wants to.
    Reaped,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum News {
    #[default]
    None,
    Stopped,
    Continued,
}

impl Life {
    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Zombie(..) | State::Reaped)
    }

    /// The signal that stopped it.
    pub fn stopped(&self) -> Option<i32> {
        match self.state {
            State::Stopped(signal) => Some(signal),
            _ => None,
        }
    }

    /// The letter of proc(5).
    pub fn letter(&self) -> Option<char> {
        match self.state {
            State::Running => None,
            State::Stopped(_) => Some('T'),
            State::Zombie(..) => Some('Z'),
            State::Reaped => Some('X'),
        }
    }
}

/// `struct rusage` as 18 words.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage(pub [i64; 18]);

impl Usage {
    const MAXRSS: usize = 4;

    /// What this host process has used.
    pub fn of_host() -> Usage {
        let mut usage = [0i64; 18];
        // SAFETY: the kernel writes one struct rusage (144 bytes) to ours.
        let _ = unsafe { host!(getrusage, 0, &raw mut usage) };
        Usage(usage)
    }

    /// Both together: sums, and the larger of the sizes.
    pub fn and(&self, other: &Usage) -> Usage {
        let mut sum = [0i64; 18];
        for (at, word) in sum.iter_mut().enumerate() {
            *word = self.0[at].wrapping_add(other.0[at]);
        }
        sum[Usage::MAXRSS] = self.0[Usage::MAXRSS].max(other.0[Usage::MAXRSS]);
        for second in [0, 2] {
            sum[second] += sum[second + 1] / 1_000_000;
            sum[second + 1] %= 1_000_000;
        }
        Usage(sum)
    }

    /// User and system time in clock ticks of 10 ms.
    pub fn ticks(&self) -> [i64; 2] {
        [0, 2].map(|at| self.0[at] * 100 + self.0[at + 1] / 10_000)
    }
}

// ---- ending ----

/// The last thread's end: that of the process, and of its host process.
pub(crate) fn finish(task: &Task) -> ! {
    let process = &task.process;
    let status = process.ending().unwrap_or(0);
    if task.borrows() {
        leave(process, status, Usage::default());
        crate::fork::give_back()
    }
    // Its thread never leaves this stack: the task is let go when the host process is gone.
    process.last.set(Some(task.arc()));
    let usage = Usage::of_host();
    if leave(process, status, usage) {
        crate::net_poll::finish();
    }
    end_host(status)
}

/// What the host's parent sees: the status, or the signal itself. After a fault it is a status, as the
/// shell counts them: the report stands for the core file that such a death would leave natively, and
/// nobody shall look for one of the runtime.
fn end_host(status: u32) -> ! {
    const FAULTS: u64 =
        1 << (4 - 1) | 1 << (5 - 1) | 1 << (7 - 1) | 1 << (8 - 1) | 1 << (11 - 1) | 1 << (31 - 1);
    match status & 0x7f {
        0 => rt::exit_process((status >> 8 & 0xff) as i32),
        signal if FAULTS >> (signal - 1) & 1 != 0 => rt::exit_process(128 + signal as i32),
        signal => rt::die_by_signal(signal as i32),
    }
}

/// A process has ended: once. Answers whether it was the last one.
fn count_out(process: &Process) -> bool {
    !process.counted_out.swap(true, Ordering::SeqCst) && root().one_less()
}

/// Gives back what a process has, and makes it a zombie. Whoever does this may be killed by the host on the way; then
/// all of it is done again ([`host_gone`]), which does no harm but a second SIGCHLD. Answers whether it was the guest's
/// last process.
fn leave(process: &Arc<Process>, status: u32, usage: Usage) -> bool {
    process.timers.stop();
    root().record_locks.ended(process.pid);
    crate::ipc::exited(process);
    process.fds.close_all();
    // Now, not with the record: a killed call may keep that.
    process.view.clear();
    let exe = process.image.lock().exe.take();
    drop(exe);
    leave_children(process);
    let usage = usage.and(&process.children_usage.lock());
    {
        let mut life = process.life.lock();
        if !life.has_ended() {
            life.state = State::Zombie(status, usage);
        }
    }
    process.released.notify(Events::READABLE);
    let outside = process.ended.lock().take();
    let last = count_out(process);
    // Its parent may have asked for its status since; who was killed in [`forget`] had not come to its end.
    let reaped = process.life.lock().state == State::Reaped;
    if reaped {
        root().forget_process(process);
    } else {
        tell_of_end(process, status);
    }
    if let Some(outside) = outside {
        outside.ended(status);
    }
    process.left.store(true, Ordering::SeqCst);
    last
}

/// What getppid(2) of an orphan answers. Nobody has this id here: an orphan's end is told to nobody, as
/// init's children's natively.
pub(crate) const INIT: u32 = 1;

/// Children of a process that ends get its nearest living ancestor that reaps, or nobody.
fn leave_children(process: &Process) {
    let children = root().processes_that(|other| other.parent.load(Ordering::Relaxed) == process.pid);
    let parent = reaper_for(process);
    wake_orphans(process, &children);
    for child in children {
        child.parent.store(parent, Ordering::SeqCst);
        tell_of_death(&child);
        let state = child.life.lock().state;
        match state {
            State::Zombie(status, _) => tell_of_end(&child, status),
            // Its parent was killed between the two steps of taking its status ([`Wish::look`]).
            State::Reaped => root().forget_process(&child),
            State::Running | State::Stopped(_) => {}
        }
    }
}

fn reaper_for(process: &Process) -> u32 {
    let mut at = process.parent.load(Ordering::Relaxed);
    while let Some(ancestor) = root().process(at) {
        if ancestor.subreaper.load(Ordering::Relaxed) && !ancestor.has_ended() {
            return at;
        }
        at = ancestor.parent.load(Ordering::Relaxed);
    }
    INIT
}

/// Whether a process group is orphaned (POSIX 3.264): no member has a parent in another group of its
/// session, who could look after it. `without`: leave this process out. The first process has a parent on
/// the host.
pub(crate) fn is_orphaned(group: u32, without: u32) -> bool {
    let members = root().processes_that(|member| {
        member.group.load(Ordering::Relaxed) == group && member.pid != without && !member.has_ended()
    });
    !members.iter().any(|member| {
        let parent = member.parent.load(Ordering::Relaxed);
        parent == 0
            || root().process(parent).is_some_and(|parent| {
                parent.pid != without
                    && parent.group.load(Ordering::Relaxed) != group
                    && parent.session.load(Ordering::Relaxed) == member.session.load(Ordering::Relaxed)
            })
    })
}

/// A process has ended: of the groups that its end leaves orphaned those with a stopped member get SIGHUP
/// and SIGCONT, or they would stay stopped for ever (POSIX, _exit).
fn wake_orphans(process: &Process, children: &[Arc<Process>]) {
    let own = process.group.load(Ordering::Relaxed);
    let mut groups: Vec<u32> = children.iter().map(|child| child.group.load(Ordering::Relaxed)).collect();
    groups.push(own);
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let members = root().processes_that(|member| {
            member.group.load(Ordering::Relaxed) == group && member.pid != process.pid
        });
        if members.iter().any(|member| member.life.lock().stopped().is_some())
            && is_orphaned(group, process.pid)
        {
            for signal in [SIGHUP, SIGCONT] {
                for member in &members {
                    let _ = signal::send_process(member, Info::from_kernel(signal));
                }
            }
        }
    }
}

/// prctl(PR_SET_PDEATHSIG).
fn tell_of_death(child: &Process) {
    for task in child.tasks() {
        let signal = task.death_signal.load(Ordering::Relaxed) as i32;
        if signal != 0 {
            let _ = signal::send_task(&task, Info::from_kernel(signal));
        }
    }
}

/// Tells the parent that a child is a zombie now. One without a parent, or whose parent does not care, is
/// forgotten.
fn tell_of_end(child: &Arc<Process>, status: u32) {
    let parent = root().process(child.parent.load(Ordering::Relaxed)).filter(|parent| !parent.has_ended());
    let Some(parent) = parent else { return forget(child) };
    let signal = child.exit_signal.load(Ordering::Relaxed);
    let action = parent.actions.get(SIGCHLD);
    let careless = signal == SIGCHLD && (action.handler == SIG_IGN || action.flags & SA_NOCLDWAIT != 0);
    if careless {
        forget(child);
    }
    if signal != 0 && !(signal == SIGCHLD && action.handler == SIG_IGN) {
        let _ = signal::send_process(&parent, Info { signo: signal, ..about(child, status) });
    }
    parent.child_hub.notify(Events::READABLE);
}

fn forget(child: &Process) {
    child.life.lock().state = State::Reaped;
    root().forget_process(child);
    child.released.notify(Events::HUP);
}

const CLD_EXITED: i32 = 1;
const CLD_KILLED: i32 = 2;
const CLD_STOPPED: i32 = 5;
const CLD_CONTINUED: i32 = 6;

/// SIGCHLD's words about a child with this wait status.
fn about(child: &Process, status: u32) -> Info {
    let (code, value) = match status {
        0xffff => (CLD_CONTINUED, SIGCONT as u32),
        _ if status & 0xff == 0x7f => (CLD_STOPPED, status >> 8 & 0xff),
        _ if status & 0x7f == 0 => (CLD_EXITED, status >> 8 & 0xff),
        _ => (CLD_KILLED, status & 0x7f),
    };
    let uid = u64::from(child.credentials.lock().uid);
    let usage = match child.life.lock().state {
        State::Zombie(_, usage) => usage.ticks(),
        _ => [0; 2],
    };
    let fields = [u64::from(child.pid) | uid << 32, u64::from(value), usage[0] as u64, usage[1] as u64, 0, 0];
    Info { signo: SIGCHLD, errno: 0, code, fields }
}

/// The scheduler's `process_gone` hook: a host process has ended. If its guest process has not, or not to the last
/// step, it was killed from outside; what it leaves behind is cleaned up here. The caller may be killed, too, and then
/// another one begins again.
// Unit tests have no scheduler that would call it.
#[cfg_attr(test, allow(dead_code))]
pub(crate) fn host_gone(host: &rt::HostRef) {
    let Some(process) = Process::behind_host(host) else { return };
    process.forget_host();
    let last = process.last.lock().take();
    if let Some(task) = &last {
        thread::abandon(task);
    }
    let mut dead = process.tasks();
    dead.extend(last);
    if !process.left.load(Ordering::SeqCst) {
        process.begin_exit(SIGKILL as u32);
        for task in process.tasks() {
            let_go(&task);
            thread::abandon(&task);
            process.remove_task(task.tid);
        }
        // Now nobody finds them any more: see `futex::wait_on`.
        dead.iter().for_each(|task| futex::owner_lost(task.tid));
        process.fds.break_locks();
        root().lost.begin();
        leave(&process, process.ending().unwrap_or(SIGKILL as u32), Usage::default());
    }
    dead.extend(end_borrowers(host));
    crate::hands::sweep(&dead);
    drop(Process::of_host(host));
    // It may have been in the engine.
    crate::net_poll::recover();
}

/// What a thread that was killed in its sleep held: places in queues, open files.
fn let_go(task: &Task) {
    futex::abandon(task);
    crate::stay::abandon(task);
}

/// Vforked children whose lender's host process is gone ran in that one. Answers their threads.
fn end_borrowers(host: &rt::HostRef) -> Vec<Arc<Task>> {
    let mut dead = Vec::new();
    let lost = |other: &Process| {
        // Not by its thread, which it may have given up: it may have been killed in its last steps, or whoever did
        // this before.
        let ran_there = other.lent_by.lock().as_ref().is_some_and(|lender| Arc::ptr_eq(lender, host));
        ran_there && !other.left.load(Ordering::SeqCst) && other.host().is_none()
    };
    for process in root().processes_that(lost) {
        process.begin_exit(SIGKILL as u32);
        process.tasks().iter().for_each(|task| {
            let_go(task);
            process.remove_task(task.tid);
            dead.push(task.clone());
        });
        leave(&process, process.ending().unwrap_or(SIGKILL as u32), Usage::default());
    }
    dead
}

/// Waits while the process is stopped; only what ends it gets a thread out before it goes on.
pub(crate) fn wait_stopped(task: &Task) {
    let process = &task.process;
    let killed = || (task.pending.bits() | process.pending.bits()) & signal::bit(SIGKILL) != 0;
    while process.life.lock().stopped().is_some() && process.ending().is_none() && !killed() {
        rt::park(None);
    }
}

// ---- stopping ----

/// A stop signal's default action, carried out by one of the threads: all of them wait from here on.
pub(crate) fn stop(process: &Arc<Process>, signal: i32) {
    {
        let mut life = process.life.lock();
        if life.has_ended() || process.ending().is_some() {
            return;
        }
        life.state = State::Stopped(signal);
        life.news = News::Stopped;
    }
    process.tasks().iter().for_each(|task| task.nudge());
    tell_of_change(process, (signal as u32) << 8 | 0x7f);
}

/// SIGCONT was sent, or SIGKILL.
pub(crate) fn go_on(process: &Process) {
    {
        let mut life = process.life.lock();
        if !matches!(life.state, State::Stopped(_)) {
            return;
        }
        life.state = State::Running;
        life.news = News::Continued;
    }
    process.tasks().iter().for_each(|task| task.nudge());
    tell_of_change(process, 0xffff);
}

fn tell_of_change(child: &Process, status: u32) {
    let Some(parent) = root().process(child.parent.load(Ordering::Relaxed)) else { return };
    if parent.actions.get(SIGCHLD).flags & SA_NOCLDSTOP == 0 {
        let _ = signal::send_process(&parent, about(child, status));
    }
    parent.child_hub.notify(Events::READABLE);
}

// ---- waiting ----

const WNOHANG: u32 = 1;
const WSTOPPED: u32 = 2;
const WEXITED: u32 = 4;
const WCONTINUED: u32 = 8;
const WNOWAIT: u32 = 0x100_0000;
const WNOTHREAD: u32 = 0x2000_0000;
const WALL: u32 = 0x4000_0000;
const WCLONE: u32 = 0x8000_0000;

/// Which children a call waits for.
enum Which {
    Any,
    Pid(u32),
    Group(u32),
    /// The one behind a pidfd, whatever its id.
    This(Arc<Process>),
}

struct Wish {
    which: Which,
    options: u32,
}

/// What a wait found.
struct Found {
    child: Arc<Process>,
    status: u32,
    usage: Usage,
}

impl Wish {
    /// Whether a process is one of the caller's children that it means.
    fn means(&self, own: u32, child: &Process) -> bool {
        if child.parent.load(Ordering::SeqCst) != own {
            return false;
        }
        // wait(2): "clone" children are those whose end is not told by SIGCHLD.
        let is_clone = child.exit_signal.load(Ordering::Relaxed) != SIGCHLD;
        let kind = self.options & WALL != 0 || is_clone == (self.options & WCLONE != 0);
        kind && match &self.which {
            Which::Any => true,
            Which::Pid(pid) => child.pid == *pid,
            Which::Group(group) => child.group.load(Ordering::Relaxed) == *group,
            Which::This(process) => core::ptr::eq(&raw const **process, child),
        }
    }

    /// One look. ECHILD: there is nobody to wait for.
    fn look(&self, ctx: &Ctx) -> Result<Option<Found>> {
        let children = root().processes_that(|child| self.means(ctx.process.pid, child));
        let mut any = false;
        for child in children {
            let (found, alive) = self.take(&child);
            any |= alive;
            if let Some((status, usage)) = found {
                if status != 0xffff && status & 0xff != 0x7f && self.options & WNOWAIT == 0 {
                    let mut sum = ctx.process.children_usage.lock();
                    *sum = sum.and(&usage);
                    drop(sum);
                    root().forget_process(&child);
                    child.released.notify(Events::HUP);
                }
                return Ok(Some(Found { child, status, usage }));
            }
        }
        if any { Ok(None) } else { Err(Errno::ECHILD) }
    }

    /// What a child has to tell, taken from it; and whether it still counts as a child.
    fn take(&self, child: &Process) -> (Option<(u32, Usage)>, bool) {
        let mut life = child.life.lock();
        let keep = self.options & WNOWAIT != 0;
        match (life.state, life.news) {
            (State::Reaped, _) => (None, false),
            (State::Zombie(status, usage), _) if self.options & WEXITED != 0 => {
                if !keep {
                    life.state = State::Reaped;
                }
                (Some((status, usage)), true)
            }
            (State::Stopped(signal), News::Stopped) if self.options & WSTOPPED != 0 => {
                if !keep {
                    life.news = News::None;
                }
                (Some(((signal as u32) << 8 | 0x7f, Usage::default())), true)
            }
            (State::Running, News::Continued) if self.options & WCONTINUED != 0 => {
                if !keep {
                    life.news = News::None;
                }
                (Some((0xffff, Usage::default())), true)
            }
            _ => (None, true),
        }
    }

    fn wait(&self, ctx: &Ctx) -> Result<Option<Found>> {
        if let Some(found) = self.look(ctx)? {
            return Ok(Some(found));
        }
        if self.options & WNOHANG != 0 {
            return Ok(None);
        }
        let how = Waiting::for_events(Events::READABLE);
        wait::block_on_hub(ctx, &ctx.process.child_hub, how, || match self.look(ctx)? {
            Some(found) => Ok(Some(found)),
            None => Err(Errno::EAGAIN),
        })
    }
}

/// wait4(2).
pub fn wait4(
    ctx: &Ctx,
    pid: i32,
    status: UserPtr<u32>,
    options: WaitFlags,
    usage: UserPtr<[i64; 18]>,
) -> Result {
    let options = options.0;
    if options & !(WNOHANG | WSTOPPED | WCONTINUED | WNOTHREAD | WALL | WCLONE) != 0 {
        return Err(Errno::EINVAL);
    }
    let which = match pid {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => Which::Any,
        0 => Which::Group(ctx.process.group.load(Ordering::Relaxed)),
        1.. => Which::Pid(pid as u32),
        _ => Which::Group(pid.unsigned_abs()),
    };
    match (Wish { which, options: options | WEXITED }).wait(ctx)? {
        None => Ok(0),
        Some(found) => {
            status.write_optional(found.status)?;
            usage.write_optional(found.usage.0)?;
            Ok(found.child.pid as usize)
        }
    }
}

/// waitid(2).
pub fn waitid(
    ctx: &Ctx,
    kind: i32,
    id: i32,
    info: UserPtr<signal::RawInfo>,
    options: WaitFlags,
    usage: UserPtr<[i64; 18]>,
) -> Result {
    let options = options.0;
    const P_ALL: i32 = 0;
    const P_PID: i32 = 1;
    const P_PGID: i32 = 2;
    const P_PIDFD: i32 = 3;
    let known = WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | WNOTHREAD | WALL | WCLONE;
    if options & !known != 0 || options & (WEXITED | WSTOPPED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL);
    }
    // Of a pidfd without waiting: EAGAIN where others would sleep.
    let mut patient = true;
    let which = match kind {
        P_ALL => Which::Any,
        P_PIDFD if id >= 0 => {
            let (process, nonblocking) = crate::pidfd::of(ctx, Fd(id))?;
            patient = !nonblocking || options & WNOHANG != 0;
            Which::This(process)
        }
        P_PID if id > 0 => Which::Pid(id as u32),
        P_PGID if id == 0 => Which::Group(ctx.process.group.load(Ordering::Relaxed)),
        P_PGID if id > 0 => Which::Group(id as u32),
        _ => return Err(Errno::EINVAL),
    };
    let options = if patient { options } else { options | WNOHANG };
    match (Wish { which, options }).wait(ctx)? {
        None if !patient => return Err(Errno::EAGAIN),
        // Nothing yet: the program tells by si_pid and si_signo, which are 0 (waitid(2)).
        None => info.write_optional([0; 16])?,
        Some(found) => {
            let mut raw = about(&found.child, found.status).to_raw();
            // Times are SIGCHLD's alone.
            (raw[4], raw[5]) = (0, 0);
            info.write_optional(raw)?;
            usage.write_optional(found.usage.0)?;
        }
    }
    Ok(0)
}
