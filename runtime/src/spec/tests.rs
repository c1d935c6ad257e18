use std::sync::Arc;

use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::*;
use crate::{
    api::{Mount, Propagation, Seccomp},
    image::{Image, ImageConfig},
};

fn spec() -> ContainerSpec {
    ContainerSpec {
        name: "web".into(),
        attempt: 0,
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
        command: vec![],
        args: vec![],
        env: vec![("A".into(), "pod".into())],
        working_dir: None,
        user: None,
        mounts: vec![],
        privileged: false,
        add_capabilities: vec![],
        drop_capabilities: vec![],
        no_new_privileges: false,
        read_only_rootfs: false,
        seccomp: Seccomp::RuntimeDefault,
        resources: Resources::default(),
        tty: false,
        stdin: false,
        log_path: "/log".into(),
        labels: BTreeMap::new(),
    }
}

fn host() -> Host {
    Host {
        hostname: "pod".into(),
        rootfs: "/r".into(),
        netns: Some("/ns/net".into()),
        cgroup: "kubepods/pod1/c".into(),
        capabilities: Capabilities::all(40),
        oom_floor: 0,
        swap_limit: true,
        ..Host::default()
    }
}

fn check(change: impl FnOnce(&mut ContainerSpec, &mut Host), pointer: &str, expected: Expect) {
    let (mut spec, mut host) = (spec(), host());
    change(&mut spec, &mut host);
    let found = match bundle(&spec, &host) {
        Ok(bundle) => {
            let text = bundle.config.to_string();
            let parsed: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            assert!(parsed.linux().is_some(), "what libcontainer reads");
            bundle.config.pointer(pointer).map_or("-".to_owned(), Value::to_string)
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
    check(|s, _| s.tty = true, "", expect!["container web asks for a tty, which is not supported yet"]);
}

#[test]
fn limits_are_written_only_where_asked() {
    check(|_, _| {}, "/linux/resources", expect![[r#"{"devices":[{"access":"rwm","allow":false}]}"#]]);
    let limit = |s: &mut ContainerSpec| {
        s.resources = Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit: Some(1 << 20),
            pids_limit: Some(16),
            oom_score_adj: Some(-5),
        }
    };
    check(
        |s, _| limit(s),
        "/linux/resources",
        expect![[
            r#"{"cpu":{"period":100000,"quota":50000,"shares":512},"devices":[{"access":"rwm","allow":false}],"memory":{"limit":1048576,"swap":1048576},"pids":{"limit":16}}"#
        ]],
    );
    check(
        |s, h| (limit(s), h.swap_limit = false).0,
        "/linux/resources/memory",
        expect![[r#"{"limit":1048576}"#]],
    );
    check(|_, h| h.memory_v2 = true, "/linux/resources/unified", expect![[r#"{"memory.oom.group":"1"}"#]]);
    check(|s, _| limit(s), "/process/oomScoreAdj", expect!["0"]);
    check(|s, h| (limit(s), h.oom_floor = -999).0, "/process/oomScoreAdj", expect!["-5"]);
}

#[test]
fn namespaces_are_the_pods() {
    check(
        |_, _| {},
        "/linux/namespaces",
        expect![[
            r#"[{"type":"mount"},{"type":"cgroup"},{"type":"pid"},{"path":"/ns/net","type":"network"}]"#
        ]],
    );
    check(
        |_, h| (h.netns, h.host_pid) = (None, true),
        "/linux/namespaces",
        expect![[r#"[{"type":"mount"},{"type":"cgroup"}]"#]],
    );
}

#[test]
fn privileged_hides_nothing() {
    check(|s, _| s.privileged = true, "/linux/maskedPaths", expect!["-"]);
    check(|s, _| s.privileged = true, "/linux/resources/devices/0/allow", expect!["true"]);
    let node =
        DeviceNode { path: "/dev/x".into(), kind: 'b', major: 8, minor: 1, mode: 0o600, uid: 0, gid: 6 };
    check(
        |s, h| (s.privileged, h.devices) = (true, vec![node]),
        "/linux/devices",
        expect![[r#"[{"fileMode":384,"gid":6,"major":8,"minor":1,"path":"/dev/x","type":"b","uid":0}]"#]],
    );
}

#[test]
fn volumes_come_after_what_they_lie_in_and_replace_the_usual() {
    let mount = |destination: &str, propagation| Mount {
        source: "/host".into(),
        destination: destination.into(),
        read_only: true,
        propagation,
    };
    let with = |list: Vec<Mount>| move |s: &mut ContainerSpec, _: &mut Host| s.mounts = list;
    let both = vec![mount("/a/b", Propagation::Private), mount("/a", Propagation::HostToContainer)];
    check(with(both.clone()), "/mounts/6/destination", expect![[r#""/a""#]]);
    check(with(both.clone()), "/mounts/6/options", expect![[r#"["rbind","ro","rslave"]"#]]);
    check(with(both.clone()), "/mounts/7/destination", expect![[r#""/a/b""#]]);
    check(with(both), "/linux/rootfsPropagation", expect![[r#""slave""#]]);
    let own_sys = vec![mount("/sys", Propagation::Bidirectional)];
    check(with(own_sys.clone()), "/mounts/4/destination", expect![[r#""/sys/fs/cgroup""#]]);
    check(with(own_sys), "/linux/rootfsPropagation", expect![[r#""shared""#]]);
}

#[test]
fn capabilities_for_the_last_steps_are_only_lent() {
    let bundle = bundle(&spec(), &host()).unwrap();
    assert_eq!(bundle.process.capabilities, 0xa804_25fb);
    let lent = bundle.config.pointer("/process/capabilities/effective").unwrap().to_string();
    assert!(lent.contains("CAP_SYS_ADMIN") && lent.contains("CAP_SETPCAP"), "{lent}");
}
