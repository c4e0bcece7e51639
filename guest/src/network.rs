//! The guest's place in its network: the link's memory, the doorbells, the engine.

use crate::config::{Config, Net};
use crate::message::die;
use crate::{control, nic};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::sync::atomic::{AtomicI32, Ordering};
use net::control::{Direct, Mode, Name, ToGuest, ToSupervisor};
use net::ring::{Link, RingDevice, Role};
use net::{Ipv6Mode, Shard};
use platform::host;
use platform::time::SECOND;
use sched::host_fd::{self, HostReady};
use syscalls::net_device::Backend;
use syscalls::net_interface::{self, Interface};
use syscalls::net_lease::Hooks;
use syscalls::net_poll;

/// Files of the guest that its network decides: who resolves names, what the host is called.
pub(crate) fn files(config: &Config) -> Vec<(&'static [u8], String)> {
    let name = config.hostname.escape_ascii();
    let mut files: Vec<(&'static [u8], String)> = Vec::new();
    let leased = net_poll::home().shard.dhcp_lease().cloned();
    let servers: Vec<IpAddr> = match &leased {
        Some(lease) => lease.dns.iter().map(|dns| IpAddr::V4(*dns)).collect(),
        None => config.net.dns.into_iter().collect(),
    };
    if !servers.is_empty() {
        let lines: String = servers.iter().map(|dns| format!("nameserver {dns}\n")).collect();
        files.push((b"/etc/resolv.conf", lines));
    }
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let net = &config.net;
    let own = leased.map(|lease| lease.address.address).or(net.ip.map(|(ip, _)| ip.into()));
    hosts += &format!("{}\t{name}\n", own.unwrap_or(Ipv4Addr::LOCALHOST.into()));
    if let Some((ip, _)) = net.ip6 {
        hosts += &format!("{ip}\t{name}\n");
    }
    if let (Some(gateway), false) = (net.gateway, net.neighbors) {
        hosts += &format!("{gateway}\thost.attacca.internal\n");
    }
    if let (Some(gateway), false) = (net.gateway6, net.neighbors) {
        hosts += &format!("{gateway}\thost.attacca.internal\n");
    }
    files.push((b"/etc/hosts", hosts));
    files
}

/// The gateway's Ethernet address: the network server's side of every link (netserver's `Place`).
const GATEWAY_MAC: [u8; 6] = [0x02, 0xa7, 0xac, 0xca, 0, 2];

/// Brings the network up. In the kernel, on the first thread.
pub(crate) fn start(config: &Config) {
    let net = &config.net;
    if net.ring_fd.is_some() || net.direct.is_some() {
        join(net, config.name, config.shards());
    } else {
        net_poll::init(Shard::group(&loopback_only(), config.shards()), Backend::none(), control::report);
    }
    if net.claims {
        syscalls::net_claim::start(control::send);
    }
    if let Some(fd) = config.control_fd
        && let Err(error) = control::start(fd, come_back(config))
    {
        die(format_args!("the network's control socket cannot be watched: {error}"));
    }
    // What came before somebody listened.
    syscalls::net_lease::tell_again();
}

/// What a guest of a network with a name says when its supervisor has died and another one has come.
fn come_back(config: &Config) -> Option<control::ComeBack> {
    let net = &config.net;
    let address = net.ip.map(|(ip, _)| ip).or(net.dhcp.then_some(Ipv4Addr::UNSPECIFIED))?;
    let message = ToSupervisor::Rejoin {
        mac: net.mac?,
        address: address.into(),
        name: Name::new(config.name)?,
        ephemeral: net.ephemeral?,
    };
    let fds = [net.ring_fd?, net.doorbell_out?, net.doorbell_in?];
    Some(control::ComeBack { path: net.control?.to_vec(), message, fds })
}

fn loopback_only() -> net::Config {
    net::Config::new([0x02, 0, 0, 0, 0, 1], seed())
}

fn join(settings: &Net, name: &'static [u8], shards: usize) {
    let (Some(mac), true) = (settings.mac, settings.ip.is_some() != settings.dhcp) else {
        die(format_args!(
            "the network's settings are incomplete (are attacca and its guest of one version?)"
        ));
    };
    let mut config = net::Config::new(mac, seed());
    let v4 = settings.ip.map(|(ip, length)| (IpAddr::V4(ip), length));
    let v6 = settings.ip6.map(|(ip, length)| (IpAddr::V6(ip), length));
    for (address, length) in v4.into_iter().chain(v6) {
        config = config.address(address, length);
    }
    syscalls::net_lease::start(leases(settings), config.addresses.iter().map(|own| own.address).collect());
    config.dhcp = settings.dhcp;
    config.dhcp_name = name.to_vec();
    config.ipv6 = if settings.auto6 { Ipv6Mode::Auto } else { Ipv6Mode::Static };
    config.gateway = settings.gateway.map(IpAddr::V4);
    config.gateway6 = settings.gateway6;
    config.peer_mac = (!settings.neighbors).then_some(GATEWAY_MAC);
    config.ephemeral = settings.ephemeral.unwrap_or(config.ephemeral);
    config.mtu = settings.mtu as usize;
    net_interface::set(Interface { mac, mtu: settings.mtu });
    net_poll::init(Shard::group(&config, shards), Backend::none(), control::report);
    let mut device = net_poll::device();
    let backend = &mut *device;
    if let Some(fd) = settings.ring_fd {
        let (Some(out), Some(bell)) = (settings.doorbell_out, settings.doorbell_in) else {
            die(format_args!("the network's doorbells are missing"));
        };
        let device = open_ring(backend, fd, settings.mtu as usize, out);
        backend.start(Box::new(device), Mode::Server, mac, None);
        let watched = host_fd::watch(bell, host_fd::IN | host_fd::EDGE, Arc::new(Doorbell { fd: bell }));
        if let Err(error) = watched {
            die(format_args!("the network's doorbell cannot be watched: {error}"));
        }
    }
    if let Some(message) = settings.direct {
        open_direct(backend, settings, message, mac);
    }
    drop(device);
    if settings.dhcp {
        await_lease();
    }
}

/// A program that starts without an address would have to know that one comes: it is waited for.
fn await_lease() {
    let begin = platform::time::now();
    loop {
        net_poll::poll_now();
        if net_poll::home().shard.dhcp_lease().is_some() {
            return;
        }
        if platform::time::now().since(begin) > LONGEST_WAIT_NS {
            die(format_args!("--ip dhcp: no DHCP server has answered for {} s", LONGEST_WAIT_NS / SECOND));
        }
        let nap = platform::time::Timespec::from_ns(500_000);
        // SAFETY: a timespec of ours.
        let _ = unsafe { host!(nanosleep, &raw const nap, 0) };
    }
}

/// Three attempts (RFC 2131 section 4.1: after 4, 8 and 16 seconds).
const LONGEST_WAIT_NS: u64 = 30 * SECOND;

/// Who hears of addresses that we come by.
fn leases(settings: &Net) -> Hooks {
    // A constant of the process, as the descriptor is.
    RULES.store(settings.rules_fd.unwrap_or(-1), Ordering::Relaxed);
    let refused = |address: IpAddr, error| {
        crate::message::note(format_args!("the network refuses {address} to this guest: {error}"));
    };
    let steer = |address, add| match RULES.load(Ordering::Relaxed) {
        fd if fd >= 0 => nic::steer(fd, address, add),
        _ => {}
    };
    Hooks { send: control::send, steer, refused }
}

static RULES: AtomicI32 = AtomicI32::new(-1);

/// A queue of our own from the start: the only device, or the one in use while the ring stands by.
fn open_direct(backend: &mut Backend, settings: &Net, message: &'static [u8], mac: [u8; 6]) {
    let fds = settings.direct_fds.iter().flatten().copied().collect();
    let direct =
        decode(message).unwrap_or_else(|| die(format_args!("the network device's settings are broken")));
    let opened = nic::open(&direct, fds, backend)
        .unwrap_or_else(|error| die(format_args!("the network device cannot be used: {error}")));
    if settings.ring_fd.is_none() {
        backend.start(opened.device, Mode::Direct, mac, Some(opened.parts));
    } else if let Err(error) = backend.go_direct(opened.device, opened.parts, 0, platform::time::now()) {
        die(format_args!("the network device cannot be used: {error}"));
    }
}

/// A `GoDirect` message as hexadecimal digits.
fn decode(digits: &[u8]) -> Option<Direct> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(*pair.get(1)?)?) as u8);
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect::<Option<_>>()?;
    match ToGuest::decode(&bytes) {
        Ok((_, ToGuest::GoDirect(direct))) => Some(direct),
        _ => None,
    }
}

