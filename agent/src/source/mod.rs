//! Where desired state comes from: watches of the API turned into [`Event`]s.
//!
//! ```text
//!  API server ──list+watch──▶ kube::runtime::watcher ──▶ Event<Arc<K>> ──▶ one consumer per watch
//! ```
//!
//! A first list, and each later relist, arrives as one [`Event::Reset`], so that a consumer can tell "not there" from
//! "not heard of yet". Errors never reach the consumer: the watch backs off and goes on; what was known stays.
//! Not for: deciding anything.

pub mod objects;

use std::{fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt as _};
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use orlop_model::event::Event;
use serde::de::DeserializeOwned;

/// A watch that never ends.
pub fn watch<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<Arc<K>>> + Send
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut listed = Vec::new();
    watcher(api, config)
        .default_backoff()
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

/// Who wrote which field is half of an object and no business of a node.
fn slim<K: kube::Resource>(mut object: K) -> Arc<K> {
    object.meta_mut().managed_fields = None;
    Arc::new(object)
}
