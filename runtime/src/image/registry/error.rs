//! What a registry can do instead of answering, in words an operator can act on.

use std::{error::Error, time::Duration};

use serde::Deserialize;

use super::super::digest::Mismatch;

/// What a registry did instead of answering.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No such repository, tag or blob.
    #[error("not found")]
    NotFound,
    /// Credentials missing, wrong, or not good enough. Some registries say this of what does not exist.
    #[error("unauthorized: authentication required or access denied")]
    Unauthorized,
    /// Asked too often.
    #[error("the registry asks for fewer requests (429)")]
    TooManyRequests {
        /// When to come again, if it says so.
        after: Option<Duration>,
    },
    /// No connection, no answer in time, or an answer of 500 and above.
    #[error("registry unreachable")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// A blob ended early again and again: a bad line, or a registry that lost part of it.
    #[error("broke off after {done} of {size} bytes")]
    BrokeOff {
        /// Bytes received.
        done: u64,
        /// Bytes promised.
        size: u64,
        /// What ended it.
        #[source]
        source: std::io::Error,
    },
    /// Redirects without end, or from TLS to plain text.
    #[error("the registry redirects where nobody may follow")]
    Redirect(#[source] Box<dyn Error + Send + Sync>),
    /// Not the content that was promised.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// Longer than such a document may be.
    #[error("longer than {0} bytes")]
    TooLong(u64),
    /// A certificate authority or client certificate that cannot be used, or a machine without certificates.
    #[error("set up TLS (is the package ca-certificates installed?)")]
    Tls(#[source] Box<dyn Error + Send + Sync>),
    /// Scratch file of a blob.
    #[error("write the blob")]
    Write(#[source] std::io::Error),
    /// No host of the `registries` configuration may be asked for this.
    #[error("no host is configured that may be asked for this")]
    NoHost,
    /// The last host of several failed, and so did those before it.
    #[error("after {tried}")]
    AfterOthers {
        /// `mirror: why; …`.
        tried: String,
        /// What the last one did.
        #[source]
        source: Box<RegistryError>,
    },
    /// Anything else that the registry said.
    #[error("the registry refused")]
    Other(#[source] Box<dyn Error + Send + Sync>),
}

impl RegistryError {
    /// What the last host did.
    pub(crate) fn root(&self) -> &Self {
        match self {
            Self::AfterOthers { source, .. } => source.root(),
            other => other,
        }
    }

    /// Worth asking the same host again.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TooManyRequests { .. } | Self::BrokeOff { .. })
    }

    /// Another credential may help. Registries hide with a 404 what a user may not see.
    pub(super) fn is_about_credentials(&self) -> bool {
        matches!(self, Self::Unauthorized | Self::NotFound)
    }

    /// How long the registry asked to be left alone.
    pub(super) fn asked_pause(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { after } => *after,
            _ => None,
        }
    }

    /// With what the hosts before did.
    pub(super) fn after(self, before: Vec<(String, Self)>) -> Self {
        if before.is_empty() {
            return self;
        }
        let tried: Vec<String> =
            before.iter().map(|(host, error)| format!("{host}: {}", chain(error))).collect();
        Self::AfterOthers { tried: tried.join("; "), source: Box::new(self) }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Code>,
}

#[derive(Deserialize)]
struct Code {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What an answer that is no success means: the codes of the distribution specification first, then the status.
pub(super) fn of_answer(status: u16, body: &[u8], after: Option<Duration>) -> RegistryError {
    let envelope = serde_json::from_slice::<Envelope>(body).ok();
    let known = envelope.iter().flat_map(|all| &all.errors).find_map(|error| match error.code.as_str() {
        "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "NOT_FOUND" | "BLOB_UNKNOWN" | "MANIFEST_BLOB_UNKNOWN" => {
            Some(RegistryError::NotFound)
        }
        "UNAUTHORIZED" | "DENIED" => Some(RegistryError::Unauthorized),
        "TOOMANYREQUESTS" => Some(RegistryError::TooManyRequests { after }),
        _ => None,
    });
    known.unwrap_or_else(|| match status {
        404 => RegistryError::NotFound,
        401 | 403 => RegistryError::Unauthorized,
        429 => RegistryError::TooManyRequests { after },
        500.. => RegistryError::Unreachable(said(status, body, envelope).into()),
        _ => RegistryError::Other(said(status, body, envelope).into()),
    })
}

fn said(status: u16, body: &[u8], envelope: Option<Envelope>) -> String {
    let first = envelope.and_then(|all| all.errors.into_iter().next()).map(|error| error.message);
    let words = first.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    // What strangers write goes to logs and events: short, and on one line.
    let words: String = words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
    if words.is_empty() { format!("status {status}") } else { format!("status {status}: {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_reasons() {
        let check = |status: u16, body: &str, expected: &str| {
            assert_eq!(chain(&of_answer(status, body.as_bytes(), None)), expected, "{status} {body}");
        };
        check(404, "", "not found");
        check(400, r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, "not found");
        check(400, r#"{"errors":[{"code":"X","message":"a\nb"}]}"#, "the registry refused: status 400: a b");
        check(403, "", "unauthorized: authentication required or access denied");
        check(429, "", "the registry asks for fewer requests (429)");
        check(502, "<html>", "registry unreachable: status 502: <html>");
        check(418, "", "the registry refused: status 418");
        let before = vec![("m".to_owned(), RegistryError::Unreachable("refused".into()))];
        let text = chain(&RegistryError::NotFound.after(before));
        assert_eq!(text, "after m: registry unreachable: refused: not found");
    }
}
