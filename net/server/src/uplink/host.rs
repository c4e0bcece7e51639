//! Uplink `host`: no privileges. Ends the guest's TCP and UDP in an engine of its own and goes on with
//! ordinary host sockets, both ways.
//!
//! * A published port: the host accepts, we connect to the guest, as the client's own address where
//!   that is possible (a loopback client appears as the gateway).
//! * Outgoing: the guest's SYN is a question ([`net::Incoming`]); the host connects first, and only
//!   its success answers the SYN, so that a refusal is a refusal.
//! * The gateway's addresses mean this host's loopback of that family; port 53 is the host's name server.
//! * A client comes by its own family. Where the guest does not listen by that one (a server on 0.0.0.0 alone), it
//!   comes by the other, as the gateway; a datagram cannot tell and stays with its family.
//!
//! A TCP connection through this uplink has its state in two host sockets and here: it does not
//! survive this process.

use crate::control::Place;
use crate::server::{Token, endpoint};
use crate::sys::{self, Epoll};
use net::{Bind, Endpoint, Error, Incoming, Ready, Refusal, Shard, Shutdown, SocketId, TcpFlags, TcpOption};
use platform::time::{Instant, SECOND};
use slab::Slab;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// Bytes moved for a flow before the next one has its turn.
const PUMP: usize = 256 * 1024;
/// Connections accepted at once before frames are looked at again.
const ACCEPTS: usize = 64;
/// Datagrams read from one socket at once.
const DATAGRAMS: usize = 64;
/// A UDP flow without traffic is forgotten (RFC 4787 REQ-5 asks for two minutes at least).
const UDP_IDLE_NS: u64 = 150 * SECOND;
const UDP_FLOWS: usize = 4096;

pub(crate) struct HostUplink {
    port: u32,
    epoll: Rc<Epoll>,
    /// By each family that the guest has an address of; IPv4 first.
    ends: Vec<Ends>,
    listeners: Vec<Published>,
    flows: Slab<Flow>,
    udp: Option<SocketId>,
    udp_flows: Slab<UdpFlow>,
    udp_index: HashMap<(Endpoint, Endpoint), usize>,
    next_sweep: Option<Instant>,
}

/// The two ends of a link in one family.
#[derive(Clone, Copy)]
struct Ends {
    gateway: IpAddr,
    guest: IpAddr,
}

struct Published {
    socket: Listening,
    guest_port: u16,
}

enum Listening {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// One TCP connection: a socket of the engine and one of the host.
struct Flow {
    id: SocketId,
    host: OwnedFd,
    /// The guest's SYN waits for the host's connection.
    awaiting_host: bool,
    /// Where else the guest may listen, as long as it has not answered.
    otherwise: Option<(Ends, u16)>,
    readable: bool,
    writable: bool,
    /// The host has sent FIN, and so have we to the guest.
    host_done: bool,
    /// The guest has sent FIN, and so have we to the host.
    guest_done: bool,
}

/// Datagrams between one endpoint of the guest and one of the world.
struct UdpFlow {
    guest: Endpoint,
    world: Endpoint,
    via: UdpVia,
    used: Instant,
}

enum UdpVia {
    /// A socket of its own, connected to the destination: errors of the way come back on it.
    Own(OwnedFd),
    /// A client of a published port: replies leave through that port.
    Published(usize, SocketAddr),
}

impl HostUplink {
    pub(crate) fn new(
        port: u32,
        place: &Place,
        gateway: IpAddr,
        listeners: Vec<OwnedFd>,
        epoll: Rc<Epoll>,
    ) -> io::Result<HostUplink> {
        let mut published = Vec::new();
        for (index, (publish, fd)) in place.publish.iter().zip(listeners).enumerate() {
            let token = if publish.udp { Token::PublishedUdp } else { Token::Listener };
            epoll.add(fd.as_raw_fd(), sys::IN, token(port, index as u32).pack())?;
            let socket = if publish.udp { Listening::Udp(fd.into()) } else { Listening::Tcp(fd.into()) };
            published.push(Published { socket, guest_port: publish.guest_port });
        }
        Ok(HostUplink {
            port,
            epoll,
            ends: ends(place, gateway),
            listeners: published,
            flows: Slab::new(),
            udp: None,
            udp_flows: Slab::new(),
            udp_index: HashMap::new(),
            next_sweep: None,
        })
    }

