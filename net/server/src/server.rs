//! The network server: takes frames from the guests' rings, checks them, and gives them to another guest
//! or to the uplink. Holds nothing that cannot be had again from the supervisor and the shared memory.
//!
//! One thread, one loop: a round looks at every port and the NIC, then at the host's descriptors; after a
//! bounded spin without work it announces sleep in every ring and waits for doorbells, host sockets or a
//! deadline. A frame between two guests is copied once, from ring to ring (`forward.rs` says who may send
//! what and who gets it; `port.rs` in which order things become visible).

use crate::board::{Board, Reason};
use crate::control::{self, Fault, Order, Uplink};
use crate::direct::{Opened, Queue};
use crate::dns::{self, Names};
use crate::forward::{self, HEAD, Head, Ip, Mac, Pieces, Transport, What};
use crate::nic::HostNic;
use crate::orders::{Network, Prepared};
use crate::port::{MAX_FRAME, Passing, Port, Rest, Stall};
use crate::port_map::{Owned, Reader};
use crate::sys::{self, Epoll};
use crate::uplink::segment;
use net::Endpoint;
use net::control::Proto;
use net::device::{Device, Nic};
use net::ring::Meta;
use platform::time::{Instant, now};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

/// Most nanoseconds without work before the server sleeps. A sleep costs the next frame a wake (tens of
/// microseconds); spinning longer takes the core from the guest or the client.
const SPIN_NS: u64 = 30_000;
/// A sleep that was over so soon would have been better spent spinning: the longest spin, and the wake itself, which takes
/// 50 microseconds and more and is part of what was slept.
const SHORT_SLEEP_NS: u64 = 4 * SPIN_NS;
/// Fewest, so that a spin can ever be found to pay.
const LEAST_SPIN_NS: u64 = 1_000;
/// The part of that in which the core is kept from everybody else. Later rounds let others run between them: on a
/// machine of few cores the guest that has the next frame may be waiting for this one.
const ALONE_NS: u64 = 2_000;
/// Between two times that the core is offered to others (`sched::vcpu` has why not all the time).
const OFFER_NS: u64 = 8_000;
/// How long the host's descriptors may wait while frames keep coming.
const HOST_NS: u64 = 20_000;
/// Host events looked at in one round.
const BATCH: usize = 256;
/// Frames taken from a guest or the NIC in one round, so that nobody waits for a flood of another.
const BURST: usize = 64;

/// What an epoll token says: the kind, the port, an index of the kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    Orders,
    Nic,
    Doorbell(u32),
    Process(u32),
    Listener(u32, u32),
    Flow(u32, u32),
    PublishedUdp(u32, u32),
    UdpFlow(u32, u32),
}

impl Token {
    pub(crate) fn pack(self) -> u64 {
        let (kind, port, index) = match self {
            Token::Orders => (0, 0, 0),
            Token::Doorbell(port) => (1, port, 0),
            Token::Listener(port, index) => (2, port, index),
            Token::Flow(port, index) => (3, port, index),
            Token::PublishedUdp(port, index) => (4, port, index),
            Token::UdpFlow(port, index) => (5, port, index),
            Token::Nic => (6, 0, 0),
            Token::Process(port) => (7, port, 0),
        };
        kind << 56 | u64::from(port) << 32 | u64::from(index)
    }

    fn unpack(word: u64) -> Option<Token> {
        let (port, index) = ((word >> 32) as u32 & 0xff_ffff, word as u32);
        Some(match word >> 56 {
            0 => Token::Orders,
            1 => Token::Doorbell(port),
            2 => Token::Listener(port, index),
            3 => Token::Flow(port, index),
            4 => Token::PublishedUdp(port, index),
            5 => Token::UdpFlow(port, index),
            6 => Token::Nic,
            7 => Token::Process(port),
            _ => return None,
        })
    }
}

/// Serves until the supervisor says otherwise.
pub(crate) fn serve(orders: OwnedFd, network: Network, guests: Vec<Prepared>) -> io::Result<()> {
    Server::new(orders, network, guests)?.serve()
}

