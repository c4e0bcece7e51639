//! A hundred thousand connections at once: what they hold while idle, that all of them work, and that everything
//! comes back when they are closed. (How fast they are is `examples/rr.rs`'s question.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use net::device::{Capabilities, Pair, PairEnd};
use net::{Bind, Config, Endpoint, Ready, Shard, SocketId, TcpFlags, TcpOption};
use platform::time::{Instant, MILLISECOND, SECOND};

const CONNECTIONS: usize = 100_000;
/// The aim for the engine's memory for an idle connection.
const MOST_BYTES: usize = 512;

/// Counts what is allocated.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Ends {
    client: Shard,
    server: Shard,
    client_device: PairEnd,
    server_device: PairEnd,
    now: Instant,
}

impl Ends {
    fn new() -> Ends {
        let (client_device, server_device) = Pair::new(Capabilities::plain(1500), 4096);
        let shard = |last: u8| {
            let mut config = Config::new([2, 0, 0, 0, 0, last], [last; 32])
                .address(Ipv4Addr::new(10, 0, 0, last).into(), 8);
            config.peer_mac = Some([2, 0, 0, 0, 0, 3 - last]);
            config.limits.time_wait = CONNECTIONS;
            for extra in 1..=8 {
                config = config.address(Ipv4Addr::new(10, extra, 0, last).into(), 8);
            }
            Shard::new(config)
        };
        Ends { client: shard(1), server: shard(2), client_device, server_device, now: Instant(SECOND) }
    }

    fn step(&mut self) {
        self.now = self.now.after(MILLISECOND / 10);
        self.client.poll(self.now, &mut self.client_device);
        self.server.poll(self.now, &mut self.server_device);
    }

    /// Until nothing is under way.
    fn flow(&mut self) {
        self.step();
        while self.client_device.waiting() + self.server_device.waiting() > 0 {
            self.step();
        }
        self.step();
    }

    /// Until both are quiet, and no acknowledgement is held back any more.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.flow();
            self.now = self.now.after(50 * MILLISECOND);
        }
        while self.client.next_event().is_some() {}
        while self.server.next_event().is_some() {}
    }
}

#[test]
fn a_hundred_thousand_connections_are_small_and_come_and_go() {
    let mut ends = Ends::new();
    let listener = ends.server.tcp_open().unwrap();
    ends.server.tcp_bind(listener, Endpoint::new(Ipv4Addr::UNSPECIFIED, 80), Bind::default()).unwrap();
    ends.server.tcp_listen(listener, 4096).unwrap();
    let (mut callers, mut called): (Vec<SocketId>, Vec<SocketId>) =
        (Vec::with_capacity(CONNECTIONS), Vec::with_capacity(CONNECTIONS));
    let before = LIVE.load(Relaxed);
    for i in 0..CONNECTIONS {
        let id = ends.client.tcp_open().unwrap();
        // 20,000 connections to each address: fewer than there are ephemeral ports.
        let to = Endpoint::new(Ipv4Addr::new(10, (i / 20_000) as u8, 0, 2), 80);
        let _ = ends.client.tcp_connect(id, to, ends.now);
        ends.client.tcp_set(id, TcpOption::NoDelay(true)).unwrap();
        callers.push(id);
        if i % 512 == 511 || i + 1 == CONNECTIONS {
            ends.flow();
            while let Ok((id, _)) = ends.server.tcp_accept(listener) {
                called.push(id);
            }
        }
    }
    assert_eq!(called.len(), CONNECTIONS);
    ends.settle();
    let each = (LIVE.load(Relaxed) - before) / (2 * CONNECTIONS);
    println!("{each} B for each idle connection of an engine");
    assert!(each < MOST_BYTES, "{each} B for each idle connection");

    // Each of them carries a message, in bursts as they would come.
    let mut buffer = [0; 64];
    for (i, group) in callers.chunks(256).enumerate() {
        for (j, id) in group.iter().enumerate() {
            let word = ((i * 256 + j) as u32).to_le_bytes();
            assert_eq!(ends.client.tcp_send(*id, &word, TcpFlags::empty()), Ok(4));
        }
        ends.flow();
    }
    let mut seen = vec![false; CONNECTIONS];
    for id in &called {
        assert!(ends.server.ready(*id).contains(Ready::READABLE));
        assert_eq!(ends.server.tcp_recv(*id, &mut buffer, TcpFlags::empty()), Ok(4));
        let which = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
        assert!(!std::mem::replace(&mut seen[which], true), "{which} came twice");
    }
    ends.settle();
    let again = (LIVE.load(Relaxed) - before - CONNECTIONS) / (2 * CONNECTIONS);
    println!("{again} B after each has carried a message");

    // The callers hang up first, so that TIME-WAIT is theirs.
    for (group, other) in callers.chunks(256).zip(called.chunks(256)) {
        group.iter().for_each(|id| ends.client.close(*id));
        ends.flow();
        other.iter().for_each(|id| ends.server.close(*id));
        ends.flow();
    }
    ends.settle();
    assert_eq!(ends.server.counts(), [1, 0, 0, 0], "the listener is left");
    assert_eq!(ends.client.counts()[0], 0);
    ends.now = ends.now.after(120 * SECOND);
    ends.settle();
    assert_eq!(ends.client.counts(), [0, 0, 0, 0], "TIME-WAIT is over");
}
