//! TCP Fast Open (RFC 7413), segment by segment: a listener's side against a client written by hand, a client's
//! side against a server written by hand, and two engines with each other.

mod common;
mod peer;

use common::*;
use net::{
    Bind, Config, EarlyFailure, Endpoint, Error, FastOpen, Ready, Shutdown, SocketId, TcpFlags, TcpOption,
    TcpState,
};
use peer::{flags, option};

const ON: FastOpen = FastOpen::CLIENT.union(FastOpen::SERVER);
const REQUEST: [u8; 8] = [2, 4, 5, 180, 34, 2, 1, 1];

fn server(most: u32) -> (Script, SocketId) {
    server_with(most, |_| ())
}

fn server_with(most: u32, change: impl FnOnce(&mut Config)) -> (Script, SocketId) {
    let mut script = Script::new(|config| {
        config.fast_open = ON;
        change(config);
    });
    let listener = script.listen(16);
    script.shard.tcp_set(listener, TcpOption::FastOpen(most)).unwrap();
    (script, listener)
}

/// The cookie that a request gets.
fn cookie(script: &mut Script) -> Vec<u8> {
    let answer = script.segment_with(4999, "S", 1, 0, 65_535, b"ignored", &REQUEST);
    assert_eq!((flags(&answer), answer[0].ack), (vec!["SA"], 2), "data without a cookie is not taken");
    let cookie = option(&answer[0].options, 34).expect("a cookie").to_vec();
    assert_eq!(cookie.len(), 8);
    script.segment(4999, "R", 2, 0, b"");
    cookie
}

fn with(cookie: &[u8]) -> Vec<u8> {
    let mut options = vec![2, 4, 5, 180];
    options.resize((2 + cookie.len()).next_multiple_of(4) + 2 - cookie.len(), 1);
    options.extend([34, 2 + cookie.len() as u8]);
    options.extend_from_slice(cookie);
    options
}

#[test]
fn rfc7413_4_2_2_the_right_cookie_brings_data_in_before_the_handshake_is_over() {
    let (mut script, listener) = server(8);
    let cookie = cookie(&mut script);
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"GET /", &with(&cookie));
    assert_eq!((flags(&answer), answer[0].ack), (vec!["SA"], 1006), "SYN and data are acknowledged");
    assert_eq!(option(&answer[0].options, 34), None);
    let (id, peer) = script.shard.tcp_accept(listener).unwrap();
    assert_eq!((peer.port, script.shard.tcp_info(id).unwrap().state), (5000, TcpState::SynReceived));
    assert!(script.shard.ready(id).contains(Ready::READABLE | Ready::WRITABLE));
    assert_eq!(drain(&mut script.shard, id), b"GET /");
    // The answer goes out before the handshake is over as well.
    script.shard.tcp_send(id, b"page", TcpFlags::empty()).unwrap();
    let ours = answer[0].seq.wrapping_add(1);
    let page = script.poll();
    assert_eq!((page[0].seq, page[0].ack, &page[0].payload[..]), (ours, 1006, &b"page"[..]));
    let none = script.segment(5000, "A", 1006, ours.wrapping_add(4), b"");
    assert!(none.is_empty(), "{none:?}");
    let info = script.shard.tcp_info(id).unwrap();
    assert_eq!((info.state, info.in_flight, info.bytes_acked), (TcpState::Established, 0, 4));
    assert!(info.syn_data);
    script.segment(5000, "PA", 1006, ours.wrapping_add(4), b"more");
    assert_eq!(drain(&mut script.shard, id), b"more");
}

