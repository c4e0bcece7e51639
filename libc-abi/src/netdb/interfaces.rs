//! Network interfaces: getifaddrs(3), if_nametoindex(3), if_nameindex(3).
//!
//! Asked of the kernel by rtnetlink(7); where there is no such socket (a guest), by the older ioctls
//! of netdevice(7) and `/proc/net/if_inet6`.

use super::hosts::Address;
use super::inet::bytes;
use super::{AF_INET, AF_INET6, files};
use crate::errno;
use crate::malloc::{free, malloc};
use crate::types::{c_char, c_int, c_uint, c_void};
use alloc::vec::Vec;
use core::ptr::null_mut;
use platform::Errno;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: Vec<u8>,
    /// `IFF_*`
    pub flags: u32,
    /// Hardware type and address.
    pub hardware: (u16, Vec<u8>),
    /// Hardware broadcast address.
    pub broadcast: Vec<u8>,
    /// struct rtnl_link_stats, as it came.
    pub statistics: Vec<u8>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// Of this interface.
    pub index: u32,
    /// Its label: the interface's name, or `eth0:1`.
    pub label: Vec<u8>,
    /// The address.
    pub address: Address,
    /// Bits of the network.
    pub prefix: u32,
    /// Broadcast, or the other end of a point-to-point link.
    pub other: Option<Address>,
    /// Scope id of link-local IPv6 addresses.
    pub scope: u32,
}

const NAME_LEN: usize = 16;
const IFF_BROADCAST: u32 = 2;
const IFF_POINTOPOINT: u32 = 16;

/// Which families have an address beside loopback: (IPv4, IPv6). Both, if nobody can tell.
pub fn families() -> (bool, bool) {
    let Ok((_, addresses)) = all() else { return (true, true) };
    let v4 = |a: &LinkAddress| matches!(a.address, Address::V4(v4) if v4 != [127, 0, 0, 1]);
    let v6 = |a: &LinkAddress| matches!(a.address, Address::V6(v6) if v6 != super::inet::IN6ADDR_LOOPBACK);
    (addresses.iter().any(v4), addresses.iter().any(v6))
}

/// A scope as it stands behind `%`: an interface's name or a number.
pub fn scope(text: &[u8]) -> Option<u32> {
    index_of(text).ok().or_else(|| files::number(text).and_then(|n| u32::try_from(n).ok()))
}

