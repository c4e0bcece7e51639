//! `cargo xtask bench direct`: the same Debian server natively behind a veth pair, and as a guest over each kind of
//! device, loaded by the same client of the host. In a network namespace of its own; needs root, ip, unshare and
//! nsenter.
//!
//! ```text
//!            ┌ veth pair ── native server, in a second namespace
//!  client ───┼ TAP queue ── guest that drives it itself                      "direct"
//!  of the    ├ AF_XDP on a veth pair ── guest that drives it itself          "direct"
//!  host      └ TAP queue ── network server ── rings ── guest                 "server"
//!  client as a guest ── wire ── guest                                        "direct"
//! ```
//!
//! Processor time is that of the serving side: the server's process, and in server mode the network's. What the
//! kernel does for a veth or TAP device on behalf of the client is the client's, on all sides alike.

use crate::bench::{Options, Result, parse, write_pages};
use crate::pair::{
    MEMCACHED, MEMCASLAP, NGINX, Place, Program, REDIS, REDIS_BENCHMARK, WRK, memcaslap, memcaslap_rate,
    redis_benchmark, redis_rate, wrk, wrk_rate,
};
use crate::process::{Bench, Network, Running};
use crate::report;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set in the namespace.
const INSIDE: &str = "ATTACCA_BENCH_INSIDE";

/// Runs it; without a word it is recorded in RESULTS.md.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        return enter(args);
    }
    let options = parse(args)?;
    let bench = Bench::new()?;
    write_pages(&bench)?;
    let far = Namespace::new()?;
    links(&far)?;
    let mut table = String::from(HEAD);
    for server in SERVERS {
        if options.only.is_empty() || options.only.iter().any(|o| o == server.program.name) {
            eprintln!("bench: {}", server.program.name);
            table += &measure(&bench, &options, &far, server)?;
        }
    }
    println!("{table}");
    if options.only.is_empty() {
        report::record_section(SECTION, &format!("{}\n{table}", words(&options)))?;
    }
    Ok(())
}

const SECTION: &str = "## Direct devices";

fn words(options: &Options) -> String {
    format!(
        "`cargo xtask bench direct`: a client of the host against one server at a time, {} rounds of {} s, medians; \
         requests/s, and in brackets microseconds of processor time of the serving side for a request. The native \
         server is behind a veth pair in a namespace of its own. *server* is the same guest behind the network server \
         with a TAP uplink. On the wire the client is a guest as well.\n",
        options.rounds, options.seconds
    )
}

const HEAD: &str = "| | native, veth | TAP direct | AF_XDP direct | TAP server | wire direct | server / direct (TAP) | \
                    AF_XDP / native, requests per CPU second |\n\
                    | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";

fn enter(args: &[String]) -> Result<()> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--"]).arg(own).args(["bench", "direct"]).args(args).env(INSIDE, "1");
    let status = command.status().map_err(|e| format!("unshare: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("the benchmark failed in its namespace (it needs root)".into())
    }
}

/// A second network namespace, as long as a process sleeps in it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Result<Namespace> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sleep", "100000"]).stdin(Stdio::null());
        let child = command.spawn().map_err(|e| format!("unshare: {e}"))?;
        let own = std::fs::read_link("/proc/self/ns/net").map_err(|e| e.to_string())?;
        let there = || std::fs::read_link(format!("/proc/{}/ns/net", child.id())).ok();
        while there().is_none_or(|there| there == own) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Namespace(child))
    }

    /// The same command, in there.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["-t", &self.0.id().to_string(), "-n", "--"]);
        inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        inside
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(words: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    command
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {errors}")) }
}

