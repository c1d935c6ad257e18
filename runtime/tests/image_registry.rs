//! Registries behind mirrors, tokens and bad lines, and such as mean harm. Needs loopback, but neither root nor a
//! registry program.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "image_support/fake_registry.rs"]
mod fake_registry;
mod image_support;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fake_registry::{Answer, Ask, FakeRegistry};
use image_support::{Layer, Tar, With, assert_nothing_remains, chain, layer, layout, write_blob};
use orlop_runtime::image::{
    Auth, Capability, Digest, HostSettings, Image, Images, Keyring, PullError, PullOptions, Registries,
    RegistryHosts, Source, Verification, VerificationPolicy, parse_docker_config,
};
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
    images: Images,
    layers: Vec<Layer>,
    options: PullOptions,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path().join("store")).unwrap();
        let noise: String = (0..40_000_u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
        let one = Tar::new().dir("etc/", 0o755).file("etc/name", "one").file("noise", &noise).bytes();
        let layers = vec![layer(&one, With::Gzip), layer(&Tar::new().file("two", "2").bytes(), With::Zstd)];
        layout(&dir.path().join("layout"), None, &layers);
        let options = PullOptions {
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(2),
            ..PullOptions::default()
        };
        Self { dir, images, layers, options }
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn honest(&self) -> impl Fn(&Ask) -> Answer + Send + Sync + use<> {
        FakeRegistry::of_layout(&self.layout())
    }

    fn big(&self) -> Digest {
        Digest::of(&self.layers[0].blob)
    }

    async fn pull(&self, registry: &str, keyring: Keyring) -> Result<Image, PullError> {
        let mut options = self.options.clone();
        options.plain_http.push(registry.to_owned());
        self.images.pull(&format!("{registry}/lib/test:v1"), keyring, &options).await
    }

    async fn refused(&self, registry: &FakeRegistry, expected: &str) {
        let error = self.pull(&registry.address, Keyring::default()).await.unwrap_err();
        let text = chain(&error).replace(&registry.address, "REGISTRY");
        assert!(text.contains(expected), "{text}");
        assert_nothing_remains(&self.dir.path().join("store"));
    }

    /// The registry `r.test` answers through these mirrors; itself it does not exist.
    fn mirrors(&mut self, mirrors: Vec<HostSettings>) {
        let server = HostSettings { url: Some("http://127.0.0.1:1".into()), ..HostSettings::default() };
        let hosts = RegistryHosts { server, mirrors, only_mirrors: false };
        let registries = Registries { registries: BTreeMap::from([("r.test".to_owned(), hosts)]) };
        registries.check().unwrap();
        self.options.registries = Arc::new(registries);
    }
}

fn mirror(registry: &FakeRegistry) -> HostSettings {
    HostSettings { url: Some(format!("http://{}", registry.address)), ..HostSettings::default() }
}

/// Mirrors are told for whom they stand.
fn behind(
    honest: impl Fn(&Ask) -> Answer + Send + Sync + 'static,
) -> impl Fn(&Ask) -> Answer + Send + Sync + 'static {
    move |ask| {
        let path = ask.path.replace("?ns=r.test", "");
        honest(&Ask { path, headers: ask.headers.clone(), body: String::new(), before: ask.before })
    }
}

fn auth(password: &str) -> Auth {
    Auth { username: "user".into(), password: password.into() }
}

fn asked(registry: &FakeRegistry, part: &str) -> usize {
    registry.asked.lock().unwrap().iter().filter(|path| path.contains(part)).count()
}

