//! Logging: one line per event on standard error, filtered by `--log`.

use tracing_subscriber::{EnvFilter, fmt};

/// A filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("--log {filter:?}")]
pub struct LogError {
    filter: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging; a second call changes nothing.
///
/// # Errors
/// When the filter cannot be parsed.
pub fn start(filter: &str) -> Result<(), LogError> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|source| LogError { filter: filter.to_owned(), source })?;
    let _already_started =
        fmt().with_env_filter(parsed).with_writer(std::io::stderr).with_ansi(false).try_init();
    Ok(())
}
