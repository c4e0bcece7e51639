//! Readiness of host descriptors (terminals, pipes and sockets of the host, device queues).
//!
//! All watches of a guest sit in the one epoll instance of its family, and their callbacks in the
//! arena: a watch outlives the process that made it, and whichever vCPU looks first (an idle one is
//! woken for it) runs the callback, in the kernel. Event bits are epoll(7)'s, EPOLLET and EPOLLONESHOT
//! included. A level-triggered watch calls again at every look while it stays ready, and wakes one idle
//! vCPU after the other meanwhile: EDGE is what nearly everybody wants.

use crate::vcpu;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::errno::Result;
use platform::host;
use platform::sync::Lock;

/// What a watch calls. In the kernel, no lock held, on any context; it may not park.
pub trait HostReady: Send + Sync {
    /// The descriptor has these events (epoll bits).
    fn ready(&self, events: u32);

    /// Whether it waits for the end of a process of the family.
    fn is_end(&self) -> bool {
        false
    }
}

/// Names a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchId {
    pub(crate) fd: i32,
    pub(crate) token: u64,
}

/// `EPOLLIN`
pub const IN: u32 = 0x1;
/// `EPOLLOUT`
pub const OUT: u32 = 0x4;
/// `EPOLLERR`
pub const ERR: u32 = 0x8;
/// `EPOLLHUP`
pub const HUP: u32 = 0x10;
/// `EPOLLRDHUP`
pub const RDHUP: u32 = 0x2000;
/// `EPOLLONESHOT`
pub const ONESHOT: u32 = 1 << 30;
/// `EPOLLET`
pub const EDGE: u32 = 1 << 31;

const EPOLL_CTL_ADD: usize = 1;
const EPOLL_CTL_DEL: usize = 2;
const EPOLL_CTL_MOD: usize = 3;

/// `struct epoll_event`, packed on x86-64.
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Event {
    pub(crate) events: u32,
    pub(crate) data: u64,
}

/// Watches host descriptor `fd`. EPERM: it is of a kind that is always ready (a regular file);
/// EEXIST: it is watched already. Kernel only.
pub fn watch(fd: i32, events: u32, callback: Arc<dyn HostReady>) -> Result<WatchId> {
    let family = vcpu::process().family;
    // Locked over the call, for `look_again`: what the table names is in the epoll under that token.
    let mut watches = family.watches.lock();
    let token = watches.insert(Slot { fd, events, callback });
    let added = control(family.epoll, EPOLL_CTL_ADD, fd, events, token);
    let removed = if added.is_err() { watches.remove(token) } else { None };
    drop(watches);
    drop(removed);
    added.map(|()| WatchId { fd, token })
}

/// Changes the events of a watch (and arms a ONESHOT one again).
pub fn modify(id: WatchId, events: u32) -> Result<()> {
    let family = vcpu::process().family;
    let mut watches = family.watches.lock();
    if let Some(slot) = watches.slot(id.token) {
        slot.events = events;
    }
    control(family.epoll, EPOLL_CTL_MOD, id.fd, events, id.token)
}

/// Lets the host tell again what it has told of edges, of descriptors that are ready now. The host tells an edge once,
/// to a single vCPU, and that one may have ended or been killed before it could act: so this is for whoever
/// buries a host process. Watches of processes' ends are left to `fork::unheard`, which needs one call for all.
pub(crate) fn look_again() {
    let family = vcpu::process().family;
    // Locked over the calls: a descriptor is closed after its watch has left the table (`unwatch`), so none of them
    // can be another's by now.
    let mut watches = family.watches.lock();
    for (slot, token) in watches.all() {
        if slot.events & EDGE != 0 && slot.events & ONESHOT == 0 && !slot.callback.is_end() {
            let _ = control(family.epoll, EPOLL_CTL_MOD, slot.fd, slot.events, token);
        }
    }
}

/// Ends a watch. Call it before the descriptor is closed. The callback may still be running on
/// another vCPU when this comes back.
pub fn unwatch(id: WatchId) {
    let family = vcpu::process().family;
    let _ = control(family.epoll, EPOLL_CTL_DEL, id.fd, 0, id.token);
    let removed = family.watches.lock().remove(id.token);
    drop(removed);
}

fn control(epoll: i32, op: usize, fd: i32, events: u32, data: u64) -> Result<()> {
    let event = Event { events, data };
    // SAFETY: the event is ours and lives over the call.
    unsafe { host!(epoll_ctl, epoll, op, fd, &raw const event) }.map(drop)
}

/// The callbacks of a family's epoll. A token is an index and a generation: an event that epoll
/// had already collected for a watch that is gone finds nothing.
#[derive(Default)]
pub(crate) struct Watches {
    slots: Vec<(u32, Option<Slot>)>,
    free: Vec<u32>,
}

struct Slot {
    fd: i32,
    events: u32,
    callback: Arc<dyn HostReady>,
}

impl Watches {
    pub(crate) const fn new() -> Lock<Watches> {
        Lock::new(Watches { slots: Vec::new(), free: Vec::new() })
    }

    fn insert(&mut self, watch: Slot) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.1 = Some(watch);
        token(slot.0, index)
    }

    fn remove(&mut self, token: u64) -> Option<Slot> {
        let slot = self.slots.get_mut(token as u32 as usize)?;
        if u64::from(slot.0) != token >> 32 {
            return None;
        }
        let watch = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(token as u32);
        Some(watch)
    }

    fn slot(&mut self, token: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(token as u32 as usize)?;
        if u64::from(slot.0) == token >> 32 { slot.1.as_mut() } else { None }
    }

    /// Those that are there, with their tokens.
    fn all(&mut self) -> impl Iterator<Item = (&Slot, u64)> {
        let named = self.slots.iter().enumerate();
        named.filter_map(|(at, (generation, slot))| Some((slot.as_ref()?, token(*generation, at as u32))))
    }

    /// The callback behind a token.
    pub(crate) fn get(&mut self, token: u64) -> Option<Arc<dyn HostReady>> {
        self.slot(token).map(|slot| slot.callback.clone())
    }
}

fn token(generation: u32, index: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}