/// Why the server goes on, or does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Serving,
    /// No more orders come (the supervisor has died, or said so): it ends with the last guest.
    Last,
    Over,
}

struct Server {
    orders: OwnedFd,
    epoll: Rc<Epoll>,
    life: Life,
    ports: Vec<Port>,
    plane: Plane,
    /// The NIC's queues that are ours; behind host sockets none.
    nics: Vec<HostNic>,
    /// What is for our guests and came to a queue that is not ours.
    strays: Option<HostNic>,
    nic_stall: Stall,
    /// Asking the NIC costs a host call that epoll's answer makes needless.
    nic_is_file: bool,
    /// Epoll was asked and said nothing of the NIC.
    nic_quiet: bool,
    spin: Spin,
    board: Board,
    to_supervisor: OwnedFd,
}

/// How long the server looks for work before it sleeps: as long as looking has paid of late. Frames that come
/// one by one at long intervals shall not cost a spin each.
struct Spin(u64);

impl Spin {
    /// Work came while it looked.
    fn paid(&mut self) {
        self.0 = (self.0 * 2).min(SPIN_NS);
    }

    /// It slept for so long.
    fn slept(&mut self, ns: u64) {
        self.0 = if ns < SHORT_SLEEP_NS { SPIN_NS } else { (self.0 / 2).max(LEAST_SPIN_NS) };
    }
}

/// What decides where a frame goes.
struct Plane {
    network: (Ipv4Addr, u8),
    reader: Reader,
    /// Uplink `host`: the gateway's Ethernet address.
    gateway_mac: Option<Mac>,
    /// Places in `ports` by guest, and by Ethernet address.
    by_id: HashMap<u32, usize>,
    by_mac: HashMap<Mac, Vec<usize>>,
    names: Names,
    pieces: Pieces,
}

/// Who is to have a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Guest(usize),
    /// All guests with this Ethernet address.
    Sharers(Mac),
    /// All guests but the sender, as this Ethernet address; behind a NIC its link as well.
    Many(Mac),
    /// The engine behind uplink `host`, or the NIC.
    Uplink,
    /// A question that the server answers.
    Names,
}

