//! The supervisor: holds what must outlive a server, starts servers, and is small enough to trust.
//!
//! It keeps each guest's link memory, doorbells and published host sockets, and the port map. It looks
//! into no frame. When the server ends, the next one is started and told of every guest again.

use crate::control::{self, Order, Place, Reply, Request};
use crate::port_map::PortMap;
use crate::{GuestRequest, Publish, server, sys};
use net::ring::{Layout, Link};
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The addresses of a network that needs no coordination with others: RFC 1918, chosen away from the
/// usual home and office ranges.
const NETWORK: [u8; 3] = [10, 0, 2];
const PREFIX: u8 = 24;
const GATEWAY: u8 = 2;
const FIRST_GUEST: u8 = 15;
/// Both ends are engines over memory: frames may be as long as IPv4 allows.
const MTU: u32 = 65535;
/// Bytes of each ring: eight of the longest frames, and a cache holds them.
const RING_BYTES: u32 = 1 << 19;
/// A guest's descriptors go to the server in one message: its link, two doorbells, and its listeners.
const MOST_PUBLISHED: usize = sys::MAX_FDS - 3;
/// A server that lived shorter than this is in a crash loop: the next one waits.
const STABLE: Duration = Duration::from_secs(2);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

struct Guest {
    id: u32,
    place: Place,
    control: OwnedFd,
    link: OwnedFd,
    to_server: OwnedFd,
    to_guest: OwnedFd,
    listeners: Vec<OwnedFd>,
}

struct Server {
    orders: OwnedFd,
    pid: libc::pid_t,
    started: Instant,
}

struct Supervisor {
    guests: Vec<Guest>,
    server: Option<Server>,
    port_map: PortMap,
    next_id: u32,
    backoff: Duration,
    restart_at: Option<Instant>,
}

/// Serves one guest's own network until the guest is gone.
pub(crate) fn run_private(control: OwnedFd, log: &Path) -> ! {
    sys::become_daemon(c"attacca-net", Some(log));
    let outcome = Supervisor::new().and_then(|mut s| s.run(control));
    if let Err(error) = &outcome {
        eprintln!("attacca: network supervisor: {error}");
    }
    // A log that says nothing is litter.
    if std::fs::metadata(log).is_ok_and(|m| m.len() == 0) {
        let _ = std::fs::remove_file(log);
    }
    sys::exit(i32::from(outcome.is_err()))
}

impl Supervisor {
    fn new() -> io::Result<Supervisor> {
        Ok(Supervisor {
            guests: Vec::new(),
            server: None,
            port_map: PortMap::create()?,
            next_id: 1,
            backoff: Duration::from_millis(10),
            restart_at: None,
        })
    }

    fn run(&mut self, first: OwnedFd) -> io::Result<()> {
        if !self.admit(first) {
            return Ok(());
        }
        self.start_server()?;
        while !self.guests.is_empty() {
            let mut fds: Vec<_> = self.guests.iter().map(|g| g.control.as_raw_fd()).collect();
            fds.extend(self.server.as_ref().map(|s| s.orders.as_raw_fd()));
            let timeout = self
                .restart_at
                .map_or(-1, |at| at.saturating_duration_since(Instant::now()).as_millis() as i32 + 1);
            let ready = sys::poll_readable(&fds, timeout)?;
            if ready.get(self.guests.len()) == Some(&true) {
                self.server_ended();
            }
            if self.restart_at.is_some_and(|at| at <= Instant::now()) {
                self.start_server()?;
            }
            // A guest says nothing after it has joined: readable means closed (or broken).
            for at in (0..self.guests.len()).rev().filter(|&at| ready[at]) {
                self.remove(at);
            }
        }
        self.stop_server();
        Ok(())
    }

    /// Answers a client's request. Whether a guest joined.
    fn admit(&mut self, control: OwnedFd) -> bool {
        let request = match control::receive::<Request>(control.as_fd()) {
            Ok(Some((Request::Attach(request), _))) => request,
            _ => return false,
        };
        match self.make_guest(&request) {
            Ok(mut guest) => {
                let fds = [guest.link.as_fd(), guest.to_server.as_fd(), guest.to_guest.as_fd()];
                if control::send(control.as_fd(), &Reply::Attached(guest.place.clone()), &fds).is_err() {
                    return false;
                }
                guest.control = control;
                self.port_map.own_address(guest.place.address, guest.id);
                self.guests.push(guest);
                true
            }
            Err(error) => {
                let _ = control::send(control.as_fd(), &Reply::Failed(error.to_string()), &[]);
                false
            }
        }
    }

    fn make_guest(&mut self, request: &GuestRequest) -> io::Result<Guest> {
        let id = self.next_id;
        let host = FIRST_GUEST
            .checked_add((id - 1).try_into().unwrap_or(u8::MAX))
            .filter(|&h| h < 255)
            .ok_or_else(|| io::Error::other("the network has no address left"))?;
        if request.publish.len() > MOST_PUBLISHED {
            let words = format!("a guest can publish {MOST_PUBLISHED} ports at most");
            return Err(io::Error::other(words));
        }
        let mut publish = request.publish.clone();
        let listeners = publish.iter_mut().map(listen).collect::<io::Result<Vec<_>>>()?;
        let layout = Layout { queues: request.queues.clamp(1, 64), capacity: RING_BYTES };
        let link = make_link(layout)?;
        self.next_id += 1;
        let place = Place {
            mac: mac(host),
            address: address(host),
            prefix: PREFIX,
            gateway: address(GATEWAY),
            gateway_mac: mac(GATEWAY),
            mtu: MTU,
            publish,
        };
        // The control socket is put in when the guest has its answer.
        let control = sys::eventfd()?;
        let (to_server, to_guest) = (sys::eventfd()?, sys::eventfd()?);
        Ok(Guest { id, place, control, link, to_server, to_guest, listeners })
    }

