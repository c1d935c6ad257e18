//! CRI's RuntimeService: each call's words in and out. Not for: doing it (`pods`, `containers`, `stats`).

use std::{collections::HashMap, time::Duration};

use futures::Stream;
use orlop_cri_api::v1::{runtime_service_server::RuntimeService, *};
use orlop_model::net;
use orlop_runtime::{ContainerState as Life, Sandbox};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{
    Cri, internal,
    pods::now,
    words::{
        filter,
        metrics::descriptors,
        status::{self, nanos},
    },
};
use crate::server::stream::{Job, Target, Wanted};

type Answer<T> = Result<Response<T>, Status>;
type Many<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

/// What tools show besides, as JSON.
pub(super) fn info(verbose: bool, value: impl FnOnce() -> serde_json::Value) -> HashMap<String, String> {
    if verbose { HashMap::from([("info".to_owned(), value().to_string())]) } else { HashMap::new() }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl Cri {
    async fn list_pods(&self, filter: Option<&PodSandboxFilter>) -> Vec<PodSandbox> {
        let pods = self.runtime().pods().await;
        pods.iter().map(status::pod).filter(|pod| filter::pod(filter, pod)).collect()
    }

    async fn list(&self, filter: Option<&ContainerFilter>) -> Vec<Container> {
        let pods = self.runtime().pods().await;
        let all = pods.iter().flat_map(|pod| pod.containers.iter().map(|one| status::container(pod, one)));
        all.filter(|container| filter::container(filter, container)).collect()
    }

    async fn list_stats(&self, filter: Option<ContainerStatsFilter>) -> Vec<ContainerStats> {
        let wanted = filter.map(|filter| ContainerFilter {
            id: filter.id,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
            state: None,
        });
        let mut all = Vec::new();
        let pods = self.runtime().pods().await;
        self.forget_gone(&pods);
        for mut pod in pods {
            let fits = |pod: &Sandbox, container: &orlop_runtime::Container| {
                filter::container(wanted.as_ref(), &status::container(pod, container))
            };
            let containers = std::mem::take(&mut pod.containers);
            pod.containers = containers.into_iter().filter(|container| fits(&pod, container)).collect();
            all.extend(self.stats_of_containers(&pod).await);
        }
        all
    }

    async fn list_pod_stats(&self, filter: Option<PodSandboxStatsFilter>) -> Vec<PodSandboxStats> {
        let wanted = filter.map(|filter| PodSandboxFilter {
            id: filter.id,
            label_selector: filter.label_selector,
            state: None,
        });
        let mut all = Vec::new();
        let pods = self.runtime().pods().await;
        self.forget_gone(&pods);
        for pod in pods {
            if pod.shim_alive && filter::pod(wanted.as_ref(), &status::pod(&pod)) {
                all.extend(self.pod_stats(&pod).await.ok());
            }
        }
        all
    }

    fn promise(&self, job: Job) -> Result<String, Status> {
        self.0.streaming.promise(job)
    }
}

#[tonic::async_trait]
impl RuntimeService for Cri {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        answer(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "orlop".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let condition = |kind: &str, trouble: Option<String>| RuntimeCondition {
            r#type: kind.to_owned(),
            status: trouble.is_none(),
            reason: if trouble.is_some() { format!("{kind}False") } else { String::new() },
            message: trouble.unwrap_or_default(),
        };
        let network = self.0.setup.network.ready().err().map(|failure| failure.0);
        let user_namespaces = self.runtime().user_namespaces().await.is_ok();
        let conditions = vec![condition("RuntimeReady", None), condition("NetworkReady", network)];
        answer(StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            info: info(request.get_ref().verbose, || {
                json!({
                    "stateDir": self.0.setup.state_dir, "runDir": self.0.setup.run_dir,
                    "cgroupRoot": self.0.setup.cgroup_root,
                })
            }),
            runtime_handlers: vec![RuntimeHandler {
                name: String::new(),
                features: Some(RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces }),
            }],
            features: Some(RuntimeFeatures { supplemental_groups_policy: true }),
        })
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
        answer(RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.and_then(|config| config.network_config);
        let cidrs = config.map(|config| config.pod_cidr).unwrap_or_default();
        // Beside the agent, the node has its addresses from the API server.
        if !cidrs.is_empty() {
            let wanted = net::one_per_family(&cidrs);
            let wanted =
                wanted.map_err(|error| Status::invalid_argument(format!("pod CIDR {cidrs:?}: {error}")))?;
            self.0.setup.pod_cidrs.iter().for_each(|to| drop(to.send_replace(Some(wanted.clone()))));
        }
        answer(UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = config.ok_or_else(|| Status::invalid_argument("no pod sandbox config"))?;
        // In a task of its own: a client that hangs up must not leave half a sandbox.
        let cri = self.clone();
        let made = tokio::spawn(async move { cri.run_pod(config, &runtime_handler).await });
        let pod_sandbox_id = made.await.map_err(|error| internal(&error))??;
        answer(RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        self.stop_pod(&request.get_ref().pod_sandbox_id).await?;
        answer(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        self.remove_pod(&request.get_ref().pod_sandbox_id).await?;
        answer(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let PodSandboxStatusRequest { pod_sandbox_id, verbose } = request.into_inner();
        let pod = self.pod(&pod_sandbox_id).await?;
        let mut containers_statuses = Vec::new();
        for container in &pod.containers {
            containers_statuses.push(self.container_status(&pod, container).await);
        }
        answer(PodSandboxStatusResponse {
            status: Some(self.pod_status(&pod).await),
            info: info(verbose, || json!({"netns": pod.netns, "shimAlive": pod.shim_alive})),
            containers_statuses,
            timestamp: nanos(now()),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        answer(ListPodSandboxResponse { items: self.list_pods(request.get_ref().filter.as_ref()).await })
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let CreateContainerRequest { pod_sandbox_id, config, .. } = request.into_inner();
        let config = config.ok_or_else(|| Status::invalid_argument("no container config"))?;
        let cri = self.clone();
        let made = tokio::spawn(async move { cri.create(&pod_sandbox_id, &config).await });
        let container_id = made.await.map_err(|error| internal(&error))??;
        answer(CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let (cri, id) = (self.clone(), request.into_inner().container_id);
        let started = tokio::spawn(async move { cri.start(&id).await });
        started.await.map_err(|error| internal(&error))??;
        answer(StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let StopContainerRequest { container_id, timeout } = request.into_inner();
        self.stop_container(&container_id, seconds(timeout)).await?;
        answer(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        self.remove_container(&request.get_ref().container_id).await?;
        answer(RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        answer(ListContainersResponse { containers: self.list(request.get_ref().filter.as_ref()).await })
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let ContainerStatusRequest { container_id, verbose } = request.into_inner();
        let (pod, container) = self.container(&container_id).await?;
        let info = info(verbose, || {
            let pid = match container.state {
                Life::Running { pid, .. } => pid,
                _ => 0,
            };
            json!({"sandboxID": pod.pod.uid, "pid": pid})
        });
        answer(ContainerStatusResponse { status: Some(self.container_status(&pod, &container).await), info })
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let UpdateContainerResourcesRequest { container_id, linux, .. } = request.into_inner();
        let linux = linux.ok_or_else(|| Status::invalid_argument("no resources of Linux"))?;
        self.update(&container_id, linux).await?;
        answer(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let (pod, container) = self.running(&request.get_ref().container_id).await?;
        self.runtime().reopen_log(&pod.pod.uid, &container.id).await.map_err(|error| internal(&error))?;
        answer(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let ExecSyncRequest { container_id, cmd, timeout } = request.into_inner();
        let timeout = (timeout > 0).then(|| seconds(timeout));
        answer(self.exec_sync(&container_id, cmd, timeout).await?)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request.into_inner();
        if tty && stderr {
            return Err(Status::invalid_argument("there is no standard error with a terminal"));
        }
        let wanted = Wanted { stdin, stdout, stderr, tty }.check().map_err(Status::invalid_argument)?;
        let (pod, container) = self.running(&container_id).await?;
        let target = Target { uid: pod.pod.uid, id: container.id };
        answer(ExecResponse { url: self.promise(Job::Exec { target, command: cmd, wanted })? })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let AttachRequest { container_id, stdin, tty, stdout, stderr } = request.into_inner();
        if tty && stderr {
            return Err(Status::invalid_argument("there is no standard error with a terminal"));
        }
        let wanted = Wanted { stdin, stdout, stderr, tty }.check().map_err(Status::invalid_argument)?;
        let (pod, container) = self.running(&container_id).await?;
        let target = Target { uid: pod.pod.uid, id: container.id };
        answer(AttachResponse { url: self.promise(Job::Attach { target, wanted })? })
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let pod = self.pod(&request.get_ref().pod_sandbox_id).await?;
        if !pod.shim_alive {
            return Err(Status::failed_precondition(format!("pod sandbox {} is not ready", pod.pod.uid)));
        }
        let ports = request.get_ref().port.iter().map(ToString::to_string).collect();
        answer(PortForwardResponse { url: self.promise(Job::Forward { uid: pod.pod.uid, ports })? })
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let (pod, container) = self.container(&request.get_ref().container_id).await?;
        answer(ContainerStatsResponse { stats: Some(self.container_stats(&pod, &container).await?) })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        answer(ListContainerStatsResponse { stats: self.list_stats(request.into_inner().filter).await })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let pod = self.pod(&request.get_ref().pod_sandbox_id).await?;
        answer(PodSandboxStatsResponse { stats: Some(self.pod_stats(&pod).await?) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        answer(ListPodSandboxStatsResponse { stats: self.list_pod_stats(request.into_inner().filter).await })
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        Err(Status::unimplemented("containers cannot be checkpointed"))
    }

    type GetContainerEventsStream = Many<ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        Ok(Response::new(Box::pin(self.events())))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        answer(ListMetricDescriptorsResponse { descriptors: descriptors() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        answer(ListPodSandboxMetricsResponse { pod_metrics: self.metrics().await })
    }
}
