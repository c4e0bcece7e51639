//! A queue of a TAP device (Documentation/networking/tuntap.rst): a frame for each read and write, with the
//! header of virtio-net before it, so that checksums are left out and super-segments go whole both ways. The
//! kernel cuts them only where a real wire follows.

use alloc::boxed::Box;
use alloc::vec;

use super::offload::{self, HEADER as VNET};
use super::{FrameFile, IoError, Nic};
use crate::device::{Capabilities, Device, Full, RxFrame, TxMeta};

/// Bytes before each frame on the descriptor: what TUNSETVNETHDRSZ is told.
pub const HEADER: usize = VNET;

/// Longest frame with its header: a 64 KiB super-segment behind an Ethernet header.
pub const MAX: usize = HEADER + 14 + 65_536;
/// Memory for one batch: whole frames as long as one of the longest still fits.
const BUFFER: usize = MAX + 64 * 1024;
/// Frames handed over at once.
const BATCH: usize = 32;

/// A TAP queue.
pub struct Tap {
    file: Box<dyn FrameFile>,
    mac: Option<[u8; 6]>,
    capabilities: Capabilities,
    input: Box<[u8]>,
    /// Length of a frame that a look has already put to the front of `input`.
    held: Option<usize>,
    output: Box<[u8]>,
    alive: bool,
    /// Frames that the kernel did not like.
    refused: u64,
}

impl Tap {
    /// A queue with `mtu`; `mac` is what we send from, if the queue brings an address of its own.
    /// `segmentation`: the descriptor takes and gives super-segments and unfinished checksums (TUNSETOFFLOAD).
    pub fn new(file: Box<dyn FrameFile>, mtu: usize, segmentation: bool, mac: Option<[u8; 6]>) -> Tap {
        let capabilities = Capabilities {
            tx_checksum: true,
            segmentation: if segmentation { 65_535 } else { 0 },
            ..Capabilities::plain(mtu)
        };
        let buffer = || vec![0; BUFFER].into_boxed_slice();
        let output = vec![0; MAX].into_boxed_slice();
        Tap { file, mac, capabilities, input: buffer(), held: None, output, alive: true, refused: 0 }
    }

    /// Frames that were given up since the kernel refused them.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Reads one frame to `at`; its length with the header.
    fn read(&mut self, at: usize) -> Option<usize> {
        while self.alive {
            match self.file.read(&mut self.input[at..at + MAX]) {
                Ok(len) if len > HEADER => return Some(len),
                // Shorter than its header: nothing that a TAP device gives.
                Ok(_) | Err(IoError::Refused) => self.refused += 1,
                Err(IoError::Again) => return None,
                Err(IoError::Gone | IoError::Down) => self.alive = false,
            }
        }
        None
    }

    fn receive_batch(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let mut spans = [(0usize, 0usize); BATCH];
        let (mut count, mut used) = (0, 0);
        while count < budget.min(BATCH) && BUFFER - used >= MAX {
            let Some(len) = self.held.take().or_else(|| self.read(used)) else { break };
            spans[count] = (used, len);
            count += 1;
            used = (used + len).next_multiple_of(64);
        }
        let mut frames = [RxFrame { bytes: &[], in_place: &[], checksum_ok: false }; BATCH];
        for (frame, &(start, len)) in frames.iter_mut().zip(&spans[..count]) {
            let (header, bytes) = self.input[start..start + len].split_at(HEADER);
            *frame = RxFrame { bytes, in_place: &[], checksum_ok: offload::checksum_ok(header) };
        }
        if count != 0 {
            sink(&frames[..count]);
        }
        count
    }
}

impl Device for Tap {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let mut total = 0;
        while total < budget {
            match self.receive_batch(budget - total, sink) {
                0 => break,
                count => total += count,
            }
        }
        total
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        if !self.alive || HEADER + len > MAX {
            return Err(Full);
        }
        let (header, frame) = self.output[..HEADER + len].split_at_mut(HEADER);
        fill(frame);
        offload::prepare(header, frame, meta);
        match self.file.write(&self.output[..HEADER + len]) {
            Ok(()) => Ok(()),
            // The frame has been written by `fill` and cannot be asked for again: it is lost, as on a wire.
            Err(IoError::Again | IoError::Refused) => {
                self.refused += 1;
                Ok(())
            }
            Err(IoError::Gone | IoError::Down) => {
                self.alive = false;
                Ok(())
            }
        }
    }

    fn flush(&mut self) {}
}

impl Nic for Tap {
    fn has_frames(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.read(0);
        }
        self.held.is_some()
    }

    fn is_alive(&self) -> bool {
        self.alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use std::sync::Mutex;

    /// What is still to be read, and what was written.
    type Frames = (VecDeque<Result<Vec<u8>, IoError>>, Vec<Vec<u8>>);

    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<Frames>>);

    impl FrameFile for Fake {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IoError> {
            let frame = self.0.lock().unwrap().0.pop_front().unwrap_or(Err(IoError::Again))?;
            buffer[..frame.len()].copy_from_slice(&frame);
            Ok(frame.len())
        }

        fn write(&mut self, frame: &[u8]) -> Result<(), IoError> {
            self.0.lock().unwrap().1.push(frame.to_vec());
            Ok(())
        }
    }

    fn lengths(tap: &mut Tap, budget: usize) -> Vec<usize> {
        let mut all = Vec::new();
        tap.receive(budget, &mut |frames| all.extend(frames.iter().map(|f| f.bytes.len())));
        all
    }

    #[test]
    fn frames_come_in_order_and_a_look_loses_none() {
        let fake = Fake::default();
        let frames = (0..100).map(|i| Ok(vec![0; HEADER + 60 + i]));
        fake.0.lock().unwrap().0.extend(frames);
        fake.0.lock().unwrap().0.insert(50, Err(IoError::Refused));
        let mut tap = Tap::new(Box::new(fake), 1500, true, None);
        assert!(tap.has_frames() && tap.has_frames());
        let mut all = lengths(&mut tap, 40);
        assert_eq!(all.len(), 40);
        assert!(!tap.announce_sleep());
        all.extend(lengths(&mut tap, 400));
        assert_eq!(all, (60..160).collect::<Vec<_>>());
        assert!(!tap.has_frames() && tap.is_alive());
        assert_eq!(tap.refused(), 1);
    }

    #[test]
    fn the_longest_frame_fits_a_batch() {
        let fake = Fake::default();
        fake.0.lock().unwrap().0.extend((0..5).map(|_| Ok(vec![0; MAX])));
        let mut tap = Tap::new(Box::new(fake), 1500, true, None);
        assert_eq!(lengths(&mut tap, 64), [MAX - HEADER; 5]);
    }

    #[test]
    fn a_device_that_went_is_dead() {
        let fake = Fake::default();
        fake.0.lock().unwrap().0.extend([Err(IoError::Gone), Ok(vec![0; 100])]);
        let mut tap = Tap::new(Box::new(fake), 1500, true, None);
        assert!(!tap.has_frames());
        assert!(!tap.is_alive());
        assert_eq!(lengths(&mut tap, 64), []);
        assert_eq!(tap.transmit(60, TxMeta::default(), &mut |_| ()), Err(Full));
    }
}
