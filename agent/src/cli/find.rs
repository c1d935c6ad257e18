//! Which pod and container on this machine somebody means. Pure.

use anyhow::{Result, anyhow, bail};
use orlop_runtime::{Container, ContainerState, Sandbox};

/// By name, `namespace/name` or UID.
pub(super) fn pod<'a>(pods: &'a [Sandbox], wanted: &str) -> Result<&'a Sandbox> {
    let is_it = |sandbox: &&Sandbox| {
        let pod = &sandbox.pod;
        pod.uid == wanted || pod.name == wanted || format!("{}/{}", pod.namespace, pod.name) == wanted
    };
    let found: Vec<&Sandbox> = pods.iter().filter(is_it).collect();
    match found[..] {
        [one] => Ok(one),
        [] => bail!("no pod {wanted:?} on this machine"),
        _ => {
            let all = found.iter().map(|found| format!("{}/{}", found.pod.namespace, found.pod.name));
            bail!("several pods are called {wanted:?}: {}", all.collect::<Vec<_>>().join(", "))
        }
    }
}

/// The container with this name in the pod (its newest instance), or the one whose id begins like this.
pub(super) fn container<'a>(
    pods: &'a [Sandbox],
    wanted: &str,
    name: Option<&str>,
) -> Result<(&'a Sandbox, &'a Container)> {
    let all = || pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
    let hex = wanted.len() >= 6 && wanted.chars().all(|c| c.is_ascii_hexdigit());
    let by_id: Vec<_> = all().filter(|(_, container)| hex && container.id.starts_with(wanted)).collect();
    if let ([one], None) = (&by_id[..], name) {
        return Ok(*one);
    }
    let pod = pod(pods, wanted)?;
    let newest = |name: &str| {
        let same = pod.containers.iter().filter(|container| container.name == name);
        same.max_by_key(|container| container.attempt)
    };
    let first = || {
        let running = |c: &&Container| matches!(c.state, ContainerState::Running { .. });
        pod.containers.iter().find(running).or_else(|| pod.containers.first()).map(|c| c.name.as_str())
    };
    let chosen = name.or_else(first).ok_or_else(|| anyhow!("pod {wanted:?} has no container yet"))?;
    let found = newest(chosen).ok_or_else(|| {
        let mut names: Vec<&str> = pod.containers.iter().map(|container| container.name.as_str()).collect();
        names.dedup();
        anyhow!("pod {wanted:?} has no container {chosen:?}; it has: {}", names.join(", "))
    })?;
    Ok((pod, found))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use orlop_runtime::PodRef;

    use super::*;

    fn sandbox(namespace: &str, name: &str, uid: &str, containers: &[(&str, &str, u32, bool)]) -> Sandbox {
        let container = |(id, name, attempt, runs): &(&str, &str, u32, bool)| Container {
            id: (*id).into(),
            name: (*name).into(),
            attempt: *attempt,
            image_ref: String::new(),
            image_id: String::new(),
            user: None,
            tty: false,
            log_path: "/log".into(),
            state: match runs {
                true => ContainerState::Running { pid: 1, started_at: Timestamp::UNIX_EPOCH },
                false => ContainerState::Created,
            },
            labels: BTreeMap::new(),
        };
        Sandbox {
            pod: PodRef { namespace: namespace.into(), name: name.into(), uid: uid.into() },
            netns: None,
            created_at: Timestamp::UNIX_EPOCH,
            shim_alive: false,
            containers: containers.iter().map(container).collect(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn names_ids_and_what_is_wrong_with_them() {
        let pods = [
            sandbox(
                "default",
                "web",
                "u1",
                &[("aaaaaa1", "init", 0, false), ("bbbbbb1", "web", 1, true), ("bbbbbb0", "web", 0, false)],
            ),
            sandbox("other", "web", "u2", &[("cccccc1", "web", 0, true)]),
            sandbox("default", "empty", "u3", &[]),
        ];
        let check = |wanted: &str, name: Option<&str>, expected: &str| {
            let found = container(&pods, wanted, name);
            let text =
                found.map_or_else(|error| error.to_string(), |(pod, c)| format!("{} {}", pod.pod.uid, c.id));
            assert_eq!(text, expected, "{wanted:?} {name:?}");
        };
        check("default/web", None, "u1 bbbbbb1");
        check("u1", Some("init"), "u1 aaaaaa1");
        check("u1", Some("web"), "u1 bbbbbb1");
        check("cccccc", None, "u2 cccccc1");
        check("bbbbbb0", None, "u1 bbbbbb0");
        check("web", None, "several pods are called \"web\": default/web, other/web");
        check("nope", None, "no pod \"nope\" on this machine");
        check("empty", None, "pod \"empty\" has no container yet");
        check("u2", Some("init"), "pod \"u2\" has no container \"init\"; it has: web");
    }
}
