//! Attach and detach: what is there afterwards, and what is not.

use std::{collections::HashSet, net::IpAddr, time::Instant};

use orlop_cni::{AttachError, LinkName};
use serde_json::json;

use crate::support::{Node, Ns, attachment};

#[test]
#[ignore = "netns tier"]
fn a_pod_gets_address_routes_and_neighbours() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    let attached = node.with(async |net| net.attach(&attachment("a", &pod)).await.unwrap());
    assert_eq!((attached.interface.as_str(), attached.mtu), ("eth0", 1450));
    assert_eq!(attached.addresses, [IpAddr::from([10, 244, 1, 2])]);

    let eth0 = &pod.ip_json("addr show dev eth0")[0];
    assert_eq!((&eth0["operstate"], &eth0["mtu"]), (&json!("UP"), &json!(1450)));
    assert_eq!(eth0["address"], json!("0a:58:0a:f4:01:02"));
    let addresses = eth0["addr_info"].as_array().unwrap();
    assert_eq!(addresses.len(), 1, "no IPv6: {addresses:?}");
    assert_eq!((&addresses[0]["local"], &addresses[0]["prefixlen"]), (&json!("10.244.1.2"), &json!(32)));
    let default = &pod.ip_json("route show default")[0];
    assert_eq!((&default["gateway"], &default["dev"]), (&json!("169.254.1.1"), &json!("eth0")));
    let gateway = &pod.ip_json("neigh show dev eth0")[0];
    assert_eq!((&gateway["lladdr"], &gateway["state"]), (&json!("ee:ee:ee:ee:ee:ee"), &json!(["PERMANENT"])));
    assert!(pod.ip_json("link show dev lo")[0]["flags"].as_array().unwrap().contains(&json!("UP")));

    let name = LinkName::for_pod("a");
    let host = &node.ns.ip_json(&format!("addr show dev {name}"))[0];
    assert_eq!(host["address"], json!("ee:ee:ee:ee:ee:ee"));
    assert!(node.ns.ip(&format!("link show dev {name}")).contains("alias pod:a"));
    assert_eq!(host["addr_info"], json!([]));
    assert_eq!(node.routes(), ["10.244.1.0/24 unreachable".to_owned(), format!("10.244.1.2 {name}")]);
    let neighbour = &node.ns.ip_json(&format!("neigh show dev {name}"))[0];
    assert_eq!((&neighbour["dst"], &neighbour["state"]), (&json!("10.244.1.2"), &json!(["PERMANENT"])));
}

#[test]
#[ignore = "netns tier"]
fn a_pod_of_both_families_has_both_and_nothing_that_comes_by_itself() {
    let (node, pod) = (Node::new("10.244.1.0/24,fd00:10:0:1::/64"), Ns::new());
    let attached = node.with(async |net| net.attach(&attachment("a", &pod)).await.unwrap());
    let texts: Vec<_> = attached.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.244.1.2", "fd00:10:0:1::2"]);
    let eth0 = &pod.ip_json("addr show dev eth0 scope global")[0];
    let mut addresses = eth0["addr_info"].as_array().unwrap().clone();
    addresses.retain(|address| address.get("local").is_some());
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    assert_eq!((&addresses[1]["local"], &addresses[1]["prefixlen"]), (&json!("fd00:10:0:1::2"), &json!(128)));
    assert_eq!(pod.ip("-6 addr show tentative"), "", "usable at once");
    let default = &pod.ip_json("-6 route show default")[0];
    assert_eq!((&default["gateway"], &default["dev"]), (&json!("fe80::1"), &json!("eth0")));
    let gateways = pod.ip_json("neigh show dev eth0 nud permanent");
    assert_eq!(gateways.len(), 2, "{gateways:?}");

    let name = LinkName::for_pod("a");
    let host = &node.ns.ip_json(&format!("addr show dev {name}"))[0];
    assert_eq!(host["addr_info"], json!([]), "the host side needs no address");
    assert!(node.routes().contains(&format!("fd00:10:0:1::2 {name}")));
    assert_eq!(node.ns.exec(&["cat", "/proc/sys/net/ipv6/conf/all/forwarding"]).trim(), "1");
}

