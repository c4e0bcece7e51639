//! The one device of a guest as its shards see it: behind a lock that is held for a batch of received frames, and for
//! each frame that is sent.
//!
//! With one shard nobody else wants the lock. With several, whoever receives sorts: frames of its own flows go
//! to its engine as they lie, others are copied into the inbox of their flow's shard ([`Sorter`]). What the device can
//! do is looked up without the lock ([`Facts`]).

use crate::net_device::Backend;
use core::sync::atomic::{AtomicU64, Ordering};
use net::device::{Capabilities, Device, Full, RxFrame, TxMeta};
use net::ring::{Glance, RecordKind, Sender};
use net::{HOME, Place, Steering};
use platform::sync::{Guard, Lock};

/// Frames looked at together: as many as the engine looks up ahead.
const BATCH: usize = 32;
/// The longest frame: what a super-segment comes to.
const LONGEST: usize = 65_535 + 14;

/// What the device said last, for those who do not hold it.
///
/// A shard makes its frames by them, and another one may let the device turn to another backend meanwhile. So who sends
/// names the `version` that the frame was made by, and what was made by an older one finds no room ([`Sending`]): the
/// engine makes it anew.
pub(crate) struct Facts {
    /// Counts changes of the rest, after they are made; changed under the device's lock.
    version: AtomicU64,
    /// MTU, burst, segmentation (20 bits each), checksum offload.
    capabilities: AtomicU64,
    /// The hardware address and a bit that there is one.
    mac: AtomicU64,
}

const KNOWN: u64 = 1 << 63;

/// Writes what all read only if it is another value.
pub(crate) fn store(word: &AtomicU64, value: u64) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}

impl Facts {
    pub(crate) fn of(device: &Backend) -> Facts {
        let none = || AtomicU64::new(0);
        let facts = Facts { version: none(), capabilities: none(), mac: none() };
        facts.update(device);
        facts
    }

    /// Whoever holds the device says what is true now.
    pub(crate) fn update(&self, device: &Backend) {
        let what = device.capabilities();
        let field = |value: usize, at: u32| (value.min(0xf_ffff) as u64) << at;
        let capabilities = field(what.mtu, 0)
            | field(what.burst, 20)
            | field(what.segmentation, 40)
            | u64::from(what.tx_checksum) << 60;
        let mac = device.mac().map_or(0, |mac| {
            let [a, b, c, d, e, f] = mac;
            KNOWN | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
        });
        let known = (self.capabilities.load(Ordering::Relaxed), self.mac.load(Ordering::Relaxed));
        if known != (capabilities, mac) {
            self.capabilities.store(capabilities, Ordering::Relaxed);
            self.mac.store(mac, Ordering::Relaxed);
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Changes with them.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn capabilities(&self) -> Capabilities {
        let word = self.capabilities.load(Ordering::Relaxed);
        let field = |at: u32| (word >> at & 0xf_ffff) as usize;
        Capabilities {
            mtu: field(0),
            burst: field(20),
            segmentation: field(40),
            tx_checksum: word >> 60 & 1 != 0,
        }
    }

    fn mac(&self) -> Option<[u8; 6]> {
        let word = self.mac.load(Ordering::Relaxed);
        let [_, _, mac @ ..] = word.to_be_bytes();
        (word & KNOWN != 0).then_some(mac)
    }
}

/// What others reach of a shard without its lock.
#[repr(align(128))]
pub(crate) struct Lane {
    /// The engine's next deadline in nanoseconds, `u64::MAX` for none.
    pub(crate) deadline: AtomicU64,
    /// How many losses of frames it has made good ([`crate::net_poll`]).
    pub(crate) kicks: AtomicU64,
    /// Which version of the device's [`Facts`] it knows.
    pub(crate) facts: AtomicU64,
    /// Where its frames go; `None` if it is the only one.
    pub(crate) inbox: Option<(Lock<Sender>, Glance)>,
}

impl Lane {
    /// Something lies in the inbox.
    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        self.inbox.as_ref().is_some_and(|(_, glance)| !glance.is_empty())
    }

    /// Puts a packet into the inbox. Dropped if there is no room.
    pub(crate) fn send(&self, kind: RecordKind, bytes: &[u8]) {
        if let Some((sender, _)) = &self.inbox {
            let mut sender = sender.lock();
            sender.push(kind, bytes, false);
            sender.publish();
        }
    }

    fn room(&self) -> usize {
        self.inbox.as_ref().map_or(usize::MAX, |(sender, _)| sender.lock().room(LONGEST))
    }
}

/// The device for a shard that sends.
pub(crate) struct Sending<'a> {
    device: &'a Lock<Backend>,
    facts: &'a Facts,
    version: u64,
}

