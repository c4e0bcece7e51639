//! `cargo xtask outage`: requests a second of two applications at once while their network server is killed, stopped and
//! upgraded, and while both are switched to queues of their own and back; compat-tests/bench/outage.svg.
//!
//! nginx and redis are guests of one network behind a TAP device, in a network namespace that ends with this program;
//! their clients are on the host's side of it. Every answer is checked and has its time. Needs root.

use crate::bench::{Result, nginx_conf, write_pages};
use crate::process::{Bench, Running, workspace};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const NET: &str = "outage";
const HOST: &str = "10.9.0.1";
/// Connections to each application, one request at a time on each.
const CONNECTIONS: usize = 8;
/// Time for which answers are counted together.
const BIN_MS: u64 = 20;

/// What is done to both applications.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Kill,
    Stop,
    Upgrade,
    Direct,
    Server,
}

const EVENTS: [(u64, Event); 14] = [
    (1000, Event::Kill),
    (1500, Event::Kill),
    (2000, Event::Kill),
    (2500, Event::Kill),
    (3000, Event::Kill),
    (4000, Event::Stop),
    (4500, Event::Stop),
    (5000, Event::Stop),
    (6000, Event::Upgrade),
    (7000, Event::Direct),
    (7500, Event::Server),
    (8000, Event::Direct),
    (8500, Event::Server),
    (9000, Event::Direct),
];
const END_MS: u64 = 10_000;

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Kill => "server killed",
            Event::Stop => "server stopped",
            Event::Upgrade => "server upgraded",
            Event::Direct => "to a queue of its own",
            Event::Server => "back to the server",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Event::Kill => "#b5543c",
            Event::Stop => "#c98a1b",
            Event::Upgrade => "#7a4fa3",
            Event::Direct => "#3a7d44",
            Event::Server => "#2b4c7e",
        }
    }
}

/// An application, its address, what is asked, how the answer begins and how long it is behind its head.
struct Application {
    name: &'static str,
    at: &'static str,
    ask: &'static [u8],
    answer: &'static [u8],
    /// Bytes behind the empty line of a head, if it has one.
    body: Option<usize>,
}

static APPLICATIONS: [Application; 2] = [
    Application {
        name: "nginx",
        at: "10.9.0.20:80",
        ask: b"GET /1k HTTP/1.1\r\nHost: x\r\n\r\n",
        answer: b"HTTP/1.1 200 OK\r\n",
        body: Some(1024),
    },
    Application {
        name: "redis",
        at: "10.9.0.21:6379",
        ask: b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n",
        answer: b"+OK\r\n",
        body: None,
    },
];

/// Runs it and draws the picture.
pub(crate) fn run() -> Result<()> {
    let bench = Bench::new()?;
    write_pages(&bench)?;
    // Fetched while there is a network.
    bench.root("nginx")?;
    bench.root("redis-server")?;
    namespace()?;
    let attacca = |args: &[&str]| {
        let output = bench.command().args(args).output().map_err(|e| e.to_string())?;
        let words =
            String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
        if output.status.success() { Ok(words.into_owned()) } else { Err(words.into_owned()) }
    };
    let more = ["--ip", "10.9.0.20/24", "--gateway", HOST, "--direct-queues", "2"];
    attacca(&[&["server", "start", "--net", NET, "--uplink", "tap:t0"], &more[..]].concat())?;
    let servers = start_servers(&bench);
    let outcome = servers.and_then(|mut servers| {
        let outcome = measure(&attacca, &mut servers);
        drop(servers);
        outcome
    });
    let _ = attacca(&["server", "stop", "--net", NET]);
    let (answers, events) = outcome?;
    report(&answers, &events);
    let picture = workspace().join("compat-tests/bench/outage.svg");
    std::fs::write(&picture, draw(&answers, &events)).map_err(|e| format!("{}: {e}", picture.display()))
}

/// A network namespace of our own with a TAP device, and its /sys.
fn namespace() -> Result<()> {
    // SAFETY: one thread; paths are NUL-terminated; the mounts are private to the new mount namespace.
    let entered = unsafe {
        let none = std::ptr::null();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) == 0
            && libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()) == 0
            && libc::mount(c"sys".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, none.cast()) == 0
    };
    if !entered {
        return Err(format!("no network namespace: {} (root?)", std::io::Error::last_os_error()));
    }
    let commands = ["link set lo up", "tuntap add t0 mode tap multi_queue", "address add 10.9.0.1/24 dev t0"];
    for words in commands.into_iter().chain(["link set t0 up"]) {
        let status = Command::new("ip").args(words.split(' ')).status();
        if !status.is_ok_and(|s| s.success()) {
            return Err(format!("ip {words} failed"));
        }
    }
    Ok(())
}