/// All interfaces and their addresses.
pub fn all() -> Result<(Vec<Link>, Vec<LinkAddress>), Errno> {
    match netlink::all() {
        Err(Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT | Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => {
            ioctls::all()
        }
        result => result,
    }
}

/// An interface's index.
pub fn index_of(name: &[u8]) -> Result<u32, Errno> {
    if name.len() >= NAME_LEN {
        return Err(Errno::ENODEV);
    }
    let mut request = ioctls::Request::named(name);
    request.ask(ioctls::SIOCGIFINDEX)?;
    Ok(request.u32())
}

/// An interface's name.
pub fn name_of(index: u32) -> Result<Vec<u8>, Errno> {
    let mut request = ioctls::Request::named(b"");
    request.set_u32(index);
    // if_indextoname(3): ENXIO for an index without interface.
    request.ask(ioctls::SIOCGIFNAME).map_err(|e| if e == Errno::ENODEV { Errno::ENXIO } else { e })?;
    Ok(request.name())
}

mod netlink {
    use super::{Address, Link, LinkAddress};
    use crate::kcall;
    use alloc::vec::Vec;
    use platform::Errno;

    const AF_NETLINK: usize = 16;
    const SOCK_RAW_CLOEXEC: usize = 3 | 0o2000000;
    const RTM_NEWLINK: u16 = 16;
    const RTM_GETLINK: u16 = 18;
    const RTM_NEWADDR: u16 = 20;
    const RTM_GETADDR: u16 = 22;
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    /// NLM_F_REQUEST | NLM_F_DUMP
    const DUMP: u16 = 1 | 0x300;

    pub(super) fn all() -> Result<(Vec<Link>, Vec<LinkAddress>), Errno> {
        // SAFETY: the descriptor is ours and closed again.
        unsafe {
            let fd = kcall!(socket, AF_NETLINK, SOCK_RAW_CLOEXEC, 0)?;
            let result = dump(fd, RTM_GETLINK).and_then(|links| Ok((links, dump(fd, RTM_GETADDR)?)));
            let _ = kcall!(close, fd);
            let (links, addresses) = result?;
            let links: Vec<Link> = messages(&links).filter_map(|(kind, m)| link(kind, m)).collect();
            let addresses = messages(&addresses).filter_map(|(kind, m)| address(kind, m, &links)).collect();
            Ok((links, addresses))
        }
    }

    /// Asks for a dump; answers all its messages.
    unsafe fn dump(fd: usize, what: u16) -> Result<Vec<u8>, Errno> {
        // nlmsghdr: length, type, flags, sequence, port; then rtgenmsg, padded.
        let mut request = [0u8; 20];
        request[0] = 20;
        request[4..6].copy_from_slice(&what.to_ne_bytes());
        request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
        request[8] = what as u8;
        let mut all = Vec::new();
        let mut buffer = alloc::vec![0u8; 32 << 10];
        // SAFETY: our own buffers.
        unsafe {
            kcall!(sendto, fd, request.as_ptr(), request.len(), 0, 0, 0)?;
            loop {
                let n = match kcall!(recvfrom, fd, buffer.as_mut_ptr(), buffer.len(), 0, 0, 0) {
                    Err(Errno::EINTR) => continue,
                    other => other?,
                };
                let got = &buffer[..n.min(buffer.len())];
                all.extend_from_slice(got);
                for (kind, message) in messages(got) {
                    match kind {
                        NLMSG_DONE => return Ok(all),
                        NLMSG_ERROR => {
                            let code =
                                message.get(..4).map_or(0, |c| i32::from_ne_bytes([c[0], c[1], c[2], c[3]]));
                            return Err(if code < 0 { Errno(-code) } else { Errno::EIO });
                        }
                        _ => {}
                    }
                }
                if n == 0 {
                    return Err(Errno::EIO);
                }
            }
        }
    }

    /// Type and body of each message.
    fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        pieces(bytes, 16, |head| (u32_of(head, 0) as usize, u16_of(head, 4)))
    }

    /// Type and data of each attribute.
    fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        pieces(bytes, 4, |head| (u16_of(head, 0) as usize, u16_of(head, 2)))
    }

    fn pieces(
        mut rest: &[u8],
        head: usize,
        read: impl Fn(&[u8]) -> (usize, u16),
    ) -> impl Iterator<Item = (u16, &[u8])> {
        core::iter::from_fn(move || {
            let (len, kind) = read(rest.get(..head)?);
            let body = rest.get(head..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
            Some((kind, body))
        })
    }

    fn u16_of(bytes: &[u8], at: usize) -> u16 {
        u16::from_ne_bytes([bytes[at], bytes[at + 1]])
    }

    fn u32_of(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    fn text(data: &[u8]) -> Vec<u8> {
        data.split(|&b| b == 0).next().unwrap_or(b"").to_vec()
    }

    /// ifinfomsg: family, pad, type (u16), index, flags, change.
    fn link(kind: u16, message: &[u8]) -> Option<Link> {
        let body = message.get(16..).filter(|_| kind == RTM_NEWLINK)?;
        let mut link = Link { index: u32_of(message, 4), flags: u32_of(message, 8), ..Link::default() };
        link.hardware.0 = u16_of(message, 2);
        for (kind, data) in attributes(body) {
            match kind {
                1 => link.hardware.1 = data.to_vec(),
                2 => link.broadcast = data.to_vec(),
                3 => link.name = text(data),
                7 => link.statistics = data.to_vec(),
                _ => {}
            }
        }
        Some(link)
    }

    /// ifaddrmsg: family, prefix, flags, scope (bytes), index. On a point-to-point link IFA_ADDRESS is
    /// the other end and IFA_LOCAL our own.
    fn address(kind: u16, message: &[u8], links: &[Link]) -> Option<LinkAddress> {
        let body = message.get(8..).filter(|_| kind == RTM_NEWADDR)?;
        let parse = |data: &[u8]| match message[0] as i32 {
            super::AF_INET => data.try_into().ok().map(Address::V4),
            super::AF_INET6 => data.try_into().ok().map(Address::V6),
            _ => None,
        };
        let (mut local, mut peer, mut broadcast, mut label) = (None, None, None, None);
        for (kind, data) in attributes(body) {
            match kind {
                1 => peer = parse(data),
                2 => local = parse(data),
                3 => label = Some(text(data)),
                4 => broadcast = parse(data),
                _ => {}
            }
        }
        let index = u32_of(message, 4);
        let name = links.iter().find(|l| l.index == index).map(|l| l.name.clone());
        let address = local.or(peer)?;
        // Broadcast and other end share a field; where the kernel gives both addresses it is filled.
        let other = broadcast.or(peer.filter(|_| local.is_some()));
        let link_local = matches!(address, Address::V6([0xfe, b, ..]) if b & 0xc0 == 0x80);
        Some(LinkAddress {
            index,
            label: label.or(name)?,
            address,
            prefix: message[1] as u32,
            other,
            scope: if link_local { index } else { 0 },
        })
    }
}

mod ioctls {
    use super::{Address, Link, LinkAddress, NAME_LEN};
    use crate::kcall;
    use crate::netdb::files;
    use alloc::vec::Vec;
    use platform::Errno;

    pub(super) const SIOCGIFNAME: usize = 0x8910;
    const SIOCGIFCONF: usize = 0x8912;
    const SIOCGIFFLAGS: usize = 0x8913;
    const SIOCGIFDSTADDR: usize = 0x8917;
    const SIOCGIFBRDADDR: usize = 0x8919;
    const SIOCGIFNETMASK: usize = 0x891b;
    const SIOCGIFHWADDR: usize = 0x8927;
    pub(super) const SIOCGIFINDEX: usize = 0x8933;

    /// struct ifreq: name, then a union.
    pub(super) struct Request([u8; 40]);

    impl Request {
        pub(super) fn named(name: &[u8]) -> Self {
            let mut request = [0u8; 40];
            request[..name.len()].copy_from_slice(name);
            Self(request)
        }

        pub(super) fn ask(&mut self, what: usize) -> Result<(), Errno> {
            with_socket(|fd| {
                // SAFETY: struct ifreq has 40 bytes.
                unsafe { kcall!(ioctl, fd, what, self.0.as_mut_ptr()) }.map(drop)
            })
        }

        pub(super) fn u32(&self) -> u32 {
            u32::from_ne_bytes([self.0[16], self.0[17], self.0[18], self.0[19]])
        }

        pub(super) fn set_u32(&mut self, value: u32) {
            self.0[16..20].copy_from_slice(&value.to_ne_bytes());
        }

        pub(super) fn name(&self) -> Vec<u8> {
            self.0[..NAME_LEN].split(|&b| b == 0).next().unwrap_or(b"").to_vec()
        }

        fn v4(&self) -> [u8; 4] {
            [self.0[20], self.0[21], self.0[22], self.0[23]]
        }
    }

    fn with_socket<T>(work: impl FnOnce(usize) -> Result<T, Errno>) -> Result<T, Errno> {
        const SOCK_DGRAM_CLOEXEC: usize = 2 | 0o2000000;
        // SAFETY: the descriptor is ours and closed again.
        unsafe {
            let fd = kcall!(socket, 2, SOCK_DGRAM_CLOEXEC, 0)?;
            let result = work(fd);
            let _ = kcall!(close, fd);
            result
        }
    }

    pub(super) fn all() -> Result<(Vec<Link>, Vec<LinkAddress>), Errno> {
        let mut links: Vec<Link> = Vec::new();
        let mut addresses = Vec::new();
        for (name, v4) in configured()? {
            // An alias (`eth0:1`) is an address of the interface before the colon.
            let base = name.split(|&b| b == b':').next().unwrap_or(&name).to_vec();
            let link = described(&mut links, &base)?;
            let mask = asked(&name, SIOCGIFNETMASK).map_or([255; 4], |r| r.v4());
            let other = match link.flags {
                flags if flags & super::IFF_POINTOPOINT != 0 => asked(&name, SIOCGIFDSTADDR),
                flags if flags & super::IFF_BROADCAST != 0 => asked(&name, SIOCGIFBRDADDR),
                _ => None,
            };
            addresses.push(LinkAddress {
                index: link.index,
                label: name,
                address: Address::V4(v4),
                prefix: u32::from_be_bytes(mask).leading_ones(),
                other: other.map(|r| Address::V4(r.v4())),
                scope: 0,
            });
        }
        addresses.extend(v6_addresses(&mut links));
        Ok((links, addresses))
    }

    fn asked(name: &[u8], what: usize) -> Option<Request> {
        let mut request = Request::named(&name[..name.len().min(NAME_LEN - 1)]);
        request.ask(what).ok().map(|()| request)
    }

    fn described<'a>(links: &'a mut Vec<Link>, name: &[u8]) -> Result<&'a Link, Errno> {
        if let Some(at) = links.iter().position(|l| l.name == name) {
            return Ok(&links[at]);
        }
        let mut link = Link { name: name.to_vec(), index: super::index_of(name)?, ..Link::default() };
        link.flags = asked(name, SIOCGIFFLAGS).map_or(0, |r| r.u32() & 0xffff);
        if let Some(request) = asked(name, SIOCGIFHWADDR) {
            link.hardware = (u16::from_ne_bytes([request.0[16], request.0[17]]), request.0[18..24].to_vec());
        }
        links.push(link);
        Ok(links.last().expect("just pushed"))
    }

    type Named = (Vec<u8>, [u8; 4]);

    /// SIOCGIFCONF: (name, IPv4 address) of each.
    fn configured() -> Result<Vec<Named>, Errno> {
        const ROOM: usize = 128;
        let mut requests = alloc::vec![0u8; ROOM * 40];
        // struct ifconf: length, pad, pointer.
        let mut conf = [requests.len() as u64, requests.as_mut_ptr() as u64];
        // SAFETY: the kernel fills at most the length told.
        with_socket(|fd| unsafe { kcall!(ioctl, fd, SIOCGIFCONF, conf.as_mut_ptr()) })?;
        let len = (conf[0] as u32 as usize).min(requests.len());
        let read = |r: &[u8]| {
            let mut request = [0u8; 40];
            request.copy_from_slice(r);
            let request = Request(request);
            (request.name(), request.v4())
        };
        Ok(requests[..len].chunks_exact(40).map(read).collect())
    }

    /// `/proc/net/if_inet6`: address, index, prefix, scope, flags (hex), name.
    fn v6_addresses(links: &mut Vec<Link>) -> Vec<LinkAddress> {
        let bytes = files::read(c"/proc/net/if_inet6").unwrap_or_default();
        let hex = |text: &[u8]| u128::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok();
        let mut parse = |line: &[u8]| {
            let words: Vec<&[u8]> = files::words(line).collect();
            let [address, index, prefix, scope, _, name] = words[..] else { return None };
            described(links, name).ok()?;
            let (index, link_local) = (hex(index)? as u32, hex(scope)? == 0x20);
            Some(LinkAddress {
                index,
                label: name.to_vec(),
                address: Address::V6(hex(address)?.to_be_bytes()),
                prefix: hex(prefix)? as u32,
                other: None,
                scope: if link_local { index } else { 0 },
            })
        };
        files::lines(&bytes).filter_map(&mut parse).collect()
    }
}

