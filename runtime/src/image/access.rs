//! `[p]` Who may use an image that is here already: upstream's check of pull credentials (KEP-2535).
//!
//! An image that was fetched with a pod's secret is, by itself, there for pods that show the same secret. What
//! everyone could fetch, or what the node's administrator put here, is there for all. Unlike upstream there is no
//! record of intentions: the record is written in the same step that makes the image appear. Not for: fetching.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::keyring::{Credential, Source};

/// Secrets remembered for one repository; the oldest goes first.
const SECRETS_MAX: usize = 64;

/// When credentials are verified, in upstream's words (`imagePullCredentialsVerificationPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerificationPolicy {
    /// Whoever is on the node may use what is on the node.
    NeverVerify,
    /// Images that no pull brought here are for all.
    #[default]
    NeverVerifyPreloadedImages,
    /// Of those, only the listed ones.
    NeverVerifyAllowlistedImages,
    /// Every image needs a pull that worked.
    AlwaysVerify,
}

impl std::str::FromStr for VerificationPolicy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "NeverVerify" => Self::NeverVerify,
            "NeverVerifyPreloadedImages" => Self::NeverVerifyPreloadedImages,
            "NeverVerifyAllowlistedImages" => Self::NeverVerifyAllowlistedImages,
            "AlwaysVerify" => Self::AlwaysVerify,
            _ => {
                return Err(
                    "must be NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or \
                            AlwaysVerify"
                        .to_owned(),
                );
            }
        })
    }
}

/// The policy and its list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// When to verify.
    pub policy: VerificationPolicy,
    /// Repositories (`registry.example/app`) or everything below a path (`registry.example/*`).
    pub allowlist: Vec<String>,
}

/// A secret that opened an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opener {
    namespace: String,
    name: String,
    uid: String,
    hash: String,
}

impl Opener {
    /// `None` for the node's own credentials: what they open is for all.
    pub(crate) fn of(credential: &Credential) -> Option<Self> {
        match &credential.source {
            Source::Node => None,
            Source::Secret { namespace, name, uid } => Some(Self {
                namespace: namespace.clone(),
                name: name.clone(),
                uid: uid.clone(),
                hash: credential.hash(),
            }),
        }
    }

    fn is_same_secret(&self, other: &Self) -> bool {
        (&self.namespace, &self.name, &self.uid) == (&other.namespace, &other.name, &other.uid)
    }
}

/// How an image came here just now.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// From a file, by the node's administrator.
    Loaded,
    /// From a repository; with a pod's secret, or in a way that is open to all.
    Pulled { repository: String, by: Option<Opener> },
}

/// What is remembered of an image's pulls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// It was here before the first pull of it, or was loaded since.
    preloaded: bool,
    repositories: BTreeMap<String, Opened>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Opened {
    everyone: bool,
    secrets: Vec<Opener>,
}

/// The record after an image came here (again). `None`: there is nothing to remember, the image is preloaded.
pub(crate) fn after(known: Option<Record>, was_here: bool, origin: &Origin) -> Option<Record> {
    match (known, origin) {
        (None, Origin::Loaded) => None,
        (Some(record), Origin::Loaded) => Some(Record { preloaded: true, ..record }),
        (known, Origin::Pulled { repository, by }) => {
            let mut record = known.unwrap_or(Record { preloaded: was_here, ..Record::default() });
            let opened = record.repositories.entry(repository.clone()).or_default();
            match by {
                None => *opened = Opened { everyone: true, secrets: Vec::new() },
                Some(_) if opened.everyone => {}
                Some(opener) => {
                    opened.secrets.retain(|known| !known.is_same_secret(opener));
                    opened.secrets.push(opener.clone());
                    let excess = opened.secrets.len().saturating_sub(SECRETS_MAX);
                    opened.secrets.drain(..excess);
                }
            }
            Some(record)
        }
    }
}

/// Whether a pod that shows these credentials may use the image without asking the registry first.
pub(crate) fn may_use(
    verification: &Verification,
    record: Option<&Record>,
    repository: Option<&str>,
    shown: &[Credential],
) -> bool {
    let preloaded = record.is_none_or(|record| record.preloaded);
    let exempt = match verification.policy {
        VerificationPolicy::NeverVerify => true,
        VerificationPolicy::NeverVerifyPreloadedImages => preloaded,
        VerificationPolicy::NeverVerifyAllowlistedImages => {
            preloaded
                && repository.is_some_and(|name| verification.allowlist.iter().any(|one| listed(one, name)))
        }
        VerificationPolicy::AlwaysVerify => false,
    };
    let opened = || match (record, repository) {
        (Some(record), Some(name)) => record.repositories.get(name),
        // By its ID an image is open if any of its repositories is.
        (Some(record), None) => record.repositories.values().find(|opened| opened.everyone),
        (None, _) => None,
    };
    exempt
        || opened().is_some_and(|opened| {
            let shown: Vec<Opener> = shown.iter().filter_map(Opener::of).collect();
            // The same credential under another name, or the same secret with another content: as upstream.
            let fits =
                |known: &Opener| shown.iter().any(|one| one.hash == known.hash || one.is_same_secret(known));
            opened.everyone || opened.secrets.iter().any(fits)
        })
}

