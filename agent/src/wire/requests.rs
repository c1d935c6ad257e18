//! Counts what the node asks of the API server, and how that is answered.

use std::task::{Context, Poll};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use kube::{Client, client::Body};
use prometheus::{IntCounterVec, Registry, core::Collector};
use tower::Service;

use crate::metrics::{counters, register};

/// The client, with a count of its requests in the registry.
#[must_use]
pub fn counted(client: Client, registry: &Registry) -> Client {
    let requests = counters(
        "rest_client_requests_total",
        "Number of HTTP requests, partitioned by status code and method.",
        &["code", "method"],
    );
    register(registry, [Box::new(requests.clone()) as Box<dyn Collector>]);
    let namespace = client.default_namespace().to_owned();
    Client::new(Counted { client, requests }, namespace)
}

struct Counted {
    client: Client,
    requests: IntCounterVec,
}

impl Service<Request<Body>> for Counted {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, kube::Error>>;

    /// The client below waits itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, requests) = (self.client.clone(), self.requests.clone());
        async move {
            let method = request.method().clone();
            let answer = client.send(request).await;
            let code = match &answer {
                Ok(answer) => answer.status().as_str().to_owned(),
                // Upstream's word for no answer at all.
                Err(_) => "<error>".to_owned(),
            };
            requests.with_label_values(&[code.as_str(), method.as_str()]).inc();
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;

    use super::*;

    #[tokio::test]
    async fn answers_are_counted_by_code_and_method() {
        let registry = Registry::new();
        let server = tower::service_fn(async |request: Request<Body>| {
            if request.uri().path().ends_with("/silent") {
                return Err("nobody there");
            }
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            Ok(answer)
        });
        let api = Api::<ConfigMap>::default_namespaced(counted(Client::new(server, "ns"), &registry));
        assert!(matches!(api.get("missing").await, Err(kube::Error::Api(status)) if status.code == 404));
        assert!(api.get("missing").await.is_err());
        assert!(matches!(api.get("silent").await, Err(kube::Error::Service(_))));
        expect_test::expect![[r#"
            # HELP rest_client_requests_total Number of HTTP requests, partitioned by status code and method.
            # TYPE rest_client_requests_total counter
            rest_client_requests_total{code="404",method="GET"} 2
            rest_client_requests_total{code="<error>",method="GET"} 1
        "#]]
        .assert_eq(&crate::metrics::text(&registry));
    }
}
