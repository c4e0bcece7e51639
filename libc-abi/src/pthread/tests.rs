//! Threads of the host's kernel, made by a raw clone(2) with our own TCBs. On such a thread no host
//! libc or std code that uses thread-local storage may run: no allocation, no println, no panics that
//! are meant to be seen (a failed check is counted and asserted by the test's own thread).

use super::attr::{self, Attr};
use super::*;
use crate::futex::Deadline;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use platform::Errno;
use platform::time::Timespec;
use std::vec::Vec;
use syscalls::thread::Start;

const CLONE_FLAGS: usize = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000 // VM FS FILES SIGHAND THREAD SYSVSEM
    | 0x8_0000 | 0x10_0000 | 0x20_0000; // SETTLS PARENT_SETTID CHILD_CLEARTID

/// `syscalls::thread::spawn`'s contract on the host's kernel.
pub(super) fn spawn(start: &Start) -> platform::errno::Result<u32> {
    // SAFETY: the stack and TCB are the new thread's own.
    let raw = unsafe {
        raw_clone(CLONE_FLAGS, start.stack_top, start.clear_tid, start.fs_base, start.entry, start.argument)
    };
    Errno::from_raw(raw).map(|tid| tid as u32)
}

#[unsafe(naked)]
unsafe extern "C" fn raw_clone(
    _flags: usize,
    _stack: usize,
    _tid: *mut u32,
    _tls: usize,
    _entry: unsafe extern "C" fn(*mut c_void),
    _argument: *mut c_void,
) -> isize {
    core::arch::naked_asm!(
        // Entry and argument ride on the new stack.
        "sub rsi, 16",
        "mov [rsi], r8",
        "mov [rsi + 8], r9",
        "mov r8, rcx",  // tls
        "mov r10, rdx", // child tid
        "mov eax, 56",
        "syscall",
        "test rax, rax",
        "jne 2f",
        "xor ebp, ebp",
        "pop rax",
        "pop rdi",
        "call rax",
        "ud2",
        "2: ret",
    )
}

type Routine = unsafe extern "C" fn(*mut c_void) -> *mut c_void;

/// Gives threads a static TLS layout and the main test thread's random words once.
fn prepare() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        crate::tls::register_static(crate::tls::StaticTls { size: 4096, align: 64 });
    });
}

fn start(routine: Routine, argument: *mut c_void, attr: Option<&Attr>) -> *mut Tcb {
    prepare();
    let mut id = core::ptr::null_mut();
    let attr = attr.map_or(core::ptr::null(), |a| &raw const *a);
    // SAFETY: test routines follow the rules at the head of this file.
    assert_eq!(unsafe { thread::pthread_create(&raw mut id, attr, routine, argument) }, 0);
    id
}

fn finish(id: *mut Tcb) -> usize {
    let mut result = core::ptr::null_mut();
    // SAFETY: a joinable thread of ours.
    assert_eq!(unsafe { thread::pthread_join(id, &raw mut result) }, 0);
    result as usize
}

/// Runs `count` threads on `routine(shared)` to their end; the sum of their results.
fn run(count: usize, routine: Routine, shared: *mut c_void) -> usize {
    let ids: Vec<_> = (0..count).map(|_| start(routine, shared, None)).collect();
    ids.into_iter().map(finish).sum()
}

fn soon(clock: usize, ms: i64) -> Timespec {
    let mut now = Timespec::default();
    // SAFETY: our own timespec.
    unsafe { crate::kcall!(clock_gettime, clock, &raw mut now).unwrap() };
    let ns = now.nsec + ms * 1_000_000;
    Timespec { sec: now.sec + ns / 1_000_000_000, nsec: ns % 1_000_000_000 }
}

// ---- threads -----------------------------------------------------------------------------------

unsafe extern "C" fn double(argument: *mut c_void) -> *mut c_void {
    (argument as usize * 2) as *mut c_void
}

