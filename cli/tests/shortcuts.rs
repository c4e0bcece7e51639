//! Shortcuts: two guests that exchange many frames are given a link of their own, past the network server. Each byte
//! is checked while that comes and goes; datagrams stay in their order; where the server is needed there is none.

mod support;

use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use support::network::Network;
use support::{Guest, PATIENCE, alone, compile, eventually};

impl Network {
    fn guest(&self, name: &str) -> Value {
        let status = self.status();
        let guests = status["guests"].as_array().unwrap();
        guests.iter().find(|guest| guest["name"] == name).cloned().unwrap_or_default()
    }

    fn shortcuts(&self, name: &str) -> Vec<String> {
        let list = self.guest(name)["shortcuts"].clone();
        list.as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    /// A guest that runs [`tool`].
    fn tool(&self, name: &str, args: &[&str], words: &[&str]) -> Guest {
        let tool = tool();
        self.run(name, args, &[&["--", tool.to_str().unwrap()], words].concat())
    }

    fn serve(&self, args: &[&str]) -> Guest {
        let guest = self.tool("there", args, &["serve", "7000"]);
        assert!(eventually(PATIENCE, || guest.output().contains("ready")), "{}", guest.output());
        guest
    }
}

/// `serve PORT`: gives back what connections and datagrams bring. `talk HOST PORT MS`: sends and checks bytes so long,
/// and says from time to time how far it is. `count HOST PORT MS`: the same with numbered datagrams, some on their way
/// at a time, which must come back in their order.
fn tool() -> PathBuf {
    static SOURCE: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static int reach(const char *host, const char *port, int kind) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = kind}, *found;
    if (getaddrinfo(host, port, &hints, &found)) { printf("no such name\n"); exit(2); }
    int fd = socket(AF_INET, kind, 0);
    if (connect(fd, found->ai_addr, found->ai_addrlen)) { printf("connect: %s\n", strerror(errno)); exit(3); }
    return fd;
}

static void *echo(void *at) {
    int fd = (int)(long)at;
    char bytes[65536];
    long count, sent, done;
    while ((count = read(fd, bytes, sizeof bytes)) > 0)
        for (done = 0; done < count; done += sent)
            if ((sent = write(fd, bytes + done, count - done)) < 0) goto out;
out:
    close(fd);
    return 0;
}

static void *echo_datagrams(void *at) {
    int fd = (int)(long)at;
    char bytes[65536];
    struct sockaddr_in from;
    for (;;) {
        socklen_t len = sizeof from;
        long count = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &len);
        if (count >= 0) sendto(fd, bytes, count, 0, (struct sockaddr *)&from, len);
    }
}

static int serve(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(tcp, (void *)&at, sizeof at) || listen(tcp, 16) || bind(udp, (void *)&at, sizeof at)) return 1;
    pthread_t thread;
    pthread_create(&thread, 0, echo_datagrams, (void *)(long)udp);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int fd = accept(tcp, 0, 0);
        if (fd >= 0) pthread_create(&thread, 0, echo, (void *)(long)fd), pthread_detach(thread);
    }
}

static unsigned char byte(unsigned long at) { return (at * 2654435761UL) >> 13 ^ at >> 20; }

static int talk(int fd, long ms) {
    static unsigned char out[40000], in[65536];
    unsigned long sent = 0, heard = 0, told = 0;
    long end = now() + ms, quiet = now();
    while (now() < end || heard < sent) {
        struct pollfd p = {fd, POLLIN, 0};
        // A window, so that answers never stop the other side.
        if (now() < end && sent - heard < 200000) p.events |= POLLOUT;
        if (poll(&p, 1, 100) < 0) return 4;
        if (p.revents & POLLOUT) {
            long want = 1 + (sent * 7919) % sizeof out;
            for (long i = 0; i < want; i++) out[i] = byte(sent + i);
            long n = send(fd, out, want, MSG_DONTWAIT);
            if (n > 0) sent += n;
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            long n = recv(fd, in, sizeof in, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN)) { printf("lost: %s\n", n ? strerror(errno) : "closed"); return 5; }
            for (long i = 0; i < n; i++)
                if (in[i] != byte(heard + i)) { printf("wrong byte at %lu\n", heard + i); return 6; }
            if (n > 0) heard += n, quiet = now();
        }
        if (now() - quiet > 20000) { printf("silence at %lu\n", heard); return 7; }
        if (heard - told > 1000000) { told = heard; printf("at %lu\n", heard); fflush(stdout); }
    }
    printf("all of %lu right\n", heard);
    return 0;
}

static int count(int fd, long ms) {
    unsigned long sent = 0, heard = 0, lost = 0;
    char bytes[1000] = {0};
    for (long end = now() + ms; now() < end;) {
        while (sent - heard < 16) {
            sent++;
            memcpy(bytes, &sent, sizeof sent);
            send(fd, bytes, sizeof bytes, 0);
        }
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, 1000) == 0) { lost += sent - heard; heard = sent; continue; }
        unsigned long number;
        if (recv(fd, bytes, sizeof bytes, 0) < (long)sizeof number) continue;
        memcpy(&number, bytes, sizeof number);
        if (number <= heard) { printf("%lu after %lu\n", number, heard); return 6; }
        lost += number - heard - 1;
        heard = number;
    }
    printf("%lu in order, %lu lost\n", heard, lost);
    return 0;
}

