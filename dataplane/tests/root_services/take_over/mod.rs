//! Taking kube-proxy's place under load: its rules first, then ours beside them, then ours alone. The rules are of its shape,
//! made by the test (`rules.sh`). IPVS cannot be run here without a kernel that has it.

use std::thread;
use std::time::Duration;

use orlop_dataplane::kube_proxy::{clean_up, reserve, uninstall};
use orlop_dataplane::loader::{Loaded, load_all};
use orlop_dataplane::model::Settings;

use crate::lines::Traffic;
use crate::packets;
use crate::room::{Room, isolated, sh};
use crate::town::{self, ask, dial, udp_client};

const NODE_PORT: &str = "192.0.2.10:30080";
const CLUSTER_IP: &str = "10.96.0.10:80";

/// All rules of the namespace, without counters, handles and dates.
fn rules() -> String {
    sh("{ for t in iptables-legacy iptables-nft ip6tables-legacy ip6tables-nft; do $t-save; done; nft list ruleset; } 2>/dev/null |
        sed -E '/^#/d; s/\\[[0-9]+:[0-9]+\\]//; s/counter packets [0-9]+ bytes [0-9]+/counter/'")
}

fn take_over(room: &Room, kind: &str, left: &[&str]) {
    town::build();
    // The street is a bridge by accident: its frames are none of netfilter's business.
    sh("ip route add default via 192.0.2.7; sysctl -qw net.bridge.bridge-nf-call-iptables=0 || true
        sysctl -qw net.bridge.bridge-nf-call-ip6tables=0 || true");
    packets::serve();
    sh(&format!("bash -s {kind} <<'RULES'\n{}\nRULES", include_str!("rules.sh")));

    let mut traffic = Traffic::default();
    for (place, to) in [
        (Some("client"), NODE_PORT),
        (Some("client"), CLUSTER_IP),
        (Some("pod"), CLUSTER_IP),
        (Some("pod"), NODE_PORT),
        (Some("other"), NODE_PORT),
        (Some("client"), "[2001:db8:1::10]:30080"),
        (Some("pod"), "[2001:db8:43::10]:80"),
        // A process of the node that no socket program sees.
        (None, CLUSTER_IP),
    ] {
        traffic.lasting(place, to, 8);
        traffic.beginning(place, to);
    }
    let datagrams = udp_client("client", "192.0.2.10:30053");
    assert!(ask(&datagrams, 1).unwrap().starts_with("pod "));
    thread::sleep(Duration::from_millis(100));

    // As the loop does at a first start.
    let Loaded { maps, mut devices } = load_all(&room.bpffs, &room.cgroup).unwrap();
    devices.hold(true);
    let reserves = || reserve(&room.bpffs).unwrap();
    reserves();
    town::attach(&mut devices, &["br0", "pod0"]);
    let _state = packets::write(maps, Settings::default());
    println!("{} ports of netfilter's connections", reserves());
    devices.hold(false);
    thread::sleep(Duration::from_millis(200));
    assert!(ask(&datagrams, 2).unwrap().starts_with("pod "));

    let before = rules();
    let report = clean_up();
    assert!(report.failures.is_empty() && report.kept.is_empty() && !report.removed.is_empty(), "{report:?}");
    let after = rules();
    for word in left {
        assert!(after.contains(word), "{word} is gone:\n{after}");
    }
    for word in [
        "KUBE-SVC",
        "KUBE-SEP",
        "KUBE-EXT",
        "KUBE-MARK-MASQ",
        "KUBE-PROXY",
        "kube-proxy",
        "-j KUBE-SERVICES\n",
    ] {
        assert!(!after.contains(word), "{word} is left:\n{after}");
    }
    assert!(before.contains("mine") && after.contains("mine"));
    assert!(clean_up().is_clean());
    assert_eq!(rules(), after);

    thread::sleep(Duration::from_millis(500));
    assert!(ask(&datagrams, 3).unwrap().starts_with("pod "));
    traffic.finish();
    uninstall().unwrap();
    let clean = rules().to_lowercase();
    assert!(!clean.contains("orlop"), "{clean}");
}

/// What the kubelet and others have in the same tables.
const OTHERS: [&str; 6] = [
    ":KUBE-FIREWALL",
    ":KUBE-KUBELET-CANARY",
    ":KUBE-IPTABLES-HINT",
    "-A INPUT -j KUBE-FIREWALL",
    "-A OUTPUT -j KUBE-FIREWALL",
    "-A INPUT -m comment --comment \"mine: -j KUBE-SERVICES \\\"quoted\\\"\" -j MINE",
];

#[test]
#[ignore = "root tier"]
fn iptables_legacy_rules_go_and_no_connection_with_them() {
    isolated("take_over::iptables_legacy_rules_go_and_no_connection_with_them", |room| {
        take_over(&room, "iptables-legacy", &OTHERS);
    });
}

#[test]
#[ignore = "root tier"]
fn iptables_nft_rules_go_and_no_connection_with_them() {
    isolated("take_over::iptables_nft_rules_go_and_no_connection_with_them", |room| {
        take_over(&room, "iptables-nft", &OTHERS);
    });
}

#[test]
#[ignore = "root tier"]
fn nftables_rules_go_and_no_connection_with_them() {
    isolated("take_over::nftables_rules_go_and_no_connection_with_them", |room| {
        take_over(&room, "nft", &["table ip mine"]);
    });
}

#[test]
#[ignore = "root tier"]
fn ports_of_netfilters_connections_are_not_given_out() {
    isolated("take_over::ports_of_netfilters_connections_are_not_given_out", |room| {
        town::build();
        packets::serve();
        // Two of the three ports that our programs have are netfilter's.
        sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0 || true
            nft -f - <<'END'
            table ip nat {
              chain pre { type nat hook prerouting priority -100; tcp dport 30080 dnat to 10.42.1.10:8080; }
              chain post { type nat hook postrouting priority 100; ip daddr 10.42.1.10 tcp dport 8080 masquerade to :61000-61001; }
            }
END");
        let mut traffic = Traffic::default();
        traffic.lasting(Some("client"), NODE_PORT, 2);

        let (maps, _devices) = packets::load(&room);
        let settings = Settings { masquerade_ports: (61_000, 61_002), ..Settings::default() };
        assert_eq!(reserve(&room.bpffs).unwrap(), 2);
        let _state = packets::write(maps, settings);
        for _ in 0..40 {
            dial("client", NODE_PORT).unwrap();
        }
        traffic.finish();
        // Both ends have said goodbye: theirs are ours to give now.
        let both = ["192.0.2.10:61000", "192.0.2.10:61001"].map(|at| at.parse().unwrap());
        let given = || {
            dial("client", NODE_PORT).unwrap();
            let all = orlop_dataplane::connections(&room.bpffs).unwrap();
            all.iter().any(|one| both.contains(&one.seen_as))
        };
        assert!((0..40).any(|_| given()), "{:?}", orlop_dataplane::connections(&room.bpffs));
    });
}
