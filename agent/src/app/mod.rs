//! The composition root: builds clients, spawns loops, drains in reverse order. Nothing else in the agent builds anything.
//!
//! ```text
//!  standalone:  ApiServer ◀─in process─ controllers ─┐
//!                   ▲────in process──────────────────┴─ node (agent, network, dataplane)
//!  node:        kube::Client over TLS ──────────────────▶ node
//!  dataplane:   kube::Client over TLS ──────────────────▶ dataplane alone (also as a pod of the cluster)
//!  cri:         a client of the CRI socket ─────────────▶ runtime, images, network
//! ```

mod address;
mod cri;
mod dataplane;
mod dns;
mod guarded;
mod host_ports;
mod join;
mod kernel_counts;
mod left_alone;
mod network;
mod node;
mod other_nodes;
mod plugins;
mod policies;
mod service_health;
mod service_metrics;
mod standalone;
mod take_over;
mod unserved;

use std::{net::Ipv4Addr, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use orlop_runtime::rlimits::{NOFILE, Rlimit};
use rustix::process::{Resource, Rlimit as Limit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use address::Ending;
pub(crate) use cri::cri;
pub(crate) use standalone::standalone;

use self::join::Joined;
use orlop::{config::Config, memory::Memory};

/// `orlop node`.
///
/// # Errors
/// When the kubeconfig cannot be used or the node cannot be started.
pub(crate) async fn node(mut config: Config, stop: CancellationToken) -> Result<Ending> {
    if config.node_ips.is_empty() {
        // Pods run without a network, too; when it comes the node begins anew.
        tracing::warn!("the machine has no address that others know");
        config.node_ips.push(Ipv4Addr::LOCALHOST.into());
    }
    let control = match (&config.kubeconfig, &config.static_pod_path) {
        (None, Some(_)) => None,
        (None, None) => {
            anyhow::bail!(
                "--kubeconfig is needed to join a control plane, or --static-pod-path to run without one"
            )
        }
        (Some(_), _) => {
            let Joined { client, ca, expires } = join::as_node(&config).await?;
            let memory = Memory::open(config.state_dir.join("memory"))
                .with_context(|| format!("make {} ready", config.state_dir.join("memory").display()))?;
            let dns = (config.dns.node_local && config.dns.port != 0).then_some(dns::Role::NodeLocal);
            Some(node::ControlPlane { client, ca, expires, memory: Some(memory), dns })
        }
    };
    let (known, wanted) = (config.node_ips.clone(), config.node_ips_wanted);
    address::until_moved(known, wanted, stop.clone(), node::run(config, control, stop)).await
}

/// `orlop dataplane`.
///
/// # Errors
/// When the kubeconfig, or the pod's service account, cannot be used or the programs cannot be loaded.
pub(crate) async fn dataplane(mut config: Config, stop: CancellationToken) -> Result<Ending> {
    address::needed(&config)?;
    let client = join::as_proxy(&config).await?;
    if !config.said.contains_key("cgroup-root")
        && let Some(root) = dataplane::cgroup_of_kubelet()?
    {
        config.cgroup_root = root.to_owned();
    }
    tracing::info!(node = %config.node_name, cgroup = config.cgroup_root, "serving Services");
    std::fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("create {}", config.run_dir.display()))?;
    let cgroup = dataplane::cgroup2_dir(&config.cgroup_root)?;
    let of_pods = left_alone::follow(&client, config.node_name.as_str(), cgroup).boxed();
    let mode = dataplane::run(&config, &client, dataplane::Also::default(), None, of_pods, stop.clone());
    address::until_moved(config.node_ips.clone(), config.node_ips_wanted, stop, mode).await
}

/// Chooses ring for all TLS of the process; a second call changes nothing.
pub(crate) fn tls_provider() {
    let _already_chosen = rustls::crypto::ring::default_provider().install_default();
}

/// A node holds a few descriptors per pod: as many as may be are allowed, and containers get what we were started with,
/// unless the operator says otherwise. Programs that use `select` break above 1024. Returns what it was.
pub(crate) fn allow_open_files(of_containers: &mut Vec<Rlimit>) -> Limit {
    let Limit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Limit { current: maximum, maximum }) {
        tracing::warn!(%error, "raise the number of files that may be open");
    }
    if !of_containers.iter().any(|limit| limit.resource == NOFILE) {
        let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        of_containers.push(Rlimit { resource: NOFILE, soft: value(current), hard: value(maximum) });
    }
    Limit { current, maximum }
}

/// Takes that back and runs this program anew, with the same words, in the same process. Returns only why it could not.
pub(crate) fn begin_anew(open_files: Limit) -> anyhow::Error {
    if let Err(error) = setrlimit(Resource::Nofile, open_files) {
        tracing::warn!(%error, "lower the number of files that may be open");
    }
    // By the link of the process: a program that was replaced meanwhile (an upgrade) is another one's decision.
    let mut words = std::env::args_os();
    let mut anew = std::process::Command::new("/proc/self/exe");
    anew.arg0(words.next().unwrap_or_else(|| "orlop".into())).args(words);
    anyhow::Error::new(anew.exec()).context("begin anew")
}

/// Cancelled by SIGTERM or SIGINT.
///
/// # Errors
/// When no handler can be installed.
pub(crate) fn stop_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; pods and services go on");
        cancelled.cancel();
    });
    Ok(stop)
}
