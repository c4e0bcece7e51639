//! What an IPv6 node does on its link: neighbour discovery (RFC 4861), duplicate address detection and
//! address autoconfiguration (RFC 4862) with stable opaque interface identifiers (RFC 7217).
//!
//! Addresses are used while they are still being tested (optimistic, RFC 4429): a guest that starts does
//! not wait a second for its first connection. Left out: temporary addresses (RFC 8981), DHCPv6, secured
//! neighbour discovery.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use super::icmp6;
use super::ipv6::{ALL_NODES, ALL_ROUTERS, solicited_node};
use super::ndp::{self, Message, Options, Prefix};
use super::neighbor::News;
use super::packet::Packet;
use super::route::{METRIC_ROUTER, METRIC_V6, Own6, Route, RouteEntry};
use crate::config::{Cidr, Config, Ipv6Mode};
use crate::engine::isn::{Key, sip};
use crate::shard::Shard;

/// RETRANS_TIMER: how long an objection may take (RFC 4862 section 5.1).
const DAD_MS: u64 = 1_000;
/// RTR_SOLICITATION_INTERVAL and MAX_RTR_SOLICITATIONS (RFC 4861 section 10).
const SOLICIT_MS: u64 = 4_000;
const MAX_SOLICITS: u8 = 3;
/// Identifiers tried before a prefix is given up (RFC 7217's IDGEN_RETRIES).
const MAX_CONFLICTS: u8 = 3;
/// RFC 4862 section 5.5.3 e: an unauthenticated router cannot shorten a life below this.
const TWO_HOURS_S: u64 = 7_200;
/// How long a redirect is believed.
const REDIRECT_MS: u64 = 600_000;
/// Autoconfigured addresses, and routes told by routers: a link that says more is hostile (Linux's
/// max_addresses).
const MAX_ADDRESSES: usize = 16;
const MAX_ROUTES: usize = 256;

struct Test {
    addr: Ipv6Addr,
    sent: bool,
    next_ms: u64,
}

/// State of the node.
pub(crate) struct Node {
    key: Key,
    tests: Vec<Test>,
    conflicts: u8,
    solicits: u8,
    /// When the next router solicitation is due; 0 for none.
    solicit_ms: u64,
    /// What routers say of the link.
    pub(crate) hop_limit: u8,
    pub(crate) mtu: Option<usize>,
    pub(crate) dns: Vec<Ipv6Addr>,
}

impl Node {
    pub(crate) fn new(key: Key) -> Node {
        Node {
            key,
            tests: Vec::new(),
            conflicts: 0,
            solicits: 0,
            solicit_ms: 0,
            hop_limit: 64,
            mtu: None,
            dns: Vec::new(),
        }
    }

    /// When something is due.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        let tests = self.tests.iter().map(|test| test.next_ms).min();
        let solicit = (self.solicit_ms != 0).then_some(self.solicit_ms);
        match (tests, solicit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// RFC 7217 section 5: an identifier that is the same for a prefix and interface, and tells nothing.
    fn identifier(&self, prefix: Ipv6Addr, mac: [u8; 6]) -> u64 {
        let mut counter = u64::from(self.conflicts);
        loop {
            let [a, b, c, d, e, f] = mac;
            let interface = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
            let words = [(prefix.to_bits() >> 64) as u64, interface << 16 | counter];
            let identifier = sip::<2, 4>(self.key, words);
            // RFC 5453: reserved ones.
            let anycast = identifier >> 7 == 0xfdff_ffff_ffff_ff80 >> 7;
            if identifier != 0 && !anycast && identifier >> 24 != 0x0002_005e_fffe >> 8 {
                return identifier;
            }
            counter += 1 << 8;
        }
    }
}

fn with_identifier(prefix: Ipv6Addr, identifier: u64) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix.to_bits() >> 64 << 64 | u128::from(identifier))
}

