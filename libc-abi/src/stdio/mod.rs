//! `<stdio.h>` and the wide I/O of `<wchar.h>`: streams, printf, scanf.
//!
//! - [`file`]: the `FILE` object, the standard streams, the list of all; [`lock`]: its lock;
//!   `buffer`: filling, flushing, seeking; `stream`: what is behind it (descriptor, callbacks, memory)
//! - `open`, `bytes`, `wide`, `control`, `memory`, `fsops`: the C functions, by what they do
//! - [`printf`], `scanf`: the two formatters, each one engine for bytes and wide characters
//! - `convert`: fcvt and strfrom; `bignum`: exact arithmetic under these and [`crate::strtod`]
//!
//! For `exit` and `fork`: [`flush_all`], [`lock::lock_all`], [`lock::unlock_all`], [`lock::reset_all`].
//! For threads: [`lock::set_single_threaded`].
//!
//! Left out, so that a program that imports them is refused by name: popen and pclose (they need
//! processes), tmpnam and tempnam, register_printf_*, glibc's internal `_IO_*` beyond plain aliases.

#[macro_use]
pub mod lock;
pub(crate) mod bignum;
pub mod buffer;
pub mod bytes;
pub mod control;
pub mod convert;
pub mod file;
pub mod fortify;
pub mod fsops;
pub(crate) mod mb;
pub mod memory;
pub mod obstack;
pub mod open;
pub mod printf;
pub mod scanf;
pub mod stream;
pub mod wide;

pub use buffer::flush_all;
pub use bytes::{fgets, fputs, getline};
pub use file::FILE;
pub use open::{fclose, fopen};

/// The bytes of a C string, without its NUL.
///
/// # Safety
/// `text` ends with a NUL and outlives the answer.
#[inline(always)]
pub(crate) unsafe fn c_bytes<'a>(text: *const crate::types::c_char) -> &'a [u8] {
    // SAFETY: `strlen` bytes precede the NUL.
    unsafe { core::slice::from_raw_parts(text.cast(), crate::string::strlen(text)) }
}

#[cfg(test)]
pub(crate) mod tests;
