//! Addresses of both families in four bytes, for keys and control blocks.
//!
//! An IPv4 address stands for itself; an IPv6 address is a place in the table [`Addresses`], written as an
//! address of 0.0.0.0/8 (RFC 791's "this network", which is never a peer). A flow key so stays 12 bytes
//! for both families, is compared and hashed by the same instructions, and a control block's first line
//! holds it with room for the rest. The price is a look-up for each address of an IPv6 packet and, for
//! each *address* (not connection), some 40 bytes here. Sixteen bytes in the key instead would cost every
//! connection of either family 24 bytes of its hottest line and IPv4 three more words to hash.
//!
//! There are no reference counts. Whoever keeps an [`Addr`] over a poll is visited by
//! `Shard::collect_addresses`, which runs when the table has doubled: a forgotten holder is a defect there and
//! nowhere else.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashTable;

use crate::engine::isn::{Key, sip};

/// An address of either family: names one, and means nothing without the shard's [`Addresses`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Addr(u32);

/// Places are below this: three bytes, 0 excluded.
const PLACES: usize = 1 << 24;
/// The table is not looked through for unused places before it has so many.
const LEAST_COLLECTED: usize = 4096;

impl Addr {
    /// Any address, of either family.
    pub(crate) const UNSPECIFIED: Addr = Addr(0);

    #[inline]
    pub(crate) fn is_v6(self) -> bool {
        self.0 < PLACES as u32 && self.0 != 0
    }

    #[inline]
    pub(crate) fn is_unspecified(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// The address of an IPv4 packet; one of 0/8 is nobody's.
    #[inline]
    pub(crate) fn from_v4(addr: Ipv4Addr) -> Option<Addr> {
        let bits = u32::from(addr);
        (bits >= PLACES as u32 || bits == 0).then_some(Addr(bits))
    }

    /// The IPv4 address; nonsense for an IPv6 one.
    #[inline]
    pub(crate) fn v4(self) -> Ipv4Addr {
        Ipv4Addr::from(self.0)
    }

    /// Bytes of the IP header in front of a packet to it.
    #[inline]
    pub(crate) fn header_len(self) -> usize {
        if self.is_v6() { 40 } else { 20 }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_v6() { write!(f, "v6#{}", self.0) } else { self.v4().fmt(f) }
    }
}

#[derive(Clone, Copy)]
struct Place {
    addr: u128,
    digest: u64,
}

/// The IPv6 addresses that somebody means.
pub(crate) struct Addresses {
    /// Place `n` is `Addr(n + 1)`. An address of 0 marks a free one.
    places: Vec<Place>,
    table: HashTable<u32>,
    free: Vec<u32>,
    key: Key,
    collect_at: usize,
}

impl Addresses {
    pub(crate) fn new(key: Key) -> Addresses {
        Addresses {
            places: Vec::new(),
            table: HashTable::new(),
            free: Vec::new(),
            key,
            collect_at: LEAST_COLLECTED,
        }
    }

    /// The name of an address if it has one.
    #[inline]
    pub(crate) fn find(&self, addr: IpAddr) -> Option<Addr> {
        match addr {
            IpAddr::V4(v4) => Addr::from_v4(v4),
            IpAddr::V6(v6) => self.find_v6(v6.octets()),
        }
    }

    #[inline]
    pub(crate) fn find_v6(&self, octets: [u8; 16]) -> Option<Addr> {
        let (addr, digest) = self.digest_of(octets);
        let place = self.table.find(digest, |at| self.places[*at as usize].addr == addr)?;
        Some(Addr(*place + 1))
    }

    /// The name of an address, a new one if it has none. `None`: it cannot be a peer's, or the table is full.
    /// A mapped IPv4 address is an IPv4 address.
    #[inline]
    pub(crate) fn intern(&mut self, addr: IpAddr) -> Option<Addr> {
        match addr {
            IpAddr::V4(v4) => Addr::from_v4(v4),
            IpAddr::V6(v6) => self.intern_v6(v6),
        }
    }

    fn intern_v6(&mut self, v6: Ipv6Addr) -> Option<Addr> {
        if v6.is_unspecified() {
            return Some(Addr::UNSPECIFIED);
        }
        if let Some(v4) = v6.to_ipv4_mapped() {
            return Addr::from_v4(v4);
        }
        if let Some(known) = self.find_v6(v6.octets()) {
            return Some(known);
        }
        let (addr, digest) = self.digest_of(v6.octets());
        let place = Place { addr, digest };
        let at = match self.free.pop() {
            Some(at) => {
                self.places[at as usize] = place;
                at
            }
            None if self.places.len() + 1 < PLACES => {
                self.places.push(place);
                self.places.len() as u32 - 1
            }
            None => return None,
        };
        let places = &self.places;
        self.table.insert_unique(digest, at, |at| places[*at as usize].digest);
        Some(Addr(at + 1))
    }

