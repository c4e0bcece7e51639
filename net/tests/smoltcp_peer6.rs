//! The tests of `smoltcp_peer.rs`, over IPv6.

#[path = "smoltcp_peer.rs"]
mod smoltcp_peer;