    /// Opens the socket that takes every datagram of the guest.
    pub(crate) fn start(&mut self, shard: &mut Shard) {
        let open = shard.udp_open().and_then(|id| {
            shard.udp_set(id, net::UdpOption::CatchAll(true))?;
            Ok(id)
        });
        match open {
            Ok(id) => self.udp = Some(id),
            Err(error) => eprintln!("attacca: network server: no UDP: {error}"),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// The guest has gone: nobody comes in any more.
    pub(crate) fn stop_listening(&mut self) {
        // The supervisor has them open as well: closing alone would not end the events.
        for published in &self.listeners {
            self.epoll.remove(match &published.socket {
                Listening::Tcp(listener) => listener.as_raw_fd(),
                Listening::Udp(socket) => socket.as_raw_fd(),
            });
        }
        self.listeners.clear();
    }

    /// The guest has gone: connections whose end it has sent live on until the host has everything, the
    /// others were broken off and are reset.
    pub(crate) fn end_flows(&mut self, shard: &mut Shard) {
        let indices: Vec<usize> = self.flows.iter().map(|(index, _)| index).collect();
        for index in indices {
            self.pump(shard, index);
            let Some(flow) = self.flows.get(index) else { continue };
            if !flow.guest_done && !shard.ready(flow.id).contains(Ready::PEER_CLOSED) {
                self.reset(shard, index);
            }
        }
        self.finish_flows(shard);
    }

    /// Connections of a guest that has gone are over when the host has its bytes.
    fn finish_flows(&mut self, shard: &mut Shard) {
        let done: Vec<usize> =
            self.flows.iter().filter(|(_, f)| f.guest_done).map(|(index, _)| index).collect();
        for index in done {
            let flow = self.flows.remove(index);
            shard.close(flow.id);
        }
    }

    /// Whether no connection is left.
    pub(crate) fn is_idle(&self) -> bool {
        self.flows.iter().all(|(_, flow)| flow.guest_done)
    }

    /// Everything that the engine has to tell; whether there was something.
    pub(crate) fn engine_events(&mut self, shard: &mut Shard, now: Instant) -> bool {
        let mut worked = false;
        while let Some(incoming) = shard.next_incoming() {
            worked = true;
            self.connect_out(shard, incoming);
        }
        while let Some(event) = shard.next_event() {
            worked = true;
            if Some(event.id) == self.udp {
                self.datagrams_out(shard, now);
            } else if event.cookie != 0 {
                self.guest_event(shard, event.cookie as usize - 1, event.ready, now);
            }
        }
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.sweep(now);
        }
        worked
    }

    /// A host descriptor has become ready.
    pub(crate) fn host_event(&mut self, shard: &mut Shard, token: Token, ready: u32, now: Instant) {
        match token {
            Token::Listener(_, index) => self.accept(shard, index as usize, now),
            Token::Flow(_, index) => self.flow_event(shard, index as usize, ready),
            Token::PublishedUdp(_, index) => self.datagrams_in(shard, index as usize, now),
            Token::UdpFlow(_, index) => self.replies(shard, index as usize, now),
            Token::Orders | Token::Nic | Token::Doorbell(_) | Token::Process(_) => {}
        }
    }

    // --- TCP from the host -------------------------------------------------------------------------

    fn accept(&mut self, shard: &mut Shard, index: usize, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(Published { socket: Listening::Tcp(listener), guest_port }) = self.listeners.get(index)
            else {
                return;
            };
            let (stream, client) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A client that is gone already (ECONNABORTED), or no descriptor for now.
                Err(_) => return,
            };
            let (host, port): (OwnedFd, _) = (stream.into(), *guest_port);
            let (ends, other) = self.ends_for(client.ip());
            match self.connect_in(shard, plain(client), ends, port, now) {
                Ok(id) => self.add_flow(shard, id, host, false, other.map(|ends| (ends, port))),
                Err(_) => sys::reset_on_close(host.as_raw_fd()),
            }
        }
    }

    /// By which family a client comes to the guest, and the other one.
    fn ends_for(&self, client: IpAddr) -> (Ends, Option<Ends>) {
        let v6 = client.to_canonical().is_ipv6();
        let (same, other): (Vec<Ends>, Vec<Ends>) = self.ends.iter().partition(|e| e.guest.is_ipv6() == v6);
        match same.first() {
            Some(ends) => (*ends, other.first().copied()),
            None => (self.ends[0], None),
        }
    }

