//! The task of one probe of one instance.

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerPort, Probe};

use super::{
    grpc,
    http::{self, HttpFailure},
    schedule::{Outcome, ProbeKind, Rules, Tally},
    target,
};
use crate::{
    pod::{desired::Desired, events::Event, observed::Unhealthy},
    worker::{
        Reports, Shared,
        metrics::Metrics,
        ports::{ExecFailure, ExecRequest},
    },
};

const MAX_OUTPUT: usize = 10 << 10;
const TRIES: usize = 3;

/// Everything a probe needs; owned, because it outlives the moment it was planned in.
pub(super) struct Job {
    pub(super) shared: Shared,
    pub(super) reports: Reports,
    pub(super) desired: Desired,
    pub(super) container: String,
    pub(super) id: String,
    pub(super) kind: ProbeKind,
    pub(super) probe: Probe,
    pub(super) started_at: Timestamp,
    pub(super) known: Option<bool>,
    pub(super) pod_ip: Option<IpAddr>,
}

impl Job {
    pub(super) async fn run(self) {
        let rules = Rules::of(&self.probe);
        let series = Series::new(&self);
        let mut tally = Tally::new(self.kind, rules, self.known);
        let first = self.started_at.checked_add(tally.first_after()).unwrap_or(self.started_at);
        let wait = first.duration_since(self.shared.ports.clock.now()).try_into().unwrap_or_default();
        // The container may have started in a future that the clock was set back from.
        tokio::time::sleep(tally.first_after().min(wait)).await;
        loop {
            let began = tokio::time::Instant::now();
            let outcome = self.attempt(&rules).await;
            series.count(&outcome, began.elapsed());
            let verdict = tally.take(&outcome);
            if verdict.counts {
                self.tell(&outcome);
            }
            if let Some(passed) = verdict.change {
                self.report(passed);
            }
            let Some(next) = verdict.next else { return };
            tokio::time::sleep(next).await;
        }
    }

    fn report(&self, passed: bool) {
        let id = self.id.clone();
        let event = match (self.kind, passed) {
            (ProbeKind::Readiness, ready) => Event::Ready { id, ready },
            (ProbeKind::Startup, true) => Event::StartupPassed { id },
            (ProbeKind::Startup, false) => Event::Unhealthy { id, why: Unhealthy::Startup },
            (ProbeKind::Liveness, false) => Event::Unhealthy { id, why: Unhealthy::Liveness },
            (ProbeKind::Liveness, true) => return,
        };
        self.reports.send(event);
    }

