//! `[p]` Which credentials may be tried for an image, and in which order: upstream's `DockerKeyring`.
//!
//! A keyring is a list of rings (the pod's secrets first, then the node's own); inside a ring the most specific
//! location comes first, and every credential of it is tried. Entries of a `dockerconfigjson` may name a path
//! (`registry.example/team`) and wildcards in parts of the host (`*.registry.example`).
//! Not for: where the bytes come from, talking to registries.

use std::{cmp::Reverse, collections::BTreeMap, fmt, net::Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::glob::Glob;

/// What Docker Hub is called in files that `docker login` writes.
const DEFAULT_LOCATION: &str = "index.docker.io";
/// Matches every image; not reachable from files.
const ANYWHERE: &str = "";

/// What `docker login` writes in place of a user where the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// A user name and password or token for one registry. Without a user name the secret is an identity token, for which
/// the registry's token server gives tokens of its own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Auth {
    /// User.
    pub username: String,
    /// Password or token; never printed.
    pub password: String,
}

impl Auth {
    /// An identity token (a refresh token in the words of OAuth 2).
    #[must_use]
    pub fn identity_token(token: String) -> Auth {
        Auth { username: String::new(), password: token }
    }

    /// Whether it is one.
    pub(crate) fn is_identity_token(&self) -> bool {
        self.username.is_empty()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Whose a credential is: what it opens, everyone on the node may use, or only pods that show it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The node's own: its configuration, a plugin, the command line.
    Node,
    /// A pull secret of a pod.
    Secret {
        /// Namespace of the secret.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
}

/// A credential and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// What is sent.
    pub auth: Auth,
    /// Whose it is.
    pub source: Source,
}

impl Credential {
    /// Stands for the credential in records; cannot be turned back.
    pub(crate) fn hash(&self) -> String {
        let mut hasher = Sha256::new_with_prefix(self.auth.username.as_bytes());
        hasher.update([0]);
        hasher.update(self.auth.password.as_bytes());
        hex::encode(hasher.finalize())
    }
}

/// Credentials by location, most specific location first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ring(BTreeMap<Reverse<String>, Vec<Credential>>);

/// All credentials that a pull may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring(Vec<Ring>);

/// Why a `dockerconfigjson` cannot be used. Says where, not what stands there.
#[derive(Debug, thiserror::Error)]
#[error("not a docker configuration, at line {line} column {column}")]
pub struct KeyringError {
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for KeyringError {
    fn from(error: serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// Locations and credentials of a `config.json` / `.dockerconfigjson` (`{"auths": {…}}`). Entries without a usable
/// credential yield nothing.
pub fn parse_docker_config(json: &[u8]) -> Result<Vec<(String, Auth)>, KeyringError> {
    Ok(entries(serde_json::from_slice::<Config>(json)?.auths))
}

/// The same of a legacy `.dockercfg` (no `auths` around it).
pub fn parse_dockercfg(json: &[u8]) -> Result<Vec<(String, Auth)>, KeyringError> {
    Ok(entries(serde_json::from_slice(json)?))
}

fn entries(auths: BTreeMap<String, Entry>) -> Vec<(String, Auth)> {
    auths.into_iter().filter_map(|(location, entry)| Some((location, auth_of(entry)?))).collect()
}

/// A password counts before an identity token: beside a token `docker login` writes a user without one.
fn auth_of(entry: Entry) -> Option<Auth> {
    let Entry { username, password, auth, identitytoken } = entry;
    let token = identitytoken.filter(|token| !token.is_empty()).map(Auth::identity_token);
    let pair = match (username, password) {
        (Some(username), Some(password)) => Some(Auth { username, password }),
        _ => auth.as_deref().and_then(decoded),
    };
    match (pair, token) {
        (Some(Auth { username, password }), None) if username == TOKEN_USER => {
            Some(Auth::identity_token(password))
        }
        // Without a user it would be taken for a token.
        (Some(pair), None) => Some(pair).filter(|pair| !pair.username.is_empty()),
        (Some(pair), Some(token)) if pair.password.is_empty() => Some(token),
        (Some(pair), Some(_)) => Some(pair),
        (None, token) => token,
    }
}

fn decoded(auth: &str) -> Option<Auth> {
    let decoded = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Auth { username: username.into(), password: password.trim_end_matches('\0').into() })
}

impl Keyring {
    /// A ring of one source, tried after all rings that are there already.
    pub fn add(&mut self, found: impl IntoIterator<Item = (String, Auth)>, source: &Source) {
        self.add_all(
            found.into_iter().map(|(location, auth)| (location, Credential { auth, source: source.clone() })),
        );
    }

    /// A ring of several sources, whose locations compete with each other.
    pub fn add_all(&mut self, found: impl IntoIterator<Item = (String, Credential)>) {
        let mut ring = Ring::default();
        for (location, credential) in found {
            ring.0.entry(Reverse(key(&location))).or_default().push(credential);
        }
        if !ring.0.is_empty() {
            self.0.push(ring);
        }
    }

    /// Credentials for a repository (`docker.io/library/nginx`) in the order they are to be tried.
    pub(crate) fn lookup(&self, repository: &str) -> Vec<Credential> {
        let mut found: Vec<Credential> = Vec::new();
        for credential in self.0.iter().flat_map(|ring| ring.lookup(repository)) {
            if !found.contains(credential) {
                found.push(credential.clone());
            }
        }
        found
    }
}

/// One credential for whatever registry is asked: the command line's.
impl From<Option<Auth>> for Keyring {
    fn from(auth: Option<Auth>) -> Self {
        let credential = auth.map(|auth| Credential { auth, source: Source::Node });
        let ring = credential.map(|one| Ring(BTreeMap::from([(Reverse(ANYWHERE.to_owned()), vec![one])])));
        Self(ring.into_iter().collect())
    }
}

impl Ring {
    fn lookup(&self, repository: &str) -> Vec<&Credential> {
        let fits = |location: &str| location == ANYWHERE || matches(location, repository);
        let mut found = self.0.iter().filter(|(location, _)| fits(&location.0)).peekable();
        if found.peek().is_none() && is_docker_hub(repository) {
            return self.0.get(&Reverse(DEFAULT_LOCATION.to_owned())).into_iter().flatten().collect();
        }
        found.flat_map(|(_, credentials)| credentials).collect()
    }
}

/// Scheme and the API version that `docker login` writes are decoration.
fn key(location: &str) -> String {
    let bare = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://"));
    let (host, path) = split(bare.unwrap_or(location));
    let path = match path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")) {
        Some(rest) => format!("/{rest}"),
        None => path.to_owned(),
    };
    // A location without host would fit everywhere.
    let host = if host.is_empty() { "invalid." } else { host };
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

fn is_docker_hub(repository: &str) -> bool {
    matches!(split(repository).0, "docker.io" | "index.docker.io")
}

/// Host with port, and path with its slash.
fn split(text: &str) -> (&str, &str) {
    text.find('/').map_or((text, ""), |at| text.split_at(at))
}

/// As upstream: same port, same number of parts in the host, each part matching, and the path a prefix. A part that is no
/// pattern matches nothing.
pub fn matches(location: &str, repository: &str) -> bool {
    let ((location_host, location_path), (host, path)) = (split(location), split(repository));
    let ((pattern, pattern_port), (host, port)) = (split_port(location_host), split_port(host));
    let (patterns, parts): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    let fits = |(pattern, part): (&&str, &str)| Glob::parse(pattern).is_some_and(|glob| glob.matches(part));
    pattern_port == port
        && path.starts_with(location_path)
        && patterns.len() == parts.len()
        && patterns.iter().zip(parts).all(fits)
}

/// The first part of a location's host that is no pattern.
pub fn broken_pattern(location: &str) -> Option<&str> {
    let (host, _) = split_port(split(location).0);
    host.split('.').find(|part| Glob::parse(part).is_none())
}

/// An IPv6 address loses its brackets: in a pattern they mean something else.
fn split_port(host: &str) -> (&str, Option<&str>) {
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (host, None),
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    (bare.filter(|bare| bare.parse::<Ipv6Addr>().is_ok()).unwrap_or(host), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(locations: &[&str]) -> Keyring {
        let auth = |name: &&str| Auth { username: (*name).to_owned(), password: "p".to_owned() };
        let mut keyring = Keyring::default();
        keyring.add(locations.iter().map(|name| ((*name).to_owned(), auth(name))), &Source::Node);
        keyring
    }

    fn check(locations: &[&str], repository: &str, expected: &[&str]) {
        let found = ring(locations).lookup(repository);
        let found: Vec<_> = found.iter().map(|credential| credential.auth.username.as_str()).collect();
        assert_eq!(found, expected, "{repository}");
    }

    #[test]
    fn the_most_specific_location_comes_first() {
        let locations = ["quay.io", "quay.io/coreos", "https://quay.io/v1/", "gcr.io", "*.io"];
        check(
            &locations,
            "quay.io/coreos/etcd",
            &["quay.io/coreos", "quay.io", "https://quay.io/v1/", "*.io"],
        );
        check(&locations, "quay.io/other", &["quay.io", "https://quay.io/v1/", "*.io"]);
        check(&locations, "gcr.io/x", &["gcr.io", "*.io"]);
        check(&locations, "quay.com/x", &[]);
    }

    #[test]
    fn wildcards_stand_for_one_part_of_the_host() {
        check(&["*.dkr.ecr.*.example"], "123.dkr.ecr.eu.example/x", &["*.dkr.ecr.*.example"]);
        check(&["*.example"], "a.b.example/x", &[]);
        check(&["r?.example", "r*.example:5000"], "r1.example/x", &["r?.example"]);
        check(&["r?.example", "r*.example:5000"], "r1.example:5000/x", &["r*.example:5000"]);
        check(&["*.example/team"], "r.example/team/x", &["*.example/team"]);
        check(&["*.example/team"], "r.example/other", &[]);
        check(&["r[0-9].example", "r[^0-9].example"], "r1.example/x", &["r[0-9].example"]);
        check(&["[fd00::1]:5000", "[fd00::1]"], "[fd00::1]:5000/x", &["[fd00::1]:5000"]);
        check(&["r[0-9.example"], "r1.example/x", &[]);
    }

    #[test]
    fn docker_hub_has_many_names() {
        for location in ["docker.io", "https://index.docker.io/v1/", "index.docker.io"] {
            check(&[location], "docker.io/library/nginx", &[location]);
        }
        check(&["index.docker.io", "docker.io/team"], "docker.io/team/x", &["docker.io/team"]);
        check(&["index.docker.io"], "quay.io/x", &[]);
        check(&["", "/", "https:///x"], "docker.io/library/nginx", &[]);
    }

    #[test]
    fn secrets_come_before_the_node() {
        let mut keyring = ring(&["r.io"]);
        let node = Auth { username: "node".into(), password: "p".into() };
        keyring.add([("r.io/deep".to_owned(), node)], &Source::Node);
        let found: Vec<_> = keyring.lookup("r.io/deep/x").into_iter().map(|c| c.auth.username).collect();
        assert_eq!(found, ["r.io", "node"]);
        assert_eq!(
            Keyring::from(Some(Auth { username: "u".into(), password: "p".into() })).lookup("a/b").len(),
            1
        );
    }

    #[test]
    fn identity_tokens_stand_where_no_password_does() {
        let check = |entry: &str, expected: Option<(&str, &str)>| {
            let found =
                parse_docker_config(format!(r#"{{"auths":{{"r":{{{entry}}}}}}}"#).as_bytes()).unwrap();
            let found = found.first().map(|(_, auth)| (auth.username.as_str(), auth.password.as_str()));
            assert_eq!(found, expected, "{entry}");
        };
        check(r#""identitytoken":"t""#, Some(("", "t")));
        // "user:" and "user:pass"
        check(r#""auth":"dXNlcjo=","identitytoken":"t""#, Some(("", "t")));
        check(r#""auth":"dXNlcjpwYXNz","identitytoken":"t""#, Some(("user", "pass")));
        check(r#""username":"<token>","password":"t""#, Some(("", "t")));
        check(r#""identitytoken":"""#, None);
        check(r#""username":"","password":"p""#, None);
    }

    #[test]
    fn both_spellings_of_credentials() {
        let json = br#"{"auths":{"r.example":{"auth":"dTpwOng="},"s.example":{"username":"a","password":"b"},"t":{}}}"#;
        let found = parse_docker_config(json).unwrap();
        let shown: Vec<_> = found.iter().map(|(l, a)| format!("{l} {}:{}", a.username, a.password)).collect();
        assert_eq!(shown, ["r.example u:p:x", "s.example a:b"]);
        assert_eq!(parse_dockercfg(br#"{"r":{"auth":"dTpw"}}"#).unwrap().len(), 1);
        // The text of the error must not show what stands in the file.
        let error = parse_docker_config(br#"{"auths":{"r":"secret"}}"#).unwrap_err().to_string();
        assert_eq!(error, "not a docker configuration, at line 1 column 22");
    }
}
