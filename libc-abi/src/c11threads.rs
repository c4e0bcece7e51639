//! <threads.h> of C11: POSIX threads under other names and with other error numbers.

use crate::kcall;
use crate::point;
use crate::pthread::{cancel, cond, key, mutex, once, thread};
use crate::thread::Tcb;
use crate::types::*;
use core::sync::atomic::AtomicU32;
use platform::Errno;
use platform::time::Timespec;

const SUCCESS: c_int = 0;
const BUSY: c_int = 1;
const ERROR: c_int = 2;
const NOMEM: c_int = 3;
const TIMEDOUT: c_int = 4;

fn convert(number: c_int) -> c_int {
    match Errno(number) {
        Errno(0) => SUCCESS,
        Errno::ENOMEM => NOMEM,
        Errno::ETIMEDOUT => TIMEDOUT,
        Errno::EBUSY => BUSY,
        _ => ERROR,
    }
}

abi! { EXPORTS "libc.so.6":
    /// thrd_create(3).
    "GLIBC_2.34" fn thrd_create(
        out: *mut *mut Tcb, start: unsafe extern "C" fn(*mut c_void) -> c_int, argument: *mut c_void,
    ) -> c_int {
        // SAFETY: the program's arguments; so below.
        match unsafe { thread::create(out, core::ptr::null(), start as *const (), argument, true) } {
            Ok(()) => SUCCESS,
            // thrd_create has no "try again": C's word is nomem.
            Err(Errno::EAGAIN | Errno::ENOMEM) => NOMEM,
            Err(_) => ERROR,
        }
    }
    /// thrd_current(3).
    "GLIBC_2.28" fn thrd_current() -> *mut Tcb {
        crate::thread::current()
    }
    /// thrd_equal(3).
    "GLIBC_2.28" fn thrd_equal(a: *mut Tcb, b: *mut Tcb) -> c_int {
        c_int::from(a == b)
    }
    /// thrd_exit(3).
    "GLIBC_2.34" fn thrd_exit(result: c_int) -> ! {
        cancel::exit_with(result as isize as *mut c_void)
    }
    /// thrd_detach(3).
    "GLIBC_2.34" fn thrd_detach(id: *mut Tcb) -> c_int {
        // SAFETY: as above.
        convert(unsafe { thread::pthread_detach(id) })
    }
    /// thrd_join(3).
    "GLIBC_2.34" fn thrd_join(id: *mut Tcb, result: *mut c_int) -> c_int {
        // SAFETY: as above.
        unsafe {
            let mut value = core::ptr::null_mut();
            let answer = thread::pthread_join(id, &raw mut value);
            if answer == 0 && !result.is_null() {
                result.write(value as isize as c_int);
            }
            convert(answer)
        }
    }
    /// thrd_sleep(3): 0, or -1 if a signal came, or another negative number.
    "GLIBC_2.28" fn thrd_sleep(wish: *const Timespec, left: *mut Timespec) -> c_int {
        // SAFETY: the program's times.
        match unsafe { point!(clock_nanosleep, 0, 0, wish, left) } {
            Ok(_) => 0,
            Err(Errno::EINTR) => -1,
            Err(_) => -2,
        }
    }
    /// thrd_yield(3).
    "GLIBC_2.28" fn thrd_yield() {
        // SAFETY: takes nothing.
        let _ = unsafe { kcall!(sched_yield) };
    }
    /// mtx_init(3).
    "GLIBC_2.34" fn mtx_init(mtx: *mut mutex::Mutex, kind: c_int) -> c_int {
        const RECURSIVE: c_int = 1;
        const TIMED: c_int = 2;
        if kind & !(RECURSIVE | TIMED) != 0 {
            return ERROR;
        }
        // SAFETY: as above.
        unsafe {
            let mut attr = mutex::MutexAttr(0);
            mutex::pthread_mutexattr_settype(&raw mut attr, kind & RECURSIVE);
            convert(mutex::pthread_mutex_init(mtx, &raw const attr))
        }
    }
    /// mtx_destroy(3).
    "GLIBC_2.34" fn mtx_destroy(mtx: *mut mutex::Mutex) {
        // SAFETY: as above.
        unsafe { mutex::pthread_mutex_destroy(mtx) };
    }
    /// mtx_lock(3).
    "GLIBC_2.34" fn mtx_lock(mtx: *mut mutex::Mutex) -> c_int {
        // SAFETY: as above.
        convert(unsafe { mutex::pthread_mutex_lock(mtx) })
    }
    /// mtx_timedlock(3).
    "GLIBC_2.34" fn mtx_timedlock(mtx: *mut mutex::Mutex, at: *const Timespec) -> c_int {
        // SAFETY: as above.
        convert(unsafe { mutex::pthread_mutex_timedlock(mtx, at) })
    }
    /// mtx_trylock(3).
    "GLIBC_2.34" fn mtx_trylock(mtx: *mut mutex::Mutex) -> c_int {
        // SAFETY: as above.
        convert(unsafe { mutex::pthread_mutex_trylock(mtx) })
    }
    /// mtx_unlock(3).
    "GLIBC_2.34" fn mtx_unlock(mtx: *mut mutex::Mutex) -> c_int {
        // SAFETY: as above.
        convert(unsafe { mutex::pthread_mutex_unlock(mtx) })
    }
    /// cnd_init(3).
    "GLIBC_2.34" fn cnd_init(cnd: *mut cond::Cond) -> c_int {
        // SAFETY: as above.
        convert(unsafe { cond::pthread_cond_init(cnd, core::ptr::null()) })
    }
    /// cnd_destroy(3).
    "GLIBC_2.34" fn cnd_destroy(cnd: *mut cond::Cond) {
        // SAFETY: as above.
        unsafe { cond::pthread_cond_destroy(cnd) };
    }
    /// cnd_signal(3).
    "GLIBC_2.34" fn cnd_signal(cnd: *mut cond::Cond) -> c_int {
        // SAFETY: as above.
        convert(unsafe { cond::pthread_cond_signal(cnd) })
    }
    /// cnd_broadcast(3).
    "GLIBC_2.34" fn cnd_broadcast(cnd: *mut cond::Cond) -> c_int {
        // SAFETY: as above.
        convert(unsafe { cond::pthread_cond_broadcast(cnd) })
    }
    /// cnd_wait(3).
    "GLIBC_2.34" fn cnd_wait(cnd: *mut cond::Cond, mtx: *mut mutex::Mutex) -> c_int {
        // SAFETY: as above.
        convert(unsafe { cond::pthread_cond_wait(cnd, mtx) })
    }
    /// cnd_timedwait(3).
    "GLIBC_2.34" fn cnd_timedwait(cnd: *mut cond::Cond, mtx: *mut mutex::Mutex, at: *const Timespec) -> c_int {
        // SAFETY: as above.
        convert(unsafe { cond::pthread_cond_timedwait(cnd, mtx, at) })
    }
    /// tss_create(3).
    "GLIBC_2.34" fn tss_create(out: *mut c_uint, destructor: Option<unsafe extern "C" fn(*mut c_void)>) -> c_int {
        // SAFETY: as above.
        convert(unsafe { key::pthread_key_create(out, destructor) })
    }
    /// tss_delete(3).
    "GLIBC_2.34" fn tss_delete(id: c_uint) {
        // SAFETY: as above.
        unsafe { key::pthread_key_delete(id) };
    }
    /// tss_get(3).
    "GLIBC_2.34" fn tss_get(id: c_uint) -> *mut c_void {
        // SAFETY: as above.
        unsafe { key::pthread_getspecific(id) }
    }
    /// tss_set(3).
    "GLIBC_2.34" fn tss_set(id: c_uint, value: *mut c_void) -> c_int {
        // SAFETY: as above.
        convert(unsafe { key::pthread_setspecific(id, value) })
    }
    /// call_once(3).
    "GLIBC_2.34" fn call_once(control: *const AtomicU32, routine: unsafe extern "C" fn()) {
        // SAFETY: as above.
        unsafe { once::pthread_once(control, routine) };
    }
}
