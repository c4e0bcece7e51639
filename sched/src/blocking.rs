//! Host calls that may take long (fsync, reads of cold files, name look-ups on slow mounts) run on a
//! helper host thread while the guest thread is parked and its vCPU runs others.
//!
//! Helpers are made when a job finds none idle, up to [`MOST_HELPERS`]; they then wait for more.

use crate::thread::{self, Thread};
use crate::vcpu;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use platform::errno::Result;
use platform::sync::Lock;

/// No more helper threads than this in a process; further jobs queue.
pub const MOST_HELPERS: u32 = 32;

/// Runs `job` on a helper and answers its result; parks meanwhile (attention does not end it: a
/// blocking host call cannot be taken back). If no helper can be made, the job runs right here.
///
/// The job runs in the kernel, but on no guest thread: no park, no `thread::current`. Kernel only.
pub fn run<F: FnOnce() -> isize + Send>(job: F) -> isize {
    let Some(thread) = thread::try_current() else { return job() };
    let mut cell = Cell { job: Some(job), result: 0 };
    let ticket = Ticket {
        call: call::<F>,
        cell: (&raw mut cell).cast(),
        thread: thread.clone(),
        done: AtomicBool::new(false),
    };
    if submit(&raw const ticket).is_err() {
        return cell.job.take().map_or(0, |job| job());
    }
    let mut parks = 0;
    while !ticket.done.load(Ordering::Acquire) {
        thread::park(None);
        parks += 1;
    }
    // Somebody else's permit was among those: give it back, the caller may wait for it.
    if parks > 1 {
        thread.unpark();
    }
    cell.result
}

struct Cell<F> {
    job: Option<F>,
    result: isize,
}

/// A job as the helper sees it; lives on the parked thread's stack until `done`.
struct Ticket {
    call: unsafe fn(*mut ()),
    cell: *mut (),
    thread: Arc<Thread>,
    done: AtomicBool,
}

/// Runs the job in its cell.
///
/// # Safety
/// `cell` is a live `Cell<F>` that nobody else touches.
unsafe fn call<F: FnOnce() -> isize>(cell: *mut ()) {
    // SAFETY: the caller vouches for it.
    let cell = unsafe { &mut *cell.cast::<Cell<F>>() };
    if let Some(job) = cell.job.take() {
        cell.result = job();
    }
}

/// The helpers of a process.
pub(crate) struct Helpers {
    jobs: Lock<Jobs>,
    /// Counts jobs put in; helpers sleep on it (futex(2)).
    bell: AtomicU32,
}

struct Jobs {
    waiting: VecDeque<*const Ticket>,
    idle: u32,
    made: u32,
}

// SAFETY: a ticket is Sync but for its cell, which only the helper that took it touches.
unsafe impl Send for Jobs {}

impl Helpers {
    pub(crate) const fn new() -> Helpers {
        let jobs = Jobs { waiting: VecDeque::new(), idle: 0, made: 0 };
        Helpers { jobs: Lock::new(jobs), bell: AtomicU32::new(0) }
    }
}

fn submit(ticket: *const Ticket) -> Result<()> {
    let helpers = &vcpu::process().helpers;
    let (make, number) = {
        let mut jobs = helpers.jobs.lock();
        jobs.waiting.push_back(ticket);
        let make = jobs.idle < jobs.waiting.len() as u32 && jobs.made < MOST_HELPERS;
        let number = jobs.made;
        jobs.made += u32::from(make);
        (make, number)
    };
    if make && let Err(error) = vcpu::start_helper(number) {
        let mut jobs = helpers.jobs.lock();
        jobs.made -= 1;
        // Others may serve it; if there are none, the job is taken back.
        if jobs.made == 0 {
            jobs.waiting.retain(|&waiting| waiting != ticket);
            return Err(error);
        }
    }
    helpers.bell.fetch_add(1, Ordering::Release);
    platform::thread::futex_wake(&helpers.bell, 1);
    Ok(())
}

/// A helper's life: take a job, run it, wake its thread.
pub(crate) fn serve() -> ! {
    let helpers = &vcpu::process().helpers;
    loop {
        let seen = helpers.bell.load(Ordering::Acquire);
        let ticket = helpers.jobs.lock().waiting.pop_front();
        let Some(ticket) = ticket else {
            helpers.jobs.lock().idle += 1;
            platform::thread::futex_wait(&helpers.bell, seen, None);
            helpers.jobs.lock().idle -= 1;
            continue;
        };
        // SAFETY: the ticket and its cell live on the parked thread's stack until `done`; after it
        // nothing of them is touched, hence the clone.
        unsafe {
            ((*ticket).call)((*ticket).cell);
            let thread = (*ticket).thread.clone();
            (*ticket).done.store(true, Ordering::Release);
            thread.unpark();
        }
    }
}
