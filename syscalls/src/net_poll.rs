//! Drives the TCP/IP engine: on a call, on a deadline, when a vCPU has nothing else to do. Tells the
//! hubs of sockets what changed.
//!
//! One [`Stack`] for each shard holds an engine and the registry of its sockets, behind one lock that is held for
//! the length of an engine operation. A guest has one shard or as many as `--shards` says; a vCPU has one that is
//! its own ([`own`]): its sockets begin there, its polls take care of it first. The frame of a flow is taken by the vCPU
//! that polls the device, which is the flow's in the best case; else it goes through the shard's inbox, and whoever has
//! the shard takes it from there. A vCPU that has nothing to do serves other shards as well if nobody else does.
//!
//! Lock order: stacks by their numbers, then the device, then an inbox's sending end; a stack, then a hub, then the
//! scheduler. A thread never waits for frames here; it parks on its socket's hub.

use crate::hub::{Events, Hub};
use crate::net_device::{Backend, Notice};
use crate::net_link::{Facts, Lane, Sending, Sorter, store};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};
use net::ring::Inbox;
use net::{Control, HOME, Ready, Shard, SocketId, Steering};
use platform::sync::{Guard, Lock};
use platform::time::{self, Instant};

/// One shard with all that belongs to it.
pub struct Stack {
    /// The engine.
    pub shard: Shard,
    /// What others received for it; `None` if it is the only one.
    inbox: Option<Inbox>,
    /// Sockets that somebody has, and their hubs, by the cookie of the socket ([`cookie`]).
    hubs: Vec<Option<(SocketId, Arc<Hub>)>>,
    free: Vec<usize>,
    /// Which of the engine's addresses were told of.
    addresses_told: u64,
    /// Which of the home shard's words are known, or were said.
    control_seen: u64,
}

/// Rounds of one poll: a flood of frames must not keep a vCPU from its threads.
const ROUNDS: usize = 8;

struct Net {
    stacks: Box<[Lock<Stack>]>,
    lanes: Box<[Lane]>,
    steering: Steering,
    device: Lock<Backend>,
    facts: Facts,
    /// When the device must be looked at, in nanoseconds.
    device_deadline: AtomicU64,
    /// How often frames may have been lost with a device or a server: each shard makes its peers speak.
    kicks: AtomicU64,
    /// What the home shard said last, and how often it has.
    control: Lock<Option<Control>>,
    control_said: AtomicU64,
    /// Told when the device was changed; under its lock.
    report: fn(Notice),
}

/// Kernel state's network part: a constant once the guest has started.
static NET: AtomicPtr<Net> = AtomicPtr::new(core::ptr::null_mut());

/// Brings the network up with the shards of one group. Called once, inside the kernel, before the first thread.
pub fn init(shards: Vec<Shard>, device: Backend, report: fn(Notice)) {
    let alone = shards.len() == 1;
    let steering = shards[HOME].steering();
    let (mut stacks, mut lanes) = (Vec::new(), Vec::new());
    for shard in shards {
        let ends = (!alone).then(net::ring::inbox);
        let (sending, inbox) = ends
            .map_or((None, None), |(sender, inbox, glance)| (Some((Lock::new(sender), glance)), Some(inbox)));
        stacks.push(Lock::new(Stack {
            shard,
            inbox,
            hubs: Vec::new(),
            free: Vec::new(),
            addresses_told: 0,
            control_seen: 0,
        }));
        let (deadline, kicks, facts) = (AtomicU64::new(u64::MAX), AtomicU64::new(0), AtomicU64::new(0));
        lanes.push(Lane { deadline, kicks, facts, inbox: sending });
    }
    let facts = Facts::of(&device);
    let net = Box::new(Net {
        stacks: stacks.into_boxed_slice(),
        lanes: lanes.into_boxed_slice(),
        steering,
        device: Lock::new(device),
        facts,
        device_deadline: AtomicU64::new(u64::MAX),
        kicks: AtomicU64::new(0),
        control: Lock::new(None),
        control_said: AtomicU64::new(0),
        report,
    });
    NET.store(Box::into_raw(net), Ordering::Release);
    // What the home shard came by while it was made.
    drop(home());
}

