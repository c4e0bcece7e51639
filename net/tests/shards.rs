//! Several shards of one guest, driven by one thread: where flows are, what is passed on, what counts together.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use net::device::{Capabilities, Device, Pair, PairEnd, RxFrame};
use net::ring::{Inbox, RecordKind, Sender, inbox};
use net::{
    Backlog, Bind, Cidr, Config, Endpoint, Error, HOME, Place, RawProtocol, Ready, RouteEntry, Shard,
    SocketId, Steering, TcpFlags,
};
use platform::time::Instant;
use std::sync::Arc;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// A host of several shards.
struct Host {
    shards: Vec<Shard>,
    mail: Vec<(Sender, Inbox)>,
    steering: Steering,
    device: PairEnd,
    said: u64,
}

/// A listener with its places.
struct Listener {
    places: Vec<SocketId>,
    backlog: Arc<Backlog>,
}

impl Host {
    fn new(config: &Config, shards: usize, device: PairEnd) -> Host {
        let shards = Shard::group(config, shards);
        let steering = shards[HOME].steering();
        let mail = shards.iter().map(|_| inbox()).map(|(sender, inbox, _)| (sender, inbox)).collect();
        Host { shards, mail, steering, device, said: 0 }
    }

    /// One round of a vCPU that serves all shards. Whether anything came.
    fn poll(&mut self, now: Instant) -> bool {
        if self.shards[HOME].control_version() != self.said {
            self.said = self.shards[HOME].control_version();
            let control = self.shards[HOME].control();
            self.shards.iter_mut().skip(1).for_each(|shard| shard.adopt(&control));
        }
        let Host { shards, mail, steering, device, .. } = self;
        let mut came = device.receive(64, &mut |frames: &[RxFrame<'_>]| {
            for frame in frames {
                let mut post = |to: usize, kind| mail[to].0.push(kind, frame.all(), frame.checksum_ok);
                match steering.frame(frame.bytes) {
                    Place::Shard(shard) => {
                        post(shard, RecordKind::Frame);
                    }
                    place => {
                        post(HOME, RecordKind::Frame);
                        for shard in 1..shards.len() {
                            if place == Place::All || place == Place::HomeAnd(shard) {
                                post(shard, RecordKind::News);
                            }
                        }
                    }
                }
            }
        }) != 0;
        for (number, shard) in shards.iter_mut().enumerate() {
            mail[number].0.publish();
            came |= shard.take_inbox(now, &mut mail[number].1) != 0;
            shard.advance(now, device);
            while let Some(stray) = shard.next_stray() {
                assert_ne!(stray.to, number);
                mail[stray.to].0.push(stray.kind, &stray.bytes, false);
                mail[stray.to].0.publish();
                came = true;
            }
        }
        came
    }

    fn listen(&mut self, port: u16, backlog: usize) -> Listener {
        let main = self.shards[HOME].tcp_open().unwrap();
        let any = Endpoint::new(Ipv4Addr::UNSPECIFIED, port);
        self.shards[HOME].tcp_bind(main, any, Bind::default()).unwrap();
        self.shards[HOME].tcp_listen(main, backlog).unwrap();
        let (copy, backlog) = self.shards[HOME].tcp_share_listener(main).unwrap();
        let place = |shard: &mut Shard| shard.tcp_place_listener(&copy).unwrap();
        let places = [main].into_iter().chain(self.shards[1..].iter_mut().map(place)).collect();
        Listener { places, backlog }
    }

    fn accept(&mut self, listener: &Listener) -> Option<(SocketId, Endpoint)> {
        listener.places.iter().find_map(|place| self.shards[place.shard()].tcp_accept(*place).ok())
    }

    fn of(&mut self, id: SocketId) -> &mut Shard {
        &mut self.shards[id.shard()]
    }
}

struct World {
    server: Host,
    client: Host,
    now: u64,
}

impl World {
    fn new(shards: [usize; 2]) -> World {
        World::with(shards, |_| ())
    }

