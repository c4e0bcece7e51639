//! fork(2), vfork(2), clone(2) and clone3(2): calls that return twice, so both doors take them before the
//! table.
//!
//! The child has a copy of the parent's memory, the stack with our own frames included. It must not
//! return through those: what they hold (counts of Arcs) is the parent's. It goes on from registers
//! that were saved at the door: those that a function preserves for a libc call ([`Saved`]), all of
//! them for the instruction.

use crate::context::Ctx;
use crate::hub::Events;
use crate::process::{self, root};
use crate::task::Task;
use crate::thread::{
    Begin, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_FILES, CLONE_PARENT_SETTID, CLONE_SETTLS,
    CLONE_THREAD, CLONE_VM, CloneArgs, clone_thread,
};
use crate::user::UserPtr;
use crate::wait::{self, Waiting};
use crate::{Errno, Result, rt, trace};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::arch::naked_asm;
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicBool, Ordering};
use sched::Frame;

const CLONE: usize = 56;
const FORK: usize = 57;
const VFORK: usize = 58;
const CLONE3: usize = 435;

const CSIGNAL: u64 = 0xff;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_NEWNS: u64 = 0x2_0000;
const CLONE_UNTRACED: u64 = 0x80_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_PTRACE: u64 = 0x2000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_IO: u64 = 0x8000_0000;
const CLONE_FS: u64 = 0x200;
const CLONE_SIGHAND: u64 = 0x800;

/// Whether a call returns twice.
#[inline(always)]
pub(crate) const fn is_fork(number: usize) -> bool {
    matches!(number, CLONE | FORK | VFORK | CLONE3)
}

/// What [`door`] saves of its caller, from its stack pointer up: what a C call preserves.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Saved {
    mxcsr: u32,
    x87_control: u32,
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbx: u64,
    rbp: u64,
    back: u64,
}

/// The libc door of these calls.
///
/// # Safety
/// As `entry::call`.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn door(number: usize, args: *const [usize; 6]) -> isize {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov rdx, rsp",
        "call {call}",
        // 7 words and the return address: the call was aligned. `go_back` comes here too.
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        call = sym from_call,
    )
}

/// Returns 0 from [`door`] in the child.
#[unsafe(naked)]
unsafe extern "C" fn go_back(saved: *const Saved) -> ! {
    naked_asm!(
        "mov rsp, rdi",
        "xor eax, eax",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// libc's vfork(2): as [`door`], but it must leave nothing on the stack: the child runs on it while the
/// parent waits. So it is the program's own call that returns twice. `on_error` turns an error into what C
/// wants.
///
/// # Safety
/// As `entry::call`; jumped to, with the program's return address on the stack.
#[unsafe(naked)]
pub unsafe extern "C" fn vfork_door(on_error: extern "C" fn(isize) -> i32) -> i32 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov rsi, rsp",
        "call {call}",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        call = sym from_vfork,
    )
}

extern "C" fn from_vfork(on_error: extern "C" fn(isize) -> i32, saved: &Saved) -> i32 {
    match from_call(VFORK, &[0; 6], saved) {
        raw @ ..0 => on_error(raw),
        pid => pid as i32,
    }
}

/// A lender's registers: in the arena, since the child overwrites the stack they came from.
pub(crate) enum GoingBack {
    Call(Box<Return>),
    Instruction(Box<Begin>),
}

/// A call of libc that returns a second time.
#[repr(C)]
pub(crate) struct Return {
    saved: Saved,
    /// The stack pointer after the return.
    stack_pointer: u64,
    fs_base: u64,
}

