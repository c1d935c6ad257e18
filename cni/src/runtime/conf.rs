//! Configuration files of networks: which plugins, one after the other. Pure.
//!
//! A `.conflist` has several; a `.conf` or `.json` is one plugin and becomes a list of one.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::spec::{Version, valid_name};

/// What a runtime of ours can speak.
const SPOKEN: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network made by plugins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List {
    /// The network's name.
    pub(crate) name: String,
    /// Versions of the specification that the configuration is good for, best first.
    pub(crate) versions: Vec<Version>,
    /// In the order of `ADD`.
    pub(crate) plugins: Vec<Plugin>,
    /// `CHECK` is not to be called.
    pub(crate) disable_check: bool,
    /// `GC` is not to be called.
    pub(crate) disable_gc: bool,
    /// The list as it was written.
    pub(crate) text: Vec<u8>,
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plugin {
    /// Name of its program.
    pub(crate) kind: String,
    /// What of `runtimeConfig` it wants.
    pub(crate) capabilities: Vec<String>,
    /// Its configuration.
    pub(crate) fields: Map<String, Value>,
}

/// Why a file is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfError {
    /// Not JSON, or not of this form.
    #[error("{0}")]
    Form(String),
    /// Something has no name, or a wrong one.
    #[error("{what} {name:?} is malformed")]
    Name {
        /// Which.
        what: &'static str,
        /// What it is.
        name: String,
    },
    /// There is nothing to call.
    #[error("it has no plugins")]
    Empty,
    /// Nothing that is spoken here.
    #[error("cniVersion {0} is not supported (supported: {spoken})", spoken = SPOKEN.join(", "))]
    Version(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    name: String,
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    disable_check: Flag,
    #[serde(default, rename = "disableGC")]
    disable_gc: Flag,
    plugins: Option<Vec<Map<String, Value>>>,
}

/// Runtimes have long taken the words for the values.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(from = "Value")]
struct Flag(bool);

impl From<Value> for Flag {
    fn from(value: Value) -> Self {
        Self(
            value == Value::Bool(true)
                || value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true")),
        )
    }
}

/// Whether a runtime looks into a file of this name.
pub(crate) fn is_conf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["conf", "conflist", "json"].iter().any(|known| extension == *known))
}

/// Reads a list, or a plugin alone if `path` does not say that it is one.
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<List, ConfError> {
    let form = |error: serde_json::Error| ConfError::Form(error.to_string());
    let is_list = path.extension().is_some_and(|extension| extension == "conflist");
    let raw: Raw = serde_json::from_slice(text).map_err(form)?;
    let (plugins, text) = match raw.plugins {
        Some(plugins) => (plugins, text.to_vec()),
        None if is_list => return Err(ConfError::Empty),
        None => {
            let plugin: Map<String, Value> = serde_json::from_slice(text).map_err(form)?;
            let mut list = Map::new();
            for key in ["name", "cniVersion", "cniVersions"] {
                list.extend(plugin.get(key).map(|value| (key.to_owned(), value.clone())));
            }
            list.insert("plugins".to_owned(), vec![Value::Object(plugin.clone())].into());
            (vec![plugin], Value::Object(list).to_string().into_bytes())
        }
    };
    if !valid_name(&raw.name) {
        return Err(ConfError::Name { what: "name", name: raw.name });
    }
    if plugins.is_empty() {
        return Err(ConfError::Empty);
    }
    let plugins = plugins.into_iter().map(plugin).collect::<Result<_, _>>()?;
    let versions = versions(&raw.cni_version, &raw.cni_versions)?;
    let (disable_check, disable_gc) = (raw.disable_check.0, raw.disable_gc.0);
    Ok(List { name: raw.name, versions, plugins, disable_check, disable_gc, text })
}

fn plugin(fields: Map<String, Value>) -> Result<Plugin, ConfError> {
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    // It becomes a file's name in a directory.
    if kind.is_empty() || kind == "." || kind == ".." || kind.contains(['/', '\0']) {
        return Err(ConfError::Name { what: "type", name: kind });
    }
    let capabilities = fields.get("capabilities").and_then(Value::as_object);
    let wanted = capabilities.into_iter().flatten().filter(|(_, wanted)| **wanted == Value::Bool(true));
    Ok(Plugin { kind, capabilities: wanted.map(|(name, _)| name.clone()).collect(), fields })
}

