//! One direction: a single-producer single-consumer ring of variable-length records.
//!
//! Positions are free-running byte counts modulo 2^32; the capacity is a power of two, so the offset
//! is `position & (capacity - 1)`. The producer alone writes `tail`, the consumer alone `head`.
//!
//! Memory ordering. Records are published by a Release store of `tail` and read after an Acquire
//! load of it; space is given back by a Release store of `head` and reused after an Acquire load.
//! Sleep is Dekker's pattern, for both sides: *set the flag, fence, look at the position* against
//! *move the position, fence, look at the flag*; with sequentially consistent fences at least one
//! side sees the other, so either the sleeper does not sleep or the doorbell is rung. The flag is set
//! by a read-modify-write: a plain store could be ordered before the swap of a waker that has already
//! decided (loom finds that run), and on x86 `xchg` costs no more than the store and its fence.
//!
//! Trust. The peer may write anything at any time. Its position is checked against our own (which
//! we keep privately and only publish): a distance above the capacity is [`Corrupt`]. A record's
//! length is read once and checked against what the peer's position allows before a byte is copied.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering, fence};

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// The peer has broken the ring's rules: its position or a record's length cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt;

/// What stands before a frame in its record, apart from the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// The producer vouches for the checksums or has left them out (memory does not corrupt).
    pub checksum_done: bool,
    /// Payload bytes for each segment if this is a super-segment, else 0.
    pub segment_size: u16,
    /// For other guests alone: not for the network's NIC.
    pub local: bool,
}

/// Bytes of a ring's positions before its data.
pub const RING_HEADER_BYTES: usize = core::mem::size_of::<Positions>();

const RECORD_HEADER: u32 = 8;
const ALIGN: u32 = 16;
const PAD: u16 = 1;
const CHECKSUM_DONE: u16 = 2;
const LOCAL: u16 = 4;

/// The shared positions and flags of a ring; each writer has cache lines of its own.
#[repr(C, align(128))]
pub struct Positions {
    /// Written by the producer: end of what is published.
    tail: AtomicU32,
    /// Set by a producer that waits for space, cleared by whoever wakes it.
    producer_waits: AtomicU32,
    _pad0: [u32; 30],
    /// Written by the consumer: end of what is consumed.
    head: AtomicU32,
    /// Set by a consumer about to sleep, cleared by whoever wakes it.
    consumer_sleeps: AtomicU32,
    _pad1: [u32; 30],
}

impl Positions {
    /// An empty ring's positions.
    pub fn new() -> Positions {
        Positions {
            tail: AtomicU32::new(0),
            producer_waits: AtomicU32::new(0),
            _pad0: [0; 30],
            head: AtomicU32::new(0),
            consumer_sleeps: AtomicU32::new(0),
            _pad1: [0; 30],
        }
    }
}

impl Positions {
    /// Nothing is published that was not taken.
    pub(super) fn is_empty(&self) -> bool {
        self.tail.load(Ordering::Acquire) == self.head.load(Ordering::Acquire)
    }
}

impl Default for Positions {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes that a frame of `len` takes in a ring.
const fn record_bytes(len: u32) -> u32 {
    (RECORD_HEADER + len).next_multiple_of(ALIGN)
}

/// The sending end. There is one for each ring.
pub struct Producer {
    shared: *const Positions,
    data: *mut u8,
    capacity: u32,
    /// What we have written; `shared.tail` is its published copy.
    tail: u32,
    /// The consumer's position when we last looked.
    head: u32,
    /// We began anew: the consumer's position may be from before, see [`Producer::attach_anew`].
    anew: bool,
}

/// The receiving end. There is one for each ring.
pub struct Consumer {
    shared: *const Positions,
    data: *const u8,
    capacity: u32,
    head: u32,
    tail: u32,
}

/// A frame at the front of a ring, see [`Consumer::front`]. Good until the consumer's next call.
pub struct Front {
    /// Bytes of the frame: as long as the ring at most.
    pub len: usize,
    /// What its producer says of it.
    pub meta: Meta,
    data: *const u8,
    need: u32,
}

impl Front {
    /// The bytes where they lie, until [`Consumer::release`] gives the space back (the caller sees to it). The peer may
    /// write there meanwhile: they are to be copied, and nothing about them is to be believed.
    pub(super) fn in_place<'a>(&self) -> &'a [u8] {
        // SAFETY: `front` checked that `len` bytes lie inside the ring's data, which outlives its ends. Nobody in this
        // process writes to a received frame's space before it is released; a peer that breaks the rules and
        // does garbles its own frame.
        unsafe { core::slice::from_raw_parts(self.data, self.len) }
    }

