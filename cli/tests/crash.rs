//! A network server that dies at random moments, under load: nothing is lost, and nobody waits for long.
//!
//! Unmodified programs in guests talk over the server: questions and answers one at a time, a stream that fills every
//! buffer, each byte checked; nginx, redis and memcached under their load generators. The tests kill the server
//! (SIGKILL), stop it (SIGSTOP), have it panic, loop or block, replace it, and say how long a client heard nothing around
//! each of these moments, beside the same client while nothing happens. They assert no time.
//!
//! The long form, some ten minutes, with 1,000 crashes and 200 hangs under each kind of talk, optimised as a user's:
//! `ATTACCA_LONG=1 cargo test --release -p attacca --test crash -- --nocapture`.

#[path = "crash/blows.rs"]
mod blows;
mod support;
#[path = "crash/talk.rs"]
mod talk;

use blows::{Blow, Network, Random, deal, quiet};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{Guest, PATIENCE, alone, attacca, eventually, run_limited};
use talk::{Talk, run};

/// How long the client talks before anything happens.
const QUIET_MS: u64 = 1000;
/// A client that talks until it is told to end: how long the blows take is the machine's.
const UNTIL_TOLD_MS: u64 = 3_600_000;

fn long() -> bool {
    std::env::var_os("ATTACCA_LONG").is_some_and(|v| v == "1")
}

fn scaled(count: usize, long_count: usize) -> usize {
    if long() { long_count } else { count }
}

fn under_blows(name: &str, kind: &'static str, blows: &[(Blow, usize)]) {
    let _alone = alone();
    let network = Network::start(name);
    let total: usize = blows.iter().map(|(_, count)| count).sum();
    let mut talk = Talk::start(&network, kind, UNTIL_TOLD_MS);
    let mut random = Random(0x5eed ^ total as u64);
    let calm = quiet(QUIET_MS, &mut random);
    let dealt: Vec<_> =
        blows.iter().map(|&(blow, count)| (blow, deal(&network, blow, count, &mut random))).collect();
    let silences = talk.end_now();
    silences.report(&format!("{kind}, nothing happens"), &calm);
    for (blow, times) in dealt {
        silences.report(&format!("{kind}, {}", blow.name()), &times);
    }
    assert!(network.restarts() >= total as u64, "{}", network.status());
}

#[test]
fn questions_and_answers_survive_every_end_of_a_server() {
    let blows = [
        (Blow::Kill, scaled(60, 1000)),
        (Blow::Stop, scaled(10, 200)),
        (Blow::Panic, scaled(5, 50)),
        (Blow::Restart, scaled(5, 50)),
        (Blow::Upgrade, scaled(3, 20)),
        (Blow::Loop, scaled(2, 10)),
        (Blow::Block, scaled(2, 20)),
    ];
    under_blows("ping", "ping", &blows);
}

#[test]
fn a_full_stream_survives_crashes_and_hangs() {
    under_blows("stream", "stream", &[(Blow::Kill, scaled(30, 1000)), (Blow::Stop, scaled(10, 200))]);
}

#[test]
fn an_idle_connection_notices_nothing() {
    let _alone = alone();
    let network = Network::start("idle");
    let talk = Talk::start(&network, "idle", scaled(2500, 20_000) as u64);
    deal(&network, Blow::Kill, scaled(10, 100), &mut Random(3));
    talk.end();
}

// --- applications --------------------------------------------------------------------------------------

/// A server, what loads it, and how one sees that the load went well.
struct Application {
    name: &'static str,
    server: &'static [&'static str],
    up: fn(&Network) -> bool,
    clients: &'static [&'static [&'static str]],
    well: fn(&str) -> bool,
}

const NGINX: Application = Application {
    name: "nginx",
    server: &["debian:nginx", "-g", "daemon off;"],
    up: |network| asks(network, &["debian:curl", "-s", "http://nginx/"]),
    clients: &[&["debian:wrk", "-t1", "-c50", "-d2", "http://nginx/"]],
    well: |words| {
        words.contains("requests in") && !words.contains("Socket errors") && !words.contains("Non-2xx")
    },
};

const REDIS: Application = Application {
    name: "redis",
    server: &["debian:redis-server", "--save", "", "--protected-mode", "no"],
    up: |network| asks(network, &["debian:redis-tools:redis-cli", "-h", "redis", "ping"]),
    clients: &[
        &["debian:redis-tools:redis-benchmark", "-h", "redis", "-t", "get,set", "-n", "20000", "-q"],
        &[
            "debian:redis-tools:redis-benchmark",
            "-h",
            "redis",
            "-t",
            "get,set",
            "-n",
            "200000",
            "-P",
            "16",
            "-q",
        ],
    ],
    well: |words| words.contains("GET: ") && !words.contains("rror"),
};

const MEMCACHED: Application = Application {
    name: "memcached",
    server: &["debian:memcached", "-u", "root", "-U", "0"],
    up: |network| asks(network, &["debian:libmemcached-tools:memcping", "--servers=memcached"]),
    clients: &[&[
        "debian:libmemcached-tools:memcslap",
        "--servers=memcached:11211",
        "--concurrency=8",
        "--execute-number=500",
    ]],
    well: |words| words.contains("Time total"),
};

