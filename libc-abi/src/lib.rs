//! The C surface of glibc 2.36 (x86-64): what programs import from `libc.so.6` and its companions.
//!
//! A function here converts: C pointers become typed values, a call goes to the personality by
//! number ([`kcall`]), the answer becomes -1 and `errno`. Pure C library code (strings, stdio,
//! malloc, time zones) lives here whole. All state of this crate is *process state*: private
//! memory, copied by `fork`.
//!
//! Every function is declared once by [`abi!`]; the declaration is the symbol, the export row
//! (library, name, version) and the signature. Rows go into a table that the loader binds imports
//! to; no C name becomes a symbol of the Rust binary, so the crate is tested on the host, where
//! [`kcall`] reaches the host's kernel instead of the personality.
#![no_std]
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[macro_use]
pub mod abi;
pub mod data;
pub mod errno;
pub mod kcall;
pub mod malloc;
pub mod thread;
pub mod types;

pub use abi::{Export, Kind};

/// The export tables of all modules. A module that declares functions with `abi!` or `exports!`
/// stands here once.
pub static TABLES: &[&[Export]] = &[errno::EXPORTS];
