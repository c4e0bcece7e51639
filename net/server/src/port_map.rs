//! The port map: which guest an address, or a port of a shared address, belongs to.
//!
//! One page of address owners, then 64 Ki entries each for TCP and UDP, in shared memory. The
//! supervisor alone writes it; a server maps it read-only and asks it for every frame that leaves a
//! guest ([`Reader::may_send`]) or is to be given to one ([`Reader::owner`]).

use crate::sys::{self, Mapping};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const OWNERS: usize = 4096 / 8;
const PORTS: usize = 1 << 16;
const BYTES: usize = OWNERS * 8 + 2 * PORTS * 4;

/// The writer's side.
pub(crate) struct PortMap {
    fd: OwnedFd,
    mapping: Mapping,
}

/// The server's side.
pub(crate) struct Reader {
    mapping: Mapping,
}

impl PortMap {
    pub(crate) fn create() -> io::Result<PortMap> {
        let fd = sys::memfd(c"attacca-ports", BYTES)?;
        let mapping = Mapping::new(fd.as_fd(), true)?;
        Ok(PortMap { fd, mapping })
    }

    /// A whole address belongs to a guest.
    pub(crate) fn own_address(&mut self, address: IpAddr, guest: u32) {
        let IpAddr::V4(address) = address else { return };
        let entry = u64::from(u32::from(address)) << 32 | u64::from(guest);
        if let Some(free) = owners(&self.mapping).iter().find(|o| o.load(Ordering::Relaxed) == 0) {
            free.store(entry, Ordering::Release);
        }
    }

    /// Everything of a guest becomes free.
    pub(crate) fn release(&mut self, guest: u32) {
        for owner in owners(&self.mapping) {
            if owner.load(Ordering::Relaxed) as u32 == guest {
                owner.store(0, Ordering::Release);
            }
        }
        for port in ports(&self.mapping) {
            if port.load(Ordering::Relaxed) == guest {
                port.store(0, Ordering::Release);
            }
        }
    }

    pub(crate) fn reader(&self) -> io::Result<Reader> {
        Ok(Reader { mapping: Mapping::new(self.fd.as_fd(), false)? })
    }
}

impl Reader {
    /// The guest that a whole address belongs to.
    pub(crate) fn owner(&self, address: Ipv4Addr) -> Option<u32> {
        owners(&self.mapping)
            .iter()
            .map(|o| o.load(Ordering::Acquire))
            .find(|&entry| entry != 0 && (entry >> 32) as u32 == u32::from(address))
            .map(|entry| entry as u32)
    }

    /// Whether `guest` may send from this address.
    pub(crate) fn may_send(&self, guest: u32, from: Ipv4Addr) -> bool {
        self.owner(from) == Some(guest)
    }
}

fn owners(mapping: &Mapping) -> &[AtomicU64] {
    // SAFETY: the mapping is BYTES long, page-aligned, and used through atomics only.
    unsafe { std::slice::from_raw_parts(mapping.base.cast(), OWNERS) }
}

fn ports(mapping: &Mapping) -> &[AtomicU32] {
    // SAFETY: as above; the entries follow the owners.
    unsafe { std::slice::from_raw_parts(mapping.base.add(OWNERS * 8).cast(), 2 * PORTS) }
}

#[cfg(test)]
mod tests {
    use super::PortMap;
    use std::net::Ipv4Addr;

    #[test]
    fn tells_owners() {
        let mut map = PortMap::create().unwrap();
        let reader = map.reader().unwrap();
        let (one, two) = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 16));
        map.own_address(one.into(), 1);
        map.own_address(two.into(), 2);
        assert!(reader.may_send(1, one) && reader.may_send(2, two));
        assert!(!reader.may_send(1, two) && !reader.may_send(3, one));
        map.release(1);
        assert_eq!(reader.owner(one), None);
        assert_eq!(reader.owner(two), Some(2));
    }
}
