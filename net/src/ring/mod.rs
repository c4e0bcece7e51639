//! Rings: frames between a guest and its network server (or another guest) through shared memory.
//!
//! A *link* is a region of a memfd: a versioned header page and, for each queue, two single-producer
//! single-consumer byte rings, one each way ([`spsc`]). A record is an 8-byte header and a whole
//! frame, contiguous, so that a 64-byte ACK takes 80 bytes and a 64 KiB super-segment takes 64 KiB of
//! the same memory; a descriptor ring with a pool of fixed buffers would have to choose.
//!
//! Everything needed to go on after one side died is in the memory: the positions. Neither side
//! trusts the other's positions or lengths ([`Corrupt`]); a frame is copied to private memory before
//! anybody looks inside it. A doorbell is rung only if the other side says that it sleeps.
//!
//! Left out: who maps the region and owns the doorbells (guest: `guest`; server: `netserver`).
#![allow(unsafe_code)] // memory shared with a peer is only reached through raw pointers, here.

mod device;
mod fuzz;
mod inbox;
mod link;
mod shortcut;
mod spsc;

pub use device::{Doorbell, RingDevice};
pub use fuzz::fuzz_rings;
pub use inbox::{Glance, INBOX_BYTES, Inbox, Kind as RecordKind, Record, Sender, inbox};
pub use link::{Layout, Link, LinkError, MAGIC, Role, VERSION};
pub use shortcut::{ADDRESSES, Peer, Shortcuts, Waiting, Way};
pub use spsc::{Consumer, Corrupt, Front, Meta, Positions, Producer, RING_HEADER_BYTES};
