//! The header of virtio-net before each frame (virtio 1.2 section 5.1.6; `linux/virtio_net.h`), as TAP
//! devices use it with IFF_VNET_HDR: little-endian, twelve bytes.
//!
//! Sending: the engine leaves a checksum field zero where the device fills it, but the kernel wants the
//! sum of the pseudo header there, as hardware does.

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Address, Ipv6Address, checksum};

use crate::device::TxMeta;

/// Bytes of the header (`struct virtio_net_hdr_v1`).
pub(super) const HEADER: usize = 12;

const ETHERNET: usize = 14;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// Where the transport header of a frame is.
pub(super) struct Transport {
    pub(super) at: usize,
    pub(super) protocol: u8,
    v6: bool,
}

impl Transport {
    /// Finds it in an Ethernet frame. Only what our own engine makes has to be found: no VLAN tags, no IPv6
    /// extension headers before TCP or UDP, no fragments.
    pub(super) fn find(frame: &[u8]) -> Option<Transport> {
        match frame.get(12..14)? {
            [8, 0] => {
                let length = usize::from(frame.get(ETHERNET)? & 0xf) * 4;
                let fragment = u16::from_be_bytes([*frame.get(20)?, *frame.get(21)?]) & 0x3fff;
                let protocol = *frame.get(23)?;
                (fragment == 0 && length >= 20).then_some(Transport {
                    at: ETHERNET + length,
                    protocol,
                    v6: false,
                })
            }
            [0x86, 0xdd] => Some(Transport { at: ETHERNET + 40, protocol: *frame.get(20)?, v6: true }),
            _ => None,
        }
    }

    /// Where its checksum is, from the start of the header.
    pub(super) fn checksum_offset(&self) -> Option<usize> {
        match self.protocol {
            6 => Some(16),
            17 => Some(6),
            _ => None,
        }
    }

    /// The folded sum of the pseudo header.
    pub(super) fn pseudo_sum(&self, frame: &[u8]) -> u16 {
        let len = (self.packet_end(frame) - self.at) as u32;
        let protocol = IpProtocol::from(self.protocol);
        let (src, dst): (IpAddress, IpAddress) = if self.v6 {
            let address = |at: usize| {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&frame[at..at + 16]);
                IpAddress::Ipv6(Ipv6Address::from(bytes))
            };
            (address(22), address(38))
        } else {
            let address = |at: usize| {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(&frame[at..at + 4]);
                IpAddress::Ipv4(Ipv4Address::from(bytes))
            };
            (address(26), address(30))
        };
        checksum::pseudo_header(&src, &dst, protocol, len)
    }

    /// The end of the packet by its own length field: short frames are padded behind it.
    fn packet_end(&self, frame: &[u8]) -> usize {
        let field = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let end = if self.v6 { ETHERNET + 40 + field(18) } else { ETHERNET + field(16) };
        end.clamp(self.at, frame.len())
    }
}

/// Writes the header for a frame to send, and prepares the frame's checksum field.
pub(super) fn prepare(header: &mut [u8], frame: &mut [u8], meta: TxMeta) {
    header[..HEADER].fill(0);
    if !meta.checksum_offload && meta.segment == 0 {
        return;
    }
    let Some(transport) = Transport::find(frame) else { return };
    let Some(offset) = transport.checksum_offset() else { return };
    let field = transport.at + offset;
    if field + 2 > frame.len() {
        return;
    }
    let sum = transport.pseudo_sum(frame);
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&(transport.at as u16).to_le_bytes());
    header[8..10].copy_from_slice(&(offset as u16).to_le_bytes());
    let Some(&data_offset) = frame.get(transport.at + 12).filter(|_| transport.protocol == 6) else { return };
    let headers = transport.at + usize::from(data_offset >> 4) * 4;
    if meta.segment != 0 && frame.len() > headers + usize::from(meta.segment) {
        // RFC 3168 section 6.1.2: CWR belongs to the first segment alone, which the device must know.
        let ecn = if frame[transport.at + 13] & 0x80 != 0 { GSO_ECN } else { 0 };
        header[1] = ecn | if transport.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
        header[2..4].copy_from_slice(&(headers as u16).to_le_bytes());
        header[4..6].copy_from_slice(&meta.segment.to_le_bytes());
    }
}

/// Whether the kernel vouches for a received frame's checksum: it verified it, or it left it to be filled
/// by hardware that the frame never met.
pub fn checksum_ok(header: &[u8]) -> bool {
    header[0] & (NEEDS_CSUM | DATA_VALID) != 0
}

/// Whether the checksum field holds the sum of the pseudo header alone: a frame of this machine's kernel on its
/// way to hardware that would have filled it. (A right and complete sum looks so once in 65,536 frames, and is
/// then as good.)
pub(super) fn is_partial(frame: &[u8]) -> bool {
    let Some(transport) = Transport::find(frame) else { return false };
    let Some(offset) = transport.checksum_offset() else { return false };
    let field = transport.at + offset;
    frame.get(field..field + 2).is_some_and(|sum| sum == transport.pseudo_sum(frame).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: usize) -> std::vec::Vec<u8> {
        let mut frame = std::vec![0; 14 + 20 + 20 + payload];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[46] = 5 << 4;
        frame
    }

    #[test]
    fn a_plain_frame_asks_for_nothing() {
        let (mut header, mut frame) = ([7; HEADER], frame(10));
        let before = frame.clone();
        prepare(&mut header, &mut frame, TxMeta::default());
        assert_eq!((header, frame), ([0; HEADER], before));
    }

    #[test]
    fn a_super_segment_says_where_it_is_cut() {
        let (mut header, mut frame) = ([0; HEADER], frame(5000));
        prepare(
            &mut header,
            &mut frame,
            TxMeta { segment: 1448, checksum_offload: true, ..TxMeta::default() },
        );
        assert_eq!(header[..10], [NEEDS_CSUM, GSO_TCPV4, 54, 0, 0xa8, 5, 34, 0, 16, 0]);
        assert!(is_partial(&frame));
        // 10.0.0.1 + 10.0.0.2 + 6 + 5020
        let sum = 0x0a00u32 + 1 + 0x0a00 + 2 + 6 + 5020;
        assert_eq!(frame[50..52], (sum as u16).to_be_bytes());
    }

    #[test]
    fn what_fits_one_segment_is_none() {
        let (mut header, mut frame) = ([0; HEADER], frame(1448));
        prepare(
            &mut header,
            &mut frame,
            TxMeta { segment: 1448, checksum_offload: true, ..TxMeta::default() },
        );
        assert_eq!(header[..2], [NEEDS_CSUM, 0]);
    }

    #[test]
    fn nonsense_is_sent_as_it_is() {
        for len in 0..60 {
            let mut frame = frame(0);
            frame.resize(len, 0);
            prepare(
                &mut [0; HEADER],
                &mut frame,
                TxMeta { segment: 100, checksum_offload: true, ..TxMeta::default() },
            );
            is_partial(&frame);
        }
    }
}
