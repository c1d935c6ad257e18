//! Reads any bytes as manifest, configuration and credentials.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orlop_runtime::fuzz::manifest(bytes));