impl Server {
    fn new(orders: OwnedFd, network: Network, guests: Vec<Prepared>) -> io::Result<Server> {
        let Network { network, uplink, mut uplink_fds, strays, reader, board, to_supervisor } = network;
        let epoll = Rc::new(Epoll::new()?);
        epoll.add(orders.as_raw_fd(), sys::IN, Token::Orders.pack())?;
        let nic_is_file = strays || matches!(&uplink, Uplink::Nic(Queue::Tap { .. }, _));
        let stray_fds =
            if strays { uplink_fds.split_off(uplink_fds.len().saturating_sub(2)) } else { Vec::new() };
        let strays = if strays { Some(HostNic::strays(stray_fds)?) } else { None };
        let (gateway_mac, nics) = match uplink {
            Uplink::Host(mac) => (Some(mac), Vec::new()),
            Uplink::Nic(queue, mac) => (None, open_queues(&queue, mac, uplink_fds)?),
        };
        for nic in nics.iter().chain(&strays) {
            epoll.add(nic.wake_fd(), sys::IN, Token::Nic.pack())?;
        }
        let plane = Plane {
            network,
            reader,
            gateway_mac,
            by_id: HashMap::new(),
            by_mac: HashMap::new(),
            names: Names::new(),
            pieces: Pieces::default(),
        };
        let mut server = Server {
            orders,
            epoll,
            life: Life::Serving,
            ports: Vec::new(),
            plane,
            nics,
            strays,
            nic_stall: Stall::default(),
            nic_is_file,
            nic_quiet: false,
            spin: Spin(SPIN_NS),
            board,
            to_supervisor,
        };
        server.board.begins(now().0);
        guests.into_iter().for_each(|guest| server.add(guest));
        Ok(server)
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; BATCH];
        let mut last_work = now();
        let mut last_host = last_work;
        let mut spinning = false;
        let mut offered = last_work;
        self.wakes();
        loop {
            self.board.beat();
            let mut worked = self.turn();
            if self.life == Life::Last && self.ports.is_empty() {
                return Ok(());
            }
            if worked && std::mem::take(&mut spinning) {
                self.spin.paid();
            }
            let time = now();
            if worked && time.since(last_host) < HOST_NS {
                last_work = time;
                continue;
            }
            last_host = time;
            let quiet = if worked { 0 } else { time.since(last_work) };
            let idle = quiet > self.spin.0;
            if quiet > ALONE_NS && !idle && time.since(offered) >= OFFER_NS {
                std::thread::yield_now();
                offered = now();
            }
            let asleep = idle && self.announce_sleep();
            let timeout = if asleep { self.until_deadline() } else { Some(0) };
            let count = self.epoll.wait(&mut events, timeout)?;
            if asleep {
                self.wakes();
                self.spin.slept(now().since(time));
            }
            // (Announcing sleep may have taken a frame from the NIC.)
            self.nic_quiet = self.nic_is_file && !worked && !idle;
            spinning = !worked && !asleep;
            if idle {
                self.ports.iter_mut().for_each(Port::awake);
            }
            for event in &events[..count] {
                worked = true;
                self.board.beat();
                let (word, ready) = (event.u64, event.events);
                match Token::unpack(word) {
                    Some(Token::Orders) => self.take_order(),
                    Some(Token::Nic) => self.nic_quiet = false,
                    Some(token) => self.host_event(token, ready),
                    None => {}
                }
            }
            if self.life == Life::Over {
                return Ok(());
            }
            if worked {
                last_work = now();
            }
        }
    }

    fn announce_sleep(&mut self) -> bool {
        let asleep = self.ports.iter_mut().all(Port::announce_sleep)
            && self.nics.iter_mut().chain(&mut self.strays).all(Nic::announce_sleep);
        if asleep {
            for port in &self.ports {
                port.note_waiting(self.board.slot(port.place.slot));
            }
            self.board.sleeps();
        }
        asleep
    }

    fn wakes(&self) {
        if self.board.wakes() {
            sys::ring(self.to_supervisor.as_raw_fd());
        }
    }

    fn until_deadline(&self) -> Option<u64> {
        let time = now();
        self.ports.iter().filter_map(Port::deadline).min().map(|at| at.since(time))
    }

    // --- a round -----------------------------------------------------------------------------------

    /// Looks at every port and the NIC once; whether there was work.
    fn turn(&mut self) -> bool {
        let time = now();
        if self.plane.reader.refresh() {
            // Addresses that were leased have names too.
            self.plane.index(&self.ports);
        }
        for at in 0..self.ports.len() {
            self.take_from_guest(at, time);
        }
        let mut worked = !std::mem::take(&mut self.nic_quiet) && self.take_from_nic(time);
        for port in &mut self.ports {
            self.board.beat();
            worked |= port.run_proxy(time);
        }
        self.ports.iter_mut().for_each(Port::publish);
        self.nics.iter_mut().chain(&mut self.strays).for_each(Device::flush);
        for port in &mut self.ports {
            worked |= port.release();
        }
        self.bury(time);
        worked
    }

    /// Passes frames on that a guest has sent.
    fn take_from_guest(&mut self, at: usize, time: Instant) {
        self.board.beat();
        let mut head = [0; HEAD];
        for _ in 0..BURST {
            let Some(front) = self.ports[at].front(time) else { return };
            let head = &mut head[..front.len.min(HEAD)];
            front.copy(0, head);
            let (len, meta) = (front.len, front.meta);
            let frame = Passing { head, len, meta, rest: Rest::Ring(&front) };
            let done = match self.plane.judge(&self.ports[at], &frame) {
                Ok(to) => self.pass(at, to, &frame, time),
                Err(why) => Err(why),
            };
            match done {
                Ok(true) => {}
                // Its receiver's ring is full: the frame stays for the next round.
                Ok(false) => return,
                Err(why) => self.slot(at).dropped(why),
            }
            let slot = self.board.slot(self.ports[at].place.slot);
            self.ports[at].done(front, slot);
        }
    }

    /// Gives a guest's frame to whom it is for. `Ok(false)`: not yet.
    fn pass(&mut self, from: usize, to: To, frame: &Passing<'_>, time: Instant) -> Result<bool, Reason> {
        match to {
            To::Guest(to) => {
                let mac = self.ports[to].place.mac;
                match self.give(to, frame, Some(mac), time) {
                    Err(true) => Ok(false),
                    Err(false) => Err(Reason::ReceiverFull),
                    Ok(()) => Ok(true),
                }
            }
            To::Sharers(mac) => {
                for to in self.plane.by_mac.get(&mac).cloned().unwrap_or_default() {
                    let _ = self.give(to, frame, None, time);
                }
                Ok(true)
            }
            To::Many(mac) => {
                // Who has no room misses it: a group waits for nobody.
                for to in (0..self.ports.len()).filter(|&to| to != from) {
                    let _ = self.give(to, frame, Some(mac), time);
                }
                // What a guest in direct mode asks the others, it asks on the NIC itself, by the address it has there.
                let leaves = !self.nics.is_empty() && !frame.meta.local;
                if leaves { self.send_on_nic(from, frame, time) } else { Ok(true) }
            }
            To::Uplink if frame.meta.local => Err(Reason::NoOwner),
            To::Uplink if !self.nics.is_empty() => self.send_on_nic(from, frame, time),
            To::Uplink => {
                self.ports[from].give_proxy(frame);
                Ok(true)
            }
            To::Names => self.answer(from, frame, time),
        }
    }

    fn give(&mut self, to: usize, frame: &Passing<'_>, mac: Option<Mac>, time: Instant) -> Result<(), bool> {
        let port = &mut self.ports[to];
        let slot = self.board.slot(port.place.slot);
        port.give(frame, mac, slot, time)
    }

    /// A query to the name server: ours if it is about a guest.
    fn answer(&mut self, from: usize, frame: &Passing<'_>, time: Instant) -> Result<bool, Reason> {
        let mut query = vec![0; frame.len];
        frame.write(None, &mut query);
        let Some(reply) = dns::answer_frame(&query, &self.plane.names) else {
            return match self.plane.beyond_names(&self.ports[from], frame)? {
                To::Names => Ok(true),
                to => self.pass(from, to, frame, time),
            };
        };
        let meta = Meta { checksum_done: true, ..Meta::default() };
        let reply = Passing { head: &reply, len: reply.len(), meta, rest: Rest::Bytes(&reply) };
        let _ = self.give(from, &reply, None, time);
        Ok(true)
    }

    /// A guest's frames all leave by one queue, in their order.
    fn send_on_nic(&mut self, from: usize, frame: &Passing<'_>, time: Instant) -> Result<bool, Reason> {
        let queue = self.ports[from].id as usize % self.nics.len().max(1);
        let Some(nic) = self.nics.get_mut(queue) else { return Err(Reason::NoOwner) };
        match segment::transmit(nic, frame) {
            Ok(()) => {
                let counts = self.board.uplink();
                crate::board::add(&counts[2], 1);
                crate::board::add(&counts[3], frame.len as u64);
                Ok(true)
            }
            Err(segment::Fault::Malformed) => Err(Reason::Malformed),
            // Its queue has no position that we could look at: it gets its time once, until it takes one.
            Err(segment::Fault::Full) if self.nic_stall.is_patient(0, time) => Ok(false),
            Err(segment::Fault::Full) => Err(Reason::UplinkFull),
        }
    }

    /// Passes frames on that came over the NIC.
    fn take_from_nic(&mut self, time: Instant) -> bool {
        let (mut nics, mut strays) = (std::mem::take(&mut self.nics), self.strays.take());
        let (mut bytes, mut count) = (0, 0);
        for nic in nics.iter_mut().chain(&mut strays) {
            self.board.beat();
            count += nic.receive(BURST, &mut |frames| {
                for frame in frames {
                    bytes += frame.bytes.len() as u64;
                    let head = &frame.bytes[..frame.bytes.len().min(HEAD)];
                    let meta = Meta { checksum_done: frame.checksum_ok, ..Meta::default() };
                    let (len, rest) = (frame.bytes.len(), Rest::Bytes(frame.bytes));
                    self.pass_from_nic(&Passing { head, len, meta, rest }, time);
                }
            });
        }
        if count != 0 {
            let counts = self.board.uplink();
            crate::board::add(&counts[0], count as u64);
            crate::board::add(&counts[1], bytes);
        }
        (self.nics, self.strays) = (nics, strays);
        count != 0
    }

    fn pass_from_nic(&mut self, frame: &Passing<'_>, time: Instant) {
        if frame.len > MAX_FRAME {
            return;
        }
        let Some(head) = Head::parse(frame.head) else { return };
        if head.is_to_many() {
            for to in 0..self.ports.len() {
                let _ = self.give(to, frame, None, time);
            }
            return;
        }
        match self.plane.neighbor(&head, frame.head) {
            Some(To::Guest(to)) if self.give(to, frame, None, time).is_err() => {
                self.slot(to).dropped(Reason::ReceiverFull);
            }
            Some(To::Sharers(mac)) => {
                for to in self.plane.by_mac.get(&mac).cloned().unwrap_or_default() {
                    let _ = self.give(to, frame, None, time);
                }
            }
            _ => {}
        }
    }

    fn slot(&self, at: usize) -> &crate::board::Slot {
        self.board.slot(self.ports[at].place.slot)
    }

    // --- guests come and go ------------------------------------------------------------------------

    fn add(&mut self, guest: Prepared) {
        let id = guest.id;
        // One guest's broken link must not end the others' server.
        match Port::new(guest, self.plane.gateway_mac, &self.epoll, now()) {
            Ok(port) => {
                if self.life == Life::Last {
                    port.watch_process();
                }
                self.ports.push(port);
                self.plane.index(&self.ports);
            }
            Err(error) => eprintln!("attacca: network server: guest {id}: {error}"),
        }
    }

    /// The guest has gone. Its last frames are in the ring.
    fn guest_gone(&mut self, id: u32) {
        let Some(at) = self.ports.iter().position(|p| p.id == id && p.ends.is_none()) else { return };
        let time = now();
        // As many rounds as a ring holds of the shortest frames: a hostile one could go on for ever.
        for _ in 0..1024 {
            self.take_from_guest(at, time);
            if !self.ports[at].release() {
                break;
            }
        }
        self.ports[at].guest_gone(time);
    }

    fn bury(&mut self, time: Instant) {
        let ends = |port: &Port| port.has_ended(time);
        for at in 0..self.ports.len() {
            let slot = self.board.slot(self.ports[at].place.slot);
            if self.ports[at].cut_off(slot) {
                let name = &self.ports[at].place.name;
                eprintln!("attacca: network server: guest '{name}' wrote nonsense into its ring: cut off");
                self.ports[at].guest_gone(time);
            }
        }
        if self.ports.iter().any(ends) {
            self.ports.retain(|port| !ends(port));
            self.plane.index(&self.ports);
        }
    }

    fn take_order(&mut self) {
        match control::receive::<Order>(self.orders.as_fd()) {
            Ok(Some((Order::Add(id, place), fds))) => match Prepared::new(id, *place, fds) {
                Ok(guest) => self.add(guest),
                Err(error) => eprintln!("attacca: network server: guest {id}: {error}"),
            },
            Ok(Some((Order::Remove(id), _))) => self.guest_gone(id),
            Ok(Some((Order::Fault(fault), _))) => self.fail(fault),
            Ok(Some((Order::Quit, _))) => self.life = Life::Over,
            Ok(Some((Order::Finish, _))) => self.end_with_guests(true),
            Ok(Some((Order::Hello { .. } | Order::Go, _))) => {}
            // The supervisor has died, or talks nonsense. The guests run on.
            Ok(None) | Err(_) => self.end_with_guests(false),
        }
    }

    /// Does what a test asks for.
    fn fail(&self, fault: Fault) {
        match fault {
            Fault::Panic => panic!("a test asked for it"),
            Fault::Loop => loop {
                std::hint::spin_loop();
            },
            Fault::Block => loop {
                std::thread::park();
            },
            Fault::Scribble => {
                let mut random = now().0 | 1;
                self.ports.iter().for_each(|port| port.scribble(&mut random));
                sys::exit(66)
            }
        }
    }

    fn end_with_guests(&mut self, at_once: bool) {
        self.epoll.remove(self.orders.as_raw_fd());
        self.life = Life::Last;
        let ids: Vec<u32> = self.ports.iter().map(|p| p.id).collect();
        if at_once {
            ids.into_iter().for_each(|id| self.guest_gone(id));
        } else {
            self.ports.iter().filter(|p| p.ends.is_none()).for_each(Port::watch_process);
        }
    }

    fn host_event(&mut self, token: Token, ready: u32) {
        let (Token::Doorbell(id)
        | Token::Process(id)
        | Token::Listener(id, _)
        | Token::Flow(id, _)
        | Token::PublishedUdp(id, _)
        | Token::UdpFlow(id, _)) = token
        else {
            return;
        };
        if token == Token::Process(id) {
            return self.guest_gone(id);
        }
        let Some(port) = self.ports.iter_mut().find(|p| p.id == id) else { return };
        match (token, &mut port.proxy) {
            (Token::Doorbell(_), _) => port.heard(),
            (_, Some(proxy)) => {
                proxy.stirred = true;
                proxy.uplink.host_event(&mut proxy.shard, token, ready, now());
            }
            _ => {}
        }
    }
}

