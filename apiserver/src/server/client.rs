//! A client inside the process: the same stack from authorization on, without a socket.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};

use crate::auth::Identity;
use crate::rest::Api;
use crate::rest::body::{Body, BoxError};

/// Requests of one identity. `kube::Client::new(service, "default")` makes a client of it.
#[derive(Clone, Debug)]
pub struct ClientService {
    api: Arc<Api>,
    identity: Identity,
}

impl ClientService {
    pub(super) fn new(api: Arc<Api>, identity: Identity) -> Self {
        Self { api, identity }
    }
}

impl<B> tower::Service<Request<B>> for ClientService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { api, identity } = self.clone();
        Box::pin(async move { Ok(api.handle(request, identity).await) })
    }
}
