//! Debian's memcached, unmodified, with four threads as a guest: protocol checks, load from the host, and
//! memcached's own tests. What counts is what the same programs find at a native memcached.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(120);

fn start_guest() -> (Guest, u16) {
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:11211");
    let mut guest = Guest::start(&["-p", &publish, "debian:memcached", "-t", "4"]);
    guest.wait_for_port(port);
    (guest, port)
}

fn start_native() -> (Native, u16) {
    let port = free_port();
    let mut server = native("memcached", "memcached");
    server.args(["-t", "4", "-U", "0", "-u", "root", "-l", "127.0.0.1", "-p", &port.to_string()]);
    (Native::start(&mut server, port), port)
}

/// Debian calls libmemcached's `memcapable` and `memaslap` `memccapable` and `memcaslap`.
fn client(program: &str, args: &[&str]) -> Output {
    run_limited(native("libmemcached-tools", program).args(args), LIMIT)
}

#[test]
fn memcapable_finds_what_it_finds_natively() {
    let _alone = alone();
    let (guest, port) = start_guest();
    let (_native, native_port) = start_native();
    for protocol in ["-a", "-b"] {
        let run = |port: u16| {
            client("memccapable", &["-h", "127.0.0.1", "-p", &port.to_string(), protocol, "-t", "10"])
        };
        let want = text(run(native_port));
        assert!(want.contains("All tests passed") && want.lines().count() > 20, "natively: {want}");
        let got = run(port);
        let words = String::from_utf8_lossy(&got.stdout);
        assert_eq!(words, want, "{}\n{}", String::from_utf8_lossy(&got.stderr), guest.output());
        assert!(got.status.success());
    }
}

#[test]
fn memcslap_gets_and_sets_without_an_error() {
    let _alone = alone();
    let (guest, port) = start_guest();
    let server = format!("--servers=127.0.0.1:{port}");
    let options: [&[&str]; 5] = [
        &["--test=set"],
        &["--test=get"],
        &["--test=mget"],
        &["--test=get", "--binary"],
        &["--test=set", "--non-blocking", "--tcp-nodelay"],
    ];
    for options in options {
        let mut args = vec![&*server, "--concurrency=8", "--execute-number=2000"];
        args.extend(options);
        let output = client("memcslap", &args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = text(output);
        assert!(words.contains("Time total"), "{options:?}: {words}\n{errors}\n{}", guest.output());
        // It reports what failed or was not found in words of its own, and still ends with 0.
        let complaint = errors.lines().chain(words.lines()).find(|line| {
            ["fail", "error", "not found", "timeout"].iter().any(|w| line.to_lowercase().contains(w))
        });
        assert_eq!(complaint, None, "{options:?}: {words}\n{errors}");
    }
}

#[test]
fn memaslap_has_no_miss() {
    let _alone = alone();
    let (guest, port) = start_guest();
    let server = format!("127.0.0.1:{port}");
    for options in [&["-c", "1"][..], &["-c", "16"], &["-c", "64"], &["-c", "16", "--binary"]] {
        let mut args = vec!["-s", &*server, "-T", "1", "-x", "51200"];
        args.extend(options);
        let words = text(client("memcaslap", &args));
        let field = |name: &str| -> u64 {
            let line = words.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("{options:?}: no {name} in\n{words}")).trim().parse().unwrap()
        };
        assert_eq!(field("get_misses"), 0, "{options:?}: {words}\n{}", guest.output());
        assert_eq!(field("cmd_get") + field("cmd_set"), 51_200, "{options:?}: {words}");
    }
}

/// Numbers that memcached keeps of itself: threads, and every byte of what was stored.
#[test]
fn keeps_what_it_is_given() {
    let _alone = alone();
    let (_guest, port) = start_guest();
    let mut memcached = Connection::open(port);
    assert_eq!(memcached.stats()["threads"], "4");
    for size in [0, 1, 100, 1400, 1460, 1461, 8192, 65_535, 65_536, 1_000_000] {
        let value = pattern(size);
        assert_eq!(memcached.set("key", &value), "STORED", "{size}");
        assert!(memcached.get("key") == Some(value), "{size} bytes come back changed");
    }
    // One connection for each thread and more, all open at once.
    let mut many: Vec<Connection> = (0..40).map(|_| Connection::open(port)).collect();
    for (i, connection) in many.iter_mut().enumerate() {
        assert_eq!(connection.set(&format!("k{i}"), format!("v{i}").as_bytes()), "STORED");
    }
    for (i, connection) in many.iter_mut().rev().enumerate() {
        assert_eq!(connection.get(&format!("k{i}")).as_deref(), Some(format!("v{i}").as_bytes()));
    }
}

