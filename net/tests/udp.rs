//! UDP's options between two engines: segments, groups, errors, sizes. Also over IPv6, by `udp6.rs`.

mod common;

use common::*;
use net::device::{Capabilities, FaultPlan, Pair};
use net::{Bind, Endpoint, Error, MtuDiscover, Ready, SendOptions, Shard, SocketId, UdpOption};
use std::net::IpAddr;

fn udp(shard: &mut Shard, addr: IpAddr, port: u16) -> SocketId {
    let id = shard.udp_open().unwrap();
    shard.udp_bind(id, Endpoint::new(addr, port), Bind { reuse_addr: true, ..Bind::default() }).unwrap();
    id
}

fn any() -> IpAddr {
    if V6 { [0; 16].into() } else { [0; 4].into() }
}

fn group() -> IpAddr {
    if V6 { "ff15::7".parse().unwrap() } else { [239, 1, 2, 3].into() }
}

#[test]
fn segments_are_cut_and_put_together() {
    let mut world = World::new();
    let server = udp(&mut world.server, SERVER, 53);
    let client = udp(&mut world.client, CLIENT, 54);
    let to = Some(Endpoint::new(SERVER, 53));
    let data = pattern(7, 4500);
    let how = SendOptions { to, segment: 1000, ..SendOptions::default() };
    world.client.udp_send_with(client, &[&data], &how).unwrap();
    world.settle();
    let mut buffer = vec![0; 65_536];
    let lens: Vec<usize> = std::iter::from_fn(|| world.server.udp_recv(server, &mut buffer, false).ok())
        .map(|d| d.len)
        .collect();
    assert_eq!(lens, [1000, 1000, 1000, 1000, 500]);
    world.server.udp_set(server, UdpOption::Gro(true)).unwrap();
    world.client.udp_send_with(client, &[&data], &how).unwrap();
    world.client.udp_send_with(client, &[&data[..10]], &how).unwrap();
    world.settle();
    let about = world.server.udp_recv(server, &mut buffer, false).unwrap();
    assert_eq!((about.len, about.segment), (4500, 1000));
    assert!(buffer[..4500] == data);
    assert_eq!(
        world.server.udp_recv(server, &mut buffer, false).unwrap().len,
        10,
        "a short one ends a train"
    );
    // More than 64 at once, and pieces that do not fit the path.
    let how = SendOptions { segment: 50, ..how };
    assert_eq!(world.client.udp_send_with(client, &[&data], &how), Err(Error::Invalid));
    let how = SendOptions { segment: 1480, ..how };
    assert_eq!(world.client.udp_send_with(client, &[&data], &how), Err(Error::Invalid));
}

#[test]
fn groups_are_joined_filtered_and_left() {
    let mut world = World::new();
    let server = udp(&mut world.server, any(), 53);
    let client = udp(&mut world.client, CLIENT, 54);
    let to = Some(Endpoint::new(group(), 53));
    let send = |world: &mut World| {
        world.client.udp_send(client, &[b"all"], to, None).unwrap();
        world.pass(3);
        let got = world.server.udp_recv(server, &mut [0; 8], false);
        got.is_ok_and(|about| about.to.addr == group() && about.hop_limit == 1)
    };
    assert!(!send(&mut world), "nobody joined");
    let join = UdpOption::Join { group: group(), lo: false };
    world.server.udp_set(server, join).unwrap();
    assert_eq!(world.server.udp_set(server, join), Err(Error::AddressInUse));
    assert!(send(&mut world));
    let source = |include, add, source| UdpOption::Source { group: group(), source, include, add, lo: false };
    assert_eq!(world.server.udp_set(server, source(true, true, CLIENT)), Err(Error::Invalid), "other mode");
    world.server.udp_set(server, source(false, true, CLIENT)).unwrap();
    assert!(!send(&mut world), "blocked");
    world.server.udp_set(server, source(false, false, CLIENT)).unwrap();
    assert!(send(&mut world));
    world.server.udp_set(server, UdpOption::Leave { group: group() }).unwrap();
    assert!(!send(&mut world));
    world.server.udp_set(server, source(true, true, SERVER)).unwrap();
    assert!(!send(&mut world), "only from others");
    world.server.udp_set(server, source(true, true, CLIENT)).unwrap();
    assert!(send(&mut world));
}