#[inline]
fn net() -> Option<&'static Net> {
    // SAFETY: set once by `init`, to a leaked box in the arena.
    unsafe { NET.load(Ordering::Acquire).as_ref() }
}

#[inline]
fn expect() -> &'static Net {
    net().expect("the network is up")
}

impl Net {
    #[inline]
    fn lock(&self, shard: usize) -> Guard<'_, Stack> {
        let mut stack = self.stacks[shard].lock();
        stack.listen_home(self);
        stack
    }

    #[inline]
    fn try_lock(&self, shard: usize) -> Option<Guard<'_, Stack>> {
        let mut stack = self.stacks[shard].try_lock()?;
        stack.listen_home(self);
        Some(stack)
    }

    fn device(&self) -> Guard<'_, Backend> {
        let mut device = self.device.lock();
        device.sync();
        device
    }

    fn try_device(&self) -> Option<Guard<'_, Backend>> {
        let mut device = self.device.try_lock()?;
        device.sync();
        Some(device)
    }

    fn is_alone(&self) -> bool {
        self.stacks.len() == 1
    }

    /// What a look at the device after a poll brings.
    fn tend(&self, device: &mut Backend, now: Instant) {
        if device.polled(now) {
            self.kicks.fetch_add(1, Ordering::Relaxed);
        }
        self.note(device);
    }

    /// Notes what others want to know of the device without its lock.
    fn note(&self, device: &mut Backend) {
        while let Some(notice) = device.take_notice() {
            (self.report)(notice);
        }
        self.facts.update(device);
        store(&self.device_deadline, device.deadline().map_or(u64::MAX, |at| at.0));
    }

    /// Frames were lost, and the shard has not made that good yet.
    #[inline]
    fn needs_kick(&self, shard: usize) -> bool {
        self.lanes[shard].kicks.load(Ordering::Relaxed) != self.kicks.load(Ordering::Relaxed)
    }

    /// The device is another one than the shard knows.
    #[inline]
    fn is_strange(&self, shard: usize) -> bool {
        self.lanes[shard].facts.load(Ordering::Relaxed) != self.facts.version() && !self.is_alone()
    }

    /// Something waits for the shard that nobody will tell of again.
    #[inline]
    fn is_wanted(&self, shard: usize) -> bool {
        self.needs_kick(shard) || self.is_strange(shard) || self.lanes[shard].has_mail()
    }

    /// The caller had the shard's lock. What came into its inbox meanwhile, nobody else may look after: whoever brought it
    /// found the lock taken and did not wait. Dekker's pattern: he publishes, then tries the lock (a full barrier); we
    /// unlock, then look. One of us sees the other.
    #[inline]
    fn attend(&self, shard: usize) {
        if !self.is_alone() {
            fence(Ordering::SeqCst);
            if self.lanes[shard].has_mail() {
                self.take_mail(shard);
            }
        }
    }

    #[cold]
    fn take_mail(&self, shard: usize) {
        // Not for ever: who brings more and more polls, too.
        for _ in 0..ROUNDS {
            let Some(mut stack) = self.try_lock(shard) else { return };
            stack.read_mail(self, time::now());
            stack.tell(self);
            drop(stack);
            fence(Ordering::SeqCst);
            if !self.lanes[shard].has_mail() {
                return;
            }
        }
    }

    fn sending(&self) -> Sending<'_> {
        Sending::new(&self.device, &self.facts)
    }

    /// The shard has something to do although no frame is in the device.
    #[inline]
    fn is_due(&self, shard: usize, now: Instant) -> bool {
        self.lanes[shard].deadline.load(Ordering::Relaxed) <= now.0 || self.is_wanted(shard)
    }
}

/// The shards of this guest.
pub(crate) fn shards() -> usize {
    expect().stacks.len()
}

/// The shard of the vCPU that the caller runs on. Processes of one vCPU have different ones.
pub(crate) fn own() -> usize {
    match shards() {
        1 => HOME,
        shards => crate::rt::lane() % shards,
    }
}

/// A stack for one operation on a socket. When the guard goes, what the operation wants to send is
/// sent, and whoever waits for what it changed is told.
pub struct Access {
    guard: Guard<'static, Stack>,
    net: &'static Net,
    /// Dropped after the guard: fields go in their order.
    _after: Attend,
}

