//! Server-side apply, and the tracking of who owns which field that it rests on.
//!
//! ```text
//! apply:   live + config ──merge──▶ ──prune what the applier gave up──▶ compare with live ──▶ conflicts or new owners
//! update:  live, new ──compare──▶ changed fields move to (manager, Update)
//! ```
//!
//! The rules are those of upstream's structured-merge-diff and its field manager. Owners whose entry is of another
//! version of the kind are compared in the version at hand: fields of the same name are taken for the same.
//!
//! Not here: admission, defaults, storing; whether a request may use a manager's name.

mod conflict;
mod managed;
mod merge;
mod set;
mod validate;
mod view;
mod walk;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use self::managed::{Managed, Operation, Owned, Owner};
use self::set::{FieldSet, Step};
use self::view::Ty;
use self::walk::Comparison;
use crate::codec::{self, Expected, FieldValidation};
use crate::schema::{SchemaSet, Type};

pub use conflict::{Cause, Conflict};

/// What kubectl's client-side apply leaves behind.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Owner of what is there when an object is applied for the first time.
const BEFORE_APPLY: &str = "before-first-apply";
/// kubectl's name when it applies on its own side.
const CLIENT_SIDE: &str = "kubectl-client-side-apply";

/// Who writes, what, where and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Kind of the endpoint.
    pub expected: Expected<'a>,
    /// Manager's name: parameter `fieldManager`, or [`default_manager`].
    pub manager: &'a str,
    /// Subresource that is written, or empty.
    pub subresource: &'a str,
    /// Top-level fields that a write of this kind never touches: `status` for the main resource, `spec` for status.
    pub reset: &'a [&'a str],
    /// RFC 3339 in UTC, whole seconds.
    pub now: &'a str,
}

/// An applied configuration that cannot be merged. The text is the message of the Status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 400: the body is no configuration of this kind.
    #[error("{0}")]
    BadRequest(String),
    /// 500 without reason, as upstream: the configuration does not fit the schema.
    #[error("failed to create typed patch object ({name}; {api_version}, Kind={kind}): {cause}")]
    Untyped {
        /// `namespace/name`.
        name: String,
        /// Of the configuration.
        api_version: String,
        /// Of the configuration.
        kind: String,
        /// What does not fit, by path.
        cause: String,
    },
    /// 409: others own fields that the configuration changes.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

impl ApplyError {
    /// HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Untyped { .. } => 500,
            Self::Conflict(_) => 409,
        }
    }

    /// `reason` of the Status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "BadRequest",
            Self::Untyped { .. } => "",
            Self::Conflict(_) => "Conflict",
        }
    }
}

/// The manager's name of a client that gives none: User-Agent up to `/`, printable, at most 128 characters.
pub fn default_manager(user_agent: Option<&str>) -> String {
    let head = user_agent.unwrap_or_default().split('/').next().unwrap_or_default();
    let name: String = head.chars().filter(|c| !c.is_control()).take(128).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Reads the body of an apply request, YAML or JSON. The second value are texts for warnings.
pub fn read_config(
    body: &[u8],
    writer: &Writer<'_>,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApplyError> {
    let bad = |text: String| ApplyError::BadRequest(text);
    let (config, duplicates) =
        codec::read_yaml_object(body).map_err(|e| bad(format!("error decoding YAML: {e}")))?;
    let Value::Object(config) = config else {
        return Err(bad("error decoding YAML: not an object".to_owned()));
    };
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    let Expected { api_version, kind } = writer.expected;
    if text("apiVersion") != api_version || text("kind") != kind {
        return Err(bad(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {api_version}",
            text("apiVersion")
        )));
    }
    if config.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
        return Err(bad("metadata.managedFields must be nil".to_owned()));
    }
    let warnings = match validation {
        FieldValidation::Strict if !duplicates.is_empty() => {
            return Err(bad(format!("error strict decoding YAML: {}", duplicates.join(", "))));
        }
        FieldValidation::Warn => duplicates,
        FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
    };
    Ok((Value::Object(config), warnings))
}

