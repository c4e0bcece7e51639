//! Interfaces as programs ask for them by ioctl (netdevice(7)): `lo`, and `eth0` if there is a network.

use crate::sockaddr::SockAddr;
use crate::user::{self, UserPtr};
use crate::{Errno, Result};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use net::Endpoint;
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
    /// The address and its prefix length.
    pub address: (Ipv4Addr, u8),
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
struct Row {
    name: &'static str,
    index: u32,
    flags: u16,
    address: Ipv4Addr,
    prefix: u8,
    mtu: u32,
    mac: [u8; 6],
    hardware: u16,
}

fn rows() -> Vec<Row> {
    // IFF_UP 1, BROADCAST 2, LOOPBACK 8, RUNNING 0x40, MULTICAST 0x1000; ARPHRD_LOOPBACK, ARPHRD_ETHER
    let mut rows = Vec::with_capacity(2);
    rows.push(Row {
        name: "lo",
        index: LO,
        flags: 0x49,
        address: Ipv4Addr::LOCALHOST,
        prefix: 8,
        mtu: 65536,
        mac: [0; 6],
        hardware: 772,
    });
    rows.extend(ETHERNET.get().map(|eth| Row {
        name: "eth0",
        index: ETH,
        flags: 0x1043,
        address: eth.address.0,
        prefix: eth.address.1,
        mtu: eth.mtu,
        mac: eth.mac,
        hardware: 1,
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
    let mask = u32::MAX.checked_shl(32 - u32::from(row.prefix)).unwrap_or(0);
    let answer: Vec<u8> = match command {
        SIOCGIFFLAGS => row.flags.to_ne_bytes().to_vec(),
        SIOCGIFADDR => sockaddr(row.address),
        SIOCGIFBRDADDR => sockaddr(Ipv4Addr::from(u32::from(row.address) | !mask)),
        SIOCGIFNETMASK => sockaddr(Ipv4Addr::from(mask)),
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
    for row in rows() {
        let mut request = [0u8; REQUEST];
        request[..row.name.len()].copy_from_slice(row.name.as_bytes());
        request[NAME..NAME + 16].copy_from_slice(&sockaddr(row.address));
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
