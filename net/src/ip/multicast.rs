//! Group membership: what sockets joined, and the reports that routers and switches hear of it (IGMPv3, RFC
//! 3376, and v2, RFC 2236, for IPv4; MLDv2, RFC 3810, and v1, RFC 2710, for IPv6).
//!
//! A socket's wish is a [`Joined`]; the link is told the union. Left out: the per-group timers of queries
//! about one group (they are answered like general ones), and suppression of v1 reports by others'.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{icmp, icmp6, ipv4, ipv6};
use crate::shard::Shard;

/// IP protocol number of IGMP.
pub(crate) const IGMP: u8 = 2;
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const IGMPV3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const MLDV2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Message types.
const QUERY: u8 = 0x11;
const V2_REPORT: u8 = 0x16;
const V2_LEAVE: u8 = 0x17;
const V3_REPORT: u8 = 0x22;
pub(crate) const MLD_QUERY: u8 = 130;
const MLD_V1_REPORT: u8 = 131;
const MLD_V1_DONE: u8 = 132;
const MLD_V2_REPORT: u8 = 143;
/// Record types (RFC 3376 section 4.2.12).
const IS_INCLUDE: u8 = 1;
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;
/// The robustness variable: reports of a change are sent so often, within so long.
const ROBUSTNESS: u8 = 2;
const REPEAT_MS: u64 = 1_000;
/// How long an old querier is remembered (Older Version Querier Present Timeout).
const OLD_QUERIER_MS: u64 = 260_000;

/// A socket's membership of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) group: IpAddr,
    /// On the loopback interface.
    pub(crate) lo: bool,
    /// `sources` are the only ones wanted, or those that are not.
    pub(crate) include: bool,
    pub(crate) sources: Vec<IpAddr>,
}

impl Joined {
    /// Packets of `source` are wanted.
    pub(crate) fn wants(&self, source: IpAddr) -> bool {
        self.sources.contains(&source) == self.include
    }
}

/// What the link was told of a group.
struct Told {
    group: IpAddr,
    include: bool,
    sources: Vec<IpAddr>,
    /// Reports of the last change that are still to be sent, and when.
    repeats: u8,
    next_ms: u64,
}

/// State of a shard.
#[derive(Default)]
pub(crate) struct Groups {
    told: Vec<Told>,
    /// A general query is to be answered; 0 for none. IPv4 and IPv6.
    answer_ms: [u64; 2],
    old_until_ms: [u64; 2],
}

impl Groups {
    pub(crate) fn next_ms(&self) -> Option<u64> {
        let repeats = self.told.iter().filter(|told| told.repeats > 0).map(|told| told.next_ms);
        repeats.chain(self.answer_ms.into_iter().filter(|at| *at != 0)).min()
    }

    /// Somebody here listens to that group.
    pub(crate) fn has(&self, group: IpAddr) -> bool {
        self.told.iter().any(|told| told.group == group)
    }
}

fn is_silent(group: IpAddr) -> bool {
    // RFC 3376 section 6, RFC 3810 section 6: never reported.
    match group {
        IpAddr::V4(v4) => v4 == ALL_HOSTS,
        IpAddr::V6(v6) => v6 == ipv6::ALL_NODES || v6.octets()[1] & 0xf < 2,
    }
}

impl Shard {
    /// A socket's memberships changed: the link is told what that means for it.
    pub(crate) fn groups_changed(&mut self, group: IpAddr) {
        let mut all = self.udp.memberships(group);
        all.extend(self.raw.memberships(group));
        if let IpAddr::V6(v6) = group
            && self.routes.v6().iter().any(|own| ipv6::solicited_node(own.addr) == v6)
        {
            all.push(Joined { group, lo: false, include: false, sources: Vec::new() });
        }
        let known = self.groups.told.iter().position(|told| told.group == group);
        let Some((include, sources)) = union(&all) else {
            if let Some(at) = known {
                self.groups.told.remove(at);
                self.report_change(group, true, &[]);
            }
            return;
        };
        let at = known.unwrap_or_else(|| {
            let none = Told { group, include: true, sources: Vec::new(), repeats: 0, next_ms: 0 };
            self.groups.told.push(none);
            self.groups.told.len() - 1
        });
        let (now, told) = (self.now.ms, &mut self.groups.told[at]);
        if known.is_none() || (told.include, &told.sources) != (include, &sources) {
            (told.include, told.sources) = (include, sources.clone());
            (told.repeats, told.next_ms) = (ROBUSTNESS - 1, now + REPEAT_MS);
            self.report_change(group, include, &sources);
        }
    }

