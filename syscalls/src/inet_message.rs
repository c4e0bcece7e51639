//! What travels beside the data of datagrams: control messages (ip(7), ipv6(7), udp(7), RFC 3542) and the
//! error queue (recvmsg(2), MSG_ERRQUEUE).

use crate::errno::of_net;
use crate::inet_option::{SOL_IP, SOL_IPV6, SOL_UDP};
use crate::net_interface::{ETH, LO};
use crate::sockaddr::SockAddr;
use crate::socket::{Control, SOL_SOCKET};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use net::{Datagram, Endpoint, QueuedError, SendOptions};
use platform::time;

bitflags::bitflags! {
    /// What a program wants to be told with each datagram.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Wants: u32 {
        const PKTINFO = 1;
        const TTL = 2;
        const TOS = 4;
        const PKTINFO6 = 8;
        const HOPLIMIT = 16;
        const TCLASS = 32;
        const TIMESTAMP = 64;
        const TIMESTAMPNS = 128;
        const ORIGINAL = 256;
    }
}

const SO_TIMESTAMP: i32 = 29;
const SO_TIMESTAMPNS: i32 = 35;
const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_PKTINFO: i32 = 8;
const IP_RECVERR: i32 = 11;
const IP_ORIGDSTADDR: i32 = 20;
const IPV6_RECVERR: i32 = 25;
const IPV6_PKTINFO: i32 = 50;
const IPV6_HOPLIMIT: i32 = 52;
const IPV6_DONTFRAG: i32 = 62;
const IPV6_TCLASS: i32 = 67;
const IPV6_ORIGDSTADDR: i32 = 74;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

/// What comes with a datagram.
pub(crate) fn about(datagram: &Datagram, wants: Wants, v6: bool) -> Vec<Control> {
    let mut all = Vec::new();
    let mut add = |level, kind, data: &[u8]| all.push(Control { level, kind, data: data.to_vec() });
    if wants.intersects(Wants::TIMESTAMP | Wants::TIMESTAMPNS) {
        let (kind, data) = timestamp(datagram.at_us, wants.contains(Wants::TIMESTAMPNS));
        add(SOL_SOCKET, kind, &data);
    }
    let index = if datagram.loopback { LO } else { ETH };
    let int = |value: u8| u32::from(value).to_ne_bytes();
    if let IpAddr::V4(to) = datagram.to.addr {
        if wants.contains(Wants::PKTINFO) {
            add(SOL_IP, IP_PKTINFO, &[index.to_ne_bytes(), to.octets(), to.octets()].concat());
        }
        if wants.contains(Wants::TTL) {
            add(SOL_IP, IP_TTL, &int(datagram.hop_limit));
        }
        if wants.contains(Wants::TOS) {
            // A byte, not an int (ip_cmsg_recv_tos).
            add(SOL_IP, IP_TOS, &[datagram.traffic_class]);
        }
    }
    if v6 {
        let to = match datagram.to.addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        if wants.contains(Wants::PKTINFO6) {
            add(SOL_IPV6, IPV6_PKTINFO, &[&to.octets()[..], &index.to_ne_bytes()].concat());
        }
        if wants.contains(Wants::HOPLIMIT) {
            add(SOL_IPV6, IPV6_HOPLIMIT, &int(datagram.hop_limit));
        }
        if wants.contains(Wants::TCLASS) {
            add(SOL_IPV6, IPV6_TCLASS, &int(datagram.traffic_class));
        }
    }
    if wants.contains(Wants::ORIGINAL) {
        let (level, kind) = if v6 { (SOL_IPV6, IPV6_ORIGDSTADDR) } else { (SOL_IP, IP_ORIGDSTADDR) };
        add(level, kind, SockAddr::from_endpoint(datagram.to, v6).bytes());
    }
    if datagram.segment != 0 {
        add(SOL_UDP, UDP_GRO, &u32::from(datagram.segment).to_ne_bytes());
    }
    all
}

