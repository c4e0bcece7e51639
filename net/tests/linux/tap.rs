//! A TAP device whose other end is the kernel's network stack (Documentation/networking/tuntap.rst).

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::namespace::{check, unavailable};

const NAME: &[u8] = b"peer0";
/// Up as well: the kernel tells its own sockets of an unreachable host by ICMP over it.
const LOOPBACK: &[u8] = b"lo";

/// The device; reading gives what the kernel sends.
pub struct Tap {
    file: File,
}

impl Tap {
    /// Makes the device, gives the kernel's end an address and brings it up.
    pub fn new(addr: Ipv4Addr, prefix: u8, mtu: usize) -> Tap {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .unwrap_or_else(|error| unavailable(&format!("/dev/net/tun: {error}")));
        let mut request = named(NAME);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
        if let Err(error) = ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) {
            unavailable(&format!("TUNSETIFF: {error}"));
        }
        // SAFETY: a flag of our own descriptor.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).unwrap();
        configure(NAME, libc::SIOCSIFMTU, |request| request.ifr_ifru.ifru_mtu = mtu as i32);
        configure(NAME, libc::SIOCSIFADDR, |request| request.ifr_ifru.ifru_addr = sockaddr(addr));
        let mask = Ipv4Addr::from(u32::MAX << (32 - u32::from(prefix)));
        configure(NAME, libc::SIOCSIFNETMASK, |request| request.ifr_ifru.ifru_netmask = sockaddr(mask));
        let up = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        configure(NAME, libc::SIOCSIFFLAGS, |request| request.ifr_ifru.ifru_flags = up);
        configure(LOOPBACK, libc::SIOCSIFFLAGS, |request| request.ifr_ifru.ifru_flags = up);
        Tap { file }
    }

    /// Gives the kernel's end an IPv6 address, to be used at once.
    pub fn add_v6(&self, addr: Ipv6Addr, prefix: u32) {
        for interface in ["all", "peer0"] {
            super::kernel::sysctl(&format!("../ipv6/conf/{interface}/accept_dad"), "0");
        }
        // SAFETY: a name of ours, ending in zero.
        let index = unsafe { libc::if_nametoindex(c"peer0".as_ptr()) };
        // struct in6_ifreq (linux/ipv6.h).
        #[repr(C)]
        struct Request {
            addr: [u8; 16],
            prefix: u32,
            index: u32,
        }
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let request = Request { addr: addr.octets(), prefix, index };
        // SAFETY: SIOCSIFADDR of an IPv6 socket reads such a structure.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &request) }).unwrap();
    }

    /// Changes the hardware address of the kernel's end.
    pub fn set_mac(&self, mac: [u8; 6]) {
        configure(NAME, libc::SIOCSIFHWADDR, |request| {
            let mut addr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
            for (slot, byte) in addr.sa_data.iter_mut().zip(mac) {
                *slot = byte as _;
            }
            request.ifr_ifru.ifru_hwaddr = addr;
        });
    }

    /// The next frame that the kernel sent.
    pub fn read<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        match self.file.read(buffer) {
            Ok(count) => Some(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("TAP: {error}"),
        }
    }

    /// Gives the kernel a frame.
    pub fn write(&mut self, frame: &[u8]) {
        match self.file.write(frame) {
            Ok(count) => assert_eq!(count, frame.len()),
            // What a link without room does with a frame. (EINVAL: damage that even a TAP device sees.)
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {}
            Err(error) => panic!("TAP: {error}"),
        }
    }

    /// Sleeps until the kernel sends, `limit` at most.
    pub fn wait(&self, limit: Duration) {
        let mut fd = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = libc::timespec {
            tv_sec: limit.as_secs() as _,
            tv_nsec: libc::c_long::from(limit.subsec_nanos() as i32),
        };
        // SAFETY: one descriptor and a time, both on our stack.
        let result = unsafe { libc::ppoll(&mut fd, 1, &limit, std::ptr::null()) };
        assert!(result >= 0 || Error::last_os_error().kind() == ErrorKind::Interrupted);
    }
}

fn named(name: &[u8]) -> libc::ifreq {
    // SAFETY: a structure of integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name) {
        *slot = *byte as _;
    }
    request
}

/// One netdevice(7) request.
fn configure(name: &[u8], number: libc::c_ulong, fill: impl FnOnce(&mut libc::ifreq)) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let mut request = named(name);
    fill(&mut request);
    ioctl(socket.as_raw_fd(), number, &mut request)
        .unwrap_or_else(|error| panic!("ioctl {number:#x}: {error}"));
}

fn ioctl(fd: i32, number: libc::c_ulong, request: &mut libc::ifreq) -> std::io::Result<i32> {
    // SAFETY: the requests used here read and write an ifreq.
    check(unsafe { libc::ioctl(fd, number as _, request) })
}

fn sockaddr(addr: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (slot, byte) in data[2..6].iter_mut().zip(addr.octets()) {
        *slot = byte as _;
    }
    libc::sockaddr { sa_family: libc::AF_INET as _, sa_data: data }
}
