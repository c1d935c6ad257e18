//! The images of a container, its own and those that it mounts: there already, or fetched by policy.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use tokio::time::Instant;

use super::{
    executor::Job,
    ports::{ImageFailure, Pulled},
};
use crate::pod::{
    container::image_volumes,
    events::Event,
    machine::{Image, Keyring},
    observed::{ImageTrouble, Images, VolumeImage},
    pull_secrets,
    words::go_duration,
};

/// Looks for the images of a container and pulls them if the policy says so; tells users what happened. Those of its
/// volumes come first, as upstream has it.
pub(super) async fn ensure(job: &Job, container: String, image: &str) -> Event {
    let credentials = credentials(job).await;
    let result = all(job, &container, image, &credentials).await;
    if let Err(ImageTrouble { reason, .. }) = &result {
        job.shared.tell_about(&job.desired, &container, true, "Failed", format!("Error: {reason}"));
    }
    Event::ImageEnsured { container, result }
}

async fn all(job: &Job, container: &str, image: &str, credentials: &Keyring) -> Result<Images, ImageTrouble> {
    let spec = job.desired.container(container).map(|(_, spec)| spec);
    let mut volumes = Vec::new();
    for (volume, source) in spec.iter().flat_map(|c| image_volumes(job.desired.spec(), c)) {
        let reference = source.reference.as_deref().unwrap_or_default();
        let policy = Policy::of(source.pull_policy.as_deref(), reference);
        let wanted = Wanted { job, container: None, image: reference, policy, credentials };
        let (image, pulled) = wanted.ensure().await?;
        volumes.push(VolumeImage { volume: volume.into(), reference: reference.into(), image, pulled });
    }
    let policy = Policy::of(spec.as_ref().and_then(|c| c.image_pull_policy.as_deref()), image);
    let wanted = Wanted { job, container: Some(container), image, policy, credentials };
    let (own, pulled) = wanted.ensure().await?;
    Ok(Images { own, pulled, volumes })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Policy {
    fn of(said: Option<&str>, image: &str) -> Policy {
        match said {
            Some("Always") => Policy::Always,
            Some("Never") => Policy::Never,
            Some("IfNotPresent") => Policy::IfNotPresent,
            _ if is_latest(image) => Policy::Always,
            _ => Policy::IfNotPresent,
        }
    }
}

/// No tag and no digest, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// One image.
struct Wanted<'a> {
    job: &'a Job,
    /// Whose it is; a volume's is the pod's.
    container: Option<&'a str>,
    image: &'a str,
    policy: Policy,
    credentials: &'a Keyring,
}

impl Wanted<'_> {
    /// The image, and whether it was fetched.
    async fn ensure(&self) -> Result<(Arc<Image>, bool), ImageTrouble> {
        if self.policy == Policy::Always {
            return self.pull().await;
        }
        match self.usable().await {
            // That it is there is told when a container starts from it: a pod that waits for something else does not
            // speak of its image.
            Ok(Some(found)) => Ok((Arc::new(found), false)),
            Ok(None) if self.policy == Policy::Never => {
                let text =
                    format!("Container image \"{}\" is not present with pull policy of Never", self.image);
                self.tell(true, "ErrImageNeverPull", text.clone());
                Err(self.trouble("ErrImageNeverPull", text))
            }
            Ok(None) => self.pull().await,
            Err(failure) => Err(self.inspect_failed(failure)),
        }
    }

    /// What is here and may be used by this pod. An image that only others' credentials opened is, for this pod, not here.
    async fn usable(&self) -> Result<Option<Image>, ImageFailure> {
        let images = &self.job.shared.ports.images;
        match images.get(self.image).await? {
            Some(found) if images.allowed(self.image, self.credentials).await? => Ok(Some(found)),
            _ => Ok(None),
        }
    }

    async fn pull(&self) -> Result<(Arc<Image>, bool), ImageTrouble> {
        let image = self.image;
        self.tell(false, "Pulling", format!("Pulling image \"{image}\""));
        let began = Instant::now();
        match self.job.shared.ports.images.pull(image, self.credentials).await {
            Ok(Pulled { image: pulled, took }) => {
                let text = format!(
                    "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                    go_duration(whole_millis(took)),
                    go_duration(whole_millis(began.elapsed())),
                    pulled.size
                );
                self.tell(false, "Pulled", text);
                Ok((Arc::new(pulled), true))
            }
            Err(ImageFailure::Pull(error)) => {
                self.tell(true, "Failed", format!("Failed to pull image \"{image}\": {error}"));
                Err(self.trouble("ErrImagePull", error))
            }
            Err(failure) => Err(self.inspect_failed(failure)),
        }
    }

    fn inspect_failed(&self, failure: ImageFailure) -> ImageTrouble {
        let image = self.image;
        let (reason, text) = match failure {
            ImageFailure::InvalidName(error) => {
                ("InvalidImageName", format!("Failed to apply default image tag \"{image}\": {error}"))
            }
            ImageFailure::Inspect(error) | ImageFailure::Pull(error) => {
                ("ImageInspectError", format!("Failed to inspect image \"{image}\": {error}"))
            }
        };
        self.tell(true, "InspectFailed", text.clone());
        self.trouble(reason, text)
    }

    fn trouble(&self, reason: &'static str, message: String) -> ImageTrouble {
        ImageTrouble { reference: self.image.to_owned(), reason, message }
    }

    fn tell(&self, warning: bool, reason: &'static str, message: String) {
        let Job { shared, desired, .. } = self.job;
        match self.container {
            Some(container) => shared.tell_about(desired, container, warning, reason, message),
            None => shared.tell(desired, warning, reason, message),
        }
    }
}

fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Credentials from `imagePullSecrets`; those that cannot be had are told and left out.
async fn credentials(job: &Job) -> Keyring {
    let mut keyring = Keyring::default();
    let secrets = job.desired.spec().image_pull_secrets.as_deref().unwrap_or_default();
    if secrets.is_empty() {
        return keyring;
    }
    let pod = job.desired.pod_ref();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for reference in secrets {
        let got: Result<Arc<Secret>, _> = job.shared.ports.objects.secret(&pod, &reference.name).await;
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
