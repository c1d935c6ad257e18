//! Protobuf request bodies of built-in kinds: `k8s\0`, `runtime.Unknown`, and in it the object.
//!
//! Driven by the type table (what a field is) and the wire table (its number). Unknown numbers are skipped, as
//! upstream does.

use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::wire::{Entry, WireTable};
use super::{base64_go, scalar};
use crate::schema::{AnyKind, Scalar, SchemaSet, Type, TypeId};

const MAGIC: &[u8] = b"k8s\0";
/// As serde_json's limit for JSON.
const MAX_DEPTH: usize = 128;

/// The bytes are not what they claim to be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: wrong wireType for field {0}")]
    WrongType(String),
    #[error("proto: field {0} contains invalid UTF-8")]
    Utf8(String),
    #[error("invalid JSON in field {0}")]
    Json(String),
    #[error("{0}")]
    Leaf(String),
    #[error("proto: message is nested too deeply")]
    TooDeep,
}

/// `runtime.Unknown`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
        let mut outer = Cursor(body.strip_prefix(MAGIC).ok_or(WireError::NoMagic)?);
        while let Some((number, item)) = outer.next()? {
            match (number, item) {
                (1, Item::Bytes(type_meta)) => {
                    let mut inner = Cursor(type_meta);
                    while let Some((number, item)) = inner.next()? {
                        match (number, item) {
                            (1, Item::Bytes(text)) => envelope.api_version = string(text, "apiVersion")?,
                            (2, Item::Bytes(text)) => envelope.kind = string(text, "kind")?,
                            _ => {}
                        }
                    }
                }
                (2, Item::Bytes(raw)) => envelope.raw = raw,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// A field as it stands on the wire.
#[derive(Clone, Copy, Debug)]
enum Item<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn next(&mut self) -> Result<Option<(u32, Item<'a>)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError::Overflow)?;
        let item = match tag & 7 {
            0 => Item::Varint(self.varint()?),
            1 => Item::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| WireError::Overflow)?;
                Item::Bytes(self.take(len)?)
            }
            5 => Item::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(WireError::WireType(u8::try_from(other).unwrap_or(u8::MAX))),
        };
        Ok(Some((number, item)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.take(N)?.try_into().map_err(|_| WireError::Truncated)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Overflow)
    }
}

/// Decodes the message of a built-in type.
pub(super) fn decode(set: &SchemaSet, id: TypeId, raw: &[u8]) -> Result<Value, WireError> {
    let decoder = Decoder { set, wire: WireTable::builtin() };
    Ok(decoder.message(set.get(id), raw, 0)?.unwrap_or_else(|| Value::Object(Map::new())))
}

struct Decoder<'a> {
    set: &'a SchemaSet,
    wire: &'static WireTable,
}

