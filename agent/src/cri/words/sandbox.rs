//! `[p]` What a client asks for as a pod, as the runtime's request.

use orlop_cri_api::v1::{
    DnsConfig, LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig, PodSandboxMetadata, PortMapping,
};
use orlop_runtime::{PodRef, Resources, SandboxSpec};

use super::{kept, users};
use crate::pod::{
    machine::{self, Wishes},
    network,
};

/// Longest host name the kernel takes.
const MAX_HOSTNAME: usize = 63;

/// What the pod wishes of its network.
///
/// # Errors
/// In upstream's words.
pub(in crate::cri) fn wishes(config: &PodSandboxConfig) -> Result<Wishes, String> {
    let port = |mapping: &PortMapping| {
        let protocol = mapping.protocol().as_str_name().to_ascii_lowercase();
        Some(machine::PortMapping {
            host_port: u16::try_from(mapping.host_port).ok().filter(|port| *port > 0)?,
            container_port: u16::try_from(mapping.container_port).ok()?,
            protocol,
            host_ip: mapping.host_ip.parse().ok(),
        })
    };
    let annotations = config.annotations.clone().into_iter().collect();
    let ports = config.port_mappings.iter().filter_map(port).collect();
    Ok(Wishes { ports, ..network::annotated(Some(&annotations))? })
}

/// Builds the request. The cgroup is a child of the one that the client names, which is the client's to make and remove.
///
/// # Errors
/// Something is asked for that cannot be done.
pub(in crate::cri) fn spec(
    id: &str,
    config: &PodSandboxConfig,
    cgroup_root: &str,
) -> Result<SandboxSpec, String> {
    let PodSandboxMetadata { name, namespace, uid, .. } =
        config.metadata.as_ref().ok_or("the pod has no metadata")?;
    if name.is_empty() || uid.is_empty() {
        return Err("the pod's metadata needs name and uid".to_owned());
    }
    let linux = config.linux.clone().unwrap_or_default();
    let LinuxPodSandboxConfig { cgroup_parent, security_context, sysctls, .. } = linux;
    let options = security_context.and_then(|context| context.namespace_options).unwrap_or_default();
    let ids = users::of_pod(config)?;
    let parent = cgroup_parent.trim_matches('/');
    let parent =
        if parent.is_empty() { format!("{cgroup_root}/kubepods") } else { check_cgroup(parent)?.to_owned() };
    Ok(SandboxSpec {
        pod: PodRef { namespace: namespace.clone(), name: name.clone(), uid: id.to_owned() },
        hostname: hostname(config, name),
        cgroup: format!("{parent}/{id}"),
        resources: Resources::default(),
        host_network: options.network() == NamespaceMode::Node,
        host_ipc: options.ipc() == NamespaceMode::Node,
        host_pid: options.pid() == NamespaceMode::Node,
        share_pid: options.pid() == NamespaceMode::Pod,
        user_namespace: ids.is_some(),
        ids,
        sysctls: sysctls.into_iter().collect(),
        labels: kept::keep_pod(config),
    })
}

/// systemd's names do not lead to a directory of the same name.
fn check_cgroup(parent: &str) -> Result<&str, String> {
    if parent.ends_with(".slice") {
        return Err(format!("cgroup parent {parent:?}: the cgroup driver is cgroupfs, not systemd"));
    }
    let good = |part: &str| !part.is_empty() && part != "." && part != "..";
    if parent.split('/').all(good) {
        Ok(parent)
    } else {
        Err(format!("cgroup parent {parent:?} leads elsewhere"))
    }
}

fn hostname(config: &PodSandboxConfig, name: &str) -> String {
    let wanted = if config.hostname.is_empty() { name } else { &config.hostname };
    let end =
        wanted.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_HOSTNAME).last();
    wanted[..end.unwrap_or(0)].trim_end_matches(['-', '.']).to_owned()
}

/// The pod's `/etc/resolv.conf`: the client's, or the machine's.
pub(in crate::cri) fn resolv_conf(dns: Option<&DnsConfig>, of_machine: &str) -> String {
    let Some(DnsConfig { servers, searches, options }) = dns else { return of_machine.to_owned() };
    if servers.is_empty() && searches.is_empty() && options.is_empty() {
        return of_machine.to_owned();
    }
    let mut text = String::new();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use orlop_cri_api::v1::{LinuxSandboxSecurityContext, NamespaceOption};

    use super::*;

    fn config(cgroup_parent: &str, options: NamespaceOption) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "web".into(),
                uid: "u".into(),
                namespace: "ns".into(),
                attempt: 0,
            }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: cgroup_parent.into(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn check(config: &PodSandboxConfig, expected: &str) {
        let text = match spec("cri-1", config, "orlop") {
            Ok(SandboxSpec { hostname, cgroup, host_network, host_ipc, host_pid, .. }) => {
                format!("{hostname} {cgroup} net {host_network} ipc {host_ipc} pid {host_pid}")
            }
            Err(error) => error,
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn namespaces_and_cgroups() {
        let node = i32::from(NamespaceMode::Node);
        let none = NamespaceOption::default();
        check(&config("", none.clone()), "web orlop/kubepods/cri-1 net false ipc false pid false");
        let host = NamespaceOption { network: node, ipc: node, pid: node, ..none.clone() };
        check(&config("/kubepods/podu", host), "web kubepods/podu/cri-1 net true ipc true pid true");
        let systemd = "cgroup parent \"kubepods-podu.slice\": the cgroup driver is cgroupfs, not systemd";
        check(&config("kubepods-podu.slice", none.clone()), systemd);
        check(&config("/a/../b", none), "cgroup parent \"a/../b\" leads elsewhere");
        check(&PodSandboxConfig::default(), "the pod has no metadata");
    }

    #[test]
    fn long_names_are_cut_where_the_kernel_would_refuse_them() {
        let long =
            PodSandboxConfig { hostname: format!("{}-x", "a".repeat(62)), ..PodSandboxConfig::default() };
        assert_eq!(hostname(&long, "p"), "a".repeat(62));
        assert_eq!(hostname(&PodSandboxConfig::default(), "p"), "p");
    }

    #[test]
    fn name_servers() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let dns = DnsConfig {
            servers: words(&["10.0.0.10"]),
            searches: words(&["a.b", "b"]),
            options: words(&["ndots:5"]),
        };
        assert_eq!(resolv_conf(Some(&dns), "x"), "search a.b b\nnameserver 10.0.0.10\noptions ndots:5\n");
        assert_eq!(resolv_conf(None, "x"), "x");
        assert_eq!(resolv_conf(Some(&DnsConfig::default()), "x"), "x");
    }
}
