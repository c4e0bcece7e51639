//! From the program's first instruction to its last: `__libc_start_main`, exit(3) and what runs then,
//! abort(3), the names of the program.
//!
//! Start-up is in two steps. [`init_process`] is called by the loader before any constructor: they
//! already use the environment, the auxiliary vector and the canary. `__libc_start_main` is called by
//! the program's own `_start`.

use crate::auxv;
use crate::data::DataCell;
use crate::env::ENVIRON;
use crate::futex::Lock;
use crate::kcall;
use crate::malloc::{self, imp};
use crate::thread::{self, Tcb};
use crate::types::{c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicU32, Ordering};

/// `__libc_stack_end`: where the first stack began.
pub static STACK_END: DataCell<*mut c_void> = DataCell::new(null_mut());
/// `__libc_single_threaded`: true until the first thread is made (trap 18).
pub static SINGLE_THREADED: DataCell<u8> = DataCell::new(1);
/// `program_invocation_name`.
pub static PROGRAM_NAME: DataCell<*const c_char> = DataCell::new(c"".as_ptr());
/// `program_invocation_short_name`.
pub static PROGRAM_SHORT_NAME: DataCell<*const c_char> = DataCell::new(c"".as_ptr());
/// `__libc_enable_secure`.
pub static ENABLE_SECURE: DataCell<c_int> = DataCell::new(0);

/// The stack that a program starts with, as the psABI lays it out: argc, argv, null, envp, null, auxv.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct InitialStack(pub *mut usize);

/// Makes the process known to this crate: environment, auxiliary vector, canary, names. FS already
/// holds the main thread's TCB ([`crate::tls::create_main`]).
///
/// # Safety
/// Once, on the main thread, before any program code; the stack is as described and stays.
pub unsafe fn init_process(stack: InitialStack) {
    crate::string_wide::decide();
    // SAFETY: the layout that the caller promised.
    unsafe {
        let argc = *stack.0;
        let argv: *mut *mut c_char = stack.0.add(1).cast();
        let envp = argv.add(argc + 1);
        let mut end = envp;
        while !(*end).is_null() {
            end = end.add(1);
        }
        auxv::set_vector(end.add(1).cast());
        ENVIRON.store(envp);
        STACK_END.store(stack.0.cast());
        ENABLE_SECURE.store(auxv::find(auxv::AT_SECURE).unwrap_or(0) as c_int);
        set_names(if argc > 0 { *argv } else { null() });
        crate::stdio::lock::set_single_threaded(true);
        let tcb = thread::current();
        seed(tcb);
        crate::pthread::thread::adopt_main(tcb);
    }
}

/// Canary, pointer guard and malloc's mark from AT_RANDOM's 16 bytes, as glibc takes them. The
/// canary's lowest byte is zero, so that no string can write it.
unsafe fn seed(tcb: *mut Tcb) {
    let random: *const usize = auxv::find(auxv::AT_RANDOM).unwrap_or(0) as *const usize;
    // SAFETY: AT_RANDOM points to 16 bytes; the TCB is the calling thread's.
    unsafe {
        if !random.is_null() {
            (*tcb).stack_guard = random.read_unaligned() & !0xff;
            (*tcb).pointer_guard = random.add(1).read_unaligned();
            malloc::cache::set_key((*tcb).stack_guard.rotate_left(29) ^ (*tcb).pointer_guard);
        }
    }
}

unsafe fn set_names(argv0: *const c_char) {
    if argv0.is_null() {
        return;
    }
    // SAFETY: a C string.
    unsafe {
        let bytes = core::ffi::CStr::from_ptr(argv0).to_bytes();
        let short = bytes.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        PROGRAM_NAME.store(argv0);
        PROGRAM_SHORT_NAME.store(argv0.add(short));
    }
}

type MainFn = unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;
type InitFn = unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char);
type Handler = unsafe extern "C" fn(*mut c_void);

