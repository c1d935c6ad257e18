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
mod gather;
mod health;
mod logs;
mod node_metrics;
mod pods;
mod resource_metrics;
mod route;
pub mod stream;
mod summary;
mod targets;
mod text;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use orlop_runtime::{Runtime, image::Images};
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Registry, core::Collector};
use tokio::{net::TcpListener, time::Instant};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use access::{Access, Refusal};
pub use access::{Identity, Reviews};
pub use configz::configz;
pub use gather::Places;
pub use logs::{LogFile, LogSource, Logs};
use route::Route;

use crate::{
    metrics::{counters, gauges, histograms, register},
    node::report::Facts,
    usage::Usage,
    worker::Desk,
};

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
}

/// Whom it asks for what it answers.
pub struct Sources {
    /// Logs of containers.
    pub logs: Logs,
    /// Containers.
    pub runtime: Runtime,
    /// What they use.
    pub usage: Usage,
    /// Images.
    pub images: Images,
    /// Pods.
    pub desk: Desk,
    /// Who callers are, and what they may.
    pub reviews: Arc<dyn Reviews>,
    /// What the parts of the node count.
    pub registry: Registry,
    /// What probes count.
    pub probes: Registry,
    /// This node.
    pub node: String,
    /// This machine.
    pub facts: Facts,
    /// Where things are.
    pub places: Places,
    /// The answer of `/configz`.
    pub configz: serde_json::Value,
}

/// The same, with what it keeps itself.
struct Parts {
    access: Access,
    logs: Logs,
    runtime: Runtime,
    usage: Usage,
    images: Images,
    desk: Desk,
    registry: Registry,
    probes: Registry,
    node: String,
    names: cadvisor::Names,
    places: Places,
    configz: String,
    requests: IntCounterVec,
    inflight: IntGaugeVec,
    durations: HistogramVec,
}

impl Parts {
    fn new(sources: Sources) -> Parts {
        let Sources {
            logs,
            runtime,
            usage,
            images,
            desk,
            reviews,
            registry,
            probes,
            node,
            facts,
            places,
            configz,
        } = sources;
        let labels = &["long_running", "method", "path", "server_type"];
        let requests =
            counters("kubelet_http_requests_total", "Number of the http requests received", labels);
        let inflight =
            gauges("kubelet_http_inflight_requests", "Number of the inflight http requests", labels);
        let durations = histograms(
            "kubelet_http_requests_duration_seconds",
            "Duration in seconds to serve http requests",
            labels,
            prometheus::DEFAULT_BUCKETS.to_vec(),
        );
        let all: [Box<dyn Collector>; 3] =
            [Box::new(requests.clone()), Box::new(inflight.clone()), Box::new(durations.clone())];
        register(&registry, all);
        let names = cadvisor::Names {
            boot_id: facts.boot_id,
            machine_id: facts.machine_id,
            system_uuid: facts.system_uuid,
            cpus: facts.cpus,
        };
        let (access, configz) = (Access::new(reviews), configz.to_string());
        Parts {
            access,
            logs,
            runtime,
            usage,
            images,
            desk,
            registry,
            probes,
            node,
            names,
            places,
            configz,
            requests,
            inflight,
            durations,
        }
    }
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
        let tls = auth::server_config(node, address.ip(), client_ca)?;
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
        };
        let health = match health {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { listener: bind(address).await?, health, tls: TlsAcceptor::from(Arc::new(tls)) })
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
    pub async fn run(self, sources: Sources, stop: CancellationToken) {
        let Self { listener, health, tls } = self;
        let checks = health.map(|listener| tokio::spawn(health::serve(listener, sources.desk.clone())));
        serve(listener, tls, Arc::new(Parts::new(sources)), stop).await;
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
                async move { Ok::<_, Infallible>(counted(identity.as_ref().as_ref(), &parts, request).await) }
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

/// Answers, and counts that. Streams count until they are begun.
async fn counted(identity: Option<&Identity>, parts: &Parts, request: Request<Incoming>) -> Response<Body> {
    let path: Vec<&str> = parts_of(request.uri().path());
    let route = Route::of(&path);
    let follows = request.uri().query().is_some_and(|query| query.contains("follow=true"));
    let long = matches!(route, Route::Stream(_)) || (matches!(route, Route::Logs(_)) && follows);
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => "other",
    };
    let labels = [if long { "true" } else { "false" }, method, route.name(), "readwrite"].map(str::to_owned);
    parts.requests.with_label_values(&labels).inc();
    let inflight = parts.inflight.with_label_values(&labels);
    inflight.inc();
    let began = Instant::now();
    let answer = answer(identity, parts, request).await;
    inflight.dec();
    parts.durations.with_label_values(&labels).observe(began.elapsed().as_secs_f64());
    answer
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
        Route::Health(check) => health::answer(&parts.desk, check, health::verbose(query)).await,
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
        Route::Configz => json(parts.configz.clone()),
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
