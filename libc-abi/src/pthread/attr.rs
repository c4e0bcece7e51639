//! pthread_attr_t, glibc's layout (56 bytes), and pthread_getattr_np(3).

use super::thread;
use crate::kcall;
use crate::malloc::imp;
use crate::thread::Tcb;
use crate::types::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::Errno;

/// `pthread_attr_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attr {
    priority: c_int,
    policy: c_int,
    flags: u32,
    guard: usize,
    /// End (exclusive) of a stack that the program brings.
    stack_end: usize,
    stack_size: usize,
    extension: *mut Extension,
    reserved: usize,
}

/// What glibc added later: in our own heap, made on demand.
struct Extension {
    cpus: *mut c_void,
    cpus_len: usize,
    mask: u64,
    has_mask: bool,
}

const _: () = assert!(size_of::<Attr>() == 56 && core::mem::offset_of!(Attr, guard) == 16);

const DETACHED: u32 = 1;
const NOT_INHERIT_SCHED: u32 = 2;
const SCOPE_PROCESS: u32 = 4;
const OWN_STACK: u32 = 8;
const SCHED_SET: u32 = 0x20;
const POLICY_SET: u32 = 0x40;

const PAGE: usize = 4096;
/// PTHREAD_STACK_MIN.
pub(crate) const STACK_MIN: usize = 16384;

/// Default stack size: pthread_setattr_default_np(3); 0: not asked for yet.
static DEFAULT_SIZE: AtomicUsize = AtomicUsize::new(0);
static DEFAULT_GUARD: AtomicUsize = AtomicUsize::new(PAGE);

/// RLIMIT_STACK's soft limit as it was at the first thread, or 2 MiB if it is infinite.
fn default_size() -> usize {
    let known = DEFAULT_SIZE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    const RLIMIT_STACK: usize = 3;
    let mut limit = [u64::MAX; 2];
    // SAFETY: our own struct rlimit64.
    let _ = unsafe { kcall!(prlimit64, 0, RLIMIT_STACK, 0, limit.as_mut_ptr()) };
    let size = if limit[0] > isize::MAX as u64 { 2 << 20 } else { (limit[0] as usize).max(STACK_MIN) };
    let size = size.next_multiple_of(PAGE);
    DEFAULT_SIZE.store(size, Ordering::Relaxed);
    size
}

/// What attributes ask of a new thread.
pub(crate) struct Wish {
    pub(crate) stack_size: usize,
    pub(crate) guard: usize,
    /// Lowest address and size.
    pub(crate) foreign_stack: Option<(usize, usize)>,
    pub(crate) detached: bool,
    pub(crate) mask: Option<u64>,
    sched: Option<(c_int, c_int)>,
    cpus: Option<(*const c_void, usize)>,
}

impl Wish {
    /// Reads attributes; null means the defaults.
    pub(crate) unsafe fn read(attr: *const Attr) -> Wish {
        let mut wish = Wish {
            stack_size: default_size(),
            guard: DEFAULT_GUARD.load(Ordering::Relaxed),
            foreign_stack: None,
            detached: false,
            mask: None,
            sched: None,
            cpus: None,
        };
        // SAFETY: null or the program's attributes.
        let Some(attr) = (unsafe { attr.as_ref() }) else { return wish };
        if attr.stack_size != 0 {
            wish.stack_size = attr.stack_size;
        }
        wish.guard = attr.guard;
        wish.detached = attr.flags & DETACHED != 0;
        if attr.flags & OWN_STACK != 0 {
            let size = if attr.stack_size == 0 { default_size() } else { attr.stack_size };
            wish.foreign_stack = Some((attr.stack_end.wrapping_sub(size), size));
        }
        if attr.flags & NOT_INHERIT_SCHED != 0 && attr.flags & (SCHED_SET | POLICY_SET) != 0 {
            wish.sched = Some((attr.policy, attr.priority));
        }
        // SAFETY: null or our own extension.
        if let Some(more) = unsafe { attr.extension.as_ref() } {
            wish.mask = more.has_mask.then_some(more.mask);
            wish.cpus = (!more.cpus.is_null()).then_some((more.cpus.cast_const(), more.cpus_len));
        }
        wish
    }

