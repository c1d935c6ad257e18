//! Rules for names, label keys and values and the like, with the wording of
//! `k8s.io/apimachinery/pkg/util/validation`, so that an error reads the same as from upstream.
//!
//! Every rule exists twice: `…_errors` lists each problem by itself (API validation reports them as separate
//! causes), `is_…` joins them with `; ` for those who need one text.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// How the alias of the node's end of a pod's link begins; the pod's uid follows. Only `orlop-cni` gives it.
pub const POD_LINK_ALIAS: &str = "pod:";

/// Longest DNS label, label key name and label value, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;

/// `must be no more than N bytes`
#[must_use]
pub fn max_len_error(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

/// Upstream's text for a value that does not match `regex`: the rule, examples and the expression.
#[must_use]
pub fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

macro_rules! rule {
    ($(#[$doc:meta])* $is:ident, $errors:ident) => {
        $(#[$doc])*
        ///
        /// One text, several problems joined with `; `.
        pub fn $is(value: &str) -> Result<(), String> {
            let errors = $errors(value);
            if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
        }
    };
}

rule!(
    /// A DNS label as of RFC 1123: `my-name`.
    is_dns1123_label, dns1123_label_errors
);
rule!(
    /// A DNS subdomain as of RFC 1123: `example.com`.
    is_dns1123_subdomain, dns1123_subdomain_errors
);
rule!(
    /// A DNS label as of RFC 1035, which starts with a letter (Service names).
    is_dns1035_label, dns1035_label_errors
);
rule!(
    /// A label or annotation key: `app`, `example.com/app`.
    is_label_key, label_key_errors
);
rule!(
    /// A label value, which may be empty.
    is_label_value, label_value_errors
);
rule!(
    /// A key of a ConfigMap or Secret, which becomes a file name.
    is_config_key, config_key_errors
);
rule!(
    /// The name of an environment variable (the relaxed rule, default since 1.34).
    is_env_var_name, env_var_name_errors
);
rule!(
    /// The name of a container or service port: `http`.
    is_port_name, port_name_errors
);
rule!(
    /// A name that becomes one segment of an URL path (kinds without a stricter rule).
    is_path_segment, path_segment_errors
);

/// Problems of a DNS label; see [`is_dns1123_label`].
#[must_use]
pub fn dns1123_label_errors(value: &str) -> Vec<String> {
    let mut errors = too_long(value, LABEL_MAX);
    if !matches_label(value) {
        if matches_subdomain(value) {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                 start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            ));
        }
    }
    errors
}

/// Problems of a DNS subdomain; see [`is_dns1123_subdomain`].
#[must_use]
pub fn dns1123_subdomain_errors(value: &str) -> Vec<String> {
    let mut errors = too_long(value, SUBDOMAIN_MAX);
    if !matches_subdomain(value) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
             must start and end with an alphanumeric character",
            &format!("{LABEL}(\\.{LABEL})*"),
            &["example.com"],
        ));
    }
    errors
}

/// Problems of an RFC 1035 label; see [`is_dns1035_label`].
#[must_use]
pub fn dns1035_label_errors(value: &str) -> Vec<String> {
    let mut errors = too_long(value, LABEL_MAX);
    if !(matches_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase())) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// Problems of a label key; see [`is_label_key`].
#[must_use]
pub fn label_key_errors(value: &str) -> Vec<String> {
    let rule = |examples| {
        regex_error(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character",
            KEY,
            examples,
        )
    };
    let examples: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain_errors(prefix).iter().map(|e| format!("prefix part {e}")));
            }
            *name
        }
        _ => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                rule(examples)
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_len_error(LABEL_MAX)));
    }
    if !matches_key(name) {
        errors.push(format!("name part {}", rule(examples)));
    }
    errors
}

