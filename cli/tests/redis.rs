//! Debian's redis, unmodified: the server as a guest with its own clients on the host and as guests, a data folder
//! that survives, and redis's own tests against a guest.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);

/// A guest's redis-server on a published port.
fn start(options: &[&str], arguments: &[&str]) -> (Guest, u16) {
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:6379");
    let args = [&["-p", &publish], options, &["debian:redis-server"], arguments].concat();
    let mut guest = Guest::start(&args);
    let up = eventually(PATIENCE, || ask(port, &["ping"]) == "PONG");
    assert!(up, "redis does not answer:\n{}", guest.output());
    guest.wait_for_port(port);
    (guest, port)
}

fn tool(program: &str, port: u16) -> Command {
    let mut command = native("redis-tools", program);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    command
}

/// redis-cli's answer to one command.
fn ask(port: u16, words: &[&str]) -> String {
    let output = run_limited(tool("redis-cli", port).args(words), LIMIT);
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// redis-cli with something to read.
fn feed(port: u16, args: &[&str], input: &[u8]) -> Output {
    let mut cli = tool("redis-cli", port);
    let mut child =
        cli.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    })
}

/// The tests that redis-benchmark runs unless told otherwise.
const DEFAULT_TESTS: usize = 20;

/// Every line of `-q --csv` has a rate; nothing is said of errors.
fn check_benchmark(output: Output, tests: usize) {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let words = text(output);
    let rates: Vec<f64> = words
        .lines()
        .skip(1)
        .map(|line| line.split("\",\"").nth(1).and_then(|r| r.parse().ok()).unwrap_or(0.0))
        .collect();
    assert!(rates.len() == tests && rates.iter().all(|r| *r > 0.0), "{words}\n{errors}");
    assert!(!words.to_lowercase().contains("err") && !errors.to_lowercase().contains("error"), "{errors}");
}

#[test]
fn benchmark_from_the_host() {
    let _alone = alone();
    let (guest, port) = start(&[], &[]);
    let run = |args: &[&str]| run_limited(tool("redis-benchmark", port).arg("--csv").args(args), LIMIT);
    check_benchmark(run(&["-n", "4000"]), DEFAULT_TESTS);
    check_benchmark(run(&["-n", "40000", "-P", "16", "-t", "set,get,incr,lpush,mset"]), 5);
    check_benchmark(run(&["-n", "20000", "-c", "1000", "-t", "set,get"]), 2);
    assert_eq!(ask(port, &["ping"]), "PONG", "{}", guest.output());
}

#[test]
fn benchmark_as_a_guest() {
    let _alone = alone();
    let (_server, port) = start(&[], &[]);
    let run = |args: &[&str]| {
        // The host's loopback is at the gateway's address.
        let port = port.to_string();
        let mut command = attacca();
        command.args(["run", "debian:redis-tools:redis-benchmark", "-h", "10.0.2.2", "-p", &port, "--csv"]);
        let output = run_limited(command.args(args), LIMIT);
        check_benchmark(output, args.last().unwrap().split(',').count());
    };
    run(&["-n", "4000", "-t", "ping_mbulk,set,get,incr,lpush,rpop,sadd,hset,spop,zadd,zpopmin,mset"]);
    run(&["-n", "40000", "-P", "16", "-t", "set,get"]);
    run(&["-n", "10000", "-c", "500", "-t", "set,get"]);
}

/// What a container's user finds: `dir` is /data, and the append-only file there survives the server.
#[test]
fn append_only_file_survives() {
    let _alone = alone();
    let dir = scratch("redis-data");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let volume = format!("{}:/data", dir.display());
    for fsync in ["always", "everysec"] {
        let arguments = ["--appendonly", "yes", "--appendfsync", fsync, "--save", ""];
        {
            let (mut guest, port) = start(&["-v", &volume], &arguments);
            assert_eq!(ask(port, &["config", "get", "dir"]), "dir\n/data");
            let input: String = (0..5000).map(|i| format!("SET {fsync}{i} value{i}\r\n")).collect();
            text(feed(port, &["--pipe"], input.as_bytes()));
            guest.signal(libc::SIGTERM);
            assert_eq!(shell_status(guest.wait()), 0, "{}", guest.output());
        }
        let (guest, port) = start(&["-v", &volume], &arguments);
        for i in [0, 1234, 4999] {
            assert_eq!(
                ask(port, &["get", &format!("{fsync}{i}")]),
                format!("value{i}"),
                "{}",
                guest.output()
            );
        }
        // Killed, not ended: what `always` acknowledged is there as well.
        assert_eq!(ask(port, &["set", "last", fsync]), "OK");
        guest.signal(libc::SIGKILL);
        drop(guest);
    }
    let (_guest, port) = start(&["-v", &volume], &["--appendonly", "yes"]);
    assert_eq!(ask(port, &["exists", "always4999", "everysec4999"]), "2");
}

