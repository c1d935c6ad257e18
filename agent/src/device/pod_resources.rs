//! Which container has which devices and processors, for monitoring agents: `<kubelet dir>/pod-resources/kubelet.sock`.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use orlop_cri_api::pod_resources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse,
    NumaNode, PodResources, TopologyInfo,
    pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::socket;
use crate::exclusive::Exclusive;

/// Serves it until told to stop.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve(path: &Path, exclusive: Arc<Exclusive>, stop: CancellationToken) -> std::io::Result<()> {
    socket::serve(path, PodResourcesListerServer::new(Lister(exclusive)), stop).await
}

struct Lister(Arc<Exclusive>);

impl Lister {
    fn of_pod(&self, pod: &Pod) -> PodResources {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let containers = sidecars.chain(spec.into_iter().flat_map(|spec| &spec.containers));
        let containers = containers.map(|container| self.of_container(uid, &container.name)).collect();
        PodResources {
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            containers,
        }
    }

    fn of_container(&self, uid: &str, name: &str) -> ContainerResources {
        let grant = self.0.devices().grant(uid, name).unwrap_or_default();
        let ids = |(resource, ids): (String, std::collections::BTreeSet<String>)| {
            let each = ids.into_iter().map(|id| (self.0.devices().nodes_of(&resource, &id), id)).collect();
            by_nodes(&resource, each)
        };
        ContainerResources {
            name: name.to_owned(),
            devices: grant.resources.into_iter().flat_map(ids).collect(),
            cpu_ids: self.0.own_cpus(uid, name).iter().flat_map(|cpus| cpus.iter()).map(i64::from).collect(),
            memory: Vec::new(),
        }
    }
}

/// Devices near to the same memory nodes are told together.
fn by_nodes(resource: &str, devices: Vec<(Vec<i64>, String)>) -> Vec<ContainerDevices> {
    let mut groups: BTreeMap<Vec<i64>, Vec<String>> = BTreeMap::new();
    for (nodes, id) in devices {
        groups.entry(nodes).or_default().push(id);
    }
    let group = |(nodes, device_ids): (Vec<i64>, Vec<String>)| ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids,
        topology: (!nodes.is_empty())
            .then(|| TopologyInfo { nodes: nodes.into_iter().map(|id| NumaNode { id }).collect() }),
    };
    groups.into_iter().map(group).collect()
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pod_resources = self.0.pods().iter().map(|pod| self.of_pod(pod)).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let healthy = self.0.devices().healthy();
        let of = |(resource, devices): (String, BTreeMap<String, Vec<i64>>)| {
            by_nodes(&resource, devices.into_iter().map(|(id, nodes)| (nodes, id)).collect())
        };
        Ok(Response::new(AllocatableResourcesResponse {
            devices: healthy.into_iter().flat_map(of).collect(),
            cpu_ids: self.0.allocatable_cpus().iter().map(i64::from).collect(),
            memory: Vec::new(),
        }))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        let GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let named = |pod: &&Arc<Pod>| {
            pod.metadata.name.as_ref() == Some(&pod_name)
                && pod.metadata.namespace.as_ref() == Some(&pod_namespace)
        };
        let pods = self.0.pods();
        let Some(pod) = pods.iter().find(named) else {
            return Err(Status::not_found(format!("pod {pod_name} in namespace {pod_namespace} not found")));
        };
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(self.of_pod(pod)) }))
    }
}
