//! Debian's nginx with its own configuration as a family of processes: a master in the background and its workers, while
//! clients are busy with it. Reloads, reopened logs, killed workers, an upgrade of the binary, live switches and
//! crashes of the network server lose no request that they would not lose natively.
//!
//! What that is: a request on a fresh connection is always answered, and so is one on a connection that is kept, but
//! for one case: a server may close an idle connection just when the next request comes (RFC 9112 §9.3.1 has
//! clients ask again). A worker that is killed takes its own connections with it, one request of each client at most.
//! (Natively, such clients ask again 40 times and lose none in 20 reloads; when 20 workers are killed they lose 1.)
//!
//! `ATTACCA_LONG=1`: 100 reloads and 100 killed workers each time.

mod support;

#[allow(dead_code, unreachable_pub)]
#[path = "../../net/tests/linux/namespace.rs"]
mod namespace;

use namespace::{inside, unavailable};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{ChildStdin, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use support::*;

const BODY: usize = 1024;
const CLIENTS: usize = 4;

fn times(ci: usize) -> usize {
    if std::env::var_os("ATTACCA_LONG").is_some() { 100 } else { ci }
}

/// A guest whose first process is a shell that has started nginx and does what it is told.
struct Family {
    name: String,
    guest: Guest,
    shell: ChildStdin,
    said: usize,
    log: PathBuf,
}

impl Family {
    fn start(name: &str, cpus: usize, options: &[&str]) -> Family {
        let dir = scratch(&format!("workers-{name}"));
        let _ = fs::remove_dir_all(&dir);
        let (www, log) = (dir.join("www"), dir.join("log"));
        fs::create_dir_all(&www).unwrap();
        fs::create_dir_all(&log).unwrap();
        fs::write(www.join("data"), pattern(BODY)).unwrap();
        let cpus = cpus.to_string();
        let volumes =
            [format!("{}:/var/www/html:ro", www.display()), format!("{}:/var/log/nginx", log.display())];
        let mine = ["--name", name, "--cpus", &cpus, "-v", &volumes[0], "-v", &volumes[1]];
        let program = ["debian:nginx:/bin/sh", "-c", "/usr/sbin/nginx && exec sh -s"];
        let (guest, shell) = Guest::start_fed(&[&mine, options, &program].concat());
        let mut family = Family { name: name.into(), guest, shell, said: 0, log };
        family.tell("workers() {\n  for p in /proc/[0-9]*; do\n    read -r line <$p/stat || continue\n    set -- $line\n    \
                     if [ \"$2 $4\" = \"(nginx) $1\" ]; then continue; fi\n    \
                     if [ \"$2 $4\" = \"(nginx) $master\" ]; then echo $1; fi\n  done 2>/dev/null\n}");
        family.tell("read master </run/nginx.pid");
        family
    }

    /// Lets the shell do something, to its end.
    fn tell(&mut self, command: &str) {
        self.said += 1;
        let done = format!("said {};", self.said);
        writeln!(self.shell, "{command}\necho '{done}'").unwrap();
        let output = || self.guest.output();
        assert!(eventually(PATIENCE, || output().contains(&done)), "{command}: {}", output());
    }

    fn processes(&self) -> Vec<i32> {
        let listed = text(attacca().args(["ps", "--json"]).output().unwrap());
        let guests: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let own = guests.as_array().unwrap().iter().find(|guest| guest["name"] == self.name.as_str());
        let pids = own.and_then(|guest| guest["processes"].as_array()).cloned().unwrap_or_default();
        pids.iter().filter_map(|pid| pid.as_i64().map(|pid| pid as i32)).collect()
    }

    /// Waits until there are the shell, the master and this many workers.
    fn settle(&self, workers: usize) {
        let there = eventually(PATIENCE, || self.processes().len() == 2 + workers);
        assert!(there, "{:?}\n{}\n{}", self.processes(), self.guest.output(), self.errors());
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.log.join("error.log")).unwrap_or_default()
    }

    /// Lines of the access logs, of which only answers are counted.
    fn logged(&self) -> usize {
        let logs = fs::read_dir(&self.log).unwrap().flatten().filter(|e| {
            let name = e.file_name();
            name.to_string_lossy().starts_with("access.log")
        });
        logs.map(|e| fs::read_to_string(e.path()).unwrap().matches("\"GET /data HTTP/1.1\" 200").count())
            .sum()
    }
}

/// What clients saw.
#[derive(Default)]
struct Tally {
    answers: usize,
    /// Requests that met the end of an idle connection, and were answered on the next one.
    repeated: usize,
    failures: Vec<String>,
}