    /// Connects to the guest as the client; where that name is not to be had, as the gateway.
    fn connect_in(
        &self,
        shard: &mut Shard,
        client: SocketAddr,
        ends: Ends,
        port: u16,
        now: Instant,
    ) -> net_result::Id {
        let target = Endpoint::new(ends.guest, port);
        let as_client = Bind { transparent: true, reuse_addr: true, ..Bind::default() };
        let named = |shard: &mut Shard| {
            let id = shard.tcp_open()?;
            let result = shard
                .tcp_bind(id, endpoint(client), as_client)
                .and_then(|()| started(shard.tcp_connect(id, target, now)));
            if result.is_err() {
                shard.close(id);
            }
            result.map(|()| id)
        };
        if ends.can_appear(client.ip())
            && let Ok(id) = named(shard)
        {
            return Ok(id);
        }
        self.connect_as_gateway(shard, ends, port, now)
    }

    fn connect_as_gateway(&self, shard: &mut Shard, ends: Ends, port: u16, now: Instant) -> net_result::Id {
        let target = Endpoint::new(ends.guest, port);
        let id = shard.tcp_open()?;
        let result = shard
            .tcp_bind(id, Endpoint::new(ends.gateway, 0), Bind::default())
            .and_then(|()| started(shard.tcp_connect(id, target, now)));
        if let Err(error) = result {
            shard.close(id);
            return Err(error);
        }
        Ok(id)
    }

    // --- TCP to the world --------------------------------------------------------------------------

    fn connect_out(&mut self, shard: &mut Shard, incoming: Incoming) {
        match sys::connect(self.on_host(incoming.to), false) {
            Ok(host) => self.add_flow(shard, incoming.id, host, true, None),
            Err(error) => shard.tcp_refuse(incoming.id, refusal(error.raw_os_error())),
        }
    }

    /// Where a destination of the guest's lies for the host.
    fn on_host(&self, to: Endpoint) -> SocketAddr {
        if !self.ends.iter().any(|ends| ends.gateway == to.addr) {
            return SocketAddr::new(to.addr, to.port);
        }
        if to.port == 53 {
            return SocketAddr::new(host_name_server(), 53);
        }
        let loopback = match to.addr {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        SocketAddr::new(loopback, to.port)
    }

    fn add_flow(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        host: OwnedFd,
        awaiting_host: bool,
        otherwise: Option<(Ends, u16)>,
    ) {
        let fd = host.as_raw_fd();
        sys::no_delay(fd);
        let index = self.flows.insert(Flow {
            id,
            host,
            awaiting_host,
            otherwise,
            readable: false,
            writable: false,
            host_done: false,
            guest_done: false,
        });
        let events = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
        if self.epoll.add(fd, events, Token::Flow(self.port, index as u32).pack()).is_err() {
            self.reset(shard, index);
            return;
        }
        if !awaiting_host {
            shard.set_cookie(id, index as u64 + 1);
            let _ = shard.tcp_set(id, TcpOption::NoDelay(true));
        }
    }

    fn flow_event(&mut self, shard: &mut Shard, index: usize, ready: u32) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        if flow.awaiting_host {
            if ready & (sys::OUT | sys::ERR | sys::HUP) == 0 {
                return;
            }
            match sys::take_error(flow.host.as_raw_fd()) {
                0 => {
                    flow.awaiting_host = false;
                    if shard.tcp_admit(flow.id, index as u64 + 1).is_err() {
                        self.flows.remove(index);
                        return;
                    }
                    let _ = shard.tcp_set(flow.id, TcpOption::NoDelay(true));
                }
                error => {
                    shard.tcp_refuse(flow.id, refusal(Some(error)));
                    self.flows.remove(index);
                    return;
                }
            }
        }
        flow.readable |= ready & (sys::IN | sys::RDHUP | sys::HUP | sys::ERR) != 0;
        flow.writable |= ready & sys::OUT != 0;
        self.pump(shard, index);
    }

