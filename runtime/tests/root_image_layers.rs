//! Layers as the kernel sees them: owners, whiteouts, devices, and what hostile archives do not achieve.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod image_support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use image_support::{Bench, Layer, Tar, With, assert_nothing_remains, chain, layer, layout};
use orlop_runtime::image::{Image, Images};
use tar::{EntryType, Header};

impl Bench {
    /// With a directory `outside` that no layer may touch.
    fn new() -> Self {
        let bench = Self::open();
        fs::create_dir(bench.dir.path().join("outside")).unwrap();
        fs::write(bench.dir.path().join("outside/secret"), "secret").unwrap();
        bench
    }

    fn outside(&self) -> String {
        self.dir.path().join("outside").to_str().unwrap().to_owned()
    }

    fn load(&self, archives: &[Vec<u8>]) -> Result<Image, String> {
        let layers: Vec<Layer> = archives.iter().map(|archive| layer(archive, With::Gzip)).collect();
        let path = self.dir.path().join("layout");
        layout(&path, Some("x.io/a:1"), &layers);
        let outcome = self.images.load(&path).map_err(|error| chain(&error));
        assert_eq!(fs::read_to_string(self.dir.path().join("outside/secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(self.outside()).unwrap().count(), 1);
        outcome.map(|mut images| images.remove(0))
    }

    /// Directory of the top layer.
    fn top(&self, archives: &[Vec<u8>]) -> PathBuf {
        let image = self.load(archives).unwrap();
        self.images.layer_paths(&image).unwrap().remove(0)
    }

    fn refused(&self, archive: &[u8], expected: &str) {
        let error = self.load(&[archive.to_vec()]).unwrap_err().replace(&self.outside(), "OUTSIDE");
        let (_, text) = error.split_once(": ").unwrap();
        assert_eq!(text, expected);
        assert_nothing_remains(&self.dir.path().join("store"));
    }

    /// What `script` prints in the image's merged root file system.
    fn in_merged(&self, archives: &[Vec<u8>], script: &str) -> String {
        let image = self.load(archives).unwrap();
        let lowers = self.images.layer_paths(&image).unwrap();
        let lowers: Vec<&str> = lowers.iter().map(|path| path.to_str().unwrap()).collect();
        let root = self.dir.path().join("merged");
        fs::create_dir_all(&root).unwrap();
        // One layer needs a second one below it for an overlay without upper directory.
        let empty = self.dir.path().join("empty");
        fs::create_dir_all(&empty).unwrap();
        let options = format!("lowerdir={}:{}", lowers.join(":"), empty.display());
        let output = Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-ec",
                r#"mount -t overlay overlay -o "$1" "$2"; cd "$2"; eval "$3""#,
                "sh",
            ])
            .args([&options, root.to_str().unwrap(), script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn whiteout(path: &Path) -> bool {
    let found = fs::symlink_metadata(path).unwrap();
    found.file_type().is_char_device() && found.rdev() == 0
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
#[ignore = "root tier"]
fn symlinks_lead_nowhere_outside() {
    let bench = Bench::new();
    let outside = bench.outside();
    let top = bench.top(&[Tar::new()
        .symlink("evil", &outside)
        .file("evil/file", "inside")
        .symlink("up", "../../../../../../../../..")
        .file("up/climbed", "inside")
        .dir("d/", 0o755)
        .symlink("d/rel", "../../../..")
        .file("d/rel/also", "inside")
        .symlink("gone", "no/such/dir")
        .file("gone/x", "made")
        .file("evil/.wh.secret", "")
        .file("/abs/olute", "inside")
        .bytes()]);
    let inside = top.join(outside.trim_start_matches('/'));
    assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "inside");
    assert!(whiteout(&inside.join("secret")));
    assert_eq!(fs::read_to_string(top.join("climbed")).unwrap(), "inside");
    assert_eq!(fs::read_to_string(top.join("also")).unwrap(), "inside");
    assert_eq!(fs::read_to_string(top.join("no/such/dir/x")).unwrap(), "made");
    assert_eq!(fs::read_to_string(top.join("abs/olute")).unwrap(), "inside");
}

#[test]
#[ignore = "root tier"]
fn a_file_replaces_a_symlink_and_does_not_write_through_it() {
    let bench = Bench::new();
    let secret = format!("{}/secret", bench.outside());
    let top = bench.top(&[Tar::new()
        .symlink("a", &secret)
        .file("a", "new")
        .dir("d/", 0o755)
        .file("d/x", "")
        .symlink("d", &bench.outside())
        .symlink("e", &bench.outside())
        .dir("e/", 0o700)
        .file("e/y", "y")
        .bytes()]);
    assert_eq!(fs::read_to_string(top.join("a")).unwrap(), "new");
    assert!(fs::symlink_metadata(top.join("d")).unwrap().is_symlink());
    assert!(fs::symlink_metadata(top.join("e")).unwrap().is_dir());
    assert_eq!(fs::metadata(top.join("e")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
#[ignore = "root tier"]
fn hard_links_reach_only_the_image() {
    let bench = Bench::new();
    let secret = format!("{}/secret", bench.outside());
    bench.refused(
        &Tar::new().hardlink("stolen", &secret).bytes(),
        "layer entry \"stolen\": hard link to \"OUTSIDE/secret\", which the image does not have",
    );
    bench.refused(
        &Tar::new().symlink("way", &bench.outside()).hardlink("stolen", "way/secret").bytes(),
        "layer entry \"stolen\": hard link to \"way/secret\", which the image does not have",
    );
    bench.refused(
        &Tar::new().hardlink("stolen", "../../etc/passwd").bytes(),
        "layer entry \"../../etc/passwd\": the path climbs out with `..`",
    );
    bench.refused(
        &Tar::new().hardlink("self", "self").bytes(),
        "layer entry \"self\": hard link to \"self\", which the image does not have",
    );
    // The symlink itself gets a second name; writing to that name later replaces it.
    let top = bench.top(&[Tar::new()
        .symlink("link", &secret)
        .hardlink("same", "link")
        .file("same", "replaced")
        .file("f", "f")
        .hardlink("g", "/f")
        .bytes()]);
    assert_eq!(fs::read_to_string(top.join("same")).unwrap(), "replaced");
    assert_eq!(fs::metadata(top.join("g")).unwrap().nlink(), 2);
}

#[test]
#[ignore = "root tier"]
fn names_that_climb_are_refused() {
    let bench = Bench::new();
    let climbs = |name: &str| format!("layer entry {name:?}: the path climbs out with `..`");
    for name in ["../x", "a/../../x", "/.."] {
        bench.refused(&Tar::new().file(name, "x").bytes(), &climbs(name));
    }
    for name in [".wh.", "a/.wh..", ".wh..."] {
        let text = format!("layer entry {name:?}: the whiteout names no file");
        bench.refused(&Tar::new().file(name, "").bytes(), &text);
    }
}

#[test]
#[ignore = "root tier"]
fn a_file_where_a_directory_is_needed_is_refused() {
    let bench = Bench::new();
    bench.refused(
        &Tar::new().file("f", "x").file("f/g", "y").bytes(),
        "layer entry \"f/g\": find its directory: Not a directory (os error 20)",
    );
    bench.refused(
        &Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "").bytes(),
        "layer entry \"a/x\": find its directory: Too many levels of symbolic links (os error 40)",
    );
}

#[test]
#[ignore = "root tier"]
fn huge_sparse_files_are_refused_before_they_are_written() {
    let bench = Bench::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("hole").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 60);
    header.set_cksum();
    bench.refused(
        &Tar::new().raw(&header, b"").bytes(),
        "layer entry \"hole\": 1152921504606846976 bytes, more than the limit of 68719476736",
    );
}

#[test]
#[ignore = "root tier"]
fn sparse_files_have_their_bytes_where_they_belong() {
    let bench = Bench::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("hole").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(512);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(100_000);
    gnu.sparse[0].set_offset(50_176);
    gnu.sparse[0].set_length(512);
    header.set_cksum();
    let top = bench.top(&[Tar::new().raw(&header, &[b'x'; 512]).file("after", "ok").bytes()]);
    let content = fs::read(top.join("hole")).unwrap();
    assert_eq!((content.len(), content[50_175], content[50_176], content[50_688]), (100_000, 0, b'x', 0));
    assert_eq!(fs::read_to_string(top.join("after")).unwrap(), "ok");
}

#[test]
#[ignore = "root tier"]
fn nesting_without_end_leaves_nothing() {
    let bench = Bench::new();
    // Each round goes 20 directories deeper through a symlink to where the last one ended.
    let mut tar = Tar::new().symlink("s0", ".");
    for round in 0..100 {
        let deep = format!("s{round}/{}", "d/".repeat(20));
        tar = tar.dir(&deep, 0o755).symlink(&format!("s{}", round + 1), deep.trim_end_matches('/'));
    }
    let error = bench.load(&[tar.file("../x", "").bytes()]).unwrap_err();
    assert!(error.contains("layer entry"), "{error}");
    assert_nothing_remains(&bench.dir.path().join("store"));
}

#[test]
#[ignore = "root tier"]
fn owners_modes_times_and_attributes_are_kept() {
    let bench = Bench::new();
    let mut header = Header::new_gnu();
    header.set_path("bin/tool").unwrap();
    header.set_mode(0o4755);
    header.set_uid(1234);
    header.set_gid(4321);
    header.set_mtime(1_600_000_000);
    header.set_size(1);
    header.set_cksum();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let top = bench.top(&[Tar::new()
        .dir("bin/", 0o1777)
        .raw(&header, b"x")
        .xattr("security.capability", capability)
        .xattr("user.note", b"a\nb")
        .file("bin/ping", "x")
        .xattr("trusted.overlay.opaque", b"y")
        .xattr("user.overlay.opaque", b"y")
        .dir("plain/", 0o755)
        .entry(EntryType::Char, "null", "", 0o666, b"")
        .entry(EntryType::Fifo, "fifo", "", 0o640, b"")
        .bytes()]);
    let tool = fs::metadata(top.join("bin/tool")).unwrap();
    assert_eq!(
        (tool.mode() & 0o7777, tool.uid(), tool.gid(), tool.mtime()),
        (0o4755, 1234, 4321, 1_600_000_000)
    );
    let bin = fs::metadata(top.join("bin")).unwrap();
    assert_eq!((bin.mode() & 0o7777, bin.mtime()), (0o1777, 1_700_000_000));
    assert_eq!(attribute(&top.join("bin/ping"), "security.capability").unwrap(), capability);
    assert_eq!(attribute(&top.join("plain"), "trusted.overlay.opaque"), None);
    assert_eq!(attribute(&top.join("plain"), "user.overlay.opaque"), None);
    let null = fs::metadata(top.join("null")).unwrap();
    assert_eq!((null.file_type().is_char_device(), null.rdev(), null.mode() & 0o777), (true, 0x103, 0o666));
    assert!(fs::metadata(top.join("fifo")).unwrap().file_type().is_fifo());
    let store = fs::metadata(bench.dir.path().join("store/layers")).unwrap();
    assert_eq!(store.mode() & 0o777, 0o700, "setuid programs of images are not for users of the host");
}

fn base() -> Vec<u8> {
    Tar::new()
        .dir("etc/", 0o755)
        .file("etc/one", "1")
        .file("etc/two", "2")
        .dir("opt/", 0o755)
        .file("opt/old", "old")
        .dir("gone/", 0o755)
        .file("gone/x", "x")
        .dir("usr/", 0o755)
        .dir("usr/lib/", 0o755)
        .file("usr/lib/base.so", "base")
        .symlink("lib", "usr/lib")
        .dir("tmp/", 0o1777)
        .bytes()
}

#[test]
#[ignore = "root tier"]
fn whiteouts_hide_what_lies_below() {
    let bench = Bench::new();
    let top = Tar::new()
        .dir("etc/", 0o755)
        .file("etc/.wh.one", "")
        .dir("opt/", 0o755)
        .file("opt/.wh..wh..opq", "")
        .file("opt/new", "new")
        .file(".wh.gone", "")
        .bytes();
    let seen = bench.in_merged(&[base(), top], "find etc opt gone -type f 2>/dev/null | sort || true");
    assert_eq!(seen, "etc/two\nopt/new\n");
}

#[test]
#[ignore = "root tier"]
fn a_directory_made_anew_hides_the_old_one_in_either_order() {
    let bench = Bench::new();
    for tar in [
        Tar::new().file(".wh.opt", "").dir("opt/", 0o755).file("opt/new", "new"),
        Tar::new().dir("opt/", 0o755).file("opt/new", "new").file(".wh.opt", ""),
        Tar::new().file(".wh.opt", "").file("opt/new", "new"),
    ] {
        assert_eq!(bench.in_merged(&[base(), tar.bytes()], "ls opt"), "new\n");
    }
    let file = Tar::new().file(".wh.opt", "").file("opt", "a file").bytes();
    assert_eq!(bench.in_merged(&[base(), file], "cat opt"), "a file");
}

#[test]
#[ignore = "root tier"]
fn directories_taken_for_granted_are_as_below() {
    let bench = Bench::new();
    let top = Tar::new().file("tmp/x", "x").file("lib/new.so", "new").file("srv/y", "y").bytes();
    let script = "stat -c %a tmp srv; ls lib/; readlink lib; ls";
    let seen = bench.in_merged(&[base(), top.clone()], script);
    assert_eq!(seen, "1777\n755\nbase.so\nnew.so\nusr/lib\netc\ngone\nlib\nopt\nsrv\ntmp\nusr\n");
    // On another base the same archive is another layer.
    let other = Tar::new().dir("tmp/", 0o700).dir("lib/", 0o711).bytes();
    assert_eq!(bench.in_merged(&[other, top], "stat -c %a tmp lib; ls lib"), "700\n711\nnew.so\n");
}

#[test]
#[ignore = "root tier"]
fn hard_links_to_lower_layers_are_one_file() {
    let bench = Bench::new();
    let top = Tar::new().hardlink("etc/linked", "etc/one").bytes();
    let seen =
        bench.in_merged(&[base(), top], "cat etc/linked; stat -c ' %h' etc/one etc/linked; cat etc/two");
    assert_eq!(seen, "1 2\n 2\n2");
    let hidden = Tar::new().dir("etc/", 0o755).file("etc/.wh.one", "").bytes();
    let link = Tar::new().hardlink("stolen", "etc/one").bytes();
    let error = bench.load(&[base(), hidden, link]).unwrap_err();
    assert!(error.ends_with("hard link to \"etc/one\", which the image does not have"), "{error}");
}

#[test]
#[ignore = "root tier"]
fn the_same_layer_twice_counts_once() {
    let bench = Bench::new();
    let middle = Tar::new().dir("etc/", 0o755).file("etc/.wh.one", "").bytes();
    assert_eq!(bench.in_merged(&[base(), middle, base()], "cat etc/one"), "1");
}

#[test]
#[ignore = "root tier"]
fn an_opaque_root_hides_all_layers_below() {
    let bench = Bench::new();
    let top = Tar::new().file(".wh..wh..opq", "").file("only", "o").bytes();
    assert_eq!(bench.in_merged(&[base(), top], "ls"), "only\n");
}

#[test]
#[ignore = "root tier"]
fn a_layout_does_not_lead_out_of_its_directory() {
    let bench = Bench::new();
    let path = bench.dir.path().join("layout");
    let good = layer(&base(), With::Gzip);
    layout(&path, Some("x.io/a:1"), std::slice::from_ref(&good));
    let blob = path.join("blobs/sha256").join(orlop_runtime::image::Digest::of(&good.blob).hex());
    fs::remove_file(&blob).unwrap();
    symlink(format!("{}/secret", bench.outside()), &blob).unwrap();
    let error = chain(&bench.images.load(&path).unwrap_err());
    assert!(error.contains("of the layout: "), "{error}");
    assert_nothing_remains(&bench.dir.path().join("store"));
}

#[test]
#[ignore = "root tier"]
fn a_full_disk_is_one_error_and_leaves_nothing() {
    let bench = Bench::new();
    let layout_dir = bench.dir.path().join("layout");
    let zeros = "x".repeat(8 << 20);
    layout(&layout_dir, Some("x.io/a:1"), &[layer(&Tar::new().file("big", &zeros).bytes(), With::Gzip)]);
    // A file system of four megabytes, in a mount namespace that ends with the child.
    let small = bench.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let program = std::env::current_exe().unwrap();
    let script = r#"mount -t tmpfs -o size=4m small "$1"; shift; exec "$@""#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script, "sh", small.to_str().unwrap(), program.to_str().unwrap()])
        .args(["--ignored", "--exact", "a_load_ends_whole_or_leaves_nothing", "--nocapture"])
        .env("IMAGE_TEST_LAYOUT", &layout_dir)
        .env("IMAGE_TEST_STORE", small.join("store"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let expected = "layer entry \"big\": write: No space left on device (os error 28)";
    assert!(output.status.success() && text.contains(expected), "{text}");
}

/// Also runs as a process of its own, in a store and with a layout given by another test.
#[test]
#[ignore = "root tier"]
fn a_load_ends_whole_or_leaves_nothing() {
    let bench = Bench::new();
    let given = |name: &str, own: &str| {
        std::env::var(name).map_or_else(|_| bench.dir.path().join(own), PathBuf::from)
    };
    let (path, store) = (given("IMAGE_TEST_LAYOUT", "layout"), given("IMAGE_TEST_STORE", "store"));
    if !path.exists() {
        layout(&path, Some("x.io/a:1"), &[layer(&base(), With::Gzip)]);
    }
    let images = Images::open(&store).unwrap();
    match images.load(&path) {
        Ok(loaded) => assert_eq!(images.layer_paths(&loaded[0]).unwrap().len(), loaded[0].layers.len()),
        Err(error) => {
            println!("{}", chain(&error));
            assert_nothing_remains(&store);
        }
    }
}

/// One entry of a random archive: what it is, where it goes, what it points to.
fn random_entry() -> impl proptest::strategy::Strategy<Value = (usize, String, String)> {
    use proptest::prelude::*;
    let part = prop::sample::select(vec!["a", "b", "c", ".", "..", "outside", ".wh.a", ".wh..wh..opq"]);
    let plain = prop::sample::select(vec!["a", "b", "c", "outside", "secret"]);
    let name = prop_oneof![
        9 => prop::collection::vec(plain, 1..5).prop_map(|parts| parts.join("/")),
        1 => prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/")),
    ];
    let targets = vec![
        "/",
        "..",
        "../..",
        "../../..",
        "a",
        "b/c",
        "/a",
        ".",
        "OUTSIDE",
        "OUTSIDE/secret",
        "b/../../..",
    ];
    (0..20_usize, name, prop::sample::select(targets).prop_map(str::to_owned))
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]
    #[test]
    #[ignore = "root tier"]
    fn no_sequence_of_entries_leaves_the_layer(
        entries in proptest::collection::vec(random_entry(), 1..25), on_base in proptest::bool::ANY,
    ) {
        let bench = Bench::new();
        let outside = bench.outside();
        let archive = entries.iter().fold(Tar::new(), |tar, (kind, name, target)| {
            let target = target.replace("OUTSIDE", &outside);
            match kind {
                0..6 => tar.file(name, "overwritten"),
                6..10 => tar.dir(&format!("{name}/"), 0o755),
                10..17 => tar.symlink(name, &target),
                17 | 18 => tar.hardlink(name, &target),
                _ => tar.entry(EntryType::Fifo, name, "", 0o600, b""),
            }
        });
        let mut archives = vec![archive.bytes()];
        if on_base {
            archives.insert(0, base());
        }
        // `load` itself checks that nothing outside has changed.
        if bench.load(&archives).is_err() {
            assert_nothing_remains(&bench.dir.path().join("store"));
        }
        let mut names: Vec<_> = fs::read_dir(bench.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        proptest::prop_assert_eq!(names, ["layout", "outside", "store"]);
    }
}
