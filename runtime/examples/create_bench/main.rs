//! How long from "create this container" to its first byte of output: our shim and creator against crun and runc, on
//! the same root file system, namespaces, mounts, limits and system call filter, one after the other in each round.
//!
//! `create_bench --shim P --creator P [--crun P] [--runc P] [--runs N] [--cgroup PARENT]` prints one line of JSON with milliseconds:
//!
//! | name | from | to |
//! |---|---|---|
//! | `ours` | Create is written to the shim's socket (bundle on disk) | the byte is in the CRI log |
//! | `start` | `Runtime::start_container` is called (overlay, bundle, Create) | the byte is in the CRI log |
//! | `crun`, `runc` | `run` is spawned (bundle on disk) | the byte is read from its standard output |
//!
//! Ours is measured to the log file because nobody else reads the pipe; that is more work, not less.
//! Not for: CI gates. `cargo xtask bench create` runs this with release binaries.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod launcher;
mod oci;
mod ours;
mod profile;
mod scratch;

use std::{
    collections::BTreeMap,
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
};

use launcher::Launcher;
use ours::Ours;
use scratch::Scratch;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What was asked for.
struct Args {
    shim: PathBuf,
    creator: PathBuf,
    /// Name and path of what to compare with.
    others: Vec<(String, PathBuf)>,
    runs: usize,
    /// Where the cgroups are made, below every hierarchy's mount point.
    cgroup: String,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.first().map(String::as_str) {
        Some("launch") => launcher::serve(),
        Some("tidy") => match &words[1..] {
            [dir, cgroup] => scratch::tidy(Path::new(dir), cgroup),
            _ => Err("tidy what?".into()),
        },
        _ => args(&words).and_then(|args| measure(&args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("create_bench: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn args(words: &[String]) -> Result<Args> {
    let mut args = Args {
        shim: PathBuf::new(),
        creator: PathBuf::new(),
        others: Vec::new(),
        runs: 30,
        cgroup: String::new(),
    };
    for pair in words.chunks(2) {
        let [flag, value] = pair else { return Err("a flag without a value".into()) };
        match flag.as_str() {
            "--shim" => args.shim = value.into(),
            "--creator" => args.creator = value.into(),
            "--crun" | "--runc" => {
                args.others.push((flag.trim_start_matches('-').to_owned(), value.into()));
            }
            "--cgroup" => args.cgroup = value.clone(),
            "--runs" => args.runs = value.parse()?,
            other => return Err(format!("unknown flag {other}").into()),
        }
    }
    if args.shim.as_os_str().is_empty() || args.creator.as_os_str().is_empty() {
        return Err("--shim and --creator are needed".into());
    }
    Ok(args)
}

fn measure(args: &Args) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let scratch = Scratch::new(&args.cgroup)?;
    let samples = tokio.block_on(rounds(args, &scratch));
    drop(scratch);
    println!("{}", serde_json::json!({ "milliseconds": samples? }));
    Ok(())
}

/// One of each per round, after a round that does not count.
async fn rounds(args: &Args, scratch: &Scratch) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut ours = Ours::open(scratch, &args.shim, &args.creator).await?;
    let template = ours.template(scratch).await?;
    let mut launcher = Launcher::start()?;
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..=args.runs {
        let mut note = |name: &str, milliseconds: f64| {
            if round > 0 {
                samples.entry(name.to_owned()).or_default().push(milliseconds);
            }
        };
        note("ours", ours.create(scratch, &template, round).await?);
        for (name, program) in &args.others {
            let bundle = template.foreign_bundle(scratch, name, round)?;
            let root = scratch.path(&format!("{name}-state"));
            note(name, launcher.first_byte(program, &root, &bundle, &format!("{name}-{round}"))?);
        }
        note("start", ours.start(scratch, round).await?);
    }
    ours.close().await?;
    Ok(samples)
}

fn chain(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", chain(cause)))
}
