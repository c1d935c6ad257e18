//! Users of a pod's own, with ids that the client chooses, as an upstream kubelet does it for `hostUsers: false`.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

#[path = "cri/client.rs"]
mod client;
#[path = "cri/node.rs"]
mod node;

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use client::{container, create, run_pod, said, start};
use node::Node;
use orlop_cri_api::v1::*;
use tonic::Code;

const FIRST: u32 = 30_000_000;

fn mapping(host_id: u32) -> Vec<IdMapping> {
    vec![IdMapping { host_id, container_id: 0, length: 65_536 }]
}

fn options(mappings: Vec<IdMapping>) -> Option<NamespaceOption> {
    let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: mappings.clone(), gids: mappings };
    Some(NamespaceOption { userns_options: Some(users), ..NamespaceOption::default() })
}

/// A pod with these users.
fn pod(node: &Node, attempt: u32, mappings: Vec<IdMapping>) -> PodSandboxConfig {
    let mut pod = node.pod();
    pod.metadata.as_mut().unwrap().attempt = attempt;
    let security = LinuxSandboxSecurityContext { namespace_options: options(mappings), ..Default::default() };
    pod.linux = Some(LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
    pod
}

fn asks(config: PodSandboxConfig) -> RunPodSandboxRequest {
    RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
}

fn mount(source: &Path, at: &str, mappings: Vec<IdMapping>) -> Mount {
    Mount {
        host_path: source.to_string_lossy().into_owned(),
        container_path: at.into(),
        uid_mappings: mappings.clone(),
        gid_mappings: mappings,
        ..Mount::default()
    }
}

/// Root of its pod; `users` is what it says of the pod's users.
fn as_root(name: &str, users: Option<NamespaceOption>, mounts: Vec<Mount>) -> ContainerConfig {
    let security = LinuxContainerSecurityContext {
        run_as_user: Some(Int64Value { value: 0 }),
        namespace_options: users,
        ..Default::default()
    };
    let linux = LinuxContainerConfig { security_context: Some(security), resources: None };
    ContainerConfig { linux: Some(linux), mounts, ..container(name, "sleep 600") }
}

#[tokio::test]
#[ignore = "root tier"]
async fn the_clients_ids_are_the_pods() {
    let mut node = Node::new();
    let mut cri = node.client().await;
    let status = cri.status(StatusRequest { verbose: false }).await.unwrap().into_inner();
    let features = status.runtime_handlers[0].features.unwrap();
    assert!(features.user_namespaces && features.recursive_read_only_mounts, "{features:?}");

    let data = node.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("of-root"), "").unwrap();
    let id = run_pod(&mut cri, pod(&node, 0, mapping(FIRST))).await;
    let mounts = vec![mount(&data, "/mapped", mapping(FIRST)), mount(&data, "/kept", vec![])];
    let c = start(&mut cri, &id, as_root("c", options(mapping(FIRST)), mounts)).await;
    for map in ["uid_map", "gid_map"] {
        let words = said(&mut cri, &c, &format!("cat /proc/self/{map}")).await;
        assert_eq!(words.split_whitespace().collect::<Vec<_>>(), ["0", "30000000", "65536"], "{map}");
    }
    // Mapped where the client says so; elsewhere root of the host is nobody.
    let owners = "id -u; busybox stat -c %u /mapped/of-root /kept/of-root /etc/hosts; echo >/mapped/mine; \
                  echo >/kept/mine && echo written";
    let owners = client::exec_sync(&mut cri, &c, owners, 0).await.unwrap();
    assert_eq!(String::from_utf8(owners.stdout).unwrap(), "0\n0\n65534\n0\n");
    assert_eq!(fs::metadata(data.join("mine")).unwrap().uid(), 0);
    let verbose = ContainerStatusRequest { container_id: c.clone(), verbose: true };
    let info = cri.container_status(verbose).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    assert_eq!(fs::metadata(format!("/proc/{}", info["pid"])).unwrap().uid(), FIRST);

    // Nobody else gets one of them, after a restart of the server too, until the pod is stopped.
    node.restart();
    let mut cri = node.client().await;
    for first in [FIRST, FIRST + 65_535, FIRST - 1] {
        let refused = cri.run_pod_sandbox(asks(pod(&node, 1, mapping(first)))).await.unwrap_err();
        assert!(refused.code() == Code::FailedPrecondition && refused.message().contains(&id), "{refused:?}");
    }
    run_pod(&mut cri, pod(&node, 2, mapping(FIRST + 65_536))).await;
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
    let again = run_pod(&mut cri, pod(&node, 1, mapping(FIRST))).await;
    let c = start(&mut cri, &again, as_root("c", None, vec![])).await;
    assert_eq!(said(&mut cri, &c, "id -u").await, "0");
}

#[tokio::test]
#[ignore = "root tier"]
async fn mappings_that_cannot_be_are_refused() {
    let node = Node::new();
    let mut cri = node.client().await;
    let two = [mapping(FIRST), mapping(FIRST + 100_000)].concat();
    let short = vec![IdMapping { host_id: FIRST, container_id: 0, length: 1000 }];
    for (mappings, words) in [
        (two, "one mapping of users is supported, not 2"),
        (short, "must have 65536 ids or more"),
        (mapping(0), "all of them above 0"),
        (vec![], "one mapping of users is supported, not 0"),
    ] {
        let refused = cri.run_pod_sandbox(asks(pod(&node, 0, mappings))).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(words), "{refused:?}");
    }
    let mut host = pod(&node, 0, mapping(FIRST));
    let security = host.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().pid = NamespaceMode::Node.into();
    let refused = cri.run_pod_sandbox(asks(host)).await.unwrap_err();
    assert!(refused.message().contains("other namespaces of the host"), "{refused:?}");

    let own = run_pod(&mut cri, pod(&node, 0, mapping(FIRST))).await;
    let hosts = run_pod(&mut cri, node.pod()).await;
    let other = || mapping(FIRST + 65_536);
    let mounted = |mappings| vec![mount(Path::new("/tmp"), "/tmp", mappings)];
    for (pod, config, words) in [
        (&own, as_root("c", options(other()), vec![]), "the container's mapping is not the pod's"),
        (&hosts, as_root("c", options(other()), vec![]), "the container's mapping is not the pod's"),
        (&own, as_root("c", None, mounted(other())), "mount at /tmp: they are not the pod's"),
        (&hosts, as_root("c", None, mounted(other())), "the pod has no user namespace of its own"),
    ] {
        let refused = create(&mut cri, pod, config).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(words), "{refused:?}");
    }
}
