//! The words that callers of the image store use: images, options, progress. Plain data.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::registry::Registries;

/// An image that is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:<config digest>`.
    pub id: String,
    /// Normalized references that point to it.
    pub tags: Vec<String>,
    /// `repository@sha256:…`.
    pub digests: Vec<String>,
    /// Bytes of the blobs.
    pub size: u64,
    /// What containers of it start with.
    pub config: ImageConfig,
    /// diffIDs, base first.
    pub layers: Vec<String>,
}

/// The part of the image's configuration that a container starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Empty is `/`.
    pub working_dir: String,
    /// Name or number.
    pub stop_signal: Option<String>,
}

/// What happens during a load or pull, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The image is known.
    Resolved {
        /// Normalized, or the image ID where it has no name.
        reference: String,
        /// Number of layers.
        layers: usize,
        /// Bytes of all blobs.
        bytes: u64,
    },
    /// A layer is in the store already.
    Present {
        /// Digest.
        layer: String,
        /// Size of the blob; 0 if unknown.
        bytes: u64,
    },
    /// A layer is on its way. Comes at most once in a few hundred kilobytes.
    Downloading {
        /// Digest.
        layer: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// Digest.
        layer: String,
    },
    /// A layer is unpacked and verified.
    LayerDone {
        /// Digest.
        layer: String,
        /// Size of the blob; 0 if unknown.
        bytes: u64,
    },
}

/// Called with every [`Progress`], from whatever thread does the work; must not block for long.
pub type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// How to load.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// Name the image so, whatever its file says.
    pub name: Option<String>,
    /// Who wants to know.
    pub progress: Option<Report>,
}

impl LoadOptions {
    pub(super) fn report(&self, progress: impl FnOnce() -> Progress) {
        if let Some(report) = &self.progress {
            report(progress());
        }
    }
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How to pull.
#[derive(Clone)]
pub struct PullOptions {
    /// `host:port` of registries that are spoken to without TLS. All others need it.
    pub plain_http: Vec<String>,
    /// Certificate authorities to trust besides the system's, PEM.
    pub extra_ca: Vec<Vec<u8>>,
    /// For one connection.
    pub connect_timeout: Duration,
    /// Between two pieces of an answer.
    pub read_timeout: Duration,
    /// For a manifest or configuration as a whole.
    pub document_timeout: Duration,
    /// In each of these stretches of time a layer must bring [`PullOptions::pace_bytes`], or it counts as broken off.
    pub pace_window: Duration,
    /// See [`PullOptions::pace_window`].
    pub pace_bytes: u64,
    /// Layers of one image that are fetched at once.
    pub parallel_layers: usize,
    /// Mirrors, authorities and the like.
    pub registries: Arc<Registries>,
    /// Who wants to know.
    pub progress: Option<Report>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            extra_ca: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            document_timeout: Duration::from_secs(60),
            pace_window: Duration::from_secs(60),
            pace_bytes: 64 << 10,
            parallel_layers: 3,
            registries: Arc::default(),
            progress: None,
        }
    }
}

impl PullOptions {
    pub(super) fn report(&self, progress: impl FnOnce() -> Progress) {
        if let Some(report) = &self.progress {
            report(progress());
        }
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions").field("plain_http", &self.plain_http).finish_non_exhaustive()
    }
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Images that are gone with their last name.
    pub deleted: Vec<String>,
}
