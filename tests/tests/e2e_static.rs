//! Static pods: run from files, shown in the API by mirrors, and run where there is no API at all.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, time::Duration};

use orlop_tests::{Playground, playground::run, until};

const SET: &str = "
apiVersion: orlop.dev/v1
kind: Static
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: page}, data: {text: first}}
- {apiVersion: v1, kind: Secret, metadata: {name: word}, stringData: {word: sesame}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, labels: {app: web}}
  spec:
    terminationGracePeriodSeconds: 2
    volumes: [{name: page, configMap: {name: page}}]
    containers:
    - name: c
      image: orlop.dev/example/busybox:v1
      imagePullPolicy: Never
      command: [sh, -c, 'echo one $WORD; trap \"exit 0\" TERM; sleep 3600 & wait']
      env: [{name: WORD, valueFrom: {secretKeyRef: {name: word, key: word}}}]
      volumeMounts: [{name: page, mountPath: /page}]
";

fn put(dir: &Path, file: &str, text: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(format!(".{file}")), text).unwrap();
    fs::rename(dir.join(format!(".{file}")), dir.join(file)).unwrap();
}

#[test]
#[ignore = "e2e tier"]
fn static_pods_run_and_are_shown() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("manifests");
    put(&dir, "web.yaml", SET);
    let mut p = Playground::with(&[], &[("ORLOP_STATIC_POD_PATH", dir.to_str().unwrap())]);
    let status =
        |what: &str| vec!["get".to_owned(), "pod".into(), "web-node1".into(), format!("-ojsonpath={what}")];
    let get = |p: &Playground, what: &str| {
        let words = status(what);
        p.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let wait = |p: &Playground, what: &str, accept: &dyn Fn(&str) -> bool| {
        let words = status(what);
        p.wait_for(&words.iter().map(String::as_str).collect::<Vec<_>>(), accept)
    };
    p.kubectl(&["wait", "--for=create", "pod/web-node1", "--timeout=30s"]).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/web-node1", "--timeout=30s"]).text();
    let shown = p.get(&["pod", "web-node1"]);
    assert_eq!(shown["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    assert_eq!(shown["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert!(shown["spec"]["containers"][0]["env"][0].get("valueFrom").is_none(), "{shown}");
    assert_eq!(shown["status"]["podIP"], shown["status"]["podIPs"][0]["ip"]);
    // Everything that looks into a pod works as with any other one.
    assert_eq!(p.kubectl(&["logs", "web-node1"]).text(), "one sesame\n");
    assert_eq!(p.kubectl(&["exec", "web-node1", "--", "cat", "/page/text"]).text(), "first");
    let events = p.kubectl(&["describe", "pod", "web-node1"]).text();
    assert!(events.contains("Started container c"), "{events}");
    // Its objects are nobody else's.
    let none = p.kubectl(&["get", "configmap", "page"]).refusal();
    assert!(none.contains("not found"), "{none}");

    // A deleted mirror comes back, and the pod does not notice.
    let container = get(&p, "{.status.containerStatuses[0].containerID}").text();
    let mirror = get(&p, "{.metadata.uid}").text();
    p.kubectl(&["delete", "pod", "web-node1", "--wait=false"]).text();
    wait(&p, "{.metadata.uid} {.status.phase}", &|said| {
        said.split_once(' ').is_some_and(|(uid, phase)| uid != mirror && phase == "Running")
    });
    assert_eq!(get(&p, "{.status.containerStatuses[0].containerID}").text(), container);

    // A file that cannot be used is told, and is no other one's problem; half a file does not end a pod.
    put(&dir, "bad.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {contaners: []}}");
    put(&dir, "web.yaml", &SET[..200]);
    until("both are told", Duration::from_secs(10), || {
        let events = p.kubectl(&["get", "events", "--field-selector=reason=InvalidStaticPod"]).text();
        let told = events.contains("unknown field \"spec.contaners\"") && events.contains("web.yaml: ");
        if told { Ok(()) } else { Err(events) }
    });
    assert_eq!(get(&p, "{.status.containerStatuses[0].containerID}").text(), container);

    // Another ConfigMap reaches the pod that runs; a killed agent changes nothing.
    put(&dir, "web.yaml", &SET.replace("text: first", "text: second"));
    until("the volume is up to date", Duration::from_secs(20), || {
        let page = p.kubectl(&["exec", "web-node1", "--", "cat", "/page/text"]);
        if page.stdout == "second" { Ok(()) } else { Err(page.stdout + &page.stderr) }
    });
    p.kill_agent(1);
    p.up();
    wait(&p, "{.status.phase}", &|phase| phase == "Running");
    assert_eq!(get(&p, "{.status.containerStatuses[0].containerID}").text(), container);
    assert_eq!(get(&p, "{.status.containerStatuses[0].restartCount}").text(), "0");

    // Another pod of the name: the old one ends first, with the time it wants.
    put(&dir, "web.yaml", &SET.replace("echo one", "echo two"));
    wait(&p, "{.status.phase} {.status.containerStatuses[0].containerID}", &|said| {
        said.starts_with("Running ") && !said.ends_with(&container)
    });
    until("its log", Duration::from_secs(5), || {
        let log = p.kubectl(&["logs", "web-node1"]);
        if log.stdout == "two sesame\n" { Ok(()) } else { Err(log.stdout + &log.stderr) }
    });

    fs::remove_file(dir.join("web.yaml")).unwrap();
    until("it is gone", Duration::from_secs(20), || {
        let left = p.kubectl(&["get", "pods", "-A", "-o", "name"]).text();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
#[ignore = "e2e tier"]
fn static_pods_need_no_api_server() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("manifests");
    put(&dir, "web.yaml", SET);
    let p = Playground::start();
    let alone = p.command_line(1).in_mode("node").with(&format!("--static-pod-path={}", dir.display()));
    p.stop_agent(1);
    p.start_agent(1, &alone);
    let exec = |command: &[&str]| p.exec("web-node1", command);
    until("the pod runs", Duration::from_secs(20), || {
        let page = exec(&["cat", "/page/text"]);
        if page.stdout == "first" { Ok(()) } else { Err(page.stderr) }
    });
    let address = exec(&["hostname", "-i"]).text();
    let ping = run(p.inside(1, "ping").args(["-c1", "-W2", address.trim()]));
    assert!(ping.ok, "{ping:?}");
    let logs = |p: &Playground| {
        let mut logs = std::process::Command::new(p.dir.join("bin/orlop"));
        run(logs.args(["logs", "web-node1", "--run-dir"]).arg(p.dir.join("run"))).text()
    };
    assert_eq!(logs(&p), "one sesame\n");

    // After a reboot it comes back, with nobody to ask.
    p.power_off(1);
    p.start_agent(1, &alone);
    until("the pod runs again", Duration::from_secs(20), || {
        let page = exec(&["cat", "/page/text"]);
        if page.stdout == "first" { Ok(()) } else { Err(page.stderr) }
    });
    assert_eq!(exec(&["hostname", "-i"]).text(), address, "it keeps its address");
}
