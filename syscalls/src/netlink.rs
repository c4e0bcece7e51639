//! AF_NETLINK sockets of the routing family (rtnetlink(7)): what getifaddrs(3), `ip address`, `ip route` and their kin
//! ask for, answered from the engine's tables.
//!
//! Questions are answered at once, into the socket's own queue. Left out by name: changes (EPERM), groups and with
//! them news of changes (EOPNOTSUPP at bind), neighbours, rules and all other families of netlink (EPROTONOSUPPORT).

use crate::context::Ctx;
use crate::file::{File, OpenFile, Sink, Source};
use crate::hub::{Events, Hub};
use crate::net_interface::{self, ETH, LO, mask};
use crate::net_poll::home;
use crate::sockaddr::SockAddr;
use crate::socket::{
    How, Incoming, MSG_DONTROUTE, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_OOB, MSG_PEEK, MSG_TRUNC, Outgoing,
    SOCK_DGRAM, SOCK_RAW, SOL_SOCKET, Socket, Timeouts,
};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use fs::Stat;
use platform::sync::Lock;

/// `AF_NETLINK`
pub(crate) const AF_NETLINK: u16 = 16;
const NETLINK_ROUTE: i32 = 0;
const SOL_NETLINK: i32 = 270;
const NETLINK_EXT_ACK: i32 = 11;
const NETLINK_GET_STRICT_CHK: i32 = 12;
const NETLINK_CAP_ACK: i32 = 10;

/// Datagrams of an answer: what the smallest buffers in use take (a page, with room to spare).
const CHUNK: usize = 3800;
/// Bytes that may wait in a socket (`SO_RCVBUF` of Linux is of this size).
const MOST_WAITING: usize = 212_992;
/// The longest question that is read.
const LONGEST: usize = 32 << 10;

/// A socket. Its port number is its owner's process id, as Linux chooses it for the first of a process.
struct Netlink {
    kind: i32,
    port: AtomicU32,
    strict: AtomicBool,
    queue: Lock<VecDeque<Vec<u8>>>,
    hub: Hub,
    timeouts: Timeouts,
}

