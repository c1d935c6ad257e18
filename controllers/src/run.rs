//! The composition root of the controllers: builds cache and recorder, starts what is enabled, stops it all.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::record::{self, Recorder};
use crate::{Controller, ControllersConfig};
use crate::{
    deployment, endpoints, endpointslice, events, gc, mirroring, namespace, node, podgc, replicaset,
    scheduler, volume,
};

/// A controller ended, which none does on its own.
#[derive(Debug, thiserror::Error)]
#[error("{controller} ended unexpectedly")]
pub struct RunError {
    /// Its name.
    pub controller: String,
}

/// Runs the enabled controllers until `stop` is cancelled. Controllers hold no state that outlives them: they
/// can be stopped at any time and started again.
///
/// # Errors
/// When a controller panics. The others are stopped, too: a cluster half controlled would go unnoticed.
pub async fn run(client: Client, config: ControllersConfig, stop: CancellationToken) -> Result<(), RunError> {
    let cache = Arc::new(Cache::new());
    let (recorder, notes) = Recorder::new();
    let mut tasks = JoinSet::new();
    // Handlers first, watches second: then every object passes every handler.
    for controller in config.enabled.iter().copied() {
        let work = build(controller, &client, &cache, &recorder, &config);
        tasks.spawn(work.map(move |()| controller.name()));
    }
    let (watching, watcher) = (Arc::clone(&cache), client.clone());
    tasks.spawn(async move { watching.run(&watcher).await }.map(|()| "cache"));
    tasks.spawn(record::write(client, notes).map(|()| "event recorder"));
    drop(recorder);
    tracing::info!(controllers = config.enabled.len(), "controllers started");
    let ended = tokio::select! {
        () = stop.cancelled() => None,
        ended = tasks.join_next() => ended,
    };
    tasks.shutdown().await;
    match ended {
        None => Ok(()),
        Some(Ok(name)) => Err(RunError { controller: name.to_owned() }),
        Some(Err(error)) => Err(RunError { controller: format!("a controller ({error})") }),
    }
}

fn build(
    controller: Controller,
    client: &Client,
    cache: &Arc<Cache>,
    recorder: &Recorder,
    config: &ControllersConfig,
) -> BoxFuture<'static, ()> {
    let (client, cache, recorder) = (client.clone(), Arc::clone(cache), recorder.clone());
    match controller {
        Controller::Scheduler => scheduler::run(client, cache, recorder).boxed(),
        Controller::ReplicaSet => replicaset::run(client, cache, recorder).boxed(),
        Controller::Deployment => deployment::run(client, cache, recorder).boxed(),
        Controller::EndpointSlice => endpointslice::run(client, cache, recorder).boxed(),
        Controller::EndpointSliceMirroring => mirroring::run(client, cache, recorder).boxed(),
        Controller::Endpoints => endpoints::run(client, cache).boxed(),
        Controller::Namespace => namespace::run_finalizer(client, cache).boxed(),
        Controller::ServiceAccount => namespace::run_accounts(client, cache).boxed(),
        Controller::RootCa => namespace::run_root_ca(client, cache, config.ca_pem.clone()).boxed(),
        Controller::NodeIpam => {
            let masks = config.node_cidr_masks;
            let pools = config.cluster_cidrs.iter().map(|net| (*net, masks.of(net.family()))).collect();
            node::run_ipam(client, cache, recorder, pools).boxed()
        }
        Controller::NodeLifecycle => node::run_lifecycle(client, cache, recorder).boxed(),
        Controller::TaintEviction => node::run_eviction(client, cache, recorder).boxed(),
        Controller::GarbageCollector => gc::run(client, cache).boxed(),
        Controller::PodGc => podgc::run(client, cache).boxed(),
        Controller::VolumeBinder => volume::run(client, cache, recorder).boxed(),
        Controller::ClaimProtection => volume::protect::run_claims(client, cache).boxed(),
        Controller::VolumeProtection => volume::protect::run_volumes(client, cache).boxed(),
        Controller::EphemeralVolume => volume::ephemeral::run(client, cache, recorder).boxed(),
        Controller::AttachDetach => volume::attach::run(client, cache, recorder).boxed(),
        Controller::LocalProvisioner => volume::provision::run(client, cache, recorder).boxed(),
        Controller::EventTtl => events::run(client).boxed(),
    }
}
