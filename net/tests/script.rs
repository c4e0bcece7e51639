//! One engine against segments written by hand: what attackers and odd peers send.

mod common;

use common::*;
use net::{Error, Ready, Shutdown, TcpFlags, TcpOption, TcpState};

fn flags(answers: &[Seen]) -> Vec<&str> {
    answers.iter().map(|seen| &seen.flags[..]).collect()
}

#[test]
fn rst_only_at_the_exact_number() {
    let mut script = Script::new(|_| ());
    let (id, ours) = script.established();
    // RFC 5961 section 3: in the window but not exact: challenge.
    assert_eq!(flags(&script.segment(5000, "R", 2001, 0, b"")), ["A"]);
    assert_eq!(script.shard.tcp_info(id).unwrap().state, TcpState::Established);
    // Outside: silence.
    assert!(script.segment(5000, "R", 1001u32.wrapping_sub(500), 0, b"").is_empty());
    assert_eq!(script.shard.tcp_info(id).unwrap().state, TcpState::Established);
    assert!(script.segment(5000, "R", 1001, ours, b"").is_empty());
    assert_eq!(script.shard.take_error(id), Some(Error::Reset));
}

#[test]
fn syn_on_a_connection_is_challenged() {
    let mut script = Script::new(|_| ());
    let (id, ours) = script.established();
    for seq in [1001, 1500, 900] {
        let answer = script.segment(5000, "S", seq, 0, b"");
        assert_eq!(flags(&answer), ["A"]);
        assert_eq!((answer[0].seq, answer[0].ack), (ours, 1001));
    }
    assert_eq!(script.shard.tcp_info(id).unwrap().state, TcpState::Established);
}

#[test]
fn acks_of_the_future_and_the_past_are_challenged() {
    let mut script = Script::new(|_| ());
    let (_, ours) = script.established();
    assert_eq!(flags(&script.segment(5000, "A", 1001, ours.wrapping_add(1), b"data")), ["A"]);
    let past = ours.wrapping_sub(200_000);
    assert_eq!(flags(&script.segment(5000, "A", 1001, past, b"data")), ["A"]);
    assert_eq!(flags(&script.segment(5000, "A", 1001, ours, b"data")), ["A"]);
}

#[test]
fn challenges_are_limited() {
    let mut script = Script::new(|_| ());
    let (_, _) = script.established();
    let count: usize = (0..3000).map(|_| script.segment(5000, "S", 1001, 0, b"").len()).sum();
    assert!((900..=1100).contains(&count), "{count}");
}

#[test]
fn half_open_connections_expire() {
    let mut script = Script::new(|_| ());
    script.listen(4);
    assert_eq!(flags(&script.segment(5000, "S", 1000, 0, b"")), ["SA"]);
    // A repeated SYN gets the SYN-ACK again.
    let again = script.segment(5000, "S", 1000, 0, b"");
    assert_eq!(flags(&again), ["SA"]);
    let repeated = script.pass(120_000);
    assert_eq!(flags(&repeated), ["SA"; 5]);
    assert_eq!(script.shard.counts()[0], 1);
    // A wrong ACK in SYN-RECEIVED: RST, and the half-open connection stays.
    script.segment(5000, "S", 1000, 0, b"");
    assert_eq!(flags(&script.segment(5000, "A", 1001, 77, b"")), ["R"]);
}

#[test]
fn syn_options_are_answered_in_kind() {
    let mut script = Script::new(|_| ());
    script.listen(4);
    let plain = script.segment(5000, "S", 1000, 0, b"");
    assert_eq!(plain[0].options, [2, 4, 5, if V6 { 160 } else { 180 }], "nothing that was not offered");
    let full = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
    let rich = script.segment_with(5001, "S", 1000, 0, 65_535, b"", &full);
    assert_eq!(rich[0].options.len(), 20);
    assert_eq!(rich[0].options[12..16], [0, 0, 0, 9]);
}

#[test]
fn paws_drops_old_segments() {
    let mut script = Script::new(|_| ());
    let listener = script.listen(4);
    let stamp = |value: u32, echo: u32| {
        let mut options = vec![1, 1, 8, 10];
        options.extend(value.to_be_bytes());
        options.extend(echo.to_be_bytes());
        options
    };
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"", &stamp(100, 0));
    let ours = answer[0].seq.wrapping_add(1);
    script.segment_with(5000, "A", 1001, ours, 65_535, b"", &stamp(101, 0));
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    script.segment_with(5000, "A", 1001, ours, 65_535, b"new", &stamp(200, 0));
    let old = script.segment_with(5000, "A", 1004, ours, 65_535, b"old", &stamp(150, 0));
    assert_eq!((old[0].ack, drain(&mut script.shard, id)), (1004, b"new".to_vec()));
    script.segment_with(5000, "A", 1004, ours, 65_535, b"next", &stamp(201, 0));
    assert_eq!(drain(&mut script.shard, id), b"next");
}

