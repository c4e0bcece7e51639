//! Loss recovery, segment by segment: RFC 2018, 2883, 3042, 5681, 5682, 6298, 6582, 6675, 8985, 9937.
//!
//! All connections here have 1000 byte segments, an initial window of ten and a round trip of 10 ms.

mod common;
mod peer;

use net::Ready;
use peer::*;

fn segments(from: u32, to: u32) -> Vec<(u32, usize)> {
    (from..to).map(|i| (i * 1000, 1000)).collect()
}

#[test]
fn rfc6928_initial_window_of_ten() {
    let mut c = Conn::new(SACK);
    let out = c.write(20_000);
    assert_eq!(c.sent(&out), segments(0, 10));
}

#[test]
fn rfc5681_3_1_slow_start_doubles() {
    let mut c = Conn::new(SACK);
    c.write(60_000);
    c.pass(10);
    let mut out = Vec::new();
    for i in 1..=10 {
        out.extend(c.ack(i * 1000));
    }
    assert_eq!(c.sent(&out), segments(10, 30));
}

#[test]
fn rfc8985_7_2_a_hole_at_the_head_is_filled_by_the_first_three_blocks() {
    let mut c = Conn::new(SACK);
    c.write(10_000);
    c.pass(10);
    // One and two segments above the hole might be reordering: a quarter of a round trip is waited.
    let first = c.sack(0, &[(1000, 2000)]);
    assert!(c.sent(&first).is_empty());
    assert!(c.sack(0, &[(1000, 3000)]).is_empty());
    let third = c.sack(0, &[(1000, 4000)]);
    assert_eq!(c.sent(&third), [(0, 1000)]);
}

#[test]
fn rfc8985_6_2_the_reordering_window_ends_by_time() {
    let mut c = Conn::new(SACK);
    c.write(10_000);
    c.pass(10);
    assert!(c.sack(0, &[(1000, 2000)]).is_empty());
    let early = c.pass(2);
    assert!(c.sent(&early).is_empty(), "{early:?}");
    let due = c.pass(3);
    assert_eq!(c.sent(&due), [(0, 1000)], "a quarter of the round trip");
}

/// The buffer follows the congestion window, so a loss can leave too much in it for a writer that found room before.
/// Who has been told so must be told of the end of it, though no send was ever refused.
#[test]
fn a_loss_takes_room_and_an_acknowledgement_tells_when_it_is_back() {
    let mut c = Conn::with(SACK, |config| config.limits.sndbuf.0 = 4_000);
    c.write(13_000);
    c.pass(10);
    assert!(c.script.shard.ready(c.id).contains(Ready::WRITABLE), "two thirds of twice ten segments");
    for right in [2000, 3000, 4000] {
        c.sack(0, &[(1000, right)]);
    }
    assert!(!c.script.shard.ready(c.id).contains(Ready::WRITABLE), "more than two thirds of what is left");
    while c.script.shard.next_event().is_some() {}
    c.ack(10_000);
    let event = c.script.shard.next_event().expect("room");
    assert!(event.id == c.id && event.news.contains(Ready::WRITABLE), "{:?}", event.news);
}

#[test]
fn rfc3042_limited_transmit() {
    let mut c = Conn::new(SACK);
    c.write(20_000);
    c.pass(10);
    let one = c.sack(0, &[(1000, 2000)]);
    assert_eq!(c.sent(&one), segments(10, 11));
    let two = c.sack(0, &[(1000, 3000)]);
    assert_eq!(c.sent(&two), segments(11, 12));
}

#[test]
fn rfc2018_many_holes_are_filled_in_one_round_trip() {
    let mut c = Conn::new(SACK);
    c.write(10_000);
    c.pass(10);
    let mut out = Vec::new();
    // 0, 2, 4 and 6 are lost.
    for blocks in
        [&[(1000, 2000)][..], &[(3000, 4000), (1000, 2000)], &[(5000, 6000), (3000, 4000), (1000, 2000)]]
    {
        out.extend(c.sack(0, blocks));
    }
    for right in [8000, 9000, 10_000] {
        out.extend(c.sack(0, &[(7000, right), (5000, 6000), (3000, 4000)]));
    }
    assert_eq!(c.sent(&out), [(0, 1000), (2000, 1000), (4000, 1000), (6000, 1000)]);
    c.pass(10);
    for ack in [2000, 4000, 6000, 10_000] {
        let more = c.ack(ack);
        assert!(c.sent(&more).is_empty(), "nothing twice: {more:?}");
    }
    assert_eq!(c.info().total_retransmits, 4);
}

