//! For this crate's tests: the scheduler's contract over the host's threads, and contexts to call
//! handlers with.
#![allow(missing_docs)]

use crate::context::Ctx;
use crate::process::{self, Config, Credentials, Process};
use crate::task::Task;
use alloc::sync::Arc;
use std::boxed::Box;

/// The stand-in scheduler.
pub mod host_sched {
    use crate::{Errno, Result};
    use alloc::sync::Arc;
    use core::cell::RefCell;
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
    use platform::time::{Instant, now};
    use std::collections::BTreeMap;
    use std::sync::{Condvar, Mutex, OnceLock};
    use std::time::Duration;

    /// Why a park ended.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Wake {
        Unparked,
        TimedOut,
    }

    /// A host thread with a permit.
    pub struct Thread {
        permit: Mutex<bool>,
        changed: Condvar,
        local: AtomicPtr<()>,
        pub attention: AtomicBool,
    }
    pub type ThreadRef = Arc<Thread>;

    std::thread_local! {
        static CURRENT: RefCell<&'static ThreadRef> = RefCell::new(std::boxed::Box::leak(
            std::boxed::Box::new(Arc::new(Thread {
                permit: Mutex::new(false),
                changed: Condvar::new(),
                local: AtomicPtr::new(core::ptr::null_mut()),
                attention: AtomicBool::new(false),
            })),
        ));
    }

    pub fn enter() {}
    pub fn leave() {}
    pub fn current() -> &'static ThreadRef {
        CURRENT.with(|thread| *thread.borrow())
    }
    pub fn local() -> Option<NonNull<()>> {
        NonNull::new(current().local.load(Ordering::Relaxed))
    }
    pub fn set_local(local: *mut ()) {
        current().local.store(local, Ordering::Relaxed);
    }
    pub fn park(deadline: Option<Instant>) -> Wake {
        let thread = current();
        let mut permit = thread.permit.lock().unwrap();
        while !*permit {
            permit = match deadline {
                None => thread.changed.wait(permit).unwrap(),
                Some(at) => {
                    let left = at.since(now());
                    if left == 0 {
                        return Wake::TimedOut;
                    }
                    thread.changed.wait_timeout(permit, Duration::from_nanos(left)).unwrap().0
                }
            };
        }
        *permit = false;
        Wake::Unparked
    }
    pub fn unpark(thread: &ThreadRef) {
        *thread.permit.lock().unwrap() = true;
        thread.changed.notify_one();
    }
    pub fn request_attention(thread: &ThreadRef) {
        thread.attention.store(true, Ordering::SeqCst);
        unpark(thread);
    }
    pub fn set_alternate_stack(_base: usize, _len: usize) {}
    pub fn sleepers() -> u32 {
        0
    }

    /// Processes of the host are not made in tests.
    pub type HostRef = Arc<Host>;
    #[derive(Default)]
    pub struct Host {
        local: AtomicPtr<()>,
    }
    pub fn own_host() -> HostRef {
        Arc::new(Host { local: AtomicPtr::new(core::ptr::null_mut()) })
    }
    pub fn swap_host_local(host: &HostRef, local: *mut ()) -> *mut () {
        host.local.swap(local, Ordering::AcqRel)
    }
    pub fn host_local(host: &HostRef) -> *mut () {
        host.local.load(Ordering::Acquire)
    }
    #[derive(Default)]
    pub struct Moment;
    impl Moment {
        pub fn now() -> Moment {
            Moment
        }
        pub fn is_over(&self) -> bool {
            true
        }
    }
    pub fn begin_passage() {}
    pub fn end_passage() {}
    pub fn abandon(thread: &ThreadRef) -> *mut () {
        thread.local.swap(core::ptr::null_mut(), Ordering::AcqRel)
    }
    pub struct Child(ThreadRef, HostRef);
    impl Child {
        pub fn new(_local: *mut ()) -> Child {
            Child(current().clone(), own_host())
        }
        pub fn fresh(local: *mut ()) -> Child {
            Child::new(local)
        }
        pub fn thread(&self) -> &ThreadRef {
            &self.0
        }
        pub fn process(&self) -> &HostRef {
            &self.1
        }
        pub unsafe fn start_on(
            &self,
            _top: usize,
            _go_on: extern "C" fn(*mut ()) -> !,
            _argument: *mut (),
        ) -> Result<()> {
            Err(Errno::ENOSYS)
        }
        pub fn start(&self, _go_on: extern "C" fn(*mut ()) -> !, _argument: *mut ()) -> Result<()> {
            Err(Errno::ENOSYS)
        }
    }
    pub fn fork_stack() -> Result<usize> {
        Err(Errno::ENOSYS)
    }
    pub fn swap_local(local: *mut ()) -> *mut () {
        current().local.swap(local, Ordering::Relaxed)
    }
    pub fn threads() -> u32 {
        1
    }
    pub unsafe fn run_on(_top: usize, _main: extern "C" fn(usize) -> !, _argument: usize) -> ! {
        panic!("tests execute no programs");
    }
    pub fn yield_now() {
        std::thread::yield_now();
    }

    /// What a timer calls.
    pub trait Expire: Send + Sync {
        fn expire(&self, now: Instant);
    }
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct TimerId((u64, u64));

    #[derive(Default)]
    struct Timers {
        queue: Mutex<BTreeMap<(u64, u64), Arc<dyn Expire>>>,
        changed: Condvar,
    }
    static TIMERS: OnceLock<Timers> = OnceLock::new();
    static NUMBER: AtomicU64 = AtomicU64::new(0);

    fn timers() -> &'static Timers {
        TIMERS.get_or_init(|| {
            std::thread::spawn(run_timers);
            Timers::default()
        })
    }
    fn run_timers() {
        let timers = timers();
        let mut queue = timers.queue.lock().unwrap();
        loop {
            let Some(entry) = queue.first_entry() else {
                queue = timers.changed.wait(queue).unwrap();
                continue;
            };
            let left = Instant(entry.key().0).since(now());
            if left == 0 {
                let callback = entry.remove();
                drop(queue);
                callback.expire(now());
                queue = timers.queue.lock().unwrap();
            } else {
                queue = timers.changed.wait_timeout(queue, Duration::from_nanos(left)).unwrap().0;
            }
        }
    }
    pub fn timer_add(deadline: Instant, callback: Arc<dyn Expire>) -> TimerId {
        let id = (deadline.0, NUMBER.fetch_add(1, Ordering::Relaxed));
        timers().queue.lock().unwrap().insert(id, callback);
        timers().changed.notify_one();
        TimerId(id)
    }
    pub fn timer_cancel(id: TimerId) -> bool {
        timers().queue.lock().unwrap().remove(&id.0).is_some()
    }

    /// Copies, with the host kernel as the judge of the address.
    ///
    /// # Safety
    /// As the real one.
    pub unsafe fn copy_from_user(into: *mut u8, from: usize, len: usize) -> Result<()> {
        transfer(platform::sys::number::process_vm_readv, into as usize, from, len)
    }
    /// Copies, with the host kernel as the judge of the address.
    ///
    /// # Safety
    /// As the real one.
    pub unsafe fn copy_to_user(to: usize, from: *const u8, len: usize) -> Result<()> {
        transfer(platform::sys::number::process_vm_writev, from as usize, to, len)
    }
    fn transfer(call: u32, local: usize, remote: usize, len: usize) -> Result<()> {
        let (local, remote) = ([local, len], [remote, len]);
        let args = [std::process::id() as usize, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0];
        // SAFETY: both vectors describe memory that the kernel checks.
        match unsafe { platform::sys::syscall(call, args) } {
            Ok(done) if done == len => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Without protection: tests bring good words.
    ///
    /// # Safety
    /// As the real one.
    pub unsafe fn exchange_user(at: *mut u32, old: u32, new: u32) -> Result<u32> {
        // SAFETY: the test's own word.
        let word = unsafe { core::sync::atomic::AtomicU32::from_ptr(at) };
        Ok(match word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(held) | Err(held) => held,
        })
    }
    pub fn new_thread(_start: &crate::thread::Start, _local: *mut ()) -> Result<ThreadRef> {
        Err(Errno::ENOSYS)
    }
    pub fn start_thread(_thread: &ThreadRef) {}
    pub fn set_rank(_thread: &ThreadRef, _priority: u8, _fifo: bool) {}
    pub fn host_pid(_host: &HostRef) -> i32 {
        std::process::id() as i32
    }
    pub fn renice(_host: &HostRef, _nice: i32) -> Result<()> {
        Ok(())
    }
    pub fn exit_thread() -> ! {
        panic!("the thread ended")
    }
    pub fn fs_base() -> usize {
        0
    }
    pub fn set_fs_base(_base: usize) {}
    /// # Safety
    /// Not available.
    pub unsafe fn resume(_frame: &sched::Frame) -> ! {
        panic!("no register states in unit tests")
    }
    pub fn serve_network() {}

    pub fn cpus() -> usize {
        4
    }
    pub fn cpu() -> usize {
        0
    }
    pub fn lane() -> usize {
        0
    }

    pub fn die_by_signal(signal: i32) -> ! {
        panic!("the process ended by signal {signal}")
    }

    pub fn report_fault(_: &sched::Frame) {}
    pub fn report_abort(_: i32) {}

    pub fn exit_process(status: i32) -> ! {
        panic!("the process ended with status {status}")
    }
}

