//! The kubelet's HTTPS API on port 10250: health, container logs, and streams into containers and pods.
//!
//! ```text
//!  API server ──TLS, certificate or token──▶ identity ─▶ allowed? ─┬▶ /containerLogs/… ─▶ log files
//!                                                                  ├▶ /metrics/resource ─▶ cgroups
//!                                                                  └▶ /exec/… /attach/… /portForward/… ─▶ runtime
//! ```
//!
//! Nothing is answered without a client certificate of the cluster's CA or a token of the cluster; what the identity may
//! do the API server says per path, as it does for the kubelet (subresources of `nodes`). What is not there yet has its place in `route`.

mod access;
mod auth;
mod logs;
mod resource_metrics;
pub mod stream;
mod targets;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use access::{Access, Refusal};
pub use access::{Identity, Reviews};
pub use logs::{LogFile, LogSource, Logs};
use orlop_runtime::Runtime;
use targets::Verb;

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port is taken, or the address is not ours.
    #[error("listen on {address} for the kubelet API")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate or the CA cannot be used.
    #[error("{0}")]
    Tls(#[from] auth::TlsError),
}

/// A body that may never end (a followed log).
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The kubelet API.
pub struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    parts: Arc<Parts>,
}

/// What is asked of it.
struct Parts {
    access: Access,
    logs: Logs,
    runtime: Runtime,
}

impl Server {
    /// Binds the port, so that a port already taken is one clear error at start.
    ///
    /// # Errors
    /// When the port is taken or `client_ca` (PEM) is no certificate.
    pub async fn bind(
        address: SocketAddr,
        node: &str,
        client_ca: &[u8],
        logs: Logs,
        runtime: Runtime,
        reviews: Arc<dyn Reviews>,
    ) -> Result<Self, ServerError> {
        let tls = auth::server_config(node, address.ip(), client_ca)?;
        let listener =
            TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
        Ok(Self {
            listener,
            tls: TlsAcceptor::from(Arc::new(tls)),
            parts: Arc::new(Parts { access: Access::new(reviews), logs, runtime }),
        })
    }

    /// The same with a certificate (and what leads to its authority) and key of the operator's, PEM.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn with_certificate(
        self,
        certificate: &[u8],
        key: &[u8],
        client_ca: &[u8],
    ) -> Result<Self, ServerError> {
        let tls = auth::given(certificate, key, client_ca)?;
        Ok(Self { tls: TlsAcceptor::from(Arc::new(tls)), ..self })
    }

    /// Serves until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Ok((tcp, peer)) = accepted else {
                // Out of file descriptors, most likely: let some close.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let (tls, parts, stop) = (self.tls.clone(), Arc::clone(&self.parts), stop.clone());
            tokio::spawn(async move {
                let stream = match tls.accept(tcp).await {
                    Ok(stream) => stream,
                    Err(error) => return tracing::debug!(%peer, %error, "TLS handshake"),
                };
                let identity = Arc::new(auth::identity(stream.get_ref().1.peer_certificates()));
                let service = service_fn(move |request| {
                    let (identity, parts) = (Arc::clone(&identity), Arc::clone(&parts));
                    async move { Ok::<_, Infallible>(route(identity.as_ref().as_ref(), &parts, request).await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                tokio::select! {
                    served = connection => if let Err(error) = served { tracing::debug!(%peer, error, "connection") },
                    () = stop.cancelled() => {}
                }
            });
        }
    }
}

async fn route(identity: Option<&Identity>, parts: &Parts, request: Request<Incoming>) -> Response<Body> {
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let identity = match (identity, token) {
        (Some(identity), _) => Some(identity.clone()),
        (None, Some(token)) => parts.access.token(token).await,
        (None, None) => None,
    };
    let Some(identity) = identity else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
    let uri = request.uri().clone();
    let path: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let subresources: &[&str] = match path.first().copied() {
        Some("healthz") => &["healthz", "proxy"],
        Some("metrics") => &["metrics"],
        _ => &["proxy"],
    };
    let wanted = Verb::of(&path);
    // Whatever the method: who may only read gets no shell.
    let method = if wanted.is_some() { &Method::POST } else { request.method() };
    match parts.access.may(&identity, method, subresources).await {
        Ok(()) => {}
        Err(Refusal::Forbidden(why)) => return text(StatusCode::FORBIDDEN, &why),
        Err(Refusal::Unknown(why)) => return text(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
    if let Some(wanted) = wanted {
        return match *request.method() {
            Method::GET if wanted.0 == Verb::Run => {
                text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            }
            Method::GET | Method::POST => targets::answer(&parts.runtime, request, wanted).await,
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
        };
    }
    match (request.method(), path.as_slice()) {
        (&Method::GET, ["healthz"] | ["healthz", "ping"]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["metrics", "resource"]) => {
            text(StatusCode::OK, resource_metrics::answer(&parts.runtime).await.trim_end())
        }
        (&Method::GET, ["containerLogs", namespace, pod, container]) => {
            let query = request.uri().query().unwrap_or_default();
            parts.logs.answer(namespace, pod, container, query).await
        }
        (_, ["healthz", ..] | ["metrics", "resource"] | ["containerLogs", _, _, _]) => {
            text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

pub(crate) fn text(status: StatusCode, message: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{message}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}