#[test]
fn rfc7413_4_2_2_a_server_may_answer_and_close_within_the_handshake() {
    let (mut script, listener) = server(8);
    let cookie = cookie(&mut script);
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"GET /", &with(&cookie));
    let ours = answer[0].seq.wrapping_add(1);
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    drain(&mut script.shard, id);
    script.shard.tcp_send(id, b"page", TcpFlags::empty()).unwrap();
    script.shard.close(id);
    let out = script.poll();
    assert_eq!((flags(&out), out[0].seq, out[0].payload.len()), (vec!["FPA"], ours, 4));
    assert!(script.shard.has_unfinished());
    script.segment(5000, "A", 1006, ours.wrapping_add(5), b"");
    let last = script.segment(5000, "FA", 1006, ours.wrapping_add(5), b"");
    assert_eq!((flags(&last), last[0].ack), (vec!["A"], 1007));
    assert_eq!((script.shard.counts()[0], script.shard.counts()[3]), (1, 1), "the listener, and TIME-WAIT");
}

#[test]
fn rfc7413_4_2_2_a_wrong_cookie_falls_back_and_is_told_the_right_one() {
    let (mut script, listener) = server(8);
    let right = cookie(&mut script);
    for wrong in [&[7u8; 8][..], &[7; 4], &[7; 16]] {
        let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"GET /", &with(wrong));
        assert_eq!((flags(&answer), answer[0].ack), (vec!["SA"], 1001));
        assert_eq!(option(&answer[0].options, 34), Some(&right[..]));
        assert_eq!(script.shard.tcp_accept(listener), Err(Error::WouldBlock));
        script.segment(5000, "R", 1001, 0, b"");
    }
    // Lengths that do not exist are no option at all.
    for body in [&[7u8; 2][..], &[7; 18]] {
        let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"GET /", &with(body));
        assert_eq!((answer[0].ack, option(&answer[0].options, 34)), (1001, None));
        script.segment(5000, "R", 1001, 0, b"");
    }
    // The client sends its data again, in the ordinary way.
    let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"GET /", &with(&[7; 8]));
    script.segment(5000, "PA", 1001, answer[0].seq.wrapping_add(1), b"GET /");
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    assert_eq!(drain(&mut script.shard, id), b"GET /");
}

#[test]
fn rfc7413_5_1_no_more_at_once_than_the_listener_said() {
    let (mut script, listener) = server(2);
    let cookie = cookie(&mut script);
    let open = |script: &mut Script, port| {
        let answer = script.segment_with(port, "S", 1000, 0, 65_535, b"x", &with(&cookie));
        assert_eq!(flags(&answer), ["SA"]);
        (answer[0].ack == 1002, answer[0].seq.wrapping_add(1))
    };
    let (first, second) = (open(&mut script, 5000), open(&mut script, 5001));
    assert!(first.0 && second.0);
    let third = open(&mut script, 5002);
    assert!(!third.0, "an ordinary handshake");
    assert_eq!(script.shard.counts()[0], 4);
    // One that completes makes room; one that is reset does not for a minute: its RST may be a victim's.
    script.segment(5000, "A", 1002, first.1, b"");
    assert!(open(&mut script, 5003).0);
    assert!(script.segment(5001, "R", 1002, 0, b"").is_empty());
    assert!(!open(&mut script, 5004).0);
    script.pass(61_000);
    // By then the SYN-ACK timer has ended whatever was not answered.
    assert!(open(&mut script, 5005).0);
    // What was reset before it was accepted is told to whoever accepts it.
    let mut ends = Vec::new();
    while let Ok((id, peer)) = script.shard.tcp_accept(listener) {
        let mut buffer = [0; 8];
        let first = script.shard.tcp_recv(id, &mut buffer, TcpFlags::empty());
        ends.push((peer.port, first, script.shard.take_error(id)));
        script.shard.close(id);
    }
    assert!(ends.contains(&(5000, Ok(1), None)), "{ends:?}");
    assert!(ends.contains(&(5001, Ok(1), Some(Error::Reset))), "{ends:?}");
}

