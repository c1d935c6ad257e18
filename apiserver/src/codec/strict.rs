//! The typed reader: JSON text, YAML text or a value in memory, against the type table.
//!
//! One visitor for all three, driven by the table, so that an unknown or repeated field is noted in the order and
//! at the path where it stands. Go's typed decoding is the model: null means absent, the last of two equal keys
//! wins, a wrong type ends it.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{base64_go, scalar, syntax};
use crate::schema::{AnyKind, Scalar, SchemaSet, Struct, Type, TypeId};

/// Upstream stops counting there too.
const MAX_FINDINGS: usize = 100;

pub(super) type Read = (Value, Vec<String>);

/// Reads JSON text. The error is worded as upstream words it.
pub(super) fn read_json(body: &[u8], set: &SchemaSet, shape: Option<TypeId>) -> Result<Read, String> {
    let mut source = serde_json::Deserializer::from_slice(body);
    let reader = Reader::new(set);
    let read = reader.root(shape).deserialize(&mut source);
    let read = read.and_then(|value| source.end().map(|()| value));
    match (reader.fault.take(), read) {
        (Some(fault), _) => Err(fault),
        (None, Ok(value)) => Ok((value, reader.findings.into_inner())),
        (None, Err(error)) => Err(syntax::describe(&error, body)),
    }
}

/// Reads YAML text, one document.
pub(super) fn read_yaml(body: &[u8], set: &SchemaSet, shape: Option<TypeId>) -> Result<Read, String> {
    let reader = Reader::new(set);
    let read = reader.root(shape).deserialize(serde_norway::Deserializer::from_slice(body));
    match (reader.fault.take(), read) {
        (Some(fault), _) => Err(fault),
        (None, Ok(value)) => Ok((value, reader.findings.into_inner())),
        (None, Err(error)) => Err(format!("error converting YAML to JSON: yaml: {error}")),
    }
}

/// Reads YAML (or JSON, which is YAML) text as it is.
pub(super) fn read_free(body: &[u8]) -> Result<Read, String> {
    let reader = Reader::new(SchemaSet::builtin());
    let seed = Seed { reader: &reader, shape: Shape::Free, owner: "" };
    let value = match serde_json::from_slice::<Value>(body) {
        // The quick way for what almost all clients send; only a second reading sees repeated keys.
        Ok(_) => {
            seed.deserialize(&mut serde_json::Deserializer::from_slice(body)).map_err(|e| e.to_string())?
        }
        Err(_) => seed
            .deserialize(serde_norway::Deserializer::from_slice(body))
            .map_err(|e| format!("yaml: {e}"))?,
    };
    Ok((value, reader.findings.into_inner()))
}

/// Reads a value in memory.
pub(super) fn read_value(value: &Value, set: &SchemaSet, shape: Option<TypeId>) -> Result<Read, String> {
    let reader = Reader::new(set);
    let read = reader.root(shape).deserialize(value);
    match (reader.fault.take(), read) {
        (Some(fault), _) => Err(fault),
        (None, Ok(value)) => Ok((value, reader.findings.into_inner())),
        (None, Err(error)) => Err(error.to_string()),
    }
}

/// `apiVersion` and `kind` of JSON text, empty where absent.
pub(super) fn type_meta_json(body: &[u8]) -> Result<(String, String), String> {
    let mut source = serde_json::Deserializer::from_slice(body);
    let found = source.deserialize_any(TypeMeta).and_then(|found| source.end().map(|()| found));
    found.map_err(|e| format!("couldn't get version/kind; json parse error: {}", syntax::describe(&e, body)))
}

/// `apiVersion` and `kind` of YAML text, empty where absent.
pub(super) fn type_meta_yaml(body: &[u8]) -> Result<(String, String), String> {
    serde_norway::Deserializer::from_slice(body)
        .deserialize_any(TypeMeta)
        .map_err(|e| format!("error converting YAML to JSON: yaml: {e}"))
}

struct TypeMeta;

