//! A cluster without nodes' machines: the real API server and all controllers in this process, and a stand-in
//! for the agents that makes scheduled pods ready and ends deleted ones.

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource};
use orlop_apiserver::{ApiServer, Identity};
use orlop_controllers::{Controller, ControllersConfig};
use orlop_model::net::PerFamily;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long anything may take; generous, for test machines are busy.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    _dir: tempfile::TempDir,
    server: ApiServer,
    _agents: JoinSet<()>,
    controllers: JoinSet<()>,
    healthy: Arc<std::sync::atomic::AtomicBool>,
}

impl Cluster {
    /// Starts it with this many nodes of 4 CPUs each.
    pub(crate) async fn start(nodes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = ApiServer::open(orlop_apiserver::Config {
            data_dir: dir.path().to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise_address: Ipv4Addr::LOCALHOST.into(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            names: Vec::new(),
        })
        .await
        .unwrap();
        let healthy = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let mut agents = JoinSet::new();
        agents.spawn(agent(client(&server, "agents"), Arc::clone(&healthy)));
        let client = client(&server, "admin");
        let controllers = JoinSet::new();
        let mut cluster = Self { client, _dir: dir, server, _agents: agents, controllers, healthy };
        cluster.start_controllers();
        for index in 0..nodes {
            cluster.node(&format!("n{index}")).await;
        }
        cluster
    }

    pub(crate) fn start_controllers(&mut self) {
        let config = ControllersConfig {
            cluster_cidrs: ["10.244.0.0/16", "fd00:10::/56"].map(|net| net.parse().unwrap()).into(),
            node_cidr_masks: PerFamily { v4: 24, v6: 64 },
            ca_pem: self.server.ca_pem().to_owned(),
            enabled: Controller::all(),
        };
        let client = client(&self.server, "controllers");
        self.controllers.spawn(async move {
            orlop_controllers::run(client, config, CancellationToken::new()).await.unwrap();
        });
    }

    /// Stops the controllers wherever they are, as a crash would.
    pub(crate) async fn kill_controllers(&mut self) {
        self.controllers.shutdown().await;
    }

    /// Adds a node that is ready.
    pub(crate) async fn node(&self, name: &str) {
        let api = self.all::<Node>();
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "n": name } } });
        self.create_in(&api, node).await;
        let capacity = json!({ "cpu": "4", "memory": "8Gi", "pods": "110" });
        let status = json!({ "status": {
            "capacity": capacity, "allocatable": capacity, "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        let (params, status) = (PatchParams::default(), Patch::Merge(status));
        eventually(|| api.patch_status(name, &params, &status)).await;
    }

    /// Changes an object in `default`.
    pub(crate) async fn patch<K>(&self, name: &str, patch: Patch<serde_json::Value>)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let (api, params) = (self.api::<K>(), PatchParams::default());
        eventually(|| api.patch(name, &params, &patch)).await;
    }

    /// Whether pods get ready from now on.
    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::SeqCst);
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Creates an object from YAML in `default`.
    pub(crate) async fn create<K>(&self, yaml: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object = serde_norway::from_str::<serde_json::Value>(yaml).unwrap();
        self.create_in(&self.api::<K>(), object).await
    }

    async fn create_in<K>(&self, api: &Api<K>, object: serde_json::Value) -> K
    where
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap()
    }

    /// Waits until the objects of a kind look as expected; fails with what they looked like last.
    pub(crate) async fn until<K>(&self, api: &Api<K>, what: &str, wanted: impl Fn(&[K]) -> bool) -> Vec<K>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        let start = Instant::now();
        loop {
            let objects = api.list(&ListParams::default()).await.unwrap().items;
            if wanted(&objects) {
                return objects;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not happen; last: {objects:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn client(server: &ApiServer, user: &str) -> Client {
    let identity = Identity::new(user, ["system:masters".to_owned()]);
    Client::new(server.client_service(identity), "default")
}

/// Repeats a write that lost a race against a controller.
async fn eventually<T, F: Future<Output = kube::Result<T>>>(write: impl Fn() -> F) -> T {
    loop {
        match write().await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            answer => return answer.unwrap(),
        }
    }
}

/// Plays the agents of all nodes.
async fn agent(client: Client, healthy: Arc<std::sync::atomic::AtomicBool>) {
    static ADDRESS: AtomicU32 = AtomicU32::new(1);
    let all = Api::<Pod>::all(client.clone());
    let version = all.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let events = all.watch(&WatchParams::default(), &version).await.unwrap();
    let pods = events.filter_map(|event| async move {
        match event {
            Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => Some(Ok::<_, ()>(pod)),
            _ => None,
        }
    });
    let handle = |pod: Pod| {
        let (client, healthy) = (client.clone(), Arc::clone(&healthy));
        async move {
            let (namespace, name) = (pod.metadata.namespace.unwrap(), pod.metadata.name.unwrap());
            let api = Api::<Pod>::namespaced(client, &namespace);
            let placed = pod.spec.and_then(|spec| spec.node_name).is_some();
            let running = pod.status.is_some_and(|status| status.pod_ip.is_some());
            if pod.metadata.deletion_timestamp.is_some() {
                let gone = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                drop(api.delete(&name, &gone).await);
            } else if placed && !running {
                let number = ADDRESS.fetch_add(1, Ordering::SeqCst);
                let ip = format!("10.244.{}.{}", number / 250, number % 250 + 1);
                let ready = if healthy.load(Ordering::SeqCst) { "True" } else { "False" };
                let status = json!({ "status": {
                    "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
                    "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": "2024-01-01T00:00:00Z" }],
                } });
                let params = PatchParams::default();
                for _ in 0..5 {
                    let answer = api.patch_status(&name, &params, &Patch::Strategic(&status)).await;
                    if !matches!(answer, Err(kube::Error::Api(status)) if status.code == 409) {
                        break;
                    }
                }
            }
            Ok(())
        }
    };
    pods.try_for_each_concurrent(16, handle).await.unwrap();
}
