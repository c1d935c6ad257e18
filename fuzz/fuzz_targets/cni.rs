//! Reads any bytes as what runtimes tell the network plugin, as a network's configuration and as a plugin's result.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    orlop_cni::fuzz::request(text);
    orlop_cni::fuzz::conf(text);
    orlop_cni::fuzz::result(text);
    if let Ok(text) = std::str::from_utf8(text) {
        orlop_cni::fuzz::environment(text);
    }
});