/// `struct ifaddrs`
#[repr(C)]
pub struct ifaddrs {
    ifa_next: *mut ifaddrs,
    ifa_name: *mut c_char,
    ifa_flags: c_uint,
    ifa_addr: *mut c_void,
    ifa_netmask: *mut c_void,
    ifa_ifu: *mut c_void,
    ifa_data: *mut c_void,
}

/// `struct if_nameindex`
#[repr(C)]
pub struct if_nameindex_t {
    if_index: c_uint,
    if_name: *mut c_char,
}

abi! { EXPORTS "libc.so.6":
    /// if_nametoindex(3).
    "GLIBC_2.2.5" fn if_nametoindex(name: *const c_char) -> c_uint {
        // SAFETY: the caller's string.
        index_of(unsafe { bytes(name) }).unwrap_or_else(|error| {
            errno::set(error);
            0
        })
    }
    /// if_indextoname(3), into 16 bytes.
    "GLIBC_2.2.5" fn if_indextoname(index: c_uint, to: *mut c_char) -> *mut c_char {
        match name_of(index) {
            Ok(name) => {
                // SAFETY: the caller's buffer of IF_NAMESIZE bytes; a name is shorter.
                unsafe {
                    core::ptr::copy_nonoverlapping(name.as_ptr(), to.cast(), name.len());
                    to.add(name.len()).write(0);
                }
                to
            }
            Err(error) => {
                errno::set(error);
                null_mut()
            }
        }
    }
    /// if_nameindex(3).
    "GLIBC_2.2.5" fn if_nameindex() -> *mut if_nameindex_t {
        errno::or_null(all().and_then(|(links, _)| name_list(&links)))
    }
    /// if_freenameindex(3).
    "GLIBC_2.2.5" fn if_freenameindex(list: *mut if_nameindex_t) {
        // SAFETY: one block of `if_nameindex`.
        unsafe { free(list.cast()) }
    }
    /// getifaddrs(3).
    "GLIBC_2.3" fn getifaddrs(result: *mut *mut ifaddrs) -> c_int {
        match all().and_then(|(links, addresses)| address_list(&links, &addresses)) {
            Ok(list) => {
                // SAFETY: the caller's variable.
                unsafe { result.write(list) };
                0
            }
            Err(error) => errno::int(Err(error)),
        }
    }
    /// freeifaddrs(3).
    "GLIBC_2.3" fn freeifaddrs(list: *mut ifaddrs) {
        // SAFETY: one block of `getifaddrs`.
        unsafe { free(list.cast()) }
    }
}

