//! Images from files: layouts, archives, names, sharing, removal. Needs no root.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod image_support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use image_support::{
    Bench, Layer, Tar, With, assert_nothing_remains, chain, gzip, layer, layout, tar_of, write_blob,
};
use orlop_runtime::image::{Digest, Image, Images, Limits, LoadOptions, Progress};

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Loads a layout of these layers.
    fn load(&self, name: &str, layers: &[Layer]) -> Result<Image, String> {
        let path = self.path("layout");
        drop(fs::remove_dir_all(&path));
        layout(&path, Some(name), layers);
        let mut images = self.images.load(&path).map_err(|e| chain(&e))?;
        assert_eq!(images.len(), 1);
        Ok(images.remove(0))
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.store().join("layers")).unwrap().count()
    }
}

fn base() -> Layer {
    layer(&Tar::new().dir("etc/", 0o755).file("etc/name", "base").file("server", "x").bytes(), With::Gzip)
}

fn read(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join(name)).unwrap()
}

#[test]
fn a_layout_becomes_an_image() {
    let bench = Bench::open();
    let top = layer(&Tar::new().dir("etc/", 0o755).file("etc/name", "top").bytes(), With::Zstd);
    let image = bench.load("orlop.dev/example/hello:v1", &[base(), top]).unwrap();
    assert_eq!(image.tags, ["orlop.dev/example/hello:v1"]);
    assert!(image.digests[0].starts_with("orlop.dev/example/hello@sha256:"), "{:?}", image.digests);
    assert_eq!((image.config.entrypoint[0].as_str(), image.config.user.as_str()), ("/server", "7"));
    assert_eq!(image.layers.len(), 2);
    let paths = bench.images.layer_paths(&image).unwrap();
    assert_eq!((read(&paths[0], "etc/name"), read(&paths[1], "etc/name")), ("top".into(), "base".into()));
    for name in
        ["orlop.dev/example/hello:v1", &image.digests[0], &image.id, image.id.trim_start_matches("sha256:")]
    {
        assert_eq!(bench.images.get(name).unwrap().as_ref(), Some(&image), "{name}");
    }
    assert_eq!(bench.images.get("orlop.dev/example/hello:v2").unwrap(), None);
    assert_eq!(bench.images.list().unwrap(), [image]);
}

#[test]
fn archives_of_all_kinds_load() {
    let bench = Bench::open();
    let loaded = bench.load("x.io/a:1", &[base()]).unwrap();
    let tar = tar_of(&bench.path("layout"));
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let path = bench.path(name);
        fs::write(&path, bytes).unwrap();
        let found = match bench.images.load(&path) {
            Ok(images) => images.iter().map(|image| image.id.clone()).collect::<Vec<_>>().join(","),
            Err(error) => chain(&error).replace(bench.dir.path().to_str().unwrap(), ""),
        };
        assert_eq!(found, expected, "{name}");
    };
    check("oci.tar", &tar, &loaded.id);
    check("oci.tar.gz", &gzip(&tar), &loaded.id);
    check("docker.tar", &docker_save(&base(), false), &docker_id(&base()));
    check("docker-links.tar", &docker_save(&base(), true), &docker_id(&base()));
    check(
        "empty.tar",
        &Tar::new().bytes(),
        "/empty.tar holds no image: it has neither index.json nor manifest.json",
    );
    check("text", &[b'x'; 600], "open /text: broken archive: header checksum");
    check("short", b"hello", "open /short: read the archive: unexpected end of file");
    check("cut.tar", &tar[..tar.len() / 2], "open /cut.tar: read the archive: unexpected end of file");
}

const DOCKER_CONFIG: &str =
    r#"{"architecture":"amd64","config":{"Cmd":["sh"]},"rootfs":{"diff_ids":["$D"]}}"#;

fn docker_config(layer: &Layer) -> String {
    DOCKER_CONFIG.replace("$D", layer.diff_id.as_str())
}

fn docker_id(layer: &Layer) -> String {
    Digest::of(docker_config(layer).as_bytes()).to_string()
}

/// As `docker save` wrote before version 25, with an uncompressed layer or, for a shared one, a link to it.
fn docker_save(layer: &Layer, link: bool) -> Vec<u8> {
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(layer.blob.as_slice()), &mut content)
        .unwrap();
    let tar = Tar::new().entry(tar::EntryType::Regular, "one/layer.tar", "", 0o644, &content);
    let (tar, name) = match link {
        true => (tar.symlink("two/layer.tar", "../one/layer.tar"), "two/layer.tar"),
        false => (tar, "one/layer.tar"),
    };
    let manifest = format!(r#"[{{"Config":"c.json","RepoTags":["hello:docker"],"Layers":["{name}"]}}]"#);
    tar.file("c.json", &docker_config(layer)).file("manifest.json", &manifest).bytes()
}

