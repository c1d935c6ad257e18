//! What every namespace gets, and how it goes: default ServiceAccount, `kube-root-ca.crt`, finalization.

mod account;
mod finalize;
mod root_ca;

pub(crate) use account::run as run_accounts;
pub(crate) use finalize::run as run_finalizer;
pub(crate) use root_ca::run as run_root_ca;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;

use crate::cache::Cache;
use crate::object::{Key, is_deleting};
use crate::queue::Queue;

/// The namespace of this name, if objects can still be made in it.
fn active(cache: &Cache, key: &Key) -> Option<Arc<Namespace>> {
    cache.namespaces.get(&Key::new("", &*key.name)).filter(|namespace| !is_deleting(&namespace.metadata))
}

/// Adds every namespace that comes or changes.
fn follow(cache: &Cache, queue: &Arc<Queue<Key>>) {
    let add = Arc::clone(queue);
    cache.namespaces.on_change(move |_, new| {
        if let Some(namespace) = new {
            add.add(Key::of(&namespace.metadata));
        }
    });
}
