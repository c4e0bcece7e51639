//! Scheduling policies, priorities and nice values (sched(7), setpriority(2)).
//!
//! A real-time thread (SCHED_FIFO, SCHED_RR) runs before all threads of its process with a lower priority: the
//! guest's own scheduler sees to it ([`sched::thread::Rank`]). Between processes the host decides, to which each
//! process is ordinary; there a nice value counts, which is the host's too (`renice`). Threads of one process
//! share vCPUs, so that the host is told the lowest of their values.
//!
//! Left out: SCHED_DEADLINE (EINVAL), I/O priorities.

use crate::context::Ctx;
use crate::process::{Process, root};
use crate::task::Task;
use crate::user::UserPtr;
use crate::{Errno, Result, rt};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use platform::time::{MILLISECOND, Timespec};

const SCHED_OTHER: i32 = 0;
const SCHED_FIFO: i32 = 1;
const SCHED_RR: i32 = 2;
const SCHED_BATCH: i32 = 3;
const SCHED_IDLE: i32 = 5;
/// In a policy: children begin as ordinary threads.
const SCHED_RESET_ON_FORK: i32 = 0x4000_0000;
const RLIMIT_NICE: usize = 13;
const RLIMIT_RTPRIO: usize = 14;

/// How a thread is scheduled.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Schedule {
    policy: i32,
    priority: i32,
    nice: i32,
    reset_on_fork: bool,
}

impl Schedule {
    /// What a new thread or process begins with.
    pub fn inherited(self) -> Schedule {
        if !self.reset_on_fork {
            return self;
        }
        // sched(7): the flag itself is not inherited; a real-time policy and a negative nice value are reset.
        if self.is_real_time() {
            return Schedule::default();
        }
        Schedule { nice: self.nice.max(0), reset_on_fork: false, ..self }
    }

    /// What the guest's first process begins with: the host process's nice value.
    pub(crate) fn of_host() -> Schedule {
        const PRIO_PROCESS: usize = 0;
        // SAFETY: touches no memory. The call answers 20 minus the value, so that it is never negative.
        let raw = unsafe { platform::host!(getpriority, PRIO_PROCESS, 0) };
        Schedule { nice: raw.map_or(0, |raw| 20 - raw as i32), ..Schedule::default() }
    }

    fn is_real_time(self) -> bool {
        matches!(self.policy, SCHED_FIFO | SCHED_RR)
    }
}

/// The thread that `id` names: 0 is the caller.
fn find(ctx: &Ctx, id: i32) -> Result<Arc<Task>> {
    match id {
        0 => Ok(ctx.task.arc()),
        1.. => root().task(id as u32).ok_or(crate::signal::absent(id)),
        _ => Err(Errno::EINVAL),
    }
}

/// Gives `task` another schedule, if the caller may (sched(7), "Privileges and resource limits").
fn change(ctx: &Ctx, task: &Arc<Task>, new: Schedule) -> Result {
    let lowest = i32::from(new.is_real_time());
    if !(lowest..=lowest * 99).contains(&new.priority) {
        return Err(Errno::EINVAL);
    }
    let old = *task.schedule.lock();
    let own = ctx.process.credentials.lock().clone();
    let other = task.process.credentials.lock().clone();
    if !own.privileged() {
        let limit = task.process.limits(RLIMIT_RTPRIO).soft;
        let rises = new.is_real_time()
            && (new.policy != old.policy && limit == 0
                || new.priority > old.priority && new.priority as u64 > limit);
        let leaves_idle =
            old.policy == SCHED_IDLE && new.policy != SCHED_IDLE && !nice_allowed(task, old.nice);
        let is_others = own.euid != other.euid && own.euid != other.uid;
        if rises || leaves_idle || is_others || old.reset_on_fork && !new.reset_on_fork {
            return Err(Errno::EPERM);
        }
    }
    *task.schedule.lock() = new;
    apply(task);
    Ok(0)
}

/// Has the scheduler know.
pub(crate) fn apply(task: &Task) {
    let schedule = *task.schedule.lock();
    let priority = if schedule.is_real_time() { schedule.priority as u8 } else { 0 };
    if let Some(thread) = task.waiter.thread() {
        rt::set_rank(thread, priority, schedule.policy == SCHED_FIFO);
    }
}

/// sched_setscheduler(2).
pub fn sched_setscheduler(ctx: &Ctx, id: i32, policy: i32, param: UserPtr<i32>) -> Result {
    let priority = param.read()?;
    let reset_on_fork = policy & SCHED_RESET_ON_FORK != 0;
    let policy = policy & !SCHED_RESET_ON_FORK;
    let task = find(ctx, id)?;
    if policy < 0 || !matches!(policy, SCHED_OTHER | SCHED_FIFO | SCHED_RR | SCHED_BATCH | SCHED_IDLE) {
        return Err(Errno::EINVAL);
    }
    let old = *task.schedule.lock();
    change(ctx, &task, Schedule { policy, priority, reset_on_fork, ..old })
}

