//! What is observed of a pod when the agent starts: rebuilt from the runtime and the API, nothing is stored.

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::{
    allocation::Allocation,
    backoff::{self, BackOff},
    desired::Desired,
    machine::{Container, ContainerState, Exit, Sandbox},
    observed::{Ended, Instance, Life, Observed, Step, started_without_probe},
};

impl Observed {
    /// Rebuilds the state of a pod from what the runtime and the API know of it.
    pub fn adopt(
        desired: &Desired,
        sandbox: Option<Sandbox>,
        longest_restart: Option<Duration>,
        now: Timestamp,
    ) -> Observed {
        let status = desired.pod.status.as_ref();
        let mut observed = Observed {
            started_at: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            over: desired.told_terminal(),
            told_end: desired.told_terminal(),
            longest_restart,
            ..Observed::default()
        };
        let told = status.into_iter().flat_map(|s| {
            let all = [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses];
            all.into_iter().flatten().flatten()
        });
        for told in told.filter(|told| told.container_id.as_ref().is_some_and(|id| !id.is_empty())) {
            let count = u32::try_from(told.restart_count).unwrap_or_default();
            observed.containers.entry(told.name.clone()).or_default().next_attempt = count + 1;
        }
        let Some(sandbox) = sandbox else { return observed };
        observed.lost = !sandbox.shim_alive;
        observed.sandbox = Step::Done(sandbox.netns);
        observed.granted = Allocation::from_labels(&sandbox.labels);
        observed.unchecked = sandbox.shim_alive;
        for container in sandbox.containers {
            adopt_container(desired, &mut observed, container, (sandbox.shim_alive, now));
        }
        // An address that was told was attached before; without one the attachment is made (again).
        let told = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|pod| &pod.ip);
        let told = told.chain(status.and_then(|status| status.pod_ip.as_ref()));
        let mut ips: Vec<IpAddr> = told.filter_map(|ip| ip.parse().ok()).collect();
        ips.dedup();
        if !ips.is_empty() && !desired.host_network() {
            observed.network = Step::Done(ips);
        }
        observed
    }
}

/// Containers arrive oldest first.
fn adopt_container(
    desired: &Desired,
    observed: &mut Observed,
    container: Container,
    (shim_alive, now): (bool, Timestamp),
) {
    let kind = desired.container(&container.name).map(|(kind, _)| kind);
    let cap = observed.longest_restart.unwrap_or(backoff::CAP);
    let instances = observed.containers.entry(container.name.clone()).or_default();
    if container.state == ContainerState::Created {
        // Killed in the middle of a start: the same attempt is made again, and the runtime knows its id.
        instances.next_attempt = instances.next_attempt.max(container.attempt);
        return;
    }
    let started = started_without_probe(desired, kind, &container.name);
    let mut instance = Instance::new(container, started);
    if let Some(told) = told_status(desired, &instance.id) {
        // The probes go on where they were: a restart of the agent must not make a ready pod unready.
        instance.started |= told.started.unwrap_or_default();
        instance.ready = told.ready.then_some(true);
    }
    if !shim_alive && let Life::Running { started_at } = instance.life {
        let exit =
            Exit { code: 137, signal: Some(9), oom_killed: false, started_at, finished_at: started_at };
        instance.life = Life::Ended(Ended::from_exit(exit, None));
    }
    // Instances that never ran are known to the API only; numbers do not go back.
    instances.next_attempt = instances.next_attempt.max(instance.attempt + 1);
    if let Some(older) = instances.last.take() {
        instances.garbage.push(older.id);
    }
    instances.last = instances.current.replace(instance);
    if let Some(ended) = instances.ended() {
        // The clock may have been set back since.
        let (started_at, ended_at) = (ended.exit.started_at.min(now), ended.exit.finished_at.min(now));
        instances.backoff = guess_backoff(instances.next_attempt, cap, started_at);
        instances.ended_at = Some(ended_at);
    }
}

