//! Health of services and of their proxy over plain HTTP, for load balancers: a port per service that wants one
//! (`healthCheckNodePort`), and the proxy's own, which is kube-proxy's (10256: `/healthz`, `/livez`).
//!
//! Level-triggered: the ports that are open are those of the last status. What is said is `orlop_dataplane::health`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::service_metrics::Metrics;
use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use orlop_dataplane::{
    Status,
    health::{self, Answer},
    model::ServiceKey,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// kube-proxy's `healthzBindAddress`.
const PROXY_PORT: u16 = 10256;

/// Which question a port answers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Service(ServiceKey),
    Proxy,
}

/// An open port; closed when dropped.
struct Open {
    subject: Subject,
    serving: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Opens and closes ports as the status says, for as long as there is one.
pub(super) async fn run(mut status: watch::Receiver<Status>, metrics: &Metrics) {
    let mut open: BTreeMap<u16, Open> = BTreeMap::new();
    loop {
        let wanted = wanted(&status.borrow_and_update());
        open.retain(|port, open| wanted.get(port) == Some(&open.subject));
        for (port, subject) in wanted {
            if open.contains_key(&port) {
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    let serving =
                        tokio::spawn(serve(listener, subject.clone(), status.clone(), metrics.clone()));
                    open.insert(port, Open { subject, serving });
                }
                // Tried again with the next change, as upstream.
                Err(error) => tracing::warn!(port, ?subject, %error, "FailedToStartServiceHealthcheck"),
            }
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Two services with one port is what the API server does not allow; the first has it.
fn wanted(status: &Status) -> BTreeMap<u16, Subject> {
    let mut ports = BTreeMap::from([(PROXY_PORT, Subject::Proxy)]);
    for (key, check) in &status.health_checks {
        ports.entry(check.port).or_insert_with(|| Subject::Service(key.clone()));
    }
    ports
}

/// On all addresses of both families; of IPv4 alone where the kernel has no other.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
    }
}

async fn serve(listener: TcpListener, subject: Subject, status: watch::Receiver<Status>, metrics: Metrics) {
    let subject = Arc::new(subject);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: let some close.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let (subject, status, metrics) = (Arc::clone(&subject), status.clone(), metrics.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = respond(&subject, request.uri().path(), &status.borrow(), &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "connection to a health check");
            }
        });
    }
}

fn respond(subject: &Subject, path: &str, status: &Status, metrics: &Metrics) -> Response<Full<Bytes>> {
    // Before the first lists are in nothing is late, as upstream.
    let healthy = status.unreadable.is_none();
    let now = Timestamp::now().to_string();
    let answer = match (subject, path) {
        (Subject::Service(key), _) => match status.health_checks.get(key) {
            Some(check) => health::of_service(key, check, healthy),
            None => missing(),
        },
        (Subject::Proxy, "/healthz") => health::of_proxy(healthy, Some(status.eligibility), &now, &now),
        (Subject::Proxy, "/livez") => health::of_proxy(healthy, None, &now, &now),
        (Subject::Proxy, _) => missing(),
    };
    let asked = match (subject, path) {
        (Subject::Proxy, "/healthz") => Some(&metrics.healthz),
        (Subject::Proxy, "/livez") => Some(&metrics.livez),
        _ => None,
    };
    if let Some(asked) = asked {
        asked.with_label_values(&[answer.status.to_string()]).inc();
    }
    let mut response = Response::builder()
        .status(answer.status)
        .header("Content-Type", "application/json")
        .header("X-Content-Type-Options", "nosniff");
    if let Some(weight) = answer.weight {
        response = response.header("X-Load-Balancing-Endpoint-Weight", weight);
    }
    response.body(Full::from(answer.body)).unwrap_or_default()
}

fn missing() -> Answer {
    Answer { status: 404, weight: None, body: String::new() }
}
