//! The type table: what the fields of every kind are, as far as decoding, patching and server-side apply must know.
//!
//! One table serves three users: strict decoding ([`crate::codec`]), strategic merge and server-side apply
//! ([`crate::patch`]). It is compiled once from upstream's OpenAPI definitions; custom resources compile to the
//! same table at run time.
//!
//! Not here: defaults beyond those that form list keys, validation, paths and verbs (those belong to
//! [`crate::kinds`]), and the OpenAPI documents served to clients (see [`crate::discovery`]).

mod compile;

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, LazyLock};

pub use compile::CompileError;

/// Index of a type in its [`SchemaSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Anything: `RawExtension`, `FieldsV1`, `JSON`, and objects of kinds without a schema.
    Any(AnyKind),
    /// A leaf.
    Scalar(Scalar),
    /// An object with free keys.
    Map {
        /// Type of every value.
        elem: TypeId,
        /// Owned and replaced as a whole by server-side apply.
        atomic: bool,
    },
    /// A list.
    List {
        /// Type of every element.
        elem: TypeId,
        /// How server-side apply tells its elements apart.
        kind: ListKind,
    },
    /// An object with known fields.
    Struct(Arc<Struct>),
}

/// Where a free-form value comes from; only protobuf decoding needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnyKind {
    /// Raw JSON carried in a message: `RawExtension`, `FieldsV1`, `JSON`.
    Raw,
    /// `JSONSchemaPropsOr…`: a schema or something simpler.
    SchemaOr,
}

/// A leaf's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// A string.
    String,
    /// A boolean.
    Bool,
    /// A signed integer of 32 bits.
    Int32,
    /// A signed integer of 64 bits.
    Int64,
    /// A floating point number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 with six digits of fraction.
    MicroTime,
    /// A quantity such as `100m`; JSON may hold a number.
    Quantity,
    /// An integer or a string.
    IntOrString,
}

/// How the elements of a list are identified by server-side apply.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// The list is one value.
    Atomic,
    /// Elements are scalars, each at most once.
    Set,
    /// Elements are objects identified by these fields.
    Map(Arc<[Arc<str>]>),
}

/// An object type with known fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Struct {
    /// Name of the definition, e.g. `io.k8s.api.core.v1.PodSpec`.
    pub name: Arc<str>,
    /// Owned and replaced as a whole by server-side apply.
    pub atomic: bool,
    /// By name.
    fields: Box<[Field]>,
}

/// A field of a [`Struct`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Name in JSON.
    pub name: Arc<str>,
    /// Its type.
    pub ty: TypeId,
    /// Must be present.
    pub required: bool,
    /// What strategic merge does with it.
    pub patch: PatchRule,
    /// Value that stands for an absent one where the field is part of a list key.
    pub key_default: Option<&'static str>,
}

/// How strategic merge treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PatchRule {
    /// `merge`: a list is merged, not replaced.
    pub merge: bool,
    /// `retainKeys`: `$retainKeys` is honoured.
    pub retain_keys: bool,
    /// Field that identifies elements of a merged list of objects.
    pub merge_key: Option<Arc<str>>,
}

impl Struct {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|f| (*f.name).cmp(name)).ok()?;
        self.fields.get(at)
    }

    /// All fields, by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Last part of the definition's name: `PodSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// Types and the kinds that lead to them.
#[derive(Debug, Default)]
pub struct SchemaSet {
    types: Vec<Type>,
    by_name: HashMap<Arc<str>, TypeId>,
    by_kind: HashMap<(Arc<str>, Arc<str>), TypeId>,
}

/// OpenAPI definitions of Kubernetes 1.34, descriptions removed; see `openapi/NOTICE`.
static DEFINITIONS: &[u8] = include_bytes!("../../openapi/definitions-1.34.json.gz");

/// The definitions as JSON text: `{"definitions": {…}}`, references written `#/definitions/…`.
///
/// Unpacked at each call: about 290 KB that nobody needs to hold.
pub fn builtin_definitions() -> Vec<u8> {
    let mut text = Vec::with_capacity(300 << 10);
    let read = flate2::read::GzDecoder::new(DEFINITIONS).read_to_end(&mut text);
    debug_assert!(read.is_ok(), "the embedded definitions are a gzip file");
    text
}

impl SchemaSet {
    /// The table of all built-in kinds, compiled at first use.
    pub fn builtin() -> &'static SchemaSet {
        static BUILTIN: LazyLock<SchemaSet> = LazyLock::new(|| {
            // The input is part of the program and covered by a test; an empty set treats every kind as free-form.
            SchemaSet::compile(&builtin_definitions()).unwrap_or_default()
        });
        &BUILTIN
    }

    /// The type of a kind, `api_version` as written in objects (`v1`, `apps/v1`).
    pub fn lookup(&self, api_version: &str, kind: &str) -> Option<TypeId> {
        // Arc<str> keys cannot be borrowed as a pair of &str without building one.
        self.by_kind.get(&(Arc::from(api_version), Arc::from(kind))).copied()
    }

    /// The type of a definition, e.g. `io.k8s.api.core.v1.PodSpec`.
    pub fn named(&self, definition: &str) -> Option<TypeId> {
        self.by_name.get(definition).copied()
    }

    /// A type of this set. Ids are only handed out by the set itself.
    pub fn get(&self, id: TypeId) -> &Type {
        static FREE: Type = Type::Any(AnyKind::Raw);
        self.types.get(id.0 as usize).unwrap_or(&FREE)
    }

    /// The struct behind an id, if it is one.
    pub fn as_struct(&self, id: TypeId) -> Option<&Struct> {
        match self.get(id) {
            Type::Struct(s) => Some(s),
            _ => None,
        }
    }

    /// Follows field names, list elements and map values: `spec`, `containers`, `[]`.
    pub fn descend(&self, id: TypeId, step: &str) -> Option<TypeId> {
        match self.get(id) {
            Type::Struct(s) => s.field(step).map(|f| f.ty),
            Type::Map { elem, .. } | Type::List { elem, .. } => Some(*elem),
            Type::Any(_) | Type::Scalar(_) => None,
        }
    }

    /// Number of distinct types.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are no types at all.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

#[cfg(test)]
mod tests;
