//! A network's direct queues, as its supervisor has them: opening, steering, taking back.
//!
//! Three ways for a guest to go direct:
//! * **A queue of the network's own TAP device.** The kernel numbers a device's queues in the order in which they were
//!   opened and moves the last one into the place of one that is closed; here the same list is kept. Neither
//!   address nor MAC of the guest changes: rules by address, or by port where an address is shared, move its frames.
//! * **A queue of the network's own AF_XDP interface** (`xdp_queues.rs`): the same, by the XDP program's rules.
//! * **A NIC of the guest's own** (`attacca switch GUEST direct --nic xdp:IF`), with a MAC of its own. The guest
//!   announces its addresses there; nothing of the network's NIC is steered.
//!
//! A guest that keeps a queue that it should have closed keeps nothing but the queue: no rule leads there. That it is
//! still open shows in the device's count of queues; it stays in the list then, until the guest ends.

use crate::bpf::Rule;
use crate::direct::{self, NicSpec, Opened, TapSteering, XdpSteering};
use crate::xdp_queues::XdpQueues;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The direct queues of one network.
pub struct Queues {
    tap: Option<TapQueues>,
    xdp: Option<XdpQueues>,
    own: Vec<OwnNic>,
}

/// Queues of the network's TAP device behind the server's, which is number 0.
struct TapQueues {
    name: String,
    steering: TapSteering,
    most: usize,
    queues: Vec<TapQueue>,
}

struct TapQueue {
    /// `None`: given back by a guest that has not closed it.
    guest: Option<u32>,
    rules: Vec<Rule>,
    /// Ours: the queue goes when the guest's and this one are closed.
    fd: Option<OwnedFd>,
}

/// A NIC that was given to one guest.
struct OwnNic {
    guest: u32,
    /// Redirects frames to the guest's socket; a TAP device needs none.
    steering: Option<XdpSteering>,
    rules: Vec<Rule>,
    queue: u32,
    /// Ours, too, until the guest has closed its own: the last close of an AF_XDP socket or a TAP queue waits for the
    /// whole kernel (synchronize_net), and the guest's vCPU should not.
    _kept: Vec<OwnedFd>,
}

impl Queues {
    /// `uplink`: the network's TAP device and the server's queue of it, if guests may have up to `most` queues.
    pub fn new(uplink: Option<(&str, &OwnedFd)>, most: usize) -> io::Result<Queues> {
        let tap = match uplink {
            Some((name, server)) if most > 0 => Some(TapQueues {
                name: name.into(),
                steering: TapSteering::attach(server.as_fd())?,
                most,
                queues: Vec::new(),
            }),
            _ => None,
        };
        Ok(Queues { tap, xdp: None, own: Vec::new() })
    }

    /// Those of a network whose NIC is an AF_XDP interface.
    pub fn of_xdp(xdp: XdpQueues) -> Queues {
        Queues { tap: None, xdp: Some(xdp), own: Vec::new() }
    }

    /// Queues that the policy may give away.
    pub fn most(&self) -> usize {
        self.tap.as_ref().map_or(0, |tap| tap.most) + self.xdp.as_ref().map_or(0, XdpQueues::most)
    }

    /// From now on the network's AF_XDP interface takes frames under `rule` for the server. (Of a TAP device all come.)
    pub fn serve(&mut self, rule: Rule) -> io::Result<()> {
        self.xdp.as_mut().map_or(Ok(()), |xdp| xdp.serve(rule))
    }

    /// Frames under `rule` are left to the host again.
    pub fn forget(&mut self, rule: Rule) {
        if let Some(xdp) = &mut self.xdp {
            xdp.forget(rule);
        }
    }

    /// How frames find the guest's queue, where that is not always the same.
    pub fn told(&self, guest: u32) -> Option<String> {
        self.xdp.as_ref()?.told(guest)
    }

    /// Opens a queue for a guest with this hardware address. Nothing is steered to it yet.
    pub fn open(&mut self, guest: u32, mac: [u8; 6], nic: Option<&NicSpec>) -> io::Result<(Opened, u32)> {
        if self.has(guest) {
            return Err(io::Error::other("the guest has a direct queue already"));
        }
        match (nic, &mut self.tap, &mut self.xdp) {
            (Some(nic), ..) => self.open_own(guest, nic),
            (None, Some(tap), _) => tap.open(guest, mac),
            (None, None, Some(xdp)) if xdp.most() > 0 => xdp.open(guest, mac),
            (None, None, _) => Err(io::Error::other(
                "the network has no direct queues: start it with --uplink tap:NAME|xdp:IF --direct-queues N, \
                 or name a NIC for the guest with --nic",
            )),
        }
    }

    fn open_own(&mut self, guest: u32, nic: &NicSpec) -> io::Result<(Opened, u32)> {
        let (opened, steering, queue) = match nic {
            NicSpec::Xdp(interface, direct::ALL_QUEUES) => {
                return Err(io::Error::other(format!(
                    "a guest drives one queue: write xdp:{interface},queue=K (all of them go to a network's server)"
                )));
            }
            NicSpec::Xdp(interface, queue) => {
                let opened = direct::open_xdp(interface, *queue, false)?;
                let steering = XdpSteering::attach(interface)?;
                steering.add_socket(*queue, opened.fds[0].as_fd())?;
                (opened, Some(steering), *queue)
            }
            NicSpec::Tap(name, queue) => {
                // Another end than the interface's own, and another than on the network's NIC.
                let mut mac = direct::hardware_address(name).unwrap_or([0x06, 0xa7, 0, 0, 0, 0]);
                mac[0] = 0x0a;
                (direct::open_tap(name, *queue != 0, mac)?, None, *queue)
            }
            NicSpec::Wire(_) => {
                return Err(io::Error::other("a wire leads to one other guest, not to a network"));
            }
        };
        let kept = opened.fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        self.own.push(OwnNic { guest, steering, rules: Vec::new(), queue, _kept: kept });
        Ok((opened, queue))
    }

