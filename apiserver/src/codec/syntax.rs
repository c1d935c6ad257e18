//! JSON syntax errors in Go's words, which people search for.

/// `serde_json`'s error about `body`, worded as `encoding/json` would.
pub(super) fn describe(error: &serde_json::Error, body: &[u8]) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "unexpected end of JSON input".to_owned(),
        Category::Syntax => {
            let text = error.to_string();
            let place = place(&text);
            match char_at(body, error.line(), error.column()) {
                Some(c) => format!("invalid character {} {place}", quote(c)),
                None => text,
            }
        }
        Category::Data | Category::Io => error.to_string(),
    }
}

fn place(text: &str) -> &'static str {
    const PLACES: [(&str, &str); 8] = [
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("expected `:`", "after object key"),
        ("key must be a string", "looking for beginning of object key string"),
        ("trailing comma", "looking for beginning of object key string"),
        ("trailing characters", "after top-level value"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
    ];
    PLACES.iter().find(|(ours, _)| text.contains(ours)).map_or("looking for beginning of value", |(_, go)| go)
}

/// Lines and columns count from 1; the column is that of the offending byte.
fn char_at(body: &[u8], line: usize, column: usize) -> Option<char> {
    let line = body.split(|b| *b == b'\n').nth(line.checked_sub(1)?)?;
    let rest = line.get(column.checked_sub(1)?..)?;
    rest.first().map(|b| char::from(*b))
}

fn quote(c: char) -> String {
    match c {
        '\'' => r"'\''".to_owned(),
        '"' => "'\"'".to_owned(),
        c => format!("'{}'", c.escape_debug()),
    }
}
