//! The Linux kernel as the peer, over a TAP device in a network namespace of the test's own: the implementation
//! that nearly everybody at the other end of a connection runs.
//!
//! Each test is a process of its own (`linux/namespace.rs`). Real time; bytes checked everywhere. Needs /dev/net/tun
//! and leave to make namespaces; without them root's run fails and another user's says that nothing was tested.
//! `NET_LINUX_PEER_SEED=n` chooses other faults on the bad paths.

mod common;
mod linux;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown as Half, TcpStream, UdpSocket};
use std::thread::{sleep, spawn};
use std::time::Duration;

use common::pattern;
use linux::kernel;
use linux::namespace::inside;
use linux::{ENGINE, Echo, LINUX, MAC, World};
use net::device::FaultPlan;
use net::{
    Bind, EarlyFailure, Endpoint, Error, FastOpen, RawProtocol, Ready, Shutdown, SocketId, TcpFlags,
    TcpOption, TcpState, UdpOption,
};
use platform::time::{MILLISECOND, now};

const MIB: usize = 1 << 20;

/// Each name is a test of the function of that name in `case`.
macro_rules! cases {
    ($($name:ident)*) => { $(#[test] fn $name() { inside(stringify!($name), case::$name); })* };
}

cases! {
    bulk_as_server bulk_as_client bulk_one_way bulk_without_options bulk_with_ecn_and_fast_open
    small_mtu_there small_mtu_here small_mtu_on_both_sides
    many_short_connections_as_server many_short_connections_as_client more_callers_than_backlog
    fast_open_by_linux fast_open_by_engine
    half_close_by_linux half_close_by_engine reset_by_linux reset_by_engine refused
    zero_window_of_engine zero_window_of_linux keep_alive_of_linux keep_alive_of_engine
    port_again_after_our_time_wait port_again_after_their_time_wait simultaneous_open urgent_byte_in_line
    urgent_byte_out_of_band
    ping_from_linux ping_from_engine udp_both_ways udp_port_unreachable
    arp_is_answered_and_asked linux_changes_its_hardware_address
    bad_path_as_server bad_path_as_client bad_path_short_connections bad_path_half_close bad_path_zero_window
}

mod case {
    use super::*;

    pub(super) fn bulk_as_server() {
        serve_bulk(World::new(), 2, 2 * MIB);
    }

    pub(super) fn bulk_as_client() {
        call_bulk(World::new(), 2, 2 * MIB);
    }

    pub(super) fn bulk_one_way() {
        let mut world = World::new();
        let (listener, port) = kernel::listen();
        let total = 4 * MIB;
        let reader = spawn(move || {
            let stream = kernel::accept(&listener);
            kernel::expect(&stream, 0, total);
            kernel::expect_end(&stream);
            stream
        });
        let id = world.connect(port);
        world.send_all(id, &pattern(0, total)).unwrap();
        world.shard.tcp_shutdown(id, Shutdown::Write).unwrap();
        let mut stream = world.join(reader);
        let writer = spawn(move || stream.write_all(&pattern(7, total)).unwrap());
        assert!(world.recv_to_end(id).unwrap() == pattern(7, total));
        world.join(writer);
        world.shard.close(id);
        world.drained(0);
    }

    pub(super) fn bulk_without_options() {
        for name in ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"] {
            kernel::sysctl(name, "0");
        }
        serve_bulk(World::new(), 2, MIB);
    }

    pub(super) fn bulk_with_ecn_and_fast_open() {
        kernel::sysctl("tcp_ecn", "1");
        kernel::sysctl("tcp_fastopen", "3");
        let mut world = World::new();
        let listener = world.listen(80, 16);
        let client = spawn(|| {
            for _ in 0..3 {
                let fd = kernel::bound(0);
                kernel::set(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
                let stream = kernel::connect_bound(fd, 80).unwrap();
                kernel::ask_echo(&stream, 0, 100_000);
            }
        });
        let mut echo = Echo::default();
        echo.until(&mut world, Some(listener), client);
        assert_eq!((echo.closed, echo.failed), (3, vec![]));
    }

    /// RFC 7413 with the kernel as client: it asks for our cookie, then brings its request along in the SYN, and has the
    /// answer before it has acknowledged our SYN-ACK.
    pub(super) fn fast_open_by_linux() {
        kernel::sysctl("tcp_fastopen", "3");
        let mut world =
            World::with(FaultPlan::default(), 1, 1500, |config| config.fast_open = FastOpen::SERVER);
        let listener = world.listen(80, 16);
        world.shard.tcp_set(listener, TcpOption::FastOpen(8)).unwrap();
        for round in 0..4 {
            let client = spawn(|| {
                let fd = kernel::bound(0);
                kernel::set(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
                let mut stream = kernel::connect_bound(fd, 80).unwrap();
                stream.write_all(&pattern(0, 5000)).unwrap();
                kernel::expect(&stream, 5000, 9000);
                kernel::expect_end(&stream);
            });
            let id = world.accept(listener);
            let early = world.shard.tcp_info(id).unwrap().syn_data;
            assert_eq!(early, round > 0, "round {round}");
            if early {
                assert!(world.shard.ready(id).contains(Ready::READABLE), "with the SYN");
            }
            assert_eq!(world.recv_exact(id, 5000), pattern(0, 5000));
            world.send_all(id, &pattern(5000, 9000)).unwrap();
            world.shard.tcp_shutdown(id, Shutdown::Write).unwrap();
            world.join(client);
            assert_eq!(world.recv_to_end(id), Ok(vec![]));
            world.shard.close(id);
        }
        let counted = world.shard.counters().tcp;
        assert_eq!((counted.fast_open_passive, counted.fast_open_cookies), (3, 1));
    }

    /// And with the kernel as server.
    pub(super) fn fast_open_by_engine() {
        kernel::sysctl("tcp_fastopen", "3");
        let mut world =
            World::with(FaultPlan::default(), 1, 1500, |config| config.fast_open = FastOpen::CLIENT);
        let (listener, port) = kernel::listen();
        kernel::set(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 8);
        for round in 0..4 {
            let server = listener.try_clone().unwrap();
            let server = spawn(move || {
                let mut stream = kernel::accept(&server);
                kernel::expect(&stream, 0, 6000);
                stream.write_all(&pattern(6000, 6000)).unwrap();
            });
            let (id, data) = (world.shard.tcp_open().unwrap(), pattern(0, 6000));
            let mut at = 0;
            let mut fill = |piece: &mut [u8]| {
                let count = piece.len().min(data.len() - at);
                piece[..count].copy_from_slice(&data[at..at + count]);
                at += count;
                count
            };
            let to = Endpoint::new(LINUX, port);
            let count = world.shard.tcp_connect_early(id, to, now(), 6000, &mut fill).unwrap();
            assert_eq!(count > 1000, round > 0, "{count} bytes in round {round}");
            world.wait(id, Ready::WRITABLE | Ready::ERROR);
            let info = world.shard.tcp_info(id).unwrap();
            assert_eq!((info.syn_data, info.early_failure == EarlyFailure::None), (round > 0, round > 0));
            world.send_all(id, &data[count..]).unwrap();
            assert_eq!(world.recv_to_end(id).unwrap(), pattern(6000, 6000));
            world.join(server);
            world.shard.close(id);
        }
        assert_eq!(world.shard.counters().tcp.fast_open_active, 3);
    }

    pub(super) fn small_mtu_there() {
        let world = World::with(FaultPlan::default(), 1, 576, |_| ());
        serve_bulk(world, 1, MIB / 2);
    }

    pub(super) fn small_mtu_here() {
        let world = World::with(FaultPlan::default(), 1, 1500, |config| config.mtu = 576);
        call_bulk(world, 1, MIB / 2);
    }

    pub(super) fn small_mtu_on_both_sides() {
        let mut world = World::with(FaultPlan::default(), 1, 576, |config| config.mtu = 576);
        let server = udp_echo_server(2);
        let id = udp_to(&mut world, server.1);
        for (at, len) in [5000, 1473].into_iter().enumerate() {
            // In fragments, both ways.
            world.shard.udp_send(id, &[&pattern(at, len)], None, None).unwrap();
            assert_eq!(udp_next(&mut world, id).unwrap(), pattern(at, len));
        }
        world.join(server.0);
        call_bulk(world, 2, MIB / 4);
    }

    pub(super) fn many_short_connections_as_server() {
        short_connections(World::new(), 4, 100);
    }

    pub(super) fn many_short_connections_as_client() {
        let mut world = World::new();
        let (listener, port) = kernel::listen();
        let (threads, each) = (2, 100);
        let servers: Vec<_> = (0..threads)
            .map(|_| {
                let listener = listener.try_clone().unwrap();
                spawn(move || {
                    for at in 0..each {
                        let mut stream = kernel::accept(&listener);
                        kernel::expect(&stream, 3, 64);
                        stream.write_all(&pattern(5, 900)).unwrap();
                        // Every other time the engine ends first.
                        if at % 2 == 0 {
                            drop(stream);
                        } else {
                            kernel::expect_end(&stream);
                        }
                    }
                })
            })
            .collect();
        for _ in 0..threads * each {
            let id = world.connect(port);
            world.send_all(id, &pattern(3, 64)).unwrap();
            assert_eq!(world.recv_exact(id, 900), pattern(5, 900));
            world.shard.close(id);
        }
        for server in servers {
            world.join(server);
        }
        world.drained(0);
    }

    pub(super) fn more_callers_than_backlog() {
        let mut world = World::new();
        let listener = world.listen(80, 2);
        let callers: Vec<_> =
            (0..8).map(|_| spawn(|| kernel::ask_echo(&kernel::connect(80), 1, 5000))).collect();
        world.pass(500);
        let mut echo = Echo::default();
        for caller in callers {
            // Linux resends its SYN after a second and more: everybody gets through once we accept.
            while let Ok((id, _)) = world.shard.tcp_accept(listener) {
                echo.add(&mut world, id);
            }
            echo.until(&mut world, Some(listener), caller);
        }
        assert_eq!((echo.closed, echo.failed), (8, vec![]));
    }

    pub(super) fn half_close_by_linux() {
        half_close_there(World::new(), 300_000);
    }

    pub(super) fn half_close_by_engine() {
        half_close_here(World::new(), 300_000);
    }

    pub(super) fn reset_by_linux() {
        let mut world = World::new();
        let listener = world.listen(80, 4);
        // By lingering 0, and because data was left unread.
        for unread in [false, true] {
            let client = spawn(move || {
                let mut stream = kernel::connect(80);
                stream.write_all(&pattern(0, 10)).unwrap();
                stream.read_exact(&mut [0; 5]).unwrap();
                if !unread {
                    stream.read_exact(&mut [0; 5]).unwrap();
                    kernel::reset_on_close(&stream);
                }
            });
            let id = world.accept(listener);
            assert_eq!(world.recv_exact(id, 10), pattern(0, 10));
            world.send_all(id, &pattern(0, 10)).unwrap();
            world.join(client);
            let ready = world.wait(id, Ready::ERROR);
            assert!(ready.contains(Ready::READABLE | Ready::HANGUP), "{ready:?}");
            assert_eq!(world.recv(id, &mut [0; 10]), Err(Error::Reset));
            assert_eq!(world.recv(id, &mut [0; 10]), Ok(0));
            assert_eq!(world.send_all(id, b"x"), Err(Error::Closed));
            world.shard.close(id);
        }
        world.drained(1);
    }

    pub(super) fn reset_by_engine() {
        let mut world = World::new();
        let listener = world.listen(80, 4);
        for way in 0..4 {
            let client = spawn(move || {
                let mut stream = kernel::connect(80);
                stream.write_all(&pattern(0, 10)).unwrap();
                let error = stream.read(&mut [0; 10]).expect_err("a reset");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            });
            let id = world.accept(listener);
            world.wait_data(id, 10);
            match way {
                0 => world.shard.tcp_abort(id),
                // Unread data.
                1 => world.shard.close(id),
                2 => {
                    assert_eq!(world.recv_exact(id, 10).len(), 10);
                    world.shard.tcp_set(id, TcpOption::Linger(Some(0))).unwrap();
                    world.shard.close(id);
                }
                // With data of ours that has not been sent.
                _ => {
                    let _ = world.shard.tcp_send(id, &[1; 50_000], net::TcpFlags::empty());
                    world.shard.tcp_abort(id);
                }
            }
            world.join(client);
        }
        // And a connection that still waits to be accepted.
        let client = spawn(|| {
            let mut stream = kernel::connect(80);
            assert_eq!(stream.read(&mut [0; 10]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
        });
        world.wait(listener, Ready::READABLE);
        // Later than connect(2) returns there: it would report the reset itself.
        world.pass(50);
        world.shard.close(listener);
        world.join(client);
        world.drained(0);
    }

    pub(super) fn refused() {
        let mut world = World::new();
        let client = spawn(|| TcpStream::connect((ENGINE, 81)).expect_err("nobody listens").kind());
        assert_eq!(world.join(client), ErrorKind::ConnectionRefused);
        let (listener, port) = kernel::listen();
        drop(listener);
        assert_eq!(world.connect_from(0, port), Err(Error::Refused));
        world.drained(0);
    }

    pub(super) fn zero_window_of_engine() {
        our_zero_window(World::new(), 3 * MIB, 1500);
    }

    pub(super) fn zero_window_of_linux() {
        their_zero_window(World::new(), 2 * MIB, 1500);
    }

    pub(super) fn keep_alive_of_linux() {
        let mut world = World::new();
        let listener = world.listen(80, 4);
        let client = spawn(|| {
            let stream = kernel::connect(80);
            for (name, value) in [(libc::TCP_KEEPIDLE, 1), (libc::TCP_KEEPINTVL, 1), (libc::TCP_KEEPCNT, 1)] {
                kernel::set(&stream, libc::IPPROTO_TCP, name, value);
            }
            kernel::set(&stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
            // Without an answer it would be dead after two seconds.
            sleep(Duration::from_millis(3500));
            kernel::ask_echo(&stream, 0, 10_000);
        });
        let mut echo = Echo::default();
        echo.until(&mut world, Some(listener), client);
        assert_eq!((echo.closed, echo.failed), (1, vec![]));
    }

    pub(super) fn keep_alive_of_engine() {
        let mut world = World::new();
        let (server, port) = kernel::echo_server(1);
        let id = world.connect(port);
        for option in [
            TcpOption::KeepIdle(1000),
            TcpOption::KeepInterval(1000),
            TcpOption::KeepCount(2),
            TcpOption::KeepAlive(true),
        ] {
            world.shard.tcp_set(id, option).unwrap();
        }
        world.pass(3500);
        assert_eq!(world.shard.tcp_info(id).unwrap().probes, 0);
        world.send_all(id, &pattern(0, 1000)).unwrap();
        assert_eq!(world.recv_exact(id, 1000), pattern(0, 1000));
        // Now the path is cut.
        world.set_plan(FaultPlan { loss: 1_000_000, ..FaultPlan::default() });
        let begin = now();
        assert_eq!(world.recv(id, &mut [0; 10]), Err(Error::TimedOut));
        let took = now().since(begin) / MILLISECOND;
        assert!((2900..3400).contains(&took), "{took} ms");
        world.shard.close(id);
        world.drained(0);
        drop(server);
    }

    pub(super) fn port_again_after_our_time_wait() {
        let mut world = World::new();
        let listener = world.listen(80, 4);
        let client = spawn(|| {
            for _ in 0..10 {
                let stream = again(5555);
                kernel::expect(&stream, 9, 500);
                // The engine ended first: the port is ours at once, and in TIME-WAIT there.
                kernel::expect_end(&stream);
            }
        });
        for _ in 0..10 {
            let id = world.accept(listener);
            world.send_all(id, &pattern(9, 500)).unwrap();
            world.shard.close(id);
        }
        world.join(client);
    }

    pub(super) fn port_again_after_their_time_wait() {
        let mut world = World::new();
        let (listener, port) = kernel::listen();
        let server = spawn(move || {
            for _ in 0..10 {
                let mut stream = kernel::accept(&listener);
                stream.write_all(&pattern(9, 500)).unwrap();
                stream.shutdown(Half::Write).unwrap();
                kernel::expect_end(&stream);
            }
        });
        for _ in 0..10 {
            let id = world.connect_from(5555, port).expect("accepted again");
            assert_eq!(world.recv_to_end(id).unwrap(), pattern(9, 500));
            world.shard.close(id);
            world.drained(0);
        }
        world.join(server);
    }

    pub(super) fn simultaneous_open() {
        let plan = FaultPlan { delay: 100 * MILLISECOND, ..FaultPlan::default() };
        let mut world = World::with(plan, 1, 1500, |_| ());
        // Both know each other's hardware address before.
        let server = udp_echo_server(1);
        let id = udp_to(&mut world, server.1);
        world.shard.udp_send(id, &[b"hello"], None, None).unwrap();
        assert_eq!(udp_next(&mut world, id).unwrap(), b"hello");
        world.join(server.0);
        let fd = kernel::bound(6001);
        let client = spawn(move || {
            let stream = kernel::connect_bound(fd, 6002).expect("simultaneous open");
            kernel::ask_echo(&stream, 0, 20_000);
        });
        sleep(Duration::from_millis(20));
        let id = world.connect_from(6002, 6001).expect("simultaneous open");
        let mut echo = Echo::default();
        echo.add(&mut world, id);
        echo.until(&mut world, None, client);
        while echo.closed == 0 {
            world.step();
            echo.turn(&mut world, None);
        }
        assert_eq!(echo.failed, vec![]);
    }

    /// Linux sends "ab", an urgent "c", "de".
    fn urgent_from_linux() {
        use std::os::fd::AsRawFd;
        let mut stream = kernel::connect(80);
        stream.write_all(b"ab").unwrap();
        // SAFETY: one byte that lives long enough.
        let sent = unsafe { libc::send(stream.as_raw_fd(), b"c".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        stream.write_all(b"de").unwrap();
    }

    pub(super) fn urgent_byte_in_line() {
        let mut world = World::new();
        let listener = world.listen(80, 4);
        world.shard.tcp_set(listener, TcpOption::UrgentInline(true)).unwrap();
        let client = spawn(urgent_from_linux);
        let id = world.accept(listener);
        world.join(client);
        assert_eq!(world.recv_to_end(id).unwrap(), b"abcde");
    }

    pub(super) fn urgent_byte_out_of_band() {
        let mut world = World::new();
        let listener = world.listen(80, 4);
        let client = spawn(urgent_from_linux);
        let id = world.accept(listener);
        world.join(client);
        // What Linux has sent may still be on its way.
        world.pass(100);
        let mut buffer = [0; 8];
        assert_eq!(world.shard.tcp_recv(id, &mut buffer, TcpFlags::empty()), Ok(2), "up to the mark");
        assert_eq!(world.shard.tcp_recv_urgent(id, false), Ok(Some(b'c')));
        assert_eq!(world.recv_to_end(id).unwrap(), b"de");
    }

    pub(super) fn ping_from_linux() {
        let mut world = World::new();
        let pinger = spawn(|| {
            let socket = kernel::icmp();
            // The last two in fragments.
            for (sequence, len) in [0, 1, 56, 1472, 1473, 8000].into_iter().enumerate() {
                let request = kernel::echo_request(sequence as u16, &pattern(len, len));
                socket.send(&request).unwrap();
                let mut buffer = vec![0; 20_000];
                let count = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{len}: {error}"));
                let reply = &buffer[20..count];
                assert_eq!(reply[..2], [0, 0]);
                assert!(reply[4..] == request[4..], "{len}");
            }
        });
        world.join(pinger);
    }

    pub(super) fn ping_from_engine() {
        let mut world = World::new();
        let id = world.shard.raw_open(RawProtocol::Ping).unwrap();
        for len in [0, 56, 1472, 3000] {
            let request = kernel::echo_request(len as u16, &pattern(len, len));
            world.shard.raw_send(id, &request, Endpoint::new(LINUX, 0)).unwrap();
            let mut buffer = vec![0; 20_000];
            let about = loop {
                match world.shard.raw_recv(id, &mut buffer, false) {
                    Err(Error::WouldBlock) => drop(world.wait(id, Ready::READABLE)),
                    about => break about.unwrap(),
                }
            };
            assert_eq!((about.len, about.from.addr), (8 + len, LINUX.into()));
            assert!(buffer[6..about.len] == request[6..], "{len}");
        }
    }

    pub(super) fn udp_both_ways() {
        let mut world = World::new();
        // The engine asks.
        let lens = [0, 1, 1472, 1473, 20_000, 65_507];
        let server = udp_echo_server(lens.len());
        let id = udp_to(&mut world, server.1);
        for len in lens {
            world.shard.udp_send(id, &[&pattern(len, len)], None, None).unwrap();
            assert!(udp_next(&mut world, id).unwrap() == pattern(len, len), "{len}");
        }
        world.join(server.0);
        // Linux asks.
        let id = world.shard.udp_open().unwrap();
        world.shard.udp_bind(id, Endpoint::new(ENGINE, 53), Bind::default()).unwrap();
        let client = spawn(move || {
            let socket = UdpSocket::bind((LINUX, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.connect((ENGINE, 53)).unwrap();
            for len in lens {
                socket.send(&pattern(len, len)).unwrap();
                let mut buffer = vec![0; 70_000];
                let count = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{len}: {error}"));
                assert!(buffer[..count] == pattern(len, len), "{len}");
            }
        });
        let mut buffer = vec![0; 70_000];
        for _ in lens {
            let about = loop {
                match world.shard.udp_recv(id, &mut buffer, false) {
                    Err(Error::WouldBlock) => drop(world.wait(id, Ready::READABLE)),
                    about => break about.unwrap(),
                }
            };
            assert_eq!((about.from.addr, about.to.port, about.hop_limit), (LINUX.into(), 53, 64));
            world.shard.udp_send(id, &[&buffer[..about.len]], Some(about.from), None).unwrap();
        }
        world.join(client);
        // To everybody on the link.
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let everybody = UdpSocket::bind(("10.9.0.255", port)).unwrap();
        everybody.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = Endpoint::new(std::net::Ipv4Addr::new(10, 9, 0, 255), port);
        assert_eq!(world.shard.udp_send(id, &[b"all"], Some(to), None), Err(Error::Prohibited));
        world.shard.udp_set(id, UdpOption::Broadcast(true)).unwrap();
        world.shard.udp_send(id, &[b"all"], Some(to), None).unwrap();
        world.pass(20);
        assert_eq!(everybody.recv(&mut [0; 10]).unwrap(), 3);
    }

    pub(super) fn udp_port_unreachable() {
        let mut world = World::new();
        let client = spawn(|| {
            let socket = UdpSocket::bind((LINUX, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.connect((ENGINE, 99)).unwrap();
            socket.send(b"anybody?").unwrap();
            socket.recv(&mut [0; 10]).expect_err("nobody").kind()
        });
        assert_eq!(world.join(client), ErrorKind::ConnectionRefused);
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        let id = udp_to(&mut world, socket.local_addr().unwrap().port());
        drop(socket);
        world.shard.udp_send(id, &[b"anybody?"], None, None).unwrap();
        assert_eq!(udp_next(&mut world, id), Err(Error::Refused));
    }

    pub(super) fn arp_is_answered_and_asked() {
        let mut world = World::new();
        let client = spawn(|| TcpStream::connect((ENGINE, 81)).expect_err("nobody listens").kind());
        assert_eq!(world.join(client), ErrorKind::ConnectionRefused);
        let table = std::fs::read_to_string("/proc/net/arp").unwrap();
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        let line = table.lines().find(|line| line.starts_with("10.9.0.2 ")).expect("an entry");
        assert!(line.contains(&mac), "{table}");
        // Nobody has this address: both ends find out.
        let absent = std::net::Ipv4Addr::new(10, 9, 0, 77);
        let client = spawn(move || TcpStream::connect((absent, 81)).expect_err("no such host").kind());
        let id = world.shard.tcp_open().unwrap();
        let _ = world.shard.tcp_connect(id, Endpoint::new(absent, 80), now());
        world.wait(id, Ready::ERROR);
        assert_eq!(world.shard.take_error(id), Some(Error::HostUnreachable));
        assert_eq!(world.join(client), ErrorKind::HostUnreachable);
    }

    pub(super) fn linux_changes_its_hardware_address() {
        let mut world = World::new();
        let listener = world.listen(80, 4);
        let client = spawn(|| kernel::connect(80));
        let id = world.accept(listener);
        let stream = world.join(client);
        world.send_all(id, b"before").unwrap();
        let mut buffer = [0; 6];
        world.pass(20);
        (&stream).read_exact(&mut buffer).unwrap();
        world.tap.set_mac([2, 0, 0, 0, 9, 99]);
        // What the kernel says next comes from the new address, after a question about ours.
        (&stream).write_all(b"I moved").unwrap();
        assert_eq!(world.recv_exact(id, 7), b"I moved");
        world.send_all(id, b"after.").unwrap();
        let reader = spawn(move || (&stream).read_exact(&mut [0; 6]).unwrap());
        world.join(reader);
    }

    pub(super) fn bad_path_as_server() {
        serve_bulk(World::bad(11), 3, MIB / 4);
        faults_struck();
    }

    pub(super) fn bad_path_as_client() {
        assert_ne!(call_bulk(World::bad(12), 3, MIB / 4), 0);
        faults_struck();
    }

    pub(super) fn bad_path_short_connections() {
        short_connections(World::bad(13), 6, 15);
    }

    pub(super) fn bad_path_half_close() {
        half_close_there(World::bad(14), 100_000);
        // The device of the first world is gone with it.
        half_close_here(World::bad(15), 100_000);
    }

    pub(super) fn bad_path_zero_window() {
        our_zero_window(World::bad(16), MIB / 2, 600);
        their_zero_window(World::bad(17), MIB / 2, 600);
    }
}

impl World {
    /// Waits until so many bytes can be read, and reads none.
    fn wait_data(&mut self, id: SocketId, len: usize) {
        while (self.shard.tcp_info(id).unwrap().receive_queue as usize) < len {
            self.step();
        }
    }
}

/// `count` connections from the kernel at a time, echoing.
fn serve_bulk(mut world: World, count: usize, total: usize) {
    let listener = world.listen(80, 16);
    let clients = spawn(move || {
        let clients: Vec<_> =
            (0..count).map(|at| spawn(move || kernel::ask_echo(&kernel::connect(80), at, total))).collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    let mut echo = Echo::default();
    echo.until(&mut world, Some(listener), clients);
    assert_eq!((echo.closed, &echo.failed), (count, &vec![]));
    world.drained(1);
}

/// The same with the kernel as the server, one after the other.
fn call_bulk(mut world: World, count: usize, total: usize) -> u32 {
    let (server, port) = kernel::echo_server(count);
    let mut retransmits = 0;
    for at in 0..count {
        let id = world.connect(port);
        let data = pattern(at, total);
        let (mut sent, mut got, mut buffer) = (0, 0, vec![0; 60_000]);
        while got < total {
            if sent < total {
                match world.shard.tcp_send(id, &data[sent..], net::TcpFlags::empty()) {
                    Ok(count) => sent += count,
                    Err(Error::WouldBlock) => {}
                    Err(error) => panic!("{error:?} after {sent}"),
                }
            }
            match world.shard.tcp_recv(id, &mut buffer, net::TcpFlags::empty()) {
                Ok(count) => {
                    assert!(buffer[..count] == data[got..got + count], "wrong bytes at {got}");
                    assert_ne!(count, 0, "the end after {got}");
                    got += count;
                }
                Err(Error::WouldBlock) => drop(world.wait(id, Ready::READABLE | Ready::WRITABLE)),
                Err(error) => panic!("{error:?} after {got}"),
            }
        }
        world.shard.tcp_shutdown(id, Shutdown::Write).unwrap();
        assert_eq!(world.recv(id, &mut buffer), Ok(0));
        retransmits += world.shard.tcp_info(id).unwrap().total_retransmits;
        world.shard.close(id);
    }
    world.join(server);
    world.drained(0);
    retransmits
}

/// The kernel has seen loss and damage: the faults are real.
fn faults_struck() {
    assert_ne!(kernel::counter("RetransSegs"), 0);
    assert_ne!(kernel::counter("InCsumErrors"), 0);
}

/// Requests and replies, each on a connection of its own; either end closes first.
fn short_connections(mut world: World, threads: usize, each: usize) {
    let listener = world.listen(80, 128);
    let clients = spawn(move || {
        let client = move || {
            for at in 0..each {
                let stream = kernel::connect(80);
                if at % 2 == 0 {
                    kernel::ask_echo(&stream, at, 900);
                } else {
                    (&stream).write_all(&pattern(at, 64)).unwrap();
                    kernel::expect(&stream, at, 64);
                }
            }
        };
        let clients: Vec<_> = (0..threads).map(|_| spawn(client)).collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    let mut echo = Echo::default();
    echo.until(&mut world, Some(listener), clients);
    while world.shard.counts()[0] > 1 {
        world.step();
        echo.turn(&mut world, Some(listener));
    }
    assert_eq!((echo.closed, echo.failed), (threads * each, vec![]));
}

/// The kernel ends its direction, then gets `total` bytes.
fn half_close_there(mut world: World, total: usize) {
    let listener = world.listen(80, 4);
    let client = spawn(move || {
        let mut stream = kernel::connect(80);
        stream.write_all(&pattern(1, 1000)).unwrap();
        stream.shutdown(Half::Write).unwrap();
        kernel::expect(&stream, 2, total);
        kernel::expect_end(&stream);
    });
    let id = world.accept(listener);
    assert_eq!(world.recv_to_end(id).unwrap(), pattern(1, 1000));
    assert!(world.shard.ready(id).contains(Ready::PEER_CLOSED));
    assert_eq!(world.shard.tcp_info(id).unwrap().state, TcpState::CloseWait);
    // Nobody hurries.
    world.pass(300);
    world.send_all(id, &pattern(2, total)).unwrap();
    world.shard.close(id);
    world.join(client);
    world.drained(1);
}

/// The engine ends its direction, then gets `total` bytes.
fn half_close_here(mut world: World, total: usize) {
    let (listener, port) = kernel::listen();
    let server = spawn(move || {
        let mut stream = kernel::accept(&listener);
        kernel::expect(&stream, 1, 1000);
        kernel::expect_end(&stream);
        sleep(Duration::from_millis(300));
        stream.write_all(&pattern(2, total)).unwrap();
    });
    let id = world.connect(port);
    world.send_all(id, &pattern(1, 1000)).unwrap();
    world.shard.tcp_shutdown(id, Shutdown::Write).unwrap();
    assert_eq!(world.send_all(id, b"x"), Err(Error::Closed));
    assert!(world.recv_to_end(id).unwrap() == pattern(2, total));
    let ready = world.shard.ready(id);
    assert!(ready.contains(Ready::PEER_CLOSED | Ready::HANGUP), "{ready:?}");
    world.shard.close(id);
    world.join(server);
    world.drained(0);
}

/// The engine does not read until the kernel cannot write any more.
fn our_zero_window(mut world: World, total: usize, ms: u64) {
    let listener = world.listen(80, 4);
    world.shard.tcp_set(listener, TcpOption::ReceiveBuffer(20_000)).unwrap();
    let client = spawn(move || {
        let mut stream = kernel::connect(80);
        kernel::set(&stream, libc::SOL_SOCKET, libc::SO_SNDBUF, 50_000);
        stream.write_all(&pattern(4, total)).unwrap();
    });
    let id = world.accept(listener);
    let mut all = Vec::new();
    for _ in 0..2 {
        world.pass(ms);
        let info = world.shard.tcp_info(id).unwrap();
        assert!(info.receive_window < 1460, "{info:?}");
        assert!(!client.is_finished());
        all.extend(world.recv_exact(id, 60_000));
    }
    all.extend(world.recv_to_end(id).unwrap());
    assert!(all == pattern(4, total));
    world.shard.close(id);
    world.join(client);
    world.drained(1);
}

/// The kernel does not read until the engine cannot write any more.
fn their_zero_window(mut world: World, total: usize, ms: u64) {
    let (listener, port) = kernel::listen();
    kernel::set(&listener, libc::SOL_SOCKET, libc::SO_RCVBUF, 20_000);
    let server = spawn(move || {
        let stream = kernel::accept(&listener);
        for at in 0..2 {
            sleep(Duration::from_millis(ms));
            kernel::expect(&stream, at * 60_000, 60_000);
        }
        kernel::expect(&stream, 120_000, total - 120_000);
        kernel::expect_end(&stream);
    });
    let id = world.connect(port);
    let (data, begin) = (pattern(0, total), now());
    world.send_all(id, &data[..total / 2]).unwrap();
    let took = now().since(begin) / MILLISECOND;
    world.send_all(id, &data[total / 2..]).unwrap();
    world.shard.close(id);
    world.join(server);
    world.drained(0);
    assert!(took >= ms || total / 2 < MIB, "a window that was never shut: {took} ms");
}

/// A connection from a port of the kernel's, as soon as its last one is over there.
fn again(port: u16) -> TcpStream {
    for _ in 0..100 {
        match kernel::connect_bound(kernel::bound(port), 80) {
            // The last FIN is not yet acknowledged.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => sleep(Duration::from_millis(5)),
            result => return result.expect("accepted again"),
        }
    }
    panic!("the last connection does not end");
}

/// A server that answers `count` datagrams with themselves, and its port.
fn udp_echo_server(count: usize) -> (std::thread::JoinHandle<()>, u16) {
    let socket = UdpSocket::bind((LINUX, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let thread = spawn(move || {
        for _ in 0..count {
            let mut buffer = vec![0; 70_000];
            let (count, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..count], from).unwrap();
        }
    });
    (thread, port)
}

/// A UDP socket of the engine, connected to a port of the kernel's.
fn udp_to(world: &mut World, port: u16) -> SocketId {
    let id = world.shard.udp_open().unwrap();
    world.shard.udp_connect(id, Some(Endpoint::new(LINUX, port))).unwrap();
    id
}

fn udp_next(world: &mut World, id: SocketId) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0; 70_000];
    loop {
        match world.shard.udp_recv(id, &mut buffer, false) {
            Err(Error::WouldBlock) => drop(world.wait(id, Ready::READABLE | Ready::ERROR)),
            result => return result.map(|about| buffer[..about.len].to_vec()),
        }
    }
}
