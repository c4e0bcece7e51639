//! Explicit congestion notification (RFC 3168), SYN cookies (RFC 4987) and path MTU (RFC 1191, 4821, 5927),
//! segment by segment.

mod common;
mod peer;

use common::*;
use net::{Config, Ecn, Error, TcpState};
use peer::*;

const ECN: Offer = Offer { ecn: true, ..SACK };

#[test]
fn rfc3168_6_1_1_the_listener_agrees() {
    let mut script = Script::new(|_| ());
    script.listen(4);
    let yes = script.segment(5000, "SEW", 1, 0, b"");
    assert_eq!(flags(&yes), ["SAE"]);
    let no = script.segment(5001, "S", 1, 0, b"");
    assert_eq!(flags(&no), ["SA"]);
    let odd = script.segment(5002, "SE", 1, 0, b"");
    assert_eq!(flags(&odd), ["SA"]);
    let mut script = Script::new(|config| config.ecn = Ecn::Off);
    script.listen(4);
    assert_eq!(flags(&script.segment(5000, "SEW", 1, 0, b"")), ["SA"]);
}

#[test]
fn rfc3168_6_1_1_1_a_swallowed_request_is_repeated_without() {
    let mut script = Script::new(|config| config.ecn = Ecn::Ask);
    let id = script.shard.tcp_open().unwrap();
    let to = net::Endpoint::new(CLIENT, 99);
    assert_eq!(script.shard.tcp_connect(id, to, script.now), Err(Error::InProgress));
    assert_eq!(flags(&script.poll()), ["SEW"]);
    assert_eq!(flags(&script.pass(1100)), ["S"]);
}

#[test]
fn rfc3168_6_1_2_data_may_be_marked_acknowledgements_and_repetitions_may_not() {
    let mut c = Conn::new(ECN);
    let out = c.write(2000);
    assert!(out.iter().all(|seen| seen.tos == 2), "{out:?}");
    let again = c.pass(300);
    assert!(!again.is_empty() && again.iter().all(|seen| seen.tos == 0));
    let ack = c.segment("PA", 0, 2000, &[1; 2000], &[]);
    assert!(ack.iter().all(|seen| seen.tos == 0));
    let mut plain = Conn::new(SACK);
    assert!(plain.write(1000).iter().all(|seen| seen.tos == 0));
}

#[test]
fn rfc3168_6_1_3_a_mark_is_echoed_until_cwr() {
    let mut c = Conn::new(ECN);
    c.script.tos = 3;
    let marked = c.segment("A", 0, 0, &[1; 1000], &[]);
    assert_eq!(flags(&marked), ["AE"], "at once");
    c.script.tos = 2;
    let still = c.segment("A", 1000, 0, &[1; 1000], &[]);
    assert_eq!(flags(&still), ["AE"]);
    let told = c.segment("AW", 2000, 0, &[1; 1000], &[]);
    assert_eq!(flags(&told), ["A"]);
}

#[test]
fn rfc3168_6_1_2_an_echo_reduces_once_in_a_round_trip() {
    let mut c = Conn::new(ECN);
    c.write(40_000);
    c.pass(10);
    let mut out = c.segment("AE", 0, 1000, b"", &[]);
    let after = c.info().cwnd;
    assert!((6000..8000).contains(&after), "{after}");
    for ack in 2..=9 {
        out.extend(c.segment("AE", 0, ack * 1000, b"", &[]));
    }
    assert_eq!(c.info().cwnd, after);
    let data: Vec<&str> = flags(&out).into_iter().collect();
    assert!(data[0].contains('W') && data[1..].iter().all(|flags| !flags.contains('W')), "{data:?}");
    assert_eq!(c.info().total_retransmits, 0);
}

fn flooded(change: impl FnOnce(&mut Config)) -> Script {
    let mut script = Script::new(change);
    script.listen(8);
    for port in 0..256 {
        assert_eq!(script.segment(10_000 + port, "S", 7, 0, b"").len(), 1);
    }
    script
}

const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 9];

#[test]
fn rfc4987_3_6_a_full_queue_answers_with_cookies_and_keeps_nothing() {
    let mut script = flooded(|_| ());
    let sockets = script.shard.counts()[0];
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"", &SYN_OPTIONS);
    assert_eq!((flags(&answer), answer[0].ack), (vec!["SA"], 1001));
    assert_eq!(script.shard.counts()[0], sockets);
    let (value, echo) = timestamp(&answer[0]).unwrap();
    assert_eq!(echo, 9);
    // Its answer makes the connection, with all that was agreed.
    let mut options = vec![1, 1, 8, 10, 0, 0, 0, 10];
    options.extend(value.to_be_bytes());
    let ours = answer[0].seq.wrapping_add(1);
    script.pass(20);
    let got = script.segment_with(5000, "PA", 1001, ours, 100, b"hello", &options);
    assert!(flags(&got).iter().all(|flags| !flags.contains('R')), "{got:?}");
    let listener = script.shard.next_event().unwrap().id;
    let (id, peer) = script.shard.tcp_accept(listener).unwrap();
    let info = script.shard.tcp_info(id).unwrap();
    assert_eq!((peer.port, info.state), (5000, TcpState::Established));
    assert_eq!((info.send_mss, info.window_scale, info.sack), (1460 - 12, Some((9, 7)), true));
    assert_eq!(info.send_window, 100 << 9);
    assert_eq!(drain(&mut script.shard, id), b"hello");
}

