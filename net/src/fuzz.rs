//! The entry for fuzzers: bytes become frames, socket calls and passing time. Nothing may panic.

use core::net::Ipv4Addr;

use platform::time::{Instant, MILLISECOND};

use crate::device::{Capabilities, Pair};
use crate::{Bind, Config, Endpoint, Shard, TcpFlags};

/// Feeds `bytes` to a shard that has a listener, a connection attempt and a UDP socket. The input is cut
/// into records: a length byte, and so many bytes that are laid over a valid frame's head, so that a
/// fuzzer reaches TCP without having to guess checksums.
pub fn fuzz_frames(bytes: &[u8]) {
    let own = Ipv4Addr::new(10, 0, 0, 2);
    let mut config = Config::new([2, 0, 0, 0, 0, 2], [7; 32]).address(own.into(), 24);
    // An input that begins with an odd byte meets a node that listens to routers and DHCP servers.
    let auto = bytes.first().is_some_and(|first| first % 2 == 1);
    if auto {
        (config.dhcp, config.ipv6) = (true, crate::Ipv6Mode::Auto);
    }
    config.peer_mac = (!auto).then_some([2, 0, 0, 0, 0, 1]);
    let mut shard = Shard::new(config);
    let mut capabilities = Capabilities::plain(1500);
    capabilities.tx_checksum = true;
    let (mut device, mut peer) = Pair::new(capabilities, 256);
    let now = |step: u64| Instant((1000 + step) * MILLISECOND);
    let Ok(listener) = shard.tcp_open() else { return };
    let _ = shard.tcp_bind(listener, Endpoint::new(own, 80), Bind::default());
    let _ = shard.tcp_listen(listener, 4);
    let Ok(client) = shard.tcp_open() else { return };
    let _ = shard.tcp_connect(client, Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), 90), now(0));
    let Ok(udp) = shard.udp_open() else { return };
    let _ = shard.udp_bind(udp, Endpoint::new(own, 53), Bind::default());
    let (mut rest, mut step, mut buffer) = (bytes, 0, [0; 512]);
    while let [len, tail @ ..] = rest {
        let (record, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        step += u64::from(*len);
        inject(&mut peer, record);
        shard.poll(now(step), &mut device);
        while let Ok((id, _)) = shard.tcp_accept(listener) {
            let _ = shard.tcp_send(id, b"hello", TcpFlags::empty());
            let _ = shard.tcp_recv(id, &mut buffer, TcpFlags::empty());
            if len % 3 == 0 {
                shard.close(id);
            }
        }
        let _ = shard.tcp_recv(client, &mut buffer, TcpFlags::empty());
        let _ = shard.udp_recv(udp, &mut buffer, false);
        while shard.next_event().is_some() {}
        while peer.take().is_some() {}
    }
    for _ in 0..64 {
        let Some(deadline) = shard.deadline() else { break };
        shard.poll(deadline, &mut device);
        while peer.take().is_some() {}
    }
}

/// Records that begin with 0 or 1 become the rest of a TCP or UDP packet for us with its checksums taken as
/// right; with 2, what follows an IPv6 header for all nodes (its next header first); with 3, an ICMPv6
/// message with its checksum; with 4, a DHCP message; others are frames as they are.
pub(crate) fn inject(peer: &mut crate::device::PairEnd, record: &[u8]) {
    let (kind, body) = match record {
        [kind @ (0 | 1), body @ ..] => (*kind, body),
        [2, next, body @ ..] => return inject_v6(peer, *next, body),
        [3, body @ ..] if body.len() >= 4 => return inject_v6(peer, crate::ip::icmp6::PROTOCOL, body),
        [4, body @ ..] => {
            let mut datagram = alloc::vec![0, 67, 0, 68, 0, 0, 0, 0];
            datagram[4..6].copy_from_slice(&((8 + body.len()) as u16).to_be_bytes());
            datagram.extend_from_slice(body);
            let outline = crate::ip::packet::Outline::new(
                Ipv4Addr::new(10, 0, 0, 1).into(),
                Ipv4Addr::BROADCAST.into(),
                17,
            );
            let mut frame = alloc::vec![255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 0];
            frame.extend_from_slice(&outline.begin(datagram.len()));
            frame.extend_from_slice(&datagram);
            return peer.inject_trusted(&frame);
        }
        other => return peer.inject(other),
    };
    let mut frame = alloc::vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let mut packet = alloc::vec![0; 20];
    packet.extend_from_slice(body);
    crate::ip::ipv4::write_header(
        &mut packet,
        &crate::ip::ipv4::Header {
            src: Ipv4Addr::new(10, 0, 0, 1),
            dst: Ipv4Addr::new(10, 0, 0, 2),
            protocol: if kind == 0 { 6 } else { 17 },
            payload_len: body.len(),
            hop_limit: 64,
            traffic_class: 0,
            ident: 0,
            dont_fragment: true,
        },
    );
    frame.append(&mut packet);
    peer.inject_trusted(&frame);
}

/// From a neighbour's link-local address to all nodes, with the hop limit that neighbour discovery wants.
fn inject_v6(peer: &mut crate::device::PairEnd, next: u8, body: &[u8]) {
    let outline = crate::ip::packet::Outline {
        hop_limit: 255,
        ..crate::ip::packet::Outline::new(
            core::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
            crate::ip::ipv6::ALL_NODES.into(),
            next,
        )
    };
    let mut body = body.to_vec();
    if next == crate::ip::icmp6::PROTOCOL && body.len() >= 4 {
        body[2..4].fill(0);
        let sum = outline.checksum(&body);
        body[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let mut frame = alloc::vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    frame.extend_from_slice(&outline.begin(body.len()));
    frame.extend_from_slice(&body);
    peer.inject_trusted(&frame);
}
