//! A guest as the server sees it: its ring ends, its counters, and behind uplink `host` an engine that
//! plays the whole world towards it.
//!
//! Order of things, for the sake of whoever takes over after us: frames for a guest are published before
//! the space of the frames that caused them is given back. A server that dies in between has passed some
//! frames on that its successor finds again and passes once more. Twice is what networks do now and then
//! and engines cope with; the other order would lose them.

use crate::board::{Slot, add};
use crate::control::Place;
use crate::forward::{ETHERNET, Identity, Mac};
use crate::limits::Meter;
use crate::orders::Prepared;
use crate::server::Token;
use crate::sys::{self, Epoll};
use crate::uplink::host::HostUplink;
use net::device::{Capabilities, Device, Full, RxFrame, TxMeta};
use net::ring::{Consumer, Front, Link, Meta, Producer, Role};
use net::{Config, Shard};
use platform::time::{Instant, SECOND};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// Longest frame: a 64 KiB super-segment behind an Ethernet header.
pub(crate) const MAX_FRAME: usize = 65536 + 64;
/// How long a guest whose ring is full may keep its senders waiting without taking anything. Longer than the host's
/// scheduler leaves a guest without a processor where there are fewer than there are guests (a slice or two of 3 ms): such
/// a one takes its frames when it runs again, and each that was dropped would cost its sender half of its window. A
/// stuck guest costs its senders this once, until it takes a frame.
const STALL_NS: u64 = 8_000_000;
/// How long a guest's last bytes may take to reach slow host sockets after it has gone.
const LINGER_NS: u64 = 60 * SECOND;

/// A guest. The fields that use the mapping stand before it: dropped first.
pub(crate) struct Port {
    pub(crate) id: u32,
    pub(crate) identity: Identity,
    pub(crate) place: Place,
    /// The guest has gone: what it sent is still delivered, until then at the latest.
    pub(crate) ends: Option<Instant>,
    pub(crate) proxy: Option<Box<Proxy>>,
    link: Link,
    tx: Producer,
    rx: Consumer,
    corrupt: bool,
    unpublished: bool,
    unreleased: bool,
    stall: Stall,
    meter: Meter,
    closed_until: Option<Instant>,
    to_guest: OwnedFd,
    to_server: OwnedFd,
    process: OwnedFd,
    epoll: Rc<Epoll>,
    _mapping: sys::Mapping,
}

/// Uplink `host` for one guest.
pub(crate) struct Proxy {
    pub(crate) shard: Shard,
    pub(crate) uplink: HostUplink,
    inbox: Inbox,
    /// Something happened that the next round has to look at: without it, frames between guests cost no look at this.
    pub(crate) stirred: bool,
    /// When it must be looked at all the same.
    next: Option<Instant>,
}

/// Frames of one round for the engine.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    frames: Vec<(usize, usize, bool)>,
    taken: usize,
}

/// Whether somebody whose queue is full still takes frames.
#[derive(Default)]
pub(crate) struct Stall {
    since: Option<Instant>,
    position: u32,
}

impl Stall {
    /// The queue was found full with the taker at `position`: whether it is worth waiting for it.
    pub(crate) fn is_patient(&mut self, position: u32, now: Instant) -> bool {
        if self.position != position || self.since.is_none() {
            (self.since, self.position) = (Some(now), position);
        }
        self.since.is_some_and(|at| now.since(at) < STALL_NS)
    }
}

/// A frame to be passed on.
pub(crate) struct Passing<'a> {
    /// The part that was judged: what is passed on begins with it.
    pub(crate) head: &'a [u8],
    pub(crate) len: usize,
    pub(crate) meta: Meta,
    /// Where the rest lies.
    pub(crate) rest: Rest<'a>,
}

pub(crate) enum Rest<'a> {
    Ring(&'a Front),
    Bytes(&'a [u8]),
}

impl Passing<'_> {
    /// Writes the frame, with another destination if one is given.
    pub(crate) fn write(&self, to: Option<Mac>, buffer: &mut [u8]) {
        let (start, tail) = buffer.split_at_mut(self.head.len());
        start.copy_from_slice(self.head);
        if let Some(to) = to {
            start[..6].copy_from_slice(&to);
        }
        match self.rest {
            Rest::Ring(front) => front.copy(self.head.len(), tail),
            Rest::Bytes(bytes) => tail.copy_from_slice(&bytes[self.head.len()..]),
        }
    }
}