#[test]
fn rfc4987_3_6_without_timestamps_nothing_but_the_mss_is_kept() {
    let mut script = flooded(|_| ());
    let options = [2, 4, 5, 0, 4, 2, 1, 3, 3, 9, 1, 1];
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"", &options);
    assert_eq!(answer[0].options, [2, 4, 5, 180]);
    script.segment(5000, "A", 1001, answer[0].seq.wrapping_add(1), b"");
    let listener = script.shard.next_event().unwrap().id;
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    let info = script.shard.tcp_info(id).unwrap();
    assert_eq!((info.send_mss, info.window_scale, info.sack), (1220, None, false));
}

#[test]
fn rfc4987_3_6_forged_and_old_answers_are_reset() {
    let mut script = flooded(|_| ());
    let answer = script.segment(5000, "S", 1000, 0, b"");
    let ours = answer[0].seq.wrapping_add(1);
    for (seq, ack) in [(1001, ours.wrapping_add(1)), (1002, ours), (1001, ours ^ 1 << 30)] {
        assert_eq!(flags(&script.segment(5000, "A", seq, ack, b"")), ["R"]);
    }
    script.pass(200_000);
    assert_eq!(flags(&script.segment(5000, "A", 1001, ours, b"")), ["R"]);
    // Without cookies a full queue is silent.
    let mut script = flooded(|config| config.syn_cookies = false);
    assert!(script.segment(5000, "S", 1000, 0, b"").is_empty());
}

#[test]
fn rfc4987_where_no_cookies_are_out_a_stray_ack_is_reset() {
    let mut script = Script::new(|_| ());
    script.listen(8);
    assert_eq!(flags(&script.segment(5000, "A", 1001, 77, b"")), ["R"]);
}

const ETHERNET: Offer = Offer { mss: 1460, ..SACK };

#[test]
fn rfc5927_7_only_numbers_in_flight_are_believed_and_the_rest_is_sent_again_at_once() {
    let mut c = Conn::new(ETHERNET);
    let out = c.write(5 * 1460);
    assert_eq!(c.sent(&out)[4], (4 * 1460, 1460));
    assert!(too_big(&mut c.script, c.ours.wrapping_add(50_000), 1000).is_empty());
    assert!(too_big(&mut c.script, c.ours.wrapping_sub(1), 1000).is_empty());
    let cwnd = c.info().cwnd;
    let again = too_big(&mut c.script, c.ours, 1000);
    let sent = c.sent(&again);
    assert_eq!(sent.iter().map(|sent| sent.1).sum::<usize>(), 5 * 1460);
    assert!(sent.iter().all(|sent| sent.1 <= 960), "{sent:?}");
    assert_eq!((c.info().cwnd, c.info().path_mtu), (cwnd, 1000), "it was no congestion");
}

#[test]
fn rfc1191_6_3_after_ten_minutes_the_path_is_tried_again() {
    let mut c = Conn::new(ETHERNET);
    c.write(1460);
    too_big(&mut c.script, c.ours, 600);
    c.ack(1460);
    c.pass(300_000);
    c.write(2000);
    c.pass(10);
    c.ack(3460);
    assert_eq!(c.info().path_mtu, 600);
    c.pass(400_000);
    let out = c.write(1460);
    assert_eq!(c.sent(&out), [(3460, 1460)]);
}

#[test]
fn rfc1191_6_4_the_least_mtu_has_a_floor() {
    let mut c = Conn::new(ETHERNET);
    c.write(1460);
    too_big(&mut c.script, c.ours, 68);
    assert_eq!(c.info().path_mtu, 552);
}

#[test]
fn rfc4821_7_7_a_black_hole_is_left_by_smaller_segments() {
    let mut c = Conn::new(ETHERNET);
    c.write(3 * 1460);
    let mut sizes = Vec::new();
    for _ in 0..200 {
        let out = c.pass(20);
        sizes.extend(c.sent(&out).into_iter().filter(|sent| sent.0 == 0).map(|sent| sent.1));
    }
    assert_eq!(sizes[..3], [1460, 1460, 1160], "{sizes:?}");
    // Small ones arrive: all goes on.
    let out = c.ack(1160);
    assert!(c.sent(&out).iter().all(|sent| sent.1 <= 1160));
}

/// Falls into a black hole and out of it; `acked` bytes arrived.
fn out_of_the_hole(offer: Offer) -> (Conn, u32) {
    let mut c = Conn::new(offer);
    c.write(3 * 1460);
    c.pass(4000);
    assert_eq!(c.info().path_mtu, 1200);
    c.ack(3 * 1460);
    (c, 3 * 1460)
}

