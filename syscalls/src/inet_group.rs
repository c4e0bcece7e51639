//! Multicast as programs ask for it: options of ip(7), ipv6(7), and those for either family (RFC 3678).
//!
//! Interfaces are given by address or index; there are two. Left out by name: whole filters at once
//! (IP_MSFILTER, MCAST_MSFILTER) and MCAST_BLOCK_SOURCE's kin for groups of either family.

use crate::errno::Linux;
use crate::inet_option::{SOL_IP, SOL_IPV6, int, int_or_byte, keep, raw, told, udp};
use crate::inet_socket::{InetSocket, Kind};
use crate::net_interface::{self, ETH, LO};
use crate::net_poll::home;
use crate::sockaddr::SockAddr;
use crate::{Errno, Result};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use net::{RawOption, UdpOption};

const IP_MULTICAST_IF: i32 = 32;
const IP_MULTICAST_TTL: i32 = 33;
const IP_MULTICAST_LOOP: i32 = 34;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_DROP_MEMBERSHIP: i32 = 36;
const IP_UNBLOCK_SOURCE: i32 = 37;
const IP_BLOCK_SOURCE: i32 = 38;
const IP_ADD_SOURCE_MEMBERSHIP: i32 = 39;
const IP_DROP_SOURCE_MEMBERSHIP: i32 = 40;
const IP_MULTICAST_ALL: i32 = 49;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_LEAVE_GROUP: i32 = 45;

const IPV6_MULTICAST_IF: i32 = 17;
const IPV6_MULTICAST_HOPS: i32 = 18;
const IPV6_MULTICAST_LOOP: i32 = 19;
const IPV6_JOIN_GROUP: i32 = 20;
const IPV6_LEAVE_GROUP: i32 = 21;
const IPV6_MULTICAST_ALL: i32 = 29;

/// Whether an option is one of these.
pub(crate) fn is_group_option(level: i32, name: i32) -> bool {
    let either = matches!(name, MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP);
    match level {
        SOL_IP => matches!(name, IP_MULTICAST_IF..=IP_DROP_SOURCE_MEMBERSHIP | IP_MULTICAST_ALL) || either,
        SOL_IPV6 => matches!(name, IPV6_MULTICAST_IF..=IPV6_LEAVE_GROUP | IPV6_MULTICAST_ALL) || either,
        _ => false,
    }
}

/// What was set, or the default; `None` for options that are not told.
pub(crate) fn get(socket: &InetSocket, level: i32, name: i32) -> Option<u32> {
    let default = match (level, name) {
        (SOL_IP, IP_MULTICAST_TTL | IP_MULTICAST_LOOP | IP_MULTICAST_ALL) => 1,
        (SOL_IPV6, IPV6_MULTICAST_HOPS | IPV6_MULTICAST_LOOP | IPV6_MULTICAST_ALL) => 1,
        (SOL_IP, IP_MULTICAST_IF) | (SOL_IPV6, IPV6_MULTICAST_IF) => 0,
        _ => return None,
    };
    Some(told(socket, level, name).unwrap_or(default))
}

/// setsockopt(2) at SOL_IP.
pub(crate) fn set_v4(socket: &InetSocket, name: i32, value: &[u8]) -> Result<()> {
    let addr = |at: usize| -> Result<Ipv4Addr> {
        let octets: [u8; 4] = value.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
        Ok(octets.into())
    };
    match name {
        IP_MULTICAST_TTL | IP_MULTICAST_LOOP | IP_MULTICAST_ALL => {
            let value = int_or_byte(value)?;
            set_number(socket, SOL_IP, name, value)
        }
        IP_MULTICAST_IF => {
            // struct in_addr, ip_mreq or ip_mreqn.
            let interface = match value.len() {
                12.. => interface(addr(4)?, int(&value[8..])?)?,
                8.. => interface(addr(4)?, 0)?,
                _ => interface(addr(0)?, 0)?,
            };
            set_interface(socket, interface)?;
            let own = if value.len() >= 8 { addr(4)? } else { addr(0)? };
            keep(socket, SOL_IP, name, u32::from_ne_bytes(own.octets()))
        }
        IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP => {
            let group = IpAddr::V4(addr(0)?);
            let index = if value.len() >= 12 { int(&value[8..])? } else { 0 };
            join_or_leave(socket, group, interface(addr(4)?, index)?, name == IP_ADD_MEMBERSHIP)
        }
        MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP => group_request(socket, name, value, false),
        _ => {
            // struct ip_mreq_source: group, interface, source.
            let (group, lo, source) = (addr(0)?, interface(addr(4)?, 0)? == LO, addr(8)?);
            let (include, add) = match name {
                IP_ADD_SOURCE_MEMBERSHIP => (true, true),
                IP_DROP_SOURCE_MEMBERSHIP => (true, false),
                IP_BLOCK_SOURCE => (false, true),
                IP_UNBLOCK_SOURCE => (false, false),
                _ => return Err(Errno::ENOPROTOOPT),
            };
            if socket.kind != Kind::Udp {
                return Err(Errno::ENOPROTOOPT);
            }
            let (group, source) = (group.into(), source.into());
            udp(socket, UdpOption::Source { group, source, include, add, lo })
        }
    }
}

