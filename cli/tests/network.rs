//! Networks with a name: several guests, by addresses of their own or sharing one, by name; limits; what
//! `attacca server` says and does.

mod support;

use std::fs;
use std::path::PathBuf;
use support::network::Network;
use support::{Guest, PATIENCE, alone, attacca, compile, eventually, run_limited, text};

impl Network {
    fn guest_status(&self, name: &str) -> serde_json::Value {
        let status = self.status();
        let guests = status["guests"].as_array().unwrap();
        guests.iter().find(|g| g["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
    }

    /// A guest that ends by itself: its output.
    fn ask(&self, name: &str, args: &[&str], program: &[&str]) -> String {
        let mut guest = self.run(name, args, program);
        let status = guest.wait();
        assert!(status.success(), "{status}: {}", guest.output());
        guest.output()
    }
}

/// `serve PORT WORD`: answers each connection with the word. `ask HOST PORT`: prints what it hears.
/// `bind PORT...`: prints how binding ends. `flood HOST PORT MS`: sends datagrams so long, prints how many.
fn tool() -> PathBuf {
    static SOURCE: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int listener(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (bind(fd, (struct sockaddr *)&at, sizeof at)) return -errno;
    return listen(fd, 16) ? -errno : fd;
}

static int reach(const char *host, const char *port, int kind) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = kind}, *found;
    int error = getaddrinfo(host, port, &hints, &found);
    if (error) { printf("name: %s\n", gai_strerror(error)); exit(2); }
    int fd = socket(AF_INET, kind, 0);
    if (connect(fd, found->ai_addr, found->ai_addrlen)) { printf("connect: %s\n", strerror(errno)); exit(3); }
    return fd;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc < 3) return 9;
    if (!strcmp(argv[1], "serve")) {
        int fd = listener(atoi(argv[2]));
        if (fd < 0) { printf("bind: %s\n", strerror(-fd)); return 1; }
        printf("ready\n");
        for (;;) {
            int peer = accept(fd, NULL, NULL);
            if (peer < 0) return 1;
            dprintf(peer, "%s\n", argv[3]);
            close(peer);
        }
    }
    if (!strcmp(argv[1], "bind")) {
        for (int i = 2; i < argc; i++) {
            int fd = listener(atoi(argv[i]));
            printf("%s\n", fd < 0 ? strerror(-fd) : "bound");
        }
        return 0;
    }
    if (!strcmp(argv[1], "ask")) {
        int fd = reach(argv[2], argv[3], SOCK_STREAM);
        char word[256];
        ssize_t got, all = 0;
        while ((got = read(fd, word + all, sizeof word - 1 - all)) > 0) all += got;
        word[all] = 0;
        printf("%s", word);
        return got != 0;
    }
    int fd = reach(argv[2], argv[3], SOCK_DGRAM);
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += atol(argv[4]) % 1000 * 1000000;
    end.tv_sec += atol(argv[4]) / 1000;
    long count = 0;
    char bytes[1000] = {0};
    do {
        count += send(fd, bytes, sizeof bytes, 0) > 0;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
    printf("%ld\n", count);
    return 0;
}
"#;
    compile("network-tool", SOURCE, &[])
}

fn up(guest: &Guest) -> &Guest {
    assert!(eventually(PATIENCE, || guest.output().contains("ready")), "{}", guest.output());
    guest
}

#[test]
fn guests_find_each_other_by_address_and_by_name() {
    let _alone = alone(); // guests' names are taken once in a runtime directory
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("names", &["--ip", "10.77.3.0/24"]);
    let server = network.run("Alpha", &["--ip", "10.77.3.9"], &[tool, "serve", "700", "hello from alpha"]);
    up(&server);
    assert_eq!(network.guest_status("Alpha")["address"], "10.77.3.9");
    for host in ["10.77.3.9", "alpha", "ALPHA.attacca"] {
        assert_eq!(network.ask("beta", &[], &[tool, "ask", host, "700"]), "hello from alpha\n");
    }
    // A closed port refuses, and a name that nobody has is none.
    let mut refused = network.run("beta", &[], &[tool, "ask", "alpha", "701"]);
    assert_eq!(refused.wait().code(), Some(3), "{}", refused.output());
    assert!(refused.output().contains("refused"), "{}", refused.output());
    let counts = network.guest_status("Alpha");
    assert!(counts["frames_from"].as_u64() > Some(10) && counts["frames_to"].as_u64() > Some(10), "{counts}");
    drop(server);
    // Its name and address are free again.
    assert!(eventually(PATIENCE, || network.status()["guests"].as_array().unwrap().is_empty()));
    let again = network.run("Alpha", &["--ip", "10.77.3.9/24"], &[tool, "serve", "700", "again"]);
    up(&again);
    assert_eq!(network.ask("beta", &[], &[tool, "ask", "alpha", "700"]), "again\n");
}

