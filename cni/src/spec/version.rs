//! Versions of the specification, and which command came with which. Pure.

use std::{fmt, str::FromStr};

use serde_json::{Value, json};

/// What the plugin speaks, newest last.
pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", NEWEST];
/// What an error says when the request names none.
pub(crate) const NEWEST: &str = "1.1.0";

/// A version, to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl Version {
    /// `CHECK`, and `prevResult` for `DEL`.
    pub(crate) const CHECK: Self = Self(0, 4, 0);
    /// Addresses without the number of their protocol.
    pub(crate) const PLAIN_ADDRESSES: Self = Self(1, 0, 0);
    /// `GC` and `STATUS`; MTU in results.
    pub(crate) const GC: Self = Self(1, 1, 0);
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.').map(|part| match part.bytes().all(|b| b.is_ascii_digit()) {
            true => part.parse().map_err(drop),
            false => Err(()),
        });
        let mut next = || parts.next().ok_or(())?;
        let version = Self(next()?, next()?, next()?);
        if parts.next().is_some() { Err(()) } else { Ok(version) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The answer to `VERSION`: in the version of the question, if it names one.
pub(crate) fn versions(stdin: &[u8]) -> Value {
    let question: Option<Value> = serde_json::from_slice(stdin).ok();
    let asked = question.as_ref().and_then(|value| value.get("cniVersion")?.as_str()).unwrap_or(NEWEST);
    json!({ "cniVersion": asked, "supportedVersions": VERSIONS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text: &str| text.parse::<Version>();
        assert!(version("0.10.0") > version("0.4.0") && version("1.1.0") == Ok(Version::GC));
        for wrong in ["", "1", "1.0", "1.0.0.0", "1.0.x", "+1.0.0", "1.0.99999999999"] {
            assert_eq!(version(wrong), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_question_is_answered_in_its_version() {
        assert_eq!(versions(br#"{"cniVersion":"0.4.0"}"#)["cniVersion"], "0.4.0");
        for none in [&b""[..], b"{}", b"[1]", br#"{"cniVersion":1}"#] {
            assert_eq!(versions(none)["cniVersion"], NEWEST);
        }
    }
}
