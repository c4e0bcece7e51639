//! What a NIC queue, a ring to the network server or a test wire looks like to the engine.
//!
//! Frames are whole Ethernet frames without the check sequence. A device never blocks.

mod fault;
pub mod host;
pub(crate) mod loopback;
mod pair;
mod switch;

pub use fault::{Fault, FaultPlan};
pub use host::Nic;
pub use pair::{Pair, PairEnd};
pub use switch::{Switch, Traffic, Watcher};

use core::net::IpAddr;

/// What a device can do for us. Asked once for each poll: it may change when a [`Switch`] switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest IP packet, without the Ethernet header.
    pub mtu: usize,
    /// Frames taken from the device in one poll at most.
    pub burst: usize,
    /// The device (or whoever takes the frame) fills or ignores the TCP and UDP checksum: we leave it
    /// zero. The IPv4 header's checksum is always filled.
    pub tx_checksum: bool,
    /// Largest IP packet of TCP that the device cuts into segments by itself (TSO, virtio GSO, a peer
    /// that takes super-segments); 0 if it cannot. Such frames carry [`TxMeta::segment`].
    pub segmentation: usize,
}

impl Capabilities {
    /// A plain device.
    pub const fn plain(mtu: usize) -> Capabilities {
        Capabilities { mtu, burst: 64, tx_checksum: false, segmentation: 0 }
    }
}

/// A received frame. What is looked at is private to the receiver: a device over memory that another process can
/// write copies before it hands out, of a large frame at least the headers.
#[derive(Clone, Copy, Debug)]
pub struct RxFrame<'a> {
    /// The frame, Ethernet header first. May be longer than an MTU if segments were merged on the way.
    pub bytes: &'a [u8],
    /// If not empty: the whole frame where it lies, and `bytes` is a copy of its head. Another process may write there:
    /// it is for copying a payload, and nothing in it is to be believed. Only with `checksum_ok`.
    pub in_place: &'a [u8],
    /// The TCP or UDP checksum was verified, or its absence is trusted (same host).
    pub checksum_ok: bool,
}

impl<'a> RxFrame<'a> {
    /// All bytes, for whoever copies or counts them.
    pub fn all(&self) -> &'a [u8] {
        if self.in_place.is_empty() { self.bytes } else { self.in_place }
    }
}

/// What goes with a frame to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxMeta {
    /// Not 0: the frame holds a TCP super-segment; cut its payload into pieces of so many bytes.
    pub segment: u16,
    /// The TCP or UDP checksum field holds zero and is the device's work.
    pub checksum_offload: bool,
    /// The destination's hardware address, as it stands in the frame: a [`Switch`] chooses the way by it.
    pub to: [u8; 6],
    /// The IP address of a packet to one host, where the sender knows it: [`crate::ring::Shortcuts`] lead there.
    pub dst: Option<IpAddr>,
    /// For other guests of the network alone (a [`Switch`] says so): a network server keeps it off its NIC.
    pub local: bool,
}

/// No room for another frame now. The engine keeps what it wanted to send and tries at the next poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A frame queue in each direction.
pub trait Device {
    /// What the device can do now.
    fn capabilities(&self) -> Capabilities;

    /// The hardware address that frames go out from, if the device has one of its own. The engine takes it over,
    /// tells its neighbours, and goes on hearing the one before.
    fn mac(&self) -> Option<[u8; 6]> {
        None
    }

    /// Hands over received frames, in order, in batches of any size (best 16 to 64: the engine overlaps
    /// the cache misses of a batch), `budget` frames at most. Returns how many there were.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize;

    /// Sends a frame of `len` bytes that `fill` writes (the buffer holds arbitrary bytes before; `fill`
    /// writes all of it). `fill` is called once if the result is `Ok`, and not at all otherwise.
    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full>;

    /// The batch is complete: publish indices, ring the doorbell. Called once at the end of each poll in
    /// which something was sent.
    fn flush(&mut self);
}