fn start_servers(bench: &Bench) -> Result<[Running; 2]> {
    let dir = bench.dir.display().to_string();
    let conf = format!("{dir}/outage.conf");
    std::fs::write(&conf, nginx_conf(&dir, 80)).map_err(|e| e.to_string())?;
    let volume = format!("{dir}:{dir}");
    let common = ["--net", NET, "--cpus", "1"];
    let nginx = ["--ip", "10.9.0.20", "-v", &volume, "debian:nginx", "-e", "stderr", "-c", &conf, "-g", ""];
    let redis = ["--ip", "10.9.0.21", "debian:redis-server", "--save", "", "--protected-mode", "no"];
    let start =
        |name: &str, args: &[&str]| bench.start(bench.guest(name, &[&common, args].concat()), Some(name));
    let mut servers = [start("nginx", &nginx)?, start("redis", &redis)?];
    for (server, application) in servers.iter_mut().zip(&APPLICATIONS) {
        let begin = Instant::now();
        while TcpStream::connect(application.at).is_err() {
            server.still_runs()?;
            if begin.elapsed() > Duration::from_secs(30) {
                return Err(format!("{} does not answer", application.name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(servers)
}

/// Of each application, of each connection.
type Answers = Vec<Vec<Vec<u64>>>;
type Events = Vec<(u64, Event)>;

/// The times of all answers of each application, and of the events, in nanoseconds since the start.
fn measure(
    attacca: &dyn Fn(&[&str]) -> Result<String>,
    servers: &mut [Running; 2],
) -> Result<(Answers, Events)> {
    let begin = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<Vec<JoinHandle<_>>> = APPLICATIONS
        .iter()
        .map(|application| {
            let client = |_| {
                let stop = stop.clone();
                std::thread::spawn(move || client(application, begin, &stop))
            };
            (0..CONNECTIONS).map(client).collect()
        })
        .collect();
    let mut events = Vec::new();
    for (at, event) in EVENTS {
        std::thread::sleep(Duration::from_millis(at).saturating_sub(begin.elapsed()));
        let status = attacca(&["server", "status", "--json", "--net", NET])?;
        let pid =
            status.strip_prefix("{\"pid\":").and_then(|rest| rest.split(',').next()?.parse::<i32>().ok());
        events.push((begin.elapsed().as_nanos() as u64, event));
        match (event, pid) {
            // SAFETY: the server of the network that we started.
            (Event::Kill, Some(pid)) => drop(unsafe { libc::kill(pid, libc::SIGKILL) }),
            // SAFETY: as above.
            (Event::Stop, Some(pid)) => drop(unsafe { libc::kill(pid, libc::SIGSTOP) }),
            (Event::Upgrade, _) => drop(attacca(&["server", "upgrade", "--net", NET])?),
            (Event::Direct | Event::Server, _) => {
                let mode = if event == Event::Direct { "direct" } else { "server" };
                for application in &APPLICATIONS {
                    attacca(&["switch", application.name, mode])?;
                }
            }
            (_, None) => return Err(format!("no server runs: {status}")),
        }
    }
    std::thread::sleep(Duration::from_millis(END_MS).saturating_sub(begin.elapsed()));
    stop.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for clients in clients {
        let times = clients.into_iter().map(|client| client.join().map_err(|_| "a client panicked")?);
        answers.push(times.collect::<Result<_>>()?);
    }
    servers.iter_mut().try_for_each(Running::still_runs)?;
    Ok((answers, events))
}

/// One connection: a request after the other, each answer checked.
fn client(application: &Application, begin: Instant, stop: &AtomicBool) -> Result<Vec<u64>> {
    let fault = |e: std::io::Error| format!("{}: {e}", application.name);
    let mut stream = TcpStream::connect(application.at).map_err(fault)?;
    stream.set_nodelay(true).map_err(fault)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(fault)?;
    let (mut times, mut buffer) = (Vec::new(), vec![0; 65536]);
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(application.ask).map_err(fault)?;
        let mut got = 0;
        loop {
            match stream.read(&mut buffer[got..]).map_err(fault)? {
                0 => return Err(format!("{} closed the connection", application.name)),
                count => got += count,
            }
            let whole = match application.body {
                None => Some(application.answer.len()),
                Some(body) => {
                    let head = buffer[..got].windows(4).position(|w| w == b"\r\n\r\n");
                    head.map(|at| at + 4 + body)
                }
            };
            if whole.is_some_and(|len| len <= got) {
                break;
            }
        }
        let tail = application.body.map_or(&[][..], |body| &buffer[got - body..got]);
        if !buffer[..got].starts_with(application.answer) || tail.iter().any(|byte| *byte != b'x') {
            return Err(format!("{} answers wrongly", application.name));
        }
        times.push(begin.elapsed().as_nanos() as u64);
    }
    Ok(times)
}

/// The longest time without an answer around an event, in milliseconds.
fn silence(times: &[u64], event: u64) -> f64 {
    let from = times.partition_point(|time| *time < event).saturating_sub(1);
    let near = times[from..].windows(2).take_while(|pair| pair[0] < event + 20_000_000);
    near.map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as f64 / 1e6
}

/// The answers of all connections, in their order.
fn together(connections: &[Vec<u64>]) -> Vec<u64> {
    let mut times = connections.concat();
    times.sort_unstable();
    times
}

fn report(answers: &Answers, events: &Events) {
    for (application, connections) in APPLICATIONS.iter().zip(answers) {
        let all = together(connections);
        println!("{}: {} answers, all right, on {CONNECTIONS} connections", application.name, all.len());
        for (at, event) in events {
            let ms = silence(&all, *at);
            let one = connections.iter().map(|times| silence(times, *at)).fold(0.0, f64::max);
            println!(
                "  {:6.2} s  {:24} longest silence {ms:.2} ms, of one connection {one:.2} ms",
                *at as f64 / 1e9,
                event.name()
            );
        }
    }
}

const LEFT: f64 = 70.0;
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 150.0;
const PANEL: f64 = 210.0;
const TOP: f64 = 60.0;

fn draw(answers: &Answers, events: &Events) -> String {
    let height = TOP + PANEL * answers.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"20\" \
         font-size=\"15\">Two applications at once: thousand requests a second, while their network server ends and \
         while they are switched</text>\n",
        LEFT + WIDTH + 30.0
    );
    let all = [Event::Kill, Event::Stop, Event::Upgrade, Event::Direct, Event::Server];
    for (at, event) in all.into_iter().enumerate() {
        let x = LEFT + at as f64 * 180.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{}\" y1=\"38\" y2=\"38\" stroke=\"{}\" stroke-width=\"3\"/><text x=\"{}\" \
             y=\"42\">{}</text>",
            x + 20.0,
            event.colour(),
            x + 26.0,
            event.name()
        );
    }
    for (at, (application, connections)) in APPLICATIONS.iter().zip(answers).enumerate() {
        panel(&mut svg, TOP + PANEL * at as f64, application.name, &together(connections), events);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, top: f64, name: &str, times: &[u64], events: &Events) {
    let x = |ns: u64| LEFT + ns as f64 / (END_MS * 1_000_000) as f64 * WIDTH;
    let mut bins = vec![0u32; (END_MS / BIN_MS) as usize];
    for time in times {
        if let Some(bin) = bins.get_mut((time / (BIN_MS * 1_000_000)) as usize) {
            *bin += 1;
        }
    }
    let most = f64::from(bins.iter().copied().max().unwrap_or(1).max(1)) * 1.1;
    let (base, y) = (top + 20.0 + HEIGHT, |count: f64| top + 20.0 + HEIGHT - count / most * HEIGHT);
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{name}</text>", top + 12.0);
    for (at, event) in events {
        let x = x(*at);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{base:.1}\" stroke=\"{}\"/>",
            top + 20.0,
            event.colour()
        );
    }
    let points: String = bins
        .iter()
        .enumerate()
        .map(|(bin, count)| format!("{:.1},{:.1} ", x(bin as u64 * BIN_MS * 1_000_000), y(f64::from(*count))))
        .collect();
    let _ = writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"#222\" stroke-width=\"1\"/>");
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{base:.1}\" y2=\"{base:.1}\" stroke=\"#444\"/>",
        LEFT + WIDTH
    );
    for second in 0..=END_MS / 1000 {
        let x = x(second * 1_000_000_000);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{second} s</text>",
            base + 16.0
        );
    }
    for part in [0.5, 1.0] {
        let count = most / 1.1 * part;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{:.0}</text>",
            LEFT - 8.0,
            y(count) + 4.0,
            count * 1000.0 / BIN_MS as f64 / 1000.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_found_where_it_is() {
        let ms = |ms: u64| ms * 1_000_000;
        let times: Vec<u64> = (0..100).map(ms).chain((110..200).map(ms)).collect();
        assert_eq!(silence(&times, ms(99) + 1), 11.0);
        assert_eq!(silence(&times, ms(50)), 1.0);
    }

    #[test]
    fn the_picture_has_both_applications_and_every_event() {
        let times: Vec<u64> = (0..5000).map(|i| i * 1_000_000).collect();
        let events: Events = EVENTS.iter().map(|(at, event)| (at * 1_000_000, *event)).collect();
        let svg = draw(&vec![vec![times.clone()], vec![times]], &events);
        assert!(svg.contains("nginx") && svg.contains("redis") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<polyline").count(), 2);
    }
}
