//! The driver's node service.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use orlop_cri_api::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
    NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology, VolumeCapability,
    node_server::Node,
    node_service_capability::{Rpc, Type, rpc::Type as Can},
    volume_capability::AccessType,
};
use tonic::{Request, Response, Status};

use crate::mounts;

pub(crate) struct Driver {
    pub(crate) dir: PathBuf,
    pub(crate) node_id: String,
}

/// The oracle of the tests.
pub(crate) fn log(file: &Path, line: &str) {
    let open = fs::OpenOptions::new().append(true).create(true).open(file);
    let written = open.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
}

impl Driver {
    fn log(&self, line: &str) {
        log(&self.dir.join("log"), line);
    }

    /// The directory of a volume, or the file behind its device.
    fn data(&self, id: &str, block: bool) -> Result<PathBuf, Status> {
        let path = self.dir.join("volumes").join(id);
        let io = |error: std::io::Error| Status::internal(format!("{}: {error}", path.display()));
        if block {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            file.and_then(|file| file.set_len(1 << 20)).map_err(io)?;
        } else {
            fs::create_dir_all(&path).map_err(io)?;
        }
        Ok(path)
    }
}

fn is_block(capability: Option<&VolumeCapability>) -> bool {
    matches!(capability.and_then(|capability| capability.access_type.as_ref()), Some(AccessType::Block(_)))
}

fn flags(capability: Option<&VolumeCapability>) -> String {
    match capability.and_then(|capability| capability.access_type.as_ref()) {
        Some(AccessType::Mount(mount)) => format!("{}:{}", mount.fs_type, mount.mount_flags.join(",")),
        _ => "block".into(),
    }
}

fn sorted(map: &HashMap<String, String>) -> String {
    let mut pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    pairs.join(",")
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        let (id, capability) = (&request.volume_id, request.volume_capability.as_ref());
        let block = is_block(capability);
        self.log(&format!(
            "stage {id} {} {} secrets[{}] attached[{}]",
            request.staging_target_path,
            flags(capability),
            sorted(&request.secrets),
            sorted(&request.publish_context),
        ));
        let data = self.data(id, block)?;
        if !block {
            mounts::bind(&data, Path::new(&request.staging_target_path), false)?;
        }
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let NodeUnstageVolumeRequest { volume_id: id, staging_target_path: path } = request.into_inner();
        mounts::unbind(Path::new(&path))?;
        mounts::no_device(&self.dir.join("volumes").join(&id))?;
        self.log(&format!("unstage {id} {path}"));
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let (id, target) = (&request.volume_id, Path::new(&request.target_path));
        let block = is_block(request.volume_capability.as_ref());
        self.log(&format!(
            "publish {id} {} readonly={} context[{}] secrets[{}]",
            request.target_path,
            request.readonly,
            sorted(&request.volume_context),
            sorted(&request.secrets),
        ));
        if request.volume_context.get("refuse").is_some_and(|why| !why.is_empty()) {
            return Err(Status::failed_precondition("the volume does not want to"));
        }
        let data = self.data(id, block)?;
        let from = match (block, request.staging_target_path.as_str()) {
            (true, _) => mounts::device(&data)?.into(),
            (false, "") => data,
            (false, staging) => staging.into(),
        };
        mounts::bind(&from, target, request.readonly)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest { volume_id: id, target_path: path } = request.into_inner();
        mounts::unbind(Path::new(&path))?;
        self.log(&format!("unpublish {id} {path}"));
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("volumes are not counted"))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
        self.log(&format!("expand {} {} {bytes}", request.volume_id, request.volume_path));
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability =
            |can: Can| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: can as i32 })) };
        let capabilities = [Can::StageUnstageVolume, Can::ExpandVolume].map(capability).to_vec();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node_id.clone(),
            max_volumes_per_node: 16,
            accessible_topology: Some(Topology {
                segments: HashMap::from([("test.orlop.dev/rack".into(), "r1".into())]),
            }),
        }))
    }
}
