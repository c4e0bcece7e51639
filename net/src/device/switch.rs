//! A device that holds two backends, uses one of them, and can be told to use the other or a new one.
//!
//! **The change takes effect at a poll boundary**, that is when `receive` begins. First the batch that was begun on the
//! old backend is completed; then what its receive queue still has is handed over, to the last frame, before the first
//! one of the new backend is: what steering moved last arrives last. Nothing is lost and nothing reordered more
//! than by the wire.
//!
//! **The old backend goes on hearing** as the *standby*. Frames may come over it long after the change: those that
//! were under way while steering moved, and, over the server's ring, what cannot be steered to a queue (requests for an
//! address that guests share, other guests of the network). It is polled after the active one until it is taken
//! out with [`Switch::retire`].
//!
//! **Other guests** of the network are reached over the server's ring in direct mode too: a NIC queue does not
//! give back what is sent to its own network interface. They are known by the first four bytes of their hardware address,
//! which is the network's own; questions for addresses go both ways.
//!
//! **A backend that dies** gives way to the standby by itself, at the next boundary ([`Switch::fallen`]).

use alloc::boxed::Box;

use super::{Capabilities, Device, Full, Nic, RxFrame, TxMeta};
use crate::control::Mode;

/// A copy of each frame goes here while somebody watches.
pub trait Watcher {
    /// A frame came or went over the backend of this mode. `sent`: it went.
    fn frame(&mut self, mode: Mode, sent: bool, bytes: &[u8]);

    /// Something happened to the devices.
    fn event(&mut self, mode: Mode, words: &str);

    /// Whether nobody reads any more.
    fn is_gone(&self) -> bool;
}

/// Frames and bytes, received and sent, by the mode of the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received and sent over the ring, received and sent over direct devices.
    pub frames: [u64; 4],
    /// The same in bytes.
    pub bytes: [u64; 4],
    /// Frames that the engine wanted to send and the device had no room for at that time.
    pub held_up: u64,
}

/// See the module.
pub struct Switch {
    active: Port,
    standby: Option<Port>,
    next: Option<Next>,
    /// The standby's queue has not been empty since the change.
    draining: bool,
    /// Our hardware address where a backend has none of its own.
    mac: Option<[u8; 6]>,
    fallen: bool,
    traffic: Traffic,
    watcher: Option<Box<dyn Watcher>>,
}

struct Port {
    device: Box<dyn Nic>,
    mode: Mode,
}

enum Next {
    /// A new backend; the active one becomes the standby, and a standby before it is dropped.
    New(Port),
    /// The standby and the active one change places.
    Standby,
}

/// Longest frame that goes both ways: a question for an address.
const QUESTION: usize = 128;

impl Switch {
    /// A switch that uses `device`. `mac`: our hardware address on backends that have none of their own.
    pub fn new(device: Box<dyn Nic>, mode: Mode, mac: Option<[u8; 6]>) -> Switch {
        Switch {
            active: Port { device, mode },
            standby: None,
            next: None,
            draining: false,
            mac,
            fallen: false,
            traffic: Traffic::default(),
            watcher: None,
        }
    }

    /// From the next poll on, use `device`; the present one goes on hearing.
    pub fn change(&mut self, device: Box<dyn Nic>, mode: Mode) {
        self.next = Some(Next::New(Port { device, mode }));
    }

    /// From the next poll on, use the standby. `false`: there is none, or it is dead.
    pub fn change_back(&mut self) -> bool {
        let can = self.standby.as_ref().is_some_and(|port| port.device.is_alive());
        if can {
            self.next = Some(Next::Standby);
        }
        can
    }

    /// Gives the switch a standby that it can fall back to, and that hears from now on.
    pub fn stand_by(&mut self, device: Box<dyn Nic>, mode: Mode) {
        self.standby = Some(Port { device, mode });
    }

    /// Takes the standby out if everything that was sent over it has left and nothing waits in it.
    pub fn retire(&mut self) -> Option<Box<dyn Nic>> {
        if self.draining || self.next.is_some() {
            return None;
        }
        let port = self.standby.as_mut()?;
        if port.device.is_alive() && (!port.device.is_sent() || port.device.has_frames()) {
            return None;
        }
        self.standby.take().map(|port| port.device)
    }

    /// The change is complete: the new backend is used, and the old one's queue was empty since.
    pub fn settled(&self) -> bool {
        self.next.is_none() && !self.draining
    }