/// Looks after the mail of a shard when its lock has been given back.
struct Attend {
    net: &'static Net,
    shard: usize,
}

impl Drop for Attend {
    #[inline]
    fn drop(&mut self) {
        self.net.attend(self.shard);
    }
}

/// Locks the stack of shard `shard`.
#[inline]
pub(crate) fn at(shard: usize) -> Access {
    let net = expect();
    Access { guard: net.lock(shard), net, _after: Attend { net, shard } }
}

/// Locks the home shard's stack: addresses, routes, all sockets but TCP's.
///
/// # Panics
/// Before [`init`]; the guest brings the network up before its first thread.
#[inline]
pub fn home() -> Access {
    at(HOME)
}

/// Locks two stacks, in their order.
pub(crate) fn two(a: usize, b: usize) -> (Access, Access) {
    if a < b {
        let first = at(a);
        (first, at(b))
    } else {
        let first = at(b);
        (at(a), first)
    }
}

/// Visits each stack; none before [`init`].
pub(crate) fn each(mut visit: impl FnMut(&mut Stack)) {
    let count = net().map_or(0, |net| net.stacks.len());
    (0..count).for_each(|shard| visit(&mut at(shard)));
}

/// Visits each stack but the home shard's.
pub(crate) fn others(mut visit: impl FnMut(&mut Stack)) {
    (HOME + 1..shards()).for_each(|shard| visit(&mut at(shard)));
}

/// The device, for whoever changes it or asks it.
pub struct DeviceAccess {
    guard: Guard<'static, Backend>,
    net: &'static Net,
}

/// Locks the device. Not with a stack locked by the caller.
pub fn device() -> DeviceAccess {
    let net = expect();
    DeviceAccess { guard: net.device(), net }
}

impl core::ops::Deref for DeviceAccess {
    type Target = Backend;
    fn deref(&self) -> &Backend {
        &self.guard
    }
}

impl core::ops::DerefMut for DeviceAccess {
    fn deref_mut(&mut self) -> &mut Backend {
        &mut self.guard
    }
}

impl Drop for DeviceAccess {
    fn drop(&mut self) {
        self.net.note(&mut self.guard);
    }
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
            self.guard.flush(self.net, time::now());
        }
        self.guard.tell(self.net);
    }
}

/// The cookie of the socket whose hub is at `index`.
fn cookie(index: usize, shard: usize) -> u64 {
    ((index as u64) << 8 | shard as u64) + 1
}

/// Where the hub of the socket with this cookie is.
fn index_of(cookie: u64) -> Option<usize> {
    cookie.checked_sub(1).map(|word| (word >> 8) as usize)
}

