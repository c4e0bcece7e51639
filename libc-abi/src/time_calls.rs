//! Clocks, sleeping and interval timers: <time.h> and <sys/time.h> as far as they are system calls.
//!
//! The clocks that the vDSO knows are read there, without entering the personality. CPU-time clocks are
//! the guest's own accounting and go through it. timer_create(2) and its thread notification are in
//! [`crate::posix_timers`]; broken-down time is in [`crate::time`].

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::types::*;
use crate::{kcall, point};
use core::ptr::null_mut;
use platform::Errno;
use platform::time::Timespec;

/// `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeval {
    /// Seconds.
    pub sec: i64,
    /// Microseconds.
    pub usec: i64,
}

/// `struct itimerval`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItimerVal {
    /// Period, or zero for a single shot.
    pub interval: Timeval,
    /// Until the next expiration; zero: disarmed.
    pub value: Timeval,
}

/// `struct ntptimeval`.
#[repr(C)]
#[derive(Debug)]
pub struct NtpTime {
    time: Timeval,
    max_error: c_long,
    est_error: c_long,
    tai: c_long,
    reserved: [c_long; 4],
}

/// `struct timex`: 208 bytes; the fields that this file looks at.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Timex {
    modes: u32,
    offset: i64,
    freq: i64,
    max_error: i64,
    est_error: i64,
    status: i32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: Timeval,
    tick: i64,
    statistics: [i64; 8],
    tai: i32,
    reserved: [i32; 11],
}

const _: () = assert!(size_of::<Timex>() == 208 && core::mem::offset_of!(Timex, tai) == 160);

const CLOCK_REALTIME: c_int = 0;
const CLOCK_PROCESS_CPUTIME_ID: c_int = 2;
const CLOCK_THREAD_CPUTIME_ID: c_int = 3;
const CLOCK_REALTIME_COARSE: c_int = 5;
const ITIMER_REAL: c_int = 0;
const TIME_UTC: c_int = 1;
const MICROSECONDS: i64 = 1_000_000;

/// Reads a clock: the vDSO's at once, others through the personality.
fn read_clock(clock: c_int) -> Result<Timespec, Errno> {
    if matches!(clock, 0 | 1 | 4 | 5 | 6 | 7 | 11)
        && let Some(now) = platform::time::clock_gettime(clock)
    {
        return Ok(now);
    }
    let mut now = Timespec::default();
    // SAFETY: our own timespec.
    unsafe { kcall!(clock_gettime, clock, &raw mut now) }.map(|_| now)
}

fn number(result: Result<usize, Errno>) -> c_int {
    result.map_or_else(|errno| errno.0, |_| 0)
}

