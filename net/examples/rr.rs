//! CPU time of a request and its reply, both engines in this thread, no I/O: `cargo run --release -p net
//! --example rr [connections [outstanding [request [reply [requests]]]]]`. Few requests suit an
//! instruction counter (callgrind), which shows what a change gives on a machine too busy to time it.
//!
//! Random choice of the connection (worst locality), checksums on, Ethernet, as in the measurements that
//! the engine's design rests on. Then bulk transfer and connection set-up.

use std::net::Ipv4Addr;
use std::time::Instant as Clock;

use net::device::{Capabilities, Pair, PairEnd};
use net::{Bind, Config, Endpoint, Ready, Shard, SocketId, TcpFlags, TcpOption};
use platform::time::Instant;

struct End {
    shard: Shard,
    device: PairEnd,
    by_cookie: Vec<SocketId>,
}

fn ends(capabilities: Capabilities) -> (End, End) {
    let (left, right) = Pair::new(capabilities, 4096);
    let end = |last: u8, device| {
        let mut config =
            Config::new([2, 0, 0, 0, 0, last], [last; 32]).address(Ipv4Addr::new(10, 0, 0, last).into(), 8);
        config.peer_mac = Some([2, 0, 0, 0, 0, 3 - last]);
        for extra in 1..=8 {
            config = config.address(Ipv4Addr::new(10, extra, 0, last).into(), 8);
        }
        End { shard: Shard::new(config), device, by_cookie: Vec::new() }
    };
    (end(1, left), end(2, right))
}

/// Nanoseconds of CPU that this process has used: other work on the machine does not count.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

/// The benchmark's clock: read once for each turn, as a guest does.
struct Time(Clock);
impl Time {
    fn now(&self) -> Instant {
        Instant(1_000_000_000 + self.0.elapsed().as_nanos() as u64)
    }
}

fn connect_all(client: &mut End, server: &mut End, count: usize, time: &Time) {
    let listener = server.shard.tcp_open().unwrap();
    server.shard.tcp_bind(listener, Endpoint::new(Ipv4Addr::UNSPECIFIED, 80), Bind::default()).unwrap();
    server.shard.tcp_listen(listener, 4096).unwrap();
    for i in 0..count {
        let id = client.shard.tcp_open().unwrap();
        // 20,000 connections to each address of the server.
        let to = Endpoint::new(Ipv4Addr::new(10, (i / 20_000) as u8, 0, 2), 80);
        let _ = client.shard.tcp_connect(id, to, time.now());
        client.shard.tcp_set(id, TcpOption::NoDelay(true)).unwrap();
        client.shard.set_cookie(id, i as u64);
        client.by_cookie.push(id);
        if i % 64 == 63 || i + 1 == count {
            for _ in 0..3 {
                client.shard.poll(time.now(), &mut client.device);
                server.shard.poll(time.now(), &mut server.device);
            }
            while let Ok((id, _)) = server.shard.tcp_accept(listener) {
                server.shard.tcp_set(id, TcpOption::NoDelay(true)).unwrap();
                server.shard.set_cookie(id, server.by_cookie.len() as u64);
                server.by_cookie.push(id);
            }
        }
    }
    assert_eq!(server.by_cookie.len(), count);
    while client.shard.next_event().is_some() {}
    while server.shard.next_event().is_some() {}
}

struct Caller {
    id: SocketId,
    received: u32,
    busy: bool,
}

fn request_reply(
    connections: usize,
    outstanding: usize,
    request: usize,
    reply: usize,
    requests: Option<usize>,
) {
    let time = Time(Clock::now());
    let (mut client, mut server) = ends(Capabilities::plain(1500));
    connect_all(&mut client, &mut server, connections, &time);
    let (question, answer, mut buffer) = (vec![1; request], vec![2; reply], vec![0; 65_536]);
    // What either side knows of a connection lies together, as in a program.
    let mut callers: Vec<_> =
        client.by_cookie.iter().map(|id| Caller { id: *id, received: 0, busy: false }).collect();
    let mut asked = vec![0u32; connections];
    let mut random = 88_172_645_463_325_252u64;
    let mut choose = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as usize % connections
    };
    for _ in 0..outstanding.min(connections) {
        let id = callers[choose()].id;
        let _ = client.shard.tcp_send(id, &question, TcpFlags::empty());
    }
    let (mut done, mut begin) = (0usize, cpu_ns());
    let warm = requests.unwrap_or(connections.max(20_000)).min(connections.max(20_000));
    let total = warm + requests.unwrap_or(1_500_000 / (1 + reply / 2000));
    while done < total {
        client.shard.flush(time.now(), &mut client.device);
        server.shard.poll(time.now(), &mut server.device);
        while let Some(event) = server.shard.next_event() {
            if event.ready.contains(Ready::READABLE) {
                let at = event.cookie as usize;
                asked[at] += server.shard.tcp_recv(event.id, &mut buffer, TcpFlags::empty()).unwrap() as u32;
                while asked[at] >= request as u32 {
                    asked[at] -= request as u32;
                    assert_eq!(server.shard.tcp_send(event.id, &answer, TcpFlags::empty()), Ok(reply));
                }
            }
        }
        server.shard.flush(time.now(), &mut server.device);
        client.shard.poll(time.now(), &mut client.device);
        while let Some(event) = client.shard.next_event() {
            if event.ready.contains(Ready::READABLE) {
                let at = event.cookie as usize;
                let count = client.shard.tcp_recv(event.id, &mut buffer, TcpFlags::empty()).unwrap();
                callers[at].received += count as u32;
                while callers[at].received >= reply as u32 {
                    callers[at].received -= reply as u32;
                    callers[at].busy = false;
                    done += 1;
                    if done == warm {
                        begin = cpu_ns();
                    }
                    let mut next = choose();
                    while callers[next].busy {
                        next = choose();
                    }
                    callers[next].busy = true;
                    let id = callers[next].id;
                    client.shard.tcp_send(id, &question, TcpFlags::empty()).unwrap();
                }
            }
        }
    }
    let ns = (cpu_ns() - begin) / (done - warm) as f64;
    println!(
        "{connections:>7} connections, {outstanding} outstanding, {request} B -> {reply} B: {ns:7.0} ns"
    );
}

