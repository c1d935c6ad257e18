//! What a user sees of pods here and on upstream 1.34.2: 115 cases against a record of theirs.
//!
//! The cases, the record and the program that compares them are `$ORLOP_FIXTURES/pod-behaviour`; what may differ is
//! listed below and argued in `docs/parity.md`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it left out"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use orlop_tests::{
    Playground,
    playground::{Output, given, run},
};

/// Different on purpose.
const DIFFER: &[&str] = &[
    "cgroup-paths",
    "command-is-directory",
    "command-not-found-always",
    "exec-probe-not-found",
    "security-capabilities",
    "security-default",
    "security-seccomp",
];

/// What no runtime promises and the record had by luck: file, text, what is run in its place.
const RACES: &[(&str, &str, &str)] = &[
    // A pod can be told to be ready before its program looks again at what the hook has done.
    ("poststart-exec.yaml", "- logs:\n", "- wait: {pod: p, container: c, log: hook}\n- logs:\n"),
    // A pod without a probe is Ready at once, its web server is not: upstream says Ready a second later.
    ("prestop-http.yaml", "- delete: p\n", "- sleep: 1\n- delete: p\n"),
    ("prestop-http.yaml", "- patch:\n", "- as: 4-patch\n  patch:\n"),
    // One line goes to the standard error, the next to the standard output.
    ("oom-killed-child.yaml", "  as: out\n", "  as: out\n  sort: true\n"),
];

const PARITY: &str = include_str!("../../docs/parity.md");

#[test]
#[ignore = "e2e tier"]
fn pods_behave_as_recorded_from_upstream() {
    let fixtures = std::env::var_os("ORLOP_FIXTURES");
    let fixtures =
        fixtures.expect("ORLOP_FIXTURES is not set: the folder with the record of upstream's pods");
    let fixtures = PathBuf::from(fixtures).join("pod-behaviour");
    let p = Playground::with(&[], &[("ORLOP_SERVICE_CIDR", "10.96.0.0/16")]);
    let cases = p.dir.join("cases");
    let count = copy_cases(&fixtures.join("cases"), &cases);
    let check = Check { p: &p, fixtures, cases };

    let mut found = check.run(&["-j", "8"]);
    assert_eq!(found.len(), count, "a word about every case: {found:?}");
    let listed: BTreeSet<_> = DIFFER.iter().copied().collect();
    // What a busy machine upset has a second chance, with less beside it.
    let again: Vec<_> =
        found.iter().filter(|(name, case)| !case.same && !listed.contains(&***name)).collect();
    let again: Vec<_> =
        again.into_iter().flat_map(|(name, _)| ["--only", name.as_str()]).map(str::to_owned).collect();
    if !again.is_empty() {
        let again: Vec<_> = again.iter().map(String::as_str).collect();
        found.extend(check.run(&[&["-j", "2"], &again[..]].concat()));
    }
    let wrong: Vec<_> = found
        .iter()
        .filter(|(name, case)| case.same == listed.contains(&***name))
        .map(|(_, case)| case.said.as_str())
        .collect();
    assert!(wrong.is_empty(), "not as listed, {} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_differs_is_argued() {
    let argued: BTreeSet<_> = PARITY
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let listed: BTreeSet<_> = DIFFER.iter().copied().collect();
    assert_eq!(argued, listed);
}

/// What was said about one case.
#[derive(Debug)]
struct Case {
    same: bool,
    said: String,
}

struct Check<'a> {
    p: &'a Playground,
    fixtures: PathBuf,
    cases: PathBuf,
}

impl Check<'_> {
    fn run(&self, args: &[&str]) -> BTreeMap<String, Case> {
        let mut check = self.p.inside(1, "timeout");
        check.arg("300").arg(given("ORLOP_PYTHON")).arg(self.fixtures.join("podcheck.py")).arg("check");
        check.arg("--kubeconfig").arg(self.p.dir.join("kubeconfig"));
        check.args(["--image", "orlop.dev/example/busybox:v1", "--cases"]).arg(&self.cases);
        check.arg("--golden").arg(self.fixtures.join("golden.json")).args(args);
        let Output { stdout, stderr, .. } = run(&mut check);
        let mut found = BTreeMap::new();
        let mut name = "";
        for line in stdout.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), line.starts_with(' ')) {
                (Some(verdict @ ("same" | "differs" | "error")), Some(of), false) => {
                    name = of;
                    let case = Case { same: verdict == "same", said: line.to_owned() };
                    found.insert(name.to_owned(), case);
                }
                // The difference.
                (Some(_), _, true) => found.get_mut(name).unwrap().said += &format!("\n{line}"),
                _ => {}
            }
        }
        assert!(stdout.trim_end().ends_with(" errors"), "it ended before its time: {stdout}{stderr}");
        found
    }
}

/// The cases that this machine can run; how many.
fn copy_cases(from: &Path, to: &Path) -> usize {
    fs::create_dir(to).unwrap();
    // The record shows files of cgroup v1.
    let v1 = Path::new("/sys/fs/cgroup/memory").is_dir();
    let mut count = 0;
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let mut text = fs::read_to_string(&path).unwrap();
        if text.contains("/sys/fs/cgroup/") && !v1 {
            eprintln!("no cgroup v1 here, not run: {}", path.display());
            continue;
        }
        for (_, from, to) in RACES.iter().filter(|(name, ..)| path.ends_with(name)) {
            assert_eq!(text.matches(from).count(), 1, "{text}");
            text = text.replace(from, to);
        }
        fs::write(to.join(path.file_name().unwrap()), text).unwrap();
        count += 1;
    }
    count
}
