//! Pulls one image: resolve, choose the platform, fetch what the store lacks, unpack, publish.
//!
//! ```text
//!  resolve ─▶ manifest ─▶ config ─▶ Assembly ─┬─ download 0 ─▶ unpack 0 ─┐
//!                                             ├─ download 1 ─▶ unpack 1 ─┼─▶ finish (all or nothing)
//!                                             └─ …  (a few at a time)   ─┘
//! ```
//! Downloads are async, everything on disk runs on the blocking pool. Two pulls of one reference in this process
//! wait for each other; in two processes the later one throws its layers away.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::{StreamExt, TryStreamExt};
use tokio_util::task::TaskTracker;

use super::{
    Progress, PullOptions,
    access::{Opener, Origin},
    assemble::{AssembleError, Assembly, Blobs},
    digest::Digest,
    keyring::Keyring,
    layout::{current_platform, wanted},
    manifest::{self, CONFIG_MAX, Document, Manifest, ManifestError},
    meter::Limits,
    reference::{Reference, ReferenceError},
    registry::{Clients, Registry, RegistryError},
    store::{Store, StoreError},
};

/// Why an image could not be pulled. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Not a reference.
    #[error("couldn't parse image name {text:?}")]
    Reference {
        /// As asked.
        text: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// The registry does not give the manifest, or something it names.
    #[error("fetch {what} of {reference}")]
    Fetch {
        /// Manifest, configuration or layer, with digest.
        what: String,
        /// Normalized.
        reference: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// What the registry gave is not an image for this machine.
    #[error("read {what} of {reference}")]
    Document {
        /// Manifest or configuration, with digest.
        what: String,
        /// Normalized.
        reference: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A layer or the store.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The program is going down.
    #[error("the pull was interrupted")]
    Interrupted,
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Assemble(error.into())
    }
}

impl PullError {
    /// The registry could not be reached: for `RegistryUnavailable`, and worth trying again soon.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.registry(), Some(RegistryError::Unreachable(_) | RegistryError::TooManyRequests { .. }))
    }

    /// There is no such image.
    pub fn is_not_found(&self) -> bool {
        matches!(self.registry(), Some(RegistryError::NotFound))
    }

    /// Credentials are missing or wrong; other ones may help.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.registry(), Some(RegistryError::Unauthorized))
    }

    fn registry(&self) -> Option<&RegistryError> {
        match self {
            Self::Fetch { source, .. } => Some(source.root()),
            _ => None,
        }
    }
}

/// Pulls under way in this process.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    fn of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(tokio::sync::Mutex::new(()));
        flights.insert(key.to_owned(), Arc::downgrade(&flight));
        flight
    }
}

/// What every pull shares.
pub(crate) struct Puller<'a> {
    pub(crate) store: &'a Store,
    pub(crate) clients: &'a Arc<Clients>,
    pub(crate) flights: &'a Flights,
    pub(crate) limits: Limits,
}

impl Puller<'_> {
    /// Pulls and returns the image's ID.
    pub(crate) async fn pull(
        &self,
        text: &str,
        keyring: &Keyring,
        options: &PullOptions,
    ) -> Result<Digest, PullError> {
        let reference = Reference::parse(text)
            .map_err(|source| PullError::Reference { text: text.to_owned(), source })?;
        let flight = self.flights.of(&reference.key());
        let _alone = flight.lock().await;
        let registry = Registry::new(self.clients, &reference, keyring, options);
        let resolved = resolve(&registry, &reference).await?;
        let id = resolved.id.clone();
        let config = registry
            .small_blob(&id, CONFIG_MAX)
            .await
            .map_err(fetch(format!("configuration {id}"), &reference))?;
        let wanted = wanted(&resolved.manifest, id.clone(), config, resolved.blobs)
            .map_err(document(format!("configuration {id}"), &reference))?;
        options.report(|| Progress::Resolved {
            reference: reference.to_string(),
            layers: wanted.layers.len(),
            bytes: wanted.size,
        });
        let (store, limits) = (self.store.clone(), self.limits);
        let assembly = blocking(move || Ok(Assembly::begin(&store, wanted, Blobs::Proved, limits)?)).await?;
        let assembly = Arc::new(assembly);
        let tasks = TaskTracker::new();
        let outcome = fetch_layers(&registry, &reference, &assembly, options, &tasks).await;
        // What already runs on the blocking pool cannot be stopped, and writes where the assembly cleans up.
        tasks.close();
        tasks.wait().await;
        let assembly = Arc::into_inner(assembly).ok_or(PullError::Interrupted)?;
        let mut references = vec![reference.at(resolved.digest).key()];
        if reference.digest().is_none() {
            references.push(reference.key());
        }
        let by = registry.opened_by().and_then(Opener::of);
        let origin = Origin::Pulled { repository: reference.name(), by };
        blocking(move || match outcome {
            Ok(unpacked) => publish(assembly, unpacked, references, origin),
            Err(error) => {
                drop(assembly);
                Err(error)
            }
        })
        .await?;
        Ok(id)
    }
}