    pub(crate) fn group_timers(&mut self) {
        let now = self.now.ms;
        let mut due = Vec::new();
        for told in self.groups.told.iter_mut().filter(|t| t.repeats > 0 && t.next_ms <= now) {
            (told.repeats, told.next_ms) = (told.repeats - 1, now + REPEAT_MS);
            due.push((told.group, told.include, told.sources.clone()));
        }
        for (group, include, sources) in due {
            self.report_change(group, include, &sources);
        }
        for (family, v6) in [(0, false), (1, true)] {
            if self.groups.answer_ms[family] != 0 && self.groups.answer_ms[family] <= now {
                self.groups.answer_ms[family] = 0;
                self.report_all(v6);
            }
        }
    }

    fn report_change(&mut self, group: IpAddr, include: bool, sources: &[IpAddr]) {
        if is_silent(group) {
            return;
        }
        if self.now.ms < self.groups.old_until_ms[usize::from(group.is_ipv6())] {
            let left = include && sources.is_empty();
            return self.report_old(group, left);
        }
        let kind = if include { TO_INCLUDE } else { TO_EXCLUDE };
        self.send_report(group.is_ipv6(), &[record(kind, group, sources)]);
    }

    /// Current state, in answer to a query.
    fn report_all(&mut self, v6: bool) {
        let groups = |told: &&Told| told.group.is_ipv6() == v6 && !is_silent(told.group);
        if self.now.ms < self.groups.old_until_ms[usize::from(v6)] {
            let all: Vec<IpAddr> = self.groups.told.iter().filter(groups).map(|told| told.group).collect();
            return all.into_iter().for_each(|group| self.report_old(group, false));
        }
        let kind = |include: bool| if include { IS_INCLUDE } else { IS_EXCLUDE };
        let all: Vec<Vec<u8>> = self
            .groups
            .told
            .iter()
            .filter(groups)
            .map(|told| record(kind(told.include), told.group, &told.sources))
            .collect();
        // As many records as surely fit.
        for some in all.chunks(16) {
            self.send_report(v6, some);
        }
    }

    fn send_report(&mut self, v6: bool, records: &[Vec<u8>]) {
        if records.is_empty() || self.config.peer_mac.is_some() {
            return;
        }
        let count = (records.len() as u16).to_be_bytes();
        let kind = if v6 { MLD_V2_REPORT } else { V3_REPORT };
        let mut message = alloc::vec![kind, 0, 0, 0, 0, 0, count[0], count[1]];
        records.iter().for_each(|record| message.extend_from_slice(record));
        let to = if v6 { MLDV2_ROUTERS.into() } else { IGMPV3_ROUTERS.into() };
        self.send_group_message(to, message);
    }

    /// The reports of older versions: one for each group, to the group.
    fn report_old(&mut self, group: IpAddr, left: bool) {
        match group {
            IpAddr::V4(v4) => {
                let mut message = alloc::vec![if left { V2_LEAVE } else { V2_REPORT }, 0, 0, 0];
                message.extend_from_slice(&v4.octets());
                self.send_group_message(if left { ALL_ROUTERS.into() } else { group }, message);
            }
            IpAddr::V6(v6) => {
                let mut message =
                    alloc::vec![if left { MLD_V1_DONE } else { MLD_V1_REPORT }, 0, 0, 0, 0, 0, 0, 0];
                message.extend_from_slice(&v6.octets());
                self.send_group_message(if left { ipv6::ALL_ROUTERS.into() } else { group }, message);
            }
        }
    }

