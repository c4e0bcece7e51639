//! Debian's PostgreSQL 15, unmodified, as a family of processes: initdb, the postmaster and its children, clients of
//! the host over a published port; backends killed from inside and from outside; a data folder that outlives its guests.
//!
//! Needs root: the postmaster wants to own its data folder and refuses to be root, and only root's guests can be
//! another user on a volume.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const BIN: &str = "usr/lib/postgresql/15/bin";

/// A fresh cluster on the host, and a guest that serves it.
struct Cluster {
    name: String,
    volume: String,
    port: u16,
    guest: Guest,
}

impl Cluster {
    /// `None`, with a word about it, where it cannot be tested.
    fn start(name: &str) -> Option<Cluster> {
        // SAFETY: no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!(
                "{name}: NOT TESTED: the postmaster's user must own a volume's files, which takes root"
            );
            return None;
        }
        let dir = scratch(&format!("postgres-{name}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let volume = format!("{}:/var/lib/postgresql", dir.display());
        let mut initdb = attacca();
        initdb.args(["run", "--net", "none", "-v", &volume, "debian:postgresql-15:initdb", "-A", "trust"]);
        let words = text(run_limited(&mut initdb, LIMIT));
        assert!(words.contains("Success. You can now start the database server"), "{words}");
        allow_clients(&dir.join("data/pg_hba.conf"));
        let port = free_port();
        let guest = serve(name, &volume, port);
        let cluster = Cluster { name: name.into(), volume, port, guest };
        cluster.wait();
        Some(cluster)
    }

    /// Stops the guest by `signal` and starts another one on the same data.
    fn restart(&mut self, signal: i32, status: i32) {
        self.guest.signal(signal);
        assert_eq!(shell_status(self.guest.wait()), status, "{}", self.guest.output());
        // Whoever was killed with its master ends by itself; the data folder is one guest's at a time.
        assert!(eventually(PATIENCE, || self.processes().is_empty()), "{:?}", self.processes());
        self.guest = serve(&self.name, &self.volume, self.port);
        self.wait();
    }

    fn wait(&self) {
        let up = || self.try_ask("select 'up'").is_some_and(|answer| answer == "up");
        assert!(eventually(PATIENCE, up), "{}", self.guest.output());
    }

    fn client(&self, program: &str) -> Command {
        let mut command = program_of(program);
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()]);
        command
    }

    fn try_ask(&self, query: &str) -> Option<String> {
        let mut psql = self.client("psql");
        let output = run_limited(psql.args(["-XAtq", "-c", query, "postgres"]), LIMIT);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    }

    /// The answer to a query.
    fn ask(&self, query: &str) -> String {
        self.try_ask(query).unwrap_or_else(|| panic!("{query}\n{}", self.guest.output()))
    }

    fn bench(&self, args: &[&str]) -> String {
        text(run_limited(self.client("pgbench").arg("-n").args(args).arg("postgres"), LIMIT))
    }

    /// What pgbench's transactions keep equal (pgbench(1), "What is the Transaction Actually Performed").
    fn balances(&self) -> String {
        let sums = self.ask(
            "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), \
             (select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history)",
        );
        let all: Vec<&str> = sums.split('|').collect();
        assert!(all.len() == 4 && all.iter().all(|sum| sum == &all[0]), "{sums}\n{}", self.guest.output());
        sums
    }

    fn processes(&self) -> Vec<i32> {
        let listed = text(attacca().args(["ps", "--json"]).output().unwrap());
        let guests: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let own = guests.as_array().unwrap().iter().find(|guest| guest["name"] == self.name.as_str());
        let pids = own.and_then(|guest| guest["processes"].as_array()).cloned().unwrap_or_default();
        pids.iter().filter_map(|pid| pid.as_i64().map(|pid| pid as i32)).collect()
    }

    /// Waits until the postmaster has recovered for the `times`th time.
    fn recovered(&self, times: usize) {
        let words = || self.guest.output();
        let again = || words().matches("all server processes terminated; reinitializing").count() == times;
        assert!(eventually(PATIENCE, again), "{}", words());
        self.wait();
    }
}

/// The guest is another machine to its clients, also to those of the host.
fn allow_clients(hba: &Path) {
    let rules = fs::read_to_string(hba).unwrap() + "host all all 0.0.0.0/0 trust\n";
    fs::write(hba, rules).unwrap();
}

fn serve(name: &str, volume: &str, port: u16) -> Guest {
    let publish = format!("127.0.0.1:{port}:5432");
    let options = ["-p", &publish, "--name", name, "-v", volume];
    let program = ["debian:postgresql-15", "-c", "listen_addresses=*"];
    Guest::start(&[&options[..], &program].concat())
}

