//! Four equal towns: somebody outside, a node, and two pods behind it. They differ in what the node makes of services.

use std::time::Instant;

use crate::rules::Mode;
use crate::services::{Dialled, ENDPOINTS, NODE, cluster};
use crate::world::{Worker, World, feed, sh};

/// What a node makes of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It knows of none: endpoints are dialled.
    Direct,
    Orlop,
    Rules(Mode),
}

impl Kind {
    const ALL: [Self; 4] =
        [Self::Direct, Self::Orlop, Self::Rules(Mode::Nftables), Self::Rules(Mode::Iptables)];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Orlop => "orlop",
            Self::Rules(Mode::Nftables) => "nftables",
            Self::Rules(Mode::Iptables) => "iptables",
        }
    }
}

/// A way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From pod to pod, past all services.
    Pod,
    /// From pod to cluster IP.
    Cluster,
    /// From a pod of another node to a pod, past all services.
    Remote,
    /// From outside to node port.
    Node,
}

/// A node and those around it.
pub(crate) struct Town {
    pub(crate) kind: Kind,
    pub(crate) client: Worker,
    pub(crate) outside: Worker,
    pub(crate) remote: Worker,
    pub(crate) server: Worker,
    node: Option<Worker>,
    services: u32,
}

/// All four.
pub(crate) fn build(world: &World) -> Vec<Town> {
    Kind::ALL.map(|kind| Town::build(world, kind)).into()
}

impl Town {
    fn build(world: &World, kind: Kind) -> Self {
        let name = kind.name();
        let endpoints = ENDPOINTS.map(|ip| format!("{ip}")).join(" ");
        sh(&format!(
            "for n in outside remote node client server; do ip netns add {name}-$n; ip -n {name}-$n link set lo up; done
            connect() {{ # namespace, the node's device
                ip -n {name}-node link add $2 type veth peer name eth0 netns {name}-$1
                ip -n {name}-node link set $2 up; ip -n {name}-$1 link set eth0 up
            }}
            nsenter --net=/run/netns/{name}-node sysctl -qw net.ipv4.ip_forward=1
            connect outside up0; connect remote up1; connect client pod0; connect server pod1
            ip -n {name}-node address add {NODE}/24 dev up0
            ip -n {name}-outside address add 192.0.2.7/24 dev eth0
            ip -n {name}-outside route add default via {NODE}
            ip -n {name}-node address add 198.51.100.10/24 dev up1
            ip -n {name}-remote address add 198.51.100.7/24 dev eth0
            ip -n {name}-remote address add 10.42.2.11/32 dev lo
            ip -n {name}-remote route add default via 198.51.100.10 src 10.42.2.11
            ip -n {name}-node route add 10.42.2.0/24 via 198.51.100.7
            pod() {{ # namespace, the node's device, addresses
                ns=$1; dev=$2; shift 2
                ip -n {name}-node address add 10.42.1.1/32 dev $dev
                ip -n {name}-node link set $dev alias pod:$ns
                ip -n {name}-$ns route add 10.42.1.1 dev eth0 scope link
                for ip in $@; do
                    ip -n {name}-$ns address add $ip/32 dev eth0
                    ip -n {name}-node route add $ip/32 dev $dev
                done
                ip -n {name}-$ns route add default via 10.42.1.1
            }}
            pod client pod0 10.42.1.11; pod server pod1 {endpoints}"
        ));
        let (cgroup, pins) = (world.cgroup(name), world.pins(name));
        let inside = (kind == Kind::Orlop).then_some(cgroup.as_path());
        let node = inside.map(|cgroup| {
            let arguments = ["agent", pins.to_str().unwrap(), cgroup.to_str().unwrap()];
            Worker::start(&format!("{name}-node"), &arguments, None)
        });
        Self {
            kind,
            client: Worker::start(&format!("{name}-client"), &["client"], inside),
            outside: Worker::start(&format!("{name}-outside"), &["client"], None),
            remote: Worker::start(&format!("{name}-remote"), &["client"], None),
            server: Worker::start(&format!("{name}-server"), &["server"], None),
            node,
            services: 0,
        }
    }

    /// Makes so many services all there are; how long it took, in milliseconds.
    pub(crate) fn serve(&mut self, count: u32) -> f64 {
        self.services = count;
        let node = format!("{}-node", self.kind.name());
        match self.kind {
            Kind::Direct => 0.0,
            Kind::Orlop => self.node.as_mut().unwrap().ask(&count.to_string()),
            Kind::Rules(mode) => {
                let text = mode.text(&cluster(count, 1));
                let begun = Instant::now();
                match mode {
                    Mode::Nftables => {
                        let clean = "table ip kube-proxy\ndelete table ip kube-proxy\n";
                        feed(&node, "nft -f -", &format!("{clean}{text}"));
                    }
                    Mode::Iptables => feed(&node, "iptables-restore", &text),
                }
                begun.elapsed().as_secs_f64() * 1e3
            }
        }
    }

    /// Where a service is dialled on this way, and by whom.
    pub(crate) fn way(&mut self, way: Way, what: Dialled) -> (&mut Worker, String) {
        let direct = self.kind == Kind::Direct || matches!(way, Way::Pod | Way::Remote);
        let ends = match way {
            _ if direct => what.endpoints(),
            Way::Node => vec![what.at_node()],
            _ => vec![what.at_cluster(self.services)],
        };
        let who = match way {
            Way::Node => &mut self.outside,
            Way::Remote => &mut self.remote,
            Way::Pod | Way::Cluster => &mut self.client,
        };
        (who, ends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    /// The namespace of the server's pod.
    pub(crate) fn server_place(&self) -> String {
        format!("{}-server", self.kind.name())
    }
}
