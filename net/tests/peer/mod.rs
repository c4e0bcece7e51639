//! A peer written by hand: an established connection whose numbers count from zero on both sides.
#![allow(dead_code, unreachable_pub)]

use net::{Config, SocketId, TcpFlags};

use super::common::{Script, Seen, drain, pattern};

/// What the peer offers in its SYN.
#[derive(Clone, Copy)]
pub struct Offer {
    pub mss: u16,
    pub sack: bool,
    pub timestamps: bool,
    pub scale: Option<u8>,
    pub ecn: bool,
    /// The round trip of the handshake, ms.
    pub rtt: u64,
}

pub const PLAIN: Offer =
    Offer { mss: 1000, sack: false, timestamps: false, scale: None, ecn: false, rtt: 10 };
pub const SACK: Offer = Offer { sack: true, ..PLAIN };
/// With timestamps the payload of a full segment is 1000 as well.
pub const FULL: Offer = Offer { mss: 1012, timestamps: true, scale: Some(7), ..SACK };

/// The peer's first number.
pub const PEER_ISS: u32 = u32::MAX - 1500;

pub struct Conn {
    pub script: Script,
    pub id: SocketId,
    pub listener: SocketId,
    /// Our first data number and the peer's.
    pub ours: u32,
    pub theirs: u32,
    pub offer: Offer,
    /// The peer's window, unscaled.
    pub window: u16,
    /// The peer's clock, and what it echoes (our latest timestamp).
    pub clock: u32,
    pub echo: u32,
}

impl Conn {
    pub fn new(offer: Offer) -> Conn {
        Conn::with(offer, |_| ())
    }

    pub fn with(offer: Offer, change: impl FnOnce(&mut Config)) -> Conn {
        let mut script = Script::new(change);
        let listener = script.listen(16);
        let mut options = vec![2, 4, (offer.mss >> 8) as u8, offer.mss as u8];
        if offer.sack {
            options.extend([4, 2, 1, 1]);
        }
        if offer.timestamps {
            options.extend([1, 1, 8, 10, 0, 0, 0, 100, 0, 0, 0, 0]);
        }
        if let Some(scale) = offer.scale {
            options.extend([1, 3, 3, scale]);
        }
        let flags = if offer.ecn { "SEW" } else { "S" };
        let answer = script.segment_with(5000, flags, PEER_ISS, 0, 65_535, b"", &options);
        assert_eq!(answer.len(), 1, "SYN-ACK");
        let mut conn = Conn {
            script,
            id: listener,
            listener,
            ours: answer[0].seq.wrapping_add(1),
            theirs: PEER_ISS.wrapping_add(1),
            offer,
            window: 65_535,
            clock: 200,
            echo: 0,
        };
        conn.learn(&answer);
        conn.script.pass(offer.rtt);
        let none = conn.segment("A", 0, 0, b"", &[]);
        assert!(none.is_empty(), "{none:?}");
        conn.id = conn.script.shard.tcp_accept(listener).unwrap().0;
        conn
    }

    fn learn(&mut self, seen: &[Seen]) {
        for seen in seen {
            if let Some(stamp) = timestamp(seen) {
                self.echo = stamp.0;
            }
        }
    }

    /// A segment with numbers relative to the first data bytes.
    pub fn segment(&mut self, flags: &str, seq: u32, ack: u32, payload: &[u8], options: &[u8]) -> Vec<Seen> {
        let echo = self.echo;
        self.segment_echoing(echo, flags, seq, ack, payload, options)
    }

    pub fn segment_echoing(
        &mut self,
        echo: u32,
        flags: &str,
        seq: u32,
        ack: u32,
        payload: &[u8],
        options: &[u8],
    ) -> Vec<Seen> {
        let mut all = Vec::new();
        if self.offer.timestamps {
            all.extend([1, 1, 8, 10]);
            all.extend(self.clock.to_be_bytes());
            all.extend(echo.to_be_bytes());
        }
        all.extend_from_slice(options);
        let (seq, ack) = (self.theirs.wrapping_add(seq), self.ours.wrapping_add(ack));
        let seen = self.script.segment_with(5000, flags, seq, ack, self.window, payload, &all);
        self.learn(&seen);
        seen
    }

    pub fn ack(&mut self, ack: u32) -> Vec<Seen> {
        self.segment("A", 0, ack, b"", &[])
    }

    /// An acknowledgement with blocks.
    pub fn sack(&mut self, ack: u32, blocks: &[(u32, u32)]) -> Vec<Seen> {
        let mut options = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        for (left, right) in blocks {
            options.extend(self.ours.wrapping_add(*left).to_be_bytes());
            options.extend(self.ours.wrapping_add(*right).to_be_bytes());
        }
        self.segment("A", 0, ack, b"", &options)
    }

    /// The program writes so many bytes; what comes out.
    pub fn write(&mut self, count: usize) -> Vec<Seen> {
        assert_eq!(self.script.shard.tcp_send(self.id, &pattern(0, count), TcpFlags::empty()), Ok(count));
        self.poll()
    }

    pub fn poll(&mut self) -> Vec<Seen> {
        let seen = self.script.poll();
        self.learn(&seen);
        seen
    }

    /// Time passes; what comes out.
    pub fn pass(&mut self, ms: u64) -> Vec<Seen> {
        let seen = self.script.pass(ms);
        self.learn(&seen);
        self.clock = self.clock.wrapping_add(ms as u32);
        seen
    }

    pub fn read(&mut self) -> Vec<u8> {
        drain(&mut self.script.shard, self.id)
    }

    pub fn info(&self) -> net::TcpInfo {
        self.script.shard.tcp_info(self.id).unwrap()
    }

    /// Offsets and lengths of the data segments.
    pub fn sent(&self, seen: &[Seen]) -> Vec<(u32, usize)> {
        seen.iter()
            .filter(|seen| !seen.payload.is_empty() || seen.flags.contains('F'))
            .map(|seen| (seen.seq.wrapping_sub(self.ours), seen.payload.len()))
            .collect()
    }

    /// The blocks in a segment's SACK option, relative to the peer's first byte.
    pub fn blocks(&self, seen: &Seen) -> Vec<(u32, u32)> {
        let Some(at) = option(&seen.options, 5) else { return Vec::new() };
        let words: Vec<u32> = at
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()).wrapping_sub(self.theirs))
            .collect();
        words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    }

    /// What a segment acknowledges, relative.
    pub fn acked(&self, seen: &Seen) -> u32 {
        seen.ack.wrapping_sub(self.theirs)
    }
}

/// The body of an option.
pub fn option(options: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = options;
    loop {
        match rest {
            [] | [0, ..] => return None,
            [1, tail @ ..] => rest = tail,
            [kind, len, ..] => {
                let len = usize::from(*len);
                if *kind == wanted {
                    return Some(&rest[2..len]);
                }
                rest = &rest[len..];
            }
            [_] => return None,
        }
    }
}

pub fn timestamp(seen: &Seen) -> Option<(u32, u32)> {
    let body = option(&seen.options, 8)?;
    let word = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
    Some((word(0), word(4)))
}

pub fn flags(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| &seen.flags[..]).collect()
}
