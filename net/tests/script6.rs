//! The tests of `script.rs`, over IPv6.

#[path = "script.rs"]
mod script;
