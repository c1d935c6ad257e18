//! Other limits for what runs already, and what the kernel says they are.
//!
//! The kernel is told first, the record second: after a crash in between, the same change is simply made again.
//! Not for: deciding whether there is room, or in which order pod and containers go (the caller knows which grow).

use std::{collections::BTreeMap, io, path::PathBuf};

use crate::{
    api::Resources,
    bundle,
    client::{Runtime, blocking},
    errors::UpdateError,
    records::{self, ContainerRecord, SandboxRecord},
    rlimits::Rlimit,
};

impl Runtime {
    /// Changes limits of a container that was started, and adds to its labels. What is `None` or empty stays as it is;
    /// `oom_score_adj` belongs to processes and is not changed.
    pub async fn update_container(
        &self,
        uid: &str,
        id: &str,
        resources: &Resources,
        labels: BTreeMap<String, String>,
    ) -> Result<(), UpdateError> {
        let (runtime, uid, id, wanted) = (self.clone(), uid.to_owned(), id.to_owned(), resources.clone());
        blocking(move || {
            let (pod, mut record) = runtime.both(&uid, &id)?;
            runtime.0.hierarchies.update_container(&format!("{}/{id}", pod.spec.cgroup), &wanted)?;
            merge(&mut record.resources, wanted);
            record.labels.extend(labels);
            let path = runtime.0.layout.container(&uid, &id).join(bundle::RECORD);
            records::write_json(&path, &record).map_err(|source| UpdateError::Files { path, source })
        })
        .await
    }

    /// Changes limits of a pod as a whole. A container never gets more than its pod: grow this first, shrink it last.
    pub async fn update_pod(&self, uid: &str, resources: &Resources) -> Result<(), UpdateError> {
        let (runtime, uid, wanted) = (self.clone(), uid.to_owned(), resources.clone());
        blocking(move || {
            let mut record = runtime.sandbox_record(&uid)?;
            runtime.0.hierarchies.update_pod(&record.spec.cgroup, &wanted)?;
            merge(&mut record.spec.resources, wanted);
            runtime.write_sandbox(&uid, &record)
        })
        .await
    }

    /// Makes a cgroup above those of pods, and limits it; fine if it is there. What the machine cannot limit is left out.
    pub async fn limit_group(&self, path: &str, resources: &Resources) -> Result<(), UpdateError> {
        let (runtime, path, wanted) = (self.clone(), path.to_owned(), resources.clone());
        blocking(move || Ok(runtime.0.hierarchies.create(&path, &wanted)?)).await
    }

    /// Controllers that this machine does not have: limits of what they control do not hold.
    pub fn missing_controllers(&self) -> Vec<&'static str> {
        let hierarchies = &self.0.hierarchies;
        ["cpu", "memory", "pids", "cpuset"]
            .into_iter()
            .filter(|controller| hierarchies.root_of(controller).is_none())
            .collect()
    }

    /// Lower scores that containers ask for become this one: the kernel refuses them to this process.
    pub fn lowest_oom_score_adj(&self) -> i32 {
        self.0.limits.oom_floor
    }

    /// The configured resource limits that this process may not give: their hard value is above our own.
    pub fn clamped_rlimits(&self) -> Vec<Rlimit> {
        if self.0.limits.capabilities.has("SYS_RESOURCE") {
            return Vec::new();
        }
        let refused = |limit: &&Rlimit| {
            orlop_shim::sys::rlimit(limit.resource).is_ok_and(|[_, hard]| limit.hard > hard)
        };
        self.0.config.rlimits.iter().filter(refused).copied().collect()
    }

    /// Adds to a sandbox's labels, or replaces some; they are on disk when this returns.
    pub async fn label_sandbox(
        &self,
        uid: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(), UpdateError> {
        let (runtime, uid) = (self.clone(), uid.to_owned());
        blocking(move || {
            let mut record = runtime.sandbox_record(&uid)?;
            record.spec.labels.extend(labels);
            runtime.write_sandbox(&uid, &record)
        })
        .await
    }

    /// What a container is limited to, as the kernel says it: processor, memory, tasks. No limit is −1.
    pub async fn container_limits(&self, uid: &str, id: &str) -> Result<Resources, UpdateError> {
        let (runtime, uid, id) = (self.clone(), uid.to_owned(), id.to_owned());
        blocking(move || {
            let (pod, record) = runtime.both(&uid, &id)?;
            let path = format!("{}/{id}", pod.spec.cgroup);
            Ok(runtime.0.hierarchies.container_limits(&path, &record.resources))
        })
        .await
    }

    /// The same of a pod as a whole.
    pub async fn pod_limits(&self, uid: &str) -> Result<Resources, UpdateError> {
        let (runtime, uid) = (self.clone(), uid.to_owned());
        blocking(move || {
            let spec = runtime.sandbox_record(&uid)?.spec;
            Ok(runtime.0.hierarchies.pod_limits(&spec.cgroup, &spec.resources))
        })
        .await
    }

    fn both(&self, uid: &str, id: &str) -> Result<(SandboxRecord, ContainerRecord), UpdateError> {
        let pod = self.sandbox_record(uid)?;
        let failed = |source| UpdateError::Files { path: self.0.layout.container(uid, id), source };
        let record = self.0.layout.record(uid, id).map_err(failed)?;
        Ok((pod, record.ok_or_else(|| UpdateError::Unknown(id.to_owned()))?))
    }

    fn sandbox_record(&self, uid: &str) -> Result<SandboxRecord, UpdateError> {
        let failed = |source: io::Error| UpdateError::Files { path: self.sandbox_path(uid), source };
        let record = self.0.layout.sandbox(uid).map_err(failed)?;
        record.ok_or_else(|| UpdateError::Unknown(uid.to_owned()))
    }

    fn write_sandbox(&self, uid: &str, record: &SandboxRecord) -> Result<(), UpdateError> {
        let path = self.sandbox_path(uid);
        records::write_json(&path, record).map_err(|source| UpdateError::Files { path, source })
    }

    fn sandbox_path(&self, uid: &str) -> PathBuf {
        self.0.layout.pod(uid).join(bundle::SANDBOX)
    }
}

fn merge(known: &mut Resources, wanted: Resources) {
    let Resources {
        cpu_shares,
        cpu_quota_us,
        cpu_period_us,
        memory_limit,
        memory_swap,
        pids_limit,
        hugepages,
        cpuset_cpus,
        cpuset_mems,
        unified,
        oom_score_adj: _,
    } = wanted;
    known.cpu_shares = cpu_shares.or(known.cpu_shares);
    known.cpu_quota_us = cpu_quota_us.or(known.cpu_quota_us);
    known.cpu_period_us = cpu_period_us.or(known.cpu_period_us);
    known.memory_limit = memory_limit.or(known.memory_limit);
    known.memory_swap = memory_swap.or(known.memory_swap);
    known.pids_limit = pids_limit.or(known.pids_limit);
    known.hugepages.extend(hugepages);
    known.cpuset_cpus = cpuset_cpus.or(known.cpuset_cpus.take());
    known.cpuset_mems = cpuset_mems.or(known.cpuset_mems.take());
    known.unified.extend(unified);
}