abi! { EXPORTS "libc.so.6":
    /// Runs the program. A program linked before 2.34 passes its `__libc_csu_init`, which runs its
    /// constructors; a newer one passes null, and its constructors are run here: never both.
    "GLIBC_2.34" fn __libc_start_main(
        main: MainFn, argc: c_int, argv: *mut *mut c_char, init: Option<InitFn>, fini: Option<Handler>,
        rtld_fini: Option<Handler>, stack_end: *mut c_void,
    ) -> c_int {
        // SAFETY: the program's start code passes its own functions and the first stack's contents.
        unsafe {
            STACK_END.store(stack_end);
            let envp = ENVIRON.load();
            if let Some(fini) = rtld_fini {
                register(fini, null_mut(), null_mut(), Kind::Cxa);
            }
            if let Some(fini) = fini {
                register(fini, null_mut(), null_mut(), Kind::Cxa);
            }
            match init {
                Some(init) => init(argc, argv, envp),
                None => if let Some(hooks) = crate::dl::hooks() { (hooks.init_main)(argc, argv, envp) },
            }
            let status = crate::pthread::thread::run_main(main, argc, argv, ENVIRON.load());
            exit(status)
        }
    }
    /// exit(3): thread-local destructors, handlers in reverse order, streams, the end.
    "GLIBC_2.2.5" fn exit(status: c_int) -> ! {
        run_thread_dtors();
        run_handlers(status);
        crate::stdio::flush_all();
        // SAFETY: ends the process.
        unsafe { _exit(status) }
    }
    /// _exit(2).
    "GLIBC_2.2.5" fn _exit(status: c_int) -> ! {
        loop {
            // SAFETY: ends the process.
            let _ = unsafe { kcall!(exit_group, status) };
        }
    }
    /// quick_exit(3).
    "GLIBC_2.24" fn quick_exit(status: c_int) -> ! {
        while let Some(handler) = QUICK.lock().pop() {
            // SAFETY: registered for this.
            unsafe { handler.call(status) };
        }
        // SAFETY: ends the process.
        unsafe { _exit(status) }
    }
    /// Registers a destructor (Itanium C++ ABI 3.3.5).
    "GLIBC_2.2.5" fn __cxa_atexit(handler: Handler, argument: *mut c_void, dso: *mut c_void) -> c_int {
        register(handler, argument, dso, Kind::Cxa)
    }
    /// at_quick_exit(3), as its static part calls it.
    "GLIBC_2.10" fn __cxa_at_quick_exit(handler: Handler, dso: *mut c_void) -> c_int {
        QUICK.lock().push(Entry { function: handler as *const (), argument: null_mut(), dso, kind: Kind::Cxa })
    }
    /// on_exit(3).
    "GLIBC_2.2.5" fn on_exit(handler: Handler, argument: *mut c_void) -> c_int {
        register(handler, argument, null_mut(), Kind::OnExit)
    }
    /// Runs the destructors of an object that goes (null: all of them), newest first.
    "GLIBC_2.2.5" fn __cxa_finalize(dso: *mut c_void) {
        loop {
            // Handlers may register or finalize more: look again each time.
            let Some(entry) = HANDLERS.lock().take_last(|e| dso.is_null() || e.dso == dso) else { break };
            // SAFETY: registered for this.
            unsafe { entry.call(0) };
        }
        QUICK.lock().forget(dso);
        crate::pthread::atfork::forget(dso);
    }
    /// Registers a destructor of a C++ `thread_local` (newest first at thread exit).
    "GLIBC_2.18" fn __cxa_thread_atexit_impl(
        function: Handler, object: *mut c_void, dso: *mut c_void,
    ) -> c_int {
        let node: *mut ThreadDtor = imp::malloc(size_of::<ThreadDtor>()).cast();
        if node.is_null() {
            fatal("fatal error: failed to register a thread-local destructor\n");
        }
        // SAFETY: fresh memory; the list is the thread's own.
        unsafe {
            let tcb = thread::current();
            node.write(ThreadDtor { function, object, dso, next: (*tcb).thread_dtors.cast() });
            (*tcb).thread_dtors = node.cast();
        }
        0
    }
    /// abort(3): SIGABRT, and if that is caught or ignored, again with its default action.
    "GLIBC_2.2.5" fn abort() -> ! {
        const SIG_UNBLOCK: usize = 1;
        const SIGABRT: usize = 6;
        // SAFETY: only ends the process.
        unsafe {
            let only: u64 = 1 << (SIGABRT - 1);
            let _ = kcall!(rt_sigprocmask, SIG_UNBLOCK, &raw const only, 0, 8);
            raise_here(SIGABRT);
            if ABORTING.fetch_add(1, Ordering::Relaxed) == 0 {
                let default = [0usize; 4];
                let _ = kcall!(rt_sigaction, SIGABRT, &raw const default, 0, 8);
                raise_here(SIGABRT);
            }
            _exit(127)
        }
    }
}

