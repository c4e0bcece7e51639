//! `attacca run --nic`: a NIC queue opened with the caller's rights, for a guest that has none and needs no network
//! server.

use crate::error::{Failure, OrFail, Result};
use crate::guest::Config;
use crate::guests;
use net::control::ToGuest;
use netserver::Want6;
use netserver::bpf::Rule;
use netserver::direct::{self, NicSpec, Opened, TapSteering, XdpSteering};
use std::net::{Ipv4Addr, Ipv6Addr};
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
    /// The guest's name.
    pub(crate) name: String,
    /// `None`: a DHCP server is asked.
    pub(crate) address: Option<(Ipv4Addr, u8)>,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) address6: Want6,
    pub(crate) gateway6: Option<Ipv6Addr>,
    pub(crate) busy: bool,
}

/// Opens the queue, has its frames steered to it, and describes it for the guest.
pub(crate) fn describe(config: &mut Config, place: &Place) -> Result<()> {
    match (place.address, place.gateway) {
        (Some((address, length)), Some(gateway)) if !same_network(address, gateway, length) => {
            return Err(Failure::new(format_args!("--gateway {gateway} is not in {address}/{length}")));
        }
        (None, Some(_)) => return Err(Failure::new("--gateway: with --ip dhcp the DHCP server tells it")),
        (None, None) if matches!(place.spec, NicSpec::Wire(_)) => {
            return Err(Failure::new("--ip dhcp: on a wire there is another guest and no DHCP server"));
        }
        _ => {}
    }
    let (opened, number) = open(config, place)?;
    let direct = opened.direct(number, opened.mac);
    config.add("net.mac", opened.mac.map(|b| format!("{b:02x}")).join(":"))?;
    match place.address {
        Some((address, length)) => config.add("net.ip", format!("{address}/{length}"))?,
        None => config.add("net.dhcp", "1")?,
    }
    match place.address6 {
        Want6::Address(address, length) => {
            config.add("net.ip6", format!("{address}/{}", length.unwrap_or(64)))?
        }
        Want6::Auto | Want6::Default if place.routers_tell() => config.add("net.auto6", "1")?,
        _ => {}
    }
    if let Some(gateway) = place.gateway6 {
        config.add("net.gateway6", gateway.to_string())?;
    }
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

impl Place {
    /// Whether what routers say to all of the link comes to the guest: on a queue beside others, only if it asks for
    /// that, because nobody else hears it then.
    fn routers_tell(&self) -> bool {
        let all = matches!(self.spec, NicSpec::Tap(_, 0));
        all || self.address6 == Want6::Auto && !matches!(self.spec, NicSpec::Wire(_))
    }

    /// What of the NIC's frames is the guest's from the start.
    fn rules(&self) -> Vec<Rule> {
        let v4 = match self.address {
            Some((address, _)) => Rule::address(address.into()),
            // A DHCP server's answers.
            None => Rule { address: Ipv4Addr::BROADCAST.into(), protocol: 17, port: 68 },
        };
        let v6 = match self.address6 {
            Want6::Address(address, _) => Some(address),
            // All nodes (RFC 4291 section 2.7.1).
            Want6::Auto => Some(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
            Want6::Default | Want6::Off => None,
        };
        std::iter::once(v4).chain(v6.map(|v6| Rule::address(v6.into()))).collect()
    }

    fn changes(&self) -> bool {
        self.address.is_none() || self.address6 == Want6::Auto
    }
}

fn open(config: &mut Config, place: &Place) -> Result<(Opened, u32)> {
    let what = format!("--nic {}", place.spec);
    match &place.spec {
        NicSpec::Tap(name, queue) => {
            let mac = match place.address {
                Some((address, _)) => direct::mac_for(address.into()),
                None => direct::mac_named("", &place.name),
            };
            if *queue != 0 && place.changes() {
                return Err(Failure::new(format_args!(
                    "{what}: on a queue beside others write the addresses: --ip A/LEN, --ip6 A/LEN"
                )));
            }
            let opened = direct::open_tap(name, *queue != 0, mac).or_fail(&what)?;
            if *queue != 0 {
                // The device keeps the program and its rules when we have gone.
                let steering = TapSteering::attach(opened.fds[0].as_fd()).or_fail(&what)?;
                place.rules().into_iter().try_for_each(|rule| steering.set(rule, *queue)).or_fail(&what)?;
            }
            Ok((opened, *queue))
        }
        NicSpec::Xdp(_, direct::ALL_QUEUES) => {
            Err(Failure::new(format_args!("{what}: a guest drives one queue: write queue=K")))
        }
        NicSpec::Xdp(interface, queue) => {
            warn_of_queues(&NicSpec::Xdp(interface.clone(), *queue));
            let opened = direct::open_xdp(interface, *queue, place.busy).or_fail(&what)?;
            let steering = XdpSteering::attach(interface).or_fail(&what)?;
            steering.add_socket(*queue, opened.fds[0].as_fd()).or_fail(&what)?;
            place.rules().into_iter().try_for_each(|rule| steering.set(rule, *queue)).or_fail(&what)?;
            if place.changes() {
                // By which the guest finds its queue (`guest/src/nic.rs`).
                let answers = Rule { address: Ipv4Addr::BROADCAST.into(), protocol: 17, port: 68 };
                steering.set(answers, *queue).or_fail(&what)?;
            }
            // Steering ends with the guest, which has little to do with it but to hold it.
            let (link, rules) = steering.into_fds();
            config.hold(link).or_fail(&what)?;
            if place.changes() {
                config.add_fd("net.rules_fd", rules)?;
            }
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

/// Says so if a NIC may deliver frames to queues that nobody here reads: they would go to the host, silently.
pub(crate) fn warn_of_queues(spec: &NicSpec) {
    let NicSpec::Xdp(interface, queue) = spec else { return };
    let count = direct::receive_queues(interface).unwrap_or(1);
    if count > 1 && *queue != direct::ALL_QUEUES {
        eprintln!(
            "attacca: interface '{interface}' receives on {count} queues, of which queue {queue} alone is used here: \
             'ethtool -L {interface} combined 1', or steer to it with 'ethtool -X'"
        );
    }
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