#[test]
fn threads_return_results_and_reuse_stacks() {
    for round in 0..50usize {
        let id = start(double, round as *mut c_void, None);
        assert_eq!(finish(id), round * 2);
    }
}

#[test]
fn detached_threads_free_themselves() {
    static DONE: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn note(_: *mut c_void) -> *mut c_void {
        DONE.fetch_add(1, Ordering::SeqCst);
        core::ptr::null_mut()
    }
    // SAFETY: our own attributes and threads.
    unsafe {
        let mut attr: Attr = core::mem::zeroed();
        attr::pthread_attr_init(&raw mut attr);
        attr::pthread_attr_setdetachstate(&raw mut attr, 1);
        attr::pthread_attr_setstacksize(&raw mut attr, 64 << 10);
        for _ in 0..20 {
            start(note, core::ptr::null_mut(), Some(&attr));
        }
        let id = start(note, core::ptr::null_mut(), None);
        assert_eq!(thread::pthread_detach(id), 0);
    }
    while DONE.load(Ordering::SeqCst) < 21 {
        std::thread::yield_now();
    }
}

#[test]
fn exit_unwinds_to_the_base_and_runs_destructors() {
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn destroy(value: *mut c_void) {
        DESTROYED.fetch_add(value as usize, Ordering::SeqCst);
    }
    unsafe extern "C" fn leave_early(argument: *mut c_void) -> *mut c_void {
        // SAFETY: the test's key.
        unsafe {
            let first = argument as u32;
            key::pthread_setspecific(first, 5 as *const c_void);
            deeper()
        }
    }
    unsafe extern "C" fn deeper() -> ! {
        // SAFETY: ends this thread.
        unsafe { cancel::pthread_exit(77 as *mut c_void) }
    }
    let mut made = Vec::new();
    // SAFETY: our own keys.
    unsafe {
        // Past the first block, so that second-level blocks are used too.
        for _ in 0..40 {
            let mut number = 0;
            assert_eq!(key::pthread_key_create(&raw mut number, Some(destroy)), 0);
            made.push(number);
        }
        for number in [made[0], made[39]] {
            let id = start(leave_early, number as *mut c_void, None);
            assert_eq!(finish(id), 77);
        }
        assert_eq!(DESTROYED.load(Ordering::SeqCst), 10);
        for number in made {
            assert_eq!(key::pthread_key_delete(number), 0);
            assert_eq!(key::pthread_key_delete(number), Errno::EINVAL.0);
        }
    }
}

#[test]
fn joins_refuse_what_posix_refuses() {
    unsafe extern "C" fn wait(argument: *mut c_void) -> *mut c_void {
        // SAFETY: the test's word.
        let word = unsafe { &*argument.cast::<AtomicU32>() };
        while word.load(Ordering::SeqCst) == 0 {
            let _ = crate::futex::wait(word, 0, crate::futex::Scope::Private, None);
        }
        core::ptr::null_mut()
    }
    let gate = AtomicU32::new(0);
    let id = start(wait, gate.as_ptr().cast(), None);
    // SAFETY: our own thread.
    unsafe {
        assert_eq!(thread::pthread_tryjoin_np(id, core::ptr::null_mut()), Errno::EBUSY.0);
        let at = soon(0, 20);
        assert_eq!(
            thread::pthread_timedjoin_np(id, core::ptr::null_mut(), &raw const at),
            Errno::ETIMEDOUT.0
        );
        let me = thread::pthread_self();
        assert_eq!(thread::pthread_join(me, core::ptr::null_mut()), Errno::EDEADLK.0);
        gate.store(1, Ordering::SeqCst);
        crate::futex::wake(&gate, 1, crate::futex::Scope::Private);
        assert_eq!(finish(id), 0);
    }
}

