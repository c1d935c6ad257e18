//! The packet rows of `testdata/cases.yaml`, for whoever is held against them: the tables (unit tests) and the programs
//! (root tier).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use orlop_dataplane::model::{Node, NodePortAddresses, Protocol, Settings};
use serde::Deserialize;
use serde_norway::Value;

use super::fixture::Fixture;

/// The rows and what surrounds them.
#[derive(Deserialize)]
pub(crate) struct Rows {
    pub(crate) world: World,
    pub(crate) fixtures: BTreeMap<String, Fixture>,
    pub(crate) packets: Vec<Packet>,
}

/// All of them.
pub(crate) fn rows() -> Rows {
    let rows: Rows = serde_norway::from_str(include_str!("../../testdata/cases.yaml")).unwrap();
    assert_eq!(rows.packets.len(), 137);
    rows
}

impl Packet {
    /// What may become of it: where the modes of upstream differ, either is right.
    pub(crate) fn allowed(&self) -> Vec<PacketExpect> {
        let all = [&self.expect, &self.iptables, &self.nftables];
        all.into_iter().flatten().cloned().map(PacketExpect::known).collect()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self.packet.proto.as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => panic!("protocol {other}"),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Packet {
    pub(crate) id: String,
    pub(crate) why: String,
    pub(crate) fixtures: Vec<String>,
    #[serde(default)]
    pub(crate) config: BTreeMap<String, Value>,
    pub(crate) packet: Dialled,
    pub(crate) expect: Option<PacketExpect>,
    pub(crate) iptables: Option<PacketExpect>,
    pub(crate) nftables: Option<PacketExpect>,
}

#[derive(Deserialize)]
pub(crate) struct Dialled {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) dport: u16,
    pub(crate) proto: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct PacketExpect {
    pub(crate) verdict: String,
    #[serde(default)]
    pub(crate) backends: BTreeSet<SocketAddr>,
    pub(crate) masquerade: Option<String>,
}

impl PacketExpect {
    /// A health check is let in by not being touched: there is no firewall here that could keep it out.
    fn known(mut self) -> Self {
        if self.verdict == "accept" {
            self.verdict = "pass".to_owned();
        }
        self
    }
}

/// What surrounds every row.
#[derive(Deserialize)]
pub(crate) struct World {
    pub(crate) node: WorldNode,
    pub(crate) pod_range: Vec<IpNet>,
    pub(crate) pod_range_node: Vec<IpNet>,
}

#[derive(Deserialize)]
pub(crate) struct WorldNode {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) primary: Vec<IpAddr>,
}

impl World {
    /// The node as the row sets it up.
    pub(crate) fn node(&self, config: &BTreeMap<String, Value>) -> Node {
        let mut settings = Settings { pods: self.pod_range.clone(), ..Settings::default() };
        for (name, value) in config {
            match name.as_str() {
                "detect_local" => {
                    settings.pods = match value.as_str().unwrap() {
                        "cluster-cidr" => self.pod_range.clone(),
                        "node-cidr" => self.pod_range_node.clone(),
                        "none" => Vec::new(),
                        other => panic!("detect_local {other}"),
                    }
                }
                "masquerade_all" => settings.masquerade_all = value.as_bool().unwrap(),
                "localhost_nodeports" => settings.loopback_node_ports = value.as_bool().unwrap(),
                "node_hints" => settings.node_hints = value.as_bool().unwrap(),
                "nodeport_addresses" => {
                    settings.node_port_addresses = match value.as_str() {
                        Some("all") => NodePortAddresses::All,
                        Some("primary") => NodePortAddresses::Primary,
                        _ => NodePortAddresses::In(serde_norway::from_value(value.clone()).unwrap()),
                    }
                }
                other => panic!("config {other}"),
            }
        }
        let WorldNode { name, zone, addresses, primary } = &self.node;
        Node {
            name: name.clone(),
            zone: Some(zone.clone()),
            addresses: addresses.clone(),
            primary: primary.clone(),
            netns: 0,
            some_untranslated: false,
            settings,
        }
    }
}
