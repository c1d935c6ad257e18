//! Cases as tables: `cases/*.txt` hold a pod and what happens to it, and what then is done and said.
//!
//! ```text
//! never: {restartPolicy: Never, containers: [{name: c, image: i}]}        a pod
//!
//! never | run | exit c 1                                                  a case: pod | before | now
//!     stop s within 30s: Stopping container s; wake 10s                   actions of `now`, when to look again
//!     Failed; not ContainersReady, Ready (PodFailed)                      phase and conditions
//!     c: terminated Error 1                                               containers
//! ```
//!
//! Conditions that are True and have nothing to add are not printed. `UPDATE_EXPECT=1` writes the answers anew. What the
//! words of a script mean is in [`Story::event`]; `run` lets all that is under way succeed, and init containers with it.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use expect_test::expect_file;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};

use super::{Story, state};

/// Cases in all files together. Their number is a promise.
const AT_LEAST: usize = 250;

const FILES: [&str; 14] = [
    "start",
    "init",
    "sidecars",
    "restart",
    "rules",
    "backoff",
    "images",
    "hooks",
    "grace",
    "end",
    "ephemeral",
    "resize",
    "conditions",
    "reboot",
];

#[test]
fn every_case_of_every_table() {
    let mut cases = BTreeSet::new();
    let mut failures = Vec::new();
    for file in FILES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/pod/tests/cases/{file}.txt"));
        let text = std::fs::read_to_string(&path).unwrap();
        let answered = answer(&text, &mut cases);
        let checked = std::panic::catch_unwind(|| expect_file![&path].assert_eq(&answered));
        failures.extend(checked.err().map(|_| file));
    }
    assert!(failures.is_empty(), "other answers than in {failures:?}");
    assert!(cases.len() >= AT_LEAST, "only {} cases", cases.len());
}

/// The same text with the answers of now in place of those in it.
fn answer(text: &str, cases: &mut BTreeSet<(String, String)>) -> String {
    let mut pods: Vec<(&str, &str)> = Vec::new();
    let mut answered = String::new();
    for line in text.lines().filter(|line| !line.starts_with("    ")) {
        writeln!(answered, "{line}").unwrap();
        if let Some((pod, script)) = line.split_once(" | ").filter(|_| !line.starts_with('#')) {
            let of_name = pods.iter().find(|(name, _)| *name == pod.trim());
            let (_, spec) = of_name.unwrap_or_else(|| panic!("no pod named {pod}"));
            assert!(cases.insert((String::from(*spec), script.to_owned())), "twice: {line}");
            answered += &case(spec, script);
        } else if let Some((name, spec)) = line.split_once(": ").filter(|_| !line.starts_with('#')) {
            pods.push((name, spec.trim()));
        }
    }
    answered
}

fn case(spec: &str, script: &str) -> String {
    let mut story = Story::new(spec);
    let (before, now) = script.rsplit_once(" | ").unwrap_or(("", script));
    before.split("; ").filter(|event| !event.is_empty()).for_each(|event| drop(story.live(event)));
    let mut actions = Vec::new();
    let mut wake = None;
    for event in now.split("; ") {
        let plan = story.live(event);
        actions.extend(plan.actions.iter().map(ToString::to_string));
        actions.extend(plan.finished.then(|| "finished".to_owned()));
        wake = plan.wake_at;
    }
    actions.extend(wake.map(|at| {
        let wait = at.duration_since(story.now).as_millis();
        let rest = if wait % 1000 == 0 { String::new() } else { format!(".{}", wait % 1000 / 100) };
        format!("wake {}{rest}s", wait / 1000)
    }));
    if actions.is_empty() {
        actions.push("nothing".into());
    }
    format!("    {}\n    {}\n    {}\n", actions.join("; "), pod(&story.told), containers(&story.told))
}

fn pod(status: &PodStatus) -> String {
    let mut text = status.phase.clone().unwrap_or_default();
    let why: Vec<&str> =
        [&status.reason, &status.message].into_iter().filter_map(|part| part.as_deref()).collect();
    if !why.is_empty() {
        write!(text, " ({})", why.join(": ")).unwrap();
    }
    let mut said: Vec<(String, String)> = Vec::new();
    for condition in status.conditions.iter().flatten() {
        let Some(words) = words(condition) else { continue };
        match said.iter_mut().find(|(_, other)| *other == words) {
            Some((kinds, _)) => *kinds += &format!(", {}", condition.type_),
            None => said.push((condition.type_.clone(), words)),
        }
    }
    for (kinds, words) in said {
        text += "; ";
        match words.strip_prefix("not") {
            Some(why) => write!(text, "not {kinds}{why}").unwrap(),
            None => write!(text, "{kinds}{words}").unwrap(),
        }
    }
    text
}

/// What is worth saying of a condition; the two usual texts are cut to the names in them.
fn words(condition: &PodCondition) -> Option<String> {
    let ours = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"];
    let is_true = condition.status == "True";
    if is_true && condition.reason.is_none() && ours.contains(&&*condition.type_) {
        return None;
    }
    let message = condition.message.as_deref().map(|message| {
        let names = message
            .strip_prefix("containers with unready status: ")
            .or(message.strip_prefix("containers with incomplete status: "));
        names.unwrap_or(message)
    });
    let why: Vec<_> = condition.reason.as_deref().into_iter().chain(message).collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(" ")) };
    Some(format!("{}{why}", if is_true { "" } else { "not" }))
}

fn containers(status: &PodStatus) -> String {
    let all = status.init_container_statuses.iter().flatten();
    let all = all.chain(status.container_statuses.iter().flatten());
    let all = all.chain(status.ephemeral_container_statuses.iter().flatten());
    let all: Vec<_> = all.map(|container| format!("{}: {}", container.name, state(container))).collect();
    if all.is_empty() { "no containers".into() } else { all.join(" · ") }
}