#[test]
#[ignore = "netns tier"]
fn what_is_broken_in_ipv6_is_repaired() {
    let (node, pod) = (Node::new("10.244.1.0/24,fd00:10:0:1::/64"), Ns::new());
    node.ns.ip("addr add 2001:db8::1/128 dev lo");
    let name = LinkName::for_pod("a");
    let addresses = node.attach_all("a", &pod);
    let (v6, index) = (addresses[1], node.ns.ip_json(&format!("link show dev {name}"))[0]["ifindex"].clone());
    let damages = [
        (&pod, "-6 route del default".to_owned()),
        (&pod, "neigh del fe80::1 dev eth0".to_owned()),
        (&pod, format!("addr del {v6}/128 dev eth0")),
        (&pod, "link set eth0 down".to_owned()),
        (&node.ns, format!("link set {name} down")),
        (&node.ns, format!("-6 route del {v6}")),
        (&node.ns, format!("neigh del {v6} dev {name}")),
    ];
    for (ns, damage) in damages {
        ns.ip(&damage);
        assert_eq!(node.attach_all("a", &pod), addresses);
        assert!(node.ns.ping(v6), "after {damage}");
        assert_eq!(node.ns.ip_json(&format!("link show dev {name}"))[0]["ifindex"], index, "after {damage}");
    }
}

#[test]
#[ignore = "netns tier"]
fn attaching_again_changes_nothing_and_repairs_what_was_broken() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    let name = LinkName::for_pod("a");
    let first = node.attach("a", &pod);
    let index = |node: &Node| node.ns.ip_json(&format!("link show dev {name}"))[0]["ifindex"].clone();
    let before = index(&node);
    assert_eq!(node.attach("a", &pod), first);
    assert_eq!(index(&node), before, "the pair is the same");
    let damages = [
        (&pod, "route del default".to_owned()),
        (&pod, "neigh del 169.254.1.1 dev eth0".to_owned()),
        (&pod, format!("addr del {first}/32 dev eth0")),
        (&pod, "link set eth0 down".to_owned()),
        (&pod, "link set lo down".to_owned()),
        (&node.ns, format!("link set {name} down")),
        (&node.ns, format!("route del {first}")),
        (&node.ns, format!("neigh del {first} dev {name}")),
    ];
    for (ns, damage) in damages {
        ns.ip(&damage);
        assert_eq!(node.attach("a", &pod), first);
        assert!(
            node.ns.exec(&["ip", "route", "get", &first.to_string()]).contains(name.as_str()),
            "{damage}"
        );
        node.ns.ip("addr replace 192.0.2.1/32 dev lo");
        assert!(node.ns.ping(first), "after {damage}");
        assert_eq!(index(&node), before, "after {damage}");
    }
}

#[test]
#[ignore = "netns tier"]
fn a_pod_whose_namespace_was_made_anew_is_attached_anew_with_its_address() {
    let (node, old, new) = (Node::new("10.244.1.0/24"), Ns::new(), Ns::new());
    let first = node.attach("a", &old);
    assert_eq!(node.attach("a", &new), first);
    assert!(old.ip_json("link show").iter().all(|link| link["ifname"] != "eth0"));
    assert_eq!(node.links().len(), 1);
    node.ns.ip("addr add 192.0.2.1/32 dev lo");
    assert!(node.ns.ping(first));
}

#[test]
#[ignore = "netns tier"]
fn detaching_leaves_nothing_and_may_be_repeated() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    node.attach("a", &pod);
    node.with(async |net| {
        for _ in 0..2 {
            net.detach("a").await.unwrap();
            assert_eq!(net.attached().await, []);
        }
    });
    assert_eq!(node.links(), Vec::<String>::new());
    assert_eq!(node.routes(), ["10.244.1.0/24 unreachable"]);
    assert!(pod.ip_json("link show").iter().all(|link| link["ifname"] != "eth0"));
}

