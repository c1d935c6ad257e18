//! [pure] What runs where: the resources and host ports taken on every node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::object::name;

use super::request::{Amounts, HostPort, Request, amount};

/// A node and what is taken of it.
#[derive(Debug, Clone)]
pub(super) struct NodeInfo {
    pub(super) node: Arc<Node>,
    pub(super) allocatable: Amounts,
    pub(super) used: Amounts,
    /// CPU and memory as they count in comparisons.
    pub(super) weight: (i128, i128),
    pub(super) pods: i128,
    pub(super) ports: Vec<HostPort>,
}

impl NodeInfo {
    fn new(node: Arc<Node>) -> Self {
        let status = node.status.as_ref();
        let given = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let allocatable =
            given.into_iter().flatten().map(|(name, q)| (name.clone(), amount(name, q))).collect();
        Self { node, allocatable, used: Amounts::new(), weight: (0, 0), pods: 0, ports: Vec::new() }
    }

    fn take(&mut self, request: &Request) {
        for (name, amount) in &request.amounts {
            *self.used.entry(name.clone()).or_default() += amount;
        }
        self.weight = (self.weight.0 + request.weight.0, self.weight.1 + request.weight.1);
        self.pods += 1;
        self.ports.extend(request.ports.iter().cloned());
    }

    fn give_back(&mut self, request: &Request) {
        for (name, amount) in &request.amounts {
            *self.used.entry(name.clone()).or_default() -= amount;
        }
        self.weight = (self.weight.0 - request.weight.0, self.weight.1 - request.weight.1);
        self.pods -= 1;
        for port in &request.ports {
            if let Some(index) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(index);
            }
        }
    }
}

/// All nodes and the pods on them, by uid.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    nodes: BTreeMap<String, NodeInfo>,
    pods: HashMap<String, (String, Request)>,
}

impl Ledger {
    /// The nodes in order of their names.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    pub(super) fn get(&self, node: &str) -> Option<&NodeInfo> {
        self.nodes.get(node)
    }

    /// Adds or replaces a node; what runs on it stays counted.
    pub(super) fn set_node(&mut self, node: Arc<Node>) {
        let key = name(&node.metadata).to_owned();
        let mut info = NodeInfo::new(node);
        for (_, request) in self.pods.values().filter(|(on, _)| *on == key) {
            info.take(request);
        }
        self.nodes.insert(key, info);
    }

    pub(super) fn remove_node(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// Counts a pod on a node. Counting it again changes nothing; on another node, it moves.
    pub(super) fn assign(&mut self, uid: &str, node: &str, request: Request) {
        if let Some((on, counted)) = self.pods.get(uid) {
            if on == node && *counted == request {
                return;
            }
            self.release(uid);
        }
        if let Some(info) = self.nodes.get_mut(node) {
            info.take(&request);
        }
        self.pods.insert(uid.to_owned(), (node.to_owned(), request));
    }

    /// Stops counting a pod; true when it was counted.
    pub(super) fn release(&mut self, uid: &str) -> bool {
        let Some((node, request)) = self.pods.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.give_back(&request);
        }
        true
    }

    pub(super) fn is_assigned(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn cpu(milli: i128) -> Request {
        Request { amounts: Amounts::from([("cpu".to_owned(), milli)]), ..Request::default() }
    }

    fn used(ledger: &Ledger) -> String {
        let show = |info: &NodeInfo| {
            format!("{}={:?}/{}", name(&info.node.metadata), info.used.get("cpu"), info.pods)
        };
        ledger.nodes().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pods_are_counted_once_wherever_nodes_come_and_go() {
        let mut ledger = Ledger::default();
        ledger.assign("p1", "a", cpu(100));
        ledger.set_node(Arc::new(yaml("{metadata: {name: a}, status: {allocatable: {cpu: 2}}}")));
        ledger.assign("p1", "a", cpu(100));
        ledger.assign("p2", "a", cpu(50));
        assert_eq!(used(&ledger), "a=Some(150)/2");
        ledger.set_node(Arc::new(yaml("{metadata: {name: b}}")));
        ledger.assign("p2", "b", cpu(50));
        assert_eq!(used(&ledger), "a=Some(100)/1 b=Some(50)/1");
        assert!(ledger.release("p1") && !ledger.release("p1"));
        ledger.remove_node("b");
        assert_eq!(used(&ledger), "a=Some(0)/0");
    }
}