#[test]
fn scripts_and_messages() {
    let _alone = alone();
    let (guest, port) = start(&[], &["--notify-keyspace-events", "KEA", "--enable-debug-command", "yes"]);
    // Lua: numbers both ways, an error with its text, cjson and a library function.
    let lua = "local s = 0 for i = 1, 100000 do s = s + i * 0.5 end return {tostring(s), cjson.encode({a={1,2.5}}), \
               redis.call('incrby', KEYS[1], 41), string.format('%.3f|%5d|%x', 1/3, 42, 255)}";
    assert_eq!(ask(port, &["eval", lua, "1", "n"]), "2500025000\n{\"a\":[1,2.5]}\n41\n0.333|   42|ff");
    assert!(ask(port, &["eval", "return redis.call('nope')", "0"]).contains("Unknown Redis command"));
    // A subscriber sees a message and a key's events.
    let mut subscriber = tool("redis-cli", port);
    let mut child = subscriber
        .args(["psubscribe", "news*", "__keyspace@0__:*"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(eventually(PATIENCE, || ask(port, &["pubsub", "numpat"]) == "2"), "{}", guest.output());
    assert_eq!(ask(port, &["publish", "news.today", "hello"]), "1");
    assert_eq!(ask(port, &["set", "watched", "1", "px", "50"]), "OK");
    let gone = eventually(PATIENCE, || ask(port, &["exists", "watched"]) == "0");
    assert!(gone, "the key does not expire");
    // CLIENT KILL ends it.
    assert_eq!(ask(port, &["client", "kill", "type", "pubsub"]), "1");
    std::thread::sleep(Duration::from_millis(200));
    let _ = child.kill();
    let words = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
    for expected in ["news.today\nhello", "__keyspace@0__:watched\nset", "__keyspace@0__:watched\nexpired"] {
        assert!(words.contains(expected), "no {expected:?} in\n{words}");
    }
    // It sleeps as long as it is told to, and then goes on.
    let begin = std::time::Instant::now();
    assert_eq!(ask(port, &["debug", "sleep", "0.3"]), "OK");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(ask(port, &["ping"]), "PONG");
}

#[test]
fn a_large_pipe_and_large_values() {
    let _alone = alone();
    let (guest, port) = start(&[], &[]);
    let mut input = Vec::new();
    for i in 0..200_000 {
        let (key, value) = (format!("key:{i}"), format!("value of number {i}"));
        let lens = (key.len(), value.len());
        write!(input, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", lens.0, lens.1).unwrap();
    }
    let words = text(feed(port, &["--pipe"], &input));
    assert!(words.contains("errors: 0, replies: 200000"), "{words}\n{}", guest.output());
    assert_eq!(ask(port, &["dbsize"]), "200000");
    // Values in from standard input, byte for byte back.
    for size in [1, 16 * 1024, 1024 * 1024, 8 * 1024 * 1024] {
        let value: Vec<u8> = pattern(size).iter().map(|b| b'a' + b % 26).collect();
        assert_eq!(text(feed(port, &["-x", "set", "big"], &value)).trim(), "OK");
        assert_eq!(ask(port, &["strlen", "big"]), size.to_string());
        let back = run_limited(tool("redis-cli", port).args(["--raw", "get", "big"]), LIMIT).stdout;
        assert!(back.strip_suffix(b"\n") == Some(&value[..]), "{size} bytes come back changed");
    }
}

/// Clients that take more memory than `maxmemory-clients` are sent away; others stay.
#[test]
fn greedy_clients_are_evicted() {
    let _alone = alone();
    let (guest, port) = start(&[], &["--maxmemory-clients", "1mb"]);
    // A subscriber costs little; queries that never end are kept by the server.
    let mut greedy = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$400000000\r\n";
    greedy.write_all(head).unwrap();
    let chunk = vec![b'x'; 64 * 1024];
    let sent_away = (0..400).any(|_| greedy.write_all(&chunk).is_err());
    assert!(sent_away, "16 MiB of a query are kept\n{}", guest.output());
    assert!(eventually(PATIENCE, || ask(port, &["info", "stats"]).contains("evicted_clients:1")));
    assert_eq!(ask(port, &["ping"]), "PONG");
}

#[test]
fn ends_by_signals_as_natively() {
    let _alone = alone();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let port = free_port();
        let mut server = native("redis-server", "redis-server");
        server.args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1"]);
        let native = Native::start(&mut server, port);
        // SAFETY: our own child, not yet reaped.
        assert_eq!(unsafe { libc::kill(native.pid(), signal) }, 0);
        let want = native.wait();
        let (mut guest, _) = start(&[], &["--save", ""]);
        guest.signal(signal);
        let status = guest.wait();
        assert_eq!(shell_status(status), shell_status(want), "signal {signal}\n{}", guest.output());
        assert!(guest.output().contains("bye bye"), "{}", guest.output());
    }
}

/// redis's own tests in their external-server mode, file by file; what counts is what they find natively
/// (compat-tests/apps/redis.tsv).
#[test]
fn rediss_own_tests() {
    let _alone = alone();
    let long = std::env::var_os("ATTACCA_LONG").is_some();
    let dir = prepare_suite();
    let known = table("known-failures/redis.txt");
    let data = dir.join("data");
    fs::create_dir_all(&data).unwrap();
    // Under the same name on both sides: the suite's clients run on the host and open what the server says.
    let data = data.display().to_string();
    let volume = format!("{data}:{data}");
    let options = ["-v", &volume, "-w", &data];
    let mut wrong = Vec::new();
    let mut moved = false;
    let (mut guest, mut port) = start(&options, &SUITE_SERVER);
    // The long form counts anew what there is natively.
    let native_port = free_port();
    let number = native_port.to_string();
    let mut server = native("redis-server", "redis-server");
    server.args(["--port", &number, "--dir", &data]).args(SUITE_SERVER);
    let _native = long.then(|| Native::start(&mut server, native_port));
    for row in table("apps/redis.tsv") {
        let (name, passed, when) = (&row[0], &row[1], &row[2]);
        if !(long || when == "ci") {
            continue;
        }
        if ask(port, &["flushall"]) != "OK" {
            if !moved {
                wrong.push(format!("before {name}: the server is gone\n{}", guest.output()));
            }
            (guest, port) = start(&options, &SUITE_SERVER);
        }
        let output = run_tcl_test(&dir, port, name);
        moved = output.contains(MOVES);
        // "[err]: NAME in FILE" or "[ok]: NAME (1 ms)".
        let seen =
            |text: &str, kind: &str| text.lines().filter(|l| l.contains(&format!("[{kind}]:"))).count();
        let count = |kind: &str| seen(&output, kind);
        let wanted = if long {
            let natively = run_tcl_test(&dir, native_port, name);
            seen(&natively, "ok")
        } else {
            passed.parse::<usize>().unwrap()
        };
        let failures = output.lines().filter_map(|l| l.split_once("[err]: ")).map(|(_, rest)| rest);
        let unknown: Vec<&str> =
            failures.filter(|f| !known.iter().any(|k| f.starts_with(&k.join(" ")))).collect();
        let enough = count("ok") + count("err") >= wanted;
        if !unknown.is_empty() || !enough || output.contains("[exception]") {
            let last: Vec<&str> = output.lines().rev().take(12).collect();
            wrong.push(format!("{name}: {} of {wanted}; {unknown:?}\n{last:#?}", count("ok")));
        }
    }
    assert!(wrong.is_empty(), "{} files end wrongly:\n{}\n{}", wrong.len(), wrong.join("\n"), guest.output());
}

/// A test that leaves the server at another port, where it is not published (compat-tests/known-failures/redis.txt).
const MOVES: &str = "[err]: CONFIG SET rollback on apply error";

const SUITE_SERVER: [&str; 8] = [
    "--save",
    "",
    "--enable-protected-configs",
    "yes",
    "--enable-debug-command",
    "yes",
    "--enable-module-command",
    "yes",
];

/// A table of compat-tests: lines of fields by tabs, without comments.
fn table(path: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests").join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    lines.map(|l| l.split('\t').map(String::from).collect()).collect()
}

/// The suite in a folder of its own, with the native clients where it looks for them.
fn prepare_suite() -> PathBuf {
    let source = debian_source("redis");
    let dir = scratch("redis-suite");
    let parts = ["tests", "runtest"].map(|part| source.join(part));
    assert!(Command::new("cp").arg("-a").args(parts).arg(&dir).status().unwrap().success());
    fs::create_dir_all(dir.join("src")).unwrap();
    let root = debian_root("redis-tools");
    let lib = root.join("usr/lib/x86_64-linux-gnu");
    for program in ["redis-cli", "redis-benchmark"] {
        let wrapper = dir.join("src").join(program);
        let (lib, root) = (lib.display(), root.display());
        let script = format!(
            "#!/bin/sh\nexec {lib}/ld-linux-x86-64.so.2 --library-path {lib} {root}/usr/bin/{program} \"$@\"\n"
        );
        fs::write(&wrapper, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&wrapper, mode).unwrap();
    }
    dir
}

fn run_tcl_test(dir: &Path, port: u16, name: &str) -> String {
    let root = debian_root("tcl8.6");
    let mut tcl = native("tcl8.6", "tclsh8.6");
    tcl.env("TCL_LIBRARY", root.join("usr/share/tcltk/tcl8.6")).current_dir(dir);
    let port = port.to_string();
    tcl.args(["tests/test_helper.tcl", "--host", "127.0.0.1", "--port", &port, "--tags", "-slow"]);
    // One file at a time, by the one client that there is: they share the server.
    let output = run_limited(tcl.args(["--clients", "1", "--single", name]), Duration::from_secs(300));
    let words = String::from_utf8_lossy(&output.stdout);
    // Without the colours of a terminal.
    let mut plain = String::new();
    for part in words.split("\x1b[") {
        plain.push_str(part.split_once('m').map_or(part, |(code, rest)| {
            if code.bytes().all(|b| b.is_ascii_digit() || b == b';') { rest } else { part }
        }));
    }
    plain + &String::from_utf8_lossy(&output.stderr)
}

/// KiB of kernel state that a guest holds: what is present of the arena (`platform/src/layout.rs`).
fn arena_kib(pid: i32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut inside, mut sum) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some(range), _) if range.contains('-') && !range.ends_with(':') => {
                inside = range.starts_with("7d10")
            }
            (Some("Rss:"), Some(kib)) if inside => sum += kib.parse::<u64>().unwrap(),
            _ => {}
        }
    }
    sum
}

