//! libFuzzer's door to [`attacca_fuzz::segments`]: `cargo +nightly fuzz run segments --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| attacca_fuzz::segments(bytes));
