//! The node's own registry credentials: a docker configuration file, and plugins by the kubelet's exec protocol.
//!
//! ```text
//!  image ─▶ config.matching [p] ─▶ cache.get [p] ─▶ plugin.run ─▶ cache.put [p] ─┐
//!  config.json, read again at every pull ────────────────────────────────────────┴─▶ rings of a Keyring
//! ```
//! What fails here is told to the log and left out: a pull with other credentials, or none, may still work. Not for:
//! pull secrets of pods.

pub mod cache;
pub mod config;
mod plugin;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use orlop_runtime::image::{Keyring, Source, parse_docker_config};
use tokio::time::Instant;

use self::{
    cache::{Cache, Found},
    config::{ConfigError, Provider},
};

/// A plugin that does not answer in this time is killed; upstream's limit.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The node's own credentials.
#[derive(Debug)]
pub struct NodeCredentials {
    docker_config: PathBuf,
    plugins: Vec<Plugin>,
    limit: Duration,
}

#[derive(Debug)]
struct Plugin {
    provider: Provider,
    program: PathBuf,
    cache: Mutex<Cache>,
    /// One run of a plugin at a time: the others then find its answer in the cache.
    turn: tokio::sync::Mutex<()>,
}

/// Why the plugins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The configuration cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The configuration is not one.
    #[error("credential providers of {path}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// A plugin is not there.
    #[error("credential provider {path}")]
    Missing {
        /// Its program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NodeCredentials {
    /// With the plugins of a configuration file, whose programs lie in a directory.
    ///
    /// # Errors
    /// When the file cannot be used or a program is missing: better at the start than at the first pull.
    pub fn open(docker_config: PathBuf, plugins: Option<(&Path, &Path)>) -> Result<Self, PluginError> {
        let mut opened = Self { docker_config, plugins: Vec::new(), limit: TIME_LIMIT };
        let Some((file, dir)) = plugins else { return Ok(opened) };
        let text =
            fs::read_to_string(file).map_err(|source| PluginError::Read { path: file.to_owned(), source })?;
        let providers =
            config::parse(&text).map_err(|source| PluginError::Config { path: file.to_owned(), source })?;
        for provider in providers {
            let program = dir.join(&provider.name);
            fs::metadata(&program)
                .map_err(|source| PluginError::Missing { path: program.clone(), source })?;
            let (cache, turn) = (Mutex::default(), tokio::sync::Mutex::default());
            opened.plugins.push(Plugin { provider, program, cache, turn });
        }
        Ok(opened)
    }

    /// Adds what the node has for a repository, after what is in the keyring already.
    pub async fn add(&self, keyring: &mut Keyring, repository: &str) {
        match fs::read(&self.docker_config).map(|json| parse_docker_config(&json)) {
            Ok(Ok(found)) => keyring.add(found, &Source::Node),
            Ok(Err(error)) => {
                tracing::warn!(path = %self.docker_config.display(), %error, "registry credentials left out");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.docker_config.display(), %error, "registry credentials left out");
            }
        }
        for plugin in self.plugins.iter().filter(|plugin| plugin.provider.matches(repository)) {
            if let Some(found) = plugin.credentials(repository, self.limit).await {
                keyring.add(found, &Source::Node);
            }
        }
    }
}

impl Plugin {
    async fn credentials(&self, repository: &str, limit: Duration) -> Option<Found> {
        let cached = |now| self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(repository, now);
        if let Some(found) = cached(Instant::now().into_std()) {
            return Some(found);
        }
        let _turn = self.turn.lock().await;
        if let Some(found) = cached(Instant::now().into_std()) {
            return Some(found);
        }
        let answer = plugin::run(&self.program, &self.provider, repository, limit).await;
        match answer
            .map_err(|error| error.to_string())
            .and_then(|bytes| cache::parse(&bytes, &self.provider).map_err(|error| error.to_string()))
        {
            Ok(answer) => {
                let found = answer.found.clone();
                let now = Instant::now().into_std();
                self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(repository, answer, now);
                Some(found)
            }
            Err(error) => {
                tracing::warn!(plugin = self.provider.name, repository, error, "credential provider failed");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        credentials: NodeCredentials,
    }

    impl Bench {
        /// A plugin that is this shell script; it finds its directory in `$DIR`.
        fn new(script: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let program = dir.path().join("plug");
            fs::write(&program, format!("#!/bin/sh\n{script}")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let file = dir.path().join("providers.yaml");
            let text = format!(
                "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: [{{name: plug, \
                 apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: ['*.example'], \
                 defaultCacheDuration: 1h, args: [one], env: [{{name: DIR, value: {}}}]}}]",
                dir.path().display()
            );
            fs::write(&file, text).unwrap();
            let docker_config = dir.path().join("config.json");
            let plugins = Some((file.as_path(), dir.path()));
            let mut credentials = NodeCredentials::open(docker_config, plugins).unwrap();
            credentials.limit = Duration::from_millis(700);
            Self { dir, credentials }
        }

        async fn found(&self, repository: &str) -> Keyring {
            let mut keyring = Keyring::default();
            self.credentials.add(&mut keyring, repository).await;
            keyring
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
        }
    }

    const GOOD: &str = r#"cat >> $DIR/asked; echo "$1" >> $DIR/asked
        echo '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse",
        "cacheKeyType":"Registry","auth":{"*.example":{"username":"u","password":"p"}}}'"#;

    #[tokio::test]
    async fn a_plugin_is_asked_once_for_a_registry() {
        let bench = Bench::new(GOOD);
        let first = bench.found("r.example/a").await;
        assert_ne!(first, Keyring::default());
        assert_eq!(bench.found("r.example/b").await, first);
        assert_eq!(
            bench.read("asked"),
            "{\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"image\":\"r.example/a\",\"kind\":\"CredentialProviderRequest\"}one\n"
        );
        assert_eq!(bench.found("other.registry/a").await, Keyring::default());
    }

    #[tokio::test]
    async fn a_plugin_that_fails_is_left_out() {
        let endless = "trap '' TERM; sleep 60 & echo $! > $DIR/child; wait";
        let flood = "yes '{' | head -c 3000000";
        for script in ["exit 3", "echo nonsense", "echo '{}'", endless, flood, "exec /does/not/exist"] {
            let bench = Bench::new(script);
            assert_eq!(bench.found("r.example/a").await, Keyring::default(), "{script}");
            if script == endless {
                let child = bench.read("child");
                let mut state = String::new();
                for _ in 0..50 {
                    state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
                    if state.is_empty() || state.contains(" Z ") {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                panic!("a child of the plugin lives on: {state}");
            }
        }
    }

    #[tokio::test]
    async fn the_file_is_read_again_at_every_pull() {
        let bench = Bench::new(GOOD);
        let file = bench.dir.path().join("config.json");
        for text in ["{", r#"{"auths":{}}"#] {
            fs::write(&file, text).unwrap();
            assert_eq!(bench.found("plain.registry/a").await, Keyring::default());
        }
        fs::write(&file, r#"{"auths":{"plain.registry":{"username":"a","password":"b"}}}"#).unwrap();
        assert_ne!(bench.found("plain.registry/a").await, Keyring::default());
    }

    #[test]
    fn a_missing_program_is_told_at_the_start() {
        let bench = Bench::new(GOOD);
        fs::remove_file(bench.dir.path().join("plug")).unwrap();
        let file = bench.dir.path().join("providers.yaml");
        let opened = NodeCredentials::open(PathBuf::new(), Some((&file, bench.dir.path())));
        assert!(matches!(opened, Err(PluginError::Missing { .. })), "{opened:?}");
    }
}
