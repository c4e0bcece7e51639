//! Live switches under load, seen by clients on the host: guests of a network with a TAP uplink are moved between the
//! server and a queue of their own at random moments, while a load generator and a checking client are busy
//! with them. In a network namespace of its own; needs root, `ip`, and a fresh /sys (the kernel's count of queues).
//!
//! Twenty switches for each load; `ATTACCA_LONG=1` makes a thousand. No time is asserted: the longest silence that
//! the client saw is printed, beside that of equally long times without a switch (`--nocapture`).

mod direct;
mod support;

use direct::namespace::inside;
use direct::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::*;

/// What is done to a guest.
struct Load {
    what: &'static str,
    guest: Vec<String>,
    address: &'static str,
    /// A load generator of Debian's: package, program, arguments.
    generator: Option<(&'static str, &'static str, Vec<&'static str>)>,
    /// Whether it saw nothing wrong.
    unharmed: fn(&str) -> bool,
}

/// Switches under the load until there were enough, and prints what the client saw.
fn check(load: Load, exchange: impl FnMut(&mut TcpStream, u64) + Send + 'static) {
    let network = Network::start(&[]);
    let words: Vec<&str> = load.guest.iter().map(String::as_str).collect();
    let guest = Guest::start(&[&["--name", "g", "--net", NET, "--cpus", "1"], &words[..]].concat());
    wait_for(load.address);
    let stop = Arc::new(AtomicBool::new(false));
    let asking = client(load.address, &stop, exchange);
    let (mut random, mut windows, mut direct) = (Random(0x5eed), Windows::default(), true);
    while windows.switching.len() < rounds(20) {
        let mut running = load.generator.as_ref().map(|(package, program, arguments)| {
            let mut command = native(package, program);
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        });
        while windows.switching.len() < rounds(20)
            && running.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(None)))
        {
            windows.switch("g", direct, &mut random);
            direct = !direct;
        }
        if let Some(output) = running.map(|child| child.wait_with_output().unwrap()) {
            let words = said(&output);
            assert!(output.status.success() && (load.unharmed)(&words), "{words}\n{}", guest.output());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let answers = asking.join().unwrap();
    tell(&format!("{}, switching", load.what), &silences(&answers, &windows.switching));
    tell(&format!("{}, not switching", load.what), &silences(&answers, &windows.quiet));
    let known = network.guest("g");
    assert_eq!(known["counters"]["switches"], windows.switching.len(), "{known}");
    let frames = |mode: &str| known["counters"][mode]["frames_received"].as_u64().unwrap();
    assert!(frames("direct") > 0 && frames("server") > 0, "{known}");
    let log = network.log();
    assert!(!log.contains("error") && !log.contains("lost its direct"), "{log}");
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| word.to_string()).collect()
}

const WEB: [&str; 2] = ["nginx", "wrk"];
const STORE: [&str; 2] = ["redis-server", "redis-tools"];

fn nginx(what: &'static str, body: usize) {
    let www = scratch(&format!("switch-www-{body}"));
    std::fs::write(www.join("data"), pattern(body)).unwrap();
    let volume = format!("{}:/var/www/html:ro", www.display());
    let load = Load {
        what,
        guest: words(&["--ip", "10.9.0.20", "-v", &volume, "debian:nginx", "-g", "daemon off;"]),
        address: "10.9.0.20:80",
        generator: Some(("wrk", "wrk", vec!["-c", "50", "-t", "1", "-d", "4", "http://10.9.0.20/data"])),
        unharmed: |words| {
            words.contains("requests in") && !words.contains("Socket errors") && !words.contains("Non-2xx")
        },
    };
    check(load, http_exchange("10.9.0.20:80", body));
}