/// setsockopt(2) at SOL_IPV6.
pub(crate) fn set_v6(socket: &InetSocket, name: i32, value: &[u8]) -> Result<()> {
    match name {
        IPV6_JOIN_GROUP | IPV6_LEAVE_GROUP => {
            let octets: [u8; 16] = value.get(..16).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
            let index = int(value.get(16..).ok_or(Errno::EINVAL)?)?;
            join_or_leave(socket, Ipv6Addr::from(octets).into(), by_index(index)?, name == IPV6_JOIN_GROUP)
        }
        MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP => group_request(socket, name, value, true),
        IPV6_MULTICAST_IF => {
            let index = int(value)?;
            set_interface(socket, by_index(index)?)?;
            keep(socket, SOL_IPV6, name, index)
        }
        _ => set_number(socket, SOL_IPV6, name, int(value)?),
    }
}

fn set_number(socket: &InetSocket, level: i32, name: i32, value: u32) -> Result<()> {
    let value = if value as i32 == -1 { 1 } else { value };
    match (level, name, socket.kind) {
        (SOL_IP, IP_MULTICAST_TTL, _) | (SOL_IPV6, IPV6_MULTICAST_HOPS, _) if value > 255 => {
            return Err(Errno::EINVAL);
        }
        (SOL_IP, IP_MULTICAST_TTL, Kind::Udp) | (SOL_IPV6, IPV6_MULTICAST_HOPS, Kind::Udp) => {
            udp(socket, UdpOption::MulticastHops(value as u8))?;
        }
        (SOL_IP, IP_MULTICAST_TTL, _) | (SOL_IPV6, IPV6_MULTICAST_HOPS, _) => {
            raw(socket, RawOption::MulticastHops(value as u8))?;
        }
        (SOL_IP, IP_MULTICAST_LOOP, Kind::Udp) | (SOL_IPV6, IPV6_MULTICAST_LOOP, Kind::Udp) => {
            udp(socket, UdpOption::MulticastLoop(value != 0))?;
        }
        (SOL_IP, IP_MULTICAST_ALL, Kind::Udp) | (SOL_IPV6, IPV6_MULTICAST_ALL, Kind::Udp) => {
            udp(socket, UdpOption::MulticastAll(value != 0))?;
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    keep(socket, level, name, value)
}

fn set_interface(socket: &InetSocket, interface: u32) -> Result<()> {
    match socket.kind {
        Kind::Udp => udp(socket, UdpOption::MulticastLo(interface == LO)),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// `struct group_req`: index, then an address of either family.
fn group_request(socket: &InetSocket, name: i32, value: &[u8], v6: bool) -> Result<()> {
    let index = int(value)?;
    let address = SockAddr::from_bytes(value.get(8..).ok_or(Errno::EINVAL)?);
    let group = address.endpoint(v6)?.addr;
    join_or_leave(socket, group, by_index(index)?, name == MCAST_JOIN_GROUP)
}

fn join_or_leave(socket: &InetSocket, group: IpAddr, interface: u32, join: bool) -> Result<()> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let lo = interface == LO;
    let mut stack = home();
    let done = match (socket.kind, join) {
        (Kind::Udp, true) => stack.shard.udp_set(socket.id(), UdpOption::Join { group, lo }),
        (Kind::Udp, false) => stack.shard.udp_set(socket.id(), UdpOption::Leave { group }),
        (Kind::Tcp, _) => return Err(Errno::ENOPROTOOPT),
        (_, true) => stack.shard.raw_set(socket.id(), RawOption::Join { group, lo }),
        (_, false) => stack.shard.raw_set(socket.id(), RawOption::Leave { group }),
    };
    done.linux()
}

/// The interface with an address or an index; 0 for either is where groups go by themselves.
fn interface(own: Ipv4Addr, index: u32) -> Result<u32> {
    if index != 0 {
        return by_index(index);
    }
    if own.is_loopback() {
        return Ok(LO);
    }
    let known = own.is_unspecified() || home().shard.addresses().0.iter().any(|(addr, _)| *addr == own);
    if known { by_index(0) } else { Err(Errno::ENODEV) }
}

fn by_index(index: u32) -> Result<u32> {
    match index {
        LO => Ok(LO),
        0 | ETH if net_interface::has_network() => Ok(ETH),
        _ => Err(Errno::ENODEV),
    }
}