impl Plane {
    /// Guests have come or gone.
    fn index(&mut self, ports: &[Port]) {
        self.by_id.clear();
        self.by_mac.clear();
        self.names.clear();
        for (at, port) in ports.iter().enumerate() {
            self.by_id.insert(port.id, at);
            self.by_mac.entry(port.place.mac).or_default().push(at);
            let name = port.place.name.to_ascii_lowercase();
            let leased = self.reader.addresses(port.id).filter(|address| is_everywhere(*address));
            let all: BTreeSet<IpAddr> = port.place.addresses().chain(leased).collect();
            self.names.insert(name, all.into_iter().collect());
        }
    }

    /// Who is to have a guest's frame, if it may send it.
    fn judge(&self, sender: &Port, frame: &Passing<'_>) -> Result<To, Reason> {
        let head = Head::parse(frame.head).ok_or(Reason::Malformed)?;
        forward::check_sender(&self.reader, sender.identity, &head)?;
        if let What::Ip(Ip { dst, transport: Transport::Ports(Proto::Udp, _, 53), .. }) = head.what
            && Some(dst) == sender.place.dns
        {
            return Ok(To::Names);
        }
        self.way(sender, &head, frame.head)
    }

    /// The same for a query that is not about a guest.
    fn beyond_names(&self, sender: &Port, frame: &Passing<'_>) -> Result<To, Reason> {
        let head = Head::parse(frame.head).ok_or(Reason::Malformed)?;
        self.way(sender, &head, frame.head)
    }

