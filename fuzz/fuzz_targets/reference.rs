//! Reads any text as the name of an image.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| orlop_runtime::fuzz::reference(text));
