//! Direct devices against the Linux kernel: TAP queues, AF_XDP sockets on a veth pair, wires, and the programs that
//! steer frames to them. Each test has a network namespace of its own. Needs root (or user namespaces for the
//! TAP part) and the `ip` command for veth pairs.

#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/linux/namespace.rs"]
mod namespace;

use namespace::{inside, unavailable};
use net::device::{Capabilities, Device, Fault, FaultPlan, Full, Nic, RxFrame, TxMeta};
use net::{Bind, Config, Endpoint, Error, Ready, Shard, SocketId, TcpFlags};
use netserver::bpf::Rule;
use netserver::direct::{self, Opened, Queue, TapSteering, XdpSteering};
use netserver::nic::HostNic;
use platform::time::{Instant, MILLISECOND, SECOND, now};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::thread::JoinHandle;

const LINUX: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const ENGINE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
const PATIENCE: u64 = 40 * SECOND;

/// A device that loses what is sent, by a seeded generator; [`Fault`] does it for what is received.
struct Lossy {
    inner: HostNic,
    per_million: u32,
    random: u64,
    frames: u64,
    bytes: u64,
}

impl Device for Lossy {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        let (frames, bytes) = (&mut self.frames, &mut self.bytes);
        self.inner.receive(budget, &mut |batch| {
            *frames += batch.len() as u64;
            *bytes += batch.iter().map(|f| f.bytes.len() as u64).sum::<u64>();
            sink(batch);
        })
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if (self.random >> 33) % 1_000_000 < u64::from(self.per_million) {
            fill(&mut vec![0; len]);
            return Ok(());
        }
        self.inner.transmit(len, meta, fill)
    }

    fn flush(&mut self) {
        self.inner.flush();
    }
}

struct World {
    shard: Shard,
    device: Fault<Lossy>,
    begin: Instant,
}

impl World {
    fn new(opened: Opened, loss: u32) -> World {
        let mut config = Config::new(opened.mac, [3; 32]).address(ENGINE.into(), 24);
        config.mtu = 65_535;
        World::with(opened, config, loss)
    }

    fn with(opened: Opened, config: Config, loss: u32) -> World {
        let nic = HostNic::new(opened).expect("device");
        let lossy = Lossy { inner: nic, per_million: loss, random: 7, frames: 0, bytes: 0 };
        let plan = FaultPlan { loss, ..FaultPlan::default() };
        World { shard: Shard::new(config), device: Fault::new(lossy, plan, 5), begin: now() }
    }

    fn nic(&mut self) -> &mut HostNic {
        &mut self.device.inner().inner
    }

    fn step(&mut self) {
        assert!(now().since(self.begin) < PATIENCE, "too long; {:?}", self.shard.counts());
        self.device.set_now(now());
        self.shard.poll(now(), &mut self.device);
        self.device.pump();
        if self.device.deadline().is_none() && self.nic().announce_sleep() {
            let rest = self.shard.deadline().map_or(2 * MILLISECOND, |at| at.since(now()));
            let wait = libc::timespec { tv_sec: 0, tv_nsec: rest.min(2 * MILLISECOND) as i64 };
            let mut fd = libc::pollfd { fd: self.nic().wake_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor and a time, both ours.
            unsafe { libc::ppoll(&mut fd, 1, &wait, std::ptr::null()) };
            self.nic().silence();
        }
        self.nic().awake();
    }

    fn until<T>(&mut self, mut ask: impl FnMut(&mut Shard) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            match ask(&mut self.shard) {
                Err(Error::WouldBlock | Error::InProgress) => self.step(),
                result => return result,
            }
        }
    }

