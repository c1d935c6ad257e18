//! The rules kube-proxy would write, in its nftables and iptables modes: text that `nft -f` and `iptables-restore` take. Pure.
//!
//! Of its tables, what packets of these services pass: no source ranges, no services without endpoints, no affinity.

use std::fmt::Write as _;

use crate::services::{NODE, PODS, Service};

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    Iptables,
}

impl Mode {
    /// The rules for these services, all of them.
    pub(crate) fn text(self, services: &[Service]) -> String {
        let mut text = String::new();
        let written = match self {
            Self::Nftables => nftables(&mut text, services),
            Self::Iptables => iptables(&mut text, services),
        };
        written.map(|()| text).unwrap()
    }
}

/// One chain per service and endpoint, found through verdict maps.
fn nftables(text: &mut String, services: &[Service]) -> std::fmt::Result {
    text.push_str(
        "table ip kube-proxy {
         chain mark-for-masquerade { mark set mark or 0x4000; }
         chain masquerading { mark and 0x4000 == 0 return; mark set mark xor 0x4000; masquerade fully-random; }\n",
    );
    let (mut ips, mut ports, mut known) = (String::new(), String::new(), String::new());
    for service in services {
        let Service { name, at, endpoints, .. } = service;
        let (ip, port, protocol) = (at.ip(), at.port(), service.protocol());
        let chosen = |m: usize| format!("endpoint-{name}-{m}");
        let mut choices = String::new();
        for (m, to) in endpoints.iter().enumerate() {
            writeln!(
                text,
                "chain {} {{ ip saddr {} jump mark-for-masquerade; meta l4proto {protocol} dnat to {to}; }}",
                chosen(m),
                to.ip()
            )?;
            write!(choices, "{m} : goto {}, ", chosen(m))?;
        }
        let choose = match endpoints.len() {
            // kube-proxy asks for chance here, too. The kernel takes a minute for 30,000 maps of one element, and what is not
            // dialled may look as it likes.
            1 => format!("goto {}", chosen(0)),
            count => format!("numgen random mod {count} vmap {{ {choices} }}"),
        };
        writeln!(
            text,
            "chain service-{name} {{ ip daddr {ip} {protocol} dport {port} ip saddr != {PODS} jump mark-for-masquerade; \
             {choose}; }}",
        )?;
        writeln!(ips, "{ip} . {protocol} . {port} : goto service-{name},")?;
        writeln!(known, "{ip},")?;
        if let Some(node_port) = service.node_port {
            writeln!(text, "chain external-{name} {{ jump mark-for-masquerade; goto service-{name}; }}")?;
            writeln!(ports, "{protocol} . {node_port} : goto external-{name},")?;
        }
    }
    write!(
        text,
        "set cluster-ips {{ type ipv4_addr; elements = {{ {known} }} }}
         set nodeport-ips {{ type ipv4_addr; elements = {{ {NODE} }} }}
         map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
         map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
         map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {ips} }} }}
         map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {ports} }} }}
         chain services {{
          ip daddr . meta l4proto . th dport vmap @service-ips;
          ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports;
         }}
         chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
         chain nodeport-endpoints-check {{ ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
         chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
         chain cluster-ips-check {{ ip daddr @cluster-ips reject; }}
         chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
         chain filter-input {{ type filter hook input priority -110;
          ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }}
         chain filter-forward {{ type filter hook forward priority -110;
          ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }}
         chain filter-output {{ type filter hook output priority -110;
          ct state new jump service-endpoints-check; ct state new jump firewall-check; }}
         chain filter-output-post-dnat {{ type filter hook output priority -90; ct state new jump cluster-ips-check; }}
         chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
         chain nat-output {{ type nat hook output priority -100; jump services; }}
         chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
         }}\n"
    )
}

