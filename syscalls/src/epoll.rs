//! epoll(7): readiness of many descriptions, asked for at a cost of what is ready.
//!
//! A registration is an [`Item`], a watcher in the hub of its description. An event puts it in the
//! epoll's ready queue, once, and wakes one waiter; that is all that happens on the event's side.
//! [`Core::collect`] takes items from the queue, asks each file what is true *now*, and puts those
//! back that are level-triggered and still ready.
//!
//! The order that makes this lose nothing: `queued` is cleared before the file is asked. An event
//! after that finds it clear and queues the item again; an event before that has changed the state
//! which the question sees (the swap on `queued` orders the two).
//!
//! Locks, outermost first: `items`, a description's `watched`, a hub, `ready`. No file is asked while
//! `ready` is held, since events arrive with the file's own locks taken. Items hold their core, and
//! the core its items: [`Core::clear`] cuts that when the epoll is closed.
//!
//! Ignored: EPOLLWAKEUP (no suspend inside a guest).

use crate::args::{EpollOp, Fd, OpenFlags};
use crate::context::Ctx;
use crate::errno::wants_restart;
use crate::file::{File, O_CLOEXEC, OpenFile, Stat};
use crate::hub::{Events, Hub, Watcher};
use crate::signal;
use crate::time;
use crate::user::{USER_END, UserPtr};
use crate::wait::{self, Waiting};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hashbrown::HashMap;
use platform::sync::Lock;
use platform::time::{Instant, MILLISECOND, Timespec, now};
use spin::Once;

const EPOLLEXCLUSIVE: u32 = 1 << 28;
const EPOLLWAKEUP: u32 = 1 << 29;
const EPOLLONESHOT: u32 = 1 << 30;
const EPOLLET: u32 = 1 << 31;
/// How to report, as against what.
const MODES: u32 = EPOLLEXCLUSIVE | EPOLLWAKEUP | EPOLLONESHOT | EPOLLET;
const ALWAYS: u32 = Events::ALWAYS.bits();
/// What may stand beside EPOLLEXCLUSIVE (fs/eventpoll.c, EPOLLEXCLUSIVE_OK_BITS).
const EXCLUSIVE_OK: u32 = 0x1 | 0x4 | ALWAYS | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
/// Epolls may watch epolls, this many deep (EP_MAX_NESTS).
const MAX_NESTS: usize = 4;

const EPOLL_CTL_ADD: i32 = 1;
const EPOLL_CTL_DEL: i32 = 2;
const EPOLL_CTL_MOD: i32 = 3;

/// `struct epoll_event`, packed on x86-64.
#[repr(C, packed)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct EpollEvent {
    /// `EPOLL*`.
    pub events: u32,
    /// The program's own.
    pub data: u64,
}

/// The file behind an epoll descriptor.
pub struct Epoll {
    core: Arc<Core>,
}

/// What an epoll's items refer to.
struct Core {
    /// Threads in epoll_wait.
    waiters: Hub,
    /// Who watches this epoll as a file: poll, and outer epolls. Apart from `waiters` because what
    /// is left over for the next waiter is no news to them (Linux: `wq` and `poll_wait`).
    hub: Hub,
    ready: Lock<VecDeque<Arc<Item>>>,
    items: Lock<HashMap<Key, Arc<Item>>>,
    /// Its own description, for who asks which epolls watch this one.
    file: Once<Weak<OpenFile>>,
}

/// Linux's key: the descriptor number and the description, so that after `dup` both can be watched.
type Key = (i32, usize);

/// One registration.
pub struct Item {
    core: Arc<Core>,
    fd: i32,
    target: Weak<OpenFile>,
    /// Interest and modes; EPOLLERR and EPOLLHUP are always among the interest. Without any interest
    /// it is disarmed (EPOLLONESHOT).
    events: AtomicU32,
    data: AtomicU64,
    /// In the ready queue.
    queued: AtomicBool,
    /// Taken out of the epoll.
    dead: AtomicBool,
}

