//! Names of guests, answered where frames pass: a query for NAME or NAME.attacca that goes to the
//! network's name server and that a guest of this network bears never leaves the server (RFC 1035, UDP).
//!
//! All other queries go their way, to the host's resolver behind uplink `host` or to a real one behind a
//! NIC; so do queries over TCP. Only questions of one name, class IN, are looked at.

use net::control::Name;
use smoltcp::wire::{EthernetFrame, Ipv4Packet, UdpPacket};
use std::collections::HashMap;
use std::net::IpAddr;

/// Guests by name, in lower case.
pub(crate) type Names = HashMap<String, Vec<IpAddr>>;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// Seconds that an answer holds: guests come and go.
const TTL: u32 = 5;
const ETHERNET: usize = 14;

/// The answering frame, if `frame` (from a guest, its IPv4 header checked) asks for a guest's name.
pub(crate) fn answer_frame(frame: &[u8], names: &Names) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    let answer = answer(udp.payload(), names)?;
    let mut reply = vec![0; ETHERNET + 20 + 8 + answer.len()];
    let mut out = EthernetFrame::new_unchecked(&mut reply[..]);
    out.set_dst_addr(ethernet.src_addr());
    out.set_src_addr(ethernet.dst_addr());
    out.set_ethertype(ethernet.ethertype());
    let mut out = Ipv4Packet::new_unchecked(&mut reply[ETHERNET..]);
    out.set_version(4);
    out.set_header_len(20);
    out.set_total_len((28 + answer.len()) as u16);
    out.set_hop_limit(64);
    out.set_next_header(smoltcp::wire::IpProtocol::Udp);
    out.set_src_addr(ip.dst_addr());
    out.set_dst_addr(ip.src_addr());
    out.fill_checksum();
    let mut out = UdpPacket::new_unchecked(&mut reply[ETHERNET + 20..]);
    out.set_src_port(udp.dst_port());
    out.set_dst_port(udp.src_port());
    out.set_len((8 + answer.len()) as u16);
    out.payload_mut().copy_from_slice(&answer);
    out.fill_checksum(&ip.dst_addr().into(), &ip.src_addr().into());
    Some(reply)
}

/// The answer to a query for a guest's name.
fn answer(query: &[u8], names: &Names) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    let flags = word(2)?;
    // A query (QR 0), of the standard kind (OPCODE 0), with one question.
    if flags & 0xf800 != 0 || word(4)? != 1 {
        return None;
    }
    let (name, end) = read_name(query)?;
    let (kind, class) = (word(end)?, word(end + 2)?);
    let addresses = names.get(name.strip_suffix(".attacca").unwrap_or(&name))?;
    if class != CLASS_IN {
        return None;
    }
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match (kind, address) {
            (TYPE_A, IpAddr::V4(v4)) => Some(v4.octets().to_vec()),
            (TYPE_AAAA, IpAddr::V6(v6)) => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut reply = query[..2].to_vec();
    // Response, authoritative, recursion as desired and available, no error. Without a record of the kind
    // that is the answer "the name is there, this kind is not" (RFC 2308 section 2.2).
    reply.extend_from_slice(&(0x8480 | flags & 0x0100).to_be_bytes());
    for count in [1, records.len() as u16, 0, 0] {
        reply.extend_from_slice(&count.to_be_bytes());
    }
    reply.extend_from_slice(&query[HEADER..end + 4]);
    for record in records {
        // The name: a pointer to the question's (RFC 1035 section 4.1.4).
        reply.extend_from_slice(&[0xc0, HEADER as u8]);
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&CLASS_IN.to_be_bytes());
        reply.extend_from_slice(&TTL.to_be_bytes());
        reply.extend_from_slice(&(record.len() as u16).to_be_bytes());
        reply.extend_from_slice(&record);
    }
    Some(reply)
}

/// The question's name in lower case, and where it ends. Guests' names may hold dots, so labels are joined.
fn read_name(query: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut name) = (HEADER, String::new());
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            return Some((name, at));
        }
        // No pointers in a question, and no more than RFC 1035 allows.
        if len > 63 || name.len() + len > 253 {
            return None;
        }
        let label = query.get(at..at + len)?;
        Name::new(label)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|&b| char::from(b.to_ascii_lowercase())));
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    fn names() -> Names {
        Names::from([("redis-1".into(), vec!["10.0.2.16".parse().unwrap()])])
    }

    #[test]
    fn answers_for_guests_only() {
        for name in ["redis-1", "REDIS-1", "redis-1.attacca"] {
            let reply = answer(&query(name, TYPE_A), &names()).unwrap();
            assert_eq!(&reply[..8], [0x12, 0x34, 0x85, 0x80, 0, 1, 0, 1]);
            assert_eq!(&reply[reply.len() - 6..], [0, 4, 10, 0, 2, 16]);
        }
        let none = answer(&query("redis-1", TYPE_AAAA), &names()).unwrap();
        assert_eq!(&none[6..8], [0, 0]);
        assert_eq!(answer(&query("redis-2", TYPE_A), &names()), None);
        assert_eq!(answer(&query("redis-1.example.org", TYPE_A), &names()), None);
    }

    #[test]
    fn broken_queries_are_not_ours() {
        let good = query("redis-1", TYPE_A);
        for len in 0..good.len() {
            assert_eq!(answer(&good[..len], &names()), None);
        }
        for at in 0..good.len() {
            for value in [0, 0x3f, 0xc0, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = answer(&bytes, &names());
            }
        }
    }
}