    /// Whether the creator has to do something to the thread before it may run.
    pub(crate) fn needs_setup(&self) -> bool {
        self.sched.is_some() || self.cpus.is_some()
    }

    /// Does it.
    pub(crate) unsafe fn set_up(&self, tcb: *mut Tcb, tid: i32) -> Result<(), Errno> {
        // SAFETY: the new thread waits; the attributes' arrays are our own.
        unsafe {
            if let Some((cpus, len)) = self.cpus {
                kcall!(sched_setaffinity, tid, len, cpus)?;
            }
            if let Some((policy, priority)) = self.sched {
                kcall!(sched_setscheduler, tid, policy, &raw const priority)?;
                (*tcb).pthread.policy = policy;
                (*tcb).pthread.priority = priority;
            }
        }
        Ok(())
    }
}

unsafe fn extension(attr: *mut Attr) -> *mut Extension {
    // SAFETY: the program's attributes; fresh memory is initialised.
    unsafe {
        if (*attr).extension.is_null() {
            (*attr).extension = imp::calloc(1, size_of::<Extension>()).cast();
        }
        (*attr).extension
    }
}

unsafe fn set_flag(attr: *mut Attr, flag: u32, value: c_int) -> c_int {
    // SAFETY: the program's attributes.
    unsafe {
        match value {
            0 => (*attr).flags &= !flag,
            1 => (*attr).flags |= flag,
            _ => return Errno::EINVAL.0,
        }
    }
    0
}

