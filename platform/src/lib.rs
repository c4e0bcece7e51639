//! The host, behind one contract: the only crate of a guest that issues host system calls.
//!
//! What stands here is what everything above may ask of a host: memory ([`mem`]), time ([`time`]),
//! raw descriptors and files ([`sys`], [`hands`]), host threads
//! and signals ([`thread`]), locks that are safe in memory shared by several processes
//! ([`sync`]), and the fixed addresses of a guest ([`layout`]). It knows nothing of guest threads,
//! descriptors or sockets; those are `sched`, `syscalls` and `net`.
//!
//! The same code runs in a guest and under `cargo test`: no host libc, no thread-local storage.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod errno;
pub mod hands;
pub mod layout;
pub mod mem;
pub mod sync;
pub mod sys;
pub mod thread;
pub mod time;

pub use errno::Errno;
