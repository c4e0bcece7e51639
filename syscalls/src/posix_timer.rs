//! Timers that send signals: timer_create(2) and setitimer(2).
//!
//! A timer's expirations that come while its signal still waits are counted, not queued (POSIX:
//! overruns): [`Timers::delivered`] puts the count into the signal when a thread takes it.

use crate::args::Clock;
use crate::context::Ctx;
use crate::process::{Process, root};
use crate::rt::{self, Expire, TimerId};
use crate::signal::{self, Info, SI_TIMER, number::*};
use crate::time::{self, ITimerSpec, ITimerVal, TIMER_ABSTIME, Timeval};
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicI32, Ordering};
use platform::sync::Lock;
use platform::time::{Instant, MILLISECOND, SECOND, Timespec, now};

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD_ID: i32 = 4;
/// `DELAYTIMER_MAX`.
const OVERRUN_MAX: u64 = i32::MAX as u64;
/// How often a CPU-time timer looks at the CPU clock, at least.
const CPU_STEP: u64 = 10 * MILLISECOND;

/// `struct sigevent` as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SigEvent {
    pub(crate) value: u64,
    pub(crate) signal: i32,
    pub(crate) notify: i32,
    tid: i32,
    pad: [i32; 11],
}

/// All timers of a process.
pub struct Timers {
    next: AtomicI32,
    table: Lock<BTreeMap<i32, Arc<Timer>>>,
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    interval: [Lock<Option<Arc<Timer>>>; 3],
}

/// A timer.
struct Timer {
    pid: u32,
    clock: TimeBase,
    target: Target,
    state: Lock<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TimeBase {
    /// A clock of clock_gettime(2).
    Clock(i32),
    /// CPU time of the process.
    Cpu,
}

/// Whom an expiration tells.
#[derive(Clone, Copy)]
enum Target {
    Nobody,
    /// The process, or one thread of it.
    Signal {
        info: Info,
        tid: Option<u32>,
    },
}

#[derive(Default)]
struct State {
    /// Next expiration: on the monotonic clock, or in nanoseconds of CPU time.
    due: Option<Instant>,
    interval: u64,
    timer: Option<TimerId>,
    /// The signal waits; expirations since.
    waiting: bool,
    overrun: u64,
    last_overrun: u64,
}

impl Timers {
    /// None.
    pub fn new() -> Timers {
        Timers {
            next: AtomicI32::new(0),
            table: Lock::new(BTreeMap::new()),
            interval: [const { Lock::new(None) }; 3],
        }
    }

    fn get(&self, id: i32) -> Result<Arc<Timer>> {
        self.table.lock().get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// Disarms and forgets those of timer_create(2): execve(2) keeps the interval timers alone.
    pub fn clear_posix(&self) {
        let all = core::mem::take(&mut *self.table.lock());
        for timer in all.values() {
            timer.set(None, 0);
        }
    }

    /// Disarms and forgets all.
    pub fn stop(&self) {
        self.clear_posix();
        for place in &self.interval {
            let timer = place.lock().take();
            if let Some(timer) = timer {
                timer.set(None, 0);
            }
        }
    }

    /// A thread takes a timer's signal: the overruns so far go with it.
    pub fn delivered(&self, info: &mut Info) {
        let Ok(timer) = self.get(info.fields[0] as u32 as i32) else { return };
        let mut state = timer.state.lock();
        state.waiting = false;
        state.last_overrun = core::mem::take(&mut state.overrun).min(OVERRUN_MAX);
        info.fields[0] = info.fields[0] & 0xffff_ffff | state.last_overrun << 32;
    }
}

impl Default for Timers {
    fn default() -> Self {
        Timers::new()
    }
}

impl Timer {
    fn new(pid: u32, clock: TimeBase, target: Target) -> Arc<Timer> {
        Arc::new(Timer { pid, clock, target, state: Lock::new(State::default()) })
    }

    fn now(&self) -> Instant {
        match self.clock {
            TimeBase::Clock(_) => now(),
            TimeBase::Cpu => Instant(time::process_cpu()),
        }
    }