impl<'a> Sending<'a> {
    pub(crate) fn new(device: &'a Lock<Backend>, facts: &'a Facts) -> Sending<'a> {
        // Read first: what is read after it may be newer, and then is found to be.
        Sending { device, facts, version: facts.version() }
    }

    fn lock(&self) -> Guard<'_, Backend> {
        let mut device = self.device.lock();
        device.sync();
        device
    }
}

impl Device for Sending<'_> {
    fn capabilities(&self) -> Capabilities {
        self.facts.capabilities()
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.facts.mac()
    }

    fn receive(&mut self, _budget: usize, _sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        0
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        let mut device = self.lock();
        if self.facts.version() != self.version {
            return Err(Full);
        }
        device.transmit(len, meta, fill)
    }

    fn flush(&mut self) {
        self.lock().flush();
    }
}

/// The device for a shard that receives for all.
pub(crate) struct Sorter<'a> {
    pub(crate) device: &'a mut Backend,
    pub(crate) lanes: &'a [Lane],
    pub(crate) steering: Steering,
    pub(crate) own: usize,
}

impl Sorter<'_> {
    /// As many frames as each inbox has room for: what the device keeps is not lost, and holds its sender up.
    fn budget(&self, wanted: usize) -> usize {
        let others = self.lanes.iter().enumerate().filter(|(shard, _)| *shard != self.own);
        others.map(|(_, lane)| lane.room()).min().unwrap_or(wanted).min(wanted)
    }
}

/// Hands frames of the own shard to `sink`, in batches, and posts the others.
fn sort(
    frames: &[RxFrame<'_>],
    (lanes, steering, own): (&[Lane], &Steering, usize),
    sink: &mut dyn FnMut(&[RxFrame<'_>]),
) {
    let mut mine = [RxFrame { bytes: &[], in_place: &[], checksum_ok: false }; BATCH];
    for frames in frames.chunks(BATCH) {
        let (mut count, mut posted) = (0, false);
        for frame in frames {
            let home = match steering.frame(frame.bytes) {
                Place::Shard(shard) => {
                    if shard == own {
                        mine[count] = *frame;
                        count += 1;
                    } else {
                        post(&lanes[shard], RecordKind::Frame, frame);
                        posted = true;
                    }
                    continue;
                }
                place => place,
            };
            if own == HOME {
                mine[count] = *frame;
                count += 1;
            } else {
                post(&lanes[HOME], RecordKind::Frame, frame);
            }
            for (shard, lane) in lanes.iter().enumerate().skip(1) {
                if home == Place::All || home == Place::HomeAnd(shard) {
                    post(lane, RecordKind::News, frame);
                }
            }
            posted = true;
        }
        if posted {
            // Before the own ones are looked at: others can begin meanwhile.
            lanes.iter().flat_map(|lane| &lane.inbox).for_each(|(sender, _)| sender.lock().publish());
        }
        if count > 0 {
            sink(&mine[..count]);
        }
    }
}

fn post(lane: &Lane, kind: RecordKind, frame: &RxFrame<'_>) {
    if let Some((sender, _)) = &lane.inbox {
        sender.lock().push(kind, frame.all(), frame.checksum_ok);
    }
}

impl Device for Sorter<'_> {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.device.mac()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let budget = self.budget(budget);
        let to = (self.lanes, &self.steering, self.own);
        if budget == 0 { 0 } else { self.device.receive(budget, &mut |frames| sort(frames, to, sink)) }
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.device.transmit(len, meta, fill)
    }

    fn flush(&mut self) {
        self.device.flush();
    }
}
