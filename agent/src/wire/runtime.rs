//! [`ports::Runtime`] over [`orlop_runtime::Runtime`].

use std::{collections::BTreeMap, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use orlop_runtime::{ExecError, NotRun, Runtime, StartError};
use prometheus::{HistogramVec, IntCounterVec, Registry, core::Collector};
use tokio::time::Instant;

use super::chain;
use crate::{
    metrics::{common_buckets, counters, histograms, register},
    worker::ports::{
        self, Container, ContainerSpec, ExecFailure, ExecOutput, ExecRequest, Failure, Resources, Sandbox,
        SandboxSpec, StartFailure,
    },
};

/// The containers of this machine, and how often and how long they were worked on.
#[derive(Clone)]
pub struct Containers {
    runtime: Runtime,
    operations: IntCounterVec,
    errors: IntCounterVec,
    durations: HistogramVec,
}

impl Containers {
    /// Operations are counted in the registry.
    #[must_use]
    pub fn new(runtime: Runtime, registry: &Registry) -> Containers {
        let labels = &["operation_type"];
        let operations = counters(
            "kubelet_runtime_operations_total",
            "Cumulative number of runtime operations by operation type.",
            labels,
        );
        let errors = counters(
            "kubelet_runtime_operations_errors_total",
            "Cumulative number of runtime operation errors by operation type.",
            labels,
        );
        let durations = histograms(
            "kubelet_runtime_operations_duration_seconds",
            "Duration in seconds of runtime operations. Broken down by operation type.",
            labels,
            common_buckets(),
        );
        let all: [Box<dyn Collector>; 3] =
            [Box::new(operations.clone()), Box::new(errors.clone()), Box::new(durations.clone())];
        register(registry, all);
        Containers { runtime, operations, errors, durations }
    }

    /// Does and counts it.
    async fn counted<T, E>(&self, operation: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let began = Instant::now();
        let done = work.await;
        let labels = &[operation];
        self.operations.with_label_values(labels).inc();
        self.durations.with_label_values(labels).observe(began.elapsed().as_secs_f64());
        if done.is_err() {
            self.errors.with_label_values(labels).inc();
        }
        done
    }
}

fn failure(error: impl std::error::Error) -> Failure {
    Failure(chain(&error))
}

fn start_failure(error: &StartError) -> StartFailure {
    let text = chain(error);
    match error {
        StartError::Spec(_) => StartFailure::Config(text),
        StartError::NotFound(NotRun { user, .. })
        | StartError::NotExecutable(NotRun { user, .. })
        | StartError::Start(NotRun { user, .. }) => StartFailure::Run { text, user: user.clone() },
        _ => StartFailure::Create(text),
    }
}

impl ports::Runtime for Containers {
    fn pods(&self) -> BoxFuture<'_, Vec<Sandbox>> {
        self.runtime.pods().boxed()
    }

    fn create_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox, Failure>> {
        let made = self.counted("run_podsandbox", self.runtime.create_sandbox(spec));
        made.map(|made| made.map_err(failure)).boxed()
    }

    fn remove_sandbox<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        let removed = self.counted("remove_podsandbox", self.runtime.remove_sandbox(uid));
        removed.map(|removed| removed.map_err(failure)).boxed()
    }

    fn start_container<'a>(
        &'a self,
        uid: &'a str,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<Container, StartFailure>> {
        let started = self.counted("start_container", self.runtime.start_container(uid, spec));
        started.map(|started| started.map_err(|error| start_failure(&error))).boxed()
    }

    fn stop_container<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        signal: Option<&'a str>,
        grace: Duration,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let stopped = self.counted("stop_container", self.runtime.stop_container(uid, id, signal, grace));
        stopped.map(|stopped| stopped.map_err(failure)).boxed()
    }

    fn remove_container<'a>(&'a self, uid: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        let removed = self.counted("remove_container", self.runtime.remove_container(uid, id));
        removed.map(|removed| removed.map_err(failure)).boxed()
    }

    fn limits<'a>(&'a self, uid: &'a str, id: Option<&'a str>) -> BoxFuture<'a, Result<Resources, Failure>> {
        async move {
            let limits = match id {
                Some(id) => self.runtime.container_limits(uid, id).await,
                None => self.runtime.pod_limits(uid).await,
            };
            limits.map_err(failure)
        }
        .boxed()
    }

    fn memory_usage<'a>(&'a self, uid: &'a str, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, Failure>> {
        async move {
            let stats = match id {
                Some(id) => self.runtime.container_stats(uid, id).await,
                None => self.runtime.pod_stats(uid).await,
            };
            stats.map(|stats| stats.memory_usage).map_err(failure)
        }
        .boxed()
    }

    fn update_container<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        limits: &'a Resources,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let updated = self.runtime.update_container(uid, id, limits, labels);
        self.counted("update_container", updated).map(|updated| updated.map_err(failure)).boxed()
    }

    fn update_pod<'a>(&'a self, uid: &'a str, limits: &'a Resources) -> BoxFuture<'a, Result<(), Failure>> {
        self.runtime.update_pod(uid, limits).map(|updated| updated.map_err(failure)).boxed()
    }

    fn label_sandbox<'a>(
        &'a self,
        uid: &'a str,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.runtime.label_sandbox(uid, labels).map(|labelled| labelled.map_err(failure)).boxed()
    }

    fn exec<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        request: ExecRequest,
    ) -> BoxFuture<'a, Result<ExecOutput, ExecFailure>> {
        let run = self.counted("exec_sync", self.runtime.exec(uid, id, request));
        run.map(|ended| {
            ended.map_err(|error| match error {
                ExecError::Timeout(output) => ExecFailure::TimedOut { output },
                other => ExecFailure::NotRun(chain(&other)),
            })
        })
        .boxed()
    }
}
