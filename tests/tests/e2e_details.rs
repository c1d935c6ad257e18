//! What a second look finds: things that work at first sight and were wrong in a corner.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use orlop_tests::{Playground, until};

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: moved}, spec: {containers: [{name: c, \
                   image: 'orlop.dev/example/busybox:v1', command: [sleep, '600']}]}}";

/// kubectl hands what it applied on its own side over to the server; what the server had filled in stays.
fn client_side_apply_turns_into_server_side_apply(p: &Playground) {
    p.apply(POD).text();
    for _ in 0..2 {
        let args = ["apply", "--server-side", "-f", "-"];
        let out = p.with_stdin(&args, &format!("# YAML\n{POD}"));
        assert_eq!(out.stderr, "", "{out:?}");
        assert_eq!(out.text(), "pod/moved serverside-applied\n");
    }
    let pod = p.get(&["pod", "moved"]);
    assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
}

/// A common command takes the API server's own Service with it.
fn the_servers_own_service_comes_back(p: &Playground) {
    let before = p.get(&["service", "kubernetes"])["spec"]["clusterIP"].clone();
    p.kubectl(&["delete", "services,endpoints,endpointslices", "--all"]).text();
    p.wait_for(&["get", "service/kubernetes", "endpoints/kubernetes", "endpointslice/kubernetes"], |_| true);
    assert_eq!(p.get(&["service", "kubernetes"])["spec"]["clusterIP"], before);
}

/// Images that were loaded beside the agent are in the node's status; its first steps are events.
fn a_node_tells_its_images_and_its_start(p: &Playground) {
    p.wait_for(&["get", "node", "node1", "-o", "jsonpath={.status.images[*].names}"], |names| {
        names.contains("orlop.dev/example/busybox:v1")
    });
    let events = p.wait_for(&["describe", "node", "node1"], |text| text.contains("RegisteredNode"));
    for reason in
        ["Starting", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]
    {
        assert!(events.contains(reason), "{reason} is not in\n{events}");
    }
    assert!(!events.contains("NodeNotReady"), "{events}");
}

/// What keeps a namespace from going away is said.
fn a_namespace_says_what_keeps_it(p: &Playground) {
    p.kubectl(&["create", "namespace", "kept"]).text();
    p.kubectl(&["-n", "kept", "create", "configmap", "c"]).text();
    let patch = |finalizers: &str| {
        let patch = format!("{{\"metadata\":{{\"finalizers\":{finalizers}}}}}");
        p.kubectl(&["-n", "kept", "patch", "configmap", "c", "--type=merge", "-p", &patch]).text();
    };
    patch("[\"example.com/mine\"]");
    p.kubectl(&["delete", "namespace", "kept", "--wait=false"]).text();
    p.wait_for(&["describe", "namespace", "kept"], |text| {
        text.contains("example.com/mine in 1 resource instances")
            && text.contains("All content successfully deleted, may be waiting on finalization")
    });
    patch("null");
    until("the namespace is gone", Duration::from_secs(20), || {
        let out = p.kubectl(&["get", "namespace", "kept"]);
        if out.stderr.contains("NotFound") { Ok(()) } else { Err(format!("{out:?}")) }
    });
}

#[test]
#[ignore = "e2e tier"]
fn corners() {
    let p = Playground::start();
    client_side_apply_turns_into_server_side_apply(&p);
    the_servers_own_service_comes_back(&p);
    a_node_tells_its_images_and_its_start(&p);
    a_namespace_says_what_keeps_it(&p);
}
