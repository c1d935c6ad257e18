//! Persistent volumes: claims get volumes, made ones where there is a provisioner, and both go in the right order.
//!
//! ```text
//!  claims, volumes, classes ──▶ binder ──claimRef, volumeName, phases──▶ API server
//!                                 └─ asks a provisioner by annotation ──▶ orlop.dev/local, or somebody else's
//!  pods ──▶ claims of ephemeral volumes; protection of what is in use; attachments
//! ```
//! Every decision is a pure plan (`bind`, `matching`, `protect`, `provision`). Not here: which node a pod gets, and what
//! happens on it.

mod apply;
pub(crate) mod attach;
mod bind;
pub(crate) mod ephemeral;
pub(crate) mod matching;
pub(crate) mod protect;
pub(crate) mod provision;
mod words;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, Client};

use crate::cache::Cache;
use crate::error::{SyncError, Trying};
use crate::object::{Key, name};
use crate::queue::Queue;
use crate::record::Recorder;

use apply::Hand;
use bind::World;

pub(crate) use bind::waits_for_consumer;
pub(crate) use words::{BOUND_BY_CONTROLLER, SELECTED_NODE, claim_class, is_bound};

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Work {
    Claim(Key),
    Volume(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Claim(key) => write!(f, "claim {key}"),
            Work::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// How often claims that wait are looked at again, and told about.
const AGAIN: Duration = Duration::from_secs(15);
/// How long a cache may be behind.
const BEHIND: Duration = Duration::from_millis(200);

/// Binds until dropped. One thing at a time: two claims must not get one volume.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let queue = Arc::new(Queue::default());
    subscribe(&cache, &queue);
    cache.synced().await;
    let hand =
        Hand { client, cache: Arc::clone(&cache), recorder: recorder.named("persistentvolume-controller") };
    queue.work("persistentvolume-binder", 1, |work| sync(&hand, &cache, work)).await;
}

fn subscribe(cache: &Arc<Cache>, queue: &Arc<Queue<Work>>) {
    let add = Arc::clone(queue);
    cache.claims.on_change(move |old, new| {
        let Some(claim) = new.or(old) else { return };
        add.add(Work::Claim(Key::of(&claim.metadata)));
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
        if let Some(volume) = volume.filter(|volume| !volume.is_empty()) {
            add.add(Work::Volume(volume));
        }
    });
    let (add, all) = (Arc::clone(queue), Arc::clone(cache));
    cache.volumes.on_change(move |old, new| {
        let Some(volume) = new.or(old) else { return };
        add.add(Work::Volume(name(&volume.metadata).to_owned()));
        let spec = volume.spec.as_ref();
        match spec.and_then(|spec| spec.claim_ref.as_ref()) {
            Some(claim) => {
                let namespace = claim.namespace.clone().unwrap_or_default();
                add.add(Work::Claim(Key::new(namespace, claim.name.clone().unwrap_or_default())));
            }
            None => add_waiting(&add, &all),
        }
    });
    let (add, all) = (Arc::clone(queue), Arc::clone(cache));
    cache.storage_classes.on_change(move |_, _| add_waiting(&add, &all));
}

/// Something is there that claims may have waited for.
fn add_waiting(queue: &Queue<Work>, cache: &Cache) {
    for claim in cache.claims.list().iter().filter(|claim| bind::waits(claim)) {
        queue.add(Work::Claim(Key::of(&claim.metadata)));
    }
}

async fn sync(hand: &Hand, cache: &Cache, work: Work) -> Result<Option<Duration>, SyncError> {
    if let Work::Volume(volume) = &work
        && is_claimed_after_all(hand, cache, volume).await?
    {
        return Ok(Some(BEHIND));
    }
    let Some((steps, waits)) = plan(cache, &work) else { return Ok(None) };
    for step in steps {
        hand.apply(step).await?;
    }
    Ok(waits.then_some(AGAIN))
}

/// Before a volume counts as released, and what is on it may go, the API server is asked for the claim: the cache may
/// be behind.
async fn is_claimed_after_all(hand: &Hand, cache: &Cache, volume: &str) -> Result<bool, SyncError> {
    let volume = cache.volumes.get(&Key::new("", volume));
    let Some(key) = volume.as_ref().and_then(|volume| words::claimant(volume)) else { return Ok(false) };
    if cache.claims.get(&key).is_some() {
        return Ok(false);
    }
    let api = Api::<PersistentVolumeClaim>::namespaced(hand.client.clone(), &key.namespace);
    Ok(api.get_metadata_opt(&key.name).await.trying(|| format!("look for claim {key}"))?.is_some())
}

/// The steps, and whether to look again after a while.
fn plan(cache: &Cache, work: &Work) -> Option<(Vec<bind::Step>, bool)> {
    let world = World {
        claims: &|key| cache.claims.get(key),
        volumes: cache.volumes.list(),
        classes: cache.storage_classes.list(),
        nodes: cache.nodes.list(),
    };
    Some(match work {
        Work::Claim(key) => {
            let claim = cache.claims.get(key)?;
            (bind::claim(&claim, &world), bind::waits(&claim))
        }
        Work::Volume(volume) => {
            let volume = cache.volumes.get(&Key::new("", &**volume))?;
            (bind::volume(&volume, &world), false)
        }
    })
}

/// A claim or a volume that an event or a write is about.
type Claim = Arc<PersistentVolumeClaim>;
type Volume = Arc<PersistentVolume>;
