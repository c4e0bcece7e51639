//! pthread_cancel(3), pthread_exit(3), and how a thread is unwound.
//!
//! Deferred cancellation: a bit in the thread's record, looked at by cancellation points. So that a
//! blocked thread wakes up, pthread_cancel sends signal 32. Its handler closes the gap between a
//! point's last look at the bit and the moment its call blocks: while a point is open
//! (`POINT` holds its stack pointer) the handler makes the interrupted context continue behind the
//! point, as if the call had answered EINTR. Signals are never delivered while the personality holds
//! its locks, so nothing is left half done there; what may be lost is the result of a call that was
//! just complete, as in glibc.
//!
//! Unwinding is forced unwinding by libgcc_s, which we load as glibc does: it runs C++ destructors and
//! `__attribute__((cleanup))`. C code without `-fexceptions` registers a `jmp_buf` instead
//! (`__pthread_register_cancel`): when the unwinder reaches its frame we jump there. Without a libgcc_s
//! the thread jumps from buffer to buffer and then to its base; this serves plain C.

use super::me;
use crate::kcall;
use crate::setjmp::{self, JmpBuf};
use crate::thread::{self, Tcb};
use crate::types::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use platform::Errno;

/// PTHREAD_CANCEL_DISABLE.
const DISABLED: u32 = 1;
/// PTHREAD_CANCEL_ASYNCHRONOUS.
const ASYNC: u32 = 2;
/// pthread_cancel was called.
const PENDING: u32 = 4;
/// The thread is on its way out: no further cancellation.
pub(crate) const EXITING: u32 = 8;

/// PTHREAD_CANCELED.
pub(crate) const CANCELED: *mut c_void = usize::MAX as *mut c_void;
/// glibc's SIGCANCEL: one of the two signals that libc keeps for itself.
pub const SIGCANCEL: c_int = 32;

/// `struct _Unwind_Exception`.
#[repr(C, align(16))]
pub(crate) struct Exception {
    class: u64,
    cleanup: *mut c_void,
    private: [usize; 2],
}

/// `__pthread_unwind_buf_t`: a jmp_buf without its signal mask, then four private words.
#[repr(C)]
struct UnwindBuffer {
    registers: [usize; 8],
    mask_was_saved: c_int,
    previous: *mut UnwindBuffer,
    cleanup: *mut CleanupBuffer,
    cancel_type: c_int,
    reserved: usize,
}

/// `struct _pthread_cleanup_buffer` of old binaries.
#[repr(C)]
struct CleanupBuffer {
    routine: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
    cancel_type: c_int,
    previous: *mut CleanupBuffer,
}

/// Whether the calling thread has been cancelled and may act on it.
#[inline]
pub(crate) fn is_pending() -> bool {
    // SAFETY: the thread's own record.
    let state = unsafe { (*me()).cancel.load(Ordering::Acquire) };
    state & (DISABLED | PENDING | EXITING) == PENDING
}

/// A cancellation point without a call: pthread_testcancel(3).
#[inline]
pub(crate) fn test() {
    if is_pending() {
        exit_with(CANCELED);
    }
}

/// A system call that is a cancellation point.
///
/// # Safety
/// As [`kcall::call`].
#[inline]
pub unsafe fn call(number: usize, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: forwarded.
    let result = unsafe { interruptible(number, args) };
    if result == Err(Errno::EINTR) {
        test();
    }
    result
}

/// As [`call`], but a cancelled thread gets EINTR back, to repair its state before it calls [`test`].
///
/// # Safety
/// As [`kcall::call`].
#[inline]
pub(crate) unsafe fn interruptible(number: usize, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: forwarded; the record is the thread's own.
    unsafe {
        let point = (&raw mut (*me()).point).cast();
        Errno::from_raw(open_point(number, &args, point))
    }
}

/// Runs [`inner`] with this frame's stack pointer in `*point`. The handler continues at label 2 with
/// rax = -EINTR and that stack pointer.
#[unsafe(naked)]
unsafe extern "C" fn open_point(_number: usize, _args: *const [usize; 6], _point: *mut usize) -> isize {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_adjust_cfa_offset 8",
        "push rbx",
        ".cfi_adjust_cfa_offset 8",
        "push r12",
        ".cfi_adjust_cfa_offset 8",
        "push r13",
        ".cfi_adjust_cfa_offset 8",
        "push r14",
        ".cfi_adjust_cfa_offset 8",
        "push r15",
        ".cfi_adjust_cfa_offset 8",
        "push rdx",
        ".cfi_adjust_cfa_offset 8",
        "mov [rdx], rsp",
        "call {inner}",
        ".globl attacca_cancel_resume",
        ".hidden attacca_cancel_resume",
        "attacca_cancel_resume:",
        "pop rdx",
        ".cfi_adjust_cfa_offset -8",
        "mov qword ptr [rdx], 0",
        "pop r15",
        ".cfi_adjust_cfa_offset -8",
        "pop r14",
        ".cfi_adjust_cfa_offset -8",
        "pop r13",
        ".cfi_adjust_cfa_offset -8",
        "pop r12",
        ".cfi_adjust_cfa_offset -8",
        "pop rbx",
        ".cfi_adjust_cfa_offset -8",
        "pop rbp",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        inner = sym inner,
    )
}

