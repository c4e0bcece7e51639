//! A network server that dies at random moments, under load: nothing is lost, and nobody waits for long.
//!
//! Two unmodified programs in guests talk over the server: questions and answers one at a time, and a stream that
//! fills every buffer, each byte checked. The test kills the server (SIGKILL), stops it (SIGSTOP), replaces it, and
//! says how long the client heard nothing around each of these moments. It asserts no time.
//! `ATTACCA_LONG=1`: 1000 crashes and 200 hangs.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{Guest, PATIENCE, alone, attacca, compile, eventually, run_limited, text};

/// `echo PORT`: sends back what comes. `ping|stream HOST PORT MS`: sends numbered bytes so long and checks what comes
/// back; prints a line for each silence of half a millisecond or more: when it began and ended (CLOCK_MONOTONIC).
fn talker() -> PathBuf {
    static SOURCE: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static unsigned char byte_at(long i) { return (unsigned char)(i * 31 + (i >> 8) * 7 + (i >> 16)); }

static int echo(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 16)) return 1;
    printf("ready\n");
    static char bytes[65536];
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        ssize_t got;
        while ((got = read(peer, bytes, sizeof bytes)) > 0) {
            for (ssize_t done = 0, n; done < got; done += n)
                if ((n = write(peer, bytes + done, got - done)) < 0) { printf("write: %s\n", strerror(errno)); return 2; }
        }
        if (got < 0) { printf("read: %s\n", strerror(errno)); return 3; }
        close(peer);
    }
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3) return echo(atoi(argv[2]));
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(argv[2], argv[3], &hints, &found)) return 4;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK * 0, 0), one = 1;
    if (connect(fd, found->ai_addr, found->ai_addrlen)) { perror("connect"); return 5; }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int stream = !strcmp(argv[1], "stream");
    long window = stream ? 262144 : 64, sent = 0, got = 0, answers = 0;
    long end = now_ns() + atol(argv[4]) * 1000000L, last = now_ns();
    static unsigned char bytes[65536];
    printf("talking\n");
    for (;;) {
        int more = now_ns() < end;
        if (!more && got == sent) break;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (more && (stream ? sent - got < window : sent == got)) p.events |= POLLOUT;
        if (poll(&p, 1, 20000) <= 0) { printf("silence for ever after %ld bytes\n", got); return 6; }
        if (p.revents & POLLOUT) {
            long len = stream ? window - (sent - got) : window;
            if (len > (long)sizeof bytes) len = sizeof bytes;
            for (long i = 0; i < len; i++) bytes[i] = byte_at(sent + i);
            ssize_t n = send(fd, bytes, len, MSG_DONTWAIT);
            if (n < 0 && errno != EAGAIN) { printf("send: %s\n", strerror(errno)); return 7; }
            if (n > 0) sent += n;
        }
        if (p.revents & (POLLIN | POLLERR | POLLHUP)) {
            ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN)) { printf("recv: %s\n", n ? strerror(errno) : "end"); return 8; }
            for (ssize_t i = 0; i < n; i++)
                if (bytes[i] != byte_at(got + i)) { printf("byte %ld is wrong\n", got + i); return 9; }
            if (n > 0) {
                long heard = now_ns();
                got += n;
                answers++;
                if (heard - last >= 500000) printf("gap %ld %ld\n", last, heard);
                last = heard;
            }
        }
    }
    printf("checked %ld bytes, %ld answers\n", got, answers);
    return 0;
}
"#;
    compile("crash-talker", SOURCE, &[])
}

struct Network(String);

impl Network {
    fn start(name: &str) -> Network {
        let name = format!("{name}-{}", std::process::id());
        text(run_limited(attacca().args(["server", "start", "--net", &name]), PATIENCE));
        Network(name)
    }

    fn status(&self) -> serde_json::Value {
        let words = run_limited(attacca().args(["server", "status", "--json", "--net", &self.0]), PATIENCE);
        serde_json::from_str(&text(words)).unwrap()
    }

