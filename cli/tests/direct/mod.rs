//! What the tests of live switches share: a network with a TAP uplink in a namespace of its own, clients that check
//! every answer and note when it came, and the longest silence in windows of time.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

#[path = "../../../net/tests/linux/namespace.rs"]
pub mod namespace;

use crate::support::*;
use namespace::unavailable;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The host's end of the TAP device.
pub const HOST: &str = "10.9.0.1";
/// The network's name.
pub const NET: &str = "direct";

/// How many switches a test makes: `short`, or a thousand in the long form.
pub fn rounds(short: usize) -> usize {
    if std::env::var_os("ATTACCA_LONG").is_some() { 1000 } else { short }
}

/// As [`namespace::inside`], with Debian's packages in the cache: in there nothing can be fetched.
pub fn inside_with(packages: &[&str], name: &str, body: fn()) {
    packages.iter().for_each(|package| drop(debian_root(package)));
    namespace::inside(name, body);
}

/// A network behind TAP device `t0`, with direct queues.
pub struct Network;

impl Network {
    /// Brings it up. `more`: arguments of `attacca server start`.
    pub fn start(more: &[&str]) -> Network {
        mount_sys();
        ip("link set lo up");
        ip("tuntap add t0 mode tap multi_queue");
        ip(&format!("address add {HOST}/24 dev t0"));
        ip("link set t0 up");
        Network::begin("tap:t0", "2", more)
    }

    /// The same behind AF_XDP interface `v1` of two queues, of which one is for guests; `v0` is the host's.
    pub fn start_xdp(more: &[&str]) -> Network {
        mount_sys();
        ip("link set lo up");
        ip("link add v0 numrxqueues 2 numtxqueues 2 type veth peer name v1 numrxqueues 2 numtxqueues 2");
        ip(&format!("address add {HOST}/24 dev v0"));
        ip("link set v0 up");
        ip("link set v1 up");
        Network::begin("xdp:v1", "1", more)
    }

    /// Starts it again, when its supervisor has ended.
    pub fn start_xdp_again(&self) {
        let asked = || attacca().args(["server", "status", "--net", NET]).output().unwrap();
        assert!(eventually(PATIENCE, || !asked().status.success()), "its supervisor lives");
        std::mem::forget(Network::begin("xdp:v1", "1", &[]));
    }

    fn begin(uplink: &str, queues: &str, more: &[&str]) -> Network {
        let start = ["server", "start", "--net", NET, "--uplink", uplink, "--ip", "10.9.0.10/24"];
        let gateway = ["--gateway", HOST, "--direct-queues", queues];
        let status = attacca().args(start).args(gateway).args(more).status().unwrap();
        assert!(status.success());
        Network
    }

    /// What its processes said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(runtime_dir().join("attacca/nets").join(NET).join("log")).unwrap_or_default()
    }

    /// Its status.
    pub fn status(&self) -> serde_json::Value {
        let words = text(attacca().args(["server", "status", "--net", NET, "--json"]).output().unwrap());
        serde_json::from_str(&words).unwrap()
    }

    /// What the status says of a guest, with its counters: one that does not get the processor may be too late with
    /// them for the first status.
    pub fn guest(&self, name: &str) -> serde_json::Value {
        let mut known = serde_json::Value::Null;
        eventually(PATIENCE, || {
            let status = self.status();
            let all = status["guests"].as_array().unwrap();
            let guest = all.iter().find(|guest| guest["name"] == name);
            known = guest.unwrap_or_else(|| panic!("{name}: {status}")).clone();
            !known["counters"].is_null()
        });
        known
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = attacca().args(["server", "stop", "--net", NET]).status();
    }
}

/// /sys shows the interfaces of the namespace that mounted it.
pub fn mount_sys() {
    // SAFETY: paths are NUL-terminated; the mounts are private to this process's new mount namespace.
    let mounted = unsafe {
        let none = std::ptr::null();
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast(),
            ) == 0
            && libc::mount(c"sys".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, none.cast()) == 0
    };
    if !mounted {
        unavailable("a /sys of the new namespace");
    }
}

/// From now on the host's frames over `v0` come to this queue of `v1`: a veth receives on the queue that the sender's
/// kernel chose, and that one asks which processor sends (XPS).
pub fn send_on(queue: usize) {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    let all = format!("{:x}", (1u64 << cpus) - 1);
    for (at, mask) in [(1 - queue, "0"), (queue, &all)] {
        let path = format!("/sys/class/net/v0/queues/tx-{at}/xps_cpus");
        std::fs::write(&path, mask).unwrap_or_else(|error| unavailable(&format!("{path}: {error}")));
    }
}