/// The registrations of one description, in whatever epolls.
pub struct Links(Lock<Vec<Arc<Item>>>);

impl Links {
    /// None.
    pub const fn new() -> Links {
        Links(Lock::new(Vec::new()))
    }
}

impl Default for Links {
    fn default() -> Self {
        Links::new()
    }
}

/// The description's last descriptor is closed: it leaves all epolls (epoll(7), questions 6).
pub fn forget(open: &OpenFile) {
    let items = core::mem::take(&mut *open.watched.0.lock());
    for item in items {
        let core = item.core.clone();
        core.items.lock().remove(&item.key());
        item.detach(open);
    }
}

// ---- calls ----

/// epoll_create(2).
pub fn epoll_create(ctx: &Ctx, size: i32) -> Result {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    epoll_create1(ctx, OpenFlags(0))
}

/// epoll_create1(2).
pub fn epoll_create1(ctx: &Ctx, flags: OpenFlags) -> Result {
    const O_RDWR: u32 = 2;
    if flags.0 & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let epoll = Epoll::new();
    let core = epoll.core.clone();
    let open = Arc::new(OpenFile::new(epoll, O_RDWR));
    core.file.call_once(|| Arc::downgrade(&open));
    ctx.install(open, flags.0 & O_CLOEXEC != 0)
}

/// epoll_ctl(2). The order of the checks is that of fs/eventpoll.c, do_epoll_ctl.
pub fn epoll_ctl(ctx: &Ctx, epfd: Fd, op: EpollOp, fd: Fd, event: UserPtr<EpollEvent>) -> Result {
    let event = if op.0 == EPOLL_CTL_DEL { EpollEvent::default() } else { event.read()? };
    let epoll_file = ctx.file(epfd)?;
    let target = ctx.file(fd)?;
    if target.file.hub().is_none() {
        return Err(Errno::EPERM);
    }
    let epoll = epoll_file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(&epoll_file, &target) {
        return Err(Errno::EINVAL);
    }
    let nested = target.downcast::<Epoll>();
    if op.0 != EPOLL_CTL_DEL && event.events & EPOLLEXCLUSIVE != 0 {
        let allowed = op.0 == EPOLL_CTL_ADD && nested.is_none() && event.events & !EXCLUSIVE_OK == 0;
        if !allowed {
            return Err(Errno::EINVAL);
        }
    }
    match op.0 {
        EPOLL_CTL_ADD => match nested {
            Some(inner) => {
                // One nested registration at a time: two could close a circle together.
                let _one = crate::process::root().epoll_nesting.lock();
                let depth = inner.core.depth_below(&epoll.core, 0)? + 1 + depth_above(&epoll_file, 0);
                if depth > MAX_NESTS {
                    return Err(Errno::ELOOP);
                }
                epoll.core.add(fd.0, &target, event)
            }
            None => epoll.core.add(fd.0, &target, event),
        },
        EPOLL_CTL_DEL => epoll.core.remove(fd.0, &target),
        EPOLL_CTL_MOD => epoll.core.modify(fd.0, &target, event),
        _ => Err(Errno::EINVAL),
    }
    .map(|()| 0)
}

/// epoll_wait(2).
pub fn epoll_wait(ctx: &Ctx, fd: Fd, events: UserPtr<EpollEvent>, max: i32, timeout: i32) -> Result {
    let limit = match timeout {
        0 => Limit::Look,
        1.. => Limit::At(now().after(timeout as u64 * MILLISECOND)),
        _ => Limit::None,
    };
    wait_events(ctx, fd, events, max, limit)
}

/// epoll_pwait(2).
pub fn epoll_pwait(
    ctx: &Ctx,
    fd: Fd,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout: i32,
    mask: UserPtr<u64>,
    size: usize,
) -> Result {
    signal::take_call_mask(ctx, mask, size)?;
    epoll_wait(ctx, fd, events, max, timeout)
}

