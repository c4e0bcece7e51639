//! The only place where a call goes to sleep.
//!
//! Files never block: they answer EAGAIN. [`block_on`] turns that into waiting: try; if that says
//! EAGAIN and the call may wait, register at the file's hub, try *again* (an event in between would
//! be lost otherwise), and park. A parked thread ends its sleep by an event, its deadline, or a
//! signal; the last gives a restart code, which [`crate::entry`] settles.

use crate::context::Ctx;
use crate::errno::{RESTART, RESTART_NO_HANDLER};
use crate::file::OpenFile;
use crate::hub::{Events, Hub, Watcher};
use crate::rt::{self, Wake};
use crate::stay::Mark;
use crate::task::Task;
use crate::{Errno, Result};
use core::sync::atomic::{AtomicBool, Ordering};
use platform::time::Instant;
use spin::Once;

/// A thread as a watcher of hubs. One for each thread, made with it: waiting allocates nothing.
pub struct Waiter {
    thread: Once<rt::ThreadRef>,
    fired: AtomicBool,
}

impl Waiter {
    /// A waiter for a thread that is not running yet.
    pub(crate) fn new() -> Waiter {
        Waiter { thread: Once::new(), fired: AtomicBool::new(false) }
    }

    /// Tells which scheduler thread it is; done once, by parent or child, whoever comes first.
    pub(crate) fn bind(&self, thread: &rt::ThreadRef) {
        self.thread.call_once(|| thread.clone());
    }

    /// The scheduler's thread, once it runs.
    pub fn thread(&self) -> Option<&rt::ThreadRef> {
        self.thread.get()
    }

    /// Forgets events up to now. What is looked at after this is not missed.
    pub fn reset(&self) {
        self.fired.store(false, Ordering::SeqCst);
    }

    /// Whether an event came since [`Waiter::reset`].
    pub fn fired(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }

    /// Wakes the thread as an event would. Answers whether it was the first event since the reset.
    pub fn fire(&self) -> bool {
        let first = !self.fired.swap(true, Ordering::AcqRel);
        if first && let Some(thread) = self.thread.get() {
            rt::unpark(thread);
        }
        first
    }

    /// Its key in hubs.
    pub fn key(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }
}

impl Watcher for Waiter {
    fn notify(&self, _events: Events) -> bool {
        self.fire()
    }
}

/// Why a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// The waiter fired.
    Event,
    /// The deadline passed.
    Deadline,
    /// A signal waits for the thread.
    Signal,
}

/// Parks the thread until its waiter fires, the deadline passes or a signal comes.
pub fn sleep(task: &Task, deadline: Option<Instant>) -> Woken {
    loop {
        if task.waiter.fired() {
            return Woken::Event;
        }
        if task.interrupted() {
            return Woken::Signal;
        }
        if deadline.is_some_and(|at| platform::time::now() >= at) {
            return Woken::Deadline;
        }
        // A permit left over from an earlier event only makes the loop go round once more.
        if rt::park(deadline) == Wake::TimedOut && !task.waiter.fired() {
            return if task.interrupted() { Woken::Signal } else { Woken::Deadline };
        }
    }
}

/// How a call on a file waits.
#[derive(Clone, Copy)]
pub struct Waiting {
    /// Which events may end the wait.
    pub events: Events,
    /// Whether one event should wake only one of several waiters (accept, epoll_wait).
    pub exclusive: bool,
    /// When it gives up, with EAGAIN (SO_RCVTIMEO, SO_SNDTIMEO).
    pub deadline: Option<Instant>,
}

impl Waiting {
    /// Waits for `events` as long as it takes.
    pub const fn for_events(events: Events) -> Waiting {
        Waiting { events, exclusive: false, deadline: None }
    }

    /// One waiter for each event.
    pub const fn exclusive(self) -> Waiting {
        Waiting { exclusive: true, ..self }
    }

    /// With a deadline.
    pub const fn until(self, deadline: Option<Instant>) -> Waiting {
        Waiting { deadline, ..self }
    }
}

/// Tries `attempt` on a file until it says something else than EAGAIN. Descriptions with O_NONBLOCK
/// do not wait (for MSG_DONTWAIT and the like, the caller does not come here). The caller has a count of the
/// description, which is let go of if the process is killed while it sleeps ([`crate::stay`]); another file that it holds
/// meanwhile it notes itself.
pub fn block_on<T>(
    ctx: &Ctx,
    open: &OpenFile,
    how: Waiting,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    match attempt() {
        Err(Errno::EAGAIN) if !open.nonblocking() => {}
        done => return done,
    }
    let Some(hub) = open.file.hub() else { return Err(Errno::EAGAIN) };
    ctx.task.stay.holding(&[open], || block_on_hub(ctx, hub, how, attempt))
}

/// As [`block_on`], for a hub alone and without the first try.
pub fn block_on_hub<T>(
    ctx: &Ctx,
    hub: &Hub,
    how: Waiting,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let waiter = &ctx.task.waiter;
    waiter.reset();
    let _registered = Registration::new(hub, how.events, how.exclusive, ctx.task);
    loop {
        match attempt() {
            Err(Errno::EAGAIN) => {}
            done => return done,
        }
        let woken = sleep(ctx.task, how.deadline);
        if woken == Woken::Event {
            waiter.reset();
            continue;
        }
        // An exclusive event may have been given to us alone just now: it must not be lost.
        match attempt() {
            Err(Errno::EAGAIN) if woken == Woken::Deadline => return Err(Errno::EAGAIN),
            // socket(7): a call with a timeout is not restarted after a handler (signal(7)).
            Err(Errno::EAGAIN) if how.deadline.is_some() => return Err(RESTART_NO_HANDLER),
            Err(Errno::EAGAIN) => return Err(RESTART),
            done => return done,
        }
    }
}

/// Sleeps until the deadline (forever without one); `Err` is the given restart code on a signal.
pub fn sleep_until(ctx: &Ctx, deadline: Option<Instant>, restart: Errno) -> Result<()> {
    ctx.task.waiter.reset();
    match sleep(ctx.task, deadline) {
        Woken::Signal => Err(restart),
        Woken::Event | Woken::Deadline => Ok(()),
    }
}

/// Waits for something of the host's that it tells nobody about: asks until the answer is not EAGAIN, when the hub
/// is told of something and at growing intervals up to `longest` nanoseconds. A signal interrupts it, which it
/// would not a host call on a helper thread.
pub fn ask_again<T>(ctx: &Ctx, hub: &Hub, longest: u64, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let mut pause = platform::time::MILLISECOND;
    loop {
        let how = Waiting::for_events(Events::READABLE).until(Some(platform::time::now().after(pause)));
        match block_on_hub(ctx, hub, how, &mut ask) {
            Err(Errno::EAGAIN) => pause = (pause * 2).min(longest),
            Err(RESTART_NO_HANDLER) => return Err(RESTART),
            done => return done,
        }
    }
}

/// A waiter's place in a hub for the length of a wait.
pub struct Registration<'a> {
    hub: &'a Hub,
    task: &'a Task,
    mark: Mark,
}

impl<'a> Registration<'a> {
    /// Registers the thread's waiter.
    pub fn new(hub: &'a Hub, events: Events, exclusive: bool, task: &'a Task) -> Registration<'a> {
        let mark = task.stay.mark();
        task.stay.registered(hub);
        hub.add(task.waiter.key(), events, exclusive, task.waiter.clone());
        Registration { hub, task, mark }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.hub.remove(self.task.waiter.key());
        self.task.stay.strike(self.mark);
    }
}
