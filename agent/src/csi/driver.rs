//! One driver: where it is, what it can, and its calls.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use orlop_cri_api::csi::{
    NodeExpandVolumeRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    node_client::NodeClient,
    node_service_capability::{Type, rpc::Type as Rpc},
};

use super::transport::{Http, connect, origin, within};

/// As the kubelet waits for drivers.
const PATIENCE: Duration = Duration::from_secs(120);
const AT_REGISTRATION: Duration = Duration::from_secs(15);

/// A registered driver.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    pub(super) endpoint: PathBuf,
    /// Values of [`Rpc`].
    capabilities: BTreeSet<i32>,
}

impl Driver {
    /// Asks who it is on this node and what it can.
    pub(super) async fn ask(endpoint: PathBuf) -> Result<(Driver, NodeGetInfoResponse), String> {
        let ask = async {
            let mut client = client(&endpoint).await?;
            let info = client.node_get_info(NodeGetInfoRequest {}).await?.into_inner();
            let can = client.node_get_capabilities(NodeGetCapabilitiesRequest {}).await?.into_inner();
            Ok((info, can))
        };
        let (info, can) = within(AT_REGISTRATION, ask).await?;
        let capabilities = can.capabilities.into_iter();
        let capabilities =
            capabilities.filter_map(|capability| capability.r#type.map(|Type::Rpc(rpc)| rpc.r#type));
        let driver = Driver { endpoint: endpoint.clone(), capabilities: capabilities.collect() };
        Ok((driver, info))
    }

    pub(super) fn can(&self, what: Rpc) -> bool {
        self.capabilities.contains(&(what as i32))
    }

    pub(super) async fn stage(&self, request: NodeStageVolumeRequest) -> Result<(), String> {
        let call = async { client(&self.endpoint).await?.node_stage_volume(request).await };
        within(PATIENCE, call).await.map(drop)
    }

    pub(super) async fn unstage(&self, request: NodeUnstageVolumeRequest) -> Result<(), String> {
        let call = async { client(&self.endpoint).await?.node_unstage_volume(request).await };
        within(PATIENCE, call).await.map(drop)
    }

    pub(super) async fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), String> {
        let call = async { client(&self.endpoint).await?.node_publish_volume(request).await };
        within(PATIENCE, call).await.map(drop)
    }

    pub(super) async fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<(), String> {
        let call = async { client(&self.endpoint).await?.node_unpublish_volume(request).await };
        within(PATIENCE, call).await.map(drop)
    }

    pub(super) async fn expand(&self, request: NodeExpandVolumeRequest) -> Result<(), String> {
        let call = async { client(&self.endpoint).await?.node_expand_volume(request).await };
        within(PATIENCE, call).await.map(drop)
    }

    pub(super) async fn stats(
        &self,
        request: NodeGetVolumeStatsRequest,
    ) -> Result<NodeGetVolumeStatsResponse, String> {
        let call = async { client(&self.endpoint).await?.node_get_volume_stats(request).await };
        within(PATIENCE, call).await.map(tonic::Response::into_inner)
    }
}

async fn client(endpoint: &std::path::Path) -> Result<NodeClient<Http>, tonic::Status> {
    Ok(NodeClient::with_origin(connect(endpoint).await?, origin()))
}
