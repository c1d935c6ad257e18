//! What a client says, and reads, besides the lives of pods and containers.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

#[path = "cri/client.rs"]
mod client;
#[path = "cri/node.rs"]
mod node;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use client::{IMAGE, container, create, run_pod, said, start};
use node::Node;
use orlop_cri_api::v1::*;
use tonic::Code;

fn with(name: &str, security: LinuxContainerSecurityContext) -> ContainerConfig {
    let linux = LinuxContainerConfig { security_context: Some(security), resources: None };
    ContainerConfig { linux: Some(linux), ..container(name, "sleep 600") }
}

/// What lies over something of /proc, and how it may be used.
const OVER_PROC: &str = "while read _ _ _ _ at flags _; do case $at in /proc/*) echo $at ${flags%%,*};; esac; done </proc/self/mountinfo";

#[tokio::test]
#[ignore = "root tier"]
async fn what_lies_over_proc_is_what_the_client_says() {
    let node = Node::new();
    let mut cri = node.client().await;
    let pod = run_pod(&mut cri, node.pod()).await;
    // `procMount: Unmasked` of a kubelet: lists with nothing in them.
    let unmasked = start(&mut cri, &pod, with("unmasked", LinuxContainerSecurityContext::default())).await;
    assert_eq!(said(&mut cri, &unmasked, OVER_PROC).await, "");
    let said_so = LinuxContainerSecurityContext {
        masked_paths: vec!["/proc/uptime".into()],
        readonly_paths: vec!["/proc/sys".into()],
        ..Default::default()
    };
    let own = start(&mut cri, &pod, with("own", said_so.clone())).await;
    assert_eq!(said(&mut cri, &own, OVER_PROC).await, "/proc/sys ro\n/proc/uptime rw");
    let privileged = LinuxContainerSecurityContext { privileged: true, ..said_so };
    let privileged = start(&mut cri, &pod, with("privileged", privileged)).await;
    assert_eq!(said(&mut cri, &privileged, OVER_PROC).await, "");
    // A tool that does not think of it.
    let usual = start(&mut cri, &pod, container("usual", "sleep 600")).await;
    let usual = said(&mut cri, &usual, OVER_PROC).await;
    assert!(usual.contains("/proc/sys ro") && usual.contains("/proc/keys "), "{usual}");
}

