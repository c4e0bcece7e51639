//! What a frame's head says, whether its sender may say so, and who is to have it.
//!
//! Two kinds of network. Behind uplink `host` a guest's only neighbour is the gateway, and frames go by IP
//! address (*routed*). Behind a NIC guests are neighbours on that link, and frames go by Ethernet address
//! (*bridged*); guests that share an address share a MAC too, and are told apart by ports. Both check the
//! sender alike: MAC, address, and the port where the address is shared.
//!
//! Works on a private copy of the head; nothing behind it decides anything.

use crate::board::Reason;
use crate::port_map::{Owned, Reader};
use net::control::Proto;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a frame that are looked at: Ethernet, the longest IPv4 header, ICMP with the head of the packet
/// that it is about (or IPv6 with some extension headers).
pub(crate) const HEAD: usize = 192;
pub(crate) const ETHERNET: usize = 14;
pub(crate) type Mac = [u8; 6];
pub(crate) const BROADCAST: Mac = [0xff; 6];

/// What a frame's head says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Arp { sender_mac: Mac, sender: Ipv4Addr },
    Ip(Ip),
}

/// An IP packet's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) transport: Transport,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    /// TCP or UDP, with source and destination port.
    Ports(Proto, u16, u16),
    /// An ICMP error about a packet from this port of the receiver's.
    About(Proto, u16),
    /// A piece of a datagram without its ports: protocol and identification.
    Fragment(u8, u32),
    /// Everything else: no port decides.
    Plain,
}

impl Head {
    /// Reads the head of a frame; `None` if we do not carry its kind.
    pub(crate) fn parse(head: &[u8]) -> Option<Head> {
        let to = *head.first_chunk()?;
        let from = *head.get(6..)?.first_chunk()?;
        let body = head.get(ETHERNET..)?;
        let what = match head[12..14] {
            [0x08, 0x06] => arp(body)?,
            [0x08, 0x00] => What::Ip(v4(body)?),
            [0x86, 0xdd] => What::Ip(v6(body)?),
            _ => return None,
        };
        Some(Head { to, from, what })
    }

    /// To all or to a group.
    pub(crate) fn is_to_many(&self) -> bool {
        self.to[0] & 1 != 0
    }
}

fn arp(body: &[u8]) -> Option<What> {
    // Ethernet and IPv4 (RFC 826).
    if body.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let sender_mac = *body.get(8..)?.first_chunk()?;
    let sender: [u8; 4] = *body.get(14..)?.first_chunk()?;
    body.get(27)?;
    Some(What::Arp { sender_mac, sender: sender.into() })
}

fn v4(body: &[u8]) -> Option<Ip> {
    let fixed: &[u8; 20] = body.first_chunk()?;
    let header = usize::from(fixed[0] & 15) * 4;
    if fixed[0] >> 4 != 4 || header < 20 {
        return None;
    }
    let address = |at: usize| IpAddr::V4([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]].into());
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
    let transport = if fragment & 0x1fff != 0 {
        Transport::Fragment(fixed[9], u16::from_be_bytes([fixed[4], fixed[5]]).into())
    } else {
        transport(fixed[9], body.get(header..).unwrap_or(&[]), false)?
    };
    Some(Ip { src: address(12), dst: address(16), transport })
}

fn v6(body: &[u8]) -> Option<Ip> {
    let fixed: &[u8; 40] = body.first_chunk()?;
    if fixed[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        Some(IpAddr::V6(Ipv6Addr::from(*fixed.get(at..)?.first_chunk::<16>()?)))
    };
    let (src, dst) = (address(8)?, address(24)?);
    let (mut next, mut at) = (fixed[6], 40);
    // Extension headers (RFC 8200 section 4): hop-by-hop, routing, destination options, fragment.
    for _ in 0..4 {
        match next {
            0 | 43 | 60 => {
                let [following, len] = *body.get(at..)?.first_chunk()?;
                next = following;
                at += (usize::from(len) + 1) * 8;
            }
            44 => {
                let piece: [u8; 8] = *body.get(at..)?.first_chunk()?;
                let ident = u32::from_be_bytes([piece[4], piece[5], piece[6], piece[7]]);
                if u16::from_be_bytes([piece[2], piece[3]]) & 0xfff8 != 0 {
                    return Some(Ip { src, dst, transport: Transport::Fragment(piece[0], ident) });
                }
                next = piece[0];
                at += 8;
            }
            _ => break,
        }
    }
    let transport = transport(next, body.get(at..).unwrap_or(&[]), true)?;
    Some(Ip { src, dst, transport })
}

