//! The rules kube-proxy would write for cluster IPs, in its nftables and iptables modes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};

use orlop_dataplane::tables::{Host, Vip};

use crate::room::sh;

pub(crate) struct Service {
    pub(crate) vip: Vip,
    pub(crate) backends: Vec<SocketAddrV4>,
}

impl Service {
    pub(crate) fn ip(&self) -> Ipv4Addr {
        match self.vip.host {
            Host::Ip(IpAddr::V4(ip)) => ip,
            other => panic!("no service of this bench: {other:?}"),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Rules {
    Nftables,
    Iptables,
}

impl Rules {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    pub(crate) fn load(self, services: &[Service]) {
        match self {
            Self::Nftables => feed("nft", &["-f", "-"], &nftables(services)),
            Self::Iptables => feed("iptables-restore", &["--noflush"], &iptables(services)),
        }
    }

    pub(crate) fn clear(self) {
        match self {
            Self::Nftables => sh("nft delete table ip kube-proxy"),
            Self::Iptables => sh("iptables -t nat -F && iptables -t nat -X"),
        }
    }
}

/// One chain per service and endpoint, found through one verdict map.
fn nftables(services: &[Service]) -> String {
    let mut chains = String::new();
    let mut elements = String::new();
    for (n, service) in services.iter().enumerate() {
        let Service { vip: Vip { port, .. }, backends } = service;
        let ip = service.ip();
        writeln!(elements, "{ip} . tcp . {port} : goto service-{n},").unwrap();
        let mut choices = String::new();
        for (m, at) in backends.iter().enumerate() {
            writeln!(
                chains,
                "chain endpoint-{n}-{m} {{ ip saddr {} jump mark-for-masquerade; meta l4proto tcp dnat to {at}; }}",
                at.ip()
            )
            .unwrap();
            write!(choices, "{m} : goto endpoint-{n}-{m},").unwrap();
        }
        writeln!(
            chains,
            "chain service-{n} {{ ip daddr {ip} tcp dport {port} ip saddr != 10.42.0.0/16 jump mark-for-masquerade; \
             numgen random mod {} vmap {{ {choices} }}; }}",
            backends.len()
        )
        .unwrap();
    }
    format!(
        "table ip kube-proxy {{
        chain mark-for-masquerade {{ mark set mark or 0x4000; }}
        {chains}
        map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {elements} }} }}
        chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
        chain nat-output {{ type nat hook output priority -100; jump services; }}
        chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
        chain nat-postrouting {{ type nat hook postrouting priority 100; mark & 0x4000 == 0x4000 masquerade; }}
        }}\n"
    )
}

/// One list of services, walked from the top, and chains per service and endpoint.
fn iptables(services: &[Service]) -> String {
    let (mut chains, mut list, mut rest) = (String::new(), String::new(), String::new());
    for (n, service) in services.iter().enumerate() {
        let Service { vip: Vip { port, .. }, backends } = service;
        let ip = service.ip();
        let matching = format!("-d {ip}/32 -p tcp -m tcp --dport {port}");
        writeln!(chains, ":KUBE-SVC-{n} - [0:0]").unwrap();
        writeln!(list, "-A KUBE-SERVICES {matching} -m comment --comment \"ns/service-{n}\" -j KUBE-SVC-{n}")
            .unwrap();
        writeln!(rest, "-A KUBE-SVC-{n} ! -s 10.42.0.0/16 {matching} -j KUBE-MARK-MASQ").unwrap();
        for (m, at) in backends.iter().enumerate() {
            let left = backends.len() - m;
            let chance = if left == 1 {
                String::new()
            } else {
                format!("-m statistic --mode random --probability 0.{:05} ", 100_000 / left)
            };
            writeln!(chains, ":KUBE-SEP-{n}-{m} - [0:0]").unwrap();
            writeln!(rest, "-A KUBE-SVC-{n} {chance}-j KUBE-SEP-{n}-{m}").unwrap();
            writeln!(rest, "-A KUBE-SEP-{n}-{m} -s {}/32 -j KUBE-MARK-MASQ", at.ip()).unwrap();
            writeln!(rest, "-A KUBE-SEP-{n}-{m} -p tcp -m tcp -j DNAT --to-destination {at}").unwrap();
        }
    }
    format!(
        "*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-SERVICES - [0:0]\n{chains}\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n{list}{rest}\
         -A OUTPUT -j KUBE-SERVICES\n-A PREROUTING -j KUBE-SERVICES\n\
         -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\nCOMMIT\n"
    )
}

fn feed(program: &str, arguments: &[&str], input: &str) {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{program} refused the rules");
}
