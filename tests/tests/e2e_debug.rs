//! `kubectl debug`: a container put into a pod that runs, which sees the processes of another.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use orlop_tests::Playground;

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 1, containers: \
    [{name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, 'exec sleep 4321']}]}}";

#[test]
#[ignore = "e2e tier"]
fn a_debug_container_sees_its_target() {
    let mut p = Playground::start();
    p.apply(POD).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]).text();
    let image = "--image=orlop.dev/example/busybox:v1";
    let debug = ["debug", "p", image, "--attach=false"];
    let with = |more: &[&str]| p.kubectl(&[&debug[..], more].concat());
    let look = ["--", "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '; exit 3"];
    with(&[&["-c", "see", "--target=c"], &look[..]].concat()).text();
    with(&[&["-c", "alone"], &look[..]].concat()).text();
    let exit = |name: &str| {
        let path = format!(
            "-o=jsonpath={{.status.ephemeralContainerStatuses[?(@.name==\"{name}\")].state.terminated.exitCode}}"
        );
        p.wait_for(&["get", "pod", "p", &path], |code| !code.is_empty())
    };
    assert_eq!([exit("see"), exit("alone")], ["3", "3"]);
    assert_eq!(p.kubectl(&["logs", "p", "-c", "see"]).text().trim(), "sleep 4321");
    assert!(p.kubectl(&["logs", "p", "-c", "alone"]).text().starts_with("sh -c"), "processes of its own");
    let told = p.kubectl(&["describe", "pod", "p"]).text();
    assert!(told.contains("Ephemeral Containers:") && told.contains("Started container see"), "{told}");

    // What is typed arrives. The command has to end by itself: kubectl leaves the input open here.
    let typed = ["debug", "p", image, "--quiet", "-i", "-c", "typed", "--target=c", "--", "sh", "-c"];
    assert_eq!(
        p.with_stdin(&[&typed[..], &["read x; echo $x again"]].concat(), "ahoy\n").text(),
        "ahoy again\n"
    );

    // They are not started again by a new agent.
    let id = "-o=jsonpath={.status.ephemeralContainerStatuses[*].containerID} {.status.phase}";
    let before = p.kubectl(&["get", "pod", "p", id]).text();
    p.kill_agent(1);
    p.up();
    p.kubectl(&["annotate", "pod", "p", "new=agent"]).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]).text();
    assert_eq!(p.kubectl(&["get", "pod", "p", id]).text(), before);

    let missing =
        p.kubectl(&["debug", "p", image, "--target=nobody", "--attach=false", "--", "true"]).refusal();
    assert!(missing.contains("targetContainerName: Not found: \"nobody\""), "{missing}");
    p.kubectl(&["delete", "pod", "p", "--timeout=30s"]).text();
}
