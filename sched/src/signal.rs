//! The host's signals: handlers that only record, fix up, or redirect the program.
//!
//! Every handler runs on the vCPU's own alternate stack. What it does depends on where it came in:
//! * *in the kernel* (depth > 0) or in the critical assembly: it sets a bit in the vCPU's work byte,
//!   and the way out of the kernel (or the loop) does the rest;
//! * *in the program* (our libc included): it moves the complete register state to the program's
//!   stack, below the red zone, and resumes at the door (`arch`), an ordinary kernel entry. What it
//!   could not do in a handler (switch threads, run a signal handler, dispatch a system call) is done
//!   there.
//!
//! SIGKILL and SIGSTOP are the host's. SIGTTIN and SIGTTOU keep the host's default: the host's shell has put
//! the whole guest into the background. SIGPIPE is ignored: host writes answer EPIPE instead.

use crate::arch::{self, Frame, Reason, SigInfo, UContext};
use crate::fault;
use crate::stack::RED_ZONE;
use crate::user_copy;
use crate::vcpu::{self, WORK_SIGNAL, WORK_TICK};
use core::sync::atomic::Ordering;
use platform::errno::Result;
use platform::host;
use platform::layout;
use platform::mem::Prot;
use platform::time::Timespec;

/// The signal of a vCPU's preemption timer: glibc keeps 32 and 33 to itself, so no program and no
/// user of the guest sends it.
pub(crate) const TICK: i32 = 33;
/// The signal that makes another vCPU look at its work byte.
pub(crate) const KICK: i32 = 32;

const SIGILL: i32 = 4;
const SIGTRAP: i32 = 5;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;
const SIGPIPE: i32 = 13;
const SIGCHLD: i32 = 17;
const SIGSYS: i32 = 31;

/// Synchronous faults.
const FAULTS: [i32; 5] = [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV];
/// What the outside world sends and a program may want to hear of: HUP, INT, QUIT, ABRT, USR1, USR2,
/// ALRM, TERM, STKFLT, CONT, TSTP, URG, XCPU, XFSZ, VTALRM, PROF, WINCH, IO, PWR.
const FOREIGN: [i32; 19] = [1, 2, 3, 6, 10, 12, 14, 15, 16, 18, 20, 23, 24, 25, 26, 27, 28, 29, 30];

const SA_SIGINFO: u64 = 4;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_NODEFER: u64 = 0x4000_0000;
/// A tick must not end a host call of the kernel early. (epoll_pwait2 is never restarted: signal(7).)
const SA_RESTART: u64 = 0x1000_0000;
const SIG_IGN: usize = 1;
/// `si_code` of a signal made by syscall user dispatch (SYS_USER_DISPATCH).
const SYS_USER_DISPATCH: i32 = 2;
/// Handler stack of a vCPU: room for the host's frame with every extension, and the report.
const HANDLER_STACK: usize = 128 * 1024;
/// Where it lies in the vCPU's slot, behind the loop's stack and a gap.
const HANDLER_OFFSET: usize = 512 * 1024;
const _: () =
    assert!(HANDLER_OFFSET > vcpu::LOOP_STACK && HANDLER_OFFSET + HANDLER_STACK < layout::STACK_SLOT);

/// The kernel's `struct sigaction`.
#[repr(C)]
struct SigAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// The faults as a signal set. They stay deliverable everywhere: a handler's own fault must be
/// reported, and its copies fixed up.
const fn fault_set() -> u64 {
    let (mut set, mut at) = (0, 0);
    while at < FAULTS.len() {
        set |= 1 << (FAULTS[at] - 1);
        at += 1;
    }
    set
}

