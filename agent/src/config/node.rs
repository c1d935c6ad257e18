//! Settings about the node itself: name, labels, address, cgroup, MTU, the shim.

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    path::PathBuf,
};

use http::Uri;
use orlop_model::{
    ids::NodeName,
    names,
    net::{self, Family, IpNet, PerFamily},
};

use super::{
    CniDirs, ConfigError,
    error::value,
    words::{absolute, parse},
};
use crate::node::address::{Sight, Wanted};

pub(super) fn parse_node_name(given: Option<String>) -> Result<NodeName, ConfigError> {
    let name = match given {
        Some(name) => name,
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    NodeName::parse(&name).map_err(|reason| value("node-name", name, reason))
}

pub(super) fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, label) = pair.split_once('=').unwrap_or((pair, ""));
            names::is_label_key(key).map_err(|reason| value("node-labels", key, reason))?;
            names::is_label_value(label).map_err(|reason| value("node-labels", label, reason))?;
            Ok((key.to_owned(), label.to_owned()))
        })
        .collect()
}

pub(super) fn parse_cgroup(path: String) -> Result<String, ConfigError> {
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.split('/').all(part_ok) {
        Ok(path)
    } else {
        Err(value(
            "cgroup-root",
            path,
            "must be a relative path without `.` or `..`; the root itself is not allowed",
        ))
    }
}

/// As client-go takes it: a URL, or a host that speaks TLS.
pub(super) fn parse_master(text: String) -> Result<Uri, ConfigError> {
    let url = if text.contains("://") { text.clone() } else { format!("https://{text}") };
    let uri: Uri = parse("master", url)?;
    match uri.scheme_str() {
        Some("https" | "http") => Ok(uri),
        _ => Err(value("master", text, "must be a URL like https://192.0.2.1:6443")),
    }
}

pub(super) fn parse_mtu(mtu: u32) -> Result<u32, ConfigError> {
    // RFC 791: every host takes 576 bytes; 65535 is the largest IPv4 packet.
    if (576..=65_535).contains(&mtu) {
        Ok(mtu)
    } else {
        Err(value("mtu", mtu, "must lie between 576 and 65535"))
    }
}

pub(super) fn shim_beside_us() -> Result<PathBuf, ConfigError> {
    let ours = std::env::current_exe().map_err(|error| ConfigError::Missing {
        flag: "shim",
        reason: format!("the path of this program is not known ({error})"),
    })?;
    Ok(ours.with_file_name("orlop-shim"))
}

/// Other people's plugins, if a configuration for them is named.
pub(super) fn cni(
    conf_dir: Option<PathBuf>,
    bin_dir: Option<String>,
) -> Result<Option<CniDirs>, ConfigError> {
    let Some(conf_dir) = conf_dir else {
        return match bin_dir {
            None => Ok(None),
            Some(dirs) => {
                Err(value("cni-bin-dir", dirs, "needs --cni-conf-dir, which says what to do with them"))
            }
        };
    };
    let bin_dirs = bin_dir.unwrap_or_else(|| "/opt/cni/bin,/usr/lib/cni".to_owned());
    let dirs = bin_dirs.split(',').map(str::trim).filter(|dir| !dir.is_empty());
    let bin_dirs = dirs.map(|dir| absolute("cni-bin-dir", dir.into())).collect::<Result<_, _>>()?;
    Ok(Some(CniDirs { conf_dir: absolute("cni-conf-dir", conf_dir)?, bin_dirs }))
}

pub(super) fn networks(flag: &'static str, text: &str) -> Result<Vec<IpNet>, ConfigError> {
    net::one_per_family(text).map_err(|error| value(flag, text, error))
}

/// Cluster IPs: where they are not given, of the families that pods have.
pub(super) fn service_networks(text: Option<String>, pods: &[IpNet]) -> Result<Vec<IpNet>, ConfigError> {
    let of_pods = |pods: &IpNet| match pods.family() {
        Family::V4 => "10.43.0.0/16",
        Family::V6 => "fd00:43::/112",
    };
    let text = text.unwrap_or_else(|| pods.iter().map(of_pods).collect::<Vec<_>>().join(","));
    let nets = networks("service-cidr", &text)?;
    for net in &nets {
        if let Some(pods) = pods.iter().find(|pods| pods.overlaps(net)) {
            let reason = format!("must not overlap the addresses of pods, {pods}");
            return Err(value("service-cidr", net, reason));
        }
        // As upstream.
        if net.family() == Family::V6 && net.prefix() < 64 {
            let reason = "must have at least 64 bits of IPv6, as no more addresses are ever given out";
            return Err(value("service-cidr", net, reason));
        }
    }
    Ok(nets)
}

