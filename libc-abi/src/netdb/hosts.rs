//! Host names to addresses and back, from `/etc/hosts` and name servers in nsswitch.conf's order.

use super::conf::{self, Conf, Source};
use super::inet::{parse_v4, parse_v6};
use super::{AF_INET, AF_INET6, AF_UNSPEC, HostError, dns, files, wire};
use crate::types::c_int;
use alloc::vec::Vec;
use platform::Errno;

/// An address of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Address {
    /// IPv4
    V4([u8; 4]),
    /// IPv6
    V6([u8; 16]),
}

impl Address {
    /// `AF_INET` or `AF_INET6`
    pub fn family(&self) -> c_int {
        match self {
            Address::V4(_) => AF_INET,
            Address::V6(_) => AF_INET6,
        }
    }
}

impl AsRef<[u8]> for Address {
    fn as_ref(&self) -> &[u8] {
        match self {
            Address::V4(a) => a,
            Address::V6(a) => a,
        }
    }
}

/// A host that was found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Host {
    /// Canonical name.
    pub name: Vec<u8>,
    /// Other names.
    pub aliases: Vec<Vec<u8>>,
    /// Addresses in the order they were found.
    pub addresses: Vec<Address>,
}

/// Finds a host's addresses of a family (both for AF_UNSPEC).
pub fn by_name(name: &[u8], family: c_int) -> Result<Host, HostError> {
    let mut error = HostError::NotFound;
    for step in conf::host_steps() {
        let found = match step.source {
            Source::Files => in_file(name, family),
            Source::Dns => in_dns(&conf::load(), name, family),
        };
        match found {
            Ok(host) => return Ok(host),
            Err(why) => {
                // What the last source says counts, but a file's silence does not hide a server's.
                if step.source == Source::Dns || error == HostError::NotFound {
                    error = why;
                }
                if step.final_not_found && why == HostError::NotFound {
                    break;
                }
            }
        }
    }
    Err(error)
}

/// Finds the name of an address.
pub fn by_address(address: Address) -> Result<Host, HostError> {
    let mut error = HostError::NotFound;
    for step in conf::host_steps() {
        let found = match step.source {
            Source::Files => address_in_file(address),
            Source::Dns => address_in_dns(&conf::load(), address),
        };
        match found {
            Ok(host) => return Ok(host),
            Err(why) if step.final_not_found && why == HostError::NotFound => return Err(why),
            Err(why) => error = why,
        }
    }
    Err(error)
}

/// A line of `/etc/hosts`.
pub struct HostLine<'a> {
    /// Its address.
    pub address: Address,
    /// Its names, the canonical one first.
    pub names: Vec<&'a [u8]>,
}

/// Reads a line for a family: one of the other family does not count, but for AF_INET an IPv4-mapped
/// address and `::1` stand for their IPv4 forms, as with glibc.
pub fn parse_line(line: &[u8], family: c_int) -> Option<HostLine<'_>> {
    let mut words = files::words(line);
    let text = words.next()?;
    let address = match (parse_v4(text), family) {
        (Some(v4), AF_UNSPEC | AF_INET) => Address::V4(v4),
        (Some(_), _) => return None,
        (None, _) => {
            let v6 = parse_v6(text)?;
            match family {
                AF_INET if v6[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] => {
                    Address::V4([v6[12], v6[13], v6[14], v6[15]])
                }
                AF_INET if v6 == super::inet::IN6ADDR_LOOPBACK => Address::V4([127, 0, 0, 1]),
                AF_INET => return None,
                _ => Address::V6(v6),
            }
        }
    };
    let names: Vec<&[u8]> = words.collect();
    (!names.is_empty()).then_some(HostLine { address, names })
}

/// `/etc/hosts`: for one family the first line with the name; for both, all lines with it.
fn in_file(name: &[u8], family: c_int) -> Result<Host, HostError> {
    let bytes = hosts_file()?;
    find_in(&bytes, name, family).ok_or(HostError::NotFound)
}

