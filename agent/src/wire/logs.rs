//! [`LogSource`] over the log files on disk: they outlive containers and sandboxes, until the pod goes.
//!
//! Which instance is meant, and what a container without a log waits for, comes from the pod's status.

use std::path::{Path, PathBuf};

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::{ContainerState as ApiState, ContainerStateWaiting, ContainerStatus, Pod};
use kube::{Api, Client};
use orlop_model::names::is_dns1123_label;
use orlop_runtime::{ContainerState, Runtime, container_id};

use crate::{
    mirror::plan,
    server::{LogFile, LogSource},
};

/// Logs of the containers on this machine.
pub struct ContainerLogs {
    /// Who still writes.
    pub runtime: Runtime,
    /// For the status of pods.
    pub client: Client,
    /// `<log_dir>/<namespace>_<name>_<uid>/<container>/<attempt>.log`.
    pub log_dir: PathBuf,
}

impl ContainerLogs {
    async fn locate(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<LogFile, String> {
        // It becomes a part of a path.
        is_dns1123_label(container)?;
        let found = Api::<Pod>::namespaced(self.client.clone(), namespace).get_opt(pod).await;
        let found =
            found.map_err(|error| super::chain(&error))?.ok_or_else(|| format!("pods {pod:?} not found"))?;
        // What shows a static pod has another UID than what runs.
        let uid = plan::shows(&found).or(found.metadata.uid.as_deref()).unwrap_or_default().to_owned();
        let state = status_of(&found, container).and_then(|status| status.state.clone());
        let state = state.unwrap_or_else(|| not_told_yet(&found));
        let dir = self.log_dir.join(format!("{namespace}_{pod}_{uid}")).join(container);
        match instance(&attempts(&dir), previous, &state) {
            Some(attempt) => {
                let path = dir.join(format!("{attempt}.log"));
                Ok(LogFile { path, container: (uid.clone(), container_id(&uid, container, attempt)) })
            }
            None => Err(excuse(pod, container, previous, &state)),
        }
    }
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

/// What a pod that nothing was said about yet waits for.
fn not_told_yet(pod: &Pod) -> ApiState {
    let initialized = pod.spec.as_ref().is_some_and(|spec| spec.init_containers.is_some());
    let reason = if initialized { "PodInitializing" } else { "ContainerCreating" };
    let waiting =
        ContainerStateWaiting { reason: Some(reason.to_owned()), ..ContainerStateWaiting::default() };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

/// The instances that have a log, by restart count.
fn attempts(dir: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut attempts: Vec<u32> = names.filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
    attempts.sort_unstable();
    attempts
}

/// The instance that is meant. While one waits to be restarted, the newest is the previous one.
fn instance(attempts: &[u32], previous: bool, state: &ApiState) -> Option<u32> {
    let newest = *attempts.last()?;
    if !previous || state.waiting.is_some() {
        return Some(newest);
    }
    attempts.iter().rev().nth(1).copied()
}

/// Why there is no log, in the kubelet's words.
fn excuse(pod: &str, container: &str, previous: bool, state: &ApiState) -> String {
    if previous {
        return format!("previous terminated container {container:?} in pod {pod:?} not found");
    }
    let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
    let why = match waiting {
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(reason) => reason,
        None => return format!("container {container:?} in pod {pod:?} is not available"),
    };
    format!("container {container:?} in pod {pod:?} is waiting to start: {why}")
}

impl LogSource for ContainerLogs {
    fn find<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        container: &'a str,
        previous: bool,
    ) -> BoxFuture<'a, Result<LogFile, String>> {
        self.locate(namespace, pod, container, previous).boxed()
    }

    fn running<'a>(&'a self, file: &'a LogFile) -> BoxFuture<'a, bool> {
        async move {
            let (uid, id) = &file.container;
            let container = self.runtime.container(uid, id).await;
            container.is_some_and(|container| matches!(container.state, ContainerState::Running { .. }))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(reason: &str) -> ApiState {
        let waiting =
            ContainerStateWaiting { reason: Some(reason.to_owned()), ..ContainerStateWaiting::default() };
        ApiState { waiting: Some(waiting), ..ApiState::default() }
    }

    #[test]
    fn previous_is_the_last_that_ended() {
        let running = ApiState::default();
        assert_eq!(instance(&[], false, &running), None);
        assert_eq!(instance(&[0, 1], false, &running), Some(1));
        assert_eq!(instance(&[0, 1], true, &running), Some(0));
        assert_eq!(instance(&[0], true, &running), None);
        assert_eq!(instance(&[0, 1], true, &waiting("CrashLoopBackOff")), Some(1));
    }

    #[test]
    fn a_container_that_waits_says_for_what() {
        let said = excuse("p", "c", false, &waiting("ImagePullBackOff"));
        assert_eq!(
            said,
            "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"
        );
    }
}
