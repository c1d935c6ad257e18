//! What can go wrong in one pass of a controller over one object.

/// A pass failed; it is tried again later, with growing pauses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// The API server refused or could not be reached.
    #[error("{what}")]
    Api {
        /// The request, e.g. `create pod default/web-x`.
        what: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The object itself cannot be worked with.
    #[error("{0}")]
    Object(String),
}

/// HTTP status code of an API error, if the server answered at all.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The object to read, change or delete is not there.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

/// The server's reason, e.g. `AlreadyExists`.
pub(crate) fn reason(error: &kube::Error) -> &str {
    match error {
        kube::Error::Api(status) => &status.reason,
        _ => "",
    }
}

/// The object changed, or exists, in a way the caller did not know.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    code(error) == Some(409)
}

/// The server's own words where it answered, as upstream puts them into events.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Adds what was tried to an API error.
pub(crate) trait Trying<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, SyncError>;
}

impl<T> Trying<T> for Result<T, kube::Error> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, SyncError> {
        self.map_err(|source| SyncError::Api { what: what(), source })
    }
}
