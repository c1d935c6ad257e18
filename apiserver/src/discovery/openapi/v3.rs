//! OpenAPI v3: one document per group version.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::operations::{self, Operation};
use super::schemas::Definitions;
use crate::kinds::Kind;

/// The document of a group version; `None` if it has no kinds.
pub(in crate::discovery) fn document(
    kinds: &[Kind],
    version: &str,
    group: &str,
    group_version: &str,
) -> Option<Value> {
    let kinds: Vec<Kind> =
        kinds.iter().filter(|k| k.gvk.group == group && k.gvk.version == group_version).copied().collect();
    if kinds.is_empty() {
        return None;
    }
    let definitions = Definitions::read();
    let operations = operations::of(&kinds, &definitions);
    let mut roots: BTreeSet<String> = BTreeSet::new();
    let mut paths = Map::new();
    for operation in &operations {
        roots.extend(operation.answer.clone());
        roots.extend(operation.body.as_ref().map(|b| b.schema.clone()));
        let item = paths.entry(operation.path.clone()).or_insert_with(|| path_item(operation));
        item[operation.method] = write(operation);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "components": {
            "schemas": definitions.closure(roots, convert),
            "securitySchemes": {
                "BearerToken": {"type": "apiKey", "in": "header", "name": "authorization",
                    "description": "Bearer Token authentication"},
            },
        },
    }))
}

fn path_item(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation
        .place
        .iter()
        .map(|name| {
            json!({"name": name, "in": "path", "required": true,
                "schema": {"type": "string", "uniqueItems": true}})
        })
        .collect();
    parameters
        .push(json!({"name": "pretty", "in": "query", "schema": {"type": "string", "uniqueItems": true}}));
    json!({ "parameters": parameters })
}

fn write(operation: &Operation) -> Value {
    let query: Vec<Value> = operation
        .query
        .iter()
        .map(|p| {
            json!({"name": p.name, "in": "query", "description": p.description,
                "schema": {"type": p.ty, "uniqueItems": true}})
        })
        .collect();
    let content = match &operation.answer {
        Some(name) => json!({"application/json": {"schema": reference(name)}}),
        None => json!({"*/*": {"schema": {"type": "string"}}}),
    };
    let mut responses = Map::new();
    responses.insert("200".into(), json!({"description": "OK", "content": content}));
    if operation.creates {
        responses.insert("201".into(), json!({"description": "Created", "content": content}));
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let mut written = json!({
        "tags": [operation.tag()],
        "description": operation.description(),
        "operationId": operation.id,
        "parameters": query,
        "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {
            "group": operation.gvk.group, "version": operation.gvk.version, "kind": operation.gvk.kind,
        },
    });
    if let Some(body) = &operation.body {
        let content: Map<String, Value> = body
            .media_types
            .iter()
            .map(|ty| ((*ty).to_owned(), json!({"schema": reference(&body.schema)})))
            .collect();
        written["requestBody"] = json!({"content": content});
        if operation.method != "delete" {
            written["requestBody"]["required"] = true.into();
        }
    }
    written
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A definition as upstream writes it in v3.
fn convert(name: &str, schema: &Value) -> Value {
    match name {
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => {
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
        }
        _ => rewrite(schema),
    }
}

/// References point elsewhere, and may not have siblings.
fn rewrite(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut written: Map<String, Value> = map
                .iter()
                .filter(|(key, value)| !(*key == "$ref" && value.is_string()))
                .map(|(key, value)| (key.clone(), rewrite(value)))
                .collect();
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                let target = reference(target.trim_start_matches("#/definitions/"));
                if written.is_empty() {
                    return target;
                }
                written.insert("allOf".into(), json!([target]));
            }
            Value::Object(written)
        }
        Value::Array(items) => items.iter().map(rewrite).collect(),
        other => other.clone(),
    }
}
