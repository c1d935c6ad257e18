//! Field selectors: `status.phase=Running,spec.nodeName!=n1`.

use std::fmt;

use super::SelectorError;

/// One term: the field's value is, or is not, the given text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field's path, e.g. `metadata.name`.
    pub field: String,
    /// Whether the value must be equal; otherwise it must differ.
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// A list of terms that must all hold, in the order given. Empty selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// The terms.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses `k=v`, `k==v`, `k!=v` joined by commas; `\\`, `\,` and `\=` stand for themselves in values.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let bad =
            |part: &str| SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'"));
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (field, equal, value) = split_term(term).ok_or_else(|| bad(term))?;
            let value = unescape(value).map_err(SelectorError)?;
            requirements.push(FieldRequirement { field: field.to_owned(), equal, value });
        }
        Ok(Self { requirements })
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether all terms hold, `get` giving the value of a field; a field without value counts as empty text.
    pub fn matches<'a>(&self, mut get: impl FnMut(&str) -> Option<&'a str>) -> bool {
        let holds = |r: &FieldRequirement, value: &str| (value == r.value) == r.equal;
        self.requirements.iter().all(|r| holds(r, get(&r.field).unwrap_or_default()))
    }

    /// The value that this field must be equal to, if some term says so.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        let found = self.requirements.iter().find(|r| r.equal && r.field == field);
        found.map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, r) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let operator = if r.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (index, _) in term.char_indices() {
        let rest = &term[index..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..index], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                Some(c) => return Err(format!("invalid escape sequence: '\\{c}'")),
                None => return Err("invalid escape sequence: '\\'".to_owned()),
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped '{c}' in '{value}'")),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        let parsed = FieldSelector::parse(text);
        expected.assert_eq(&parsed.map_or_else(|e| format!("error: {e}"), |s| s.to_string()));
    }

    #[test]
    fn terms_keep_their_order() {
        check("", expect![""]);
        check("b=2,a!=1,c==3", expect!["b=2,a!=1,c=3"]);
        check("metadata.name=", expect!["metadata.name="]);
        check(r"a=x\,y\=z", expect![r"a=x\,y\=z"]);
    }

    #[test]
    fn errors_have_upstreams_wording() {
        check("a", expect!["error: invalid selector: 'a'; can't understand 'a'"]);
        check("a=1,b", expect!["error: invalid selector: 'a=1,b'; can't understand 'b'"]);
        check("a=b=c", expect!["error: invalid field selector: unescaped '=' in 'b=c'"]);
    }

    #[test]
    fn a_missing_field_is_empty_text() {
        let selector = FieldSelector::parse("spec.nodeName=,status.phase!=Running").unwrap();
        assert!(selector.matches(|_| None));
        assert!(!selector.matches(|field| (field == "spec.nodeName").then_some("n1")));
        assert!(!selector.matches(|field| (field == "status.phase").then_some("Running")));
        assert_eq!(selector.exact("spec.nodeName"), Some(""));
        assert_eq!(selector.exact("status.phase"), None);
    }
}