impl Decoder<'_> {
    /// A message that stands for one JSON value; `None` for the zero time.
    fn message(&self, ty: &Type, raw: &[u8], depth: usize) -> Result<Option<Value>, WireError> {
        if depth > MAX_DEPTH {
            return Err(WireError::TooDeep);
        }
        match ty {
            Type::Struct(s) => {
                let mut object = Map::new();
                self.fields(&mut object, ty, &s.name, raw, depth)?;
                Ok(Some(Value::Object(object)))
            }
            Type::Scalar(Scalar::Time) => Ok(time(raw)?.map(|t| scalar::seconds(t).into())),
            Type::Scalar(Scalar::MicroTime) => Ok(time(raw)?.map(|t| scalar::micros(t).into())),
            Type::Scalar(Scalar::Quantity) => {
                let mut text = String::from("0");
                let mut cursor = Cursor(raw);
                while let Some((number, item)) = cursor.next()? {
                    if let (1, Item::Bytes(bytes)) = (number, item) {
                        text = string(bytes, "quantity")?;
                    }
                }
                scalar::quantity(&text).map(|q| Some(q.into())).map_err(WireError::Leaf)
            }
            Type::Scalar(Scalar::IntOrString) => int_or_string(raw).map(Some),
            Type::Any(AnyKind::Raw) => {
                let mut cursor = Cursor(raw);
                let mut value = None;
                while let Some((number, item)) = cursor.next()? {
                    if let (1, Item::Bytes(bytes)) = (number, item) {
                        let json = serde_json::from_slice(bytes);
                        value = Some(json.map_err(|_| WireError::Json("raw".to_owned()))?);
                    }
                }
                Ok(value)
            }
            Type::Any(AnyKind::SchemaOr) => self.schema_or(raw, depth),
            // A list as the value of a map: message { repeated 1 }.
            Type::List { elem, .. } => {
                let mut items = Vec::new();
                let mut cursor = Cursor(raw);
                while let Some((number, item)) = cursor.next()? {
                    if number == 1 {
                        self.push(&mut items, self.set.get(*elem), item, "item", depth)?;
                    }
                }
                Ok(Some(Value::Array(items)))
            }
            Type::Map { .. } | Type::Scalar(_) => Err(WireError::WrongType("message".to_owned())),
        }
    }

    fn fields(
        &self,
        object: &mut Map<String, Value>,
        owner: &Type,
        wire_type: &str,
        raw: &[u8],
        depth: usize,
    ) -> Result<(), WireError> {
        let (Type::Struct(owner_struct), Some(fields)) = (owner, self.wire.fields(wire_type)) else {
            return Ok(());
        };
        let mut cursor = Cursor(raw);
        while let Some((number, item)) = cursor.next()? {
            let Some((_, entry)) = fields.iter().find(|(n, _)| *n == number) else { continue };
            match *entry {
                Entry::Inline(embedded) => {
                    let Item::Bytes(inner) = item else { continue };
                    self.fields(object, owner, self.wire.name(embedded), inner, depth + 1)?;
                }
                Entry::Named { name, keep_zero } => {
                    let name = self.wire.name(name);
                    let Some(field) = owner_struct.field(name) else { continue };
                    self.field(object, name, self.set.get(field.ty), item, keep_zero, depth)?;
                }
            }
        }
        Ok(())
    }

    fn field(
        &self,
        object: &mut Map<String, Value>,
        name: &str,
        ty: &Type,
        item: Item<'_>,
        keep_zero: bool,
        depth: usize,
    ) -> Result<(), WireError> {
        match ty {
            Type::List { elem, .. } => {
                let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = list else { return Ok(()) };
                self.push(items, self.set.get(*elem), item, name, depth)
            }
            Type::Map { elem, .. } => {
                let Item::Bytes(raw) = item else { return Err(WireError::WrongType(name.to_owned())) };
                let (key, value) = self.map_entry(self.set.get(*elem), raw, name, depth)?;
                let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
                Ok(())
            }
            _ => {
                let value = match (ty, item) {
                    (Type::Scalar(s), item) if is_plain(*s) => {
                        let (value, zero) = plain(*s, item, name)?;
                        (!zero || keep_zero).then_some(value)
                    }
                    (_, Item::Bytes(raw)) => self.message(ty, raw, depth + 1)?,
                    _ => return Err(WireError::WrongType(name.to_owned())),
                };
                if let Some(value) = value {
                    object.insert(name.to_owned(), value);
                }
                Ok(())
            }
        }
    }

    /// One element, or several packed ones.
    fn push(
        &self,
        items: &mut Vec<Value>,
        ty: &Type,
        item: Item<'_>,
        name: &str,
        depth: usize,
    ) -> Result<(), WireError> {
        match (ty, item) {
            (Type::Scalar(s @ (Scalar::Int32 | Scalar::Int64 | Scalar::Bool)), Item::Bytes(packed)) => {
                let mut cursor = Cursor(packed);
                while !cursor.0.is_empty() {
                    items.push(plain(*s, Item::Varint(cursor.varint()?), name)?.0);
                }
            }
            (Type::Scalar(s), item) if is_plain(*s) => items.push(plain(*s, item, name)?.0),
            (_, Item::Bytes(raw)) => items.push(self.message(ty, raw, depth + 1)?.unwrap_or(Value::Null)),
            _ => return Err(WireError::WrongType(name.to_owned())),
        }
        Ok(())
    }

    fn map_entry(
        &self,
        elem: &Type,
        raw: &[u8],
        name: &str,
        depth: usize,
    ) -> Result<(String, Value), WireError> {
        let (mut key, mut value) = (String::new(), None);
        let mut cursor = Cursor(raw);
        while let Some((number, item)) = cursor.next()? {
            match (number, item) {
                (1, Item::Bytes(text)) => key = string(text, name)?,
                (2, item) => {
                    value = match (elem, item) {
                        (Type::Scalar(s), item) if is_plain(*s) => Some(plain(*s, item, name)?.0),
                        (_, Item::Bytes(raw)) => self.message(elem, raw, depth + 1)?,
                        _ => return Err(WireError::WrongType(name.to_owned())),
                    };
                }
                _ => {}
            }
        }
        // A missing value is the zero value.
        let value = match (value, elem) {
            (Some(value), _) => value,
            (None, Type::Scalar(s)) if is_plain(*s) => plain_zero(*s),
            (None, elem) => self.message(elem, &[], depth + 1)?.unwrap_or(Value::Null),
        };
        Ok((key, value))
    }

    /// `JSONSchemaPropsOr{Array,Bool,StringArray}`: the three differ in numbers, but not ambiguously.
    fn schema_or(&self, raw: &[u8], depth: usize) -> Result<Option<Value>, WireError> {
        let props =
            self.set.named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
        let props = props.map_or(&Type::Any(AnyKind::Raw), |id| self.set.get(id));
        let mut value = None;
        let mut cursor = Cursor(raw);
        while let Some((number, item)) = cursor.next()? {
            match (number, item) {
                (1, Item::Varint(allows)) => {
                    value.get_or_insert(Value::Bool(allows != 0));
                }
                (1 | 2, Item::Bytes(schema)) => value = self.message(props, schema, depth + 1)?,
                _ => {}
            }
        }
        Ok(value)
    }
}