/// All entries and names in one block, an entry of zeros at the end.
fn name_list(links: &[Link]) -> Result<*mut if_nameindex_t, Errno> {
    let entries = (links.len() + 1) * size_of::<if_nameindex_t>();
    // SAFETY: the block has room for entries and names.
    unsafe {
        let block: *mut u8 = malloc(entries + links.len() * NAME_LEN).cast();
        if block.is_null() {
            return Err(Errno::ENOBUFS);
        }
        block.write_bytes(0, entries + links.len() * NAME_LEN);
        for (i, link) in links.iter().enumerate() {
            let name = block.add(entries + i * NAME_LEN);
            core::ptr::copy_nonoverlapping(link.name.as_ptr(), name, link.name.len().min(NAME_LEN - 1));
            block
                .cast::<if_nameindex_t>()
                .add(i)
                .write(if_nameindex_t { if_index: link.index, if_name: name.cast() });
        }
        Ok(block.cast())
    }
}

/// One entry of getifaddrs with what it points at.
struct Item {
    name: Vec<u8>,
    flags: u32,
    parts: [Vec<u8>; 4],
}

/// sockaddr_ll of an interface.
fn link_address(link: &Link, hardware: &[u8]) -> Vec<u8> {
    const AF_PACKET: u16 = 17;
    let mut bytes = alloc::vec![0u8; 20];
    bytes[..2].copy_from_slice(&AF_PACKET.to_ne_bytes());
    bytes[4..8].copy_from_slice(&link.index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&link.hardware.0.to_ne_bytes());
    bytes[11] = hardware.len() as u8;
    bytes.truncate(12);
    bytes.extend_from_slice(hardware);
    bytes.resize(bytes.len().max(20), 0);
    bytes
}

