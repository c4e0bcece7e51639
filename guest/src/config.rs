//! What `attacca` tells the guest: NUL-ended `KEY=VALUE` records in a descriptor.
//!
//! The records come from the command, which checked what the user wrote; here a record that cannot
//! be understood is a defect or a version mismatch, and ends the guest with its text.

use crate::message::die;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str;
use platform::errno::Result;
use platform::host;
use platform::mem::{Prot, map_private};

/// Memory of the arena unless told otherwise. Sparse: only what is used counts.
const DEFAULT_MEMORY: usize = 4 << 30;
/// Longest configuration that is accepted.
const MOST_BYTES: usize = 16 << 20;

/// `volume=SRC:DST:ro|rw`
#[derive(Clone, Copy, Debug)]
#[allow(dead_code)]
pub(crate) struct Volume {
    pub(crate) source: &'static [u8],
    pub(crate) target: &'static [u8],
    pub(crate) read_only: bool,
}

/// `net.*`
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code)]
pub(crate) struct Net {
    pub(crate) ring_fd: Option<i32>,
    pub(crate) doorbell_out: Option<i32>,
    pub(crate) doorbell_in: Option<i32>,
    pub(crate) mac: Option<[u8; 6]>,
    /// Address and prefix length.
    pub(crate) ip: Option<(Ipv4Addr, u8)>,
    /// Asked of a DHCP server instead.
    pub(crate) dhcp: bool,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) ip6: Option<(Ipv6Addr, u8)>,
    pub(crate) gateway6: Option<Ipv6Addr>,
    /// Addresses are made from what routers tell.
    pub(crate) auto6: bool,
    pub(crate) dns: Option<IpAddr>,
    /// Which frames of an AF_XDP interface come to our queue: a map that we change as our addresses do.
    pub(crate) rules_fd: Option<i32>,
    /// Neighbours are found by ARP; otherwise the gateway is all there is.
    pub(crate) neighbors: bool,
    /// A NIC queue of the guest's own: the bytes of a `GoDirect` message, and its descriptors.
    pub(crate) direct: Option<&'static [u8]>,
    pub(crate) direct_fds: [Option<i32>; 4],
    /// Ports for sockets that choose none.
    pub(crate) ephemeral: Option<(u16, u16)>,
    /// Ports are asked for at the supervisor.
    pub(crate) claims: bool,
    /// Where the supervisor is knocked up when it has died.
    pub(crate) control: Option<&'static [u8]>,
    /// Largest IP packet.
    pub(crate) mtu: u32,
}

/// Everything. Byte strings are the user's (arguments and paths need not be UTF-8).
#[derive(Debug, Default)]
#[allow(dead_code)]
pub(crate) struct Config {
    pub(crate) path: &'static [u8],
    pub(crate) args: Vec<&'static [u8]>,
    pub(crate) env: Vec<&'static [u8]>,
    pub(crate) cwd: &'static [u8],
    pub(crate) cpus: u32,
    /// Engines; 0: one.
    pub(crate) shards: u32,
    pub(crate) root: &'static [u8],
    pub(crate) volumes: Vec<Volume>,
    pub(crate) tmpfs: Vec<&'static [u8]>,
    pub(crate) layer: bool,
    pub(crate) read_only: bool,
    pub(crate) lazy: bool,
    pub(crate) trace: Option<&'static [u8]>,
    pub(crate) trace_fd: Option<i32>,
    pub(crate) busy: bool,
    pub(crate) hostname: &'static [u8],
    pub(crate) name: &'static [u8],
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) net: Net,
    pub(crate) control_fd: Option<i32>,
    /// Where `attacca exec` knocks: a listening socket.
    pub(crate) exec_fd: Option<i32>,
    pub(crate) selftest: Option<&'static str>,
}

/// Reads all records; they stay mapped for the life of the guest.
pub(crate) fn read(fd: i32) -> Result<&'static [u8]> {
    let mut held = 0;
    let mut room = 64 * 1024;
    let mut at = map_private(0, room, Prot::READ | Prot::WRITE)?;
    loop {
        // SAFETY: [at, at + room) is ours, held <= room. A memfd written by `attacca` stands at its
        // end, so it is read by offset; a pipe (ESPIPE) is read as it comes.
        let got = unsafe {
            host!(pread64, fd, at + held, room - held, held)
                .or_else(|_| host!(read, fd, at + held, room - held))
        }?;
        held += got;
        if got == 0 {
            break;
        }
        if held == room {
            let larger = map_private(0, 2 * room, Prot::READ | Prot::WRITE)?;
            // SAFETY: both are ours and apart; the old one is given up.
            unsafe {
                core::ptr::copy_nonoverlapping(at as *const u8, larger as *mut u8, held);
                platform::mem::unmap(at, room)?;
            }
            (at, room) = (larger, 2 * room);
        }
        if held > MOST_BYTES {
            return Err(platform::Errno::E2BIG);
        }
    }
    // SAFETY: the descriptor is of no more use; the memory is initialised up to `held` and never
    // changed again.
    unsafe {
        let _ = host!(close, fd);
        Ok(core::slice::from_raw_parts(at as *const u8, held))
    }
}

/// The records as (key, value).
fn pairs(records: &'static [u8]) -> impl Iterator<Item = (&'static [u8], &'static [u8])> {
    records.split(|&b| b == 0).filter(|record| !record.is_empty()).map(|record| {
        match record.iter().position(|&b| b == b'=') {
            Some(at) => (&record[..at], &record[at + 1..]),
            None => bad(record, b""),
        }
    })
}

/// The arena's size: wanted before there is an allocator.
pub(crate) fn memory(records: &'static [u8]) -> usize {
    let given = pairs(records).filter(|(key, _)| *key == b"memory").last();
    given.map_or(DEFAULT_MEMORY, |(key, value)| number(key, value))
}

