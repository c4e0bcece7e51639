//! Which of several shards a flow belongs to, and with it each frame of it.
//!
//! The hash is *symmetric*: both directions of a flow give the same shard, so that a connection over the loopback
//! interface has both its ends in one shard and never needs another one's state. It is keyed, because a peer that
//! could choose the shard could put all its load on one. It is not the flow table's hash: that one's bits are
//! used up by the table.
//!
//! TCP alone is spread. Everything else goes to the *home* shard, number 0, which owns addresses, routes, UDP, raw
//! sockets and all that is asked of us as a host (ARP, ICMP echo, groups, DHCP). What neighbours and routers say, the
//! others hear as well ([`Place::All`]), but they do not answer.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::engine::isn::{Key, Secrets};
use crate::ip::link::ETHERNET;
use crate::ip::{icmp, icmp6, ipv6, ndp};

/// The shard that has everything but the others' connections.
pub const HOME: usize = 0;

/// The rule that spreads flows: the same in all shards of a guest.
#[derive(Clone, Copy)]
pub struct Steering {
    keys: [Key; 2],
    shards: u32,
}

/// Who gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This shard alone.
    Shard(usize),
    /// The home shard, and all others are to know of it.
    All,
    /// The home shard; this one is to know of it, too.
    HomeAnd(usize),
}

impl Steering {
    /// For so many shards, with the secret that they share ([`crate::Config::seed`]).
    pub fn new(seed: &[u8; 32], shards: usize) -> Steering {
        Steering { keys: Secrets::new(seed).steering, shards: shards.clamp(1, 256) as u32 }
    }

    /// How many shards there are.
    #[inline]
    pub fn shards(&self) -> usize {
        self.shards as usize
    }

    /// The shard of a TCP flow between two endpoints, in either order.
    pub fn flow(&self, a: (IpAddr, u16), b: (IpAddr, u16)) -> usize {
        if self.shards == 1 {
            return HOME;
        }
        self.choose(self.end(bits(a.0), a.1), self.end(bits(b.0), b.1))
    }

    /// A keyed hash of one end: products of two words under a secret each (as in `engine/demux.rs`).
    #[inline]
    fn end(&self, addr: u128, port: u16) -> u64 {
        let [[a, b], [c, d]] = [self.keys[0].words(), self.keys[1].words()];
        let fold = |x: u64, y: u64| {
            let product = u128::from(x) * u128::from(y);
            (product >> 64) as u64 ^ product as u64
        };
        let address = fold(((addr >> 64) as u64).wrapping_add(a), (addr as u64).wrapping_add(b));
        fold(address.wrapping_add(c), u64::from(port).wrapping_add(d))
    }