/// One list of services, walked from the top, and chains per service and endpoint.
fn iptables(text: &mut String, services: &[Service]) -> std::fmt::Result {
    let (mut chains, mut list, mut ports, mut rest) =
        (String::new(), String::new(), String::new(), String::new());
    for service in services {
        let Service { name, at, endpoints, .. } = service;
        let (ip, protocol) = (at.ip(), service.protocol());
        let matching = format!("-d {ip}/32 -p {protocol} -m {protocol} --dport {}", at.port());
        let comment = format!("-m comment --comment \"default/{name}:p\"");
        let chosen = |m: usize| format!("KUBE-SEP-{name}-{m}");
        writeln!(chains, ":KUBE-SVC-{name} - [0:0]")?;
        writeln!(list, "-A KUBE-SERVICES {matching} {comment} -j KUBE-SVC-{name}")?;
        writeln!(rest, "-A KUBE-SVC-{name} ! -s {PODS} {matching} {comment} -j KUBE-MARK-MASQ")?;
        if let Some(node_port) = service.node_port {
            writeln!(chains, ":KUBE-EXT-{name} - [0:0]")?;
            writeln!(
                ports,
                "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} {comment} -j KUBE-EXT-{name}"
            )?;
            writeln!(rest, "-A KUBE-EXT-{name} {comment} -j KUBE-MARK-MASQ")?;
            writeln!(rest, "-A KUBE-EXT-{name} -j KUBE-SVC-{name}")?;
        }
        for (m, to) in endpoints.iter().enumerate() {
            let left = endpoints.len() - m;
            let chance = match left {
                1 => String::new(),
                _ => format!("-m statistic --mode random --probability 0.{:05} ", 100_000 / left),
            };
            writeln!(chains, ":{} - [0:0]", chosen(m))?;
            writeln!(rest, "-A KUBE-SVC-{name} {comment} {chance}-j {}", chosen(m))?;
            writeln!(rest, "-A {} -s {}/32 {comment} -j KUBE-MARK-MASQ", chosen(m), to.ip())?;
            writeln!(
                rest,
                "-A {} -p {protocol} -m {protocol} {comment} -j DNAT --to-destination {to}",
                chosen(m)
            )?;
        }
    }
    write!(
        text,
        "*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
{list}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
{ports}{rest}COMMIT
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::cluster;

    fn check(mode: Mode, lines: &[&str]) {
        let text = mode.text(&cluster(10, 1));
        for line in lines {
            assert!(text.lines().any(|written| written.trim() == *line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn nftables_finds_services_and_node_ports_in_maps() {
        check(
            Mode::Nftables,
            &[
                "chain endpoint-service-0-0 { ip saddr 10.128.0.1 jump mark-for-masquerade; meta l4proto tcp dnat to 10.128.0.1:8080; }",
                "chain external-dialled-2 { jump mark-for-masquerade; goto service-dialled-2; }",
                "ip daddr . meta l4proto . th dport vmap @service-ips;",
                "10.96.0.6 . udp . 80 : goto service-dialled-5,",
                "udp . 30083 : goto external-dialled-5,",
            ],
        );
    }

    #[test]
    fn iptables_walks_services_and_then_node_ports() {
        check(
            Mode::Iptables,
            &[
                "-A KUBE-SERVICES -d 10.96.0.3/32 -p tcp -m tcp --dport 80 -m comment --comment \"default/dialled-2:p\" -j KUBE-SVC-dialled-2",
                "-A KUBE-SVC-dialled-2 -m comment --comment \"default/dialled-2:p\" -m statistic --mode random --probability 0.33333 -j KUBE-SEP-dialled-2-0",
                "-A KUBE-SVC-dialled-2 -m comment --comment \"default/dialled-2:p\" -j KUBE-SEP-dialled-2-2",
                "-A KUBE-NODEPORTS -p udp -m udp --dport 30083 -m comment --comment \"default/dialled-5:p\" -j KUBE-EXT-dialled-5",
            ],
        );
        let text = Mode::Iptables.text(&cluster(10, 1));
        let last = text.lines().rfind(|line| line.starts_with("-A KUBE-SERVICES"));
        assert_eq!(last, Some("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"));
    }
}