#[test]
fn out_of_order_data_is_kept_and_reported() {
    let mut script = Script::new(|_| ());
    let listener = script.listen(4);
    let options = [4, 2, 1, 1];
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"", &options);
    let ours = answer[0].seq.wrapping_add(1);
    script.segment(5000, "A", 1001, ours, b"");
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    let dup = script.segment(5000, "A", 1005, ours, b"efgh");
    assert_eq!((dup[0].ack, &dup[0].options[..4]), (1001, &[1, 1, 5, 10][..]));
    assert_eq!(dup[0].options[4..12], [0, 0, 3, 237, 0, 0, 3, 241]);
    script.segment(5000, "FA", 1009, ours, b"");
    let filled = script.segment(5000, "A", 1001, ours, b"abcd");
    assert_eq!(filled.last().unwrap().ack, 1010, "the early FIN counts now");
    assert_eq!(drain(&mut script.shard, id), b"abcdefgh");
    assert!(script.shard.ready(id).contains(Ready::PEER_CLOSED));
}

#[test]
fn three_duplicates_resend_at_once() {
    let mut script = Script::new(|_| ());
    let (id, ours) = script.established();
    script.shard.tcp_send(id, &pattern(0, 5_000), TcpFlags::empty()).unwrap();
    let first = script.poll();
    assert!(first.len() >= 5 && first[0].seq == ours);
    assert!(script.segment(5000, "A", 1001, ours, b"").is_empty());
    assert!(script.segment(5000, "A", 1001, ours, b"").is_empty());
    let again = script.segment(5000, "A", 1001, ours, b"");
    assert_eq!((again[0].seq, &again[0].payload), (ours, &first[0].payload));
}

#[test]
fn time_wait_answers_and_gives_way() {
    let mut script = Script::new(|_| ());
    let (id, ours) = script.established();
    script.shard.tcp_shutdown(id, Shutdown::Write).unwrap();
    assert_eq!(flags(&script.poll()), ["FA"]);
    script.segment(5000, "A", 1001, ours.wrapping_add(1), b"");
    let last = script.segment(5000, "FA", 1001, ours.wrapping_add(1), b"");
    assert_eq!((&last[0].flags[..], last[0].ack), ("A", 1002));
    assert_eq!(script.shard.counts()[3], 1);
    script.shard.close(id);
    // The peer did not get it.
    let again = script.segment(5000, "FA", 1001, ours.wrapping_add(1), b"");
    assert_eq!((&again[0].flags[..], again[0].ack), ("A", 1002));
    // An old SYN does not open it again, a newer one does, above the old numbers.
    assert_eq!(flags(&script.segment(5000, "S", 900, 0, b"")), ["A"]);
    let reopened = script.segment(5000, "S", 50_000, 0, b"");
    assert_eq!(reopened[0].flags, "SA");
    assert!(reopened[0].seq.wrapping_sub(ours) >= 65_537 && reopened[0].seq.wrapping_sub(ours) < 1 << 31);
    assert_eq!(script.shard.counts()[3], 0);
}

#[test]
fn path_mtu_is_believed_only_for_what_is_in_flight() {
    let mut script = Script::new(|_| ());
    let (id, ours) = script.established();
    script.shard.tcp_send(id, &pattern(0, 3_000), TcpFlags::empty()).unwrap();
    let sent = script.poll();
    assert_eq!(sent[0].payload.len(), 536, "no MSS option: 536");
    drop(script);
    let mut script = Script::new(|_| ());
    let listener = script.listen(4);
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"", &[2, 4, 5, 180]);
    let ours2 = answer[0].seq.wrapping_add(1);
    let _ = ours;
    script.segment(5000, "A", 1001, ours2, b"");
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    script.shard.tcp_send(id, &pattern(0, 3_000), TcpFlags::empty()).unwrap();
    assert_eq!(script.poll()[0].payload.len(), 1460.min(MSS));
    let mtu: u16 = if V6 { 1300 } else { 1000 };
    too_big(&mut script, ours2.wrapping_sub(10_000), mtu);
    assert_eq!(script.shard.tcp_info(id).unwrap().path_mtu, 1500, "a guess");
    let again = too_big(&mut script, ours2, mtu);
    assert_eq!(script.shard.tcp_info(id).unwrap().path_mtu, mtu);
    assert!(again.iter().all(|seen| seen.payload.len() <= usize::from(mtu) - IP - 20));
}

