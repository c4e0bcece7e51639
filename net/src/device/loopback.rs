//! Packets from us to us: 127/8 and our own addresses. They never meet a device, carry no checksum and may
//! be as large as an IP packet can be.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Largest IP packet on the loopback: what the 16-bit length field can say.
pub(crate) const MTU: usize = 65_535;
/// Bytes under way before senders are told to wait. Far above one window, far below the shard's memory.
const MAX_BYTES: usize = 4 << 20;
/// Buffers kept for the next packets. One for each packet of a poll is the ordinary need.
const MAX_SPARE: usize = 16;

/// IP packets on their way from us to us, in order.
#[derive(Default)]
pub(crate) struct Loopback {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Loopback {
    /// A buffer to build a packet in; `None` while too much is under way.
    pub(crate) fn buffer(&mut self, len: usize) -> Option<Vec<u8>> {
        if self.bytes + len > MAX_BYTES {
            return None;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(len, 0);
        Some(buffer)
    }

    pub(crate) fn push(&mut self, packet: Vec<u8>) {
        self.bytes += packet.len();
        self.packets.push_back(packet);
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// Takes a buffer back for the next packet.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(buffer);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
