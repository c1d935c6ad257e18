//! One watch and one copy of the objects per kind, shared by all controllers.
//!
//! ```text
//!  list+watch ─▶ Store<K> ──▶ handlers (enqueue keys; synchronous, quick)
//!  own writes ─▶    │
//!                   └──▶ get / list (Arc clones)
//! ```

mod reflect;
mod store;

use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};

pub(crate) use store::Store;

use reflect::{Metadata, Typed, reflect};

/// Only the metadata of an object: enough for owners, names and labels.
pub(crate) type Meta<K> = PartialObjectMeta<K>;

/// All that controllers look at. Kinds whose content nobody needs are kept as metadata only.
pub(crate) struct Cache {
    pub(crate) pods: Arc<Store<Pod>>,
    pub(crate) nodes: Arc<Store<Node>>,
    pub(crate) services: Arc<Store<Service>>,
    pub(crate) replica_sets: Arc<Store<ReplicaSet>>,
    pub(crate) deployments: Arc<Store<Deployment>>,
    pub(crate) endpoint_slices: Arc<Store<EndpointSlice>>,
    pub(crate) endpoints: Arc<Store<Endpoints>>,
    pub(crate) namespaces: Arc<Store<Namespace>>,
    pub(crate) leases: Arc<Store<Lease>>,
    pub(crate) volumes: Arc<Store<PersistentVolume>>,
    pub(crate) claims: Arc<Store<PersistentVolumeClaim>>,
    pub(crate) storage_classes: Arc<Store<StorageClass>>,
    pub(crate) csi_drivers: Arc<Store<CSIDriver>>,
    pub(crate) attachments: Arc<Store<VolumeAttachment>>,
    pub(crate) config_maps: Arc<Store<Meta<ConfigMap>>>,
    pub(crate) secrets: Arc<Store<Meta<Secret>>>,
    pub(crate) service_accounts: Arc<Store<Meta<ServiceAccount>>>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            pods: Arc::default(),
            nodes: Arc::default(),
            services: Arc::default(),
            replica_sets: Arc::default(),
            deployments: Arc::default(),
            endpoint_slices: Arc::default(),
            endpoints: Arc::default(),
            namespaces: Arc::default(),
            leases: Arc::default(),
            volumes: Arc::default(),
            claims: Arc::default(),
            storage_classes: Arc::default(),
            csi_drivers: Arc::default(),
            attachments: Arc::default(),
            config_maps: Arc::default(),
            secrets: Arc::default(),
            service_accounts: Arc::default(),
        }
    }

    /// Keeps all stores up to date; never ends by itself.
    pub(crate) async fn run(&self, client: &Client) {
        let typed: Vec<BoxFuture<'_, ()>> = vec![
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.pods)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.nodes)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.services)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.replica_sets)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.deployments)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.endpoint_slices)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.endpoints)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.namespaces)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.leases)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.volumes)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.claims)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.storage_classes)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.csi_drivers)),
            Box::pin(reflect(Typed(Api::all(client.clone())), &self.attachments)),
            Box::pin(reflect(Metadata(Api::all(client.clone())), &self.config_maps)),
            Box::pin(reflect(Metadata(Api::all(client.clone())), &self.secrets)),
            Box::pin(reflect(Metadata(Api::all(client.clone())), &self.service_accounts)),
        ];
        join_all(typed).await;
    }

    /// Waits until every store holds a first complete list.
    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.services.synced().await;
        self.replica_sets.synced().await;
        self.deployments.synced().await;
        self.endpoint_slices.synced().await;
        self.endpoints.synced().await;
        self.namespaces.synced().await;
        self.leases.synced().await;
        self.volumes.synced().await;
        self.claims.synced().await;
        self.storage_classes.synced().await;
        self.csi_drivers.synced().await;
        self.attachments.synced().await;
        self.config_maps.synced().await;
        self.secrets.synced().await;
        self.service_accounts.synced().await;
    }
}
