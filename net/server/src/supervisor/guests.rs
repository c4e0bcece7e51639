//! The lives of guests: joining, ports, messages, leaving.
//!
//! A guest's control socket is its life: when all its processes have closed it, the guest has gone, and its
//! addresses, ports, listeners and rings come back. What it says on the way is hostile until it has been read.

use super::{MESSAGES, Supervisor};
use crate::board::SLOTS;
use crate::bpf::Rule;
use crate::control::Uplink;
use crate::control::{self, Order, Place, Reply};
use crate::direct::Queue;
use crate::direct::{mac_for, mac_named};
use crate::plan::{self, HOST_MTU};
use crate::port_map::Owned;
use crate::{GuestRequest, Publish, Want6, sys};
use net::control::{Claim, Counters, Mode, Name, Proto, ToGuest, ToSupervisor};
use net::ring::{Layout, Link};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of each ring: eight of the longest frames, and a cache holds them.
const RING_BYTES: u32 = 1 << 19;
const SMALLEST_RING: u32 = 1 << 17;
const LARGEST_RING: u32 = 1 << 23;
/// A guest's descriptors go to the server in one message: link, two doorbells, its process, its listeners.
const MOST_PUBLISHED: usize = sys::MAX_FDS - 4;
/// Ports that a guest claims at once, unless its limits say less.
const MOST_CLAIMS: usize = 1 << 16;

/// A guest as the supervisor keeps it.
pub(crate) struct Guest {
    pub(crate) id: u32,
    pub(crate) place: Place,
    pub(crate) pid: i32,
    pub(crate) control: OwnedFd,
    pub(crate) link: OwnedFd,
    pub(crate) to_server: OwnedFd,
    pub(crate) to_guest: OwnedFd,
    pub(crate) process: OwnedFd,
    pub(crate) listeners: Vec<OwnedFd>,
    /// Ports that it asked for.
    pub(crate) claims: HashSet<(Proto, u16)>,
    /// Addresses that it leased besides its own.
    pub(crate) leases: Vec<IpAddr>,
    pub(crate) mode: Mode,
    /// What it counted, when it last said so.
    pub(crate) counters: Option<Counters>,
}

/// How a message is sent: with or without waiting.
type Send<T> = fn(BorrowedFd<'_>, &T, &[BorrowedFd<'_>]) -> io::Result<()>;

impl Guest {
    /// Tells a server of this guest.
    pub(crate) fn introduce(&self, server: BorrowedFd<'_>, send: Send<Order>) -> io::Result<()> {
        let mut fds =
            vec![self.link.as_fd(), self.to_server.as_fd(), self.to_guest.as_fd(), self.process.as_fd()];
        fds.extend(super::borrow(&self.listeners));
        send(server, &Order::Add(self.id, Box::new(self.place.clone())), &fds)
    }

    /// Says something to the guest. One that does not listen misses it.
    pub(crate) fn tell(&self, request: u32, message: ToGuest) {
        let _ = sys::post(self.control.as_fd(), message.encode(request).bytes(), &[]);
    }
}

impl Supervisor {
    /// Answers a request to join. Whether a guest has joined.
    pub(super) fn admit(&mut self, control: OwnedFd, request: &GuestRequest) -> bool {
        let joined = sys::peer_pid(control.as_fd()).and_then(|pid| self.make_guest(request, pid));
        let mut guest = match joined {
            Ok(guest) => guest,
            Err(error) => {
                let _ = control::post(control.as_fd(), &Reply::Failed(error.to_string()), &[]);
                return false;
            }
        };
        let fds = [guest.link.as_fd(), guest.to_server.as_fd(), guest.to_guest.as_fd()];
        let told = control::post(control.as_fd(), &Reply::Attached(guest.place.clone()), &fds);
        guest.control = control;
        self.keep(guest);
        if told.is_err() {
            self.remove(self.guests.len() - 1);
            return false;
        }
        if request.direct {
            // It waits in the guest's socket until the guest has come up.
            self.switch_at_start(self.guests.len() - 1);
        }
        true
    }

    /// A guest of which the network knows everything is one of it from now on.
    pub(super) fn keep(&mut self, guest: Guest) {
        self.held.board.slot(guest.place.slot).clear();
        let rules = guest.place.addresses().map(Rule::address).chain(asked_groups(&guest.place));
        for error in rules.filter_map(|rule| self.switching.serve(rule).err()) {
            eprintln!("attacca: network supervisor: guest '{}' cannot be reached: {error}", guest.place.name);
        }
        self.switching.begin(guest.id);
        self.servers.add(&guest);
        let address = guest.place.address;
        self.guests.push(guest);
        self.steer_anew(address);
        self.keep_record();
    }

