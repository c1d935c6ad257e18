//! Killed between any two steps: the next life ends where it should, whichever way it goes.
//!
//! The half-done work is made with `ip` from the plan's own text: exactly the steps, by another hand.

use std::net::IpAddr;

use orlop_cni::plan::{LinkState, PodLink, plan};

use crate::support::{Node, Ns, attachment};

/// The steps of a fresh pod as `ip` commands, each for the node or for the pod.
fn steps(addresses: &[IpAddr], pod: &Ns) -> Vec<(bool, String)> {
    let ops = plan(&PodLink::new("a", addresses.to_vec(), 1450), &LinkState::default()).unwrap();
    let command = |op: String| match op.strip_prefix("POD ") {
        Some(inner) => (true, inner.to_owned()),
        None => (false, op.replace(" netns POD", &format!(" netns {}", pod.0))),
    };
    let settings = |(_, text): &(bool, String)| !text.starts_with("sysctl");
    ops.iter().map(|op| command(op.to_string())).filter(settings).collect()
}

/// Runs `after` for every number of steps that were done when the agent died.
fn after_each_prefix(pod_cidr: &'static str, after: impl Fn(&Node, &Ns, &[IpAddr], usize)) {
    let mut done = 0;
    loop {
        let (node, pod) = (Node::new(pod_cidr), Ns::new());
        node.ns.ip("addr add 192.0.2.1/32 dev lo");
        node.ns.ip("addr add 2001:db8::1/128 dev lo");
        // The ledger's line is always there first: attach, then take the links away again.
        let addresses = node.attach_all("a", &pod);
        node.ns.ip(&format!("link del {}", node.links()[0]));
        pod.ip("link set lo down");
        let steps = steps(&addresses, &pod);
        for (in_pod, command) in &steps[..done] {
            if *in_pod {
                pod.ip(command)
            } else {
                node.ns.ip(command)
            };
        }
        after(&node, &pod, &addresses, done);
        if done == steps.len() {
            break;
        }
        done += 1;
    }
    assert!(done >= 9, "{done} steps");
}

#[test]
#[ignore = "netns tier"]
fn attaching_after_a_kill_at_any_step_completes_the_pod() {
    for pod_cidr in ["10.244.1.0/24", "10.244.1.0/24,fd00:10:0:1::/64"] {
        after_each_prefix(pod_cidr, |node, pod, addresses, done| {
            assert_eq!(node.attach_all("a", pod), addresses, "after {done} steps");
            assert_eq!(node.links().len(), 1, "after {done} steps");
            assert!(addresses.iter().all(|address| node.ns.ping(*address)), "after {done} steps");
        });
    }
}

#[test]
#[ignore = "netns tier"]
fn detaching_after_a_kill_at_any_step_leaves_nothing() {
    after_each_prefix("10.244.1.0/24", |node, pod, _, done| {
        node.with(async |net| {
            net.detach("a").await.unwrap();
            assert_eq!(net.attached().await, [], "after {done} steps");
        });
        assert_eq!(node.links(), Vec::<String>::new(), "after {done} steps");
        assert_eq!(node.routes(), ["10.244.1.0/24 unreachable"], "after {done} steps");
        assert!(pod.ip_json("link show").iter().all(|link| link["ifname"] != "eth0"));
    });
}

#[test]
#[ignore = "netns tier"]
fn a_lost_ledger_is_learned_again_from_the_links() {
    let (node, a, b) = (Node::new("fd00:10:0:1::/64,10.244.1.0/24"), Ns::new(), Ns::new());
    let first = node.attach_all("a", &a);
    std::fs::remove_file(node.dir.path().join("addresses")).unwrap();
    node.with(async |net| {
        assert_eq!(net.attached().await, [("a".to_owned(), first.clone())]);
        let second = net.attach(&attachment("b", &b)).await.unwrap().addresses;
        assert!(second.iter().all(|address| !first.contains(address)));
    });
    assert!(first.iter().all(|address| b.ping(*address)));
}

#[test]
#[ignore = "netns tier"]
fn a_step_that_fails_is_undone_with_all_before_it() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    // The last step, the node's route, will meet somebody else's.
    node.ns.ip("route add 10.244.1.2/32 dev lo");
    node.with(async |net| {
        let error = net.attach(&attachment("a", &pod)).await.unwrap_err();
        assert!(error.to_string().starts_with("route add 10.244.1.2/32 dev orl"), "{error}");
        assert_eq!(net.attached().await, []);
    });
    assert_eq!(node.links(), Vec::<String>::new());
    let lo = &pod.ip_json("link show dev lo")[0];
    assert_eq!(lo["operstate"], "DOWN");
}