fn to_its_end(network: &Network, name: &str, program: &[&str]) -> Output {
    let head = ["run", "--cpus", "1", "--net", &network.0, "--name", name];
    run_limited(attacca().args(head).args(program), Duration::from_secs(120))
}

fn asks(network: &Network, program: &[&str]) -> bool {
    to_its_end(network, "asker", program).status.success()
}

impl Application {
    fn start(&self, network: &Network) -> Guest {
        let guest = run(network, self.name, self.server);
        assert!(eventually(PATIENCE, || (self.up)(network)), "{}: {}", self.name, guest.output());
        guest
    }

    /// Loads it until told to stop; how often.
    fn load(&'static self, network: &Network, stop: &Arc<AtomicBool>) -> JoinHandle<usize> {
        let (network, stop) = (Network(network.0.clone()), stop.clone());
        std::thread::spawn(move || {
            // Only a name here: who started the network takes it down.
            let network = std::mem::ManuallyDrop::new(network);
            let mut runs = 0;
            while !stop.load(Ordering::Relaxed) || runs < self.clients.len() {
                // A name of its own each: the record of the one before may be looked at by another that starts.
                let name = format!("{}-load-{runs}", self.name);
                let output = to_its_end(&network, &name, self.clients[runs % self.clients.len()]);
                let words = [&output.stdout[..], &output.stderr[..]].concat();
                let words = String::from_utf8_lossy(&words);
                assert!(output.status.success() && (self.well)(&words), "{}: {words}", self.name);
                runs += 1;
            }
            runs
        })
    }
}

fn applications(name: &str, apps: &'static [Application], crashes: usize, hangs: usize) {
    let _alone = alone();
    let network = Network::start(name);
    let servers: Vec<Guest> = apps.iter().map(|app| app.start(&network)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = apps.iter().map(|app| app.load(&network, &stop)).collect();
    let mut talk = Talk::start(&network, "ping", UNTIL_TOLD_MS);
    let mut random = Random(crashes as u64);
    let calm = quiet(QUIET_MS, &mut random);
    let killed = deal(&network, Blow::Kill, crashes, &mut random);
    let stopped = deal(&network, Blow::Stop, hangs, &mut random);
    stop.store(true, Ordering::Relaxed);
    for (app, load) in apps.iter().zip(loads) {
        let runs = load.join().unwrap_or_else(|_| panic!("{} was disturbed; {}", app.name, network.status()));
        println!("{}: {runs} runs of its load generator without an error", app.name);
    }
    let silences = talk.end_now();
    silences.report(&format!("ping beside {name}, nothing happens"), &calm);
    silences.report(&format!("ping beside {name}, crashes"), &killed);
    silences.report(&format!("ping beside {name}, hangs"), &stopped);
    for mut server in servers {
        assert!(!server.ended(), "{}", server.output());
    }
}

#[test]
fn nginx_and_redis_at_once_survive() {
    static APPS: [Application; 2] = [NGINX, REDIS];
    applications("nginx-redis", &APPS, scaled(30, 1000), scaled(5, 200));
}

#[test]
fn memcached_survives() {
    static APPS: [Application; 1] = [MEMCACHED];
    applications("memcached", &APPS, scaled(15, 300), scaled(3, 50));
}

// --- what is no hang, and the supervisor's own end -----------------------------------------------------

/// Threads that burn processor time until dropped, for some seconds at most.
struct Burners(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Burners {
    fn start(count: usize) -> Burners {
        let stop = Arc::new(AtomicBool::new(false));
        let end = Instant::now() + Duration::from_secs(30);
        let burn = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) && Instant::now() < end {})
        };
        let threads = (0..count).map(burn).collect();
        Burners(stop, threads)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[test]
fn a_server_that_lacks_a_processor_is_not_replaced() {
    let _alone = alone();
    let network = Network::start("loaded");
    let ms = scaled(4000, 30_000) as u64;
    let stream = Talk::start(&network, "stream", ms);
    let ping = Talk::start(&network, "ping", ms);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let burners = Burners::start(6 * cores);
    let pid = network.status()["pid"].clone();
    std::thread::sleep(Duration::from_millis(ms));
    let status = network.status();
    assert_eq!((&status["pid"], &status["restarts"]), (&pid, &0.into()), "{status}");
    drop(burners);
    ping.end();
    stream.end();
    assert_eq!(network.restarts(), 0, "{}", network.status());
}

#[test]
fn connections_outlive_the_supervisor() {
    let _alone = alone();
    let network = Network::start("orphans");
    let rounds = scaled(3, 20);
    let talk = Talk::start(&network, "ping", rounds as u64 * 1200 + QUIET_MS);
    let mut random = Random(9);
    let mut times = Vec::new();
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(random.below(300)));
        let pid = network.status()["supervisor"].as_i64().unwrap() as i32;
        let time = blows::now_ns();
        times.push((time, time));
        // SAFETY: the supervisor of a network that this test started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        let gone = || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
        assert!(eventually(PATIENCE, gone));
        network.say(&["start"]);
        let back = || {
            let status = network.status();
            status["state"] == "running" && status["guests"].as_array().unwrap().len() == 2
        };
        assert!(eventually(PATIENCE, back), "{}", network.status());
    }
    deal(&network, Blow::Kill, 3, &mut random);
    assert!(talk.server.output().contains("supervisor is gone"), "{}", talk.server.output());
    talk.end().report("ping, adoptions", &times);
}
