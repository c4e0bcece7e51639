//! The tests of `udp.rs`, over IPv6.

#[path = "udp.rs"]
mod udp;