    /// Whether the guest has a direct queue.
    pub fn has(&self, guest: u32) -> bool {
        let tap = self.tap.iter().flat_map(|tap| &tap.queues).any(|queue| queue.guest == Some(guest));
        let xdp = self.xdp.as_ref().is_some_and(|xdp| xdp.has(guest));
        tap || xdp || self.own.iter().any(|own| own.guest == guest)
    }

    /// From now on frames under these rules go to the guest's queue.
    pub fn steer(&mut self, guest: u32, rules: &[Rule]) -> io::Result<()> {
        if let Some(own) = self.own.iter_mut().find(|own| own.guest == guest) {
            for rule in rules {
                if let Some(steering) = &own.steering {
                    steering.set(*rule, own.queue)?;
                }
                own.rules.push(*rule);
            }
            return Ok(());
        }
        if let Some(xdp) = &mut self.xdp {
            return xdp.steer(guest, rules);
        }
        let Some(tap) = &mut self.tap else { return Ok(()) };
        let Some(at) = tap.queues.iter().position(|queue| queue.guest == Some(guest)) else { return Ok(()) };
        for rule in rules {
            tap.steering.set(*rule, at as u32 + 1)?;
            tap.queues[at].rules.push(*rule);
        }
        Ok(())
    }

    /// Frames under all rules of the guest go to the server again.
    pub fn unsteer(&mut self, guest: u32) {
        for own in self.own.iter_mut().filter(|own| own.guest == guest) {
            for rule in own.rules.drain(..) {
                let _ = own.steering.as_ref().map(|steering| steering.clear(rule));
            }
        }
        if let Some(xdp) = &mut self.xdp {
            xdp.unsteer(guest);
        }
        let Some(tap) = &mut self.tap else { return };
        for queue in tap.queues.iter_mut().filter(|queue| queue.guest == Some(guest)) {
            for rule in queue.rules.drain(..) {
                let _ = tap.steering.clear(rule);
            }
        }
    }

    /// Frames under this rule of the guest go to the server again.
    pub fn unsteer_one(&mut self, guest: u32, rule: Rule) {
        if let Some(xdp) = &mut self.xdp {
            xdp.unsteer_one(guest, rule);
        }
        let Some(tap) = &mut self.tap else { return };
        for queue in tap.queues.iter_mut().filter(|queue| queue.guest == Some(guest)) {
            queue.rules.retain(|other| *other != rule);
            let _ = tap.steering.clear(rule);
        }
    }

    /// Whether queues that were given back are still open.
    pub fn is_closing(&self) -> bool {
        self.tap.iter().flat_map(|tap| &tap.queues).any(|queue| queue.guest.is_none())
    }

    /// Looks whether they are closed now.
    pub fn sweep(&mut self) {
        if let Some(tap) = &mut self.tap {
            tap.sweep();
        }
    }

    /// The guest has closed its queue, or is gone.
    pub fn close(&mut self, guest: u32) {
        self.unsteer(guest);
        self.own.retain(|own| own.guest != guest);
        if let Some(xdp) = &mut self.xdp {
            xdp.close(guest);
        }
        if let Some(tap) = &mut self.tap
            && let Some(at) = tap.queues.iter().position(|queue| queue.guest == Some(guest))
        {
            tap.queues[at].guest = None;
            tap.sweep();
        }
    }
}

impl TapQueues {
    fn open(&mut self, guest: u32, mac: [u8; 6]) -> io::Result<(Opened, u32)> {
        if self.queues.len() >= self.most {
            // One that was given back comes free when its guest has closed it.
            let closing = self.queues.iter().any(|queue| queue.guest.is_none());
            let kind = if closing { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
            return Err(io::Error::new(kind, format!("all {} direct queues are taken", self.most)));
        }
        let opened = direct::open_tap(&self.name, true, mac)?;
        self.queues.push(TapQueue {
            guest: Some(guest),
            rules: Vec::new(),
            fd: Some(opened.fds[0].try_clone()?),
        });
        Ok((opened, self.queues.len() as u32))
    }

    /// Lets one queue go that its guest has given back. The others wait with our descriptor open, so that the kernel
    /// takes them out in the order in which we do. A guest that does not close its own holds up those behind it.
    fn sweep(&mut self) {
        while let Some(at) = self.queues.iter().position(|queue| queue.guest.is_none()) {
            // As tun.c does, the last takes the place of the one that goes. Its frames go to the server meanwhile.
            let last = self.queues.len() - 1;
            if self.queues[at].fd.is_some() {
                self.queues[last].rules.iter().for_each(|rule| drop(self.steering.clear(*rule)));
                self.queues[at].fd = None;
            }
            let gone = self.count() <= self.queues.len();
            let place = if gone {
                self.queues.swap_remove(at);
                at
            } else {
                last
            };
            if let Some(moved) = self.queues.get(place) {
                for rule in &moved.rules {
                    let _ = self.steering.set(*rule, place as u32 + 1);
                }
            }
            if !gone {
                return;
            }
        }
    }

    /// Queues that the device has now.
    fn count(&self) -> usize {
        let entries = std::fs::read_dir(format!("/sys/class/net/{}/queues", self.name));
        let names = entries.into_iter().flatten().flatten();
        names.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"tx-")).count()
    }
}
