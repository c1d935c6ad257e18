//! A v2 document as gnostic's protobuf message `openapi.v2.Document`.
//!
//! Written by hand for the parts that our documents have. Field numbers are those of `OpenAPIv2.proto`; vendor
//! extensions carry YAML text, for which JSON will do.

use serde_json::{Map, Value};

/// Encodes the document.
pub(in crate::discovery) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    out.text(1, &document["swagger"]);
    out.message(2, |info| {
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
    });
    out.message(8, |paths| paths.named(2, &document["paths"], path_item));
    out.message(9, |definitions| definitions.named(1, &document["definitions"], schema));
    for requirement in list(&document["security"]) {
        out.message(12, |security| security.named(1, requirement, |array, scopes| array.texts(1, scopes)));
    }
    out.message(13, |security| {
        security.named(1, &document["securityDefinitions"], |item, definition| {
            item.message(2, |key| {
                key.text(1, &definition["type"]);
                key.text(2, &definition["name"]);
                key.text(3, &definition["in"]);
                key.text(4, &definition["description"]);
            });
        });
    });
    out.0
}

fn path_item(out: &mut Writer, item: &Value) {
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(found) = item.get(method) {
            out.message(number, |out| operation(out, found));
        }
    }
    for found in list(&item["parameters"]) {
        out.message(9, |out| parameter(out, found));
    }
}

fn operation(out: &mut Writer, operation: &Value) {
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    for found in list(&operation["parameters"]) {
        out.message(8, |out| parameter(out, found));
    }
    out.message(9, |responses| {
        responses.named(1, &operation["responses"], |value, response| {
            value.message(1, |out| {
                out.text(1, &response["description"]);
                if let Some(found) = response.get("schema") {
                    out.message(2, |item| item.message(1, |out| schema(out, found)));
                }
            });
        });
    });
    out.texts(10, &operation["schemes"]);
    extensions(out, 13, operation);
}

/// `ParametersItem { parameter: Parameter { body | non_body { query | path } } }`.
fn parameter(out: &mut Writer, parameter: &Value) {
    let place = parameter["in"].as_str().unwrap_or_default();
    out.message(1, |out| {
        if place == "body" {
            out.message(1, |body| {
                body.text(2, &parameter["name"]);
                body.text(3, &parameter["in"]);
                body.flag(4, &parameter["required"]);
                body.message(5, |out| schema(out, &parameter["schema"]));
            });
            return;
        }
        // Query and path parameters number their fields alike up to the name.
        let (variant, ty, unique) = if place == "path" { (4, 5, 19) } else { (3, 6, 20) };
        out.message(2, |out| {
            out.message(variant, |out| {
                out.flag(1, &parameter["required"]);
                out.text(2, &parameter["in"]);
                out.text(3, &parameter["description"]);
                out.text(4, &parameter["name"]);
                out.text(ty, &parameter["type"]);
                out.flag(unique, &parameter["uniqueItems"]);
            });
        });
    });
}

fn schema(out: &mut Writer, found: &Value) {
    out.text(1, &found["$ref"]);
    out.text(2, &found["format"]);
    out.text(4, &found["description"]);
    if let Some(default) = found.get("default") {
        out.message(5, |any| any.string(2, &default.to_string()));
    }
    out.texts(19, &found["required"]);
    if let Some(additional) = found.get("additionalProperties") {
        out.message(21, |item| item.message(1, |out| schema(out, additional)));
    }
    if let Some(ty) = found["type"].as_str() {
        out.message(22, |item| item.string(1, ty));
    }
    if let Some(items) = found.get("items") {
        out.message(23, |item| item.message(1, |out| schema(out, items)));
    }
    for part in list(&found["allOf"]) {
        out.message(24, |out| schema(out, part));
    }
    if found.get("properties").is_some() {
        out.message(25, |properties| properties.named(1, &found["properties"], schema));
    }
    extensions(out, 31, found);
}

fn extensions(out: &mut Writer, number: u32, found: &Value) {
    let Value::Object(map) = found else { return };
    let extensions: Map<String, Value> =
        map.iter().filter(|(key, _)| key.starts_with("x-")).map(|(k, v)| (k.clone(), v.clone())).collect();
    out.named(number, &Value::Object(extensions), |any, value| any.string(2, &value.to_string()));
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Protobuf, as much as it takes: length-delimited fields and booleans.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or_default());
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint((number as usize) << 3 | 2);
        self.varint(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn string(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    /// A string field, left out when there is nothing to say.
    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
            self.string(number, text);
        }
    }

    fn texts(&mut self, number: u32, values: &Value) {
        for text in list(values).iter().filter_map(Value::as_str) {
            self.string(number, text);
        }
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if value.as_bool() == Some(true) {
            self.varint((number as usize) << 3);
            self.0.push(1);
        }
    }

    fn message(&mut self, number: u32, write: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// A map, as gnostic has it: repeated `{1: name, 2: value}`.
    fn named(&mut self, number: u32, map: &Value, write: impl Fn(&mut Writer, &Value)) {
        for (name, value) in map.as_object().into_iter().flatten() {
            self.message(number, |entry| {
                entry.string(1, name);
                entry.message(2, |out| write(out, value));
            });
        }
    }
}