/// All that are spoken here, best first.
fn versions(one: &str, several: &[String]) -> Result<Vec<Version>, ConfError> {
    let named = || several.iter().map(String::as_str).chain([one].into_iter().filter(|one| !one.is_empty()));
    let spoken = named().filter(|version| SPOKEN.contains(version));
    let mut versions: Vec<Version> = spoken.filter_map(|version| version.parse().ok()).collect();
    versions.sort();
    versions.dedup();
    versions.reverse();
    if versions.is_empty() {
        let named: Vec<_> = named().collect();
        return Err(ConfError::Version(if named.is_empty() { "0.1.0".to_owned() } else { named.join(", ") }));
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    fn check(path: &str, text: &str, expected: Expect) {
        expected.assert_eq(&match parse(path.as_ref(), text.as_bytes()) {
            Ok(List { name, versions, plugins, disable_check, disable_gc, text: _ }) => {
                let plugin = |p: &Plugin| format!("{}{:?}", p.kind, p.capabilities);
                let plugins: Vec<_> = plugins.iter().map(plugin).collect();
                let versions: Vec<_> = versions.iter().map(ToString::to_string).collect();
                format!("{name} {versions:?} {plugins:?} {disable_check} {disable_gc}")
            }
            Err(error) => format!("{error}"),
        });
    }

    #[test]
    fn files_become_lists_of_plugins() {
        check(
            "a.conflist",
            r#"{"name":"n","cniVersion":"1.0.0","disableCheck":"true","plugins":[{"type":"bridge"},
                {"type":"portmap","capabilities":{"portMappings":true,"x":false}}]}"#,
            expect![[r#"n ["1.0.0"] ["bridge[]", "portmap[\"portMappings\"]"] true false"#]],
        );
        check(
            "a.conf",
            r#"{"name":"n","cniVersion":"0.4.0","type":"bridge"}"#,
            expect![[r#"n ["0.4.0"] ["bridge[]"] false false"#]],
        );
        check(
            "a.json",
            r#"{"name":"n","cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0","9.0.0"],"disableGC":true,"plugins":[{"type":"x"}]}"#,
            expect![[r#"n ["1.1.0", "1.0.0", "0.4.0"] ["x[]"] false true"#]],
        );
    }

    #[test]
    fn a_plugin_alone_reads_back_from_the_list_it_became() {
        let text = br#"{"name":"n","cniVersion":"0.4.0","type":"bridge","isGateway":true}"#;
        let list = parse("a.conf".as_ref(), text).unwrap();
        assert_eq!(parse("a.conflist".as_ref(), &list.text), Ok(list));
    }

    #[test]
    fn what_is_no_network_says_why() {
        check("a.conflist", "{", expect!["EOF while parsing an object at line 1 column 1"]);
        check(
            "a.conflist",
            "[]",
            expect!["invalid length 5, expected struct Raw with 6 elements at line 1 column 2"],
        );
        check("a.conflist", r#"{"name":"n","cniVersion":"1.0.0"}"#, expect!["it has no plugins"]);
        check(
            "a.conflist",
            r#"{"name":"n","cniVersion":"1.0.0","plugins":[]}"#,
            expect!["it has no plugins"],
        );
        check("a.conf", r#"{"name":"n","cniVersion":"1.0.0"}"#, expect![[r#"type "" is malformed"#]]);
        check(
            "a.conf",
            r#"{"name":"../n","cniVersion":"1.0.0","type":"x"}"#,
            expect![[r#"name "../n" is malformed"#]],
        );
        check(
            "a.conf",
            r#"{"name":"n","cniVersion":"1.0.0","type":"../x"}"#,
            expect![[r#"type "../x" is malformed"#]],
        );
        check(
            "a.conf",
            r#"{"name":"n","cniVersion":"0.2.0","type":"x"}"#,
            expect!["cniVersion 0.2.0 is not supported (supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0)"],
        );
        check(
            "a.conf",
            r#"{"name":"n","type":"x"}"#,
            expect!["cniVersion 0.1.0 is not supported (supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0)"],
        );
    }

    #[test]
    fn other_files_of_the_directory_are_left_alone() {
        assert!(["a.conf", "b.conflist", "c.json"].iter().all(|name| is_conf(name.as_ref())));
        assert!(["a", "b.conf.bak", ".conf", "README.md"].iter().all(|name| !is_conf(name.as_ref())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_an_error(text in "[\\[\\]{}\":,a-z0-9. ]{0,120}") {
            let _list_or_error = parse("a.conf".as_ref(), text.as_bytes());
        }
    }
}