impl Shard {
    /// Begins an IPv6 life on a link: link-local address, tests, questions for routers.
    pub(crate) fn node_start(&mut self) {
        let on_wire = self.config.peer_mac.is_none();
        let listed = !self.routes.v6().is_empty();
        let wanted = match self.config.ipv6 {
            Ipv6Mode::Off => false,
            Ipv6Mode::Static => listed,
            Ipv6Mode::Auto => true,
        };
        if !wanted {
            return;
        }
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
        if !self.routes.v6().iter().any(|own| own.addr.is_unicast_link_local()) {
            let addr = with_identifier(link_local, self.node.identifier(link_local, self.config.mac));
            self.routes.add(Cidr { address: addr.into(), prefix: 64 });
        }
        let all: Vec<Ipv6Addr> = self.routes.v6().iter().map(|own| own.addr).collect();
        all.into_iter().filter(|_| on_wire).for_each(|addr| self.test_address(addr));
        if self.config.ipv6 == Ipv6Mode::Auto && on_wire {
            self.node.solicit_ms = 1;
        }
    }

    /// Begins duplicate address detection (RFC 4862 section 5.4).
    pub(crate) fn test_address(&mut self, addr: Ipv6Addr) {
        if let Some(own) = self.routes.own6_mut(addr) {
            own.tentative = true;
            self.groups_changed(solicited_node(addr).into());
            self.node.tests.retain(|test| test.addr != addr);
            self.node.tests.push(Test { addr, sent: false, next_ms: self.now.ms });
        }
    }

    pub(crate) fn node_timers(&mut self) {
        let now = self.now.ms;
        if self.routes.next_ms().is_some_and(|at| at <= now) {
            self.routes.expire(now);
        }
        let due = |test: &Test| test.next_ms <= now;
        let over: Vec<Ipv6Addr> =
            self.node.tests.iter().filter(|t| due(t) && t.sent).map(|t| t.addr).collect();
        self.node.tests.retain(|test| !(due(test) && test.sent));
        for addr in over {
            if let Some(own) = self.routes.own6_mut(addr) {
                own.tentative = false;
            }
        }
        let mut asked = Vec::new();
        for test in self.node.tests.iter_mut().filter(|test| test.next_ms <= now) {
            (test.sent, test.next_ms) = (true, now + DAD_MS);
            asked.push(test.addr);
        }
        for addr in asked {
            let question = ndp::solicit(addr, None);
            self.push_ndp(Ipv6Addr::UNSPECIFIED, solicited_node(addr), &question);
        }
        if self.node.solicit_ms != 0 && self.node.solicit_ms <= now {
            self.solicit_routers();
        }
    }

    fn solicit_routers(&mut self) {
        self.node.solicits += 1;
        let more = self.node.solicits < MAX_SOLICITS;
        self.node.solicit_ms = if more { self.now.ms + SOLICIT_MS } else { 0 };
        let own = self.routes.v6().iter().find(|own| own.addr.is_unicast_link_local());
        let Some(own) = own else { return };
        // An optimistic address must not enter neighbours' caches (RFC 4429 section 3.2).
        let (from, mac) = (own.addr, (!own.tentative).then_some(self.config.mac));
        self.push_ndp(from, ALL_ROUTERS, &ndp::router_solicit(mac));
    }

    fn push_ndp(&mut self, from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) {
        self.push_packet(icmp6::packet(from, to, ndp::HOP_LIMIT, message));
    }

    /// A question for a neighbour's hardware address: to all who may have it, or to the one who had it.
    pub(crate) fn solicit_neighbor(&self, target: Ipv6Addr, mac: Option<[u8; 6]>) -> Option<Vec<u8>> {
        let from = self.routes.source_v6(target, self.now.ms)?;
        let tentative = self.routes.v6().iter().any(|own| own.addr == from && own.tentative);
        let message = ndp::solicit(target, (!tentative).then_some(self.config.mac));
        let to = if mac.is_some() { target } else { solicited_node(target) };
        Some(icmp6::packet(from, to, ndp::HOP_LIMIT, &message))
    }

