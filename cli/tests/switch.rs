//! Live switches under load, seen by clients on the host: nginx and memcached as guests of a network with a TAP uplink,
//! moved between the server and a queue of their own while wrk and checking clients are busy with them. In a network
//! namespace of its own; needs root, `ip`, and a fresh /sys (the kernel's count of queues).

mod support;

#[allow(dead_code, unreachable_pub)]
#[path = "../../net/tests/linux/namespace.rs"]
mod namespace;

use namespace::{inside, unavailable};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::*;

const HOST: &str = "10.9.0.1";
const NET: &str = "direct";

struct Network;

impl Network {
    fn start() -> Network {
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
        ip("link set lo up");
        ip("tuntap add t0 mode tap multi_queue");
        ip(&format!("address add {HOST}/24 dev t0"));
        ip("link set t0 up");
        let start = ["server", "start", "--net", NET, "--uplink", "tap:t0", "--ip", "10.9.0.10/24"];
        let more = ["--gateway", HOST, "--direct-queues", "2"];
        let status = attacca().args(start).args(more).status().unwrap();
        assert!(status.success());
        Network
    }

    fn log(&self) -> String {
        std::fs::read_to_string(runtime_dir().join("attacca/nets").join(NET).join("log")).unwrap_or_default()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = attacca().args(["server", "stop", "--net", NET]).status();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| unavailable(&format!("ip: {error}")));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn switch(guest: &str, mode: &str) {
    let output = attacca().args(["switch", guest, mode]).output().unwrap();
    assert!(output.status.success(), "{guest} to {mode}: {}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for(address: &str) {
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < PATIENCE, "{address} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// One connection (nginx: a new one now and then): an exchange after the other, each checked. The moments of all answers.
fn client(
    address: &'static str,
    stop: Arc<AtomicBool>,
    mut exchange: impl FnMut(&mut TcpStream, u64) + Send + 'static,
) -> JoinHandle<Vec<Instant>> {
    std::thread::spawn(move || {
        let mut stream = connect(address);
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            exchange(&mut stream, answers.len() as u64);
            answers.push(Instant::now());
        }
        answers
    })
}

fn http_exchange(body: usize) -> impl FnMut(&mut TcpStream, u64) + Send {
    move |stream, number| {
        if number % 900 == 899 {
            // nginx ends a connection after a thousand requests (keepalive_requests).
            *stream = connect("10.9.0.20:80");
        }
        stream.write_all(b"GET /data HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 65536];
        let end = loop {
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "nginx closed the connection");
            answer.extend_from_slice(&buffer[..count]);
            if let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
        };
        while answer.len() < end + body {
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "nginx closed the connection");
            answer.extend_from_slice(&buffer[..count]);
        }
        assert!(answer[end..] == pattern(body)[..], "wrong bytes");
    }
}

fn memcached_exchange(stream: &mut TcpStream, number: u64) {
    let value = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string();
    let ask = format!("set k{} 0 0 {}\r\n{value}\r\nget k{}\r\n", number % 64, value.len(), number % 64);
    let want = format!("STORED\r\nVALUE k{} 0 {}\r\n{value}\r\nEND\r\n", number % 64, value.len());
    stream.write_all(ask.as_bytes()).unwrap();
    let mut got = vec![0; want.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), want);
}

/// The longest time without an answer in each window.
fn silences(answers: &[Instant], windows: &[(Instant, Instant)]) -> Vec<Duration> {
    let longest = |(from, to): &(Instant, Instant)| {
        let pairs = answers.windows(2).filter(|pair| pair[1] >= *from && pair[0] <= *to);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    };
    let mut all: Vec<Duration> = windows.iter().map(longest).collect();
    all.sort();
    all
}

fn tell(what: &str, sorted: &[Duration]) {
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize].as_micros();
    eprintln!("{what}: silence median {} us, p99 {} us, longest {} us", at(0.5), at(0.99), at(1.0));
}

/// nginx and memcached, up.
fn start_two() -> (Guest, Guest) {
    let www = scratch("switch-www");
    std::fs::write(www.join("data"), pattern(1024)).unwrap();
    let volume = format!("{}:/var/www/html:ro", www.display());
    let common = ["--net", NET, "--cpus", "1"];
    let mut web = vec!["--name", "web", "--ip", "10.9.0.20", "-v", &volume];
    web.extend(common);
    let web = Guest::start(&[&web[..], &["debian:nginx", "-g", "daemon off;"]].concat());
    let mut cache = vec!["--name", "cache", "--ip", "10.9.0.21"];
    cache.extend(common);
    let cache = Guest::start(&[&cache[..], &["debian:memcached", "-u", "root"]].concat());
    wait_for("10.9.0.20:80");
    wait_for("10.9.0.21:11211");
    (web, cache)
}

