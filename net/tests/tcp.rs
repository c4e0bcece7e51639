//! TCP between two engines: the life of a connection, and what the network may do to it.

mod common;

use common::*;
use net::device::{Capabilities, FaultPlan};
use net::{Bind, Endpoint, Error, Ready, Shutdown, TcpFlags, TcpOption, TcpState};

#[test]
fn opens_talks_and_closes() {
    let mut world = World::new();
    let (client, server) = world.established();
    assert_eq!(world.client.tcp_info(client).unwrap().state, TcpState::Established);
    let event = world.client.next_event().unwrap();
    assert!(event.id == client && event.ready == Ready::WRITABLE);
    assert_eq!(world.client.peer(client), Some(Endpoint::new(SERVER, 80)));
    assert_eq!(world.client.tcp_info(client).unwrap().window_scale, Some((7, 7)));
    world.send_all(client, b"ping");
    world.settle();
    assert!(world.server.ready(server).contains(Ready::READABLE));
    assert_eq!(world.server_recv(server), b"ping");
    world.server.tcp_send(server, b"pong", TcpFlags::empty()).unwrap();
    world.settle();
    assert_eq!(world.client_recv(client), b"pong");
    // Half-close: the client is done, the server still speaks.
    world.client.tcp_shutdown(client, Shutdown::Write).unwrap();
    world.settle();
    assert_eq!(world.client.tcp_send(client, b"x", TcpFlags::empty()), Err(Error::Closed));
    assert_eq!(world.server.tcp_recv(server, &mut [0; 8], TcpFlags::empty()), Ok(0));
    assert!(world.server.ready(server).contains(Ready::PEER_CLOSED));
    assert!(!world.server.ready(server).contains(Ready::HANGUP));
    world.server.tcp_send(server, b"late", TcpFlags::empty()).unwrap();
    world.settle();
    assert_eq!(world.client_recv(client), b"late");
    world.server.close(server);
    world.settle();
    assert_eq!(world.client.tcp_recv(client, &mut [0; 8], TcpFlags::empty()), Ok(0));
    world.client.close(client);
    world.settle();
    assert_eq!(world.server.counts(), [1, 0, 0, 0]);
    assert_eq!(world.client.counts(), [0, 0, 0, 1]);
    world.pass(61_000);
    assert_eq!(world.client.counts(), [0, 0, 0, 0]);
    assert_eq!(world.client.deadline(), None);
}

/// What an owner may have lost: not what a listener or the engine itself will close.
#[test]
fn tells_which_sockets_have_an_owner() {
    let mut world = World::new();
    let listener = world.listen(81, 8);
    let before: Vec<_> = world.server.owned().collect();
    assert!(before.contains(&listener));
    let client = world.connect(81);
    world.settle();
    assert!(world.client.owned().any(|id| id == client));
    assert_eq!(world.server.owned().count(), before.len(), "one that waits to be accepted is the listener's");
    let (accepted, _) = world.server.tcp_accept(listener).unwrap();
    assert!(world.server.owned().any(|id| id == accepted));
    world.server.close(accepted);
    assert!(world.server.owned().all(|id| id != accepted), "it waits for its peer, and is nobody's");
    let udp = world.server.udp_open().unwrap();
    assert!(world.server.owned().any(|id| id == udp));
    world.server.close(udp);
    world.client.close(client);
    world.pass(61_000);
    assert!(world.server.owned().eq(before) && world.client.owned().next().is_none(), "slots that are free");
}

#[test]
fn refuses_where_nobody_listens() {
    let mut world = World::new();
    let client = world.connect(81);
    world.settle();
    assert!(world.client.ready(client).contains(Ready::ERROR | Ready::HANGUP));
    assert_eq!(world.client.take_error(client), Some(Error::Refused));
}

#[test]
fn gives_up_on_a_silent_peer() {
    let mut world = World::with(FaultPlan { loss: 1_000_000, ..FaultPlan::default() }, 1, |a, _| {
        a.peer_mac = Some([2, 0, 0, 0, 0, 2]);
    });
    let client = world.connect(80);
    world.pass(126_000);
    assert_eq!(world.client.take_error(client), None);
    world.pass(10_000);
    assert_eq!(world.client.take_error(client), Some(Error::TimedOut));
    // Without ARP's answer it is the host that is unreachable.
    let mut world = World::with(FaultPlan { loss: 1_000_000, ..FaultPlan::default() }, 1, |_, _| ());
    let client = world.connect(80);
    world.pass(5_000);
    assert_eq!(world.client.take_error(client), Some(Error::HostUnreachable));
}

