//! UDP, ICMP, ARP and fragments between two engines, and random bytes against one.

mod common;

use common::*;
use net::control::Mode;
use net::device::{FaultPlan, Switch};
use net::{Bind, Endpoint, Error, RawProtocol, Ready, Shard, SocketId, UdpOption};
use proptest::prelude::*;

fn udp(shard: &mut Shard, addr: std::net::IpAddr, port: u16) -> SocketId {
    let id = shard.udp_open().unwrap();
    shard.udp_bind(id, Endpoint::new(addr, port), Bind::default()).unwrap();
    id
}

#[test]
fn datagrams_both_ways() {
    let mut world = World::new();
    let server = udp(&mut world.server, SERVER, 53);
    let client = world.client.udp_open().unwrap();
    let to = Endpoint::new(SERVER, 53);
    world.client.udp_send(client, &[b"que", b"ry"], Some(to), None).unwrap();
    world.settle();
    let event = world.server.next_event().unwrap();
    assert!(event.id == server && event.ready.contains(Ready::READABLE));
    let mut buffer = [0; 3];
    let peeked = world.server.udp_recv(server, &mut buffer, true).unwrap();
    assert_eq!((peeked.len, &buffer), (5, b"que"));
    let about = world.server.udp_recv(server, &mut buffer, false).unwrap();
    assert_eq!(about.to, to);
    assert_eq!(world.server.udp_recv(server, &mut buffer, false), Err(Error::WouldBlock));
    world.server.udp_send(server, &[b"ans"], Some(about.from), None).unwrap();
    world.settle();
    assert_eq!(world.client.udp_recv(client, &mut buffer, false).unwrap().from, to);
    assert_eq!(&buffer, b"ans");
}

#[test]
fn large_datagrams_travel_in_fragments() {
    let mut world =
        World::with(FaultPlan { reorder: 300_000, duplicate: 100_000, ..FaultPlan::default() }, 5, |_, _| ());
    let server = udp(&mut world.server, SERVER, 53);
    let client = udp(&mut world.client, CLIENT, 54);
    // An IPv6 packet's length does not count its header (RFC 8200 section 3), but Linux keeps to one limit.
    let most = 65_535 - if V6 { 8 } else { 28 };
    for len in [1492 - IP, 1493 - IP, 9_000, most] {
        let data = pattern(len, len);
        world.client.udp_send(client, &[&data], Some(Endpoint::new(SERVER, 53)), None).unwrap();
        world.pass(10);
        let mut buffer = vec![0; 65_536];
        let about = world.server.udp_recv(server, &mut buffer, false).unwrap();
        assert!(about.len == len && buffer[..len] == data);
        while world.server.udp_recv(server, &mut buffer, false).is_ok() {}
    }
    let too_long = vec![0; most + 1];
    let to = Some(Endpoint::new(SERVER, 53));
    assert_eq!(world.client.udp_send(client, &[&too_long], to, None), Err(Error::MessageTooLong));
}

#[test]
fn port_unreachable_is_told_to_connected_sockets() {
    let mut world = World::new();
    let client = world.client.udp_open().unwrap();
    world.client.udp_connect(client, Some(Endpoint::new(SERVER, 99))).unwrap();
    world.client.udp_send(client, &[b"x"], None, None).unwrap();
    world.settle();
    assert_eq!(world.client.udp_recv(client, &mut [0; 8], false), Err(Error::Refused));
}

#[test]
fn broadcast_needs_permission_and_reaches_all() {
    if V6 {
        return; // It has no broadcast.
    }
    let mut world = World::new();
    let any = [0, 0, 0, 0];
    let server = world.server.udp_open().unwrap();
    world.server.udp_bind(server, Endpoint::new(any, 67), Bind::default()).unwrap();
    let client = world.client.udp_open().unwrap();
    let to = Some(Endpoint::new([10, 0, 0, 255], 67));
    assert_eq!(world.client.udp_send(client, &[b"x"], to, None), Err(Error::Prohibited));
    world.client.udp_set(client, UdpOption::Broadcast(true)).unwrap();
    world.client.udp_send(client, &[b"x"], to, None).unwrap();
    world.settle();
    assert!(world.server.udp_recv(server, &mut [0; 8], false).is_ok());
}

#[test]
fn catch_all_takes_what_is_for_others() {
    let mut world = World::with(FaultPlan::default(), 1, |client, server| {
        server.any_ip = true;
        *client = client.clone().gateway(SERVER);
    });
    let all = world.server.udp_open().unwrap();
    world.server.udp_set(all, UdpOption::CatchAll(true)).unwrap();
    let client = world.client.udp_open().unwrap();
    let far: std::net::IpAddr = if V6 { "2600::8".parse().unwrap() } else { [8, 8, 8, 8].into() };
    let far = Endpoint::new(far, 53);
    world.client.udp_send(client, &[b"dns?"], Some(far), None).unwrap();
    world.settle();
    let about = world.server.udp_recv(all, &mut [0; 8], false).unwrap();
    assert_eq!(about.to, far);
    world.server.udp_send(all, &[b"dns!"], Some(about.from), Some(far)).unwrap();
    world.settle();
    assert_eq!(world.client.udp_recv(client, &mut [0; 8], false).unwrap().from, far);
}