fn is_plain(scalar: Scalar) -> bool {
    matches!(
        scalar,
        Scalar::String | Scalar::Bool | Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::Bytes
    )
}

fn plain_zero(scalar: Scalar) -> Value {
    match scalar {
        Scalar::Bool => false.into(),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double => 0.into(),
        _ => "".into(),
    }
}

/// The value, and whether it is the type's zero.
fn plain(scalar: Scalar, item: Item<'_>, name: &str) -> Result<(Value, bool), WireError> {
    match (scalar, item) {
        (Scalar::String, Item::Bytes(text)) => Ok((string(text, name)?.into(), text.is_empty())),
        (Scalar::Bytes, Item::Bytes(bytes)) => Ok((base64_go::encode(bytes).into(), bytes.is_empty())),
        (Scalar::Bool, Item::Varint(v)) => Ok(((v != 0).into(), v == 0)),
        // Negative numbers of 32 bits are sent sign-extended to 64.
        (Scalar::Int32 | Scalar::Int64, Item::Varint(v)) => Ok((v.cast_signed().into(), v == 0)),
        (Scalar::Double, Item::Fixed64(bits)) => {
            let v = f64::from_bits(bits);
            Ok((Number::from_f64(v).map_or(Value::Null, Value::Number), v == 0.0))
        }
        (Scalar::Double, Item::Fixed32(bits)) => {
            let v = f64::from(f32::from_bits(bits));
            Ok((Number::from_f64(v).map_or(Value::Null, Value::Number), v == 0.0))
        }
        _ => Err(WireError::WrongType(name.to_owned())),
    }
}

fn string(bytes: &[u8], name: &str) -> Result<String, WireError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Utf8(name.to_owned()))
}

/// {1 seconds, 2 nanos}; an empty message is Go's zero time.
fn time(raw: &[u8]) -> Result<Option<Timestamp>, WireError> {
    if raw.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut cursor = Cursor(raw);
    while let Some((number, item)) = cursor.next()? {
        match (number, item) {
            (1, Item::Varint(v)) => seconds = v.cast_signed(),
            (2, Item::Varint(v)) => nanos = i32::try_from(v.cast_signed()).unwrap_or(0),
            _ => {}
        }
    }
    Timestamp::new(seconds, nanos).map(Some).map_err(|_| WireError::Leaf("time is out of range".to_owned()))
}

/// {1 type, 2 int, 3 string}; type 1 is string.
fn int_or_string(raw: &[u8]) -> Result<Value, WireError> {
    let (mut is_string, mut int, mut text) = (false, 0i64, String::new());
    let mut cursor = Cursor(raw);
    while let Some((number, item)) = cursor.next()? {
        match (number, item) {
            (1, Item::Varint(v)) => is_string = v == 1,
            (2, Item::Varint(v)) => int = v.cast_signed(),
            (3, Item::Bytes(v)) => text = string(v, "strVal")?,
            _ => {}
        }
    }
    Ok(if is_string { text.into() } else { int.into() })
}
