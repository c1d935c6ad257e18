//! Puts the kernel object where `loader` embeds it: the file named by `ORLOP_EBPF_OBJECT`, else a stub, so that a
//! plain `cargo build`, `clippy` or `test` needs no BPF toolchain. The loader refuses the stub.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=ORLOP_EBPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("orlop.bpf.o");
    let Some(object) = env::var_os("ORLOP_EBPF_OBJECT").filter(|path| !path.is_empty()).map(PathBuf::from)
    else {
        fs::write(&out, b"stub").expect("write the stub object");
        return;
    };
    println!("cargo:rerun-if-changed={}", object.display());
    if let Err(error) = fs::copy(&object, &out) {
        panic!("ORLOP_EBPF_OBJECT={}: {error}", object.display());
    }
}
