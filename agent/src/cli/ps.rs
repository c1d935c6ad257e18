//! `orlop ps`: the containers on this machine, from the runtime's records.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use jiff::{SpanRound, Timestamp, Unit};
use orlop::args::DirArgs;
use orlop_runtime::{Container, ContainerState};

use super::table;

/// Prints one row per container.
///
/// # Errors
/// When nothing can be printed.
pub(crate) fn ps(all: bool, dirs: &DirArgs) -> Result<()> {
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for sandbox in orlop_runtime::list(&dirs.run_dir) {
        for container in &sandbox.containers {
            if all || matches!(container.state, ContainerState::Running { .. }) {
                rows.push(row(&sandbox.pod, container, now));
            }
        }
    }
    rows.sort();
    let header = ["NAMESPACE", "POD", "CONTAINER", "ID", "IMAGE", "ATTEMPT", "STATE", "PID", "AGE"];
    std::io::stdout().write_all(table(&header, &rows).as_bytes()).context("print")
}

fn row(pod: &orlop_runtime::PodRef, container: &Container, now: Timestamp) -> Vec<String> {
    let (state, pid, since) = match &container.state {
        ContainerState::Created => ("Created".to_owned(), String::new(), None),
        ContainerState::Running { pid, started_at } => {
            ("Running".to_owned(), pid.to_string(), Some(*started_at))
        }
        ContainerState::Exited(exit) => {
            (format!("Exited ({})", exit.code), String::new(), Some(exit.finished_at))
        }
    };
    vec![
        pod.namespace.clone(),
        pod.name.clone(),
        container.name.clone(),
        container.id.get(..12).unwrap_or(&container.id).to_owned(),
        container.image_ref.clone(),
        container.attempt.to_string(),
        state,
        pid,
        since.map(|since| age(since, now)).unwrap_or_default(),
    ]
}

fn age(since: Timestamp, now: Timestamp) -> String {
    let round = SpanRound::new().largest(Unit::Hour).smallest(Unit::Second);
    (now - since).round(round).map_or_else(|_| String::new(), |span| format!("{span:#}"))
}
