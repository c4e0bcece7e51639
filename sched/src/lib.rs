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
//! * [`blocking`]: host calls that may take long, on a helper host thread;
//! * [`hooks`]: what the layers above want to be asked (poll the network, deliver signals);
//! * [`user_copy`]: touching the program's memory without dying of a bad pointer.
//!
//! Rule: everything here but [`enter`], [`in_kernel`] and [`user_copy`] is called inside the kernel,
//! that is, between `enter` and `leave`. There a thread stays on its vCPU until it parks or yields;
//! outside it may move to another vCPU between any two instructions, which is why the kernel depth is
//! only ever touched by single `%gs`-relative instructions.
//!
//! No statics hold state: the vCPU block behind `%gs` leads to the process's scheduler, which lives,
//! like all kernel state, where the global allocator puts what is allocated inside the kernel.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arch;
mod atomics;
pub mod blocking;
mod family;
pub mod fault;
pub mod fork;
pub mod hooks;
pub mod host_fd;
pub mod passage;
mod run_queue;
pub mod signal;
pub mod slots;
pub mod stack;
mod state;
pub mod testing;
pub mod thread;
pub mod timer;
pub mod user_copy;
pub mod vcpu;

pub use arch::Frame;
pub use hooks::Hooks;
pub use platform::time::Instant;
pub use thread::Thread;
pub use vcpu::{Config, Process, boot, init, run};

/// Enters the kernel: preemption of this thread is off until the matching [`leave`]. Nests.
#[inline(always)]
pub fn enter() {
    arch::depth_up();
}

/// Leaves the kernel. At depth 0 pending work is done first: the host's signals, a tick, a thread
/// that waits for this vCPU, signals for this thread (`hooks.attention`).
#[inline(always)]
pub fn leave() {
    if arch::depth_down() != 0 {
        vcpu::leave_slow();
    }
}

/// What locks hold while the calling host thread has them: no other living one's ([`platform::sync::Owners`]).
#[inline(always)]
pub fn owner() -> u32 {
    arch::owner()
}

/// Whether the caller is inside the kernel.
#[inline(always)]
pub fn in_kernel() -> bool {
    arch::depth() != 0
}

/// Runs `f` inside the kernel.
#[inline(always)]
pub fn kernel<R>(f: impl FnOnce() -> R) -> R {
    enter();
    let value = f();
    leave();
    value
}

/// Runs program code from inside the kernel (a signal handler called by `hooks.attention`): depth is
/// 0 meanwhile and as before afterwards. `f` may never come back (`siglongjmp`), so the caller must
/// hold nothing that wants to be dropped. Pending work is left for the next [`leave`].
pub fn in_program<R>(f: impl FnOnce() -> R) -> R {
    let depth = arch::swap_depth(0);
    let value = f();
    // At depth 0 the thread may have moved to another vCPU; `inc` is one instruction and pins it.
    arch::depth_up();
    arch::swap_depth(depth);
    value
}