/// `None`: too short to be what it says.
fn transport(protocol: u8, bytes: &[u8], v6: bool) -> Option<Transport> {
    let ports = |proto| {
        let [a, b, c, d] = *bytes.first_chunk()?;
        Some(Transport::Ports(proto, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    };
    match (protocol, v6) {
        (6, _) => ports(Proto::Tcp),
        (17, _) => ports(Proto::Udp),
        // Destination unreachable, (quench,) time exceeded, parameter problem; packet too big.
        (1, false) if matches!(bytes.first(), Some(3 | 4 | 11 | 12)) => Some(about(bytes.get(8..)?, v4)),
        (58, true) if matches!(bytes.first(), Some(1..=4)) => Some(about(bytes.get(8..)?, self::v6)),
        _ => Some(Transport::Plain),
    }
}

/// The packet inside an ICMP error is one that the receiver had sent.
fn about(inner: &[u8], parse: fn(&[u8]) -> Option<Ip>) -> Transport {
    // One level only: an error about an error is none (RFC 1122 section 3.2.2).
    let protocol_at = if inner.first().is_some_and(|b| b >> 4 == 6) { 6 } else { 9 };
    if !matches!(inner.get(protocol_at), Some(6 | 17)) {
        return Transport::Plain;
    }
    match parse(inner) {
        Some(Ip { transport: Transport::Ports(proto, from, _), .. }) => Transport::About(proto, from),
        _ => Transport::Plain,
    }
}

/// Who a guest is to the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) guest: u32,
    pub(crate) mac: Mac,
}

/// Whether a guest may send this.
pub(crate) fn check_sender(reader: &Reader, who: Identity, head: &Head) -> Result<(), Reason> {
    if head.from != who.mac {
        return Err(Reason::ForeignMac);
    }
    let ip = match &head.what {
        // RFC 5227: a probe has no sender address.
        What::Arp { sender_mac, sender } => {
            let ours = *sender_mac == who.mac && (sender.is_unspecified() || has(reader, who, *sender));
            return if ours { Ok(()) } else { Err(Reason::ForeignAddress) };
        }
        What::Ip(ip) => ip,
    };
    match reader.owner(ip.src) {
        Some(Owned::Whole(owner)) if owner == who.guest => Ok(()),
        Some(Owned::Shared(first, table)) => check_port(reader, who, first, table, ip.transport),
        Some(_) => Err(Reason::ForeignAddress),
        None if may_be_nobodys(ip) => Ok(()),
        None => Err(Reason::ForeignAddress),
    }
}

fn has(reader: &Reader, who: Identity, address: Ipv4Addr) -> bool {
    match reader.owner(address.into()) {
        Some(Owned::Whole(owner)) => owner == who.guest,
        // Who shares an address shares the MAC, which was checked.
        Some(Owned::Shared(..)) => true,
        None => false,
    }
}

/// Of a shared address: the port must be the sender's, or nobody's and the sender be the first guest
/// (which answers for closed ports).
fn check_port(
    reader: &Reader,
    who: Identity,
    first: u32,
    table: u32,
    transport: Transport,
) -> Result<(), Reason> {
    let Transport::Ports(proto, from, _) = transport else { return Ok(()) };
    match reader.port_owner(table, proto, from) {
        0 if who.guest == first => Ok(()),
        owner if owner == who.guest => Ok(()),
        _ => Err(Reason::ForeignPort),
    }
}

/// Source addresses of those who have none yet: DHCP (RFC 2131) and duplicate detection (RFC 4862), and
/// link-local ones, which their owner makes up (RFC 4291 section 2.5.6) and no router forwards.
fn may_be_nobodys(ip: &Ip) -> bool {
    match ip.src {
        IpAddr::V4(v4) => v4.is_unspecified() && matches!(ip.transport, Transport::Ports(Proto::Udp, 68, 67)),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified() && ip.dst.is_multicast(),
    }
}

/// Whether an address stands for all or a group on a network of this IPv4 prefix.
pub(crate) fn is_group(address: IpAddr, network: (Ipv4Addr, u8)) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(network.1.into()).unwrap_or(0);
            let same = (u32::from(v4) ^ u32::from(network.0)) & !host == 0;
            v4.is_multicast() || v4.is_broadcast() || same && host > 1 && u32::from(v4) & host == host
        }
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// The Ethernet address of a group (RFC 1112 section 6.4, RFC 2464 section 7).
pub(crate) fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) => BROADCAST,
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// Where the later pieces of a datagram to a shared address go: as its first piece did. A piece that comes
/// before the first finds nothing and is dropped (the datagram is lost then, as by any reordering firewall).
#[derive(Default)]
pub(crate) struct Pieces {
    entries: RefCell<[Option<(Datagram, u32)>; 16]>,
    next: Cell<usize>,
}