/// `struct timeval` or `timespec` of the real-time clock when the datagram came.
fn timestamp(at_us: u64, nanoseconds: bool) -> (i32, Vec<u8>) {
    let age = time::now().0.saturating_sub(at_us * 1000);
    let at = realtime_ns().saturating_sub(age);
    let (kind, unit) = if nanoseconds { (SO_TIMESTAMPNS, 1) } else { (SO_TIMESTAMP, 1000) };
    let words = [at / time::SECOND, at % time::SECOND / unit];
    (kind, words.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

/// What a sender asks for by control messages. EINVAL for those that are malformed or unknown.
pub(crate) fn options(controls: &[Control], v6: bool) -> Result<SendOptions> {
    let mut how = SendOptions::default();
    for control in controls {
        let data = &control.data[..];
        let int = || data.get(..4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).ok_or(Errno::EINVAL);
        let byte = |least: u32| {
            int().and_then(|v| if (least..256).contains(&v) { Ok(v as u8) } else { Err(Errno::EINVAL) })
        };
        match (control.level, control.kind) {
            (SOL_IP, IP_PKTINFO) => {
                let octets: [u8; 4] = data.get(4..8).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
                choose(&mut how, int()?, Ipv4Addr::from(octets).into())?;
            }
            (SOL_IP, IP_TTL) => how.hop_limit = Some(byte(1)?),
            (SOL_IP, IP_TOS) if data.len() == 1 => how.traffic_class = Some(data[0]),
            (SOL_IP, IP_TOS) => how.traffic_class = Some(byte(0)?),
            (SOL_IPV6, IPV6_PKTINFO) if v6 => {
                let octets: [u8; 16] = data.get(..16).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
                let index = data.get(16..20).ok_or(Errno::EINVAL)?;
                let index = u32::from_ne_bytes([index[0], index[1], index[2], index[3]]);
                choose(&mut how, index, Ipv6Addr::from(octets).into())?;
            }
            (SOL_IPV6, IPV6_HOPLIMIT) if v6 && int()? == u32::MAX => {}
            (SOL_IPV6, IPV6_HOPLIMIT) if v6 => how.hop_limit = Some(byte(0)?),
            (SOL_IPV6, IPV6_TCLASS) if v6 && int()? == u32::MAX => {}
            (SOL_IPV6, IPV6_TCLASS) if v6 => how.traffic_class = Some(byte(0)?),
            (SOL_IPV6, IPV6_DONTFRAG) if v6 => how.dont_fragment = int()? != 0,
            (SOL_UDP, UDP_SEGMENT) if data.len() >= 2 => how.segment = u16::from_ne_bytes([data[0], data[1]]),
            (SOL_SOCKET, _) => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(how)
}

fn choose(how: &mut SendOptions, index: u32, source: IpAddr) -> Result<()> {
    match index {
        0 => {}
        LO => how.lo = Some(true),
        ETH => how.lo = Some(false),
        _ => return Err(Errno::ENODEV),
    }
    if !source.is_unspecified() {
        how.from = Some(Endpoint::new(source, 0));
    }
    Ok(())
}

/// `struct sock_extended_err`, and behind it the address of who complained.
pub(crate) fn extended_error(queued: &QueuedError, v6: bool) -> Control {
    const LOCAL: u8 = 1;
    const ICMP: u8 = 2;
    const ICMP6: u8 = 3;
    let origin = match (queued.icmp, queued.to.addr.to_canonical()) {
        (None, _) => LOCAL,
        (Some(_), IpAddr::V4(_)) => ICMP,
        (Some(_), IpAddr::V6(_)) => ICMP6,
    };
    let (kind, code) = queued.icmp.unwrap_or_default();
    let mut data = (of_net(queued.error).0 as u32).to_ne_bytes().to_vec();
    data.extend_from_slice(&[origin, kind, code, 0]);
    data.extend_from_slice(&queued.info.to_ne_bytes());
    data.extend_from_slice(&[0; 4]);
    match queued.offender {
        Some(offender) => {
            data.extend_from_slice(SockAddr::from_endpoint(Endpoint::new(offender, 0), v6).bytes())
        }
        None => data.extend_from_slice(&[0; 16]),
    }
    let (level, kind) = if v6 { (SOL_IPV6, IPV6_RECVERR) } else { (SOL_IP, IP_RECVERR) };
    Control { level, kind, data }
}

fn realtime_ns() -> u64 {
    const CLOCK_REALTIME: i32 = 0;
    time::clock_gettime(CLOCK_REALTIME).map_or(0, |at| at.sec as u64 * time::SECOND + at.nsec as u64)
}
