//! pthread_create(3), pthread_join(3), pthread_detach(3), and a thread's first and last steps.
//!
//! [`syscalls::thread::spawn`] runs `entry(argument)` on a stack with an FS base. The thread's id is in its
//! TCB before it starts; when it has ended (exit(2)) the personality zeroes it, from a stack of its
//! own, and wakes the futex there (CLONE_CHILD_CLEARTID).

use super::cancel;
use super::stack::{self, Stack};
use super::{attr, ceiling, key, me};
use crate::dl;
use crate::futex::{self, Clock, Deadline, Lock, Scope};
use crate::kcall;
use crate::malloc::{cache, imp};
use crate::start;
use crate::thread::{self, Tcb};
use crate::tls;
use crate::types::{c_char, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use platform::Errno;
use platform::time::Timespec;

#[cfg(test)]
use super::tests::spawn;
use syscalls::thread::Start;
#[cfg(not(test))]
use syscalls::thread::spawn;

// States of `Record::detach`.
/// Somebody will join it.
pub(crate) const JOINABLE: u32 = 0;
/// It frees itself.
pub(crate) const DETACHED: u32 = 1;
/// It is past its last user code, and was joinable then.
pub(crate) const ENDED: u32 = 2;
/// It has been joined: its id names nobody (ESRCH, as long as its memory is kept for the next thread).
pub(crate) const JOINED: u32 = 3;

/// All threads but those that are past their end, linked by `pthread.next` and `prev`.
struct List {
    first: *mut Tcb,
}
// SAFETY: reached under the lock.
unsafe impl Send for List {}
static LIST: Lock<List> = Lock::new(List { first: null_mut() });
/// Threads that have not ended; the last one ends the process.
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// Calls `visit` for every thread.
pub(crate) fn for_each(mut visit: impl FnMut(*mut Tcb)) {
    let list = LIST.lock();
    let mut tcb = list.first;
    while !tcb.is_null() {
        visit(tcb);
        // SAFETY: TCBs on the list live while it is locked.
        tcb = unsafe { (*tcb).pthread.next };
    }
}

fn link(tcb: *mut Tcb) {
    let mut list = LIST.lock();
    // SAFETY: a new TCB, and TCBs on the list.
    unsafe {
        (*tcb).pthread.prev = null_mut();
        (*tcb).pthread.next = list.first;
        if !list.first.is_null() {
            (*list.first).pthread.prev = tcb;
        }
    }
    list.first = tcb;
}

fn unlink(tcb: *mut Tcb) {
    let mut list = LIST.lock();
    // SAFETY: TCBs on the list.
    unsafe {
        let (next, prev) = ((*tcb).pthread.next, (*tcb).pthread.prev);
        if prev.is_null() {
            list.first = next;
        } else {
            (*prev).pthread.next = next;
        }
        if !next.is_null() {
            (*next).pthread.prev = prev;
        }
    }
}

/// Makes the main thread's record complete: its id, its place on the list.
///
/// # Safety
/// Once, on the main thread.
pub(crate) unsafe fn adopt_main(tcb: *mut Tcb) {
    // SAFETY: the calling thread's TCB.
    unsafe {
        (*tcb).tid = kcall!(set_tid_address, &raw mut (*tcb).tid).unwrap_or(1) as i32;
        (*tcb).pthread.is_main = true;
    }
    link(tcb);
}

/// Runs the program's `main` so that pthread_exit can leave it; the answer is its status.
pub(crate) unsafe fn run_main(
    main: unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int,
    argc: c_int,
    argv: *mut *mut c_char,
    envp: *mut *mut c_char,
) -> c_int {
    struct Main {
        main: unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int,
        argc: c_int,
        argv: *mut *mut c_char,
        envp: *mut *mut c_char,
    }
    unsafe extern "C" fn run(argument: *mut c_void) -> *mut c_void {
        // SAFETY: `run_main`'s frame stands.
        unsafe {
            let m = &*argument.cast::<Main>();
            (m.main)(m.argc, m.argv, m.envp) as isize as *mut c_void
        }
    }
    let mut arguments = Main { main, argc, argv, envp };
    // SAFETY: the record is the thread's own.
    unsafe {
        let result = call_leavable(run as *const (), (&raw mut arguments).cast(), &raw mut (*me()).base);
        if (*me()).cancel.load(Ordering::Relaxed) & cancel::EXITING != 0 {
            end();
        }
        result as isize as c_int
    }
}

/// Calls `function(argument)` in a frame that [`leave`] can return from, and stores its stack pointer.
#[unsafe(naked)]
unsafe extern "C" fn call_leavable(
    _function: *const (),
    _argument: *mut c_void,
    _base: *mut usize,
) -> *mut c_void {
    // An undefined return address: unwinding and backtraces end here.
    core::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov [rdx], rsp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "xor ebp, ebp",
        "call rax",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        ".cfi_endproc",
    )
}

