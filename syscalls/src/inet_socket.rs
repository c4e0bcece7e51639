//! AF_INET and AF_INET6 sockets over the engine: TCP, UDP, ping and raw ones.
//!
//! An IPv6 socket carries IPv4 as mapped addresses (RFC 4291 2.5.5.2) unless IPV6_V6ONLY is set. Control
//! messages and error queues are in `inet_message.rs`, options in `inet_option.rs`.
//!
//! Left out by name: AF_PACKET, SIGURG, and in the error queue of TCP all but completions of MSG_ZEROCOPY.

use crate::context::Ctx;
use crate::errno::{Linux, of_net};
use crate::file::{File, OpenFile, Sink, Source, Stat};
use crate::hub::{Events, Hub};
use crate::inet_message::Wants;
use crate::net_interface::{ETH, LO};
use crate::net_poll::{self, Access};
use crate::sockaddr::{AF_INET, AF_INET6, AF_UNSPEC, SockAddr};
use crate::socket::{
    How, Incoming, MSG_DONTROUTE, MSG_ERRQUEUE, MSG_FASTOPEN, MSG_MORE, MSG_OOB, MSG_PEEK, MSG_TRUNC,
    Outgoing, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, Socket, Timeouts,
};
use crate::user;
use crate::zero_copy::ZeroCopy;
use crate::{Errno, Result, inet_message, inet_option, net_claim, rt};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use net::control::Proto;
use net::{Backlog, Bind, Endpoint, FastOpen, RawProtocol, Shutdown, SocketId, TcpFlags, UdpOption};
use platform::sync::Lock;
use platform::time;

/// Bytes that are copied in one holding of the engine's lock. Whoever else needs the engine spins meanwhile: some ten
/// microseconds for so much, and a page fault in the program's memory costs as much again. And what was copied leaves
/// at once, while the next piece is copied by the time the first is on its way.
const HOLD: usize = 128 << 10;

const IPPROTO_ICMP: i32 = 1;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
const IPPROTO_ICMPV6: i32 = 58;

/// What a socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    /// SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6.
    Ping,
    /// SOCK_RAW with this protocol.
    Raw(u8),
}

/// How far a TCP socket's connection is, for the errors that Linux gives.
const IDLE: u8 = 0;
const CONNECTING: u8 = 1;
const CONNECTED: u8 = 2;
const LISTENING: u8 = 3;
/// TCP_FASTOPEN_CONNECT: connect(2) was called, the SYN waits for data.
const DEFERRED: u8 = 4;

/// An internet socket.
pub(crate) struct InetSocket {
    /// Its name in the engine ([`SocketId::to_bits`]), and its cookie there. A TCP socket without a connection may move to
    /// another shard ([`InetSocket::move_to`]).
    id: AtomicU64,
    cookie: AtomicU64,
    /// Of a listener: its places in other shards.
    places: Lock<Vec<(SocketId, u64)>>,
    /// Of a listener with such places: how many connections wait in which shard.
    backlog: Lock<Option<Arc<Backlog>>>,
    pub(crate) kind: Kind,
    pub(crate) v6: bool,
    pub(crate) v6_only: AtomicBool,
    /// An address without a port, whose port is chosen by connect(2) (IP_BIND_ADDRESS_NO_PORT).
    unfinished: Lock<Option<Endpoint>>,
    /// TCP_FASTOPEN_CONNECT, and whom connect(2) named.
    pub(crate) connect_early: AtomicBool,
    deferred: Lock<Option<Endpoint>>,
    /// IP_BIND_ADDRESS_NO_PORT.
    pub(crate) late_port: AtomicBool,
    /// The port that was asked for at the network's supervisor, or 0.
    claimed: AtomicU16,
    phase: AtomicU8,
    /// How the socket claims its address (SO_REUSEADDR, SO_REUSEPORT, IP_TRANSPARENT).
    pub(crate) bind: Lock<Bind>,
    hub: Arc<Hub>,
    timeouts: Timeouts,
    /// What goes with each datagram ([`Wants`]).
    pub(crate) wants: AtomicU32,
    /// What options that are only set in the engine were set to, to tell it; and hints.
    pub(crate) kept: Lock<Vec<(i32, i32, u32)>>,
    pub(crate) buffers: [AtomicU32; 2],
    pub(crate) zero_copy: ZeroCopy,
}