/// Leaves the kernel on the lender's stack and returns `value` from its call.
#[unsafe(naked)]
unsafe extern "C" fn go_back_again(back: *const Return, value: usize) -> ! {
    naked_asm!(
        "ldmxcsr [rdi]",
        "fldcw [rdi + 4]",
        "mov r15, [rdi + {r15}]",
        "mov r14, [rdi + {r15} + 8]",
        "mov r13, [rdi + {r15} + 16]",
        "mov r12, [rdi + {r15} + 24]",
        "mov rbx, [rdi + {r15} + 32]",
        "mov rbp, [rdi + {r15} + 40]",
        "mov rsp, [rdi + {stack}]",
        // The return address again: the child's calls were written over it. Then the call is aligned.
        "push [rdi + {r15} + 48]",
        "push rsi",
        "call {leave}",
        "pop rax",
        "ret",
        r15 = const offset_of!(Return, saved) + offset_of!(Saved, r15),
        stack = const offset_of!(Return, stack_pointer),
        leave = sym leave_kernel,
    )
}

extern "C" fn leave_kernel() {
    rt::leave();
}

/// One fork at a time in a process: a fork that leaves the program out changes what all forks copy.
pub(crate) struct Turn(());

/// Private to the process, and never held over a fork's way into the child (which lets go of its copy).
static TURN: AtomicBool = AtomicBool::new(false);

impl Turn {
    pub(crate) fn take() -> Turn {
        while TURN.swap(true, Ordering::Acquire) {
            rt::yield_now();
            core::hint::spin_loop();
        }
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURN.store(false, Ordering::Release);
    }
}

/// Where the child goes on.
#[derive(Clone, Copy)]
enum Back<'a> {
    Call(&'a Saved),
    Instruction(&'a Frame),
}

extern "C" fn from_call(number: usize, args: &[usize; 6], saved: &Saved) -> isize {
    rt::enter();
    // What came before a fork is delivered before it (copy_process of Linux): else a shell that is interrupted just now
    // would start a child that knows nothing of it.
    rt::leave();
    rt::enter();
    let ctx = Ctx::current();
    let result = traced(&ctx, number, args, Back::Call(saved));
    rt::leave();
    result.map_or_else(Errno::to_raw, |value| value as isize)
}

/// The `syscall` door of these calls.
pub(crate) fn from_instruction(ctx: &Ctx, number: usize, args: &[usize; 6], frame: &mut Frame) -> Result {
    let result = traced(ctx, number, args, Back::Instruction(frame));
    if result == Ok(0) {
        // A vforked child, perhaps on a stack of its own.
        let stack = arguments(number, args)?.stack;
        frame.rsp = if stack == 0 { frame.rsp } else { stack };
    }
    result
}

fn traced(ctx: &Ctx, number: usize, args: &[usize; 6], back: Back<'_>) -> Result {
    if trace::is_on() {
        return trace::traced(ctx, number, args, |ctx| clone_any(ctx, number, args, back));
    }
    clone_any(ctx, number, args, back)
}

fn clone_any(ctx: &Ctx, number: usize, args: &[usize; 6], back: Back<'_>) -> Result {
    let args = arguments(number, args)?;
    if args.flags & CLONE_THREAD != 0 {
        if args.flags & CLONE_PIDFD != 0 {
            return Err(Errno::EINVAL);
        }
        return match back {
            Back::Instruction(frame) => clone_thread(ctx, args, frame),
            // A function cannot come back on another stack (libc's clone(3) issues the instruction).
            Back::Call(_) => Err(Errno::EINVAL),
        };
    }
    fork(ctx, &args, back)
}

/// All forms as clone3(2)'s structure, with the stack's end as `stack`.
fn arguments(number: usize, args: &[usize; 6]) -> Result<CloneArgs> {
    const SIGCHLD: u64 = 17;
    let plain = |flags| CloneArgs { flags, exit_signal: SIGCHLD, ..CloneArgs::default() };
    match number {
        FORK => Ok(plain(0)),
        VFORK => Ok(plain(CLONE_VM | CLONE_VFORK)),
        CLONE => Ok(CloneArgs {
            flags: args[0] as u32 as u64 & !CSIGNAL,
            exit_signal: args[0] as u64 & CSIGNAL,
            stack: args[1] as u64,
            parent_tid: args[2] as u64,
            pidfd: args[2] as u64,
            child_tid: args[3] as u64,
            tls: args[4] as u64,
            ..CloneArgs::default()
        }),
        _ => {
            if args[1] < size_of::<CloneArgs>() {
                return Err(Errno::EINVAL);
            }
            let given = UserPtr::<CloneArgs>::new(args[0]).read()?;
            // clone3 names the lowest address of the stack.
            if given.flags & CSIGNAL != 0 || (given.stack == 0) != (given.stack_size == 0) {
                return Err(Errno::EINVAL);
            }
            Ok(CloneArgs { stack: given.stack.wrapping_add(given.stack_size), ..given })
        }
    }
}

/// What a new process may be asked to be. Namespaces are not there (EPERM is what an unprivileged caller
/// gets on Linux); sharing of descriptors, working directory or handlers without being a thread neither.
fn check(args: &CloneArgs) -> Result<()> {
    const KNOWN: u64 = CLONE_VM
        | CLONE_VFORK
        | CLONE_PARENT
        | CLONE_PARENT_SETTID
        | CLONE_CHILD_SETTID
        | CLONE_CHILD_CLEARTID
        | CLONE_SETTLS
        | CLONE_UNTRACED
        | CLONE_DETACHED
        | CLONE_PTRACE
        | CLONE_SYSVSEM
        | CLONE_IO
        | CLONE_CLEAR_SIGHAND
        | CLONE_PIDFD;
    /// New namespaces: of mounts, cgroups, host name, IPC, users, processes, network.
    const NAMESPACES: u64 = CLONE_NEWNS | 0x7e00_0000;
    if args.exit_signal > 64 {
        return Err(Errno::EINVAL);
    }
    if args.flags & NAMESPACES != 0 {
        return Err(Errno::EPERM);
    }
    if args.flags & CLONE_SIGHAND != 0 && args.flags & CLONE_VM == 0 {
        return Err(Errno::EINVAL);
    }
    // Memory is shared only as long as the parent waits.
    if args.flags & (CLONE_VM | CLONE_VFORK) == CLONE_VM {
        return Err(Errno::ENOSYS);
    }
    // clone(2) has one pointer for both.
    let twice = args.flags & CLONE_PARENT_SETTID != 0 && args.pidfd == args.parent_tid;
    if args.flags & CLONE_PIDFD != 0 && (twice || args.flags & CLONE_DETACHED != 0) {
        return Err(Errno::EINVAL);
    }
    if args.flags & (CLONE_FILES | CLONE_FS | CLONE_SIGHAND) != 0 || args.flags & !KNOWN != 0 {
        return Err(Errno::ENOSYS);
    }
    Ok(())
}

/// What the child needs to know; on the parent's stack, hence on its own copy.
struct Start<'a> {
    task: &'a Task,
    args: &'a CloneArgs,
    back: Back<'a>,
}