    /// A guest with everything but its control socket; its address is its own (or shared) already.
    pub(super) fn make_guest(&mut self, request: &GuestRequest, pid: i32) -> io::Result<Guest> {
        let refused = |words: String| Err(io::Error::other(words));
        if Name::new(request.name.as_bytes()).is_none() {
            return refused("a guest's name has up to 64 letters, digits, '-', '_' and '.'".into());
        }
        let same = |g: &&Guest| g.place.name.eq_ignore_ascii_case(&request.name);
        if self.guests.iter().any(|g| same(&g)) {
            return refused(format!(
                "the network has a guest called '{}': choose another --name",
                request.name
            ));
        }
        if request.publish.len() > MOST_PUBLISHED {
            return refused(format!("a guest can publish {MOST_PUBLISHED} ports at most"));
        }
        let bridged = matches!(self.held.uplink, Uplink::Nic(..));
        if bridged && !request.publish.is_empty() {
            return refused(
                "-p is for networks behind host sockets: here the guest has an address of its own".into(),
            );
        }
        if request.address6 == Want6::Auto && !bridged {
            return refused("--ip6 auto is for networks behind a NIC: here no router speaks".into());
        }
        let slot = (0..SLOTS as u32).find(|s| self.guests.iter().all(|g| g.place.slot != *s));
        let Some(slot) = slot else { return refused(format!("a network has {SLOTS} guests at most")) };
        let process = sys::pidfd(pid)?;
        let mut publish = request.publish.clone();
        let listeners = publish.iter_mut().map(listen).collect::<io::Result<Vec<_>>>()?;
        let limits = self.limits(request);
        let capacity =
            if limits.ring == 0 { RING_BYTES } else { limits.ring.clamp(SMALLEST_RING, LARGEST_RING) };
        let layout = Layout { queues: request.queues.clamp(1, 64), capacity: capacity.next_power_of_two() };
        let link = make_link(layout)?;
        let id = self.next_id;
        let (address, ephemeral) = if request.dhcp {
            if !bridged {
                return refused(
                    "--ip dhcp is for networks behind a NIC: here there is no DHCP server".into(),
                );
            }
            (Ipv4Addr::UNSPECIFIED.into(), plan::EPHEMERAL)
        } else {
            self.own_address(id, request.address)?
        };
        let address6 = self.own_address6(id, (address, ephemeral), request.address6);
        let address6 = address6.inspect_err(|_| self.disown(id, address))?;
        self.next_id += 1;
        let gateway = if request.dhcp { None } else { request.gateway.or(self.plan.gateway.map(IpAddr::V4)) };
        let place = Place {
            name: request.name.clone(),
            mac: if request.dhcp { mac_named(&self.config.name, &request.name) } else { mac_for(address) },
            address,
            prefix: if request.dhcp { 0 } else { self.plan.network.1 },
            gateway,
            dhcp: request.dhcp,
            address6,
            gateway6: self.plan.gateway6.filter(|_| address6.is_some()),
            auto6: bridged && request.address6 != Want6::Off && self.routers_tell(request),
            dns: gateway,
            peer_mac: plan::peer_mac(&self.held.uplink),
            mtu: self.mtu(),
            ephemeral,
            claims: self.door.is_some(),
            limits,
            slot,
            publish,
        };
        let (to_server, to_guest, control) = (sys::eventfd()?, sys::eventfd()?, sys::eventfd()?);
        Ok(Guest {
            id,
            place,
            pid,
            // Put in when the guest has its answer.
            control,
            link,
            to_server,
            to_guest,
            process,
            listeners,
            claims: HashSet::new(),
            leases: Vec::new(),
            mode: Mode::Server,
            counters: None,
        })
    }

    /// The smaller of what the guest wants and what the network allows; 0 stands for no limit.
    fn limits(&self, request: &GuestRequest) -> crate::Limits {
        let (ours, theirs) = (self.config.limits, request.limits);
        fn least<T: Ord + Default>(a: T, b: T) -> T {
            if a == T::default() || b != T::default() && b < a { b } else { a }
        }
        crate::Limits {
            frames: least(ours.frames, theirs.frames),
            bytes: least(ours.bytes, theirs.bytes),
            ring: least(ours.ring, theirs.ring),
            ports: least(ours.ports, theirs.ports),
        }
    }

    fn mtu(&self) -> u32 {
        match &self.held.uplink {
            Uplink::Host(_) => HOST_MTU,
            Uplink::Nic(Queue::Tap { mtu, .. } | Queue::Xdp { mtu, .. } | Queue::Wire { mtu, .. }, _) => *mtu,
        }
    }