    /// Copies the bytes from `from` on.
    ///
    /// # Panics
    /// If the frame has fewer.
    pub fn copy(&self, from: usize, into: &mut [u8]) {
        assert!(from <= self.len && into.len() <= self.len - from);
        // SAFETY: `front` checked that `len` bytes lie inside the ring's data. The peer may write
        // meanwhile: the copy is then garbage, which the reader of frames expects.
        unsafe { core::ptr::copy_nonoverlapping(self.data.add(from), into.as_mut_ptr(), into.len()) };
    }
}

// SAFETY: an end is used by one thread at a time (`&mut self`), and the pointers are to memory that
// outlives it (promise to `attach`).
unsafe impl Send for Producer {}
// SAFETY: as above.
unsafe impl Send for Consumer {}

impl Producer {
    /// Takes the sending end of the ring at `shared`/`data`, going on where the memory says.
    ///
    /// # Safety
    /// Both pointers are valid for the life of the value (`data` for `capacity` bytes, a power of
    /// two), `shared` is aligned, and there is no other producer. The *content* may be hostile.
    pub unsafe fn attach(
        shared: *const Positions,
        data: *mut u8,
        capacity: u32,
    ) -> Result<Producer, Corrupt> {
        debug_assert!(capacity.is_power_of_two());
        // SAFETY: the caller's promise; atomics only.
        let (tail, head) =
            unsafe { ((*shared).tail.load(Ordering::Acquire), (*shared).head.load(Ordering::Acquire)) };
        // Off the records' alignment a header would reach over the end of the data.
        if tail.wrapping_sub(head) > capacity || !tail.is_multiple_of(ALIGN) {
            return Err(Corrupt);
        }
        Ok(Producer { shared, data, capacity, tail, head, anew: false })
    }

    /// As [`Producer::attach`], also where the positions cannot be: then the ring begins anew, empty. For the
    /// successor of a producer that spoiled them. The consumer finds its own position impossible and goes on at
    /// ours ([`Consumer::resync`]); until then the ring is full.
    ///
    /// # Safety
    /// As [`Producer::attach`].
    pub unsafe fn attach_anew(shared: *const Positions, data: *mut u8, capacity: u32) -> Producer {
        // SAFETY: the caller's promise.
        unsafe {
            Producer::attach(shared, data, capacity).unwrap_or_else(|Corrupt| {
                (*shared).tail.store(0, Ordering::Release);
                Producer { shared, data, capacity, tail: 0, head: 0u32.wrapping_sub(capacity), anew: true }
            })
        }
    }

    /// Puts a frame of `len` bytes in, written by `fill`. `Ok(false)`: no space now. A frame is
    /// seen by the consumer after [`Producer::publish`].
    pub fn push(&mut self, len: usize, meta: Meta, fill: impl FnOnce(&mut [u8])) -> Result<bool, Corrupt> {
        let Ok(len) = u32::try_from(len) else { return Ok(false) };
        let need = record_bytes(len);
        let until_end = self.capacity - self.offset();
        let pad = if until_end < need { until_end } else { 0 };
        if !self.has_space(pad.saturating_add(need))? {
            return Ok(false);
        }
        if pad != 0 {
            self.write_header(pad - RECORD_HEADER, PAD, 0);
            self.tail = self.tail.wrapping_add(pad);
        }
        let flags = if meta.checksum_done { CHECKSUM_DONE } else { 0 } | if meta.local { LOCAL } else { 0 };
        self.write_header(len, flags, meta.segment_size);
        // SAFETY: `has_space` proved that [offset, offset + need) is ours until published; the peer
        // has no business there, and if it writes anyway it only garbles its own frame.
        let frame = unsafe {
            core::slice::from_raw_parts_mut(
                self.data.add((self.offset() + RECORD_HEADER) as usize),
                len as usize,
            )
        };
        fill(frame);
        self.tail = self.tail.wrapping_add(need);
        Ok(true)
    }

