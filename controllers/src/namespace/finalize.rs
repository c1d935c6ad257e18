//! The end of a namespace: deletes all that is in it, of every kind the server knows, then lets it go.

mod left;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::params::PropagationPolicy;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client};
use serde_json::json;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, code, is_conflict, is_not_found};
use crate::object::{Key, is_deleting, name, namespace};
use crate::queue::Queue;

use left::Left;

/// How long to wait before looking again at what is still there. Pods report their end earlier.
const AGAIN: Duration = Duration::from_secs(1);
const FINALIZER: &str = "kubernetes";

/// Finalizes namespaces until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>) {
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.namespaces.on_change(move |_, new| {
        if let Some(namespace) = new.filter(|namespace| is_deleting(&namespace.metadata)) {
            add.add(Key::of(&namespace.metadata));
        }
    });
    let (add, all) = (Arc::clone(&queue), Arc::clone(&cache));
    cache.pods.on_change(move |old, new| {
        if let (Some(old), None) = (old, new) {
            let key = Key::new("", namespace(&old.metadata));
            if all.namespaces.get(&key).is_some_and(|namespace| is_deleting(&namespace.metadata)) {
                add.add(key);
            }
        }
    });
    cache.namespaces.synced().await;
    queue.work("namespace-controller", 4, |key| sync(&client, &cache, key)).await;
}

async fn sync(client: &Client, cache: &Cache, key: Key) -> Result<Option<Duration>, SyncError> {
    let Some(namespace) = cache.namespaces.get(&key).filter(|n| is_deleting(&n.metadata)) else {
        return Ok(None);
    };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(None);
    }
    let resources = resources(client).await?;
    let counts = join_all(resources.iter().map(|resource| empty(client, resource, &key.name))).await;
    let mut left = Left::default();
    let mut failure = None;
    for (resource, objects) in resources.iter().zip(counts) {
        match objects {
            Ok(objects) => {
                left.add(&resource_name(resource), objects.iter().map(|object| &object.metadata));
            }
            Err(error) => failure = Some(error),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    if left.is_empty() {
        finalize(client, &namespace).await?;
        return Ok(None);
    }
    tell(client, &namespace, &left).await;
    Ok(Some(AGAIN))
}

/// All namespaced kinds whose objects can be listed and deleted.
async fn resources(client: &Client) -> Result<Vec<ApiResource>, SyncError> {
    let discovery = Discovery::new(client.clone()).run().await.trying(|| "discover kinds".to_owned())?;
    let kinds = discovery.groups().flat_map(|group| group.recommended_resources());
    let deletable = kinds.filter(|(_, capabilities)| {
        capabilities.scope == Scope::Namespaced
            && capabilities.supports_operation(verbs::LIST)
            && capabilities.supports_operation(verbs::DELETE)
    });
    Ok(deletable.map(|(resource, _)| resource).collect())
}

fn resource_name(resource: &ApiResource) -> String {
    match resource.group.as_str() {
        "" => format!("{}.", resource.plural),
        group => format!("{}.{group}", resource.plural),
    }
}

/// Deletes all objects of a kind; those that are still there.
async fn empty(
    client: &Client,
    resource: &ApiResource,
    namespace: &str,
) -> Result<Vec<PartialObjectMeta<DynamicObject>>, SyncError> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, resource);
    let list = async || match api.list_metadata(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        // The kind has gone away, or cannot be listed after all.
        Err(error) if matches!(code(&error), Some(404 | 405)) => Ok(Vec::new()),
        error => error.trying(|| format!("list {}", resource.plural)).map(|list| list.items),
    };
    let objects = list().await?;
    if objects.is_empty() {
        return Ok(objects);
    }
    let params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    let doomed = objects.iter().filter(|object| !is_deleting(&object.metadata));
    let delete = async |object: &PartialObjectMeta<DynamicObject>| match api
        .delete(name(&object.metadata), &params)
        .await
    {
        Err(error) if !is_not_found(&error) && !is_conflict(&error) => {
            Err(error).trying(|| format!("delete {} {}", resource.plural, name(&object.metadata)))
        }
        _ => Ok(()),
    };
    for result in join_all(doomed.map(delete)).await {
        result?;
    }
    list().await
}

/// Says in the status what is still there, and what keeps it.
async fn tell(client: &Client, namespace: &Namespace, left: &Left) {
    let known = namespace.status.as_ref().and_then(|status| status.conditions.as_deref());
    let Some(conditions) = left.conditions(known.unwrap_or_default(), Timestamp::now()) else { return };
    let patch = json!({ "status": { "conditions": conditions } });
    let api = Api::<Namespace>::all(client.clone());
    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
    if let Err(error) = api.patch_status(name(&namespace.metadata), &params, &patch).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "namespace conditions not written");
    }
}

/// Takes our finalizer away, by which the server removes the namespace.
async fn finalize(client: &Client, namespace: &Namespace) -> Result<(), SyncError> {
    let mut namespace = namespace.clone();
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    namespace.metadata.resource_version = None;
    let namespace_name = name(&namespace.metadata).to_owned();
    let api = Api::<Namespace>::all(client.clone());
    match api.replace_subresource("finalize", &namespace_name, &PostParams::default(), &namespace).await {
        Err(error) if is_not_found(&error) => Ok(()),
        answer => answer.trying(|| format!("finalize namespace {namespace_name}")).map(drop),
    }
}