    /// Arms or disarms; answers what it was set to.
    fn set(self: &Arc<Timer>, due: Option<Instant>, interval: u64) -> (u64, u64) {
        let mut state = self.state.lock();
        let before = self.left(&state);
        let old = state.timer.take();
        state.due = due;
        state.interval = interval;
        state.overrun = 0;
        self.arm(&mut state);
        drop(state);
        if let Some(old) = old {
            rt::timer_cancel(old);
        }
        before
    }

    fn arm(self: &Arc<Timer>, state: &mut State) {
        state.timer = state.due.map(|due| rt::timer_add(self.look_at(due), self.clone()));
    }

    /// When to look whether `due` has come. CPU time runs as fast as all vCPUs together at most, and
    /// not at all while they sleep: so it is looked at again and again.
    fn look_at(&self, due: Instant) -> Instant {
        match self.clock {
            TimeBase::Clock(_) => due,
            TimeBase::Cpu => now().after((due.since(self.now()) / 8).max(CPU_STEP)),
        }
    }

    /// Time to the next expiration and the period.
    fn left(&self, state: &State) -> (u64, u64) {
        // An armed timer never shows 0, which would mean "disarmed" (timer_gettime(2)).
        (state.due.map_or(0, |due| due.since(self.now()).max(1)), state.interval)
    }

    /// Takes what has expired; answers whether a signal is to be sent.
    fn advance(self: &Arc<Timer>, state: &mut State) -> bool {
        let Some(due) = state.due else { return false };
        let at = self.now();
        if due > at {
            self.arm(state);
            return false;
        }
        let mut extra = 0;
        state.due = None;
        if let Some(missed) = at.since(due).checked_div(state.interval) {
            extra = missed;
            state.due = Some(due.after((extra + 1).saturating_mul(state.interval)));
        }
        self.arm(state);
        let send = !state.waiting;
        state.overrun += extra + u64::from(!send);
        state.waiting = matches!(self.target, Target::Signal { info, .. } if info.code == SI_TIMER);
        send
    }

