//! Base64 as Go's decoder reads it: line breaks are skipped, errors name the byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Checks `text` and returns it without line breaks.
pub(super) fn normalize(text: &str) -> Result<String, String> {
    let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&clean) {
        Ok(_) => Ok(clean),
        Err(e) => {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    clean.len() / 4 * 4
                }
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// Encodes bytes of a protobuf body.
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
