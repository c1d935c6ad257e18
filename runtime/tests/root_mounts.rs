//! The mounts of a container: what is there, what an image or a volume with hostile links can do about it (nothing), and
//! which way later mounts travel.

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Node, chain};
use orlop_runtime::{ContainerSpec, ContainerState, Mount, Propagation};

/// Of each mount: where, `ro` or `rw`, file system and propagation.
fn table(mountinfo: &str) -> Vec<(String, String, String, String)> {
    let line = |line: &str| {
        let (mount, of) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let shared = fields[6..]
            .iter()
            .map(|tag| tag.split(':').next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(" ");
        let access = fields[5].split(',').next()?;
        Some((fields[4].to_owned(), access.to_owned(), of.split(' ').next()?.to_owned(), shared))
    };
    mountinfo.lines().filter_map(line).collect()
}

fn volume(source: &Path, destination: &str, propagation: Propagation) -> Mount {
    Mount {
        source: source.to_owned(),
        destination: destination.into(),
        read_only: false,
        recursive_read_only: false,
        propagation,
        keep_owners: false,
    }
}

fn directory(node: &Node, name: &str) -> PathBuf {
    let dir = node.dir.path().join(name);
    fs::create_dir_all(&dir).expect("a directory for the test");
    dir
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn read_only_reaches_what_is_mounted_below_only_where_asked_for() {
    let mut node = Node::new().await;
    let data = directory(&node, "data");
    let below = directory(&node, "data/below");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&below).status().unwrap();
    assert!(mounted.success());
    let mut spec = node.shell(
        "a",
        "for to in plain all; do for at in /$to /$to/below; do echo x > $at/file && echo $at; done; done",
    );
    let plain = Mount { read_only: true, ..volume(&data, "/plain", Propagation::Private) };
    let all = Mount { recursive_read_only: true, ..volume(&data, "/all", Propagation::Private) };
    spec.mounts = vec![plain, all];
    for user_namespace in [false, true] {
        let uid = if user_namespace { "u2" } else { "u1" };
        let pod = orlop_runtime::SandboxSpec { user_namespace, ..node.sandbox(uid) };
        node.runtime.create_sandbox(&pod).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
        spec.log_path = node.dir.path().join("logs").join(uid);
        let container =
            node.runtime.start_container(uid, &spec).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
        node.exit(&container).await;
        let log = node.log(&spec);
        let written: Vec<_> = log.lines().filter(|line| !line.contains("can't create")).collect();
        assert_eq!(written, ["/plain/below"], "{log}");
        assert_eq!(log.matches("Read-only file system").count(), 3, "{log}");
    }
    // Only the container's mounts are, not the host's.
    fs::write(below.join("file"), "host").unwrap();
    fs::write(data.join("file"), "host").unwrap();
    assert!(Command::new("umount").arg(&below).status().unwrap().success());
    node.finish(&["u1", "u2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn the_table_is_the_same_from_inside_and_from_the_host() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let data = directory(&node, "data");
    fs::write(data.join("file"), "x").unwrap();
    let mut spec = node.shell("a", "cat /proc/self/mountinfo; echo up; sleep 60");
    spec.read_only_rootfs = true;
    spec.mounts = vec![
        Mount { read_only: true, ..volume(&data.join("file"), "/data/made/one", Propagation::Private) },
        volume(&data, "/data", Propagation::Private),
    ];
    let container =
        node.runtime.start_container("u1", &spec).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    node.wait_for_log(&spec, "up").await;
    let ContainerState::Running { pid, .. } = container.state else { panic!("{container:?}") };
    let inside = table(&node.log(&spec));
    assert_eq!(inside, table(&fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap()));
    let find = |at: &str| {
        let last = inside.iter().rfind(|(point, ..)| point == at);
        last.map(|(_, access, kind, tags)| format!("{access} {kind} {tags}")).unwrap_or_default()
    };
    for (at, expected) in [
        ("/", "ro overlay "),
        ("/proc", "rw proc "),
        ("/proc/sys", "ro proc "),
        ("/proc/keys", "rw tmpfs "),
        ("/proc/timer_list", "rw tmpfs "),
        ("/dev", "rw tmpfs "),
        ("/dev/pts", "rw devpts "),
        ("/dev/mqueue", "rw mqueue "),
        ("/dev/shm", "rw tmpfs "),
        ("/sys", "ro sysfs "),
        ("/sys/firmware", "ro tmpfs "),
    ] {
        assert_eq!(find(at), expected, "{at}");
    }
    assert!(find("/data").starts_with("rw ") && find("/data/made/one").starts_with("ro "), "{inside:?}");
    assert!(data.join("made/one").exists(), "a place for it was made in the volume it lies in");
    let cgroups: Vec<_> = inside.iter().filter(|(.., kind, _)| kind.starts_with("cgroup")).collect();
    assert!(!cgroups.is_empty() && cgroups.iter().all(|(_, access, ..)| access == "ro"), "{cgroups:?}");
    let hierarchies = orlop_runtime::cgroup::Hierarchies::discover().unwrap();
    let expected = if hierarchies.is_v2() { 1 } else { hierarchies.v1.len() };
    assert_eq!(cgroups.len(), expected, "{cgroups:?}");
    // The root of each is the container's own cgroup: its first process is in it.
    let own = cgroups.iter().find(|(at, ..)| !at.ends_with("systemd")).unwrap();
    let procs = fs::read_to_string(format!("/proc/{pid}/root{}/cgroup.procs", own.0)).unwrap();
    assert!(procs.lines().any(|line| line == pid.to_string()), "{procs}");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_privileged_container_sees_the_devices_and_may_change_cgroups() {
    let mut node = Node::new().await;
    let dev = PathBuf::from("/dev");
    let mut spec =
        node.shell("a", "cat /proc/self/mountinfo; echo x > /proc/sys/kernel/nonexistent; echo up");
    spec.privileged = true;
    let (_, log) = node.run("u1", &spec).await;
    let inside = table(&log);
    assert!(
        !inside
            .iter()
            .any(|(at, access, ..)| at.starts_with("/proc/") || at.starts_with("/sys") && access == "ro")
    );
    // The host's own devices in place of the container's.
    let mut spec =
        node.shell("b", "cat /proc/self/mountinfo; echo x > /dev/null && ls -l /dev/null /dev/pts/ptmx");
    spec.privileged = true;
    spec.mounts = vec![volume(&dev, "/dev", Propagation::Private)];
    let (exit, log) = node.run("u1", &spec).await;
    assert_eq!(exit.code, 0, "{log}");
    let kinds: Vec<_> = table(&log).into_iter().filter(|(at, ..)| at == "/dev").collect();
    assert_eq!(kinds.len(), 1, "{kinds:?}");
    node.finish(&["u1"]).await;
}

/// What a start says, and that nothing is left of it.
async fn refused(node: &Node, spec: &ContainerSpec) -> String {
    let error = node.runtime.start_container("u1", spec).await.expect_err("it must not start");
    assert_eq!(common::names(&node.pod_dir("u1").join("c")), Vec::<String>::new());
    chain(&error)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn links_of_an_image_lead_nowhere() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let (layer, outside, data) =
        (node.dir.path().join("layer"), directory(&node, "outside"), directory(&node, "data"));
    fs::write(data.join("file"), "of the volume").unwrap();
    symlink(&outside, layer.join("out")).unwrap();
    symlink("../../../../../../../../etc", layer.join("up")).unwrap();
    symlink("/proc/self/fd", layer.join("descriptors")).unwrap();
    let with = |name: &str, at: &str| {
        let mut spec = node.shell(name, "cat /etc/made/by/file; ls /proc/1/root/etc/made/by");
        spec.mounts = vec![volume(&data, at, Propagation::Private)];
        spec
    };
    let (up, out) = (with("up", "/up/made/by"), with("out", "/out/made"));
    let magic: Vec<_> =
        (3..20).map(|fd| with(&format!("fd{fd}"), &format!("/descriptors/{fd}/made"))).collect();
    let (_, log) = node.run("u1", &up).await;
    assert_eq!(log, "of the volumefile\n", "a link upwards ends at the container's root");
    assert!(!Path::new("/etc/made").exists());
    node.runtime.remove_container("u1", &orlop_runtime::container_id("u1", "up", 0)).await.unwrap();
    let text = refused(&node, &out).await;
    assert!(text.starts_with("mount /out/made: "), "{text}");
    for spec in &magic {
        let text = refused(&node, spec).await;
        assert!(text.starts_with("mount /descriptors/"), "{text}");
    }
    for fd in 3..20 {
        let mut spec = node.shell("cwd", "pwd");
        spec.working_dir = Some(format!("/proc/self/fd/{fd}"));
        let text = refused(&node, &spec).await;
        assert!(text.starts_with(&format!("change to /proc/self/fd/{fd}: ")), "{text}");
    }
    assert_eq!(common::names(&outside), Vec::<String>::new());
    assert_eq!(common::names(&data), ["file"]);
    for name in ["proc", "sys", "dev"] {
        fs::remove_dir(layer.join(name)).unwrap();
        symlink(&outside, layer.join(name)).unwrap();
        let text = refused(&node, &node.shell(name, "true")).await;
        assert!(text.contains(&format!("/{name}: the image has no ordinary directory there")), "{text}");
        assert_eq!(common::names(&outside), Vec::<String>::new(), "{name}");
        fs::remove_file(layer.join(name)).unwrap();
    }
    // None at all is fine: they are made.
    let (exit, _) = node.run("u1", &node.shell("bare", "ls /proc/1 /sys/fs /dev/null > /dev/null")).await;
    assert_eq!(exit.code, 0);
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn later_mounts_travel_the_way_that_was_asked_for() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let shared = directory(&node, "shared");
    let mount = |args: &[&str]| {
        assert!(Command::new("mount").args(args).arg(&shared).status().unwrap().success(), "{args:?}");
    };
    mount(&["-t", "tmpfs", "test"]);
    mount(&["--make-shared"]);
    for name in ["in", "out"] {
        fs::create_dir(shared.join(name)).unwrap();
    }
    let script = "[ -n \"$MAKE\" ] && mount -t tmpfs of-container /both/in; echo up; \
                  while [ ! -e /tmp/go ]; do sleep 0.02; done; cat /proc/self/mountinfo; echo done; sleep 60";
    let mut one = node.shell("one", script);
    one.privileged = true;
    one.env = vec![("MAKE".into(), "1".into())];
    one.mounts = vec![
        volume(&shared, "/both", Propagation::Bidirectional),
        volume(&shared, "/slave", Propagation::HostToContainer),
        volume(&shared, "/private", Propagation::Private),
    ];
    let mut two = node.shell("two", script);
    two.mounts = vec![
        volume(&shared, "/slave", Propagation::HostToContainer),
        volume(&shared, "/private", Propagation::Private),
    ];
    let mut rootfs = Vec::new();
    for spec in [&one, &two] {
        let started = node.runtime.start_container("u1", spec).await;
        let container = started.unwrap_or_else(|e| panic!("{}", chain(&e)));
        node.wait_for_log(spec, "up").await;
        rootfs.push(node.pod_dir("u1").join("c").join(&container.id).join("rootfs"));
    }
    assert!(node.mounts().iter().any(|line| line.contains("of-container")), "{:?}", node.mounts());
    let of_host = shared.join("out");
    let status = Command::new("mount").args(["-t", "tmpfs", "of-host"]).arg(&of_host).status().unwrap();
    assert!(status.success());
    rootfs.iter().for_each(|root| fs::write(root.join("tmp/go"), "").unwrap());
    let mut found = Vec::new();
    for spec in [&one, &two] {
        node.wait_for_log(spec, "done").await;
        let points = table(&node.log(spec)).into_iter().map(|(at, ..)| at);
        let mut points: Vec<_> = points.filter(|at| at.ends_with("/in") || at.ends_with("/out")).collect();
        points.sort();
        found.push(points.join(" "));
    }
    // The second was started when the first one's mount was there already.
    assert_eq!(found, ["/both/in /both/out /slave/in /slave/out", "/private/in /slave/in /slave/out"]);
    node.runtime.remove_sandbox("u1").await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    for dir in [shared.join("in"), of_host, shared.clone()] {
        assert!(Command::new("umount").arg(&dir).status().unwrap().success(), "{}", dir.display());
    }
    node.finish(&["u1"]).await;
}

#[test]
#[ignore = "root tier"]
fn the_same_with_cgroup2_only() {
    common::on_cgroup2_only(&[
        "the_table_is_the_same_from_inside_and_from_the_host",
        "a_privileged_container_sees_the_devices_and_may_change_cgroups",
        "links_of_an_image_lead_nowhere",
    ]);
}
