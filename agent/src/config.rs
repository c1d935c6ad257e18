//! From words to a configuration that cannot be wrong: one clear error that names the flag and the value.
//!
//! | looking for | in |
//! |---|---|
//! | which settings there are, and their defaults | here |
//! | which files are read and what wins | `files` |
//! | what a value may be: of the node, of pods, of images | `node`, `pods`, `images` |
//! | what only a KubeletConfiguration says | `kubelet` |
//! | flags, their help | `args` |
//! | a list, a path, a duration in any setting | `words` |

mod error;
mod files;
mod images;
pub mod kubelet;
mod node;
mod pods;
mod service_maps;
mod service_rules;
mod subids;
mod words;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::Uri;
use orlop_cni::Overlay;
use orlop_dataplane::sizes::Sizes;
use orlop_model::{
    ids::NodeName,
    net::{IpNet, PerFamily},
};
use orlop_runtime::{
    ids::IdRange,
    image::{Registries, Thresholds, Verification},
    log::Limits as LogLimits,
    rlimits::Rlimit,
};

pub use self::{
    error::ConfigError, images::read_registries, node::look_for_addresses, service_rules::ServiceRules,
};
use self::{
    error::value,
    images::{providers, thresholds},
    kubelet::{
        Kubelet,
        eviction::{Threshold, hard_thresholds},
    },
    node::{
        cni, first_share, networks, parse_addresses, parse_cgroup, parse_labels, parse_master, parse_mtu,
        parse_node_name, service_networks, shim_beside_us, wanted_addresses,
    },
    pods::{log_limits, reserved},
    words::{absolute, one_of, parse, period, words},
};
use crate::{
    args::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Flags},
    dns::upstreams,
    images::{collect, rate::Rate},
    node::address::{Wanted, choose},
    pod::settings::ResourcePolicy,
};

/// The store's libraries tell how they work at `info`; operators want to know what changed.
const DEFAULT_LOG: &str = "info,fjall=warn,lsm_tree=warn";

/// What every long-running mode needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// What survives a reboot.
    pub state_dir: PathBuf,
    /// What does not.
    pub run_dir: PathBuf,
    /// Container logs.
    pub log_dir: PathBuf,
    /// Control plane to join.
    pub kubeconfig: Option<PathBuf>,
    /// Where its API server is, if not where the kubeconfig says.
    pub master: Option<Uri>,
    /// Hard thresholds of eviction, where a flag gives them.
    pub eviction_hard: Option<Vec<Threshold>>,
    /// Directory of static pods.
    pub static_pod_path: Option<PathBuf>,
    /// Addresses of this node's pods, where nobody else says them; else the first node's part of the cluster's.
    pub pod_cidrs: Vec<IpNet>,
    /// This node.
    pub node_name: NodeName,
    /// Its addresses, at most one of a family, the main one first; none where it has none yet.
    pub node_ips: Vec<IpAddr>,
    /// What these have to be, where the operator does not say which they are.
    pub node_ips_wanted: Option<Wanted>,
    /// Its labels besides those every node has.
    pub node_labels: BTreeMap<String, String>,
    /// Most pods here.
    pub max_pods: u32,
    /// Ids of the host for pods with a user namespace of their own.
    pub user_namespace_ids: IdRange,
    /// Resource limits of containers.
    pub rlimits: Vec<Rlimit>,
    /// What operators want of pods' resources.
    pub resources: ResourcePolicy,
    /// Port of the kubelet API.
    pub kubelet_port: u16,
    /// Port of `/healthz` without TLS, on the loopback address; 0 is none.
    pub healthz_port: u16,
    /// Cgroup subtree, relative to every hierarchy's mount point.
    pub cgroup_root: String,
    /// Whether another program serves Services here.
    pub disable_kube_proxy: bool,
    /// Where eBPF maps and links are pinned.
    pub bpffs: PathBuf,
    /// What holds for every Service.
    pub service_rules: ServiceRules,
    /// How much fits into these maps.
    pub service_maps: Sizes,
    /// The shim.
    pub shim: PathBuf,
    /// Where CRI is served.
    pub cri_socket: Option<PathBuf>,
    /// Where device plugins and monitoring agents have their sockets.
    pub kubelet_dir: PathBuf,
    /// Other people's plugins for the pod network.
    pub cni: Option<CniDirs>,
    /// How pods of other nodes are reached.
    pub overlay: Overlay,
    /// MTU of pod interfaces, bytes; discovered if it is not said.
    pub mtu: Option<u32>,
    /// Addresses of all pods, one network of a family.
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefix lengths of a node's part.
    pub node_cidr_masks: PerFamily,
    /// Cluster IPs, one network of a family, the main one first.
    pub service_cidrs: Vec<IpNet>,
    /// API server's address and port.
    pub listen: SocketAddr,
    /// Further names in its certificate.
    pub tls_san: Vec<String>,
    /// Controllers to run, in upstream's `*,-name` form.
    pub controllers: Vec<String>,
    /// Registries without TLS.
    pub plain_http_registries: Vec<String>,
    /// Mirrors and the like, by registry.
    pub registries: Registries,
    /// Docker configuration with the node's own credentials.
    pub docker_config: PathBuf,
    /// Configuration and directory of credential-provider plugins.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
    /// Whether pods must show credentials for images that are here.
    pub verification: Verification,
    /// Images pulled at once.
    pub max_parallel_image_pulls: usize,
    /// How many pulls may begin in which time.
    pub pull_rate: Option<Rate>,
    /// Archives that are imported.
    pub image_dir: PathBuf,
    /// When images are removed.
    pub image_gc: Thresholds,
    /// How often it is looked whether any have to be.
    pub image_gc_period: Duration,
    /// When a container's log is put aside.
    pub container_logs: LogLimits,
    /// DNS servers of the cluster.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Our own DNS server.
    pub dns: DnsConfig,
    /// Whether what kube-proxy left is removed.
    pub cleanup_kube_proxy: bool,
    /// What to log.
    pub log: String,
    /// What only the kubelet's own configuration says.
    pub kubelet: Kubelet,
    /// Fields of it that change nothing, for the log.
    pub warnings: Vec<String>,
    /// What flags, environment and files say, by the names of flags.
    pub said: BTreeMap<String, String>,
}

