//! The scheduler, as this crate uses it: the one place that names it. In this crate's own tests a
//! stand-in over the host's threads takes its place (`testing::host_sched`).

#[cfg(not(test))]
mod real {
    use crate::{Errno, Result};
    use alloc::sync::Arc;
    use core::ptr::NonNull;
    use core::sync::atomic::Ordering;
    use platform::time::Instant;

    pub use sched::thread::Wake;
    pub use sched::timer::{Expire, TimerId};
    pub use sched::{enter, leave};

    /// A thread of the scheduler.
    pub type ThreadRef = Arc<sched::Thread>;

    /// The running thread.
    #[inline]
    pub fn current() -> &'static ThreadRef {
        sched::thread::current()
    }

    /// The running thread's pointer to its task.
    #[inline]
    pub fn local() -> Option<NonNull<()>> {
        NonNull::new(sched::thread::try_current()?.local().load(Ordering::Relaxed))
    }

    /// Sets the running thread's pointer to its task.
    pub fn set_local(local: *mut ()) {
        current().local().store(local, Ordering::Release);
    }

    /// Changes the running thread's pointer to its task; answers the one before.
    pub fn swap_local(local: *mut ()) -> *mut () {
        current().local().swap(local, Ordering::AcqRel)
    }

    /// Threads of this host process that are on their stacks or will be.
    pub fn threads() -> u32 {
        sched::vcpu::threads()
    }

    /// Goes on with `main(argument)` on another stack.
    ///
    /// # Safety
    /// As `sched::arch::run_on`.
    pub unsafe fn run_on(top: usize, main: extern "C" fn(usize) -> !, argument: usize) -> ! {
        // SAFETY: forwarded.
        unsafe { sched::arch::run_on(top, main, argument) }
    }

    /// Sleeps until a permit or the deadline.
    pub fn park(deadline: Option<Instant>) -> Wake {
        sched::thread::park(deadline)
    }

    /// Gives a thread a permit.
    #[inline]
    pub fn unpark(thread: &ThreadRef) {
        thread.unpark();
    }

    /// Has the thread look at its signals soon.
    pub fn request_attention(thread: &ThreadRef) {
        thread.request_attention();
    }

    /// Lets others run.
    pub fn yield_now() {
        sched::thread::yield_now();
    }

    /// Has `callback` called at `deadline`.
    pub fn timer_add(deadline: Instant, callback: Arc<dyn Expire>) -> TimerId {
        sched::timer::add(deadline, callback)
    }

    /// Takes a timer back.
    pub fn timer_cancel(id: TimerId) -> bool {
        sched::timer::cancel(id)
    }

    /// Copies from the program's memory; a fault is EFAULT.
    ///
    /// # Safety
    /// `into` is kernel memory of `len` bytes.
    #[inline]
    pub unsafe fn copy_from_user(into: *mut u8, from: usize, len: usize) -> Result<()> {
        // SAFETY: forwarded.
        done(unsafe { sched::user_copy::copy(into, from as *const u8, len) })
    }

    /// Copies to the program's memory; a fault is EFAULT.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes, and `to` is not kernel memory.
    #[inline]
    pub unsafe fn copy_to_user(to: usize, from: *const u8, len: usize) -> Result<()> {
        // SAFETY: forwarded.
        done(unsafe { sched::user_copy::copy(to as *mut u8, from, len) })
    }

    /// Stores `new` at the program's aligned word if it holds `old`; answers what it held.
    ///
    /// # Safety
    /// The word is not kernel memory.
    pub unsafe fn exchange_user(at: *mut u32, old: u32, new: u32) -> Result<u32> {
        // SAFETY: forwarded.
        unsafe { sched::user_copy::compare_exchange(at, old, new) }.ok_or(Errno::EFAULT)
    }

    /// Makes a thread that does not run yet.
    pub fn new_thread(start: &crate::thread::Start, local: *mut ()) -> Result<ThreadRef> {
        let start = sched::thread::Start {
            entry: start.entry,
            argument: start.argument,
            stack_top: start.stack_top,
            fs_base: start.fs_base,
        };
        sched::Thread::new(start, local)
    }

    /// Lets a new thread run.
    pub fn start_thread(thread: &ThreadRef) {
        thread.start();
    }

    /// Gives a thread its rank among the ready ones of its process.
    pub fn set_rank(thread: &ThreadRef, priority: u8, fifo: bool) {
        thread.set_rank(sched::thread::Rank { priority, fifo });
    }

    /// The host's id of a host process.
    pub fn host_pid(host: &HostRef) -> i32 {
        host.host_pid()
    }

    /// Gives a host process's vCPUs a nice value at the host.
    pub fn renice(host: &HostRef, nice: i32) -> Result<()> {
        host.renice(nice)
    }

    /// Ends the running thread.
    pub fn exit_thread() -> ! {
        sched::thread::exit()
    }

    /// The running thread's FS base.
    pub fn fs_base() -> usize {
        sched::thread::fs_base()
    }

    /// Sets the running thread's FS base.
    pub fn set_fs_base(base: usize) {
        sched::thread::set_fs_base(base);
    }

    /// Goes on with a register state.
    ///
    /// # Safety
    /// As `sched::arch::resume`.
    pub unsafe fn resume(frame: &sched::Frame) -> ! {
        // SAFETY: forwarded.
        unsafe { sched::arch::resume(frame) }
    }

    /// CPUs that the guest has.
    pub fn cpus() -> usize {
        sched::vcpu::count() as usize
    }

    /// The process has a network to serve.
    pub fn serve_network() {
        sched::vcpu::start_for_network();
    }

    /// vCPUs of all the guest's processes that sleep.
    pub fn sleepers() -> u32 {
        sched::vcpu::sleepers()
    }

    /// The CPU that the caller runs on.
    pub fn cpu() -> usize {
        sched::vcpu::current() as usize
    }

    /// A number that the vCPUs of a process have in a row, and processes made one after the other, too.
    #[inline]
    pub fn lane() -> usize {
        sched::vcpu::lane()
    }

    /// `left` bytes could not be copied.
    #[inline]
    fn done(left: usize) -> Result<()> {
        if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Tells the scheduler where a fault of the running thread may put its state.
    pub fn set_alternate_stack(base: usize, len: usize) {
        current().set_alternate_stack(base, len);
    }

    /// Ends the host process by a signal's default action, called by its last guest thread.
    pub fn die_by_signal(signal: i32) -> ! {
        sched::fork::die(signal)
    }

    /// Reports a fault that ends the program.
    pub fn report_fault(frame: &sched::Frame) {
        sched::fault::report_fault(frame);
    }

    /// Says where the program ends itself from.
    pub fn report_abort(signal: i32) {
        sched::fault::report_abort(signal);
    }

    /// Ends the host process, called by its last guest thread.
    pub fn exit_process(status: i32) -> ! {
        sched::fork::exit(status)
    }

    /// A host process of the guest.
    pub type HostRef = Arc<sched::Process>;

    /// The caller's host process.
    pub fn own_host() -> HostRef {
        sched::vcpu::own()
    }

    /// Leaves a pointer to the guest's process with its host process; answers the one before.
    pub fn swap_host_local(host: &HostRef, local: *mut ()) -> *mut () {
        host.local().swap(local, Ordering::AcqRel)
    }

    /// That pointer.
    pub fn host_local(host: &HostRef) -> *mut () {
        host.local().load(Ordering::Acquire)
    }

    pub use sched::passage::{Moment, begin as begin_passage, end as end_passage};

    /// A process that is being made.
    pub type Child = sched::fork::Child;

    /// Where one begins that no guest thread forks.
    pub fn fork_stack() -> Result<usize> {
        sched::fork::stack()
    }

    /// Gives up a thread whose host process is gone; answers its pointer to its task.
    pub fn abandon(thread: &ThreadRef) -> *mut () {
        thread.abandon();
        thread.local().swap(core::ptr::null_mut(), Ordering::AcqRel)
    }
}

#[cfg(not(test))]
pub use real::*;

#[cfg(test)]
pub use crate::testing::host_sched::*;
