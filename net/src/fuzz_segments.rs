//! The entry for fuzzers of TCP: a connection is brought into one of its states, then bytes become segments with
//! numbers near the window, calls of the program and passing time. Nothing may panic, and whatever the program
//! reads must be what a peer that sends one fixed stream can have sent.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use platform::time::{Instant, MILLISECOND};

use crate::device::{Capabilities, Pair, PairEnd};
use crate::fuzz::inject;
use crate::{Bind, Config, Endpoint, FastOpen, Shard, Shutdown, SocketId, TcpFlags, TcpOption};

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// The peer's first number: the stream crosses the wrap.
const PEER: u32 = u32::MAX - 2000;

/// A record of the input.
const RECORD: usize = 10;

struct Run {
    shard: Shard,
    device: PairEnd,
    peer: PairEnd,
    now_ms: u64,
    /// Our first data number, as seen in our SYN, and the highest that we sent.
    ours: u32,
    top: u32,
    stamp: u32,
    read: usize,
}

/// The byte of the peer's stream at `at`.
fn stream(at: usize) -> u8 {
    ((at as u32).wrapping_mul(2_654_435_761) >> 24) as u8
}

/// Feeds `bytes` to a connection. The first byte chooses its state and options.
pub fn fuzz_segments(bytes: &[u8]) {
    let [choice, rest @ ..] = bytes else { return };
    let own = Ipv4Addr::new(10, 0, 0, 2);
    let mut config = Config::new([2, 0, 0, 0, 0, 2], [7; 32]).address(own.into(), 24);
    config.peer_mac = Some([2, 0, 0, 0, 0, 1]);
    config.limits.rcvbuf = (16 << 10, 64 << 10);
    if choice % 12 >= 10 {
        config.fast_open = FastOpen::all();
    }
    let mut capabilities = Capabilities::plain(1500);
    capabilities.tx_checksum = true;
    let (device, peer) = Pair::new(capabilities, 1024);
    let mut run =
        Run { shard: Shard::new(config), device, peer, now_ms: 1000, ours: 0, top: 0, stamp: 0, read: 0 };
    let Some(id) = run.prepare(choice % 12, choice / 12) else { return };
    let _ = run.shard.tcp_set(id, TcpOption::UrgentInline(true));
    for record in rest.chunks_exact(RECORD) {
        run.record(id, record);
    }
    for _ in 0..64 {
        let Some(at) = run.shard.deadline() else { break };
        run.now_ms = run.now_ms.max(at.0.div_ceil(MILLISECOND));
        run.poll();
        run.read(id);
    }
}

impl Run {
    fn poll(&mut self) {
        self.shard.poll(Instant(self.now_ms * MILLISECOND), &mut self.device);
        while let Some(frame) = self.peer.take() {
            let word =
                |at: usize| frame.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
            let (Some(&offset), Some(&control)) = (frame.get(46), frame.get(47)) else { continue };
            let payload = frame.len().saturating_sub(34 + usize::from(offset >> 4) * 4) as u32;
            if control & SYN != 0 {
                self.ours = word(38).wrapping_add(1);
                self.top = self.ours;
            }
            let end = word(38).wrapping_add(payload).wrapping_add(u32::from(control & FIN));
            if end.wrapping_sub(self.top) < 1 << 24 {
                self.top = end;
            }
            if offset >> 4 >= 8 && frame.get(54..58) == Some(&[1, 1, 8, 10]) {
                self.stamp = word(58);
            }
        }
    }

    fn segment(&mut self, control: u8, seq: u32, ack: u32, window: u16, options: &[u8], payload: &[u8]) {
        let mut body = alloc::vec![0u8, 0x13, 0x88, 0, 80];
        body.extend(PEER.wrapping_add(1).wrapping_add(seq).to_be_bytes());
        body.extend(self.ours.wrapping_add(ack).to_be_bytes());
        body.extend([(5 + options.len().div_ceil(4) as u8) << 4, control]);
        body.extend(window.to_be_bytes());
        body.extend([0, 0, 0, (payload.len() / 2) as u8]);
        body.extend_from_slice(options);
        body.resize(body.len() + (4 - options.len() % 4) % 4, 1);
        body.extend_from_slice(payload);
        inject(&mut self.peer, &body);
        self.poll();
    }