/// Installs all handlers of the process.
pub(crate) fn install() -> Result<()> {
    let faults = fault_set();
    for signal in FAULTS {
        set_handler(signal, on_fault as *const () as usize, !faults)?;
    }
    set_handler(SIGSYS, on_syscall as *const () as usize, !faults)?;
    set_handler(TICK, on_tick as *const () as usize, !faults)?;
    set_handler(KICK, on_kick as *const () as usize, !faults)?;
    let mut ignored = 0;
    for signal in FOREIGN.into_iter().chain(34..=64) {
        if set_handler(signal, on_foreign as *const () as usize, !faults)? == SIG_IGN {
            ignored |= 1 << (signal - 1);
        }
    }
    // Ignored, so that the host reaps the host processes of the family by itself.
    if set_handler(SIGCHLD, SIG_IGN, 0)? == SIG_IGN {
        ignored |= bit(SIGCHLD);
    }
    vcpu::process().ignored.store(ignored, Ordering::Relaxed);
    set_handler(SIGPIPE, SIG_IGN, 0).map(drop)
}

/// The signals (bit n-1) that were ignored when this process was started, as under nohup(1): the
/// program inherits that (execve(2)).
pub fn ignored_at_start() -> u64 {
    vcpu::process().ignored.load(Ordering::Relaxed)
}

/// Installs only the fault handler's fix-ups: for host tests.
pub(crate) fn install_fixups() {
    for signal in [SIGSEGV, SIGBUS] {
        let _ = set_handler(signal, on_test_fault as *const () as usize, !0);
    }
    let _ = set_handler(KICK, on_test_kick as *const () as usize, !0);
}

/// Ending the host call is all that it is for.
unsafe extern "C" fn on_test_kick(_: i32, _: *const SigInfo, _: *mut UContext) {}

/// Installs a handler; answers the one before.
fn set_handler(signal: i32, handler: usize, mask: u64) -> Result<usize> {
    let mut before = SigAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    let action = SigAction {
        handler,
        flags: SA_SIGINFO | SA_ONSTACK | SA_RESTORER | SA_NODEFER | SA_RESTART,
        restorer: platform::sys::restorer(),
        mask,
    };
    // SAFETY: the structures are the kernel's; handlers have the SA_SIGINFO type.
    unsafe { host!(rt_sigaction, signal, &raw const action, &raw mut before, 8) }?;
    Ok(before.handler)
}

/// For the calling vCPU, number `slot` of its process: handler stack, the `syscall` door, the preemption
/// timer; then unblocks. A forked process makes its own stack: a copy of the parent's would cost a page or two for each
/// fork.
pub(crate) fn prepare_host_thread(slot: usize) -> Result<()> {
    const MADV_DONTFORK: usize = 10;
    let stack = layout::stack_slot(slot) + HANDLER_OFFSET;
    // SAFETY: the slot is this vCPU's alone.
    unsafe {
        platform::mem::replace_private(stack, HANDLER_STACK, Prot::READ | Prot::WRITE)?;
        host!(madvise, stack, HANDLER_STACK, MADV_DONTFORK)?;
    }
    let alternate = [stack, 0, HANDLER_STACK];
    // SAFETY: the stack is fresh and this vCPU's alone.
    unsafe { host!(sigaltstack, alternate.as_ptr(), 0) }?;
    dispatch_syscalls()?;
    start_ticks()?;
    restore_mask(0);
    Ok(())
}

/// For a helper: it takes no signals, but its copies of user memory are fixed up.
pub(crate) fn prepare_helper() {
    restore_mask(!fault_set());
}

/// From here on, a `syscall` instruction outside the platform's own range raises SIGSYS.
fn dispatch_syscalls() -> Result<()> {
    const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;
    const PR_SYS_DISPATCH_ON: usize = 1;
    let (start, len) = platform::sys::door_range();
    // SAFETY: no selector byte; the range is code of ours.
    unsafe { host!(prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, start, len, 0) }.map(drop)
}

