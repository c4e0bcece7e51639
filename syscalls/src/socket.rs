//! The socket calls: decode addresses, messages and flags, find the socket, act, wait if need be.
//!
//! A family implements [`Socket`]: [`crate::inet_socket`] (TCP and UDP over `net`), `unix_socket`.
//! Its methods never sleep; the handlers here turn EAGAIN into waiting ([`crate::wait`]).

use crate::args::{BytesIn, Domain, Fd, MsgFlags, SocketLevel, SocketType};
use crate::context::Ctx;
use crate::file::{File, O_NONBLOCK, OpenFile, Sink, Source};
use crate::hub::Events;
use crate::netlink::{self, AF_NETLINK};
use crate::sockaddr::{AF_INET, AF_INET6, AF_UNIX, SockAddr};
use crate::user::{self, Iovec, UserBuffer, UserPtr, UserVec};
use crate::wait::{self, Waiting};
use crate::{Errno, Result, inet_socket, signal, unix_socket};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::time::{self, Instant, MILLISECOND, SECOND};

/// `SOCK_STREAM`
pub const SOCK_STREAM: i32 = 1;
/// `SOCK_DGRAM`
pub const SOCK_DGRAM: i32 = 2;
/// `SOCK_RAW`
pub const SOCK_RAW: i32 = 3;
/// `SOCK_SEQPACKET`
pub const SOCK_SEQPACKET: i32 = 5;
const SOCK_NONBLOCK: i32 = 0o4000;
const SOCK_CLOEXEC: i32 = 0o2000000;

/// `MSG_OOB`
pub const MSG_OOB: u32 = 0x1;
/// `MSG_PEEK`
pub const MSG_PEEK: u32 = 0x2;
/// `MSG_CTRUNC`
pub const MSG_CTRUNC: u32 = 0x8;
/// `MSG_TRUNC`
pub const MSG_TRUNC: u32 = 0x20;
/// `MSG_DONTWAIT`
pub const MSG_DONTWAIT: u32 = 0x40;
/// `MSG_EOR`
pub const MSG_EOR: u32 = 0x80;
/// `MSG_WAITALL`
pub const MSG_WAITALL: u32 = 0x100;
/// `MSG_DONTROUTE`
pub const MSG_DONTROUTE: u32 = 4;
/// `MSG_ERRQUEUE`
pub const MSG_ERRQUEUE: u32 = 0x2000;
/// `MSG_NOSIGNAL`
pub const MSG_NOSIGNAL: u32 = 0x4000;
/// `MSG_MORE`
pub const MSG_MORE: u32 = 0x8000;
/// `MSG_WAITFORONE`
const MSG_WAITFORONE: u32 = 0x1_0000;
/// `MSG_ZEROCOPY`
pub const MSG_ZEROCOPY: u32 = 0x400_0000;
/// `MSG_FASTOPEN`
pub const MSG_FASTOPEN: u32 = 0x2000_0000;
/// `MSG_CMSG_CLOEXEC`
pub const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;

/// `SOL_SOCKET`
pub const SOL_SOCKET: i32 = 1;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;

/// `UIO_MAXIOV`, and the most messages of sendmmsg(2).
const MESSAGES_MAX: u32 = 1024;
/// The most control data that one message brings (`optmem_max` of Linux is of this size).
const CONTROL_MAX: usize = 20 * 1024;

/// Which directions shutdown(2) ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct How {
    /// No more receiving.
    pub read: bool,
    /// No more sending.
    pub write: bool,
}

/// One control message (cmsg(3)): level, type, data.
pub struct Control {
    /// `SOL_SOCKET`, `IPPROTO_IP`, ...
    pub level: i32,
    /// `SCM_RIGHTS`, `IP_PKTINFO`, ...
    pub kind: i32,
    /// The data.
    pub data: Vec<u8>,
}

/// What goes with bytes to send.
#[derive(Default)]
pub struct Outgoing {
    /// `MSG_*`
    pub flags: u32,
    /// The destination, if one was given.
    pub to: Option<SockAddr>,
    /// Control messages.
    pub control: Vec<Control>,
}

