//! Helpers for the tests of this crate.

use serde::de::DeserializeOwned;

/// An object from YAML.
pub(crate) fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_norway::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}
