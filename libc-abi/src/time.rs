//! <time.h>: broken-down time, local time and its zone, and their fixed text form.
//!
//! Zones are in [`crate::tz`], `strftime` and `strptime` in [`crate::time_format`]. Clocks and sleeping
//! are system calls and not here.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::data::DataCell;
use crate::errno;
use crate::futex::Lock;
use crate::strerror::Text;
use crate::string::copy;
use crate::text_env::getenv;
use crate::types::*;
use crate::tz::{self, Kind, Zone};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt::Write;
use core::ptr::{null, null_mut};
use platform::Errno;

/// `struct tm`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tm {
    /// 0 to 60.
    pub tm_sec: c_int,
    /// 0 to 59.
    pub tm_min: c_int,
    /// 0 to 23.
    pub tm_hour: c_int,
    /// 1 to 31.
    pub tm_mday: c_int,
    /// 0 to 11.
    pub tm_mon: c_int,
    /// Years since 1900.
    pub tm_year: c_int,
    /// 0 is Sunday.
    pub tm_wday: c_int,
    /// 0 is January 1.
    pub tm_yday: c_int,
    /// Daylight saving time; negative if unknown.
    pub tm_isdst: c_int,
    /// Seconds east of UTC.
    pub tm_gmtoff: c_long,
    /// Abbreviation of the zone.
    pub tm_zone: *const c_char,
}

impl Tm {
    /// All zero, as a static buffer starts.
    pub const ZERO: Tm = Tm {
        tm_sec: 0,
        tm_min: 0,
        tm_hour: 0,
        tm_mday: 0,
        tm_mon: 0,
        tm_year: 0,
        tm_wday: 0,
        tm_yday: 0,
        tm_isdst: 0,
        tm_gmtoff: 0,
        tm_zone: null(),
    };
}

/// `tzname`
pub static TZNAME: DataCell<[*const c_char; 2]> = DataCell::new([c"GMT".as_ptr(), c"GMT".as_ptr()]);
/// `timezone`: seconds west of UTC.
pub static TIMEZONE: DataCell<c_long> = DataCell::new(0);
/// `daylight`: whether the zone has daylight saving time.
pub static DAYLIGHT: DataCell<c_int> = DataCell::new(0);

/// The zone in force and the setting that it came from.
struct Current {
    zone: Zone,
    setting: Option<Vec<u8>>,
}

static CURRENT: Lock<Option<Current>> = Lock::new(None);

/// Held over a fork.
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    CURRENT.raw()
}
static mut SHARED: Tm = Tm::ZERO;

unsafe fn variable(name: &CStr) -> Option<Vec<u8>> {
    let value = getenv(name.as_ptr());
    (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes().to_vec())
}

/// Brings `current` up to date with TZ; `always` as tzset(3), else only at the first use.
unsafe fn refresh(current: &mut Option<Current>, always: bool) {
    if current.is_some() && !always {
        return;
    }
    let setting = variable(c"TZ");
    if current.as_ref().is_some_and(|known| known.setting == setting) {
        return;
    }
    let zone = tz::load(setting.as_deref(), variable(c"TZDIR").as_deref());
    let (standard, daylight) = zone.names();
    let shown = |kind: Option<Kind>, other: Option<Kind>| {
        kind.or(other).map_or(c"UTC".as_ptr(), |kind| kind.name.as_ptr().cast())
    };
    *TZNAME.get() = [shown(standard, daylight), shown(daylight, standard)];
    *TIMEZONE.get() = -standard.or(daylight).map_or(0, |kind| kind.offset);
    *DAYLIGHT.get() = daylight.is_some() as c_int;
    *current = Some(Current { zone, setting });
}

/// Runs `f` with the zone in force.
unsafe fn with_zone<T>(always: bool, f: impl FnOnce(&Zone) -> T) -> T {
    let mut current = CURRENT.lock();
    refresh(&mut current, always);
    match &*current {
        Some(current) => f(&current.zone),
        None => f(&Zone::utc(b"UTC")),
    }
}

