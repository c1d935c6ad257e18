//! Images that mean harm, disks that fill up, pulls that are killed: each in a process of its own, whose memory is
//! measured.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "image_support/fake_registry.rs"]
mod fake_registry;
mod image_support;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use fake_registry::{Answer, FakeRegistry};
use image_support::{Layer, Tar, With, assert_nothing_remains, chain, gzip, layer, layout};
use orlop_runtime::image::{Digest, Images, Keyring, Limits, PullOptions};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use tempfile::TempDir;

/// Peak of what a process may take to unpack anything, kilobytes.
const MEMORY_MAX: u64 = 40 << 10;

/// What a process may take of the processors for it, hundredths of a second. Not the time: others may be busy.
const CPU_MAX: u64 = 1000;

/// The work of a child process: what to do, with what and where comes from the environment.
#[test]
#[ignore = "root tier"]
fn child() {
    let given = |name: &str| std::env::var(name).ok();
    let Some(store) = given("HOSTILE_STORE") else { return };
    let mut images = Images::open(&store).unwrap();
    if let Some(entries) = given("HOSTILE_ENTRIES") {
        images = images.with_limits(Limits { layer_entries: entries.parse().unwrap(), ..Limits::default() });
    }
    let outcome = match given("HOSTILE_PULL") {
        None => images.load(Path::new(&given("HOSTILE_LOAD").unwrap())).map(drop).map_err(|e| chain(&e)),
        Some(reference) => {
            let host = reference.split('/').next().unwrap().to_owned();
            let options = PullOptions { plain_http: vec![host], ..PullOptions::default() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let pulled = runtime.block_on(images.pull(&reference, Keyring::default(), &options));
            pulled.map(drop).map_err(|e| chain(&e))
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("\npeak {}", peak.trim().trim_end_matches(" kB"));
    // Fields 14 and 15, counted after the name: what this process had of the processors, in hundredths of a second.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    println!("cpu {}", fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>());
    println!("outcome {}", outcome.map_or_else(|error| error, |()| "whole".to_owned()));
}

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn layout(&self, layers: &[Layer]) {
        layout(&self.path("layout"), Some("x.io/a:1"), layers);
    }

    fn command(&self, more: &[(&str, &str)]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env("HOSTILE_STORE", self.path("store"))
            .envs(more.iter().copied());
        command
    }

    /// Loads the layout in a child; says what came of it and asserts the memory.
    fn load(&self, more: &[(&str, &str)]) -> String {
        let output = self.command(more).env("HOSTILE_LOAD", self.path("layout")).output().unwrap();
        outcome(&output)
    }
}

fn outcome(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let find = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    let peak = find("peak ").unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    assert!(peak.parse::<u64>().unwrap() < MEMORY_MAX, "{peak} kB");
    let cpu = find("cpu ").unwrap();
    assert!(cpu.parse::<u64>().unwrap() < CPU_MAX, "{cpu} hundredths of a second");
    find("outcome ").unwrap()
}

/// A layer whose archive is `head`, then `piece` so many times; gzip and zstd both take pieces one after the other.
fn repeated(head: &[u8], piece: &[u8], times: usize, pack: impl Fn(&[u8]) -> Vec<u8>) -> Layer {
    let mut blob = pack(head);
    let packed = pack(piece);
    blob.extend(packed.iter().copied().cycle().take(packed.len() * times));
    // What its configuration would say does not matter: nobody gets that far.
    Layer { blob, diff_id: Digest::of(b"not computed") }
}

#[test]
#[ignore = "root tier"]
fn ten_gigabytes_of_zeros_are_not_written() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(10 << 30);
    header.set_cksum();
    let piece = vec![0; 10 << 20];
    let gzipped = repeated(header.as_bytes(), &piece, 1024, gzip);
    assert!((8 << 20..12 << 20).contains(&gzipped.blob.len()), "{}", gzipped.blob.len());
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 19).unwrap();
    for bomb in [gzipped, repeated(header.as_bytes(), &piece, 1024, zstd)] {
        let bench = Bench::new();
        let digest = Digest::of(&bomb.blob);
        bench.layout(&[bomb]);
        assert_eq!(
            bench.load(&[]),
            format!(
                "unpack layer {digest}: layer entry \"zeros\": write: unpacks to more than 400 times its size: a \
                 decompression bomb"
            )
        );
        assert_nothing_remains(&bench.path("store"));
    }
}

