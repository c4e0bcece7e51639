//! The Linux kernel as the peer over an AF_XDP socket on a veth pair: loss, repetition, reordering and delay in both
//! directions, small MTUs, windows that stand still on either side, by IPv4 and IPv6. Bytes are checked both ways.
//!
//! Each test has a network namespace of its own; needs root and the `ip` command. `ATTACCA_LONG=1` sends ten times
//! as much. Damage is not injected here: over a veth pair the
//! kernel vouches for its frames, whose checksums nobody has made (`net/tests/linux_peer.rs` does that over TAP).

#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/linux/namespace.rs"]
mod namespace;

use namespace::{inside, unavailable};
use net::device::{Capabilities, Device, Fault, FaultPlan, Full, Nic, RxFrame, TxMeta};
use net::{Config, Endpoint, Error, Ready, Shard, SocketId, TcpFlags};
use netserver::bpf::Rule;
use netserver::direct::{self, XdpSteering};
use netserver::nic::HostNic;
use platform::time::{Instant, MILLISECOND, SECOND, now};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

const PATIENCE: u64 = 40 * SECOND;

/// The two ends of the pair in one family.
#[derive(Clone, Copy)]
struct Ends {
    linux: IpAddr,
    engine: IpAddr,
}

fn v4() -> Ends {
    Ends { linux: [10, 9, 0, 1].into(), engine: [10, 9, 0, 2].into() }
}

fn v6() -> Ends {
    Ends { linux: "fd09::1".parse().unwrap(), engine: "fd09::2".parse().unwrap() }
}

/// A path as bad as `net/tests/linux`'s, both ways. What is sent is lost or held back here, what is received in [`Fault`].
const BAD: FaultPlan = FaultPlan {
    loss: 10_000,
    duplicate: 10_000,
    corrupt: 0,
    reorder: 20_000,
    delay: MILLISECOND,
    jitter: 2 * MILLISECOND,
    rate: 0,
    queue: 0,
    largest: 0,
    mark: 0,
};

/// A device whose sent frames are lost, repeated and reordered.
struct BadOut {
    inner: HostNic,
    plan: FaultPlan,
    random: u64,
    held: VecDeque<Vec<u8>>,
    lost: u32,
}

impl BadOut {
    fn strikes(&mut self, per_million: u32) -> bool {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 1_000_000 < u64::from(per_million)
    }

    fn send(&mut self, frame: &[u8], meta: TxMeta) -> Result<(), Full> {
        self.inner.transmit(frame.len(), meta, &mut |buffer| buffer.copy_from_slice(frame))
    }
}

impl Device for BadOut {
    fn capabilities(&self) -> Capabilities {
        // Whole frames, so that one that is held back needs nothing beside it.
        Capabilities { tx_checksum: false, segmentation: 0, ..self.inner.capabilities() }
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.inner.mac()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        self.inner.receive(budget, sink)
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        let mut frame = vec![0; len];
        fill(&mut frame);
        if self.strikes(self.plan.loss) {
            self.lost += 1;
            return Ok(());
        }
        if self.strikes(self.plan.reorder) && self.held.len() < 4 {
            self.held.push_back(frame);
            return Ok(());
        }
        self.send(&frame, meta)?;
        if self.strikes(self.plan.duplicate) {
            let _ = self.send(&frame, meta);
        }
        // What was held back comes after it.
        if let Some(late) = self.held.pop_front() {
            let _ = self.send(&late, TxMeta::default());
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.inner.flush();
    }
}

struct World {
    shard: Shard,
    device: Fault<BadOut>,
    ends: Ends,
    begin: Instant,
    _steering: XdpSteering,
}

impl World {
    /// `mtus`: of the kernel's end and of the engine's.
    fn new(ends: Ends, plan: FaultPlan, mtus: (u32, usize), seed: u64) -> World {
        ip("link add v0 type veth peer name v1");
        ip("link set lo up");
        for card in ["v0", "v1"] {
            ip(&format!("link set {card} mtu {} up", mtus.0));
        }
        match ends.linux {
            IpAddr::V4(linux) => ip(&format!("address add {linux}/24 dev v0")),
            IpAddr::V6(linux) => ip(&format!("-6 address add {linux}/64 dev v0 nodad")),
        }
        let steering = XdpSteering::attach("v1").unwrap_or_else(|error| unavailable(&error.to_string()));
        let opened = direct::open_xdp("v1", 0, false).unwrap_or_else(|error| unavailable(&error.to_string()));
        steering.add_socket(0, opened.fds[0].as_fd()).unwrap();
        steering.set(Rule::address(ends.engine), 0).unwrap();
        let mut config = Config::new(opened.mac, [seed as u8; 32]);
        config = config.address(ends.engine, if ends.engine.is_ipv4() { 24 } else { 64 });
        config.mtu = mtus.1;
        let inner = HostNic::new(opened).expect("device");
        let out = BadOut { inner, plan, random: seed, held: VecDeque::new(), lost: 0 };
        let device = Fault::new(out, plan, seed.wrapping_mul(0x9e37_79b9));
        World { shard: Shard::new(config), device, ends, begin: now(), _steering: steering }
    }

