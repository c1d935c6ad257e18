//! Query strings: splitting, percent decoding and the parameters of upstream's option types.

use super::status::Failure;

/// Decoded parameters in order of appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Splits a raw query string; empty pieces (`?&a=b`) are skipped.
    pub fn parse(raw: Option<&str>) -> Self {
        let pieces = raw.unwrap_or_default().split('&').filter(|piece| !piece.is_empty());
        let pairs = pieces
            .map(|piece| {
                let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
                (decode(name, true), decode(value, true))
            })
            .collect();
        Self { pairs }
    }

    /// The first non-empty value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A switch: present and not `false` or `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.all(name).any(|v| !matches!(v, "false" | "0"))
    }

    /// A whole number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = || Failure::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
        text.parse().map(Some).map_err(|_| wrong())
    }
}

/// Percent decoding; bytes that are no UTF-8 become replacement characters.
pub fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 2;
            }
            (b'+', _) if plus_is_space => plain.push(b' '),
            (byte, _) => plain.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_real_clients() {
        let query = Query::parse(Some("&labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch=1&limit=&x=%zz"));
        assert_eq!(query.get("labelSelector"), Some("app=web,tier in (a)"));
        assert!(query.flag("watch"));
        assert_eq!(query.get("limit"), None);
        assert_eq!(query.get("x"), Some("%zz"));
        assert!(!Query::parse(Some("watch=false")).flag("watch"));
        assert_eq!(Query::parse(Some("limit=5")).number::<u64>("limit"), Ok(Some(5)));
        assert_eq!(Query::parse(Some("limit=five")).number::<u64>("limit").unwrap_err().code, 400);
    }
}
