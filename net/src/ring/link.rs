//! A link: the memory that joins a guest and its network server. A header page, then for each queue
//! the positions and data of two rings, one each way.
//!
//! The supervisor creates it (a sealed memfd), so that it outlives either side; both map it whole.

use super::spsc::{Consumer, Corrupt, Positions, Producer, RING_HEADER_BYTES};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// First word of a link: "ATTACCA1" read as little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ATTACCA1");
/// Version of this layout. A side that finds another one refuses.
pub const VERSION: u32 = 1;

const PAGE: usize = 4096;
const MAX_QUEUES: u32 = 64;
const MAX_CAPACITY: u32 = 1 << 26;

/// The header page. What the creator writes is constant; the rest is written by one side each.
#[repr(C, align(4096))]
struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    queues: AtomicU32,
    capacity: AtomicU32,
    _constant: [u32; 27],
    /// Written by the server: counts up while it runs; a server that stands still hangs.
    server_heartbeat: AtomicU64,
    /// Written by the server: counts its lives. A change tells the guest to resend and to wake peers.
    server_generation: AtomicU64,
    _server: [u64; 14],
    /// Written by the guest: counts up while it runs.
    guest_heartbeat: AtomicU64,
    _guest: [u64; 15],
}

/// How large a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Queue pairs; one for each engine shard.
    pub queues: u32,
    /// Bytes of data in each ring; a power of two.
    pub capacity: u32,
}

/// Why a region is no link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkError {
    /// Shorter than its header says, or no header.
    TooShort,
    /// The first word is not [`MAGIC`].
    NotALink,
    /// Made by another version of Attacca.
    Version(u32),
    /// Queue count or capacity that no creator writes.
    BadLayout,
    /// A ring's positions cannot be.
    Corrupt,
}

impl core::fmt::Display for LinkError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LinkError::TooShort => f.write_str("the shared memory is too short for a link"),
            LinkError::NotALink => f.write_str("the shared memory is no Attacca link"),
            LinkError::Version(v) => write!(f, "the link has version {v}, this program knows {VERSION}"),
            LinkError::BadLayout => f.write_str("the link's header is damaged"),
            LinkError::Corrupt => f.write_str("a ring of the link is damaged"),
        }
    }
}

impl From<Corrupt> for LinkError {
    fn from(_: Corrupt) -> Self {
        LinkError::Corrupt
    }
}

/// Which side of the link we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The guest: sends into the first ring of each queue.
    Guest,
    /// The server (or, on a wire, the other guest): sends into the second.
    Server,
}

impl Layout {
    /// Bytes of memory that such a link takes.
    pub const fn bytes(self) -> usize {
        PAGE + self.queues as usize * self.queue_bytes()
    }

    const fn queue_bytes(self) -> usize {
        2 * (self.ring_offset() + self.capacity as usize)
    }

    /// Positions take a page of their own: data stays page-aligned.
    const fn ring_offset(self) -> usize {
        RING_HEADER_BYTES.next_multiple_of(PAGE)
    }

    const fn is_valid(self) -> bool {
        self.queues >= 1
            && self.queues <= MAX_QUEUES
            && self.capacity.is_power_of_two()
            && self.capacity >= 4096
            && self.capacity <= MAX_CAPACITY
    }
}

/// A mapped link.
#[derive(Clone, Copy)]
pub struct Link {
    base: *mut u8,
    layout: Layout,
}

// SAFETY: a Link is an address and constants; what is behind it is atomics or owned by ring ends.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

