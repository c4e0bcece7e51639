//! libFuzzer's door to [`attacca_fuzz::control`]: `cargo +nightly fuzz run control --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| attacca_fuzz::control(bytes));