    /// What the active backend is.
    pub fn mode(&self) -> Mode {
        self.active.mode
    }

    /// What the standby is.
    pub fn standby(&self) -> Option<Mode> {
        self.standby.as_ref().map(|port| port.mode)
    }

    /// Whether the active backend died and the standby took over, since this was last asked.
    pub fn fallen(&mut self) -> bool {
        core::mem::take(&mut self.fallen)
    }

    /// What went through.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// A frame came or went past the switch, over a shortcut: it counts as one over the ring.
    #[inline]
    pub fn passed_by(&mut self, sent: bool, len: usize) {
        self.traffic.count(Mode::Server, sent, len);
    }

    /// Who is to get copies of such frames as well.
    #[inline]
    pub fn watcher(&mut self) -> Option<&mut (dyn Watcher + 'static)> {
        self.watcher.as_deref_mut()
    }

    /// From now on `watcher` gets a copy of each frame; `None`: nobody does.
    pub fn watch(&mut self, watcher: Option<Box<dyn Watcher>>) {
        self.watcher = watcher;
    }

    /// Tells who watches; lets go of one that is gone. Whether anybody watches.
    pub fn tell_watcher(&mut self, words: &str) -> bool {
        let mode = self.active.mode;
        if let Some(watcher) = &mut self.watcher {
            watcher.event(mode, words);
            if watcher.is_gone() {
                self.watcher = None;
            }
        }
        self.watcher.is_some()
    }

    /// Lets go of a watcher that is gone.
    pub fn tend_watcher(&mut self) {
        if self.watcher.as_ref().is_some_and(|watcher| watcher.is_gone()) {
            self.watcher = None;
        }
    }

    /// At a poll boundary.
    fn turn(&mut self) {
        if self.draining {
            return; // One change after the other.
        }
        if !self.active.device.is_alive() && self.next.is_none() {
            self.fallen |= self.change_back();
        }
        match self.next.take() {
            None => {}
            Some(Next::New(port)) => {
                self.active.device.flush();
                self.standby = Some(core::mem::replace(&mut self.active, port));
                self.draining = true;
            }
            Some(Next::Standby) => {
                if let Some(standby) = &mut self.standby {
                    self.active.device.flush();
                    core::mem::swap(&mut self.active, standby);
                    self.draining = true;
                }
            }
        }
    }

    /// Whether a frame to this hardware address goes over the standby: another guest's.
    fn goes_home(&self, to: [u8; 6]) -> bool {
        let Some(mac) = self.mac else { return false };
        to[..4] == mac[..4] && self.has_home()
    }

    /// Direct, with the ring beside it.
    fn has_home(&self) -> bool {
        self.active.mode == Mode::Direct
            && self.standby.as_ref().is_some_and(|port| port.mode == Mode::Server)
    }

    /// A question for an address: the one asked may be behind the NIC or behind the ring.
    fn ask_both(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        let mut frame = [0; QUESTION];
        let frame = &mut frame[..len];
        fill(frame);
        if let Some(home) = &mut self.standby {
            // A question may be lost; it is asked again. The server must not ask the NIC's link as well: whoever hears
            // it there would learn our address of the ring, where we have another on the NIC.
            let mac = self.mac;
            let meta = TxMeta { local: true, ..meta };
            let sent = home.device.transmit(len, meta, &mut |buffer| {
                buffer.copy_from_slice(frame);
                if let Some(mac) = mac {
                    speak_as(mac, buffer);
                }
            });
            if sent.is_ok() {
                self.traffic.count(home.mode, true, len);
            }
        }
        let sent = self.active.transmit(len, meta, &mut |buffer| buffer.copy_from_slice(frame));
        // `fill` has been called: what the NIC has no room for is lost.
        self.sent(self.active.mode, len, sent.is_ok(), frame);
        Ok(())
    }

    fn sent(&mut self, mode: Mode, len: usize, taken: bool, frame: &[u8]) {
        if taken {
            self.traffic.count(mode, true, len);
            if let Some(watcher) = &mut self.watcher {
                watcher.frame(mode, true, frame);
            }
        }
    }
}

/// Whether a frame may be an ARP request or a neighbour solicitation.
fn is_question(to: [u8; 6], len: usize) -> bool {
    len <= QUESTION && (to == [0xff; 6] && len == 42 || to[..3] == [0x33, 0x33, 0xff])
}