/// Clients that are busy until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Half of the clients make a connection for each request.
    fn start(address: &str) -> Load {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..CLIENTS).map(|i| {
            let (address, stop, answers) = (address.to_owned(), stop.clone(), answers.clone());
            std::thread::spawn(move || client(&address, i % 2 == 0, &stop, &answers))
        });
        Load { clients: clients.collect(), stop, answers }
    }

    /// Lets this many more requests be answered.
    fn go_on(&self, count: u64) {
        let wanted = self.answers.load(Ordering::Relaxed) + count;
        let came = eventually(PATIENCE, || self.answers.load(Ordering::Relaxed) >= wanted);
        assert!(
            came,
            "the clients got {} answers more",
            self.answers.load(Ordering::Relaxed) + count - wanted
        );
    }

    fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for client in self.clients {
            let one = client.join().unwrap();
            sum.answers += one.answers;
            sum.repeated += one.repeated;
            sum.failures.extend(one.failures);
        }
        sum
    }
}

fn client(address: &str, fresh: bool, stop: &AtomicBool, answers: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<TcpStream> = None;
    while !stop.load(Ordering::Relaxed) {
        let used = kept.is_some();
        let stream = match kept.take() {
            Some(stream) => Ok(stream),
            None => TcpStream::connect(address),
        };
        let result = stream.map_err(|e| (0, format!("connect: {e}"))).and_then(|s| exchange(s, fresh));
        match result {
            Ok(stream) => {
                tally.answers += 1;
                answers.fetch_add(1, Ordering::Relaxed);
                kept = stream;
            }
            Err((0, _)) if used => tally.repeated += 1,
            Err((bytes, why)) => tally.failures.push(format!("after {bytes} bytes, fresh {fresh}: {why}")),
        }
    }
    tally
}

/// A request and its answer, checked; the connection, if it is kept. On failure: how much of the answer came, and why.
fn exchange(mut stream: TcpStream, fresh: bool) -> Result<Option<TcpStream>, (usize, String)> {
    let close = if fresh { "Connection: close\r\n" } else { "" };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!("GET /data HTTP/1.1\r\nHost: t\r\n{close}\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| (0, format!("write: {e}")))?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err((answer.len(), "closed".into())),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) => return Err((answer.len(), error.to_string())),
        }
        let Some(head) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        if answer.len() < head + 4 + BODY {
            continue;
        }
        let words = String::from_utf8_lossy(&answer[..head]).into_owned();
        if !words.starts_with("HTTP/1.1 200") || answer[head + 4..] != pattern(BODY)[..] {
            return Err((answer.len(), words));
        }
        return Ok((!words.contains("Connection: close")).then_some(stream));
    }
}

fn published(name: &str, cpus: usize) -> (Family, String) {
    let port = free_port();
    let mut family = Family::start(name, cpus, &["-p", &format!("127.0.0.1:{port}:80")]);
    family.guest.wait_for_port(port);
    (family, format!("127.0.0.1:{port}"))
}

#[test]
fn reloads_and_reopened_logs_lose_no_request() {
    let _alone = alone();
    for workers in [2, 4] {
        let (mut family, address) = published(&format!("reload{workers}"), workers);
        family.settle(workers);
        let load = Load::start(&address);
        for round in 0..times(5) {
            load.go_on(200);
            family.tell("nginx -s reload");
            if round % 2 == 0 {
                let aside = family.log.join(format!("access.log.{round}"));
                fs::rename(family.log.join("access.log"), aside).unwrap();
                family.tell("nginx -s reopen");
                let opened = || family.log.join("access.log").exists();
                assert!(eventually(PATIENCE, opened), "{}", family.errors());
            }
        }
        load.go_on(200);
        let tally = load.end();
        println!("{workers} workers: {} answers, {} asked again", tally.answers, tally.repeated);
        assert!(tally.failures.is_empty(), "{:#?}\n{}", tally.failures, family.errors());
        // Old workers end when their last connection does; none is left over, and every answer stands in a log.
        family.settle(workers);
        assert!(eventually(PATIENCE, || family.logged() >= tally.answers), "{} lines", family.logged());
        assert!(!family.errors().contains("exited on signal"), "{}", family.errors());
    }
}

#[test]
fn killed_workers_are_replaced() {
    let _alone = alone();
    let (mut family, address) = published("killed", 2);
    family.settle(2);
    let load = Load::start(&address);
    let kills = times(10);
    for round in 0..kills {
        load.go_on(100);
        family.settle(2);
        let before = family.processes();
        if round % 2 == 0 {
            family.tell("for w in $(workers); do kill -9 $w; break; done");
        } else {
            // The shell, the master, and then the workers, by age.
            // SAFETY: a process of the guest that this test started.
            assert_eq!(unsafe { libc::kill(before[2 + round / 2 % 2], libc::SIGKILL) }, 0);
        }
        assert!(eventually(PATIENCE, || family.processes() != before), "{}", family.errors());
    }
    load.go_on(200);
    family.settle(2);
    let tally = load.end();
    println!("{} answers, {} asked again, {} lost", tally.answers, tally.repeated, tally.failures.len());
    // Natively just so: what a worker was answering when it died.
    assert!(tally.failures.len() <= kills * CLIENTS, "{:#?}", tally.failures);
    assert_eq!(family.errors().matches("exited on signal 9").count(), kills, "{}", family.errors());
    family.tell("nginx -s quit");
    assert!(eventually(PATIENCE, || family.processes().len() == 1), "{:?}", family.processes());
}