/// Puts the network's TAP device on a bridge with the host's address.
pub fn bridge() {
    ip("link add br0 type bridge");
    ip("link set br0 up");
    ip(&format!("address delete {HOST}/24 dev t0"));
    ip("link set t0 master br0");
    ip(&format!("address add {HOST}/24 dev br0"));
}

/// `ip ARGUMENTS`; what it says.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| unavailable(&format!("ip: {error}")));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a program wrote, to both of its streams.
pub fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// `attacca switch`, without a process of its own: that would be load on the processors that clients wait for.
pub fn switch(guest: &str, direct: bool) {
    let said = netserver::client::switch(&runtime_dir().join("attacca"), NET, guest, direct, None);
    assert!(said.is_ok(), "{guest} to {direct}: {}", said.unwrap_err());
}

/// The command.
pub fn switch_by(arguments: &[&str]) {
    let output = attacca().arg("switch").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `attacca switch --explain`
pub fn explain(guest: &str) -> String {
    text(attacca().args(["switch", "--explain", guest]).output().unwrap())
}

/// Waits until somebody accepts.
pub fn wait_for(address: &str) {
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < PATIENCE, "{address} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A connection whose reads do not wait for ever.
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// The tests' own server, built once.
pub fn peer() -> PathBuf {
    compile("switch-peer", include_str!("peer.c"), &["-pthread"])
}

/// A byte of its streams.
pub fn byte_at(place: u32) -> u8 {
    (place.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// When something came, at a resolution of 50 us.
#[derive(Default)]
pub struct Moments(pub Vec<Instant>);

impl Moments {
    /// Something came now.
    pub fn note(&mut self) {
        let now = Instant::now();
        if self.0.last().is_none_or(|last| now - *last >= Duration::from_micros(50)) {
            self.0.push(now);
        }
    }
}

/// One connection to `address`: an exchange after the other, each checked. The moments of all answers.
pub fn client(
    address: &'static str,
    stop: &Arc<AtomicBool>,
    mut exchange: impl FnMut(&mut TcpStream, u64) + Send + 'static,
) -> JoinHandle<Vec<Instant>> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut stream = connect(address);
        let mut moments = Moments::default();
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            exchange(&mut stream, number);
            number += 1;
            moments.note();
        }
        moments.0
    })
}

/// Echoes whatever comes to an address of the host; counts words of four bytes.
pub fn echo_here() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind(format!("{HOST}:0")).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let count = Arc::new(AtomicU32::new(0));
    let counting = count.clone();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0; 4];
        while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, count)
}

/// An exchange with the peer's echo.
pub fn echo(stream: &mut TcpStream, number: u64) {
    if number == 0 {
        stream.write_all(b"E").unwrap();
    }
    let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    ask(stream, &word, &word);
    std::thread::sleep(Duration::from_micros(100));
}

fn short_exchange(stream: &mut TcpStream, number: u64) {
    let word = number.to_le_bytes();
    if number == 0 {
        stream.write_all(b"E").unwrap();
    }
    ask(stream, &word, &word);
}

