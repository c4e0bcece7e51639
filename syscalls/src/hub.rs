//! Readiness: who wants to hear when a file becomes readable, writable or broken.
//!
//! A file that can make a call wait owns a [`Hub`]. `poll`, `select`, `epoll` and blocking calls
//! put a [`Watcher`] there, look at the file's state *after* that, and only then sleep: an event
//! between the look and the sleep finds the watcher and is not lost.

use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::sync::Lock;

bitflags! {
    /// Readiness, with the bit values of poll(2) and epoll(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        /// POLLIN: a read would not block.
        const IN = 0x1;
        /// POLLPRI: urgent data.
        const PRI = 0x2;
        /// POLLOUT: a write would not block.
        const OUT = 0x4;
        /// POLLERR: an error waits. Always reported.
        const ERR = 0x8;
        /// POLLHUP: both directions are closed. Always reported.
        const HUP = 0x10;
        /// POLLNVAL: poll(2) of a closed descriptor.
        const NVAL = 0x20;
        /// POLLRDNORM: as IN.
        const RDNORM = 0x40;
        /// POLLRDBAND: priority data.
        const RDBAND = 0x80;
        /// POLLWRNORM: as OUT.
        const WRNORM = 0x100;
        /// POLLWRBAND: priority data may be written.
        const WRBAND = 0x200;
        /// POLLRDHUP: the peer will send no more.
        const RDHUP = 0x2000;
    }
}

impl Events {
    /// Readable in every spelling.
    pub const READABLE: Events = Events::IN.union(Events::RDNORM);
    /// Writable in every spelling.
    pub const WRITABLE: Events = Events::OUT.union(Events::WRNORM);
    /// What is reported whether asked for or not.
    pub const ALWAYS: Events = Events::ERR.union(Events::HUP);
}

/// Somebody who wants to hear of events. Called with the hub locked: it may mark, enqueue and
/// unpark, but not call back into the file or the hub.
pub trait Watcher: Send + Sync {
    /// `events` have become true. Answers whether the event is *consumed*: a hub that wakes
    /// exclusively stops at the first exclusive watcher that says so.
    fn notify(&self, events: Events) -> bool;
}

/// One registration.
struct Entry {
    key: usize,
    interest: Events,
    exclusive: bool,
    watcher: Arc<dyn Watcher>,
}

/// The watchers of one file.
#[derive(Default)]
pub struct Hub {
    /// Mirror of the list's length, so that an event without watchers costs one load.
    count: AtomicUsize,
    entries: Lock<Vec<Entry>>,
}

impl Hub {
    /// A hub without watchers.
    pub const fn new() -> Hub {
        Hub { count: AtomicUsize::new(0), entries: Lock::new(Vec::new()) }
    }

    /// Adds a watcher under `key` (unique in this hub: the watcher's address, or an item id).
    /// Exclusive watchers (EPOLLEXCLUSIVE, blocking accept) are woken one at a time.
    pub fn add(&self, key: usize, interest: Events, exclusive: bool, watcher: Arc<dyn Watcher>) {
        let mut entries = self.entries.lock();
        entries.push(Entry { key, interest: interest | Events::ALWAYS, exclusive, watcher });
        // SeqCst: the watcher looks at the file's state after this; see `notify`.
        self.count.store(entries.len(), Ordering::SeqCst);
    }

    /// Removes the watcher under `key`; answers whether it was there.
    pub fn remove(&self, key: usize) -> bool {
        let mut entries = self.entries.lock();
        let Some(at) = entries.iter().position(|e| e.key == key) else { return false };
        let entry = entries.remove(at);
        self.count.store(entries.len(), Ordering::SeqCst);
        drop(entries);
        drop(entry);
        true
    }

    /// Whether anybody watches.
    pub fn is_watched(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Tells the watchers that `events` have become true. The file changed its state before.
    /// Answers whether one of them consumed the event.
    pub fn notify(&self, events: Events) -> bool {
        // Dekker pattern with `add`: state written, then count read here; count written, then state
        // read there. With the fence one of the two sides sees the other.
        core::sync::atomic::fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut consumed = false;
        let mut rotate = None;
        let mut entries = self.entries.lock();
        // In the order of a Linux wait queue: who came last first, exclusive ones behind.
        for entry in entries.iter().rev().filter(|entry| !entry.exclusive) {
            if entry.interest.intersects(events) {
                consumed |= entry.watcher.notify(events);
            }
        }
        for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.exclusive) {
            if entry.interest.intersects(events) && entry.watcher.notify(events) {
                consumed = true;
                rotate = Some(at);
                break;
            }
        }
        // The one who took this event goes to the end: exclusive watchers take turns.
        if let Some(at) = rotate {
            let entry = entries.remove(at);
            entries.push(entry);
        }
        consumed
    }
}