/// A registry that wants tokens: `user:secret` gets one with a number; `good` says which tokens open it.
fn with_tokens(
    honest: impl Fn(&Ask) -> Answer + Send + Sync + 'static,
    expires_in: u64,
    good: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> FakeRegistry {
    let address = Arc::new(Mutex::new(String::new()));
    let (realm, given) = (Arc::clone(&address), Mutex::new(0));
    let registry = FakeRegistry::start(move |ask| {
        let authorization = ask.headers.get("authorization").map_or("", String::as_str);
        if ask.path.starts_with("/token?") {
            // user:secret
            if authorization != "Basic dXNlcjpzZWNyZXQ=" {
                return Answer::new(401, "{}");
            }
            let mut given = given.lock().unwrap();
            *given += 1;
            return Answer::new(200, format!(r#"{{"access_token":"t{given}","expires_in":{expires_in}}}"#));
        }
        let number = authorization.strip_prefix("Bearer t").and_then(|n| n.parse().ok());
        if number.is_some_and(&good) {
            return honest(ask);
        }
        let realm = realm.lock().unwrap();
        let challenge =
            format!(r#"Bearer realm="http://{realm}/token",service="s p",scope="repository:lib/test:pull""#);
        Answer::new(401, "{}").header("WWW-Authenticate", &challenge)
    });
    *address.lock().unwrap() = registry.address.clone();
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_and_with_the_registrys_scope() {
    let bench = Bench::new();
    let registry = with_tokens(bench.honest(), 300, |_| true);
    let keyring = || Keyring::from(Some(auth("secret")));
    bench.pull(&registry.address, keyring()).await.unwrap();
    bench.pull(&registry.address, keyring()).await.unwrap();
    assert_eq!(asked(&registry, "/token?service=s+p&scope=repository%3Alib%2Ftest%3Apull"), 1);
}

/// A registry whose token server takes the identity token `id` and nothing else; `moved` is where it says it is instead.
fn with_identity(
    honest: impl Fn(&Ask) -> Answer + Send + Sync + 'static,
    moved: Option<String>,
) -> FakeRegistry {
    let address = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&address);
    let registry = FakeRegistry::start(move |ask| {
        match (ask.path.as_str(), &moved) {
            ("/token", Some(to)) => return Answer::new(307, "").header("Location", to),
            ("/token", None) => {
                let expected = "grant_type=refresh_token&client_id=orlop&service=s+p\
                                &scope=repository%3Alib%2Ftest%3Apull&refresh_token=id";
                let good = ask.body == expected && !ask.headers.contains_key("authorization");
                let answer = if good { (200, r#"{"access_token":"t"}"#) } else { (401, "{}") };
                return Answer::new(answer.0, answer.1);
            }
            _ => {}
        }
        if ask.headers.get("authorization").is_some_and(|sent| sent == "Bearer t") {
            return honest(ask);
        }
        let realm = realm.lock().unwrap();
        let challenge =
            format!(r#"Bearer realm="http://{realm}/token",service="s p",scope="repository:lib/test:pull""#);
        Answer::new(401, "{}").header("WWW-Authenticate", &challenge)
    });
    *address.lock().unwrap() = registry.address.clone();
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_turned_into_one_of_the_registry() {
    let bench = Bench::new();
    let registry = with_identity(bench.honest(), None);
    let config = |token: &str| {
        let address = &registry.address;
        let json = format!(r#"{{"auths":{{"{address}":{{"auth":"dXNlcjo=","identitytoken":"{token}"}}}}}}"#);
        let mut keyring = Keyring::default();
        keyring.add(parse_docker_config(json.as_bytes()).unwrap(), &Source::Node);
        keyring
    };
    assert!(bench.pull(&registry.address, config("other")).await.unwrap_err().is_unauthorized());
    bench.pull(&registry.address, config("id")).await.unwrap();
    bench.pull(&registry.address, config("id")).await.unwrap();
    // Without a secret its server is asked by GET, with a query.
    let sent = registry.asked.lock().unwrap().iter().filter(|path| *path == "/token").count();
    assert_eq!(sent, 2, "one was refused; the other's answer is kept as long as it holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_goes_nowhere_else() {
    let bench = Bench::new();
    let secrets = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&secrets);
    let elsewhere = FakeRegistry::start(move |ask| {
        heard.lock().unwrap().push(format!("{}{:?}", ask.body, ask.headers));
        Answer::new(200, r#"{"access_token":"t"}"#)
    });
    let registry = with_identity(bench.honest(), Some(format!("http://{}/token", elsewhere.address)));
    let keyring = Keyring::from(Some(Auth::identity_token("id-of-mine".into())));
    bench.pull(&registry.address, keyring).await.unwrap_err();
    let secrets = std::mem::take(&mut *secrets.lock().unwrap());
    assert!(!secrets.iter().any(|said| said.contains("id-of-mine")), "{secrets:?}");
    // Nor is it a password.
    let basic =
        FakeRegistry::start(|_| Answer::new(401, "{}").header("WWW-Authenticate", r#"Basic realm="r""#));
    let keyring = Keyring::from(Some(Auth::identity_token("id-of-mine".into())));
    assert!(bench.pull(&basic.address, keyring).await.unwrap_err().is_unauthorized());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ran_out_is_replaced() {
    let bench = Bench::new();
    // By its own word it lives for no time that could be used.
    let registry = with_tokens(bench.honest(), 5, |_| true);
    bench.pull(&registry.address, Keyring::from(Some(auth("secret")))).await.unwrap();
    assert!(asked(&registry, "/token") >= 4);
    // The registry takes it back before its time: only the first one is refused.
    let bench = Bench::new();
    let revoked = Mutex::new(0);
    let registry = with_tokens(bench.honest(), 300, move |token| {
        let mut uses = revoked.lock().unwrap();
        *uses += usize::from(token == 1);
        token > 1 || *uses <= 2
    });
    bench.pull(&registry.address, Keyring::from(Some(auth("secret")))).await.unwrap();
    // Two layers may find out at the same time.
    assert!((2..=3).contains(&asked(&registry, "/token")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_never_content_is_not_asked_for_ever() {
    let bench = Bench::new();
    let registry = with_tokens(bench.honest(), 300, |_| false);
    let keyring = Keyring::from(Some(auth("secret")));
    let error = bench.pull(&registry.address, keyring).await.unwrap_err();
    assert!(error.is_unauthorized(), "{}", chain(&error));
    assert!(registry.asked.lock().unwrap().len() <= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_credential_is_tried_in_its_order() {
    let bench = Bench::new();
    let honest = bench.honest();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let registry = FakeRegistry::start(move |ask| {
        let authorization = ask.headers.get("authorization").cloned();
        log.lock().unwrap().push(authorization.clone().unwrap_or_default());
        match authorization.as_deref() {
            // user:secret
            Some("Basic dXNlcjpzZWNyZXQ=") => honest(ask),
            _ => Answer::new(401, "{}").header("WWW-Authenticate", "Basic realm=x"),
        }
    });
    let mut keyring = Keyring::default();
    let location = |path: &str| format!("{}{path}", registry.address);
    keyring.add(
        [(location(""), auth("secret")), (location("/lib"), auth("wrong")), (location("/other"), auth("x"))],
        &Source::Node,
    );
    bench.pull(&registry.address, keyring).await.unwrap();
    let seen = seen.lock().unwrap();
    // user:wrong is the more special one; once the other has opened the door, no more doors are tried.
    assert_eq!(seen[..4], ["", "Basic dXNlcjp3cm9uZw==", "", "Basic dXNlcjpzZWNyZXQ="]);
    assert!(seen[4..].iter().all(|authorization| authorization == "Basic dXNlcjpzZWNyZXQ="));
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_tried_in_order_and_get_only_their_own_credentials() {
    let mut bench = Bench::new();
    let broken = FakeRegistry::start(|_| Answer::new(502, "down"));
    let honest = bench.honest();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let working = FakeRegistry::start(move |ask| {
        log.lock().unwrap().push((ask.path.clone(), ask.headers.get("authorization").cloned()));
        let path = ask.path.replace("?ns=r.test", "");
        if !path.starts_with("/v2/cache/all/lib/test/") {
            return Answer::new(404, "");
        }
        honest(&Ask { path, headers: ask.headers.clone(), body: String::new(), before: ask.before })
    });
    let settings = HostSettings {
        url: Some(format!("http://{}/v2/cache", working.address)),
        rewrite: BTreeMap::from([(String::new(), "all/".to_owned())]),
        ..HostSettings::default()
    };
    bench.mirrors(vec![mirror(&broken), settings]);
    let mut keyring = Keyring::default();
    keyring.add([("r.test".to_owned(), auth("secret"))], &Source::Node);
    let image = bench.pull("r.test", keyring).await.unwrap();
    assert_eq!(image.tags, ["r.test/lib/test:v1"]);
    assert!(broken.asked.lock().unwrap().len() >= 2);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|(path, authorization)| path.ends_with("?ns=r.test") && authorization.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_may_not_resolve_only_gives_what_was_promised() {
    let mut bench = Bench::new();
    let registry = FakeRegistry::start(bench.honest());
    let mirror_of = FakeRegistry::start(behind(bench.honest()));
    let settings = HostSettings { capabilities: Some(vec![Capability::Pull]), ..mirror(&mirror_of) };
    bench.mirrors(vec![settings]);
    // Nobody who may resolve is there.
    let error = chain(&bench.pull("r.test", Keyring::default()).await.unwrap_err());
    assert!(error.contains("fetch manifest of r.test/lib/test:v1: registry unreachable"), "{error}");
    let mut registries = (*bench.options.registries).clone();
    let server = format!("http://{}", registry.address);
    registries.registries.get_mut("r.test").unwrap().server.url = Some(server);
    bench.options.registries = Arc::new(registries);
    bench.pull("r.test", Keyring::default()).await.unwrap();
    assert_eq!((asked(&mirror_of, "manifests"), asked(&registry, "blobs")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lies_is_left_for_the_next() {
    let mut bench = Bench::new();
    let (honest, big) = (behind(bench.honest()), bench.big());
    let liar = FakeRegistry::start(move |ask| {
        let mut answer = honest(ask);
        if ask.path.contains(big.as_str()) {
            answer.body[700] ^= 1;
        }
        answer
    });
    let other = FakeRegistry::start(behind(bench.honest()));
    bench.mirrors(vec![mirror(&liar), mirror(&other)]);
    bench.pull("r.test", Keyring::default()).await.unwrap();
    assert_eq!((asked(&liar, bench.big().as_str()), asked(&other, bench.big().as_str())), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_vanishes_half_way_is_followed_by_the_next() {
    let mut bench = Bench::new();
    let (honest, big) = (behind(bench.honest()), bench.big());
    let vanishing = FakeRegistry::start(move |ask| {
        let mut answer = honest(ask);
        if ask.path.contains(big.as_str()) {
            answer.cut = Some(if ask.before == 0 { answer.body.len() / 2 } else { 0 });
        }
        answer
    });
    let honest = behind(bench.honest());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&ranges);
    let other = FakeRegistry::start(move |ask| {
        log.lock().unwrap().extend(ask.headers.get("range").cloned());
        honest(ask)
    });
    bench.mirrors(vec![mirror(&vanishing), mirror(&other)]);
    bench.pull("r.test", Keyring::default()).await.unwrap();
    let half = bench.layers[0].blob.len() / 2;
    assert_eq!(*ranges.lock().unwrap(), [format!("bytes={half}-")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_host_did_is_told() {
    let mut bench = Bench::new();
    let gone = FakeRegistry::start(|_| Answer::new(404, ""));
    bench.mirrors(vec![mirror(&gone)]);
    let text = chain(&bench.pull("r.test", Keyring::default()).await.unwrap_err());
    let text = text.replace(&gone.address, "MIRROR");
    let expected = "fetch manifest of r.test/lib/test:v1: after MIRROR: not found: registry unreachable: ";
    assert!(text.starts_with(expected) && text.contains("Connection refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_spaced_as_the_registry_asks() {
    let bench = Bench::new();
    let honest = bench.honest();
    let registry = FakeRegistry::start(move |ask| match ask.before {
        0 if !ask.path.contains("/blobs/") => Answer::new(429, "").header("Retry-After", "1"),
        _ => honest(ask),
    });
    let began = Instant::now();
    bench.pull(&registry.address, Keyring::default()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    let patient = FakeRegistry::start(|_| Answer::new(429, "").header("Retry-After", "3600"));
    let began = Instant::now();
    let error = Bench::new().pull(&patient.address, Keyring::default()).await.unwrap_err();
    assert!(error.is_unreachable() && began.elapsed() < Duration::from_secs(1), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_but_not_in_circles_nor_with_credentials() {
    let bench = Bench::new();
    let (honest, seen) = (bench.honest(), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&seen);
    let elsewhere = FakeRegistry::start(move |ask| {
        log.lock().unwrap().extend(ask.headers.get("authorization").cloned());
        honest(ask)
    });
    let (honest, target) = (bench.honest(), elsewhere.address.clone());
    let registry = FakeRegistry::start(move |ask| {
        if !ask.headers.contains_key("authorization") {
            return Answer::new(401, "").header("WWW-Authenticate", "Basic realm=x");
        }
        if ask.path.contains("/blobs/") {
            return Answer::new(307, "").header("Location", &format!("http://{target}{}", ask.path));
        }
        honest(ask)
    });
    bench.pull(&registry.address, Keyring::from(Some(auth("secret")))).await.unwrap();
    assert!(elsewhere.asked.lock().unwrap().len() >= 3 && seen.lock().unwrap().is_empty());
    // Where a redirect leads, somebody asks for the password.
    let thief = FakeRegistry::start(|ask| {
        let host = &ask.headers["host"];
        let challenge = format!(r#"Bearer realm="http://{host}/token""#);
        Answer::new(401, "").header("WWW-Authenticate", &challenge)
    });
    let (honest, target) = (bench.honest(), thief.address.clone());
    let registry = FakeRegistry::start(move |ask| match ask.path.contains("/blobs/") {
        true => Answer::new(307, "").header("Location", &format!("http://{target}{}", ask.path)),
        false => honest(ask),
    });
    let error = bench.pull(&registry.address, Keyring::from(Some(auth("secret")))).await.unwrap_err();
    assert!(error.is_unauthorized(), "{}", chain(&error));
    assert_eq!(asked(&thief, "/token"), 0);
    let circle = FakeRegistry::start(|ask| Answer::new(302, "").header("Location", &ask.path));
    Bench::new().refused(&circle, "the registry redirects where nobody may follow").await;
    assert!(circle.asked.lock().unwrap().len() < 3);
    let endless =
        FakeRegistry::start(|ask| Answer::new(302, "").header("Location", &format!("{}x", ask.path)));
    Bench::new().refused(&endless, "more than 10 redirects").await;
    assert!(endless.asked.lock().unwrap().len() <= 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_drips_is_given_up() {
    let mut bench = Bench::new();
    bench.options.document_timeout = Duration::from_millis(400);
    bench.options.pace_window = Duration::from_millis(150);
    let drip = Some((1, Duration::from_millis(30)));
    let slow = FakeRegistry::start(move |_| Answer { drip, ..Answer::new(200, vec![b'{'; 5000]) });
    bench
        .refused(&slow, "fetch manifest of REGISTRY/lib/test:v1: registry unreachable: no answer in time")
        .await;
    bench.options.document_timeout = Duration::from_secs(30);
    let (honest, big) = (bench.honest(), bench.big());
    let registry = FakeRegistry::start(move |ask| {
        let drip = drip.filter(|_| ask.path.ends_with(big.as_str()));
        Answer { drip, ..honest(ask) }
    });
    let expected = format!("fetch layer {} of REGISTRY/lib/test:v1: broke off after ", bench.big());
    bench.refused(&registry, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_gives_more_and_less_in_turn_is_given_up() {
    let mut bench = Bench::new();
    let noise: Vec<u8> = (0..4_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let big = Tar::new().entry(tar::EntryType::Regular, "big", "", 0o644, &noise).bytes();
    bench.layers = vec![layer(&big, With::Nothing)];
    layout(&bench.layout(), None, &bench.layers);
    let (honest, big) = (bench.honest(), bench.big());
    let registry = FakeRegistry::start(move |ask| {
        if !ask.path.ends_with(big.as_str()) {
            return honest(ask);
        }
        // No ranges, and every other time nearly nothing.
        let whole =
            honest(&Ask { path: ask.path.clone(), headers: BTreeMap::new(), body: String::new(), before: 0 });
        Answer { cut: Some(if ask.before % 2 == 0 { 3 << 20 } else { 1000 }), ..whole }
    });
    bench.refused(&registry, "broke off after ").await;
    assert!(asked(&registry, bench.big().as_str()) < 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_without_end_are_refused() {
    let bench = Bench::new();
    let endless = FakeRegistry::start(|_| Answer::new(200, vec![b' '; 5 << 20]));
    bench.refused(&endless, "fetch manifest of REGISTRY/lib/test:v1: longer than 4194304 bytes").await;
    let shouting = FakeRegistry::start(|_| Answer::new(400, vec![b'x'; 5 << 20]));
    bench.refused(&shouting, "the registry refused: status 400: xxx").await;
}

/// Replaces the layout's manifest by `change` of it.
fn change_manifest(bench: &Bench, change: impl Fn(&mut serde_json::Value)) {
    let dir = bench.layout();
    let read = |path: PathBuf| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let index = read(dir.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let mut manifest = read(dir.join("blobs/sha256").join(digest));
    change(&mut manifest);
    let digest = write_blob(&dir, &serde_json::to_vec(&manifest).unwrap());
    let index = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
    std::fs::write(dir.join("index.json"), index).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_no_images_are_refused() {
    let check = async |change: fn(&mut serde_json::Value), expected: &str| {
        let bench = Bench::new();
        change_manifest(&bench, change);
        let registry = FakeRegistry::start(bench.honest());
        bench.refused(&registry, expected).await;
        assert_eq!(asked(&registry, bench.big().as_str()), 0);
    };
    let foreign = |manifest: &mut serde_json::Value| {
        let layer = &mut manifest["layers"][0];
        layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        layer["urls"] = serde_json::json!(["http://127.0.0.1:1/steal"]);
    };
    check(foreign, "its content is not in the registry, and is not fetched from elsewhere").await;
    let chart = |m: &mut serde_json::Value| {
        m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into()
    };
    check(chart, "configuration media type application/vnd.cncf.helm.config.v1+json is not that of").await;
    let many = |manifest: &mut serde_json::Value| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = vec![layer; 10_000].into();
    };
    check(many, "10000 layers, more than the 500 that an overlay can have").await;
    let huge = |manifest: &mut serde_json::Value| manifest["layers"][0]["size"] = u64::MAX.into();
    check(huge, "of 18446744073709551615 bytes, more than the limit of 68719476736").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_many_times_is_fetched_and_kept_once() {
    let bench = Bench::new();
    let one = bench.layers[1].clone();
    layout(&bench.layout(), None, &vec![one.clone(); 400]);
    let registry = FakeRegistry::start(bench.honest());
    let image = bench.pull(&registry.address, Keyring::default()).await.unwrap();
    assert_eq!(image.layers.len(), 400);
    assert_eq!(asked(&registry, Digest::of(&one.blob).as_str()), 1);
    assert_eq!(bench.images.layer_paths(&image).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_a_secret_opened_is_for_those_who_show_it() {
    let bench = Bench::new();
    let honest = bench.honest();
    let registry = FakeRegistry::start(move |ask| {
        // user:secret
        match ask.headers.get("authorization").map(String::as_str) {
            Some("Basic dXNlcjpzZWNyZXQ=") => honest(ask),
            _ => Answer::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
        }
    });
    let secret = |name: &str, password: &str| {
        let source = Source::Secret { namespace: "ns".into(), name: name.into(), uid: format!("u-{name}") };
        let mut keyring = Keyring::default();
        keyring.add([(registry.address.clone(), auth(password))], &source);
        keyring
    };
    bench.pull(&registry.address, secret("a", "secret")).await.unwrap();
    let reference = format!("{}/lib/test:v1", registry.address);
    // As after a restart: from the disk.
    let again = Images::open(bench.dir.path().join("store")).unwrap();
    let allowed = |keyring: &Keyring, policy| {
        let verification = Verification { policy, allowlist: Vec::new() };
        again.allowed(&reference, keyring, &verification).unwrap()
    };
    let by_default = VerificationPolicy::default();
    assert!(allowed(&secret("a", "secret"), by_default));
    assert!(!allowed(&Keyring::default(), by_default));
    assert!(!allowed(&secret("b", "other"), by_default));
    assert!(allowed(&Keyring::default(), VerificationPolicy::NeverVerify));
    let access = bench.dir.path().join("store/access");
    let record = std::fs::read_dir(&access).unwrap().next().unwrap().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&record.metadata().unwrap().permissions());
    let text = std::fs::read_to_string(record.path()).unwrap();
    assert!(mode & 0o777 == 0o600 && !text.contains("secret\":\"secret") && !text.contains("user"), "{text}");
    // The administrator loads the same image: now it is for all. Removed, nothing is remembered.
    again.load(&bench.layout()).unwrap();
    assert!(allowed(&Keyring::default(), by_default));
    again.remove(&reference).unwrap();
    assert_eq!(std::fs::read_dir(&access).unwrap().count(), 0);
}
