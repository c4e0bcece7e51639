//! An AF_XDP socket (Documentation/networking/af_xdp.rst): frames in memory that we share with the kernel, and
//! four rings of positions. We fill *fill* with free frames and find them used in *rx*; we put frames to send
//! into *tx* and find them free again in *completion*.
//!
//! Half of the frames are for receiving, half for sending; none ever changes sides. Received frames are handed to
//! the engine where they lie: the kernel writes to a frame only while it stands in *fill*, and nobody else has a
//! business in this memory (the opener that made it is trusted, as the kernel is). Indices and lengths are
//! checked nevertheless: a slip must not become a wild read.
//!
//! **A socket outlives its user** (a network server that dies; its successor calls [`Xdp::resume`]): all that must be
//! known is in the rings. Received frames stand in *rx* until the owner's next `receive` or `flush`, when what they
//! caused is published; then they are put into *fill*, and only then *rx* lets them go. So a successor finds them
//! again, or, where the end came between those two stores, sees by the counts how many of them are in *fill* already.
//! Frames under way are the last ones of *tx*, as many as are not completed.
//!
//! Left out: frames of several buffers (so an MTU above one buffer), transmit metadata (checksum and
//! segmentation in the NIC), shared frame memory of several sockets.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use super::offload::is_partial;
use super::{IoError, Kick, Nic};
use crate::device::{Capabilities, Device, Full, RxFrame, TxMeta};

/// Bytes of each frame buffer.
pub const FRAME_BYTES: usize = 4096;
/// `XDP_RING_NEED_WAKEUP`
const NEED_WAKEUP: u32 = 1;
/// Frames handed over at once.
const BATCH: usize = 32;
/// Kicks in a row, as long as each moves something: in copy mode the kernel sends 32 frames for each.
const MOST_KICKS: usize = 64;

/// Where a ring lies: its mapping, and the offsets that XDP_MMAP_OFFSETS told.
#[derive(Clone, Copy, Debug)]
pub struct RingArea {
    /// The mapping.
    pub base: *mut u8,
    /// Offset of the producer's position.
    pub producer: usize,
    /// Offset of the consumer's position.
    pub consumer: usize,
    /// Offset of the flags.
    pub flags: usize,
    /// Offset of the first entry.
    pub entries: usize,
}

/// All memory of a socket, mapped.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    /// Entries are descriptors of received frames.
    pub rx: RingArea,
    /// Entries are descriptors of frames to send.
    pub tx: RingArea,
    /// Entries are addresses of frames for the kernel to receive into.
    pub fill: RingArea,
    /// Entries are addresses of frames that were sent.
    pub completion: RingArea,
    /// The frames.
    pub frames: *mut u8,
}

/// What the opener chose.
#[derive(Clone, Copy, Debug)]
pub struct XdpConfig {
    /// Frame buffers: a power of two.
    pub frames: u32,
    /// Entries in each ring: a power of two, and half of the frames at least.
    pub entries: u32,
    /// Largest IP packet.
    pub mtu: usize,
    /// The queue's hardware address, if it is not the one that the guest had before.
    pub mac: Option<[u8; 6]>,
    /// Frames may come with unfinished checksums: the other end is this machine's kernel (veth).
    pub partial: bool,
    /// Ask the kernel to look at the NIC whenever nothing is there, instead of waiting for its interrupt.
    pub busy: bool,
}

/// Why the memory is no socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpError {
    /// Sizes that no opener chooses.
    BadSizes,
    /// Somebody has used the socket already: which frames are where is not known.
    Used,
}

impl core::fmt::Display for XdpError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            XdpError::BadSizes => "the queue's sizes are impossible",
            XdpError::Used => "the queue has been used before",
        })
    }
}

/// One ring as we use it. Either we produce and the kernel consumes, or the other way round.
struct Ring {
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: *const AtomicU32,
    entries: *mut u8,
    mask: u32,
    /// Our own position; the shared one is its published copy.
    ours: u32,
    /// The kernel's when we last looked.
    theirs: u32,
}

/// Which end of a ring is ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Producer,
    Consumer,
}

/// `struct xdp_desc`
#[repr(C)]
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    options: u32,
}

