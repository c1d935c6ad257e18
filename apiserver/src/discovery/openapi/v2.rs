//! OpenAPI v2 (Swagger): everything in one document. For generators, Argo CD and kubectl up to 1.28.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::operations::{self, Operation};
use super::schemas::Definitions;
use crate::kinds::Kind;

/// The document of all kinds.
pub(in crate::discovery) fn document(kinds: &[Kind], version: &str) -> Value {
    let definitions = Definitions::read();
    let operations = operations::of(kinds, &definitions);
    let mut roots: BTreeSet<String> = BTreeSet::new();
    let mut paths = Map::new();
    for operation in &operations {
        roots.extend(operation.answer.clone());
        roots.extend(operation.body.as_ref().map(|b| b.schema.clone()));
        let item = paths.entry(operation.path.clone()).or_insert_with(|| path_item(operation));
        item[operation.method] = write(operation);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "definitions": definitions.closure(roots, |_, schema| schema.clone()),
        "securityDefinitions": {
            "BearerToken": {"type": "apiKey", "in": "header", "name": "authorization",
                "description": "Bearer Token authentication"},
        },
        "security": [{"BearerToken": []}],
    })
}

fn path_item(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation
        .place
        .iter()
        .map(|name| json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true}))
        .collect();
    parameters.push(json!({"name": "pretty", "in": "query", "type": "string", "uniqueItems": true}));
    json!({ "parameters": parameters })
}

fn write(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation
        .query
        .iter()
        .map(|p| {
            json!({"name": p.name, "in": "query", "description": p.description, "type": p.ty, "uniqueItems": true})
        })
        .collect();
    if let Some(body) = &operation.body {
        let mut parameter = json!({"name": "body", "in": "body", "schema": reference(&body.schema)});
        if operation.method != "delete" {
            parameter["required"] = true.into();
        }
        parameters.push(parameter);
    }
    let schema = operation.answer.as_ref().map_or_else(|| json!({"type": "string"}), |name| reference(name));
    let mut responses = Map::new();
    responses.insert("200".into(), json!({"description": "OK", "schema": schema}));
    if operation.creates {
        responses.insert("201".into(), json!({"description": "Created", "schema": schema}));
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    json!({
        "tags": [operation.tag()],
        "description": operation.description(),
        "operationId": operation.id,
        "consumes": operation.body.as_ref().map_or(&["*/*"][..], |b| b.media_types),
        "produces": if operation.answer.is_some() { ["application/json"] } else { ["*/*"] },
        "schemes": ["https"],
        "parameters": parameters,
        "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {
            "group": operation.gvk.group, "version": operation.gvk.version, "kind": operation.gvk.kind,
        },
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/definitions/{name}")})
}
