//! What `node-driver-registrar` does elsewhere.

use std::path::PathBuf;

use orlop_cri_api::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
    registration_server::Registration,
};
use tonic::{Request, Response, Status};

pub(crate) struct Registrar {
    pub(crate) name: String,
    pub(crate) endpoint: PathBuf,
    pub(crate) log: PathBuf,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: self.name.clone(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        crate::node::log(&self.log, &format!("registered {plugin_registered} {error}"));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
