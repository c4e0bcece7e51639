//! A queue of a link as a [`Device`]: what both the guest's engine and the server's drive.

use super::link::{Link, LinkError, Role};
use super::spsc::{Consumer, Meta, Producer};
use crate::device::{Capabilities, Device, Full, Nic, RxFrame, TxMeta};
use alloc::boxed::Box;
use alloc::vec;

/// Wakes the other side of a link. Rung only when it said that it sleeps or waits.
pub trait Doorbell: Send {
    /// Wakes it.
    fn ring(&mut self);
}

impl<F: FnMut() + Send> Doorbell for F {
    fn ring(&mut self) {
        self()
    }
}

/// Longest frame: a 64 KiB super-segment behind an Ethernet header.
const MAX_FRAME: usize = 65536 + 64;
/// A frame of this size is worth being left where it is until the engine copies its payload.
const LARGE: usize = 4096;
/// What of it is copied first: more than Ethernet, IP and TCP headers without IP options.
const HEAD: usize = 192;
/// Frames handed to the engine at once.
const BATCH: usize = 32;
/// Private memory for one batch; small frames fill it from the front, so it stays in the cache.
const BUFFER: usize = MAX_FRAME + 64 * 1024;

/// One side of one queue.
pub struct RingDevice {
    link: Link,
    producer: Producer,
    consumer: Consumer,
    doorbell: Box<dyn Doorbell>,
    buffer: Box<[u8]>,
    capabilities: Capabilities,
    corrupt: bool,
    /// The life of the server whose writing was found right, or that we began with.
    trusted: u64,
    unpublished: bool,
}

impl RingDevice {
    /// The end of `queue` that belongs to `role`. `mtu` is the network's; super-segments are taken
    /// by both sides (what leaves the machine is cut by the server).
    ///
    /// # Safety
    /// As [`Link::ends`]: nobody else uses this end.
    pub unsafe fn new(
        link: Link,
        role: Role,
        queue: u32,
        mtu: usize,
        doorbell: Box<dyn Doorbell>,
    ) -> Result<RingDevice, LinkError> {
        // SAFETY: the caller's promise.
        let (producer, consumer) = unsafe { link.ends(role, queue)? };
        let largest = (link.layout().capacity as usize / 2).min(65535);
        Ok(RingDevice {
            link,
            producer,
            consumer,
            doorbell,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            capabilities: Capabilities { mtu, burst: 64, tx_checksum: true, segmentation: largest },
            corrupt: false,
            trusted: link.server_generation(),
            unpublished: false,
        })
    }

    /// The link it belongs to.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Whether the other side broke the rules; the device is dead then.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// The position of who receives what this side sends: as long as it stays, nobody takes anything.
    pub fn consumed(&self) -> u32 {
        self.producer.consumed()
    }

    /// Whether a frame waits to be received.
    pub fn has_frames(&mut self) -> bool {
        !self.corrupt && !self.consumer.is_empty()
    }

    /// Announces that this side is about to sleep. `false`: frames have come, do not.
    pub fn announce_sleep(&mut self) -> bool {
        self.corrupt || self.consumer.announce_sleep()
    }

    /// Takes the announcement back.
    pub fn awake(&mut self) {
        self.consumer.awake();
    }

    /// The other side broke the rules. If that was done by a server that has been replaced since, the ring goes on at
    /// what the new one wrote: once in a server's life. (What was lost is sent again, as after any crash.)
    fn spoiled(&mut self) {
        let generation = self.link.server_generation();
        self.corrupt = generation == self.trusted;
        if !self.corrupt {
            self.trusted = generation;
            match self.consumer.resync() {
                Ok(false) => {}
                Ok(true) => self.doorbell.ring(),
                Err(_) => self.corrupt = true,
            }
        }
    }

    fn receive_batch(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let nothing: (usize, usize, &[u8], bool) = (0, 0, &[], false);
        let mut spans = [nothing; BATCH];
        let (mut count, mut used) = (0, 0);
        while count < budget.min(BATCH) && self.buffer.len() - used >= MAX_FRAME {
            match self.consumer.front() {
                Ok(Some(front)) if front.len <= MAX_FRAME => {
                    let checksum_ok = front.meta.checksum_done;
                    let in_place = front.len >= LARGE && checksum_ok;
                    let len = if in_place { HEAD } else { front.len };
                    front.copy(0, &mut self.buffer[used..used + len]);
                    spans[count] = (used, len, if in_place { front.in_place() } else { &[] }, checksum_ok);
                    self.consumer.advance(front);
                    count += 1;
                    used = (used + len).next_multiple_of(64);
                }
                Ok(None) => break,
                Ok(Some(_)) | Err(_) => {
                    // What was taken before is handed over first: it may be read where it lies.
                    if count == 0 {
                        self.spoiled();
                    }
                    break;
                }
            }
        }
        if count != 0 {
            let mut frames = [RxFrame { bytes: &[], in_place: &[], checksum_ok: false }; BATCH];
            for (frame, &(start, len, in_place, checksum_ok)) in frames.iter_mut().zip(&spans[..count]) {
                *frame = RxFrame { bytes: &self.buffer[start..start + len], in_place, checksum_ok };
            }
            sink(&frames[..count]);
            // Not earlier: until here large frames are read where they lie.
            if self.consumer.release() {
                self.doorbell.ring();
            }
        }
        count
    }
}

impl Device for RingDevice {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        if self.corrupt && self.link.server_generation() != self.trusted {
            self.spoiled();
        }
        let mut total = 0;
        while total < budget && !self.corrupt {
            match self.receive_batch(budget - total, sink) {
                0 => break,
                count => total += count,
            }
        }
        total
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        if self.corrupt || len > MAX_FRAME {
            return Err(Full);
        }
        let meta =
            Meta { checksum_done: meta.checksum_offload, segment_size: meta.segment, local: meta.local };
        match self.producer.push(len, meta, &mut *fill) {
            Ok(true) => {
                self.unpublished = true;
                Ok(())
            }
            Ok(false) => {
                // Full: show what is there, and ask to be woken when some of it is gone.
                self.flush();
                match self.producer.wait_for_space(len) {
                    Ok(_) => {}
                    Err(_) => self.spoiled(),
                }
                Err(Full)
            }
            Err(_) => {
                self.spoiled();
                Err(Full)
            }
        }
    }

    fn flush(&mut self) {
        if core::mem::take(&mut self.unpublished) && self.producer.publish() {
            self.doorbell.ring();
        }
    }
}

impl Nic for RingDevice {
    fn has_frames(&mut self) -> bool {
        RingDevice::has_frames(self)
    }

    fn announce_sleep(&mut self) -> bool {
        RingDevice::announce_sleep(self)
    }

    fn awake(&mut self) {
        RingDevice::awake(self);
    }

    fn is_alive(&self) -> bool {
        !self.corrupt
    }

    fn generation(&self) -> u64 {
        self.link.server_generation()
    }

    fn is_taken(&self) -> bool {
        !self.unpublished && self.producer.is_drained()
    }
}
