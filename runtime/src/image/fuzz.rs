//! What strangers' bytes reach first, as functions that must hold for any bytes: for fuzz targets (`fuzz/`) and for the
//! property tests below, which run always. Not part of the product.

use std::{fs, path::Path};

use super::{
    digest::Digest,
    keyring, layer, manifest,
    meter::Limits,
    reference::{self, Reference},
};

/// Small enough to be reached.
const LIMITS: Limits = Limits { layer_bytes: 1 << 20, layer_entries: 200, ratio: 100, ratio_from: 64 << 10 };
const BLOCK: usize = 512;

/// A reference that is taken says the same when it is read again, and its names are safe in paths and addresses.
pub fn reference(text: &str) {
    if let Some(id) = reference::image_id(text) {
        assert_eq!(id.hex().len(), 64);
    }
    let Ok(parsed) = Reference::parse(text) else { return };
    assert_eq!(Reference::parse(&parsed.to_string()).ok(), Some(parsed.clone()));
    for part in parsed.repository().split('/') {
        assert!(!part.is_empty() && part != "." && part != "..", "{text}");
    }
    assert!(!parsed.key().contains(['\0', ' ', '\n', '?', '#']), "{text}");
}

/// A manifest that is taken has bounded parts.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest::Document::Manifest(parsed)) = manifest::parse(bytes) {
        assert!(parsed.layers.len() <= 500);
        drop(manifest::parse_config(bytes, parsed.layers.len()));
    }
    drop(manifest::parse_config(bytes, 1));
    drop(keyring::parse_docker_config(bytes));
    drop(keyring::parse_dockercfg(bytes));
}

/// Unpacks a layer in a directory; nothing beside the layer may change. Header checksums are put right first: they are
/// no obstacle to those who mean harm.
pub fn layer(bytes: &[u8], dir: &Path) {
    let archive = repaired(bytes);
    for name in ["layer", "trash", "lower", "beside"] {
        fs::create_dir(dir.join(name)).expect("a fresh directory");
    }
    fs::create_dir(dir.join("lower/d"))
        .and_then(|()| fs::write(dir.join("lower/d/f"), "lower"))
        .expect("a lower layer");
    fs::write(dir.join("beside/secret"), "secret").expect("a file beside");
    let diff_id = Digest::of(&archive);
    let expected = layer::Expected { diff_id: &diff_id, blob: None };
    let lowers = [dir.join("lower")];
    let lowers = bytes.first().unwrap_or(&0).is_multiple_of(2).then_some(lowers.as_slice());
    drop(layer::unpack(
        archive.as_slice(),
        &dir.join("layer"),
        &dir.join("trash"),
        lowers,
        &expected,
        LIMITS,
    ));
    let mut beside: Vec<_> =
        fs::read_dir(dir).expect("readable").map(|entry| entry.expect("an entry").file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["beside", "layer", "lower", "trash"]);
    assert_eq!(fs::read_to_string(dir.join("beside/secret")).ok().as_deref(), Some("secret"));
    assert_eq!(fs::read_to_string(dir.join("lower/d/f")).ok().as_deref(), Some("lower"));
    assert_eq!(fs::read_dir(dir.join("beside")).expect("readable").count(), 1);
}

/// The bytes as an archive whose headers have right checksums.
fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + BLOCK) {
        if block.iter().all(|byte| *byte == 0) {
            at += BLOCK;
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let size = tar::Header::from_byte_slice(block).entry_size().unwrap_or(0);
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(archive.len());
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    archive
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// Words that lead deep into a tar header at their places.
    fn block() -> impl Strategy<Value = Vec<u8>> {
        let name = select(vec![
            "d/f",
            "d",
            "../x",
            "/beside/secret",
            ".wh.d",
            "d/.wh..wh..opq",
            "l",
            "l/secret",
            "a\nb",
            "",
        ]);
        let link = select(vec!["", "d/f", "../beside", "/", "l", "../../beside/secret"]);
        let kind = select(b"0123456xgLKS7\0V".to_vec());
        let size = select(vec!["00000000000", "00000000010", "00000001000", "77777777777", "xxx"]);
        (name, link, kind, size, any::<u8>(), any::<u16>()).prop_map(|(name, link, kind, size, byte, at)| {
            let mut block = vec![0; BLOCK];
            block[..name.len()].copy_from_slice(name.as_bytes());
            block[100..107].copy_from_slice(b"0004755");
            block[124..124 + size.len()].copy_from_slice(size.as_bytes());
            block[156] = kind;
            block[157..157 + link.len()].copy_from_slice(link.as_bytes());
            block[257..263].copy_from_slice(b"ustar\0");
            if at < 200 {
                block[usize::from(at)] = byte;
            }
            block
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_archive_stays_inside(blocks in vec(block(), 0..12)) {
            let dir = tempfile::tempdir().unwrap();
            layer(&blocks.concat(), dir.path());
        }

        #[test]
        fn any_bytes_are_a_layer_or_none(bytes in vec(any::<u8>(), 0..3000)) {
            let dir = tempfile::tempdir().unwrap();
            layer(&bytes, dir.path());
        }

        #[test]
        fn any_text_is_a_reference_or_none(text in "[a-zA-Z0-9./:@_\\[\\] -]{0,80}") {
            reference(&text);
        }

        #[test]
        fn any_bytes_are_a_manifest_or_none(bytes in vec(any::<u8>(), 0..300)) {
            manifest(&bytes);
        }
    }

    #[test]
    fn odd_manifests_are_no_trouble() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let long = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec!["{}"; 50_000].join(","));
        for text in
            [deep.as_str(), long.as_str(), r#"{"schemaVersion":2,"config":{},"layers":[]}"#, "null", "2"]
        {
            manifest(text.as_bytes());
        }
    }
}
