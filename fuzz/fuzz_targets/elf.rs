//! libFuzzer's door to [`attacca_fuzz::elf`]: `cargo +nightly fuzz run elf --features libfuzzer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| attacca_fuzz::elf(bytes));
