//! A guest whose device is changed again and again, at random moments, under connections in every state: each byte
//! of each stream is checked, nothing may be reset, and where no frame is lost none may have been sent again.
//!
//! ```text
//! client - - fabric =ring==== Switch - guest      the fabric delays every frame, and sends what is for the guest
//!                   =direct==                     to the queue that steering (or the hardware address) says
//! ```

mod common;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use common::{CLIENT, SERVER, config, pattern};
use net::control::Mode;
use net::device::{Capabilities, Device, Nic, Pair, PairEnd, Switch};
use net::{Bind, Config, Endpoint, Error, Ready, Shard, Shutdown, SocketId, TcpFlags, TcpOption, TcpState};
use platform::time::{Instant, MILLISECOND};

const HOME: [u8; 6] = [2, 0, 0, 0, 0, 2];
const AWAY: [u8; 6] = [6, 0, 0, 0, 0, 9];
const MICROSECOND: u64 = 1000;
/// Connections at once.
const CONNECTIONS: usize = 12;

/// How frames find the guest's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Steering {
    /// The direct NIC has a hardware address of its own.
    Address,
    /// The same NIC; somebody tells it which queue.
    Queue,
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20) % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// A frame on its way.
struct Flight {
    due: Instant,
    to: To,
    frame: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Client,
    Ring,
    Direct,
}

struct World {
    client: Shard,
    guest: Shard,
    client_device: PairEnd,
    switch: Switch,
    client_far: PairEnd,
    ring_far: PairEnd,
    direct_far: Option<PairEnd>,
    death: Rc<Cell<bool>>,
    steering: Steering,
    /// Where steering leads to now, and what it will lead to when somebody has acted.
    queue: Mode,
    move_at: Option<(Instant, Mode)>,
    flights: VecDeque<Flight>,
    now: Instant,
    random: Random,
    switches: usize,
    /// Frames that were put into the guest's queues, and taken from them.
    given: u64,
    taken: u64,
    falls: usize,
    conversations: Vec<Conversation>,
    listener: SocketId,
    finished: usize,
    states: Vec<TcpState>,
}

/// A connection and what both ends want of it.
struct Conversation {
    client: SocketId,
    guest: Option<SocketId>,
    ends: [End; 2],
}

struct End {
    to_send: usize,
    sent: usize,
    /// What the other end wants to send.
    expected: usize,
    got: usize,
    /// Does not read until then.
    pause: Instant,
    closed: bool,
    over: bool,
}

fn wire() -> (PairEnd, PairEnd) {
    Pair::new(Capabilities::plain(1500), 100_000)
}

impl World {
    fn new(steering: Steering, seed: u64) -> World {
        let (client_device, client_far) = wire();
        let (ring, ring_far) = wire();
        let mut guest = Shard::new(config(SERVER, 2));
        let listener = guest.tcp_open().unwrap();
        guest.tcp_bind(listener, Endpoint::new(SERVER, 80), Bind::default()).unwrap();
        guest.tcp_listen(listener, 64).unwrap();
        World {
            // Not of the network's own addresses: a stranger on the wire.
            client: Shard::new(Config { mac: [0x52, 0, 0, 0, 0, 1], ..config(CLIENT, 1) }),
            guest,
            client_device,
            switch: Switch::new(Box::new(ring), Mode::Server, Some(HOME)),
            client_far,
            ring_far,
            direct_far: None,
            death: Rc::default(),
            steering,
            queue: Mode::Server,
            move_at: None,
            flights: VecDeque::new(),
            now: Instant(1_000_000 * MILLISECOND),
            random: Random(2 * seed + 1),
            switches: 0,
            given: 0,
            taken: 0,
            falls: 0,
            conversations: Vec::new(),
            listener,
            finished: 0,
            states: Vec::new(),
        }
    }

