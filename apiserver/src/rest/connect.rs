//! pods/exec, pods/attach and pods/portforward: the client's upgrade goes to the kubelet, then bytes both ways.
//!
//! ```text
//! client ── upgrade ──▶ which container, which node ──▶ kubelet: the same upgrade ──▶ 101 ──▶ bytes
//! ```
//! Nothing of the streams is understood here: whatever protocol client and kubelet agree on passes through. Not for: what
//! is said on them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use super::body::{Body, failure};
use super::kubelet::{chain, container, escape};
use super::status::Failure;
use super::write::parse;
use super::{Api, Call, Target, authorize_as, object};
use crate::kubelet::KubeletError;

/// Headers that settle a stream's protocol.
const ASKED: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    HeaderName::from_static("x-stream-protocol-version"),
];

impl Api {
    pub(super) async fn connect(
        &self,
        call: Call,
        target: &Target,
        subresource: &str,
    ) -> Result<Response<Body>, Failure> {
        // As from 1.35 on: who may only read must not get a shell because WebSockets begin with GET.
        if call.method == Method::GET {
            authorize_as(&call.identity, "create", target, subresource)?;
        }
        let stored =
            self.store.get(&target.key()).ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
        let pod = parse(&stored.value)?;
        let path = path(&call, target, subresource, &pod)?;
        let node = object::text(&pod, &["spec", "nodeName"]);
        if node.is_empty() {
            return Err(Failure::bad_request(format!("pod {} does not have a host assigned", target.name)));
        }
        let Some(client) = call.upgrade else {
            return Err(Failure::bad_request("Upgrade request required"));
        };
        let address = self.kubelet_address(node)?;
        let headers = chosen(&call.headers, &ASKED);
        let asked = self.kubelets.ask(&address, &call.method, &path, &headers, Bytes::new()).await;
        let answer = asked.map_err(|error| unreachable(&error))?;
        Ok(self.joined(Some(client), answer))
    }

    /// The kubelet's answer; where it became another protocol, client and kubelet are joined.
    pub(super) fn joined(&self, client: Option<OnUpgrade>, mut answer: Response<Incoming>) -> Response<Body> {
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // The kubelet's own words, as they are.
            return answer.map(|body| body.map_err(Into::into).boxed_unsync());
        }
        let Some(client) = client else {
            return failure(&Failure::bad_request("Upgrade request required"));
        };
        let kubelet = hyper::upgrade::on(&mut answer);
        let closing = self.closing.clone();
        tokio::spawn(async move {
            let (client, kubelet) = match tokio::try_join!(client, kubelet) {
                Ok(both) => both,
                Err(error) => return tracing::debug!(%error, "upgrade of a streaming request"),
            };
            let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
            tokio::select! {
                ended = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut kubelet, BUFFER, BUFFER) => {
                    if let Err(error) = ended { tracing::debug!(%error, "stream ended") }
                }
                () = closing.cancelled() => {}
            }
        });
        answer.map(|_| Empty::new().map_err(|never| match never {}).boxed_unsync())
    }
}

pub(super) fn unreachable(error: &KubeletError) -> Failure {
    Failure::internal(format!("error dialing backend: {}", chain(error)))
}

/// Bytes on their way in one direction.
const BUFFER: usize = 32 << 10;

pub(super) fn chosen(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut chosen = HeaderMap::new();
    for name in names {
        for value in headers.get_all(name) {
            chosen.append(name, value.clone());
        }
    }
    chosen
}

/// The kubelet's URL for it.
fn path(call: &Call, target: &Target, subresource: &str, pod: &serde_json::Value) -> Result<String, Failure> {
    let Target { namespace, name, .. } = target;
    if subresource == "portforward" {
        let ports = call.query.all("ports").flat_map(|list| list.split(','));
        let ports: Vec<String> = ports.map(|port| format!("port={}", escape(port))).collect();
        return Ok(format!("/portForward/{namespace}/{name}?{}", ports.join("&")));
    }
    let container = container(pod, call.query.get("container"))?;
    let flags = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let flags = flags.into_iter().filter(|(asked, _)| call.query.flag(asked));
    let mut query: Vec<String> = flags.map(|(_, told)| format!("{told}=1")).collect();
    if !["stdin", "stdout", "stderr"].into_iter().any(|stream| call.query.flag(stream)) {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if subresource == "exec" {
        let command: Vec<&str> = call.query.all("command").collect();
        if command.is_empty() {
            return Err(Failure::bad_request("you must specify a command"));
        }
        query.extend(command.into_iter().map(|word| format!("command={}", escape(word))));
    }
    Ok(format!("/{subresource}/{namespace}/{name}/{container}?{}", query.join("&")))
}