    /// An NDP message with the right checksum.
    #[cold]
    pub(crate) fn input_ndp(&mut self, packet: &Packet<'_>) {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (packet.src, packet.dst) else { return };
        if packet.hop_limit != ndp::HOP_LIMIT || self.config.ipv6 == Ipv6Mode::Off {
            return;
        }
        match ndp::parse(packet.payload) {
            Some(Message::NeighborSolicit { target, options }) => {
                self.neighbor_solicited(src, dst, target, &options);
            }
            Some(Message::NeighborAdvert { flags, target, options }) => {
                self.neighbor_advertised(dst, flags, target, &options);
            }
            Some(message @ Message::RouterAdvert { .. }) if src.is_unicast_link_local() => {
                self.router_advertised(src, &message);
            }
            Some(Message::Redirect { target, destination, options }) if src.is_unicast_link_local() => {
                self.redirected(src, target, destination, &options);
            }
            // We are no router.
            _ => {}
        }
    }

    /// RFC 4861 section 7.2.3, RFC 4862 section 5.4.3.
    fn neighbor_solicited(&mut self, src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr, options: &Options) {
        let testing = src.is_unspecified();
        if target.is_multicast()
            || self.routes.is_local(src.into())
            || (testing && (options.source_link.is_some() || dst != solicited_node(target)))
        {
            return;
        }
        let own = self.routes.v6().iter().find(|own| own.addr == target).copied();
        match own {
            // Two nodes test the same address: neither gets it.
            Some(own) if testing && own.tentative => return self.conflict(target),
            None if !self.config.any_ip || testing => return,
            _ => {}
        }
        if let (false, Some(mac)) = (testing, options.source_link) {
            let news = News { create: true, replace: true, ..News::default() };
            let outcome = self.neighbors.learn(src.into(), Some(mac), news, self.now.ms);
            self.resolved(outcome, None);
        }
        let tentative = own.is_some_and(|own| own.tentative);
        let flags = if testing { 0 } else { ndp::SOLICITED } | if tentative { 0 } else { ndp::OVERRIDE };
        let to = if testing { ALL_NODES } else { src };
        let answer = ndp::advertise(target, flags, self.config.mac);
        let unknown = self.neighbors.state(src.into()).is_none_or(|(_, mac)| mac.is_none());
        if !testing && options.source_link.is_none() && unknown {
            // Who asks tests its own address yet and may not tell us where it is; if we do so too, asking back
            // would go round for ever. The frame tells, and nothing is remembered.
            let packet = icmp6::packet(target, src, ndp::HOP_LIMIT, &answer);
            return self.push_direct(packet);
        }
        self.push_ndp(target, to, &answer);
    }

    /// RFC 4861 section 7.2.5, RFC 4862 section 5.4.4.
    fn neighbor_advertised(&mut self, dst: Ipv6Addr, flags: u8, target: Ipv6Addr, options: &Options) {
        let solicited = flags & ndp::SOLICITED != 0;
        if target.is_multicast() || (solicited && dst.is_multicast()) {
            return;
        }
        match self.routes.v6().iter().find(|own| own.addr == target) {
            Some(own) if own.tentative => return self.conflict(target),
            Some(_) => return,
            None => {}
        }
        let news = News {
            // "If no entry exists, the advertisement SHOULD be silently discarded": it may be another shard's.
            create: solicited && self.group.steering.shards() > 1,
            solicited,
            replace: flags & ndp::OVERRIDE != 0,
            router: Some(flags & ndp::ROUTER != 0),
        };
        let outcome = self.neighbors.learn(target.into(), options.target_link, news, self.now.ms);
        self.resolved(outcome, None);
    }