int main(int count_, char **words) {
    if (!strcmp(words[1], "serve")) return serve(atoi(words[2]));
    int stream = !strcmp(words[1], "talk");
    int fd = reach(words[2], words[3], stream ? SOCK_STREAM : SOCK_DGRAM);
    return stream ? talk(fd, atol(words[4])) : count(fd, atol(words[4]));
}
"#;
    compile("shortcuts", SOURCE, &["-pthread"])
}

/// How far `talk` says it is.
fn told(guest: &Guest) -> u64 {
    let output = guest.output();
    output.lines().rev().find_map(|line| line.strip_prefix("at ")?.parse().ok()).unwrap_or(0)
}

fn ends_well(mut guest: Guest) -> String {
    let status = guest.wait();
    assert!(status.success(), "{status}: {}", guest.output());
    guest.output()
}

#[test]
fn frequent_peers_are_joined_and_every_byte_is_right() {
    let _alone = alone();
    let network = Network::start("joined", &[]);
    let there = network.serve(&[]);
    let here = network.tool("here", &[], &["talk", "there", "7000", "4000"]);
    assert!(eventually(PATIENCE, || network.shortcuts("here") == ["there"]), "{}", network.status());
    assert_eq!(network.shortcuts("there"), ["here"]);
    // The server has next to nothing to do with it any more.
    let passed = |network: &Network| network.guest("here")["bytes_from"].as_u64().unwrap();
    let (before, far) = (passed(&network), told(&here));
    assert!(eventually(PATIENCE, || told(&here) > far + 20_000_000), "{}", here.output());
    let after = passed(&network);
    assert!(after - before < 1_000_000, "{before} and then {after} bytes over the server");
    let words = ends_well(here);
    assert!(words.contains("right"), "{words}");
    assert!(eventually(PATIENCE, || network.shortcuts("there").is_empty()), "{}", network.status());
    drop(there);
}

#[test]
fn datagrams_stay_in_their_order_when_a_shortcut_comes() {
    let _alone = alone();
    let network = Network::start("order", &[]);
    let there = network.serve(&[]);
    for _ in 0..5 {
        let words = ends_well(network.tool("here", &[], &["count", "there", "7000", "600"]));
        assert!(words.contains("in order, 0 lost"), "{words}");
    }
    let here = network.tool("here", &[], &["count", "there", "7000", "2000"]);
    assert!(eventually(PATIENCE, || network.shortcuts("here") == ["there"]), "{}", network.status());
    ends_well(here);
    drop(there);
}

#[test]
fn it_goes_on_without_server_and_supervisor() {
    let _alone = alone();
    let network = Network::start("alone", &[]);
    let there = network.serve(&[]);
    let here = network.tool("here", &[], &["talk", "there", "7000", "6000"]);
    assert!(eventually(PATIENCE, || network.shortcuts("here") == ["there"]), "{}", network.status());
    let status = network.status();
    let pids = ["pid", "supervisor"].map(|key| status[key].as_i64().unwrap() as i32);
    // SAFETY: processes of this test's network.
    let signal = |signal| pids.iter().for_each(|pid| assert_eq!(unsafe { libc::kill(*pid, signal) }, 0));
    // The supervisor first, or it would take the server for one that hangs.
    pids.iter().rev().for_each(|pid| {
        // SAFETY: as above.
        unsafe { libc::kill(*pid, libc::SIGSTOP) };
    });
    let far = told(&here);
    let goes_on = eventually(Duration::from_secs(5), || told(&here) > far + 10_000_000);
    signal(libc::SIGCONT);
    assert!(goes_on, "{}", here.output());
    ends_well(here);
    drop(there);
}

#[test]
fn a_peer_that_is_killed_and_comes_back_is_reached_again() {
    let _alone = alone();
    let network = Network::start("again", &[]);
    for round in 0..3 {
        let there = network.serve(&["--ip", "10.0.2.40"]);
        let mut here = network.tool("here", &[], &["talk", "10.0.2.40", "7000", "60000"]);
        assert!(eventually(PATIENCE, || network.shortcuts("here") == ["there"]), "{}", network.status());
        // SAFETY: a guest that this test started.
        unsafe { libc::kill(there.pid(), libc::SIGKILL) };
        drop(there);
        assert!(eventually(PATIENCE, || network.shortcuts("here").is_empty()), "{}", network.status());
        let there = network.serve(&["--ip", "10.0.2.40"]);
        // Nobody knows the old connection there.
        let status = here.wait();
        assert_eq!(status.code(), Some(5), "round {round}: {status}: {}", here.output());
        drop(there);
    }
}

#[test]
fn there_is_none_where_the_server_is_needed() {
    let _alone = alone();
    let cases: [(&[&str], &[&str]); 3] = [
        (&["--no-shortcuts"], &[]),
        (&["--guest-rate", "1G"], &[]),
        // Of two guests at one address.
        (&[], &["--ip", "10.0.2.50"]),
    ];
    for (at, (of_network, of_guest)) in cases.into_iter().enumerate() {
        let network = Network::start(&format!("none{at}"), of_network);
        let there = network.serve(of_guest);
        let shares = (!of_guest.is_empty()).then(|| network.tool("shares", of_guest, &["serve", "7001"]));
        let host = if of_guest.is_empty() { "there" } else { "10.0.2.50" };
        let here = network.tool("here", &[], &["talk", host, "7000", "2000"]);
        assert!(eventually(PATIENCE, || told(&here) > 10_000_000), "{}", here.output());
        assert!(network.shortcuts("here").is_empty(), "{}", network.status());
        ends_well(here);
        drop((there, shares));
    }
}