fn http_exchange(address: &'static str, body: usize) -> impl FnMut(&mut TcpStream, u64) + Send + 'static {
    let whole = pattern(body);
    move |stream, number| {
        if number % 900 == 899 {
            // nginx ends a connection after a thousand requests (keepalive_requests).
            *stream = connect(address);
        }
        stream.write_all(b"GET /data HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 65536];
        let mut end: Option<usize> = None;
        while end.is_none_or(|end| answer.len() < end + whole.len()) {
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "nginx closed the connection");
            answer.extend_from_slice(&buffer[..count]);
            end = end.or_else(|| answer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4));
        }
        assert!(answer[end.unwrap()..] == whole[..], "wrong bytes");
    }
}

#[test]
fn nginx_1k() {
    inside_with(&WEB, "nginx_1k", || nginx("nginx 1 KiB, wrk -c 50", 1024));
}

#[test]
fn nginx_128k() {
    inside_with(&WEB, "nginx_128k", || nginx("nginx 128 KiB, wrk -c 50", 128 * 1024));
}

fn redis(what: &'static str, pipeline: &'static str, count: &'static str) {
    let arguments =
        vec!["-h", "10.9.0.21", "-t", "set,get", "-c", "50", "-P", pipeline, "-n", count, "--csv"];
    let load = Load {
        what,
        guest: words(&["--ip", "10.9.0.21", "debian:redis-server", "--save", "", "--protected-mode", "no"]),
        address: "10.9.0.21:6379",
        generator: Some(("redis-tools", "redis-benchmark", arguments)),
        unharmed: |words| words.contains("\"GET\"") && !words.to_lowercase().contains("error"),
    };
    check(load, |stream, number| {
        let (key, value) = (number % 64, number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string());
        let request = format!("SET k{key} {value}\r\nGET k{key}\r\n");
        ask(stream, request.as_bytes(), format!("+OK\r\n${}\r\n{value}\r\n", value.len()).as_bytes());
    });
}

#[test]
fn redis_one_by_one() {
    inside_with(&STORE, "redis_one_by_one", || redis("redis, redis-benchmark -P 1", "1", "60000"));
}

#[test]
fn redis_pipelined() {
    inside_with(&STORE, "redis_pipelined", || redis("redis, redis-benchmark -P 16", "16", "400000"));
}

#[test]
fn memcached() {
    inside_with(&["memcached", "libmemcached-tools"], "memcached", || {
        let load = Load {
            what: "memcached, memcaslap -c 50",
            // More than the default of 64 MiB, which four seconds of sets on a quiet machine fill: what is evicted is a miss.
            guest: words(&["--ip", "10.9.0.22", "debian:memcached", "-u", "root", "-t", "2", "-m", "1024"]),
            address: "10.9.0.22:11211",
            generator: Some((
                "libmemcached-tools",
                "memcaslap",
                vec!["-s", "10.9.0.22:11211", "-T", "1", "-c", "50", "-t", "4s"],
            )),
            unharmed: |words| words.contains("TPS:") && words.contains("get_misses: 0"),
        };
        check(load, memcached_exchange);
    });
}

fn memcached_exchange(stream: &mut TcpStream, number: u64) {
    let (key, value) = (number % 64, number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string());
    let len = value.len();
    let request = format!("set k{key} 0 0 {len}\r\n{value}\r\nget k{key}\r\n");
    let want = format!("STORED\r\nVALUE k{key} 0 {len}\r\n{value}\r\nEND\r\n");
    ask(stream, request.as_bytes(), want.as_bytes());
}

#[test]
fn a_checked_stream_each_way() {
    inside("a_checked_stream_each_way", || {
        let peer = peer();
        let network = Network::start(&[]);
        let words = ["--name", "g", "--net", NET, "--cpus", "1", "--ip", "10.9.0.23"];
        let guest = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
        wait_for("10.9.0.23:7000");
        let stop = Arc::new(AtomicBool::new(false));
        let down = stream_from("10.9.0.23:7000", &stop);
        let up = stream_to("10.9.0.23:7000", &stop);
        let (mut random, mut windows) = (Random(0xbeef), Windows::default());
        for round in 0..rounds(40) {
            windows.switch("g", round % 2 == 0, &mut random);
        }
        stop.store(true, Ordering::Relaxed);
        let ((down, downs), (up, ups)) = (down.join().unwrap(), up.join().unwrap());
        eprintln!("{downs} bytes down, {ups} bytes up (modulo 2^32)");
        for (what, moments) in [("stream from the guest", &down), ("stream to the guest", &up)] {
            tell(&format!("{what}, switching"), &silences(moments, &windows.switching));
            tell(&format!("{what}, not switching"), &silences(moments, &windows.quiet));
        }
        assert_eq!(network.guest("g")["counters"]["switches"], windows.switching.len(), "{}", guest.output());
    });
}

