//! The kubelet's HTTPS API on port 10250: health, pods, what they use, container logs, and streams into containers and pods.
//!
//! ```text
//!  API server ──TLS, certificate or token──▶ identity ─▶ route [p]: allowed? ─┬▶ /containerLogs/… ─▶ log files
//!  Prometheus ─┘                                         ├▶ /pods ─▶ Desk ─▶ manager
//!                                                        ├▶ /stats/…, /metrics/… ─▶ gather ─▶ summary, cadvisor, … [p]
//!                                                        └▶ /exec/… /attach/… /portForward/… ─▶ runtime
//! ```
//!
//! Nothing is answered without a client certificate of the cluster's CA or a token of the cluster; what the identity may
//! do the API server says per path, as it does for the kubelet (subresources of `nodes`).

mod access;
mod auth;
mod cadvisor;
mod configz;
pub mod expiry;
mod gather;
mod health;
mod logs;
mod node_logs;
mod node_metrics;
mod parts;
mod pods;
mod resource_metrics;
mod route;
pub mod stream;
mod summary;
mod targets;
mod text;
mod volumes;
mod zpages;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION},
};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use access::Refusal;
pub use access::{Identity, Reviews};
pub use configz::configz;
pub use gather::Places;
pub use logs::{LogFile, LogSource, Logs};
use parts::Parts;
pub use parts::Sources;
use route::Route;

use crate::node::report::KUBELET_VERSION;

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
    health: Option<TcpListener>,
    tls: TlsAcceptor,
    /// Until when its certificate holds.
    expires: Option<Timestamp>,
}

impl Server {
    /// Binds the ports, so that one already taken is one clear error at start. `health` is for `/healthz` without TLS.
    ///
    /// # Errors
    /// When a port is taken or `client_ca` (PEM) is no certificate.
    pub async fn bind(
        address: SocketAddr,
        health: Option<SocketAddr>,
        node: &str,
        client_ca: &[u8],
    ) -> Result<Self, ServerError> {
        let (tls, expires) = auth::server_config(node, address.ip(), client_ca)?;
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
        };
        let health = match health {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { listener: bind(address).await?, health, tls: TlsAcceptor::from(Arc::new(tls)), expires })
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
        let (tls, expires) = auth::given(certificate, key, client_ca)?;
        Ok(Self { tls: TlsAcceptor::from(Arc::new(tls)), expires, ..self })
    }

    /// Serves until told to stop.
    pub async fn run(self, sources: Sources, stop: CancellationToken) {
        let Self { listener, health, tls, expires } = self;
        let parts = Parts::new(sources, expires);
        let checks = health.map(|listener| tokio::spawn(health::serve(listener, parts.checks.clone())));
        serve(listener, tls, Arc::new(parts), stop).await;
        if let Some(checks) = checks {
            checks.abort();
        }
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, parts: Arc<Parts>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((tcp, peer)) = accepted else {
            // Out of file descriptors, most likely: let some close.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let (tls, parts, stop) = (tls.clone(), Arc::clone(&parts), stop.clone());
        tokio::spawn(async move {
            let stream = match tls.accept(tcp).await {
                Ok(stream) => stream,
                Err(error) => return tracing::debug!(%peer, %error, "TLS handshake"),
            };
            let identity = Arc::new(auth::identity(stream.get_ref().1.peer_certificates()));
            let service = service_fn(move |request| {
                let (identity, parts) = (Arc::clone(&identity), Arc::clone(&parts));
                async move {
                    Ok::<_, Infallible>(parts::counted(identity.as_ref().as_ref(), &parts, request).await)
                }
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

fn parts_of(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

async fn answer(identity: Option<&Identity>, parts: &Parts, request: Request<Incoming>) -> Response<Body> {
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let identity = match (identity, token) {
        (Some(identity), _) => Some(identity.clone()),
        (None, Some(token)) => parts.access.token(token).await,
        (None, None) => None,
    };
    let Some(identity) = identity else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
    let uri = request.uri().clone();
    let accept = request.headers().get(ACCEPT).map(|value| value.to_str().unwrap_or_default());
    let plain = zpages::acceptable(accept);
    let path = parts_of(uri.path());
    let route = Route::of(&path);
    let judged = route::judged(route, request.method());
    match parts.access.may(&identity, judged, route::subresources(&path)).await {
        Ok(()) => {}
        Err(Refusal::Forbidden(why)) => return text(StatusCode::FORBIDDEN, &why),
        Err(Refusal::Unknown(why)) => return text(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
    if !route.takes(request.method()) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    let query = uri.query().unwrap_or_default();
    let said = |word: &str| query.split('&').any(|part| part == word);
    match route {
        Route::Stream(wanted) => targets::answer(&parts.runtime, request, wanted).await,
        Route::Logs([namespace, pod, container]) => parts.logs.answer(namespace, pod, container, query).await,
        Route::Health(check) => parts.checks.answer(check, health::verbose(query)).await,
        Route::Pods => match parts.desk.pods().await {
            Some(known) => {
                let here: Vec<_> = known.into_iter().filter(|one| !one.gone).map(|one| one.pod).collect();
                match pods::bound(&here) {
                    Ok(list) => json(list.to_string()),
                    Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                }
            }
            None => text(StatusCode::INTERNAL_SERVER_ERROR, "the pods of this node are not known"),
        },
        Route::RunningPods => json(pods::running(&parts.runtime.pods().await).to_string()),
        Route::Summary => json(parts.summary(said("only_cpu_and_memory=true")).await.to_string()),
        Route::Metrics => metrics(crate::metrics::text(&parts.registry) + &parts.node_metrics().await),
        Route::Cadvisor => metrics(parts.cadvisor().await),
        Route::Resource => metrics(parts.resource_metrics().await),
        Route::Probes => metrics(crate::metrics::text(&parts.probes)),
        Route::Slis => metrics(crate::metrics::text(&parts.checks.results)),
        Route::Configz => json(parts.configz.clone()),
        Route::Flagz | Route::Statusz if !plain => {
            text(StatusCode::NOT_ACCEPTABLE, "only text/plain is acceptable")
        }
        Route::Flagz => text(StatusCode::OK, zpages::flagz(&parts.flags).trim_end_matches('\n')),
        Route::Statusz => {
            let now = Timestamp::now();
            let page = zpages::statusz(parts.started, now, KUBELET_VERSION);
            text(StatusCode::OK, page.trim_end_matches('\n'))
        }
        Route::NodeLogs if !parts.system_logs => {
            text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.")
        }
        Route::NodeLogs => node_logs::answer(node_logs::DIRECTORY, uri.path()).await,
        Route::Checkpoint => text(StatusCode::NOT_FOUND, "this node cannot checkpoint containers"),
        Route::Unknown => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn json(text: String) -> Response<Body> {
    typed(StatusCode::OK, "application/json", text)
}

fn metrics(text: String) -> Response<Body> {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

pub(crate) fn text(status: StatusCode, message: &str) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", format!("{message}\n"))
}

fn typed(status: StatusCode, content: &'static str, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content));
    response
}