#[test]
fn stacks_are_as_asked_for() {
    unsafe extern "C" fn look(argument: *mut c_void) -> *mut c_void {
        let here = &raw const argument as usize;
        // SAFETY: our own attributes.
        unsafe {
            let mut attr: Attr = core::mem::zeroed();
            attr::pthread_getattr_np(thread::pthread_self(), &raw mut attr);
            let (mut low, mut size) = (core::ptr::null_mut(), 0);
            attr::pthread_attr_getstack(&raw const attr, &raw mut low, &raw mut size);
            let inside = (low as usize..low as usize + size).contains(&here);
            (usize::from(inside) * size) as *mut c_void
        }
    }
    // SAFETY: our own attributes.
    unsafe {
        let mut attr: Attr = core::mem::zeroed();
        attr::pthread_attr_init(&raw mut attr);
        assert_eq!(attr::pthread_attr_setstacksize(&raw mut attr, 1000), Errno::EINVAL.0);
        assert_eq!(attr::pthread_attr_setstacksize(&raw mut attr, 256 << 10), 0);
        let size = finish(start(look, core::ptr::null_mut(), Some(&attr)));
        assert!((256 << 10..512 << 10).contains(&size), "{size:#x}");
        let memory = std::vec![0u8; 128 << 10];
        attr::pthread_attr_setstack(&raw mut attr, memory.as_ptr().cast_mut().cast(), memory.len());
        assert_eq!(finish(start(look, core::ptr::null_mut(), Some(&attr))), 128 << 10);
    }
}

// ---- mutexes -----------------------------------------------------------------------------------

#[repr(C)]
struct Counter {
    mutex: mutex::Mutex,
    value: usize,
}

unsafe extern "C" fn count_up(argument: *mut c_void) -> *mut c_void {
    let shared: *mut Counter = argument.cast();
    let mut wrong = 0;
    for _ in 0..20_000 {
        // SAFETY: the value is the mutex holder's.
        unsafe {
            wrong += usize::from(mutex::pthread_mutex_lock(&raw mut (*shared).mutex) != 0);
            (*shared).value += 1;
            wrong += usize::from(mutex::pthread_mutex_unlock(&raw mut (*shared).mutex) != 0);
        }
    }
    wrong as *mut c_void
}

#[test]
fn mutexes_of_every_kind_exclude() {
    for (kind, robust, shared) in
        [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (0, 0, 1), (0, 1, 0), (1, 1, 1), (2, 1, 0)]
    {
        // SAFETY: our own objects.
        unsafe {
            let mut attr = mutex::MutexAttr(0);
            mutex::pthread_mutexattr_settype(&raw mut attr, kind);
            mutex::pthread_mutexattr_setrobust(&raw mut attr, robust);
            mutex::pthread_mutexattr_setpshared(&raw mut attr, shared);
            let mut counter: Counter = core::mem::zeroed();
            assert_eq!(mutex::pthread_mutex_init(&raw mut counter.mutex, &raw const attr), 0);
            assert_eq!(run(4, count_up, (&raw mut counter).cast()), 0);
            assert_eq!(counter.value, 80_000, "kind {kind} robust {robust} shared {shared}");
            assert_eq!(mutex::pthread_mutex_destroy(&raw mut counter.mutex), 0);
        }
    }
}

