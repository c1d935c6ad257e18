//! The schema as server-side apply sees it: everything is a leaf, a list or a map.

use serde_json::{Map, Value};

use super::set::{Step, key_text};
use crate::schema::{ListKind, Scalar, SchemaSet, Struct, Type, TypeId};

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ty {
    Known(TypeId),
    /// No schema: objects are maps, lists are one value.
    Deduced,
}

/// What may be merged and what is one value.
pub(super) enum Shape<'a> {
    /// One value, replaced as a whole: scalars, free-form values, atomic lists and maps.
    Leaf,
    List(ListShape<'a>),
    Map(MapShape<'a>),
}

#[derive(Clone, Copy)]
pub(super) struct ListShape<'a> {
    set: &'a SchemaSet,
    kind: &'a ListKind,
    pub(super) elem: Ty,
}

#[derive(Clone, Copy)]
pub(super) struct MapShape<'a> {
    fields: Option<&'a Struct>,
    elem: Ty,
}

/// Why an item has no key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyError {
    NotAnObject,
    Missing(String),
}

/// The type of a value in this schema; `example` decides where there is none.
pub(super) fn shape<'a>(set: &'a SchemaSet, ty: Ty, example: Option<&Value>) -> Shape<'a> {
    match ty {
        Ty::Deduced => match example {
            Some(Value::Object(_)) => Shape::Map(MapShape { fields: None, elem: Ty::Deduced }),
            _ => Shape::Leaf,
        },
        Ty::Known(id) => match set.get(id) {
            Type::Any(_) | Type::Scalar(_) | Type::Map { atomic: true, .. } => Shape::Leaf,
            Type::List { kind: ListKind::Atomic, .. } => Shape::Leaf,
            Type::List { elem, kind } => Shape::List(ListShape { set, kind, elem: Ty::Known(*elem) }),
            Type::Map { elem, .. } => Shape::Map(MapShape { fields: None, elem: Ty::Known(*elem) }),
            Type::Struct(s) if s.atomic => Shape::Leaf,
            Type::Struct(s) => Shape::Map(MapShape { fields: Some(s), elem: Ty::Deduced }),
        },
    }
}

impl MapShape<'_> {
    /// Type of a member.
    pub(super) fn member(&self, key: &str) -> Ty {
        self.fields.and_then(|s| s.field(key)).map_or(self.elem, |f| Ty::Known(f.ty))
    }

    /// Whether a member is a field of a struct, as opposed to an entry of a map.
    pub(super) fn declares(&self, key: &str) -> bool {
        self.fields.is_some_and(|s| s.field(key).is_some())
    }

    /// Whether only declared members are allowed.
    pub(super) fn is_closed(&self) -> bool {
        self.fields.is_some()
    }
}

impl ListShape<'_> {
    /// The step that leads to an item.
    pub(super) fn step(&self, index: usize, item: &Value) -> Result<Step, KeyError> {
        let keys = match self.kind {
            ListKind::Set => return Ok(Step::Value(item.to_string().into())),
            ListKind::Atomic => return Ok(Step::Index(index)),
            ListKind::Map(keys) => keys,
        };
        let Value::Object(object) = item else { return Err(KeyError::NotAnObject) };
        let mut key = Map::new();
        for name in keys.iter() {
            let value = match object.get(&**name) {
                Some(value) if !value.is_null() => value.clone(),
                _ => self.absent(name)?,
            };
            key.insert(name.to_string(), value);
        }
        Ok(Step::Key(key_text(key)))
    }

    /// What an absent part of a key stands for: its default, or the empty string where it is optional.
    fn absent(&self, name: &str) -> Result<Value, KeyError> {
        let missing = || KeyError::Missing(name.to_owned());
        let Ty::Known(elem) = self.elem else { return Err(missing()) };
        let field = self.set.as_struct(elem).and_then(|s| s.field(name)).ok_or_else(missing)?;
        match (field.key_default, self.set.get(field.ty)) {
            (Some(default), _) => Ok(default.into()),
            (None, Type::Scalar(Scalar::String)) if !field.required => Ok("".into()),
            _ => Err(missing()),
        }
    }

    /// Items with their steps; an item without a key goes by its place, which no other list knows.
    pub(super) fn steps<'v>(&self, items: &'v [Value]) -> Vec<(Step, &'v Value)> {
        items
            .iter()
            .enumerate()
            .map(|(i, item)| (self.step(i, item).unwrap_or(Step::Index(i)), item))
            .collect()
    }
}

/// The items of a list value; null and absent are empty.
pub(super) fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The members of an object; `None` for null, absent and empty ones.
pub(super) fn members(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|map| !map.is_empty())
}
