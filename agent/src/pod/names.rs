//! Host name, `/etc/hosts` and `/etc/resolv.conf` of a pod.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::settings::Settings;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// The host name inside the pod, and the full name if it has a subdomain.
pub fn hostname(settings: &Settings, pod: &Pod) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    let name = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let name = name.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let short: String = name.chars().take(63).collect();
    let short = short.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = spec
        .and_then(|spec| spec.subdomain.as_deref())
        .filter(|sub| !sub.is_empty())
        .map(|sub| format!("{short}.{sub}.{namespace}.svc.{}", settings.cluster_domain));
    (short, full)
}

/// The name the kernel is told: the full one with `setHostnameAsFQDN`.
pub fn kernel_hostname(settings: &Settings, pod: &Pod) -> Result<String, String> {
    let (short, full) = hostname(settings, pod);
    let wants_full = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or_default();
    match full.filter(|_| wants_full) {
        Some(full) if full.len() > 64 => Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is \
             the max, {} characters requested)",
            full.len()
        )),
        Some(full) => Ok(full),
        None => Ok(short),
    }
}

/// Content of `/etc/hosts`.
pub fn hosts(settings: &Settings, pod: &Pod, pod_ips: &[IpAddr]) -> String {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or_default();
    let mut text = if host_network {
        format!("# Kubernetes-managed hosts file (host network).\n{}", settings.node_hosts)
    } else {
        String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        )
    };
    if !host_network {
        let (short, full) = hostname(settings, pod);
        for ip in pod_ips {
            let line = match &full {
                Some(full) => format!("{ip}\t{full}\t{short}\n"),
                None => format!("{ip}\t{short}\n"),
            };
            text.push_str(&line);
        }
    }
    let aliases: Vec<_> = spec.into_iter().flat_map(|spec| spec.host_aliases.iter().flatten()).collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// Parts of a `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolv {
    /// Reads what the resolver reads; everything else is ignored.
    pub fn parse(text: &str) -> Resolv {
        let mut resolv = Resolv::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolv.servers.extend(words.next().map(Into::into)),
                Some("search") => resolv.searches = words.map(Into::into).collect(),
                Some("options") => resolv.options.extend(words.map(Into::into)),
                _ => {}
            }
        }
        resolv
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// Content of `/etc/resolv.conf` and warnings for users: reason and message.
pub fn resolv_conf(settings: &Settings, pod: &Pod) -> (String, Vec<(&'static str, String)>) {
    let mut warnings = Vec::new();
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or_default();
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let node = Resolv::parse(&settings.node_resolv);
    let mut resolv = match policy {
        "None" => Resolv::default(),
        _ if cluster && settings.cluster_dns.is_empty() => {
            let message = format!(
                "pod: \"{}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \
                 \"ClusterFirst\" policy. Falling back to \"Default\" policy.",
                super::words::full_name(pod)
            );
            warnings.push(("MissingClusterDNS", message));
            node
        }
        _ if cluster => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = &settings.cluster_domain;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(node.searches);
            let servers = settings.cluster_dns.iter().map(IpAddr::to_string).collect();
            Resolv { servers, searches, options: vec!["ndots:5".into()] }
        }
        _ => node,
    };
    if let Some(spec) = spec {
        merge(&mut resolv, spec);
    }
    limit(&mut resolv, &mut warnings);
    (resolv.text(), warnings)
}

fn merge(resolv: &mut Resolv, spec: &PodSpec) {
    let Some(config) = &spec.dns_config else { return };
    let append = |known: &mut Vec<String>, more: Option<&Vec<String>>| {
        for entry in more.into_iter().flatten() {
            if !known.contains(entry) {
                known.push(entry.clone());
            }
        }
    };
    append(&mut resolv.servers, config.nameservers.as_ref());
    append(&mut resolv.searches, config.searches.as_ref());
    for option in config.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        let text = match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        resolv.options.retain(|known| known.split(':').next() != Some(name));
        resolv.options.push(text);
    }
}

fn limit(resolv: &mut Resolv, warnings: &mut Vec<(&'static str, String)>) {
    let mut seen = std::collections::BTreeSet::new();
    resolv.searches.retain(|entry| seen.insert(entry.clone()));
    if resolv.servers.len() > MAX_SERVERS {
        resolv.servers.truncate(MAX_SERVERS);
        warnings.push((
            "DNSConfigForming",
            format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                resolv.servers.join(" ")
            ),
        ));
    }
    let before = resolv.searches.len();
    resolv.searches.truncate(MAX_SEARCHES);
    while resolv.searches.join(" ").len() > MAX_SEARCH_CHARS {
        resolv.searches.pop();
    }
    if resolv.searches.len() < before {
        warnings.push((
            "DNSConfigForming",
            format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                resolv.searches.join(" ")
            ),
        ));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(spec: &str, expect: Expect) {
        let mut pod: Pod = serde_norway::from_str("{metadata: {name: p, namespace: ns, uid: u}}").unwrap();
        pod.spec = Some(serde_norway::from_str(spec).unwrap());
        let settings = Settings::for_tests();
        let (mut text, warnings) = resolv_conf(&settings, &pod);
        for (reason, message) in warnings {
            text.push_str(&format!("! {reason}: {message}\n"));
        }
        text += &hosts(&settings, &pod, &[IpAddr::from([10, 0, 0, 2])]);
        expect.assert_eq(&text);
    }

    #[test]
    fn cluster_first() {
        check(
            "{containers: [], hostname: db, subdomain: cluster}",
            expect![[r#"
                search ns.svc.cluster.local svc.cluster.local cluster.local example.org
                nameserver 10.96.0.10
                options ndots:5
                # Kubernetes-managed hosts file.
                127.0.0.1	localhost
                ::1	localhost ip6-localhost ip6-loopback
                fe00::0	ip6-localnet
                fe00::0	ip6-mcastprefix
                fe00::1	ip6-allnodes
                fe00::2	ip6-allrouters
                10.0.0.2	db.cluster.ns.svc.cluster.local	db
            "#]],
        );
    }

    #[test]
    fn host_network_takes_the_nodes_files() {
        check(
            "{containers: [], hostNetwork: true, hostAliases: [{ip: 192.0.2.1, hostnames: [one, two]}]}",
            expect![[r#"
                search example.org
                nameserver 192.0.2.53
                # Kubernetes-managed hosts file (host network).
                127.0.0.1 localhost

                # Entries added by HostAliases.
                192.0.2.1	one	two
            "#]],
        );
    }

    #[test]
    fn config_is_appended_and_limited() {
        check(
            "{containers: [], hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet, dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3], searches: [a.example], options: [{name: ndots, value: \"3\"}, {name: rotate}]}}",
            expect![[r#"
                search ns.svc.cluster.local svc.cluster.local cluster.local example.org a.example
                nameserver 10.96.0.10
                nameserver 192.0.2.1
                nameserver 192.0.2.2
                options ndots:3 rotate
                ! DNSConfigForming: Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 10.96.0.10 192.0.2.1 192.0.2.2
                # Kubernetes-managed hosts file (host network).
                127.0.0.1 localhost
            "#]],
        );
    }
}