#[test]
fn mutex_kinds_answer_as_glibcs() {
    for kind in 0..4 {
        for robust in 0..2 {
            // SAFETY: our own objects; the host's functions on its own.
            unsafe {
                let mut attr = mutex::MutexAttr(0);
                mutex::pthread_mutexattr_settype(&raw mut attr, kind);
                mutex::pthread_mutexattr_setrobust(&raw mut attr, robust);
                let mut ours: mutex::Mutex = core::mem::zeroed();
                mutex::pthread_mutex_init(&raw mut ours, &raw const attr);
                let mut host_attr = core::mem::zeroed::<libc::pthread_mutexattr_t>();
                libc::pthread_mutexattr_init(&raw mut host_attr);
                libc::pthread_mutexattr_settype(&raw mut host_attr, kind);
                libc::pthread_mutexattr_setrobust(&raw mut host_attr, robust);
                let mut theirs = core::mem::zeroed::<libc::pthread_mutex_t>();
                libc::pthread_mutex_init(&raw mut theirs, &raw const host_attr);
                let (a, b) = (&raw mut ours, &raw mut theirs);
                let kind_of = |m: *const u8| m.add(16).cast::<u32>().read() & 0x7f;
                assert_eq!(kind_of(a.cast()), kind_of(b.cast()), "the kind's bits");
                let at = soon(0, 10);
                let host_at = libc::timespec { tv_sec: at.sec, tv_nsec: at.nsec };
                let both = |name: &str, ours: i32, theirs: i32| {
                    assert_eq!(ours, theirs, "{name}, kind {kind}, robust {robust}");
                };
                if kind == 2 || kind == 1 || robust == 1 {
                    both("unlock unlocked", mutex::pthread_mutex_unlock(a), libc::pthread_mutex_unlock(b));
                }
                both("trylock", mutex::pthread_mutex_trylock(a), libc::pthread_mutex_trylock(b));
                both("trylock again", mutex::pthread_mutex_trylock(a), libc::pthread_mutex_trylock(b));
                both(
                    "timedlock",
                    mutex::pthread_mutex_timedlock(a, &raw const at),
                    libc::pthread_mutex_timedlock(b, &raw const host_at),
                );
                both("consistent", mutex::pthread_mutex_consistent(a), libc::pthread_mutex_consistent(b));
                both("unlock", mutex::pthread_mutex_unlock(a), libc::pthread_mutex_unlock(b));
                if kind == 1 {
                    both("unlock 2", mutex::pthread_mutex_unlock(a), libc::pthread_mutex_unlock(b));
                    both("unlock 3", mutex::pthread_mutex_unlock(a), libc::pthread_mutex_unlock(b));
                }
            }
        }
    }
}

#[test]
fn robust_mutexes_outlive_their_owner() {
    unsafe extern "C" fn die_with_it(argument: *mut c_void) -> *mut c_void {
        // SAFETY: the test's mutexes.
        unsafe {
            let both: *mut mutex::Mutex = argument.cast();
            let first = mutex::pthread_mutex_lock(both);
            let second = mutex::pthread_mutex_lock(both.add(1));
            (first + second) as usize as *mut c_void
        }
    }
    // SAFETY: our own objects.
    unsafe {
        let mut attr = mutex::MutexAttr(0);
        mutex::pthread_mutexattr_setrobust(&raw mut attr, 1);
        let mut both: [mutex::Mutex; 2] = core::mem::zeroed();
        let [a, b] = [&raw mut both[0], &raw mut both[1]];
        mutex::pthread_mutex_init(a, &raw const attr);
        mutex::pthread_mutex_init(b, &raw const attr);
        assert_eq!(finish(start(die_with_it, a.cast(), None)), 0);
        assert_eq!(mutex::pthread_mutex_lock(a), Errno::EOWNERDEAD.0);
        assert_eq!(mutex::pthread_mutex_consistent(a), 0);
        assert_eq!(mutex::pthread_mutex_unlock(a), 0);
        assert_eq!(mutex::pthread_mutex_lock(a), 0);
        assert_eq!(mutex::pthread_mutex_unlock(a), 0);
        assert_eq!(mutex::pthread_mutex_trylock(b), Errno::EOWNERDEAD.0);
        assert_eq!(mutex::pthread_mutex_unlock(b), 0);
        assert_eq!(mutex::pthread_mutex_lock(b), Errno::ENOTRECOVERABLE.0);
    }
}

// ---- condition variables, rwlocks, barriers, once ----------------------------------------------

