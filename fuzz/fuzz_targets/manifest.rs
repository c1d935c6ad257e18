//! Reads any bytes as manifest, configuration and credentials.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orlop_runtime::image::fuzz::manifest(bytes));
