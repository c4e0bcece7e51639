//! IPv4, IPv6 and what goes with them: addresses, routes, neighbours, fragments, ICMP, and the way to the
//! device.

pub(crate) mod addr;
pub(crate) mod arp;
pub(crate) mod checksum;
pub(crate) mod dhcp;
pub(crate) mod fragments;
pub(crate) mod icmp;
pub(crate) mod icmp6;
pub(crate) mod ipv4;
pub(crate) mod ipv6;
pub(crate) mod link;
pub(crate) mod multicast;
pub(crate) mod ndp;
pub(crate) mod neighbor;
pub(crate) mod node;
pub(crate) mod packet;
pub(crate) mod path_mtu;
pub(crate) mod report;
pub(crate) mod route;
