//! `[p]` The `registries` configuration: which hosts answer for a registry, in which order, and how each is spoken to.
//!
//! The words and the meaning are those of containerd's `hosts.toml`; all registries stand in one file. Not for:
//! reading the file (the caller has a parser), talking to anyone.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

/// The entry for registries that have none of their own.
const EVERY: &str = "*";
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_SERVER: &str = "https://registry-1.docker.io";

/// Hosts by registry, as the names of images say it: `docker.io`, `registry.example:5000`, `*` for all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Registries {
    /// By registry.
    pub registries: BTreeMap<String, RegistryHosts>,
}

/// Who answers for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RegistryHosts {
    /// The registry itself; asked last.
    pub server: HostSettings,
    /// Asked before it, in this order.
    pub mirrors: Vec<HostSettings>,
    /// Never ask the registry itself.
    pub only_mirrors: bool,
}

/// How one host is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct HostSettings {
    /// `https://host[:port]`, or `http://…` for one without TLS; a path (`/v2/proxy`) goes before repositories.
    pub url: Option<String>,
    /// What it is asked for; everything if not said.
    pub capabilities: Option<Vec<Capability>>,
    /// Beginnings of repository names and what stands in their place; the longest that fits counts.
    pub rewrite: BTreeMap<String, String>,
    /// Certificate authorities to trust besides the system's: PEM files.
    pub ca: Vec<PathBuf>,
    /// PEM file with the certificate to show.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub client_key: Option<PathBuf>,
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Capability {
    /// What a tag stands for. A host without it is asked by digest only, so it cannot decide which image runs.
    Resolve,
    /// Manifests by digest, and blobs.
    Pull,
}

/// What is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("registries: {registry}: {reason}")]
pub struct RegistriesError {
    /// Key of the entry.
    pub registry: String,
    /// What is wrong.
    pub reason: String,
}

/// How TLS is set up; hosts that are alike share connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(crate) plain: bool,
}

/// A host to be asked about one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// `https://host:port`: scheme and authority.
    pub(crate) origin: String,
    /// `/v2`, or what the configuration says.
    pub(crate) prefix: String,
    /// As this host calls it.
    pub(crate) repository: String,
    /// What credentials are looked up by: they are only sent to whom they name.
    pub(crate) lookup: String,
    /// For mirrors: the registry they stand for.
    pub(crate) stands_for: Option<String>,
    pub(crate) resolves: bool,
    pub(crate) pulls: bool,
    pub(crate) tls: Tls,
}

impl Host {
    /// Host and port, for people.
    pub(crate) fn name(&self) -> &str {
        authority(&self.origin).unwrap_or(&self.origin)
    }

    /// The address of a manifest or blob.
    pub(crate) fn url(&self, kind: &str, name: &str) -> String {
        let Self { origin, prefix, repository, stands_for, .. } = self;
        let ns = stands_for.as_ref().map(|ns| format!("?ns={ns}")).unwrap_or_default();
        format!("{origin}{prefix}/{repository}/{kind}/{name}{ns}")
    }
}

