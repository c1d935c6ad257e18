//! Writes down what happens to a pod: the trace of its start and what is counted of all pods together. Decides nothing.

use jiff::Timestamp;

use super::{
    Shared,
    metrics::{Metrics, container_type},
};
use crate::pod::{
    desired::{Desired, Kind},
    events::Event,
    observed::Observed,
    plan::Action,
};

/// The recorder of one pod.
pub(super) struct Record {
    shared: Shared,
    /// When the sandbox that has no network yet was begun.
    sandbox_began: Option<Timestamp>,
}

impl Record {
    pub(super) fn new(shared: Shared) -> Record {
        Record { shared, sandbox_began: None }
    }

    /// An action begins.
    pub(super) fn action(&mut self, action: &Action, desired: &Desired, now: Timestamp) {
        self.shared.traces.with(desired.uid(), |trace| trace.started(action, now));
        if matches!(action, Action::CreateSandbox) {
            self.sandbox_began = Some(now);
        }
    }

    /// Something happened, which `observed` does not know yet.
    pub(super) fn event(&mut self, event: &Event, desired: &Desired, observed: &Observed, now: Timestamp) {
        self.trace(event, desired, observed, now);
        let metrics = &self.shared.metrics;
        match event {
            Event::SandboxCreated(made) => {
                metrics.started_pods.inc();
                match made {
                    Ok(_) if desired.host_network() => self.sandbox_ready(now),
                    Ok(_) => {}
                    Err(_) => sandbox_failed(metrics),
                }
            }
            Event::NetworkAttached(Ok(_)) => self.sandbox_ready(now),
            Event::NetworkAttached(Err(_)) => sandbox_failed(metrics),
            Event::ContainerStarted { container, .. } => self.start(desired, container, None),
            Event::StartFailed { container, reason, .. } => self.start(desired, container, Some(reason)),
            Event::ImageEnsured { container, result: Err(trouble) } => {
                self.start(desired, container, Some(trouble.reason));
            }
            _ => {}
        }
    }

    fn trace(&self, event: &Event, desired: &Desired, observed: &Observed, now: Timestamp) {
        let passed = match event {
            Event::Ready { id, ready: true } => Some((id, false)),
            Event::StartupPassed { id } => Some((id, true)),
            _ => None,
        };
        let all_started = self.shared.traces.with(desired.uid(), |trace| {
            if let Some((id, startup)) = passed
                && let Some(container) = observed.name_of(id)
            {
                trace.passed(desired, container, startup, now);
            }
            trace.event(desired, event, now).then_some(trace.seen)
        });
        if let Some(seen) = all_started.flatten() {
            self.shared.metrics.pod_start.observe(now.duration_since(seen).as_secs_f64());
        }
    }

    fn sandbox_ready(&mut self, now: Timestamp) {
        if let Some(began) = self.sandbox_began.take() {
            let took = now.duration_since(began).as_secs_f64();
            self.shared.metrics.sandbox_duration.with_label_values(&[""]).observe(took);
        }
    }

    fn start(&self, desired: &Desired, container: &str, failed: Option<&str>) {
        let kind = container_type(desired.container(container).map_or(Kind::Regular, |(kind, _)| kind));
        let metrics = &self.shared.metrics;
        metrics.started_containers.with_label_values(&[kind]).inc();
        if let Some(reason) = failed {
            metrics.started_containers_errors.with_label_values(&[reason, kind]).inc();
        }
    }
}

fn sandbox_failed(metrics: &Metrics) {
    metrics.started_pods_errors.inc();
    metrics.sandbox_errors.with_label_values(&[""]).inc();
}