#[test]
fn incoming_connections_are_asked_about() {
    let mut script = Script::new(|config| {
        config.any_ip = true;
        config.ask_incoming = true;
        config.addresses.clear();
    });
    assert!(script.segment(5000, "S", 1000, 0, b"").is_empty());
    let incoming = script.shard.next_incoming().unwrap();
    assert_eq!((incoming.to.port, incoming.from.port), (80, 5000));
    assert!(script.segment(5000, "S", 1000, 0, b"").is_empty(), "once");
    assert!(script.shard.next_incoming().is_none());
    script.shard.tcp_admit(incoming.id, 7).unwrap();
    let answer = script.poll();
    assert_eq!(answer[0].flags, "SA");
    script.segment(5000, "A", 1001, answer[0].seq.wrapping_add(1), b"hi");
    let event = script.shard.next_event().unwrap();
    assert_eq!((event.cookie, event.id), (7, incoming.id));
    assert!(event.ready.contains(Ready::READABLE | Ready::WRITABLE));
    script.segment(5001, "S", 1000, 0, b"");
    let second = script.shard.next_incoming().unwrap();
    script.shard.tcp_refuse(second.id, net::Refusal::Reset);
    let refused = script.poll();
    assert_eq!((&refused[0].flags[..], refused[0].ack), ("RA", 1001));
}

#[test]
fn initial_numbers_and_ports_are_spread() {
    let mut script = Script::new(|_| ());
    script.listen(64);
    let mut numbers: Vec<u32> =
        (0..32).map(|i| script.segment(6000 + i, "S", 1, 0, b"")[0].seq >> 24).collect();
    numbers.sort();
    numbers.dedup();
    assert!(numbers.len() > 20, "{numbers:?}");
}

#[test]
fn overlapping_segments_are_trimmed_at_both_ends() {
    let mut script = Script::new(|config| config.limits.rcvbuf = (2048, 2048));
    let (id, ours) = script.established();
    script.segment(5000, "A", 1001, ours, b"abcd");
    script.segment(5000, "A", 1003, ours, b"cdef");
    // Wholly old: acknowledged again, not delivered.
    let old = script.segment(5000, "A", 1001, ours, b"abcd");
    assert_eq!(old.last().unwrap().ack, 1007);
    // Early pieces that overlap each other and what comes between.
    script.segment(5000, "A", 1011, ours, b"klmn");
    script.segment(5000, "A", 1009, ours, b"ijkl");
    script.segment(5000, "A", 1005, ours, b"efghij");
    assert_eq!(drain(&mut script.shard, id), b"abcdefghijklmn");
    // What lies beyond the window is not taken: the buffer holds 2 KiB.
    let window = script.segment(5000, "A", 1015, ours, &pattern(0, MSS));
    let edge = window.last().unwrap();
    assert_eq!(edge.ack, 1015 + MSS as u32);
    script.segment(5000, "A", 1015 + MSS as u32, ours, &pattern(MSS, MSS));
    let got = drain(&mut script.shard, id);
    assert!((MSS..=2048).contains(&got.len()) && got == pattern(0, got.len()), "{}", got.len());
}

#[test]
fn keep_alive_counts_from_the_last_word() {
    let mut script = Script::new(|_| ());
    let (id, ours) = script.established();
    for option in [TcpOption::KeepIdle(1000), TcpOption::KeepInterval(75_000), TcpOption::KeepAlive(true)] {
        script.shard.tcp_set(id, option).unwrap();
    }
    script.pass(600);
    script.segment(5000, "PA", 1001, ours, b"word");
    let answers = script.pass(990);
    assert!(answers.iter().all(|seen| seen.ack == 1005 && seen.seq == ours), "{answers:?}");
    let probes = script.pass(20);
    assert_eq!(probes.len(), 1, "one second after the word: {probes:?}");
    assert_eq!((probes[0].seq, probes[0].ack), (ours.wrapping_sub(1), 1005));
}