fn check_faults(plan: FaultPlan, total: usize) {
    for seed in 1..=4 {
        let mut world = World::with(plan, seed * 7919, |_, _| ());
        let (client, server) = world.established();
        transfer(&mut world, client, server, total);
        world.client.close(client);
        for _ in 0..400 {
            world.step();
            if world.server.ready(server).contains(Ready::PEER_CLOSED) {
                break;
            }
        }
        assert!(world.server.ready(server).contains(Ready::PEER_CLOSED), "FIN arrives: {plan:?} {seed}");
    }
}

#[test]
fn survives_loss() {
    for loss in [1_000, 10_000, 50_000, 200_000] {
        check_faults(FaultPlan { loss, delay: 5_000_000, ..FaultPlan::default() }, 200_000);
    }
}

#[test]
fn survives_reordering_and_duplicates() {
    for rate in [10_000, 100_000, 300_000] {
        let plan = FaultPlan { reorder: rate, duplicate: rate, jitter: 3_000_000, ..FaultPlan::default() };
        check_faults(plan, 300_000);
    }
}

#[test]
fn survives_damage() {
    check_faults(FaultPlan { corrupt: 50_000, delay: 1_000_000, ..FaultPlan::default() }, 200_000);
}

#[test]
fn survives_everything_at_once() {
    let plan = FaultPlan {
        loss: 30_000,
        duplicate: 30_000,
        corrupt: 30_000,
        reorder: 100_000,
        delay: 10_000_000,
        jitter: 10_000_000,
        ..FaultPlan::default()
    };
    check_faults(plan, 150_000);
}

#[test]
fn survives_a_narrow_wire_with_a_short_queue() {
    let plan = FaultPlan {
        rate: 10_000_000,
        queue: 8_000_000,
        delay: 10_000_000,
        loss: 2_000,
        ..FaultPlan::default()
    };
    check_faults(plan, 400_000);
}

#[test]
fn marks_instead_of_losses() {
    // The queue marks from 2 ms on and drops only from 40 ms on: with ECN nothing is ever lost.
    let plan = FaultPlan {
        rate: 20_000_000,
        queue: 40_000_000,
        mark: 2_000_000,
        delay: 5_000_000,
        ..FaultPlan::default()
    };
    let mut world = World::with(plan, 9, |client, _| client.ecn = net::Ecn::Ask);
    let (client, server) = world.established();
    let ms = transfer(&mut world, client, server, 4_000_000);
    let info = world.client.tcp_info(client).unwrap();
    assert_eq!((info.ecn, info.total_retransmits), (true, 0));
    assert!(info.delivered_marked > 0);
    // 4 MB at 20 Mbit/s take 1.6 s.
    assert!(ms < 2_000, "{ms} ms");
}

#[test]
fn a_path_that_breaks_and_comes_back() {
    let mut world = World::with(FaultPlan { delay: 5_000_000, ..FaultPlan::default() }, 2, |_, _| ());
    let (client, server) = world.established();
    world.send_all(client, &pattern(0, 60_000));
    world.settle();
    let black = FaultPlan { loss: 1_000_000, ..FaultPlan::default() };
    world.server_device.set_plan(black);
    world.pass(3_000);
    world.server_device.set_plan(FaultPlan { delay: 5_000_000, ..FaultPlan::default() });
    let mut got = Vec::new();
    for _ in 0..100 {
        world.pass(100);
        got.extend(world.server_recv(server));
        if got.len() == 60_000 {
            break;
        }
    }
    assert!(got == pattern(0, 60_000), "{}", got.len());
}

#[test]
fn fills_a_long_path() {
    // 20 ms each way without loss: slow start, growing buffers. 8 MB in well under 8 s.
    let mut world = World::with(FaultPlan { delay: 20_000_000, ..FaultPlan::default() }, 3, |_, _| ());
    let (client, server) = world.established();
    let ms = transfer(&mut world, client, server, 8_000_000);
    assert!(ms < 2_500, "{ms} ms");
    let info = world.client.tcp_info(client).unwrap();
    assert_eq!(info.total_retransmits, 0);
    assert!(world.server.tcp_options(server).unwrap().receive_buffer > 500_000);
}

