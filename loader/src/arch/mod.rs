//! x86-64 assembly of the loader: the jump into the program, late binding, TLS descriptors.

pub(crate) mod entry;
pub(crate) mod save;