/// Of two guests behind one address one is switched, with `between` before each time; every answer of both is checked.
pub fn one_of_two_switches(network: &Network, count: usize, between: impl Fn(usize)) {
    let peer = peer();
    let peer = peer.to_str().unwrap();
    let (port_one, called_one) = echo_here();
    let (port_two, called_two) = echo_here();
    let start = |name: &str, port: &str, to: &str| {
        let words = ["--name", name, "--net", NET, "--cpus", "1", "--ip", "10.9.0.40"];
        Guest::start(&[&words[..], &[peer, port, HOST, to]].concat())
    };
    let one = start("one", "7000", &port_one);
    wait_for("10.9.0.40:7000");
    let two = start("two", "8000", &port_two);
    wait_for("10.9.0.40:8000");
    assert_eq!(network.guest("two")["shared"], true);
    let stop = Arc::new(AtomicBool::new(false));
    let of_one = client("10.9.0.40:7000", &stop, echo);
    let of_two = client("10.9.0.40:8000", &stop, echo);
    let (mut random, mut windows) = (Random(0x0b), Windows::default());
    for round in 0..rounds(count) {
        between(round);
        windows.switch("one", round % 2 == 0, &mut random);
        if round % 20 == 0 {
            // A port that is opened while direct is steered as well: "one" is, after an even round.
            let mut late = connect("10.9.0.40:7001");
            let mut word = Vec::new();
            late.read_to_end(&mut word).unwrap();
            assert_eq!(word, b"k");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for (what, answers) in [("the one that switches", of_one), ("the other", of_two)] {
        let answers = answers.join().unwrap();
        tell(&format!("one address, {what}, switching"), &silences(&answers, &windows.switching));
        tell(&format!("one address, {what}, not switching"), &silences(&answers, &windows.quiet));
    }
    for (guest, called) in [(&one, called_one), (&two, called_two)] {
        assert!(called.load(Ordering::Relaxed) > 10, "{}", guest.output());
        assert!(!guest.output().contains("ended after"), "{}", guest.output());
    }
    let (one, two) = (network.guest("one")["counters"].clone(), network.guest("two")["counters"].clone());
    assert_eq!(one["switches"], windows.switching.len(), "{one}");
    assert!(one["direct"]["frames_received"].as_u64().unwrap() > 100, "{one}");
    // The other never left the server.
    assert_eq!(two["switches"], 0, "{two}");
    assert_eq!(two["direct"]["frames_received"], 0, "{two}");
    eprintln!("the other sent {} segments again (of a late machine, too)", two["retransmissions"]);
}

/// The policy's own: a busy guest gets the one queue, and gives it back when it has been idle for its stay.
/// `bulk`: long frames, else many short ones.
pub fn busy_guest_is_given_the_queue(network: &Network, bulk: bool) {
    let peer = peer();
    let words = ["--name", "busy", "--net", NET, "--cpus", "1", "--ip", "10.9.0.50"];
    let _busy = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
    let words = ["--name", "idle", "--net", NET, "--cpus", "1", "--ip", "10.9.0.51"];
    let _idle = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
    wait_for("10.9.0.50:7000");
    wait_for("10.9.0.51:7000");
    let stop = Arc::new(AtomicBool::new(false));
    let drain = |address| {
        client(address, &stop, |stream, number| {
            if number == 0 {
                stream.write_all(b"S").unwrap();
            }
            assert_ne!(stream.read(&mut [0; 8192]).unwrap(), 0);
        })
    };
    let words = || client("10.9.0.50:7000", &stop, short_exchange);
    let loads = if bulk { vec![drain("10.9.0.50:7000")] } else { (0..6).map(|_| words()).collect() };
    let direct = || network.guest("busy")["mode"] == "direct";
    assert!(eventually(PATIENCE, direct), "{}", explain("busy"));
    assert!(explain("busy").contains("frames/s, the most of those without a queue"), "{}", explain("busy"));
    assert_eq!(network.guest("idle")["mode"], "server");
    stop.store(true, Ordering::Relaxed);
    loads.into_iter().for_each(|load| drop(load.join().unwrap()));
    let back = || network.guest("busy")["mode"] == "server";
    assert!(eventually(PATIENCE, back), "{}", explain("busy"));
    assert!(explain("busy").contains("too few for a queue of its own"), "{}", explain("busy"));
}

/// Reads the guest's endless stream and checks every byte.
pub fn stream_from(address: &'static str, stop: &Arc<AtomicBool>) -> JoinHandle<(Vec<Instant>, u32)> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut stream = connect(address);
        stream.write_all(b"S").unwrap();
        let (mut moments, mut place, mut buffer) = (Moments::default(), 0u32, vec![0; 1 << 18]);
        while !stop.load(Ordering::Relaxed) {
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the stream ended");
            moments.note();
            for byte in &buffer[..count] {
                assert_eq!(*byte, byte_at(place), "byte {place}");
                place = place.wrapping_add(1);
            }
        }
        (moments.0, place)
    })
}

/// Writes a stream of which the guest checks every byte.
pub fn stream_to(address: &'static str, stop: &Arc<AtomicBool>) -> JoinHandle<(Vec<Instant>, u32)> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut stream = connect(address);
        stream.write_all(b"D").unwrap();
        let (mut moments, mut place) = (Moments::default(), 0u32);
        while !stop.load(Ordering::Relaxed) {
            let chunk: Vec<u8> = (0..16384).map(|at| byte_at(place.wrapping_add(at))).collect();
            stream.write_all(&chunk).unwrap();
            moments.note();
            place = place.wrapping_add(16384);
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut words = String::new();
        stream.read_to_string(&mut words).unwrap();
        assert_eq!(words, format!("{place}\n"));
        (moments.0, place)
    })
}

