//! Our addresses, where a packet goes next, and which address it comes from.
//!
//! One table for both families: prefixes of 128 bits (IPv4 as mapped addresses), sorted so that the first
//! match is the longest prefix and among equals the lowest metric. A link has few routes; they are searched.

use alloc::vec::Vec;
use core::cell::Cell;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{Cidr, Config};

/// The next step of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// It stays here.
    Local,
    /// To the neighbour with this address.
    Via(IpAddr),
    /// To everybody on the link, or a group there.
    Broadcast,
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Destinations that begin like this, in so many bits.
    pub prefix: Cidr,
    /// The router; `None`: destinations are on the link.
    pub via: Option<IpAddr>,
    /// Lower is better.
    pub metric: u32,
    /// Milliseconds of the shard's clock after which it is gone; 0: never.
    pub expires_ms: u64,
}

/// An IPv6 address of ours (RFC 4862 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own6 {
    /// The address.
    pub addr: Ipv6Addr,
    /// Bits that its neighbours share.
    pub prefix: u8,
    /// Nobody has objected yet, but somebody may: used all the same (optimistic, RFC 4429).
    pub tentative: bool,
    /// Not for new connections after this time; 0: never.
    pub preferred_until_ms: u64,
    /// Gone after this time; 0: never.
    pub valid_until_ms: u64,
    /// Made from a router's prefix.
    pub autoconfigured: bool,
}

impl Own6 {
    pub(crate) fn deprecated(&self, now_ms: u64) -> bool {
        self.preferred_until_ms != 0 && now_ms >= self.preferred_until_ms
    }
}

#[derive(Clone, Copy)]
struct Line {
    prefix: u128,
    /// Bits that count, of 128.
    bits: u8,
    entry: RouteEntry,
}

/// Addresses of ours and the routes.
#[derive(Clone)]
pub(crate) struct Routes {
    addresses: Vec<(Ipv4Addr, u8)>,
    own6: Vec<Own6>,
    lines: Vec<Line>,
    point_to_point: bool,
    any_ip: bool,
    /// Counts changes of our addresses.
    pub(crate) changes: u64,
    /// Counts changes of anything here.
    pub(crate) version: u64,
    /// What [`Routes::next_ms`] said, at which version.
    next: Cell<(u64, Option<u64>)>,
}

/// Linux's metrics: of what the kernel or an administrator adds for IPv6, of what a router told, of DHCP.
pub(crate) const METRIC_V6: u32 = 256;
pub(crate) const METRIC_ROUTER: u32 = 1024;

impl Routes {
    pub(crate) fn new(config: &Config) -> Routes {
        let mut routes = Routes {
            addresses: Vec::new(),
            own6: Vec::new(),
            lines: Vec::new(),
            point_to_point: config.peer_mac.is_some(),
            any_ip: config.any_ip,
            changes: 0,
            version: 0,
            next: Cell::new((u64::MAX, None)),
        };
        config.addresses.iter().for_each(|cidr| routes.add(*cidr));
        for gateway in [config.gateway, config.gateway6.map(IpAddr::V6)].into_iter().flatten() {
            routes.set_gateway(gateway.is_ipv6(), Some(gateway));
        }
        config.routes.iter().for_each(|entry| routes.add_route(*entry));
        routes
    }

    /// A new address of ours, with the network it is in.
    pub(crate) fn add(&mut self, cidr: Cidr) {
        match cidr.address {
            IpAddr::V4(address) => {
                self.remove(cidr.address);
                self.addresses.push((address, cidr.prefix.min(32)));
                self.changes += 1;
                self.add_on_link(cidr, 0);
            }
            IpAddr::V6(addr) => {
                let own = Own6 {
                    addr,
                    prefix: cidr.prefix.min(128),
                    tentative: false,
                    preferred_until_ms: 0,
                    valid_until_ms: 0,
                    autoconfigured: false,
                };
                self.add6(own);
                self.add_on_link(cidr, METRIC_V6);
            }
        }
    }

    /// The same without the network.
    pub(crate) fn add6(&mut self, own: Own6) {
        self.own6.retain(|other| other.addr != own.addr);
        self.own6.push(own);
        self.changes += 1;
        self.version += 1;
    }

