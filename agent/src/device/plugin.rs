//! One device plugin, over its socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use orlop_cri_api::device_plugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerRequest, PreferredAllocationRequest, device_plugin_client::DevicePluginClient,
};
use tonic::{Status, Streaming};

use super::{
    ledger::{Choice, Device},
    socket::Http,
};

/// Upstream's limit of PreStartContainer; a plugin that says nothing for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A plugin that has registered.
#[derive(Clone)]
pub(super) struct Plugin {
    client: DevicePluginClient<Http>,
    /// What it can do.
    pub(super) options: DevicePluginOptions,
    /// Which one it is of those of its resource.
    pub(super) registration: u64,
}

/// As Go's gRPC words it, which is what users search for.
fn words(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

async fn within<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|status| words(&status)),
        Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned()),
    }
}

impl Plugin {
    /// Connects. What it says of itself counts, else what it said when it registered.
    pub(super) async fn connect(socket: &Path, said: Option<DevicePluginOptions>) -> Result<Plugin, String> {
        let http = Http::connect(socket).await.map_err(|error| crate::wire::chain(&*error))?;
        let mut client = DevicePluginClient::with_origin(http, http::Uri::from_static("http://plugin"));
        let options = within(client.get_device_plugin_options(Empty {})).await;
        let options = options.map_or(said.unwrap_or_default(), tonic::Response::into_inner);
        Ok(Plugin { client, options, registration: 0 })
    }

    /// Its devices, now and later.
    pub(super) async fn watch(&self) -> Result<Lists, String> {
        let answer = self.client.clone().list_and_watch(Empty {}).await.map_err(|status| words(&status))?;
        Ok(Lists(answer.into_inner()))
    }

    /// Which of several devices it would give together.
    pub(super) async fn preferred(&self, choice: &Choice) -> Result<BTreeSet<String>, String> {
        let request = ContainerPreferredAllocationRequest {
            available_device_i_ds: choice.available.iter().cloned().collect(),
            must_include_device_i_ds: choice.included.iter().cloned().collect(),
            allocation_size: i32::try_from(choice.count).unwrap_or(i32::MAX),
        };
        let request = PreferredAllocationRequest { container_requests: vec![request] };
        let answer = within(self.client.clone().get_preferred_allocation(request)).await?.into_inner();
        let first = answer.container_responses.into_iter().next().unwrap_or_default();
        Ok(first.device_i_ds.into_iter().collect())
    }

    /// Asks for devices for one container.
    pub(super) async fn allocate(&self, ids: &BTreeSet<String>) -> Result<ContainerAllocateResponse, String> {
        let request = ContainerAllocateRequest { devices_ids: ids.iter().cloned().collect() };
        let request = AllocateRequest { container_requests: vec![request] };
        let answer = within(self.client.clone().allocate(request)).await?.into_inner();
        answer
            .container_responses
            .into_iter()
            .next()
            .ok_or_else(|| "no containers return in allocation response of the device plugin".to_owned())
    }

    /// Says that a container with these devices is about to start.
    pub(super) async fn before_start(&self, ids: &BTreeSet<String>) -> Result<(), String> {
        let request = PreStartContainerRequest { devices_ids: ids.iter().cloned().collect() };
        within(self.client.clone().pre_start_container(request)).await.map(drop)
    }
}

/// Lists of devices, as they come.
pub(super) struct Lists(Streaming<ListAndWatchResponse>);

impl Lists {
    /// The next one; an error is the end.
    pub(super) async fn next(&mut self) -> Result<BTreeMap<String, Device>, String> {
        let list = self.0.message().await.map_err(|status| words(&status))?;
        let list = list.ok_or_else(|| "the plugin has nothing more to say".to_owned())?;
        let device = |device: orlop_cri_api::device_plugin::Device| {
            let nodes = device.topology.into_iter().flat_map(|topology| topology.nodes);
            let nodes = nodes.map(|node| node.id).collect();
            (device.id, Device { healthy: device.health == "Healthy", nodes })
        };
        Ok(list.devices.into_iter().map(device).collect())
    }
}