    /// SYN-SENT (8), SYN-RECEIVED (9), ESTABLISHED (0, 1 with data in flight), FIN-WAIT-1 (2), FIN-WAIT-2 (3),
    /// CLOSE-WAIT (4), LAST-ACK (5), CLOSING (6), TIME-WAIT (7); with data in the SYN SYN-RECEIVED (10), SYN-SENT (11).
    fn prepare(&mut self, state: u8, offer: u8) -> Option<SocketId> {
        let own = Ipv4Addr::new(10, 0, 0, 2);
        let id = self.shard.tcp_open().ok()?;
        self.shard.tcp_bind(id, Endpoint::new(own, 80), Bind::default()).ok()?;
        if state == 8 {
            let to = Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), 5000);
            let _ = self.shard.tcp_connect(id, to, Instant(self.now_ms * MILLISECOND));
            self.poll();
            return Some(id);
        }
        if state == 11 {
            let (to, now) =
                (Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), 5000), Instant(self.now_ms * MILLISECOND));
            let _ = self.shard.tcp_connect_early(id, to, now, 300, &mut |piece| piece.len());
            self.poll();
            return Some(id);
        }
        self.shard.tcp_listen(id, 4).ok()?;
        let mut options: Vec<u8> = alloc::vec![2, 4, 2, 0];
        if offer & 1 != 0 {
            options.extend([4, 2, 1, 1]);
        }
        if offer & 2 != 0 {
            options.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0]);
        }
        if offer & 4 != 0 {
            options.extend([1, 3, 3, 2]);
        }
        let early: Vec<u8> = (0..if state == 10 { 100 } else { 0 }).map(stream).collect();
        self.segment(SYN | if offer & 8 != 0 { 0xc0 } else { 0 }, u32::MAX, 0, 8192, &options, &early);
        if state == 10 {
            let (id, _) = self.shard.tcp_accept(id).ok()?;
            let _ = self.shard.tcp_send(id, &[5; 3_000], TcpFlags::empty());
            return Some(id);
        }
        if state == 9 {
            return Some(id);
        }
        self.segment(ACK, 0, 0, 8192, &[], &[]);
        let (id, _) = self.shard.tcp_accept(id).ok()?;
        if state == 1 {
            let _ = self.shard.tcp_send(id, &[5; 20_000], TcpFlags::empty());
        }
        if matches!(state, 4 | 5) {
            self.segment(ACK | FIN, 0, 0, 8192, &[], &[]);
        }
        if matches!(state, 2 | 3 | 5 | 6 | 7) {
            let _ = self.shard.tcp_shutdown(id, Shutdown::Write);
            self.poll();
        }
        match state {
            3 => self.segment(ACK, 0, 1, 8192, &[], &[]),
            6 => self.segment(ACK | FIN, 0, 0, 8192, &[], &[]),
            7 => self.segment(ACK | FIN, 0, 1, 8192, &[], &[]),
            _ => {}
        }
        Some(id)
    }

    fn record(&mut self, id: SocketId, record: &[u8]) {
        let near = |byte: u8, scale: u32| (i32::from(byte as i8) as u32).wrapping_mul(scale);
        let [call, control, seq, ack, window, len, kind, left, right, wait] = *record else { return };
        self.now_ms += if wait > 250 { 5_000 } else { u64::from(wait / 4) };
        match call % 8 {
            0 => drop(self.shard.tcp_send(id, &alloc::vec![9; usize::from(len) * 50], TcpFlags::empty())),
            1 => self.read(id),
            2 if call > 240 => drop(self.shard.tcp_shutdown(id, Shutdown::Write)),
            3 => drop(self.shard.tcp_set(id, TcpOption::Cork(len & 1 != 0))),
            4 => drop(self.shard.tcp_send(id, b"!", TcpFlags::URGENT)),
            _ => {}
        }
        // Every SYN is the same one: it says where the stream begins.
        let seq = if control & SYN != 0 { u32::MAX } else { (self.read as u32).wrapping_add(near(seq, 97)) };
        let flight = self.top.wrapping_sub(self.ours);
        let ack = if ack & 1 == 0 { flight.wrapping_add(near(ack, 50)) } else { near(ack, 300) };
        let mut options: Vec<u8> = Vec::new();
        if kind & 1 != 0 {
            options.extend([1, 1, 8, 10]);
            options.extend((self.now_ms as u32 / 8).wrapping_add(near(right, 1)).to_be_bytes());
            options.extend(self.stamp.wrapping_add(near(left, 1)).to_be_bytes());
        }
        if kind & 2 != 0 {
            options.extend([1, 1, 5, 18]);
            for at in [left, right] {
                let from = self.ours.wrapping_add(ack).wrapping_add(near(at, 512));
                options.extend(from.to_be_bytes());
                options.extend(from.wrapping_add(512 * u32::from(kind >> 4)).to_be_bytes());
            }
        }
        // The peer says one thing only: what its stream holds at that place. Before its beginning there is nothing.
        let begin = seq as i32;
        let count = if begin < 0 { 0 } else { usize::from(len) * 4 };
        let payload: Vec<u8> = (0..count).map(|i| stream(begin as usize + i)).collect();
        // FIN would end the stream at a place of the fuzzer's choice, which is allowed.
        self.segment(control, seq, ack, u16::from(window) << 6, &options, &payload);
        while self.shard.next_event().is_some() {}
    }

    fn read(&mut self, id: SocketId) {
        let mut buffer = [0; 3000];
        while let Ok(count @ 1..) = self.shard.tcp_recv(id, &mut buffer, TcpFlags::empty()) {
            for &byte in &buffer[..count] {
                assert_eq!(byte, stream(self.read), "at {}", self.read);
                self.read += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_against_each_state() {
        let mut random = 0x1234_5678_9abc_def1_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for round in 0..600u32 {
            let mut bytes = alloc::vec![round as u8];
            for _ in 0..RECORD * 60 {
                let word = next();
                // Mostly plain ACKs near the window; anything else now and then.
                let place = (bytes.len() - 1) % RECORD;
                bytes.push(match place {
                    1 if word & 0x300 != 0 => ACK,
                    2 | 3 if word & 0x300 != 0 => (word % 9) as u8 * 4,
                    _ => (word >> 32) as u8,
                });
            }
            fuzz_segments(&bytes);
        }
    }
}
