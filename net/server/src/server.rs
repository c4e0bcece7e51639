//! The network server: takes frames from the guests' rings, checks them, and gives them to the uplink
//! or to another guest. Holds nothing that cannot be had again from the supervisor.
//!
//! One thread, one loop: poll every port, look at the host's descriptors, and after a bounded spin
//! without work announce sleep in every ring and wait for doorbells, host sockets or a deadline.

use crate::control::{self, Order, Place};
use crate::port_map::{PortMap, Reader};
use crate::sys::{self, Epoll};
use crate::uplink::host::HostUplink;
use net::device::{Capabilities, Device, Full, RxFrame, TxMeta};
use net::ring::{Link, RingDevice, Role};
use net::{Config, Endpoint, Shard};
use platform::time::{Instant, SECOND, now};
use smoltcp::wire::{ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Packet};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

/// Nanoseconds without work before the server sleeps. A sleep costs the next frame a wake (tens of
/// microseconds); spinning longer takes the core from the guest or the client.
const SPIN_NS: u64 = 30_000;
/// How long a guest's last bytes may take to reach slow host sockets after it has gone.
const LINGER_NS: u64 = 60 * SECOND;
/// Host events looked at in one turn.
const BATCH: usize = 256;

/// What an epoll token says: the kind, the port, an index of the kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    Orders,
    Doorbell(u32),
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
            _ => return None,
        })
    }
}

/// Serves until the supervisor closes `orders`. Runs in a process of its own.
pub(crate) fn run(orders: OwnedFd, port_map: &PortMap) -> ! {
    sys::set_name(c"attacca-server");
    let outcome = port_map.reader().and_then(|reader| serve(orders, reader));
    if let Err(error) = &outcome {
        eprintln!("attacca: network server: {error}");
    }
    sys::exit(i32::from(outcome.is_err()))
}

/// The server's loop, in this thread.
pub(crate) fn serve(orders: OwnedFd, reader: Reader) -> io::Result<()> {
    sys::use_fast_clock();
    Server::new(orders, reader)?.serve()
}

struct Server {
    orders: OwnedFd,
    epoll: Rc<Epoll>,
    reader: Rc<Reader>,
    ports: Vec<Port>,
    /// The supervisor has closed: no more orders, and the end when all guests are gone.
    closing: bool,
}

/// A guest as the server sees it. The fields that use the mapping stand before it: dropped first.
struct Port {
    id: u32,
    /// The guest has gone: what it sent is still delivered, until then at the latest.
    ends: Option<Instant>,
    shard: Shard,
    device: GuestDevice,
    uplink: HostUplink,
    doorbell: OwnedFd,
    _mapping: sys::Mapping,
}