/// nginx.org/en/docs/control.html, "Upgrading Executable on the Fly".
#[test]
fn the_binary_is_upgraded_under_load() {
    let _alone = alone();
    let (mut family, address) = published("upgrade", 2);
    family.settle(2);
    let load = Load::start(&address);
    load.go_on(200);
    for _ in 0..times(2).min(20) {
        family.tell("read old </run/nginx.pid; kill -USR2 $old");
        family.tell("until [ -e /run/nginx.pid.oldbin ] && [ -e /run/nginx.pid ]; do :; done");
        // The shell, two masters, and the workers of both.
        family.settle(2 + 1 + 2);
        load.go_on(200);
        family.tell("kill -WINCH $old");
        family.settle(2 + 1);
        load.go_on(200);
        family.tell("kill -QUIT $old; while [ -e /run/nginx.pid.oldbin ]; do :; done");
        family.settle(2);
        family.tell("read new </run/nginx.pid; [ $new != $old ] || echo the same");
        load.go_on(200);
    }
    let tally = load.end();
    println!("{} answers, {} asked again", tally.answers, tally.repeated);
    assert!(tally.failures.is_empty(), "{:#?}\n{}", tally.failures, family.errors());
    assert!(!family.guest.output().contains("the same"), "{}", family.guest.output());
}

#[test]
fn switches_and_server_crashes_lose_no_request() {
    // In there nothing can be fetched.
    debian_root("nginx");
    inside("switches_and_server_crashes_lose_no_request", || {
        let _network = Network::start();
        let options = ["--net", NET, "--ip", "10.9.0.20"];
        let mut family = Family::start("moving", 2, &options);
        family.settle(2);
        let address = "10.9.0.20:80";
        let up = || TcpStream::connect(address).is_ok();
        assert!(eventually(PATIENCE, up), "{}", family.guest.output());
        let load = Load::start(address);
        for round in 0..times(6).min(60) {
            load.go_on(200);
            match round % 3 {
                0 => switch("moving", "direct"),
                1 => crash(),
                _ => switch("moving", "server"),
            }
            load.go_on(100);
            family.tell("nginx -s reload");
        }
        // And one while the frames go through the server.
        crash();
        load.go_on(200);
        let tally = load.end();
        println!("{} answers, {} asked again", tally.answers, tally.repeated);
        assert!(tally.failures.is_empty(), "{:#?}\n{}", tally.failures, family.errors());
        family.settle(2);
    });
}

const NET: &str = "workers";

/// A network with a TAP uplink, in the namespace that the test is in.
struct Network;

impl Network {
    fn start() -> Network {
        // SAFETY: paths are NUL-terminated; the mounts are private to this process's new mount namespace.
        let mounted = unsafe {
            let none = std::ptr::null();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()) == 0
                && libc::mount(c"sys".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, none.cast()) == 0
        };
        if !mounted {
            unavailable("a /sys of the new namespace");
        }
        for words in [
            "link set lo up",
            "tuntap add t0 mode tap multi_queue",
            "address add 10.9.0.1/24 dev t0",
            "link set t0 up",
        ] {
            let output = Command::new("ip").args(words.split(' ')).output();
            let output = output.unwrap_or_else(|error| unavailable(&format!("ip: {error}")));
            assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let start = ["server", "start", "--net", NET, "--uplink", "tap:t0", "--ip", "10.9.0.10/24"];
        let more = ["--gateway", "10.9.0.1", "--direct-queues", "2"];
        assert!(attacca().args(start).args(more).status().unwrap().success());
        Network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = attacca().args(["server", "stop", "--net", NET]).status();
    }
}

fn switch(guest: &str, mode: &str) {
    text(run_limited(attacca().args(["switch", guest, mode]), PATIENCE));
}

/// Kills the network's server, and waits for the next one.
fn crash() {
    let server = || {
        let words = text(run_limited(attacca().args(["server", "status", "--json", "--net", NET]), PATIENCE));
        serde_json::from_str::<serde_json::Value>(&words).unwrap()["pid"].as_i64().unwrap_or(0) as i32
    };
    let mut pid = 0;
    assert!(eventually(PATIENCE, || {
        pid = server();
        pid != 0
    }));
    // SAFETY: the server of a network that this test started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    assert!(eventually(PATIENCE, || ![0, pid].contains(&server())));
}
