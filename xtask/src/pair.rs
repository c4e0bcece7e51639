//! Guest to guest through a network server against two native processes over loopback: both ends are
//! Debian's unmodified programs, on either side the same ones with the same arguments.
//!
//! Server and client of Attacca's side are guests of one named network, so that a request passes two
//! engines and the network server. A side's processor time is that of all its processes: server,
//! client, and on Attacca's side the network's.

use crate::bench::{Options, Result, Round, plain_row, rows_of};
use crate::process::{Bench, Network, Running, free_port};
use crate::report::Row;
use std::process::{Command, Stdio};
use std::time::Instant;

/// A program of a Debian package.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    pub(crate) package: &'static str,
    pub(crate) name: &'static str,
}

/// Where a client finds its server.
pub(crate) struct Place<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) seconds: u64,
}

/// One thing to do to a server.
struct Load {
    title: &'static str,
    client: Program,
    arguments: fn(&Place) -> Vec<String>,
    /// Reads the figure off what the client prints.
    read: fn(&str) -> Option<f64>,
    unit: Unit,
    /// How many times better than native it is meant to be.
    aim: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Requests a second; with the processor time of both ends and all between for one request.
    Requests,
    /// Anything else where more is better.
    More(&'static str),
    /// Anything where less is better.
    Less(&'static str),
}

/// A server and what is done to it.
struct Pair {
    server: Program,
    arguments: fn(&Bench, u16) -> Vec<String>,
    /// Files are needed: the bench's folder is there under its own name on both sides.
    loads: &'static [Load],
    /// It serves one client and ends.
    once: bool,
}

pub(crate) const REDIS: Program = Program { package: "redis-server", name: "redis-server" };
pub(crate) const REDIS_BENCHMARK: Program = Program { package: "redis-tools", name: "redis-benchmark" };
pub(crate) const MEMCACHED: Program = Program { package: "memcached", name: "memcached" };
pub(crate) const MEMCASLAP: Program = Program { package: "libmemcached-tools", name: "memcaslap" };
pub(crate) const NGINX: Program = Program { package: "nginx", name: "nginx" };
pub(crate) const WRK: Program = Program { package: "wrk", name: "wrk" };
const AB: Program = Program { package: "apache2-utils", name: "ab" };
const NETPIPE: Program = Program { package: "netpipe-tcp", name: "NPtcp" };
const IPERF: Program = Program { package: "iperf3", name: "iperf3" };

/// redis, guest to guest.
pub(crate) fn redis(bench: &Bench, options: &Options) -> Result<Vec<Row>> {
    const LOADS: &[Load] = &[
        Load {
            title: "redis SET, 50 clients",
            client: REDIS_BENCHMARK,
            arguments: |place| redis_benchmark(place, "set", 1),
            read: redis_rate,
            unit: Unit::Requests,
            aim: 3.0,
        },
        Load {
            title: "redis GET, 50 clients",
            client: REDIS_BENCHMARK,
            arguments: |place| redis_benchmark(place, "get", 1),
            read: redis_rate,
            unit: Unit::Requests,
            aim: 3.0,
        },
        Load {
            title: "redis SET, 50 clients, pipelined 16-fold",
            client: REDIS_BENCHMARK,
            arguments: |place| redis_benchmark(place, "set", 16),
            read: redis_rate,
            unit: Unit::Requests,
            aim: 1.5,
        },
        Load {
            title: "redis GET, 50 clients, pipelined 16-fold",
            client: REDIS_BENCHMARK,
            arguments: |place| redis_benchmark(place, "get", 16),
            read: redis_rate,
            unit: Unit::Requests,
            aim: 1.5,
        },
    ];
    let pair = Pair {
        server: REDIS,
        arguments: |_, port| {
            let port = port.to_string();
            let words = ["--port", &port, "--save", "", "--appendonly", "no", "--protected-mode", "no"];
            words.map(String::from).to_vec()
        },
        loads: LOADS,
        once: false,
    };
    run(bench, options, "redis", &pair)
}

/// A count that takes about the seconds asked for natively.
pub(crate) fn redis_benchmark(place: &Place, test: &str, pipeline: u64) -> Vec<String> {
    redis_requests(place, test, pipeline, place.seconds * if pipeline == 1 { 120_000 } else { 800_000 })
}

pub(crate) fn redis_requests(place: &Place, test: &str, pipeline: u64, count: u64) -> Vec<String> {
    let (port, count, pipeline) = (place.port.to_string(), count.to_string(), pipeline.to_string());
    let words =
        ["-h", place.host, "-p", &port, "-t", test, "-n", &count, "-c", "50", "-P", &pipeline, "--csv"];
    words.map(String::from).to_vec()
}

/// `"GET","137551.58",...` below a line of titles.
pub(crate) fn redis_rate(words: &str) -> Option<f64> {
    words.lines().nth(1)?.split(',').nth(1)?.trim_matches('"').parse().ok()
}

/// memcached, guest to guest.
pub(crate) fn memcached(bench: &Bench, options: &Options) -> Result<Vec<Row>> {
    const LOADS: &[Load] = &[Load {
        title: "memcached -t 4, set:get 1:10, 32 B, 50 clients",
        client: MEMCASLAP,
        arguments: memcaslap,
        read: memcaslap_rate,
        unit: Unit::Requests,
        aim: 3.0,
    }];
    let pair = Pair {
        server: MEMCACHED,
        arguments: |_, port| {
            ["-t", "4", "-U", "0", "-u", "root", "-p", &port.to_string()].map(String::from).to_vec()
        },
        loads: LOADS,
        once: false,
    };
    run(bench, options, "memcached", &pair)
}

pub(crate) fn memcaslap(place: &Place<'_>) -> Vec<String> {
    let (server, time) = (format!("{}:{}", place.host, place.port), format!("{}s", place.seconds));
    ["-s", &server, "-T", "1", "-c", "50", "-t", &time].map(String::from).to_vec()
}

pub(crate) fn memcaslap_rate(words: &str) -> Option<f64> {
    words.split_once("TPS: ")?.1.split_whitespace().next()?.parse().ok()
}

/// nginx, guest to guest.
pub(crate) fn nginx(bench: &Bench, options: &Options) -> Result<Vec<Row>> {
    const LOADS: &[Load] = &[
        Load {
            title: "nginx 1 KiB, keep-alive, c=20",
            client: WRK,
            arguments: |place| wrk(place, "1k"),
            read: wrk_rate,
            unit: Unit::Requests,
            aim: 3.0,
        },
        Load {
            title: "nginx 128 KiB, keep-alive, c=20",
            client: WRK,
            arguments: |place| wrk(place, "128k"),
            read: wrk_rate,
            unit: Unit::Requests,
            aim: 1.3,
        },
        Load {
            title: "nginx 1 KiB, a connection each, c=20",
            client: AB,
            arguments: |place| {
                let (seconds, url) =
                    (place.seconds.to_string(), format!("http://{}:{}/1k", place.host, place.port));
                ["-q", "-c", "20", "-t", &seconds, "-n", "10000000", &url].map(String::from).to_vec()
            },
            read: |words| {
                let rest = words.split_once("Requests per second:")?.1;
                let failed = words.split_once("Failed requests:")?.1.split_whitespace().next()?;
                (failed == "0").then_some(())?;
                rest.split_whitespace().next()?.parse().ok()
            },
            unit: Unit::Requests,
            aim: 4.0,
        },
    ];
    crate::bench::write_pages(bench)?;
    let pair = Pair {
        server: NGINX,
        arguments: |bench, port| {
            let conf = bench.dir.join(format!("pair-{port}.conf"));
            let text = crate::bench::nginx_conf(&bench.dir.display().to_string(), port);
            // A missing file is nginx's to report.
            let _ = std::fs::write(&conf, text);
            ["-e", "stderr", "-c", &conf.display().to_string(), "-g", ""].map(String::from).to_vec()
        },
        loads: LOADS,
        once: false,
    };
    run(bench, options, "nginx", &pair)
}

pub(crate) fn wrk(place: &Place, file: &str) -> Vec<String> {
    let (time, url) =
        (format!("-d{}s", place.seconds), format!("http://{}:{}/{file}", place.host, place.port));
    ["-t1", "-c20", &time, &url].map(String::from).to_vec()
}

pub(crate) fn wrk_rate(words: &str) -> Option<f64> {
    if words.contains("Socket errors") || words.contains("Non-2xx") {
        return None;
    }
    words.split_once("Requests/sec:")?.1.split_whitespace().next()?.parse().ok()
}

/// NetPIPE: the round trip of 64 bytes, the throughput of 512 KiB messages.
pub(crate) fn netpipe(bench: &Bench, options: &Options) -> Result<Vec<Row>> {
    const LOADS: &[Load] = &[
        Load {
            title: "NPtcp, 64 B",
            client: NETPIPE,
            arguments: |place| netpipe_words(place, "64", "20000"),
            read: |words| Some(netpipe_time(words)? * 2.0),
            unit: Unit::Less("round trip, µs"),
            aim: 3.0,
        },
        Load {
            title: "NPtcp, 512 KiB",
            client: NETPIPE,
            arguments: |place| netpipe_words(place, "524288", "1000"),
            read: |words| Some(524288.0 / netpipe_time(words)?),
            unit: Unit::More("MB/s"),
            aim: 2.0,
        },
    ];
    let pair = Pair {
        server: NETPIPE,
        // It has no option for the port; both sizes are told to both ends.
        arguments: |_, _| Vec::new(),
        loads: LOADS,
        once: true,
    };
    run(bench, options, "netpipe", &pair)
}

fn netpipe_words(place: &Place, bytes: &str, count: &str) -> Vec<String> {
    let mut words = Vec::new();
    if !place.host.is_empty() {
        words.extend(["-h", place.host].map(String::from));
    }
    words.extend(["-l", bytes, "-u", bytes, "-n", count, "-p", "0", "-o", "/dev/null"].map(String::from));
    words
}

/// `  0:      64 bytes  20000 times -->     29.25 Mbps in      16.70 usec`: one way.
fn netpipe_time(words: &str) -> Option<f64> {
    let line = words.lines().find(|line| line.contains("usec"))?;
    line.split_once(" in ")?.1.split_whitespace().next()?.parse().ok()
}

/// iperf3, one stream and eight.
pub(crate) fn iperf(bench: &Bench, options: &Options) -> Result<Vec<Row>> {
    const LOADS: &[Load] = &[
        Load {
            title: "iperf3, one stream",
            client: IPERF,
            arguments: |place| iperf_words(place, "1"),
            read: iperf_rate,
            unit: Unit::More("Gbit/s"),
            aim: 2.0,
        },
        Load {
            title: "iperf3, eight streams",
            client: IPERF,
            arguments: |place| iperf_words(place, "8"),
            read: iperf_rate,
            unit: Unit::More("Gbit/s"),
            aim: 2.0,
        },
    ];
    let pair = Pair {
        server: IPERF,
        arguments: |_, port| ["-s", "-p", &port.to_string()].map(String::from).to_vec(),
        loads: LOADS,
        once: false,
    };
    run(bench, options, "iperf3", &pair)
}

fn iperf_words(place: &Place, streams: &str) -> Vec<String> {
    let (port, seconds) = (place.port.to_string(), place.seconds.to_string());
    ["-c", place.host, "-p", &port, "-t", &seconds, "-P", streams, "-J"].map(String::from).to_vec()
}

fn iperf_rate(words: &str) -> Option<f64> {
    let received = words.split_once("\"sum_received\"")?.1;
    let rate = received.split_once("\"bits_per_second\":")?.1;
    Some(rate.split([',', '\n', '}']).next()?.trim().parse::<f64>().ok()? / 1e9)
}

fn run(bench: &Bench, options: &Options, name: &str, pair: &Pair) -> Result<Vec<Row>> {
    let (args, how): (&[&str], _) = match options.no_shortcuts {
        true => (&["--no-shortcuts"], "guest to guest through the server"),
        false => (&[], "guest to guest"),
    };
    let network = Network::start_with(bench, &format!("bench-{name}"), args)?;
    let port = if pair.once { 5002 } else { free_port() };
    let sides = [Side::native(bench, pair, port), Side::guest(bench, &network, name, pair, port)];
    let mut rows = Vec::new();
    let mut servers: Vec<Option<Running>> = vec![None, None];
    for load in pair.loads {
        let mut results = [Vec::new(), Vec::new()];
        // A first round of each warms caches and grows buffers, and does not count.
        for round in 0..=options.rounds {
            for (at, side) in sides.iter().enumerate() {
                if pair.once || servers[at].is_none() {
                    servers[at] = None;
                    servers[at] = Some(side.serve(load)?);
                }
                let server = servers[at].as_ref().ok_or("no server")?;
                let done = side.load(load, options.seconds, server)?;
                if round > 0 {
                    results[at].push(done);
                }
            }
        }
        rows.extend(match load.unit {
            Unit::Requests => rows_of(&format!("{}, {how}", load.title), &results, Some(load.aim)),
            Unit::More(unit) => {
                let row = plain_row(&format!("{}, {how}: {unit}", load.title), &results);
                vec![row.with_aim(load.aim)]
            }
            Unit::Less(unit) => {
                let row = plain_row(&format!("{}, {how}: {unit}", load.title), &results);
                vec![row.less_is_better().with_aim(load.aim)]
            }
        });
    }
    Ok(rows)
}

/// One of the two sides: how its programs are started.
struct Side<'a> {
    bench: &'a Bench,
    pair: &'a Pair,
    port: u16,
    network: Option<(&'a Network<'a>, String)>,
}

impl<'a> Side<'a> {
    fn native(bench: &'a Bench, pair: &'a Pair, port: u16) -> Side<'a> {
        Side { bench, pair, port, network: None }
    }