/// The device.
pub struct Xdp {
    rx: Ring,
    tx: Ring,
    fill: Ring,
    completion: Ring,
    frames: *mut u8,
    config: XdpConfig,
    kick: Box<dyn Kick>,
    free: Vec<u64>,
    /// Of each sending frame, whether it is between `transmit` and its completion; and how many are.
    out: Vec<bool>,
    under_way: u32,
    /// Received frames that were handed over and not given back yet.
    taken: Vec<u64>,
    /// Frames in *tx* that the kernel has not taken although it was asked.
    unsent: bool,
    alive: bool,
}

// SAFETY: the pointers are to shared memory that outlives the device (promise to `attach`), of which each part has one
// writer at a time: us by `&mut self`, or the kernel.
unsafe impl Send for Xdp {}

impl Xdp {
    /// Takes over a fresh socket.
    ///
    /// # Safety
    /// The areas are mappings of one AF_XDP socket with the sizes of `config` (`frames` of `config.frames *
    /// FRAME_BYTES` bytes), valid for the life of the device, and nobody else uses the socket.
    pub unsafe fn attach(areas: Areas, config: XdpConfig, kick: Box<dyn Kick>) -> Result<Xdp, XdpError> {
        // SAFETY: the caller's promise.
        let mut device = unsafe { Xdp::over(areas, config, kick)? };
        if device.is_used() {
            return Err(XdpError::Used);
        }
        device.begin();
        Ok(device)
    }

    /// Takes over a socket that another process may have used, which is gone.
    ///
    /// # Safety
    /// As [`Xdp::attach`].
    pub unsafe fn resume(areas: Areas, config: XdpConfig, kick: Box<dyn Kick>) -> Result<Xdp, XdpError> {
        // SAFETY: the caller's promise.
        let mut device = unsafe { Xdp::over(areas, config, kick)? };
        if device.is_used() {
            device.go_on();
        } else {
            device.begin();
        }
        Ok(device)
    }

    /// # Safety
    /// As [`Xdp::attach`].
    unsafe fn over(areas: Areas, config: XdpConfig, kick: Box<dyn Kick>) -> Result<Xdp, XdpError> {
        let sizes = [config.frames, config.entries];
        if sizes.iter().any(|n| !n.is_power_of_two() || *n > 1 << 20)
            || config.frames < 4
            || config.entries < config.frames / 2
            || config.mtu + 14 > FRAME_BYTES
        {
            return Err(XdpError::BadSizes);
        }
        // SAFETY: the caller's promise.
        let ring = |area: RingArea, ours: End| unsafe { Ring::attach(area, config.entries, ours) };
        Ok(Xdp {
            rx: ring(areas.rx, End::Consumer),
            tx: ring(areas.tx, End::Producer),
            fill: ring(areas.fill, End::Producer),
            completion: ring(areas.completion, End::Consumer),
            frames: areas.frames,
            config,
            kick,
            free: Vec::new(),
            out: alloc::vec![false; config.frames as usize / 2],
            under_way: 0,
            taken: Vec::new(),
            unsent: false,
            alive: true,
        })
    }

    fn is_used(&self) -> bool {
        [&self.rx, &self.tx, &self.fill, &self.completion].iter().any(|ring| ring.is_used())
    }

    /// A fresh socket: the first half of the frames is for receiving.
    fn begin(&mut self) {
        let half = u64::from(self.half());
        for index in 0..half {
            self.fill.put(index * FRAME_BYTES as u64);
        }
        self.refill();
        self.free = (half..2 * half).map(|index| index * FRAME_BYTES as u64).collect();
    }

    /// Where the one before us stood.
    fn go_on(&mut self) {
        // Each entry of *fill* behind the first half was once one of *rx*.
        let again = self.fill.ours.wrapping_sub(self.half()).wrapping_sub(self.rx.ours);
        if again <= self.rx.ready() {
            self.rx.ours = self.rx.ours.wrapping_add(again);
            self.rx.release();
        }
        self.refill();
        let under_way = self.tx.ours.wrapping_sub(self.completion.ours).min(self.half());
        for back in 1..=under_way {
            let address = self.tx.peek::<Descriptor>(self.tx.ours.wrapping_sub(back)).address;
            if let Some(index) = self.sending(address) {
                self.out[index] = true;
            }
        }
        self.note_out();
        self.push_out();
    }

    /// Counts what is under way; all else is free.
    fn note_out(&mut self) {
        let half = u64::from(self.half());
        let free = (0..half).filter(|index| !self.out[*index as usize]);
        self.free = free.map(|index| (half + index) * FRAME_BYTES as u64).collect();
        self.under_way = self.half() - self.free.len() as u32;
    }