exports! { ROWS "libc.so.6":
    compat "GLIBC_2.2.5" "__libc_start_main" = __libc_start_main;
    alias "GLIBC_2.2.5" "_Exit" = _exit;
    compat "GLIBC_2.10" "quick_exit" = quick_exit;
    cell "GLIBC_2.32" "__libc_single_threaded" 1 = SINGLE_THREADED;
    cell "GLIBC_2.2.5" "program_invocation_name" 8 = PROGRAM_NAME;
    cell "GLIBC_2.2.5" "__progname_full" 8 = PROGRAM_NAME;
    cell "GLIBC_2.2.5" "program_invocation_short_name" 8 = PROGRAM_SHORT_NAME;
    cell "GLIBC_2.2.5" "__progname" 8 = PROGRAM_SHORT_NAME;
}

exports! { LD "ld-linux-x86-64.so.2":
    cell "GLIBC_2.2.5" "__libc_stack_end" 8 = STACK_END;
}

exports! { PRIVATE "ld-linux-x86-64.so.2":
    cell "GLIBC_PRIVATE" "__libc_enable_secure" 4 = ENABLE_SECURE;
}

static ABORTING: AtomicU32 = AtomicU32::new(0);

/// Sends the calling thread a signal (raise(3)), without anything that could be interposed.
unsafe fn raise_here(signal: usize) {
    // SAFETY: forwarded.
    unsafe {
        let pid = kcall!(getpid).unwrap_or(0);
        let tid = kcall!(gettid).unwrap_or(0);
        let _ = kcall!(tgkill, pid, tid, signal);
    }
}

/// Says why, then aborts.
pub fn fatal(text: &str) -> ! {
    // SAFETY: writes our own text, then ends the process.
    unsafe {
        let _ = kcall!(write, 2, text.as_ptr(), text.len());
        abort()
    }
}

// ---- handlers ----------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `void f(void *argument, int status)`; C++ destructors ignore the status.
    Cxa,
    /// `void f(int status, void *argument)`.
    OnExit,
}

#[derive(Clone, Copy)]
struct Entry {
    function: *const (),
    argument: *mut c_void,
    dso: *mut c_void,
    kind: Kind,
}

impl Entry {
    unsafe fn call(self, status: c_int) {
        // SAFETY: registered with this type.
        unsafe {
            match self.kind {
                Kind::Cxa => transmute::<*const (), unsafe extern "C" fn(*mut c_void, c_int)>(self.function)(
                    self.argument,
                    status,
                ),
                Kind::OnExit => transmute::<*const (), unsafe extern "C" fn(c_int, *mut c_void)>(
                    self.function,
                )(status, self.argument),
            }
        }
    }
}

/// A growing list in our own heap.
struct List {
    entries: *mut Entry,
    len: usize,
    capacity: usize,
}
// SAFETY: reached under its lock.
unsafe impl Send for List {}

static HANDLERS: Lock<List> = Lock::new(List { entries: null_mut(), len: 0, capacity: 0 });
static QUICK: Lock<List> = Lock::new(List { entries: null_mut(), len: 0, capacity: 0 });

