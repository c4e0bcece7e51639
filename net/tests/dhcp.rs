//! The DHCP client against a server that the test plays, message by message.

mod common;

use common::ip_header;
use net::device::{Capabilities, Pair, PairEnd};
use net::{Config, Shard};
use platform::time::{Instant, MILLISECOND};
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, IpProtocol, Ipv4Packet, UdpPacket,
};
use std::net::Ipv4Addr;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);

struct Game {
    shard: Shard,
    device: PairEnd,
    peer: PairEnd,
    now: Instant,
}

/// What the client said: type, where to, transaction, own, wanted address, server.
#[derive(Debug, PartialEq)]
struct Said {
    kind: DhcpMessageType,
    to: Ipv4Addr,
    xid: u32,
    own: Ipv4Addr,
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl Game {
    fn new() -> Game {
        let mut config = Config::new(MAC, [7; 32]);
        config.dhcp = true;
        let (device, peer) = Pair::new(Capabilities::plain(1500), 64);
        Game { shard: Shard::new(config), device, peer, now: Instant(1_000_000 * MILLISECOND) }
    }

    fn pass(&mut self, ms: u64) -> Vec<Said> {
        let end = self.now.after(ms * MILLISECOND);
        self.shard.poll(self.now, &mut self.device);
        while let Some(at) = self.shard.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.shard.poll(self.now, &mut self.device);
        }
        self.now = end;
        self.shard.poll(self.now, &mut self.device);
        std::iter::from_fn(|| self.peer.take()).filter_map(|frame| said(&frame)).collect()
    }

    fn answer(&mut self, kind: DhcpMessageType, xid: u32, lease_s: u32) {
        let unset = Ipv4Addr::UNSPECIFIED;
        let ack = kind != DhcpMessageType::Nak;
        let message = DhcpRepr {
            message_type: kind,
            transaction_id: xid,
            secs: 0,
            client_hardware_address: EthernetAddress(MAC),
            client_ip: unset,
            your_ip: if ack { ADDR } else { unset },
            server_ip: SERVER,
            router: ack.then_some(SERVER),
            subnet_mask: ack.then_some(Ipv4Addr::new(255, 255, 255, 0)),
            relay_agent_ip: unset,
            broadcast: true,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(SERVER),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: ack.then_some(lease_s),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let len = 8 + message.buffer_len();
        let mut frame = vec![0; 34 + len];
        frame[..14].copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 0]);
        let everybody = Ipv4Addr::BROADCAST;
        ip_header(&mut frame[14..], len, IpProtocol::Udp, SERVER.into(), everybody.into(), 0);
        message.emit(&mut DhcpPacket::new_unchecked(&mut frame[42..])).unwrap();
        let mut udp = UdpPacket::new_unchecked(&mut frame[34..]);
        udp.set_src_port(67);
        udp.set_dst_port(68);
        udp.set_len(len as u16);
        udp.fill_checksum(&SERVER.into(), &everybody.into());
        self.peer.inject(&frame);
    }

    /// A client with a lease of an hour.
    fn bound() -> Game {
        let mut game = Game::new();
        let discover = game.pass(0).remove(0);
        assert_eq!((discover.kind, discover.to), (DhcpMessageType::Discover, Ipv4Addr::BROADCAST));
        game.answer(DhcpMessageType::Offer, discover.xid, 3600);
        let request = game.pass(0).remove(0);
        assert_eq!(request.kind, DhcpMessageType::Request);
        assert_eq!(
            (request.wanted, request.server, request.own),
            (Some(ADDR), Some(SERVER), Ipv4Addr::UNSPECIFIED)
        );
        game.answer(DhcpMessageType::Ack, request.xid, 3600);
        assert_eq!(game.pass(0), []);
        assert_eq!(game.shard.addresses().0, [(ADDR, 24)]);
        game.shard.set_neighbor(SERVER.into(), [2, 0, 0, 0, 0, 1]);
        game
    }
}

fn said(frame: &[u8]) -> Option<Said> {
    if frame[12..14] != [8, 0] {
        return None;
    }
    let ip = Ipv4Packet::new_checked(&frame[14..]).ok()?;
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    let packet = DhcpPacket::new_checked(udp.payload()).ok()?;
    let message = DhcpRepr::parse(&packet).ok()?;
    Some(Said {
        kind: message.message_type,
        to: ip.dst_addr(),
        xid: message.transaction_id,
        own: message.client_ip,
        wanted: message.requested_ip,
        server: message.server_identifier,
    })
}

#[test]
fn leases_renews_and_releases() {
    let mut game = Game::bound();
    assert!(game.shard.routes().any(|route| route.via == Some(SERVER.into())));
    assert_eq!(game.pass(1_799_000), []);
    let renew = game.pass(2_000).remove(0);
    assert_eq!((renew.kind, renew.to, renew.own), (DhcpMessageType::Request, SERVER, ADDR));
    assert_eq!((renew.wanted, renew.server), (None, None), "RFC 2131 table 4");
    game.answer(DhcpMessageType::Ack, renew.xid, 3600);
    assert_eq!(game.pass(1_700_000), []);
    game.shard.set_neighbor(SERVER.into(), [2, 0, 0, 0, 0, 1]);
    game.shard.dhcp_release();
    let release = game.pass(0).remove(0);
    assert_eq!((release.kind, release.own, release.server), (DhcpMessageType::Release, ADDR, Some(SERVER)));
    assert_eq!(game.pass(10_000_000), [], "and nothing more");
}

#[test]
fn rebinds_and_gives_up_when_nobody_answers() {
    let mut game = Game::bound();
    let all = game.pass(3_599_000);
    assert!(all.len() > 3);
    assert!(all.iter().all(|said| said.kind == DhcpMessageType::Request && said.own == ADDR));
    assert_eq!(all.last().unwrap().to, Ipv4Addr::BROADCAST, "anybody, in the end");
    assert_eq!(game.shard.addresses().0.len(), 1);
    let after = game.pass(2_000);
    assert_eq!(after[0].kind, DhcpMessageType::Discover);
    assert_eq!(game.shard.addresses().0, []);
    assert!(game.shard.dhcp_lease().is_none());
}

#[test]
fn a_refusal_takes_the_address_away() {
    let mut game = Game::bound();
    let renew = game.pass(1_801_000).remove(0);
    game.answer(DhcpMessageType::Nak, renew.xid, 0);
    let next = game.pass(1);
    assert_eq!(game.shard.addresses().0, []);
    assert_eq!(next[0].kind, DhcpMessageType::Discover);
}

#[test]
fn asks_ever_more_slowly_and_believes_only_answers_to_it() {
    let mut game = Game::new();
    let all = game.pass(300_000);
    assert!((5..12).contains(&all.len()), "{}", all.len());
    let xid = all[0].xid;
    game.answer(DhcpMessageType::Offer, xid ^ 1, 3600);
    assert_eq!(game.pass(1), []);
    game.answer(DhcpMessageType::Ack, xid, 3600);
    game.pass(1);
    assert_eq!(game.shard.addresses().0, [], "not asked for");
    // An offer whose server then falls silent is given up.
    game.answer(DhcpMessageType::Offer, xid, 3600);
    let all = game.pass(120_000);
    assert_eq!(all[0].kind, DhcpMessageType::Request);
    assert!(all.iter().any(|said| said.kind == DhcpMessageType::Discover));
}