    /// Takes frames from all ends into the fabric.
    fn pick_up(&mut self) {
        let mut arrived = Vec::new();
        while let Some(frame) = self.client_far.take() {
            let broadcast = frame[0] & 1 != 0;
            match self.steering {
                Steering::Address => {
                    if broadcast || frame[..6] == HOME {
                        arrived.push((To::Ring, frame.clone()));
                    }
                    if self.direct_far.is_some() && (broadcast || frame[..6] == AWAY) {
                        arrived.push((To::Direct, frame));
                    }
                }
                Steering::Queue => {
                    // Only what has a port is steered; the rest is the server's, which passes it on.
                    let steered = frame[12..14] == [8, 0] && self.queue == Mode::Direct;
                    arrived.push((if steered { To::Direct } else { To::Ring }, frame));
                }
            }
        }
        while let Some(frame) = self.ring_far.take() {
            assert!(frame[6..12] == HOME, "the server drops what comes from another address");
            self.taken += 1;
            arrived.push((To::Client, frame));
        }
        while let Some(frame) = self.direct_far.as_mut().and_then(PairEnd::take) {
            self.taken += 1;
            arrived.push((To::Client, frame));
        }
        for (to, frame) in arrived {
            let last = self.flights.iter().rev().find(|f| f.to == to).map_or(self.now, |f| f.due);
            let due = self.now.after(10 * MICROSECOND + self.random.below(60_000)).max(last);
            self.flights.push_back(Flight { due, to, frame });
        }
    }

    fn deliver(&mut self) {
        let mut rest = VecDeque::new();
        for flight in self.flights.drain(..) {
            if flight.due > self.now {
                rest.push_back(flight);
                continue;
            }
            match flight.to {
                To::Client => self.client_far.inject(&flight.frame),
                To::Ring => self.ring_far.inject(&flight.frame),
                To::Direct => match &mut self.direct_far {
                    Some(far) => far.inject(&flight.frame),
                    None => continue,
                },
            }
            self.given += u64::from(flight.to != To::Client);
        }
        self.flights = rest;
    }

    fn step(&mut self) {
        self.pick_up();
        let soonest = self.flights.iter().map(|f| f.due).min();
        let next = [self.client.deadline(), self.guest.deadline(), soonest, self.move_at.map(|m| m.0)];
        let next = next.into_iter().flatten().min().unwrap_or(self.now.after(MILLISECOND));
        // Sometimes late, as real pollers are.
        let late = if self.random.one_in(4) { self.random.below(30_000) } else { 0 };
        self.now = self.now.max(next).after(late + 1);
        self.deliver();
        self.client.poll(self.now, &mut self.client_device);
        self.guest.poll(self.now, &mut self.switch);
        if self.switch.fallen() {
            self.falls += 1;
            self.queue = Mode::Server;
            self.move_at = None;
            self.direct_far = None;
            self.guest.kick();
        }
        if let Some((at, mode)) = self.move_at
            && at <= self.now
            && self.switch.settled()
        {
            self.queue = mode;
            self.move_at = None;
        }
    }

    /// The direct device goes, with all that is in it.
    fn kill(&mut self) {
        self.death.set(true);
    }

    /// Whether the next switch may begin: the one before is complete for everybody.
    fn quiet(&self) -> bool {
        self.switch.settled() && self.move_at.is_none()
    }

    fn switch(&mut self) {
        if !self.quiet() {
            return;
        }
        let soon = self.now.after(self.random.below(100_000));
        match self.switch.mode() {
            Mode::Server => {
                // What is left of the last direct device: it goes when nothing can come over it any more.
                let in_flight = self.flights.iter().any(|f| f.to == To::Direct);
                if self.switch.standby().is_some() && (in_flight || self.switch.retire().is_none()) {
                    return;
                }
                let (mut device, far) = wire();
                if self.steering == Steering::Address {
                    device.set_mac(AWAY);
                }
                self.direct_far = Some(far);
                self.death = device.death();
                self.switch.change(Box::new(device), Mode::Direct);
                self.move_at = Some((soon, Mode::Direct));
            }
            Mode::Direct => {
                assert!(self.switch.change_back());
                self.move_at = Some((soon, Mode::Server));
            }
        }
        self.switches += 1;
    }

