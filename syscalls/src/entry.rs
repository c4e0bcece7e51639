//! The two doors, and what every call has in common: enter the kernel, dispatch by the table, settle
//! signals and restarts, leave.
//!
//! **libc** calls [`call`], a plain function. Signals for the thread are handled before it returns:
//! a handler runs on top of it and comes back to it, and a call that a signal interrupted is made
//! again right here if the handler has SA_RESTART.
//!
//! **The `syscall` instruction** ends in [`instruction`] with the program's whole register state. A
//! handler is entered by changing that state, and a restart goes back to the instruction, exactly
//! as in Linux.

use crate::context::Ctx;
use crate::errno::{RESTART, wants_restart};
use crate::process::root;
use crate::signal::{self, Delivery, SA_RESTART};
use crate::signal_frame::Vacant;
use crate::{Errno, Result, fork, rt, signal_frame, table, trace};
use sched::Frame;

const RT_SIGRETURN: usize = 15;

/// Linux system call `number` with its six argument registers, by the raw convention: the answer is
/// the kernel's, -4095..=-1 for errors. Enters the kernel, traces, dispatches by the table, leaves
/// the kernel (delivers signals, gives way to other threads).
///
/// # Safety
/// Pointers among the arguments are the program's claims: a wrong pointer gives EFAULT, as in Linux.
/// A right one to the wrong place is the program's own error, as in Linux.
#[inline]
pub unsafe fn call(number: usize, args: [usize; 6]) -> isize {
    // Known when it is compiled, at nearly all callers.
    if fork::is_fork(number) {
        // SAFETY: forwarded.
        return unsafe { fork::door(number, &args) };
    }
    rt::enter();
    let ctx = Ctx::current();
    let mut result = dispatch(&ctx, number, &args);
    while ctx.task.has_signal() || result.is_err_and(wants_restart) {
        match settle(&ctx, result) {
            Some(done) => {
                result = done;
                break;
            }
            None => result = dispatch(&ctx, number, &args),
        }
    }
    if ctx.task.mask_is_saved() {
        signal::restore_mask(ctx.task);
    }
    rt::leave();
    raw(result)
}

/// Calls the handler in the table.
#[inline]
fn dispatch(ctx: &Ctx, number: usize, args: &[usize; 6]) -> Result {
    if trace::is_on() {
        return trace::traced(ctx, number, args, |ctx| plain(ctx, number, args));
    }
    plain(ctx, number, args)
}

#[inline]
fn plain(ctx: &Ctx, number: usize, args: &[usize; 6]) -> Result {
    let Some(handler) = table::handler(number) else { return missing(number) };
    let result = handler(ctx, args);
    ctx.task.hand.empty();
    result
}

#[cold]
fn missing(number: usize) -> Result {
    if root().first_miss(number) {
        trace::complain(number);
    }
    Err(Errno::ENOSYS)
}

#[inline]
fn raw(result: Result) -> isize {
    match result {
        Ok(value) => value as isize,
        Err(errno) => errno.to_raw(),
    }
}

/// Delivers what is pending at the end of a libc call. `None`: make the call again.
#[cold]
fn settle(ctx: &Ctx, result: Result) -> Option<Result> {
    let mut verdict = Verdict::new(result);
    loop {
        while let Some(delivery) = signal::next(ctx.task) {
            verdict.handler(&delivery);
            signal_frame::run_handler(ctx.task, &delivery);
        }
        signal::restore_mask(ctx.task);
        if !ctx.task.has_signal() {
            return verdict.end();
        }
    }
}

/// What becomes of an interrupted call: decided by the first handler that runs, as in Linux.
struct Verdict {
    result: Result,
    again: bool,
}

impl Verdict {
    fn new(result: Result) -> Verdict {
        Verdict { result, again: false }
    }

    fn handler(&mut self, delivery: &Delivery) {
        match self.result {
            Err(RESTART) if delivery.action.flags & SA_RESTART != 0 && !self.again => self.again = true,
            Err(errno) if wants_restart(errno) && !self.again => self.result = Err(Errno::EINTR),
            _ => {}
        }
    }

    /// `None`: again. Without a handler an interrupted call always goes on.
    fn end(self) -> Option<Result> {
        let again = self.again || self.result.is_err_and(wants_restart);
        (!again).then_some(self.result)
    }
}

/// The scheduler's `attention` hook: signals for the running thread, found on its way out of the
/// kernel (`None`) or between two instructions of the program.
pub fn attention(frame: Option<&mut Frame>) {
    let Some(ctx) = Ctx::try_current() else { return };
    match frame {
        Some(frame) => deliver_to(&ctx, frame, None),
        None => {
            // The call's answer stands already: this is as if the signal had come just after it.
            let _ = settle(&ctx, Ok(0));
        }
    }
}

/// Enters the handlers of all pending signals on a register state. `vacant` is where the frame of the
/// handler stood that has just returned.
fn deliver_to(ctx: &Ctx, frame: &mut Frame, mut vacant: Option<Vacant>) {
    loop {
        while let Some(delivery) = signal::next(ctx.task) {
            signal_frame::push(ctx.task, &delivery, frame, vacant.take());
        }
        signal::restore_mask(ctx.task);
        if !ctx.task.has_signal() {
            return;
        }
    }
}

/// The scheduler's `syscall` hook: the `syscall` instruction of the program.
pub fn instruction(number: usize, args: [usize; 6], frame: &mut Frame) -> isize {
    /// Length of the instruction `0f 05`.
    const INSTRUCTION: u64 = 2;
    let ctx = Ctx::current();
    if number == RT_SIGRETURN {
        let vacant = signal_frame::sigreturn(ctx.task, frame);
        deliver_to(&ctx, frame, vacant);
        return frame.rax as isize;
    }
    if fork::is_fork(number) {
        // The thread may be another task's now (vfork): its signals come with the next way out.
        frame.rax = raw(fork::from_instruction(&ctx, number, &args, frame)) as u64;
        return frame.rax as isize;
    }
    let result = dispatch(&ctx, number, &args);
    let mut verdict = Verdict::new(result);
    let first = ctx.task.has_signal().then(|| signal::next(ctx.task)).flatten();
    if let Some(delivery) = &first {
        verdict.handler(delivery);
    }
    match verdict.end() {
        Some(result) => frame.rax = raw(result) as u64,
        None => {
            frame.rax = number as u64;
            frame.rip -= INSTRUCTION;
        }
    }
    if let Some(delivery) = &first {
        signal_frame::push(ctx.task, delivery, frame, None);
    }
    deliver_to(&ctx, frame, None);
    frame.rax as isize
}

/// The scheduler's `fault` hook: a synchronous fault of the program. Without a handler the process ends
/// with a report. `false`: it is no thread of the program's.
pub fn fault(frame: &mut Frame) -> bool {
    let Some(ctx) = Ctx::try_current() else { return false };
    let mut fields = [0; 6];
    fields.copy_from_slice(&frame.info.fields[..6]);
    let info =
        signal::Info { signo: frame.info.signo, errno: frame.info.errno, code: frame.info.code, fields };
    if !signal::force(ctx.task, info) {
        rt::report_fault(frame);
        ctx.process.exit(info.signo as u32)
    }
    deliver_to(&ctx, frame, None);
    true
}