#[repr(C)]
struct Queue {
    mutex: mutex::Mutex,
    not_empty: cond::Cond,
    not_full: cond::Cond,
    items: usize,
    sum: usize,
    done: bool,
}

const ITEMS: usize = 20_000;

unsafe extern "C" fn produce(argument: *mut c_void) -> *mut c_void {
    let queue: *mut Queue = argument.cast();
    for _ in 0..ITEMS {
        // SAFETY: fields are the mutex holder's.
        unsafe {
            mutex::pthread_mutex_lock(&raw mut (*queue).mutex);
            while (*queue).items == 4 {
                cond::pthread_cond_wait(&raw mut (*queue).not_full, &raw mut (*queue).mutex);
            }
            (*queue).items += 1;
            cond::pthread_cond_signal(&raw mut (*queue).not_empty);
            mutex::pthread_mutex_unlock(&raw mut (*queue).mutex);
        }
    }
    core::ptr::null_mut()
}

unsafe extern "C" fn consume(argument: *mut c_void) -> *mut c_void {
    let queue: *mut Queue = argument.cast();
    loop {
        // SAFETY: as above.
        unsafe {
            mutex::pthread_mutex_lock(&raw mut (*queue).mutex);
            while (*queue).items == 0 && !(*queue).done {
                cond::pthread_cond_wait(&raw mut (*queue).not_empty, &raw mut (*queue).mutex);
            }
            let end = (*queue).items == 0;
            if !end {
                (*queue).items -= 1;
                (*queue).sum += 1;
                cond::pthread_cond_signal(&raw mut (*queue).not_full);
            }
            mutex::pthread_mutex_unlock(&raw mut (*queue).mutex);
            if end {
                return core::ptr::null_mut();
            }
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    // SAFETY: all-zero objects are initialised.
    unsafe {
        let mut queue: Queue = core::mem::zeroed();
        let shared: *mut c_void = (&raw mut queue).cast();
        let consumers: Vec<_> = (0..3).map(|_| start(consume, shared, None)).collect();
        run(3, produce, shared);
        mutex::pthread_mutex_lock(&raw mut queue.mutex);
        queue.done = true;
        cond::pthread_cond_broadcast(&raw mut queue.not_empty);
        mutex::pthread_mutex_unlock(&raw mut queue.mutex);
        // Waits for the waiters that were woken and still look at it.
        cond::pthread_cond_destroy(&raw mut queue.not_empty);
        consumers.into_iter().for_each(|id| assert_eq!(finish(id), 0));
        assert_eq!(queue.sum, 3 * ITEMS);
    }
}

#[test]
fn cond_waits_time_out_on_their_clock() {
    // SAFETY: our own objects.
    unsafe {
        let mut mutex: mutex::Mutex = core::mem::zeroed();
        let mut cond: cond::Cond = core::mem::zeroed();
        let mut attr = cond::CondAttr(0);
        for clock in 0..2 {
            assert_eq!(cond::pthread_condattr_setclock(&raw mut attr, clock), 0);
            cond::pthread_cond_init(&raw mut cond, &raw const attr);
            mutex::pthread_mutex_lock(&raw mut mutex);
            let at = soon(clock as usize, 15);
            let answer = cond::pthread_cond_timedwait(&raw mut cond, &raw mut mutex, &raw const at);
            assert_eq!(answer, Errno::ETIMEDOUT.0);
            let after = soon(clock as usize, 0);
            assert!((after.sec, after.nsec) >= (at.sec, at.nsec));
            assert_eq!(mutex::pthread_mutex_unlock(&raw mut mutex), 0);
            assert_eq!(cond::pthread_cond_destroy(&raw mut cond), 0);
        }
        assert_eq!(cond::pthread_condattr_setclock(&raw mut attr, 2), Errno::EINVAL.0);
    }
}

#[repr(C)]
struct Shared {
    lock: rwlock::RwLock,
    pair: [AtomicU64; 2],
    wrong: AtomicUsize,
}

unsafe extern "C" fn read_and_write(argument: *mut c_void) -> *mut c_void {
    // SAFETY: the test's object.
    let shared = unsafe { &mut *argument.cast::<Shared>() };
    let mut random = &raw const random_seed as usize | 1;
    for _ in 0..20_000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // SAFETY: as above.
        unsafe {
            if random >> 33 & 7 == 0 {
                rwlock::pthread_rwlock_wrlock(&raw mut shared.lock);
                let value = shared.pair[0].load(Ordering::Relaxed) + 1;
                shared.pair[0].store(value, Ordering::Relaxed);
                shared.pair[1].store(value, Ordering::Relaxed);
            } else {
                rwlock::pthread_rwlock_rdlock(&raw mut shared.lock);
                let (a, b) = (shared.pair[0].load(Ordering::Relaxed), shared.pair[1].load(Ordering::Relaxed));
                shared.wrong.fetch_add(usize::from(a != b), Ordering::Relaxed);
            }
            rwlock::pthread_rwlock_unlock(&raw mut shared.lock);
        }
    }
    core::ptr::null_mut()
}
#[allow(non_upper_case_globals)]
static random_seed: u8 = 0;

#[test]
fn rwlocks_share_and_exclude() {
    for kind in 0..3 {
        // SAFETY: our own objects.
        unsafe {
            let mut attr: rwlock::RwLockAttr = core::mem::zeroed();
            assert_eq!(rwlock::pthread_rwlockattr_setkind_np(&raw mut attr, kind), 0);
            let mut shared: Shared = core::mem::zeroed();
            rwlock::pthread_rwlock_init(&raw mut shared.lock, &raw const attr);
            run(4, read_and_write, (&raw mut shared).cast());
            assert_eq!(shared.wrong.load(Ordering::SeqCst), 0);
            let lock = &raw mut shared.lock;
            assert_eq!(rwlock::pthread_rwlock_rdlock(lock), 0);
            assert_eq!(rwlock::pthread_rwlock_tryrdlock(lock), 0);
            assert_eq!(rwlock::pthread_rwlock_trywrlock(lock), Errno::EBUSY.0);
            let at = soon(0, 10);
            assert_eq!(rwlock::pthread_rwlock_timedwrlock(lock, &raw const at), Errno::ETIMEDOUT.0);
            assert_eq!(rwlock::pthread_rwlock_tryrdlock(lock), 0, "a writer that gave up is forgotten");
            for _ in 0..3 {
                rwlock::pthread_rwlock_unlock(lock);
            }
            assert_eq!(rwlock::pthread_rwlock_wrlock(lock), 0);
            assert_eq!(rwlock::pthread_rwlock_wrlock(lock), Errno::EDEADLK.0);
            assert_eq!(rwlock::pthread_rwlock_tryrdlock(lock), Errno::EBUSY.0);
            rwlock::pthread_rwlock_unlock(lock);
        }
    }
}

#[repr(C)]
struct Rounds {
    barrier: barrier::Barrier,
    arrived: AtomicUsize,
    wrong: AtomicUsize,
}

unsafe extern "C" fn go_round(argument: *mut c_void) -> *mut c_void {
    // SAFETY: the test's object.
    let shared = unsafe { &mut *argument.cast::<Rounds>() };
    let mut serial = 0usize;
    for round in 1..=500 {
        shared.arrived.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as above.
        serial += usize::from(unsafe { barrier::pthread_barrier_wait(&raw mut shared.barrier) } == -1);
        let seen = shared.arrived.load(Ordering::SeqCst);
        shared.wrong.fetch_add(usize::from(seen < round * 4), Ordering::SeqCst);
    }
    serial as *mut c_void
}

#[test]
fn barriers_hold_everybody() {
    // SAFETY: our own objects.
    unsafe {
        let mut rounds: Rounds = core::mem::zeroed();
        assert_eq!(
            barrier::pthread_barrier_init(&raw mut rounds.barrier, core::ptr::null(), 0),
            Errno::EINVAL.0
        );
        assert_eq!(barrier::pthread_barrier_init(&raw mut rounds.barrier, core::ptr::null(), 4), 0);
        assert_eq!(run(4, go_round, (&raw mut rounds).cast()), 500, "one serial thread in each round");
        assert_eq!(rounds.wrong.load(Ordering::SeqCst), 0);
        assert_eq!(barrier::pthread_barrier_destroy(&raw mut rounds.barrier), 0);
    }
}

#[test]
fn once_runs_once_and_others_wait() {
    static CONTROL: AtomicU32 = AtomicU32::new(0);
    static RUNS: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn slow() {
        let pause = Timespec { sec: 0, nsec: 20_000_000 };
        // SAFETY: our own time.
        let _ = unsafe { crate::kcall!(nanosleep, &raw const pause, 0) };
        RUNS.fetch_add(1, Ordering::SeqCst);
    }
    unsafe extern "C" fn call(_: *mut c_void) -> *mut c_void {
        // SAFETY: our own control.
        unsafe { once::pthread_once(&CONTROL, slow) };
        RUNS.load(Ordering::SeqCst) as usize as *mut c_void
    }
    assert_eq!(run(4, call, core::ptr::null_mut()), 4, "each sees the routine done");
    assert_eq!(RUNS.load(Ordering::SeqCst), 1);
}

// ---- cancellation ------------------------------------------------------------------------------

#[test]
fn cancel_wakes_a_blocked_thread_and_cleans_up() {
    static CLEANED: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C" fn clean(argument: *mut c_void) {
        CLEANED.fetch_add(argument as usize, Ordering::SeqCst);
    }
    unsafe extern "C" fn block(argument: *mut c_void) -> *mut c_void {
        // SAFETY: the test's pipe; a frame for the old-style handler.
        unsafe {
            let mut buffer = [0u8; 32];
            let frame: *mut c_void = buffer.as_mut_ptr().cast();
            cancel::_pthread_cleanup_push(frame, clean, 9 as *mut c_void);
            let mut byte = 0u8;
            let _ = crate::point!(read, argument as usize, &raw mut byte, 1);
            cancel::_pthread_cleanup_pop(frame, 0);
        }
        core::ptr::null_mut()
    }
    let mut ends = [0i32; 2];
    // SAFETY: our own pipe and threads.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        for round in 1..=20usize {
            let id = start(block, ends[0] as usize as *mut c_void, None);
            if round % 2 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            assert_eq!(cancel::pthread_cancel(id), 0);
            assert_eq!(finish(id), usize::MAX);
            assert_eq!(CLEANED.load(Ordering::SeqCst) % 9, 0);
        }
        libc::close(ends[0]);
        libc::close(ends[1]);
    }
    assert!(CLEANED.load(Ordering::SeqCst) >= 90, "threads that had come to the read were cleaned up");
}