    fn add_on_link(&mut self, prefix: Cidr, metric: u32) {
        if prefix.prefix < if prefix.address.is_ipv4() { 32 } else { 128 } {
            self.add_route(RouteEntry { prefix, via: None, metric, expires_ms: 0 });
        }
    }

    /// The address is not ours any more. Its network goes with the last address in it.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        self.changes += 1;
        self.version += 1;
        match address {
            IpAddr::V4(v4) => {
                let Some(at) = self.addresses.iter().position(|(own, _)| *own == v4) else { return };
                let (_, prefix) = self.addresses.remove(at);
                if !self.addresses.iter().any(|(own, bits)| *bits == prefix && same(*own, v4, prefix)) {
                    let bits = prefix + 96;
                    let key = cut(wide(address), bits);
                    self.lines
                        .retain(|line| (line.prefix, line.bits) != (key, bits) || line.entry.via.is_some());
                }
            }
            IpAddr::V6(v6) => self.own6.retain(|own| own.addr != v6),
        }
    }

    /// The default route of a family, as an administrator sets it.
    pub(crate) fn set_gateway(&mut self, v6: bool, gateway: Option<IpAddr>) {
        let metric = if v6 { METRIC_ROUTER - 1 } else { 0 };
        let prefix = Cidr { address: any(v6), prefix: 0 };
        self.version += 1;
        self.lines.retain(|line| line.entry.prefix != prefix || line.entry.metric != metric);
        if let Some(via) = gateway.filter(|via| via.is_ipv6() == v6) {
            self.add_route(RouteEntry { prefix, via: Some(via), metric, expires_ms: 0 });
        }
    }

    /// Adds a route, in place of one with the same prefix, next hop and metric.
    pub(crate) fn add_route(&mut self, entry: RouteEntry) {
        self.remove_route(&entry);
        let bits = match entry.prefix.address {
            IpAddr::V4(_) => entry.prefix.prefix.min(32) + 96,
            IpAddr::V6(_) => entry.prefix.prefix.min(128),
        };
        let line = Line { prefix: cut(wide(entry.prefix.address), bits), bits, entry };
        let rank = |line: &Line| (u8::MAX - line.bits, line.entry.metric);
        let at = self.lines.partition_point(|other| rank(other) <= rank(&line));
        self.lines.insert(at, line);
    }

    pub(crate) fn remove_route(&mut self, entry: &RouteEntry) {
        self.version += 1;
        self.lines.retain(|line| {
            let other = &line.entry;
            (other.prefix, other.via, other.metric) != (entry.prefix, entry.via, entry.metric)
        });
    }

    /// The table, best first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &RouteEntry> {
        self.lines.iter().map(|line| &line.entry)
    }

    /// Our IPv4 addresses.
    pub(crate) fn v4(&self) -> &[(Ipv4Addr, u8)] {
        &self.addresses
    }

    /// Our IPv6 addresses.
    pub(crate) fn v6(&self) -> &[Own6] {
        &self.own6
    }

    pub(crate) fn own6_mut(&mut self, addr: Ipv6Addr) -> Option<&mut Own6> {
        self.version += 1;
        self.own6.iter_mut().find(|own| own.addr == addr)
    }

    /// Drops what has had its time; gives the addresses that went.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<Ipv6Addr> {
        let over = |until: u64| until != 0 && now_ms >= until;
        self.lines.retain(|line| !over(line.entry.expires_ms));
        let gone: Vec<Ipv6Addr> =
            self.own6.iter().filter(|own| over(own.valid_until_ms)).map(|own| own.addr).collect();
        self.own6.retain(|own| !over(own.valid_until_ms));
        self.changes += gone.len() as u64;
        self.version += 1;
        gone
    }

    /// When `expire` has something to do.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        // Asked after each operation on a socket, changed by hardly any.
        let (version, next) = self.next.get();
        if version == self.version {
            return next;
        }
        let lines = self.lines.iter().map(|line| line.entry.expires_ms);
        let next = lines.chain(self.own6.iter().map(|own| own.valid_until_ms)).filter(|at| *at != 0).min();
        self.next.set((self.version, next));
        next
    }

    /// The address is one of ours.
    #[inline]
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.is_loopback() || self.addresses.iter().any(|(own, _)| *own == v4),
            IpAddr::V6(v6) => v6.is_loopback() || self.own6.iter().any(|own| own.addr == v6),
        }
    }

    /// The address means everybody on a network of ours.
    #[inline]
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        address.is_broadcast()
            || self.addresses.iter().any(|&(own, prefix)| {
                let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                prefix < 31 && u32::from(own) | host == u32::from(address)
            })
    }

    /// The way to `destination`; `None` if there is none.
    pub(crate) fn route(&self, destination: IpAddr) -> Option<Route> {
        if destination.is_unspecified() || self.is_local(destination) {
            return Some(Route::Local);
        }
        if self.is_broadcast(destination) || destination.is_multicast() {
            return Some(Route::Broadcast);
        }
        if self.point_to_point && (destination.is_ipv4() || self.any_ip || !self.own6.is_empty()) {
            return Some(Route::Via(destination));
        }
        if let IpAddr::V6(v6) = destination
            && v6.is_unicast_link_local()
        {
            return self
                .own6
                .iter()
                .any(|own| own.addr.is_unicast_link_local())
                .then_some(Route::Via(destination));
        }
        let key = wide(destination);
        let v6 = destination.is_ipv6();
        let fits =
            |line: &&Line| cut(key, line.bits) == line.prefix && line.entry.prefix.address.is_ipv6() == v6;
        let line = self.lines.iter().find(fits)?;
        Some(Route::Via(line.entry.via.unwrap_or(destination)))
    }

    /// The source for packets to `destination`.
    pub(crate) fn source_for(&self, destination: IpAddr, now_ms: u64) -> Option<IpAddr> {
        match destination {
            IpAddr::V4(v4) => self.source_v4(v4).map(IpAddr::V4),
            IpAddr::V6(v6) => self.source_v6(v6, now_ms).map(IpAddr::V6),
        }
    }

    /// IPv4: the address on the same network as the next hop, else the first.
    pub(crate) fn source_v4(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        if destination.is_loopback() {
            return Some(Ipv4Addr::LOCALHOST);
        }
        if self.is_local(destination.into()) {
            return Some(destination);
        }
        let near = |hop: Ipv4Addr| self.addresses.iter().find(move |&&(own, prefix)| same(own, hop, prefix));
        let hop = || match self.route(destination.into()) {
            Some(Route::Via(IpAddr::V4(hop))) => near(hop),
            _ => None,
        };
        near(destination).or_else(hop).or(self.addresses.first()).map(|(own, _)| *own)
    }

    /// IPv6: RFC 6724 section 5, as far as one link has choices (rules 1, 2, 3, 6 and 8).
    pub(crate) fn source_v6(&self, destination: Ipv6Addr, now_ms: u64) -> Option<Ipv6Addr> {
        if destination.is_loopback() || self.is_local(destination.into()) {
            return Some(destination);
        }
        let wanted = scope(destination);
        let rank = |own: &Own6| {
            let (theirs, same) =
                (scope(own.addr), (own.addr.to_bits() ^ destination.to_bits()).leading_zeros());
            // Rule 2: the smallest scope that reaches; if none does, the largest there is.
            let fits = if theirs >= wanted { u16::from(0xff - theirs) + 0x100 } else { u16::from(theirs) };
            let label = label(own.addr) == label(destination);
            (fits, !own.deprecated(now_ms), label, same.min(u32::from(own.prefix)))
        };
        self.own6.iter().max_by_key(|own| rank(own)).map(|own| own.addr)
    }
}

