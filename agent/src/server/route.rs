//! `[p]` Which path is what, which rights it takes and which methods it has: the kubelet's table.

use http::Method;

use super::targets::Verb;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// Pods that are bound here, as the API has them.
    Pods,
    /// Pods that the runtime has.
    RunningPods,
    Summary,
    Metrics,
    Cadvisor,
    Resource,
    Probes,
    Slis,
    /// One check by name; all of them where there is none.
    Health(&'a str),
    Configz,
    Flagz,
    Statusz,
    /// Files of the machine's log directory.
    NodeLogs,
    Logs([&'a str; 3]),
    /// Commands and ports.
    Stream((Verb, [&'a str; 2], Option<&'a str>, &'a str)),
    Checkpoint,
    Unknown,
}

impl<'a> Route<'a> {
    /// Of the parts of a path.
    pub(super) fn of(path: &[&'a str]) -> Route<'a> {
        if let Some(stream) = Verb::of(path) {
            return Route::Stream(stream);
        }
        match path {
            ["pods"] => Route::Pods,
            ["runningpods"] => Route::RunningPods,
            ["stats", "summary"] => Route::Summary,
            ["metrics"] => Route::Metrics,
            ["metrics", "cadvisor"] => Route::Cadvisor,
            ["metrics", "resource"] => Route::Resource,
            ["metrics", "probes"] => Route::Probes,
            ["metrics", "slis"] => Route::Slis,
            ["healthz"] => Route::Health(""),
            ["healthz", check @ ("ping" | "log" | "syncloop")] => Route::Health(check),
            ["configz"] => Route::Configz,
            ["flagz"] => Route::Flagz,
            ["statusz"] => Route::Statusz,
            ["logs", ..] => Route::NodeLogs,
            ["containerLogs", namespace, pod, container] => Route::Logs([namespace, pod, container]),
            ["checkpoint", _, _, _] => Route::Checkpoint,
            _ => Route::Unknown,
        }
    }

    /// Whether it can be asked so.
    pub(super) fn takes(self, method: &Method) -> bool {
        match self {
            Route::Stream((Verb::Run, ..)) | Route::Checkpoint => method == Method::POST,
            Route::Stream(_) => matches!(*method, Method::GET | Method::POST),
            Route::Unknown => true,
            _ => method == Method::GET,
        }
    }

    /// The name in metrics: never what a caller chose.
    pub(super) fn name(self) -> &'static str {
        match self {
            Route::Pods => "pods",
            Route::RunningPods => "runningpods",
            Route::Summary => "stats",
            Route::Metrics => "metrics",
            Route::Cadvisor => "metrics/cadvisor",
            Route::Resource => "metrics/resource",
            Route::Probes => "metrics/probes",
            Route::Slis => "metrics/slis",
            Route::Health(_) => "healthz",
            Route::Configz => "configz",
            Route::Flagz => "flagz",
            Route::Statusz => "statusz",
            Route::NodeLogs => "logs",
            Route::Logs(_) => "containerLogs",
            Route::Stream((Verb::Exec, ..)) => "exec",
            Route::Stream((Verb::Attach, ..)) => "attach",
            Route::Stream((Verb::Forward, ..)) => "portForward",
            Route::Stream((Verb::Run, ..)) => "run",
            Route::Checkpoint => "checkpoint",
            Route::Unknown => "other",
        }
    }
}

/// The subresources of `nodes` of which one is enough, the finest first. By the path alone: also of one that does not
/// exist nobody shall learn without rights.
pub(super) fn subresources(path: &[&str]) -> &'static [&'static str] {
    match path.first().copied() {
        Some("pods" | "runningpods") => &["pods", "proxy"],
        Some("stats") => &["stats"],
        Some("metrics") => &["metrics"],
        Some("healthz") => &["healthz", "proxy"],
        Some("configz" | "flagz") => &["configz", "proxy"],
        Some("statusz") => &["statusz"],
        Some("logs") => &["log"],
        Some("checkpoint") => &["checkpoint"],
        _ => &["proxy"],
    }
}

/// The method that rights are asked for: with streams GET is as good as POST, and who may only read gets no shell.
pub(super) fn judged<'a>(route: Route<'_>, method: &'a Method) -> &'a Method {
    const POST: &Method = &Method::POST;
    if matches!(route, Route::Stream(_)) { POST } else { method }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_methods_are_the_kubelets() {
        for (path, methods, rights) in [
            ("/pods", "GET", "pods proxy"),
            ("/runningpods/", "GET", "pods proxy"),
            ("/stats/summary", "GET", "stats"),
            ("/metrics", "GET", "metrics"),
            ("/metrics/cadvisor", "GET", "metrics"),
            ("/metrics/resource", "GET", "metrics"),
            ("/metrics/probes", "GET", "metrics"),
            ("/metrics/slis", "GET", "metrics"),
            ("/healthz", "GET", "healthz proxy"),
            ("/healthz/syncloop", "GET", "healthz proxy"),
            ("/configz", "GET", "configz proxy"),
            ("/containerLogs/ns/p/c", "GET", "proxy"),
            ("/exec/ns/p/c", "GET POST", "proxy"),
            ("/attach/ns/p/uid/c", "GET POST", "proxy"),
            ("/portForward/ns/p", "GET POST", "proxy"),
            ("/run/ns/p/c", "POST", "proxy"),
            ("/checkpoint/ns/p/c", "POST", "checkpoint"),
            ("/logs/", "GET", "log"),
            ("/logs/pods/a/0.log", "GET", "log"),
            ("/flagz", "GET", "configz proxy"),
            ("/statusz", "GET", "statusz"),
            ("/pods/x", "unknown", "pods proxy"),
            ("/healthz/other", "unknown", "healthz proxy"),
            ("/", "unknown", "proxy"),
        ] {
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            let route = Route::of(&parts);
            let all = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
            let taken: Vec<_> = all.iter().filter(|method| route.takes(method)).map(Method::as_str).collect();
            let taken = if route == Route::Unknown { "unknown".to_owned() } else { taken.join(" ") };
            assert_eq!(
                (taken.as_str(), subresources(&parts).join(" ").as_str()),
                (methods, rights),
                "{path}"
            );
        }
        let exec = Route::of(&["exec", "ns", "p", "c"]);
        assert_eq!(judged(exec, &Method::GET), Method::POST);
        assert_eq!(judged(Route::Pods, &Method::GET), Method::GET);
    }
}
