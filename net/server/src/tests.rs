//! The server as a whole: an engine in the place of a guest, real host sockets at the other end.

use crate::control::{self, Order};
use crate::supervisor::testing::{held, hello, place};
use crate::{Publish, orders, sys};
use net::ring::{Link, RingDevice, Role};
use net::{Bind, Config, Endpoint, Error, Ready, Shard, SocketId, TcpFlags};
use platform::time::now;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// An engine with the guest's end of a link, and a server in a thread.
struct Guest {
    shard: Shard,
    device: RingDevice,
    orders: OwnedFd,
    published: Vec<SocketAddr>,
    _mapping: sys::Mapping,
}

impl Guest {
    fn start(publish: &[(u16, bool)]) -> Guest {
        let publish: Vec<Publish> = publish
            .iter()
            .map(|&(guest_port, udp)| Publish { host: ([127, 0, 0, 1], 0).into(), guest_port, udp })
            .collect();
        let (place, link, listeners) = place(&publish);
        let (to_server, to_guest) = (sys::eventfd().unwrap(), sys::eventfd().unwrap());
        let (orders, theirs) = sys::seqpacket_pair().unwrap();
        let mut held = held((Ipv4Addr::new(10, 0, 2, 0), 24));
        assert!(held.port_map.own_address(place.address, 1));
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
        config.peer_mac = place.peer_mac;
        config.mtu = place.mtu as usize;
        let published = place.publish.iter().map(|p| p.host).collect();
        Guest { shard: Shard::new(config), device, orders, published, _mapping: mapping }
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
        let id = self.shard.tcp_open().unwrap();
        self.shard.tcp_bind(id, Endpoint::new(Ipv4Addr::UNSPECIFIED, port), Bind::default()).unwrap();
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
