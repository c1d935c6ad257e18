//! The ServiceAccount `default` of every namespace: without it, no pod can be made there.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_conflict, is_not_found};
use crate::object::{Key, name, namespace};
use crate::queue::Queue;

use super::{active, follow};

const NAME: &str = "default";

/// Keeps the accounts until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>) {
    let queue = Arc::new(Queue::default());
    follow(&cache, &queue);
    let add = Arc::clone(&queue);
    cache.service_accounts.on_change(move |old, new| {
        if let (Some(old), None) = (old, new)
            && name(&old.metadata) == NAME
        {
            add.add(Key::new("", namespace(&old.metadata)));
        }
    });
    cache.namespaces.synced().await;
    cache.service_accounts.synced().await;
    queue.work("serviceaccount-controller", 4, |key| sync(&client, &cache, key)).await;
}

async fn sync(client: &Client, cache: &Cache, key: Key) -> Result<Option<Duration>, SyncError> {
    let there = cache.service_accounts.get(&Key::new(&*key.name, NAME)).is_some();
    if there || active(cache, &key).is_none() {
        return Ok(None);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    let api = Api::<ServiceAccount>::namespaced(client.clone(), &key.name);
    match api.create(&PostParams::default(), &account).await {
        // The namespace is gone, or the cache is behind.
        Err(error) if is_conflict(&error) || is_not_found(&error) => {}
        answer => drop(answer.trying(|| format!("create serviceaccount {}/{NAME}", key.name))?),
    }
    Ok(None)
}