/// Merges a configuration into the live object, or into nothing.
///
/// The result carries its new `metadata.managedFields`. Compare it with [`same_but_times`] before writing.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    force: bool,
    writer: &Writer<'_>,
) -> Result<Value, ApplyError> {
    let tracker = Tracker::new(writer);
    let config = tracker.typed_config(config)?;
    let empty = Value::Object(Map::new());
    let (live, mut managed) = match live {
        Some(live) => split(live),
        None => (empty.clone(), Managed::default()),
    };
    // Fields that nobody tracked so far get an owner, so that the first apply cannot take them unnoticed.
    if managed.is_empty() {
        let nothing = tracker.as_typed(tracker.ty, &empty, &live);
        tracker.record_update(&nothing, &live, &mut managed, BEFORE_APPLY);
        tracker.credit_client_side_apply(&live, &mut managed);
    }
    let former = managed.clone();
    let (mut merged, mut managed) = match tracker.apply(&live, &config, managed.clone(), force) {
        Ok(applied) => applied,
        Err(conflict) => {
            // Moving from client-side apply: kubectl may take what its own annotation says it had set.
            let allowed = tracker.last_applied(&live).filter(|_| writer.manager == "kubectl");
            let left = allowed.map_or_else(|| Some(conflict.clone()), |set| conflict.without(&set));
            match left {
                Some(left) => return Err(left.into_error().into()),
                None => {
                    tracker.apply(&live, &config, managed, true).map_err(conflict::Conflicts::into_error)?
                }
            }
        }
    };
    let owner = tracker.owner(Operation::Apply, writer.manager);
    let changed = without_nulls(&merged) != without_nulls(&live);
    if let Some(owned) = managed.0.get_mut(&owner) {
        let before = former.0.get(&owner);
        if changed
            || before.is_none_or(|b| (&b.fields, &b.api_version) != (&owned.fields, &owned.api_version))
        {
            owned.time = Some(writer.now.to_owned());
        }
    }
    if writer.manager == "kubectl" {
        update_last_applied(&mut merged, &config);
    }
    let mut merged = without_nulls(&merged);
    if let Value::Object(object) = &mut merged {
        object.insert("apiVersion".into(), writer.expected.api_version.into());
        object.insert("kind".into(), writer.expected.kind.into());
    }
    write_managed(&mut merged, &managed);
    Ok(merged)
}

/// Records in `new` that a create (`live` absent), update or patch changed it; `new` must have its defaults.
///
/// What the client sent as `metadata.managedFields` is honoured as upstream does: a valid list replaces, an empty
/// one clears, anything else leaves the live one. On subresources it is ignored.
pub fn track_update(live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let tracker = Tracker::new(writer);
    let sent = new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|m| m.remove("managedFields"));
    let created = live.is_none();
    let (old, live_managed) = match live {
        Some(live) => split(live),
        None => (Value::Object(Map::new()), Managed::default()),
    };
    let old = tracker.as_typed(tracker.ty, &old, new);
    let mut managed = match sent.filter(|_| writer.subresource.is_empty()) {
        Some(sent) if is_reset(&sent) => Managed::default(),
        Some(sent) => Managed::decode(&sent).filter(|m| !m.is_empty()).unwrap_or(live_managed),
        None => live_managed,
    };
    // An object that is not tracked stays so, until somebody applies.
    if !managed.is_empty() || created {
        tracker.record_update(&old, new, &mut managed, writer.manager);
        managed.cap_updaters();
    }
    write_managed(new, &managed);
}

/// Whether two objects differ in nothing but the times of their managers.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            for entry in metadata.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten()
            {
                entry.as_object_mut().map(|entry| entry.remove("time"));
            }
        }
        object
    };
    bare(a) == bare(b)
}

/// `[]` and `[{}]` mean: forget.
fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(only)]) => only.is_empty(),
        _ => false,
    }
}

fn split(object: &Value) -> (Value, Managed) {
    let mut object = object.clone();
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let entries = metadata.and_then(|m| m.remove("managedFields"));
    (object, entries.and_then(|e| Managed::decode(&e)).unwrap_or_default())
}

fn write_managed(object: &mut Value, managed: &Managed) {
    let Value::Object(object) = object else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(metadata) = metadata {
        if managed.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), managed.encode());
        }
    }
}

/// Null says "absent" once merging is over.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Keeps client-side apply's memory in step, for those who go back and forth.
fn update_last_applied(object: &mut Value, config: &Value) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    if let Some(annotations) = annotations.filter(|a| a.contains_key(LAST_APPLIED)) {
        let mut config = config.clone();
        if let Some(own) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            own.remove(LAST_APPLIED);
        }
        annotations.insert(LAST_APPLIED.into(), format!("{config}\n").into());
    }
}

