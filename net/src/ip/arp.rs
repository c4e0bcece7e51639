//! Neighbours' hardware addresses (RFC 826; limits of RFC 1122 section 2.3.2).

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use hashbrown::HashMap;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub(crate) const PACKET_LEN: usize = 28;
/// Entries kept. When it is full, an entry that is not in use by a question is replaced.
const MAX_ENTRIES: usize = 4096;
/// Packets kept for an address that is being asked for (RFC 1122 asks for one at least).
const MAX_WAITING: usize = 8;
/// Questions before the address counts as absent, a second apart.
const MAX_TRIES: u8 = 3;
/// An answer is believed so long before it is asked for again, while still being used.
const FRESH_MS: u64 = 60_000;
const RETRY_MS: u64 = 1_000;

#[derive(Default)]
struct Neighbor {
    addr: Option<Ipv4Addr>,
    mac: Option<[u8; 6]>,
    confirmed_ms: u64,
    /// The next question or its giving up is due; 0 if none is under way.
    ask_ms: u64,
    tries: u8,
    /// Connections that wait, and whole IP packets.
    connections: Vec<u32>,
    packets: Vec<Vec<u8>>,
}

/// What came of a question.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) connections: Vec<u32>,
    /// Packets to send now, or that could not be delivered.
    pub(crate) packets: Vec<Vec<u8>>,
}

/// The table. A slot's number is stable while its address is, so that connections remember it and skip the
/// lookup.
#[derive(Default)]
pub(crate) struct Neighbors {
    slots: Vec<Neighbor>,
    index: HashMap<Ipv4Addr, u16>,
    /// Addresses to ask for at the next sending.
    pub(crate) questions: Vec<Ipv4Addr>,
    asking: usize,
}

impl Neighbors {
    /// The hardware address of `addr`. `slot` remembers where it was found. On a miss a question is due,
    /// and the caller should wait.
    #[inline]
    pub(crate) fn lookup(&mut self, addr: Ipv4Addr, slot: &mut u16, now_ms: u64) -> Option<[u8; 6]> {
        let hit = self.slots.get(usize::from(*slot)).is_some_and(|n| n.addr == Some(addr));
        if !hit {
            *slot = self.slot_for(addr)?;
        }
        let neighbor = &mut self.slots[usize::from(*slot)];
        let stale = neighbor.mac.is_none() || now_ms > neighbor.confirmed_ms + FRESH_MS;
        if stale && neighbor.ask_ms == 0 {
            neighbor.ask_ms = now_ms + RETRY_MS;
            neighbor.tries = 1;
            self.asking += 1;
            self.questions.push(addr);
        }
        neighbor.mac
    }

    /// Lets a connection wait for the address in `slot`.
    pub(crate) fn wait(&mut self, slot: u16, connection: u32) {
        if let Some(neighbor) = self.slots.get_mut(usize::from(slot)) {
            neighbor.connections.push(connection);
        }
    }

    /// Lets a packet wait; the oldest is dropped if there are too many.
    pub(crate) fn wait_packet(&mut self, slot: u16, packet: Vec<u8>) {
        if let Some(neighbor) = self.slots.get_mut(usize::from(slot)) {
            if neighbor.packets.len() >= MAX_WAITING {
                neighbor.packets.remove(0);
            }
            neighbor.packets.push(packet);
        }
    }

    /// Somebody said that `addr` is at `mac`. `create`: also if we do not know the address yet.
    pub(crate) fn learn(&mut self, addr: Ipv4Addr, mac: [u8; 6], create: bool, now_ms: u64) -> Outcome {
        if !EthernetAddress(mac).is_unicast() || addr.is_unspecified() {
            return Outcome::default();
        }
        let slot = match self.index.get(&addr) {
            Some(slot) => Some(*slot),
            None if create => self.slot_for(addr),
            None => None,
        };
        let Some(slot) = slot else { return Outcome::default() };
        let neighbor = &mut self.slots[usize::from(slot)];
        neighbor.mac = Some(mac);
        neighbor.confirmed_ms = now_ms;
        if core::mem::take(&mut neighbor.ask_ms) != 0 {
            self.asking -= 1;
        }
        neighbor.tries = 0;
        Outcome {
            connections: core::mem::take(&mut neighbor.connections),
            packets: core::mem::take(&mut neighbor.packets),
        }
    }

    /// Asks again where no answer came; returns what waited for an address that does not answer.
    pub(crate) fn timers(&mut self, now_ms: u64) -> Option<Outcome> {
        if self.asking == 0 {
            return None;
        }
        let mut failed = Outcome::default();
        for neighbor in self.slots.iter_mut().filter(|n| n.ask_ms != 0 && n.ask_ms <= now_ms) {
            if neighbor.tries < MAX_TRIES {
                neighbor.tries += 1;
                neighbor.ask_ms = now_ms + RETRY_MS;
                self.questions.extend(neighbor.addr);
                continue;
            }
            neighbor.ask_ms = 0;
            neighbor.mac = None;
            self.asking -= 1;
            failed.connections.append(&mut neighbor.connections);
            failed.packets.append(&mut neighbor.packets);
        }
        Some(failed)
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        if self.asking == 0 {
            return None;
        }
        self.slots.iter().map(|n| n.ask_ms).filter(|at| *at != 0).min()
    }

    fn slot_for(&mut self, addr: Ipv4Addr) -> Option<u16> {
        if let Some(slot) = self.index.get(&addr) {
            return Some(*slot);
        }
        let slot = if self.slots.len() < MAX_ENTRIES {
            self.slots.push(Neighbor::default());
            self.slots.len() - 1
        } else {
            let idle = self.slots.iter().enumerate().filter(|(_, n)| n.ask_ms == 0);
            let (slot, _) = idle.min_by_key(|(_, n)| n.confirmed_ms)?;
            self.index.remove(&self.slots[slot].addr?);
            slot
        };
        self.slots[slot] = Neighbor { addr: Some(addr), ..Neighbor::default() };
        self.index.insert(addr, slot as u16);
        Some(slot as u16)
    }
}

/// A received ARP packet.
pub(crate) struct Arp {
    pub(crate) request: bool,
    pub(crate) mac: [u8; 6],
    pub(crate) sender: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
}

pub(crate) fn parse(bytes: &[u8]) -> Option<Arp> {
    let packet = ArpPacket::new_checked(bytes).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let request = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        _ => return None,
    };
    Some(Arp {
        request,
        mac: source_hardware_addr.0,
        sender: source_protocol_addr,
        target: target_protocol_addr,
    })
}

/// Writes a request (`to_mac` zero) or a reply.
pub(crate) fn write(buffer: &mut [u8], request: bool, from: ([u8; 6], Ipv4Addr), to: ([u8; 6], Ipv4Addr)) {
    let repr = ArpRepr::EthernetIpv4 {
        operation: if request { ArpOperation::Request } else { ArpOperation::Reply },
        source_hardware_addr: EthernetAddress(from.0),
        source_protocol_addr: from.1,
        target_hardware_addr: EthernetAddress(to.0),
        target_protocol_addr: to.1,
    };
    repr.emit(&mut ArpPacket::new_unchecked(buffer));
}
