//! The way to the world below the engine: which device the guest uses, its memory, and the change to another.
//!
//! Kernel state, behind the network stack's lock ([`crate::net_poll`]); the devices themselves are `net`'s, their
//! host calls the guest's. What is private to each host process of the guest is which device memory it has mapped:
//! a device that came after a fork lies at the same address in every process, and each maps it when it next
//! takes the lock ([`Backend::sync`]).

use crate::net_demand::Demand;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use net::control::{Counters, Mode};
use net::device::{Capabilities, Device, Full, Nic, RxFrame, Switch, TxMeta, Watcher};
use net::ring::{Peer, RingDevice, Shortcuts};
use platform::errno::{Errno, Result};
use platform::layout;
use platform::mem::{Prot, map_shared, unmap};
use platform::time::{Instant, MILLISECOND};

/// How long a direct device that was left goes on hearing: frames that were under way when steering moved.
const LINGER_NS: u64 = 20 * MILLISECOND;
/// Devices' memory lies in slots of so many bytes.
const SLOT: usize = 1 << 30;
/// Slots; a device takes up to five, and two may be there at once. A shortcut takes one.
const SLOTS: usize = 16 + 2 * Shortcuts::MOST;

/// Memory of a device: the same in each process.
struct Region {
    id: u64,
    slot: usize,
    fd: i32,
    offset: u64,
    len: usize,
}

/// What a device was made of, to be given back when it is not used any more.
pub struct Parts {
    /// Its memory, as [`Backend::map`] numbered it.
    pub regions: Vec<u64>,
    /// Closes its descriptors.
    pub close: Box<dyn FnOnce()>,
}

/// What the guest tells its supervisor.
#[derive(Clone, Copy, Debug)]
pub enum Notice {
    /// Of a change.
    Switched(Switched),
    /// Many frames go to this address ([`net::control::ToSupervisor::Frequents`]).
    Frequents(IpAddr),
    /// The other end of this shortcut wrote nonsense.
    ShortcutBroken(u32),
}

/// A change of the device.
#[derive(Clone, Copy, Debug)]
pub struct Switched {
    /// The request that it answers; 0 if the device died and the guest fell back by itself.
    pub request: u32,
    /// The device died; if what is used now is still direct, there was no other.
    pub died: bool,
    /// What is used now.
    pub mode: Mode,
    /// From the last look at the old device to the first at the new one.
    pub gap_ns: u64,
    /// When.
    pub at: Instant,
}

/// A change that was asked for.
struct Change {
    request: u32,
    died: bool,
    begun: Instant,
}

/// See the module.
pub struct Backend {
    switch: Option<Switch>,
    change: Option<Change>,
    /// What the direct device is made of, active or not.
    parts: Option<Parts>,
    /// The direct device is the standby until then.
    leave_at: Option<Instant>,
    shortcuts: Shortcuts,
    /// What they are made of, by their numbers.
    shortcut_parts: Vec<(u32, Parts)>,
    /// Shortcuts that were broken by others and it was not told.
    broken: Vec<u32>,
    demand: Demand,
    regions: Vec<Region>,
    /// Counts changes of `regions`.
    epoch: u64,
    next_id: u64,
    /// Which life of the network server we know; 0 before the first.
    server_generation: u64,
    /// The only device has died, and it was said.
    dead: bool,
    /// The notice of a change that was completed.
    notice: Option<Switched>,
    counters: Counters,
}

// SAFETY: devices hold pointers to memory that is mapped in every process, and are used under the stack's lock.
unsafe impl Send for Backend {}

/// Process-private: the epoch that this process has mapped, and the region in each slot. An exec puts them back to
/// what they were at the guest's start, while the mappings stay: what they say is mapped is (a region never
/// changes), but there may be more, so a slot is cleared before it is used.
static SEEN: AtomicU64 = AtomicU64::new(0);
static MAPPED: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

impl Backend {
    /// No device: loopback only.
    pub const fn none() -> Backend {
        Backend {
            switch: None,
            change: None,
            parts: None,
            leave_at: None,
            shortcuts: Shortcuts::none(),
            shortcut_parts: Vec::new(),
            broken: Vec::new(),
            demand: Demand::none(),
            regions: Vec::new(),
            epoch: 0,
            next_id: 1,
            server_generation: 0,
            dead: false,
            notice: None,
            counters: Counters {
                frames: [0; 4],
                bytes: [0; 4],
                drops: 0,
                retransmissions: 0,
                switches: 0,
                recoveries: 0,
                last_gap_ns: 0,
                cpu_ns: 0,
            },
        }
    }