/// Returns `value` from [`call_leavable`], from wherever we are.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn leave(_base: usize, _value: *mut c_void) -> ! {
    core::arch::naked_asm!(
        "mov rsp, rdi",
        "mov rax, rsi",
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

// ---- creation ----------------------------------------------------------------------------------

/// Makes a thread.
pub(crate) unsafe fn create(
    out: *mut *mut Tcb,
    attributes: *const attr::Attr,
    start: *const (),
    argument: *mut c_void,
    is_c11: bool,
) -> Result<(), Errno> {
    // SAFETY: the TCB is ours until the thread runs.
    unsafe {
        let wish = attr::Wish::read(attributes);
        let tcb = match wish.foreign_stack {
            Some((low, size)) if size >= stack::FOREIGN_MIN => stack::adopt(low, size)?,
            // Our frames would not fit beside the program's: it gets a stack of ours instead.
            Some((_, size)) => stack::allocate(size, wish.guard)?,
            None => stack::allocate(wish.stack_size, wish.guard)?,
        };
        inherit(tcb, &wish);
        let record = &mut (*tcb).pthread;
        (record.start, record.argument, record.is_c11) = (start, argument, is_c11);
        record.hold.store(u32::from(wish.needs_setup()), Ordering::Relaxed);
        start::SINGLE_THREADED.store(0);
        crate::stdio::lock::set_single_threaded(false);
        COUNT.fetch_add(1, Ordering::AcqRel);
        link(tcb);
        // The thread may run, end and be gone before spawn returns: its id must be out before.
        out.write(tcb);
        let request = Start {
            entry,
            argument: tcb.cast(),
            stack_top: record.stack.top() & !15,
            fs_base: tcb as usize,
            clear_tid: (&raw mut (*tcb).tid).cast(),
        };
        match spawn(&request) {
            // A thread that is not held may be gone with its TCB by now.
            Ok(tid) if wish.needs_setup() => {
                let result = wish.set_up(tcb, tid as i32);
                let hold = &(*tcb).pthread.hold;
                hold.store(if result.is_err() { ABANDON } else { 0 }, Ordering::Release);
                futex::wake(hold, 1, Scope::Private);
                result
            }
            Ok(_) => Ok(()),
            Err(_) => {
                unlink(tcb);
                COUNT.fetch_sub(1, Ordering::AcqRel);
                (*tcb).tid_word().store(0, Ordering::Release);
                stack::retire(tcb);
                Err(Errno::EAGAIN)
            }
        }
    }
}

/// Value of `hold`: the attributes could not be had, the thread is to end without running.
const ABANDON: u32 = 2;

/// What a thread has from its creator.
unsafe fn inherit(tcb: *mut Tcb, wish: &attr::Wish) {
    // SAFETY: the new TCB, not running yet, and the caller's own.
    unsafe {
        let parent = thread::current();
        (*tcb).stack_guard = (*parent).stack_guard;
        (*tcb).pointer_guard = (*parent).pointer_guard;
        (*tcb).pthread.policy = (*parent).pthread.policy;
        (*tcb).pthread.priority = (*parent).pthread.priority;
        let state = if wish.detached { DETACHED } else { JOINABLE };
        (*tcb).pthread.detach.store(state, Ordering::Relaxed);
        if let Some(mask) = wish.mask {
            (*tcb).pthread.mask = mask;
            (*tcb).pthread.has_mask = true;
        }
    }
}

/// A thread's first function.
unsafe extern "C" fn entry(argument: *mut c_void) {
    const SIG_SETMASK: usize = 2;
    let tcb: *mut Tcb = argument.cast();
    // SAFETY: the calling thread's own TCB.
    unsafe {
        let record = &raw mut (*tcb).pthread;
        while (*record).hold.load(Ordering::Acquire) == 1 {
            let _ = futex::wait(&(*record).hold, 1, Scope::Private, None);
        }
        if (*record).hold.load(Ordering::Acquire) == ABANDON {
            (*record).detach.store(DETACHED, Ordering::Relaxed);
            end();
        }
        if (*record).has_mask {
            let _ = kcall!(rt_sigprocmask, SIG_SETMASK, &raw const (*record).mask, 0, 8);
        }
        let result = call_leavable((*record).start, (*record).argument, &raw mut (*record).base);
        // A C11 thread's int result; a thread that was unwound has it stored already.
        let left = (*record).cancel.load(Ordering::Relaxed) & cancel::EXITING != 0;
        if !left {
            (*record).result = if (*record).is_c11 { result as i32 as isize as *mut c_void } else { result };
        }
        end()
    }
}

/// A thread's last steps.
fn end() -> ! {
    const SIG_BLOCK: usize = 0;
    // SAFETY: the calling thread's own TCB, until it is given up.
    unsafe {
        let tcb = thread::current();
        let record = &raw mut (*tcb).pthread;
        (*record).cancel.fetch_or(cancel::EXITING, Ordering::AcqRel);
        start::run_thread_dtors();
        key::run_destructors();
        if COUNT.fetch_sub(1, Ordering::AcqRel) == 1 {
            start::exit(0);
        }
        // From here on no handler of the program may run: its thread-local data goes.
        let all = u64::MAX;
        let _ = kcall!(rt_sigprocmask, SIG_BLOCK, &raw const all, 0, 8);
        release_memory(tcb);
        if (*record).is_main {
            // Its stack and TCB are not ours to free; the personality keeps the process until the last
            // thread ends.
            exit_thread()
        }
        unlink(tcb);
        stack::drop_pages(&(*record).stack, &raw const all as usize);
        // Whoever comes second, the detacher or we, gives the memory up.
        if change(&(*record).detach, JOINABLE, ENDED).is_err() {
            stack::retire(tcb);
        }
        exit_thread()
    }
}

/// Takes a thread's state from `from` to `to`; else answers what it is.
fn change(state: &AtomicU32, from: u32, to: u32) -> Result<u32, u32> {
    state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
}

unsafe fn release_memory(tcb: *mut Tcb) {
    // SAFETY: the calling thread's own TCB; the cache goes last, as the others use it.
    unsafe {
        tls::release_current();
        dl::release_current();
        ceiling::release();
        for slot in &mut (*tcb).slots {
            imp::free(core::mem::replace(slot, null_mut()));
        }
        cache::flush_all();
    }
}

fn exit_thread() -> ! {
    loop {
        // SAFETY: the thread ends here.
        let _ = unsafe { kcall!(exit, 0) };
    }
}

// ---- join --------------------------------------------------------------------------------------

/// How long to wait for a thread's end.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    /// Not at all: EBUSY.
    None,
    /// Until then: ETIMEDOUT.
    Until(Deadline),
    /// For ever.
    Endless,
}