    // --- addresses and ports -----------------------------------------------------------------------

    /// Gives a guest an address: a free one, the one it wants, or a share of it. With the ports for sockets
    /// that choose none.
    fn own_address(&mut self, id: u32, wanted: Option<IpAddr>) -> io::Result<(IpAddr, (u16, u16))> {
        let map = &mut self.held.port_map;
        let Some(wanted) = wanted else {
            let taken = |a| map.owner(IpAddr::V4(a)).is_some();
            let next = self.plan.next(self.last_address, taken);
            let next = next.ok_or_else(|| io::Error::other("the network has no address left"))?;
            self.last_address = Some(next);
            map.own_address(next.into(), id);
            return Ok((next.into(), plan::EPHEMERAL));
        };
        if !self.plan.allows(wanted) {
            let (network, prefix) = self.plan.network;
            return Err(io::Error::other(format!(
                "--ip {wanted}: not a guest's address of {network}/{prefix}"
            )));
        }
        if map.own_address(wanted, id) {
            return Ok((wanted, plan::EPHEMERAL));
        }
        self.share_address(id, wanted)
    }

    /// Gives a guest the IPv6 address that it wants, or the one that goes with its IPv4 address: then it is shared as
    /// that one is.
    fn own_address6(
        &mut self,
        id: u32,
        (v4, ephemeral): (IpAddr, (u16, u16)),
        wanted: Want6,
    ) -> io::Result<Option<(Ipv6Addr, u8)>> {
        let length = self.plan.network6.map(|(_, length)| length);
        let sharer = self.guests.iter().find(|g| g.place.address == v4 && !v4.is_unspecified());
        let of_sharer = sharer.map(|g| g.place.address6);
        let derived = match v4 {
            IpAddr::V4(v4) if !v4.is_unspecified() => self.plan.address6(v4),
            _ => None,
        };
        let (address, length) = match (wanted, of_sharer) {
            (Want6::Off | Want6::Auto, _) => return Ok(None),
            (Want6::Default, Some(shared)) => match shared {
                Some(shared) => shared,
                None => return Ok(None),
            },
            (Want6::Default, None) => match derived.zip(length) {
                Some(found) => found,
                None => return Ok(None),
            },
            (Want6::Address(address, own), _) => (address, own.or(length).unwrap_or(64)),
        };
        let refused = |why: &str| Err(io::Error::other(format!("--ip6 {address}: {why}")));
        if !self.plan.allows(address.into()) {
            return refused("not a guest's address of this network");
        }
        if self.held.port_map.own_address(address.into(), id) {
            return Ok(Some((address, length)));
        }
        // Both are divided by the same ports, or neither.
        match sharer {
            Some(first) if first.place.address6.is_some_and(|(theirs, _)| theirs == address) => {
                let claims = first.claims.iter().copied().chain(every_port(first.place.ephemeral));
                let map = &mut self.held.port_map;
                if !map.share(address.into(), claims) {
                    return refused("too many addresses are shared");
                }
                // Nobody else has them: IPv4's were just got.
                every_port(ephemeral).for_each(|(proto, port)| {
                    map.claim(address.into(), proto, port, id);
                });
                Ok(Some((address, length)))
            }
            _ => refused("another guest has it"),
        }
    }

    /// Whether addresses come from the link's routers. By AF_XDP these are heard only if the guest asks for it: what
    /// they say to all of the link would be taken from the host.
    fn routers_tell(&self, request: &GuestRequest) -> bool {
        request.address6 == Want6::Auto || matches!(self.held.uplink, Uplink::Nic(Queue::Tap { .. }, _))
    }

    /// A guest has not joined after all.
    fn disown(&mut self, id: u32, address: IpAddr) {
        match self.guests.iter().find(|g| g.place.address == address) {
            Some(first) => self.held.port_map.leave(address, id, first.id),
            None => self.held.port_map.forget(address),
        }
    }

    fn share_address(&mut self, id: u32, address: IpAddr) -> io::Result<(IpAddr, (u16, u16))> {
        let full = |what: &str| Err(io::Error::other(format!("--ip {address} cannot be shared: {what}")));
        if self.door.is_none() {
            return full("the guest that has it has a network of its own");
        }
        let sharers: Vec<&Guest> = self.guests.iter().filter(|g| g.place.address == address).collect();
        let Some(first) = sharers.first() else {
            return full("a guest leased it");
        };
        let claims = first.claims.iter().copied().chain(every_port(first.place.ephemeral));
        if !self.held.port_map.share(address, claims) {
            return full("too many addresses are shared");
        }
        for index in 0.. {
            let Some(range) = plan::ephemeral(index) else { break };
            let others = sharers.iter().any(|g| g.place.ephemeral == range);
            let ports: Vec<_> = every_port(range).collect();
            if !others
                && ports.iter().all(|&(proto, port)| self.held.port_map.claim(address, proto, port, id))
            {
                return Ok((address, range));
            }
            for (proto, port) in ports {
                self.held.port_map.unclaim(address, proto, port, id);
            }
        }
        full("too many guests have it")
    }