impl Stack {
    /// Registers a socket's hub for its events.
    pub fn register(&mut self, id: SocketId, hub: Arc<Hub>) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.hubs.push(None);
            self.hubs.len() - 1
        });
        self.hubs[index] = Some((id, hub));
        let cookie = cookie(index, self.shard.number());
        self.shard.set_cookie(id, cookie);
        cookie
    }

    /// Forgets the hub of a socket that goes to another shard.
    pub(crate) fn unregister(&mut self, id: SocketId, cookie: u64) {
        self.shard.set_cookie(id, 0);
        self.forget(id, cookie);
    }

    /// Closes a socket and forgets its hub. Last of all that it is registered: whoever does this may be killed in the
    /// middle, and then somebody else does it again (`lost.rs`).
    fn close(&mut self, id: SocketId, cookie: u64) {
        if self.has(id, cookie) {
            self.shard.set_cookie(id, 0);
            self.shard.close(id);
            self.forget(id, cookie);
        }
    }

    /// As [`Stack::close`], for one that may not be registered. (The engine knows an identifier that is used up.)
    fn close_lost(&mut self, id: SocketId, cookie: u64) {
        match cookie {
            0 => self.shard.close(id),
            _ => self.close(id, cookie),
        }
    }

    fn has(&self, id: SocketId, cookie: u64) -> bool {
        let entry = index_of(cookie).and_then(|index| self.hubs.get(index)?.as_ref());
        entry.is_some_and(|(there, _)| *there == id)
    }

    fn forget(&mut self, id: SocketId, cookie: u64) {
        if let Some(index) = index_of(cookie).filter(|_| self.has(id, cookie)) {
            let entry = self.hubs[index].take();
            self.free.push(index);
            drop(entry);
        }
    }

    /// The sockets that somebody is to close, with their cookies. 0: not registered yet, or no more.
    pub(crate) fn owned(&self) -> Vec<(SocketId, u64)> {
        let shard = self.shard.number();
        let named = self.hubs.iter().enumerate();
        let named = named.filter_map(|(index, entry)| Some((entry.as_ref()?.0, cookie(index, shard))));
        let mut owned: BTreeMap<SocketId, u64> = self.shard.owned().map(|id| (id, 0)).collect();
        owned.extend(named);
        owned.into_iter().collect()
    }

    /// Takes over what the home shard has said since.
    #[inline]
    fn listen_home(&mut self, net: &Net) {
        if net.control_said.load(Ordering::Acquire) != self.control_seen && !self.is_home() {
            self.adopt(net);
        }
    }

    #[cold]
    fn adopt(&mut self, net: &Net) {
        let control = net.control.lock();
        self.control_seen = net.control_said.load(Ordering::Relaxed);
        if let Some(control) = control.as_ref() {
            self.shard.adopt(control);
        }
    }

    fn is_home(&self) -> bool {
        self.shard.number() == HOME
    }

    fn flush(&mut self, net: &Net, now: Instant) {
        if net.is_alone() {
            return self.shard.flush(now, &mut *net.device());
        }
        self.meet(net);
        self.shard.flush(now, &mut net.sending());
    }

    /// Looks whether the device is another one.
    #[inline]
    fn meet(&mut self, net: &Net) {
        let number = self.shard.number();
        if net.is_strange(number) {
            net.lanes[number].facts.store(net.facts.version(), Ordering::Relaxed);
            self.shard.meet(&net.sending());
        }
    }

    /// Takes frames and runs timers; the frames taken. After a new server has begun its life, what was
    /// in flight is sent again and peers are woken, instead of waiting for retransmission timers.
    fn poll(&mut self, net: &Net, now: Instant) -> usize {
        let mut total = 0;
        for _ in 0..ROUNDS {
            let frames = if net.is_alone() { self.round_alone(net, now) } else { self.round(net, now) };
            total += frames;
            // In the same poll: what has died is replaced, and what was lost with it is sent again.
            let lost = net.kicks.load(Ordering::Relaxed);
            let kick = net.lanes[self.shard.number()].kicks.swap(lost, Ordering::Relaxed) != lost;
            if kick {
                self.shard.kick();
            }
            if frames == 0 && !kick {
                break;
            }
        }
        total
    }

    fn round_alone(&mut self, net: &Net, now: Instant) -> usize {
        let mut device = net.device();
        let frames = self.shard.poll(now, &mut *device);
        net.tend(&mut device, now);
        frames
    }

    fn round(&mut self, net: &Net, now: Instant) -> usize {
        self.meet(net);
        let Stack { shard, inbox, .. } = self;
        let mut mail = || inbox.as_mut().map_or(0, |inbox| shard.take_inbox(now, inbox));
        let mut frames = mail();
        // Whoever has the device receives for all.
        if let Some(mut device) = net.try_device() {
            // What came before what is in the device now.
            frames += mail();
            let (lanes, steering, own) = (&net.lanes, net.steering, shard.number());
            let mut sorter = Sorter { device: &mut device, lanes, steering, own };
            frames += shard.receive(now, &mut sorter);
            // It may have turned to another backend.
            net.facts.update(&device);
        }
        self.meet(net);
        self.shard.advance(now, &mut net.sending());
        self.pass_on(net);
        if let Some(mut device) = net.try_device() {
            net.tend(&mut device, now);
        }
        frames
    }

    /// Takes what came by the inbox alone, and sends.
    #[cold]
    fn read_mail(&mut self, net: &Net, now: Instant) {
        self.meet(net);
        let Stack { shard, inbox, .. } = self;
        if let Some(inbox) = inbox {
            shard.take_inbox(now, inbox);
        }
        shard.advance(now, &mut net.sending());
    }

    /// Brings what belongs to other shards to their inboxes.
    fn pass_on(&mut self, net: &Net) {
        while let Some(stray) = self.shard.next_stray() {
            net.lanes[stray.to].send(stray.kind, &stray.bytes);
        }
    }

    /// Tells the hubs what changed, and the vCPUs when to poll at the latest.
    fn tell(&mut self, net: &Net) {
        while let Some(event) = self.shard.next_event() {
            let entry = index_of(event.cookie).and_then(|at| self.hubs.get(at)?.as_ref());
            if let Some((_, hub)) = entry {
                hub.notify(events(event.ready | event.news));
            }
        }
        if !net.is_alone() {
            self.pass_on(net);
        }
        if self.is_home() {
            self.tell_of_home(net);
        }
        let deadline = self.shard.deadline().map_or(u64::MAX, |at| at.0);
        net.lanes[self.shard.number()].deadline.store(deadline, Ordering::Relaxed);
    }

    /// What only the home shard has: addresses and routes.
    fn tell_of_home(&mut self, net: &Net) {
        let changes = self.shard.address_changes();
        if core::mem::replace(&mut self.addresses_told, changes) != changes {
            crate::net_lease::changed(&self.shard);
        }
        let version = self.shard.control_version();
        if !net.is_alone() && core::mem::replace(&mut self.control_seen, version) != version {
            let mut control = net.control.lock();
            *control = Some(self.shard.control());
            net.control_said.fetch_add(1, Ordering::Release);
        }
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

/// Polls the network: the caller's own shard, and others that have something to do, unless somebody else does just
/// now. Whether frames came.
pub fn poll() -> bool {
    let Some(net) = net() else { return false };
    let (now, own) = (time::now(), own());
    let mut came = poll_shard(net, own, now, true);
    for shard in (0..net.stacks.len()).filter(|shard| *shard != own) {
        came |= net.is_due(shard, now) && poll_shard(net, shard, now, false);
    }
    came
}

fn poll_shard(net: &Net, shard: usize, now: Instant, receives: bool) -> bool {
    let Some(mut stack) = net.try_lock(shard) else { return false };
    let due = net.is_due(shard, now) || net.device_deadline.load(Ordering::Relaxed) <= now.0;
    let has_frames = || receives && net.try_device().is_some_and(|mut device| device.has_work());
    let mut frames = 0;
    if due || stack.shard.wants_flush() || has_frames() {
        frames = stack.poll(net, now);
        stack.tell(net);
    }
    drop(stack);
    net.attend(shard);
    frames != 0
}

/// Polls now: what was asked of the device takes effect.
pub fn poll_now() {
    let net = expect();
    for shard in 0..net.stacks.len() {
        let mut stack = at(shard);
        stack.poll(net, time::now());
    }
}

/// A process of the guest was killed: what it held is free again, and what it left half done is gone on with. Whoever
/// lives is not waited for, it may keep the stacks for ever ([`finish`]).
pub(crate) fn recover() {
    let Some(net) = net() else { return };
    drop(net.device.reclaim());
    for lane in &net.lanes {
        drop(lane.inbox.as_ref().and_then(|(sender, _)| sender.reclaim()));
    }
    for (shard, stack) in net.stacks.iter().enumerate() {
        if let Some(mut stack) = stack.reclaim() {
            stack.listen_home(net);
            stack.poll(net, time::now());
            stack.tell(net);
        }
        net.attend(shard);
    }
}

/// How long an ending process waits itself for its last bytes to be acknowledged.
const FINISH_HERE_NS: u64 = 2_000_000;
/// How long they are looked after when it has gone (tcp_orphan_retries of Linux ends in this order).
const FINISH_BEHIND_NS: u64 = 60 * time::SECOND;

/// The process has closed everything and ends: what its connections have not delivered yet goes on.
///
/// On Linux the kernel does that. Here the engine would end with the process, so the host process is
/// forked: the child keeps the rings and the engine (both shared memory) and nothing else to do, the
/// parent ends with its status at once. The stacks' locks are taken first and never given back, so that
/// no thread of the parent is inside an engine, then or later.
pub(crate) fn finish() {
    let Some(net) = net() else { return };
    let mut stacks: Vec<_> = (0..net.stacks.len()).map(|shard| net.lock(shard)).collect();
    if !finish_all(net, &mut stacks, FINISH_HERE_NS, 0) && fork_host() {
        finish_all(net, &mut stacks, FINISH_BEHIND_NS, 500_000);
        platform::thread::exit_group(0);
    }
    core::mem::forget(stacks);
}

/// Polls until nothing is left to deliver, at most `limit_ns`; sleeps in between. Whether it is so.
fn finish_all(net: &Net, stacks: &mut [Guard<'_, Stack>], limit_ns: u64, nap_ns: u64) -> bool {
    let deadline = time::now().after(limit_ns);
    while stacks.iter().any(|stack| stack.shard.has_unfinished()) {
        let now = time::now();
        if now > deadline {
            return false;
        }
        let frames: usize = stacks.iter_mut().map(|stack| stack.poll(net, now)).sum();
        if frames == 0 && nap_ns != 0 {
            let nap = time::Timespec::from_ns(nap_ns);
            // SAFETY: a timespec of ours.
            let _ = unsafe { platform::host!(nanosleep, &raw const nap, 0) };
        }
    }
    true
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
    let net = net()?;
    let device = net.device_deadline.load(Ordering::Relaxed);
    let deadline = |shard: usize| match net.is_wanted(shard) {
        true => 0,
        false => net.lanes[shard].deadline.load(Ordering::Relaxed),
    };
    match (0..net.lanes.len()).map(deadline).fold(device, u64::min) {
        u64::MAX => None,
        at => Some(Instant(at)),
    }
}

/// A vCPU is about to sleep: from here on the server rings the doorbell. `false`: frames are there.
pub fn before_sleep() -> bool {
    let Some(net) = net() else { return true };
    // What lies in an inbox was received: nobody rings for it again.
    if (0..net.lanes.len()).any(|shard| net.is_wanted(shard)) {
        return false;
    }
    if net.is_alone() && net.stacks[HOME].try_lock().is_none() {
        // Whoever has the lock works on the network and may change what we would announce: stay awake.
        return false;
    }
    net.try_device().is_some_and(|mut device| device.announce_sleep())
}

/// The last vCPU that slept is awake again. One that has gone to sleep meanwhile has announced that
/// before or after us, under the lock; it counted itself before, so we see it.
pub fn after_sleep() {
    let Some(net) = net() else { return };
    if let Some(mut device) = net.try_device()
        && crate::rt::sleepers() == 0
    {
        device.awake();
    }
}

/// A tick found a vCPU computing: if others sleep, the server shall ring one of them rather than let
/// frames wait for the next tick.
pub fn hand_over() {
    let Some(net) = net() else { return };
    if crate::rt::sleepers() != 0
        && let Some(mut device) = net.try_device()
    {
        // Frames that are there already are taken by the next poll.
        let _ = device.announce_sleep();
    }
}

/// What was counted since the start.
pub fn counters() -> net::control::Counters {
    let mut retransmissions = 0;
    each(|stack| retransmissions += stack.shard.retransmissions());
    net::control::Counters { retransmissions, ..device().counters() }
}

/// What a shard has done: packets that its engine took, records from its inbox, records that found no room there.
pub(crate) fn work() -> Vec<[u64; 3]> {
    let net = expect();
    let row = |(shard, lane): (usize, &Lane)| {
        let dropped = lane.inbox.as_ref().map_or(0, |(sender, _)| sender.lock().dropped());
        let stack = at(shard);
        [stack.shard.packets(), stack.inbox.as_ref().map_or(0, Inbox::taken), dropped]
    };
    net.lanes.iter().enumerate().map(row).collect()
}

/// Closes an engine socket that nobody has any more (`lost.rs`).
pub(crate) fn close_lost(id: SocketId, cookie: u64) {
    at(id.shard()).close_lost(id, cookie);
}

/// Closes an engine socket, if that has not been done, and forgets its hub.
pub(crate) fn close(id: SocketId, cookie: u64) {
    at(id.shard()).close(id, cookie);
}