    fn open(&mut self) {
        let client = self.client.tcp_open().unwrap();
        let small = self.random.one_in(2);
        if small {
            self.client.tcp_set(client, TcpOption::ReceiveBuffer(8192)).unwrap();
        }
        let begun = self.client.tcp_connect(client, Endpoint::new(SERVER, 80), self.now);
        assert_eq!(begun, Err(Error::InProgress));
        let sizes = [0, 1, 700, 20_000, 300_000];
        let mut size = || sizes[self.random.below(5) as usize];
        let (up, down) = (size(), size());
        let end = |to_send, expected| End {
            to_send,
            sent: 0,
            expected,
            got: 0,
            pause: Instant(0),
            closed: false,
            over: false,
        };
        self.conversations.push(Conversation { client, guest: None, ends: [end(up, down), end(down, up)] });
    }

    /// Accepts (not at once: there should be a backlog), sends, receives, closes.
    fn talk(&mut self) {
        if self.random.one_in(20) {
            while let Ok((id, from)) = self.guest.tcp_accept(self.listener) {
                let of = |c: &&mut Conversation| self.client.local(c.client).port == from.port;
                let found = self.conversations.iter_mut().filter(|c| c.guest.is_none()).find(of);
                found.expect("somebody's connection").guest = Some(id);
            }
        }
        let now = self.now;
        for conversation in &mut self.conversations {
            let Conversation { client, guest, ends: [at_client, at_guest] } = conversation;
            let connected = self.client.ready(*client).contains(Ready::WRITABLE) || at_client.sent > 0;
            if connected || at_client.closed {
                at_client.talk(&mut self.client, *client, now, &mut self.random);
            }
            if let Some(guest) = *guest {
                if self.states.len() < 100_000
                    && let Ok(info) = self.guest.tcp_info(guest)
                {
                    self.states.push(info.state);
                }
                at_guest.talk(&mut self.guest, guest, now, &mut self.random);
            }
        }
        let mut finished = 0;
        self.conversations.retain_mut(|c| {
            let done = c.ends.iter().all(|end| end.over);
            if let (true, Some(guest)) = (done, c.guest) {
                self.client.close(c.client);
                self.guest.close(guest);
                finished += 1;
            }
            !done
        });
        self.finished += finished;
        while self.conversations.len() < CONNECTIONS {
            self.open();
        }
        while self.client.next_event().is_some() {}
        while self.guest.next_event().is_some() {}
    }

    fn retransmitted(&self) -> u32 {
        let one = |shard: &Shard, id| shard.tcp_info(id).map_or(0, |info| info.total_retransmits);
        let both = |c: &Conversation| {
            one(&self.client, c.client) + c.guest.map_or(0, |guest| one(&self.guest, guest))
        };
        self.conversations.iter().map(both).sum()
    }
}

impl End {
    fn talk(&mut self, shard: &mut Shard, id: SocketId, now: Instant, random: &mut Random) {
        let error = shard.take_error(id);
        assert_eq!(error, None, "after {} sent, {} received", self.sent, self.got);
        if self.sent < self.to_send && !random.one_in(3) {
            let end = self.to_send.min(self.sent + 1 + random.below(40_000) as usize);
            match shard.tcp_send(id, &pattern(self.sent, end - self.sent), TcpFlags::empty()) {
                Ok(count) => self.sent += count,
                Err(Error::WouldBlock) => {}
                Err(other) => panic!("{other:?} after {} sent", self.sent),
            }
        }
        if self.sent == self.to_send && !self.closed && random.one_in(10) {
            // Half-closed: the other direction may go on for long.
            shard.tcp_shutdown(id, Shutdown::Write).unwrap();
            self.closed = true;
        }
        if now < self.pause || self.over {
            return;
        }
        if random.one_in(200) {
            // Long enough for the window to close.
            self.pause = now.after(random.below(20) * MILLISECOND);
            return;
        }
        let mut buffer = [0; 16_384];
        match shard.tcp_recv(id, &mut buffer, TcpFlags::empty()) {
            Ok(0) => {
                assert_eq!(self.got, self.expected);
                self.over = self.closed;
            }
            Ok(count) => {
                assert!(buffer[..count] == pattern(self.got, count)[..], "wrong bytes at {}", self.got);
                self.got += count;
            }
            Err(Error::WouldBlock) => {}
            Err(other) => panic!("{other:?} after {} received", self.got),
        }
    }
}

