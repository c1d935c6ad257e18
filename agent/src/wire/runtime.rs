//! [`ports::Runtime`] over [`orlop_runtime::Runtime`].

use std::{collections::BTreeMap, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use orlop_runtime::{ExecError, NotRun, Runtime, StartError};

use super::chain;
use crate::worker::ports::{
    self, Container, ContainerSpec, ExecFailure, ExecOutput, ExecRequest, Failure, Resources, Sandbox,
    SandboxSpec, StartFailure,
};

/// The containers of this machine.
#[derive(Clone)]
pub struct Containers(pub Runtime);

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
        self.0.pods().boxed()
    }

    fn create_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox, Failure>> {
        self.0.create_sandbox(spec).map(|made| made.map_err(failure)).boxed()
    }

    fn remove_sandbox<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        self.0.remove_sandbox(uid).map(|removed| removed.map_err(failure)).boxed()
    }

    fn start_container<'a>(
        &'a self,
        uid: &'a str,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<Container, StartFailure>> {
        self.0
            .start_container(uid, spec)
            .map(|started| started.map_err(|error| start_failure(&error)))
            .boxed()
    }

    fn stop_container<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        signal: Option<&'a str>,
        grace: Duration,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.0.stop_container(uid, id, signal, grace).map(|stopped| stopped.map_err(failure)).boxed()
    }

    fn remove_container<'a>(&'a self, uid: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        self.0.remove_container(uid, id).map(|removed| removed.map_err(failure)).boxed()
    }

    fn limits<'a>(&'a self, uid: &'a str, id: Option<&'a str>) -> BoxFuture<'a, Result<Resources, Failure>> {
        async move {
            let limits = match id {
                Some(id) => self.0.container_limits(uid, id).await,
                None => self.0.pod_limits(uid).await,
            };
            limits.map_err(failure)
        }
        .boxed()
    }

    fn memory_usage<'a>(&'a self, uid: &'a str, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, Failure>> {
        async move {
            let stats = match id {
                Some(id) => self.0.container_stats(uid, id).await,
                None => self.0.pod_stats(uid).await,
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
        self.0.update_container(uid, id, limits, labels).map(|updated| updated.map_err(failure)).boxed()
    }

    fn update_pod<'a>(&'a self, uid: &'a str, limits: &'a Resources) -> BoxFuture<'a, Result<(), Failure>> {
        self.0.update_pod(uid, limits).map(|updated| updated.map_err(failure)).boxed()
    }

    fn label_sandbox<'a>(
        &'a self,
        uid: &'a str,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.0.label_sandbox(uid, labels).map(|labelled| labelled.map_err(failure)).boxed()
    }

    fn exec<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        request: ExecRequest,
    ) -> BoxFuture<'a, Result<ExecOutput, ExecFailure>> {
        let run = self.0.exec(uid, id, request);
        run.map(|ended| {
            ended.map_err(|error| match error {
                ExecError::Timeout(output) => ExecFailure::TimedOut { output },
                other => ExecFailure::NotRun(chain(&other)),
            })
        })
        .boxed()
    }
}