#[test]
fn a_cancelled_wait_holds_the_mutex_in_its_handler() {
    #[repr(C)]
    struct Both {
        mutex: mutex::Mutex,
        cond: cond::Cond,
        held: AtomicU32,
        waiting: AtomicU32,
    }
    unsafe extern "C" fn clean(argument: *mut c_void) {
        // SAFETY: the test's objects.
        unsafe {
            let both: *mut Both = argument.cast();
            let busy = mutex::pthread_mutex_trylock(&raw mut (*both).mutex) == Errno::EBUSY.0;
            (*both).held.store(u32::from(busy), Ordering::SeqCst);
            mutex::pthread_mutex_unlock(&raw mut (*both).mutex);
        }
    }
    unsafe extern "C" fn wait(argument: *mut c_void) -> *mut c_void {
        // SAFETY: as above.
        unsafe {
            let both: *mut Both = argument.cast();
            let mut buffer = [0u8; 32];
            let frame: *mut c_void = buffer.as_mut_ptr().cast();
            mutex::pthread_mutex_lock(&raw mut (*both).mutex);
            cancel::_pthread_cleanup_push(frame, clean, argument);
            (*both).waiting.store(1, Ordering::SeqCst);
            loop {
                cond::pthread_cond_wait(&raw mut (*both).cond, &raw mut (*both).mutex);
            }
        }
    }
    // SAFETY: as above.
    unsafe {
        let mut both: Both = core::mem::zeroed();
        let id = start(wait, (&raw mut both).cast(), None);
        while both.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(cancel::pthread_cancel(id), 0);
        assert_eq!(finish(id), usize::MAX);
        assert_eq!(both.held.load(Ordering::SeqCst), 1);
        assert_eq!(mutex::pthread_mutex_trylock(&raw mut both.mutex), 0, "the handler unlocked it");
        assert_eq!(cond::pthread_cond_destroy(&raw mut both.cond), 0, "nobody is counted as waiting");
    }
}

