//! Every state and what may meet it (RFC 9293 section 3.10), the checks of RFC 5961 and RFC 7323, windows and
//! probes, urgent data, the timers that end a connection.

mod common;
mod peer;

use common::*;
use net::{Bind, Endpoint, Error, Ready, Shutdown, TcpFlags, TcpOption, TcpState};
use peer::*;
use platform::time::Instant;

fn state(c: &Conn) -> TcpState {
    c.info().state
}

/// A socket in SYN-SENT towards port 90 of the peer, and its SYN.
fn syn_sent() -> (Script, net::SocketId, Seen) {
    let mut script = Script::new(|_| ());
    let id = script.shard.tcp_open().unwrap();
    script.shard.tcp_bind(id, Endpoint::new(SERVER, 80), Bind::default()).unwrap();
    let _ = script.shard.tcp_connect(id, Endpoint::new(CLIENT, 5000), script.now);
    let syn = script.poll();
    assert_eq!(flags(&syn), ["S"]);
    let syn = syn[0].clone();
    (script, id, syn)
}

#[test]
fn rfc9293_3_10_7_1_closed() {
    let mut script = Script::new(|_| ());
    let rst = script.segment(5000, "S", 100, 0, b"");
    assert_eq!((&rst[0].flags[..], rst[0].seq, rst[0].ack), ("RA", 0, 101));
    let rst = script.segment(5000, "PA", 100, 777, b"xy");
    assert_eq!((&rst[0].flags[..], rst[0].seq), ("R", 777));
    let rst = script.segment(5000, "F", 100, 0, b"xy");
    assert_eq!((&rst[0].flags[..], rst[0].ack), ("RA", 103));
    assert!(script.segment(5000, "R", 100, 0, b"").is_empty());
    assert!(script.segment(5000, "RA", 100, 5, b"").is_empty());
}

#[test]
fn rfc9293_3_10_7_2_listen() {
    let mut script = Script::new(|_| ());
    script.listen(4);
    assert!(script.segment(5000, "R", 100, 0, b"").is_empty());
    assert_eq!(flags(&script.segment(5000, "A", 100, 777, b"")), ["R"]);
    assert_eq!(flags(&script.segment(5000, "SA", 100, 777, b"")), ["R"]);
    assert!(script.segment(5000, "SF", 100, 0, b"").is_empty());
    let answer = script.segment(5000, "S", 100, 0, b"");
    assert_eq!((&answer[0].flags[..], answer[0].ack), ("SA", 101));
}

#[test]
fn rfc9293_3_10_7_3_syn_sent() {
    let (mut script, id, syn) = syn_sent();
    // A wrong acknowledgement: RST unless it is one itself.
    assert_eq!(flags(&script.segment(5000, "SA", 1, syn.seq.wrapping_add(2), b"")), ["R"]);
    assert!(script.segment(5000, "RA", 1, syn.seq, b"").is_empty());
    assert!(script.segment(5000, "R", 1, 0, b"").is_empty(), "without ACK it is not believed");
    assert_eq!(script.shard.tcp_info(id).unwrap().state, TcpState::SynSent);
    let ack = script.segment(5000, "SA", 1, syn.seq.wrapping_add(1), b"");
    assert_eq!((&ack[0].flags[..], ack[0].ack), ("A", 2));
    assert_eq!(script.shard.tcp_info(id).unwrap().state, TcpState::Established);
}

#[test]
fn rfc9293_3_10_7_3_syn_sent_refused() {
    let (mut script, id, syn) = syn_sent();
    script.segment(5000, "RA", 0, syn.seq.wrapping_add(1), b"");
    assert_eq!(script.shard.take_error(id), Some(Error::Refused));
}

#[test]
fn rfc9293_3_5_simultaneous_open() {
    let (mut script, id, syn) = syn_sent();
    let answer = script.segment(5000, "S", 300, 0, b"");
    assert_eq!((&answer[0].flags[..], answer[0].seq, answer[0].ack), ("SA", syn.seq, 301));
    assert_eq!(script.shard.tcp_info(id).unwrap().state, TcpState::SynReceived);
    script.segment(5000, "SA", 300, syn.seq.wrapping_add(1), b"");
    script.segment(5000, "A", 301, syn.seq.wrapping_add(1), b"");
    assert_eq!(script.shard.tcp_info(id).unwrap().state, TcpState::Established);
}

