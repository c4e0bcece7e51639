//! How frames find a guest's queue after a switch. (a) The direct NIC has a hardware address of its own: gratuitous
//! ARP and unsolicited neighbour advertisements move the guest's addresses. (b) The same NIC, another queue: a
//! steering program moves its ports, also if it shares its address with others, who notice nothing.
//! And what happens when the direct device goes away.

mod direct;
mod support;

use direct::namespace::inside;
use direct::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use support::*;

/// Echoes whatever comes to an address of the host; counts words of four bytes.
fn echo_here() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind(format!("{HOST}:0")).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let count = Arc::new(AtomicU32::new(0));
    let counting = count.clone();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0; 4];
        while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, count)
}

fn echo(stream: &mut std::net::TcpStream, number: u64) {
    if number == 0 {
        stream.write_all(b"E").unwrap();
    }
    let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    ask(stream, &word, &word);
    std::thread::sleep(Duration::from_micros(100));
}

#[test]
fn of_two_guests_behind_one_address_one_switches() {
    inside("of_two_guests_behind_one_address_one_switches", || {
        let peer = peer();
        let peer = peer.to_str().unwrap();
        let network = Network::start(&[]);
        let (port_one, called_one) = echo_here();
        let (port_two, called_two) = echo_here();
        let start = |name: &str, port: &str, to: &str| {
            let words = ["--name", name, "--net", NET, "--cpus", "1", "--ip", "10.9.0.40"];
            Guest::start(&[&words[..], &[peer, port, HOST, to]].concat())
        };
        let one = start("one", "7000", &port_one);
        wait_for("10.9.0.40:7000");
        let two = start("two", "8000", &port_two);
        wait_for("10.9.0.40:8000");
        assert_eq!(network.guest("two")["shared"], true);
        let stop = Arc::new(AtomicBool::new(false));
        let of_one = client("10.9.0.40:7000", &stop, echo);
        let of_two = client("10.9.0.40:8000", &stop, echo);
        let (mut random, mut windows) = (Random(0x0b), Windows::default());
        for round in 0..rounds(60) {
            windows.switch("one", round % 2 == 0, &mut random);
            if round % 20 == 0 {
                // A port that is opened while direct is steered as well: "one" is, after an even round.
                let mut late = connect("10.9.0.40:7001");
                let mut word = Vec::new();
                late.read_to_end(&mut word).unwrap();
                assert_eq!(word, b"k");
            }
        }
        stop.store(true, Ordering::Relaxed);
        for (what, answers) in [("the one that switches", of_one), ("the other", of_two)] {
            let answers = answers.join().unwrap();
            tell(&format!("one address, {what}, switching"), &silences(&answers, &windows.switching));
            tell(&format!("one address, {what}, not switching"), &silences(&answers, &windows.quiet));
        }
        for (guest, called) in [(&one, called_one), (&two, called_two)] {
            assert!(called.load(Ordering::Relaxed) > 10, "{}", guest.output());
            assert!(!guest.output().contains("ended after"), "{}", guest.output());
        }
        let (one, two) = (network.guest("one")["counters"].clone(), network.guest("two")["counters"].clone());
        assert_eq!(one["switches"], windows.switching.len(), "{one}");
        assert!(one["direct"]["frames_received"].as_u64().unwrap() > 100, "{one}");
        // The other never left the server.
        assert_eq!(two["switches"], 0, "{two}");
        assert_eq!(two["direct"]["frames_received"], 0, "{two}");
        eprintln!("the other sent {} segments again (of a late machine, too)", two["retransmissions"]);
    });
}

/// The hardware address that the host has for an address, if it has one.
fn neighbor(address: &str) -> String {
    let words = ip(&format!("neigh show {address} dev br0"));
    words.split_once("lladdr ").map(|(_, rest)| rest[..17].to_owned()).unwrap_or(words)
}

fn hardware_address(interface: &str) -> String {
    std::fs::read_to_string(format!("/sys/class/net/{interface}/address")).unwrap().trim().into()
}

