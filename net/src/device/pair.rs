//! Two devices joined by memory: what one sends, the other receives. For tests and measurements, and for
//! engines in one process.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::{Capabilities, Device, Full, Nic, RxFrame, TxMeta};

/// Makes the two ends.
pub struct Pair;

impl Pair {
    /// Two ends with the given capabilities and room for `slots` frames in each direction.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(capabilities: Capabilities, slots: usize) -> (PairEnd, PairEnd) {
        let (a, b) = (Rc::default(), Rc::default());
        let end = |out, input| PairEnd {
            capabilities,
            slots,
            out,
            input,
            held: Vec::new(),
            mac: None,
            dead: Rc::default(),
        };
        (end(Rc::clone(&a), Rc::clone(&b)), end(b, a))
    }
}

/// Frames under way in one direction, and buffers to use again.
#[derive(Default)]
struct Wire {
    frames: VecDeque<(Vec<u8>, bool)>,
    spare: Vec<Vec<u8>>,
}

/// One end of a [`Pair`].
pub struct PairEnd {
    capabilities: Capabilities,
    slots: usize,
    out: Rc<RefCell<Wire>>,
    input: Rc<RefCell<Wire>>,
    held: Vec<(Vec<u8>, bool)>,
    mac: Option<[u8; 6]>,
    dead: Rc<Cell<bool>>,
}

impl PairEnd {
    /// Puts a frame into the other end's way, as if this end had sent it.
    pub fn inject(&mut self, frame: &[u8]) {
        self.out.borrow_mut().frames.push_back((frame.to_vec(), false));
    }

    /// The same, with its checksums taken as right.
    pub fn inject_trusted(&mut self, frame: &[u8]) {
        self.out.borrow_mut().frames.push_back((frame.to_vec(), true));
    }

    /// Takes the next frame that the other end sent.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.input.borrow_mut().frames.pop_front().map(|(frame, _)| frame)
    }

    /// Frames waiting to be received here.
    pub fn waiting(&self) -> usize {
        self.input.borrow().frames.len()
    }

    /// Gives this end a hardware address of its own.
    pub fn set_mac(&mut self, mac: [u8; 6]) {
        self.mac = Some(mac);
    }

    /// Set by whoever wants this end to be a device that has gone.
    pub fn death(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.dead)
    }

    /// Changes what this end says of itself.
    pub fn set_capabilities(&mut self, capabilities: Capabilities) {
        self.capabilities = capabilities;
    }
}

/// Frames handed over at once.
const BATCH: usize = 32;

impl Device for PairEnd {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let mut total = 0;
        while total < budget && !self.dead.get() {
            {
                let mut wire = self.input.borrow_mut();
                let count = wire.frames.len().min(BATCH).min(budget - total);
                self.held.extend(wire.frames.drain(..count));
            }
            if self.held.is_empty() {
                break;
            }
            let mut batch = [RxFrame { bytes: &[], in_place: &[], checksum_ok: false }; BATCH];
            for (slot, (frame, trusted)) in batch.iter_mut().zip(&self.held) {
                *slot = RxFrame { bytes: frame, in_place: &[], checksum_ok: *trusted };
            }
            sink(&batch[..self.held.len()]);
            total += self.held.len();
            let mut wire = self.input.borrow_mut();
            wire.spare.extend(self.held.drain(..).map(|(frame, _)| frame));
        }
        total
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        let limit = if meta.segment == 0 { self.capabilities.mtu } else { self.capabilities.segmentation };
        assert!(len <= 14 + limit, "{len} bytes in a frame for packets of {limit}");
        let mut wire = self.out.borrow_mut();
        if wire.frames.len() >= self.slots || self.dead.get() {
            return Err(Full);
        }
        let mut frame = wire.spare.pop().unwrap_or_default();
        frame.resize(len, 0);
        fill(&mut frame);
        wire.frames.push_back((frame, meta.checksum_offload));
        Ok(())
    }

    fn flush(&mut self) {}
}

impl Nic for PairEnd {
    fn has_frames(&mut self) -> bool {
        self.waiting() != 0
    }

    fn is_alive(&self) -> bool {
        !self.dead.get()
    }
}