/// What goes with bytes received. The handler sets `flags`, the family fills the rest.
#[derive(Default)]
pub struct Incoming {
    /// `MSG_*` as the program gave them.
    pub flags: u32,
    /// Room that the program has for control messages: descriptors that do not fit are not made.
    pub control_room: usize,
    /// Who sent it.
    pub from: Option<SockAddr>,
    /// Control messages.
    pub control: Vec<Control>,
    /// `MSG_TRUNC`, `MSG_EOR`, `MSG_CTRUNC`, ... for `msg_flags`.
    pub result_flags: u32,
}

/// A socket's behaviour beyond that of a file. Methods answer EAGAIN where the call would wait.
#[allow(unused_variables)]
pub trait Socket {
    /// bind(2).
    fn bind(&self, ctx: &Ctx, to: &SockAddr) -> Result<()>;
    /// listen(2).
    fn listen(&self, ctx: &Ctx, backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// accept(2): the new socket and its peer.
    fn accept(&self, ctx: &Ctx) -> Result<(Box<dyn File>, SockAddr)> {
        Err(Errno::EOPNOTSUPP)
    }
    /// connect(2): EINPROGRESS if it has begun ([`Socket::connected`] tells the end).
    fn connect(&self, ctx: &Ctx, to: &SockAddr) -> Result<()>;
    /// How a connection in progress ended; EAGAIN while it has not.
    fn connected(&self) -> Result<()> {
        Ok(())
    }
    /// send(2) family.
    fn send(&self, ctx: &Ctx, from: &mut dyn Source, message: &mut Outgoing) -> Result;
    /// A call with MSG_ZEROCOPY has taken bytes.
    fn sent_zero_copy(&self) {}
    /// recv(2) family.
    fn receive(&self, ctx: &Ctx, into: &mut dyn Sink, message: &mut Incoming) -> Result;
    /// shutdown(2).
    fn shutdown(&self, how: How) -> Result<()>;
    /// getsockname(2).
    fn local(&self) -> Result<SockAddr>;
    /// getpeername(2).
    fn peer(&self) -> Result<SockAddr>;
    /// setsockopt(2), except the timeouts.
    fn set_option(&self, ctx: &Ctx, level: i32, name: i32, value: &[u8]) -> Result<()>;
    /// getsockopt(2), except the timeouts. `room` is what the program has for the answer.
    fn option(&self, ctx: &Ctx, level: i32, name: i32, room: usize) -> Result<Vec<u8>>;
    /// SO_RCVTIMEO and SO_SNDTIMEO live here.
    fn timeouts(&self) -> &Timeouts;
    /// Whether a read may return less than asked although more comes (streams: MSG_WAITALL loops).
    fn is_stream(&self) -> bool;
}

/// SO_RCVTIMEO and SO_SNDTIMEO in nanoseconds; 0 for none.
#[derive(Default)]
pub struct Timeouts {
    /// For receiving and accepting.
    pub receive: core::sync::atomic::AtomicU64,
    /// For sending and connecting.
    pub send: core::sync::atomic::AtomicU64,
}

impl Timeouts {
    fn deadline(cell: &core::sync::atomic::AtomicU64) -> Option<Instant> {
        match cell.load(core::sync::atomic::Ordering::Relaxed) {
            0 => None,
            ns => Some(time::now().after(ns)),
        }
    }
}

fn as_socket(open: &OpenFile) -> Result<&dyn Socket> {
    open.file.as_socket().ok_or(Errno::ENOTSOCK)
}

/// socket(2).
pub fn socket(ctx: &Ctx, domain: Domain, kind: SocketType, protocol: i32) -> Result {
    let (kind, flags) = split_type(kind)?;
    let file: Box<dyn File> = match u16::try_from(domain.0) {
        Ok(AF_INET) => inet_socket::open(ctx, false, kind, protocol)?,
        Ok(AF_INET6) => inet_socket::open(ctx, true, kind, protocol)?,
        Ok(AF_UNIX) => unix_socket::open(ctx, kind, protocol)?,
        Ok(AF_NETLINK) => netlink::open(kind, protocol)?,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    install(ctx, file, flags)
}

/// socketpair(2).
pub fn socketpair(
    ctx: &Ctx,
    domain: Domain,
    kind: SocketType,
    protocol: i32,
    out: UserPtr<[i32; 2]>,
) -> Result {
    let (kind, flags) = split_type(kind)?;
    match u16::try_from(domain.0) {
        Ok(AF_UNIX) => {}
        Ok(AF_INET | AF_INET6) => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EAFNOSUPPORT),
    }
    let (one, two) = unix_socket::pair(ctx, kind, protocol)?;
    let first = install(ctx, one, flags)? as i32;
    let second = install(ctx, two, flags).inspect_err(|_| close_quietly(ctx, first))? as i32;
    out.write([first, second]).inspect_err(|_| {
        close_quietly(ctx, first);
        close_quietly(ctx, second);
    })?;
    Ok(0)
}

/// bind(2).
pub fn bind(ctx: &Ctx, fd: Fd, address: UserPtr<u8>, len: u32) -> Result {
    let open = ctx.file(fd)?;
    as_socket(&open)?.bind(ctx, &SockAddr::read(address, len)?).map(|()| 0)
}

/// listen(2).
pub fn listen(ctx: &Ctx, fd: Fd, backlog: i32) -> Result {
    let open = ctx.file(fd)?;
    as_socket(&open)?.listen(ctx, backlog).map(|()| 0)
}

/// accept(2).
pub fn accept(ctx: &Ctx, fd: Fd, address: UserPtr<u8>, len: UserPtr<u32>) -> Result {
    accept4(ctx, fd, address, len, SocketType(0))
}

/// accept4(2).
pub fn accept4(ctx: &Ctx, fd: Fd, address: UserPtr<u8>, len: UserPtr<u32>, flags: SocketType) -> Result {
    if flags.0 & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let open = ctx.file(fd)?;
    let socket = as_socket(&open)?;
    let how = Waiting::for_events(Events::READABLE)
        .exclusive()
        .until(Timeouts::deadline(&socket.timeouts().receive));
    let (file, peer) = wait::block_on(ctx, &open, how, || socket.accept(ctx))?;
    let fd = install(ctx, file, flags.0)?;
    peer.write(address, len).inspect_err(|_| close_quietly(ctx, fd as i32))?;
    Ok(fd)
}

/// connect(2).
pub fn connect(ctx: &Ctx, fd: Fd, address: UserPtr<u8>, len: u32) -> Result {
    let open = ctx.file(fd)?;
    let socket = as_socket(&open)?;
    let to = SockAddr::read(address, len)?;
    match socket.connect(ctx, &to) {
        Err(Errno::EINPROGRESS) if !open.nonblocking() => {}
        // A listener's full queue (AF_UNIX): the wait is for room.
        Err(Errno::EAGAIN) if !open.nonblocking() => {
            let how = Waiting::for_events(Events::WRITABLE);
            return wait::block_on(ctx, &open, how, || socket.connect(ctx, &to)).map(|()| 0);
        }
        done => return done.map(|()| 0),
    }
    let how = Waiting::for_events(Events::WRITABLE).until(Timeouts::deadline(&socket.timeouts().send));
    match wait::block_on(ctx, &open, how, || socket.connected()) {
        // socket(7): a connect that times out by SO_SNDTIMEO is in progress still.
        Err(Errno::EAGAIN) => Err(Errno::EINPROGRESS),
        done => done.map(|()| 0),
    }
}

/// getsockname(2).
pub fn getsockname(ctx: &Ctx, fd: Fd, address: UserPtr<u8>, len: UserPtr<u32>) -> Result {
    let open = ctx.file(fd)?;
    as_socket(&open)?.local()?.write(address, len).map(|()| 0)
}

/// getpeername(2).
pub fn getpeername(ctx: &Ctx, fd: Fd, address: UserPtr<u8>, len: UserPtr<u32>) -> Result {
    let open = ctx.file(fd)?;
    as_socket(&open)?.peer()?.write(address, len).map(|()| 0)
}

/// shutdown(2).
pub fn shutdown(ctx: &Ctx, fd: Fd, how: i32) -> Result {
    let open = ctx.file(fd)?;
    let how = match how {
        0 => How { read: true, write: false },
        1 => How { read: false, write: true },
        2 => How { read: true, write: true },
        _ => return Err(Errno::EINVAL),
    };
    as_socket(&open)?.shutdown(how).map(|()| 0)
}

/// sendto(2).
pub fn sendto(
    ctx: &Ctx,
    fd: Fd,
    bytes: BytesIn,
    count: usize,
    flags: MsgFlags,
    address: UserPtr<u8>,
    len: u32,
) -> Result {
    let open = ctx.file(fd)?;
    let socket = as_socket(&open)?;
    let to = if address.is_null() { None } else { Some(SockAddr::read(address, len)?) };
    let mut message = Outgoing { flags: flags.0, to, control: Vec::new() };
    send_all(ctx, &open, socket, &mut UserBuffer::new(bytes.0, count)?, &mut message)
}

/// recvfrom(2).
pub fn recvfrom(
    ctx: &Ctx,
    fd: Fd,
    buffer: UserPtr<u8>,
    count: usize,
    flags: MsgFlags,
    address: UserPtr<u8>,
    len: UserPtr<u32>,
) -> Result {
    let open = ctx.file(fd)?;
    let socket = as_socket(&open)?;
    let mut message = Incoming { flags: flags.0, ..Incoming::default() };
    let mut into = UserBuffer::new(buffer.address(), count)?;
    let received = receive_all(ctx, &open, socket, &mut into, &mut message)?;
    if !address.is_null() {
        message.from.unwrap_or(SockAddr::EMPTY).write(address, len)?;
    }
    Ok(received)
}

/// The kernel's `struct user_msghdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MsgHdr {
    name: usize,
    name_len: u32,
    pad0: u32,
    iov: usize,
    iov_count: usize,
    control: usize,
    control_len: usize,
    flags: u32,
    pad1: u32,
}