    fn guest_event(&mut self, shard: &mut Shard, index: usize, ready: Ready, now: Instant) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let otherwise = flow.otherwise.take();
        if ready.contains(Ready::ERROR) {
            match otherwise {
                Some((ends, port)) => self.try_other(shard, index, ends, port, now),
                None => self.reset(shard, index),
            }
            return;
        }
        self.pump(shard, index);
    }

    /// The guest refuses by the client's family.
    fn try_other(&mut self, shard: &mut Shard, index: usize, ends: Ends, port: u16, now: Instant) {
        let refused = self.flows[index].id;
        match self.connect_as_gateway(shard, ends, port, now) {
            Ok(id) => {
                self.flows[index].id = id;
                shard.set_cookie(refused, 0);
                shard.close(refused);
                shard.set_cookie(id, index as u64 + 1);
                let _ = shard.tcp_set(id, TcpOption::NoDelay(true));
            }
            Err(_) => self.reset(shard, index),
        }
    }

    fn pump(&mut self, shard: &mut Shard, index: usize) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let alive = flow.feed_guest(shard) && flow.feed_host(shard);
        if !alive {
            self.reset(shard, index);
        } else if flow.host_done && flow.guest_done {
            let flow = self.flows.remove(index);
            shard.close(flow.id);
        }
    }

    /// One side broke the connection: the other hears of it as a reset.
    fn reset(&mut self, shard: &mut Shard, index: usize) {
        let flow = self.flows.remove(index);
        sys::reset_on_close(flow.host.as_raw_fd());
        shard.tcp_abort(flow.id);
    }

    // --- UDP ---------------------------------------------------------------------------------------

    /// The guest's datagrams to the world.
    fn datagrams_out(&mut self, shard: &mut Shard, now: Instant) {
        let Some(id) = self.udp else { return };
        let mut buffer = [0u8; 65536];
        for _ in 0..DATAGRAMS {
            let Ok(datagram) = shard.udp_recv(id, &mut buffer, false) else { return };
            let bytes = &buffer[..datagram.len.min(buffer.len())];
            let Some(index) = self.udp_flow(datagram.from, datagram.to, now) else { continue };
            let flow = &mut self.udp_flows[index];
            flow.used = now;
            match &flow.via {
                UdpVia::Own(fd) => drop(sys::send_bytes(fd.as_raw_fd(), bytes)),
                UdpVia::Published(listener, client) => {
                    if let Some(Published { socket: Listening::Udp(socket), .. }) =
                        self.listeners.get(*listener)
                    {
                        let _ = socket.send_to(bytes, *client);
                    }
                }
            }
        }
    }

    /// The flow of a datagram from the guest; made if it is new.
    fn udp_flow(&mut self, guest: Endpoint, world: Endpoint, now: Instant) -> Option<usize> {
        if let Some(&index) = self.udp_index.get(&(guest, world)) {
            return Some(index);
        }
        let fd = sys::connect(self.on_host(world), true).ok()?;
        let raw = fd.as_raw_fd();
        let index = self.add_udp_flow(UdpFlow { guest, world, via: UdpVia::Own(fd), used: now }, now)?;
        if self.epoll.add(raw, sys::IN, Token::UdpFlow(self.port, index as u32).pack()).is_err() {
            // A flow that could never hear an answer is none.
            self.udp_index.remove(&(guest, world));
            self.udp_flows.remove(index);
            return None;
        }
        Some(index)
    }

    fn add_udp_flow(&mut self, flow: UdpFlow, now: Instant) -> Option<usize> {
        if self.udp_flows.len() >= UDP_FLOWS {
            return None;
        }
        let key = (flow.guest, flow.world);
        let index = self.udp_flows.insert(flow);
        self.udp_index.insert(key, index);
        self.next_sweep.get_or_insert(now.after(UDP_IDLE_NS));
        Some(index)
    }

    /// What the world answers.
    fn replies(&mut self, shard: &mut Shard, index: usize, now: Instant) {
        let Some(id) = self.udp else { return };
        let mut buffer = [0u8; 65536];
        for _ in 0..DATAGRAMS {
            let Some(flow) = self.udp_flows.get_mut(index) else { return };
            let UdpVia::Own(fd) = &flow.via else { return };
            // An error is the ICMP answer to what was sent; it has no datagram to give.
            let Ok(len) = sys::recv(fd.as_raw_fd(), &mut buffer) else { return };
            flow.used = now;
            let _ = shard.udp_send(id, &[&buffer[..len]], Some(flow.guest), Some(flow.world));
        }
    }

    /// Datagrams that came to a published port.
    fn datagrams_in(&mut self, shard: &mut Shard, listener: usize, now: Instant) {
        let Some(id) = self.udp else { return };
        let mut buffer = [0u8; 65536];
        for _ in 0..DATAGRAMS {
            let Some(Published { socket: Listening::Udp(socket), guest_port }) = self.listeners.get(listener)
            else {
                return;
            };
            let Ok((len, client)) = socket.recv_from(&mut buffer) else { return };
            let (ends, _) = self.ends_for(client.ip());
            let guest = Endpoint::new(ends.guest, *guest_port);
            let name = plain(client).ip();
            let appears = if ends.can_appear(name) { name } else { ends.gateway };
            let world = Endpoint::new(appears, client.port());
            if !self.udp_index.contains_key(&(guest, world)) {
                let via = UdpVia::Published(listener, client);
                if self.add_udp_flow(UdpFlow { guest, world, via, used: now }, now).is_none() {
                    continue;
                }
            }
            let _ = shard.udp_send(id, &[&buffer[..len]], Some(guest), Some(world));
        }
    }

    fn sweep(&mut self, now: Instant) {
        let old = |flow: &UdpFlow| now.since(flow.used) >= UDP_IDLE_NS;
        self.udp_flows.retain(|_, flow| {
            let keep = !old(flow);
            if !keep {
                self.udp_index.remove(&(flow.guest, flow.world));
            }
            keep
        });
        let oldest = self.udp_flows.iter().map(|(_, flow)| flow.used).min();
        self.next_sweep = oldest.map(|used| used.after(UDP_IDLE_NS));
    }
}

