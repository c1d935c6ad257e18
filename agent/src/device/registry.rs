//! The socket where device plugins register: `<kubelet dir>/device-plugins/kubelet.sock`.

use std::path::Path;

use orlop_cri_api::device_plugin::{
    Empty, RegisterRequest,
    registration_server::{Registration, RegistrationServer},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Devices, ledger, plugin::Plugin, socket};

/// The only version there is.
const VERSION: &str = "v1beta1";

/// Serves it until told to stop. Plugins see that the socket is new, and register again.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve(devices: Devices, stop: CancellationToken) -> std::io::Result<()> {
    let path = devices.0.dir.join("kubelet.sock");
    socket::serve(&path, RegistrationServer::new(devices), stop).await
}

#[tonic::async_trait]
impl Registration for Devices {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let RegisterRequest { version, endpoint, resource_name, options } = request.into_inner();
        let refuse = |why: String| {
            tracing::warn!(resource = resource_name, endpoint, why, "a device plugin is refused");
            Err(Status::invalid_argument(why))
        };
        if version != VERSION {
            return refuse(format!(
                "requested API version \"{version}\" is not supported by kubelet. Supported version is [\"{VERSION}\"]"
            ));
        }
        if !ledger::is_resource_name(&resource_name) {
            return refuse(format!("the ResourceName \"{resource_name}\" is invalid"));
        }
        if endpoint.is_empty() || Path::new(&endpoint).components().count() != 1 || endpoint.starts_with('.')
        {
            return refuse(format!("the endpoint \"{endpoint}\" is no name of a socket in this directory"));
        }
        tracing::info!(resource = resource_name, endpoint, "a device plugin registers");
        let devices = self.clone();
        let socket = self.0.dir.join(endpoint);
        // A plugin may begin to serve only once it was answered.
        tokio::spawn(async move {
            match Plugin::connect(&socket, options).await {
                Ok(plugin) => devices.welcome(resource_name, plugin),
                Err(error) => tracing::warn!(resource = resource_name, error, "reach a device plugin"),
            }
        });
        Ok(Response::new(Empty {}))
    }
}