    fn bind(&mut self, at: usize, claim: Claim) -> ToGuest {
        let Guest { id, place, claims, .. } = &mut self.guests[at];
        let most = if place.limits.ports == 0 { MOST_CLAIMS } else { place.limits.ports as usize };
        let key = (claim.proto, claim.port);
        if !claims.contains(&key) && claims.len() >= most {
            return ToGuest::Refused(libc::EADDRINUSE);
        }
        let map = &mut self.held.port_map;
        if !place.addresses().all(|address| map.claim(address, claim.proto, claim.port, *id)) {
            // What was got of the two is given back, unless it was the guest's before.
            let (low, high) = place.ephemeral;
            let kept = claims.contains(&key) || (low..=high).contains(&claim.port);
            let got = place.addresses().filter(|_| !kept);
            got.for_each(|address| map.unclaim(address, claim.proto, claim.port, *id));
            return ToGuest::Refused(libc::EADDRINUSE);
        }
        claims.insert(key);
        ToGuest::Granted
    }

    fn unbind(&mut self, at: usize, claim: Claim) {
        let Guest { id, place, claims, .. } = &mut self.guests[at];
        let (low, high) = place.ephemeral;
        if claims.remove(&(claim.proto, claim.port)) && !(low..=high).contains(&claim.port) {
            for address in place.addresses() {
                self.held.port_map.unclaim(address, claim.proto, claim.port, *id);
            }
        }
    }

    fn lease(&mut self, at: usize, address: IpAddr) -> ToGuest {
        let guest = &mut self.guests[at];
        if guest.place.addresses().any(|own| own == address) || guest.leases.contains(&address) {
            return ToGuest::Granted;
        }
        let fits = match address {
            // The link's DHCP server knows what is there.
            IpAddr::V4(v4) if guest.place.dhcp => {
                !v4.is_multicast() && !v4.is_unspecified() && !v4.is_loopback() && !v4.is_broadcast()
            }
            IpAddr::V4(_) => self.plan.allows(address),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || self.plan.allows(address),
        };
        const MOST_LEASES: usize = 16;
        if !fits || guest.leases.len() >= MOST_LEASES {
            return ToGuest::Refused(libc::EADDRNOTAVAIL);
        }
        if !self.held.port_map.own_address(address, guest.id) {
            return ToGuest::Refused(libc::EADDRINUSE);
        }
        let _ = self.switching.serve(Rule::address(address));
        guest.leases.push(address);
        let id = guest.id;
        if guest.mode == Mode::Direct {
            self.switching.steer(id, &[Rule::address(address)]);
        }
        self.cut_shortcuts(id);
        ToGuest::Granted
    }

    /// A lease is over.
    fn give_back(&mut self, at: usize, address: IpAddr) {
        let guest = &mut self.guests[at];
        let Some(place) = guest.leases.iter().position(|lease| *lease == address) else { return };
        guest.leases.swap_remove(place);
        self.held.port_map.forget(address);
        let id = guest.id;
        self.switching.unsteer(id, Rule::address(address));
        self.switching.unserve(Rule::address(address));
        self.cut_shortcuts(id);
    }

    // --- messages and leaving ----------------------------------------------------------------------

