//! pthread_barrier_t: a counter under a small lock, and a round number to sleep on.

use crate::futex::{self, Scope};
use crate::types::{c_int, c_uint};
use core::sync::atomic::{AtomicU32, Ordering};
use platform::Errno;

/// `pthread_barrier_t`: 32 bytes.
#[repr(C, align(8))]
pub struct Barrier {
    lock: AtomicU32,
    needed: u32,
    arrived: u32,
    round: AtomicU32,
    /// Threads between their arrival and their last look at this object.
    inside: AtomicU32,
    shared: u32,
    reserved: [u32; 2],
}

/// `pthread_barrierattr_t`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct BarrierAttr(c_int);

const _: () = assert!(size_of::<Barrier>() == 32);
const SERIAL_THREAD: c_int = -1;

impl Barrier {
    fn scope(&self) -> Scope {
        Scope::shared(self.shared != 0)
    }

    fn enter(&self) {
        if self.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.lock.swap(2, Ordering::Acquire) != 0 {
                let _ = futex::wait(&self.lock, 2, self.scope(), None);
            }
        }
    }

    fn exit(&self) {
        if self.lock.swap(0, Ordering::Release) == 2 {
            futex::wake(&self.lock, 1, self.scope());
        }
    }

    /// The last thing a waiter does here: the barrier may be destroyed once all are out.
    fn leave(&self) {
        let (word, scope) = (self.inside.as_ptr(), self.scope());
        if self.inside.fetch_sub(1, Ordering::SeqCst) == 1 {
            futex::wake_address(word, u32::MAX, scope);
        }
    }
}

abi! { EXPORTS "libc.so.6":
    /// pthread_barrier_init(3).
    "GLIBC_2.34" fn pthread_barrier_init(
        barrier: *mut Barrier, attr: *const BarrierAttr, count: c_uint,
    ) -> c_int {
        if count == 0 || count > i32::MAX as u32 {
            return Errno::EINVAL.0;
        }
        // SAFETY: the program's memory for a barrier.
        unsafe {
            barrier.cast::<u8>().write_bytes(0, size_of::<Barrier>());
            (*barrier).needed = count;
            (*barrier).shared = if attr.is_null() { 0 } else { (*attr).0 as u32 };
        }
        0
    }
    /// pthread_barrier_wait(3).
    "GLIBC_2.34" fn pthread_barrier_wait(barrier: *mut Barrier) -> c_int {
        // SAFETY: the program's object; plain fields are the lock holder's.
        unsafe {
            let this = &*barrier;
            this.enter();
            this.inside.fetch_add(1, Ordering::SeqCst);
            let round = this.round.load(Ordering::Relaxed);
            (*barrier).arrived += 1;
            if this.arrived == this.needed {
                (*barrier).arrived = 0;
                this.round.store(round.wrapping_add(1), Ordering::Release);
                this.exit();
                futex::wake(&this.round, u32::MAX, this.scope());
                this.leave();
                return SERIAL_THREAD;
            }
            this.exit();
            while this.round.load(Ordering::Acquire) == round {
                let _ = futex::wait(&this.round, round, this.scope(), None);
            }
            this.leave();
        }
        0
    }
    /// pthread_barrier_destroy(3): waits until the last round's threads are out.
    "GLIBC_2.34" fn pthread_barrier_destroy(barrier: *mut Barrier) -> c_int {
        // SAFETY: the program's object.
        unsafe {
            loop {
                let inside = (*barrier).inside.load(Ordering::SeqCst);
                if inside == 0 {
                    return 0;
                }
                let _ = futex::wait(&(*barrier).inside, inside, (*barrier).scope(), None);
            }
        }
    }
    /// pthread_barrierattr_init(3).
    "GLIBC_2.34" fn pthread_barrierattr_init(attr: *mut BarrierAttr) -> c_int {
        // SAFETY: the program's memory.
        unsafe { attr.write(BarrierAttr(0)) };
        0
    }
    /// pthread_barrierattr_destroy(3).
    "GLIBC_2.34" fn pthread_barrierattr_destroy(_attr: *mut BarrierAttr) -> c_int {
        0
    }
    /// pthread_barrierattr_setpshared(3).
    "GLIBC_2.34" fn pthread_barrierattr_setpshared(attr: *mut BarrierAttr, shared: c_int) -> c_int {
        if !(0..=1).contains(&shared) {
            return Errno::EINVAL.0;
        }
        // SAFETY: the program's attributes.
        unsafe { (*attr).0 = shared };
        0
    }
    /// pthread_barrierattr_getpshared(3).
    "GLIBC_2.34" fn pthread_barrierattr_getpshared(attr: *const BarrierAttr, shared: *mut c_int) -> c_int {
        // SAFETY: the program's attributes.
        unsafe { shared.write((*attr).0) };
        0
    }
}
