//! IPv4 headers (RFC 791): reading with the checks of RFC 1122 section 3.2.1, and writing.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use super::checksum;
use super::packet::Packet;

/// Reads a packet; `None` if it is malformed.
#[inline(always)]
pub(crate) fn parse(bytes: &[u8], checksum_ok: bool) -> Option<Packet<'_>> {
    // By hand and not by `wire`, whose accessors each check the length again.
    let head = bytes.first_chunk::<20>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (header_len, total_len) = (usize::from(head[0] & 0xf) * 4, usize::from(word(2)));
    if head[0] >> 4 != 4 || header_len < 20 || header_len > total_len || total_len > bytes.len() {
        return None;
    }
    if !checksum_ok && !is_sound(head, &bytes[20..header_len]) {
        return None;
    }
    let src = Ipv4Addr::new(head[12], head[13], head[14], head[15]);
    // RFC 1122 section 3.2.1.3: never a source.
    if src.is_broadcast() || src.is_multicast() {
        return None;
    }
    Some(Packet {
        src: IpAddr::V4(src),
        dst: IpAddr::V4(Ipv4Addr::new(head[16], head[17], head[18], head[19])),
        protocol: head[9],
        hop_limit: head[8],
        traffic_class: head[1],
        flow_label: 0,
        ident: word(4).into(),
        fragment: (usize::from(word(6) & 0x1fff) * 8, word(6) & 0x2000 != 0),
        dont_fragment: word(6) & 0x4000 != 0,
        protocol_at: 9,
        bytes: &bytes[..total_len],
        payload: &bytes[header_len..total_len],
    })
}

/// The header's checksum is right.
#[inline]
pub(crate) fn is_sound(head: &[u8; 20], options: &[u8]) -> bool {
    let sum = checksum::sum(head);
    // Summing options of no length would cost as much as the header.
    let sum = if options.is_empty() { sum } else { sum + checksum::sum(options) };
    checksum::fold(sum) == 0xffff
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
    // From the fields: the bytes are still on their way to memory.
    let [length, fragment] = [2, 6].map(|at| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]])));
    let sum = u32::from(u16::from_be_bytes([0x45, header.traffic_class]))
        + length
        + u32::from(header.ident)
        + fragment
        + u32::from(u16::from_be_bytes([header.hop_limit, header.protocol]))
        + checksum::long(header.src.into())
        + checksum::long(header.dst.into());
    bytes[10..12].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    buffer[..20].copy_from_slice(&bytes);
}

/// A whole packet with the router alert option (RFC 2113); `payload_len` counts the option's four bytes.
pub(crate) fn with_router_alert(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut packet = alloc::vec![0; 20];
    write_header(&mut packet, header);
    packet[0] = 0x46;
    packet.extend_from_slice(&[0x94, 4, 0, 0]);
    packet[10..12].fill(0);
    let sum = !checksum::fold(checksum::sum(&packet));
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
    let sum = !checksum::fold(checksum::sum(&packet[..header]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}
