//! Two engines and the clock in the hands of a test.
//!
//! A test file whose name ends in `6` includes its brother, and everything runs over IPv6.
// Each test file compiles it for itself and uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::new_without_default)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::device::{Capabilities, Fault, FaultPlan, Pair, PairEnd};
use net::{Bind, Config, Endpoint, Error, Shard, SocketId, TcpFlags};
use platform::time::{Instant, MILLISECOND};

/// The test file's name ends in `6`.
pub const V6: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), [.., b'6']);
pub const CLIENT: IpAddr = host(1);
pub const SERVER: IpAddr = host(2);
/// Bytes of the IP header.
pub const IP: usize = if V6 { 40 } else { 20 };
/// What fits into a packet of 1,500 bytes behind the headers of IP and TCP.
pub const MSS: usize = 1480 - IP;

const fn host(last: u8) -> IpAddr {
    if V6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last as u16))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }
}

pub struct World {
    pub client: Shard,
    pub server: Shard,
    pub client_device: Fault<PairEnd>,
    pub server_device: Fault<PairEnd>,
    pub now: Instant,
}

pub fn config(addr: IpAddr, last: u8) -> Config {
    Config::new([2, 0, 0, 0, 0, last], [last; 32]).address(addr, if V6 { 64 } else { 24 })
}

impl World {
    pub fn new() -> World {
        World::with(FaultPlan::default(), 1, |_, _| ())
    }

    pub fn with(plan: FaultPlan, seed: u64, change: impl FnOnce(&mut Config, &mut Config)) -> World {
        World::build(plan, seed, Capabilities::plain(1500), change)
    }

    pub fn build(
        plan: FaultPlan,
        seed: u64,
        capabilities: Capabilities,
        change: impl FnOnce(&mut Config, &mut Config),
    ) -> World {
        let (mut a, mut b) = (config(CLIENT, 1), config(SERVER, 2));
        change(&mut a, &mut b);
        let (left, right) = Pair::new(capabilities, 4096);
        World {
            client: Shard::new(a),
            server: Shard::new(b),
            client_device: Fault::new(left, plan, seed),
            server_device: Fault::new(right, plan, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            now: Instant(1_000_000 * MILLISECOND),
        }
    }

    /// Polls both ends at the present time.
    pub fn poll(&mut self) {
        self.client_device.set_now(self.now);
        self.server_device.set_now(self.now);
        self.client.poll(self.now, &mut self.client_device);
        self.server.poll(self.now, &mut self.server_device);
    }

    /// Nothing is left to do at the present time.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.poll();
            self.client_device.pump();
            self.server_device.pump();
            if self.next().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("does not settle");
    }

    /// The next time at which something happens.
    pub fn next(&self) -> Option<Instant> {
        let all = [
            self.client.deadline(),
            self.server.deadline(),
            self.client_device.deadline(),
            self.server_device.deadline(),
        ];
        all.into_iter().flatten().min()
    }

