//! gRPC over a unix socket: one connection per call, so that a driver may come and go.

use std::{
    path::Path,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::{Status, body::Body};

/// The transport of generated clients.
#[derive(Clone)]
pub(super) struct Http(SendRequest<Body>);

/// What names the server in requests; a socket has no name.
pub(super) fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

/// Connects.
pub(super) async fn connect(socket: &Path) -> Result<Http, Status> {
    let unavailable = |error: &dyn std::error::Error| {
        let text = format!(
            "connection error: desc = \"transport: Error while dialing: dial unix {}: {error}\"",
            socket.display()
        );
        Status::unavailable(text)
    };
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|error| unavailable(&error))?;
    let (sender, connection) =
        handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| unavailable(&error))?;
    // Ends with the sender.
    tokio::spawn(connection.map(drop));
    Ok(Http(sender))
}

/// A call with an end.
pub(super) async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, String> {
    let answer = match tokio::time::timeout(time, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    };
    answer.map_err(|status| format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
}

impl tower::Service<http::Request<Body>> for Http {
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
