//! Reads any text as a system call filter; one that is taken decides as it says.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| orlop_runtime::fuzz::profile(text));