fn publish(
    assembly: Assembly,
    unpacked: BTreeMap<usize, PathBuf>,
    references: Vec<String>,
    origin: Origin,
) -> Result<(), PullError> {
    let blobs: Vec<PathBuf> =
        (0..assembly.wanted.layers.len()).map(|index| blob_file(&assembly, index)).collect();
    assembly.finish(unpacked, references, origin, |index| {
        File::open(&blobs[index]).map_err(|e| PullError::from(super::disk::io("open", &blobs[index])(e)))
    })
}

struct Resolved {
    /// What the reference names: of an index where the image is for many platforms.
    digest: Digest,
    id: Digest,
    manifest: Manifest,
    /// Index and manifest, to be kept.
    blobs: Vec<(Digest, Vec<u8>)>,
}

/// Follows the reference to the manifest for this machine.
async fn resolve(registry: &Registry, reference: &Reference) -> Result<Resolved, PullError> {
    let (digest, bytes) = registry.resolve().await.map_err(fetch("manifest".to_owned(), reference))?;
    let what = format!("manifest {digest}");
    let parsed = manifest::parse(&bytes).map_err(document(what.clone(), reference))?;
    let mut blobs = vec![(digest.clone(), bytes)];
    let manifest = match parsed {
        Document::Manifest(manifest) => manifest,
        Document::Index(entries) => {
            let entry =
                manifest::choose(&entries, &current_platform()).map_err(document(what.clone(), reference))?;
            let inner = entry.digest().map_err(document(what, reference))?;
            let what = format!("manifest {inner}");
            let bytes = registry.manifest_at(&inner).await.map_err(fetch(what.clone(), reference))?;
            let parsed = manifest::parse(&bytes).map_err(document(what.clone(), reference))?;
            blobs.push((inner, bytes));
            match parsed {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => {
                    let nested = ManifestError::Shape("an index inside an index");
                    return Err(document(what, reference)(nested));
                }
            }
        }
    };
    let id = manifest.config.digest().map_err(document("manifest".to_owned(), reference))?;
    Ok(Resolved { digest, id, manifest, blobs })
}

async fn fetch_layers(
    registry: &Registry,
    reference: &Reference,
    assembly: &Arc<Assembly>,
    options: &PullOptions,
    tasks: &TaskTracker,
) -> Result<BTreeMap<usize, PathBuf>, PullError> {
    let missing = assembly.missing();
    for (index, layer) in assembly.wanted.layers.iter().enumerate() {
        if !missing.contains(&index) {
            options.report(|| Progress::Present { layer: layer.name().to_string(), bytes: layer.size() });
        }
    }
    futures::stream::iter(missing)
        .map(|index| fetch_layer(registry, reference, assembly, index, options, tasks))
        .buffer_unordered(options.parallel_layers.max(1))
        .try_filter_map(|done| async { Ok(done) })
        .try_collect()
        .await
}

/// Downloads and unpacks one layer. `None`: it has to wait for those below it, and its blob is kept.
async fn fetch_layer(
    registry: &Registry,
    reference: &Reference,
    assembly: &Arc<Assembly>,
    index: usize,
    options: &PullOptions,
    tasks: &TaskTracker,
) -> Result<Option<(usize, PathBuf)>, PullError> {
    let layer = &assembly.wanted.layers[index];
    let (name, size) = (layer.name().clone(), layer.size());
    let path = blob_file(assembly, index);
    let report = |done| {
        options.report(|| Progress::Downloading { layer: name.to_string(), done, total: size });
    };
    report(0);
    registry.blob(&name, size, &path, &report).await.map_err(fetch(format!("layer {name}"), reference))?;
    options.report(|| Progress::Unpacking { layer: name.to_string() });
    let shared = Arc::clone(assembly);
    let unpack = tasks.spawn_blocking(move || -> Result<Option<PathBuf>, PullError> {
        let file = File::open(&path).map_err(super::disk::io("open", &path))?;
        let unpacked = shared.unpack(index, file)?;
        if unpacked.is_some() {
            std::fs::remove_file(&path).map_err(super::disk::io("remove", &path))?;
        }
        Ok(unpacked)
    });
    let unpacked = unpack.await.map_err(|_| PullError::Interrupted)??;
    options.report(|| Progress::LayerDone { layer: name.to_string(), bytes: size });
    Ok(unpacked.map(|path| (index, path)))
}

fn blob_file(assembly: &Assembly, index: usize) -> PathBuf {
    assembly.scratch(&format!("blob-{index}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PullError::Interrupted)?
}

fn fetch(what: String, reference: &Reference) -> impl FnOnce(RegistryError) -> PullError {
    let reference = reference.to_string();
    move |source| PullError::Fetch { what, reference, source }
}

fn document(what: String, reference: &Reference) -> impl FnOnce(ManifestError) -> PullError {
    let reference = reference.to_string();
    move |source| PullError::Document { what, reference, source }
}