impl<'de> Visitor<'de> for TypeMeta {
    type Value = (String, String);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = (String::new(), String::new());
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match key.as_str() {
                "apiVersion" => found.0 = map.next_value::<Option<String>>()?.unwrap_or_default(),
                "kind" => found.1 = map.next_value::<Option<String>>()?.unwrap_or_default(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Keys as strings; YAML allows numbers and booleans there.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<String, D::Error> {
        source.deserialize_any(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, v: &str) -> Result<String, E> {
        Ok(v.to_owned())
    }

    fn visit_string<E>(self, v: String) -> Result<String, E> {
        Ok(v)
    }

    fn visit_bool<E>(self, v: bool) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_i64<E>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_u64<E>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_f64<E>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }
}

enum Step {
    Key(String),
    Index(usize),
}

struct Reader<'a> {
    set: &'a SchemaSet,
    path: RefCell<Vec<Step>>,
    findings: RefCell<Vec<String>>,
    /// A value of the wrong type: ends the reading, and says more than serde's error could.
    fault: Cell<Option<String>>,
}

#[derive(Clone, Copy)]
enum Shape<'a> {
    Typed(&'a Type),
    /// An object without schema; its metadata has one all the same.
    Custom,
    Free,
}

struct Seed<'r, 'a> {
    reader: &'r Reader<'a>,
    shape: Shape<'a>,
    /// Struct whose field this is, for error texts.
    owner: &'a str,
}

impl<'a> Reader<'a> {
    fn new(set: &'a SchemaSet) -> Self {
        Self { set, path: RefCell::default(), findings: RefCell::default(), fault: Cell::new(None) }
    }

    fn root(&self, shape: Option<TypeId>) -> Seed<'_, 'a> {
        let shape = shape.map_or(Shape::Custom, |id| self.shape(id));
        Seed { reader: self, shape, owner: "" }
    }

    fn shape(&self, id: TypeId) -> Shape<'a> {
        match self.set.get(id) {
            Type::Any(AnyKind::Raw | AnyKind::SchemaOr) => Shape::Free,
            ty => Shape::Typed(ty),
        }
    }

    fn note(&self, what: &str, key: &str) {
        let mut findings = self.findings.borrow_mut();
        if findings.len() < MAX_FINDINGS {
            let path = self.path.borrow();
            let dot = if path.is_empty() { "" } else { "." };
            findings.push(format!("{what} field {:?}", format!("{}{dot}{key}", dotted(&path, true))));
        }
    }

    fn fail<E: de::Error>(&self, text: String) -> E {
        self.fault.set(Some(text));
        E::custom("value of the wrong type")
    }

    fn inside<T>(&self, step: Step, read: impl FnOnce() -> T) -> T {
        self.path.borrow_mut().push(step);
        let value = read();
        self.path.borrow_mut().pop();
        value
    }
}

