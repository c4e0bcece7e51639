//! libFuzzer's door to [`attacca_fuzz::frames`]: `cargo +nightly fuzz run frames --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| attacca_fuzz::frames(bytes));