    /// Begins with this device. `mac`: the guest's hardware address on devices that have none of their own.
    pub fn start(&mut self, device: Box<dyn Nic>, mode: Mode, mac: [u8; 6], parts: Option<Parts>) {
        self.switch = Some(Switch::new(device, mode, Some(mac)));
        self.parts = parts;
    }

    /// Maps `len` bytes of a descriptor for all processes; the region's number and address.
    pub fn map(&mut self, fd: i32, len: usize, offset: u64) -> Result<(u64, usize)> {
        let free = |slot: &usize| self.regions.iter().all(|region| region.slot != *slot);
        let slot = (0..SLOTS).find(free).filter(|_| len <= SLOT).ok_or(Errno::ENOMEM)?;
        let id = self.next_id;
        self.next_id += 1;
        self.regions.push(Region { id, slot, fd, offset, len });
        self.epoch += 1;
        match self.map_here() {
            Ok(()) => Ok((id, address(slot))),
            Err(error) => {
                self.unmap(&[id]);
                Err(error)
            }
        }
    }

    /// Gives memory back. Nothing uses it any more.
    pub fn unmap(&mut self, ids: &[u64]) {
        self.regions.retain(|region| !ids.contains(&region.id));
        self.epoch += 1;
        let _ = self.map_here();
    }

    /// Brings this process's mappings up to date. To be called whenever the stack's lock was taken.
    ///
    /// # Panics
    /// If the host has no memory for a mapping: a device cannot be driven half.
    #[inline]
    pub fn sync(&mut self) {
        if SEEN.load(Ordering::Relaxed) != self.epoch {
            self.map_here().expect("memory for the network device");
        }
    }

    #[cold]
    fn map_here(&mut self) -> Result<()> {
        for (slot, id) in MAPPED.iter().enumerate() {
            let wanted = self.regions.iter().find(|region| region.slot == slot);
            let present = id.load(Ordering::Relaxed);
            if present == wanted.map_or(0, |region| region.id) {
                continue;
            }
            // SAFETY: what may be there is a region that is not in the list any more: its device is gone.
            unsafe { unmap(address(slot), SLOT)? };
            id.store(0, Ordering::Relaxed);
            if let Some(region) = wanted {
                let prot = Prot::READ | Prot::WRITE;
                map_shared(address(slot), region.len, prot, region.fd, region.offset)?;
                id.store(region.id, Ordering::Relaxed);
            }
        }
        SEEN.store(self.epoch, Ordering::Relaxed);
        Ok(())
    }

    /// Uses `device` from the next poll on. EBUSY: the change before is not complete.
    pub fn go_direct(
        &mut self,
        device: Box<dyn Nic>,
        parts: Parts,
        request: u32,
        now: Instant,
    ) -> Result<()> {
        if let Err(errno) = self.make_room(now) {
            self.give_back(parts, Some(device));
            return Err(errno);
        }
        match &mut self.switch {
            Some(switch) => {
                switch.change(device, Mode::Direct);
                self.parts = Some(parts);
                self.change = Some(Change { request, died: false, begun: now });
                Ok(())
            }
            None => {
                self.give_back(parts, Some(device));
                Err(Errno::ENODEV)
            }
        }
    }

    /// Uses the ring from the next poll on. ENOTCONN: there is none.
    pub fn go_server(&mut self, request: u32, now: Instant) -> Result<()> {
        let switch = self.switch.as_mut().ok_or(Errno::ENODEV)?;
        if self.change.is_some() || !switch.settled() {
            return Err(Errno::EBUSY);
        }
        if switch.mode() == Mode::Server {
            self.notice = Some(Switched { request, died: false, mode: Mode::Server, gap_ns: 0, at: now });
            return Ok(());
        }
        if !switch.change_back() {
            return Err(Errno::ENOTCONN);
        }
        self.change = Some(Change { request, died: false, begun: now });
        Ok(())
    }

    /// Reaches a guest over a link of our own from now on. ENOSPC: there are too many.
    pub fn add_shortcut(&mut self, id: u32, peer: Peer, ring: RingDevice, parts: Parts) -> Result<()> {
        if !self.shortcuts.add(id, peer, ring) {
            self.give_back(parts, None);
            return Err(Errno::ENOSPC);
        }
        self.shortcut_parts.push((id, parts));
        Ok(())
    }

