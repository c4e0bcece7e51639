//! ELF files in, a running program out: ld.so's work, with our libc in libc.so.6's place.
//!
//! [`load`] finds a program's closure ([`closure`], [`search`]), maps it ([`map`]), binds every import
//! ([`resolve`], over the program's objects and the rows of `libc-abi`: [`exports`]), relocates
//! ([`relocate`]) and makes the first stack ([`stack`]); [`Loaded::start`] runs constructors and jumps.
//! [`dlopen`] does the same for libraries opened later. [`check::check`] looks at a closure without
//! loading it; both bind by the same code.
//!
//! ELF files may be hostile: every offset is checked before it is followed ([`elf`], [`image`],
//! [`dynamic`], [`symbols`]), and relocations write only into segments of their own object.
//!
//! Left out: link-map lists other than the first (dlmopen), auditing (LD_AUDIT), prelink.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod arch;
pub mod cache;
pub mod check;
pub mod closure;
pub mod debug;
pub mod dlopen;
pub mod dynamic;
pub mod elf;
pub mod error;
pub mod exports;
pub mod files;
pub mod find;
mod hooks;
pub mod image;
pub mod init;
pub mod interpose;
pub mod libc;
pub mod map;
pub mod object;
pub mod relocate;
pub mod resolve;
pub mod search;
pub mod stack;
pub mod start;
pub mod state;
pub mod stub;
pub mod symbols;
pub mod tls;
pub mod vdso;

pub use error::{Fault, LoadError, Missing};
pub use start::{LoadRequest, Loaded, load};
