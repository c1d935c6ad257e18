//! The registry of kinds: one row of data per kind the server knows, and function pointers for the few that
//! need code.
//!
//! Handlers, discovery and tables are driven by these rows; there is no handler per kind. Not here: what a
//! default or a rule says (`admission`), how objects are stored or encoded.

mod events;
mod rows;

use serde_json::Value;

use crate::admission::{Causes, Surroundings};
use crate::rest::status::Failure;

pub use rows::BUILTIN;

/// Group, version and kind of an object or request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gvk {
    /// API group; empty for the legacy core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// Kind in camel case.
    pub kind: &'static str,
}

impl Gvk {
    /// The `apiVersion` an object of this kind carries.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// Whether objects live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One per cluster and name.
    Cluster,
    /// One per namespace and name.
    Namespaced,
}

/// What becomes of a written object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On disk before the write is answered.
    Durable,
    /// In memory at once, on disk later: losing the last minute in a crash is harmless.
    Volatile,
    /// Not stored: the request itself is the thing (reviews).
    None,
}

/// A subresource that discovery advertises.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    /// Last path segment.
    pub name: &'static str,
    /// Kind of its bodies, which may be of another group.
    pub gvk: Gvk,
    /// Verbs it takes.
    pub verbs: &'static [&'static str],
}

/// A field that field selectors of this kind may name.
#[derive(Clone, Copy, Debug)]
pub struct Selectable {
    /// Dotted path, which is both the selector's key and the place of the value.
    pub path: &'static str,
    /// What an absent value reads as.
    pub default: &'static str,
}

/// Code of a kind. Every entry has a harmless default; see [`Hooks::NONE`].
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Fill in upstream's static defaults, on create and on every later write.
    pub default: fn(&mut Value),
    /// What only the server may decide at creation: allocate, inject, reset status. May refuse.
    pub prepare_create: fn(&mut Value, &dyn Surroundings) -> Result<(), Failure>,
    /// What an update of the main resource must not change or must carry over from the old object.
    pub prepare_update: fn(&mut Value, &Value, &dyn Surroundings) -> Result<(), Failure>,
    /// Rules for the object alone.
    pub validate: fn(&Value, &mut Causes),
    /// More rules for an object that is made.
    pub validate_create: fn(&Value, &mut Causes),
    /// Rules for new against old (immutable fields).
    pub validate_update: fn(&Value, &Value, &mut Causes),
    /// Whether this update (new, old) may reach the disk late, although the kind is durable: heartbeats.
    pub lazy: fn(&Value, &Value) -> bool,
    /// Whether this object may be deleted at all.
    pub prepare_delete: fn(&Value) -> Result<(), Failure>,
    /// Store prefix and name of an object in the same namespace that creation waits a moment for.
    pub awaits: fn(&Value) -> Option<(&'static str, String)>,
}

impl Hooks {
    /// A kind without code.
    pub const NONE: Hooks = Hooks {
        default: |_| {},
        prepare_create: |_, _| Ok(()),
        prepare_update: |_, _, _| Ok(()),
        validate: |_, _| {},
        validate_create: |_, _| {},
        validate_update: |_, _, _| {},
        lazy: |_, _| false,
        prepare_delete: |_| Ok(()),
        awaits: |_| None,
    };
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

/// One row: everything generic code needs to know of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Group, version, kind.
    pub gvk: Gvk,
    /// Plural, lower-case name in paths.
    pub resource: &'static str,
    /// Singular name.
    pub singular: &'static str,
    /// Namespaced or not.
    pub scope: Scope,
    /// kubectl's abbreviations.
    pub short_names: &'static [&'static str],
    /// Groups of kinds such as `all`.
    pub categories: &'static [&'static str],
    /// Verbs of the main resource, in discovery's order.
    pub verbs: &'static [&'static str],
    /// Subresources, sorted by name.
    pub subresources: &'static [Subresource],
    /// Where objects go.
    pub storage: Storage,
    /// First part of the store key: kinds served in several groups or versions share it.
    pub prefix: &'static str,
    /// Fields for field selectors besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [Selectable],
    /// Writes of the main resource leave `.status` alone and the other way round.
    pub has_status: bool,
    /// `metadata.generation` counts changes of `.spec`.
    pub has_generation: bool,
    /// Names follow the label rules instead of the subdomain rules.
    pub name_rule: NameRule,
    /// For kinds stored in another version's form.
    pub convert: Option<Convert>,
    /// Rules of writes look at other objects of the kind, so they run one after the other.
    pub serialized: bool,
    /// A deletion answers the object itself instead of a Status.
    pub returns_deleted: bool,
    /// Code.
    pub hooks: Hooks,
}

/// To and from the form a kind is stored in.
#[derive(Clone, Copy)]
pub struct Convert {
    /// What is stored, as this kind.
    pub from_stored: fn(Value) -> Value,
    /// This kind, as what is stored.
    pub to_stored: fn(Value) -> Value,
}

impl std::fmt::Debug for Convert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Convert")
    }
}

/// Which rule `metadata.name` follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label (namespaces).
    Label,
    /// RFC 1035 label (services).
    Label1035,
    /// Anything that can be a path segment.
    PathSegment,
}

impl Kind {
    /// Whether objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether the main resource takes this verb.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// `pods`, or `deployments.apps` as upstream's messages name it.
    pub fn qualified_resource(&self) -> String {
        if self.gvk.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.gvk.group)
        }
    }

    /// `Pod`, or `Deployment.apps` as upstream's messages name it.
    pub fn qualified_kind(&self) -> String {
        if self.gvk.group.is_empty() {
            self.gvk.kind.to_owned()
        } else {
            format!("{}.{}", self.gvk.kind, self.gvk.group)
        }
    }

    /// Kind of the list of these objects.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.gvk.kind)
    }
}

/// Finds the row of a resource by its path parts.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Kind> {
    BUILTIN.iter().find(|k| k.gvk.group == group && k.gvk.version == version && k.resource == resource)
}

/// Finds the row of a kind by what objects carry.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    BUILTIN.iter().find(|k| k.gvk.group == group && k.gvk.version == version && k.gvk.kind == kind)
}
