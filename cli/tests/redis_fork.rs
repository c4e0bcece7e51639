//! redis's forks: snapshots and rewritten append-only files while clients write, full resynchronisation of a replica, and
//! Sentinel's fail-over, with servers, replica and sentinels as guests of a network.
//!
//! A dataset of 100 MiB; with `ATTACCA_LONG=1` one of 2 GiB (needs 5 GiB of memory and as much of disk).

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::network::Network;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);

fn long() -> bool {
    std::env::var_os("ATTACCA_LONG").is_some()
}

/// Keys of 400 bytes that make the dataset.
fn keys() -> &'static str {
    if long() { "4000000" } else { "200000" }
}

/// As long as 2 GiB may take.
fn patience() -> Duration {
    if long() { PATIENCE * 10 } else { PATIENCE * 2 }
}

/// A guest's redis-server on a published port.
struct Redis {
    guest: Guest,
    port: u16,
}

impl Redis {
    fn start(options: &[&str], arguments: &[&str]) -> Redis {
        let port = free_port();
        let publish = format!("127.0.0.1:{port}:6379");
        let debug = ["--enable-debug-command", "yes", "--save", ""];
        let program = [&["debian:redis-server"], &debug[..], arguments].concat();
        let guest = Guest::start(&[&["-p", &publish], options, &program].concat());
        let redis = Redis { guest, port };
        assert!(eventually(patience(), || redis.ask(&["ping"]) == "PONG"), "{}", redis.guest.output());
        redis
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = native("redis-tools", program);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command
    }

