//! Clocks and sleeping: clock_gettime(2), clock_nanosleep(2), gettimeofday(2), times(2).
//!
//! The clocks are the host's. Setting them is EPERM, as for an ordinary user.

use crate::args::{Address, Clock};
use crate::context::Ctx;
use crate::errno::{RESTART_NO_HANDLER, wants_restart};
use crate::user::UserPtr;
use crate::wait;
use crate::{Errno, Result};
use platform::host;
use platform::time::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, Instant, SECOND, Timespec, clock_gettime as host_clock, now,
};

/// `TIMER_ABSTIME`.
pub const TIMER_ABSTIME: i32 = 1;
/// CPU time of the process.
pub const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
/// CPU time of the thread.
pub const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
const CLOCK_BOOTTIME: i32 = 7;
const CLOCK_REALTIME_ALARM: i32 = 8;
const CLOCK_BOOTTIME_ALARM: i32 = 9;
const CLOCK_TAI: i32 = 11;

/// `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeval {
    /// Seconds.
    pub sec: i64,
    /// Microseconds.
    pub usec: i64,
}

impl Timeval {
    /// From nanoseconds.
    pub const fn from_ns(ns: u64) -> Timeval {
        Timeval { sec: (ns / SECOND) as i64, usec: (ns % SECOND / 1000) as i64 }
    }

    /// Nanoseconds; EINVAL for a negative time or microseconds out of range (setitimer(2)).
    pub fn to_ns(self) -> Result<u64> {
        if (0..1_000_000).contains(&self.usec) { self.normalized() } else { Err(Errno::EINVAL) }
    }

    /// Nanoseconds as select(2) reads them: microseconds may be more than a second.
    pub fn normalized(self) -> Result<u64> {
        if self.sec < 0 || self.usec < 0 {
            return Err(Errno::EINVAL);
        }
        let usec = (self.usec as u64).saturating_mul(1000);
        Ok((self.sec as u64).saturating_mul(SECOND).saturating_add(usec))
    }
}

/// `struct itimerspec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ITimerSpec {
    /// Period; 0 for one shot.
    pub interval: Timespec,
    /// First expiration; 0 disarms.
    pub value: Timespec,
}

/// `struct itimerval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ITimerVal {
    /// Period; 0 for one shot.
    pub interval: Timeval,
    /// First expiration; 0 disarms.
    pub value: Timeval,
}

/// Nanoseconds of a time that a program brings; EINVAL as for the kernel's timespec64_valid.
pub fn valid(time: Timespec) -> Result<u64> {
    let ok = time.sec >= 0 && (0..SECOND as i64).contains(&time.nsec);
    if ok { Ok(time.to_ns()) } else { Err(Errno::EINVAL) }
}

/// The point on the monotonic clock at which `clock` shows `ns`. The wall clock's steps between now
/// and then are not followed.
pub fn instant_of(clock: i32, ns: u64) -> Result<Instant> {
    if clock == CLOCK_MONOTONIC {
        return Ok(Instant(ns));
    }
    let there = read_clock(clock)?;
    Ok(now().after(ns.saturating_sub(there)))
}

/// Nanoseconds of a clock on which one can sleep; EINVAL for others.
fn read_clock(clock: i32) -> Result<u64> {
    match clock {
        CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME | CLOCK_TAI => {}
        CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM => {}
        _ => return Err(Errno::EINVAL),
    }
    host_clock(clock).map(Timespec::to_ns).ok_or(Errno::EINVAL)
}

/// Whether a timer may be made on this clock.
pub fn can_time(clock: i32) -> bool {
    read_clock(clock).is_ok()
}

/// CPU time of the guest's process in nanoseconds.
pub fn process_cpu() -> u64 {
    host_clock(CLOCK_PROCESS_CPUTIME_ID).map_or(0, Timespec::to_ns)
}

/// The host clock behind a clock id of the program: dynamic ids (clock_getcpuclockid(3)) name the CPU
/// clock of a process or thread, `~id << 3 | kind`, with bit 2 for threads.
fn host_id(ctx: &Ctx, clock: i32) -> Result<i32> {
    if clock >= 0 {
        return Ok(clock);
    }
    let id = !(clock >> 3) as u32;
    let of_thread = clock & 4 != 0;
    match (clock & 3, of_thread) {
        (0..=2, false) if id == 0 || id == ctx.process.pid => Ok(CLOCK_PROCESS_CPUTIME_ID),
        (0..=2, true) if id == 0 || id == ctx.task.tid => Ok(CLOCK_THREAD_CPUTIME_ID),
        _ => Err(Errno::EINVAL),
    }
}

