//! EndpointSlices as the controllers that make them see them: whose they are, and the writes that change them.

pub(crate) mod plan;

use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_not_found, message, reason};
use crate::object::{Key, labels, name, namespace};
use crate::queue::Queue;

use plan::{MANAGED_BY, SERVICE, Write, is_managed_by};

use std::sync::Arc;

/// A slice that somebody else changed or removed is put right: adds the Service of each slice that is `manager`'s.
pub(crate) fn follow(cache: &Cache, queue: &Arc<Queue<Key>>, manager: &'static str) {
    let add = Arc::clone(queue);
    cache.endpoint_slices.on_change(move |old, new| {
        if let Some(slice) = new.or(old).filter(|slice| is_managed_by(slice, manager))
            && let Some(service) = labels(&slice.metadata).get(SERVICE)
        {
            add.add(Key::new(namespace(&slice.metadata), service));
        }
    });
}

/// The slices of a Service that are `manager`'s.
pub(crate) fn of_service(cache: &Cache, key: &Key, manager: &str) -> Vec<Arc<EndpointSlice>> {
    cache.endpoint_slices.select(&key.namespace, |slice| {
        let labels = labels(&slice.metadata);
        labels.get(SERVICE) == Some(&key.name) && labels.get(MANAGED_BY).is_some_and(|by| by == manager)
    })
}

/// Does one write; `key` is the Service's.
pub(crate) async fn write(client: &Client, cache: &Cache, key: &Key, write: Write) -> Result<(), SyncError> {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), &key.namespace);
    let params = PostParams::default();
    match write {
        Write::Create(slice) => match api.create(&params, &slice).await {
            Ok(slice) => cache.endpoint_slices.absorb(slice),
            Err(error) if reason(&error) == "Forbidden" && message(&error).contains("being terminated") => {}
            error => drop(error.trying(|| format!("create an endpoint slice of service {key}"))?),
        },
        Write::Replace(slice) => {
            let slice_name = name(&slice.metadata).to_owned();
            match api.replace(&slice_name, &params, &slice).await {
                Ok(slice) => cache.endpoint_slices.absorb(slice),
                error => drop(error.trying(|| format!("replace endpoint slice {slice_name}"))?),
            }
        }
        Write::Delete(slice) => match api.delete(name(&slice.metadata), &DeleteParams::default()).await {
            Err(error) if is_not_found(&error) => {}
            answer => drop(answer.trying(|| format!("delete endpoint slice {}", name(&slice.metadata)))?),
        },
    }
    Ok(())
}