// ---- TLS ---------------------------------------------------------------------------------------

#[test]
fn dynamic_tls_is_made_on_demand_for_each_thread() {
    use crate::tls;
    prepare();
    static IMAGE: [u8; 8] = *b"initial!";
    struct Index(tls::TlsIndex, tls::TlsIndex);
    unsafe extern "C" fn touch(argument: *mut c_void) -> *mut c_void {
        // SAFETY: the test's modules.
        unsafe {
            let index = &*argument.cast::<Index>();
            let dynamic: *mut u8 = tls::__tls_get_addr(&raw const index.0).cast();
            let fixed: *mut u8 = tls::__tls_get_addr(&raw const index.1).cast();
            let tcb = crate::thread::current() as usize;
            let mut right = core::slice::from_raw_parts(dynamic, 8) == IMAGE;
            right &= dynamic.add(8).read() == 0 && (dynamic as usize).is_multiple_of(64);
            right &= fixed as usize == tcb - 128 && core::slice::from_raw_parts(fixed, 8) == IMAGE;
            dynamic.write(b'X');
            right &= tls::__tls_get_addr(&raw const index.0).cast() == dynamic;
            usize::from(right) as *mut c_void
        }
    }
    let module = tls::Module {
        image: IMAGE.as_ptr(),
        image_len: 8,
        size: 200,
        align: 64,
        align_offset: 0,
        static_offset: 0,
    };
    // SAFETY: the image is a static; offset 128 is inside the 4096 bytes of `prepare`.
    unsafe {
        let dynamic = tls::add_module(module);
        let fixed = tls::add_module(tls::Module { static_offset: 128, size: 100, ..module });
        let index =
            Index(tls::TlsIndex { module: dynamic, offset: 0 }, tls::TlsIndex { module: fixed, offset: 0 });
        assert_eq!(run(3, touch, (&raw const index).cast_mut().cast()), 3);
        // Many modules: the vector grows; a freed number comes back with a fresh block.
        let more: Vec<usize> = (0..100).map(|_| tls::add_module(module)).collect();
        tls::remove_module(dynamic);
        assert_eq!(tls::add_module(module), dynamic);
        let last = Index(tls::TlsIndex { module: more[99], offset: 0 }, index.1);
        assert_eq!(run(2, touch, (&raw const last).cast_mut().cast()), 2);
        more.into_iter().chain([dynamic, fixed]).for_each(|id| tls::remove_module(id));
    }
}

#[test]
fn deadlines_check_their_nanoseconds() {
    let bad = Timespec { sec: 1, nsec: 1_000_000_000 };
    // SAFETY: our own time.
    let read = unsafe { Deadline::read(crate::futex::Clock::Real, &raw const bad) };
    assert_eq!(read.err(), Some(Errno::EINVAL));
}