    /// Jumps to the next deadline. `false` if there is none.
    pub fn step(&mut self) -> bool {
        self.settle();
        match self.next() {
            Some(at) => {
                self.now = self.now.max(at);
                self.settle();
                true
            }
            None => false,
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.after(ms * MILLISECOND);
        self.settle();
        while self.next().is_some_and(|at| at <= end) {
            self.now = self.now.max(self.next().unwrap());
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    pub fn listen(&mut self, port: u16, backlog: usize) -> SocketId {
        let id = self.server.tcp_open().unwrap();
        self.server.tcp_bind(id, Endpoint::new(SERVER, port), Bind::default()).unwrap();
        self.server.tcp_listen(id, backlog).unwrap();
        id
    }

    pub fn connect(&mut self, port: u16) -> SocketId {
        let id = self.client.tcp_open().unwrap();
        assert_eq!(
            self.client.tcp_connect(id, Endpoint::new(SERVER, port), self.now),
            Err(Error::InProgress)
        );
        id
    }

    /// An established connection: client's socket, server's socket.
    pub fn established(&mut self) -> (SocketId, SocketId) {
        let listener = self.listen(80, 16);
        let client = self.connect(80);
        for _ in 0..200 {
            self.settle();
            if let Ok((server, _)) = self.server.tcp_accept(listener) {
                return (client, server);
            }
            self.step();
        }
        panic!("not established");
    }

    pub fn send_all(&mut self, id: SocketId, data: &[u8]) {
        assert_eq!(self.client.tcp_send(id, data, TcpFlags::empty()), Ok(data.len()));
    }

    pub fn server_recv(&mut self, id: SocketId) -> Vec<u8> {
        drain(&mut self.server, id)
    }

    pub fn client_recv(&mut self, id: SocketId) -> Vec<u8> {
        drain(&mut self.client, id)
    }
}

/// Everything that can be read now.
pub fn drain(shard: &mut Shard, id: SocketId) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = shard.tcp_recv(id, &mut buffer, TcpFlags::empty()) {
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

/// Bytes that are the same wherever they are made.
pub fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 23) as u8).collect()
}

/// Moves `total` bytes from `from` to `to`, checking each; returns the virtual milliseconds it took.
pub fn transfer(world: &mut World, from: SocketId, to: SocketId, total: usize) -> u64 {
    let begin = world.now;
    let (mut sent, mut received) = (0, 0);
    let data = pattern(0, total);
    let mut idle = 0;
    while received < total {
        let before = (sent, received);
        while sent < total {
            match world.client.tcp_send(from, &data[sent..(sent + 30_000).min(total)], TcpFlags::empty()) {
                Ok(count) => sent += count,
                Err(Error::WouldBlock) => break,
                Err(other) => panic!("send: {other:?} after {sent}"),
            }
        }
        world.settle();
        let got = world.server_recv(to);
        assert!(got == data[received..received + got.len()], "wrong bytes at {received}");
        received += got.len();
        idle = if before == (sent, received) { idle + 1 } else { 0 };
        assert!(idle < 2000, "no progress at {received} of {total}");
        world.settle();
        if before == (sent, received) {
            assert!(world.step(), "nothing is going to happen at {received} of {total}");
        }
    }
    (world.now.0 - begin.0) / MILLISECOND
}

/// A TCP segment as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: String,
    pub window: u16,
    pub payload: Vec<u8>,
    pub options: Vec<u8>,
    pub urgent: u16,
    /// The packet's type of service.
    pub tos: u8,
}

/// Reads a frame; `None` if it is not TCP.
pub fn see(frame: &[u8]) -> Option<Seen> {
    use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket};
    let (protocol, src, dst, payload): (u8, IpAddress, IpAddress, &[u8]) = match frame.get(12..14)? {
        [8, 0] => {
            let ip = Ipv4Packet::new_checked(&frame[14..]).ok()?;
            assert!(ip.verify_checksum());
            (
                ip.next_header().into(),
                ip.src_addr().into(),
                ip.dst_addr().into(),
                &frame[34..14 + ip.total_len() as usize],
            )
        }
        [0x86, 0xdd] => {
            let ip = Ipv6Packet::new_checked(&frame[14..]).ok()?;
            (
                ip.next_header().into(),
                ip.src_addr().into(),
                ip.dst_addr().into(),
                &frame[54..14 + ip.total_len()],
            )
        }
        _ => return None,
    };
    if protocol != 6 {
        return None;
    }
    let tcp = TcpPacket::new_checked(payload).ok()?;
    assert!(tcp.verify_checksum(&src, &dst));
    let mut flags = String::new();
    // FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, as RFC 9293 section 3.1 orders the bits.
    let bits = payload[13];
    for (bit, name) in [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (16, 'A'), (32, 'U'), (64, 'E'), (128, 'W')] {
        let on = bits & bit != 0;
        if on {
            flags.push(name);
        }
    }
    Some(Seen {
        src_port: tcp.src_port(),
        dst_port: tcp.dst_port(),
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack_number().0 as u32,
        flags,
        window: tcp.window_len(),
        payload: tcp.payload().to_vec(),
        options: tcp.options().to_vec(),
        urgent: u16::from_be_bytes([payload[18], payload[19]]),
        tos: frame[15],
    })
}