impl Config {
    /// Reads the records.
    pub(crate) fn parse(records: &'static [u8]) -> Config {
        let mut config = Config { cpus: 1, hostname: b"attacca", ..Config::default() };
        for (key, value) in pairs(records) {
            config.take(key, value);
        }
        config
    }

    /// How many engines share the guest's flows.
    pub(crate) fn shards(&self) -> usize {
        self.shards.max(1) as usize
    }

    fn take(&mut self, key: &'static [u8], value: &'static [u8]) {
        match key {
            b"path" => self.path = value,
            b"arg" => self.args.push(value),
            b"env" => self.env.push(value),
            b"cwd" => self.cwd = value,
            b"cpus" => self.cpus = number(key, value),
            b"shards" => self.shards = number(key, value),
            b"memory" => (),
            b"root" => self.root = value,
            b"volume" => self.volumes.push(volume(value).unwrap_or_else(|| bad(key, value))),
            b"tmpfs" => self.tmpfs.push(value),
            b"layer" => self.layer = flag(key, value),
            b"read_only" => self.read_only = flag(key, value),
            b"lazy" => self.lazy = flag(key, value),
            b"trace" => self.trace = Some(value),
            b"trace_fd" => self.trace_fd = Some(number(key, value)),
            b"poll" => {
                self.busy = match value {
                    b"busy" => true,
                    b"adaptive" => false,
                    _ => bad(key, value),
                }
            }
            b"hostname" => self.hostname = value,
            b"name" => self.name = value,
            b"uid" => self.uid = Some(number(key, value)),
            b"gid" => self.gid = Some(number(key, value)),
            b"control_fd" => self.control_fd = Some(number(key, value)),
            b"exec_fd" => self.exec_fd = Some(number(key, value)),
            b"selftest" => self.selftest = Some(text(key, value)),
            _ => self.net.take(key, value),
        }
    }
}

impl Net {
    fn take(&mut self, key: &'static [u8], value: &'static [u8]) {
        let malformed = || -> ! { bad(key, value) };
        match key {
            b"net.ring_fd" => self.ring_fd = Some(number(key, value)),
            b"net.doorbell_out" => self.doorbell_out = Some(number(key, value)),
            b"net.doorbell_in" => self.doorbell_in = Some(number(key, value)),
            b"net.mac" => self.mac = Some(mac(value).unwrap_or_else(|| malformed())),
            b"net.ip" => self.ip = Some(prefix(value, 32).unwrap_or_else(|| malformed())),
            b"net.gateway" => self.gateway = Some(ip(value).unwrap_or_else(|| malformed())),
            b"net.dhcp" => self.dhcp = flag(key, value),
            b"net.ip6" => self.ip6 = Some(prefix(value, 128).unwrap_or_else(|| malformed())),
            b"net.gateway6" => self.gateway6 = Some(ip(value).unwrap_or_else(|| malformed())),
            b"net.auto6" => self.auto6 = flag(key, value),
            b"net.rules_fd" => self.rules_fd = Some(number(key, value)),
            b"net.bridged" => self.neighbors = flag(key, value),
            b"net.direct" => self.direct = Some(value),
            b"net.direct_fd" => match self.direct_fds.iter_mut().find(|slot| slot.is_none()) {
                Some(slot) => *slot = Some(number(key, value)),
                None => malformed(),
            },
            b"net.ephemeral" => {
                self.ephemeral = Some(range(value).unwrap_or_else(|| malformed()));
            }
            b"net.claims" => self.claims = flag(key, value),
            b"net.control" => self.control = Some(value),
            b"net.mtu" => self.mtu = number(key, value),
            b"net.dns" => self.dns = Some(ip(value).unwrap_or_else(|| malformed())),
            _ => malformed(),
        }
    }
}

fn bad(key: &[u8], value: &[u8]) -> ! {
    die(format_args!(
        "the guest does not understand the setting {}={} (are attacca and its guest of one version?)",
        key.escape_ascii(),
        value.escape_ascii()
    ))
}

fn text(key: &'static [u8], value: &'static [u8]) -> &'static str {
    str::from_utf8(value).unwrap_or_else(|_| bad(key, value))
}

fn number<T: str::FromStr>(key: &'static [u8], value: &'static [u8]) -> T {
    text(key, value).parse().unwrap_or_else(|_| bad(key, value))
}

fn flag(key: &'static [u8], value: &'static [u8]) -> bool {
    match value {
        b"1" => true,
        b"0" => false,
        _ => bad(key, value),
    }
}

/// `SRC:DST:ro|rw`; the source may hold colons, the rest not.
fn volume(value: &'static [u8]) -> Option<Volume> {
    let mut parts = value.rsplitn(3, |&b| b == b':');
    let read_only = match parts.next()? {
        b"ro" => true,
        b"rw" => false,
        _ => return None,
    };
    let (target, source) = (parts.next()?, parts.next()?);
    Some(Volume { source, target, read_only })
}

fn mac(value: &[u8]) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = str::from_utf8(value).ok()?.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

fn ip<T: str::FromStr>(value: &[u8]) -> Option<T> {
    str::from_utf8(value).ok()?.parse().ok()
}

fn prefix<T: str::FromStr>(value: &[u8], longest: u8) -> Option<(T, u8)> {
    let (address, length) = str::from_utf8(value).ok()?.split_once('/')?;
    let length: u8 = length.parse().ok()?;
    Some((ip(address.as_bytes())?, (length <= longest).then_some(length)?))
}

/// `FIRST-LAST`
fn range(value: &[u8]) -> Option<(u16, u16)> {
    let (first, last) = str::from_utf8(value).ok()?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first != 0 && first <= last).then_some((first, last))
}
