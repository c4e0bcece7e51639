//! Addresses of a network: which are there, which comes next.
//!
//! Behind uplink `host` nobody else is on the network and any private range does; behind a NIC the user
//! says which addresses of that link are for guests.

use crate::control::Uplink;
use crate::{NetworkConfig, UplinkSpec};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// RFC 1918, chosen away from the usual home and office ranges.
const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 0), 24);
const GATEWAY: u32 = 2;
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
    first: u32,
}

impl Plan {
    pub(crate) fn new(config: &NetworkConfig) -> io::Result<Plan> {
        let host_uplink = config.uplink == UplinkSpec::Host;
        let Some((address, prefix)) = config.address else {
            if !host_uplink {
                return Err(io::Error::other(
                    "which addresses of that link are for guests? Give --ip FIRST/LENGTH (and --gateway)",
                ));
            }
            let base = u32::from(NETWORK.0);
            let gateway = config.gateway.unwrap_or(Ipv4Addr::from(base + GATEWAY));
            return Ok(Plan { network: NETWORK, gateway: Some(gateway), first: base + FIRST_GUEST });
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
        Ok(Plan { network: (Ipv4Addr::from(base), prefix), gateway, first })
    }

    /// The first address that nobody has, beginning behind the one given last.
    pub(crate) fn next(&self, last: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let end = u32::from(self.network.0) | u32::MAX >> self.network.1;
        let after = last.map_or(self.first, |l| u32::from(l) + 1);
        let order = (after.max(self.first)..end).chain(self.first..after.clamp(self.first, end));
        order.map(Ipv4Addr::from).find(|&a| Some(a) != self.gateway && !taken(a))
    }

    /// Whether a guest may have this address.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let IpAddr::V4(v4) = address else { return false };
        let hosts = u32::MAX >> self.network.1;
        let host = u32::from(v4) & hosts;
        u32::from(v4) & !hosts == u32::from(self.network.0)
            && host != 0
            && host != hosts
            && Some(v4) != self.gateway
    }
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
