//! Frames for a NIC that cannot do what a guest's engine left to it: super-segments of TCP are cut, and
//! checksums are filled in, here. (Between guests, and over TAP, neither happens at all.)
//!
//! As `tcp_tso_segment` of Linux: each piece gets the head with its own lengths, sequence number, IPv4
//! identification and checksums; FIN and PSH stay with the last piece, CWR with the first (RFC 3168).

use crate::forward::ETHERNET;
use crate::port::Passing;
use net::device::{Device, TxMeta};

/// Why a frame does not leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Longer than the link, or not what its sender says it is.
    Malformed,
    /// Not now.
    Full,
}

/// Sends a frame as the device can.
pub(crate) fn transmit(device: &mut impl Device, frame: &Passing<'_>) -> Result<(), Fault> {
    let can = device.capabilities();
    let segment = frame.meta.segment_size;
    let too_long = frame.len > ETHERNET + can.mtu;
    if too_long && segment == 0 {
        return Err(Fault::Malformed);
    }
    let cuts = !too_long || can.segmentation + ETHERNET >= frame.len;
    if cuts && (can.tx_checksum || !frame.meta.checksum_done) {
        let meta = TxMeta { segment, checksum_offload: frame.meta.checksum_done, ..TxMeta::default() };
        return device
            .transmit(frame.len, meta, &mut |buffer| frame.write(None, buffer))
            .map_err(|_| Fault::Full);
    }
    let mut bytes = vec![0; frame.len];
    frame.write(None, &mut bytes);
    let parts = Parts::of(&bytes).ok_or(Fault::Malformed)?;
    let size = if too_long { usize::from(segment) } else { bytes.len() };
    if size == 0 || too_long && (parts.protocol != TCP || parts.payload + size > ETHERNET + can.mtu) {
        return Err(Fault::Malformed);
    }
    for (index, piece) in pieces(&bytes, &parts, size).enumerate() {
        let sent = device.transmit(piece.len(), TxMeta::default(), &mut |to| to.copy_from_slice(&piece));
        // Once begun it is finished: what finds no room is lost on the wire, for TCP to find out.
        if sent.is_err() && index == 0 {
            return Err(Fault::Full);
        }
    }
    Ok(())
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Where the parts of a TCP or UDP frame begin.
struct Parts {
    v6: bool,
    protocol: u8,
    transport: usize,
    payload: usize,
    end: usize,
}

impl Parts {
    fn of(bytes: &[u8]) -> Option<Parts> {
        let ip = bytes.get(ETHERNET..)?;
        let v6 = match bytes[12..14] {
            [0x08, 0x00] => false,
            [0x86, 0xdd] => true,
            _ => return None,
        };
        let word = |at: usize| Some(usize::from(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?])));
        let (protocol, header, total) = match v6 {
            false => (*ip.get(9)?, usize::from(ip[0] & 15) * 4, word(2)?),
            true => (*ip.get(6)?, 40, 40 + word(4)?),
        };
        // A super-segment's length may not fit its field.
        let end =
            if ETHERNET + total <= bytes.len() && total > header { ETHERNET + total } else { bytes.len() };
        let transport = ETHERNET + header;
        let payload = transport
            + match protocol {
                TCP => usize::from(*bytes.get(transport + 12)? >> 4) * 4,
                UDP => 8,
                _ => return None,
            };
        let least = transport + if protocol == TCP { 20 } else { 8 };
        (header >= 20 && payload >= least && payload <= end).then_some(Parts {
            v6,
            protocol,
            transport,
            payload,
            end,
        })
    }
}

/// The frame in pieces of `size` bytes of payload, each complete.
fn pieces<'a>(bytes: &'a [u8], parts: &'a Parts, size: usize) -> impl Iterator<Item = Vec<u8>> + 'a {
    let payload = &bytes[parts.payload..parts.end];
    let count = payload.len().div_ceil(size).max(1);
    (0..count).map(move |index| {
        let data = &payload[index * size..payload.len().min((index + 1) * size)];
        let mut piece = bytes[..parts.payload].to_vec();
        piece.extend_from_slice(data);
        if count > 1 {
            let sequence = parts.transport + 4;
            let first = u32::from_be_bytes(*bytes[sequence..].first_chunk().expect("a TCP header"));
            let own = first.wrapping_add((index * size) as u32);
            piece[sequence..sequence + 4].copy_from_slice(&own.to_be_bytes());
            let flags = &mut piece[parts.transport + 13];
            if index + 1 != count {
                *flags &= !FIN_PSH;
            }
            if index != 0 {
                *flags &= !CWR;
            }
        }
        finish(&mut piece, parts, index as u16);
        piece
    })
}

