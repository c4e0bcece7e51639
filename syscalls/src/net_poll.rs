//! Drives the TCP/IP engine: on a call, on a deadline, when a vCPU has nothing else to do. Tells the
//! hubs of sockets what changed.
//!
//! One [`Stack`] for each shard holds the engine, its device and the registry of sockets, behind one
//! lock that is held for the length of an engine operation. Lock order: stack, then a hub, then the
//! scheduler. A thread never waits for frames here; it parks on its socket's hub.

use crate::hub::{Events, Hub};
use crate::net_device::{Backend, Notice};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use net::{Ready, Shard, SocketId};
use platform::sync::{Guard, Lock};
use platform::time::{self, Instant};

/// One shard with all that belongs to it.
pub struct Stack {
    /// The engine.
    pub shard: Shard,
    /// The device below it.
    pub backend: Backend,
    /// Sockets that somebody has, and their hubs, by the socket's cookie, less 1.
    hubs: Vec<Option<(SocketId, Arc<Hub>)>>,
    free: Vec<usize>,
    /// Told when the device was changed; under the lock.
    report: fn(Notice),
    /// Which of the engine's addresses were told of.
    addresses_told: u64,
}

/// Rounds of one poll: a flood of frames must not keep a vCPU from its threads.
const ROUNDS: usize = 8;

struct Net {
    stack: Lock<Stack>,
    /// The engine's next deadline in nanoseconds, `u64::MAX` for none: read without the lock.
    deadline: AtomicU64,
}

/// Kernel state's network part: a constant once the guest has started.
static NET: AtomicPtr<Net> = AtomicPtr::new(core::ptr::null_mut());

/// Brings the network up. Called once, inside the kernel, before the first thread.
pub fn init(shard: Shard, backend: Backend, report: fn(Notice)) {
    let stack = Stack { shard, backend, hubs: Vec::new(), free: Vec::new(), report, addresses_told: 0 };
    let net = Box::new(Net { stack: Lock::new(stack), deadline: AtomicU64::new(u64::MAX) });
    NET.store(Box::into_raw(net), Ordering::Release);
}

#[inline]
fn net() -> Option<&'static Net> {
    // SAFETY: set once by `init`, to a leaked box in the arena.
    unsafe { NET.load(Ordering::Acquire).as_ref() }
}

impl Net {
    #[inline]
    fn lock(&self) -> Guard<'_, Stack> {
        let mut stack = self.stack.lock();
        stack.backend.sync();
        stack
    }

    #[inline]
    fn try_lock(&self) -> Option<Guard<'_, Stack>> {
        let mut stack = self.stack.try_lock()?;
        stack.backend.sync();
        Some(stack)
    }
}

/// The stack for one operation on a socket. When the guard goes, what the operation wants to send is
/// sent, and whoever waits for what it changed is told.
pub struct Access {
    guard: Guard<'static, Stack>,
    net: &'static Net,
}

/// Locks the stack.
///
/// # Panics
/// Before [`init`]; the guest brings the network up before its first thread.
#[inline]
pub fn access() -> Access {
    try_access().expect("the network is up")
}

/// The same; `None` before [`init`].
#[inline]
pub fn try_access() -> Option<Access> {
    let net = net()?;
    Some(Access { guard: net.lock(), net })
}

impl core::ops::Deref for Access {
    type Target = Stack;
    fn deref(&self) -> &Stack {
        &self.guard
    }
}

impl core::ops::DerefMut for Access {
    fn deref_mut(&mut self) -> &mut Stack {
        &mut self.guard
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if self.guard.shard.wants_flush() {
            self.guard.flush(time::now());
        }
        self.guard.tell(self.net);
    }
}