/// The kernel's `struct mmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MmsgHdr {
    header: MsgHdr,
    len: u32,
    pad: u32,
}

/// sendmsg(2).
pub fn sendmsg(ctx: &Ctx, fd: Fd, message: UserPtr<MsgHdr>, flags: MsgFlags) -> Result {
    let open = ctx.file(fd)?;
    send_message(ctx, &open, message.read()?, flags.0)
}

/// recvmsg(2).
pub fn recvmsg(ctx: &Ctx, fd: Fd, message: UserPtr<MsgHdr>, flags: MsgFlags) -> Result {
    let open = ctx.file(fd)?;
    receive_message(ctx, &open, message, flags.0)
}

/// sendmmsg(2).
pub fn sendmmsg(ctx: &Ctx, fd: Fd, messages: UserPtr<MmsgHdr>, count: u32, flags: MsgFlags) -> Result {
    let open = ctx.file(fd)?;
    for index in 0..count.min(MESSAGES_MAX) as usize {
        let at = messages.at(index);
        match at.read().and_then(|m| send_message(ctx, &open, m.header, flags.0)) {
            Ok(sent) => message_len(at).write(sent as u32)?,
            Err(errno) if index == 0 => return Err(errno),
            Err(_) => return Ok(index),
        }
    }
    Ok(count.min(MESSAGES_MAX) as usize)
}

