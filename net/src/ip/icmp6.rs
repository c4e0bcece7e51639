//! ICMPv6 (RFC 4443): answers to echo requests, errors that we send, errors about what we sent.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::checksum;

use super::ipv6::{self, HEADER};
use super::packet::{Packet, Parsed};
use super::report::{Report, Trouble};
use crate::error::Error;

/// IP protocol number.
pub(crate) const PROTOCOL: u8 = 58;
/// Types. Errors are those below 128.
pub(crate) const UNREACHABLE: u8 = 1;
pub(crate) const PACKET_TOO_BIG: u8 = 2;
pub(crate) const TIME_EXCEEDED: u8 = 3;
pub(crate) const PARAMETER_PROBLEM: u8 = 4;
pub(crate) const ECHO_REQUEST: u8 = 128;
pub(crate) const ECHO_REPLY: u8 = 129;
const REDIRECT: u8 = 137;
/// Codes of `UNREACHABLE`.
pub(crate) const NO_ROUTE: u8 = 0;
pub(crate) const PROHIBITED: u8 = 1;
pub(crate) const PORT: u8 = 4;

/// The checksum of a message between these two, where its own field holds zero or the right sum (then the
/// result is 0).
pub(crate) fn sum(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, message: &[u8]) -> u16 {
    let length = message.len() as u32;
    let words = [(length >> 16) as u16, length as u16, protocol.into()];
    !checksum::combine(&[
        checksum::data(&src.octets()),
        checksum::data(&dst.octets()),
        checksum::combine(&words),
        checksum::data(message),
    ])
}

/// The message's checksum is right.
pub(crate) fn verify(packet: &Packet<'_>) -> bool {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (packet.src, packet.dst) else { return false };
    packet.payload.len() >= 4 && sum(src, dst, PROTOCOL, packet.payload) == 0
}

/// A whole IPv6 packet around a message, checksum filled in.
pub(crate) fn packet(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = alloc::vec![0; HEADER];
    bytes.extend_from_slice(message);
    let header = ipv6::Header {
        src,
        dst,
        protocol: PROTOCOL,
        payload_len: message.len(),
        hop_limit,
        traffic_class: 0,
        flow_label: 0,
    };
    ipv6::write_header(&mut bytes, &header);
    bytes[HEADER + 2..HEADER + 4].fill(0);
    let sum = sum(src, dst, PROTOCOL, &bytes[HEADER..]);
    bytes[HEADER + 2..HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An error message about `original`, as much of it as keeps the whole within 1,280 bytes. `None` where none
/// may be sent (section 2.4 e). `always`: also about packets to groups ("too big", some options).
pub(crate) fn error_about(
    original: &Packet<'_>,
    kind: u8,
    code: u8,
    word: u32,
    always: bool,
) -> Option<Vec<u8>> {
    let first = original.payload.first().copied();
    let about_error = original.protocol == PROTOCOL && first.is_some_and(|t| t < 128 || t == REDIRECT);
    let to_group = original.dst.is_multicast() && !always;
    if about_error || to_group || original.src.is_unspecified() || original.src.is_multicast() {
        return None;
    }
    let mut message = alloc::vec![kind, code, 0, 0];
    message.extend_from_slice(&word.to_be_bytes());
    message.extend_from_slice(&original.bytes[..original.bytes.len().min(ipv6::MIN_MTU - HEADER - 8)]);
    Some(message)
}

/// Reads an error message.
pub(crate) fn read_error(from: IpAddr, message: &[u8]) -> Option<Report> {
    let soft = |error| Trouble::Error { error, hard: false };
    let hard = |error| Trouble::Error { error, hard: true };
    let head = message.get(..8)?;
    let word = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    // Errors as Linux's icmpv6_err_convert gives them.
    let what = match (head[0], head[1]) {
        (UNREACHABLE, NO_ROUTE) => soft(Error::NetworkUnreachable),
        (UNREACHABLE, PROHIBITED | 5 | 6) => hard(Error::Prohibited),
        (UNREACHABLE, PORT) => hard(Error::Refused),
        (UNREACHABLE, _) => soft(Error::HostUnreachable),
        (PACKET_TOO_BIG, _) => Trouble::TooBig(word.min(65_535) as u16),
        (TIME_EXCEEDED, _) => soft(Error::HostUnreachable),
        (PARAMETER_PROBLEM, ipv6::UNKNOWN_NEXT_HEADER) => hard(Error::ProtocolUnreachable),
        (PARAMETER_PROBLEM, _) => soft(Error::Invalid),
        _ => return None,
    };
    let quoted = message.get(8..)?;
    let original = quoted_packet(quoted)?;
    let rest = original.payload.get(..8)?;
    Some(Report {
        from,
        src: original.src,
        dst: original.dst,
        protocol: original.protocol,
        src_port: u16::from_be_bytes([rest[0], rest[1]]),
        dst_port: u16::from_be_bytes([rest[2], rest[3]]),
        seq: u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]),
        what,
        kind: (head[0], head[1]),
        data_at: 8 + (original.bytes.len() - original.payload.len()),
    })
}

/// The quoted packet, whose length field says more than is there.
fn quoted_packet(quoted: &[u8]) -> Option<Packet<'_>> {
    let declared = usize::from(u16::from_be_bytes([*quoted.get(4)?, *quoted.get(5)?]));
    match ipv6::parse_cut(quoted, declared.min(quoted.len().checked_sub(HEADER)?)) {
        Parsed::Packet(packet) => Some(packet),
        _ => None,
    }
}