impl Stack {
    /// Registers a socket's hub for its events.
    pub fn register(&mut self, id: SocketId, hub: Arc<Hub>) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.hubs.push(None);
            self.hubs.len() - 1
        });
        self.hubs[index] = Some((id, hub));
        let cookie = index as u64 + 1;
        self.shard.set_cookie(id, cookie);
        cookie
    }

    /// Closes a socket and forgets its hub. Last of all that it is registered: whoever does this may be killed in the
    /// middle, and then somebody else does it again (`lost.rs`).
    fn close(&mut self, id: SocketId, cookie: u64) {
        let index = cookie as usize - 1;
        if self.hubs.get(index).is_some_and(|entry| entry.as_ref().is_some_and(|(there, _)| *there == id)) {
            self.shard.set_cookie(id, 0);
            self.shard.close(id);
            let entry = self.hubs[index].take();
            self.free.push(index);
            drop(entry);
        }
    }

    /// The sockets that are registered, with their cookies.
    pub fn registered(&self) -> Vec<(SocketId, u64)> {
        let named = self.hubs.iter().zip(1..);
        named.filter_map(|(entry, cookie)| Some((entry.as_ref()?.0, cookie))).collect()
    }

    fn flush(&mut self, now: Instant) {
        let Stack { shard, backend, .. } = self;
        shard.flush(now, backend);
    }

    /// Whether a poll would find something although no timer is due.
    fn has_work(&mut self) -> bool {
        self.backend.has_work() || self.shard.wants_flush()
    }

    /// Takes frames and runs timers; the frames taken. After a new server has begun its life, what was
    /// in flight is sent again and peers are woken, instead of waiting for retransmission timers.
    fn poll(&mut self, now: Instant) -> usize {
        let Stack { shard, backend, .. } = self;
        let mut total = 0;
        for _ in 0..ROUNDS {
            let frames = shard.poll(now, backend);
            total += frames;
            // In the same poll: what has died is replaced, and what was lost with it is sent again.
            let lost = backend.polled(now);
            if lost {
                shard.kick();
            }
            if frames == 0 && !lost {
                break;
            }
        }
        total
    }

    /// Polls until nothing is left to deliver, at most `limit_ns`; sleeps in between. Whether it is so.
    fn finish(&mut self, limit_ns: u64, nap_ns: u64) -> bool {
        let deadline = time::now().after(limit_ns);
        while self.shard.has_unfinished() {
            let now = time::now();
            if now > deadline {
                return false;
            }
            if self.poll(now) == 0 && nap_ns != 0 {
                let nap = time::Timespec::from_ns(nap_ns);
                // SAFETY: a timespec of ours.
                let _ = unsafe { platform::host!(nanosleep, &raw const nap, 0) };
            }
        }
        true
    }

    /// Tells the hubs what changed, and the vCPUs when to poll at the latest.
    fn tell(&mut self, net: &Net) {
        while let Some(event) = self.shard.next_event() {
            let entry = (event.cookie as usize).checked_sub(1).and_then(|at| self.hubs.get(at)?.as_ref());
            if let Some((_, hub)) = entry {
                hub.notify(events(event.ready | event.news));
            }
        }
        if let Some(notice) = self.backend.take_notice() {
            (self.report)(notice);
        }
        let changes = self.shard.address_changes();
        if core::mem::replace(&mut self.addresses_told, changes) != changes {
            crate::net_lease::changed(&self.shard);
        }
        let deadlines = [self.shard.deadline(), self.backend.deadline()];
        let deadline = deadlines.into_iter().flatten().min().map_or(u64::MAX, |at| at.0);
        net.deadline.store(deadline, Ordering::Relaxed);
    }
}

/// Readiness in poll(2)'s words.
pub fn events(ready: Ready) -> Events {
    let mut events = Events::empty();
    if ready.contains(Ready::READABLE) {
        events |= Events::READABLE;
    }
    if ready.contains(Ready::WRITABLE) {
        events |= Events::WRITABLE;
    }
    if ready.contains(Ready::URGENT) {
        events |= Events::PRI;
    }
    if ready.contains(Ready::PEER_CLOSED) {
        events |= Events::RDHUP | Events::READABLE;
    }
    if ready.contains(Ready::HANGUP) {
        events |= Events::HUP | Events::RDHUP | Events::READABLE | Events::WRITABLE;
    }
    if ready.contains(Ready::ERROR) {
        events |= Events::ERR | Events::READABLE | Events::WRITABLE;
    }
    events
}