/// A client, natively. (Debian's /usr/bin/psql is a Perl wrapper that looks for installed clusters.)
fn program_of(program: &str) -> Command {
    let root = debian_root("postgresql-15");
    let lib = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(lib.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&lib).arg(root.join(BIN).join(program));
    command.env("LC_ALL", "C.UTF-8").env("PGCLIENTENCODING", "UTF8").stdin(Stdio::null());
    command
}

fn compat_tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests/apps/postgres").join(path)
}

/// A script of many statements, whose output is a native server's (compat-tests/apps/postgres).
#[test]
fn a_script_ends_as_natively() {
    let _alone = alone();
    let Some(cluster) = Cluster::start("script") else { return };
    let mut psql = cluster.client("psql");
    psql.args(["-X", "-a", "-q", "postgres"]).stdin(fs::File::open(compat_tests("regress.sql")).unwrap());
    let output = run_limited(&mut psql, LIMIT * 2);
    let wanted = |path: &str| fs::read_to_string(compat_tests(path)).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), wanted("regress.err"), "{}", cluster.guest.output());
    let (seen, wanted) = (text(output), wanted("regress.out"));
    for (number, (seen, wanted)) in seen.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(seen, wanted, "line {}\n{}", number + 1, cluster.guest.output());
    }
    assert_eq!(seen.lines().count(), wanted.lines().count());
}

#[test]
fn pgbench_and_killed_backends() {
    let _alone = alone();
    let Some(cluster) = Cluster::start("bench") else { return };
    cluster.bench(&["-i", "-q", "-s", "2"]);
    let words = cluster.bench(&["-c", "8", "-j", "2", "-t", "60"]);
    assert!(words.contains("transactions actually processed: 480/480"), "{words}");
    let words = cluster.bench(&["-S", "-c", "8", "-T", "2", "-C"]);
    assert!(words.contains("number of failed transactions: 0"), "{words}");
    let before = cluster.balances();
    // From inside: by a shell that the backend started.
    assert_eq!(cluster.try_ask("copy (select 1) to program 'kill -9 $PPID'"), None);
    cluster.recovered(1);
    assert_eq!(cluster.balances(), before);
    // From outside: one that is busy.
    let old = cluster.processes();
    let sleeper = std::thread::scope(|scope| {
        let asked = scope.spawn(|| cluster.try_ask("select pg_sleep(50)"));
        let mut backend = None;
        let busy =
            || cluster.ask("select count(*) from pg_stat_activity where query like '%sleep(50)'") == "1";
        assert!(eventually(PATIENCE, busy), "{}", cluster.guest.output());
        // The one that stays, and is not the launcher's or a query's of this test.
        assert!(eventually(PATIENCE, || {
            let once = cluster.processes();
            std::thread::sleep(Duration::from_millis(300));
            let again = cluster.processes();
            backend = once.into_iter().find(|pid| !old.contains(pid) && again.contains(pid));
            backend.is_some()
        }));
        // SAFETY: a process of the guest that this test started.
        assert_eq!(unsafe { libc::kill(backend.unwrap(), libc::SIGKILL) }, 0);
        asked.join().unwrap()
    });
    assert_eq!(sleeper, None);
    cluster.recovered(2);
    assert_eq!(cluster.balances(), before);
    let words = cluster.bench(&["-c", "8", "-t", "20"]);
    assert!(words.contains("transactions actually processed: 160/160"), "{words}");
    assert_ne!(cluster.balances(), before);
    assert!(!cluster.guest.output().contains("PANIC"), "{}", cluster.guest.output());
}

#[test]
fn the_data_folder_outlives_its_guests() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::start("data") else { return };
    cluster.bench(&["-i", "-q"]);
    cluster.bench(&["-c", "4", "-t", "25"]);
    let before = cluster.balances();
    let digest = "select md5(string_agg(a::text, '' order by aid)) from pgbench_accounts a";
    let rows = cluster.ask(digest);
    // A fast shutdown (postgres(1)).
    cluster.restart(libc::SIGINT, 0);
    assert!(
        cluster.guest.output().contains("database system was shut down at"),
        "{}",
        cluster.guest.output()
    );
    assert_eq!((cluster.balances(), cluster.ask(digest)), (before, rows));
    // The postmaster dies: its children see that and end, and the next one recovers.
    cluster.bench(&["-c", "4", "-t", "25"]);
    let (before, rows) = (cluster.balances(), cluster.ask(digest));
    cluster.restart(libc::SIGKILL, 128 + libc::SIGKILL);
    let words = cluster.guest.output();
    assert!(words.contains("database system was not properly shut down; automatic recovery"), "{words}");
    assert_eq!((cluster.balances(), cluster.ask(digest)), (before, rows));
}
