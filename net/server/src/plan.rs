//! Addresses of a network: which are there, which comes next.
//!
//! Behind uplink `host` nobody else is on the network and any private range does; behind a NIC the user
//! says which addresses of that link are for guests.
//!
//! A guest's IPv6 address is its IPv4 address's host part behind the network's IPv6 prefix, so one book is kept for
//! both. Behind a NIC without a prefix given, routers of that link tell it (SLAAC).

use crate::control::Uplink;
use crate::{NetworkConfig, UplinkSpec};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// RFC 1918, chosen away from the usual home and office ranges.
const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 0), 24);
const GATEWAY: u32 = 2;
/// RFC 4193: a unique local prefix, its 40 bits drawn at random once. It is on no wire, so it can be the same for all.
const NETWORK6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd9a, 0xc71d, 0x2f60, 0, 0, 0, 0, 0), 64);
const FIRST_GUEST: u32 = 15;
/// The gateway's Ethernet address behind uplink `host` (`guest/src/network.rs` knows it too). Locally
/// administered, unicast (IEEE 802: second-lowest bit of the first octet).
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0xa7, 0xac, 0xca, 0, 2];
/// Both ends of a link are engines over memory: frames may be as long as IPv4 allows.
pub(crate) const HOST_MTU: u32 = 65535;
/// Ports for sockets that choose none (ip_local_port_range).
pub(crate) const EPHEMERAL: (u16, u16) = (32768, 60999);
/// Those of guests that join an address which others have: so many each, below.
const SHARER_PORTS: u16 = 1024;
const SHARERS: u16 = 15;
const FIRST_SHARED: u16 = 16384;

/// A network's addresses.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) network: (Ipv4Addr, u8),
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) network6: Option<(Ipv6Addr, u8)>,
    pub(crate) gateway6: Option<Ipv6Addr>,
    first: u32,
}

impl Plan {
    pub(crate) fn new(config: &NetworkConfig) -> io::Result<Plan> {
        let mut plan = Plan::of_v4(config)?;
        let host_uplink = config.uplink == UplinkSpec::Host;
        if let Some((address, prefix)) = config.address6
            && (!(8..=96).contains(&prefix) || address.is_multicast() || address.is_unicast_link_local())
        {
            return Err(io::Error::other(format!(
                "--ip6 {address}/{prefix}: a unicast prefix with a length from 8 to 96 is wanted"
            )));
        }
        let network6 = config.address6.or(host_uplink.then_some(NETWORK6));
        plan.network6 = network6.map(|(address, prefix)| (cut(address, prefix), prefix));
        // Behind a NIC the link's routers tell where the way out is.
        plan.gateway6 = plan.gateway.filter(|_| host_uplink).and_then(|gateway| plan.address6(gateway));
        Ok(plan)
    }

    fn of_v4(config: &NetworkConfig) -> io::Result<Plan> {
        let host_uplink = config.uplink == UplinkSpec::Host;
        let Some((address, prefix)) = config.address else {
            if !host_uplink {
                return Err(io::Error::other(
                    "which addresses of that link are for guests? Give --ip FIRST/LENGTH (and --gateway)",
                ));
            }
            let base = u32::from(NETWORK.0);
            let gateway = config.gateway.unwrap_or(Ipv4Addr::from(base + GATEWAY));
            return Ok(Plan {
                network: NETWORK,
                gateway: Some(gateway),
                network6: None,
                gateway6: None,
                first: base + FIRST_GUEST,
            });
        };
        if !(8..=30).contains(&prefix) {
            return Err(io::Error::other(format!(
                "--ip {address}/{prefix}: a length from 8 to 30 is wanted"
            )));
        }
        let hosts = u32::MAX >> prefix;
        let base = u32::from(address) & !hosts;
        let lowest = Ipv4Addr::from(base + 1);
        let gateway = match config.gateway {
            Some(gateway) => Some(gateway),
            None if !host_uplink => None,
            None if lowest == address => Some(Ipv4Addr::from(base + hosts - 1)),
            None => Some(lowest),
        };
        if gateway.is_some_and(|g| u32::from(g) & !hosts != base) {
            return Err(io::Error::other(format!("--gateway is not in {}/{prefix}", Ipv4Addr::from(base))));
        }
        let first = if u32::from(address) == base { base + 1 } else { u32::from(address) };
        let network = (Ipv4Addr::from(base), prefix);
        Ok(Plan { network, gateway, network6: None, gateway6: None, first })
    }

    /// The first address that nobody has, beginning behind the one given last.
    pub(crate) fn next(&self, last: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let end = u32::from(self.network.0) | u32::MAX >> self.network.1;
        let after = last.map_or(self.first, |l| u32::from(l) + 1);
        let order = (after.max(self.first)..end).chain(self.first..after.clamp(self.first, end));
        order.map(Ipv4Addr::from).find(|&a| Some(a) != self.gateway && !taken(a))
    }

