//! pods/log: finds the container and passes the kubelet's answer through.

use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, StreamBody};

use super::body::Body;
use super::kubelet::{chain, container, escape};
use super::status::Failure;
use super::write::parse;
use super::{Api, Call, Target, object};
use crate::kubelet::{self, KubeletError};

/// Parameters that go to the kubelet as they are.
const PASSED: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

impl Api {
    pub(super) async fn log(&self, call: &Call, target: &Target) -> Result<Response<Body>, Failure> {
        let stored =
            self.store.get(&target.key()).ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
        let pod = parse(&stored.value)?;
        let container = container(&pod, call.query.get("container"))?;
        let node = object::text(&pod, &["spec", "nodeName"]);
        if node.is_empty() {
            return Err(Failure::bad_request(format!("pod {} does not have a host assigned", target.name)));
        }
        let address = self.kubelet_address(node)?;
        let query: Vec<String> = PASSED
            .iter()
            .filter_map(|name| Some(format!("{name}={}", escape(call.query.get(name)?))))
            .collect();
        let path =
            format!("/containerLogs/{}/{}/{container}?{}", target.namespace, target.name, query.join("&"));
        let answer = self.kubelets.get(&address, &path).await.map_err(|error| refused(&error, node))?;
        let status = answer.status();
        if status.is_success() {
            // A followed log has no end of its own; it must not hold up a shutdown.
            let closing = self.closing.clone().cancelled_owned();
            let stream = BodyStream::new(answer.into_body()).take_until(closing);
            let body = StreamBody::new(stream).boxed_unsync();
            return Ok(super::body::typed(StatusCode::OK, "text/plain", body));
        }
        let text = kubelet::read_text(answer.into_body()).await;
        match status {
            // The kubelet's own words say best why a container has no log.
            StatusCode::BAD_REQUEST => Err(Failure::bad_request(text)),
            StatusCode::NOT_FOUND => Err(Failure::new(404, "NotFound", text)),
            status => Err(Failure::internal(format!("the kubelet of {node} answered {status}: {text}"))),
        }
    }
}

fn refused(error: &KubeletError, node: &str) -> Failure {
    Failure::internal(format!("Get the log from node {node}: {}", chain(error)))
}
