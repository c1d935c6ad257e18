//! What is node-wide: put up once, found again, taken away, and nothing of others touched.

use orlop_cni::{LinkName, Network, NetworkConfig, OpenError, Overlay};
use serde_json::Value;

use crate::support::{Disk, Node, Ns, attachment, cable, peers};

fn ruleset(node: &Node) -> Vec<Value> {
    let text = node.ns.exec(&["nft", "-j", "list", "ruleset"]);
    let mut ruleset: Value = serde_json::from_str(&text).unwrap();
    let objects = ruleset["nftables"].as_array_mut().unwrap();
    objects.retain(|object| object.get("metainfo").is_none());
    std::mem::take(objects)
}

fn kinds(ruleset: &[Value]) -> Vec<&str> {
    ruleset.iter().map(|object| object.as_object().unwrap().keys().next().unwrap().as_str()).collect()
}

#[test]
#[ignore = "netns tier"]
fn opening_twice_puts_everything_up_once() {
    let node = Node::new("10.244.1.0/24");
    for _ in 0..2 {
        node.with(async |_| ());
        let ruleset = ruleset(&node);
        let mut kinds = kinds(&ruleset);
        kinds.sort_unstable();
        assert_eq!(kinds, ["chain", "chain", "rule", "rule", "set", "table", "table"]);
        assert_eq!(node.routes(), ["10.244.1.0/24 unreachable"]);
        assert_eq!(node.ns.exec(&["cat", "/proc/sys/net/ipv4/ip_forward"]).trim(), "1");
    }
    let text = node.ns.exec(&["nft", "list", "ruleset"]);
    assert!(text.contains("type nat hook postrouting priority srcnat; policy accept;"), "{text}");
    let rule = "ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random comment \"pods to outside\"";
    assert!(text.contains(rule), "{text}");
}

#[test]
#[ignore = "netns tier"]
fn uninstalling_takes_away_what_is_ours_and_nothing_else() {
    let (node, pod, outside) = (Node::new("10.244.1.0/24"), Ns::new(), Ns::new());
    cable(&node.ns, "up0", "192.0.2.1/24", &outside, "up0", "192.0.2.9/24");
    node.ns.ip("route add 10.9.0.0/16 via 192.0.2.9");
    node.ns.exec(&["nft", "add table ip other"]);
    let (routes, links) = (node.ns.ip("route show"), node.ns.ip_json("link show").len());
    node.attach("a", &pod);
    node.with(async |net| {
        net.set_peers(peers(&[("10.244.2.0/24", "192.0.2.9")])).await.unwrap();
        net.uninstall().await.unwrap();
        assert_eq!(net.attached().await, []);
        net.uninstall().await.unwrap();
    });
    assert_eq!(kinds(&ruleset(&node)), ["table"]);
    assert_eq!(node.ns.ip("route show"), routes);
    assert_eq!(node.ns.ip_json("link show").len(), links);
}

#[test]
#[ignore = "netns tier"]
fn routes_between_nodes_become_exactly_the_desired_set() {
    let (node, outside) = (Node::new("10.244.1.0/24"), Ns::new());
    cable(&node.ns, "up0", "192.0.2.1/24", &outside, "up0", "192.0.2.9/24");
    node.ns.ip("route add 10.244.9.0/24 via 192.0.2.9");
    let config = NetworkConfig { overlay: Overlay::HostGateway, ..node.config() };
    let set = |nodes: &[(&str, &str)]| {
        let network = async || Network::open(config.clone()).await.unwrap();
        let result = node.run(async || network().await.set_peers(peers(nodes)).await);
        (node.routes(), result.err().map(|error| error.to_string()))
    };
    let own = "10.244.1.0/24 unreachable".to_owned();
    let (routes, error) = set(&[("10.244.2.0/24", "192.0.2.2"), ("10.244.3.0/24", "192.0.2.3")]);
    assert_eq!(
        (routes, error),
        (vec![own.clone(), "10.244.2.0/24 192.0.2.2".into(), "10.244.3.0/24 192.0.2.3".into()], None)
    );
    let (routes, error) = set(&[("10.244.3.0/24", "192.0.2.4")]);
    assert_eq!((routes, error), (vec![own.clone(), "10.244.3.0/24 192.0.2.4".into()], None));
    // Someone else's route to the same place stays; a next hop on no link is refused; the rest is done.
    let (routes, error) = set(&[
        ("10.244.9.0/24", "192.0.2.4"),
        ("10.244.4.0/24", "203.0.113.1"),
        ("10.244.5.0/24", "192.0.2.5"),
    ]);
    assert_eq!(routes, [own.clone(), "10.244.5.0/24 192.0.2.5".into()]);
    let error = error.unwrap();
    assert!(error.contains("add route to 10.244.9.0/24 via 192.0.2.4: File exists"), "{error}");
    assert!(
        error.contains("via 203.0.113.1: Network is unreachable (os error 101): Nexthop has invalid gateway"),
        "{error}"
    );
    assert!(node.ns.ip("route show 10.244.9.0/24").contains("192.0.2.9"));
    assert_eq!(set(&[]).0, [own]);
}

