//! `[p]` Manifests, indexes and image configurations: bytes from outside into types that hold.
//!
//! OCI and Docker schema 2 alike. Not for: fetching them, checking their digests.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    ImageConfig,
    digest::{Digest, DigestError},
};

/// Larger manifests and indexes are refused; registries do so too.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;
/// Larger configurations are refused.
pub(crate) const CONFIG_MAX: u64 = 8 << 20;
/// Larger layers are refused before they are fetched.
const LAYER_MAX: u64 = 64 << 30;
/// overlayfs takes 500 lower directories.
const LAYERS_MAX: usize = 500;

/// Media types asked of a registry.
pub(crate) const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Points to a blob.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    /// Not parsed yet: an entry for another platform may use an algorithm we do not know.
    digest: String,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn digest(&self) -> Result<Digest, ManifestError> {
        Digest::parse(&self.digest)
            .map_err(|source| ManifestError::Digest { text: self.digest.clone(), source })
    }
}

/// What an image runs on.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: String,
}

impl Platform {
    fn runs(&self, image: &Platform) -> bool {
        let variant_ok = match self.architecture.as_str() {
            "arm64" => matches!(image.variant.as_str(), "" | "v8"),
            "amd64" => matches!(image.variant.as_str(), "" | "v1"),
            _ => true,
        };
        self.os == image.os && self.architecture == image.architecture && variant_ok
    }
}

/// What a manifest digest can lead to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// One image: its configuration and its layers, base first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// The image's configuration, as far as running it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) run: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Why bytes are not a manifest, an index or a configuration that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON it should be.
    #[error("parse {what}")]
    Json {
        /// Manifest or configuration.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Docker schema 1 and the like.
    #[error("schema version {0} is not supported, only 2")]
    Schema(i64),
    /// Neither manifest nor index, or both at once.
    #[error("{0}")]
    Shape(&'static str),
    /// A layer that is not a tar, an artifact that is not an image.
    #[error("layer media type {0} is not supported")]
    LayerType(String),
    /// A layer whose content is, by its media type, not in the registry but somewhere else.
    #[error(
        "layer {digest} is foreign ({media_type}): its content is not in the registry, and is not fetched from elsewhere"
    )]
    ForeignLayer {
        /// Of the layer.
        digest: String,
        /// As written.
        media_type: String,
    },
    /// A layer that no disk could take.
    #[error("layer {digest} of {size} bytes, more than the limit of {LAYER_MAX}")]
    LayerSize {
        /// Of the layer.
        digest: String,
        /// As written.
        size: u64,
    },
    /// An artifact that is stored like an image but is none.
    #[error("configuration media type {0} is not that of a container image")]
    ConfigType(String),
    /// A digest that cannot be used.
    #[error("digest {text}")]
    Digest {
        /// As written.
        text: String,
        /// Why not.
        #[source]
        source: DigestError,
    },
    /// Manifest and configuration disagree.
    #[error("the manifest has {layers} layers, its configuration {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// More layers than an overlay can have.
    #[error("{0} layers, more than the {LAYERS_MAX} that an overlay can have")]
    TooManyLayers(usize),
    /// No entry of an index fits this machine.
    #[error("no image for {wanted} (there is: {offered})")]
    Platform {
        /// This machine.
        wanted: String,
        /// What the index offers.
        offered: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: i64,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index. A document that is both is refused: two readers would see two images.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { what: "manifest", source })?;
    if raw.schema_version != 2 {
        return Err(ManifestError::Schema(raw.schema_version));
    }
    match raw {
        RawDocument { manifests: Some(manifests), config: None, layers: None, .. } => {
            Ok(Document::Index(manifests))
        }
        RawDocument { manifests: None, config: Some(config), layers: Some(layers), .. } => {
            if layers.len() > LAYERS_MAX {
                return Err(ManifestError::TooManyLayers(layers.len()));
            }
            if let Some(foreign) = layers.iter().find(|layer| is_foreign(&layer.media_type)) {
                let Descriptor { digest, media_type, .. } = foreign.clone();
                return Err(ManifestError::ForeignLayer { digest, media_type });
            }
            if let Some(huge) = layers.iter().find(|layer| layer.size > LAYER_MAX) {
                return Err(ManifestError::LayerSize { digest: huge.digest.clone(), size: huge.size });
            }
            if !is_config_type(&config.media_type) {
                return Err(ManifestError::ConfigType(config.media_type));
            }
            if let Some(odd) = layers.iter().find(|layer| !is_layer_type(&layer.media_type)) {
                return Err(ManifestError::LayerType(odd.media_type.clone()));
            }
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        RawDocument { manifests: Some(_), .. } => {
            Err(ManifestError::Shape("manifest and index in one document"))
        }
        _ => Err(ManifestError::Shape("neither manifest nor index")),
    }
}

fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

fn is_config_type(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
            | "application/octet-stream"
            | ""
    )
}

/// Compression is read from the bytes, so the suffix does not matter here; encryption does.
fn is_layer_type(media_type: &str) -> bool {
    let base = media_type.split('+').next().unwrap_or_default();
    let suffix_ok = !media_type.ends_with("+encrypted");
    suffix_ok
        && matches!(
            base,
            "application/vnd.oci.image.layer.v1.tar"
                | "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        )
}

/// The entry of an index that this platform runs; one without platform only if nothing else fits.
pub(crate) fn choose<'a>(
    entries: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor, ManifestError> {
    let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| wanted.runs(p));
    let open =
        |d: &&Descriptor| d.platform.as_ref().is_none_or(|p| p.os.is_empty() && p.architecture.is_empty());
    entries.iter().find(fits).or_else(|| entries.iter().find(open)).ok_or_else(|| {
        let offered: Vec<String> = entries
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .map(|p| format!("{}/{}", p.os, p.architecture))
            .filter(|p| p != "unknown/unknown")
            .collect();
        ManifestError::Platform {
            wanted: format!("{}/{}", wanted.os, wanted.architecture),
            offered: if offered.is_empty() { "nothing".into() } else { offered.join(", ") },
        }
    })
}