fn fork(ctx: &Ctx, args: &CloneArgs, back: Back<'_>) -> Result {
    check(args)?;
    ctx.process.check_threads()?;
    let parent = match args.flags & CLONE_PARENT {
        0 => ctx.process.pid,
        _ => ctx.process.parent.load(Ordering::Relaxed),
    };
    let process = ctx.process.forked(parent, args.exit_signal as i32);
    let stay = &ctx.task.stay;
    let mark = stay.mark();
    // The host's clone takes long: whoever buries us if we are killed in it finds what we hold of the child. It is
    // struck out before any of it is given up.
    stay.holds_count(&process);
    if args.flags & CLONE_CLEAR_SIGHAND != 0 {
        process.actions.reset();
    }
    let task = Task::forked(&process, ctx.task);
    // After the descriptors were copied: the child has none for itself.
    let pidfd = match args.flags & CLONE_PIDFD {
        0 => None,
        _ => Some(open_pidfd(ctx, args, &process).inspect_err(|_| stay.strike(mark))?),
    };
    let made = match args.flags & CLONE_VM {
        0 => start_child(ctx, args, back, &process, &task),
        _ => {
            stay.strike(mark);
            return lend(ctx, args, back, &process, task).inspect_err(|_| close_pidfd(ctx, pidfd));
        }
    };
    stay.strike(mark);
    if made.is_err() {
        close_pidfd(ctx, pidfd);
    }
    made
}

