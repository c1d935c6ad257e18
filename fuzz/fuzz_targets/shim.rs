//! Reads any bytes as what shims, their clients and creators say to each other.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    orlop_runtime::fuzz::shim_frames(bytes);
    orlop_runtime::fuzz::shim_records(bytes);
});
