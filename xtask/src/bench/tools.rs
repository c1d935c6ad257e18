//! Programs that only measuring needs, built like what is shipped so that most of it is built already.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::TARGET;
use crate::progress::step;
use crate::run::{cargo, output, run, target_dir};

/// Where tools come from.
pub(crate) struct Tools {
    /// Looked into first, so that no build disturbs a measurement.
    pub(crate) ready: Option<PathBuf>,
}

impl Tools {
    /// Creates pods and watches them, as a user of the API would.
    pub(crate) fn client(&self) -> Result<PathBuf> {
        self.find("orlop-tests", "--bin", "orlop-bench-client")
    }

    /// An example of a package.
    pub(crate) fn example(&self, package: &str, name: &str) -> Result<PathBuf> {
        self.find(package, "--example", name)
    }

    fn find(&self, package: &str, kind: &str, name: &str) -> Result<PathBuf> {
        let ready = self.ready.iter().map(|dir| dir.join(name)).find(|path| path.exists());
        if let Some(path) = ready {
            return Ok(path);
        }
        build(package, &[kind, name])?;
        let below = if kind == "--example" { "examples" } else { "" };
        Ok(release_dir().join(below).join(name))
    }
}

fn release_dir() -> PathBuf {
    target_dir().join(TARGET).join("release")
}

fn build(package: &str, what: &[&str]) -> Result<()> {
    step(format!("build {} (release, static)", what.join(" ")), |step| {
        let mut command = cargo(["build", "--release", "--locked", "--target", TARGET, "-p", package]);
        command.args(what);
        if package == "orlop-dataplane" {
            command.env("ORLOP_EBPF_OBJECT", crate::build::ebpf()?);
        }
        step.suspend(|| run(&mut command))
    })
}

/// Runs a tool that ends with one line of JSON.
pub(crate) fn json(command: &mut Command) -> Result<Value> {
    let text = output(command)?;
    let Some(line) = text.lines().last() else { bail!("printed nothing") };
    serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))
}

/// The numbers of a JSON list.
pub(crate) fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}
