//! Whether an owner that the graph does not hold really is gone: asks the API server.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};

use crate::error::{SyncError, Trying};

use super::graph::Item;

/// Uids remembered as gone, at most; a uid never comes back.
const REMEMBERED: usize = 4096;

pub(super) struct Owners {
    client: Client,
    gone: Mutex<HashSet<String>>,
    kinds: Mutex<HashMap<(String, String), (ApiResource, bool)>>,
}

impl Owners {
    pub(super) fn new(client: Client) -> Self {
        Self { client, gone: Mutex::default(), kinds: Mutex::default() }
    }

    /// Whether no object with the owner's uid exists under its name.
    pub(super) async fn is_absent(&self, item: &Item, owner: &OwnerReference) -> Result<bool, SyncError> {
        if self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains(&owner.uid) {
            return Ok(true);
        }
        let (resource, namespaced) = self.kind(owner).await?;
        let api = match (namespaced, item.namespace.as_str()) {
            // A cluster-wide object cannot be owned by one in a namespace: such an owner cannot exist.
            (true, "") => return Ok(false),
            (true, namespace) => {
                Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource)
            }
            (false, _) => Api::<DynamicObject>::all_with(self.client.clone(), &resource),
        };
        let found = api.get_metadata_opt(&owner.name).await;
        let found = found.trying(|| format!("look for the owner {} {}", owner.kind, owner.name))?;
        let absent = found.is_none_or(|found| found.metadata.uid.as_ref() != Some(&owner.uid));
        if absent {
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            if gone.len() >= REMEMBERED {
                gone.clear();
            }
            gone.insert(owner.uid.clone());
        }
        Ok(absent)
    }

    /// Path and scope of the owner's kind. Of a kind that the server does not know, nothing can be said.
    async fn kind(&self, owner: &OwnerReference) -> Result<(ApiResource, bool), SyncError> {
        let key = (owner.api_version.clone(), owner.kind.clone());
        if let Some(known) = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        let found = pinned_kind(&self.client, &kind).await;
        let (resource, capabilities) = found.trying(|| format!("find the kind {}", owner.kind))?;
        let known = (resource, capabilities.scope == Scope::Namespaced);
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(key, known.clone());
        Ok(known)
    }
}
