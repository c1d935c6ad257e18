//! `examples/dataplane.yaml` as a cluster runs it: in kube-proxy's place beside a kubelet that serves no Services itself, as the
//! service account and with the rights that the manifest gives.
//!
//! The bundled API server has neither roles nor DaemonSets. What stands in for the first refuses what the ClusterRole does
//! not grant; in place of the second the test makes the pod of the template.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use orlop_tests::{
    Playground,
    playground::{given, run},
    roles::{Roles, granted},
    until,
};
use serde_json::{Value, json};

const MANIFEST: &str = include_str!("../../examples/dataplane.yaml");
const HELLO: &str = include_str!("../../examples/hello.yaml");

/// The manifest's object of a kind.
fn object(kind: &str) -> Value {
    let mut objects = MANIFEST.split("\n---\n").map(|one| serde_norway::from_str(one).unwrap());
    objects.find(|object: &Value| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// A bpffs, as a machine has one at `/sys/fs/bpf`.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(at)).text();
        Self(at.to_owned())
    }

    fn pins(&self) -> Vec<String> {
        let listed =
            run(Command::new("find").arg(self.0.join("orlop")).args(["-type", "f", "-printf", "%f\n"]))
                .text();
        listed.lines().map(str::to_owned).collect()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Pins go with their file system.
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// The pod of the DaemonSet for this node; only what an operator is told to set is set, and where the machine's bpffs is.
fn pod(p: &Playground, bpffs: &Bpffs, master: &str) -> Value {
    let template = &object("DaemonSet")["spec"]["template"];
    let mut spec = template["spec"].clone();
    let container = &mut spec["containers"][0];
    for variable in container["env"].as_array_mut().unwrap() {
        match variable["name"].as_str().unwrap() {
            "ORLOP_MASTER" => variable["value"] = master.into(),
            "ORLOP_CLUSTER_CIDR" => variable["value"] = "10.42.0.0/16".into(),
            _ => {}
        }
    }
    let root = p.json["nodes"][0]["cgroup"].as_str().unwrap();
    container["args"].as_array_mut().unwrap().push(format!("--cgroup-root={root}/kubepods").into());
    for volume in spec["volumes"].as_array_mut().unwrap() {
        if volume["name"] == "bpf" {
            volume["hostPath"]["path"] = bpffs.0.join("orlop").to_str().unwrap().into();
        }
    }
    spec["nodeName"] = "node1".into();
    spec["terminationGracePeriodSeconds"] = 1.into();
    json!({
        "apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": "orlop-dataplane", "namespace": "kube-system", "labels": template["metadata"]["labels"]},
    })
}

fn start(p: &Playground, pod: &Value) {
    p.apply(&pod.to_string()).text();
    let waited = p.kubectl(&[
        "-n",
        "kube-system",
        "wait",
        "--for=condition=Ready",
        "pod/orlop-dataplane",
        "--timeout=30s",
    ]);
    if !waited.ok {
        let logs = p.kubectl(&["-n", "kube-system", "logs", "orlop-dataplane"]);
        let about = p.kubectl(&["-n", "kube-system", "describe", "pod", "orlop-dataplane"]);
        panic!("{}{}{}{}", waited.stderr, about.stdout, logs.stdout, logs.stderr);
    }
}

fn end(p: &Playground) {
    p.kubectl(&["-n", "kube-system", "delete", "pod", "orlop-dataplane"]).text();
}

/// A connection from inside of a pod.
fn connect(p: &Playground, address: &str) -> Result<(), String> {
    let out = p.exec("client", &["/server", "connect", address, "500"]);
    if out.ok { Ok(()) } else { Err(out.stdout + &out.stderr) }
}

fn echo(stream: &mut TcpStream, word: &str) {
    stream.write_all(word.as_bytes()).unwrap();
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, word.as_bytes());
}

fn path<'a>(p: &Playground, args: &[&'a str], field: &'a str) -> String {
    let field = format!("jsonpath={field}");
    p.kubectl(&[&["get", "-o", &field], args].concat()).text()
}