    fn with([server, client]: [usize; 2], change: impl Fn(&mut Config)) -> World {
        let (a, b) = Pair::new(Capabilities::plain(1500), 4096);
        let config = |addr, number| {
            let mut config = Config::new([2, 0, 0, 0, 0, number], [number; 32]).address(addr, 24);
            change(&mut config);
            config
        };
        let server = Host::new(&config(SERVER, 1), server, a);
        let client = Host::new(&config(CLIENT, 2), client, b);
        World { server, client, now: 1_000_000_000 }
    }

    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..1000 {
            self.now += 1000;
            let now = Instant(self.now);
            let came = self.server.poll(now) | self.client.poll(now);
            // What was sent in a round comes in the next.
            quiet = if came { 0 } else { quiet + 1 };
            if quiet == 2 {
                return;
            }
        }
        panic!("it never ends");
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += 1_000_000;
            self.settle();
        }
    }

    /// So many connections from the client's first shard.
    fn crowd(&mut self, count: usize, port: u16) -> Vec<SocketId> {
        (0..count).map(|_| self.connect(0, port).unwrap()).collect()
    }

    /// A connection from shard `shard` of the client.
    fn connect(&mut self, shard: usize, port: u16) -> Result<SocketId, Error> {
        let now = Instant(self.now);
        let id = self.client.shards[shard].tcp_open().unwrap();
        match self.client.shards[shard].tcp_connect(id, Endpoint::new(SERVER, port), now) {
            Err(Error::InProgress) => Ok(id),
            other => {
                self.client.shards[shard].close(id);
                other.map(|()| id)
            }
        }
    }
}

#[test]
fn flows_spread_and_stay_where_their_hash_is() {
    let mut world = World::new([3, 2]);
    let listener = world.server.listen(80, 128);
    let sockets: Vec<_> = (0..64).map(|i| world.connect(i % 2, 80).unwrap()).collect();
    world.settle();
    let mut shards = HashSet::new();
    let mut accepted = 0;
    assert_eq!(listener.backlog.all_ready(), 64);
    while let Some((id, peer)) = world.server.accept(&listener) {
        shards.insert(id.shard());
        assert_eq!(id.shard(), world.server.steering.flow((SERVER, 80), (peer.addr, peer.port)));
        assert_eq!(world.server.of(id).tcp_send(id, &peer.port.to_be_bytes(), TcpFlags::empty()), Ok(2));
        accepted += 1;
    }
    assert_eq!((accepted, shards.len(), listener.backlog.all_ready()), (64, 3, 0));
    world.settle();
    for id in sockets {
        let mut bytes = [0; 2];
        let port = world.client.of(id).local(id).port;
        assert_eq!(world.client.of(id).tcp_recv(id, &mut bytes, TcpFlags::empty()), Ok(2));
        assert_eq!(u16::from_be_bytes(bytes), port);
    }
    let packets: Vec<u64> = world.server.shards.iter().map(Shard::packets).collect();
    assert!(packets.iter().all(|packets| *packets > 20), "{packets:?}");
}

#[test]
fn a_backlog_counts_over_all_shards() {
    let mut world = World::new([4, 1]);
    let listener = world.server.listen(80, 7);
    world.crowd(32, 80);
    world.settle();
    // Linux: one more than was asked for.
    assert_eq!(listener.backlog.all_ready(), 8);
    assert_eq!(std::iter::from_fn(|| world.server.accept(&listener)).count(), 8);
    assert_eq!(listener.backlog.all_ready(), 0);
}

#[test]
fn a_closed_listener_resets_what_waited_in_any_shard() {
    let mut world = World::new([3, 1]);
    let listener = world.server.listen(80, 64);
    let sockets = world.crowd(24, 80);
    world.settle();
    for place in listener.places.iter().rev() {
        world.server.of(*place).close(*place);
    }
    world.settle();
    for id in sockets {
        assert_eq!(world.client.of(id).take_error(id), Some(Error::Reset));
    }
    assert!(!world.server.shards[HOME].is_port_used(false, 80));
    let again = world.server.listen(80, 64);
    assert_eq!(again.places.len(), 3);
}

