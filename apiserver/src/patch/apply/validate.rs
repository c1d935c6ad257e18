//! What an applied configuration must be, beyond what reading it checks: only known fields, every item of a keyed
//! list with its key, and no item twice.

use std::collections::BTreeSet;

use serde_json::Value;

use super::set::Step;
use super::view::{self, KeyError, Shape, Ty};
use crate::schema::SchemaSet;

/// All errors in one text.
pub(super) fn check(set: &SchemaSet, ty: Ty, config: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    visit(set, ty, config, "", &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn visit(set: &SchemaSet, ty: Ty, value: &Value, path: &str, errors: &mut Vec<String>) {
    match view::shape(set, ty, Some(value)) {
        Shape::Leaf => {}
        Shape::Map(map) => {
            for (key, inner) in value.as_object().into_iter().flatten() {
                let path = format!("{path}.{key}");
                if map.is_closed() && !map.declares(key) {
                    errors.push(format!("{path}: field not declared in schema"));
                } else {
                    visit(set, map.member(key), inner, &path, errors);
                }
            }
        }
        Shape::List(list) => {
            let mut seen: BTreeSet<Step> = BTreeSet::new();
            for (i, item) in view::items(Some(value)).iter().enumerate() {
                match list.step(i, item) {
                    Ok(step) => {
                        visit(set, list.elem, item, &format!("{path}{step}"), errors);
                        if seen.contains(&step) {
                            errors.push(format!("{path}: duplicate entries for key {step}"));
                        }
                        seen.insert(step);
                    }
                    Err(KeyError::NotAnObject) => errors.push(format!(
                        "{path}: element {i}: associative list with keys may not have non-map elements"
                    )),
                    Err(KeyError::Missing(key)) => errors.push(format!(
                        "{path}: element {i}: associative list with keys has an element that omits key field \
                         {key:?} (and doesn't have default value)"
                    )),
                }
            }
        }
    }
}