/// Waits for a thread's end and frees it; a cancellation point.
pub(crate) unsafe fn join(tcb: *mut Tcb, patience: Patience) -> Result<*mut c_void, Errno> {
    // SAFETY: the program's thread id.
    unsafe {
        let record = &raw mut (*tcb).pthread;
        match (*record).detach.load(Ordering::Acquire) {
            DETACHED => return Err(Errno::EINVAL),
            JOINED => return Err(Errno::ESRCH),
            _ => {}
        }
        let this = thread::current();
        if tcb == this || (*this).pthread.joiner.load(Ordering::Acquire) == tcb {
            return Err(Errno::EDEADLK);
        }
        if matches!(patience, Patience::None) && (*tcb).tid_word().load(Ordering::Acquire) != 0 {
            return Err(Errno::EBUSY);
        }
        let claim = (*record).joiner.compare_exchange(null_mut(), this, Ordering::AcqRel, Ordering::Acquire);
        claim.map_err(|_| Errno::EINVAL)?;
        let deadline = match patience {
            Patience::Until(deadline) => Some(deadline),
            _ => None,
        };
        if let Err(errno) = wait_for_end((*tcb).tid_word(), deadline) {
            (*record).joiner.store(null_mut(), Ordering::Release);
            if errno == Errno::EINTR {
                cancel::test();
            }
            return Err(errno);
        }
        let result = (*record).result;
        (*record).detach.store(JOINED, Ordering::Release);
        stack::retire(tcb);
        Ok(result)
    }
}

/// EINTR only for a cancelled caller.
fn wait_for_end(tid: &AtomicU32, deadline: Option<Deadline>) -> Result<(), Errno> {
    loop {
        let seen = tid.load(Ordering::Acquire);
        if seen == 0 {
            return Ok(());
        }
        // The personality wakes with a shared FUTEX_WAKE, as Linux does.
        match futex::wait_cancellable(tid, seen, Scope::Shared, deadline) {
            Err(Errno::EINTR) if cancel::is_pending() => return Err(Errno::EINTR),
            Err(Errno::ETIMEDOUT) => return Err(Errno::ETIMEDOUT),
            _ => {}
        }
    }
}