fn open_ring(backend: &mut Backend, fd: i32, mtu: usize, doorbell: i32) -> RingDevice {
    let fail = |what: &dyn core::fmt::Display| -> ! { die(format_args!("the network's link: {what}")) };
    let len = nic::size(fd).unwrap_or_else(|error| fail(&error));
    let (_, base) = backend.map(fd, len, 0).unwrap_or_else(|error| fail(&error));
    // SAFETY: mapped in each process before it uses the device (`Backend::sync`), for the life of the guest; this
    // guest is the only user of its side.
    unsafe {
        let link = Link::open(base as *mut u8, len).unwrap_or_else(|error| fail(&error));
        let ring = move || ring(doorbell);
        RingDevice::new(link, Role::Guest, 0, mtu, Box::new(ring)).unwrap_or_else(|error| fail(&error))
    }
}

/// Adds 1 to an eventfd: the server's, or another guest's.
pub(crate) fn ring(fd: i32) {
    let one = 1u64;
    // SAFETY: eight bytes of ours, as eventfd(2) wants them. A full counter wakes as well as any.
    let _ = unsafe { host!(write, fd, &raw const one, 8) };
}

/// The server has rung: frames are there, or space is.
pub(crate) struct Doorbell {
    pub(crate) fd: i32,
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