    /// Frames for each direction.
    fn half(&self) -> u32 {
        self.config.frames / 2
    }

    /// Which of the sending frames an address lies in.
    fn sending(&self, address: u64) -> Option<usize> {
        let index = (address / FRAME_BYTES as u64).checked_sub(self.half().into())?;
        (index < u64::from(self.half())).then_some(index as usize)
    }

    fn area(&self) -> u64 {
        u64::from(self.config.frames) * FRAME_BYTES as u64
    }

    /// Shows the kernel what we put into *fill*.
    fn refill(&mut self) {
        self.fill.publish();
        if self.fill.needs_wakeup() {
            let asked = self.kick.receive();
            self.note(asked);
        }
    }

    /// Takes back frames that were sent.
    fn reclaim(&mut self) {
        while self.completion.ready() != 0 {
            // A frame is whole whatever offset the kernel names inside it.
            let address = self.completion.get::<u64>();
            let known = self.sending(address).filter(|index| core::mem::take(&mut self.out[*index]));
            if known.is_some() {
                self.under_way -= 1;
                self.free.push(address - address % FRAME_BYTES as u64);
            }
        }
        self.completion.release();
        // Which ones were under way is a guess after `go_on`, if the kernel completed them out of order; this is none.
        if self.under_way != 0 && self.completion.ours == self.tx.ours {
            self.out.fill(false);
            self.note_out();
        }
    }

    /// Lets the kernel have the frames again that were handed over: what they caused is published.
    fn give_back(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let mut taken = core::mem::take(&mut self.taken);
        for start in taken.drain(..) {
            self.fill.put(start);
        }
        self.taken = taken;
        self.refill();
        // Last (see the module).
        self.rx.release();
    }

    fn send(&mut self) {
        self.tx.publish();
        self.push_out();
        self.reclaim();
    }

    /// Has the kernel take what stands in *tx*.
    fn push_out(&mut self) {
        for _ in 0..MOST_KICKS {
            let before = self.tx.untaken();
            self.unsent = before != 0;
            if before == 0 || !self.tx.needs_wakeup() {
                // What is there will be taken without our help.
                self.unsent = false;
                return;
            }
            match self.kick.transmit() {
                Ok(()) => {}
                Err(IoError::Again | IoError::Refused) => {
                    self.reclaim();
                    if self.tx.untaken() == before {
                        return;
                    }
                }
                Err(IoError::Down) => {
                    // Not asked again and again: the next frame will be the occasion.
                    self.unsent = false;
                    return;
                }
                gone => return self.note(gone),
            }
        }
    }

    fn note(&mut self, result: Result<(), IoError>) {
        if result == Err(IoError::Gone) {
            self.alive = false;
            self.unsent = false;
        }
    }

    fn receive_batch(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let mut frames = [RxFrame { bytes: &[], in_place: &[], checksum_ok: false }; BATCH];
        let ready = (self.rx.ready() as usize).min(budget).min(BATCH);
        let mut count = 0;
        for _ in 0..ready {
            let descriptor = self.rx.get::<Descriptor>();
            let (address, len) = (descriptor.address, u64::from(descriptor.len));
            let start = address - address % FRAME_BYTES as u64;
            if start >= self.area() || address + len > start + FRAME_BYTES as u64 {
                // No kernel does that.
                self.alive = false;
                break;
            }
            self.taken.push(start);
            // SAFETY: inside one frame (just checked), which is ours until it stands in *fill* again: in
            // `give_back`, which nobody calls while the sink has the frames.
            let bytes =
                unsafe { core::slice::from_raw_parts(self.frames.add(address as usize), len as usize) };
            frames[count] =
                RxFrame { bytes, in_place: &[], checksum_ok: self.config.partial && is_partial(bytes) };
            count += 1;
        }
        if count != 0 {
            sink(&frames[..count]);
        }
        count
    }
}

impl Device for Xdp {
    fn capabilities(&self) -> Capabilities {
        Capabilities::plain(self.config.mtu)
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.config.mac
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        if self.unsent {
            self.push_out();
        }
        self.give_back();
        let mut total = 0;
        while total < budget && self.alive {
            match self.receive_batch(budget - total, sink) {
                0 => break,
                count => total += count,
            }
        }
        total
    }