/// RFC 4291's scopes: link 2, site 5, global 14; a group says its own.
pub(crate) fn scope(addr: Ipv6Addr) -> u8 {
    if addr.is_multicast() {
        addr.octets()[1] & 0xf
    } else if addr.is_unicast_link_local() || addr.is_loopback() {
        2
    } else if addr.segments()[0] & 0xffc0 == 0xfec0 {
        5
    } else {
        14
    }
}

/// The default policy table's labels (RFC 6724 section 2.1).
pub(crate) fn label(addr: Ipv6Addr) -> u8 {
    let [a, b, ..] = addr.segments();
    match (a, b) {
        _ if addr.is_loopback() => 0,
        _ if addr.to_ipv4_mapped().is_some() => 4,
        (0x2002, _) => 2,
        (0x2001, 0) => 5,
        _ if a & 0xfe00 == 0xfc00 => 13,
        _ if a & 0xffc0 == 0xfec0 => 11,
        (0x3ffe, _) => 12,
        _ if addr.to_bits() >> 32 == 0 => 3,
        _ => 1,
    }
}

fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn wide(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => 0xffff_0000_0000 | u128::from(u32::from(v4)),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn cut(addr: u128, bits: u8) -> u128 {
    match bits {
        0 => 0,
        bits => addr & u128::MAX << (128 - u32::from(bits)),
    }
}

fn same(a: Ipv4Addr, b: Ipv4Addr, prefix: u8) -> bool {
    (u32::from(a) ^ u32::from(b)).checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn cidr(text: &str, prefix: u8) -> Cidr {
        Cidr { address: ip(text), prefix }
    }

    #[test]
    fn chooses_the_next_hop() {
        let config = Config::new([2; 6], [0; 32]).address(ip("10.0.0.2"), 24).gateway(ip("10.0.0.1"));
        let routes = Routes::new(&config);
        let to = |text| routes.route(ip(text));
        assert_eq!(to("127.3.2.1"), Some(Route::Local));
        assert_eq!(to("10.0.0.2"), Some(Route::Local));
        assert_eq!(to("10.0.0.9"), Some(Route::Via(ip("10.0.0.9"))));
        assert_eq!(to("8.8.8.8"), Some(Route::Via(ip("10.0.0.1"))));
        assert_eq!(to("10.0.0.255"), Some(Route::Broadcast));
        assert_eq!(to("224.0.0.1"), Some(Route::Broadcast));
        assert_eq!(to("2001:db8::1"), None);
        assert_eq!(to("fe80::1"), None);
    }

    #[test]
    fn the_longest_prefix_wins_and_then_the_metric() {
        let mut routes = Routes::new(&Config::new([2; 6], [0; 32]).address(ip("2001:db8::2"), 64));
        let mut add = |prefix: &str, len, via: &str, metric| {
            let via = Some(ip(via));
            routes.add_route(RouteEntry { prefix: cidr(prefix, len), via, metric, expires_ms: 0 });
        };
        add("::", 0, "fe80::1", 1024);
        add("::", 0, "fe80::2", 512);
        add("2001:db8:5::", 48, "fe80::3", 4096);
        add("10.0.0.0", 8, "10.9.9.9", 0);
        let to = |text| routes.route(ip(text));
        assert_eq!(to("2001:db8::77"), Some(Route::Via(ip("2001:db8::77"))));
        assert_eq!(to("2001:db8:5::1"), Some(Route::Via(ip("fe80::3"))));
        assert_eq!(to("2600::1"), Some(Route::Via(ip("fe80::2"))));
        assert_eq!(to("10.1.1.1"), Some(Route::Via(ip("10.9.9.9"))));
        assert_eq!(to("11.1.1.1"), None, "an IPv6 default is not IPv4's");
        routes.expire(1);
        assert_eq!(routes.entries().count(), 5);
    }

    #[test]
    fn sources_follow_rfc_6724() {
        let mut routes = Routes::new(&Config::new([2; 6], [0; 32]));
        let own = |text: &str, preferred| Own6 {
            addr: text.parse().unwrap(),
            prefix: 64,
            tentative: false,
            preferred_until_ms: preferred,
            valid_until_ms: 0,
            autoconfigured: false,
        };
        for (text, preferred) in [
            ("fe80::5", 0),
            ("2001:db8:1::5", 0),
            ("2001:db8:2::5", 0),
            ("fd00::5", 0),
            ("2001:db8:3::5", 10),
        ] {
            routes.add6(own(text, preferred));
        }
        let from = |text: &str| routes.source_for(ip(text), 100).unwrap();
        assert_eq!(from("fe80::9"), ip("fe80::5"));
        assert_eq!(from("ff02::1"), ip("fe80::5"));
        assert_eq!(from("2001:db8:2::9"), ip("2001:db8:2::5"));
        assert_eq!(from("fd00::9"), ip("fd00::5"), "by label");
        assert_ne!(from("2001:db8:3::9"), ip("2001:db8:3::5"), "deprecated");
        assert_eq!(from("2001:db8:3::5"), ip("2001:db8:3::5"), "itself");
        assert_eq!(from("::1"), ip("::1"));
    }
}