    /// Shows the consumer everything pushed so far. Answers whether it sleeps and must be woken by
    /// its doorbell (the answer is given to one caller only).
    #[must_use = "a sleeping consumer must be woken"]
    pub fn publish(&mut self) -> bool {
        let shared = self.shared();
        shared.tail.store(self.tail, Ordering::Release);
        fence(Ordering::SeqCst);
        shared.consumer_sleeps.load(Ordering::Relaxed) != 0
            && shared.consumer_sleeps.swap(0, Ordering::Relaxed) != 0
    }

    /// Asks to be woken when the consumer gives space back. `false`: there is space already.
    pub fn wait_for_space(&mut self, len: usize) -> Result<bool, Corrupt> {
        self.shared().producer_waits.swap(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        // Twice the record: the worst case needs padding up to the end as well.
        let need = record_bytes(len as u32).saturating_mul(2).min(self.capacity);
        Ok(!self.has_space(need)?)
    }

    /// Bytes that the consumer has not taken, as it says, for statistics.
    pub fn waiting(&self) -> u32 {
        self.tail.wrapping_sub(self.shared().head.load(Ordering::Relaxed)).min(self.capacity)
    }

    /// The consumer's position: as long as it stays, the consumer takes nothing.
    pub fn consumed(&self) -> u32 {
        self.shared().head.load(Ordering::Relaxed)
    }

    /// Whether the consumer has given everything back that it was shown. What it did with it before, the caller sees.
    pub fn is_drained(&self) -> bool {
        self.shared().head.load(Ordering::Acquire) == self.tail
    }

    fn has_space(&mut self, bytes: u32) -> Result<bool, Corrupt> {
        if self.capacity - self.tail.wrapping_sub(self.head) >= bytes {
            return Ok(true);
        }
        let head = self.shared().head.load(Ordering::Acquire);
        let used = self.tail.wrapping_sub(head);
        if used > self.capacity {
            return if self.anew { Ok(false) } else { Err(Corrupt) };
        }
        self.anew = false;
        self.head = head;
        Ok(self.capacity - used >= bytes)
    }

    fn write_header(&mut self, len: u32, flags: u16, segment_size: u16) {
        let word = u64::from(len) | u64::from(flags) << 32 | u64::from(segment_size) << 48;
        // SAFETY: at least one aligned record header fits at every record offset (ALIGN divides the
        // capacity), and space for it was proved.
        unsafe { self.data.add(self.offset() as usize).cast::<u64>().write_volatile(word) }
    }

    fn offset(&self) -> u32 {
        self.tail & (self.capacity - 1)
    }

    fn shared(&self) -> &Positions {
        // SAFETY: valid for our life (promise to `attach`); atomics only.
        unsafe { &*self.shared }
    }
}

impl Consumer {
    /// Takes the receiving end, going on where the memory says.
    ///
    /// # Safety
    /// As [`Producer::attach`].
    pub unsafe fn attach(
        shared: *const Positions,
        data: *const u8,
        capacity: u32,
    ) -> Result<Consumer, Corrupt> {
        debug_assert!(capacity.is_power_of_two());
        // SAFETY: the caller's promise; atomics only.
        let (tail, head) =
            unsafe { ((*shared).tail.load(Ordering::Acquire), (*shared).head.load(Ordering::Acquire)) };
        if tail.wrapping_sub(head) > capacity || !head.is_multiple_of(ALIGN) {
            return Err(Corrupt);
        }
        Ok(Consumer { shared, data, capacity, head, tail })
    }

    /// As [`Consumer::attach`], also where the positions cannot be: then at the end of what is published.
    ///
    /// # Safety
    /// As [`Producer::attach`].
    pub unsafe fn attach_anew(shared: *const Positions, data: *const u8, capacity: u32) -> Consumer {
        // SAFETY: the caller's promise.
        unsafe {
            Consumer::attach(shared, data, capacity).unwrap_or_else(|Corrupt| {
                let end = (*shared).tail.load(Ordering::Acquire) & !(ALIGN - 1);
                (*shared).head.store(end, Ordering::Release);
                Consumer { shared, data, capacity, head: end, tail: end }
            })
        }
    }

