//! The tests of `script_fast_open.rs`, over IPv6.

#[path = "script_fast_open.rs"]
mod script;