/// sched_getscheduler(2).
pub fn sched_getscheduler(ctx: &Ctx, id: i32) -> Result {
    let schedule = *find(ctx, id)?.schedule.lock();
    Ok((schedule.policy | if schedule.reset_on_fork { SCHED_RESET_ON_FORK } else { 0 }) as usize)
}

/// sched_setparam(2).
pub fn sched_setparam(ctx: &Ctx, id: i32, from: UserPtr<i32>) -> Result {
    let priority = from.read()?;
    let task = find(ctx, id)?;
    let old = *task.schedule.lock();
    change(ctx, &task, Schedule { priority, ..old })
}

/// sched_getparam(2).
pub fn sched_getparam(ctx: &Ctx, id: i32, to: UserPtr<i32>) -> Result {
    let priority = find(ctx, id)?.schedule.lock().priority;
    to.write(priority).map(|()| 0)
}

/// `struct sched_attr`, its first version; later fields are for utilization clamps.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    deadline: [u64; 3],
}
const SCHED_ATTR_SIZE: u32 = 48;
const _: () = assert!(size_of::<SchedAttr>() == SCHED_ATTR_SIZE as usize);
const SCHED_FLAG_RESET_ON_FORK: u64 = 1;

/// sched_setattr(2).
pub fn sched_setattr(ctx: &Ctx, id: i32, from: UserPtr<SchedAttr>, flags: u32) -> Result {
    let attr = from.read()?;
    if flags != 0 || attr.flags & !SCHED_FLAG_RESET_ON_FORK != 0 || attr.policy > SCHED_IDLE as u32 {
        return Err(Errno::EINVAL);
    }
    // 0 stands for the first version.
    if attr.size != 0 && attr.size < SCHED_ATTR_SIZE {
        return Err(Errno::E2BIG);
    }
    let task = find(ctx, id)?;
    let old = *task.schedule.lock();
    let reset_on_fork = attr.flags & SCHED_FLAG_RESET_ON_FORK != 0;
    let wish = Schedule { policy: attr.policy as i32, priority: attr.priority as i32, reset_on_fork, ..old };
    if !wish.is_real_time() {
        renice(ctx, &task, attr.nice)?;
    }
    let nice = task.schedule.lock().nice;
    change(ctx, &task, Schedule { nice, ..wish })
}

/// sched_getattr(2).
pub fn sched_getattr(ctx: &Ctx, id: i32, to: UserPtr<SchedAttr>, size: u32, flags: u32) -> Result {
    if flags != 0 || !(SCHED_ATTR_SIZE..=4096).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let schedule = *find(ctx, id)?.schedule.lock();
    let real_time = schedule.is_real_time();
    to.write(SchedAttr {
        size: SCHED_ATTR_SIZE,
        policy: schedule.policy as u32,
        flags: u64::from(schedule.reset_on_fork),
        nice: if real_time { 0 } else { schedule.nice },
        priority: schedule.priority as u32,
        deadline: [0; 3],
    })?;
    Ok(0)
}

/// sched_get_priority_max(2).
pub fn sched_get_priority_max(_ctx: &Ctx, policy: i32) -> Result {
    priority_bound(policy, 99)
}

/// sched_get_priority_min(2).
pub fn sched_get_priority_min(_ctx: &Ctx, policy: i32) -> Result {
    priority_bound(policy, 1)
}