#[test]
fn rfc9293_3_10_7_4_syn_received() {
    let mut script = Script::new(|_| ());
    script.listen(4);
    let syn_ack = script.segment(5000, "S", 100, 0, b"");
    let ours = syn_ack[0].seq.wrapping_add(1);
    assert_eq!(flags(&script.segment(5000, "A", 101, ours.wrapping_add(1), b"")), ["R"]);
    assert_eq!(script.shard.counts()[0], 2);
    // RST from the peer: back to LISTEN, nobody hears of it.
    script.segment(5000, "R", 101, 0, b"");
    assert_eq!(script.shard.counts()[0], 1);
    assert!(script.shard.next_event().is_none());
}

#[test]
fn rfc9293_3_10_7_4_data_may_come_with_the_last_ack() {
    let mut script = Script::new(|_| ());
    let listener = script.listen(4);
    let ours = script.segment(5000, "S", 100, 0, b"")[0].seq.wrapping_add(1);
    script.segment(5000, "FA", 101, ours, b"all at once");
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    assert_eq!(drain(&mut script.shard, id), b"all at once");
    assert_eq!(script.shard.tcp_info(id).unwrap().state, TcpState::CloseWait);
}

#[test]
fn rfc9293_3_6_the_states_of_an_active_close() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_shutdown(c.id, Shutdown::Write).unwrap();
    assert_eq!(flags(&c.poll()), ["FA"]);
    assert_eq!(state(&c), TcpState::FinWait1);
    // Data is still taken.
    c.segment("A", 0, 0, b"late", &[]);
    assert_eq!(c.read(), b"late");
    c.segment("A", 4, 1, b"", &[]);
    assert_eq!(state(&c), TcpState::FinWait2);
    c.segment("A", 4, 1, b"more", &[]);
    assert_eq!(c.read(), b"more");
    let last = c.segment("FA", 8, 1, b"", &[]);
    assert_eq!((flags(&last), c.acked(&last[0])), (vec!["A"], 9));
    assert_eq!(c.script.shard.counts()[3], 1, "TIME-WAIT");
}

#[test]
fn rfc9293_3_6_fin_and_ack_in_one_segment() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_shutdown(c.id, Shutdown::Write).unwrap();
    c.poll();
    c.segment("FA", 0, 1, b"", &[]);
    assert_eq!(c.script.shard.counts()[3], 1);
}

#[test]
fn rfc9293_3_6_simultaneous_close() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_shutdown(c.id, Shutdown::Write).unwrap();
    c.poll();
    let ack = c.segment("FA", 0, 0, b"", &[]);
    assert_eq!(c.acked(&ack[0]), 1);
    assert_eq!(state(&c), TcpState::Closing);
    c.segment("A", 1, 1, b"", &[]);
    assert_eq!(c.script.shard.counts()[3], 1);
}

#[test]
fn rfc9293_3_6_passive_close() {
    let mut c = Conn::new(SACK);
    let ack = c.segment("FA", 0, 0, b"", &[]);
    assert_eq!((c.acked(&ack[0]), state(&c)), (1, TcpState::CloseWait));
    let more = c.write(10);
    assert_eq!(c.sent(&more), [(0, 10)]);
    c.script.shard.tcp_shutdown(c.id, Shutdown::Write).unwrap();
    assert_eq!(flags(&c.poll()), ["FA"]);
    assert_eq!(state(&c), TcpState::LastAck);
    c.segment("A", 1, 11, b"", &[]);
    assert_eq!(state(&c), TcpState::Closed);
    assert_eq!(c.script.shard.counts()[3], 0);
    // Data behind a FIN is nonsense; a repeated FIN is acknowledged.
    let mut c = Conn::new(SACK);
    c.segment("FA", 0, 0, b"", &[]);
    c.segment("A", 1, 0, b"behind", &[]);
    assert_eq!(c.read(), b"");
    let again = c.segment("FA", 0, 0, b"", &[]);
    assert_eq!(c.acked(&again[0]), 1);
}

