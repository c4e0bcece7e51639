//! The port map: which guest an address, or a port of a shared address, belongs to.
//!
//! A page of address owners, then for each shared address 64 Ki entries each for TCP and UDP, in shared
//! memory. The supervisor alone writes it; a server maps it read-only and asks it for every frame that
//! leaves a guest ([`Reader::may_send`]) or is to be given to one ([`Reader::owner`]).
//!
//! An address is *whole* as long as one guest has it: then all ports are that guest's and no entry is
//! looked at. When a second guest joins by the same address it becomes *shared* and gets a table, in
//! which the first guest's claims are written before the address is marked. The writer counts changes;
//! the reader keeps a copy of the owners and takes it anew when the count has moved (the count is odd
//! while a change is under way, as in a seqlock).

use crate::sys::{self, Mapping};
use net::control::Proto;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A guest has two, a link-local one, and those that it leases.
const OWNERS: usize = 2048;
/// Shared addresses of one network at most.
const TABLES: usize = 16;
const PORTS: usize = 1 << 16;

#[repr(C, align(64))]
struct Owner {
    /// 0: free.
    used: AtomicU32,
    /// The guest (of a shared address: the first, who gets what no port decides).
    guest: AtomicU32,
    /// 0: whole; n: the table n-1 divides it.
    shared: AtomicU32,
    _pad: u32,
    address: [AtomicU64; 2],
}

#[repr(C, align(4096))]
struct Map {
    version: AtomicU64,
    _pad: [u64; 7],
    owners: [Owner; OWNERS],
    /// Each: TCP, UDP.
    tables: [[[AtomicU32; PORTS]; 2]; TABLES],
}

/// The writer's side.
pub(crate) struct PortMap {
    fd: OwnedFd,
    mapping: Mapping,
}

/// The server's side.
pub(crate) struct Reader {
    mapping: Mapping,
    version: u64,
    owners: HashMap<IpAddr, Owned>,
}

/// Whose an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owned {
    /// One guest's.
    Whole(u32),
    /// Several guests': the first of them, and the table.
    Shared(u32, u32),
}

