//! Which credential-provider plugins there are: the kubelet's `CredentialProviderConfig`. Pure.
//!
//! Source: `kubelet.config.k8s.io/v1`. Not for: running them.

use std::{collections::BTreeSet, time::Duration};

use jiff::SignedDuration;
use orlop_runtime::image::{broken_pattern, location_matches};
use serde::Deserialize;

/// Versions of the protocol with plugins; their requests and answers have the same fields.
const PROTOCOLS: &[&str] = &[
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Name of the program.
    pub name: String,
    /// Version of the protocol.
    pub api_version: String,
    /// Images it knows credentials for.
    pub match_images: Vec<String>,
    /// For answers that do not say how long they hold.
    pub default_cache_duration: Duration,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to its environment.
    pub env: Vec<(String, String)>,
}

impl Provider {
    /// Whether it is to be asked about a repository.
    #[must_use]
    pub fn matches(&self, repository: &str) -> bool {
        self.match_images.iter().any(|pattern| location_matches(pattern, repository))
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither YAML nor JSON of that kind.
    #[error("not a CredentialProviderConfig")]
    Parse(#[from] serde_norway::Error),
    /// Something in it.
    #[error("{0}")]
    Wrong(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawConfig {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<RawProvider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawProvider {
    name: String,
    api_version: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<RawEnv>,
    token_attributes: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawEnv {
    name: String,
    #[serde(default)]
    value: String,
}

/// Reads the file's content.
///
/// # Errors
/// What is wrong, with the provider's name.
pub fn parse(text: &str) -> Result<Vec<Provider>, ConfigError> {
    let RawConfig { api_version, kind, providers } = serde_norway::from_str(text)?;
    let known = ["v1", "v1beta1", "v1alpha1"].map(|version| format!("kubelet.config.k8s.io/{version}"));
    if kind != "CredentialProviderConfig" || !known.contains(&api_version) {
        return Err(ConfigError::Wrong(format!("{api_version} {kind} is not supported")));
    }
    let mut names = BTreeSet::new();
    providers
        .into_iter()
        .map(|raw| {
            let name = raw.name.clone();
            if !names.insert(name.clone()) {
                return Err(ConfigError::Wrong(format!("provider {name:?}: named twice")));
            }
            provider(raw).map_err(|reason| ConfigError::Wrong(format!("provider {name:?}: {reason}")))
        })
        .collect()
}

fn provider(raw: RawProvider) -> Result<Provider, String> {
    let RawProvider { name, api_version, match_images, default_cache_duration, args, env, token_attributes } =
        raw;
    if name.is_empty() || name.starts_with('.') || name.contains(['/', ' ', '\0']) {
        return Err("its name is not that of a file".to_owned());
    }
    if !PROTOCOLS.contains(&api_version.as_str()) {
        return Err(format!("apiVersion {api_version} is not supported"));
    }
    if match_images.is_empty() {
        return Err("matchImages is empty".to_owned());
    }
    for image in &match_images {
        if let Some(part) = broken_pattern(image) {
            return Err(format!("matchImages: {part:?} in {image:?} is not a pattern"));
        }
    }
    if token_attributes.is_some() {
        return Err("tokenAttributes are not supported yet".to_owned());
    }
    let default_cache_duration = duration(&default_cache_duration)
        .ok_or_else(|| format!("defaultCacheDuration {default_cache_duration:?} is not a duration"))?;
    let env = env.into_iter().map(|RawEnv { name, value }| (name, value)).collect();
    Ok(Provider { name, api_version, match_images, default_cache_duration, args, env })
}

/// A Go duration (`12h`, `1m30s`, `0s`) that is not negative.
pub(super) fn duration(text: &str) -> Option<Duration> {
    Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: ";

    fn check(providers: &str, expected: &str) {
        let shown = match parse(&format!("{HEAD}[{providers}]")) {
            Ok(all) => all
                .iter()
                .map(|p| format!("{} {:?} {:?}", p.name, p.default_cache_duration, p.args))
                .collect::<Vec<_>>()
                .join("; "),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected);
    }

    fn one(change: &str) -> String {
        let base = "name: ecr, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [a], defaultCacheDuration: 12h";
        match change.split_once(':') {
            Some((key, _)) if base.contains(&format!("{key}:")) => {
                let kept: Vec<_> = base.split(", ").filter(|field| !field.starts_with(key)).collect();
                format!("{{{}, {change}}}", kept.join(", "))
            }
            _ => format!("{{{base}, {change}}}"),
        }
    }

    #[test]
    fn providers_are_read_and_checked() {
        check(&one("args: [get-credentials]"), r#"ecr 43200s ["get-credentials"]"#);
        check(&one("defaultCacheDuration: 1m30s"), "ecr 90s []");
        check(&one("name: ../x"), r#"provider "../x": its name is not that of a file"#);
        check(&one("matchImages: []"), r#"provider "ecr": matchImages is empty"#);
        check(
            &one("matchImages: ['r[0-9.example/x', b]"),
            r#"provider "ecr": matchImages: "r[0-9" in "r[0-9.example/x" is not a pattern"#,
        );
        check(
            &one("defaultCacheDuration: -1s"),
            r#"provider "ecr": defaultCacheDuration "-1s" is not a duration"#,
        );
        check(&one("apiVersion: v9"), r#"provider "ecr": apiVersion v9 is not supported"#);
        check(&one("tokenAttributes: {}"), r#"provider "ecr": tokenAttributes are not supported yet"#);
        check(&format!("{}, {}", one("args: []"), one("args: []")), r#"provider "ecr": named twice"#);
        let other = parse("apiVersion: v1\nkind: Pod").unwrap_err().to_string();
        assert_eq!(other, "v1 Pod is not supported");
    }

    #[test]
    fn images_are_matched_as_upstream_does() {
        let provider = parse(&format!(
            "{HEAD}[{}]",
            one("matchImages: ['*.dkr.*.example', 'r.io/team', 'm[1-3].io:50']")
        ));
        let provider = provider.unwrap().remove(0);
        for (repository, expected) in [
            ("1.dkr.eu.example/x", true),
            ("r.io/team/x", true),
            ("r.io/x", false),
            ("m2.io:50/x", true),
            ("m4.io:50/x", false),
            ("m2.io/x", false),
            ("docker.io/library/x", false),
        ] {
            assert_eq!(provider.matches(repository), expected, "{repository}");
        }
    }
}
