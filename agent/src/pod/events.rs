//! How what is observed changes: an action was started, something happened.
//!
//! Not for: deciding what follows from it (that is `plan`).

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    allocation::{Allocation, Granted},
    backoff::{self, BackOff},
    ending::Ending,
    machine::{Exit, Resources},
    observed::{
        Ended, ImageState, ImageTrouble, Images, Instance, Instances, Life, Observed, Step, Trouble,
        Unhealthy, Volumes,
    },
    plan::Action,
};

/// Something happened to a pod on this node.
#[derive(Clone, Debug)]
pub enum Event {
    /// Volumes are there, or the first failure.
    VolumesMade(Result<Arc<Volumes>, String>),
    /// The sandbox is there; its network namespace.
    SandboxCreated(Result<Option<PathBuf>, String>),
    /// The pod has an address.
    NetworkAttached(Result<Vec<IpAddr>, String>),
    /// The image of a container is on this node, with those of its volumes.
    ImageEnsured {
        /// Container name.
        container: String,
        /// All of them, or the first that cannot be had.
        result: Result<Images, ImageTrouble>,
    },
    /// A container runs. Its postStart hook, if it has one, is still to come.
    ContainerStarted {
        /// Container name.
        container: String,
        /// The new instance.
        instance: Box<Instance>,
        /// A hook goes on.
        hook: bool,
    },
    /// A container did not start.
    StartFailed {
        /// Container name.
        container: String,
        /// `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`.
        reason: &'static str,
        /// Text for users.
        message: String,
        /// The instance that failed, where there was one.
        instance: Option<Box<Instance>>,
    },
    /// The postStart hook ended.
    HookEnded {
        /// Container name.
        container: String,
        /// Whether it succeeded.
        passed: bool,
    },
    /// A container ended.
    Exited {
        /// Container id.
        id: String,
        /// How.
        exit: Exit,
        /// Termination message.
        message: Option<String>,
    },
    /// An old instance was removed.
    ContainerRemoved {
        /// Container name.
        container: String,
        /// Container id.
        id: String,
    },
    /// Sandbox and network are gone.
    SandboxRemoved(Result<(), String>),
    /// Volumes are gone.
    VolumesRemoved(Result<(), String>),
    /// Volumes are gone, logs stay.
    VolumesCleared(Result<(), String>),
    /// A readiness probe changed its mind.
    Ready {
        /// Container id.
        id: String,
        /// Its result.
        ready: bool,
    },
    /// The node ends the pod.
    End(Box<Ending>),
    /// A startup probe passed.
    StartupPassed {
        /// Container id.
        id: String,
    },
    /// A probe gave up on a container.
    Unhealthy {
        /// Container id.
        id: String,
        /// Which one.
        why: Unhealthy,
    },
    /// The shim is gone, its containers with it.
    ShimLost,
    /// What the pod was granted is written down with its sandbox.
    Granted(Allocation),
    /// Limits of what runs were looked at, and changed where they were others.
    Resized(Box<Resized>),
    /// The API server has a terminal status with all containers ended.
    EndWritten,
    /// An object the pod refers to changed.
    ObjectsChanged,
}

/// How a change of limits ended.
#[derive(Clone, Debug)]
pub struct Resized {
    /// What it was for.
    pub allocation: Allocation,
    /// By container id: what its limits follow from, if all went well.
    pub granted: BTreeMap<String, Granted>,
    /// By container id: what the kernel has.
    pub seen: BTreeMap<String, Resources>,
    /// The first failure.
    pub result: Result<(), String>,
}

