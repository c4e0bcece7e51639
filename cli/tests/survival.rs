//! What outlives the end of a network's server, a live switch, and both at once: bound UDP ports, listening sockets,
//! connections, multicast memberships, neighbours, a DHCP lease. Behind host sockets published ports do, and the
//! connections through them do not: their other half is the dead server's.

mod direct;
mod support;

use direct::namespace::inside;
use direct::*;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;
use support::*;

/// The servers' ends and switches between two checks.
const BLOWS: [&str; 8] = ["kill", "direct", "kill", "server", "stop", "direct", "stop", "server"];

fn survivor() -> String {
    compile("survivor", include_str!("direct/survivor.c"), &[]).to_str().unwrap().into()
}

/// A request until it is answered: a datagram may be lost.
fn asked(socket: &UdpSocket, to: &str, words: &str) -> String {
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut answer = [0; 4096];
    for _ in 0..100 {
        // (What an earlier error message of the host said is not about this datagram.)
        let _ = socket.send_to(words.as_bytes(), to);
        if let Ok((len, _)) = socket.recv_from(&mut answer) {
            return String::from_utf8_lossy(&answer[..len]).into_owned();
        }
    }
    panic!("no answer to {words} from {to}")
}

/// Hears ARP requests on all interfaces of the namespace.
struct Questions(OwnedFd);

impl Questions {
    fn new() -> Questions {
        let protocol = i32::from((libc::ETH_P_ARP as u16).to_be());
        // SAFETY: no memory; a fresh descriptor that nobody else owns.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol);
            assert!(fd >= 0, "a packet socket: {}", std::io::Error::last_os_error());
            Questions(OwnedFd::from_raw_fd(fd))
        }
    }

    /// Whether `who` has asked for `whom` since this was last asked.
    fn heard(&self, who: &str, whom: &str) -> bool {
        let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
        let mut frame = [0u8; 128];
        let mut heard = false;
        // SAFETY: memory of ours of this length.
        while unsafe { libc::read(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) } >= 42 {
            // RFC 826: operation, sender's and target's protocol addresses.
            heard |= frame[20..22] == [0, 1] && frame[28..32] == octets(who) && frame[38..42] == octets(whom);
        }
        heard
    }
}

fn end_server(network: &serde_json::Value, signal: i32) {
    let pid = network["pid"].as_i64().unwrap() as i32;
    assert!(pid > 0, "{network}");
    // SAFETY: the server of the network that this test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn deal(network: &Network, guest: &str, blow: &str) {
    match blow {
        "kill" => end_server(&network.status(), libc::SIGKILL),
        "stop" => end_server(&network.status(), libc::SIGSTOP),
        mode => switch(guest, mode == "direct"),
    }
}

#[test]
fn bindings_memberships_and_neighbours_survive() {
    inside("bindings_memberships_and_neighbours_survive", || {
        let network = Network::start(&[]);
        ip("route add 239.0.0.0/8 dev t0");
        let words = ["--name", "s", "--net", NET, "--cpus", "1", "--ip", "10.9.0.60", &survivor()];
        let guest = Guest::start(&words);
        wait_for("10.9.0.60:7102");
        let mut old = connect("10.9.0.60:7102");
        let questions = Questions::new();
        let socket = || UdpSocket::bind(format!("{HOST}:0")).unwrap();
        for (round, blow) in BLOWS.into_iter().enumerate() {
            let word = format!("round {round}");
            assert_eq!(asked(&socket(), "10.9.0.60:7100", &word), word);
            assert_eq!(asked(&socket(), "239.9.9.9:7101", &word), format!("heard {word}"));
            assert!(!questions.heard("10.9.0.60", HOST), "the guest forgot its neighbour before {blow}");
            ask(&mut old, word.as_bytes(), word.as_bytes());
            let mut new = connect("10.9.0.60:7102");
            ask(&mut new, word.as_bytes(), word.as_bytes());
            deal(&network, "s", blow);
        }
        ask(&mut old, b"last", b"last");
        assert_eq!(asked(&socket(), "239.9.9.9:7101", "last"), "heard last");
        assert!(!guest.output().contains("no multicast"), "{}", guest.output());
        let status = network.status();
        assert!(status["restarts"].as_u64() >= Some(4), "{status}");
        assert_eq!(network.guest("s")["counters"]["switches"], 4, "{}", network.log());
    });
}