impl Server {
    fn new(orders: OwnedFd, reader: Reader) -> io::Result<Server> {
        let epoll = Rc::new(Epoll::new()?);
        epoll.add(orders.as_raw_fd(), sys::IN, Token::Orders.pack())?;
        Ok(Server { orders, epoll, reader: Rc::new(reader), ports: Vec::new(), closing: false })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; BATCH];
        let mut last_work = now();
        loop {
            let mut worked = self.turn();
            if self.closing && self.forget_orders() {
                return Ok(());
            }
            let idle = !worked && now().since(last_work) > SPIN_NS;
            let asleep = idle && self.ports.iter_mut().all(|p| p.device.ring.announce_sleep());
            let timeout = if asleep { self.until_deadline() } else { Some(0) };
            let count = self.epoll.wait(&mut events, timeout)?;
            if idle {
                self.ports.iter_mut().for_each(|p| p.device.ring.awake());
            }
            for event in &events[..count] {
                worked = true;
                let (word, ready) = (event.u64, event.events);
                match Token::unpack(word) {
                    Some(Token::Orders) if self.closing => {}
                    Some(Token::Orders) => self.closing = !self.take_order()?,
                    Some(token) => self.host_event(token, ready),
                    None => {}
                }
            }
            if worked {
                last_work = now();
            }
        }
    }

    /// No more orders come: guests end as if each had been removed. Whether all have.
    fn forget_orders(&mut self) -> bool {
        self.epoll.remove(self.orders.as_raw_fd());
        self.ports.iter_mut().filter(|p| p.ends.is_none()).for_each(|p| p.guest_gone(now()));
        self.ports.is_empty()
    }

    /// Polls every port once; whether there was work.
    fn turn(&mut self) -> bool {
        let time = now();
        let mut worked = false;
        let mut forwarded = Vec::new();
        for port in &mut self.ports {
            worked |= port.turn(time);
            forwarded.append(&mut port.device.foreign);
        }
        self.ports.retain(|p| !p.has_ended(time));
        for (to, frame) in forwarded {
            if let Some(port) = self.ports.iter_mut().find(|p| p.id == to) {
                port.device.pass(&frame);
            }
        }
        worked
    }

    fn until_deadline(&self) -> Option<u64> {
        let time = now();
        let nearest =
            |p: &Port| [p.shard.deadline(), p.uplink.deadline(), p.ends].into_iter().flatten().min();
        self.ports.iter().filter_map(nearest).min().map(|at| at.since(time))
    }

    /// One order of the supervisor; `false` when there will be no more.
    fn take_order(&mut self) -> io::Result<bool> {
        match control::receive::<Order>(self.orders.as_fd())? {
            None => return Ok(false),
            Some((Order::Add(id, place), fds)) => {
                // One guest's broken link must not end the others' server.
                match Port::new(id, &place, fds, &self.epoll, &self.reader) {
                    Ok(port) => self.ports.push(port),
                    Err(error) => eprintln!("attacca: network server: guest {id}: {error}"),
                }
            }
            Some((Order::Remove(id), _)) => {
                self.ports.iter_mut().filter(|p| p.id == id).for_each(|p| p.guest_gone(now()));
            }
        }
        Ok(true)
    }

    fn host_event(&mut self, token: Token, ready: u32) {
        let (Token::Doorbell(id)
        | Token::Listener(id, _)
        | Token::Flow(id, _)
        | Token::PublishedUdp(id, _)
        | Token::UdpFlow(id, _)) = token
        else {
            return;
        };
        let Some(port) = self.ports.iter_mut().find(|p| p.id == id) else { return };
        let time = now();
        match token {
            Token::Doorbell(_) => sys::silence(port.doorbell.as_raw_fd()),
            _ => port.uplink.host_event(&mut port.shard, token, ready, time),
        }
    }
}

impl Port {
    fn new(
        id: u32,
        place: &Place,
        fds: Vec<OwnedFd>,
        epoll: &Rc<Epoll>,
        reader: &Rc<Reader>,
    ) -> io::Result<Port> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| io::Error::other("an order lacks descriptors"));
        let (link, to_server, to_guest) = (next()?, next()?, next()?);
        let listeners: Vec<OwnedFd> = fds.collect();
        let mapping = sys::Mapping::new(link.as_fd(), true)?;
        // SAFETY: the mapping outlives the link's users (field order of `Port`).
        let link =
            unsafe { Link::open(mapping.base, mapping.len) }.map_err(|e| io::Error::other(e.to_string()))?;
        link.begin_server_generation();
        // Asleep or not, the guest looks at the generation, and resends if it knew another one.
        sys::ring(to_guest.as_raw_fd());
        let wake_guest = Box::new(move || sys::ring(to_guest.as_raw_fd()));
        // SAFETY: the supervisor runs one server at a time, and this is it.
        let ring = unsafe { RingDevice::new(link, Role::Server, 0, place.mtu as usize, wake_guest) }
            .map_err(|e| io::Error::other(e.to_string()))?;
        epoll.add(to_server.as_raw_fd(), sys::IN, Token::Doorbell(id).pack())?;
        let shard = Shard::new(shard_config(place)?);
        let uplink = HostUplink::new(id, place, listeners, epoll.clone())?;
        let device = GuestDevice {
            ring,
            guest: id,
            mac: place.mac,
            reader: reader.clone(),
            foreign: Vec::new(),
            dropped: 0,
        };
        let mut port = Port { id, ends: None, shard, device, uplink, doorbell: to_server, _mapping: mapping };
        port.uplink.start(&mut port.shard);
        Ok(port)
    }

    /// The guest has gone. Its last frames are in the ring, and host sockets may be slow to take them.
    fn guest_gone(&mut self, time: Instant) {
        self.ends = Some(time.after(LINGER_NS));
        self.uplink.stop_listening();
        while self.shard.poll(time, &mut self.device) != 0 {
            self.uplink.engine_events(&mut self.shard, time);
        }
        self.uplink.end_flows(&mut self.shard);
    }

    /// Whether nothing is left to do for it.
    fn has_ended(&self, time: Instant) -> bool {
        self.ends.is_some_and(|at| time >= at || self.uplink.is_idle())
    }

    fn turn(&mut self, time: Instant) -> bool {
        if self.device.ring.is_corrupt() && self.ends.is_none() {
            // It breaks the ring's rules: from here on it is served as one that has gone.
            eprintln!(
                "attacca: network server: guest {} wrote nonsense into its ring and is cut off",
                self.id
            );
            self.guest_gone(time);
        }
        let frames = self.shard.poll(time, &mut self.device);
        let work = self.uplink.engine_events(&mut self.shard, time);
        if self.shard.wants_flush() {
            self.shard.flush(time, &mut self.device);
        }
        frames != 0 || work
    }
}

