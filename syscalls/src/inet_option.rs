//! Options of internet sockets: socket(7), tcp(7), ip(7), ipv6(7), udp(7).
//!
//! What the engine has goes to the engine. What has no meaning on a path without Linux's queues
//! (SO_PRIORITY, SO_BUSY_POLL, ...) is kept and told back, as Linux does on such a device. All else is
//! ENOPROTOOPT, as for an option that the kernel was built without.

use crate::context::Ctx;
use crate::errno::Linux;
use crate::inet_message::Wants;
use crate::inet_socket::{self, InetSocket, Kind};
use crate::net_interface;
use crate::net_poll;
use crate::socket::SOL_SOCKET;
use crate::{Errno, Result};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use net::{Algorithm, FastOpen, MtuDiscover, RawOption, TcpInfo, TcpOption, TcpState, UdpOption};

/// net.core.somaxconn
pub(crate) const SOMAXCONN: u32 = 4096;

pub(crate) const SOL_IP: i32 = 0;
const SOL_TCP: i32 = 6;
pub(crate) const SOL_UDP: i32 = 17;
pub(crate) const SOL_IPV6: i32 = 41;
const SOL_ICMPV6: i32 = 58;
const SOL_RAW: i32 = 255;

const SO_REUSEADDR: i32 = 2;
const SO_TYPE: i32 = 3;
const SO_ERROR: i32 = 4;
const SO_DONTROUTE: i32 = 5;
const SO_BROADCAST: i32 = 6;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_KEEPALIVE: i32 = 9;
const SO_OOBINLINE: i32 = 10;
const SO_PRIORITY: i32 = 12;
const SO_LINGER: i32 = 13;
const SO_REUSEPORT: i32 = 15;
const SO_RCVLOWAT: i32 = 18;
const SO_SNDLOWAT: i32 = 19;
const SO_BINDTODEVICE: i32 = 25;
const SO_ACCEPTCONN: i32 = 30;
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_MARK: i32 = 36;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;
const SO_BUSY_POLL: i32 = 46;
const SO_INCOMING_CPU: i32 = 49;
const SO_PEEK_OFF: i32 = 42;
const SO_ZEROCOPY: i32 = 60;
const SO_MAX_PACING_RATE: i32 = 47;

const TCP_NODELAY: i32 = 1;
const TCP_MAXSEG: i32 = 2;
const TCP_CORK: i32 = 3;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_SYNCNT: i32 = 7;
const TCP_LINGER2: i32 = 8;
const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_WINDOW_CLAMP: i32 = 10;
const TCP_INFO: i32 = 11;
const TCP_QUICKACK: i32 = 12;
const TCP_CONGESTION: i32 = 13;
const TCP_THIN_LINEAR_TIMEOUTS: i32 = 16;
const TCP_THIN_DUPACK: i32 = 17;
const TCP_USER_TIMEOUT: i32 = 18;
const TCP_FASTOPEN: i32 = 23;
const TCP_TIMESTAMP: i32 = 24;
const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_CC_INFO: i32 = 26;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_HDRINCL: i32 = 3;
const IP_PKTINFO: i32 = 8;
const IP_MTU_DISCOVER: i32 = 10;
const IP_RECVERR: i32 = 11;
const IP_RECVTTL: i32 = 12;
const IP_RECVTOS: i32 = 13;
const IP_MTU: i32 = 14;
const IP_FREEBIND: i32 = 15;
const IP_RECVORIGDSTADDR: i32 = 20;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;

const IPV6_UNICAST_HOPS: i32 = 16;
const IPV6_CHECKSUM: i32 = 7;
const IPV6_MTU_DISCOVER: i32 = 23;
const IPV6_MTU: i32 = 24;
const IPV6_RECVERR: i32 = 25;
const IPV6_V6ONLY: i32 = 26;
const IPV6_RECVPKTINFO: i32 = 49;
const IPV6_RECVHOPLIMIT: i32 = 51;
const IPV6_DONTFRAG: i32 = 62;
const IPV6_RECVTCLASS: i32 = 66;
const IPV6_RECVORIGDSTADDR: i32 = 74;
const IPV6_FREEBIND: i32 = 78;
const IPV6_TCLASS: i32 = 67;

const SO_NO_CHECK: i32 = 11;
const SO_TIMESTAMP: i32 = 29;
const SO_TIMESTAMPNS: i32 = 35;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const ICMP_FILTER: i32 = 1;
const ICMPV6_FILTER: i32 = 1;

/// Hints to queues that are not here: kept and told back, as Linux does on a device without them.
const HINTS: &[(i32, i32)] =
    &[(SOL_SOCKET, SO_PRIORITY), (SOL_SOCKET, SO_BUSY_POLL), (SOL_SOCKET, SO_INCOMING_CPU)];