#[test]
fn a_lease_is_kept_and_renewed_in_both_modes() {
    inside_with(&["dnsmasq-base"], "a_lease_is_kept_and_renewed_in_both_modes", || {
        let network = Network::start(&[]);
        let log = scratch("lease").join("dnsmasq.log");
        let mut command = native("dnsmasq-base", "dnsmasq");
        command.args(["--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null"]);
        command.args([
            "--leasefile-ro",
            "--port=0",
            "--no-ping",
            "--pid-file=",
            "--user=root",
            "--group=root",
        ]);
        command.args(["--interface=t0", "--bind-interfaces", "--dhcp-authoritative"]);
        // Renewed after three seconds (RFC 2132 section 9.11).
        command.args(["--dhcp-range=10.9.0.100,10.9.0.120,255.255.255.0,2m", "--dhcp-option=option:T1,3"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let mut dnsmasq = command.spawn().unwrap();
        let said = || std::fs::read_to_string(&log).unwrap();
        let given = || -> Vec<String> {
            let text = said();
            let acks = text.lines().filter_map(|line| line.split_once("DHCPACK(t0) "));
            acks.map(|(_, rest)| rest.split(' ').next().unwrap().to_owned()).collect()
        };
        let words = ["--name", "l", "--net", NET, "--cpus", "1", "--ip", "dhcp", &survivor()];
        let guest = Guest::start(&words);
        assert!(eventually(PATIENCE, || guest.output().contains("ready")), "{}{}", guest.output(), said());
        let address = given().last().expect("a lease").clone();
        let mut old = connect(&format!("{address}:7102"));
        for blow in ["kill", "direct", "kill", "server"] {
            deal(&network, "l", blow);
            let before = given().len();
            assert!(
                eventually(Duration::from_secs(20), || given().len() > before),
                "not renewed after {blow}: {}\n{}",
                said(),
                network.log()
            );
            assert!(given().iter().all(|other| *other == address), "{}", said());
            ask(&mut old, blow.as_bytes(), blow.as_bytes());
            let mut new = connect(&format!("{address}:7102"));
            ask(&mut new, b"new", b"new");
        }
        let _ = dnsmasq.kill();
        let _ = dnsmasq.wait();
    });
}

/// Behind host sockets: what is kept, and what is not and says so.
#[test]
fn published_ports_survive_and_connections_through_them_end() {
    inside("published_ports_survive_and_connections_through_them_end", || {
        ip("link set lo up");
        let say = |words: &[&str]| text(attacca().arg("server").args(words).output().unwrap());
        say(&["start", "--net", "behind"]);
        let ports = ["-p", "127.0.0.1:7102:7102", "-p", "127.0.0.1:7100:7100/udp"];
        let words = ["--name", "h", "--net", "behind", "--cpus", "1"];
        let guest = Guest::start(&[&words[..], &ports, &[&survivor()]].concat());
        assert!(eventually(PATIENCE, || guest.output().contains("ready")), "{}", guest.output());
        let status = || -> serde_json::Value {
            serde_json::from_str(&say(&["status", "--net", "behind", "--json"])).unwrap()
        };
        for signal in [libc::SIGKILL, libc::SIGSTOP] {
            let mut old = connect("127.0.0.1:7102");
            ask(&mut old, b"before", b"before");
            let before = status();
            end_server(&before, signal);
            let another = || status()["pid"] != before["pid"];
            assert!(eventually(PATIENCE, another), "{}", status());
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            assert_eq!(asked(&socket, "127.0.0.1:7100", "after"), "after");
            let mut new = connect("127.0.0.1:7102");
            ask(&mut new, b"after", b"after");
            ends(&mut old);
        }
        drop(guest);
        say(&["stop", "--net", "behind"]);
    });
}

/// The connection is reset or closed; it does not hang.
fn ends(stream: &mut TcpStream) {
    let _ = stream.write_all(b"lost");
    match stream.read(&mut [0; 16]) {
        Ok(0) => {}
        Ok(len) => panic!("{len} bytes from a connection that cannot be"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// A network takes all queues of its interface, and its servers' successors take them over; who names one of several is told
/// what that means.
#[test]
fn an_interface_of_several_queues() {
    inside("an_interface_of_several_queues", || {
        let peer = peer();
        ip("link add v0 numrxqueues 3 numtxqueues 3 type veth peer name v1 numrxqueues 3 numtxqueues 3");
        ip("address add 10.8.0.1/24 dev v0");
        for link in ["lo", "v0", "v1"] {
            ip(&format!("link set {link} up"));
        }
        let server = |words: &[&str]| attacca().arg("server").args(words).output().unwrap();
        let start = ["start", "--net", "queues", "--ip", "10.8.0.10/24", "--gateway", "10.8.0.1", "--uplink"];
        let output = server(&[&start[..], &["xdp:v1,queue=1"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("'v1' receives on 3 queues") && said.contains("ethtool"), "{said}");
        text(server(&["stop", "--net", "queues"]));
        let output = server(&[&start[..], &["xdp:v1"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
        let words = ["--name", "q", "--net", "queues", "--cpus", "1", "--ip", "10.8.0.20"];
        let guest = Guest::start(&[&words[..], &[peer.to_str().unwrap(), "7000"]].concat());
        wait_for("10.8.0.20:7000");
        let mut streams: Vec<_> = (0..48).map(|_| connect("10.8.0.20:7000")).collect();
        streams.iter_mut().for_each(|stream| stream.write_all(b"E").unwrap());
        for round in 0..8u64 {
            let status = text(server(&["status", "--json", "--net", "queues"]));
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let pid = status["pid"].as_i64().unwrap_or(0) as i32;
            for (at, stream) in streams.iter_mut().enumerate() {
                let word = (round << 32 | at as u64).to_le_bytes();
                stream.write_all(&word).unwrap();
                if at == 20 && pid != 0 {
                    // SAFETY: the server of the network that this test started.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
            }
            for (at, stream) in streams.iter_mut().enumerate() {
                let (want, mut word) = ((round << 32 | at as u64).to_le_bytes(), [0; 8]);
                stream
                    .read_exact(&mut word)
                    .unwrap_or_else(|error| panic!("{at}: {error}; {}", guest.output()));
                assert_eq!(word, want);
            }
        }
        let status = text(server(&["status", "--json", "--net", "queues"]));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert!(status["restarts"].as_u64() >= Some(7), "{status}");
        // (The kernel spreads 48 connections over three queues: had one no socket, some would have had no answer.)
        drop(streams);
        text(server(&["stop", "--net", "queues"]));
    });
}

/// A guest's record goes with the last process of its family, a moment after `attacca run` has returned.
#[test]
fn a_name_is_free_when_its_guest_has_ended() {
    for round in 0..if rounds(1) == 1 { 30 } else { 1000 } {
        let words =
            ["run", "--name", "again", "--net", "none", "--cpus", "1", "/bin/sh", "-c", "/bin/true & exit 0"];
        let output = attacca().args(words).output().unwrap();
        assert!(output.status.success(), "{round}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
