//! Clocks: nanoseconds of the host's monotonic and wall clocks, through the vDSO when it is known.

use core::sync::atomic::{AtomicUsize, Ordering};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// A point on the monotonic clock, in nanoseconds. Comparable and subtractable, nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The point `ns` nanoseconds later; saturates at the end of time.
    pub const fn after(self, ns: u64) -> Instant {
        Instant(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to this point; 0 if it is not earlier.
    pub const fn since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The kernel's `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timespec {
    /// Whole seconds.
    pub sec: i64,
    /// Nanoseconds, 0..1e9.
    pub nsec: i64,
}

impl Timespec {
    /// Nanoseconds in all; saturates.
    pub const fn to_ns(self) -> u64 {
        (self.sec as u64).saturating_mul(SECOND).saturating_add(self.nsec as u64)
    }

    /// The timespec of so many nanoseconds.
    pub const fn from_ns(ns: u64) -> Timespec {
        Timespec { sec: (ns / SECOND) as i64, nsec: (ns % SECOND) as i64 }
    }
}

/// `CLOCK_REALTIME` of clock_gettime(2).
pub const CLOCK_REALTIME: i32 = 0;
/// `CLOCK_MONOTONIC` of clock_gettime(2).
pub const CLOCK_MONOTONIC: i32 = 1;

/// Address of `__vdso_clock_gettime`, 0 while unknown. A process-wide constant after start-up.
static VDSO_CLOCK_GETTIME: AtomicUsize = AtomicUsize::new(0);

/// Tells where the vDSO's `clock_gettime` is (the loader finds it behind `AT_SYSINFO_EHDR`).
///
/// # Safety
/// The address must be that function's, mapped for the life of the process.
pub unsafe fn set_vdso_clock_gettime(address: usize) {
    VDSO_CLOCK_GETTIME.store(address, Ordering::Relaxed);
}

/// The host's clock `clock`, or `None` if the host refuses that clock.
#[inline]
pub fn clock_gettime(clock: i32) -> Option<Timespec> {
    let mut now = Timespec::default();
    let address = VDSO_CLOCK_GETTIME.load(Ordering::Relaxed);
    // CPU-time clocks are not in the vDSO: it would ask the host by a `syscall` instruction of its
    // own, which syscall user dispatch takes for the program's.
    let fast = matches!(clock, 0 | 1 | 4 | 5 | 6 | 7 | 11);
    let ok = if address != 0 && fast {
        // SAFETY: `set_vdso_clock_gettime` was promised this function's address and type.
        let call: extern "C" fn(i32, *mut Timespec) -> i32 = unsafe { core::mem::transmute(address) };
        call(clock, &mut now) == 0
    } else {
        // SAFETY: `now` is ours and of the kernel's layout.
        unsafe { crate::host!(clock_gettime, clock, &raw mut now) }.is_ok()
    };
    ok.then_some(now)
}

/// Now, on the monotonic clock.
#[inline]
pub fn now() -> Instant {
    Instant(clock_gettime(CLOCK_MONOTONIC).unwrap_or_default().to_ns())
}
