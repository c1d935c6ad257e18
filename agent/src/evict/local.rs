//! Limits of local disk: emptyDir `sizeLimit`, `limits.ephemeral-storage` of containers and of the pod as a whole.
//!
//! They hold whether the node runs short or not. Source: kubelet 1.34 (`localStorageEviction`).

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use orlop_model::quantities::Quantity;

use super::choose::quantity;
use crate::pod::resources;

/// Disk that a pod uses, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DiskUse {
    /// Writable layer and logs, by container.
    pub(super) containers: Vec<(String, u64)>,
    /// emptyDir volumes by name.
    pub(super) volumes: Vec<(String, u64)>,
}

const STORAGE: &str = "ephemeral-storage";

/// Whether there is anything to hold: most pods need not be looked at.
pub(super) fn is_limited(spec: &PodSpec) -> bool {
    spec.volumes.iter().flatten().any(|volume| size_limit(volume).is_some())
        || containers(spec).any(|(_, limit)| limit > 0)
}

/// Why the pod has to go: upstream's name of the limit, and what users are told.
pub(super) fn exceeded(spec: &PodSpec, usage: &DiskUse) -> Option<(&'static str, String)> {
    let of = |list: &[(String, u64)], name: &str| list.iter().find(|(n, _)| n == name).map_or(0, |(_, u)| *u);
    for volume in spec.volumes.iter().flatten() {
        let Some((limit, shown)) = size_limit(volume) else { continue };
        if of(&usage.volumes, &volume.name) > limit {
            let name = &volume.name;
            let text = format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{shown}\". ");
            return Some(("emptydirfs.limit", text));
        }
    }
    let pod_limit: u64 = containers(spec).map(|(_, limit)| limit).sum();
    let in_memory = |name: &str| {
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == name);
        let medium = volume.and_then(|volume| volume.empty_dir.as_ref()?.medium.clone());
        medium.is_some_and(|medium| !medium.is_empty())
    };
    let on_disk = usage.volumes.iter().filter(|(name, _)| !in_memory(name));
    let total: u64 = usage.containers.iter().chain(on_disk).map(|(_, usage)| *usage).sum();
    if pod_limit > 0 && total > pod_limit {
        let limit = quantity(pod_limit);
        let text =
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        return Some(("ephemeralpodfs.limit", text));
    }
    let over = containers(spec).find(|(name, limit)| *limit > 0 && of(&usage.containers, name) > *limit)?;
    let (name, limit) = (over.0, quantity(over.1));
    let text = format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ");
    Some(("ephemeralcontainerfs.limit", text))
}

/// Regular containers and sidecars with their limits.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (&str, u64)> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars).map(|container| {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let limit = resources::value(limits, STORAGE);
        (container.name.as_str(), u64::try_from(limit).unwrap_or(0))
    })
}

fn size_limit(volume: &Volume) -> Option<(u64, &str)> {
    let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
    let bytes = u64::try_from(Quantity::parse(&limit.0).ok()?.value()).ok()?;
    (bytes > 0).then_some((bytes, limit.0.as_str()))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const POD: &str = "{volumes: [{name: v, emptyDir: {sizeLimit: 1Gi}}, {name: m, emptyDir: {medium: Memory}}], containers: \
                       [{name: a, resources: {limits: {ephemeral-storage: 1Gi}}}, {name: b, resources: {limits: {ephemeral-storage: 2Gi}}}]}";

    /// `name=MiB` of containers, and of volumes after a `/`.
    fn check(spec: &str, usage: &str, expected: Expect) {
        let spec = serde_norway::from_str(spec).unwrap();
        let list = |text: &str| -> Vec<(String, u64)> {
            let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
            pairs.map(|(name, mib)| (name.to_owned(), mib.parse::<u64>().unwrap() << 20)).collect()
        };
        let (containers, volumes) = usage.split_once('/').unwrap();
        let usage = DiskUse { containers: list(containers), volumes: list(volumes) };
        expected.assert_eq(
            &exceeded(&spec, &usage).map(|(limit, text)| format!("{limit}: {text}")).unwrap_or_default(),
        );
    }

    #[test]
    fn within_all_limits() {
        check(POD, "a=1024 b=1000 / v=1024 m=5000", expect![""]);
        check("{containers: [{name: a}]}", "a=100000 / ", expect![""]);
    }

    #[test]
    fn a_volume_a_container_and_the_pod() {
        check(
            POD,
            "a=1 b=1 / v=1025",
            expect![[r#"emptydirfs.limit: Usage of EmptyDir volume "v" exceeds the limit "1Gi". "#]],
        );
        check(
            POD,
            "a=1025 b=1 / v=1",
            expect![[
                r#"ephemeralcontainerfs.limit: Container a exceeded its local ephemeral storage limit "1Gi". "#
            ]],
        );
        check(POD, "a=1024 b=1024 / v=1024", expect![""]);
        check(
            POD,
            "a=1024 b=1025 / v=1024",
            expect![
                "ephemeralpodfs.limit: Pod ephemeral local storage usage exceeds the total limit of containers 3Gi. "
            ],
        );
    }

    #[test]
    fn who_is_looked_at() {
        let limited = |spec| is_limited(&serde_norway::from_str(spec).unwrap());
        assert!(limited(POD));
        assert!(limited("{volumes: [{name: v, emptyDir: {sizeLimit: 1Gi}}], containers: []}"));
        assert!(!limited(
            "{volumes: [{name: v, emptyDir: {sizeLimit: '0'}}, {name: w}], containers: [{name: a}]}"
        ));
    }
}