    fn arc(&self) -> Arc<Timer> {
        // SAFETY: timers exist only inside an Arc (`Timer::new`), and `&self` keeps one count.
        unsafe {
            Arc::increment_strong_count(self);
            Arc::from_raw(self)
        }
    }
}

impl Expire for Timer {
    fn expire(&self, _now: Instant) {
        let send = self.arc().advance(&mut self.state.lock());
        let Target::Signal { info, tid } = self.target else { return };
        let Some(process) = root().process(self.pid).filter(|_| send) else { return };
        // A full queue (RLIMIT_SIGPENDING) loses the expiration, as in Linux.
        let _ = match tid {
            None => signal::send_process(&process, info),
            Some(tid) => match process.task(tid) {
                Some(task) => signal::send_task(&task, info),
                None => Ok(()),
            },
        };
    }
}

/// timer_create(2).
pub fn timer_create(ctx: &Ctx, clock: Clock, event: UserPtr<SigEvent>, id: UserPtr<i32>) -> Result {
    let cpu = clock.0 == time::CLOCK_PROCESS_CPUTIME_ID;
    if !cpu && !time::can_time(clock.0) {
        return Err(Errno::EINVAL);
    }
    let base = if cpu { TimeBase::Cpu } else { TimeBase::Clock(clock.0) };
    let event = event.read_optional()?;
    let timers = &ctx.process.timers;
    let number = timers.next.fetch_add(1, Ordering::Relaxed) & i32::MAX;
    let target = target_of(ctx, event, number)?;
    let timer = Timer::new(ctx.process.pid, base, target);
    id.write(number)?;
    timers.table.lock().insert(number, timer);
    Ok(0)
}

fn target_of(ctx: &Ctx, event: Option<SigEvent>, id: i32) -> Result<Target> {
    let (signo, notify, value, tid) = match event {
        None => (SIGALRM, SIGEV_SIGNAL, id as u64, 0),
        Some(event) => (event.signal, event.notify, event.value, event.tid),
    };
    if notify == SIGEV_NONE {
        return Ok(Target::Nobody);
    }
    let tid = match notify {
        SIGEV_SIGNAL => None,
        SIGEV_THREAD_ID if ctx.process.task(tid as u32).is_some() => Some(tid as u32),
        _ => return Err(Errno::EINVAL),
    };
    if !(1..=signal::SIGNALS).contains(&signo) {
        return Err(Errno::EINVAL);
    }
    let info = Info { signo, errno: 0, code: SI_TIMER, fields: [id as u64, value, 0, 0, 0, 0] };
    Ok(Target::Signal { info, tid })
}

/// timer_settime(2).
pub fn timer_settime(
    ctx: &Ctx,
    id: i32,
    flags: i32,
    new: UserPtr<ITimerSpec>,
    old: UserPtr<ITimerSpec>,
) -> Result {
    let new = new.read()?;
    let (value, interval) = (time::valid(new.value)?, time::valid(new.interval)?);
    let timer = ctx.process.timers.get(id)?;
    let absolute = flags & TIMER_ABSTIME != 0;
    let due = match (value, timer.clock) {
        (0, _) => None,
        (value, TimeBase::Clock(clock)) if absolute => Some(time::instant_of(clock, value)?),
        (value, TimeBase::Cpu) if absolute => Some(Instant(value)),
        (value, _) => Some(timer.now().after(value)),
    };
    let before = timer.set(due, interval);
    old.write_optional(spec(before))?;
    Ok(0)
}

fn spec((left, interval): (u64, u64)) -> ITimerSpec {
    ITimerSpec { interval: Timespec::from_ns(interval), value: Timespec::from_ns(left) }
}

/// timer_gettime(2).
pub fn timer_gettime(ctx: &Ctx, id: i32, to: UserPtr<ITimerSpec>) -> Result {
    let timer = ctx.process.timers.get(id)?;
    let now = timer.left(&timer.state.lock());
    to.write(spec(now))?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(ctx: &Ctx, id: i32) -> Result {
    let timer = ctx.process.timers.get(id)?;
    let overrun = timer.state.lock().last_overrun;
    Ok(overrun as usize)
}

/// timer_delete(2).
pub fn timer_delete(ctx: &Ctx, id: i32) -> Result {
    let timer = ctx.process.timers.table.lock().remove(&id).ok_or(Errno::EINVAL)?;
    timer.set(None, 0);
    Ok(0)
}

// ---- interval timers ----

/// The process's timer `which`, made at its first use.
fn interval_timer(process: &Process, which: i32) -> Result<Arc<Timer>> {
    let (signo, clock) = match which {
        0 => (SIGALRM, TimeBase::Clock(platform::time::CLOCK_MONOTONIC)),
        1 => (SIGVTALRM, TimeBase::Cpu),
        2 => (SIGPROF, TimeBase::Cpu),
        _ => return Err(Errno::EINVAL),
    };
    let mut place = process.timers.interval[which as usize].lock();
    let target = Target::Signal { info: Info::from_kernel(signo), tid: None };
    Ok(place.get_or_insert_with(|| Timer::new(process.pid, clock, target)).clone())
}

/// getitimer(2).
pub fn getitimer(ctx: &Ctx, which: i32, to: UserPtr<ITimerVal>) -> Result {
    let timer = interval_timer(ctx.process, which)?;
    let now = timer.left(&timer.state.lock());
    to.write(interval_value(now))?;
    Ok(0)
}

/// setitimer(2).
pub fn setitimer(ctx: &Ctx, which: i32, new: UserPtr<ITimerVal>, old: UserPtr<ITimerVal>) -> Result {
    let timer = interval_timer(ctx.process, which)?;
    // Linux takes a missing value for zero, with a warning.
    let new = new.read_optional()?.unwrap_or_default();
    let (value, interval) = (new.value.to_ns()?, new.interval.to_ns()?);
    let due = (value != 0).then(|| timer.now().after(value));
    let before = timer.set(due, interval);
    old.write_optional(interval_value(before))?;
    Ok(0)
}

fn interval_value((left, interval): (u64, u64)) -> ITimerVal {
    // Rounded up: an armed timer must not show zero.
    let left = if left == 0 { 0 } else { left.max(1000) };
    ITimerVal { interval: Timeval::from_ns(interval), value: Timeval::from_ns(left) }
}

/// alarm(2).
pub fn alarm(ctx: &Ctx, seconds: u32) -> Result {
    let timer = interval_timer(ctx.process, 0)?;
    let due = (seconds != 0).then(|| now().after(u64::from(seconds) * SECOND));
    let (left, _) = timer.set(due, 0);
    // Linux rounds to the nearest second, but not to 0.
    let rounded = (left + SECOND / 2) / SECOND;
    Ok(if left != 0 { rounded.max(1) as usize } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::bit;
    use crate::testing::{ctx, user};
    use std::time::Duration;

    fn pause(ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn spec_ms(value: u64, interval: u64) -> ITimerSpec {
        spec((value * MILLISECOND, interval * MILLISECOND))
    }

    #[test]
    fn signals_carry_value_and_overruns() {
        let ctx = ctx();
        signal::set_mask(ctx.task, bit(40));
        let event = SigEvent { value: 77, signal: 40, notify: SIGEV_SIGNAL, tid: 0, pad: [0; 11] };
        let id = 0i32;
        timer_create(&ctx, Clock(1), user(&event), user(&id)).unwrap();
        let id = std::hint::black_box(id);
        timer_settime(&ctx, id, 0, user(&spec_ms(5, 5)), UserPtr::new(0)).unwrap();
        pause(42);
        let info = signal::take(ctx.task, bit(40)).unwrap();
        assert_eq!((info.code, info.fields[0] as i32, info.fields[1]), (SI_TIMER, id, 77));
        let overrun = timer_getoverrun(&ctx, id).unwrap();
        assert!((3..=12).contains(&overrun), "{overrun}");
        assert_eq!((info.fields[0] >> 32) as usize, overrun);
        assert_eq!(timer_delete(&ctx, id), Ok(0));
        assert_eq!(timer_delete(&ctx, id), Err(Errno::EINVAL));
        signal::take(ctx.task, bit(40));
        pause(20);
        assert_eq!(signal::take(ctx.task, bit(40)), None);
    }

    #[test]
    fn threads_can_be_meant() {
        let ctx = ctx();
        signal::set_mask(ctx.task, bit(41));
        let tid = ctx.task.tid as i32;
        let event = SigEvent { value: 1, signal: 41, notify: SIGEV_THREAD_ID, tid, pad: [0; 11] };
        let id = 0i32;
        timer_create(&ctx, Clock(0), user(&event), user(&id)).unwrap();
        timer_settime(&ctx, std::hint::black_box(id), 0, user(&spec_ms(2, 0)), UserPtr::new(0)).unwrap();
        pause(20);
        assert_eq!(ctx.task.pending.bits(), bit(41));
        let nobody = SigEvent { tid: 3_999_999, ..event };
        assert_eq!(timer_create(&ctx, Clock(0), user(&nobody), user(&id)), Err(Errno::EINVAL));
    }

    #[test]
    fn alarms_ring_once() {
        let ctx = ctx();
        signal::set_mask(ctx.task, bit(SIGALRM));
        assert_eq!(alarm(&ctx, 10), Ok(0));
        assert_eq!(alarm(&ctx, 0), Ok(10));
        let value = ITimerVal { interval: Timeval::default(), value: Timeval { sec: 0, usec: 3000 } };
        setitimer(&ctx, 0, user(&value), UserPtr::new(0)).unwrap();
        pause(20);
        assert_eq!(signal::take(ctx.task, bit(SIGALRM)).map(|i| i.code), Some(signal::SI_KERNEL));
        let wrong = ITimerVal { value: Timeval { sec: 0, usec: 1_000_000 }, ..value };
        assert_eq!(setitimer(&ctx, 0, user(&wrong), UserPtr::new(0)), Err(Errno::EINVAL));
    }

    #[test]
    fn profiling_measures_cpu_time() {
        let ctx = ctx();
        signal::set_mask(ctx.task, bit(SIGPROF));
        let value = ITimerVal { interval: Timeval::default(), value: Timeval { sec: 0, usec: 20_000 } };
        setitimer(&ctx, 2, user(&value), UserPtr::new(0)).unwrap();
        let start = time::process_cpu();
        while time::process_cpu() - start < 150 * MILLISECOND {}
        pause(30);
        assert!(signal::take(ctx.task, bit(SIGPROF)).is_some());
    }
}