/// Loads the image that has nothing in it but the program.
fn load_own_image(p: &Playground) {
    let (images, program) = (p.dir.join("own-image"), given("ORLOP_BIN").join("orlop"));
    let xtask = |args: &[&str]| {
        let mut command = Command::new(given("ORLOP_XTASK"));
        command.arg("image").args(args);
        command
    };
    run(xtask(&["own", "--program"]).arg(program).arg("--out").arg(&images)).text();
    run(xtask(&["load", "--dir"]).arg(&p.dir).arg(images.join("orlop.tar"))).text();
}

#[test]
#[ignore = "e2e tier"]
fn the_manifest_serves_a_node_that_serves_no_services_itself() {
    let p = Playground::with(&[], &[("ORLOP_DISABLE_KUBE_PROXY", "true")]);
    let bpffs = Bpffs::mount(&p.dir.join("bpffs"));
    load_own_image(&p);
    p.apply(HELLO).text();
    p.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {terminationGracePeriodSeconds: 0, containers: [\
         {name: c, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}]}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {name: echo, labels: {app: echo}}, spec: {terminationGracePeriodSeconds: 0, containers: [\
         {name: c, image: 'orlop.dev/example/busybox:v1', command: [nc, -ll, -p, '7000', -e, cat]}]}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {name: mesh, annotations: {orlop.dev/socket-services: 'false'}}, spec: {terminationGracePeriodSeconds: 0, containers: [\
         {name: c, image: 'orlop.dev/example/busybox:v1', command: [sleep, '3600']}]}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {type: NodePort, selector: {app: echo}, ports: [{port: 7000}]}}",
    )
    .text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/client", "pod/echo", "pod/mesh", "--timeout=60s"])
        .text();
    let address = format!("{}:80", path(&p, &["service", "hello"], "{.spec.clusterIP}"));
    assert!(connect(&p, &address).is_err(), "nobody serves it yet");

    // The service account's own way: the token and authority of the pod's volume. It has no rights there.
    p.apply(&object("ServiceAccount").to_string()).text();
    let node = p.json["nodes"][0]["address"].as_str().unwrap().to_owned();
    p.apply(&pod(&p, &bpffs, &format!("https://{node}:6443")).to_string()).text();
    until("known, and refused", Duration::from_secs(20), || {
        let log = p.kubectl(&["-n", "kube-system", "logs", "orlop-dataplane"]);
        let refused =
            r#"User "system:serviceaccount:kube-system:orlop-dataplane" cannot list resource "services""#;
        if log.stdout.replace('\\', "").contains(refused) { Ok(()) } else { Err(log.stdout + &log.stderr) }
    });
    end(&p);

    let kubectl = p.kubectl_command("kubectl");
    let role = object("ClusterRole");
    let roles = Roles::serve(p.json["gateway"].as_str().unwrap(), kubectl, &role);
    let pod = pod(&p, &bpffs, &format!("http://{}", roles.address));
    start(&p, &pod);
    until("the service answers", Duration::from_secs(10), || {
        connect(&p, &address)
            .map_err(|error| error + &p.kubectl(&["-n", "kube-system", "logs", "orlop-dataplane"]).stdout)
    });
    let of_echo = format!("{}:7000", path(&p, &["service", "echo"], "{.spec.clusterIP}"));
    until("the pod itself sends to the service", Duration::from_secs(10), || {
        let held = format!("sleep 1 | nc {} & sleep 0.3; netstat -tn", of_echo.replace(':', " "));
        let seen = p.exec("mesh", &["sh", "-c", &held]).stdout;
        let line = seen.lines().any(|line| line.contains(&of_echo) && line.contains("ESTABLISHED"));
        if line { Ok(()) } else { Err(seen) }
    });
    let port = path(&p, &["service", "echo"], "{.spec.ports[0].nodePort}");
    let mut lasting = TcpStream::connect(format!("{node}:{port}")).unwrap();
    lasting.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    echo(&mut lasting, "one");

    end(&p);
    echo(&mut lasting, "two");
    connect(&p, &address).expect("a new connection, with nobody there");
    start(&p, &pod);
    echo(&mut lasting, "three");

    rights_are_what_is_used(&p, &roles, &granted(&role));
    remove(&p, pod, &bpffs);
    assert!(connect(&p, &address).is_err(), "it is out of the kernel");
}