fn words(address: IpAddr) -> [u64; 2] {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bits = v6.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

impl PortMap {
    pub(crate) fn create() -> io::Result<PortMap> {
        let fd = sys::memfd(c"attacca-ports", size_of::<Map>())?;
        let mapping = Mapping::new(fd.as_fd(), true)?;
        Ok(PortMap { fd, mapping })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn map(&self) -> &Map {
        map(&self.mapping)
    }

    fn change<T>(&self, change: impl FnOnce(&Map) -> T) -> T {
        let version = &self.map().version;
        version.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let result = change(self.map());
        version.fetch_add(1, Ordering::AcqRel);
        result
    }

    fn find(&self, address: IpAddr) -> Option<&Owner> {
        let words = words(address);
        self.map().owners.iter().find(|o| {
            o.used.load(Ordering::Relaxed) != 0
                && [0, 1].map(|at| o.address[at].load(Ordering::Relaxed)) == words
        })
    }

    /// Whose an address is.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<Owned> {
        self.find(address).map(owned)
    }

    /// A whole address becomes a guest's. `false`: it has an owner, or there is no room.
    pub(crate) fn own_address(&mut self, address: IpAddr, guest: u32) -> bool {
        if self.find(address).is_some() {
            return false;
        }
        self.change(|map| {
            let Some(free) = map.owners.iter().find(|o| o.used.load(Ordering::Relaxed) == 0) else {
                return false;
            };
            for (word, value) in free.address.iter().zip(words(address)) {
                word.store(value, Ordering::Relaxed);
            }
            free.guest.store(guest, Ordering::Relaxed);
            free.shared.store(0, Ordering::Relaxed);
            free.used.store(1, Ordering::Relaxed);
            true
        })
    }

    /// Divides a whole address by ports: `claims` are its owner's so far. `false`: no table is left.
    pub(crate) fn share(&mut self, address: IpAddr, claims: impl Iterator<Item = (Proto, u16)>) -> bool {
        let Some(owner) = self.find(address) else { return false };
        let Owned::Whole(first) = owned(owner) else { return true };
        let used: Vec<u32> = self.map().owners.iter().map(|o| o.shared.load(Ordering::Relaxed)).collect();
        let Some(table) = (1..=TABLES as u32).find(|n| !used.contains(n)) else { return false };
        let entries = &self.map().tables[table as usize - 1];
        entries.iter().flatten().for_each(|e| e.store(0, Ordering::Relaxed));
        for (proto, port) in claims {
            entries[proto as usize][usize::from(port)].store(first, Ordering::Relaxed);
        }
        self.change(|_| self.find(address).map(|o| o.shared.store(table, Ordering::Release)));
        true
    }

    /// A port of a shared address becomes a guest's. `false`: it is another's.
    pub(crate) fn claim(&mut self, address: IpAddr, proto: Proto, port: u16, guest: u32) -> bool {
        let Some(Owned::Shared(_, table)) = self.owner(address) else { return true };
        let entry = &self.map().tables[table as usize][proto as usize][usize::from(port)];
        match entry.load(Ordering::Relaxed) {
            0 => {
                entry.store(guest, Ordering::Release);
                true
            }
            holder => holder == guest,
        }
    }

    /// A port of a shared address becomes free, if it is this guest's.
    pub(crate) fn unclaim(&mut self, address: IpAddr, proto: Proto, port: u16, guest: u32) {
        if let Some(Owned::Shared(_, table)) = self.owner(address) {
            let entry = &self.map().tables[table as usize][proto as usize][usize::from(port)];
            let _ = entry.compare_exchange(guest, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// An address that nobody has any more.
    pub(crate) fn forget(&mut self, address: IpAddr) {
        let Some(owner) = self.find(address) else { return };
        self.change(|_| {
            owner.used.store(0, Ordering::Relaxed);
            owner.shared.store(0, Ordering::Relaxed);
        });
    }

    /// All ports of a guest in a shared address become free; `next` is the address's first guest then.
    pub(crate) fn leave(&mut self, address: IpAddr, guest: u32, next: u32) {
        let Some(Owned::Shared(_, table)) = self.owner(address) else { return };
        for entry in self.map().tables[table as usize].iter().flatten() {
            if entry.load(Ordering::Relaxed) == guest {
                entry.store(0, Ordering::Release);
            }
        }
        self.change(|_| self.find(address).map(|o| o.guest.store(next, Ordering::Relaxed)));
    }

    /// The server's view.
    #[cfg(test)]
    pub(crate) fn reader(&self) -> io::Result<Reader> {
        Reader::open(self.fd.as_fd())
    }
}

impl Reader {
    pub(crate) fn open(fd: BorrowedFd<'_>) -> io::Result<Reader> {
        let mapping = Mapping::new(fd, false)?;
        if mapping.len < size_of::<Map>() {
            return Err(io::Error::other("the port map is too short"));
        }
        // Odd: never equal to a settled version.
        Ok(Reader { mapping, version: 1, owners: HashMap::new() })
    }

    /// Takes what the supervisor has changed since. Once for each round. Whether something has changed.
    pub(crate) fn refresh(&mut self) -> bool {
        let map = map(&self.mapping);
        let version = map.version.load(Ordering::Acquire);
        if version == self.version || version % 2 == 1 {
            // A change is under way: the next round will see it.
            return false;
        }
        let mut owners = HashMap::new();
        for owner in map.owners.iter().filter(|o| o.used.load(Ordering::Relaxed) != 0) {
            let [high, low] = [0, 1].map(|at| u128::from(owner.address[at].load(Ordering::Relaxed)));
            let v6 = Ipv6Addr::from_bits(high << 64 | low);
            let address = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
            owners.insert(address, owned(owner));
        }
        fence(Ordering::Acquire);
        let whole = map.version.load(Ordering::Relaxed) == version;
        if whole {
            (self.version, self.owners) = (version, owners);
        }
        whole
    }

    /// The addresses that are a guest's alone.
    pub(crate) fn addresses(&self, guest: u32) -> impl Iterator<Item = IpAddr> + '_ {
        let own =
            move |(address, owned): (&IpAddr, &Owned)| (*owned == Owned::Whole(guest)).then_some(*address);
        self.owners.iter().filter_map(own)
    }

    /// Whose a whole address is, or how it is divided.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<Owned> {
        self.owners.get(&address).copied()
    }

    /// The guest that a port of a shared address belongs to; 0 for nobody.
    pub(crate) fn port_owner(&self, table: u32, proto: Proto, port: u16) -> u32 {
        map(&self.mapping).tables[table as usize % TABLES][proto as usize][usize::from(port)]
            .load(Ordering::Acquire)
    }
}

fn owned(owner: &Owner) -> Owned {
    let guest = owner.guest.load(Ordering::Relaxed);
    match owner.shared.load(Ordering::Relaxed) {
        0 => Owned::Whole(guest),
        table => Owned::Shared(guest, (table - 1) % TABLES as u32),
    }
}

fn map(mapping: &Mapping) -> &Map {
    // SAFETY: page-aligned, as long as a Map (checked where it was mapped), used through atomics only.
    unsafe { &*mapping.base.cast::<Map>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_owners() {
        let mut map = PortMap::create().unwrap();
        let mut reader = map.reader().unwrap();
        let [one, two]: [IpAddr; 2] = ["10.0.2.15", "fd00::16"].map(|a| a.parse().unwrap());
        assert!(map.own_address(one, 1) && map.own_address(two, 2));
        assert!(!map.own_address(one, 3));
        reader.refresh();
        assert_eq!(reader.owner(one), Some(Owned::Whole(1)));
        assert_eq!(reader.owner(two), Some(Owned::Whole(2)));
        map.forget(one);
        reader.refresh();
        assert_eq!(reader.owner(one), None);
        assert_eq!(reader.owner(two), Some(Owned::Whole(2)));
    }

    #[test]
    fn divides_an_address() {
        let mut map = PortMap::create().unwrap();
        let mut reader = map.reader().unwrap();
        let address: IpAddr = "10.0.2.15".parse().unwrap();
        assert!(map.own_address(address, 1));
        // Whole: every claim is right and leaves no trace.
        assert!(map.claim(address, Proto::Tcp, 443, 1));
        assert!(map.share(address, [(Proto::Tcp, 80), (Proto::Udp, 53)].into_iter()));
        assert!(!map.claim(address, Proto::Tcp, 80, 2));
        assert!(map.claim(address, Proto::Udp, 80, 2) && map.claim(address, Proto::Tcp, 443, 2));
        reader.refresh();
        let Some(Owned::Shared(1, table)) = reader.owner(address) else { panic!("shared by now") };
        assert_eq!(reader.port_owner(table, Proto::Tcp, 80), 1);
        assert_eq!(reader.port_owner(table, Proto::Udp, 80), 2);
        map.unclaim(address, Proto::Tcp, 80, 2);
        assert_eq!(reader.port_owner(table, Proto::Tcp, 80), 1);
        map.unclaim(address, Proto::Tcp, 80, 1);
        assert!(map.claim(address, Proto::Tcp, 80, 2));
        map.leave(address, 1, 2);
        reader.refresh();
        assert_eq!(reader.port_owner(table, Proto::Udp, 53), 0);
        assert_eq!(reader.owner(address), Some(Owned::Shared(2, table)));
    }
}