    fn step(&mut self) {
        assert!(now().since(self.begin) < PATIENCE, "too long; {:?}", self.shard.counts());
        self.device.set_now(now());
        self.shard.poll(now(), &mut self.device);
        self.device.pump();
        let nic = &mut self.device.inner().inner;
        let asleep = nic.announce_sleep();
        let wake = nic.wake_fd();
        if asleep {
            let deadlines = [self.shard.deadline(), self.device.deadline()];
            let time = now();
            let rest = deadlines.into_iter().flatten().map(|at| at.since(time)).min().unwrap_or(MILLISECOND);
            let wait = libc::timespec { tv_sec: 0, tv_nsec: rest.min(MILLISECOND) as i64 };
            let mut fd = libc::pollfd { fd: wake, events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor and a time, both ours.
            unsafe { libc::ppoll(&mut fd, 1, &wait, std::ptr::null()) };
        }
        self.device.inner().inner.awake();
    }

    fn pass(&mut self, ms: u64) {
        let end = now().after(ms * MILLISECOND);
        while now() < end {
            self.step();
        }
    }

    fn connect(&mut self, port: u16) -> SocketId {
        let id = self.shard.tcp_open().unwrap();
        let begun = self.shard.tcp_connect(id, Endpoint::new(self.ends.linux, port), now());
        assert_eq!(begun, Err(Error::InProgress));
        loop {
            let ready = self.shard.ready(id);
            assert!(!ready.contains(Ready::ERROR), "{:?}", self.shard.take_error(id));
            if ready.contains(Ready::WRITABLE) {
                return id;
            }
            self.step();
        }
    }

    fn join<T>(&mut self, thread: JoinHandle<T>) -> T {
        while !thread.is_finished() {
            self.step();
        }
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sends `total` bytes to an echo of the kernel's and gets them back, both ways at once; reads nothing for a while
    /// after each `stall` bytes.
    fn echo(&mut self, total: usize, stall: usize) {
        let (port, thread) = echo_server(self.ends.linux, stall);
        let id = self.connect(port);
        let data = pattern(total);
        let (mut sent, mut got, mut next_stall) = (0, 0, stall);
        let mut buffer = vec![0; 64 * 1024];
        while got < total {
            let mut moved = false;
            if sent < total
                && let Ok(count) = self.shard.tcp_send(id, &data[sent..], TcpFlags::empty())
            {
                sent += count;
                moved = true;
            }
            if stall != 0 && got >= next_stall {
                next_stall += stall;
                self.pass(150);
            }
            match self.shard.tcp_recv(id, &mut buffer, TcpFlags::empty()) {
                Ok(count) => {
                    assert_ne!(count, 0, "the end after {got} of {total}");
                    assert!(buffer[..count] == data[got..got + count], "wrong bytes at {got}");
                    got += count;
                    moved = true;
                }
                Err(Error::WouldBlock) => {}
                Err(other) => panic!("{other:?} after {got} of {total}"),
            }
            if !moved {
                self.step();
            }
        }
        self.shard.tcp_shutdown(id, net::Shutdown::Write).unwrap();
        self.join(thread);
        while self.shard.tcp_recv(id, &mut buffer, TcpFlags::empty()) != Ok(0) {
            self.step();
        }
        self.shard.close(id);
    }

    /// The kernel calls, and checks what comes back.
    fn serve(&mut self, total: usize) {
        let id = self.shard.tcp_open().unwrap();
        self.shard.tcp_bind(id, Endpoint::new(self.ends.engine, 80), net::Bind::default()).unwrap();
        self.shard.tcp_listen(id, 8).unwrap();
        let at = SocketAddr::new(self.ends.engine, 80);
        let client = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(at).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let data = pattern(total);
            let sent = data.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&sent).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            writing.join().unwrap();
            assert!(got == data, "the kernel got {} other bytes of {total}", got.len());
        });
        let mut connection = None;
        let (mut kept, mut ended) = (Vec::new(), false);
        let mut buffer = vec![0; 64 * 1024];
        while !client.is_finished() {
            if connection.is_none() {
                connection = self.shard.tcp_accept(id).ok().map(|(id, _)| id);
            }
            if let Some(peer) = connection {
                if kept.len() < 1 << 18
                    && !ended
                    && let Ok(count) = self.shard.tcp_recv(peer, &mut buffer, TcpFlags::empty())
                {
                    ended = count == 0;
                    kept.extend_from_slice(&buffer[..count]);
                }
                if let Ok(count) = self.shard.tcp_send(peer, &kept, TcpFlags::empty()) {
                    kept.drain(..count);
                }
                if ended && kept.is_empty() {
                    let _ = self.shard.tcp_shutdown(peer, net::Shutdown::Write);
                }
            }
            self.step();
        }
        client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.shard.close(id);
    }