impl Registries {
    /// Finds what could not work, so that it is told at the start and not at the first pull.
    pub fn check(&self) -> Result<(), RegistriesError> {
        for (registry, RegistryHosts { server, mirrors, only_mirrors }) in &self.registries {
            let wrong = |reason: String| RegistriesError { registry: registry.clone(), reason };
            for mirror in mirrors {
                let url = mirror.url.as_ref().ok_or_else(|| wrong("a mirror without url".to_owned()))?;
                split_url(url).map_err(wrong)?;
            }
            if let Some(url) = &server.url {
                split_url(url).map_err(wrong)?;
                if registry == EVERY {
                    return Err(wrong("one server cannot be every registry".to_owned()));
                }
            }
            if *only_mirrors && mirrors.is_empty() {
                return Err(wrong("onlyMirrors without mirrors".to_owned()));
            }
            for host in mirrors.iter().chain([server]) {
                if host.client_certificate.is_some() != host.client_key.is_some() {
                    return Err(wrong("clientCertificate and clientKey need each other".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Hosts to ask about a repository of a registry, in order. `plain`: the registry itself has no TLS.
    pub(crate) fn hosts(&self, registry: &str, repository: &str, plain: bool) -> Vec<Host> {
        let none = RegistryHosts::default();
        let entry = self.registries.get(registry).or_else(|| self.registries.get(EVERY)).unwrap_or(&none);
        let mut hosts: Vec<Host> = entry
            .mirrors
            .iter()
            .filter_map(|mirror| {
                let mut host = host(mirror, mirror.url.as_deref()?, repository)?;
                host.stands_for = Some(registry.to_owned());
                Some(host)
            })
            .collect();
        if !entry.only_mirrors {
            let default = match registry {
                DOCKER_HUB if !plain => DOCKER_HUB_SERVER.to_owned(),
                registry if plain => format!("http://{registry}"),
                registry => format!("https://{registry}"),
            };
            let server = entry.server.url.clone().unwrap_or(default);
            hosts.extend(
                host(&entry.server, &server, repository)
                    .map(|host| Host { lookup: format!("{registry}/{repository}"), ..host }),
            );
        }
        hosts
    }
}

fn host(settings: &HostSettings, url: &str, repository: &str) -> Option<Host> {
    let (origin, path) = split_url(url).ok()?;
    let HostSettings { capabilities, rewrite, ca, client_certificate, client_key, .. } = settings;
    let can = |wanted| capabilities.as_ref().is_none_or(|all| all.contains(&wanted));
    let repository = rewritten(rewrite, repository);
    let prefix = if path.is_empty() { "/v2" } else { path };
    let name = authority(origin)?;
    let beyond = prefix.strip_prefix("/v2").unwrap_or_default();
    Some(Host {
        lookup: format!("{name}{beyond}/{repository}"),
        origin: origin.to_owned(),
        prefix: prefix.to_owned(),
        repository,
        stands_for: None,
        resolves: can(Capability::Resolve),
        pulls: can(Capability::Pull),
        tls: Tls {
            ca: ca.clone(),
            client: client_certificate.clone().zip(client_key.clone()),
            plain: origin.starts_with("http://"),
        },
    })
}

fn rewritten(rewrite: &BTreeMap<String, String>, repository: &str) -> String {
    let fitting =
        rewrite.iter().filter_map(|(from, to)| Some((from, to, repository.strip_prefix(from.as_str())?)));
    match fitting.max_by_key(|(from, ..)| from.len()) {
        Some((_, to, rest)) => format!("{to}{rest}"),
        None => repository.to_owned(),
    }
}

fn authority(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, authority)| authority)
}

/// Scheme with authority, and path without trailing slash.
fn split_url(url: &str) -> Result<(&str, &str), String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| format!("{url}: neither https:// nor http://"))?;
    let (name, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if name.is_empty() || rest.contains(['@', '?', '#', ' ']) {
        return Err(format!("{url}: not of the form https://host[:port][/v2/path]"));
    }
    let path = path.trim_end_matches('/');
    if !path.is_empty() && path != "/v2" && !path.starts_with("/v2/") {
        return Err(format!("{url}: its path does not begin with /v2"));
    }
    Ok((&url[..url.len() - rest.len() + name.len()], path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(json: &str) -> Registries {
        serde_json::from_str(json).unwrap()
    }

    fn check(json: &str, registry: &str, repository: &str, plain: bool, expected: &[&str]) {
        let registries = registries(json);
        registries.check().unwrap();
        let shown: Vec<String> = registries
            .hosts(registry, repository, plain)
            .iter()
            .map(|host| {
                let capabilities = match (host.resolves, host.pulls) {
                    (true, true) => "",
                    (true, false) => " resolve",
                    (false, true) => " pull",
                    (false, false) => " nothing",
                };
                format!("{} as {}{capabilities}", host.url("blobs", "D"), host.lookup)
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn without_configuration_the_registry_itself_answers() {
        check("{}", "r.io:5000", "a/b", false, &["https://r.io:5000/v2/a/b/blobs/D as r.io:5000/a/b"]);
        check("{}", "r.io:5000", "a/b", true, &["http://r.io:5000/v2/a/b/blobs/D as r.io:5000/a/b"]);
        check(
            "{}",
            "docker.io",
            "library/x",
            false,
            &["https://registry-1.docker.io/v2/library/x/blobs/D as docker.io/library/x"],
        );
    }

    #[test]
    fn mirrors_come_first_and_know_whom_they_stand_for() {
        let json = r#"{"registries": {
            "docker.io": {"mirrors": [
                {"url": "https://m1:5000", "capabilities": ["pull"]},
                {"url": "http://m2/v2/hub/", "rewrite": {"": "all/", "library/": "official/"}}]},
            "*": {"mirrors": [{"url": "https://every"}], "onlyMirrors": true}}}"#;
        check(
            json,
            "docker.io",
            "library/x",
            false,
            &[
                "https://m1:5000/v2/library/x/blobs/D?ns=docker.io as m1:5000/library/x pull",
                "http://m2/v2/hub/official/x/blobs/D?ns=docker.io as m2/hub/official/x",
                "https://registry-1.docker.io/v2/library/x/blobs/D as docker.io/library/x",
            ],
        );
        check(json, "quay.io", "x", false, &["https://every/v2/x/blobs/D?ns=quay.io as every/x"]);
    }

    #[test]
    fn a_server_may_live_elsewhere() {
        let json = r#"{"registries": {"r.io": {"server": {"url": "https://proxy:1", "ca": ["/ca.pem"]}}}}"#;
        check(json, "r.io", "x", false, &["https://proxy:1/v2/x/blobs/D as r.io/x"]);
        assert_eq!(registries(json).hosts("r.io", "x", false)[0].tls.ca, [PathBuf::from("/ca.pem")]);
    }

    #[test]
    fn what_cannot_work_is_told() {
        let wrong = |json: &str, expected: &str| {
            assert_eq!(registries(json).check().unwrap_err().to_string(), expected);
        };
        wrong(r#"{"registries": {"r": {"mirrors": [{}]}}}"#, "registries: r: a mirror without url");
        wrong(
            r#"{"registries": {"r": {"mirrors": [{"url": "m:5000"}]}}}"#,
            "registries: r: m:5000: neither https:// nor http://",
        );
        wrong(
            r#"{"registries": {"r": {"mirrors": [{"url": "https://u:p@m"}]}}}"#,
            "registries: r: https://u:p@m: not of the form https://host[:port][/v2/path]",
        );
        wrong(
            r#"{"registries": {"r": {"mirrors": [{"url": "https://m/hub"}]}}}"#,
            "registries: r: https://m/hub: its path does not begin with /v2",
        );
        wrong(
            r#"{"registries": {"r": {"onlyMirrors": true}}}"#,
            "registries: r: onlyMirrors without mirrors",
        );
        wrong(
            r#"{"registries": {"r": {"server": {"clientKey": "/k"}}}}"#,
            "registries: r: clientCertificate and clientKey need each other",
        );
        wrong(
            r#"{"registries": {"*": {"server": {"url": "https://x"}}}}"#,
            "registries: *: one server cannot be every registry",
        );
        assert!(serde_json::from_str::<Registries>(r#"{"registries": {"r": {"mirror": []}}}"#).is_err());
    }
}
