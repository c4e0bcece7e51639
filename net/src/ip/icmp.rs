//! ICMP (RFC 792, RFC 1122 section 3.2.2): answers to echo requests, errors that we send, errors about
//! what we sent.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::checksum;

use super::ipv4;
use super::packet::Packet;
use super::report::{Report, Trouble};
use crate::error::Error;

/// IP protocol number.
pub(crate) const PROTOCOL: u8 = 1;
/// Types.
pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const UNREACHABLE: u8 = 3;
pub(crate) const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
/// Codes of `UNREACHABLE`.
pub(crate) const NETWORK: u8 = 0;
pub(crate) const HOST: u8 = 1;
pub(crate) const PORT: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;

/// The message's checksum is right.
pub(crate) fn verify(message: &[u8]) -> bool {
    message.len() >= 8 && checksum::data(message) == 0xffff
}

/// Turns an echo request into the reply.
pub(crate) fn echo_reply(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[0] = ECHO_REPLY;
    fill_checksum(&mut reply);
    reply
}

/// An error message about `original`, of which as much is quoted as is usual (RFC 1812 section 4.3.2.3).
/// `None` where none may be sent (RFC 1122 section 3.2.2).
pub(crate) fn error_about(original: &Packet<'_>, code: u8) -> Option<Vec<u8>> {
    let about_error = original.protocol == PROTOCOL
        && !matches!(original.payload.first(), Some(&(ECHO_REPLY | ECHO_REQUEST)));
    let IpAddr::V4(dst) = original.dst else { return None };
    let one_host = !original.src.is_unspecified() && !dst.is_broadcast() && !dst.is_multicast();
    if about_error || !one_host || original.fragment.0 != 0 {
        return None;
    }
    let quoted = &original.bytes[..original.bytes.len().min(548)];
    let mut message = alloc::vec![UNREACHABLE, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(quoted);
    fill_checksum(&mut message);
    Some(message)
}

pub(crate) fn fill_checksum(message: &mut [u8]) {
    message[2..4].fill(0);
    let sum = !checksum::data(message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// Reads an error message.
pub(crate) fn read_error(from: IpAddr, message: &[u8]) -> Option<Report> {
    let soft = |error| Trouble::Error { error, hard: false };
    let hard = |error| Trouble::Error { error, hard: true };
    let what = match (*message.first()?, *message.get(1)?) {
        (UNREACHABLE, FRAGMENTATION_NEEDED) => {
            Trouble::TooBig(u16::from_be_bytes([*message.get(6)?, *message.get(7)?]))
        }
        (UNREACHABLE, 2) => hard(Error::ProtocolUnreachable),
        (UNREACHABLE, PORT) => hard(Error::Refused),
        (UNREACHABLE, NETWORK | 6 | 11) => soft(Error::NetworkUnreachable),
        (UNREACHABLE, HOST | 5 | 7 | 8 | 12) => soft(Error::HostUnreachable),
        (UNREACHABLE, 9 | 10 | 13 | 14 | 15) => hard(Error::HostUnreachable),
        (TIME_EXCEEDED, _) => soft(Error::HostUnreachable),
        (PARAMETER_PROBLEM, _) => soft(Error::Invalid),
        _ => return None,
    };
    let quoted = message.get(8..)?;
    let header = usize::from(quoted.first()? & 0xf) * 4;
    if quoted.first()? >> 4 != 4 || header < 20 {
        return None;
    }
    let addr = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(quoted.get(at..at + 4)?).ok()?));
    let rest = quoted.get(header..header + 8)?;
    Some(Report {
        from,
        kind: (message[0], message[1]),
        data_at: 8 + header,
        src: addr(12)?.into(),
        dst: addr(16)?.into(),
        protocol: quoted[9],
        src_port: u16::from_be_bytes([rest[0], rest[1]]),
        dst_port: u16::from_be_bytes([rest[2], rest[3]]),
        seq: u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]),
        what,
    })
}

/// A whole IP packet around a message.
pub(crate) fn packet(src: Ipv4Addr, dst: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut packet = alloc::vec![0; 20 + message.len()];
    ipv4::write_header(
        &mut packet,
        &ipv4::Header {
            src,
            dst,
            protocol: PROTOCOL,
            payload_len: message.len(),
            hop_limit: 64,
            traffic_class: 0,
            ident: 0,
            dont_fragment: false,
        },
    );
    packet[20..].copy_from_slice(message);
    packet
}
