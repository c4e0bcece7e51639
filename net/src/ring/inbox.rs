//! The inbox of a shard: frames that somebody else received for it, in memory that both share and trust.
//!
//! The ring is `spsc.rs` (model-checked there). One vCPU at a time sends, whoever holds the [`Sender`]'s lock, and one
//! takes, whoever holds the shard; neither waits for the other. What was pushed and not published when its
//! process was killed is lost, as a frame on a wire is; what was published is not.

use alloc::alloc::{Layout, alloc, handle_alloc_error};

use super::spsc::{Consumer, Meta, Positions, Producer, RING_HEADER_BYTES};

/// Bytes of an inbox. Memory that no frame has reached yet is not there.
pub const INBOX_BYTES: usize = 2 << 20;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A frame from the device.
    Frame = 0,
    /// A frame that somebody else answers: only what it tells is of interest.
    News = 1,
    /// An IP packet from outside.
    Packet = 2,
    /// An IP packet of the loopback interface.
    Loopback = 3,
    /// An IP packet that somebody else took, for raw sockets.
    Seen = 4,
    /// The same from the loopback interface.
    SeenLoopback = 5,
}

impl Kind {
    fn from_bits(bits: u16) -> Kind {
        [Kind::Frame, Kind::News, Kind::Packet, Kind::Loopback, Kind::Seen, Kind::SeenLoopback]
            .into_iter()
            .find(|kind| *kind as u16 == bits)
            .unwrap_or(Kind::Frame)
    }
}

/// The sending end.
pub struct Sender {
    ring: Producer,
    /// Records that found no room.
    dropped: u64,
}

/// The receiving end.
pub struct Inbox {
    ring: Consumer,
    taken: u64,
}

/// Whether something is in an inbox, for those who have neither end.
#[derive(Clone, Copy)]
pub struct Glance(&'static Positions);

/// A record where it lies.
pub struct Record<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The checksums need no look.
    pub checksum_ok: bool,
}

/// Makes an inbox. It is for ever: shards end with their guest.
pub fn inbox() -> (Sender, Inbox, Glance) {
    let layout = Layout::from_size_align(RING_HEADER_BYTES + INBOX_BYTES, align_of::<Positions>())
        .expect("a constant that is one");
    // SAFETY: the layout is not empty; null is handled. The data need no beginning: only what a producer has
    // written is read.
    let (positions, data) = unsafe {
        let memory = alloc(layout);
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        memory.cast::<Positions>().write(Positions::new());
        (memory.cast::<Positions>(), memory.add(RING_HEADER_BYTES))
    };
    // SAFETY: as long as the program, aligned, and these are the only ends.
    unsafe {
        let ring = Producer::attach(positions, data, INBOX_BYTES as u32);
        let taken = Consumer::attach(positions, data, INBOX_BYTES as u32);
        let (Ok(ring), Ok(taken)) = (ring, taken) else { unreachable!("an empty ring is sound") };
        (Sender { ring, dropped: 0 }, Inbox { ring: taken, taken: 0 }, Glance(&*positions))
    }
}

impl Sender {
    /// Puts a record in; seen after [`Sender::publish`]. False if there is no room: then it is lost, and counted.
    pub fn push(&mut self, kind: Kind, bytes: &[u8], checksum_ok: bool) -> bool {
        let meta = Meta { checksum_done: checksum_ok, segment_size: kind as u16, local: false };
        let put = self.ring.push(bytes.len(), meta, |space| space.copy_from_slice(bytes)) == Ok(true);
        self.dropped += u64::from(!put);
        put
    }

    /// Shows what was pushed.
    pub fn publish(&mut self) {
        // Nobody sleeps at an inbox: whoever sent looks after it, see `syscalls/src/net_poll.rs`.
        let _ = self.ring.publish();
    }

    /// Records of `len` bytes for which there is room in any case.
    pub fn room(&self, len: usize) -> usize {
        // The end of the ring may be skipped once.
        (INBOX_BYTES - self.ring.waiting() as usize).saturating_sub(len) / (len + 32)
    }

    /// Records that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Inbox {
    /// Shows up to `N` records in place; `None` if there are none. They go when `look` returns.
    pub fn take<const N: usize>(&mut self, look: impl FnOnce(&[Record<'_>])) -> Option<usize> {
        let mut count = 0;
        let mut records = [const { Record { kind: Kind::Frame, bytes: &[], checksum_ok: false } }; N];
        while count < N {
            // The other end is this program's own: a ring that cannot be is a defect of ours.
            let Ok(Some(front)) = self.ring.front() else { break };
            let kind = Kind::from_bits(front.meta.segment_size);
            let checksum_ok = front.meta.checksum_done;
            records[count] = Record { kind, bytes: front.in_place(), checksum_ok };
            self.ring.advance(front);
            count += 1;
        }
        if count == 0 {
            return None;
        }
        look(&records[..count]);
        let _ = self.ring.release();
        self.taken += count as u64;
        Some(count)
    }

    /// Records taken since the start.
    pub fn taken(&self) -> u64 {
        self.taken
    }
}

impl Glance {
    /// Nothing waits that was published.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn records_come_in_order_and_a_full_inbox_says_so() {
        let (mut sender, mut inbox, glance) = inbox();
        assert!(glance.is_empty());
        assert!(sender.push(Kind::News, b"one", true));
        assert!(glance.is_empty(), "not published yet");
        sender.push(Kind::Loopback, b"two", false);
        sender.publish();
        assert!(!glance.is_empty());
        let mut seen = std::vec::Vec::new();
        inbox.take::<8>(|records| {
            seen.extend(records.iter().map(|r| (r.kind, r.bytes.to_vec(), r.checksum_ok)));
        });
        assert_eq!(seen, [(Kind::News, b"one".to_vec(), true), (Kind::Loopback, b"two".to_vec(), false)]);
        assert!(glance.is_empty() && inbox.take::<8>(|_| ()).is_none());
        let big = std::vec![7; 65_549];
        let room = sender.room(big.len());
        let count = (0..100).take_while(|_| sender.push(Kind::Frame, &big, true)).count();
        assert!((room..100).contains(&count), "{room} were promised, {count} found room");
        assert_eq!(sender.dropped(), 1);
        sender.publish();
        let mut left = 0;
        while let Some(count) = inbox.take::<32>(|records| assert!(records.iter().all(|r| r.bytes == big))) {
            left += count;
        }
        assert_eq!(left, count);
        assert_eq!(sender.room(big.len()), room);
    }

    #[test]
    fn two_threads_pass_everything_on() {
        let (mut sender, mut inbox, glance) = inbox();
        let sent = std::thread::spawn(move || {
            for number in 0..200_000u32 {
                let bytes = number.to_ne_bytes().repeat(1 + number as usize % 300);
                while sender.room(bytes.len()) == 0 {
                    std::thread::yield_now();
                }
                assert!(sender.push(Kind::Frame, &bytes, true));
                if number % 3 == 0 {
                    sender.publish();
                }
            }
            sender.publish();
        });
        let mut next = 0u32;
        while next < 200_000 {
            if glance.is_empty() {
                std::thread::yield_now();
            }
            inbox.take::<32>(|records| {
                for record in records {
                    assert_eq!(record.bytes, next.to_ne_bytes().repeat(1 + next as usize % 300));
                    next += 1;
                }
            });
        }
        sent.join().unwrap();
    }
}
