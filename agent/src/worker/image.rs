//! The image of a container: there already, or fetched by policy.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use tokio::time::Instant;

use super::{
    executor::Job,
    ports::{ImageFailure, Pulled},
};
use crate::pod::{
    events::Event,
    machine::{Image, Keyring},
    pull_secrets,
    words::go_duration,
};

/// Looks for the image and pulls it if the policy says so; tells users what happened.
pub(super) async fn ensure(job: &Job, container: String, image: &str) -> Event {
    let credentials = credentials(job).await;
    let result = match policy(job, &container, image) {
        Policy::Always => pull(job, &container, image, &credentials).await,
        policy => match usable(job, image, &credentials).await {
            // That it is there is told when a container starts from it: a pod that waits for something else does not
            // speak of its image.
            Ok(Some(found)) => Ok((Arc::new(found), false)),
            Ok(None) if policy == Policy::Never => {
                let text = format!("Container image \"{image}\" is not present with pull policy of Never");
                job.shared.tell_about(&job.desired, &container, true, "ErrImageNeverPull", text.clone());
                Err(("ErrImageNeverPull", text))
            }
            Ok(None) => pull(job, &container, image, &credentials).await,
            Err(failure) => Err(inspect_failed(job, &container, image, failure)),
        },
    };
    if let Err((reason, _)) = &result {
        job.shared.tell_about(&job.desired, &container, true, "Failed", format!("Error: {reason}"));
    }
    Event::ImageEnsured { container, result }
}

/// What is here and may be used by this pod. An image that only others' credentials opened is, for this pod, not here.
async fn usable(job: &Job, image: &str, credentials: &Keyring) -> Result<Option<Image>, ImageFailure> {
    let images = &job.shared.ports.images;
    match images.get(image).await? {
        Some(found) if images.allowed(image, credentials).await? => Ok(Some(found)),
        _ => Ok(None),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

fn policy(job: &Job, container: &str, image: &str) -> Policy {
    let wanted = job.desired.container(container).and_then(|(_, c)| c.image_pull_policy.as_deref());
    match wanted {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ if is_latest(image) => Policy::Always,
        _ => Policy::IfNotPresent,
    }
}

/// No tag and no digest, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

async fn pull(
    job: &Job,
    container: &str,
    image: &str,
    credentials: &Keyring,
) -> Result<(Arc<Image>, bool), (&'static str, String)> {
    job.shared.tell_about(&job.desired, container, false, "Pulling", format!("Pulling image \"{image}\""));
    let began = Instant::now();
    match job.shared.ports.images.pull(image, credentials).await {
        Ok(Pulled { image: pulled, took }) => {
            let text = format!(
                "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                go_duration(whole_millis(took)),
                go_duration(whole_millis(began.elapsed())),
                pulled.size
            );
            job.shared.tell_about(&job.desired, container, false, "Pulled", text);
            Ok((Arc::new(pulled), true))
        }
        Err(ImageFailure::Pull(error)) => {
            let text = format!("Failed to pull image \"{image}\": {error}");
            job.shared.tell_about(&job.desired, container, true, "Failed", text);
            Err(("ErrImagePull", error))
        }
        Err(failure) => Err(inspect_failed(job, container, image, failure)),
    }
}

fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn inspect_failed(job: &Job, container: &str, image: &str, failure: ImageFailure) -> (&'static str, String) {
    let (reason, text) = match failure {
        ImageFailure::InvalidName(error) => {
            ("InvalidImageName", format!("Failed to apply default image tag \"{image}\": {error}"))
        }
        ImageFailure::Inspect(error) | ImageFailure::Pull(error) => {
            ("ImageInspectError", format!("Failed to inspect image \"{image}\": {error}"))
        }
    };
    job.shared.tell_about(&job.desired, container, true, "InspectFailed", text.clone());
    (reason, text)
}

/// Credentials from `imagePullSecrets`; those that cannot be had are told and left out.
async fn credentials(job: &Job) -> Keyring {
    let mut keyring = Keyring::default();
    let secrets = job.desired.spec().image_pull_secrets.as_deref().unwrap_or_default();
    if secrets.is_empty() {
        return keyring;
    }
    let namespace = job.desired.pod_ref().namespace;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for reference in secrets {
        let got: Result<Arc<Secret>, _> = job.shared.ports.objects.secret(&namespace, &reference.name).await;
        match got {
            Ok(secret) => found.extend(pull_secrets::credentials(&secret)),
            Err(_) => missing.push(reference.name.as_str()),
        }
    }
    if !missing.is_empty() {
        let text = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        job.shared.tell(&job.desired, true, "FailedToRetrieveImagePullSecret", text);
    }
    keyring.add_all(found);
    keyring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_the_default_tag() {
        for image in ["nginx", "nginx:latest", "r:5000/nginx", "r:5000/nginx:latest"] {
            assert!(is_latest(image), "{image}");
        }
        for image in ["nginx:1", "r:5000/nginx:1", "nginx@sha256:0"] {
            assert!(!is_latest(image), "{image}");
        }
    }
}
