//! Live switches behind an AF_XDP interface: the network's server and its guests in direct mode share the NIC, each with
//! queues of their own. The host's end is a veth, whose kernel chooses the queue that a frame comes to; the tests
//! have it choose the guest's, the server's, and now one, now the other. Nobody may notice which.

mod direct;
mod support;

use direct::namespace::inside;
use direct::*;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::*;

fn peer_at(name: &str, address: &str, more: &[&str]) -> Guest {
    let peer = peer();
    let words = ["--name", name, "--net", NET, "--cpus", "1", "--ip", address];
    let guest = Guest::start(&[&words[..], more, &[peer.to_str().unwrap(), "7000"]].concat());
    wait_for(&format!("{address}:7000"));
    guest
}

/// Frames that a guest received in a mode.
fn received(network: &Network, guest: &str, mode: &str) -> u64 {
    let known = network.guest(guest);
    known["counters"][mode]["frames_received"].as_u64().unwrap_or_else(|| panic!("{known}"))
}

#[test]
fn of_two_guests_behind_one_address_one_switches_over_xdp() {
    inside("of_two_guests_behind_one_address_one_switches_over_xdp", || {
        // At first the kernel spreads connections by itself; then all come to one queue, and to the other.
        one_of_two_switches(&Network::start_xdp(&[]), 21, |round| {
            if round >= 7 {
                send_on(round / 3 % 2);
            }
        });
    });
}

#[test]
fn a_checked_stream_each_way_through_switches_over_xdp() {
    inside("a_checked_stream_each_way_through_switches_over_xdp", || {
        let network = Network::start_xdp(&[]);
        let guest = peer_at("g", "10.9.0.23", &[]);
        let stop = Arc::new(AtomicBool::new(false));
        let (down, up) = (stream_from("10.9.0.23:7000", &stop), stream_to("10.9.0.23:7000", &stop));
        let (mut random, mut windows) = (Random(0xaf), Windows::default());
        for round in 0..rounds(100) {
            if round % 10 == 0 {
                send_on(round / 10 % 2);
            }
            windows.switch("g", round % 2 == 0, &mut random);
        }
        stop.store(true, Ordering::Relaxed);
        let ((down, downs), (up, ups)) = (down.join().unwrap(), up.join().unwrap());
        eprintln!("{downs} bytes down, {ups} bytes up (modulo 2^32)");
        for (what, moments) in [("stream from the guest", &down), ("stream to the guest", &up)] {
            tell(&format!("AF_XDP, {what}, switching"), &silences(moments, &windows.switching));
            tell(&format!("AF_XDP, {what}, not switching"), &silences(moments, &windows.quiet));
        }
        let counters = network.guest("g")["counters"].clone();
        assert_eq!(counters["switches"], windows.switching.len(), "{counters}{}", guest.output());
        assert!(
            received(&network, "g", "direct") > 100 && received(&network, "g", "server") > 100,
            "{counters}"
        );
        assert!(!network.log().contains("lost its direct"), "{}", network.log());
    });
}

/// Neither its address nor its hardware address changes, and the way is said.
#[test]
fn a_guest_begins_on_a_queue_of_the_networks_nic() {
    inside("a_guest_begins_on_a_queue_of_the_networks_nic", || {
        let network = Network::start_xdp(&[]);
        send_on(1);
        let _guest = peer_at("g", "10.9.0.41", &["--mode", "direct"]);
        let direct = || network.guest("g")["mode"] == "direct";
        assert!(eventually(PATIENCE, direct), "{}{}", explain("g"), network.log());
        let (stop, before) = (Arc::new(AtomicBool::new(false)), received(&network, "g", "direct"));
        let echoes = client("10.9.0.41:7000", &stop, echo);
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        let answers = echoes.join().unwrap().len() as u64;
        // On the guest's queue: straight to it.
        assert!(
            answers > 10 && received(&network, "g", "direct") - before >= answers,
            "{answers}: {}",
            explain("g")
        );
        let known = ip("neigh show 10.9.0.41 dev v0");
        assert!(known.contains(network.guest("g")["mac"].as_str().unwrap()), "{known}");
        // What the driver cannot is said by its name, once.
        assert!(
            explain("g").contains("queue 1 of 'v1', steered by the XDP program alone"),
            "{}",
            explain("g")
        );
        let log = network.log();
        assert_eq!(log.matches("'veth' takes no ntuple rules").count(), 1, "{log}");
        // All direct queues are taken; the other stays where it is.
        let _other = peer_at("o", "10.9.0.42", &[]);
        let refused = attacca().args(["switch", "o", "direct"]).output().unwrap();
        assert!(
            !refused.status.success() && said(&refused).contains("all 1 direct queues are taken"),
            "{}",
            said(&refused)
        );
        // On a queue that is the server's, and on one that is another guest's.
        for queue in [0, 1] {
            send_on(queue);
            for address in ["10.9.0.41:7000", "10.9.0.42:7000"] {
                ask(&mut connect(address), b"Eecho", b"echo");
            }
        }
        // A guest that dies leaves its queue.
        drop(_guest);
        let switched = || attacca().args(["switch", "o", "direct"]).output().unwrap().status.success();
        assert!(eventually(PATIENCE, switched), "{}{}", explain("o"), network.log());
        ask(&mut connect("10.9.0.42:7000"), b"Eecho", b"echo");
    });
}

