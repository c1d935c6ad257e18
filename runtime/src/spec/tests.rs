use std::sync::Arc;

use expect_test::{Expect, expect};

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Mount, Propagation, UserRequest},
    ids::IdRange,
    image::{Image, ImageConfig},
};

fn spec() -> ContainerSpec {
    ContainerSpec {
        name: "web".into(),
        image_ref: "web".into(),
        image: Arc::new(Image {
            config: ImageConfig {
                entrypoint: vec!["/srv".into()],
                cmd: vec!["-v".into()],
                env: vec!["A=image".into(), "B=image".into()],
                working_dir: "/data".into(),
                ..ImageConfig::default()
            },
            ..Image::default()
        }),
        env: vec![("A".into(), "pod".into())],
        log_path: "/log".into(),
        ..ContainerSpec::default()
    }
}

fn host() -> Host {
    Host {
        hostname: "pod".into(),
        rootfs: "/r".into(),
        pods: "/run/pods".into(),
        netns: Some("/ns/net".into()),
        limits: vec![("/cgroup/pids.max".into(), "16".into())],
        capabilities: Capabilities::all(40),
        oom_floor: 0,
        ..Host::default()
    }
}

/// `pointer` into both: `/plan`, `/process`.
fn check(change: impl FnOnce(&mut ContainerSpec, &mut Host), pointer: &str, expected: Expect) {
    let (mut spec, mut host) = (spec(), host());
    change(&mut spec, &mut host);
    let found = match bundle(&spec, &host) {
        Ok(Bundle { plan, process, user: _ }) => {
            let ProcessSpec { args, env, cwd, oom_score_adj, .. } = process;
            let process = json!({ "args": args, "env": env, "cwd": cwd, "oomScoreAdj": oom_score_adj });
            let both = json!({ "plan": plan, "process": process });
            both.pointer(pointer).map_or("-".to_owned(), Value::to_string)
        }
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&found);
}

