//! A TAP queue as the network's uplink: as [`Tap`], but received frames are kept in an [`Inbox`] until the server has
//! published what they caused, which it says by `flush`.

use super::inbox::Inbox;
use net::device::host::{FrameFile, IoError, TAP_HEADER, Tap, checksum_ok};
use net::device::{Capabilities, Device, Full, Nic, RxFrame, TxMeta};

/// Frames handed over at once.
const BATCH: usize = 32;

/// The device.
pub(crate) struct TapUplink {
    /// For sending.
    tap: Tap,
    file: Box<dyn FrameFile>,
    inbox: Inbox,
    /// So many of the listed frames have been handed over.
    given: usize,
    alive: bool,
}

impl TapUplink {
    /// `file`: the same queue that `tap` sends to.
    pub(crate) fn new(tap: Tap, file: Box<dyn FrameFile>, inbox: Inbox) -> TapUplink {
        TapUplink { tap, file, inbox, given: 0, alive: true }
    }

    /// Reads until `most` frames are there that were not handed over.
    fn read(&mut self, most: usize) {
        while self.alive && self.inbox.count() - self.given < most {
            let Some(room) = self.inbox.room() else { return };
            match self.file.read(room) {
                Ok(len) if len > TAP_HEADER => self.inbox.filled(len),
                Ok(_) | Err(IoError::Refused) => {}
                Err(IoError::Again | IoError::Down) => return,
                Err(IoError::Gone) => self.alive = false,
            }
        }
    }

    /// What was handed over has been published.
    fn settle(&mut self) {
        if self.given != 0 && self.given == self.inbox.count() {
            self.inbox.clear();
            self.given = 0;
        }
    }
}

impl Device for TapUplink {
    fn capabilities(&self) -> Capabilities {
        self.tap.capabilities()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        self.read(budget);
        let end = self.inbox.count().min(self.given + budget);
        let mut batch = [RxFrame { bytes: &[], in_place: &[], checksum_ok: false }; BATCH];
        for first in (self.given..end).step_by(BATCH) {
            let count = BATCH.min(end - first);
            for (at, frame) in batch[..count].iter_mut().enumerate() {
                let (header, bytes) = self.inbox.frame(first + at).split_at(TAP_HEADER);
                *frame = RxFrame { bytes, in_place: &[], checksum_ok: checksum_ok(header) };
            }
            sink(&batch[..count]);
        }
        end - std::mem::replace(&mut self.given, end)
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.tap.transmit(len, meta, fill)
    }

    fn flush(&mut self) {
        self.settle();
    }
}

impl Nic for TapUplink {
    fn has_frames(&mut self) -> bool {
        self.read(1);
        self.inbox.count() > self.given
    }

    fn is_alive(&self) -> bool {
        self.alive && self.tap.is_alive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Queue(Arc<Mutex<VecDeque<Vec<u8>>>>);

    impl FrameFile for Queue {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IoError> {
            let frame = self.0.lock().unwrap().pop_front().ok_or(IoError::Again)?;
            buffer[..frame.len()].copy_from_slice(&frame);
            Ok(frame.len())
        }
        fn write(&mut self, _: &[u8]) -> Result<(), IoError> {
            Ok(())
        }
    }

    /// A frame whose destination is a number.
    fn frame(number: u32) -> Vec<u8> {
        let mut frame = vec![0; TAP_HEADER + 60 + number as usize % 1400];
        frame[TAP_HEADER..TAP_HEADER + 4].copy_from_slice(&number.to_be_bytes());
        frame
    }

    /// Servers that die at any place between a read and a publication lose no frame and change no order.
    #[test]
    fn servers_that_die_lose_nothing() {
        let (queue, memory) = (Queue::default(), Inbox::create().unwrap());
        let (mut state, mut sent, mut published) = (1u64, 0u32, 0u32);
        for _ in 0..500 {
            let tap = Tap::new(Box::new(queue.clone()), 1500, true, None);
            let mut uplink = TapUplink::new(tap, Box::new(queue.clone()), Inbox::open(&memory).unwrap());
            let mut seen = Vec::new();
            for _ in 0..20 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                for _ in 0..state >> 58 {
                    queue.0.lock().unwrap().push_back(frame(sent));
                    sent += 1;
                }
                if state >> 40 & 3 == 0 {
                    uplink.has_frames();
                }
                uplink.receive(64, &mut |frames| {
                    let number = |f: &RxFrame<'_>| u32::from_be_bytes(*f.bytes.first_chunk().unwrap());
                    seen.extend(frames.iter().map(number));
                });
                if state >> 44 & 7 == 0 {
                    break; // It dies: what it has seen and not published is gone with it.
                }
                for number in seen.drain(..) {
                    assert!(number <= published, "{published} was lost, {number} came");
                    published = published.max(number + 1);
                }
                if state >> 48 & 7 == 0 {
                    break; // It has published and not said so.
                }
                uplink.flush();
            }
        }
        assert!(published > 10_000 && sent - published <= 64 * 21);
    }
}