#[test]
fn the_busy_guest_is_given_the_xdp_queue() {
    inside("the_busy_guest_is_given_the_xdp_queue", || {
        busy_guest_is_given_the_queue(&Network::start_xdp(&["--auto"]), false);
    });
}

/// Servers end while one guest is direct: it goes on, whichever queue its frames come to, and so does the other.
#[test]
fn servers_end_while_a_guest_is_direct() {
    inside("servers_end_while_a_guest_is_direct", || {
        let network = Network::start_xdp(&[]);
        let _direct = peer_at("d", "10.9.0.51", &[]);
        let _served = peer_at("s", "10.9.0.52", &[]);
        switch("d", true);
        let stop = Arc::new(AtomicBool::new(false));
        let of_direct = client("10.9.0.51:7000", &stop, echo);
        let of_served = client("10.9.0.52:7000", &stop, echo);
        let (mut windows, ends) = (Windows::default(), rounds(10));
        for round in 0..ends {
            send_on(usize::from(round % 3 != 2));
            std::thread::sleep(Duration::from_millis(30));
            let pid = network.status()["pid"].as_i64().unwrap_or(0) as i32;
            assert!(pid > 0, "{}", network.log());
            let begin = std::time::Instant::now();
            // SAFETY: the server of the network that this test started.
            unsafe { libc::kill(pid, if round % 5 == 4 { libc::SIGSTOP } else { libc::SIGKILL }) };
            let next =
                || network.status()["pid"].as_i64().is_some_and(|next| next > 0 && next != i64::from(pid));
            assert!(eventually(PATIENCE, next), "{}", network.log());
            windows.switching.push((begin, std::time::Instant::now()));
        }
        stop.store(true, Ordering::Relaxed);
        for (what, answers) in [("direct", of_direct), ("served", of_served)] {
            let answers = answers.join().unwrap();
            assert!(answers.len() > 10 * ends);
            tell(
                &format!("AF_XDP, a server's end, the guest {what}"),
                &silences(&answers, &windows.switching),
            );
        }
        assert_eq!(network.guest("d")["mode"], "direct", "{}", explain("d"));
        assert!(network.status()["restarts"].as_u64() >= Some(ends as u64));
    });
}

/// The supervisor ends, and its server with it or not: who starts the network again gets the interface's queue, and the guest back.
#[test]
fn a_network_behind_xdp_is_started_again_and_its_guest_adopted() {
    inside("a_network_behind_xdp_is_started_again_and_its_guest_adopted", || {
        let network = Network::start_xdp(&[]);
        let _served = peer_at("s", "10.9.0.52", &[]);
        let mut stream = connect("10.9.0.52:7000");
        stream.write_all(b"E").unwrap();
        for round in 0..4 {
            ask(&mut stream, b"before", b"before");
            let status = network.status();
            let its = if round % 2 == 0 { &["supervisor"][..] } else { &["supervisor", "pid", "standby"] };
            for key in its {
                let pid = status[key].as_i64().unwrap_or(0) as i32;
                assert!(pid > 0, "{status}");
                // SAFETY: processes of the network that this test started.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            network.start_xdp_again();
            let is_back = || network.status()["guests"].as_array().is_some_and(|guests| guests.len() == 1);
            assert!(eventually(PATIENCE, is_back), "{}", network.log());
            ask(&mut stream, b"after", b"after");
        }
    });
}

/// The interface goes down and comes up: the guest falls back by itself and says so, the server's queues are there
/// again, and the guest can go direct once more.
#[test]
fn a_queue_that_goes_away_leaves_the_guest_with_the_server() {
    inside("a_queue_that_goes_away_leaves_the_guest_with_the_server", || {
        let network = Network::start_xdp(&[]);
        let guest = peer_at("c", "10.9.0.30", &[]);
        let stop = Arc::new(AtomicBool::new(false));
        let (down, up) = (stream_from("10.9.0.30:7000", &stop), stream_to("10.9.0.30:7000", &stop));
        for queue in [1, 0] {
            send_on(queue);
            switch("c", true);
            std::thread::sleep(Duration::from_millis(200));
            ip("link set v1 down");
            let fell = || explain("c").contains("c: server");
            assert!(eventually(Duration::from_secs(10), fell), "still direct; {}", guest.output());
            assert!(explain("c").contains("its direct device went away"), "{}", explain("c"));
            ip("link set v1 up");
            ask(&mut connect("10.9.0.30:7000"), b"Eecho", b"echo");
        }
        assert!(guest.output().contains("the direct network device is gone"), "{}", guest.output());
        assert_eq!(network.log().matches("lost its direct device").count(), 2, "{}", network.log());
        switch("c", true);
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        assert!(down.join().unwrap().1 > 0 && up.join().unwrap().1 > 0);
        assert_eq!(network.guest("c")["mode"], "direct");
        assert_eq!(network.status()["restarts"], 0, "{}", network.log());
    });
}

#[test]
fn a_server_without_a_queue_of_its_own_is_refused() {
    inside("a_server_without_a_queue_of_its_own_is_refused", || {
        ip("link add v0 type veth peer name v1");
        ip("link set v1 up");
        let words = ["server", "start", "--net", "none-such", "--uplink", "xdp:v1", "--ip", "10.9.0.10/24"];
        let refused = attacca().args(words).args(["--direct-queues", "1"]).output().unwrap();
        let said = said(&refused);
        assert!(!refused.status.success(), "{said}");
        assert!(said.contains("'v1' receives on 1 queues") && said.contains("numrxqueues"), "{said}");
    });
}