/// clock_gettime(2).
pub fn clock_gettime(ctx: &Ctx, clock: Clock, to: UserPtr<Timespec>) -> Result {
    let time = host_clock(host_id(ctx, clock.0)?).ok_or(Errno::EINVAL)?;
    to.write(time)?;
    Ok(0)
}

/// clock_getres(2).
pub fn clock_getres(ctx: &Ctx, clock: Clock, to: UserPtr<Timespec>) -> Result {
    let mut resolution = Timespec::default();
    // SAFETY: the kernel writes one timespec to ours.
    unsafe { host!(clock_getres, host_id(ctx, clock.0)?, &raw mut resolution)? };
    to.write_optional(resolution)?;
    Ok(0)
}

/// clock_settime(2).
pub fn clock_settime(_ctx: &Ctx, clock: Clock, from: UserPtr<Timespec>) -> Result {
    read_clock(clock.0)?;
    valid(from.read()?)?;
    Err(Errno::EPERM)
}

/// gettimeofday(2).
pub fn gettimeofday(_ctx: &Ctx, to: UserPtr<Timeval>, zone: UserPtr<[i32; 2]>) -> Result {
    let time = host_clock(CLOCK_REALTIME).ok_or(Errno::EINVAL)?;
    to.write_optional(Timeval { sec: time.sec, usec: time.nsec / 1000 })?;
    zone.write_optional([0, 0])?;
    Ok(0)
}

/// settimeofday(2).
pub fn settimeofday(_ctx: &Ctx, from: UserPtr<Timeval>, zone: UserPtr<[i32; 2]>) -> Result {
    from.read_optional()?.map(Timeval::to_ns).transpose()?;
    zone.read_optional()?;
    Err(Errno::EPERM)
}

/// adjtimex(2).
pub fn adjtimex(_ctx: &Ctx, _buffer: Address) -> Result {
    Err(Errno::EPERM)
}

/// clock_adjtime(2).
pub fn clock_adjtime(_ctx: &Ctx, _clock: Clock, _buffer: Address) -> Result {
    Err(Errno::EPERM)
}

/// time(2).
pub fn time(_ctx: &Ctx, to: UserPtr<i64>) -> Result {
    let seconds = host_clock(CLOCK_REALTIME).ok_or(Errno::EINVAL)?.sec;
    to.write_optional(seconds)?;
    Ok(seconds as usize)
}

/// times(2): the host's counts for the process; ticks are 1/100 s on both sides.
pub fn times(ctx: &Ctx, to: UserPtr<[i64; 4]>) -> Result {
    let mut times = [0i64; 4];
    // SAFETY: the kernel writes one struct tms (four clock_t) to ours.
    let ticks = unsafe { host!(times, &raw mut times)? };
    let children = ctx.process.children_usage.lock().ticks();
    times[2..].copy_from_slice(&children);
    to.write_optional(times)?;
    Ok(ticks)
}

/// nanosleep(2).
pub fn nanosleep(ctx: &Ctx, time: UserPtr<Timespec>, rest: UserPtr<Timespec>) -> Result {
    clock_nanosleep(ctx, Clock(CLOCK_MONOTONIC), 0, time, rest)
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(
    ctx: &Ctx,
    clock: Clock,
    flags: i32,
    time: UserPtr<Timespec>,
    rest: UserPtr<Timespec>,
) -> Result {
    let absolute = flags & TIMER_ABSTIME != 0;
    if clock.0 == CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EINVAL);
    }
    if clock.0 == CLOCK_PROCESS_CPUTIME_ID {
        return Err(Errno::EOPNOTSUPP);
    }
    read_clock(clock.0)?;
    let ns = valid(time.read()?)?;
    let deadline = if absolute { instant_of(clock.0, ns)? } else { now().after(ns) };
    let slept = wait::sleep_until(ctx, Some(deadline), RESTART_NO_HANDLER);
    if !absolute && slept.is_err_and(wants_restart) {
        rest.write_optional(Timespec::from_ns(deadline.since(now())))?;
    }
    slept.map(|()| 0)
}
