//! The ConfigMap `kube-root-ca.crt` of every namespace: by it, pods know the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_conflict, is_not_found};
use crate::object::{Key, name, namespace};
use crate::queue::Queue;

use super::{active, follow};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

/// Publishes the CA until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, ca_pem: String) {
    let queue = Arc::new(Queue::default());
    follow(&cache, &queue);
    let add = Arc::clone(&queue);
    cache.config_maps.on_change(move |old, new| {
        if let Some(map) = new.or(old).filter(|map| name(&map.metadata) == NAME) {
            add.add(Key::new("", namespace(&map.metadata)));
        }
    });
    cache.namespaces.synced().await;
    cache.config_maps.synced().await;
    queue.work("root-ca-publisher", 4, |key| sync(&client, &cache, &ca_pem, key)).await;
}

async fn sync(client: &Client, cache: &Cache, ca: &str, key: Key) -> Result<Option<Duration>, SyncError> {
    if active(cache, &key).is_none() {
        return Ok(None);
    }
    let api = Api::<ConfigMap>::namespaced(client.clone(), &key.name);
    if cache.config_maps.get(&Key::new(&*key.name, NAME)).is_none() {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                annotations: Some(BTreeMap::from([(
                    "kubernetes.io/description".to_owned(),
                    DESCRIPTION.to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(FILE.to_owned(), ca.to_owned())])),
            ..ConfigMap::default()
        };
        match api.create(&PostParams::default(), &map).await {
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) if is_conflict(&error) => {}
            answer => return answer.trying(|| format!("create configmap {}/{NAME}", key.name)).map(|_| None),
        }
    }
    // The cache holds no content: look whether it is right.
    let there = api.get_opt(NAME).await.trying(|| format!("read configmap {}/{NAME}", key.name))?;
    let right =
        |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get(FILE)).is_some_and(|pem| pem == ca);
    if there.is_some_and(|map| !right(&map)) {
        let patch = Patch::Merge(json!({ "data": { FILE: ca } }));
        let answer = api.patch(NAME, &PatchParams::default(), &patch).await;
        answer.trying(|| format!("correct configmap {}/{NAME}", key.name))?;
    }
    Ok(None)
}
