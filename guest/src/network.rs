//! The guest's place in its network: the link's memory, the doorbells, the engine.

use crate::config::{Config, Net};
use crate::message::die;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use net::Shard;
use net::ring::{Link, RingDevice, Role};
use platform::mem::{Prot, map_shared};
use platform::{host, layout};
use sched::host_fd::{self, HostReady};
use syscalls::net_interface::{self, Interface};
use syscalls::net_poll::{self, Backend};

/// Files of the guest that its network decides: who resolves names, what the host is called.
pub(crate) fn files(config: &Config) -> Vec<(&'static [u8], String)> {
    let name = config.hostname.escape_ascii();
    let mut files: Vec<(&'static [u8], String)> = Vec::new();
    if let Some(dns) = config.net.dns {
        files.push((b"/etc/resolv.conf", format!("nameserver {}\n", Ipv4Addr::from(dns))));
    }
    let mut hosts = String::from("127.0.0.1\tlocalhost\n");
    if let (Some((ip, _)), Some(gateway)) = (config.net.ip, config.net.gateway) {
        let (ip, gateway) = (Ipv4Addr::from(ip), Ipv4Addr::from(gateway));
        hosts += &format!("{ip}\t{name}\n{gateway}\thost.attacca.internal\n");
    } else {
        hosts += &format!("127.0.0.1\t{name}\n");
    }
    files.push((b"/etc/hosts", hosts));
    files
}

/// The gateway's Ethernet address: the network server's side of every link (netserver's `Place`).
const GATEWAY_MAC: [u8; 6] = [0x02, 0xa7, 0xac, 0xca, 0, 2];

/// Brings the network up. In the kernel, on the first thread.
pub(crate) fn start(config: &Config) {
    let net = &config.net;
    match net.ring_fd {
        None => net_poll::init(Shard::new(loopback_only()), Backend::None),
        Some(fd) => join(net, fd, config.cpus),
    }
}

fn loopback_only() -> net::Config {
    net::Config::new([0x02, 0, 0, 0, 0, 1], seed())
}

fn join(settings: &Net, ring_fd: i32, _cpus: u32) {
    let (Some(mac), Some(ip), Some(out), Some(bell)) =
        (settings.mac, settings.ip, settings.doorbell_out, settings.doorbell_in)
    else {
        die(format_args!(
            "the network's settings are incomplete (are attacca and its guest of one version?)"
        ));
    };
    let address = Ipv4Addr::from(ip.0);
    let mut config = net::Config::new(mac, seed()).address(address.into(), ip.1);
    config.gateway = settings.gateway.map(|gateway| IpAddr::from(Ipv4Addr::from(gateway)));
    config.peer_mac = Some(GATEWAY_MAC);
    config.mtu = settings.mtu as usize;
    let device = open_ring(ring_fd, settings.mtu as usize, out);
    net_interface::set(Interface { mac, address: (address, ip.1), mtu: settings.mtu });
    net_poll::init(Shard::new(config), Backend::Ring(Box::new(device)));
    if let Err(error) = host_fd::watch(bell, host_fd::IN | host_fd::EDGE, Arc::new(Doorbell { fd: bell })) {
        die(format_args!("the network's doorbell cannot be watched: {error}"));
    }
}

fn open_ring(fd: i32, mtu: usize, doorbell: i32) -> RingDevice {
    let fail = |what: &dyn core::fmt::Display| -> ! { die(format_args!("the network's link: {what}")) };
    let len = size(fd).unwrap_or_else(|error| fail(&error));
    let base = map_shared(layout::RINGS_BASE, len, Prot::READ | Prot::WRITE, fd, 0);
    let base = base.unwrap_or_else(|error| fail(&error));
    // SAFETY: mapped for the life of the guest; this guest is the only user of its side.
    unsafe {
        let link = Link::open(base as *mut u8, len).unwrap_or_else(|error| fail(&error));
        let ring = move || ring(doorbell);
        RingDevice::new(link, Role::Guest, 0, mtu, Box::new(ring)).unwrap_or_else(|error| fail(&error))
    }
}

fn size(fd: i32) -> platform::errno::Result<usize> {
    const SEEK_END: usize = 2;
    // SAFETY: no memory arguments.
    unsafe { host!(lseek, fd, 0, SEEK_END) }
}

/// Adds 1 to the server's eventfd.
fn ring(fd: i32) {
    let one = 1u64;
    // SAFETY: eight bytes of ours, as eventfd(2) wants them. A full counter wakes as well as any.
    let _ = unsafe { host!(write, fd, &raw const one, 8) };
}

/// The server has rung: frames are there, or space is.
struct Doorbell {
    fd: i32,
}

impl HostReady for Doorbell {
    fn ready(&self, _events: u32) {
        let mut count = 0u64;
        // SAFETY: eight bytes of ours, as eventfd(2) gives them.
        let _ = unsafe { host!(read, self.fd, &raw mut count, 8) };
        net_poll::poll();
    }
}

/// Secrets of the engine: sequence numbers, ports, hash keys.
fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    // SAFETY: 32 bytes of ours; up to 256 bytes come whole (getrandom(2)).
    match unsafe { host!(getrandom, seed.as_mut_ptr(), seed.len(), 0) } {
        Ok(32) => seed,
        _ => die(format_args!("the host gives no random bytes")),
    }
}
