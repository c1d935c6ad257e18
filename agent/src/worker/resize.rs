//! Other limits for the containers of a running pod: what was granted is written down, then written to the kernel, and
//! the kernel is asked what it has made of it.
//!
//! Asked again, it writes what is not right yet. Not for: which order is safe (`pod::resize`).

use std::{collections::BTreeMap, time::Instant};

use super::{executor::Job, ports::Failure};
use crate::pod::{
    allocation::{Allocation, Granted},
    events::{Event, Resized},
    machine::Resources,
    observed::Observed,
    resize::{self, Limits, Step},
    resources,
};

/// A running container whose limits are looked after.
pub(super) struct Target {
    name: String,
    id: String,
    wanted: Resources,
    granted: Granted,
    changes: bool,
    /// It has a limit of processors that no quota stands for.
    unlimited: bool,
}

/// Containers that run and need no new instance for what they were granted.
pub(super) fn targets(job: &Job, observed: &Observed) -> Vec<Target> {
    let (settings, spec) = (&job.shared.settings, job.desired.spec());
    let running = job.desired.containers().filter_map(|(_, container)| {
        let instance = observed.container(&container.name).running()?;
        let granted = Granted::of(container);
        let before = instance.granted.as_ref();
        if before.is_some_and(|before| resize::restarts(container, before, &granted)) {
            return None;
        }
        let wanted = resources::of_container(settings, spec, container);
        Some(Target {
            name: container.name.clone(),
            id: instance.id.clone(),
            unlimited: wanted.cpu_quota_us.is_none() && granted.amounts("cpu")[1].is_some(),
            wanted,
            changes: before != Some(&granted),
            granted,
        })
    });
    running.collect()
}

/// The one action behind `Action::Resize`.
pub(super) async fn resize(job: &Job, targets: Vec<Target>, before: Option<Allocation>) -> Event {
    let allocation = Allocation::of(job.desired.spec());
    let begun = Instant::now();
    let result = carry_out(job, &targets, before.as_ref(), &allocation).await.map_err(|failure| failure.0);
    let success = if result.is_ok() { "true" } else { "false" };
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    job.shared.metrics.resize_duration.with_label_values(&[success]).observe(took);
    let mut seen = BTreeMap::new();
    for target in &targets {
        if let Ok(mut limits) = job.shared.ports.runtime.limits(job.desired.uid(), Some(&target.id)).await {
            // Where the operator wants no quotas that there is none says nothing of the limit.
            limits.cpu_quota_us = limits.cpu_quota_us.filter(|quota| *quota >= 0 || !target.unlimited);
            seen.insert(target.id.clone(), limits);
        }
    }
    if result.is_ok() && before.is_some_and(|before| before != allocation) {
        let text = format!("Pod resize completed: {}", summary(job));
        job.shared.tell(&job.desired, false, "ResizeCompleted", text);
    }
    let granted = targets.into_iter().map(|target| (target.id, target.granted)).collect();
    Event::Resized(Box::new(Resized { allocation, granted, seen, result }))
}

async fn carry_out(
    job: &Job,
    targets: &[Target],
    before: Option<&Allocation>,
    allocation: &Allocation,
) -> Result<(), Failure> {
    let (runtime, uid) = (&job.shared.ports.runtime, job.desired.uid());
    if before != Some(allocation) {
        runtime.label_sandbox(uid, BTreeMap::from([allocation.to_label()])).await?;
    }
    let wanted = resources::of_pod(&job.shared.settings, job.desired.spec());
    let pod = Limits { now: runtime.limits(uid, None).await?, wanted };
    let mut containers = Vec::new();
    for target in targets {
        let now = runtime.limits(uid, Some(&target.id)).await?;
        containers.push(Limits { now, wanted: target.wanted.clone() });
    }
    let mut used = Vec::new();
    for (target, limits) in targets.iter().zip(&containers) {
        let memory = runtime.memory_usage(uid, Some(&target.id)).await.ok();
        used.push((target.name.as_str(), limits, memory));
    }
    let of_pod = runtime.memory_usage(uid, None).await.ok();
    if let Some(text) = resize::too_low((&pod, of_pod), &used) {
        return Err(Failure(text));
    }
    for Step { container, limits } in resize::steps(&pod, &containers) {
        match container.and_then(|at| targets.get(at)) {
            None => runtime.update_pod(uid, &limits).await?,
            Some(target) => runtime.update_container(uid, &target.id, &limits, BTreeMap::new()).await?,
        }
    }
    for target in targets.iter().filter(|target| target.changes) {
        let label = BTreeMap::from([target.granted.to_label()]);
        runtime.update_container(uid, &target.id, &Resources::default(), label).await?;
    }
    Ok(())
}

/// As upstream words it for tools: what each container has now.
fn summary(job: &Job) -> String {
    let containers = |list: &[k8s_openapi::api::core::v1::Container]| -> Vec<_> {
        let one = |c: &k8s_openapi::api::core::v1::Container| serde_json::json!({ "name": c.name, "resources": c.resources });
        list.iter().map(one).collect()
    };
    let spec = job.desired.spec();
    let mut summary = serde_json::json!({ "containers": containers(&spec.containers) });
    if let Some(init) = spec.init_containers.as_deref().filter(|init| !init.is_empty()) {
        summary["initContainers"] = containers(init).into();
    }
    if let Some(generation) = job.desired.pod.metadata.generation {
        summary["generation"] = generation.into();
    }
    summary.to_string()
}