    fn tell(&self, outcome: &Outcome) {
        let kind = self.kind.as_str();
        let (reason, text) = match outcome {
            Outcome::Passed => return,
            Outcome::Warned(text) => ("ProbeWarning", format!("{kind} probe warning: {text}")),
            Outcome::Failed(text) => ("Unhealthy", format!("{kind} probe failed: {text}")),
            Outcome::Unknown(text) => {
                ("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {text}"))
            }
        };
        self.shared.tell_about(&self.desired, &self.container, true, reason, text);
    }

    /// A probe that could not be run is tried again at once; a failed check is not.
    async fn attempt(&self, rules: &Rules) -> Outcome {
        let mut outcome = self.once(rules.timeout).await;
        for _ in 1..TRIES {
            if !matches!(outcome, Outcome::Unknown(_)) {
                break;
            }
            outcome = self.once(rules.timeout).await;
        }
        outcome
    }

    async fn once(&self, timeout: Duration) -> Outcome {
        let ports = self.ports();
        if let Some(action) = &self.probe.exec {
            return self.exec(action.command.clone().unwrap_or_default(), timeout).await;
        }
        if let Some(action) = &self.probe.http_get {
            let target = match target::http(action, &ports, self.pod_ip) {
                Ok(target) => target,
                Err(error) => return Outcome::Unknown(error),
            };
            let got = tokio::time::timeout(timeout, http::get(&target)).await;
            return match got.unwrap_or_else(|_| Err(HttpFailure::timed_out(&target))) {
                Ok(answer) if answer.stopped => {
                    Outcome::Warned(format!("Probe terminated redirects, Response body: {}", answer.body))
                }
                Ok(answer) if (200..400).contains(&answer.status) => Outcome::Passed,
                Ok(answer) => {
                    Outcome::Failed(format!("HTTP probe failed with statuscode: {}", answer.status))
                }
                Err(failure) => Outcome::Failed(failure.to_string()),
            };
        }
        if let Some(action) = &self.probe.tcp_socket {
            let (host, port) = match target::tcp(action, &ports, self.pod_ip) {
                Ok(place) => place,
                Err(error) => return Outcome::Unknown(error),
            };
            return match tokio::time::timeout(timeout, http::connect(&host, port)).await {
                Ok(Ok(_)) => Outcome::Passed,
                Ok(Err(error)) => Outcome::Failed(error),
                Err(_) => Outcome::Failed(format!("dial tcp {host}:{port}: i/o timeout")),
            };
        }
        if let Some(action) = &self.probe.grpc {
            let Some(ip) = self.pod_ip else { return Outcome::Unknown("the pod has no address".into()) };
            let Ok(port) = u16::try_from(action.port) else {
                return Outcome::Unknown(format!("invalid port number: {}", action.port));
            };
            let service = action.service.as_deref().unwrap_or_default();
            return match grpc::check(&ip.to_string(), port, service, timeout).await {
                Ok(()) => Outcome::Passed,
                Err(error) => Outcome::Failed(error),
            };
        }
        Outcome::Unknown("missing probe handler".into())
    }

    async fn exec(&self, command: Vec<String>, timeout: Duration) -> Outcome {
        let words = command.join(" ");
        let request =
            ExecRequest { command, env: Vec::new(), timeout: Some(timeout), max_output: MAX_OUTPUT };
        match self.shared.ports.runtime.exec(self.desired.uid(), &self.id, request).await {
            Ok(output) if output.exit_code == 0 => Outcome::Passed,
            Ok(output) => Outcome::Failed(String::from_utf8_lossy(&output.output).into_owned()),
            Err(ExecFailure::TimedOut { .. }) => {
                let after = crate::pod::words::go_duration(timeout);
                Outcome::Failed(format!("command timed out: \"{words}\" timed out after {after}"))
            }
            Err(ExecFailure::NotRun(error)) => Outcome::Unknown(error),
        }
    }

    fn ports(&self) -> Vec<ContainerPort> {
        let container = self.desired.container(&self.container);
        container.and_then(|(_, container)| container.ports.clone()).unwrap_or_default()
    }
}

/// The metrics of this probe. They go with it: a node that runs for years has had many containers.
struct Series {
    metrics: Metrics,
    /// Type of probe, container, pod, namespace, UID.
    labels: [String; 5],
}

impl Series {
    fn new(job: &Job) -> Series {
        let pod = job.desired.pod_ref();
        let kind = job.kind.as_str().to_owned();
        Series {
            metrics: job.shared.metrics.clone(),
            labels: [kind, job.container.clone(), pod.name, pod.namespace, pod.uid],
        }
    }

    fn of_result<'a>(&'a self, result: &'a str) -> [&'a str; 6] {
        let [kind, container, pod, namespace, uid] = &self.labels;
        [kind, result, container, pod, namespace, uid]
    }

    fn of_all(&self) -> [&str; 4] {
        let [kind, container, pod, namespace, _] = &self.labels;
        [kind, container, pod, namespace]
    }

    fn count(&self, outcome: &Outcome, took: Duration) {
        let result = match outcome {
            Outcome::Passed | Outcome::Warned(_) => "successful",
            Outcome::Failed(_) => "failed",
            Outcome::Unknown(_) => "unknown",
        };
        self.metrics.probes.with_label_values(&self.of_result(result)).inc();
        self.metrics.probe_duration.with_label_values(&self.of_all()).observe(took.as_secs_f64());
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        // Those that were never counted are not there.
        for result in ["successful", "failed", "unknown"] {
            drop(self.metrics.probes.remove_label_values(&self.of_result(result)));
        }
        drop(self.metrics.probe_duration.remove_label_values(&self.of_all()));
    }
}
