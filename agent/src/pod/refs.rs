//! Which API objects a pod refers to.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, VolumeProjection};

use super::{desired::Desired, ephemeral};

/// An object that pods refer to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectRef {
    /// A ConfigMap.
    ConfigMap {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A Secret.
    Secret {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
}

impl ObjectRef {
    /// A ConfigMap.
    pub fn config_map(namespace: &str, name: &str) -> ObjectRef {
        ObjectRef::ConfigMap { namespace: namespace.into(), name: name.into() }
    }

    /// A Secret.
    pub fn secret(namespace: &str, name: &str) -> ObjectRef {
        ObjectRef::Secret { namespace: namespace.into(), name: name.into() }
    }
}

/// What the environment of a container is built from.
pub fn of_env(namespace: &str, container: &Container) -> BTreeSet<ObjectRef> {
    let mut refs = BTreeSet::new();
    for from in container.env_from.iter().flatten() {
        let config_map = from.config_map_ref.as_ref().map(|r| ObjectRef::config_map(namespace, &r.name));
        let secret = from.secret_ref.as_ref().map(|r| ObjectRef::secret(namespace, &r.name));
        refs.extend(config_map.into_iter().chain(secret));
    }
    let sources = container.env.iter().flatten().filter_map(|var| var.value_from.as_ref());
    refs.extend(sources.filter_map(|source| of_source(namespace, source)));
    refs
}

fn of_source(namespace: &str, source: &EnvVarSource) -> Option<ObjectRef> {
    let config_map = source.config_map_key_ref.as_ref().map(|r| ObjectRef::config_map(namespace, &r.name));
    config_map.or_else(|| source.secret_key_ref.as_ref().map(|r| ObjectRef::secret(namespace, &r.name)))
}

/// Files of volumes that variables of a container are read from: volume and path.
pub fn files_of_env(container: &Container) -> BTreeSet<(String, String)> {
    let sources = container.env.iter().flatten().filter_map(|var| var.value_from.as_ref());
    let files = sources.filter_map(|source| source.file_key_ref.as_ref());
    files.map(|file| (file.volume_name.clone(), file.path.clone())).collect()
}

/// Everything a pod refers to: environment, volumes, pull secrets.
pub fn of_pod(desired: &Desired) -> BTreeSet<ObjectRef> {
    let namespace = desired.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut refs: BTreeSet<_> =
        desired.containers().flat_map(|(_, container)| of_env(namespace, container)).collect();
    let spec = desired.spec();
    refs.extend(ephemeral::containers(spec).flat_map(|container| of_env(namespace, &container)));
    for volume in spec.volumes.iter().flatten() {
        let config_map = volume.config_map.as_ref().map(|v| ObjectRef::config_map(namespace, &v.name));
        let secret = volume.secret.as_ref().and_then(|v| v.secret_name.as_deref());
        refs.extend(config_map.into_iter().chain(secret.map(|name| ObjectRef::secret(namespace, name))));
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        refs.extend(sources.filter_map(|source| of_projection(namespace, source)));
    }
    let pulls = spec.image_pull_secrets.iter().flatten();
    refs.extend(pulls.map(|secret| ObjectRef::secret(namespace, &secret.name)));
    refs
}

fn of_projection(namespace: &str, source: &VolumeProjection) -> Option<ObjectRef> {
    let config_map = source.config_map.as_ref().map(|r| ObjectRef::config_map(namespace, &r.name));
    config_map.or_else(|| source.secret.as_ref().map(|r| ObjectRef::secret(namespace, &r.name)))
}
