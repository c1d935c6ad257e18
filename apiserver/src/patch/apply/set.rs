//! Sets of fields: a trie whose steps are field names, list items and values.
//!
//! A path may be in the set itself (*member*) and lead to others (*child*); both at once is common: an item of a
//! list that one manages together with some of its fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A member of an object.
    Field(Box<str>),
    /// The item of a list that has these values: compact JSON, names sorted.
    Key(Box<str>),
    /// This value in a set: compact JSON.
    Value(Box<str>),
    /// The item at a place.
    Index(usize),
}

impl Step {
    /// As in FieldsV1: `f:spec`, `k:{"name":"c"}`, `v:"a"`, `i:0`.
    fn encode(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(key) => format!("k:{key}"),
            Step::Value(value) => format!("v:{value}"),
            Step::Index(index) => format!("i:{index}"),
        }
    }

    /// `None` for what we do not know; newer versions may know more.
    fn decode(text: &str) -> Option<Step> {
        let (prefix, rest) = text.split_once(':')?;
        match prefix {
            "f" => Some(Step::Field(rest.into())),
            // Read and written again, so that equal keys have equal texts.
            "k" => Some(Step::Key(serde_json::from_str::<Map<String, Value>>(rest).ok().map(key_text)?)),
            "v" => Some(Step::Value(serde_json::from_str::<Value>(rest).ok()?.to_string().into())),
            "i" => rest.parse().ok().map(Step::Index),
            _ => None,
        }
    }
}

/// The text of an item's key.
pub(super) fn key_text(key: Map<String, Value>) -> Box<str> {
    // The map sorts its names, unless some other crate turned that off: sort all the same.
    let mut entries: Vec<(String, Value)> = key.into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let fields: Vec<String> =
        entries.iter().map(|(k, v)| format!("{}:{v}", Value::from(k.as_str()))).collect();
    format!("{{{}}}", fields.join(",")).into()
}

/// As messages name a path: `.spec.containers[name="c"].image`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(key) => {
                let map: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let fields: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", fields.join(","))
            }
            Step::Value(value) => write!(f, "[={value}]"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    members: BTreeSet<Step>,
    /// Never empty ones.
    children: BTreeMap<Step, FieldSet>,
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Adds a path; the empty path is not in any set.
    pub(super) fn insert(&mut self, path: &[Step]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn contains(&self, step: &Step) -> bool {
        self.members.contains(step)
    }

    /// What is below a step.
    pub(super) fn below(&self, step: &Step) -> Option<&FieldSet> {
        self.children.get(step)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Step> {
        self.members.iter()
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&Step, &FieldSet)> {
        self.children.iter()
    }

    /// A set of its parts; empty children are left out.
    pub(super) fn of(members: BTreeSet<Step>, children: impl IntoIterator<Item = (Step, FieldSet)>) -> Self {
        Self { members, children: children.into_iter().filter(|(_, set)| !set.is_empty()).collect() }
    }

    pub(super) fn union(&self, other: &FieldSet) -> FieldSet {
        let mut all = self.clone();
        all.extend(other);
        all
    }

    fn extend(&mut self, other: &FieldSet) {
        self.members.extend(other.members.iter().cloned());
        for (step, set) in &other.children {
            self.children.entry(step.clone()).or_default().extend(set);
        }
    }

    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let members = self.members.intersection(&other.members).cloned().collect();
        let both = self
            .children
            .iter()
            .filter_map(|(step, set)| Some((step.clone(), set.intersection(other.children.get(step)?))));
        Self::of(members, both)
    }

    /// Paths of `self` that are not in `other`, each taken for itself.
    pub(super) fn difference(&self, other: &FieldSet) -> FieldSet {
        let members = self.members.difference(&other.members).cloned().collect();
        let left = self.children.iter().map(|(step, set)| match other.children.get(step) {
            Some(minus) => (step.clone(), set.difference(minus)),
            None => (step.clone(), set.clone()),
        });
        Self::of(members, left)
    }

    /// Paths of `self` that are neither in `other` nor below one that is.
    pub(super) fn without(&self, other: &FieldSet) -> FieldSet {
        let members = self.members.difference(&other.members).cloned().collect();
        let left =
            self.children.iter().filter(|(step, _)| !other.members.contains(step)).map(|(step, set)| {
                match other.children.get(step) {
                    Some(minus) => (step.clone(), set.without(minus)),
                    None => (step.clone(), set.clone()),
                }
            });
        Self::of(members, left)
    }

    /// All paths, each as messages name it.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, prefix: &str, found: &mut Vec<String>) {
        found.extend(self.members.iter().map(|step| format!("{prefix}{step}")));
        for (step, set) in &self.children {
            set.collect(&format!("{prefix}{step}"), found);
        }
    }

    /// FieldsV1.
    pub(super) fn encode(&self) -> Value {
        let mut object = Map::new();
        for step in &self.members {
            object.insert(step.encode(), Value::Object(Map::new()));
        }
        for (step, set) in &self.children {
            let mut inner = set.encode();
            if self.members.contains(step)
                && let Value::Object(inner) = &mut inner
            {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            object.insert(step.encode(), inner);
        }
        Value::Object(object)
    }

    /// Reads FieldsV1; unknown prefixes are passed over.
    pub(super) fn decode(fields: &Value) -> Option<FieldSet> {
        let mut set = FieldSet::default();
        for (key, inner) in fields.as_object()? {
            let Some(step) = Step::decode(key) else { continue };
            let inner = inner.as_object()?;
            if inner.is_empty() || inner.contains_key(".") {
                set.members.insert(step.clone());
            }
            let below = FieldSet::decode(&Value::Object(inner.clone()))?;
            if !below.is_empty() {
                set.children.insert(step, below);
            }
        }
        Some(set)
    }
}