/// `own`: the guest's hardware address on the NIC.
fn moves_its_address(nic: &str, own: fn() -> String) {
    let peer = peer();
    let network = Network::start(&["--ip6", "fd09::10/64"]);
    bridge();
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
    ip("link set v0 master br0");
    ip("tuntap add t9 mode tap");
    ip("link set t9 up");
    ip("link set t9 master br0");
    ip("address add fd09::1/64 dev br0 nodad");
    let six = ["--ip6", "fd09::41", "--ip", "10.9.0.41"];
    let words = [&["--name", "g", "--net", NET, "--cpus", "1"], &six[..]].concat();
    let guest = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
    wait_for("10.9.0.41:7000");
    let _ = std::net::TcpStream::connect("[fd09::41]:7000");
    let before = (neighbor("10.9.0.41"), neighbor("fd09::41"));
    assert_eq!(before.0, network.guest("g")["mac"], "{before:?}");
    let stop = Arc::new(AtomicBool::new(false));
    let echoes = client("10.9.0.41:7000", &stop, echo);
    std::thread::sleep(Duration::from_millis(50));
    for round in 0..rounds(6) {
        switch_by(&["g", "direct", "--nic", nic]);
        let moved = || neighbor("10.9.0.41") != before.0;
        assert!(eventually(PATIENCE, moved), "no gratuitous ARP in round {round}; {}", guest.output());
        assert_eq!(neighbor("10.9.0.41"), own());
        let moved = || neighbor("fd09::41") != before.1;
        let six = || ip("-6 neigh show");
        assert!(eventually(PATIENCE, moved), "no unsolicited advertisement: {}; {}", six(), guest.output());
        assert_eq!(network.guest("g")["mode"], "direct");
        switch("g", false);
        let back = || neighbor("10.9.0.41") == before.0 && neighbor("fd09::41") == before.1;
        assert!(eventually(PATIENCE, back), "not back in round {round}: {}", six());
    }
    stop.store(true, Ordering::Relaxed);
    assert!(echoes.join().unwrap().len() > 100);
    let known = network.guest("g");
    assert!(known["counters"]["direct"]["frames_sent"].as_u64().unwrap() > 0, "{known}");
}

#[test]
fn an_xdp_nic_of_its_own_moves_the_address() {
    inside("an_xdp_nic_of_its_own_moves_the_address", || {
        moves_its_address("xdp:v1", || hardware_address("v1"));
    });
}

#[test]
fn a_tap_of_its_own_moves_the_address() {
    inside("a_tap_of_its_own_moves_the_address", || {
        // The interface's own is the host's end's.
        moves_its_address("tap:t9", || format!("0a{}", &hardware_address("t9")[2..]));
    });
}

#[test]
fn a_device_that_vanishes_leaves_the_guest_with_the_server() {
    inside("a_device_that_vanishes_leaves_the_guest_with_the_server", || {
        let peer = peer();
        let network = Network::start(&[]);
        bridge();
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        ip("link set v0 master br0");
        let words = ["--name", "c", "--net", NET, "--ip", "10.9.0.30"];
        let guest = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
        wait_for("10.9.0.30:7000");
        let stop = Arc::new(AtomicBool::new(false));
        let echoes = client("10.9.0.30:7000", &stop, echo);
        switch_by(&["c", "direct", "--nic", "xdp:v1"]);
        std::thread::sleep(Duration::from_millis(300));
        ip("link delete v1");
        let fell = || explain("c").contains("c: server");
        assert!(eventually(Duration::from_secs(10), fell), "still direct; {}", guest.output());
        // Both say so, and why.
        assert!(explain("c").contains("its direct device went away"), "{}", explain("c"));
        assert!(guest.output().contains("the direct network device is gone"), "{}", guest.output());
        assert!(network.log().contains("lost its direct device"), "{}", network.log());
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        assert!(echoes.join().unwrap().len() > 10);
        let refused = attacca().args(["switch", "c", "direct", "--nic", "xdp:nowhere"]).output().unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("nowhere"));
    });
}

/// The policy's own: a busy guest gets the one queue, and gives it back when it has been idle for its stay.
#[test]
fn the_busy_guest_is_given_the_queue() {
    inside("the_busy_guest_is_given_the_queue", || {
        let peer = peer();
        let network = Network::start(&["--auto"]);
        let words = ["--name", "busy", "--net", NET, "--cpus", "1", "--ip", "10.9.0.50"];
        let _busy = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
        let words = ["--name", "idle", "--net", NET, "--cpus", "1", "--ip", "10.9.0.51"];
        let _idle = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
        wait_for("10.9.0.50:7000");
        wait_for("10.9.0.51:7000");
        let stop = Arc::new(AtomicBool::new(false));
        let drain = |address| {
            client(address, &stop, |stream, number| {
                if number == 0 {
                    stream.write_all(b"S").unwrap();
                }
                assert_ne!(stream.read(&mut [0; 8192]).unwrap(), 0);
            })
        };
        let load = drain("10.9.0.50:7000");
        let direct = || network.guest("busy")["mode"] == "direct";
        assert!(eventually(PATIENCE, direct), "{}", explain("busy"));
        assert!(
            explain("busy").contains("frames/s, the most of those without a queue"),
            "{}",
            explain("busy")
        );
        assert_eq!(network.guest("idle")["mode"], "server");
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
        let back = || network.guest("busy")["mode"] == "server";
        assert!(eventually(PATIENCE, back), "{}", explain("busy"));
        assert!(explain("busy").contains("too few for a queue of its own"), "{}", explain("busy"));
    });
}