/// Where CNI plugins are and what says which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniDirs {
    /// The networks' configurations.
    pub conf_dir: PathBuf,
    /// The programs.
    pub bin_dirs: Vec<PathBuf>,
}

/// What operators want of our DNS server.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Port on the node's address; 0 is no server.
    pub port: u16,
    /// Who is asked for names outside the cluster; none given: whom the node's resolv.conf names.
    pub upstreams: Vec<SocketAddr>,
    /// Seconds that answers about the cluster may be kept.
    pub ttl: u32,
    /// Whether this node answers its own questions, in a cluster that has a DNS server.
    pub node_local: bool,
}

impl Config {
    /// The node's main address.
    #[must_use]
    pub fn node_ip(&self) -> IpAddr {
        self.node_ips.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Where to listen on all addresses: of both families if the node has an IPv6 address.
    #[must_use]
    pub fn every_address(&self) -> IpAddr {
        match self.node_ips.iter().any(IpAddr::is_ipv6) {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

impl TryFrom<Flags> for Config {
    type Error = ConfigError;

    fn try_from(flags: Flags) -> Result<Self, ConfigError> {
        let said = flags.said();
        let Flags {
            state_dir,
            run_dir,
            log_dir,
            kubeconfig,
            master,
            static_pod_path,
            pod_cidr,
            node_name,
            node_ip,
            node_labels,
            max_pods,
            user_namespace_ids,
            system_reserved,
            kube_reserved,
            enforce_node_allocatable,
            eviction_hard,
            pod_max_pids,
            memory_swap_behavior,
            single_process_oom_kill,
            memory_qos,
            default_ulimits,
            kubelet_port,
            healthz_port,
            cgroup_root,
            bpffs,
            nodeport_addresses,
            localhost_nodeports,
            masquerade_all,
            load_balancing_mode,
            disable_kube_proxy,
            socket_services,
            skip_devices,
            xdp_devices,
            max_services,
            max_endpoints,
            max_connections,
            shim,
            cri_socket,
            kubelet_dir,
            overlay,
            cni_conf_dir,
            cni_bin_dir,
            mtu,
            cluster_cidr,
            node_cidr_mask,
            node_cidr_mask_ipv6,
            service_cidr,
            listen,
            tls_san,
            controllers,
            plain_http_registries,
            registries,
            docker_config,
            image_credential_provider_config,
            image_credential_provider_bin_dir,
            image_pull_credentials_verification_policy,
            preloaded_images_verification_allowlist,
            max_parallel_image_pulls,
            registry_qps,
            registry_burst,
            image_dir,
            image_gc_period,
            image_gc_high_threshold_percent,
            image_gc_low_threshold_percent,
            image_minimum_gc_age,
            image_maximum_gc_age,
            container_log_max_size,
            container_log_max_files,
            cluster_dns,
            cluster_domain,
            dns_port,
            dns_upstreams,
            dns_ttl,
            node_local_dns,
            cleanup_kube_proxy,
            log,
        } = flags;
        let state_dir = absolute("state-dir", state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()))?;
        let run_dir = absolute("run-dir", run_dir.unwrap_or_else(|| DEFAULT_RUN_DIR.into()))?;
        let cluster_cidrs =
            networks("cluster-cidr", &cluster_cidr.unwrap_or_else(|| "10.42.0.0/16".to_owned()))?;
        let service_cidrs = service_networks(service_cidr, &cluster_cidrs)?;
        let (disable_kube_proxy, node_local) =
            (disable_kube_proxy.unwrap_or(false), node_local_dns.unwrap_or(false));
        if disable_kube_proxy && node_local {
            let reason = "needs the service dataplane, which --disable-kube-proxy leaves out";
            return Err(value("node-local-dns", node_local, reason));
        }
        let max_pods = max_pods.unwrap_or(110);
        let node_cidr_masks =
            PerFamily { v4: node_cidr_mask.unwrap_or(24), v6: node_cidr_mask_ipv6.unwrap_or(64) };
        let shares = cluster_cidrs.iter().map(|cluster| first_share(cluster, node_cidr_masks));
        let shares = shares.collect::<Result<Vec<_>, _>>()?;
        let pod_cidrs = pod_cidr.map_or(Ok(shares), |text| networks("pod-cidr", &text))?;
        let (node_ips, node_ips_wanted) = match node_ip {
            Some(text) => (parse_addresses(&text)?, None),
            None => {
                let wanted = wanted_addresses(&cluster_cidrs);
                (choose(&look_for_addresses(), wanted), Some(wanted))
            }
        };
        let everywhere = if node_ips.iter().any(IpAddr::is_ipv6) { "[::]:6443" } else { "0.0.0.0:6443" };
        Ok(Self {
            log_dir: absolute("log-dir", log_dir.unwrap_or_else(|| state_dir.join("log/pods")))?,
            bpffs: absolute("bpffs", bpffs.unwrap_or_else(|| run_dir.join("bpf")))?,
            service_rules: service_rules::parse(
                nodeport_addresses,
                localhost_nodeports,
                masquerade_all,
                load_balancing_mode,
                socket_services,
                skip_devices,
                xdp_devices,
            )?,
            service_maps: service_maps::parse(max_services, max_endpoints, max_connections)?,
            shim: shim.map_or_else(shim_beside_us, Ok)?,
            cri_socket: cri_socket.map(|path| absolute("cri-socket", path)).transpose()?,
            kubelet_dir: absolute("kubelet-dir", kubelet_dir.unwrap_or_else(|| state_dir.clone()))?,
            node_name: parse_node_name(node_name)?,
            node_ips,
            node_ips_wanted,
            node_labels: parse_labels(&node_labels.unwrap_or_default())?,
            max_pods,
            user_namespace_ids: pods::user_namespace_ids(user_namespace_ids, max_pods)?,
            resources: ResourcePolicy {
                reserved: reserved("system-reserved", system_reserved)?
                    .plus(reserved("kube-reserved", kube_reserved)?),
                enforce: one_of(
                    "enforce-node-allocatable",
                    enforce_node_allocatable,
                    &[("pods", true), ("none", false)],
                )?,
                pod_pids_limit: pod_max_pids.filter(|limit| *limit > 0),
                limited_swap: one_of(
                    "memory-swap-behavior",
                    memory_swap_behavior,
                    &[("NoSwap", false), ("LimitedSwap", true)],
                )?,
                single_process_oom_kill: single_process_oom_kill.unwrap_or(false),
                memory_qos: memory_qos.unwrap_or(false),
                ..ResourcePolicy::default()
            },
            rlimits: words(default_ulimits)
                .into_iter()
                .map(|text| parse("default-ulimits", text))
                .collect::<Result<_, _>>()?,
            kubelet_port: kubelet_port.unwrap_or(10250),
            healthz_port: healthz_port.unwrap_or(10248),
            cgroup_root: parse_cgroup(cgroup_root.unwrap_or_else(|| "orlop".to_owned()))?,
            disable_kube_proxy,
            overlay: one_of(
                "overlay",
                overlay,
                &[("auto", Overlay::Auto), ("host-gw", Overlay::HostGateway), ("vxlan", Overlay::Vxlan)],
            )?,
            cni: cni(cni_conf_dir, cni_bin_dir)?,
            mtu: mtu.map(parse_mtu).transpose()?,
            listen: parse("listen", listen.unwrap_or_else(|| everywhere.to_owned()))?,
            tls_san: words(tls_san),
            controllers: words(Some(controllers.unwrap_or_else(|| "*".to_owned()))),
            plain_http_registries: words(plain_http_registries),
            registries: registries.as_deref().map(read_registries).transpose()?.unwrap_or_default(),
            docker_config: docker_config.unwrap_or_else(|| state_dir.join("config.json")),
            credential_providers: providers(
                image_credential_provider_config,
                image_credential_provider_bin_dir,
            )?,
            verification: Verification {
                policy: image_pull_credentials_verification_policy
                    .map(|text| parse("image-pull-credentials-verification-policy", text))
                    .transpose()?
                    .unwrap_or_default(),
                allowlist: words(preloaded_images_verification_allowlist),
            },
            max_parallel_image_pulls: max_parallel_image_pulls.unwrap_or(4).max(1),
            pull_rate: Rate::new(registry_qps.unwrap_or(5), registry_burst.unwrap_or(10)),
            image_dir: absolute("image-dir", image_dir.unwrap_or_else(|| state_dir.join("images.d")))?,
            image_gc_period: period("image-gc-period", image_gc_period, collect::PERIOD)?,
            image_gc: thresholds(
                image_gc_high_threshold_percent,
                image_gc_low_threshold_percent,
                image_minimum_gc_age,
                image_maximum_gc_age,
            )?,
            container_logs: log_limits(container_log_max_size, container_log_max_files)?,
            cluster_dns: words(cluster_dns)
                .into_iter()
                .map(|text| parse("cluster-dns", text))
                .collect::<Result<_, _>>()?,
            cluster_domain: cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
            dns: DnsConfig {
                port: dns_port.unwrap_or(10053),
                upstreams: words(dns_upstreams)
                    .iter()
                    .map(|text| upstreams::parse(text).map_err(|why| value("dns-upstreams", text, why)))
                    .collect::<Result<_, _>>()?,
                ttl: dns_ttl.unwrap_or(30),
                node_local,
            },
            cleanup_kube_proxy: cleanup_kube_proxy.unwrap_or(false),
            log: log.unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            kubelet: Kubelet::default(),
            warnings: Vec::new(),
            said,
            state_dir,
            run_dir,
            kubeconfig,
            master: master.map(parse_master).transpose()?,
            eviction_hard: eviction_hard
                .map(|text| hard_thresholds(&text).map_err(|reason| value("eviction-hard", text, reason)))
                .transpose()?,
            static_pod_path: static_pod_path.map(|dir| absolute("static-pod-path", dir)).transpose()?,
            pod_cidrs,
            cluster_cidrs,
            node_cidr_masks,
            service_cidrs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of flags that a file gives.
    pub(super) fn check(yaml: &str, expected: expect_test::Expect) {
        let flags: Result<Flags, _> = serde_norway::from_str(yaml);
        let shown = match flags.map_err(|error| error.to_string()).map(Config::try_from) {
            Ok(Ok(config)) => format!(
                "{} {} {} {} {}",
                config.node_name,
                config.node_ip(),
                config.cgroup_root,
                config.cluster_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                config.listen
            ),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error,
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.1, shim: /bin/true}",
            expect_test::expect!["n1 10.0.0.1 orlop 10.42.0.0/16 0.0.0.0:6443"],
        );
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.300, shim: /s}",
            expect_test::expect![[r#"--node-ip "10.0.0.300": invalid IP address syntax"#]],
        );
    }

    #[test]
    fn pods_and_services_have_addresses_of_their_own() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, serviceCidr: 10.42.128.0/24}",
            expect_test::expect![[
                r#"--service-cidr "10.42.128.0/24": must not overlap the addresses of pods, 10.42.0.0/16"#
            ]],
        );
        let services = |more: &str| {
            let flags = format!("{{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, {more}}}");
            let config = Config::try_from(serde_norway::from_str::<Flags>(&flags).unwrap());
            let shown = config.map(|config| config.service_cidrs.iter().map(ToString::to_string).collect());
            shown.map_or_else(|error| error.to_string(), |nets: Vec<_>| nets.join(","))
        };
        assert_eq!(services(""), "10.43.0.0/16");
        assert_eq!(services("clusterCidr: 'fd00:42::/56,10.42.0.0/16'"), "fd00:43::/112,10.43.0.0/16");
        assert_eq!(services("serviceCidr: 'fd00:9::/112,10.9.0.0/16'"), "fd00:9::/112,10.9.0.0/16");
        expect_test::expect![[
            r#"--service-cidr "fd00:9::/56": must have at least 64 bits of IPv6, as no more addresses are ever given out"#
        ]]
        .assert_eq(&services("serviceCidr: 'fd00:9::/56'"));
    }
}
