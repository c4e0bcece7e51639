//! The entry for fuzzers.

/// Feeds bytes to a shard as frames; must never panic.
pub fn fuzz_frames(_bytes: &[u8]) {
    todo!()
}
