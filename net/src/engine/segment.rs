//! TCP segments: reading a received one, writing one to send. Formats are `smoltcp::wire`'s.

use core::net::IpAddr;

use smoltcp::wire::{TcpOption as WireOption, TcpPacket};

use super::demux::FlowKey;
use super::fast_open::{self, Cookie};
use super::seq::Seq;
use crate::ip::addr::Addresses;
use crate::ip::checksum;

/// Bytes of the timestamp option with its padding (RFC 7323 appendix A).
pub(crate) const TIMESTAMP_LEN: usize = 12;
/// SACK blocks in a segment (RFC 2018 section 3); three if it has timestamps.
pub(crate) const MAX_SACK: usize = 4;

bitflags::bitflags! {
    /// The control bits (RFC 9293 section 3.1), at their place in the header.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Control: u8 {
        const FIN = 1;
        const SYN = 2;
        const RST = 4;
        const PSH = 8;
        const ACK = 16;
        const URG = 32;
        const ECE = 64;
        const CWR = 128;
    }
}

/// A received segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) control: Control,
    pub(crate) window: u16,
    pub(crate) payload: &'a [u8],
    /// The network marked it: congestion (RFC 3168).
    pub(crate) marked: bool,
    /// The urgent pointer, if URG says that it counts.
    pub(crate) urgent: u16,
    pub(crate) timestamp: Option<(u32, u32)>,
    /// The option part of the header, for what only SYN segments and SACK users need.
    pub(crate) options: &'a [u8],
}

/// What a SYN says of its sender.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SynOptions {
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) fast_open: Option<Cookie>,
}

impl<'a> Segment<'a> {
    /// Reads a TCP segment; `None` if it is malformed or its checksum is wrong. Nothing is allocated
    /// before this test.
    #[inline]
    pub(crate) fn parse(
        bytes: &'a [u8],
        src: IpAddr,
        dst: IpAddr,
        checksum_ok: bool,
    ) -> Option<(Segment<'a>, u16, u16)> {
        let segment = Segment::read(bytes, bytes, |bytes| checksum_ok || is_sound(bytes, src, dst))?;
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (src_port, dst_port) = (word(0), word(2));
        (src_port != 0 && dst_port != 0).then_some((segment, src_port, dst_port))
    }

    /// The same for an IPv4 segment of which the flow is known.
    #[inline]
    pub(crate) fn parse_v4(bytes: &'a [u8], key: &FlowKey, checksum_ok: bool) -> Option<Segment<'a>> {
        let addresses = checksum::long(key.local.bits()) + checksum::long(key.remote.bits());
        Segment::read(bytes, bytes, |bytes| checksum_ok || is_sound_v4(bytes, addresses))
    }

    /// The same without a checksum, for a segment that lies where somebody else may write: `copy` is a copy of its
    /// beginning.
    pub(crate) fn parse_in_place(copy: &'a [u8], bytes: &'a [u8]) -> Option<Segment<'a>> {
        Segment::read(copy, bytes, |_| true)
    }

    /// Headers are read off `copy`, the payload is that of `bytes`.
    #[inline(always)]
    fn read(copy: &'a [u8], bytes: &'a [u8], is_sound: impl FnOnce(&[u8]) -> bool) -> Option<Segment<'a>> {
        // By hand and not by `wire`, whose accessors each check the length again.
        let head = copy.first_chunk::<20>()?;
        let header_len = usize::from(head[12] >> 4) * 4;
        if header_len < 20 || header_len > copy.len().min(bytes.len()) || !is_sound(bytes) {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let long = |at: usize| Seq(u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        let options = &copy[20..header_len];
        Some(Segment {
            seq: long(4),
            ack: long(8),
            control: Control::from_bits_truncate(head[13]),
            window: word(14),
            payload: &bytes[header_len..],
            marked: false,
            urgent: word(18),
            timestamp: read_timestamp(options),
            options,
        })
    }

    #[inline]
    pub(crate) fn has(&self, control: Control) -> bool {
        self.control.contains(control)
    }

    /// Sequence numbers that it takes.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(Control::SYN)) + u32::from(self.has(Control::FIN))
    }

    /// The number after its last.
    #[inline]
    pub(crate) fn end(&self) -> Seq {
        self.seq + self.len()
    }

    /// There is more than a timestamp in the options.
    #[inline]
    pub(crate) fn may_have_blocks(&self) -> bool {
        self.options.len() > if self.timestamp.is_some() { TIMESTAMP_LEN } else { 0 }
    }