    fn way(&self, sender: &Port, head: &Head, bytes: &[u8]) -> Result<To, Reason> {
        if self.gateway_mac.is_some() {
            return self.route(sender, head, bytes);
        }
        if head.is_to_many() {
            return Ok(To::Many(head.to));
        }
        match self.neighbor(head, bytes) {
            Some(To::Guest(at)) if self.by_id.get(&sender.id) == Some(&at) => Err(Reason::NoOwner),
            Some(to) => Ok(to),
            None => Ok(To::Uplink),
        }
    }

    /// Routed: by IP address.
    fn route(&self, sender: &Port, head: &Head, bytes: &[u8]) -> Result<To, Reason> {
        let ip = match &head.what {
            What::Arp { .. } => return Ok(To::Uplink),
            What::Ip(ip) => ip,
        };
        if forward::is_group(ip.dst, self.network) {
            return Ok(To::Many(forward::group_mac(ip.dst)));
        }
        match self.reader.owner(ip.dst) {
            // A link-local address goes no further than the link, and there is nobody else.
            None if matches!(ip.dst, IpAddr::V6(v6) if v6.is_unicast_link_local()) => Err(Reason::NoOwner),
            None => Ok(To::Uplink),
            Some(owned) => {
                let guest = self.receiver(owned, ip, bytes).ok_or(Reason::NoOwner)?;
                let at = self.by_id.get(&guest).ok_or(Reason::NoOwner)?;
                if guest == sender.id { Err(Reason::NoOwner) } else { Ok(To::Guest(*at)) }
            }
        }
    }

