//! smoltcp's own sockets as the peer: an implementation that shares nothing with ours but the formats.

mod common;

use common::*;
use net::device::{Capabilities, Device, Fault, FaultPlan, Pair, PairEnd, TxMeta};
use net::{Bind, Endpoint, Error, Ready, Shard, TcpFlags};
use platform::time::{Instant, MILLISECOND};
use smoltcp::iface::{Config as PeerConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpCidr};

/// A [`PairEnd`] behind faults, as smoltcp wants a device.
struct PeerDevice(Fault<PairEnd>);

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut Fault<PairEnd>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        let _ = self.0.transmit(len, TxMeta::default(), &mut |slot| slot.copy_from_slice(&frame));
        result
    }
}

impl phy::Device for PeerDevice {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        let mut frame = None;
        self.0.receive(1, &mut |batch| frame = Some(batch[0].bytes.to_vec()));
        frame.map(|frame| (Rx(frame), Tx(&mut self.0)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = 1514;
        capabilities.medium = Medium::Ethernet;
        capabilities
    }
}

struct Match {
    shard: Shard,
    device: Fault<PairEnd>,
    peer: Interface,
    peer_device: PeerDevice,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    now: Instant,
}

impl Match {
    fn new(plan: FaultPlan, seed: u64) -> Match {
        let (left, right) = Pair::new(Capabilities::plain(1500), 4096);
        let mut peer_device = PeerDevice(Fault::new(right, plan, seed));
        let start = smoltcp::time::Instant::from_millis(1000);
        let hardware = EthernetAddress([2, 0, 0, 0, 0, 2]);
        let mut peer = Interface::new(PeerConfig::new(hardware.into()), &mut peer_device, start);
        peer.update_ip_addrs(|addrs| {
            addrs.push(IpCidr::new(SERVER.into(), if V6 { 64 } else { 24 })).unwrap()
        });
        let mut sockets = SocketSet::new(vec![]);
        let buffer = || tcp::SocketBuffer::new(vec![0; 30_000]);
        let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Match {
            shard: Shard::new(config(CLIENT, 1)),
            device: Fault::new(left, plan, seed + 1),
            peer,
            peer_device,
            sockets,
            handle,
            now: Instant(1000 * MILLISECOND),
        }
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// One millisecond.
    fn tick(&mut self) {
        self.now = self.now.after(MILLISECOND);
        self.device.set_now(self.now);
        self.peer_device.0.set_now(self.now);
        self.shard.poll(self.now, &mut self.device);
        let now = smoltcp::time::Instant::from_millis((self.now.0 / MILLISECOND) as i64);
        self.peer.poll(now, &mut self.peer_device, &mut self.sockets);
    }

    /// An echo over `id`: every byte sent comes back.
    fn echo(&mut self, id: net::SocketId, total: usize) {
        let data = pattern(0, total);
        let (mut sent, mut got) = (0, 0);
        for _ in 0..600_000 {
            if sent < total {
                sent += self.shard.tcp_send(id, &data[sent..], TcpFlags::empty()).unwrap_or(0);
            }
            self.tick();
            let socket = self.socket();
            while socket.can_recv() && socket.can_send() {
                let room = (socket.send_capacity() - socket.send_queue()).min(2000);
                let bytes =
                    socket.recv(|bytes| (bytes.len().min(room), bytes[..bytes.len().min(room)].to_vec()));
                assert!(socket.send_slice(&bytes.unwrap()).unwrap() > 0);
            }
            self.tick();
            let back = drain(&mut self.shard, id);
            assert!(back == data[got..got + back.len()], "wrong bytes at {got}");
            got += back.len();
            if got == total {
                return;
            }
        }
        panic!("{got} of {total}");
    }

    fn finish(&mut self, id: net::SocketId) {
        self.shard.close(id);
        for _ in 0..30_000 {
            self.tick();
            if self.socket().state() == tcp::State::CloseWait {
                self.socket().close();
            }
            if self.shard.counts()[0] == 0 && self.socket().state() == tcp::State::Closed {
                return;
            }
        }
        panic!("{:?} {}", self.shard.counts(), self.socket().state());
    }
}

fn check(plan: FaultPlan, total: usize) {
    for seed in [11, 22] {
        // We call.
        let mut game = Match::new(plan, seed);
        game.socket().listen(80).unwrap();
        let id = game.shard.tcp_open().unwrap();
        let to = Endpoint::new(SERVER, 80);
        assert_eq!(game.shard.tcp_connect(id, to, game.now), Err(Error::InProgress));
        for _ in 0..30_000 {
            game.tick();
            if game.shard.ready(id).contains(Ready::WRITABLE) {
                break;
            }
        }
        game.echo(id, total);
        game.finish(id);
        // We are called.
        let mut game = Match::new(plan, seed + 100);
        let listener = game.shard.tcp_open().unwrap();
        game.shard.tcp_bind(listener, Endpoint::new(CLIENT, 80), Bind::default()).unwrap();
        game.shard.tcp_listen(listener, 4).unwrap();
        let handle = game.handle;
        let context = game.peer.context();
        game.sockets.get_mut::<tcp::Socket<'_>>(handle).connect(context, (CLIENT, 80), 5000).unwrap();
        let id = (0..30_000)
            .find_map(|_| {
                game.tick();
                game.shard.tcp_accept(listener).ok()
            })
            .unwrap()
            .0;
        game.echo(id, total);
        game.shard.close(listener);
        game.finish(id);
    }
}

#[test]
fn agrees_on_a_clean_path() {
    check(FaultPlan::default(), 300_000);
}

#[test]
fn agrees_on_a_bad_path() {
    let plan = FaultPlan {
        loss: 20_000,
        duplicate: 20_000,
        reorder: 50_000,
        corrupt: 10_000,
        delay: 2_000_000,
        jitter: 4_000_000,
        ..FaultPlan::default()
    };
    check(plan, 40_000);
}