    /// Goes on at the end of what is published: what was there before is spoiled. Answers as [`Consumer::release`].
    pub fn resync(&mut self) -> Result<bool, Corrupt> {
        let tail = self.shared().tail.load(Ordering::Acquire);
        if !tail.is_multiple_of(ALIGN) {
            return Err(Corrupt);
        }
        (self.head, self.tail) = (tail, tail);
        Ok(self.release())
    }

    /// Copies the next frame into `into` (as long as the longest allowed frame) and gives its length
    /// and meta; `None` if there is none. The space goes back at [`Consumer::release`].
    pub fn pop(&mut self, into: &mut [u8]) -> Result<Option<(usize, Meta)>, Corrupt> {
        let Some(front) = self.front()? else { return Ok(None) };
        let Some(into) = into.get_mut(..front.len) else { return Err(Corrupt) };
        front.copy(0, into);
        let (len, meta) = (front.len, front.meta);
        self.advance(front);
        Ok(Some((len, meta)))
    }

    /// The next frame where it lies; `None` if there is none. It stays until [`Consumer::advance`]. For
    /// whoever passes frames on: the part that it judges is copied, and only that copy is believed; the
    /// rest goes from one ring to the other in one copy.
    pub fn front(&mut self) -> Result<Option<Front>, Corrupt> {
        let mut padded = false;
        loop {
            let available = self.available()?;
            if available == 0 {
                return Ok(None);
            }
            let offset = self.head & (self.capacity - 1);
            // SAFETY: offsets are multiples of ALIGN below the capacity, so a header fits.
            let word = unsafe { self.data.add(offset as usize).cast::<u64>().read_volatile() };
            let (len, flags, segment_size) = (word as u32, (word >> 32) as u16, (word >> 48) as u16);
            let Some(need) = len.checked_add(RECORD_HEADER + ALIGN - 1).map(|n| n & !(ALIGN - 1)) else {
                return Err(Corrupt);
            };
            if need > available || need > self.capacity - offset {
                return Err(Corrupt);
            }
            if flags & PAD != 0 {
                // Padding ends at the end of the data, so none follows: whoever writes it again and again
                // wants to keep us here.
                if core::mem::replace(&mut padded, true) {
                    return Err(Corrupt);
                }
                self.head = self.head.wrapping_add(need);
                continue;
            }
            let (checksum_done, local) = (flags & CHECKSUM_DONE != 0, flags & LOCAL != 0);
            let meta = Meta { checksum_done, segment_size, local };
            // SAFETY: a header, and with it `offset + RECORD_HEADER`, lies inside the data.
            let data = unsafe { self.data.add((offset + RECORD_HEADER) as usize) };
            return Ok(Some(Front { len: len as usize, meta, data, need }));
        }
    }

    /// Takes the frame that [`Consumer::front`] showed.
    pub fn advance(&mut self, front: Front) {
        self.head = self.head.wrapping_add(front.need);
    }

    /// Bytes that wait, records' headers included: as the producer says, for statistics.
    pub fn waiting(&self) -> u32 {
        self.shared().tail.load(Ordering::Relaxed).wrapping_sub(self.head).min(self.capacity)
    }

    /// Gives the space of popped frames back. Answers whether the producer waits for it and must be
    /// woken by its doorbell.
    #[must_use = "a waiting producer must be woken"]
    pub fn release(&mut self) -> bool {
        let shared = self.shared();
        shared.head.store(self.head, Ordering::Release);
        fence(Ordering::SeqCst);
        shared.producer_waits.load(Ordering::Relaxed) != 0
            && shared.producer_waits.swap(0, Ordering::Relaxed) != 0
    }

    /// Whether nothing is there. Looks at the shared position.
    pub fn is_empty(&mut self) -> bool {
        self.tail = self.head;
        matches!(self.available(), Ok(0))
    }

