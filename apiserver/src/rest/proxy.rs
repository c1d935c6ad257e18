//! nodes/proxy: any request to a node's kubelet, made as the API server.
//!
//! ```text
//! /api/v1/nodes/NODE/proxy/PATH?QUERY ── same method and body ──▶ kubelet /PATH?QUERY ──▶ its answer, as it is
//! ```
//! Who may do so may do all that the API server may do there: logs, commands in containers. Not for: streams of pods
//! (`connect`), other ports of a node.

use http::{HeaderName, Response, Uri, header};

use super::body::Body;
use super::connect::{chosen, unreachable};
use super::status::Failure;
use super::{Api, Call, Target, authorize_as};

/// Headers of a client that are the kubelet's business: never who the client is.
const ASKED: [HeaderName; 9] = [
    header::ACCEPT,
    header::CONTENT_TYPE,
    header::USER_AGENT,
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    HeaderName::from_static("x-stream-protocol-version"),
];
/// Headers that are about one connection.
const HOPS: [HeaderName; 3] =
    [header::CONNECTION, header::TRANSFER_ENCODING, HeaderName::from_static("keep-alive")];

impl Api {
    pub(super) async fn proxy(&self, call: Call, target: &Target) -> Result<Response<Body>, Failure> {
        let upgrades = call.headers.contains_key(header::UPGRADE);
        // As with pods/exec: who may only read gets no shell because WebSockets begin with GET.
        if upgrades {
            authorize_as(&call.identity, "create", target, "proxy")?;
        }
        if self.store.get(&target.key()).is_none() {
            return Err(Failure::not_found(target.kind, &target.name));
        }
        let path = behind(&call.uri).ok_or_else(Failure::no_such_path)?;
        let address = self.kubelet_address(&target.name)?;
        let mut headers = chosen(&call.headers, &ASKED);
        if !upgrades {
            headers.remove(header::CONNECTION);
        }
        let asked = self.kubelets.ask(&address, &call.method, &path, &headers, call.body).await;
        let mut answer = self.joined(call.upgrade, asked.map_err(|error| unreachable(&error))?);
        if !upgrades {
            HOPS.iter().for_each(|hop| drop(answer.headers_mut().remove(hop)));
        }
        Ok(answer)
    }
}

/// What comes after `/api/v1/nodes/NODE/proxy`, as the client wrote it.
fn behind(uri: &Uri) -> Option<String> {
    let mut parts = uri.path().splitn(7, '/').skip(5);
    if parts.next() != Some("proxy") {
        return None;
    }
    let path = parts.next().unwrap_or_default();
    Some(match uri.query() {
        Some(query) => format!("/{path}?{query}"),
        None => format!("/{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_gets_the_rest_of_the_path() {
        for (asked, told) in [
            ("/api/v1/nodes/n/proxy", Some("/")),
            ("/api/v1/nodes/n/proxy/", Some("/")),
            ("/api/v1/nodes/n/proxy/runningpods/", Some("/runningpods/")),
            ("/api/v1/nodes/n/proxy/a%2Fb//c?x=%20&y", Some("/a%2Fb//c?x=%20&y")),
            ("/api/v1/nodes/n/status", None),
            ("//api/v1/nodes/n/proxy/x", None),
        ] {
            assert_eq!(behind(&asked.parse().unwrap()).as_deref(), told, "{asked}");
        }
    }
}