/// Bytes and number of a directory and all that lies below it, as `find` has it.
fn found(dir: &Path) -> (u64, u64) {
    let out = Command::new("find").arg(dir).args(["-printf", "%b\n"]).output().unwrap();
    let blocks: Vec<u64> =
        String::from_utf8(out.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    (blocks.iter().sum::<u64>() * 512, u64::try_from(blocks.len()).unwrap())
}

#[tokio::test]
#[ignore = "root tier"]
async fn images_are_pinned_by_hand_and_counted_as_they_lie() {
    let node = Node::new();
    let mut images = node.images().await;
    let pinned = async |images: &mut client::Images| {
        let listed = images.list_images(ListImagesRequest::default()).await.unwrap().into_inner().images;
        let asked = ImageStatusRequest {
            image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
            verbose: false,
        };
        let status = images.image_status(asked).await.unwrap().into_inner().image.unwrap();
        assert_eq!(listed, std::slice::from_ref(&status));
        status.pinned
    };
    // `orlop image load` has brought it.
    assert!(pinned(&mut images).await);
    node.image(&["rm", IMAGE]);
    node.image(&["load", "--no-pin", &node.dir.path().join("layout").to_string_lossy()]);
    assert!(!pinned(&mut images).await);

    let store = node.dir.path().join("state/images");
    let info = images.image_fs_info(ImageFsInfoRequest {}).await.unwrap().into_inner();
    let [of_images] = &info.image_filesystems[..] else { panic!("{info:?}") };
    assert_eq!(of_images.fs_id.as_ref().unwrap().mountpoint, store.to_string_lossy());
    let told = (of_images.used_bytes.unwrap().value, of_images.inodes_used.unwrap().value);
    assert_eq!(told, found(&store));
    assert!(told.0 > fs::metadata("/bin/busybox").unwrap().len() && told.1 > 20, "{told:?}");
}

/// Series by name; of those with labels of their own by these too.
fn values(metrics: &[Metric]) -> BTreeMap<String, u64> {
    let named = |metric: &Metric| {
        let own = metric.label_values[6..].iter().map(|value| format!(" {value}"));
        (metric.name.clone() + &own.collect::<String>(), metric.value.unwrap().value)
    };
    metrics.iter().map(named).collect()
}

#[tokio::test]
#[ignore = "root tier"]
async fn a_kubelet_gets_the_series_of_cadvisor() {
    let node = Node::new();
    let mut cri = node.client().await;
    let pod = run_pod(&mut cri, node.pod()).await;
    let limits = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_quota: 30_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        ..Default::default()
    };
    let linux = LinuxContainerConfig { resources: Some(limits), security_context: None };
    let script = "echo some >/tmp/file; sleep 600 & exec sleep 600";
    let config = ContainerConfig { linux: Some(linux), ..container("c", script) };
    let id = start(&mut cri, &pod, with_root(config)).await;
    let bytes = async |cri: &mut client::Runtime| {
        said(cri, &id, "cat /sys/class/net/eth0/statistics/rx_bytes").await.parse::<u64>().unwrap()
    };
    let before = bytes(&mut cri).await;
    let listed = cri.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.unwrap().into_inner();
    let after = bytes(&mut cri).await;
    let [of_pod] = &listed.pod_metrics[..] else { panic!("{listed:?}") };
    let [of_container] = &of_pod.container_metrics[..] else { panic!("{of_pod:?}") };
    assert_eq!((&of_pod.pod_sandbox_id, &of_container.container_id), (&pod, &id));

    let told = cri.list_metric_descriptors(ListMetricDescriptorsRequest {}).await.unwrap().into_inner();
    let keys: BTreeMap<&str, &[String]> =
        told.descriptors.iter().map(|one| (one.name.as_str(), &one.label_keys[..])).collect();
    for metric in of_pod.metrics.iter().chain(&of_container.metrics) {
        assert_eq!(keys[metric.name.as_str()].len(), metric.label_values.len(), "{metric:?}");
    }
    let labels = keys["container_processes"].iter().zip(&of_container.metrics[0].label_values);
    let labels: BTreeMap<&str, &str> = labels.map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let said_to_be = ["container", "name", "namespace", "pod", "image"].map(|key| labels[key]);
    assert_eq!(said_to_be, ["c", id.as_str(), "ns", "p", IMAGE]);
    assert!(labels["id"].ends_with(&format!("/{pod}/{id}")), "{labels:?}");

    let (pods, own) = (values(&of_pod.metrics), values(&of_container.metrics));
    let started = client::status(&mut cri, &id).await.started_at / 1_000_000_000;
    for (name, expected) in [
        ("container_processes", 2),
        ("container_threads", 2),
        ("container_oom_events_total", 0),
        ("container_start_time_seconds", u64::try_from(started).unwrap()),
        ("container_spec_memory_limit_bytes", 64 << 20),
        ("container_spec_cpu_quota", 30_000),
        ("container_spec_cpu_period", 100_000),
        ("container_spec_cpu_shares", 512),
    ] {
        assert_eq!(own[name], expected, "{name}: {own:?}");
    }
    for name in ["usage_bytes", "working_set_bytes", "rss", "max_usage_bytes"] {
        let name = format!("container_memory_{name}");
        assert!((1..64 << 20).contains(&own[&name]), "{name}: {own:?}");
    }
    assert!(own["container_memory_failures_total pgfault hierarchy"] > 0, "{own:?}");
    assert!(
        own["container_file_descriptors"] >= 6 && own["container_ulimits_soft max_open_files"] > 6,
        "{own:?}"
    );
    let of_disk = |name: &str| own.iter().find(|(known, _)| known.starts_with(name)).unwrap().1;
    assert!(*of_disk("container_fs_usage_bytes ") >= 4096 && *of_disk("container_fs_limit_bytes ") > 1 << 20);
    let received = pods["container_network_receive_bytes_total eth0"];
    assert!((before..=after).contains(&received), "{before} {received} {after}");
    assert!(pods["container_memory_usage_bytes"] >= own["container_memory_rss"], "{pods:?}");
}

fn with_root(config: ContainerConfig) -> ContainerConfig {
    let root =
        LinuxContainerSecurityContext { run_as_user: Some(Int64Value { value: 0 }), ..Default::default() };
    let linux = config.linux.clone().unwrap_or_default();
    ContainerConfig { linux: Some(LinuxContainerConfig { security_context: Some(root), ..linux }), ..config }
}

#[tokio::test]
#[ignore = "root tier"]
async fn how_often_images_are_pulled_is_the_clients_business() {
    let node = Node::new();
    let images = node.images().await;
    let pull = |n: u32| {
        let mut images = images.clone();
        let image = Some(ImageSpec { image: format!("127.0.0.1:1/x:{n}"), ..ImageSpec::default() });
        async move { images.pull_image(PullImageRequest { image, ..PullImageRequest::default() }).await }
    };
    for refused in futures::future::join_all((0..15).map(pull)).await {
        let refused = refused.unwrap_err();
        assert!(refused.message().contains("127.0.0.1:1"), "{refused:?}");
    }
}

#[tokio::test]
#[ignore = "root tier"]
async fn devices_of_others_are_refused_by_name() {
    let node = Node::new();
    let mut cri = node.client().await;
    let pod = run_pod(&mut cri, node.pod()).await;
    let device = CdiDevice { name: "vendor.example/gpu=0".into() };
    let by_field = ContainerConfig { cdi_devices: vec![device], ..container("c", "true") };
    let mut by_annotation = container("c", "true");
    by_annotation.annotations.insert("cdi.k8s.io/plugin".to_owned(), "vendor.example/gpu=0".to_owned());
    for config in [by_field, by_annotation] {
        let refused = create(&mut cri, &pod, config).await.unwrap_err();
        let words = "CDI devices are not supported: vendor.example/gpu=0";
        assert!(refused.code() == Code::InvalidArgument && refused.message() == words, "{refused:?}");
    }
}