    /// Announces sleep. `true`: nothing has come meanwhile, sleep; the producer will ring.
    pub fn announce_sleep(&mut self) -> bool {
        self.shared().consumer_sleeps.swap(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let sleep = self.is_empty();
        if !sleep {
            self.awake();
        }
        sleep
    }

    /// Takes the announcement back.
    pub fn awake(&mut self) {
        self.shared().consumer_sleeps.store(0, Ordering::Relaxed);
    }

    fn available(&mut self) -> Result<u32, Corrupt> {
        if self.tail == self.head {
            self.tail = self.shared().tail.load(Ordering::Acquire);
        }
        let available = self.tail.wrapping_sub(self.head);
        if available > self.capacity || !available.is_multiple_of(ALIGN) {
            return Err(Corrupt);
        }
        Ok(available)
    }

    fn shared(&self) -> &Positions {
        // SAFETY: valid for our life (promise to `attach`); atomics only.
        unsafe { &*self.shared }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::vec;
    use std::vec::Vec;

    struct Ring {
        positions: std::boxed::Box<Positions>,
        data: Vec<u64>,
    }

    impl Ring {
        fn new(capacity: usize) -> Ring {
            Ring { positions: Default::default(), data: vec![0; capacity / 8] }
        }

        fn ends(&mut self) -> (Producer, Consumer) {
            let capacity = (self.data.len() * 8) as u32;
            // SAFETY: the ring outlives its ends in every test below.
            unsafe {
                (
                    Producer::attach(&*self.positions, self.data.as_mut_ptr().cast(), capacity).unwrap(),
                    Consumer::attach(&*self.positions, self.data.as_ptr().cast(), capacity).unwrap(),
                )
            }
        }
    }

    /// A small generator: tests need repeatable variety, not quality.
    fn next(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    /// A producer that wrote nonsense over its positions is succeeded; the consumer goes on with the successor.
    #[test]
    fn a_spoiled_ring_begins_anew() {
        for (tail, head) in [(0xdead_beef, 0x1234_5670), (17, 0x40), (0x8000_0000, 0x10)] {
            let shared = Positions::new();
            let mut data = vec![0u64; 32];
            let at = data.as_mut_ptr();
            let mut buffer = [0; 256];
            // SAFETY: both outlive the ends; one producer and one consumer at a time.
            unsafe {
                let mut first = Producer::attach(&shared, at.cast(), 256).unwrap();
                let mut consumer = Consumer::attach(&shared, at.cast(), 256).unwrap();
                assert_eq!(first.push(20, Meta::default(), |b| b.fill(1)), Ok(true));
                let _ = first.publish();
                consumer.pop(&mut buffer).unwrap().unwrap();
                let _ = consumer.release();
                shared.tail.store(tail, Ordering::Relaxed);
                shared.head.store(head, Ordering::Relaxed);
                assert_eq!(consumer.pop(&mut buffer), Err(Corrupt));
                let mut second = Producer::attach_anew(&shared, at.cast(), 256);
                // Full until the consumer has found its place, and no accusation.
                assert_eq!(second.push(20, Meta::default(), |b| b.fill(2)), Ok(false));
                assert_eq!(second.wait_for_space(20), Ok(true));
                assert_eq!(consumer.resync(), Ok(true));
                for byte in 3..100 {
                    assert_eq!(second.push(20, Meta::default(), |b| b.fill(byte)), Ok(true));
                    let _ = second.publish();
                    assert_eq!(consumer.pop(&mut buffer).unwrap().unwrap().0, 20);
                    assert_eq!(buffer[..20], [byte; 20]);
                    let _ = consumer.release();
                }
                shared.head.store(head ^ 0x4000_0000, Ordering::Relaxed);
                while second.push(20, Meta::default(), |_| ()) == Ok(true) {}
                assert_eq!(second.push(20, Meta::default(), |_| ()), Err(Corrupt));
            }
        }
    }

    #[test]
    fn behaves_like_a_queue() {
        let mut ring = Ring::new(4096);
        let (mut producer, mut consumer) = ring.ends();
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        let (mut seed, mut buffer) = (7, [0; 4096]);
        for step in 0..200_000u64 {
            if next(&mut seed).is_multiple_of(2) {
                let len = (next(&mut seed) % 1500) as usize;
                let frame = vec![step as u8; len];
                let meta =
                    Meta { checksum_done: true, segment_size: len as u16, local: len.is_multiple_of(2) };
                if producer.push(len, meta, |b| b.copy_from_slice(&frame)).unwrap() {
                    model.push_back(frame);
                }
                let _ = producer.publish();
            } else {
                let got = consumer.pop(&mut buffer).unwrap();
                let _ = consumer.release();
                let want = model.pop_front();
                assert_eq!(got.map(|(len, _)| buffer[..len].to_vec()), want);
                if let Some((len, meta)) = got {
                    assert_eq!(
                        meta,
                        Meta { checksum_done: true, segment_size: len as u16, local: len % 2 == 0 }
                    );
                }
            }
        }
    }

    #[test]
    fn goes_on_after_either_end_was_lost() {
        let mut ring = Ring::new(1024);
        let mut buffer = [0; 1024];
        for round in 0..1000u32 {
            let (mut producer, _) = ring.ends();
            assert!(producer.push(40, Meta::default(), |b| b.fill(round as u8)).unwrap());
            let _ = producer.publish();
            let (_, mut consumer) = ring.ends();
            assert_eq!(consumer.pop(&mut buffer).unwrap().unwrap().0, 40);
            assert_eq!(buffer[..40], [round as u8; 40]);
            let _ = consumer.release();
        }
    }

    #[test]
    fn hostile_producer_is_corrupt_never_out_of_bounds() {
        let mut seed = 99;
        for _ in 0..20_000 {
            let mut ring = Ring::new(512);
            let (_, mut consumer) = ring.ends();
            ring.data.iter_mut().for_each(|word| *word = next(&mut seed) & 0xffff_00ff_0000_03ff);
            ring.positions.tail.store(next(&mut seed) as u32 & 0x7f0, Ordering::Release);
            let mut buffer = [0; 512];
            while let Ok(Some((len, _))) = consumer.pop(&mut buffer) {
                assert!(len <= 512);
            }
        }
    }

    #[test]
    fn hostile_consumer_is_corrupt() {
        let mut ring = Ring::new(512);
        let (mut producer, _) = ring.ends();
        ring.positions.head.store(0x8000_0000, Ordering::Release);
        let mut verdict = Ok(true);
        while verdict == Ok(true) {
            verdict = producer.push(100, Meta::default(), |b| b.fill(1));
        }
        assert_eq!(verdict, Err(Corrupt));
    }

    #[test]
    fn doorbell_only_for_a_sleeper() {
        let mut ring = Ring::new(512);
        let (mut producer, mut consumer) = ring.ends();
        assert!(producer.push(8, Meta::default(), |_| ()).unwrap());
        assert!(!producer.publish());
        assert!(!consumer.announce_sleep());
        consumer.pop(&mut [0; 64]).unwrap().unwrap();
        assert!(consumer.announce_sleep());
        assert!(producer.push(8, Meta::default(), |_| ()).unwrap());
        assert!(producer.publish());
        assert!(!producer.publish());
    }
}

/// Loom runs: `RUSTFLAGS="--cfg loom" cargo test -p net --release ring`. The data itself stays
/// outside the model (raw memory); what loom explores is positions, fences and sleep flags.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    struct Ring {
        positions: Positions,
        data: std::cell::UnsafeCell<[u64; 8]>,
    }
    // SAFETY: the ring protocol under test gives each byte to one side at a time.
    unsafe impl Sync for Ring {}
    // SAFETY: as above.
    unsafe impl Send for Ring {}

    fn ends(ring: &Ring) -> (Producer, Consumer) {
        // SAFETY: the Arc that both threads hold keeps the ring alive.
        unsafe {
            (
                Producer::attach(&ring.positions, ring.data.get().cast(), 64).unwrap(),
                Consumer::attach(&ring.positions, ring.data.get().cast(), 64).unwrap(),
            )
        }
    }

    #[test]
    fn a_sleeping_consumer_is_always_rung() {
        loom::model(|| {
            let ring = Arc::new(Ring { positions: Positions::new(), data: Default::default() });
            let bell = Arc::new(loom::sync::atomic::AtomicBool::new(false));
            let (mut producer, mut consumer) = ends(&ring);
            let theirs = (ring.clone(), bell.clone());
            let sender = loom::thread::spawn(move || {
                for byte in 1..=2u8 {
                    assert!(producer.push(8, Meta::default(), |b| b.fill(byte)).unwrap());
                    if producer.publish() {
                        theirs.1.store(true, Ordering::SeqCst);
                    }
                }
            });
            let mut buffer = [0; 64];
            let mut expected = 1;
            let mut asleep = false;
            while expected <= 2 && !asleep {
                match consumer.pop(&mut buffer).unwrap() {
                    Some((len, _)) => {
                        assert_eq!((len, buffer[0]), (8, expected));
                        expected += 1;
                        let _ = consumer.release();
                    }
                    None => asleep = consumer.announce_sleep(),
                }
            }
            sender.join().unwrap();
            // Asleep with frames in the ring: the doorbell must have been rung.
            if asleep && !consumer.is_empty() {
                assert!(bell.load(Ordering::SeqCst));
            }
        });
    }

    #[test]
    fn a_waiting_producer_is_always_rung() {
        loom::model(|| {
            let ring = Arc::new(Ring { positions: Positions::new(), data: Default::default() });
            let bell = Arc::new(loom::sync::atomic::AtomicBool::new(false));
            let (mut producer, mut consumer) = ends(&ring);
            assert!(producer.push(40, Meta::default(), |b| b.fill(1)).unwrap());
            let _ = producer.publish();
            let theirs = (ring.clone(), bell.clone());
            let receiver = loom::thread::spawn(move || {
                consumer.pop(&mut [0; 64]).unwrap().unwrap();
                if consumer.release() {
                    theirs.1.store(true, Ordering::SeqCst);
                }
            });
            let waits =
                !producer.push(40, Meta::default(), |_| ()).unwrap() && producer.wait_for_space(40).unwrap();
            receiver.join().unwrap();
            assert!(!waits || bell.load(Ordering::SeqCst));
        });
    }

    /// A shard with its inbox (`syscalls/src/net_poll.rs::Net::attend`): whoever has the lock takes from the ring.
    struct Shard {
        ring: Ring,
        lock: AtomicU32,
        taken: std::cell::UnsafeCell<(Option<Consumer>, u32)>,
    }
    // SAFETY: `taken` is reached under the lock alone.
    unsafe impl Sync for Shard {}
    // SAFETY: as above.
    unsafe impl Send for Shard {}

    impl Shard {
        fn try_lock(&self) -> bool {
            self.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
        }

        /// The caller has the lock.
        fn take_all(&self) {
            // SAFETY: as said.
            let (consumer, count) = unsafe { &mut *self.taken.get() };
            let consumer = consumer.as_mut().unwrap();
            while consumer.pop(&mut [0; 64]).unwrap().is_some() {
                *count += 1;
                let _ = consumer.release();
            }
        }

        /// Gives it back, and looks after what came meanwhile.
        fn unlock(&self) {
            loop {
                self.lock.store(0, Ordering::Release);
                fence(Ordering::SeqCst);
                if self.ring.positions.is_empty() || !self.try_lock() {
                    return;
                }
                self.take_all();
            }
        }
    }

    #[test]
    fn what_finds_the_shard_locked_is_taken_by_who_unlocks() {
        loom::model(|| {
            let ring = Ring { positions: Positions::new(), data: Default::default() };
            let taken = std::cell::UnsafeCell::new((None, 0));
            let shard = Arc::new(Shard { ring, lock: AtomicU32::new(1), taken });
            let (mut producer, consumer) = ends(&shard.ring);
            // SAFETY: nobody else has it yet.
            unsafe { (*shard.taken.get()).0 = Some(consumer) };
            let theirs = shard.clone();
            let sender = loom::thread::spawn(move || {
                for byte in 1..=2u8 {
                    assert!(producer.push(8, Meta::default(), |b| b.fill(byte)).unwrap());
                    let _ = producer.publish();
                }
                if theirs.try_lock() {
                    theirs.take_all();
                    theirs.unlock();
                }
            });
            shard.take_all();
            shard.unlock();
            sender.join().unwrap();
            // SAFETY: the other thread has ended.
            assert_eq!(unsafe { (*shard.taken.get()).1 }, 2);
        });
    }
}
