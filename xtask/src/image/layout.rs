//! Writing OCI layouts: blobs, configurations, manifests, and the index that names the images.
//!
//! The same parts give the same bytes. Not for: what is in a layer.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const EPOCH: &str = "1970-01-01T00:00:00Z";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout being written beside its place.
pub(super) struct Layout {
    scratch: TempDir,
    manifests: Vec<Value>,
}

/// A layer whose blob is in the layout.
pub(super) struct Layer {
    descriptor: Value,
    diff_id: String,
}

impl Layout {
    /// Another process may be reading what is there, or writing the same: a layout comes into its place whole.
    pub(super) fn new(out: &Path) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
        let scratch =
            tempfile::Builder::new().prefix(".image-").tempdir_in(out).context("create a place to build")?;
        let layout = Self { scratch, manifests: Vec::new() };
        fs::create_dir_all(layout.blobs()).context("create the directory of blobs")?;
        Ok(layout)
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("layout")
    }

    fn blobs(&self) -> PathBuf {
        self.root().join("blobs/sha256")
    }

    /// Adds a layer from its archive.
    pub(super) fn layer(&self, archive: &[u8]) -> Result<Layer> {
        let descriptor = self.blob(LAYER, &gzip(archive)?)?;
        Ok(Layer { descriptor, diff_id: digest(archive) })
    }

    /// Adds a layer that is compressed already.
    pub(super) fn compressed_layer(&self, file: &Path, diff_id: &str) -> Result<Layer> {
        let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        Ok(Layer { descriptor: self.blob(LAYER, &bytes)?, diff_id: format!("sha256:{diff_id}") })
    }

    /// Adds an image, lowest layer first.
    pub(super) fn image(&mut self, reference: &str, layers: &[&Layer], run: &Value) -> Result<()> {
        let architecture = architecture()?;
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let history: Vec<Value> =
            layers.iter().map(|_| json!({"created": EPOCH, "created_by": "cargo xtask image"})).collect();
        let config = json!({
            "created": EPOCH, "architecture": architecture, "os": "linux", "config": run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
        });
        let config = self.blob(CONFIG, &serde_json::to_vec(&config)?)?;
        let layers: Vec<&Value> = layers.iter().map(|layer| &layer.descriptor).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut manifest = self.blob(MANIFEST, &serde_json::to_vec(&manifest)?)?;
        manifest["annotations"] = json!({
            "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference,
        });
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        self.manifests.push(manifest);
        Ok(())
    }

    /// Puts the layout in its place.
    pub(super) fn finish(self, path: &Path) -> Result<()> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests});
        write(&self.root().join("index.json"), &serde_json::to_vec(&index)?)?;
        write(&self.root().join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        put_in_place(&self.root(), path)
    }

    /// Writes a blob and returns its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        write(&self.blobs().join(digest.trim_start_matches("sha256:")), bytes)?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }
}

/// Moves the layout `new` to `path`, unless the same images are there: a reader never finds a half or no layout.
fn put_in_place(new: &Path, path: &Path) -> Result<()> {
    use rustix::{fs, io::Errno};
    let index = |layout: &Path| std::fs::read(layout.join("index.json")).ok();
    if index(path).is_some() && index(path) == index(new) {
        return Ok(());
    }
    let moved = match fs::renameat_with(fs::CWD, new, fs::CWD, path, fs::RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => fs::renameat_with(fs::CWD, new, fs::CWD, path, fs::RenameFlags::EXCHANGE),
        other => other,
    };
    moved.with_context(|| format!("move the image to {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// No name and no time in the header.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no example images for {other}"),
    }
}
