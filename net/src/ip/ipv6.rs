//! IPv6 headers (RFC 8200): reading the chain of extension headers, and writing.
//!
//! Read: hop-by-hop and destination options (unknown ones by their action bits), routing headers (type 0 is
//! refused, RFC 5095; other types only when no segment is left), fragment headers. AH and ESP are upper
//! protocols that nobody here speaks. Written: the plain header, and the fragment header.

use core::net::{IpAddr, Ipv6Addr};

use super::packet::{Packet, Parsed};

/// Bytes of the header.
pub(crate) const HEADER: usize = 40;
/// Bytes of a fragment header.
pub(crate) const FRAGMENT_HEADER: usize = 8;
/// Every link carries packets of so many bytes (section 5).
pub(crate) const MIN_MTU: usize = 1280;
/// Next-header values.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// No upper protocol follows.
pub(crate) const NO_NEXT: u8 = 59;
/// Extension headers that we walk over: no honest sender comes near.
const MAX_HEADERS: usize = 8;
/// Codes of "parameter problem" (RFC 4443 section 3.4).
const ERRONEOUS: u8 = 0;
pub(crate) const UNKNOWN_NEXT_HEADER: u8 = 1;
const UNKNOWN_OPTION: u8 = 2;

/// Reads a packet. Total: any bytes give an answer.
#[inline]
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some(length) = bytes.get(4..6) else { return Parsed::Bad };
    parse_cut(bytes, usize::from(u16::from_be_bytes([length[0], length[1]])))
}

/// The same with a payload length of our own: for packets quoted in part.
#[inline]
pub(crate) fn parse_cut(bytes: &[u8], payload_len: usize) -> Parsed<'_> {
    let Some(packet) = fixed_header(bytes, payload_len) else { return Parsed::Bad };
    walk(packet)
}

#[inline]
fn fixed_header(bytes: &[u8], payload_len: usize) -> Option<Packet<'_>> {
    let header = bytes.get(..HEADER)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let word = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let bytes = bytes.get(..HEADER + payload_len)?;
    let src = addr_at(header, 8);
    if src.is_multicast() {
        return None;
    }
    Some(Packet {
        src: IpAddr::V6(src),
        dst: IpAddr::V6(addr_at(header, 24)),
        protocol: header[6],
        hop_limit: header[7],
        traffic_class: (word >> 20) as u8,
        flow_label: word & 0xf_ffff,
        ident: 0,
        fragment: (0, false),
        dont_fragment: true,
        protocol_at: 6,
        bytes,
        payload: &bytes[HEADER..],
    })
}

fn addr_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets)
}

#[inline]
fn walk(mut packet: Packet<'_>) -> Parsed<'_> {
    if !matches!(packet.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
        return Parsed::Packet(packet);
    }
    let mut at = HEADER;
    for count in 0..MAX_HEADERS {
        let kind = packet.protocol;
        // Section 4.3: hop-by-hop options are first or an error.
        if kind == HOP_BY_HOP && count > 0 {
            return problem(packet, UNKNOWN_NEXT_HEADER, usize::from(packet.protocol_at), false);
        }
        let Some(head) = packet.bytes.get(at..at + 8) else { return Parsed::Bad };
        let len = if kind == FRAGMENT { FRAGMENT_HEADER } else { 8 + 8 * usize::from(head[1]) };
        let Some(header) = packet.bytes.get(at..at + len) else { return Parsed::Bad };
        match kind {
            HOP_BY_HOP | DESTINATION => match options(header) {
                Verdict::Fine => {}
                Verdict::Discard => return Parsed::Bad,
                Verdict::Complain { option, always } => {
                    return problem(packet, UNKNOWN_OPTION, at + option, always);
                }
            },
            // Type 0 is treated as unknown (RFC 5095 section 3), like every type with segments left.
            ROUTING if header[3] != 0 => return problem(packet, ERRONEOUS, at + 2, false),
            FRAGMENT => {
                let field = u16::from_be_bytes([header[2], header[3]]);
                packet.fragment = (usize::from(field & !7), field & 1 != 0);
                packet.ident = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                packet.dont_fragment = false;
            }
            _ => {}
        }
        packet.protocol = head[0];
        packet.protocol_at = at as u16;
        at += len;
        packet.payload = &packet.bytes[at..];
        // What follows a fragment header is a piece of something.
        let over = kind == FRAGMENT && packet.is_fragment();
        if over || !matches!(packet.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            return Parsed::Packet(packet);
        }
    }
    Parsed::Bad
}

fn problem(packet: Packet<'_>, code: u8, at: usize, always: bool) -> Parsed<'_> {
    Parsed::Problem { packet, code, at: at as u32, always }
}

enum Verdict {
    Fine,
    Discard,
    Complain { option: usize, always: bool },
}

/// Options that we do not know are judged by their two highest bits (section 4.2).
fn options(header: &[u8]) -> Verdict {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    /// RFC 2711; it is for routers.
    const ROUTER_ALERT: u8 = 5;
    let mut at = 2;
    while at < header.len() {
        let kind = header[at];
        if kind == PAD1 {
            at += 1;
            continue;
        }
        let Some(&len) = header.get(at + 1) else { return Verdict::Discard };
        if at + 2 + usize::from(len) > header.len() {
            return Verdict::Discard;
        }
        match (kind, kind >> 6) {
            (PADN | ROUTER_ALERT, _) | (_, 0) => {}
            (_, 1) => return Verdict::Discard,
            (_, action) => return Verdict::Complain { option: at, always: action == 2 },
        }
        at += 2 + usize::from(len);
    }
    Verdict::Fine
}

/// What a header to write says.
pub(crate) struct Header {
    pub(crate) src: Ipv6Addr,
    pub(crate) dst: Ipv6Addr,
    pub(crate) protocol: u8,
    pub(crate) payload_len: usize,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) flow_label: u32,
}

/// Writes a header of 40 bytes.
#[inline]
pub(crate) fn write_header(buffer: &mut [u8], header: &Header) {
    let word = 6 << 28 | u32::from(header.traffic_class) << 20 | header.flow_label & 0xf_ffff;
    buffer[..4].copy_from_slice(&word.to_be_bytes());
    buffer[4..6].copy_from_slice(&(header.payload_len as u16).to_be_bytes());
    buffer[6] = header.protocol;
    buffer[7] = header.hop_limit;
    buffer[8..24].copy_from_slice(&header.src.octets());
    buffer[24..40].copy_from_slice(&header.dst.octets());
}

/// Writes the header of a fragment and its fragment header; `payload_len` of `header` is without the latter.
pub(crate) fn write_fragment_header(
    buffer: &mut [u8],
    header: &Header,
    ident: u32,
    offset: usize,
    more: bool,
) {
    let whole = Header { protocol: FRAGMENT, payload_len: header.payload_len + FRAGMENT_HEADER, ..*header };
    write_header(buffer, &whole);
    buffer[40] = header.protocol;
    buffer[41] = 0;
    buffer[42..44].copy_from_slice(&((offset as u16 & !7) | u16::from(more)).to_be_bytes());
    buffer[44..48].copy_from_slice(&ident.to_be_bytes());
}

/// The group that a node with `addr` is asked for it by (RFC 4291 section 2.7.1).
pub(crate) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c))
}