fn dotted(path: &[Step], with_indices: bool) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(i) if with_indices => text.push_str(&format!("[{i}]")),
            Step::Index(_) => {}
        }
    }
    text
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        match self.shape {
            Shape::Free | Shape::Typed(Type::Scalar(Scalar::Bool)) => Ok(Value::Bool(v)),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        let Shape::Typed(Type::Scalar(scalar)) = self.shape else { return self.free_number(v.into()) };
        match scalar {
            Scalar::Int32 | Scalar::IntOrString if i32::try_from(v).is_err() => {
                Err(self.mismatch(&format!("number {v}")))
            }
            Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString | Scalar::Double => Ok(v.into()),
            Scalar::Quantity => self.leaf(scalar::quantity(&v.to_string())),
            _ => Err(self.mismatch("number")),
        }
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        match i64::try_from(v) {
            Ok(v) => self.visit_i64(v),
            Err(_) => match self.shape {
                Shape::Typed(Type::Scalar(Scalar::Double)) => Ok(v.into()),
                Shape::Typed(Type::Scalar(Scalar::Quantity)) => self.leaf(scalar::quantity(&v.to_string())),
                Shape::Typed(Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString)) => {
                    Err(self.mismatch(&format!("number {v}")))
                }
                _ => self.free_number(v.into()),
            },
        }
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        match self.shape {
            Shape::Typed(Type::Scalar(Scalar::Quantity)) => self.leaf(scalar::quantity(&v.to_string())),
            Shape::Typed(Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString)) => {
                Err(self.mismatch(&format!("number {v:?}")))
            }
            Shape::Typed(Type::Scalar(Scalar::Double)) | Shape::Free => {
                Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
            }
            _ => Err(self.mismatch("number")),
        }
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.visit_string(v.to_owned())
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Value, E> {
        let Shape::Typed(Type::Scalar(scalar)) = self.shape else {
            return if matches!(self.shape, Shape::Free) {
                Ok(v.into())
            } else {
                Err(self.mismatch("string"))
            };
        };
        match scalar {
            Scalar::String | Scalar::IntOrString => Ok(v.into()),
            Scalar::Bytes => self.leaf(base64_go::normalize(&v)),
            Scalar::Time => self.leaf(scalar::time(&v)),
            Scalar::MicroTime => self.leaf(scalar::micro_time(&v)),
            Scalar::Quantity => self.leaf(scalar::quantity(&v)),
            Scalar::Bool | Scalar::Int32 | Scalar::Int64 | Scalar::Double => Err(self.mismatch("string")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let elem = match self.shape {
            Shape::Free => Shape::Free,
            Shape::Typed(Type::List { elem, .. }) => self.reader.shape(*elem),
            _ => return Err(self.mismatch("array")),
        };
        let mut items = Vec::new();
        loop {
            let seed = Seed { reader: self.reader, shape: elem, owner: self.owner };
            let step = Step::Index(items.len());
            match self.reader.inside(step, || seq.next_element_seed(seed))? {
                Some(Value::Null) => items.push(zero(elem)),
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        if !matches!(
            self.shape,
            Shape::Free | Shape::Custom | Shape::Typed(Type::Struct(_) | Type::Map { .. })
        ) {
            return Err(self.mismatch("object"));
        }
        let mut object = Map::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let Some((shape, owner)) = self.member(&key) else {
                self.reader.note("unknown", &key);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if object.contains_key(&key) {
                self.reader.note("duplicate", &key);
            }
            let seed = Seed { reader: self.reader, shape, owner };
            let value = self.reader.inside(Step::Key(key.clone()), || map.next_value_seed(seed))?;
            match (value, self.shape) {
                (Value::Null, Shape::Typed(Type::Map { .. })) => object.insert(key, zero(shape)),
                (Value::Null, Shape::Typed(_)) => object.remove(&key),
                (value, _) => object.insert(key, value),
            };
        }
        Ok(Value::Object(object))
    }
}

impl<'a> Seed<'_, 'a> {
    /// What a member of this object is; `None` = no such field.
    fn member(&self, key: &str) -> Option<(Shape<'a>, &'a str)> {
        match self.shape {
            Shape::Typed(Type::Struct(s)) => {
                s.field(key).map(|f| (self.reader.shape(f.ty), Struct::short_name(s)))
            }
            Shape::Typed(Type::Map { elem, .. }) => Some((self.reader.shape(*elem), self.owner)),
            Shape::Custom if key == "metadata" => {
                let meta = self.reader.set.named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
                Some((meta.map_or(Shape::Free, |id| self.reader.shape(id)), ""))
            }
            _ => Some((Shape::Free, self.owner)),
        }
    }

    fn leaf<E: de::Error>(&self, text: Result<String, String>) -> Result<Value, E> {
        text.map(Value::String).map_err(|e| self.reader.fail(e))
    }

    fn free_number<E: de::Error>(&self, v: Number) -> Result<Value, E> {
        if matches!(self.shape, Shape::Free) { Ok(Value::Number(v)) } else { Err(self.mismatch("number")) }
    }

    fn mismatch<E: de::Error>(&self, found: &str) -> E {
        let path = dotted(&self.reader.path.borrow(), false);
        let go = match self.shape {
            Shape::Typed(ty) => go_type(self.reader.set, ty),
            Shape::Custom | Shape::Free => "map[string]interface {}".to_owned(),
        };
        let place = if path.is_empty() {
            format!("value of type {go}")
        } else {
            format!("struct field {}.{path} of type {go}", self.owner)
        };
        self.reader.fail(format!("json: cannot unmarshal {found} into Go {place}"))
    }
}

/// Go's zero value of an element that was null.
fn zero(shape: Shape<'_>) -> Value {
    match shape {
        Shape::Typed(Type::Scalar(scalar)) => match scalar {
            Scalar::Bool => false.into(),
            Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => 0.into(),
            Scalar::Quantity => "0".into(),
            Scalar::String | Scalar::Bytes => "".into(),
            Scalar::Time | Scalar::MicroTime => Value::Null,
        },
        Shape::Typed(Type::Struct(_)) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

fn go_type(set: &SchemaSet, ty: &Type) -> String {
    match ty {
        Type::Any(_) => "runtime.RawExtension".to_owned(),
        Type::Scalar(scalar) => match scalar {
            Scalar::String => "string",
            Scalar::Bool => "bool",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Double => "float64",
            Scalar::Bytes => "[]uint8",
            Scalar::Time => "v1.Time",
            Scalar::MicroTime => "v1.MicroTime",
            Scalar::Quantity => "resource.Quantity",
            Scalar::IntOrString => "intstr.IntOrString",
        }
        .to_owned(),
        Type::Map { elem, .. } => format!("map[string]{}", go_type(set, set.get(*elem))),
        Type::List { elem, .. } => format!("[]{}", go_type(set, set.get(*elem))),
        Type::Struct(s) => {
            let mut parts = s.name.rsplit('.');
            let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{name}")
        }
    }
}
