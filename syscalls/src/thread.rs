//! Threads: making and ending them, their ids, the CPUs that they may run on.
//!
//! Two ways make a thread. [`spawn`] is libc's `pthread_create`: a function and a stack. The clone
//! calls come by the `syscall` instruction, and the new thread goes on behind it with a copy of the
//! registers ([`clone_from`]).
//!
//! A thread that ends is still on its stack, so its id must not be cleared (the joiner would free the
//! stack) before it has left: the scheduler calls [`exited`] then, on another one.

use crate::args::{Address, CloneFlags};
use crate::context::Ctx;
use crate::process::root;
use crate::task::Task;
use crate::user::UserPtr;
use crate::{Errno, Result, futex, rt};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::sync::atomic::Ordering;
use sched::Frame;

/// How a thread begins.
#[derive(Clone, Copy)]
pub struct Start {
    /// Called with `argument`; must end the thread, not return.
    pub entry: unsafe extern "C" fn(*mut c_void),
    /// Its argument.
    pub argument: *mut c_void,
    /// End of its stack.
    pub stack_top: usize,
    /// Its TCB.
    pub fs_base: usize,
    /// Gets the thread's id before it starts, and 0 (and a futex wake) when it has left its stack.
    /// May be null.
    pub clear_tid: *mut u32,
}

/// Makes a thread of the calling process and lets it run; answers its id. The mask is inherited.
pub fn spawn(start: &Start) -> Result<u32> {
    rt::enter();
    let answer = spawn_in(&Ctx::current(), start, |_| Ok(()));
    rt::leave();
    answer
}

/// `before` is called with the new id before the thread runs.
fn spawn_in(ctx: &Ctx, start: &Start, before: impl FnOnce(u32) -> Result<()>) -> Result<u32> {
    ctx.process.check_threads()?;
    let task = Task::further(ctx.process, ctx.task.blocked.load(Ordering::Relaxed));
    let tid = task.tid;
    *task.name.lock() = *ctx.task.name.lock();
    *task.schedule.lock() = ctx.task.schedule.lock().inherited();
    *task.affinity.lock() = *ctx.task.affinity.lock();
    let clear_tid = start.clear_tid as usize;
    task.clear_tid.store(clear_tid, Ordering::Relaxed);
    let made = before(tid)
        .and_then(|()| UserPtr::<u32>::new(clear_tid).write_optional(tid))
        .and_then(|()| rt::new_thread(start, Arc::as_ptr(&task) as *mut ()));
    match made {
        Ok(thread) => {
            task.waiter.bind(&thread);
            crate::priority::apply(&task);
            // The count behind the thread's local pointer; `exited` takes it back.
            core::mem::forget(task);
            rt::start_thread(&thread);
            Ok(tid)
        }
        Err(errno) => {
            ctx.process.remove_task(tid);
            Err(errno)
        }
    }
}

/// exit(2): ends the calling thread; the process too if it was the last one.
pub fn exit(ctx: &Ctx, status: i32) -> Result {
    if ctx.process.task_count() == 1 {
        ctx.process.exit((status as u32 & 0xff) << 8)
    }
    end()
}

/// Ends the running thread: on its own wish, or because its process ends. The last one ends the process.
/// Nothing of the callers' frames may want to be dropped.
pub(crate) fn end() -> ! {
    let ctx = Ctx::current();
    futex::exit_robust_list(ctx.task);
    let left = ctx.process.remove_task(ctx.task.tid);
    futex::owner_ended(ctx.task.tid);
    if left == 0 {
        crate::reap::finish(ctx.task)
    }
    rt::exit_thread()
}

/// The scheduler's `exited` hook, for the task that was behind the thread's local pointer.
pub fn exited(local: *mut ()) {
    if local.is_null() {
        return;
    }
    // SAFETY: the count that `attach` or `spawn_in` left there; the thread will not use it again.
    let task = unsafe { Arc::from_raw(local.cast_const().cast::<Task>()) };
    let address = task.clear_tid.swap(0, Ordering::Relaxed);
    if address != 0 && UserPtr::<u32>::new(address).write(0).is_ok() {
        futex::wake_word(task.process.pid, address, 1);
    }
}

/// Lets go of a thread whose host process is gone. Its memory is gone too: no word is cleared.
pub(crate) fn abandon(task: &Arc<Task>) {
    let Some(thread) = task.waiter.thread() else { return };
    let mut at = rt::abandon(thread).cast_const().cast::<Task>();
    // A thread that was lent (vfork(2)) has the count of the task that it runs as, and those of all that lent it.
    while !at.is_null() {
        // SAFETY: the count that `attach`, `spawn_in`, a fork or a lending left with the thread.
        let task = unsafe { Arc::from_raw(at) };
        crate::stay::abandon(&task);
        let lender = task.lender.lock().take();
        // Its own count outlives the one that the borrower has of it.
        at = lender.as_ref().map_or(core::ptr::null(), Arc::as_ptr);
    }
}