#[test]
fn first_reply_takes_one_round_trip() {
    let mut world = World::with(FaultPlan { delay: 5_000_000, ..FaultPlan::default() }, 3, |_, _| ());
    let (client, server) = world.established();
    world.pass(100);
    // IW10: 14 KB at once.
    assert!(transfer(&mut world, client, server, 14_000) <= 6);
}

#[test]
fn super_segments() {
    let mut capabilities = Capabilities::plain(1500);
    capabilities.segmentation = 65_535;
    capabilities.tx_checksum = true;
    let mut world = World::build(FaultPlan::default(), 1, capabilities, |_, _| ());
    let (client, server) = world.established();
    let ms = transfer(&mut world, client, server, 4_000_000);
    assert!(ms < 50, "no waiting for delayed acknowledgements: {ms} ms");
}

#[test]
fn zero_window_and_probes() {
    let mut world = World::new();
    let (client, server) = world.established();
    let data = pattern(0, 1 << 20);
    let mut sent = 0;
    for _ in 0..50 {
        while let Ok(count) = world.client.tcp_send(client, &data[sent..], TcpFlags::empty()) {
            sent += count;
        }
        world.pass(10);
    }
    let info = world.client.tcp_info(client).unwrap();
    assert_eq!((info.send_window, info.in_flight), (0, 0));
    assert!(!world.client.ready(client).contains(Ready::WRITABLE));
    // A peer that answers probes keeps the connection for ever.
    world.pass(3_600_000);
    assert_eq!(world.client.take_error(client), None);
    let mut got = Vec::new();
    for _ in 0..200 {
        got.extend(world.server_recv(server));
        world.settle();
        while let Ok(count @ 1..) = world.client.tcp_send(client, &data[sent..], TcpFlags::empty()) {
            sent += count;
        }
        world.settle();
        if got.len() == data.len() {
            break;
        }
    }
    assert!(got == data, "{} of {}", got.len(), data.len());
}

#[test]
fn unread_data_at_close_resets() {
    let mut world = World::new();
    let (client, server) = world.established();
    world.send_all(client, b"nobody reads this");
    world.settle();
    world.server.close(server);
    world.settle();
    assert_eq!(world.client.tcp_recv(client, &mut [0; 8], TcpFlags::empty()), Err(Error::Reset));
    assert_eq!(world.server.counts()[0], 1);
}

#[test]
fn data_after_close_resets() {
    let mut world = World::new();
    let (client, server) = world.established();
    world.server.close(server);
    world.settle();
    assert_eq!(world.client.tcp_recv(client, &mut [0; 8], TcpFlags::empty()), Ok(0));
    world.send_all(client, b"too late");
    world.settle();
    assert_eq!(world.client.take_error(client), Some(Error::Closed));
    assert_eq!(world.server.counts(), [1, 0, 0, 0]);
}

#[test]
fn orphans_do_not_live_for_ever() {
    let mut world = World::new();
    let (client, server) = world.established();
    // FIN-WAIT-2: the peer never closes.
    world.server.close(server);
    world.pass(59_000);
    assert_eq!(world.server.counts()[0], 2);
    world.pass(2_000);
    assert_eq!(world.server.counts()[0], 1);
    // FIN-WAIT-1: the peer never answers.
    let _ = client;
    let mut world = World::new();
    let (client, _) = world.established();
    world.send_all(client, b"x");
    world.client_device.set_plan(FaultPlan { loss: 1_000_000, ..FaultPlan::default() });
    world.server_device.set_plan(FaultPlan { loss: 1_000_000, ..FaultPlan::default() });
    world.client.close(client);
    world.pass(200_000);
    assert_eq!(world.client.counts()[0], 0);
}

#[test]
fn keep_alive_finds_a_dead_peer() {
    let mut world = World::new();
    let (client, _) = world.established();
    for option in [
        TcpOption::KeepAlive(true),
        TcpOption::KeepIdle(10_000),
        TcpOption::KeepInterval(5_000),
        TcpOption::KeepCount(3),
    ] {
        world.client.tcp_set(client, option).unwrap();
    }
    world.pass(100_000);
    assert_eq!(world.client.take_error(client), None);
    world.server_device.set_plan(FaultPlan { loss: 1_000_000, ..FaultPlan::default() });
    world.pass(23_000);
    assert_eq!(world.client.take_error(client), None);
    world.pass(14_000);
    assert_eq!(world.client.take_error(client), Some(Error::TimedOut));
}

