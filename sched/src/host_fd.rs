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
    let token = family.watches.lock().insert(callback);
    if let Err(error) = control(family.epoll, EPOLL_CTL_ADD, fd, events, token) {
        let removed = family.watches.lock().remove(token);
        drop(removed);
        return Err(error);
    }
    Ok(WatchId { fd, token })
}

/// Changes the events of a watch (and arms a ONESHOT one again).
pub fn modify(id: WatchId, events: u32) -> Result<()> {
    control(vcpu::process().family.epoll, EPOLL_CTL_MOD, id.fd, events, id.token)
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
    slots: Vec<(u32, Option<Arc<dyn HostReady>>)>,
    free: Vec<u32>,
}

impl Watches {
    pub(crate) const fn new() -> Lock<Watches> {
        Lock::new(Watches { slots: Vec::new(), free: Vec::new() })
    }

    fn insert(&mut self, callback: Arc<dyn HostReady>) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.1 = Some(callback);
        u64::from(slot.0) << 32 | u64::from(index)
    }

    fn remove(&mut self, token: u64) -> Option<Arc<dyn HostReady>> {
        let slot = self.slots.get_mut(token as u32 as usize)?;
        if u64::from(slot.0) != token >> 32 {
            return None;
        }
        let callback = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(token as u32);
        Some(callback)
    }

    /// The callback behind a token.
    pub(crate) fn get(&self, token: u64) -> Option<Arc<dyn HostReady>> {
        let slot = self.slots.get(token as u32 as usize)?;
        (u64::from(slot.0) == token >> 32).then(|| slot.1.clone())?
    }
}