    fn run(&self, name: &str, program: &[&str]) -> Guest {
        Guest::start(&[&["--cpus", "1", "--net", &self.0, "--name", name], program].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = attacca().args(["server", "stop", "--net", &self.0]).output();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blow {
    Kill,
    Stop,
    Restart,
}

fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Repeatable variety.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Deals `count` blows at random moments; when each fell.
fn deal(network: &Network, blow: Blow, count: usize, random: &mut Random) -> Vec<u64> {
    let (mut times, mut last) = (Vec::new(), 0);
    let deadline = Instant::now() + Duration::from_secs(60) + Duration::from_millis(400) * count as u32;
    while times.len() < count {
        assert!(
            Instant::now() < deadline,
            "no server comes after {} blows: {}",
            times.len(),
            network.status()
        );
        std::thread::sleep(Duration::from_micros(25_000 + random.below(60_000)));
        let pid = network.status()["pid"].as_i64().unwrap_or(0) as i32;
        if pid == 0 || pid == last {
            continue;
        }
        last = pid;
        let time = now_ns();
        let signal = match blow {
            Blow::Kill => libc::SIGKILL,
            Blow::Stop => libc::SIGSTOP,
            Blow::Restart => {
                text(run_limited(attacca().args(["server", "restart", "--net", &network.0]), PATIENCE));
                times.push(time);
                continue;
            }
        };
        // SAFETY: the server of a network that this test started.
        if unsafe { libc::kill(pid, signal) } == 0 {
            times.push(time);
        }
    }
    times
}

/// How long the client heard nothing around each of these moments, in milliseconds, sorted.
fn silences(output: &str, times: &[u64]) -> Vec<f64> {
    let gaps: Vec<(u64, u64)> = output
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("gap ")?.split(' ').map(|w| w.parse().ok());
            Some((words.next()??, words.next()??))
        })
        .collect();
    let around = |time: u64| {
        let near = gaps.iter().filter(|(from, to)| *from <= time + 3_000_000 && *to >= time);
        near.map(|(from, to)| to - from).max().unwrap_or(500_000) as f64 / 1e6
    };
    let mut all: Vec<f64> = times.iter().map(|&time| around(time)).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn under_load(name: &str, talk: &str, blows: &[(Blow, usize)]) {
    let _alone = alone();
    let talker = talker();
    let talker = talker.to_str().unwrap();
    let network = Network::start(name);
    let server = network.run("server", &[talker, "echo", "7"]);
    assert!(eventually(PATIENCE, || server.output().contains("ready")), "{}", server.output());
    let total: usize = blows.iter().map(|(_, count)| count).sum();
    let length = (1000 + total * 130).to_string();
    let mut client = network.run("client", &[talker, talk, "server", "7", &length]);
    assert!(eventually(PATIENCE, || client.output().contains("talking")), "{}", client.output());
    let mut random = Random(0x5eed ^ total as u64);
    let dealt: Vec<_> =
        blows.iter().map(|&(blow, count)| (blow, deal(&network, blow, count, &mut random))).collect();
    let status = client.wait();
    let output = client.output();
    assert!(status.success() && output.contains("checked"), "{status}: {output}\n{}", server.output());
    for (blow, times) in dealt {
        let silences = silences(&output, &times);
        let at = |part: f64| silences[((silences.len() - 1) as f64 * part) as usize];
        let what = match blow {
            Blow::Kill => "crashes",
            Blow::Stop => "hangs",
            Blow::Restart => "restarts",
        };
        println!(
            "{talk}: {} {what}: silence median {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
            times.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    println!("{talk}: {}", output.lines().last().unwrap_or_default());
    assert!(network.status()["restarts"].as_u64().unwrap() >= total as u64);
    assert!(server.output().lines().all(|line| line == "ready"), "{}", server.output());
}

fn scaled(count: usize) -> usize {
    if std::env::var_os("ATTACCA_LONG").is_some_and(|v| v == "1") { 10 * count } else { count }
}

#[test]
fn questions_and_answers_survive_crashes_hangs_and_restarts() {
    under_load("ping", "ping", &[(Blow::Kill, scaled(70)), (Blow::Stop, scaled(10)), (Blow::Restart, 5)]);
}

#[test]
fn a_full_stream_survives_crashes_and_hangs() {
    under_load("stream", "stream", &[(Blow::Kill, scaled(30)), (Blow::Stop, scaled(10))]);
}
