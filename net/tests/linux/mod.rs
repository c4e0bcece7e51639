//! An engine, the wire with its faults, and the kernel at the other end.
//!
//! ```text
//! Shard - Fault (what the engine receives) - Pair - Fault (what Linux receives) - TAP - kernel
//! ```
//! The engine's side is driven by events alone, as its owners drive it: after `WouldBlock` nothing is tried again
//! before an event names the socket. A lost event therefore hangs the test.
#![allow(dead_code, unreachable_pub)]

pub mod kernel;
pub mod namespace;
pub mod tap;

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::thread::JoinHandle;
use std::time::Duration;

use net::device::{Capabilities, Device, Fault, FaultPlan, Pair, PairEnd};
use net::{Bind, Config, Endpoint, Error, Ready, Shard, SocketId, TcpFlags};
use platform::time::{Instant, MILLISECOND, SECOND, now};

use tap::Tap;

/// The kernel's address.
pub const LINUX: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The engine's address.
pub const ENGINE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The engine's hardware address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];

/// Nothing here takes longer.
const PATIENCE: u64 = 30 * SECOND;
/// Threads that end are noticed so often.
const TICK: Duration = Duration::from_millis(2);

/// The faults of a bad path.
pub const BAD: FaultPlan = FaultPlan {
    loss: 10_000,
    duplicate: 10_000,
    corrupt: 3_000,
    reorder: 20_000,
    delay: MILLISECOND,
    jitter: 2 * MILLISECOND,
    rate: 0,
    queue: 0,
    largest: 0,
    mark: 0,
};

pub struct World {
    pub shard: Shard,
    pub near: Fault<PairEnd>,
    pub far: Fault<PairEnd>,
    pub tap: Tap,
    pending: HashMap<SocketId, Ready>,
    begin: Instant,
}

impl World {
    pub fn new() -> World {
        World::with(FaultPlan::default(), 1, 1500, |_| ())
    }

    pub fn bad(seed: u64) -> World {
        let other = std::env::var("NET_LINUX_PEER_SEED").map_or(0, |text| text.parse().expect("a number"));
        World::with(BAD, seed + 1000 * other, 1500, |_| ())
    }

