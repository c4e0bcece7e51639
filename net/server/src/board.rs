//! What a network's server says of itself in memory that outlives it: its pulse, and what it counted for
//! each guest. Written by the server that runs (there is one at a time), read by the supervisor.
//!
//! Nothing here decides where a frame goes; a server gone mad can spoil statistics and be taken for dead.

use crate::sys::{self, Mapping};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Guests of one network at most.
pub(crate) const SLOTS: usize = 256;

/// Why a frame went nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// No frame of a kind that we carry, or too long for the uplink.
    Malformed,
    /// From another Ethernet address than the guest's.
    ForeignMac,
    /// From an address that is not the guest's.
    ForeignAddress,
    /// From a port that is another guest's.
    ForeignPort,
    /// To nobody.
    NoOwner,
    /// The guest that it was for takes nothing.
    ReceiverFull,
    /// The uplink takes nothing.
    UplinkFull,
}

/// Their names in `status`.
pub(crate) const REASONS: [&str; 7] = [
    "malformed",
    "foreign_mac",
    "foreign_address",
    "foreign_port",
    "no_owner",
    "receiver_full",
    "uplink_full",
];

/// What is counted for a guest. "From" is what it sent.
#[repr(C, align(64))]
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) frames_from: AtomicU64,
    pub(crate) bytes_from: AtomicU64,
    pub(crate) frames_to: AtomicU64,
    pub(crate) bytes_to: AtomicU64,
    drops: [AtomicU64; REASONS.len()],
    /// Bytes that wait in its rings.
    pub(crate) waiting_from: AtomicU32,
    pub(crate) waiting_to: AtomicU32,
    /// It broke the ring's rules and is served no more.
    pub(crate) cut_off: AtomicU32,
}

#[repr(C, align(4096))]
struct Page {
    heartbeat: AtomicU64,
    /// The server works (1) or sleeps until it is rung (0).
    busy: AtomicU32,
    /// The supervisor looks at the pulse now and then.
    watched: AtomicU32,
    /// CLOCK_MONOTONIC at the last server's first turn.
    began: AtomicU64,
    uplink: [AtomicU64; 4],
    _pad: [u64; 16],
    slots: [Slot; SLOTS],
}

/// The board, mapped.
pub(crate) struct Board {
    fd: OwnedFd,
    mapping: Mapping,
}

impl Board {
    pub(crate) fn create() -> io::Result<Board> {
        Board::open(sys::memfd(c"attacca-board", size_of::<Page>())?)
    }

    pub(crate) fn open(fd: OwnedFd) -> io::Result<Board> {
        let mapping = Mapping::new(fd.as_fd(), true)?;
        if mapping.len < size_of::<Page>() {
            return Err(io::Error::other("the board is too short"));
        }
        Ok(Board { fd, mapping })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn page(&self) -> &Page {
        // SAFETY: page-aligned, as long as a Page, mapped as long as we live; atomics only.
        unsafe { &*self.mapping.base.cast::<Page>() }
    }

    /// The counters of a guest.
    pub(crate) fn slot(&self, index: u32) -> &Slot {
        &self.page().slots[index as usize % SLOTS]
    }

    /// The server: another step, of bounded work.
    pub(crate) fn beat(&self) {
        let beats = &self.page().heartbeat;
        beats.store(beats.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(crate) fn heartbeat(&self) -> u64 {
        self.page().heartbeat.load(Ordering::Relaxed)
    }

    /// The server wakes. Whether it must tell the supervisor, who does not look. (With [`Board::unwatch`]
    /// this is Dekker's pattern: one of the two sees the other.)
    pub(crate) fn wakes(&self) -> bool {
        self.page().busy.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.page().watched.load(Ordering::Relaxed) == 0
    }

    /// The server goes to sleep.
    pub(crate) fn sleeps(&self) {
        self.page().busy.store(0, Ordering::Release);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.page().busy.load(Ordering::Acquire) != 0
    }

    /// The supervisor has another server begin, and looks at it from its first moment: what the one before said
    /// of itself must not be taken for the new one's.
    pub(crate) fn hand_over(&self) {
        self.page().busy.store(1, Ordering::Relaxed);
        self.watch();
    }

    /// The supervisor begins to look.
    pub(crate) fn watch(&self) {
        self.page().watched.store(1, Ordering::SeqCst);
    }

    /// The supervisor ends looking, unless the server has just woken.
    pub(crate) fn unwatch(&self) -> bool {
        self.page().watched.store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.is_busy() {
            self.watch();
            return false;
        }
        true
    }

    /// Counts of the uplink: frames and bytes in, frames and bytes out.
    pub(crate) fn uplink(&self) -> &[AtomicU64; 4] {
        &self.page().uplink
    }

    /// A server takes over.
    pub(crate) fn begins(&self, now_ns: u64) {
        self.page().began.store(now_ns, Ordering::Relaxed);
    }
}

impl Slot {
    /// Counts a frame that went nowhere.
    pub(crate) fn dropped(&self, why: Reason) {
        add(&self.drops[why as usize], 1);
    }

    pub(crate) fn drops(&self) -> [u64; REASONS.len()] {
        std::array::from_fn(|at| self.drops[at].load(Ordering::Relaxed))
    }

    /// For a new guest.
    pub(crate) fn clear(&self) {
        let words = [&self.frames_from, &self.bytes_from, &self.frames_to, &self.bytes_to];
        words.into_iter().chain(&self.drops).for_each(|word| word.store(0, Ordering::Relaxed));
        for word in [&self.waiting_from, &self.waiting_to, &self.cut_off] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// Adds to a counter of which we are the only writer: cheaper than a locked instruction.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}