unsafe extern "C" {
    fn attacca_cancel_resume();
}

unsafe extern "C" fn inner(number: usize, args: *const [usize; 6]) -> isize {
    if is_pending() {
        return Errno::EINTR.to_raw();
    }
    // SAFETY: forwarded from `interruptible`.
    unsafe {
        match kcall::call(number, *args) {
            Ok(value) => value as isize,
            Err(errno) => errno.to_raw(),
        }
    }
}

/// Signal 32.
unsafe extern "C" fn on_signal(_signal: c_int, info: *const c_int, context: *mut c_void) {
    const SI_TKILL: c_int = -6;
    const UC_RSP: usize = 160;
    const UC_RIP: usize = 168;
    const UC_RAX: usize = 144;
    // SAFETY: the personality's siginfo and ucontext; the record is the thread's own.
    unsafe {
        if *info.add(2) != SI_TKILL || !is_pending() {
            return;
        }
        let state = (*me()).cancel.load(Ordering::Acquire);
        let point = (*me()).point;
        if point != 0 {
            let context: *mut u8 = context.cast();
            context.add(UC_RSP).cast::<usize>().write(point);
            context.add(UC_RAX).cast::<isize>().write(Errno::EINTR.to_raw());
            context.add(UC_RIP).cast::<usize>().write(attacca_cancel_resume as *const () as usize);
        } else if state & ASYNC != 0 {
            exit_with(CANCELED);
        }
    }
}

/// Ends the calling thread with a result: unwinds it.
pub(crate) fn exit_with(result: *mut c_void) -> ! {
    // SAFETY: the thread's own record.
    unsafe {
        (*me()).result = result;
        (*me()).cancel.fetch_or(EXITING, Ordering::AcqRel);
    }
    unwind()
}

type ForcedUnwind = unsafe extern "C" fn(*mut Exception, StopFn, *mut c_void) -> c_int;
type StopFn = unsafe extern "C" fn(c_int, c_int, u64, *mut Exception, *mut c_void, *mut c_void) -> c_int;
type GetCfa = unsafe extern "C" fn(*mut c_void) -> usize;

fn unwind() -> ! {
    // SAFETY: the thread's own record and frames.
    unsafe {
        if let Some((forced, _)) = libgcc() {
            let exception = &raw mut (*me()).exception;
            exception.write(Exception { class: 0, cleanup: null_mut(), private: [0; 2] });
            forced(exception, stop, null_mut());
            // It came back: a frame without unwind information. Go on without it.
        }
        jump_out()
    }
}

/// The unwinder asks at each frame whether to stop there.
unsafe extern "C" fn stop(
    _version: c_int,
    actions: c_int,
    _class: u64,
    _exception: *mut Exception,
    context: *mut c_void,
    _argument: *mut c_void,
) -> c_int {
    const END_OF_STACK: c_int = 16;
    // SAFETY: the unwinder's context; the record is the thread's own.
    unsafe {
        let cfa = libgcc().map_or(usize::MAX, |(_, get_cfa)| get_cfa(context));
        if actions & END_OF_STACK != 0 || cfa >= target() {
            jump_out();
        }
        run_cleanups(cfa);
    }
    0
}

/// Stack pointer of the frame to stop at: the innermost registered buffer's, or the thread's base.
unsafe fn target() -> usize {
    // SAFETY: the thread's own record.
    unsafe {
        let buffer = (*me()).unwind_buffer;
        if buffer.is_null() { (*me()).base } else { setjmp::stack_pointer(buffer.cast::<JmpBuf>()) }
    }
}

/// Runs the old-style handlers of frames below `limit`.
unsafe fn run_cleanups(limit: usize) {
    // SAFETY: the buffers lie in frames that still stand.
    unsafe {
        while let Some(buffer) = (*me()).cleanup.cast::<CleanupBuffer>().as_ref() {
            if &raw const *buffer as usize >= limit {
                break;
            }
            (*me()).cleanup = buffer.previous.cast();
            (buffer.routine)(buffer.argument);
        }
    }
}