abi! { EXPORTS "libc.so.6":
    /// clock_gettime(2).
    "GLIBC_2.17" fn clock_gettime(clock: c_int, now: *mut Timespec) -> c_int {
        match read_clock(clock) {
            Ok(time) => {
                now.write(time);
                0
            }
            Err(errno) => errno::int(Err(errno)),
        }
    }
    /// clock_getres(2).
    "GLIBC_2.17" fn clock_getres(clock: c_int, resolution: *mut Timespec) -> c_int {
        errno::int(kcall!(clock_getres, clock, resolution))
    }
    /// clock_settime(2). A time that is none is refused before the clock is looked at.
    "GLIBC_2.17" fn clock_settime(clock: c_int, time: *const Timespec) -> c_int {
        if !(0..1_000_000_000).contains(&(*time).nsec) {
            return errno::int(Err(Errno::EINVAL));
        }
        errno::int(kcall!(clock_settime, clock, time))
    }
    /// clock_nanosleep(2): answers the error number.
    "GLIBC_2.17" fn clock_nanosleep(
        clock: c_int, flags: c_int, time: *const Timespec, rest: *mut Timespec,
    ) -> c_int {
        if clock == CLOCK_THREAD_CPUTIME_ID {
            return Errno::EINVAL.0;
        }
        number(point!(clock_nanosleep, clock, flags, time, rest))
    }
    /// clock_getcpuclockid(3).
    "GLIBC_2.17" fn clock_getcpuclockid(pid: pid_t, clock: *mut c_int) -> c_int {
        // CPUCLOCK_SCHED of a process, as the kernel writes it (posix-timers.h).
        let id = (!pid << 3) | 2;
        match kcall!(clock_getres, id, 0) {
            Ok(_) => {
                clock.write(id);
                0
            }
            // The clock does not exist: no such process.
            Err(Errno::EINVAL) => Errno::ESRCH.0,
            Err(errno) => errno.0,
        }
    }
    /// nanosleep(2).
    "GLIBC_2.2.5" fn nanosleep(time: *const Timespec, rest: *mut Timespec) -> c_int {
        errno::int(point!(clock_nanosleep, CLOCK_REALTIME, 0, time, rest))
    }
    /// sleep(3): what is left in whole seconds if a signal came.
    "GLIBC_2.2.5" fn sleep(seconds: c_uint) -> c_uint {
        let before = errno::get();
        let mut time = Timespec { sec: i64::from(seconds), nsec: 0 };
        let time = &raw mut time;
        if nanosleep(time, time) < 0 {
            return (*time).sec as c_uint;
        }
        errno::set(before);
        0
    }
    /// usleep(3).
    "GLIBC_2.2.5" fn usleep(microseconds: c_uint) -> c_int {
        let (sec, usec) = (i64::from(microseconds) / MICROSECONDS, i64::from(microseconds) % MICROSECONDS);
        let time = Timespec { sec, nsec: usec * 1000 };
        nanosleep(&raw const time, null_mut())
    }
    /// time(2): the coarse clock, as glibc's.
    "GLIBC_2.2.5" fn time(out: *mut time_t) -> time_t {
        let now = read_clock(CLOCK_REALTIME_COARSE).unwrap_or_default().sec;
        if !out.is_null() {
            out.write(now);
        }
        now
    }
    /// gettimeofday(2). The zone is not kept: always zero.
    "GLIBC_2.2.5" fn gettimeofday(out: *mut Timeval, zone: *mut [c_int; 2]) -> c_int {
        if !zone.is_null() {
            zone.write([0; 2]);
        }
        if !out.is_null() {
            match read_clock(CLOCK_REALTIME) {
                Ok(now) => out.write(Timeval { sec: now.sec, usec: now.nsec / 1000 }),
                Err(errno) => return errno::int(Err(errno)),
            }
        }
        0
    }
    /// settimeofday(2): the time or the zone, not both (since 2.31).
    "GLIBC_2.2.5" fn settimeofday(time: *const Timeval, zone: *const c_void) -> c_int {
        if !zone.is_null() {
            if !time.is_null() {
                return errno::int(Err(Errno::EINVAL));
            }
            return errno::int(kcall!(settimeofday, 0, zone));
        }
        if !(0..MICROSECONDS).contains(&(*time).usec) {
            return errno::int(Err(Errno::EINVAL));
        }
        let time = Timespec { sec: (*time).sec, nsec: (*time).usec * 1000 };
        clock_settime(CLOCK_REALTIME, &raw const time)
    }
    /// clock(3): CPU time in microseconds.
    "GLIBC_2.2.5" fn clock() -> c_long {
        match read_clock(CLOCK_PROCESS_CPUTIME_ID) {
            Ok(used) => used.sec * MICROSECONDS + used.nsec / 1000,
            Err(_) => -1,
        }
    }
    /// getitimer(2).
    "GLIBC_2.2.5" fn getitimer(which: c_int, value: *mut ItimerVal) -> c_int {
        errno::int(kcall!(getitimer, which, value))
    }
    /// setitimer(2).
    "GLIBC_2.2.5" fn setitimer(which: c_int, new: *const ItimerVal, old: *mut ItimerVal) -> c_int {
        errno::int(kcall!(setitimer, which, new, old))
    }
    /// alarm(2).
    "GLIBC_2.2.5" fn alarm(seconds: c_uint) -> c_uint {
        errno::int(kcall!(alarm, seconds)) as c_uint
    }
    /// ualarm(3).
    "GLIBC_2.2.5" fn ualarm(value: c_uint, interval: c_uint) -> c_uint {
        let split = |us: c_uint| Timeval { sec: i64::from(us) / MICROSECONDS, usec: i64::from(us) % MICROSECONDS };
        let new = ItimerVal { interval: split(interval), value: split(value) };
        let mut old = ItimerVal::default();
        if setitimer(ITIMER_REAL, &raw const new, &raw mut old) < 0 {
            return c_uint::MAX;
        }
        (old.value.sec * MICROSECONDS + old.value.usec) as c_uint
    }
    /// adjtimex(2).
    "GLIBC_2.2.5" fn adjtimex(time: *mut Timex) -> c_int {
        errno::int(kcall!(adjtimex, time))
    }
    /// clock_adjtime(2).
    "GLIBC_2.14" fn clock_adjtime(clock: c_int, time: *mut Timex) -> c_int {
        errno::int(kcall!(clock_adjtime, clock, time))
    }
    /// adjtime(3): a gradual correction; with null only asks for what is left of one.
    "GLIBC_2.2.5" fn adjtime(delta: *const Timeval, left: *mut Timeval) -> c_int {
        const ADJ_OFFSET_SINGLESHOT: u32 = 0x8001;
        const ADJ_OFFSET_SS_READ: u32 = 0xa001;
        const LIMIT: i64 = i32::MAX as i64 / MICROSECONDS - 2;
        let mut request: Timex = core::mem::zeroed();
        request.modes = ADJ_OFFSET_SS_READ;
        if let Some(delta) = delta.as_ref() {
            let (sec, usec) = (delta.sec + delta.usec / MICROSECONDS, delta.usec % MICROSECONDS);
            if !(-LIMIT..=LIMIT).contains(&sec) {
                return errno::int(Err(Errno::EINVAL));
            }
            request.offset = sec * MICROSECONDS + usec;
            request.modes = ADJ_OFFSET_SINGLESHOT;
        }
        if let Err(errno) = kcall!(adjtimex, &raw mut request) {
            return errno::int(Err(errno));
        }
        if !left.is_null() {
            // Both parts have the sign of the whole.
            left.write(Timeval { sec: request.offset / MICROSECONDS, usec: request.offset % MICROSECONDS });
        }
        0
    }
    /// ntp_gettime(3) without TAI, of old headers.
    "GLIBC_2.2.5" fn ntp_gettime(out: *mut NtpTime) -> c_int {
        let mut now: Timex = core::mem::zeroed();
        let result = kcall!(adjtimex, &raw mut now);
        if result.is_ok() {
            (*out).time = now.time;
            (*out).max_error = now.max_error;
            (*out).est_error = now.est_error;
        }
        errno::int(result)
    }
    /// ntp_gettime(3).
    "GLIBC_2.12" fn ntp_gettimex(out: *mut NtpTime) -> c_int {
        let mut now: Timex = core::mem::zeroed();
        let result = kcall!(adjtimex, &raw mut now);
        if result.is_ok() {
            out.write(NtpTime {
                time: now.time, max_error: now.max_error, est_error: now.est_error,
                tai: c_long::from(now.tai), reserved: [0; 4],
            });
        }
        errno::int(result)
    }
    /// timespec_get(3).
    "GLIBC_2.16" fn timespec_get(out: *mut Timespec, base: c_int) -> c_int {
        if base != TIME_UTC {
            return 0;
        }
        match read_clock(CLOCK_REALTIME) {
            Ok(now) => {
                out.write(now);
                base
            }
            Err(_) => 0,
        }
    }
    /// timespec_getres(3).
    "GLIBC_2.34" fn timespec_getres(out: *mut Timespec, base: c_int) -> c_int {
        if base != TIME_UTC {
            return 0;
        }
        match kcall!(clock_getres, CLOCK_REALTIME, out) {
            Ok(_) => base,
            Err(_) => 0,
        }
    }
    /// ftime(3): `struct timeb` is seconds, milliseconds and a zone that is always zero.
    "GLIBC_2.2.5" fn ftime(out: *mut c_void) -> c_int {
        let Ok(now) = read_clock(CLOCK_REALTIME) else { return -1 };
        #[repr(C)]
        struct Timeb {
            time: time_t,
            millitm: c_ushort,
            zone: [c_short; 2],
        }
        out.cast::<Timeb>().write(Timeb { time: now.sec, millitm: (now.nsec / 1_000_000) as c_ushort, zone: [0; 2] });
        0
    }
}

