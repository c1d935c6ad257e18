//! Carries out actions, each in a task of its own, and reports how they ended.
//!
//! Idempotent all the way down: an action that was cut off by the end of the agent is simply planned again. Tasks end
//! with the worker. Not for: retries (the plan decides when to try again), except where an end must be insisted on.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{
    Reports, Shared, hook, image,
    ports::{Failure, VolumeFailure},
    resize, start,
};
use crate::pod::{
    allocation::Allocation,
    container,
    desired::Desired,
    ephemeral,
    events::Event,
    names,
    observed::{ImageState, Images, Observed, Volumes},
    plan::Action,
};

/// What an action may need to know; a snapshot, so that the worker goes on meanwhile.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) shared: Shared,
    pub(super) desired: Desired,
    pub(super) reports: Reports,
    pub(super) pod_ips: Vec<IpAddr>,
}

/// Runs the actions of one pod.
pub(super) struct Executor {
    shared: Shared,
    reports: Reports,
    tasks: JoinSet<()>,
}

/// No container is given less than this between its signal and SIGKILL.
const LEAST_GRACE: Duration = Duration::from_secs(2);

impl Executor {
    pub(super) fn new(shared: Shared, reports: Reports) -> Executor {
        Executor { shared, reports, tasks: JoinSet::new() }
    }

    /// Runs a future of the worker's own beside the actions.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits for the end of any task; false if it died instead of reporting. Never ends while there is none.
    pub(super) async fn one_ended(&mut self) -> bool {
        match self.tasks.join_next().await {
            Some(ended) => ended.is_ok(),
            None => std::future::pending().await,
        }
    }

    /// Starts one action.
    pub(super) fn start(&mut self, action: Action, desired: &Desired, observed: &Observed) {
        let job = Job {
            shared: self.shared.clone(),
            desired: desired.clone(),
            reports: self.reports.clone(),
            pod_ips: pod_ips(&self.shared, desired, observed),
        };
        match action {
            Action::MakeVolumes => self.report(async move { job.make_volumes().await }),
            Action::Resize => {
                let (targets, before) = (resize::targets(&job, observed), observed.granted.clone());
                self.report(async move { resize::resize(&job, targets, before).await });
            }
            Action::CreateSandbox => self.report(async move { job.create_sandbox().await }),
            Action::AttachNetwork => {
                let netns = observed.sandbox.done().cloned().flatten();
                self.report(async move { job.attach(netns).await });
            }
            Action::EnsureImage { container, image } => {
                self.report(async move { image::ensure(&job, container, &image).await });
            }
            Action::StartContainer { container, attempt } => {
                let (ready, volumes) = (ready_images(observed, &container), volumes(observed));
                let (Some(images), Some(volumes)) = (ready, volumes) else { return };
                job.tell_present(&container, &images);
                let target = ephemeral::process_target(desired, observed, &container);
                self.spawn(async move {
                    start::start(&job, &container, attempt, &images, &volumes, target).await;
                });
            }
            Action::StopContainer { container, id, grace, why, hook, .. } => {
                let signal =
                    observed.container(&container).current.as_ref().and_then(|i| i.stop_signal.clone());
                let stop = Stop { container, id, grace, why, hook, signal };
                self.spawn(async move { job.stop(stop).await });
            }
            Action::RemoveContainer { container, id } => {
                self.report(async move { job.remove_container(container, id).await });
            }
            Action::RemoveSandbox => {
                if observed.lost && !desired.deleting() {
                    let text = "Pod sandbox changed, it will be killed and re-created.";
                    job.shared.tell(desired, false, "SandboxChanged", text.into());
                }
                self.report(async move { job.remove_sandbox().await });
            }
            Action::RemoveVolumes => self.report(async move {
                let removed = job.shared.ports.files.remove_pod(&job.desired.pod_ref()).await;
                Event::VolumesRemoved(removed)
            }),
            Action::ClearVolumes => self.report(async move {
                let cleared = job.shared.ports.files.clear_volumes(&job.desired.pod_ref()).await;
                Event::VolumesCleared(cleared)
            }),
            Action::DeleteObject => job.shared.ports.statuses.delete(&desired.pod),
            Action::TellBackOff { container, image } => job.tell_backoff(&container, image),
            Action::TellDeadline => {
                let text = "Pod was active on the node longer than the specified deadline";
                job.shared.tell(desired, false, "DeadlineExceeded", text.into());
            }
        }
    }

    fn report(&mut self, work: impl Future<Output = Event> + Send + 'static) {
        let reports = self.reports.clone();
        self.spawn(async move {
            reports.send(work.await);
        });
    }
}

fn ready_images(observed: &Observed, container: &str) -> Option<Images> {
    match &observed.container(container).image {
        ImageState::Ready { images, .. } => Some(images.clone()),
        _ => None,
    }
}

fn volumes(observed: &Observed) -> Option<Arc<Volumes>> {
    observed.volumes.done().cloned()
}

/// The addresses of the pod as they are now.
pub(super) fn pod_ips(shared: &Shared, desired: &Desired, observed: &Observed) -> Vec<IpAddr> {
    if desired.host_network() {
        return shared.settings.node_ips.clone();
    }
    observed.network.done().cloned().unwrap_or_default()
}

struct Stop {
    container: String,
    id: String,
    grace: Duration,
    why: String,
    hook: bool,
    signal: Option<String>,
}