/// Jumps to the innermost buffer, or ends the thread at its base.
unsafe fn jump_out() -> ! {
    // SAFETY: frames further out than everything that was unwound.
    unsafe {
        run_cleanups(target());
        let buffer: *mut UnwindBuffer = (*me()).unwind_buffer.cast();
        if buffer.is_null() {
            super::thread::leave((*me()).base, (*me()).result)
        }
        // `__pthread_unwind_next` goes on from there with the next one.
        setjmp::longjmp(buffer.cast::<JmpBuf>(), 1)
    }
}

/// libgcc_s's unwinder: found once.
fn libgcc() -> Option<(ForcedUnwind, GetCfa)> {
    static FORCED: AtomicUsize = AtomicUsize::new(0);
    static CFA: AtomicUsize = AtomicUsize::new(0);
    static TRIED: AtomicBool = AtomicBool::new(false);
    if !TRIED.load(Ordering::Acquire) {
        const RTLD_NOW: c_int = 2;
        if let Some(hooks) = crate::dl::hooks() {
            // SAFETY: well-known names.
            unsafe {
                if let Ok(handle) = (hooks.open)(c"libgcc_s.so.1".as_ptr(), RTLD_NOW, 0) {
                    let find = |name: &core::ffi::CStr| {
                        (hooks.sym)(handle, name.as_ptr(), core::ptr::null(), 0).map_or(0, |a| a as usize)
                    };
                    CFA.store(find(c"_Unwind_GetCFA"), Ordering::Relaxed);
                    FORCED.store(find(c"_Unwind_ForcedUnwind"), Ordering::Release);
                }
            }
        }
        TRIED.store(true, Ordering::Release);
    }
    let (forced, cfa) = (FORCED.load(Ordering::Acquire), CFA.load(Ordering::Acquire));
    // SAFETY: the addresses of those functions.
    (forced != 0 && cfa != 0).then(|| unsafe {
        (core::mem::transmute::<usize, ForcedUnwind>(forced), core::mem::transmute::<usize, GetCfa>(cfa))
    })
}

/// Installs signal 32's handler, once.
fn install_handler() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if !INSTALLED.swap(true, Ordering::AcqRel) {
        const SA_SIGINFO: usize = 4;
        crate::signal::install_raw(SIGCANCEL, on_signal as *const () as usize, SA_SIGINFO);
    }
}

