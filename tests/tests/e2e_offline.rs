//! A node that is cut off from its control plane: what it knew goes on, also through a reboot, and what happened
//! meanwhile is told when the API server is back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap, fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path,
    process::Command, time::Duration,
};

use orlop_tests::{Output, Playground, playground::run, until};

/// A web server with everything a pod can need from the API, one that has done its work, and their Service.
const WORKLOAD: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {text: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: word}
stringData: {word: sesame}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  volumes: [{name: page, configMap: {name: page}}]
  containers:
  - name: c
    image: orlop.dev/example/busybox:v1
    command: [sh, -c, 'cat /page/text > /tmp/index.html; echo $WORD >> /tmp/index.html; httpd -f -p 8080 -h /tmp']
    env: [{name: WORD, valueFrom: {secretKeyRef: {name: word, key: word}}}]
    livenessProbe: {exec: {command: [test, '!', -e, /tmp/ill]}, periodSeconds: 1, failureThreshold: 1}
    readinessProbe: {httpGet: {port: 8080, path: /index.html}, periodSeconds: 1}
    volumeMounts: [{name: page, mountPath: /page}]
---
apiVersion: v1
kind: Pod
metadata: {name: done}
spec:
  nodeName: node2
  restartPolicy: OnFailure
  containers:
  - name: c
    image: orlop.dev/example/busybox:v1
    command: [sh, -c, 'sleep 3; echo once']
";

fn status(p: &Playground, pod: &str, what: &str) -> String {
    p.kubectl(&["get", "pod", pod, &format!("-ojsonpath={what}")]).text()
}

/// `orlop exec` on the second node, which asks nobody.
fn exec(p: &Playground, pod: &str, command: &[&str]) -> Output {
    let run_dir = p.json["nodes"][1]["run"].as_str().unwrap();
    let mut exec = Command::new(p.dir.join("bin/orlop"));
    run(exec.args(["exec", "--run-dir", run_dir, pod, "--"]).args(command))
}

fn ask(p: &Playground, node: usize, url: &str) -> Result<(), String> {
    let out = run(p.inside(node, "curl").args(["-sS", "--max-time", "2", url]));
    if out.stdout == "hellosesame\n" { Ok(()) } else { Err(out.stdout + &out.stderr) }
}

#[test]
#[ignore = "e2e tier"]
fn a_node_cut_off_goes_on_through_a_reboot() {
    let mut p = Playground::with_args(&["--nodes", "2"]);
    p.apply(WORKLOAD).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"]).text();
    let address = status(&p, "web", "{.status.podIP}");
    let cluster_ip = p.kubectl(&["get", "service", "web", "-ojsonpath={.spec.clusterIP}"]).text();
    let url = format!("http://{cluster_ip}/index.html");
    until("the service answers", Duration::from_secs(10), || ask(&p, 2, &url));
    let memory = Path::new(p.json["nodes"][1]["state"].as_str().unwrap()).join("memory");
    until("it is written down", Duration::from_secs(10), || {
        let files = listed(&memory);
        let there = [
            "configmaps/default_page.json",
            "secrets/default_word.json",
            "listed/services.json",
            "listed/endpointslices.json",
            "listed/nodes.json",
        ];
        let token = files.keys().any(|file| file.starts_with("tokens/"));
        if there.iter().all(|file| files.contains_key(*file)) && token {
            Ok(())
        } else {
            Err(format!("{files:?}"))
        }
    });
    assert!(listed(&memory).values().all(|mode| *mode == 0o600), "{:?}", listed(&memory));

    // No API server from here on, and then not even the machine.
    let line = p.command_line(2);
    p.stop_agent(1);
    until("the other pod is done", Duration::from_secs(20), || {
        let words = fs::read_dir(memory.join("statuses"))
            .unwrap()
            .flatten()
            .filter_map(|file| fs::read_to_string(file.path()).ok());
        if words.into_iter().any(|status| status.contains("Succeeded")) {
            Ok(())
        } else {
            Err("not written down".into())
        }
    });
    ask(&p, 2, &url).expect("services go on without an API server");
    p.power_off(2);
    p.start_agent(2, &line);
    until("the pod is back", Duration::from_secs(30), || {
        ask(&p, 2, &format!("http://{address}:8080/index.html"))
    });
    until("its service too", Duration::from_secs(10), || ask(&p, 2, &url));
    let token = exec(&p, "web", &["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"]).text();
    assert_eq!(token.split('.').count(), 3, "a token that is still valid: {token:?}");
    // What had succeeded is not done again.
    let done = exec(&p, "done", &["true"]).refusal();
    assert!(done.contains("no pod"), "{done}");

    // A container that falls ill now is started again, with nobody to ask.
    exec(&p, "web", &["touch", "/tmp/ill"]).text();
    until("the container is back", Duration::from_secs(30), || {
        let ill = exec(&p, "web", &["test", "!", "-e", "/tmp/ill"]);
        if ill.ok { ask(&p, 2, &url) } else { Err(ill.stderr) }
    });

    // The API server is back and hears of it all.
    p.up();
    let told = "{.status.phase} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready} {.status.podIP}";
    p.wait_for(&["get", "pod", "web", &format!("-ojsonpath={told}")], |said| {
        said == format!("Running 2 true {address}")
    });
    p.wait_for(&["get", "pod", "done", "-ojsonpath={.status.phase}"], |phase| phase == "Succeeded");
    assert_eq!(status(&p, "done", "{.status.containerStatuses[0].restartCount}"), "0");
    p.wait_for(&["get", "nodes"], |nodes| nodes.matches(" Ready ").count() == 2);

    // What goes from the API goes from the disk.
    p.kubectl(&["delete", "pod", "web", "done", "--grace-period=1"]).text();
    until("nothing of them is remembered", Duration::from_secs(10), || {
        let files = listed(&memory);
        let left: Vec<_> = files
            .keys()
            .filter(|file| {
                ["pods/", "statuses/", "configmaps/", "secrets/", "tokens/"]
                    .iter()
                    .any(|kind| file.starts_with(kind))
            })
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// Files below the directory with their modes.
fn listed(dir: &Path) -> BTreeMap<String, u32> {
    let kinds = fs::read_dir(dir).unwrap().flatten();
    let files = kinds.flat_map(|kind| fs::read_dir(kind.path()).unwrap().flatten());
    files
        .filter_map(|file| {
            let name = file.path().strip_prefix(dir).unwrap().display().to_string();
            Some((name, file.metadata().ok()?.permissions().mode() & 0o777))
        })
        .collect()
}

/// Two pods that call the world with the first thing they do; a policy keeps one of them from it.
fn callers(shut: &str, open: &str) -> String {
    let pod = |name: &str, to: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{nodeName: node2, \
             terminationGracePeriodSeconds: 1, containers: [{{name: c, image: 'orlop.dev/example/hello:v1', args: [connect, '{to}', '1000']}}]}}}}"
        )
    };
    format!("{}\n---\n{}", pod("shut", shut), pod("open", open))
}