    /// What a name stands for.
    #[inline]
    pub(crate) fn get(&self, addr: Addr) -> IpAddr {
        if addr.is_v6() { IpAddr::V6(self.v6(addr)) } else { IpAddr::V4(addr.v4()) }
    }

    /// The IPv6 address that a name stands for.
    #[inline]
    pub(crate) fn v6(&self, addr: Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.places.get(addr.0.wrapping_sub(1) as usize).map_or(0, |place| place.addr))
    }

    /// Both addresses of a flow in one word, the same as long as the shard lives: for sequence numbers and
    /// timestamps, which must not depend on the places that come and go.
    #[inline]
    pub(crate) fn pair(&self, local: Addr, remote: Addr) -> u64 {
        if !remote.is_v6() {
            return u64::from(local.0) << 32 | u64::from(remote.0);
        }
        let digest = |addr: Addr| self.places.get(addr.0.wrapping_sub(1) as usize).map_or(0, |p| p.digest);
        sip::<1, 3>(self.key, [digest(local), digest(remote)])
    }

    fn digest_of(&self, octets: [u8; 16]) -> (u128, u64) {
        let addr = u128::from_be_bytes(octets);
        (addr, sip::<1, 3>(self.key, [(addr >> 64) as u64, addr as u64]))
    }

    /// It is time to look for places that nobody uses any more.
    #[inline]
    pub(crate) fn wants_collection(&self) -> bool {
        self.places.len() - self.free.len() >= self.collect_at
    }

    /// Frees all places but those that `used` names.
    pub(crate) fn keep_only(&mut self, used: impl Iterator<Item = Addr>) {
        let mut marks = alloc::vec![false; self.places.len()];
        for addr in used.filter(|addr| addr.is_v6()) {
            if let Some(mark) = marks.get_mut(addr.0 as usize - 1) {
                *mark = true;
            }
        }
        for (at, _) in marks.iter().enumerate().filter(|(_, used)| !**used) {
            let Place { addr, digest } = self.places[at];
            if addr == 0 {
                continue;
            }
            if let Ok(entry) = self.table.find_entry(digest, |other| *other == at as u32) {
                entry.remove();
            }
            self.places[at].addr = 0;
            self.free.push(at as u32);
        }
        // Twice what is in use: each new address pays for looking at one old one.
        self.collect_at = (2 * (self.places.len() - self.free.len())).max(LEAST_COLLECTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::isn::Secrets;

    fn table() -> Addresses {
        Addresses::new(Secrets::new(&[3; 32]).table)
    }

    #[test]
    fn both_families_come_back() {
        let mut table = table();
        for text in ["10.0.0.1", "255.255.255.255", "2001:db8::1", "::1", "fe80::1"] {
            let addr: IpAddr = text.parse().unwrap();
            let name = table.intern(addr).unwrap();
            assert_eq!((table.get(name), table.find(addr)), (addr, Some(name)));
            assert_eq!(name.is_v6(), addr.is_ipv6());
        }
        assert_eq!(
            table.intern("::ffff:10.0.0.1".parse().unwrap()),
            table.intern("10.0.0.1".parse().unwrap())
        );
        assert_eq!(table.intern("0.0.0.7".parse().unwrap()), None, "its bits name a place");
        assert_eq!(table.intern("::".parse().unwrap()), Some(Addr::UNSPECIFIED));
    }

    #[test]
    fn collects_what_is_unused_and_uses_it_again() {
        let mut table = table();
        let addr =
            |i: u32| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, (i >> 16) as u16, i as u16));
        let names: Vec<Addr> = (1..=5000).map(|i| table.intern(addr(i)).unwrap()).collect();
        assert!(table.wants_collection());
        let pair = table.pair(names[10], names[20]);
        table.keep_only(names[..100].iter().copied());
        assert!(!table.wants_collection());
        assert_eq!(table.find(addr(50)), Some(names[49]));
        assert_eq!(table.find(addr(101)), None);
        assert_eq!(table.pair(names[10], names[20]), pair);
        (6000..=10_899).for_each(|i| assert!(table.intern(addr(i)).is_some()));
        assert_eq!(table.places.len(), 5000, "no place is lost");
        assert_eq!(table.find(addr(50)), Some(names[49]));
    }
}
