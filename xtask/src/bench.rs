//! `cargo xtask bench`: the same Debian binaries natively and as guests. For each workload both sides run
//! at once and are loaded in turn, round by round; what counts is each side's median. A guest's processor
//! time is that of all its processes: the guest, its network server, and the supervisor.

use crate::process::{Bench, Running, free_port};
use crate::report::{self, Figure, Row};
use crate::{client, pair, tap};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) type Result<T> = std::result::Result<T, String>;

/// What the command line says.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) only: Vec<String>,
    /// Where to draw what was run.
    plot: Option<String>,
    /// Frames between guests go over the network server.
    pub(crate) no_shortcuts: bool,
}

/// Runs the workloads, prints the figures, and records them if all were run.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    let bench = Bench::new()?;
    let workloads: [(&str, Workload); 12] = [
        ("start", start),
        ("memory", memory),
        ("nginx-1k", |b, o| nginx(b, o, "1k", true)),
        ("nginx-128k", |b, o| nginx(b, o, "128k", true)),
        ("nginx-new", |b, o| nginx(b, o, "1k", false)),
        ("memcached", memcached),
        ("pair-redis", pair::redis),
        ("pair-memcached", pair::memcached),
        ("pair-nginx", pair::nginx),
        ("pair-netpipe", pair::netpipe),
        ("pair-iperf3", pair::iperf),
        ("tap", tap::run),
    ];
    if let Some(unknown) = options.only.iter().find(|name| workloads.iter().all(|(n, _)| n != name)) {
        return Err(format!("no workload is called '{unknown}'"));
    }
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (name, workload) in workloads {
        if options.only.is_empty() || options.only.iter().any(|o| o == name) {
            eprintln!("bench: {name}");
            // Each tells what it has when it has it, and one that fails does not keep the others.
            match workload(&bench, &options) {
                Ok(done) => {
                    println!("{}", report::table(&done));
                    rows.extend(done);
                }
                Err(why) => {
                    eprintln!("bench: {name}: {why}");
                    failures.push(name);
                }
            }
        }
    }
    if let Some(path) = &options.plot {
        fs::write(path, crate::plot::draw(&rows)).map_err(|error| format!("{path}: {error}"))?;
    }
    if !failures.is_empty() {
        return Err(format!("not measured: {}", failures.join(", ")));
    }
    if options.only.is_empty() {
        report::record(&rows, options.rounds, options.seconds)?;
    }
    Ok(())
}

pub(crate) fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options { rounds: 5, seconds: 4, only: Vec::new(), plot: None, no_shortcuts: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse().ok()).ok_or(format!("{arg} needs a number"));
        match arg.as_str() {
            "--rounds" => options.rounds = number()?,
            "--plot" => options.plot = Some(args.next().ok_or("--plot needs a file")?.clone()),
            "--no-shortcuts" => options.no_shortcuts = true,
            "--seconds" => options.seconds = number()? as u64,
            name => options.only.push(name.into()),
        }
    }
    Ok(options)
}

type Workload = fn(&Bench, &Options) -> Result<Vec<Row>>;

/// What one round of load gave.
pub(crate) struct Round {
    /// Requests a second, or whatever else is counted.
    pub(crate) rate: f64,
    /// Processor microseconds of the measured processes for each request.
    pub(crate) cpu: f64,
}

/// Loads both sides in turn.
fn alternate(
    rounds: usize,
    sides: [(&Running, u16); 2],
    mut load: impl FnMut(u16) -> Result<(u64, f64)>,
) -> Result<[Vec<Round>; 2]> {
    let mut results = [Vec::new(), Vec::new()];
    // A first round of each warms caches and grows buffers, and does not count.
    for round in 0..=rounds {
        for (side, result) in sides.iter().zip(&mut results) {
            let (running, port) = side;
            let before = running.cpu();
            let (requests, seconds) = load(*port)?;
            let used = running.cpu() - before;
            if requests == 0 {
                return Err("no request was answered".into());
            }
            if round > 0 {
                result.push(Round { rate: requests as f64 / seconds, cpu: used * 1e6 / requests as f64 });
            }
        }
    }
    Ok(results)
}

