//! The C library's view of the calling thread: glibc's TCB and, behind it, our private record.
//!
//! `%fs:0` and `%fs:0x10` point at the TCB itself, `%fs:8` at the dtv, `%fs:0x28` holds the stack
//! canary, `%fs:0x30` the pointer guard (psABI variant II; glibc's `tcbhead_t`). Static TLS lies
//! before it. What follows the header is private to this crate.
//!
//! Everything here belongs to the thread itself, except the atomics: preemption changes `%fs` with
//! the thread, so code that reads and writes its own record needs no protection from other threads,
//! wherever it is interrupted.

use crate::malloc::cache::ThreadCache;
use crate::pthread::key::Specific;
use crate::types::{c_int, c_void};
use core::sync::atomic::AtomicU32;

/// glibc's `tcbhead_t` as far as programs may look, then ours. `pthread_t` is this address.
/// All-zero is a valid value (a thread with nothing).
#[repr(C, align(64))]
pub struct Tcb {
    /// `%fs:0`: its own address.
    pub tcb: *mut Tcb,
    /// `%fs:8`: the dynamic thread vector.
    pub dtv: *mut c_void,
    /// `%fs:0x10`: its own address.
    pub this: *mut Tcb,
    /// `%fs:0x18`: glibc's multiple_threads flag; unused here.
    pub multiple_threads: c_int,
    /// `%fs:0x1c`: gscope; unused here.
    pub gscope: c_int,
    /// `%fs:0x20`: sysinfo; unused here.
    pub sysinfo: usize,
    /// `%fs:0x28`: the canary of `-fstack-protector`.
    pub stack_guard: usize,
    /// `%fs:0x30`: mangles pointers in `jmp_buf`.
    pub pointer_guard: usize,
    /// Room up to 0x2c0, where glibc's own struct pthread begins its private part.
    pub reserved: [usize; 81],
    /// The thread's `errno`.
    pub errno: c_int,
    /// The thread's id (gettid(2)); zeroed by the personality when the thread has ended.
    pub tid: i32,
    /// The thread's locale (uselocale(3)); null for the global one.
    pub locale: *mut c_void,
    /// [`MAGIC`] in every record that this crate made.
    pub magic: u64,
    /// `h_errno` of the resolver.
    pub h_errno: c_int,
    /// The resolver's state of this thread (res_state); made on demand, freed by its owner's hook.
    pub resolver: *mut c_void,
    /// dlerror(3)'s state.
    pub dlerror: crate::dl::ErrorState,
    /// malloc's cache of free blocks.
    pub cache: ThreadCache,
    /// Values of pthread keys.
    pub specific: Specific,
    /// Destructors of C++ `thread_local`s, last registered first.
    pub thread_dtors: *mut c_void,
    /// What the thread library keeps.
    pub pthread: crate::pthread::Record,
    /// Small per-thread buffers of other modules (strerror, strsignal, ...): zero at first, handed to
    /// [`crate::malloc::imp::free`] at thread exit if not null. Slot numbers in [`slot`].
    pub slots: [*mut c_void; 8],
}

/// Who owns which of [`Tcb::slots`].
pub mod slot {
    /// strerror(3)'s text for unknown numbers.
    pub const STRERROR: usize = 0;
    /// strsignal(3)'s text for unknown numbers.
    pub const STRSIGNAL: usize = 1;
    /// The resolver's and NSS's buffers.
    pub const NETDB: usize = 2;
    /// Free for stdio.
    pub const STDIO: usize = 3;
}

/// Marks a record as ours.
pub const MAGIC: u64 = 0x6174_7461_6363_6121;

const _: () = assert!(core::mem::offset_of!(Tcb, errno) == 0x2c0);
const _: () = assert!(core::mem::offset_of!(Tcb, pointer_guard) == 0x30);

impl Tcb {
    /// The thread id as the futex that joins wait on.
    #[inline]
    pub fn tid_word(&self) -> &AtomicU32 {
        // SAFETY: the same size and alignment; the personality writes it as a u32 too.
        unsafe { AtomicU32::from_ptr((&raw const self.tid).cast_mut().cast()) }
    }
}

#[inline(always)]
fn fs_self() -> *mut Tcb {
    let tcb: *mut Tcb;
    // SAFETY: `%fs:0x10` holds the TCB's own address for every guest thread (and in glibc's too).
    unsafe {
        core::arch::asm!("mov {}, fs:[0x10]", out(reg) tcb, options(nostack, readonly, pure, preserves_flags))
    };
    tcb
}

/// The calling thread's TCB.
#[cfg(not(test))]
#[inline(always)]
pub fn current() -> *mut Tcb {
    fs_self()
}

/// The calling thread's TCB: on the host a stand-in for each test thread, and the real one on raw
/// threads that the tests of `pthread` make (told apart by [`MAGIC`]; glibc's own record is larger
/// than the offset read here).
#[cfg(test)]
pub fn current() -> *mut Tcb {
    std::thread_local! {
        static TCB: *mut Tcb = {
            // SAFETY: all-zero is a valid Tcb (null pointers and numbers).
            let tcb = std::boxed::Box::leak(std::boxed::Box::new(unsafe { core::mem::zeroed::<Tcb>() }));
            let address: *mut Tcb = tcb;
            tcb.tcb = address;
            tcb.this = address;
            // SAFETY: gettid takes nothing.
            tcb.tid = unsafe { platform::host!(gettid) }.unwrap() as i32;
            address
        };
    }
    let here = fs_self();
    // SAFETY: `here` is ours or glibc's struct pthread, which is 2304 bytes in 2.36.
    if unsafe { (&raw const (*here).magic).read() } == MAGIC { here } else { TCB.with(|tcb| *tcb) }
}

/// Where the calling thread's `errno` is.
#[inline]
pub fn errno_cell() -> *mut c_int {
    // SAFETY: the TCB lives as long as its thread, and this is that thread.
    unsafe { &raw mut (*current()).errno }
}

/// The calling thread's id.
#[inline]
pub fn tid() -> i32 {
    // SAFETY: as above.
    unsafe { (*current()).tid }
}