impl Link {
    /// Writes the header of a new link into zeroed memory.
    ///
    /// # Safety
    /// `base` is page-aligned and valid for `layout.bytes()` bytes for the life of the value and of
    /// every ring end taken from it.
    pub unsafe fn create(base: *mut u8, layout: Layout) -> Result<Link, LinkError> {
        if !layout.is_valid() {
            return Err(LinkError::BadLayout);
        }
        let link = Link { base, layout };
        let header = link.header();
        header.version.store(VERSION, Ordering::Relaxed);
        header.queues.store(layout.queues, Ordering::Relaxed);
        header.capacity.store(layout.capacity, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(link)
    }

    /// Takes part in an existing link of `len` mapped bytes; the content may be hostile.
    ///
    /// # Safety
    /// As [`Link::create`], for `len` bytes.
    pub unsafe fn open(base: *mut u8, len: usize) -> Result<Link, LinkError> {
        if len < PAGE {
            return Err(LinkError::TooShort);
        }
        // SAFETY: a header page is there; atomics only.
        let header = unsafe { &*base.cast::<Header>() };
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err(LinkError::NotALink);
        }
        let version = header.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(LinkError::Version(version));
        }
        let layout = Layout {
            queues: header.queues.load(Ordering::Relaxed),
            capacity: header.capacity.load(Ordering::Relaxed),
        };
        if !layout.is_valid() {
            return Err(LinkError::BadLayout);
        }
        if layout.bytes() > len {
            return Err(LinkError::TooShort);
        }
        Ok(Link { base, layout })
    }

    /// Its size.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The two ends that `role` uses of queue `queue`: where it sends, where it receives.
    ///
    /// # Safety
    /// No other thread or process uses the same ends.
    pub unsafe fn ends(&self, role: Role, queue: u32) -> Result<(Producer, Consumer), LinkError> {
        let [send, receive] = self.rings(role, queue)?;
        // SAFETY: the pointers lie in the mapping; the caller vouches for being alone.
        unsafe {
            Ok((
                Producer::attach(send.0, send.1, self.layout.capacity)?,
                Consumer::attach(receive.0, receive.1, self.layout.capacity)?,
            ))
        }
    }

    /// The memory of the ring in which the guest receives on the first queue, positions first. For tests of what a
    /// server gone mad costs.
    pub fn guests_ring(&self) -> core::ops::Range<*mut u8> {
        let bytes = self.layout.queue_bytes() / 2;
        // SAFETY: inside `layout.bytes()`, which the mapping covers.
        unsafe { self.base.add(PAGE + bytes)..self.base.add(PAGE + 2 * bytes) }
    }

    /// As [`Link::ends`], for the successor of a side that may have spoiled the rings: one whose positions cannot be
    /// begins anew, and what was in it is lost.
    ///
    /// # Safety
    /// As [`Link::ends`].
    pub unsafe fn ends_anew(&self, role: Role, queue: u32) -> Result<(Producer, Consumer), LinkError> {
        let [send, receive] = self.rings(role, queue)?;
        // SAFETY: the pointers lie in the mapping; the caller vouches for being alone.
        unsafe {
            Ok((
                Producer::attach_anew(send.0, send.1, self.layout.capacity),
                Consumer::attach_anew(receive.0, receive.1, self.layout.capacity),
            ))
        }
    }

    /// Positions and data of the rings in which this side sends and receives.
    fn rings(&self, role: Role, queue: u32) -> Result<[(*const Positions, *mut u8); 2], LinkError> {
        if queue >= self.layout.queues {
            return Err(LinkError::BadLayout);
        }
        let ring = |which: usize| {
            let start =
                PAGE + queue as usize * self.layout.queue_bytes() + which * self.layout.queue_bytes() / 2;
            // SAFETY: inside `layout.bytes()`, which the mapping covers.
            unsafe {
                let positions: *const Positions = self.base.add(start).cast();
                (positions, self.base.add(start + self.layout.ring_offset()))
            }
        };
        Ok(match role {
            Role::Guest => [ring(0), ring(1)],
            Role::Server => [ring(1), ring(0)],
        })
    }

    /// The server says that it runs; called from its loop.
    pub fn beat_server(&self) {
        self.header().server_heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the server has said so.
    pub fn server_heartbeat(&self) -> u64 {
        self.header().server_heartbeat.load(Ordering::Relaxed)
    }

    /// A new server life begins.
    pub fn begin_server_generation(&self) -> u64 {
        self.header().server_generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Which server life it is; 0 before the first.
    pub fn server_generation(&self) -> u64 {
        self.header().server_generation.load(Ordering::Acquire)
    }

    /// The guest says that it runs.
    pub fn beat_guest(&self) {
        self.header().guest_heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping starts with a header page; atomics only.
        unsafe { &*self.base.cast::<Header>() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::alloc::{Layout as Memory, alloc_zeroed, dealloc};

    fn with_region(len: usize, test: impl FnOnce(*mut u8)) {
        let memory = Memory::from_size_align(len, PAGE).unwrap();
        // SAFETY: freed below, after the test.
        unsafe {
            let base = alloc_zeroed(memory);
            test(base);
            dealloc(base, memory);
        }
    }

    #[test]
    fn joins_two_sides() {
        let layout = Layout { queues: 2, capacity: 8192 };
        with_region(layout.bytes(), |base| {
            // SAFETY: the region lives until the closure ends; each end is taken once.
            unsafe {
                let guest = Link::create(base, layout).unwrap();
                let server = Link::open(base, layout.bytes()).unwrap();
                let (mut to_server, mut from_server) = guest.ends(Role::Guest, 1).unwrap();
                let (mut to_guest, mut from_guest) = server.ends(Role::Server, 1).unwrap();
                let mut buffer = [0; 128];
                assert!(to_server.push(5, Default::default(), |b| b.copy_from_slice(b"hello")).unwrap());
                let _ = to_server.publish();
                assert_eq!(from_guest.pop(&mut buffer).unwrap().unwrap().0, 5);
                assert!(to_guest.push(2, Default::default(), |b| b.copy_from_slice(b"ok")).unwrap());
                let _ = to_guest.publish();
                assert_eq!(from_server.pop(&mut buffer).unwrap().unwrap().0, 2);
                assert_eq!(&buffer[..2], b"ok");
            }
        });
    }

    #[test]
    fn refuses_what_is_no_link() {
        let layout = Layout { queues: 1, capacity: 4096 };
        with_region(layout.bytes(), |base| {
            // SAFETY: as above.
            unsafe {
                assert_eq!(Link::open(base, 100).err(), Some(LinkError::TooShort));
                assert_eq!(Link::open(base, layout.bytes()).err(), Some(LinkError::NotALink));
                let link = Link::create(base, layout).unwrap();
                assert_eq!(Link::open(base, PAGE).err(), Some(LinkError::TooShort));
                link.header().capacity.store(4097, Ordering::Relaxed);
                assert_eq!(Link::open(base, layout.bytes()).err(), Some(LinkError::BadLayout));
                link.header().version.store(9, Ordering::Relaxed);
                assert_eq!(Link::open(base, layout.bytes()).err(), Some(LinkError::Version(9)));
            }
        });
    }
}
