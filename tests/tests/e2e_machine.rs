//! A node on a machine of its own, with systemd, cgroup v2 and at first no network: what is done there to its address,
//! its clock, its power. (Debian 12 with its kernel, under qemu.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, time::Duration};

use orlop_tests::{machine::Machine, playground::given};

/// One that keeps a book, whose limits are looked at and which answers, and one that needs time to end.
const PODS: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: book}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper, labels: {app: keeper}}
spec:
  volumes: [{name: book, persistentVolumeClaim: {claimName: book}}]
  containers:
  - name: c
    image: orlop.dev/example/busybox:v1
    command: [sh, -c, 'echo began >> /book/entries; sync; echo here > /tmp/index.html; httpd -p 8080 -h /tmp; sleep 1000000']
    resources: {limits: {cpu: 250m, memory: 48Mi}}
    volumeMounts: [{name: book, mountPath: /book}]
---
apiVersion: v1
kind: Service
metadata: {name: keeper}
spec:
  type: NodePort
  clusterIP: 10.43.0.80
  selector: {app: keeper}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{name: proof, hostPath: {path: /root}}]
  containers:
  - name: c
    image: orlop.dev/example/busybox:v1
    command: [sleep, '1000000']
    lifecycle: {preStop: {exec: {command: [sh, -c, 'sleep 7; echo ended in good order > /proof/ended']}}}
    volumeMounts: [{name: proof, mountPath: /proof}]
";

/// Logind alone would wait for five seconds.
const KUBELET: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
shutdownGracePeriod: 30s
shutdownGracePeriodCriticalPods: 5s
";

const UNIT: &str = include_str!("../../examples/orlop.service");
const LONG: Duration = Duration::from_secs(240);

/// Which container each pod has, and how often it was started again.
const CONTAINERS: &str = "kubectl get pods -o jsonpath='{range .items[*]}{.metadata.name} \
                          {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\
                          {.status.containerStatuses[0].ready}{\"\\n\"}{end}'";
const ADDRESS: &str = "kubectl get node -o jsonpath='{.items[0].status.addresses[0].address}'";
const READY: &str =
    "kubectl get node -o jsonpath='{.items[0].status.conditions[?(@.type==\"Ready\")].status}'";
const API: &str = "kubectl exec keeper -- nc -w 10 10.43.0.1 443 && echo reached";
const RENEWED: &str =
    "date -u +%F; kubectl get lease -n kube-node-lease -o jsonpath='{.items[0].spec.renewTime}'";

#[test]
#[ignore = "e2e tier"]
fn a_machine_with_systemd() {
    let bin = given("ORLOP_BIN");
    let files = [
        bin.join("orlop"),
        bin.join("orlop-shim"),
        which("kubectl"),
        given("ORLOP_IMAGES").join("busybox-v1"),
    ];
    let mut m = Machine::new(given("ORLOP_MACHINE"), &files);
    m.boot();
    install(&mut m);
    without_a_network(&mut m);
    whoever_asks_on_the_machine(&mut m);
    an_address_comes(&mut m);
    the_clock_jumps(&mut m);
    m.cut_power();
    m.boot();
    all_is_back(&mut m);
    m.off_after("systemctl poweroff", LONG);
    assert_eq!(m.file("/root/ended").as_deref(), Some("ended in good order\n"), "the machine waited for it");
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.exists());
    fs::canonicalize(found.unwrap()).unwrap()
}