/// setsockopt(2).
pub(crate) fn set(socket: &InetSocket, ctx: &Ctx, level: i32, name: i32, value: &[u8]) -> Result<()> {
    if HINTS.contains(&(level, name)) {
        return keep(socket, level, name, int(value)?);
    }
    match level {
        SOL_SOCKET => set_socket(socket, ctx, name, value),
        SOL_TCP if socket.kind == Kind::Tcp => set_tcp(socket, name, value),
        SOL_IP => set_ip(socket, name, value),
        SOL_IPV6 if socket.v6 => set_ipv6(socket, name, value),
        SOL_UDP if socket.kind == Kind::Udp => set_udp(socket, name, value),
        SOL_RAW | SOL_ICMPV6 => set_raw(socket, level, name, value),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// getsockopt(2).
pub(crate) fn get(socket: &InetSocket, _ctx: &Ctx, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
    if HINTS.contains(&(level, name)) {
        let kept = socket.kept.lock();
        return number(kept.iter().find(|k| (k.0, k.1) == (level, name)).map_or(0, |k| k.2));
    }
    match level {
        SOL_SOCKET => get_socket(socket, name),
        SOL_TCP if socket.kind == Kind::Tcp => get_tcp(socket, name, room),
        SOL_IP => get_ip(socket, name),
        SOL_IPV6 if socket.v6 => get_ipv6(socket, name),
        SOL_UDP if socket.kind == Kind::Udp && matches!(name, UDP_SEGMENT | UDP_GRO) => {
            number(told(socket, SOL_UDP, name).unwrap_or(0))
        }
        _ => Err(Errno::ENOPROTOOPT),
    }
}

pub(crate) fn keep(socket: &InetSocket, level: i32, name: i32, value: u32) -> Result<()> {
    let mut kept = socket.kept.lock();
    kept.retain(|k| (k.0, k.1) != (level, name));
    kept.push((level, name, value));
    Ok(())
}

/// An `int` option: EINVAL if fewer than four bytes came.
pub(crate) fn int(value: &[u8]) -> Result<u32> {
    let bytes = value.get(..4).ok_or(Errno::EINVAL)?;
    Ok(u32::from_ne_bytes(bytes.try_into().unwrap_or_default()))
}

/// An IP-level option, for which a single byte is enough (ip(7)).
pub(crate) fn int_or_byte(value: &[u8]) -> Result<u32> {
    int(value).or_else(|_| value.first().map(|&b| u32::from(b)).ok_or(Errno::EINVAL))
}

fn number(value: u32) -> Result<Vec<u8>> {
    Ok(value.to_ne_bytes().to_vec())
}

fn tcp(socket: &InetSocket, option: TcpOption) -> Result<()> {
    let (mut stack, id) = socket.stack();
    stack.shard.tcp_set(id, option).linux()?;
    drop(stack);
    if socket.is_listening() {
        for place in socket.places() {
            // One that is being given up needs no options.
            let _ = net_poll::at(place.shard()).shard.tcp_set(place, option);
        }
    }
    Ok(())
}

pub(crate) fn udp(socket: &InetSocket, option: UdpOption) -> Result<()> {
    net_poll::home().shard.udp_set(socket.id(), option).linux()
}

pub(crate) fn raw(socket: &InetSocket, option: RawOption) -> Result<()> {
    net_poll::home().shard.raw_set(socket.id(), option).linux()
}

/// What an option was set to.
pub(crate) fn told(socket: &InetSocket, level: i32, name: i32) -> Option<u32> {
    socket.kept.lock().iter().find(|k| (k.0, k.1) == (level, name)).map(|k| k.2)
}

fn want(socket: &InetSocket, what: Wants, on: bool) -> Result<()> {
    if on {
        socket.wants.fetch_or(what.bits(), Ordering::Relaxed);
    } else {
        socket.wants.fetch_and(!what.bits(), Ordering::Relaxed);
    }
    Ok(())
}

fn wanted(socket: &InetSocket, what: Wants) -> Result<Vec<u8>> {
    number((socket.wants.load(Ordering::Relaxed) & what.bits() != 0).into())
}

/// udp(7).
fn set_udp(socket: &InetSocket, name: i32, value: &[u8]) -> Result<()> {
    let value = int(value)?;
    match name {
        UDP_SEGMENT if value > 65_535 => return Err(Errno::EINVAL),
        UDP_SEGMENT => udp(socket, UdpOption::Segment(value as u16))?,
        UDP_GRO => udp(socket, UdpOption::Gro(value != 0))?,
        _ => return Err(Errno::ENOPROTOOPT),
    }
    keep(socket, SOL_UDP, name, value)
}

/// icmp(7), RFC 3542 section 3.2: filters of raw sockets.
fn set_raw(socket: &InetSocket, level: i32, name: i32, value: &[u8]) -> Result<()> {
    match (level, name, socket.kind, socket.v6) {
        (SOL_RAW, ICMP_FILTER, Kind::Raw(1), false) => raw(socket, RawOption::IcmpFilter(int(value)?)),
        (SOL_ICMPV6, ICMPV6_FILTER, Kind::Raw(58), true) => {
            let mut types = [0; 8];
            for (to, from) in types.iter_mut().zip(value.chunks_exact(4)) {
                *to = int(from)?;
            }
            raw(socket, RawOption::Icmp6Filter(types))
        }
        (_, IPV6_CHECKSUM, Kind::Raw(_), true) => {
            let at = int(value)? as i32;
            raw(socket, RawOption::Checksum(u16::try_from(at).ok()))
        }
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn set_socket(socket: &InetSocket, ctx: &Ctx, name: i32, value: &[u8]) -> Result<()> {
    let is_tcp = socket.kind == Kind::Tcp;
    if name == SO_LINGER {
        let seconds = value.get(4..8).ok_or(Errno::EINVAL).and_then(int)?;
        let linger = (int(value)? != 0).then_some(seconds);
        return if is_tcp { tcp(socket, TcpOption::Linger(linger)) } else { Ok(()) };
    }
    if name == SO_BINDTODEVICE {
        return bind_to_device(value);
    }
    if name == SO_MAX_PACING_RATE {
        return set_pacing_rate(socket, value);
    }
    let value = int(value)?;
    match name {
        SO_ZEROCOPY if is_tcp && value <= 1 => socket.zero_copy.set(value == 1),
        SO_ZEROCOPY if is_tcp => return Err(Errno::EINVAL),
        SO_OOBINLINE if is_tcp => tcp(socket, TcpOption::UrgentInline(value != 0))?,
        SO_OOBINLINE => keep(socket, SOL_SOCKET, name, value)?,
        // Only datagram sockets have it (TCP got it after Linux 6.1).
        SO_PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        SO_REUSEADDR => socket.bind.lock().reuse_addr = value != 0,
        SO_REUSEPORT => socket.bind.lock().reuse_port = value != 0,
        SO_KEEPALIVE if is_tcp => tcp(socket, TcpOption::KeepAlive(value != 0))?,
        SO_DONTROUTE if socket.kind == Kind::Udp => {
            keep(socket, SOL_SOCKET, name, u32::from(value != 0))?;
            udp(socket, UdpOption::DontRoute(value != 0))?;
        }
        SO_NO_CHECK if socket.kind == Kind::Udp => {
            keep(socket, SOL_SOCKET, name, u32::from(value != 0))?;
            udp(socket, UdpOption::NoChecksum(value != 0))?;
        }
        SO_TIMESTAMP if !is_tcp => want(socket, Wants::TIMESTAMP, value != 0)?,
        SO_TIMESTAMPNS if !is_tcp => want(socket, Wants::TIMESTAMPNS, value != 0)?,
        SO_KEEPALIVE => keep(socket, SOL_SOCKET, name, value)?,
        SO_BROADCAST if !is_tcp => {
            keep(socket, SOL_SOCKET, name, u32::from(value != 0))?;
            match socket.kind {
                Kind::Udp => udp(socket, UdpOption::Broadcast(value != 0))?,
                _ => raw(socket, RawOption::Broadcast(value != 0))?,
            }
        }
        SO_BROADCAST => keep(socket, SOL_SOCKET, name, value)?,
        SO_SNDBUF | SO_SNDBUFFORCE => set_buffer(socket, 0, value, 2304)?,
        SO_RCVBUF | SO_RCVBUFFORCE => set_buffer(socket, 1, value, 1152)?,
        SO_RCVLOWAT if is_tcp => {
            // A negative one means the largest (socket(7), sock_setsockopt).
            tcp(socket, TcpOption::ReceiveLowAt(value.min(i32::MAX as u32).max(1)))?;
        }
        SO_MARK if ctx.process.credentials.lock().euid == 0 => keep(socket, SOL_SOCKET, name, value)?,
        SO_MARK => return Err(Errno::EPERM),
        SO_TYPE | SO_ERROR | SO_ACCEPTCONN | SO_PROTOCOL | SO_DOMAIN => return Err(Errno::ENOPROTOOPT),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// socket(7): the kernel doubles what is set, has a smallest size (here before doubling), and a limit
/// (net.core.{r,w}mem_max).
fn set_buffer(socket: &InetSocket, which: usize, value: u32, smallest: u32) -> Result<()> {
    const LIMIT: u32 = 4 << 20;
    let size = (value as i32).max(0) as u32;
    let size = size.min(LIMIT).max(smallest);
    socket.buffers[which].store(size * 2, Ordering::Relaxed);
    let size = size as usize;
    match (socket.kind, which) {
        (Kind::Tcp, 0) => tcp(socket, TcpOption::SendBuffer(size)),
        (Kind::Tcp, _) => tcp(socket, TcpOption::ReceiveBuffer(size)),
        (Kind::Udp, 0) => udp(socket, UdpOption::SendBuffer(size)),
        (Kind::Udp, _) => udp(socket, UdpOption::ReceiveBuffer(size)),
        // What raw sockets send does not wait.
        (_, 0) => Ok(()),
        (_, _) => raw(socket, RawOption::ReceiveBuffer(size)),
    }
}

/// SO_BINDTODEVICE (socket(7)): an empty name unbinds. To be bound to one interface is not there.
fn bind_to_device(value: &[u8]) -> Result<()> {
    let name = value.split(|&byte| byte == 0).next().unwrap_or_default();
    match name {
        [] => Ok(()),
        _ if net_interface::rows().iter().any(|row| row.name.as_bytes() == name) => Err(Errno::ENOPROTOOPT),
        _ => Err(Errno::ENODEV),
    }
}

fn get_socket(socket: &InetSocket, name: i32) -> Result<Vec<u8>> {
    let is_tcp = socket.kind == Kind::Tcp;
    let options = || {
        let (stack, id) = socket.stack();
        stack.shard.tcp_options(id).linux()
    };
    let kept = |name: i32| socket.kept.lock().iter().find(|k| k.1 == name).map_or(0, |k| k.2);
    let bind = *socket.bind.lock();
    number(match name {
        SO_REUSEADDR => bind.reuse_addr.into(),
        SO_REUSEPORT => bind.reuse_port.into(),
        SO_TYPE => match socket.kind {
            Kind::Tcp => 1,
            Kind::Udp | Kind::Ping => 2,
            Kind::Raw(_) => 3,
        },
        SO_PROTOCOL => match socket.kind {
            Kind::Tcp => 6,
            Kind::Udp => 17,
            Kind::Ping => {
                if socket.v6 {
                    58
                } else {
                    1
                }
            }
            Kind::Raw(protocol) => protocol.into(),
        },
        SO_TIMESTAMP if !is_tcp => return wanted(socket, Wants::TIMESTAMP),
        SO_TIMESTAMPNS if !is_tcp => return wanted(socket, Wants::TIMESTAMPNS),
        SO_DOMAIN => inet_socket::domain(socket),
        SO_ZEROCOPY if is_tcp => socket.zero_copy.is_on().into(),
        SO_ACCEPTCONN => socket.is_listening().into(),
        SO_ERROR => socket.take_error().map_or(0, |errno| errno.0 as u32),
        SO_KEEPALIVE if is_tcp => options()?.keep_alive.into(),
        SO_OOBINLINE if is_tcp => options()?.urgent_inline.into(),
        SO_MAX_PACING_RATE if is_tcp => options()?.pacing_rate.min(u32::MAX.into()) as u32,
        SO_OOBINLINE => kept(name),
        SO_LINGER => {
            let linger = if is_tcp { options()?.linger } else { None };
            let words = [u32::from(linger.is_some()), linger.unwrap_or(0)];
            return Ok(words.iter().flat_map(|w| w.to_ne_bytes()).collect());
        }
        // No name: it is bound to none, see `bind_to_device`.
        SO_BINDTODEVICE => return Ok(Vec::new()),
        SO_SNDBUF => buffer_size(socket, 0)?,
        SO_RCVBUF => buffer_size(socket, 1)?,
        SO_RCVLOWAT if is_tcp => options()?.receive_low_at,
        SO_RCVLOWAT | SO_SNDLOWAT => 1,
        SO_DONTROUTE | SO_NO_CHECK if socket.kind == Kind::Udp => kept(name),
        SO_KEEPALIVE | SO_BROADCAST | SO_MARK => kept(name),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

fn buffer_size(socket: &InetSocket, which: usize) -> Result<u32> {
    let set = socket.buffers[which].load(Ordering::Relaxed);
    if set != 0 || socket.kind != Kind::Tcp {
        // net.core.{r,w}mem_default
        return Ok(if set != 0 { set } else { 212_992 });
    }
    let (stack, id) = socket.stack();
    let options = stack.shard.tcp_options(id).linux()?;
    Ok(if which == 0 { options.send_buffer } else { options.receive_buffer } as u32)
}

/// SO_MAX_PACING_RATE: bytes in a second as 32 or 64 bits; all ones for no bound.
fn set_pacing_rate(socket: &InetSocket, value: &[u8]) -> Result<()> {
    let rate = match value.get(..8).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => u64::from_ne_bytes(bytes),
        None => match int(value)? {
            u32::MAX => u64::MAX,
            rate => rate.into(),
        },
    };
    match socket.kind {
        Kind::Tcp => tcp(socket, TcpOption::PacingRate(rate)),
        _ => keep(socket, SOL_SOCKET, SO_MAX_PACING_RATE, rate.min(u32::MAX.into()) as u32),
    }
}

/// TCP_DEFER_ACCEPT is counted in retransmissions of the SYN-ACK: the seconds become 1, 3, 7, 15, ... (tcp(7)).
fn defer_seconds(seconds: u32) -> u32 {
    let (mut sum, mut step) = (0, 1);
    while sum < seconds.min(4_000_000) {
        sum += step;
        step = (step * 2).min(120);
    }
    sum
}

fn set_tcp(socket: &InetSocket, name: i32, value: &[u8]) -> Result<()> {
    if name == TCP_CONGESTION {
        return tcp(socket, TcpOption::Congestion(algorithm(value)?));
    }
    let value = int(value)?;
    let in_range = |range: core::ops::RangeInclusive<u32>| {
        if range.contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
    };
    tcp(
        socket,
        match name {
            TCP_NODELAY => TcpOption::NoDelay(value != 0),
            TCP_CORK => TcpOption::Cork(value != 0),
            TCP_MAXSEG if value == 0 => TcpOption::MaxSegment(0),
            TCP_MAXSEG => TcpOption::MaxSegment(in_range(88..=32767)? as u16),
            // Not below half of the smallest receive buffer, unless the connection is over (tcp_set_window_clamp).
            TCP_WINDOW_CLAMP if value == 0 => TcpOption::WindowClamp(0),
            TCP_WINDOW_CLAMP => TcpOption::WindowClamp(value.max(1152)),
            TCP_KEEPIDLE => TcpOption::KeepIdle(in_range(1..=32767)? * 1000),
            TCP_KEEPINTVL => TcpOption::KeepInterval(in_range(1..=32767)? * 1000),
            TCP_KEEPCNT => TcpOption::KeepCount(in_range(1..=127)? as u8),
            TCP_SYNCNT => TcpOption::SynCount(in_range(1..=127)? as u8),
            // Negative: not at all (FIN-WAIT-2 ends at once).
            TCP_LINGER2 if (value as i32) < 0 => TcpOption::Linger2(0),
            TCP_LINGER2 if value == 0 => TcpOption::Linger2(60_000),
            TCP_LINGER2 => TcpOption::Linger2(value.min(120) * 1000),
            TCP_DEFER_ACCEPT => TcpOption::DeferAccept(defer_seconds(value).min(4_000_000) * 1000),
            TCP_QUICKACK => TcpOption::QuickAck(value != 0),
            TCP_USER_TIMEOUT => TcpOption::UserTimeout(in_range(0..=i32::MAX as u32)?),
            // No more than can wait to be accepted (fastopen_queue_tune).
            TCP_FASTOPEN => TcpOption::FastOpen(in_range(0..=i32::MAX as u32)?.min(SOMAXCONN)),
            TCP_FASTOPEN_CONNECT => return set_connect_early(socket, in_range(0..=1)? != 0),
            TCP_FASTOPEN_NO_COOKIE => {
                in_range(0..=1)?;
                if !socket.is_fresh() {
                    return Err(Errno::EINVAL);
                }
                TcpOption::NoCookie(value != 0)
            }
            TCP_NOTSENT_LOWAT => TcpOption::NotSentLowAt(if value == 0 { u32::MAX } else { value }),
            // For thin streams Linux changes the back-off and nothing else; the tail probe is there already.
            TCP_THIN_LINEAR_TIMEOUTS | TCP_THIN_DUPACK => {
                in_range(0..=1)?;
                return keep(socket, SOL_TCP, name, value);
            }
            _ => return Err(Errno::ENOPROTOOPT),
        },
    )
}

/// TCP_FASTOPEN_CONNECT: only where clients may, and before connect(2).
fn set_connect_early(socket: &InetSocket, on: bool) -> Result<()> {
    if !net_poll::home().shard.fast_open().contains(FastOpen::CLIENT) {
        return Err(Errno::EOPNOTSUPP);
    }
    if !socket.is_fresh() {
        return Err(Errno::EINVAL);
    }
    socket.connect_early.store(on, Ordering::Relaxed);
    Ok(())
}

fn algorithm(value: &[u8]) -> Result<Algorithm> {
    match value.split(|&b| b == 0).next().unwrap_or_default() {
        b"cubic" => Ok(Algorithm::Cubic),
        b"reno" => Ok(Algorithm::NewReno),
        _ => Err(Errno::ENOENT),
    }
}

fn get_tcp(socket: &InetSocket, name: i32, room: usize) -> Result<Vec<u8>> {
    let (stack, id) = socket.stack();
    let options = stack.shard.tcp_options(id).linux()?;
    number(match name {
        TCP_NODELAY => options.no_delay.into(),
        TCP_CORK => options.cork.into(),
        TCP_MAXSEG => match stack.shard.tcp_info(id) {
            Ok(info) if info.send_mss != 0 => info.send_mss.into(),
            _ if options.max_segment != 0 => options.max_segment.into(),
            // RFC 9293 3.7.1: the default before a connection exists.
            _ => 536,
        },
        TCP_KEEPIDLE => options.keep_idle / 1000,
        TCP_KEEPINTVL => options.keep_interval / 1000,
        TCP_KEEPCNT => options.keep_count.into(),
        TCP_SYNCNT => options.syn_count.into(),
        TCP_LINGER2 if options.linger2 == 0 => u32::MAX,
        TCP_LINGER2 => options.linger2 / 1000,
        TCP_WINDOW_CLAMP => options.window_clamp,
        TCP_TIMESTAMP => stack.shard.tcp_timestamp(),
        // CUBIC and Reno tell nothing (tcp_cc_info).
        TCP_CC_INFO => return Ok(Vec::new()),
        TCP_THIN_LINEAR_TIMEOUTS | TCP_THIN_DUPACK => {
            let kept = socket.kept.lock();
            kept.iter().find(|k| (k.0, k.1) == (SOL_TCP, name)).map_or(0, |k| k.2)
        }
        TCP_FASTOPEN => options.fast_open,
        TCP_FASTOPEN_CONNECT => socket.connect_early.load(Ordering::Relaxed).into(),
        TCP_FASTOPEN_NO_COOKIE => options.no_cookie.into(),
        TCP_DEFER_ACCEPT => options.defer_accept / 1000,
        TCP_QUICKACK => options.quick_ack.into(),
        TCP_USER_TIMEOUT => options.user_timeout,
        TCP_NOTSENT_LOWAT => options.not_sent_low_at,
        TCP_CONGESTION => {
            let name: &[u8] = match options.congestion {
                Algorithm::Cubic => b"cubic\0",
                Algorithm::NewReno => b"reno\0",
            };
            let mut padded = vec![0; 16];
            padded[..name.len()].copy_from_slice(name);
            padded.truncate(room.min(16));
            return Ok(padded);
        }
        TCP_INFO => return Ok(tcp_info(&stack.shard.tcp_info(id).linux()?)),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

/// Linux's number for a state (net/tcp_states.h).
pub(crate) fn state_number(state: TcpState) -> u8 {
    match state {
        TcpState::Established => 1,
        TcpState::SynSent => 2,
        TcpState::SynReceived => 3,
        TcpState::FinWait1 => 4,
        TcpState::FinWait2 => 5,
        TcpState::TimeWait => 6,
        TcpState::Closed => 7,
        TcpState::CloseWait => 8,
        TcpState::LastAck => 9,
        TcpState::Listen => 10,
        TcpState::Closing => 11,
    }
}

/// `struct tcp_info` of Linux 6.1 (include/uapi/linux/tcp.h), 232 bytes. Not measured here, and 0: the times for
/// which a limit held the sender back (busy_time, rwnd_limited, sndbuf_limited).
fn tcp_info(info: &TcpInfo) -> Vec<u8> {
    let mut bytes = vec![0u8; 232];
    let mss = u32::from(info.send_mss).max(1);
    let segments = |bytes: u32| bytes.div_ceil(mss);
    let (send_scale, receive_scale) = info.window_scale.unwrap_or((0, 0));
    bytes[0] = state_number(info.state);
    bytes[1] = info.congestion_state as u8;
    bytes[2] = info.retransmits;
    bytes[3] = info.probes;
    bytes[4] = info.retransmits;
    // TCPI_OPT_TIMESTAMPS 1, SACK 2, WSCALE 4, ECN 8, SYN_DATA 32
    bytes[5] = u8::from(info.timestamps)
        | u8::from(info.sack) << 1
        | u8::from(info.window_scale.is_some()) << 2
        | u8::from(info.ecn) << 3
        | u8::from(info.syn_data) << 5;
    // tcpi_delivery_rate_app_limited (not measured) and tcpi_fastopen_client_fail
    bytes[7] = (info.early_failure as u8) << 1;
    bytes[6] = send_scale & 0xf | receive_scale << 4;
    // The threshold's "infinite" is Linux's TCP_INFINITE_SSTHRESH.
    let ssthresh = if info.ssthresh == u32::MAX { 0x7fff_ffff } else { info.ssthresh / mss };
    let words = [
        (8, info.rto_us),
        (12, info.ack_timeout_us),
        (16, u32::from(info.send_mss)),
        (20, u32::from(info.receive_mss)),
        (24, segments(info.in_flight)),
        (28, segments(info.sacked)),
        (32, segments(info.lost + info.repeated)),
        (36, segments(info.repeated)),
        (44, info.last_data_sent_ms),
        (52, info.last_data_received_ms),
        (56, info.last_ack_received_ms),
        (60, u32::from(info.path_mtu)),
        (64, info.receive_window),
        (68, info.rtt_us),
        (72, info.rtt_var_us),
        (76, ssthresh),
        (80, info.cwnd / mss),
        (84, u32::from(info.advertised_mss)),
        // Linux's tcp_reordering: duplicates that mean a loss.
        (88, 3),
        (92, info.receive_rtt_us),
        (96, info.receive_space),
        (100, info.total_retransmits),
        (136, info.segments_out),
        (140, info.segments_in),
        (144, info.not_sent),
        (148, if info.min_rtt_us == 0 { u32::MAX } else { info.min_rtt_us }),
        (152, info.data_segments_in),
        (156, info.data_segments_out),
        (192, info.delivered),
        (196, info.delivered_marked),
        (216, info.duplicate_reports),
        (220, info.reordering_seen),
        (224, info.out_of_order),
        (228, info.send_window),
    ];
    for (at, word) in words {
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    let longs = [
        (104, info.pacing_rate),
        (112, info.max_pacing_rate),
        (120, info.bytes_acked),
        (128, info.bytes_received),
        (160, info.delivery_rate),
        (200, info.bytes_sent),
        (208, info.bytes_retransmitted),
    ];
    for (at, long) in longs {
        bytes[at..at + 8].copy_from_slice(&long.to_ne_bytes());
    }
    bytes
}

/// IP_MTU_DISCOVER and IPV6_MTU_DISCOVER: the same numbers.
fn set_mtu_discover(socket: &InetSocket, value: u32) -> Result<()> {
    let how = match value {
        0 => MtuDiscover::Dont,
        1 => MtuDiscover::Want,
        2 => MtuDiscover::Do,
        3 => MtuDiscover::Probe,
        // INTERFACE and OMIT take no heed of the path; nothing here does.
        4 | 5 => return Err(Errno::ENOPROTOOPT),
        _ => return Err(Errno::EINVAL),
    };
    match socket.kind {
        Kind::Udp => udp(socket, UdpOption::MtuDiscover(how))?,
        // A connection never lets its segments be cut, which is what these two ask for.
        Kind::Tcp if matches!(how, MtuDiscover::Want | MtuDiscover::Do) => {}
        Kind::Ping | Kind::Raw(_) if how == MtuDiscover::Dont => {}
        _ => return Err(Errno::ENOPROTOOPT),
    }
    keep(socket, SOL_IP, IP_MTU_DISCOVER, value)
}

/// IP_MTU: what is known of a connected socket's path.
fn path_mtu(socket: &InetSocket) -> Result<Vec<u8>> {
    let (stack, id) = socket.stack();
    let peer = stack.shard.peer(id).ok_or(Errno::ENOTCONN)?;
    number(stack.shard.path_mtu(peer.addr) as u32)
}

fn set_receive_errors(socket: &InetSocket, on: bool) -> Result<()> {
    match socket.kind {
        Kind::Tcp => Err(Errno::ENOPROTOOPT),
        Kind::Udp => udp(socket, UdpOption::ReceiveErrors(on)),
        _ => raw(socket, RawOption::ReceiveErrors(on)),
    }
}

fn set_ip(socket: &InetSocket, name: i32, value: &[u8]) -> Result<()> {
    if crate::inet_group::is_group_option(SOL_IP, name) {
        return crate::inet_group::set_v4(socket, name, value);
    }
    let value = int_or_byte(value)?;
    let on = value != 0;
    match name {
        IP_TOS => set_traffic_class(socket, value as u8),
        IP_TTL if value as i32 == -1 => set_hop_limit(socket, SOL_IP, IP_TTL, 64),
        IP_TTL if (1..=255).contains(&value) => set_hop_limit(socket, SOL_IP, IP_TTL, value as u8),
        IP_TTL => Err(Errno::EINVAL),
        IP_PKTINFO => want(socket, Wants::PKTINFO, on),
        IP_RECVTTL => want(socket, Wants::TTL, on),
        IP_RECVTOS => want(socket, Wants::TOS, on),
        IP_RECVORIGDSTADDR => want(socket, Wants::ORIGINAL, on),
        IP_MTU_DISCOVER => set_mtu_discover(socket, value),
        IP_FREEBIND => {
            socket.bind.lock().free = on;
            Ok(())
        }
        IP_BIND_ADDRESS_NO_PORT => {
            socket.late_port.store(on, Ordering::Relaxed);
            Ok(())
        }
        IP_RECVERR => {
            set_receive_errors(socket, on)?;
            keep(socket, SOL_IP, name, on.into())
        }
        IP_HDRINCL if matches!(socket.kind, Kind::Raw(_)) && !socket.v6 => {
            raw(socket, RawOption::HeaderIncluded(on))?;
            keep(socket, SOL_IP, name, on.into())
        }
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn set_hop_limit(socket: &InetSocket, level: i32, name: i32, limit: u8) -> Result<()> {
    keep(socket, level, name, limit.into())?;
    match socket.kind {
        Kind::Tcp => tcp(socket, TcpOption::HopLimit(limit)),
        Kind::Udp => udp(socket, UdpOption::HopLimit(limit)),
        _ => raw(socket, RawOption::HopLimit(limit)),
    }
}

fn set_traffic_class(socket: &InetSocket, class: u8) -> Result<()> {
    keep(socket, SOL_IP, IP_TOS, class.into())?;
    match socket.kind {
        Kind::Tcp => tcp(socket, TcpOption::TrafficClass(class)),
        Kind::Udp => udp(socket, UdpOption::TrafficClass(class)),
        _ => raw(socket, RawOption::TrafficClass(class)),
    }
}

fn get_ip(socket: &InetSocket, name: i32) -> Result<Vec<u8>> {
    if let Some(value) = crate::inet_group::get(socket, SOL_IP, name) {
        return number(value);
    }
    let kept = |name: i32| told(socket, SOL_IP, name);
    number(match name {
        IP_TOS => kept(name).unwrap_or(0),
        IP_TTL => kept(name).unwrap_or(64),
        IP_PKTINFO => return wanted(socket, Wants::PKTINFO),
        IP_RECVTTL => return wanted(socket, Wants::TTL),
        IP_RECVTOS => return wanted(socket, Wants::TOS),
        IP_RECVORIGDSTADDR => return wanted(socket, Wants::ORIGINAL),
        IP_MTU_DISCOVER => kept(name).unwrap_or(1),
        IP_MTU => return path_mtu(socket),
        IP_FREEBIND => socket.bind.lock().free.into(),
        IP_BIND_ADDRESS_NO_PORT => socket.late_port.load(Ordering::Relaxed).into(),
        IP_RECVERR if socket.kind != Kind::Tcp => kept(name).unwrap_or(0),
        IP_HDRINCL if matches!(socket.kind, Kind::Raw(_)) => kept(name).unwrap_or(0),
        _ => return Err(Errno::ENOPROTOOPT),
    })
}

fn set_ipv6(socket: &InetSocket, name: i32, value: &[u8]) -> Result<()> {
    if crate::inet_group::is_group_option(SOL_IPV6, name) {
        return crate::inet_group::set_v6(socket, name, value);
    }
    let value = int(value)?;
    let on = value != 0;
    match name {
        IPV6_V6ONLY => {
            let (stack, id) = socket.stack();
            let port = stack.shard.local(id).port;
            drop(stack);
            if port != 0 {
                return Err(Errno::EINVAL);
            }
            socket.v6_only.store(on, Ordering::Relaxed);
            if socket.kind == Kind::Udp { udp(socket, UdpOption::V6Only(on)) } else { Ok(()) }
        }
        IPV6_UNICAST_HOPS if value as i32 == -1 => set_hop_limit(socket, SOL_IPV6, name, 64),
        IPV6_UNICAST_HOPS if value <= 255 => set_hop_limit(socket, SOL_IPV6, name, value as u8),
        IPV6_UNICAST_HOPS => Err(Errno::EINVAL),
        IPV6_TCLASS if value as i32 == -1 => set_traffic_class(socket, 0),
        IPV6_TCLASS if value <= 255 => set_traffic_class(socket, value as u8),
        IPV6_TCLASS => Err(Errno::EINVAL),
        IPV6_RECVPKTINFO => want(socket, Wants::PKTINFO6, on),
        IPV6_RECVHOPLIMIT => want(socket, Wants::HOPLIMIT, on),
        IPV6_RECVTCLASS => want(socket, Wants::TCLASS, on),
        IPV6_RECVORIGDSTADDR => want(socket, Wants::ORIGINAL, on),
        IPV6_MTU_DISCOVER => set_mtu_discover(socket, value),
        IPV6_DONTFRAG if socket.kind == Kind::Udp => {
            // RFC 3542 section 11.2: then the program takes care of sizes itself.
            set_mtu_discover(socket, if on { 2 } else { 1 })?;
            keep(socket, SOL_IPV6, name, on.into())
        }
        IPV6_FREEBIND => {
            socket.bind.lock().free = on;
            Ok(())
        }
        IPV6_RECVERR => {
            set_receive_errors(socket, on)?;
            keep(socket, SOL_IPV6, name, on.into())
        }
        IPV6_CHECKSUM => set_raw(socket, SOL_RAW, name, &value.to_ne_bytes()),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn get_ipv6(socket: &InetSocket, name: i32) -> Result<Vec<u8>> {
    if let Some(value) = crate::inet_group::get(socket, SOL_IPV6, name) {
        return number(value);
    }
    let kept = || told(socket, SOL_IPV6, name);
    match name {
        IPV6_V6ONLY => number(socket.v6_only.load(Ordering::Relaxed).into()),
        IPV6_UNICAST_HOPS => number(kept().unwrap_or(64)),
        IPV6_TCLASS => get_ip(socket, IP_TOS),
        IPV6_RECVPKTINFO => wanted(socket, Wants::PKTINFO6),
        IPV6_RECVHOPLIMIT => wanted(socket, Wants::HOPLIMIT),
        IPV6_RECVTCLASS => wanted(socket, Wants::TCLASS),
        IPV6_RECVORIGDSTADDR => wanted(socket, Wants::ORIGINAL),
        IPV6_MTU_DISCOVER => get_ip(socket, IP_MTU_DISCOVER),
        IPV6_MTU => path_mtu(socket),
        IPV6_DONTFRAG => number(kept().unwrap_or(0)),
        IPV6_FREEBIND => number(socket.bind.lock().free.into()),
        IPV6_RECVERR if socket.kind != Kind::Tcp => number(kept().unwrap_or(0)),
        _ => Err(Errno::ENOPROTOOPT),
    }
}
