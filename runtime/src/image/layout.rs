//! Loads images from an OCI image layout (directory or tar) or a `docker save` tar.
//!
//! Not for: fetching, unpacking.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    LoadOptions, Progress,
    access::Origin,
    assemble::{self, AssembleError, Assembly, Blobs, Wanted},
    digest::{Digest, Mismatch, verify},
    manifest::{self, CONFIG_MAX, DOCUMENT_MAX, Descriptor, Document, Manifest, ManifestError, Platform},
    meter::Limits,
    reference::{Reference, ReferenceError},
    source::{Source, SourceError, blob_path},
    store::{Store, StoreError},
};

/// An index inside an index inside an index is a joke.
const NESTING_MAX: usize = 3;

/// Why images could not be loaded from a file. What was loaded before the failure stays.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not there, not readable, not an archive.
    #[error("open {path}")]
    Open {
        /// What was to be loaded.
        path: PathBuf,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// Neither an OCI layout nor a `docker save` archive.
    #[error("{path} holds no image: it has neither index.json nor manifest.json")]
    NotAnImage {
        /// What was to be loaded.
        path: PathBuf,
    },
    /// A file of the layout is missing or unreadable.
    #[error("read {name} of the layout")]
    Part {
        /// Which file.
        name: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("check {name} of the layout")]
    Digest {
        /// Which file.
        name: PathBuf,
        /// How it differs.
        #[source]
        source: Mismatch,
    },
    /// A document that does not describe an image for this machine.
    #[error("{name} of the layout")]
    Document {
        /// Which file.
        name: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A name that is not an image reference.
    #[error("image name {name:?}")]
    Name {
        /// As written.
        name: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// A layer or the store.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
}

impl From<StoreError> for LoadError {
    fn from(error: StoreError) -> Self {
        Self::Assemble(error.into())
    }
}

/// An image found in a source, before anything of it is unpacked.
struct Found {
    wanted: Wanted,
    /// Files of the layers, base first.
    files: Vec<PathBuf>,
    references: Vec<String>,
}

/// Loads all images of a file or directory and returns their IDs.
pub(crate) fn load(
    store: &Store,
    path: &Path,
    options: &LoadOptions,
    limits: Limits,
) -> Result<Vec<Digest>, LoadError> {
    let scratch = store.begin()?;
    let source = Source::open(path, scratch.path(), limits)
        .map_err(|source| LoadError::Open { path: path.to_owned(), source })?;
    let found = if source.has("index.json") {
        oci_images(&source, options)?
    } else if source.has("manifest.json") {
        docker_images(&source, options)?
    } else {
        return Err(LoadError::NotAnImage { path: path.to_owned() });
    };
    found.into_iter().map(|image| assemble(store, &source, image, options, limits)).collect()
}

fn assemble(
    store: &Store,
    source: &Source,
    found: Found,
    options: &LoadOptions,
    limits: Limits,
) -> Result<Digest, LoadError> {
    let Found { wanted, files, references } = found;
    let id = wanted.id.clone();
    options.report(|| Progress::Resolved {
        reference: references.first().cloned().unwrap_or_else(|| id.to_string()),
        layers: wanted.layers.len(),
        bytes: wanted.size,
    });
    let open = |index: usize| -> Result<_, LoadError> {
        source.file(&files[index]).map_err(|e| LoadError::Part { name: files[index].clone(), source: e })
    };
    let assembly = Assembly::begin(store, wanted, Blobs::Unproved, limits)?;
    let mut unpacked = BTreeMap::new();
    let missing = assembly.missing();
    for index in 0..assembly.wanted.layers.len() {
        let layer = &assembly.wanted.layers[index];
        let (name, bytes) = (layer.name().to_string(), layer.size());
        if !missing.contains(&index) {
            options.report(|| Progress::Present { layer: name, bytes });
            continue;
        }
        options.report(|| Progress::Unpacking { layer: name.clone() });
        if let Some(path) = assembly.unpack(index, open(index)?)? {
            unpacked.insert(index, path);
        }
        options.report(|| Progress::LayerDone { layer: name, bytes });
    }
    assembly.finish(unpacked, references, Origin::Loaded, open)?;
    Ok(id)
}

fn document(name: &Path) -> impl FnOnce(ManifestError) -> LoadError {
    move |source| LoadError::Document { name: name.to_owned(), source }
}

fn read(source: &Source, name: &Path, max: u64) -> Result<Vec<u8>, LoadError> {
    source.read(name, max).map_err(|source| LoadError::Part { name: name.to_owned(), source })
}

/// A blob of the layout, held against its digest.
fn read_blob(source: &Source, digest: &Digest, max: u64) -> Result<Vec<u8>, LoadError> {
    let name = blob_path(digest);
    let bytes = read(source, &name, max)?;
    verify(&bytes, digest).map_err(|source| LoadError::Digest { name, source })?;
    Ok(bytes)
}

fn oci_images(source: &Source, options: &LoadOptions) -> Result<Vec<Found>, LoadError> {
    let name = Path::new("index.json");
    let bytes = read(source, name, DOCUMENT_MAX)?;
    let Document::Index(entries) = manifest::parse(&bytes).map_err(document(name))? else {
        return Err(document(name)(ManifestError::Shape("not an index")));
    };
    // Several entries without names are one image for several platforms.
    let named: Vec<&Descriptor> = entries.iter().filter(|entry| annotated_name(entry).is_some()).collect();
    let chosen = match named.is_empty() {
        true => vec![manifest::choose(&entries, &current_platform()).map_err(document(name))?],
        false => named,
    };
    // The same manifest may stand there once for every tag.
    let mut images: BTreeMap<Digest, Found> = BTreeMap::new();
    for entry in chosen {
        let digest = entry.digest().map_err(document(name))?;
        let references = names(entry, &digest, options)?;
        match images.get_mut(&digest) {
            Some(found) => found.references.extend(references),
            None => {
                let mut found = oci_image(source, entry)?;
                found.references = references;
                images.insert(digest, found);
            }
        }
    }
    Ok(images.into_values().collect())
}

fn oci_image(source: &Source, entry: &Descriptor) -> Result<Found, LoadError> {
    let mut blobs = Vec::new();
    let mut digest = entry.digest().map_err(document(Path::new("index.json")))?;
    let manifest = loop {
        let name = blob_path(&digest);
        let bytes = read_blob(source, &digest, DOCUMENT_MAX)?;
        let parsed = manifest::parse(&bytes).map_err(document(&name))?;
        blobs.push((digest, bytes));
        match parsed {
            Document::Manifest(manifest) => break manifest,
            Document::Index(_) if blobs.len() >= NESTING_MAX => {
                return Err(document(&name)(ManifestError::Shape("indexes nested too deeply")));
            }
            Document::Index(entries) => {
                let entry = manifest::choose(&entries, &current_platform()).map_err(document(&name))?;
                digest = entry.digest().map_err(document(&name))?;
            }
        }
    };
    let id = manifest.config.digest().map_err(document(Path::new("manifest")))?;
    let config = read_blob(source, &id, CONFIG_MAX)?;
    let wanted = wanted(&manifest, id.clone(), config, blobs).map_err(document(&blob_path(&id)))?;
    let files = wanted.layers.iter().map(|layer| blob_path(layer.name())).collect();
    Ok(Found { wanted, files, references: Vec::new() })
}

/// What has to be had for a manifest whose configuration is at hand.
pub(crate) fn wanted(
    manifest: &Manifest,
    id: Digest,
    config: Vec<u8>,
    mut blobs: Vec<(Digest, Vec<u8>)>,
) -> Result<Wanted, ManifestError> {
    let parsed = manifest::parse_config(&config, manifest.layers.len())?;
    let descriptors: Vec<Option<(Digest, u64)>> = manifest
        .layers
        .iter()
        .map(|l| Ok(Some((l.digest()?, l.size))))
        .collect::<Result<_, ManifestError>>()?;
    let layer_bytes = manifest.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    let size = layer_bytes.saturating_add(config.len() as u64);
    blobs.push((id.clone(), config));
    Ok(Wanted { id, size, blobs, layers: assemble::layers(&parsed, descriptors) })
}

/// The platform that this program was built for.
pub(crate) fn current_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
}

fn annotated_name(entry: &Descriptor) -> Option<&str> {
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
        .into_iter()
        .find_map(|key| entry.annotations.get(key))
        .map(String::as_str)
}

/// Names for an entry. A bare tag (`v1`) names nothing without a repository, which the options may give.
fn names(entry: &Descriptor, digest: &Digest, options: &LoadOptions) -> Result<Vec<String>, LoadError> {
    let name = match (&options.name, annotated_name(entry)) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) if name.contains(['/', ':']) => name.to_owned(),
        _ => return Ok(Vec::new()),
    };
    let reference = parse_name(&name)?;
    Ok(vec![reference.key(), reference.at(digest.clone()).key()])
}

