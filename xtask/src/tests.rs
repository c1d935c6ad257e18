//! The test tiers. Each runs for real or fails; none passes by skipping.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::progress::step;
use crate::run::{cargo, is_root};
use crate::{build, machine, setup};

/// A group of tests with the same needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Pure modules, loops with fakes, the API server in process: stable Rust only.
    Unit,
    /// Pod network against the kernel, in namespaces of its own: root.
    Netns,
    /// Containers, eBPF, image pulls: root, BPF, cgroups. What of it takes another kernel than this one is run by the next.
    Root,
    /// Whole nodes and real clients: root, kubectl.
    E2e,
}

/// Files of tests by tier.
const FILES: [&str; 3] = ["netns_*", "root_*", "e2e_*"];

/// Tests of `root_services` that `e2e_machine_services` runs in a machine with another kernel.
const ELSEWHERE: &str = "machine::";

/// What a tier's runs added up to.
#[derive(Clone, Copy, Default)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// Runs the tiers (all when none is named) and ends with the counts.
pub(crate) fn run(tiers: &[Tier], filter: Option<&str>) -> Result<()> {
    let tiers = if tiers.is_empty() { Tier::value_variants() } else { tiers };
    if tiers.iter().any(|tier| *tier != Tier::Unit) {
        if !is_root() {
            bail!(
                "the tiers netns, root and e2e need root (namespaces, cgroups, BPF); `cargo xtask test unit` does not"
            );
        }
        setup::setup(setup::For::Tests)?;
    }
    let mut total = Counts::default();
    let mut broken = Vec::new();
    for tier in tiers {
        let counts = step(format!("tier {tier:?}"), |step| step.suspend(|| run_tier(*tier, filter)))?;
        println!("tier {tier:?}: {} passed, {} failed", counts.passed, counts.failed);
        if counts.failed > 0 || counts.passed == 0 {
            broken.push(format!("{tier:?}"));
        }
        total = Counts { passed: total.passed + counts.passed, failed: total.failed + counts.failed };
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if !broken.is_empty() && filter.is_none() || total.failed > 0 {
        bail!("failed, or ran no test: {}", broken.join(", "));
    }
    Ok(())
}

fn run_tier(tier: Tier, filter: Option<&str>) -> Result<Counts> {
    // A filter that is a file's name stands for all tests in it.
    let (file, filter) = match filter {
        Some(name) if FILES.iter().any(|files| name.starts_with(files.trim_end_matches('*'))) => {
            (Some(name), None)
        }
        _ => (None, filter),
    };
    let [netns, root, e2e] = FILES.map(|files| ["--test", file.unwrap_or(files)]);
    // Always the whole workspace: one set of features, so that no tier builds the libraries anew.
    let runs: &[&[&str]] = match tier {
        Tier::Unit => &[&["--all-targets"], &["--doc"]],
        Tier::Netns => &[&netns],
        Tier::Root => &[&root],
        Tier::E2e => &[&e2e],
    };
    let mut envs = Vec::new();
    match tier {
        Tier::Unit => {}
        Tier::Netns => envs.push(("ORLOP_CONTAINERD", setup::containerd()?)),
        Tier::Root => {
            // The runtime's tests start the real shim and creator.
            crate::run::run(&mut cargo(["build", "--locked", "--workspace", "--bins", "--examples"]))?;
            let debug = crate::run::target_dir().join("debug");
            envs.push(("ORLOP_EBPF_OBJECT", build::ebpf()?));
            envs.push(("ORLOP_TEST_SHIM", debug.join("orlop-shim")));
            envs.push(("ORLOP_TEST_CREATOR", debug.join("examples/creator")));
        }
        Tier::E2e => {
            let built = build::build()?;
            build::images_with(&built)?;
            envs.push(("ORLOP_DEBIAN_IMAGES", build::debian_images()?));
            envs.push(("ORLOP_MACHINE", build::machine(machine::NODE)?));
            envs.push(("ORLOP_MACHINE_SERVICES", build::machine(machine::SERVICES)?));
            envs.push(("ORLOP_TEST_SERVICES", build::services_test()?));
            envs.push(("ORLOP_BIN", built.orlop.parent().context("binary without a directory")?.to_owned()));
            envs.push(("ORLOP_IMAGES", crate::run::target_dir().join("images")));
            envs.push(("ORLOP_OLD_KUBECTL", setup::old_kubectl_path()));
            envs.push(("ORLOP_PYTHON", setup::python_path()));
            // Not this process's own path: cargo has replaced the file by an equal one since.
            envs.push(("ORLOP_XTASK", crate::run::target_dir().join("debug/xtask")));
        }
    }
    let mut counts = Counts::default();
    for args in runs {
        let mut command = cargo(["test", "--locked", "--no-fail-fast", "--workspace"]);
        command.args(*args);
        command.envs(envs.iter().map(|(key, value)| (key, value)));
        command.args(filter).arg("--");
        if tier != Tier::Unit {
            // These share one machine: two at once would disturb each other's timing, not each other's names.
            command.args(["--ignored", "--test-threads=2"]);
        }
        if tier == Tier::Root {
            command.args(["--skip", ELSEWHERE]);
        }
        let run = counted(&mut command)?;
        counts = Counts { passed: counts.passed + run.passed, failed: counts.failed + run.failed };
    }
    Ok(counts)
}

/// Passes the output through and adds up the runners' closing lines.
fn counted(command: &mut std::process::Command) -> Result<Counts> {
    let mut child =
        command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().context("start cargo test")?;
    let out = child.stdout.take().context("cargo test without standard output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(out).lines() {
        let line = line.context("read what cargo test prints")?;
        println!("{line}");
        if let Some(summary) = line.strip_prefix("test result: ") {
            counts.passed += number_before(summary, " passed");
            counts.failed += number_before(summary, " failed");
        }
    }
    let status = child.wait().context("wait for cargo test")?;
    if !status.success() && counts.failed == 0 {
        bail!(
            "cargo test ended with {status} before any test failed: it did not build, or a test process died"
        );
    }
    Ok(counts)
}

fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap_or_default();
    before.rsplit([' ', '.']).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