#[test]
fn rfc9293_3_10_7_4_rst_in_each_state() {
    for (prepare, error) in [
        (0, Some(Error::Reset)),  // ESTABLISHED
        (1, Some(Error::Reset)),  // FIN-WAIT-1
        (2, Some(Error::Closed)), // CLOSE-WAIT: EPIPE, as Linux
    ] {
        let mut c = Conn::new(SACK);
        let mut next = 0;
        match prepare {
            1 => {
                c.script.shard.tcp_shutdown(c.id, Shutdown::Write).unwrap();
                c.poll();
            }
            2 => {
                c.segment("FA", 0, 0, b"", &[]);
                next = 1;
            }
            _ => {}
        }
        assert_eq!(flags(&c.segment("R", next + 1, 0, b"", &[])), ["A"], "RFC 5961 section 3.2: challenge");
        assert!(c.segment("R", next, 0, b"", &[]).is_empty());
        assert_eq!(c.script.shard.take_error(c.id), error);
        assert_eq!(state(&c), TcpState::Closed);
    }
}

#[test]
fn rfc5961_4_syn_in_each_state_is_challenged() {
    let mut c = Conn::new(SACK);
    for seq in [0, 5000, 0u32.wrapping_sub(1)] {
        assert_eq!(flags(&c.segment("S", seq, 0, b"", &[])), ["A"]);
    }
    c.segment("FA", 0, 0, b"", &[]);
    assert_eq!(flags(&c.segment("S", 1, 0, b"", &[])), ["A"]);
    assert_eq!(state(&c), TcpState::CloseWait);
}

#[test]
fn rfc5961_5_acknowledgements_outside_are_challenged_and_their_data_dropped() {
    let mut c = Conn::new(SACK);
    c.write(100);
    assert_eq!(flags(&c.segment("A", 0, 101, b"evil", &[])), ["A"]);
    assert_eq!(flags(&c.segment("A", 0, 0u32.wrapping_sub(100_000), b"evil", &[])), ["A"]);
    assert_eq!(c.read(), b"");
    // An old one inside of the window is none of that: its data counts.
    c.segment("A", 0, 0u32.wrapping_sub(1), b"good", &[]);
    assert_eq!(c.read(), b"good");
}

#[test]
fn rfc1337_a_rst_does_not_end_time_wait_unless_it_fits_exactly() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_shutdown(c.id, Shutdown::Write).unwrap();
    c.poll();
    c.segment("FA", 0, 1, b"", &[]);
    c.segment("R", 0, 0, b"", &[]);
    c.segment("R", 100, 0, b"", &[]);
    assert_eq!(c.script.shard.counts()[3], 1);
}

#[test]
fn rfc6191_a_newer_timestamp_opens_a_connection_in_time_wait_again() {
    let mut c = Conn::new(FULL);
    c.script.shard.tcp_shutdown(c.id, Shutdown::Write).unwrap();
    c.poll();
    c.segment("FA", 0, 1, b"", &[]);
    let stamp = |clock: u32| {
        let mut options = vec![1, 1, 8, 10];
        options.extend(clock.to_be_bytes());
        options.extend([0; 4]);
        options
    };
    // The number is older than what was; only the clock tells.
    let seq = c.theirs.wrapping_sub(100_000);
    let old = c.script.segment_with(5000, "S", seq, 0, 65_535, b"", &stamp(c.clock - 1));
    assert_eq!(flags(&old), ["A"]);
    let new = c.script.segment_with(5000, "S", seq, 0, 65_535, b"", &stamp(c.clock + 1));
    assert_eq!(flags(&new), ["SA"]);
}

#[test]
fn rfc7323_5_3_paws() {
    let mut c = Conn::new(FULL);
    c.clock = 5000;
    c.segment("A", 0, 0, b"one", &[]);
    c.clock = 4000;
    let old = c.segment("A", 3, 0, b"old", &[]);
    assert_eq!(c.acked(&old[0]), 3);
    assert_eq!(c.read(), b"one");
    // The clock wraps.
    c.clock = 5000u32.wrapping_add(1 << 31) - 1;
    c.segment("A", 3, 0, b"new", &[]);
    assert_eq!(c.read(), b"new");
}

