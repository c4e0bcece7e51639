//! From addresses and ports to a connection, in O(1) and safe against chosen collisions.
//!
//! The table holds a tag and an index, 8 bytes for each flow; the key itself is in the control block, which
//! is needed next anyway.

use hashbrown::HashTable;

use super::isn::Key;
use crate::ip::addr::Addr;

/// Names a connection, of either family: `ip/addr.rs` says how IPv6 addresses fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowKey {
    pub(crate) local: Addr,
    pub(crate) remote: Addr,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
}

impl FlowKey {
    pub(crate) const NONE: FlowKey =
        FlowKey { local: Addr::UNSPECIFIED, remote: Addr::UNSPECIFIED, local_port: 0, remote_port: 0 };

    /// Bytes of the IP and TCP headers without options.
    #[inline]
    pub(crate) fn headers(&self) -> usize {
        self.remote.header_len() + 20
    }

    /// A flow label (RFC 6437): a hash of the key that two packets of a flow share.
    #[inline]
    pub(crate) fn flow_label(&self) -> u32 {
        let ports = u32::from(self.local_port) << 16 | u32::from(self.remote_port);
        let mixed = (ports ^ self.remote.bits().rotate_left(11)).wrapping_mul(0x9e37_79b9);
        (mixed >> 12).max(1)
    }

    #[inline]
    pub(crate) fn words(&self) -> [u64; 2] {
        let (local, remote) = (self.local.bits(), self.remote.bits());
        [
            u64::from(local) << 32 | u64::from(remote),
            u64::from(self.local_port) << 16 | u64::from(self.remote_port),
        ]
    }

    /// The hash of the flow table: one product of two words, each under half of the secret. That is NH (Black and others,
    /// UMAC, 1999; also RFC 4418): whoever does not know the key finds colliding flows only by chance, and
    /// learns no hash from us. SipHash costs ten times as much, and every frame pays.
    #[inline]
    pub(crate) fn hash(&self, key: Key) -> u64 {
        let [addresses, ports] = self.words();
        let [a, b] = key.words();
        let product = u128::from(addresses.wrapping_add(a)) * u128::from(ports.wrapping_add(b));
        (product >> 64) as u64 ^ product as u64
    }
}

/// The flow table.
pub(crate) struct Demux {
    table: HashTable<(u32, u32)>,
    key: Key,
}

impl Demux {
    pub(crate) fn new(key: Key) -> Demux {
        Demux { table: HashTable::new(), key }
    }

    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        spread(tag(key.hash(self.key)))
    }

    /// The entry with that hash for which `is` says yes (it compares the key in the control block).
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = hash as u32;
        self.table.find(hash, |entry| entry.0 == tag && is(entry.1)).map(|entry| entry.1)
    }

    pub(crate) fn insert(&mut self, key: &FlowKey, index: u32) {
        let hash = self.hash(key);
        self.table.insert_unique(hash, (hash as u32, index), |entry| spread(entry.0));
    }

    pub(crate) fn remove(&mut self, key: &FlowKey, index: u32) {
        let hash = self.hash(key);
        if let Ok(entry) = self.table.find_entry(hash, |entry| entry.1 == index) {
            entry.remove();
        }
    }
}

#[inline]
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 ^ hash as u32
}

/// The table hashes again from the stored tag alone when it grows: bucket from the low bits, control byte
/// from the highest seven.
#[inline]
fn spread(tag: u32) -> u64 {
    u64::from(tag) | u64::from(tag.wrapping_mul(0x9e37_79b9)) << 32
}
