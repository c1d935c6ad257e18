//! From a manifest, a configuration and blobs to an image in the store; the common half of load and pull.
//!
//! Every layer is first unpacked alone, under its diffID, so that images share it. The few archives that take
//! directories of lower layers for granted are unpacked a second time, knowing those, under their chainID.
//! Nothing shows in the store before the last layer proved to be right.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::PathBuf,
};

use super::{
    access::Origin,
    digest::{self, Digest},
    disk::io,
    layer::{self, Expected, LayerError},
    manifest::Config,
    meter::Limits,
    remove::remove_tree,
    store::{Commit, ImageRecord, Store, StoreError, Work},
};

/// An image to be had.
pub(crate) struct Wanted {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    pub(crate) size: u64,
    /// Kept: configuration and manifests.
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
    /// Base first.
    pub(crate) layers: Vec<WantedLayer>,
}

/// A layer to be had.
#[derive(Clone, Debug)]
pub(crate) struct WantedLayer {
    pub(crate) diff_id: Digest,
    /// Digest and size of the blob, where a manifest promises them.
    pub(crate) blob: Option<(Digest, u64)>,
    /// Directory name by diffID.
    pub(crate) plain: String,
    /// Directory name by chainID.
    pub(crate) chained: String,
}

impl WantedLayer {
    /// How users know it: the blob's digest if there is one.
    pub(crate) fn name(&self) -> &Digest {
        self.blob.as_ref().map_or(&self.diff_id, |(digest, _)| digest)
    }

    pub(crate) fn size(&self) -> u64 {
        self.blob.as_ref().map_or(0, |(_, size)| *size)
    }
}

/// Names and identities of layers from their diffIDs and, where known, blobs.
pub(crate) fn layers(config: &Config, blobs: Vec<Option<(Digest, u64)>>) -> Vec<WantedLayer> {
    let mut parent: Option<Digest> = None;
    config
        .diff_ids
        .iter()
        .zip(blobs)
        .map(|(diff_id, blob)| {
            let chain = digest::chain(parent.as_ref(), diff_id);
            let layer = WantedLayer {
                diff_id: diff_id.clone(),
                blob,
                plain: diff_id.hex().to_owned(),
                chained: format!("chain-{}", chain.hex()),
            };
            parent = Some(chain);
            layer
        })
        .collect()
}

/// Why an image could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer was refused.
    #[error("unpack layer {layer}")]
    Layer {
        /// Digest of the blob, or diffID where it has no blob of its own.
        layer: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
}

/// Whether blobs are still to be held against their digests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blobs {
    /// Yes: they come from a file.
    Unproved,
    /// They were, while they were fetched. What they unpack to is held against the diffID in any case.
    Proved,
}

/// An image on its way into the store; dropped, it leaves nothing.
pub(crate) struct Assembly {
    store: Store,
    work: Work,
    limits: Limits,
    blobs: Blobs,
    pub(crate) wanted: Wanted,
    /// Names that are in the store.
    have: BTreeSet<String>,
}

impl Assembly {
    pub(crate) fn begin(
        store: &Store,
        wanted: Wanted,
        blobs: Blobs,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let work = store.begin()?;
        let names: Vec<String> =
            wanted.layers.iter().flat_map(|l| [l.plain.clone(), l.chained.clone()]).collect();
        let have = work.claim(&names)?;
        Ok(Self { store: store.clone(), work, limits, blobs, wanted, have })
    }

    /// Where blobs may be kept meanwhile.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Positions of layers that are not in the store, each content once.
    pub(crate) fn missing(&self) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let layers = self.wanted.layers.iter().enumerate();
        layers
            .filter(|(_, l)| !self.have.contains(&l.plain) && !self.have.contains(&l.chained))
            .filter(|(_, l)| seen.insert(&l.diff_id))
            .map(|(i, _)| i)
            .collect()
    }

    /// Unpacks a layer by itself. `None`: it depends on those below, and must be given to [`Assembly::finish`].
    pub(crate) fn unpack(&self, index: usize, blob: impl Read) -> Result<Option<PathBuf>, AssembleError> {
        let lowers: Option<&[PathBuf]> = if index == 0 { Some(&[]) } else { None };
        match self.unpack_on(index, blob, lowers) {
            Ok(path) => Ok(Some(path)),
            Err(AssembleError::Layer { source: LayerError::NeedsLowers, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn unpack_on(
        &self,
        index: usize,
        blob: impl Read,
        lowers: Option<&[PathBuf]>,
    ) -> Result<PathBuf, AssembleError> {
        let WantedLayer { diff_id, blob: promised, .. } = &self.wanted.layers[index];
        for name in [format!("layer-{index}"), format!("trash-{index}")] {
            let path = self.scratch(&name);
            remove_tree(&path).map_err(io("remove", &path))?;
        }
        let dest = self.work.directory(&format!("layer-{index}"))?;
        let trash = self.work.directory(&format!("trash-{index}"))?;
        let promised = promised.as_ref().filter(|_| self.blobs == Blobs::Unproved);
        let expected = Expected { diff_id, blob: promised.map(|(digest, size)| (digest, Some(*size))) };
        layer::unpack(blob, &dest, &trash, lowers, &expected, self.limits).map_err(|source| {
            AssembleError::Layer { layer: self.wanted.layers[index].name().clone(), source }
        })?;
        Ok(dest)
    }

    /// Unpacks what had to wait (`blob` opens a layer again), then makes the image and its names visible.
    pub(crate) fn finish<R: Read, E: From<AssembleError>>(
        self,
        mut unpacked: BTreeMap<usize, PathBuf>,
        references: Vec<String>,
        origin: Origin,
        mut blob: impl FnMut(usize) -> Result<R, E>,
    ) -> Result<(), E> {
        let mut fresh: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (index, path) in std::mem::take(&mut unpacked) {
            fresh.insert(self.wanted.layers[index].plain.clone(), path);
        }
        // Base first: name and place of each layer.
        let mut placed: Vec<(String, PathBuf)> = Vec::new();
        for (index, layer) in self.wanted.layers.iter().enumerate() {
            let known = [&layer.plain, &layer.chained].into_iter().find_map(|name| {
                let path = fresh.get(name).cloned();
                let path = path.or_else(|| self.have.contains(name).then(|| self.store.layer(name)));
                path.map(|path| (name.clone(), path))
            });
            let place = match known {
                Some(place) => place,
                None => {
                    let lowers: Vec<PathBuf> = placed.iter().rev().map(|(_, path)| path.clone()).collect();
                    let path = self.unpack_on(index, blob(index)?, Some(&lowers))?;
                    fresh.insert(layer.chained.clone(), path.clone());
                    (layer.chained.clone(), path)
                }
            };
            placed.push(place);
        }
        let Wanted { id, size, blobs, layers } = self.wanted;
        let record = ImageRecord {
            id,
            size,
            diff_ids: layers.into_iter().map(|l| l.diff_id).collect(),
            layers: placed.into_iter().map(|(name, _)| name).collect(),
            blobs: blobs.iter().map(|(digest, _)| digest.clone()).collect(),
        };
        let commit = Commit { record, unpacked: fresh.into_iter().collect(), blobs, references, origin };
        if let Err(error) = self.work.commit(&commit) {
            drop(self.work);
            let swept = self.store.lock().and_then(|lock| self.store.sweep(lock));
            if let Err(error) = swept {
                tracing::warn!(%error, "image store not swept after a failed commit");
            }
            return Err(AssembleError::from(error).into());
        }
        Ok(())
    }
}