/// The broken-down form of `time` + `offset`; `None` if the year does not fit an int.
fn break_down(time: i64, offset: i64) -> Option<Tm> {
    let local = time.checked_add(offset)?;
    let (days, second) = (local.div_euclid(86400), local.rem_euclid(86400));
    // 2^31 years are less than 2^40 days: beyond, only the error is left.
    let year = if days.abs() < 1 << 40 { tz::year_of(days) } else { return None };
    let yday = days - tz::days_to_year(year);
    let month = (1..12).rfind(|&m| tz::days_before(year, m) <= yday).unwrap_or(0);
    Some(Tm {
        tm_sec: (second % 60) as c_int,
        tm_min: (second / 60 % 60) as c_int,
        tm_hour: (second / 3600) as c_int,
        tm_mday: (yday - tz::days_before(year, month) + 1) as c_int,
        tm_mon: month as c_int,
        tm_year: c_int::try_from(year - 1900).ok()?,
        // 1970-01-01 was a Thursday.
        tm_wday: (days + 4).rem_euclid(7) as c_int,
        tm_yday: yday as c_int,
        tm_isdst: 0,
        tm_gmtoff: offset,
        tm_zone: null(),
    })
}

fn local(time: i64, zone: &Zone) -> Option<Tm> {
    let kind = zone.at(time);
    let (leap, inserted) = zone.leap(time);
    let mut tm = break_down(time - leap, kind.offset)?;
    tm.tm_sec += inserted as c_int;
    tm.tm_isdst = kind.dst as c_int;
    tm.tm_zone = kind.name.as_ptr().cast();
    Some(tm)
}

fn universal(time: i64) -> Option<Tm> {
    break_down(time, 0).map(|tm| Tm { tm_zone: c"GMT".as_ptr(), ..tm })
}

unsafe fn store(tm: Option<Tm>, to: *mut Tm) -> *mut Tm {
    match tm {
        Some(tm) => {
            to.write(tm);
            to
        }
        None => {
            errno::set(Errno(75));
            null_mut()
        }
    }
}

/// Seconds since 1970 of fields taken as UTC; fields may be out of their ranges.
fn seconds(tm: &Tm) -> Option<i64> {
    let year = tm.tm_year as i64 + 1900 + (tm.tm_mon as i64).div_euclid(12);
    let month = (tm.tm_mon as i64).rem_euclid(12) as usize;
    let days = tz::days_to_year(year) + tz::days_before(year, month) + tm.tm_mday as i64 - 1;
    let clock = tm.tm_hour as i64 * 3600 + tm.tm_min as i64 * 60 + tm.tm_sec as i64;
    days.checked_mul(86400)?.checked_add(clock)
}

/// The instant that local fields name. Where there are two, or none, `tm_isdst` and then the earlier
/// offset decide.
fn instant(tm: &Tm, zone: &Zone) -> Option<i64> {
    const HALF_DAY: i64 = 43200;
    let as_utc = seconds(tm)?;
    // The types in force around the time; no offset exceeds a day, no two changes are that close.
    let guess = as_utc.checked_sub(zone.at(as_utc).offset)?;
    let mut near: Vec<Kind> = Vec::new();
    for step in [-2, -1, 0, 1, 2] {
        let kind = zone.at(guess.saturating_add(step * HALF_DAY));
        if !near.contains(&kind) {
            near.push(kind);
        }
    }
    let names = |kind: &Kind| zone.at(as_utc - kind.offset).offset == kind.offset;
    let wanted = |kind: &&Kind| tm.tm_isdst < 0 || kind.dst == (tm.tm_isdst > 0);
    let exact = near.iter().filter(|kind| names(kind) && zone.at(as_utc - kind.offset).dst == kind.dst);
    if let Some(kind) = exact.clone().find(wanted) {
        return Some(as_utc - kind.offset);
    }
    // The clock as it would be under the other setting, if the zone has it anywhere near.
    if tm.tm_isdst >= 0 {
        if let Some(kind) = near.iter().find(wanted) {
            return Some(as_utc - kind.offset);
        }
        // As glibc: look for the nearest time with that setting, in widening steps to either side.
        let step = 601200;
        let bound = 268435456;
        let mut away = step;
        while away < bound {
            for at in [guess.checked_sub(away)?, guess.checked_add(away)?] {
                let kind = zone.at(at);
                if kind.dst == (tm.tm_isdst > 0) {
                    return Some(as_utc - kind.offset);
                }
            }
            away += step;
        }
    }
    // A time that the clocks skipped: read by the offset before the change.
    Some(as_utc - exact.clone().next().or(near.first())?.offset)
}

