//! The user's side of the whole-node measurements: what a client of the API sees, and when. Prints one line of JSON.
//!
//! ```text
//! orlop-bench-client pods  --kubeconfig F --image REF --logs DIR --cgroup C --one N --bursts M,… --keep yes|no --resizes R
//!                                                            N one by one, then bursts of M, of which the last may stay
//! orlop-bench-client start --kubeconfig F --node NAME --pid-file F --log F -- COMMAND…   process start → API → Node Ready
//! ```
//! Not for: judging the figures; `cargo xtask bench` does.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints its result")]

mod pods;
mod resize;
mod seen;
mod start;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Anything that takes longer is broken, not slow.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("orlop-bench-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<serde_json::Value> {
    let (mode, rest) = words.split_first().context("pods or start?")?;
    let end = rest.iter().position(|word| word == "--").unwrap_or(rest.len());
    let (flags, command) = rest.split_at(end);
    let flags = Flags::parse(flags)?;
    // The default provider must be named: other crates of the workspace bring a second one.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match mode.as_str() {
        "pods" => runtime.block_on(pods::run(&flags)),
        "start" => runtime.block_on(start::run(&flags, command.get(1..).unwrap_or_default())),
        other => bail!("neither pods nor start: {other}"),
    }
}

/// `--name value` pairs.
struct Flags(BTreeMap<String, String>);

impl Flags {
    fn parse(words: &[String]) -> Result<Self> {
        let pairs = words.chunks(2).map(|pair| match pair {
            [name, value] if name.starts_with("--") => Ok((name[2..].to_owned(), value.clone())),
            other => bail!("not a flag with a value: {other:?}"),
        });
        Ok(Self(pairs.collect::<Result<_>>()?))
    }

    fn get(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!("--{name} is missing"))
    }

    fn number(&self, name: &str) -> Result<usize> {
        self.get(name)?.parse().with_context(|| format!("--{name} is no number"))
    }
}

/// A client for what a kubeconfig file says.
async fn client(path: &str) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("read {path}"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}
