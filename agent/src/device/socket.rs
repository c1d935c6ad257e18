//! gRPC over sockets in the file system: both ends.

use std::{
    convert::Infallible,
    path::Path,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use hyper::{
    client::conn::http2::{SendRequest, handshake},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

/// A plugin may take a moment until it listens.
const TRIES: u32 = 50;
const AGAIN: Duration = Duration::from_millis(100);

/// The transport of a generated client.
#[derive(Clone)]
pub(crate) struct Http(SendRequest<Body>);

impl Http {
    /// Connects; waits a few seconds for somebody to listen.
    pub(crate) async fn connect(path: &Path) -> Result<Http, Box<dyn std::error::Error + Send + Sync>> {
        let mut tries = 1;
        let stream = loop {
            match tokio::net::UnixStream::connect(path).await {
                Ok(stream) => break stream,
                Err(error) if tries == TRIES => return Err(error.into()),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(AGAIN).await;
        };
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a plugin");
            }
        });
        Ok(Http(sender))
    }
}

impl Service<http::Request<Body>> for Http {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

/// Serves one service on a socket for root alone, until told to stop.
pub(crate) async fn serve<S>(path: &Path, service: S, stop: CancellationToken) -> std::io::Result<()>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let listener = crate::cri::listen(path)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: let some close.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (service, stop) = (service.clone(), stop.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let mut service = service.clone();
                async move { service.call(request.map(Body::new)).await }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::select! {
                served = builder.serve_connection(TokioIo::new(stream), answer) => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "connection of a local client");
                    }
                }
                () = stop.cancelled() => {}
            }
        });
    }
    std::fs::remove_file(path).ok();
    Ok(())
}