#[test]
fn rfc9937_the_reduction_is_spread_over_a_round_trip() {
    let mut c = Conn::new(SACK);
    c.write(60_000);
    c.pass(10);
    for i in 1..=10 {
        c.ack(i * 1000);
    }
    // 20 segments in flight, number 10 is lost.
    c.pass(10);
    let cwnd = c.info().cwnd;
    assert_eq!(cwnd, 20_000);
    let mut counts = Vec::new();
    for right in 12..=30 {
        let out = c.sack(10_000, &[(11_000, right * 1000)]);
        counts.push(c.sent(&out).len());
    }
    // 0.7 of 20: in all 14 segments leave for 19 that arrived, and never two at once.
    let sum: usize = counts.iter().sum();
    assert!((13..=15).contains(&sum) && counts.iter().all(|&count| count <= 1), "{counts:?}");
    c.pass(10);
    c.ack(30_000);
    assert_eq!(c.info().cwnd, 14_000, "ssthresh in the end");
}

#[test]
fn rfc8985_a_lost_retransmission_is_found_without_a_timeout() {
    let mut c = Conn::new(SACK);
    c.write(30_000);
    c.pass(10);
    let mut out = Vec::new();
    for right in 2..=10 {
        out.extend(c.sack(0, &[(1000, right * 1000)]));
    }
    assert!(c.sent(&out).starts_with(&[(10_000, 1000), (11_000, 1000), (0, 1000)]));
    let highest = c.sent(&out).last().unwrap().0 + 1000;
    // A round trip later what was sent after the retransmission arrives, but not the retransmission.
    c.pass(10);
    let mut out = Vec::new();
    for right in 11..=highest / 1000 {
        out.extend(c.sack(0, &[(1000, right * 1000)]));
    }
    out.extend(c.pass(4));
    assert_eq!(c.sent(&out).iter().filter(|sent| sent.0 == 0).count(), 1, "{:?}", c.sent(&out));
}

#[test]
fn rfc8985_7_3_a_lost_tail_is_probed_after_two_round_trips() {
    let mut c = Conn::new(SACK);
    c.write(3_000);
    let quiet = c.pass(20);
    assert!(c.sent(&quiet).is_empty());
    let probe = c.pass(5);
    assert_eq!(c.sent(&probe), [(2000, 1000)]);
    // Its arrival tells what is missing.
    c.pass(10);
    assert!(c.sack(0, &[(2000, 3000)]).is_empty());
    let repair = c.pass(4);
    assert_eq!(c.sent(&repair), [(0, 1000)]);
    c.pass(10);
    let next = c.sack(1000, &[(2000, 3000)]);
    assert_eq!(c.sent(&next), [(1000, 1000)]);
    c.pass(10);
    c.ack(3000);
    assert!(c.info().cwnd < 10_000, "the probe's repair counts as congestion");
}

#[test]
fn rfc8985_7_3_the_probe_is_new_data_if_there_is_some() {
    let mut c = Conn::new(SACK);
    c.write(20_000);
    let probe = c.pass(25);
    assert_eq!(c.sent(&probe), [(10_000, 1000)]);
}

#[test]
fn rfc8985_7_4_a_needless_probe_costs_nothing_and_teaches_patience() {
    let mut c = Conn::new(SACK);
    c.write(100);
    let probe = c.pass(75);
    assert_eq!(c.sent(&probe), [(0, 100)], "a lone segment: 20 ms and 48 for the peer's delay");
    // Both arrive: D-SACK.
    c.sack(100, &[(0, 100)]);
    assert_eq!(c.info().cwnd, 10_000);
    c.write(100);
    let quiet = c.pass(90);
    assert!(c.sent(&quiet).is_empty());
    let probe = c.pass(60);
    assert_eq!(c.sent(&probe).len(), 1, "96 ms now");
}