/// socket(2) of AF_NETLINK.
pub(crate) fn open(kind: i32, protocol: i32) -> Result<Box<dyn File>> {
    match (kind, protocol) {
        (SOCK_RAW | SOCK_DGRAM, NETLINK_ROUTE) => {}
        (SOCK_RAW | SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    }
    Ok(Box::new(Netlink {
        kind,
        port: AtomicU32::new(0),
        strict: AtomicBool::new(false),
        queue: Lock::new(VecDeque::new()),
        hub: Hub::new(),
        timeouts: Timeouts::default(),
    }))
}

/// `struct sockaddr_nl`: family, padding, port, groups.
fn address(port: u32) -> SockAddr {
    let mut bytes = [0; 12];
    bytes[..2].copy_from_slice(&AF_NETLINK.to_ne_bytes());
    bytes[4..8].copy_from_slice(&port.to_ne_bytes());
    SockAddr::from_bytes(&bytes)
}

/// Port and groups of an address.
fn named(to: &SockAddr) -> Result<(u32, u32)> {
    let bytes = to.bytes();
    if to.family() != AF_NETLINK || bytes.len() < 12 {
        return Err(Errno::EINVAL);
    }
    Ok((word(bytes, 4), word(bytes, 8)))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Netlink {
    fn take_port(&self, ctx: &Ctx) -> u32 {
        let _ = self.port.compare_exchange(0, ctx.process.pid, Ordering::Relaxed, Ordering::Relaxed);
        self.port.load(Ordering::Relaxed)
    }

    fn put(&self, datagram: Vec<u8>) {
        let mut queue = self.queue.lock();
        let waiting: usize = queue.iter().map(Vec::len).sum();
        if waiting + datagram.len() <= MOST_WAITING {
            queue.push_back(datagram);
        }
        drop(queue);
        self.hub.notify(Events::READABLE);
    }
}

impl Socket for Netlink {
    fn bind(&self, ctx: &Ctx, to: &SockAddr) -> Result<()> {
        let (port, groups) = named(to)?;
        if groups != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.port.load(Ordering::Relaxed) != 0 {
            return Err(Errno::EINVAL);
        }
        self.port.store(if port == 0 { ctx.process.pid } else { port }, Ordering::Relaxed);
        Ok(())
    }

    fn connect(&self, ctx: &Ctx, to: &SockAddr) -> Result<()> {
        match named(to)? {
            // The kernel is the only one to talk to.
            (0, 0) => {
                self.take_port(ctx);
                Ok(())
            }
            _ => Err(Errno::EPERM),
        }
    }

    fn send(&self, ctx: &Ctx, from: &mut dyn Source, message: &mut Outgoing) -> Result {
        if message.flags & !(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_DONTROUTE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(to) = &message.to
            && named(to)? != (0, 0)
        {
            return Err(Errno::EPERM);
        }
        let len = from.remaining();
        if len > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = alloc::vec![0; len];
        from.take(&mut bytes)?;
        let port = self.take_port(ctx);
        let strict = self.strict.load(Ordering::Relaxed);
        requests(&bytes)
            .for_each(|request| answer(&request, strict, port, &mut |datagram| self.put(datagram)));
        Ok(len)
    }

    fn receive(&self, _ctx: &Ctx, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut queue = self.queue.lock();
        let datagram = queue.front().ok_or(Errno::EAGAIN)?;
        let (len, room) = (datagram.len(), into.remaining());
        let copied = into.put(&datagram[..len.min(room)])?;
        if message.flags & MSG_PEEK == 0 {
            queue.pop_front();
        }
        message.from = Some(address(0));
        if len > copied {
            message.result_flags |= MSG_TRUNC;
        }
        Ok(if message.flags & MSG_TRUNC != 0 { len } else { copied })
    }

    fn shutdown(&self, _how: How) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn local(&self) -> Result<SockAddr> {
        Ok(address(self.port.load(Ordering::Relaxed)))
    }

    fn peer(&self) -> Result<SockAddr> {
        Ok(address(0))
    }

    fn set_option(&self, _ctx: &Ctx, level: i32, name: i32, value: &[u8]) -> Result<()> {
        const SO_SNDBUF: i32 = 7;
        const SO_RCVBUF: i32 = 8;
        const SO_RCVBUFFORCE: i32 = 33;
        let number = *value.first_chunk().ok_or(Errno::EINVAL)?;
        match (level, name) {
            // Room is bounded by MOST_WAITING, whatever is asked for: answers are short.
            (SOL_SOCKET, SO_SNDBUF | SO_RCVBUF | SO_RCVBUFFORCE) => Ok(()),
            (SOL_NETLINK, NETLINK_GET_STRICT_CHK) => {
                self.strict.store(i32::from_ne_bytes(number) != 0, Ordering::Relaxed);
                Ok(())
            }
            // More words in refusals are allowed, not owed.
            (SOL_NETLINK, NETLINK_EXT_ACK | NETLINK_CAP_ACK) => Ok(()),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn option(&self, _ctx: &Ctx, level: i32, name: i32, _room: usize) -> Result<Vec<u8>> {
        const SO_TYPE: i32 = 3;
        const SO_ERROR: i32 = 4;
        const SO_SNDBUF: i32 = 7;
        const SO_RCVBUF: i32 = 8;
        const SO_PROTOCOL: i32 = 38;
        const SO_DOMAIN: i32 = 39;
        let number = match (level, name) {
            (SOL_SOCKET, SO_TYPE) => self.kind,
            (SOL_SOCKET, SO_ERROR) => 0,
            (SOL_SOCKET, SO_SNDBUF | SO_RCVBUF) => MOST_WAITING as i32,
            (SOL_SOCKET, SO_PROTOCOL) => NETLINK_ROUTE,
            (SOL_SOCKET, SO_DOMAIN) => i32::from(AF_NETLINK),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    fn is_stream(&self) -> bool {
        false
    }
}

impl File for Netlink {
    fn poll(&self) -> Events {
        let readable = !self.queue.lock().is_empty();
        Events::WRITABLE | if readable { Events::READABLE } else { Events::empty() }
    }

    fn hub(&self) -> Option<&Hub> {
        Some(&self.hub)
    }

    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        self.receive(&Ctx::current(), into, &mut Incoming::default())
    }

    fn write(&self, _open: &OpenFile, _at: &mut u64, from: &mut dyn Source) -> Result {
        self.send(&Ctx::current(), from, &mut Outgoing::default())
    }

    fn ioctl(&self, _open: &OpenFile, command: u32, argument: usize) -> Result {
        net_interface::ioctl(command, argument)
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        const S_IFSOCK: u32 = 0o140000;
        *out = Stat { mode: S_IFSOCK | 0o777, nlink: 1, blksize: 4096, ..Stat::default() };
        Ok(())
    }

    fn as_socket(&self) -> Option<&dyn Socket> {
        Some(self)
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(f, "NETLINK:[ROUTE:{}]", self.port.load(Ordering::Relaxed))
    }
}

// --- questions ---------------------------------------------------------------------------------------

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_MAX: u16 = 123;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
/// NLM_F_ROOT and NLM_F_MATCH; one is enough (rtnetlink_rcv_msg of Linux).
const NLM_F_DUMP: u16 = 0x300;
/// `struct nlmsghdr`
const HEADER: usize = 16;

/// One message of a program.
struct Request<'a> {
    header: &'a [u8],
    body: &'a [u8],
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn requests(bytes: &[u8]) -> impl Iterator<Item = Request<'_>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let len = word(header, 0) as usize;
        let body = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        Some(Request { header, body, kind: half(4), flags: half(6), sequence: word(header, 8) })
    })
}

fn answer(request: &Request<'_>, strict: bool, port: u32, put: &mut dyn FnMut(Vec<u8>)) {
    // Control messages (NOOP, ERROR, DONE) want no answer, and neither does what is no request.
    if request.flags & NLM_F_REQUEST == 0 || request.kind < RTM_NEWLINK {
        return;
    }
    let family = request.body.first().copied().unwrap_or(0);
    let dump = request.flags & NLM_F_DUMP != 0;
    let index = if strict && request.body.len() >= 8 { word(request.body, 4) } else { 0 };
    let result = match (request.kind, dump) {
        (RTM_GETLINK, true) => Ok(links(None)),
        (RTM_GETLINK, false) => one_link(request.body).map(|found| links(Some(found))),
        (RTM_GETADDR, true) => Ok(addresses(family, index)),
        (RTM_GETROUTE, true) => Ok(routes(family)),
        // Changes: NEW, DEL and SET of everything.
        (RTM_NEWLINK..=RTM_MAX, _) if request.kind % 4 != 2 => Err(Errno::EPERM),
        _ => Err(Errno::EOPNOTSUPP),
    };
    match result {
        Ok(messages) => {
            let mut out = Datagrams { port, sequence: request.sequence, dump, bytes: Vec::new(), put };
            messages.into_iter().for_each(|(kind, body)| out.message(kind, &body));
            if dump {
                out.message(NLMSG_DONE, &0i32.to_ne_bytes());
            } else if request.flags & NLM_F_ACK != 0 {
                out.message(NLMSG_ERROR, &refusal(request, 0));
            }
            out.end();
        }
        Err(error) => {
            let mut out = Datagrams { port, sequence: request.sequence, dump: false, bytes: Vec::new(), put };
            out.message(NLMSG_ERROR, &refusal(request, error.0));
            out.end();
        }
    }
}

/// `struct nlmsgerr`: the errno, then the head of what it is about.
fn refusal(request: &Request<'_>, errno: i32) -> Vec<u8> {
    let mut bytes = (-errno).to_ne_bytes().to_vec();
    bytes.extend_from_slice(request.header);
    bytes
}

/// Messages put together to datagrams.
struct Datagrams<'a> {
    port: u32,
    sequence: u32,
    dump: bool,
    bytes: Vec<u8>,
    put: &'a mut dyn FnMut(Vec<u8>),
}

impl Datagrams<'_> {
    fn message(&mut self, kind: u16, body: &[u8]) {
        let len = HEADER + body.len();
        if self.bytes.len() + len > CHUNK {
            self.end();
        }
        let flags = if self.dump { NLM_F_MULTI } else { 0 };
        self.bytes.extend_from_slice(&(len as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&self.port.to_ne_bytes());
        self.bytes.extend_from_slice(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(&mut self) {
        if !self.bytes.is_empty() {
            (self.put)(core::mem::take(&mut self.bytes));
        }
    }
}

// --- answers -----------------------------------------------------------------------------------------

/// A type and a body with its attributes.
type Message = (u16, Vec<u8>);

/// Appends an attribute (`struct rtattr`).
fn attribute(body: &mut Vec<u8>, kind: u16, data: &[u8]) {
    body.extend_from_slice(&((4 + data.len()) as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(data);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The interface that a question names, by index or by IFLA_IFNAME.
fn one_link(body: &[u8]) -> Result<u32> {
    const IFLA_IFNAME: u16 = 3;
    if body.len() < 16 {
        return Err(Errno::EINVAL);
    }
    let index = word(body, 4);
    let mut rest = &body[16..];
    let mut name = None;
    while let Some(head) = rest.get(..4) {
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let Some(data) = rest.get(4..len) else { break };
        if u16::from_ne_bytes([head[2], head[3]]) == IFLA_IFNAME {
            name = Some(data.split(|&b| b == 0).next().unwrap_or_default());
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    let found = net_interface::rows().into_iter().find(|row| match (index, name) {
        (0, Some(name)) => row.name.as_bytes() == name,
        (index, _) => row.index == index,
    });
    found.map(|row| row.index).ok_or(Errno::ENODEV)
}

fn links(only: Option<u32>) -> Vec<Message> {
    let rows = net_interface::rows().into_iter().filter(|row| only.is_none_or(|index| row.index == index));
    rows.map(|row| {
        let flags = u32::from(row.flags) | 0x1_0000; // IFF_LOWER_UP
        // struct ifinfomsg: family, padding, hardware type, index, flags, change mask.
        let mut body = alloc::vec![0, 0];
        body.extend_from_slice(&row.hardware.to_ne_bytes());
        body.extend_from_slice(&row.index.to_ne_bytes());
        body.extend_from_slice(&flags.to_ne_bytes());
        body.extend_from_slice(&[0; 4]);
        let mut name = row.name.as_bytes().to_vec();
        name.push(0);
        attribute(&mut body, 3, &name); // IFLA_IFNAME
        attribute(&mut body, 13, &1000u32.to_ne_bytes()); // IFLA_TXQLEN
        // IFLA_OPERSTATE: unknown for lo, up (RFC 2863)
        attribute(&mut body, 16, &[if row.index == LO { 0 } else { 6 }]);
        attribute(&mut body, 17, &[0]); // IFLA_LINKMODE
        attribute(&mut body, 4, &row.mtu.to_ne_bytes()); // IFLA_MTU
        attribute(&mut body, 27, &0u32.to_ne_bytes()); // IFLA_GROUP
        attribute(&mut body, 33, &[1]); // IFLA_CARRIER
        attribute(&mut body, 6, b"noqueue\0"); // IFLA_QDISC
        attribute(&mut body, 1, &row.mac); // IFLA_ADDRESS
        attribute(&mut body, 2, &if row.index == LO { [0; 6] } else { [0xff; 6] }); // IFLA_BROADCAST
        let [received, sent] = net_interface::traffic(row.index);
        // struct rtnl_link_stats64: packets in and out, bytes in and out, then 20 more that nobody counts.
        let mut words = [0u64; 24];
        words[..4].copy_from_slice(&[received.0, sent.0, received.1, sent.1]);
        let wide: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let narrow: Vec<u8> = words.iter().flat_map(|word| (*word as u32).to_ne_bytes()).collect();
        attribute(&mut body, 23, &wide); // IFLA_STATS64
        attribute(&mut body, 7, &narrow); // IFLA_STATS
        (RTM_NEWLINK, body)
    })
    .collect()
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_OPTIMISTIC: u32 = 4;
const IFA_F_PERMANENT: u32 = 0x80;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;

/// An address as the answers below want it.
struct Own {
    index: u32,
    address: IpAddr,
    prefix: u8,
    flags: u32,
    /// Seconds that it is preferred and valid.
    lives: [u32; 2],
}

fn own(family: u8) -> Vec<Own> {
    const FOREVER: [u32; 2] = [u32::MAX; 2];
    let mut all = Vec::new();
    if family != AF_INET6 {
        for row in net_interface::rows() {
            all.extend(row.addresses.iter().map(|&(address, prefix)| Own {
                index: row.index,
                address: address.into(),
                prefix,
                flags: IFA_F_PERMANENT,
                lives: FOREVER,
            }));
        }
    }
    if family == AF_INET {
        return all;
    }
    let host = Own {
        index: LO,
        address: Ipv6Addr::LOCALHOST.into(),
        prefix: 128,
        flags: IFA_F_PERMANENT,
        lives: FOREVER,
    };
    all.push(host);
    let stack = home();
    let now_ms = platform::time::now().0 / platform::time::MILLISECOND;
    let left = |until: u64| if until == 0 { u32::MAX } else { (until.saturating_sub(now_ms) / 1000) as u32 };
    all.extend(stack.shard.addresses().1.iter().map(|own| {
        let deprecated = own.preferred_until_ms != 0 && own.preferred_until_ms <= now_ms;
        let flags = [
            (deprecated, IFA_F_DEPRECATED),
            // In use while it is tested (RFC 4429): who skips tentative addresses would miss it.
            (own.tentative, IFA_F_OPTIMISTIC),
            (own.valid_until_ms == 0, IFA_F_PERMANENT),
        ];
        Own {
            index: ETH,
            address: own.addr.into(),
            prefix: own.prefix,
            flags: flags.iter().map(|&(is, flag)| if is { flag } else { 0 }).sum(),
            lives: [left(own.preferred_until_ms), left(own.valid_until_ms)],
        }
    }));
    all
}

fn addresses(family: u8, index: u32) -> Vec<Message> {
    let wanted = own(family).into_iter().filter(|own| index == 0 || own.index == index);
    wanted
        .map(|own| {
            let scope = match own.address {
                _ if own.index == LO => SCOPE_HOST,
                IpAddr::V6(v6) if v6.is_unicast_link_local() => SCOPE_LINK,
                _ => 0,
            };
            let family = if own.address.is_ipv4() { AF_INET } else { AF_INET6 };
            // struct ifaddrmsg: family, prefix length, flags, scope, index.
            let mut body = alloc::vec![family, own.prefix, own.flags as u8, scope];
            body.extend_from_slice(&own.index.to_ne_bytes());
            let octets = octets(own.address);
            attribute(&mut body, 1, &octets); // IFA_ADDRESS
            if let IpAddr::V4(v4) = own.address {
                attribute(&mut body, 2, &octets); // IFA_LOCAL
                if own.index != LO && own.prefix < 31 {
                    let all = u32::from(v4) | !mask(own.prefix);
                    attribute(&mut body, 4, &all.to_be_bytes()); // IFA_BROADCAST
                }
                attribute(&mut body, 3, if own.index == LO { b"lo\0" } else { b"eth0\0" }); // IFA_LABEL
            }
            // IFA_CACHEINFO: preferred, valid, two times that nobody keeps.
            let lives: Vec<u8> =
                own.lives.iter().chain(&[0, 0]).flat_map(|word| word.to_ne_bytes()).collect();
            attribute(&mut body, 6, &lives);
            attribute(&mut body, 8, &own.flags.to_ne_bytes()); // IFA_FLAGS
            (RTM_NEWADDR, body)
        })
        .collect()
}

fn routes(family: u8) -> Vec<Message> {
    const MAIN: u8 = 254;
    const KERNEL: u8 = 2;
    const STATIC: u8 = 4;
    const RA: u8 = 9;
    let stack = home();
    let sources = stack.shard.addresses().0;
    let fits = |v4: bool| family == 0 || family == if v4 { AF_INET } else { AF_INET6 };
    let entries = stack.shard.routes().filter(|entry| fits(entry.prefix.address.is_ipv4()));
    entries
        .map(|entry| {
            let v4 = entry.prefix.address.is_ipv4();
            let protocol = match (entry.via, entry.expires_ms) {
                (None, 0) => KERNEL,
                (_, 0) => STATIC,
                _ => RA,
            };
            let scope = if entry.via.is_none() && v4 { SCOPE_LINK } else { 0 };
            // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
            let family = if v4 { AF_INET } else { AF_INET6 };
            let mut body =
                alloc::vec![family, entry.prefix.prefix, 0, 0, MAIN, protocol, scope, 1, 0, 0, 0, 0];
            attribute(&mut body, 15, &u32::from(MAIN).to_ne_bytes()); // RTA_TABLE
            let network = network(entry.prefix.address, entry.prefix.prefix);
            if entry.prefix.prefix != 0 {
                attribute(&mut body, 1, &octets(network)); // RTA_DST
            }
            if entry.metric != 0 {
                attribute(&mut body, 6, &entry.metric.to_ne_bytes()); // RTA_PRIORITY
            }
            if let Some(via) = entry.via {
                attribute(&mut body, 5, &octets(via)); // RTA_GATEWAY
            } else if let Some((own, _)) =
                sources.iter().find(|(own, bits)| self::network((*own).into(), *bits) == network)
            {
                attribute(&mut body, 7, &own.octets()); // RTA_PREFSRC
            }
            attribute(&mut body, 4, &ETH.to_ne_bytes()); // RTA_OIF
            (RTM_NEWROUTE, body)
        })
        .collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & mask(prefix)).into()),
        IpAddr::V6(v6) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: u16, flags: u16, body: &[u8]) -> Vec<Vec<u8>> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(body);
        let mut got = Vec::new();
        requests(&bytes).for_each(|request| answer(&request, false, 42, &mut |datagram| got.push(datagram)));
        got
    }

    #[test]
    fn changes_are_refused_and_unknown_questions_too() {
        let errno = |got: Vec<Vec<u8>>| {
            assert_eq!(u16::from_ne_bytes([got[0][4], got[0][5]]), NLMSG_ERROR);
            assert_eq!((word(&got[0], 8), word(&got[0], 12)), (7, 42), "sequence and port come back");
            -(word(&got[0], HEADER) as i32)
        };
        assert_eq!(errno(ask(RTM_NEWADDR, NLM_F_REQUEST, &[0; 8])), Errno::EPERM.0);
        assert_eq!(errno(ask(RTM_GETLINK + 12, NLM_F_REQUEST | NLM_F_DUMP, &[0; 12])), Errno::EOPNOTSUPP.0);
        assert_eq!(errno(ask(RTM_GETLINK, NLM_F_REQUEST, &[0; 3])), Errno::EINVAL.0);
        assert!(ask(RTM_GETLINK, 0, &[0; 16]).is_empty(), "no request");
        assert!(ask(NLMSG_DONE, NLM_F_REQUEST, &[]).is_empty());
    }

    #[test]
    fn broken_questions_end_nothing() {
        for len in 0..40usize {
            for claimed in [0u32, 1, 15, 16, 17, 40, 4096, u32::MAX] {
                let mut bytes = alloc::vec![0xffu8; len];
                if let Some(head) = bytes.get_mut(..4) {
                    head.copy_from_slice(&claimed.to_ne_bytes());
                }
                assert!(requests(&bytes).count() <= 3);
            }
        }
    }

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let mut body = Vec::new();
        attribute(&mut body, 3, b"lo\0");
        assert_eq!(body, [7, 0, 3, 0, b'l', b'o', 0, 0]);
    }
}
