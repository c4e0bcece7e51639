//! pthread_spinlock_t: 1 free, 0 (or less) held, as in glibc. A waiter that has spun for a while
//! gives its vCPU away: the holder may be waiting for it.

use crate::kcall;
use crate::types::c_int;
use core::sync::atomic::{AtomicI32, Ordering};
use platform::Errno;

const FREE: i32 = 1;
const SPINS: u32 = 100;

abi! { EXPORTS "libc.so.6":
    /// pthread_spin_init(3).
    "GLIBC_2.34" fn pthread_spin_init(lock: *const AtomicI32, _shared: c_int) -> c_int {
        // SAFETY: the program's object; so below.
        unsafe { (*lock).store(FREE, Ordering::Relaxed) };
        0
    }
    /// pthread_spin_destroy(3).
    "GLIBC_2.34" fn pthread_spin_destroy(_lock: *const AtomicI32) -> c_int {
        0
    }
    /// pthread_spin_lock(3).
    "GLIBC_2.34" fn pthread_spin_lock(lock: *const AtomicI32) -> c_int {
        // SAFETY: as above.
        let lock = unsafe { &*lock };
        while lock.compare_exchange_weak(FREE, 0, Ordering::Acquire, Ordering::Relaxed).is_err() {
            let mut spins = 0;
            while lock.load(Ordering::Relaxed) != FREE {
                spins += 1;
                if spins < SPINS {
                    core::hint::spin_loop();
                } else {
                    // SAFETY: takes nothing.
                    let _ = unsafe { kcall!(sched_yield) };
                }
            }
        }
        0
    }
    /// pthread_spin_trylock(3).
    "GLIBC_2.34" fn pthread_spin_trylock(lock: *const AtomicI32) -> c_int {
        // SAFETY: as above.
        let taken = unsafe { (*lock).compare_exchange(FREE, 0, Ordering::Acquire, Ordering::Relaxed) };
        if taken.is_ok() { 0 } else { Errno::EBUSY.0 }
    }
    /// pthread_spin_unlock(3).
    "GLIBC_2.34" fn pthread_spin_unlock(lock: *const AtomicI32) -> c_int {
        // SAFETY: as above.
        unsafe { (*lock).store(FREE, Ordering::Release) };
        0
    }
}