/// Source, destination, identification.
type Datagram = (IpAddr, IpAddr, u32);

impl Pieces {
    pub(crate) fn note(&self, key: Datagram, guest: u32) {
        let next = self.next.get();
        let mut entries = self.entries.borrow_mut();
        entries[next] = Some((key, guest));
        self.next.set((next + 1) % entries.len());
    }

    pub(crate) fn find(&self, key: Datagram) -> Option<u32> {
        self.entries.borrow().iter().flatten().find(|(k, _)| *k == key).map(|(_, guest)| *guest)
    }
}

/// The identification of a datagram that is cut into pieces, if this is one of its pieces.
pub(crate) fn datagram_of(head: &[u8]) -> Option<u32> {
    match head.get(12..14)? {
        [0x08, 0x00] => {
            let flags = u16::from_be_bytes([*head.get(20)?, *head.get(21)?]);
            // More fragments, or an offset.
            (flags & 0x3fff != 0).then(|| u16::from_be_bytes([head[18], head[19]]).into())
        }
        [0x86, 0xdd] if *head.get(20)? == 44 => {
            let word: [u8; 4] = *head.get(ETHERNET + 44..)?.first_chunk()?;
            Some(u32::from_be_bytes(word))
        }
        _ => None,
    }
}

/// The entry for fuzzers: the head of a hostile guest's frame. Nothing may panic.
pub fn fuzz_forward(bytes: &[u8]) {
    let head = &bytes[..bytes.len().min(HEAD)];
    let _ = datagram_of(head);
    if let Some(parsed) = Head::parse(head)
        && let What::Ip(ip) = parsed.what
    {
        let _ = (group_mac(ip.dst), is_group(ip.dst, (Ipv4Addr::new(10, 0, 2, 0), 24)), may_be_nobodys(&ip));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port_map::PortMap;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    /// An IPv4 frame with ports.
    fn frame(from: Mac, src: [u8; 4], dst: [u8; 4], proto: u8, ports: (u16, u16)) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 9];
        bytes.extend_from_slice(&from);
        bytes.extend_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 7, 0, 0, 64, proto, 0, 0]);
        bytes.extend_from_slice(&src);
        bytes.extend_from_slice(&dst);
        bytes.extend_from_slice(&ports.0.to_be_bytes());
        bytes.extend_from_slice(&ports.1.to_be_bytes());
        bytes.resize(60, 0);
        bytes
    }

    #[test]
    fn reads_ports_errors_and_pieces() {
        let tcp = frame(MAC, [10, 0, 2, 15], [10, 0, 2, 16], 6, (1000, 80));
        let Some(Head { what: What::Ip(ip), .. }) = Head::parse(&tcp) else { panic!("an IP packet") };
        assert_eq!(ip.transport, Transport::Ports(Proto::Tcp, 1000, 80));
        // Port unreachable about that packet, sent back to its sender.
        let mut error = frame(MAC, [10, 0, 2, 16], [10, 0, 2, 15], 1, (0x0303, 0));
        error.truncate(42);
        error.extend_from_slice(&tcp[ETHERNET..ETHERNET + 28]);
        let Some(Head { what: What::Ip(ip), .. }) = Head::parse(&error) else { panic!("an IP packet") };
        assert_eq!(ip.transport, Transport::About(Proto::Tcp, 1000));
        let mut piece = tcp.clone();
        piece[21] = 3;
        let Some(Head { what: What::Ip(ip), .. }) = Head::parse(&piece) else { panic!("an IP packet") };
        assert_eq!((ip.transport, datagram_of(&piece)), (Transport::Fragment(6, 7), Some(7)));
        assert_eq!(datagram_of(&tcp), None);
    }

    #[test]
    fn judges_senders() {
        let mut map = PortMap::create().unwrap();
        let ours: IpAddr = "10.0.2.15".parse().unwrap();
        map.own_address(ours, 1);
        map.own_address("10.0.2.16".parse().unwrap(), 3);
        let mut reader = map.reader().unwrap();
        let judge = |reader: &Reader, guest: u32, bytes: &[u8]| {
            check_sender(reader, Identity { guest, mac: MAC }, &Head::parse(bytes).unwrap())
        };
        let out = |src, port| frame(MAC, src, [1, 1, 1, 1], 6, (port, 80));
        reader.refresh();
        assert_eq!(judge(&reader, 1, &out([10, 0, 2, 15], 5)), Ok(()));
        assert_eq!(judge(&reader, 1, &out([10, 0, 2, 16], 5)), Err(Reason::ForeignAddress));
        assert_eq!(judge(&reader, 1, &out([8, 8, 8, 8], 5)), Err(Reason::ForeignAddress));
        let foreign = frame([2, 0, 0, 0, 0, 7], [10, 0, 2, 15], [1, 1, 1, 1], 6, (5, 80));
        assert_eq!(judge(&reader, 1, &foreign), Err(Reason::ForeignMac));
        map.share(ours, [(Proto::Tcp, 80)].into_iter());
        map.claim(ours, Proto::Tcp, 81, 2);
        reader.refresh();
        assert_eq!(judge(&reader, 1, &out([10, 0, 2, 15], 80)), Ok(()));
        assert_eq!(judge(&reader, 2, &out([10, 0, 2, 15], 81)), Ok(()));
        assert_eq!(judge(&reader, 2, &out([10, 0, 2, 15], 80)), Err(Reason::ForeignPort));
        assert_eq!(judge(&reader, 1, &out([10, 0, 2, 15], 81)), Err(Reason::ForeignPort));
        // Nobody's: the first guest refuses connections for all.
        assert_eq!(judge(&reader, 1, &out([10, 0, 2, 15], 82)), Ok(()));
        assert_eq!(judge(&reader, 2, &out([10, 0, 2, 15], 82)), Err(Reason::ForeignPort));
    }

    #[test]
    fn groups_of_a_network() {
        let network = (Ipv4Addr::new(10, 0, 2, 0), 24);
        for group in ["255.255.255.255", "10.0.2.255", "224.0.0.251", "ff02::1"] {
            assert!(is_group(group.parse().unwrap(), network), "{group}");
        }
        for one in ["10.0.2.254", "10.0.3.255", "fd00::1"] {
            assert!(!is_group(one.parse().unwrap(), network), "{one}");
        }
    }

    #[test]
    fn random_heads_harm_nobody() {
        let mut state = 7u64;
        let base = frame(MAC, [10, 0, 2, 15], [10, 0, 2, 16], 1, (0x0303, 80));
        for round in 0..200_000usize {
            let mut bytes = base.clone();
            bytes.resize(round % 200, 0x45);
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = (state >> 25) as u8;
                }
            }
            fuzz_forward(&bytes);
        }
    }
}
