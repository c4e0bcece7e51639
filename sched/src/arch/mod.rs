//! The machine: all assembly of this crate. Only x86-64 exists.

mod x86_64;
pub use x86_64::*;
