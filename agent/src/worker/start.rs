//! The start of one container: environment, mounts, runtime, postStart hook.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Container;

use super::{
    executor::Job,
    hook,
    ports::{LastWords, MountRequest, ObjectFailure, StartFailure},
};
use crate::pod::{
    container::{self, Parts},
    env,
    events::Event,
    machine::{self, ContainerState},
    observed::{Ended, Images, Instance, Life, Volumes, started_without_probe},
    refs::{self, ObjectRef},
};

/// Starts the container and reports; with a postStart hook there is a second report when it has ended. `target` is the
/// container whose processes it sees.
pub(super) async fn start(
    job: &Job,
    name: &str,
    attempt: u32,
    images: &Images,
    volumes: &Volumes,
    target: Result<Option<String>, String>,
) {
    let Some((kind, spec)) = job.desired.container(name) else { return };
    let request = match target {
        Ok(target) => request(job, &spec, attempt, images, volumes).await.map(|request| (request, target)),
        Err(error) => Err(error),
    };
    let (request, started) = match request {
        Err(error) => (None, Err(StartFailure::Config(error))),
        Ok((request, process_target)) => {
            let request = machine::ContainerSpec { process_target, ..request };
            let runtime = &job.shared.ports.runtime;
            let started = runtime.start_container(job.desired.uid(), &request).await;
            (Some(request), started)
        }
    };
    let event = match started {
        Ok(started) => {
            tell(job, name, "Created", format!("Created container: {name}"));
            tell(job, name, "Started", format!("Started container {name}"));
            let mut instance = Instance::new(started, started_without_probe(&job.desired, Some(kind), name));
            say_last_words(job, &spec, &mut instance).await;
            let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
            if let Some(hook) = hook.filter(|_| instance.running()) {
                return start_hook(job, name, instance, hook).await;
            }
            Event::ContainerStarted { container: name.into(), instance: Box::new(instance), hook: false }
        }
        Err(failure) => failed(job, name, request, failure),
    };
    job.reports.send(event);
}

async fn start_hook(
    job: &Job,
    name: &str,
    instance: Instance,
    handler: k8s_openapi::api::core::v1::LifecycleHandler,
) {
    let id = instance.id.clone();
    job.reports.send(Event::ContainerStarted {
        container: name.into(),
        instance: Box::new(instance),
        hook: true,
    });
    let passed = hook::run(job, name, &id, &handler).await.is_ok();
    if !passed {
        let text = "PostStartHook failed".to_owned();
        job.shared.tell_about(&job.desired, name, true, "FailedPostStartHook", text);
    }
    job.reports.send(Event::HookEnded { container: name.into(), passed });
}

/// A program may be over before its start is reported.
async fn say_last_words(job: &Job, spec: &Container, instance: &mut Instance) {
    let log_path = instance.log_path.clone();
    let attempt = instance.attempt;
    let Life::Ended(ended) = &mut instance.life else { return };
    let pod = &job.desired.pod_ref();
    let failed = ended.exit.code != 0;
    let words = LastWords { pod, container: spec, attempt, failed, log_path: &log_path };
    ended.message = job.shared.ports.files.last_words(words).await;
}

fn failed(job: &Job, name: &str, request: Option<machine::ContainerSpec>, failure: StartFailure) -> Event {
    let (reason, message, made) = match failure {
        StartFailure::Config(message) => ("CreateContainerConfigError", message, None),
        StartFailure::Create(message) => ("CreateContainerError", message, None),
        StartFailure::Run { text, user } => ("RunContainerError", text, Some(user)),
    };
    if made.is_some() {
        tell(job, name, "Created", format!("Created container: {name}"));
    }
    job.shared.tell_about(&job.desired, name, true, "Failed", format!("Error: {message}"));
    let instance = request.zip(made).map(|(request, user)| Box::new(never_ran(job, request, user, &message)));
    Event::StartFailed { container: name.into(), reason, message, instance }
}