    /// The blocks of a SACK option (RFC 2018 section 3).
    pub(crate) fn sack_blocks(&self) -> ([(Seq, Seq); MAX_SACK], usize) {
        let (mut blocks, mut count) = ([(Seq(0), Seq(0)); MAX_SACK], 0);
        let mut rest = self.options;
        while let [kind, tail @ ..] = rest {
            match (*kind, tail) {
                (0, _) => break,
                (1, _) => rest = tail,
                (5, [len, ..]) if usize::from(*len) >= 2 && usize::from(*len) <= rest.len() => {
                    for pair in rest[2..usize::from(*len)].chunks_exact(8).take(MAX_SACK) {
                        let word = |at: usize| {
                            Seq(u32::from_be_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]))
                        };
                        blocks[count] = (word(0), word(4));
                        count += 1;
                    }
                    break;
                }
                (_, [len, ..]) if usize::from(*len) >= 2 && usize::from(*len) <= rest.len() => {
                    rest = &rest[usize::from(*len)..];
                }
                _ => break,
            }
        }
        (blocks, count)
    }

    /// The options of a SYN. Reading stops at the first malformed one.
    pub(crate) fn syn_options(&self) -> SynOptions {
        let mut found = SynOptions::default();
        let mut rest = self.options;
        while !rest.is_empty() {
            let Ok((next, option)) = WireOption::parse(rest) else { break };
            match option {
                WireOption::EndOfList => break,
                WireOption::MaxSegmentSize(mss) => found.mss = Some(mss),
                // RFC 7323 section 2.3: shifts above 14 count as 14.
                WireOption::WindowScale(scale) => found.scale = Some(scale.min(14)),
                WireOption::SackPermitted => found.sack = true,
                WireOption::Unknown { kind: fast_open::KIND, data } => found.fast_open = Cookie::read(data),
                _ => {}
            }
            rest = next;
        }
        found
    }
}

#[inline]
fn is_sound(bytes: &[u8], src: IpAddr, dst: IpAddr) -> bool {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            is_sound_v4(bytes, checksum::long(src.into()) + checksum::long(dst.into()))
        }
        _ => is_sound_v6(bytes, src, dst),
    }
}

/// `addresses`: their sum.
#[inline]
fn is_sound_v4(bytes: &[u8], addresses: u32) -> bool {
    checksum::fold(addresses + 6 + bytes.len() as u32 + checksum::sum(bytes)) == 0xffff
}

#[inline(never)]
fn is_sound_v6(bytes: &[u8], src: IpAddr, dst: IpAddr) -> bool {
    TcpPacket::new_unchecked(bytes).verify_checksum(&src.into(), &dst.into())
}

#[inline]
fn read_timestamp(options: &[u8]) -> Option<(u32, u32)> {
    // The layout that everybody sends outside of SYN segments.
    if let [1, 1, 8, 10, a, b, c, d, e, f, g, h, ..] = *options {
        return Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
    }
    let mut rest = options;
    while !rest.is_empty() {
        let (next, option) = WireOption::parse(rest).ok()?;
        match option {
            WireOption::TimeStamp { tsval, tsecr } => return Some((tsval, tsecr)),
            WireOption::EndOfList => return None,
            _ => rest = next,
        }
    }
    None
}

/// The header of a segment to send.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) key: FlowKey,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) control: Control,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    /// The timestamp option in its usual layout, before the others. Apart from them because nearly every segment has
    /// it: so it is written, and summed, from registers.
    pub(crate) timestamp: Option<(u32, u32)>,
    pub(crate) options: [u8; 40],
    pub(crate) options_len: u8,
}

impl Header {
    pub(crate) fn new(key: FlowKey, seq: Seq, ack: Seq, control: Control) -> Header {
        Header {
            key,
            seq,
            ack,
            control,
            window: 0,
            urgent: 0,
            hop_limit: 64,
            traffic_class: 0,
            timestamp: None,
            options: [1; 40],
            options_len: 0,
        }
    }

    #[inline]
    pub(crate) fn timestamp(&mut self, value: u32, echo: u32) {
        self.timestamp = Some((value, echo));
    }

    /// Bytes of all options.
    #[inline]
    pub(crate) fn options_len(&self) -> usize {
        usize::from(self.options_len) + if self.timestamp.is_some() { TIMESTAMP_LEN } else { 0 }
    }

