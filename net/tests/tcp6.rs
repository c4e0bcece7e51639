//! The tests of `tcp.rs`, over IPv6.

#[path = "tcp.rs"]
mod tcp;