#[test]
fn docker_names_are_normalized() {
    let bench = Bench::open();
    fs::write(bench.path("d.tar"), docker_save(&base(), false)).unwrap();
    let image = bench.images.load(&bench.path("d.tar")).unwrap().remove(0);
    assert_eq!(image.tags, ["docker.io/library/hello:docker"]);
    assert_eq!(bench.images.get("hello:docker").unwrap(), Some(image));
}

#[test]
fn a_bare_tag_names_nothing_until_told() {
    let bench = Bench::open();
    let image = bench.load("v1", &[base()]).unwrap();
    assert_eq!(image.tags, [""; 0]);
    let options = LoadOptions { name: Some("hello:v1".into()), progress: None };
    let image = bench.images.load_with(&bench.path("layout"), &options).unwrap().remove(0);
    assert_eq!(image.tags, ["docker.io/library/hello:v1"]);
}

#[test]
fn layers_are_shared_and_go_with_their_last_image() {
    let bench = Bench::open();
    let other = layer(&Tar::new().file("other", "o").bytes(), With::Nothing);
    let one = bench.load("x.io/a:1", &[base()]).unwrap();
    let two = bench.load("x.io/a:2", &[base(), other]).unwrap();
    assert_eq!(bench.layers(), 2);
    let removed = bench.images.remove("x.io/a:2").unwrap();
    assert_eq!(removed.deleted, [two.id]);
    assert_eq!(removed.untagged.len(), 2);
    assert_eq!(bench.layers(), 1);
    assert!(bench.images.layer_paths(&one).unwrap()[0].join("server").exists());
    bench.images.remove(&one.id).unwrap();
    assert_nothing_remains(&bench.store());
    assert_eq!(bench.images.remove("x.io/a:1").unwrap_err().to_string(), "no image x.io/a:1");
}

#[test]
fn a_tag_moves_and_a_second_tag_keeps_the_image() {
    let bench = Bench::open();
    let old = bench.load("x.io/a:1", &[base()]).unwrap();
    bench.load("x.io/a:also", &[base()]).unwrap();
    let new = bench.load("x.io/a:1", &[layer(&Tar::new().file("n", "").bytes(), With::Gzip)]).unwrap();
    assert_eq!(bench.images.get("x.io/a:1").unwrap().unwrap().id, new.id);
    assert_eq!(bench.images.get(&old.id).unwrap().unwrap().tags, ["x.io/a:also"]);
    bench.load("x.io/b:1", &[base()]).unwrap();
    let removed = bench.images.remove("x.io/a:also").unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["x.io/a:also".to_owned()], Vec::<String>::new()));
}

#[test]
fn held_layers_outlive_their_image() {
    let bench = Bench::open();
    let image = bench.load("x.io/a:1", &[base()]).unwrap();
    let path = bench.images.layer_paths(&image).unwrap().remove(0);
    bench.images.hold("container-1", &[&image]).unwrap();
    bench.images.remove("x.io/a:1").unwrap();
    assert!(path.join("server").exists());
    bench.images.release("container-1").unwrap();
    assert!(!path.exists());
    bench.images.release("container-1").unwrap();
    assert!(bench.images.hold("container-2", &[&image]).is_err());
}

