//! What plugins answered, and for how long and for which images that holds. Pure: the time is an argument.
//!
//! Source: `CredentialProviderResponse` of the kubelet's exec protocol.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use orlop_runtime::image::Auth;
use serde::Deserialize;

use super::config::{Provider, duration};

/// Credentials by location.
pub type Found = Vec<(String, Auth)>;

/// Answers kept per plugin.
const ENTRIES_MAX: usize = 1000;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it gave.
    pub found: Found,
    /// For which images it holds.
    pub scope: Scope,
    /// For how long; zero is not at all.
    pub life: Duration,
}

/// For which images an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Scope {
    /// The one that was asked for.
    Image,
    /// All of its registry.
    Registry,
    /// All that the plugin is asked for.
    Global,
}

/// Why an answer cannot be used; never says what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Not JSON of that kind.
    #[error("its answer is not a CredentialProviderResponse (line {line}, column {column})")]
    Parse {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// Of another kind or version.
    #[error("its answer is not the {0} CredentialProviderResponse that was asked for")]
    Version(String),
    /// Not a duration.
    #[error("its cacheDuration is not a duration")]
    Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    api_version: String,
    kind: String,
    cache_key_type: Scope,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, RawAuth>>,
}

#[derive(Deserialize)]
struct RawAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Reads what a plugin wrote.
///
/// # Errors
/// Anything that is not an answer to the request.
pub fn parse(bytes: &[u8], provider: &Provider) -> Result<Answer, AnswerError> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|error| AnswerError::Parse { line: error.line(), column: error.column() })?;
    if raw.kind != "CredentialProviderResponse" || raw.api_version != provider.api_version {
        return Err(AnswerError::Version(provider.api_version.clone()));
    }
    let life = match raw.cache_duration {
        Some(text) => duration(&text).ok_or(AnswerError::Duration)?,
        None => provider.default_cache_duration,
    };
    let found = raw.auth.unwrap_or_default().into_iter();
    let found =
        found.map(|(location, RawAuth { username, password })| (location, Auth { username, password }));
    Ok(Answer { found: found.collect(), scope: raw.cache_key_type, life })
}

/// Answers that still hold.
#[derive(Debug, Default)]
pub struct Cache(HashMap<String, (Found, Instant)>);

impl Cache {
    /// The answer for a repository: the most special one.
    #[must_use]
    pub fn get(&self, repository: &str, now: Instant) -> Option<Found> {
        [Scope::Image, Scope::Registry, Scope::Global]
            .into_iter()
            .filter_map(|scope| self.0.get(&key(scope, repository)))
            .find(|(_, until)| *until > now)
            .map(|(found, _)| found.clone())
    }

    /// Remembers an answer.
    pub fn put(&mut self, repository: &str, answer: Answer, now: Instant) {
        self.0.retain(|_, (_, until)| *until > now);
        let Some(until) = now.checked_add(answer.life).filter(|until| *until > now) else { return };
        if self.0.len() >= ENTRIES_MAX {
            self.0.clear();
        }
        self.0.insert(key(answer.scope, repository), (answer.found, until));
    }
}

fn key(scope: Scope, repository: &str) -> String {
    match scope {
        Scope::Image => format!("image {repository}"),
        Scope::Registry => format!("registry {}", repository.split('/').next().unwrap_or_default()),
        Scope::Global => "global".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

    fn provider() -> Provider {
        Provider {
            name: "p".into(),
            api_version: VERSION.into(),
            match_images: Vec::new(),
            default_cache_duration: Duration::from_secs(10),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    fn answer(rest: &str) -> Result<Answer, String> {
        let head = format!(r#"{{"apiVersion":"{VERSION}","kind":"CredentialProviderResponse""#);
        parse(format!("{head},{rest}}}").as_bytes(), &provider()).map_err(|error| error.to_string())
    }

    #[test]
    fn answers_are_read() {
        let full = answer(
            r#""cacheKeyType":"Image","cacheDuration":"5m0s","auth":{"r":{"username":"u","password":"p"}}"#,
        );
        let full = full.unwrap();
        assert_eq!((full.found.len(), full.scope, full.life), (1, Scope::Image, Duration::from_secs(300)));
        let least = answer(r#""cacheKeyType":"Global","auth":null"#).unwrap();
        assert_eq!((least.found.len(), least.life), (0, Duration::from_secs(10)));
        assert_eq!(
            answer(r#""cacheKeyType":"Image","cacheDuration":"-1s""#).unwrap_err(),
            "its cacheDuration is not a duration"
        );
        let secret = answer(r#""cacheKeyType":"secret""#).unwrap_err();
        assert!(
            secret.starts_with("its answer is not a CredentialProviderResponse (line 1, column "),
            "{secret}"
        );
        let other = parse(
            br#"{"apiVersion":"v2","kind":"CredentialProviderResponse","cacheKeyType":"Image"}"#,
            &provider(),
        );
        assert!(matches!(other, Err(AnswerError::Version(_))));
    }

    #[test]
    fn answers_hold_for_their_images_and_their_time() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let check = |scope: &str, expected: [bool; 3]| {
            let mut cache = Cache::default();
            cache.put(
                "r/a",
                answer(&format!(r#""cacheKeyType":"{scope}","cacheDuration":"10s""#)).unwrap(),
                now,
            );
            let found = ["r/a", "r/b", "s/a"].map(|image| cache.get(image, later(9)).is_some());
            assert_eq!(found, expected, "{scope}");
            assert_eq!(cache.get("r/a", later(10)), None);
        };
        check("Image", [true, false, false]);
        check("Registry", [true, true, false]);
        check("Global", [true, true, true]);
        let mut cache = Cache::default();
        cache.put("r/a", answer(r#""cacheKeyType":"Image","cacheDuration":"0s""#).unwrap(), now);
        assert_eq!(cache.get("r/a", now), None);
    }
}
