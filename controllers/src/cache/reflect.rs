//! List, then watch, then list again when the watch is lost: keeps one store up to date.

use std::fmt::Debug;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::{ObjectList, PartialObjectMeta};
use kube::{Api, Resource};
use orlop_model::backoff::Backoff;
use serde::de::DeserializeOwned;

use super::store::{Change, Store};

const RETRY: Backoff = Backoff::doubling(Duration::from_millis(50), Duration::from_secs(5));

/// Where a store's objects come from.
pub(super) trait Source: Send + Sync {
    type Object: Resource + Clone + Send;
    fn list(&self) -> impl Future<Output = kube::Result<ObjectList<Self::Object>>> + Send;
    fn watch(
        &self,
        version: &str,
    ) -> impl Future<Output = kube::Result<BoxStream<'static, kube::Result<WatchEvent<Self::Object>>>>> + Send;
}

/// Whole objects.
pub(super) struct Typed<K>(pub(super) Api<K>);

/// Objects cut down to their metadata.
pub(super) struct Metadata<K>(pub(super) Api<K>);

impl<K> Source for Typed<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    type Object = K;
    async fn list(&self) -> kube::Result<ObjectList<K>> {
        self.0.list(&ListParams::default()).await
    }
    async fn watch(&self, version: &str) -> kube::Result<BoxStream<'static, kube::Result<WatchEvent<K>>>> {
        Ok(self.0.watch(&WatchParams::default(), version).await?.boxed())
    }
}

impl<K> Source for Metadata<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    type Object = PartialObjectMeta<K>;
    async fn list(&self) -> kube::Result<ObjectList<PartialObjectMeta<K>>> {
        self.0.list_metadata(&ListParams::default()).await
    }
    async fn watch(
        &self,
        version: &str,
    ) -> kube::Result<BoxStream<'static, kube::Result<WatchEvent<PartialObjectMeta<K>>>>> {
        Ok(self.0.watch_metadata(&WatchParams::default(), version).await?.boxed())
    }
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    /// The server does not know the version any more, or sent something wrong: list again.
    #[error("the server ended the watch: {0}")]
    Told(String),
    #[error("the watch broke")]
    Broke(#[from] kube::Error),
}

/// Keeps `store` up to date; never returns.
pub(super) async fn reflect<S: Source>(source: S, store: &Store<S::Object>) {
    let mut failures = 0;
    loop {
        let listed = match source.list().await {
            Ok(listed) => listed,
            Err(error) => {
                failures += 1;
                tracing::debug!(error = &error as &dyn std::error::Error, failures, "list failed");
                tokio::time::sleep(RETRY.delay(failures)).await;
                continue;
            }
        };
        let mut version = listed.metadata.resource_version.clone().unwrap_or_default();
        let items = listed.items.into_iter().map(slim).collect();
        store.apply(Change::Reset(items, version.parse().unwrap_or(u64::MAX)));
        loop {
            let before = version.clone();
            let result = follow(&source, store, &mut version).await;
            if version != before {
                failures = 0;
            }
            match result {
                // The server ends watches now and then: go on from where it stopped.
                Ok(()) => {}
                Err(Lost::Told(why)) => {
                    tracing::debug!(why, "listing again");
                    break;
                }
                Err(Lost::Broke(error)) => {
                    failures += 1;
                    tracing::debug!(error = &error as &dyn std::error::Error, failures, "watch lost");
                    tokio::time::sleep(RETRY.delay(failures)).await;
                    if failures > 3 {
                        break;
                    }
                }
            }
        }
    }
}

async fn follow<S: Source>(source: &S, store: &Store<S::Object>, version: &mut String) -> Result<(), Lost> {
    let mut events = source.watch(version).await?;
    while let Some(event) = events.try_next().await? {
        let (change, object_version) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.meta().resource_version.clone();
                (Change::Apply(slim(object)), version)
            }
            WatchEvent::Deleted(object) => {
                let version = object.meta().resource_version.clone();
                (Change::Delete(slim(object)), version)
            }
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                store.passed(version.parse().unwrap_or(0));
                continue;
            }
            WatchEvent::Error(status) => return Err(Lost::Told(status.message.clone())),
        };
        store.apply(change);
        if let Some(object_version) = object_version {
            *version = object_version;
        }
    }
    Ok(())
}

/// Drops what no controller reads and what is often half of an object.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
