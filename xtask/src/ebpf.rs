//! The kernel programs: choose a toolchain that can build them, build, strip, and put the object in a fixed place.
//!
//! They need `build-std` (hence nightly, or Debian's rustc-web set, with the sources of `core`) and a `bpf-linker`
//! for the same LLVM. Not for: installing either (`setup`), or anything a plain `cargo build` needs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{output, run, target_dir, which};

/// Must be the LLVM of bpf-linker: bitcode of a newer one cannot be read.
const LLVM: &str = "LLVM version: 22.";
const TARGET: &str = "bpfel-unknown-none";

struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    sysroot: PathBuf,
}

/// Whether a toolchain is there that can build the kernel programs.
pub(crate) fn has_toolchain() -> bool {
    toolchain().is_some()
}

/// `bpf-linker`: `$BPF_LINKER`, the tools that setup installed, `PATH`.
pub(crate) fn linker() -> Option<PathBuf> {
    let named = env::var_os("BPF_LINKER").map(PathBuf::from);
    let own = target_dir().join("tools/bin/bpf-linker");
    named.or_else(|| own.exists().then_some(own)).or_else(|| which("bpf-linker"))
}

/// Builds the object and returns where it lies, without debug sections (the BTF stays: the kernel needs it).
///
/// # Errors
/// When no toolchain or linker fits, or the build fails.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    let toolchain = toolchain().context(
        "no toolchain can build the kernel programs: run `rustup component add rust-src --toolchain nightly`, \
         or `apt-get install rustc-web cargo-web rust-web-src` where nightly is not of LLVM 22",
    )?;
    let linker =
        linker().context("bpf-linker is missing: `cargo install bpf-linker --version 0.10.3 --locked`")?;
    let target = target_dir().join("ebpf");
    compile(root, &toolchain, &linker, &target)?;
    let object = target.join("orlop.bpf.o");
    strip(&target.join(TARGET).join("release/orlop"), &object)?;
    Ok(object)
}

fn compile(root: &Path, toolchain: &Toolchain, linker: &Path, target: &Path) -> Result<()> {
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
        format!("--remap-path-prefix={}=/src", root.display()),
    ];
    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(root.join("dataplane-ebpf"))
        .args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET, "--bins"])
        .arg("--target-dir")
        .arg(target);
    // What an outer `cargo run` or the user's shell says is about the host's toolchain, not this one.
    let leaked = [
        "CARGO",
        "RUSTUP_TOOLCHAIN",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
    ];
    for name in leaked {
        command.env_remove(name);
    }
    command
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        // Compiled in pieces it is another program, which the verifier walks through in another way.
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("LD_LIBRARY_PATH", libraries(toolchain)?);
    run(&mut command)
}

/// bpf-linker opens the LLVM library of a rustc: of this one, else (Debian's has none of that name) of rustup's.
fn libraries(toolchain: &Toolchain) -> Result<std::ffi::OsString> {
    let rustup = output(Command::new("rustc").args(["--print", "sysroot"])).ok();
    let places = [Some(toolchain.sysroot.clone()), rustup.map(|path| PathBuf::from(path.trim()))];
    Ok(env::join_paths(places.into_iter().flatten().map(|sysroot| sysroot.join("lib")))?)
}

fn toolchain() -> Option<Toolchain> {
    if let Some(rustc) = env::var_os("EBPF_RUSTC") {
        return usable(rustc.into());
    }
    output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]))
        .ok()
        .and_then(|rustc| usable(rustc.trim().into()))
        .or_else(|| usable("/usr/bin/rustc".into()))
}

fn usable(rustc: PathBuf) -> Option<Toolchain> {
    let ask = |arg: &[&str]| output(Command::new(&rustc).args(arg).env_remove("RUSTUP_TOOLCHAIN")).ok();
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    let has_core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists();
    let has_llvm = ask(&["-vV"])?.lines().any(|line| line.starts_with(LLVM));
    let cargo = env::var_os("EBPF_CARGO").map_or_else(|| rustc.with_file_name("cargo"), PathBuf::from);
    (has_core && has_llvm).then_some(Toolchain { cargo, rustc, sysroot })
}

/// Removes DWARF with the objcopy that every rustup toolchain has. Without one the object is larger, and works.
fn strip(built: &Path, object: &Path) -> Result<()> {
    // Written aside and renamed: a build of user space that runs at the same time never embeds half an object.
    let fresh = object.with_extension("new");
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    let sysroot = Path::new(sysroot.trim());
    let objcopy =
        sysroot.join(format!("lib/rustlib/{}-unknown-linux-gnu/bin/rust-objcopy", env::consts::ARCH));
    if objcopy.exists() {
        let mut command = Command::new(objcopy);
        command.arg("--strip-debug").arg(built).arg(&fresh).env("LD_LIBRARY_PATH", sysroot.join("lib"));
        run(&mut command)?;
    } else {
        std::fs::copy(built, &fresh).with_context(|| format!("copy {}", built.display()))?;
    }
    let same =
        std::fs::read(object).ok().is_some_and(|old| std::fs::read(&fresh).is_ok_and(|new| old == new));
    if same {
        // An unchanged time stamp spares rebuilding user space.
        std::fs::remove_file(&fresh)?;
    } else {
        std::fs::rename(&fresh, object).with_context(|| format!("put {} in place", object.display()))?;
    }
    Ok(())
}
