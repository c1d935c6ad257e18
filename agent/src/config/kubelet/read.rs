//! From JSON to typed values: whatever cannot be used is an error that names its path, its value and the reason. Pure.
//!
//! Not for: what values must be like together (`check`).

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use orlop_model::quantities::Quantity;
use serde_json::Value;

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its path (`memorySwap.swapBehavior`).
    pub field: String,
    /// The value, as JSON.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Wrong {
    /// For a value that was read, but cannot be used.
    pub(super) fn new(field: &str, value: impl serde::Serialize, reason: impl Into<String>) -> Wrong {
        let value = serde_json::to_string(&value).unwrap_or_default();
        Wrong { field: field.to_owned(), value, reason: reason.into() }
    }
}

/// A field that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its path.
    pub field: String,
    /// Why.
    pub text: String,
}

/// What can be read from JSON. `path` is that of `json` from the top, for errors and notes.
pub(super) trait Read: Sized {
    fn read(json: &Value, path: &str, notes: &mut Vec<Note>) -> Result<Self, Wrong>;
}

/// `a.b`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn text<'a>(json: &'a Value, path: &str, what: &str) -> Result<&'a str, Wrong> {
    json.as_str().ok_or_else(|| Wrong::new(path, json, format!("must be {what}")))
}

macro_rules! whole_numbers {
    ($($kind:ty),*) => {$(
        impl Read for $kind {
            fn read(json: &Value, path: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
                let number = json.as_i64().map(i128::from).or_else(|| json.as_u64().map(i128::from));
                let fitting = number.and_then(|number| <$kind>::try_from(number).ok());
                let reason = format!("must be a whole number from {} to {}", <$kind>::MIN, <$kind>::MAX);
                fitting.ok_or_else(|| Wrong::new(path, json, reason))
            }
        }
    )*};
}

whole_numbers!(u16, u32, i32, i64);

impl Read for bool {
    fn read(json: &Value, path: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
        json.as_bool().ok_or_else(|| Wrong::new(path, json, "must be true or false"))
    }
}

impl Read for f64 {
    fn read(json: &Value, path: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
        json.as_f64().ok_or_else(|| Wrong::new(path, json, "must be a number"))
    }
}

impl Read for String {
    fn read(json: &Value, path: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
        text(json, path, "a string").map(str::to_owned)
    }
}

impl Read for PathBuf {
    fn read(json: &Value, path: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
        text(json, path, "a path").map(PathBuf::from)
    }
}

impl Read for IpAddr {
    fn read(json: &Value, path: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
        let address = text(json, path, "an IP address")?.parse();
        address.map_err(|_| Wrong::new(path, json, "must be an IP address"))
    }
}

impl Read for Duration {
    fn read(json: &Value, path: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
        const WHAT: &str = "a duration as in 1h30m, 20s or 100ms";
        let written = text(json, path, WHAT)?;
        match go_duration(written) {
            Some(duration) => Ok(duration),
            None if written.starts_with('-') => Err(Wrong::new(path, json, "must not be negative")),
            None => Err(Wrong::new(path, json, format!("must be {WHAT}"))),
        }
    }
}

impl Read for Quantity {
    fn read(json: &Value, path: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
        let written = text(json, path, "an amount as in 500m or 100Mi")?;
        Quantity::parse(written).map_err(|error| Wrong::new(path, json, error.to_string()))
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(json: &Value, path: &str, notes: &mut Vec<Note>) -> Result<Self, Wrong> {
        let list = json.as_array().ok_or_else(|| Wrong::new(path, json, "must be a list"))?;
        let item = |(i, item)| T::read(item, &format!("{path}[{i}]"), notes);
        list.iter().enumerate().map(item).collect()
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    fn read(json: &Value, path: &str, notes: &mut Vec<Note>) -> Result<Self, Wrong> {
        let map = json.as_object().ok_or_else(|| Wrong::new(path, json, "must be a map"))?;
        let entry = |(key, value)| Ok((String::clone(key), T::read(value, &join(path, key), notes)?));
        map.iter().map(entry).collect()
    }
}

/// Whatever it is: for fields that change nothing.
impl Read for Value {
    fn read(json: &Value, _: &str, _: &mut Vec<Note>) -> Result<Self, Wrong> {
        Ok(json.clone())
    }
}

/// A duration as Go writes it: numbers with units, one after the other; 0 needs none.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    Duration::try_from_secs_f64(nanos / 1e9).ok()
}

/// Defines an object: a struct whose fields are all optional, how it is read, and the list of its fields.
macro_rules! object {
    ($(#[$meta:meta])* $name:ident, else $more:expr; { $($json:literal $field:ident: $kind:ty, $support:ident;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(super) struct $name {
            $(pub(super) $field: Option<$kind>,)*
        }

        impl $name {
            /// Names of the fields, and what comes of them.
            #[cfg(test)]
            #[allow(dead_code, reason = "the page has those of the whole, not those of parts")]
            pub(super) const FIELDS: &[(&str, $crate::config::kubelet::fields::Support)] =
                &[$(($json, $crate::config::kubelet::fields::Support::$support)),*];
        }

        impl $crate::config::kubelet::read::Read for $name {
            fn read(
                json: &serde_json::Value,
                path: &str,
                notes: &mut Vec<$crate::config::kubelet::read::Note>,
            ) -> Result<Self, $crate::config::kubelet::read::Wrong> {
                #[allow(unused_mut, reason = "of some objects nothing is honoured")]
                let mut this = Self::default();
                let map = json.as_object();
                let map = map.ok_or_else(|| $crate::config::kubelet::read::Wrong::new(path, json, "must be an object"))?;
                for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                    let at = $crate::config::kubelet::read::join(path, key);
                    match key.as_str() {
                        $($json => {
                            this.$field = Some($crate::config::kubelet::read::Read::read(value, &at, notes)?);
                            let support = $crate::config::kubelet::fields::Support::$support;
                            $crate::config::kubelet::fields::waits(support, value, &at, notes);
                        })*
                        _ => $crate::config::kubelet::fields::unsupported($more, key, value, at, notes),
                    }
                }
                Ok(this)
            }
        }
    };
}

pub(super) use object;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        let good = [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("100ms", 100_000_000),
            ("1.5s", 1_500_000_000),
            ("1m0.5s", 60_500_000_000),
            ("300us", 300_000),
            ("7µs", 7_000),
            ("9ns", 9),
            ("+2m", 120_000_000_000),
        ];
        for (text, nanos) in good {
            assert_eq!(go_duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in
            ["", "+", "10", "s", "1d", "1h 30m", "-1s", "1..5s", "1h30", "∞", "1e3s", "99999999999999999999h"]
        {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
