//! Unpacks any archive; nothing beside the layer may change.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    orlop_runtime::fuzz::layer(bytes, dir.path());
});