#[test]
fn members_on_the_sender_hear_it_unless_told_not_to() {
    let mut world = World::new();
    let client = udp(&mut world.client, any(), 53);
    world.client.udp_set(client, UdpOption::Join { group: group(), lo: true }).unwrap();
    let to = Some(Endpoint::new(group(), 53));
    let mut heard = |option: UdpOption| {
        world.client.udp_set(client, option).unwrap();
        world.client.udp_send(client, &[b"me"], to, None).unwrap();
        world.settle();
        world.client.udp_recv(client, &mut [0; 8], false).is_ok()
    };
    assert!(heard(UdpOption::MulticastLoop(true)));
    assert!(!heard(UdpOption::MulticastLoop(false)));
    assert!(heard(UdpOption::MulticastLo(true)));
}

#[test]
fn memberships_are_reported_and_queries_answered() {
    let (mut device, mut peer) = Pair::new(Capabilities::plain(1500), 64);
    let mut shard = Shard::new(config(SERVER, 2));
    let mut now = platform::time::Instant(1_000_000_000_000);
    let mut run = |shard: &mut Shard, ms: u64| {
        let end = now.after(ms * 1_000_000);
        shard.poll(now, &mut device);
        while let Some(at) = shard.deadline().filter(|at| *at <= end) {
            now = now.max(at);
            shard.poll(now, &mut device);
        }
        now = end;
        shard.poll(now, &mut device);
    };
    run(&mut shard, 10_000);
    while peer.take().is_some() {}
    let id = udp(&mut shard, any(), 53);
    shard.udp_set(id, UdpOption::Join { group: group(), lo: false }).unwrap();
    run(&mut shard, 5_000);
    // Records: type of report, type of record. Behind Ethernet, IP header with router alert.
    let at = 14 + IP + if V6 { 8 } else { 4 };
    let mut reports = || {
        let mut found = Vec::new();
        while let Some(frame) = peer.take() {
            if frame.len() > at + 8 && frame[at] == if V6 { 143 } else { 0x22 } {
                found.push((frame[at + 7], frame[at + 8]));
            }
        }
        found
    };
    assert_eq!(reports(), [(1, 4), (1, 4)], "told twice: to exclude nothing");
    let query: Vec<u8> = if V6 {
        vec![130, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]
    } else {
        vec![0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]
    };
    inject(&mut peer, query);
    run(&mut shard, 11_000);
    let mut answers = 0;
    while let Some(frame) = peer.take() {
        if frame.len() > at + 8 && frame[at] == if V6 { 143 } else { 0x22 } {
            // IPv6: also the groups of its addresses.
            answers += u32::from(frame[at + 7]);
            assert_eq!(frame[at + 8], 2, "is to exclude");
        }
    }
    assert!(if V6 { answers >= 2 } else { answers == 1 }, "{answers}");
}

/// A query from a router.
fn inject(peer: &mut net::device::PairEnd, mut query: Vec<u8>) {
    use smoltcp::wire::{Icmpv6Packet, IpProtocol};
    let (from, to): (IpAddr, IpAddr) = if V6 {
        ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap())
    } else {
        (CLIENT, [224, 0, 0, 1].into())
    };
    let mut frame = vec![0; 14 + IP];
    frame[..6].copy_from_slice(if V6 { &[0x33, 0x33, 0, 0, 0, 1] } else { &[1, 0, 0x5e, 0, 0, 1] });
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(if V6 { &[0x86, 0xdd] } else { &[8, 0] });
    let protocol = if V6 { IpProtocol::Icmpv6 } else { IpProtocol::Igmp };
    ip_header(&mut frame[14..], query.len(), protocol, from, to, 0);
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            Icmpv6Packet::new_unchecked(&mut query[..]).fill_checksum(&from, &to);
        }
        _ => {
            let sum = !smoltcp::wire::checksum::data(&query);
            query[2..4].copy_from_slice(&sum.to_be_bytes());
        }
    }
    frame.extend_from_slice(&query);
    peer.inject(&frame);
}

