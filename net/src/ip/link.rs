//! The way from a finished header to the device: next hop, hardware address, Ethernet header, checksum
//! offload, or the loopback.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

use super::addr::Addresses;
use super::neighbor::Neighbors;
use super::packet::Packet;
use super::path_mtu::PathMtus;
use super::route::{Route, Routes};
use super::{arp, ipv4, ipv6};
use crate::counters::IpCounters;
use crate::device::loopback::{self, Loopback};
use crate::device::{Capabilities, Device, TxMeta};
use crate::engine::segment::Header;
use crate::engine::tcb::{Flags, Tcb};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// Why a packet did not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// The device has no room.
    Full,
    /// The loopback has no room.
    LoopbackFull,
    /// The hardware address in this slot is not known yet.
    Unresolved(u16),
    /// There is no way.
    NoRoute,
}

/// The device and everything on the way to it, for the time of one flush.
pub(crate) struct Link<'a> {
    pub(crate) device: &'a mut dyn Device,
    pub(crate) capabilities: Capabilities,
    pub(crate) loopback: &'a mut Loopback,
    pub(crate) neighbors: &'a mut Neighbors,
    pub(crate) routes: &'a Routes,
    pub(crate) addresses: &'a Addresses,
    pub(crate) path_mtus: &'a PathMtus,
    pub(crate) mac: [u8; 6],
    pub(crate) peer_mac: Option<[u8; 6]>,
    pub(crate) mtu: usize,
    pub(crate) now_ms: u64,
    pub(crate) idents: &'a mut u32,
    pub(crate) counters: &'a mut IpCounters,
    /// Something was given to the device.
    pub(crate) sent: bool,
}

