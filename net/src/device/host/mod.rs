//! Direct devices: a queue of a NIC that its owner drives itself, without a server in between.
//!
//! ```text
//! tap.rs      a queue of a TAP device, one read or write for each frame (super-segments both ways)
//! xdp.rs      an AF_XDP socket: four rings and a frame memory shared with the kernel
//! offload.rs  the header of virtio-net: partial checksums and segment sizes
//! ```
//! (`wire`, two guests joined by memory, is a [`crate::ring::RingDevice`] whose other side is a guest.)
//!
//! A device makes no host call of its own: the owner gives it the few that it needs as a [`FrameFile`] or
//! a [`Kick`], and maps its memory. Opening takes privileges and is done elsewhere (`net/server/src/direct.rs`).

mod offload;
mod tap;
mod xdp;

pub use offload::checksum_ok;
pub use tap::{HEADER as TAP_HEADER, MAX as TAP_MAX, Tap};
pub use xdp::{Areas, FRAME_BYTES, RingArea, Xdp, XdpConfig, XdpError};

use super::Device;

// What [`crate::control::Direct`] holds for each kind of device, and which descriptors come with it.
//
// * TAP: the queue.
// * AF_XDP: the socket, the frames' memory; parameters [`XDP_FRAMES`] and its neighbours.
// * wire: the memory, the bell to ring, the bell to hear; parameter [`WIRE_END`].

/// Frame buffers.
pub const XDP_FRAMES: usize = 0;
/// Entries of each ring.
pub const XDP_ENTRIES: usize = 1;
/// [`XDP_PARTIAL`] and its neighbours.
pub const XDP_FLAGS: usize = 2;
/// Frames may come with unfinished checksums.
pub const XDP_PARTIAL: u32 = 1;
/// Ask the kernel to look at the NIC instead of waiting for its interrupt.
pub const XDP_BUSY: u32 = 2;
/// The driver receives into our memory itself.
pub const XDP_ZERO_COPY: u32 = 4;
/// Which end: 0 sends into the first ring.
pub const WIRE_END: usize = 0;

/// Why a host call on a queue did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// Nothing to read, or no room, now.
    Again,
    /// This frame is not to the host's liking; others may be.
    Refused,
    /// The interface is down. What was given to it waits until it is up.
    Down,
    /// The device has gone (or is down, and its owner has another way): nothing will work here until it is opened anew.
    Gone,
}

/// A descriptor of which each read and write is a frame.
pub trait FrameFile: Send {
    /// The next frame that the host sent; its length.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IoError>;
    /// Gives the host a frame.
    fn write(&mut self, frame: &[u8]) -> Result<(), IoError>;
}

/// The host's attention for a queue in shared memory.
pub trait Kick: Send {
    /// Frames to send are there, and the host said that it does not look.
    fn transmit(&mut self) -> Result<(), IoError>;
    /// Room to receive is there, and the host said that it waits for it.
    fn receive(&mut self) -> Result<(), IoError>;
}

/// A device that a guest can sleep over, and that can die: what [`super::Switch`] switches between.
pub trait Nic: Device {
    /// Whether a frame waits. May take it from the host and keep it for the next `receive`.
    fn has_frames(&mut self) -> bool;

    /// The owner is about to sleep until the device's descriptor is readable. `false`: frames have come.
    fn announce_sleep(&mut self) -> bool {
        !self.has_frames()
    }

    /// Takes the announcement back.
    fn awake(&mut self) {}

    /// Whether it works still. A device that does not takes and gives no frames any more.
    fn is_alive(&self) -> bool;

    /// Counts the lives of what is behind it; a change says that frames under way may be lost.
    fn generation(&self) -> u64 {
        0
    }

    /// Whether who receives at its other end has taken everything, where that can be known.
    fn is_taken(&self) -> bool {
        true
    }

    /// Whether everything that was given to it is with the host, so that it may be closed.
    fn is_sent(&mut self) -> bool {
        true
    }
}
