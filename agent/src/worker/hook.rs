//! Lifecycle hooks: postStart and preStop by exec, HTTP or sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::{executor::Job, ports::ExecRequest};
use crate::probe::{http, target};

const MAX_OUTPUT: usize = 10 << 10;

/// A hook failed; the text is for the log only, since it may hold secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct HookFailure(String);

/// Runs a hook to its end; it has no time-out of its own.
pub(super) async fn run(
    job: &Job,
    container: &str,
    id: &str,
    handler: &LifecycleHandler,
) -> Result<(), HookFailure> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let request = ExecRequest { command, env: Vec::new(), timeout: None, max_output: MAX_OUTPUT };
        let output = job.shared.ports.runtime.exec(job.desired.uid(), id, request).await;
        return match output {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => Err(HookFailure(format!("exit code {}", output.exit_code))),
            Err(failure) => Err(HookFailure(failure.to_string())),
        };
    }
    if let Some(action) = &handler.http_get {
        let ports = job.desired.container(container).map(|(_, c)| c.ports.clone().unwrap_or_default());
        let target = target::http(action, &ports.unwrap_or_default(), job.pod_ips.first().copied());
        let target = target.map_err(HookFailure)?.of_hook();
        // Any answer counts.
        return http::get(&target).await.map(drop).map_err(|failure| HookFailure(failure.to_string()));
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.try_into().unwrap_or_default())).await;
    }
    Ok(())
}

/// Runs the preStop hook within the grace period, if there is one and there is time for it.
pub(super) async fn pre_stop(job: &Job, container: &str, id: &str, grace: Duration) {
    let lifecycle = job.desired.container(container).and_then(|(_, c)| c.lifecycle.clone());
    let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop) else { return };
    if grace.is_zero() {
        return;
    }
    match tokio::time::timeout(grace, run(job, container, id, &handler)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::info!(pod = job.desired.uid(), container, %error, "preStop hook");
            let text = "PreStopHook failed".to_owned();
            job.shared.tell_about(&job.desired, container, true, "FailedPreStopHook", text);
        }
        Err(_) => {
            tracing::info!(pod = job.desired.uid(), container, "preStop hook outlasted the grace period");
            let text = "PreStopHook failed".to_owned();
            job.shared.tell_about(&job.desired, container, true, "FailedPreStopHook", text);
        }
    }
}
