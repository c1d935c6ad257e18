//! Probes of running containers: one small task per probe and instance.
//!
//! ```text
//! worker ─ keep(desired, observed) ─▶ Probers ─ starts and ends ─▶ prober task ─ Ready | StartupPassed | Unhealthy ─▶ worker
//! ```
//!
//! Not for: what follows from a result (that is the plan), nor for hooks (they share `http` and `target`).

mod grpc;
pub(crate) mod http;
mod run;
pub mod schedule;
pub(crate) mod target;
mod tls;

use std::{collections::HashMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::task::AbortHandle;

use self::schedule::ProbeKind;
use crate::{
    pod::{
        desired::{Desired, Kind},
        observed::{Instance, Life, Observed},
    },
    worker::{Reports, Shared},
};

/// The probe tasks of one pod.
pub(crate) struct Probers {
    shared: Shared,
    reports: Reports,
    running: HashMap<(String, ProbeKind), AbortHandle>,
}

impl Probers {
    pub(crate) fn new(shared: Shared, reports: Reports) -> Probers {
        Probers { shared, reports, running: HashMap::new() }
    }

    /// Starts the probes that should run and ends those that should not. A probe that has made up its mind about an
    /// instance for good stays in the list, so that it is not asked again.
    pub(crate) fn keep(&mut self, desired: &Desired, observed: &Observed, pod_ips: &[IpAddr]) {
        let mut wanted = HashMap::new();
        for (_, container) in desired.containers().filter(|(kind, _)| *kind != Kind::Init) {
            let Some(instance) = observed.container(&container.name).running() else { continue };
            for (probe_kind, probe) in probes(container) {
                if applies(probe_kind, desired, instance) {
                    wanted.insert((instance.id.clone(), probe_kind), (container, probe, instance));
                }
            }
        }
        self.running.retain(|key, task| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for (key, (container, probe, instance)) in wanted {
            // A container that was found running may be known before its pod's address is: then its probes wait, or they
            // would ask nobody for ever.
            if self.running.contains_key(&key) || pod_ips.is_empty() {
                continue;
            }
            let Life::Running { started_at } = instance.life else { continue };
            let job = run::Job {
                shared: self.shared.clone(),
                reports: self.reports.clone(),
                desired: desired.clone(),
                container: container.name.clone(),
                id: instance.id.clone(),
                kind: key.1,
                probe: probe.clone(),
                started_at,
                known: instance.ready.filter(|_| key.1 == ProbeKind::Readiness),
                pod_ip: pod_ips.first().copied(),
            };
            self.running.insert(key, tokio::spawn(job.run()).abort_handle());
        }
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

fn probes(container: &Container) -> impl Iterator<Item = (ProbeKind, &Probe)> {
    let all = [
        (ProbeKind::Startup, &container.startup_probe),
        (ProbeKind::Liveness, &container.liveness_probe),
        (ProbeKind::Readiness, &container.readiness_probe),
    ];
    all.into_iter().filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)))
}

/// Until the startup probe passed the others are silent; a pod on its way out is only asked for readiness.
fn applies(kind: ProbeKind, desired: &Desired, instance: &Instance) -> bool {
    match kind {
        ProbeKind::Startup => !instance.started && !desired.deleting(),
        ProbeKind::Liveness => instance.started && !desired.deleting(),
        ProbeKind::Readiness => instance.started,
    }
}
