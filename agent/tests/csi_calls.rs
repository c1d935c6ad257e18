//! What a CSI driver is asked, over a real socket and with a real API server: registration, growth, room, tokens.
//!
//! The driver here mounts nothing, so that this needs no root; real mounts are `tests/tests/e2e_volumes.rs`.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::{
    core::v1::{Node as ApiNode, Pod},
    storage::v1::{CSIDriver, CSINode},
};
use kube::{Api, Client, api::PostParams};
use orlop::{
    csi::{self, Csi, Request, Source},
    source::{objects::ApiObjects, storage::ApiStorage},
    worker::ports::Clock,
};
use orlop_apiserver::{ApiServer, Identity};
use orlop_cri_api::{
    csi::{
        node_server::{Node, NodeServer},
        node_service_capability::{Rpc, Type, rpc::Type as Can},
        volume_usage::Unit,
        *,
    },
    registration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
        registration_server::{Registration, RegistrationServer},
    },
};
use tokio::net::UnixListener;
use tonic::{Request as Call, Response, Status, codegen::Service as _};

/// Registrar and driver on one socket; remembers what it was asked.
#[derive(Clone, Default)]
struct Driver(Arc<Mutex<Vec<String>>>);

impl Driver {
    fn say(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Call<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        let (r#type, supported_versions) = ("CSIPlugin".into(), vec!["1.0.0".into()]);
        Ok(Response::new(PluginInfo {
            r#type,
            name: "d".into(),
            endpoint: String::new(),
            supported_versions,
        }))
    }

    async fn notify_registration_status(
        &self,
        call: Call<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = call.into_inner();
        self.say(format!("registered {plugin_registered} {error}"));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        _: Call<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        Err(Status::unimplemented("no staging"))
    }

    async fn node_unstage_volume(
        &self,
        _: Call<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        Err(Status::unimplemented("no staging"))
    }

    async fn node_publish_volume(
        &self,
        call: Call<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = call.into_inner();
        let tokens = request.volume_context.get("csi.storage.k8s.io/serviceAccount.tokens");
        let tokens: HashMap<String, serde_json::Value> =
            tokens.map(|tokens| serde_json::from_str(tokens).unwrap()).unwrap_or_default();
        let jwt = tokens.get("vault").map(|token| token["token"].as_str().unwrap().split('.').count());
        let group = match request.volume_capability.and_then(|capability| capability.access_type) {
            Some(volume_capability::AccessType::Mount(mount)) => mount.volume_mount_group,
            _ => String::new(),
        };
        self.say(format!("publish {} group={group} token={jwt:?}", request.volume_id));
        fs::create_dir_all(&request.target_path).unwrap();
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        call: Call<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.say(format!("unpublish {}", call.into_inner().volume_id));
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: Call<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let usage =
            |unit: Unit, total| VolumeUsage { available: 1, total, used: total - 1, unit: unit as i32 };
        let usage = vec![usage(Unit::Bytes, 100), usage(Unit::Inodes, 7)];
        Ok(Response::new(NodeGetVolumeStatsResponse { usage, volume_condition: None }))
    }

    async fn node_expand_volume(
        &self,
        call: Call<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let bytes = call.into_inner().capacity_range.unwrap().required_bytes;
        self.say(format!("expand {bytes}"));
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Call<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let can = [Can::GetVolumeStats, Can::ExpandVolume, Can::VolumeMountGroup];
        let capabilities =
            can.map(|can| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: can as i32 })) });
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: capabilities.to_vec() }))
    }

    async fn node_get_info(
        &self,
        _: Call<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let (node_id, accessible_topology) = ("id".into(), None);
        Ok(Response::new(NodeGetInfoResponse { node_id, max_volumes_per_node: 0, accessible_topology }))
    }
}

async fn serve(driver: Driver, socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let (node, registrar) = (NodeServer::new(driver.clone()), RegistrationServer::new(driver));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (node, registrar) = (node.clone(), registrar.clone());
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (mut node, mut registrar) = (node.clone(), registrar.clone());
            let request = request.map(tonic::body::Body::new);
            async move {
                match request.uri().path().starts_with("/csi.v1.Node/") {
                    true => node.call(request).await,
                    false => registrar.call(request).await,
                }
            }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}

fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_norway::from_str(text).unwrap()
}

