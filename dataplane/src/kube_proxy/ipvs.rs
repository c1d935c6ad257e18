//! What of IPVS is kube-proxy's, from what `ipvsadm`, `ipset` and `ip` print, and the commands that remove it.
//!
//! IPVS keeps connections itself, and drops their packets when their virtual service is gone: one that has connections stays
//! for now. Device and sets go when no virtual service is left.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// The device that holds the addresses of services.
pub const DEVICE: &str = "kube-ipvs0";

/// Sets of kube-proxy's; those of IPv6 have a 6 after the first dash.
const SETS: [&str; 17] = [
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-CIDR",
    "LOAD-BALANCER-SOURCE-IP",
    "LOOP-BACK",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-TCP",
    "NODE-PORT-UDP",
];

/// What the tools print.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// `ip -o address show dev kube-ipvs0`.
    pub addresses: &'a str,
    /// `ipset save`.
    pub sets: &'a str,
    /// `ipvsadm -L -n`.
    pub services: &'a str,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// Commands, in this order.
    pub commands: Vec<Vec<String>>,
    /// Virtual services that have connections, and stay until those have ended.
    pub waiting: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Virtual {
    flag: &'static str,
    at: SocketAddr,
    active: u64,
}

/// From what there is to what is to be done.
#[must_use]
pub fn plan(seen: &Seen<'_>) -> Plan {
    let addresses: BTreeSet<IpAddr> = words_after(seen.addresses, &["inet", "inet6"]).collect();
    let node_ports: BTreeSet<u16> = seen.sets.lines().filter_map(node_port).collect();
    let is_own =
        |service: &Virtual| addresses.contains(&service.at.ip()) || node_ports.contains(&service.at.port());
    let (idle, busy): (Vec<_>, Vec<_>) =
        services(seen.services).into_iter().filter(is_own).partition(|service| service.active == 0);
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut commands: Vec<_> = idle
        .iter()
        .map(|service| command(&["ipvsadm", "-D", service.flag, &service.at.to_string()]))
        .collect();
    if busy.is_empty() {
        commands.push(command(&["ip", "link", "delete", DEVICE]));
        let sets = seen.sets.lines().filter_map(|line| line.strip_prefix("create ")?.split(' ').next());
        commands.extend(sets.filter(|name| is_set(name)).map(|name| command(&["ipset", "destroy", name])));
    }
    Plan { commands, waiting: busy.into_iter().map(|service| service.at).collect() }
}

fn is_set(name: &str) -> bool {
    let rest = name.strip_prefix("KUBE-6-").or_else(|| name.strip_prefix("KUBE-"));
    rest.is_some_and(|rest| SETS.contains(&rest))
}

fn words_after<'a>(text: &'a str, marks: &'a [&str]) -> impl Iterator<Item = IpAddr> + 'a {
    text.lines().filter_map(move |line| {
        let mut words = line.split_whitespace().skip_while(|word| !marks.contains(word)).skip(1);
        words.next()?.split('/').next()?.parse().ok()
    })
}

/// `add KUBE-NODE-PORT-TCP 30080`, `add KUBE-NODE-PORT-SCTP-HASH 192.0.2.1,sctp:30080`.
fn node_port(line: &str) -> Option<u16> {
    let (set, member) = line.strip_prefix("add ")?.split_once(' ')?;
    let name = set.strip_prefix("KUBE-6-").or_else(|| set.strip_prefix("KUBE-"))?;
    (is_set(set) && name.starts_with("NODE-PORT")).then_some(())?;
    member.rsplit(':').next()?.parse().ok()
}

/// Lines `TCP  10.96.0.1:443 rr`, each with lines `-> 10.42.0.5:8080 Masq 1 ACTIVE INACTIVE`.
fn services(text: &str) -> Vec<Virtual> {
    let mut services: Vec<Virtual> = Vec::new();
    let mut known = false;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let flag = match words.first() {
            Some(&"TCP") => "-t",
            Some(&"UDP") => "-u",
            Some(&"SCTP") => "--sctp-service",
            Some(&"->") => {
                let active = words.get(4).and_then(|word| word.parse::<u64>().ok());
                if let Some(service) = services.last_mut().filter(|_| known) {
                    // What cannot be read may be in use.
                    service.active = service.active.saturating_add(active.unwrap_or(1));
                }
                continue;
            }
            _ => continue,
        };
        let at = words.get(1).and_then(|word| word.parse().ok());
        known = at.is_some();
        services.extend(at.map(|at| Virtual { flag, at, active: 0 }));
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: &str =
        "7: kube-ipvs0    inet 10.96.0.10/32 scope global kube-ipvs0\\       valid_lft forever
7: kube-ipvs0    inet6 fd00::a/128 scope global \\       valid_lft forever\n";
    const SETS: &str = "create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024
add KUBE-CLUSTER-IP 10.96.0.10,tcp:80
create KUBE-6-LOOP-BACK hash:ip,port,ip family inet6
create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
add KUBE-NODE-PORT-TCP 30080
create MINE hash:ip family inet
create KUBE-MINE hash:ip family inet
add MINE 10.0.0.1\n";

    fn check(active: &str) -> Plan {
        let services = format!(
            "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.10:80 rr
  -> 10.42.0.5:8080               Masq    1      {active}          0
  -> 10.42.0.6:8080               Masq    1      0          4
UDP  [fd00::a]:53 rr
TCP  192.0.2.10:30080 rr persistent 10800
TCP  192.0.2.99:443 wlc
FWM  7 rr
  -> 10.42.0.5:8080               Masq    1      9          0\n"
        );
        plan(&Seen { addresses: ADDRESSES, sets: SETS, services: &services })
    }

    fn commands(plan: &Plan) -> Vec<String> {
        plan.commands.iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn all_that_is_its_own_goes_in_order() {
        let plan = check("0");
        assert_eq!(
            commands(&plan),
            [
                "ipvsadm -D -t 10.96.0.10:80",
                "ipvsadm -D -u [fd00::a]:53",
                "ipvsadm -D -t 192.0.2.10:30080",
                "ip link delete kube-ipvs0",
                "ipset destroy KUBE-CLUSTER-IP",
                "ipset destroy KUBE-6-LOOP-BACK",
                "ipset destroy KUBE-NODE-PORT-TCP",
            ]
        );
        assert!(plan.waiting.is_empty());
    }

    #[test]
    fn connections_under_way_are_waited_for() {
        for active in ["3", "many"] {
            let plan = check(active);
            assert_eq!(commands(&plan), ["ipvsadm -D -u [fd00::a]:53", "ipvsadm -D -t 192.0.2.10:30080"]);
            assert_eq!(plan.waiting, ["10.96.0.10:80".parse().unwrap()]);
        }
    }

    #[test]
    fn odd_text_is_nobodys() {
        let odd = Seen {
            addresses: "inet\ninet x/y",
            sets: "add\nadd X\ncreate",
            services: "TCP\n->\nTCP x\n-> y z",
        };
        assert_eq!(commands(&plan(&odd)), ["ip link delete kube-ipvs0"]);
    }
}
