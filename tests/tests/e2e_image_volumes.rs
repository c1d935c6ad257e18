//! Images as volumes (KEP-4639), as people use them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use orlop_tests::Playground;

/// The whole image, and a file of it.
fn reader(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{more} terminationGracePeriodSeconds: 1, \
         securityContext: {{fsGroup: 2000, fsGroupChangePolicy: Always}}, \
         volumes: [{{name: v, image: {{reference: 'orlop.dev/example/busybox:v1'}}}}], \
         containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', \
           command: [sh, -c, 'exec 2>&1; cmp /img/bin/busybox /bin/busybox && cmp /true /bin/busybox && echo same; \
             stat -c %u:%g:%a /img/bin/busybox; echo x > /img/new || echo refused; /true && echo ran; sleep 1000'], \
           volumeMounts: [{{name: v, mountPath: /img}}, {{name: v, mountPath: /true, subPath: bin/busybox}}]}}]}}}}"
    )
}

const READ: &str = "same\n0:0:755\nsh: can't create /img/new: Read-only file system\nrefused\nran\n";

fn read(p: &Playground, pod: &str) {
    let log = p.wait_for(&["logs", pod], |text| text.contains("ran\n"));
    assert_eq!(log, READ, "{pod}");
}

/// Whoever mounts it waits for it, in the words of images; whoever does not starts.
fn an_image_that_is_not_there_holds_back_who_mounts_it(p: &Playground) {
    p.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: missing}, spec: {terminationGracePeriodSeconds: 1, \
         volumes: [{name: v, image: {reference: 'registry.invalid/data:v1', pullPolicy: IfNotPresent}}, \
           {name: w, image: {reference: 'registry.invalid/never:v1', pullPolicy: Never}}], containers: [\
         {name: with, image: 'orlop.dev/example/busybox:v1', command: [sleep, '1000'], volumeMounts: [{name: v, mountPath: /v}]}, \
         {name: never, image: 'orlop.dev/example/busybox:v1', command: [sleep, '1000'], volumeMounts: [{name: w, mountPath: /v}]}, \
         {name: without, image: 'orlop.dev/example/busybox:v1', command: [sleep, '1000']}]}}",
    )
    .text();
    let state = |name: &str| format!("jsonpath={{.status.containerStatuses[?(@.name==\"{name}\")].state}}");
    let get = |state: &str, accept: &dyn Fn(&str) -> bool| {
        p.wait_for(&["get", "pod", "missing", "-o", state], accept)
    };
    let waiting = get(&state("with"), &|text| text.contains("\"ImagePullBackOff\""));
    assert!(
        waiting.contains("Back-off pulling image \\\"registry.invalid/data:v1\\\": ErrImagePull: "),
        "{waiting}"
    );
    let waiting = get(&state("never"), &|text| text.contains("\"ErrImageNeverPull\""));
    let text = "Container image \\\"registry.invalid/never:v1\\\" is not present with pull policy of Never";
    assert!(waiting.contains(text), "{waiting}");
    get(&state("without"), &|text| text.contains("running"));
    let events = p.kubectl(&["get", "events", "--field-selector=involvedObject.name=missing"]).text();
    for text in
        ["Pulling image \"registry.invalid/data:v1\"", "Failed to pull image \"registry.invalid/data:v1\": "]
    {
        assert!(events.contains(text), "{text}: {events}");
    }
    let refusal = p
        .apply(
            &reader("empty", "")
                .replace("reference: 'orlop.dev/example/busybox:v1'", "pullPolicy: Sometimes"),
        )
        .refusal();
    for text in [
        "spec.volumes[0].image.reference: Required value",
        "spec.volumes[0].image.pullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
    ] {
        assert!(refusal.contains(text), "{text}: {refusal}");
    }
    p.apply(&reader("part", "").replace("bin/busybox}", "bin/none}")).text();
    let waiting = "jsonpath={.status.containerStatuses[0].state.waiting}";
    let state =
        p.wait_for(&["get", "pod", "part", "-o", waiting], |text| text.contains("CreateContainerError"));
    assert!(
        state.contains("mount image volume at /true: subPath \\\"bin/none\\\": No such file or directory"),
        "{state}"
    );
    p.kubectl(&["delete", "pod", "missing", "part", "--timeout=30s"]).text();
}

#[test]
#[ignore = "e2e tier"]
fn images_are_volumes() {
    let mut p = Playground::start();
    p.apply(&reader("one", "")).text();
    p.apply(&reader("mapped", "hostUsers: false,")).text();
    read(&p, "one");
    read(&p, "mapped");
    assert_eq!(p.get(&["pod", "one"])["spec"]["volumes"][0]["image"]["pullPolicy"], "IfNotPresent");
    an_image_that_is_not_there_holds_back_who_mounts_it(&p);
    p.kill_agent(1);
    p.up();
    read(&p, "one");
    assert_eq!(p.get(&["pod", "mapped"])["status"]["containerStatuses"][0]["restartCount"], 0);
    p.kubectl(&["delete", "pod", "one", "--timeout=30s"]).text();
    // The other one is for `down`, which must leave nothing of it.
}