/// A network for each side: 10.10.N.0/24, the host is 1, the server 2.
fn links(far: &Namespace) -> Result<()> {
    let far_pid = far.0.id();
    for words in [
        "link set lo up",
        "link add n0 type veth peer name n1",
        &format!("link set n1 netns {far_pid}"),
        "address add 10.10.1.1/24 dev n0",
        "link set n0 up",
        "tuntap add bt mode tap",
        "address add 10.10.2.1/24 dev bt",
        "link set bt up",
        "link add x0 type veth peer name x1",
        "address add 10.10.3.1/24 dev x0",
        "link set x0 up",
        "link set x1 up",
        "tuntap add bs mode tap",
        "address add 10.10.4.1/24 dev bs",
        "link set bs up",
    ] {
        done(&mut ip(words))?;
    }
    for words in ["link set lo up", "address add 10.10.1.2/24 dev n1", "link set n1 up"] {
        done(&mut far.inside(&ip(words)))?;
    }
    Ok(())
}

/// A server and what is done to it.
struct Server {
    program: Program,
    arguments: fn(&Bench, u16) -> Vec<String>,
    loads: &'static [Load],
}

struct Load {
    title: &'static str,
    client: Program,
    arguments: fn(&Place<'_>) -> Vec<String>,
    read: fn(&str) -> Option<f64>,
}

const SERVERS: &[Server] = &[
    Server {
        program: NGINX,
        arguments: |bench, port| {
            let conf = bench.dir.join(format!("direct-{port}.conf"));
            // A missing file is nginx's to report.
            let _ = std::fs::write(&conf, crate::bench::nginx_conf(&bench.dir.display().to_string(), port));
            ["-e", "stderr", "-c", &conf.display().to_string()].map(String::from).to_vec()
        },
        loads: &[Load {
            title: "nginx 1 KiB, keep-alive, c=20",
            client: WRK,
            arguments: |place| wrk(place, "1k"),
            read: wrk_rate,
        }],
    },
    Server {
        program: REDIS,
        arguments: |_, port| {
            let port = port.to_string();
            let words = ["--port", &port, "--save", "", "--appendonly", "no", "--protected-mode", "no"];
            words.map(String::from).to_vec()
        },
        loads: &[
            Load {
                title: "redis GET, 50 clients",
                client: REDIS_BENCHMARK,
                arguments: |place| redis_benchmark(place, "get", 1),
                read: redis_rate,
            },
            Load {
                title: "redis GET, 50 clients, pipelined 16-fold",
                client: REDIS_BENCHMARK,
                arguments: |place| redis_benchmark(place, "get", 16),
                read: redis_rate,
            },
        ],
    },
    Server {
        program: MEMCACHED,
        arguments: |_, port| {
            ["-t", "4", "-U", "0", "-u", "root", "-p", &port.to_string()].map(String::from).to_vec()
        },
        loads: &[Load {
            title: "memcached -t 4, set:get 1:10, 32 B, 50 clients",
            client: MEMCASLAP,
            arguments: memcaslap,
            read: memcaslap_rate,
        }],
    },
];

/// How the server is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Native,
    Tap,
    Xdp,
    Server,
    Wire,
}

const WAYS: [Way; 5] = [Way::Native, Way::Tap, Way::Xdp, Way::Server, Way::Wire];

/// A running server at the end of a way.
struct Side<'a> {
    bench: &'a Bench,
    way: Way,
    host: String,
    port: u16,
    running: Running,
    network: Option<Network<'a>>,
}