/// A fresh process of its own.
pub fn process() -> Arc<Process> {
    let credentials = Credentials::new(1000, 1000, alloc::vec![1000]);
    process::start(&Config { hostname: "guest", pid: 1, credentials: Some(credentials) })
}

/// Makes the running host thread a thread of `process`, for good.
pub fn attach(process: &Arc<Process>) -> Ctx<'static> {
    if process.task_count() == 0 {
        Task::first(process).attach();
    } else {
        Task::further(process, 0).attach();
    }
    Ctx::current()
}

/// A context in a fresh process.
pub fn ctx() -> Ctx<'static> {
    attach(&process())
}

/// Runs `f` on another host thread, as a further thread of the process.
pub fn spawn<R: Send + 'static>(
    process: &Arc<Process>,
    f: impl FnOnce(Ctx) -> R + Send + 'static,
) -> std::thread::JoinHandle<R> {
    let process = process.clone();
    std::thread::spawn(move || f(attach(&process)))
}

/// The address of a value as the program would pass it.
pub fn user<T: Copy>(value: &T) -> crate::user::UserPtr<T> {
    crate::user::UserPtr::new(core::ptr::from_ref(value) as usize)
}

/// A leaked value that other threads may be given by address.
pub fn leak<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

/// read(2) without the call: a description's next bytes.
pub fn read(open: &crate::file::OpenFile, into: &mut [u8]) -> crate::Result {
    open.file.read(open, &mut 0, &mut crate::user::KernelSink::new(into))
}

/// write(2) without the call.
pub fn write(open: &crate::file::OpenFile, bytes: &[u8]) -> crate::Result {
    open.file.write(open, &mut 0, &mut crate::user::KernelSource(bytes))
}

/// close(2) without the call.
pub fn close(ctx: &Ctx, fd: i32) -> crate::Result<()> {
    ctx.process.fds.remove(fd).map(crate::fd::release)
}

/// Random numbers (xorshift64), the same in every run.
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
