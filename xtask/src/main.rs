//! `cargo xtask`: everything a person or CI does with this repository, without a Makefile or a script per job.
//!
//! Not for: anything the product itself needs at run time. This crate shells out freely (apt, ip, kubectl);
//! the product never does.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod build;
mod ebpf;
mod image;
mod machine;
mod playground;
mod progress;
mod run;
mod setup;
mod tests;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Build, try out, test and measure Orlop.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing needs: apt packages, Rust targets, bpf-linker, kubectl.
    Setup {
        /// Also what only the tests need (registry, runc, crun, bpftool, old kubectl, Python client).
        #[arg(long)]
        tests: bool,
    },
    /// Build the eBPF object, then the static `orlop` and `orlop-shim`.
    Build,
    /// Build only the eBPF object.
    Ebpf,
    /// Bring up a standalone node with a running example, in namespaces of its own.
    Up(playground::UpArgs),
    /// Remove every trace of the playground.
    Down(PlaygroundDir),
    /// Build the example images or that of `orlop` itself, or put an image into the playground.
    Image {
        #[command(subcommand)]
        command: Option<ImageCommand>,
    },
    /// Run the test tiers (all of them without an argument); ends with the counts.
    Test {
        /// unit, netns, root, e2e.
        tiers: Vec<tests::Tier>,
        /// Only tests whose name contains this, or those of a file that is named so (`e2e_dns`).
        #[arg(long)]
        filter: Option<String>,
    },
    /// Measure, and print ratios against what a user would run instead.
    Bench(bench::BenchArgs),
    /// Check the repository's own rules: who may depend on whom, what a pure module may use, file headers.
    Tidy,
}

#[derive(Args)]
struct PlaygroundDir {
    /// Where the playground lives.
    #[arg(long, default_value = playground::DEFAULT_DIR)]
    dir: PathBuf,
}

#[derive(Subcommand)]
enum ImageCommand {
    /// Build the example image layouts into target/images.
    Build,
    /// Build the image of `orlop` itself: an OCI layout and a tar of it in target/orlop-image.
    Own {
        /// What it is called.
        #[arg(long, default_value = build::OWN_IMAGE)]
        reference: String,
        /// The program [default: build it].
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// Where else to put it.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Load an OCI layout directory or tar into the playground's nodes.
    Load {
        /// OCI layout directory, OCI tar or `docker save` tar.
        path: PathBuf,
        #[command(flatten)]
        playground: PlaygroundDir,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup { tests } => setup::setup(if tests { setup::For::Tests } else { setup::For::Use }),
        Command::Build => setup::setup(setup::For::Use).and_then(|()| build::build().map(drop)),
        Command::Ebpf => setup::setup(setup::For::Use).and_then(|()| build::ebpf().map(drop)),
        Command::Up(args) => playground::up(&args),
        Command::Down(PlaygroundDir { dir }) => playground::down(&dir),
        Command::Image { command: None | Some(ImageCommand::Build) } => build::images().map(drop),
        Command::Image { command: Some(ImageCommand::Own { reference, program, out }) } => {
            build::own_image(&reference, program, out)
        }
        Command::Image { command: Some(ImageCommand::Load { path, playground }) } => {
            playground::load_image(&playground.dir, &path)
        }
        Command::Test { tiers, filter } => tests::run(&tiers, filter.as_deref()),
        Command::Bench(args) => bench::run(&args),
        Command::Tidy => tidy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
