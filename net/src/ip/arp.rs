//! ARP packets (RFC 826). The table of what they say is `neighbor.rs`.

use core::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub(crate) const PACKET_LEN: usize = 28;

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
