//! What the test's threads do with the kernel's sockets.

use std::io::{Read, Write};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use super::namespace::check;
use super::{ENGINE, LINUX};
use crate::common::pattern;

const PATIENCE: Duration = Duration::from_secs(25);

/// A connection to the engine.
pub fn connect(port: u16) -> TcpStream {
    patient(TcpStream::connect((ENGINE, port)).expect("connect"))
}

/// The next connection from the engine.
pub fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().expect("accept").0)
}

/// A listener on a port of the kernel's choice.
pub fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((LINUX, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Writes `total` bytes and ends, reading at the same time; expects the same bytes and the end.
pub fn ask_echo(stream: &TcpStream, from: usize, total: usize) {
    let mut writing = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for at in (0..total).step_by(50_000) {
            writing.write_all(&pattern(from + at, 50_000.min(total - at))).expect("write");
        }
        writing.shutdown(Shutdown::Write).unwrap();
    });
    expect(stream, from, total);
    expect_end(stream);
    writer.join().unwrap();
}

/// Reads `total` bytes of the pattern.
pub fn expect(mut stream: &TcpStream, from: usize, total: usize) {
    let (mut count, mut buffer) = (0, vec![0; 60_000]);
    while count < total {
        let want = buffer.len().min(total - count);
        let got =
            stream.read(&mut buffer[..want]).unwrap_or_else(|error| panic!("{count} of {total}: {error}"));
        assert_ne!(got, 0, "the end after {count} of {total}");
        assert!(buffer[..got] == pattern(from + count, got), "wrong bytes at {count}");
        count += got;
    }
}

pub fn expect_end(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
}

/// Returns what comes until the end, then ends.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 60_000];
    loop {
        match stream.read(&mut buffer).expect("read") {
            0 => return stream.shutdown(Shutdown::Write).unwrap(),
            count => stream.write_all(&buffer[..count]).expect("write"),
        }
    }
}

/// Echoes one connection after the other, `count` of them.
pub fn echo_server(count: usize) -> (JoinHandle<()>, u16) {
    let (listener, port) = listen();
    (std::thread::spawn(move || (0..count).for_each(|_| echo(accept(&listener)))), port)
}

/// setsockopt(2) with an int.
pub fn set(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    set_any(socket, level, name, &value);
}

/// SO_LINGER 0: close resets.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set_any(stream, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
}

fn set_any<T>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) {
    let (pointer, len) = (std::ptr::from_ref(value).cast(), size_of::<T>() as u32);
    // SAFETY: `value` is as long as we say.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) }).unwrap();
}

/// TCP_INFO.
pub fn info(stream: &TcpStream) -> libc::tcp_info {
    // SAFETY: a structure of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut len = size_of::<libc::tcp_info>() as u32;
    let pointer = std::ptr::from_mut(&mut info).cast();
    // SAFETY: `info` is as long as we say.
    check(unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, pointer, &mut len)
    })
    .unwrap();
    info
}

/// A TCP socket on a port of our choice, before it connects.
pub fn bound(port: u16) -> OwnedFd {
    // SAFETY: a new descriptor, ours alone.
    let fd = unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind, 0)).unwrap())
    };
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    let (addr, len) = sockaddr(LINUX, port);
    // SAFETY: `addr` is as long as we say.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), len) }).unwrap();
    fd
}

/// Connects it.
pub fn connect_bound(fd: OwnedFd, port: u16) -> std::io::Result<TcpStream> {
    let (addr, len) = sockaddr(ENGINE, port);
    // SAFETY: `addr` is as long as we say.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const addr).cast(), len) })?;
    Ok(patient(TcpStream::from(fd)))
}

fn sockaddr(addr: Ipv4Addr, port: u16) -> (libc::sockaddr_in, u32) {
    let addr = libc::sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(addr).to_be() },
        sin_zero: [0; 8],
    };
    (addr, size_of::<libc::sockaddr_in>() as u32)
}

/// A raw ICMP socket to the engine (raw(7); answers carry the IP header).
pub fn icmp() -> std::net::UdpSocket {
    // SAFETY: a new descriptor, ours alone. The type is a UDP socket's only for its send and receive calls.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        std::net::UdpSocket::from_raw_fd(
            check(libc::socket(libc::AF_INET, kind, libc::IPPROTO_ICMP)).unwrap(),
        )
    };
    socket.connect(SocketAddr::from((ENGINE, 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// An echo request with identifier 77.
pub fn echo_request(sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0, 77];
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(payload);
    // RFC 1071.
    let words = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}

/// Sets a value below /proc/sys/net/ipv4 of our namespace.
pub fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// A number of TCP's line in /proc/net/snmp.
pub fn counter(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|each| each == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}