/// All nodes of the link, and all its routers.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn packet(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = alloc::vec![0; HEADER];
        let header = Header {
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
            protocol: next,
            payload_len: rest.len(),
            hop_limit: 9,
            traffic_class: 0xab,
            flow_label: 0x12345,
        };
        write_header(&mut bytes, &header);
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn walks_over_extension_headers() {
        // Hop-by-hop with router alert, destination options with padding, then UDP.
        let rest = [60, 0, 5, 2, 0, 0, 1, 0, 17, 0, 1, 4, 0, 0, 0, 0, 9, 9, 9];
        let bytes = packet(0, &rest);
        let Parsed::Packet(packet) = parse(&bytes) else { panic!() };
        assert_eq!((packet.protocol, packet.payload, packet.protocol_at), (17, &[9, 9, 9][..], 48));
        assert_eq!((packet.traffic_class, packet.flow_label, packet.hop_limit), (0xab, 0x12345, 9));
    }

    #[test]
    fn complains_where_it_should() {
        let check = |next: u8, rest: &[u8]| match parse(&packet(next, rest)) {
            Parsed::Problem { code, at, always, .. } => Some((code, at, always)),
            Parsed::Packet(_) => None,
            Parsed::Bad => panic!("silent"),
        };
        // Unknown options by action.
        assert_eq!(check(60, &[59, 0, 0x3e, 4, 0, 0, 0, 0]), None);
        assert_eq!(check(60, &[59, 0, 0x80, 4, 0, 0, 0, 0]), Some((2, 42, true)));
        assert_eq!(check(60, &[59, 0, 0xc2, 4, 0, 0, 0, 0]), Some((2, 42, false)));
        assert!(matches!(parse(&packet(60, &[59, 0, 0x40, 4, 0, 0, 0, 0])), Parsed::Bad));
        // Routing type 0 with a segment left, and with none.
        let mut routing = [0; 24];
        (routing[0], routing[1], routing[3]) = (59, 2, 1);
        assert_eq!(check(43, &routing), Some((0, 42, false)));
        routing[3] = 0;
        assert_eq!(check(43, &routing), None);
        // Hop-by-hop options that are not first.
        assert_eq!(check(60, &[0, 0, 1, 4, 0, 0, 0, 0, 59, 0, 1, 4, 0, 0, 0, 0]), Some((1, 40, false)));
    }

    #[test]
    fn lengths_that_lie_are_bad() {
        for rest in [&[17u8, 9, 0, 0, 0, 0, 0, 0][..], &[17, 0, 1, 9, 0, 0, 0, 0], &[17, 0, 1]] {
            assert!(matches!(parse(&packet(60, rest)), Parsed::Bad));
        }
        let mut bytes = packet(17, &[1, 2, 3]);
        bytes.pop();
        assert!(matches!(parse(&bytes), Parsed::Bad));
    }

    #[test]
    fn reads_the_fragments_it_writes() {
        let header = Header {
            src: "fe80::1".parse().unwrap(),
            dst: "fe80::2".parse().unwrap(),
            protocol: 17,
            payload_len: 16,
            hop_limit: 64,
            traffic_class: 0,
            flow_label: 0,
        };
        let mut bytes = alloc::vec![7; 64];
        write_fragment_header(&mut bytes, &header, 0xdead_beef, 1448, true);
        let Parsed::Packet(packet) = parse(&bytes) else { panic!() };
        assert_eq!((packet.ident, packet.fragment, packet.protocol), (0xdead_beef, (1448, true), 17));
        assert_eq!(packet.payload, &[7; 16]);
    }
}