#[test]
fn errors_are_queued_for_who_asks() {
    let mut world = World::new();
    let client = udp(&mut world.client, CLIENT, 54);
    let to = Endpoint::new(SERVER, 99);
    world.client.udp_send(client, &[b"lost"], Some(to), None).unwrap();
    world.settle();
    assert_eq!(world.client.udp_recv(client, &mut [0; 8], false), Err(Error::WouldBlock), "unconnected");
    world.client.udp_set(client, UdpOption::ReceiveErrors(true)).unwrap();
    world.client.udp_send(client, &[b"asked"], Some(to), None).unwrap();
    world.settle();
    assert!(world.client.ready(client).contains(Ready::ERROR));
    let queued = world.client.udp_take_queued_error(client).unwrap();
    assert_eq!((queued.error, queued.to, &queued.data[..]), (Error::Refused, to, &b"asked"[..]));
    assert_eq!(queued.icmp, Some(if V6 { (1, 4) } else { (3, 3) }));
    assert_eq!(queued.offender, Some(SERVER));
    assert!(!world.client.ready(client).contains(Ready::ERROR), "reading the queue clears the error");
}

#[test]
fn sizes_are_judged_as_the_socket_wants() {
    let mut world = World::with(FaultPlan::default(), 1, |client, _| client.mtu = 1400);
    let server = udp(&mut world.server, SERVER, 53);
    let client = udp(&mut world.client, CLIENT, 54);
    let to = Some(Endpoint::new(SERVER, 53));
    let (fits, large) = (vec![1; 1400 - IP - 8], vec![2; 1400 - IP - 7]);
    world.client.udp_set(client, UdpOption::MtuDiscover(MtuDiscover::Do)).unwrap();
    assert_eq!(world.client.udp_send(client, &[&large], to, None), Err(Error::MessageTooLong));
    assert!(world.client.udp_send(client, &[&fits], to, None).is_ok());
    world.client.udp_set(client, UdpOption::MtuDiscover(MtuDiscover::Want)).unwrap();
    assert!(world.client.udp_send(client, &[&large], to, None).is_ok());
    world.pass(10);
    let mut buffer = [0; 2000];
    assert_eq!(world.server.udp_recv(server, &mut buffer, false).unwrap().len, fits.len());
    assert_eq!(world.server.udp_recv(server, &mut buffer, false).unwrap().len, large.len());
}

#[test]
fn equal_sockets_share_by_sender() {
    let mut world = World::new();
    let share = Bind { reuse_port: true, ..Bind::default() };
    let servers: Vec<SocketId> = (0..4)
        .map(|_| {
            let id = world.server.udp_open().unwrap();
            world.server.udp_bind(id, Endpoint::new(any(), 53), share).unwrap();
            id
        })
        .collect();
    for port in 1000..1064 {
        let client = udp(&mut world.client, CLIENT, port);
        for _ in 0..2 {
            world.client.udp_send(client, &[b"x"], Some(Endpoint::new(SERVER, 53)), None).unwrap();
        }
        world.settle();
    }
    for id in servers {
        let mut ports = Vec::new();
        while let Ok(about) = world.server.udp_recv(id, &mut [0; 8], false) {
            ports.push(about.from.port);
        }
        assert!((10..60).contains(&ports.len()), "{}", ports.len());
        assert!(ports.chunks(2).all(|pair| pair[0] == pair[1]), "a sender stays where it is");
    }
}
