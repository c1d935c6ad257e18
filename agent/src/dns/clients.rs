//! `[p]` Who may ask: the cluster's pods and nodes, and this machine. Names of the cluster are no business of others,
//! and a name server that answers everybody is a weapon against third parties.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

use orlop_model::{event::Event, net::IpNet};

/// Those who may.
#[derive(Debug, Default)]
pub struct Clients {
    always: (Vec<IpNet>, Vec<IpAddr>),
    nodes: BTreeMap<String, (Vec<IpNet>, Vec<IpAddr>)>,
}

impl Clients {
    /// These, whatever the Nodes say.
    #[must_use]
    pub fn new(pods: Vec<IpNet>, hosts: Vec<IpAddr>) -> Clients {
        Clients { always: (pods, hosts), nodes: BTreeMap::new() }
    }

    /// Takes in what the watch of Nodes says.
    pub fn nodes(&mut self, event: &Event<Arc<Node>>) {
        match event {
            Event::Reset(nodes) => {
                self.nodes = nodes.iter().map(|node| (node.name_any(), places(node))).collect();
            }
            Event::Apply(node) => {
                self.nodes.insert(node.name_any(), places(node));
            }
            Event::Delete(node) => {
                self.nodes.remove(&node.name_any());
            }
        }
    }

    /// Whether this one may ask.
    #[must_use]
    pub fn may_ask(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        if client.is_loopback() {
            return true;
        }
        let (pods, hosts) = &self.always;
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(client));
        within(pods)
            || hosts.contains(&client)
            || self.nodes.values().any(|(pods, hosts)| within(pods) || hosts.contains(&client))
    }
}

fn places(node: &Node) -> (Vec<IpNet>, Vec<IpAddr>) {
    let spec = node.spec.as_ref();
    let nets = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    let nets = nets.iter().chain(spec.and_then(|spec| spec.pod_cidr.as_ref()));
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let addresses = addresses.into_iter().flatten().filter_map(|address| address.address.parse().ok());
    (nets.filter_map(|net| net.parse().ok()).collect(), addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_nodes_and_this_machine_may_ask() {
        let mut clients =
            Clients::new(vec!["10.42.0.0/16".parse().unwrap()], vec![IpAddr::from([192, 0, 2, 1])]);
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "far"},
            "spec": {"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24", "fd00::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "far"}]},
        }))
        .unwrap();
        let node = Arc::new(node);
        let asked = |clients: &Clients| {
            let clients: Vec<_> = [
                "10.42.7.1",
                "192.0.2.1",
                "127.0.0.1",
                "::1",
                "::ffff:10.42.0.1",
                "192.0.2.7",
                "10.244.3.9",
                "10.244.4.9",
                "8.8.8.8",
                "2001:db8::1",
            ]
            .iter()
            .map(|client| if clients.may_ask(client.parse().unwrap()) { "y" } else { "n" })
            .collect();
            clients.concat()
        };
        assert_eq!(asked(&clients), "yyyyynnnnn");
        clients.nodes(&Event::Apply(node.clone()));
        assert_eq!(asked(&clients), "yyyyyyynnn");
        clients.nodes(&Event::Delete(node.clone()));
        assert_eq!(asked(&clients), "yyyyynnnnn");
        clients.nodes(&Event::Reset(vec![node]));
        assert_eq!(asked(&clients), "yyyyyyynnn");
    }
}