/// Writes the header of a packet with `len` bytes behind it.
pub fn ip_header(
    bytes: &mut [u8],
    len: usize,
    protocol: smoltcp::wire::IpProtocol,
    src: IpAddr,
    dst: IpAddr,
    tos: u8,
) {
    use smoltcp::wire::{Ipv4Packet, Ipv6Packet};
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = Ipv4Packet::new_unchecked(bytes);
            ip.set_version(4);
            ip.set_header_len(20);
            ip.set_total_len((20 + len) as u16);
            ip.set_hop_limit(64);
            ip.set_next_header(protocol);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
            ip.set_dscp(tos >> 2);
            ip.set_ecn(tos & 3);
            ip.fill_checksum();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = Ipv6Packet::new_unchecked(bytes);
            ip.set_version(6);
            ip.set_payload_len(len as u16);
            ip.set_hop_limit(64);
            ip.set_next_header(protocol);
            ip.set_src_addr(src);
            ip.set_dst_addr(dst);
            ip.set_traffic_class(tos);
        }
        _ => panic!("one family"),
    }
}

/// One engine, with the test as its peer, segment by segment.
pub struct Script {
    pub shard: Shard,
    pub device: PairEnd,
    pub peer: PairEnd,
    pub now: Instant,
    /// Type of service of what the peer sends from now on, and its urgent pointer.
    pub tos: u8,
    pub urgent: u16,
}

impl Script {
    pub fn new(change: impl FnOnce(&mut Config)) -> Script {
        let mut config = config(SERVER, 2);
        config.peer_mac = Some([2, 0, 0, 0, 0, 1]);
        change(&mut config);
        let (device, peer) = Pair::new(Capabilities::plain(1500), 4096);
        Script {
            shard: Shard::new(config),
            device,
            peer,
            now: Instant(1_000_000 * MILLISECOND),
            tos: 0,
            urgent: 0,
        }
    }

    /// Polls, and returns the segments that came out.
    pub fn poll(&mut self) -> Vec<Seen> {
        for _ in 0..3 {
            self.shard.poll(self.now, &mut self.device);
        }
        std::iter::from_fn(|| self.peer.take()).filter_map(|frame| see(&frame)).collect()
    }

