//! AF_INET and AF_INET6 sockets: TCP and UDP over the engine.
//!
//! An IPv6 socket carries IPv4 as mapped addresses (RFC 4291 2.5.5.2) unless IPV6_V6ONLY is set. The
//! engine has no IPv6 of its own yet: such a guest is a host without IPv6 addresses. Listening on
//! `::` works (nobody comes that way), a connection to an IPv6 address has no route (ENETUNREACH).
//!
//! Left out by name: raw sockets, SIGURG, error queues (MSG_ERRQUEUE gives EAGAIN).

use crate::context::Ctx;
use crate::errno::{Linux, of_net};
use crate::file::{File, OpenFile, Sink, Source, Stat};
use crate::hub::{Events, Hub};
use crate::net_poll::{self, access};
use crate::sockaddr::{AF_INET, AF_INET6, AF_UNSPEC, SockAddr};
use crate::socket::{
    Control, How, Incoming, MSG_ERRQUEUE, MSG_MORE, MSG_OOB, MSG_PEEK, MSG_TRUNC, Outgoing, SOCK_DGRAM,
    SOCK_STREAM, Socket, Timeouts,
};
use crate::user;
use crate::{Errno, Result, inet_option};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use net::{Bind, Endpoint, Shutdown, SocketId, TcpFlags};
use platform::sync::Lock;
use platform::time;

const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
/// `SOL_IP`
pub(crate) const SOL_IP: i32 = 0;
/// `IP_PKTINFO`
pub(crate) const IP_PKTINFO: i32 = 8;

/// What a socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

/// How far a TCP socket's connection is, for the errors that Linux gives.
const IDLE: u8 = 0;
const CONNECTING: u8 = 1;
const CONNECTED: u8 = 2;
const LISTENING: u8 = 3;

/// An internet socket.
pub(crate) struct InetSocket {
    pub(crate) id: SocketId,
    cookie: u64,
    pub(crate) kind: Kind,
    pub(crate) v6: bool,
    pub(crate) v6_only: AtomicBool,
    /// An IPv6-only address was bound: the engine does not know of it.
    v6_bound: Lock<Option<Endpoint>>,
    phase: AtomicU8,
    /// How the socket claims its address (SO_REUSEADDR, SO_REUSEPORT, IP_TRANSPARENT).
    pub(crate) bind: Lock<Bind>,
    hub: Arc<Hub>,
    timeouts: Timeouts,
    /// IP_PKTINFO asked for.
    pub(crate) packet_info: AtomicBool,
    /// Options that are kept and told, but change nothing here.
    pub(crate) kept: Lock<Vec<(i32, i32, u32)>>,
    pub(crate) buffers: [AtomicU32; 2],
}

