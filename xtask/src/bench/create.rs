//! Container create → first byte of output, exec → first byte, and a hundred containers at once, against crun and runc on
//! the same bundle.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::priority::Preferred;
use super::row::{Aim, Row};
use super::summary::Summary;
use super::tools::{self, Tools};
use crate::build::Built;
use crate::run::which;

const RUNS: u32 = 100;

pub(crate) fn measure(built: &Built, tools: &Tools) -> Result<Vec<Row>> {
    let bench = tools.example("orlop-runtime", "create_bench")?;
    let preferred = Preferred::new()?;
    let mut command = preferred.command(&bench);
    command.args(["--cgroup", preferred.name()]);
    command.arg("--shim").arg(&built.shim).arg("--creator").arg(&built.orlop);
    command.arg("--runs").arg(RUNS.to_string());
    let others = ["crun", "runc"].map(|name| Some((name, which(name)?)));
    for (name, path) in others.iter().flatten() {
        command.arg(format!("--{name}")).arg(path);
    }
    let result = tools::json(&mut command);
    preferred.remove()?;
    let result = result?;
    let summary = |name: &str| {
        let samples = tools::numbers(&result["samples"][name]);
        Summary::of(&samples).with_context(|| format!("create_bench says nothing of {name}"))
    };
    let mut rows = Vec::new();
    let mut compare =
        |what: &str, unit: &'static str, key: &str, scale: f64, aim: Option<Aim>| -> Result<()> {
            for (name, path) in others.iter().flatten() {
                let (ours, theirs) = (summary(&format!("{key}ours"))?, summary(&format!("{key}{name}"))?);
                let row = Row::new(what, unit, ours.scaled(scale))
                    .against(version(name, path), theirs.scaled(scale));
                rows.push(match aim {
                    Some(aim) if *name == "crun" => row.aim(aim),
                    _ => row,
                });
            }
            Ok(())
        };
    compare("container create → first byte, bundle ready", "ms", "", 1.0, Some(Aim::Ratio(0.7)))?;
    compare("exec → first byte", "ms", "exec ", 1.0, Some(Aim::Ratio(0.2)))?;
    compare("100 containers, 8 at a time, until all run", "s", "burst ", 1e-3, None)?;
    if result["samples"]["burst cpu ours"].is_array() {
        compare("· CPU time of that", "s", "burst cpu ", 1e-3, None)?;
    }
    let floor =
        Row::new("the first row by the kernel alone: no checks, nothing kept", "ms", summary("ours")?);
    rows.push(floor.against("raw floor".to_owned(), summary("floor")?));
    rows.push(Row::new("create with overlay and bundle made first", "ms", summary("start")?));
    for pods in [10, 100, 300] {
        let row = Row::new(
            format!("private memory of a shim, {pods} pods"),
            "MB",
            summary(&format!("shim {pods}"))?,
        );
        rows.push(row.aim(Aim::AtMost(0.15)));
    }
    Ok(rows)
}

fn version(name: &str, path: &std::path::Path) -> String {
    let text = crate::run::output(Command::new(path).arg("--version")).unwrap_or_default();
    let words = text.lines().next().unwrap_or_default().replace(" version", "");
    if words.is_empty() { name.to_owned() } else { words }
}