impl Job {
    async fn make_volumes(&self) -> Event {
        match self.shared.ports.files.make_volumes(Arc::clone(&self.desired.pod)).await {
            Ok(mut volumes) => {
                for name in volumes.grown.drain(..) {
                    let node = &self.shared.settings.node_name;
                    let text = format!("MountVolume.NodeExpandVolume succeeded for volume \"{name}\" {node}");
                    self.shared.tell(&self.desired, false, "FileSystemResizeSuccessful", text);
                }
                Event::VolumesMade(Ok(Arc::new(volumes)))
            }
            Err(failures) => {
                let mut first = None;
                for VolumeFailure { reason, text, error } in failures {
                    self.shared.tell(&self.desired, true, reason, text);
                    first.get_or_insert(error);
                }
                Event::VolumesMade(Err(first.unwrap_or_default()))
            }
        }
    }

    async fn create_sandbox(&self) -> Event {
        for (reason, text) in names::resolv_conf(&self.shared.settings, &self.desired.pod).1 {
            self.shared.tell(&self.desired, true, reason, text);
        }
        let spec = container::sandbox(&self.shared.settings, &self.desired.pod, self.desired.pod_ref());
        let made = match spec {
            Ok(mut spec) => {
                spec.labels.extend(self.shared.ports.exclusive.labels(self.desired.uid()));
                self.shared.ports.runtime.create_sandbox(&spec).await.map_err(|failure| failure.0)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &made {
            let text = format!("Failed to create pod sandbox: {error}");
            self.shared.tell(&self.desired, true, "FailedCreatePodSandBox", text);
        }
        if let Some(granted) = made.as_ref().ok().and_then(|sandbox| Allocation::from_labels(&sandbox.labels))
        {
            self.reports.send(Event::Granted(granted));
        }
        Event::SandboxCreated(made.map(|sandbox| sandbox.netns))
    }

    async fn attach(&self, netns: Option<PathBuf>) -> Event {
        let Some(netns) = netns else {
            return Event::NetworkAttached(Err("the sandbox has no network namespace".into()));
        };
        let attached = match crate::pod::network::wishes(&self.desired.pod) {
            Ok(wishes) => self.shared.ports.network.attach(&self.desired.pod_ref(), &wishes, &netns).await,
            Err(error) => Err(Failure(error)),
        };
        if let Err(error) = &attached {
            let text = format!("Failed to create pod sandbox: {error}");
            self.shared.tell(&self.desired, true, "FailedCreatePodSandBox", text);
        }
        Event::NetworkAttached(attached.map(|attached| attached.addresses).map_err(|failure| failure.0))
    }

    async fn stop(&self, stop: Stop) {
        let Stop { container, id, grace, why, hook, signal } = stop;
        let began = Instant::now();
        if hook {
            self.shared.tell_about(&self.desired, &container, false, "Killing", why);
            hook::pre_stop(self, &container, &id, grace).await;
        }
        let left = grace.saturating_sub(began.elapsed()).max(LEAST_GRACE);
        let mut pause = Duration::from_secs(1);
        // The end arrives as an event; asking for it is insisted on.
        loop {
            let asked =
                self.shared.ports.runtime.stop_container(self.desired.uid(), &id, signal.as_deref(), left);
            let Err(error) = asked.await else { return };
            let text = format!("error killing pod: {error}");
            self.shared.tell(&self.desired, true, "FailedKillPod", text);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    async fn remove_container(&self, container: String, id: String) -> Event {
        let removed = self.shared.ports.runtime.remove_container(self.desired.uid(), &id).await;
        if let Err(error) = removed {
            tracing::warn!(pod = self.desired.uid(), container, %error, "old container stays until its pod goes");
        }
        Event::ContainerRemoved { container, id }
    }

    async fn remove_sandbox(&self) -> Event {
        let uid = self.desired.uid();
        let detached = match self.desired.host_network() {
            true => Ok(()),
            false => self.shared.ports.network.detach(uid).await,
        };
        let removed = self.shared.ports.runtime.remove_sandbox(uid).await;
        let failures: Vec<_> = [detached, removed].into_iter().filter_map(Result::err).collect();
        if failures.is_empty() {
            return Event::SandboxRemoved(Ok(()));
        }
        let text = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        self.shared.tell(&self.desired, true, "FailedKillPod", format!("error killing pod: {text}"));
        Event::SandboxRemoved(Err(text))
    }

    fn tell_present(&self, container: &str, images: &Images) {
        for volume in images.volumes.iter().filter(|volume| !volume.pulled) {
            let text = format!("Container image \"{}\" already present on machine", volume.reference);
            self.shared.tell(&self.desired, false, "Pulled", text);
        }
        if images.pulled {
            return;
        }
        let image = self.desired.container(container).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
        let text = format!("Container image \"{image}\" already present on machine");
        self.shared.tell_about(&self.desired, container, false, "Pulled", text);
    }

    fn tell_backoff(&self, container: &str, image: Option<String>) {
        let Some(image) = image else {
            let pod = crate::pod::words::full_name(&self.desired.pod);
            let text = format!("Back-off restarting failed container {container} in pod {pod}");
            return self.shared.tell_about(&self.desired, container, true, "BackOff", text);
        };
        let text = format!("Back-off pulling image \"{image}\"");
        self.shared.tell_about(&self.desired, container, false, "BackOff", text);
        let text = "Error: ImagePullBackOff".to_owned();
        self.shared.tell_about(&self.desired, container, true, "Failed", text);
    }
}
