//! `$(NAME)` in `command`, `args`, `env` and `subPathExpr`.

/// Replaces `$(NAME)` where `lookup` knows the name; `$$` is `$`; everything else stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out + rest
}

/// The names in `$(NAME)`.
pub fn names(text: &str) -> Vec<String> {
    let names = std::cell::RefCell::new(Vec::new());
    expand(text, |name| {
        names.borrow_mut().push(name.to_owned());
        None
    });
    names.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_upstream() {
        let cases = [
            ("$(A)-x", "1-x"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(A", "$(A"),
            ("$x $", "$x $"),
            ("ä$(A)ö", "ä1ö"),
        ];
        for (input, output) in cases {
            assert_eq!(expand(input, |name| (name == "A").then(|| "1".into())), output, "{input}");
        }
        assert_eq!(names("a$(X)/$(Y)$$(Z)"), ["X", "Y"]);
    }
}
