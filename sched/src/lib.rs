//! Guest threads on vCPUs: M:N scheduling, parking, timers, preemption, the host's signals.
//!
//! A vCPU is a host thread. A guest thread is a context with its own stack and FS base; switching
//! is a handful of instructions. Runtime code ("the kernel") runs on the calling thread's stack with
//! preemption off: [`enter`] and [`leave`] bracket it.
//!
//! The whole contract for the layers above:
//! * [`thread::current`], [`thread::park`], `Thread::unpark` (a permit, like std's: an unpark before
//!   the park is not lost), [`thread::yield_now`], [`thread::spawn`], [`thread::exit`];
//! * [`timer`]: deadlines that call back in the kernel;
//! * [`host_fd`]: readiness of host descriptors, told to a callback;
//! * [`hooks`]: what the layers above want to be asked (poll the network, deliver signals).
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;