/// Over the ring a guest sends from its address there alone: the server drops all else. (The address in a neighbour
/// solicitation's option stays: changing it would cost the checksum. Who learns it reaches us over the NIC.)
fn speak_as(mac: [u8; 6], frame: &mut [u8]) {
    if let Some(source) = frame.get_mut(6..12) {
        source.copy_from_slice(&mac);
    }
    let is_arp = frame.get(12..14) == Some(&[8, 6]);
    if let Some(sender) = frame.get_mut(22..28).filter(|_| is_arp) {
        sender.copy_from_slice(&mac);
    }
}

impl Port {
    fn receive(
        &mut self,
        budget: usize,
        traffic: &mut Traffic,
        watcher: &mut Option<Box<dyn Watcher>>,
        sink: &mut dyn FnMut(&[RxFrame<'_>]),
    ) -> usize {
        let mode = self.mode;
        self.device.receive(budget, &mut |batch| {
            for frame in batch {
                traffic.count(mode, false, frame.all().len());
                if let Some(watcher) = watcher {
                    watcher.frame(mode, false, frame.all());
                }
            }
            sink(batch);
        })
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.device.transmit(len, meta, fill)
    }
}

impl Traffic {
    #[inline]
    fn count(&mut self, mode: Mode, sent: bool, len: usize) {
        let at = usize::from(sent) + if mode == Mode::Direct { 2 } else { 0 };
        self.frames[at] += 1;
        self.bytes[at] += len as u64;
    }
}

impl Device for Switch {
    fn capabilities(&self) -> Capabilities {
        self.active.device.capabilities()
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.active.device.mac().or(self.mac)
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        self.turn();
        let Switch { active, standby, draining, traffic, watcher, .. } = self;
        let mut count = 0;
        if *draining {
            count = standby.as_mut().map_or(0, |old| old.receive(budget, traffic, watcher, sink));
            if count >= budget {
                return count;
            }
            *draining = false;
            return count + active.receive(budget - count, traffic, watcher, sink);
        }
        count += active.receive(budget, traffic, watcher, sink);
        if count < budget
            && let Some(old) = standby
        {
            count += old.receive(budget - count, traffic, watcher, sink);
        }
        count
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        if is_question(meta.to, len) && self.has_home() {
            return self.ask_both(len, meta, fill);
        }
        let home = self.goes_home(meta.to);
        let meta = TxMeta { local: home, ..meta };
        let Switch { active, standby, traffic, watcher, .. } = self;
        let port = match standby {
            Some(standby) if home => standby,
            _ => active,
        };
        let mode = port.mode;
        let result = match watcher {
            None if !home => port.transmit(len, meta, fill),
            _ => port.transmit(len, meta, &mut |frame| {
                fill(frame);
                if home && let Some(mac) = self.mac {
                    speak_as(mac, frame);
                }
                if let Some(watcher) = watcher {
                    watcher.frame(mode, true, frame);
                }
            }),
        };
        match result {
            Ok(()) => traffic.count(mode, true, len),
            Err(Full) => traffic.held_up += 1,
        }
        result
    }

    fn flush(&mut self) {
        self.active.device.flush();
        if let Some(standby) = &mut self.standby {
            standby.device.flush();
        }
    }
}

impl Nic for Switch {
    fn has_frames(&mut self) -> bool {
        self.next.is_some()
            || self.active.device.has_frames()
            || self.standby.as_mut().is_some_and(|port| port.device.has_frames())
            || !self.active.device.is_alive() && self.standby.as_ref().is_some_and(|p| p.device.is_alive())
    }

    fn announce_sleep(&mut self) -> bool {
        self.next.is_none()
            && self.active.device.announce_sleep()
            && self.standby.as_mut().is_none_or(|port| port.device.announce_sleep())
    }

    fn awake(&mut self) {
        self.active.device.awake();
        if let Some(standby) = &mut self.standby {
            standby.device.awake();
        }
    }

    fn is_alive(&self) -> bool {
        self.active.device.is_alive()
    }

    fn generation(&self) -> u64 {
        // The server's, wherever its ring is.
        let standby = self.standby.as_ref().map_or(0, |port| port.device.generation());
        self.active.device.generation().max(standby)
    }

    fn is_taken(&self) -> bool {
        let of = |port: &Port| port.device.is_taken();
        of(&self.active) && self.standby.as_ref().is_none_or(of)
    }

    fn is_sent(&mut self) -> bool {
        self.active.device.is_sent()
    }
}
