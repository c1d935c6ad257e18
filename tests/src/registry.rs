//! A real registry on the loopback of a playground's node: Debian's docker-registry, with password and TLS if wanted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use crate::{Playground, playground::run, until};

/// Where it listens, as in names of images.
pub const REGISTRY: &str = "127.0.0.1:5000";
/// `user` with the password `secret`.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// An authority (ca.pem) and a certificate of it for 127.0.0.1 (cert.pem, key.pem).
const CERTIFICATES: &str = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
    printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > leaf.ext
    openssl req -newkey rsa:2048 -nodes -subj /CN=registry -keyout key.pem -out leaf.csr
    openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out cert.pem";

/// The registry's process, ended with the test.
pub struct Registry {
    process: Child,
    options: Vec<String>,
}

/// Who may have what from a registry, and how.
#[derive(Default)]
pub struct Door<'a> {
    /// Nobody without the password.
    pub password: bool,
    /// Not in plain HTTP.
    pub tls: Option<&'a Certificates>,
}

/// A certificate for the registry, and what makes a node trust it.
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Makes them.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("orlop-e2e-ca-").tempdir().expect("make a directory");
        run(Command::new("sh").args(["-ec", CERTIFICATES]).current_dir(dir.path())).text();
        let trust =
            format!("registries: {{'{REGISTRY}': {{server: {{ca: [{}/ca.pem]}}}}}}\n", dir.path().display());
        fs::write(dir.path().join("registries.yaml"), trust).expect("write registries.yaml");
        Self(dir)
    }

    /// For `--registries`.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.0.path().join("registries.yaml")
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// Starts one on the first node; returns when it answers.
    #[must_use]
    pub fn start(p: &Playground, door: &Door<'_>) -> Self {
        let (data, config, users) =
            (p.dir.join("registry"), p.dir.join("registry.yml"), p.dir.join("htpasswd"));
        fs::create_dir_all(&data).expect("make the registry's directory");
        fs::write(&users, HTPASSWD).expect("write htpasswd");
        let tls = door.tls.map(|tls| {
            format!(", tls: {{certificate: {}, key: {}}}", tls.file("cert.pem"), tls.file("key.pem"))
        });
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
        let yaml = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '{REGISTRY}'{}}}\n{}",
            data.display(),
            tls.unwrap_or_default(),
            if door.password { &auth } else { "" },
        );
        fs::write(&config, yaml).expect("write the registry's configuration");
        let mut command = p.inside(1, "docker-registry");
        let log = fs::File::create(p.dir.join("registry.log")).expect("make the registry's log");
        command.arg("serve").arg(&config).stdout(log.try_clone().expect("one more handle")).stderr(log);
        let process = command.spawn().expect("start docker-registry");
        let registry = Self { process, options: options(door) };
        let scheme = if door.tls.is_some() { "https" } else { "http" };
        until("the registry answers", Duration::from_secs(10), || {
            // Any answer will do: one that wants a password says 401.
            let out = run(p.inside(1, "curl").args(["-sk", &format!("{scheme}://{REGISTRY}/v2/")]));
            if out.ok { Ok(()) } else { Err(out.stderr) }
        });
        registry
    }

    /// Pushes an image of an OCI layout; `tag` is its name in the index, where there are several.
    pub fn push(&self, p: &Playground, layout: &Path, tag: Option<&str>, image: &str) {
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let (from, to) = (format!("oci:{}{tag}", layout.display()), format!("docker://{REGISTRY}/{image}"));
        run(p.inside(1, "skopeo").arg("copy").args(&self.options).args([from, to])).text();
    }
}

/// What skopeo needs to come through this door.
fn options(door: &Door<'_>) -> Vec<String> {
    let mut options = Vec::new();
    if door.password {
        options.push("--dest-creds=user:secret".to_owned());
    }
    match door.tls {
        // A directory of certificates as skopeo knows it: any `.crt` is an authority.
        Some(tls) => {
            let dir = tls.0.path().join("skopeo");
            fs::create_dir_all(&dir).expect("make a directory");
            fs::copy(tls.file("ca.pem"), dir.join("ca.crt")).expect("copy the authority");
            options.push(format!("--dest-cert-dir={}", dir.display()));
        }
        None => options.push("--dest-tls-verify=false".to_owned()),
    }
    options
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// `kubectl create secret` of the registry's password, as `key`.
pub fn create_secret(p: &Playground) {
    let server = format!("--docker-server={REGISTRY}");
    let words = ["create", "secret", "docker-registry", "key", &server, "--docker-username=user"];
    p.kubectl(&[&words[..], &["--docker-password=secret"]].concat()).text();
}