    /// Somebody else has the address: another identifier for what we made ourselves.
    fn conflict(&mut self, addr: Ipv6Addr) {
        self.node.tests.retain(|test| test.addr != addr);
        let Some(own) = self.routes.v6().iter().find(|own| own.addr == addr).copied() else { return };
        self.routes.remove(addr.into());
        let listed = self.config.addresses.iter().any(|cidr| cidr.address == addr);
        self.node.conflicts += 1;
        if listed || self.node.conflicts > MAX_CONFLICTS {
            return;
        }
        let next = with_identifier(addr, self.node.identifier(with_identifier(addr, 0), self.config.mac));
        self.routes.add6(Own6 { addr: next, ..own });
        self.test_address(next);
    }

    /// RFC 4861 section 6.3.4.
    fn router_advertised(&mut self, src: Ipv6Addr, message: &Message) {
        let Message::RouterAdvert { hop_limit, preference, lifetime_s, reachable_ms, retrans_ms, options } =
            message
        else {
            return;
        };
        if self.config.ipv6 != Ipv6Mode::Auto {
            return;
        }
        self.node.solicit_ms = 0;
        self.group.version += 1;
        if *hop_limit != 0 {
            self.node.hop_limit = *hop_limit;
        }
        if (1..=3_600_000).contains(reachable_ms) {
            self.neighbors.reachable_ms = u64::from(*reachable_ms);
        }
        if (100..=60_000).contains(retrans_ms) {
            self.neighbors.retry_ms = u64::from(*retrans_ms);
        }
        if let Some(mtu) = options.mtu.filter(|mtu| (1280..=65_535).contains(mtu)) {
            self.node.mtu = Some(mtu as usize);
        }
        if let Some(mac) = options.source_link {
            let news = News { create: true, replace: true, router: Some(true), ..News::default() };
            let outcome = self.neighbors.learn(src.into(), Some(mac), news, self.now.ms);
            self.resolved(outcome, None);
        }
        self.told_route(src, Ipv6Addr::UNSPECIFIED, 0, *preference, u32::from(*lifetime_s));
        for told in &options.routes {
            self.told_route(src, told.prefix, told.len, told.preference, told.lifetime_s);
        }
        options.prefixes.iter().for_each(|prefix| self.told_prefix(prefix));
        if !options.dns.is_empty() {
            self.node.dns.clone_from(&options.dns);
        }
    }

    /// A router offers a way (RFC 4191): by preference before or behind others.
    fn told_route(&mut self, via: Ipv6Addr, prefix: Ipv6Addr, len: u8, preference: u8, lifetime_s: u32) {
        let metric = match preference {
            1 => METRIC_ROUTER / 2,
            3 => METRIC_ROUTER * 2,
            2 => return,
            _ => METRIC_ROUTER,
        };
        let prefix = Cidr { address: prefix.into(), prefix: len };
        for metric in [METRIC_ROUTER / 2, METRIC_ROUTER, METRIC_ROUTER * 2] {
            let old = RouteEntry { prefix, via: Some(via.into()), metric, expires_ms: 0 };
            self.routes.remove_route(&old);
        }
        if lifetime_s > 0 && self.routes.entries().count() < MAX_ROUTES {
            let expires_ms = self.after(lifetime_s);
            self.routes.add_route(RouteEntry { prefix, via: Some(via.into()), metric, expires_ms });
        }
    }