/// recvmmsg(2).
pub fn recvmmsg(
    ctx: &Ctx,
    fd: Fd,
    messages: UserPtr<MmsgHdr>,
    count: u32,
    flags: MsgFlags,
    timeout: UserPtr<time::Timespec>,
) -> Result {
    let open = ctx.file(fd)?;
    let deadline = timeout.read_optional()?.map(|t| time::now().after(t.to_ns()));
    let mut flags = flags.0;
    for index in 0..count.min(MESSAGES_MAX) as usize {
        let at = messages.at(index);
        match receive_message(ctx, &open, at.cast(), flags & !MSG_WAITFORONE) {
            Ok(received) => message_len(at).write(received as u32)?,
            Err(errno) if index == 0 => return Err(errno),
            Err(_) => return Ok(index),
        }
        if flags & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT;
        }
        // recvmmsg(2), BUGS: the timeout is looked at after each datagram only.
        if deadline.is_some_and(|at| time::now() >= at) {
            return Ok(index + 1);
        }
    }
    Ok(count.min(MESSAGES_MAX) as usize)
}

fn message_len(at: UserPtr<MmsgHdr>) -> UserPtr<u32> {
    UserPtr::new(at.address() + core::mem::offset_of!(MmsgHdr, len))
}

/// setsockopt(2).
pub fn setsockopt(ctx: &Ctx, fd: Fd, level: SocketLevel, name: i32, value: UserPtr<u8>, len: i32) -> Result {
    let open = ctx.file(fd)?;
    let socket = as_socket(&open)?;
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let mut bytes = [0u8; 256];
    let bytes = bytes.get_mut(..len.min(256)).ok_or(Errno::EINVAL)?;
    user::read_bytes(value.address(), bytes)?;
    if level.0 == SOL_SOCKET && (name == SO_RCVTIMEO || name == SO_SNDTIMEO) {
        return set_timeout(socket.timeouts(), name, bytes).map(|()| 0);
    }
    socket.set_option(ctx, level.0, name, bytes).map(|()| 0)
}

