//! The node of the town that is ours: the dataplane as the agent runs it, fed with lists. The number of services in, the
//! milliseconds out until they stand in the maps.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use orlop_dataplane::health::Eligibility;
use orlop_dataplane::loader::Callers;
use orlop_dataplane::model::Settings;
use orlop_dataplane::{DataplaneConfig, Status, Update, run};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::say;
use crate::services::{NODE, PODS, cluster, lists};

/// As in the agent.
const QUEUE: usize = 256;
/// Devices of a node in a town, each with a program for either direction.
const LINKS: usize = 8;

/// A running dataplane, and the way to feed it.
pub(crate) struct Dataplane {
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) status: watch::Receiver<Status>,
    running: JoinHandle<Result<(), orlop_dataplane::Error>>,
    stop: CancellationToken,
}

impl Dataplane {
    /// Within a runtime.
    pub(crate) async fn start(bpffs: &Path, cgroup: &Path) -> Self {
        let pods: IpNet = PODS.parse().unwrap();
        let config = DataplaneConfig {
            bpffs: bpffs.to_owned(),
            callers: Callers::below(cgroup),
            node_name: "node-a".to_owned(),
            primary: Vec::new(),
            settings: Settings { pods: vec![pods], ..Settings::default() },
            named: Default::default(),
            measured: None,
            sizes: Default::default(),
        };
        let (updates, received) = mpsc::channel(QUEUE);
        let (sender, status) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(config, received, sender, stop.clone()));
        let node =
            Update::Node { zone: None, primary: vec![NODE.into()], eligibility: Eligibility::default() };
        updates.send(node).await.unwrap();
        Self { updates, status, running, stop }
    }

    /// Ends it; programs and maps stay, as long as this process.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }

    /// Makes these all there are, and waits until they stand in the maps; how long that took.
    pub(crate) async fn list(&mut self, lists: [Update; 2], endpoints: usize) -> Duration {
        let begun = Instant::now();
        for list in lists {
            self.updates.send(list).await.unwrap();
        }
        let there = |status: &Status| status.synced && status.backends == endpoints;
        self.status.wait_for(there).await.expect("the dataplane ended");
        begun.elapsed()
    }
}

pub(crate) fn serve(bpffs: &Path, cgroup: &Path) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut dataplane = Dataplane::start(bpffs, cgroup).await;
        wait_for_devices(bpffs).await;
        say("ready");
        let (orders, mut ordered) = mpsc::channel(1);
        std::thread::spawn(move || {
            std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| orders.blocking_send(line))
        });
        while let Some(line) = ordered.recv().await {
            let services = cluster(line.parse().unwrap(), 1);
            let endpoints = services.iter().map(|service| service.endpoints.len()).sum();
            let took = dataplane.list(lists(&services), endpoints).await;
            say(&(took.as_secs_f64() * 1e3).to_string());
        }
    });
}

/// Programs are at all devices when their links are pinned.
async fn wait_for_devices(bpffs: &Path) {
    let pins: PathBuf = orlop_dataplane::loader::pins(bpffs);
    let at_devices = |name: &str| name.starts_with("link_in_") || name.starts_with("link_out_");
    let links = || {
        let pinned = std::fs::read_dir(&pins).into_iter().flatten().flatten();
        pinned.filter(|entry| entry.file_name().to_str().is_some_and(at_devices)).count()
    };
    for _ in 0..500 {
        if links() == LINKS {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("programs are at {} of {LINKS} places", links());
}
