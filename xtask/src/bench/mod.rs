//! Measurements, printed as ratios against what a user would run instead, in one run on one machine.
//!
//! ```text
//!  size, create, pull, services, cni, dns  programs on their own
//!  start, pods, memory                     a bare playground node, started once and removed afterwards whatever happens
//!  many                                    one that joined another, with 500 pods
//! ```
//! Every measurement gives rows; a row whose aim is missed says by how much. Not for: gating tests by time. A
//! measurement fails only when it could not be taken.

mod cni;
mod cpu;
mod create;
mod dns;
mod janitor;
mod machine;
mod many;
mod memory;
mod node;
mod pods;
mod priority;
mod pull;
mod row;
mod services;
mod size;
mod stages;
mod start;
mod summary;
mod tools;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use self::node::BenchNode;
use self::row::Row;
use self::tools::Tools;
use crate::build::{self, Built};
use crate::progress::step;
use crate::run::is_root;
use crate::setup;

/// `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Only measurements whose name contains this: size, create, pull, services-connect,
    /// services-traffic, services-packets, services-sync, cni, dns, start, pods, memory, many; `runtime` is create, pull
    /// and memory.
    filter: Option<String>,
    /// Also write machine and rows to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the bench's own playground lives.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Use the binaries in this directory instead of building; tools that are not there are built.
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

/// Runs the measurements one after the other and prints one table.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if !is_root() {
        bail!("measuring needs root (namespaces, cgroups, BPF)");
    }
    setup::setup(setup::For::Tests)?;
    let built = match &args.bin {
        Some(dir) => Built {
            orlop: dir.join("orlop"),
            shim: dir.join("orlop-shim"),
            example_server: dir.join("orlop-example-server"),
        },
        None => build::build()?,
    };
    let before = machine::describe();
    let tools = Tools { ready: args.bin.clone() };
    let mut bench = Bench { args, built, tools, rows: Vec::new(), failures: Vec::new() };
    bench.take("size", |built, _| size::measure(built));
    bench.take("create", create::measure);
    bench.take("pull", |built, _| pull::measure(built));
    for (name, part) in services::PARTS {
        bench.take(name, |_, tools| services::measure(tools, part));
    }
    bench.take("cni", |built, _| cni::measure(built));
    bench.take("dns", |_, tools| dns::measure(tools));
    bench.whole_node();
    bench.many();
    bench.report(&before)
}

struct Bench<'a> {
    args: &'a BenchArgs,
    built: Built,
    tools: Tools,
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Bench<'_> {
    fn wanted(&self, name: &str) -> bool {
        match self.args.filter.as_deref() {
            None => true,
            Some("runtime") => ["create", "pull", "memory"].contains(&name),
            Some(filter) => name.contains(filter),
        }
    }

    fn take(&mut self, name: &str, measure: impl FnOnce(&Built, &Tools) -> Result<Vec<Row>>) {
        if !self.wanted(name) {
            return;
        }
        match step(format!("measure {name}"), |_| measure(&self.built, &self.tools)) {
            Ok(rows) => self.rows.extend(rows),
            Err(error) => self.failures.push(format!("{name}: {error:#}")),
        }
    }

    /// What needs a running node shares one; it is removed when this returns.
    fn whole_node(&mut self) {
        if !["start", "pods", "memory"].iter().any(|name| self.wanted(name)) {
            return;
        }
        let dir = self.built.orlop.parent().map(ToOwned::to_owned).unwrap_or_default();
        let ready = self.tools.client().and_then(|client| {
            let node = step("bring up a bare node", |_| BenchNode::up(&self.args.dir, &dir, &[]))?;
            Ok((client, node))
        });
        let (client, node) = match ready {
            Ok(ready) => ready,
            Err(error) => return self.failures.push(format!("node: {error:#}")),
        };
        self.take("start", |_, _| start::measure(&node, &client));
        // One burst serves both: what it took, and what its pods take.
        let idle = self.wanted("memory").then(|| step("memory at rest", |_| memory::sample(&node)));
        let one = self.wanted("pods");
        let seen = (one || self.wanted("memory")).then(|| {
            step("run pods", |_| {
                pods::ask(&node, &client, &node.load_example(&self.built)?, &pods::wanted(one))
            })
        });
        let seen = match seen.transpose() {
            Ok(seen) => seen.unwrap_or_default(),
            Err(error) => return self.failures.push(format!("pods: {error:#}")),
        };
        if let Some(idle) = idle {
            self.take("memory", |_, _| memory::rows(&idle?, &memory::sample(&node)?));
        }
        self.take("pods", |_, _| pods::rows(&node, &seen));
    }

    fn many(&mut self) {
        if !self.wanted("many") {
            return;
        }
        let dir = self.built.orlop.parent().map(ToOwned::to_owned).unwrap_or_default();
        let place = self.args.dir.clone();
        self.take("many", |built, tools| {
            let client = tools.client()?;
            let node = BenchNode::joined(&place, &dir, &many::ENVIRONMENT)?;
            many::measure(&node, &client, &node.load_example(built)?)
        });
    }

    fn report(&self, before: &serde_json::Value) -> Result<()> {
        println!("{}", machine::sentence(before));
        println!("{}", row::table(&self.rows));
        if let Some(path) = &self.args.json {
            let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
            let text = json!({ "machine": before, "rows": rows, "failures": self.failures }).to_string();
            fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        }
        if !self.failures.is_empty() {
            bail!("could not be measured:\n  {}", self.failures.join("\n  "));
        }
        Ok(())
    }
}