/// socket(2) of AF_INET (`v6` false) or AF_INET6.
pub(crate) fn open(_ctx: &Ctx, v6: bool, kind: i32, protocol: i32) -> Result<Box<dyn File>> {
    let kind = match (kind, protocol) {
        (SOCK_STREAM, 0 | IPPROTO_TCP) => Kind::Tcp,
        (SOCK_DGRAM, 0 | IPPROTO_UDP) => Kind::Udp,
        (SOCK_STREAM | SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    let mut stack = access();
    let id = match kind {
        Kind::Tcp => stack.shard.tcp_open().linux()?,
        Kind::Udp => stack.shard.udp_open().linux()?,
    };
    let hub = Arc::new(Hub::new());
    let cookie = stack.register(id, hub.clone());
    Ok(Box::new(InetSocket::new(id, cookie, kind, v6, hub, IDLE)))
}

impl InetSocket {
    fn new(id: SocketId, cookie: u64, kind: Kind, v6: bool, hub: Arc<Hub>, phase: u8) -> InetSocket {
        InetSocket {
            id,
            cookie,
            kind,
            v6,
            v6_only: AtomicBool::new(false),
            v6_bound: Lock::new(None),
            phase: AtomicU8::new(phase),
            bind: Lock::new(Bind::default()),
            hub,
            timeouts: Timeouts::default(),
            packet_info: AtomicBool::new(false),
            kept: Lock::new(Vec::new()),
            buffers: Default::default(),
        }
    }

    /// SO_ERROR. A connection attempt that ended in one may be made again.
    pub(crate) fn take_error(&self) -> Option<Errno> {
        let error = access().shard.take_error(self.id)?;
        let _ = self.phase.compare_exchange(CONNECTING, IDLE, Ordering::Relaxed, Ordering::Relaxed);
        Some(of_net(error))
    }

    /// Whether listen(2) was called.
    pub(crate) fn is_listening(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == LISTENING
    }

    /// Where the program wants to send: an address that the engine can carry.
    fn reachable(&self, to: &SockAddr) -> Result<Endpoint> {
        let to = to.endpoint(self.v6)?;
        match to.addr {
            // As Linux: "any" as a destination is this host.
            IpAddr::V4(v4) if v4.is_unspecified() => Ok(Endpoint::new(Ipv4Addr::LOCALHOST, to.port)),
            IpAddr::V4(_) => Ok(to),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(_) if self.v6_only.load(Ordering::Relaxed) => Err(Errno::ENETUNREACH),
                Some(v4) => Ok(Endpoint::new(v4, to.port)),
                None => Err(Errno::ENETUNREACH),
            },
        }
    }

    fn to_sockaddr(&self, endpoint: Endpoint) -> SockAddr {
        SockAddr::from_endpoint(endpoint, self.v6)
    }

    fn tcp_send(&self, from: &mut dyn Source, flags: u32) -> Result {
        let mut fault = None;
        let oob = flags & MSG_OOB != 0;
        let mut flags = if flags & MSG_MORE != 0 { TcpFlags::MORE } else { TcpFlags::empty() };
        flags.set(TcpFlags::URGENT, oob);
        let wanted = from.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let mut stack = access();
        let sent = stack.shard.tcp_send_with(self.id, wanted, flags, &mut |piece| {
            from.take(piece).unwrap_or_else(|errno| {
                fault = Some(errno);
                0
            })
        });
        match (sent, fault) {
            (Ok(0), Some(errno)) => Err(errno),
            (Ok(0), None) => Err(Errno::EAGAIN),
            (sent, _) => sent.linux(),
        }
    }

    fn tcp_receive(&self, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        if message.flags & MSG_OOB != 0 {
            return self.urgent_receive(into, message);
        }
        let wanted = into.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let flags = if message.flags & MSG_PEEK != 0 { TcpFlags::PEEK } else { TcpFlags::empty() };
        let discard = message.flags & MSG_TRUNC != 0;
        let mut fault = None;
        let mut stack = access();
        let received = stack.shard.tcp_recv_with(self.id, wanted, flags, &mut |piece| {
            if discard {
                // tcp(7): MSG_TRUNC throws the bytes away instead of giving them.
                into.advance(piece.len());
                return piece.len();
            }
            into.put(piece).unwrap_or_else(|errno| {
                fault = Some(errno);
                0
            })
        });
        match (received, fault) {
            (Ok(0), Some(errno)) => Err(errno),
            (received, _) => received.linux(),
        }
    }

    /// recv with MSG_OOB: the urgent byte by itself (tcp_recv_urg of Linux).
    fn urgent_receive(&self, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        let peek = message.flags & MSG_PEEK != 0;
        let Some(byte) = access().shard.tcp_recv_urgent(self.id, peek).linux()? else { return Ok(0) };
        message.result_flags |= MSG_OOB;
        if into.remaining() == 0 {
            message.result_flags |= MSG_TRUNC;
            return Ok(0);
        }
        into.put(&[byte])
    }

    fn udp_send(&self, from: &mut dyn Source, message: &Outgoing) -> Result {
        let to = message.to.as_ref().map(|to| self.reachable(to)).transpose()?;
        let source = message.control.iter().find_map(packet_info_source);
        let len = from.remaining();
        if len > 65507 {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(len, 0);
        from.take(&mut bytes)?;
        let mut stack = access();
        let source = source.map(|addr| Endpoint { addr, port: stack.shard.local(self.id).port });
        stack.shard.udp_send(self.id, &[&bytes], to, source).linux()
    }

    fn udp_receive(&self, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        let peek = message.flags & MSG_PEEK != 0;
        let mut stack = access();
        let room = into.remaining();
        let taken = stack.shard.udp_recv_with(self.id, peek, |bytes, datagram| {
            (into.put(&bytes[..bytes.len().min(room)]), datagram)
        });
        let (copied, datagram) = taken.linux()?;
        let copied = copied?;
        drop(stack);
        message.from = Some(self.to_sockaddr(datagram.from));
        if self.packet_info.load(Ordering::Relaxed) {
            message.control.extend(packet_info(datagram.to.addr));
        }
        if datagram.len > copied {
            message.result_flags |= MSG_TRUNC;
            if message.flags & MSG_TRUNC != 0 {
                return Ok(datagram.len);
            }
        }
        Ok(copied)
    }
}

/// `struct in_pktinfo`: interface, local address of the packet, its destination (ip(7)).
fn packet_info(to: IpAddr) -> Option<Control> {
    let IpAddr::V4(to) = to else { return None };
    let index: u32 = if to.is_loopback() { 1 } else { 2 };
    let data = [index.to_ne_bytes(), to.octets(), to.octets()].concat();
    Some(Control { level: SOL_IP, kind: IP_PKTINFO, data })
}

/// The source address that a sender asks for by IP_PKTINFO.
fn packet_info_source(control: &Control) -> Option<IpAddr> {
    if (control.level, control.kind) != (SOL_IP, IP_PKTINFO) {
        return None;
    }
    let octets: [u8; 4] = control.data.get(4..8)?.try_into().ok()?;
    let source = Ipv4Addr::from(octets);
    (!source.is_unspecified()).then_some(source.into())
}

impl Socket for InetSocket {
    fn bind(&self, _ctx: &Ctx, to: &SockAddr) -> Result<()> {
        let local = match (to.family(), self.v6) {
            // ip(7): an all-zero AF_UNSPEC address binds to any, for old programs.
            (AF_UNSPEC, false) if to.bytes().len() >= 16 && to.bytes()[4..8] == [0; 4] => {
                Endpoint::new(Ipv4Addr::UNSPECIFIED, u16::from_be_bytes([to.bytes()[2], to.bytes()[3]]))
            }
            _ => to.endpoint(self.v6)?,
        };
        // Ports below 1024 need no privilege: they are the guest's own (as in a container, where
        // net.ipv4.ip_unprivileged_port_start is 0); what the host publishes, the host decides.
        if let IpAddr::V6(address) = local.addr {
            let only = self.v6_only.load(Ordering::Relaxed);
            if address.is_unspecified() && only {
                let mut bound = self.v6_bound.lock();
                if bound.is_some() {
                    return Err(Errno::EINVAL);
                }
                *bound = Some(local);
                return Ok(());
            }
            if address.to_ipv4_mapped().is_none() && !address.is_unspecified() {
                return Err(Errno::EADDRNOTAVAIL);
            }
        }
        let bind = *self.bind.lock();
        let mut stack = access();
        match self.kind {
            Kind::Tcp => stack.shard.tcp_bind(self.id, local, bind).linux()?,
            Kind::Udp => stack.shard.udp_bind(self.id, local, bind).linux()?,
        }
        Ok(())
    }

    fn listen(&self, _ctx: &Ctx, backlog: i32) -> Result<()> {
        if self.kind != Kind::Tcp {
            return Err(Errno::EOPNOTSUPP);
        }
        if matches!(self.phase.load(Ordering::Relaxed), CONNECTING | CONNECTED) {
            return Err(Errno::EINVAL);
        }
        if self.v6_bound.lock().is_none() {
            // As Linux: a negative backlog counts as the largest (net.core.somaxconn).
            let backlog = (backlog as u32).min(inet_option::SOMAXCONN) as usize;
            access().shard.tcp_listen(self.id, backlog).linux()?;
        }
        self.phase.store(LISTENING, Ordering::Relaxed);
        Ok(())
    }

    fn accept(&self, _ctx: &Ctx) -> Result<(Box<dyn File>, SockAddr)> {
        if self.kind != Kind::Tcp {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.is_listening() {
            return Err(Errno::EINVAL);
        }
        if self.v6_bound.lock().is_some() {
            return Err(Errno::EAGAIN);
        }
        let mut stack = access();
        let (id, peer) = stack.shard.tcp_accept(self.id).linux()?;
        let hub = Arc::new(Hub::new());
        let cookie = stack.register(id, hub.clone());
        drop(stack);
        let socket = InetSocket::new(id, cookie, Kind::Tcp, self.v6, hub, CONNECTED);
        Ok((Box::new(socket), self.to_sockaddr(peer)))
    }

    fn connect(&self, _ctx: &Ctx, to: &SockAddr) -> Result<()> {
        if to.bytes().len() < 2 {
            return Err(Errno::EINVAL);
        }
        if self.kind == Kind::Udp {
            let peer = if to.family() == AF_UNSPEC { None } else { Some(self.reachable(to)?) };
            return access().shard.udp_connect(self.id, peer).linux();
        }
        if to.family() == AF_UNSPEC {
            access().shard.tcp_abort(self.id);
            return Ok(());
        }
        match self.phase.load(Ordering::Relaxed) {
            LISTENING => return Err(Errno::EISCONN),
            CONNECTED => return Err(Errno::EISCONN),
            CONNECTING => {
                return match self.connected() {
                    Err(Errno::EAGAIN) => Err(Errno::EALREADY),
                    done => done,
                };
            }
            _ => {}
        }
        let to = self.reachable(to)?;
        match access().shard.tcp_connect(self.id, to, time::now()) {
            Ok(()) => {
                self.phase.store(CONNECTED, Ordering::Relaxed);
                Ok(())
            }
            Err(net::Error::InProgress) => {
                self.phase.store(CONNECTING, Ordering::Relaxed);
                Err(Errno::EINPROGRESS)
            }
            Err(error) => Err(of_net(error)),
        }
    }

    fn connected(&self) -> Result<()> {
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        let stack = access();
        if stack.shard.peer(self.id).is_some()
            && stack.shard.ready(self.id).intersects(net::Ready::WRITABLE | net::Ready::HANGUP)
        {
            self.phase.store(CONNECTED, Ordering::Relaxed);
            return Ok(());
        }
        Err(Errno::EAGAIN)
    }

    fn send(&self, _ctx: &Ctx, from: &mut dyn Source, message: &mut Outgoing) -> Result {
        if message.flags & MSG_OOB != 0 && self.kind != Kind::Tcp {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.kind {
            Kind::Tcp => self.tcp_send(from, message.flags),
            Kind::Udp => self.udp_send(from, message),
        }
    }

    fn receive(&self, _ctx: &Ctx, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        if message.flags & MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        match self.kind {
            Kind::Tcp => self.tcp_receive(into, message),
            Kind::Udp => self.udp_receive(into, message),
        }
    }

    fn shutdown(&self, how: How) -> Result<()> {
        let mut stack = access();
        if self.kind == Kind::Udp {
            // udp(7) knows no half-close; a connected socket's waiters are told.
            let connected = stack.shard.peer(self.id).is_some();
            drop(stack);
            self.hub.notify(Events::READABLE | Events::HUP);
            return if connected { Ok(()) } else { Err(Errno::ENOTCONN) };
        }
        let how = match how {
            How { read: true, write: true } => Shutdown::Both,
            How { read: true, .. } => Shutdown::Read,
            How { .. } => Shutdown::Write,
        };
        stack.shard.tcp_shutdown(self.id, how).linux()
    }

    fn local(&self) -> Result<SockAddr> {
        if let Some(local) = *self.v6_bound.lock() {
            return Ok(self.to_sockaddr(local));
        }
        Ok(self.to_sockaddr(access().shard.local(self.id)))
    }

    fn peer(&self) -> Result<SockAddr> {
        let peer = access().shard.peer(self.id).ok_or(Errno::ENOTCONN)?;
        Ok(self.to_sockaddr(peer))
    }

    fn set_option(&self, ctx: &Ctx, level: i32, name: i32, value: &[u8]) -> Result<()> {
        inet_option::set(self, ctx, level, name, value)
    }

    fn option(&self, ctx: &Ctx, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        inet_option::get(self, ctx, level, name, room)
    }

    fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    fn is_stream(&self) -> bool {
        self.kind == Kind::Tcp
    }
}

impl File for InetSocket {
    fn poll(&self) -> Events {
        if self.v6_bound.lock().is_some() {
            return Events::empty();
        }
        let ready = access().shard.ready(self.id);
        if self.phase.load(Ordering::Relaxed) == IDLE && self.kind == Kind::Tcp {
            // A socket that was never connected is at its end both ways (tcp_poll of Linux).
            return Events::WRITABLE | Events::HUP;
        }
        net_poll::events(ready)
    }

    fn hub(&self) -> Option<&Hub> {
        Some(&self.hub)
    }

    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        let mut message = Incoming::default();
        match self.kind {
            Kind::Tcp => self.tcp_receive(into, &mut message),
            Kind::Udp => self.udp_receive(into, &mut message),
        }
    }

    fn write(&self, _open: &OpenFile, _at: &mut u64, from: &mut dyn Source) -> Result {
        match self.kind {
            Kind::Tcp => self.tcp_send(from, 0),
            Kind::Udp => self.udp_send(from, &Outgoing::default()),
        }
    }

    fn ioctl(&self, _open: &OpenFile, command: u32, argument: usize) -> Result {
        const FIONREAD: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        const SIOCATMARK: u32 = 0x8905;
        let answer = match (command, self.kind) {
            (FIONREAD, Kind::Tcp) if self.is_listening() => return Err(Errno::EINVAL),
            (FIONREAD, Kind::Tcp) => access().shard.tcp_info(self.id).map_or(0, |info| info.receive_queue),
            (FIONREAD, Kind::Udp) => access().shard.udp_next_len(self.id) as u32,
            (SIOCOUTQ, Kind::Tcp) => {
                access().shard.tcp_info(self.id).map_or(0, |info| info.in_flight + info.not_sent)
            }
            (SIOCATMARK, Kind::Tcp) => access().shard.tcp_at_mark(self.id).is_ok_and(|at| at).into(),
            (SIOCOUTQ | SIOCATMARK, _) => 0,
            _ => return crate::net_interface::ioctl(command, argument),
        };
        user::UserPtr::new(argument).write(answer).map(|()| 0)
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        const S_IFSOCK: u32 = 0o140000;
        *out = Stat { mode: S_IFSOCK | 0o777, nlink: 1, blksize: 4096, ino: self.cookie, ..Stat::default() };
        Ok(())
    }

    fn as_socket(&self) -> Option<&dyn Socket> {
        Some(self)
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let kind = if self.kind == Kind::Tcp { "TCP" } else { "UDP" };
        let family = if self.v6 { "v6" } else { "" };
        let (local, peer) = {
            let stack = access();
            (stack.shard.local(self.id), stack.shard.peer(self.id))
        };
        match peer {
            Some(peer) => write!(f, "{kind}{family}:[{local}->{peer}]"),
            None => write!(f, "{kind}{family}:[{local}]"),
        }
    }
}

impl Drop for InetSocket {
    fn drop(&mut self) {
        net_poll::close(self.id, self.cookie);
    }
}

/// The domain as SO_DOMAIN tells it.
pub(crate) fn domain(socket: &InetSocket) -> u32 {
    u32::from(if socket.v6 { AF_INET6 } else { AF_INET })
}
