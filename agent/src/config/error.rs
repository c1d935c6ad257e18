//! Why a configuration cannot be used.

use std::path::PathBuf;

use super::kubelet::DocumentError;

/// A flag, an environment variable or a field of the configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration file {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_norway::Error,
    },
    /// The kubelet's own configuration cannot be used.
    #[error("kubelet configuration file {0}")]
    Kubelet(DocumentError),
    /// A value cannot be used.
    #[error("--{flag} {value:?}: {reason}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file has a field that is no flag, or a value that is none for it.
    #[error("configuration file {path}")]
    Flags {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A value is missing and cannot be found out.
    #[error("--{flag} is needed: {reason}")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// Why there is no default.
        reason: String,
    },
}

pub(super) fn value(flag: &'static str, value: impl ToString, reason: impl ToString) -> ConfigError {
    ConfigError::Value { flag, value: value.to_string(), reason: reason.to_string() }
}
