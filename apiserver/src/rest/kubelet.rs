//! Which container and which kubelet a request about a pod is for. Not for: asking it.

use serde_json::Value;

use super::status::Failure;
use super::{Api, object};
use crate::admission::Surroundings;
use crate::kubelet::Address;

impl Api {
    /// Where the kubelet of a node listens.
    pub(super) fn kubelet_address(&self, name: &str) -> Result<Address, Failure> {
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

/// The container meant: the only one, or the one named.
pub(super) fn container(pod: &Value, wanted: Option<&str>) -> Result<String, Failure> {
    let names = |list: &str| -> Vec<&str> {
        let containers = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
        containers.iter().map(|c| object::text(c, &["name"])).collect()
    };
    let (main, init, debug) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = object::name(pod);
    match wanted {
        Some(wanted) if [&main, &init, &debug].into_iter().any(|names| names.contains(&wanted)) => {
            Ok(wanted.to_owned())
        }
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

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

pub(super) fn escape(value: &str) -> String {
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