    fn connect(&mut self, port: u16) -> SocketId {
        let id = self.shard.tcp_open().unwrap();
        let begun = self.shard.tcp_connect(id, Endpoint::new(LINUX, port), now());
        assert_eq!(begun, Err(Error::InProgress));
        let connected = |shard: &mut Shard| match shard.ready(id) {
            ready if ready.contains(Ready::ERROR) => Err(shard.take_error(id).unwrap()),
            ready if ready.contains(Ready::WRITABLE) => Ok(()),
            _ => Err(Error::WouldBlock),
        };
        self.until(connected).expect("connection");
        id
    }

    fn join<T>(&mut self, thread: JoinHandle<T>) -> T {
        while !thread.is_finished() {
            self.step();
        }
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sends `total` bytes to an echo of the kernel's and gets them back, both ways at once.
    fn echo(&mut self, id: SocketId, total: usize) {
        let data = pattern(total);
        let (mut sent, mut got) = (0, 0);
        let mut buffer = vec![0; 256 * 1024];
        while got < total {
            let mut moved = false;
            if sent < total
                && let Ok(count) = self.shard.tcp_send(id, &data[sent..], TcpFlags::empty())
            {
                sent += count;
                moved = true;
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
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect()
}

/// Returns what one connection sends.
fn echo_server() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind((LINUX, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let (mut input, mut output) = (stream.try_clone().unwrap(), stream);
        let (send, receive) = std::sync::mpsc::channel::<Vec<u8>>();
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                send.send(buffer[..count].to_vec()).unwrap();
            }
        });
        receive.iter().for_each(|bytes| output.write_all(&bytes).unwrap());
        reader.join().unwrap();
    });
    (port, thread)
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| unavailable(&format!("ip: {error}")));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// TAP device `t0` with the kernel's address on the other end.
fn tap(multi: bool) -> Opened {
    let opened = direct::open_tap("t0", multi, MAC).unwrap_or_else(|error| unavailable(&error.to_string()));
    ip(&format!("address add {LINUX}/24 dev t0"));
    opened
}

/// `v0` is the kernel's, `v1` carries the AF_XDP socket.
fn veth() -> (Opened, XdpSteering) {
    ip("link add v0 type veth peer name v1");
    ip(&format!("address add {LINUX}/24 dev v0"));
    ip("link set v0 up");
    ip("link set v1 up");
    let steering = XdpSteering::attach("v1").unwrap_or_else(|error| unavailable(&error.to_string()));
    let opened = direct::open_xdp("v1", 0, false).unwrap_or_else(|error| unavailable(&error.to_string()));
    steering.add_socket(0, std::os::fd::AsFd::as_fd(&opened.fds[0])).unwrap();
    (opened, steering)
}

fn bulk(world: &mut World, total: usize) {
    let (port, thread) = echo_server();
    let id = world.connect(port);
    let begin = now();
    world.echo(id, total);
    let took = now().since(begin);
    world.shard.tcp_shutdown(id, net::Shutdown::Write).unwrap();
    world.join(thread);
    let lossy = world.device.inner();
    eprintln!(
        "{} MiB each way in {} ms, {} frames of {} bytes received",
        total >> 20,
        took / MILLISECOND,
        lossy.frames,
        lossy.bytes / lossy.frames.max(1)
    );
}

#[test]
fn tap_moves_super_segments_both_ways() {
    inside("tap_moves_super_segments_both_ways", || {
        let opened = tap(false);
        assert!(matches!(opened.queue, Queue::Tap { segmentation: true, mtu: 1500 }));
        let mut world = World::new(opened, 0);
        bulk(&mut world, 32 << 20);
        let lossy = world.device.inner();
        assert!(lossy.bytes / lossy.frames > 3000, "the kernel sent no super-segments");
    });
}

#[test]
fn tap_survives_loss() {
    inside("tap_survives_loss", || bulk(&mut World::new(tap(false), 5_000), 2 << 20));
}

#[test]
fn tap_that_vanishes_is_dead() {
    inside("tap_that_vanishes_is_dead", || {
        let mut world = World::new(tap(false), 0);
        assert!(world.nic().is_alive());
        ip("link delete t0");
        let _ = world.nic().has_frames();
        assert!(!world.nic().is_alive());
    });
}

