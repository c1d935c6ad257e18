//! Walking and filling JSON objects, for defaults and rules.

use serde_json::{Map, Value};

pub(super) type Fields = Map<String, Value>;

/// Items of a list; nothing for anything else.
pub(super) fn items<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Runs on every object of a list.
pub(super) fn each(object: &mut Fields, key: &str, mut f: impl FnMut(&mut Fields)) {
    let list = object.get_mut(key).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut).for_each(&mut f);
}

/// Runs on an object that may be there.
pub(super) fn with(object: &mut Fields, key: &str, f: impl FnOnce(&mut Fields)) {
    if let Some(Value::Object(child)) = object.get_mut(key) {
        f(child);
    }
}

/// Sets a key that is absent or null.
pub(super) fn or(object: &mut Fields, key: &str, value: impl Into<Value>) {
    crate::rest::object::or_insert(object, key, value);
}

/// Sets a key that is absent, null or the empty string: upstream's non-pointer strings.
pub(super) fn or_text(object: &mut Fields, key: &str, value: &str) {
    match object.get(key) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(_) => return,
    }
    object.insert(key.to_owned(), value.into());
}

/// Sets a key that is absent, null or zero: upstream's non-pointer numbers.
pub(super) fn or_number(object: &mut Fields, key: &str, value: i64) {
    if object.get(key).and_then(Value::as_i64).unwrap_or(0) == 0 {
        object.insert(key.to_owned(), value.into());
    }
}

/// A string field; empty when absent.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}