/// As [`in_file`], in given bytes.
pub fn find_in(bytes: &[u8], name: &[u8], family: c_int) -> Option<Host> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let mut found: Option<Host> = None;
    for line in files::lines(bytes).filter_map(|line| parse_line(line, family)) {
        if !line.names.iter().any(|n| n.eq_ignore_ascii_case(name)) {
            continue;
        }
        match &mut found {
            None => {
                let mut names = line.names.iter().map(|n| n.to_vec());
                found = Some(Host {
                    name: names.next()?,
                    aliases: names.collect(),
                    addresses: alloc::vec![line.address],
                });
            }
            Some(host) => host.addresses.push(line.address),
        }
        if family != AF_UNSPEC {
            break;
        }
    }
    found
}

fn address_in_file(address: Address) -> Result<Host, HostError> {
    let bytes = hosts_file()?;
    let line = files::lines(&bytes)
        .filter_map(|line| parse_line(line, address.family()))
        .find(|line| line.address == address)
        .ok_or(HostError::NotFound)?;
    let mut names = line.names.iter().map(|n| n.to_vec());
    Ok(Host {
        name: names.next().unwrap_or_default(),
        aliases: names.collect(),
        addresses: alloc::vec![address],
    })
}

fn hosts_file() -> Result<Vec<u8>, HostError> {
    match files::read(c"/etc/hosts") {
        Ok(bytes) => Ok(bytes),
        // Without the file nothing is found in it.
        Err(Errno::ENOENT) => Ok(Vec::new()),
        Err(errno) => {
            crate::errno::set(errno);
            Err(HostError::Internal)
        }
    }
}

fn in_dns(conf: &Conf, name: &[u8], family: c_int) -> Result<Host, HostError> {
    let kinds: &[u16] = match family {
        AF_INET => &[wire::TYPE_A],
        AF_INET6 => &[wire::TYPE_AAAA],
        _ => &[wire::TYPE_A, wire::TYPE_AAAA],
    };
    let replies = dns::search(conf, name, kinds)?;
    let mut host: Option<Host> = None;
    for (&kind, reply) in kinds.iter().zip(&replies) {
        let Some(found) = reply.as_ref().ok().and_then(|message| dns::follow(message, kind)) else {
            continue;
        };
        let addresses = found.data.iter().filter_map(|data| address_of(kind, data));
        let host = host.get_or_insert_with(|| Host {
            name: found.name.clone(),
            aliases: found.aliases.clone(),
            addresses: Vec::new(),
        });
        host.addresses.extend(addresses);
    }
    host.filter(|h| !h.addresses.is_empty()).ok_or(HostError::NoData)
}

fn address_of(kind: u16, data: &[u8]) -> Option<Address> {
    if kind == wire::TYPE_A {
        data.try_into().ok().map(Address::V4)
    } else {
        data.try_into().ok().map(Address::V6)
    }
}

fn address_in_dns(conf: &Conf, address: Address) -> Result<Host, HostError> {
    let mut name = reverse_name(address);
    // Whole names: the search list is not for them.
    name.push(b'.');
    let replies = dns::search(conf, &name, &[wire::TYPE_PTR])?;
    let message = replies.into_iter().next().ok_or(HostError::NotFound)??;
    let found = dns::follow(&message, wire::TYPE_PTR).ok_or(HostError::NoRecovery)?;
    let mut names = found.data.into_iter();
    let name = names.next().ok_or(HostError::NoData)?;
    Ok(Host { name, aliases: names.collect(), addresses: alloc::vec![address] })
}

/// `4.3.2.1.in-addr.arpa`, or nibbles under `ip6.arpa`.
fn reverse_name(address: Address) -> Vec<u8> {
    match address {
        Address::V4([a, b, c, d]) => alloc::format!("{d}.{c}.{b}.{a}.in-addr.arpa").into_bytes(),
        Address::V6(bytes) => {
            let mut name = Vec::new();
            for byte in bytes.iter().rev() {
                name.extend_from_slice(alloc::format!("{:x}.{:x}.", byte & 15, byte >> 4).as_bytes());
            }
            name.extend_from_slice(b"ip6.arpa");
            name
        }
    }
}
