//! `orlop standalone`: the API server, the controllers and a node in one process.
//!
//! Everything inside talks to the API server through the same `kube::Client` as a remote node would, built over the
//! server's own request path instead of a socket: one code path, no TLS to oneself, authorization all the same.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use kube::Client;
use orlop_apiserver::{ApiServer, Identity};
use orlop_controllers::{Controller, ControllersConfig};
use orlop_model::net::{Family, IpNet};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    address::{self, Ending},
    dns, node,
};
use orlop::config::Config;

/// Runs until told to stop.
///
/// # Errors
/// When a part cannot be started, or ends on its own.
pub(crate) async fn standalone(mut config: Config, stop: CancellationToken) -> Result<Ending> {
    private_dir(&config.state_dir)?;
    // Pods reach the cluster's own Services (its API, DNS) at the node's address of their family.
    if let Some(wanted) = &mut config.node_ips_wanted {
        wanted.only_main = true;
        if !config.node_ips.iter().any(|address| Family::of(*address) == wanted.main) {
            config.node_ips = lend_address(&config)?;
        } else if let Err(error) = orlop_cni::host::take_back() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "take back the address of the node's own"
            );
        }
    }
    let (known, wanted) = (config.node_ips.clone(), config.node_ips_wanted);
    address::until_moved(known, wanted, stop.clone(), cluster(config, stop)).await
}

/// A machine without a network is a cluster too: until it has one its address is the first of its pods' network, which
/// no pod gets.
fn lend_address(config: &Config) -> Result<Vec<IpAddr>> {
    let first = config.pod_cidrs.iter().find_map(|range| match range.nth(1) {
        Some(IpAddr::V4(first)) => Some(first),
        _ => None,
    });
    let first = first.context("--node-ip is needed: the machine has no address that others know")?;
    tracing::warn!(address = %first, "the machine has no address that others know: it is lent one");
    orlop_cni::host::lend(first).with_context(|| format!("give the loopback device {first}"))?;
    Ok(vec![first.into()])
}

async fn cluster(config: Config, stop: CancellationToken) -> Result<()> {
    let controllers = controllers_config(&config, String::new())?;
    // Where pods reach it by its Service; a node without an address of that family is told so.
    let main = config.service_cidrs.first().map(IpNet::family);
    let of_main = config.node_ips.iter().find(|address| Some(Family::of(**address)) == main);
    let advertise_address = of_main.copied().unwrap_or_else(|| config.node_ip());
    let api = ApiServer::open(orlop_apiserver::Config {
        data_dir: config.state_dir.join("apiserver"),
        listen: config.listen,
        advertise_address,
        service_cidrs: config.service_cidrs.clone(),
        names: config.tls_san.iter().cloned().chain([config.node_name.to_string()]).collect(),
    })
    .await
    .context("start the API server")?;
    let url = format!("https://{}", SocketAddr::new(config.node_ip(), api.address().port()));
    let admin = api.issue_kubeconfig("kubernetes-admin", &["system:masters".to_owned()], &url);
    write_private(
        &config.state_dir.join("admin.kubeconfig"),
        &admin.context("make the admin's kubeconfig")?,
    )?;
    tracing::info!(%url, "API server ready");

    let masters = |user: &str| identity(user, "system:masters");
    let controllers = ControllersConfig { ca_pem: api.ca_pem().to_owned(), ..controllers };
    let manager = client(&api, masters("system:kube-controller-manager"));
    let mut config = config;
    let addresses = dns::cluster_addresses(&config);
    let dns = (!addresses.is_empty()).then(|| {
        if config.cluster_dns.is_empty() {
            config.cluster_dns.clone_from(&addresses);
        }
        dns::Role::Cluster { addresses, admin: client(&api, masters("system:dns")) }
    });
    let agent = client(&api, identity(&format!("system:node:{}", config.node_name), "system:nodes"));
    // It lives and dies with the node: nothing has to be remembered of it.
    let control_plane = node::ControlPlane {
        client: agent,
        ca: api.ca_pem().as_bytes().to_vec(),
        expires: None,
        memory: None,
        dns,
    };
    // Drained in reverse order: the node first, so that its last statuses find an API server.
    let (serving, controlling) = (CancellationToken::new(), CancellationToken::new());
    let server = {
        let (api, serving) = (api.clone(), serving.clone());
        Part::start(async move { api.serve(serving).await.context("API server") })
    };
    let control = orlop_controllers::run(manager, controllers, controlling.clone());
    let control = Part::start(async move { control.await.context("controllers") });
    let ended = tokio::select! {
        ended = node::run(config, Some(control_plane), stop) => ended,
        () = control.ended.cancelled() => Err(anyhow!("the controllers ended unexpectedly")),
        () = server.ended.cancelled() => Err(anyhow!("the API server ended unexpectedly")),
    };
    controlling.cancel();
    let controlled = control.task.await.context("wait for the controllers")?;
    serving.cancel();
    let served = server.task.await.context("wait for the API server")?;
    // The cause of an early end is in what the part itself said.
    controlled.and(served).and(ended)
}

/// A task that others can see ending, however it ends.
struct Part {
    task: JoinHandle<Result<()>>,
    ended: CancellationToken,
}

impl Part {
    fn start(work: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _guard = guard;
            work.await
        });
        Self { task, ended }
    }
}

fn controllers_config(config: &Config, ca_pem: String) -> Result<ControllersConfig> {
    Ok(ControllersConfig {
        cluster_cidrs: config.cluster_cidrs.clone(),
        node_cidr_masks: config.node_cidr_masks,
        ca_pem,
        enabled: Controller::parse_list(config.controllers.iter().map(String::as_str))
            .context("--controllers")?,
    })
}

fn identity(user: &str, group: &str) -> Identity {
    Identity::new(user, [group])
}

fn client(api: &ApiServer, identity: Identity) -> Client {
    Client::new(api.client_service(identity), "default")
}

fn private_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(dir, private).with_context(|| format!("make {} private", dir.display()))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let tmp = path.with_extension("tmp");
    let write = || {
        let _stale = fs::remove_file(&tmp);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&tmp, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}
