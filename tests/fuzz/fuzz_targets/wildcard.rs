//! See `targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wambda_fuzz_targets::wildcard(data));