#[test]
fn rfc7413_4_1_off_means_off() {
    for (most, on) in [(0, ON), (8, FastOpen::CLIENT), (8, FastOpen::empty())] {
        let (mut script, listener) = server_with(most, |config| config.fast_open = on);
        let answer = script.segment_with(5000, "S", 1000, 0, 65_535, b"x", &REQUEST);
        assert_eq!((answer[0].ack, option(&answer[0].options, 34)), (1001, None));
        assert_eq!(script.shard.tcp_accept(listener), Err(Error::WouldBlock));
    }
    let all = ON | FastOpen::ALL_LISTENERS | FastOpen::SERVER_WITHOUT_COOKIE;
    let (mut script, listener) = server_with(0, |config| config.fast_open = all);
    let answer = script.segment(5000, "S", 1000, 0, b"free");
    assert_eq!(answer[0].ack, 1005);
    assert!(script.shard.tcp_accept(listener).is_ok());
}

#[test]
fn rfc7413_4_2_2_a_lost_syn_ack_is_repeated_and_data_follow_it() {
    let (mut script, listener) = server(8);
    let cookie = cookie(&mut script);
    let first = script.segment_with(5000, "S", 1000, 0, 65_535, b"GET /", &with(&cookie));
    let ours = first[0].seq.wrapping_add(1);
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    script.shard.tcp_send(id, b"page", TcpFlags::empty()).unwrap();
    script.poll();
    // The timer, and the client's own repetition, which has neither cookie nor data.
    let again = script.pass(1100);
    assert_eq!((flags(&again), again[0].ack, again[0].seq), (vec!["SA"], 1006, first[0].seq));
    let asked = script.segment_with(5000, "S", 1000, 0, 65_535, b"", &[2, 4, 5, 180]);
    assert_eq!((flags(&asked), asked[0].ack), (vec!["SA"], 1006));
    // The page was lost as well.
    script.segment(5000, "A", 1006, ours, b"");
    let page = script.pass(4000);
    assert!(page.iter().any(|seen| seen.seq == ours && seen.payload == b"page"), "{page:?}");
    script.segment(5000, "A", 1006, ours.wrapping_add(4), b"");
    assert_eq!(script.shard.tcp_info(id).unwrap().in_flight, 0);
    // A number that was never sent ends nothing and opens nothing.
    let odd = script.segment_with(5001, "S", 1000, 0, 65_535, b"x", &with(&cookie));
    let reset = script.segment(5001, "A", 1002, odd[0].seq.wrapping_add(9), b"");
    assert_eq!(flags(&reset), ["R"]);
}

#[test]
fn rfc7413_4_2_2_an_unanswered_handshake_is_given_up() {
    let (mut script, listener) = server(1);
    let cookie = cookie(&mut script);
    script.segment_with(5000, "S", 1000, 0, 65_535, b"x", &with(&cookie));
    let (id, _) = script.shard.tcp_accept(listener).unwrap();
    script.pass(120_000);
    assert_eq!(script.shard.take_error(id), Some(Error::TimedOut));
    script.shard.close(id);
    assert_eq!(script.shard.counts()[0], 1);
    let again = script.segment_with(5000, "S", 90_000, 0, 65_535, b"x", &with(&cookie));
    assert_eq!(again[0].ack, 90_002, "there is room again");
}