impl Observed {
    /// An action was handed to the executor.
    pub fn started(&mut self, action: &Action, now: Timestamp) {
        match action {
            // New content does not take away what is mounted: volumes stay usable while they are refreshed.
            Action::MakeVolumes if self.volumes.done().is_some() => self.refreshing(),
            Action::MakeVolumes => begin(&mut self.volumes),
            Action::CreateSandbox => begin(&mut self.sandbox),
            Action::AttachNetwork => begin(&mut self.network),
            Action::EnsureImage { container, image } => {
                let entry = self.of(container);
                entry.image = ImageState::Ensuring { reference: image.clone() };
                entry.told_backoff = false;
            }
            Action::StartContainer { container, attempt } => self.starting(container, *attempt, now),
            Action::StopContainer { container, grace, replace, .. } => {
                let entry = self.of(container);
                entry.stopping = now.checked_add(*grace).ok().or(Some(Timestamp::MAX));
                entry.current.iter_mut().for_each(|instance| instance.replaced |= *replace);
            }
            Action::RemoveContainer { container, .. } => self.of(container).removing = true,
            Action::Resize => self.resizing = true,
            Action::RemoveSandbox => self.sandbox = Step::Undoing,
            Action::RemoveVolumes | Action::ClearVolumes => self.volumes = Step::Undoing,
            Action::DeleteObject => self.delete_asked = true,
            Action::TellBackOff { container, .. } => self.of(container).told_backoff = true,
            Action::TellDeadline => self.told_deadline = true,
        }
    }

