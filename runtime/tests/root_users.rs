//! Pods with users of their own: who they are inside, who on the host, and what their rights are worth there.

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use common::{Node, chain};
use orlop_runtime::{
    Container, ContainerSpec, ContainerState, ExecRequest, Mount, Propagation, SandboxSpec, UserRequest,
};

/// The first id of the pods' pool, and the second pod's.
const FIRST: u32 = 65_536;
const SECOND: u32 = 131_072;

fn sandbox(node: &Node, uid: &str) -> SandboxSpec {
    SandboxSpec { user_namespace: true, ..node.sandbox(uid) }
}

async fn run(node: &mut Node, uid: &str, spec: &ContainerSpec) -> String {
    node.runtime.create_sandbox(&sandbox(node, uid)).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let container = node.runtime.start_container(uid, spec).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    node.exit(&container).await;
    node.log(spec)
}

async fn start(node: &Node, uid: &str, spec: &ContainerSpec) -> (Container, u32) {
    node.runtime.create_sandbox(&sandbox(node, uid)).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let container = node.runtime.start_container(uid, spec).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let ContainerState::Running { pid, .. } = container.state else { panic!("{container:?}") };
    node.wait_for_log(spec, "up\n").await;
    (container, pid)
}

async fn exec(node: &Node, uid: &str, container: &Container, script: &str) -> String {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecRequest { command, env: vec![], timeout: None, max_output: 1 << 16 };
    let output =
        node.runtime.exec(uid, &container.id, request).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    String::from_utf8_lossy(&output.output).into_owned()
}

fn volume(source: &Path, destination: &str) -> Mount {
    Mount {
        source: source.to_owned(),
        destination: destination.into(),
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
        keep_owners: false,
    }
}

/// A directory with a file of root, one of user 33 and one of user 70000.
fn data(node: &Node) -> PathBuf {
    let dir = node.dir.path().join("data");
    fs::create_dir_all(&dir).expect("a directory for the test");
    for (name, owner) in [("of-root", 0), ("of-web", 33), ("of-nobody", 70_000)] {
        fs::write(dir.join(name), name).expect("a file for the test");
        chown(dir.join(name), Some(owner), Some(owner)).expect("root may");
    }
    dir
}

fn status(pid: u32, line: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let of = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(":"));
    of.expect("the kernel tells").split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (meta.uid(), meta.gid())
}

