//! Who owns which local port, and which port somebody gets who does not care.
//!
//! One table for each protocol, TCP's for all shards together (behind a lock: it is asked when connections come and
//! go, not for their segments). An entry knows the bound sockets (few) and counts the connections that use
//! the port besides (accepted ones, those whose port `connect` chose, TIME-WAIT), as the buckets of Linux's
//! inet_hashtables do.

use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;

use crate::engine::isn::{Key, sip};

/// The families whose packets a bound socket takes: `::` takes both unless IPV6_V6ONLY was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    V6,
    Both,
}

impl Families {
    /// Those of a socket bound to `addr`.
    pub(crate) fn of(addr: IpAddr, v6_only: bool) -> Families {
        match addr {
            IpAddr::V4(_) => Families::V4,
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Families::V4,
            IpAddr::V6(v6) if v6.is_unspecified() && !v6_only => Families::Both,
            IpAddr::V6(_) => Families::V6,
        }
    }

    pub(crate) fn covers(self, v6: bool) -> bool {
        self == Families::Both || (self == Families::V6) == v6
    }

    fn overlap(self, other: Families) -> bool {
        self == other || self == Families::Both || other == Families::Both
    }
}

/// A bound socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<S> {
    /// Its name: as the protocol's own.
    pub(crate) socket: S,
    pub(crate) addr: IpAddr,
    pub(crate) families: Families,
    pub(crate) reuse_addr: bool,
    pub(crate) reuse_port: bool,
    pub(crate) listening: bool,
}

struct Entry<S> {
    owners: Vec<Owner<S>>,
    /// Other users of the port, and how many of them did not say SO_REUSEADDR.
    users: u32,
    strict_users: u32,
}

impl<S> Default for Entry<S> {
    fn default() -> Entry<S> {
        Entry { owners: Vec::new(), users: 0, strict_users: 0 }
    }
}

/// The ports of one protocol.
pub(crate) struct Ports<S> {
    entries: HashMap<u16, Entry<S>>,
    range: (u16, u16),
    key: Key,
    counter: u64,
}

impl<S: Copy + Eq> Ports<S> {
    pub(crate) fn new(key: Key, range: (u16, u16)) -> Ports<S> {
        let range = (range.0.max(1), range.1.max(range.0.max(1)));
        Ports { entries: HashMap::new(), range, key, counter: 0 }
    }

    /// `owner` may have `port`.
    pub(crate) fn is_free(&self, port: u16, owner: &Owner<S>) -> bool {
        let Some(entry) = self.entries.get(&port) else { return true };
        if entry.users > 0 && (!owner.reuse_addr && !owner.reuse_port || entry.strict_users > 0) {
            return false;
        }
        entry.owners.iter().all(|other| may_share(other, owner))
    }

    /// Whether anybody has or uses `port`.
    pub(crate) fn is_used(&self, port: u16) -> bool {
        self.entries.contains_key(&port)
    }

    pub(crate) fn bind(&mut self, port: u16, owner: Owner<S>) {
        self.entries.entry(port).or_default().owners.push(owner);
    }

    pub(crate) fn unbind(&mut self, port: u16, socket: S) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.owners.retain(|owner| owner.socket != socket);
        }
        self.tidy(port);
    }

    /// Marks a bound socket as listening, if nobody else listens there; the families that it takes.
    pub(crate) fn listen(&mut self, port: u16, socket: S) -> Option<Families> {
        let entry = self.entries.get_mut(&port)?;
        let owner = *entry.owners.iter().find(|owner| owner.socket == socket)?;
        let mine = Owner { listening: true, ..owner };
        if !entry.owners.iter().all(|other| other.socket == socket || may_share(other, &mine)) {
            return None;
        }
        entry.owners.iter_mut().filter(|o| o.socket == socket).for_each(|o| o.listening = true);
        Some(owner.families)
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
    pub(crate) fn owners(&self, port: u16) -> &[Owner<S>] {
        self.entries.get(&port).map_or(&[], |entry| &entry.owners)
    }

    /// A bound socket has another name from now on.
    pub(crate) fn rename(&mut self, port: u16, old: S, new: S) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.owners.iter_mut().filter(|o| o.socket == old).for_each(|o| o.socket = new);
        }
    }

    /// A port for `bind` to port 0: a random one that nobody uses at all.
    pub(crate) fn ephemeral(&mut self, owner: &Owner<S>) -> Option<u16> {
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
        let found = self.scan(offset).enumerate().find(|(_, port)| {
            // Not a port that somebody bound: its owner may listen there yet.
            self.entries.get(port).is_none_or(|entry| entry.owners.is_empty()) && free(*port)
        });
        let (passed, port) = found?;
        // Those that were passed over are not looked at again, and this one not before all others.
        self.counter += passed as u64;
        Some(port)
    }

    /// A number that is the same for the same peer, to spread peers over sockets.
    pub(crate) fn spread(&self, addr: IpAddr, port: u16) -> u64 {
        let bits = match addr {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        sip::<1, 3>(self.key, [(bits >> 64) as u64 ^ bits as u64, u64::from(port) | 1 << 32])
    }

    fn scan(&self, offset: u64) -> impl Iterator<Item = u16> + use<S> {
        let (low, high) = self.range;
        let count = u64::from(high - low) + 1;
        (0..count).map(move |i| low + ((offset.wrapping_add(i)) % count) as u16)
    }
}

/// `b` may come to a port that `a` has (socket(7), SO_REUSEADDR and SO_REUSEPORT).
fn may_share<S>(a: &Owner<S>, b: &Owner<S>) -> bool {
    let same = a.addr == b.addr || a.addr.is_unspecified() || b.addr.is_unspecified();
    let overlap = same && a.families.overlap(b.families);
    !overlap || (a.reuse_port && b.reuse_port) || (a.reuse_addr && b.reuse_addr && !a.listening)
}
