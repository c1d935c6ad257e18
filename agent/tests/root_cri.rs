//! CRI over its real socket: `orlop cri` in a network namespace of its own, real containers, and the client that is generated
//! from upstream's file.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

#[path = "cri/client.rs"]
mod client;
#[path = "cri/node.rs"]
mod node;

use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Write as _},
    time::Duration,
};

use client::{IMAGE, Runtime, container, create, exec_sync, run_pod, status};
use node::Node;
use orlop_cri_api::v1::*;
use tonic::Code;

#[tokio::test]
#[ignore = "root tier"]
async fn a_pod_lives_through_a_restart_of_the_server() {
    let mut node = Node::new();
    let mut cri = node.client().await;
    let pod = run_pod(&mut cri, node.pod()).await;
    let twice = RunPodSandboxRequest { config: Some(node.pod()), runtime_handler: String::new() };
    assert_eq!(cri.run_pod_sandbox(twice).await.unwrap_err().code(), Code::AlreadyExists);

    let script = "echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let id = create(&mut cri, &pod, container("c", script)).await.unwrap();
    let made = status(&mut cri, &id).await;
    assert_eq!((made.state(), made.started_at), (ContainerState::ContainerCreated, 0));
    cri.start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap();

    node.restart();
    let mut cri = node.client().await;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let seen = cri.pod_sandbox_status(request.clone()).await.unwrap().into_inner().status.unwrap();
    assert_eq!(seen.state(), PodSandboxState::SandboxReady);
    assert_eq!(seen.metadata, node.pod().metadata);
    assert_eq!(seen.annotations["note"], "kept");
    let address = seen.network.unwrap().ip;
    let runs = status(&mut cri, &id[..12]).await;
    assert_eq!(runs.state(), ContainerState::ContainerRunning);
    assert_eq!((runs.labels["app"].as_str(), runs.created_at), ("c", made.created_at));
    let user = runs.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid), (33, 34));

    let said = exec_sync(&mut cri, &id, "cat /etc/resolv.conf /etc/hosts; echo $SECRET >&2; exit 4", 0).await;
    let said = said.unwrap();
    let out = String::from_utf8(said.stdout).unwrap();
    assert!(out.contains("nameserver 10.9.8.7") && out.contains(&format!("{address}\tp")), "{out}");
    assert_eq!((said.exit_code, said.stderr), (4, b"hunter2\n".to_vec()));
    let late = exec_sync(&mut cri, &id, "sleep 60", 1).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let missing = ExecSyncRequest { container_id: id.clone(), cmd: vec!["nope".into()], timeout: 0 };
    assert!(cri.exec_sync(missing).await.unwrap_err().message().contains("nope"));
    // What is kept of a container has no environment in it.
    let record = node.dir.path().join("run/pods").join(&pod).join("c").join(&id).join("record.json");
    let record = fs::read_to_string(record).unwrap();
    assert!(!record.contains("hunter2") && !record.contains("aHVudGVyM"), "{record}");

    let log = fs::read_to_string(node.dir.path().join("logs/c.log")).unwrap();
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    let stats = ContainerStatsRequest { container_id: id.clone() };
    let stats = cri.container_stats(stats).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    let limits = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let update = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(limits.clone()),
        ..Default::default()
    };
    cri.update_container_resources(update).await.unwrap();
    assert_eq!(status(&mut cri, &id).await.resources.unwrap().linux, Some(limits));

    cri.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 10 }).await.unwrap();
    let ended = status(&mut cri, &id).await;
    assert_eq!(
        (ended.state(), ended.exit_code, ended.reason.as_str()),
        (ContainerState::ContainerExited, 7, "Error")
    );
    for _ in 0..2 {
        cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    }
    let stopped = cri.pod_sandbox_status(request.clone()).await.unwrap().into_inner().status.unwrap();
    assert_eq!(
        (stopped.state(), stopped.network.unwrap().ip),
        (PodSandboxState::SandboxNotready, String::new())
    );
    for _ in 0..2 {
        cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    }
    assert_eq!(cri.pod_sandbox_status(request).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(fs::read_dir(node.dir.path().join("run/pods")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(node.dir.path().join("run/cri")).unwrap().count(), 0);
}

#[tokio::test]
#[ignore = "root tier"]
async fn what_cannot_be_is_said_when_it_is_asked_for() {
    let node = Node::new();
    let mut cri = node.client().await;
    let pod = run_pod(&mut cri, node.pod()).await;
    let check = async |cri: &mut Runtime, config: ContainerConfig, code: Code, words: &str| {
        let error = create(cri, &pod, config).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(words), "{error:?}");
    };
    let base = || container("c", "true");
    let image = ImageSpec { image: "nowhere.example/x".into(), ..ImageSpec::default() };
    check(&mut cri, ContainerConfig { image: Some(image), ..base() }, Code::NotFound, "nowhere.example/x")
        .await;
    let security = |context: LinuxContainerSecurityContext| ContainerConfig {
        linux: Some(LinuxContainerConfig { security_context: Some(context), resources: None }),
        ..base()
    };
    let nobody = LinuxContainerSecurityContext { run_as_username: "nobody".into(), ..Default::default() };
    check(&mut cri, security(nobody), Code::InvalidArgument, "unable to find user nobody").await;
    let group =
        LinuxContainerSecurityContext { run_as_group: Some(Int64Value { value: 5 }), ..Default::default() };
    check(&mut cri, security(group), Code::InvalidArgument, "a group without a user").await;

    let by_name = LinuxContainerSecurityContext {
        run_as_username: "root".into(),
        masked_paths: vec!["/proc/uptime".into()],
        ..Default::default()
    };
    let id = create(&mut cri, &pod, security(by_name)).await.unwrap();
    assert_eq!(create(&mut cri, &pod, base()).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(status(&mut cri, &id).await.user.unwrap().linux.unwrap().uid, 0);

    // A program that cannot be started is an end that one can ask about.
    let mut broken = container("broken", "");
    broken.command = vec!["/no/such/program".into()];
    let broken = create(&mut cri, &pod, broken).await.unwrap();
    let error =
        cri.start_container(StartContainerRequest { container_id: broken.clone() }).await.unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error:?}");
    let ended = status(&mut cri, &broken).await;
    assert_eq!(
        (ended.state(), ended.exit_code, ended.reason.as_str()),
        (ContainerState::ContainerExited, 128, "StartError")
    );
    cri.remove_container(RemoveContainerRequest { container_id: broken }).await.unwrap();

    let mut images = node.images().await;
    let image = || Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() });
    let seen =
        images.image_status(ImageStatusRequest { image: image(), verbose: true }).await.unwrap().into_inner();
    assert_eq!(seen.image.unwrap().username, "web");
    assert!(seen.info["info"].contains("web"));
    images.remove_image(RemoveImageRequest { image: image() }).await.unwrap();
    images.remove_image(RemoveImageRequest { image: image() }).await.unwrap();
    let gone = images.image_status(ImageStatusRequest { image: image(), verbose: false }).await.unwrap();
    assert_eq!(gone.into_inner().image, None);
}