/// A timer on this host thread's CPU time: an idle vCPU gets no tick.
fn start_ticks() -> Result<()> {
    const CLOCK_THREAD_CPUTIME_ID: usize = 3;
    const SIGEV_THREAD_ID: i32 = 4;
    #[repr(C)]
    struct SigEvent {
        value: u64,
        signal: i32,
        notify: i32,
        tid: i32,
        pad: [i32; 11],
    }
    let slice = vcpu::process().config.slice_ns;
    if slice == 0 {
        return Ok(());
    }
    let tid = platform::thread::gettid();
    let event = SigEvent { value: 0, signal: TICK, notify: SIGEV_THREAD_ID, tid, pad: [0; 11] };
    let mut timer = 0i32;
    let interval = [Timespec::from_ns(slice); 2];
    // SAFETY: the structures are the kernel's and live over the calls.
    unsafe {
        host!(timer_create, CLOCK_THREAD_CPUTIME_ID, &raw const event, &raw mut timer)?;
        host!(timer_settime, timer, 0, interval.as_ptr(), 0)?;
    }
    Ok(())
}

/// Blocks every host signal on this host thread but what it can cause itself; answers the mask before.
/// (A fault that is blocked ends the process without a word.)
pub(crate) fn block_all() -> u64 {
    set_mask(!fault_set())
}

/// A signal's bit in a set.
pub(crate) const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Blocks what a sleeping vCPU must not lose: all but what the thread itself can cause. Answers the mask
/// before.
pub(crate) fn block_for_sleep() -> u64 {
    set_mask(!(fault_set() | bit(SIGSYS)))
}

/// Blocks all host signals but the faults on this host thread; answers the mask before.
pub(crate) fn only_faults() -> u64 {
    set_mask(!fault_set())
}

/// Sets this host thread's mask.
pub(crate) fn restore_mask(mask: u64) {
    set_mask(mask);
}

fn set_mask(mask: u64) -> u64 {
    const SIG_SETMASK: usize = 2;
    let mut before = 0u64;
    // SAFETY: both sets are ours, eight bytes as the kernel's.
    let _ = unsafe { host!(rt_sigprocmask, SIG_SETMASK, &raw const mask, &raw mut before, 8) };
    before
}

/// Whether the context was running program code that may be redirected now.
fn in_program(context: &UContext) -> bool {
    arch::depth() == 0 && !arch::is_critical(context.rip as usize)
}

/// Leaves a note, and has the program look at it now if it is the program that was interrupted.
fn note(work: u8, context: &mut UContext, info: &SigInfo) {
    let here = vcpu::block();
    here.mark(work);
    if in_program(context) {
        // If its stack cannot take the frame, the note waits for the next way out of the kernel.
        let top = context.rsp as usize - RED_ZONE;
        context.redirect(top, Reason::Work, info);
    }
}

unsafe extern "C" fn on_tick(_: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: the kernel gives both for the time of the handler.
    unsafe { note(WORK_TICK, &mut *context, &*info) }
}

unsafe extern "C" fn on_kick(_: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: as above. WORK_TICK only means "look around".
    unsafe { note(vcpu::WORK_ATTENTION, &mut *context, &*info) }
}

unsafe extern "C" fn on_foreign(signal: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: as above.
    let (info, context) = unsafe { (&*info, &mut *context) };
    (vcpu::process().hooks.host_signal)(signal, info);
    note(WORK_SIGNAL, context, info);
}

