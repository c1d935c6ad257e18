//! What words of any setting mean: lists, paths, durations, choices.

use std::{path::PathBuf, time::Duration};

use super::{ConfigError, error::value};

pub(super) fn parse<T: std::str::FromStr<Err: ToString>>(
    flag: &'static str,
    text: String,
) -> Result<T, ConfigError> {
    text.parse().map_err(|error: T::Err| value(flag, &text, error.to_string()))
}

pub(super) fn words(list: Option<String>) -> Vec<String> {
    let list = list.unwrap_or_default();
    list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

pub(super) fn absolute(flag: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() { Ok(path) } else { Err(value(flag, path.display(), "must be an absolute path")) }
}

/// The first is the default.
pub(super) fn one_of<T: Copy>(
    flag: &'static str,
    text: Option<String>,
    choices: &[(&str, T)],
) -> Result<T, ConfigError> {
    let Some(text) = text else { return Ok(choices[0].1) };
    let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
    let found = choices.iter().find(|(name, _)| *name == text);
    let reason = || format!("must be {}", names());
    found.map(|(_, choice)| *choice).ok_or_else(|| value(flag, &text, reason()))
}

pub(super) fn parse_age(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    let parsed = text.parse::<jiff::SignedDuration>().map_err(|error| value(flag, text, error))?;
    Duration::try_from(parsed).map_err(|_| value(flag, text, "must not be negative"))
}

pub(super) fn period(
    flag: &'static str,
    text: Option<String>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    let period = parse_age(flag, &text)?;
    if period.is_zero() { Err(value(flag, text, "must be positive")) } else { Ok(period) }
}