    fn ask(&self, words: &[&str]) -> String {
        let output = run_limited(self.tool("redis-cli").args(words), LIMIT * 2);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// A field of INFO.
    fn info(&self, section: &str, field: &str) -> String {
        let all = self.ask(&["info", section]);
        let line = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }

    fn digest(&self) -> String {
        let digest = self.ask(&["debug", "digest"]);
        assert!(digest.len() == 40, "{digest}\n{}", self.guest.output());
        digest
    }

    fn populate(&self) {
        assert_eq!(self.ask(&["debug", "populate", keys(), "key", "400"]), "OK");
    }

    /// Clients that write, into database 1: pairs of counters that no moment between two commands sees differ, and
    /// values all over.
    fn load(&self) -> Vec<Native> {
        let bench = |args: &[&str]| {
            let mut command = self.tool("redis-benchmark");
            Native::spawn(command.args(["--dbnum", "1", "-q", "-n", "100000000", "-c", "5"]).args(args))
        };
        let pair = "redis.call('incr', KEYS[1]) redis.call('incr', KEYS[2])";
        vec![
            bench(&["eval", pair, "2", "first", "second"]),
            bench(&["-r", "100000", "-d", "300", "-t", "set,hset,lpush"]),
        ]
    }

    /// Starts something in the background, and waits for its good end. The dataset's own pages were copied while it ran.
    fn child(&self, command: &str, what: &str) {
        let started = self.ask(&[command]);
        assert!(started.starts_with("Background"), "{started}");
        let busy = if what == "rdb" { "rdb_bgsave_in_progress" } else { "aof_rewrite_in_progress" };
        let ended = || self.info("persistence", busy) == "0";
        assert!(eventually(patience(), ended), "{}", self.guest.output());
        let status = if what == "rdb" { "rdb_last_bgsave_status" } else { "aof_last_bgrewrite_status" };
        assert_eq!(self.info("persistence", status), "ok", "{}", self.guest.output());
        let copied = self.info("persistence", &format!("{what}_last_cow_size"));
        assert!(copied.parse::<u64>().unwrap() > 100_000, "copied while {command} ran: {copied}");
    }
}

fn data(name: &str) -> (PathBuf, String) {
    let dir = scratch(&format!("redis-fork-{name}"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let volume = format!("{}:/data", dir.display());
    (dir, volume)
}

#[test]
fn a_snapshot_under_load_is_of_one_moment() {
    let _alone = alone();
    let ((dir, volume), (copy, other)) = (data("snapshot"), data("snapshot-copy"));
    let redis = Redis::start(&["-v", &volume], &[]);
    redis.populate();
    let whole = redis.digest();
    let load = redis.load();
    assert!(
        eventually(PATIENCE, || redis.ask(&["-n", "1", "get", "first"]).parse::<u64>().unwrap_or(0) > 500)
    );
    redis.child("bgsave", "rdb");
    fs::copy(dir.join("dump.rdb"), copy.join("dump.rdb")).unwrap();
    redis.child("bgsave", "rdb");
    drop(load);
    // What has been saved last is what is loaded: nothing changes meanwhile.
    redis.child_quietly();
    let before = redis.digest();
    assert_eq!(redis.ask(&["debug", "reload", "nosave"]), "OK", "{}", redis.guest.output());
    assert_eq!(redis.digest(), before);
    // The snapshot that was made under load: one moment of the pair, and the dataset whole.
    let other = Redis::start(&["-v", &other], &[]);
    let pair = other.ask(&["-n", "1", "mget", "first", "second"]);
    let (first, second) = pair.split_once('\n').unwrap();
    assert!(first == second && first.parse::<u64>().unwrap() > 500, "{pair}");
    assert_eq!(other.ask(&["-n", "1", "flushdb"]), "OK");
    assert_eq!(other.digest(), whole);
}

impl Redis {
    /// A snapshot while nobody writes.
    fn child_quietly(&self) {
        assert_eq!(self.ask(&["save"]), "OK", "{}", self.guest.output());
    }
}

#[test]
fn an_append_only_file_is_rewritten_under_load() {
    let _alone = alone();
    let (_dir, volume) = data("rewrite");
    let arguments =
        ["--appendonly", "yes", "--aof-use-rdb-preamble", "no", "--auto-aof-rewrite-percentage", "0"];
    let before = {
        let mut redis = Redis::start(&["-v", &volume], &arguments);
        redis.populate();
        let load = redis.load();
        redis.child("bgrewriteaof", "aof");
        redis.child("bgrewriteaof", "aof");
        drop(load);
        let before = redis.digest();
        redis.guest.signal(libc::SIGTERM);
        assert_eq!(shell_status(redis.guest.wait()), 0, "{}", redis.guest.output());
        before
    };
    let redis = Redis::start(&["-v", &volume], &arguments);
    let loaded = || redis.info("persistence", "loading") == "0";
    assert!(eventually(patience(), loaded), "{}", redis.guest.output());
    assert_eq!(redis.digest(), before, "{}", redis.guest.output());
}

impl Network {
    fn redis(&self, name: &str, arguments: &[&str]) -> Redis {
        Redis::start(&["--net", &self.0, "--name", name, "--cpus", "1"], arguments)
    }
}

/// The guest's address in its network.
fn address(name: &str) -> String {
    let listed = text(attacca().args(["ps", "--json"]).output().unwrap());
    let guests: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let own = guests.as_array().unwrap().iter().find(|guest| guest["name"] == name).unwrap();
    own["address"].as_str().unwrap().to_owned()
}

#[test]
fn a_replica_is_resynchronised_under_load() {
    let _alone = alone();
    let network = Network::start("replication", &[]);
    // The backlog must cover what a replica that has just loaded its snapshot is behind by, on the slowest machine.
    let primary = network.redis("primary", &["--repl-backlog-size", "1gb"]);
    primary.populate();
    let load = primary.load();
    let replica = network.redis("replica", &["--replicaof", "primary", "6379"]);
    let linked = || replica.info("replication", "master_link_status") == "up";
    assert!(eventually(patience(), linked), "{}\n{}", replica.guest.output(), primary.guest.output());
    assert!(replica.ask(&["set", "x", "1"]).contains("READONLY"));
    // A link that breaks is taken up where it was, without a new snapshot.
    assert_eq!(primary.ask(&["client", "kill", "type", "replica"]), "1");
    let partial = || primary.info("stats", "sync_partial_ok") == "1";
    assert!(eventually(PATIENCE, || partial() && linked()), "{}", replica.guest.output());
    assert_eq!(primary.info("stats", "sync_full"), "1", "{}", primary.guest.output());
    drop(load);
    let offset = |redis: &Redis, field| redis.info("replication", field);
    let even = || offset(&primary, "master_repl_offset") == offset(&replica, "slave_repl_offset");
    assert!(eventually(patience(), even), "{}", replica.guest.output());
    assert_eq!(replica.digest(), primary.digest());
    // And again by the other way of a full resynchronisation: the child writes to the socket, not to a file.
    assert_eq!(
        primary.ask(&["config", "set", "repl-diskless-sync", "yes", "repl-diskless-sync-delay", "0"]),
        "OK"
    );
    assert_eq!(replica.ask(&["replicaof", "no", "one"]), "OK");
    assert_eq!(replica.ask(&["flushall"]), "OK");
    assert_eq!(replica.ask(&["replicaof", "primary", "6379"]), "OK");
    assert!(eventually(patience(), linked), "{}\n{}", replica.guest.output(), primary.guest.output());
    assert!(eventually(patience(), even), "{}", replica.guest.output());
    assert_eq!(replica.digest(), primary.digest());
}

#[test]
fn sentinels_promote_the_replica() {
    let _alone = alone();
    let network = Network::start("sentinel", &[]);
    let primary = network.redis("one", &[]);
    let first = address("one");
    let replica = network.redis("two", &["--replicaof", &first, "6379"]);
    let second = address("two");
    let linked = || replica.info("replication", "master_link_status") == "up";
    assert!(eventually(PATIENCE, linked), "{}", replica.guest.output());
    assert_eq!(primary.ask(&["set", "kept", "over"]), "OK");
    let sentinels = ["s1", "s2", "s3"].map(|name| {
        let (dir, volume) = data(&format!("sentinel-{name}"));
        let configuration = format!(
            "port 6379\nprotected-mode no\nsentinel monitor main {first} 6379 2\n\
             sentinel down-after-milliseconds main 3000\nsentinel failover-timeout main 10000\n"
        );
        fs::write(dir.join("sentinel.conf"), configuration).unwrap();
        let port = free_port();
        let publish = format!("127.0.0.1:{port}:6379");
        let guest = Guest::start(&[
            "--net",
            &network.0,
            "--name",
            name,
            "--cpus",
            "1",
            "-v",
            &volume,
            "-p",
            &publish,
            "debian:redis-server",
            "/data/sentinel.conf",
            "--sentinel",
        ]);
        Redis { guest, port }
    });
    for sentinel in &sentinels {
        // Each knows the two others, by the servers' channels.
        let knows = || sentinel.ask(&["sentinel", "ckquorum", "main"]).starts_with("OK 3 usable");
        assert!(eventually(PATIENCE, knows), "{}", sentinel.guest.output());
        let master = sentinel.ask(&["sentinel", "get-master-addr-by-name", "main"]);
        assert_eq!(master, format!("{first}\n6379"));
    }
    primary.guest.signal(libc::SIGKILL);
    let promoted = format!("{second}\n6379");
    for sentinel in &sentinels {
        let agreed = || sentinel.ask(&["sentinel", "get-master-addr-by-name", "main"]) == promoted;
        assert!(eventually(PATIENCE * 2, agreed), "{}", sentinel.guest.output());
    }
    assert!(
        eventually(PATIENCE, || replica.info("replication", "role") == "master"),
        "{}",
        replica.guest.output()
    );
    assert_eq!(
        (replica.ask(&["get", "kept"]), replica.ask(&["set", "new", "1"])),
        ("over".into(), "OK".into())
    );
    // The old one comes back at its address, and is told that it is a replica now.
    drop(primary);
    let options = ["--net", &network.0, "--name", "one", "--cpus", "1", "--ip", &first];
    let again = Redis::start(&options, &[]);
    let follows = || again.info("replication", "role") == "slave" && again.ask(&["get", "new"]) == "1";
    assert!(eventually(PATIENCE * 2, follows), "{}\n{}", again.guest.output(), sentinels[0].guest.output());
}
