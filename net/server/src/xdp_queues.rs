//! The queues of a network's AF_XDP interface, of which the last ones are for guests in direct mode.
//!
//! **What the kernel gives.** A socket takes frames of one queue of the NIC, the one that it is bound to (`xsk_rcv_check`
//! in net/xdp/xsk.c), and no XDP program can bring it others. A queue has one frame memory with one *fill* ring:
//! a second socket is refused there (EBUSY) unless it shares both with the first, and then its owner reads, writes and
//! starves what is the other's. Guests do not trust each other that far, and the server not its guests. So a
//! socket of the guest's on each queue beside the server's cannot be; the guest gets a queue that is its alone, with memory of its own.
//!
//! **Who gets a frame.** Which queue a frame comes to, the NIC says: by ntuple rules where the driver has them
//! (`ntuple.rs`), else by its hash (and veth, by the queue that the sender's kernel chose). Whatever it says, the
//! program at the queue (`bpf.rs`) decides by the map of rules:
//!
//! | frame of | on the guest's queue | on a queue of the server's |
//! | --- | --- | --- |
//! | the guest in direct mode | its socket | the server's socket, which knows the guest by the port map and gives it the frame over its ring, where a guest in direct mode goes on hearing |
//! | everybody else | the kernel, from which a packet socket of the server's takes it | the server's socket |
//!
//! So each frame arrives, and where the NIC can steer, by the shortest way. One flow keeps to one queue, so its frames
//! change their way when the rule changes and at no other time: an order as over one NIC. The packet socket's filter asks the
//! same map, and hears nothing of the host's own traffic. What the host's kernel makes of those frames is nothing: they bear
//! hardware addresses that are not its own.
//!
//! Left out: a queue that no guest has now goes on to be heard by the packet socket alone (give guests no more
//! than are wanted; `ethtool -X IF equal N` keeps a NIC's hash off them).

use crate::bpf::{self, Rule};
use crate::direct::{self, Opened, XdpSteering};
use crate::ntuple::Filters;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Steering of one interface, and its queues for guests.
pub struct XdpQueues {
    interface: String,
    steering: XdpSteering,
    /// What the server has when no guest does.
    served: HashSet<Rule>,
    /// The first queue for guests.
    first: u32,
    holders: Vec<Option<Holder>>,
    filters: Filters,
}

struct Holder {
    guest: u32,
    /// Up to all ports of an ephemeral range: listed, not hashed, for most are put in and taken out all at once.
    rules: Vec<Rule>,
    /// The guest's descriptors, too, until it has closed its own: the last close of an AF_XDP socket waits for the whole
    /// kernel (synchronize_net), and the guest's vCPU should not.
    _kept: Vec<OwnedFd>,
}

impl XdpQueues {
    /// `most` queues from `first` on are for guests.
    pub fn new(interface: &str, steering: XdpSteering, first: u32, most: u32) -> XdpQueues {
        XdpQueues {
            interface: interface.into(),
            steering,
            served: HashSet::new(),
            first,
            holders: (0..most).map(|_| None).collect(),
            filters: Filters::new(interface),
        }
    }

    /// Queues for guests.
    pub fn most(&self) -> usize {
        self.holders.len()
    }

    /// From now on the server gets what is under `rule`, unless a guest in direct mode does.
    pub fn serve(&mut self, rule: Rule) -> io::Result<()> {
        self.served.insert(rule);
        if self.holders.iter().flatten().any(|holder| holder.rules.contains(&rule)) {
            return Ok(());
        }
        self.steering.set(rule, bpf::ANY_QUEUE)
    }

    /// The network has no business with what is under `rule` any more.
    pub fn forget(&mut self, rule: Rule) {
        self.served.remove(&rule);
        self.give_back(rule);
    }

    pub(crate) fn has(&self, guest: u32) -> bool {
        self.at(guest).is_some()
    }

    /// Opens a queue for a guest with this hardware address.
    pub(crate) fn open(&mut self, guest: u32, mac: [u8; 6]) -> io::Result<(Opened, u32)> {
        let mut refused = io::Error::other(format!("all {} direct queues are taken", self.holders.len()));
        for at in (0..self.holders.len()).filter(|at| self.holders[*at].is_none()).collect::<Vec<_>>() {
            let queue = self.first + at as u32;
            let mut opened = match direct::open_xdp(&self.interface, queue, false) {
                Ok(opened) => opened,
                // Whoever had it last has not closed it yet; or it is more than a queue that fails.
                Err(error) => {
                    refused = error;
                    continue;
                }
            };
            self.steering.add_socket(queue, opened.fds[0].as_fd())?;
            // Not the interface's own: neighbours go on knowing the guest by the one that it has.
            opened.mac = mac;
            let kept = opened.fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
            self.holders[at] = Some(Holder { guest, rules: Vec::new(), _kept: kept });
            return Ok((opened, queue));
        }
        Err(refused)
    }

    /// From now on the guest has what is under these rules.
    pub(crate) fn steer(&mut self, guest: u32, rules: &[Rule]) -> io::Result<()> {
        let Some(at) = self.at(guest) else { return Ok(()) };
        let queue = self.first + at as u32;
        let Some(holder) = &mut self.holders[at] else { return Ok(()) };
        for rule in rules {
            self.steering.set(*rule, queue)?;
            holder.rules.push(*rule);
        }
        self.filters.add(queue, rules);
        Ok(())
    }

    /// Frames under all rules of the guest go to the server again.
    pub(crate) fn unsteer(&mut self, guest: u32) {
        let Some(at) = self.at(guest) else { return };
        let rules = self.holders[at].as_mut().map(|holder| std::mem::take(&mut holder.rules));
        rules.into_iter().flatten().for_each(|rule| self.give_back(rule));
        self.filters.clear(self.first + at as u32);
    }

    /// Frames under this rule of the guest go to the server again.
    pub(crate) fn unsteer_one(&mut self, guest: u32, rule: Rule) {
        let Some(at) = self.at(guest) else { return };
        let Some(holder) = &mut self.holders[at] else { return };
        let before = holder.rules.len();
        holder.rules.retain(|other| *other != rule);
        if holder.rules.len() != before {
            self.give_back(rule);
            self.filters.clear_one(self.first + at as u32, rule);
        }
    }

    /// The guest has closed its queue, or is gone.
    pub(crate) fn close(&mut self, guest: u32) {
        self.unsteer(guest);
        if let Some(at) = self.at(guest) {
            self.holders[at] = None;
        }
    }

    /// How the guest's frames find its queue.
    pub(crate) fn told(&self, guest: u32) -> Option<String> {
        let queue = self.first + self.at(guest)? as u32;
        let by = match self.filters.refused() {
            Some(words) => format!("by the XDP program alone ({words})"),
            None => format!("by the XDP program and {} rules of the NIC", self.filters.count()),
        };
        Some(format!("queue {queue} of '{}', steered {by}", self.interface))
    }

    fn at(&self, guest: u32) -> Option<usize> {
        self.holders.iter().position(|holder| holder.as_ref().is_some_and(|h| h.guest == guest))
    }

    /// No guest has what is under `rule`: it is the server's, or nobody's.
    fn give_back(&mut self, rule: Rule) {
        let _ = if self.served.contains(&rule) {
            self.steering.set(rule, bpf::ANY_QUEUE)
        } else {
            self.steering.clear(rule).map(drop)
        };
    }
}