#[test]
#[ignore = "root tier"]
fn ten_million_entries_end_at_the_limit() {
    let entries: Vec<u8> =
        (0..1000).flat_map(|n| Tar::new().file(&format!("f{n}"), "").bytes()[..512].to_vec()).collect();
    let bench = Bench::new();
    let many = repeated(&entries, &entries, 9_999, gzip);
    let digest = Digest::of(&many.blob);
    bench.layout(std::slice::from_ref(&many));
    let text = bench.load(&[("HOSTILE_ENTRIES", "20000")]);
    assert_eq!(text, format!("unpack layer {digest}: more than 20000 entries in one layer"));
    assert_nothing_remains(&bench.path("store"));
    // The same as an archive of images: its list of files must not grow with it.
    let archive = bench.path("archive.tar.gz");
    let names: Vec<u8> =
        (0..120_000).flat_map(|n| Tar::new().file(&format!("{n}"), "").bytes()[..512].to_vec()).collect();
    fs::write(&archive, gzip(&names)).unwrap();
    let output = bench.command(&[]).env("HOSTILE_LOAD", &archive).output().unwrap();
    let text = outcome(&output);
    assert!(text.ends_with("more than 100000 files in the archive"), "{text}");
    assert_nothing_remains(&bench.path("store"));
}

/// A layer that does not compress.
fn noise(bytes: usize) -> Layer {
    let mut content = Vec::with_capacity(bytes);
    let mut state = Sha256::digest(b"noise");
    while content.len() < bytes {
        content.extend_from_slice(&state);
        state = Sha256::digest(state);
    }
    content.truncate(bytes);
    layer(&Tar::new().entry(EntryType::Regular, "noise", "", 0o644, &content).bytes(), With::Nothing)
}

#[test]
#[ignore = "root tier"]
fn memory_does_not_grow_with_the_image() {
    let bench = Bench::new();
    let layers: Vec<Layer> = (1..=3).map(|n| noise((24 << 20) + n)).collect();
    bench.layout(&layers);
    let registry = FakeRegistry::start(FakeRegistry::of_layout(&bench.path("layout")));
    let reference = format!("{}/lib/big:1", registry.address);
    let output = bench.command(&[("HOSTILE_PULL", &reference)]).output().unwrap();
    assert_eq!(outcome(&output), "whole");
}

#[test]
#[ignore = "root tier"]
fn a_disk_that_fills_up_during_a_pull_is_one_error() {
    let check = |layers: &[Layer], expected: &str| {
        let bench = Bench::new();
        bench.layout(layers);
        let registry = FakeRegistry::start(FakeRegistry::of_layout(&bench.path("layout")));
        let small = bench.path("small");
        fs::create_dir(&small).unwrap();
        // A file system of four megabytes, in a mount namespace that ends with the child. It looks for what is left itself.
        let script = r#"mount -t tmpfs -o size=4m small "$1"; s=$1; shift; "$@"
            ls "$s/store/layers" "$s/store/work" "$s/store/images" "$s/store/blobs/sha256" | grep -v : | grep . && echo remains"#;
        let reference = format!("{}/lib/big:1", registry.address);
        let inner = bench.command(&[]);
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-uc", script, "sh", small.to_str().unwrap()])
            .arg(inner.get_program())
            .args(inner.get_args())
            .env("HOSTILE_STORE", small.join("store"))
            .env("HOSTILE_PULL", &reference)
            .output()
            .unwrap();
        let text = outcome(&output).replace(&registry.address, "REGISTRY");
        assert_eq!(text, expected);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("remains"), "{output:?}");
    };
    let big = noise(8 << 20);
    let digest = Digest::of(&big.blob);
    check(
        &[big],
        &format!(
            "fetch layer {digest} of REGISTRY/lib/big:1: write the blob: No space left on device (os error 28)"
        ),
    );
    let blowing_up = layer(&Tar::new().file("big", &"x".repeat(8 << 20)).bytes(), With::Gzip);
    let digest = Digest::of(&blowing_up.blob);
    check(
        &[blowing_up],
        &format!("unpack layer {digest}: layer entry \"big\": write: No space left on device (os error 28)"),
    );
}