    fn transmit(&mut self, len: usize, _meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        if !self.alive || len > FRAME_BYTES {
            return Err(Full);
        }
        if self.free.is_empty() {
            self.send();
        }
        let Some(address) = self.free.pop() else { return Err(Full) };
        if let Some(index) = self.sending(address) {
            self.out[index] = true;
        }
        // SAFETY: a frame of ours (`free` holds starts inside the area), in nobody's hands.
        let frame = unsafe { core::slice::from_raw_parts_mut(self.frames.add(address as usize), len) };
        fill(frame);
        self.tx.put(Descriptor { address, len: len as u32, options: 0 });
        self.under_way += 1;
        Ok(())
    }

    fn flush(&mut self) {
        self.give_back();
        self.send();
    }
}

impl Nic for Xdp {
    fn has_frames(&mut self) -> bool {
        if self.rx.ready() == 0 && self.config.busy && self.alive {
            let asked = self.kick.receive();
            self.note(asked);
        }
        self.rx.ready() != 0 || self.unsent
    }

    fn is_alive(&self) -> bool {
        self.alive
    }

    fn is_sent(&mut self) -> bool {
        self.send();
        self.under_way == 0 || !self.alive
    }
}

impl Ring {
    /// # Safety
    /// See [`Xdp::attach`].
    unsafe fn attach(area: RingArea, entries: u32, end: End) -> Ring {
        // SAFETY: offsets inside the mapping, told by the kernel.
        let mut ring = unsafe {
            Ring {
                producer: area.base.add(area.producer).cast(),
                consumer: area.base.add(area.consumer).cast(),
                flags: area.base.add(area.flags).cast(),
                entries: area.base.add(area.entries),
                mask: entries - 1,
                ours: 0,
                theirs: 0,
            }
        };
        let ours = if end == End::Producer { ring.producer } else { ring.consumer };
        ring.ours = ring.at(ours).load(Ordering::Acquire);
        // Not looked at yet: of a consumer nothing is ready, of a producer all may be untaken.
        ring.theirs = ring.ours;
        ring
    }

    fn is_used(&self) -> bool {
        self.at(self.producer).load(Ordering::Acquire) != 0
            || self.at(self.consumer).load(Ordering::Acquire) != 0
    }

    fn at(&self, word: *const AtomicU32) -> &AtomicU32 {
        // SAFETY: mapped for the life of the device; an atomic.
        unsafe { &*word }
    }

    /// Puts an entry in; seen after [`Ring::publish`]. There is always room: a ring has an entry for each of our
    /// half of the frames.
    fn put<T: Copy>(&mut self, entry: T) {
        let index = (self.ours & self.mask) as usize;
        // SAFETY: inside the ring by the mask; the entry is ours until published.
        unsafe { self.entries.cast::<T>().add(index).write(entry) };
        self.ours = self.ours.wrapping_add(1);
    }

    fn publish(&mut self) {
        self.at(self.producer).store(self.ours, Ordering::Release);
    }

    /// Entries that we published and the kernel has not taken.
    fn untaken(&mut self) -> u32 {
        self.theirs = self.at(self.consumer).load(Ordering::Acquire);
        self.ours.wrapping_sub(self.theirs)
    }

    /// Whether the kernel wants to be asked. The fence stands against its own order, which is to say so and
    /// then to look at the ring a last time.
    fn needs_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        self.at(self.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    /// Entries that the kernel has produced and we have not taken.
    fn ready(&mut self) -> u32 {
        if self.theirs == self.ours {
            self.theirs = self.at(self.producer).load(Ordering::Acquire);
        }
        self.theirs.wrapping_sub(self.ours)
    }

    /// Takes an entry; given back by [`Ring::release`]. After `ready` said that there is one.
    fn get<T: Copy>(&mut self) -> T {
        let index = (self.ours & self.mask) as usize;
        self.ours = self.ours.wrapping_add(1);
        // SAFETY: inside the ring by the mask; published by the kernel (`ready` has loaded with Acquire).
        unsafe { self.entries.cast::<T>().add(index).read() }
    }

    /// The entry at a position, taken or not.
    fn peek<T: Copy>(&self, position: u32) -> T {
        // SAFETY: inside the ring by the mask. Whoever wrote it did so before us.
        unsafe { self.entries.cast::<T>().add((position & self.mask) as usize).read() }
    }

    fn release(&mut self) {
        self.at(self.consumer).store(self.ours, Ordering::Release);
    }
}