    /// Something happened.
    pub fn apply(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::VolumesMade(result) => self.volumes_made(result, now),
            Event::SandboxCreated(result) => settle(&mut self.sandbox, result, now),
            Event::NetworkAttached(result) => settle(&mut self.network, result, now),
            Event::ImageEnsured { container, result } => self.image_ensured(&container, result, now),
            Event::ContainerStarted { container, instance, hook } => {
                let entry = self.of(&container);
                entry.install(*instance);
                entry.trouble = None;
                (entry.starting, entry.hook) = (false, hook && entry.running().is_some());
                if self.lost {
                    // The news of its end came before that of its start.
                    self.shim_lost(now);
                }
            }
            Event::StartFailed { container, reason, message, instance } => {
                let entry = self.of(&container);
                entry.starting = false;
                if let Some(instance) = instance {
                    entry.install(*instance);
                }
                entry.fail(reason, message, now);
            }
            Event::HookEnded { container, passed } => {
                let entry = self.of(&container);
                entry.hook = false;
                if let Some(instance) = entry.current.as_mut().filter(|_| !passed) {
                    instance.unhealthy = Some(Unhealthy::PostStart);
                }
            }
            Event::Exited { id, exit, message } => self.exited(&id, exit, message, now),
            Event::ContainerRemoved { container, id } => {
                let entry = self.of(&container);
                entry.removing = false;
                entry.garbage.retain(|garbage| *garbage != id);
            }
            Event::SandboxRemoved(result) => self.sandbox_removed(result, now),
            Event::VolumesRemoved(Ok(())) => (self.volumes, self.cleaned) = (Step::Absent, true),
            Event::VolumesCleared(Ok(())) => (self.volumes, self.cleared) = (Step::Absent, true),
            Event::VolumesRemoved(Err(message)) | Event::VolumesCleared(Err(message)) => {
                fail(&mut self.volumes, message, now)
            }
            Event::Ready { id, ready } => self.with_running(&id, |instance| instance.ready = Some(ready)),
            Event::End(ending) => match &mut self.ending {
                // The first reason stands; a second one can only be in more of a hurry.
                Some(known) => known.grace = known.grace.into_iter().chain(ending.grace).min(),
                None => self.ending = Some(ending),
            },
            Event::StartupPassed { id } => self.with_running(&id, |instance| instance.started = true),
            Event::Unhealthy { id, why } => self.with_running(&id, |i| i.unhealthy = Some(why)),
            Event::ShimLost => self.shim_lost(now),
            Event::Granted(allocation) => self.granted = Some(allocation),
            Event::Resized(resized) => self.resized(*resized, now),
            Event::EndWritten => self.told_end = true,
            Event::ObjectsChanged => self.objects_changed(now),
        }
        let quiet = self.ending.is_some() && !self.anything_runs();
        self.quiet_since = quiet.then(|| self.quiet_since.unwrap_or(now));
    }

    fn of(&mut self, container: &str) -> &mut Instances {
        if !self.containers.contains_key(container) {
            self.containers.insert(container.into(), Box::default());
        }
        self.containers.get_mut(container).expect("just inserted")
    }

    fn refreshing(&mut self) {
        if let Step::Done(volumes) = &self.volumes {
            // The next look is set by the result; until then none is due.
            let volumes = Volumes { refresh_at: None, ..(**volumes).clone() };
            self.volumes = Step::Done(Arc::new(volumes));
        }
    }

    fn volumes_made(&mut self, result: Result<Arc<Volumes>, String>, now: Timestamp) {
        match (result, self.volumes.done()) {
            // A refresh failed: the old content stays valid, look again soon.
            (Err(_), Some(old)) => {
                let refresh_at = now.checked_add(REFRESH_RETRY).ok();
                let volumes = Volumes { refresh_at, ..(**old).clone() };
                self.volumes = Step::Done(Arc::new(volumes));
            }
            (result, _) => settle(&mut self.volumes, result, now),
        }
    }

    fn starting(&mut self, container: &str, attempt: u32, now: Timestamp) {
        let cap = self.longest_restart.unwrap_or(backoff::CAP);
        let entry = self.of(container);
        entry.starting = true;
        entry.next_attempt = attempt;
        if entry.current.is_some() {
            entry.backoff = Some(BackOff::next(entry.backoff, cap, now));
        }
    }

    fn image_ensured(&mut self, container: &str, result: Result<Images, ImageTrouble>, now: Timestamp) {
        let entry = self.of(container);
        let ImageState::Ensuring { reference } = std::mem::take(&mut entry.image) else { return };
        match result {
            Ok(images) => {
                entry.image = ImageState::Ready { reference, images };
                entry.trouble.take_if(|trouble| is_image_trouble(trouble.reason));
            }
            Err(ImageTrouble { reference: missing, reason, message }) => {
                entry.image = ImageState::Failed { reference, at: now };
                entry.missing_image = Some(missing.clone());
                entry.fail(reason, message, now);
                if reason == "ErrImagePull" {
                    let entry = BackOff::next(self.pulls.get(&missing).copied(), backoff::CAP, now);
                    self.pulls.insert(missing, entry);
                }
            }
        }
    }

    fn exited(&mut self, id: &str, exit: Exit, message: Option<String>, now: Timestamp) {
        for entry in self.containers.values_mut() {
            let Some(instance) = entry.current.as_mut().filter(|i| i.id == id) else { continue };
            if instance.running() {
                let at = exit.finished_at.min(now);
                instance.life = Life::Ended(Ended::from_exit(exit, message));
                entry.has_ended(at);
                return;
            }
        }
    }

    fn resized(&mut self, resized: Resized, now: Timestamp) {
        let Resized { allocation, mut granted, mut seen, result } = resized;
        self.resizing = false;
        let changed = result.is_ok();
        for instance in self.containers.values_mut().filter_map(|entry| entry.current.as_mut()) {
            instance.limits = seen.remove(&instance.id).or(instance.limits.take());
            if let Some(granted) = granted.remove(&instance.id).filter(|_| changed) {
                instance.granted = Some(granted);
            }
        }
        match result {
            Ok(()) => {
                (self.granted, self.unchecked) = (Some(allocation), false);
                self.resize_trouble = None;
            }
            Err(message) => {
                let tries = self.resize_trouble.as_ref().map_or(0, |trouble| trouble.tries).saturating_add(1);
                let retry_at = now.checked_add(retry_delay(tries)).unwrap_or(now);
                self.resize_trouble = Some(Trouble { reason: "Error", message, at: now, retry_at, tries });
            }
        }
    }

    fn sandbox_removed(&mut self, result: Result<(), String>, now: Timestamp) {
        if let Err(message) = result {
            return fail(&mut self.sandbox, message, now);
        }
        (self.sandbox, self.network) = (Step::Absent, Step::Absent);
        (self.granted, self.unchecked, self.resize_trouble) = (None, false, None);
        if !std::mem::take(&mut self.lost) || self.over {
            return;
        }
        for entry in self.containers.values_mut() {
            // Gone with the sandbox: the new one starts from the first init container, attempts go on.
            if let Some(instance) = entry.current.take() {
                entry.last = Some(instance);
            }
            entry.garbage.clear();
        }
    }

    fn shim_lost(&mut self, now: Timestamp) {
        self.lost = true;
        for entry in self.containers.values_mut() {
            let Some(instance) = entry.current.as_mut() else { continue };
            let Life::Running { started_at } = instance.life else { continue };
            let exit = Exit { code: 137, signal: Some(9), oom_killed: false, started_at, finished_at: now };
            instance.life = Life::Ended(Ended::from_exit(exit, None));
            entry.has_ended(now);
        }
    }

    fn objects_changed(&mut self, now: Timestamp) {
        if let Step::Done(volumes) = &self.volumes {
            let volumes = Volumes { refresh_at: Some(now), ..(**volumes).clone() };
            self.volumes = Step::Done(Arc::new(volumes));
        } else if let Step::Failed { retry_at, .. } = &mut self.volumes {
            *retry_at = now;
        }
        for trouble in self.containers.values_mut().filter_map(|entry| entry.trouble.as_mut()) {
            if trouble.reason == "CreateContainerConfigError" {
                trouble.retry_at = now;
            }
        }
    }

    fn with_running(&mut self, id: &str, change: impl FnOnce(&mut Instance)) {
        let mut all = self.containers.values_mut().filter_map(|entry| entry.current.as_mut());
        if let Some(instance) = all.find(|instance| instance.id == id && instance.running()) {
            change(instance);
        }
    }
}

