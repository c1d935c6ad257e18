//! Which objects belong to a workload: owned ones, orphans to adopt, owned ones that no longer match.

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use orlop_model::selectors::LabelSelector;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cache::Store;
use crate::error::{SyncError, Trying, is_not_found};
use crate::object::{controller_of, controller_reference, is_deleting, labels, name, namespace, uid};

/// What a workload does with the objects that it sees.
#[derive(Debug)]
pub(crate) struct Claim<K> {
    pub(crate) owned: Vec<Arc<K>>,
    pub(crate) adopt: Vec<Arc<K>>,
    pub(crate) release: Vec<Arc<K>>,
}

/// [pure] Sorts objects by what the owner is to them. A workload on its way out changes nothing.
pub(crate) fn claim<K: Resource>(
    owner: &ObjectMeta,
    selector: &LabelSelector,
    objects: Vec<Arc<K>>,
) -> Claim<K> {
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in objects {
        let meta = object.meta();
        let matches = selector.matches(labels(meta));
        match controller_of(meta).map(|reference| reference.uid == uid(owner)) {
            Some(true) if matches || is_deleting(owner) => claim.owned.push(object),
            Some(true) if !is_deleting(meta) => claim.release.push(object),
            None if matches && !is_deleting(meta) && !is_deleting(owner) => claim.adopt.push(object),
            _ => {}
        }
    }
    claim
}

/// Adopts and releases; the objects owned afterwards.
pub(crate) async fn settle<O, K>(
    client: &Client,
    store: &Store<K>,
    owner: &O,
    claim: Claim<K>,
) -> Result<Vec<Arc<K>>, SyncError>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Serialize,
{
    let Claim { mut owned, adopt, release } = claim;
    if !adopt.is_empty() && may_adopt(client, owner).await? {
        let adopted = join_all(adopt.iter().map(|object| {
            let mut owners = object.meta().owner_references.clone().unwrap_or_default();
            owners.push(controller_reference(owner));
            set_owners(client, store, &**object, owners)
        }));
        for object in adopted.await {
            owned.extend(object?.map(Arc::new));
        }
    }
    let released = join_all(release.iter().map(|object| {
        let mut owners = object.meta().owner_references.clone().unwrap_or_default();
        owners.retain(|reference| reference.uid != uid(owner.meta()));
        set_owners(client, store, &**object, owners)
    }));
    for object in released.await {
        object?;
    }
    Ok(owned)
}

/// The cache may not know yet that the owner is being deleted and has just orphaned its objects: ask.
async fn may_adopt<O>(client: &Client, owner: &O) -> Result<bool, SyncError>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let meta = owner.meta();
    let api = Api::<O>::namespaced(client.clone(), namespace(meta));
    let fresh = api.get_opt(name(meta)).await.trying(|| format!("read the owner {}", name(meta)))?;
    Ok(fresh.is_some_and(|fresh| uid(fresh.meta()) == uid(meta) && !is_deleting(fresh.meta())))
}

/// Writes the owners of an object; nothing when it is gone meanwhile.
async fn set_owners<K>(
    client: &Client,
    store: &Store<K>,
    object: &K,
    owners: Vec<OwnerReference>,
) -> Result<Option<K>, SyncError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Serialize,
{
    let meta = object.meta();
    let api = Api::<K>::namespaced(client.clone(), namespace(meta));
    // The version makes it fail when somebody else changed the owners.
    let patch = json!({ "metadata": {
        "uid": uid(meta), "resourceVersion": meta.resource_version, "ownerReferences": owners,
    } });
    match api.patch(name(meta), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(object) => {
            store.absorb(object.clone());
            Ok(Some(object))
        }
        Err(error) if is_not_found(&error) => Ok(None),
        error => error.trying(|| format!("change the owners of {}", name(meta))).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use k8s_openapi::api::core::v1::Pod;

    fn check(owner: &str, objects: &[&str], expected: &str) {
        let selector = LabelSelector::parse("app=a").unwrap();
        let pods = objects.iter().map(|text| Arc::new(yaml(&format!("metadata: {text}"))));
        let claim = claim::<Pod>(&yaml(owner), &selector, pods.collect());
        let names = |list: &[Arc<Pod>]| list.iter().map(|p| name(&p.metadata)).collect::<Vec<_>>().join(",");
        let text = format!(
            "own {} adopt {} release {}",
            names(&claim.owned),
            names(&claim.adopt),
            names(&claim.release)
        );
        assert_eq!(text, expected);
    }

    const MINE: &str = "ownerReferences: [{apiVersion: v1, kind: X, name: x, uid: u1, controller: true}]";
    const OTHER: &str = "ownerReferences: [{apiVersion: v1, kind: X, name: x, uid: u2, controller: true}]";

    #[test]
    fn objects_are_claimed_by_owner_and_labels() {
        let pods = [
            format!("{{name: a, labels: {{app: a}}, {MINE}}}"),
            format!("{{name: b, labels: {{app: b}}, {MINE}}}"),
            format!("{{name: c, labels: {{app: a}}, {OTHER}}}"),
            "{name: d, labels: {app: a}}".to_owned(),
            "{name: e, labels: {app: a}, deletionTimestamp: '2024-01-01T00:00:00Z'}".to_owned(),
        ];
        let pods: Vec<_> = pods.iter().map(String::as_str).collect();
        check("{uid: u1}", &pods, "own a adopt d release b");
        check("{uid: u1, deletionTimestamp: '2024-01-01T00:00:00Z'}", &pods, "own a,b adopt  release ");
    }
}