fn priority_bound(policy: i32, real_time: usize) -> Result {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(real_time),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// sched_rr_get_interval(2): the time slice of `sched::Config::new`; SCHED_FIFO has none.
pub fn sched_rr_get_interval(ctx: &Ctx, id: i32, to: UserPtr<Timespec>) -> Result {
    const SLICE: i64 = 4 * MILLISECOND as i64;
    let fifo = find(ctx, id)?.schedule.lock().policy == SCHED_FIFO;
    to.write(Timespec { sec: 0, nsec: if fifo { 0 } else { SLICE } }).map(|()| 0)
}

// ---- nice values ----

const PRIO_PROCESS: i32 = 0;
const PRIO_PGRP: i32 = 1;
const PRIO_USER: i32 = 2;

/// The threads that setpriority(2) names. Linux's PRIO_PROCESS is one thread.
fn named(ctx: &Ctx, which: i32, who: i32) -> Result<Vec<Arc<Task>>> {
    let of = |pick: &dyn Fn(&Process) -> bool| -> Vec<Arc<Task>> {
        root().processes().into_iter().filter(|p| pick(p)).flat_map(|p| p.tasks()).collect()
    };
    let tasks = match which {
        PRIO_PROCESS => Vec::from_iter(find(ctx, who).ok()),
        PRIO_PGRP => {
            let own = ctx.process.group.load(Ordering::Relaxed);
            let group = if who == 0 { own } else { who as u32 };
            of(&|process| process.group.load(Ordering::Relaxed) == group)
        }
        PRIO_USER => {
            let uid = if who == 0 { ctx.process.credentials.lock().uid } else { who as u32 };
            of(&|process| process.credentials.lock().uid == uid)
        }
        _ => return Err(Errno::EINVAL),
    };
    if tasks.is_empty() { Err(Errno::ESRCH) } else { Ok(tasks) }
}

/// getpriority(2): the kernel answers 20 minus the lowest nice value.
pub fn getpriority(ctx: &Ctx, which: i32, who: i32) -> Result {
    let lowest = named(ctx, which, who)?.iter().map(|task| task.schedule.lock().nice).min();
    Ok((20 - lowest.unwrap_or(0)) as usize)
}

/// setpriority(2).
pub fn setpriority(ctx: &Ctx, which: i32, who: i32, nice: i32) -> Result {
    for task in named(ctx, which, who)? {
        renice(ctx, &task, nice)?;
    }
    Ok(0)
}

/// getrlimit(2), RLIMIT_NICE: the limit is 20 minus the lowest value that may be had.
fn nice_allowed(task: &Task, nice: i32) -> bool {
    (20 - nice) as u64 <= task.process.limits(RLIMIT_NICE).soft
}

fn renice(ctx: &Ctx, task: &Arc<Task>, nice: i32) -> Result<()> {
    let nice = nice.clamp(-20, 19);
    let own = ctx.process.credentials.lock().clone();
    let other = task.process.credentials.lock().clone();
    if !own.privileged() {
        if own.euid != other.uid && own.euid != other.euid {
            return Err(Errno::EPERM);
        }
        if nice < task.schedule.lock().nice && !nice_allowed(task, nice) {
            return Err(Errno::EACCES);
        }
    }
    let before = core::mem::replace(&mut task.schedule.lock().nice, nice);
    let lowest = task.process.tasks().iter().map(|task| task.schedule.lock().nice).min().unwrap_or(nice);
    let told = match task.process.host() {
        Some(host) => rt::renice(&host, lowest),
        None => Ok(()),
    };
    if let Err(error) = told {
        // The guest's root is not the host's.
        task.schedule.lock().nice = before;
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;
    use crate::testing::{self, user};

    #[test]
    fn policies_and_their_ranges() {
        let ctx = testing::ctx();
        let (none, ten, most) = (0i32, 10i32, 100i32);
        for (policy, param, want) in [
            (SCHED_OTHER, &ten, Err(Errno::EINVAL)),
            (SCHED_FIFO, &none, Err(Errno::EINVAL)),
            (SCHED_RR, &most, Err(Errno::EINVAL)),
            (SCHED_FIFO, &ten, Err(Errno::EPERM)),
            (4, &none, Err(Errno::EINVAL)),
            (SCHED_BATCH, &none, Ok(0)),
        ] {
            assert_eq!(sched_setscheduler(&ctx, 0, policy, user(param)), want, "{policy} {param}");
        }
        assert_eq!(sched_getscheduler(&ctx, 0), Ok(SCHED_BATCH as usize));
        assert_eq!(sched_getscheduler(&ctx, 54_321), Err(Errno::ESRCH));
        assert_eq!(sched_getscheduler(&ctx, -1), Err(Errno::EINVAL));
    }

    #[test]
    fn a_limit_gives_real_time_to_ordinary_users() {
        let ctx = testing::ctx();
        ctx.process.set_limits(RLIMIT_RTPRIO, process::Limit { soft: 20, hard: 20 });
        let (ten, thirty) = (10i32, 30i32);
        assert_eq!(sched_setscheduler(&ctx, 0, SCHED_RR | SCHED_RESET_ON_FORK, user(&ten)), Ok(0));
        assert_eq!(sched_setparam(&ctx, 0, user(&thirty)), Err(Errno::EPERM));
        assert_eq!(sched_setscheduler(&ctx, 0, SCHED_RR, user(&ten)), Err(Errno::EPERM), "the flag stays");
        let schedule = *ctx.task.schedule.lock();
        assert_eq!(schedule.inherited(), Schedule::default());
    }

    #[test]
    fn nice_values_rise_but_do_not_fall() {
        let ctx = testing::ctx();
        assert_eq!(getpriority(&ctx, PRIO_PROCESS, 0), Ok(20));
        assert_eq!(setpriority(&ctx, PRIO_PROCESS, 0, 40), Ok(0));
        assert_eq!(getpriority(&ctx, PRIO_PROCESS, 0), Ok(1));
        assert_eq!(setpriority(&ctx, PRIO_PROCESS, 0, 5), Err(Errno::EACCES));
        assert_eq!(setpriority(&ctx, 3, 0, 5), Err(Errno::EINVAL));
        assert_eq!(getpriority(&ctx, PRIO_PGRP, 54_321), Err(Errno::ESRCH));
    }
}