abi! { EXPORTS "libc.so.6":
    /// pthread_cancel(3).
    "GLIBC_2.34" fn pthread_cancel(thread: *mut Tcb) -> c_int {
        // SAFETY: the program's thread id.
        unsafe {
            if (*thread).tid_word().load(Ordering::Acquire) == 0 {
                return 0;
            }
            install_handler();
            let before = (*thread).pthread.cancel.fetch_or(PENDING, Ordering::AcqRel);
            if before & (PENDING | EXITING) != 0 {
                return 0;
            }
            if thread == thread::current() {
                if before & (DISABLED | ASYNC) == ASYNC {
                    exit_with(CANCELED);
                }
                return 0;
            }
            if before & DISABLED == 0 {
                super::control::send(thread, SIGCANCEL);
            }
        }
        0
    }
    /// pthread_testcancel(3).
    "GLIBC_2.34" fn pthread_testcancel() {
        test();
    }
    /// pthread_setcancelstate(3).
    "GLIBC_2.2.5" fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int {
        set_bit(DISABLED, state, old)
    }
    /// pthread_setcanceltype(3).
    "GLIBC_2.2.5" fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int {
        set_bit(ASYNC, kind, old)
    }
    /// pthread_exit(3).
    "GLIBC_2.2.5" fn pthread_exit(result: *mut c_void) -> ! {
        exit_with(result)
    }
    /// The entry of pthread_cleanup_push's scope in C without -fexceptions.
    "GLIBC_2.34" fn __pthread_register_cancel(buffer: *mut c_void) {
        // SAFETY: the program's buffer, in a frame that stands until it is unregistered.
        unsafe {
            let buffer: *mut UnwindBuffer = buffer.cast();
            (*buffer).previous = (*me()).unwind_buffer.cast();
            (*buffer).cleanup = (*me()).cleanup.cast();
            (*me()).unwind_buffer = buffer.cast();
        }
    }
    /// Its end.
    "GLIBC_2.34" fn __pthread_unregister_cancel(buffer: *mut c_void) {
        // SAFETY: as above.
        unsafe { (*me()).unwind_buffer = (*buffer.cast::<UnwindBuffer>()).previous.cast() };
    }
    /// As `__pthread_register_cancel`, and makes cancellation deferred.
    "GLIBC_2.34" fn __pthread_register_cancel_defer(buffer: *mut c_void) {
        // SAFETY: as above.
        unsafe {
            __pthread_register_cancel(buffer);
            set_bit(ASYNC, 0, &raw mut (*buffer.cast::<UnwindBuffer>()).cancel_type);
        }
    }
    /// Its end, which restores the type.
    "GLIBC_2.34" fn __pthread_unregister_cancel_restore(buffer: *mut c_void) {
        // SAFETY: as above.
        unsafe {
            __pthread_unregister_cancel(buffer);
            set_bit(ASYNC, (*buffer.cast::<UnwindBuffer>()).cancel_type, null_mut());
        }
    }
    /// A handler has run: unwinding goes on with the next frame.
    "GLIBC_2.34" fn __pthread_unwind_next(buffer: *mut c_void) -> ! {
        // SAFETY: as above.
        unsafe { (*me()).unwind_buffer = (*buffer.cast::<UnwindBuffer>()).previous.cast() };
        unwind()
    }
    /// Calls the routine of a `struct __pthread_cleanup_frame` (C with -fexceptions, inline).
    "GLIBC_2.34" fn __pthread_cleanup_routine(frame: *mut c_void) {
        #[repr(C)]
        struct Frame {
            routine: unsafe extern "C" fn(*mut c_void),
            argument: *mut c_void,
            execute: c_int,
        }
        // SAFETY: the program's frame.
        unsafe {
            let frame: *mut Frame = frame.cast();
            if (*frame).execute != 0 {
                ((*frame).routine)((*frame).argument);
            }
        }
    }
    /// Old binaries' pthread_cleanup_push.
    "GLIBC_2.34" fn _pthread_cleanup_push(
        buffer: *mut c_void, routine: unsafe extern "C" fn(*mut c_void), argument: *mut c_void,
    ) {
        // SAFETY: the program's buffer, in a frame that stands until the pop.
        unsafe {
            buffer.cast::<CleanupBuffer>().write(CleanupBuffer {
                routine, argument, cancel_type: 0, previous: (*me()).cleanup.cast(),
            });
            (*me()).cleanup = buffer;
        }
    }
    /// Old binaries' pthread_cleanup_pop.
    "GLIBC_2.34" fn _pthread_cleanup_pop(buffer: *mut c_void, execute: c_int) {
        // SAFETY: as above.
        unsafe {
            let buffer: *mut CleanupBuffer = buffer.cast();
            (*me()).cleanup = (*buffer).previous.cast();
            if execute != 0 {
                ((*buffer).routine)((*buffer).argument);
            }
        }
    }
}

/// As `_pthread_cleanup_push`, and makes cancellation deferred.
pub unsafe extern "C" fn _pthread_cleanup_push_defer(
    buffer: *mut c_void,
    routine: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
) {
    // SAFETY: the program's buffer.
    unsafe {
        _pthread_cleanup_push(buffer, routine, argument);
        set_bit(ASYNC, 0, &raw mut (*buffer.cast::<CleanupBuffer>()).cancel_type);
    }
}

/// Its end, which restores the type.
pub unsafe extern "C" fn _pthread_cleanup_pop_restore(buffer: *mut c_void, execute: c_int) {
    // SAFETY: the program's buffer.
    unsafe {
        set_bit(ASYNC, (*buffer.cast::<CleanupBuffer>()).cancel_type, null_mut());
        _pthread_cleanup_pop(buffer, execute);
    }
}

exports! { ROWS "libc.so.6":
    compat "GLIBC_2.2.5" "_pthread_cleanup_push_defer" = _pthread_cleanup_push_defer;
    compat "GLIBC_2.2.5" "_pthread_cleanup_pop_restore" = _pthread_cleanup_pop_restore;
}

/// Sets or clears a bit of the calling thread's state; what was pending acts if it may now.
fn set_bit(bit: u32, value: c_int, old: *mut c_int) -> c_int {
    // SAFETY: the thread's own record, the program's out pointer.
    unsafe {
        let state = &(*me()).cancel;
        let before = match value {
            0 => state.fetch_and(!bit, Ordering::AcqRel),
            1 => state.fetch_or(bit, Ordering::AcqRel),
            _ => return Errno::EINVAL.0,
        };
        if !old.is_null() {
            old.write(c_int::from(before & bit != 0));
        }
        if is_pending() && state.load(Ordering::Acquire) & ASYNC != 0 {
            exit_with(CANCELED);
        }
    }
    0
}
