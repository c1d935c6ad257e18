//! Packets: who reaches whom, and under which address.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use orlop_cni::{Attachment, Bandwidth, Network, NetworkConfig, Overlay};

use crate::support::{Node, Ns, attachment, cable, peers};

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
    // A device of this name is not a pod's link, however it begins.
    cable(&node.ns, "orlop0", "192.0.2.1/24", &outside, "up0", "192.0.2.9/24");
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
    one.with(async |net| net.set_peers(peers(&[("10.244.2.0/24", "192.0.2.2")])).await.unwrap());
    two.with(async |net| net.set_peers(peers(&[("10.244.1.0/24", "192.0.2.1")])).await.unwrap());
    assert!(a.ping(ip_b));
    assert_eq!(a.tcp(&b, ip_b), ip_a);
    assert_eq!(b.udp(&a, ip_a), ip_b);
    assert_eq!(one.ns.tcp(&b, ip_b), NODE);
}

/// Whether a datagram that the pod sends under `from` arrives at `to` in `receiver`.
fn arrives(pod: &Ns, from: IpAddr, receiver: &Ns, to: IpAddr) -> bool {
    let server = receiver.inside(|| UdpSocket::bind((to, 0)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let port = server.local_addr().unwrap().port();
    pod.inside(|| UdpSocket::bind((from, 0)).unwrap().send_to(b"who am I", (to, port)).unwrap());
    server.recv_from(&mut [0; 16]).is_ok_and(|(_, seen)| seen.ip() == from)
}

#[test]
#[ignore = "netns tier"]
fn a_pod_cannot_speak_under_another_address() {
    let (node, a, b, c, outside) = (Node::new(BOTH), Ns::new(), Ns::new(), Ns::new(), Ns::new());
    cable(&node.ns, "up0", "192.0.2.1/24", &outside, "up0", "192.0.2.9/24");
    let (ips_a, ips_b, ips_c) =
        (node.attach_all("a", &a), node.attach_all("b", &b), node.attach_all("c", &c));
    for ((own, to), other) in ips_a.iter().zip(&ips_b).zip(&ips_c) {
        let nobodys: IpAddr =
            if own.is_ipv4() { [10, 244, 1, 77].into() } else { "fd00:10:0:1::77".parse().unwrap() };
        for stolen in [*other, nobodys] {
            let nodad = if stolen.is_ipv6() { "nodad" } else { "" };
            a.ip(&format!("addr add {stolen}/{} dev eth0 {nodad}", if stolen.is_ipv4() { 32 } else { 128 }));
            // The kernel takes an IPv6 address into use a moment later.
            std::thread::sleep(Duration::from_millis(50));
            assert!(!arrives(&a, stolen, &b, *to), "{stolen}");
            a.ip(&format!("addr del {stolen} dev eth0"));
        }
        assert!(arrives(&a, *own, &b, *to));
    }
    for family in ["ip", "ip6"] {
        let rules = node.ns.exec(&["nft", "list", "table", family, "orlop-pods"]);
        let rule = format!("iifname . {family} saddr != @addresses counter packets 2 ");
        assert!(rules.contains(&rule), "{rules}");
    }
}

#[test]
#[ignore = "netns tier"]
fn a_pod_cannot_fill_the_nodes_neighbour_tables() {
    let (node, pod) = (Node::new(BOTH), Ns::new());
    node.ns.ip("addr add 192.0.2.1/32 dev lo");
    node.ns.ip("addr add 2001:db8::1/128 dev lo");
    node.attach("a", &pod);
    let host = orlop_cni::LinkName::for_pod("a").to_string();
    let before = node.ns.ip(&format!("neigh show dev {host}"));
    // As if the node's own addresses were on the link: the pod asks for them, under addresses of its choice.
    for (family, node, spoofed) in
        [("-4", "192.0.2.1", "10.244.1.77/32"), ("-6", "2001:db8::1", "fd00:10:0:1::77/128")]
    {
        let nodad = if family == "-6" { "nodad" } else { "" };
        pod.ip(&format!("addr add {spoofed} dev eth0 {nodad}"));
        std::thread::sleep(Duration::from_millis(50));
        let source = spoofed.split_once('/').unwrap().0;
        pod.ip(&format!("{family} route add {node} dev eth0 src {source}"));
        assert!(!pod.ping(node.parse::<IpAddr>().unwrap()));
    }
    assert_eq!(node.ns.ip(&format!("neigh show dev {host}")), before, "nothing was learned");
    let rules = node.ns.exec(&["nft", "list", "table", "ip6", "orlop-pods"]);
    let dropped = rules.lines().find(|line| line.contains("neighbours are known")).unwrap();
    assert!(dropped.contains("counter packets") && !dropped.contains("counter packets 0 "), "{dropped}");
}

#[test]
#[ignore = "netns tier"]
fn permissions_come_and_go_with_pods() {
    let (node, pods) = (Node::new(BOTH), [Ns::new(), Ns::new()]);
    let elements = || {
        let families = ["ip", "ip6"]
            .map(|family| node.ns.exec(&["nft", "list", "set", family, "orlop-pods", "addresses"]));
        families.iter().map(|text| text.matches("\"orl").count()).collect::<Vec<_>>()
    };
    let ips = node.attach_all("a", &pods[0]);
    node.attach("b", &pods[1]);
    assert_eq!(elements(), [2, 2]);
    // What someone has flushed is there again with the next life: pods of before speak on.
    node.ns.exec(&["nft", "flush", "set", "ip", "orlop-pods", "addresses"]);
    assert!(!pods[0].ping(NODE) && elements() == [0, 2]);
    node.with(async |_| ());
    assert_eq!(elements(), [2, 2]);
    assert_eq!(pods[1].tcp(&pods[0], ips[0]), IpAddr::from([10, 244, 1, 3]));
    node.with(async |net| net.detach("a").await.unwrap());
    assert_eq!(elements(), [1, 1]);
    node.run(async || Network::sweep().await.unwrap());
    assert!(!node.ns.exec(&["nft", "list", "ruleset"]).contains("orlop"));
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

const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const BOTH: &str = "10.244.1.0/24,fd00:10:0:1::/64";

#[test]
#[ignore = "netns tier"]
fn pods_of_a_node_reach_each_other_in_either_family() {
    for (cidrs, families) in
        [(BOTH, "46"), ("fd00:10:0:1::/64,10.244.1.0/24", "64"), ("fd00:10:0:1::/64", "6")]
    {
        let (node, a, b, outside) = (Node::new(cidrs), Ns::new(), Ns::new(), Ns::new());
        cable(&node.ns, "up0", "192.0.2.1/24", &outside, "up0", "192.0.2.9/24");
        cable(&node.ns, "up1", "2001:db8::1/64", &outside, "up1", "2001:db8::9/64");
        let (ips_a, ips_b) = (node.attach_all("a", &a), node.attach_all("b", &b));
        let order: String = ips_a.iter().map(|ip| if ip.is_ipv4() { '4' } else { '6' }).collect();
        assert_eq!(order, families, "pods' addresses come in the order of the CIDRs");
        for (ip_a, ip_b) in ips_a.into_iter().zip(ips_b) {
            let on_node: IpAddr = if ip_a.is_ipv4() { NODE.into() } else { NODE6.into() };
            assert!(a.ping(ip_b), "the first packet after attaching arrives");
            assert_eq!(a.tcp(&b, ip_b), ip_a);
            assert_eq!(b.udp(&a, ip_a), ip_b);
            assert_eq!(a.tcp(&node.ns, on_node), ip_a);
            assert!(node.ns.ping(ip_a));
            assert_eq!(node.ns.tcp(&b, ip_b), on_node);
            assert_eq!(a.tcp(&a, ip_a), ip_a, "a pod reaches itself");
        }
    }
}

#[test]
#[ignore = "netns tier"]
fn pods_reach_the_outside_of_ipv6_under_the_nodes_address() {
    let (node, pod, outside) = (Node::new(BOTH), Ns::new(), Ns::new());
    cable(&node.ns, "up0", "2001:db8::1/64", &outside, "up0", "2001:db8::9/64");
    node.attach("a", &pod);
    assert!(pod.ping(OUTSIDE6));
    assert_eq!(pod.tcp(&outside, OUTSIDE6), IpAddr::from(NODE6));
    assert_eq!(pod.udp(&outside, OUTSIDE6), IpAddr::from(NODE6));
}

#[test]
#[ignore = "netns tier"]
fn pods_of_two_nodes_reach_each_other_over_ipv6() {
    let (one, two) = (Node::new(BOTH), Node::new("10.244.2.0/24,fd00:10:0:2::/64"));
    let (a, b) = (Ns::new(), Ns::new());
    cable(&one.ns, "up0", "2001:db8::1/64", &two.ns, "up0", "2001:db8::2/64");
    let (ips_a, ips_b) = (one.attach_all("a", &a), two.attach_all("b", &b));
    assert!(!a.ping(ips_b[1]), "no route yet");
    one.with(async |net| net.set_peers(peers(&[("fd00:10:0:2::/64", "2001:db8::2")])).await.unwrap());
    two.with(async |net| net.set_peers(peers(&[("fd00:10:0:1::/64", "2001:db8::1")])).await.unwrap());
    assert!(a.ping(ips_b[1]));
    assert_eq!(a.tcp(&b, ips_b[1]), ips_a[1]);
    assert_eq!(b.udp(&a, ips_a[1]), ips_b[1]);
    one.with(async |net| net.set_peers(Vec::new()).await.unwrap());
    assert_eq!(one.routes().iter().filter(|route| route.contains("2001:db8::2")).count(), 0);
}

#[test]
#[ignore = "netns tier"]
fn an_ipv6_address_without_a_pod_is_refused_at_once() {
    let (node, pod) = (Node::new("fd00:10:0:1::/64"), Ns::new());
    node.ns.ip("addr add 2001:db8::1/128 dev lo");
    node.attach("a", &pod);
    let nobody = std::net::SocketAddr::new("fd00:10:0:1::200".parse().unwrap(), 80);
    let patience = std::time::Duration::from_secs(3);
    let refused = pod.inside(|| std::net::TcpStream::connect_timeout(&nobody, patience)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::NetworkUnreachable);
}

#[test]
#[ignore = "netns tier"]
fn pods_links_follow_the_mtu_of_the_way_out() {
    let (node, pod, outside) = (Node::new(BOTH), Ns::new(), Ns::new());
    cable(&node.ns, "up0", "198.51.100.1/24", &outside, "up0", "198.51.100.9/24");
    node.ns.ip("route add default via 198.51.100.9");
    outside.ip("addr add 192.0.2.9/32 dev lo");
    let mtu = |mtu: u32| {
        [(&node.ns, "up0"), (&outside, "up0")].map(|(ns, dev)| ns.ip(&format!("link set {dev} mtu {mtu}")))
    };
    let seen = |ns: &Ns, dev: &str| ns.ip_json(&format!("link show dev {dev}"))[0]["mtu"].as_u64().unwrap();
    let host = orlop_cni::LinkName::for_pod("a").to_string();
    mtu(1400);
    let config = NetworkConfig { mtu: None, ..node.config() };
    node.run(async || {
        let network = Network::open(config.clone()).await.unwrap();
        let attached = network.attach(&attachment("a", &pod)).await.unwrap();
        assert_eq!((attached.mtu, seen(&pod, "eth0"), seen(&node.ns, &host)), (1400, 1400, 1400));
        for changed in [9000, 1300] {
            mtu(changed);
            assert_eq!(network.refresh_mtu().await.unwrap(), changed);
            assert_eq!((seen(&pod, "eth0"), seen(&node.ns, &host)), (changed.into(), changed.into()));
            assert_eq!(pod.tcp(&outside, OUTSIDE), IpAddr::from([198, 51, 100, 1]));
        }
        // Too little for IPv6 is not passed on.
        mtu(1000);
        assert_eq!(network.refresh_mtu().await.unwrap(), 1280);
    });
    // Another life of the agent finds the links by the ledger.
    mtu(1450);
    node.run(async || {
        let network = Network::open(config.clone()).await.unwrap();
        assert_eq!(network.refresh_mtu().await.unwrap(), 1450);
    });
    assert_eq!((seen(&pod, "eth0"), seen(&node.ns, &host)), (1450, 1450));
}

/// Two nodes, a network for each, and a router between them that knows nothing of pods.
struct Apart {
    nodes: [Node; 2],
    _router: Ns,
}

impl Apart {
    fn new(cidrs: [&'static str; 2], routed: &str) -> Self {
        let (nodes, router) = (cidrs.map(Node::new), Ns::new());
        router.exec(&[
            "sh",
            "-c",
            "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        ]);
        for (n, node) in nodes.iter().enumerate() {
            let up = format!("to{n}");
            match routed {
                "4" => {
                    cable(
                        &node.ns,
                        "up0",
                        &format!("198.51.{n}.2/24"),
                        &router,
                        &up,
                        &format!("198.51.{n}.1/24"),
                    );
                    node.ns.ip(&format!("route add default via 198.51.{n}.1"));
                }
                _ => {
                    cable(
                        &node.ns,
                        "up0",
                        &format!("2001:db8:{n}::2/64"),
                        &router,
                        &up,
                        &format!("2001:db8:{n}::1/64"),
                    );
                    node.ns.ip(&format!("-6 route add default via 2001:db8:{n}::1"));
                }
            }
        }
        Self { nodes, _router: router }
    }

    fn address(routed: &str, n: usize) -> String {
        if routed == "4" { format!("198.51.{n}.2") } else { format!("2001:db8:{n}::2") }
    }
}

/// Packets that a device has sent.
fn sent(ns: &Ns, device: &str) -> u64 {
    ns.ip_json(&format!("-s link show dev {device}"))[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

#[test]
#[ignore = "netns tier"]
fn pods_of_nodes_with_a_router_in_between_reach_each_other_inside_of_vxlan() {
    const CIDRS: [&str; 2] = [BOTH, "10.244.2.0/24,fd00:10:0:2::/64"];
    for routed in ["4", "6"] {
        let apart = Apart::new(CIDRS, routed);
        let pods = [Ns::new(), Ns::new()];
        let live = |n: usize, others: &[(&str, &str)]| {
            let node = &apart.nodes[n];
            let node_ips = vec![Apart::address(routed, n).parse().unwrap()];
            let config = NetworkConfig { node_ips, mtu: None, ..node.config() };
            node.run(async || {
                let network = Network::open(config).await.unwrap();
                let attached = network.attach(&attachment("a", &pods[n])).await.unwrap();
                network.set_peers(peers(others)).await.unwrap();
                attached.addresses
            })
        };
        let at = |n| Apart::address(routed, n);
        let ips_0 = live(0, &[(CIDRS[1], &at(1))]);
        let ips_1 = live(1, &[(CIDRS[0], &at(0))]);
        for (&ip_0, &ip_1) in ips_0.iter().zip(&ips_1) {
            assert!(pods[0].ping(ip_1), "{ip_1} over {routed}");
            assert_eq!(pods[0].tcp(&pods[1], ip_1), ip_0);
            assert_eq!(pods[1].udp(&pods[0], ip_0), ip_1);
            // A node's own packets come from its address among the pods, so that answers find the tunnel.
            let node: IpAddr =
                if ip_1.is_ipv4() { [10, 244, 1, 1].into() } else { "fd00:10:0:1::1".parse().unwrap() };
            assert_eq!(apart.nodes[0].ns.tcp(&pods[1], ip_1), node);
        }
        assert!(sent(&apart.nodes[0].ns, "vxlan.orlop") > 10);
        let mtu = |n: usize| pods[n].ip_json("link show dev eth0")[0]["mtu"].as_u64().unwrap();
        let room = if routed == "4" { 1450 } else { 1430 };
        assert_eq!((mtu(0), mtu(1)), (room, room));
        // Another life finds all of it, changes nothing, and takes it down with the last peer.
        let before = apart.nodes[0].ns.ip("-d link show dev vxlan.orlop");
        live(0, &[(CIDRS[1], &at(1))]);
        assert_eq!(apart.nodes[0].ns.ip("-d link show dev vxlan.orlop"), before);
        live(0, &[]);
        assert!(apart.nodes[0].ns.ip_json("link show").iter().all(|link| link["ifname"] != "vxlan.orlop"));
        assert_eq!((mtu(0), apart.nodes[0].routes().len()), (1500, 4));
    }
}

#[test]
#[ignore = "netns tier"]
fn nodes_on_a_link_tunnel_only_if_they_are_told_to() {
    let (one, two) = (Node::new("10.244.1.0/24"), Node::new("10.244.2.0/24"));
    let (a, b) = (Ns::new(), Ns::new());
    cable(&one.ns, "up0", "192.0.2.1/24", &two.ns, "up0", "192.0.2.2/24");
    let (ip_a, ip_b) = (one.attach("a", &a), two.attach("b", &b));
    let set = |node: &Node, overlay: Overlay, own: &str, other: (&str, &str)| {
        let config = NetworkConfig { overlay, node_ips: vec![own.parse().unwrap()], ..node.config() };
        node.run(async || Network::open(config).await.unwrap().set_peers(peers(&[other])).await.unwrap());
    };
    for overlay in [Overlay::Vxlan, Overlay::Auto, Overlay::Vxlan, Overlay::HostGateway] {
        set(&one, overlay, "192.0.2.1", ("10.244.2.0/24", "192.0.2.2"));
        set(&two, overlay, "192.0.2.2", ("10.244.1.0/24", "192.0.2.1"));
        assert_eq!(a.tcp(&b, ip_b), ip_a, "{overlay:?}");
        assert_eq!(b.udp(&a, ip_a), ip_b, "{overlay:?}");
        let tunnelled = one.ns.ip_json("link show").iter().any(|link| link["ifname"] == "vxlan.orlop");
        assert_eq!(tunnelled, overlay == Overlay::Vxlan);
        assert!(!tunnelled || sent(&one.ns, "vxlan.orlop") > 10);
    }
    // A peer that moves: its entries follow, and those of before are gone.
    set(&one, Overlay::Vxlan, "192.0.2.1", ("10.244.2.0/24", "192.0.2.2"));
    set(&one, Overlay::Vxlan, "192.0.2.1", ("10.244.3.0/24", "192.0.2.3"));
    let fdb = one.ns.exec(&["bridge", "fdb", "show", "dev", "vxlan.orlop"]);
    assert!(fdb.contains("0a:59:c0:00:02:03 dst 192.0.2.3") && !fdb.contains("192.0.2.2"), "{fdb}");
    assert_eq!(one.ns.ip_json("neigh show dev vxlan.orlop nud permanent").len(), 1);
    assert!(one.routes().contains(&"10.244.3.0/24 10.244.3.1".to_owned()), "{:?}", one.routes());
    one.run(async || Network::sweep().await.unwrap());
    assert!(one.ns.ip_json("link show").iter().all(|link| link["ifname"] != "vxlan.orlop"));
}

/// Bits per second that a connection carries, counted after its beginning.
fn rate(client: &Ns, server: &Ns, to: IpAddr, upload: bool) -> f64 {
    use std::io::{Read, Write};
    let listener = server.inside(|| TcpListener::bind((to, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let connected = client.inside(|| TcpStream::connect((to, port)).unwrap());
    let accepted = listener.accept().unwrap().0;
    let (mut from, mut into) = if upload { (connected, accepted) } else { (accepted, connected) };
    std::thread::scope(|scope| {
        scope.spawn(move || while from.write_all(&[0; 16 << 10]).is_ok() {});
        let mut buffer = [0; 64 << 10];
        let (start, mut bytes, mut begun) = (Instant::now(), 0, None);
        while start.elapsed() < Duration::from_millis(2000) {
            bytes += into.read(&mut buffer).unwrap();
            if start.elapsed() > Duration::from_millis(500) && begun.is_none() {
                begun = Some((Instant::now(), bytes));
            }
        }
        let (begun, before) = begun.unwrap();
        let rate = (bytes - before) as f64 * 8.0 / begun.elapsed().as_secs_f64();
        into.shutdown(std::net::Shutdown::Both).unwrap();
        rate
    })
}

#[test]
#[ignore = "netns tier"]
fn a_pods_bandwidth_is_what_it_was_given() {
    let (node, a, b) = (Node::new("10.244.1.0/24"), Ns::new(), Ns::new());
    let bandwidth = Bandwidth { ingress: Some(40_000_000), egress: Some(10_000_000) };
    let limited = Attachment { bandwidth, ..attachment("a", &a) };
    let b_ip = node.attach("b", &b);
    for _ in 0..2 {
        node.with(async |net| net.attach(&limited).await.unwrap());
    }
    let near = |rate: f64, wanted: f64| (0.8..=1.2).contains(&(rate / wanted));
    let (egress, ingress) = (rate(&a, &b, b_ip, true), rate(&a, &b, b_ip, false));
    println!("egress {egress:.0} of 10000000, ingress {ingress:.0} of 40000000 bit/s");
    assert!(near(egress, 10e6) && near(ingress, 40e6), "egress {egress}, ingress {ingress}");
    // Whatever the pod does to its own link.
    a.exec(&["tc", "qdisc", "replace", "dev", "eth0", "root", "pfifo"]);
    let egress = rate(&a, &b, b_ip, true);
    assert!(near(egress, 10e6), "egress {egress}");
    // Its address is looked at as ever.
    a.ip("addr add 10.244.1.77/32 dev eth0");
    assert!(!arrives(&a, [10, 244, 1, 77].into(), &b, b_ip));

    let links = || node.ns.ip_json("link show type ifb").len();
    assert_eq!(links(), 1);
    node.with(async |net| net.detach("a").await.unwrap());
    assert_eq!((links(), node.links().len()), (0, 1));
    // Left by a pod whose namespace ended while nobody looked.
    node.with(async |net| {
        net.attach(&Attachment { bandwidth, ..attachment("c", &Ns::new()) }).await.unwrap()
    });
    std::thread::sleep(Duration::from_millis(100));
    node.with(async |_| ());
    assert_eq!((links(), node.links().len()), (0, 1));
}