/// Problems of a label value; see [`is_label_value`].
#[must_use]
pub fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = too_long(value, LABEL_MAX);
    if !(value.is_empty() || matches_key(value)) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
             must start and end with an alphanumeric character",
            &format!("({KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// Problems of a ConfigMap or Secret key; see [`is_config_key`].
#[must_use]
pub fn config_key_errors(value: &str) -> Vec<String> {
    let mut errors = too_long(value, SUBDOMAIN_MAX);
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// Problems of an environment variable name; see [`is_env_var_name`].
#[must_use]
pub fn env_var_name_errors(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (b.is_ascii_graphic() || b == b' ') && b != b'=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

/// Problems of a port name; see [`is_port_name`].
#[must_use]
pub fn port_name_errors(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 15);
    let mut check = |broken: bool, text: &str| {
        if broken {
            errors.push(text.to_owned());
        }
    };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    check(
        value.is_empty() || !value.bytes().all(allowed),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    check(!value.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    check(value.contains("--"), "must not contain consecutive hyphens");
    check(value.starts_with('-') || value.ends_with('-'), "must not begin or end with a hyphen");
    errors
}

/// Problems of a path segment; see [`is_path_segment`].
#[must_use]
pub fn path_segment_errors(value: &str) -> Vec<String> {
    match value {
        "." => return vec!["may not be '.'".to_owned()],
        ".." => return vec!["may not be '..'".to_owned()],
        _ => {}
    }
    let contained = ["/", "%"].into_iter().filter(|text| value.contains(text));
    contained.map(|text| format!("may not contain '{text}'")).collect()
}

fn too_long(value: &str, max: usize) -> Vec<String> {
    if value.len() > max { vec![max_len_error(max)] } else { Vec::new() }
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn matches_label(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !value.is_empty() && value.bytes().all(inner) && !value.starts_with('-') && !value.ends_with('-')
}

fn matches_subdomain(value: &str) -> bool {
    value.split('.').all(matches_label)
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn matches_key(value: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    value.bytes().all(inner) && edge(value.bytes().next()) && edge(value.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    type Rule = fn(&str) -> Result<(), String>;

    fn check(rule: Rule, value: &str, expected: Expect) {
        expected.assert_eq(&rule(value).err().unwrap_or_else(|| "ok".to_owned()));
    }

    #[test]
    fn good_names_are_accepted() {
        for (rule, values) in [
            (is_dns1123_label as Rule, &["a", "0", "my-name", "123-abc"] as &[&str]),
            (is_dns1123_subdomain, &["a", "example.com", "a-b.c-d", "1.2"]),
            (is_dns1035_label, &["a", "my-name", "abc-123"]),
            (is_label_key, &["app", "example.com/app", "My_Name.x", "0"]),
            (is_label_value, &["", "MyValue", "my_value", "12345", "a.b"]),
            (is_config_key, &["key.name", "KEY_NAME", "_", ".hidden"]),
            (is_env_var_name, &["PATH", "my.env-name", "with space", "1"]),
            (is_port_name, &["http", "a", "8-a"]),
            (is_path_segment, &["system:node:x", "a b", ""]),
        ] {
            for value in values {
                assert_eq!(rule(value), Ok(()), "{value:?}");
            }
        }
    }

    #[test]
    fn a_subdomain_error_has_upstreams_wording() {
        check(
            is_dns1123_subdomain,
            "Hello_World",
            expect![[
                r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]],
        );
        check(is_dns1123_subdomain, &"a".repeat(254), expect!["must be no more than 253 bytes"]);
    }

    #[test]
    fn a_label_error_has_upstreams_wording() {
        check(
            is_dns1123_label,
            "-x",
            expect![
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ],
        );
        check(is_dns1123_label, "a.b", expect!["must not contain dots"]);
        check(
            is_dns1035_label,
            "1a",
            expect![
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ],
        );
    }

    #[test]
    fn a_label_key_error_says_which_part() {
        check(is_label_key, "/a", expect!["prefix part must be non-empty"]);
        check(
            is_label_key,
            "",
            expect![
                "name part must be non-empty; name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ],
        );
        check(
            is_label_key,
            "a/b/c",
            expect![
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ],
        );
        check(
            is_label_value,
            "a b",
            expect![
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ],
        );
    }

    #[test]
    fn keys_and_ports_say_what_is_wrong() {
        check(
            is_config_key,
            "../x",
            expect![
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+'); must not start with '..'"
            ],
        );
        check(is_config_key, "..", expect!["must not be '..'"]);
        check(
            is_port_name,
            "-8--",
            expect![
                "must contain at least one letter (a-z); must not contain consecutive hyphens; must not begin or end with a hyphen"
            ],
        );
        check(
            is_env_var_name,
            "A=B",
            expect![
                "a valid environment variable name must consist only of printable ASCII characters other than '='"
            ],
        );
        check(is_path_segment, "a/b", expect!["may not contain '/'"]);
    }
}
