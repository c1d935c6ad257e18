//! Killed between any two steps: the next life ends where it should, whichever way it goes.
//!
//! The half-done work is made with `ip` from the plan's own text: exactly the steps, by another hand.

use std::net::Ipv4Addr;

use orlop_cni::plan::{LinkState, PodLink, plan};

use crate::support::{Node, Ns, attachment};

/// The steps of a fresh pod as `ip` commands, each for the node or for the pod.
fn steps(address: Ipv4Addr, pod: &Ns) -> Vec<(bool, String)> {
    let ops = plan(&PodLink::new("a", address, 1450), &LinkState::default()).unwrap();
    let command = |op: String| match op.strip_prefix("POD ") {
        Some(inner) => (true, inner.to_owned()),
        None => (false, op.replace(" netns POD", &format!(" netns {}", pod.0))),
    };
    let settings = |(_, text): &(bool, String)| !text.starts_with("sysctl");
    ops.iter().map(|op| command(op.to_string())).filter(settings).collect()
}

/// Runs `after` for every number of steps that were done when the agent died.
fn after_each_prefix(after: impl Fn(&Node, &Ns, Ipv4Addr, usize)) {
    let count = steps(Ipv4Addr::new(10, 244, 1, 2), &Ns::new()).len();
    assert!(count >= 9, "{count} steps");
    for done in 0..=count {
        let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
        node.ns.ip("addr add 192.0.2.1/32 dev lo");
        // The ledger's line is always there first: attach, then take the links away again.
        let address = node.attach("a", &pod);
        node.ns.ip(&format!("link del {}", node.links()[0]));
        pod.ip("link set lo down");
        for (in_pod, command) in &steps(address, &pod)[..done] {
            if *in_pod {
                pod.ip(command)
            } else {
                node.ns.ip(command)
            };
        }
        after(&node, &pod, address, done);
    }
}

#[test]
#[ignore = "netns tier"]
fn attaching_after_a_kill_at_any_step_completes_the_pod() {
    after_each_prefix(|node, pod, address, done| {
        assert_eq!(node.attach("a", pod), address, "after {done} steps");
        assert_eq!(node.links().len(), 1, "after {done} steps");
        assert!(node.ns.ping(address), "after {done} steps");
    });
}

#[test]
#[ignore = "netns tier"]
fn detaching_after_a_kill_at_any_step_leaves_nothing() {
    after_each_prefix(|node, pod, _, done| {
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
    let (node, a, b) = (Node::new("10.244.1.0/24"), Ns::new(), Ns::new());
    let first = node.attach("a", &a);
    std::fs::remove_file(node.dir.path().join("addresses")).unwrap();
    node.with(async |net| {
        assert_eq!(net.attached().await, [("a".to_owned(), first)]);
        let second = net.attach(&attachment("b", &b)).await.unwrap().address;
        assert_ne!(second, first);
    });
    assert!(b.ping(first));
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