#[derive(Deserialize)]
struct RawConfig {
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

/// Reads an image configuration and holds it against the number of layers of its manifest.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<Config, ManifestError> {
    let raw: RawConfig = serde_json::from_slice(bytes)
        .map_err(|source| ManifestError::Json { what: "configuration", source })?;
    let RawRun { entrypoint, cmd, env, user, working_dir, stop_signal } = raw.config.unwrap_or_default();
    let parse = |text: String| Digest::parse(&text).map_err(|source| ManifestError::Digest { text, source });
    let diff_ids: Vec<Digest> =
        raw.rootfs.diff_ids.unwrap_or_default().into_iter().map(parse).collect::<Result<_, _>>()?;
    if diff_ids.len() != layers {
        return Err(ManifestError::LayerCount { layers, diff_ids: diff_ids.len() });
    }
    let run = ImageConfig {
        entrypoint: entrypoint.unwrap_or_default(),
        cmd: cmd.unwrap_or_default(),
        env: env.unwrap_or_default(),
        user: user.unwrap_or_default(),
        working_dir: working_dir.unwrap_or_default(),
        stop_signal: stop_signal.filter(|s| !s.is_empty()),
    };
    Ok(Config { run, diff_ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn check(json: &str, expected: &str) {
        let json = json.replace("$D", &format!(r#""digest":"{D}","size":3"#));
        let found = match parse(json.as_bytes()) {
            Ok(Document::Manifest(m)) => format!("manifest, {} layers", m.layers.len()),
            Ok(Document::Index(entries)) => match choose(&entries, &amd64()) {
                Ok(entry) => format!("index, {}", entry.size),
                Err(error) => format!("error: {error}"),
            },
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(found, expected);
    }

    fn amd64() -> Platform {
        Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() }
    }

    #[test]
    fn oci_and_docker_manifests_are_read() {
        check(
            r#"{"schemaVersion":2,"config":{$D},"layers":[
                {"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd",$D},
                {"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip",$D}]}"#,
            "manifest, 2 layers",
        );
        check(r#"{"schemaVersion":2,"config":{$D},"layers":[]}"#, "manifest, 0 layers");
    }

    #[test]
    fn odd_documents_are_refused() {
        check("{", "error: parse manifest");
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#, "error: schema version 1 is not supported, only 2");
        check(r#"{"schemaVersion":2}"#, "error: neither manifest nor index");
        check(
            r#"{"schemaVersion":2,"config":{$D},"layers":[],"manifests":[]}"#,
            "error: manifest and index in one document",
        );
        check(
            r#"{"schemaVersion":2,"config":{$D},"layers":[{"mediaType":"application/wasm",$D}]}"#,
            "error: layer media type application/wasm is not supported",
        );
        check(
            r#"{"schemaVersion":2,"config":{$D},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip+encrypted",$D}]}"#,
            "error: layer media type application/vnd.oci.image.layer.v1.tar+gzip+encrypted is not supported",
        );
        check(
            r#"{"schemaVersion":2,"config":{"digest":"x","size":-1},"layers":[]}"#,
            "error: parse manifest",
        );
    }

    #[test]
    fn the_entry_for_this_platform_is_chosen() {
        let entry = |size: u32, platform: &str| format!(r#"{{"digest":"{D}","size":{size}{platform}}}"#);
        let on = |os: &str, arch: &str, variant: &str| {
            format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#)
        };
        let index =
            |entries: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let arm = entry(1, &on("linux", "arm64", "v8"));
        let amd = entry(2, &on("linux", "amd64", ""));
        let v3 = entry(3, &on("linux", "amd64", "v3"));
        let attestation = entry(4, &on("unknown", "unknown", ""));
        let open = entry(5, "");
        check(&index(&[arm.clone(), v3, amd]), "index, 2");
        check(&index(&[arm.clone(), open]), "index, 5");
        check(&index(&[arm, attestation]), "error: no image for linux/amd64 (there is: linux/arm64)");
        check(&index(&[]), "error: no image for linux/amd64 (there is: nothing)");
    }

    #[test]
    fn configuration_is_read_and_held_against_the_manifest() {
        let json = format!(
            r#"{{"architecture":"amd64","config":{{"Entrypoint":["/server"],"Cmd":null,"Env":["A=b"],"User":"1000:5",
                "WorkingDir":"/w","StopSignal":"SIGINT"}},"rootfs":{{"type":"layers","diff_ids":["{D}"]}}}}"#
        );
        let config = parse_config(json.as_bytes(), 1).unwrap();
        assert_eq!(config.run.entrypoint, ["/server"]);
        assert_eq!((config.run.user.as_str(), config.run.working_dir.as_str()), ("1000:5", "/w"));
        assert_eq!(config.run.stop_signal.as_deref(), Some("SIGINT"));
        let error = parse_config(json.as_bytes(), 2).unwrap_err();
        assert_eq!(error.to_string(), "the manifest has 2 layers, its configuration 1");
        assert!(parse_config(br#"{"rootfs":{}}"#, 0).unwrap().run.cmd.is_empty());
    }
}
