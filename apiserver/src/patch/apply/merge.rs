//! Merging an applied configuration into the live object, and taking fields out again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::{FieldSet, Step};
use super::view::{self, ListShape, Shape, Ty, items, members};
use crate::schema::SchemaSet;

/// `config` over `live`: what the configuration names wins, all else stays.
pub(super) fn merge(set: &SchemaSet, ty: Ty, live: &Value, config: &Value) -> Value {
    over(set, ty, Some(live), Some(config)).unwrap_or(Value::Null)
}

fn over(set: &SchemaSet, ty: Ty, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let right_or_left = || config.or(live).cloned();
    let example = if config.is_some_and(|v| !v.is_null()) { config } else { live };
    match view::shape(set, ty, example) {
        Shape::Leaf => right_or_left(),
        Shape::List(list) => {
            let (left, right) = (items(live), items(config));
            if left.is_empty() && right.is_empty() {
                return right_or_left();
            }
            Some(Value::Array(merge_items(set, &list, left, right)))
        }
        Shape::Map(map) => {
            let (left, right) = (members(live), members(config));
            if left.is_none() && right.is_none() {
                return right_or_left();
            }
            let mut merged = Map::new();
            for (key, value) in left.into_iter().flatten() {
                let other = right.and_then(|m| m.get(key));
                merged.extend(over(set, map.member(key), Some(value), other).map(|v| (key.clone(), v)));
            }
            for (key, value) in right.into_iter().flatten() {
                if !left.is_some_and(|m| m.contains_key(key)) {
                    merged.extend(over(set, map.member(key), None, Some(value)).map(|v| (key.clone(), v)));
                }
            }
            Some(Value::Object(merged))
        }
    }
}

/// Shared items stand in the configuration's order; items of the live list alone keep their place between them.
fn merge_items(set: &SchemaSet, list: &ListShape<'_>, left: &[Value], right: &[Value]) -> Vec<Value> {
    let (left, right) = (list.steps(left), list.steps(right));
    // A step that the live list has twice is not merged with, only replaced.
    let mut live: BTreeMap<&Step, Option<&Value>> = BTreeMap::new();
    for (step, item) in &left {
        live.entry(step).and_modify(|first| *first = None).or_insert(Some(item));
    }
    let named: BTreeMap<&Step, &Value> = right.iter().map(|(step, item)| (step, *item)).collect();
    let mut shared = right.iter().map(|(step, _)| step).filter(|step| live.contains_key(step));
    let mut next_shared = shared.next();
    let mut done: BTreeSet<&Step> = BTreeSet::new();
    let mut merged = Vec::with_capacity(left.len().max(right.len()));
    let item = |left: Option<&Value>, right: Option<&Value>| over(set, list.elem, left, right);

    let (mut l, mut r) = (0, 0);
    loop {
        let (from_left, from_right) = (left.get(l), right.get(r));
        match (from_left, from_right) {
            (None, None) => return merged,
            (Some((step, _)), Some((other, value))) if step == other => {
                done.insert(step);
                merged.extend(item(live.get(step).copied().flatten(), Some(value)));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            // Shared, but not the one whose turn it is.
            (Some((step, _)), Some(_))
                if named.contains_key(step) && next_shared.is_some_and(|next| next != step) =>
            {
                l += 1;
                continue;
            }
            _ => {}
        }
        if let Some((step, value)) = from_left {
            if !named.contains_key(step) {
                merged.extend(item(Some(value), None));
                l += 1;
                continue;
            }
            if done.contains(step) {
                l += 1;
            }
        }
        if let Some((step, value)) = from_right {
            done.insert(step);
            merged.extend(item(live.get(step).copied().flatten(), Some(value)));
            r += 1;
            if next_shared == Some(step) {
                next_shared = shared.next();
            }
        }
    }
}

/// The value without these fields. A list or map that loses everything becomes null.
pub(super) fn remove(set: &SchemaSet, ty: Ty, value: &Value, fields: &FieldSet) -> Value {
    match view::shape(set, ty, Some(value)) {
        // Something below one value was to go: the value goes, unless it is a scalar.
        Shape::Leaf if value.is_array() || value.is_object() => Value::Null,
        Shape::Leaf => value.clone(),
        Shape::List(list) => {
            let kept = list.steps(items(Some(value))).into_iter().filter(|(step, _)| !fields.contains(step));
            let kept: Vec<Value> = kept
                .map(|(step, item)| match fields.below(&step) {
                    Some(below) => remove(set, list.elem, item, below),
                    None => item.clone(),
                })
                .collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        Shape::Map(map) => {
            let mut kept = Map::new();
            for (key, inner) in members(Some(value)).into_iter().flatten() {
                let step = Step::Field(key.as_str().into());
                if fields.contains(&step) {
                    continue;
                }
                let inner = match fields.below(&step) {
                    Some(below) => remove(set, map.member(key), inner, below),
                    None => inner.clone(),
                };
                kept.insert(key.clone(), inner);
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
    }
}

/// Adds the fields of structs on the way to other fields: owning `a.b` means owning `a`, if `a` is a field.
pub(super) fn with_parents(set: &SchemaSet, ty: Ty, example: Option<&Value>, fields: &FieldSet) -> FieldSet {
    let shape = view::shape(set, ty, example);
    let mut all: BTreeSet<Step> = fields.members().cloned().collect();
    let mut below = Vec::new();
    for (step, inner) in fields.children() {
        let (inner_ty, inner_example) = match (&shape, step) {
            (Shape::Map(map), Step::Field(name)) => {
                if map.declares(name) {
                    all.insert(step.clone());
                }
                (map.member(name), example.and_then(|v| v.get(&**name)))
            }
            (Shape::List(list), _) => (list.elem, None),
            _ => (Ty::Deduced, None),
        };
        below.push((step.clone(), with_parents(set, inner_ty, inner_example, inner)));
    }
    FieldSet::of(all, below)
}