#[test]
fn tap_frames_go_to_their_rules_queue() {
    inside("tap_frames_go_to_their_rules_queue", || {
        let first = tap(true);
        let second = direct::open_tap("t0", true, MAC).unwrap();
        let steering = TapSteering::attach(std::os::fd::AsFd::as_fd(&first.fds[0])).unwrap();
        ip(&format!("neighbour add {ENGINE} lladdr 02:00:00:00:09:02 dev t0"));
        let rule = |port| Rule { address: ENGINE.into(), protocol: 17, port };
        steering.set(rule(700), 1).unwrap();
        let mut queues = [HostNic::new(first).unwrap(), HostNic::new(second).unwrap()];
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        let mut arrived = |port: u16| {
            socket.send_to(b"hello", (ENGINE, port)).unwrap();
            let mut counts = [0, 0];
            for (count, queue) in counts.iter_mut().zip(&mut queues) {
                let begin = now();
                while *count == 0 && now().since(begin) < 20 * MILLISECOND {
                    queue.receive(64, &mut |frames| {
                        let ours = |f: &&RxFrame<'_>| f.bytes[12..14] == [8, 0] && f.bytes[23] == 17;
                        *count += frames.iter().filter(ours).count();
                    });
                }
            }
            counts
        };
        assert_eq!(arrived(700), [0, 1]);
        assert_eq!(arrived(701), [1, 0]);
        steering.set(rule(701), 1).unwrap();
        assert_eq!(arrived(701), [0, 1]);
        assert!(steering.clear(rule(700)).unwrap());
        assert_eq!(arrived(700), [1, 0]);
        steering.set(Rule::address(ENGINE.into()), 1).unwrap();
        assert_eq!(arrived(702), [0, 1]);
    });
}

#[test]
fn xdp_moves_frames_both_ways() {
    inside("xdp_moves_frames_both_ways", || {
        let (opened, steering) = veth();
        steering.set(Rule::address(ENGINE.into()), 0).unwrap();
        bulk(&mut World::new(opened, 0), 16 << 20);
    });
}

#[test]
fn xdp_survives_loss() {
    inside("xdp_survives_loss", || {
        let (opened, steering) = veth();
        steering.set(Rule::address(ENGINE.into()), 0).unwrap();
        bulk(&mut World::new(opened, 5_000), 2 << 20);
    });
}

#[test]
fn xdp_takes_its_rules_frames_alone() {
    inside("xdp_takes_its_rules_frames_alone", || {
        let (opened, steering) = veth();
        ip(&format!("neighbour add {ENGINE} lladdr {} dev v0", text(opened.mac)));
        let mut nic = HostNic::new(opened).unwrap();
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        let mut arrives = |port: u16| {
            socket.send_to(b"hello", (ENGINE, port)).unwrap();
            let (begin, mut count) = (now(), 0);
            while count == 0 && now().since(begin) < 20 * MILLISECOND {
                count += nic.receive(64, &mut |frames| {
                    assert!(frames.iter().all(|f| f.checksum_ok), "the kernel's own frames are vouched for");
                });
            }
            count == 1
        };
        let rule = |protocol, port| Rule { address: IpAddr::V4(ENGINE), protocol, port };
        assert!(!arrives(700));
        steering.set(rule(17, 700), 0).unwrap();
        steering.set(rule(6, 701), 0).unwrap();
        assert!(arrives(700));
        assert!(!arrives(701));
        steering.set(rule(17, 702), 1).unwrap();
        assert!(!arrives(702), "another queue's");
        steering.clear(rule(17, 700)).unwrap();
        assert!(!arrives(700));
        steering.set(Rule::address(ENGINE.into()), 0).unwrap();
        assert!(arrives(703));
    });
}