fn install(m: &mut Machine) {
    let script = format!(
        "set -e
        ln -s /opt/orlop/* /usr/local/bin/
        mkdir -p /etc/orlop /etc/systemd/system/orlop.service.d
        cat > /etc/systemd/system/orlop.service <<'X'\n{UNIT}\nX
        cat > /etc/orlop/kubelet.yaml <<'X'\n{KUBELET}\nX
        cat > /root/pods.yaml <<'X'\n{PODS}\nX
        printf '[Service]\\nEnvironment=ORLOP_CONFIG=/etc/orlop/kubelet.yaml\\n' > /etc/systemd/system/orlop.service.d/config.conf
        orlop image load /opt/orlop/busybox-v1 >/dev/null
        systemctl daemon-reload
        systemctl enable --quiet --now orlop"
    );
    m.run(&script).text();
}

/// Pods run, on limits of cgroup v2 and confined by AppArmor, and reach services and names at an address that the node has lent itself.
fn without_a_network(m: &mut Machine) {
    m.wait_for(READY, LONG, |said| said == "True");
    assert_eq!(m.run(ADDRESS).text(), "10.42.0.1");
    m.run("kubectl apply -f /root/pods.yaml").text();
    m.wait_for(CONTAINERS, LONG, |said| said.matches("0true").count() == 2);
    let limits = m.run("cd /sys/fs/cgroup/orlop/kubepods/pod*/*/ && cat memory.max memory.oom.group cpu.max");
    assert_eq!(limits.text(), "50331648\n1\n25000 100000\n");
    let confined = m.run("kubectl exec keeper -- cat /proc/1/attr/current /proc/self/attr/current");
    assert_eq!(confined.text(), "orlop-default (enforce)\norlop-default (enforce)\n");
    let forbidden = m.run("kubectl exec keeper -- cat /proc/kcore");
    assert!(!forbidden.ok && forbidden.stdout.contains("Permission denied"), "{forbidden:?}");
    let lookup = "kubectl exec keeper -- nslookup kubernetes.default.svc.cluster.local";
    let said = m.wait_for(lookup, LONG, |said| said.contains("Name:"));
    assert!(said.contains("10.43.0.1"), "{said}");
    m.wait_for(API, LONG, |said| said.contains("reached"));
}

/// A login on the machine reaches services, which its programs at sockets do alone here (this kernel has none at devices). In a
/// network namespace of somebody else's the same address means something else.
fn whoever_asks_on_the_machine(m: &mut Machine) {
    for at in ["127.0.0.1/30080", "10.42.0.1/30080", "10.43.0.80/80"] {
        let ask = format!("exec 3<>/dev/tcp/{at} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3");
        let said = m.wait_for(&format!("bash -c \"{ask}\""), LONG, |said| said.contains("here"));
        assert!(said.contains("200 OK"), "{said}");
    }
    let other =
        "ip netns add other && ip -n other link set lo up && ip -n other address add 10.43.0.80/32 dev lo";
    m.run(other).text();
    let said = m.run("ip netns exec other bash -c '</dev/tcp/10.43.0.80/80'").stdout;
    m.run("ip netns delete other").text();
    assert!(said.contains("Connection refused"), "nobody listens there, and nobody else is asked: {said}");
}

/// The network comes late: the same process goes on with its address, and no pod notices.
fn an_address_comes(m: &mut Machine) {
    let before = m.run(CONTAINERS).text();
    let process = "systemctl show --property=MainPID,NRestarts orlop";
    let agent = m.run(process).text();
    m.run("ip link add eth0 type dummy && ip link set eth0 up && ip address add 192.0.2.10/24 dev eth0")
        .text();
    m.wait_for(ADDRESS, LONG, |said| said == "192.0.2.10");
    m.wait_for(READY, LONG, |said| said == "True");
    assert_eq!(m.run(process).text(), agent);
    assert_eq!(m.run(CONTAINERS).text(), before);
    assert!(!m.run("ip address show lo").text().contains("10.42.0.1"), "it was given back");
    // Where the API is now is told to the service maps once they are open again.
    m.wait_for(API, LONG, |said| said.contains("reached"));
}

/// A day forward, two back: nothing is started again, and the node's lease goes on by the new clock.
fn the_clock_jumps(m: &mut Machine) {
    let before = m.run(CONTAINERS).text();
    for jump in ["+1 day", "-2 days"] {
        m.run(&format!("date -s '{jump}'")).text();
        m.wait_for(RENEWED, LONG, |said| said.split_once('\n').is_some_and(|(now, at)| at.starts_with(now)));
        m.run("sleep 10").text();
        assert_eq!(m.run(READY).text(), "True", "{jump}");
        assert_eq!(m.run(CONTAINERS).text(), before, "{jump}");
        m.run("kubectl exec keeper -- true").text();
    }
    m.run("hwclock --hctosys 2>/dev/null || date -s '+1 day'").text();
}

/// Without power from one moment to the next: both pods run again, and the book has its entries.
fn all_is_back(m: &mut Machine) {
    m.wait_for(CONTAINERS, LONG, |said| said.matches("1true").count() == 2);
    let entries = m.run("kubectl exec keeper -- cat /book/entries").text();
    assert_eq!(entries, "began\nbegan\n");
    m.wait_for(READY, LONG, |said| said == "True");
    let locks = m.wait_for("systemd-inhibit --list --no-legend", LONG, |said| said.contains("orlop"));
    assert!(locks.contains("delay"), "{locks}");
}