/// The server's engine plays the whole world towards one guest.
fn shard_config(place: &Place) -> io::Result<Config> {
    let mut seed = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut seed)?;
    let mut config = Config::new(place.gateway_mac, seed).address(place.gateway, place.prefix);
    config.peer_mac = Some(place.mac);
    config.mtu = place.mtu as usize;
    config.any_ip = true;
    config.ask_incoming = true;
    Ok(config)
}

/// A guest's ring behind the port map: frames that the guest may not send are dropped here.
struct GuestDevice {
    ring: RingDevice,
    guest: u32,
    mac: [u8; 6],
    reader: Rc<Reader>,
    /// Frames for other guests of the network.
    foreign: Vec<(u32, Vec<u8>)>,
    dropped: u64,
}

enum Verdict {
    Uplink,
    Guest(u32),
    Drop,
}

impl GuestDevice {
    fn judge(reader: &Reader, guest: u32, mac: [u8; 6], bytes: &[u8]) -> Verdict {
        let Ok(frame) = EthernetFrame::new_checked(bytes) else { return Verdict::Drop };
        if frame.src_addr() != EthernetAddress(mac) {
            return Verdict::Drop;
        }
        match frame.ethertype() {
            EthernetProtocol::Ipv4 => {
                let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else { return Verdict::Drop };
                if !reader.may_send(guest, packet.src_addr()) {
                    return Verdict::Drop;
                }
                match reader.owner(packet.dst_addr()) {
                    Some(other) if other != guest => Verdict::Guest(other),
                    Some(_) => Verdict::Drop,
                    None => Verdict::Uplink,
                }
            }
            EthernetProtocol::Arp => {
                let Ok(arp) = ArpPacket::new_checked(frame.payload()) else { return Verdict::Drop };
                let sender: Option<[u8; 4]> = arp.source_protocol_addr().try_into().ok();
                match sender.map(Ipv4Addr::from) {
                    Some(from) if reader.may_send(guest, from) => Verdict::Uplink,
                    _ => Verdict::Drop,
                }
            }
            _ => Verdict::Drop,
        }
    }

    /// A frame of another guest.
    fn pass(&mut self, frame: &[u8]) {
        let meta = TxMeta { checksum_offload: true, ..TxMeta::default() };
        if self.ring.transmit(frame.len(), meta, &mut |buffer| buffer.copy_from_slice(frame)).is_ok() {
            self.ring.flush();
        } else {
            self.dropped += 1;
        }
    }
}

impl Device for GuestDevice {
    fn capabilities(&self) -> Capabilities {
        self.ring.capabilities()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let (reader, guest, mac) = (&self.reader, self.guest, self.mac);
        let (foreign, dropped) = (&mut self.foreign, &mut self.dropped);
        self.ring.receive(budget, &mut |frames| {
            let mut ours = [RxFrame { bytes: &[], checksum_ok: false }; 32];
            let mut count = 0;
            for frame in frames {
                match GuestDevice::judge(reader, guest, mac, frame.bytes) {
                    Verdict::Uplink => {
                        ours[count] = *frame;
                        count += 1;
                        if count == ours.len() {
                            sink(&ours);
                            count = 0;
                        }
                    }
                    Verdict::Guest(other) => foreign.push((other, frame.bytes.to_vec())),
                    Verdict::Drop => *dropped += 1,
                }
            }
            if count != 0 {
                sink(&ours[..count]);
            }
        })
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.ring.transmit(len, meta, fill)
    }

    fn flush(&mut self) {
        self.ring.flush();
    }
}

/// The endpoint form of a host address.
pub(crate) fn endpoint(address: std::net::SocketAddr) -> Endpoint {
    address.into()
}
