//! The pod network as other people's CNI plugins make it: whether it can be used, and the workers' way to it.
//!
//! ```text
//!  conf dir, STATUS of the plugins ──now and then──▶ ready, condition Ready of the Node
//!  workers ──▶ Chain::attach, detach                 GC of the plugins, once
//! ```
//! Not for: routes to other nodes and hostPort; those are the plugins' business.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use orlop_cni::runtime::{Chain, ChainConfig, ChainError, PodAttachment};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use orlop::{
    config::Config,
    node::report::Health,
    watch_dir,
    wire::chain,
    worker::ports::{self, Attached, Failure, PodRef, Wishes},
};

/// A plugin that takes longer is killed: half of what a kubelet waits for.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at whether the network can be used: as often as a kubelet asks.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A configuration is often several files, written one after the other.
const SETTLE: Duration = Duration::from_millis(100);

/// What a kubelet puts before what a runtime says.
const NOT_READY: &str =
    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:";

/// Other people's plugins.
pub(super) struct Plugins {
    chain: Chain,
    state: watch::Receiver<Result<(), String>>,
}

/// The plugins' network, if the configuration wants one. `health` hears whether it can be used.
///
/// # Errors
/// When its records cannot be kept.
pub(super) fn open(
    config: &Config,
    health: Option<watch::Sender<Health>>,
) -> Result<Option<Plugins>, ChainError> {
    let Some(cni) = config.cni.clone() else { return Ok(None) };
    let chain = Chain::open(ChainConfig {
        conf_dir: cni.conf_dir.clone(),
        bin_dirs: cni.bin_dirs,
        cache_dir: config.state_dir.join("cni"),
        time_limit: TIME_LIMIT,
    })?;
    let (tell, state) = watch::channel(Err(refusal("cni plugin not initialized")));
    tokio::spawn(follow(chain.clone(), cni.conf_dir, tell, health));
    Ok(Some(Plugins { chain, state }))
}

/// As runtimes say it.
fn refusal(error: &str) -> String {
    format!("Network plugin returns error: {error}")
}

async fn follow(
    chain: Chain,
    conf_dir: PathBuf,
    tell: watch::Sender<Result<(), String>>,
    health: Option<watch::Sender<Health>>,
) {
    let mut news = None;
    let mut collected = false;
    loop {
        let state = chain.status().await.map_err(|error| refusal(&self::chain(&error)));
        tell.send_if_modified(|told| {
            let changed = *told != state;
            if changed {
                match &state {
                    Ok(()) => tracing::info!("pod network ready"),
                    Err(error) => tracing::warn!(error, "pod network"),
                }
            }
            told.clone_from(&state);
            changed
        });
        if let Some(health) = &health {
            let wanted: Vec<_> =
                state.as_ref().err().map(|error| format!("{NOT_READY}{error}")).into_iter().collect();
            health.send_if_modified(|health| {
                let changed = health.not_ready != wanted;
                health.not_ready = wanted;
                changed
            });
        }
        // What was attached by an earlier process and is on no record any more.
        if state.is_ok() && !std::mem::replace(&mut collected, true) {
            for error in chain.collect().await.err().into_iter().flatten() {
                tracing::warn!(error = self::chain(&error), "collect what plugins have left over");
            }
        }
        // A directory that is not there yet is looked for again.
        if news.is_none() && conf_dir.is_dir() {
            news = watch_dir::watch(&conf_dir, "cni-conf").ok();
        }
        match &mut news {
            Some(news) => {
                if timeout(LOOK_AGAIN, watch_dir::next(news)).await.is_ok() {
                    sleep(SETTLE).await;
                }
            }
            None => sleep(LOOK_AGAIN).await,
        }
    }
}

impl ports::Network for Plugins {
    fn attach<'a>(
        &'a self,
        pod: &'a PodRef,
        wishes: &'a Wishes,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<Attached, Failure>> {
        let attachment = PodAttachment {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            netns: netns.to_owned(),
            wishes: wishes.clone(),
        };
        async move {
            let addresses = self.chain.attach(&attachment).await;
            addresses.map(|addresses| Attached { addresses }).map_err(|error| Failure(chain(&error)))
        }
        .boxed()
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move { self.chain.detach(uid).await.map_err(|error| Failure(chain(&error))) }.boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Vec<(String, Vec<IpAddr>)>> {
        let attached = self.chain.attached().unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "who is attached");
            Vec::new()
        });
        async move { attached }.boxed()
    }

    fn ready(&self) -> Result<(), Failure> {
        self.state.borrow().clone().map_err(Failure)
    }

    fn opens_ports(&self) -> bool {
        true
    }
}
