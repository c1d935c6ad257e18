//! How the static program is linked: by the LLVM linker that comes with rustc.
//!
//! It takes seconds where GNU ld takes minutes, folds functions that are the same, and packs the relocations that a
//! position-independent program applies at its start (RELR, which musl knows). Not for: other targets, which have
//! their own defaults.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("musl") {
        return;
    }
    let Some(dir) = lld() else {
        println!(
            "cargo::warning=no LLVM linker beside rustc: the program gets larger, and linking takes minutes"
        );
        return;
    };
    let dir = format!("-B{}", dir.display());
    // Cargo forgets the profile's `strip` for packages that have a section of their own in it, as this one has.
    let strip = (env::var("PROFILE").as_deref() == Ok("release")).then_some("-Wl,--strip-all");
    let arguments = ["-fuse-ld=lld", &dir, "-Wl,--icf=all", "-Wl,--pack-dyn-relocs=relr"];
    for argument in arguments.into_iter().chain(strip) {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

/// The directory in which a C compiler finds it under the name that it looks for.
fn lld() -> Option<PathBuf> {
    let printed = Command::new(env::var_os("RUSTC")?).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8(printed.stdout).ok()?.trim());
    let dir = sysroot.join("lib/rustlib").join(env::var_os("HOST")?).join("bin/gcc-ld");
    dir.join("ld.lld").exists().then_some(dir)
}
