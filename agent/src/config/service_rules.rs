//! What kube-proxy's configuration says about Services, by its names.

use orlop_dataplane::{
    devices::Named,
    model::{LoadBalancing, NodePortAddresses},
};
use orlop_model::net::IpNet;

use super::{
    ConfigError,
    error::value,
    words::{one_of, words},
};

/// Rules that hold for every Service, and where they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRules {
    /// Which of the node's addresses take node ports.
    pub node_ports: NodePortAddresses,
    /// Whether programs of the node reach them at 127.0.0.1.
    pub at_localhost: bool,
    /// Whether backends see this node as the source of all that goes to a cluster IP.
    pub masquerade_all: bool,
    /// How packets from outside reach endpoints on other nodes.
    pub load_balancing: LoadBalancing,
    /// Whether sockets of pods are left alone, and their packets translated.
    pub host_sockets_only: bool,
    /// Devices whose packets are left alone, and those where services are looked for before the stack.
    pub devices: Named,
}

/// Modes by name.
const LOAD_BALANCING: [(&str, LoadBalancing); 4] = [
    ("snat", LoadBalancing::Snat),
    ("accept", LoadBalancing::Accept),
    ("dsr", LoadBalancing::Dsr),
    ("hybrid", LoadBalancing::Hybrid),
];

pub(super) fn parse(
    node_ports: Option<String>,
    at_localhost: Option<bool>,
    masquerade_all: Option<bool>,
    load_balancing: Option<String>,
    sockets: Option<String>,
    skip_devices: Option<String>,
    xdp_devices: Option<String>,
) -> Result<ServiceRules, ConfigError> {
    Ok(ServiceRules {
        node_ports: addresses(node_ports.as_deref())?,
        at_localhost: at_localhost.unwrap_or(true),
        masquerade_all: masquerade_all.unwrap_or(false),
        load_balancing: one_of("load-balancing-mode", load_balancing, &LOAD_BALANCING)?,
        host_sockets_only: one_of("socket-services", sockets, &[("all", false), ("host", true)])?,
        devices: Named {
            skipped: words(skip_devices).into_iter().collect(),
            early: words(xdp_devices).into_iter().collect(),
        },
    })
}

/// Nothing means all addresses, as in upstream's iptables mode.
fn addresses(given: Option<&str>) -> Result<NodePortAddresses, ConfigError> {
    const FLAG: &str = "nodeport-addresses";
    match given.unwrap_or_default() {
        "" => Ok(NodePortAddresses::All),
        "primary" => Ok(NodePortAddresses::Primary),
        _ => {
            let net = |word: &str| {
                let net: IpNet = word.parse().map_err(|_| {
                    value(
                        FLAG,
                        word,
                        "must be \"primary\" or networks like 192.0.2.0/24, with commas between",
                    )
                })?;
                net.to_string().parse().map_err(|error| value(FLAG, word, error))
            };
            Ok(NodePortAddresses::In(
                words(given.map(str::to_owned))
                    .iter()
                    .map(|word| net(word))
                    .collect::<Result<_, ConfigError>>()?,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::check,
        {NodePortAddresses, addresses},
    };

    #[test]
    fn a_mode_of_load_balancing_has_one_of_four_names() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, loadBalancingMode: geneve}",
            expect_test::expect![[
                r#"--load-balancing-mode "geneve": must be snat or accept or dsr or hybrid"#
            ]],
        );
    }

    #[test]
    fn networks_of_node_ports_are_read_or_refused() {
        assert_eq!(addresses(None).unwrap(), NodePortAddresses::All);
        assert_eq!(addresses(Some("primary")).unwrap(), NodePortAddresses::Primary);
        let nets = ["192.0.2.0/24", "fd00::/8"].map(|net| net.parse().unwrap());
        assert_eq!(addresses(Some("192.0.2.0/24,fd00::/8")).unwrap(), NodePortAddresses::In(nets.to_vec()));
        check(
            "{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, nodeportAddresses: \"192.0.2.0/24,eth0\"}",
            expect_test::expect![[
                r#"--nodeport-addresses "eth0": must be "primary" or networks like 192.0.2.0/24, with commas between"#
            ]],
        );
    }
}