#[test]
#[ignore = "netns tier"]
fn detaching_works_when_the_namespace_is_gone() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    node.attach("a", &pod);
    pod.delete();
    node.with(async |net| {
        net.detach("a").await.unwrap();
        assert_eq!(net.attached().await, []);
    });
    assert_eq!(node.links(), Vec::<String>::new());
}

#[test]
#[ignore = "netns tier"]
fn what_cannot_be_attached_is_refused_before_anything_is_touched() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    pod.ip("link add eth0 type bridge");
    let file = node.dir.path().join("plain");
    std::fs::write(&file, "").unwrap();
    node.with(async |net| {
        let good = attachment("a", &pod);
        let refused = async |change: &dyn Fn(&mut orlop_cni::Attachment)| {
            let mut attachment = good.clone();
            change(&mut attachment);
            net.attach(&attachment).await.unwrap_err()
        };
        let taken = refused(&|_| ()).await;
        assert!(matches!(taken, AttachError::Plan(_)), "{taken}");
        let missing = refused(&|a| a.netns = "/nonexistent".into()).await;
        assert!(matches!(missing, AttachError::Netns(_)), "{missing}");
        let plain = refused(&|a| a.netns = file.clone()).await;
        assert!(matches!(plain, AttachError::Netns(_)), "{plain}");
        let own = refused(&|a| a.netns = "/proc/thread-self/ns/net".into()).await;
        assert!(matches!(own, AttachError::Netns(_)), "{own}");
        let name = refused(&|a| a.uid = "a b".into()).await;
        assert!(matches!(name, AttachError::Name(_)), "{name}");
        assert_eq!(net.attached().await, []);
    });
    assert_eq!(node.links(), Vec::<String>::new());
}

#[test]
#[ignore = "netns tier"]
fn a_full_range_says_so_and_a_freed_address_is_given_again() {
    let node = Node::new("10.244.1.0/29");
    let pods: Vec<_> = (0..6).map(|_| Ns::new()).collect();
    node.with(async |net| {
        for (number, pod) in pods[..5].iter().enumerate() {
            net.attach(&attachment(&format!("p{number}"), pod)).await.unwrap();
        }
        let full = net.attach(&attachment("late", &pods[5])).await.unwrap_err();
        assert_eq!(full.to_string(), "no address is free in 10.244.1.0/29: all 5 are assigned");
        net.detach("p3").await.unwrap();
        let attached = net.attach(&attachment("late", &pods[5])).await.unwrap();
        assert_eq!(attached.addresses, [IpAddr::from([10, 244, 1, 5])]);
    });
}

#[test]
#[ignore = "netns tier"]
fn many_pods_attach_at_once_each_with_its_own_address() {
    const PODS: usize = 30;
    let node = Node::new("10.244.1.0/24");
    let pods: Vec<_> = (0..PODS).map(|_| Ns::new()).collect();
    node.with(async |net| {
        let mut single = Vec::new();
        for _ in 0..10 {
            let start = Instant::now();
            net.attach(&attachment("p0", &pods[0])).await.unwrap();
            single.push(start.elapsed());
            net.detach("p0").await.unwrap();
        }
        single.sort();
        let start = Instant::now();
        let tasks: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(number, pod)| {
                let (net, attachment) = (net.clone(), attachment(&format!("p{number}"), pod));
                tokio::spawn(async move { net.attach(&attachment).await.unwrap().addresses })
            })
            .collect();
        let mut addresses = HashSet::new();
        for task in tasks {
            addresses.insert(task.await.unwrap());
        }
        let together = start.elapsed();
        assert_eq!(addresses.len(), PODS);
        let start = Instant::now();
        net.detach("p0").await.unwrap();
        let one = start.elapsed();
        let tasks: Vec<_> = (1..PODS)
            .map(|number| {
                let net = net.clone();
                tokio::spawn(async move { net.detach(&format!("p{number}")).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        println!(
            "attach one: median {:?}, worst {:?}; {PODS} at once: {together:?}; detach one: {one:?}; the others at once: {:?}",
            single[single.len() / 2],
            single[single.len() - 1],
            start.elapsed() - one
        );
    });
    assert_eq!(node.links(), Vec::<String>::new());
}
