//! The metrics of one part by themselves, on the port where upstream's program has them: without TLS, for those who may ask.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

const MOST_CONNECTIONS: usize = 16;
/// For all that one connection does: whoever scrapes comes again.
const CONNECTION: Duration = Duration::from_secs(30);
const HEADERS: Duration = Duration::from_secs(5);
/// After an error that would come again at once.
const REST: Duration = Duration::from_millis(50);

/// Serves for good whom it is `allowed`.
pub async fn serve(listener: TcpListener, registry: Registry, allowed: impl Fn(IpAddr) -> bool) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, client)) = listener.accept().await else {
            sleep(REST).await;
            continue;
        };
        if !allowed(client.ip()) {
            continue;
        }
        let registry = registry.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Ok(Err(error)) = timeout(CONNECTION, connection(stream, registry)).await {
                tracing::debug!(%client, %error, "scrape of metrics");
            }
        });
    }
}

async fn connection(stream: TcpStream, registry: Registry) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let registry = registry.clone();
        async move { Ok::<_, Infallible>(answer(&request, &registry)) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    http.serve_connection(TokioIo::new(stream), service).await
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let right = request.method() == Method::GET && request.uri().path() == "/metrics";
    let text = if right { crate::metrics::text(registry) } else { "only GET /metrics\n".to_owned() };
    let mut response = Response::new(Full::from(text));
    if !right {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The port; not having it is no reason to do without the part itself.
pub async fn bind(address: SocketAddr) -> Option<TcpListener> {
    let bound: io::Result<_> = TcpListener::bind(address).await;
    bound.inspect_err(|error| tracing::warn!(%address, %error, "no port for metrics")).ok()
}