/// getsockopt(2).
pub fn getsockopt(
    ctx: &Ctx,
    fd: Fd,
    level: SocketLevel,
    name: i32,
    value: UserPtr<u8>,
    len: UserPtr<u32>,
) -> Result {
    let open = ctx.file(fd)?;
    let socket = as_socket(&open)?;
    let room = usize::try_from(len.read()? as i32).map_err(|_| Errno::EINVAL)?;
    let answer = match (level.0, name) {
        (SOL_SOCKET, SO_RCVTIMEO) => timeout_bytes(&socket.timeouts().receive),
        (SOL_SOCKET, SO_SNDTIMEO) => timeout_bytes(&socket.timeouts().send),
        (level, name) => socket.option(ctx, level, name, room)?,
    };
    let count = answer.len().min(room);
    user::write_bytes(value.address(), &answer[..count])?;
    len.write(count as u32).map(|()| 0)
}

/// `struct timeval`: seconds, microseconds.
fn set_timeout(timeouts: &Timeouts, name: i32, bytes: &[u8]) -> Result<()> {
    let word =
        |at: usize| bytes.get(at..at + 8).map(|b| i64::from_ne_bytes(b.try_into().unwrap_or_default()));
    let (Some(sec), Some(usec)) = (word(0), word(8)) else { return Err(Errno::EINVAL) };
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    // As Linux: a negative number of seconds is a timeout that has passed.
    let ns =
        if sec < 0 { 1 } else { (sec as u64).saturating_mul(SECOND) + usec as u64 * (MILLISECOND / 1000) };
    let cell = if name == SO_RCVTIMEO { &timeouts.receive } else { &timeouts.send };
    cell.store(ns, core::sync::atomic::Ordering::Relaxed);
    Ok(())
}

fn timeout_bytes(cell: &core::sync::atomic::AtomicU64) -> Vec<u8> {
    let ns = cell.load(core::sync::atomic::Ordering::Relaxed);
    let (sec, usec) = ((ns / SECOND) as i64, (ns % SECOND / 1000) as i64);
    [sec.to_ne_bytes(), usec.to_ne_bytes()].concat()
}

fn split_type(kind: SocketType) -> Result<(i32, i32)> {
    let (kind, flags) = (kind.0 & 0xf, kind.0 & !0xf);
    if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((kind, flags))
}

fn install(ctx: &Ctx, file: Box<dyn File>, flags: i32) -> Result {
    const O_RDWR: u32 = 2;
    let status = if flags & SOCK_NONBLOCK != 0 { O_RDWR | O_NONBLOCK } else { O_RDWR };
    ctx.install(Arc::new(OpenFile::from_box(file, status)), flags & SOCK_CLOEXEC != 0)
}

fn close_quietly(ctx: &Ctx, fd: i32) {
    if let Ok(open) = ctx.process.fds.remove(fd) {
        crate::fd::release(open);
    }
}

