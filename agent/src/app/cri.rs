//! `orlop cri`: the CRI socket alone, with runtime, images and pod network, for a kubelet of upstream.
//!
//! Which addresses pods have is said by the client (UpdateRuntimeConfig), or is the first node's part of the cluster's
//! network; it is remembered, so that a new process goes on with the same. Not for: Services, routes to other nodes.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use futures::{FutureExt as _, future::BoxFuture};
use orlop_cni::Network;
use orlop_model::net::{IpNet, one_per_family};
use orlop_runtime::{Runtime, image::Images};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::{Ending, network, node, plugins};
use orlop::{
    config::Config,
    cri::{Cri, Setup},
    wire::chain,
    worker::ports::{self, Attached, Failure, PodRef, Wishes},
};

/// Runs until told to stop. Pods go on without it.
///
/// # Errors
/// When a part cannot be started.
pub(crate) async fn cri(config: Config, stop: CancellationToken) -> Result<Ending> {
    // How often is the client's business: a kubelet has a limit of its own.
    let config = Config { pull_rate: None, ..config };
    for dir in [&config.state_dir, &config.run_dir] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let images = Images::open(config.state_dir.join("images")).context("open the image store")?;
    let (runtime, events) =
        Runtime::open(node::runtime_config(&config)?).await.context("open the container runtime")?;
    node::load_default_profile(&runtime).await;
    let (pod_cidrs, wanted) = watch::channel(None);
    let network: Arc<dyn ports::Network> = match plugins::open(&config, None).context("CNI")? {
        Some(plugins) => Arc::new(plugins),
        None => Arc::new(OwnNetwork { config: config.clone(), wanted, opened: Mutex::default() }),
    };
    let setup = Setup {
        runtime,
        images: node::image_store(&config, images)?,
        network,
        pod_cidrs: Some(pod_cidrs),
        run_dir: config.run_dir.clone(),
        state_dir: config.state_dir.clone(),
        cgroup_root: config.cgroup_root.clone(),
    };
    let socket = config.cri_socket.clone().unwrap_or_else(|| config.run_dir.join("cri.sock"));
    let cri = Cri::open(setup, stop).await.context("CRI")?;
    let listening = tokio::spawn(cri.clone().listen(events, None));
    let served = cri.serve(socket).await.context("CRI");
    listening.abort();
    served.map(|()| Ending::Stopped)
}

/// The built-in network, opened with the first pod.
struct OwnNetwork {
    config: Config,
    /// The addresses that the client wants.
    wanted: watch::Receiver<Option<Vec<IpNet>>>,
    opened: Mutex<Option<Arc<Network>>>,
}

impl OwnNetwork {
    fn memory(&self) -> PathBuf {
        self.config.state_dir.join("network/pod-cidr")
    }

    /// Opened with the addresses of before; with those that the client wants as soon as none of the others is in use.
    async fn get(&self) -> Result<Arc<Network>, Failure> {
        let mut opened = self.opened.lock().await;
        let (wanted, remembered) = (self.wanted.borrow().clone(), self.remembered());
        let pod_cidrs = match &*opened {
            Some(network) => {
                let news = wanted.clone().filter(|_| wanted != remembered);
                match news {
                    Some(wanted) if network.attached().await.is_empty() => wanted,
                    _ => return Ok(Arc::clone(network)),
                }
            }
            None => remembered.or(wanted).unwrap_or_else(|| self.config.pod_cidrs.clone()),
        };
        // Its ledger is for one at a time.
        *opened = None;
        let network = Arc::new(
            network::open(&self.config, pod_cidrs.clone()).await.map_err(|error| Failure(chain(&error)))?,
        );
        remember(&self.memory(), &pod_cidrs)
            .map_err(|error| Failure(format!("remember the pod CIDRs {pod_cidrs:?}: {error}")))?;
        tracing::info!(?pod_cidrs, "pod network ready");
        *opened = Some(Arc::clone(&network));
        Ok(network)
    }

    fn remembered(&self) -> Option<Vec<IpNet>> {
        one_per_family(fs::read_to_string(self.memory()).ok()?.trim()).ok()
    }
}

fn remember(path: &Path, cidrs: &[IpNet]) -> std::io::Result<()> {
    let tmp = path.with_extension("new");
    let cidrs: Vec<_> = cidrs.iter().map(ToString::to_string).collect();
    fs::write(&tmp, format!("{}\n", cidrs.join(",")))?;
    fs::rename(tmp, path)
}

impl ports::Network for OwnNetwork {
    fn attach<'a>(
        &'a self,
        pod: &'a PodRef,
        wishes: &'a Wishes,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<Attached, Failure>> {
        async move { network::attach(&*self.get().await?, pod, wishes, netns).await }.boxed()
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move { self.get().await?.detach(uid).await.map_err(|error| Failure(chain(&error))) }.boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Vec<(String, Vec<IpAddr>)>> {
        async move {
            match self.get().await {
                Ok(own) => own.attached().await,
                Err(_) => Vec::new(),
            }
        }
        .boxed()
    }

    /// Nothing has to come from elsewhere.
    fn ready(&self) -> Result<(), Failure> {
        Ok(())
    }
}