impl List {
    fn push(&mut self, entry: Entry) -> c_int {
        if self.len == self.capacity {
            let capacity = (self.capacity * 2).max(32);
            // SAFETY: our own list.
            let grown = unsafe { imp::realloc(self.entries.cast(), capacity * size_of::<Entry>()) };
            if grown.is_null() {
                return -1;
            }
            (self.entries, self.capacity) = (grown.cast(), capacity);
        }
        // SAFETY: below the capacity.
        unsafe { self.entries.add(self.len).write(entry) };
        self.len += 1;
        0
    }

    fn pop(&mut self) -> Option<Entry> {
        self.take_last(|_| true)
    }

    fn take_last(&mut self, wanted: impl Fn(&Entry) -> bool) -> Option<Entry> {
        // SAFETY: the first `len` entries are written.
        unsafe {
            let at = (0..self.len).rev().find(|&at| wanted(&*self.entries.add(at)))?;
            let entry = self.entries.add(at).read();
            core::ptr::copy(self.entries.add(at + 1), self.entries.add(at), self.len - at - 1);
            self.len -= 1;
            Some(entry)
        }
    }

    fn forget(&mut self, dso: *mut c_void) {
        while !dso.is_null() && self.take_last(|e| e.dso == dso).is_some() {}
    }
}

fn register(handler: Handler, argument: *mut c_void, dso: *mut c_void, kind: Kind) -> c_int {
    HANDLERS.lock().push(Entry { function: handler as *const (), argument, dso, kind })
}

/// Each handler leaves the list before it runs: one that calls exit again goes on with the next.
fn run_handlers(status: c_int) {
    loop {
        let Some(entry) = HANDLERS.lock().pop() else { break };
        // SAFETY: registered for this.
        unsafe { entry.call(status) };
    }
}

#[repr(C)]
struct ThreadDtor {
    function: Handler,
    object: *mut c_void,
    #[allow(dead_code)]
    dso: *mut c_void,
    next: *mut ThreadDtor,
}

/// Runs the calling thread's C++ destructors.
pub(crate) fn run_thread_dtors() {
    // SAFETY: the thread's own list; each node leaves it before it runs.
    unsafe {
        let tcb: *mut Tcb = thread::current();
        while let Some(node) = (*tcb).thread_dtors.cast::<ThreadDtor>().as_mut() {
            (*tcb).thread_dtors = node.next.cast();
            (node.function)(node.object);
            imp::free((&raw mut *node).cast());
        }
    }
}

/// The locks, for fork(2).
pub(crate) fn fork_locks() -> [&'static crate::futex::RawLock; 2] {
    [HANDLERS.raw(), QUICK.raw()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::vec::Vec;

    static SEEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    unsafe extern "C" fn note(argument: *mut c_void) {
        SEEN.lock().unwrap().push(argument as usize);
        if argument as usize == 2 {
            // SAFETY: registers our own function.
            unsafe { __cxa_atexit(note, 7 as *mut c_void, 100 as *mut c_void) };
        }
    }

    #[test]
    fn finalizes_in_reverse_and_by_object() {
        // SAFETY: our own functions.
        unsafe {
            for (argument, dso) in [(1, 100), (2, 100), (3, 200), (4, 100)] {
                __cxa_atexit(note, argument as *mut c_void, dso as *mut c_void);
            }
            __cxa_finalize(100 as *mut c_void);
            assert_eq!(*SEEN.lock().unwrap(), [4, 2, 7, 1]);
            __cxa_finalize(200 as *mut c_void);
            assert_eq!(*SEEN.lock().unwrap(), [4, 2, 7, 1, 3]);
        }
    }

    #[test]
    fn thread_destructors_run_newest_first() {
        static SUM: AtomicU32 = AtomicU32::new(0);
        unsafe extern "C" fn add(object: *mut c_void) {
            SUM.store(SUM.load(Ordering::Relaxed) * 10 + object as u32, Ordering::Relaxed);
        }
        for at in 1..4 {
            // SAFETY: our own function.
            unsafe { __cxa_thread_atexit_impl(add, at as *mut c_void, null_mut()) };
        }
        run_thread_dtors();
        assert_eq!(SUM.load(Ordering::Relaxed), 321);
    }
}