fn open_pidfd(ctx: &Ctx, args: &CloneArgs, process: &Arc<process::Process>) -> Result<i32> {
    let fd = crate::pidfd::install(ctx, process.clone(), 0)? as i32;
    if let Err(error) = UserPtr::<i32>::new(args.pidfd as usize).write(fd) {
        close_pidfd(ctx, Some(fd));
        return Err(error);
    }
    Ok(fd)
}

fn close_pidfd(ctx: &Ctx, fd: Option<i32>) {
    if let Some(Ok(open)) = fd.map(|fd| ctx.process.fds.remove(fd)) {
        crate::fd::release(open);
    }
}

/// The host's copy-on-write clone.
fn start_child(
    ctx: &Ctx,
    args: &CloneArgs,
    back: Back<'_>,
    process: &Arc<process::Process>,
    task: &Arc<Task>,
) -> Result {
    if args.flags & CLONE_CHILD_CLEARTID != 0 {
        task.clear_tid.store(args.child_tid as usize, Ordering::Relaxed);
    }
    if args.flags & CLONE_PARENT_SETTID != 0 {
        UserPtr::<u32>::new(args.parent_tid as usize).write(process.pid)?;
    }
    // The child's own count of its task (`thread::exited` takes it back): it may have ended, and been cleaned
    // up behind, before we are through.
    let local = Arc::into_raw(task.clone());
    let stay = &ctx.task.stay;
    let mark = stay.mark();
    let child = rt::Child::new(local.cast_mut().cast());
    stay.holds_count(child.process());
    stay.holds_count(child.thread());
    stay.holds_count(task);
    task.waiter.bind(child.thread());
    crate::priority::apply(task);
    process.set_host(child.process().clone());
    let start = Start { task, args, back };
    root().insert_process(process);
    let turn = Turn::take();
    let started = child.start(begin, (&raw const start).cast_mut().cast());
    drop(turn);
    if args.flags & CLONE_VFORK != 0 && started.is_ok() {
        wait_for_release(ctx, process);
    }
    stay.strike(mark);
    if let Err(error) = started {
        root().remove_process(process.pid);
        root().one_less();
        process.fds.close_all();
        process.remove_task(task.tid);
        drop(process::Process::of_host(child.process()));
        // SAFETY: nobody else has it.
        drop(unsafe { Arc::from_raw(local) });
        return Err(error);
    }
    Ok(process.pid as usize)
}

/// vfork(2): the parent goes on when the child has executed a program or ended. Only its own end ends the
/// wait before.
fn wait_for_release(ctx: &Ctx, child: &Arc<process::Process>) {
    let done = || match child.executed.load(Ordering::SeqCst) || child.has_ended() {
        true => Ok(()),
        false => Err(Errno::EAGAIN),
    };
    let how = Waiting::for_events(Events::READABLE);
    let mask = ctx.task.blocked.swap(!0, Ordering::SeqCst);
    while wait::block_on_hub(ctx, &child.released, how, done).is_err() && ctx.process.ending().is_none() {}
    ctx.task.blocked.store(mask, Ordering::SeqCst);
}