    /// This shortcut is not used any more; `None`: none is.
    pub fn end_shortcuts(&mut self, id: Option<u32>, now: Instant) {
        match id {
            Some(id) => self.shortcuts.end(id, now),
            None => self.shortcuts.end_all(now),
        }
    }

    /// Lets shortcuts go that are over.
    fn retire_shortcuts(&mut self, now: Instant) {
        while let Some((id, broken)) = self.shortcuts.retire(now) {
            if broken {
                self.broken.push(id);
            }
            if let Some(at) = self.shortcut_parts.iter().position(|(of, _)| *of == id) {
                let (_, parts) = self.shortcut_parts.swap_remove(at);
                self.give_back(parts, None);
            }
        }
    }

    /// No direct device is there, also none that is being left.
    fn make_room(&mut self, now: Instant) -> Result<()> {
        let busy = self.change.is_some() || self.switch.as_ref().is_some_and(|s| !s.settled());
        if busy || self.parts.is_some() && self.leave_at.is_none() {
            return Err(Errno::EBUSY);
        }
        if self.leave_at.is_some() {
            self.leave_at = Some(now);
            self.leave(now);
        }
        if self.parts.is_some() { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// Lets the direct device that was left go, when it is time and nothing is in it.
    fn leave(&mut self, now: Instant) {
        let Some(switch) = self.switch.as_mut().filter(|_| self.leave_at.is_some_and(|at| at <= now)) else {
            return;
        };
        // Frames in it are taken by the next poll, frames to send leave by themselves.
        let Some(device) = switch.retire() else { return };
        self.leave_at = None;
        if let Some(parts) = self.parts.take() {
            self.give_back(parts, Some(device));
        }
    }

    /// Closes and unmaps what a device was made of; the device goes first.
    pub fn give_back(&mut self, parts: Parts, device: Option<Box<dyn Nic>>) {
        drop(device);
        (parts.close)();
        self.unmap(&parts.regions);
    }

    /// After a poll at `now`: what the switch did. `true`: frames may have been lost, and peers should hear of us.
    pub fn polled(&mut self, now: Instant) -> bool {
        if !self.shortcuts.is_empty() {
            self.retire_shortcuts(now);
        }
        self.demand.passes(now);
        let Some(switch) = &mut self.switch else { return false };
        // A server's ring comes to life again with the next server.
        self.dead &= !switch.is_alive();
        if !switch.is_alive() && switch.standby().is_none() && !self.dead {
            self.dead = true;
            self.notice = Some(Switched { request: 0, died: true, mode: Mode::Direct, gap_ns: 0, at: now });
        }
        let fell = switch.fallen();
        if fell {
            // The device died under us: as if we had been told to go, by nobody.
            self.change = Some(Change { request: 0, died: true, begun: now });
        }
        if switch.settled()
            && let Some(change) = self.change.take()
        {
            let (mode, gap_ns) = (switch.mode(), platform::time::now().since(change.begun));
            self.counters.switches += 1;
            self.counters.last_gap_ns = gap_ns;
            self.notice =
                Some(Switched { request: change.request, died: change.died, mode, gap_ns, at: now });
            let how = match (change.died, mode) {
                (true, _) => "the direct device is gone: fell back to server mode",
                (false, Mode::Direct) => "switched to direct mode",
                (false, Mode::Server) => "switched to server mode",
            };
            switch.tell_watcher(&format!("{how}, {} us of silence", gap_ns / 1000));
            if mode == Mode::Server {
                self.leave_at = Some(now.after(if fell { 0 } else { LINGER_NS }));
            }
        }
        switch.tend_watcher();
        self.leave(now);
        let recovered = self.server_changed(now);
        fell || recovered
    }

    /// Whether another server than before is at the ring's other end (not at the first look).
    fn server_changed(&mut self, _now: Instant) -> bool {
        let generation = self.generation();
        let known = core::mem::replace(&mut self.server_generation, generation);
        let changed = known != 0 && known != generation;
        if changed {
            self.counters.recoveries += 1;
            if let Some(switch) = &mut self.switch {
                switch.tell_watcher(&format!("the network server was replaced by number {generation}"));
            }
        }
        changed
    }

    fn generation(&self) -> u64 {
        self.switch.as_ref().map_or(0, Nic::generation)
    }

    /// What the supervisor is to know, one after the other.
    pub fn take_notice(&mut self) -> Option<Notice> {
        if let Some(switched) = self.notice.take() {
            return Some(Notice::Switched(switched));
        }
        if let Some(id) = self.broken.pop() {
            return Some(Notice::ShortcutBroken(id));
        }
        self.demand.take().map(Notice::Frequents)
    }

    /// When [`Backend::polled`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        [self.leave_at, self.shortcuts.deadline()].into_iter().flatten().min()
    }

    /// Whether a poll would find something although no timer is due.
    pub fn has_work(&mut self) -> bool {
        let changed = self.generation() != self.server_generation;
        changed || self.switch.as_mut().is_some_and(Nic::has_frames) || self.shortcuts.waiting().any()
    }

    /// The owner is about to sleep. `false`: frames have come.
    pub fn announce_sleep(&mut self) -> bool {
        self.switch.as_mut().is_none_or(Nic::announce_sleep) && self.shortcuts.announce_sleep()
    }

    /// It did not, or woke.
    pub fn awake(&mut self) {
        if let Some(switch) = &mut self.switch {
            switch.awake();
        }
        self.shortcuts.awake();
    }

    /// What is used, if anything.
    pub fn mode(&self) -> Option<Mode> {
        self.switch.as_ref().map(Switch::mode)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        let traffic = self.switch.as_ref().map(Switch::traffic).unwrap_or_default();
        let drops = traffic.held_up + self.shortcuts.lost();
        Counters { frames: traffic.frames, bytes: traffic.bytes, drops, ..self.counters }
    }

    /// From now on `watcher` gets a copy of each frame. EBUSY: somebody watches already.
    pub fn watch(&mut self, watcher: Box<dyn Watcher>) -> Result<()> {
        let switch = self.switch.as_mut().ok_or(Errno::ENODEV)?;
        if switch.tell_watcher("somebody else wanted to watch") {
            return Err(Errno::EBUSY);
        }
        switch.watch(Some(watcher));
        let words = match switch.mode() {
            Mode::Server => "the capture begins in server mode",
            Mode::Direct => "the capture begins in direct mode",
        };
        switch.tell_watcher(words);
        Ok(())
    }
}

const fn address(slot: usize) -> usize {
    layout::RINGS_BASE + slot * SLOT
}

impl Device for Backend {
    fn capabilities(&self) -> Capabilities {
        self.switch.as_ref().map_or(Capabilities::plain(1500), Device::capabilities)
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.switch.as_ref()?.mac()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let Some(switch) = &mut self.switch else { return 0 };
        if self.shortcuts.is_empty() {
            return switch.receive(budget, sink);
        }
        // In this order: `net::ring::Shortcuts` says why.
        let waiting = self.shortcuts.waiting();
        let share = if waiting.any() { budget.div_ceil(2) } else { budget };
        let count = switch.receive(share, sink);
        let passed = &mut |frames: &[RxFrame<'_>]| {
            for frame in frames {
                switch.passed_by(false, frame.all().len());
                if let Some(watcher) = switch.watcher() {
                    watcher.frame(Mode::Server, false, frame.all());
                }
            }
            sink(frames);
        };
        count + self.shortcuts.receive(budget - count, waiting, count < share, passed)
    }

    fn transmit(
        &mut self,
        len: usize,
        meta: TxMeta,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> core::result::Result<(), Full> {
        match &mut self.switch {
            Some(switch) => {
                let Some(to) = meta.dst else { return switch.transmit(len, meta, fill) };
                let Some(way) = self.shortcuts.way(to, || switch.is_taken()) else {
                    self.demand.note(to);
                    return switch.transmit(len, meta, fill);
                };
                let sent = match switch.watcher() {
                    None => self.shortcuts.transmit(way, len, meta, fill, platform::time::now),
                    Some(watcher) => {
                        let copied = &mut |frame: &mut [u8]| {
                            fill(frame);
                            watcher.frame(Mode::Server, true, frame);
                        };
                        self.shortcuts.transmit(way, len, meta, copied, platform::time::now)
                    }
                };
                if sent.is_ok() {
                    switch.passed_by(true, len);
                }
                sent
            }
            // Without an interface there is no route either; a stray frame is dropped as on a dummy link.
            None => {
                fill(&mut alloc::vec![0; len]);
                Ok(())
            }
        }
    }

    fn flush(&mut self) {
        if let Some(switch) = &mut self.switch {
            switch.flush();
        }
        self.shortcuts.flush();
    }
}