    /// Appends bytes of options; the caller keeps the sum a multiple of four.
    #[inline]
    pub(crate) fn option(&mut self, bytes: &[u8]) {
        let at = usize::from(self.options_len);
        self.options[at..at + bytes.len()].copy_from_slice(bytes);
        self.options_len += bytes.len() as u8;
    }

    /// Length of the IP packet with `payload` bytes.
    #[inline]
    pub(crate) fn packet_len(&self, payload: usize) -> usize {
        self.key.headers() + self.options_len() + payload
    }

    /// Writes IP header, TCP header, options and (by `fill`) payload.
    #[inline]
    pub(crate) fn write(
        &self,
        packet: &mut [u8],
        with_checksum: bool,
        addresses: &Addresses,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let (ip, tcp) = packet.split_at_mut(self.key.remote.header_len());
        if self.key.remote.is_v6() {
            self.write_v6(ip, tcp.len(), addresses);
        } else {
            self.write_v4(ip, tcp.len());
        }
        let options_len = self.options_len();
        // As in `write_fragment_header`: at once. The checksum stays zero.
        let mut bytes = [0; 20];
        bytes[0..2].copy_from_slice(&self.key.local_port.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.key.remote_port.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        bytes[12] = (20 + options_len as u8) << 2;
        bytes[13] = self.control.bits();
        bytes[14..16].copy_from_slice(&self.window.to_be_bytes());
        bytes[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        tcp[..20].copy_from_slice(&bytes);
        let at = match self.timestamp {
            Some((value, echo)) => {
                let mut bytes = [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];
                bytes[4..8].copy_from_slice(&value.to_be_bytes());
                bytes[8..12].copy_from_slice(&echo.to_be_bytes());
                tcp[20..32].copy_from_slice(&bytes);
                32
            }
            None => 20,
        };
        if self.options_len > 0 {
            let others = usize::from(self.options_len);
            tcp[at..at + others].copy_from_slice(&self.options[..others]);
        }
        fill(&mut tcp[20 + options_len..]);
        if with_checksum {
            let sum = self.pseudo_sum(ip, tcp.len() as u32)
                + self.header_sum(bytes[12])
                + checksum::sum(&tcp[20 + options_len..]);
            tcp[16..18].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        }
    }

    /// The sum of the TCP header, from the fields: its bytes are still on their way to memory.
    #[inline]
    fn header_sum(&self, offset: u8) -> u32 {
        let mut sum = u32::from(self.key.local_port)
            + u32::from(self.key.remote_port)
            + checksum::long(self.seq.0)
            + checksum::long(self.ack.0)
            + u32::from(u16::from_be_bytes([offset, self.control.bits()]))
            + u32::from(self.window)
            + u32::from(self.urgent);
        if let Some((value, echo)) = self.timestamp {
            sum += 0x0101 + 0x080a + checksum::long(value) + checksum::long(echo);
        }
        if self.options_len > 0 {
            sum += checksum::sum(&self.options[..usize::from(self.options_len)]);
        }
        sum
    }

    /// The pseudo header's sum. The addresses lie side by side in an IPv6 header.
    #[inline]
    fn pseudo_sum(&self, ip: &[u8], len: u32) -> u32 {
        let addresses = match self.key.remote.is_v6() {
            true => ip.get(8..40).map_or(0, checksum::sum),
            false => checksum::long(self.key.local.bits()) + checksum::long(self.key.remote.bits()),
        };
        addresses + 6 + len
    }

    #[inline]
    fn write_v4(&self, ip: &mut [u8], payload_len: usize) {
        crate::ip::ipv4::write_header(
            ip,
            &crate::ip::ipv4::Header {
                src: self.key.local.v4(),
                dst: self.key.remote.v4(),
                protocol: 6,
                payload_len,
                hop_limit: self.hop_limit,
                traffic_class: self.traffic_class,
                // RFC 6864: an atomic datagram's identification means nothing.
                ident: 0,
                dont_fragment: true,
            },
        );
    }

    #[inline]
    fn write_v6(&self, ip: &mut [u8], payload_len: usize, addresses: &Addresses) {
        crate::ip::ipv6::write_header(
            ip,
            &crate::ip::ipv6::Header {
                src: addresses.v6(self.key.local),
                dst: addresses.v6(self.key.remote),
                protocol: 6,
                payload_len,
                hop_limit: self.hop_limit,
                traffic_class: self.traffic_class,
                // RFC 6437: the same for all packets of a flow, and telling nothing of its ports.
                flow_label: self.key.flow_label(),
            },
        );
    }
}
