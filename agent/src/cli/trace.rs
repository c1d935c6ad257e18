//! `orlop trace`: where the time went while a pod came up, as its agent saw it.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use orlop::{
    args::DirArgs,
    pod::trace::{Stage, Trace},
    worker::traces::Traces,
};

use super::table;

/// Prints the stages of a pod's start, or one line for each pod.
///
/// # Errors
/// No agent answers, or it knows of no such pod.
pub(crate) fn trace(pod: Option<&str>, dirs: &DirArgs) -> Result<()> {
    let path = Traces::socket(&dirs.run_dir);
    let mut text = String::new();
    let mut asked = || -> std::io::Result<usize> {
        let mut stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.read_to_string(&mut text)
    };
    asked().with_context(|| format!("ask the agent at {}", path.display()))?;
    let traces: Vec<Trace> = serde_json::from_str(&text).context("read the agent's answer")?;
    let text = match pod {
        None => overview(&traces),
        Some(wanted) => stages(find(&traces, wanted)?),
    };
    std::io::stdout().write_all(text.as_bytes()).context("print")
}

/// By name, `namespace/name` or UID; of several of one name the newest.
fn find<'a>(traces: &'a [Trace], wanted: &str) -> Result<&'a Trace> {
    let is_it = |trace: &&Trace| {
        let pod = &trace.pod;
        pod.uid == wanted || pod.name == wanted || format!("{}/{}", pod.namespace, pod.name) == wanted
    };
    let Some(newest) = traces.iter().rev().find(is_it) else {
        bail!(
            "the agent has not seen the start of a pod {wanted:?}: it knows of the last ones since it was started itself"
        )
    };
    if let Some(other) = traces.iter().filter(is_it).find(|other| other.pod.namespace != newest.pod.namespace)
    {
        let [one, two] = [&newest.pod, &other.pod].map(|pod| format!("{}/{}", pod.namespace, pod.name));
        bail!("several pods are called {wanted:?}: {two}, {one}")
    }
    Ok(newest)
}

fn overview(traces: &[Trace]) -> String {
    let row = |trace: &Trace| {
        let after = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| millis(trace.seen, at));
        vec![
            trace.pod.namespace.clone(),
            trace.pod.name.clone(),
            after(trace.running),
            after(trace.told),
            after(trace.ready),
            after(trace.told_ready),
        ]
    };
    let header = ["NAMESPACE", "POD", "RUNNING", "TOLD", "READY", "TOLD-READY"];
    table(&header, &traces.iter().map(row).collect::<Vec<_>>())
}

fn stages(trace: &Trace) -> String {
    let line = |at: Timestamp, took: String, what: String, container: &str, error: &str| {
        vec![millis(trace.seen, at), took, what, container.to_owned(), error.to_owned()]
    };
    let of = |stage: &Stage| {
        let took = stage.until.map_or_else(|| "-".to_owned(), |until| millis(stage.from, until));
        let container = stage.container.as_deref().unwrap_or_default();
        let error = stage.error.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
        (stage.from, line(stage.from, took, stage.what.as_str().to_owned(), container, error))
    };
    let mut lines: Vec<(Timestamp, Vec<String>)> = trace.stages.iter().map(of).collect();
    let moments = [
        (Some(trace.seen), "seen"),
        (trace.running, "all containers started"),
        (trace.told, "status written: running"),
        (trace.ready, "ready"),
        (trace.told_ready, "status written: ready"),
    ];
    let moments = moments.into_iter().filter_map(|(at, what)| Some((at?, what)));
    lines.extend(moments.map(|(at, what)| (at, line(at, String::new(), what.to_owned(), "", ""))));
    // What began at the same time stays in its order; that the pod was seen comes first.
    lines.sort_by_key(|(at, line)| (*at, line[2] != "seen"));
    let pod = &trace.pod;
    let created = trace.created.map_or_else(String::new, |at| format!(", created {at} in whole seconds"));
    let rows: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
    format!("{}/{} ({}){created}, seen {}\n", pod.namespace, pod.name, pod.uid, trace.seen)
        + &table(&["AT", "TOOK", "STAGE", "CONTAINER", "ERROR"], &rows)
}

/// Whole milliseconds, rounded.
fn millis(from: Timestamp, to: Timestamp) -> String {
    let micros = to.duration_since(from).as_micros();
    format!("{}ms", (micros + 500).div_euclid(1000))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn traces() -> Vec<Trace> {
        serde_json::from_str(
            r#"[{"pod": {"namespace": "a", "name": "p", "uid": "u1"}, "created": null, "seen": "2025-01-01T00:00:00Z",
                 "stages": [], "running": null, "told": null, "ready": null, "told_ready": null, "waits_for": ["c"]},
                {"pod": {"namespace": "b", "name": "q", "uid": "u2"}, "created": "2025-01-01T00:00:00Z",
                 "seen": "2025-01-01T00:00:00.25Z", "stages": [
                   {"what": "admission", "container": null, "from": "2025-01-01T00:00:00.25Z", "until": "2025-01-01T00:00:00.2506Z", "error": null},
                   {"what": "pull", "container": "c", "from": "2025-01-01T00:00:00.251Z", "until": "2025-01-01T00:00:01.251Z", "error": "no\nmore"},
                   {"what": "readiness-probe", "container": "c", "from": "2025-01-01T00:00:01.3Z", "until": null, "error": null}],
                 "running": "2025-01-01T00:00:01.3Z", "told": null, "ready": null, "told_ready": null, "waits_for": []}]"#,
        )
        .unwrap()
    }

    #[test]
    fn stages_are_told_in_milliseconds_since_the_pod_was_seen() {
        let traces = traces();
        expect![[r"
            b/q (u2), created 2025-01-01T00:00:00Z in whole seconds, seen 2025-01-01T00:00:00.25Z
            AT       TOOK     STAGE                    CONTAINER   ERROR
            0ms               seen
            0ms      1ms      admission
            1ms      1000ms   pull                     c           no
            1050ms   -        readiness probe          c
            1050ms            all containers started
        "]]
        .assert_eq(&stages(find(&traces, "q").unwrap()));
        expect![[r"
            NAMESPACE   POD   RUNNING   TOLD   READY   TOLD-READY
            a           p     -         -      -       -
            b           q     1050ms    -      -       -
        "]]
        .assert_eq(&overview(&traces));
    }

    #[test]
    fn pods_are_found_by_any_of_their_names() {
        let mut traces = traces();
        for wanted in ["p", "a/p", "u1"] {
            assert_eq!(find(&traces, wanted).unwrap().pod.uid, "u1", "{wanted}");
        }
        assert!(find(&traces, "b/p").unwrap_err().to_string().contains("has not seen the start"));
        let mut newer = traces[0].clone();
        newer.pod.uid = "u3".into();
        traces.push(newer.clone());
        assert_eq!(find(&traces, "a/p").unwrap().pod.uid, "u3");
        newer.pod.namespace = "c".into();
        traces.push(newer);
        assert_eq!(find(&traces, "p").unwrap_err().to_string(), "several pods are called \"p\": a/p, c/p");
    }
}
