//! The server as a whole: an engine in the place of a guest, real host sockets at the other end.

use crate::board::REASONS;
use crate::control::{self, Order};
use crate::supervisor::Held;
use crate::supervisor::testing::{held, hello, place};
use crate::{Publish, orders, sys};
use net::ring::{Link, RingDevice, Role};
use net::{Bind, Config, Endpoint, Error, Ready, Shard, SocketId, TcpFlags};
use platform::time::now;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// An engine with the guest's end of a link, and a server in a thread.
struct Guest {
    shard: Shard,
    device: RingDevice,
    orders: OwnedFd,
    published: Vec<SocketAddr>,
    held: Held,
    _mapping: sys::Mapping,
}

impl Guest {
    fn start(publish: &[(u16, bool)]) -> Guest {
        let publish: Vec<Publish> = publish
            .iter()
            .map(|&(guest_port, udp)| Publish { host: ([127, 0, 0, 1], 0).into(), guest_port, udp })
            .collect();
        Guest::publishing(publish)
    }

    fn publishing(publish: Vec<Publish>) -> Guest {
        let (place, link, listeners) = place(&publish);
        let (to_server, to_guest) = (sys::eventfd().unwrap(), sys::eventfd().unwrap());
        let (orders, theirs) = sys::seqpacket_pair().unwrap();
        let mut held = held((Ipv4Addr::new(10, 0, 2, 0), 24));
        place.addresses().for_each(|address| assert!(held.port_map.own_address(address, 1)));
        std::thread::spawn(move || orders::live(theirs).unwrap());
        let first = [held.port_map.fd(), held.board.fd(), held.bell.as_fd()];
        control::send(orders.as_fd(), &hello(&held), &first).unwrap();
        let process = sys::pidfd(std::process::id() as i32).unwrap();
        let mut fds = vec![link.as_fd(), to_server.as_fd(), to_guest.as_fd(), process.as_fd()];
        fds.extend(listeners.iter().map(|l| l.as_fd()));
        control::send(orders.as_fd(), &Order::Add(1, Box::new(place.clone())), &fds).unwrap();
        control::send(orders.as_fd(), &Order::Go, &[]).unwrap();
        let mapping = sys::Mapping::new(link.as_fd(), true).unwrap();
        // SAFETY: the mapping outlives the device (field order), and the guest's end is used here only.
        let device = unsafe {
            let link = Link::open(mapping.base, mapping.len).unwrap();
            let bell = Box::new(move || sys::ring(to_server.as_raw_fd()));
            RingDevice::new(link, Role::Guest, 0, place.mtu as usize, bell).unwrap()
        };
        let mut config = Config::new(place.mac, [7; 32])
            .address(place.address, place.prefix)
            .gateway(place.gateway.unwrap());
        if let (Some((address, prefix)), Some(gateway)) = (place.address6, place.gateway6) {
            config = config.address(address.into(), prefix).gateway(gateway.into());
        }
        config.peer_mac = place.peer_mac;
        config.mtu = place.mtu as usize;
        let published = place.publish.iter().map(|p| p.host).collect();
        Guest { shard: Shard::new(config), device, orders, published, held, _mapping: mapping }
    }

    /// Drives the engine until `done` says so.
    fn until(&mut self, mut done: impl FnMut(&mut Shard) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.shard.poll(now(), &mut self.device);
            while self.shard.next_event().is_some() {}
            let finished = done(&mut self.shard);
            self.shard.flush(now(), &mut self.device);
            if finished {
                return;
            }
            assert!(Instant::now() < deadline, "nothing happens");
            std::thread::yield_now();
        }
    }

    fn listen(&mut self, port: u16) -> SocketId {
        self.listen_on(Ipv4Addr::UNSPECIFIED.into(), port)
    }

    fn listen_on(&mut self, address: IpAddr, port: u16) -> SocketId {
        let id = self.shard.tcp_open().unwrap();
        self.shard.tcp_bind(id, Endpoint::new(address, port), Bind::default()).unwrap();
        self.shard.tcp_listen(id, 16).unwrap();
        id
    }

    /// Sends back what comes on one connection until its end.
    fn echo(&mut self, listener: SocketId) {
        let mut connection = None;
        let mut kept = Vec::new();
        let mut ended = false;
        self.until(|shard| {
            if connection.is_none() {
                connection = shard.tcp_accept(listener).ok().map(|(id, _)| id);
            }
            let Some(id) = connection else { return false };
            let mut buffer = [0; 65536];
            if kept.is_empty() && !ended {
                match shard.tcp_recv(id, &mut buffer, TcpFlags::empty()) {
                    Ok(0) => ended = true,
                    Ok(len) => kept.extend_from_slice(&buffer[..len]),
                    Err(error) => assert_eq!(error, Error::WouldBlock),
                }
            }
            if let Ok(sent) = shard.tcp_send(id, &kept, TcpFlags::empty()) {
                kept.drain(..sent);
            }
            if ended && kept.is_empty() {
                shard.close(id);
            }
            ended && kept.is_empty()
        });
        // What is queued goes out, and the FIN is acknowledged.
        let linger = Instant::now() + Duration::from_millis(200);
        self.until(|_| Instant::now() > linger);
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
}