#[test]
fn guests_are_switched_under_load_and_no_client_notices() {
    inside("guests_are_switched_under_load_and_no_client_notices", || {
        let network = Network::start();
        let (web, cache) = start_two();
        let stop = Arc::new(AtomicBool::new(false));
        let http = client("10.9.0.20:80", stop.clone(), http_exchange(1024));
        let store = client("10.9.0.21:11211", stop.clone(), memcached_exchange);
        let rounds = if std::env::var_os("ATTACCA_LONG").is_some() { 250 } else { 25 };
        let mut load = native("wrk", "wrk");
        load.args(["-c", "8", "-t", "1", "-d", "3", "http://10.9.0.20/data"]);
        let load = load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut quiet = Vec::new();
        let mut windows = Vec::new();
        for _ in 0..rounds {
            for (guest, mode) in
                [("web", "direct"), ("cache", "direct"), ("web", "server"), ("cache", "server")]
            {
                let begin = Instant::now();
                switch(guest, mode);
                windows.push((begin, Instant::now()));
                // As long again without a switch, for comparison: with a process that starts and ends as well.
                let begin = Instant::now();
                assert!(attacca().args(["switch", "--explain", guest]).output().unwrap().status.success());
                quiet.push((begin, Instant::now()));
            }
        }
        let wrk = load.wait_with_output().unwrap();
        stop.store(true, Ordering::Relaxed);
        let (http, store) = (http.join().unwrap(), store.join().unwrap());
        eprintln!("{} switches, {} and {} checked answers", windows.len(), http.len(), store.len());
        for (what, answers) in [("nginx", &http), ("memcached", &store)] {
            tell(&format!("{what}, switching"), &silences(answers, &windows));
            tell(&format!("{what}, not switching"), &silences(answers, &quiet));
        }
        let wrk = String::from_utf8_lossy(&wrk.stdout).into_owned();
        eprintln!("{wrk}");
        assert!(
            wrk.contains("requests in") && !wrk.contains("Socket errors") && !wrk.contains("Non-2xx"),
            "{wrk}"
        );
        let explained = text(attacca().args(["switch", "--explain", "web"]).output().unwrap());
        assert!(explained.contains("web: server") && explained.contains("the user said so"), "{explained}");
        assert!(explained.contains(&format!("{} switches", windows.len() / 2)), "{explained}");
        assert!(!network.log().contains("error"), "{}", network.log());
        drop((web, cache));
    });
}

/// The server is killed, stopped and replaced while guests change over, before, in the middle and behind.
#[test]
fn servers_end_while_guests_are_switched() {
    inside("servers_end_while_guests_are_switched", || {
        let network = Network::start();
        let (web, cache) = start_two();
        let stop = Arc::new(AtomicBool::new(false));
        let http = client("10.9.0.20:80", stop.clone(), http_exchange(1024));
        let store = client("10.9.0.21:11211", stop.clone(), memcached_exchange);
        let status = || {
            let words = text(attacca().args(["server", "status", "--json", "--net", NET]).output().unwrap());
            serde_json::from_str::<serde_json::Value>(&words).unwrap()
        };
        let rounds = if std::env::var_os("ATTACCA_LONG").is_some() { 100 } else { 10 };
        for round in 0..rounds {
            for (guest, mode) in
                [("web", "direct"), ("cache", "direct"), ("web", "server"), ("cache", "server")]
            {
                let pid = status()["pid"].as_i64().unwrap_or(0) as i32;
                let switching = std::thread::spawn(move || switch(guest, mode));
                std::thread::sleep(Duration::from_micros(round as u64 * 7919 % 12_000));
                let signal = if round % 5 == 4 { libc::SIGSTOP } else { libc::SIGKILL };
                if pid != 0 {
                    // SAFETY: the server of the network that this test started.
                    unsafe { libc::kill(pid, signal) };
                }
                switching.join().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let (http, store) = (http.join().unwrap(), store.join().unwrap());
        let status = status();
        eprintln!("{} and {} checked answers over {} ends", http.len(), store.len(), status["restarts"]);
        assert!(http.len() > 10 && store.len() > 10 && status["restarts"].as_u64() > Some(10), "{status}");
        let explained = text(attacca().args(["switch", "--explain", "web"]).output().unwrap());
        assert!(explained.contains(&format!("{} switches", 2 * rounds)), "{explained}\n{}", network.log());
        drop((web, cache));
    });
}

#[test]
fn a_device_that_vanishes_leaves_the_guest_with_the_server() {
    inside("a_device_that_vanishes_leaves_the_guest_with_the_server", || {
        let _network = Network::start();
        // A NIC of the guest's own, on a bridge with the network's.
        ip("link add br0 type bridge");
        ip("link set br0 up");
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        ip("link set v0 master br0");
        ip("address delete 10.9.0.1/24 dev t0");
        ip("link set t0 master br0");
        ip("address add 10.9.0.1/24 dev br0");
        let cache = Guest::start(&[
            "--name",
            "c",
            "--net",
            NET,
            "--ip",
            "10.9.0.30",
            "debian:memcached",
            "-u",
            "root",
        ]);
        wait_for("10.9.0.30:11211");
        let stop = Arc::new(AtomicBool::new(false));
        let store = client("10.9.0.30:11211", stop.clone(), memcached_exchange);
        let output = attacca().args(["switch", "c", "direct", "--nic", "xdp:v1"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(300));
        ip("link delete v1");
        let fell =
            || text(attacca().args(["switch", "--explain", "c"]).output().unwrap()).contains("c: server");
        assert!(eventually(Duration::from_secs(10), fell), "still direct; {}", cache.output());
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        assert!(store.join().unwrap().len() > 10);
        let refused = attacca().args(["switch", "c", "direct", "--nic", "xdp:nowhere"]).output().unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("nowhere"));
    });
}
