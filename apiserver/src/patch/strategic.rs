//! Strategic merge patch: lists of objects are merged by the key that the schema names, and directives in the
//! patch (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`) say what merging cannot.
//!
//! Follows upstream's `strategicpatch` step by step, including its order of elements; only among elements with
//! equal merge keys it chooses with more care. Where there is no schema (free-form values, maps), objects merge and lists are replaced.

use serde_json::{Map, Value};

use super::{PatchError, go_text};
use crate::schema::{ListKind, PatchRule, SchemaSet, Type, TypeId};

type Object = Map<String, Value>;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// A patch that strategic merge cannot take, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// The patch, or what it patches, is no object.
    #[error("invalid JSON document")]
    NoObject,
    /// `$retainKeys` is no list, or the patch sets a field that it does not name.
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    /// `$setElementOrder/…` is no list.
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    /// The list and its order do not go together.
    #[error("The order in patch list:\n{list}\n doesn't match $setElementOrder list:\n{order}\n")]
    OrderMismatch {
        /// The list of the patch.
        list: String,
        /// The wanted order.
        order: String,
    },
    /// A directive that does not exist.
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective {
        /// Value of `$patch`.
        directive: String,
        /// The object it stands in.
        map: String,
    },
    /// An element without the field that identifies it.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The element.
        map: String,
        /// The missing field.
        key: String,
    },
    /// Lists in lists cannot be merged.
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// `$patch: merge` on an element.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirective,
    /// Objects and scalars in one list.
    #[error("list element types are not identical")]
    MixedList,
    /// The schema asks for merging objects but names no key.
    #[error("cannot merge lists without merge key")]
    NoKeyDeclared,
}

impl From<StrategicError> for PatchError {
    fn from(error: StrategicError) -> Self {
        match error {
            StrategicError::ListOfLists | StrategicError::NoMergeKey { .. } => {
                Self::Rejected(error.to_string())
            }
            _ => Self::BadRequest(error.to_string()),
        }
    }
}

/// Merges `patch` into `original`, an object of type `id`.
pub fn strategic_merge(
    set: &SchemaSet,
    id: TypeId,
    original: Value,
    patch: Value,
) -> Result<Value, StrategicError> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => {
            merge_map(Scope { set, ty: Some(id) }, original, patch).map(Value::Object)
        }
        _ => Err(StrategicError::NoObject),
    }
}

/// Where in the schema we are; `ty` is `None` below free-form values.
#[derive(Clone, Copy)]
struct Scope<'a> {
    set: &'a SchemaSet,
    ty: Option<TypeId>,
}

static REPLACE: PatchRule = PatchRule { merge: false, retain_keys: false, merge_key: None };

impl<'a> Scope<'a> {
    /// Scope and rule of a member.
    fn member(self, key: &str) -> (Scope<'a>, &'a PatchRule) {
        let field = self.ty.and_then(|id| self.set.as_struct(id)).and_then(|s| s.field(key));
        match field {
            Some(field) => (Scope { ty: Some(field.ty), ..self }, &field.patch),
            None => {
                let ty = self.ty.filter(|id| matches!(self.set.get(*id), Type::Map { .. }));
                (Scope { ty: ty.and_then(|id| self.set.descend(id, key)), ..self }, &REPLACE)
            }
        }
    }

    fn element(self) -> Scope<'a> {
        Scope { ty: self.ty.and_then(|id| self.set.descend(id, "")), ..self }
    }
}

fn merge_map(scope: Scope<'_>, mut original: Object, mut patch: Object) -> Result<Object, StrategicError> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(d)) if d == "delete" => return Ok(Object::new()),
        Some(Value::String(d)) if d == "replace" => {
            patch.remove(PATCH);
            return Ok(patch);
        }
        Some(other) => return Err(unknown_directive(other, &patch)),
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(scope, &mut original, &mut patch)?;

    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let (inner, rule) = scope.member(&key);
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                Some(Value::Object(merge_map(inner, old, new)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) if rule.merge => {
                Some(Value::Array(merge_list(inner, rule, old, new)?))
            }
            // A replaced list is taken as it is; so is a scalar.
            (Some(Value::Array(_)), new @ Value::Array(_)) => Some(new),
            (_, new) => without_directives(new),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, map: &Object) -> StrategicError {
    StrategicError::UnknownDirective { directive: go_text::print(directive), map: print(map) }
}

fn print(map: &Object) -> String {
    go_text::print(&Value::Object(map.clone()))
}

/// `$retainKeys`: fields it does not name go away first.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), StrategicError> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = list else { return Err(StrategicError::RetainKeys) };
    let names: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    let stray = patch.iter().any(|(key, value)| {
        !value.is_null()
            && !key.starts_with(DELETE_PRIMITIVES)
            && !key.starts_with(ORDER)
            && !names.contains(&key.as_str())
    });
    if stray {
        return Err(StrategicError::RetainKeys);
    }
    original.retain(|key, _| names.contains(&key.as_str()));
    Ok(())
}

