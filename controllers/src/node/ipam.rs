//! Pod CIDRs: every node gets its own share of the cluster's, once and for all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use orlop_model::net::IpNet;
use serde_json::json;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_not_found};
use crate::object::{Key, is_deleting, uid};
use crate::queue::Queue;
use crate::record::Recorder;

/// A network of the cluster's, and the bits of a node's share of it.
type Pool = (IpNet, u8);

/// Gives out CIDRs until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder, pools: Vec<Pool>) {
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
    queue.work("node-ipam-controller", 1, |key| sync(&client, &cache, &recorder, &pools, key)).await;
}

async fn sync(
    client: &Client,
    cache: &Cache,
    recorder: &Recorder,
    pools: &[Pool],
    key: Key,
) -> Result<Option<Duration>, SyncError> {
    let Some(node) = cache.nodes.get(&key) else { return Ok(None) };
    if !cidrs(&node).is_empty() || is_deleting(&node.metadata) {
        return Ok(None);
    }
    let taken = cache.nodes.list().iter().flat_map(|node| cidrs(node)).collect::<Vec<_>>();
    let shares = pools.iter().map(|(cluster, mask)| free(*cluster, *mask, &taken));
    // A node of one family in a cluster of two would be of no use to anybody: all or nothing.
    let Some(shares) = shares.collect::<Option<Vec<_>>>().filter(|shares| !shares.is_empty()) else {
        let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
        recorder.warning(&*node, "CIDRNotAvailable", text);
        return Ok(Some(Duration::from_secs(60)));
    };
    let patch = json!({
        "metadata": { "uid": uid(&node.metadata) },
        "spec": { "podCIDR": shares[0], "podCIDRs": shares },
    });
    let api = Api::<Node>::all(client.clone());
    match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(node) => cache.nodes.absorb(node),
        Err(error) if is_not_found(&error) => {}
        error => drop(error.trying(|| format!("give node {} its pod CIDR", key.name))?),
    }
    Ok(None)
}

/// The CIDRs that a node has.
fn cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.as_ref());
    all.filter_map(|text| text.parse().ok()).collect()
}

/// The first share that overlaps none of the taken ones.
fn free(cluster: IpNet, mask: u8, taken: &[IpNet]) -> Option<IpNet> {
    let taken: BTreeSet<_> = taken.iter().filter(|net| net.overlaps(&cluster)).collect();
    let shares = (0..).map_while(|n| cluster.subnet(mask, n));
    let mut free = shares.filter(|share| !taken.iter().any(|net| net.overlaps(share)));
    free.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, mask: u8, taken: &[&str], expected: Option<&str>) {
        let net = |text: &str| IpNet::parse(text).unwrap();
        let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
        assert_eq!(free(net(cluster), mask, &taken), expected.map(net));
    }

    #[test]
    fn the_first_free_share_is_given() {
        check("10.244.0.0/16", 24, &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/23", "192.168.0.0/24"], Some("10.244.2.0/24"));
        check("fd00:10::/56", 64, &["10.244.0.0/24", "fd00:10::/64"], Some("fd00:10:0:1::/64"));
    }

    #[test]
    fn a_full_cluster_has_none() {
        check("10.244.0.0/23", 24, &["10.244.0.0/24", "10.244.1.0/24"], None);
        check("10.244.0.0/24", 16, &[], None);
        check("fd00:10::/63", 64, &["fd00:10::/64", "fd00:10:0:1::/64"], None);
    }
}