/// The first node's part of the cluster's.
pub(super) fn first_share(cluster: &IpNet, masks: PerFamily) -> Result<IpNet, ConfigError> {
    let (flag, mask, longest) = match cluster.family() {
        Family::V4 => ("node-cidr-mask", masks.v4, 30),
        Family::V6 => ("node-cidr-mask-ipv6", masks.v6, 126),
    };
    // As upstream: more shares than that nobody has nodes for.
    let longest = cluster.prefix().saturating_add(16).min(longest);
    let share = cluster.subnet(mask, 0).filter(|_| mask <= longest);
    let reason = || format!("must lie between the cluster CIDR's {} and {longest}", cluster.prefix());
    share.ok_or_else(|| value(flag, mask, reason()))
}

/// One address, or one of either family.
pub(super) fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, ConfigError> {
    let addresses = text.split(',').map(|part| parse("node-ip", part.trim().to_owned()));
    let addresses = addresses.collect::<Result<Vec<IpAddr>, _>>()?;
    match addresses.as_slice() {
        [_] => Ok(addresses),
        [a, b] if a.is_ipv4() != b.is_ipv4() => Ok(addresses),
        _ => Err(value("node-ip", text, "must be one address, or one of IPv4 and one of IPv6")),
    }
}

/// What a node needs whose pods have these networks.
pub(super) fn wanted_addresses(cluster_cidrs: &[IpNet]) -> Wanted {
    let main = cluster_cidrs.first().map_or(Family::V4, IpNet::family);
    Wanted { main, both: cluster_cidrs.len() > 1, only_main: false }
}

/// The addresses that the machine has now.
#[must_use]
pub fn look_for_addresses() -> Sight {
    let own = orlop_cni::host::addresses().unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "list the node's addresses");
        Vec::new()
    });
    Sight { routed: [Family::V4, Family::V6].into_iter().filter_map(routed).collect(), own }
}

/// The address that packets to the outside would carry. Connecting a UDP socket asks the routing table and sends nothing.
fn routed(family: Family) -> Option<IpAddr> {
    let any = IpNet::everything(family).network();
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((family.outside(), 9)).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn addresses_are_of_one_family_or_of_both() {
        let check = |more: &str, expected: expect_test::Expect| {
            check(&format!("{{nodeName: n1, shim: /s, {more}}}"), expected);
        };
        let nodes = "nodeIp: '10.0.0.3,fd00::3'";
        check(
            &format!("{nodes}, clusterCidr: 'fd00:10::/56,10.42.0.0/16'"),
            expect_test::expect!["n1 10.0.0.3 orlop fd00:10::/56,10.42.0.0/16 [::]:6443"],
        );
        check(
            &format!("{nodes}, clusterCidr: 'fd00:10::/56', nodeCidrMaskIpv6: 73"),
            expect_test::expect![[
                r#"--node-cidr-mask-ipv6 "73": must lie between the cluster CIDR's 56 and 72"#
            ]],
        );
        check(
            &format!("{nodes}, clusterCidr: '10.42.0.0/16,10.52.0.0/16'"),
            expect_test::expect![[
                r#"--cluster-cidr "10.42.0.0/16,10.52.0.0/16": must be one network, or one of IPv4 and one of IPv6"#
            ]],
        );
        check(
            &format!("{nodes}, podCidr: '10.42.0.0/24,fd00::/64,'"),
            expect_test::expect![[r#"--pod-cidr "10.42.0.0/24,fd00::/64,": invalid CIDR address: "#]],
        );
        check(
            "nodeIp: '10.0.0.3,10.0.0.4'",
            expect_test::expect![[
                r#"--node-ip "10.0.0.3,10.0.0.4": must be one address, or one of IPv4 and one of IPv6"#
            ]],
        );
        check("nodeIp: 'fd00::3'", expect_test::expect!["n1 fd00::3 orlop 10.42.0.0/16 [::]:6443"]);
    }

    #[test]
    fn an_api_server_is_a_url_or_a_host() {
        let master = |text: &str| super::parse_master(text.to_owned()).map_err(|error| error.to_string());
        for (given, read) in [
            ("https://192.0.2.1:6443", "https://192.0.2.1:6443/"),
            ("http://[fd00::1]:8080", "http://[fd00::1]:8080/"),
            ("api.example:6443", "https://api.example:6443/"),
        ] {
            assert_eq!(master(given).unwrap().to_string(), read);
        }
        let refused = expect_test::expect![[
            r#"--master "ftp://api.example": must be a URL like https://192.0.2.1:6443"#
        ]];
        refused.assert_eq(&master("ftp://api.example").unwrap_err());
        expect_test::expect![[r#"--master "https://": empty string"#]].assert_eq(&master("").unwrap_err());
    }

    #[test]
    fn who_serves_no_services_answers_no_dns_questions_on_the_way() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, disableKubeProxy: true, nodeLocalDns: true}",
            expect_test::expect![[
                r#"--node-local-dns "true": needs the service dataplane, which --disable-kube-proxy leaves out"#
            ]],
        );
    }

    #[test]
    fn the_root_cgroup_is_refused() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, cgroupRoot: /}",
            expect_test::expect![[
                r#"--cgroup-root "/": must be a relative path without `.` or `..`; the root itself is not allowed"#
            ]],
        );
    }
}