    fn guest(bench: &'a Bench, network: &'a Network<'a>, name: &str, pair: &'a Pair, port: u16) -> Side<'a> {
        Side { bench, pair, port, network: Some((network, format!("{name}-server"))) }
    }

    fn command(&self, program: Program, name: &str, words: &[String]) -> Result<Command> {
        let mut command = match &self.network {
            None => self.bench.native(program.package, program.name)?,
            Some((network, _)) => {
                let folder = format!("{0}:{0}", self.bench.dir.display());
                let what = format!("debian:{}:{}", program.package, program.name);
                let args = ["--net", &network.name, "--cpus", "1", "-v", &folder, &what];
                self.bench.guest(name, &args)
            }
        };
        command.args(words);
        Ok(command)
    }

    fn serve(&self, load: &Load) -> Result<Running> {
        let mut words = (self.pair.arguments)(self.bench, self.port);
        if self.pair.once {
            words = (load.arguments)(&Place { host: "", port: self.port, seconds: 0 });
        }
        let name = self.network.as_ref().map(|(_, name)| name.as_str());
        let command = self.command(self.pair.server, name.unwrap_or("native"), &words)?;
        let mut server = self.bench.start(command, name)?;
        match name {
            None => server.wait_for_listener(self.port)?,
            // A guest's port is not the host's.
            _ => std::thread::sleep(std::time::Duration::from_millis(700)),
        }
        server.still_runs()?;
        Ok(server)
    }

    fn load(&self, load: &Load, seconds: u64, server: &Running) -> Result<Round> {
        let host = self.network.as_ref().map_or("127.0.0.1", |(_, name)| name.as_str());
        let words = (load.arguments)(&Place { host, port: self.port, seconds });
        let mut command = self.command(load.client, "client", &words)?;
        command.stdin(Stdio::null());
        let network = self.network.as_ref().map(|(network, _)| *network);
        let before = server.cpu() + network.map_or(0.0, Network::cpu);
        let begin = Instant::now();
        let client = crate::process::measured(&mut command)?;
        let elapsed = begin.elapsed().as_secs_f64();
        let used = server.cpu() + network.map_or(0.0, Network::cpu) - before + client.cpu;
        let rate = (load.read)(&client.words)
            .ok_or_else(|| format!("{} says no figure:\n{}", load.client.name, client.words))?;
        Ok(Round { rate, cpu: used * 1e6 / (rate * elapsed) })
    }
}