#[test]
fn rfc7323_5_5_a_connection_idle_for_24_days_takes_any_clock() {
    let mut c = Conn::new(FULL);
    c.clock = 5000;
    c.segment("A", 0, 0, b"one", &[]);
    c.script.now = Instant(c.script.now.0 + 25 * 86_400 * 1_000_000_000);
    c.clock = 4000;
    c.segment("A", 3, 0, b"two", &[]);
    assert_eq!(c.read(), b"onetwo");
}

#[test]
fn rfc7323_2_3_the_window_is_scaled() {
    let mut c = Conn::new(FULL);
    c.window = 10;
    c.ack(0);
    assert_eq!(c.info().send_window, 10 << 7);
    let out = c.write(20_000);
    assert_eq!(c.sent(&out).iter().map(|sent| sent.1).sum::<usize>(), 1000, "no partial segment");
}

#[test]
fn rfc9293_3_8_6_1_zero_window_probes_back_off() {
    let mut c = Conn::new(SACK);
    c.window = 0;
    c.ack(0);
    assert!(c.write(1000).is_empty());
    let mut at = Vec::new();
    for ms in 0..7000 {
        let seen = c.pass(1);
        if !seen.is_empty() {
            assert_eq!(seen[0].seq, c.ours.wrapping_sub(1));
            at.push(ms);
            c.ack(0);
        }
    }
    let gaps: Vec<i32> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(at.len() >= 4 && gaps.windows(2).all(|pair| pair[1] > pair[0]), "{at:?}");
    c.window = 5000;
    let out = c.ack(0);
    assert_eq!(c.sent(&out), [(0, 1000)]);
}

#[test]
fn rfc9293_3_8_6_the_window_never_shrinks_and_opens_by_worthwhile_steps() {
    let mut c = Conn::with(SACK, |config| config.limits.rcvbuf = (8192, 8192));
    let mut edge = 0;
    let mut silly = 0;
    for i in 0..30u32 {
        let seen = c.segment("A", i * 250, 0, &[3; 250], &[]);
        if i % 4 == 3 {
            let mut few = [0; 300];
            c.script.shard.tcp_recv(c.id, &mut few, TcpFlags::empty()).unwrap();
        }
        for seen in seen.iter().chain(&c.poll()) {
            let right = c.acked(seen) + u32::from(seen.window);
            assert!(right >= edge, "shrunk from {edge} to {right}");
            silly += u32::from(right > edge && right - edge < 900 && edge > 0 && seen.window < 1000);
            edge = right;
        }
    }
    assert_eq!(silly, 0);
}

#[test]
fn rfc1122_4_2_3_4_senders_silly_window_avoidance() {
    let mut c = Conn::new(SACK);
    c.write(4000);
    c.window = 400;
    let out = c.ack(4000);
    assert!(out.is_empty());
    // 400 bytes of window for 3000 bytes: waits, then sends what fits.
    let at_once = c.write(3000);
    assert!(c.sent(&at_once).is_empty(), "{at_once:?}");
    let later = c.pass(300);
    assert_eq!(c.sent(&later)[0], (4000, 400));
}

#[test]
fn rfc5681_4_2_every_second_segment_is_acknowledged_and_each_hole_at_once() {
    let mut c = Conn::new(SACK);
    // The quick start of a connection is over after 16 segments.
    for i in 0..20 {
        c.segment("A", i * 1000, 0, &[1; 1000], &[]);
    }
    c.read();
    c.poll();
    let counts: Vec<usize> = (20..28).map(|i| c.segment("A", i * 1000, 0, &[1; 1000], &[]).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 4, "{counts:?}");
    let late = c.segment("A", 28_000, 0, &[1; 1000], &[]).len() + c.pass(50).len();
    assert_eq!(late, 1, "delayed");
    for i in 30..33 {
        assert_eq!(c.segment("A", i * 1000, 0, &[1; 1000], &[]).len(), 1, "duplicate at once");
    }
}

#[test]
fn quickack_acknowledges_at_once() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_set(c.id, TcpOption::QuickAck(false)).unwrap();
    assert!(c.segment("A", 0, 0, &[1; 100], &[]).is_empty());
    c.script.shard.tcp_set(c.id, TcpOption::QuickAck(true)).unwrap();
    assert_eq!(c.poll().len(), 1);
    assert_eq!(c.segment("A", 100, 0, &[1; 100], &[]).len(), 1);
}

