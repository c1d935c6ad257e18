//! Names and identities that must not be mixed up, as types that cannot hold an invalid value.
//!
//! They are checked where text enters the program (flags, API objects, file names), because several of them
//! become path segments, interface names or cgroup names later on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names;

/// Text that is not a valid identity of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {value:?}: {problem}")]
pub struct IdError {
    /// What the text should have been, e.g. `node name`.
    pub kind: &'static str,
    /// The text.
    pub value: String,
    /// Why not, in upstream's words where upstream has some.
    pub problem: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("Checks and keeps a ", $kind, ".")]
            pub fn parse(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                match $check(&value) {
                    Ok(()) => Ok(Self(value)),
                    Err(problem) => Err(IdError { kind: $kind, value, problem }),
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                Self::parse(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                Self::parse(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// The name of a Node object: a DNS subdomain.
    NodeName, "node name", names::is_dns1123_subdomain
);
id!(
    /// The name of a namespace: a DNS label.
    Namespace, "namespace", names::is_dns1123_label
);
id!(
    /// The name of a pod: a DNS subdomain.
    PodName, "pod name", names::is_dns1123_subdomain
);
id!(
    /// The name of a container in a pod: a DNS label.
    ContainerName, "container name", names::is_dns1123_label
);
id!(
    /// `metadata.uid` of a pod, or the hash of a static pod's source. It becomes a directory and a cgroup name.
    PodUid, "pod uid", is_uid
);

fn is_uid(value: &str) -> Result<(), String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if value.is_empty() {
        return Err("must be non-empty".to_owned());
    }
    if value.len() > 63 {
        return Err(names::max_len_error(63));
    }
    if !value.bytes().all(fine) {
        return Err("must consist of alphanumeric characters, '-' or '_'".to_owned());
    }
    Ok(())
}

/// Namespace and name of a pod, as people write it: `default/web-0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The name in it.
    pub name: PodName,
}

impl PodKey {
    /// Checks both parts.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, IdError> {
        Ok(Self { namespace: Namespace::parse(namespace)?, name: PodName::parse(name)? })
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_people_write_them() {
        assert_eq!(
            PodKey::parse("default", "web-0.a").map(|k| k.to_string()),
            Ok("default/web-0.a".to_owned())
        );
        assert!(PodKey::parse("a.b", "web").is_err());
    }

    #[test]
    fn uids_are_safe_as_path_segments() {
        assert!(PodUid::parse("5f1e7c1a-1c2f-4f0e-9d4e-2a3b4c5d6e7f").is_ok());
        for bad in ["", "..", "a/b", "a b", &"x".repeat(64)] {
            assert!(PodUid::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_error_says_what_was_expected() {
        let error = NodeName::parse("Node_1").map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.starts_with("invalid node name \"Node_1\": a lowercase RFC 1123 subdomain")));
    }
}
