//! IPv4 headers (RFC 791): reading with the checks of RFC 1122 section 3.2.1, and writing.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{Ipv4Packet, checksum};

use super::packet::Packet;

/// Reads a packet; `None` if it is malformed.
#[inline(always)]
pub(crate) fn parse(bytes: &[u8], checksum_ok: bool) -> Option<Packet<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.version() != 4 || packet.header_len() < 20 || (!checksum_ok && !packet.verify_checksum()) {
        return None;
    }
    let src = packet.src_addr();
    // RFC 1122 section 3.2.1.3: never a source.
    if src.is_broadcast() || src.is_multicast() {
        return None;
    }
    Some(Packet {
        src: IpAddr::V4(src),
        dst: IpAddr::V4(packet.dst_addr()),
        protocol: packet.next_header().into(),
        hop_limit: packet.hop_limit(),
        traffic_class: bytes[1],
        flow_label: 0,
        ident: packet.ident().into(),
        fragment: (usize::from(packet.frag_offset()), packet.more_frags()),
        dont_fragment: packet.dont_frag(),
        protocol_at: 9,
        bytes: &bytes[..usize::from(packet.total_len())],
        payload: packet.payload(),
    })
}

/// What a header to write says.
pub(crate) struct Header {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) payload_len: usize,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) ident: u16,
    pub(crate) dont_fragment: bool,
}

/// Writes a header of 20 bytes with its checksum.
#[inline]
pub(crate) fn write_header(buffer: &mut [u8], header: &Header) {
    write_fragment_header(buffer, header, 0, false);
}

/// The same for a fragment.
#[inline]
pub(crate) fn write_fragment_header(buffer: &mut [u8], header: &Header, offset: usize, more: bool) {
    // Built in registers and stored once; field by field through `wire`'s setters costs more.
    let mut bytes = [0; 20];
    bytes[0] = 0x45;
    bytes[1] = header.traffic_class;
    // A super-segment of the greatest size stays below 64 KiB: the links' limits see to it.
    bytes[2..4].copy_from_slice(&((20 + header.payload_len) as u16).to_be_bytes());
    bytes[4..6].copy_from_slice(&header.ident.to_be_bytes());
    let flags = u16::from(header.dont_fragment) << 14 | u16::from(more) << 13;
    bytes[6..8].copy_from_slice(&(flags | (offset / 8) as u16).to_be_bytes());
    bytes[8] = header.hop_limit;
    bytes[9] = header.protocol;
    bytes[12..16].copy_from_slice(&header.src.octets());
    bytes[16..20].copy_from_slice(&header.dst.octets());
    let sum = !checksum::data(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    buffer[..20].copy_from_slice(&bytes);
}

/// A whole packet with the router alert option (RFC 2113); `payload_len` counts the option's four bytes.
pub(crate) fn with_router_alert(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut packet = alloc::vec![0; 20];
    write_header(&mut packet, header);
    packet[0] = 0x46;
    packet.extend_from_slice(&[0x94, 4, 0, 0]);
    packet[10..12].fill(0);
    let sum = !checksum::data(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// A packet that a program wrote with its header (IP_HDRINCL): length and checksum are ours, the source and
/// the identification too where they are zero (raw(7)).
pub(crate) fn complete(bytes: &[u8], src: IpAddr) -> Option<Vec<u8>> {
    let header = usize::from(bytes.first()? & 0xf) * 4;
    if bytes[0] >> 4 != 4 || header < 20 || bytes.len() < header {
        return None;
    }
    let mut packet = bytes.to_vec();
    packet[2..4].copy_from_slice(&(bytes.len() as u16).to_be_bytes());
    if let (IpAddr::V4(src), [0, 0, 0, 0]) = (src, &bytes[12..16]) {
        packet[12..16].copy_from_slice(&src.octets());
    }
    packet[10..12].fill(0);
    let sum = !checksum::data(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}
