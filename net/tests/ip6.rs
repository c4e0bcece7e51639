//! The tests of `ip.rs`, over IPv6.

#[path = "ip.rs"]
mod ip;
