//! How frames find a guest's queue after a switch. (a) The direct NIC has a hardware address of its own: gratuitous
//! ARP and unsolicited neighbour advertisements move the guest's addresses. (b) The same NIC, another queue: a
//! steering program moves its ports, also if it shares its address with others, who notice nothing.
//! And what happens when the direct device goes away.

mod direct;
mod support;

use direct::namespace::inside;
use direct::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::*;

#[test]
fn of_two_guests_behind_one_address_one_switches() {
    inside("of_two_guests_behind_one_address_one_switches", || {
        one_of_two_switches(&Network::start(&[]), 60, |_| {})
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

#[test]
fn the_busy_guest_is_given_the_queue() {
    inside("the_busy_guest_is_given_the_queue", || {
        busy_guest_is_given_the_queue(&Network::start(&["--auto"]), true)
    });
}
