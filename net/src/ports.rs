//! Who owns which local port, and which port somebody gets who does not care.
//!
//! One table for each protocol. An entry knows the bound sockets (few) and counts the connections that use
//! the port besides (accepted ones, those whose port `connect` chose, TIME-WAIT), as the buckets of Linux's
//! inet_hashtables do.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use hashbrown::HashMap;

use crate::engine::isn::{Key, sip};

/// A bound socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) socket: u32,
    pub(crate) addr: Ipv4Addr,
    pub(crate) reuse_addr: bool,
    pub(crate) reuse_port: bool,
    pub(crate) listening: bool,
}

#[derive(Default)]
struct Entry {
    owners: Vec<Owner>,
    /// Other users of the port, and how many of them did not say SO_REUSEADDR.
    users: u32,
    strict_users: u32,
}

/// The ports of one protocol.
pub(crate) struct Ports {
    entries: HashMap<u16, Entry>,
    range: (u16, u16),
    key: Key,
    counter: u64,
}

impl Ports {
    pub(crate) fn new(key: Key, range: (u16, u16)) -> Ports {
        let range = (range.0.max(1), range.1.max(range.0.max(1)));
        Ports { entries: HashMap::new(), range, key, counter: 0 }
    }

    /// `owner` may have `port`.
    pub(crate) fn is_free(&self, port: u16, owner: &Owner) -> bool {
        let Some(entry) = self.entries.get(&port) else { return true };
        if entry.users > 0 && (!owner.reuse_addr && !owner.reuse_port || entry.strict_users > 0) {
            return false;
        }
        entry.owners.iter().all(|other| may_share(other, owner))
    }

    pub(crate) fn bind(&mut self, port: u16, owner: Owner) {
        self.entries.entry(port).or_default().owners.push(owner);
    }

    pub(crate) fn unbind(&mut self, port: u16, socket: u32) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.owners.retain(|owner| owner.socket != socket);
        }
        self.tidy(port);
    }

    /// Marks a bound socket as listening, if nobody else listens there.
    pub(crate) fn listen(&mut self, port: u16, socket: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&port) else { return false };
        let Some(&owner) = entry.owners.iter().find(|owner| owner.socket == socket) else { return false };
        let mine = Owner { listening: true, ..owner };
        if !entry.owners.iter().all(|other| other.socket == socket || may_share(other, &mine)) {
            return false;
        }
        entry.owners.iter_mut().filter(|o| o.socket == socket).for_each(|o| o.listening = true);
        true
    }

    /// A connection uses `port` without having bound it.
    pub(crate) fn add_user(&mut self, port: u16, reuse: bool) {
        let entry = self.entries.entry(port).or_default();
        entry.users += 1;
        entry.strict_users += u32::from(!reuse);
    }

    pub(crate) fn remove_user(&mut self, port: u16, reuse: bool) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.users = entry.users.saturating_sub(1);
            entry.strict_users = entry.strict_users.saturating_sub(u32::from(!reuse));
        }
        self.tidy(port);
    }

    fn tidy(&mut self, port: u16) {
        if self.entries.get(&port).is_some_and(|entry| entry.owners.is_empty() && entry.users == 0) {
            self.entries.remove(&port);
        }
    }

    /// Bound sockets on `port`.
    #[inline]
    pub(crate) fn owners(&self, port: u16) -> &[Owner] {
        self.entries.get(&port).map_or(&[], |entry| &entry.owners)
    }

    /// A port for `bind` to port 0: a random one that nobody uses at all.
    pub(crate) fn ephemeral(&mut self, owner: &Owner) -> Option<u16> {
        self.counter += 1;
        let offset = sip::<1, 3>(self.key, [self.counter, u64::MAX]);
        self.scan(offset).find(|&port| self.is_free(port, owner))
    }

    /// A port for `connect`, by RFC 6056's double-hash algorithm (section 3.3.4): ports towards one
    /// destination ascend (so that they are not soon repeated), and nobody else can guess where.
    /// `free` says whether the four-tuple is free.
    pub(crate) fn for_flow(&mut self, flow: u64, mut free: impl FnMut(u16) -> bool) -> Option<u16> {
        self.counter += 1;
        let offset = sip::<1, 3>(self.key, [flow, 0]).wrapping_add(self.counter);
        self.scan(offset).find(|port| {
            // Not a port that somebody bound: its owner may listen there yet.
            self.entries.get(port).is_none_or(|entry| entry.owners.is_empty()) && free(*port)
        })
    }

    fn scan(&self, offset: u64) -> impl Iterator<Item = u16> + use<> {
        let (low, high) = self.range;
        let count = u64::from(high - low) + 1;
        (0..count).map(move |i| low + ((offset.wrapping_add(i)) % count) as u16)
    }
}

/// `b` may come to a port that `a` has (socket(7), SO_REUSEADDR and SO_REUSEPORT).
fn may_share(a: &Owner, b: &Owner) -> bool {
    let overlap = a.addr == b.addr || a.addr.is_unspecified() || b.addr.is_unspecified();
    !overlap || (a.reuse_port && b.reuse_port) || (a.reuse_addr && b.reuse_addr && !a.listening)
}