/// The child's way out of the kernel.
extern "C" fn begin(start: *mut ()) -> ! {
    // SAFETY: `fork` passes its own; this is the copy of that stack.
    let start = unsafe { &*start.cast::<Start<'_>>() };
    process::set_own(&start.task.process);
    // The copy of what the parent holds.
    TURN.store(false, Ordering::Release);
    // It is in the table since before it was there: signals of its group may have come.
    if start.task.has_signal() {
        rt::request_attention(rt::current());
    }
    if start.args.flags & CLONE_CHILD_SETTID != 0 {
        // A bad address is the program's loss: clone(2) does not report it.
        let _ = UserPtr::<u32>::new(start.args.child_tid as usize).write(start.task.tid);
    }
    if start.args.flags & CLONE_SETTLS != 0 {
        rt::set_fs_base(start.args.tls as usize);
    }
    match start.back {
        Back::Call(saved) => {
            rt::leave();
            // SAFETY: the copy of the frame that `door` made, on this stack.
            unsafe { go_back(saved) }
        }
        Back::Instruction(frame) => {
            let mut frame = *frame;
            frame.rax = 0;
            if start.args.stack != 0 {
                frame.rsp = start.args.stack;
            }
            // SAFETY: a copy of a register state that was running, in the kernel at depth 1.
            unsafe { rt::resume(&frame) }
        }
    }
}

// ---- vfork ----

/// vfork(2): no host process is made. The calling thread itself becomes the child, in the same memory,
/// until that executes a program or ends; then it goes on as the parent ([`give_back`]).
///
/// Out of line, as is what makes a thread: register states are large, and a page of the stack that a fork's way needs is
/// copied by every fork.
#[inline(never)]
fn lend(
    ctx: &Ctx,
    args: &CloneArgs,
    back: Back<'_>,
    process: &Arc<process::Process>,
    task: Arc<Task>,
) -> Result {
    if args.flags & CLONE_PARENT_SETTID != 0 {
        UserPtr::<u32>::new(args.parent_tid as usize).write(process.pid)?;
    }
    let fs_base = rt::fs_base() as u64;
    let going_back = match back {
        Back::Call(saved) => {
            // Above the saved registers stands the return address, and then the caller's stack.
            let stack_pointer = core::ptr::from_ref(saved) as u64 + size_of::<Saved>() as u64;
            GoingBack::Call(Box::new(Return { saved: *saved, stack_pointer, fs_base }))
        }
        Back::Instruction(frame) => GoingBack::Instruction(Box::new(Begin::of(frame, fs_base)?)),
    };
    ctx.task.going_back.set(Some(going_back));
    task.lender.set(Some(ctx.task.arc()));
    task.waiter.bind(rt::current());
    process.lent_by.set(Some(rt::own_host()));
    root().insert_process(process);
    let tls = (args.flags & CLONE_SETTLS != 0).then_some(args.tls as usize);
    if args.flags & CLONE_CHILD_SETTID != 0 {
        let _ = UserPtr::<u32>::new(args.child_tid as usize).write(task.tid);
    }
    // The parent's count stays with its suspended task, in `lender`'s keeping of the thread.
    rt::swap_local(Arc::into_raw(task).cast_mut().cast());
    if let Some(tls) = tls {
        rt::set_fs_base(tls);
    }
    // The first return, an ordinary one.
    Ok(0)
}

/// The vforked child has another host process, or has ended: the thread goes on as the parent. What the
/// child's frames hold is given up by the caller.
pub(crate) fn give_back() -> ! {
    let ctx = Ctx::current();
    let pid = ctx.process.pid as usize;
    let lender = ctx.task.lender.lock().take();
    let Some(lender) = lender else { unreachable!("only a vforked child gives back") };
    let altstack = *lender.altstack.lock();
    rt::set_alternate_stack(altstack.base, altstack.len);
    let going_back = match &*lender.going_back.lock() {
        // The boxes stay where they are until the lender lends again or ends.
        Some(GoingBack::Call(back)) => Ok(core::ptr::from_ref::<Return>(back)),
        Some(GoingBack::Instruction(begin)) => Err(core::ptr::from_ref::<Begin>(begin).cast_mut()),
        None => unreachable!("a lender has registers to go back to"),
    };
    let child = rt::swap_local(Arc::as_ptr(&lender).cast_mut().cast());
    // The count of `lender` that `lend` took; the thread still has its own.
    drop(lender);
    // SAFETY: the count that `lend` left with the thread; `ctx` is not used again.
    drop(unsafe { Arc::from_raw(child.cast_const().cast::<Task>()) });
    // Signals that came for the parent meanwhile.
    rt::request_attention(rt::current());
    match going_back {
        Ok(back) => {
            // SAFETY: in the arena, and alive as said; the stack is the lender's own.
            unsafe {
                rt::set_fs_base((*back).fs_base as usize);
                go_back_again(back, pid)
            }
        }
        Err(begin) => {
            // SAFETY: as above; a register state that was running.
            unsafe {
                rt::set_fs_base((*begin).fs_base());
                rt::resume((*begin).ready(pid))
            }
        }
    }
}
