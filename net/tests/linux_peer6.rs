//! The Linux kernel as the peer over IPv6: neighbours, streams, fragments, pings, routers, groups.
//!
//! Machinery and rules are those of `linux_peer.rs`.

mod common;
mod linux;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread::spawn;
use std::time::Duration;

use linux::World;
use linux::namespace::inside;
use net::device::FaultPlan;
use net::{Bind, Endpoint, Error, Ipv6Mode, RawProtocol, Ready, UdpOption};
use platform::time::now;

const LINUX6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);
const ENGINE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 7);

/// Each name is a test of the function of that name in `case`.
macro_rules! cases {
    ($($name:ident)*) => { $(#[test] fn $name() { inside(stringify!($name), case::$name); })* };
}

cases! { streams_both_ways large_datagrams port_unreachable pings_both_ways a_router_gives_an_address groups }

fn world() -> World {
    let mut world = World::with(FaultPlan::default(), 1, 1500, |config| {
        *config = config.clone().address(ENGINE6.into(), 64);
    });
    world.tap.add_v6(LINUX6, 64);
    // Linux takes a moment, even where it tests nothing.
    while UdpSocket::bind((LINUX6, 0)).is_err() {
        world.pass(5);
    }
    world
}

fn patient(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
}

mod case {
    use super::*;

    pub(super) fn streams_both_ways() {
        let mut world = world();
        let server = TcpListener::bind((LINUX6, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let data = pattern(300_000);
        let reader = spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let id = world.shard.tcp_open().unwrap();
        assert_eq!(world.shard.tcp_connect(id, Endpoint::new(LINUX6, port), now()), Err(Error::InProgress));
        world.wait(id, Ready::WRITABLE);
        world.send_all(id, &data).unwrap();
        world.shard.close(id);
        assert!(world.join(reader) == data);
        // And the other way, to a listener that takes both families.
        let listener = world.shard.tcp_open().unwrap();
        let any = Endpoint::new(Ipv6Addr::UNSPECIFIED, 80);
        world.shard.tcp_bind(listener, any, Bind::default()).unwrap();
        world.shard.tcp_listen(listener, 4).unwrap();
        for target in [ENGINE6.into(), std::net::IpAddr::V4(linux::ENGINE)] {
            let writer = spawn(move || {
                let mut stream = TcpStream::connect((target, 80)).unwrap();
                stream.write_all(&pattern(300_000)).unwrap();
            });
            world.wait(listener, Ready::READABLE);
            let (id, _) = world.shard.tcp_accept(listener).unwrap();
            assert!(world.recv_to_end(id).unwrap() == data);
            assert_eq!(world.shard.local(id).addr, target);
            world.shard.close(id);
            world.join(writer);
        }
    }

    pub(super) fn large_datagrams() {
        let mut world = world();
        let server = patient(UdpSocket::bind((LINUX6, 0)).unwrap());
        let port = server.local_addr().unwrap().port();
        let sizes = [1, 1452, 1453, 9_000, 60_000, 65_527];
        let echo = spawn(move || {
            for _ in sizes {
                let mut buffer = vec![0; 70_000];
                let (count, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..count], from).unwrap();
            }
        });
        let id = world.shard.udp_open().unwrap();
        world.shard.udp_connect(id, Some(Endpoint::new(LINUX6, port))).unwrap();
        let mut buffer = vec![0; 70_000];
        for size in sizes {
            world.shard.udp_send(id, &[&pattern(size)], None, None).unwrap();
            world.wait(id, Ready::READABLE);
            let about = world.shard.udp_recv(id, &mut buffer, false).unwrap();
            assert!(about.len == size && buffer[..size] == pattern(size), "{size}");
        }
        world.join(echo);
    }

    pub(super) fn port_unreachable() {
        let mut world = world();
        let id = world.shard.udp_open().unwrap();
        world.shard.udp_set(id, UdpOption::ReceiveErrors(true)).unwrap();
        world.shard.udp_connect(id, Some(Endpoint::new(LINUX6, 9))).unwrap();
        world.shard.udp_send(id, &[b"x"], None, None).unwrap();
        world.wait(id, Ready::ERROR);
        let queued = world.shard.udp_take_queued_error(id).unwrap();
        assert_eq!((queued.error, queued.icmp, &queued.data[..]), (Error::Refused, Some((1, 4)), &b"x"[..]));
        assert_eq!(queued.offender, Some(LINUX6.into()));
        // Ours, heard by a kernel socket.
        let asker = spawn(|| {
            let socket = patient(UdpSocket::bind((LINUX6, 0)).unwrap());
            socket.connect((ENGINE6, 9)).unwrap();
            socket.send(b"x").unwrap();
            socket.recv(&mut [0; 8]).unwrap_err().kind()
        });
        assert_eq!(world.join(asker), std::io::ErrorKind::ConnectionRefused);
    }

    fn icmp(kind: i32) -> UdpSocket {
        // SAFETY: a new descriptor, which the socket owns from here on.
        let fd = unsafe { libc::socket(libc::AF_INET6, kind | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMPV6) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: as above.
        patient(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    }

    pub(super) fn pings_both_ways() {
        let mut world = world();
        let asker = spawn(|| {
            let socket = icmp(libc::SOCK_RAW);
            let request = [&[128, 0, 0, 0, 0x12, 0x34, 0, 7][..], &pattern(2_000)].concat();
            socket.send_to(&request, SocketAddrV6::new(ENGINE6, 0, 0, 0)).unwrap();
            loop {
                let mut buffer = vec![0; 4_000];
                let (count, from) = socket.recv_from(&mut buffer).unwrap();
                if buffer[0] == 129 && from.ip() == ENGINE6 {
                    return buffer[..count]
                        == [&[129, 0, buffer[2], buffer[3], 0x12, 0x34, 0, 7][..], &pattern(2_000)].concat();
                }
            }
        });
        assert!(world.join(asker));
        let ping = world.shard.raw_open(RawProtocol::Ping6).unwrap();
        let request = [&[128, 0, 0, 0, 0, 0, 0, 1][..], &pattern(3_000)].concat();
        world.shard.raw_send(ping, &request, Endpoint::new(LINUX6, 0)).unwrap();
        world.wait(ping, Ready::READABLE);
        let mut buffer = vec![0; 4_000];
        let about = world.shard.raw_recv(ping, &mut buffer, false).unwrap();
        assert!(about.len == 3_008 && buffer[8..3_008] == pattern(3_000) && about.from.addr == LINUX6);
    }

    /// A router advertisement of the test's own, sent by the kernel.
    pub(super) fn a_router_gives_an_address() {
        let mut world = World::with(FaultPlan::default(), 1, 1500, |config| config.ipv6 = Ipv6Mode::Auto);
        let network = |last: u16| Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, last);
        world.tap.add_v6(network(1), 64);
        world.pass(100);
        let router = icmp(libc::SOCK_RAW);
        let hops: i32 = 255;
        linux::kernel::set(&router, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, hops);
        // SAFETY: a name of ours, ending in zero.
        let index = unsafe { libc::if_nametoindex(c"peer0".as_ptr()) };
        let mut advert = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        // MTU 1400, then the prefix: on the link, autonomous, an hour and half an hour.
        advert.extend_from_slice(&[5, 1, 0, 0, 0, 0, 5, 120]);
        advert.extend_from_slice(&[3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 7, 8, 0, 0, 0, 0]);
        advert.extend_from_slice(&network(0).octets());
        let all = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        for _ in 0..100 {
            // The kernel's link-local address may still be tested.
            if router.send_to(&advert, all).is_ok() {
                world.pass(20);
            }
            if world.shard.addresses().1.iter().any(|own| own.autoconfigured) {
                break;
            }
            world.pass(50);
        }
        let own = *world.shard.addresses().1.iter().find(|own| own.autoconfigured).expect("an address");
        assert_eq!(own.addr.segments()[..4], network(0).segments()[..4]);
        assert!(world.shard.routes().any(|route| route.prefix.prefix == 0 && route.via.is_some()));
        // It works: from there, with segments that fit the link's new size.
        let server = patient(UdpSocket::bind((network(1), 0)).unwrap());
        let id = world.shard.udp_open().unwrap();
        world
            .shard
            .udp_connect(id, Some(Endpoint::new(network(1), server.local_addr().unwrap().port())))
            .unwrap();
        world.shard.udp_send(id, &[b"hello"], None, None).unwrap();
        let heard = spawn(move || server.recv_from(&mut [0; 8]).unwrap().1.ip());
        assert_eq!(world.join(heard), own.addr);
        assert_eq!(world.shard.path_mtu(network(1).into()), 1400);
    }

    pub(super) fn groups() {
        let mut world = world();
        let id = world.shard.udp_open().unwrap();
        world.shard.udp_bind(id, Endpoint::new(Ipv6Addr::UNSPECIFIED, 53), Bind::default()).unwrap();
        world.shard.udp_set(id, UdpOption::Join { group: GROUP.into(), lo: false }).unwrap();
        world.pass(50);
        // SAFETY: a name of ours, ending in zero.
        let index = unsafe { libc::if_nametoindex(c"peer0".as_ptr()) };
        let socket = patient(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 54)).unwrap());
        linux::kernel::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, index as i32);
        socket.join_multicast_v6(&GROUP, index).unwrap();
        socket.send_to(b"from linux", SocketAddrV6::new(GROUP, 53, 0, index)).unwrap();
        world.wait(id, Ready::READABLE);
        let mut buffer = [0; 32];
        let about = world.shard.udp_recv(id, &mut buffer, false).unwrap();
        assert_eq!((&buffer[..about.len], about.to.addr), (&b"from linux"[..], GROUP.into()));
        world.shard.udp_send(id, &[b"from us"], Some(Endpoint::new(GROUP, 54)), None).unwrap();
        let heard = spawn(move || {
            let mut buffer = [0; 32];
            let (count, _) = socket.recv_from(&mut buffer).unwrap();
            buffer[..count].to_vec()
        });
        assert_eq!(world.join(heard), b"from us");
    }
}