/// Sends everything that a blocking call was given (a stream waits for room), or what fits.
fn send_all(
    ctx: &Ctx,
    open: &OpenFile,
    socket: &dyn Socket,
    from: &mut dyn Source,
    message: &mut Outgoing,
) -> Result {
    let dont_wait = message.flags & MSG_DONTWAIT != 0 || open.nonblocking();
    let how = Waiting::for_events(Events::WRITABLE).until(Timeouts::deadline(&socket.timeouts().send));
    let mut sent = 0;
    if message.flags & MSG_FASTOPEN != 0 && socket.is_stream() {
        sent = open_by_sending(ctx, open, socket, from, message, dont_wait)?;
        if dont_wait || from.remaining() == 0 {
            return Ok(sent);
        }
    }
    let result = loop {
        let once = if dont_wait {
            socket.send(ctx, from, message)
        } else {
            wait::block_on(ctx, open, how, || socket.send(ctx, from, message))
        };
        match once {
            Ok(count) => {
                sent += count;
                if !socket.is_stream() || dont_wait || count == 0 || from.remaining() == 0 {
                    break Ok(sent);
                }
            }
            // What is under way counts; the error will come again with the next call.
            Err(_) if sent > 0 => break Ok(sent),
            Err(errno) => break Err(errno),
        }
    };
    if message.flags & MSG_ZEROCOPY != 0 && matches!(result, Ok(1..)) {
        socket.sent_zero_copy();
    }
    if result == Err(Errno::EPIPE) && socket.is_stream() && message.flags & MSG_NOSIGNAL == 0 {
        signal::send_task(ctx.task, signal::Info::from_user(signal::number::SIGPIPE, 0, ctx)).ok();
    }
    result
}

/// sendto(2) with MSG_FASTOPEN: connect(2), with the first bytes in the SYN if the peer takes them. A blocking call waits
/// for the handshake, as on Linux; the rest is sent as always.
fn open_by_sending(
    ctx: &Ctx,
    open: &OpenFile,
    socket: &dyn Socket,
    from: &mut dyn Source,
    message: &mut Outgoing,
    dont_wait: bool,
) -> Result {
    let taken = socket.send(ctx, from, message);
    message.flags &= !MSG_FASTOPEN;
    let sent = match taken {
        Err(Errno::EINPROGRESS) if !dont_wait => 0,
        taken => taken?,
    };
    if !dont_wait {
        let how = Waiting::for_events(Events::WRITABLE).until(Timeouts::deadline(&socket.timeouts().send));
        wait::block_on(ctx, open, how, || socket.connected())?;
    }
    Ok(sent)
}

/// write(2) and writev(2) on a socket: as send(2) without flags. SIGPIPE included.
pub fn write(ctx: &Ctx, open: &OpenFile, socket: &dyn Socket, from: &mut dyn Source) -> Result {
    send_all(ctx, open, socket, from, &mut Outgoing::default())
}

/// read(2) and readv(2) on a socket: as recv(2) without flags.
pub fn read(ctx: &Ctx, open: &OpenFile, socket: &dyn Socket, into: &mut dyn Sink) -> Result {
    receive_all(ctx, open, socket, into, &mut Incoming::default())
}

fn receive_all(
    ctx: &Ctx,
    open: &OpenFile,
    socket: &dyn Socket,
    into: &mut dyn Sink,
    message: &mut Incoming,
) -> Result {
    let dont_wait = message.flags & (MSG_DONTWAIT | MSG_ERRQUEUE) != 0 || open.nonblocking();
    let wait_all =
        message.flags & (MSG_WAITALL | MSG_PEEK) == MSG_WAITALL && socket.is_stream() && !dont_wait;
    let how = Waiting::for_events(Events::READABLE | Events::RDHUP)
        .until(Timeouts::deadline(&socket.timeouts().receive));
    let mut received = 0;
    loop {
        let once = if dont_wait {
            socket.receive(ctx, into, message)
        } else {
            wait::block_on(ctx, open, how, || socket.receive(ctx, into, message))
        };
        match once {
            Ok(count) => {
                received += count;
                if !wait_all || count == 0 || into.remaining() == 0 {
                    return Ok(received);
                }
            }
            Err(_) if received > 0 => return Ok(received),
            Err(errno) => return Err(errno),
        }
    }
}

