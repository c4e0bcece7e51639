//! Where a packet goes next, and which address it comes from.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use crate::config::{Cidr, Config};

/// The next step of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// It stays here.
    Local,
    /// To the neighbour with this address.
    Via(Ipv4Addr),
    /// To everybody on the link, or a group there.
    Broadcast,
}

/// Addresses of ours and the gateway.
pub(crate) struct Routes {
    addresses: Vec<(Ipv4Addr, u8)>,
    gateway: Option<Ipv4Addr>,
    point_to_point: bool,
}

impl Routes {
    pub(crate) fn new(config: &Config) -> Routes {
        let mut routes =
            Routes { addresses: Vec::new(), gateway: None, point_to_point: config.peer_mac.is_some() };
        config.addresses.iter().for_each(|cidr| routes.add(*cidr));
        routes.set_gateway(config.gateway);
        routes
    }

    pub(crate) fn add(&mut self, cidr: Cidr) {
        if let IpAddr::V4(address) = cidr.address {
            self.addresses.retain(|(other, _)| *other != address);
            self.addresses.push((address, cidr.prefix.min(32)));
        }
    }

    pub(crate) fn set_gateway(&mut self, gateway: Option<IpAddr>) {
        self.gateway = match gateway {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        };
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addresses.iter().map(|(address, _)| *address)
    }

    /// The address is one of ours.
    #[inline]
    pub(crate) fn is_local(&self, address: Ipv4Addr) -> bool {
        address.is_loopback() || self.addresses.iter().any(|(own, _)| *own == address)
    }

    /// The address means everybody on a network of ours.
    #[inline]
    pub(crate) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast()
            || self.addresses.iter().any(|&(own, prefix)| {
                let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                prefix < 31 && u32::from(own) | host == u32::from(address)
            })
    }

    /// The way to `destination`; `None` if there is none.
    pub(crate) fn route(&self, destination: Ipv4Addr) -> Option<Route> {
        if destination.is_unspecified() || self.is_local(destination) {
            return Some(Route::Local);
        }
        if self.is_broadcast(destination) || destination.is_multicast() {
            return Some(Route::Broadcast);
        }
        if self.point_to_point || self.addresses.iter().any(|&(own, prefix)| same(own, destination, prefix)) {
            return Some(Route::Via(destination));
        }
        self.gateway.map(Route::Via)
    }

    /// The source for packets to `destination`: the address on the same network, else the first.
    pub(crate) fn source_for(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        if destination.is_loopback() {
            return Some(Ipv4Addr::LOCALHOST);
        }
        if self.is_local(destination) {
            return Some(destination);
        }
        let near = self.addresses.iter().find(|&&(own, prefix)| same(own, destination, prefix));
        near.or(self.addresses.first()).map(|(own, _)| *own)
    }
}

fn same(a: Ipv4Addr, b: Ipv4Addr, prefix: u8) -> bool {
    (u32::from(a) ^ u32::from(b)).checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_the_next_hop() {
        let config = Config::new([2; 6], [0; 32])
            .address(Ipv4Addr::new(10, 0, 0, 2).into(), 24)
            .gateway(Ipv4Addr::new(10, 0, 0, 1).into());
        let routes = Routes::new(&config);
        let to = |a, b, c, d| routes.route(Ipv4Addr::new(a, b, c, d));
        assert_eq!(to(127, 3, 2, 1), Some(Route::Local));
        assert_eq!(to(10, 0, 0, 2), Some(Route::Local));
        assert_eq!(to(10, 0, 0, 9), Some(Route::Via(Ipv4Addr::new(10, 0, 0, 9))));
        assert_eq!(to(8, 8, 8, 8), Some(Route::Via(Ipv4Addr::new(10, 0, 0, 1))));
        assert_eq!(to(10, 0, 0, 255), Some(Route::Broadcast));
        assert_eq!(to(224, 0, 0, 1), Some(Route::Broadcast));
    }
}