/// epoll_pwait2(2).
pub fn epoll_pwait2(
    ctx: &Ctx,
    fd: Fd,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<u64>,
    size: usize,
) -> Result {
    let limit = match timeout.read_optional()? {
        None => Limit::None,
        Some(time) => match time::valid(time)? {
            0 => Limit::Look,
            ns => Limit::At(now().after(ns)),
        },
    };
    signal::take_call_mask(ctx, mask, size)?;
    wait_events(ctx, fd, events, max, limit)
}

enum Limit {
    Look,
    At(Instant),
    None,
}

fn wait_events(ctx: &Ctx, fd: Fd, events: UserPtr<EpollEvent>, max: i32, limit: Limit) -> Result {
    const SIZE: usize = size_of::<EpollEvent>();
    if max <= 0 || max as usize > i32::MAX as usize / SIZE {
        return Err(Errno::EINVAL);
    }
    let max = max as usize;
    if events.address().checked_add(max * SIZE).is_none_or(|end| end > USER_END) {
        return Err(Errno::EFAULT);
    }
    let open = ctx.file(fd)?;
    let core = &open.downcast::<Epoll>().ok_or(Errno::EINVAL)?.core;
    let collect = || match core.collect(events, max) {
        Ok(0) => Err(Errno::EAGAIN),
        done => done,
    };
    let deadline = match (collect(), limit) {
        (Err(Errno::EAGAIN), Limit::Look) => return Ok(0),
        (Err(Errno::EAGAIN), Limit::At(deadline)) => Some(deadline),
        (Err(Errno::EAGAIN), Limit::None) => None,
        (done, _) => return done,
    };
    let how = Waiting::for_events(Events::READABLE).exclusive().until(deadline);
    let wait = || wait::block_on_hub(ctx, &core.waiters, how, collect);
    match ctx.task.stay.holding(&[&open], wait) {
        Err(Errno::EAGAIN) => Ok(0),
        // signal(7): never restarted, whatever SA_RESTART says.
        Err(errno) if wants_restart(errno) => Err(Errno::EINTR),
        done => done,
    }
}

// ---- the machinery ----

impl Epoll {
    fn new() -> Epoll {
        Epoll {
            core: Arc::new(Core {
                waiters: Hub::new(),
                hub: Hub::new(),
                ready: Lock::new(VecDeque::new()),
                items: Lock::new(HashMap::new()),
                file: Once::new(),
            }),
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        self.core.clear();
    }
}

impl File for Epoll {
    fn poll(&self) -> Events {
        if self.core.any_ready() { Events::READABLE } else { Events::empty() }
    }

    fn hub(&self) -> Option<&Hub> {
        Some(&self.core.hub)
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = Stat { mode: 0o600, nlink: 1, blksize: 4096, ..Stat::default() };
        Ok(())
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        f.write_str("anon_inode:[eventpoll]")
    }

    fn closed(&self, _open: &OpenFile) {
        self.core.clear();
    }
}

/// Items that are looked at between two takings of the queue's lock.
const BATCH: usize = 16;

impl Core {
    fn add(self: &Arc<Core>, fd: i32, target: &Arc<OpenFile>, event: EpollEvent) -> Result<()> {
        let item = Arc::new(Item {
            core: self.clone(),
            fd,
            target: Arc::downgrade(target),
            events: AtomicU32::new(event.events | ALWAYS),
            data: AtomicU64::new(event.data),
            queued: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        });
        let hub = target.file.hub().ok_or(Errno::EPERM)?;
        let mut items = self.items.lock();
        if items.contains_key(&item.key()) {
            return Err(Errno::EEXIST);
        }
        items.insert(item.key(), item.clone());
        target.watched.0.lock().push(item.clone());
        let exclusive = event.events & EPOLLEXCLUSIVE != 0;
        // The hub passes everything on: the interest changes with EPOLL_CTL_MOD.
        hub.add(item.hub_key(), Events::all(), exclusive, item.clone());
        self.offer(&item, target);
        Ok(())
    }