    /// `mtu` is that of the kernel's end.
    pub fn with(plan: FaultPlan, seed: u64, mtu: usize, change: impl FnOnce(&mut Config)) -> World {
        let tap = Tap::new(LINUX, 24, mtu);
        let mut config = Config::new(MAC, [seed as u8; 32]).address(ENGINE.into(), 24);
        change(&mut config);
        let (left, right) = Pair::new(Capabilities::plain(1500), 256);
        World {
            shard: Shard::new(config),
            near: Fault::new(left, plan, seed),
            far: Fault::new(right, plan, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            tap,
            pending: HashMap::new(),
            begin: now(),
        }
    }

    /// Changes the faults of both directions.
    pub fn set_plan(&mut self, plan: FaultPlan) {
        self.near.set_plan(plan);
        self.far.set_plan(plan);
    }

    /// Sleeps until something is to be done, and does it.
    pub fn step(&mut self) {
        assert!(now().since(self.begin) < PATIENCE, "too long; {:?}", self.shard.counts());
        self.sleep();
        let time = now();
        self.near.set_now(time);
        self.far.set_now(time);
        let mut buffer = [0; 2048];
        for _ in 0..64 {
            let Some(frame) = self.tap.read(&mut buffer) else { break };
            self.far.inner().inject(frame);
        }
        self.shard.poll(time, &mut self.near);
        let World { far, tap, .. } = self;
        far.receive(usize::MAX, &mut |batch| batch.iter().for_each(|frame| tap.write(frame.bytes)));
        while let Some(event) = self.shard.next_event() {
            *self.pending.entry(event.id).or_default() |= event.ready | event.news;
        }
    }

    fn sleep(&mut self) {
        self.near.pump();
        self.far.pump();
        let deadlines = [self.shard.deadline(), self.near.deadline(), self.far.deadline()];
        let time = now();
        let rest = deadlines.into_iter().flatten().min().map_or(u64::MAX, |at| at.since(time));
        self.tap.wait(Duration::from_nanos(rest).min(TICK));
    }

    /// Takes the sockets that events named.
    pub fn events(&mut self) -> Vec<(SocketId, Ready)> {
        self.pending.drain().collect()
    }

    /// Waits for an event of `id` with one of `ready`.
    pub fn wait(&mut self, id: SocketId, ready: Ready) -> Ready {
        loop {
            match self.pending.get(&id) {
                Some(seen) if seen.intersects(ready) => return self.pending.remove(&id).unwrap(),
                _ => self.step(),
            }
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        let end = now().after(ms * MILLISECOND);
        while now() < end {
            self.step();
        }
    }

    /// Runs the engine until a thread with kernel sockets ends; gives what it found.
    pub fn join<T>(&mut self, thread: JoinHandle<T>) -> T {
        while !thread.is_finished() {
            self.step();
        }
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn listen(&mut self, port: u16, backlog: usize) -> SocketId {
        let id = self.shard.tcp_open().unwrap();
        let bind = Bind { reuse_addr: true, ..Bind::default() };
        self.shard.tcp_bind(id, Endpoint::new(ENGINE, port), bind).unwrap();
        self.shard.tcp_listen(id, backlog).unwrap();
        id
    }

    pub fn accept(&mut self, listener: SocketId) -> SocketId {
        loop {
            match self.shard.tcp_accept(listener) {
                Ok((id, from)) => {
                    assert_eq!(from.addr, LINUX);
                    return id;
                }
                Err(Error::WouldBlock) => self.wait(listener, Ready::READABLE),
                Err(other) => panic!("accept: {other:?}"),
            };
        }
    }

    /// Connects to a port of the kernel's; from a port of ours if `from` is not 0.
    pub fn connect_from(&mut self, from: u16, port: u16) -> Result<SocketId, Error> {
        let id = self.shard.tcp_open().unwrap();
        if from != 0 {
            let bind = Bind { reuse_addr: true, ..Bind::default() };
            self.shard.tcp_bind(id, Endpoint::new(ENGINE, from), bind)?;
        }
        let begun = self.shard.tcp_connect(id, Endpoint::new(LINUX, port), now());
        assert_eq!(begun, Err(Error::InProgress));
        let ready = self.wait(id, Ready::WRITABLE | Ready::ERROR);
        match self.shard.take_error(id) {
            Some(error) => {
                assert!(ready.contains(Ready::ERROR), "{error:?} without an event");
                self.shard.close(id);
                Err(error)
            }
            None => Ok(id),
        }
    }

    pub fn connect(&mut self, port: u16) -> SocketId {
        self.connect_from(0, port).expect("connection")
    }

    pub fn recv(&mut self, id: SocketId, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.shard.tcp_recv(id, buffer, TcpFlags::empty()) {
                Err(Error::WouldBlock) => self.wait(id, Ready::READABLE),
                result => return result,
            };
        }
    }

    /// Everything up to the end of the stream.
    pub fn recv_to_end(&mut self, id: SocketId) -> Result<Vec<u8>, Error> {
        let (mut all, mut buffer) = (Vec::new(), [0; 16_384]);
        loop {
            match self.recv(id, &mut buffer)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    }

    pub fn recv_exact(&mut self, id: SocketId, len: usize) -> Vec<u8> {
        let mut all = vec![0; len];
        let mut count = 0;
        while count < len {
            let got = self.recv(id, &mut all[count..]).expect("bytes");
            assert_ne!(got, 0, "the end after {count} of {len}");
            count += got;
        }
        all
    }

    pub fn send_all(&mut self, id: SocketId, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            match self.shard.tcp_send(id, data, TcpFlags::empty()) {
                Ok(count) => data = &data[count..],
                Err(Error::WouldBlock) => drop(self.wait(id, Ready::WRITABLE | Ready::ERROR)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until no connection is left, besides `rest` sockets.
    pub fn drained(&mut self, rest: usize) {
        while self.shard.counts()[0] > rest {
            self.step();
        }
    }
}

/// A server of many connections that returns what it gets.
#[derive(Default)]
pub struct Echo {
    connections: HashMap<SocketId, VecDeque<u8>>,
    ended: HashMap<SocketId, ()>,
    /// Connections that ended in order, and in disorder.
    pub closed: usize,
    pub failed: Vec<Error>,
}

impl Echo {
    /// Takes a connection into service.
    pub fn add(&mut self, world: &mut World, id: SocketId) {
        self.connections.insert(id, VecDeque::new());
        self.serve(world, id);
    }

    /// Serves what events name, until the thread ends.
    pub fn until<T>(&mut self, world: &mut World, listener: Option<SocketId>, thread: JoinHandle<T>) -> T {
        while !thread.is_finished() {
            world.step();
            self.turn(world, listener);
        }
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Serves what events named so far.
    pub fn turn(&mut self, world: &mut World, listener: Option<SocketId>) {
        for (id, _) in world.events() {
            if Some(id) == listener {
                while let Ok((child, _)) = world.shard.tcp_accept(id) {
                    self.add(world, child);
                }
            } else if self.connections.contains_key(&id) {
                self.serve(world, id);
            }
        }
    }

    fn serve(&mut self, world: &mut World, id: SocketId) {
        match self.pump(world, id) {
            Ok(()) => self.closed += 1,
            Err(Error::WouldBlock) => return,
            Err(error) => self.failed.push(error),
        }
        world.shard.close(id);
        self.connections.remove(&id);
        self.ended.remove(&id);
    }

    /// `Ok`: everything was returned and the peer has ended.
    fn pump(&mut self, world: &mut World, id: SocketId) -> Result<(), Error> {
        let queue = self.connections.get_mut(&id).unwrap();
        let mut buffer = [0; 16_384];
        loop {
            while !queue.is_empty() {
                let count = world.shard.tcp_send(id, queue.as_slices().0, TcpFlags::empty())?;
                queue.drain(..count);
            }
            if self.ended.contains_key(&id) {
                return Ok(());
            }
            match world.shard.tcp_recv(id, &mut buffer, TcpFlags::empty())? {
                0 => drop(self.ended.insert(id, ())),
                count => queue.extend(&buffer[..count]),
            }
        }
    }
}
