//! CRI's ImageService over the image store.

use std::{collections::HashSet, path::PathBuf};

use orlop_cri_api::v1::{image_service_server::ImageService, *};
use orlop_runtime::image::{Auth, Keyring, StoreError};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{
    Cri, blocking, internal,
    pods::now,
    runtime_service::info,
    words::{
        stats::{Written, filesystem},
        status,
    },
};
use crate::worker::ports::{ImageFailure, Images as _};

type Answer<T> = Result<Response<T>, Status>;

impl Cri {
    async fn images(&self, filter: Option<&ImageFilter>) -> Result<Vec<Image>, Status> {
        let name = filter.and_then(|filter| filter.image.as_ref()).map(|image| image.image.clone());
        let all = match name.filter(|name| !name.is_empty()) {
            Some(name) => self.image(&name).await?.into_iter().collect(),
            None => {
                let images = self.0.setup.images.images.clone();
                blocking(move || images.list()).await?.map_err(|error| internal(&error))?
            }
        };
        let pinned = self.pinned().await?;
        Ok(all.iter().map(|image| status::image(image, pinned.contains(&image.id))).collect())
    }

    /// Ids of images that a client shall not remove of itself.
    async fn pinned(&self) -> Result<HashSet<String>, Status> {
        let images = self.0.setup.images.images.clone();
        let pins = blocking(move || images.pins()).await?.map_err(|error| internal(&error))?;
        Ok(pins.into_iter().flat_map(|pin| pin.images).collect())
    }
}

/// The name in a request.
fn named(image: Option<ImageSpec>) -> Result<String, Status> {
    let name = image.unwrap_or_default().image;
    if name.is_empty() { Err(Status::invalid_argument("no image name")) } else { Ok(name) }
}

/// What a client shows for this one pull, whatever registry it goes to.
fn keyring(auth: AuthConfig) -> Result<Keyring, Status> {
    let AuthConfig { username, password, auth, registry_token, identity_token, .. } = auth;
    let pair = |username: &str, password: &str| Auth {
        username: username.to_owned(),
        password: password.to_owned(),
    };
    let shown = if !username.is_empty() {
        Some(pair(&username, &password))
    } else if !identity_token.is_empty() {
        Some(Auth::identity_token(identity_token))
    } else if !auth.is_empty() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let broken = || Status::invalid_argument("auth is not base64 of user:password");
        let text = String::from_utf8(STANDARD.decode(auth.trim()).map_err(|_| broken())?);
        let text = text.map_err(|_| broken())?;
        let (username, password) = text.split_once(':').ok_or_else(broken)?;
        Some(pair(username, password.trim_end_matches('\0')))
    } else if !registry_token.is_empty() {
        return Err(Status::unimplemented(
            "registry tokens are not supported; use user and password, or an identity token",
        ));
    } else {
        None
    };
    Ok(Keyring::from(shown))
}

#[tonic::async_trait]
impl ImageService for Cri {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let images = self.images(request.get_ref().filter.as_ref()).await?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let ImageStatusRequest { image, verbose } = request.into_inner();
        let found = self.image(&named(image)?).await?;
        let info =
            found.as_ref().map(|image| info(verbose, || json!({"imageSpec": {"config": image.config}})));
        let pinned = self.pinned().await?;
        let image = found.as_ref().map(|image| status::image(image, pinned.contains(&image.id)));
        Ok(Response::new(ImageStatusResponse { image, info: info.unwrap_or_default() }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let PullImageRequest { image, auth, .. } = request.into_inner();
        let (name, keyring) = (named(image)?, keyring(auth.unwrap_or_default())?);
        let pulled = self.0.setup.images.pull(&name, &keyring).await.map_err(|error| match error {
            ImageFailure::InvalidName(text) => Status::invalid_argument(text),
            ImageFailure::Inspect(text) | ImageFailure::Pull(text) => Status::unknown(text),
        })?;
        Ok(Response::new(PullImageResponse { image_ref: pulled.image.id }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        // By whichever name: the image goes with all of them.
        if let Some(image) = self.image(&named(request.into_inner().image)?).await? {
            let images = self.0.setup.images.images.clone();
            match blocking(move || images.remove(&image.id)).await? {
                // Somebody else was faster.
                Ok(_) | Err(StoreError::Missing(_)) => {}
                Err(error) => return Err(internal(&error)),
            }
        }
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        let images = self.0.setup.images.images.clone();
        let stored = blocking(move || images.stored()).await?.map_err(|error| internal(&error))?;
        let place = |dir: &str| -> String {
            let path: PathBuf = self.0.setup.state_dir.join(dir);
            path.to_string_lossy().into_owned()
        };
        let (mut containers, at) =
            (Written { mount_point: place("containers"), ..Written::default() }, now());
        for pod in self.runtime().pods().await {
            for container in &pod.containers {
                let written = self.runtime().written(&container.id).await;
                containers.bytes += written.bytes;
                containers.inodes += written.inodes;
            }
        }
        let images = Written { mount_point: place("images"), bytes: stored.bytes, inodes: stored.inodes };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![filesystem(at, &images)],
            container_filesystems: vec![filesystem(at, &containers)],
        }))
    }
}
