//! Packets: who reaches whom, and under which address.

use std::net::Ipv4Addr;

use orlop_cni::NodeRoute;

use crate::support::{Node, Ns, cable};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

#[test]
#[ignore = "netns tier"]
fn pods_of_a_node_reach_each_other_and_the_node() {
    let (node, a, b, outside) = (Node::new("10.244.1.0/24"), Ns::new(), Ns::new(), Ns::new());
    cable(&node.ns, "up0", "192.0.2.1/24", &outside, "up0", "192.0.2.9/24");
    let (ip_a, ip_b) = (node.attach("a", &a), node.attach("b", &b));
    assert!(a.ping(ip_b), "the first packet after attaching arrives");
    assert_eq!(a.tcp(&b, ip_b), ip_a);
    assert_eq!(b.udp(&a, ip_a), ip_b);
    assert_eq!(a.tcp(&node.ns, NODE), ip_a);
    assert_eq!(a.udp(&node.ns, NODE), ip_a);
    assert!(node.ns.ping(ip_a));
    assert_eq!(node.ns.tcp(&b, ip_b), NODE);
    assert_eq!(a.tcp(&a, ip_a), ip_a, "a pod reaches itself");
}

#[test]
#[ignore = "netns tier"]
fn pods_reach_the_outside_under_the_nodes_address() {
    let (node, pod, outside) = (Node::new("10.244.1.0/24"), Ns::new(), Ns::new());
    cable(&node.ns, "up0", "192.0.2.1/24", &outside, "up0", "192.0.2.9/24");
    node.attach("a", &pod);
    assert!(pod.ping(OUTSIDE));
    assert_eq!(pod.tcp(&outside, OUTSIDE), NODE);
    assert_eq!(pod.udp(&outside, OUTSIDE), NODE);
}

#[test]
#[ignore = "netns tier"]
fn pods_of_two_nodes_reach_each_other_under_their_own_addresses() {
    let (one, two) = (Node::new("10.244.1.0/24"), Node::new("10.244.2.0/24"));
    let (a, b) = (Ns::new(), Ns::new());
    cable(&one.ns, "up0", "192.0.2.1/24", &two.ns, "up0", "192.0.2.2/24");
    let (ip_a, ip_b) = (one.attach("a", &a), two.attach("b", &b));
    assert!(!a.ping(ip_b), "no route yet");
    let to = |pod_cidr: &str, via: &str| {
        vec![NodeRoute { pod_cidr: pod_cidr.parse().unwrap(), via: via.parse().unwrap() }]
    };
    one.with(async |net| net.set_node_routes(to("10.244.2.0/24", "192.0.2.2")).await.unwrap());
    two.with(async |net| net.set_node_routes(to("10.244.1.0/24", "192.0.2.1")).await.unwrap());
    assert!(a.ping(ip_b));
    assert_eq!(a.tcp(&b, ip_b), ip_a);
    assert_eq!(b.udp(&a, ip_a), ip_b);
    assert_eq!(one.ns.tcp(&b, ip_b), NODE);
}

#[test]
#[ignore = "netns tier"]
fn a_pod_cannot_speak_under_another_address() {
    let (node, a, b) = (Node::new("10.244.1.0/24"), Ns::new(), Ns::new());
    let (_, ip_b) = (node.attach("a", &a), node.attach("b", &b));
    a.ip("addr add 10.244.1.77/32 dev eth0");
    a.exec(&[
        "ip",
        "route",
        "replace",
        "default",
        "via",
        "169.254.1.1",
        "dev",
        "eth0",
        "onlink",
        "src",
        "10.244.1.77",
    ]);
    assert!(!a.ping(ip_b));
}

#[test]
#[ignore = "netns tier"]
fn an_address_without_a_pod_is_refused_at_once() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    node.attach("a", &pod);
    let nobody = std::net::SocketAddr::from(([10, 244, 1, 200], 80));
    let patience = std::time::Duration::from_secs(3);
    let refused = pod.inside(|| std::net::TcpStream::connect_timeout(&nobody, patience)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable);
}