#[test]
fn ends_by_signals_as_natively() {
    let _alone = alone();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (native, _) = start_native();
        // SAFETY: our own child, not yet reaped.
        assert_eq!(unsafe { libc::kill(native.pid(), signal) }, 0);
        let want = native.wait();
        let (mut guest, _) = start_guest();
        guest.signal(signal);
        let status = guest.wait();
        assert_eq!(shell_status(status), shell_status(want), "signal {signal}\n{}", guest.output());
    }
}

/// memcached's own tests. Each starts its server through a `memcached-debug`, here a wrapper around the
/// guest; the Perl side stays on the host.
#[test]
fn memcacheds_own_tests() {
    let _alone = alone();
    let long = std::env::var_os("ATTACCA_LONG").is_some();
    let table = rows("apps/memcached.tsv");
    let known = rows("known-failures/memcached.txt");
    let dir = prepare_suite();
    let chosen = table.iter().filter(|row| row[1] == "PASS" && (long || row[3] == "ci"));
    let queue = Mutex::new(chosen.map(|row| row[0].clone()).collect::<Vec<_>>());
    let wrong = Mutex::new(Vec::new());
    // Two at a time: they mostly sleep.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(name) = queue.lock().unwrap().pop() else { return };
                    let outcome = run_perl_test(&dir, &name);
                    let listed = known.iter().any(|row| row[0] == name);
                    match (&outcome, listed) {
                        (Ok(()), true) => wrong
                            .lock()
                            .unwrap()
                            .push(format!("{name}: passes, but is listed as a known failure")),
                        (Err(why), false) => wrong.lock().unwrap().push(format!("{name}: {why}")),
                        _ => (),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} tests of memcached end wrongly:\n{}", wrong.len(), wrong.join("\n"));
}

/// A table of compat-tests: lines of fields by tabs (or blanks), without comments.
fn rows(path: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests").join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    let split = |l: &str| match l.contains('\t') {
        true => l.split('\t').map(String::from).collect(),
        false => l.split_whitespace().map(String::from).collect(),
    };
    lines.map(split).collect()
}

/// The suite in a folder of its own, with timedrun built and the wrapper in memcached's place.
fn prepare_suite() -> PathBuf {
    let source = debian_source("memcached");
    let dir = scratch("memcached-suite");
    let parts = ["t", "doc", "timedrun.c"].map(|part| source.join(part));
    assert!(Command::new("cp").arg("-a").args(parts).arg(&dir).status().unwrap().success());
    let built = Command::new("gcc").args(["-O2", "-o", "timedrun", "timedrun.c"]).current_dir(&dir).status();
    assert!(built.unwrap().success());
    let wrapper = dir.join("memcached-debug");
    fs::write(&wrapper, WRAPPER).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    patch_module(&dir.join("t/lib/MemcachedTest.pm"));
    dir
}

/// Becomes the guest. The port that a test asks for is published under the same number (-1: memcached
/// chooses, and the test only reads which). Debian builds
/// without privilege dropping in "relaxed" form, so that option goes; a Unix socket inside a guest is not
/// the host's, so the help hides it and the tests use TCP; 127.0.0.1 is the guest's own loopback, which
/// the tests on the host cannot reach, so that `-l` goes, too. What tests set in the environment passes.
const WRAPPER: &str = r#"#!/bin/sh
if [ "$1" = -h ]; then
    "$ATTACCA" run --net none debian:memcached -h | grep -v unix-socket
    exit
fi
left=$# publish= before=
while [ "$left" -gt 0 ]; do
    word=$1
    shift
    left=$((left - 1))
    case "$word $1" in
        "-o relaxed_privileges" | "-l 127.0.0.1") shift; left=$((left - 1)); continue ;;
    esac
    case $before in
        -p) [ "$word" -le 0 ] || publish="$publish -p 127.0.0.1:$word:$word" ;;
        -U) [ "$word" -le 0 ] || publish="$publish -p 127.0.0.1:$word:$word/udp" ;;
    esac
    before=$word
    set -- "$@" "$word"