/// A client of ours: the socket, what went with the SYN, and the SYN.
fn early(script: &mut Script, data: &[u8]) -> (SocketId, usize, Seen) {
    let id = script.shard.tcp_open().unwrap();
    let mut rest = data;
    let mut fill = |piece: &mut [u8]| {
        let count = piece.len().min(rest.len());
        piece[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        count
    };
    let to = Endpoint::new(CLIENT, 99);
    let count = script.shard.tcp_connect_early(id, to, script.now, data.len(), &mut fill).unwrap();
    let out = script.poll();
    assert_eq!(flags(&out), ["S"]);
    (id, count, out[0].clone())
}

fn answer(script: &mut Script, syn: &Seen, taken: usize, options: &[u8]) -> Vec<Seen> {
    let ack = syn.seq.wrapping_add(1 + taken as u32);
    script.inject(99, syn.src_port, "SA", 7000, ack, 65_535, b"", options);
    script.poll()
}

fn client() -> Script {
    Script::new(|config| config.fast_open = FastOpen::CLIENT)
}

const GRANT: [u8; 12] = [2, 4, 5, 120, 34, 8, 1, 2, 3, 4, 5, 6];

/// A client that has the server's cookie.
fn met() -> Script {
    let mut script = client();
    let (id, count, syn) = early(&mut script, b"first");
    assert_eq!((count, option(&syn.options, 34), syn.payload.len()), (0, Some(&[][..]), 0), "asks");
    let to = Endpoint::new(CLIENT, 99);
    assert!(!script.shard.tcp_early_possible(id, to));
    answer(&mut script, &syn, 0, &GRANT);
    assert_eq!(script.shard.tcp_info(id).unwrap().early_failure, EarlyFailure::NoCookie);
    script.shard.tcp_abort(id);
    script.poll();
    let id = script.shard.tcp_open().unwrap();
    assert!(script.shard.tcp_early_possible(id, to));
    script
}

#[test]
fn rfc7413_4_1_3_the_second_syn_brings_data() {
    let mut script = met();
    let data = pattern(0, 5000);
    let (id, count, syn) = early(&mut script, &data);
    assert_eq!(option(&syn.options, 34), Some(&[1, 2, 3, 4, 5, 6][..]));
    assert_eq!((count, &syn.payload[..]), (1400 - 40, &data[..1360]), "the server's MSS is remembered");
    let out = answer(&mut script, &syn, count, &[2, 4, 5, 120]);
    assert_eq!((flags(&out), out[0].seq, out[0].ack), (vec!["A"], syn.seq.wrapping_add(1361), 7001));
    let info = script.shard.tcp_info(id).unwrap();
    assert_eq!((info.state, info.in_flight, info.bytes_acked), (TcpState::Established, 0, 1360));
    assert!(info.syn_data && info.early_failure == EarlyFailure::None);
    script.shard.tcp_send(id, &data[1360..2000], TcpFlags::empty()).unwrap();
    assert_eq!(script.poll()[0].payload, data[1360..2000]);
}

#[test]
fn rfc7413_4_1_3_what_the_server_does_not_take_goes_again() {
    for taken in [0, 100] {
        let mut script = met();
        let data = pattern(0, 600);
        let (id, count, syn) = early(&mut script, &data);
        assert_eq!(count, 600);
        let out = answer(&mut script, &syn, taken, &[2, 4, 5, 120]);
        let sent: Vec<u8> = out.iter().flat_map(|seen| seen.payload.clone()).collect();
        assert_eq!(sent, data[taken..]);
        assert_eq!(out[0].seq, syn.seq.wrapping_add(1 + taken as u32));
        let failure = if taken == 0 { EarlyFailure::NotTaken } else { EarlyFailure::None };
        assert_eq!(script.shard.tcp_info(id).unwrap().early_failure, failure);
        // More than was sent is nobody's business.
        let mut script = met();
        let (_, _, syn) = early(&mut script, &data);
        assert_eq!(flags(&answer(&mut script, &syn, 601, &[])), ["R"]);
    }
}

#[test]
fn rfc7413_4_1_3_1_a_repeated_syn_is_plain_and_losses_bar_the_way_for_a_while() {
    let mut script = met();
    for _ in 0..2 {
        let (id, count, syn) = early(&mut script, b"hello");
        assert_eq!((count, syn.payload.len()), (5, 5));
        let again = script.pass(1100);
        assert_eq!(
            (flags(&again), again[0].payload.len(), option(&again[0].options, 34)),
            (vec!["S"], 0, None)
        );
        let out = answer(&mut script, &syn, 0, &[2, 4, 5, 120]);
        assert_eq!(out.last().unwrap().payload, b"hello");
        assert_eq!(script.shard.tcp_info(id).unwrap().early_failure, EarlyFailure::Repeated);
        script.shard.tcp_abort(id);
        script.poll();
    }
    let (_, count, syn) = early(&mut script, b"hello");
    assert_eq!((count, option(&syn.options, 34)), (0, None), "an ordinary SYN");
    answer(&mut script, &syn, 0, &[2, 4, 5, 120]);
    script.pass(5 * 60_000);
    assert_eq!(early(&mut script, b"hello").1, 5, "tried again");
}

#[test]
fn rfc7413_4_1_3_a_refused_syn_with_data_is_refused() {
    let mut script = met();
    let (id, _, syn) = early(&mut script, b"hello");
    script.inject(99, syn.src_port, "RA", 0, syn.seq.wrapping_add(6), 0, b"", &[]);
    script.poll();
    assert_eq!(script.shard.take_error(id), Some(Error::Refused));
    // And another attempt with the same socket begins anew, without the old data.
    let to = Endpoint::new(CLIENT, 99);
    assert_eq!(script.shard.tcp_connect(id, to, script.now), Err(Error::InProgress));
    assert_eq!(script.poll()[0].payload.len(), 0);
}

#[test]
fn rfc7413_4_1_clients_ask_only_where_they_may() {
    let mut script = Script::new(|_| ());
    let id = script.shard.tcp_open().unwrap();
    let to = Endpoint::new(CLIENT, 99);
    assert_eq!(script.shard.tcp_connect_early(id, to, script.now, 1, &mut |_| 1), Err(Error::NotSupported));
    script.shard.set_fast_open(FastOpen::CLIENT);
    script.shard.tcp_set(id, TcpOption::NoCookie(true)).unwrap();
    assert_eq!(script.shard.tcp_connect_early(id, to, script.now, 1, &mut |piece| piece.len()), Ok(1));
    let syn = script.poll();
    assert_eq!((syn[0].payload.len(), option(&syn[0].options, 34)), (1, None));
}

/// Two engines: the first connection asks, the second brings its request along, and a round trip is saved.
#[test]
fn two_engines_save_a_round_trip() {
    let mut world = World::with(Default::default(), 1, |a, b| (a.fast_open, b.fast_open) = (ON, ON));
    let listener = world.server.tcp_open().unwrap();
    world.server.tcp_bind(listener, Endpoint::new(SERVER, 80), Bind::default()).unwrap();
    world.server.tcp_set(listener, TcpOption::FastOpen(4)).unwrap();
    world.server.tcp_listen(listener, 4).unwrap();
    for round in 0..20 {
        let id = world.client.tcp_open().unwrap();
        let (to, now) = (Endpoint::new(SERVER, 80), world.now);
        let mut fill = |piece: &mut [u8]| {
            piece.fill(7);
            piece.len()
        };
        let count = world.client.tcp_connect_early(id, to, now, 100, &mut fill).unwrap();
        assert_eq!(count, if round == 0 { 0 } else { 100 });
        world.client.poll(world.now, &mut world.client_device);
        world.server.poll(world.now, &mut world.server_device);
        let accepted = world.server.tcp_accept(listener);
        assert_eq!(accepted.is_ok(), round > 0, "handed out by the SYN alone");
        if let Ok((server, _)) = accepted {
            assert_eq!(world.server_recv(server), vec![7; 100]);
            world.server.tcp_send(server, &[9; 50], TcpFlags::empty()).unwrap();
            world.server.tcp_shutdown(server, Shutdown::Write).unwrap();
            world.settle();
            assert_eq!(world.client_recv(id), vec![9; 50]);
            world.client.close(id);
            world.settle();
            world.server.close(server);
        } else {
            world.settle();
            let (server, _) = world.server.tcp_accept(listener).unwrap();
            world.client.tcp_abort(id);
            world.settle();
            world.server.close(server);
        }
        world.pass(3000);
    }
    assert_eq!(world.server.counts()[0], 1);
}