    /// One hop, with the router alert option (RFC 2113, RFC 2711).
    fn send_group_message(&mut self, to: IpAddr, mut message: Vec<u8>) {
        match to {
            IpAddr::V4(dst) => {
                let Some(src) = self.routes.v4().first().map(|own| own.0) else { return };
                icmp::fill_checksum(&mut message);
                let header = ipv4::Header {
                    src,
                    dst,
                    protocol: IGMP,
                    payload_len: message.len() + 4,
                    hop_limit: 1,
                    traffic_class: 0xc0,
                    ident: 0,
                    dont_fragment: true,
                };
                self.push_packet(ipv4::with_router_alert(&header, &message));
            }
            IpAddr::V6(dst) => {
                let link_local = self.routes.v6().iter().find(|own| own.addr.is_unicast_link_local());
                // RFC 3590: unspecified while the address is being tested.
                let tested = link_local.filter(|own| !own.tentative).map(|own| own.addr);
                let src = tested.unwrap_or(Ipv6Addr::UNSPECIFIED);
                let sum = icmp6::sum(src, dst, icmp6::PROTOCOL, &message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                let mut packet = alloc::vec![0; ipv6::HEADER];
                packet.extend_from_slice(&[icmp6::PROTOCOL, 0, 5, 2, 0, 0, 1, 0]);
                packet.extend_from_slice(&message);
                let header = ipv6::Header {
                    src,
                    dst,
                    protocol: 0,
                    payload_len: message.len() + 8,
                    hop_limit: 1,
                    traffic_class: 0,
                    flow_label: 0,
                };
                ipv6::write_header(&mut packet, &header);
                self.push_packet(packet);
            }
        }
    }

    /// An IGMP message for us.
    #[cold]
    pub(crate) fn input_igmp(&mut self, message: &[u8]) {
        if message.len() < 8 || message[0] != QUERY || !icmp::verify(message) {
            return;
        }
        let old = message.len() < 12;
        // Tenths of a second; version 1 says 0 and means ten seconds. Large codes are floating point.
        let tenths = match message[1] {
            0 if old => 100,
            code @ 0..128 => u64::from(code),
            code => (u64::from(code & 0xf) | 0x10) << ((code >> 4 & 7) + 3),
        };
        self.queried(0, old, tenths * 100);
    }

    /// An MLD query with the right checksum.
    #[cold]
    pub(crate) fn input_mld_query(&mut self, message: &[u8]) {
        if message.len() < 24 {
            return;
        }
        let old = message.len() < 28;
        let code = u64::from(u16::from_be_bytes([message[4], message[5]]));
        let delay_ms =
            if old || code < 32_768 { code } else { (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3) };
        self.queried(1, old, delay_ms);
    }

    /// Answers at some time within `most_ms`: not all at once with others.
    fn queried(&mut self, family: usize, old: bool, most_ms: u64) {
        let now = self.now.ms;
        if old {
            self.groups.old_until_ms[family] = now + OLD_QUERIER_MS;
        }
        let random = u64::from(self.config.mac[5]) << 8 | u64::from(self.config.mac[4]);
        let at = now + random.wrapping_mul(2_654_435_761) % most_ms.max(1);
        if self.groups.answer_ms[family] == 0 || at < self.groups.answer_ms[family] {
            self.groups.answer_ms[family] = at.max(1);
        }
    }
}

/// RFC 3376 section 3.2: what satisfies all of them; `None` if nobody wants anything.
fn union(all: &[Joined]) -> Option<(bool, Vec<IpAddr>)> {
    if all.is_empty() {
        return None;
    }
    let mut included: Vec<IpAddr> =
        all.iter().filter(|j| j.include).flat_map(|j| j.sources.clone()).collect();
    included.sort();
    included.dedup();
    let mut excluding = all.iter().filter(|joined| !joined.include);
    let Some(first) = excluding.next() else { return Some((true, included)) };
    let mut excluded = first.sources.clone();
    excluding.for_each(|joined| excluded.retain(|source| joined.sources.contains(source)));
    excluded.retain(|source| !included.contains(source));
    excluded.sort();
    Some((false, excluded))
}

fn record(kind: u8, group: IpAddr, sources: &[IpAddr]) -> Vec<u8> {
    let count = (sources.len() as u16).to_be_bytes();
    let mut record = alloc::vec![kind, 0, count[0], count[1]];
    for addr in core::iter::once(&group).chain(sources) {
        match addr {
            IpAddr::V4(v4) => record.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => record.extend_from_slice(&v6.octets()),
        }
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unions_follow_rfc_3376() {
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let joined = |include, sources: &[u8]| Joined {
            group: [239, 0, 0, 1].into(),
            lo: false,
            include,
            sources: sources.iter().map(|last| ip(*last)).collect(),
        };
        assert_eq!(union(&[]), None);
        assert_eq!(union(&[joined(true, &[1]), joined(true, &[2, 1])]), Some((true, [ip(1), ip(2)].into())));
        let mixed = [joined(false, &[1, 2, 3]), joined(false, &[2, 3]), joined(true, &[3])];
        assert_eq!(union(&mixed), Some((false, [ip(2)].into())));
    }
}