/// The longest time without an answer in each window, sorted.
pub fn silences(answers: &[Instant], windows: &[(Instant, Instant)]) -> Vec<Duration> {
    let longest = |(from, to): &(Instant, Instant)| {
        let first = answers.partition_point(|at| at < from).saturating_sub(1);
        let pairs = answers[first..].windows(2).take_while(|pair| pair[0] <= *to);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    };
    let mut all: Vec<Duration> = windows.iter().map(longest).collect();
    all.sort();
    all
}

/// Prints a line for RESULTS.md's table.
pub fn tell(what: &str, sorted: &[Duration]) {
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize].as_micros();
    eprintln!("silence | {what} | {} | {} us | {} us | {} us", sorted.len(), at(0.5), at(0.99), at(1.0));
}

/// Random moments, repeatable.
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20) % end
    }
}

/// Windows of time with a switch in each, and as many without.
#[derive(Default)]
pub struct Windows {
    pub switching: Vec<(Instant, Instant)>,
    pub quiet: Vec<(Instant, Instant)>,
}

impl Windows {
    /// Switches a guest at a random moment; then as long again without.
    pub fn switch(&mut self, guest: &str, direct: bool, random: &mut Random) {
        std::thread::sleep(Duration::from_micros(random.below(4000)));
        let begin = Instant::now();
        switch(guest, direct);
        // What the switch disturbed may show later than its answer.
        std::thread::sleep(Duration::from_millis(1));
        let end = Instant::now();
        self.switching.push((begin, end));
        std::thread::sleep(end - begin);
        self.quiet.push((end, Instant::now()));
    }
}

/// Writes a request and compares the whole answer.
pub fn ask(stream: &mut TcpStream, request: &[u8], want: &[u8]) {
    stream.write_all(request).unwrap();
    let mut got = vec![0; want.len()];
    if let Err(error) = stream.read_exact(&mut got) {
        panic!("no answer: {error}\n{}", both_ends(stream));
    }
    assert!(got == want, "{} instead of {}", got.escape_ascii(), want.escape_ascii());
}

/// What each thread of a process does in the kernel, and how often it has slept: twice, a moment apart.
fn where_it_is(process: &Path) -> String {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let mut told = format!("{} {}", process.display(), read(process.join("comm")));
    for _ in 0..2 {
        for thread in fs::read_dir(process.join("task")).into_iter().flatten().flatten().map(|t| t.path()) {
            let switches =
                read(thread.join("status")).lines().filter(|l| l.contains("ctxt")).collect::<String>();
            let (call, stack) = (read(thread.join("syscall")), read(thread.join("stack")));
            let top = stack.lines().take(6).map(|line| line.split(' ').nth(1).unwrap_or(""));
            told += &format!("  {call}  {switches} {}\n", top.collect::<Vec<_>>().join(" "));
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    told
}

/// A command and what it says.
fn told_by(command: &mut Command) -> String {
    let output = command.output().map_or_else(|error| error.to_string(), |output| said(&output));
    format!("{command:?}\n{output}\n")
}

/// What the host's kernel knows of a connection that got no answer, twice (whether its data were acknowledged, which timers
/// run), and what the network knows of the guests.
fn both_ends(stream: &TcpStream) -> String {
    let port = stream.local_addr().map_or(0, |address| address.port());
    let mut told = String::new();
    told += &told_by(Command::new("ss").args(["-tinoe", &format!("sport = :{port}")]));
    told += &told_by(Command::new("ip").args(["-s", "link", "show", "t0"]));
    // Before any of them is asked: a question wakes who sleeps.
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let here = fs::read_link("/proc/self/ns/net").ok();
        if here.is_some() && fs::read_link(process.join("ns/net")).ok() == here {
            told.push_str(&where_it_is(&process));
        }
    }
    told += &told_by(attacca().args(["switch", "--explain", "g"]));
    told += &told_by(attacca().args(["server", "status", "--net", NET, "--json"]));
    told += &told_by(Command::new("ss").args(["-tinoe", &format!("sport = :{port}")]));
    told
}