/// All that the role grants is asked for sooner or later, and nothing else.
fn rights_are_what_is_used(p: &Playground, roles: &Roles, granted: &BTreeSet<(String, String, String)>) {
    // Two want one address: one is told of in an event. And a policy, which is about pods and namespaces.
    for name in ["first", "second"] {
        p.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: echo}}, externalIPs: [203.0.113.9], ports: [{{port: 7000}}]}}}}"
        ))
        .text();
    }
    p.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: of-nobody}, spec: {podSelector: {matchLabels: {app: none}}}}",
    )
    .text();
    until("each right is used", Duration::from_secs(15), || {
        let used = roles.used();
        if used == *granted { Ok(()) } else { Err(format!("not used: {:?}", granted - &used)) }
    });
    assert_eq!(roles.refused(), BTreeSet::new());
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": roles.token()},
    });
    let review = p.with_stdin(&["create", "-o", "json", "-f", "-"], &review.to_string()).text();
    let review: Value = serde_json::from_str(&review).unwrap();
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:kube-system:orlop-dataplane");
}

/// As docs/dataplane.md says: the same pod once more, with another command.
fn remove(p: &Playground, mut pod: Value, bpffs: &Bpffs) {
    end(p);
    assert!(bpffs.pins().iter().any(|pin| pin == "link_connect4"), "{:?}", bpffs.pins());
    assert!(MANIFEST.contains("args: [dataplane]"), "what the page replaces");
    pod["spec"]["containers"][0]["args"] = json!(["reset", "--yes"]);
    pod["spec"]["restartPolicy"] = "Never".into();
    p.apply(&pod.to_string()).text();
    let args = ["-n", "kube-system", "get", "pod", "orlop-dataplane", "-o", "jsonpath={.status.phase}"];
    p.wait_for(&args, |phase| {
        assert_ne!(
            phase,
            "Failed",
            "{}",
            p.kubectl(&["-n", "kube-system", "logs", "orlop-dataplane"]).stdout
        );
        phase == "Succeeded"
    });
    assert_eq!(bpffs.pins(), Vec::<String>::new());
}

/// What kube-proxy leaves, and what others have in the same tables, as `dataplane` tests it against the kernel.
const RULES: &str = include_str!("../../dataplane/tests/root_services/take_over/rules.sh");
const KINDS: [&str; 3] = ["iptables-legacy", "iptables-nft", "nft"];

/// Process 1 is the test's own, and may be asked for its files, which the machine's need not allow.
fn in_a_process_tree_of_its_own(name: &str, test: impl FnOnce()) {
    const INSIDE: &str = "ORLOP_TEST_OWN_TREE";
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    // A shell to be process 1: it collects whom others left.
    let inside = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--"])
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux)");
    let said =
        [&inside.stdout, &inside.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    assert!(inside.status.success() && said.contains("1 passed"), "{}\n{said}", inside.status);
}

/// Whether the node's network has kube-proxy's rules of a kind, and others'.
fn rules(p: &Playground, kind: &str) -> (bool, bool) {
    let (list, proxys, others) = match kind {
        "nft" => ("nft list tables".to_owned(), "kube-proxy", "table ip mine"),
        kind => (format!("{kind}-save; ip6${{0#ip}}-save"), "KUBE-SVC-", "-A INPUT -j KUBE-FIREWALL"),
    };
    let listed = run(p.beside(1, "sh").args(["-c", &list, kind])).text();
    (listed.contains(proxys), listed.contains(others))
}

