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

/// The file is there whoever the container runs as and wherever it is said to be; the log stands in only where asked.
fn last_words_reach_the_status(p: &Playground) {
    let container = |name: &str, script: &str, more: &str| {
        format!(
            "{{name: {name}, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, '{script}'], {more}}}"
        )
    };
    let fall_back = "terminationMessagePolicy: FallbackToLogsOnError";
    let containers = [
        container("as-root", "echo -n one > /dev/termination-log", ""),
        container(
            "as-user",
            "id -u > /deep/er/words && echo no > /root || cat /deep/er/words",
            "terminationMessagePath: /deep/er/words, \
             securityContext: {runAsUser: 1000, runAsGroup: 1000, readOnlyRootFilesystem: true}",
        ),
        container("relative", "echo -n two > /words; exit 3", "terminationMessagePath: words"),
        container(
            "in-volume",
            "echo -n three > /e/words; ls /e > /e/seen",
            "terminationMessagePath: /e/words, \
             volumeMounts: [{name: e, mountPath: /e}]",
        ),
        container("logs", "seq 1 100; echo out; exit 1", fall_back),
        container("logs-unused", "echo -n four > /dev/termination-log; echo out; exit 1", fall_back),
        container("logs-of-success", "echo out", fall_back),
        container("file-only", "echo out; exit 1", ""),
        container("long", "busybox seq -w 1 900 > /dev/termination-log; exit 1", fall_back),
    ];
    for (name, host_users) in [("words", true), ("mapped-words", false)] {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, hostUsers: {host_users}, \
             volumes: [{{name: e, emptyDir: {{}}}}], containers: [{}]}}}}",
            containers.join(", ")
        );
        p.apply(&pod).text();
        p.wait_for(&["get", "pod", name, "-o", "jsonpath={.status.phase}"], |phase| phase == "Failed");
        let pod = p.get(&["pod", name]);
        let said = |container: &str| {
            let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
            let status = statuses.iter().find(|status| status["name"] == container).unwrap();
            status["state"]["terminated"]["message"].as_str().map(str::to_owned)
        };
        let expected = [
            ("as-root", Some("one")),
            ("as-user", Some("1000\n")),
            ("relative", Some("two")),
            ("in-volume", Some("three")),
            ("logs-unused", Some("four")),
            ("logs-of-success", None),
            ("file-only", None),
        ];
        for (container, words) in expected {
            assert_eq!(said(container).as_deref(), words, "{container} of {name}");
        }
        let logs: String = (22..=100).map(|n| format!("{n}\n")).collect();
        assert_eq!(said("logs"), Some(logs + "out\n"), "{name}");
        // Nine containers share 12 KiB.
        let long: String = (1..=900).map(|n| format!("{n:03}\n")).collect();
        assert_eq!(said("long").as_deref(), Some(&long[..(12 << 10) / 9]), "{name}");
        p.kubectl(&["delete", "pod", name, "--timeout=30s"]).text();
    }
}

/// Two settings that only a whole node shows to reach the runtime: `tty` and `shareProcessNamespace`.
fn a_terminal_and_shared_processes(p: &Playground) {
    p.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: shared}, spec: {shareProcessNamespace: true, containers: [\
         {name: t, image: 'orlop.dev/example/busybox:v1', tty: true, stdin: true, command: [sh, -c, 'tty; exec sleep 601']}, \
         {name: other, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, 'sleep 1; exec ps']}], restartPolicy: Never}}",
    )
    .text();
    p.wait_for(&["logs", "shared", "-c", "t"], |log| log.contains("/dev/pts/0"));
    p.wait_for(&["logs", "shared", "-c", "other"], |log| {
        log.contains("65535    orlop-init") && log.contains("sleep 601")
    });
}

/// What one container writes into a volume is another one's environment (KEP-3721), whatever links it leaves there.
fn an_env_file_of_another_container(p: &Playground) {
    let pod = |name: &str, path: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, volumes: [{{name: v, emptyDir: {{}}}}], \
             initContainers: [{{name: w, image: 'orlop.dev/example/busybox:v1', volumeMounts: [{{name: v, mountPath: /v}}], \
             command: [sh, -c, 'echo \"WORD=open sesame\" > /v/env; ln -s /etc/passwd /v/link']}}], \
             containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, 'echo \"$X\"'], env: [{{name: X, \
             valueFrom: {{fileKeyRef: {{volumeName: v, path: {path}, key: WORD}}}}}}]}}]}}}}"
        )
    };
    p.apply(&pod("env-file", "env")).text();
    p.wait_for(&["logs", "env-file"], |log| log == "open sesame\n");
    p.apply(&pod("env-link", "link")).text();
    let waiting = "-ojsonpath={.status.containerStatuses[0].state.waiting}";
    p.wait_for(&["get", "pod", "env-link", waiting], |said| {
        said.contains("CreateContainerConfigError") && said.contains("couldn't parse env file")
    });
    let refused = p.apply(&pod("env-out", "../x")).refusal();
    assert!(refused.contains("fileKeyRef.path: Invalid value: \"../x\""), "{refused}");
}

/// KEP-5307: a rule restarts what the pod's policy would not; a policy of its own ends what the pod's would restart.
fn containers_have_restart_rules_of_their_own(p: &Playground) {
    let spec = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{volumes: [{{name: v, emptyDir: {{}}}}], {spec}}}}}"
        )
    };
    let container = |script: &str, more: &str| {
        format!(
            "{{name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, '{script}'], \
             volumeMounts: [{{name: v, mountPath: /v}}], {more}}}"
        )
    };
    let rule = "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]";
    let refused = p.apply(&spec("ruled", &format!("containers: [{}]", container("exit 1", rule))));
    let text = "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used";
    assert!(refused.stderr.contains(text), "{refused:?}");
    let again = container(
        "test -e /v/once && exit 0; echo > /v/once; exit 42",
        &format!("restartPolicy: Never, {rule}"),
    );
    p.apply(&spec("ruled", &format!("restartPolicy: Never, containers: [{again}]"))).text();
    let never = container("exit 3", "restartPolicy: Never");
    p.apply(&spec(
        "once",
        &format!(
            "initContainers: [{never}], containers: [{}]",
            container("sleep 600", "").replace("name: c,", "name: d,")
        ),
    ))
    .text();
    for (name, end) in [("ruled", "Succeeded"), ("once", "Failed")] {
        p.wait_for(&["get", "pod", name, "-o", "jsonpath={.status.phase}"], |phase| phase == end);
    }
    let status = &p.get(&["pod", "ruled"])["status"]["containerStatuses"][0];
    assert_eq!(
        (&status["restartCount"], &status["lastState"]["terminated"]["exitCode"]),
        (&1.into(), &42.into())
    );
    let status = &p.get(&["pod", "once"])["status"];
    assert_eq!(status["initContainerStatuses"][0]["restartCount"], 0);
    p.kubectl(&["delete", "pod", "ruled", "once", "--timeout=30s"]).text();
}

#[test]
#[ignore = "e2e tier"]
fn corners() {
    let p = Playground::start();
    client_side_apply_turns_into_server_side_apply(&p);
    the_servers_own_service_comes_back(&p);
    a_node_tells_its_images_and_its_start(&p);
    a_namespace_says_what_keeps_it(&p);
    last_words_reach_the_status(&p);
    a_terminal_and_shared_processes(&p);
    an_env_file_of_another_container(&p);
    containers_have_restart_rules_of_their_own(&p);
}
