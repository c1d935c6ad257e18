//! Pulls from a registry that misbehaves on purpose; needs loopback, but neither root nor a registry program.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "image_support/fake_registry.rs"]
mod fake_registry;
mod image_support;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use fake_registry::{Answer, Ask, FakeRegistry};
use image_support::{
    Bench, Layer, Tar, With, assert_nothing_remains, chain, layer, layout, remains, write_blob,
};
use orlop_runtime::image::{Auth, Digest, Image, Keyring, Progress, PullError, PullOptions, Report};

fn layers() -> Vec<Layer> {
    // Does not compress: long enough to be cut.
    let noise: String = (0..40_000_u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
    let one = Tar::new().dir("etc/", 0o755).file("etc/name", "one").file("noise", &noise).bytes();
    let two = Tar::new().file("two", "2").bytes();
    vec![layer(&one, With::Gzip), layer(&two, With::Zstd)]
}

impl Bench {
    fn new() -> Self {
        let bench = Self::open();
        layout(&bench.dir.path().join("layout"), None, &layers());
        bench
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn honest(&self) -> impl Fn(&Ask) -> Answer + Send + Sync + use<> {
        FakeRegistry::of_layout(&self.layout())
    }

    fn options(registry: &FakeRegistry) -> PullOptions {
        PullOptions {
            plain_http: vec![registry.address.clone()],
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(2),
            ..PullOptions::default()
        }
    }

    async fn pull(
        &self,
        registry: &FakeRegistry,
        name: &str,
        auth: Option<Auth>,
    ) -> Result<Image, PullError> {
        let reference = format!("{}/{name}", registry.address);
        self.images.pull(&reference, auth, &Self::options(registry)).await
    }

    /// The pull fails with these words and leaves nothing.
    async fn refused(&self, registry: &FakeRegistry, expected: &str) -> PullError {
        let error = self.pull(registry, "lib/test:v1", None).await.unwrap_err();
        let text = chain(&error).replace(&registry.address, "REGISTRY");
        assert!(text.starts_with(expected), "{text}");
        assert_nothing_remains(&self.dir.path().join("store"));
        error
    }
}

fn blob_of(index: usize) -> Digest {
    Digest::of(&layers()[index].blob)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_known_by_tag_digest_and_id() {
    let bench = Bench::new();
    let registry = FakeRegistry::start(bench.honest());
    let image = bench.pull(&registry, "lib/test:v1", None).await.unwrap();
    assert_eq!(image.tags, [format!("{}/lib/test:v1", registry.address)]);
    let by_digest = bench.images.get(&image.digests[0]).unwrap();
    assert_eq!(by_digest.as_ref(), Some(&image));
    assert_eq!(bench.images.layer_paths(&image).unwrap().len(), 2);
    let asked = registry.asked.lock().unwrap().len();
    let digest = image.digests[0].rsplit_once('/').unwrap().1;
    assert_eq!(bench.pull(&registry, &format!("lib/{digest}"), None).await.unwrap(), image);
    // Manifest, configuration, and what authentication asks; no layer a second time.
    assert!(registry.asked.lock().unwrap().len() <= asked + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_goes_on_where_it_broke() {
    let bench = Bench::new();
    let (honest, big) = (bench.honest(), blob_of(0));
    let registry = FakeRegistry::start(move |ask| {
        let mut answer = honest(ask);
        if ask.path.ends_with(big.as_str()) && ask.before < 2 {
            answer.cut = Some(answer.body.len() / 3);
        }
        answer
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let progress: Report = Arc::new(move |event| sink.lock().unwrap().push(event));
    let options = PullOptions { progress: Some(progress), ..Bench::options(&registry) };
    let reference = format!("{}/lib/test:v1", registry.address);
    let image = bench.images.pull(&reference, Keyring::default(), &options).await.unwrap();
    assert_eq!(image.layers.len(), 2);
    let seen = seen.lock().unwrap();
    assert!(matches!(&seen[0], Progress::Resolved { layers: 2, .. }), "{seen:?}");
    assert_eq!(seen.iter().filter(|event| matches!(event, Progress::LayerDone { .. })).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_gets_further_is_given_up() {
    let bench = Bench::new();
    let (honest, big) = (bench.honest(), blob_of(0));
    let registry = FakeRegistry::start(move |ask| {
        let mut answer = honest(ask);
        if ask.path.ends_with(big.as_str()) {
            answer.cut = Some(if ask.before == 0 { 1000 } else { 0 });
        }
        answer
    });
    let expected = format!(
        "fetch layer {} of REGISTRY/lib/test:v1: broke off after 1000 of {} bytes: ",
        blob_of(0),
        layers()[0].blob.len()
    );
    bench.refused(&registry, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_answers_becomes_a_reason() {
    let check = async |answer: fn() -> Answer, expected: &str| {
        let bench = Bench::new();
        let registry = FakeRegistry::start(move |_| answer());
        bench.refused(&registry, &format!("fetch manifest of REGISTRY/lib/test:v1: {expected}")).await
    };
    let unknown =
        || Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
    assert!(check(unknown, "not found").await.is_not_found());
    assert!(check(|| Answer::new(404, "nope"), "not found").await.is_not_found());
    let denied = || Answer::new(403, r#"{"errors":[{"code":"DENIED"}]}"#);
    assert!(check(denied, "unauthorized").await.is_unauthorized());
    assert!(check(|| Answer::new(401, ""), "unauthorized").await.is_unauthorized());
    assert!(check(|| Answer::new(503, "later"), "registry unreachable").await.is_unreachable());
    assert!(check(|| Answer::new(429, ""), "the registry asks for fewer requests").await.is_unreachable());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_and_no_tls_are_unreachable() {
    let bench = Bench::new();
    let options = PullOptions { plain_http: vec!["127.0.0.1:1".into()], ..PullOptions::default() };
    let error = bench.images.pull("127.0.0.1:1/x", Keyring::default(), &options).await.unwrap_err();
    assert!(error.is_unreachable() && chain(&error).contains("Connection refused"), "{}", chain(&error));
    let registry = FakeRegistry::start(bench.honest());
    let plain = PullOptions::default();
    let error =
        bench.images.pull(&format!("{}/x", registry.address), Keyring::default(), &plain).await.unwrap_err();
    assert!(error.is_unreachable(), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_not_what_was_promised_are_refused() {
    let check = async |change: fn(&mut Vec<u8>), expected: &str| {
        let bench = Bench::new();
        let (honest, big) = (bench.honest(), blob_of(0));
        let registry = FakeRegistry::start(move |ask| {
            let mut answer = honest(ask);
            if ask.path.ends_with(big.as_str()) {
                if ask.headers.contains_key("range") {
                    return Answer::new(416, "");
                }
                change(&mut answer.body);
            }
            answer
        });
        let big = blob_of(0);
        let length = layers()[0].blob.len();
        let expected = expected.replace("BIG", big.as_str()).replace("LENGTH", &length.to_string());
        bench.refused(&registry, &format!("fetch layer {big} of REGISTRY/lib/test:v1: {expected}")).await;
    };
    check(|body| body.truncate(1000), "content of BIG is 1000 bytes long where LENGTH were promised").await;
    check(|body| body[500] ^= 1, "content is sha256:").await;
    check(|body| body.push(0), "content of BIG is").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_the_digest_asked_for_is_refused() {
    let bench = Bench::new();
    let registry = FakeRegistry::start(bench.honest());
    let other = bench.layout().join("blobs/sha256").join(Digest::of(b"x").hex());
    std::fs::write(other, r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    let name = format!("lib/test@{}", Digest::of(b"x"));
    let error = chain(&bench.pull(&registry, &name, None).await.unwrap_err());
    assert!(error.contains(&format!("where {} was promised", Digest::of(b"x"))), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_the_image_for_this_machine() {
    let bench = Bench::new();
    let inner = layout(&bench.layout(), None, &layers());
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
            {{"digest":"sha512:00","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}},
            {{"digest":"{inner}","size":1,"platform":{{"os":"linux","architecture":"{arch}"}}}}]}}"#
    );
    let digest = write_blob(&bench.layout(), index.as_bytes());
    let outer = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
    std::fs::write(bench.layout().join("index.json"), outer).unwrap();
    let registry = FakeRegistry::start(bench.honest());
    let image = bench.pull(&registry, "lib/test:v1", None).await.unwrap();
    assert_eq!(image.digests, [format!("{}/lib/test@{digest}", registry.address)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_is_fetched_with_the_credential() {
    let bench = Bench::new();
    let honest = bench.honest();
    let address = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&address);
    let registry = FakeRegistry::start(move |ask| {
        let authorization = ask.headers.get("authorization").map(String::as_str);
        if ask.path.starts_with("/token") {
            // user:secret
            return match authorization {
                Some("Basic dXNlcjpzZWNyZXQ=") => Answer::new(200, r#"{"token":"good","expires_in":300}"#),
                _ => Answer::new(401, "{}"),
            };
        }
        if authorization == Some("Bearer good") {
            return honest(ask);
        }
        let realm = realm.lock().unwrap();
        let challenge = format!(r#"Bearer realm="http://{realm}/token",service="fake""#);
        Answer::new(401, "{}").header("WWW-Authenticate", &challenge)
    });
    *address.lock().unwrap() = registry.address.clone();
    let auth = |password: &str| Some(Auth { username: "user".into(), password: password.into() });
    let pull = async |auth| bench.pull(&registry, "lib/test:v1", auth).await;
    // A wrong credential first: the right one must not suffer from it, nor the wrong one profit from the right one.
    assert!(pull(None).await.unwrap_err().is_unauthorized());
    assert!(pull(auth("wrong")).await.unwrap_err().is_unauthorized());
    assert_eq!(pull(auth("secret")).await.unwrap().layers.len(), 2);
    assert!(pull(auth("wrong")).await.unwrap_err().is_unauthorized());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_image_at_once_is_fetched_once() {
    let bench = Bench::new();
    let honest = bench.honest();
    let registry = FakeRegistry::start(move |ask| {
        std::thread::sleep(Duration::from_millis(20));
        honest(ask)
    });
    let pulls = (0..6).map(|_| bench.pull(&registry, "lib/test:v1", None));
    let images = futures::future::join_all(pulls).await;
    assert!(images.iter().all(|image| image.as_ref().unwrap() == images[0].as_ref().unwrap()));
    let asked = registry.asked.lock().unwrap();
    let layer_fetches = asked.iter().filter(|path| path.ends_with(blob_of(0).as_str())).count();
    assert_eq!(layer_fetches, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_fetched_a_few_at_a_time() {
    let bench = Bench::new();
    let many: Vec<Layer> =
        (0..9).map(|n| layer(&Tar::new().file("n", &n.to_string()).bytes(), With::Gzip)).collect();
    layout(&bench.layout(), None, &many);
    let honest = bench.honest();
    let registry = FakeRegistry::start(move |ask| {
        std::thread::sleep(Duration::from_millis(30));
        honest(ask)
    });
    let image = bench.pull(&registry, "lib/many:v1", None).await.unwrap();
    assert_eq!(image.layers.len(), 9);
    let most = registry.most_at_once.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_leaves_nothing() {
    let bench = Bench::new();
    let (honest, big) = (bench.honest(), blob_of(0));
    let registry = FakeRegistry::start(move |ask| {
        if ask.path.ends_with(big.as_str()) {
            std::thread::sleep(Duration::from_secs(2));
        }
        honest(ask)
    });
    let pull = bench.pull(&registry, "lib/test:v1", None);
    assert!(tokio::time::timeout(Duration::from_millis(500), pull).await.is_err());
    let store = bench.dir.path().join("store");
    for _ in 0..50 {
        if remains(&store).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("left behind: {:?}", remains(&store));
}
