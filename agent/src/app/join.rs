//! The client of a control plane reached over TLS: from a kubeconfig, or as the service account of the pod we are in.
//!
//! Certificates and tokens of files are read again as they change (`kube` does).
//! Not for: becoming a node of it (`orlop::node`).

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use jiff::Timestamp;
use kube::{
    Client,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};

use orlop::{config::Config, server::expiry};

/// A control plane, as a node knows it.
pub(super) struct Joined {
    pub(super) client: Client,
    /// PEM of the cluster's CA, which also signs the clients of the kubelet API.
    pub(super) ca: Vec<u8>,
    /// Until when our certificate holds, if the kubeconfig has one.
    pub(super) expires: Option<Timestamp>,
}

/// With a kubeconfig.
pub(super) async fn as_node(config: &Config) -> Result<Joined> {
    let path = config.kubeconfig.as_deref().context("--kubeconfig is needed to join a control plane")?;
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
    let ca = cluster_ca(&kubeconfig, path)?;
    let client_config = of_kubeconfig(kubeconfig, path, config).await?;
    let expires = expiry(&client_config.auth_info);
    let client = Client::try_from(client_config).context("make a client of the kubeconfig")?;
    Ok(Joined { client, ca, expires })
}

/// With a kubeconfig, or without one as the pod that this runs in.
pub(super) async fn as_proxy(config: &Config) -> Result<Client> {
    let client_config = match config.kubeconfig.as_deref() {
        Some(path) => {
            let read = Kubeconfig::read_from(path);
            let kubeconfig = read.with_context(|| format!("kubeconfig {}", path.display()))?;
            of_kubeconfig(kubeconfig, path, config).await?
        }
        None => in_cluster(config)?,
    };
    Client::try_from(client_config).context("make a client of the control plane")
}

async fn of_kubeconfig(kubeconfig: Kubeconfig, path: &Path, config: &Config) -> Result<kube::Config> {
    let read = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut read = read.with_context(|| format!("kubeconfig {}", path.display()))?;
    read.cluster_url = config.master.clone().unwrap_or(read.cluster_url);
    Ok(read)
}

/// The address that pods are told is a cluster IP: whoever serves these must be told another.
fn in_cluster(config: &Config) -> Result<kube::Config> {
    const NONE: &str = "no --kubeconfig, and no service account of a pod";
    match config.master.clone() {
        Some(master) => {
            let mut account = kube::Config::incluster_dns().context(NONE)?;
            account.cluster_url = master;
            Ok(account)
        }
        None => kube::Config::incluster_env().context(NONE),
    }
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
