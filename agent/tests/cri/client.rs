//! A client of the socket, generated from upstream's file, and the words that tests say often.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses a part of it; a test may panic"
)]

use std::{
    collections::HashMap,
    fs::File,
    net::TcpStream,
    os::fd::AsFd as _,
    path::Path,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, SinkExt as _, StreamExt as _, future::BoxFuture};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use orlop_cri_api::v1::{
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient, *,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tonic::body::Body;

pub type Runtime = RuntimeServiceClient<Http>;
pub type Images = ImageServiceClient<Http>;

pub const IMAGE: &str = "test.orlop.dev/busybox:v1";

/// Waits for the server, a while; `None` if it does not come.
pub async fn connect(path: &Path) -> Option<Http> {
    for _ in 0..200 {
        if let Ok(stream) = tokio::net::UnixStream::connect(path).await {
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            return Some(Http(sender));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

pub fn runtime(http: Http) -> Runtime {
    RuntimeServiceClient::with_origin(http, "http://cri".parse().unwrap())
}

pub fn images(http: Http) -> Images {
    ImageServiceClient::with_origin(http, "http://cri".parse().unwrap())
}

/// The transport of the generated client.
#[derive(Clone)]
pub struct Http(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Http {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

pub fn container(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        envs: vec![KeyValue { key: "SECRET".into(), value: "hunter2".into() }],
        log_path: format!("{name}.log"),
        labels: HashMap::from([("app".to_owned(), name.to_owned())]),
        ..ContainerConfig::default()
    }
}

pub async fn create(cri: &mut Runtime, pod: &str, config: ContainerConfig) -> Result<String, tonic::Status> {
    let request =
        CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
    Ok(cri.create_container(request).await?.into_inner().container_id)
}

pub async fn status(cri: &mut Runtime, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    cri.container_status(request).await.unwrap().into_inner().status.unwrap()
}

pub async fn run_pod(cri: &mut Runtime, config: PodSandboxConfig) -> String {
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    cri.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
}

pub async fn exec_sync(
    cri: &mut Runtime,
    id: &str,
    script: &str,
    timeout: i64,
) -> Result<ExecSyncResponse, tonic::Status> {
    let cmd = ["sh", "-c", script].map(str::to_owned).into();
    Ok(cri.exec_sync(ExecSyncRequest { container_id: id.into(), cmd, timeout }).await?.into_inner())
}

pub async fn start(cri: &mut Runtime, pod: &str, config: ContainerConfig) -> String {
    let id = create(cri, pod, config).await.unwrap();
    cri.start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap();
    id
}

/// What a command says on its standard output, without the end of the line.
pub async fn said(cri: &mut Runtime, id: &str, script: &str) -> String {
    let said = exec_sync(cri, id, script, 0).await.unwrap();
    assert_eq!(said.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().trim_end().to_owned()
}

/// To a loopback address in another network namespace.
pub fn dial(netns: &str, url: &str) -> TcpStream {
    let address = url.split('/').nth(2).unwrap().to_owned();
    let netns = File::open(format!("/run/netns/{netns}")).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpStream::connect(address).unwrap()
    })
    .join()
    .unwrap()
}

/// A command's streams by their channels, from what it is given on its standard input to its end.
pub async fn websocket(tcp: TcpStream, url: &str, stdin: &[u8]) -> HashMap<u8, Vec<u8>> {
    let mut upgrade = url.replace("http://", "ws://").into_client_request().unwrap();
    upgrade.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    tcp.set_nonblocking(true).unwrap();
    let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(upgrade, tcp).await.unwrap();
    socket.send(Message::Binary([b"\0", stdin].concat().into())).await.unwrap();
    // With v5 the end of the input can be said.
    socket.send(Message::Binary(b"\xff\0"[..].into())).await.unwrap();
    let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        channels.entry(bytes[0]).or_default().extend(&bytes[1..]);
    }
    channels
}