    /// Bridged: by Ethernet address, and among those who share it by port. `None`: no guest's.
    fn neighbor(&self, head: &Head, bytes: &[u8]) -> Option<To> {
        let candidates = self.by_mac.get(&head.to)?;
        if let [only] = candidates[..] {
            return Some(To::Guest(only));
        }
        let What::Ip(ip) = &head.what else { return Some(To::Sharers(head.to)) };
        match self.reader.owner(ip.dst) {
            Some(owned) => {
                let guest = self.receiver(owned, ip, bytes)?;
                self.by_id.get(&guest).map(|at| To::Guest(*at))
            }
            None => Some(To::Sharers(head.to)),
        }
    }

    /// Which of those who share an address a packet is for.
    fn receiver(&self, owned: Owned, ip: &Ip, bytes: &[u8]) -> Option<u32> {
        let (first, table) = match owned {
            Owned::Whole(guest) => return Some(guest),
            Owned::Shared(first, table) => (first, table),
        };
        let of = |proto, port| match self.reader.port_owner(table, proto, port) {
            0 => first,
            guest => guest,
        };
        match ip.transport {
            Transport::Ports(proto, _, port) => {
                let guest = of(proto, port);
                if let Some(ident) = forward::datagram_of(bytes) {
                    self.pieces.note((ip.src, ip.dst, ident), guest);
                }
                Some(guest)
            }
            Transport::About(proto, port) => Some(of(proto, port)),
            Transport::Fragment(_, ident) => self.pieces.find((ip.src, ip.dst, ident)),
            Transport::Plain => Some(first),
        }
    }
}