/// iperf3 itself, each way at once.
#[test]
fn iperf3() {
    inside_with(&["iperf3"], "iperf3", || {
        let _network = Network::start(&[]);
        let words = ["--name", "g", "--net", NET, "--cpus", "1", "--ip", "10.9.0.24"];
        let guest = Guest::start(&[&words[..], &["debian:iperf3", "-s", "--forceflush"]].concat());
        // Not by connecting: iperf3 takes that for a test, and resets who comes while it finds out.
        assert!(eventually(PATIENCE, || guest.output().contains("Server listening")), "{}", guest.output());
        let seconds = if rounds(1) == 1 { "3" } else { "30" };
        let mut command: Command = native("iperf3", "iperf3");
        command.args(["-c", "10.9.0.24", "-t", seconds, "--bidir", "-J"]);
        let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut random, mut windows, mut direct) = (Random(7), Windows::default(), true);
        while matches!(running.try_wait(), Ok(None)) {
            windows.switch("g", direct, &mut random);
            direct = !direct;
            std::thread::sleep(Duration::from_millis(random.below(20)));
        }
        let output = running.wait_with_output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success() && report.get("error").is_none(), "{}", said(&output));
        let rate = |key: &str| report["end"][key]["bits_per_second"].as_f64().unwrap() / 1e9;
        eprintln!(
            "iperf3 with {} switches: {:.2} Gbit/s to the guest, {:.2} from it",
            windows.switching.len(),
            rate("sum_received"),
            rate("sum_received_bidir_reverse")
        );
    });
}

/// The server is killed, stopped and replaced while guests change over, before, in the middle and behind.
#[test]
fn servers_end_while_guests_are_switched() {
    inside_with(&["nginx", "memcached"], "servers_end_while_guests_are_switched", || {
        let network = Network::start(&[]);
        let www = scratch("switch-www-ends");
        std::fs::write(www.join("data"), pattern(1024)).unwrap();
        let volume = format!("{}:/var/www/html:ro", www.display());
        let web = ["--name", "web", "--net", NET, "--cpus", "1", "--ip", "10.9.0.20", "-v", &volume];
        let _web = Guest::start(&[&web[..], &["debian:nginx", "-g", "daemon off;"]].concat());
        let cache = ["--name", "cache", "--net", NET, "--cpus", "1", "--ip", "10.9.0.21"];
        let _cache = Guest::start(&[&cache[..], &["debian:memcached", "-u", "root"]].concat());
        wait_for("10.9.0.20:80");
        wait_for("10.9.0.21:11211");
        let stop = Arc::new(AtomicBool::new(false));
        let http = client("10.9.0.20:80", &stop, http_exchange("10.9.0.20:80", 1024));
        let store = client("10.9.0.21:11211", &stop, memcached_exchange);
        let rounds = if std::env::var_os("ATTACCA_LONG").is_some() { 100 } else { 10 };
        for round in 0..rounds {
            for (guest, direct) in [("web", true), ("cache", true), ("web", false), ("cache", false)] {
                let pid = network.status()["pid"].as_i64().unwrap_or(0) as i32;
                let switching = std::thread::spawn(move || switch(guest, direct));
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
        let status = network.status();
        eprintln!("{} and {} checked answers over {} ends", http.len(), store.len(), status["restarts"]);
        assert!(http.len() > 10 && store.len() > 10 && status["restarts"].as_u64() > Some(10), "{status}");
        let explained = explain("web");
        assert!(explained.contains(&format!("{} switches", 2 * rounds)), "{explained}\n{}", network.log());
    });
}
