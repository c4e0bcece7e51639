//! Live switches of a guest whose connections are in every state: mid-handshake, listening with a full backlog, idle,
//! half closed, with a zero window on either side. Nothing may be reset or lost, every byte is checked.
//! `ATTACCA_LONG=1`: a thousand switches.

mod direct;
mod support;

use direct::namespace::inside;
use direct::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use support::*;

const ADDRESS: &str = "10.9.0.31:7000";
const LATE: &str = "10.9.0.31:7001";

/// Repeats `round` until told to stop; how often it was done.
fn again(stop: &Arc<AtomicBool>, mut round: impl FnMut() + Send + 'static) -> JoinHandle<u32> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            round();
            count += 1;
        }
        count
    })
}

/// A connection of its own for each byte: handshakes and ends, all the time.
fn handshake() {
    let mut stream = connect(ADDRESS);
    stream.write_all(b"Ex").unwrap();
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"x");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut answer).unwrap(), 0);
    std::thread::sleep(Duration::from_millis(1));
}

/// Connections that wait in the backlog for up to 100 ms.
fn backlog() {
    let waiting: Vec<_> = (0..20).map(|_| connect(LATE)).collect();
    for mut stream in waiting {
        let mut words = Vec::new();
        stream.read_to_end(&mut words).unwrap();
        assert_eq!(words, b"k");
    }
}

/// We have ended, the guest goes on for a second.
fn half_closed() {
    let mut stream = connect(ADDRESS);
    stream.write_all(b"Hbye").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut words = Vec::new();
    stream.read_to_end(&mut words).unwrap();
    assert_eq!(words.len(), 64_000);
    assert!(words.iter().enumerate().all(|(at, byte)| *byte == byte_at(at as u32)), "wrong bytes");
}

/// The guest takes 64 KiB each 30 ms: its window is closed most of the time.
fn zero_window_there() {
    let mut stream = connect(ADDRESS);
    stream.write_all(b"Z").unwrap();
    let bytes: Vec<u8> = (0..2_000_000).map(byte_at).collect();
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut words = String::new();
    stream.read_to_string(&mut words).unwrap();
    assert_eq!(words, "2000000\n");
}

/// We take nothing for a while.
fn zero_window_here() {
    let mut stream = connect(ADDRESS);
    stream.write_all(b"S").unwrap();
    let mut place = 0u32;
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(60));
        stream.read_exact(&mut buffer).unwrap();
        for byte in &buffer {
            assert_eq!(*byte, byte_at(place), "byte {place}");
            place += 1;
        }
    }
}

#[test]
fn connections_in_every_state_outlive_switches() {
    inside("connections_in_every_state_outlive_switches", || {
        let peer = peer();
        let network = Network::start(&[]);
        // The guest's own connection, to a listener here.
        let listener = std::net::TcpListener::bind(format!("{HOST}:0")).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let called = Arc::new(AtomicU32::new(0));
        let count = called.clone();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut word = [0; 4];
            while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let words = ["--name", "g", "--net", NET, "--cpus", "1", "--ip", "10.9.0.31"];
        let words = [&words[..], &[peer.to_str().unwrap(), "7000", HOST, &port]].concat();
        let guest = Guest::start(&words);
        wait_for(ADDRESS);
        let mut idle = connect(ADDRESS);
        idle.write_all(b"E").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = [
            ("handshakes", again(&stop, handshake)),
            ("backlogs", again(&stop, backlog)),
            ("half closed", again(&stop, half_closed)),
            ("zero window there", again(&stop, zero_window_there)),
            ("zero window here", again(&stop, zero_window_here)),
        ];
        let mut random = Random(0x57a7e);
        let switches = rounds_of_switches();
        for round in 0..switches {
            std::thread::sleep(Duration::from_micros(random.below(40_000)));
            switch("g", round % 2 == 0);
        }
        stop.store(true, Ordering::Relaxed);
        for (what, round) in rounds {
            let count = round.join().unwrap_or_else(|_| panic!("{what}; {}", guest.output()));
            eprintln!("{what}: {count} times over {switches} switches");
            assert_ne!(count, 0, "{what}");
        }
        // Nothing has gone over it all the time.
        ask(&mut idle, b"still there?", b"still there?");
        assert!(called.load(Ordering::Relaxed) > 10, "{}", guest.output());
        assert!(!guest.output().contains("ended after"), "{}", guest.output());
        let known = network.guest("g");
        assert_eq!(known["counters"]["switches"], switches, "{known}");
    });
}

fn rounds_of_switches() -> usize {
    direct::rounds(100)
}
