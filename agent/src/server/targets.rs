//! `/exec`, `/attach`, `/portForward` and `/run`: which container of which pod a request means, in the kubelet's words.
//!
//! Not for: the streams themselves (`stream`), who may ask (`auth`).

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use orlop_runtime::{Container, ContainerState, ExecRequest, Runtime, Sandbox};

use super::{
    Body,
    stream::{self, Job, Target, Wanted},
    text,
};

/// Output of `/run` that is kept.
const MAX_OUTPUT: usize = 1 << 20;

/// What is wanted of a container or pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Exec,
    Attach,
    Forward,
    Run,
}

impl Verb {
    /// `/exec/{namespace}/{pod}[/{uid}]/{container}`, without the container for `/portForward`.
    pub(super) fn of<'a>(path: &[&'a str]) -> Option<(Verb, [&'a str; 2], Option<&'a str>, &'a str)> {
        let verb = match path.first().copied()? {
            "exec" => Verb::Exec,
            "attach" => Verb::Attach,
            "portForward" => Verb::Forward,
            "run" => Verb::Run,
            _ => return None,
        };
        match (verb, path.get(1..)?) {
            (Verb::Forward, [namespace, pod]) => Some((verb, [namespace, pod], None, "")),
            (Verb::Forward, [namespace, pod, uid]) => Some((verb, [namespace, pod], Some(uid), "")),
            (Verb::Forward, _) => None,
            (_, [namespace, pod, container]) => Some((verb, [namespace, pod], None, container)),
            (_, [namespace, pod, uid, container]) => Some((verb, [namespace, pod], Some(uid), container)),
            _ => None,
        }
    }
}

/// Answers a request of somebody who may ask.
pub(super) async fn answer(
    runtime: &Runtime,
    request: Request<Incoming>,
    (verb, [namespace, name], uid, container): (Verb, [&str; 2], Option<&str>, &str),
) -> Response<Body> {
    let pod = runtime.pod_named(namespace, name).await;
    let Some(pod) = pod.filter(|pod| uid.is_none_or(|uid| uid == pod.pod.uid)) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let said = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let said: Vec<(String, String)> = said.into_owned().collect();
    if verb == Verb::Forward {
        let job = Job::Forward { uid: pod.pod.uid, ports: words(&said, "port") };
        return stream::answer(request, Ok(job), runtime.clone());
    }
    let running = running(&pod, container);
    if verb == Verb::Run {
        return match running {
            Ok(found) => run(runtime, &pod.pod.uid, &found.id, &said).await,
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, &why),
        };
    }
    match job(verb, &pod.pod.uid, running, &said) {
        Ok(job) => stream::answer(request, job, runtime.clone()),
        Err(why) => text(StatusCode::BAD_REQUEST, &why),
    }
}

/// The outer error is the request's, the inner one the container's.
fn job(
    verb: Verb,
    uid: &str,
    found: Result<&Container, String>,
    said: &[(String, String)],
) -> Result<Result<Job, String>, String> {
    let flag = |name: &str| said.iter().any(|(key, value)| key == name && value == "1");
    let wanted =
        Wanted { stdin: flag("input"), stdout: flag("output"), stderr: flag("error"), tty: flag("tty") };
    let wanted = wanted.check()?;
    let found = match found {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    let target = Target { uid: uid.to_owned(), id: found.id.clone() };
    Ok(Ok(match verb {
        Verb::Attach => Job::Attach { target, wanted: Wanted { tty: found.tty, ..wanted }.check()? },
        _ => Job::Exec { target, command: words(said, "command"), wanted },
    }))
}

fn words(said: &[(String, String)], name: &str) -> Vec<String> {
    said.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
}

/// The newest instance, if it runs.
fn running<'a>(pod: &'a Sandbox, name: &str) -> Result<&'a Container, String> {
    let instances = pod.containers.iter().filter(|container| container.name == name);
    match instances.max_by_key(|container| container.attempt) {
        Some(found) if matches!(found.state, ContainerState::Running { .. }) => Ok(found),
        // The words of CRI runtimes.
        Some(found) if matches!(found.state, ContainerState::Exited(_)) => {
            Err("failed to exec in container: container is in CONTAINER_EXITED state".to_owned())
        }
        _ => Err(format!("container not found ({name:?})")),
    }
}

/// The old way without streams: both outputs of a command as one text.
async fn run(runtime: &Runtime, uid: &str, id: &str, said: &[(String, String)]) -> Response<Body> {
    let command = words(said, "cmd").iter().flat_map(|text| text.split(' ')).map(str::to_owned).collect();
    let request = ExecRequest { command, env: Vec::new(), timeout: None, max_output: MAX_OUTPUT };
    match runtime.exec(uid, id, request).await {
        Ok(done) => text(StatusCode::OK, String::from_utf8_lossy(&done.output).trim_end_matches('\n')),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &crate::wire::chain(&error)),
    }
}