    /// Lets time pass and returns what came out.
    pub fn pass(&mut self, ms: u64) -> Vec<Seen> {
        let end = self.now.after(ms * MILLISECOND);
        let mut all = self.poll();
        while let Some(at) = self.shard.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            all.extend(self.poll());
        }
        self.now = end;
        all.extend(self.poll());
        all
    }

    /// Sends a segment from the client's `src_port` to our port 80 and returns the answers.
    pub fn segment(&mut self, src_port: u16, flags: &str, seq: u32, ack: u32, payload: &[u8]) -> Vec<Seen> {
        self.segment_with(src_port, flags, seq, ack, 65_535, payload, &[])
    }

    pub fn segment_with(
        &mut self,
        src_port: u16,
        flags: &str,
        seq: u32,
        ack: u32,
        window: u16,
        payload: &[u8],
        options: &[u8],
    ) -> Vec<Seen> {
        self.inject(src_port, 80, flags, seq, ack, window, payload, options);
        self.poll()
    }

    pub fn inject(
        &mut self,
        src_port: u16,
        dst_port: u16,
        flags: &str,
        seq: u32,
        ack: u32,
        window: u16,
        payload: &[u8],
        options: &[u8],
    ) {
        use smoltcp::wire::{IpProtocol, TcpPacket, TcpSeqNumber};
        let header = 20 + options.len();
        let mut frame = vec![0; 14 + IP + header + payload.len()];
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        frame[12..14].copy_from_slice(if V6 { &[0x86, 0xdd] } else { &[8, 0] });
        ip_header(&mut frame[14..], header + payload.len(), IpProtocol::Tcp, CLIENT, SERVER, self.tos);
        let mut tcp = TcpPacket::new_unchecked(&mut frame[14 + IP..]);
        tcp.set_src_port(src_port);
        tcp.set_dst_port(dst_port);
        tcp.set_seq_number(TcpSeqNumber(seq as i32));
        tcp.set_ack_number(TcpSeqNumber(ack as i32));
        tcp.set_header_len(header as u8);
        tcp.set_window_len(window);
        tcp.set_syn(flags.contains('S'));
        tcp.set_fin(flags.contains('F'));
        tcp.set_rst(flags.contains('R'));
        tcp.set_psh(flags.contains('P'));
        tcp.set_ack(flags.contains('A'));
        tcp.set_urg(flags.contains('U'));
        tcp.set_ece(flags.contains('E'));
        tcp.set_cwr(flags.contains('W'));
        tcp.set_urgent_at(self.urgent);
        tcp.options_mut().copy_from_slice(options);
        tcp.payload_mut().copy_from_slice(payload);
        tcp.fill_checksum(&CLIENT.into(), &SERVER.into());
        self.peer.inject(&frame);
    }

    pub fn listen(&mut self, backlog: usize) -> SocketId {
        let id = self.shard.tcp_open().unwrap();
        self.shard.tcp_bind(id, Endpoint::new(SERVER, 80), Bind::default()).unwrap();
        self.shard.tcp_listen(id, backlog).unwrap();
        id
    }

    /// A connection from port 5000 whose next number is 1001; returns it and our next number.
    pub fn established(&mut self) -> (SocketId, u32) {
        let listener = self.listen(4);
        let answer = self.segment(5000, "S", 1000, 0, b"");
        assert_eq!(answer[0].flags, "SA");
        let ours = answer[0].seq.wrapping_add(1);
        assert!(self.segment(5000, "A", 1001, ours, b"").is_empty());
        (self.shard.tcp_accept(listener).unwrap().0, ours)
    }
}

/// ICMP "fragmentation needed" or "packet too big" about our segment at `seq`.
pub fn too_big(script: &mut Script, seq: u32, mtu: u16) -> Vec<Seen> {
    use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, IpProtocol};
    let mut frame = vec![0; 14 + IP + 8 + IP + 8];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(if V6 { &[0x86, 0xdd] } else { &[8, 0] });
    let protocol = if V6 { IpProtocol::Icmpv6 } else { IpProtocol::Icmp };
    ip_header(&mut frame[14..], 8 + IP + 8, protocol, CLIENT, SERVER, 0);
    let (kind, code) = if V6 { (2, 0) } else { (3, 4) };
    let at = 14 + IP;
    frame[at..at + 8].copy_from_slice(&[kind, code, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8]);
    let quoted = at + 8;
    ip_header(&mut frame[quoted..], 1500 - IP, IpProtocol::Tcp, SERVER, CLIENT, 0);
    let ports = quoted + IP;
    frame[ports..ports + 2].copy_from_slice(&80u16.to_be_bytes());
    frame[ports + 2..ports + 4].copy_from_slice(&5000u16.to_be_bytes());
    frame[ports + 4..ports + 8].copy_from_slice(&seq.to_be_bytes());
    match (CLIENT, SERVER) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Icmpv6Packet::new_unchecked(&mut frame[at..]).fill_checksum(&src, &dst);
        }
        _ => Icmpv4Packet::new_unchecked(&mut frame[at..]).fill_checksum(),
    }
    script.peer.inject(&frame);
    script.poll()
}