#[test]
fn guests_share_an_address_by_ports() {
    let _alone = alone(); // guests' names are taken once in a runtime directory
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("shared", &[]);
    let same = ["--ip", "10.0.2.40"];
    let one = network.run("one", &same, &[tool, "serve", "80", "one"]);
    up(&one);
    let two = network.run("two", &same, &[tool, "serve", "81", "two"]);
    let three = network.run("three", &same, &[tool, "serve", "8080", "three"]);
    up(&two);
    up(&three);
    for (port, word) in [("80", "one\n"), ("81", "two\n"), ("8080", "three\n")] {
        assert_eq!(network.ask("client", &[], &[tool, "ask", "10.0.2.40", port]), word);
    }
    // What one has, no other gets; nobody's port refuses.
    assert_eq!(network.ask("four", &same, &[tool, "bind", "81"]), "Address already in use\n");
    assert_eq!(network.ask("four", &same, &[tool, "bind", "82"]), "bound\n");
    let mut closed = network.run("client", &[], &[tool, "ask", "10.0.2.40", "83"]);
    assert_eq!(closed.wait().code(), Some(3), "{}", closed.output());
    assert_eq!(network.guest_status("two")["shared"], true);
    // A guest that goes gives its ports back; the others notice nothing.
    drop(one);
    assert!(eventually(PATIENCE, || network.status()["guests"].as_array().unwrap().len() == 2));
    assert_eq!(network.ask("four", &same, &[tool, "bind", "80"]), "bound\n");
    assert_eq!(network.ask("client", &[], &[tool, "ask", "10.0.2.40", "8080"]), "three\n");
    // Sharers reach the world and others too: their connections come back to them.
    let other = network.run("other", &[], &[tool, "serve", "90", "other"]);
    up(&other);
    assert_eq!(network.ask("five", &same, &[tool, "ask", "other", "90"]), "other\n");
}

#[test]
fn limits_hold_for_the_one_who_has_them() {
    let _alone = alone(); // guests' names are taken once in a runtime directory
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("limits", &["--guest-ports", "1"]);
    let target = network.run("target", &[], &[tool, "serve", "80", "here"]);
    up(&target);
    let limit = ["--net-frames", "1000"];
    let mut slow = network.run("slow", &limit, &[tool, "flood", "target", "9", "1500"]);
    // The flood costs others nothing.
    assert_eq!(network.ask("client", &[], &[tool, "ask", "target", "80"]), "here\n");
    slow.wait();
    let got = network.guest_status("target")["frames_to"].as_u64().unwrap();
    assert!(got > 20 && got < 20_000, "{got} frames in seconds at 1000 a second");
    // One port each; the same one twice is one.
    let words = network.ask("ports", &[], &[tool, "bind", "1000", "1001"]);
    assert_eq!(words, "bound\nAddress already in use\n");
}