#[test]
fn a_published_port_reaches_the_guest() {
    let mut guest = Guest::start(&[(80, false)]);
    let listener = guest.listen(80);
    let host = guest.published[0];
    let bytes = pattern(3_000_000);
    let sent = bytes.clone();
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(host).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        got
    });
    guest.echo(listener);
    assert!(client.join().unwrap() == bytes);
}

#[test]
fn a_port_published_on_both_families_reaches_whatever_the_guest_listens_on() {
    for listening in [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)] {
        for client in [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)] {
            let host = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
            let mut guest = Guest::publishing(vec![Publish { host, guest_port: 80, udp: false }]);
            let listener = guest.listen_on(listening, 80);
            let at = SocketAddr::new(client, guest.published[0].port());
            let asking = std::thread::spawn(move || {
                let mut stream = TcpStream::connect(at).unwrap();
                stream.write_all(b"both").unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                got
            });
            guest.echo(listener);
            assert_eq!(asking.join().unwrap(), b"both", "{client} to {listening}");
        }
    }
}

#[test]
fn the_gateways_ipv6_address_is_the_hosts_loopback() {
    let mut guest = Guest::start(&[]);
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"six").unwrap());
    let gateway: Ipv6Addr = "fd9a:c71d:2f60::2".parse().unwrap();
    let id = guest.shard.tcp_open().unwrap();
    let _ = guest.shard.tcp_connect(id, Endpoint::new(gateway, port), now());
    let mut word = [0; 16];
    guest.until(|shard| shard.tcp_recv(id, &mut word, TcpFlags::empty()) == Ok(3));
    assert_eq!(&word[..3], b"six");
    server.join().unwrap();
    // Nobody listens there any more.
    let id = guest.shard.tcp_open().unwrap();
    let _ = guest.shard.tcp_connect(id, Endpoint::new(gateway, port), now());
    guest.until(|shard| shard.ready(id).contains(Ready::ERROR));
    assert_eq!(guest.shard.take_error(id), Some(Error::Refused));
    let host = UdpSocket::bind("[::1]:0").unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = Endpoint::new(gateway, host.local_addr().unwrap().port());
    let id = guest.shard.udp_open().unwrap();
    guest.shard.udp_send(id, &[b"datagram"], Some(to), None).unwrap();
    let host = std::thread::spawn(move || {
        let mut word = [0; 16];
        let (len, from) = host.recv_from(&mut word).unwrap();
        host.send_to(&word[..len], from).unwrap();
    });
    guest.until(|shard| shard.udp_recv(id, &mut word, false).is_ok_and(|got| got.from == to && got.len == 8));
    host.join().unwrap();
}

#[test]
fn a_closed_guest_port_resets_the_client() {
    let mut guest = Guest::start(&[(81, false)]);
    let host = guest.published[0];
    let client = std::thread::spawn(move || TcpStream::connect(host).unwrap().read(&mut [0; 1]));
    let mut result = None;
    let mut client = Some(client);
    guest.until(|_| {
        if client.as_ref().is_some_and(|c| c.is_finished()) {
            result = client.take().map(|c| c.join().unwrap());
        }
        result.is_some()
    });
    let error = result.unwrap().expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn the_guest_reaches_the_host_and_hears_refusals() {
    let mut guest = Guest::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(&word).unwrap();
    });
    let gateway = Ipv4Addr::new(10, 0, 2, 2);
    let id = guest.shard.tcp_open().unwrap();
    let began = guest.shard.tcp_connect(id, Endpoint::new(gateway, port), now());
    assert_eq!(began, Err(Error::InProgress));
    guest.until(|shard| shard.tcp_send(id, b"hello", TcpFlags::empty()) == Ok(5));
    let mut word = [0; 16];
    guest.until(|shard| shard.tcp_recv(id, &mut word, TcpFlags::empty()) == Ok(5));
    assert_eq!(&word[..5], b"hello");
    guest.until(|shard| shard.tcp_recv(id, &mut word, TcpFlags::empty()) == Ok(0));
    server.join().unwrap();
    // The listener is gone: its port answers with a refusal.
    let id = guest.shard.tcp_open().unwrap();
    let _ = guest.shard.tcp_connect(id, Endpoint::new(gateway, port), now());
    guest.until(|shard| shard.ready(id).contains(Ready::ERROR));
    assert_eq!(guest.shard.take_error(id), Some(Error::Refused));
}