    /// The IPv6 address that goes with an IPv4 address of the network.
    pub(crate) fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let host = u32::from(address) & u32::MAX >> self.network.1;
        self.network6.map(|(network, _)| Ipv6Addr::from_bits(network.to_bits() | u128::from(host)))
    }

    /// Whether a guest may have this address.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let v4 = match address {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(v6) => return self.allows6(v6),
        };
        let hosts = u32::MAX >> self.network.1;
        let host = u32::from(v4) & hosts;
        u32::from(v4) & !hosts == u32::from(self.network.0)
            && host != 0
            && host != hosts
            && Some(v4) != self.gateway
    }

    /// Behind a NIC without a prefix any unicast address: which ones are on that link only its owner knows.
    fn allows6(&self, address: Ipv6Addr) -> bool {
        let usable = !address.is_multicast() && !address.is_unspecified() && !address.is_loopback();
        let inside = |(network, prefix)| cut(address, prefix) == network && address != network;
        usable && self.network6.is_none_or(inside) && Some(address) != self.gateway6
    }
}

fn cut(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let hosts = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & !hosts)
}

/// The ports of the `index`th guest that shares an address, for sockets that choose none; 0 for the first.
pub(crate) fn ephemeral(index: u16) -> Option<(u16, u16)> {
    match index {
        0 => Some(EPHEMERAL),
        1..=SHARERS => {
            let first = FIRST_SHARED + (index - 1) * SHARER_PORTS;
            Some((first, first + SHARER_PORTS - 1))
        }
        _ => None,
    }
}

/// The only neighbour that a guest has to know, if there is one.
pub(crate) fn peer_mac(uplink: &Uplink) -> Option<[u8; 6]> {
    match uplink {
        Uplink::Host(mac) => Some(*mac),
        Uplink::Nic(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(uplink: &str, ip: Option<(&str, u8)>, gateway: Option<&str>) -> io::Result<Plan> {
        let uplink = match uplink {
            "host" => UplinkSpec::Host,
            nic => UplinkSpec::Nic(nic.parse().unwrap()),
        };
        let address = ip.map(|(a, p)| (a.parse().unwrap(), p));
        let gateway = gateway.map(|g| g.parse().unwrap());
        Plan::new(&NetworkConfig { uplink, address, gateway, ..NetworkConfig::default() })
    }

    #[test]
    fn addresses_follow_each_other_and_come_back() {
        let plan = plan("host", Some(("10.9.0.0", 29)), None).unwrap();
        assert_eq!(plan.gateway, Some(Ipv4Addr::new(10, 9, 0, 1)));
        let mut taken: Vec<Ipv4Addr> = Vec::new();
        for host in 2..=6 {
            let next = plan.next(taken.last().copied(), |a| taken.contains(&a)).unwrap();
            assert_eq!(next, Ipv4Addr::new(10, 9, 0, host));
            taken.push(next);
        }
        assert_eq!(plan.next(taken.last().copied(), |a| taken.contains(&a)), None);
        let last = taken.last().copied();
        taken.remove(1);
        assert_eq!(plan.next(last, |a| taken.contains(&a)), Some(Ipv4Addr::new(10, 9, 0, 3)));
    }

    #[test]
    fn both_families_have_the_same_host_part() {
        let ours = plan("host", None, None).unwrap();
        let gateway = ours.gateway6.unwrap();
        assert_eq!(gateway.segments()[7], 2);
        assert_eq!(ours.address6(Ipv4Addr::new(10, 0, 2, 15)).unwrap().segments()[7], 15);
        assert!(!ours.allows(gateway.into()) && ours.allows("fd9a:c71d:2f60::99".parse().unwrap()));
        assert!(
            !ours.allows("fd9a:c71d:2f61::99".parse().unwrap()) && !ours.allows("ff02::1".parse().unwrap())
        );
        let given = NetworkConfig {
            address6: Some(("2001:db8:1::77".parse().unwrap(), 64)),
            ..NetworkConfig::default()
        };
        assert_eq!(Plan::new(&given).unwrap().gateway6, Some("2001:db8:1::2".parse().unwrap()));
        let bad = NetworkConfig { address6: Some(("fe80::".parse().unwrap(), 64)), ..given };
        assert!(Plan::new(&bad).is_err());
        let tap = plan("tap:t0", Some(("10.9.0.10", 24)), Some("10.9.0.1")).unwrap();
        assert_eq!((tap.network6, tap.gateway6), (None, None));
    }

    #[test]
    fn says_what_is_missing() {
        assert!(plan("tap:t0", None, None).is_err());
        assert!(plan("tap:t0", Some(("10.9.0.10", 24)), Some("10.8.0.1")).is_err());
        assert!(plan("host", Some(("10.9.0.10", 31)), None).is_err());
        let tap = plan("tap:t0", Some(("10.9.0.10", 24)), Some("10.9.0.1")).unwrap();
        assert_eq!(tap.next(None, |_| false), Some(Ipv4Addr::new(10, 9, 0, 10)));
        assert!(!tap.allows("10.9.0.1".parse().unwrap()) && tap.allows("10.9.0.5".parse().unwrap()));
    }

    #[test]
    fn sharers_ports_are_apart() {
        let mut last = 0;
        for index in (1..=SHARERS).chain([0]) {
            let (low, high) = ephemeral(index).unwrap();
            assert!(low > last && high > low);
            last = high;
        }
        assert_eq!(ephemeral(SHARERS + 1), None);
    }
}
