//! Images on this machine: references, the store, loading from files, pulling from registries, unpacking.
//!
//! ```text
//!  pull ── registry ─┐
//!                    ├─ manifest, config ─ layer (openat2) ─ store: layers/, images/, refs/
//!  load ── layout ───┘
//! ```
//! An image is data from strangers: every digest is checked, every path is resolved inside the layer, every size is
//! bounded, and nothing shows before all of it proved right. Usable from several processes at once.
//! Not for: mounting (the runtime), when to pull (the agent).

mod access;
mod assemble;
mod collect;
mod digest;
mod disk;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gc;
mod glob;
mod keyring;
mod layer;
mod layout;
mod lower;
mod manifest;
mod meter;
mod path;
mod pull;
mod reference;
mod registry;
mod remove;
mod root;
mod source;
mod store;
mod tarball;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

pub use self::{
    access::{Verification, VerificationPolicy},
    assemble::AssembleError,
    collect::{Collected, Pin},
    digest::{Digest, DigestError, Mismatch},
    gc::{Candidate, Choice, Goal, Kept, Reason, Thresholds, Usage, choose},
    keyring::{
        Auth, Credential, Keyring, KeyringError, Source, broken_pattern, matches as location_matches,
        parse_docker_config, parse_dockercfg,
    },
    layer::LayerError,
    layout::LoadError,
    manifest::ManifestError,
    meter::{Exceeded, Limits},
    path::PathError,
    pull::PullError,
    reference::{Reference, ReferenceError},
    registry::{Capability, HostSettings, Registries, RegistriesError, RegistryError, RegistryHosts},
    source::SourceError,
    store::StoreError,
    tarball::TarError,
    words::{Image, ImageConfig, LoadOptions, Progress, PullOptions, Removed, Report},
};
use self::{
    pull::{Flights, Puller},
    registry::Clients,
    store::{ImageRecord, Store},
};

/// The image store of a node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    store: Store,
    limits: Limits,
    clients: Arc<Clients>,
    flights: Arc<Flights>,
    /// What layers take on the disk.
    measured: Arc<Mutex<BTreeMap<String, crate::Usage>>>,
}

