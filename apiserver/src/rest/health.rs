//! What everybody may ask: is the server there, and which version is it.

use http::{Response, StatusCode};
use serde_json::json;

use super::body::{self, Body};

/// The Kubernetes version whose API is spoken.
pub(super) const MAJOR: &str = "1";
/// See [`MAJOR`].
pub(super) const MINOR: &str = "34";

/// The server's version as Kubernetes writes versions.
pub(crate) fn git_version() -> String {
    format!("v{MAJOR}.{MINOR}.0+orlop-{}", env!("CARGO_PKG_VERSION"))
}

/// Answers the open paths; `None` for every other. Who is answered at all finds the one check passed that there is.
pub(super) fn answer(path: &str, verbose: bool) -> Option<Response<Body>> {
    let below =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if let Some(root) = ["/healthz", "/livez", "/readyz"].into_iter().find(|root| below(root)) {
        let told = match verbose && path == root {
            true => format!("[+]ping ok\n{} check passed\n", &root[1..]),
            false => "ok".to_owned(),
        };
        return Some(body::text(StatusCode::OK, told));
    }
    (path == "/version").then(|| {
        let version = json!({
            "major": MAJOR, "minor": MINOR, "gitVersion": git_version(),
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", platform()),
        });
        body::json(StatusCode::OK, &version)
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
