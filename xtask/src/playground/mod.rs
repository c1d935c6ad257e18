//! The playground: a whole node (or several) in network namespaces and cgroup subtrees of their own.
//!
//! Trying Orlop out changes nothing on the machine: no default route, no firewall rule, no program on the root
//! cgroup. What it makes is a veth from the host to a namespace that plays the network, one namespace and one cgroup
//! subtree per node, and the directory that everything else lives in.
//!
//! ```text
//!  host ──veth── [orlop-ID-lan: bridge] ──veth── [orlop-ID-n1: orlop standalone]
//!  198.18.X.Y                            └─veth── [orlop-ID-n2: orlop node]
//! ```
//!
//! Not for: production. `up --host` starts the same program on the host itself.

pub(crate) mod cgroups;
mod down;
mod example;
mod lan;
mod layout;
mod node;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

pub(crate) use down::{down, stop};
pub(crate) use layout::{Layout, NodePlace};
pub(crate) use node::{inside, running_pid};

use crate::progress::step;
use crate::{build, setup};

/// Where a playground lives that nobody named a directory for.
pub(crate) const DEFAULT_DIR: &str = "target/playground";

/// `cargo xtask up`.
#[derive(Args)]
pub(crate) struct UpArgs {
    /// Where everything of the playground lives.
    #[arg(long, default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// Run on the host itself, as in production, instead of in namespaces of its own.
    #[arg(long)]
    host: bool,
    /// Bring up the bare node: no example image, no manifest.
    #[arg(long)]
    no_example: bool,
    /// How many nodes; the first is standalone, the others join it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    nodes: u8,
    /// Families of the nodes' addresses.
    #[arg(long, default_value = "4", value_parser = ["4", "6", "46"])]
    families: String,
    /// End with one line of JSON that names the paths.
    #[arg(long)]
    json: bool,
    /// Use the binaries in this directory instead of building.
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

/// Builds, starts what is not running, and shows the example at work.
pub(crate) fn up(args: &UpArgs) -> Result<()> {
    setup::setup(if args.bin.is_some() { setup::For::Run } else { setup::For::Use })?;
    let built = match &args.bin {
        Some(dir) => build::Built {
            orlop: dir.join("orlop"),
            shim: dir.join("orlop-shim"),
            example_server: dir.join("orlop-example-server"),
        },
        None => build::build()?,
    };
    let mut layout = Layout::new(&args.dir, args.host)?;
    std::fs::create_dir_all(&layout.dir).with_context(|| format!("create {}", layout.dir.display()))?;
    build::install(&built, &layout.bin())?;

    if !args.host {
        layout.set_families(&args.families)?;
        lan::claim(&mut layout)?;
    }
    let places: Vec<NodePlace> = (1..=args.nodes).map(|number| layout.node(number)).collect();
    if !args.host {
        step("network of the playground", |_| lan::up(&layout, &places))?;
    }
    for place in &places {
        step(format!("start {}", place.name), |step| node::start(&layout, place, step))?;
    }
    step("every node Ready", |step| node::wait_ready(&layout, places.len(), step))?;
    if !args.no_example {
        let images = build::images_with(&built)?;
        step("load the example images", |step| {
            images.iter().try_for_each(|image| {
                step.detail(&image.reference);
                places.iter().try_for_each(|place| node::load_image(&layout, place, &image.layout))
            })
        })?;
        example::run(&layout, &places)?;
    }
    if args.json {
        println!("{}", layout.json());
    } else {
        example::say_what_next(&layout, !args.no_example);
    }
    Ok(())
}

/// Puts an image into every node of a running playground.
pub(crate) fn load_image(dir: &Path, image: &Path) -> Result<()> {
    let layout = Layout::open(dir)?;
    for place in layout.existing_nodes() {
        step(format!("load {} into {}", image.display(), place.name), |_| {
            node::load_image(&layout, &place, image)
        })?;
    }
    Ok(())
}

/// How long anything in the playground may take before it is called broken.
const PATIENCE: Duration = Duration::from_secs(90);
