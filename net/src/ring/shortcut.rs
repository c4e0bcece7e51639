//! Ways to other guests of a network that lead past its server: rings shared with one guest each.
//!
//! Two guests that exchange many frames are given a link of their own by their supervisor. What one sends to an address of
//! the other goes there, and nobody between them takes a turn of the processor or copies a frame. All else (other
//! guests, the outside, requests for addresses, groups) goes on over the server.
//!
//! **Order.** A shortcut is used from a moment on in which the server has taken everything before it
//! ([`Shortcuts::way`]), and the server publishes what it takes before it says so. The receiver looks at its shortcuts
//! first, then takes what the server's ring has, then what it saw at the shortcuts: what it finds at a new
//! shortcut was sent later than all that it has taken by then. So nothing is reordered.
//!
//! **Trust.** The other end is another guest, which may write anything. A packet that does not come from one of the
//! addresses that the supervisor named is dropped, as the server would; a ring that is broken ends its shortcut alone. Who
//! takes nothing for a while loses what is for it, so that it holds up nobody else's frames.
//!
//! Left out: guests that share an address, which are told apart by ports the server knows; guests with a limit, which
//! it measures. The supervisor gives those none.

use super::RingDevice;
use crate::device::{Device, Full, Nic, RxFrame, TxMeta};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use platform::time::{Instant, MILLISECOND};

/// A peer that has taken nothing for so long is not waited for.
const STALL_NS: u64 = MILLISECOND;
/// How long a shortcut that is not used any more is listened to: the other end may learn of it later.
const LINGER_NS: u64 = 20 * MILLISECOND;
/// Addresses of one guest that lead over a shortcut.
pub const ADDRESSES: usize = 4;

/// The guest at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its hardware address on the network: what frames to it are addressed to.
    pub mac: [u8; 6],
    /// Its own addresses.
    pub addresses: [Option<IpAddr>; ADDRESSES],
}

/// All of a guest's. See the module.
pub struct Shortcuts {
    all: Vec<Shortcut>,
    /// Frames for peers that did not take any.
    dropped: u64,
    /// Frames that came from addresses that are not the sender's.
    foreign: u64,
}

struct Shortcut {
    id: u32,
    peer: Peer,
    ring: RingDevice,
    use_: Use,
    /// What came over the server before its first frame has been taken.
    in_order: bool,
    /// Since when the peer has taken nothing, and where it stood.
    stalled: Option<(Instant, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Something may be on its way over the server.
    NotYet,
    Sends,
    /// Until then it hears.
    Ends(Instant),
}

/// Which shortcuts had frames at a moment: bits by their places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting(u64);

impl Waiting {
    /// Whether any had.
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

/// A place among a guest's shortcuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way(usize);

impl Peer {
    /// Whether this is its address.
    #[inline]
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&Some(address))
    }

    /// Whether a frame's packet comes from it.
    fn is_sender(&self, frame: &[u8]) -> bool {
        const V4_SOURCE: usize = 14 + 12;
        const V6_SOURCE: usize = 14 + 8;
        let source = match frame.get(12..14) {
            Some([8, 0]) => {
                frame.get(V4_SOURCE..).and_then(|rest| rest.first_chunk::<4>()).map(|a| (*a).into())
            }
            Some([0x86, 0xdd]) => {
                frame.get(V6_SOURCE..).and_then(|rest| rest.first_chunk::<16>()).map(|a| (*a).into())
            }
            _ => None,
        };
        source.is_some_and(|source| self.has(source))
    }
}

impl Shortcuts {
    /// None.
    pub const fn none() -> Shortcuts {
        Shortcuts { all: Vec::new(), dropped: 0, foreign: 0 }
    }

    /// Most of them at once.
    pub const MOST: usize = 8;

    /// Adds one, under the supervisor's number. `false`: there is no room.
    pub fn add(&mut self, id: u32, peer: Peer, ring: RingDevice) -> bool {
        if self.all.len() >= Self::MOST {
            return false;
        }
        let (use_, in_order, stalled) = (Use::NotYet, false, None);
        self.all.push(Shortcut { id, peer, ring, use_, in_order, stalled });
        true
    }

    /// Uses this one no more; for a while it is listened to.
    pub fn end(&mut self, id: u32, now: Instant) {
        self.all.iter_mut().filter(|shortcut| shortcut.id == id).for_each(|shortcut| shortcut.end(now));
    }