const SHUT: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut}
spec: {podSelector: {matchLabels: {app: shut}}, policyTypes: [Egress]}
";

#[test]
#[ignore = "e2e tier"]
fn policies_are_in_force_before_pods_run_after_a_reboot_alone() {
    let p = Playground::with_args(&["--nodes", "2"]);
    let host = p.json["gateway"].as_str().unwrap();
    let listen = || {
        let listener = TcpListener::bind((host, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    };
    let ((not_called, shut), (called, open)) = (listen(), listen());
    let calls = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
    p.apply(SHUT).text();
    p.apply(&callers(&shut, &open)).text();
    until("the open one calls", Duration::from_secs(20), || match calls(&called) {
        0 => Err("no call".to_owned()),
        _ => Ok(()),
    });
    let state = Path::new(p.json["nodes"][1]["state"].as_str().unwrap());
    until("it is written down", Duration::from_secs(10), || {
        let files = listed(&state.join("memory"));
        let there = [
            "listed/networkpolicies.json",
            "listed/namespaces.json",
            "listed/peers.json",
            "networkpolicies/default_shut.json",
            "namespaces/default.json",
            "peers/default_shut.json",
        ];
        let missing: Vec<_> = there.iter().filter(|file| !files.contains_key(**file)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    });
    let tried = || {
        let file = state.join("log/pods");
        let dirs = fs::read_dir(file).unwrap().flatten();
        let shut = dirs.filter(|dir| dir.file_name().to_string_lossy().starts_with("default_shut_"));
        let logs = shut.flat_map(|dir| fs::read_dir(dir.path().join("c")).into_iter().flatten().flatten());
        logs.filter_map(|log| fs::read_to_string(log.path()).ok()).collect::<String>()
    };
    until("the other one tries", Duration::from_secs(20), || {
        if tried().lines().count() > 0 { Ok(()) } else { Err(tried()) }
    });

    let line = p.command_line(2);
    p.stop_agent(1);
    p.power_off(2);
    let (before, _left) = (tried().lines().count(), calls(&called));
    p.start_agent(2, &line);
    until("the open one calls again", Duration::from_secs(30), || match calls(&called) {
        0 => Err("no call".to_owned()),
        _ => Ok(()),
    });
    until("the other one tries again", Duration::from_secs(30), || {
        if tried().lines().count() > before { Ok(()) } else { Err(tried()) }
    });
    assert_eq!(calls(&not_called), 0, "{}", tried());
}
