//! pods/log: finds the container and passes the kubelet's answer through.

use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use serde_json::Value;

use super::body::Body;
use super::status::Failure;
use super::write::parse;
use super::{Api, Call, Target, object};
use crate::admission::Surroundings;
use crate::kubelet::{self, Address, LogError};

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

    /// Where the kubelet of a node listens.
    fn kubelet_address(&self, name: &str) -> Result<Address, Failure> {
        let node = Surroundings::get(self, "nodes", "", name)
            .ok_or_else(|| Failure::internal(format!("node {name:?} of the pod is not registered")))?;
        let status = &node["status"];
        let port =
            object::at(status, &["daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_u64);
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(10250);
        let addresses = status["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of =
            |kind: &str| addresses.iter().find(|a| a["type"] == kind).map(|a| object::text(a, &["address"]));
        let host = ["InternalIP", "Hostname"]
            .into_iter()
            .find_map(of)
            .ok_or_else(|| Failure::internal(format!("no preferred addresses found for node {name:?}")))?;
        Ok(Address { host: host.to_owned(), port })
    }
}

/// The container meant: the only one, the annotated default, or the one named.
fn container(pod: &Value, wanted: Option<&str>) -> Result<String, Failure> {
    let names = |list: &str| -> Vec<&str> {
        let containers = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
        containers.iter().map(|c| object::text(c, &["name"])).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let pod_name = object::name(pod);
    match wanted {
        Some(wanted) if main.contains(&wanted) || init.contains(&wanted) => Ok(wanted.to_owned()),
        Some(wanted) => {
            Err(Failure::bad_request(format!("container {wanted} is not valid for pod {pod_name}")))
        }
        None if main.len() == 1 => Ok(main[0].to_owned()),
        None => {
            let init = if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            };
            Err(Failure::bad_request(format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]{init}",
                main.join(" ")
            )))
        }
    }
}

fn refused(error: &LogError, node: &str) -> Failure {
    Failure::internal(format!("Get the log from node {node}: {}", chain(error)))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

fn escape(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