/// Acknowledges in order what is sent, a segment at a time, until one is larger than usual; what came out last.
fn until_probe(c: &mut Conn, acked: &mut u32, most_ms: u64) -> Option<Vec<(u32, usize)>> {
    let usual = usize::from(c.info().path_mtu) - 40;
    for _ in 0..most_ms / 10 {
        let out = c.write(20_000);
        let mut sent = c.sent(&out);
        if sent.iter().any(|sent| sent.1 > usual) {
            return Some(sent);
        }
        while let Some(&(seq, len)) = sent.first() {
            *acked = seq + len as u32;
            let more = c.ack(*acked);
            sent.remove(0);
            sent.extend(c.sent(&more));
            if sent.iter().any(|sent| sent.1 > usual) {
                return Some(sent);
            }
        }
        c.pass(10);
    }
    None
}

#[test]
fn rfc4821_7_3_a_probe_that_arrives_makes_segments_large_again() {
    let (mut c, mut acked) = out_of_the_hole(ETHERNET);
    let sent = until_probe(&mut c, &mut acked, 5000).expect("a probe");
    let large: Vec<usize> = sent.iter().map(|sent| sent.1).filter(|len| *len > 1160).collect();
    assert_eq!(large, [1460], "one, of the link's size");
    let behind = sent.iter().skip_while(|sent| sent.1 != 1460).count();
    assert!(behind > 4, "its loss would be seen: {sent:?}");
    for (seq, len) in sent {
        acked = acked.max(seq + len as u32);
        c.ack(acked);
    }
    assert_eq!(c.info().path_mtu, 1500);
    c.pass(10);
    let out = c.write(5000);
    assert!(c.sent(&out).iter().any(|sent| sent.1 == 1460), "{out:?}");
}

#[test]
fn rfc4821_7_6_2_a_probe_that_is_lost_costs_no_window_and_the_search_goes_on_by_halves() {
    let (mut c, mut acked) = out_of_the_hole(ETHERNET);
    let mut tried = Vec::new();
    // A path that takes packets of up to 1400 bytes.
    for _ in 0..20 {
        let Some(sent) = until_probe(&mut c, &mut acked, 5000) else { break };
        let probe = *sent.iter().find(|sent| sent.1 > usize::from(c.info().path_mtu) - 40).expect("a probe");
        tried.push(probe.1 + 40);
        let end = sent.iter().map(|sent| sent.0 + sent.1 as u32).max().unwrap();
        if probe.1 + 40 <= 1400 {
            acked = end;
            c.ack(acked);
            c.pass(5);
            if usize::from(c.info().path_mtu) >= 1384 {
                break;
            }
            continue;
        }
        let (cwnd, before) = (c.info().cwnd, c.info().ssthresh);
        c.ack(probe.0);
        let mut again = Vec::new();
        let behind: Vec<_> = sent.iter().filter(|sent| sent.0 > probe.0).copied().collect();
        for (seq, len) in &behind {
            let first = behind[0].0;
            let out = c.sack(probe.0, &[(first, seq + *len as u32)]);
            again.extend(c.sent(&out).into_iter().filter(|sent| sent.0 < first));
        }
        let bytes: usize = again.iter().map(|sent| sent.1).sum();
        assert_eq!((again[0].0, bytes), (probe.0, probe.1), "sent again: {again:?}");
        assert!(
            again.iter().all(|sent| sent.1 <= usize::from(c.info().path_mtu) - 40),
            "in small ones: {again:?}"
        );
        assert!(c.info().cwnd >= cwnd && c.info().ssthresh == before, "no congestion");
        acked = end;
        c.ack(acked);
    }
    assert_eq!(tried[..2], [1500, 1500], "twice: {tried:?}");
    let found = c.info().path_mtu;
    assert!((1384..=1400).contains(&found), "{found}: {tried:?}");
    assert!(tried.len() <= 12, "{tried:?}");
}

#[test]
fn rfc8899_5_1_1_the_search_is_over_for_ten_minutes() {
    let (mut c, mut acked) = out_of_the_hole(ETHERNET);
    let mut probes = 0;
    // Nothing above 1200 passes.
    while let Some(sent) = until_probe(&mut c, &mut acked, 5000) {
        let probe = *sent.iter().find(|sent| sent.1 > 1160).unwrap();
        let end = sent.iter().map(|sent| sent.0 + sent.1 as u32).max().unwrap();
        c.ack(probe.0);
        for _ in 0..3 {
            c.sack(probe.0, &[(probe.0 + probe.1 as u32, end)]);
        }
        acked = end;
        c.ack(acked);
        probes += 1;
        assert!(probes < 20);
    }
    assert_eq!(c.info().path_mtu, 1200);
    assert!((10..=14).contains(&probes), "each size twice: {probes}");
    c.pass(600_000);
    assert!(until_probe(&mut c, &mut acked, 5000).is_some(), "and then again");
}

#[test]
fn rfc8899_3_who_sends_little_does_not_probe() {
    let (mut c, mut acked) = out_of_the_hole(ETHERNET);
    c.pass(5000);
    for _ in 0..50 {
        let out = c.write(3000);
        let sent = c.sent(&out);
        assert!(sent.iter().all(|sent| sent.1 <= 1160), "{sent:?}");
        acked += 3000;
        c.ack(acked);
        c.pass(20);
    }
}
