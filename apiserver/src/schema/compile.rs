//! OpenAPI definitions → type table. Equal types are stored once.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::{AnyKind, Field, ListKind, PatchRule, Scalar, SchemaSet, Struct, Type, TypeId};

/// The definitions cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Not JSON, or not of the shape `{"definitions": {name: schema}}`.
    #[error("read OpenAPI definitions")]
    Parse(#[source] serde_json::Error),
    /// A reference to a definition that is not there.
    #[error("OpenAPI definition {from} refers to {to}, which does not exist")]
    Dangling {
        /// The definition that refers.
        from: String,
        /// The missing one.
        to: String,
    },
    /// More types than an id can number.
    #[error("too many types")]
    TooMany,
}

#[derive(Deserialize)]
struct Document {
    definitions: HashMap<String, Schema>,
}

#[derive(Deserialize)]
struct Schema {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    #[serde(rename = "type")]
    ty: Option<String>,
    format: Option<String>,
    properties: Option<HashMap<String, Schema>>,
    #[serde(rename = "additionalProperties")]
    additional: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    #[serde(default)]
    required: Vec<String>,
    #[serde(rename = "x-kubernetes-group-version-kind", default)]
    kinds: Vec<GroupVersionKind>,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys", default)]
    list_map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    map_type: Option<String>,
    #[serde(rename = "x-kubernetes-patch-strategy")]
    patch_strategy: Option<String>,
    #[serde(rename = "x-kubernetes-patch-merge-key")]
    patch_merge_key: Option<String>,
}

#[derive(Deserialize)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// Defaults that matter before list keys are formed; the definitions carry none.
const KEY_DEFAULTS: [(&str, &str, &str); 2] = [
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Definitions that are no structs, whatever their text says.
fn well_known(name: &str) -> Option<Type> {
    if let Some(rest) = name.strip_prefix(META) {
        return match rest {
            "Time" => Some(Type::Scalar(Scalar::Time)),
            "MicroTime" => Some(Type::Scalar(Scalar::MicroTime)),
            "FieldsV1" | "Patch" => Some(Type::Any(AnyKind::Raw)),
            _ => None,
        };
    }
    if let Some(rest) = name.strip_prefix(APIEXTENSIONS) {
        return match rest {
            "JSON" => Some(Type::Any(AnyKind::Raw)),
            _ if rest.starts_with("JSONSchemaPropsOr") => Some(Type::Any(AnyKind::SchemaOr)),
            _ => None,
        };
    }
    match name {
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => Some(Type::Scalar(Scalar::Quantity)),
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => Some(Type::Scalar(Scalar::IntOrString)),
        "io.k8s.apimachinery.pkg.runtime.RawExtension" => Some(Type::Any(AnyKind::Raw)),
        _ => None,
    }
}

impl SchemaSet {
    /// Compiles `{"definitions": {name: schema}}`.
    pub fn compile(json: &[u8]) -> Result<SchemaSet, CompileError> {
        let Document { definitions } = serde_json::from_slice(json).map_err(CompileError::Parse)?;
        let mut names: Vec<&String> = definitions.keys().collect();
        names.sort_unstable();
        let mut compiler = Compiler {
            definitions: &definitions,
            set: SchemaSet::default(),
            names: HashMap::new(),
            anonymous: HashMap::new(),
        };
        // Ids first: definitions refer to each other, also in circles.
        for name in &names {
            let id = compiler.push(Type::Any(AnyKind::Raw))?;
            let name = compiler.intern(name);
            compiler.set.by_name.insert(name, id);
        }
        for name in names {
            let (Some(schema), Some(id)) = (definitions.get(name), compiler.set.named(name)) else {
                continue;
            };
            let ty = compiler.definition(name, schema)?;
            if let Some(slot) = compiler.set.types.get_mut(id.0 as usize) {
                *slot = ty;
            }
            for GroupVersionKind { group, version, kind } in &schema.kinds {
                let api_version =
                    if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
                let key = (compiler.intern(&api_version), compiler.intern(kind));
                compiler.set.by_kind.insert(key, id);
            }
        }
        compiler.set.types.shrink_to_fit();
        Ok(compiler.set)
    }
}

struct Compiler<'a> {
    definitions: &'a HashMap<String, Schema>,
    set: SchemaSet,
    names: HashMap<Box<str>, Arc<str>>,
    anonymous: HashMap<Type, TypeId>,
}