impl Port {
    pub(crate) fn new(
        prepared: Prepared,
        host: Option<Mac>,
        epoll: &Rc<Epoll>,
        now: Instant,
    ) -> io::Result<Port> {
        let Prepared { id, place, to_server, to_guest, process, listeners, mapping } = prepared;
        let broken = |error: net::ring::LinkError| io::Error::other(error.to_string());
        // SAFETY: the mapping outlives the link's users (field order of `Port`). The supervisor lets one
        // server at a time begin, when it has reaped the one before, and this is it: nobody else has
        // the server's ends.
        let (link, (tx, rx)) = unsafe {
            let link = Link::open(mapping.base, mapping.len).map_err(broken)?;
            (link, link.ends_anew(Role::Server, 0).map_err(broken)?)
        };
        epoll.add(to_server.as_raw_fd(), sys::IN, Token::Doorbell(id).pack())?;
        let proxy = match host {
            Some(mac) => Some(Box::new(Proxy::new(id, &place, mac, listeners, epoll)?)),
            None => None,
        };
        link.begin_server_generation();
        // Asleep or not, the guest looks at the generation, and resends if it knew another one.
        sys::ring(to_guest.as_raw_fd());
        Ok(Port {
            id,
            identity: Identity { guest: id, mac: place.mac },
            ends: None,
            proxy,
            link,
            tx,
            rx,
            corrupt: false,
            unpublished: false,
            unreleased: false,
            stall: Stall::default(),
            meter: Meter::new(&place.limits, now),
            closed_until: None,
            to_guest,
            to_server,
            process,
            epoll: epoll.clone(),
            place,
            _mapping: mapping,
        })
    }

    // --- frames of the guest -----------------------------------------------------------------------

    /// The next frame of the guest, if it may pass now. It stays where it is.
    pub(crate) fn front(&mut self, now: Instant) -> Option<Front> {
        if self.corrupt {
            return None;
        }
        match self.rx.front() {
            Ok(None) => None,
            Ok(Some(front)) if front.len <= MAX_FRAME => {
                if self.meter.is_closed() {
                    self.closed_until = self.meter.closed_until(now);
                    if self.closed_until.is_some() {
                        return None;
                    }
                }
                Some(front)
            }
            Ok(Some(_)) | Err(_) => {
                self.corrupt = true;
                None
            }
        }
    }

    /// The frame is dealt with.
    pub(crate) fn done(&mut self, front: Front, slot: &Slot) {
        add(&slot.frames_from, 1);
        add(&slot.bytes_from, front.len as u64);
        if !self.meter.is_open() {
            self.meter.took(front.len);
        }
        self.rx.advance(front);
        self.unreleased = true;
    }

    /// Puts a frame into the engine that plays the world.
    pub(crate) fn give_proxy(&mut self, frame: &Passing<'_>) {
        let Some(proxy) = &mut self.proxy else { return };
        proxy.stirred = true;
        let inbox = &mut proxy.inbox;
        let start = inbox.bytes.len();
        inbox.bytes.resize(start + frame.len, 0);
        frame.write(None, &mut inbox.bytes[start..]);
        inbox.frames.push((start, frame.len, frame.meta.checksum_done));
    }

    // --- frames for the guest ----------------------------------------------------------------------

    /// Gives the guest a frame. `Err(true)`: its ring is full, but it is worth waiting a little.
    pub(crate) fn give(
        &mut self,
        frame: &Passing<'_>,
        to: Option<Mac>,
        slot: &Slot,
        now: Instant,
    ) -> Result<(), bool> {
        if self.corrupt || self.ends.is_some() {
            return Err(false);
        }
        match self.tx.push(frame.len, frame.meta, |buffer| frame.write(to, buffer)) {
            Ok(true) => {
                self.unpublished = true;
                add(&slot.frames_to, 1);
                add(&slot.bytes_to, frame.len as u64);
                Ok(())
            }
            Ok(false) => {
                self.publish();
                // Either it wakes us when it has taken some, or it has just done so.
                let patient = self.stall.is_patient(self.tx.consumed(), now);
                if self.tx.wait_for_space(frame.len).is_err() {
                    self.corrupt = true;
                    return Err(false);
                }
                Err(patient)
            }
            Err(_) => {
                self.corrupt = true;
                Err(false)
            }
        }
    }

    /// Shows the guest what it was given, and wakes it if it sleeps.
    pub(crate) fn publish(&mut self) {
        if std::mem::take(&mut self.unpublished) && self.tx.publish() {
            sys::ring(self.to_guest.as_raw_fd());
        }
    }

