//! What the layers above want to be asked. Function pointers, installed once by [`crate::init`].
//!
//! All but `host_signal` are called inside the kernel (depth 1) with no lock held.

use crate::arch::{Frame, SigInfo};
use crate::thread::Thread;
use crate::vcpu::Process;
use alloc::sync::Arc;
use platform::time::Instant;

/// The callbacks of a process. [`Hooks::none`] gives neutral ones to start from.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// `Thread::request_attention` was called for the current thread: deliver its signals.
    ///
    /// `None`: at the end of a libc call, on the thread's stack; a handler is called through
    /// [`crate::in_program`]. `Some`: the program was interrupted between two instructions; the
    /// frame is its complete register state and is what execution goes on with; a handler may be
    /// called from here just the same (the frame lies below the red zone).
    pub attention: fn(Option<&mut Frame>),
    /// Polls the network (and whatever else is polled) of this vCPU. Answers whether anything
    /// happened.
    pub poll: fn(vcpu: u32) -> bool,
    /// The next time at which `poll` must be called although nothing rings: TCP timers.
    pub deadline: fn(vcpu: u32) -> Option<Instant>,
    /// The vCPU is about to sleep: announce it to those who ring, then look once more. `false` if
    /// there is work, and the vCPU will not sleep.
    pub before_sleep: fn(vcpu: u32) -> bool,
    /// The vCPU woke (or did not sleep after all), and no other of the family slept then.
    pub after_sleep: fn(vcpu: u32),
    /// A signal came from the host. Called *in the host's signal handler*, at any instruction, even
    /// inside the kernel or the allocator: atomics only, no lock, no allocation.
    pub host_signal: fn(signal: i32, info: &SigInfo),
    /// Host signals were recorded by `host_signal`: hand them to threads. In the kernel.
    pub host_signals: fn(),
    /// The program made a synchronous fault (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP) with this
    /// register state. `true`: handled, go on with the frame as it now is. `false`: the guest ends
    /// with a report.
    pub fault: fn(frame: &mut Frame) -> bool,
    /// A tick found a computing thread (every few milliseconds of CPU time of a vCPU).
    pub tick: fn(vcpu: u32),
    /// A `syscall` instruction of the program: number and arguments; the answer goes to `rax`.
    /// rt_sigreturn rewrites the frame and answers what `rax` shall be.
    pub syscall: fn(number: usize, args: [usize; 6], frame: &mut Frame) -> isize,
    /// The thread has ended and is off its stack: clear its tid, wake who joins. Runs in the
    /// kernel on another context; `Thread::local` is still set.
    pub exited: fn(thread: &Arc<Thread>),
    /// The host process is about to be copied: private memory that other vCPUs change must be whole.
    pub before_fork: fn(),
    /// It was copied, or that failed. `Some` in the child: which caches of it the parent used.
    pub after_fork: fn(child_of: Option<crate::fork::Caches<'_>>),
    /// The calling host process ends by itself: of each of its host threads the number of its cache and its word
    /// ([`crate::owner`]). None of the others runs any more.
    pub ending: fn(cache: u32, owner: u32),
    /// A host process of the family has ended, by itself or killed; nothing of it runs any more. In the
    /// kernel of another one, on any context.
    pub process_gone: fn(process: &Arc<Process>),
}

impl Hooks {
    /// Hooks that do nothing, refuse every fault and answer ENOSYS to `syscall`.
    pub const fn none() -> Hooks {
        Hooks {
            attention: |_| (),
            poll: |_| false,
            deadline: |_| None,
            before_sleep: |_| true,
            after_sleep: |_| (),
            host_signal: |_, _| (),
            host_signals: || (),
            fault: |_| false,
            tick: |_| (),
            syscall: |_, _, _| platform::Errno::ENOSYS.to_raw(),
            exited: |_| (),
            before_fork: || (),
            after_fork: |_| (),
            ending: |_, _| (),
            process_gone: |_| (),
        }
    }
}
