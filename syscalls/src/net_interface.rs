//! Interfaces as programs ask for them by ioctl (netdevice(7)): `lo`, and `eth0` if there is a network.

use crate::net_poll::home;
use crate::sockaddr::SockAddr;
use crate::user::{self, UserPtr};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use net::Endpoint;
use net::device::Device;
use spin::Once;

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;

/// Indices of the two interfaces.
pub(crate) const LO: u32 = 1;
pub(crate) const ETH: u32 = 2;

/// `struct ifreq`: the name, then a union of 24 bytes.
const REQUEST: usize = 40;
const NAME: usize = 16;

/// The guest's place in its network.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// The Ethernet address.
    pub mac: [u8; 6],
    /// Largest IP packet.
    pub mtu: u32,
}

static ETHERNET: Once<Interface> = Once::new();

/// Tells of `eth0`; once, at start. Without it the guest has `lo` alone.
pub fn set(interface: Interface) {
    ETHERNET.call_once(|| interface);
}

/// There is an interface besides `lo`.
pub(crate) fn has_network() -> bool {
    ETHERNET.get().is_some()
}

/// One interface, as rows of the answers below.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) index: u32,
    pub(crate) flags: u16,
    /// IPv4 addresses with their prefix lengths.
    pub(crate) addresses: Vec<(Ipv4Addr, u8)>,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) hardware: u16,
}

impl Row {
    fn address(&self) -> Result<(Ipv4Addr, u8)> {
        self.addresses.first().copied().ok_or(Errno::EADDRNOTAVAIL)
    }
}

/// Frames and bytes that came and went, for an interface.
pub(crate) fn traffic(index: u32) -> [(u64, u64); 2] {
    if index != ETH {
        return [(0, 0); 2];
    }
    let counters = crate::net_poll::counters();
    // Each over the ring and over a queue of our own.
    let [ring_in, ring_out, direct_in, direct_out] = counters.frames;
    let [ring_in_bytes, ring_out_bytes, direct_in_bytes, direct_out_bytes] = counters.bytes;
    [
        (ring_in + direct_in, ring_in_bytes + direct_in_bytes),
        (ring_out + direct_out, ring_out_bytes + direct_out_bytes),
    ]
}

/// The mask of a prefix length.
pub(crate) fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

pub(crate) fn rows() -> Vec<Row> {
    // IFF_UP 1, BROADCAST 2, LOOPBACK 8, RUNNING 0x40, MULTICAST 0x1000; ARPHRD_LOOPBACK, ARPHRD_ETHER
    let mut rows = Vec::with_capacity(2);
    rows.push(Row {
        name: "lo",
        index: LO,
        flags: 0x49,
        addresses: [(Ipv4Addr::LOCALHOST, 8)].into(),
        mtu: 65536,
        mac: [0; 6],
        hardware: 772,
    });
    rows.extend(ETHERNET.get().map(|eth| {
        let mac = crate::net_poll::device().mac();
        let stack = home();
        Row {
            name: "eth0",
            index: ETH,
            flags: 0x1043,
            addresses: stack.shard.addresses().0.to_vec(),
            mtu: eth.mtu,
            // A direct device may have brought its own.
            mac: mac.unwrap_or(eth.mac),
            hardware: 1,
        }
    }));
    rows
}

/// The interface ioctls; ENOTTY for others.
pub(crate) fn ioctl(command: u32, argument: usize) -> Result {
    match command {
        SIOCGIFCONF => list(argument),
        SIOCGIFNAME => name_of_index(argument),
        SIOCGIFFLAGS | SIOCGIFADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK | SIOCGIFMTU | SIOCGIFHWADDR
        | SIOCGIFINDEX => about_one(command, argument),
        _ => Err(Errno::ENOTTY),
    }
}

fn about_one(command: u32, argument: usize) -> Result {
    let mut request = [0u8; REQUEST];
    user::read_bytes(argument, &mut request)?;
    let name = request[..NAME].split(|&b| b == 0).next().unwrap_or_default();
    let row = rows().into_iter().find(|r| r.name.as_bytes() == name).ok_or(Errno::ENODEV)?;
    let answer: Vec<u8> = match command {
        SIOCGIFFLAGS => row.flags.to_ne_bytes().to_vec(),
        SIOCGIFADDR => sockaddr(row.address()?.0),
        SIOCGIFBRDADDR => {
            let (address, prefix) = row.address()?;
            sockaddr(Ipv4Addr::from(u32::from(address) | !mask(prefix)))
        }
        SIOCGIFNETMASK => sockaddr(Ipv4Addr::from(mask(row.address()?.1))),
        SIOCGIFMTU => row.mtu.to_ne_bytes().to_vec(),
        SIOCGIFHWADDR => [&row.hardware.to_ne_bytes()[..], &row.mac].concat(),
        _ => row.index.to_ne_bytes().to_vec(),
    };
    user::write_bytes(argument + NAME, &answer).map(|()| 0)
}

fn name_of_index(argument: usize) -> Result {
    let index: u32 = UserPtr::new(argument + NAME).read()?;
    let row = rows().into_iter().find(|r| r.index == index).ok_or(Errno::ENODEV)?;
    let mut name = [0u8; NAME];
    name[..row.name.len()].copy_from_slice(row.name.as_bytes());
    user::write_bytes(argument, &name).map(|()| 0)
}

/// `struct ifconf`: length, then a pointer to ifreqs. A NULL pointer asks for the length alone.
fn list(argument: usize) -> Result {
    let room: i32 = UserPtr::new(argument).read()?;
    let buffer: usize = UserPtr::new(argument + 8).read()?;
    let mut bytes = Vec::new();
    // netdevice(7): those with an IPv4 address.
    for (row, (address, _)) in rows().iter().filter_map(|row| Some((row, row.address().ok()?))) {
        let mut request = [0u8; REQUEST];
        request[..row.name.len()].copy_from_slice(row.name.as_bytes());
        request[NAME..NAME + 16].copy_from_slice(&sockaddr(address));
        bytes.extend_from_slice(&request);
    }
    if buffer != 0 {
        let whole = (room.max(0) as usize / REQUEST * REQUEST).min(bytes.len());
        bytes.truncate(whole);
        user::write_bytes(buffer, &bytes)?;
    }
    UserPtr::new(argument).write(bytes.len() as i32).map(|()| 0)
}

fn sockaddr(address: Ipv4Addr) -> Vec<u8> {
    SockAddr::from_endpoint(Endpoint { addr: IpAddr::V4(address), port: 0 }, false).bytes().to_vec()
}