#[test]
fn loopback_flows_have_both_ends_in_one_shard() {
    let mut world = World::new([4, 1]);
    let listener = world.server.listen(80, 64);
    let mut seen = HashSet::new();
    for shard in 0..4 {
        for _ in 0..4 {
            let id = world.server.shards[shard].tcp_open().unwrap();
            let to = Endpoint::new(Ipv4Addr::LOCALHOST, 80);
            let begun = world.server.shards[shard].tcp_connect(id, to, Instant(world.now));
            assert_eq!(begun, Err(Error::InProgress));
            world.settle();
            let (other, _) = world.server.accept(&listener).unwrap();
            assert_eq!(other.shard(), shard);
            seen.insert(shard);
        }
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_bound_socket_moves_to_its_flow() {
    let mut world = World::new([1, 4]);
    let listener = world.server.listen(80, 128);
    let mut shards = HashSet::new();
    for port in 5000..5032 {
        let mut id = world.client.shards[0].tcp_open().unwrap();
        let local = Endpoint::new(CLIENT, port);
        world.client.shards[0].tcp_bind(id, local, Bind::default()).unwrap();
        let to = Endpoint::new(SERVER, 80);
        let shard = world.client.shards[0].tcp_belongs(id, to).unwrap();
        if shard != 0 {
            let detached = world.client.shards[0].tcp_detach(id).unwrap();
            assert_eq!(world.client.shards[0].take_error(id), None, "the old name means nothing");
            id = world.client.shards[shard].tcp_attach(detached);
        }
        let taken = world.client.shards[1].tcp_open().unwrap();
        let refused = world.client.shards[1].tcp_bind(taken, local, Bind::default());
        assert_eq!(refused, Err(Error::AddressInUse), "ports are one table");
        let begun = world.client.of(id).tcp_connect(id, to, Instant(world.now));
        assert_eq!(begun, Err(Error::InProgress));
        world.settle();
        assert!(world.client.of(id).ready(id).contains(Ready::WRITABLE), "port {port}");
        let (_, peer) = world.server.accept(&listener).unwrap();
        assert_eq!(peer, local);
        shards.insert(shard);
        world.client.of(id).tcp_abort(id);
        world.settle();
        assert!(!world.client.shards[0].is_port_used(false, port), "the port is free again");
    }
    assert_eq!(shards.len(), 4);
}

#[test]
fn ports_are_used_up_by_all_shards_together() {
    let mut world = World::with([1, 2], |config| config.ephemeral = (40_000, 40_015));
    world.server.listen(80, 128);
    let mut count = [0; 2];
    for (shard, count) in count.iter_mut().enumerate() {
        while world.connect(shard, 80).is_ok() {
            *count += 1;
        }
        assert_eq!(world.connect(shard, 80), Err(Error::AddressUnavailable));
    }
    assert!(count[0] + count[1] == 16 && count[0] > 0 && count[1] > 0, "{count:?}");
    // Another destination, another sixteen.
    assert!(world.connect(0, 81).is_ok());
}

#[test]
fn what_home_learns_the_others_know() {
    let mut world = World::new([2, 1]);
    let listener = world.server.listen(80, 64);
    let extra: IpAddr = "10.9.9.1".parse().unwrap();
    world.server.shards[HOME].add_address(Cidr { address: extra, prefix: 24 });
    world.settle();
    assert_eq!(world.server.shards[1].addresses(), world.server.shards[HOME].addresses());
    let via = RouteEntry {
        prefix: Cidr { address: extra, prefix: 24 },
        via: Some(SERVER),
        metric: 0,
        expires_ms: 0,
    };
    let mut config = Config::new([2, 0, 0, 0, 0, 9], [9; 32]).address(CLIENT, 24);
    config.routes.push(via);
    world.client.shards[HOME] = Shard::new(config);
    let mut shards = HashSet::new();
    for _ in 0..24 {
        let id = world.client.shards[0].tcp_open().unwrap();
        let _ = world.client.shards[0].tcp_connect(id, Endpoint::new(extra, 80), Instant(world.now));
        world.settle();
        let (id, _) = world.server.accept(&listener).expect("the address is every shard's");
        shards.insert(id.shard());
    }
    assert_eq!(shards.len(), 2);
    world.server.shards[HOME].remove_address(extra);
    world.settle();
    assert_eq!(world.server.shards[1].addresses(), world.server.shards[HOME].addresses());
}

#[test]
fn raw_sockets_see_segments_of_all_shards() {
    let mut world = World::new([3, 1]);
    let listener = world.server.listen(80, 64);
    let raw = world.server.shards[HOME].raw_open(RawProtocol::Ip(6)).unwrap();
    world.settle();
    world.crowd(24, 80);
    world.settle();
    assert_eq!(std::iter::from_fn(|| world.server.accept(&listener)).count(), 24);
    let mut ports = HashSet::new();
    let mut take = |packet: &[u8], _| ports.insert(u16::from_be_bytes([packet[20], packet[21]]));
    while world.server.shards[HOME].raw_recv_with(raw, false, &mut take).is_ok() {}
    assert_eq!(ports.len(), 24);
    world.server.shards[HOME].close(raw);
    world.settle();
    world.connect(0, 80).unwrap();
    world.settle();
    assert!(world.server.accept(&listener).is_some());
}

/// A sender that cuts segments: the home shard puts them together and passes them on.
#[test]
fn fragments_of_segments_find_their_shard() {
    let mut world = World::new([4, 1]);
    let listener = world.server.listen(80, 64);
    let sockets = world.crowd(12, 80);
    world.settle();
    let accepted: Vec<_> = std::iter::from_fn(|| world.server.accept(&listener)).collect();
    assert_eq!(accepted.len(), 12);
    for id in &sockets {
        world.client.of(*id).tcp_send(*id, &[7; 1000], TcpFlags::empty()).unwrap();
    }
    let now = Instant(world.now);
    world.client.poll(now);
    let mut frames = Vec::new();
    while let Some(frame) = world.server.device.take() {
        frames.push(frame);
    }
    for frame in frames {
        for piece in cut(&frame) {
            world.client.device.inject(&piece);
        }
    }
    world.settle();
    for (id, _) in accepted {
        let mut bytes = [0; 2000];
        assert_eq!(world.server.of(id).tcp_recv(id, &mut bytes, TcpFlags::empty()), Ok(1000), "{id:?}");
    }
}

/// An IPv4 frame in two fragments.
fn cut(frame: &[u8]) -> Vec<Vec<u8>> {
    let (head, body) = frame.split_at(34);
    let at = body.len() / 2 / 8 * 8;
    if frame[12..14] != [8, 0] || at == 0 {
        return vec![frame.to_vec()];
    }
    let piece = |bytes: &[u8], offset: usize, more: u16| {
        let mut piece = [head, bytes].concat();
        piece[16..18].copy_from_slice(&(20 + bytes.len() as u16).to_be_bytes());
        piece[20..22].copy_from_slice(&((offset as u16 / 8) | (more << 13)).to_be_bytes());
        piece[24..26].fill(0);
        let sum = piece[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        piece[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        piece
    };
    vec![piece(&body[..at], 0, 1), piece(&body[at..], at, 0)]
}

#[test]
fn a_path_that_shrinks_is_told_to_the_flows_shard() {
    let mut world = World::new([4, 1]);
    let listener = world.server.listen(80, 64);
    world.crowd(16, 80);
    world.settle();
    let accepted: Vec<_> = std::iter::from_fn(|| world.server.accept(&listener)).collect();
    let mut shards = HashSet::new();
    for &(id, _) in &accepted {
        shards.insert(id.shard());
        world.server.of(id).tcp_send(id, &[1; 4000], TcpFlags::empty()).unwrap();
    }
    assert!(shards.len() > 2);
    // Each segment meets a router that carries 1000 bytes.
    world.now += 1000;
    let now = Instant(world.now);
    world.server.poll(now);
    let mut frames = Vec::new();
    while let Some(frame) = world.client.device.take() {
        frames.push(frame);
    }
    for frame in frames.iter().filter(|frame| frame.len() > 1014) {
        world.client.device.inject(&too_big(frame, 1000));
    }
    world.settle();
    for (id, _) in accepted {
        assert_eq!(world.server.of(id).tcp_info(id).unwrap().path_mtu, 1000, "{id:?}");
    }
}

/// "Fragmentation needed" about a frame.
fn too_big(frame: &[u8], mtu: u16) -> Vec<u8> {
    let mut icmp = vec![3, 4, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8];
    icmp.extend_from_slice(&frame[14..42]);
    let sum = |bytes: &[u8]| {
        let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
        let sum: u32 = words.sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    };
    let check = sum(&icmp);
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    let mut ip = vec![0x45, 0, 0, (20 + icmp.len()) as u8, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 77];
    ip.extend_from_slice(&frame[26..30]);
    let check = sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    [&frame[6..12], &frame[..6], &[8, 0], &ip, &icmp].concat()
}

#[test]
fn neighbours_are_found_by_each_shard() {
    let mut world = World::new([1, 4]);
    let listener = world.server.listen(80, 64);
    for shard in 0..4 {
        let id = world.connect(shard, 80).unwrap();
        world.pass(2);
        assert!(world.client.of(id).ready(id).contains(Ready::WRITABLE), "shard {shard}");
    }
    assert_eq!(std::iter::from_fn(|| world.server.accept(&listener)).count(), 4);
}

#[test]
fn what_one_shard_found_out_no_other_asks_again() {
    let mut world = World::new([1, 4]);
    world.server.listen(80, 64);
    world.connect(2, 80).unwrap();
    world.pass(2);
    let mac = |shard: usize| world.client.shards[shard].neighbors_v4().first().and_then(|(_, mac, _)| *mac);
    assert!((0..4).all(|shard| mac(shard).is_some() && mac(shard) == mac(2)));
}