fn parse_name(name: &str) -> Result<Reference, LoadError> {
    Reference::parse(name).map_err(|source| LoadError::Name { name: name.to_owned(), source })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: PathBuf,
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

fn docker_images(source: &Source, options: &LoadOptions) -> Result<Vec<Found>, LoadError> {
    let name = Path::new("manifest.json");
    let bytes = read(source, name, DOCUMENT_MAX)?;
    let entries: Vec<DockerEntry> = serde_json::from_slice(&bytes)
        .map_err(|source| document(name)(ManifestError::Json { what: "manifest.json", source }))?;
    entries.into_iter().map(|entry| docker_image(source, entry, options)).collect()
}

fn docker_image(source: &Source, entry: DockerEntry, options: &LoadOptions) -> Result<Found, LoadError> {
    let DockerEntry { config: config_name, repo_tags, layers: files } = entry;
    let config = read(source, &config_name, CONFIG_MAX)?;
    let id = Digest::of(&config);
    let parsed = manifest::parse_config(&config, files.len()).map_err(document(&config_name))?;
    let tags = match &options.name {
        Some(name) => vec![name.clone()],
        None => repo_tags.unwrap_or_default(),
    };
    let references = tags.iter().map(|tag| Ok(parse_name(tag)?.key())).collect::<Result<_, LoadError>>()?;
    let mut size = config.len() as u64;
    for file in &files {
        size += source.size(file).map_err(|source| LoadError::Part { name: file.clone(), source })?;
    }
    let layers = assemble::layers(&parsed, vec![None; files.len()]);
    let wanted = Wanted { id: id.clone(), size, blobs: vec![(id, config)], layers };
    Ok(Found { wanted, files, references })
}