fn listed(pattern: &str, repository: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(path) => repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')),
        None => pattern == repository,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::keyring::Auth;

    fn secret(name: &str, password: &str) -> Credential {
        let source = Source::Secret { namespace: "ns".into(), name: name.into(), uid: format!("uid-{name}") };
        Credential { auth: Auth { username: "u".into(), password: password.into() }, source }
    }

    fn pulled(repository: &str, by: Option<&Credential>) -> Origin {
        Origin::Pulled { repository: repository.into(), by: by.and_then(Opener::of) }
    }

    fn record(was_here: bool, origins: &[Origin]) -> Option<Record> {
        origins.iter().fold(None, |known, origin| after(known, was_here, origin))
    }

    fn policy(policy: VerificationPolicy) -> Verification {
        Verification { policy, allowlist: vec!["r/listed".into(), "r/team/*".into()] }
    }

    /// Who may use `r/x` of this record: each policy by its first letters, for a pod that shows `shown`.
    fn check(record: Option<&Record>, repository: &str, shown: &[Credential], expected: &str) {
        use VerificationPolicy as P;
        let all = [
            ("never", P::NeverVerify),
            ("preloaded", P::NeverVerifyPreloadedImages),
            ("listed", P::NeverVerifyAllowlistedImages),
            ("always", P::AlwaysVerify),
        ];
        let allowed: Vec<_> = all
            .iter()
            .filter(|(_, p)| may_use(&policy(*p), record, Some(repository), shown))
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(allowed.join(" "), expected, "{record:?}");
    }

    #[test]
    fn what_was_never_pulled_is_for_all_unless_told_otherwise() {
        check(None, "r/x", &[], "never preloaded");
        check(None, "r/listed", &[], "never preloaded listed");
        check(None, "r/team/a", &[], "never preloaded listed");
        check(None, "r/teams", &[], "never preloaded");
    }

    #[test]
    fn what_a_secret_opened_needs_that_secret() {
        let a = secret("a", "p");
        let known = record(false, &[pulled("r/x", Some(&a))]);
        check(known.as_ref(), "r/x", &[], "never");
        check(known.as_ref(), "r/x", &[secret("b", "q")], "never");
        check(known.as_ref(), "r/x", &[secret("b", "q"), a.clone()], "never preloaded listed always");
        // The same credential in another secret; the same secret with a new password.
        check(known.as_ref(), "r/x", &[secret("b", "p")], "never preloaded listed always");
        check(known.as_ref(), "r/x", &[secret("a", "new")], "never preloaded listed always");
        // The same content under another name says nothing about this one.
        check(known.as_ref(), "r/listed", &[a], "never");
    }

    #[test]
    fn the_nodes_own_credentials_and_none_open_for_all() {
        let node = Credential { source: Source::Node, ..secret("a", "p") };
        for by in [None, Some(&node)] {
            let known = record(false, &[pulled("r/x", Some(&secret("a", "p"))), pulled("r/x", by)]);
            check(known.as_ref(), "r/x", &[], "never preloaded listed always");
            check(known.as_ref(), "r/y", &[], "never");
        }
    }

    #[test]
    fn a_preloaded_image_stays_so() {
        let a = secret("a", "p");
        let pulled_later = record(true, &[pulled("r/x", Some(&a))]);
        let loaded_later = record(false, &[pulled("r/x", Some(&a)), Origin::Loaded]);
        for known in [pulled_later, loaded_later] {
            check(known.as_ref(), "r/x", &[], "never preloaded");
        }
    }

    #[test]
    fn secrets_do_not_pile_up() {
        let many: Vec<Origin> =
            (0..200).map(|n| pulled("r/x", Some(&secret(&n.to_string(), &n.to_string())))).collect();
        let known = record(false, &many);
        assert_eq!(known.as_ref().unwrap().repositories["r/x"].secrets.len(), SECRETS_MAX);
        check(known.as_ref(), "r/x", &[secret("199", "199")], "never preloaded listed always");
    }

    #[test]
    fn by_id_only_what_is_open_to_all() {
        let known = record(false, &[pulled("r/x", Some(&secret("a", "p")))]);
        let by_default = Verification::default();
        assert!(!may_use(&by_default, known.as_ref(), None, &[secret("a", "p")]));
        let open = after(known, false, &pulled("r/y", None));
        assert!(may_use(&by_default, open.as_ref(), None, &[]));
    }
}