/// exit_group(2).
pub fn exit_group(ctx: &Ctx, status: i32) -> Result {
    ctx.process.exit((status as u32 & 0xff) << 8)
}

/// set_tid_address(2).
pub fn set_tid_address(ctx: &Ctx, address: Address) -> Result {
    ctx.task.clear_tid.store(address.0, Ordering::Relaxed);
    Ok(ctx.task.tid as usize)
}

/// gettid(2).
pub fn gettid(ctx: &Ctx) -> Result {
    Ok(ctx.task.tid as usize)
}

/// sched_yield(2).
pub fn sched_yield(_ctx: &Ctx) -> Result {
    rt::yield_now();
    Ok(0)
}

// ---- clone ----

pub(crate) const CLONE_VM: u64 = 0x100;
pub(crate) const CLONE_FS: u64 = 0x200;
pub(crate) const CLONE_FILES: u64 = 0x400;
pub(crate) const CLONE_SIGHAND: u64 = 0x800;
pub(crate) const CLONE_THREAD: u64 = 0x1_0000;
pub(crate) const CLONE_SETTLS: u64 = 0x8_0000;
pub(crate) const CLONE_PARENT_SETTID: u64 = 0x10_0000;
pub(crate) const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
pub(crate) const CLONE_CHILD_SETTID: u64 = 0x100_0000;
/// What makes a thread and not a process.
pub(crate) const THREAD: u64 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

/// `struct clone_args` (clone3(2)), version 0 of 64 bytes; later fields are for processes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
}

/// clone(2) in the table: both doors take it before dispatch (`crate::fork`), since it returns twice.
pub fn clone(
    _ctx: &Ctx,
    _flags: CloneFlags,
    _stack: Address,
    _parent_tid: UserPtr<u32>,
    _child_tid: UserPtr<u32>,
    _tls: usize,
) -> Result {
    Err(Errno::ENOSYS)
}

/// fork(2) and vfork(2) in the table: as [`clone`].
pub fn fork(_ctx: &Ctx) -> Result {
    Err(Errno::ENOSYS)
}

/// clone3(2) in the table: as [`clone`].
pub fn clone3(_ctx: &Ctx, _args: UserPtr<CloneArgs>, _size: usize) -> Result {
    Err(Errno::ENOSYS)
}

/// A thread that goes on with a copy of the caller's registers. Out of line as `fork::lend`.
#[inline(never)]
pub(crate) fn clone_thread(ctx: &Ctx, args: CloneArgs, frame: &Frame) -> Result {
    if args.flags & THREAD != THREAD || args.stack == 0 {
        return Err(Errno::EINVAL);
    }
    let fs_base = if args.flags & CLONE_SETTLS != 0 { args.tls as usize } else { rt::fs_base() };
    let clear = args.flags & CLONE_CHILD_CLEARTID != 0;
    let begin = Box::into_raw(Box::new(Begin::new(frame, args.stack)?));
    let start = Start {
        entry: begin_clone,
        argument: begin.cast(),
        stack_top: args.stack as usize,
        fs_base,
        clear_tid: core::ptr::null_mut(),
    };
    let made = spawn_in(ctx, &start, |tid| {
        if args.flags & CLONE_PARENT_SETTID != 0 {
            UserPtr::<u32>::new(args.parent_tid as usize).write(tid)?;
        }
        if args.flags & CLONE_CHILD_SETTID != 0 {
            UserPtr::<u32>::new(args.child_tid as usize).write(tid)?;
        }
        if clear && let Some(task) = ctx.process.task(tid) {
            task.clear_tid.store(args.child_tid as usize, Ordering::Relaxed);
        }
        Ok(())
    });
    if made.is_err() {
        // SAFETY: the thread was not made, so nobody else has it.
        drop(unsafe { Box::from_raw(begin) });
    }
    made.map(|tid| tid as usize)
}

/// Room for the extended registers up to AVX-512 and PKRU in the standard format.
const AREA: usize = 2752;
/// The components that fit there.
const COMPONENTS: u64 = 0x2ff;

/// The registers that a cloned thread begins with.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Begin {
    area: [u8; AREA],
    frame: Frame,
    fs_base: usize,
}