/// stime(2), gone from the headers since 2.31.
pub unsafe extern "C" fn stime(time: *const time_t) -> c_int {
    let time = Timespec { sec: *time, nsec: 0 };
    clock_settime(CLOCK_REALTIME, &raw const time)
}

exports! { ROWS "libc.so.6":
    compat "GLIBC_2.2.5" "clock_gettime" = clock_gettime;
    compat "GLIBC_2.2.5" "clock_getres" = clock_getres;
    compat "GLIBC_2.2.5" "clock_settime" = clock_settime;
    compat "GLIBC_2.2.5" "clock_nanosleep" = clock_nanosleep;
    compat "GLIBC_2.2.5" "clock_getcpuclockid" = clock_getcpuclockid;
    compat "GLIBC_2.2.5" "stime" = stime;
    alias "GLIBC_2.2.6" "__nanosleep" = nanosleep;
    alias "GLIBC_2.2.5" "__gettimeofday" = gettimeofday;
    alias "GLIBC_2.2.5" "__adjtimex" = adjtimex;
    alias "GLIBC_2.2.5" "ntp_adjtime" = adjtimex;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::null;

    #[test]
    fn clocks_are_the_hosts() {
        for clock in [0, 1, 2, 3, 4, 5, 6, 7, 11] {
            let (mut ours, mut theirs) = (Timespec::default(), Timespec::default());
            // SAFETY: our own timespecs; libc's has the same layout.
            unsafe {
                assert_eq!(clock_gettime(clock, &raw mut ours), 0);
                assert_eq!(libc::clock_gettime(clock, (&raw mut theirs).cast()), 0);
            }
            assert!(theirs.to_ns().abs_diff(ours.to_ns()) < 2_000_000_000, "{clock}: {ours:?} {theirs:?}");
        }
        // SAFETY: as above.
        unsafe {
            assert_eq!(clock_gettime(12345, &mut Timespec::default()), -1);
            assert_eq!(errno::get(), Errno::EINVAL);
            assert!((time(null_mut()) - libc::time(null_mut())).abs() <= 1);
            assert_eq!(timespec_get(&mut Timespec::default(), 2), 0);
            assert!(clock() >= 0);
        }
    }

    #[test]
    fn sleeps_answer_as_the_manual_says() {
        let bad = Timespec { sec: 0, nsec: -1 };
        let short = Timespec { sec: 0, nsec: 2_000_000 };
        // SAFETY: our own timespecs.
        unsafe {
            assert_eq!(nanosleep(&raw const bad, null_mut()), -1);
            assert_eq!(errno::get(), Errno::EINVAL);
            assert_eq!(clock_nanosleep(3, 0, &raw const short, null_mut()), Errno::EINVAL.0);
            let before = platform::time::now();
            assert_eq!(nanosleep(&raw const short, null_mut()), 0);
            assert!(platform::time::now().since(before) >= 2_000_000);
            let mut clock = 0;
            assert_eq!(clock_getcpuclockid(0, &raw mut clock), 0);
            let mut theirs = 0;
            assert_eq!(libc::clock_getcpuclockid(0, &raw mut theirs), 0);
            assert_eq!(clock, theirs);
            assert_eq!(adjtime(null(), &mut Timeval::default()), 0);
        }
    }
}