/// One write, with the schema at hand.
struct Tracker<'a> {
    set: &'static SchemaSet,
    ty: Ty,
    writer: &'a Writer<'a>,
    ignored: FieldSet,
}

impl<'a> Tracker<'a> {
    fn new(writer: &'a Writer<'a>) -> Self {
        let set = SchemaSet::builtin();
        let ty = set.lookup(writer.expected.api_version, writer.expected.kind).map_or(Ty::Deduced, Ty::Known);
        let mut ignored = FieldSet::default();
        for field in writer.reset {
            ignored.insert(&[Step::Field((*field).into())]);
        }
        Self { set, ty, writer, ignored }
    }

    fn owner(&self, operation: Operation, manager: &str) -> Owner {
        Owner::new(operation, manager, self.writer.expected.api_version, self.writer.subresource)
    }

    /// The configuration in canonical form, or why it is none.
    fn typed_config(&self, config: &Value) -> Result<Value, ApplyError> {
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let untyped = |cause: String| ApplyError::Untyped {
            name: format!("{}/{}", text("/metadata/namespace"), text("/metadata/name")),
            api_version: text("/apiVersion").to_owned(),
            kind: text("/kind").to_owned(),
            cause,
        };
        validate::check(self.set, self.ty, config).map_err(untyped)?;
        codec::conform(config, self.writer.expected).map(|(value, _)| value).map_err(untyped)
    }

    /// `old` as upstream's typed objects are written: some parts are there without being set, so that nobody
    /// becomes their owner by filling them. `new` says where to look.
    fn as_typed(&self, ty: Ty, old: &Value, new: &Value) -> Value {
        /// Structs that upstream's types embed by value, wherever they occur.
        const BY_VALUE: [&str; 7] =
            ["metadata", "spec", "status", "template", "jobTemplate", "strategy", "updateStrategy"];
        let fields = match ty {
            Ty::Known(id) => self.set.as_struct(id),
            Ty::Deduced => None,
        };
        let mut typed = old.as_object().cloned().unwrap_or_default();
        for (key, value) in new.as_object().into_iter().flatten() {
            let Some(field) = fields.and_then(|s| s.field(key)) else { continue };
            match self.set.get(field.ty) {
                Type::Struct(_) if field.required || BY_VALUE.contains(&key.as_str()) => {
                    let before = typed.remove(key).unwrap_or(Value::Null);
                    typed.insert(key.clone(), self.as_typed(Ty::Known(field.ty), &before, value));
                }
                Type::List { .. } | Type::Map { .. } if field.required => {
                    typed.entry(key.clone()).or_insert(Value::Null);
                }
                _ => {}
            }
        }
        Value::Object(typed)
    }

    fn compare(&self, old: &Value, new: &Value) -> Comparison {
        walk::compare(self.set, self.ty, old, new).without(&self.ignored)
    }

    fn apply(
        &self,
        live: &Value,
        config: &Value,
        mut managed: Managed,
        force: bool,
    ) -> Result<(Value, Managed), conflict::Conflicts> {
        let owner = self.owner(Operation::Apply, self.writer.manager);
        let merged = merge::merge(self.set, self.ty, live, config);
        let last = managed.0.get(&owner).map(|owned| owned.fields.clone());
        let fields = walk::to_field_set(self.set, self.ty, config).without(&self.ignored);
        let time = managed.0.get(&owner).and_then(|owned| owned.time.clone());
        let api_version = self.writer.expected.api_version.to_owned();
        managed.0.insert(owner.clone(), Owned { fields, api_version, time });
        let merged = match last {
            Some(last) if !last.is_empty() => self.prune(&merged, &managed, &last),
            _ => merged,
        };
        self.move_changes(live, &merged, &mut managed, &owner, force)?;
        self.strip(&mut managed, &owner);
        Ok((merged, managed))
    }

    /// Removes what the applier owned before, does not name now, and nobody else owns.
    fn prune(&self, merged: &Value, managed: &Managed, last: &FieldSet) -> Value {
        let full = |fields: &FieldSet| merge::with_parents(self.set, self.ty, Some(merged), fields);
        let fields_of = |value: &Value| full(&walk::to_field_set(self.set, self.ty, value));
        let without = |fields: &FieldSet| merge::remove(self.set, self.ty, merged, fields);

        let last = full(last);
        let all = fields_of(merged);
        let pruned = without(&last);
        // Back comes what anybody owns …
        let owned = without(&all.difference(&fields_of(&pruned).union(&full(&managed.all()))));
        // … and what was never this applier's.
        without(&all.difference(&fields_of(&owned)).intersection(&last))
    }

