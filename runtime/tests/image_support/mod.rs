//! Builds image layouts for tests, honest and hostile ones.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use orlop_runtime::image::{Digest, Images};
use tar::{EntryType, Header};
use tempfile::TempDir;

/// A store in a directory of its own.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) images: Images,
}

impl Bench {
    pub(crate) fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path().join("store")).unwrap();
        Self { dir, images }
    }
}

/// A layer's archive under construction.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Any entry, with a name that the `tar` crate itself would refuse to write.
    pub(crate) fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        mode: u32,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// A header as it is.
    pub(crate) fn raw(mut self, header: &Header, content: &[u8]) -> Self {
        self.0.append(header, content).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, content.as_bytes())
    }

    pub(crate) fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, "", mode, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, 0o644, b"")
    }

    /// An attribute of the next entry.
    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value)]).unwrap();
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A layer as it lies in a layout.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: Digest,
}

/// How a layer is compressed.
#[derive(Clone, Copy)]
pub(crate) enum With {
    Nothing,
    Gzip,
    Zstd,
}

pub(crate) fn layer(archive: &[u8], with: With) -> Layer {
    let blob = match with {
        With::Nothing => archive.to_vec(),
        With::Gzip => gzip(archive),
        With::Zstd => zstd::encode_all(archive, 3).unwrap(),
    };
    Layer { blob, diff_id: Digest::of(archive) }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Writes a layout of one image; `name` as `org.opencontainers.image.ref.name`. Returns the manifest's digest.
pub(crate) fn layout(dir: &Path, name: Option<&str>, layers: &[Layer]) -> Digest {
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id.to_string()).collect();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Entrypoint": ["/server"], "Cmd": ["serve"], "Env": ["A=b"], "User": "7", "WorkingDir": "/w"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let config_digest = write_blob(dir, &config);
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": write_blob(dir, &layer.blob).to_string(), "size": layer.blob.len(),
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": config_digest.to_string(), "size": config.len()},
        "layers": layers,
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let digest = write_blob(dir, &manifest);
    let mut entry = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest.to_string(), "size": manifest.len(),
    });
    if let Some(name) = name {
        entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    digest
}

pub(crate) fn write_blob(dir: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(digest.hex()), bytes).unwrap();
    digest
}

/// A tar of a directory's files.
pub(crate) fn tar_of(dir: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap()
}

/// An error with all its causes, as an operator reads it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Everything under the store that a refused image could have left: blobs, layers, images, names, work.
pub(crate) fn remains(store: &Path) -> Vec<PathBuf> {
    ["blobs/sha256", "layers", "images", "refs", "work"]
        .iter()
        .flat_map(|dir| fs::read_dir(store.join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// A refused image left nothing.
#[track_caller]
pub(crate) fn assert_nothing_remains(store: &Path) {
    let remains = remains(store);
    assert!(remains.is_empty(), "{remains:?}");
}