abi! { EXPORTS "libc.so.6":
    /// pthread_attr_init(3).
    "GLIBC_2.2.5" fn pthread_attr_init(attr: *mut Attr) -> c_int {
        // SAFETY: the program's memory.
        unsafe {
            attr.write(Attr {
                priority: 0, policy: 0, flags: 0, guard: DEFAULT_GUARD.load(Ordering::Relaxed), stack_end: 0,
                stack_size: 0, extension: null_mut(), reserved: 0,
            });
        }
        0
    }
    /// pthread_attr_destroy(3).
    "GLIBC_2.2.5" fn pthread_attr_destroy(attr: *mut Attr) -> c_int {
        // SAFETY: the program's attributes.
        unsafe {
            if let Some(more) = (*attr).extension.as_ref() {
                imp::free(more.cpus);
                imp::free((*attr).extension.cast());
                (*attr).extension = null_mut();
            }
        }
        0
    }
    /// pthread_attr_setdetachstate(3).
    "GLIBC_2.2.5" fn pthread_attr_setdetachstate(attr: *mut Attr, state: c_int) -> c_int {
        // SAFETY: the program's attributes; so below.
        unsafe { set_flag(attr, DETACHED, state) }
    }
    /// pthread_attr_getdetachstate(3).
    "GLIBC_2.2.5" fn pthread_attr_getdetachstate(attr: *const Attr, state: *mut c_int) -> c_int {
        // SAFETY: as above.
        unsafe { state.write(c_int::from((*attr).flags & DETACHED != 0)) };
        0
    }
    /// pthread_attr_setstacksize(3).
    "GLIBC_2.34" fn pthread_attr_setstacksize(attr: *mut Attr, size: usize) -> c_int {
        if size < STACK_MIN {
            return Errno::EINVAL.0;
        }
        // SAFETY: as above.
        unsafe { (*attr).stack_size = size };
        0
    }
    /// pthread_attr_getstacksize(3).
    "GLIBC_2.34" fn pthread_attr_getstacksize(attr: *const Attr, size: *mut usize) -> c_int {
        // SAFETY: as above.
        unsafe { size.write(if (*attr).stack_size == 0 { default_size() } else { (*attr).stack_size }) };
        0
    }
    /// pthread_attr_setguardsize(3).
    "GLIBC_2.34" fn pthread_attr_setguardsize(attr: *mut Attr, size: usize) -> c_int {
        // SAFETY: as above.
        unsafe { (*attr).guard = size };
        0
    }
    /// pthread_attr_getguardsize(3).
    "GLIBC_2.34" fn pthread_attr_getguardsize(attr: *const Attr, size: *mut usize) -> c_int {
        // SAFETY: as above.
        unsafe { size.write((*attr).guard) };
        0
    }
    /// pthread_attr_setstack(3).
    "GLIBC_2.34" fn pthread_attr_setstack(attr: *mut Attr, low: *mut c_void, size: usize) -> c_int {
        if size < STACK_MIN {
            return Errno::EINVAL.0;
        }
        // SAFETY: as above.
        unsafe {
            (*attr).stack_end = low as usize + size;
            (*attr).stack_size = size;
            (*attr).flags |= OWN_STACK;
        }
        0
    }
    /// pthread_attr_getstack(3).
    "GLIBC_2.34" fn pthread_attr_getstack(attr: *const Attr, low: *mut *mut c_void, size: *mut usize) -> c_int {
        // SAFETY: as above.
        unsafe {
            low.write((*attr).stack_end.wrapping_sub((*attr).stack_size) as *mut c_void);
            size.write((*attr).stack_size);
        }
        0
    }
    /// pthread_attr_setstackaddr(3): the *end* of the stack, as glibc has it on x86.
    "GLIBC_2.34" fn pthread_attr_setstackaddr(attr: *mut Attr, end: *mut c_void) -> c_int {
        // SAFETY: as above.
        unsafe {
            (*attr).stack_end = end as usize;
            (*attr).flags |= OWN_STACK;
        }
        0
    }
    /// pthread_attr_getstackaddr(3).
    "GLIBC_2.34" fn pthread_attr_getstackaddr(attr: *const Attr, end: *mut *mut c_void) -> c_int {
        // SAFETY: as above.
        unsafe { end.write((*attr).stack_end as *mut c_void) };
        0
    }
    /// pthread_attr_setinheritsched(3).
    "GLIBC_2.2.5" fn pthread_attr_setinheritsched(attr: *mut Attr, inherit: c_int) -> c_int {
        // SAFETY: as above.
        unsafe { set_flag(attr, NOT_INHERIT_SCHED, inherit) }
    }
    /// pthread_attr_getinheritsched(3).
    "GLIBC_2.2.5" fn pthread_attr_getinheritsched(attr: *const Attr, inherit: *mut c_int) -> c_int {
        // SAFETY: as above.
        unsafe { inherit.write(c_int::from((*attr).flags & NOT_INHERIT_SCHED != 0)) };
        0
    }
    /// pthread_attr_setschedpolicy(3).
    "GLIBC_2.2.5" fn pthread_attr_setschedpolicy(attr: *mut Attr, policy: c_int) -> c_int {
        if !(0..=2).contains(&policy) {
            return Errno::EINVAL.0;
        }
        // SAFETY: as above.
        unsafe {
            (*attr).policy = policy;
            (*attr).flags |= POLICY_SET;
        }
        0
    }
    /// pthread_attr_getschedpolicy(3).
    "GLIBC_2.2.5" fn pthread_attr_getschedpolicy(attr: *const Attr, policy: *mut c_int) -> c_int {
        // SAFETY: as above.
        unsafe { policy.write((*attr).policy) };
        0
    }
    /// pthread_attr_setschedparam(3).
    "GLIBC_2.2.5" fn pthread_attr_setschedparam(attr: *mut Attr, param: *const c_int) -> c_int {
        // SAFETY: as above.
        unsafe {
            let (least, most) = super::control::priority_range((*attr).policy);
            if !(least..=most).contains(&*param) {
                return Errno::EINVAL.0;
            }
            (*attr).priority = *param;
            (*attr).flags |= SCHED_SET;
        }
        0
    }
    /// pthread_attr_getschedparam(3).
    "GLIBC_2.2.5" fn pthread_attr_getschedparam(attr: *const Attr, param: *mut c_int) -> c_int {
        // SAFETY: as above.
        unsafe { param.write((*attr).priority) };
        0
    }
    /// pthread_attr_setscope(3): only the system scope exists on Linux.
    "GLIBC_2.2.5" fn pthread_attr_setscope(attr: *mut Attr, scope: c_int) -> c_int {
        match scope {
            // SAFETY: as above.
            0 => unsafe { set_flag(attr, SCOPE_PROCESS, 0) },
            1 => Errno::ENOTSUP.0,
            _ => Errno::EINVAL.0,
        }
    }
    /// pthread_attr_getscope(3).
    "GLIBC_2.2.5" fn pthread_attr_getscope(attr: *const Attr, scope: *mut c_int) -> c_int {
        // SAFETY: as above.
        unsafe { scope.write(c_int::from((*attr).flags & SCOPE_PROCESS != 0)) };
        0
    }
    /// pthread_attr_setaffinity_np(3).
    "GLIBC_2.32" fn pthread_attr_setaffinity_np(attr: *mut Attr, len: usize, cpus: *const c_void) -> c_int {
        // SAFETY: as above; the set has `len` bytes.
        unsafe {
            let more = extension(attr);
            if more.is_null() {
                return Errno::ENOMEM.0;
            }
            let copy = if cpus.is_null() || len == 0 { null_mut() } else { imp::malloc(len) };
            if !copy.is_null() {
                core::ptr::copy_nonoverlapping(cpus.cast::<u8>(), copy.cast(), len);
            } else if !cpus.is_null() && len != 0 {
                return Errno::ENOMEM.0;
            }
            imp::free((*more).cpus);
            ((*more).cpus, (*more).cpus_len) = (copy, len);
        }
        0
    }
    /// pthread_attr_getaffinity_np(3): all ones if nothing was set.
    "GLIBC_2.34" fn pthread_attr_getaffinity_np(attr: *const Attr, len: usize, cpus: *mut c_void) -> c_int {
        // SAFETY: as above.
        unsafe {
            let (have, have_len) = (*attr).extension.as_ref().map_or((null_mut(), 0), |m| (m.cpus, m.cpus_len));
            let out: *mut u8 = cpus.cast();
            if have.is_null() {
                out.write_bytes(0xff, len);
                return 0;
            }
            if (len..have_len).any(|at| have.cast::<u8>().add(at).read() != 0) {
                return Errno::EINVAL.0;
            }
            out.write_bytes(0, len);
            core::ptr::copy_nonoverlapping(have.cast(), out, len.min(have_len));
        }
        0
    }
    /// pthread_attr_setsigmask_np(3).
    "GLIBC_2.32" fn pthread_attr_setsigmask_np(attr: *mut Attr, mask: *const u64) -> c_int {
        // SAFETY: as above; a sigset_t's first word.
        unsafe {
            if mask.is_null() {
                if let Some(more) = (*attr).extension.as_mut() {
                    more.has_mask = false;
                }
                return 0;
            }
            let more = extension(attr);
            if more.is_null() {
                return Errno::ENOMEM.0;
            }
            (*more).mask = *mask & !crate::signal::INTERNAL;
            (*more).has_mask = true;
        }
        0
    }
    /// pthread_attr_getsigmask_np(3): PTHREAD_ATTR_NO_SIGMASK_NP (-1) if there is none.
    "GLIBC_2.32" fn pthread_attr_getsigmask_np(attr: *const Attr, mask: *mut [u64; 16]) -> c_int {
        // SAFETY: as above.
        unsafe {
            let set = (*attr).extension.as_ref().filter(|m| m.has_mask);
            mask.write([0; 16]);
            (*mask)[0] = set.map_or(0, |m| m.mask);
            if set.is_some() { 0 } else { -1 }
        }
    }
    /// pthread_getattr_np(3).
    "GLIBC_2.32" fn pthread_getattr_np(thread: *mut Tcb, attr: *mut Attr) -> c_int {
        // SAFETY: the program's thread id and memory.
        unsafe {
            pthread_attr_init(attr);
            let record = &(*thread).pthread;
            (*attr).policy = record.policy;
            (*attr).priority = record.priority;
            if record.detach.load(Ordering::Relaxed) == thread::DETACHED {
                (*attr).flags |= DETACHED;
            }
            let bounds = if record.is_main { main_bounds() } else {
                let stack = thread::bounds(thread);
                Ok((stack.low, stack.size, stack.guard))
            };
            match bounds {
                Ok((low, size, guard)) => {
                    (*attr).flags |= OWN_STACK;
                    (*attr).stack_end = low + size;
                    (*attr).stack_size = size;
                    (*attr).guard = guard;
                    0
                }
                Err(errno) => errno.0,
            }
        }
    }
    /// pthread_getattr_default_np(3).
    "GLIBC_2.34" fn pthread_getattr_default_np(attr: *mut Attr) -> c_int {
        // SAFETY: the program's memory.
        unsafe {
            pthread_attr_init(attr);
            (*attr).stack_size = default_size();
        }
        0
    }
    /// pthread_setattr_default_np(3): stack and guard size; scheduling defaults are not supported.
    "GLIBC_2.34" fn pthread_setattr_default_np(attr: *const Attr) -> c_int {
        // SAFETY: the program's attributes.
        unsafe {
            if (*attr).flags & (OWN_STACK | NOT_INHERIT_SCHED) != 0
                || (*attr).stack_size != 0 && (*attr).stack_size < STACK_MIN
            {
                return Errno::EINVAL.0;
            }
            if (*attr).stack_size != 0 {
                DEFAULT_SIZE.store((*attr).stack_size, Ordering::Relaxed);
            }
            DEFAULT_GUARD.store((*attr).guard, Ordering::Relaxed);
        }
        0
    }
}