impl Compiler<'_> {
    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = Arc::from(name);
        self.names.insert(Box::from(name), Arc::clone(&shared));
        shared
    }

    fn push(&mut self, ty: Type) -> Result<TypeId, CompileError> {
        let id = u32::try_from(self.set.types.len()).map_err(|_| CompileError::TooMany)?;
        self.set.types.push(ty);
        Ok(TypeId(id))
    }

    fn anonymous(&mut self, ty: Type) -> Result<TypeId, CompileError> {
        if let Some(id) = self.anonymous.get(&ty) {
            return Ok(*id);
        }
        let id = self.push(ty.clone())?;
        self.anonymous.insert(ty, id);
        Ok(id)
    }

    fn definition(&mut self, name: &str, schema: &Schema) -> Result<Type, CompileError> {
        if let Some(ty) = well_known(name) {
            return Ok(ty);
        }
        self.structure(name, schema, schema.map_type.as_deref() == Some("atomic"))
    }

    fn structure(&mut self, name: &str, schema: &Schema, atomic: bool) -> Result<Type, CompileError> {
        let mut fields = Vec::new();
        for (property, field) in schema.properties.iter().flatten() {
            let strategy = field.patch_strategy.as_deref().unwrap_or_default();
            let patch = PatchRule {
                merge: strategy.split(',').any(|s| s == "merge"),
                retain_keys: strategy.split(',').any(|s| s == "retainKeys"),
                merge_key: field.patch_merge_key.as_ref().map(|k| self.intern(k)),
            };
            let key_default =
                KEY_DEFAULTS.iter().find(|(ty, f, _)| *ty == name && *f == property).map(|(_, _, d)| *d);
            fields.push(Field {
                name: self.intern(property),
                ty: self.type_of(name, field)?,
                required: schema.required.contains(property),
                patch,
                key_default,
            });
        }
        fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Type::Struct(Arc::new(Struct { name: self.intern(name), atomic, fields: fields.into() })))
    }

    fn type_of(&mut self, owner: &str, schema: &Schema) -> Result<TypeId, CompileError> {
        if let Some(reference) = &schema.reference {
            let target = reference.trim_start_matches("#/definitions/");
            let dangling = || CompileError::Dangling { from: owner.to_owned(), to: target.to_owned() };
            // A reference may override what the definition says of itself (PersistentVolumeSpec.claimRef does).
            if schema.map_type.as_deref() == Some("granular") {
                let definition = self.definitions.get(target).ok_or_else(dangling)?;
                let ty = self.structure(target, definition, false)?;
                return self.anonymous(ty);
            }
            return self.set.named(target).ok_or_else(dangling);
        }
        let ty = match (schema.ty.as_deref(), schema.format.as_deref()) {
            (Some("string"), Some("byte")) => Type::Scalar(Scalar::Bytes),
            (Some("string"), Some("date-time")) => Type::Scalar(Scalar::Time),
            (Some("string"), Some("int-or-string")) => Type::Scalar(Scalar::IntOrString),
            (Some("string"), _) => Type::Scalar(Scalar::String),
            (Some("boolean"), _) => Type::Scalar(Scalar::Bool),
            (Some("integer"), Some("int32")) => Type::Scalar(Scalar::Int32),
            (Some("integer"), _) => Type::Scalar(Scalar::Int64),
            (Some("number"), _) => Type::Scalar(Scalar::Double),
            (Some("array"), _) => {
                let elem = match &schema.items {
                    Some(items) => self.type_of(owner, items)?,
                    None => self.anonymous(Type::Any(AnyKind::Raw))?,
                };
                Type::List { elem, kind: self.list_kind(schema) }
            }
            (Some("object"), _) => match (&schema.additional, &schema.properties) {
                (Some(elem), _) => {
                    let elem = self.type_of(owner, elem)?;
                    Type::Map { elem, atomic: schema.map_type.as_deref() == Some("atomic") }
                }
                (None, Some(_)) => {
                    self.structure("", schema, schema.map_type.as_deref() == Some("atomic"))?
                }
                (None, None) => Type::Any(AnyKind::Raw),
            },
            _ => Type::Any(AnyKind::Raw),
        };
        self.anonymous(ty)
    }

    fn list_kind(&mut self, schema: &Schema) -> ListKind {
        match schema.list_type.as_deref() {
            Some("set") => ListKind::Set,
            Some("map") => ListKind::Map(schema.list_map_keys.iter().map(|k| self.intern(k)).collect()),
            _ => ListKind::Atomic,
        }
    }
}