#[test]
fn urgent_data_is_out_of_band() {
    let mut c = Conn::new(SACK);
    assert_eq!(c.script.shard.tcp_recv_urgent(c.id, false), Err(Error::Invalid));
    c.script.urgent = 4;
    c.segment("UPA", 0, 0, b"abcXdef", &[]);
    c.script.urgent = 0;
    assert!(c.script.shard.ready(c.id).contains(Ready::URGENT));
    assert_eq!(c.info().receive_queue, 3, "up to the mark");
    let mut buffer = [0; 16];
    assert_eq!(c.script.shard.tcp_recv(c.id, &mut buffer, TcpFlags::empty()), Ok(3));
    assert_eq!(&buffer[..3], b"abc");
    assert_eq!(c.script.shard.tcp_at_mark(c.id), Ok(true));
    assert_eq!(c.script.shard.tcp_recv_urgent(c.id, true), Ok(Some(b'X')));
    assert_eq!(c.script.shard.tcp_recv_urgent(c.id, false), Ok(Some(b'X')));
    assert_eq!(c.script.shard.tcp_recv_urgent(c.id, false), Err(Error::Invalid), "once");
    assert!(!c.script.shard.ready(c.id).contains(Ready::URGENT));
    assert_eq!(c.read(), b"def");
    assert_eq!(c.script.shard.tcp_at_mark(c.id), Ok(false));
}

#[test]
fn urgent_data_inline_and_announced_ahead() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_set(c.id, TcpOption::UrgentInline(true)).unwrap();
    c.script.urgent = 3;
    c.segment("UA", 0, 0, b"ab", &[]);
    c.script.urgent = 0;
    let mut buffer = [0; 16];
    assert_eq!(c.script.shard.tcp_recv(c.id, &mut buffer, TcpFlags::empty()), Ok(2));
    assert_eq!(c.script.shard.tcp_at_mark(c.id), Ok(true));
    assert_eq!(c.script.shard.tcp_recv_urgent(c.id, false), Err(Error::Invalid));
    c.segment("A", 2, 0, b"cd", &[]);
    assert_eq!(c.read(), b"cd");
    assert_eq!(c.script.shard.tcp_at_mark(c.id), Ok(false));
    // Not inline: asked for before it came.
    let mut c = Conn::new(SACK);
    c.script.urgent = 3;
    c.segment("UA", 0, 0, b"ab", &[]);
    assert_eq!(c.script.shard.tcp_recv_urgent(c.id, false), Err(Error::WouldBlock));
    c.script.urgent = 0;
    c.segment("A", 2, 0, b"cd", &[]);
    assert_eq!(c.script.shard.tcp_recv_urgent(c.id, false), Ok(Some(b'c')));
    assert_eq!(c.script.shard.tcp_recv(c.id, &mut buffer, TcpFlags::empty()), Ok(2));
    assert_eq!(c.read(), b"d");
}

#[test]
fn rfc6093_3_1_the_pointer_names_the_byte_after() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_send(c.id, b"abcd", TcpFlags::URGENT).unwrap();
    let out = c.poll();
    assert_eq!((flags(&out), out[0].urgent), (vec!["PAU"], 4));
    c.ack(4);
    let plain = c.write(10);
    assert_eq!(flags(&plain), ["PA"]);
}

#[test]
fn linger_zero_resets() {
    let mut c = Conn::new(SACK);
    c.write(100);
    c.script.shard.tcp_set(c.id, TcpOption::Linger(Some(0))).unwrap();
    c.script.shard.close(c.id);
    let rst = c.poll();
    assert_eq!((flags(&rst), rst[0].seq), (vec!["RA"], c.ours + 100));
    assert_eq!(c.script.shard.counts(), [1, 0, 0, 0]);
}

#[test]
fn syn_count_bounds_a_connect() {
    let mut script = Script::new(|_| ());
    let id = script.shard.tcp_open().unwrap();
    script.shard.tcp_set(id, TcpOption::SynCount(2)).unwrap();
    let _ = script.shard.tcp_connect(id, Endpoint::new(CLIENT, 90), script.now);
    assert_eq!(script.poll().len() + script.pass(20_000).len(), 3);
    assert_eq!(script.shard.take_error(id), Some(Error::TimedOut));
}