fn internet(address: &Address, scope: u32) -> Vec<u8> {
    let entry = super::addrinfo::Entry { address: *address, scope, port: 0, socktype: 0, protocol: 0 };
    let (bytes, len) = super::addrinfo::socket_address(&entry);
    bytes[..len].to_vec()
}

fn mask(like: &Address, prefix: u32) -> Vec<u8> {
    let bits = |width: u32| if prefix == 0 { 0 } else { u128::MAX << (width - prefix.min(width)) };
    let mask = match like {
        Address::V4(_) => Address::V4((bits(32) as u32).to_be_bytes()),
        Address::V6(_) => Address::V6(bits(128).to_be_bytes()),
    };
    internet(&mask, 0)
}

/// Entries of getifaddrs: first the interfaces with their hardware addresses, then all others.
fn address_list(links: &[Link], addresses: &[LinkAddress]) -> Result<*mut ifaddrs, Errno> {
    let hardware = links.iter().map(|link| Item {
        name: link.name.clone(),
        flags: link.flags,
        parts: [
            link_address(link, &link.hardware.1),
            Vec::new(),
            link_address(link, &link.broadcast),
            link.statistics.clone(),
        ],
    });
    let internet = addresses.iter().map(|a| Item {
        name: a.label.clone(),
        flags: links.iter().find(|l| l.index == a.index).map_or(0, |l| l.flags),
        parts: [
            self::internet(&a.address, a.scope),
            mask(&a.address, a.prefix),
            a.other.as_ref().map_or(Vec::new(), |o| self::internet(o, a.scope)),
            Vec::new(),
        ],
    });
    let items: Vec<Item> = hardware.chain(internet).collect();
    let room = |item: &Item| {
        let parts: usize = item.parts.iter().map(|p| p.len().next_multiple_of(8)).sum();
        size_of::<ifaddrs>() + parts + (item.name.len() + 1).next_multiple_of(8)
    };
    let total: usize = items.iter().map(room).sum();
    if items.is_empty() {
        return Ok(null_mut());
    }
    // SAFETY: each item takes what `room` counted, in the order of the block.
    unsafe {
        let block: *mut u8 = malloc(total).cast();
        if block.is_null() {
            return Err(Errno::ENOMEM);
        }
        block.write_bytes(0, total);
        let mut at = block;
        for (i, item) in items.iter().enumerate() {
            let entry: *mut ifaddrs = at.cast();
            let mut tail = at.add(size_of::<ifaddrs>());
            let mut put = |bytes: &[u8]| {
                if bytes.is_empty() {
                    return null_mut();
                }
                let place = tail;
                core::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
                tail = tail.add(bytes.len().next_multiple_of(8));
                place
            };
            let [addr, netmask, other, data] = &item.parts;
            let mut name = item.name.clone();
            name.push(0);
            *entry = ifaddrs {
                ifa_next: null_mut(),
                ifa_name: put(&name).cast(),
                ifa_flags: item.flags,
                ifa_addr: put(addr).cast(),
                ifa_netmask: put(netmask).cast(),
                ifa_ifu: put(other).cast(),
                ifa_data: put(data).cast(),
            };
            at = at.add(room(item));
            if i + 1 < items.len() {
                (*entry).ifa_next = at.cast();
            }
        }
        Ok(block.cast())
    }
}
