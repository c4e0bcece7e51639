//! IPv4 and what goes with it: routes, neighbours, fragments, ICMP, and the way to the device.

pub(crate) mod arp;
pub(crate) mod fragments;
pub(crate) mod icmp;
pub(crate) mod ipv4;
pub(crate) mod link;
pub(crate) mod route;
