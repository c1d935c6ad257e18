//! `metadata.managedFields`: who owns which fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::set::FieldSet;

/// Update entries above this number are merged, oldest first.
const MAX_UPDATERS: usize = 10;
/// The manager of merged entries.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes. Apply sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who: the identity of an entry. For appliers the version is not part of it and left empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) operation: Operation,
    pub(super) manager: String,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Owner {
    pub(super) fn new(operation: Operation, manager: &str, api_version: &str, subresource: &str) -> Self {
        let api_version = if operation == Operation::Apply { "" } else { api_version };
        Self {
            operation,
            manager: manager.to_owned(),
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }
}

/// What: the fields, as of a version and a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) fields: FieldSet,
    pub(super) api_version: String,
    /// RFC 3339 in UTC, so that text order is time order.
    pub(super) time: Option<String>,
}

/// All owners of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managed(pub(super) BTreeMap<Owner, Owned>);

impl Managed {
    /// Reads a list of entries; `None` if one of them is broken.
    pub(super) fn decode(entries: &Value) -> Option<Managed> {
        let mut managed = Managed::default();
        for entry in entries.as_array()? {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            if text("fieldsType") != "FieldsV1" || text("apiVersion").is_empty() {
                return None;
            }
            let owner = Owner::new(operation, text("manager"), text("apiVersion"), text("subresource"));
            let fields = entry.get("fieldsV1").map_or_else(|| Some(FieldSet::default()), FieldSet::decode)?;
            let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
            managed.0.insert(owner, Owned { fields, api_version: text("apiVersion").to_owned(), time });
        }
        Some(managed)
    }

    /// The list of entries, in upstream's order.
    pub(super) fn encode(&self) -> Value {
        let mut entries: Vec<(&Owner, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (a.operation, &x.time, &a.manager, &x.api_version, &a.subresource).cmp(&(
                b.operation,
                &y.time,
                &b.manager,
                &y.api_version,
                &b.subresource,
            ))
        });
        let written = entries.into_iter().map(|(owner, owned)| {
            let mut entry = Map::new();
            entry.insert("manager".into(), owner.manager.as_str().into());
            entry.insert("operation".into(), format!("{:?}", owner.operation).into());
            entry.insert("apiVersion".into(), owned.api_version.as_str().into());
            entry.extend(owned.time.as_ref().map(|time| ("time".to_owned(), json!(time))));
            entry.insert("fieldsType".into(), "FieldsV1".into());
            entry.insert("fieldsV1".into(), owned.fields.encode());
            if !owner.subresource.is_empty() {
                entry.insert("subresource".into(), owner.subresource.as_str().into());
            }
            Value::Object(entry)
        });
        written.collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that anyone owns.
    pub(super) fn all(&self) -> FieldSet {
        self.0.values().fold(FieldSet::default(), |all, owned| all.union(&owned.fields))
    }

    /// Takes fields from an owner; nobody owns nothing.
    pub(super) fn take(&mut self, owner: &Owner, fields: &FieldSet) {
        if let Some(owned) = self.0.get_mut(owner) {
            owned.fields = owned.fields.difference(fields);
            if owned.fields.is_empty() {
                self.0.remove(owner);
            }
        }
    }

    /// Merges the oldest updaters of a version into one, until there are few enough.
    pub(super) fn cap_updaters(&mut self) {
        let mut updaters: Vec<Owner> =
            self.0.keys().filter(|o| o.operation == Operation::Update).cloned().collect();
        let mut count = updaters.len();
        updaters.sort_by_cached_key(|owner| (self.0.get(owner).and_then(|o| o.time.clone()), owner.clone()));
        let mut first_of: BTreeMap<String, Owner> = BTreeMap::new();
        for owner in updaters {
            if count <= MAX_UPDATERS {
                return;
            }
            let version = owner.api_version.clone();
            let bucket = Owner::new(Operation::Update, ANCIENT, &version, "");
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, owner);
                continue;
            };
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(first)
            {
                self.0.insert(bucket.clone(), owned);
            }
            if owner == bucket {
                continue;
            }
            if let (Some(owned), Some(target)) = (self.0.remove(&owner), self.0.get_mut(&bucket)) {
                target.fields = target.fields.union(&owned.fields);
                target.time = owned.time;
                count -= 1;
            }
        }
    }
}