fn send_message(ctx: &Ctx, open: &OpenFile, header: MsgHdr, flags: u32) -> Result {
    let socket = as_socket(open)?;
    let to = match header.name {
        0 => None,
        _ if header.name_len == 0 => None,
        name => Some(SockAddr::read(UserPtr::new(name), header.name_len)?),
    };
    let control = read_control(header.control, header.control_len)?;
    let mut from = UserVec::new(UserPtr::<Iovec>::new(header.iov), header.iov_count)
        .map_err(|e| if e == Errno::EINVAL { Errno::EMSGSIZE } else { e })?;
    send_all(ctx, open, socket, &mut from, &mut Outgoing { flags, to, control })
}

fn receive_message(ctx: &Ctx, open: &OpenFile, at: UserPtr<MsgHdr>, flags: u32) -> Result {
    let socket = as_socket(open)?;
    let mut header = at.read()?;
    let mut into = UserVec::new(UserPtr::<Iovec>::new(header.iov), header.iov_count)
        .map_err(|e| if e == Errno::EINVAL { Errno::EMSGSIZE } else { e })?;
    let control_room = if header.control == 0 { 0 } else { header.control_len };
    let mut message = Incoming { flags, control_room, ..Incoming::default() };
    let received = receive_all(ctx, open, socket, &mut into, &mut message)?;
    let from = message.from.unwrap_or(SockAddr::EMPTY);
    if header.name != 0 {
        let bytes = from.bytes();
        user::write_bytes(header.name, &bytes[..bytes.len().min(header.name_len as usize)])?;
        header.name_len = bytes.len() as u32;
    }
    let (control_len, cut) = write_control(header.control, header.control_len, &message.control)?;
    header.control_len = control_len;
    header.flags = message.result_flags | if cut { MSG_CTRUNC } else { 0 } | flags & MSG_CMSG_CLOEXEC;
    at.write(header)?;
    Ok(received)
}

/// `struct cmsghdr`: length with this header, level, type; then data, all aligned to eight bytes.
const CONTROL_HEADER: usize = 16;

fn read_control(at: usize, len: usize) -> Result<Vec<Control>> {
    if at == 0 || len == 0 {
        return Ok(Vec::new());
    }
    if len > CONTROL_MAX {
        return Err(Errno::ENOBUFS);
    }
    let bytes = UserPtr::<u8>::new(at).read_vec(len)?;
    let mut messages = Vec::new();
    let mut rest = &bytes[..];
    while rest.len() >= CONTROL_HEADER {
        let word = |range: core::ops::Range<usize>| rest.get(range).and_then(|b| b.try_into().ok());
        let total = word(0..8).map(usize::from_ne_bytes).ok_or(Errno::EINVAL)?;
        let level = rest[8..12].try_into().map(i32::from_ne_bytes).map_err(|_| Errno::EINVAL)?;
        let kind = rest[12..16].try_into().map(i32::from_ne_bytes).map_err(|_| Errno::EINVAL)?;
        let data = rest.get(CONTROL_HEADER..total).ok_or(Errno::EINVAL)?;
        messages.push(Control { level, kind, data: data.to_vec() });
        rest = rest.get(total.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(messages)
}

/// Writes control messages as far as they fit; answers the bytes used and whether some were cut.
fn write_control(at: usize, room: usize, messages: &[Control]) -> Result<(usize, bool)> {
    let mut used = 0;
    for message in messages {
        let total = CONTROL_HEADER + message.data.len();
        if at == 0 || used + total > room {
            return Ok((used, true));
        }
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(&total.to_ne_bytes());
        bytes.extend_from_slice(&message.level.to_ne_bytes());
        bytes.extend_from_slice(&message.kind.to_ne_bytes());
        bytes.extend_from_slice(&message.data);
        user::write_bytes(at + used, &bytes)?;
        used = (used + total.next_multiple_of(8)).min(room);
    }
    Ok((used, false))
}
