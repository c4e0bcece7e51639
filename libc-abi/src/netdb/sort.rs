//! The order in which addresses of a host should be tried: RFC 6724, destination selection, with
//! glibc's default tables (gai.conf is not read).

use super::hosts::Address;
use super::{AF_INET, AF_INET6};
use crate::kcall;
use alloc::vec::Vec;

/// A destination with what the rules compare.
#[derive(Clone, Debug)]
struct Candidate {
    address: [u8; 16],
    source: Option<[u8; 16]>,
    /// Bits of the source's network (rule 9, IPv6 only).
    index: usize,
}

/// Answers the order of the addresses: indices of the list given.
pub fn order(addresses: &[Address]) -> Vec<usize> {
    let mut candidates: Vec<Candidate> = addresses
        .iter()
        .enumerate()
        .map(|(index, address)| Candidate { address: mapped(*address), source: source(*address), index })
        .collect();
    // Stable: rule 10 leaves the order as it was.
    candidates.sort_by(compare);
    candidates.iter().map(|c| c.index).collect()
}

fn compare(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    // Rule 1: avoid unusable destinations. Two unusable ones stay as they are.
    let (Some(source_a), Some(source_b)) = (a.source, b.source) else {
        return b.source.is_some().cmp(&a.source.is_some());
    };
    let prefer = |x: bool, y: bool| y.cmp(&x);
    let (scope_a, scope_b) = (scope(&a.address), scope(&b.address));
    // Rule 2: prefer matching scope.
    prefer(scope_a == scope(&source_a), scope_b == scope(&source_b))
        // Rule 5: prefer matching label. (3 and 4 need knowledge of the interfaces' addresses.)
        .then_with(|| prefer(label(&a.address) == label(&source_a), label(&b.address) == label(&source_b)))
        // Rule 6: prefer higher precedence.
        .then_with(|| precedence(&b.address).cmp(&precedence(&a.address)))
        // Rule 8: prefer smaller scope.
        .then_with(|| scope_a.cmp(&scope_b))
        // Rule 9: longest matching prefix, for IPv6 both.
        .then_with(|| {
            if is_v4(&a.address) || is_v4(&b.address) {
                return core::cmp::Ordering::Equal;
            }
            common(&b.address, &source_b).cmp(&common(&a.address, &source_a))
        })
}

/// The address as IPv6, IPv4 mapped.
fn mapped(address: Address) -> [u8; 16] {
    match address {
        Address::V6(a) => a,
        Address::V4(a) => {
            let mut mapped = [0; 16];
            mapped[10..12].copy_from_slice(&[0xff, 0xff]);
            mapped[12..].copy_from_slice(&a);
            mapped
        }
    }
}

