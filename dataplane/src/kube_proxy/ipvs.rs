//! What of IPVS is kube-proxy's, from what `ipvsadm`, `ipset` and `ip` print, and the commands that remove it.
//!
//! IPVS keeps connections itself, and drops their packets when their virtual service is gone: one that has connections stays
//! for now, and with it the rules that masquerade them. Sets and device go when no virtual service is left.
//!
//! An address goes before its virtual services: while the node has it, what processes of the node send there comes to no device.

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

const UDP: &str = "-u";

/// States of connections that nobody sends on any more; `NONE` is what persistence remembers of a client.
const OVER: [&str; 5] = ["TIME_WAIT", "CLOSE", "CLOSED", "REJECTED", "NONE"];

/// What the tools print.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// `ip -o address show dev kube-ipvs0`.
    pub addresses: &'a str,
    /// `ipset save`.
    pub sets: &'a str,
    /// `ipvsadm -L -n`.
    pub services: &'a str,
    /// `ipvsadm -L -n -c`.
    pub connections: &'a str,
}

/// What is to be done, each in this order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// Commands for what has no connections.
    pub idle: Vec<Vec<String>>,
    /// Virtual services that have connections, and stay until those have ended.
    pub waiting: Vec<SocketAddr>,
    /// Commands for all else, once nothing waits and the rules are gone that use the sets.
    pub last: Vec<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Virtual {
    flag: &'static str,
    at: SocketAddr,
}

