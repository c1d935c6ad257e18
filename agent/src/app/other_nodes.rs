//! The addresses of the other nodes, for the service dataplane: from whom it takes packets that were sent on as they came.
//!
//! Only where nodes do that (`--load-balancing-mode`): a watch of all Nodes is not free in a large cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::net::IpAddr;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt as _, runtime::watcher};
use orlop::{config::Config, source};
use orlop_dataplane::{Update, model::LoadBalancing};
use orlop_model::event::Event;

use super::dataplane::addresses;

/// They, each time that they change.
pub(super) fn watch(client: &Client, config: &Config) -> impl Stream<Item = Update> + Send + use<> {
    if config.service_rules.load_balancing == LoadBalancing::Snat {
        return stream::once(ready(Update::Nodes(BTreeSet::new()))).left_stream();
    }
    let own = config.node_name.to_string();
    let mut nodes = BTreeMap::<String, Vec<IpAddr>>::new();
    let mut told = None;
    let events = source::watch(Api::<Node>::all(client.clone()), watcher::Config::default());
    let changes = events.filter_map(move |event| {
        let entry = |node: &Node| (node.name_any(), addresses(node).collect::<Vec<_>>());
        match event {
            Event::Reset(all) => nodes = all.iter().map(|node| entry(node)).collect(),
            Event::Apply(node) => nodes.extend([entry(&node)]),
            Event::Delete(node) => drop(nodes.remove(&node.name_any())),
        }
        let others: BTreeSet<_> =
            nodes.iter().filter(|(name, _)| **name != own).flat_map(|(_, ips)| ips).copied().collect();
        // Nodes change with every heartbeat; this does not.
        let news = (told.as_ref() != Some(&others)).then(|| Update::Nodes(others.clone()));
        told = Some(others);
        ready(news)
    });
    changes.right_stream()
}