fn bulk(name: &str, capabilities: Capabilities) {
    let time = Time(Clock::now());
    let (mut client, mut server) = ends(capabilities);
    connect_all(&mut client, &mut server, 1, &time);
    let (from, to) = (client.by_cookie[0], server.by_cookie[0]);
    let (data, mut buffer) = (vec![7; 65_536], vec![0; 65_536]);
    for (end, id) in [(&mut client, from), (&mut server, to)] {
        // A working set that fits the cache, as the comparison has it.
        end.shard.tcp_set(id, TcpOption::SendBuffer(256 << 10)).unwrap();
        end.shard.tcp_set(id, TcpOption::ReceiveBuffer(256 << 10)).unwrap();
    }
    let (mut received, total, begin) = (0usize, 4usize << 30, cpu_ns());
    while received < total {
        while client.shard.tcp_send(from, &data, TcpFlags::empty()).is_ok() {}
        client.shard.poll(time.now(), &mut client.device);
        server.shard.poll(time.now(), &mut server.device);
        while let Ok(count @ 1..) = server.shard.tcp_recv(to, &mut buffer, TcpFlags::empty()) {
            received += count;
        }
        server.shard.flush(time.now(), &mut server.device);
    }
    println!("bulk, {name}: {:.2} GB per CPU second", received as f64 / (cpu_ns() - begin));
}

fn set_up(count: usize) {
    let time = Time(Clock::now());
    let (mut client, mut server) = ends(Capabilities::plain(1500));
    let listener = server.shard.tcp_open().unwrap();
    server.shard.tcp_bind(listener, Endpoint::new(Ipv4Addr::UNSPECIFIED, 80), Bind::default()).unwrap();
    server.shard.tcp_listen(listener, 4096).unwrap();
    let (mut buffer, begin) = ([0; 256], cpu_ns());
    let step = |client: &mut End, server: &mut End| {
        client.shard.poll(time.now(), &mut client.device);
        server.shard.poll(time.now(), &mut server.device);
    };
    let mut done = 0;
    while done < count {
        let to = Endpoint::new(Ipv4Addr::new(10, (done / 20_000) as u8, 0, 2), 80);
        let ids: Vec<_> = (0..32)
            .map(|_| {
                let id = client.shard.tcp_open().unwrap();
                let _ = client.shard.tcp_connect(id, to, time.now());
                id
            })
            .collect();
        step(&mut client, &mut server);
        step(&mut client, &mut server);
        for &id in &ids {
            client.shard.tcp_send(id, &[1; 64], TcpFlags::empty()).unwrap();
        }
        step(&mut client, &mut server);
        while let Ok((id, _)) = server.shard.tcp_accept(listener) {
            server.shard.tcp_recv(id, &mut buffer, TcpFlags::empty()).unwrap();
            server.shard.close(id);
        }
        step(&mut client, &mut server);
        step(&mut client, &mut server);
        for id in ids {
            assert_eq!(client.shard.tcp_recv(id, &mut buffer, TcpFlags::empty()), Ok(0));
            client.shard.close(id);
            done += 1;
        }
        step(&mut client, &mut server);
        step(&mut client, &mut server);
        while client.shard.next_event().is_some() {}
        while server.shard.next_event().is_some() {}
    }
    println!("connect, 64 B, close: {:.0} ns", (cpu_ns() - begin) / done as f64);
}

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    if let [connections, rest @ ..] = &arguments[..] {
        let get = |i: usize, or| rest.get(i).copied().unwrap_or(or);
        return request_reply(*connections, get(0, 32), get(1, 64), get(2, 64), rest.get(3).copied());
    }
    for connections in [1, 100, 1_000, 10_000, 100_000] {
        request_reply(connections, 32.min(connections), 64, 64, None);
    }
    request_reply(100, 32, 64, 4096, None);
    bulk("MSS 1460, checksums on", Capabilities::plain(1500));
    let mut capabilities = Capabilities::plain(1500);
    capabilities.tx_checksum = true;
    bulk("MSS 1460, checksums off", capabilities);
    capabilities.segmentation = 65_535;
    bulk("super-segments, checksums off", capabilities);
    set_up(100_000);
}