    /// Finds who owns what changes; refuses, or takes it from them.
    fn move_changes(
        &self,
        old: &Value,
        new: &Value,
        managed: &mut Managed,
        writer: &Owner,
        force: bool,
    ) -> Result<Comparison, conflict::Conflicts> {
        let changes = self.compare(old, new);
        let touched = changes.modified.union(&changes.added);
        let others = || managed.0.iter().filter(|(owner, _)| *owner != writer);
        let conflicts: Vec<(Owner, Option<String>, FieldSet)> = others()
            .map(|(owner, owned)| (owner.clone(), owned.time.clone(), owned.fields.intersection(&touched)))
            .filter(|(_, _, fields)| !fields.is_empty())
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(conflict::Conflicts(conflicts));
        }
        for (owner, _, fields) in &conflicts {
            managed.take(owner, fields);
        }
        let owners: Vec<Owner> = managed.0.keys().filter(|owner| *owner != writer).cloned().collect();
        for owner in owners {
            managed.take(&owner, &changes.removed);
        }
        managed.0.retain(|_, owned| !owned.fields.is_empty());
        Ok(changes)
    }

    /// What changed from `old` to `new` belongs to (manager, Update).
    fn record_update(&self, old: &Value, new: &Value, managed: &mut Managed, manager: &str) {
        let owner = self.owner(Operation::Update, manager);
        let before = managed.0.get(&owner).cloned();
        // Taking by force never conflicts.
        let Ok(changes) = self.move_changes(old, new, managed, &owner, true) else { return };
        let had = before.as_ref().map(|owned| owned.fields.clone()).unwrap_or_default();
        let fields = had
            .difference(&changes.removed)
            .union(&changes.modified)
            .union(&changes.added)
            .without(&self.ignored);
        let time = before.as_ref().and_then(|owned| owned.time.clone());
        let api_version = self.writer.expected.api_version.to_owned();
        managed.0.insert(owner.clone(), Owned { fields, api_version, time });
        self.strip(managed, &owner);
        if let Some(owned) = managed.0.get_mut(&owner)
            && before.is_none_or(|before| before.fields != owned.fields)
        {
            owned.time = Some(self.writer.now.to_owned());
        }
    }

    /// Identity and bookkeeping have no owner.
    fn strip(&self, managed: &mut Managed, owner: &Owner) {
        const ROOT: [&str; 3] = ["apiVersion", "kind", "metadata"];
        const META: [&str; 9] = [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "selfLink",
            "clusterName",
            "managedFields",
        ];
        let mut bookkeeping = FieldSet::default();
        for field in ROOT {
            bookkeeping.insert(&[Step::Field(field.into())]);
        }
        for field in META {
            bookkeeping.insert(&[Step::Field("metadata".into()), Step::Field(field.into())]);
        }
        managed.take(owner, &bookkeeping);
        managed.0.retain(|_, owned| !owned.fields.is_empty());
    }

    /// Gives client-side apply what its annotation names, and the annotation. kubectl hands all that the owner of the
    /// annotation owns to server-side apply, and that takes away what the manifest does not name: fields that the
    /// server or a controller filled in must belong to somebody else.
    fn credit_client_side_apply(&self, live: &Value, managed: &mut Managed) {
        let Some(mut named) = self.last_applied(live) else { return };
        named.insert(&["metadata", "annotations", LAST_APPLIED].map(|field| Step::Field(field.into())));
        let finder = self.owner(Operation::Update, BEFORE_APPLY);
        let Some(found) = managed.0.get(&finder).cloned() else { return };
        let fields = found.fields.intersection(&named);
        managed.take(&finder, &fields);
        managed.0.insert(self.owner(Operation::Update, CLIENT_SIDE), Owned { fields, ..found });
    }

    /// Fields of client-side apply's annotation.
    fn last_applied(&self, live: &Value) -> Option<FieldSet> {
        let text = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
        let config: Value = serde_json::from_str(text).ok()?;
        let (config, _) = codec::conform(&config, self.writer.expected).ok()?;
        Some(walk::to_field_set(self.set, self.ty, &config))
    }
}