#[test]
fn user_timeout_ends_retransmission() {
    let mut world = World::new();
    let (client, _) = world.established();
    world.client.tcp_set(client, TcpOption::UserTimeout(5_000)).unwrap();
    world.server_device.set_plan(FaultPlan { loss: 1_000_000, ..FaultPlan::default() });
    world.send_all(client, b"x");
    world.pass(4_000);
    assert_eq!(world.client.take_error(client), None);
    world.pass(6_000);
    assert_eq!(world.client.take_error(client), Some(Error::TimedOut));
}

#[test]
fn backlog_overflow_is_survived() {
    let mut world = World::new();
    let listener = world.listen(80, 2);
    let clients: Vec<_> = (0..8).map(|_| world.connect(80)).collect();
    world.pass(500);
    let mut accepted = 0;
    for _ in 0..20 {
        while world.server.tcp_accept(listener).is_ok() {
            accepted += 1;
        }
        world.pass(2_000);
    }
    assert_eq!(accepted, 8);
    for client in clients {
        assert_eq!(world.client.tcp_info(client).unwrap().state, TcpState::Established);
    }
}

#[test]
fn closing_a_listener_resets_its_queue() {
    let mut world = World::new();
    let listener = world.listen(80, 8);
    let client = world.connect(80);
    world.settle();
    world.server.close(listener);
    world.settle();
    assert_eq!(world.client.take_error(client), Some(Error::Reset));
    assert_eq!(world.server.counts(), [0; 4]);
}

#[test]
fn deferred_accept_waits_for_data() {
    let mut world = World::new();
    let listener = world.listen(80, 8);
    world.server.tcp_set(listener, TcpOption::DeferAccept(10_000)).unwrap();
    let client = world.connect(80);
    world.pass(1_000);
    assert!(world.server.tcp_accept(listener).is_err());
    world.send_all(client, b"GET");
    world.settle();
    let (server, _) = world.server.tcp_accept(listener).unwrap();
    assert_eq!(world.server_recv(server), b"GET");
    world.connect(80);
    world.pass(11_000);
    assert!(world.server.tcp_accept(listener).is_ok(), "patience has an end");
}

#[test]
fn simultaneous_open_and_close() {
    let mut world = World::with(FaultPlan { delay: 5_000_000, ..FaultPlan::default() }, 1, |_, _| ());
    let (a, b) = (world.client.tcp_open().unwrap(), world.server.tcp_open().unwrap());
    world.client.tcp_bind(a, Endpoint::new(CLIENT, 1111), Bind::default()).unwrap();
    world.server.tcp_bind(b, Endpoint::new(SERVER, 2222), Bind::default()).unwrap();
    let _ = world.client.tcp_connect(a, Endpoint::new(SERVER, 2222), world.now);
    let _ = world.server.tcp_connect(b, Endpoint::new(CLIENT, 1111), world.now);
    world.pass(2_000);
    assert_eq!(world.client.tcp_info(a).unwrap().state, TcpState::Established);
    assert_eq!(world.server.tcp_info(b).unwrap().state, TcpState::Established);
    world.send_all(a, b"both");
    world.pass(100);
    assert_eq!(world.server_recv(b), b"both");
    world.client.close(a);
    world.server.close(b);
    world.pass(1_000);
    assert_eq!((world.client.counts(), world.server.counts()), ([0, 0, 0, 1], [0, 0, 0, 1]));
}

#[test]
fn nagle_and_cork_hold_back() {
    let mut world = World::with(FaultPlan { delay: 10_000_000, ..FaultPlan::default() }, 1, |_, _| ());
    let (client, server) = world.established();
    world.pass(500);
    for _ in 0..5 {
        world.send_all(client, b"x");
        world.settle();
    }
    world.pass(12);
    assert_eq!(world.server_recv(server), b"x", "Nagle: one small segment in flight");
    world.pass(100);
    assert_eq!(world.server_recv(server), b"xxxx");
    world.client.tcp_set(client, TcpOption::NoDelay(true)).unwrap();
    for _ in 0..5 {
        world.send_all(client, b"y");
        world.settle();
    }
    world.pass(12);
    assert_eq!(world.server_recv(server), b"yyyyy");
    world.pass(500);
    world.client.tcp_set(client, TcpOption::Cork(true)).unwrap();
    world.send_all(client, b"cork");
    world.pass(50);
    assert_eq!(world.server_recv(server), b"");
    world.client.tcp_set(client, TcpOption::Cork(false)).unwrap();
    world.pass(12);
    assert_eq!(world.server_recv(server), b"cork");
    world.pass(500);
    world.client.tcp_set(client, TcpOption::Cork(true)).unwrap();
    world.send_all(client, b"late");
    world.pass(250);
    assert_eq!(world.server_recv(server), b"late", "200 ms at most");
}