/// A program that could not be executed counts as an instance that ended with 128.
fn never_ran(
    job: &Job,
    request: machine::ContainerSpec,
    user: Option<machine::User>,
    message: &str,
) -> Instance {
    let now = job.shared.ports.clock.now();
    let exit =
        machine::Exit { code: 128, signal: None, oom_killed: false, started_at: now, finished_at: now };
    let container = machine::Container {
        id: container::id(job.desired.uid(), &request.name, request.attempt),
        name: request.name,
        attempt: request.attempt,
        image_ref: request.image_ref,
        image_id: request.image.id.clone(),
        user,
        tty: request.tty,
        log_path: request.log_path,
        state: ContainerState::Exited(exit.clone()),
        labels: request.labels,
    };
    let mut instance = Instance::new(container, false);
    instance.life =
        Life::Ended(Ended { exit, reason: "StartError".into(), message: Some(message.to_owned()) });
    instance
}

async fn request(
    job: &Job,
    spec: &Container,
    attempt: u32,
    images: &Images,
    volumes: &Volumes,
) -> Result<machine::ContainerSpec, String> {
    let mut objects = objects(job, spec).await?;
    objects.files = env_files(job, spec, volumes).await?;
    let settings = &job.shared.settings;
    let pod = &*job.desired.pod;
    let pod_ref = &job.desired.pod_ref();
    let context = env::Context { settings, pod, pod_ips: &job.pod_ips, objects: &objects };
    let env = env::resolve(&context, spec)?;
    let parts = Parts { settings, pod, pod_ref, container: spec, attempt, images, env };
    let (mut request, plans) = container::spec(parts)?;
    request.devices.extend(container::block_devices(spec, volumes)?);
    request.user.additional_gids.extend(volumes.gids.iter().filter_map(|gid| u32::try_from(*gid).ok()));
    let mounts =
        MountRequest { pod, container: spec, attempt, plans: &plans, volumes, pod_ips: &job.pod_ips };
    request.mounts = job.shared.ports.files.mounts(mounts).await?;
    job.shared.ports.exclusive.prepare(job.desired.uid(), &mut request).await?;
    Ok(request)
}

/// What the environment refers to, fetched side by side. Missing objects are left out: whether they may be missing
/// is decided where they are used.
async fn objects(job: &Job, spec: &Container) -> Result<env::Objects, String> {
    let source = &job.shared.ports.objects;
    let pod = job.desired.pod_ref();
    let pod = &pod;
    let mut objects = env::Objects {
        services: source.services(pod),
        kubernetes: source.kubernetes(),
        ..env::Objects::default()
    };
    let refs: Vec<_> = refs::of_env(&pod.namespace, spec).into_iter().collect();
    let fetched = join_all(refs.iter().map(|reference| async move {
        match reference {
            ObjectRef::ConfigMap { name, .. } => {
                (name, source.config_map(pod, name).await.map(Fetched::ConfigMap))
            }
            ObjectRef::Secret { name, .. } => (name, source.secret(pod, name).await.map(Fetched::Secret)),
        }
    }));
    let (mut config_maps, mut secrets) = (BTreeMap::new(), BTreeMap::new());
    for (name, fetched) in fetched.await {
        match fetched {
            Ok(Fetched::ConfigMap(object)) => drop(config_maps.insert(name.clone(), object)),
            Ok(Fetched::Secret(object)) => drop(secrets.insert(name.clone(), object)),
            Err(ObjectFailure::NotFound { .. }) => {}
            Err(ObjectFailure::Other(error)) => return Err(error),
        }
    }
    (objects.config_maps, objects.secrets) = (config_maps, secrets);
    Ok(objects)
}

/// Files of volumes that variables are read from.
async fn env_files(job: &Job, spec: &Container, volumes: &Volumes) -> Result<env::Files, String> {
    let mut files = env::Files::new();
    for (volume, path) in refs::files_of_env(spec) {
        if let Some(text) = job.shared.ports.files.read(volumes, &volume, &path).await? {
            files.insert((volume, path), text);
        }
    }
    Ok(files)
}

enum Fetched {
    ConfigMap(Arc<k8s_openapi::api::core::v1::ConfigMap>),
    Secret(Arc<k8s_openapi::api::core::v1::Secret>),
}

fn tell(job: &Job, container: &str, reason: &'static str, message: String) {
    job.shared.tell_about(&job.desired, container, false, reason, message);
}