unsafe fn join_number(tcb: *mut Tcb, out: *mut *mut c_void, patience: Patience) -> c_int {
    // SAFETY: the program's thread id and out pointer.
    unsafe {
        match join(tcb, patience) {
            Ok(result) => {
                if !out.is_null() {
                    out.write(result);
                }
                0
            }
            Err(errno) => errno.0,
        }
    }
}

unsafe fn deadline(clock: Option<Clock>, at: *const Timespec) -> Result<Patience, Errno> {
    let clock = clock.ok_or(Errno::EINVAL)?;
    // SAFETY: the program's time, or null for ever.
    unsafe {
        if at.is_null() { Ok(Patience::Endless) } else { Deadline::read(clock, at).map(Patience::Until) }
    }
}

abi! { EXPORTS "libc.so.6":
    /// pthread_create(3).
    "GLIBC_2.34" fn pthread_create(
        out: *mut *mut Tcb, attributes: *const attr::Attr,
        start: unsafe extern "C" fn(*mut c_void) -> *mut c_void, argument: *mut c_void,
    ) -> c_int {
        // SAFETY: the program's arguments.
        unsafe { create(out, attributes, start as *const (), argument, false).map_or_else(|e| e.0, |()| 0) }
    }
    /// pthread_join(3).
    "GLIBC_2.34" fn pthread_join(tcb: *mut Tcb, out: *mut *mut c_void) -> c_int {
        // SAFETY: the program's arguments.
        unsafe { join_number(tcb, out, Patience::Endless) }
    }
    /// pthread_tryjoin_np(3).
    "GLIBC_2.34" fn pthread_tryjoin_np(tcb: *mut Tcb, out: *mut *mut c_void) -> c_int {
        // SAFETY: the program's arguments.
        unsafe { join_number(tcb, out, Patience::None) }
    }
    /// pthread_timedjoin_np(3).
    "GLIBC_2.34" fn pthread_timedjoin_np(tcb: *mut Tcb, out: *mut *mut c_void, at: *const Timespec) -> c_int {
        // SAFETY: the program's arguments.
        unsafe { deadline(Some(Clock::Real), at).map_or_else(|e| e.0, |p| join_number(tcb, out, p)) }
    }
    /// pthread_clockjoin_np(3).
    "GLIBC_2.34" fn pthread_clockjoin_np(
        tcb: *mut Tcb, out: *mut *mut c_void, clock: c_int, at: *const Timespec,
    ) -> c_int {
        // SAFETY: the program's arguments.
        unsafe { deadline(Clock::from_id(clock), at).map_or_else(|e| e.0, |p| join_number(tcb, out, p)) }
    }
    /// pthread_detach(3).
    "GLIBC_2.34" fn pthread_detach(tcb: *mut Tcb) -> c_int {
        // SAFETY: the program's thread id.
        unsafe {
            let state = &(*tcb).pthread.detach;
            match change(state, JOINABLE, DETACHED).or_else(|_| change(state, ENDED, DETACHED)) {
                Ok(JOINABLE) => 0,
                Ok(_) => {
                    stack::retire(tcb);
                    0
                }
                Err(JOINED) => Errno::ESRCH.0,
                Err(_) => Errno::EINVAL.0,
            }
        }
    }
    /// pthread_self(3).
    "GLIBC_2.2.5" fn pthread_self() -> *mut Tcb {
        thread::current()
    }
    /// pthread_equal(3).
    "GLIBC_2.2.5" fn pthread_equal(a: *mut Tcb, b: *mut Tcb) -> c_int {
        c_int::from(a == b)
    }
}

/// The child of fork(2) of a process without threads: the list is right as it is.
pub(crate) fn forked_alone() {
    // SAFETY: the calling thread's own record.
    unsafe {
        let tcb = thread::current();
        (*tcb).tid = kcall!(gettid).unwrap_or(0) as i32;
        (*tcb).pthread.robust_known = false;
    }
}

/// The child of fork(2): the caller is the only thread.
pub(crate) fn forked() {
    // SAFETY: one thread, so nobody uses the list.
    unsafe {
        LIST.raw().reset();
        let tcb = thread::current();
        (*tcb).pthread.next = null_mut();
        (*tcb).pthread.prev = null_mut();
        (*LIST.as_ptr()).first = tcb;
        COUNT.store(1, Ordering::Relaxed);
        (*tcb).tid = kcall!(gettid).unwrap_or(0) as i32;
        // The robust list is not inherited (fork(2)).
        (*tcb).pthread.robust_known = false;
    }
}

pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    LIST.raw()
}

/// The bounds of a thread's stack, for pthread_getattr_np.
pub(crate) unsafe fn bounds(tcb: *mut Tcb) -> Stack {
    // SAFETY: the program's thread id.
    unsafe { (*tcb).pthread.stack }
}
