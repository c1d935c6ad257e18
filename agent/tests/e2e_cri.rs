//! The CRI socket beside an agent that has pods of its own: who sees what, and who may do what.

#[path = "cri/client.rs"]
mod client;

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use client::{container, create, run_pod, said, start, status};
use orlop_cri_api::v1::*;
use orlop_tests::Playground;
use tonic::Code;

const BUSYBOX: &str = "orlop.dev/example/busybox:v1";
const UNUSED: &str = "orlop.dev/example/hello:v1";

async fn runtime(socket: &Path) -> client::Runtime {
    client::runtime(client::connect(socket).await.expect("the socket is there"))
}

fn box_pod(p: &Playground) -> String {
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: box}}, spec: {{containers: [\
         {{name: c, image: '{BUSYBOX}', command: [sh, -c, 'echo from the box; exec sleep 1000']}}]}}}}"
    ))
    .text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/box", "--timeout=60s"]).text();
    p.kubectl(&["get", "pod", "box", "-o", "jsonpath={.metadata.uid}"]).text()
}

#[tokio::test]
#[ignore = "e2e tier"]
async fn the_cri_socket_beside_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock");
    let mut p = Playground::with(&[], &[("ORLOP_CRI_SOCKET", socket.to_str().unwrap())]);
    let uid = box_pod(&p);
    let mut cri = runtime(&socket).await;
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o600);

    // The agent's pod is in sight, as a kubelet's would be.
    let listed = cri.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    let pod = listed.iter().find(|pod| pod.id == uid).unwrap_or_else(|| panic!("{listed:?}"));
    let metadata = pod.metadata.clone().unwrap();
    assert_eq!((metadata.name.as_str(), metadata.namespace.as_str()), ("box", "default"));
    assert_eq!(
        (pod.labels["io.kubernetes.pod.name"].as_str(), pod.state()),
        ("box", PodSandboxState::SandboxReady)
    );
    let filter = ContainerFilter { pod_sandbox_id: uid.clone(), ..ContainerFilter::default() };
    let containers = ListContainersRequest { filter: Some(filter) };
    let containers = cri.list_containers(containers).await.unwrap().into_inner().containers;
    let [c] = &containers[..] else { panic!("{containers:?}") };
    assert_eq!(c.labels["io.kubernetes.container.name"], "c");
    let id = c.id.clone();
    let address = p.kubectl(&["get", "pod", "box", "-o", "jsonpath={.status.podIP}"]).text();
    let request = PodSandboxStatusRequest { pod_sandbox_id: uid.clone(), verbose: false };
    let seen = cri.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(seen.network.unwrap().ip, address);

    // Commands in it, with streams.
    let exec = ExecRequest {
        container_id: id.clone(),
        cmd: ["sh", "-c", "cat; exit 3"].map(str::to_owned).into(),
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let url = cri.exec(exec).await.unwrap().into_inner().url;
    let tcp = client::dial(p.json["nodes"][0]["netns"].as_str().unwrap(), &url);
    let streams = client::websocket(tcp, &url, b"typed").await;
    assert_eq!(streams[&1], b"typed");
    assert!(String::from_utf8_lossy(&streams[&3]).contains("ExitCode"), "{streams:?}");

    // But it is the agent's: nothing is made or removed in it.
    let mut own = container("d", "sleep 1000");
    own.image = Some(ImageSpec { image: BUSYBOX.into(), ..ImageSpec::default() });
    let refused = [
        create(&mut cri, &uid, own.clone()).await.unwrap_err(),
        cri.remove_container(RemoveContainerRequest { container_id: id.clone() }).await.unwrap_err(),
        cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: uid.clone() }).await.unwrap_err(),
    ];
    for status in refused {
        let said = status.message().contains("pod default/box is the node agent's");
        assert!(status.code() == Code::FailedPrecondition && said, "{status:?}");
    }
    // Its end is like any other: the agent starts the container anew, in the same sandbox.
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: uid.clone() }).await.unwrap();
    let path = "jsonpath={.metadata.uid} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
    p.wait_for(&["get", "pod", "box", "-o", path], |text| text == format!("{uid} 1 true"));
    assert_eq!(status(&mut cri, &id).await.state(), ContainerState::ContainerExited);

    // A pod of the client's is nothing to the agent, before and after its end.
    let pod = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "mine".into(),
            uid: "m".into(),
            namespace: "x".into(),
            attempt: 0,
        }),
        ..PodSandboxConfig::default()
    };
    let mine = run_pod(&mut cri, pod).await;
    let d = start(&mut cri, &mine, own).await;
    p.kill_agent(1);
    p.up();
    let mut cri = runtime(&socket).await;
    p.kubectl(&["wait", "--for=condition=Ready", "pod/box", "--timeout=60s"]).text();
    assert_eq!(status(&mut cri, &d).await.state(), ContainerState::ContainerRunning);
    let peer = said(&mut cri, &d, &format!("ping -c 1 -W 5 {address} >/dev/null && echo there")).await;
    assert_eq!(peer, "there");
    assert!(!p.kubectl(&["get", "pods", "-A"]).text().contains("mine"));
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: mine }).await.unwrap();
}

#[tokio::test]
#[ignore = "e2e tier"]
async fn images_over_cri_are_the_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock");
    let p = Playground::with(&[], &[("ORLOP_CRI_SOCKET", socket.to_str().unwrap())]);
    box_pod(&p);
    let mut images = client::images(client::connect(&socket).await.unwrap());
    let listed = images.list_images(ListImagesRequest::default()).await.unwrap().into_inner().images;
    let by_name: BTreeMap<&str, &Image> = listed
        .iter()
        .flat_map(|image| image.repo_tags.iter().map(move |tag| (tag.as_str(), image)))
        .collect();
    assert!(by_name.contains_key(BUSYBOX) && by_name[UNUSED].size > 0, "{by_name:?}");
    let spec = |name: &str| Some(ImageSpec { image: name.into(), ..ImageSpec::default() });
    images.remove_image(RemoveImageRequest { image: spec(UNUSED) }).await.unwrap();
    let status = ImageStatusRequest { image: spec(UNUSED), verbose: false };
    assert_eq!(images.image_status(status).await.unwrap().into_inner().image, None);
    // A pod that the agent then starts has to do without it.
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: late}}, spec: {{containers: [\
         {{name: c, image: '{UNUSED}', imagePullPolicy: Never}}]}}}}"
    ))
    .text();
    let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    p.wait_for(&["get", "pod", "late", "-o", path], |text| text == "ErrImageNeverPull");
}