    fn struck(&mut self) {
        assert!(self.device.inner().lost > 0, "the faults are real");
    }
}

/// Returns what one connection sends; reads nothing for a while after each `stall` bytes.
fn echo_server(at: IpAddr, stall: usize) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let (mut input, mut output) = (stream.try_clone().unwrap(), stream);
        let (send, receive) = std::sync::mpsc::channel::<Vec<u8>>();
        let reader = std::thread::spawn(move || {
            let (mut buffer, mut all) = (vec![0; 1 << 16], 0);
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                send.send(buffer[..count].to_vec()).unwrap();
                if stall != 0 && (all + count) / stall != all / stall {
                    std::thread::sleep(Duration::from_millis(250));
                }
                all += count;
            }
        });
        receive.iter().for_each(|bytes| output.write_all(&bytes).unwrap());
        reader.join().unwrap();
    });
    (port, thread)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect()
}

fn long() -> usize {
    if std::env::var_os("ATTACCA_LONG").is_some() { 10 } else { 1 }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| unavailable(&format!("ip: {error}")));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn bad_path(ends: Ends, mtus: (u32, usize)) {
    let mut world = World::new(ends, BAD, mtus, 11);
    world.echo(long() << 19, 0);
    world.serve(long() << 19);
    world.struck();
}

#[test]
fn bad_path_by_ipv4() {
    inside("bad_path_by_ipv4", || bad_path(v4(), (1500, 1500)));
}

#[test]
fn bad_path_by_ipv6() {
    inside("bad_path_by_ipv6", || bad_path(v6(), (1500, 1500)));
}

#[test]
fn small_packets_on_a_bad_path() {
    inside("small_packets_on_a_bad_path", || bad_path(v4(), (1500, 576)));
}

#[test]
fn smallest_packets_of_ipv6() {
    inside("smallest_packets_of_ipv6", || bad_path(v6(), (1280, 1500)));
}

#[test]
fn windows_that_stand_still() {
    inside("windows_that_stand_still", || {
        let plan = FaultPlan { loss: 5_000, delay: MILLISECOND, ..FaultPlan::default() };
        let mut world = World::new(v6(), plan, (1500, 1500), 5);
        world.echo((long() * 8) << 20, 4 << 20);
    });
}
