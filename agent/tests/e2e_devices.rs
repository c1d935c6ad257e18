//! A device plugin in a process of its own (this one), and pods that ask for its devices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "cri/client.rs"]
mod client;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orlop_cri_api::{
    device_plugin::{
        device_plugin_server::{DevicePlugin, DevicePluginServer},
        registration_client::RegistrationClient,
        *,
    },
    pod_resources::{
        AllocatableResourcesRequest, GetPodResourcesRequest, ListPodResourcesRequest,
        pod_resources_lister_client::PodResourcesListerClient,
    },
};
use orlop_tests::{Playground, until};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Request, Response, Status};
use tower::Service as _;

const RESOURCE: &str = "devices.orlop.dev/unit";
const BUSYBOX: &str = "orlop.dev/example/busybox:v1";

/// Gives /dev/fuse for every id; prefers the last ones.
#[derive(Clone)]
struct Units {
    /// Ids, and whether they are healthy.
    devices: watch::Receiver<Vec<(&'static str, bool)>>,
    calls: Arc<Mutex<Vec<String>>>,
    /// What it does wrong.
    mood: Arc<Mutex<&'static str>>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl DevicePlugin for Units {
    type ListAndWatchStream =
        std::pin::Pin<Box<dyn futures::Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Answer<DevicePluginOptions> {
        Ok(Response::new(DevicePluginOptions {
            pre_start_required: true,
            get_preferred_allocation_available: true,
        }))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Answer<Self::ListAndWatchStream> {
        let mut devices = self.devices.clone();
        devices.mark_changed();
        let lists = futures::stream::unfold(devices, |mut devices| async move {
            devices.changed().await.ok()?;
            let list = devices.borrow_and_update().clone();
            let device = |(id, healthy): (&str, bool)| Device {
                id: id.to_owned(),
                health: if healthy { "Healthy" } else { "Unhealthy" }.to_owned(),
                topology: Some(TopologyInfo { nodes: vec![NumaNode { id: 0 }] }),
            };
            Some((Ok(ListAndWatchResponse { devices: list.into_iter().map(device).collect() }), devices))
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Answer<PreferredAllocationResponse> {
        let of = |request: ContainerPreferredAllocationRequest| {
            let size = usize::try_from(request.allocation_size).unwrap();
            let mut all = request.available_device_i_ds;
            all.sort();
            ContainerPreferredAllocationResponse { device_i_ds: all.into_iter().rev().take(size).collect() }
        };
        let requests = request.into_inner().container_requests;
        Ok(Response::new(PreferredAllocationResponse {
            container_responses: requests.into_iter().map(of).collect(),
        }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Answer<AllocateResponse> {
        let mood = *self.mood.lock().unwrap();
        if mood == "refuses" {
            return Err(Status::unavailable("not today"));
        }
        let of = |request: ContainerAllocateRequest| {
            let ids = request.devices_ids.join("+");
            self.calls.lock().unwrap().push(format!("allocate {ids}"));
            ContainerAllocateResponse {
                envs: HashMap::from([("UNITS".to_owned(), ids)]),
                mounts: vec![Mount {
                    container_path: "/from-the-plugin".to_owned(),
                    host_path: "/etc".to_owned(),
                    read_only: true,
                }],
                devices: vec![DeviceSpec {
                    container_path: "/dev/unit".to_owned(),
                    host_path: "/dev/fuse".to_owned(),
                    permissions: "rw".to_owned(),
                }],
                cdi_devices: (mood == "cdi")
                    .then(|| CdiDevice { name: "orlop.dev/unit=0".to_owned() })
                    .into_iter()
                    .collect(),
                ..ContainerAllocateResponse::default()
            }
        };
        let requests = request.into_inner().container_requests;
        Ok(Response::new(AllocateResponse { container_responses: requests.into_iter().map(of).collect() }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Answer<PreStartContainerResponse> {
        self.calls.lock().unwrap().push(format!("start {}", request.into_inner().devices_ids.join("+")));
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

/// Serves until dropped; connections end with it.
struct Served(JoinHandle<()>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn serve(socket: &Path, units: Units) -> Served {
    let _none = std::fs::remove_file(socket);
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let server = DevicePluginServer::new(units);
    Served(tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = server.clone();
            connections.spawn(async move {
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let mut server = server.clone();
                    async move { server.call(request.map(tonic::body::Body::new)).await }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }))
}

async fn register(dir: &Path, version: &str, resource: &str) -> Result<(), Status> {
    let http = client::connect(&dir.join("kubelet.sock")).await.expect("the agent listens");
    let mut registry = RegistrationClient::with_origin(http, "http://kubelet".parse().unwrap());
    let request = RegisterRequest {
        version: version.to_owned(),
        endpoint: "units.sock".to_owned(),
        resource_name: resource.to_owned(),
        options: None,
    };
    registry.register(request).await.map(drop)
}

async fn lister(dir: &Path) -> PodResourcesListerClient<client::Http> {
    let http = client::connect(&dir.join("pod-resources/kubelet.sock")).await.expect("the agent listens");
    PodResourcesListerClient::with_origin(http, "http://kubelet".parse().unwrap())
}

/// Ids of the devices that a pod's only container has.
async fn ids_of(dir: &Path, pod: &str) -> Vec<String> {
    let request = GetPodResourcesRequest { pod_name: pod.to_owned(), pod_namespace: "default".to_owned() };
    let answer = lister(dir).await.get(request).await.unwrap().into_inner();
    let container = answer.pod_resources.unwrap().containers.remove(0);
    container.devices.into_iter().flat_map(|devices| devices.device_ids).collect()
}

fn counts(p: &Playground, expected: (&str, &str)) {
    let node = p.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    until(&format!("the node has {expected:?}"), Duration::from_secs(30), || {
        let node = p.get(&["node", &node]);
        let count = |list: &str| node["status"][list][RESOURCE].as_str().unwrap_or("-").to_owned();
        let (capacity, allocatable) = (count("capacity"), count("allocatable"));
        if (capacity.as_str(), allocatable.as_str()) == expected {
            Ok(())
        } else {
            Err(format!("{capacity} {allocatable}"))
        }
    });
}

fn pod(p: &Playground, name: &str, units: u32, more: &str) {
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, {more} containers: [\
         {{name: c, image: '{BUSYBOX}', command: [sh, -c, 'exec 3<>/dev/unit && echo \"opened $UNITS $(ls /from-the-plugin/hostname)\"; while [ ! -e /stop ]; do sleep 0.1; done; exit 1'], \
         resources: {{limits: {{{RESOURCE}: {units}}}}}}}]}}}}"
    ))
    .text();
}

fn ready(p: &Playground, name: &str) -> Value {
    p.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).text();
    p.get(&["pod", name])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "e2e tier"]
async fn pods_get_devices_of_a_plugin_and_keep_them() {
    let dir = tempfile::tempdir().unwrap();
    let kubelet: PathBuf = dir.path().to_owned();
    let plugins = kubelet.join("device-plugins");
    let mut p = Playground::with(&[], &[("ORLOP_KUBELET_DIR", kubelet.to_str().unwrap())]);
    let (change, devices) = watch::channel(vec![("a", true), ("b", true), ("x", false)]);
    let units = Units { devices, calls: Arc::default(), mood: Arc::default() };
    let calls = || std::mem::take(&mut *units.calls.lock().unwrap());
    let served = serve(&plugins.join("units.sock"), units.clone());
    let refused = register(&plugins, "v1alpha", RESOURCE).await.unwrap_err();
    assert!(refused.message().contains("requested API version \"v1alpha\" is not supported"), "{refused}");
    assert!(register(&plugins, "v1beta1", "kubernetes.io/unit").await.is_err());
    register(&plugins, "v1beta1", RESOURCE).await.unwrap();
    counts(&p, ("3", "2"));

    // The scheduler knows of them, and the container has what the plugin said.
    pod(&p, "one", 1, "");
    ready(&p, "one");
    p.wait_for(&["logs", "one"], |log| log == "opened b /from-the-plugin/hostname\n");
    assert_eq!(calls(), ["allocate b", "start b"]);
    assert_eq!(ids_of(&kubelet, "one").await, ["b"]);
    let listed = lister(&kubelet).await.list(ListPodResourcesRequest {}).await.unwrap().into_inner();
    assert!(listed.pod_resources.iter().any(|pod| pod.name == "one" && pod.namespace == "default"));
    let all = lister(&kubelet).await.get_allocatable_resources(AllocatableResourcesRequest {}).await.unwrap();
    assert_eq!(all.into_inner().devices[0].device_ids, ["a", "b"]);

    // More than there is, for a pod that no scheduler has seen.
    let node = p.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    pod(&p, "much", 2, &format!("nodeName: {node},"));
    p.wait_for(&["get", "pod", "much", "-o", "jsonpath={.status.phase} {.status.reason} {.status.message}"], |text| {
        text == format!(
            "Failed UnexpectedAdmissionError Pod was rejected: Allocate failed due to requested number of devices \
             unavailable for {RESOURCE}. Requested: 2, Available: 1, which is unexpected"
        )
    });

    // A plugin that does not want to, or wants what cannot be done; the devices are free again.
    for (mood, why) in [
        ("refuses", "rpc error: code = Unavailable desc = not today"),
        ("cdi", "CDI devices are not supported: orlop.dev/unit=0"),
    ] {
        *units.mood.lock().unwrap() = mood;
        pod(&p, mood, 1, &format!("nodeName: {node},"));
        p.wait_for(&["get", "pod", mood, "-o", "jsonpath={.status.message}"], |text| {
            text == format!("Pod was rejected: Allocate failed due to {why}, which is unexpected")
        });
    }
    *units.mood.lock().unwrap() = "";
    p.kubectl(&["delete", "pod", "much", "refuses", "cdi", "--now"]).text();
    calls();

    change.send_replace(vec![("a", false), ("b", true), ("x", false)]);
    counts(&p, ("3", "1"));

    // Without an agent for a while; the plugin sees a new socket and registers again.
    p.kill_agent(1);
    change.send_replace(vec![("a", true), ("b", true), ("x", false)]);
    p.up();
    register(&plugins, "v1beta1", RESOURCE).await.unwrap();
    counts(&p, ("3", "2"));
    assert_eq!(ids_of(&kubelet, "one").await, ["b"], "kept over a restart");
    pod(&p, "two", 1, "");
    ready(&p, "two");
    assert_eq!(
        (ids_of(&kubelet, "two").await, calls()),
        (vec!["a".to_owned()], vec!["allocate a".into(), "start a".into()])
    );

    // A container that is started again has the same; the plugin is told, and not asked anew.
    p.exec("one", &["touch", "/stop"]).text();
    p.wait_for(
        &[
            "get",
            "pod",
            "one",
            "-o",
            "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}",
        ],
        |text| text == "1 true",
    );
    p.wait_for(&["logs", "one"], |log| log == "opened b /from-the-plugin/hostname\n");
    assert_eq!(calls(), ["start b"]);

    // The plugin is gone: what runs goes on, nothing new comes.
    drop(served);
    counts(&p, ("3", "0"));
    p.kubectl(&["delete", "pod", "one", "two", "--now"]).text();
    pod(&p, "late", 1, &format!("nodeName: {node},"));
    p.wait_for(&["get", "pod", "late", "-o", "jsonpath={.status.message}"], |text| {
        text.contains("no healthy devices present; cannot allocate unhealthy devices")
    });

    // And comes back.
    let _served = serve(&plugins.join("units.sock"), units.clone());
    register(&plugins, "v1beta1", RESOURCE).await.unwrap();
    counts(&p, ("3", "2"));
    pod(&p, "both", 2, "");
    ready(&p, "both");
    assert_eq!(ids_of(&kubelet, "both").await, ["a", "b"]);
}
