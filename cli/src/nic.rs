//! `attacca run --nic`: a NIC queue opened with the caller's rights, for a guest that has none and needs no network
//! server.

use crate::error::{Failure, OrFail, Result};
use crate::guest::Config;
use crate::guests;
use net::control::ToGuest;
use netserver::bpf::Rule;
use netserver::direct::{self, NicSpec, Opened, TapSteering, XdpSteering};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

/// `A/LEN`
pub(crate) fn parse_prefix(text: &str) -> std::result::Result<(Ipv4Addr, u8), String> {
    let usage = || format!("'{text}': write ADDRESS/PREFIX, for example 10.0.0.5/24");
    let (address, length) = text.split_once('/').ok_or_else(usage)?;
    let length = length.parse().ok().filter(|length| *length <= 32).ok_or_else(usage)?;
    Ok((address.parse().map_err(|_| usage())?, length))
}

/// The words for `nic` and its address.
pub(crate) struct Place {
    pub(crate) spec: NicSpec,
    pub(crate) address: (Ipv4Addr, u8),
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) busy: bool,
}

/// Opens the queue, has its frames steered to it, and describes it for the guest.
pub(crate) fn describe(config: &mut Config, place: &Place) -> Result<()> {
    let (address, length) = place.address;
    if let Some(gateway) = place.gateway
        && !same_network(address, gateway, length)
    {
        return Err(Failure::new(format_args!("--gateway {gateway} is not in {address}/{length}")));
    }
    let (opened, number) = open(config, place)?;
    let direct = opened.direct(number, opened.mac);
    config.add("net.mac", opened.mac.map(|b| format!("{b:02x}")).join(":"))?;
    config.add("net.ip", format!("{address}/{length}"))?;
    if let Some(gateway) = place.gateway {
        config.add("net.gateway", gateway.to_string())?;
        config.add("net.dns", name_server().unwrap_or(gateway).to_string())?;
    }
    config.add("net.mtu", direct.mtu.to_string())?;
    config.add("net.bridged", "1")?;
    let message = ToGuest::GoDirect(direct).encode(0);
    let digits: String = message.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    config.add("net.direct", digits)?;
    opened.fds.into_iter().try_for_each(|fd| config.add_fd("net.direct_fd", fd))
}

fn open(config: &mut Config, place: &Place) -> Result<(Opened, u32)> {
    let address = IpAddr::from(place.address.0);
    let what = format!("--nic {}", place.spec);
    match &place.spec {
        NicSpec::Tap(name, queue) => {
            let mac = direct::mac_for(address);
            let opened = direct::open_tap(name, *queue != 0, mac).or_fail(&what)?;
            if *queue != 0 {
                // The device keeps the program and its rules when we have gone.
                let steering = TapSteering::attach(opened.fds[0].as_fd()).or_fail(&what)?;
                steering.set(Rule::address(address), *queue).or_fail(&what)?;
            }
            Ok((opened, *queue))
        }
        NicSpec::Xdp(interface, queue) => {
            let opened = direct::open_xdp(interface, *queue, place.busy).or_fail(&what)?;
            let steering = XdpSteering::attach(interface).or_fail(&what)?;
            steering.add_socket(*queue, opened.fds[0].as_fd()).or_fail(&what)?;
            steering.set(Rule::address(address), *queue).or_fail(&what)?;
            // Steering ends with the guest, which has nothing to do with it but to hold it.
            config.hold(steering.into_fd()).or_fail(&what)?;
            Ok((opened, *queue))
        }
        NicSpec::Wire(name) => Ok((direct::open_wire(&guests::runtime_dir()?, name).or_fail(&what)?, 0)),
    }
}

/// The host's first IPv4 name server that others can reach as well.
fn name_server() -> Option<Ipv4Addr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
    servers.filter_map(|server| server.trim().parse::<Ipv4Addr>().ok()).find(|server| !server.is_loopback())
}

fn same_network(a: Ipv4Addr, b: Ipv4Addr, length: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    u32::from(a) & mask == u32::from(b) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_prefixes() {
        assert_eq!(parse_prefix("10.0.0.5/24"), Ok((Ipv4Addr::new(10, 0, 0, 5), 24)));
        for bad in ["", "10.0.0.5", "10.0.0.5/33", "10.0.0/8", "::1/128"] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
        assert!(same_network(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 1), 24));
        assert!(!same_network(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 1, 1), 24));
        assert!(same_network(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(11, 0, 1, 1), 0));
    }
}
