//! Pod CIDRs: every node gets its own share of the cluster's, once and for all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use orlop_model::net::Ipv4Net;
use serde_json::json;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_not_found};
use crate::object::{Key, is_deleting, uid};
use crate::queue::Queue;
use crate::record::Recorder;

/// Gives out CIDRs until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder, cluster: Ipv4Net, mask: u8) {
    let recorder = recorder.named("cidrAllocator");
    let queue = Arc::new(Queue::default());
    let (add, all) = (Arc::clone(&queue), Arc::clone(&cache));
    cache.nodes.on_change(move |old, new| match (old, new) {
        (_, Some(node)) if cidrs(node).is_empty() => add.add(Key::of(&node.metadata)),
        // A share is free again: somebody may wait for one.
        (Some(_), None) => {
            for node in all.nodes.list().iter().filter(|node| cidrs(node).is_empty()) {
                add.add(Key::of(&node.metadata));
            }
        }
        _ => {}
    });
    cache.nodes.synced().await;
    // One at a time: two nodes must not get the same share.
    queue.work("node-ipam-controller", 1, |key| sync(&client, &cache, &recorder, (cluster, mask), key)).await;
}

async fn sync(
    client: &Client,
    cache: &Cache,
    recorder: &Recorder,
    (cluster, mask): (Ipv4Net, u8),
    key: Key,
) -> Result<Option<Duration>, SyncError> {
    let Some(node) = cache.nodes.get(&key) else { return Ok(None) };
    if !cidrs(&node).is_empty() || is_deleting(&node.metadata) {
        return Ok(None);
    }
    let taken = cache.nodes.list().iter().flat_map(|node| cidrs(node)).collect::<Vec<_>>();
    let Some(cidr) = free(cluster, mask, &taken) else {
        let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
        recorder.warning(&*node, "CIDRNotAvailable", text);
        return Ok(Some(Duration::from_secs(60)));
    };
    let patch = json!({
        "metadata": { "uid": uid(&node.metadata) },
        "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
    });
    let api = Api::<Node>::all(client.clone());
    match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(node) => cache.nodes.absorb(node),
        Err(error) if is_not_found(&error) => {}
        error => drop(error.trying(|| format!("give node {} its pod CIDR", key.name))?),
    }
    Ok(None)
}

/// The CIDRs that a node has; what is not IPv4 is not ours to count.
fn cidrs(node: &Node) -> Vec<Ipv4Net> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.as_ref());
    all.filter_map(|text| text.parse().ok()).collect()
}

/// The first share that overlaps none of the taken ones.
fn free(cluster: Ipv4Net, mask: u8, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let taken: BTreeSet<_> = taken.iter().filter(|net| net.overlaps(&cluster)).collect();
    let count = u32::try_from(cluster.subnets(mask)).unwrap_or(u32::MAX);
    let mut shares = (0..count).filter_map(|n| cluster.subnet(mask, n));
    shares.find(|share| !taken.iter().any(|net| net.overlaps(share)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, mask: u8, taken: &[&str], expected: Option<&str>) {
        let net = |text: &str| Ipv4Net::parse(text).unwrap();
        let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
        assert_eq!(free(net(cluster), mask, &taken), expected.map(net));
    }

    #[test]
    fn the_first_free_share_is_given() {
        check("10.244.0.0/16", 24, &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/23", "192.168.0.0/24"], Some("10.244.2.0/24"));
    }

    #[test]
    fn a_full_cluster_has_none() {
        check("10.244.0.0/23", 24, &["10.244.0.0/24", "10.244.1.0/24"], None);
        check("10.244.0.0/24", 16, &[], None);
    }
}