#[test]
fn process_is_image_with_the_pod_over_it() {
    check(|_, _| {}, "/process/args", expect![[r#"["/srv","-v"]"#]]);
    check(
        |_, _| {},
        "/process/env",
        expect![[
            r#"["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","HOSTNAME=pod","A=pod","B=image","HOME=/"]"#
        ]],
    );
    check(|_, _| {}, "/process/cwd", expect![[r#""/data""#]]);
    check(|s, _| s.working_dir = Some("x".into()), "/process/cwd", expect![[r#""/x""#]]);
    check(|s, _| s.image = Arc::default(), "", expect!["no command specified"]);
    check(|s, _| s.tty = true, "/plan/terminal", expect!["true"]);
}

#[test]
fn oom_score_is_raised_to_what_the_kernel_takes() {
    let score = |s: &mut ContainerSpec| s.resources.oom_score_adj = Some(-5);
    check(|_, _| {}, "/process/oomScoreAdj", expect!["null"]);
    check(|s, _| score(s), "/process/oomScoreAdj", expect!["0"]);
    check(|s, h| (score(s), h.oom_floor = -999).0, "/process/oomScoreAdj", expect!["-5"]);
}

#[test]
fn namespaces_are_the_pods() {
    check(|_, _| {}, "/plan/namespaces", expect![[r#"["/ns/net"]"#]]);
    check(|_, _| {}, "/plan/host_pid", expect!["false"]);
    check(|_, h| (h.netns, h.host_pid) = (None, true), "/plan/namespaces", expect!["[]"]);
    check(|_, h| (h.netns, h.host_pid) = (None, true), "/plan/host_pid", expect!["true"]);
}

fn users() -> Option<plan::Users> {
    Some(plan::Users { namespace: "/ns/user".into(), ids: IdRange { first: 131_072, count: 65_536 } })
}

#[test]
fn users_of_a_pod_are_those_of_its_namespace() {
    let asked = |uid, gid, groups: &[u32]| UserRequest {
        uid: Some(uid),
        gid: Some(gid),
        additional_gids: groups.to_vec(),
        strict: true,
        ..UserRequest::default()
    };
    check(|_, _| {}, "/plan/users", expect!["null"]);
    check(
        |s, h| (s.user, h.users) = (asked(65_535, 1, &[2]), users()),
        "/plan/users",
        expect![[r#"{"ids":{"count":65536,"first":131072},"namespace":"/ns/user"}"#]],
    );
    let missing = "is not among the ids 0 to 65535 of the pod's user namespace";
    for (user, what) in [
        (asked(65_536, 1, &[]), "user 65536"),
        (asked(1, 70_000, &[]), "group 70000"),
        (asked(1, 2, &[3, 2_000_000_000]), "group 2000000000"),
    ] {
        let (mut spec, host) = (spec(), Host { users: users(), ..host() });
        spec.user = user;
        assert_eq!(bundle(&spec, &host).unwrap_err().to_string(), format!("{what} {missing}"));
    }
}

#[test]
fn privileged_hides_nothing() {
    check(|s, _| s.privileged = true, "/plan/masked", expect!["[]"]);
    check(|s, _| s.privileged = true, "/plan/read_only", expect!["[]"]);
    check(|s, _| s.privileged = true, "/plan/usual_devices", expect!["false"]);
    check(|s, _| s.privileged = true, "/plan/mounts/1/flags", expect![[r#"["NoSuid","NoExec","NoDev"]"#]]);
    check(|_, _| {}, "/plan/mounts/1/flags", expect![[r#"["NoSuid","NoExec","NoDev","ReadOnly"]"#]]);
    check(|s, _| s.unmasked_proc = true, "/plan/masked", expect!["[]"]);
    check(|s, _| s.unmasked_proc = true, "/plan/read_only", expect!["[]"]);
    let node =
        DeviceNode { path: "/dev/x".into(), kind: 'b', major: 8, minor: 1, mode: 0o600, uid: 0, gid: 6 };
    check(
        |s, h| (s.privileged, h.devices) = (true, vec![node]),
        "/plan/devices",
        expect![[r#"[{"gid":6,"kind":"b","major":8,"minor":1,"mode":384,"path":"/dev/x","uid":0}]"#]],
    );
}

/// One line per mount.
fn table(list: Vec<Mount>) -> String {
    let mut spec = spec();
    spec.mounts = list;
    let host = Host { shm: Some("/run/pods/u/shm".into()), ..host() };
    let plan = bundle(&spec, &host).unwrap().plan;
    let line = |mount: &plan::Mount| format!("{} {:?} {:?}\n", mount.at, mount.what, mount.flags);
    format!("shared root {}\n{}", plan.shared_root, plan.mounts.iter().map(line).collect::<String>())
}

fn mount(destination: &str, propagation: Propagation) -> Mount {
    Mount {
        source: "/host".into(),
        destination: destination.into(),
        read_only: true,
        recursive_read_only: false,
        propagation,
        keep_owners: false,
    }
}

#[test]
fn volumes_come_after_what_they_lie_in() {
    let as_is = Mount { keep_owners: true, ..mount("/a/b/c", Propagation::HostToContainer) };
    let list = vec![as_is, mount("/a/b", Propagation::Private), mount("/a", Propagation::HostToContainer)];
    expect![[r#"
        shared root false
        /proc New("proc", []) [NoSuid, NoExec, NoDev]
        /sys New("sysfs", []) [NoSuid, NoExec, NoDev, ReadOnly]
        /a Bind("/host", HostToContainer) [ReadOnly]
        /dev/pts New("devpts", [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")]) [NoSuid, NoExec]
        /dev/mqueue New("mqueue", []) [NoSuid, NoExec, NoDev]
        /dev/shm Bind("/run/pods/u/shm", Private) [NoSuid, NoExec, NoDev]
        /a/b Bind("/host", Private) [ReadOnly]
        /sys/fs/cgroup Cgroups [NoSuid, NoExec, NoDev, ReadOnly]
        /a/b/c AsIs("/host", HostToContainer) [ReadOnly]
    "#]]
    .assert_eq(&table(list));
}

#[test]
fn volumes_replace_the_usual() {
    expect![[r#"
        shared root true
        /proc New("proc", []) [NoSuid, NoExec, NoDev]
        /sys Bind("/host", Bidirectional) [ReadOnly]
        /dev Bind("/host", Private) [ReadOnly]
        /dev/pts New("devpts", [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")]) [NoSuid, NoExec]
        /dev/mqueue New("mqueue", []) [NoSuid, NoExec, NoDev]
        /dev/shm Bind("/run/pods/u/shm", Private) [NoSuid, NoExec, NoDev]
        /sys/fs/cgroup Cgroups [NoSuid, NoExec, NoDev, ReadOnly]
    "#]]
    .assert_eq(&table(vec![mount("/sys", Propagation::Bidirectional), mount("/dev", Propagation::Private)]));
}

#[test]
fn a_plan_survives_the_disk() {
    let plan = bundle(&spec(), &host()).unwrap().plan;
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<plan::Plan>(&text).unwrap(), plan);
}