pub(crate) fn rows_of(name: &str, [native, guest]: &[Vec<Round>; 2], aim: Option<f64>) -> Vec<Row> {
    let rates = |side: &[Round]| Figure::of(side.iter().map(|r| r.rate).collect());
    let cpus = |side: &[Round]| Figure::of(side.iter().map(|r| r.cpu).collect());
    let rate = Row::new(format!("{name}: requests/s"), rates(native), rates(guest));
    let cost = Row::new(format!("{name}: CPU, µs/request"), cpus(native), cpus(guest));
    vec![aimed(rate, aim), cost.less_is_better()]
}

/// A figure without a cost.
pub(crate) fn plain_row(name: &str, [native, guest]: &[Vec<Round>; 2]) -> Row {
    let figure = |side: &[Round]| Figure::of(side.iter().map(|r| r.rate).collect());
    Row::new(name.into(), figure(native), figure(guest))
}

pub(crate) fn aimed(row: Row, aim: Option<f64>) -> Row {
    match aim {
        Some(aim) => row.with_aim(aim),
        None => row,
    }
}

fn memory_row(name: &str, native: &Running, guest: &Running) -> Vec<Row> {
    let ((native, _), (guest, network)) = (native.resident(), guest.resident());
    let mib = |kib: u64| Figure::of(vec![kib as f64 / 1024.0]);
    vec![
        Row::new(format!("{name}: resident MiB, program's process"), mib(native), mib(guest))
            .less_is_better(),
        Row::new(
            format!("{name}: resident MiB, with its network's processes"),
            mib(native),
            mib(guest + network),
        )
        .less_is_better(),
    ]
}

/// From spawn to exit of a program that does nothing.
fn start(bench: &Bench, options: &Options) -> Result<Vec<Row>> {
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..=options.rounds * 8 {
        let kinds: [Command; 3] = [
            Command::new("/bin/true"),
            bench.guest("start-alone", &["--net", "none", "/bin/true"]),
            bench.guest("start-network", &["/bin/true"]),
        ];
        for (mut command, times) in kinds.into_iter().zip(&mut times) {
            let begin = Instant::now();
            let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    // The first of each fills caches.
    let [native, alone, network] = times.map(|t| Figure::of(t[1..].to_vec()));
    Ok(vec![
        Row::new("/bin/true, start to end: ms, without a network".into(), native.clone(), alone)
            .less_is_better(),
        Row::new("/bin/true, start to end: ms, with its own network".into(), native, network)
            .less_is_better(),
    ])
}

/// A program that does nothing, resident.
fn memory(bench: &Bench, _: &Options) -> Result<Vec<Row>> {
    let mut sleep = Command::new("/bin/sleep");
    sleep.arg("1000");
    let native = bench.start(sleep, None)?;
    let guest = bench.start(bench.guest("memory", &["/bin/sleep", "1000"]), Some("memory"))?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(memory_row("/bin/sleep", &native, &guest))
}

fn nginx(bench: &Bench, options: &Options, file: &str, keep_alive: bool) -> Result<Vec<Row>> {
    write_pages(bench)?;
    let (native_port, guest_port) = (free_port(), free_port());
    let dir = bench.dir.display();
    for (name, port) in [("native.conf", native_port), ("guest.conf", 80)] {
        fs::write(bench.dir.join(name), nginx_conf(&dir.to_string(), port)).map_err(|e| e.to_string())?;
    }
    let mut command = bench.native("nginx", "nginx")?;
    command.args(["-e", "stderr", "-c"]).arg(bench.dir.join("native.conf"));
    let mut native = bench.start(command, None)?;
    let publish = format!("127.0.0.1:{guest_port}:80");
    let volume = format!("{dir}:{dir}");
    let conf = format!("{dir}/guest.conf");
    let name = format!("nginx-{file}-{}", if keep_alive { "keep" } else { "new" });
    let args = ["-p", &publish, "-v", &volume, "debian:nginx", "-e", "stderr", "-c", &conf];
    let mut guest = bench.start(bench.guest(&name, &args), Some(&name))?;
    native.wait_for(native_port)?;
    guest.wait_for(guest_port)?;
    let sides = [(&native, native_port), (&guest, guest_port)];
    let results = alternate(options.rounds, sides, |port| {
        let url = format!("http://127.0.0.1:{port}/{file}");
        if keep_alive { wrk(bench, &url, options.seconds) } else { ab(bench, &url, options.seconds) }
    })?;
    let how = if keep_alive { "keep-alive" } else { "a connection each" };
    let title = format!("nginx {}, {how}, c=20", file.replace('k', " KiB"));
    let mut rows = rows_of(&title, &results, None);
    rows.extend(memory_row(&format!("after {title}"), &native, &guest));
    Ok(rows)
}

/// The files that nginx serves.
pub(crate) fn write_pages(bench: &Bench) -> Result<()> {
    let www = bench.dir.join("www");
    fs::create_dir_all(&www).map_err(|e| e.to_string())?;
    for (name, size) in [("1k", 1 << 10), ("128k", 128 << 10)] {
        fs::write(www.join(name), vec![b'x'; size]).map_err(|e| e.to_string())?;
    }
    Ok(())
}

pub(crate) fn nginx_conf(dir: &str, port: u16) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.iter().map(|t| format!("  {t}_temp_path {dir}/{t};\n")).collect();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/{port}.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
{temporary}  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;
  server {{ listen {port}; root {dir}/www; }}
}}
"
    )
}