/// `$setElementOrder/x` together with the list `x` of the patch, which is taken out.
fn merge_ordered_lists(
    scope: Scope<'_>,
    original: &mut Object,
    patch: &mut Object,
) -> Result<(), StrategicError> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(StrategicError::SetElementOrder);
        };
        let name = directive.get(ORDER.len()..).unwrap_or_default();
        let (inner, rule) = scope.member(name);
        let key = rule.merge_key.as_deref();
        let old = match original.get(name) {
            None => None,
            Some(Value::Array(old)) => Some(old.clone()),
            Some(_) => return Err(StrategicError::SetElementOrder),
        };
        let new = match patch.remove(name) {
            None => None,
            Some(Value::Array(new)) => Some(new),
            // An explicit null deletes the list; the order has nothing to say then.
            Some(Value::Null) => {
                original.remove(name);
                continue;
            }
            Some(_) => return Err(StrategicError::SetElementOrder),
        };
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => {
                check_order(&new, &order, key)?;
                new.into_iter().filter_map(without_directives).collect()
            }
            (Some(old), Some(new)) => {
                check_order(&new, &order, key)?;
                if rule.merge { merge_list(inner, rule, old, new)? } else { new }
            }
        };
        let list = arrange(merged, &order, &server_order, key);
        original.insert(name.to_owned(), Value::Array(list));
    }
    Ok(())
}

/// Elements of the patch that are not deletions must appear in `$setElementOrder` in the same order.
fn check_order(list: &[Value], order: &[Value], key: Option<&str>) -> Result<(), StrategicError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    let kept = list.iter().filter(|item| directive(item) != Some("delete"));
    for item in kept {
        if !wanted.any(|w| same(w, item, key)) {
            return Err(StrategicError::OrderMismatch {
                list: go_text::print(&Value::Array(list.to_vec())),
                order: go_text::print(&Value::Array(order.to_vec())),
            });
        }
    }
    Ok(())
}

fn directive(item: &Value) -> Option<&str> {
    item.get(PATCH).and_then(Value::as_str)
}

/// Whether two elements are the same one: equal merge keys, or equal scalars.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match (key, a, b) {
        (Some(key), Value::Object(a), Value::Object(b)) => a.contains_key(key) && a.get(key) == b.get(key),
        _ => a == b,
    }
}

fn position(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| same(other, item, key))
}

