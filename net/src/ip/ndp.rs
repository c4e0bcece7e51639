//! Neighbour discovery messages (RFC 4861 section 4): reading and writing. What they do is in `node.rs` and
//! `neighbor.rs`.

use alloc::vec::Vec;
use core::net::Ipv6Addr;

/// ICMPv6 types.
pub(crate) const ROUTER_SOLICIT: u8 = 133;
pub(crate) const ROUTER_ADVERT: u8 = 134;
pub(crate) const NEIGHBOR_SOLICIT: u8 = 135;
pub(crate) const NEIGHBOR_ADVERT: u8 = 136;
pub(crate) const REDIRECT: u8 = 137;
/// Options.
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
/// RFC 4191.
const ROUTE: u8 = 24;
/// RFC 8106.
const DNS: u8 = 25;
/// Flags of a neighbour advertisement.
pub(crate) const ROUTER: u8 = 0x80;
pub(crate) const SOLICITED: u8 = 0x40;
pub(crate) const OVERRIDE: u8 = 0x20;
/// No router forwards these, so the hop limit proves that the sender is on the link.
pub(crate) const HOP_LIMIT: u8 = 255;

/// A prefix that a router tells (section 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) prefix: Ipv6Addr,
    pub(crate) len: u8,
    pub(crate) on_link: bool,
    pub(crate) autonomous: bool,
    pub(crate) valid_s: u32,
    pub(crate) preferred_s: u32,
}

/// A route that a router tells (RFC 4191 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) prefix: Ipv6Addr,
    pub(crate) len: u8,
    pub(crate) preference: u8,
    pub(crate) lifetime_s: u32,
}

/// The options of a message, those that we know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) source_link: Option<[u8; 6]>,
    pub(crate) target_link: Option<[u8; 6]>,
    pub(crate) mtu: Option<u32>,
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) routes: Vec<Told>,
    pub(crate) dns: Vec<Ipv6Addr>,
}

/// A message.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    RouterSolicit,
    RouterAdvert {
        hop_limit: u8,
        preference: u8,
        lifetime_s: u16,
        reachable_ms: u32,
        retrans_ms: u32,
        options: Options,
    },
    NeighborSolicit {
        target: Ipv6Addr,
        options: Options,
    },
    NeighborAdvert {
        flags: u8,
        target: Ipv6Addr,
        options: Options,
    },
    Redirect {
        target: Ipv6Addr,
        destination: Ipv6Addr,
        options: Options,
    },
}

/// Reads a message whose checksum is right; `None` if it is malformed or none of these. An option of length
/// zero makes it malformed (section 4.6).
pub(crate) fn parse(message: &[u8]) -> Option<Message> {
    if *message.get(1)? != 0 {
        return None;
    }
    let word = |at: usize| Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?));
    Some(match message[0] {
        ROUTER_SOLICIT => options(message.get(8..)?).map(|_| Message::RouterSolicit)?,
        ROUTER_ADVERT => Message::RouterAdvert {
            hop_limit: *message.get(4)?,
            preference: message.get(5)? >> 3 & 3,
            lifetime_s: u16::from_be_bytes([*message.get(6)?, *message.get(7)?]),
            reachable_ms: word(8)?,
            retrans_ms: word(12)?,
            options: options(message.get(16..)?)?,
        },
        NEIGHBOR_SOLICIT => {
            Message::NeighborSolicit { target: addr(message, 8)?, options: options(message.get(24..)?)? }
        }
        NEIGHBOR_ADVERT => Message::NeighborAdvert {
            flags: *message.get(4)?,
            target: addr(message, 8)?,
            options: options(message.get(24..)?)?,
        },
        REDIRECT => Message::Redirect {
            target: addr(message, 8)?,
            destination: addr(message, 24)?,
            options: options(message.get(40..)?)?,
        },
        _ => return None,
    })
}

fn addr(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?))
}

fn options(mut rest: &[u8]) -> Option<Options> {
    let mut found = Options::default();
    while !rest.is_empty() {
        let len = 8 * usize::from(*rest.get(1)?);
        if len == 0 || len > rest.len() {
            return None;
        }
        let (option, next) = rest.split_at(len);
        read_option(option, &mut found);
        rest = next;
    }
    Some(found)
}

fn read_option(option: &[u8], found: &mut Options) {
    let word = |at: usize| option.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let mac = || <[u8; 6]>::try_from(&option[2..8]).ok();
    match (option[0], option.len()) {
        (SOURCE_LINK, 8) => found.source_link = mac(),
        (TARGET_LINK, 8) => found.target_link = mac(),
        (MTU, 8) => found.mtu = Some(word(4)),
        (PREFIX, 32) => found.prefixes.extend(addr(option, 16).map(|prefix| Prefix {
            prefix,
            len: option[2].min(128),
            on_link: option[3] & 0x80 != 0,
            autonomous: option[3] & 0x40 != 0,
            valid_s: word(4),
            preferred_s: word(8),
        })),
        (ROUTE, 8 | 16 | 24) => {
            let mut octets = [0; 16];
            octets[..option.len() - 8].copy_from_slice(&option[8..]);
            found.routes.push(Told {
                prefix: octets.into(),
                len: option[2].min(128),
                preference: option[3] >> 3 & 3,
                lifetime_s: word(4),
            });
        }
        (DNS, len) if len >= 24 && word(4) != 0 => {
            found.dns.extend((8..len - 15).step_by(16).filter_map(|at| addr(option, at)));
        }
        _ => {}
    }
}

/// A question for `target`'s hardware address; `mac` is ours unless we may not tell it yet (section 4.3).
pub(crate) fn solicit(target: Ipv6Addr, mac: Option<[u8; 6]>) -> Vec<u8> {
    let mut message = alloc::vec![NEIGHBOR_SOLICIT, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    link_option(&mut message, SOURCE_LINK, mac);
    message
}

/// The answer (section 4.4).
pub(crate) fn advertise(target: Ipv6Addr, flags: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut message = alloc::vec![NEIGHBOR_ADVERT, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    link_option(&mut message, TARGET_LINK, Some(mac));
    message
}

/// "Which routers are there?" (section 4.1).
pub(crate) fn router_solicit(mac: Option<[u8; 6]>) -> Vec<u8> {
    let mut message = alloc::vec![ROUTER_SOLICIT, 0, 0, 0, 0, 0, 0, 0];
    link_option(&mut message, SOURCE_LINK, mac);
    message
}

fn link_option(message: &mut Vec<u8>, kind: u8, mac: Option<[u8; 6]>) {
    if let Some(mac) = mac {
        message.extend_from_slice(&[kind, 1]);
        message.extend_from_slice(&mac);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let target: Ipv6Addr = "fe80::5".parse().unwrap();
        let Some(Message::NeighborSolicit { target: read, options }) = parse(&solicit(target, Some([2; 6])))
        else {
            panic!()
        };
        assert_eq!((read, options.source_link), (target, Some([2; 6])));
        let Some(Message::NeighborAdvert { flags, options, .. }) = parse(&advertise(target, 0x60, [3; 6]))
        else {
            panic!()
        };
        assert_eq!((flags, options.target_link), (0x60, Some([3; 6])));
    }

    #[test]
    fn options_of_length_zero_or_too_long_are_refused() {
        let mut message = router_solicit(Some([2; 6]));
        message[9] = 0;
        assert!(parse(&message).is_none());
        message[9] = 2;
        assert!(parse(&message).is_none());
    }
}