    fn remove(&mut self, at: usize) {
        let guest = self.guests.remove(at);
        self.port_map.release(guest.id);
        if let Some(server) = &self.server {
            let _ = control::send(server.orders.as_fd(), &Order::Remove(guest.id), &[]);
        }
    }

    fn start_server(&mut self) -> io::Result<()> {
        self.restart_at = None;
        let (ours, theirs) = sys::seqpacket_pair()?;
        let pid = match sys::fork()? {
            sys::Fork::Parent(pid) => pid,
            sys::Fork::Child => {
                drop(ours);
                // What is the supervisor's alone must not live on in a server: a guest's control
                // socket held here would hide that the supervisor has died.
                self.guests.clear();
                server::run(theirs, &self.port_map)
            }
        };
        drop(theirs);
        self.server = Some(Server { orders: ours, pid, started: Instant::now() });
        for guest in &self.guests {
            self.order_add(guest)?;
        }
        Ok(())
    }

    fn order_add(&self, guest: &Guest) -> io::Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        let mut fds: Vec<BorrowedFd<'_>> =
            vec![guest.link.as_fd(), guest.to_server.as_fd(), guest.to_guest.as_fd()];
        fds.extend(guest.listeners.iter().map(|l| l.as_fd()));
        control::send(server.orders.as_fd(), &Order::Add(guest.id, guest.place.clone()), &fds)
    }

    fn server_ended(&mut self) {
        let Some(server) = self.server.take() else { return };
        let status = sys::wait(server.pid, true).ok().flatten();
        eprintln!("attacca: the network server ended ({}); starting the next one", describe(status));
        self.backoff = if server.started.elapsed() > STABLE {
            Duration::ZERO
        } else {
            (self.backoff * 2).clamp(Duration::from_millis(10), LONGEST_BACKOFF)
        };
        self.restart_at = Some(Instant::now() + self.backoff);
    }

    fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            // Closing its orders ends it.
            drop(server.orders);
            let _ = sys::wait(server.pid, true);
        }
    }
}

fn describe(status: Option<i32>) -> String {
    match status {
        Some(s) if libc::WIFSIGNALED(s) => format!("signal {}", libc::WTERMSIG(s)),
        Some(s) => format!("status {}", libc::WEXITSTATUS(s)),
        None => "unknown".into(),
    }
}

/// Opens the host's side of a published port; the port that the host chose for 0 is put in.
fn listen(publish: &mut Publish) -> io::Result<OwnedFd> {
    let name = |error: io::Error| {
        let proto = if publish.udp { "udp" } else { "tcp" };
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "it is in use: choose another host port",
            io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher host port",
            io::ErrorKind::AddrNotAvailable => "this host has no such address",
            _ => "the host refuses it",
        };
        io::Error::new(
            error.kind(),
            format!("cannot publish {proto} port {}: {advice} ({error})", publish.host),
        )
    };
    if publish.udp {
        let socket = UdpSocket::bind(publish.host).map_err(name)?;
        socket.set_nonblocking(true)?;
        publish.host = socket.local_addr()?;
        return Ok(socket.into());
    }
    let listener = TcpListener::bind(publish.host).map_err(name)?;
    listener.set_nonblocking(true)?;
    publish.host = listener.local_addr()?;
    // std listens with 128; a server under load wants the host's limit.
    // SAFETY: no memory arguments.
    sys::check(unsafe { libc::listen(listener.as_raw_fd(), 4096) })?;
    Ok(listener.into())
}

fn make_link(layout: Layout) -> io::Result<OwnedFd> {
    let fd = sys::memfd(c"attacca-link", layout.bytes())?;
    let mapping = sys::Mapping::new(fd.as_fd(), true)?;
    // SAFETY: page-aligned, as long as the layout says; nothing taken from it outlives the mapping.
    unsafe { Link::create(mapping.base, layout) }.map_err(|error| io::Error::other(error.to_string()))?;
    Ok(fd)
}

fn address(host: u8) -> IpAddr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, host).into()
}

/// A locally administered unicast address (IEEE 802: second-lowest bit of the first octet).
fn mac(host: u8) -> [u8; 6] {
    [0x02, 0xa7, 0xac, 0xca, 0, host]
}

#[cfg(test)]
pub(crate) mod testing {
    //! A guest's place without a supervisor around it.

    use super::*;

    /// The place of the first guest, its link, and the host's listeners.
    pub(crate) fn place(publish: &[Publish]) -> (Place, OwnedFd, Vec<OwnedFd>) {
        let request =
            GuestRequest { name: "test".into(), publish: publish.to_vec(), address: None, queues: 1 };
        let guest = Supervisor::new().unwrap().make_guest(&request).unwrap();
        (guest.place, guest.link, guest.listeners)
    }
}
