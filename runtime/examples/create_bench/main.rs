//! How long from "create this container" to its first byte of output: our shim and creator against crun and runc, on
//! the same root file system, namespaces, mounts, limits and system call filter, one after the other in each round.
//!
//! `create_bench --shim P --creator P [--crun P] [--runc P] [--runs N] [--cgroup PARENT]` prints one line of JSON with samples, in milliseconds if nothing else is
//! said:
//!
//! | name | from | to |
//! |---|---|---|
//! | `ours` | Create is written to the shim's socket (bundle on disk) | the byte is in the CRI log |
//! | `start` | `Runtime::start_container` is called (overlay, bundle, Create) | the byte is in the CRI log |
//! | `crun`, `runc` | `run` is spawned (bundle on disk) | the byte is read from its standard output |
//! | `floor` | this program is spawned and asks the kernel for the same container, without any checks | the byte is read from its standard output |
//! | `exec ours` | `Runtime::stream` is called | the byte is read from its standard output |
//! | `exec crun`, `exec runc` | `exec` is spawned | the byte is read from its standard output |
//! | `burst …` | 100 containers are asked for, 8 at a time | all of them run |
//! | `shim N` | megabytes that belong to each shim alone, with N pods | |
//! | `burst cpu …` | CPU time of all that took part, in milliseconds | |
//!
//! Ours is measured to the log file because nobody else reads the pipe; that is more work, not less.
//! Not for: CI gates. `cargo xtask bench create` runs this with release binaries.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod floor;
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
use ours::{Ours, Template};
use scratch::Scratch;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Containers of a burst, how many bursts, and how many starts are under way at a time.
const BURST: usize = 100;
const BURSTS: usize = 3;
const LANES: usize = 8;
/// Numbers of pods at which the memory of their shims is looked at.
const PODS: [usize; 3] = [10, 100, 300];

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
        Some("floor") => floor::serve(Path::new(words.get(1).map_or("", String::as_str))),
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
    println!("{}", serde_json::json!({ "samples": samples? }));
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
            let id = format!("{name}-{round}");
            let bundle = template.foreign_bundle(scratch, &id, false)?;
            note(name, launcher.first_byte(program, &state_of(scratch, name), &bundle, &id)?);
        }
        note("start", ours.start(scratch, round).await?);
        note("floor", floor::first_byte(&ours.bundle_of(scratch, &template, &format!("floor-{round}"))?)?);
    }
    commands(args, scratch, &template, (&mut ours, &mut launcher), &mut samples).await?;
    for _ in 0..BURSTS {
        bursts(args, scratch, &template, (&mut ours, &mut launcher), &mut samples).await?;
    }
    let mut pods = Vec::new();
    for count in PODS {
        ours.grow(scratch, &mut pods, count).await?;
        let private = pods.iter().map(|uid| scratch.private_memory(uid));
        samples.insert(format!("shim {count}"), private.collect::<Result<_>>()?);
    }
    ours.remove(&pods).await?;
    ours.close().await?;
    Ok(samples)
}

type Samples = BTreeMap<String, Vec<f64>>;

/// A command in a container that runs: one of each per round, after a round that does not count.
async fn commands(
    args: &Args,
    scratch: &Scratch,
    template: &Template,
    (ours, launcher): (&mut Ours, &mut Launcher),
    samples: &mut Samples,
) -> Result<()> {
    let (ids, _) = ours.hold(scratch, &["stays".to_owned()]).await?;
    for (name, program) in &args.others {
        let id = format!("{name}-stays");
        let bundle = template.foreign_bundle(scratch, &id, true)?;
        launcher.hold(program, &state_of(scratch, name), &[(bundle, id)])?;
    }
    for round in 0..=args.runs {
        let mut note = |name: &str, milliseconds: f64| {
            if round > 0 {
                samples.entry(format!("exec {name}")).or_default().push(milliseconds);
            }
        };
        for id in &ids {
            note("ours", ours.exec(id).await?);
        }
        for (name, program) in &args.others {
            note(name, launcher.exec(program, &state_of(scratch, name), &format!("{name}-stays"))?);
        }
    }
    for (name, program) in &args.others {
        launcher.delete(program, &state_of(scratch, name), &format!("{name}-stays"))?;
    }
    ours.delete(&ids).await
}

/// Many containers at once: how long until all run, and what that took of the CPUs.
async fn bursts(
    args: &Args,
    scratch: &Scratch,
    template: &Template,
    (ours, launcher): (&mut Ours, &mut Launcher),
    samples: &mut Samples,
) -> Result<()> {
    let burst = samples.get("burst ours").map_or(0, Vec::len);
    let mut note = |name: &str, milliseconds: f64, cpu: Option<f64>| {
        samples.entry(format!("burst {name}")).or_default().push(milliseconds);
        if let Some(cpu) = cpu {
            samples.entry(format!("burst cpu {name}")).or_default().push(cpu);
        }
    };
    let names: Vec<String> = (0..BURST).map(|number| format!("burst-{burst}-{number}")).collect();
    let before = scratch.cpu();
    let (ids, took) = ours.hold(scratch, &names).await?;
    note("ours", took, before.and_then(|before| Some(scratch.cpu()? - before)));
    ours.delete(&ids).await?;
    for (name, program) in &args.others {
        let bundles = names.iter().map(|id| {
            let id = format!("{name}-{id}");
            Ok((template.foreign_bundle(scratch, &id, true)?, id))
        });
        let bundles = bundles.collect::<Result<Vec<_>>>()?;
        let (root, before) = (state_of(scratch, name), scratch.cpu());
        let took = launcher.hold(program, &root, &bundles)?;
        note(name, took, before.and_then(|before| Some(scratch.cpu()? - before)));
        bundles.iter().try_for_each(|(_, id)| launcher.delete(program, &root, id))?;
    }
    Ok(())
}

fn state_of(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.path(&format!("{name}-state"))
}

fn chain(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", chain(cause)))
}