#[test]
fn rfc5482_user_timeout_bounds_retransmission_and_zero_windows() {
    for window in [65_535, 0] {
        let mut c = Conn::new(SACK);
        c.script.shard.tcp_set(c.id, TcpOption::UserTimeout(3_000)).unwrap();
        c.window = window;
        c.ack(0);
        c.write(1000);
        c.pass(2_800);
        assert_eq!(c.script.shard.take_error(c.id), None);
        c.pass(4_000);
        assert_eq!(c.script.shard.take_error(c.id), Some(Error::TimedOut), "window {window}");
    }
}

#[test]
fn maxseg_bounds_both_directions() {
    let mut script = Script::new(|_| ());
    let listener = script.listen(4);
    script.shard.tcp_set(listener, TcpOption::MaxSegment(700)).unwrap();
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"", &[2, 4, 5, 180]);
    assert_eq!(answer[0].options, [2, 4, 2, 188]);
    script.segment(5000, "A", 1001, answer[0].seq.wrapping_add(1), b"");
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    script.shard.tcp_send(id, &[0; 2000], TcpFlags::empty()).unwrap();
    assert!(script.poll().iter().all(|seen| seen.payload.len() <= 700));
}

#[test]
fn window_clamp_bounds_what_is_advertised() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_set(c.id, TcpOption::WindowClamp(4000)).unwrap();
    for i in 0..70 {
        c.segment("A", i * 1000, 0, &[1; 1000], &[]);
        c.read();
    }
    let mut seen = c.segment("A", 70_000, 0, &[1; 1000], &[]);
    seen.extend(c.segment("A", 71_000, 0, &[1; 1000], &[]));
    assert!(seen.last().is_some_and(|seen| seen.window <= 4000), "{seen:?}");
}

#[test]
fn tcp_info_tells_what_happened() {
    let mut c = Conn::new(FULL);
    c.write(20_000);
    c.pass(10);
    for right in 2..=10 {
        c.sack(0, &[(1000, right * 1000)]);
    }
    let info = c.info();
    assert_eq!(info.congestion_state, net::CongestionState::Recovery);
    assert_eq!((info.sacked, info.total_retransmits, info.bytes_retransmitted), (9000, 1, 1000));
    assert_eq!(info.data_segments_out, info.in_flight / 1000 + 1);
    assert_eq!(info.bytes_sent, u64::from(info.in_flight) + 1000);
    assert_eq!((info.delivered, info.min_rtt_us), (9, 10_000));
    c.segment("A", 0, 0, &[1; 500], &[]);
    c.segment("A", 1000, 0, &[1; 500], &[]);
    assert_eq!((c.info().data_segments_in, c.info().out_of_order), (2, 1));
    assert_eq!(c.info().last_data_received_ms, 0);
}

#[test]
fn rfc5681_4_1_the_window_decays_in_a_pause() {
    let mut c = Conn::new(SACK);
    c.write(60_000);
    for i in 1..=60 {
        c.pass(1);
        c.ack((i * 1000).min(60_000));
    }
    let before = c.info().cwnd;
    assert!(before > 30_000);
    c.pass(10_000);
    let out = c.write(60_000);
    assert_eq!(c.sent(&out).len(), 10, "{before}");
    assert!(c.info().ssthresh >= before / 2, "it remembers");
}

#[test]
fn pacing_rate_bounds_sending() {
    let mut c = Conn::new(SACK);
    c.script.shard.tcp_set(c.id, TcpOption::PacingRate(100_000)).unwrap();
    let mut sent = Vec::new();
    let out = c.write(30_000);
    sent.extend(c.sent(&out));
    for _ in 0..100 {
        let out = c.pass(1);
        sent.extend(c.sent(&out));
        let top = sent.iter().map(|s| s.0 + s.1 as u32).max().unwrap_or(0);
        c.ack(top);
    }
    let bytes: usize = sent.iter().map(|sent| sent.1).sum();
    assert!((9_000..=13_000).contains(&bytes), "100 ms at 100 kB/s: {bytes}");
}
