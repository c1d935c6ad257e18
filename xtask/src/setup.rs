//! Installing what building and testing needs, and nothing that is already there.
//!
//! Each step is printed; what cannot be installed is named together with the command that would do it.
//! Not for: anything on the user's machine at run time. `orlop` itself needs none of this.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::progress::step;
use crate::run::{cargo, cmd, is_root, output, run, succeeds, target_dir, which};

const TARGET: &str = "x86_64-unknown-linux-musl";
/// The last release that opens the LLVM library which rustc itself ships, so no LLVM package is needed.
const BPF_LINKER: &str = "0.10.3";
const OLD_KUBECTL: &str = "kubectl-1.20";

/// What the machine is being prepared for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// The playground with binaries that are there already.
    Run,
    /// Building and the playground.
    Use,
    /// All test tiers and benchmarks.
    Tests,
}

/// A program and the Debian package that has it.
struct Needed {
    program: &'static str,
    package: &'static str,
}

const fn needed(program: &'static str, package: &'static str) -> Needed {
    Needed { program, package }
}

const RUN: &[Needed] = &[
    needed("busybox", "busybox-static"),
    needed("ip", "iproute2"),
    needed("nsenter", "util-linux"),
    needed("curl", "curl"),
];

const BUILD: &[Needed] = &[needed("cc", "gcc"), needed("musl-gcc", "musl-tools")];

const TESTS: &[Needed] = &[
    needed("docker-registry", "docker-registry"),
    needed("skopeo", "skopeo"),
    needed("runc", "runc"),
    needed("crun", "crun"),
    needed("bpftool", "bpftool"),
    needed("nft", "nftables"),
    needed("dig", "bind9-dnsutils"),
    needed("dnsmasq", "dnsmasq-base"),
    needed("iptables", "iptables"),
    needed("ping", "iputils-ping"),
    needed("ethtool", "ethtool"),
    needed("htpasswd", "apache2-utils"),
    needed("dpkg-deb", "dpkg"),
    needed("debootstrap", "debootstrap"),
    needed("qemu-system-x86_64", "qemu-system-x86"),
    needed("mke2fs", "e2fsprogs"),
    needed("strace", "strace"),
    needed("podman", "podman"),
    needed("conmon", "conmon"),
];

/// Brings the machine up to `what`; quick when nothing is missing.
pub(crate) fn setup(what: For) -> Result<()> {
    apt(RUN)?;
    if which("kubectl").is_none() {
        install(&["kubernetes-client"])?;
    }
    if what == For::Run {
        return Ok(());
    }
    apt(BUILD)?;
    musl_target()?;
    ebpf_toolchain()?;
    bpf_linker()?;
    if what == For::Tests {
        apt(TESTS)?;
        cni_plugins()?;
        containerd()?;
        old_kubectl()?;
        python_client()?;
    }
    Ok(())
}

/// Where tools that this repository installs for itself live.
pub(crate) fn tools() -> PathBuf {
    target_dir().join("tools")
}

/// kubectl 1.20, the only one that a fresh Debian offers; kept beside the machine's own.
pub(crate) fn old_kubectl_path() -> PathBuf {
    tools().join(OLD_KUBECTL).join("usr/bin/kubectl")
}

/// A Python interpreter that has the `kubernetes` package from PyPI.
pub(crate) fn python_path() -> PathBuf {
    tools().join("python/bin/python")
}

fn apt(wanted: &[Needed]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|n| which(n.program).is_none()).map(|n| n.package).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn install(packages: &[&str]) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("missing: {}; install them with this system's package manager", packages.join(", "));
    }
    step(format!("apt-get install {}", packages.join(" ")), |step| {
        let args = ["-o", "DPkg::Lock::Timeout=500", "install", "-y", "--no-install-recommends"];
        let apt_install = || output(privileged("apt-get")?.args(args).args(packages));
        // A fresh machine has no package lists: update once, only when the first try says so.
        if apt_install().is_err() {
            step.detail("apt-get update");
            output(privileged("apt-get")?.arg("update"))?;
            apt_install().with_context(|| format!("install {}", packages.join(" ")))?;
        }
        Ok(())
    })
}