/// A guest's arguments on a network with one core.
fn on<'a>(network: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["--net", network, "--cpus", "1"], args].concat()
}

/// Idle connections from four guests (each has ports for some 28,000): they cost no more than what a socket, its
/// descriptor and its control block are, and requests among them are answered. 2,000; with ATTACCA_LONG=1 100,000.
#[test]
fn a_crowd_of_idle_clients() {
    let _alone = alone();
    let long = std::env::var_os("ATTACCA_LONG").is_some();
    let (each, guests) = (if long { 25_000 } else { 500 }, 4);
    let crowd = compile("crowd", include_str!("support/crowd.c"), &[]);
    let network = format!("crowd-{}", std::process::id());
    text(run_limited(attacca().args(["server", "start", "--net", &network]), LIMIT));
    let client = |args: &[&str]| run_limited(attacca().arg("run").args(on(&network, args)), LIMIT);
    let arguments = ["--save", "", "--maxclients", "120000", "--protected-mode", "no"];
    // As root: only it may have more descriptors than the host gave us.
    let server = Guest::start(&on(
        &network,
        &[&["--name", "red", "--user", "root", "debian:redis-server"], &arguments[..]].concat(),
    ));
    let ask = |words: &[&str]| {
        let output = client(&[&["debian:redis-tools:redis-cli", "-h", "red"], words].concat());
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    assert!(eventually(PATIENCE, || ask(&["ping"]) == "PONG"), "{}", server.output());
    let before = arena_kib(server.pid());
    let count = each.to_string();
    let mut crowds = Vec::new();
    for _ in 0..guests {
        crowds.push(Guest::start_fed(&on(&network, &[crowd.to_str().unwrap(), "red", "6379", &count])));
    }
    let line = format!("open {each}\n");
    let all = || crowds.iter().all(|(guest, _)| guest.output().contains(&line));
    let outputs = || crowds.iter().map(|(guest, _)| guest.output()).collect::<String>();
    assert!(eventually(LIMIT, all), "{}{}", outputs(), server.output());
    let connected = ask(&["info", "clients"]);
    assert!(connected.contains(&format!("connected_clients:{}\r", each * guests + 1)), "{connected}");
    let bytes = (arena_kib(server.pid()) - before) * 1024 / (each * guests) as u64;
    println!("{} idle connections: {bytes} bytes of kernel state each", each * guests);
    // 1,370 of 100,000; with few of them what is allocated in large pieces weighs more.
    assert!(bytes < if long { 1536 } else { 4096 }, "{bytes} bytes for each");
    let benchmark = [
        "debian:redis-tools:redis-benchmark",
        "-h",
        "red",
        "-c",
        "50",
        "-n",
        "20000",
        "-t",
        "get,set",
        "--csv",
    ];
    check_benchmark(client(&benchmark), 2);
    // Kept until the end: whoever drops a guest kills what still delivers its last segments.
    let mut ended = Vec::new();
    for (mut guest, input) in crowds {
        drop(input);
        assert_eq!(shell_status(guest.wait()), 0, "{}", guest.output());
        ended.push(guest);
    }
    assert!(eventually(PATIENCE, || ask(&["info", "clients"]).contains("connected_clients:1\r")));
    drop(server);
    let _ = attacca().args(["server", "stop", "--net", &network]).output();
}