const REFRESH_RETRY: Duration = Duration::from_secs(30);

impl Instances {
    /// A newer instance takes the place of the current one; of the dead ones only the newest is kept.
    fn install(&mut self, instance: Instance) {
        self.next_attempt = instance.attempt + 1;
        self.stopping = None;
        self.told_backoff = false;
        let ended_at = instance.ended().map(|ended| ended.exit.finished_at);
        if let Some(older) = self.current.replace(instance)
            && let Some(oldest) = self.last.replace(older)
        {
            self.garbage.push(oldest.id);
        }
        self.ended_at = None;
        if let Some(at) = ended_at {
            self.has_ended(at);
        }
    }

    fn has_ended(&mut self, at: Timestamp) {
        self.ended_at = Some(at);
        self.image = ImageState::Unknown;
        self.hook = false;
        self.stopping = None;
        self.told_backoff = false;
    }

    fn fail(&mut self, reason: &'static str, message: String, now: Timestamp) {
        let tries = self.trouble.as_ref().map_or(0, |trouble| trouble.tries).saturating_add(1);
        let retry_at = now.checked_add(retry_delay(tries)).unwrap_or(now);
        self.trouble = Some(Trouble { reason, message, at: now, retry_at, tries });
    }
}

/// Reasons that speak of the image, not of the container.
pub fn is_image_trouble(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError" | "ImagePullBackOff"
    )
}

fn begin<T>(step: &mut Step<T>) {
    *step = Step::Making { tries: step.tries() };
}

fn settle<T>(step: &mut Step<T>, result: Result<T, String>, now: Timestamp) {
    match result {
        Ok(value) => *step = Step::Done(value),
        Err(message) => fail(step, message, now),
    }
}

fn fail<T>(step: &mut Step<T>, message: String, now: Timestamp) {
    let tries = step.tries().saturating_add(1);
    let retry_at = now.checked_add(retry_delay(tries)).unwrap_or(now);
    *step = Step::Failed { message, retry_at, tries };
}

/// 0.5 s doubling to 16 s.
fn retry_delay(tries: u32) -> Duration {
    Duration::from_millis(500 << tries.saturating_sub(1).min(5))
}
