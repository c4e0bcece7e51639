//! Shortcuts: links of two guests that lead past the server ([`net::ring::Shortcuts`]).
//!
//! A guest says whom it frequents; the supervisor looks who that is, makes the memory, and hands an end to each. It keeps
//! no descriptor of it. A shortcut ends with either guest, with a change of their addresses, and when one of them finds
//! that the other writes nonsense; then frames go over the server again. The other one of a guest that cheats is not
//! joined to it anew.
//!
//! None is made where the server is needed between two guests: to share an address, or to keep to a limit.

use super::Supervisor;
use super::guests::{Guest, make_link};
use crate::port_map::Owned;
use crate::sys;
use net::control::{Shortcut, ToGuest};
use net::ring::{ADDRESSES, Layout, Peer};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes of each ring: as a guest's to the server.
const RING_BYTES: u32 = 1 << 19;

/// The network's shortcuts.
pub(super) struct Shortcuts {
    next: u32,
    pairs: Vec<Pair>,
    /// Pairs of guests that had one and broke it.
    broken: Vec<[u32; 2]>,
}

struct Pair {
    id: u32,
    guests: [u32; 2],
}

impl Shortcuts {
    pub(super) fn new() -> Shortcuts {
        // Guests may still be listening at those of a supervisor before this one.
        Shortcuts { next: std::process::id() << 10, pairs: Vec::new(), broken: Vec::new() }
    }

    fn count(&self, guest: u32) -> usize {
        self.pairs.iter().filter(|pair| pair.guests.contains(&guest)).count()
    }

    /// The other ends of a guest's.
    pub(super) fn of(&self, guest: u32) -> impl Iterator<Item = u32> {
        let other = move |pair: &Pair| match pair.guests {
            [a, b] if a == guest => Some(b),
            [a, b] if b == guest => Some(a),
            _ => None,
        };
        self.pairs.iter().filter_map(other)
    }
}

impl Supervisor {
    /// A guest sends much to this address.
    pub(super) fn frequents(&mut self, at: usize, address: IpAddr) {
        let Some(other) = self.candidate(at, address) else { return };
        if let Err(error) = self.join(at, other) {
            let names = [at, other].map(|guest| &self.guests[guest].place.name);
            eprintln!(
                "attacca: network supervisor: no shortcut between '{}' and '{}': {error}",
                names[0], names[1]
            );
        }
    }

    /// The guest that has this address, if the two may have a shortcut.
    fn candidate(&self, at: usize, address: IpAddr) -> Option<usize> {
        let Some(Owned::Whole(other)) = self.held.port_map.owner(address) else { return None };
        let other = self.guests.iter().position(|guest| guest.id == other).filter(|other| *other != at)?;
        let pair = [at, other].map(|guest| self.guests[guest].id);
        let of = |ids: &[u32; 2]| pair.iter().all(|id| ids.contains(id));
        let may = !self.config.no_shortcuts
            && [at, other].into_iter().all(|guest| self.may_have_one(&self.guests[guest]))
            && !self.shortcuts.pairs.iter().any(|there| of(&there.guests))
            && !self.shortcuts.broken.iter().any(of);
        may.then_some(other)
    }

    fn may_have_one(&self, guest: &Guest) -> bool {
        let limits = &guest.place.limits;
        let is_own =
            |address| matches!(self.held.port_map.owner(address), Some(Owned::Whole(id)) if id == guest.id);
        limits.frames == 0
            && limits.bytes == 0
            && guest.addresses().all(is_own)
            && self.shortcuts.count(guest.id) < net::ring::Shortcuts::MOST
    }

    fn join(&mut self, a: usize, b: usize) -> io::Result<()> {
        let memory = make_link(Layout { queues: 1, capacity: RING_BYTES })?;
        // Bells of their own: who has an eventfd can take its count as well, and the other guest would sleep through what the server rings
        // for.
        let bells = [sys::eventfd()?, sys::eventfd()?];
        let of = |end: usize| [memory.as_fd(), bells[1 - end].as_fd(), bells[end].as_fd()];
        let id = self.shortcuts.next;
        self.shortcuts.next += 1;
        let (a, b) = (&self.guests[a], &self.guests[b]);
        a.hand_over(&of(0), id, 0, b)?;
        // Who is not listening has gone or is about to go: then the first hears of that.
        self.shortcuts.pairs.push(Pair { id, guests: [a.id, b.id] });
        b.hand_over(&of(1), id, 1, a).inspect_err(|_| a.tell(0, ToGuest::ShortcutGone(id)))
    }

    /// A guest says that the other one has spoiled their shortcut.
    pub(super) fn shortcut_broken(&mut self, at: usize, id: u32) {
        let by = self.guests[at].id;
        let found = self.shortcuts.pairs.iter().find(|pair| pair.id == id && pair.guests.contains(&by));
        let Some(guests) = found.map(|pair| pair.guests) else { return };
        eprintln!(
            "attacca: network supervisor: '{}' found nonsense in a shortcut: its frames go over the server",
            self.guests[at].place.name
        );
        self.shortcuts.broken.push(guests);
        self.cut(|pair| pair.id == id);
    }

    /// A guest has other addresses than before, or has gone.
    pub(super) fn cut_shortcuts(&mut self, guest: u32) {
        self.cut(|pair| pair.guests.contains(&guest));
    }

    /// It has gone, for good.
    pub(super) fn forget_shortcuts(&mut self, guest: u32) {
        self.cut_shortcuts(guest);
        self.shortcuts.broken.retain(|guests| !guests.contains(&guest));
    }

    fn cut(&mut self, is_over: impl Fn(&Pair) -> bool) {
        let guests = &self.guests;
        self.shortcuts.pairs.retain(|pair| {
            let over = is_over(pair);
            if over {
                let its = guests.iter().filter(|guest| pair.guests.contains(&guest.id));
                its.for_each(|guest| guest.tell(0, ToGuest::ShortcutGone(pair.id)));
            }
            !over
        });
    }
}

impl Guest {
    /// All its addresses.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.place.addresses().chain(self.leases.iter().copied())
    }

    /// Gives it an end of a link to `other`: memory, the other's bell, its own.
    fn hand_over(&self, fds: &[BorrowedFd<'_>; 3], id: u32, end: u32, other: &Guest) -> io::Result<()> {
        let mut addresses = [None; ADDRESSES];
        addresses.iter_mut().zip(other.addresses()).for_each(|(place, address)| *place = Some(address));
        let shortcut = Shortcut { id, end, peer: Peer { mac: other.place.mac, addresses } };
        sys::post(self.control.as_fd(), ToGuest::Shortcut(shortcut).encode(0).bytes(), fds)
    }
}