    /// The same for all.
    pub fn end_all(&mut self, now: Instant) {
        self.all.iter_mut().for_each(|shortcut| shortcut.end(now));
    }

    /// When [`Shortcuts::retire`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let ends = |shortcut: &Shortcut| match shortcut.use_ {
            Use::Ends(at) => Some(at),
            Use::NotYet | Use::Sends => None,
        };
        self.all.iter().filter_map(ends).min()
    }

    /// Takes out one that has been listened to for long enough, or that is broken (`true`: the other end does not know).
    /// Its memory may go.
    pub fn retire(&mut self, now: Instant) -> Option<(u32, bool)> {
        let at = self.all.iter_mut().position(|shortcut| {
            !shortcut.ring.is_alive()
                || matches!(shortcut.use_, Use::Ends(at) if at <= now) && !shortcut.ring.has_frames()
        })?;
        // In their order: places are bits of `Waiting`, but only within one call of the device.
        let shortcut = self.all.remove(at);
        Some((shortcut.id, !shortcut.ring.is_alive()))
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether one leads to this address, be it used or not.
    pub fn leads_to(&self, address: IpAddr) -> bool {
        self.all.iter().any(|shortcut| shortcut.leads_to(address))
    }

    /// The shortcut for a packet to this address. `server_has_all`: whether everything sent before over the server has
    /// been taken there.
    #[inline]
    pub fn way(&mut self, to: IpAddr, server_has_all: impl FnOnce() -> bool) -> Option<Way> {
        let at = self.all.iter().position(|shortcut| shortcut.leads_to(to))?;
        let shortcut = &mut self.all[at];
        if shortcut.use_ == Use::NotYet && server_has_all() {
            shortcut.use_ = Use::Sends;
        }
        (shortcut.use_ == Use::Sends).then_some(Way(at))
    }

    /// Sends over a shortcut: as [`Device::transmit`]. `now` is asked if there is no room.
    pub fn transmit(
        &mut self,
        Way(at): Way,
        len: usize,
        meta: TxMeta,
        fill: &mut dyn FnMut(&mut [u8]),
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Full> {
        let shortcut = &mut self.all[at];
        let mac = shortcut.peer.mac;
        let sent = shortcut.ring.transmit(len, meta, &mut |frame| {
            fill(frame);
            // Of a network behind host sockets the engine knows the gateway alone.
            if let Some(to) = frame.first_chunk_mut() {
                *to = mac;
            }
        });
        match sent {
            Ok(()) => {
                shortcut.stalled = None;
                Ok(())
            }
            Err(Full) if shortcut.is_patient(now()) => Err(Full),
            Err(Full) => {
                self.dropped += 1;
                fill(&mut vec![0; len]);
                Ok(())
            }
        }
    }

    /// Which have frames now. To be asked before the server's ring is looked at.
    #[inline]
    pub fn waiting(&mut self) -> Waiting {
        let bit = |(at, shortcut): (usize, &mut Shortcut)| u64::from(shortcut.ring.has_frames()) << at;
        Waiting(self.all.iter_mut().enumerate().map(bit).sum())
    }

    /// Takes frames, `budget` at most. `waiting`: as it was before the server's ring was looked at; `server_empty`:
    /// everything in that was taken since.
    pub fn receive(
        &mut self,
        budget: usize,
        waiting: Waiting,
        server_empty: bool,
        sink: &mut dyn FnMut(&[RxFrame<'_>]),
    ) -> usize {
        let mut count = 0;
        for (at, shortcut) in self.all.iter_mut().enumerate() {
            if waiting.0 >> at & 1 == 0 || count >= budget {
                continue;
            }
            shortcut.in_order |= server_empty;
            if shortcut.in_order {
                count += shortcut.receive(budget - count, &mut self.foreign, sink);
            }
        }
        count
    }

    /// As [`Device::flush`].
    pub fn flush(&mut self) {
        self.all.iter_mut().for_each(|shortcut| shortcut.ring.flush());
    }

    /// As [`Nic::announce_sleep`].
    pub fn announce_sleep(&mut self) -> bool {
        self.all.iter_mut().all(|shortcut| shortcut.ring.announce_sleep())
    }

    /// As [`Nic::awake`].
    pub fn awake(&mut self) {
        self.all.iter_mut().for_each(|shortcut| shortcut.ring.awake());
    }

    /// Frames that were lost: for peers that took none, and those that said they come from somebody else.
    pub fn lost(&self) -> u64 {
        self.dropped + self.foreign
    }
}

impl Shortcut {
    #[inline]
    fn leads_to(&self, address: IpAddr) -> bool {
        self.peer.has(address) && !matches!(self.use_, Use::Ends(_)) && self.ring.is_alive()
    }

    fn end(&mut self, now: Instant) {
        if !matches!(self.use_, Use::Ends(_)) {
            self.use_ = Use::Ends(now.after(LINGER_NS));
        }
    }

    fn is_patient(&mut self, now: Instant) -> bool {
        let position = self.ring.consumed();
        match self.stalled {
            Some((since, there)) if there == position => now.since(since) < STALL_NS,
            _ => {
                self.stalled = Some((now, position));
                true
            }
        }
    }

    fn receive(&mut self, budget: usize, foreign: &mut u64, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let peer = self.peer;
        self.ring.receive(budget, &mut |batch| {
            if batch.iter().all(|frame| peer.is_sender(frame.bytes)) {
                return sink(batch);
            }
            for frame in batch {
                if peer.is_sender(frame.bytes) {
                    sink(core::slice::from_ref(frame));
                } else {
                    *foreign += 1;
                }
            }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ring::{Layout, Link, Role};
    use std::alloc::{Layout as Memory, alloc_zeroed, dealloc};
    use std::boxed::Box;

    const LAYOUT: Layout = Layout { queues: 1, capacity: 1 << 17 };
    const NOW: Instant = Instant(1_000_000_000);

    /// Memory of a link.
    struct Region(*mut u8);

    impl Region {
        fn new() -> Region {
            let memory = Memory::from_size_align(LAYOUT.bytes(), 4096).unwrap();
            // SAFETY: not of size zero; freed when the region is dropped, after the rings.
            let region = Region(unsafe { alloc_zeroed(memory) });
            // SAFETY: as long as the layout says.
            unsafe { Link::create(region.0, LAYOUT) }.unwrap();
            region
        }

        fn end(&self, role: Role) -> RingDevice {
            // SAFETY: each test takes each end once.
            unsafe {
                let link = Link::open(self.0, LAYOUT.bytes()).unwrap();
                RingDevice::new(link, role, 0, 1500, Box::new(|| {})).unwrap()
            }
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: made so.
            unsafe { dealloc(self.0, Memory::from_size_align(LAYOUT.bytes(), 4096).unwrap()) };
        }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn peer(last: u8) -> Peer {
        Peer { mac: [2, 0, 0, 0, 0, last], addresses: [Some(address(last)), None, None, None] }
    }

    /// Both ends: guests 1 and 2.
    fn joined(region: &Region) -> (Shortcuts, Shortcuts) {
        let (mut first, mut second) = (Shortcuts::none(), Shortcuts::none());
        assert!(first.add(7, peer(2), region.end(Role::Guest)));
        assert!(second.add(7, peer(1), region.end(Role::Server)));
        (first, second)
    }

    /// An IPv4 frame from guest `from`, with a number.
    fn frame(from: u8, number: u8) -> [u8; 40] {
        let mut frame = [0; 40];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[26..30].copy_from_slice(&[10, 0, 0, from]);
        frame[34] = number;
        frame
    }

    fn send(over: &mut Shortcuts, to: u8, frame: &[u8]) -> Option<Result<(), Full>> {
        let way = over.way(address(to), || true)?;
        let sent =
            over.transmit(way, frame.len(), TxMeta::default(), &mut |b| b.copy_from_slice(frame), || NOW);
        over.flush();
        Some(sent)
    }

    fn numbers(at: &mut Shortcuts, waiting: Waiting, server_empty: bool) -> Vec<u8> {
        let mut heard = Vec::new();
        at.receive(64, waiting, server_empty, &mut |frames| heard.extend(frames.iter().map(|f| f.bytes[34])));
        heard
    }

    #[test]
    fn frames_go_to_the_peers_address_alone_and_as_to_its_hardware_address() {
        let region = Region::new();
        let (mut first, mut second) = joined(&region);
        assert_eq!(send(&mut first, 3, &frame(1, 1)), None);
        assert_eq!(send(&mut first, 2, &frame(1, 2)), Some(Ok(())));
        let waiting = second.waiting();
        let mut to = Vec::new();
        second.receive(64, waiting, true, &mut |frames| to.extend_from_slice(&frames[0].bytes[..6]));
        assert_eq!(to, peer(2).mac);
    }

    #[test]
    fn nothing_overtakes_what_the_server_has() {
        let region = Region::new();
        let (mut first, mut second) = joined(&region);
        // The sender: not while the server has something of it.
        assert!(first.way(address(2), || false).is_none());
        assert!(first.way(address(2), || true).is_some());
        assert!(first.way(address(2), || false).is_some());
        // The receiver: what comes after the look waits, and what came before waits for the server's ring.
        let before = second.waiting();
        assert!(!before.any());
        send(&mut first, 2, &frame(1, 1));
        assert_eq!(numbers(&mut second, before, true), []);
        let waiting = second.waiting();
        assert_eq!(numbers(&mut second, waiting, false), []);
        assert_eq!(numbers(&mut second, waiting, true), [1]);
        // From then on in any order.
        send(&mut first, 2, &frame(1, 2));
        let waiting = second.waiting();
        assert_eq!(numbers(&mut second, waiting, false), [2]);
    }

    #[test]
    fn what_comes_from_foreign_addresses_is_dropped_alone() {
        let region = Region::new();
        let (mut first, mut second) = joined(&region);
        send(&mut first, 2, &frame(1, 1));
        send(&mut first, 2, &frame(9, 2));
        send(&mut first, 2, &[0; 8]);
        send(&mut first, 2, &frame(1, 3));
        let waiting = second.waiting();
        assert_eq!(numbers(&mut second, waiting, true), [1, 3]);
        assert_eq!(second.lost(), 2);
    }

    #[test]
    fn a_peer_that_takes_nothing_holds_nobody_up_for_long() {
        let region = Region::new();
        let (mut first, mut second) = joined(&region);
        while send(&mut first, 2, &frame(1, 1)) == Some(Ok(())) {}
        let way = first.way(address(2), || true).unwrap();
        let at = |shortcuts: &mut Shortcuts, ns| {
            shortcuts.transmit(way, 40, TxMeta::default(), &mut |_| {}, || NOW.after(ns))
        };
        assert_eq!(at(&mut first, STALL_NS / 2), Err(Full));
        assert_eq!(at(&mut first, STALL_NS), Ok(()));
        assert_eq!(first.lost(), 1);
        // It takes some: what is sent now arrives.
        let waiting = second.waiting();
        assert!(!numbers(&mut second, waiting, true).is_empty());
        assert_eq!(at(&mut first, 2 * STALL_NS), Ok(()));
        assert_eq!(first.lost(), 1);
    }

    #[test]
    fn one_that_ends_is_listened_to_for_a_while_and_then_given_back() {
        let region = Region::new();
        let (mut first, mut second) = joined(&region);
        send(&mut first, 2, &frame(1, 1));
        second.end(7, NOW);
        assert!(second.way(address(1), || true).is_none());
        assert_eq!(second.deadline(), Some(NOW.after(LINGER_NS)));
        // What is there is taken first.
        assert_eq!(second.retire(NOW.after(LINGER_NS)), None);
        let waiting = second.waiting();
        assert_eq!(numbers(&mut second, waiting, true), [1]);
        assert_eq!(second.retire(NOW), None);
        assert_eq!(second.retire(NOW.after(LINGER_NS)), Some((7, false)));
        assert!(second.is_empty());
    }

    #[test]
    fn a_broken_one_ends_alone() {
        let (region, other) = (Region::new(), Region::new());
        let (mut first, _second) = joined(&region);
        assert!(first.add(8, peer(3), other.end(Role::Guest)));
        // SAFETY: a test of what a hostile peer may do: the ring in which this guest receives.
        unsafe {
            let ring = Link::open(region.0, LAYOUT.bytes()).unwrap().guests_ring();
            ring.start.write_bytes(0xff, ring.end.offset_from(ring.start) as usize);
        }
        let waiting = first.waiting();
        numbers(&mut first, waiting, true);
        assert_eq!(first.retire(NOW), Some((7, true)));
        assert_eq!(first.retire(NOW), None);
        assert!(first.leads_to(address(3)) && !first.leads_to(address(2)));
    }
}