#[test]
fn datagrams_go_both_ways() {
    let mut guest = Guest::start(&[(53, true)]);
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = host.local_addr().unwrap().port();
    let id = guest.shard.udp_open().unwrap();
    guest.shard.udp_bind(id, Endpoint::new(Ipv4Addr::UNSPECIFIED, 53), Bind::default()).unwrap();
    let gateway = Endpoint::new(Ipv4Addr::new(10, 0, 2, 2), port);
    guest.shard.udp_send(id, &[b"out"], Some(gateway), None).unwrap();
    let host_side = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (len, from) = host.recv_from(&mut buffer).unwrap();
        host.send_to(&buffer[..len], from).unwrap();
    });
    let mut buffer = [0; 64];
    let mut got = None;
    guest.until(|shard| {
        got = shard.udp_recv(id, &mut buffer, false).ok();
        got.is_some()
    });
    assert_eq!((&buffer[..3], got.unwrap().from), (&b"out"[..], gateway));
    host_side.join().unwrap();
    // In through the published port, and the answer back to the same client.
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"query", guest.published[0]).unwrap();
    guest.until(|shard| {
        got = shard.udp_recv(id, &mut buffer, false).ok();
        got.is_some()
    });
    guest.shard.udp_send(id, &[b"answer"], Some(got.unwrap().from), None).unwrap();
    let answer = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let len = client.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    });
    guest.until(|_| answer.is_finished());
    assert_eq!(answer.join().unwrap(), b"answer");
}