/// From what there is to what is to be done.
#[must_use]
pub fn plan(seen: &Seen<'_>) -> Plan {
    let addresses: BTreeSet<IpAddr> = words_after(seen.addresses, &["inet", "inet6"]).collect();
    let node_ports: BTreeSet<u16> = seen.sets.lines().filter_map(node_port).collect();
    let used: BTreeSet<Virtual> = seen.connections.lines().filter_map(connection).collect();
    let is_own =
        |service: &Virtual| addresses.contains(&service.at.ip()) || node_ports.contains(&service.at.port());
    let own = seen.services.lines().filter_map(service).filter(is_own);
    let (busy, idle): (Vec<_>, Vec<_>) = own.partition(|service| used.contains(service));
    let waiting: Vec<_> = busy.into_iter().map(|service| service.at).collect();
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let free = addresses.iter().filter(|ip| waiting.iter().all(|at| at.ip() != **ip));
    let free = free.map(|ip| {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        command(&["ip", "address", "delete", &format!("{ip}/{length}"), "dev", DEVICE])
    });
    let idle = idle.iter().map(|service| command(&["ipvsadm", "-D", service.flag, &service.at.to_string()]));
    let sets = seen.sets.lines().filter_map(|line| line.strip_prefix("create ")?.split(' ').next());
    let sets = sets.filter(|name| is_set(name)).map(|name| command(&["ipset", "destroy", name]));
    let device = command(&["ip", "link", "delete", DEVICE]);
    let last = if waiting.is_empty() { sets.chain([device]).collect() } else { Vec::new() };
    Plan { idle: free.chain(idle).collect(), waiting, last }
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

/// `TCP  10.96.0.1:443 rr`; lines about what stands behind it begin with an arrow.
fn service(line: &str) -> Option<Virtual> {
    let mut words = line.split_whitespace();
    Some(Virtual { flag: flag(words.next()?)?, at: words.next()?.parse().ok()? })
}

/// `TCP 14:59  ESTABLISHED 192.0.2.7:40000 10.96.0.1:443 10.42.0.5:8080`: the virtual service of a connection that is not over. The
/// next datagram of UDP is ours.
fn connection(line: &str) -> Option<Virtual> {
    let mut words = line.split_whitespace();
    let flag = flag(words.next()?).filter(|flag| *flag != UDP)?;
    let (_expires, state, _client) = (words.next()?, words.next()?, words.next()?);
    let at = words.next()?.parse().ok()?;
    (!OVER.contains(&state)).then_some(Virtual { flag, at })
}

/// What `ipvsadm` wants to be told where it says this.
fn flag(protocol: &str) -> Option<&'static str> {
    match protocol {
        "TCP" => Some("-t"),
        "UDP" => Some(UDP),
        "SCTP" => Some("--sctp-service"),
        _ => None,
    }
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

    const SERVICES: &str = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.10:80 rr
  -> 10.42.0.5:8080               Masq    1      0          0
  -> 10.42.0.6:8080               Masq    1      0          4
UDP  10.96.0.10:80 rr
UDP  [fd00::a]:53 rr
SCTP 192.0.2.10:30080 rr
TCP  192.0.2.10:30080 rr persistent 10800
TCP  192.0.2.99:443 wlc
FWM  7 rr
  -> 10.42.0.5:8080               Masq    1      9          0\n";

    fn check(connections: &str) -> Plan {
        plan(&Seen { addresses: ADDRESSES, sets: SETS, services: SERVICES, connections })
    }

    fn lines(commands: &[Vec<String>]) -> Vec<String> {
        commands.iter().map(|words| words.join(" ")).collect()
    }

    const LAST: [&str; 4] = [
        "ipset destroy KUBE-CLUSTER-IP",
        "ipset destroy KUBE-6-LOOP-BACK",
        "ipset destroy KUBE-NODE-PORT-TCP",
        "ip link delete kube-ipvs0",
    ];

    #[test]
    fn all_that_is_its_own_goes_in_order() {
        let over = "IPVS connection entries
pro expire state       source             virtual            destination
TCP 01:57  TIME_WAIT   192.0.2.7:40000    10.96.0.10:80      10.42.0.5:8080
TCP 00:07  CLOSE       192.0.2.7:40001    10.96.0.10:80      10.42.0.5:8080
TCP 59:59  NONE        192.0.2.7:0        192.0.2.10:30080   10.42.0.5:8080
SCTP 00:07  CLOSED      192.0.2.7:0        192.0.2.10:30080   10.42.0.5:8080
UDP 04:59  UDP         192.0.2.7:40000    10.96.0.10:80      10.42.0.5:5353
TCP 14:59  ESTABLISHED 192.0.2.7:40000    192.0.2.99:443     10.42.0.5:8443\n";
        let plan = check(over);
        assert_eq!(
            lines(&plan.idle),
            [
                "ip address delete 10.96.0.10/32 dev kube-ipvs0",
                "ip address delete fd00::a/128 dev kube-ipvs0",
                "ipvsadm -D -t 10.96.0.10:80",
                "ipvsadm -D -u 10.96.0.10:80",
                "ipvsadm -D -u [fd00::a]:53",
                "ipvsadm -D --sctp-service 192.0.2.10:30080",
                "ipvsadm -D -t 192.0.2.10:30080",
            ]
        );
        assert_eq!(plan.waiting, []);
        assert_eq!(lines(&plan.last), LAST);
    }

    #[test]
    fn connections_under_way_are_waited_for() {
        // Also those that one side has closed already, and in states that are not known.
        for state in ["ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "SYN_RECV", "?"] {
            let line =
                |protocol, at| format!("{protocol} 14:59  {state} 192.0.2.7:40000 {at} 10.42.0.5:8080\n");
            let plan = check(&(line("TCP", "10.96.0.10:80") + &line("SCTP", "192.0.2.10:30080")));
            assert_eq!(
                lines(&plan.idle),
                [
                    "ip address delete fd00::a/128 dev kube-ipvs0",
                    "ipvsadm -D -u 10.96.0.10:80",
                    "ipvsadm -D -u [fd00::a]:53",
                    "ipvsadm -D -t 192.0.2.10:30080",
                ]
            );
            assert_eq!(plan.waiting, ["10.96.0.10:80", "192.0.2.10:30080"].map(|at| at.parse().unwrap()));
            assert_eq!(plan.last, [[""; 0]; 0]);
        }
    }

    #[test]
    fn odd_text_is_nobodys() {
        let odd = Seen {
            addresses: "inet\ninet x/y",
            sets: "add\nadd X\ncreate",
            services: "TCP\n->\nTCP x\n-> y z",
            connections: "TCP\nTCP 1 2 3 4\npro expire state source virtual destination",
        };
        let plan = plan(&odd);
        assert_eq!(
            (lines(&plan.idle), lines(&plan.last)),
            (vec![], vec!["ip link delete kube-ipvs0".to_owned()])
        );
    }
}