/// socket(2) of AF_INET (`v6` false) or AF_INET6.
pub(crate) fn open(ctx: &Ctx, v6: bool, kind: i32, protocol: i32) -> Result<Box<dyn File>> {
    let kind = match (kind, protocol) {
        (SOCK_STREAM, 0 | IPPROTO_TCP) => Kind::Tcp,
        (SOCK_DGRAM, 0 | IPPROTO_UDP) => Kind::Udp,
        (SOCK_DGRAM, IPPROTO_ICMP) if !v6 => Kind::Ping,
        (SOCK_DGRAM, IPPROTO_ICMPV6) if v6 => Kind::Ping,
        (SOCK_RAW, 1..=255) => {
            // raw(7): CAP_NET_RAW.
            if ctx.process.credentials.lock().euid != 0 {
                return Err(Errno::EPERM);
            }
            Kind::Raw(protocol as u8)
        }
        (SOCK_RAW, _) => return Err(Errno::EPROTONOSUPPORT),
        (SOCK_STREAM | SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    rt::serve_network();
    // TCP begins with the shard of whoever makes it; everything else is the home shard's.
    let mut stack = if kind == Kind::Tcp { net_poll::at(net_poll::own()) } else { net_poll::home() };
    let id = match kind {
        Kind::Tcp => stack.shard.tcp_open().linux()?,
        Kind::Udp => stack.shard.udp_open().linux()?,
        Kind::Ping => {
            stack.shard.raw_open(if v6 { RawProtocol::Ping6 } else { RawProtocol::Ping }).linux()?
        }
        Kind::Raw(number) if v6 => stack.shard.raw_open(RawProtocol::Ip6(number)).linux()?,
        Kind::Raw(number) => stack.shard.raw_open(RawProtocol::Ip(number)).linux()?,
    };
    if v6 && kind == Kind::Udp {
        stack.shard.udp_set(id, UdpOption::V6Only(false)).linux()?;
    }
    let hub = Arc::new(Hub::new());
    let cookie = stack.register(id, hub.clone());
    Ok(Box::new(InetSocket::new(id, cookie, kind, v6, hub, IDLE)))
}

impl InetSocket {
    /// What its ports are ports of.
    fn proto(&self) -> Option<Proto> {
        match self.kind {
            Kind::Tcp => Some(Proto::Tcp),
            Kind::Udp => Some(Proto::Udp),
            Kind::Ping | Kind::Raw(_) => None,
        }
    }

    fn new(id: SocketId, cookie: u64, kind: Kind, v6: bool, hub: Arc<Hub>, phase: u8) -> InetSocket {
        InetSocket {
            id: AtomicU64::new(id.to_bits()),
            cookie: AtomicU64::new(cookie),
            places: Lock::new(Vec::new()),
            backlog: Lock::new(None),
            kind,
            v6,
            v6_only: AtomicBool::new(false),
            unfinished: Lock::new(None),
            connect_early: AtomicBool::new(false),
            deferred: Lock::new(None),
            late_port: AtomicBool::new(false),
            claimed: AtomicU16::new(0),
            phase: AtomicU8::new(phase),
            bind: Lock::new(Bind::default()),
            hub,
            timeouts: Timeouts::default(),
            wants: AtomicU32::new(0),
            kept: Lock::new(Vec::new()),
            buffers: Default::default(),
            zero_copy: ZeroCopy::default(),
        }
    }

    /// Its name in the engine, now.
    pub(crate) fn id(&self) -> SocketId {
        SocketId::from_bits(self.id.load(Ordering::Acquire))
    }

    /// The stack that the socket lives in, and its name there, which stays while the stack is locked.
    #[inline]
    pub(crate) fn stack(&self) -> (Access, SocketId) {
        loop {
            let id = self.id();
            let stack = net_poll::at(id.shard());
            if self.id() == id {
                return (stack, id);
            }
        }
    }

    /// Moves a socket without a connection to another shard: an endpoint that was bound decides where the flow
    /// belongs. Both stacks are locked while the name changes.
    fn move_to(&self, shard: usize) -> net::Result<()> {
        loop {
            let old = self.id();
            if old.shard() == shard {
                return Ok(());
            }
            let (mut from, mut to) = net_poll::two(old.shard(), shard);
            if self.id() != old {
                continue;
            }
            let detached = from.shard.tcp_detach(old)?;
            from.unregister(old, self.cookie.load(Ordering::Relaxed));
            let new = to.shard.tcp_attach(detached);
            self.cookie.store(to.register(new, self.hub.clone()), Ordering::Relaxed);
            self.id.store(new.to_bits(), Ordering::Release);
            return Ok(());
        }
    }

    /// Begins a connection to `to` in the shard where its flow belongs. A socket that may choose its port chooses one with
    /// which that is the shard where it is, and moves only when those are used up.
    fn begin<T>(
        &self,
        to: Endpoint,
        connect: &mut dyn FnMut(&mut Access, SocketId) -> net::Result<T>,
    ) -> net::Result<T> {
        let (mut stack, id) = self.stack();
        if net_poll::shards() == 1 {
            return connect(&mut stack, id);
        }
        let belongs = stack.shard.tcp_belongs(id, to);
        match belongs {
            Some(shard) if shard != id.shard() => {
                drop(stack);
                self.move_to(shard)?;
                let (mut stack, id) = self.stack();
                return connect(&mut stack, id);
            }
            _ => {}
        }
        let mut begun = connect(&mut stack, id);
        drop(stack);
        for shard in (0..net_poll::shards()).filter(|shard| *shard != id.shard()) {
            if belongs.is_some() || !matches!(begun, Err(net::Error::AddressUnavailable)) {
                break;
            }
            self.move_to(shard)?;
            let (mut stack, id) = self.stack();
            begun = connect(&mut stack, id);
        }
        begun
    }

    /// Gives a listener its places in the other shards, or those a new backlog.
    fn listen_everywhere(&self, backlog: usize) -> Result<()> {
        let mut places = self.places.lock();
        if !places.is_empty() {
            for (place, _) in places.iter() {
                net_poll::at(place.shard()).shard.tcp_listen(*place, backlog).linux()?;
            }
            return Ok(());
        }
        let (mut stack, id) = self.stack();
        let (copy, shared) = stack.shard.tcp_share_listener(id).linux()?;
        drop(stack);
        for shard in (0..net_poll::shards()).filter(|shard| *shard != id.shard()) {
            let mut stack = net_poll::at(shard);
            match stack.shard.tcp_place_listener(&copy) {
                Ok(place) => places.push((place, stack.register(place, self.hub.clone()))),
                Err(error) => {
                    drop(stack);
                    core::mem::take(&mut *places)
                        .into_iter()
                        .for_each(|(id, cookie)| net_poll::close(id, cookie));
                    return Err(of_net(error));
                }
            }
        }
        *self.backlog.lock() = Some(shared);
        Ok(())
    }

    /// Its places in other shards, now.
    pub(crate) fn places(&self) -> Vec<SocketId> {
        self.places.lock().iter().map(|(place, _)| *place).collect()
    }

    /// All its names in the engine: its own and those of its places.
    pub(crate) fn names(&self) -> Vec<SocketId> {
        let mut names = self.places();
        names.push(self.id());
        names
    }

    /// Gives them up.
    fn leave_places(&self) {
        if self.kind != Kind::Tcp {
            return;
        }
        let places = core::mem::take(&mut *self.places.lock());
        *self.backlog.lock() = None;
        places.into_iter().for_each(|(place, cookie)| net_poll::close(place, cookie));
    }

    /// The next connection of a listener: the one that has waited longest, whatever shard it is in.
    fn take_connection(&self) -> Result<(Access, (SocketId, Endpoint))> {
        let Some(backlog) = self.backlog.lock().clone() else {
            let (mut stack, id) = self.stack();
            let taken = stack.shard.tcp_accept(id).linux()?;
            return Ok((stack, taken));
        };
        while let Some(shard) = backlog.next() {
            let main = self.id();
            let place = self.places.lock().iter().map(|(place, _)| *place).find(|id| id.shard() == shard);
            // Without a place there: another thread ends the listening.
            let Some(id) = place.or(Some(main).filter(|id| id.shard() == shard)) else { break };
            let mut stack = net_poll::at(shard);
            match stack.shard.tcp_accept(id) {
                Ok(taken) => return Ok((stack, taken)),
                // Somebody else was faster, and the engine has noted what is left.
                Err(net::Error::WouldBlock) => {}
                Err(error) => return Err(of_net(error)),
            }
        }
        Err(Errno::EAGAIN)
    }

    fn ready(&self) -> net::Ready {
        if let Some(backlog) = self.backlog.lock().as_ref() {
            let waiting = backlog.all_ready() > 0;
            return if waiting { net::Ready::READABLE } else { net::Ready::empty() };
        }
        let (mut stack, id) = self.stack();
        stack.shard.ready(id)
    }

    /// Binds what IP_BIND_ADDRESS_NO_PORT left for later.
    fn finish_bind(&self) -> Result<()> {
        let Some(local) = self.unfinished.lock().take() else { return Ok(()) };
        let v6_only = self.v6_only.load(Ordering::Relaxed);
        let bind = Bind { v6_only, ..*self.bind.lock() };
        let (mut stack, id) = self.stack();
        stack.shard.tcp_bind(id, local, bind).linux()
    }

    /// SO_ERROR. A connection attempt that ended in one may be made again.
    pub(crate) fn take_error(&self) -> Option<Errno> {
        let error = {
            let (mut stack, id) = self.stack();
            stack.shard.take_error(id)?
        };
        let _ = self.phase.compare_exchange(CONNECTING, IDLE, Ordering::Relaxed, Ordering::Relaxed);
        Some(of_net(error))
    }

    /// Neither listening nor connected, nor on the way to it.
    pub(crate) fn is_fresh(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == IDLE
    }

    /// Whether listen(2) was called.
    pub(crate) fn is_listening(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == LISTENING
    }

    /// Where the program wants to send.
    fn reachable(&self, to: &SockAddr) -> Result<Endpoint> {
        let scope = to.scope();
        let to = to.endpoint(self.v6)?;
        let IpAddr::V6(addr) = to.addr else { return Ok(to) };
        if self.v6_only.load(Ordering::Relaxed) && addr.to_ipv4_mapped().is_some() {
            return Err(Errno::ENETUNREACH);
        }
        // ipv6(7): a link-local address means nothing without its interface.
        let link_local = addr.is_unicast_link_local() || matches!(addr.segments()[0], 0xff02 | 0xff12);
        match scope {
            0 if addr.is_unicast_link_local() => Err(Errno::EINVAL),
            0 | LO | ETH => Ok(to),
            _ if link_local => Err(Errno::ENODEV),
            _ => Ok(to),
        }
    }

    fn wants(&self) -> Wants {
        Wants::from_bits_truncate(self.wants.load(Ordering::Relaxed))
    }

    fn to_sockaddr(&self, endpoint: Endpoint) -> SockAddr {
        SockAddr::from_endpoint(endpoint, self.v6)
    }

    /// connect(2) with the first bytes that are to be sent (RFC 7413). EINPROGRESS if none went along.
    fn connect_with(&self, to: Endpoint, from: &mut dyn Source) -> Result {
        self.finish_bind()?;
        let (mut fault, wanted) = (None, from.remaining());
        let begun = self.begin(to, &mut |stack, id| {
            stack.shard.tcp_connect_early(id, to, time::now(), wanted, &mut |piece| {
                from.take(piece).unwrap_or_else(|errno| {
                    fault = Some(errno);
                    0
                })
            })
        });
        let count = begun.linux()?;
        self.phase.store(CONNECTING, Ordering::Relaxed);
        match (count, fault) {
            (0, Some(errno)) => Err(errno),
            (0, None) => Err(Errno::EINPROGRESS),
            (count, _) => Ok(count),
        }
    }

    /// MSG_FASTOPEN (tcp_sendmsg_fastopen of Linux).
    fn send_opening(&self, from: &mut dyn Source, message: &Outgoing) -> Result {
        if !net_poll::home().shard.fast_open().contains(FastOpen::CLIENT) {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.phase.load(Ordering::Relaxed) {
            IDLE => {}
            CONNECTING => return Err(Errno::EALREADY),
            _ => return Err(Errno::EISCONN),
        }
        match message.to.as_ref() {
            Some(to) if to.family() == AF_UNSPEC => Err(Errno::EOPNOTSUPP),
            Some(to) => self.connect_with(self.reachable(to)?, from),
            None => Err(Errno::EINVAL),
        }
    }

    /// The first bytes of a connection that TCP_FASTOPEN_CONNECT deferred.
    #[cold]
    fn send_deferred(&self, from: &mut dyn Source) -> Result {
        let Some(to) = self.deferred.lock().take() else { return Err(Errno::EAGAIN) };
        self.phase.store(IDLE, Ordering::Relaxed);
        match self.connect_with(to, from) {
            // What is to be sent waits for the handshake.
            Err(Errno::EINPROGRESS) => Err(Errno::EAGAIN),
            taken => taken,
        }
    }

    fn tcp_send(&self, from: &mut dyn Source, flags: u32) -> Result {
        if self.phase.load(Ordering::Relaxed) == DEFERRED {
            return self.send_deferred(from);
        }
        let mut fault = None;
        let oob = flags & MSG_OOB != 0;
        let mut flags = if flags & MSG_MORE != 0 { TcpFlags::MORE } else { TcpFlags::empty() };
        let wanted = from.remaining();
        let mut total = 0;
        while total < wanted {
            let count = HOLD.min(wanted - total);
            flags.set(TcpFlags::URGENT, oob && total + count == wanted);
            let (mut stack, id) = self.stack();
            if total > 0 && stack.shard.ready(id).intersects(net::Ready::ERROR | net::Ready::HANGUP) {
                // What was taken counts; the next call finds the error still there.
                break;
            }
            let sent = stack.shard.tcp_send_with(id, count, flags, &mut |piece| {
                from.take(piece).unwrap_or_else(|errno| {
                    fault = Some(errno);
                    0
                })
            });
            match (sent, fault) {
                (Ok(0) | Err(_), _) if total > 0 => break,
                (Ok(0), Some(errno)) => return Err(errno),
                (Ok(0), None) => return Err(Errno::EAGAIN),
                (sent, _) => total += sent.linux()?,
            }
            if fault.is_some() || !total.is_multiple_of(HOLD) {
                break;
            }
        }
        Ok(total)
    }

    fn tcp_receive(&self, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        if message.flags & MSG_OOB != 0 {
            return self.urgent_receive(into, message);
        }
        if self.phase.load(Ordering::Relaxed) == DEFERRED {
            return Err(Errno::EAGAIN);
        }
        let wanted = into.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let peek = message.flags & MSG_PEEK != 0;
        let flags = if peek { TcpFlags::PEEK } else { TcpFlags::empty() };
        let discard = message.flags & MSG_TRUNC != 0;
        let (mut fault, mut total) = (None, 0);
        loop {
            let count = if peek { wanted } else { HOLD.min(wanted - total) };
            let (mut stack, id) = self.stack();
            if total > 0 && stack.shard.tcp_unread(id) == 0 {
                // What comes behind the data, an error or the end, is for the next call.
                return Ok(total);
            }
            let received = stack.shard.tcp_recv_with(id, count, flags, &mut |piece| {
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
            let taken = match (received, fault) {
                (Ok(0), Some(errno)) if total == 0 => return Err(errno),
                (received, _) => received.linux()?,
            };
            total += taken;
            if taken < HOLD || peek || fault.is_some() || total >= wanted {
                return Ok(total);
            }
        }
    }

    /// recv with MSG_OOB: the urgent byte by itself (tcp_recv_urg of Linux).
    fn urgent_receive(&self, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        let peek = message.flags & MSG_PEEK != 0;
        let byte = {
            let (mut stack, id) = self.stack();
            stack.shard.tcp_recv_urgent(id, peek).linux()?
        };
        let Some(byte) = byte else { return Ok(0) };
        message.result_flags |= MSG_OOB;
        if into.remaining() == 0 {
            message.result_flags |= MSG_TRUNC;
            return Ok(0);
        }
        into.put(&[byte])
    }

    fn udp_send(&self, from: &mut dyn Source, message: &Outgoing) -> Result {
        let to = message.to.as_ref().map(|to| self.reachable(to)).transpose()?;
        let mut how = inet_message::options(&message.control, self.v6)?;
        how.to = to;
        how.dont_route = message.flags & MSG_DONTROUTE != 0;
        let len = from.remaining();
        if len > 65_535 {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(len, 0);
        from.take(&mut bytes)?;
        let (mut stack, id) = self.stack();
        match self.kind {
            Kind::Udp => stack.shard.udp_send_with(id, &[&bytes], &how).linux(),
            _ => stack.shard.raw_send_with(id, &bytes, &how).linux(),
        }
    }

    /// recvmsg(2) with MSG_ERRQUEUE: what could not be delivered, where it was to go, and why.
    fn receive_error(&self, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        let queued = match self.kind {
            Kind::Tcp => {
                message.control.push(self.zero_copy.take(self.v6).ok_or(Errno::EAGAIN)?);
                message.result_flags |= MSG_ERRQUEUE;
                return Ok(0);
            }
            Kind::Udp => self.stack().0.shard.udp_take_queued_error(self.id()),
            _ => self.stack().0.shard.raw_take_queued_error(self.id()),
        };
        let queued = queued.ok_or(Errno::EAGAIN)?;
        let room = into.remaining();
        let copied = into.put(&queued.data[..queued.data.len().min(room)])?;
        message.from = Some(self.to_sockaddr(queued.to));
        message.result_flags |= MSG_ERRQUEUE | if queued.data.len() > copied { MSG_TRUNC } else { 0 };
        message.control.push(inet_message::extended_error(&queued, self.v6));
        Ok(copied)
    }

    fn udp_receive(&self, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        let peek = message.flags & MSG_PEEK != 0;
        let (mut stack, id) = self.stack();
        let room = into.remaining();
        let mut take = |bytes: &[u8], datagram| (into.put(&bytes[..bytes.len().min(room)]), datagram);
        let taken = match self.kind {
            Kind::Udp => stack.shard.udp_recv_with(id, peek, take),
            _ => stack.shard.raw_recv_with(id, peek, &mut take),
        };
        let (copied, datagram) = taken.linux()?;
        let copied = copied?;
        drop(stack);
        message.from = Some(self.to_sockaddr(datagram.from));
        message.control.extend(inet_message::about(&datagram, self.wants(), self.v6));
        if datagram.len > copied {
            message.result_flags |= MSG_TRUNC;
            if message.flags & MSG_TRUNC != 0 {
                return Ok(datagram.len);
            }
        }
        Ok(copied)
    }
}

impl Socket for InetSocket {
    fn bind(&self, ctx: &Ctx, to: &SockAddr) -> Result<()> {
        let local = match (to.family(), self.v6) {
            // ip(7): an all-zero AF_UNSPEC address binds to any, for old programs.
            (AF_UNSPEC, false) if to.bytes().len() >= 16 && to.bytes()[4..8] == [0; 4] => {
                Endpoint::new(Ipv4Addr::UNSPECIFIED, u16::from_be_bytes([to.bytes()[2], to.bytes()[3]]))
            }
            _ => to.endpoint(self.v6)?,
        };
        // Ports below 1024 need no privilege: they are the guest's own (as in a container, where
        // net.ipv4.ip_unprivileged_port_start is 0); what the host publishes, the host decides.
        let scoped = matches!(local.addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if scoped && to.scope() == 0 {
            return Err(Errno::EINVAL);
        }
        let only = self.v6_only.load(Ordering::Relaxed);
        if only && matches!(local.addr, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(Errno::EINVAL);
        }
        let bind = Bind { v6_only: only, ..*self.bind.lock() };
        if local.port == 0 && self.kind == Kind::Tcp && self.late_port.load(Ordering::Relaxed) {
            *self.unfinished.lock() = Some(local);
            return Ok(());
        }
        let claimed = match self.proto() {
            Some(proto) => net_claim::claim(ctx, proto, local.addr, local.port)?,
            None => false,
        };
        let (mut stack, id) = self.stack();
        let bound = match self.kind {
            Kind::Tcp => stack.shard.tcp_bind(id, local, bind).linux(),
            Kind::Udp => stack.shard.udp_bind(id, local, bind).linux(),
            Kind::Ping | Kind::Raw(_) => stack.shard.raw_bind(id, local).linux(),
        };
        drop(stack);
        match (claimed, bound.is_ok(), self.proto()) {
            (true, true, _) => self.claimed.store(local.port, Ordering::Relaxed),
            (true, false, Some(proto)) => net_claim::release(proto, local.port),
            _ => {}
        }
        bound
    }

    fn listen(&self, _ctx: &Ctx, backlog: i32) -> Result<()> {
        if self.kind != Kind::Tcp {
            return Err(Errno::EOPNOTSUPP);
        }
        if matches!(self.phase.load(Ordering::Relaxed), CONNECTING | CONNECTED) {
            return Err(Errno::EINVAL);
        }
        self.finish_bind()?;
        // As Linux: a negative backlog counts as the largest (net.core.somaxconn).
        let backlog = (backlog as u32).min(inet_option::SOMAXCONN) as usize;
        let (mut stack, id) = self.stack();
        if self.v6 && !self.is_listening() && stack.shard.local(id).port == 0 {
            let v6_only = self.v6_only.load(Ordering::Relaxed);
            let bind = Bind { v6_only, ..*self.bind.lock() };
            stack.shard.tcp_bind(id, Endpoint::new(Ipv6Addr::UNSPECIFIED, 0), bind).linux()?;
        }
        stack.shard.tcp_listen(id, backlog).linux()?;
        drop(stack);
        if net_poll::shards() > 1 {
            self.listen_everywhere(backlog)?;
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
        let (mut stack, (id, peer)) = self.take_connection()?;
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
        if matches!(self.kind, Kind::Ping | Kind::Raw(_)) {
            let peer = if to.family() == AF_UNSPEC { None } else { Some(self.reachable(to)?.addr) };
            return self.stack().0.shard.raw_connect(self.id(), peer).linux();
        }
        if self.kind == Kind::Udp {
            let peer = if to.family() == AF_UNSPEC { None } else { Some(self.reachable(to)?) };
            return self.stack().0.shard.udp_connect(self.id(), peer).linux();
        }
        if to.family() == AF_UNSPEC {
            self.leave_places();
            let (mut stack, id) = self.stack();
            stack.shard.tcp_abort(id);
            return Ok(());
        }
        match self.phase.load(Ordering::Relaxed) {
            LISTENING | CONNECTED | DEFERRED => return Err(Errno::EISCONN),
            CONNECTING => {
                return match self.connected() {
                    Err(Errno::EAGAIN) => Err(Errno::EALREADY),
                    done => done,
                };
            }
            _ => {}
        }
        let to = self.reachable(to)?;
        if self.connect_early.load(Ordering::Relaxed) {
            let possible = {
                let (stack, id) = self.stack();
                stack.shard.tcp_early_possible(id, to)
            };
            if possible {
                *self.deferred.lock() = Some(to);
                self.phase.store(DEFERRED, Ordering::Relaxed);
                return Ok(());
            }
            // The SYN asks for a cookie, for the next time.
            return self.connect_with(to, &mut crate::buffer::Slice::new(&[])).map(|_| ());
        }
        self.finish_bind()?;
        match self.begin(to, &mut |stack, id| stack.shard.tcp_connect(id, to, time::now())) {
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
        let (mut stack, id) = self.stack();
        if stack.shard.peer(id).is_some()
            && stack.shard.ready(id).intersects(net::Ready::WRITABLE | net::Ready::HANGUP)
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
            Kind::Tcp if message.flags & MSG_FASTOPEN != 0 => self.send_opening(from, message),
            Kind::Tcp => self.tcp_send(from, message.flags),
            _ => self.udp_send(from, message),
        }
    }

    fn receive(&self, _ctx: &Ctx, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        if message.flags & MSG_ERRQUEUE != 0 {
            return self.receive_error(into, message);
        }
        match self.kind {
            Kind::Tcp => self.tcp_receive(into, message),
            _ => self.udp_receive(into, message),
        }
    }

    fn shutdown(&self, how: How) -> Result<()> {
        if self.kind == Kind::Tcp && how.read && self.is_listening() {
            self.leave_places();
        }
        let (mut stack, id) = self.stack();
        if self.kind != Kind::Tcp {
            // udp(7) knows no half-close; a connected socket's waiters are told.
            let connected = stack.shard.peer(id).is_some();
            drop(stack);
            self.hub.notify(Events::READABLE | Events::HUP);
            return if connected { Ok(()) } else { Err(Errno::ENOTCONN) };
        }
        let how = match how {
            How { read: true, write: true } => Shutdown::Both,
            How { read: true, .. } => Shutdown::Read,
            How { .. } => Shutdown::Write,
        };
        stack.shard.tcp_shutdown(id, how).linux()
    }

    fn local(&self) -> Result<SockAddr> {
        if let Some(local) = *self.unfinished.lock() {
            return Ok(self.to_sockaddr(local));
        }
        let (stack, id) = self.stack();
        Ok(self.to_sockaddr(stack.shard.local(id)))
    }

    fn peer(&self) -> Result<SockAddr> {
        let (stack, id) = self.stack();
        let peer = stack.shard.peer(id).ok_or(Errno::ENOTCONN)?;
        Ok(self.to_sockaddr(peer))
    }

    fn set_option(&self, ctx: &Ctx, level: i32, name: i32, value: &[u8]) -> Result<()> {
        inet_option::set(self, ctx, level, name, value)
    }

    fn option(&self, ctx: &Ctx, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        inet_option::get(self, ctx, level, name, room)
    }

    fn sent_zero_copy(&self) {
        if self.zero_copy.sent() {
            self.hub.notify(Events::ERR);
        }
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
        if self.phase.load(Ordering::Relaxed) == DEFERRED {
            return Events::WRITABLE;
        }
        let ready = self.ready();
        if self.phase.load(Ordering::Relaxed) == IDLE && self.kind == Kind::Tcp {
            // A socket that was never connected is at its end both ways (tcp_poll of Linux).
            return Events::WRITABLE | Events::HUP;
        }
        let news = self.kind == Kind::Tcp && self.zero_copy.has_news();
        net_poll::events(ready) | if news { Events::ERR } else { Events::empty() }
    }

    fn hub(&self) -> Option<&Hub> {
        Some(&self.hub)
    }

    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        let mut message = Incoming::default();
        match self.kind {
            Kind::Tcp => self.tcp_receive(into, &mut message),
            _ => self.udp_receive(into, &mut message),
        }
    }

    fn write(&self, _open: &OpenFile, _at: &mut u64, from: &mut dyn Source) -> Result {
        match self.kind {
            Kind::Tcp => self.tcp_send(from, 0),
            _ => self.udp_send(from, &Outgoing::default()),
        }
    }

    fn ioctl(&self, _open: &OpenFile, command: u32, argument: usize) -> Result {
        const FIONREAD: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        const SIOCATMARK: u32 = 0x8905;
        let engine = || self.stack();
        let answer = match (command, self.kind) {
            (FIONREAD, Kind::Tcp) if self.is_listening() => return Err(Errno::EINVAL),
            (FIONREAD, Kind::Tcp) => {
                let (stack, id) = engine();
                stack.shard.tcp_info(id).map_or(0, |info| info.receive_queue)
            }
            (FIONREAD, Kind::Udp) => engine().0.shard.udp_next_len(self.id()) as u32,
            (FIONREAD, _) => engine().0.shard.raw_next_len(self.id()) as u32,
            (SIOCOUTQ, Kind::Tcp) => {
                let (stack, id) = engine();
                stack.shard.tcp_info(id).map_or(0, |info| info.in_flight + info.not_sent)
            }
            (SIOCATMARK, Kind::Tcp) => {
                let (stack, id) = engine();
                stack.shard.tcp_at_mark(id).is_ok_and(|at| at).into()
            }
            (SIOCOUTQ | SIOCATMARK, _) => 0,
            _ => return crate::net_interface::ioctl(command, argument),
        };
        user::UserPtr::new(argument).write(answer).map(|()| 0)
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        const S_IFSOCK: u32 = 0o140000;
        *out = Stat {
            mode: S_IFSOCK | 0o777,
            nlink: 1,
            blksize: 4096,
            ino: self.cookie.load(Ordering::Relaxed),
            ..Stat::default()
        };
        Ok(())
    }

    fn as_socket(&self) -> Option<&dyn Socket> {
        Some(self)
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let kind = match self.kind {
            Kind::Tcp => "TCP",
            Kind::Udp => "UDP",
            Kind::Ping => "PING",
            Kind::Raw(_) => "RAW",
        };
        let family = if self.v6 { "v6" } else { "" };
        let (local, peer) = {
            let (stack, id) = self.stack();
            (stack.shard.local(id), stack.shard.peer(id))
        };
        match peer {
            Some(peer) => write!(f, "{kind}{family}:[{local}->{peer}]"),
            None => write!(f, "{kind}{family}:[{local}]"),
        }
    }
}

impl Drop for InetSocket {
    fn drop(&mut self) {
        self.leave_places();
        net_poll::close(self.id(), self.cookie.load(Ordering::Relaxed));
        if let Some(proto) = self.proto() {
            net_claim::release(proto, self.claimed.load(Ordering::Relaxed));
        }
    }
}

/// The domain as SO_DOMAIN tells it.
pub(crate) fn domain(socket: &InetSocket) -> u32 {
    u32::from(if socket.v6 { AF_INET6 } else { AF_INET })
}
