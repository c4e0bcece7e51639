//! Clients on the host, a server in a guest behind a TAP device, against the same server natively behind a veth
//! pair: what a host pays for each request in the processes of the server's side.
//!
//! All in two network namespaces of the bench's own. In the first are the clients, the TAP device and the network's
//! processes; in the second the native server, joined to the first by the veth pair. What the host's kernel
//! does for a packet counts for whoever runs at that moment, on both sides.

use crate::bench::{Options, Result, Round};
use crate::pair::{self, Place};
use crate::process::{Bench, Network, Running};
use crate::report::{Figure, Row};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TAP: &str = "bench0";
const GUEST: &str = "10.77.0.10";
const NATIVE: &str = "10.78.0.10";

/// Requests a second are never to be fewer, requests for a second of the server's processor twice as many.
const AIMS: [f64; 2] = [1.0, 2.0];

/// A server, its client, and where the client says how fast it was.
struct Load {
    title: &'static str,
    server: (&'static str, &'static str),
    words: fn(&Bench) -> Vec<String>,
    port: u16,
    client: (&'static str, &'static str),
    arguments: fn(&Place) -> Vec<String>,
    read: fn(&str) -> Option<f64>,
}

const LOADS: &[Load] = &[
    Load {
        title: "nginx 1 KiB, keep-alive, c=20, from the host over TAP",
        server: ("nginx", "nginx"),
        words: |bench| {
            let conf = bench.dir.join("tap.conf");
            // A missing file is nginx's to report.
            let _ = std::fs::write(&conf, crate::bench::nginx_conf(&bench.dir.display().to_string(), 8080));
            ["-e", "stderr", "-c", &conf.display().to_string(), "-g", ""].map(String::from).to_vec()
        },
        port: 8080,
        client: ("wrk", "wrk"),
        arguments: |place| pair::wrk(place, "1k"),
        read: pair::wrk_rate,
    },
    Load {
        title: "redis GET, 50 clients, from the host over TAP",
        server: ("redis-server", "redis-server"),
        words: |_| {
            let words = ["--port", "6390", "--save", "", "--appendonly", "no", "--protected-mode", "no"];
            words.map(String::from).to_vec()
        },
        port: 6390,
        client: ("redis-tools", "redis-benchmark"),
        // A host's stack is on the way on both sides: fewer than between guests.
        arguments: |place| pair::redis_requests(place, "get", 1, place.seconds * 40_000),
        read: pair::redis_rate,
    },
];

/// The rows.
pub(crate) fn run(bench: &Bench, options: &Options) -> Result<Vec<Row>> {
    crate::bench::write_pages(bench)?;
    let spaces = Namespaces::new()?;
    let start = ["--uplink", &format!("tap:{TAP}"), "--ip", &format!("{GUEST}/24"), "--gateway", "10.77.0.1"];
    let network = Network::start_wrapped(
        bench,
        "bench-tap",
        |command| spaces.inside(&spaces.clients, command),
        &start,
    )?;
    ip(&format!("-n {} address add 10.77.0.1/24 dev {TAP}", spaces.clients))?;
    ip(&format!("-n {} link set {TAP} up", spaces.clients))?;
    let mut rows = Vec::new();
    for load in LOADS {
        rows.extend(measure(bench, options, &spaces, &network, load)?);
    }
    Ok(rows)
}

fn measure(
    bench: &Bench,
    options: &Options,
    spaces: &Namespaces,
    network: &Network,
    load: &Load,
) -> Result<Vec<Row>> {
    let words = (load.words)(bench);
    let mut native = bench.native(load.server.0, load.server.1)?;
    native.args(&words);
    let native = bench.start(spaces.inside(&spaces.server, native), None)?;
    let folder = format!("{0}:{0}", bench.dir.display());
    let what = format!("debian:{}:{}", load.server.0, load.server.1);
    let mut guest = bench
        .guest(load.server.1, &["--net", &network.name, "--ip", GUEST, "--cpus", "1", "-v", &folder, &what]);
    guest.args(&words);
    let guest = bench.start(spaces.inside(&spaces.clients, guest), Some(load.server.1))?;
    std::thread::sleep(Duration::from_millis(2000));
    let mut sides = [(native, NATIVE, None), (guest, GUEST, Some(network))];
    let mut results = [Vec::new(), Vec::new()];
    // A first round of each warms caches and grows buffers, and does not count.
    for round in 0..=options.rounds {
        for ((server, host, network), results) in sides.iter_mut().zip(&mut results) {
            server.still_runs()?;
            let done = one(bench, options, spaces, load, (server, host, *network))?;
            if round > 0 {
                results.push(done);
            }
        }
    }
    let figure = |at: usize, of: fn(&Round) -> f64| Figure::of(results[at].iter().map(of).collect());
    let rate = |at| figure(at, |round| round.rate);
    let cost = |at| figure(at, |round| round.cpu);
    Ok(vec![
        Row::new(format!("{}: requests/s", load.title), rate(0), rate(1)).with_aim(AIMS[0]),
        Row::new(format!("{}: server CPU, µs/request", load.title), cost(0), cost(1))
            .less_is_better()
            .with_aim(AIMS[1]),
    ])
}

fn one(
    bench: &Bench,
    options: &Options,
    spaces: &Namespaces,
    load: &Load,
    (server, host, network): (&Running, &str, Option<&Network>),
) -> Result<Round> {
    let place = Place { host, port: load.port, seconds: options.seconds };
    let mut client = bench.native(load.client.0, load.client.1)?;
    client.args((load.arguments)(&place));
    let mut client = spaces.inside(&spaces.clients, client);
    client.stdin(Stdio::null());
    let cpu = || server.cpu() + network.map_or(0.0, Network::cpu);
    let (before, begin) = (cpu(), Instant::now());
    let done = crate::process::measured(&mut client)?;
    let (elapsed, used) = (begin.elapsed().as_secs_f64(), cpu() - before);
    let rate = (load.read)(&done.words)
        .ok_or_else(|| format!("{} says no figure:\n{}", load.client.1, done.words))?;
    Ok(Round { rate, cpu: used * 1e6 / (rate * elapsed) })
}

/// The two namespaces; gone when dropped.
struct Namespaces {
    clients: String,
    server: String,
}

impl Namespaces {
    fn new() -> Result<Namespaces> {
        let name = |what: &str| format!("attacca-bench-{}-{what}", std::process::id());
        let spaces = Namespaces { clients: name("clients"), server: name("server") };
        let Namespaces { clients, server } = &spaces;
        for space in [clients, server] {
            ip(&format!("netns add {space}"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        ip(&format!("-n {clients} link add veth0 type veth peer name veth1 netns {server}"))?;
        for (space, link, address) in [(clients, "veth0", "10.78.0.1"), (server, "veth1", NATIVE)] {
            ip(&format!("-n {space} address add {address}/24 dev {link}"))?;
            ip(&format!("-n {space} link set {link} up"))?;
        }
        Ok(spaces)
    }

    /// The same command, inside.
    fn inside(&self, space: &str, command: Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", space]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                inside.env(name, value);
            }
        }
        inside.stdin(Stdio::null());
        inside
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for space in [&self.clients, &self.server] {
            let _ = ip(&format!("netns delete {space}"));
        }
    }
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {words}: {} (root is needed)", String::from_utf8_lossy(&output.stderr))),
    }
}