#[test]
fn frames_that_are_not_the_guests_are_dropped() {
    use net::device::{Device, TxMeta};
    let mut guest = Guest::start(&[]);
    let mut state = 1u64;
    for _ in 0..2000 {
        let mut garbage = [0u8; 200];
        for byte in &mut garbage {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        let _ = guest.device.transmit(garbage.len(), TxMeta::default(), &mut |b| b.copy_from_slice(&garbage));
        guest.device.flush();
    }
    // The server still serves.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let id = guest.shard.tcp_open().unwrap();
    let _ = guest.shard.tcp_connect(id, Endpoint::new(Ipv4Addr::new(10, 0, 2, 2), port), now());
    guest.until(|shard| shard.tcp_send(id, b"x", TcpFlags::empty()) == Ok(1));
    drop(guest.orders);
}

/// Another guest of the same network, without an engine: its rings' memory, and its bell.
struct Neighbor {
    device: Option<RingDevice>,
    bell: OwnedFd,
    mapping: sys::Mapping,
    mac: [u8; 6],
}

impl Guest {
    fn add_neighbor(&mut self, id: u32, host: u8) -> Neighbor {
        let (mut place, link, _) = place(&[]);
        place.address = Ipv4Addr::new(10, 0, 2, host).into();
        place.mac = [2, 0xa7, 10, 0, 2, host];
        place.slot = id;
        place.name = format!("neighbor-{id}");
        let (to_server, to_guest) = (sys::eventfd().unwrap(), sys::eventfd().unwrap());
        assert!(self.held.port_map.own_address(place.address, id));
        let process = sys::pidfd(std::process::id() as i32).unwrap();
        let fds = [link.as_fd(), to_server.as_fd(), to_guest.as_fd(), process.as_fd()];
        control::send(self.orders.as_fd(), &Order::Add(id, Box::new(place.clone())), &fds).unwrap();
        let mapping = sys::Mapping::new(link.as_fd(), true).unwrap();
        let bell = to_server.try_clone().unwrap();
        // SAFETY: the mapping outlives the device (field order of `Neighbor`); one guest's end.
        let device = unsafe {
            let link = Link::open(mapping.base, mapping.len).unwrap();
            let ring = Box::new(move || sys::ring(to_server.as_raw_fd()));
            RingDevice::new(link, Role::Guest, 0, place.mtu as usize, ring).unwrap()
        };
        Neighbor { device: Some(device), bell, mapping, mac: place.mac }
    }

    /// The gateway still serves this guest.
    fn is_served(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let id = self.shard.tcp_open().unwrap();
        let _ = self.shard.tcp_connect(id, Endpoint::new(Ipv4Addr::new(10, 0, 2, 2), port), now());
        self.until(|shard| shard.tcp_send(id, b"x", TcpFlags::empty()) == Ok(1));
        self.shard.close(id);
    }

    fn drops(&self, slot: u32, reason: &str) -> u64 {
        let at = REASONS.iter().position(|r| *r == reason).unwrap();
        self.held.board.slot(slot).drops()[at]
    }
}

/// An IPv4 frame with a UDP head.
fn datagram(to: [u8; 6], from: [u8; 6], src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut frame = [&to[..], &from[..], &[8, 0, 0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17, 0, 0]].concat();
    frame.extend_from_slice(&src);
    frame.extend_from_slice(&dst);
    frame.extend_from_slice(&[0x30, 0x39, 0, 9, 0, 26, 0, 0]);
    frame.resize(60, 7);
    frame
}

impl Neighbor {
    fn send(&mut self, frame: &[u8]) {
        use net::device::{Device, TxMeta};
        let device = self.device.as_mut().unwrap();
        let _ = device.transmit(frame.len(), TxMeta::default(), &mut |to| to.copy_from_slice(frame));
        device.flush();
    }
}

#[test]
fn foreign_senders_are_dropped_and_counted() {
    let mut guest = Guest::start(&[]);
    let mut neighbor = guest.add_neighbor(2, 16);
    let (mac, gateway) = (neighbor.mac, [2, 0xa7, 0xac, 0xca, 0, 2]);
    neighbor.send(&datagram(gateway, [2, 9, 9, 9, 9, 9], [10, 0, 2, 16], [10, 0, 2, 15]));
    neighbor.send(&datagram(gateway, mac, [10, 0, 2, 15], [10, 0, 2, 2]));
    neighbor.send(&datagram(gateway, mac, [8, 8, 8, 8], [10, 0, 2, 15]));
    neighbor.send(&[0; 60]);
    neighbor.send(&datagram(gateway, mac, [10, 0, 2, 16], [10, 0, 2, 15]));
    guest.is_served();
    let deadline = Instant::now() + PATIENCE;
    while guest.held.board.slot(2).frames_from.load(std::sync::atomic::Ordering::Relaxed) < 5 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(guest.drops(2, "foreign_mac"), 1);
    assert_eq!(guest.drops(2, "foreign_address"), 2);
    assert_eq!(guest.drops(2, "malformed"), 1);
}

#[test]
fn hostile_memory_costs_its_owner_alone() {
    let mut guest = Guest::start(&[]);
    let mut random = 0x9e37_79b9u64;
    let mut next = move |limit: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % limit
    };
    for round in 0..20u32 {
        let mut hostile = guest.add_neighbor(10 + round, 30 + round as u8);
        hostile.device = None;
        for _ in 0..200 {
            // Positions and flags most often, then anything, the constant head included.
            let at = match next(4) {
                0 => 4096 + next(64) * 4,
                1 => 4096 + 4096 + next(512) * 8,
                2 => 4096 + (4096 + (1 << 19)) + next(64) * 4,
                _ => next(hostile.mapping.len / 4) * 4,
            };
            let value = [next(1 << 20) as u32 & !15, u32::MAX, 16, next(1 << 32) as u32][next(4)];
            // SAFETY: inside the mapping, aligned; as another process would write.
            unsafe { hostile.mapping.base.add(at).cast::<u32>().write_volatile(value) };
            sys::ring(hostile.bell.as_raw_fd());
        }
        // Half-way through a record it dies.
        control::send(guest.orders.as_fd(), &Order::Remove(10 + round), &[]).unwrap();
        guest.held.port_map.forget(Ipv4Addr::new(10, 0, 2, 30 + round as u8).into());
    }
    guest.is_served();
    // Its address and slot serve the next one.
    let mut heir = guest.add_neighbor(10, 30);
    let mac = heir.mac;
    heir.send(&datagram([2, 0xa7, 0xac, 0xca, 0, 2], mac, [10, 0, 2, 30], [10, 0, 2, 15]));
    guest.is_served();
    assert_eq!(guest.drops(10, "foreign_address"), 0);
}

#[test]
fn a_guest_that_takes_nothing_costs_the_others_nothing() {
    let mut guest = Guest::start(&[]);
    let mut flooder = guest.add_neighbor(2, 16);
    let _sleeper = guest.add_neighbor(3, 17);
    let (mac, gateway) = (flooder.mac, [2, 0xa7, 0xac, 0xca, 0, 2]);
    let frame = datagram(gateway, mac, [10, 0, 2, 16], [10, 0, 2, 17]);
    let deadline = Instant::now() + PATIENCE;
    while guest.drops(2, "receiver_full") == 0 {
        assert!(Instant::now() < deadline);
        (0..200).for_each(|_| flooder.send(&frame));
        guest.is_served();
    }
}