    fn modify(&self, fd: i32, target: &Arc<OpenFile>, event: EpollEvent) -> Result<()> {
        let items = self.items.lock();
        let item = items.get(&key(fd, target)).ok_or(Errno::ENOENT)?;
        if item.events.load(Ordering::Relaxed) & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        item.data.store(event.data, Ordering::Relaxed);
        item.events.store(event.events | ALWAYS, Ordering::SeqCst);
        self.offer(item, target);
        Ok(())
    }

    fn remove(&self, fd: i32, target: &Arc<OpenFile>) -> Result<()> {
        let mut items = self.items.lock();
        let item = items.remove(&key(fd, target)).ok_or(Errno::ENOENT)?;
        target.watched.0.lock().retain(|other| !Arc::ptr_eq(other, &item));
        item.detach(target);
        Ok(())
    }

    /// Queues an item whose file is ready already.
    fn offer(&self, item: &Arc<Item>, target: &OpenFile) {
        if item.ready_now(target) != 0 && self.enqueue(item.clone()) {
            self.tell();
        }
    }

    /// Puts an item in the queue; `false` if it is there already.
    fn enqueue(&self, item: Arc<Item>) -> bool {
        let fresh = !item.queued.swap(true, Ordering::AcqRel);
        if fresh {
            self.ready.lock().push_back(item);
        }
        fresh
    }

    /// Something is in the queue. Answers whether a waiter was woken.
    fn tell(&self) -> bool {
        let woke = self.waiters.notify(Events::READABLE);
        self.hub.notify(Events::READABLE) || woke
    }

    /// Items were out of the queue for a while: a waiter may have found it empty, or others are left.
    fn wake_next(&self) {
        if self.waiters.is_watched() && !self.ready.lock().is_empty() {
            self.waiters.notify(Events::READABLE);
        }
    }