/// Lengths and checksums.
fn finish(piece: &mut [u8], parts: &Parts, index: u16) {
    let len = piece.len();
    let transport_len = (len - parts.transport) as u16;
    let (addresses, field) = if parts.v6 {
        piece[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&transport_len.to_be_bytes());
        (ETHERNET + 8..ETHERNET + 40, None)
    } else {
        let total = ((len - ETHERNET) as u16).to_be_bytes();
        piece[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total);
        let ident = u16::from_be_bytes([piece[ETHERNET + 4], piece[ETHERNET + 5]]).wrapping_add(index);
        piece[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&ident.to_be_bytes());
        (ETHERNET + 12..ETHERNET + 20, Some(ETHERNET + 10))
    };
    if let Some(at) = field {
        piece[at..at + 2].fill(0);
        let sum = !fold(add(0, &piece[ETHERNET..parts.transport]));
        piece[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    if parts.protocol == UDP {
        piece[parts.transport + 4..parts.transport + 6].copy_from_slice(&transport_len.to_be_bytes());
    }
    let at = parts.transport + if parts.protocol == TCP { 16 } else { 6 };
    piece[at..at + 2].fill(0);
    let pseudo = add(u64::from(parts.protocol) + u64::from(transport_len), &piece[addresses]);
    let sum = match !fold(add(pseudo, &piece[parts.transport..])) {
        // RFC 768: zero means "no checksum".
        0 if parts.protocol == UDP => 0xffff,
        sum => sum,
    };
    piece[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Adds 16-bit words (RFC 1071).
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |&last| u64::from(last) << 8);
    sum + odd + words.map(|w| u64::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u64>()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Rest;
    use net::device::{Capabilities, Full, RxFrame};
    use net::ring::Meta;
    use smoltcp::wire::{Ipv4Packet, TcpPacket};

    #[derive(Default)]
    struct Wire(Vec<Vec<u8>>);

    impl Device for Wire {
        fn capabilities(&self) -> Capabilities {
            Capabilities::plain(1500)
        }
        fn receive(&mut self, _: usize, _: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
            0
        }
        fn transmit(&mut self, len: usize, _: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
            let mut frame = vec![0; len];
            fill(&mut frame);
            self.0.push(frame);
            Ok(())
        }
        fn flush(&mut self) {}
    }

    fn send(bytes: &[u8], segment_size: u16) -> Result<Vec<Vec<u8>>, Fault> {
        let mut wire = Wire::default();
        let meta = Meta { checksum_done: true, segment_size, ..Meta::default() };
        let (head, rest) = (&bytes[..bytes.len().min(64)], Rest::Bytes(bytes));
        transmit(&mut wire, &Passing { head, len: bytes.len(), meta, rest }).map(|()| wire.0)
    }

    fn frame(payload: usize) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        bytes.extend_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes
            .extend_from_slice(&[0, 80, 1, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        bytes.extend((0..payload).map(|i| i as u8));
        let total = ((bytes.len() - ETHERNET) as u16).to_be_bytes();
        bytes[16..18].copy_from_slice(&total);
        bytes
    }

    #[test]
    fn cuts_a_super_segment() {
        let sent = send(&frame(5000), 1400).unwrap();
        assert_eq!(sent.len(), 4);
        let mut sequence = 0xffff_ff00u32;
        let mut payload = Vec::new();
        for (index, piece) in sent.iter().enumerate() {
            let ip = Ipv4Packet::new_checked(&piece[ETHERNET..]).unwrap();
            assert!(ip.verify_checksum() && ip.ident() == 9 + index as u16);
            let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
            assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
            assert_eq!(tcp.seq_number().0 as u32, sequence);
            assert_eq!((tcp.fin(), tcp.psh(), tcp.cwr()), (index == 3, index == 3, index == 0));
            sequence = sequence.wrapping_add(tcp.payload().len() as u32);
            payload.extend_from_slice(tcp.payload());
        }
        assert!(payload == frame(5000)[54..]);
    }

    #[test]
    fn nonsense_does_not_leave() {
        assert_eq!(send(&frame(5000), 0), Err(Fault::Malformed));
        assert_eq!(send(&frame(5000), 1490), Err(Fault::Malformed));
        let good = frame(3000);
        for at in 12..54 {
            for value in [0, 1, 0x0f, 0x40, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = send(&bytes, 1000);
                let _ = send(&bytes[..200], 1000);
                let _ = send(&bytes[..at], 1);
            }
        }
    }
}