#[test]
fn progress_tells_what_happens() {
    let bench = Bench::open();
    bench.load("x.io/a:1", &[base()]).unwrap();
    let other = layer(&Tar::new().file("other", "o").bytes(), With::Gzip);
    layout(&bench.path("two"), Some("x.io/a:2"), &[base(), other]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let progress: orlop_runtime::image::Report = Arc::new(move |event| {
        sink.lock().unwrap().push(match event {
            Progress::Resolved { reference, layers, .. } => format!("resolved {reference} {layers}"),
            Progress::Present { .. } => "present".into(),
            Progress::Downloading { .. } => "downloading".into(),
            Progress::Unpacking { .. } => "unpacking".into(),
            Progress::LayerDone { .. } => "done".into(),
        });
    });
    let options = LoadOptions { name: None, progress: Some(progress) };
    bench.images.load_with(&bench.path("two"), &options).unwrap();
    assert_eq!(*seen.lock().unwrap(), ["resolved x.io/a:2 2", "present", "unpacking", "done"]);
}

#[test]
fn a_crashed_load_is_swept_away_and_a_live_one_is_not() {
    let bench = Bench::open();
    let dead = bench.store().join("work/999-0");
    fs::create_dir_all(dead.join("layer-0/etc")).unwrap();
    fs::write(dead.join("lease"), "").unwrap();
    let alive = bench.store().join("work/999-1");
    fs::create_dir_all(&alive).unwrap();
    let lease = fs::File::create(alive.join("lease")).unwrap();
    rustix::fs::flock(&lease, rustix::fs::FlockOperation::LockExclusive).unwrap();
    Images::open(bench.store()).unwrap();
    assert!(!dead.exists() && alive.exists());
}

#[test]
fn threads_load_and_remove_at_once() {
    let bench = Bench::open();
    let kept = bench.load("x.io/keep:1", &[base()]).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (bench, dir) = (&bench, bench.path(&format!("layout-{n}")));
            scope.spawn(move || {
                let own = layer(&Tar::new().file("n", &n.to_string()).bytes(), With::Gzip);
                let shared = layer(&Tar::new().file("shared", "s").bytes(), With::Gzip);
                let name = format!("x.io/n{n}:1");
                layout(&dir, Some(&name), &[base(), shared, own]);
                for _ in 0..5 {
                    let images = Images::open(bench.store()).unwrap();
                    let image = images.load(&dir).map_err(|e| chain(&e)).unwrap().remove(0);
                    let paths = bench.images.layer_paths(&image).unwrap();
                    assert_eq!((paths.len(), read(&paths[1], "shared")), (3, "s".into()));
                    bench.images.remove(&name).unwrap();
                }
            });
        }
    });
    assert_eq!(bench.images.list().unwrap(), [kept]);
    assert_eq!(bench.layers(), 1);
}

/// Loads one layer that must be refused: says why and that nothing was left.
fn check_refused(archive: &[u8], expected: &str) {
    let bench = Bench::open();
    let blob = layer(archive, With::Gzip);
    let error = bench.load("x.io/bad:1", std::slice::from_ref(&blob)).unwrap_err();
    assert_eq!(error, format!("unpack layer {}: {expected}", Digest::of(&blob.blob)));
    assert_nothing_remains(&bench.store());
}

#[test]
fn blobs_that_are_not_what_was_promised_are_refused() {
    let check = |change: &dyn Fn(&Path, &Layer), expected: &str| {
        let bench = Bench::open();
        let path = bench.path("layout");
        let layer = base();
        layout(&path, Some("x.io/a:1"), std::slice::from_ref(&layer));
        change(&path.join("blobs/sha256"), &layer);
        let error = chain(&bench.images.load(&path).unwrap_err());
        let blob = Digest::of(&layer.blob).to_string();
        assert_eq!(error.replace(&blob, "BLOB"), expected);
        assert_nothing_remains(&bench.store());
    };
    let blob_of = |dir: &Path, layer: &Layer| dir.join(Digest::of(&layer.blob).hex());
    let length = base().blob.len();
    check(
        &|dir, layer| fs::write(blob_of(dir, layer), &layer.blob[..50]).unwrap(),
        &format!(
            "unpack layer BLOB: read the layer: content of BLOB is 50 bytes long where {length} were promised"
        ),
    );
    let mut flipped = base().blob;
    flipped[60] ^= 0x10;
    let actual = Digest::of(&flipped);
    check(
        &|dir, layer| fs::write(blob_of(dir, layer), &flipped).unwrap(),
        &format!("unpack layer BLOB: read the layer: content is {actual} where BLOB was promised"),
    );
    check(
        &|dir, layer| fs::remove_file(blob_of(dir, layer)).unwrap(),
        &format!(
            "read blobs/sha256/{} of the layout: No such file or directory (os error 2)",
            Digest::of(&base().blob).hex()
        ),
    );
}

#[test]
fn content_that_is_not_the_configurations_is_refused() {
    let bench = Bench::open();
    let mut wrong = base();
    let found = wrong.diff_id.clone();
    wrong.diff_id = Digest::of(b"other");
    let error = bench.load("x.io/a:1", &[wrong.clone()]).unwrap_err();
    let expected =
        format!("layer unpacks to {found} where the configuration of the image says {}", wrong.diff_id);
    assert!(error.ends_with(&expected), "{error}");
    assert_nothing_remains(&bench.store());
}

#[test]
fn climbing_entries_are_refused() {
    let regular = tar::EntryType::Regular;
    let climb = |name: &str| Tar::new().entry(regular, name, "", 0o644, b"x").bytes();
    for name in ["../x", "a/../../x", "/../x"] {
        check_refused(&climb(name), &format!("layer entry {name:?}: the path climbs out with `..`"));
    }
}

