//! AppArmor profiles on a machine that has no AppArmor: who asks for one is refused, who does not goes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use orlop_tests::Playground;

fn pod(name: &str, meta: &str, of_pod: &str, of_container: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, {meta}}}, spec: {{terminationGracePeriodSeconds: 1, \
         securityContext: {{{of_pod}}}, containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', \
           command: [sleep, '1000'], securityContext: {{{of_container}}}}}]}}}}"
    )
}

#[test]
#[ignore = "e2e tier"]
fn profiles_that_nobody_enforces_are_refused() {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    assert!(!enabled.is_ok_and(|text| text.starts_with('Y')), "this test is for machines without AppArmor");
    let p = Playground::start();
    let local = "appArmorProfile: {type: Localhost, localhostProfile: mine}";
    let old = "annotations: {container.apparmor.security.beta.kubernetes.io/c: localhost/mine}";
    for (name, meta, of_pod, of_container) in [
        ("of-pod", "", "appArmorProfile: {type: RuntimeDefault}", ""),
        ("of-container", "", "", local),
        ("of-annotation", old, "", ""),
    ] {
        p.apply(&pod(name, meta, of_pod, of_container)).text();
        let told = "jsonpath={.status.phase} {.status.reason}: {.status.message}";
        let told = p.wait_for(&["get", "pod", name, "-o", told], |text| text.contains("Failed"));
        assert!(
            told.contains("Failed AppArmor: ")
                && told.contains("Cannot enforce AppArmor: AppArmor is not enabled on the host"),
            "{name}: {told}"
        );
    }
    let profile =
        p.get(&["pod", "of-annotation"])["spec"]["containers"][0]["securityContext"]["appArmorProfile"]
            .clone();
    assert_eq!(profile, serde_json::json!({"type": "Localhost", "localhostProfile": "mine"}));
    for (name, of_container) in [("plain", ""), ("unconfined", "appArmorProfile: {type: Unconfined}")] {
        p.apply(&pod(name, "", "", of_container)).text();
        p.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).text();
    }
    let refusal = p.apply(&pod("odd", "", "appArmorProfile: {type: Localhost}", "")).refusal();
    let text = "spec.securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost";
    assert!(refusal.contains(text), "{refusal}");
}