#[test]
fn rfc6298_5_the_timeout_doubles() {
    let mut c = Conn::new(PLAIN);
    c.write(500);
    let mut at = Vec::new();
    for ms in 0..7000 {
        if !c.pass(1).is_empty() {
            at.push(ms);
        }
    }
    let gaps: Vec<i32> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((199..=211).contains(&at[0]), "{at:?}");
    assert!(gaps.windows(2).all(|pair| (pair[1] - 2 * pair[0]).abs() <= 4), "{gaps:?}");
}

#[test]
fn rfc5681_3_1_slow_start_after_a_timeout() {
    let mut c = Conn::new(PLAIN);
    c.write(30_000);
    let out = c.pass(215);
    assert_eq!(c.sent(&out), [(0, 1000)]);
    c.pass(10);
    let two = c.ack(1000);
    assert_eq!(c.sent(&two), [(1000, 1000), (2000, 1000)]);
    c.pass(10);
    let mut out = c.ack(2000);
    out.extend(c.ack(3000));
    assert_eq!(c.sent(&out), segments(3, 7));
}

#[test]
fn rfc6582_without_sack_three_duplicates_and_partial_acknowledgements() {
    let mut c = Conn::new(PLAIN);
    c.write(10_000);
    c.pass(10);
    // 0 and 3 are lost.
    assert!(c.ack(0).is_empty() && c.ack(0).is_empty());
    let third = c.ack(0);
    assert_eq!(c.sent(&third), [(0, 1000)]);
    for _ in 0..5 {
        let more = c.ack(0);
        assert!(c.sent(&more).is_empty());
    }
    c.pass(10);
    let partial = c.ack(3000);
    assert_eq!(c.sent(&partial), [(3000, 1000)]);
    c.pass(10);
    let all = c.ack(10_000);
    assert!(c.sent(&all).is_empty());
    assert_eq!(c.info().total_retransmits, 2);
}

#[test]
fn rfc3522_a_needless_timeout_is_undone_by_timestamps() {
    let mut c = Conn::new(FULL);
    c.write(10_000);
    let before = c.echo;
    // The path stalls: probe and timeout.
    let stalled = c.pass(300);
    assert!(c.sent(&stalled).iter().any(|sent| sent.0 == 0));
    assert!(c.info().cwnd <= 2000);
    // The acknowledgement of what was sent first.
    let out = c.segment_echoing(before, "A", 0, 2000, b"", &[]);
    assert!(c.sent(&out).is_empty(), "{:?}", c.sent(&out));
    assert!(c.info().cwnd >= 10_000);
    assert_eq!(c.info().ssthresh, u32::MAX);
}

#[test]
fn rfc3522_a_needed_timeout_stays() {
    let mut c = Conn::new(FULL);
    c.write(10_000);
    c.pass(300);
    let out = c.ack(1000);
    assert!(!c.sent(&out).is_empty());
    assert!(c.info().cwnd < 5000 && c.info().ssthresh < 10_000);
}

#[test]
fn rfc5682_without_timestamps_originals_that_arrive_undo_the_timeout() {
    let mut c = Conn::new(SACK);
    c.write(10_000);
    c.pass(25); // the probe: the last segment again
    let out = c.pass(300);
    assert_eq!(c.sent(&out)[0], (0, 1000));
    c.ack(2000);
    assert!(c.info().cwnd >= 10_000, "{}", c.info().cwnd);
}

#[test]
fn rfc2883_reports_of_duplicates_undo_a_recovery_and_widen_the_window() {
    let mut c = Conn::new(SACK);
    c.write(30_000);
    c.pass(10);
    for right in 2..=5 {
        c.sack(0, &[(1000, right * 1000)]);
    }
    assert_eq!(c.info().total_retransmits, 1);
    let reduced = c.info().ssthresh;
    // The original was late, not lost; then the copy arrives too.
    c.pass(1);
    c.ack(5000);
    c.pass(9);
    c.sack(6000, &[(0, 1000)]);
    assert!(c.info().ssthresh > reduced && c.info().cwnd >= 10_000, "{:?}", c.info());
    // From now on three segments above a hole are not enough.
    c.pass(1);
    let top = c.info().in_flight + 6000;
    for right in 8..=11 {
        let out = c.sack(6000, &[(7000, right * 1000)]);
        assert!(!c.sent(&out).contains(&(6000, 1000)), "patience");
    }
    let _ = top;
}

