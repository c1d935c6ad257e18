//! What a client says, and reads, besides the lives of pods and containers.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

#[path = "cri/client.rs"]
mod client;
#[path = "cri/node.rs"]
mod node;

use std::{fs, path::Path, process::Command};

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