/// A pair as a SPDY header block, in a stored deflate block.
fn spdy_open(id: u32, kind: &str) -> Vec<u8> {
    let mut plain = 1_u32.to_be_bytes().to_vec();
    for text in ["streamtype", kind] {
        plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        plain.extend(text.as_bytes());
    }
    let length = u16::try_from(plain.len()).unwrap();
    let mut payload = [&id.to_be_bytes()[..], &[0; 6]].concat();
    if id == 1 {
        payload.extend([0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
    }
    payload.push(0);
    payload.extend(length.to_le_bytes());
    payload.extend((!length).to_le_bytes());
    payload.extend(&plain);
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x80, 3, 0, 1, 0][..], &size[1..], &payload].concat()
}

fn spdy_data(id: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let size = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&id.to_be_bytes()[..], &[u8::from(fin)], &size[1..], bytes].concat()
}

#[tokio::test]
#[ignore = "root tier"]
async fn commands_have_streams_over_both_transports() {
    let node = Node::new();
    let mut cri = node.client().await;
    let pod = run_pod(&mut cri, node.pod()).await;
    let id = create(&mut cri, &pod, container("c", "sleep 600")).await.unwrap();
    cri.start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap();
    let request = ExecRequest {
        container_id: id.clone(),
        cmd: ["sh", "-c", "cat; echo end >&2; exit 3"].map(str::to_owned).into(),
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    };

    // WebSocket, v5: the end of the input can be said.
    let url = cri.exec(request.clone()).await.unwrap().into_inner().url;
    let channels = client::websocket(node.dial(&url), &url, b"hello").await;
    let text = |channel: u8| String::from_utf8_lossy(&channels[&channel]).into_owned();
    assert_eq!((text(1).as_str(), text(2).as_str()), ("hello", "end\n"));
    assert!(text(3).contains(r#"{"message":"3","reason":"ExitCode"}"#), "{}", text(3));

    // The token was good once.
    let mut again = node.dial(&url);
    again
        .write_all(format!("GET /{} HTTP/1.0\r\n\r\n", url.split_once("/exec").unwrap().1).as_bytes())
        .unwrap();
    let mut answer = String::new();
    again.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 404 "), "{answer}");

    // SPDY, as the API server opens it.
    let url = cri.exec(request).await.unwrap().into_inner().url;
    let path = url.splitn(4, '/').nth(3).unwrap().to_owned();
    let mut tcp = node.dial(&url);
    let (out, end) = tokio::task::spawn_blocking(move || {
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let upgrade = format!(
            "POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        );
        tcp.write_all(upgrade.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tcp.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
            tcp.write_all(&spdy_open(id, kind)).unwrap();
        }
        tcp.write_all(&spdy_data(3, b"hello", true)).unwrap();
        let mut streams: HashMap<u32, (Vec<u8>, bool)> = HashMap::new();
        while ![1, 5, 7].iter().all(|id| streams.get(id).is_some_and(|(_, fin)| *fin)) {
            let mut head = [0; 8];
            tcp.read_exact(&mut head).unwrap();
            let size = u32::from_be_bytes([0, head[5], head[6], head[7]]);
            let mut payload = vec![0; usize::try_from(size).unwrap()];
            tcp.read_exact(&mut payload).unwrap();
            if head[0] & 0x80 == 0 {
                let stream = streams.entry(u32::from_be_bytes([head[0], head[1], head[2], head[3]])).or_default();
                stream.0.extend(payload);
                stream.1 |= head[4] & 1 != 0;
            }
        }
        let text = |id: u32| String::from_utf8_lossy(&streams[&id].0).into_owned();
        (text(5) + &text(7), text(1))
    })
    .await
    .unwrap();
    assert_eq!(out, "helloend\n");
    assert!(end.contains("NonZeroExitCode"), "{end}");
}