fn merge_list(
    scope: Scope<'_>,
    rule: &PatchRule,
    old: Vec<Value>,
    new: Vec<Value>,
) -> Result<Vec<Value>, StrategicError> {
    let (mut objects, mut scalars) = (false, false);
    for item in old.iter().chain(&new) {
        match item {
            Value::Object(_) => objects = true,
            Value::Array(_) => return Err(StrategicError::ListOfLists),
            _ => scalars = true,
        }
    }
    match (objects, scalars) {
        (true, true) => Err(StrategicError::MixedList),
        (true, false) => {
            let key = rule.merge_key.as_deref().ok_or(StrategicError::NoKeyDeclared)?;
            merge_objects(scope, key, old, new)
        }
        (false, _) => {
            let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
            for item in old.iter().chain(&new) {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            Ok(arrange(merged, &new, &old, None))
        }
    }
}

fn merge_objects(
    scope: Scope<'_>,
    key: &str,
    mut old: Vec<Value>,
    new: Vec<Value>,
) -> Result<Vec<Value>, StrategicError> {
    let mut replace = false;
    let mut plain: Vec<Object> = Vec::with_capacity(new.len());
    for item in new {
        let Value::Object(item) = item else { return Err(StrategicError::MixedList) };
        match item.get(PATCH) {
            None => plain.push(item),
            Some(Value::String(d)) if d == "delete" => {
                let victim = item.get(key).ok_or_else(|| no_key(&item, key))?;
                old.retain(|other| other.get(key) != Some(victim));
            }
            Some(Value::String(d)) if d == "replace" => replace = true,
            Some(Value::String(d)) if d == "merge" => return Err(StrategicError::MergeDirective),
            Some(other) => return Err(unknown_directive(other, &item)),
        }
    }
    if replace {
        return Ok(plain.into_iter().map(Value::Object).filter_map(without_directives).collect());
    }
    let server_order = old.clone();
    let mut patch_order = Vec::with_capacity(plain.len());
    for item in plain {
        let value = item.get(key).ok_or_else(|| no_key(&item, key))?;
        patch_order.push(Value::Object(Object::from_iter([(key.to_owned(), value.clone())])));
        let candidates = || old.iter().enumerate().filter(|(_, other)| other.get(key) == Some(value));
        let at = candidates()
            .find(|(_, other)| list_keys_agree(scope, other, &item))
            .or_else(|| candidates().next());
        match at.map(|(at, _)| at).and_then(|at| old.get_mut(at)) {
            Some(slot) => {
                let Value::Object(existing) = slot.take() else { continue };
                *slot = Value::Object(merge_map(scope.element(), existing, item)?);
            }
            None => old.extend(without_directives(Value::Object(item))),
        }
    }
    Ok(arrange(old, &patch_order, &server_order, Some(key)))
}

/// Two ports 80, one TCP and one UDP, share a merge key. Upstream always takes the first; we look at the keys that
/// server-side apply goes by as well, so that a patch of the second does not turn the first into its double.
fn list_keys_agree(scope: Scope<'_>, existing: &Value, item: &Object) -> bool {
    let Some(Type::List { elem, kind: ListKind::Map(keys) }) = scope.ty.map(|id| scope.set.get(id)) else {
        return true;
    };
    let Some(element) = scope.set.as_struct(*elem) else { return true };
    keys.iter().all(|key| {
        let default = element.field(key).and_then(|f| f.key_default);
        match (item.get(&**key), existing.get(&**key)) {
            (None, _) => true,
            (Some(new), Some(old)) => new == old,
            (Some(new), None) => new.as_str() == default,
        }
    })
}

fn no_key(item: &Object, key: &str) -> StrategicError {
    StrategicError::NoMergeKey { map: print(item), key: key.to_owned() }
}

/// `$deleteFromPrimitiveList/x`.
fn delete_primitives(original: &mut Object, list: &str, victims: &Value) -> Result<(), StrategicError> {
    let Value::Array(victims) = victims else { return Err(StrategicError::NoObject) };
    if let Some(Value::Array(items)) = original.get_mut(list) {
        items.retain(|item| !victims.contains(item));
    }
    Ok(())
}

/// Elements that the patch names stand in the patch's order; the others keep the server's; where the two meet,
/// the server's order decides, and the patch's elements come first if it has nothing to say.
fn arrange(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(patch_order, item, key).is_some());
    named.sort_by_key(|item| position(patch_order, item, key));
    others.sort_by_key(|item| position(server_order, item, key).unwrap_or(usize::MAX));
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let next = match (others.peek(), named.peek()) {
            (None, None) => return arranged,
            (Some(_), None) => others.next(),
            (None, Some(_)) => named.next(),
            (Some(left), Some(right)) => {
                let (l, r) = (position(server_order, left, key), position(server_order, right, key));
                if l.is_some() && r.is_some() && l < r { others.next() } else { named.next() }
            }
        };
        arranged.extend(next);
    }
}

/// A value that is new to the object: directives mean nothing there, nulls say "absent".
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(mut map) => {
            if map.get(PATCH).and_then(Value::as_str) == Some("delete") {
                return None;
            }
            map.retain(|key, value| {
                !(value.is_null()
                    || key == PATCH
                    || key == RETAIN_KEYS
                    || key.starts_with(ORDER)
                    || key.starts_with(DELETE_PRIMITIVES))
            });
            let clean = map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(clean.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}