impl Images {
    /// Opens or makes the store in a directory, normally `<state_dir>/images`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self {
            store: Store::open(dir.as_ref())?,
            limits: Limits::default(),
            clients: Arc::default(),
            flights: Arc::default(),
            measured: Arc::default(),
        })
    }

    /// Other bounds on layers.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The image that a reference or image ID stands for, if it is whole.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, StoreError> {
        let _lock = self.store.lock_shared()?;
        let id = match reference::image_id(reference) {
            Some(id) => id,
            None => match self.store.reference(&self.parse(reference)?.key())? {
                Some(record) => record.image,
                None => return Ok(None),
            },
        };
        let Some(record) = self.store.image(&id)? else { return Ok(None) };
        if !record.layers.iter().all(|name| self.store.layer(name).is_dir()) {
            return Ok(None);
        }
        self.image(record, &self.names()?).map(Some)
    }

    /// All images, ordered by ID.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let _lock = self.store.lock_shared()?;
        let names = self.names()?;
        self.store.images()?.into_iter().map(|record| self.image(record, &names)).collect()
    }

    /// Removes a name; with its last tag goes the image. An image ID removes the image with all its names.
    /// Layers that a container holds stay until they are released.
    pub fn remove(&self, reference: &str) -> Result<Removed, StoreError> {
        let lock = self.store.lock()?;
        let names = self.names()?;
        let missing = || StoreError::Missing(reference.to_owned());
        let (id, doomed) = match reference::image_id(reference) {
            Some(id) => (id.clone(), names.get(&id).cloned().unwrap_or_default()),
            None => {
                let key = self.parse(reference)?.key();
                let record = self.store.reference(&key)?.ok_or_else(missing)?;
                let all = names.get(&record.image).cloned().unwrap_or_default();
                let other_tags = all.iter().any(|name| *name != key && !name.contains('@'));
                (record.image, if other_tags { BTreeSet::from([key]) } else { all })
            }
        };
        let known = self.store.image(&id)?.is_some();
        if !known && doomed.is_empty() {
            return Err(missing());
        }
        for name in &doomed {
            self.store.remove_ref(&lock, name)?;
        }
        let mut removed = Removed { untagged: doomed.iter().cloned().collect(), deleted: Vec::new() };
        if names.get(&id).is_none_or(|all| *all == doomed) {
            self.store.remove_image(&lock, &id)?;
            removed.deleted.push(id.to_string());
            self.store.sweep(lock)?;
        }
        Ok(removed)
    }

    /// Loads every image of an OCI layout directory, an OCI archive or a `docker save` archive.
    pub fn load(&self, path: &Path) -> Result<Vec<Image>, LoadError> {
        self.load_with(path, &LoadOptions::default())
    }

    /// [`Images::load`] with options.
    pub fn load_with(&self, path: &Path, options: &LoadOptions) -> Result<Vec<Image>, LoadError> {
        let ids = layout::load(&self.store, path, options, self.limits)?;
        let _lock = self.store.lock_shared()?;
        let names = self.names()?;
        let mut images = Vec::new();
        for id in ids {
            if let Some(record) = self.store.image(&id)? {
                images.push(self.image(record, &names)?);
            }
        }
        Ok(images)
    }

    /// Fetches what a reference names, even if an image of that name is here; what is here already is not fetched
    /// again. Credentials are tried in their order, then none. Several at once are fine.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: impl Into<Keyring>,
        options: &PullOptions,
    ) -> Result<Image, PullError> {
        let Self { store, limits, clients, flights, .. } = self;
        let puller = Puller { store, clients, flights, limits: *limits };
        let id = puller.pull(reference, &credentials.into(), options).await?;
        let images = self.clone();
        let image = tokio::task::spawn_blocking(move || images.get(id.as_str()))
            .await
            .map_err(|_| PullError::Interrupted)??;
        image.ok_or(PullError::Interrupted)
    }

    /// Directories of the image's layers, top first, as overlayfs' `lowerdir` wants them.
    pub fn layer_paths(&self, image: &Image) -> Result<Vec<PathBuf>, StoreError> {
        let missing = || StoreError::Missing(image.id.clone());
        let id = Digest::parse(&image.id).map_err(|_| missing())?;
        let _lock = self.store.lock_shared()?;
        let record = self.store.image(&id)?.ok_or_else(missing)?;
        let mut paths = Vec::new();
        // The same layer twice: only the upper one can be seen, and overlayfs takes a directory only once.
        for name in record.layers.iter().rev() {
            let path = self.store.layer(name);
            if paths.contains(&path) {
                continue;
            }
            let hides = lower::hides_everything(&path).map_err(disk::io("open", &path))?;
            paths.push(path);
            if hides {
                break;
            }
        }
        Ok(paths)
    }

    /// Keeps the layers of images on disk for a user of that name (a container ID), whatever happens to the images. Asking
    /// again replaces what was said before.
    pub fn hold(&self, user: &str, images: &[&Image]) -> Result<(), StoreError> {
        let id = |image: &&Image| Digest::parse(&image.id).map_err(|_| StoreError::Missing(image.id.clone()));
        self.store.hold(user, &images.iter().map(id).collect::<Result<Vec<_>, _>>()?)
    }

    /// Ends [`Images::hold`]; layers that nobody needs any more are removed. Not held: nothing happens.
    pub fn release(&self, user: &str) -> Result<(), StoreError> {
        self.store.release(user)
    }

    fn parse(&self, text: &str) -> Result<Reference, StoreError> {
        Reference::parse(text).map_err(|source| StoreError::Reference { text: text.to_owned(), source })
    }

    /// All names by image.
    fn names(&self) -> Result<BTreeMap<Digest, BTreeSet<String>>, StoreError> {
        let mut names: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        for record in self.store.refs()? {
            names.entry(record.image).or_default().insert(record.reference);
        }
        Ok(names)
    }

    fn image(
        &self,
        record: ImageRecord,
        names: &BTreeMap<Digest, BTreeSet<String>>,
    ) -> Result<Image, StoreError> {
        let bytes = self.store.blob(&record.id)?;
        let config = manifest::parse_config(&bytes, record.diff_ids.len())
            .map_err(|source| StoreError::Config { id: record.id.to_string(), source })?;
        let all = names.get(&record.id).into_iter().flatten().cloned();
        let (digests, tags) = all.partition(|name| name.contains('@'));
        Ok(Image {
            id: record.id.to_string(),
            tags,
            digests,
            size: record.size,
            config: config.run,
            layers: record.diff_ids.iter().map(Digest::to_string).collect(),
        })
    }
}
