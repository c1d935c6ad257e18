//! The composition root: builds clients, spawns loops, drains in reverse order. Nothing else in the agent builds anything.
//!
//! ```text
//!  standalone:  ApiServer ◀─in process─ controllers ─┐
//!                   ▲────in process──────────────────┴─ node (agent, network, dataplane)
//!  node:        kube::Client over TLS ──────────────────▶ node
//!  dataplane:   kube::Client over TLS ──────────────────▶ dataplane alone
//!  cri:         a client of the CRI socket ─────────────▶ runtime, images, network
//! ```

mod cri;
mod dataplane;
mod dns;
mod host_ports;
mod kernel_counts;
mod network;
mod node;
mod plugins;
mod policies;
mod service_health;
mod service_metrics;
mod standalone;
mod take_over;
mod unserved;

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::{
    Client,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use orlop_runtime::rlimits::{NOFILE, Rlimit};
use rustix::process::{Resource, Rlimit as Limit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use cri::cri;
pub(crate) use standalone::standalone;

use orlop::{config::Config, memory::Memory, server::expiry};

/// `orlop node`.
///
/// # Errors
/// When the kubeconfig cannot be used or the node cannot be started.
pub(crate) async fn node(config: Config, stop: CancellationToken) -> Result<()> {
    let control = match (&config.kubeconfig, &config.static_pod_path) {
        (None, Some(_)) => None,
        (None, None) => {
            anyhow::bail!(
                "--kubeconfig is needed to join a control plane, or --static-pod-path to run without one"
            )
        }
        (Some(_), _) => {
            let Joined { client, ca, expires } = connect(&config).await?;
            let memory = Memory::open(config.state_dir.join("memory"))
                .with_context(|| format!("make {} ready", config.state_dir.join("memory").display()))?;
            let dns = (config.dns.node_local && config.dns.port != 0).then_some(dns::Role::NodeLocal);
            Some(node::ControlPlane { client, ca, expires, memory: Some(memory), dns })
        }
    };
    node::run(config, control, stop).await
}

/// `orlop dataplane`.
///
/// # Errors
/// When the kubeconfig cannot be used or the programs cannot be loaded.
pub(crate) async fn dataplane(config: Config, stop: CancellationToken) -> Result<()> {
    let joined = connect(&config).await?;
    std::fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("create {}", config.run_dir.display()))?;
    let no_pods = futures::stream::pending().boxed();
    dataplane::run(&config, &joined.client, dataplane::Also::default(), None, no_pods, stop).await
}

/// A control plane reached over TLS.
struct Joined {
    client: Client,
    /// PEM of the cluster's CA, which also signs the clients of the kubelet API.
    ca: Vec<u8>,
    /// Until when our certificate holds, if the kubeconfig has one.
    expires: Option<Timestamp>,
}

async fn connect(config: &Config) -> Result<Joined> {
    let path = config.kubeconfig.as_deref().context("--kubeconfig is needed to join a control plane")?;
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
    let ca = cluster_ca(&kubeconfig, path)?;
    let client_config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client_config = client_config.with_context(|| format!("kubeconfig {}", path.display()))?;
    let expires = expiry(&client_config.auth_info);
    let client = Client::try_from(client_config).context("make a client of the kubeconfig")?;
    Ok(Joined { client, ca, expires })
}

fn expiry(auth: &AuthInfo) -> Option<Timestamp> {
    let given = auth.client_certificate_data.as_ref();
    let pem = match given {
        Some(data) => base64::engine::general_purpose::STANDARD.decode(data).ok()?,
        None => std::fs::read(auth.client_certificate.as_ref()?).ok()?,
    };
    expiry::of_pem(&pem)
}

/// The CA of the kubeconfig's current cluster.
fn cluster_ca(kubeconfig: &Kubeconfig, path: &Path) -> Result<Vec<u8>> {
    let current = kubeconfig.current_context.as_deref();
    let context = kubeconfig.contexts.iter().find(|named| Some(named.name.as_str()) == current);
    let cluster = context.and_then(|named| named.context.as_ref()).map(|context| context.cluster.as_str());
    let cluster = kubeconfig.clusters.iter().find(|named| Some(named.name.as_str()) == cluster);
    let cluster = cluster.and_then(|named| named.cluster.as_ref());
    let cluster = cluster
        .with_context(|| format!("kubeconfig {}: no current context with a cluster", path.display()))?;
    match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(data);
            decoded.with_context(|| format!("kubeconfig {}: certificate-authority-data", path.display()))
        }
        (None, Some(file)) => {
            let file = path.parent().unwrap_or(Path::new("/")).join(file);
            std::fs::read(&file).with_context(|| format!("read the cluster CA {}", file.display()))
        }
        (None, None) => {
            anyhow::bail!("kubeconfig {}: the cluster names no certificate authority", path.display())
        }
    }
}

/// Chooses ring for all TLS of the process; a second call changes nothing.
pub(crate) fn tls_provider() {
    let _already_chosen = rustls::crypto::ring::default_provider().install_default();
}

/// A node holds a few descriptors per pod: as many as may be are allowed, and containers get what we were started with,
/// unless the operator says otherwise. Programs that use `select` break above 1024.
pub(crate) fn allow_open_files(of_containers: &mut Vec<Rlimit>) {
    let Limit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Limit { current: maximum, maximum }) {
        tracing::warn!(%error, "raise the number of files that may be open");
    }
    if !of_containers.iter().any(|limit| limit.resource == NOFILE) {
        let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        of_containers.push(Rlimit { resource: NOFILE, soft: value(current), hard: value(maximum) });
    }
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