#[test]
fn restart_upgrade_stop_and_status() {
    let _alone = alone(); // guests' names are taken once in a runtime directory
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("lives", &[]);
    let server = network.run("server", &[], &[tool, "serve", "80", "still here"]);
    up(&server);
    let before = network.status();
    assert_eq!((&before["state"], &before["restarts"]), (&"running".into(), &0.into()));
    let mut known = vec![before["pid"].clone()];
    for action in ["restart", "upgrade", "restart"] {
        network.say(action);
        let status = network.status();
        assert!(!known.contains(&status["pid"]), "{action}: {status}");
        known.push(status["pid"].clone());
        assert_eq!(network.ask("client", &[], &[tool, "ask", "server", "80"]), "still here\n");
    }
    assert_eq!(network.status()["restarts"], 3);
    // What is no server is refused, and the old one goes on.
    let mut wrong = attacca();
    let wrong = run_limited(wrong.args(["server", "upgrade", "--net", &network.0, "/bin/true"]), PATIENCE);
    assert_eq!(wrong.status.code(), Some(125));
    assert_eq!(network.ask("client", &[], &[tool, "ask", "server", "80"]), "still here\n");
    // The same name twice, and one that nobody has.
    let mut twice = attacca();
    let twice = run_limited(twice.args(["server", "start", "--net", &network.0]), PATIENCE);
    assert!(String::from_utf8_lossy(&twice.stderr).contains("is running"));
    let mut nobody = attacca();
    let nobody = run_limited(nobody.args(["run", "--net", "nobody", "/bin/true"]), PATIENCE);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no network is called 'nobody'"));
    let pids: Vec<i64> = ["pid", "supervisor"].map(|k| network.status()[k].as_i64().unwrap()).into();
    network.say("stop");
    let gone = || pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap());
    assert!(eventually(PATIENCE, gone));
}

/// Whether a process has ended: it is gone, or waits for somebody who asks how it was.
fn has_ended(pid: &serde_json::Value) -> bool {
    let pid = pid.as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

#[test]
fn stop_comes_back_when_all_processes_have_ended() {
    for _ in 0..5 {
        let net = Network::start("ends", &[]);
        let status = net.status();
        net.say("stop");
        for role in ["supervisor", "pid"] {
            assert!(has_ended(&status[role]), "{role} of {status}");
        }
    }
}

#[test]
fn stop_names_what_does_not_end() {
    let net = Network::start("stays", &[]);
    let pid = net.status()["supervisor"].as_i64().unwrap() as i32;
    // SAFETY: the supervisor of the network that this test started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    let stopped = run_limited(attacca().args(["server", "stop", "--net", &net.0]), PATIENCE);
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    let words = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(!stopped.status.success(), "{words}");
    assert!(
        words.contains(&format!("process {pid} (attacca-net)")) && words.contains("attacca-server"),
        "{words}"
    );
}

#[test]
fn a_supervisor_that_died_is_succeeded() {
    let _alone = alone(); // guests' names are taken once in a runtime directory
    let tool = tool();
    let tool = tool.to_str().unwrap();
    let network = Network::start("orphans", &[]);
    let same = ["--ip", "10.0.2.50"];
    let one = network.run("one", &same, &[tool, "serve", "80", "one"]);
    let two = network.run("two", &same, &[tool, "serve", "81", "two"]);
    up(&one);
    up(&two);
    let before = network.status();
    let pid = before["supervisor"].as_i64().unwrap() as i32;
    // SAFETY: the supervisor of a network that this test started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    assert!(eventually(PATIENCE, || one.output().contains("supervisor is gone")), "{}", one.output());
    let mut start = attacca();
    text(run_limited(start.args(["server", "start", "--net", &network.0]), PATIENCE));
    let back = || network.status()["guests"].as_array().unwrap().len() == 2;
    assert!(eventually(PATIENCE, back), "{}", network.status());
    assert!(eventually(PATIENCE, || network.status()["state"] == "running"));
    assert_ne!(network.status()["pid"], before["pid"]);
    for (port, word) in [("80", "one\n"), ("81", "two\n")] {
        assert_eq!(network.ask("client", &[], &[tool, "ask", "10.0.2.50", port]), word);
    }
    // Ports are known again.
    assert_eq!(network.ask("three", &same, &[tool, "bind", "81"]), "Address already in use\n");
}

/// $1: attacca, $2: the tool, $3: the network's name. In a namespace of its own.
const BEHIND_A_TAP: &str = r#"
ip link set lo up
"$1" server start --net "$3" --uplink tap:at0 --ip 10.66.0.10/24 --gateway 10.66.0.1
attacca=$1 tool=$2 net=$3
pids=
trap '"$attacca" server stop --net "$net"; kill $pids || :' EXIT
ip addr add 10.66.0.1/24 dev at0
guest() { name=$1; shift; exec "$attacca" run --cpus 1 --net "$net" --name "$name" "$@"; }
up() { for i in $(seq 200); do "$tool" ask "$1" "$2" >/dev/null 2>&1 && return; sleep 0.05; done; exit 9; }
guest one "$tool" serve 80 one >/dev/null & pids="$pids $!"
up 10.66.0.10 80
guest two "$tool" serve 80 two >/dev/null & pids="$pids $!"
up 10.66.0.11 80
guest three --ip 10.66.0.10 "$tool" serve 81 three >/dev/null & pids="$pids $!"
up 10.66.0.10 81
"$tool" serve 90 host >/dev/null & pids="$pids $!"
ask() { echo "$1 $("$tool" ask "$2" "$3")"; }
ask host-to-one 10.66.0.10 80
ask host-to-two 10.66.0.11 80
ask host-to-three 10.66.0.10 81
echo "two-by-name $(guest four "$tool" ask two 80)"
echo "shared-to-host $(guest four --ip 10.66.0.10 "$tool" ask 10.66.0.1 90)"
pid=$("$1" server status --net "$3" --json | sed 's/^{"pid":\([0-9]*\),.*/\1/')
kill -9 "$pid"
ask after-a-crash 10.66.0.11 80
"$1" server status --net "$3" --json
"#;

#[test]
fn guests_are_neighbours_behind_a_tap_device() {
    let _alone = alone(); // guests' names are taken once in a runtime directory
    let tool = tool();
    // SAFETY: no preconditions.
    let root = unsafe { libc::getuid() } == 0;
    let net = format!("tap-{}", std::process::id());
    let inside = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.arg(if root { "-n" } else { "-rn" }).args(["sh", "-euc", script, "sh"]);
        command.arg(env!("CARGO_BIN_EXE_attacca")).arg(&tool).arg(&net);
        command.env("XDG_RUNTIME_DIR", support::runtime_dir()).stdin(std::process::Stdio::null());
        run_limited(&mut command, PATIENCE * 2)
    };
    let able = inside("ip tuntap add dev at1 mode tap");
    if !able.status.success() {
        eprintln!("skipped: no namespace with a TAP device here: {}", String::from_utf8_lossy(&able.stderr));
        return;
    }
    let words = text(inside(BEHIND_A_TAP));
    for line in [
        "host-to-one one",
        "host-to-two two",
        "host-to-three three",
        "two-by-name two",
        "shared-to-host host",
        "after-a-crash two",
    ] {
        assert!(words.lines().any(|l| l == line), "{line}: {words}");
    }
    assert!(words.contains("\"restarts\":1"), "{words}");
}