    /// Gives back the space of what was dealt with. After all that it caused was published.
    pub(crate) fn release(&mut self) -> bool {
        let worked = std::mem::take(&mut self.unreleased);
        if worked {
            self.link.beat_server();
            if self.rx.release() {
                sys::ring(self.to_guest.as_raw_fd());
            }
        }
        worked
    }

    // --- rest and end ------------------------------------------------------------------------------

    /// Announces sleep. `false`: frames have come that may pass.
    pub(crate) fn announce_sleep(&mut self) -> bool {
        self.corrupt || self.closed_until.is_some() || self.rx.announce_sleep()
    }

    pub(crate) fn awake(&mut self) {
        self.rx.awake();
    }

    /// The doorbell was heard.
    pub(crate) fn heard(&self) {
        sys::silence(self.to_server.as_raw_fd());
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let proxy = self.proxy.as_ref().and_then(|p| p.deadline());
        [proxy, self.ends, self.closed_until].into_iter().flatten().min()
    }

    pub(crate) fn note_waiting(&self, slot: &Slot) {
        use std::sync::atomic::Ordering::Relaxed;
        slot.waiting_from.store(self.rx.waiting(), Relaxed);
        slot.waiting_to.store(self.tx.waiting(), Relaxed);
    }

    /// The guest breaks the ring's rules: from here on it is served as one that has gone. Whether this is
    /// news.
    pub(crate) fn cut_off(&mut self, slot: &Slot) -> bool {
        let news = self.corrupt && self.ends.is_none();
        if news {
            slot.cut_off.store(1, std::sync::atomic::Ordering::Relaxed);
        }
        news
    }

    /// The guest has gone, and all that it sent was taken from its ring. Host sockets may be slow to take it.
    pub(crate) fn guest_gone(&mut self, now: Instant) {
        self.ends = Some(now.after(LINGER_NS));
        let Port { proxy: Some(proxy), tx, unpublished, corrupt, place, .. } = self else { return };
        proxy.stirred = true;
        proxy.uplink.stop_listening();
        proxy.poll(&mut ProxyDevice::new(tx, unpublished, corrupt, place.mtu), now);
        proxy.uplink.end_flows(&mut proxy.shard);
    }

    /// Whether nothing is left to do for it.
    pub(crate) fn has_ended(&self, now: Instant) -> bool {
        self.ends.is_some_and(|at| now >= at || self.proxy.as_ref().is_none_or(|p| p.uplink.is_idle()))
    }

    /// For tests: garbage into the memory of the ring in which the guest receives, positions first, as a server
    /// gone mad would write it.
    pub(crate) fn scribble(&self, random: &mut u64) {
        let mut next = || {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*random >> 32) as u32
        };
        let ring = self.link.guests_ring();
        let words = (ring.end as usize - ring.start as usize) / 4;
        for at in (0..64).chain((0..4096).map(|_| next() as usize % words)).collect::<Vec<_>>() {
            // SAFETY: inside the mapping (`guests_ring`), aligned; the reader at the other end trusts nothing.
            unsafe { ring.start.add(at * 4).cast::<u32>().write_volatile(next()) };
        }
        sys::ring(self.to_guest.as_raw_fd());
    }

    /// Has the guest's process watched (by a server without a supervisor).
    pub(crate) fn watch_process(&self) {
        let _ = self.epoll.add(self.process.as_raw_fd(), sys::IN, Token::Process(self.id).pack());
    }

    /// Runs the engine that plays the world; whether there was work.
    pub(crate) fn run_proxy(&mut self, now: Instant) -> bool {
        let Port { proxy: Some(proxy), tx, unpublished, corrupt, place, .. } = self else { return false };
        proxy.turn(&mut ProxyDevice::new(tx, unpublished, corrupt, place.mtu), now)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Closing is not enough: the supervisor has them open as well.
        self.epoll.remove(self.to_server.as_raw_fd());
        self.epoll.remove(self.process.as_raw_fd());
    }
}

