//! Putting fragmented datagrams together (RFC 815's idea: keep the holes), within bounds.
//!
//! Overlapping fragments end the datagram (RFC 5722 orders it for IPv6; for IPv4 Linux does the same since
//! the FragmentSmack attacks).

use alloc::vec::Vec;
use core::net::IpAddr;

use super::packet::Packet;

/// Datagrams under way at once; the oldest gives way.
const MAX_DATAGRAMS: usize = 64;
/// Fragments of one datagram: 64 KiB in pieces of 576 bytes, with room to spare.
const MAX_PIECES: usize = 160;
/// Linux's ipfrag_time.
const TIMEOUT_MS: u64 = 30_000;

struct Datagram {
    key: (IpAddr, IpAddr, u8, u32),
    began_ms: u64,
    bytes: Vec<u8>,
    /// Ranges that are there, in order.
    pieces: Vec<(usize, usize)>,
    end: Option<usize>,
    /// Hop limit, traffic class and protocol of the first fragment.
    header: Option<(u8, u8, u8)>,
}

/// Datagrams of which fragments are there.
#[derive(Default)]
pub(crate) struct Fragments {
    datagrams: Vec<Datagram>,
    /// Datagrams that were never whole.
    pub(crate) failed: u64,
}

/// A datagram put together.
pub(crate) struct Whole {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) payload: Vec<u8>,
}

impl Fragments {
    /// Takes a fragment; returns the datagram if it was the last missing one.
    pub(crate) fn insert(&mut self, packet: &Packet<'_>, now_ms: u64) -> Option<Whole> {
        let before = self.datagrams.len();
        self.datagrams.retain(|datagram| now_ms < datagram.began_ms + TIMEOUT_MS);
        self.failed += (before - self.datagrams.len()) as u64;
        // RFC 8200 section 4.5 leaves the protocol out of the key: only the first fragment's counts.
        let protocol = if packet.is_v6() { 0 } else { packet.protocol };
        let key = (packet.src, packet.dst, protocol, packet.ident);
        let i = match self.datagrams.iter().position(|datagram| datagram.key == key) {
            Some(i) => i,
            None => self.begin(key, now_ms),
        };
        match self.datagrams[i].add(packet) {
            Some(false) => None,
            Some(true) => {
                let done = self.datagrams.swap_remove(i);
                let (hop_limit, traffic_class, protocol) = done.header?;
                let (src, dst, ..) = done.key;
                Some(Whole { src, dst, protocol, hop_limit, traffic_class, payload: done.bytes })
            }
            None => {
                self.datagrams.swap_remove(i);
                self.failed += 1;
                None
            }
        }
    }

    /// Datagrams that wait for more, and their bytes.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.datagrams.len(), self.datagrams.iter().map(|datagram| datagram.bytes.len()).sum())
    }

    fn begin(&mut self, key: (IpAddr, IpAddr, u8, u32), now_ms: u64) -> usize {
        if self.datagrams.len() >= MAX_DATAGRAMS {
            self.datagrams.remove(0);
            self.failed += 1;
        }
        self.datagrams.push(Datagram {
            key,
            began_ms: now_ms,
            bytes: Vec::new(),
            pieces: Vec::new(),
            end: None,
            header: None,
        });
        self.datagrams.len() - 1
    }
}

impl Datagram {
    /// `Some(true)`: complete. `None`: the fragments contradict each other.
    fn add(&mut self, packet: &Packet<'_>) -> Option<bool> {
        let (start, more) = packet.fragment;
        let end = start + packet.payload.len();
        let most = if packet.is_v6() { 65_535 } else { 65_515 };
        let odd = more && !packet.payload.len().is_multiple_of(8);
        if odd || packet.payload.is_empty() || end > most || self.pieces.len() >= MAX_PIECES {
            return None;
        }
        if !more && self.end.replace(end).is_some_and(|other| other != end) {
            return None;
        }
        if self.pieces.contains(&(start, end)) {
            return Some(false);
        }
        let i = self.pieces.partition_point(|piece| piece.0 < start);
        let overlaps = |piece: &(usize, usize)| start < piece.1 && piece.0 < end;
        if self.pieces.iter().any(overlaps) || self.end.is_some_and(|last| end > last) {
            return None;
        }
        self.pieces.insert(i, (start, end));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(packet.payload);
        if start == 0 {
            self.header = Some((packet.hop_limit, packet.traffic_class, packet.protocol));
        }
        let whole = self.pieces[0].0 == 0 && self.pieces.windows(2).all(|pair| pair[0].1 == pair[1].0);
        Some(whole && self.end == self.pieces.last().map(|piece| piece.1))
    }
}