#[test]
fn loopback_within_a_shard() {
    let mut world = World::new();
    let shard = &mut world.server;
    let listener = shard.tcp_open().unwrap();
    shard.tcp_bind(listener, Endpoint::new([127, 0, 0, 1], 80), Bind::default()).unwrap();
    shard.tcp_listen(listener, 4).unwrap();
    let client = shard.tcp_open().unwrap();
    let _ = shard.tcp_connect(client, Endpoint::new([127, 0, 0, 1], 80), world.now);
    shard.flush(world.now, &mut world.server_device);
    let (server, peer) = shard.tcp_accept(listener).unwrap();
    assert_eq!(peer, shard.local(client));
    let data = pattern(0, 3_000_000);
    let (mut sent, mut got) = (0, Vec::new());
    for _ in 0..2_000 {
        if let Ok(count) = shard.tcp_send(client, &data[sent..], TcpFlags::empty()) {
            sent += count;
        }
        shard.flush(world.now, &mut world.server_device);
        got.extend(drain(shard, server));
        if got.len() == data.len() {
            break;
        }
    }
    assert!(got == data, "{} without time passing", got.len());
}

#[test]
fn address_rules() {
    let mut world = World::new();
    let shard = &mut world.server;
    let any: std::net::IpAddr = if V6 { [0; 16].into() } else { [0; 4].into() };
    let reuse = Bind { reuse_addr: true, ..Bind::default() };
    let port = Bind { reuse_port: true, ..Bind::default() };
    let mut bind = |addr: std::net::IpAddr, number, how| {
        let id = shard.tcp_open().unwrap();
        shard.tcp_bind(id, Endpoint::new(addr, number), how).map(|()| id)
    };
    assert!(bind(any, 1, Bind::default()).is_ok());
    assert_eq!(bind(SERVER, 1, Bind::default()), Err(Error::AddressInUse));
    assert_eq!(
        bind(if V6 { "2600::9" } else { "9.9.9.9" }.parse().unwrap(), 2, Bind::default()),
        Err(Error::AddressUnavailable)
    );
    let a = bind(any, 3, reuse).unwrap();
    let b = bind(any, 3, reuse).unwrap();
    let (c, d) = (bind(any, 4, port).unwrap(), bind(any, 4, port).unwrap());
    assert_eq!(shard.tcp_listen(a, 1), Ok(()));
    assert_eq!(shard.tcp_listen(b, 1), Err(Error::AddressInUse));
    assert_eq!((shard.tcp_listen(c, 1), shard.tcp_listen(d, 1)), (Ok(()), Ok(())));
}

#[test]
fn kick_repairs_a_lost_flight() {
    let mut world = World::new();
    let (client, server) = world.established();
    world.pass(300);
    world.server_device.set_plan(FaultPlan { loss: 1_000_000, ..FaultPlan::default() });
    world.send_all(client, b"lost with the old server");
    world.settle();
    world.server_device.set_plan(FaultPlan::default());
    world.client.kick();
    world.settle();
    assert_eq!(world.server_recv(server), b"lost with the old server");
}

/// A path between the least and the link's size that says nothing: everything arrives, and at last in segments of nearly
/// the size that it takes.
#[test]
fn a_silent_path_is_filled_to_its_size() {
    let plan = FaultPlan { delay: 2_000_000, largest: 1414 + IP - 20, ..FaultPlan::default() };
    let mut world = World::with(plan, 5, |_, _| ());
    let (client, server) = world.established();
    for _ in 0..16 {
        transfer(&mut world, client, server, 1 << 20);
        world.pass(100);
    }
    let (found, most) = (world.client.tcp_info(client).unwrap().path_mtu, 1400 + IP as u16 - 20);
    assert!((most - 16..=most).contains(&found), "{found}");
    // The path grows: found after ten minutes.
    world.server_device.set_plan(FaultPlan { largest: 0, ..plan });
    world.pass(601_000);
    transfer(&mut world, client, server, 2 << 20);
    assert_eq!(world.client.tcp_info(client).unwrap().path_mtu, 1500);
}