impl Proxy {
    fn new(
        id: u32,
        place: &Place,
        gateway_mac: Mac,
        listeners: Vec<OwnedFd>,
        epoll: &Rc<Epoll>,
    ) -> io::Result<Proxy> {
        let mut seed = [0; 32];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut seed)?;
        let gateway = place.gateway.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        let mut config = Config::new(gateway_mac, seed).address(gateway, place.prefix);
        if let (Some(gateway), Some((_, prefix))) = (place.gateway6, place.address6) {
            config = config.address(gateway.into(), prefix);
        }
        config.peer_mac = Some(place.mac);
        config.mtu = place.mtu as usize;
        config.any_ip = true;
        config.ask_incoming = true;
        let mut shard = Shard::new(config);
        let mut uplink = HostUplink::new(id, place, gateway, listeners, epoll.clone())?;
        uplink.start(&mut shard);
        Ok(Proxy { shard, uplink, inbox: Inbox::default(), stirred: true, next: None })
    }

    fn deadline(&self) -> Option<Instant> {
        [self.shard.deadline(), self.uplink.deadline()].into_iter().flatten().min()
    }

    fn turn(&mut self, device: &mut ProxyDevice<'_>, now: Instant) -> bool {
        // (What found the guest's ring full wants to go out as soon as there is room.)
        let quiet = !self.stirred && !self.shard.wants_flush();
        if quiet && self.next.is_none_or(|at| at > now) {
            return false;
        }
        self.stirred = self.work(device, now);
        self.next = self.deadline();
        self.stirred
    }

    fn work(&mut self, device: &mut ProxyDevice<'_>, now: Instant) -> bool {
        let due = self.deadline().is_some_and(|at| at <= now);
        if self.inbox.frames.is_empty() && !due && !self.shard.wants_flush() {
            return self.uplink.engine_events(&mut self.shard, now);
        }
        let worked = self.poll(device, now);
        if self.shard.wants_flush() {
            self.shard.flush(now, device);
        }
        worked
    }

    fn poll(&mut self, device: &mut ProxyDevice<'_>, now: Instant) -> bool {
        let mut worked = false;
        loop {
            let mut joined = Joined { device: &mut *device, inbox: &mut self.inbox };
            let frames = self.shard.poll(now, &mut joined);
            worked |= self.uplink.engine_events(&mut self.shard, now) || frames != 0;
            if self.inbox.taken == self.inbox.frames.len() {
                break;
            }
        }
        self.inbox.frames.clear();
        self.inbox.bytes.clear();
        self.inbox.taken = 0;
        worked
    }
}

/// The engine's way to the guest.
struct ProxyDevice<'a> {
    tx: &'a mut Producer,
    unpublished: &'a mut bool,
    corrupt: &'a mut bool,
    capabilities: Capabilities,
}

impl<'a> ProxyDevice<'a> {
    fn new(
        tx: &'a mut Producer,
        unpublished: &'a mut bool,
        corrupt: &'a mut bool,
        mtu: u32,
    ) -> ProxyDevice<'a> {
        let capabilities =
            Capabilities { mtu: mtu as usize, burst: 64, tx_checksum: true, segmentation: 65535 };
        ProxyDevice { tx, unpublished, corrupt, capabilities }
    }
}

impl Device for ProxyDevice<'_> {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn receive(&mut self, _budget: usize, _sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        0
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        if *self.corrupt || !(ETHERNET..=MAX_FRAME).contains(&len) {
            return Err(Full);
        }
        let meta =
            Meta { checksum_done: meta.checksum_offload, segment_size: meta.segment, ..Meta::default() };
        match self.tx.push(len, meta, |buffer| fill(buffer)) {
            Ok(true) => {
                *self.unpublished = true;
                Ok(())
            }
            Ok(false) => {
                *self.corrupt |= self.tx.wait_for_space(len).is_err();
                Err(Full)
            }
            Err(_) => {
                *self.corrupt = true;
                Err(Full)
            }
        }
    }

    fn flush(&mut self) {}
}

/// The same with the frames of this round.
struct Joined<'a, 'b> {
    device: &'a mut ProxyDevice<'b>,
    inbox: &'a mut Inbox,
}

impl Device for Joined<'_, '_> {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let Inbox { bytes, frames, taken } = &mut *self.inbox;
        let end = frames.len().min(*taken + budget);
        let mut batch = [RxFrame { bytes: &[], in_place: &[], checksum_ok: false }; 32];
        for group in frames[*taken..end].chunks(batch.len()) {
            for (frame, &(start, len, checksum_ok)) in batch.iter_mut().zip(group) {
                *frame = RxFrame { bytes: &bytes[start..start + len], in_place: &[], checksum_ok };
            }
            sink(&batch[..group.len()]);
        }
        let count = end - *taken;
        *taken = end;
        count
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.device.transmit(len, meta, fill)
    }

    fn flush(&mut self) {}
}