    #[inline]
    fn choose(&self, a: u64, b: u64) -> usize {
        let sum = a.wrapping_add(b);
        let mixed = (sum ^ (sum >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (((mixed >> 32) * u64::from(self.shards)) >> 32) as usize
    }

    /// Who gets a frame. It is believed to be what it seems: a shard that gets what is not its own passes it on
    /// ([`crate::Stray`]).
    pub fn frame(&self, frame: &[u8]) -> Place {
        if self.shards == 1 {
            return Place::Shard(HOME);
        }
        let kind = frame.get(12..14).map(|kind| u16::from_be_bytes([kind[0], kind[1]]));
        let packet = frame.get(ETHERNET..).unwrap_or_default();
        match kind {
            Some(0x0800) => self.packet_v4(packet),
            Some(0x86dd) => self.packet_v6(packet),
            Some(0x0806) => Place::All,
            _ => Place::Shard(HOME),
        }
    }

    #[inline]
    fn packet_v4(&self, packet: &[u8]) -> Place {
        let Some(head) = packet.first_chunk::<20>() else { return Place::Shard(HOME) };
        let body = packet.get(usize::from(head[0] & 0xf) * 4..).unwrap_or_default();
        // A fragment does not tell its ports: the home shard puts it together, and passes it on if it is TCP.
        if u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0 {
            return Place::Shard(HOME);
        }
        match head[9] {
            6 => self.segment(v4(head, 12), v4(head, 16), body).map_or(Place::Shard(HOME), Place::Shard),
            icmp::PROTOCOL if matches!(body.first(), Some(3 | 4 | 5 | 11 | 12)) => {
                let quoted = body.get(8..).and_then(|quoted| match quoted.first_chunk::<20>() {
                    Some(head) if head[9] == 6 => {
                        let ports = quoted.get(usize::from(head[0] & 0xf) * 4..)?;
                        self.segment(v4(head, 12), v4(head, 16), ports)
                    }
                    _ => None,
                });
                known_too(quoted)
            }
            _ => Place::Shard(HOME),
        }
    }

    fn packet_v6(&self, packet: &[u8]) -> Place {
        let Some(head) = packet.first_chunk::<{ ipv6::HEADER }>() else { return Place::Shard(HOME) };
        let body = &packet[ipv6::HEADER..];
        match (head[6], body.first()) {
            (6, _) => self.segment(v6(head, 8), v6(head, 24), body).map_or(Place::Shard(HOME), Place::Shard),
            (icmp6::PROTOCOL, Some(&(ndp::ROUTER_SOLICIT..=ndp::REDIRECT))) => Place::All,
            (icmp6::PROTOCOL, Some(1..=4)) => {
                let quoted =
                    body.get(8..).and_then(|quoted| match quoted.first_chunk::<{ ipv6::HEADER }>() {
                        Some(head) if head[6] == 6 => {
                            self.segment(v6(head, 8), v6(head, 24), &quoted[ipv6::HEADER..])
                        }
                        _ => None,
                    });
                known_too(quoted)
            }
            _ => Place::Shard(HOME),
        }
    }

    #[inline]
    fn segment(&self, src: u128, dst: u128, body: &[u8]) -> Option<usize> {
        let ports = body.first_chunk::<4>()?;
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        Some(self.choose(self.end(src, port(0)), self.end(dst, port(2))))
    }
}

fn known_too(shard: Option<usize>) -> Place {
    match shard {
        Some(shard) if shard != HOME => Place::HomeAnd(shard),
        _ => Place::Shard(HOME),
    }
}

/// IPv4 as a number of its own, IPv6 as it is: no IPv6 address on a wire is below 2^32.
fn bits(addr: IpAddr) -> u128 {
    match addr.to_canonical() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[inline]
fn v4(head: &[u8; 20], at: usize) -> u128 {
    bits(Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]).into())
}

#[inline]
fn v6(head: &[u8; ipv6::HEADER], at: usize) -> u128 {
    let mut octets = [0; 16];
    octets.copy_from_slice(&head[at..at + 16]);
    bits(Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_meet_and_ports_spread() {
        let steering = Steering::new(&[7; 32], 4);
        let server: IpAddr = "10.0.0.1".parse().unwrap();
        let mut counts = [0; 4];
        for port in 1024..9216 {
            let client = ("10.0.0.2".parse().unwrap(), port);
            let shard = steering.flow((server, 80), client);
            assert_eq!(shard, steering.flow(client, (server, 80)));
            counts[shard] += 1;
        }
        assert!(counts.iter().all(|count| (1800..2300).contains(count)), "{counts:?}");
    }

    #[test]
    fn another_secret_spreads_otherwise() {
        let (a, b) = (Steering::new(&[1; 32], 2), Steering::new(&[2; 32], 2));
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let flows = (0..1000u16).map(|port| ((v6, port), (v6, 443)));
        let same = flows.filter(|&(x, y)| a.flow(x, y) == b.flow(x, y)).count();
        assert!((400..600).contains(&same), "{same}");
    }

    #[test]
    fn frames_go_where_their_flows_go() {
        let steering = Steering::new(&[3; 32], 3);
        let (src, dst) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut frame = alloc::vec![0; 14 + 40];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[14 + 9] = 6;
        frame[26..30].copy_from_slice(&src);
        frame[30..34].copy_from_slice(&dst);
        frame[34..38].copy_from_slice(&[0x30, 0x39, 0, 80]);
        let shard = steering.flow((src.into(), 0x3039), (dst.into(), 80));
        assert_eq!(steering.frame(&frame), Place::Shard(shard));
        // Its error: quoted from the other side.
        let mut error = alloc::vec![0; 14 + 28];
        error[12..14].copy_from_slice(&[8, 0]);
        error[14] = 0x45;
        error[14 + 9] = 1;
        error[34] = 3;
        error.extend_from_slice(&frame[14..]);
        let expected = if shard == HOME { Place::Shard(HOME) } else { Place::HomeAnd(shard) };
        assert_eq!(steering.frame(&error), expected);
        frame[20] = 0x20;
        assert_eq!(steering.frame(&frame), Place::Shard(HOME), "a fragment");
        frame[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(steering.frame(&frame), Place::All);
        for len in 0..frame.len() {
            let _ = steering.frame(&frame[..len]);
            let _ = steering.frame(&error[..len]);
        }
    }
}
