//! The printf family: every way to format goes through [`engine::format`] into an [`out::Out`].
//!
//! Left out: `register_printf_function` and its kin (a program that imports them is told so by name).
//! Digit grouping (`'`) and alternative digits (`I`) have no effect in the locales C and C.UTF-8.
//! Floating point assumes the rounding mode to nearest, as [`crate::strtod`].

mod digits;
pub(crate) mod engine;
pub(crate) mod float;
pub mod narrow;
pub(crate) mod out;
pub mod parse;
pub(crate) mod spec;
pub mod wide;

pub use narrow::{EXPORTS as NARROW, MORE as NARROW_MORE, vfprintf, vsnprintf};
pub use parse::EXPORTS as PARSE;
pub use wide::{EXPORTS as WIDE, MORE as WIDE_MORE};

#[cfg(test)]
#[path = "../tests/printf.rs"]
mod tests;