fn words(text: &str) -> Vec<&str> {
    text.split_ascii_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn root_inside_is_somebody_else_outside() {
    let node = Node::new().await;
    let data = data(&node);
    let mut spec = node.shell(
        "a",
        "cat /proc/self/uid_map /proc/self/gid_map; id -u; \
         stat -c '%u:%g %n' / /bin/busybox /vol /vol/* /new /proc /dev /dev/null /dev/pts /dev/shm; \
         echo x > /root/mine; echo x > /vol/mine; echo x > /vol/webs; chown 33:34 /vol/webs; \
         echo x > /root/webs; chown 33:34 /root/webs; echo up; exec sleep 1000",
    );
    spec.mounts = vec![volume(&data, "/vol"), volume(&data.join("of-web"), "/new/of-web")];
    let (container, pid) = start(&node, "u1", &spec).await;
    let log = node.log(&spec);
    let (maps, rest) = log.split_at(log.match_indices('\n').nth(1).unwrap().0);
    assert_eq!(words(maps), words("0 65536 65536 0 65536 65536"));
    assert_eq!(
        rest.trim_start(),
        "0\n0:0 /\n0:0 /bin/busybox\n0:0 /vol\n65534:65534 /vol/of-nobody\n0:0 /vol/of-root\n33:33 /vol/of-web\n\
         0:0 /new\n65534:65534 /proc\n0:0 /dev\n65534:65534 /dev/null\n0:0 /dev/pts\n0:0 /dev/shm\nup\n"
    );
    // On the host: other ids for processes and for the container's own files, the same ones on the volume.
    assert_eq!(status(pid, "Uid"), format!("{FIRST} {FIRST} {FIRST} {FIRST}"));
    let upper = node.dir.path().join("state/containers").join(&container.id).join("upper");
    assert_eq!(owner(&upper.join("root/mine")), (FIRST, FIRST));
    assert_eq!(owner(&upper.join("root/webs")), (FIRST + 33, FIRST + 34));
    assert_eq!(owner(&upper.join("new")), (FIRST, FIRST));
    assert_eq!(owner(&data.join("mine")), (0, 0));
    assert_eq!(owner(&data.join("webs")), (33, 34));
    // The layer is the same one that every container of the image has.
    let layer = node.dir.path().join("layer/bin/busybox");
    let seen = PathBuf::from(format!("/proc/{pid}/root/bin/busybox"));
    let (below, seen) = (fs::metadata(layer).unwrap(), fs::metadata(seen).unwrap());
    assert_eq!((below.ino(), below.uid()), (seen.ino(), 0));
    assert_eq!(seen.uid(), FIRST);
    // What else is mounted for the container on the host are the overlay and nothing of its making.
    assert!(!node.mounts().iter().any(|line| line.contains("/layers")), "{:?}", node.mounts());
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn all_namespaces_are_the_pods_own() {
    let node = Node::new().await;
    let spec = node.shell("a", "echo up; exec sleep 1000");
    let (_, pid) = start(&node, "u1", &spec).await;
    let link = |name: &str| fs::metadata(format!("/proc/{pid}/ns/{name}")).unwrap().ino();
    for name in ["net", "ipc", "uts", "user"] {
        let pin = fs::metadata(node.pod_dir("u1").join("ns").join(name)).unwrap();
        assert_eq!(pin.ino(), link(name), "{name}");
    }
    // An oracle of its own for who owns what.
    let lsns = Command::new("lsns")
        .args(["--noheadings", "--output", "NS,ONS", "--task", &pid.to_string()])
        .output()
        .expect("lsns");
    let text = String::from_utf8(lsns.stdout).unwrap();
    for name in ["net", "ipc", "uts", "pid", "mnt", "cgroup"] {
        let of = text.lines().find(|line| words(line)[0] == link(name).to_string());
        let owner = of.map(|line| words(line)[1].to_owned());
        assert_eq!(owner, Some(link("user").to_string()), "{name}: {text}");
    }
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn commands_are_the_same_users() {
    let node = Node::new().await;
    let data = data(&node);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    let mut spec = node.shell("a", "echo up; exec sleep 1000");
    spec.mounts = vec![volume(&data, "/vol")];
    let (container, _) = start(&node, "u1", &spec).await;
    let script = "cat /proc/self/uid_map; id -u; grep -E 'Cap(Eff|Bnd)|Seccomp:|Groups' /proc/self/status; \
                  echo x > /vol/by-exec; echo x > /root/by-exec; echo out > /dev/stdout; ls -id /proc/self/ns/user /proc/1/ns/user | wc -l";
    let out = exec(&node, "u1", &container, script).await;
    let expected = format!(
        "0 {FIRST} 65536 0 Groups: 0 CapEff: 00000000a80425fb CapBnd: 00000000a80425fb Seccomp: 2 out 2"
    );
    assert_eq!(words(&out).join(" "), expected);
    assert_eq!(owner(&data.join("by-exec")), (0, 0));
    let upper = node.dir.path().join("state/containers").join(&container.id).join("upper");
    assert_eq!(owner(&upper.join("root/by-exec")), (FIRST, FIRST));
    // As another user, with its own standard output to open.
    let mut spec = node.shell("b", "echo up > /dev/stdout; exec sleep 1000");
    let groups = vec![50];
    spec.user =
        UserRequest { uid: Some(33), name: None, gid: Some(34), additional_gids: groups, strict: true };
    spec.mounts = vec![volume(&data, "/vol")];
    let (container, pid) = start(&node, "u1", &spec).await;
    let uid = FIRST + 33;
    assert_eq!(status(pid, "Uid"), format!("{uid} {uid} {uid} {uid}"));
    assert_eq!(status(pid, "Groups"), format!("{} {}", FIRST + 34, FIRST + 50));
    let script = "id -u; id -G; echo x > /vol/by-web; echo x > /root/no; echo out > /dev/stdout; grep CapEff /proc/self/status";
    let out = exec(&node, "u1", &container, script).await;
    assert!(out.contains("/root/no: Permission denied"), "{out}");
    let rest: Vec<_> = out.lines().filter(|line| !line.contains("denied")).collect();
    assert_eq!(rest, ["33", "34 50", "out", "CapEff:\t0000000000000000"]);
    assert_eq!(owner(&data.join("by-web")), (33, 34));
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn streamed_commands_and_terminals_too() {
    use orlop_runtime::stream::{StreamedCommand, Streams, Window};
    use tokio::io::AsyncReadExt as _;
    let node = Node::new().await;
    let mut spec = node.shell("a", "echo up; exec sleep 1000");
    spec.user = UserRequest { uid: Some(33), ..UserRequest::default() };
    let (container, _) = start(&node, "u1", &spec).await;
    let command = |script: &str| StreamedCommand {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        streams: Streams { stdout: true, ..Streams::default() },
        ..StreamedCommand::default()
    };
    let pipes = command("cat /proc/self/uid_map; id -u; echo x > /dev/stdout");
    let mut session = node.runtime.stream("u1", &container.id, pipes).await.unwrap();
    let mut text = String::new();
    session.ends.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!((words(&text).join(" "), session.wait().await.unwrap()), (format!("0 {FIRST} 65536 33 x"), 0));
    let window = Window { rows: 10, columns: 20 };
    let terminal = StreamedCommand {
        terminal: Some(window),
        ..command("id -u; stat -c %u:%g /dev/pts/0; echo x > /dev/tty; cat /proc/self/uid_map")
    };
    let mut session = node.runtime.stream("u1", &container.id, terminal).await.unwrap();
    let mut text = String::new();
    session.ends.terminal.take().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(words(&text).join(" "), format!("33 33:5 x 0 {FIRST} 65536"));
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn rights_count_for_the_pod_and_for_nothing_else() {
    let mut node = Node::new().await;
    let mut spec = node.shell(
        "a",
        "ip link set lo mtu 1400 && echo link; ping -c 1 -w 2 127.0.0.1 > /dev/null && echo ping; \
         hostname; echo x > /proc/sys/kernel/hostname; mknod /tmp/disk b 7 0; \
         mount -t tmpfs none /tmp && echo tmpfs; umount /proc/kcore; mount -o remount,rw /proc/sys; \
         cat /proc/kcore | wc -c; echo 1 > /proc/sys/vm/drop_caches; echo 1 > /proc/sysrq-trigger; \
         ls /proc/asound /sys/firmware | wc -l; echo x > /sys/kernel/mm/ksm/run",
    );
    spec.add_capabilities = vec!["ALL".into()];
    spec.seccomp = orlop_runtime::Seccomp::Unconfined;
    let log = run(&mut node, "u1", &spec).await;
    let lines: Vec<_> = log.lines().collect();
    assert!(log.contains("link\nping\npod-name\n"), "{log}");
    assert!(log.contains("tmpfs\n"), "{log}");
    assert!(log.contains("mknod: /tmp/disk: Operation not permitted"), "{log}");
    for denied in [
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys/kernel/mm/ksm/run",
    ] {
        let of = lines.iter().filter(|line| line.contains(denied) && !line.contains("umount")).count();
        assert!(of >= 1, "{denied}: {log}");
    }
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn parameters_of_the_pod_are_set_in_its_namespaces() {
    let mut node = Node::new().await;
    let mut pod = sandbox(&node, "u1");
    for (name, value) in [
        ("net.ipv4.ip_unprivileged_port_start", "80"),
        ("kernel.shm_rmid_forced", "1"),
        ("fs.mqueue.msg_max", "20"),
    ] {
        pod.sysctls.insert(name.into(), value.into());
    }
    node.runtime.create_sandbox(&pod).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let spec = node.shell(
        "a",
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max; ls -d /dev/mqueue",
    );
    assert_eq!(words(&run(&mut node, "u1", &spec).await), ["80", "1", "20", "/dev/mqueue"]);
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn privileged_is_root_of_its_own_world() {
    let mut node = Node::new().await;
    let mut spec = node.shell(
        "a",
        "grep -E 'Cap(Eff|Bnd)|Seccomp:' /proc/self/status; mount -t tmpfs none /tmp && echo tmpfs; \
         mount -t proc none /root && ls -d /root/1; unshare -Urmpf --mount-proc true && echo nested; \
         echo x > /dev/null && echo null; echo core > /proc/sys/kernel/core_pattern; mknod /root/disk b 7 0",
    );
    spec.privileged = true;
    spec.seccomp = orlop_runtime::Seccomp::Unconfined;
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let log = run(&mut node, "u1", &spec).await;
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    let all = format!("{:016x}", u64::MAX >> (63 - last));
    assert!(
        log.starts_with(&format!(
            "CapEff:\t{all}\nCapBnd:\t{all}\nSeccomp:\t0\ntmpfs\n/root/1\nnested\nnull\n"
        )),
        "{log}"
    );
    assert!(log.contains("core_pattern: Permission denied"), "{log}");
    assert_eq!(before, fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap());
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn an_unmasked_proc_lets_containers_be_made_inside() {
    let mut node = Node::new().await;
    let script = "unshare -Urmpf --mount-proc ls -d /proc/1 && echo nested; \
                  grep -c ' /proc/' /proc/self/mountinfo; echo 1 > /proc/sys/vm/drop_caches";
    for (name, unmasked, expected) in [
        ("a", false, "unshare: can't mount proc on /proc (flags:0xe): Operation not permitted"),
        (
            "b",
            true,
            "/proc/1\nnested\n0\n/bin/sh: can't create /proc/sys/vm/drop_caches: Permission denied\n",
        ),
    ] {
        let mut spec = node.shell(name, script);
        spec.unmasked_proc = unmasked;
        spec.seccomp = orlop_runtime::Seccomp::Unconfined;
        let log = run(&mut node, "u1", &spec).await;
        assert!(log.starts_with(expected), "{log}");
    }
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn pods_never_share_ids_and_get_them_back() {
    let mut node = Node::new().await;
    let spec = |node: &Node, name: &str| node.shell(name, "echo up; exec sleep 1000");
    let (_, one) = start(&node, "u1", &spec(&node, "a")).await;
    node.reopen().await;
    let (container, two) = start(&node, "u2", &spec(&node, "b")).await;
    assert_eq!(status(one, "Uid"), format!("{FIRST} {FIRST} {FIRST} {FIRST}"));
    assert_eq!(status(two, "Uid"), format!("{SECOND} {SECOND} {SECOND} {SECOND}"));
    // The shim entered nothing anew: a command after the restart is the pod's own user.
    let map = exec(&node, "u2", &container, "cat /proc/self/uid_map").await;
    assert_eq!(words(&map), ["0", "131072", "65536"]);
    // The same pod asked for again, and another container of it, keep its ids.
    node.runtime.create_sandbox(&sandbox(&node, "u1")).await.unwrap();
    let (_, again) = start(&node, "u1", &spec(&node, "c")).await;
    assert_eq!(status(again, "Uid"), status(one, "Uid"));
    start(&node, "u3", &spec(&node, "d")).await;
    let full = node.runtime.create_sandbox(&sandbox(&node, "u4")).await.unwrap_err();
    assert_eq!(
        chain(&full),
        "could not find an empty slot to allocate a user namespace: the node has ids for 3 pods"
    );
    node.runtime.remove_sandbox("u2").await.unwrap();
    let (_, new) = start(&node, "u4", &spec(&node, "e")).await;
    assert_eq!(status(new, "Uid"), format!("{SECOND} {SECOND} {SECOND} {SECOND}"));
    node.finish(&["u1", "u3", "u4"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn what_cannot_be_is_refused_by_name() {
    let node = Node::new().await;
    let host = SandboxSpec { host_network: true, ..sandbox(&node, "u1") };
    let refused = node.runtime.create_sandbox(&host).await.unwrap_err();
    assert_eq!(
        chain(&refused),
        "a pod with a user namespace of its own cannot use other namespaces of the host"
    );
    node.runtime.create_sandbox(&sandbox(&node, "u2")).await.unwrap();
    let mut spec = node.shell("a", "true");
    spec.user = UserRequest { uid: Some(65_536), ..UserRequest::default() };
    let refused = node.runtime.start_container("u2", &spec).await.unwrap_err();
    assert_eq!(chain(&refused), "user 65536 is not among the ids 0 to 65535 of the pod's user namespace");
    // procfs has no id-mapped mounts, as NFS.
    let mut spec = node.shell("b", "true");
    spec.mounts = vec![volume(Path::new("/proc/sys"), "/data")];
    let refused = node.runtime.start_container("u2", &spec).await.unwrap_err();
    assert_eq!(
        chain(&refused),
        "volume source /proc/sys for /data: hostUsers: false: the file system or the kernel has no id-mapped mounts: \
         Invalid argument (os error 22)"
    );
    assert_eq!(node.runtime.pod("u2").await.unwrap().containers, []);
    node.finish(&["u1", "u2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn removal_of_a_running_pod_leaves_nothing() {
    let node = Node::new().await;
    let data = data(&node);
    let mut spec =
        node.shell("a", "trap '' TERM; echo x > /root/mine; echo up; while true; do sleep 1; done");
    spec.mounts = vec![volume(&data, "/vol")];
    let (container, _) = start(&node, "u1", &spec).await;
    let ended = node.runtime.stop_container("u1", &container.id, None, Duration::from_millis(100)).await;
    ended.unwrap();
    node.finish(&["u1"]).await;
}

/// The pod's first process and a container's terminal belong to the pod's users as well.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_terminal_and_shared_processes() {
    let node = Node::new().await;
    let shared = SandboxSpec { share_pid: true, ..sandbox(&node, "u1") };
    node.runtime.create_sandbox(&shared).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let mut spec = node.shell(
        "a",
        "tty; stat -c %u /dev/console; echo seen > /dev/tty; ps; kill -9 1; echo up; exec sleep 1000",
    );
    (spec.tty, spec.stdin) = (true, true);
    spec.user = UserRequest { uid: Some(7), gid: Some(8), ..UserRequest::default() };
    node.runtime.start_container("u1", &spec).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    node.wait_for_log(&spec, "up\r\n").await;
    let log = node.log(&spec);
    assert!(log.starts_with("/dev/pts/0\r\n7\r\nseen\r\n"), "{log}");
    assert!(log.contains("1 65535    orlop-init"), "{log}");
    assert!(log.contains("kill pid 1: Operation not permitted"), "{log}");
    let init = fs::read_to_string(node.pod_dir("u1").join("init")).unwrap();
    let pid = init.split(' ').next().unwrap().parse().unwrap();
    let outside = FIRST + 65_535;
    assert_eq!(status(pid, "Uid"), format!("{outside} {outside} {outside} {outside}"));
    node.finish(&["u1"]).await;
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(std::time::Instant::now() < end, "the first process outlives its pod");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// With v1 there is no such thing as delegation.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn cgroups_below_its_own_are_the_privileged_pods() {
    let mut node = Node::new().await;
    let unified = fs::metadata("/sys/fs/cgroup/cgroup.procs").is_ok();
    for (name, privileged, expected) in [("a", true, unified), ("b", false, false)] {
        let script = "at=/sys/fs/cgroup; [ -e $at/cgroup.procs ] || at=$at/memory; ls -d $at/cgroup.procs; \
                      mkdir $at/mine && echo $$ > $at/mine/cgroup.procs && echo moved";
        let mut spec = node.shell(name, script);
        spec.privileged = privileged;
        let log = run(&mut node, "u1", &spec).await;
        assert!(log.starts_with("/sys/fs/cgroup"), "{log}");
        assert_eq!(log.ends_with("\nmoved\n"), expected, "{name}: {log}");
    }
    node.finish(&["u1"]).await;
}

#[test]
#[ignore = "root tier"]
fn the_same_with_cgroup2_only() {
    common::on_cgroup2_only(&[
        "root_inside_is_somebody_else_outside",
        "commands_are_the_same_users",
        "cgroups_below_its_own_are_the_privileged_pods",
    ]);
}