fn told_status<'a>(desired: &'a Desired, id: &str) -> Option<&'a ContainerStatus> {
    let status = desired.pod.status.as_ref()?;
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|told| told.container_id.as_ref().is_some_and(|told| told.ends_with(id)))
}

/// Back-off is not stored: the attempt number tells how far it had come.
fn guess_backoff(next_attempt: u32, cap: Duration, started_at: Timestamp) -> Option<BackOff> {
    (1..next_attempt).fold(None, |entry, _| Some(BackOff::next(entry, cap, started_at)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use k8s_openapi::api::core::v1::Pod;
    use orlop_runtime::PodRef;

    use super::*;

    /// `name#attempt state` for each container found, and what was told before.
    fn check(status: &str, found: &[(&str, u32, &str)], expected: &str) {
        let mut pod: Pod = serde_norway::from_str(
            "{metadata: {name: p, uid: u}, spec: {containers: [{name: c, startupProbe: {}, readinessProbe: {}}]}}",
        )
        .unwrap();
        pod.status = Some(serde_norway::from_str(status).unwrap());
        let desired = Desired::new(Arc::new(pod));
        let at = Timestamp::from_second(100).unwrap();
        let containers = found.iter().map(|(name, attempt, state)| Container {
            id: format!("{name}{attempt}"),
            name: (*name).into(),
            attempt: *attempt,
            image_ref: "i".into(),
            image_id: "sha256:1".into(),
            user: None,
            tty: false,
            log_path: "/log".into(),
            state: match *state {
                "created" => ContainerState::Created,
                "running" => ContainerState::Running { pid: 1, started_at: at },
                code => ContainerState::Exited(Exit {
                    code: code.parse().unwrap(),
                    signal: None,
                    oom_killed: false,
                    started_at: at,
                    finished_at: at,
                }),
            },
            labels: BTreeMap::new(),
        });
        let sandbox = Sandbox {
            pod: PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() },
            netns: None,
            created_at: at,
            shim_alive: true,
            containers: containers.collect(),
            labels: BTreeMap::new(),
        };
        let observed = Observed::adopt(&desired, Some(sandbox), None, at);
        let c = observed.container("c");
        let id = |instance: &Option<Instance>| instance.as_ref().map_or("-".into(), |i| i.id.clone());
        let current = c.current.as_ref();
        let text = format!(
            "current {} last {} next #{} garbage {:?} started {} ready {:?} back-off {:?}",
            id(&c.current),
            id(&c.last),
            c.next_attempt,
            c.garbage,
            current.is_some_and(|i| i.started),
            current.and_then(|i| i.ready),
            c.backoff.map(|backoff| backoff.delay.as_secs()),
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn readiness_survives_a_restart_of_the_agent() {
        check(
            "{containerStatuses: [{name: c, image: i, imageID: x, containerID: 'orlop://c0', restartCount: 0, ready: true, started: true}]}",
            &[("c", 0, "running")],
            "current c0 last - next #1 garbage [] started true ready Some(true) back-off None",
        );
    }

    #[test]
    fn a_start_that_was_cut_off_is_made_again_under_its_number() {
        check(
            "{}",
            &[("c", 0, "1"), ("c", 1, "created")],
            "current c0 last - next #1 garbage [] started false ready None back-off None",
        );
    }

    #[test]
    fn old_instances_are_garbage_and_back_off_goes_on() {
        check(
            "{}",
            &[("c", 0, "1"), ("c", 1, "1"), ("c", 2, "1")],
            "current c2 last c1 next #3 garbage [\"c0\"] started false ready None back-off Some(20)",
        );
    }

    #[test]
    fn numbers_do_not_go_back() {
        check(
            "{containerStatuses: [{name: c, image: i, imageID: x, containerID: 'orlop://gone', restartCount: 4, ready: false}]}",
            &[("c", 0, "1")],
            "current c0 last - next #5 garbage [] started false ready None back-off Some(80)",
        );
    }
}