#[test]
#[ignore = "root tier"]
fn proxies_come_from_the_environment() {
    let bench = Bench::new();
    bench.layout(&[layer(&Tar::new().file("f", "x").bytes(), With::Gzip)]);
    let honest = FakeRegistry::of_layout(&bench.path("layout"));
    let proxy =
        FakeRegistry::start(move |ask| match ask.path.strip_prefix("http://registry.invalid:5000/") {
            Some(_) => honest(ask),
            None => Answer::new(500, "not asked as a proxy"),
        });
    let url = format!("http://{}", proxy.address);
    let pull = |no_proxy: &str| {
        let reference = ("HOSTILE_PULL", "registry.invalid:5000/lib/x:1");
        let output = bench.command(&[reference, ("HTTP_PROXY", &url), ("NO_PROXY", no_proxy)]).output();
        outcome(&output.unwrap())
    };
    assert!(pull(".invalid").contains("registry unreachable"));
    assert_eq!(pull("other.test"), "whole");
}

struct Killed(Child);

impl Killed {
    fn kill(mut self) -> bool {
        let finished = self.0.try_wait().unwrap().is_some();
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        finished
    }
}

#[test]
#[ignore = "root tier"]
fn a_pull_that_is_killed_at_any_moment_leaves_no_half_layer() {
    let bench = Bench::new();
    let texts: Vec<String> = (0..4_u32).map(|n| n.to_string().repeat(300_000)).collect();
    let layers: Vec<Layer> = texts
        .iter()
        .map(|text| layer(&Tar::new().file("text", text).file("end", "end").bytes(), With::Nothing))
        .collect();
    bench.layout(&layers);
    let honest = FakeRegistry::of_layout(&bench.path("layout"));
    let registry = FakeRegistry::start(move |ask| {
        let drip = ask.path.contains("/blobs/").then_some((100_000, Duration::from_millis(4)));
        Answer { drip, ..honest(ask) }
    });
    let reference = format!("{}/lib/killed:1", registry.address);
    let store = bench.path("store");
    let (mut finished, mut moment, mut early) = (false, 0, 0);
    while !finished {
        let mut command = bench.command(&[("HOSTILE_PULL", &reference)]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        finished = Killed(child).kill();
        moment += 2;
        assert!(moment < 2_000, "a pull takes no longer than this");
        // Opened anew: dead work is swept; what shows is whole.
        let images = Images::open(&store).unwrap();
        early += u32::from(images.get(&reference).unwrap().is_none());
        // Its names come after the image, one by one.
        for image in images.list().unwrap() {
            let paths = images.layer_paths(&image).unwrap();
            assert_eq!(paths.len(), 4);
            for (path, text) in paths.iter().rev().zip(&texts) {
                assert_eq!(fs::read_to_string(path.join("text")).unwrap(), *text);
                assert!(path.join("end").exists());
            }
            images.remove(&image.id).unwrap();
        }
        assert_nothing_remains(&store);
    }
    let _nobody_reads = writeln!(std::io::stderr(), "killed at {early} moments");
    assert!(early >= 5, "{early}");
}
