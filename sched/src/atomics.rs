//! The atomics of the park protocol, in one place: `tests/park_model.rs` puts loom's here.

pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