fn long() -> usize {
    if std::env::var_os("ATTACCA_LONG").is_some() { 20 } else { 1 }
}

fn run(steering: Steering, seed: u64, switches: usize) -> World {
    let mut world = World::new(steering, seed);
    while world.switches < switches {
        world.talk();
        world.step();
        if world.random.one_in(30) {
            world.switch();
        }
        assert!(world.now.0 < 100_000_000 * MILLISECOND, "stands still");
    }
    world
}

#[test]
fn thousands_of_switches_lose_nothing() {
    for steering in [Steering::Queue, Steering::Address] {
        for seed in 1..=4 {
            let mut world = run(steering, seed, 600 * long());
            world.pick_up();
            let traffic = world.switch.traffic();
            let [ring_in, ring_out, direct_in, direct_out] = traffic.frames;
            while world.switch.has_frames() {
                world.guest.poll(world.now, &mut world.switch);
            }
            let after = world.switch.traffic().frames;
            assert_eq!(after[0] + after[2], world.given, "{steering:?}: received frames were lost");
            assert_eq!(ring_out + direct_out, world.taken, "{steering:?}: sent frames were lost");
            assert!(ring_in > 0 && direct_in > 0);
            assert!(world.finished > 50, "{steering:?}: {} conversations ended", world.finished);
            eprintln!(
                "{steering:?}: {} switches, {} conversations, {} segments sent again in those open",
                world.switches,
                world.finished,
                world.retransmitted()
            );
            assert!(traffic.frames.iter().all(|&count| count > 500), "{traffic:?}");
            let states = [TcpState::Established, TcpState::FinWait1, TcpState::FinWait2, TcpState::CloseWait];
            for state in states {
                assert!(world.states.contains(&state), "{steering:?}: never in {state:?}");
            }
        }
    }
}

/// A direct device that vanishes at random moments, with what was in it: connections live on over the ring.
#[test]
fn a_device_that_vanishes_is_survived() {
    for steering in [Steering::Queue, Steering::Address] {
        let mut world = World::new(steering, 77);
        let mut deaths = 0;
        while deaths < 40 * long() {
            world.talk();
            world.step();
            if world.quiet() && world.switch.mode() == Mode::Direct {
                if world.random.one_in(60) {
                    world.kill();
                    deaths += 1;
                }
            } else if world.random.one_in(30) {
                world.switch();
            }
            assert!(world.now.0 < 100_000_000 * MILLISECOND, "stands still");
        }
        assert!(world.falls >= deaths - 1, "{} of {deaths}", world.falls);
        assert!(world.finished > 10);
    }
}

/// Other guests of the network are reached over the ring also in direct mode.
#[test]
fn siblings_are_reached_over_the_ring() {
    let mut world = World::new(Steering::Queue, 5);
    world.switch();
    world.guest.poll(world.now, &mut world.switch);
    assert_eq!(world.switch.mode(), Mode::Direct);
    let send = |switch: &mut Switch, to: [u8; 6], len: usize| {
        let meta = net::device::TxMeta { to, ..Default::default() };
        switch.transmit(len, meta, &mut |frame| frame.fill(7)).unwrap();
    };
    let waiting = |world: &World| [world.ring_far.waiting(), world.direct_far.as_ref().unwrap().waiting()];
    send(&mut world.switch, [2, 0, 0, 0, 0, 77], 100);
    assert_eq!(waiting(&world), [1, 0]);
    send(&mut world.switch, [8, 0, 0, 0, 0, 77], 100);
    assert_eq!(waiting(&world), [1, 1]);
    // A question for an address: whoever knows it.
    send(&mut world.switch, [0xff; 6], 42);
    assert_eq!(waiting(&world), [2, 2]);
    // Any other broadcast is sent once.
    send(&mut world.switch, [0xff; 6], 300);
    assert_eq!(waiting(&world), [2, 3]);
}