impl Ends {
    /// Whether a guest can answer a packet from this address: a loopback address would stay inside it, one of this
    /// link's neighbours has no name on another.
    fn can_appear(self, client: IpAddr) -> bool {
        let elsewhere = match client {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
        };
        elsewhere && client.is_ipv6() == self.guest.is_ipv6() && client != self.guest
    }
}

fn ends(place: &Place, gateway: IpAddr) -> Vec<Ends> {
    let v6 = place.address6.zip(place.gateway6);
    let v6 = v6.map(|((guest, _), gateway)| Ends { gateway: gateway.into(), guest: guest.into() });
    std::iter::once(Ends { gateway, guest: place.address }).chain(v6).collect()
}

/// A client of a socket for both families (ipv6(7)): by its own.
fn plain(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

impl Flow {
    /// Host to guest. `false`: the connection is broken.
    fn feed_guest(&mut self, shard: &mut Shard) -> bool {
        let fd = self.host.as_raw_fd();
        while self.readable && !self.host_done {
            let mut outcome = Ok(0);
            let mut room = false;
            let sent = shard.tcp_send_with(self.id, PUMP, TcpFlags::empty(), &mut |piece| {
                room = true;
                outcome = sys::recv(fd, piece);
                *outcome.as_ref().unwrap_or(&0)
            });
            match sent {
                Ok(_) if !room => return true,
                Ok(_) => {}
                Err(Error::WouldBlock | Error::InProgress | Error::NotConnected) => return true,
                Err(_) => return false,
            }
            match outcome {
                Ok(0) => {
                    self.host_done = true;
                    if shard.tcp_shutdown(self.id, Shutdown::Write).is_err() {
                        return false;
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => return false,
            }
        }
        true
    }

    /// Guest to host. `false`: the connection is broken.
    fn feed_host(&mut self, shard: &mut Shard) -> bool {
        let fd = self.host.as_raw_fd();
        while self.writable && !self.guest_done {
            let mut blocked = false;
            let mut broken = false;
            let received =
                shard.tcp_recv_with(self.id, PUMP, TcpFlags::empty(), &mut |piece| match sys::send_bytes(
                    fd, piece,
                ) {
                    Ok(len) => len,
                    Err(error) => {
                        blocked = error.kind() == io::ErrorKind::WouldBlock;
                        broken = !blocked;
                        0
                    }
                });
            if broken {
                return false;
            }
            if blocked {
                self.writable = false;
                return true;
            }
            match received {
                Ok(0) => {
                    self.guest_done = true;
                    sys::shutdown_write(fd);
                }
                Ok(_) => {}
                Err(Error::WouldBlock | Error::NotConnected | Error::InProgress) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

mod net_result {
    pub(super) type Id = Result<net::SocketId, net::Error>;
}

/// "In progress" is how a connection begins.
fn started(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::InProgress) => Ok(()),
        result => result,
    }
}

/// What the guest hears when the host's connection fails.
fn refusal(errno: Option<i32>) -> Refusal {
    match errno {
        Some(libc::ENETUNREACH) => Refusal::NetworkUnreachable,
        Some(libc::EHOSTUNREACH | libc::EADDRNOTAVAIL) => Refusal::HostUnreachable,
        Some(libc::EACCES | libc::EPERM) => Refusal::Prohibited,
        Some(libc::ETIMEDOUT) => Refusal::Silence,
        _ => Refusal::Reset,
    }
}

/// The first name server of the host's resolv.conf; its own machine if none is named (resolv.conf(5)).
fn host_name_server() -> IpAddr {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .next()
        .unwrap_or(Ipv4Addr::LOCALHOST.into())
}