impl Link<'_> {
    /// Largest IP packet that TCP may build for this connection, if more than a segment is welcome.
    #[inline]
    pub(crate) fn segmentation(&self, tcb: &Tcb) -> usize {
        if tcb.has(Flags::LOOPBACK) { loopback::MTU } else { self.capabilities.segmentation.min(65_535) }
    }

    /// Sends a segment with `len` bytes of payload written by `fill`. `segment`: cut into such pieces.
    #[inline]
    pub(crate) fn send_tcp(
        &mut self,
        tcb: &mut Tcb,
        header: &Header,
        len: usize,
        segment: u16,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Blocked> {
        let total = header.packet_len(len);
        let v4 = u64::from(!header.key.remote.is_v6());
        if tcb.has(Flags::LOOPBACK) {
            let mut packet = self.loopback.buffer(total).ok_or(Blocked::LoopbackFull)?;
            header.write(&mut packet, false, self.addresses, fill);
            self.loopback.push(packet);
            self.counters.out_requests += v4;
            return Ok(());
        }
        let remote = header.key.remote;
        let mac = match self.peer_mac {
            Some(mac) => mac,
            None => self.resolve(self.addresses.get(remote), &mut tcb.neighbor)?,
        };
        let kind = if remote.is_v6() { EthernetProtocol::Ipv6 } else { EthernetProtocol::Ipv4 };
        let offload = self.capabilities.tx_checksum;
        let dst = Some(self.addresses.get(remote));
        let meta = TxMeta { segment, checksum_offload: offload, dst, ..TxMeta::default() };
        let (mut fill, addresses) = (Some(fill), self.addresses);
        let sent = self.transmit(mac, kind, total, meta, &mut |packet| {
            if let Some(fill) = fill.take() {
                header.write(packet, !offload, addresses, fill);
            }
        });
        self.counters.out_requests += if sent.is_ok() { v4 } else { 0 };
        sent
    }

    /// Sends a whole IP packet, in fragments if it must be. The packet waits for an unknown address.
    pub(crate) fn send_packet(&mut self, packet: Vec<u8>) -> Result<(), (Blocked, Vec<u8>)> {
        let Some(dst) = destination(&packet) else { return Ok(()) };
        let mac = match self.routes.route(dst) {
            Some(Route::Local) => {
                self.counters.sent(&packet);
                self.loopback.push(packet);
                return Ok(());
            }
            Some(_) => {
                let mut slot = u16::MAX;
                match self.resolve(dst, &mut slot) {
                    Ok(mac) => mac,
                    Err(Blocked::Unresolved(slot)) => {
                        self.neighbors.wait_packet(slot, packet);
                        return Ok(());
                    }
                    Err(blocked) => return Err((blocked, packet)),
                }
            }
            None => {
                self.counters.out_no_routes += u64::from(dst.is_ipv4());
                return Err((Blocked::NoRoute, packet));
            }
        };
        let mtu = self.path_mtus.get(dst, self.mtu);
        if packet.len() > mtu {
            return self.send_fragments(mac, mtu, packet);
        }
        let kind = if dst.is_ipv6() { EthernetProtocol::Ipv6 } else { EthernetProtocol::Ipv4 };
        let meta = TxMeta { dst: Some(dst), ..TxMeta::default() };
        let sent = self.transmit(mac, kind, packet.len(), meta, &mut |buffer| {
            buffer.copy_from_slice(&packet);
        });
        if sent.is_ok() {
            self.counters.sent(&packet);
        }
        sent.map_err(|blocked| (blocked, packet))
    }

    /// Sends an IPv6 packet to a hardware address.
    pub(crate) fn send_to(&mut self, mac: [u8; 6], packet: &[u8]) -> Result<(), Blocked> {
        self.transmit(mac, EthernetProtocol::Ipv6, packet.len(), TxMeta::default(), &mut |buffer| {
            buffer.copy_from_slice(packet);
        })
    }

    /// Splits a datagram (RFC 791 section 3.2, RFC 8200 section 4.5). A device that fills up in between loses
    /// the datagram, as any fragment may be lost. Whoever forbade fragments has been told before.
    fn send_fragments(
        &mut self,
        mac: [u8; 6],
        mtu: usize,
        packet: Vec<u8>,
    ) -> Result<(), (Blocked, Vec<u8>)> {
        let Some(original) = Packet::parse(&packet) else { return Ok(()) };
        if original.is_fragment() || (original.dont_fragment && !original.is_v6()) {
            self.counters.frag_fails += u64::from(!original.is_v6());
            return Ok(());
        }
        *self.idents = self.idents.wrapping_add(1);
        let ident = *self.idents;
        let (kind, head) = match original.dst {
            IpAddr::V4(_) => (EthernetProtocol::Ipv4, 20),
            IpAddr::V6(_) => (EthernetProtocol::Ipv6, ipv6::HEADER + ipv6::FRAGMENT_HEADER),
        };
        let step = (mtu - head) / 8 * 8;
        let mut offset = 0;
        while offset < original.payload.len() {
            let piece = &original.payload[offset..original.payload.len().min(offset + step)];
            let more = offset + piece.len() < original.payload.len();
            let meta = TxMeta { dst: Some(original.dst), ..TxMeta::default() };
            let sent = self.transmit(mac, kind, head + piece.len(), meta, &mut |buffer| {
                write_fragment_header(buffer, &original, ident, piece.len(), offset, more);
                buffer[head..].copy_from_slice(piece);
            });
            if sent.is_err() {
                return if offset == 0 { Err((Blocked::Full, packet)) } else { Ok(()) };
            }
            self.counters.frag_creates += u64::from(!original.is_v6());
            offset += piece.len();
        }
        self.counters.frag_oks += u64::from(!original.is_v6());
        self.counters.sent(&packet);
        Ok(())
    }

    pub(crate) fn send_arp(
        &mut self,
        request: bool,
        from: Ipv4Addr,
        to: ([u8; 6], Ipv4Addr),
    ) -> Result<(), Blocked> {
        let own = (self.mac, from);
        // A request to a known address asks whether the neighbour is still there.
        let unknown = to.0 == [0; 6];
        let destination = if request && unknown { [0xff; 6] } else { to.0 };
        let target = if request { [0; 6] } else { to.0 };
        self.transmit(destination, EthernetProtocol::Arp, arp::PACKET_LEN, TxMeta::default(), &mut |buffer| {
            arp::write(buffer, request, own, (target, to.1));
        })
    }

    /// The hardware address for packets to `dst`.
    #[inline]
    pub(crate) fn resolve(&mut self, dst: IpAddr, slot: &mut u16) -> Result<[u8; 6], Blocked> {
        if let Some(mac) = self.peer_mac {
            return Ok(mac);
        }
        match self.routes.route(dst) {
            Some(Route::Via(hop)) => {
                self.neighbors.lookup(hop, slot, self.now_ms).ok_or(Blocked::Unresolved(*slot))
            }
            Some(Route::Broadcast) if dst.is_multicast() => Ok(group_mac(dst)),
            Some(Route::Broadcast) => Ok([0xff; 6]),
            _ => Err(Blocked::NoRoute),
        }
    }

    #[inline]
    fn transmit(
        &mut self,
        to: [u8; 6],
        kind: EthernetProtocol,
        len: usize,
        meta: TxMeta,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Blocked> {
        let from = self.mac;
        let meta = TxMeta { to, ..meta };
        let sent = self.device.transmit(ETHERNET + len, meta, &mut |frame| {
            let mut ethernet = EthernetFrame::new_unchecked(&mut *frame);
            ethernet.set_dst_addr(EthernetAddress(to));
            ethernet.set_src_addr(EthernetAddress(from));
            ethernet.set_ethertype(kind);
            fill(&mut frame[ETHERNET..]);
        });
        self.sent |= sent.is_ok();
        sent.map_err(|_| Blocked::Full)
    }
}

/// The hardware address of a group (RFC 1112 section 6.4, RFC 2464 section 7).
pub(crate) fn group_mac(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

fn write_fragment_header(
    buffer: &mut [u8],
    original: &Packet<'_>,
    ident: u32,
    payload_len: usize,
    offset: usize,
    more: bool,
) {
    match (original.src, original.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = ipv4::Header {
                src,
                dst,
                protocol: original.protocol,
                payload_len,
                hop_limit: original.hop_limit,
                traffic_class: original.traffic_class,
                ident: ident as u16,
                dont_fragment: false,
            };
            ipv4::write_fragment_header(&mut buffer[..20], &header, offset, more);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = ipv6::Header {
                src,
                dst,
                protocol: original.protocol,
                payload_len,
                hop_limit: original.hop_limit,
                traffic_class: original.traffic_class,
                flow_label: original.flow_label,
            };
            ipv6::write_fragment_header(buffer, &header, ident, offset, more);
        }
        _ => {}
    }
}

/// Where a whole packet goes.
pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into()),
        _ => None,
    }
}
