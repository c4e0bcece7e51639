//! The freestanding guest: brings up the runtime, then loads one program and runs it.
//!
//! `attacca` executes this file with one argument, the number of a descriptor that holds the
//! configuration ([`config`]). Bring-up order: machine check, `%gs` block, arena, configuration,
//! scheduler on the initial host thread (vCPU 0), personality, and a first guest thread that loads the
//! program. Nothing of the host's libc is linked or mapped.
#![no_std]
#![no_main]

extern crate alloc;

mod capture;
mod config;
#[cfg(feature = "program")]
mod control;
#[cfg(feature = "program")]
mod door;
#[cfg(feature = "program")]
mod exec;
mod heap;
#[cfg(feature = "program")]
mod image;
mod memory;
mod message;
#[cfg(feature = "program")]
mod network;
#[cfg(feature = "program")]
mod nic;
mod program;
mod selftest;
#[cfg(feature = "program")]
mod shortcut;
mod start;
mod string;
mod vdso;