#[test]
#[ignore = "e2e tier"]
fn what_kube_proxy_left_is_removed_by_the_programs_of_the_host() {
    const NAME: &str = "what_kube_proxy_left_is_removed_by_the_programs_of_the_host";
    in_a_process_tree_of_its_own(NAME, || {
        let p = Playground::with(&[], &[("ORLOP_DISABLE_KUBE_PROXY", "true")]);
        let bpffs = Bpffs::mount(&p.dir.join("bpffs"));
        load_own_image(&p);
        p.apply(
            "{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {terminationGracePeriodSeconds: 0, containers: [\
             {name: c, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}]}}\n---\n\
             {apiVersion: v1, kind: Pod, metadata: {name: echo, labels: {app: echo}}, spec: {terminationGracePeriodSeconds: 0, containers: [\
             {name: c, image: 'orlop.dev/example/busybox:v1', command: [nc, -ll, -p, '7000', -e, cat]}]}}\n---\n\
             {apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {type: NodePort, selector: {app: echo}, \
             ports: [{port: 80, targetPort: 7000, nodePort: 30080}]}}",
        )
        .text();
        p.kubectl(&["wait", "--for=condition=Ready", "pod/client", "pod/echo", "--timeout=60s"]).text();
        let cluster_ip = path(&p, &["service", "echo"], "{.spec.clusterIP}");
        let pod_ip = path(&p, &["pod", "echo"], "{.status.podIP}");
        let mut script = RULES.replace(":8080", ":7000").replace("10.96.0.10", &cluster_ip);
        for endpoint in ["10.42.1.10", "10.42.2.10"] {
            script = script.replace(endpoint, &pod_ip);
        }
        for kind in KINDS {
            run(p.beside(1, "bash").args(["-c", &script, "bash", kind])).text();
            assert_eq!(rules(&p, kind), (true, true), "{kind}");
        }
        // Through netfilter, which nothing of ours is before yet.
        let node = p.json["nodes"][0]["address"].as_str().unwrap().to_owned();
        let dial = || {
            let stream = TcpStream::connect(format!("{node}:30080")).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream
        };
        let mut lasting = dial();
        echo(&mut lasting, "by netfilter");

        let roles = Roles::serve(
            p.json["gateway"].as_str().unwrap(),
            p.kubectl_command("kubectl"),
            &object("ClusterRole"),
        );
        p.apply(&object("ServiceAccount").to_string()).text();
        let mut pod = pod(&p, &bpffs, &format!("http://{}", roles.address));
        pod["spec"]["containers"][0]["args"].as_array_mut().unwrap().push("--cleanup-kube-proxy".into());

        // What it cannot do it says, and removes nothing of that; the manifest gives no more than that takes.
        for (without, said) in [
            ("SYS_CHROOT", "a container needs SYS_CHROOT"),
            ("NET_RAW", "iptables-legacy: iptables-legacy-save: "),
            (
                "hostPID",
                "neither iptables-save nor nft is to be found here, and process 1 has no other files",
            ),
        ] {
            let mut pod = pod.clone();
            pod["spec"]["hostPID"] = (without != "hostPID").into();
            let rights = &mut pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
            rights.as_array_mut().unwrap().retain(|right| right != without);
            start(&p, &pod);
            until(&format!("it misses {without}"), Duration::from_secs(20), || {
                let log = p.kubectl(&["-n", "kube-system", "logs", "orlop-dataplane"]).stdout;
                if log.contains(said) { Ok(()) } else { Err(log) }
            });
            end(&p);
            assert_eq!(rules(&p, "iptables-legacy"), (true, true), "without {without}");
            echo(&mut lasting, without);
        }

        start(&p, &pod);
        for kind in KINDS {
            until(&format!("{kind} is clean"), Duration::from_secs(20), || {
                let log = || p.kubectl(&["-n", "kube-system", "logs", "orlop-dataplane"]).stdout;
                if rules(&p, kind) == (false, true) { Ok(()) } else { Err(log()) }
            });
        }
        echo(&mut lasting, "by nobody but the kernel's memory");
        echo(&mut dial(), "by ours");
        connect(&p, &format!("{cluster_ip}:80")).unwrap();

        let kept = "nft list ruleset | grep -ci orlop-established; iptables-legacy-save | grep -c ORLOP";
        let kept = || run(p.beside(1, "sh").args(["-c", kept])).stdout;
        assert!(!kept().starts_with('0') && !kept().ends_with("\n0\n"), "{}", kept());
        remove(&p, pod, &bpffs);
        assert_eq!(kept(), "0\n0\n", "reset leaves nothing");
    });
}