/// Answers (requests, seconds).
fn wrk(bench: &Bench, url: &str, seconds: u64) -> Result<(u64, f64)> {
    let mut wrk = bench.native("wrk", "wrk")?;
    let words = output_of(wrk.args(["-t1", "-c20", &format!("-d{seconds}s"), url]))?;
    if words.contains("Socket errors") || words.contains("Non-2xx") {
        return Err(words);
    }
    let line = words.lines().find(|l| l.contains(" requests in ")).ok_or("wrk says nothing")?;
    let (requests, rest) = line.trim().split_once(" requests in ").ok_or("wrk speaks otherwise")?;
    let seconds = rest.split(',').next().and_then(|s| s.strip_suffix('s')?.parse().ok());
    Ok((requests.parse().map_err(|_| line)?, seconds.ok_or(line)?))
}

fn ab(bench: &Bench, url: &str, seconds: u64) -> Result<(u64, f64)> {
    let mut ab = bench.native("apache2-utils", "ab")?;
    // -t alone stops at 50,000 requests.
    let words = output_of(ab.args(["-q", "-c", "20", "-t", &seconds.to_string(), "-n", "10000000", url]))?;
    let field = |name: &str| -> Result<f64> {
        let line = words.lines().find_map(|l| l.strip_prefix(name)).ok_or(format!("no '{name}' from ab"))?;
        line.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).ok_or(line.into())
    };
    if field("Failed requests:")? != 0.0 || words.contains("Non-2xx") {
        return Err(words);
    }
    Ok((field("Complete requests:")? as u64, field("Time taken for tests:")?))
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| e.to_string())?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(words);
    }
    Err(format!("{words}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn memcached(bench: &Bench, options: &Options) -> Result<Vec<Row>> {
    let (native_port, guest_port) = (free_port(), free_port());
    let mut command = bench.native("memcached", "memcached")?;
    command.args(["-t", "4", "-U", "0", "-u", "root", "-l", "127.0.0.1", "-p", &native_port.to_string()]);
    let mut native = bench.start(command, None)?;
    let publish = format!("127.0.0.1:{guest_port}:11211");
    let args = ["-p", &publish, "debian:memcached", "-t", "4", "-U", "0"];
    let mut guest = bench.start(bench.guest("memcached", &args), Some("memcached"))?;
    native.wait_for(native_port)?;
    guest.wait_for(guest_port)?;
    let mut rows = Vec::new();
    for connections in [1, 20, 50] {
        let sides = [(&native, native_port), (&guest, guest_port)];
        let results = alternate(options.rounds, sides, |port| {
            let outcome = client::load(port, connections, Duration::from_secs(options.seconds));
            outcome.map(|o| (o.requests, o.seconds)).map_err(|e| e.to_string())
        })?;
        rows.extend(rows_of(&format!("memcached -t 4, set:get 1:10, 32 B, c={connections}"), &results, None));
    }
    rows.extend(memory_row("after memcached", &native, &guest));
    Ok(rows)
}