#[test]
fn xdp_on_an_interface_that_goes_down_is_dead() {
    inside("xdp_on_an_interface_that_goes_down_is_dead", || {
        let (opened, steering) = veth();
        steering.set(Rule::address(ENGINE.into()), 0).unwrap();
        let mut nic = HostNic::new(opened).unwrap();
        ip("link delete v1");
        nic.transmit(60, TxMeta::default(), &mut |frame| frame.fill(0)).unwrap();
        nic.flush();
        assert!(!nic.is_alive());
    });
}

/// A datagram from the engine's address to port 9 of the kernel's, with a number.
fn numbered(to: [u8; 6], from: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = [&to[..], &from, &[8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
    frame.extend(ENGINE.octets());
    frame.extend(LINUX.octets());
    let sum: u32 = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([0, 7, 0, 9, 0, 12, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame
}

/// Network servers that die at any place leave a socket that the next one goes on with: nothing is lost that was
/// not published, nothing that was flushed, and no buffer.
#[test]
fn an_xdp_socket_outlives_its_users() {
    inside("an_xdp_socket_outlives_its_users", || {
        let (opened, steering) = veth();
        let peer_mac = direct::hardware_address("v0").unwrap();
        ip(&format!("neighbour add {ENGINE} lladdr {} dev v0", text(opened.mac)));
        steering.set(Rule::address(ENGINE.into()), 0).unwrap();
        let user = || {
            let fds = opened.fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
            HostNic::new(Opened { queue: opened.queue.clone(), fds, mac: opened.mac }).unwrap()
        };
        let socket = UdpSocket::bind((LINUX, 9)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let number = |f: &RxFrame<'_>| {
            let udp = f.bytes.len() == 46 && f.bytes[12..14] == [8, 0] && f.bytes[23] == 17;
            udp.then(|| u32::from_be_bytes(*f.bytes[42..].first_chunk().unwrap()))
        };
        let (mut state, mut sent, mut published) = (9u64, 0u32, 0u32);
        let (mut flushed, mut heard, mut last) = (0u32, 0u32, None);
        for _ in 0..400 {
            let (mut nic, mut seen) = (user(), Vec::new());
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                for _ in 0..state >> 58 {
                    socket.send_to(&sent.to_be_bytes(), (ENGINE, 700)).unwrap();
                    sent += 1;
                }
                nic.receive(64, &mut |frames| seen.extend(frames.iter().filter_map(number)));
                let mut queued = 0;
                while queued < (state >> 52) as u32 & 31 {
                    let frame = numbered(peer_mac, opened.mac, flushed + queued);
                    if nic
                        .transmit(frame.len(), TxMeta::default(), &mut |to| to.copy_from_slice(&frame))
                        .is_ok()
                    {
                        queued += 1;
                    }
                }
                if state >> 44 & 7 == 0 {
                    break;
                }
                for number in seen.drain(..) {
                    assert!(number <= published, "{published} was lost, {number} came");
                    published = published.max(number + 1);
                }
                if state >> 48 & 7 == 0 {
                    break;
                }
                nic.flush();
                flushed += queued;
                let mut word = [0; 4];
                while socket.recv(&mut word).is_ok() {
                    heard += 1;
                    last = Some(u32::from_be_bytes(word));
                }
            }
        }
        // (What was queued and not flushed may leave all the same.)
        assert!(
            published > 10_000 && flushed > 10_000 && heard >= flushed,
            "{published} {heard} of {flushed}"
        );
        assert!(last >= Some(flushed - 1));
        // All buffers are there: as many as the kernel has for receiving, and the sending ones many times over. (A busy
        // machine's softirq may drop some on the way.)
        let mut nic = user();
        let whole = |nic: &mut HostNic| {
            let mut count = 0;
            nic.receive(4096, &mut |_| ());
            nic.flush();
            for at in 0..1000u32 {
                socket.send_to(&at.to_be_bytes(), (ENGINE, 700)).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
            nic.receive(4096, &mut |frames| count += frames.iter().filter_map(number).count());
            nic.flush();
            count == 1000
        };
        assert!((0..50).any(|_| whole(&mut nic)), "receiving buffers are lost");
        let begin = now();
        for at in 0..5000 {
            let frame = numbered(peer_mac, opened.mac, at);
            while nic.transmit(frame.len(), TxMeta::default(), &mut |to| to.copy_from_slice(&frame)).is_err()
            {
                assert!(now().since(begin) < 10 * SECOND, "sending buffers are lost");
            }
        }
        nic.flush();
    });
}

#[test]
fn two_engines_meet_on_a_wire() {
    let dir = std::env::temp_dir().join(format!("attacca-wire-{}", std::process::id()));
    let [first, second] = [(); 2].map(|()| direct::open_wire(&dir, "w").unwrap());
    let world = |opened: Opened, address: Ipv4Addr| {
        let mut config = Config::new(opened.mac, [9; 32]).address(address.into(), 24);
        config.mtu = 65_535;
        World::with(opened, config, 0)
    };
    let mut left = world(first, ENGINE);
    let serve = std::thread::spawn(move || {
        let mut right = world(second, LINUX);
        let listener = right.shard.tcp_open().unwrap();
        right.shard.tcp_bind(listener, Endpoint::new(LINUX, 80), Bind::default()).unwrap();
        right.shard.tcp_listen(listener, 4).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let (id, _) = right.until(|shard| shard.tcp_accept(listener)).unwrap();
        loop {
            let count = right.until(|shard| shard.tcp_recv(id, &mut buffer, TcpFlags::empty())).unwrap();
            if count == 0 {
                return;
            }
            let mut sent = 0;
            while sent < count {
                let part = &buffer[sent..count];
                sent += right.until(|shard| shard.tcp_send(id, part, TcpFlags::empty())).unwrap();
            }
            right.step();
        }
    });
    let id = left.connect(80);
    left.echo(id, 16 << 20);
    left.shard.tcp_shutdown(id, net::Shutdown::Write).unwrap();
    left.join(serve);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// /sys shows the interfaces of the namespace that mounted it.
fn mount_sys() {
    // SAFETY: paths are NUL-terminated; the mount is private to this process's new mount namespace.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            ) == 0
            && libc::mount(c"sys".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, std::ptr::null()) == 0
    };
    if !mounted {
        unavailable("a /sys of the new namespace");
    }
}

/// The list of queues stays the kernel's when one in the middle goes, and one that a guest keeps is seen.
#[test]
fn queues_come_and_go() {
    inside("queues_come_and_go", || {
        mount_sys();
        let server = tap(true);
        ip(&format!("neighbour add {ENGINE} lladdr 02:00:00:00:09:02 dev t0"));
        let mut queues = netserver::queues::Queues::new(Some(("t0", &server.fds[0])), 3).unwrap();
        let mut nics: Vec<Option<HostNic>> = vec![Some(HostNic::new(server).unwrap())];
        for guest in 1..=3 {
            let (opened, number) = queues.open(guest, MAC, None).unwrap();
            assert_eq!(number, guest);
            nics.push(Some(HostNic::new(opened).unwrap()));
            let rule = Rule { address: ENGINE.into(), protocol: 17, port: 700 + guest as u16 };
            queues.steer(guest, &[rule]).unwrap();
        }
        assert!(queues.open(4, MAC, None).is_err());
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        // Which guest hears a datagram to the port of each (0: the server).
        let hears = |nics: &mut [Option<HostNic>]| -> Vec<usize> {
            let mut all = Vec::new();
            for port in 701..=703u16 {
                socket.send_to(b"hello", (ENGINE, port)).unwrap();
                let begin = now();
                'look: loop {
                    assert!(now().since(begin) < SECOND, "nobody hears port {port}");
                    for (at, nic) in nics.iter_mut().enumerate() {
                        let mut count = 0;
                        if let Some(nic) = nic {
                            nic.receive(64, &mut |frames| {
                                let ours = |f: &&RxFrame<'_>| f.bytes[12..14] == [8, 0] && f.bytes[23] == 17;
                                count += frames.iter().filter(ours).count();
                            });
                        }
                        if count != 0 {
                            all.push(at);
                            break 'look;
                        }
                    }
                }
            }
            all
        };
        assert_eq!(hears(&mut nics), [1, 2, 3]);
        nics[1] = None;
        queues.close(1);
        assert_eq!(hears(&mut nics), [0, 2, 3]);
        // Guest 2 gives its queue back and keeps it all the same.
        queues.close(2);
        assert_eq!(hears(&mut nics), [0, 0, 3]);
        // It counts, until the guest closes it or ends.
        assert!(queues.is_closing());
        nics[2] = None;
        queues.sweep();
        assert!(!queues.is_closing());
        assert_eq!(hears(&mut nics), [0, 0, 3]);
        let (opened, _) = queues.open(5, MAC, None).unwrap();
        nics.push(Some(HostNic::new(opened).unwrap()));
        queues.steer(5, &[Rule { address: ENGINE.into(), protocol: 17, port: 701 }]).unwrap();
        assert_eq!(hears(&mut nics), [4, 0, 3]);
    });
}

/// A pair with two queues each way; the kernel sends on the one that `send_on` says. `v1` is the network's.
fn veth_of_two() {
    mount_sys();
    ip("link add v0 numrxqueues 2 numtxqueues 2 type veth peer name v1 numrxqueues 2 numtxqueues 2");
    ip(&format!("address add {LINUX}/24 dev v0"));
    ip("link set v0 up");
    ip("link set v1 up");
    ip(&format!("neighbour add {ENGINE} lladdr {} dev v0", text(MAC)));
    ip(&format!("neighbour add {OTHER} lladdr 02:00:00:00:09:03 dev v0"));
}

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// From now on the kernel's frames over `v0` go to this queue of the other end (XPS).
fn send_on(queue: usize) {
    for at in [1 - queue, queue] {
        let mask = if at == queue { "ffffffff" } else { "0" };
        let path = format!("/sys/class/net/v0/queues/tx-{at}/xps_cpus");
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mask = if mask == "0" { "0".into() } else { format!("{:x}", (1u64 << cpus) - 1) };
        std::fs::write(&path, mask).unwrap_or_else(|error| unavailable(&format!("{path}: {error}")));
    }
}

/// What the design rests on: a queue of an interface has one frame memory.
#[test]
fn a_second_socket_on_a_queue_is_refused() {
    inside("a_second_socket_on_a_queue_is_refused", || {
        veth_of_two();
        let first = direct::open_xdp("v1", 1, false).unwrap_or_else(|error| unavailable(&error.to_string()));
        let error = direct::open_xdp("v1", 1, false).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
        assert!(error.to_string().contains("'v1', queue 1"), "{error}");
        drop(first);
    });
}

/// Wherever the NIC receives a frame, it gets to whom it is for.
#[test]
fn frames_find_the_guests_queue_or_the_server() {
    inside("frames_find_the_guests_queue_or_the_server", || {
        veth_of_two();
        let steering = XdpSteering::attach("v1").unwrap_or_else(|error| unavailable(&error.to_string()));
        let served = direct::open_xdp("v1", 0, false).unwrap_or_else(|error| unavailable(&error.to_string()));
        steering.add_server_socket(0, std::os::fd::AsFd::as_fd(&served.fds[0])).unwrap();
        let strays = steering.open_strays("v1").unwrap();
        let mut queues =
            netserver::queues::Queues::of_xdp(netserver::xdp_queues::XdpQueues::new("v1", steering, 1, 1));
        for address in [ENGINE, OTHER] {
            queues.serve(Rule::address(address.into())).unwrap();
        }
        let mut nics = vec![HostNic::new(served).unwrap(), HostNic::strays(strays.into()).unwrap()];
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        // Who hears a datagram: the server's socket, its packet socket, the guest.
        let hears = |nics: &mut [HostNic], queue: usize, to: Ipv4Addr, port: u16| -> usize {
            send_on(queue);
            socket.send_to(b"hello", (to, port)).unwrap();
            let begin = now();
            loop {
                assert!(now().since(begin) < SECOND, "nobody hears port {port} of {to}");
                for (at, nic) in nics.iter_mut().enumerate() {
                    let mut count = 0;
                    nic.receive(64, &mut |frames| {
                        let ours = |f: &&RxFrame<'_>| f.bytes[12..14] == [8, 0] && f.bytes[23] == 17;
                        assert!(
                            frames.iter().filter(ours).all(|f| f.checksum_ok),
                            "an unfinished checksum, not told"
                        );
                        assert!(frames.iter().filter(ours).all(|f| f.bytes.ends_with(b"hello")));
                        count += frames.iter().filter(ours).count();
                    });
                    nic.flush();
                    if count != 0 {
                        return at;
                    }
                }
            }
        };
        let (server, stray, guest) = (0, 1, 2);
        assert_eq!(hears(&mut nics, 0, ENGINE, 700), server);
        assert_eq!(hears(&mut nics, 1, ENGINE, 700), stray);
        assert!(queues.told(7).is_none());
        let (opened, number) = queues.open(7, MAC, None).unwrap();
        assert_eq!((number, opened.mac), (1, MAC));
        nics.push(HostNic::new(opened).unwrap());
        // Nothing moves before it is steered.
        assert_eq!(hears(&mut nics, 1, ENGINE, 700), stray);
        let port = |port| Rule { address: ENGINE.into(), protocol: 17, port };
        queues.steer(7, &[port(700)]).unwrap();
        assert_eq!(hears(&mut nics, 1, ENGINE, 700), guest);
        assert_eq!(hears(&mut nics, 0, ENGINE, 700), server);
        assert_eq!(hears(&mut nics, 1, ENGINE, 701), stray);
        assert_eq!(hears(&mut nics, 1, OTHER, 700), stray);
        // The driver was asked for rules of its own, and has none.
        let told = queues.told(7).unwrap();
        assert!(told.contains("'veth' takes no ntuple rules") && told.contains("not supported"), "{told}");
        queues.unsteer_one(7, port(700));
        assert_eq!(hears(&mut nics, 1, ENGINE, 700), stray);
        // The whole address, which is the server's again afterwards.
        queues.steer(7, &[Rule::address(ENGINE.into())]).unwrap();
        assert_eq!(hears(&mut nics, 1, ENGINE, 9), guest);
        assert!(queues.open(8, MAC, None).is_err());
        queues.unsteer(7);
        assert_eq!(hears(&mut nics, 1, ENGINE, 9), stray);
        assert_eq!(hears(&mut nics, 0, ENGINE, 9), server);
        queues.steer(7, &[Rule::address(ENGINE.into())]).unwrap();
        // A guest that is gone.
        nics.truncate(guest);
        queues.close(7);
        assert_eq!(hears(&mut nics, 1, ENGINE, 9), stray);
        let again = || queues.open(9, MAC, None).is_ok();
        let begin = now();
        let mut again = again;
        while !again() {
            assert!(now().since(begin) < 5 * SECOND, "the queue does not come free");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        queues.forget(Rule::address(OTHER.into()));
        // The host's again: nobody of ours hears it.
        send_on(1);
        socket.send_to(b"hello", (OTHER, 1)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut udp = 0;
        nics[stray].receive(64, &mut |frames| udp += frames.iter().filter(|f| f.bytes[23] == 17).count());
        assert_eq!(udp, 0);
    });
}