fn is_v4(a: &[u8; 16]) -> bool {
    a[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}

/// Scopes as numbers of multicast scopes (RFC 4291 2.7): 2 link, 5 site, 14 global.
fn scope(a: &[u8; 16]) -> u8 {
    if is_v4(a) {
        // RFC 6724 section 3.2.
        return if a[12] == 127 || a[12] == 169 && a[13] == 254 { 2 } else { 14 };
    }
    match a {
        [0xff, second, ..] => second & 15,
        [0xfe, second, ..] if second & 0xc0 == 0x80 => 2,
        [0xfe, second, ..] if second & 0xc0 == 0xc0 => 5,
        _ if *a == super::inet::IN6ADDR_LOOPBACK => 2,
        _ => 14,
    }
}

/// glibc's default labels: prefix, bits, label. The first that matches is the longest.
const LABELS: &[([u8; 16], u32, u8)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 128, 0),
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], 96, 4),
    ([0; 16], 96, 3),
    ([0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 32, 7),
    ([0x20, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 16, 2),
    ([0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 10, 5),
    ([0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 7, 6),
    ([0; 16], 0, 1),
];

/// glibc's default precedences.
const PRECEDENCES: &[([u8; 16], u32, u8)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 128, 50),
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], 96, 10),
    ([0; 16], 96, 20),
    ([0x20, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 16, 30),
    ([0; 16], 0, 40),
];

fn label(a: &[u8; 16]) -> u8 {
    look_up(LABELS, a)
}

fn precedence(a: &[u8; 16]) -> u8 {
    look_up(PRECEDENCES, a)
}

fn look_up(table: &[([u8; 16], u32, u8)], a: &[u8; 16]) -> u8 {
    table.iter().find(|(prefix, bits, _)| common(prefix, a) >= *bits).map_or(0, |&(_, _, value)| value)
}

/// Leading bits that two addresses share.
fn common(a: &[u8; 16], b: &[u8; 16]) -> u32 {
    (u128::from_be_bytes(*a) ^ u128::from_be_bytes(*b)).leading_zeros()
}

/// The source address that the system would use, found by connecting a datagram socket; `None` if
/// there is no way to the destination.
fn source(to: Address) -> Option<[u8; 16]> {
    const SOCK_DGRAM_CLOEXEC: usize = 2 | 0o2000000;
    let mut address = [0u8; 28];
    address[..2].copy_from_slice(&(to.family() as u16).to_ne_bytes());
    let len = match to {
        Address::V4(a) => {
            address[4..8].copy_from_slice(&a);
            16usize
        }
        Address::V6(a) => {
            address[8..24].copy_from_slice(&a);
            28
        }
    };
    let mut own = [0u8; 28];
    let mut own_len = own.len() as u32;
    // SAFETY: addresses of ours; the descriptor is closed again.
    unsafe {
        let fd = kcall!(socket, to.family(), SOCK_DGRAM_CLOEXEC, 0).ok()?;
        let got = kcall!(connect, fd, address.as_ptr(), len)
            .and_then(|_| kcall!(getsockname, fd, own.as_mut_ptr(), &raw mut own_len));
        let _ = kcall!(close, fd);
        got.ok()?;
    }
    match u16::from_ne_bytes([own[0], own[1]]) as i32 {
        AF_INET => Some(mapped(Address::V4(own[4..8].try_into().ok()?))),
        AF_INET6 => own[8..24].try_into().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(address: &str, source: Option<&str>, index: usize) -> Candidate {
        let parse = |text: &str| match text.parse::<core::net::IpAddr>().unwrap() {
            core::net::IpAddr::V4(a) => mapped(Address::V4(a.octets())),
            core::net::IpAddr::V6(a) => a.octets(),
        };
        Candidate { address: parse(address), source: source.map(parse), index }
    }

    /// The examples of RFC 6724 section 10.2 that do not need rules 3, 4 and 7.
    #[test]
    fn rfc_6724_examples() {
        let check = |a: (&str, &str), b: (&str, &str)| {
            let mut list = [candidate(b.0, Some(b.1), 1), candidate(a.0, Some(a.1), 0)];
            list.sort_by(compare);
            assert_eq!(list[0].index, 0, "{a:?} before {b:?}");
        };
        check(("2001:db8:1::1", "2001:db8:1::2"), ("198.51.100.121", "169.254.13.78"));
        check(("198.51.100.121", "198.51.100.117"), ("2001:db8:1::1", "fe80::1"));
        check(("2001:db8:1::1", "2001:db8:1::2"), ("10.1.2.3", "10.1.2.4"));
        check(("fe80::1", "fe80::2"), ("2001:db8:1::1", "2001:db8:1::2"));
        check(("2001:db8:1::1", "2001:db8:1::2"), ("2002:c633:6401::1", "2002:c633:6401::2"));
    }

    #[test]
    fn the_unspecified_addresses_come_as_with_glibc() {
        let mut list = [candidate("::", Some("::1"), 6), candidate("0.0.0.0", Some("127.0.0.1"), 4)];
        list.sort_by(compare);
        assert_eq!(list[0].index, 4);
        let mut list = [candidate("127.0.0.1", Some("127.0.0.1"), 4), candidate("::1", Some("::1"), 6)];
        list.sort_by(compare);
        assert_eq!(list[0].index, 6);
        let mut list = [candidate("2001:db8::1", None, 6), candidate("192.0.2.1", Some("192.0.2.2"), 4)];
        list.sort_by(compare);
        assert_eq!(list[0].index, 4);
    }
}