#[test]
fn bounds_are_kept() {
    let check = |limits: Limits, archive: &[u8], expected: &str| {
        let bench = Bench::open();
        let images = bench.images.clone().with_limits(limits);
        layout(&bench.path("layout"), Some("x.io/a:1"), &[layer(archive, With::Gzip)]);
        let error = chain(&images.load(&bench.path("layout")).unwrap_err());
        assert!(error.ends_with(expected), "{error}");
        assert_nothing_remains(&bench.store());
    };
    let zeros = "\0".repeat(4 << 20);
    let bomb = Tar::new().file("zeros", &zeros).bytes();
    let small = Limits { ratio_from: 1 << 20, ..Limits::default() };
    check(small, &bomb, "write: unpacks to more than 400 times its size: a decompression bomb");
    check(
        Limits { layer_bytes: 1 << 20, ..small },
        &bomb,
        "layer entry \"zeros\": 4194304 bytes, more than the limit of 1048576",
    );
    let many = (0..30).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), "")).bytes();
    check(Limits { layer_entries: 20, ..small }, &many, "more than 20 entries in one layer");
    check(Limits { layer_bytes: 4096, ..small }, &many, "unpacks to more than 4096 bytes");
}

#[test]
fn an_index_for_other_machines_is_refused() {
    let bench = Bench::open();
    let path = bench.path("layout");
    let digest = layout(&path, None, &[base()]);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1,
            "platform":{{"os":"plan9","architecture":"mips"}}}}]}}"#
    );
    fs::write(path.join("index.json"), &index).unwrap();
    let error = chain(&bench.images.load(&path).unwrap_err());
    assert!(error.starts_with("index.json of the layout: no image for linux/"), "{error}");
    // The same as an index inside the index.
    let inner = write_blob(&path, index.replace("plan9", "linux").replace("mips", arch()).as_bytes());
    let outer = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{inner}","size":1}}]}}"#);
    fs::write(path.join("index.json"), outer).unwrap();
    assert_eq!(bench.images.load(&path).unwrap().len(), 1);
}

fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Loads and removes two images that share a layer, again and again; `KILL_TEST` says where and that it never ends.
#[test]
fn images_come_and_go() {
    let bench = Bench::open();
    let endless = std::env::var_os("KILL_TEST").map(PathBuf::from);
    let dir = endless.clone().unwrap_or_else(|| bench.dir.path().to_owned());
    let images = Images::open(dir.join("store")).unwrap();
    let noise = "0123456789abcdef".repeat(20_000);
    let shared = layer(&Tar::new().dir("d/", 0o755).file("d/noise", &noise).bytes(), With::Nothing);
    for (name, own) in [("x.io/a:1", "a"), ("x.io/b:1", "b")] {
        let own = layer(&Tar::new().file(own, own).bytes(), With::Gzip);
        layout(&dir.join(name.replace('/', "-")), Some(name), &[shared.clone(), own]);
    }
    let mut rounds = 0;
    while rounds < 3 || endless.is_some() {
        for name in ["x.io/a:1", "x.io/b:1"] {
            images.load(&dir.join(name.replace('/', "-"))).unwrap();
        }
        images.remove("x.io/a:1").unwrap();
        rounds += 1;
    }
    assert_eq!(images.list().unwrap().len(), 1);
}

#[test]
fn killed_at_any_moment_the_store_is_whole() {
    let bench = Bench::open();
    for round in 0..12_u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "images_come_and_go"])
            .env("KILL_TEST", bench.dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30 + round * 17 % 100));
        child.kill().unwrap();
        child.wait().unwrap();
        let images = Images::open(bench.store()).unwrap();
        assert_eq!(fs::read_dir(bench.store().join("work")).unwrap().count(), 0);
        let used: std::collections::BTreeSet<_> =
            images.list().unwrap().iter().flat_map(|image| image.layers.clone()).collect();
        assert_eq!(bench.layers(), used.len());
        for image in images.list().unwrap() {
            assert_eq!(images.get(&image.id).unwrap().as_ref(), Some(&image));
            let paths = images.layer_paths(&image).unwrap();
            assert_eq!(read(&paths[1], "d/noise").len(), 320_000);
        }
    }
    let images = Images::open(bench.store()).unwrap();
    images.load(&bench.path("x.io-a:1")).unwrap();
    for image in images.list().unwrap() {
        images.remove(&image.id).unwrap();
    }
    assert_nothing_remains(&bench.store());
}