impl<'a> Side<'a> {
    fn start(bench: &'a Bench, far: &Namespace, server: &Server, way: Way) -> Result<Side<'a>> {
        let number = way as u16 + 1;
        let (host, port) = (format!("10.10.{number}.2"), 8000 + number);
        let words = (server.arguments)(bench, port);
        let Program { package, name } = server.program;
        let guest = format!("direct-{name}-{number}");
        let volume = format!("{0}:{0}", bench.dir.display());
        let what = format!("debian:{package}:{name}");
        let (with_length, wire) = (format!("{host}/24"), format!("wire:bench-{}", std::process::id()));
        let mut network = None;
        let mut command = match way {
            Way::Native => far.inside(&bench.native(package, name)?),
            Way::Server => {
                let start = ["--uplink", "tap:bs", "--ip", "10.10.4.2/24", "--gateway", "10.10.4.1"];
                let started = Network::start_with(bench, "bench-direct", &start)?;
                let args = ["--net", &started.name, "--ip", &host, "--cpus", "1", "-v", &volume, &what];
                let command = bench.guest(&guest, &args);
                network = Some(started);
                command
            }
            Way::Tap | Way::Xdp | Way::Wire => {
                let nic = match way {
                    Way::Tap => "tap:bt",
                    Way::Xdp => "xdp:x1",
                    _ => &wire,
                };
                bench
                    .guest(&guest, &["--nic", nic, "--ip", &with_length, "--cpus", "1", "-v", &volume, &what])
            }
        };
        command.args(words);
        let running = bench.start(command, (way != Way::Native).then_some(&guest))?;
        let mut side = Side { bench, way, host, port, running, network };
        side.wait()?;
        Ok(side)
    }

    fn wait(&mut self) -> Result<()> {
        let begin = Instant::now();
        let address = format!("{}:{}", self.host, self.port);
        let answers = |way| match way {
            // Nobody but its one client can try.
            Way::Wire => begin.elapsed() > Duration::from_secs(2),
            _ => TcpStream::connect(&address).is_ok(),
        };
        while !answers(self.way) {
            self.running.still_runs()?;
            if begin.elapsed() > Duration::from_secs(20) {
                return Err(format!("nobody answers at {address}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.running.still_runs()
    }

    fn client(&self, load: &Load, seconds: u64) -> Result<Command> {
        let words = (load.arguments)(&Place { host: &self.host, port: self.port, seconds });
        let Program { package, name } = load.client;
        let mut command = match self.way {
            Way::Wire => {
                let (what, wire) =
                    (format!("debian:{package}:{name}"), format!("wire:bench-{}", std::process::id()));
                let args = ["--nic", &wire, "--ip", "10.10.5.1/24", "--cpus", "1", &what];
                self.bench.guest("direct-client", &args)
            }
            _ => self.bench.native(package, name)?,
        };
        command.args(words).stdin(Stdio::null());
        Ok(command)
    }

    /// Requests a second, and processor microseconds for each.
    fn load(&self, load: &Load, seconds: u64) -> Result<(f64, f64)> {
        let cpu = || self.running.cpu() + self.network.as_ref().map_or(0.0, Network::cpu);
        let (before, begin) = (cpu(), Instant::now());
        let client = crate::process::measured(&mut self.client(load, seconds)?)?;
        let (used, elapsed) = (cpu() - before, begin.elapsed().as_secs_f64());
        let rate = (load.read)(&client.words)
            .ok_or_else(|| format!("{} says no figure:\n{}", load.client.name, client.words))?;
        Ok((rate, used * 1e6 / (rate * elapsed)))
    }
}

/// The rows of one server's loads.
fn measure(bench: &Bench, options: &Options, far: &Namespace, server: &Server) -> Result<String> {
    let sides: Vec<Side<'_>> =
        WAYS.into_iter().map(|way| Side::start(bench, far, server, way)).collect::<Result<_>>()?;
    let mut rows = String::new();
    for load in server.loads {
        let mut results = vec![Vec::new(); sides.len()];
        // A first round of each warms caches and grows buffers, and does not count.
        for round in 0..=options.rounds {
            for (side, results) in sides.iter().zip(&mut results) {
                let done = side.load(load, options.seconds)?;
                if round > 0 {
                    results.push(done);
                }
            }
        }
        let medians: Vec<(f64, f64)> = results.iter().map(|results| medians(results)).collect();
        let cells: Vec<String> = medians.iter().map(|(rate, cpu)| format!("{rate:.0} ({cpu:.1})")).collect();
        let [native, tap, xdp, over_server] = [0, 1, 2, 3].map(|at| medians[at]);
        rows += &format!(
            "| {} | {} | {:.2} ({:.2} of its CPU) | {:.2} |\n",
            load.title,
            cells.join(" | "),
            over_server.0 / tap.0,
            over_server.1 / tap.1,
            native.1 / xdp.1
        );
    }
    Ok(rows)
}

fn medians(results: &[(f64, f64)]) -> (f64, f64) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (median(results.iter().map(|r| r.0).collect()), median(results.iter().map(|r| r.1).collect()))
}
