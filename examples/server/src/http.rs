//! `[p]` As much HTTP/1.1 as the example needs: request head in, answer out, and the other way round.

/// A request without its body, which nobody here reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    query: Vec<(String, String)>,
    pub(crate) wants_json: bool,
}

impl Request {
    /// Value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a request head, up to and without the empty line.
pub(crate) fn parse_request(head: &str) -> Option<Request> {
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?, first.next()?);
    first.next()?.starts_with("HTTP/1.").then_some(())?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect();
    let accepts_json = lines.any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("accept:") && line.contains("application/json")
    });
    let wants_json = accepts_json || query.iter().any(|(key, value)| key == "format" && value == "json");
    Some(Request { method: method.to_owned(), path: decode(path), query, wants_json })
}

/// An answer with its head.
pub(crate) fn answer(status: u16, content_type: &str, body: &str) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// Status and body of an answer.
pub(crate) fn parse_answer(text: &str) -> Option<(u16, String)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A JSON string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `%2F` and `+`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let value = escaped
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: &str) {
        let found = match parse_request(head) {
            Some(r) => format!("{} {} {:?} json={}", r.method, r.path, r.query, r.wants_json),
            None => "bad".into(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn requests_are_read() {
        check("GET / HTTP/1.1\r\nHost: x", "GET / [] json=false");
        check("GET /file?path=a%2Fb+c HTTP/1.1", r#"GET /file [("path", "a/b c")] json=false"#);
        check("GET /x HTTP/1.0\r\nAccept: text/html, application/json", "GET /x [] json=true");
        check("GET /?format=json HTTP/1.1", r#"GET / [("format", "json")] json=true"#);
        check("GET /%zz%4 HTTP/1.1", "GET /%zz%4 [] json=false");
        check("hello", "bad");
        check("", "bad");
    }

    #[test]
    fn answers_come_back_as_they_were() {
        assert_eq!(parse_answer(&answer(200, "text/plain", "a\r\n\r\nb")), Some((200, "a\r\n\r\nb".into())));
        assert_eq!(quote("a\"\\\n\u{1}ü"), r#""a\"\\\n\u0001ü""#);
    }
}
