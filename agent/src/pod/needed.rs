//! Which images pods need, whatever state they are in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

/// Images by reference, with a pod that needs each. A pod that is being deleted still needs its images: its containers
/// run until it is gone.
pub fn needed<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeMap<String, String> {
    let mut images = BTreeMap::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let regular = regular.filter_map(|container| container.image.as_ref());
        let ephemeral =
            spec.ephemeral_containers.iter().flatten().filter_map(|container| container.image.as_ref());
        let volumes =
            spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_ref());
        for image in regular.chain(ephemeral).chain(volumes).filter(|image| !image.is_empty()) {
            let meta = &pod.metadata;
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            images.insert(image.clone(), format!("pod {}/{}", of(&meta.namespace), of(&meta.name)));
        }
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_container_counts() {
        let pod: Pod = serde_norway::from_str(
            "{metadata: {namespace: n, name: p, deletionTimestamp: '2026-01-01T00:00:00Z'}, spec: {containers: [{name: a, \
             image: a}, {name: x}], initContainers: [{name: b, image: b}], ephemeralContainers: [{name: c, image: c}], \
             volumes: [{name: d, image: {reference: d}}]}, status: {phase: Succeeded}}",
        )
        .unwrap();
        let found: Vec<_> = needed([&pod, &Pod::default()]).into_iter().collect();
        let of = |image: &str| (image.to_owned(), "pod n/p".to_owned());
        assert_eq!(found, ["a", "b", "c", "d"].map(of));
    }
}
