//! A received IP packet of either family, its header checked, and what is to be said about a bad one.

use alloc::vec::Vec;
use core::net::IpAddr;

use smoltcp::wire::checksum;

use super::{ipv4, ipv6};

/// A received packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Of what `payload` holds: behind the extension headers.
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    /// IPv6; 0 for IPv4.
    pub(crate) flow_label: u32,
    pub(crate) ident: u32,
    /// Offset of a fragment in bytes, and whether more follow.
    pub(crate) fragment: (usize, bool),
    /// IPv4: the sender forbade fragments.
    pub(crate) dont_fragment: bool,
    /// Where the last "next header" stands, for complaints about it.
    pub(crate) protocol_at: u16,
    /// Header and payload, without what the link added behind.
    pub(crate) bytes: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// What came of reading a packet.
pub(crate) enum Parsed<'a> {
    /// It is well-formed.
    Packet(Packet<'a>),
    /// ICMPv6 "parameter problem" with this code about the byte at this place; `always`: also if the packet
    /// was for a group.
    Problem { packet: Packet<'a>, code: u8, at: u32, always: bool },
    /// Not worth an answer.
    Bad,
}

impl<'a> Packet<'a> {
    /// Reads a packet that is known to be good: what we built, or what was checked before.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Packet<'a>> {
        match bytes.first()? >> 4 {
            4 => ipv4::parse(bytes, true),
            6 => match ipv6::parse(bytes) {
                Parsed::Packet(packet) => Some(packet),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.fragment != (0, false)
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.dst.is_ipv6()
    }
}

/// The header of a packet to build, of either family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outline {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) flow_label: u32,
    pub(crate) ident: u16,
    pub(crate) dont_fragment: bool,
}

impl Outline {
    /// An ordinary one.
    pub(crate) fn new(src: IpAddr, dst: IpAddr, protocol: u8) -> Outline {
        Outline {
            src,
            dst,
            protocol,
            hop_limit: 64,
            traffic_class: 0,
            flow_label: 0,
            ident: 0,
            dont_fragment: false,
        }
    }

    /// Bytes of the header.
    pub(crate) fn header_len(&self) -> usize {
        if self.dst.is_ipv6() { ipv6::HEADER } else { 20 }
    }

    /// A buffer with the header, and room for the payload that the caller appends.
    pub(crate) fn begin(&self, payload_len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.header_len() + payload_len);
        bytes.resize(self.header_len(), 0);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4::write_header(
                &mut bytes,
                &ipv4::Header {
                    src,
                    dst,
                    protocol: self.protocol,
                    payload_len,
                    hop_limit: self.hop_limit,
                    traffic_class: self.traffic_class,
                    ident: self.ident,
                    dont_fragment: self.dont_fragment,
                },
            ),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6::write_header(
                &mut bytes,
                &ipv6::Header {
                    src,
                    dst,
                    protocol: self.protocol,
                    payload_len,
                    hop_limit: self.hop_limit,
                    traffic_class: self.traffic_class,
                    flow_label: self.flow_label,
                },
            ),
            // Callers choose the source by the destination.
            _ => {}
        }
        bytes
    }

    /// The checksum of an upper protocol's bytes under the pseudo header (RFC 768, RFC 8200 section 8.1).
    pub(crate) fn checksum(&self, payload: &[u8]) -> u16 {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => !checksum::combine(&[
                checksum::data(&src.octets()),
                checksum::data(&dst.octets()),
                self.protocol.into(),
                payload.len() as u16,
                checksum::data(payload),
            ]),
            (IpAddr::V6(src), IpAddr::V6(dst)) => super::icmp6::sum(src, dst, self.protocol, payload),
            _ => 0,
        }
    }
}
