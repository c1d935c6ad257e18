//! [`ports::Images`] over the image store: disk work on the blocking pool, pulls as they are.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use orlop_runtime::image::{Auth, Images, PullError, PullOptions, StoreError};

use super::chain;
use crate::{
    pod::machine::{Image, RegistryAuth},
    worker::ports::{self, ImageFailure},
};

/// The images of this machine.
#[derive(Clone)]
pub struct Store {
    /// The store.
    pub images: Images,
    /// How to pull.
    pub options: Arc<PullOptions>,
}

fn unavailable(error: StoreError) -> ImageFailure {
    match error {
        StoreError::Reference { .. } => ImageFailure::InvalidName(chain(&error)),
        other => ImageFailure::Inspect(chain(&other)),
    }
}

impl ports::Images for Store {
    fn get<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, ImageFailure>> {
        let (images, reference) = (self.images.clone(), reference.to_owned());
        async move {
            let found = tokio::task::spawn_blocking(move || images.get(&reference)).await;
            found.map_err(|error| ImageFailure::Inspect(error.to_string()))?.map_err(unavailable)
        }
        .boxed()
    }

    fn pull<'a>(
        &'a self,
        reference: &'a str,
        auths: &'a [(String, RegistryAuth)],
    ) -> BoxFuture<'a, Result<Image, ImageFailure>> {
        async move {
            let registry = registry_of(reference);
            let mut refused = None;
            let of_registry =
                auths.iter().filter(|(host, _)| host_matches(host, &registry)).map(|(_, auth)| Some(auth));
            for auth in of_registry.chain([None]) {
                let auth = auth
                    .map(|auth| Auth { username: auth.username.clone(), password: auth.password.clone() });
                match self.images.pull(reference, auth, &self.options).await {
                    Ok(image) => return Ok(image),
                    Err(error) if error.is_unauthorized() => refused = refused.or(Some(error)),
                    Err(error) => return Err(failure(&error)),
                }
            }
            Err(refused
                .map_or_else(|| ImageFailure::Pull("no way to pull".to_owned()), |error| failure(&error)))
        }
        .boxed()
    }
}

fn failure(error: &PullError) -> ImageFailure {
    match error {
        PullError::Reference { .. } => ImageFailure::InvalidName(chain(error)),
        other => ImageFailure::Pull(chain(other)),
    }
}

/// The registry that a reference names; Docker Hub if it names none.
fn registry_of(reference: &str) -> String {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host.to_owned(),
        _ => "docker.io".to_owned(),
    }
}

/// Whether an entry of a `dockerconfigjson` is for this registry: scheme and path are decoration.
fn host_matches(entry: &str, registry: &str) -> bool {
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://");
    let host = entry.split('/').next().unwrap_or(entry);
    host == registry
        || (registry == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io"))
}