#[test]
#[ignore = "netns tier"]
fn a_node_can_be_swept_without_its_configuration() {
    let (node, pods) = (Node::new("10.244.1.0/24"), [Ns::new(), Ns::new()]);
    node.attach("a", &pods[0]);
    node.attach("b", &pods[1]);
    for _ in 0..2 {
        node.run(async || Network::sweep().await.unwrap());
        assert_eq!((node.links(), node.routes()), (vec![], vec![]));
        assert!(ruleset(&node).is_empty());
    }
    // Opened again, the node is whole, and the pods have kept their addresses.
    assert_eq!(node.attach("b", &pods[1]).to_string(), "10.244.1.3");
}

#[test]
#[ignore = "netns tier"]
fn a_full_disk_costs_nothing_but_the_pod_that_met_it() {
    let (node, pods) = (Node::new("10.244.1.0/24"), [Ns::new(), Ns::new()]);
    let disk = Disk::mount(node.dir.path());
    node.attach("a", &pods[0]);
    let filler = disk.fill();
    node.with(async |net| {
        // The ledger's page has room for some more lines; sooner or later one does not fit.
        let full = loop {
            if let Err(error) = net.attach(&attachment("b", &pods[1])).await {
                break error.to_string();
            }
            if let Err(error) = net.detach("b").await {
                break error.to_string();
            }
        };
        assert!(full.starts_with("write address ledger"), "{full}");
        assert_eq!(node.links(), [LinkName::for_pod("a").to_string()]);
        std::fs::remove_file(&filler).unwrap();
        net.attach(&attachment("b", &pods[1])).await.unwrap();
    });
    assert!(pods[0].ping(node.attach("b", &pods[1])));
    node.with(async |net| assert_eq!(net.attached().await.len(), 2));
}

#[test]
#[ignore = "netns tier"]
fn one_ledger_serves_one_process_at_a_time() {
    let node = Node::new("10.244.1.0/24");
    node.with(async |_first| {
        let second = Network::open(node.config()).await;
        assert!(matches!(second, Err(OpenError::Ledger(_))));
    });
}

#[test]
#[ignore = "netns tier"]
fn another_pod_cidr_moves_the_nodes_routes_and_keeps_the_pods() {
    let (mut node, old, new) = (Node::new("10.244.1.0/24"), Ns::new(), Ns::new());
    let first = node.attach("old", &old);
    node.pod_cidr = "10.244.7.0/24";
    let second = node.attach("new", &new);
    assert_eq!((first.to_string(), second.to_string()), ("10.244.1.2".into(), "10.244.7.2".into()));
    assert!(new.ping(first));
    assert!(node.routes().contains(&"10.244.7.0/24 unreachable".to_owned()));
    assert!(!node.routes().contains(&"10.244.1.0/24 unreachable".to_owned()));
}

#[test]
#[ignore = "netns tier"]
fn a_node_that_listens_to_routers_goes_on_when_it_becomes_one() {
    let (node, outside) = (Node::new("fd00:10:0:1::/64"), Ns::new());
    cable(&node.ns, "up0", "2001:db8::1/64", &outside, "up0", "2001:db8::9/64");
    cable(&node.ns, "deaf0", "2001:db8:1::1/64", &outside, "deaf0", "2001:db8:1::9/64");
    let setting = |device: &str| format!("/proc/sys/net/ipv6/conf/{device}/accept_ra");
    node.ns.exec(&["sh", "-c", &format!("echo 1 > {}; echo 0 > {}", setting("up0"), setting("deaf0"))]);
    node.with(async |_| ());
    assert_eq!(node.ns.exec(&["cat", &setting("up0"), &setting("deaf0")]), "2\n0\n");
    let text = node.ns.exec(&["nft", "list", "ruleset"]);
    assert!(text.contains("ip6 saddr fd00:10:0:1::/64 ip6 daddr != fd00:10::/56 masquerade"), "{text}");
    node.run(async || Network::sweep().await.unwrap());
    assert!(ruleset(&node).is_empty());
    assert_eq!(node.routes(), Vec::<String>::new());
}