    /// RFC 4862 section 5.5.3, RFC 4861 section 6.3.4.
    fn told_prefix(&mut self, told: &Prefix) {
        if told.prefix.is_unicast_link_local() || told.prefix.is_multicast() {
            return;
        }
        if told.on_link {
            let entry = RouteEntry {
                prefix: Cidr { address: told.prefix.into(), prefix: told.len },
                via: None,
                metric: METRIC_V6,
                expires_ms: self.after(told.valid_s),
            };
            self.routes.remove_route(&entry);
            if told.valid_s > 0 && self.routes.entries().count() < MAX_ROUTES {
                self.routes.add_route(entry);
            }
        }
        if !told.autonomous || told.len != 64 || told.preferred_s > told.valid_s {
            return;
        }
        let (now, preferred) = (self.now.ms, self.after(told.preferred_s).max(1));
        let network = |addr: Ipv6Addr| addr.to_bits() >> 64;
        let known = self
            .routes
            .v6()
            .iter()
            .find(|own| own.autoconfigured && network(own.addr) == network(told.prefix));
        if let Some(addr) = known.map(|own| own.addr) {
            let valid = self.after(told.valid_s);
            let two_hours = now + TWO_HOURS_S * 1000;
            let Some(own) = self.routes.own6_mut(addr) else { return };
            own.preferred_until_ms = preferred;
            if own.valid_until_ms != 0 || valid == 0 {
                let longer =
                    valid == 0 || u64::from(told.valid_s) > TWO_HOURS_S || valid > own.valid_until_ms;
                own.valid_until_ms = if longer { valid } else { own.valid_until_ms.min(two_hours) };
            }
        } else if told.valid_s > 0 {
            self.autoconfigure(told, preferred);
        }
    }

    fn autoconfigure(&mut self, told: &Prefix, preferred_until_ms: u64) {
        if self.routes.v6().iter().filter(|own| own.autoconfigured).count() >= MAX_ADDRESSES {
            return;
        }
        let prefix = with_identifier(told.prefix, 0);
        let addr = with_identifier(prefix, self.node.identifier(prefix, self.config.mac));
        self.routes.add6(Own6 {
            addr,
            prefix: 64,
            tentative: true,
            preferred_until_ms,
            valid_until_ms: self.after(told.valid_s),
            autoconfigured: true,
        });
        self.test_address(addr);
    }

    /// A time in so many seconds; 0 for "never" if they are infinite.
    fn after(&self, seconds: u32) -> u64 {
        if seconds == u32::MAX { 0 } else { self.now.ms + u64::from(seconds) * 1000 }
    }

    /// RFC 4861 section 8: our router knows a better way.
    fn redirected(&mut self, src: Ipv6Addr, target: Ipv6Addr, destination: Ipv6Addr, options: &Options) {
        let on_link = target == destination;
        let from_our_router = self.routes.route(destination.into()) == Some(Route::Via(src.into()));
        let good = on_link || target.is_unicast_link_local();
        if destination.is_multicast() || !from_our_router || !good {
            return;
        }
        if let Some(mac) = options.target_link {
            let router = (!on_link).then_some(true);
            let news = News { create: true, replace: true, router, ..News::default() };
            let outcome = self.neighbors.learn(target.into(), Some(mac), news, self.now.ms);
            self.resolved(outcome, None);
        }
        if self.routes.entries().count() < MAX_ROUTES {
            self.routes.add_route(RouteEntry {
                prefix: Cidr { address: destination.into(), prefix: 128 },
                via: (!on_link).then_some(target.into()),
                metric: 0,
                expires_ms: self.now.ms + REDIRECT_MS,
            });
        }
    }

    /// Neighbours that do not answer any more: another router, if there is one (RFC 4861 section 6.3.6).
    pub(crate) fn neighbors_gone(&mut self, gone: &[IpAddr]) {
        for addr in gone {
            let told = |entry: &&RouteEntry| entry.via == Some(*addr) && entry.expires_ms != 0;
            let lost: Vec<RouteEntry> = self.routes.entries().filter(told).copied().collect();
            for entry in lost {
                let other = |e: &RouteEntry| e.prefix == entry.prefix && e.via != entry.via;
                if entry.prefix.prefix == 128 || self.routes.entries().any(other) {
                    self.routes.remove_route(&entry);
                }
            }
        }
    }
}

/// Keys and addresses that are there before the first packet.
pub(crate) fn key(config: &Config, table: Key) -> Key {
    match config.stable_secret {
        Some(secret) => Key::from_bytes(secret),
        None => table,
    }
}