    /// A guest has said something, or has gone.
    pub(super) fn hear_guest(&mut self, id: u32) {
        for _ in 0..MESSAGES {
            let Some(at) = self.guests.iter().position(|g| g.id == id) else { return };
            let control = self.guests[at].control.as_fd();
            let message = match sys::receive_now(control) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Closed by all its processes, or broken.
                Err(_) => return self.remove(at),
                Ok((bytes, _)) if bytes.is_empty() => return self.remove(at),
                Ok((bytes, _)) => ToSupervisor::decode(&bytes),
            };
            match message {
                Ok((request, message)) => self.obey(at, request, message),
                Err(error) => {
                    eprintln!("attacca: network supervisor: guest '{}': {error}", self.guests[at].place.name);
                    return self.remove(at);
                }
            }
        }
    }

    fn obey(&mut self, at: usize, request: u32, message: ToSupervisor) {
        let answer = match message {
            ToSupervisor::Bind(claim) => {
                let answer = self.bind(at, claim);
                self.steer_port(at, claim, answer == ToGuest::Granted);
                answer
            }
            ToSupervisor::Unbind(claim) => {
                self.unbind(at, claim);
                return self.steer_port(at, claim, false);
            }
            ToSupervisor::Lease { address, seconds: 0, .. } => return self.give_back(at, address),
            ToSupervisor::Lease { address, .. } => self.lease(at, address),
            ToSupervisor::Switched { mode, gap_ns, .. } => return self.switched(at, request, mode, gap_ns),
            ToSupervisor::SwitchFailed { errno, stage } => {
                return self.switch_failed(at, request, errno, stage);
            }
            ToSupervisor::Counters(counters) => {
                self.guests[at].counters = Some(counters);
                self.has_answered(self.guests[at].id);
                return self.counted(at);
            }
            ToSupervisor::Frequents(address) => return self.frequents(at, address),
            ToSupervisor::ShortcutBroken(id) => return self.shortcut_broken(at, id),
            ToSupervisor::Stuck { .. } => return self.servers.watch(&self.held.board),
            // Groups are replicated to all; who is here need not come back.
            ToSupervisor::Joined(_) | ToSupervisor::Left(_) | ToSupervisor::Rejoin { .. } => return,
        };
        self.guests[at].tell(request, answer);
    }

    /// A guest leaves; what was its becomes free.
    pub(super) fn remove(&mut self, at: usize) {
        let guest = self.guests.remove(at);
        self.servers.remove(guest.id);
        self.switching.forget(guest.id);
        self.forget_shortcuts(guest.id);
        self.has_answered(guest.id);
        let map = &mut self.held.port_map;
        let mut gone = guest.leases.clone();
        for address in guest.place.addresses() {
            let next = self.guests.iter().find(|g| g.place.addresses().any(|a| a == address)).map(|g| g.id);
            match (map.owner(address), next) {
                (Some(Owned::Shared(first, _)), Some(next)) => {
                    map.leave(address, guest.id, if first == guest.id { next } else { first });
                }
                _ => {
                    map.forget(address);
                    gone.push(address);
                }
            }
        }
        guest.leases.iter().for_each(|lease| map.forget(*lease));
        gone.iter().for_each(|address| self.switching.unserve(Rule::address(*address)));
        let still: Vec<Rule> = self.guests.iter().flat_map(|g| asked_groups(&g.place)).collect();
        let groups = asked_groups(&guest.place).into_iter().filter(|rule| !still.contains(rule));
        groups.for_each(|rule| self.switching.unserve(rule));
        self.keep_record();
    }
}

/// Frames to everybody that a guest asked for: a DHCP server's answers, routers' words.
fn asked_groups(place: &Place) -> Vec<Rule> {
    let dhcp = Rule { address: Ipv4Addr::BROADCAST.into(), protocol: 17, port: 68 };
    // All nodes (RFC 4291 section 2.7.1).
    let routers = Rule::address(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into());
    [place.dhcp.then_some(dhcp), place.auto6.then_some(routers)].into_iter().flatten().collect()
}

fn every_port((low, high): (u16, u16)) -> impl Iterator<Item = (Proto, u16)> {
    [Proto::Tcp, Proto::Udp].into_iter().flat_map(move |proto| (low..=high).map(move |port| (proto, port)))
}

/// Opens the host's side of a published port; the port that the host chose for 0 is put in. `[::]` takes IPv4 as
/// well (ipv6(7)), and is IPv4's own where the host has no IPv6.
pub(super) fn listen(publish: &mut Publish) -> io::Result<OwnedFd> {
    let both = publish.host.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match open(publish) {
        Err(error) if both && lacks_v6(&error) => {
            publish.host = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), publish.host.port());
            open(publish)
        }
        result => result,
    }
}

fn lacks_v6(error: &io::Error) -> bool {
    // The name of the fault is kept, its number not.
    let text = error.to_string();
    error.kind() == io::ErrorKind::AddrNotAvailable
        || text.contains(&format!("os error {}", libc::EAFNOSUPPORT))
}

fn open(publish: &mut Publish) -> io::Result<OwnedFd> {
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

pub(super) fn make_link(layout: Layout) -> io::Result<OwnedFd> {
    let fd = sys::memfd(c"attacca-link", layout.bytes())?;
    let mapping = sys::Mapping::new(fd.as_fd(), true)?;
    // SAFETY: page-aligned, as long as the layout says; nothing taken from it outlives the mapping.
    unsafe { Link::create(mapping.base, layout) }.map_err(|error| io::Error::other(error.to_string()))?;
    Ok(fd)
}