#[test]
fn full_queues_drop_and_push_back() {
    let mut world = World::new();
    let server = udp(&mut world.server, SERVER, 53);
    world.server.udp_set(server, UdpOption::ReceiveBuffer(4096)).unwrap();
    let client = udp(&mut world.client, CLIENT, 54);
    world.client.udp_set(client, UdpOption::SendBuffer(4096)).unwrap();
    let to = Some(Endpoint::new(SERVER, 53));
    let mut sent = 0;
    while world.client.udp_send(client, &[&[0; 100]], to, None).is_ok() {
        sent += 1;
    }
    assert!((5..20).contains(&sent), "{sent}");
    world.settle();
    assert!(world.client.next_event().is_some_and(|event| event.news.contains(Ready::WRITABLE)));
    for _ in 0..50 {
        let _ = world.client.udp_send(client, &[&[0; 100]], to, None);
        world.settle();
    }
    let mut got = 0;
    while world.server.udp_recv(server, &mut [0; 100], false).is_ok() {
        got += 1;
    }
    assert!((5..15).contains(&got), "{got}");
}

#[test]
fn ping_is_answered() {
    let mut world = World::new();
    let ping = world.client.raw_open(if V6 { RawProtocol::Ping6 } else { RawProtocol::Ping }).unwrap();
    let (request, reply) = if V6 { (128, 129) } else { (8, 0) };
    let request = [request, 0, 0, 0, 0, 0, 0, 1, b'd', b'a', b't', b'a'];
    world.client.raw_send(ping, &request, Endpoint::new(SERVER, 0)).unwrap();
    world.settle();
    let mut buffer = [0; 64];
    let about = world.client.raw_recv(ping, &mut buffer, false).unwrap();
    assert_eq!((about.len, buffer[0], &buffer[8..12]), (12, reply, &b"data"[..]));
}

#[test]
fn a_switched_device_loses_nothing() {
    let mut world = World::new();
    let (client, server) = world.established();
    let (old_client, old_server) = net::device::Pair::new(net::device::Capabilities::plain(1500), 64);
    let (new_client, new_server) = net::device::Pair::new(net::device::Capabilities::plain(1400), 64);
    let mut a = Switch::new(Box::new(old_client), Mode::Server, None);
    let mut b = Switch::new(Box::new(old_server), Mode::Server, None);
    let now = world.now;
    let data = pattern(0, 60_000);
    let mut got = Vec::new();
    let mut sent = 0;
    let mut new = Some((new_client, new_server));
    for round in 0..200 {
        if sent < data.len() {
            let piece = &data[sent..(sent + 3000).min(data.len())];
            sent += world.client.tcp_send(client, piece, net::TcpFlags::empty()).unwrap_or(0);
        }
        world.client.flush(now, &mut a);
        if round == 5 {
            // In the middle of a flight.
            let (new_client, new_server) = new.take().unwrap();
            a.change(Box::new(new_client), Mode::Direct);
            b.change(Box::new(new_server), Mode::Direct);
        }
        world.server.poll(now, &mut b);
        got.extend(world.server_recv(server));
        world.client.poll(now, &mut a);
    }
    assert!(a.settled() && b.settled());
    assert!(got == data, "{} of {} without time passing", got.len(), data.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        net::fuzz_frames(&bytes);
    }

    /// Extension headers, ICMPv6, neighbour discovery and DHCP messages of random content.
    #[test]
    fn random_messages_do_not_panic(
        records in prop::collection::vec((2u8..5, 0u8..8, prop::collection::vec(any::<u8>(), 4..200)), 1..12)
    ) {
        let mut bytes = Vec::new();
        for (kind, which, mut body) in records {
            // Often the types that mean something.
            body[0] = match (kind, which) {
                (2, 0..5) => [0, 43, 44, 60, 58][usize::from(which)],
                (3, 0..6) => [130, 133, 134, 135, 136, 137][usize::from(which)],
                (4, 0..4) => 2,
                _ => body[0],
            };
            if kind == 3 {
                body[1] = 0;
            }
            bytes.push((1 + body.len() as u8) | 1);
            bytes.push(kind);
            bytes.extend(body);
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
        }
        net::fuzz_frames(&bytes);
    }

    /// Segments that look right for a connection, with random numbers near the interesting ones.
    #[test]
    fn random_segments_do_not_panic(
        steps in prop::collection::vec(
            (0u8..32, -70_000i32..70_000, -70_000i32..70_000, any::<u16>(), 0usize..1500, 0u64..3000, 0u8..8), 1..60)
    ) {
        let mut script = Script::new(|_| ());
        let (id, ours) = script.established();
        let mut buffer = [0; 2048];
        for (bits, seq, ack, window, len, ms, what) in steps {
            let flags: String = "FSRPA".chars().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, c)| c).collect();
            let near = |base: u32, by: i32| base.wrapping_add((if by % 3 == 0 { by / 5000 } else { by }) as u32);
            script.segment_with(5000, &flags, near(1001, seq), near(ours, ack), window, &pattern(0, len), &[]);
            match what {
                0 => drop(script.shard.tcp_send(id, &pattern(0, len), net::TcpFlags::empty())),
                1 => drop(script.shard.tcp_recv(id, &mut buffer, net::TcpFlags::empty())),
                2 if ms < 300 => drop(script.shard.tcp_shutdown(id, net::Shutdown::Write)),
                3 if ms < 100 => script.shard.close(id),
                _ => {}
            }
            script.pass(ms);
            while script.shard.next_event().is_some() {}
        }
        script.shard.close(id);
        script.pass(2_000_000);
        prop_assert!(script.shard.counts()[0] <= 1 + 1, "only the listener, and at most one unaccepted");
    }
}
