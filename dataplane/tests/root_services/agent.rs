//! The other process: this test binary again, playing an agent that runs the dataplane until it is killed.

use std::env;
use std::ffi::OsString;
use std::path::Path;

use orlop_dataplane::loader::Callers;
use orlop_dataplane::model::Settings;
use orlop_dataplane::{DataplaneConfig, Status, run};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::fixture::{lists, parse};
use crate::room::Room;

/// What it prints when the services stand in the maps and the programs at the devices.
pub(crate) const READY: &str = "dataplane is in step";

const PODS: [&str; 2] = ["10.42.0.0/16", "2001:db8:42::/56"];
const SERVICES: &str = "ORLOP_TEST_SERVICES";
const BPFFS: &str = "ORLOP_TEST_BPFFS";
const CGROUP: &str = "ORLOP_TEST_AGENT_CGROUP";

/// Makes a process of this binary an agent.
pub(crate) fn environment(room: &Room, services: &str) -> [(&'static str, OsString); 3] {
    [(SERVICES, services.into()), (BPFFS, room.bpffs.clone().into()), (CGROUP, room.cgroup.clone().into())]
}

pub(crate) fn is_one() -> bool {
    env::var_os(SERVICES).is_some()
}

/// Runs until killed.
pub(crate) fn live() {
    let cfg = DataplaneConfig {
        bpffs: env::var_os(BPFFS).unwrap().into(),
        callers: Callers::below(Path::new(&env::var_os(CGROUP).unwrap())),
        node_name: "node-a".to_owned(),
        primary: Vec::new(),
        settings: Settings { pods: PODS.map(|net| net.parse().unwrap()).to_vec(), ..Settings::default() },
        named: Default::default(),
        measured: None,
        sizes: Default::default(),
    };
    let services = env::var(SERVICES).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (tx, rx) = mpsc::channel(4);
        let (status, mut seen) = watch::channel(Status::default());
        for update in lists(&parse(&services)) {
            tx.send(update).await.unwrap();
        }
        let running = tokio::spawn(run(cfg, rx, status, CancellationToken::new()));
        seen.wait_for(|status| status.synced && status.placed).await.expect("the dataplane ended");
        println!("{READY}");
        running.await.unwrap().unwrap();
    });
}
