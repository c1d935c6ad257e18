//! Where desired state comes from: watches of the API turned into [`Event`]s.
//!
//! ```text
//!  API server ──list+watch──▶ kube::runtime::watcher ──▶ Event<Arc<K>> ──▶ one consumer per watch
//! ```
//!
//! A first list, and each later relist, arrives as one [`Event::Reset`], so that a consumer can tell "not there" from
//! "not heard of yet". Errors never reach the consumer: the watch backs off and goes on; what was known stays. Where
//! the first list does not come in time, what the node remembers ([`crate::memory`]) stands in for it.
//! Not for: deciding anything.

pub mod merge;
pub mod objects;
pub mod peers;
pub mod pods;
pub mod static_pods;
pub mod storage;

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api,
    runtime::{WatchStreamExt as _, utils::Backoff, watcher},
};
use orlop_model::event::Event;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::memory::{Key, Kind, Memory};

/// How long the API server may take for a first list or a single object before memory stands in.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a watch with a memory says.
#[derive(Clone, Debug)]
pub enum Heard<K> {
    /// The API server cannot be reached: this is what it said last. There may be more, and less.
    Recalled(Vec<Arc<K>>),
    /// As of now.
    Event(Event<Arc<K>>),
}

impl<K> Heard<K> {
    /// Memory taken for a list: for consumers that do no harm with an old one.
    pub fn trusted(self) -> Event<Arc<K>> {
        match self {
            Heard::Recalled(objects) => Event::Reset(objects),
            Heard::Event(event) => event,
        }
    }
}

/// Where a watch remembers what it saw.
#[derive(Clone)]
pub struct Remember<K> {
    /// The memory.
    pub memory: Memory,
    /// What it is there.
    pub kind: Kind,
    /// What of an object is worth it: what never matters again is not written each time that it changes.
    pub part: fn(&Arc<K>) -> Arc<K>,
}

/// A kind of the API that can be watched, and written down.
pub trait Object:
    kube::Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + Serialize
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// A watch that never ends, and that remembers what it saw.
pub fn remembered<K>(
    api: Api<K>,
    config: watcher::Config,
    remember: Option<Remember<K>>,
) -> impl Stream<Item = Heard<K>> + Send
where
    K: Object,
{
    remembered_after(PATIENCE, api, config, remember)
}

/// The same with another patience: none, where it is known that there is no API server.
pub fn remembered_after<K>(
    patience: Duration,
    api: Api<K>,
    config: watcher::Config,
    remember: Option<Remember<K>>,
) -> impl Stream<Item = Heard<K>> + Send
where
    K: Object,
{
    let mut live = watch(api, config);
    let recalling = remember.as_ref().map(|remember| (remember.memory.clone(), remember.kind));
    let first = async move {
        let first = match recalling {
            None => None,
            Some((memory, kind)) => match timeout(patience, live.next()).await {
                Ok(event) => event.map(Heard::Event),
                Err(_late) => {
                    let listed = memory.has_list(kind);
                    let objects: Vec<Arc<K>> = if listed { memory.recall_all(kind) } else { Vec::new() };
                    tracing::warn!(
                        kind = kind.dir(),
                        objects = objects.len(),
                        "no API server: memory stands in"
                    );
                    listed.then_some(Heard::Recalled(objects))
                }
            },
        };
        stream::iter(first).chain(live.map(Heard::Event))
    };
    let heard = stream::once(first).flatten();
    let heard = heard.inspect(move |heard| {
        if let (Heard::Event(event), Some(remember)) = (heard, &remember) {
            keep(remember, event);
        }
    });
    heard.boxed()
}

fn keep<K>(remember: &Remember<K>, event: &Event<Arc<K>>)
where
    K: kube::Resource<DynamicType = ()> + Serialize + Send + Sync + 'static,
{
    let &Remember { ref memory, kind, part } = remember;
    match event {
        Event::Apply(object) => memory.keep(key(kind, &**object), part(object)),
        Event::Delete(object) => memory.forget(key(kind, &**object)),
        Event::Reset(objects) => {
            let named: std::collections::BTreeSet<_> =
                objects.iter().map(|object| key(kind, &**object)).collect();
            memory.retain(kind, |key| named.contains(key));
            for object in objects {
                memory.keep(key(kind, &**object), part(object));
            }
            memory.keep(Key::one(Kind::Listed, kind.dir()), Arc::new(true));
        }
    }
}

/// Pods go by UID: a name may be given to another one.
fn key<K: kube::Resource>(kind: Kind, object: &K) -> Key {
    let meta = object.meta();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    match (kind, &meta.namespace) {
        (Kind::Pod | Kind::Status, _) => Key::one(kind, &text(&meta.uid)),
        (_, Some(namespace)) => Key::two(kind, namespace, &text(&meta.name)),
        (_, None) => Key::one(kind, &text(&meta.name)),
    }
}

/// Longest pause after a failure. kube's own is 30 s: a server that comes back refuses the old watch first, and with that
/// pause a second time nodes would hear of their pods a minute late.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Pauses between attempts to watch: kube's, with its jitter, but shorter in the end.
#[derive(Default)]
struct Pauses(watcher::DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST_PAUSE))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// A watch that never ends.
pub fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<Arc<K>>> + Send
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut listed = Vec::new();
    watcher(api, config)
        .backoff(Pauses::default())
        .filter_map(move |event| {
            let out = match event {
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    None
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed.push(slim(object));
                    None
                }
                Ok(watcher::Event::InitDone) => Some(Event::Reset(std::mem::take(&mut listed))),
                Ok(watcher::Event::Apply(object)) => Some(Event::Apply(slim(object))),
                Ok(watcher::Event::Delete(object)) => Some(Event::Delete(slim(object))),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "watch");
                    None
                }
            };
            std::future::ready(out)
        })
        .boxed()
}

/// Who wrote which field is half of an object and no business of a node. What was read has room to grow, a list of one
/// container for three more; a copy has none: 5 kB less of a small pod.
fn slim<K: kube::Resource + Clone>(mut object: K) -> Arc<K> {
    object.meta_mut().managed_fields = None;
    Arc::new(object.clone())
}