#[test]
fn last_bytes_go_on_without_their_program() {
    let _alone = alone();
    let network = Network::start("last", &[]);
    // The reader takes little before it is told to, so that most of the bytes wait at the sender, which has ended.
    let reader = "import socket\n\
        s = socket.create_server(('', 7000))\n\
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)\n\
        print('ready', flush=True)\n\
        c, _ = s.accept()\n\
        t = socket.create_server(('', 7001))\n\
        t.accept()\n\
        n = 0\n\
        while True:\n    got = c.recv(65536)\n    if not got: break\n    n += len(got)\n\
        print('took', n, flush=True)\n";
    let sender = "import socket\nc = socket.create_connection(('reader', 7000))\nc.sendall(b'x' * 100000)\n";
    let knock = "import socket, time\n\
        for _ in range(100):\n    try:\n        socket.create_connection(('reader', 7001))\n        break\n\
        \x20   except OSError: time.sleep(0.1)\n";
    let mut there = network.run("reader", &[], &["debian:python3", "-c", reader]);
    assert!(eventually(PATIENCE, || there.output().contains("ready")), "{}", there.output());
    // Not dropped in between, which would end what the sender has left behind.
    let _ended = [("sender", sender), ("knock", knock)].map(|(name, program)| {
        let mut guest = network.run(name, &[], &["debian:python3", "-c", program]);
        assert!(guest.wait().success(), "{}", guest.output());
        guest
    });
    assert!(there.wait().success(), "{}", there.output());
    assert!(there.output().contains("took 100000"), "{}", there.output());
}
