//! The definitions as OpenAPI schemas: which belong to a kind, and which others they need.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::kinds::Gvk;
use crate::schema::builtin_definitions;

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The embedded definitions, read; exists only while a document is being built.
pub(super) struct Definitions {
    all: Map<String, Value>,
    by_kind: BTreeMap<(String, String, String), String>,
}

impl Definitions {
    pub(super) fn read() -> Self {
        let parsed = serde_json::from_slice::<Map<String, Value>>(&builtin_definitions()).unwrap_or_default();
        let all = match parsed.into_iter().find(|(key, _)| key == "definitions") {
            Some((_, Value::Object(all))) => all,
            _ => Map::new(),
        };
        let mut by_kind = BTreeMap::new();
        for (name, schema) in &all {
            for entry in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                let part = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
                by_kind.insert((part("group"), part("version"), part("kind")), name.clone());
            }
        }
        Self { all, by_kind }
    }

    /// Name of the definition of a kind.
    pub(super) fn of(&self, gvk: &Gvk) -> Option<&str> {
        self.of_parts(gvk.group, gvk.version, gvk.kind)
    }

    /// Name of the definition of a kind's list.
    pub(super) fn list_of(&self, gvk: &Gvk) -> Option<&str> {
        self.of_parts(gvk.group, gvk.version, &format!("{}List", gvk.kind))
    }

    fn of_parts(&self, group: &str, version: &str, kind: &str) -> Option<&str> {
        self.by_kind.get(&(group.to_owned(), version.to_owned(), kind.to_owned())).map(String::as_str)
    }

    /// These definitions and all they refer to, each through `convert`.
    pub(super) fn closure(
        &self,
        roots: BTreeSet<String>,
        convert: impl Fn(&str, &Value) -> Value,
    ) -> Map<String, Value> {
        let mut found = Map::new();
        let mut open: Vec<String> = roots.into_iter().collect();
        while let Some(name) = open.pop() {
            let Some(schema) = self.all.get(&name) else { continue };
            if !found.contains_key(&name) {
                references(schema, &mut open);
                found.insert(name.clone(), convert(&name, schema));
            }
        }
        found
    }
}

fn references(schema: &Value, open: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(target) if key == "$ref" => {
                        open.push(target.trim_start_matches("#/definitions/").to_owned());
                    }
                    _ => references(value, open),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, open)),
        _ => {}
    }
}
