//! `/healthz` and its checks, also without TLS on the loopback address for whoever supervises the node there.

use std::convert::Infallible;

use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use prometheus::{IntCounterVec, IntGaugeVec, Registry, core::Collector};
use tokio::net::TcpListener;

use super::{Body, text};
use crate::{
    metrics::{counters, gauges, register},
    worker::Desk,
};

/// All checks, in the order in which they are told.
const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

/// The checks, and what came of them.
#[derive(Clone)]
pub(super) struct Checks {
    desk: Desk,
    /// For `/metrics/slis`, whoever asked.
    pub(super) results: Registry,
    last: IntGaugeVec,
    all: IntCounterVec,
}

impl Checks {
    pub(super) fn new(desk: Desk) -> Checks {
        let last = gauges(
            "kubernetes_healthcheck",
            "Whether a check of this component's health passed when it was made last",
            &["name", "type"],
        );
        let all = counters(
            "kubernetes_healthchecks_total",
            "Checks of this component's health by what came of them",
            &["name", "status", "type"],
        );
        let results = Registry::new();
        let both: [Box<dyn Collector>; 2] = [Box::new(last.clone()), Box::new(all.clone())];
        register(&results, both);
        Checks { desk, results, last, all }
    }

    /// The answer to one check, or to all. `ping` and `log` say that there is an answer.
    pub(super) async fn answer(&self, check: &str, verbose: bool) -> Response<Body> {
        let mut lives = true;
        for name in CHECKS.into_iter().filter(|name| check.is_empty() || *name == check) {
            let passed = name != "syncloop" || self.desk.pods().await.is_some();
            let status = if passed { "success" } else { "error" };
            self.last.with_label_values(&[name, "healthz"]).set(i64::from(passed));
            self.all.with_label_values(&[name, status, "healthz"]).inc();
            lives &= passed;
        }
        let (status, words) = words(check, lives, verbose);
        text(status, &words)
    }
}

/// Whether a query asks for every check by name, whatever the value.
pub(super) fn verbose(query: &str) -> bool {
    query.split('&').any(|part| part.split('=').next() == Some("verbose"))
}

/// Upstream's words.
fn words(check: &str, lives: bool, verbose: bool) -> (StatusCode, String) {
    if lives && !(verbose && check.is_empty()) {
        return (StatusCode::OK, "ok".to_owned());
    }
    if !lives && check == "syncloop" {
        return (StatusCode::INTERNAL_SERVER_ERROR, "internal server error: sync Loop took too long".into());
    }
    let line = |name: &&str| match *name {
        "syncloop" if !lives => "[-]syncloop failed: reason withheld\n".to_owned(),
        name => format!("[+]{name} ok\n"),
    };
    let all: String = CHECKS.iter().map(line).collect();
    match lives {
        true => (StatusCode::OK, all + "healthz check passed"),
        false => (StatusCode::INTERNAL_SERVER_ERROR, all + "healthz check failed"),
    }
}

/// Serves `/healthz` alone, to whoever can connect, for ever.
pub(super) async fn serve(listener: TcpListener, checks: Checks) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: let some close.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let checks = checks.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let checks = checks.clone();
                async move { Ok::<_, Infallible>(plain(&checks, &request).await) }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "connection to /healthz");
            }
        });
    }
}

async fn plain(checks: &Checks, request: &Request<Incoming>) -> Response<Body> {
    let verbose = verbose(request.uri().query().unwrap_or_default());
    let check = match request.uri().path() {
        "/healthz" => "",
        "/healthz/ping" => "ping",
        "/healthz/log" => "log",
        "/healthz/syncloop" => "syncloop",
        _ => return text(StatusCode::NOT_FOUND, "404 page not found"),
    };
    match *request.method() {
        Method::GET => checks.answer(check, verbose).await,
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_named() {
        assert_eq!(words("", true, false), (StatusCode::OK, "ok".into()));
        assert_eq!(words("ping", true, true), (StatusCode::OK, "ok".into()));
        let (status, all) = words("", true, true);
        assert_eq!(
            (status, &*all),
            (StatusCode::OK, "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed")
        );
        let (status, all) = words("", false, false);
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(all.contains("[-]syncloop failed") && all.ends_with("healthz check failed"), "{all}");
        assert_eq!(words("syncloop", false, false).0, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