/// The uplink's queues: of an AF_XDP interface there may be several, with two descriptors each.
fn open_queues(queue: &Queue, mac: Mac, fds: Vec<OwnedFd>) -> io::Result<Vec<HostNic>> {
    let each = if matches!(queue, Queue::Xdp { .. }) { 2 } else { fds.len() };
    let (mut fds, mut nics) = (fds.into_iter().peekable(), Vec::new());
    while fds.peek().is_some() {
        let fds = fds.by_ref().take(each).collect();
        nics.push(HostNic::new(Opened { queue: queue.clone(), fds, mac })?);
    }
    Ok(nics)
}

/// Whether an address says where somebody is without naming an interface.
fn is_everywhere(address: IpAddr) -> bool {
    !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The endpoint form of a host address.
pub(crate) fn endpoint(address: std::net::SocketAddr) -> Endpoint {
    address.into()
}

#[cfg(test)]
mod tests {
    use super::{LEAST_SPIN_NS, SPIN_NS, Spin};

    #[test]
    fn looking_is_given_up_when_it_does_not_pay_and_taken_up_again() {
        let mut spin = Spin(SPIN_NS);
        (0..20).for_each(|_| spin.slept(1_000_000));
        assert_eq!(spin.0, LEAST_SPIN_NS);
        spin.paid();
        assert_eq!(spin.0, 2 * LEAST_SPIN_NS);
        // A sleep as short as a spin, but for the wake: looking on would have found it.
        spin.slept(SPIN_NS + 80_000);
        assert_eq!(spin.0, SPIN_NS);
        spin.paid();
        assert_eq!(spin.0, SPIN_NS);
    }
}
