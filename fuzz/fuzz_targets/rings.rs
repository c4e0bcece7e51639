//! libFuzzer's door to [`attacca_fuzz::rings`]: `cargo +nightly fuzz run rings --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| attacca_fuzz::rings(bytes));
