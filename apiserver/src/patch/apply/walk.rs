//! Which fields a value has, and which differ between two.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::{FieldSet, Step};
use super::view::{self, ListShape, Shape, Ty, items, members};
use crate::schema::SchemaSet;

/// Every field of a value that can have an owner.
pub(super) fn to_field_set(set: &SchemaSet, ty: Ty, value: &Value) -> FieldSet {
    let mut fields = FieldSet::default();
    add(set, ty, value, &mut Vec::new(), &mut fields);
    fields
}

fn add(set: &SchemaSet, ty: Ty, value: &Value, path: &mut Vec<Step>, fields: &mut FieldSet) {
    match view::shape(set, ty, Some(value)) {
        Shape::Leaf => fields.insert(path),
        Shape::List(list) => {
            for (step, found) in grouped(&list, items(Some(value))) {
                path.push(step);
                if let [single] = *found {
                    add(set, list.elem, single, path, fields);
                }
                fields.insert(path);
                path.pop();
            }
        }
        Shape::Map(map) => {
            for (key, inner) in members(Some(value)).into_iter().flatten() {
                path.push(Step::Field(key.as_str().into()));
                add(set, map.member(key), inner, path, fields);
                let empty = inner.is_null() || inner.as_object().is_some_and(serde_json::Map::is_empty);
                if empty || !map.declares(key) {
                    fields.insert(path);
                }
                path.pop();
            }
        }
    }
}

/// Items by step; more than one under a step means that the list, though it should not, has duplicates.
fn grouped<'v>(list: &ListShape<'_>, all: &'v [Value]) -> BTreeMap<Step, Vec<&'v Value>> {
    let mut groups: BTreeMap<Step, Vec<&Value>> = BTreeMap::new();
    for (step, item) in list.steps(all) {
        groups.entry(step).or_default().push(item);
    }
    groups
}

/// What became of the fields of an object.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Without these fields and what is below them.
    pub(super) fn without(&self, ignored: &FieldSet) -> Comparison {
        Comparison {
            added: self.added.without(ignored),
            modified: self.modified.without(ignored),
            removed: self.removed.without(ignored),
        }
    }
}

/// Compares two values of one type.
pub(super) fn compare(set: &SchemaSet, ty: Ty, old: &Value, new: &Value) -> Comparison {
    let mut walk = Comparing { set, path: Vec::new(), found: Comparison::default() };
    walk.visit(ty, Some(old), Some(new));
    walk.found
}

struct Comparing<'a> {
    set: &'a SchemaSet,
    path: Vec<Step>,
    found: Comparison,
}

impl Comparing<'_> {
    fn visit(&mut self, ty: Ty, old: Option<&Value>, new: Option<&Value>) {
        let present = |v: Option<&Value>| v.is_some_and(|v| !v.is_null());
        let example = if present(new) { new } else { old };
        match view::shape(self.set, ty, example) {
            Shape::Leaf => return self.leaf(old, new),
            // Of two empty ones, one may be null: a difference, but not one of members.
            Shape::List(list) => {
                if items(old).is_empty() && items(new).is_empty() {
                    return self.leaf(old, new);
                }
                self.list(&list, items(old), items(new));
            }
            Shape::Map(map) => {
                let (old_map, new_map) = (members(old), members(new));
                if old_map.is_none() && new_map.is_none() {
                    return self.leaf(old, new);
                }
                let get = |map: Option<&'_ serde_json::Map<String, Value>>, key: &str| {
                    map.and_then(|m| m.get(key)).cloned()
                };
                for key in new_map.into_iter().flatten().map(|(k, _)| k) {
                    let (before, after) = (get(old_map, key), get(new_map, key));
                    self.below(
                        Step::Field(key.as_str().into()),
                        map.member(key),
                        before.as_ref(),
                        after.as_ref(),
                    );
                }
                for (key, before) in old_map.into_iter().flatten() {
                    if !new_map.is_some_and(|m| m.contains_key(key)) {
                        self.below(Step::Field(key.as_str().into()), map.member(key), Some(before), None);
                    }
                }
            }
        }
        match (old, new) {
            (None, _) => self.found.added.insert(&self.path),
            (_, None) => self.found.removed.insert(&self.path),
            _ => {}
        }
    }

    fn below(&mut self, step: Step, ty: Ty, old: Option<&Value>, new: Option<&Value>) {
        self.path.push(step);
        self.visit(ty, old, new);
        self.path.pop();
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => self.found.added.insert(&self.path),
            (_, None) => self.found.removed.insert(&self.path),
            (Some(old), Some(new)) if old != new => self.found.modified.insert(&self.path),
            _ => {}
        }
    }

    fn list(&mut self, list: &ListShape<'_>, old: &[Value], new: &[Value]) {
        let (old, new) = (grouped(list, old), grouped(list, new));
        for step in old.keys().chain(new.keys().filter(|step| !old.contains_key(step))) {
            let get = |groups: &BTreeMap<Step, Vec<_>>| groups.get(step).cloned().unwrap_or_default();
            let (before, after): (Vec<&Value>, Vec<&Value>) = (get(&old), get(&new));
            let (first_before, first_after) = (before.first().copied(), after.first().copied());
            match (before.len(), after.len()) {
                (0 | 1, 0 | 1) => self.below(step.clone(), list.elem, first_before, first_after),
                // Duplicates are one value as long as they last.
                (2.., 2..) => {
                    if before != after {
                        self.mark(step, |found| &mut found.modified);
                    }
                }
                (2.., _) => {
                    if first_after.is_some() {
                        self.below(step.clone(), list.elem, None, first_after);
                    }
                    self.mark(step, |found| &mut found.removed);
                }
                (_, 2..) => {
                    if first_before.is_some() {
                        self.below(step.clone(), list.elem, first_before, None);
                    }
                    self.mark(step, |found| &mut found.added);
                }
            }
        }
    }

    fn mark(&mut self, step: &Step, which: impl Fn(&mut Comparison) -> &mut FieldSet) {
        self.path.push(step.clone());
        which(&mut self.found).insert(&self.path);
        self.path.pop();
    }
}