async fn until<T>(what: &str, probe: impl AsyncFn() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(value) = probe().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not happen");
}

struct Now;

impl Clock for Now {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

#[tokio::test]
async fn a_driver_is_asked_what_the_interface_says() {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::open(orlop_apiserver::Config {
        data_dir: dir.path().join("api"),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        advertise_address: Ipv4Addr::LOCALHOST.into(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        names: Vec::new(),
    })
    .await
    .unwrap();
    let client = |user: &str, group: &str| {
        Client::new(api.client_service(Identity::new(user, [group.to_owned()])), "default")
    };
    let (admin, node) = (client("admin", "system:masters"), client("system:node:n", "system:nodes"));
    let params = PostParams::default();
    Api::<ApiNode>::all(admin.clone()).create(&params, &yaml("{metadata: {name: n}}")).await.unwrap();
    let account = yaml("{metadata: {name: default}}");
    let accounts = Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(admin.clone(), "default");
    accounts.create(&params, &account).await.unwrap();
    let pod = "{metadata: {name: p}, spec: {nodeName: n, securityContext: {fsGroup: 9}, containers: [{name: c, image: i}]}}";
    let pods = Api::<Pod>::namespaced(admin.clone(), "default");
    let pod = pods.create(&params, &yaml(pod)).await.unwrap();
    let driver = "{metadata: {name: d}, spec: {attachRequired: false, tokenRequests: [{audience: vault}]}}";
    Api::<CSIDriver>::all(admin.clone()).create(&params, &yaml(driver)).await.unwrap();

    let state = dir.path().join("s");
    let registry = state.join("plugins_registry");
    fs::create_dir_all(&registry).unwrap();
    let driver = Driver::default();
    let (socket, served) = (registry.join("d-reg.sock"), driver.clone());
    let path = socket.clone();
    let server = tokio::spawn(async move { serve(served, &path).await });
    let (changes, _heard) = tokio::sync::mpsc::unbounded_channel();
    let objects = Arc::new(ApiObjects::new(node.clone(), changes, None, Arc::new(Now)));
    let csi =
        Arc::new(Csi::new("n".into(), state.clone(), Arc::new(ApiStorage(Some(node.clone()))), objects));
    let running = tokio::spawn(csi::run(Arc::clone(&csi), node, state.clone()));
    let nodes = Api::<CSINode>::all(admin);
    let drivers = async |count: usize| {
        until("the driver in CSINode", async || {
            nodes.get_opt("n").await.unwrap().filter(|node| node.spec.drivers.len() == count)
        })
        .await
    };
    assert_eq!(drivers(1).await.spec.drivers[0].node_id, "id");
    let said =
        until("the registrar's news", async || Some(driver.said()).filter(|said| !said.is_empty())).await;
    assert_eq!(said, ["registered true "]);

    let source = yaml("{driver: d, volumeHandle: h, fsType: ext4}");
    let modes = ["ReadWriteOnce".to_owned()];
    let request = || Request {
        pod: &pod,
        name: "pv",
        source: Source::persistent(&source),
        block: false,
        read_only: false,
        access_modes: &modes,
        mount_options: &[],
        group: Some(9),
        grow_to: Some(5 << 30),
    };
    let published = csi.publish(request()).await.unwrap();
    assert!(published.grown && !published.give_to_group, "the driver sets the group itself");
    assert_eq!(
        driver.said(),
        ["publish h group=9 token=Some(3)".to_owned(), format!("expand {}", 5_i64 << 30)]
    );
    let uid = pod.metadata.uid.as_deref().unwrap();
    let room = csi.room(uid, "pv").await.unwrap();
    assert_eq!((room.bytes, room.inodes), ((100, 1, 99), (7, 1, 6)));
    csi.unpublish_pod(uid, |_| None).await.unwrap();
    assert_eq!(driver.said(), ["unpublish h"]);
    assert_eq!(csi.room(uid, "pv").await, None);

    // A driver that is away.
    server.abort();
    fs::remove_file(&socket).unwrap();
    drivers(0).await;
    let error = csi.publish(request()).await.unwrap_err();
    assert_eq!(error.step, "MountVolume.MountDevice");
    let why = "kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: driver name d not found in the list of registered CSI drivers";
    assert_eq!(error.error, why);
    running.abort();
}