done
exec "$ATTACCA" run $publish -e T_MEMD_INITIAL_MALLOC -e T_MEMD_SLABS_ALLOC -e MEMCACHED_PORT_FILENAME -v /tmp:/tmp -v "$PWD:$PWD" debian:memcached "$@"
"#;

/// A published port takes connections a moment before the guest listens, and resets them; the suite asks
/// once and takes what it gets. So it first asks for an answer: for the version, in memcached's binary
/// protocol, with a line's end for those who speak text only. Where a test counts even that, it waits.
fn patch_module(path: &Path) {
    let module = fs::read_to_string(path).unwrap();
    let connect = r#"$conn = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port");"#;
    assert_eq!(module.matches(connect).count(), 1, "another MemcachedTest.pm than expected");
    let patient = r#"$conn = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") if answers($port);"#;
    let answers = r#"
sub answers {
    my $conn = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$_[0]") or return 0;
    my $readable = '';
    vec($readable, fileno($conn), 1) = 1;
    return !select($readable, undef, undef, 2) if $0 =~ /stats\.t$/;
    local $SIG{PIPE} = 'IGNORE';
    syswrite($conn, pack("CCnCCnNNNN", 0x80, 0x0b, (0) x 8) . "\r\n");
    return select($readable, undef, undef, 2) && sysread($conn, my $answer, 64);
}

sub new_memcached {"#;
    let patched = module.replace(connect, patient).replacen("\nsub new_memcached {", answers, 1);
    fs::write(path, patched).unwrap();
}

/// Runs one test: it must end with status 0, say "ok" as often as it planned, and "not ok" never.
fn run_perl_test(dir: &Path, name: &str) -> Result<(), String> {
    let output = run_limited(
        perl().current_dir(dir).env("XDG_RUNTIME_DIR", runtime_dir()).arg(format!("t/{name}.t")),
        Duration::from_secs(600),
    );
    let words = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = words
        .lines()
        .filter(|l| l.starts_with("not ok") && !l.contains("# TODO") && !l.contains("# SKIP"))
        .collect();
    let plan = words.lines().find_map(|l| l.strip_prefix("1..")?.split_whitespace().next()?.parse().ok());
    let counted = words.lines().filter(|l| l.starts_with("ok ") || l.starts_with("not ok ")).count();
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rfind(|l| !l.starts_with('#') && !l.is_empty()).unwrap_or_default();
    if failed.is_empty() && output.status.success() && plan == Some(counted) {
        return Ok(());
    }
    let first = failed.first().copied().unwrap_or_default();
    Err(format!("{}, {counted} of {plan:?}, {} failed: {first} | {last}", output.status, failed.len()))
}

/// Perl of Debian's package, natively: a fresh machine has only perl-base, without the modules.
fn perl() -> Command {
    let root = debian_root("perl");
    let mut perl = native("perl", "perl");
    let parts =
        ["usr/share/perl/5.36", "usr/lib/x86_64-linux-gnu/perl/5.36", "usr/lib/x86_64-linux-gnu/perl-base"];
    let paths = std::env::join_paths(parts.map(|p| root.join(p))).unwrap();
    perl.env("PERL5LIB", paths).env("ATTACCA", env!("CARGO_BIN_EXE_attacca"));
    perl
}

/// memcached's text protocol, as far as it is needed here.
struct Connection {
    stream: std::io::BufReader<std::net::TcpStream>,
}

impl Connection {
    fn open(port: u16) -> Connection {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection { stream: std::io::BufReader::new(stream) }
    }

    fn send(&mut self, bytes: &[u8]) {
        std::io::Write::write_all(self.stream.get_mut(), bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.stream, &mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn set(&mut self, key: &str, value: &[u8]) -> String {
        let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        self.send(&request);
        self.line()
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.send(format!("get {key}\r\n").as_bytes());
        let head = self.line();
        let len: usize = head.strip_prefix("VALUE ")?.rsplit(' ').next()?.parse().ok()?;
        let mut value = vec![0; len + 2];
        std::io::Read::read_exact(&mut self.stream, &mut value).unwrap();
        value.truncate(len);
        assert_eq!(self.line(), "END");
        Some(value)
    }

    fn stats(&mut self) -> BTreeMap<String, String> {
        self.send(b"stats\r\n");
        let mut stats = BTreeMap::new();
        loop {
            let line = self.line();
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("STAT"), Some(name), Some(value)) => drop(stats.insert(name.into(), value.into())),
                _ => return stats,
            }
        }
    }
}
