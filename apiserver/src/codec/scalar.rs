//! Leaves in canonical form: what upstream would write after having read them.

use jiff::Timestamp;
use orlop_model::quantities::Quantity;

/// RFC 3339, whole seconds, UTC.
pub(super) fn time(text: &str) -> Result<String, String> {
    Ok(seconds(parse(text)?))
}

/// RFC 3339, six digits of fraction, UTC.
pub(super) fn micro_time(text: &str) -> Result<String, String> {
    Ok(micros(parse(text)?))
}

fn parse(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"")
    })
}

pub(super) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(super) fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The canonical form of a quantity: `1000m` → `1`, `1024Mi` → `1Gi`.
pub(super) fn quantity(text: &str) -> Result<String, String> {
    match Quantity::parse(text.trim()) {
        Ok(quantity) => Ok(quantity.to_string()),
        Err(_) => Err("quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            .to_owned()),
    }
}