unsafe extern "C" fn on_syscall(signal: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: as above.
    let (info, context) = unsafe { (&*info, &mut *context) };
    if info.code != SYS_USER_DISPATCH {
        (vcpu::process().hooks.host_signal)(signal, info);
        return note(WORK_SIGNAL, context, info);
    }
    if !in_program(context) {
        // The vDSO's own call, where the host's clock source cannot be read from user space.
        const CLOCK_GETTIME: u64 = 228;
        let g = &mut context.general;
        if g[arch::GENERAL_RAX] == CLOCK_GETTIME {
            // SAFETY: the arguments are those that the kernel's caller gave the vDSO.
            let answer = unsafe { host!(clock_gettime, g[arch::GENERAL_RDI], g[arch::GENERAL_RDI + 1]) };
            g[arch::GENERAL_RAX] = answer.map_or_else(|e| e.to_raw() as u64, |value| value as u64);
            return;
        }
        fault::report_and_exit(&context.snapshot(info), fault::Whose::Kernel);
    }
    // Below the red zone: a leaf function may well contain the instruction.
    let top = context.rsp as usize - RED_ZONE;
    if !context.redirect(top, Reason::Syscall, info) {
        fault::report_and_exit(&context.snapshot(&SigInfo::new(SIGSEGV)), fault::Whose::Program);
    }
}

unsafe extern "C" fn on_fault(signal: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: as above.
    let (info, context) = unsafe { (&*info, &mut *context) };
    if let Some(fixup) = user_copy::fixup(context.rip as usize) {
        context.rip = fixup as u64;
        return;
    }
    // si_code <= 0: somebody sent it (kill(2), sigqueue(3)); no fault at all.
    if info.code <= 0 {
        (vcpu::process().hooks.host_signal)(signal, info);
        return note(WORK_SIGNAL, context, info);
    }
    if !in_program(context) {
        fault::report_and_exit(&context.snapshot(info), fault::Whose::Kernel);
    }
    let rsp = context.rsp as usize;
    let redirected = context.redirect(rsp - RED_ZONE, Reason::Fault, info)
        || on_alternate(context, info)
        || fault::last_stack().is_some_and(|top| context.redirect(top, Reason::Fault, info));
    if !redirected {
        fault::report_and_exit(&context.snapshot(info), fault::Whose::Program);
    }
}

/// The thread's own stack cannot take the frame (it overflowed): puts it on the program's alternate
/// signal stack, unless the thread is on that one already.
fn on_alternate(context: &mut UContext, info: &SigInfo) -> bool {
    // SAFETY: depth 0 in the program means that a thread is current; the handler keeps it so.
    let Some(thread) = (unsafe { vcpu::block().current.get().as_ref() }) else { return false };
    let (base, len) = thread.alternate_stack();
    let inside = (base..base + len).contains(&(context.rsp as usize));
    len != 0 && !inside && context.redirect(base + len, Reason::Fault, info)
}

/// Fix-ups only; any other fault gets the default action when the instruction is tried again.
unsafe extern "C" fn on_test_fault(signal: i32, _: *const SigInfo, context: *mut UContext) {
    // SAFETY: the kernel's context.
    let context = unsafe { &mut *context };
    match user_copy::fixup(context.rip as usize) {
        Some(fixup) => context.rip = fixup as u64,
        None => {
            let default =
                SigAction { handler: 0, flags: SA_RESTORER, restorer: platform::sys::restorer(), mask: 0 };
            // SAFETY: the structure is the kernel's.
            let _ = unsafe { host!(rt_sigaction, signal, &raw const default, 0, 8) };
        }
    }
}

/// The interrupted program's way through the kernel: called by the door, on the program's stack, at
/// depth 1. When it comes back the program goes on with `frame` as it is then.
pub(crate) extern "C" fn through_door(frame: &mut Frame) {
    let hooks = &vcpu::process().hooks;
    match frame.reason {
        Reason::Work => (),
        Reason::Fault => {
            if !(hooks.fault)(frame) {
                fault::report_and_exit(frame, fault::Whose::Program);
            }
        }
        Reason::Syscall => {
            let args = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
            let answer = (hooks.syscall)(frame.rax as usize, args.map(|word| word as usize), frame);
            frame.rax = answer as u64;
        }
    }
    vcpu::do_work(Some(&mut *frame));
    // What came in meanwhile: once more, until nothing is pending.
    while vcpu::block().work.load(Ordering::SeqCst) != 0 {
        vcpu::do_work(Some(&mut *frame));
    }
}