fn privileged(program: &str) -> Result<Command> {
    let mut command = if is_root() {
        Command::new(program)
    } else if which("sudo").is_some() {
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    } else {
        bail!("{program} needs root: run as root, or install sudo");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

fn rustup(args: &[&str]) -> Result<String> {
    if which("rustup").is_none() {
        bail!("rustup is missing: install Rust from https://rustup.rs, then run this again");
    }
    output(&mut cmd("rustup", args))
}

fn musl_target() -> Result<()> {
    if rustup(&["target", "list", "--installed"])?.lines().any(|line| line == TARGET) {
        return Ok(());
    }
    step(format!("rustup target add {TARGET}"), |_| rustup(&["target", "add", TARGET]).map(drop))
}

/// The eBPF programs are built for a target without a prebuilt `core`: that takes a nightly with its sources,
/// or Debian's rustc-web packages, which have both.
fn ebpf_toolchain() -> Result<()> {
    if crate::ebpf::has_toolchain() {
        return Ok(());
    }
    if rustup(&["toolchain", "list"])?.lines().any(|line| line.starts_with("nightly")) {
        let add = ["component", "add", "rust-src", "--toolchain", "nightly"];
        step(format!("rustup {}", add.join(" ")), |_| rustup(&add).map(drop))?;
    } else {
        let install = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
        if let Err(error) = step(format!("rustup {}", install.join(" ")), |_| rustup(&install).map(drop)) {
            eprintln!("  no nightly to be had ({error:#}); trying Debian's rustc-web");
        }
    }
    if crate::ebpf::has_toolchain() {
        return Ok(());
    }
    self::install(&["rustc-web", "cargo-web", "rust-web-src", "libllvm22"])?;
    if crate::ebpf::has_toolchain() {
        return Ok(());
    }
    bail!(
        "no Rust toolchain with LLVM 22 and rust-src for the eBPF programs: `rustup component add rust-src --toolchain \
         nightly`, or `apt-get install rustc-web cargo-web rust-web-src`"
    )
}

fn bpf_linker() -> Result<()> {
    if crate::ebpf::linker().is_some() {
        return Ok(());
    }
    step(format!("cargo install bpf-linker {BPF_LINKER}"), |_| {
        let root = tools();
        let args = ["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--quiet", "--root"];
        output(cargo(args).arg(&root).env_remove("CARGO_TARGET_DIR")).map(drop)
    })
}

/// Debian's network plugins: the others that ours is measured against, and that the agent can call.
pub(crate) fn cni_plugins() -> Result<()> {
    if Path::new("/usr/lib/cni/bridge").is_file() {
        return Ok(());
    }
    install(&["containernetworking-plugins"])
}

fn old_kubectl() -> Result<()> {
    unpack_beside("kubernetes-client", OLD_KUBECTL, &old_kubectl_path())
}

/// What only measuring needs; the directory of containerd's programs.
pub(crate) fn bench_tools() -> Result<PathBuf> {
    apt(&[needed("umoci", "umoci")])?;
    containerd()
}

/// The directory of containerd's programs. Its package would start a service.
pub(crate) fn containerd() -> Result<PathBuf> {
    let programs = tools().join("containerd/usr/bin");
    unpack_beside("containerd", "containerd", &programs.join("containerd"))?;
    Ok(programs)
}

/// Unpacks a package of Debian's into a directory of our own, unless `program` is there.
fn unpack_beside(package: &str, name: &str, program: &Path) -> Result<()> {
    if program.is_file() {
        return Ok(());
    }
    step(format!("unpack Debian's {package} beside the machine's own"), |_| {
        let dir = tools().join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let download = || output(Command::new("apt-get").args(["download", package]).current_dir(&dir));
        download()
            .or_else(|_| {
                output(privileged("apt-get")?.arg("update"))?;
                download()
            })
            .with_context(|| format!("download Debian's package {package}"))?;
        let deb = std::fs::read_dir(&dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get download left no .deb")?;
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&dir))?;
        std::fs::remove_file(deb).context("remove the unpacked .deb")
    })
}

fn python_client() -> Result<()> {
    let python = python_path();
    if succeeds(Command::new(&python).args(["-c", "import kubernetes, yaml"])) {
        return Ok(());
    }
    step("pip install kubernetes (into a virtual environment of its own)", |_| {
        let venv = tools().join("python");
        let make = |venv: &PathBuf| output(Command::new("python3").args(["-m", "venv"]).arg(venv));
        if make(&venv).is_err() {
            install(&["python3", "python3-venv"])?;
            make(&venv)?;
        }
        output(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "kubernetes==37.0.0",
            "pyyaml",
        ]))
        .map(drop)
    })
}