/// Polls the network unless somebody else does just now. Whether frames came.
pub fn poll() -> bool {
    let Some(net) = net() else { return false };
    let Some(mut stack) = net.try_lock() else { return false };
    let now = time::now();
    let due = net.deadline.load(Ordering::Relaxed) <= now.0;
    if !due && !stack.has_work() {
        return false;
    }
    let frames = stack.poll(now);
    stack.tell(net);
    frames != 0
}

/// How long an ending process waits itself for its last bytes to be acknowledged.
const FINISH_HERE_NS: u64 = 2_000_000;
/// How long they are looked after when it has gone (tcp_orphan_retries of Linux ends in this order).
const FINISH_BEHIND_NS: u64 = 60 * time::SECOND;

/// The process has closed everything and ends: what its connections have not delivered yet goes on.
///
/// On Linux the kernel does that. Here the engine would end with the process, so the host process is
/// forked: the child keeps the rings and the engine (both shared memory) and nothing else to do, the
/// parent ends with its status at once. The stack's lock is taken first and never given back, so that
/// no thread of the parent is inside the engine, then or later.
pub(crate) fn finish() {
    let Some(net) = net() else { return };
    let mut stack = net.lock();
    if !stack.finish(FINISH_HERE_NS, 0) && fork_host() {
        stack.finish(FINISH_BEHIND_NS, 500_000);
        platform::thread::exit_group(0);
    }
    core::mem::forget(stack);
}

/// fork(2) of the host, without a signal to the parent. Whether this is the child; it has let go of
/// the standard streams, whose readers wait for their end.
fn fork_host() -> bool {
    // SAFETY: the child has one thread, this one; it touches the engine (locked by us) and no other
    // state of the scheduler.
    unsafe {
        let child = platform::host!(clone, 0, 0, 0, 0, 0) == Ok(0);
        if child {
            for fd in 0..3 {
                let _ = platform::host!(close, fd);
            }
        }
        child
    }
}

/// When the network must be polled at the latest.
pub fn deadline() -> Option<Instant> {
    match net()?.deadline.load(Ordering::Relaxed) {
        u64::MAX => None,
        at => Some(Instant(at)),
    }
}

/// A vCPU is about to sleep: from here on the server rings the doorbell. `false`: frames are there.
pub fn before_sleep() -> bool {
    let Some(net) = net() else { return true };
    // Whoever has the lock works on the network and may change what we would announce: stay awake.
    net.try_lock().is_some_and(|mut stack| stack.backend.announce_sleep())
}

/// The last vCPU that slept is awake again. One that has gone to sleep meanwhile has announced that
/// before or after us, under the lock; it counted itself before, so we see it.
pub fn after_sleep() {
    let Some(net) = net() else { return };
    if let Some(mut stack) = net.try_lock()
        && crate::rt::sleepers() == 0
    {
        stack.backend.awake();
    }
}

/// A tick found a vCPU computing: if others sleep, the server shall ring one of them rather than let
/// frames wait for the next tick.
pub fn hand_over() {
    let Some(net) = net() else { return };
    if crate::rt::sleepers() != 0
        && let Some(mut stack) = net.try_lock()
    {
        // Frames that are there already are taken by the next poll.
        let _ = stack.backend.announce_sleep();
    }
}

impl Access {
    /// What was counted since the start.
    pub fn counters(&self) -> net::control::Counters {
        let retransmissions = self.shard.retransmissions();
        net::control::Counters { retransmissions, ..self.backend.counters() }
    }

    /// Polls now: what was asked of the device takes effect.
    pub fn poll(&mut self) {
        self.guard.poll(time::now());
    }
}

/// Closes an engine socket, if that has not been done, and forgets its hub.
pub(crate) fn close(id: SocketId, cookie: u64) {
    access().close(id, cookie);
}
