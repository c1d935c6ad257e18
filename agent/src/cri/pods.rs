//! Sandboxes as CRI has them: made ready in one go, stopped (nothing runs, nothing is reachable, all is remembered),
//! removed.

use std::{net::IpAddr, path::Path};

use jiff::Timestamp;
use orlop_cri_api::v1::{ContainerEventType, PodSandboxConfig, PodSandboxStatus};
use orlop_runtime::{Sandbox, SandboxError, SandboxSpec};
use tonic::Status;

use super::{
    Cri, blocking, internal,
    ports::PortError,
    words::{kept, sandbox, status},
};

/// Random bytes of an id.
const ID: usize = 16;

impl Cri {
    /// By its id or the first characters of it.
    pub(super) async fn pod(&self, id: &str) -> Result<Sandbox, Status> {
        self.find_pod(id).await?.ok_or_else(|| Status::not_found(format!("there is no pod sandbox {id:?}")))
    }

    async fn find_pod(&self, id: &str) -> Result<Option<Sandbox>, Status> {
        if id.is_empty() {
            return Err(Status::invalid_argument("no pod sandbox id"));
        }
        let mut found = self.runtime().pods().await;
        if let Some(at) = found.iter().position(|pod| pod.pod.uid == id) {
            return Ok(Some(found.swap_remove(at)));
        }
        found.retain(|pod| pod.pod.uid.starts_with(id));
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(Status::invalid_argument(format!("several pod sandboxes begin with {id:?}"))),
        }
    }

    /// The agent's pods are kept as the API server has them: whoever wants others says so there.
    pub(super) fn check_ours(sandbox: &Sandbox) -> Result<(), Status> {
        if kept::owns(&sandbox.pod.uid) {
            return Ok(());
        }
        let pod = &sandbox.pod;
        Err(Status::failed_precondition(format!(
            "pod {}/{} is the node agent's: change it through the API server",
            pod.namespace, pod.name
        )))
    }

    /// Makes a sandbox that containers can be started in, or nothing.
    pub(super) async fn run_pod(&self, config: PodSandboxConfig, handler: &str) -> Result<String, Status> {
        if !handler.is_empty() {
            return Err(Status::invalid_argument(format!("there is no runtime handler {handler:?}")));
        }
        let mut random = [0; ID];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| internal(&error))?;
        let id = kept::id(&random);
        let spec =
            sandbox::spec(&id, &config, &self.0.setup.cgroup_root).map_err(Status::invalid_argument)?;
        self.check_new(&config).await?;
        if let Err(status) = self.make_pod(&spec, &config).await {
            if let Err(left) = self.unmake_pod(&id).await {
                tracing::warn!(
                    id,
                    left = left.message(),
                    "left behind by a pod sandbox that could not be made"
                );
            }
            return Err(status);
        }
        self.tell(ContainerEventType::ContainerCreatedEvent, &id, &id).await;
        self.tell(ContainerEventType::ContainerStartedEvent, &id, &id).await;
        Ok(id)
    }

    /// The same attempt of the same pod twice is a mistake of the client, which has lost sight of the first.
    async fn check_new(&self, config: &PodSandboxConfig) -> Result<(), Status> {
        let pods = self.runtime().pods().await;
        let same = |pod: &&Sandbox| kept::owns(&pod.pod.uid) && kept::pod(pod).metadata == config.metadata;
        match pods.iter().find(same) {
            None => Ok(()),
            Some(pod) => {
                let text = format!("pod sandbox {} is this attempt of the pod already", pod.pod.uid);
                Err(Status::already_exists(text))
            }
        }
    }

    async fn make_pod(&self, spec: &SandboxSpec, config: &PodSandboxConfig) -> Result<(), Status> {
        let made = self.runtime().create_sandbox(spec).await.map_err(|error| match error {
            SandboxError::Sysctl(_) | SandboxError::HostNamespace => {
                Status::invalid_argument(error.to_string())
            }
            SandboxError::TakenIds { .. } => Status::failed_precondition(error.to_string()),
            other => internal(&other),
        })?;
        let addresses = match &made.netns {
            None => Vec::new(),
            Some(netns) => {
                let wishes = sandbox::wishes(config).map_err(Status::invalid_argument)?;
                let attached = self.0.setup.network.attach(&spec.pod, &wishes, netns).await;
                attached.map_err(|error| internal(&error))?.addresses
            }
        };
        if let Some(address) = addresses.first().copied().filter(|_| !self.0.setup.network.opens_ports()) {
            let opened = self.0.ports.open(&spec.pod.uid, address, &config.port_mappings).await;
            opened.map_err(|error| match &error {
                PortError::Bind { .. } => internal(&error),
                _ => Status::invalid_argument(error.to_string()),
            })?;
        }
        let (files, id, hostname) = (self.0.files.clone(), spec.pod.uid.clone(), spec.hostname.clone());
        let (dns, host_network) = (config.dns_config.clone(), spec.host_network);
        let written = blocking(move || {
            let of_machine = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
            let hosts =
                if addresses.is_empty() { of_machine("/etc/hosts") } else { hosts(&addresses, &hostname) };
            let name = if host_network { of_machine("/etc/hostname") } else { format!("{hostname}\n") };
            let resolv = sandbox::resolv_conf(dns.as_ref(), &of_machine("/etc/resolv.conf"));
            files.write(&id, "hosts", &hosts)?;
            files.write(&id, "hostname", &name)?;
            files.write(&id, "resolv.conf", &resolv)
        });
        written.await?.map_err(|error| internal(&error))
    }

    /// A process before us had the host ports of the pods that it left.
    pub(super) async fn open_ports(&self) {
        if self.0.setup.network.opens_ports() {
            return;
        }
        for pod in self.runtime().pods().await {
            let mappings = kept::pod(&pod).port_mappings;
            if !pod.shim_alive || mappings.iter().all(|mapping| mapping.host_port == 0) {
                continue;
            }
            let Some(address) = self.addresses(&pod).await.first().copied() else { continue };
            if let Err(error) = self.0.ports.open(&pod.pod.uid, address, &mappings).await {
                tracing::warn!(
                    uid = pod.pod.uid,
                    error = &error as &dyn std::error::Error,
                    "host ports of a pod"
                );
            }
        }
    }

    /// Every step is tried.
    async fn unmake_pod(&self, id: &str) -> Result<(), Status> {
        self.0.ports.close(id);
        let detached = self.0.setup.network.detach(id).await.map_err(|error| internal(&error));
        let removed = self.runtime().remove_sandbox(id).await.map_err(|error| internal(&error));
        let cleared = self.0.files.remove(id).map_err(|error| internal(&error));
        detached.and(removed).and(cleared)
    }

    /// Ends all of a sandbox and gives its address back. Of the agent's pods only the containers are ended, which the
    /// agent then restarts as their pods say.
    pub(super) async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let Some(sandbox) = self.find_pod(id).await? else { return Ok(()) };
        let id = &sandbox.pod.uid;
        if !kept::owns(id) {
            for container in &sandbox.containers {
                self.stop(&sandbox, container, std::time::Duration::ZERO).await?;
            }
            return Ok(());
        }
        self.0.ports.close(id);
        self.runtime().stop_sandbox(id).await;
        self.0.setup.network.detach(id).await.map_err(|error| internal(&error))?;
        if sandbox.shim_alive {
            self.tell(ContainerEventType::ContainerStoppedEvent, id, id).await;
        }
        Ok(())
    }

    pub(super) async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let Some(sandbox) = self.find_pod(id).await? else { return Ok(()) };
        Self::check_ours(&sandbox)?;
        let id = &sandbox.pod.uid;
        self.unmake_pod(id).await?;
        {
            let mut samples = self.samples();
            samples.remove(id);
            for container in &sandbox.containers {
                samples.remove(&container.id);
            }
        }
        self.tell(ContainerEventType::ContainerDeletedEvent, id, id).await;
        Ok(())
    }

    /// Asked of the network each time: its ledger is the truth, and a new process has no other.
    pub(super) async fn pod_status(&self, sandbox: &Sandbox) -> PodSandboxStatus {
        status::pod_status(sandbox, &self.addresses(sandbox).await)
    }

    async fn addresses(&self, sandbox: &Sandbox) -> Vec<IpAddr> {
        if sandbox.netns.is_none() {
            return Vec::new();
        }
        let attached = self.0.setup.network.attached().await;
        let own = attached.into_iter().find(|(uid, _)| *uid == sandbox.pod.uid);
        own.map(|(_, addresses)| addresses).unwrap_or_default()
    }
}

fn hosts(addresses: &[IpAddr], hostname: &str) -> String {
    let own: String = addresses.iter().map(|address| format!("{address}\t{hostname}\n")).collect();
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n{own}")
}

/// The time for answers.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}