    /// Writes up to `max` events; 0 if nothing is ready. Each item is looked at once at most.
    fn collect(&self, events: UserPtr<EpollEvent>, max: usize) -> Result {
        let mut left = self.ready.lock().len();
        let mut done = 0;
        while left > 0 && done < max {
            let mut batch = [const { None }; BATCH];
            let taken = self.take(&mut batch[..BATCH.min(left).min(max - done)]);
            if taken == 0 {
                break;
            }
            left -= taken;
            match self.report(&mut batch[..taken], events.at(done)) {
                Ok(count) => done += count,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        self.wake_next();
        Ok(done)
    }

    fn take(&self, batch: &mut [Option<Arc<Item>>]) -> usize {
        let mut ready = self.ready.lock();
        let mut taken = 0;
        for place in batch {
            let Some(item) = ready.pop_front() else { break };
            *place = Some(item);
            taken += 1;
        }
        taken
    }

    /// Asks the files of a batch, writes what is ready, and settles each item by its mode.
    fn report(&self, batch: &mut [Option<Arc<Item>>], to: UserPtr<EpollEvent>) -> Result {
        let mut found = [EpollEvent::default(); BATCH];
        let mut count = 0;
        for place in batch.iter_mut() {
            let Some(item) = place else { continue };
            // Before the file is asked: see the head of this file.
            item.queued.swap(false, Ordering::AcqRel);
            let events = item.look();
            if events == 0 {
                *place = None;
                continue;
            }
            found[count] = EpollEvent { events, data: item.data.load(Ordering::Relaxed) };
            count += 1;
        }
        let written = to.write_all(&found[..count]);
        for item in batch.iter_mut().filter_map(Option::take) {
            let modes = item.events.load(Ordering::Relaxed);
            if written.is_err() {
                self.enqueue(item);
            } else if modes & EPOLLONESHOT != 0 {
                item.events.fetch_and(MODES, Ordering::SeqCst);
            } else if modes & EPOLLET == 0 {
                self.enqueue(item);
            }
        }
        written.map(|()| count)
    }

    /// Whether epoll_wait would find something; items that are no longer ready leave the queue.
    fn any_ready(&self) -> bool {
        let mut left = self.ready.lock().len();
        while left > 0 {
            left -= 1;
            let Some(item) = self.ready.lock().pop_front() else { return false };
            item.queued.swap(false, Ordering::AcqRel);
            if item.look() != 0 {
                if !item.queued.swap(true, Ordering::AcqRel) {
                    self.ready.lock().push_front(item);
                }
                self.wake_next();
                return true;
            }
        }
        false
    }

    /// How deep epolls are nested below this one; ELOOP if `other` is among them.
    fn depth_below(self: &Arc<Core>, other: &Arc<Core>, depth: usize) -> Result {
        if Arc::ptr_eq(self, other) || depth > MAX_NESTS {
            return Err(Errno::ELOOP);
        }
        let targets: Vec<_> = self.items.lock().values().filter_map(|item| item.target.upgrade()).collect();
        let mut deepest = 0;
        for inner in targets.iter().filter_map(|open| open.downcast::<Epoll>()) {
            deepest = deepest.max(inner.core.depth_below(other, depth + 1)? + 1);
        }
        Ok(deepest)
    }

    /// The epoll is closed.
    fn clear(&self) {
        let items = core::mem::take(&mut *self.items.lock());
        for item in items.into_values() {
            if let Some(target) = item.target.upgrade() {
                target.watched.0.lock().retain(|other| !Arc::ptr_eq(other, &item));
                item.detach(&target);
            }
            item.dead.store(true, Ordering::Relaxed);
        }
        let ready = core::mem::take(&mut *self.ready.lock());
        drop(ready);
    }
}

/// How many epolls watch this one, one above the other.
fn depth_above(open: &OpenFile, depth: usize) -> usize {
    if depth > MAX_NESTS {
        return depth;
    }
    let watching: Vec<_> = open.watched.0.lock().iter().map(|item| item.core.clone()).collect();
    let above = |core: &Arc<Core>| core.file.get()?.upgrade().map(|open| depth_above(&open, depth + 1) + 1);
    watching.iter().filter_map(above).max().unwrap_or(0)
}

fn key(fd: i32, target: &Arc<OpenFile>) -> Key {
    (fd, Arc::as_ptr(target) as usize)
}

impl Item {
    fn key(&self) -> Key {
        // The address stays this description's own while a Weak to it exists.
        (self.fd, self.target.as_ptr() as usize)
    }

    fn hub_key(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    fn detach(&self, target: &OpenFile) {
        self.dead.store(true, Ordering::Relaxed);
        if let Some(hub) = target.file.hub() {
            hub.remove(self.hub_key());
        }
    }

    /// What to report now: 0 for nothing.
    fn look(&self) -> u32 {
        if self.dead.load(Ordering::Relaxed) {
            return 0;
        }
        self.target.upgrade().map_or(0, |target| self.ready_now(&target))
    }

    fn ready_now(&self, target: &OpenFile) -> u32 {
        self.wanted(target.file.poll().bits())
    }

    fn wanted(&self, events: u32) -> u32 {
        // Disarmed (EPOLLONESHOT), it has not even EPOLLERR.
        events & self.events.load(Ordering::SeqCst) & !MODES
    }

    fn arc(&self) -> Arc<Item> {
        // SAFETY: items exist only inside an Arc (`Core::add`), and `&self` keeps one count.
        unsafe {
            Arc::increment_strong_count(self);
            Arc::from_raw(self)
        }
    }
}

impl Watcher for Item {
    fn notify(&self, events: Events) -> bool {
        if self.dead.load(Ordering::Relaxed) || self.wanted(events.bits()) == 0 {
            return false;
        }
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.core.ready.lock().push_back(self.arc());
        }
        let woke = self.core.tell();
        // EPOLLEXCLUSIVE: if nobody waits here, another epoll shall hear of it too.
        woke || self.events.load(Ordering::Relaxed) & EPOLLEXCLUSIVE == 0
    }
}

#[cfg(test)]
#[path = "epoll_tests.rs"]
mod tests;
