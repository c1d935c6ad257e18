//! Pulls from a real registry: Debian's `docker-registry` on a loopback port, filled by `skopeo`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod image_support;

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use image_support::{Bench, Tar, With, assert_nothing_remains, chain, layer, layout};
use orlop_runtime::image::{
    Auth, Digest, HostSettings, Keyring, PullOptions, Registries, RegistryHosts, Source,
};
use tempfile::TempDir;

/// bcrypt of `secret`.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

struct Registry {
    dir: TempDir,
    address: String,
    child: Child,
}

impl Registry {
    /// Starts the program with its data in a directory of its own; `tls`: certificate and key.
    fn start(htpasswd: bool, tls: Option<(&Path, &Path)>) -> Self {
        Self::start_for(htpasswd, tls, None)
    }

    /// Also asks for client certificates of an authority.
    fn start_for(htpasswd: bool, tls: Option<(&Path, &Path)>, clients: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let data = dir.path().join("data");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: {address}\n  secret: x\n",
            data.display()
        );
        if let Some((certificate, key)) = tls {
            let (certificate, key) = (certificate.display(), key.display());
            let clients = clients.map(|ca| format!(", clientcas: [{}]", ca.display())).unwrap_or_default();
            config += &format!("  tls: {{certificate: {certificate}, key: {key}{clients}}}\n");
        }
        if htpasswd {
            let file = dir.path().join("htpasswd");
            fs::write(&file, HTPASSWD).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", file.display());
        }
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry: install the package of that name");
        let registry = Self { dir, address, child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn push(&self, layout: &Path, name: &str, more: &[&str]) {
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
            .args(more)
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("skopeo: install the package of that name");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Where the registry keeps a blob.
    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Bench {
    fn new() -> Self {
        let bench = Self::open();
        let base = Tar::new().dir("etc/", 0o755).file("etc/a", "base").file("etc/b", "base").bytes();
        let tool = Tar::new().entry(tar::EntryType::Regular, "tool", "", 0o4755, b"x").file("etc/a", "top");
        layout(
            &bench.dir.path().join("layout"),
            None,
            &[layer(&base, With::Gzip), layer(&tool.file("etc/.wh.b", "").bytes(), With::Zstd)],
        );
        bench
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    async fn pull(
        &self,
        registry: &Registry,
        name: &str,
        auth: Option<(&str, &str)>,
    ) -> Result<PathBuf, String> {
        let options = PullOptions { plain_http: vec![registry.address.clone()], ..PullOptions::default() };
        let auth = auth.map(|(user, password)| Auth { username: user.into(), password: password.into() });
        let reference = format!("{}/{name}", registry.address);
        let image = self.images.pull(&reference, auth, &options).await;
        let image = image.map_err(|error| chain(&error).replace(&registry.address, "REGISTRY"))?;
        assert_eq!(image.config.entrypoint, ["/server"]);
        let mut layers = self.images.layer_paths(&image).unwrap();
        assert_eq!(layers.len(), 2);
        Ok(layers.remove(0))
    }

    fn nothing_is_left(&self) {
        assert_nothing_remains(&self.dir.path().join("store"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn an_image_comes_from_an_open_registry() {
    let (bench, registry) = (Bench::new(), Registry::start(false, None));
    registry.push(&bench.layout(), "lib/test:v1", &[]);
    let top = bench.pull(&registry, "lib/test:v1", None).await.unwrap();
    assert_eq!(fs::metadata(top.join("tool")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::read_to_string(top.join("etc/a")).unwrap(), "top");
    for missing in ["lib/test:v2", "lib/other:v1"] {
        let error = bench.pull(&registry, missing, None).await.unwrap_err();
        assert_eq!(error, format!("fetch manifest of REGISTRY/{missing}: not found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn docker_manifests_come_too() {
    let (bench, registry) = (Bench::new(), Registry::start(false, None));
    let plain = Tar::new().file("only", "1").bytes();
    layout(
        &bench.layout(),
        None,
        &[layer(&plain, With::Gzip), layer(&Tar::new().file("b", "").bytes(), With::Gzip)],
    );
    registry.push(&bench.layout(), "lib/docker:v1", &["--format=v2s2"]);
    bench.pull(&registry, "lib/docker:v1", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_password_is_needed_where_one_is_asked_for() {
    let (bench, registry) = (Bench::new(), Registry::start(true, None));
    registry.push(&bench.layout(), "lib/test:v1", &["--dest-creds=user:secret"]);
    let unauthorized =
        "fetch manifest of REGISTRY/lib/test:v1: unauthorized: authentication required or access denied";
    let pull = async |auth| bench.pull(&registry, "lib/test:v1", auth).await;
    assert_eq!(pull(None).await.unwrap_err(), unauthorized);
    assert_eq!(pull(Some(("user", "wrong"))).await.unwrap_err(), unauthorized);
    bench.nothing_is_left();
    pull(Some(("user", "secret"))).await.unwrap();
    // Not with somebody else's password, in the same process.
    assert_eq!(pull(None).await.unwrap_err(), unauthorized);
    assert_eq!(pull(Some(("user", "wrong"))).await.unwrap_err(), unauthorized);
}

/// An authority (ca.pem) and a certificate of it for 127.0.0.1 (cert.pem, key.pem).
fn make_certificates(dir: &Path) {
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
        printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > leaf.ext
        openssl req -newkey rsa:2048 -nodes -subj /CN=registry -keyout key.pem -out leaf.csr
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out cert.pem";
    let made = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_registry_of_ones_own_authority_is_trusted_when_told() {
    let bench = Bench::new();
    let file = |name: &str| bench.dir.path().join(name);
    let (authority, certificate, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    make_certificates(bench.dir.path());
    let registry = Registry::start(false, Some((&certificate, &key)));
    registry.push(&bench.layout(), "lib/test:v1", &[]);
    let reference = format!("{}/lib/test:v1", registry.address);
    let error = bench.images.pull(&reference, Keyring::default(), &PullOptions::default()).await.unwrap_err();
    assert!(error.is_unreachable() && chain(&error).contains("certificate"), "{}", chain(&error));
    bench.nothing_is_left();
    let options = PullOptions { extra_ca: vec![fs::read(&authority).unwrap()], ..PullOptions::default() };
    bench.images.pull(&reference, Keyring::default(), &options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn broken_blobs_are_refused() {
    let bench = Bench::new();
    let archive = Tar::new().file("noise", &"0123456789".repeat(1000)).bytes();
    let broken = layer(&archive, With::Nothing);
    let digest = Digest::of(&broken.blob);
    layout(&bench.layout(), None, std::slice::from_ref(&broken));
    let check = async |change: fn(&mut Vec<u8>), expected: &str| {
        let registry = Registry::start(false, None);
        // As it is: skopeo would compress the layer.
        registry.push(&bench.layout(), "lib/test:v1", &["--preserve-digests"]);
        let mut bytes = broken.blob.clone();
        change(&mut bytes);
        fs::write(registry.blob(&digest), &bytes).unwrap();
        let error = bench.pull(&registry, "lib/test:v1", None).await.unwrap_err();
        let (_, cause) = error.split_once("lib/test:v1: ").unwrap();
        assert!(cause.starts_with(expected), "{error}");
        bench.nothing_is_left();
    };
    let length = broken.blob.len();
    check(
        |bytes| bytes.truncate(700),
        &format!("content of {digest} is 700 bytes long where {length} were promised"),
    )
    .await;
    check(|bytes| bytes[600] ^= 1, "content is sha256:").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_registry_that_went_away_is_unreachable() {
    let bench = Bench::new();
    let registry = Registry::start(false, None);
    let address = registry.address.clone();
    drop(registry);
    let options = PullOptions { plain_http: vec![address.clone()], ..PullOptions::default() };
    let error =
        bench.images.pull(&format!("{address}/lib/test:v1"), Keyring::default(), &options).await.unwrap_err();
    assert!(error.is_unreachable() && chain(&error).contains("Connection refused"), "{}", chain(&error));
    bench.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_mirror_with_its_own_authority_client_certificates_and_password() {
    let bench = Bench::new();
    let file = |name: &str| bench.dir.path().join(name);
    make_certificates(bench.dir.path());
    let (certificate, key) = (file("cert.pem"), file("key.pem"));
    let mirror = Registry::start_for(true, Some((&certificate, &key)), Some(&file("ca.pem")));
    // skopeo looks for client certificates by these endings.
    let certs = file("certs");
    fs::create_dir(&certs).unwrap();
    for (from, to) in [("cert.pem", "client.cert"), ("key.pem", "client.key")] {
        fs::copy(file(from), certs.join(to)).unwrap();
    }
    let certs = format!("--dest-cert-dir={}", certs.display());
    mirror.push(&bench.layout(), "cached/app:v1", &["--dest-creds=user:secret", &certs]);
    let settings = |client: bool| HostSettings {
        url: Some(format!("https://{}/v2/cached", mirror.address)),
        ca: vec![file("ca.pem")],
        client_certificate: client.then(|| certificate.clone()),
        client_key: client.then(|| key.clone()),
        ..HostSettings::default()
    };
    let pull = async |settings: HostSettings, location: &str| {
        let hosts = RegistryHosts { mirrors: vec![settings], only_mirrors: true, ..RegistryHosts::default() };
        let registries = Registries { registries: BTreeMap::from([("*".to_owned(), hosts)]) };
        registries.check().unwrap();
        let options = PullOptions { registries: Arc::new(registries), ..PullOptions::default() };
        let mut keyring = Keyring::default();
        let auth = Auth { username: "user".into(), password: "secret".into() };
        keyring.add([(location.to_owned(), auth)], &Source::Node);
        let pulled = bench.images.pull("registry.test/app:v1", keyring, &options).await;
        pulled.map(|image| image.tags).map_err(|error| chain(&error))
    };
    let error = pull(settings(false), &mirror.address).await.unwrap_err();
    assert!(error.contains("registry unreachable"), "{error}");
    // A password for the registry is none for its mirror.
    let error = pull(settings(true), "registry.test").await.unwrap_err();
    assert!(error.contains("unauthorized"), "{error}");
    bench.nothing_is_left();
    let location = format!("https://{}/cached", mirror.address);
    assert_eq!(pull(settings(true), &location).await.unwrap(), ["registry.test/app:v1"]);
}