#[test]
fn rfc2018_8_a_peer_that_forgets_what_it_reported() {
    let mut c = Conn::new(SACK);
    c.write(5_000);
    c.pass(10);
    c.sack(0, &[(1000, 5000)]);
    c.pass(10);
    // It got the head, and has lost the rest in the meantime.
    c.ack(1000);
    let mut sent = Vec::new();
    for _ in 0..40 {
        let out = c.pass(100);
        sent.extend(c.sent(&out));
        let top = sent.iter().map(|s| s.0 + s.1 as u32).max().unwrap_or(0);
        if top == 5000 && sent.iter().any(|s| s.0 == 1000) {
            let next = sent.iter().filter(|s| s.0 >= 1000).map(|s| s.0 + s.1 as u32).max().unwrap();
            c.ack(next);
        }
    }
    assert!(sent.iter().any(|s| s.0 == 1000), "sent again though reported: {sent:?}");
}

#[test]
fn rfc2018_4_blocks_are_reported_latest_first() {
    let mut c = Conn::new(SACK);
    let data = [7; 1000];
    c.segment("A", 2000, 0, &data, &[]);
    c.segment("A", 6000, 0, &data, &[]);
    let third = c.segment("A", 4000, 0, &data, &[]);
    assert_eq!(c.blocks(&third[0]), [(4000, 5000), (6000, 7000), (2000, 3000)]);
    let grown = c.segment("A", 3000, 0, &data, &[]);
    assert_eq!(c.blocks(&grown[0]), [(2000, 5000), (6000, 7000)]);
    let head = c.segment("A", 0, 0, &data, &[]);
    assert_eq!(
        (c.acked(head.last().unwrap()), c.blocks(head.last().unwrap())),
        (1000, vec![(2000, 5000), (6000, 7000)])
    );
}

#[test]
fn rfc2018_3_three_blocks_with_timestamps_four_without() {
    for (offer, most) in [(SACK, 4), (FULL, 3)] {
        let mut c = Conn::new(offer);
        let mut last = Vec::new();
        for i in 1..=6 {
            last = c.segment("A", i * 2000, 0, &[1; 1000], &[]);
        }
        assert_eq!(c.blocks(&last[0]).len(), most);
    }
}

#[test]
fn rfc2883_4_duplicates_are_reported_once() {
    let mut c = Conn::new(SACK);
    c.segment("A", 0, 0, &[1; 1000], &[]);
    let below = c.segment("A", 0, 0, &[1; 1000], &[]);
    assert_eq!((c.acked(&below[0]), c.blocks(&below[0])), (1000, vec![(0, 1000)]));
    c.segment("A", 1000, 0, &[1; 1000], &[]);
    let old = c.segment("A", 0, 0, &[1; 1000], &[]);
    assert_eq!((c.acked(&old[0]), c.blocks(&old[0])), (2000, vec![(0, 1000)]));
    c.segment("A", 3000, 0, &[1; 1000], &[]);
    let above = c.segment("A", 3000, 0, &[1; 1000], &[]);
    assert_eq!(c.blocks(&above[0]), [(3000, 4000), (3000, 4000)]);
    let next = c.segment("A", 5000, 0, &[1; 1000], &[]);
    assert_eq!(c.blocks(&next[0]), [(5000, 6000), (3000, 4000)]);
}

#[test]
fn blocks_that_make_no_sense_are_ignored() {
    let mut c = Conn::new(SACK);
    c.write(10_000);
    c.pass(10);
    for blocks in [[(20_000, 30_000)], [(5000, 4000)], [(3_000_000_000, 3_000_001_000)], [(0, 0)]] {
        let out = c.sack(0, &blocks);
        assert!(c.sent(&out).is_empty());
    }
    assert_eq!(c.info().total_retransmits, 0);
    assert!(c.ack(10_000).is_empty());
    assert_eq!(c.info().in_flight, 0);
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut c = Conn::new(SACK);
    c.write(1000);
    c.script.shard.tcp_shutdown(c.id, net::Shutdown::Write).unwrap();
    let fin = c.poll();
    assert_eq!(flags(&fin), ["FA"]);
    c.pass(10);
    c.ack(1000);
    let again = c.pass(300);
    assert!(again.iter().any(|seen| seen.flags.contains('F')), "{again:?}");
    c.ack(1001);
    assert_eq!(c.info().state, net::TcpState::FinWait2);
}