// SAFETY: plain register values; the frame's one pointer is set to the copied area when the thread that
// they are for goes on from them (`xsave`), and not followed before.
unsafe impl Send for Begin {}

impl Begin {
    fn new(frame: &Frame, stack: u64) -> Result<Begin> {
        let mut area = [0; AREA];
        let len = (frame.xsave_len as usize).min(AREA);
        // SAFETY: the scheduler vouches for `xsave_len` bytes there.
        area[..len].copy_from_slice(unsafe { core::slice::from_raw_parts(frame.xsave, len) });
        let mut frame = *frame;
        frame.rax = 0;
        frame.rsp = stack;
        frame.xfeatures &= COMPONENTS;
        // The header's component bits must not name what was cut off.
        let at = 512;
        let bits = u64::from_ne_bytes(area[at..at + 8].try_into().map_err(|_| Errno::EINVAL)?) & COMPONENTS;
        area[at..at + 8].copy_from_slice(&bits.to_ne_bytes());
        Ok(Begin { area, frame, fs_base: 0 })
    }

    /// The registers as they are, to go on with later.
    pub(crate) fn of(frame: &Frame, fs_base: u64) -> Result<Begin> {
        Ok(Begin { fs_base: fs_base as usize, ..Begin::new(frame, frame.rsp)? })
    }

    /// The FS base that goes with them.
    pub(crate) fn fs_base(&self) -> usize {
        self.fs_base
    }

    /// The registers where they are now, with this answer.
    pub(crate) fn ready(&mut self, answer: usize) -> &Frame {
        self.frame.rax = answer as u64;
        self.frame.xsave = self.area.as_mut_ptr();
        &self.frame
    }
}

/// The first code of a cloned thread: takes its registers from kernel memory to its own stack, below
/// where it will go on, and goes on.
unsafe extern "C" fn begin_clone(argument: *mut c_void) {
    rt::enter();
    // SAFETY: `clone_thread` passed a Box<Begin> to this thread alone.
    let mut begin = unsafe { *Box::from_raw(argument.cast::<Begin>()) };
    begin.frame.xsave = begin.area.as_mut_ptr();
    // SAFETY: a copy of a register state that was running, in the kernel at depth 1.
    unsafe { rt::resume(&begin.frame) }
}

// ---- CPUs ----

/// The thread that `id` names: 0 is the caller.
fn find_task(ctx: &Ctx, id: i32) -> Result<Arc<Task>> {
    if id == 0 { Ok(ctx.task.arc()) } else { root().task(id as u32).ok_or(Errno::ESRCH) }
}

/// A set of CPUs (cpu_set_t).
pub type CpuSet = [u64; 16];

/// CPUs of the guest as a mask of whole words.
fn cpu_mask() -> CpuSet {
    let mut mask = [0u64; 16];
    for cpu in 0..rt::cpus().min(1024) {
        mask[cpu / 64] |= 1 << (cpu % 64);
    }
    mask
}

/// sched_getaffinity(2): answers the bytes written.
pub fn sched_getaffinity(ctx: &Ctx, id: i32, size: usize, to: UserPtr<u64>) -> Result {
    let words = rt::cpus().div_ceil(64);
    if !size.is_multiple_of(8) || size < words * 8 {
        return Err(Errno::EINVAL);
    }
    let mask = find_task(ctx, id)?.affinity.lock().unwrap_or(cpu_mask());
    to.write_all(&mask[..words])?;
    Ok(words * 8)
}

/// sched_setaffinity(2): the set is kept and told, by this thread and by those that it makes. On which CPU a vCPU
/// runs is up to the host, so threads are not bound by it.
pub fn sched_setaffinity(ctx: &Ctx, id: i32, size: usize, from: UserPtr<u64>) -> Result {
    let mut wish = [0u8; size_of::<CpuSet>()];
    let len = size.min(wish.len());
    crate::user::read_bytes(from.address(), &mut wish[..len])?;
    let task = find_task(ctx, id)?;
    let mut set = cpu_mask();
    for (word, bytes) in set.iter_mut().zip(wish.chunks_exact(8)) {
        *word &= u64::from_ne_bytes(bytes.try_into().map_err(|_| Errno::EINVAL)?);
    }
    if set == CpuSet::default() {
        return Err(Errno::EINVAL);
    }
    if !Arc::ptr_eq(&task.process, &ctx.task.process) {
        let other = task.process.credentials.lock().clone();
        let own = ctx.process.credentials.lock();
        if !own.privileged() && own.euid != other.uid && own.euid != other.euid {
            return Err(Errno::EPERM);
        }
    }
    *task.affinity.lock() = Some(set);
    Ok(0)
}