/// The main thread's stack: it ends at the page behind the first stack's contents, and may grow down
/// to RLIMIT_STACK, or to where the mapping below it ends (/proc/self/maps).
fn main_bounds() -> Result<(usize, usize, usize), Errno> {
    const RLIMIT_STACK: usize = 3;
    // SAFETY: reads a constant.
    let inside = unsafe { crate::start::STACK_END.load() } as usize;
    let mut limit = [0u64; 2];
    // SAFETY: our own struct rlimit64.
    unsafe { kcall!(prlimit64, 0, RLIMIT_STACK, 0, limit.as_mut_ptr())? };
    let (below, end) = find_mapping(inside)?;
    let size = if limit[0] > isize::MAX as u64 { end - below } else { limit[0] as usize & !(PAGE - 1) };
    Ok((end - size.min(end - below), size.min(end - below), 0))
}

/// End of the mapping in front of the one that holds `address`, and that one's end.
fn find_mapping(address: usize) -> Result<(usize, usize), Errno> {
    const AT_FDCWD: isize = -100;
    const O_CLOEXEC: usize = 0o2000000;
    let mut buffer = [0u8; 1024];
    let (mut from, mut digits, mut seen) = (0usize, 0usize, 0usize);
    // A line is "from-to perms ...": the two numbers are read, the rest is skipped.
    let mut field = 0;
    // SAFETY: our own path and buffer.
    unsafe {
        let fd = kcall!(openat, AT_FDCWD, c"/proc/self/maps".as_ptr(), O_CLOEXEC, 0)?;
        let mut result = Err(Errno::ENOENT);
        'read: loop {
            let got = match kcall!(read, fd, buffer.as_mut_ptr(), buffer.len()) {
                Ok(0) | Err(_) => break,
                Ok(got) => got,
            };
            for &byte in &buffer[..got] {
                match byte {
                    b'\n' => (field, digits) = (0, 0),
                    b'-' if field == 0 => (from, digits, field) = (digits, 0, 1),
                    b' ' if field == 1 => {
                        if (from..digits).contains(&address) {
                            result = Ok((seen, digits));
                            break 'read;
                        }
                        seen = digits;
                        field = 2;
                    }
                    _ if field < 2 => {
                        digits = digits << 4 | (byte as char).to_digit(16).unwrap_or(0) as usize;
                    }
                    _ => {}
                }
            }
        }
        let _ = kcall!(close, fd);
        result
    }
}