/// asctime(3)'s text; its fields are not checked, only the year's overflow.
unsafe fn text_of(tm: *const Tm, to: *mut c_char) -> *mut c_char {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    if tm.is_null() {
        errno::set(Errno(22));
        return null_mut();
    }
    let tm = &*tm;
    if tm.tm_year > c_int::MAX - 1900 {
        errno::set(Errno(75));
        return null_mut();
    }
    let name = |names: &[&'static str], at: c_int| {
        usize::try_from(at).ok().and_then(|at| names.get(at).copied()).unwrap_or("???")
    };
    let mut text: Text<114> = Text::new();
    let _ = writeln!(
        text,
        "{} {} {:2} {:02}:{:02}:{:02} {}",
        name(&DAYS, tm.tm_wday),
        name(&MONTHS, tm.tm_mon),
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec,
        tm.tm_year + 1900
    );
    let text = text.as_c_str();
    copy(to, text.as_ptr(), text.count_bytes() + 1);
    to
}

static mut ASCTIME: [c_char; 114] = [0; 114];

abi! { EXPORTS "libc.so.6":
    /// tzset(3).
    "GLIBC_2.2.5" fn tzset() {
        with_zone(true, |_| ());
    }
    /// localtime_r(3).
    "GLIBC_2.2.5" fn localtime_r(time: *const time_t, to: *mut Tm) -> *mut Tm {
        store(with_zone(false, |zone| local(*time, zone)), to)
    }
    /// localtime(3).
    "GLIBC_2.2.5" fn localtime(time: *const time_t) -> *mut Tm {
        store(with_zone(true, |zone| local(*time, zone)), &raw mut SHARED)
    }
    /// gmtime_r(3).
    "GLIBC_2.2.5" fn gmtime_r(time: *const time_t, to: *mut Tm) -> *mut Tm {
        store(universal(*time), to)
    }
    /// gmtime(3).
    "GLIBC_2.2.5" fn gmtime(time: *const time_t) -> *mut Tm {
        gmtime_r(time, &raw mut SHARED)
    }
    /// mktime(3).
    "GLIBC_2.2.5" fn mktime(tm: *mut Tm) -> time_t {
        let result = with_zone(true, |zone| {
            let time = zone.with_leaps(instant(&*tm, zone)?);
            Some((time, local(time, zone)?))
        });
        let Some((time, normal)) = result else {
            errno::set(Errno(75));
            return -1;
        };
        tm.write(normal);
        time
    }
    /// timegm(3).
    "GLIBC_2.2.5" fn timegm(tm: *mut Tm) -> time_t {
        match seconds(&*tm).and_then(|time| Some((time, universal(time)?))) {
            Some((time, normal)) => {
                tm.write(normal);
                time
            }
            None => {
                errno::set(Errno(75));
                -1
            }
        }
    }
    /// difftime(3).
    "GLIBC_2.2.5" fn difftime(after: time_t, before: time_t) -> c_double {
        (after as i128 - before as i128) as f64
    }
    /// asctime_r(3).
    "GLIBC_2.2.5" fn asctime_r(tm: *const Tm, to: *mut c_char) -> *mut c_char {
        text_of(tm, to)
    }
    /// asctime(3).
    "GLIBC_2.2.5" fn asctime(tm: *const Tm) -> *mut c_char {
        text_of(tm, (&raw mut ASCTIME).cast())
    }
    /// ctime_r(3).
    "GLIBC_2.2.5" fn ctime_r(time: *const time_t, to: *mut c_char) -> *mut c_char {
        let mut tm = Tm::ZERO;
        if localtime_r(time, &mut tm).is_null() { null_mut() } else { text_of(&tm, to) }
    }
    /// ctime(3).
    "GLIBC_2.2.5" fn ctime(time: *const time_t) -> *mut c_char {
        asctime(localtime(time))
    }
    /// dysize(3).
    "GLIBC_2.2.5" fn dysize(year: c_int) -> c_int {
        365 + tz::is_leap(year as i64) as c_int
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "timelocal" = mktime;
    alias "GLIBC_2.2.5" "__gmtime_r" = gmtime_r;
    cell "GLIBC_2.2.5" "tzname" 16 = TZNAME;
    cell "GLIBC_2.2.5" "__tzname" 16 = TZNAME;
    cell "GLIBC_2.2.5" "timezone" 8 = TIMEZONE;
    cell "GLIBC_2.2.5" "__timezone" 8 = TIMEZONE;
    cell "GLIBC_2.2.5" "daylight" 4 = DAYLIGHT;
    cell "GLIBC_2.2.5" "__daylight" 4 = DAYLIGHT;
}
